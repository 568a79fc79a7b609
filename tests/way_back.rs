//! What an upstream's answer may not do to a client: show it a key, use our field names, change the protocol, leave its
//! end open.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::io::Write;

use common::{Act, Alvus, CHAT, Client, KEYS, Response, SSE_HEAD, Seen, Upstream, answer, chunk};

/// What the client gets of an answer with these bytes.
fn sent_back(bytes: &str) -> Response {
    let bytes = bytes.as_bytes().to_vec();
    let upstream = Upstream::new(move |_| Act::SayAndClose(bytes.clone()));
    Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "0")]).ask()
}

/// The same of an answer whose body repeats the key.
fn quoting(fields: &'static str, status: u16, around: &'static str) -> (Response, String) {
    let upstream = Upstream::new(move |seen: &Seen| {
        let key = seen.key.as_deref().unwrap();
        answer(status, fields, &around.replace("KEY", key))
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "0")]);
    let response = alvus.ask();
    let key = upstream.seen().last().unwrap().key.clone().unwrap();
    (response, key)
}

fn stars(key: &str) -> String {
    "*".repeat(key.len() - 4) + &key[key.len() - 4..]
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_key_that_an_answer_repeats_is_masked_to_its_last_four_characters() {
    for (fields, status, around) in [
        (
            JSON,
            400,
            "{\"error\":{\"message\":\"no access for KEY.\"}}",
        ),
        (
            JSON,
            200,
            "{\"headers\":{\"Authorization\":\"Bearer KEY\"},\"again\":\"KEY\"}",
        ),
        ("Content-Type: text/plain\r\n", 404, "KEY"),
        ("", 200, "who knows what this is: KEY"),
        (
            "Content-Type: text/html\r\nContent-Encoding: identity\r\n",
            422,
            "<b>KEY</b>",
        ),
    ] {
        let (response, key) = quoting(fields, status, around);
        assert_eq!(response.status, status);
        assert_eq!(response.text(), around.replace("KEY", &stars(&key)));
        let length = response.field("content-length").unwrap().parse();
        assert_eq!(length, Ok(response.body.len()));
    }
}

#[test]
fn a_key_in_a_refusal_that_was_kept_is_masked_too() {
    // Three keys are refused, and what passes is an answer that was kept while others were tried.
    let around = "{\"error\":{\"message\":\"KEY may not\"}}";
    let (response, _) = quoting(JSON, 403, around);
    assert_eq!(response.status, 403);
    for key in KEYS {
        assert!(
            !response.text().contains(&key[..key.len() - 4]),
            "{}",
            response.text()
        );
    }
}

#[test]
fn a_key_in_a_refusal_that_others_are_told_of_is_masked_too() {
    let upstream = Upstream::new(|seen: &Seen| {
        let key = seen.key.as_deref().unwrap();
        answer(
            401,
            JSON,
            &format!("{{\"error\":{{\"message\":\"bad key {key}\"}}}}"),
        )
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "0")]);
    // With all keys refused, the last refusal is what the next ones hear.
    for _ in 0..5 {
        let response = alvus.ask();
        for key in KEYS {
            assert!(!response.text().contains(key), "{}", response.text());
        }
    }
}

#[test]
fn a_key_in_an_answer_of_unknown_length_is_masked_however_it_is_cut() {
    for (status, size) in [(400, 100), (200, 100), (400, 1), (200, 7)] {
        let upstream = Upstream::new(move |seen: &Seen| {
            let text = format!("no: {}.", seen.key.as_deref().unwrap());
            let pieces = text.as_bytes().chunks(size);
            let pieces: Vec<String> = pieces
                .map(|piece| chunk(std::str::from_utf8(piece).unwrap()))
                .collect();
            let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n{JSON}\r\n");
            Act::Do(Box::new(move |stream| {
                stream.write_all(head.as_bytes()).unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).unwrap();
                }
                stream.write_all(chunk("").as_bytes()).unwrap();
            }))
        });
        let response = Alvus::before(&upstream).ask();
        let key = upstream.seen()[0].key.clone().unwrap();
        let expected = format!("no: {}.", stars(&key));
        assert_eq!(
            (response.status, response.text()),
            (status, expected.as_str())
        );
        assert!(response.whole);
    }
}

#[test]
fn compressed_answers_large_ones_and_streams_are_not_touched() {
    let large = "x".repeat(64 * 1024) + "KEY";
    let large: &'static str = Box::leak(large.into_boxed_str());
    for (fields, around) in [
        (
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            "KEY",
        ),
        ("Content-Type: audio/mpeg\r\n", "KEY"),
        (JSON, large),
    ] {
        let (response, key) = quoting(fields, 200, around);
        assert!(response.text() == around.replace("KEY", &key), "{fields}");
    }
}

#[test]
fn a_small_answer_that_breaks_off_is_cut_for_the_client_too() {
    let response = sent_back(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"half\":",
    );
    assert_eq!(
        (response.status, response.text(), response.whole),
        (200, "{\"half\":", false)
    );
}

#[test]
fn nobody_but_us_says_what_alvus_did() {
    let response = sent_back(
        "HTTP/1.1 200 OK\r\nX-Alvus-Key: 77\r\nx-alvus-waited-ms: 99\r\nx-alvus-invented: 1\r\nX-Other: 1\r\nContent-Length: 2\r\n\r\n{}",
    );
    let ours = response
        .fields
        .iter()
        .filter(|(name, _)| name.starts_with("x-alvus-"));
    let ours: Vec<&str> = ours.map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        ours,
        ["x-alvus-key", "x-alvus-attempts", "x-alvus-waited-ms"]
    );
    assert_eq!(response.field("x-alvus-waited-ms"), Some("0"));
    assert!(response.field("x-other").is_some());
}

#[test]
fn a_change_of_protocol_that_nobody_asked_for_is_a_bad_gateway() {
    let response = sent_back(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nrest",
    );
    assert_eq!(response.status, 502);
    assert!(response.text().contains("101"), "{}", response.text());
}

#[test]
fn a_transfer_encoding_that_nobody_reads_is_a_bad_gateway_in_words() {
    for (version, coding) in [
        ("1.1", "gzip, chunked"),
        ("1.1", "chunked, gzip"),
        ("1.1", "gzip"),
        ("1.1", "chunked\r\nTransfer-Encoding: chunked"),
        ("1.1", "xchunked"),
        ("1.0", "chunked"),
    ] {
        let response = sent_back(&format!(
            "HTTP/{version} 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
        ));
        assert_eq!(response.status, 502, "{version} {coding}");
        assert!(
            response.text().contains("Transfer-Encoding"),
            "{}",
            response.text()
        );
    }
    let fine =
        sent_back("HTTP/1.1 200 OK\r\nTransfer-Encoding:  Chunked \r\n\r\n2\r\n{}\r\n0\r\n\r\n");
    assert_eq!((fine.status, fine.text()), (200, "{}"));
}

#[test]
fn a_head_gets_no_byte_of_a_body_whatever_the_upstream_does() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: body\n\n",
        "HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\nbody",
    ] {
        let answer = bytes.as_bytes().to_vec();
        let upstream = Upstream::new(move |_| Act::SayAndClose(answer.clone()));
        let alvus = Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "0")]);
        let mut client = alvus.connect();
        client.send("HEAD /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.head();
        assert!(client.ended(), "a byte followed the head of {bytes:?}");
    }
}

#[test]
fn a_head_that_asks_for_a_stream_gets_no_heartbeat() {
    let (open, gate) = common::gate();
    let gate = std::sync::Mutex::new(Some(gate));
    let upstream = Upstream::new(move |_| {
        let gate = gate.lock().unwrap().take().unwrap();
        Act::Do(Box::new(move |stream| {
            let _ = gate.recv();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("HEARTBEAT_SEC", "1")]);
    let mut client = alvus.connect();
    let body = "{\"model\":\"m\",\"stream\":true}";
    client.send(format!(
        "HEAD /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    upstream.wait_for(1);
    // For the beat that must not come there is nothing to wait for.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    open.send(()).unwrap();
    assert_eq!(
        client.head().field("content-type"),
        None,
        "not the head of a stream"
    );
    assert!(client.ended());
}

#[test]
fn proxies_are_told_to_pass_a_stream_on_as_it_comes() {
    let event = chunk("data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n");
    for theirs in ["", "X-Accel-Buffering: yes\r\n"] {
        let head = SSE_HEAD.replace("Transfer", &format!("{theirs}Transfer"));
        let bytes = format!("{head}{event}{}", chunk(""));
        let response = sent_back(&bytes);
        let told: Vec<_> = response
            .fields
            .iter()
            .filter(|(n, _)| n == "x-accel-buffering")
            .collect();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].1, b"no");
    }
    let plain =
        sent_back("HTTP/1.1 200 OK\r\nX-Accel-Buffering: yes\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(
        plain.field("x-accel-buffering"),
        Some("yes"),
        "no stream, not ours to say"
    );
}

#[test]
fn a_stream_that_begins_with_a_heartbeat_says_so_too() {
    let (open, gate) = common::gate();
    let gate = std::sync::Mutex::new(Some(gate));
    let upstream = Upstream::new(move |_| {
        let gate = gate.lock().unwrap().take().unwrap();
        Act::Do(Box::new(move |stream| {
            let _ = gate.recv();
            let bytes = format!("{SSE_HEAD}{}{}", chunk("data: [DONE]\n\n"), chunk(""));
            let _ = stream.write_all(bytes.as_bytes());
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("HEARTBEAT_SEC", "1")]);
    let mut client: Client = alvus.connect();
    let body = "{\"model\":\"m\",\"stream\":true}";
    let head = CHAT.split("Content-Length").next().unwrap();
    client.send(format!(
        "{head}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(client.head().field("x-accel-buffering"), Some("no"));
    open.send(()).unwrap();
}
