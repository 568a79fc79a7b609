//! Tables for each row of what is translated, properties, and the cases that broke others.

mod cases;
mod errors;
mod properties;
mod request;
mod stream;
mod strict;
#[path = "../../messages/tests/strict.rs"]
#[allow(dead_code, clippy::duplicate_mod)] // its template; its client is for Messages
mod template;

use serde_json::Value;

use super::request::translate;
use super::stream::{StreamEnd, reader};
use crate::dialect::interface::{Dialect, Refusal};
use crate::dialect::terms::{ChatRequest, RequestContext};
use crate::dialect::tests::{MODEL, delta, events, finished, json, read};

/// A request with these fields, translated.
pub fn translated(fields: &str) -> Result<ChatRequest, Refusal> {
    translate(
        format!(r#"{{"model":"codex-x",{fields}}}"#).as_bytes(),
        MODEL,
    )
}

/// Likewise, as it goes up.
pub fn chat(fields: &str) -> Result<Value, Refusal> {
    translated(fields).map(|chat| json(chat.body))
}

/// The messages of a request with this input.
pub fn messages(input: &str) -> Result<Value, Refusal> {
    chat(&format!(r#""input":{input}"#)).map(|chat| chat["messages"].clone())
}

pub fn asked() -> RequestContext {
    RequestContext {
        model: "codex-x".into(),
        random: 7,
        prompt_tokens: 50,
        ratio: 4000,
        ..RequestContext::default()
    }
}

/// What a stream becomes, fed in pieces of this size.
pub fn run(
    asked: RequestContext,
    upstream: &[u8],
    size: usize,
    clean: bool,
) -> (Vec<u8>, StreamEnd) {
    read(reader(asked), upstream, size, clean)
}

/// The response that a stream of these deltas becomes.
pub fn response(asked: RequestContext, deltas: &[&str], finish: &str) -> Value {
    let (out, end) = run(asked, &finished(deltas, finish), 50, true);
    assert_eq!(end, StreamEnd::Whole);
    let (response, whole) = strict::accumulate(&out).expect("a good stream");
    assert!(whole);
    response
}

/// A piece of a call.
pub fn call(id: &str, index: usize, name: &str, arguments: &str) -> String {
    let arguments = serde_json::json!(arguments);
    format!(
        r#"{{"tool_calls":[{{"index":{index},"id":"{id}","type":"function","function":{{"name":"{name}","arguments":{arguments}}}}}]}}"#
    )
}
