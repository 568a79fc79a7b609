//! What holds whatever comes: requests and answers made by dice.

use serde_json::{Value, json};

use super::*;
use crate::dialect::terms::{Tool, ToolKind};

/// Dice that fall the same way for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % sides
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())].clone()
    }
}

fn item(dice: &mut Dice, words: &mut Vec<String>) -> Value {
    let mut word = || {
        let word = format!("w{}\"\\\n😀.", words.len());
        words.push(word.clone());
        word
    };
    let id = format!("id{}", dice.roll(6));
    match dice.roll(10) {
        0 => json!({"role":"user","content":word()}),
        1 => {
            json!({"role":"user","content":[{"type":"input_text","text":word()},{"type":"input_image","image_url":word()}]})
        }
        2 => json!({"role":"developer","content":[{"type":"input_text","text":word()}]}),
        3 => {
            json!({"role":"assistant","content":[{"type":"output_text","text":word()},{"type":"output_text","text":""}]})
        }
        4 => json!({"type":"reasoning","summary":[{"text":"hm"}]}),
        5 | 6 => {
            let arguments = dice.of(&["", "{}", "{\"a\":\"}\"}", "null", "{\"cut", "7"]);
            json!({"type":"function_call","call_id":id,"name":"f","arguments":arguments})
        }
        7 => json!({"type":"custom_tool_call","call_id":id,"name":"c","input":word()}),
        8 => json!({"type":"function_call_output","call_id":id,"output":word()}),
        _ => {
            json!({"type":"custom_tool_call_output","call_id":id,"output":[{"type":"input_text","text":word()},{"type":"input_image","image_url":"u"}]})
        }
    }
}

#[test]
fn every_request_is_one_that_chat_templates_take_and_keeps_every_word() {
    let mut dice = Dice(42);
    for round in 0..2_000 {
        let mut words = Vec::new();
        let count = 1 + dice.roll(9);
        let input: Vec<Value> = (0..count).map(|_| item(&mut dice, &mut words)).collect();
        let chat = chat(&format!(r#""input":{}"#, Value::from(input.clone()))).expect("translates");
        let messages = chat["messages"].as_array().expect("messages");
        assert_eq!(
            template::chat_fault(messages),
            None,
            "{round}: {input:?} became {chat}"
        );
        let written = chat["messages"].to_string();
        for word in &words {
            let word = json!(word).to_string();
            let inner = json!(word).to_string(); // in arguments
            let found = [&word, &inner]
                .iter()
                .any(|word| written.contains(word.trim_matches(['"', '\\'])));
            assert!(found, "{round}: {word} is lost in {chat}");
        }
    }
}

/// The events of an answer.
fn answer(dice: &mut Dice) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..dice.roll(12) {
        let index = dice.roll(3);
        let id = format!("id{index}");
        let delta = match dice.roll(7) {
            0 => r#"{"content":"a\"é\n"}"#.into(),
            1 => r#"{"content":""}"#.into(),
            2 => r#"{"reasoning_content":"hm"}"#.into(),
            3 => r#"{"content":"<think>"}"#.into(),
            4 => call(&id, index, dice.of(&["f", "ns__g", "c", ""]), ""),
            5 => call(
                &id,
                index,
                dice.of(&["f", "c"]),
                dice.of(&["{", "{}", "{\"input\":\"x\"}", "null"]),
            ),
            _ => call("", index, "", dice.of(&["}", "\"a\":1}", ""])),
        };
        all.push(super::delta(&delta));
    }
    if dice.roll(4) > 0 {
        let finish = dice.of(&["stop", "length", "tool_calls", "content_filter", "error"]);
        all.push(format!(
            r#"{{"choices":[{{"finish_reason":"{finish}","delta":{{}}}}]}}"#
        ));
    }
    if dice.roll(2) == 0 {
        all.push("[DONE]".into());
    }
    events(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn with_tools() -> RequestContext {
    let tool = |chat_name: &str, kind| Tool {
        chat_name: chat_name.into(),
        name: chat_name.trim_start_matches("ns__").into(),
        kind,
    };
    RequestContext {
        tools: vec![
            tool("ns__g", ToolKind::Function("ns".into())),
            tool("c", ToolKind::Custom),
        ],
        ..asked()
    }
}

#[test]
fn however_a_stream_is_cut_or_ends_the_client_sees_nothing_that_cannot_be() {
    let mut dice = Dice(7);
    let mut ends = [0; 3];
    for round in 0..2_000 {
        let upstream = answer(&mut dice);
        let clean = dice.roll(3) > 0;
        let upstream = match dice.roll(4) {
            0 => &upstream[..dice.roll(upstream.len() + 1)],
            _ => &upstream[..],
        };
        let (out, end) = run(with_tools(), upstream, usize::MAX, clean);
        for size in [1, 7, 100] {
            assert_eq!(
                run(with_tools(), upstream, size, clean),
                (out.clone(), end),
                "{round}, by {size}"
            );
        }
        let text = String::from_utf8_lossy(upstream);
        let (response, over) =
            strict::accumulate(&out).unwrap_or_else(|fault| panic!("{round}: {fault}: {text}"));
        assert_eq!(over, end == StreamEnd::Whole, "{round}: {end:?} {text}");
        assert_eq!(out.is_empty(), response.is_null());
        ends[match end {
            StreamEnd::Whole => 0,
            StreamEnd::Empty => 1,
            StreamEnd::Broken(_) => 2,
        }] += 1;
    }
    assert!(ends.iter().all(|count| *count > 20), "{ends:?}");
}
