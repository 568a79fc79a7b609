//! An upstream's errors in Anthropic's shape.

use super::*;
use crate::dialect::lessons::message;
use crate::dialect::messages::errors::{PING, body, late_error, refusal};
use crate::dialect::terms::Refused;

const REQUEST: Refused<'static> = Refused {
    model: "claude-x",
    prompt_tokens: 5000,
    context: None,
};

#[test]
fn statuses_and_types_are_as_the_table_says() {
    for (status, expected, kind, retry_after) in [
        (400, 400, "invalid_request_error", None),
        (401, 401, "authentication_error", None),
        (402, 402, "billing_error", None),
        (403, 403, "permission_error", None),
        (404, 404, "not_found_error", None),
        (405, 400, "invalid_request_error", None),
        (408, 529, "overloaded_error", Some(5)),
        (413, 413, "request_too_large", None),
        (422, 400, "invalid_request_error", None),
        (429, 429, "rate_limit_error", Some(5)),
        (500, 500, "api_error", None),
        (502, 502, "api_error", None),
        (503, 529, "overloaded_error", Some(5)),
        (504, 529, "overloaded_error", Some(5)),
        (524, 529, "overloaded_error", Some(5)),
        (529, 529, "overloaded_error", Some(5)),
    ] {
        let found = Dialect::Messages.error(status, b"", None, REQUEST);
        assert_eq!(
            (found.status, &*found.code, found.retry_after),
            (expected, kind, retry_after)
        );
        assert_eq!(
            found.message,
            format!("the upstream answered with status {status}")
        );
        let told = Dialect::Messages
            .error(status, b"", Some(60), REQUEST)
            .retry_after;
        assert_eq!(told, retry_after.map(|_| 60));
    }
}

#[test]
fn an_upstreams_message_is_found_in_any_shape() {
    for (body, expected) in [
        (r#"{"error":{"message":"a","code":1}}"#, Some("a")),
        (r#"{"error":"a"}"#, Some("a")),
        (r#"{"message":"a"}"#, Some("a")),
        (r#"{"detail":"a"}"#, Some("a")),
        (r#"{"detail":[{"loc":["body"],"msg":"a"}]}"#, Some("a")),
        (r#"{"status":429,"title":"a"}"#, Some("a")),
        (r#"[{"error":{"message":"a"}}]"#, Some("a")),
        (r#"{"error":{"message":""},"message":"a"}"#, Some("a")),
        ("<html>", None),
        ("{}", None),
    ] {
        assert_eq!(message(body.as_bytes()).as_deref(), expected, "{body}");
    }
    let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(9000));
    assert_eq!(
        message(long.as_bytes()).map(|text| text.chars().count()),
        Some(2000)
    );
}

#[test]
fn nims_words_are_understood() {
    let degraded = br#"{"status":400,"title":"Bad Request","detail":"Function id 'x': DEGRADED function cannot be invoked"}"#;
    let found = Dialect::Messages.error(400, degraded, None, REQUEST);
    assert_eq!((found.status, &*found.code), (529, "overloaded_error"));
    let unknown =
        br#"{"status":404,"title":"Not Found","detail":"Function 'x': Not found for account 'y'"}"#;
    let found = Dialect::Messages.error(404, unknown, None, REQUEST);
    assert_eq!((found.status, &*found.code), (404, "not_found_error"));
    assert!(
        found
            .message
            .starts_with("the upstream has no model \"claude-x\": Function"),
        "{}",
        found.message
    );
}

#[test]
fn a_prompt_that_is_too_long_is_told_so_that_it_is_compacted() {
    let long = |limit: &str| format!(r#"{{"error":{{"message":"{limit}"}}}}"#);
    for (body, context, expected) in [
        (
            long(
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            ),
            None,
            "9000 tokens > 8192 maximum",
        ),
        (
            long("This model's maximum context length is 5800 tokens. Please reduce the length."),
            None,
            "6024 tokens > 5800 maximum", // it fits, but for the least room of an answer
        ),
        (
            long(
                "This model's maximum context length is 131072 tokens. However, you requested 163000 tokens (141000 in the messages, 22000 in the completion).",
            ),
            None,
            "141000 tokens > 131072 maximum",
        ),
        (
            long(
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            ),
            None,
            "1200000 tokens > 1048576 maximum",
        ),
        (
            long("Please reduce the length of the messages or completion."),
            Some(4096),
            "5000 tokens > 4096 maximum",
        ),
    ] {
        let found =
            Dialect::Messages.error(400, body.as_bytes(), None, Refused { context, ..REQUEST });
        assert_eq!((found.status, &*found.code), (400, "invalid_request_error"));
        assert_eq!(
            found.message,
            format!("prompt is too long: {expected}"),
            "{body}"
        );
        let numbers: Vec<u64> = found
            .message
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse().ok())
            .collect();
        assert!(numbers[0] > numbers[1], "{}", found.message);
    }
    let unknown = Dialect::Messages.error(
        400,
        long("context_length_exceeded").as_bytes(),
        None,
        REQUEST,
    );
    assert_eq!(
        unknown.message, "prompt is too long: context_length_exceeded",
        "no number is made up"
    );
}

#[test]
fn errors_have_anthropics_shape() {
    let failure = refusal(429, "too \"many\"\n");
    assert_eq!(
        json(failure.body("req_1")),
        json(
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"too \"many\"\n"},"request_id":"req_1"}"#
        )
    );
    assert_eq!(
        json(body(&failure, None))
            .as_object()
            .map(serde_json::Map::len),
        Some(2)
    );
    let late = String::from_utf8(late_error("gone")).expect("text");
    let data = late
        .strip_prefix("event: error\ndata: ")
        .and_then(|rest| rest.strip_suffix("\n\n"))
        .expect("an event");
    assert_eq!(
        json(data),
        json(r#"{"type":"error","error":{"type":"overloaded_error","message":"gone"}}"#)
    );
    assert!(PING.starts_with(b"event: ping\ndata: {") && PING.ends_with(b"}\n\n"));
}
