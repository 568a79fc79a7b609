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

use super::errors::Failure;
use super::request::translate;
use super::stream::{End, Stream};
use crate::dialect::terms::{Asked, ChatRequest, Options};

pub const OPTIONS: Options<'static> = Options {
    model: "up/model",
    max_output: None,
    effort: false,
};

pub fn json(text: impl AsRef<[u8]>) -> Value {
    let text = text.as_ref();
    let read = serde_json::from_slice(text);
    read.unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(text)))
}

/// A request with these fields, translated.
pub fn translated(fields: &str) -> Result<ChatRequest, Failure> {
    translate(
        format!(r#"{{"model":"codex-x",{fields}}}"#).as_bytes(),
        &OPTIONS,
    )
}

/// Likewise, as it goes up.
pub fn chat(fields: &str) -> Result<Value, Failure> {
    translated(fields).map(|chat| json(chat.body))
}

/// The messages of a request with this input.
pub fn messages(input: &str) -> Result<Value, Failure> {
    chat(&format!(r#""input":{input}"#)).map(|chat| chat["messages"].clone())
}

pub fn asked() -> Asked {
    Asked {
        model: "codex-x".into(),
        random: 7,
        prompt_tokens: 50,
        ratio: 4000,
        ..Asked::default()
    }
}

/// What a stream becomes, fed in pieces of this size.
pub fn run(asked: Asked, upstream: &[u8], size: usize, clean: bool) -> (Vec<u8>, End) {
    let mut stream = Stream::new(asked);
    let mut out = Vec::new();
    for piece in upstream.chunks(size) {
        stream.push(piece, &mut out);
    }
    let end = stream.end(clean, &mut out);
    (out, end)
}

/// The response that a stream of these deltas becomes.
pub fn response(asked: Asked, deltas: &[&str], finish: &str) -> Value {
    let (out, end) = run(asked, &finished(deltas, finish), 50, true);
    assert_eq!(end, End::Whole);
    let (response, whole) = strict::accumulate(&out).expect("a good stream");
    assert!(whole);
    response
}

/// An upstream's stream of these events.
pub fn events(events: &[&str]) -> Vec<u8> {
    let event = |event: &&str| format!("data: {event}\n\n");
    events.iter().map(event).collect::<String>().into_bytes()
}

/// An event with this delta.
pub fn delta(delta: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#
    )
}

/// The events of deltas, a finish_reason, and `[DONE]`.
pub fn finished(deltas: &[&str], finish: &str) -> Vec<u8> {
    let mut all: Vec<String> = deltas.iter().map(|text| delta(text)).collect();
    all.push(format!(
        r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{finish}"}}]}}"#
    ));
    all.push("[DONE]".into());
    events(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A piece of a call.
pub fn call(id: &str, index: usize, name: &str, arguments: &str) -> String {
    let arguments = serde_json::json!(arguments);
    format!(
        r#"{{"tool_calls":[{{"index":{index},"id":"{id}","type":"function","function":{{"name":"{name}","arguments":{arguments}}}}}]}}"#
    )
}
