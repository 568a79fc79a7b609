//! Writes an answer as a whole Message: a block of thoughts, one of text, then the calls. Pure.

use super::super::chat::Finish;
use super::super::ids::Fresh;
use super::super::json::{Json, Quoted, Str, put};
use super::super::reader::{AnswerWriter, Heard, Reader};
use super::super::terms::StreamEnd;
use super::super::think::PartKind;
use super::{RequestContext, put_usage, stop_reason};

/// The parts of an answer, still escaped.
#[derive(Debug)]
struct MessageDocument {
    asked: RequestContext,
    fresh: Fresh,
    thoughts: String,
    text: String,
    /// The blocks of the calls that are whole.
    calls: Vec<u8>,
    /// How many bytes of arguments these have.
    input: usize,
}

/// A reader for an answer to this request that is not a stream.
pub fn document(asked: RequestContext) -> Reader {
    let thinks_unopened = asked.thinks_unopened;
    let answer = MessageDocument {
        fresh: Fresh::new(!asked.random),
        asked,
        thoughts: String::new(),
        text: String::new(),
        calls: Vec::new(),
        input: 0,
    };
    Reader::new(Box::new(answer), thinks_unopened)
}

impl AnswerWriter for MessageDocument {
    fn open(&mut self, _: &mut Heard, _: PartKind, _: &mut Vec<u8>) {}

    fn more(&mut self, part: PartKind, text: &str, _: &mut Vec<u8>) {
        match part {
            PartKind::Thought => self.thoughts.push_str(text),
            PartKind::Text => self.text.push_str(text),
        }
    }

    fn call(&mut self, heard: &mut Heard, at: usize, _: &mut Vec<u8>) {
        heard.calls.get(at).place = Some(at);
    }

    /// All arguments are held back, as only an object can be written.
    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, _: &mut Vec<u8>) {
        heard.calls.get(at).held.push_str(text);
    }

    /// A call that the limit of output cut is left out.
    fn call_ends(&mut self, heard: &mut Heard, at: usize, _: &mut Vec<u8>) {
        let call = heard.calls.get(at);
        let arguments = Str::of_raw(&call.held).plain();
        let Some(input) = object(&arguments) else {
            if heard.finish != Some(Finish::Length) {
                heard.break_off("the arguments of a tool call are not whole");
            }
            return;
        };
        let id = self.asked.used.own(&call.id, &mut self.fresh, "toolu_");
        let out = &mut self.calls;
        put!(out, if out.is_empty() { "" } else { "," });
        put!(out, "{\"type\":\"tool_use\",\"id\":", Quoted(&id));
        put!(out, ",\"name\":\"", &*call.name, "\",\"input\":");
        put!(out, input, "}");
        self.input += input.len();
    }

    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        let is_empty = self.thoughts.is_empty() && self.text.is_empty();
        if is_empty && heard.calls.list().is_empty() {
            heard.ended.get_or_insert(StreamEnd::Empty);
        } else if heard.ended.is_none() {
            self.put_message(heard, out);
        }
    }

    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.put_message(heard, out);
    }
}

impl MessageDocument {
    /// Writes the message. Without content it has a text that is "".
    fn put_message(&self, heard: &mut Heard, out: &mut Vec<u8>) {
        let MessageDocument {
            asked,
            thoughts,
            text,
            calls,
            input,
            ..
        } = self;
        let id = Fresh::new(asked.random).id("msg_");
        put!(out, "{\"id\":", Quoted(&id), ",\"type\":\"message\"");
        put!(
            out,
            ",\"role\":\"assistant\",\"model\":",
            Quoted(&asked.model)
        );
        put!(out, ",\"content\":[");
        let begin = out.len();
        if !thoughts.is_empty() {
            put!(
                out,
                "{\"type\":\"thinking\",\"thinking\":\"",
                thoughts.as_str()
            );
            put!(out, "\",\"signature\":\"\"}");
        }
        if !text.is_empty() || (thoughts.is_empty() && calls.is_empty()) {
            put!(out, if out.len() == begin { "" } else { "," });
            put!(out, "{\"type\":\"text\",\"text\":\"", text.as_str(), "\"}");
        }
        if !calls.is_empty() {
            put!(out, if out.len() == begin { "" } else { "," });
            out.extend_from_slice(calls);
        }
        let finish = heard.finish.unwrap_or(Finish::Stop);
        let reason = stop_reason(finish, !calls.is_empty());
        put!(out, "],\"stop_reason\":\"", reason);
        put!(out, "\",\"stop_sequence\":null,\"usage\":");
        let written = thoughts.len() + text.len() + input;
        put_usage(out, heard.usage, asked, written as u64);
        put!(out, "}");
        heard.ended = Some(StreamEnd::Whole);
    }
}

/// A call's arguments, if they are an object or none.
fn object(arguments: &str) -> Option<&str> {
    match arguments.trim() {
        "" | "null" => Some("{}"),
        text => Json::parse(text.as_bytes())
            .filter(|json| json.is_object())
            .map(Json::text),
    }
}
