//! The cases that broke others, each by its name; without those that are the Messages dialect's alone.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::dialect::adapt::adapt;
use crate::dialect::learned::Learned;
use crate::dialect::lessons::learn_from_error;
use crate::dialect::terms::Refused;

fn roles(messages: &Value) -> Vec<&str> {
    let list = messages.as_array().into_iter().flatten();
    list.filter_map(|message| message["role"].as_str())
        .collect()
}

fn ids(response: &Value) -> Vec<String> {
    let items = response["output"].as_array().expect("items").iter();
    items
        .filter_map(|item| item["call_id"].as_str().map(String::from))
        .collect()
}

#[test]
fn case_01_a_developer_message_directly_behind_tool_outputs() {
    let found = messages(
        r#"[{"role":"user","content":"x"},{"type":"function_call","call_id":"a","name":"n","arguments":"{}"},{"role":"developer","content":"d"},
        {"type":"function_call_output","call_id":"a","output":"r"},{"role":"developer","content":"e"}]"#,
    )
    .expect("messages");
    assert_eq!(roles(&found), ["user", "assistant", "tool", "user"]);
    assert_eq!(
        found[3]["content"],
        "<system-reminder>\nd\n</system-reminder>\n<system-reminder>\ne\n</system-reminder>"
    );
}

#[test]
fn case_02_a_response_id_is_never_repeated() {
    let id = |random| {
        response(
            RequestContext { random, ..asked() },
            &[r#"{"content":"a"}"#],
            "stop",
        )["id"]
            .clone()
    };
    assert_ne!(id(1), id(2));
}

#[test]
fn case_03_a_call_id_that_repeats_over_turns_is_replaced() {
    let chat = translated(
        r#""input":[{"type":"function_call","call_id":"call_0","name":"f","arguments":"{}"}]"#,
    )
    .expect("translates");
    let asked = RequestContext {
        used: chat.asked.used,
        ..asked()
    };
    let found = ids(&response(
        asked,
        &[&call("call_0", 0, "f", "{}"), &call("call_1", 1, "f", "{}")],
        "tool_calls",
    ));
    assert!(
        found[0].starts_with("call_") && found[0].len() > 10,
        "{found:?}"
    );
    assert_eq!(found[1], "call_1");
}

#[test]
fn case_04_calls_whose_pieces_interleave_or_repeat_their_names_or_all_have_the_number_0() {
    let names = |deltas: &[String]| {
        let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
        let found = response(asked(), &deltas, "tool_calls");
        let items = found["output"].as_array().expect("items").clone();
        items
            .iter()
            .map(|item| {
                format!(
                    "{}{}",
                    item["name"].as_str().unwrap_or_default(),
                    item["arguments"].as_str().unwrap_or_default()
                )
            })
            .collect::<Vec<_>>()
    };
    let two = |first: usize, second: usize| {
        [
            call("a", first, "f", "{"),
            call("b", second, "g", "{"),
            call("a", first, "f", "}"),
            call("b", second, "g", "}"),
        ]
    };
    assert_eq!(names(&two(0, 1)), ["f{}", "g{}"]);
    assert_eq!(names(&two(0, 0)), ["f{}", "g{}"]);
}

#[test]
fn case_05_an_item_is_done_once() {
    let (out, _) = run(
        asked(),
        &finished(
            &[
                &call("a", 0, "f", "{}"),
                r#"{"content":"x"}"#,
                &call("a", 0, "", ""),
            ],
            "tool_calls",
        ),
        40,
        true,
    );
    let text = String::from_utf8(out).expect("text");
    assert_eq!(text.matches("event: response.output_item.done").count(), 2);
}

#[test]
fn case_06_thoughts_and_then_calls_without_text() {
    let found = response(
        asked(),
        &[
            r#"{"reasoning":"hm"}"#,
            &call("a", 0, "f", ""),
            &call("", 0, "", "{\"x\":1}"),
        ],
        "tool_calls",
    );
    assert_eq!(found["output"][1]["arguments"], r#"{"x":1}"#);
}

#[test]
fn case_07_thoughts_go_back_with_calls() {
    let found = response(
        asked(),
        &[r#"{"reasoning_content":"hm"}"#, &call("a", 0, "f", "{}")],
        "tool_calls",
    );
    let mut input = vec![json!({"role":"user","content":"u"})];
    input.extend(found["output"].as_array().expect("items").iter().cloned());
    input.push(json!({"type":"function_call_output","call_id":"a","output":"r"}));
    let found = messages(&Value::from(input).to_string()).expect("messages");
    assert_eq!(found[1]["reasoning_content"], "hm");
}

#[test]
fn case_10_tokens_that_come_last_reach_the_client() {
    let upstream = [finished(&[r#"{"content":"a"}"#], "stop")].concat();
    let text = String::from_utf8(upstream).expect("text").replace("data: [DONE]", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]");
    let (out, _) = run(asked(), text.as_bytes(), 33, true);
    assert_eq!(
        strict::accumulate(&out).expect("good").0["usage"]["total_tokens"],
        9
    );
}

#[test]
fn case_11_context_errors_have_the_code_at_which_codex_compacts() {
    let refused = Refused {
        model: "m",
        prompt_tokens: 1,
        context: None,
    };
    for said in [
        r#"{"error":{"message":"This model's maximum context length is 131072 tokens"}}"#,
        r#"{"object":"error","message":"The prompt is longer than the model's context"}"#,
        r#"{"error":{"message":"input token count (9) exceeds the maximum number of tokens allowed (8)"}}"#,
    ] {
        let failure = Dialect::Responses.error(400, said.as_bytes(), None, refused);
        assert_eq!(failure.code, "context_length_exceeded", "{said}");
    }
}

#[test]
fn case_14_a_refused_field_is_left_out() {
    let chat = translated(r#""input":"x","top_p":0.5,"stream":true"#).expect("translates");
    let lesson = learn_from_error(
        400,
        br#"{"error":{"message":"Unsupported parameter: 'top_p'"}}"#,
    );
    let mut learned = Learned::default();
    learned.learn("m", lesson.expect("a lesson"), chat.size, Instant::now());
    let again = json(adapt(&chat.body, &learned.traits("m"), 9).expect("another"));
    assert_eq!((again.get("top_p"), &again["stream"]), (None, &json!(true)));
}

#[test]
fn case_17_outputs_without_calls_without_outputs_in_any_order_and_twice() {
    let found = messages(
        r#"[{"role":"user","content":"u"},{"type":"function_call_output","call_id":"gone","output":"o"},
        {"type":"function_call","call_id":"a","name":"f","arguments":"{}"},{"type":"function_call","call_id":"b","name":"f","arguments":"{}"},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},
        {"type":"function_call_output","call_id":"b","output":"rb"},{"type":"function_call_output","call_id":"a","output":"ra"},{"type":"function_call_output","call_id":"a","output":"again"}]"#,
    )
    .expect("messages");
    assert_eq!(
        template::chat_fault(found.as_array().expect("a list")),
        None,
        "{found}"
    );
    let text = found.to_string();
    for word in ["o", "ra", "rb", "again", "(no result)"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn case_19_server_tools_alone_leave_no_tools_and_no_choice() {
    let found = chat(r#""input":"x","tools":[{"type":"web_search"}],"tool_choice":"auto","parallel_tool_calls":false"#).expect("translates");
    for name in ["tools", "tool_choice", "parallel_tool_calls"] {
        assert_eq!(found.get(name), None);
    }
}

#[test]
fn case_21_freeform_and_namespace_tools_go_both_ways() {
    let tools = r#""tools":[{"type":"custom","name":"apply_patch","format":{"type":"grammar","syntax":"lark","definition":"start"}},{"type":"namespace","name":"ns","tools":[{"type":"function","name":"f"}]}]"#;
    let request = translated(&format!(r#""input":"x",{tools}"#)).expect("translates");
    let asked = RequestContext {
        tools: request.asked.tools,
        ..asked()
    };
    let found = response(
        asked,
        &[
            &call("a", 0, "apply_patch", r#"{"input":"*** Begin Patch\n"}"#),
            &call("b", 1, "ns__f", "{}"),
        ],
        "tool_calls",
    );
    let items = found["output"].as_array().expect("items").clone();
    assert_eq!(
        (&items[0]["type"], &items[0]["input"]),
        (&json!("custom_tool_call"), &json!("*** Begin Patch\n"))
    );
    assert_eq!(
        (&items[1]["name"], &items[1]["namespace"]),
        (&json!("f"), &json!("ns"))
    );
    let mut input = vec![json!({"role":"user","content":"u"})];
    input.extend(items);
    let back = chat(&format!(r#""input":{},{tools}"#, Value::from(input))).expect("translates");
    let calls = &back["messages"][1]["tool_calls"];
    assert_eq!(
        calls[0]["function"]["arguments"],
        r#"{"input":"*** Begin Patch\n"}"#
    );
    assert_eq!(calls[1]["function"]["name"], "ns__f");
}

#[test]
fn case_22_calls_that_end_with_stop_and_an_end_without_a_reason() {
    assert_eq!(
        ids(&response(asked(), &[&call("a", 0, "f", "{}")], "stop")),
        ["a"]
    );
    assert_eq!(
        response(asked(), &[r#"{"content":"a"}"#], "tool_calls")["status"],
        "completed"
    );
    let (out, end) = run(
        asked(),
        &events(&[&delta(r#"{"content":"a"}"#), "[DONE]"]),
        20,
        true,
    );
    assert_eq!(end, StreamEnd::Whole);
    assert!(strict::accumulate(&out).expect("good").1);
}

#[test]
fn case_23_a_limit_that_nobody_set_does_not_end_codex() {
    let cut = response(asked(), &[&call("a", 0, "f", "{\"x\":\"cut he")], "length");
    assert_eq!(
        (&cut["status"], &cut["output"][0]["arguments"]),
        (&json!("completed"), &json!("{\"x\":\"cut he"))
    );
}
