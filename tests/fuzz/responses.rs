//! The Responses dialect: whatever a client or an upstream sends, the other side gets only valid requests and events.

use alvus::dialect::interface::Dialect;
use alvus::dialect::json::Json;
use alvus::dialect::responses::request::translate;
use alvus::dialect::responses::stream::{StreamEnd, document, reader};
use alvus::dialect::terms::{Refused, RequestContext, Tool, ToolKind};
use serde_json::Value;

#[path = "../../src/dialect/responses/tests/strict.rs"]
mod strict;
#[path = "../../src/dialect/messages/tests/strict.rs"]
#[allow(dead_code, clippy::duplicate_mod)] // its template; its client is for Messages
mod template;

pub const REQUEST: &[&[u8]] = &[
    br#"{"role":"user","content":"x"},"#,
    br#"{"role":"developer","content":[{"type":"input_text","text":"x"}]},"#,
    br#"{"type":"function_call","call_id":"a","name":"n","namespace":"s","arguments":"{}"},"#,
    br#"{"type":"function_call_output","call_id":"a","output":"x"},"#,
    br#"{"type":"custom_tool_call","call_id":"b","name":"c","input":"x"},"#,
    br#"{"type":"custom_tool_call_output","call_id":"b","output":[{"type":"input_image","image_url":"u"}]},"#,
    br#"{"type":"reasoning","summary":[{"text":"t"}]},"#,
    br#""tools":[{"type":"namespace","name":"s","tools":[{"type":"function","name":"n"}]}],"#,
    br#""tools":[{"type":"custom","name":"c","format":{"definition":"d"}}],"#,
    b"\\u0061",
    b"\\\"",
    b"null",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"\"",
];

pub use super::dialects::STREAM;

/// A request is refused, or becomes one that every chat template takes.
pub fn request(input: &[u8]) {
    let refused = Refused {
        model: "m",
        prompt_tokens: 1,
        context: None,
    };
    let failure = Dialect::Responses.error(400, input, None, refused);
    assert!(serde_json::from_slice::<Value>(&failure.body("")).is_ok());
    let chat = match translate(input, "m") {
        Ok(chat) => chat,
        Err(failure) => {
            assert!(serde_json::from_slice::<Value>(&failure.body("")).is_ok());
            return;
        }
    };
    let text = String::from_utf8_lossy(&chat.body);
    assert!(Json::parse(&chat.body).is_some(), "{text}");
    // serde_json refuses what is very deep, and half a surrogate pair: those are the client's own.
    if let Ok(found) = serde_json::from_slice::<Value>(&chat.body) {
        let messages = found["messages"].as_array().map(Vec::as_slice);
        assert_eq!(
            template::chat_fault(messages.unwrap_or_default()),
            None,
            "{text}"
        );
        let tools = found["tools"].as_array().into_iter().flatten();
        let mut names: Vec<_> = tools
            .map(|tool| tool["function"]["name"].to_string())
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a name twice: {text}");
    }
}

/// The first byte says whether the end is clean, the rest is what the upstream sends.
pub fn stream(input: &[u8]) {
    let Some((first, upstream)) = input.split_first() else {
        return;
    };
    let clean = first & 1 == 0;
    let tool = |chat_name: &str, kind| Tool {
        chat_name: chat_name.into(),
        name: "t".into(),
        kind,
    };
    let kind = [
        ToolKind::Custom,
        ToolKind::Search,
        ToolKind::Function("s".into()),
    ];
    let asked = RequestContext {
        model: "m".into(),
        ratio: 3600,
        thinks_unopened: first & 2 != 0,
        limited: first & 4 != 0,
        tools: vec![tool("f", kind[usize::from(first >> 3) % 3].clone())],
        ..RequestContext::default()
    };
    let run = |size: usize| {
        let mut stream = reader(asked.clone());
        let mut out = Vec::new();
        upstream
            .chunks(size)
            .for_each(|piece| stream.push(piece, &mut out));
        let end = stream.end(clean, &mut out);
        (out, end)
    };
    let (out, end) = run(4096);
    for size in [1, 7] {
        assert_eq!(run(size), (out.clone(), end), "cut by {size}");
    }
    // A number beyond f64 is copied, and serde_json alone would refuse it.
    if strict::accumulate(&out).is_err_and(|fault| fault.contains("number out of range")) {
        return;
    }
    if let Ok(found) = document(asked.clone()).whole(upstream) {
        assert!(Json::parse(&found.body).is_some());
    }
    // Half a surrogate pair is copied, and serde_json alone would refuse it.
    if upstream.windows(3).any(|w| w.eq_ignore_ascii_case(b"\\ud")) {
        return;
    }
    let (_, over) = strict::accumulate(&out).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(over, end == StreamEnd::Whole);
}
