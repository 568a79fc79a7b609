//! Shared by the tests of all dialects: streams of an upstream, and their translation.

use serde_json::Value;

use super::reader::Reader;
use super::terms::StreamEnd;

/// The model, by the upstream's name.
pub const MODEL: &str = "up/model";

pub fn json(text: impl AsRef<[u8]>) -> Value {
    let text = text.as_ref();
    let read = serde_json::from_slice(text);
    read.unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(text)))
}

/// The translation of a stream that comes in pieces of this size.
pub fn read(mut reader: Reader, upstream: &[u8], size: usize, clean: bool) -> (Vec<u8>, StreamEnd) {
    let mut out = Vec::new();
    for piece in upstream.chunks(size) {
        reader.push(piece, &mut out);
    }
    let end = reader.end(clean, &mut out);
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
