//! The Messages dialect: whatever a client or an upstream sends, the other side gets only valid requests and events.

use std::time::Instant;

use alvus::dialect::adapt::adapt;
use alvus::dialect::interface::Dialect;
use alvus::dialect::json::Json;
use alvus::dialect::learned::{Learned, to_json};
use alvus::dialect::lessons::{FIELDS, Lesson, learn_from_error};
use alvus::dialect::messages::RequestContext;
use alvus::dialect::messages::answer;
use alvus::dialect::messages::request::{count_tokens, translate};
use alvus::dialect::messages::stream::{StreamEnd, reader};
use alvus::dialect::models::place_of_model;
use alvus::dialect::terms::Refused;
use serde_json::Value;

#[path = "../../src/dialect/messages/tests/strict.rs"]
mod strict;

pub const REQUEST: &[&[u8]] = &[
    br#"{"role":"user","content":"x"},"#,
    br#"{"role":"system","content":"x"},"#,
    br#"{"role":"assistant","content":[]},"#,
    br#"{"type":"text","text":"x"},"#,
    br#"{"type":"tool_use","id":"a","name":"n","input":{}},"#,
    br#"{"type":"tool_result","tool_use_id":"a","content":"x"},"#,
    br#"{"type":"image","source":{"type":"url","url":"u"}},"#,
    br#"{"type":"thinking","thinking":"t"},"#,
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

pub const STREAM: &[&[u8]] = &[
    b"data: ",
    b"\n\n",
    b"\r\n\r\n",
    b"data: [DONE]\n\n",
    b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"reasoning\":\"x\"}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}]}\n\n",
    b"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}]}\n\n",
    b"\"finish_reason\":\"stop\"",
    b"\"finish_reason\":\"length\"",
    b"<think>",
    b"</think>",
    b"\\u003c",
    b"\\\"",
    b"\"index\":1,",
    b"null",
];

/// A request is refused, or becomes one that every chat template takes, whatever was learned.
pub fn request(input: &[u8]) {
    let _ = count_tokens(input, 3600);
    // Of a text that is no JSON it may find a place too; that is the upstream's to refuse.
    if let Some(place) = place_of_model(input)
        && Json::parse(input).is_some()
    {
        let replaced = [&input[..place.start], b"\"m\"", &input[place.end..]].concat();
        assert!(Json::parse(&replaced).is_some());
    }
    let refused = Refused {
        model: "m",
        prompt_tokens: 1,
        context: None,
    };
    let failure = Dialect::Messages.error(400, input, None, refused);
    assert!(serde_json::from_slice::<Value>(&failure.body("")).is_ok());
    let _ = learn_from_error(400, input);
    let Ok(chat) = translate(input, "m") else {
        return;
    };
    let mut learned = Learned::default();
    for lesson in FIELDS.map(Lesson::Refuses) {
        learned.learn("m", lesson, chat.size, Instant::now());
    }
    for lesson in [
        Lesson::PlainSchemas,
        Lesson::Blind,
        Lesson::NeedsThoughts,
        Lesson::ShortIds,
        Lesson::Context(8192, None),
    ] {
        learned.learn("m", lesson, chat.size, Instant::now());
    }
    assert!(serde_json::from_slice::<Value>(&to_json(&learned)).is_ok());
    let adapted = adapt(&chat.body, &learned.traits("m"), 100).unwrap_or_default();
    for body in [&chat.body, &adapted]
        .into_iter()
        .filter(|body| !body.is_empty())
    {
        assert!(
            Json::parse(body).is_some(),
            "{}",
            String::from_utf8_lossy(body)
        );
        // serde_json refuses what is very deep, and half a surrogate pair: those are the client's own.
        let Ok(whole) = serde_json::from_slice::<Value>(body) else {
            continue;
        };
        let messages = whole["messages"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        assert!(!messages.is_empty());
        assert_eq!(strict::chat_fault(messages), None, "{whole}");
    }
}

/// The first byte says whether the end is clean, the rest is what the upstream sends.
pub fn stream(input: &[u8]) {
    let Some((first, upstream)) = input.split_first() else {
        return;
    };
    let clean = first & 1 == 0;
    let run = |size: usize, keeps_open: bool| {
        let asked = RequestContext {
            model: "m".into(),
            prompt_tokens: 9,
            ratio: 3600,
            thinks_unopened: first & 2 != 0,
            keeps_open,
            ..RequestContext::default()
        };
        let mut stream = reader(asked);
        let mut out = Vec::new();
        upstream
            .chunks(size)
            .for_each(|piece| stream.push(piece, &mut out));
        let end = stream.end(clean, &mut out);
        (out, end)
    };
    let (out, end) = run(4096, false);
    for size in [1, 7] {
        assert_eq!(run(size, false), (out.clone(), end), "cut by {size}");
    }
    // A number beyond f64 is copied, and serde_json alone would refuse it.
    if strict::accumulate(&out).is_err_and(|fault| fault.contains("number out of range")) {
        return;
    }
    let (open, open_end) = run(4096, true);
    assert_eq!(open_end, end);
    assert_eq!(strict::kept_open_fault(&open, &out), None);
    let _ = reader(RequestContext::default()).says_nothing(upstream, clean);
    if let Ok(found) = answer::document(RequestContext::default()).whole(upstream) {
        assert!(Json::parse(&found.body).is_some());
    }
    // Half a surrogate pair is copied, and serde_json alone would refuse it.
    if upstream.windows(3).any(|w| w.eq_ignore_ascii_case(b"\\ud")) {
        return;
    }
    let (_, whole) = strict::accumulate(&out).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(whole, end == StreamEnd::Whole);
}
