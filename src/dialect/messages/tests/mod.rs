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

use super::Asked;
use super::errors::Failure;
use super::request::{Options, translate};
use super::stream::{End, reader};
use crate::dialect::tests::{OPTIONS, delta, events, finished, json, read};

/// A request with these fields, translated.
pub fn chat(fields: &str) -> Result<Value, Failure> {
    let body = format!(r#"{{"model":"claude-x","max_tokens":4096,{fields}}}"#);
    translate(body.as_bytes(), &OPTIONS).map(|chat| json(chat.body))
}

/// These messages, translated.
pub fn messages(messages: &str) -> Result<Value, Failure> {
    chat(&format!(r#""messages":{messages}"#)).map(|chat| chat["messages"].clone())
}

pub fn asked() -> Asked {
    Asked {
        model: "claude-x".into(),
        random: 7,
        prompt_tokens: 50,
        ratio: 4000,
        ..Asked::default()
    }
}

/// What a stream becomes, fed in pieces of this size.
pub fn run(asked: Asked, upstream: &[u8], size: usize, clean: bool) -> (Vec<u8>, End) {
    read(reader(asked), upstream, size, clean)
}
