//! OpenAI's Responses dialect on an upstream that speaks chat completions, and on one that speaks it: real
//! sockets, the real binary.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "responses")]

mod common;
#[path = "../src/dialect/responses/tests/strict.rs"]
mod strict;

use std::io::Write;

use common::chat::{JSON, delta, holds_nothing_of_the_clients, refused, says, streamed};
use common::{Act, Alvus, Response, SSE_HEAD, Upstream, answer, chunk, eventually};
use serde_json::{Value, json};

const TRANSLATE: (&str, &str) = ("RESPONSES", "translate");
const PASS: (&str, &str) = ("RESPONSES", "pass");

fn post(alvus: &Alvus, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let mut client = alvus.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-the-clients-own\r\n\
         originator: codex_exec\r\nsession-id: 7\r\nx-codex-turn-metadata: x\r\nUser-Agent: codex_exec/0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.response()
}

fn hello(more: Value) -> Value {
    let mut body = json!({"model": "codex-x", "store": false, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}]});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

fn ask(alvus: &Alvus) -> Response {
    post(alvus, "/v1/responses", &hello(json!({})))
}

fn stream(alvus: &Alvus) -> Response {
    post(alvus, "/v1/responses", &hello(json!({"stream": true})))
}

/// A stream of the dialect itself.
fn native(events: &[Value]) -> Act {
    let events: String = events
        .iter()
        .map(|data| {
            chunk(&format!(
                "event: {}\ndata: {data}\n\n",
                data["type"].as_str().unwrap()
            ))
        })
        .collect();
    Act::Say((SSE_HEAD.to_string() + &events + "0\r\n\r\n").into_bytes())
}

fn created(instructions: &str) -> Value {
    json!({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_up", "status": "in_progress",
        "instructions": instructions, "error": null, "output": [], "reasoning": {"summary": "auto"}, "text": {"format": {"type": "text"}}}})
}

fn completed() -> Value {
    json!({"type": "response.completed", "sequence_number": 3, "response": {"id": "resp_up", "status": "completed",
        "output": [{"type": "message", "id": "m", "content": [{"type": "output_text", "text": "native"}]}]}})
}

fn failed(code: &str) -> Value {
    json!({"type": "response.failed", "sequence_number": 1, "response": {"id": "resp_up", "status": "failed",
        "instructions": "x", "output": [], "error": {"code": code, "message": "Rate limit reached"}}})
}

/// The response that a stream makes for a strict client, and whether it was told to its end.
fn made(response: &Response) -> (Value, bool) {
    strict::accumulate(&response.body)
        .unwrap_or_else(|fault| panic!("{fault}: {}", response.text()))
}

fn names(response: &Response) -> Vec<&str> {
    let lines = response.text().lines();
    lines
        .filter_map(|line| line.strip_prefix("event: "))
        .collect()
}

/// An error: its status, code and message, and whether it says when to come back.
fn error(response: &Response) -> (u16, String, String, bool) {
    let error = response.json()["error"].clone();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_string();
    (
        response.status,
        text("code"),
        text("message"),
        response.field("retry-after").is_some(),
    )
}

#[test]
fn a_response_is_asked_as_a_chat_completion_and_answered_as_a_response() {
    let upstream = Upstream::scripted(vec![says("hi \"you\" ✓")]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = ask(&alvus);
    assert_eq!(response.status, 200, "{}", response.text());
    let found = response.json();
    assert_eq!(found["output"][0]["content"][0]["text"], "hi \"you\" ✓");
    assert_eq!(
        (&found["object"], &found["model"], &found["status"]),
        (&json!("response"), &json!("codex-x"), &json!("completed"))
    );
    assert_eq!(found["usage"]["total_tokens"], 24);
    assert_eq!(response.field("x-alvus-attempts"), Some("1"));
    let seen = &upstream.seen()[0];
    holds_nothing_of_the_clients(seen);
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(
        body,
        json!({"model": "codex-x", "messages": [{"role": "user", "content": "hello"}]})
    );
}

#[test]
fn a_stream_of_a_completion_becomes_a_stream_of_a_response() {
    let words = [
        json!({"role": "assistant", "content": ""}),
        json!({"reasoning_content": "hm"}),
        json!({"content": "hi"}),
    ];
    let upstream = Upstream::scripted(vec![streamed(&words, "stop")]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = stream(&alvus);
    assert_eq!(
        response.field("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert!(response.whole);
    let (found, over) = made(&response);
    assert!(over);
    assert_eq!(found["output"][0]["summary"][0]["text"], "hm");
    assert_eq!(found["output"][1]["content"][0]["text"], "hi");
    assert_eq!(found["usage"]["input_tokens"], 21);
    let body: Value = serde_json::from_slice(&upstream.seen()[0].body).unwrap();
    assert_eq!(body["stream_options"]["include_usage"], true);
}

#[test]
fn freeform_and_namespaced_tools_and_their_outputs_come_and_go() {
    let calls = [
        json!({"tool_calls": [{"index": 0, "id": "call_0", "function": {"name": "apply_patch", "arguments": "{\"input\":"}}]}),
        json!({"tool_calls": [{"index": 0, "function": {"arguments": "\"*** Begin\\n\"}"}}]}),
        json!({"tool_calls": [{"index": 1, "id": "call_1", "function": {"name": "agents__spawn", "arguments": "{}"}}]}),
    ];
    let upstream = Upstream::scripted(vec![streamed(&calls, "tool_calls"), says("done")]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let tools = json!([{"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start"}},
        {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}, {"type": "web_search"}]);
    let response = post(
        &alvus,
        "/v1/responses",
        &hello(json!({"stream": true, "tools": tools})),
    );
    let (found, _) = made(&response);
    let items = found["output"].as_array().unwrap();
    assert_eq!(
        (&items[0]["type"], &items[0]["input"]),
        (&json!("custom_tool_call"), &json!("*** Begin\n"))
    );
    assert_eq!(
        (&items[1]["namespace"], &items[1]["name"]),
        (&json!("agents"), &json!("spawn"))
    );

    let mut input = vec![json!({"role": "user", "content": "go"})];
    input.extend(items.iter().cloned());
    input.push(json!({"type": "function_call_output", "call_id": items[1]["call_id"], "output": "spawned"}));
    input.push(json!({"type": "custom_tool_call_output", "call_id": items[0]["call_id"], "output": "patched"}));
    let response = post(
        &alvus,
        "/v1/responses",
        &hello(json!({"input": input, "tools": tools})),
    );
    assert_eq!(response.json()["output"][0]["content"][0]["text"], "done");
    let body: Value = serde_json::from_slice(&upstream.seen()[1].body).unwrap();
    assert_eq!(body["tools"][1]["function"]["name"], "agents__spawn");
    assert_eq!(
        body["messages"][2],
        json!({"role": "tool", "tool_call_id": "call_0", "content": "patched"})
    );
}

#[test]
fn limited_and_dead_keys_are_not_seen() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "", r#"{"status":429,"title":"Too Many Requests"}"#),
        1 => refused(401, "invalid api key"),
        _ => streamed(&[json!({"content": "hi"})], "stop"),
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    for _ in 0..4 {
        assert!(made(&stream(&alvus)).1);
    }
    assert_eq!(alvus.states(), ["cooling", "ejected", "ready"]);
}

#[test]
fn a_waiting_client_sees_a_response_begin_and_a_late_refusal_is_a_limit() {
    let busy = Upstream::new(|_| refused(503, "the model is overloaded"));
    let waits = [
        ("HEARTBEAT_SEC", "1"),
        ("MAX_WAIT_SEC", "2"),
        ("MAX_RETRIES", "1000"),
    ];
    for mode in [TRANSLATE, PASS] {
        let alvus = Alvus::before_with(&busy, &[&waits[..], &[mode]].concat());
        let response = stream(&alvus);
        assert_eq!((response.status, response.whole), (200, true));
        let names = names(&response);
        assert_eq!(
            names[..2],
            ["response.created", "response.in_progress"],
            "{mode:?}"
        );
        assert_eq!(names.last().unwrap(), &"response.failed");
        let last = response
            .text()
            .lines()
            .rfind(|line| line.starts_with("data: "))
            .unwrap();
        let last: Value = serde_json::from_str(&last[6..]).unwrap();
        assert_eq!(last["response"]["error"]["code"], "rate_limit_exceeded");
        // Whose response is stored goes by its own id, and hears comments. (Another alvus: this one leaves the model alone.)
        let alvus = Alvus::before_with(&busy, &[&waits[..], &[mode]].concat());
        let stored = post(
            &alvus,
            "/v1/responses",
            &hello(json!({"stream": true, "store": true})),
        );
        assert_eq!(
            stored.text().starts_with(": alvus"),
            mode == PASS,
            "{mode:?}"
        );
        assert!(stored.text().contains("event: response.failed"));
    }
    // Without a stream nobody is kept patient, and the refusal says when to come back.
    let limited = Upstream::new(|_| answer(429, "Retry-After: 60\r\n", "{}"));
    for mode in [TRANSLATE, PASS] {
        let alvus = Alvus::before_with(&limited, &[&waits[..], &[mode]].concat());
        let (status, code, text, when) = error(&ask(&alvus));
        assert_eq!(
            (status, &*code, when),
            (503, "keys_cooling", true),
            "{text}"
        );
    }
}

#[test]
fn an_answer_goes_on_behind_the_signs_of_life() {
    let (open, gate) = common::gate();
    let gate = std::sync::Mutex::new(gate);
    let upstream = Upstream::new(move |_| {
        gate.lock().unwrap().recv().unwrap();
        streamed(&[json!({"content": "hi"})], "stop")
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE, ("HEARTBEAT_SEC", "1")]);
    let body = hello(json!({"stream": true})).to_string();
    let mut client = alvus.connect();
    client.send(format!(
        "POST /v1/responses HTTP/1.1\r\nHost: alvus\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let mut response = client.head();
    response.body = client.chunk().unwrap().unwrap(); // the first sign
    open.send(()).unwrap();
    while let Some(piece) = client.chunk().unwrap() {
        response.body.extend(piece);
    }
    let text = response.text();
    assert!(text.starts_with("event: response.created"));
    let beats = text.matches("event: response.in_progress").count();
    let one = text.split_inclusive("\n\n").nth(1).unwrap();
    response.body = text.replacen(one, "", beats - 1).into_bytes();
    let (found, over) = made(&response);
    assert!(over && found["output"][0]["content"][0]["text"] == "hi");
}

#[test]
fn a_stream_that_breaks_after_its_first_word_is_cut_and_never_ended() {
    let broken = |end: &'static str| {
        Upstream::new(move |_| {
            Act::Do(Box::new(move |stream| {
                let words = SSE_HEAD.to_string() + &delta(json!({"content": "hi"})) + end;
                let _ = stream.write_all(words.as_bytes());
            }))
        })
    };
    for end in ["", "0\r\n\r\n"] {
        let upstream = broken(end);
        let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
        let response = stream(&alvus);
        assert!(!response.whole, "it must not look complete");
        assert!(!made(&response).1);
        assert_eq!(
            names(&response).last().unwrap(),
            &"response.output_text.delta"
        );
    }
}

#[test]
fn refusals_come_in_openais_shape_with_the_codes_that_codex_knows() {
    let long = "This model's maximum context length is 8192 tokens. However, your prompt contains 9000 tokens";
    for (act, expected) in [
        (
            refused(400, "no such thing"),
            (400, "", "no such thing", false),
        ),
        (
            refused(404, "no such model"),
            (404, "", "no such model", false),
        ),
        (
            answer(422, JSON, r#"{"detail":[{"msg":"field required"}]}"#),
            (422, "", "field required", false),
        ),
        (
            refused(400, long),
            (
                400,
                "context_length_exceeded",
                "Your input exceeds the context window",
                false,
            ),
        ),
        (
            answer(200, "Content-Type: text/html\r\n", "<html>"),
            (502, "upstream_broke", "", false),
        ),
    ] {
        let upstream = Upstream::scripted(vec![act]);
        let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
        let (status, code, text, when) = error(&ask(&alvus));
        assert_eq!(
            (status, &*code, when),
            (expected.0, expected.1, expected.3),
            "{text}"
        );
        assert!(text.contains(expected.2), "{text}");
    }
    let upstream = Upstream::scripted(vec![]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    for (more, param) in [
        (
            json!({"previous_response_id": "resp_1"}),
            "previous_response_id",
        ),
        (json!({"background": true}), "background"),
        (json!({"conversation": "c"}), "conversation"),
        (
            json!({"input": [{"type": "item_reference", "id": "x"}]}),
            "input[0]",
        ),
    ] {
        let response = post(&alvus, "/v1/responses", &hello(more));
        assert_eq!(
            (response.status, &response.json()["error"]["param"]),
            (400, &json!(param))
        );
    }
}

#[test]
fn a_limit_of_output_that_nobody_set_is_no_end_for_codex() {
    let upstream = Upstream::new(|_| streamed(&[json!({"content": "cut"})], "length"));
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    assert_eq!(made(&stream(&alvus)).0["status"], "completed");
    let limited = post(
        &alvus,
        "/v1/responses",
        &hello(json!({"stream": true, "max_output_tokens": 2000})),
    );
    assert_eq!(
        made(&limited).0["incomplete_details"]["reason"],
        "max_output_tokens"
    );
}

#[test]
fn an_answer_that_no_memory_is_left_for_fails_in_words() {
    let piece = json!({"content": "x".repeat(16_000)});
    let upstream = Upstream::new(move |_| streamed(&vec![piece.clone(); 20], "stop"));
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE, ("MAX_BODY_MB", "1")]);
    let response = stream(&alvus);
    let (found, over) = made(&response);
    assert!(over && response.whole);
    assert_eq!(found["status"], "failed");
    assert!(
        found["error"]["message"]
            .as_str()
            .unwrap()
            .contains("MAX_BODY_MB"),
        "{found}"
    );
    let large = hello(json!({"stream": true, "instructions": "x".repeat(400_000)}));
    eventually("it was given back", || {
        post(&alvus, "/v1/responses", &large).status == 200
    });
}

#[test]
fn an_upstream_that_speaks_the_dialect_gets_every_byte_as_it_was() {
    let answered = r#"{"id":"resp_up","object":"response","status":"completed","output":[{"type":"message"}]}"#;
    let upstream = Upstream::new(move |seen| match seen.body_text().contains("unknown") {
        true => answer(
            404,
            JSON,
            r#"{"error":{"message":"no such model","param":"model","code":"model_not_found"}}"#,
        ),
        false => answer(200, JSON, answered),
    });
    for mode in ["auto", "pass"] {
        let alvus = Alvus::before_with(&upstream, &[("RESPONSES", mode)]);
        for more in [
            json!({"model": "unknown"}),
            json!({"previous_response_id": "resp_1"}),
        ] {
            let body = hello(more);
            let response = post(&alvus, "/v1/responses?x=1", &body);
            let seen = upstream.seen().pop().unwrap();
            assert_eq!(
                (&*seen.target, seen.body_text()),
                ("/v1/responses?x=1", &*body.to_string())
            );
            assert_eq!(seen.field("originator"), Some("codex_exec"));
            assert_eq!(response.status == 200, response.text() == answered);
        }
    }
}

#[test]
fn an_upstream_that_does_not_know_the_path_is_asked_in_its_own_way_from_then_on() {
    for (status, words) in [
        (404, "404 page not found"),
        (405, ""),
        (404, r#"{"error":{"message":"x","code":"unknown_url"}}"#),
        (404, r#"{"detail":"Not Found"}"#),
    ] {
        let upstream = Upstream::new(move |seen| match seen.target.contains("responses") {
            true => answer(status, "", words),
            false => says("ok"),
        });
        let alvus = Alvus::before_with(&upstream, &[]);
        for _ in 0..3 {
            assert_eq!(ask(&alvus).json()["output"][0]["content"][0]["text"], "ok");
        }
        let paths: Vec<_> = upstream
            .seen()
            .into_iter()
            .map(|seen| seen.target)
            .collect();
        assert_eq!(
            paths,
            [
                "/v1/responses",
                "/v1/chat/completions",
                "/v1/chat/completions",
                "/v1/chat/completions"
            ]
        );
    }
}

#[test]
fn the_first_event_that_tells_something_decides_and_a_limit_goes_to_another_key() {
    let progress =
        json!({"type": "response.in_progress", "response": {"id": "resp_up", "output": []}});
    for instructions in ["short".to_string(), "x".repeat(60_000)] {
        let begin = created(&instructions);
        let progress = progress.clone();
        let upstream = Upstream::new(move |seen| match seen.key_index() {
            0 => native(&[
                begin.clone(),
                progress.clone(),
                failed("rate_limit_exceeded"),
            ]),
            1 => native(&[
                begin.clone(),
                json!({"type": "response.queued", "response": {"output": []}}),
                failed("server_is_overloaded"),
            ]),
            _ => native(&[begin.clone(), progress.clone(), completed()]),
        });
        let alvus = Alvus::before_with(&upstream, &[PASS, ("COOLDOWN_SEC", "60")]);
        let response = stream(&alvus);
        assert!(
            response.text().contains("native") && !response.text().contains("failed"),
            "{}",
            response.text()
        );
        assert!(response.whole && upstream.seen().len() > 1);
    }
}

#[test]
fn a_document_in_place_of_a_begun_stream_is_sent_as_its_end() {
    let (open, gate) = common::gate();
    let gate = std::sync::Mutex::new(gate);
    let document = completed()["response"].to_string();
    let upstream = Upstream::new(move |_| {
        gate.lock().unwrap().recv().unwrap();
        answer(200, JSON, &document)
    });
    let alvus = Alvus::before_with(&upstream, &[PASS, ("HEARTBEAT_SEC", "1")]);
    let body = hello(json!({"stream": true})).to_string();
    let mut client = alvus.connect();
    client.send(format!(
        "POST /v1/responses HTTP/1.1\r\nHost: alvus\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let mut response = client.head();
    response.body = client.chunk().unwrap().unwrap();
    open.send(()).unwrap();
    while let Some(piece) = client.chunk().unwrap() {
        response.body.extend(piece);
    }
    let names = names(&response);
    assert_eq!(names[0], "response.created");
    assert_eq!(
        names[names.len() - 2..],
        ["response.output_item.done", "response.completed"]
    );
}

#[test]
fn a_refusal_that_passes_says_when_to_come_back() {
    let upstream = Upstream::new(|_| refused(503, "down for now"));
    let alvus = Alvus::before_with(&upstream, &[PASS, ("MAX_RETRIES", "0")]);
    let (status, _, text, when) = error(&ask(&alvus));
    assert_eq!((status, when), (503, true), "{text}");
}

#[test]
fn a_refusal_that_said_itself_when_to_come_back_passes_with_that_alone() {
    let upstream = Upstream::new(|_| answer(503, "Retry-After: 77\r\n", "{}"));
    let alvus = Alvus::before_with(&upstream, &[PASS, ("MAX_RETRIES", "0")]);
    let response = ask(&alvus);
    let stated = response
        .fields
        .iter()
        .filter(|(name, _)| name == "retry-after");
    let stated: Vec<&[u8]> = stated.map(|(_, value)| value.as_ref()).collect();
    assert_eq!((response.status, stated), (503, vec![&b"77"[..]]));
}

#[test]
fn a_request_for_a_stored_object_goes_out_with_the_key_that_made_it() {
    let upstream = Upstream::new(|seen| {
        let key = seen.key_index();
        match (&*seen.method, &*seen.target) {
            ("POST", "/v1/files") => answer(200, JSON, &json!({"object": "file", "id": format!("file-of-{key}")}).to_string()),
            ("POST", "/v1/later") => answer(202, &format!("{JSON}NVCF-REQID: later-of-{key}\r\n"), "{}"),
            ("POST", "/v1/responses") if seen.body_text().contains("\"stream\":true") => {
                let mut begin = created("x");
                begin["response"]["id"] = json!(format!("resp_s_{key}"));
                native(&[begin, completed()])
            }
            ("POST", "/v1/responses") => answer(200, JSON, &json!({"id": format!("resp_{key}_"), "status": "completed", "output": [{"type": "message"}]}).to_string()),
            _ => answer(200, JSON, &json!({"id": "batch-1", "key": key}).to_string()),
        }
    });
    let alvus = Alvus::before_with(&upstream, &[PASS]);
    let key_of = |response: &Response| response.field("x-alvus-key").unwrap().to_string();
    let get = |path: &str| {
        let mut client = alvus.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: alvus\r\n\r\n"));
        key_of(&client.response())
    };
    let stored = |more: Value| {
        let mut body = hello(more);
        body["store"] = json!(true);
        post(&alvus, "/v1/responses", &body)
    };
    for _ in 0..4 {
        let made = post(&alvus, "/v1/files", &json!({}));
        let (key, id) = (
            key_of(&made),
            made.json()["id"].as_str().unwrap().to_string(),
        );
        for _ in 0..3 {
            assert_eq!(get(&format!("/v1/files/{id}/content")), key);
            let batch = post(&alvus, "/v1/batches", &json!({"input_file_id": id}));
            assert_eq!(key_of(&batch), key);
            assert_eq!(
                get("/v1/batches/batch-1"),
                key,
                "it is the last one of this name"
            );
        }
        let late = post(&alvus, "/v1/later", &json!({}));
        assert_eq!(
            get(&format!("/v1/status/later-of-{}", key_of(&late))),
            key_of(&late)
        );
        for streams in [false, true] {
            let first = stored(json!({"stream": streams}));
            let id = format!("resp_{}{}", if streams { "s_" } else { "" }, key_of(&first))
                + if streams { "" } else { "_" };
            for _ in 0..2 {
                assert_eq!(
                    key_of(&stored(json!({"previous_response_id": id}))),
                    key_of(&first),
                    "{id}"
                );
            }
            assert_eq!(get(&format!("/v1/responses/{id}")), key_of(&first));
        }
    }
}
