//! Reads an answer in the chat-completions dialect: a whole completion, or one event of a stream. Pure, and without
//! copies.

use super::json::{Json, Str};

/// Why an answer ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Finish {
    /// The model was done, perhaps for now: tools are to be called.
    Stop,
    /// The limit of output, or of the context, was reached.
    Length,
    /// A filter, or the model's refusal.
    Filter,
    /// The upstream failed: the answer is incomplete.
    Trouble,
}

impl Finish {
    /// Reads the words that upstreams are known to use. Others mean a stop.
    fn read(word: Str<'_>) -> Finish {
        match word.raw() {
            "length" | "max_tokens" | "model_length" => Finish::Length, // model_length: Mistral
            "content_filter" | "sensitive" | "refusal" | "safety" => Finish::Filter, // sensitive: Z.ai
            // OpenRouter, Z.ai, SGLang, DeepSeek.
            "error" | "network_error" | "abort" | "insufficient_system_resource" => Finish::Trouble,
            _ => Finish::Stop,
        }
    }
}

/// How many tokens an answer took, as the upstream counts.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt: u64,
    /// Prompt tokens that came from a cache.
    pub cached: u64,
    /// Tokens of the answer, thoughts included.
    pub completion: u64,
    /// Answer tokens that were thoughts.
    pub reasoning: u64,
}

impl Usage {
    fn read(usage: Json<'_>) -> Option<Usage> {
        let [prompt, completion, details, out, hits, cached] = usage.pick([
            "prompt_tokens",
            "completion_tokens",
            "prompt_tokens_details",
            "completion_tokens_details",
            "prompt_cache_hit_tokens", // DeepSeek
            "cached_tokens",           // Moonshot
        ]);
        let in_details = details.and_then(|details| details.get("cached_tokens"));
        let cached = in_details.or(hits).or(cached).and_then(Json::number);
        let prompt = prompt?.number()?;
        let reasoning = out.and_then(|out| out.get("reasoning_tokens")?.number());
        Some(Usage {
            prompt,
            cached: cached.unwrap_or(0).min(prompt),
            completion: completion.and_then(Json::number).unwrap_or(0),
            reasoning: reasoning.unwrap_or(0),
        })
    }
}

/// A piece of a tool call, or a whole one.
#[derive(Debug, Clone, Copy)]
pub struct CallPiece<'a> {
    /// Which call of the answer it belongs to, if the upstream says.
    pub index: Option<u64>,
    /// The call's id; never "".
    pub id: Option<Str<'a>>,
    /// The tool's name, or a piece of it; never "".
    pub name: Option<Str<'a>>,
    /// The arguments, or a piece of them: a string that holds JSON. Some upstreams send an object.
    pub arguments: Option<Json<'a>>,
}

/// A piece of an answer.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// A piece of its thoughts.
    Thought(Str<'a>),
    /// A piece of its text.
    Text(Str<'a>),
    /// A piece of a tool call.
    Call(CallPiece<'a>),
}

/// One event of a stream, or a whole completion.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    delta: Option<Json<'a>>,
    /// The calls of a whole message; their places tell them apart.
    is_whole: bool,
    /// Why the answer ended, if this event says so.
    pub finish: Option<Finish>,
    /// The tokens, if this event counts them.
    pub usage: Option<Usage>,
    /// It is an error.
    pub is_error: bool,
}

impl<'a> Chunk<'a> {
    /// Reads one. Of several choices only the first counts.
    pub fn read(json: Json<'a>) -> Chunk<'a> {
        let [choices, usage, error, detail, status] =
            json.pick(["choices", "usage", "error", "detail", "status"]);
        // Some upstreams always send the field, empty if there is no error.
        let filled = |error: Json<'_>| !matches!(error.text(), "false" | "\"\"" | "{}");
        let is_error = error.is_some_and(filled)
            || (choices.is_none() && (detail.is_some() || status.is_some_and(Json::is_number)));
        let first =
            |choice: &Json<'_>| choice.get("index").and_then(Json::number).unwrap_or(0) == 0;
        let choice = choices.and_then(|choices| choices.items().find(first));
        let [delta, message, finish, own_usage] = match choice {
            Some(choice) => choice.pick(["delta", "message", "finish_reason", "usage"]),
            None => [None; 4],
        };
        let finish = finish
            .and_then(Json::string)
            .filter(|word| !word.is_empty());
        Chunk {
            delta: delta.or(message),
            is_whole: delta.is_none(),
            finish: finish.map(Finish::read),
            usage: usage.or(own_usage).and_then(Usage::read), // the choice's own: Moonshot
            is_error,
        }
    }

    /// The pieces it adds to the answer: thoughts, then text, then calls. Never "".
    pub fn pieces(&self, each: &mut dyn FnMut(Piece<'a>)) {
        let Some(delta) = self.delta else { return };
        let [first, second, third, content, refusal, calls, call] = delta.pick([
            "reasoning_content",
            "reasoning",
            "reasoning_details",
            "content",
            "refusal",
            "tool_calls",
            "function_call",
        ]);
        // The same thoughts may come under two names: take one.
        if let Some(text) = first.and_then(filled).or(second.and_then(filled)) {
            each(Piece::Thought(text));
        } else {
            let texts = Json::items_of(third).filter_map(|detail| filled(detail.get("text")?));
            texts.for_each(|text| each(Piece::Thought(text)));
        }
        if let Some(content) = content {
            text(content, each);
        }
        if let Some(refusal) = refusal.and_then(filled) {
            each(Piece::Text(refusal));
        }
        for (place, call) in Json::items_of(calls).enumerate() {
            let [index, id, function] = call.pick(["index", "id", "function"]);
            let index = match self.is_whole {
                true => Some(place as u64), // some upstreams number each call 0
                false => index.and_then(Json::number),
            };
            each(Piece::Call(call_piece(index, id, function)));
        }
        if let Some(call) = call {
            each(Piece::Call(call_piece(Some(0), None, Some(call))));
        }
    }
}

/// A string that is not "".
fn filled(value: Json<'_>) -> Option<Str<'_>> {
    value.string().filter(|text| !text.is_empty())
}

/// Reads content: a string, or Mistral's list of parts, thoughts included.
fn text<'a>(content: Json<'a>, each: &mut dyn FnMut(Piece<'a>)) {
    if let Some(text) = filled(content) {
        return each(Piece::Text(text));
    }
    for part in content.items() {
        let [text, thinking] = part.pick(["text", "thinking"]);
        if let Some(text) = text.and_then(filled) {
            each(Piece::Text(text));
        }
        let inner = Json::items_of(thinking).filter_map(|part| filled(part.get("text")?));
        inner.for_each(|text| each(Piece::Thought(text)));
    }
}

fn call_piece<'a>(
    index: Option<u64>,
    id: Option<Json<'a>>,
    function: Option<Json<'a>>,
) -> CallPiece<'a> {
    let [name, arguments] = match function {
        Some(function) => function.pick(["name", "arguments"]),
        None => [None; 2],
    };
    CallPiece {
        index,
        id: id.and_then(filled),
        name: name.and_then(filled),
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<Finish>, Option<Usage>, bool) {
        let json = Json::parse(text.as_bytes()).expect(text);
        let chunk = Chunk::read(json);
        let mut pieces = String::new();
        chunk.pieces(&mut |piece| match piece {
            Piece::Thought(text) => pieces += &format!("thought {}; ", text.raw()),
            Piece::Text(text) => pieces += &format!("text {}; ", text.raw()),
            Piece::Call(call) => {
                let text =
                    |s: Option<Str<'_>>| s.map(|s| s.raw().to_string()).unwrap_or("-".into());
                let index = call.index.map_or("-".into(), |n| n.to_string());
                let arguments = call.arguments.map_or("-", Json::text);
                pieces += &format!(
                    "call {index} {} {} {arguments}; ",
                    text(call.id),
                    text(call.name)
                );
            }
        });
        (
            pieces.trim_end().to_string(),
            chunk.finish,
            chunk.usage,
            chunk.is_error,
        )
    }

    #[test]
    fn pieces_are_found_as_the_table_says() {
        for (delta, expected) in [
            (r#"{"role":"assistant"}"#, ""),
            (
                r#"{"role":"assistant","content":"","reasoning_content":""}"#,
                "",
            ),
            (r#"{"content":null,"tool_calls":null}"#, ""),
            (r#"{"content":"hi \"you\""}"#, r#"text hi \"you\";"#),
            (r#"{"reasoning_content":"a","reasoning":"a"}"#, "thought a;"),
            (
                r#"{"reasoning_content":"","reasoning":"b","content":"c"}"#,
                "thought b; text c;",
            ),
            (
                r#"{"reasoning":"b","reasoning_details":[{"text":"b"}]}"#,
                "thought b;",
            ),
            (
                r#"{"reasoning_details":[{"type":"reasoning.text","text":"b"},{"data":"x"}]}"#,
                "thought b;",
            ),
            (r#"{"refusal":"no"}"#, "text no;"),
            (
                r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"t"}]},{"type":"text","text":"x"}]}"#,
                "thought t; text x;",
            ),
            (
                r#"{"function_call":{"name":"f","arguments":"{}"}}"#,
                r#"call 0 - f "{}";"#,
            ),
        ] {
            for name in ["delta", "message"] {
                let found = read(&format!(
                    r#"{{"choices":[{{"index":1}},{{"index":0,"{name}":{delta}}}]}}"#
                ));
                assert_eq!(found, (expected.to_string(), None, None, false), "{delta}");
            }
        }
    }

    #[test]
    fn the_calls_of_a_whole_message_are_numbered_by_their_places() {
        let calls = r#"{"tool_calls":[{"id":"","function":{"name":""}},{"index":7,"id":"a","function":{"name":"f","arguments":"{"}},{"function":{"arguments":{}}}]}"#;
        for (name, expected) in [
            ("delta", r#"call - - - -; call 7 a f "{"; call - - - {};"#),
            ("message", r#"call 0 - - -; call 1 a f "{"; call 2 - - {};"#),
        ] {
            let found = read(&format!(r#"{{"choices":[{{"{name}":{calls}}}]}}"#));
            assert_eq!(found.0, expected, "{name}");
        }
    }

    #[test]
    fn the_end_and_the_tokens_are_read() {
        let (_, finish, usage, _) = read(
            r#"{"choices":[{"finish_reason":"length","delta":{}}],"usage":{"prompt_tokens":9,"completion_tokens":4,
            "prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
        );
        let expected = Usage {
            prompt: 9,
            cached: 5,
            completion: 4,
            reasoning: 3,
        };
        assert_eq!((finish, usage), (Some(Finish::Length), Some(expected)));
        for usage in [
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_cache_hit_tokens":5}}"#,
            r#"{"choices":[{"usage":{"prompt_tokens":9,"completion_tokens":4,"cached_tokens":5}}],"usage":null}"#,
        ] {
            assert_eq!(
                read(usage).2,
                Some(Usage {
                    reasoning: 0,
                    ..expected
                })
            );
        }
        for (word, finish) in [
            ("\"stop\"", Some(Finish::Stop)),
            ("\"what\"", Some(Finish::Stop)),
            ("\"tool_calls\"", Some(Finish::Stop)),
            ("\"content_filter\"", Some(Finish::Filter)),
            ("\"error\"", Some(Finish::Trouble)),
            ("\"\"", None),
            ("null", None),
        ] {
            assert_eq!(
                read(&format!(r#"{{"choices":[{{"finish_reason":{word}}}]}}"#)).1,
                finish
            );
        }
    }

    #[test]
    fn errors_are_told_from_answers() {
        for (text, is_error) in [
            (r#"{"error":{"message":"x"}}"#, true),
            (r#"{"error":"x","choices":[]}"#, true),
            (r#"{"detail":"ResourceExhausted"}"#, true),
            (r#"{"status":500,"title":"x"}"#, true),
            (r#"{"error":null,"choices":[]}"#, false),
            (r#"{"error":{},"choices":[]}"#, false),
            (r#"{"type":"ping"}"#, false),
        ] {
            assert_eq!(read(text).3, is_error, "{text}");
        }
    }
}
