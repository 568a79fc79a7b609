//! A stream of chat completions as a stream of Messages, however its bytes are cut. Pure, and bounded:
//! one event ([`super::super::events::MAX_EVENT`]), the table of calls, [`MOST_HELD`] of what cannot be
//! told yet.
//!
//! Rules that cost others their users: a message's end is told only when the upstream told one; a tool's
//! block is closed once, and never when its arguments may be cut; nothing at all is said before the
//! first word, so that whatever fails until then can be asked for again.

use super::super::calls::Calls;
use super::super::chat::{CallPiece, Chunk, Finish, Piece, Usage};
use super::super::events::Events;
use super::super::ids::Fresh;
use super::super::json::{Json, Quoted, Str, put};
use super::super::think::{Part, Think};
use super::{Asked, put_usage, stop_reason};

/// The most bytes of arguments that are held back, of all calls together.
const MOST_HELD: usize = 16 * 1024;

/// How a stream ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// All of it came, and its end was told.
    Whole,
    /// It has an end and nothing else. Nothing was told: see [`Stream::put_empty`].
    Empty,
    /// It is not whole, and why, for the log. The connection is to be cut: a clean end would be taken
    /// for the end of the answer. Before the first word it may be asked for again.
    Broken(&'static str),
}

/// Translates one answer.
#[derive(Debug)]
pub struct Stream {
    events: Events,
    answer: Answer,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Kind {
    Thought,
    Text,
}

/// What is known of a call's block.
#[derive(Debug, Default)]
struct Block {
    /// Its number, once it was opened.
    at: Option<u64>,
    closed: bool,
    /// Arguments that came before the name, or that may be none, as they were escaped.
    held: String,
    /// The rest of the arguments is copied as it comes.
    flows: bool,
}

#[derive(Debug)]
struct Answer {
    asked: Asked,
    fresh: Fresh,
    think: Think,
    calls: Calls,
    /// For each of the calls.
    blocks: Vec<Block>,
    /// The number of the next block.
    next: u64,
    /// The block that is written at, if that is no call's.
    open: Option<(u64, Kind)>,
    started: bool,
    finish: Option<Finish>,
    /// `[DONE]` came.
    done: bool,
    usage: Option<Usage>,
    /// Bytes of what the model wrote.
    written: u64,
    ended: Option<End>,
}

impl Stream {
    /// For the answer to what was asked.
    pub fn new(asked: Asked) -> Stream {
        let answer = Answer {
            fresh: Fresh::new(asked.random),
            think: Think::new(asked.thinks_unopened),
            asked,
            calls: Calls::default(),
            blocks: Vec::new(),
            next: 0,
            open: None,
            started: false,
            finish: None,
            done: false,
            usage: None,
            written: 0,
            ended: None,
        };
        Stream {
            events: Events::default(),
            answer,
        }
    }

    /// The next bytes of the upstream's stream; appends to `out` what the client is to get.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let answer = &mut self.answer;
        let pushed = self.events.push(bytes, &mut |data| answer.event(data, out));
        if pushed.is_err() {
            answer.break_off("an event is too long");
        }
    }

    /// The upstream's answer is no stream, although one was asked for: all of it.
    pub fn push_whole(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.answer.event(body, out);
        self.answer.done = self.answer.finish.is_some();
        self.answer.finish_if_done(out);
    }

    /// The upstream's stream is over: `clean`, if not cut. What is appended to `out` comes before the end.
    pub fn end(&mut self, clean: bool, out: &mut Vec<u8>) -> End {
        let answer = &mut self.answer;
        if clean && answer.ended.is_none() {
            self.events.end(&mut |data| answer.event(data, out));
            answer.done |= answer.finish.is_some();
            answer.finish_if_done(out);
        }
        *answer.ended.get_or_insert(match clean {
            true => End::Broken("the stream ended without a finish_reason"),
            false => End::Broken("the stream was cut"),
        })
    }

    /// How it ended, if it did: what comes later does not count.
    pub fn ended(&self) -> Option<End> {
        self.answer.ended
    }

    /// Whether the client was told anything.
    pub fn started(&self) -> bool {
        self.answer.started
    }

    /// For an answer that is [`End::Empty`] and shall not be asked for again: a message without words.
    pub fn put_empty(&mut self, out: &mut Vec<u8>) {
        if self.answer.ended == Some(End::Empty) {
            self.answer.open(Kind::Text, out);
            self.answer.put_end(out);
        }
    }

    /// Whether an answer, of which this is the beginning, has an end and nothing else.
    pub fn says_nothing(start: &[u8], is_stream: bool) -> bool {
        let (mut stream, mut out) = (Stream::new(Asked::default()), Vec::new());
        match is_stream {
            true => stream.push(start, &mut out),
            false => stream.push_whole(start, &mut out),
        }
        stream.end(true, &mut out) == End::Empty
            && matches!(stream.answer.finish, Some(Finish::Stop | Finish::Calls))
    }

    /// What the upstream counted.
    pub fn usage(&self) -> Option<Usage> {
        self.answer.usage
    }

    /// Whether the model's template opens `<think>` itself, if this answer showed that it does or does not
    /// and something else was believed.
    pub fn thinks_unopened(&self) -> Option<bool> {
        let answer = &self.answer;
        let whole = answer.ended == Some(End::Whole) && answer.finish != Some(Finish::Length);
        match (answer.think.lone(), answer.think.misled() && whole) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

impl Answer {
    fn break_off(&mut self, why: &'static str) {
        self.ended.get_or_insert(End::Broken(why));
    }

    /// The data of one event.
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let data = data.trim_ascii();
        if self.ended.is_some() || data.is_empty() {
            return;
        }
        if data == b"[DONE]" {
            self.done = true;
            return self.finish_if_done(out);
        }
        let Some(json) = Json::parse(data) else {
            // What is not even meant to be JSON is somebody's sign of life.
            if data.starts_with(b"{") {
                self.break_off("an event is not valid JSON");
            }
            return;
        };
        let chunk = Chunk::read(json);
        if chunk.is_error {
            return self.break_off("the upstream reported an error in its stream");
        }
        chunk.pieces(&mut |piece| match piece {
            Piece::Thought(text) => {
                self.think.beside();
                self.part(Part::Thought(text.raw()), out);
            }
            Piece::Text(text) => self.think(|think, each| think.push(text, each), out),
            Piece::Call(piece) => self.call(piece, out),
        });
        self.finish = chunk.finish.or(self.finish);
        self.usage = chunk.usage.or(self.usage);
        if self.finish == Some(Finish::Trouble) {
            self.break_off("the upstream gave up its answer");
        }
    }

    /// Lets the splitter of thoughts do something, and tells what it gives out.
    fn think(&mut self, act: impl FnOnce(&mut Think, &mut dyn FnMut(Part<'_>)), out: &mut Vec<u8>) {
        let mut think = std::mem::replace(&mut self.think, Think::new(false));
        act(&mut think, &mut |part| self.part(part, out));
        self.think = think;
    }

    fn part(&mut self, part: Part<'_>, out: &mut Vec<u8>) {
        let (kind, text) = match part {
            Part::Thought(text) => (Kind::Thought, text),
            Part::Text(text) => (Kind::Text, text),
        };
        let at = self.open(kind, out);
        self.written += text.len() as u64;
        let begin = match kind {
            Kind::Thought => ",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"",
            Kind::Text => ",\"delta\":{\"type\":\"text_delta\",\"text\":\"",
        };
        put_event(out, "content_block_delta");
        put!(out, ",\"index\":", at, begin, text, "\"}}\n\n");
    }

    /// The number of the open block of this kind, which is opened if need be.
    fn open(&mut self, kind: Kind, out: &mut Vec<u8>) -> u64 {
        if let Some((at, open)) = self.open
            && open == kind
        {
            return at;
        }
        self.begin_calls(self.blocks.len(), out);
        self.close_open(out);
        self.close_whole_calls(out);
        let at = self.begin_block(out);
        put!(
            out,
            match kind {
                Kind::Thought =>
                    "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
                Kind::Text => "{\"type\":\"text\",\"text\":\"\"}}\n\n",
            }
        );
        self.open = Some((at, kind));
        at
    }

    /// Begins the message, if that was not done, and a block in it.
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

    /// Closes the calls that can get nothing more, when another block begins.
    fn close_whole_calls(&mut self, out: &mut Vec<u8>) {
        for (block, call) in self.blocks.iter_mut().zip(self.calls.list()) {
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

    fn call(&mut self, piece: CallPiece<'_>, out: &mut Vec<u8>) {
        if self.ended.is_some() {
            return;
        }
        let Ok(at) = self.calls.find(&piece) else {
            return self.break_off("too many tool calls, or a name without end");
        };
        if at == self.blocks.len() {
            // What text was held back stands before the call.
            self.think(Think::pause, out);
            self.begin_calls(at, out);
            self.blocks.push(Block::default());
        }
        match piece.arguments {
            Some(arguments) if arguments.is_object() => {
                let text = super::super::json::escaped(arguments.text());
                self.arguments(at, &text, out);
            }
            Some(arguments) => {
                let text = arguments.string().map_or("", Str::raw);
                self.arguments(at, text, out);
            }
            None => {}
        }
    }

    /// The next piece of a call's arguments, as it is escaped.
    fn arguments(&mut self, at: usize, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() || self.blocks[at].closed {
            return;
        }
        let call = self.calls.get(at);
        call.arguments.push(Str::of_raw(text));
        self.written += text.len() as u64;
        let block = &mut self.blocks[at];
        if block.flows {
            let at = block.at.unwrap_or_default();
            return put_arguments(out, at, text);
        }
        block.held.push_str(text);
        // Until an object has begun it may be `null`, which means none.
        let has_begun = Str::of_raw(&block.held)
            .plain()
            .trim_start()
            .starts_with('{');
        if has_begun && !call.name.is_empty() {
            block.flows = true;
            self.begin_calls(at + 1, out);
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
            self.break_off("arguments without a name, or that are no object");
        }
    }

    /// Opens the blocks of the calls before `end` that are not open: their names are whole now.
    fn begin_calls(&mut self, end: usize, out: &mut Vec<u8>) {
        for at in 0..end {
            if self.blocks[at].at.is_some() || self.calls.list()[at].name.is_empty() {
                continue;
            }
            self.close_open(out);
            self.close_whole_calls(out);
            let number = self.begin_block(out);
            self.blocks[at].at = Some(number);
            let call = self.calls.get(at);
            let told = Str::of_raw(&call.id).plain().into_owned();
            let id = match told.is_empty() || self.asked.used.has(&told) {
                true => self.fresh.id("toolu_"),
                false => told,
            };
            self.asked.used.add(&id);
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

    fn finish_if_done(&mut self, out: &mut Vec<u8>) {
        if !self.done || self.ended.is_some() {
            return;
        }
        self.think(Think::pause, out);
        self.begin_calls(self.blocks.len(), out);
        let cut_short = self.finish == Some(Finish::Length);
        for (block, call) in self.blocks.iter_mut().zip(self.calls.list()) {
            let Some(at) = block.at else {
                return self.break_off("a tool call without a name");
            };
            let arguments = std::mem::take(&mut block.held);
            let is_none = matches!(Str::of_raw(&arguments).plain().trim(), "" | "null");
            let none_at_all = is_none && !block.flows;
            if !(call.arguments.is_whole() || none_at_all || cut_short) {
                return self.break_off("the arguments of a tool call are not whole");
            }
            if !is_none {
                put_arguments(out, at, &arguments);
            }
        }
        if !self.started {
            self.ended = Some(End::Empty);
            return;
        }
        self.put_end(out);
        self.ended = Some(End::Whole);
    }

    /// Closes what is open, and the message.
    fn put_end(&mut self, out: &mut Vec<u8>) {
        self.close_open(out);
        if self.asked.keeps_open {
            (0..self.next).for_each(|at| put_stop(out, at));
        } else {
            let open = self.blocks.iter().filter(|block| !block.closed);
            open.for_each(|block| put_stop(out, block.at.unwrap_or_default()));
        }
        let reason = stop_reason(self.finish.unwrap_or(Finish::Stop), !self.blocks.is_empty());
        put_event(out, "message_delta");
        put!(
            out,
            ",\"delta\":{\"stop_reason\":\"",
            reason,
            "\",\"stop_sequence\":null},\"usage\":"
        );
        put_usage(out, self.usage, &self.asked, self.written);
        put!(out, "}\n\n");
        put_event(out, "message_stop");
        put!(out, "}\n\n");
    }
}

/// An event's beginning, up to its first field.
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
