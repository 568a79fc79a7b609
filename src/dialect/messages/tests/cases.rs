//! The cases that broke others, each by its name; without 21, which is the Responses dialect's alone.

use std::time::Instant;

use serde_json::{Value, json};

use super::strict::accumulate;
use super::*;
use crate::dialect::adapt::adapt;
use crate::dialect::json::Json;
use crate::dialect::learned::Learned;
use crate::dialect::lessons::{Lesson, learn_from_error};
use crate::dialect::measure::Size;
use crate::dialect::messages::request::count_tokens;
use crate::dialect::terms::Refused;

/// The message that an upstream's stream becomes.
fn stream(deltas: &[&str], finish: &str) -> Value {
    let (out, end) = run(asked(), &finished(deltas, finish), 50, true);
    assert_eq!(end, StreamEnd::Whole);
    accumulate(&out).expect("a good stream").0
}

fn tool_call(id: &str, index: usize, name: &str, arguments: &str) -> String {
    let arguments = json!(arguments);
    format!(
        r#"{{"tool_calls":[{{"index":{index},"id":"{id}","type":"function","function":{{"name":"{name}","arguments":{arguments}}}}}]}}"#
    )
}

fn roles(messages: &Value) -> Vec<&str> {
    messages
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|message| message["role"].as_str())
        .collect()
}

#[test]
fn case_01_a_system_message_directly_behind_tool_results() {
    let found = messages(
        r#"[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"n","input":{}}]},
        {"role":"system","content":"before"},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"r"}]},{"role":"system","content":"after"}]"#,
    )
    .expect("messages");
    assert_eq!(roles(&found), ["user", "assistant", "tool", "user"]);
    assert_eq!(
        found[3]["content"],
        "<system-reminder>\nbefore\n</system-reminder>\n<system-reminder>\nafter\n</system-reminder>"
    );
}

#[test]
fn case_02_a_message_id_is_never_repeated() {
    let id = |random| {
        let (out, _) = run(
            RequestContext { random, ..asked() },
            &finished(&[r#"{"content":"a"}"#], "stop"),
            99,
            true,
        );
        accumulate(&out).expect("good").0["id"]
            .as_str()
            .map(String::from)
    };
    assert_ne!(id(1), id(2));
}

#[test]
fn case_03_a_tool_id_that_repeats_over_turns_is_replaced() {
    let mut asked = asked();
    asked.used.add("call_0");
    let (out, _) = run(
        asked,
        &finished(
            &[
                &tool_call("call_0", 0, "f", "{}"),
                &tool_call("call_1", 1, "f", "{}"),
            ],
            "tool_calls",
        ),
        99,
        true,
    );
    let found = accumulate(&out).expect("good").0;
    assert!(
        found["content"][0]["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("toolu_"))
    );
    assert_eq!(found["content"][1]["id"], "call_1");
}

#[test]
fn case_04_two_calls_whose_pieces_interleave() {
    let found = stream(
        &[
            &tool_call("a", 0, "f", ""),
            &tool_call("b", 1, "g", ""),
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}},{"index":1,"function":{"arguments":"{\"y\":"}}]}"#,
            &tool_call("b", 1, "g", "2}"),
            &tool_call("a", 0, "f", ":1}"),
        ],
        "tool_calls",
    );
    assert_eq!(
        (&found["content"][0]["input"], &found["content"][1]["input"]),
        (&json!({"x":1}), &json!({"y":2}))
    );
    let found = stream(
        &[&tool_call("a", 0, "f", "{}"), &tool_call("b", 0, "f", "{}")],
        "tool_calls",
    );
    assert_eq!(
        found["content"].as_array().map(Vec::len),
        Some(2),
        "all with the number 0"
    );
}

#[test]
fn case_05_a_block_is_stopped_once() {
    // A call that is closed because text follows, and of which a piece comes later.
    let late = tool_call("a", 0, "f", " ");
    let all = finished(
        &[
            &tool_call("a", 0, "f", "{}"),
            r#"{"content":"x"}"#,
            &late,
            r#"{"content":"y"}"#,
        ],
        "tool_calls",
    );
    let (out, end) = run(asked(), &all, 99, true);
    assert_eq!(end, StreamEnd::Whole);
    let stops = String::from_utf8_lossy(&out)
        .matches("event: content_block_stop")
        .count();
    assert_eq!((stops, accumulate(&out).expect("good").1), (2, true));
}

#[test]
fn case_05_a_block_is_stopped_after_its_last_arguments() {
    // The second call gets its name while the first one lacks its last bracket.
    let found = stream(
        &[
            &tool_call("a", 0, "f", r#"{"x":1"#),
            &tool_call("b", 1, "", "{}"),
            &tool_call("b", 1, "g", ""),
            &tool_call("a", 0, "", "}"),
        ],
        "tool_calls",
    );
    let inputs = [0, 1].map(|at| &found["content"][at]["input"]);
    assert_eq!(inputs, [&json!({"x": 1}), &json!({})]);
}

#[test]
fn case_06_thoughts_then_calls_without_text() {
    let found = stream(
        &[
            r#"{"reasoning_content":"hm"}"#,
            r#"{"content":""}"#,
            &tool_call("a", 0, "f", r#"{"x":1}"#),
        ],
        "tool_calls",
    );
    assert_eq!(found["content"][0]["thinking"], "hm");
    assert_eq!(found["content"][1]["input"], json!({"x":1}));
}

#[test]
fn case_07_thoughts_go_back_with_their_calls() {
    let found = messages(
        r#"[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"tool_use","id":"a","name":"n","input":{}}]}]"#,
    )
    .expect("messages");
    assert_eq!(found[1]["reasoning_content"], "hm");
    let without = br#"{"messages":[{"role":"assistant","content":"","tool_calls":[]}]}"#;
    let refusal =
        br#"{"error":{"message":"reasoning_content is missing in assistant tool call message"}}"#;
    assert_eq!(
        again(without, 400, refusal).expect("again")["messages"][0]["reasoning_content"],
        " "
    );
}

#[test]
fn case_08_think_tags_are_split_open_or_only_words() {
    let found = stream(
        &[
            r#"{"content":"<th"}"#,
            r#"{"content":"ink>hm<"}"#,
            r#"{"content":"/think>x"}"#,
        ],
        "stop",
    );
    assert_eq!(
        (
            &found["content"][0]["thinking"],
            &found["content"][1]["text"]
        ),
        (&json!("hm"), &json!("x"))
    );
    let found = stream(
        &[r#"{"content":"`<think>` "}"#, r#"{"content":"</think>"}"#],
        "stop",
    );
    assert_eq!(found["content"][0]["text"], "`<think>` </think>");
    let unopened = RequestContext {
        thinks_unopened: true,
        ..asked()
    };
    let (out, _) = run(
        unopened,
        &finished(
            &[r#"{"content":"hm"}"#, r#"{"content":"</think>x"}"#],
            "stop",
        ),
        9,
        true,
    );
    assert_eq!(accumulate(&out).expect("good").0["content"][1]["text"], "x");
}

#[test]
fn case_09_a_model_that_thinks_has_room_for_the_verdict() {
    let auto = r#""messages":[{"role":"user","content":"x"}],"thinking":{"type":"disabled"},"stop_sequences":["</block>"]"#;
    let body = format!(r#"{{"model":"claude-sonnet-5","max_tokens":64,{auto}}}"#);
    let found = json(translate(body.as_bytes(), MODEL).expect("a chat").body);
    assert_eq!(
        (&found["max_tokens"], &found["stop"]),
        (&json!(1024), &json!(["</block>"]))
    );
}

#[test]
fn case_10_usage_comes_last_and_reaches_the_client() {
    let all = [
        delta(r#"{"content":"a"}"#),
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#.into(),
        r#"{"choices":[],"usage":{"prompt_tokens":9000,"completion_tokens":5}}"#.into(),
        "[DONE]".into(),
    ];
    let (out, _) = run(
        asked(),
        &events(&all.each_ref().map(String::as_str)),
        99,
        true,
    );
    assert_eq!(
        accumulate(&out).expect("good").0["usage"]["input_tokens"],
        9000
    );
}

#[test]
fn case_11_an_overflow_is_told_so_that_it_is_compacted() {
    let refused = Refused {
        model: "m",
        prompt_tokens: 100,
        context: None,
    };
    let nim = br#"{"object":"error","message":"This model's maximum context length is 8192 tokens. However, your request has 9000 input tokens."}"#;
    assert_eq!(
        Dialect::Messages.error(400, nim, None, refused).message,
        "prompt is too long: 9000 tokens > 8192 maximum"
    );
}

/// The request after the lesson of a refusal.
fn again(body: &[u8], status: u16, refusal: &[u8]) -> Option<Value> {
    let size = Size::of(Json::parse(body).expect("JSON"));
    let mut learned = Learned::default();
    learned.learn(
        "m",
        learn_from_error(status, refusal)?,
        size,
        Instant::now(),
    );
    let traits = learned.traits("m");
    adapt(body, &traits, traits.tokens(size)).map(json)
}

#[test]
fn case_12_max_tokens_above_the_limit_are_lowered() {
    let body = br#"{"model":"m","max_tokens":128000,"messages":[]}"#;
    let output = br#"{"error":{"message":"max_tokens is too large: 128000. This model supports at most 16384 completion tokens"}}"#;
    assert_eq!(
        again(body, 400, output).expect("again")["max_tokens"],
        16384
    );
    let sum = br#"{"error":{"message":"This model's maximum context length is 131072 tokens. However, you requested 138000 tokens (10000 in the messages, 128000 in the completion)."}}"#;
    let long = format!(
        r#"{{"model":"m","max_tokens":128000,"messages":["{}"]}}"#,
        "word ".repeat(8000)
    );
    let most = again(long.as_bytes(), 400, sum).expect("again")["max_tokens"]
        .as_u64()
        .expect("a number");
    assert!((115_000..=121_072).contains(&most), "{most}");
    let negative = br#"{"error":{"message":"max_tokens must be at least 1, got -853."}}"#;
    assert!(learn_from_error(400, negative).is_none());
    let refused = Refused {
        model: "m",
        prompt_tokens: 9_045,
        context: Some(8_192),
    };
    assert_eq!(
        Dialect::Messages
            .error(400, negative, None, refused)
            .message,
        "prompt is too long: 9045 tokens > 8192 maximum"
    );
}

#[test]
fn case_13_a_break_never_has_a_message_stop() {
    let whole = finished(
        &[r#"{"content":"a"}"#, &tool_call("a", 0, "f", "{}")],
        "tool_calls",
    );
    for cut in 0..whole.len() - 2 {
        let (out, end) = run(asked(), &whole[..cut], 64, false);
        let shown = String::from_utf8_lossy(&out);
        let told = whole[..cut].ends_with(b"[DONE]\n");
        assert!(
            told || !(shown.contains("message_stop") || shown.contains("event: error")),
            "{cut} {end:?}"
        );
    }
}

#[test]
fn case_14_a_field_that_is_refused_is_left_out() {
    let body = br#"{"model":"m","stream_options":{"include_usage":true},"top_p":1,"messages":[]}"#;
    let refusal = br#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#;
    assert_eq!(
        again(body, 422, refusal),
        Some(json!({"model":"m","top_p":1,"messages":[]}))
    );
    let found = chat(
        r#""messages":[{"role":"user","content":"x"}],"context_management":{},"safeguards":{},"tools":[{"name":"n","defer_loading":true}]"#,
    );
    let text = found.expect("a chat").to_string();
    assert!(
        !text.contains("context_management")
            && !text.contains("safeguards")
            && !text.contains("defer_loading")
    );
}

#[test]
fn case_15_content_is_a_string_and_roles_alternate() {
    let found = messages(
        r#"[{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"user","content":"b"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"n","input":{}}]},{"role":"assistant","content":""}]"#,
    )
    .expect("messages");
    assert_eq!(found[0], json!({"role":"user","content":"a\nb"}));
    assert_eq!(found[1]["content"], "", "not null");
    assert_eq!(roles(&found), ["user", "assistant", "tool"]);
}

#[test]
fn case_16_images_in_results_and_a_model_that_reads_none() {
    let chat = translate(
        br#"{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"n","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QQ"}}]}]}]}"#,
        MODEL,
    )
    .expect("a chat");
    let found = json(&chat.body);
    assert_eq!(
        found["messages"][2]["content"][1]["image_url"]["url"],
        "data:image/png;base64,QQ"
    );
    let refusal = br#"{"error":{"message":"m is not a multimodal model"}}"#;
    let found = again(&chat.body, 500, refusal).expect("again");
    assert_eq!(
        found["messages"][2]["content"],
        "[image 1]\n[image omitted: this model reads none]"
    );
}

#[test]
fn case_17_results_that_are_orphans_missing_reordered_or_doubled() {
    let found = messages(
        r#"[{"role":"user","content":[{"type":"tool_result","tool_use_id":"gone","content":"o"}]},
        {"role":"assistant","content":[{"type":"tool_use","id":"a","name":"n","input":{}},{"type":"tool_use","id":"b","name":"n","input":{}},{"type":"tool_use","id":"c","name":"n","input":{}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"C"},{"type":"tool_result","tool_use_id":"a","content":"A"},{"type":"tool_result","tool_use_id":"a","content":"A2"}]}]"#,
    )
    .expect("messages");
    let contents: Vec<&str> = found
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|m| m["content"].as_str())
        .collect();
    let expected = [
        "[result of an earlier tool call]\no",
        "",
        "A",
        "(no result)",
        "C",
        "[result of an earlier tool call]\nA2",
    ];
    assert_eq!(contents, expected);
}

#[test]
fn case_18_tools_that_are_found_later() {
    let found = messages(
        r#"[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"ToolSearch","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_reference","tool_name":"WebFetch"}]}]}]"#,
    );
    assert_eq!(
        found.expect("messages")[1]["content"],
        "Tool WebFetch is now loaded."
    );
}

#[test]
fn case_19_server_tools_only() {
    let search = r#""messages":[{"role":"user","content":"x"}],"tools":[{"type":"web_search_20250305","name":"web_search"}],"tool_choice":{"type":"auto"}"#;
    assert_eq!(
        chat(search).expect_err("refused").message,
        "web_search is not available on this upstream"
    );
    let none = chat(
        r#""messages":[{"role":"user","content":"x"}],"tools":[],"tool_choice":{"type":"auto"}"#,
    )
    .expect("a chat");
    assert!(none.get("tools").is_none() && none.get("tool_choice").is_none());
}

#[test]
fn case_20_arguments_that_are_nothing_null_or_an_object() {
    let object = r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":{"x":1}}}]}"#;
    for (delta, finish, input) in [
        (tool_call("a", 0, "f", ""), "tool_calls", json!({})),
        (tool_call("a", 0, "f", " "), "tool_calls", json!({})),
        (tool_call("a", 0, "f", "null"), "tool_calls", json!({})),
        (object.into(), "tool_calls", json!({"x":1})),
        (
            tool_call("a", 0, "f", "{\"x"),
            "length",
            json!({"cut":"{\"x"}),
        ),
    ] {
        let found = stream(&[&delta], finish);
        assert_eq!(found["content"][0]["input"], input, "{delta}");
    }
    let refusal = br#"{"error":{"message":"Invalid schema for function 'f'"}}"#;
    let body = br#"{"tools":[{"function":{"parameters":{"type":"string","format":"uri"}}}]}"#;
    let plain = json!({"tools":[{"function":{"parameters":{"type":"string"}}}]});
    assert_eq!(again(body, 400, refusal), Some(plain));
}

#[test]
fn case_22_the_reason_to_stop_is_what_came_not_what_is_said() {
    assert_eq!(
        stream(&[&tool_call("a", 0, "f", "{}")], "stop")["stop_reason"],
        "tool_use"
    );
    assert_eq!(
        stream(&[r#"{"content":"a"}"#], "tool_calls")["stop_reason"],
        "end_turn"
    );
    let (out, end) = run(
        asked(),
        &events(&[&delta(r#"{"content":"a"}"#), "[DONE]"]),
        99,
        true,
    );
    assert_eq!(
        (end, &accumulate(&out).expect("good").0["stop_reason"]),
        (StreamEnd::Whole, &json!("end_turn"))
    );
}

#[test]
fn case_23_length_is_max_tokens_and_asked_again_with_more_is_lowered() {
    assert_eq!(
        stream(&[r#"{"content":"a"}"#], "length")["stop_reason"],
        "max_tokens"
    );
    let mut learned = Learned::default();
    learned.learn("m", Lesson::Output(16384), Size::default(), Instant::now());
    let again = adapt(br#"{"max_tokens":128000}"#, &learned.traits("m"), 1).expect("a change");
    assert_eq!(again, br#"{"max_tokens":16384}"#);
}

#[test]
fn case_24_refusals_have_the_status_that_clients_wait_for() {
    let refused = Refused {
        model: "m",
        prompt_tokens: 1,
        context: None,
    };
    let degraded = br#"{"detail":"Function id 'x': DEGRADED function cannot be invoked"}"#;
    for (status, body, expected) in [
        (429, &b""[..], 429),
        (503, b"<html>busy</html>", 529),
        (400, degraded, 529),
    ] {
        let found = Dialect::Messages.error(status, body, None, refused);
        assert_eq!((found.status, found.retry_after), (expected, Some(5)));
    }
    // In a stream that was a 200: nothing was said yet, so it is asked for again.
    let mut stream = reader(asked());
    let mut out = Vec::new();
    stream.push(
        &events(&[r#"{"detail":"ResourceExhausted: Worker local total request limit reached"}"#]),
        &mut out,
    );
    assert!(matches!(stream.ended(), Some(StreamEnd::Broken(_))) && out.is_empty());
}

#[test]
fn case_25_tokens_are_counted_without_the_upstream() {
    let count = count_tokens(br#"{"messages":["how many?"]}"#, 3_600).expect("a count");
    assert!(json(count)["input_tokens"].as_u64() > Some(0));
}
