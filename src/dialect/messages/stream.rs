//! Writes an answer as a stream of Messages. Pure, and bounded: it holds back [`MOST_HELD`] bytes.
//!
//! A rule that other proxies lost users over: a tool's block is closed once, and never if its arguments may be cut.

use super::super::chat::{Finish, Usage};
use super::super::ids::Fresh;
use super::super::json::{Quoted, put};
use super::super::reader::{AnswerWriter, Heard, Reader};
pub use super::super::terms::StreamEnd;
use super::super::think::PartKind;
use super::{RequestContext, put_usage, stop_reason};

/// The most bytes of arguments that are held back, of all calls together.
const MOST_HELD: usize = 16 * 1024;

#[derive(Debug)]
struct MessageStream {
    asked: RequestContext,
    fresh: Fresh,
    /// The number of the next block.
    next: usize,
    /// The open block of text or thoughts.
    open: Option<usize>,
    started: bool,
}

/// A reader for the answer to this request.
pub fn reader(asked: RequestContext) -> Reader {
    let thinks_unopened = asked.thinks_unopened;
    let answer = MessageStream {
        fresh: Fresh::new(asked.random),
        asked,
        next: 0,
        open: None,
        started: false,
    };
    Reader::new(Box::new(answer), thinks_unopened)
}

impl AnswerWriter for MessageStream {
    fn open(&mut self, heard: &mut Heard, part: PartKind, out: &mut Vec<u8>) {
        let at = self.begin_block(heard, out);
        put!(
            out,
            match part {
                PartKind::Thought =>
                    "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
                PartKind::Text => "{\"type\":\"text\",\"text\":\"\"}}\n\n",
            }
        );
        self.open = Some(at);
    }

    fn more(&mut self, part: PartKind, text: &str, out: &mut Vec<u8>) {
        let begin = match part {
            PartKind::Thought => "{\"type\":\"thinking_delta\",\"thinking\":\"",
            PartKind::Text => "{\"type\":\"text_delta\",\"text\":\"",
        };
        put_delta(out, self.open.unwrap_or_default(), begin, text);
    }

    fn call(&mut self, heard: &mut Heard, at: usize, out: &mut Vec<u8>) {
        let number = self.begin_block(heard, out);
        let call = heard.calls.get(at);
        call.place = Some(number);
        let used = &mut self.asked.used;
        let id = used.own(&call.id, &mut self.fresh, "toolu_");
        put!(
            out,
            "{\"type\":\"tool_use\",\"id\":",
            Quoted(&id),
            ",\"name\":\"",
            &*call.name
        );
        put!(out, "\",\"input\":{}}}\n\n");
    }

    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, out: &mut Vec<u8>) {
        let call = heard.calls.get(at);
        let text = match call.flows {
            true => text,
            false => text.trim_start(), // the first of them
        };
        put_arguments(out, call.place.unwrap_or_default(), text);
    }

    fn call_ends(&mut self, heard: &mut Heard, at: usize, out: &mut Vec<u8>) {
        let call = heard.calls.get(at);
        if !(call.flows || call.has_none()) {
            put_arguments(out, call.place.unwrap_or_default(), &call.held);
        }
    }

    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        match self.started {
            true => self.put_end(heard, out),
            false => heard.ended = Some(StreamEnd::Empty),
        }
    }

    fn most_held(&self) -> usize {
        MOST_HELD
    }

    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.open(heard, PartKind::Text, out);
        self.put_end(heard, out);
    }
}

impl MessageStream {
    /// Begins a block, and the message if it has not begun. Closes the blocks before it that are complete.
    fn begin_block(&mut self, heard: &mut Heard, out: &mut Vec<u8>) -> usize {
        self.close_open(out);
        self.close_whole_calls(heard, out);
        if !std::mem::replace(&mut self.started, true) {
            put_event(out, "message_start");
            put!(out, ",\"message\":{\"id\":", Quoted(&self.fresh.id("msg_")));
            put!(
                out,
                ",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                Quoted(&self.asked.model)
            );
            put!(
                out,
                ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":"
            );
            let usage = Usage {
                prompt: self.asked.prompt_tokens,
                completion: 1,
                ..Usage::default()
            };
            put_usage(out, Some(usage), &self.asked, 0);
            put!(out, "}}\n\n");
        }
        let at = self.next;
        self.next += 1;
        put_block_event(out, "content_block_start", at);
        put!(out, ",\"content_block\":");
        at
    }

    fn close_open(&mut self, out: &mut Vec<u8>) {
        if let Some(at) = self.open.take()
            && !self.asked.keeps_open
        {
            put_stop(out, at);
        }
    }

    /// Closes complete calls, as another block begins.
    fn close_whole_calls(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        for call in heard.calls.iter_mut() {
            if let Some(at) = call.place
                && !call.closed
                && call.flows
                && call.arguments.is_whole()
            {
                call.closed = true;
                if !self.asked.keeps_open {
                    put_stop(out, at);
                }
            }
        }
    }

    /// Closes what is open, and the message.
    fn put_end(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.close_open(out);
        if self.asked.keeps_open {
            (0..self.next).for_each(|at| put_stop(out, at));
        } else {
            let open = heard.calls.list().iter().filter(|call| !call.closed);
            open.for_each(|call| put_stop(out, call.place.unwrap_or_default()));
        }
        let reason = stop_reason(
            heard.finish.unwrap_or(Finish::Stop),
            !heard.calls.list().is_empty(),
        );
        put_event(out, "message_delta");
        put!(
            out,
            ",\"delta\":{\"stop_reason\":\"",
            reason,
            "\",\"stop_sequence\":null},\"usage\":"
        );
        put_usage(out, heard.usage, &self.asked, heard.written as u64);
        put!(out, "}\n\n");
        put_event(out, "message_stop");
        put!(out, "}\n\n");
        heard.ended = Some(StreamEnd::Whole);
    }
}

/// Writes an event's beginning, up to its first field.
fn put_event(out: &mut Vec<u8>, name: &str) {
    put!(out, "event: ", name, "\ndata: {\"type\":\"", name, "\"");
}

/// The same for an event of this block.
fn put_block_event(out: &mut Vec<u8>, name: &str, at: usize) {
    put_event(out, name);
    put!(out, ",\"index\":", at as u64);
}

fn put_stop(out: &mut Vec<u8>, at: usize) {
    put_block_event(out, "content_block_stop", at);
    put!(out, "}\n\n");
}

/// Writes more of a block: the beginning of its delta, and its text.
fn put_delta(out: &mut Vec<u8>, at: usize, begin: &str, text: &str) {
    put_block_event(out, "content_block_delta", at);
    put!(out, ",\"delta\":", begin, text, "\"}}\n\n");
}

fn put_arguments(out: &mut Vec<u8>, at: usize, text: &str) {
    let begin = "{\"type\":\"input_json_delta\",\"partial_json\":\"";
    put_delta(out, at, begin, text);
}
