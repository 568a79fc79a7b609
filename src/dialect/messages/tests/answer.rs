//! A whole completion → a Message.

use serde_json::{Value, json};

use super::*;
use crate::dialect::messages::answer::document;

fn answer(message: &str, finish: &str) -> Result<Value, &'static str> {
    let body = format!(
        r#"{{"id":"c","object":"chat.completion","choices":[{{"index":0,"message":{message},"finish_reason":{finish}}}],
        "usage":{{"prompt_tokens":30,"completion_tokens":4,"prompt_tokens_details":{{"cached_tokens":10}}}}}}"#
    );
    let answer = document(asked()).whole(body.as_bytes());
    answer.map(|answer| json(answer.body))
}

#[test]
fn a_whole_answer_becomes_a_whole_message() {
    let found = answer(
        r#"{"role":"assistant","content":"a","reasoning_content":"t","tool_calls":[{"id":"i","type":"function","function":{"name":"f","arguments":"{\"x\": [1]}"}}]}"#,
        "\"tool_calls\"",
    );
    let expected = json!({
        "id":"msg_63cbe1e459320dd7","type":"message","role":"assistant","model":"claude-x",
        "content":[
            {"type":"thinking","thinking":"t","signature":""},
            {"type":"text","text":"a"},
            {"type":"tool_use","id":"i","name":"f","input":{"x":[1]}}
        ],
        "stop_reason":"tool_use","stop_sequence":null,
        "usage":{"input_tokens":20,"cache_creation_input_tokens":0,"cache_read_input_tokens":10,"output_tokens":4}
    });
    assert_eq!(found, Ok(expected));
}

#[test]
fn contents_and_reasons_are_as_the_table_says() {
    let call = |arguments: &str| {
        format!(
            r#"{{"content":null,"tool_calls":[{{"id":"i","function":{{"name":"f","arguments":{arguments}}}}}]}}"#
        )
    };
    let text = json!([{"type":"text","text":"a"}]);
    let called = json!([{"type":"tool_use","id":"i","name":"f","input":{}}]);
    for (message, finish, content, reason) in [
        (
            r#"{"content":"a"}"#.to_string(),
            "\"stop\"",
            text.clone(),
            "end_turn",
        ),
        (
            r#"{"content":"a","tool_calls":[]}"#.into(),
            "\"tool_calls\"",
            text.clone(),
            "end_turn",
        ),
        (
            r#"{"content":"a"}"#.into(),
            "\"length\"",
            text.clone(),
            "max_tokens",
        ),
        (
            r#"{"content":"a"}"#.into(),
            "\"content_filter\"",
            text.clone(),
            "refusal",
        ),
        (
            r#"{"content":"a"}"#.into(),
            "null",
            text.clone(),
            "end_turn",
        ),
        (
            r#"{"content":"","refusal":"a"}"#.into(),
            "\"stop\"",
            text.clone(),
            "end_turn",
        ),
        (
            r#"{"content":[{"type":"text","text":"a"}]}"#.into(),
            "\"stop\"",
            text.clone(),
            "end_turn",
        ),
        (
            r#"{"content":"<think>t</think>\n\na"}"#.into(),
            "\"stop\"",
            json!([{"type":"thinking","thinking":"t","signature":""},text[0]]),
            "end_turn",
        ),
        (call(r#""{}""#), "\"stop\"", called.clone(), "tool_use"),
        (call(r#""""#), "\"tool_calls\"", called.clone(), "tool_use"),
        (call("null"), "\"tool_calls\"", called.clone(), "tool_use"),
        (
            call(r#""null""#),
            "\"tool_calls\"",
            called.clone(),
            "tool_use",
        ),
        (call("{}"), "\"tool_calls\"", called.clone(), "tool_use"),
        (
            call(r#""{\"x\":""#),
            "\"length\"",
            json!([{"type":"text","text":""}]),
            "max_tokens",
        ),
        (
            r#"{"function_call":{"name":"f","arguments":"{\"x\":1}"},"content":"a"}"#.into(),
            "\"length\"",
            Value::Null,
            "max_tokens",
        ),
    ] {
        let found = answer(&message, finish).expect(&message);
        assert_eq!(found["stop_reason"], reason, "{message}");
        if !content.is_null() {
            assert_eq!(found["content"], content, "{message}");
        }
    }
}

#[test]
fn a_broken_answer_is_told_apart_from_an_empty_one() {
    for (message, finish, reason) in [
        (r#"{"content":""}"#, "\"stop\"", "end_turn"),
        (r#"{"content":null}"#, "\"length\"", "max_tokens"),
        (r#"{"content":" \n"}"#, "\"stop\"", "end_turn"),
    ] {
        let found = answer(message, finish).expect("an empty message");
        assert_eq!(found["content"], json!([{"type":"text","text":""}]));
        assert_eq!(found["stop_reason"], reason, "{message}");
        assert_eq!(found["usage"]["output_tokens"], 4, "as it was counted");
    }
    for (message, finish, expected) in [
        (
            r#"{"content":""}"#,
            "null",
            "it ended without a finish_reason",
        ),
        (
            r#"{"content":"a"}"#,
            "\"error\"",
            "the upstream gave up its answer",
        ),
        (
            r#"{"tool_calls":[{"id":"i","function":{"name":"f","arguments":"{\"x\":"}}]}"#,
            "\"tool_calls\"",
            "the arguments of a tool call are not whole",
        ),
        (
            r#"{"tool_calls":[{"id":"i","function":{"name":"f","arguments":"[1]"}}]}"#,
            "\"stop\"",
            "the arguments of a tool call are not whole",
        ),
        (
            r#"{"tool_calls":[{"id":"i","function":{"name":"f","arguments":[1]}}]}"#,
            "\"stop\"",
            "the arguments of a tool call are not whole",
        ),
        (
            r#"{"tool_calls":[{"id":"i","function":{"arguments":"{}"}}]}"#,
            "\"stop\"",
            "a tool call without a name",
        ),
    ] {
        assert_eq!(answer(message, finish), Err(expected), "{message}");
    }
    for (body, why) in [
        ("<html>", "the answer is not valid JSON"),
        (
            r#"{"error":{"message":"x"}}"#,
            "the upstream reported an error",
        ),
    ] {
        assert_eq!(
            document(asked()).whole(body.as_bytes()).map(|_| ()),
            Err(why)
        );
    }
}

#[test]
fn calls_stay_apart_however_the_upstream_numbers_and_names_them() {
    for one in [
        r#"{"index":0,"function":{"name":"f","arguments":""}}"#,
        r#"{"index":0,"id":"call_0","function":{"name":"f","arguments":"{}"}}"#,
        r#"{"index":1,"function":{"name":"f","arguments":[]}}"#,
        r#"{"id":"call_0","function":{"name":"f","arguments":null}}"#,
    ] {
        let found = answer(&format!(r#"{{"tool_calls":[{one},{one}]}}"#), "\"stop\"").expect(one);
        let calls = found["content"].as_array().map(Vec::as_slice);
        let [first, second] = calls.unwrap_or_default() else {
            panic!("{one}: {found}")
        };
        assert_ne!(first["id"], second["id"], "{one}");
        assert_eq!(
            (&first["name"], &second["input"]),
            (&json!("f"), &json!({})),
            "{one}"
        );
    }
}

#[test]
fn ids_of_calls_are_new_in_the_conversation() {
    let mut asked = asked();
    asked.used.add("call_0");
    let calls = r#"{"tool_calls":[{"id":"call_0","function":{"name":"f","arguments":"{}"}},{"id":"call_1","function":{"name":"f","arguments":"{}"}},{"id":"call_1","function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}]}"#;
    let body = format!(r#"{{"choices":[{{"message":{calls},"finish_reason":"tool_calls"}}]}}"#);
    let found = document(asked).whole(body.as_bytes()).expect("an answer");
    let found = json(found.body);
    let ids: Vec<&str> = found["content"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|block| block["id"].as_str())
        .collect();
    assert!(
        ids[0].starts_with("toolu_")
            && ids[2].starts_with("toolu_")
            && ids[3].starts_with("toolu_")
    );
    assert_eq!(ids[1], "call_1");
    assert!(ids[0] != ids[2] && ids[2] != ids[3]);
}
