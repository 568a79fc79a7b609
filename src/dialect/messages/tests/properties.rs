//! What holds whatever comes: requests and answers made by dice.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::strict::{accumulate, chat_fault, kept_open_fault};
use super::*;

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

/// A request, and the words in it that must not be lost.
struct Made {
    request: Value,
    words: Vec<String>,
    ids: usize,
}

impl Made {
    fn new(dice: &mut Dice) -> Made {
        let mut made = Made {
            request: json!({}),
            words: Vec::new(),
            ids: 0,
        };
        let count = 1 + dice.roll(8);
        let messages: Vec<Value> = (0..count).map(|_| made.message(dice)).collect();
        made.request = json!({"model":"m","max_tokens":9,"messages":messages});
        if dice.roll(2) == 0 {
            made.request["system"] = json!([{"type":"text","text":made.word()}]);
        }
        if dice.roll(3) == 0 {
            made.request["tools"] = json!([{"name":"n","input_schema":{"type":"object"}}]);
        }
        made
    }

    fn word(&mut self) -> String {
        let word = format!("w{}\"\\\n😀.", self.words.len());
        self.words.push(word.clone());
        word
    }

    fn message(&mut self, dice: &mut Dice) -> Value {
        let role = dice.of(&["user", "user", "assistant", "assistant", "system"]);
        if dice.roll(4) == 0 {
            return json!({"role":role,"content":self.word()});
        }
        let blocks: Vec<Value> = (0..dice.roll(4)).map(|_| self.block(role, dice)).collect();
        json!({"role":role,"content":blocks})
    }

    fn block(&mut self, role: &str, dice: &mut Dice) -> Value {
        let kinds: &[&str] = match role {
            "user" => &["text", "image", "result", "result", "empty"],
            "assistant" => &["text", "call", "call", "thinking"],
            _ => &["text", "empty"],
        };
        match dice.of(kinds) {
            "text" => json!({"type":"text","text":self.word()}),
            "empty" => json!({"type":"text","text":""}),
            "thinking" => json!({"type":"thinking","thinking":"hm","signature":""}),
            "image" => json!({"type":"image","source":{"type":"url","url":self.word()}}),
            "call" => {
                self.ids += 1;
                let inputs = [
                    json!({}),
                    json!({"k":"}\"{"}),
                    Value::Null,
                    json!("text"),
                    json!([1]),
                ];
                json!({"type":"tool_use","id":format!("id{}", self.ids),"name":"n","input":dice.of(&inputs)})
            }
            _ => {
                let id = format!("id{}", dice.roll(self.ids + 2));
                let content = match dice.roll(3) {
                    0 => json!(self.word()),
                    1 => {
                        json!([{"type":"text","text":self.word()},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QQ"}}])
                    }
                    _ => Value::Null,
                };
                json!({"type":"tool_result","tool_use_id":id,"content":content})
            }
        }
    }
}

#[test]
fn every_request_is_one_that_chat_templates_take() {
    let mut dice = Dice(42);
    for round in 0..2_000 {
        let made = Made::new(&mut dice);
        let body = serde_json::to_vec(&made.request).expect("JSON");
        let chat = json(translate(&body, MODEL).expect("translates").body);
        let messages = chat["messages"].as_array().expect("messages");
        assert_eq!(
            chat_fault(messages),
            None,
            "{round}: {} became {chat}",
            made.request
        );
        let written = serde_json::to_string(&chat["messages"]).expect("JSON");
        for word in &made.words {
            let word = json!(word).to_string();
            assert!(
                written.contains(word.trim_matches('"')),
                "{round}: {word} of {} is lost in {chat}",
                made.request
            );
        }
    }
}

#[test]
fn a_longer_conversation_begins_with_the_same_bytes() {
    let mut dice = Dice(43);
    for _ in 0..1_000 {
        let made = Made::new(&mut dice);
        let mut request = made.request.clone();
        let mut more = request["messages"].as_array().cloned().expect("messages");
        // The turn is over, another one follows.
        more.push(json!({"role":"user","content":"next"}));
        more.push(json!({"role":"assistant","content":"yes"}));
        let written = |messages: &[Value], request: &mut Value| {
            request["messages"] = messages.into();
            let body = serde_json::to_vec(&request).expect("JSON");
            translate(&body, MODEL).expect("translates").body
        };
        let first = written(&more, &mut request);
        more.push(json!({"role":"user","content":"more"}));
        let second = written(&more, &mut request);
        assert!(second.starts_with(&first[..first.len() - 2]));
    }
}

/// An answer: its stream, and the blocks that are to come out of it: text, and `(name, input)`.
fn answer(dice: &mut Dice) -> (Vec<u8>, String, Vec<(String, Value)>) {
    let mut deltas = Vec::new();
    let mut text = String::new();
    if dice.roll(3) == 0 {
        deltas.push(json!({"reasoning_content":"hm \"so\""}));
    } else if dice.roll(3) == 0 {
        let thoughts = "<think>\nhm < so\n</think>\n\n";
        let cut = dice.roll(thoughts.len());
        deltas.extend([
            json!({"content":thoughts[..cut]}),
            json!({"content":thoughts[cut..]}),
        ]);
    }
    for _ in 0..dice.roll(5) {
        let piece = dice.of(&["a", " b", "\"", "😀", "c\n", "{", "<", "x"]);
        if text.is_empty() && piece.trim().is_empty() {
            continue;
        }
        text += piece;
        deltas.push(json!({"role":"assistant","content":piece}));
    }
    let calls: Vec<(String, Value)> = (0..dice.roll(4))
        .map(|n| {
            let inputs = [
                json!({}),
                json!({"k":"v"}),
                json!({"a":["}\"\\",{"b":"é😀"}],"n":-1.5}),
            ];
            (format!("tool{n}"), dice.of(&inputs))
        })
        .collect();
    deltas.extend(pieces(&calls, dice));
    let mut all: Vec<String> = deltas.iter().map(|one| delta(&one.to_string())).collect();
    let finish = if calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    all.push(format!(
        r#"{{"choices":[{{"delta":{{}},"finish_reason":"{finish}"}}]}}"#
    ));
    all.push(r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#.into());
    all.push("[DONE]".into());
    (
        events(&all.iter().map(String::as_str).collect::<Vec<_>>()),
        text,
        calls,
    )
}

/// The deltas of these calls, cut and mixed.
fn pieces(calls: &[(String, Value)], dice: &mut Dice) -> Vec<Value> {
    let repeats = dice.roll(3) == 0;
    let mixed = dice.roll(2) == 0;
    let mut left: HashMap<usize, Vec<char>> = HashMap::new();
    let mut deltas = Vec::new();
    for (n, (name, input)) in calls.iter().enumerate() {
        deltas.push(json!({"tool_calls":[{"index":n,"id":format!("id{n}"),"function":{"name":name,"arguments":""}}]}));
        left.insert(n, input.to_string().chars().collect());
        while !mixed && left.contains_key(&n) {
            deltas.push(piece(n, calls, &mut left, repeats, dice));
        }
    }
    while !left.is_empty() {
        let mut open: Vec<usize> = left.keys().copied().collect();
        open.sort_unstable();
        let n = dice.of(&open);
        deltas.push(piece(n, calls, &mut left, repeats, dice));
    }
    deltas
}

fn piece(
    n: usize,
    calls: &[(String, Value)],
    left: &mut HashMap<usize, Vec<char>>,
    repeats: bool,
    dice: &mut Dice,
) -> Value {
    let rest = left.get_mut(&n).expect("open");
    let take = (1 + dice.roll(6)).min(rest.len());
    let text: String = rest.drain(..take).collect();
    if rest.is_empty() {
        left.remove(&n);
    }
    let mut call = json!({"index":n,"function":{"arguments":text}});
    if repeats {
        call["id"] = json!(format!("id{n}"));
        call["function"]["name"] = json!(calls[n].0);
    }
    json!({"tool_calls":[call]})
}

#[test]
fn every_answer_arrives_whole_however_it_is_cut() {
    let mut dice = Dice(44);
    for _ in 0..1_000 {
        let (upstream, text, calls) = answer(&mut dice);
        let (out, end) = run(asked(), &upstream, upstream.len(), true);
        let shown = String::from_utf8_lossy(&upstream).into_owned();
        for size in [1, 2, 3, 1 + dice.roll(90)] {
            assert_eq!(
                run(asked(), &upstream, size, true),
                (out.clone(), end),
                "{size}: {shown}"
            );
        }
        let kept = RequestContext {
            keeps_open: true,
            ..asked()
        };
        let (open, _) = run(kept, &upstream, 90, true);
        assert_eq!(kept_open_fault(&open, &out), None, "{shown}");
        let (message, whole) = accumulate(&out).unwrap_or_else(|fault| panic!("{fault}: {shown}"));
        assert_eq!(whole, end == StreamEnd::Whole, "{shown}");
        let blocks = message["content"].as_array().cloned().unwrap_or_default();
        let said: String = blocks
            .iter()
            .filter_map(|block| block["text"].as_str())
            .collect();
        assert_eq!(said.trim(), text.trim(), "{shown}");
        let called: Vec<(String, Value)> = blocks
            .iter()
            .filter_map(|block| Some((block["name"].as_str()?.to_string(), block["input"].clone())))
            .collect();
        assert_eq!(called, calls, "{shown}");
    }
}

#[test]
fn no_truncation_ever_looks_complete() {
    let mut dice = Dice(45);
    for _ in 0..15 {
        let (upstream, ..) = answer(&mut dice);
        let done = upstream.len() - b"[DONE]\n\n".len();
        for cut in 0..upstream.len() {
            for clean in [false, true] {
                let shown = String::from_utf8_lossy(&upstream[..cut]).into_owned();
                let (out, end) = run(asked(), &upstream[..cut], 1 + dice.roll(200), clean);
                let (_, whole) =
                    accumulate(&out).unwrap_or_else(|fault| panic!("{fault}: {shown}"));
                assert_eq!(whole, end == StreamEnd::Whole, "{shown}");
                let told = match clean {
                    true => {
                        shown.contains("\"finish_reason\":\"")
                            && shown
                                .rsplit("\"finish_reason\":\"")
                                .next()
                                .is_some_and(|rest| rest.contains('}'))
                    }
                    false => cut > done + 6,
                };
                assert!(!whole || told, "{clean}: {shown}");
            }
        }
    }
}

#[test]
fn whatever_an_upstream_sends_a_client_sees_no_impossible_event() {
    let mut dice = Dice(46);
    for _ in 0..1_500 {
        let (mut upstream, ..) = answer(&mut dice);
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(upstream.len());
            match dice.roll(3) {
                0 => drop(upstream.remove(at)),
                1 => upstream[at] = dice.of(b"{}[]\",:\\0ax\n "),
                _ => {
                    let end = (at + dice.roll(120)).min(upstream.len());
                    let copy = upstream[at..end].to_vec();
                    upstream.splice(at..at, copy);
                }
            }
        }
        let (out, end) = run(asked(), &upstream, 1 + dice.roll(200), dice.roll(2) == 0);
        let shown = String::from_utf8_lossy(&upstream);
        let (_, whole) = accumulate(&out).unwrap_or_else(|fault| panic!("{fault}: {shown}"));
        assert_eq!(whole, end == StreamEnd::Whole, "{shown}");
    }
}
