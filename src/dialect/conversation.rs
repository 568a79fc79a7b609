//! Writes the `messages` of a chat completion so that every chat template takes them, in whatever order the client's
//! dialect has its parts. Pure.
//!
//! It guarantees: at most one system message, and that first. Content is a string unless it has an image. After a
//! message with tool calls comes one tool message for each call, in the same order. No two messages of the user, or of
//! the assistant, follow each other. Arguments are JSON objects. A longer conversation begins with the same bytes as
//! before, so that prefix caches hit.
//!
//! Texts keep their JSON escapes.

use std::borrow::Cow;

use super::json::{Escaped, Json, Quoted, Str, put};

/// Replaces a tool's missing result.
const NO_RESULT: &str = "(no result)";
/// Replaces a tool's empty result.
const NO_OUTPUT: &str = "(no output)";

/// The most calls in a turn; a longer turn becomes several. Each result is searched for among them.
const MOST_CALLS: usize = 256;

/// The field for the input of a tool that takes free text.
pub const INPUT: &str = "input";

/// Text with JSON's escapes.
pub type Text<'a> = Cow<'a, str>;

/// Begins a chat completion: the model, and whether to stream. `size`: of the client's body.
pub fn open(model: &str, streams: bool, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + size / 16 + 256);
    put!(&mut out, "{\"model\":", Quoted(model));
    if streams {
        put!(
            &mut out,
            ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"
        );
    }
    out
}

/// One text of several.
pub fn joined<'a>(mut texts: Vec<Text<'a>>, between: &str) -> Text<'a> {
    match texts.len() {
        1 => texts.remove(0),
        _ => texts.join(between).into(),
    }
}

/// An image.
#[derive(Debug, Clone)]
pub enum Image<'a> {
    /// Its URL, or a `data:` URL.
    Url(Text<'a>),
    /// Its type (`image/png`) and its bytes in base64.
    Data(&'a str, &'a str),
}

/// A part of a message of the user's, or of a tool's result.
#[derive(Debug, Clone)]
pub enum Part<'a> {
    /// Text.
    Text(Text<'a>),
    /// An image.
    Image(Image<'a>),
}

/// A tool's result.
#[derive(Debug)]
struct ToolResult<'a> {
    call: &'a str,
    text: Text<'a>,
}

/// A tool's call.
#[derive(Debug)]
struct ToolCall<'a> {
    id: &'a str,
    name: Text<'a>,
    arguments: Arguments<'a>,
}

/// A tool call's arguments.
#[derive(Debug, Clone, Copy)]
pub enum Arguments<'a> {
    /// A JSON value.
    Value(Json<'a>),
    /// A string that should hold a JSON value.
    Text(Str<'a>),
    /// Free text: becomes an object with the one field [`INPUT`].
    Input(Str<'a>),
    /// Nothing.
    None,
}

/// See the module's text. The caller adds parts in the order of the conversation.
#[derive(Debug, Default)]
pub struct Conversation<'a> {
    out: Vec<u8>,
    /// The system message is written except for its end.
    in_system: bool,
    /// A message other than the system's was written.
    begun: bool,
    /// The assistant's message, not written yet.
    thoughts: Vec<Text<'a>>,
    said: Vec<Text<'a>>,
    calls: Vec<ToolCall<'a>>,
    /// What followed it: results, images in them, and the user's words.
    outcomes: Vec<ToolResult<'a>>,
    images: Vec<Part<'a>>,
    parts: Vec<Part<'a>>,
    /// The assistant's thoughts after that.
    coming: Vec<Text<'a>>,
}

impl<'a> Conversation<'a> {
    /// Appends to `out`, where the list of messages begins.
    pub fn new(mut out: Vec<u8>) -> Conversation<'a> {
        put!(&mut out, "[");
        Conversation {
            out,
            ..Conversation::default()
        }
    }

    /// Adds instructions. At the start they are the system message. Later they are a reminder in the user's words, as
    /// templates refuse or lose a system message that is not the first.
    pub fn system(&mut self, text: Text<'a>) {
        if text.is_empty() {
            return;
        }
        if !(self.begun || self.has_user() || self.has_assistant()) {
            match std::mem::replace(&mut self.in_system, true) {
                true => put!(&mut self.out, "\\n\\n", &*text),
                false => put!(&mut self.out, "{\"role\":\"system\",\"content\":\"", &*text),
            }
        } else if text.trim_start().starts_with("<system-reminder>") {
            self.user(Part::Text(text));
        } else {
            let text = format!("<system-reminder>\\n{text}\\n</system-reminder>");
            self.user(Part::Text(text.into()));
        }
    }

    /// Adds a part of what the user says. Empty text is skipped.
    pub fn user(&mut self, part: Part<'a>) {
        if !matches!(&part, Part::Text(text) if text.is_empty()) {
            self.coming.clear();
            self.parts.push(part);
        }
    }

    /// Adds the assistant's thoughts. They are sent only with a tool call, or at the very end: no template uses others.
    pub fn thought(&mut self, text: Text<'a>) {
        if !text.is_empty() {
            match self.has_user() {
                true => self.coming.push(text),
                false => self.thoughts.push(text),
            }
        }
    }

    /// Adds what the assistant said. `joined`: it continues the text before it.
    pub fn said(&mut self, text: Text<'a>, joined: bool) {
        if text.is_empty() {
            return;
        }
        self.turn_to_assistant();
        if !(self.said.is_empty() || joined) {
            self.said.push("\\n".into());
        }
        self.said.push(text);
    }

    /// Adds a tool call of the assistant.
    pub fn call(&mut self, id: Str<'a>, name: Text<'a>, arguments: Arguments<'a>) {
        self.turn_to_assistant();
        if self.calls.len() == MOST_CALLS {
            self.flush(false);
        }
        self.calls.push(ToolCall {
            id: id.raw(),
            name,
            arguments,
        });
    }

    /// Adds a tool's result. Without a call before it, it becomes the user's words.
    pub fn result(&mut self, call: Str<'a>, parts: Vec<Part<'a>>, is_error: bool) {
        self.coming.clear();
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Text(text) => texts.push(text),
                Part::Image(image) => {
                    let name = format!("[image {}]", self.images.len() / 2 + 1);
                    texts.push(format!("{name} follows the results").into());
                    self.images
                        .extend([Part::Text(name.into()), Part::Image(image)]);
                }
            }
        }
        texts.retain(|text| !text.is_empty());
        let mut text = match texts.is_empty() {
            true => NO_OUTPUT.into(),
            false => joined(texts, "\\n"),
        };
        if is_error && !says_error(&text) {
            text = format!("Error: {text}").into();
        }
        let id = call.raw();
        let asked = self.calls.iter().filter(|call| call.id == id).count();
        let known = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.call == id)
            .count();
        match known < asked {
            true => self.outcomes.push(ToolResult { call: id, text }),
            false => self.parts.push(Part::Text(
                format!("[result of an earlier tool call]\\n{text}").into(),
            )),
        }
    }

    /// Ends the conversation, and returns all that was written.
    pub fn finish(mut self) -> Vec<u8> {
        self.flush(true);
        if !self.begun {
            self.begin("{\"role\":\"user\",\"content\":\"\"}");
        }
        put!(&mut self.out, "]");
        self.out
    }

    fn has_user(&self) -> bool {
        !(self.outcomes.is_empty() && self.parts.is_empty() && self.images.is_empty())
    }

    fn has_assistant(&self) -> bool {
        !(self.said.is_empty() && self.calls.is_empty())
    }

    /// Something of the assistant's follows: ends the turn before it.
    fn turn_to_assistant(&mut self) {
        if self.has_user() {
            self.flush(false);
            self.thoughts.append(&mut self.coming);
        }
    }

    /// Begins a message that is not the system's.
    fn begin(&mut self, beginning: &str) {
        if std::mem::take(&mut self.in_system) {
            put!(&mut self.out, "\"},");
        } else if self.begun {
            put!(&mut self.out, ",");
        }
        self.begun = true;
        put!(&mut self.out, beginning);
    }

    /// Writes the assistant's message, the results of its calls, and the user's message.
    fn flush(&mut self, at_end: bool) {
        let thoughts = std::mem::take(&mut self.thoughts);
        if self.has_assistant() {
            self.begin("{\"role\":\"assistant\",\"content\":\"");
            self.said
                .drain(..)
                .for_each(|text| put!(&mut self.out, &*text));
            let is_last = at_end && !self.has_user();
            if !thoughts.is_empty() && (is_last || !self.calls.is_empty()) {
                put!(
                    &mut self.out,
                    "\",\"reasoning_content\":\"",
                    &*thoughts.join("\\n")
                );
            }
            put!(&mut self.out, "\"");
            self.write_calls();
            put!(&mut self.out, "}");
            self.write_outcomes();
        }
        let mut parts = std::mem::take(&mut self.images);
        parts.append(&mut self.parts);
        if !parts.is_empty() {
            self.begin("{\"role\":\"user\",\"content\":");
            write_parts(&mut self.out, &parts);
            put!(&mut self.out, "}");
        }
    }

    fn write_calls(&mut self) {
        let out = &mut self.out;
        for (at, call) in self.calls.iter().enumerate() {
            put!(out, if at == 0 { ",\"tool_calls\":[" } else { "," });
            put!(
                out,
                "{\"id\":\"",
                call.id,
                "\",\"type\":\"function\",\"function\":{\"name\":\""
            );
            put!(out, &*call.name, "\",\"arguments\":\"");
            call.arguments.write(out);
            put!(out, "\"}}");
        }
        if !self.calls.is_empty() {
            put!(out, "]");
        }
    }

    fn write_outcomes(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for call in std::mem::take(&mut self.calls) {
            let found = outcomes.iter().position(|outcome| outcome.call == call.id);
            let text = found.map_or(NO_RESULT.into(), |at| outcomes.remove(at).text);
            self.begin("{\"role\":\"tool\",\"tool_call_id\":\"");
            put!(&mut self.out, call.id, "\",\"content\":\"", &*text, "\"}");
        }
    }
}

impl Arguments<'_> {
    /// Writes them as a JSON object inside a string. Other values are wrapped in an object, as servers parse it.
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Arguments::Value(value) if value.is_object() => put!(out, Escaped(value.text())),
            Arguments::Value(value) => match value.string() {
                Some(text) => Arguments::Text(text).write(out),
                None => put!(out, "{\\\"_invalid\\\":", Escaped(value.text()), "}"),
            },
            Arguments::Text(text) => {
                let plain = text.plain();
                let is_object = Json::parse(plain.as_bytes()).is_some_and(Json::is_object);
                match plain.trim() {
                    _ if is_object => put!(out, text.raw()),
                    "" | "null" => put!(out, "{}"),
                    _ => put!(out, "{\\\"_invalid\\\":\\\"", Escaped(text.raw()), "\\\"}"),
                }
            }
            Arguments::Input(text) => {
                put!(
                    out,
                    "{\\\"",
                    INPUT,
                    "\\\":\\\"",
                    Escaped(text.raw()),
                    "\\\"}"
                );
            }
            Arguments::None => put!(out, "{}"),
        }
    }
}

fn write_parts(out: &mut Vec<u8>, parts: &[Part<'_>]) {
    let has_image = parts.iter().any(|part| matches!(part, Part::Image(_)));
    let (begin, next, end) = match has_image {
        true => ("[", ",", "]"),
        false => ("\"", "\\n", "\""),
    };
    put!(out, begin);
    for (at, part) in parts.iter().enumerate() {
        put!(out, if at == 0 { "" } else { next });
        match part {
            Part::Text(text) if !has_image => put!(out, &**text),
            Part::Text(text) => put!(out, "{\"type\":\"text\",\"text\":\"", &**text, "\"}"),
            Part::Image(image) => {
                put!(out, "{\"type\":\"image_url\",\"image_url\":{\"url\":\"");
                match image {
                    Image::Url(url) => put!(out, &**url),
                    Image::Data(kind, data) => put!(out, "data:", *kind, ";base64,", *data),
                }
                put!(out, "\"}}");
            }
        }
    }
    put!(out, end);
}

fn says_error(text: &str) -> bool {
    let beginning: String = text.chars().take(40).collect();
    beginning.to_ascii_lowercase().contains("error")
}
