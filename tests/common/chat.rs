//! A provider that speaks chat completions: its answers and streams.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

use serde_json::{Value, json};

use super::{Act, SSE_HEAD, Seen, answer, chunk};

pub const JSON: &str = "Content-Type: application/json\r\n";

pub fn completion(message: Value, finish: &str) -> Act {
    let body = json!({"id": "c", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}});
    answer(200, JSON, &body.to_string())
}

pub fn says(text: &str) -> Act {
    completion(json!({"role": "assistant", "content": text}), "stop")
}

pub fn delta(delta: Value) -> String {
    let event = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    chunk(&format!("data: {event}\n\n"))
}

pub fn finish(reason: &str) -> String {
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 3}});
    chunk(&format!("data: {end}\n\n"))
        + &chunk(&format!("data: {usage}\n\ndata: [DONE]\n\n"))
        + "0\r\n\r\n"
}

pub fn streamed(deltas: &[Value], reason: &str) -> Act {
    let words: String = deltas.iter().cloned().map(delta).collect();
    Act::Say((SSE_HEAD.to_string() + &words + &finish(reason)).into_bytes())
}

pub fn refused(status: u16, message: &str) -> Act {
    answer(
        status,
        JSON,
        &json!({"error": {"message": message}}).to_string(),
    )
}

/// That what went up is what alvus makes, and nothing of the client's own.
pub fn holds_nothing_of_the_clients(seen: &Seen) {
    assert_eq!(
        (&*seen.method, &*seen.target),
        ("POST", "/v1/chat/completions")
    );
    let names = seen.fields.iter().map(|(name, _)| name.to_lowercase());
    let mut names: Vec<_> = names.collect();
    names.sort();
    let expected = "accept accept-encoding authorization content-length content-type host via";
    assert_eq!(names.join(" "), expected);
}
