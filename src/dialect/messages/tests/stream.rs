//! Chat stream → Messages stream, row by row.

use serde_json::{Value, json};

use super::strict::accumulate;
use super::*;

/// The message that these deltas make.
fn message(deltas: &[&str], finish: &str) -> Value {
    let (out, end) = run(asked(), &finished(deltas, finish), 1000, true);
    assert_eq!(end, StreamEnd::Whole, "{deltas:?}");
    let (message, whole) = accumulate(&out).unwrap_or_else(|fault| panic!("{deltas:?}: {fault}"));
    assert!(whole, "{deltas:?}");
    message
}

/// The blocks of it, without ids that were made here.
fn content(deltas: &[&str], finish: &str) -> Value {
    let mut content = message(deltas, finish)["content"].clone();
    for block in content.as_array_mut().into_iter().flatten() {
        let fields = block.as_object_mut().expect("a block");
        fields.remove("signature");
        if fields
            .get("id")
            .and_then(Value::as_str)
            .is_some_and(|id| id.starts_with("toolu_"))
        {
            fields.insert("id".into(), "fresh".into());
        }
    }
    content
}

fn text(text: &str) -> Value {
    json!({"type":"text","text":text})
}

fn thought(text: &str) -> Value {
    json!({"type":"thinking","thinking":text})
}

fn call(id: &str, name: &str, input: Value) -> Value {
    json!({"type":"tool_use","id":id,"name":name,"input":input})
}

#[test]
fn a_short_answer_becomes_these_bytes() {
    let (out, _) = run(
        asked(),
        &finished(
            &[
                r#"{"role":"assistant","content":""}"#,
                r#"{"content":"a\u00e9\n"}"#,
            ],
            "stop",
        ),
        9,
        true,
    );
    let expected = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_63cbe1e459320dd7","type":"message","role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":50,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"aé\n"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":50,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}

event: message_stop
data: {"type":"message_stop"}

"#;
    assert_eq!(
        String::from_utf8_lossy(&out),
        expected.replace("\"aé\n\"", r#""a\u00e9\n""#)
    );
}

#[test]
fn thoughts_and_text_are_blocks() {
    for (deltas, expected) in [
        (
            &[r#"{"content":"a"}"#, r#"{"content":"b"}"#][..],
            json!([text("ab")]),
        ),
        (
            &[
                r#"{"reasoning_content":"t"}"#,
                r#"{"reasoning_content":"u","content":""}"#,
                r#"{"content":"a"}"#,
            ],
            json!([thought("tu"), text("a")]),
        ),
        (
            &[
                r#"{"reasoning":"t","reasoning_content":"t"}"#,
                r#"{"content":"a"}"#,
            ],
            json!([thought("t"), text("a")]),
        ),
        (
            &[r#"{"reasoning":"t","content":"a"}"#],
            json!([thought("t"), text("a")]),
        ),
        (
            &[
                r#"{"reasoning_details":[{"text":"t"}]}"#,
                r#"{"content":"a"}"#,
            ],
            json!([thought("t"), text("a")]),
        ),
        (
            &[
                r#"{"content":"<thi"}"#,
                r#"{"content":"nk>t</th"}"#,
                r#"{"content":"ink>\n\na"}"#,
            ],
            json!([thought("t"), text("a")]),
        ),
        (
            &[r#"{"content":"\u003cthink\u003et\u003c/think\u003ea"}"#],
            json!([thought("t"), text("a")]),
        ),
        (
            &[
                r#"{"content":"a"}"#,
                r#"{"reasoning":"t"}"#,
                r#"{"content":"b"}"#,
            ],
            json!([text("a"), thought("t"), text("b")]),
        ),
        (
            &[
                r#"{"content":"use "}"#,
                r#"{"content":"`<think>`</think>"}"#,
            ],
            json!([text("use `<think>`</think>")]),
        ),
        (&[r#"{"refusal":"no"}"#], json!([text("no")])),
        (
            &[
                r#"{"content":null,"refusal":null,"tool_calls":null,"audio":{}}"#,
                r#"{"content":"a"}"#,
            ],
            json!([text("a")]),
        ),
        (
            &[r#"{"content":"\n\n"}"#, r#"{"content":" a"}"#],
            json!([text("\n\n a")]),
        ),
    ] {
        assert_eq!(content(deltas, "stop"), expected, "{deltas:?}");
    }
}

#[test]
fn calls_are_blocks() {
    for (deltas, expected) in [
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}"#,
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#,
            ][..],
            json!([call("a", "f", json!({"x":1}))]),
        ),
        (
            &[r#"{"tool_calls":[{"index":0,"id":"","function":{"name":"f","arguments":"{}"}}]}"#],
            json!([call("fresh", "f", json!({}))]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":{"x":"\"y"}}}]}"#,
            ],
            json!([call("a", "f", json!({"x":"\"y"}))]),
        ),
        (
            &[r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}}]}"#],
            json!([call("a", "f", json!({}))]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"null"}}]}"#,
            ],
            json!([call("a", "f", json!({}))]),
        ),
        (
            &[r#"{"function_call":{"name":"f","arguments":"{}"}}"#],
            json!([call("fresh", "f", json!({}))]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}]}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":":1}"}}]}"#,
            ],
            json!([call("a", "f", json!({"x":1}))]),
        ),
        (
            &[
                r#"{"content":"I look."}"#,
                r#"{"content":"\n"}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
            ],
            json!([text("I look.\n"), call("a", "f", json!({}))]),
        ),
        (
            &[
                r#"{"content":"\n\n"}"#,
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
            ],
            json!([call("a", "f", json!({}))]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
                r#"{"content":"\n\nDone."}"#,
            ],
            json!([call("a", "f", json!({})), text("Done.")]),
        ),
        (
            &[
                r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":1,"id":"a","function":{"name":"g","arguments":"{}"}}]}"#,
            ],
            json!([call("a", "f", json!({})), call("fresh", "g", json!({}))]),
        ),
    ] {
        assert_eq!(content(deltas, "tool_calls"), expected, "{deltas:?}");
        assert_eq!(
            message(deltas, "stop")["stop_reason"],
            "tool_use",
            "{deltas:?}"
        );
    }
}

#[test]
fn the_reason_to_stop_is_translated() {
    let said = [r#"{"content":"a"}"#];
    for (finish, expected) in [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "end_turn"), // nothing was called
        ("content_filter", "refusal"),
        ("something", "end_turn"),
    ] {
        assert_eq!(message(&said, finish)["stop_reason"], expected);
    }
}

#[test]
fn the_last_usage_wins_wherever_it_stands() {
    let usage = r#""usage":{"prompt_tokens":90,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":60}}"#;
    let said = delta(r#"{"content":"a"}"#);
    let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let expected = json!({"input_tokens":30,"cache_creation_input_tokens":0,"cache_read_input_tokens":60,"output_tokens":7});
    for last in [
        format!(r#"{{"choices":[],{usage}}}"#),
        format!(r#"{{"choices":[{{"delta":{{}},{usage}}}]}}"#),
        format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"stop"}}],{usage}}}"#),
    ] {
        for done in ["[DONE]", ""] {
            let all = [
                &said,
                r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
                stop,
                &last,
                done,
            ];
            let (out, end) = run(asked(), &events(&all), 7, true);
            assert_eq!(end, StreamEnd::Whole);
            assert_eq!(
                accumulate(&out).expect("good").0["usage"],
                expected,
                "{last}"
            );
        }
    }
    // Nobody counted: the estimates, of four bytes a token.
    let found = message(&[r#"{"content":"12345678"}"#], "stop");
    assert_eq!(
        (
            &found["usage"]["input_tokens"],
            &found["usage"]["output_tokens"]
        ),
        (&json!(50), &json!(2))
    );
    // All of it was cached: 0 would not be believed.
    let all = [
        &said,
        stop,
        r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_cache_hit_tokens":5}}"#,
    ];
    let (out, _) = run(asked(), &events(&all), 99, true);
    assert_eq!(
        accumulate(&out).expect("good").0["usage"]["input_tokens"],
        1
    );
}

#[test]
fn how_a_stream_ends_is_told_as_the_table_says() {
    let said = delta(r#"{"content":"a"}"#);
    let role = delta(r#"{"role":"assistant","content":""}"#);
    let cut = delta(
        r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}}]}"#,
    );
    let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let length = r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
    let error = r#"{"error":{"message":"overloaded","code":503}}"#;
    let broken = StreamEnd::Broken("");
    for (all, clean, expected) in [
        (&[&*role, &said, stop, "[DONE]"][..], true, StreamEnd::Whole),
        (&[&said, stop, "[DONE]"], false, StreamEnd::Whole), // it was told before the cut
        (&[&said, stop], true, StreamEnd::Whole),
        (&[&said, "[DONE]"], true, StreamEnd::Whole),
        (&[&said, stop], false, broken),
        (&[&said], true, broken),
        (&[&said], false, broken),
        (&[&said, error], true, broken),
        (&[&said, "{not json", stop, "[DONE]"], true, broken),
        (
            &[
                &said,
                r#"{"choices":[{"delta":{},"finish_reason":"error"}]}"#,
                "[DONE]",
            ],
            true,
            broken,
        ),
        (&[&cut, stop, "[DONE]"], true, broken),
        (&[&cut, length, "[DONE]"], true, StreamEnd::Whole),
        (&[&cut], true, broken),
        (&[&*role, stop, "[DONE]"], true, StreamEnd::Empty),
        (&[&*role, length, "[DONE]"], true, StreamEnd::Empty),
        (&[stop], true, StreamEnd::Empty),
        (&["[DONE]"], true, StreamEnd::Empty),
        (&[&*role], true, broken),
        (&[error], true, broken),
        (&[], true, broken),
        (
            &[&said, "still here", "", stop, "[DONE]"],
            true,
            StreamEnd::Whole,
        ),
    ] {
        let (out, end) = run(asked(), &events(all), 11, clean);
        let same = matches!(
            (end, expected),
            (StreamEnd::Broken(_), StreamEnd::Broken(_))
        ) || end == expected;
        assert!(same, "{all:?} {end:?}");
        let (_, whole) = accumulate(&out).unwrap_or_else(|fault| panic!("{all:?}: {fault}"));
        assert_eq!(whole, end == StreamEnd::Whole, "{all:?}");
        let has_words = all.iter().any(|event| *event == said || *event == cut);
        assert_eq!(
            out.is_empty(),
            !has_words,
            "{all:?}: before the first word nothing is said"
        );
    }
}

#[test]
fn an_answer_without_words_can_be_told_at_last() {
    for (finish, expected) in [
        ("stop", "end_turn"),
        ("tool_calls", "end_turn"),
        ("length", "max_tokens"),
    ] {
        let mut stream = reader(asked());
        let mut out = Vec::new();
        stream.push(
            &finished(&[r#"{"role":"assistant"}"#, r#"{"content":" \n"}"#], finish),
            &mut out,
        );
        assert_eq!(stream.ended(), Some(StreamEnd::Empty));
        assert!(out.is_empty());
        stream.put_empty(&mut out);
        let (message, whole) = accumulate(&out).expect("good");
        assert!(whole);
        assert_eq!(
            (&message["content"], &message["stop_reason"]),
            (&json!([text("")]), &json!(expected))
        );
    }
}

#[test]
fn an_answer_in_one_piece_becomes_a_stream() {
    let whole = br#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"a","reasoning_content":"t",
        "tool_calls":[{"id":"i","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},"finish_reason":"tool_calls"}],
        "usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    let mut stream = reader(asked());
    let mut out = Vec::new();
    stream.push_whole(whole, &mut out);
    assert_eq!(stream.end(true, &mut out), StreamEnd::Whole);
    let (message, _) = accumulate(&out).expect("good");
    assert_eq!(message["stop_reason"], "tool_use");
    assert_eq!(message["content"][2], call("i", "f", json!({"x":1})));
    assert_eq!(stream.usage().map(|usage| usage.prompt), Some(5));
}

#[test]
fn a_wrong_belief_about_a_template_is_corrected() {
    let learned = |unopened, deltas: &[&str], finish| {
        let mut stream = reader(RequestContext {
            thinks_unopened: unopened,
            ..asked()
        });
        let mut out = Vec::new();
        stream.push(&finished(deltas, finish), &mut out);
        let (message, _) = accumulate(&out).expect("good");
        (
            message["content"].as_array().map_or(0, Vec::len),
            stream.thinks_unopened(),
        )
    };
    let lone = &[
        r#"{"content":"hm"}"#,
        r#"{"content":"</think>"}"#,
        r#"{"content":"a"}"#,
    ];
    let none = &[r#"{"content":"a"}"#];
    assert_eq!(learned(false, lone, "stop"), (1, Some(true)));
    assert_eq!(learned(true, lone, "stop"), (2, None));
    assert_eq!(learned(true, none, "stop"), (1, Some(false)));
    assert_eq!(
        learned(true, none, "length"),
        (1, None),
        "cut in its thoughts"
    );
    assert_eq!(learned(false, none, "stop"), (1, None));
}

#[test]
fn the_memory_of_a_stream_is_bounded() {
    let many: Vec<String> = (0..200)
        .map(|n| delta(&format!(r#"{{"tool_calls":[{{"index":{n},"id":"i{n}","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#)))
        .collect();
    let long = vec![
        delta(&format!(
            r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"[{}"}}}}]}}"#,
            "1,".repeat(500)
        ));
        40
    ];
    let endless = vec!["x".repeat(2 * 1024 * 1024)];
    for (events_in, why) in [
        (many, "too many tool calls, or a name without end"),
        (long, "arguments without a name, or that are no object"),
        (endless, "an event is too long"),
    ] {
        let all: Vec<&str> = events_in.iter().map(String::as_str).collect();
        let (out, end) = run(asked(), &events(&all), 1000, true);
        assert_eq!(end, StreamEnd::Broken(why));
        assert!(!accumulate(&out).expect("good").1);
    }
}

#[test]
fn blocks_that_are_kept_open_are_closed_once_and_in_order_at_the_end() {
    let deltas = [
        r#"{"reasoning_content":"t"}"#,
        r#"{"content":"a"}"#,
        r#"{"tool_calls":[{"index":0,"id":"c0","function":{"name":"f","arguments":"{\"k\":1}"}}]}"#,
        r#"{"tool_calls":[{"index":1,"id":"c1","function":{"name":"g","arguments":""}}]}"#,
    ];
    let asked = || RequestContext {
        keeps_open: true,
        ..asked()
    };
    let all = finished(&deltas, "tool_calls");
    let (out, end) = run(asked(), &all, 1000, true);
    assert_eq!(end, StreamEnd::Whole);
    let text = String::from_utf8(out).expect("text");
    let at = |at: u64| format!("{{\"type\":\"content_block_stop\",\"index\":{at}}}");
    let ends: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .skip_while(|data| !data.contains("_stop"))
        .collect();
    assert_eq!(ends[..4], [at(0), at(1), at(2), at(3)]);
    assert!(ends.len() == 6 && ends[4].contains("message_delta"));

    let (out, end) = run(asked(), &all[..all.len() - 20], 7, false);
    assert!(
        matches!(end, StreamEnd::Broken(_)) && !String::from_utf8_lossy(&out).contains("_stop\"")
    );
}
