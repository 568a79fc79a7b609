//! What an answer holds: errors inside a success, empty answers, JSON in place of a stream,
//! compressed errors. No answer with content is thrown away.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use common::{Act, Alvus, Client, PATIENCE, SSE_HEAD, Upstream, answer, chunk, gate};

const JSON: &str = "Content-Type: application/json\r\n";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
const GOOD: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}]}"#;
const BUSY: &str = r#"{"error":{"message":"Provider returned error","code":502}}"#;
const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
const WORD: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A request with this body.
fn post(path: &str, body: &str, fields: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn chat(model: &str, stream: bool) -> String {
    let body = format!(r#"{{"model":"{model}","stream":{stream}}}"#);
    post("/v1/chat/completions", &body, "")
}

/// A body in chunks, ended or not.
fn chunks(head: &str, pieces: &[&str], ends: bool) -> Act {
    let body: String = pieces.iter().map(|piece| chunk(piece)).collect();
    let text = format!("{head}{body}{}", if ends { "0\r\n\r\n" } else { "" });
    match ends {
        true => Act::Say(text.into_bytes()),
        false => Act::SayAndClose(text.into_bytes()),
    }
}

fn stream(events: &[&str]) -> Act {
    chunks(SSE_HEAD, events, true)
}

/// Asks once: the status, whether the answer is whole, its text.
fn ask(alvus: &Alvus, request: &str) -> (u16, bool, String) {
    let mut client = alvus.connect();
    client.send(request);
    let head = client.head();
    if head.field("transfer-encoding").is_none() {
        let length = head.field("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        client.read_exact(&mut body);
        return (head.status, true, String::from_utf8(body).unwrap());
    }
    let mut text = Vec::new();
    loop {
        match client.chunk() {
            Ok(Some(data)) => text.extend(data),
            end => return (head.status, end.is_ok(), String::from_utf8(text).unwrap()),
        }
    }
}

/// What a client gets of a first answer, with a good one in store; and how many were needed.
fn first(act: Act, request: &str) -> (u16, String, usize) {
    let good = match request.contains("\"stream\":true") {
        true => stream(&[WORD, STOP, DONE]),
        false => answer(200, JSON, GOOD),
    };
    let upstream = Upstream::scripted(vec![act, good]);
    let alvus = Alvus::before(&upstream);
    let (status, whole, text) = ask(&alvus, request);
    assert!(whole, "{text}");
    let asked = upstream.seen().len();
    if asked == 1 {
        ask(&alvus, request); // the script is to be used up
    }
    (status, text, asked)
}

// ---- an error inside a 200 --------------------------------------------------------------------------

#[test]
fn an_error_inside_a_document_is_asked_again_however_it_comes() {
    for act in [
        answer(200, JSON, BUSY),
        answer(200, "Content-Type: application/problem+json\r\n", BUSY),
        chunks(CHUNKED, &[BUSY], true),
        chunks(CHUNKED, &["\n    ", "\n    ", BUSY], true),
        chunks(CHUNKED, &["{\"er", "ror\":{\"code\":50", "2}}"], true),
        chunks(CHUNKED, &["[{\"error\":{\"code\":503}}]"], true),
        chunks(CHUNKED, &[r#"{"choices":[],"error":{"code":503}}"#], true),
    ] {
        let (status, text, asked) = first(act, &chat("m", false));
        assert_eq!((status, text.as_str(), asked), (200, GOOD, 2));
    }
}

#[test]
fn an_error_is_found_in_the_first_event_that_tells_anything() {
    let error = format!("data: {BUSY}\n\n");
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"},\"output\":[]}}\n\n";
    for events in [
        &[error.as_str()][..],
        &[": PROCESSING\n\n", ROLE, "data: {}\n\n", &error],
        &[
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            "data: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\n",
            &error,
        ],
        &[
            "data: {\"type\":\"response.created\",\"response\":{\"output\":[]}}\n\n",
            failed,
        ],
        &["data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n"],
        &[error.trim_end()], // its end is missing
        &[BUSY],             // no event at all
    ] {
        let (status, text, asked) = first(stream(events), &chat("m", true));
        assert_eq!((status, asked), (200, 2), "{events:?}");
        assert_eq!(text, format!("{WORD}{STOP}{DONE}"));
    }
    // A document in place of the stream.
    let (_, text, asked) = first(answer(200, JSON, BUSY), &chat("m", true));
    assert_eq!((text, asked), (format!("{WORD}{STOP}{DONE}"), 2));
}

#[test]
fn an_answer_with_content_is_never_thrown_away() {
    let beside =
        r#"{"error":{"code":502,"message":"late"},"choices":[{"message":{"content":"half"}}]}"#;
    let quoting =
        r#"{"choices":[{"message":{"content":"{\"error\":{\"code\":429}}"}}],"error":null}"#;
    let tools = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"function":{"arguments":"{\"error\":{\"code\":429}}"}}]}}],"error":{"message":"","code":null}}"#;
    for json in [
        beside,
        quoting,
        tools,
        GOOD,
        r#"{"data":[],"object":"list"}"#,
        "{}",
    ] {
        for act in [
            answer(200, JSON, json),
            chunks(CHUNKED, &[json], true),
            chunks(CHUNKED, &[&json[..1], &json[1..]], true),
        ] {
            let (status, text, asked) = first(act, &chat("m", false));
            assert_eq!((status, text.as_str(), asked), (200, json, 1));
        }
    }
    let error = format!("data: {BUSY}\n\n");
    let events = [ROLE, WORD, &error];
    let (_, text, asked) = first(stream(&events), &chat("m", true));
    assert_eq!((text, asked), (events.concat(), 1));
}

#[test]
fn blanks_before_an_answer_are_no_reason_to_ask_again() {
    let (_, text, asked) = first(
        chunks(CHUNKED, &["\n   ", "\n", GOOD], true),
        &chat("m", false),
    );
    assert_eq!((text.trim_start(), asked), (GOOD, 1));
}

#[test]
fn a_stored_object_that_tells_of_its_own_failure_is_what_was_asked_for() {
    let failed = r#"{"id":"resp_1","status":"failed","error":{"code":429,"message":"slow down"},"output":[]}"#;
    let get = "GET /v1/responses/resp_1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let (status, text, asked) = first(answer(200, JSON, failed), get);
    assert_eq!((status, text.as_str(), asked), (200, failed, 1));
}

#[test]
fn the_first_word_is_not_held_back_for_the_second() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().take().expect("asked once");
        Act::Do(Box::new(move |to| {
            let _ = write!(to, "{SSE_HEAD}{}{}", chunk(ROLE), chunk(WORD));
            gone.recv_timeout(PATIENCE).expect("the test's word");
            let _ = write!(to, "{}0\r\n\r\n", chunk(STOP));
        }))
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(chat("m", true));
    client.head();
    let mut text = String::new();
    while !text.ends_with(WORD) {
        text += &String::from_utf8(client.chunk().unwrap().unwrap()).unwrap();
    }
    assert_eq!(text, format!("{ROLE}{WORD}"));
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap().unwrap(), STOP.as_bytes());
}

/// Says a piece, and after a second and a half the rest of its answer.
fn slowly(begin: String, rest: String) -> Upstream {
    let begin = Mutex::new(Some((begin, rest)));
    Upstream::new(move |_| {
        let (begin, rest) = begin.lock().unwrap().take().expect("asked once");
        Act::Do(Box::new(move |to| {
            let _ = to.write_all(begin.as_bytes());
            std::thread::sleep(Duration::from_millis(1500));
            let _ = to.write_all(rest.as_bytes());
        }))
    })
}

#[test]
fn a_stream_that_has_begun_may_think_for_longer_than_the_first_byte_may_take() {
    let upstream = slowly(
        format!("{SSE_HEAD}{}", chunk(ROLE)),
        format!("{}{}0\r\n\r\n", chunk(WORD), chunk(STOP)),
    );
    let alvus = Alvus::before_with(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
    let (status, whole, text) = ask(&alvus, &chat("m", true));
    assert_eq!((status, whole), (200, true));
    assert_eq!(text, format!("{ROLE}{WORD}{STOP}"));
}

#[test]
fn words_that_come_long_after_their_head_arrive_whole() {
    let error = r#"{"error":{"message":"no such parameter"}}"#;
    for (status, body) in [("200 OK", GOOD), ("400 Bad Request", error)] {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{JSON}Content-Length: {length}\r\n\r\n");
        let upstream = slowly(head, body.into());
        let (_, whole, text) = ask(&Alvus::before(&upstream), &chat("m", false));
        assert_eq!((whole, text.as_str()), (true, body), "{status}");
    }
}

// ---- nothing at all ---------------------------------------------------------------------------------

#[test]
fn an_empty_answer_is_asked_for_again() {
    for (act, streams) in [
        (answer(200, JSON, ""), false),
        (answer(200, JSON, " \n "), false),
        (chunks(CHUNKED, &[], true), false),
        (chunks(CHUNKED, &["\n", "   \n"], true), false),
        (answer(200, JSON, r#"{"id":"c","choices":[]}"#), false),
        (
            chunks(CHUNKED, &[r#"{"choices":[],"usage":{}}"#], true),
            false,
        ),
        (stream(&[]), true),
        (stream(&[DONE]), true),
        (stream(&[": x\n\n", DONE]), true),
        (stream(&[ROLE, DONE]), true),
        (stream(&[ROLE]), true),
        (chunks(SSE_HEAD, &[ROLE], false), true),
    ] {
        let (status, _, asked) = first(act, &chat("m", streams));
        assert_eq!((status, asked), (200, 2));
    }
}

#[test]
fn a_client_is_told_if_every_answer_is_empty() {
    let upstream = Upstream::new(|_| stream(&[DONE]));
    let alvus = Alvus::before_with(&upstream, &[("MAX_RETRIES", "1")]);
    let (status, _, text) = ask(&alvus, &chat("m", true));
    assert_eq!(status, 502, "{text}");
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn an_answer_that_ends_without_content_by_itself_passes() {
    let cut = STOP.trim_end(); // within the last event, behind its data
    for silent in [&[ROLE, STOP, DONE][..], &[ROLE, cut]] {
        let (_, text, asked) = first(stream(silent), &chat("m", true));
        assert_eq!((text, asked), (silent.concat(), 1));
    }
    let (status, _, asked) = first(answer(200, "", ""), &chat("m", false));
    assert_eq!(
        (status, asked),
        (200, 1),
        "it did not say that there was anything"
    );
}

// ---- a stream's end ---------------------------------------------------------------------------------

#[test]
fn a_stream_is_whole_or_not_by_its_own_events() {
    let large = STOP.replace(
        "\"delta\"",
        &format!("\"signature\":\"{}\",\"delta\"", "A".repeat(3000)),
    );
    let early = STOP
        .replace("\"finish_reason\":\"stop\"", "\"x\":1")
        .replace(
            "\"delta\"",
            &format!(
                "\"finish_reason\":\"stop\",\"s\":\"{}\",\"delta\"",
                "A".repeat(3000)
            ),
        );
    let start = "data: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\n";
    let text = "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"hi\"}}\n\n";
    let stop = "data: {\"type\":\"message_stop\"}\n\n";
    let bare = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    for (events, whole) in [
        (&[WORD, STOP][..], true),
        (&[WORD, &large], true),
        (&[WORD, &early], true),
        (&[WORD, DONE], true),
        (&[start, text, stop], true),
        (&[bare], true), // who knows
        (&[WORD], false),
        (&[STOP, WORD], false),
        (&[start, text], false),
        (&[bare, "data: {\"choices\":[{\"del"], false),
    ] {
        let upstream = Upstream::scripted(vec![stream(events)]);
        let (_, found, text) = ask(&Alvus::before(&upstream), &chat("m", true));
        assert_eq!(found, whole, "{events:?}");
        assert_eq!(text.contains("stream_truncated"), !whole);
        assert!(text.starts_with(&events.concat()));
    }
}

#[test]
fn streams_of_one_model_say_nothing_about_anothers() {
    let bare = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let upstream = Upstream::scripted(vec![
        stream(&[bare, DONE]),
        stream(&[bare]),
        stream(&[bare]),
    ]);
    let alvus = Alvus::before(&upstream);
    assert!(ask(&alvus, &chat("one", true)).1);
    assert!(ask(&alvus, &chat("another", true)).1, "it may never say so");
    assert!(!ask(&alvus, &chat("one", true)).1, "it said so before");
}

// ---- JSON in place of a stream ----------------------------------------------------------------------

/// Answers with this when it has thought for longer than a heartbeat takes.
fn after_a_heartbeat(head: &'static str, json: String, cut: bool) -> Upstream {
    let (head, json) = (head.to_string(), json);
    let text = format!(
        "{head}{}{}",
        chunk(&json),
        if cut { "" } else { "0\r\n\r\n" }
    );
    slowly(String::new(), text)
}

/// What came after the heartbeats.
fn after_comments(client: &mut Client) -> (bool, String) {
    let mut text = String::new();
    loop {
        match client.chunk() {
            Ok(Some(data)) => text += std::str::from_utf8(&data).unwrap(),
            end => {
                let at = text.find("data: ").unwrap_or(text.len());
                assert!(text[..at].starts_with(": "), "no heartbeat: {text}");
                return (end.is_ok(), text.split_off(at));
            }
        }
    }
}

#[test]
fn json_in_place_of_a_stream_reaches_the_client_as_an_event() {
    let long = "word ".repeat(40_000);
    let message = r#""message":{"role":"assistant","content":"CONTENT","tool_calls":[{"id":"a"}]}"#;
    let json = format!("{{\n \"object\": \"chat.completion\", \"choices\": [{{{message}}}]\n}}\n");
    let json = json.replace("CONTENT", &long);
    let upstream = after_a_heartbeat(CHUNKED, json, false);
    let alvus = Alvus::before_with(&upstream, &[("HEARTBEAT_SEC", "1")]);
    let mut client = alvus.connect();
    client.send(chat("m", true));
    assert_eq!(
        client.head().field("content-type"),
        Some("text/event-stream")
    );
    let (whole, text) = after_comments(&mut client);
    let event = text.strip_suffix(&format!("\n\n{DONE}")).unwrap();
    let event = event.strip_prefix("data: ").unwrap();
    assert!(whole && !event.contains('\n'));
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["object"], "chat.completion.chunk");
    let delta = &event["choices"][0]["delta"];
    assert_eq!(delta["content"].as_str(), Some(long.as_str()));
    assert_eq!(delta["tool_calls"][0]["index"], 0);
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn json_in_place_of_a_stream_that_breaks_off_does_not_look_whole() {
    let upstream = after_a_heartbeat(CHUNKED, GOOD[..GOOD.len() - 9].into(), true);
    let alvus = Alvus::before_with(&upstream, &[("HEARTBEAT_SEC", "1")]);
    let mut client = alvus.connect();
    client.send(chat("m", true));
    client.head();
    let (whole, text) = after_comments(&mut client);
    assert!(!whole && !text.contains("[DONE]"), "{text}");
    assert!(text.contains("stream_truncated"), "{text}");
}

#[test]
fn json_in_place_of_a_stream_that_has_not_begun_passes_as_it_is() {
    let (status, text, asked) = first(answer(200, JSON, GOOD), &chat("m", true));
    assert_eq!((status, text.as_str(), asked), (200, GOOD, 1));
}

// ---- what came compressed ---------------------------------------------------------------------------

/// gzip with the words as they are (a stored block, RFC 1951 §3.2.4).
fn gzip(words: &str) -> Vec<u8> {
    let length = u16::try_from(words.len()).unwrap();
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01".to_vec();
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(words.bytes());
    out.extend([0; 8]);
    out
}

fn zipped(status: &str, body: &[u8]) -> Act {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{JSON}Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n"
    );
    Act::Say([head.as_bytes(), body].concat())
}

#[test]
fn an_error_that_came_compressed_is_judged_by_its_words() {
    let bad_key = gzip(
        r#"[{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
    );
    let upstream = Upstream::new(move |seen| match seen.key_index() {
        0 => zipped("400 Bad Request", &bad_key),
        _ => answer(200, JSON, GOOD),
    });
    let alvus = Alvus::before(&upstream);
    for _ in 0..3 {
        assert_eq!(ask(&alvus, &chat("m", false)).0, 200);
    }
    let (_, _, asked) = first(zipped("200 OK", &gzip(BUSY)), &chat("m", false));
    assert_eq!(asked, 2);
}

#[test]
fn an_error_that_came_compressed_passes_as_it_came() {
    let body = gzip(r#"{"error":{"code":400,"message":"no such parameter"}}"#);
    let sent = body.clone();
    let upstream = Upstream::scripted(vec![zipped("400 Bad Request", &sent)]);
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(chat("m", false));
    let response = client.response();
    assert_eq!(response.status, 400);
    assert_eq!(response.field("content-encoding"), Some("gzip"));
    assert!(response.body == body);
}

#[test]
fn answers_to_a_post_are_asked_for_uncompressed_and_downloads_as_the_client_likes() {
    let upstream = Upstream::new(|_| answer(200, JSON, GOOD));
    let alvus = Alvus::before(&upstream);
    let codings = "Accept-Encoding: gzip, br\r\n";
    for request in [
        post("/v1/chat/completions", r#"{"model":"m"}"#, codings),
        format!("GET /v1/files/1/content HTTP/1.1\r\nHost: a\r\n{codings}\r\n"),
    ] {
        let mut client = alvus.connect();
        client.send(request);
        assert_eq!(client.response().status, 200);
    }
    let seen = upstream.seen();
    assert_eq!(seen[0].all("accept-encoding"), [b"identity"]);
    assert_eq!(seen[1].all("accept-encoding"), [b"gzip, br"]);
}
