//! Writes an answer as a stream of Messages. Pure, and bounded: it holds back [`MOST_HELD`] bytes.
//!
//! A rule that other proxies lost users over: a tool's block is closed once, and never if its arguments may be cut.

use super::super::chat::{Finish, Usage};
use super::super::ids::Fresh;
use super::super::json::{Quoted, Str, put};
use super::super::reader::{AnswerWriter, Heard, Reader};
pub use super::super::terms::StreamEnd;
use super::super::think::ThinkPart;
use super::{RequestContext, put_usage, stop_reason};

/// The most bytes of arguments that are held back, of all calls together.
const MOST_HELD: usize = 16 * 1024;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum BlockKind {
    Thought,
    Text,
}

/// The block of a call.
#[derive(Debug, Default)]
struct Block {
    /// Its number, once it was opened.
    at: Option<u64>,
    closed: bool,
    /// Arguments held back, still escaped: they came before the name, or may be `null`.
    held: String,
    /// The rest of the arguments is copied as it comes.
    flows: bool,
}

#[derive(Debug)]
struct MessageStream {
    asked: RequestContext,
    fresh: Fresh,
    /// One for each call.
    blocks: Vec<Block>,
    /// The number of the next block.
    next: u64,
    /// The open block of text or thoughts.
    open: Option<(u64, BlockKind)>,
    started: bool,
    /// How many bytes the model wrote.
    written: u64,
}

/// A reader for the answer to this request.
pub fn reader(asked: RequestContext) -> Reader {
    let thinks_unopened = asked.thinks_unopened;
    let answer = MessageStream {
        fresh: Fresh::new(asked.random),
        asked,
        blocks: Vec::new(),
        next: 0,
        open: None,
        started: false,
        written: 0,
    };
    Reader::new(Box::new(answer), thinks_unopened)
}

impl AnswerWriter for MessageStream {
    fn part(&mut self, heard: &mut Heard, part: ThinkPart<'_>, out: &mut Vec<u8>) {
        let (kind, text) = match part {
            ThinkPart::Thought(text) => (BlockKind::Thought, text),
            ThinkPart::Text(text) => (BlockKind::Text, text),
        };
        let at = self.open(heard, kind, out);
        self.written += text.len() as u64;
        let begin = match kind {
            BlockKind::Thought => ",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"",
            BlockKind::Text => ",\"delta\":{\"type\":\"text_delta\",\"text\":\"",
        };
        put_event(out, "content_block_delta");
        put!(out, ",\"index\":", at, begin, text, "\"}}\n\n");
    }

    fn call(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.begin_calls(heard, self.blocks.len(), out);
        self.blocks.push(Block::default());
    }

    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, out: &mut Vec<u8>) {
        if self.blocks[at].closed {
            return;
        }
        let call = heard.calls.get(at);
        call.arguments.push(Str::of_raw(text));
        self.written += text.len() as u64;
        let block = &mut self.blocks[at];
        if block.flows {
            let at = block.at.unwrap_or_default();
            return put_arguments(out, at, text);
        }
        block.held.push_str(text);
        // Before an object begins they may be `null`, which means none.
        let has_begun = Str::of_raw(&block.held)
            .plain()
            .trim_start()
            .starts_with('{');
        if has_begun && !call.name.is_empty() {
            block.flows = true;
            self.begin_calls(heard, at + 1, out);
            let held = std::mem::take(&mut self.blocks[at].held);
            put_arguments(
                out,
                self.blocks[at].at.unwrap_or_default(),
                held.trim_start(),
            );
        } else if self
            .blocks
            .iter()
            .map(|block| block.held.len())
            .sum::<usize>()
            > MOST_HELD
        {
            heard.break_off("arguments without a name, or that are no object");
        }
    }

    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.begin_calls(heard, self.blocks.len(), out);
        let cut_short = heard.finish == Some(Finish::Length);
        for (block, call) in self.blocks.iter_mut().zip(heard.calls.list()) {
            let Some(at) = block.at else {
                return heard.break_off("a tool call without a name");
            };
            let arguments = std::mem::take(&mut block.held);
            let is_none = matches!(Str::of_raw(&arguments).plain().trim(), "" | "null");
            let none_at_all = is_none && !block.flows;
            if !(call.arguments.is_whole() || none_at_all || cut_short) {
                return heard.break_off("the arguments of a tool call are not whole");
            }
            if !is_none {
                put_arguments(out, at, &arguments);
            }
        }
        if !self.started {
            heard.ended = Some(StreamEnd::Empty);
            return;
        }
        self.put_end(heard, out);
    }

    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.open(heard, BlockKind::Text, out);
        self.put_end(heard, out);
    }
}

impl MessageStream {
    /// The number of the open block of this kind; opens one if needed.
    fn open(&mut self, heard: &mut Heard, kind: BlockKind, out: &mut Vec<u8>) -> u64 {
        if let Some((at, open)) = self.open
            && open == kind
        {
            return at;
        }
        self.begin_calls(heard, self.blocks.len(), out);
        self.close_open(out);
        self.close_whole_calls(heard, out);
        let at = self.begin_block(out);
        put!(
            out,
            match kind {
                BlockKind::Thought =>
                    "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
                BlockKind::Text => "{\"type\":\"text\",\"text\":\"\"}}\n\n",
            }
        );
        self.open = Some((at, kind));
        at
    }

    /// Begins a block, and the message if it has not begun.
    fn begin_block(&mut self, out: &mut Vec<u8>) -> u64 {
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
        put_event(out, "content_block_start");
        put!(out, ",\"index\":", at, ",\"content_block\":");
        at
    }

    fn close_open(&mut self, out: &mut Vec<u8>) {
        if let Some((at, _)) = self.open.take()
            && !self.asked.keeps_open
        {
            put_stop(out, at);
        }
    }

    /// Closes complete calls, as another block begins.
    fn close_whole_calls(&mut self, heard: &Heard, out: &mut Vec<u8>) {
        for (block, call) in self.blocks.iter_mut().zip(heard.calls.list()) {
            if let Some(at) = block.at
                && !block.closed
                && block.flows
                && call.arguments.is_whole()
            {
                block.closed = true;
                if !self.asked.keeps_open {
                    put_stop(out, at);
                }
            }
        }
    }

    /// Opens the blocks of the calls before `end`, whose names are complete now.
    fn begin_calls(&mut self, heard: &mut Heard, end: usize, out: &mut Vec<u8>) {
        for at in 0..end {
            if self.blocks[at].at.is_some() || heard.calls.list()[at].name.is_empty() {
                continue;
            }
            self.close_open(out);
            self.close_whole_calls(heard, out);
            let number = self.begin_block(out);
            self.blocks[at].at = Some(number);
            let call = heard.calls.get(at);
            let id = self.asked.used.own(&call.id, &mut self.fresh, "toolu_");
            put!(
                out,
                "{\"type\":\"tool_use\",\"id\":",
                Quoted(&id),
                ",\"name\":\"",
                &*call.name
            );
            put!(out, "\",\"input\":{}}}\n\n");
        }
    }

    /// Closes what is open, and the message.
    fn put_end(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.close_open(out);
        if self.asked.keeps_open {
            (0..self.next).for_each(|at| put_stop(out, at));
        } else {
            let open = self.blocks.iter().filter(|block| !block.closed);
            open.for_each(|block| put_stop(out, block.at.unwrap_or_default()));
        }
        let reason = stop_reason(
            heard.finish.unwrap_or(Finish::Stop),
            !self.blocks.is_empty(),
        );
        put_event(out, "message_delta");
        put!(
            out,
            ",\"delta\":{\"stop_reason\":\"",
            reason,
            "\",\"stop_sequence\":null},\"usage\":"
        );
        put_usage(out, heard.usage, &self.asked, self.written);
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

fn put_stop(out: &mut Vec<u8>, at: u64) {
    put_event(out, "content_block_stop");
    put!(out, ",\"index\":", at, "}\n\n");
}

fn put_arguments(out: &mut Vec<u8>, at: u64, text: &str) {
    put_event(out, "content_block_delta");
    put!(
        out,
        ",\"index\":",
        at,
        ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"",
        text,
        "\"}}\n\n"
    );
}
