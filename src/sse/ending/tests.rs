use super::*;

const WORD: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
const BARE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"usage\":{\"total_tokens\":9},\"choices\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// What is said of a stream, however it is cut into pieces: (finished, whole, whole if marked).
fn ends(stream: &str) -> (bool, bool, bool) {
    let mut found: Vec<_> = [1, 2, 7, 100, 1_000_000]
        .map(|size| {
            let mut ending = Ending::default();
            stream
                .as_bytes()
                .chunks(size)
                .for_each(|piece| ending.push(piece));
            (
                ending.is_finished(),
                ending.is_whole(false),
                ending.is_whole(true),
            )
        })
        .into();
    found.dedup();
    assert_eq!(found.len(), 1, "the end depends on how it came: {stream}");
    found[0]
}

#[test]
fn a_line_that_begins_like_the_others_says_what_it_says_itself() {
    let line = r#"data: {"id":"x","choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
    let (other, stop) = (
        line.replace("\"a\"", "\"b\""),
        line.replace("null", "\"stop\""),
    );
    let inside = format!("data: {{\"inside\":\n{stop}\ndata: }}");
    for (last, over) in [
        (other.clone(), false),
        (
            line.replace("null}", "null,\"usage\":{\"prompt_tokens\":1}}"),
            false,
        ),
        (stop.clone(), true),
        (stop.replace("{\"delta", "\ndata: {\"delta"), true),
        (inside.clone(), false),
        (
            format!("{stop}\n\n{line}\n\n{line}\n\n{line}\n\n{}", &line[..40]),
            false,
        ),
        (format!("{line}\n\n{stop}\n\n{inside}"), true),
    ] {
        let stream = format!("{line}\n\n{other}\n\n{line}\n\n{line}\n\n{last}\n\n");
        assert_eq!(ends(&stream), (over, over, over), "{last}");
        assert_eq!(
            ends(&stream.replacen(&other, line, 1)),
            (over, over, over),
            "{last}"
        );
    }
    let inside = format!("data: {{\"inside\":[\n{line},\n{other}]\ndata: }}");
    assert!(ends(&format!("{inside}\n\n{line}\n\n{stop}\n\n")).0);
}

#[test]
fn a_stream_says_at_its_end_that_it_is_over() {
    let large = format!(
        "data: {{\"choices\":[{{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{{\"content\":\"\"}},\"signature\":\"{}\"}}]}}\n\n",
        "A".repeat(3000)
    );
    let quoted = WORD.replace("\"x\"", r#""data: [DONE] \"finish_reason\":\"stop\"""#);
    let deeper = WORD.replace("\"x\"", r#"[{"finish_reason":"stop"}]"#);
    for over in [
        format!("{WORD}{DONE}"),
        format!("{WORD}{STOP}"),
        format!("{WORD}{STOP}{USAGE}"),
        format!("{}{}", WORD.repeat(99), STOP.replace(":\"", ": \"")),
        format!("{WORD}{large}"),
        STOP.replace('\n', "\r\n"),
        STOP.trim_end().to_string(),
        format!("{BARE}data:[DONE]"),
        format!("{BARE}data: [DONE] \n"),
        "data: {\"choices\":\ndata: [{\"finish_reason\":\ndata: \"stop\"}]}\n\n".into(),
        "data: {\"choices\":\r\ndata: [{\"finish_reason\":\r\ndata: \"stop\"}]}\r\n\r\n".into(),
        "event: message_start\ndata: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"message_stop\"}\n\n".into(),
        "data: {\"type\":\"response.created\"}\n\ndata: {\"type\": \"response.completed\"}\n\n".into(),
        format!("{WORD}data: {{\"error\":{{\"message\":\"it broke\"}}}}\n\n"),
        format!("{WORD}data: {{\"type\":\"error\",\"error\":{{}}}}\n\n"),
    ] {
        assert_eq!(ends(&over), (true, true, true), "{over}");
    }
    let empty_error = WORD.replace("{\"choices", "{\"error\":{\"code\":0},\"choices");
    for broken in [
        WORD.to_string(),
        WORD.repeat(99),
        format!("{STOP}{WORD}"),
        format!("{WORD}{USAGE}"),
        format!("{WORD}{BARE}"),
        quoted,
        deeper,
        empty_error,
        WORD.replace("null", "\"\""),
        format!("{WORD}{}", &STOP[..STOP.len() - 4]),
        format!("{BARE}data: {{\"cho"),
        format!("{WORD}data: {{\"a\":\ndata: 1}}[DONE]\n\n"),
        "data: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"content_block_delta\"}\n\n".into(),
        "data: {\"type\":\"response.created\",\"x\":1}\n\n".into(),
    ] {
        assert_eq!(ends(&broken), (false, false, false), "{broken}");
    }
    for unmarked in [
        "",
        BARE,
        "data: 1\n\n",
        "data: plain { text\n\ndata: more\n\n",
        "data: [1,2]\n\n",
        "data: [DON]\n\n",
    ] {
        assert_eq!(ends(unmarked), (false, true, false), "{unmarked}");
    }
}

fn pair(tokens: Tokens) -> Option<(u64, u64)> {
    (tokens != Tokens::default()).then_some((tokens.input, tokens.output))
}

fn tokens(stream: &str) -> Option<(u64, u64)> {
    let mut found: Vec<_> = [1, 3, 1_000_000]
        .map(|size| {
            let mut ending = Ending::default();
            let pieces = stream.as_bytes().chunks(size);
            pieces.for_each(|piece| ending.push(piece));
            pair(ending.tokens())
        })
        .into();
    found.dedup();
    assert_eq!(found.len(), 1, "it depends on how it came: {stream}");
    found[0]
}

#[test]
fn tokens_are_what_the_usage_of_a_stream_says() {
    let event = |json: &str| format!("data: {json}\n\n");
    for (json, expected) in [
        (
            r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}"#,
            Some((12, 34)),
        ),
        (
            r#"{"usage" : { "prompt_tokens" : 12 , "completion_tokens_details":{"reasoning_tokens":9,"output_tokens":7}, "completion_tokens":3 } }"#,
            Some((12, 3)),
        ),
        (
            r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":5,"cache_read_input_tokens":20,"cache_creation_input_tokens":100,"output_tokens":1}}}"#,
            Some((125, 1)),
        ),
        (
            r#"{"type":"response.completed","response":{"output":[{"usage":{"input_tokens":99}}],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":3},"output_tokens":8},"user":null}}"#,
            Some((7, 8)),
        ),
        (
            r#"{"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":4,"completion_tokens":2}}}"#,
            Some((4, 2)),
        ),
        (
            r#"{"usage":{"prompt_tokens":4,"completion_tokens":2,"input_tokens":0,"output_tokens":0}}"#,
            Some((4, 2)),
        ),
        (r#"{"usage":{"prompt_tokens":4}}"#, Some((4, 0))),
        (
            r#"{"usage":null,"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}"}}]}"#,
            None,
        ),
        (
            r#"{"choices":[{"delta":{"usage":{"prompt_tokens":9}}}],"other":{"usage":{"prompt_tokens":9}}}"#,
            None,
        ),
        (
            r#"{"usage":{"prompt_tokens":1.5,"completion_tokens":-3}}"#,
            None,
        ),
        (
            r#"{"usage":{"prompt_tokens":"12","completion_tokens":null}}"#,
            None,
        ),
        (r#"{"usage":[12],"prompt_tokens":12}"#, None),
        (r#"{"message":"usage","usage":{}}"#, None),
    ] {
        assert_eq!(tokens(&event(json)), expected, "{json}");
    }
}

#[test]
fn the_most_that_a_stream_said_counts() {
    let growing = "data: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\ndata: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    assert_eq!(tokens(growing), Some((9, 2)));
    let message = "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n";
    assert_eq!(tokens(message), Some((9, 15)));
}

#[test]
fn what_lines_have_in_common_is_read_once_and_says_the_same() {
    let begin = r#"data: {"id":"0123456789","model":"m","choices":[{"delta":{"content":""#;
    let finish = r#"data: {"id":"0123456789","model":"m","choices":[{"finish_reason":""#;
    let role = r#"data: {"id":"0123456789","model":"m","choices":[{"delta":{"role":"assistant","content":""#;
    let text = r#"data: {"id":"0123456789","model":"m","text":""#;
    let tokens = [
        "",
        "a",
        " of the",
        " of their own",
        "stop",
        "a longer token",
        r#"\""#,
        r#"\n"#,
        "\u{e9}",
    ];
    let rests = [
        r#""},"finish_reason":null}]}"#,
        r#""},"finish_reason":null}]}  "#,
        r#""}}]}"#,
        r#""},"finish_reason":"stop"}]}"#,
        r#""},"finish_reason":null}],"usage":{"prompt_tokens":7}}"#,
        r#""},"finish_reason":null}],"usage":{"prompt_tokens":9}}"#,
        r#""},"#,
        r#""}"#,
        r#"","#,
        r#""},"finish_reason":null}],"usage":{"prompt_tokens":8"#,
    ];
    let mut random = 7u32;
    let mut one_of = |n: usize| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::from((random >> 24) as u8) % n
    };
    for _ in 0..2_000 {
        let (mut by_lines, mut by_bytes) = (Ending::default(), Ending::default());
        let mut usual = (
            one_of(rests.len()),
            if one_of(4) == 0 { finish } else { begin },
        );
        let mut stream = String::new();
        for _ in 0..16 {
            let rest = if one_of(3) == 0 {
                one_of(rests.len())
            } else {
                usual.0
            };
            let token = tokens[one_of(tokens.len())];
            // As in a stream that goes over to something else.
            if one_of(6) == 0 {
                usual.1 = [begin, finish, role, text][one_of(4)];
            }
            let line = format!(
                "{}{token}{}{}",
                usual.1,
                rests[rest],
                ["\n\n", "\r\n\r\n", "\n"][one_of(3)]
            );
            stream += &line;
            // Mostly whole, as lines come; sometimes cut anywhere.
            let cut = [line.len(), one_of(line.len())][usize::from(one_of(5) == 0)];
            let (piece, more) = line.as_bytes().split_at(cut);
            by_lines.push(piece);
            by_lines.push(more);
            line.bytes().for_each(|byte| by_bytes.push(&[byte]));
            let says = |ending: &Ending| {
                (
                    ending.is_finished(),
                    ending.is_whole(false),
                    pair(ending.tokens()),
                )
            };
            assert_eq!(says(&by_lines), says(&by_bytes), "{stream}");
        }
    }
}

#[test]
fn a_number_that_is_cut_off_is_no_part_of_the_next_one() {
    let mut ending = Ending::default();
    for number in ["7", "9}}", "80}}"] {
        let line = format!("data: {{\"usage\":{{\"prompt_tokens\":{number}\n\n");
        ending.push(line.as_bytes());
    }
    assert_eq!(pair(ending.tokens()), Some((80, 0)));
}
