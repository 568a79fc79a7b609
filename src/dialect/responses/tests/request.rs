//! Requests, row by row.

use serde_json::{Value, json};

use super::*;
use crate::dialect::terms::{Tool, ToolKind};

#[test]
fn items_become_messages_as_the_table_says() {
    for (input, expected) in [
        (r#""hi""#, json!([{"role":"user","content":"hi"}])),
        (
            r#"[{"role":"user","content":"a"},{"type":"message","role":"user","content":[{"type":"input_text","text":"b"},{"type":"input_text","text":""}]}]"#,
            json!([{"role":"user","content":"a\nb"}]),
        ),
        (
            r#"[{"type":"message","id":"msg_1","role":"developer","content":[{"type":"input_text","text":"d"}]},{"role":"system","content":"s"},
                {"role":"user","content":"u"},{"role":"assistant","content":[{"type":"output_text","text":"x","annotations":[]},{"type":"output_text","text":"y"}]},
                {"role":"developer","content":"late"}]"#,
            json!([{"role":"system","content":"d\n\ns"},{"role":"user","content":"u"},{"role":"assistant","content":"xy"},
                {"role":"user","content":"<system-reminder>\nlate\n</system-reminder>"}]),
        ),
        (
            r#"[{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}]"#,
            json!([{"role":"assistant","content":"no"}]),
        ),
        (
            r#"[{"role":"user","content":[{"type":"input_text","text":"see"},{"type":"input_image","image_url":"data:image/png;base64,QQ","detail":"auto"}]}]"#,
            json!([{"role":"user","content":[{"type":"text","text":"see"},{"type":"image_url","image_url":{"url":"data:image/png;base64,QQ"}}]}]),
        ),
        (
            r#"[{"role":"user","content":[{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,QQ"}]}]"#,
            json!([{"role":"user","content":"[file a.pdf: not readable by this model]"}]),
        ),
        (
            r#"[{"type":"compaction","encrypted_content":"x"},{"type":"web_search_call","id":"ws"},{"type":"ghost_snapshot"},{"role":"user","content":"u"}]"#,
            json!([{"role":"user","content":"u"}]),
        ),
    ] {
        assert_eq!(messages(input).expect("translates"), expected, "{input}");
    }
}

#[test]
fn calls_and_their_outputs_become_tool_calls_and_tool_messages() {
    let call = |id: &str, name: &str, arguments: &str| json!({"id":id,"type":"function","function":{"name":name,"arguments":arguments}});
    let answer = |id: &str, text: &str| json!({"role":"tool","tool_call_id":id,"content":text});
    for (items, expected) in [
        (
            r#"{"type":"reasoning","id":"rs","summary":[{"type":"summary_text","text":"s"}],"content":[{"type":"reasoning_text","text":"t"}],"encrypted_content":null},
               {"role":"assistant","content":"so"},{"type":"function_call","call_id":"a","name":"ls","arguments":"{\"x\":1}"},
               {"type":"function_call_output","call_id":"a","output":"out"}"#,
            json!([{"role":"assistant","content":"so","reasoning_content":"t","tool_calls":[call("a", "ls", "{\"x\":1}")]}, answer("a", "out")]),
        ),
        (
            r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"s"},{"text":"s2"}]},{"type":"function_call","call_id":"a","name":"ls","namespace":"mcp","arguments":""},
               {"type":"function_call","call_id":"b","name":"ls","arguments":"{\"cut"},
               {"type":"function_call_output","call_id":"b","output":[{"type":"input_text","text":"o"},{"type":"input_image","image_url":"u"}]}"#,
            json!([{"role":"assistant","content":"","reasoning_content":"s\ns2","tool_calls":[call("a", "mcp__ls", "{}"), call("b", "ls", "{\"_invalid\":\"{\\\"cut\"}")]},
                answer("a", "(no result)"), answer("b", "o\n[image 1] follows the results"),
                {"role":"user","content":[{"type":"text","text":"[image 1]"},{"type":"image_url","image_url":{"url":"u"}}]}]),
        ),
        (
            r#"{"type":"custom_tool_call","call_id":"a","name":"apply_patch","input":"*** \"x\"\n"},{"type":"custom_tool_call_output","call_id":"a","output":"done"},
               {"type":"local_shell_call","call_id":"b","action":{"type":"exec","command":["ls"]}},{"type":"local_shell_call_output","id":"b","output":{"code":0}}"#,
            json!([{"role":"assistant","content":"","tool_calls":[call("a", "apply_patch", "{\"input\":\"*** \\\"x\\\"\\n\"}")]}, answer("a", "done"),
                {"role":"assistant","content":"","tool_calls":[call("b", "local_shell", "{\"type\":\"exec\",\"command\":[\"ls\"]}")]}, answer("b", "{\"code\":0}")]),
        ),
        (
            r#"{"type":"tool_search_call","call_id":"a","execution":"client","arguments":{"query":"q"}},{"type":"tool_search_output","call_id":"a","tools":[{"type":"function","name":"found"}]},
               {"type":"mcp_call","id":"m","name":"n","server_label":"s","arguments":"{}","output":"o"}"#,
            json!([{"role":"assistant","content":"","tool_calls":[call("a", "tool_search", "{\"query\":\"q\"}")]}, answer("a", "Tools found, ready to be called: found"),
                {"role":"assistant","content":"","tool_calls":[call("m", "n", "{}")]}, answer("m", "o")]),
        ),
    ] {
        let found =
            messages(&format!(r#"[{{"role":"user","content":"u"}},{items}]"#)).expect("translates");
        let mut whole = vec![json!({"role":"user","content":"u"})];
        whole.extend(expected.as_array().expect("a list").iter().cloned());
        assert_eq!(found, Value::from(whole), "{items}");
    }
}

#[test]
fn tools_become_functions_and_keep_their_names_on_both_sides() {
    let long = "n".repeat(60);
    let found = translated(&format!(
        r#""input":"x","tools":[
        {{"type":"function","name":"ls","description":"d","strict":true,"parameters":{{"type":"object","properties":{{}},"$schema":"s"}}}},
        {{"type":"function","name":"none"}},
        {{"type":"namespace","name":"agents","description":"x","tools":[{{"type":"function","name":"spawn","parameters":{{"type":"object","properties":{{"a":{{}}}}}}}},{{"type":"function","name":"{long}"}}]}},
        {{"type":"function","name":"agents__spawn"}},
        {{"type":"custom","name":"apply_patch","description":"edits","format":{{"type":"grammar","syntax":"lark","definition":"start: \"x\"\nend"}}}},
        {{"type":"tool_search","execution":"client","description":"find","parameters":{{"type":"object","properties":{{"query":{{"type":"string"}}}}}}}},
        {{"type":"web_search"}},{{"type":"file_search"}},{{"type":"code_interpreter"}},{{"type":"mcp","server_label":"x"}},{{"type":"tool_search"}}]"#
    ))
    .expect("translates");
    let body = json(&found.body);
    let tools = body["tools"].as_array().expect("tools");
    let names: Vec<_> = tools
        .iter()
        .map(|tool| tool["function"]["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names[..3], ["ls", "none", "agents__spawn"]);
    assert!(
        names[3].starts_with("agents__nnn") && names[3].len() == 64,
        "{}",
        names[3]
    );
    assert!(
        names[4].starts_with("agents__spawn_"),
        "a clash: {}",
        names[4]
    );
    assert_eq!(names[5..], ["apply_patch", "tool_search"]);
    assert_eq!(
        tools[0],
        json!({"type":"function","function":{"name":"ls","description":"d","parameters":{"type":"object","properties":{}}}})
    );
    let custom = &tools[5]["function"];
    assert_eq!(
        custom["parameters"],
        json!({"type":"object","properties":{"input":{"type":"string"}},"required":["input"]})
    );
    let description = custom["description"].as_str().expect("text");
    assert!(
        description.starts_with("edits\n\n")
            && description.ends_with("lark grammar:\nstart: \"x\"\nend"),
        "{description}"
    );
    let tool = |chat_name: &str, name: &str, kind| Tool {
        chat_name: chat_name.into(),
        name: name.into(),
        kind,
    };
    let space = || ToolKind::Function("agents".into());
    assert_eq!(
        found.asked.tools,
        [
            tool("agents__spawn", "spawn", space()),
            tool(names[3], &long, space()),
            tool(names[4], "agents__spawn", ToolKind::Function(String::new())),
            tool("apply_patch", "apply_patch", ToolKind::Custom),
            tool("tool_search", "tool_search", ToolKind::Search),
        ]
    );
}

#[test]
fn choices_and_settings_are_said_in_the_chat_dialect() {
    let tools = r#""tools":[{"type":"function","name":"f"},{"type":"custom","name":"c"},{"type":"namespace","name":"n","tools":[{"type":"function","name":"g"}]}]"#;
    let function = |name: &str| json!({"type":"function","function":{"name":name}});
    for (choice, expected) in [
        (r#""auto""#, json!("auto")),
        (r#""required""#, json!("required")),
        (r#""none""#, json!("none")),
        (r#"{"type":"function","name":"f"}"#, function("f")),
        (
            r#"{"type":"function","name":"g","namespace":"n"}"#,
            function("n__g"),
        ),
        (r#"{"type":"custom","name":"c"}"#, function("c")),
        (
            r#"{"type":"allowed_tools","mode":"required","tools":[]}"#,
            json!("required"),
        ),
        (r#"{"type":"web_search"}"#, Value::Null),
    ] {
        let found =
            chat(&format!(r#""input":"x",{tools},"tool_choice":{choice}"#)).expect("translates");
        assert_eq!(found["tool_choice"], expected, "{choice}");
        let none = chat(&format!(
            r#""input":"x","tools":[{{"type":"web_search"}}],"tool_choice":{choice}"#
        ));
        assert_eq!(
            none.expect("translates").get("tool_choice"),
            None,
            "without tools"
        );
    }
    for (fields, name, expected) in [
        (
            r#""stream":true"#,
            "stream_options",
            json!({"include_usage":true}),
        ),
        (r#""stream":false"#, "stream", Value::Null),
        (r#""max_output_tokens":4000"#, "max_tokens", json!(4000)),
        (r#""temperature":0.5"#, "temperature", json!(0.5)),
        (r#""top_p":null"#, "top_p", Value::Null),
        (
            r#""parallel_tool_calls":false"#,
            "parallel_tool_calls",
            json!(false),
        ),
        (
            r#""parallel_tool_calls":true"#,
            "parallel_tool_calls",
            Value::Null,
        ),
        (
            r#""text":{"format":{"type":"text"},"verbosity":"low"}"#,
            "response_format",
            Value::Null,
        ),
        (
            r#""text":{"format":{"type":"json_object"}}"#,
            "response_format",
            json!({"type":"json_object"}),
        ),
        (
            r#""text":{"format":{"type":"json_schema","name":"n","strict":true,"schema":{"type":"object"}}}"#,
            "response_format",
            json!({"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object"}}}),
        ),
        (
            r#""store":false,"include":["x"],"metadata":{},"user":"u","truncation":"auto","service_tier":"x""#,
            "metadata",
            Value::Null,
        ),
        (
            r#""previous_response_id":null,"background":false,"instructions":"be""#,
            "previous_response_id",
            Value::Null,
        ),
    ] {
        let found = chat(&format!(r#""input":"x",{tools},{fields}"#)).expect("translates");
        assert_eq!(
            found.get(name).cloned().unwrap_or_default(),
            expected,
            "{fields}"
        );
        assert_eq!(found["model"], "up/model");
    }
    let efforts = [
        ("none", Some("low")),
        ("minimal", Some("low")),
        ("low", Some("low")),
        ("xhigh", Some("high")),
        ("new", None),
    ];
    for (effort, expected) in efforts {
        let body = format!(r#"{{"model":"x","input":"x","reasoning":{{"effort":"{effort}"}}}}"#);
        let found = json(
            translate(body.as_bytes(), "openai/gpt-oss-120b")
                .expect("translates")
                .body,
        );
        assert_eq!(found["reasoning_effort"].as_str(), expected, "{effort}");
    }
    let small = chat(r#""input":"x","reasoning":{"effort":"none"},"max_output_tokens":16"#)
        .expect("translates");
    assert_eq!(
        small["max_tokens"], 1024,
        "for a model that thinks all the same"
    );
}

#[test]
fn instructions_stand_before_everything_else() {
    let found = chat(
        r#""instructions":"be brief","input":[{"role":"developer","content":"d"},{"role":"user","content":"u"}]"#,
    );
    assert_eq!(
        found.expect("translates")["messages"][0],
        json!({"role":"system","content":"be brief\n\nd"})
    );
}

#[test]
fn fields_that_need_a_store_or_are_wrong_are_refused_by_name() {
    for (fields, param, code) in [
        (
            r#""input":"x","previous_response_id":"resp_1""#,
            "previous_response_id",
            "unsupported_parameter",
        ),
        (
            r#""input":"x","conversation":"conv_1""#,
            "conversation",
            "unsupported_parameter",
        ),
        (
            r#""input":"x","conversation":{"id":"c"}"#,
            "conversation",
            "unsupported_parameter",
        ),
        (
            r#""input":"x","background":true"#,
            "background",
            "unsupported_parameter",
        ),
        (
            r#""input":"x","prompt":{"id":"p"}"#,
            "prompt",
            "unsupported_parameter",
        ),
        (
            r#""input":[{"role":"user","content":"x"},{"type":"item_reference","id":"x"}]"#,
            "input[1]",
            "",
        ),
        (r#""input":7"#, "input", ""),
        (r#""x":1"#, "input", ""),
        (
            r#""input":[{"role":"tool","content":"x"}]"#,
            "input[0].role",
            "",
        ),
        (r#""input":[{"content":"x"}]"#, "input[0].type", ""),
        (
            r#""input":[{"role":"user","content":[{"type":"input_audio"}]}]"#,
            "input[0].content[0]",
            "",
        ),
        (
            r#""input":[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]"#,
            "input[0].content[0]",
            "",
        ),
        (
            r#""input":"x","max_output_tokens":0"#,
            "max_output_tokens",
            "",
        ),
        (
            r#""input":"x","tools":[{"type":"function"}]"#,
            "tools[0].name",
            "",
        ),
    ] {
        let failure = chat(fields).expect_err(fields);
        assert_eq!(
            (failure.status, &*failure.param, &*failure.code),
            (400, param, code),
            "{fields}"
        );
        let body = json(failure.body(""));
        assert_eq!(body["error"]["param"], param);
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }
    for body in ["", "[]", r#"{"input":"x"}"#, r#"{"model":"","input":"x"}"#] {
        assert_eq!(
            translate(body.as_bytes(), MODEL).expect_err(body).status,
            400
        );
    }
}

#[test]
fn more_tools_than_any_model_takes_are_refused() {
    let tools = |most: usize| {
        let tool = |n: usize| format!(r#"{{"type":"function","name":"t{n}"}}"#);
        let tools = (0..most).map(tool).collect::<Vec<_>>().join(",");
        chat(&format!(r#""input":"hi","tools":[{tools}]"#))
    };
    assert!(tools(1024).is_ok());
    assert!(tools(1025).is_err());
}
