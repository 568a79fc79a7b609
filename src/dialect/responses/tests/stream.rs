//! Streams, row by row; and whole answers, which are made by the same rules.

use serde_json::{Value, json};

use super::super::answer::LONGEST;
use super::super::stream::document;
use super::*;
use crate::dialect::terms::{Tool, ToolKind};

/// The output of a response, without what differs each time.
fn output(response: &Value) -> Value {
    let mut items = response["output"].clone();
    for item in items.as_array_mut().into_iter().flatten() {
        let fields = item.as_object_mut().expect("an item");
        fields.remove("id").expect("an id");
        if let Some(part) = fields.get_mut("content").and_then(|list| list.get_mut(0)) {
            *part = part["text"].clone();
        }
        fields.retain(|name, _| !matches!(name.as_str(), "role" | "status"));
    }
    items
}

fn text(text: &str) -> Value {
    json!({"type":"message","content":[text]})
}

fn thought(text: &str) -> Value {
    json!({"type":"reasoning","summary":[{"type":"summary_text","text":text}]})
}

fn function(call_id: &str, name: &str, arguments: &str) -> Value {
    json!({"type":"function_call","call_id":call_id,"name":name,"arguments":arguments})
}

#[test]
fn deltas_become_items_as_the_table_says() {
    for (deltas, finish, expected) in [
        (
            &[
                r#"{"role":"assistant","content":""}"#,
                r#"{"content":"he\"y"}"#,
                r#"{"content":" you"}"#,
            ][..],
            "stop",
            json!([text("he\"y you")]),
        ),
        (
            &[r#"{"reasoning_content":"hm"}"#, r#"{"content":"a"}"#],
            "stop",
            json!([thought("hm"), text("a")]),
        ),
        (
            &[r#"{"content":"<thi"}"#, r#"{"content":"nk>hm</think>a"}"#],
            "stop",
            json!([thought("hm"), text("a")]),
        ),
        (&[r#"{"refusal":"no"}"#], "stop", json!([text("no")])),
        (
            &[
                &call("a", 0, "ls", ""),
                &call("a", 0, "", "{\"x\""),
                &call("", 0, "", ":1}"),
            ],
            "tool_calls",
            json!([function("a", "ls", "{\"x\":1}")]),
        ),
        (
            &[
                r#"{"content":"so"}"#,
                &call("a", 0, "ls", "{}"),
                &call("b", 1, "cat", "{}"),
            ],
            "tool_calls",
            json!([
                text("so"),
                function("a", "ls", "{}"),
                function("b", "cat", "{}")
            ]),
        ),
        (
            &[&call("a", 0, "ls", "null")],
            "tool_calls",
            json!([function("a", "ls", "{}")]),
        ),
        (
            &[&call("a", 0, "ls", "")],
            "tool_calls",
            json!([function("a", "ls", "{}")]),
        ),
        (
            &[&call("a", 0, "ls", "{}"), r#"{"content":"then"}"#],
            "stop",
            json!([function("a", "ls", "{}"), text("then")]),
        ),
        (
            &[
                &call("a", 0, "ls", "{\"x"),
                &call("b", 1, "cat", "{"),
                &call("a", 0, "", "\":1}"),
                &call("b", 1, "", "}"),
            ],
            "tool_calls",
            json!([function("a", "ls", "{\"x\":1}"), function("b", "cat", "{}")]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"ls","arguments":{"x":1}}}]}"#,
            ],
            "tool_calls",
            json!([function("a", "ls", "{\"x\":1}")]),
        ),
        (
            &[r#"{"function_call":{"name":"ls","arguments":"{}"}}"#],
            "function_call",
            Value::Null,
        ),
        (
            &[&call("a", 0, "ls", "{\"cut")],
            "length",
            json!([function("a", "ls", "{\"cut")]),
        ),
    ] {
        let response = response(asked(), deltas, finish);
        assert_eq!(response["status"], "completed", "{deltas:?}");
        if !expected.is_null() {
            assert_eq!(output(&response), expected, "{deltas:?}");
        }
        assert_eq!(response["model"], "codex-x");
    }
}

#[test]
fn a_tool_comes_back_as_what_the_client_called_it() {
    let tool = |chat_name: &str, name: &str, kind| Tool {
        chat_name: chat_name.into(),
        name: name.into(),
        kind,
    };
    let asked = || RequestContext {
        tools: vec![
            tool(
                "agents__spawn",
                "spawn",
                ToolKind::Function("agents".into()),
            ),
            tool("apply_patch", "apply_patch", ToolKind::Custom),
            tool("tool_search", "tool_search", ToolKind::Search),
        ],
        ..asked()
    };
    let long = format!("{{\"input\":\"{}\"}}", "x".repeat(5000));
    for (name, pieces, expected) in [
        (
            "agents__spawn",
            &["{\"a\"", ":1}"][..],
            json!({"type":"function_call","name":"spawn","namespace":"agents","arguments":"{\"a\":1}"}),
        ),
        (
            "apply_patch",
            &["{\"inp", "ut\":\"*** \\\"Begin\\\"\\n+é\"}"],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"*** \"Begin\"\n+é"}),
        ),
        (
            "apply_patch",
            &["{\"patch\":\"p\"}"],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"p"}),
        ),
        (
            "apply_patch",
            &["*** Begin"],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"*** Begin"}),
        ),
        (
            "apply_patch",
            &["\"*** Begin\""],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"*** Begin"}),
        ),
        (
            "apply_patch",
            &["{\"a\":1}"],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"{\"a\":1}"}),
        ),
        (
            "apply_patch",
            &[&long[..2000], &long[2000..]],
            json!({"type":"custom_tool_call","name":"apply_patch","input":"x".repeat(5000)}),
        ),
        (
            "tool_search",
            &["{\"query\":\"q\"}"],
            json!({"type":"tool_search_call","execution":"client","arguments":{"query":"q"}}),
        ),
        (
            "tool_search",
            &[""],
            json!({"type":"tool_search_call","execution":"client","arguments":{}}),
        ),
    ] {
        let mut deltas = vec![call("c", 0, name, "")];
        deltas.extend(pieces.iter().map(|piece| call("c", 0, "", piece)));
        let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
        let mut expected = expected;
        expected["call_id"] = json!("c");
        assert_eq!(
            output(&response(asked(), &deltas, "tool_calls")),
            json!([expected]),
            "{name} {pieces:?}"
        );
    }
    // The client of a long input hears that something comes.
    let (out, _) = run(
        asked(),
        &finished(
            &[
                &call("c", 0, "apply_patch", &long[..3000]),
                &call("c", 0, "", &long[3000..]),
            ],
            "stop",
        ),
        99,
        true,
    );
    let signs = String::from_utf8(out)
        .expect("text")
        .matches("input.delta\",\"sequence")
        .count();
    assert_eq!(signs, 3, "two signs of life, and the input");
}

#[test]
fn the_end_says_how_it_ended() {
    let limited = || RequestContext {
        limited: true,
        ..asked()
    };
    let content = r#"{"content":"a"}"#;
    for (asked, delta, finish, status, why) in [
        (asked(), content, "stop", "completed", Value::Null),
        (asked(), content, "what", "completed", Value::Null),
        (asked(), content, "length", "completed", Value::Null),
        (
            limited(),
            content,
            "length",
            "incomplete",
            json!("max_output_tokens"),
        ),
        (
            asked(),
            r#"{"reasoning":"hm"}"#,
            "length",
            "incomplete",
            json!("max_output_tokens"),
        ),
        (
            asked(),
            content,
            "content_filter",
            "incomplete",
            json!("content_filter"),
        ),
        (
            asked(),
            &call("a", 0, "f", "{}"),
            "stop",
            "completed",
            Value::Null,
        ),
    ] {
        let found = response(asked, &[delta], finish);
        assert_eq!(
            (
                found["status"].as_str(),
                &found["incomplete_details"]["reason"]
            ),
            (Some(status), &why),
            "{finish}"
        );
    }
}

#[test]
fn tokens_are_counted_by_the_upstream_or_else_estimated() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
    let mut upstream = events(&[
        &delta(r#"{"content":"a"}"#),
        r#"{"choices":[{"finish_reason":"stop","delta":{}}]}"#,
        usage,
    ]);
    let (out, _) = run(asked(), &upstream, 30, true);
    let counted = json!({"input_tokens":9,"input_tokens_details":{"cached_tokens":5},"output_tokens":4,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":13});
    assert_eq!(strict::accumulate(&out).expect("good").0["usage"], counted);
    upstream = finished(&[&delta_of(8000)], "stop");
    let (out, _) = run(asked(), &upstream, 999, true);
    let usage = &strict::accumulate(&out).expect("good").0["usage"];
    assert_eq!(
        (&usage["input_tokens"], &usage["output_tokens"]),
        (&json!(50), &json!(2000))
    );
}

fn delta_of(length: usize) -> String {
    format!(r#"{{"content":"{}"}}"#, "x".repeat(length))
}

#[test]
fn an_incomplete_answer_has_no_end() {
    let done = ["[DONE]"];
    let none: [&str; 0] = [];
    for (deltas, end, clean, expected) in [
        (
            &[r#"{"content":"a"}"#][..],
            &none[..],
            true,
            "it ended without a finish_reason",
        ),
        (&[r#"{"content":"a"}"#], &none, false, "the stream was cut"),
        (
            &[&call("a", 0, "f", "{\"x")],
            &done,
            true,
            "the arguments of a tool call are not whole",
        ),
        (
            &[&call("a", 0, "", "{}")],
            &done,
            true,
            "a tool call without a name",
        ),
        (
            &[r#"{"content":"a"}"#],
            &[r#"{"error":{"message":"m"}}"#],
            true,
            "the upstream reported an error",
        ),
        (
            &[r#"{"content":"a"}"#],
            &["{\"cut"],
            true,
            "an event is not valid JSON",
        ),
        (
            &[r#"{"content":"a"}"#],
            &[r#"{"choices":[{"finish_reason":"error"}]}"#],
            true,
            "the upstream gave up its answer",
        ),
    ] {
        let mut all: Vec<String> = deltas.iter().map(|text| delta(text)).collect();
        all.extend(end.iter().map(|text| text.to_string()));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let (out, found) = run(asked(), &events(&all), 20, clean);
        assert_eq!(found, StreamEnd::Broken(expected), "{all:?}");
        assert!(!strict::accumulate(&out).expect("good so far").1);
    }
}

#[test]
fn an_answer_that_says_nothing_tells_nothing_by_itself() {
    let mut stream = reader(asked());
    let mut out = Vec::new();
    stream.push(&finished(&[r#"{"content":""}"#], "stop"), &mut out);
    assert_eq!((stream.ended(), out.len()), (Some(StreamEnd::Empty), 0));
    stream.put_empty(&mut out);
    let (response, over) = strict::accumulate(&out).expect("good");
    assert!(over && response["output"] == json!([]));
}

#[test]
fn an_answer_longer_than_can_be_held_fails_in_words() {
    let mut stream = reader(asked());
    let mut out = Vec::new();
    let piece = events(&[&delta(&delta_of(512 * 1024))]);
    while stream.ended().is_none() {
        stream.push(&piece, &mut out);
        assert!(stream.needs() <= 6 * (LONGEST + 512 * 1024));
    }
    assert_eq!(stream.ended(), Some(StreamEnd::Whole), "its end is told");
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains("event: response.failed") && text.contains("4 MiB"));
    let before = text.len();
    let mut out = text.into_bytes();
    stream.push(&piece, &mut out);
    assert_eq!(out.len(), before, "and nothing behind it");
    let mut stream = reader(asked());
    let mut out = Vec::new();
    stream.push(&events(&[&delta(r#"{"content":"a"}"#)]), &mut out);
    stream.fail("no memory", &mut out);
    let (response, over) = strict::accumulate(&out).expect("good");
    assert!(over && response["error"]["message"] == "no memory");
}

#[test]
fn a_whole_answer_is_the_response_that_its_stream_would_have_been() {
    let body = |message: &str, finish: &str| {
        format!(
            r#"{{"choices":[{{"message":{message},"finish_reason":{finish}}}],"usage":{{"prompt_tokens":9,"completion_tokens":4}}}}"#
        )
    };
    for (message, finish, expected) in [
        (r#"{"content":"a"}"#, "\"stop\"", json!([text("a")])),
        (r#"{"content":"a"}"#, "null", json!([text("a")])),
        (
            r#"{"content":"<think>hm</think>a"}"#,
            "\"stop\"",
            json!([thought("hm"), text("a")]),
        ),
        (
            r#"{"content":null,"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"f","arguments":"{}"}}]}"#,
            "\"tool_calls\"",
            json!([function("a", "f", "{}"), function("b", "f", "{}")]),
        ),
    ] {
        let found = document(asked())
            .whole(body(message, finish).as_bytes())
            .expect("an answer");
        let response = json(&found.body);
        assert_eq!(output(&response), expected, "{message}");
        assert_eq!(
            (&response["status"], &response["usage"]["total_tokens"]),
            (&json!("completed"), &json!(13))
        );
        assert_eq!(found.usage.expect("counted").prompt, 9);
    }
    for (body, expected) in [
        (
            body(r#"{"content":""}"#, "null"),
            "it ended without a finish_reason",
        ),
        ("<html>".into(), "the answer is not valid JSON"),
        (
            r#"{"error":{"message":"m"}}"#.into(),
            "the upstream reported an error",
        ),
    ] {
        assert_eq!(
            document(asked()).whole(body.as_bytes()).expect_err("none"),
            expected,
            "{body}"
        );
    }
    let nothing = body(r#"{"content":""}"#, "\"length\"");
    let nothing = document(asked()).whole(nothing.as_bytes());
    let nothing = json(nothing.expect("an empty response").body);
    assert_eq!(
        (&nothing["status"], &nothing["output"]),
        (&json!("incomplete"), &json!([]))
    );
}
