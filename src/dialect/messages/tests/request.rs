//! Messages → chat, row by row.

use serde_json::{Value, json};

use super::*;
use crate::dialect::json::Json;
use crate::dialect::measure::{Size, USUAL_RATIO};
use crate::dialect::messages::request::count_tokens;

/// The messages that this content of the user's becomes.
fn user(content: &str) -> Value {
    messages(&format!(r#"[{{"role":"user","content":{content}}}]"#)).expect(content)
}

/// The field that these fields of the request become.
fn field(fields: &str, name: &str) -> Value {
    let request = format!(r#""messages":[{{"role":"user","content":"x"}}],{fields}"#);
    chat(&request).expect(fields)[name].clone()
}

#[test]
fn the_users_words_are_a_string_unless_there_is_an_image() {
    for (content, expected) in [
        (r#""hi \"you\"""#, json!("hi \"you\"")),
        (
            r#"[{"type":"text","text":"a"},{"type":"text","text":"  b"}]"#,
            json!("a\n  b"),
        ),
        (
            r#"[{"type":"text","text":""},{"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]"#,
            json!("b"),
        ),
        (r#"[]"#, json!("")),
        (r#""""#, json!("")),
        (
            r#"[{"type":"text","text":"see"},{"type":"image","source":{"type":"base64","data":"QUJD","media_type":"image/png"}}]"#,
            json!([{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD"}}]),
        ),
        (
            r#"[{"type":"image","source":{"type":"url","url":"http://x/y.png"}}]"#,
            json!([{"type":"image_url","image_url":{"url":"http://x/y.png"}}]),
        ),
        (
            r#"[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"a\nb"}}]"#,
            json!("a\nb"),
        ),
        (
            r#"[{"type":"document","title":"T","source":{"type":"content","content":[{"type":"text","text":"a"}]}}]"#,
            json!("Document: T\na"),
        ),
        (
            r#"[{"type":"document","source":{"type":"content","content":"a"}}]"#,
            json!("a"),
        ),
        (
            r#"[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERi0x"}}]"#,
            json!("[PDF, 1 KB: not readable by this model]"),
        ),
        (
            r#"[{"type":"document","title":"T","source":{"type":"url","url":"http://x"}}]"#,
            json!("Document: T\n[PDF at http://x: not readable by this model]"),
        ),
        (
            r#"[{"type":"search_result","title":"T","source":"S","content":[{"type":"text","text":"a"}]}]"#,
            json!("T\nS\na"),
        ),
        (
            r#"[{"type":"container_upload","file_id":"f"},{"type":"text","text":"a"}]"#,
            json!("a"),
        ),
    ] {
        assert_eq!(
            user(content),
            json!([{"role":"user","content":expected}]),
            "{content}"
        );
    }
}

#[test]
fn instructions_are_one_message_and_the_first() {
    let said = r#""messages":[{"role":"user","content":"x"}]"#;
    for (system, expected) in [
        (r#""a""#, Some("a")),
        (
            r#"[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},{"type":"text","text":"b"}]"#,
            Some("a\n\nb"),
        ),
        (
            r#"[{"type":"text","text":"x-anthropic-billing-header: cc_version=1; cch=2;"},{"type":"text","text":"b"}]"#,
            Some("b"),
        ),
        (
            r#"[{"type":"text","text":"x-anthropic-billing-header: x"}]"#,
            None,
        ),
        (r#""""#, None),
        ("null", None),
        ("[]", None),
    ] {
        let found = chat(&format!(r#"{said},"system":{system}"#)).expect(system);
        let found = &found["messages"];
        let system = expected.map(|text| json!({"role":"system","content":text}));
        let all: Vec<Value> = system
            .into_iter()
            .chain([json!({"role":"user","content":"x"})])
            .collect();
        assert_eq!(*found, Value::from(all));
    }
    let leading = r#""system":"a","messages":[{"role":"system","content":"b"},{"role":"user","content":"x"}]"#;
    let found = chat(leading).expect("a chat");
    assert_eq!(
        found["messages"][0],
        json!({"role":"system","content":"a\n\nb"})
    );
    assert_eq!(found["messages"].as_array().map(Vec::len), Some(2));
}

#[test]
fn turns_of_the_assistant_become_one_message() {
    for (content, expected) in [
        (r#""a""#, json!({"role":"assistant","content":"a"})),
        (
            r#"[{"type":"text","text":"a"},{"type":"text","text":" b"}]"#,
            json!({"role":"assistant","content":"a b"}),
        ),
        (
            r#"[{"type":"thinking","thinking":"t","signature":"s"},{"type":"redacted_thinking","data":"x"},{"type":"text","text":"a"},{"type":"tool_use","id":"i","name":"n","input":{"k": "v\n\"q\""}}]"#,
            json!({"role":"assistant","content":"a","reasoning_content":"t","tool_calls":[{"id":"i","type":"function","function":{"name":"n","arguments":"{\"k\": \"v\\n\\\"q\\\"\"}"}}]}),
        ),
        (
            r#"[{"type":"tool_use","id":"i","name":"n"}]"#,
            json!({"role":"assistant","content":"","tool_calls":[{"id":"i","type":"function","function":{"name":"n","arguments":"{}"}}]}),
        ),
        (
            r#"[{"type":"server_tool_use","id":"s","name":"web_search","input":{}},{"type":"web_search_tool_result","tool_use_id":"s","content":[{"type":"web_search_result","title":"T","url":"U","encrypted_content":"x"}]},{"type":"text","text":"a"}]"#,
            json!({"role":"assistant","content":"[web_search_tool_result]\nT\nUa"}),
        ),
        (
            r#"[{"type":"thinking","thinking":"t"},{"type":"text","text":"a"}]"#,
            json!({"role":"assistant","content":"a"}),
        ),
    ] {
        let all = format!(
            r#"[{{"role":"user","content":"x"}},{{"role":"assistant","content":{content}}},{{"role":"user","content":"y"}}]"#
        );
        let found = messages(&all).expect(content);
        assert_eq!(found[1], expected, "{content}");
        assert_eq!(found[0], json!({"role":"user","content":"x"}));
    }
    // A beginning of the answer that the client gives keeps its thoughts.
    let found = messages(
        r#"[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking","thinking":"t"},{"type":"text","text":"a"}]}]"#,
    );
    assert_eq!(found.expect("messages")[1]["reasoning_content"], "t");
}

/// What the results of two calls, `a` and `b`, become.
fn results(results: &str) -> Value {
    let all = format!(
        r#"[{{"role":"assistant","content":[{{"type":"tool_use","id":"a","name":"n","input":{{}}}},{{"type":"tool_use","id":"b","name":"n","input":{{}}}}]}},{results}]"#
    );
    let found = messages(&all).expect(results);
    found
        .as_array()
        .map(|all| all[1..].to_vec())
        .into_iter()
        .flatten()
        .collect()
}

fn tool(id: &str, content: &str) -> Value {
    json!({"role":"tool","tool_call_id":id,"content":content})
}

#[test]
fn results_follow_their_calls_in_their_order() {
    let user = |content: &str| json!({"role":"user","content":content});
    let result =
        |id: &str, rest: &str| format!(r#"{{"type":"tool_result","tool_use_id":"{id}"{rest}}}"#);
    let [a, b] = ["a", "b"].map(|id| result(id, &format!(r#","content":"of {id}""#)));
    for (given, expected) in [
        (
            format!(r#"{{"role":"user","content":[{b},{a}]}}"#),
            json!([tool("a", "of a"), tool("b", "of b")]),
        ),
        (
            format!(
                r#"{{"role":"user","content":[{{"type":"text","text":"x"}},{a}]}},{{"role":"system","content":"s"}},{{"role":"user","content":[{b}]}}"#
            ),
            json!([
                tool("a", "of a"),
                tool("b", "of b"),
                user("x\n<system-reminder>\ns\n</system-reminder>")
            ]),
        ),
        (
            format!(r#"{{"role":"user","content":[{a}]}}"#),
            json!([tool("a", "of a"), tool("b", "(no result)")]),
        ),
        (
            format!(r#"{{"role":"user","content":[{a},{b},{a}]}}"#),
            json!([
                tool("a", "of a"),
                tool("b", "of b"),
                user("[result of an earlier tool call]\nof a")
            ]),
        ),
        (
            format!(r#"{{"role":"user","content":[{},{b}]}}"#, result("c", "")),
            json!([
                tool("a", "(no result)"),
                tool("b", "of b"),
                user("[result of an earlier tool call]\n(no output)")
            ]),
        ),
        (
            r#"{"role":"user","content":"go on"}"#.into(),
            json!([
                tool("a", "(no result)"),
                tool("b", "(no result)"),
                user("go on")
            ]),
        ),
    ] {
        assert_eq!(results(&given), expected, "{given}");
    }
}

#[test]
fn a_turn_with_very_many_calls_becomes_several() {
    let part = |begin: &str, n: usize, end: &str| format!(r#"{{{begin}"c{n}"{end}}}"#);
    let uses = (0..600).map(|n| {
        let end = r#","name":"f","input":{}"#;
        part(r#""type":"tool_use","id":"#, n, end)
    });
    let results = (0..600).map(|n| {
        part(
            r#""type":"tool_result","tool_use_id":"#,
            n,
            r#","content":"x""#,
        )
    });
    let [uses, results] = [uses.collect::<Vec<_>>(), results.collect()].map(|all| all.join(","));
    let found = messages(&format!(
        r#"[{{"role":"user","content":"u"}},{{"role":"assistant","content":[{uses}]}},{{"role":"user","content":[{results}]}}]"#
    ))
    .expect("translates");
    let found = found.as_array().expect("a list");
    let calls = |message: &Value| message["tool_calls"].as_array().map(Vec::len);
    let turns: Vec<usize> = found.iter().filter_map(calls).collect();
    assert_eq!(turns, [256, 256, 88]);
    let answered = found.iter().filter(|message| message["content"] == "x");
    assert_eq!(answered.count(), 88, "those of the last turn");
    let last = found[found.len() - 1]["content"].as_str().expect("text");
    assert_eq!(
        last.matches("[result of an earlier tool call]").count(),
        512
    );
}

#[test]
fn a_result_is_a_string_whatever_it_was() {
    for (result, expected) in [
        (r#""content":"x""#, "x"),
        (r#""content":"""#, "(no output)"),
        (r#""content":[]"#, "(no output)"),
        (r#""content":null"#, "(no output)"),
        (r#""tool_use_id":"a""#, "(no output)"),
        (
            r#""content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]"#,
            "x\ny",
        ),
        (
            r#""content":"Exit code 3","is_error":true"#,
            "Error: Exit code 3",
        ),
        (
            r#""content":"<tool_use_error>no</tool_use_error>","is_error":true"#,
            "<tool_use_error>no</tool_use_error>",
        ),
        (r#""content":"x","is_error":false"#, "x"),
        (
            r#""content":[{"type":"tool_reference","tool_name":"WebFetch"}]"#,
            "Tool WebFetch is now loaded.",
        ),
        (
            r#""content":[{"type":"document","source":{"type":"base64","data":"JVBERi0x"}}]"#,
            "[PDF, 1 KB: not readable by this model]",
        ),
    ] {
        let given = format!(
            r#"{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"a",{result}}}]}}"#
        );
        assert_eq!(results(&given)[0], tool("a", expected), "{result}");
    }
}

#[test]
fn images_of_results_follow_all_results() {
    let image = |data: &str| {
        format!(
            r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}}"#
        )
    };
    let given = format!(
        r#"{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"a","content":[{},{{"type":"text","text":"t"}}]}},{{"type":"text","text":"u"}},{{"type":"tool_result","tool_use_id":"b","content":[{}]}}]}}"#,
        image("QQ"),
        image("Qg")
    );
    let url = |data: &str| json!({"type":"image_url","image_url":{"url":format!("data:image/png;base64,{data}")}});
    let text = |text: &str| json!({"type":"text","text":text});
    let parts = json!([
        text("[image 1]"),
        url("QQ"),
        text("[image 2]"),
        url("Qg"),
        text("u")
    ]);
    let expected = json!([
        tool("a", "[image 1] follows the results\nt"),
        tool("b", "[image 2] follows the results"),
        {"role":"user","content":parts}
    ]);
    assert_eq!(results(&given), expected);
}

#[test]
fn tools_are_functions() {
    for (tools, expected) in [
        (
            r#"[{"name":"n","description":"d","input_schema":{"$schema":"s","type":"object","properties":{"a":{"type":"string"}}},"cache_control":{}}]"#,
            json!([{"type":"function","function":{"name":"n","description":"d","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}]),
        ),
        (
            r#"[{"type":"custom","name":"n"}]"#,
            json!([{"type":"function","function":{"name":"n","parameters":{"type":"object","properties":{}}}}]),
        ),
        (
            r#"[{"name":"n","input_schema":{"type":"object"}}]"#,
            json!([{"type":"function","function":{"name":"n","parameters":{"type":"object","properties":{}}}}]),
        ),
        (
            r#"[{"name":"n","input_schema":{}}]"#,
            json!([{"type":"function","function":{"name":"n","parameters":{"type":"object","properties":{}}}}]),
        ),
        (
            r#"[{"name":"DeferredToolPlaceholder","defer_loading":true},{"name":"n","defer_loading":true,"input_schema":{"type":"object","properties":{}}},{"type":"web_search_20250305","name":"web_search"}]"#,
            json!([{"type":"function","function":{"name":"n","parameters":{"type":"object","properties":{}}}}]),
        ),
        ("[]", Value::Null),
        (r#"[{"name":"DeferredToolPlaceholder"}]"#, Value::Null),
    ] {
        assert_eq!(
            field(
                &format!(r#""tools":{tools},"tool_choice":{{"type":"auto"}}"#),
                "tools"
            ),
            expected,
            "{tools}"
        );
    }
    let bare = r#""tools":[],"tool_choice":{"type":"any","disable_parallel_tool_use":true}"#;
    assert_eq!(field(bare, "tool_choice"), Value::Null);
    assert_eq!(field(bare, "parallel_tool_calls"), Value::Null);
}

#[test]
fn the_choice_of_a_tool_is_translated() {
    for (choice, expected) in [
        (r#"{"type":"auto"}"#, json!("auto")),
        (r#"{"type":"any"}"#, json!("required")),
        (r#"{"type":"none"}"#, json!("none")),
        (
            r#"{"type":"tool","name":"n"}"#,
            json!({"type":"function","function":{"name":"n"}}),
        ),
    ] {
        let fields = |choice: &str| format!(r#""tools":[{{"name":"n"}}],"tool_choice":{choice}"#);
        assert_eq!(field(&fields(choice), "tool_choice"), expected);
        assert_eq!(field(&fields(choice), "parallel_tool_calls"), Value::Null);
        let alone = choice.replace('}', r#","disable_parallel_tool_use":true}"#);
        assert_eq!(field(&fields(&alone), "parallel_tool_calls"), json!(false));
    }
}

#[test]
fn settings_are_translated() {
    for (fields, name, expected) in [
        (
            r#""stop_sequences":["a","","b","c","d","e"]"#,
            "stop",
            json!(["a", "b", "c", "d"]),
        ),
        (r#""stop_sequences":[]"#, "stop", Value::Null),
        (r#""temperature":0.20,"top_p":1"#, "temperature", json!(0.2)),
        (r#""temperature":0.20,"top_p":1"#, "top_p", json!(1)),
        (r#""top_k":5"#, "top_k", Value::Null),
        (r#""stream":true"#, "stream", json!(true)),
        (
            r#""stream":true"#,
            "stream_options",
            json!({"include_usage":true}),
        ),
        (r#""stream":false"#, "stream", Value::Null),
        (
            r#""thinking":{"type":"adaptive"},"output_config":{"effort":"high"}"#,
            "reasoning_effort",
            Value::Null,
        ),
        (
            r#""output_config":{"format":{"type":"json_schema","schema":{"type":"object"}}}"#,
            "response_format",
            json!({"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}),
        ),
        (
            r#""metadata":{"user_id":"u"},"context_management":{},"safeguards":{},"betas":["x"],"what":1"#,
            "metadata",
            Value::Null,
        ),
    ] {
        assert_eq!(field(fields, name), expected, "{fields}");
    }
    let whole = chat(
        r#""messages":[{"role":"user","content":"x"}],"metadata":{},"cache_control":{},"mcp_servers":[],"container":"c","service_tier":"auto""#,
    );
    let names: Vec<String> = whole
        .expect("a chat")
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(names, ["max_tokens", "messages", "model"]);
}

#[test]
fn limits_and_thoughts_are_asked_for_as_the_model_takes_them() {
    let ask = |model: &str, fields: &str| {
        let body =
            format!(r#"{{"model":"c","messages":[{{"role":"user","content":"x"}}],{fields}}}"#);
        json(translate(body.as_bytes(), model).expect(fields).body)
    };
    let off = r#""max_tokens":64,"thinking":{"type":"disabled"}"#;
    assert_eq!(ask("m", off)["max_tokens"], 1024, "it may think");
    assert_eq!(
        ask("m", r#""max_tokens":64,"thinking":{"type":"adaptive"}"#)["max_tokens"],
        64
    );
    let found = ask("qwen/qwen3-32b", off);
    assert_eq!(found["max_tokens"], 64);
    assert_eq!(
        found["chat_template_kwargs"],
        json!({"enable_thinking":false,"thinking":false})
    );
    let high = r#""max_tokens":9,"thinking":{"type":"enabled","budget_tokens":5},"output_config":{"effort":"xhigh"}"#;
    assert_eq!(ask("openai/gpt-oss-20b", high)["reasoning_effort"], "high");
    assert_eq!(ask("m", r#""max_tokens":32000"#)["max_tokens"], 32000);
    assert_eq!(ask("m", r#""top_p":1"#)["max_tokens"], Value::Null);
}

#[test]
fn the_translation_keeps_what_the_answer_needs() {
    let body = r#"{"model":"claude\u002dx","stream":true,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"call_0","name":"n","input":{}}]}]}"#;
    let found = translate(body.as_bytes(), MODEL).expect("a chat");
    assert_eq!((&*found.asked.model, found.streams), ("claude-x", true));
    let used = &found.asked.used;
    assert!(used.has("call_0") && !used.has("call_1"));
    assert_eq!(
        found.size,
        Size::of(Json::parse(body.as_bytes()).expect("valid"))
    );
    assert_eq!(json(found.body)["model"], "up/model");
}

#[test]
fn tokens_are_counted_here() {
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#,
        "word ".repeat(720)
    );
    assert_eq!(
        count_tokens(body.as_bytes(), USUAL_RATIO).expect("a count"),
        br#"{"input_tokens":1008}"#
    );
    assert_eq!(
        count_tokens(b"nothing", 1).expect_err("no JSON").status,
        400
    );
}
