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
use super::stream::{End, Stream};

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
    let mut stream = Stream::new(asked);
    let mut out = Vec::new();
    for piece in upstream.chunks(size) {
        stream.push(piece, &mut out);
    }
    let end = stream.end(clean, &mut out);
    (out, end)
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
