//! Requests that cannot be translated.

use super::*;

#[test]
fn parts_that_cannot_be_translated_are_refused_with_their_place() {
    let block = |block: &str| {
        format!(
            r#""messages":[{{"role":"user","content":"a"}},{{"role":"user","content":[{{"type":"text","text":"b"}},{block}]}}]"#
        )
    };
    for (fields, expected) in [
        (block(r#"{"type":"video"}"#), r#"messages.1.content.1: a block of type "video" cannot be translated for this upstream"#),
        (block("{}"), r#"messages.1.content.1: a block of type "none" cannot be translated for this upstream"#),
        (block(r#"{"type":"image","source":{"type":"file","file_id":"f"}}"#), r#"messages.1.content.1: an image's source is base64 or url on this upstream, not "file""#),
        (block(r#"{"type":"document","source":{"type":"file"}}"#), r#"messages.1.content.1: a document's source of type "file" cannot be read here"#),
        (block(r#"{"type":"tool_use","name":"n"}"#), "messages.1.content.1: tool_use.id: a string is required"),
        (block(r#"{"type":"tool_result","content":"x"}"#), "messages.1.content.1: tool_result.tool_use_id: a string is required"),
        (block(r#"{"type":"text"}"#), "messages.1.content.1: text: a string is required"),
        (r#""messages":[{"role":"tool","content":"x"}]"#.into(), r#"messages.0.role: "tool" is not one of user, assistant, system"#),
        (r#""messages":[{"role":"user","content":7}]"#.into(), "messages.0.content.0: content is a string or a list of blocks"),
        (r#""messages":[]"#.into(), "messages: at least one message is required"),
        (r#""x":1"#.into(), "messages: at least one message is required"),
        (r#""messages":[{"role":"user","content":"x"}],"max_tokens":"9""#.into(), "max_tokens: a whole number above 0 is required"),
        (r#""messages":[{"role":"user","content":"x"}],"tools":[{}]"#.into(), "tools.0.name: a string is required"),
        (
            r#""messages":[{"role":"user","content":"x"}],"tools":[{"name":"n"}],"tool_choice":{"type":"tool"}"#.into(),
            "tool_choice: its type is auto, any, none, or tool with a name",
        ),
        (r#""messages":[{"role":"user","content":"x"}],"system":[{"type":"image"}]"#.into(), "system.0: only blocks of text can be translated"),
        (
            r#""messages":[{"role":"user","content":"x"}],"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":8}]"#.into(),
            "web_search is not available on this upstream",
        ),
    ] {
        let failure = chat(&fields).expect_err(expected);
        assert_eq!((failure.status, &*failure.code), (400, "invalid_request_error"));
        assert_eq!(failure.message, expected, "{fields}");
    }
    for body in [
        "",
        "[]",
        "{\"model\":\"m\"",
        "\"x\"",
        "{\"model\":\"\\ud800\u{0}\"}",
    ] {
        let failure = translate(body.as_bytes(), MODEL).expect_err(body);
        assert_eq!(failure.message, "the body is not a JSON object", "{body}");
    }
    let failure = translate(b"{\"messages\":[]}", MODEL).expect_err("no model");
    assert_eq!(failure.message, "model: a string is required");
}
