//! Errors in OpenAI's shape.

use super::super::errors::{code_in_stream, refusal};
use super::super::output::{as_stream, beats, late_failure};
use super::*;
use crate::dialect::terms::Refused;

fn error(status: u16, body: &str) -> (u16, String, String, Option<u64>) {
    let refused = Refused {
        model: "codex-x",
        prompt_tokens: 900,
        context: Some(800),
    };
    let failure = Dialect::Responses.error(status, body.as_bytes(), Some(7), refused);
    let error = json(failure.body(""))["error"].clone();
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_string();
    (
        failure.status,
        text("code"),
        text("message"),
        failure.retry_after,
    )
}

#[test]
fn an_upstreams_error_has_openais_shape_whatever_shape_it_had() {
    for (status, body, expected) in [
        (
            400,
            r#"{"error":{"message":"m","code":"c"}}"#,
            (400, "c", "m", None),
        ),
        (422, r#"{"detail":[{"msg":"m"}]}"#, (422, "", "m", None)),
        (404, r#"{"error":"m"}"#, (404, "", "m", None)),
        (
            500,
            "<html>",
            (500, "", "the upstream answered with status 500", None),
        ),
        (429, r#"{"title":"m"}"#, (429, "", "m", Some(7))),
        (503, r#"{"message":"m"}"#, (503, "", "m", Some(7))),
        (
            400,
            r#"{"detail":"Function id 'x': DEGRADED function cannot be invoked"}"#,
            (
                503,
                "",
                "Function id 'x': DEGRADED function cannot be invoked",
                Some(7),
            ),
        ),
        (
            404,
            r#"{"detail":"Function 'x': Not found for account 'y'"}"#,
            (
                404,
                "model_not_found",
                "the upstream has no model \"codex-x\": Function 'x': Not found for account 'y'",
                None,
            ),
        ),
        (
            400,
            r#"{"message":"This model's maximum context length is 8192 tokens. However, your prompt contains 9000 tokens"}"#,
            (
                400,
                "context_length_exceeded",
                "Your input exceeds the context window of this model (9000 tokens, 8192 at most): This model's maximum context length is 8192 tokens. However, your prompt contains 9000 tokens",
                None,
            ),
        ),
        (
            400,
            r#"{"error":{"message":"Prompt too long"}}"#,
            (
                400,
                "context_length_exceeded",
                "Your input exceeds the context window of this model (900 tokens, 800 at most): Prompt too long",
                None,
            ),
        ),
    ] {
        let (status, code, message, after) = error(status, body);
        assert_eq!((status, &*code, &*message, after), expected, "{body}");
    }
    assert_eq!(refusal(429, "", "m").retry_after, Some(5), "never without");
}

#[test]
fn a_waiting_client_sees_a_response_begin_and_a_late_failure_ends_it() {
    let (first, other) = beats(&asked());
    let failed = late_failure(&asked(), true, "rate_limit_exceeded", "try again in 7s");
    let whole = [&*first, &other, &failed].concat();
    let (response, over) = strict::accumulate(&whole).expect("good");
    assert!(over);
    assert_eq!(response["error"]["code"], "rate_limit_exceeded");
    let alone = late_failure(&asked(), false, "server_error", "m");
    assert!(
        strict::accumulate(&alone).expect("good").1,
        "and begins it if need be"
    );
    // An answer goes on behind the beats.
    let mut stream = reader(asked());
    let mut out = [&*first, &other].concat();
    stream.were_heard();
    stream.push(&finished(&[r#"{"content":"a"}"#], "stop"), &mut out);
    assert_eq!(stream.ended(), Some(StreamEnd::Whole));
    assert!(strict::accumulate(&out).expect("good").1);
}

#[test]
fn codes_in_a_stream_are_those_that_codex_goes_by() {
    for (status, code, expected) in [
        (400, "context_length_exceeded", "context_length_exceeded"),
        (400, "", "invalid_prompt"),
        (404, "model_not_found", "model_not_found"),
        (429, "insufficient_quota", "rate_limit_exceeded"),
        (503, "keys_cooling", "rate_limit_exceeded"),
        (502, "upstream_broke", "server_error"),
    ] {
        assert_eq!(code_in_stream(status, code), expected, "{status} {code}");
    }
}

#[test]
fn a_document_in_place_of_a_stream_becomes_its_end() {
    let body = "{\"id\":\"r\",\n\"status\":\"completed\",\"output\":[{\"type\":\"message\",\n\"id\":\"m\"}]}";
    let events = String::from_utf8(as_stream(&asked(), true, body.as_bytes()).expect("events"))
        .expect("text");
    let names: Vec<_> = events
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(names, ["response.output_item.done", "response.completed"]);
    assert!(events.contains(r#""item":{"type":"message","id":"m"}"#));
    assert_eq!(as_stream(&asked(), true, b"{}"), None);
}
