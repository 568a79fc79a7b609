//! Anthropic's Messages dialect on an upstream that speaks chat completions: real sockets, the real
//! binary.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "messages")]

mod common;

use std::io::Write;

use common::chat::{
    JSON, completion, delta, holds_nothing_of_the_clients, refused, says, streamed,
};
use common::{Act, Alvus, Response, SSE_HEAD, Upstream, answer};
use serde_json::{Value, json};

const TRANSLATE: (&str, &str) = ("MESSAGES", "translate");

fn post(alvus: &Alvus, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    let mut client = alvus.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nx-api-key: sk-the-clients-own\r\n\
         anthropic-version: 2023-06-01\r\nanthropic-beta: x\r\nx-stainless-lang: js\r\nUser-Agent: claude-cli\r\n\
         Accept-Encoding: gzip, zstd\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.response()
}

fn get(alvus: &Alvus, path: &str) -> Response {
    let mut client = alvus.connect();
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: alvus\r\nanthropic-version: 2023-06-01\r\n\r\n"
    ));
    client.response()
}

fn hello(more: Value) -> Value {
    let mut body = json!({"model": "claude-x", "max_tokens": 2000,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]}]});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

fn ask(alvus: &Alvus) -> Response {
    post(alvus, "/v1/messages?beta=true", &hello(json!({})))
}

fn stream(alvus: &Alvus) -> Response {
    post(
        alvus,
        "/v1/messages?beta=true",
        &hello(json!({"stream": true})),
    )
}

/// The events of a stream, each with its name.
fn events(response: &Response) -> Vec<(String, Value)> {
    let blocks = response
        .text()
        .split("\n\n")
        .filter(|block| !block.trim().is_empty());
    let event = |block: &str| {
        let (name, data) = block
            .strip_prefix("event: ")
            .unwrap()
            .split_once('\n')
            .unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name.to_string(), data)
    };
    blocks.map(event).collect()
}

fn names(response: &Response) -> Vec<String> {
    events(response).into_iter().map(|(name, _)| name).collect()
}

/// An error in Anthropic's shape: its status, type and message, and whether it says when to come back.
fn error(response: &Response) -> (u16, String, String, bool) {
    let body = response.json();
    assert_eq!(body["type"], "error", "{body}");
    let text = |name: &str| body["error"][name].as_str().unwrap().to_string();
    (
        response.status,
        text("type"),
        text("message"),
        response.field("retry-after").is_some(),
    )
}

#[test]
fn a_message_is_asked_as_a_chat_completion_and_answered_as_a_message() {
    let upstream = Upstream::scripted(vec![says("hi \"you\" ✓")]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = ask(&alvus);
    assert_eq!(response.status, 200, "{}", response.text());
    let message = response.json();
    assert_eq!(
        message["content"],
        json!([{"type": "text", "text": "hi \"you\" ✓"}])
    );
    assert_eq!(
        (&message["model"], &message["stop_reason"]),
        (&json!("claude-x"), &json!("end_turn"))
    );
    assert_eq!(message["usage"]["input_tokens"], 21);
    assert_eq!(response.field("x-alvus-attempts"), Some("1"));
    let seen = &upstream.seen()[0];
    holds_nothing_of_the_clients(seen);
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(
        body["messages"],
        json!([{"role": "user", "content": "hello"}])
    );
    assert_eq!(seen.field("accept-encoding"), Some("identity"));
}

#[test]
fn a_stream_of_a_completion_becomes_a_stream_of_a_message() {
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
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&response), expected);
    let (_, end) = &events(&response)[7];
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]["input_tokens"]),
        (&json!("end_turn"), &json!(21))
    );
    let body: Value = serde_json::from_slice(&upstream.seen()[0].body).unwrap();
    assert_eq!(body["stream_options"]["include_usage"], true);
}

#[test]
fn tools_go_up_and_their_calls_and_results_come_and_go() {
    let call = json!({"tool_calls": [{"index": 0, "id": "call_0", "function": {"name": "ls", "arguments": "{\"path\":"}}]});
    let more = json!({"tool_calls": [{"index": 0, "function": {"arguments": " \"/\"}"}}]});
    let upstream = Upstream::scripted(vec![streamed(&[call, more], "tool_calls"), says("done")]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let tools = json!([{"name": "ls", "input_schema": {"type": "object"}}]);
    let response = post(
        &alvus,
        "/v1/messages",
        &hello(json!({"stream": true, "tools": tools})),
    );
    let found = events(&response);
    let block = &found[1].1["content_block"];
    assert_eq!(
        (&block["type"], &block["name"]),
        (&json!("tool_use"), &json!("ls"))
    );
    let pieces = found
        .iter()
        .filter_map(|(_, data)| data["delta"]["partial_json"].as_str());
    assert_eq!(pieces.collect::<String>(), r#"{"path": "/"}"#);

    let result = json!({"type": "tool_result", "tool_use_id": block["id"], "content": "a b", "is_error": false});
    let messages = json!([{"role": "user", "content": "list"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": block["id"], "name": "ls", "input": {"path": "/"}}]},
        {"role": "user", "content": [result]}]);
    let response = post(
        &alvus,
        "/v1/messages",
        &hello(json!({"messages": messages, "tools": tools})),
    );
    assert_eq!(response.json()["content"][0]["text"], "done");
    let body: Value = serde_json::from_slice(&upstream.seen()[1].body).unwrap();
    assert_eq!(body["tools"][0]["function"]["name"], "ls");
    assert_eq!(
        body["messages"][2],
        json!({"role": "tool", "tool_call_id": block["id"], "content": "a b"})
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
        let response = stream(&alvus);
        assert_eq!(response.status, 200);
        assert_eq!(names(&response).last().unwrap(), "message_stop");
    }
    assert_eq!(alvus.states(), ["cooling", "ejected", "ready"]);
}

#[test]
fn a_waiting_client_gets_pings_and_a_late_refusal_is_an_overload() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 60\r\n", "{}"));
    let more = [
        TRANSLATE,
        ("HEARTBEAT_SEC", "1"),
        ("MAX_WAIT_SEC", "2"),
        ("MAX_RETRIES", "1000"),
    ];
    let upstream_busy = Upstream::new(|_| refused(503, "the model is overloaded"));
    let alvus = Alvus::before_with(&upstream_busy, &more);
    let response = stream(&alvus);
    assert_eq!((response.status, response.whole), (200, true));
    let found = events(&response);
    let (last, pings) = found.split_last().unwrap();
    assert!(
        !pings.is_empty() && pings.iter().all(|(name, _)| name == "ping"),
        "{found:?}"
    );
    assert_eq!(
        (&*last.0, &last.1["error"]["type"]),
        ("error", &json!("overloaded_error"))
    );

    // Without a stream nobody is kept patient, and the refusal is one.
    let alvus = Alvus::before_with(&upstream, &more);
    let (status, kind, text, when) = error(&ask(&alvus));
    assert_eq!(
        (status, &*kind, when),
        (529, "overloaded_error", true),
        "{text}"
    );
    assert!(text.contains("3 of 3 keys"), "{text}");
}

#[test]
fn a_stream_that_breaks_after_its_first_word_is_cut_and_never_ended() {
    let upstream = Upstream::new(|_| {
        Act::Do(Box::new(|stream| {
            let words = SSE_HEAD.to_string() + &delta(json!({"content": "hi"}));
            let _ = stream.write_all(words.as_bytes());
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = stream(&alvus);
    assert!(!response.whole, "it must not look complete");
    assert_eq!(
        names(&response),
        [
            "message_start",
            "content_block_start",
            "content_block_delta"
        ]
    );

    // Nor when the connection ends as it should, and only the answer does not.
    let upstream = Upstream::new(|_| {
        Act::Say(
            (SSE_HEAD.to_string() + &delta(json!({"content": "hi"})) + "0\r\n\r\n").into_bytes(),
        )
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = stream(&alvus);
    assert!(!response.whole && !response.text().contains("message_stop"));
}

#[test]
fn refusals_come_in_anthropics_shape() {
    for (act, expected) in [
        (
            refused(400, "no such thing"),
            (400, "invalid_request_error", "no such thing", false),
        ),
        (
            refused(404, "no such model"),
            (404, "not_found_error", "no such model", false),
        ),
        (
            answer(422, JSON, r#"{"detail":[{"msg":"field required"}]}"#),
            (400, "invalid_request_error", "field required", false),
        ),
        (
            answer(200, "Content-Type: text/html\r\n", "<html>"),
            (502, "api_error", "", false),
        ),
    ] {
        let upstream = Upstream::scripted(vec![act]);
        let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
        let (status, kind, text, when) = error(&ask(&alvus));
        assert_eq!(
            (status, &*kind, when),
            (expected.0, expected.1, expected.3),
            "{text}"
        );
        assert!(text.contains(expected.2), "{text}");
    }
    let upstream = Upstream::scripted(vec![]);
    let env = [
        TRANSLATE,
        ("CLIENT_KEYS", "me:a-clients-key-of-its-own"),
        ("MAX_BODY_MB", "1"),
    ];
    let guarded = Alvus::before_with(&upstream, &env);
    assert_eq!(error(&ask(&guarded)).1, "authentication_error");
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE, ("MAX_BODY_MB", "1")]);
    let large = hello(json!({"system": "x".repeat(2 << 20)}));
    assert_eq!(
        error(&post(&alvus, "/v1/messages", &large)).1,
        "request_too_large"
    );
    for (more, named) in [
        (json!({"messages": []}), "messages"),
        (json!({"model": 7}), "model"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "video"}]}]}),
            "video",
        ),
    ] {
        let (status, kind, text, _) = error(&post(&alvus, "/v1/messages", &hello(more)));
        assert_eq!((status, &*kind), (400, "invalid_request_error"));
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn tokens_are_counted_here_and_better_after_an_answer() {
    let answered = json!({"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 700}});
    let upstream = Upstream::scripted(vec![answer(200, JSON, &answered.to_string())]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let long = hello(json!({"system": "word ".repeat(400)}));
    let count = || {
        let response = post(&alvus, "/v1/messages/count_tokens?beta=true", &long);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["input_tokens"].as_u64().unwrap()
    };
    let first = count();
    assert!((300..1000).contains(&first), "{first}");
    assert_eq!(upstream.seen().len(), 0, "it costs no request");
    assert_eq!(
        error(&post(&alvus, "/v1/messages/count_tokens", &json!(7))).0,
        400
    );
    assert_eq!(post(&alvus, "/v1/messages", &long).status, 200);
    assert!((695..=705).contains(&count()), "{}", count());
}

#[test]
fn a_field_that_is_refused_is_left_out_from_then_on() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("\"top_p\"") {
        true => refused(
            400,
            "Unsupported parameter: 'top_p' is not supported with this model.",
        ),
        false => says("ok"),
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    for expected in [2, 3] {
        let response = post(&alvus, "/v1/messages", &hello(json!({"top_p": 0.5})));
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(upstream.seen().len(), expected);
    }
    assert_eq!(
        alvus.health()["learned"]["claude-x"]["refuses"],
        json!(["top_p"])
    );
}

#[test]
fn a_limit_of_output_is_learned_and_a_prompt_that_is_too_long_is_told_so_that_clients_compact() {
    let upstream = Upstream::scripted(vec![
        refused(
            400,
            "max_tokens is too large: 2000. This model supports at most 1500 completion tokens",
        ),
        says("ok"),
        refused(
            400,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        ),
    ]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    assert_eq!(ask(&alvus).status, 200);
    let asked = |at: usize| {
        serde_json::from_slice::<Value>(&upstream.seen()[at].body).unwrap()["max_tokens"].clone()
    };
    assert_eq!((asked(0), asked(1)), (json!(2000), json!(1500)));
    let (status, kind, text, _) = error(&ask(&alvus));
    assert_eq!((status, &*kind), (400, "invalid_request_error"));
    assert_eq!(text, "prompt is too long: 9001 tokens > 8192 maximum");
    assert_eq!(alvus.health()["learned"]["claude-x"]["context"], 8192);
}

#[test]
fn an_image_that_is_refused_blinds_no_model_that_reads_others() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("image/bmp") {
        true => refused(
            400,
            "Invalid 'messages[0].content[0].image_url.url'. Expected a base64-encoded data URL with an image MIME type, but got unsupported MIME type 'image/bmp'.",
        ),
        false => says("ok"),
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let ask = |kind: &str| {
        let source = json!({"type": "base64", "media_type": kind, "data": "QUJD".repeat(99)});
        let image = json!([{"role": "user", "content": [{"type": "image", "source": source}]}]);
        let response = post(&alvus, "/v1/messages", &hello(json!({"messages": image})));
        let sent = upstream.seen().pop().unwrap();
        (response, sent.body_text().contains("image_url"))
    };
    assert_eq!((ask("image/png").0.status, ask("image/png").1), (200, true));
    let (refusal, _) = ask("image/bmp");
    assert_eq!(refusal.status, 400);
    assert!(refusal.text().contains("unsupported MIME type"));
    let (response, went_up) = ask("image/png");
    assert_eq!((response.status, went_up), (200, true));
    assert!(alvus.health()["learned"].is_null());
}

#[test]
fn a_page_of_somebody_between_is_no_proof_that_the_upstream_speaks_messages() {
    let html = answer(200, "Content-Type: text/html\r\n", "<html>log in");
    let elsewhere = answer(302, "Location: http://portal.example/\r\n", "");
    for page in [html, elsewhere] {
        let upstream = Upstream::scripted(vec![page, answer(404, "", "nothing"), says("ok")]);
        let alvus = Alvus::before(&upstream);
        ask(&alvus);
        let response = ask(&alvus);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(upstream.seen()[2].target, "/v1/chat/completions");
    }
}

#[test]
fn a_lesson_is_kept_when_the_changed_request_is_served() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("\"top_p\"") {
        true => refused(400, "Unsupported parameter: 'top_p' is not supported"),
        false => refused(400, "no"),
    });
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    assert_eq!(
        error(&post(&alvus, "/v1/messages", &hello(json!({"top_p": 0.5})))).2,
        "no"
    );
    assert_eq!(upstream.seen().len(), 2);
    // What it says of a field that was not sent changes nothing either.
    let upstream_odd = Upstream::new(|_| refused(400, "Unsupported parameter: 'top_p'"));
    let odd = Alvus::before_with(&upstream_odd, &[TRANSLATE]);
    assert_eq!(ask(&odd).status, 400);
    for alvus in [&alvus, &odd] {
        assert!(alvus.health()["learned"].is_null());
    }
}

#[test]
fn an_answer_that_says_nothing_is_asked_for_once_more() {
    let nothing = || streamed(&[json!({"role": "assistant", "content": ""})], "stop");
    let upstream = Upstream::scripted(vec![
        nothing(),
        streamed(&[json!({"content": "hi"})], "stop"),
    ]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let response = stream(&alvus);
    assert!(
        response.text().contains("\"text\":\"hi\""),
        "{}",
        response.text()
    );
    assert_eq!(upstream.seen().len(), 2);

    let whole = || completion(json!({"role": "assistant", "content": ""}), "stop");
    let upstream = Upstream::scripted(vec![whole(), whole(), nothing(), nothing()]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    assert_eq!(
        ask(&alvus).json()["content"],
        json!([{"type": "text", "text": ""}])
    );
    assert_eq!(names(&stream(&alvus)).last().unwrap(), "message_stop");
    assert_eq!(upstream.seen().len(), 4, "and then it is believed");

    // Cut by the limit or by a filter: asking again would change nothing.
    for reason in ["length", "content_filter"] {
        let upstream = Upstream::scripted(vec![streamed(&[], reason)]);
        let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
        assert_eq!(names(&stream(&alvus)).last().unwrap(), "message_stop");
    }
}

#[test]
fn claude_code_sees_no_block_closed_before_the_end() {
    let words = [json!({"reasoning_content": "hm"}), json!({"content": "hi"})];
    let upstream = Upstream::new(move |_| streamed(&words, "stop"));
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE]);
    let body = hello(json!({"stream": true})).to_string();
    let closed_at = |agent: &str| {
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/messages HTTP/1.1\r\nHost: alvus\r\nUser-Agent: {agent}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let names = names(&client.response());
        names
            .iter()
            .position(|name| name == "content_block_stop")
            .unwrap()
    };
    assert_eq!(closed_at("claude-cli/2.1.197 (external, cli)"), 5);
    assert_eq!(closed_at("Anthropic/JS 1.14.0"), 3);
}

#[test]
fn another_model_stands_in_and_the_answer_names_the_one_that_was_asked_for() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("\"a/b\"") {
        true => refused(503, "the model is overloaded"),
        false => streamed(&[json!({"content": "hi"})], "stop"),
    });
    let env = [TRANSLATE, ("MODEL_MAP", "claude-*=a/b|c/d")];
    let alvus = Alvus::before_with(&upstream, &env);
    let response = stream(&alvus);
    assert_eq!(response.field("x-alvus-model"), Some("c/d"));
    assert_eq!(events(&response)[0].1["message"]["model"], "claude-x");
    let bodies: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.body_text().replace("a/b", "c/d"))
        .collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1], "nothing but the name differs");
}

#[test]
fn a_body_that_can_never_be_translated_is_too_large() {
    let upstream = Upstream::scripted(vec![]);
    let alvus = Alvus::before_with(&upstream, &[TRANSLATE, ("MAX_BODY_MB", "1")]);
    let large = hello(json!({"system": "x".repeat(600 << 10)}));
    let response = post(&alvus, "/v1/messages", &large);
    assert_eq!(
        (response.status, &*error(&response).1),
        (413, "request_too_large")
    );
    let id = response.json()["request_id"].as_str().unwrap().to_string();
    assert!(id.starts_with("req_") && response.field("request-id") == Some(&id));
}

#[test]
fn whole_answers_share_the_memory_of_bodies() {
    let upstream = Upstream::new(|_| says(&"x".repeat(600 << 10)));
    for (most, status) in [("1", 502), ("2", 200)] {
        let alvus = Alvus::before_with(&upstream, &[TRANSLATE, ("MAX_BODY_MB", most)]);
        assert_eq!(ask(&alvus).status, status);
    }
}

#[test]
fn an_upstream_that_speaks_the_dialect_is_left_alone() {
    let native = r#"{"type":"message","content":[],"odd":  1}"#;
    let upstream = Upstream::new(move |seen| match seen.body_text().contains("unknown") {
        true => answer(
            404,
            JSON,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model"}}"#,
        ),
        false => answer(200, JSON, native),
    });
    for mode in ["auto", "pass"] {
        let alvus = Alvus::before_with(&upstream, &[("MESSAGES", mode)]);
        for more in [json!({"model": "unknown"}), json!({})] {
            let body = hello(more);
            let response = post(&alvus, "/v1/messages?beta=true", &body);
            let seen = upstream.seen().pop().unwrap();
            assert_eq!(seen.target, "/v1/messages?beta=true");
            assert_eq!(seen.body_text(), body.to_string());
            assert_eq!(seen.field("anthropic-version"), Some("2023-06-01"));
            assert_eq!(response.status == 200, response.text() == native);
        }
        assert_eq!(
            post(&alvus, "/v1/messages/count_tokens", &hello(json!({}))).text(),
            native
        );
    }
}

#[test]
fn an_upstream_that_does_not_know_the_path_is_asked_in_its_own_way_from_then_on() {
    for status in [404, 405, 501] {
        let upstream = Upstream::new(move |seen| match seen.target.contains("messages") {
            true => answer(status, "", "404 page not found"),
            false => says("ok"),
        });
        let alvus = Alvus::before_with(&upstream, &[]);
        for _ in 0..3 {
            assert_eq!(ask(&alvus).json()["content"][0]["text"], "ok");
        }
        let paths: Vec<_> = upstream
            .seen()
            .into_iter()
            .map(|seen| seen.target)
            .collect();
        assert_eq!(paths[0], "/v1/messages?beta=true");
        assert_eq!(paths[1..], ["/v1/chat/completions"; 3]);
    }
}

#[test]
fn claude_code_finds_somebody_there_and_models_in_its_shape() {
    let list = r#"{"object":"list","data":[{"id":"a/b"}]}"#;
    let upstream = Upstream::scripted(vec![
        answer(200, JSON, list),
        answer(200, JSON, list),
        refused(400, "no"),
    ]);
    let env = [TRANSLATE, ("MODEL_MAP", "claude-*=a/b")];
    let alvus = Alvus::before_with(&upstream, &env);
    let mut client = alvus.connect();
    client.send("HEAD /api/hello HTTP/1.1\r\nHost: alvus\r\n\r\n");
    assert_eq!(client.head().status, 200);
    let page = get(&alvus, "/v1/models?limit=1000").json();
    let ids: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    assert_eq!(ids, ["a/b"]);
    assert_eq!(upstream.seen()[0].target, "/v1/models");
    client.send("GET /v1/models HTTP/1.1\r\nHost: alvus\r\n\r\n");
    assert_eq!(
        client.response().text(),
        list,
        "others get the upstream's own"
    );
    assert_eq!(error(&get(&alvus, "/v1/models")).0, 400);
}
