//! Tables for each row of what is translated, properties, and the cases that broke others.

mod answer;
mod cases;
mod errors;
mod properties;
mod refusals;
mod request;
mod stream;
mod strict;

use serde_json::Value;

use super::RequestContext;
use super::request::translate;
use super::stream::{StreamEnd, reader};
use crate::dialect::interface::{Dialect, Refusal};
use crate::dialect::tests::{MODEL, delta, events, finished, json, read};

/// A request with these fields, translated.
pub fn chat(fields: &str) -> Result<Value, Refusal> {
    let body = format!(r#"{{"model":"claude-x","max_tokens":4096,{fields}}}"#);
    translate(body.as_bytes(), MODEL).map(|chat| json(chat.body))
}

/// These messages, translated.
pub fn messages(messages: &str) -> Result<Value, Refusal> {
    chat(&format!(r#""messages":{messages}"#)).map(|chat| chat["messages"].clone())
}

pub fn asked() -> RequestContext {
    RequestContext {
        model: "claude-x".into(),
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
