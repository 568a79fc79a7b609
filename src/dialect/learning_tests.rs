//! What refusals teach, and how requests are changed by it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::adapt::adapt;
use super::learned::{Learned, MOST, Traits, to_json};
use super::lessons::{FIELDS, Lesson, Overflow, learn_from_error};
use super::measure::{Size, USUAL_RATIO};

const SIZE: Size = Size {
    bytes: 40_000,
    images: 0,
};

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

fn error(message: &str) -> Vec<u8> {
    json!({"error":{"message":message}})
        .to_string()
        .into_bytes()
}

#[test]
fn an_overflow_is_read_in_every_upstreams_words() {
    for (words, prompt, limit) in [
        (
            "This model's maximum context length is 131072 tokens. However, you requested 163000 tokens (141000 in the messages, 22000 in the completion). Please reduce the length of the messages or completion.", // OpenAI, DeepSeek
            Some(141_000),
            Some(131_072),
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context length is 131072 tokens and your request has 108000 input tokens (32000 > 131072 - 108000).", // vLLM
            Some(108_000),
            Some(131_072),
        ),
        (
            "You passed 140001 input tokens and requested 0 output tokens. However, the model's context length is only 131072 tokens, resulting in a maximum input length of 131072 tokens.", // vLLM
            Some(140_001),
            Some(131_072),
        ),
        (
            "Requested token count exceeds the model's maximum context length of 131072 tokens. You requested a total of 140000 tokens: 108000 tokens from the input messages and 32000 tokens for the completion.", // SGLang
            Some(108_000),
            Some(131_072),
        ),
        (
            "The input (140000 tokens) is longer than the model's context length (131072 tokens).",
            Some(140_000),
            Some(131_072),
        ), // SGLang
        (
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            Some(40_000),
            Some(32_768),
        ), // Mistral
        (
            "This endpoint's maximum context length is 131072 tokens. However, you requested about 152000 tokens (108000 of text input, 12000 of tool input, 32000 in the output).", // OpenRouter
            Some(120_000),
            Some(131_072),
        ),
        (
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            Some(1_200_000),
            Some(1_048_576),
        ), // Gemini
        (
            "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
            Some(9_000),
            Some(8_192),
        ), // Cerebras
        (
            "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",
            Some(9_000),
            Some(8_192),
        ), // llama.cpp
        ("max_tokens must be at least 1, got -853.", None, None), // vLLM
        (
            "prompt is too long: 9,000 tokens > 8,192 maximum",
            Some(9_000),
            Some(8_192),
        ), // Anthropic
        (
            "Please reduce the length of the messages or completion.",
            None,
            None,
        ), // Groq
        ("Prompt too long", None, None),
    ] {
        let found = Overflow::read(400, &error(words)).expect(words);
        assert_eq!((found.prompt, found.limit), (prompt, limit), "{words}");
        let expected = limit.map(|limit| Lesson::Context(limit, prompt));
        assert_eq!(learn_from_error(400, &error(words)), expected, "{words}");
    }
    let fields = br#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":8192}}"#;
    assert_eq!(
        Overflow::read(400, fields),
        Some(Overflow {
            prompt: Some(9000),
            limit: Some(8192)
        })
    );
    for (status, words) in [
        (400, "bad"),
        (429, "maximum context length is 9"),
        (404, "prompt too long"),
    ] {
        assert_eq!(Overflow::read(status, &error(words)), None);
    }
}

#[test]
fn limits_of_output_are_read() {
    for (words, most) in [
        (
            "max_tokens is too large: 32000. This model supports at most 16384 completion tokens, whereas you provided 32000.",
            16384,
        ), // OpenAI
        (
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model",
            8192,
        ), // Groq
        (
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            8192,
        ), // DeepSeek
        ("Range of max_tokens should be [1, 8192]", 8192), // Qwen
        (
            "max_tokens: 128000 > 64000, which is the maximum allowed number of output tokens",
            64000,
        ), // Anthropic
        (
            "Unable to submit request because it has a maxOutputTokens value of 128000 but the supported range is from 1 (inclusive) to 65537 (exclusive).",
            65536,
        ), // Gemini
    ] {
        assert_eq!(
            learn_from_error(400, &error(words)),
            Some(Lesson::Output(most)),
            "{words}"
        );
    }
    let pydantic = br#"{"detail":[{"type":"less_than_equal","loc":["body","max_tokens"],"msg":"Input should be less than or equal to 4096","ctx":{"le":4096}}]}"#;
    assert_eq!(learn_from_error(422, pydantic), Some(Lesson::Output(4096)));
}

#[test]
fn refusals_say_what_a_model_does_not_take() {
    for (status, body, expected) in [
        (
            400,
            r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens"}}"#,
            Some(Lesson::Refuses("max_tokens")),
        ),
        (
            400,
            r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported."}}"#,
            Some(Lesson::Refuses("temperature")),
        ),
        (
            422,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
            Some(Lesson::Refuses("stream_options")),
        ),
        (
            400,
            r#"{"message":"property 'chat_template_kwargs' is unsupported"}"#,
            Some(Lesson::Refuses("chat_template_kwargs")),
        ),
        (
            400,
            r#"{"error":{"message":"top_p is immutable for this model and must be 1"}}"#,
            Some(Lesson::Refuses("top_p")),
        ),
        (
            400,
            r#"{"detail":"extra fields not permitted: body.reasoning_effort"}"#,
            Some(Lesson::Refuses("reasoning_effort")),
        ),
        (
            422,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","messages",2,"assistant","reasoning_content"],"msg":"Extra inputs are not permitted"}]}"#,
            Some(Lesson::Refuses("reasoning_content")),
        ),
        (
            400,
            r#"{"error":{"message":"Unrecognized request argument supplied: parallel_tool_calls"}}"#,
            Some(Lesson::Refuses("parallel_tool_calls")),
        ),
        (
            400,
            r#"{"error":{"message":"'stop' is not supported"}}"#,
            Some(Lesson::Refuses("stop")),
        ),
        (
            400,
            r#"{"error":{"message":"please stop, this is not supported"}}"#,
            None,
        ),
        (
            400,
            r#"{"error":{"message":"this is not supported"}}"#,
            None,
        ),
        (
            400,
            r#"{"error":{"message":"Invalid schema for function 'f'"}}"#,
            Some(Lesson::PlainSchemas),
        ),
        (
            400,
            r#"{"error":{"message":"Invalid JSON payload received. Unknown name \"exclusiveMinimum\" at 'tools[0].function_declarations[0].parameters.properties[0].value': Cannot find field."}}"#,
            Some(Lesson::PlainSchemas),
        ),
        (
            404,
            r#"{"error":{"message":"No endpoints found that support image input"}}"#,
            Some(Lesson::Blind),
        ),
        (
            500,
            r#"{"error":{"message":"m is not a multimodal model"}}"#,
            Some(Lesson::Blind),
        ),
        (
            400,
            r#"{"error":{"message":"unknown variant `image_url`, expected `text`"}}"#,
            Some(Lesson::Blind),
        ),
        (
            400,
            r#"{"error":{"message":"thinking is enabled but reasoning_content is missing in assistant tool call message at index 2"}}"#,
            Some(Lesson::NeedsThoughts),
        ),
        (
            400,
            r#"{"message":"Tool call id was toolu_1 but must be a-z, A-Z, 0-9, with a length of 9."}"#,
            Some(Lesson::ShortIds),
        ),
        (
            429,
            r#"{"error":{"message":"'temperature' is not supported"}}"#,
            None,
        ),
        (400, "<html>", None),
        (400, "5\u{e9} in the messages, prompt too long", None),
    ] {
        assert_eq!(
            learn_from_error(status, body.as_bytes()),
            expected,
            "{body}"
        );
    }
}

/// What a request becomes after these lessons.
fn adapted(body: &Value, lessons: &[Lesson], prompt_tokens: u64) -> Option<Value> {
    let mut learned = Learned::default();
    lessons
        .iter()
        .for_each(|lesson| learned.learn("m", *lesson, SIZE, Instant::now()));
    let found = adapt(
        body.to_string().as_bytes(),
        &learned.traits("m"),
        prompt_tokens,
    );
    found.map(|body| read(&body))
}

#[test]
fn refused_fields_are_left_out_and_nothing_else_is_changed() {
    let body = json!({"model":"m","max_tokens":64,"temperature":1,"reasoning_effort":"low","messages":[{"role":"assistant","content":"","reasoning_content":"t"}]});
    for (field, gone) in [
        ("temperature", "/temperature"),
        ("reasoning_content", "/messages/0/reasoning_content"),
    ] {
        let found = adapted(&body, &[Lesson::Refuses(field)], 10).expect(field);
        assert_eq!(found.pointer(gone), None);
        assert!(body.pointer(gone).is_some());
    }
    assert_eq!(
        adapted(&body, &[Lesson::Refuses("top_p")], 10),
        None,
        "sending it again would change nothing"
    );
    assert_eq!(adapted(&body, &[], 10), None);
    let renamed = adapted(&body, &[Lesson::Refuses("max_tokens")], 10).expect("a change");
    assert_eq!(
        (&renamed["max_completion_tokens"], &renamed["max_tokens"]),
        (&json!(64), &Value::Null)
    );
    // What cannot be told not to think needs room to.
    let thinks = adapted(&body, &[Lesson::Refuses("reasoning_effort")], 10).expect("a change");
    assert_eq!(thinks["max_tokens"], 1024);
    assert_eq!(adapt(b"no JSON", &learned_one(Lesson::Blind), 1), None);
}

fn learned_one(lesson: Lesson) -> Traits {
    let mut learned = Learned::default();
    learned.learn("m", lesson, SIZE, Instant::now());
    learned.traits("m")
}

#[test]
fn output_is_lowered_to_what_there_is() {
    let body = json!({"model":"m","max_tokens":32000});
    for (lessons, prompt, expected) in [
        (&[Lesson::Output(8192)][..], 10, Some(8192)),
        (&[Lesson::Output(64000)], 10, None),
        (&[Lesson::Context(131_072, None)], 64_000, None),
        (
            &[Lesson::Context(131_072, None)],
            108_000,
            Some(131_072 - 108_000 - 108_000 / 64 - 64),
        ),
        (&[Lesson::Context(131_072, None)], 131_000, None), // the upstream is to say so
        (
            &[Lesson::Context(131_072, None), Lesson::Output(8192)],
            108_000,
            Some(8192),
        ),
    ] {
        let found = adapted(&body, lessons, prompt);
        assert_eq!(
            found.map(|body| body["max_tokens"].clone()),
            expected.map(Value::from),
            "{lessons:?}"
        );
    }
}

#[test]
fn messages_are_adapted() {
    let body = json!({"messages":[
        {"role":"user","content":[{"type":"text","text":"a\n"},{"type":"image_url","image_url":{"url":"data:"}}]},
        {"role":"assistant","content":"","tool_calls":[{"id":"toolu_1","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"toolu_1","content":"x"}
    ]});
    let blind = adapted(&body, &[Lesson::Blind], 1).expect("a change");
    assert_eq!(
        blind["messages"][0]["content"],
        "a\n\n[image omitted: this model reads none]"
    );
    assert_eq!(blind["messages"][1], body["messages"][1]);
    let thinks = adapted(&body, &[Lesson::NeedsThoughts], 1).expect("a change");
    assert_eq!(thinks["messages"][1]["reasoning_content"], " ");
    assert_eq!(thinks["messages"][0], body["messages"][0]);
    let short = adapted(&body, &[Lesson::ShortIds], 1).expect("a change");
    let id = short["messages"][1]["tool_calls"][0]["id"]
        .as_str()
        .expect("an id");
    assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert_eq!(short["messages"][2]["tool_call_id"], id);
}

#[test]
fn schemas_become_plain() {
    let schema = json!({"$schema":"s","type":"object","additionalProperties":false,"properties":{
        "format":{"type":["string","null"],"format":"uri","pattern":"^x","default":"y","description":"d"},
        "n":{"anyOf":[{"type":"integer","exclusiveMinimum":0},{"type":"null"}],"description":"d"},
        "c":{"const":"x"},
        "l":{"type":"array","items":{"type":"string","format":"date"},"maxItems":3},
        "u":{"anyOf":[{"type":"string"},{"type":"integer"}]}
    },"required":["format"]});
    let expected = json!({"type":"object","properties":{
        "format":{"type":"string","description":"d"},
        "n":{"type":"integer","description":"d"},
        "c":{"enum":["x"]},
        "l":{"type":"array","items":{"type":"string"},"maxItems":3},
        "u":{"anyOf":[{"type":"string"},{"type":"integer"}]}
    },"required":["format"]});
    let tool = |schema: &Value| json!({"tools":[{"type":"function","function":{"name":"f","parameters":schema}}]});
    assert_eq!(
        adapted(&tool(&schema), &[Lesson::PlainSchemas], 1),
        Some(tool(&expected))
    );
    assert_eq!(adapted(&tool(&expected), &[Lesson::PlainSchemas], 1), None);
    // Depth costs no stack.
    let deep = format!(
        r#"{{"tools":[{{"function":{{"parameters":{}true{}}}}}]}}"#,
        r#"{"items":"#.repeat(100_000),
        "}".repeat(100_000)
    );
    assert_eq!(
        adapt(deep.as_bytes(), &learned_one(Lesson::PlainSchemas), 1),
        None
    );
}

#[test]
fn the_ratio_is_learned_from_answers() {
    let mut learned = Learned::default();
    assert_eq!(learned.traits("m").tokens(SIZE), 11_111);
    learned.measured("m", SIZE, 10_000, Instant::now());
    assert_eq!(learned.traits("m").tokens(SIZE), 10_000);
    assert_eq!(learned.traits("other").ratio(), USUAL_RATIO);
    for (size, tokens) in [
        (SIZE, 0),
        (SIZE, 1),
        (SIZE, 4_000_000),
        (Size { images: 1, ..SIZE }, 9_000),
        (
            Size {
                bytes: 100,
                images: 0,
            },
            50,
        ),
    ] {
        learned.measured("m", size, tokens, Instant::now());
        assert_eq!(learned.traits("m").ratio(), 4_000, "{size:?} {tokens}");
    }
    learned.learn(
        "m",
        Lesson::Context(8_192, Some(8_000)),
        SIZE,
        Instant::now(),
    );
    assert_eq!(
        learned.traits("m").tokens(SIZE),
        8_000,
        "a refusal that counts teaches it too"
    );
}

#[test]
fn a_context_is_forgotten_that_a_longer_prompt_is_served_in() {
    let mut learned = Learned::default();
    learned.learn("m", Lesson::Context(8_192, None), SIZE, Instant::now());
    learned.measured("m", SIZE, 8_192, Instant::now());
    assert_eq!(learned.traits("m").context, Some(8_192));
    learned.measured("m", SIZE, 8_193, Instant::now());
    assert_eq!(learned.traits("m").context, None);
}

#[test]
fn the_table_is_bounded_and_can_be_seen() {
    let mut learned = Learned::default();
    for n in 0..100 {
        learned.learn(&format!("m{n}"), Lesson::Blind, SIZE, Instant::now());
        learned.learn("used", Lesson::Output(9), SIZE, Instant::now());
    }
    assert_eq!(learned.all().count(), MOST);
    assert_eq!(learned.traits("used").output, Some(9), "what is used stays");
    assert_eq!(learned.traits("m1"), Traits::default());
    learned.learn(&"x".repeat(1000), Lesson::Blind, SIZE, Instant::now());
    learned.measured("nothing learned", SIZE, 0, Instant::now());
    assert_eq!(learned.all().count(), MOST);
    let mut learned = Learned::default();
    for lesson in [
        Lesson::Context(8_192, None),
        Lesson::Blind,
        Lesson::Refuses("stop"),
        Lesson::Refuses("top_p"),
    ] {
        learned.learn("a\"b", lesson, SIZE, Instant::now());
    }
    learned.measured("a\"b", SIZE, 8_000, Instant::now());
    learned.learn("c", Lesson::Refuses(FIELDS[0]), SIZE, Instant::now());
    learned.thinks_unopened("d", true);
    let expected = json!({
        "a\"b":{"context":8192,"bytes_per_1000_tokens":5000,"no_images":true,"refuses":["top_p","stop"]},
        "c":{"refuses":["stream_options"]},
        "d":{"thinks_unopened":true}
    });
    assert_eq!(read(&to_json(&learned)), expected);
    assert_eq!(to_json(&Learned::default()), b"{}");
}

#[test]
fn lessons_end_by_themselves_and_are_believed_longer_each_time() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut learned = Learned::default();
    learned.measured("m", SIZE, 10_000, start);
    learned.learn("m", Lesson::Output(9), SIZE, start);
    learned.forget(after(59));
    assert_eq!(learned.traits("m").output, Some(9));
    learned.forget(after(60));
    assert_eq!(learned.traits("m").output, None, "that request's alone");
    assert_eq!(learned.traits("m").ratio(), 4_000, "no refusal taught that");
    learned.learn("m", Lesson::Output(9), SIZE, after(100));
    learned.forget(after(699));
    assert_eq!(learned.traits("m").output, Some(9), "it was right before");
    // A new lesson ends soon, even if an older one has lasted for long.
    learned.learn("m", Lesson::Blind, SIZE, after(200));
    learned.forget(after(260));
    assert_eq!(learned.traits("m").output, None);
    assert!(!learned.traits("m").blind);
    // Lessons that are always right are tested once a day in the end.
    let mut now = after(1000);
    for _ in 0..9 {
        learned.learn("m", Lesson::Blind, SIZE, now);
        now += Duration::from_secs(24 * 3600);
        learned.forget(now);
        assert!(!learned.traits("m").blind);
    }
}
