//! An answer on its way: what of it is told, item by item, and how it ends. Its calls are in `calls.rs`.
//! Pure.
//!
//! Rules that cost others their users: the end is told only when the upstream told one; a call's item is
//! done once, and never when its arguments may be cut by a break; nothing at all is said before the first
//! word, so that whatever fails until then can be asked for again.

use super::super::calls::Calls;
use super::super::chat::{Chunk, Finish, Piece, Usage};
use super::super::ids::Fresh;
use super::super::json::{Json, Str};
use super::super::terms::{Asked, End};
use super::super::think::{Part, Think};
use super::calls::Block;
use super::output::{self, Events, Status};

/// The longest output, in bytes: a hundred times what models write.
pub const LONGEST: usize = 4 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Kind {
    Thought,
    Text,
}

/// The item under way that is no call: its place in the output, what it is, and where its events say they
/// belong.
#[derive(Debug)]
pub(super) struct Open {
    at: usize,
    kind: Kind,
    id: String,
    place: String,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) asked: Asked,
    pub(super) events: Events,
    pub(super) fresh: Fresh,
    pub(super) think: Think,
    pub(super) calls: Calls,
    /// For each of the calls.
    pub(super) blocks: Vec<Block>,
    /// The output: an item that was not told to its end is "".
    pub(super) items: Vec<String>,
    pub(super) open: Option<Open>,
    /// What the open item holds, as it was escaped.
    pub(super) text: String,
    /// The first two events were heard, or need not be.
    pub(super) started: bool,
    pub(super) were_heard: bool,
    /// There is more than thoughts.
    pub(super) speaks: bool,
    pub(super) finish: Option<Finish>,
    /// `[DONE]` came.
    pub(super) done: bool,
    pub(super) usage: Option<Usage>,
    /// Bytes of what the model wrote.
    pub(super) written: usize,
    pub(super) ended: Option<End>,
}

impl Answer {
    pub(super) fn new(asked: Asked) -> Answer {
        Answer {
            events: Events::default(),
            fresh: Fresh::new(!asked.random),
            think: Think::new(asked.thinks_unopened),
            asked,
            calls: Calls::default(),
            blocks: Vec::new(),
            items: Vec::new(),
            open: None,
            text: String::new(),
            started: false,
            were_heard: false,
            speaks: false,
            finish: None,
            done: false,
            usage: None,
            written: 0,
            ended: None,
        }
    }

    pub(super) fn break_off(&mut self, why: &'static str) {
        self.ended.get_or_insert(End::Broken(why));
    }

    pub(super) fn fail(&mut self, why: &str, out: &mut Vec<u8>) {
        if self.ended.is_none() {
            self.start(out);
            let status = Status::Failed("server_error", why);
            self.events.put_whole(out, &self.asked, status, &[], None);
            self.ended = Some(End::Whole);
        }
    }

    /// The data of one event.
    pub(super) fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
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
    pub(super) fn think(
        &mut self,
        act: impl FnOnce(&mut Think, &mut dyn FnMut(Part<'_>)),
        out: &mut Vec<u8>,
    ) {
        let mut think = std::mem::replace(&mut self.think, Think::new(false));
        act(&mut think, &mut |part| self.part(part, out));
        self.think = think;
    }

    pub(super) fn part(&mut self, part: Part<'_>, out: &mut Vec<u8>) {
        let (kind, text) = match part {
            Part::Thought(text) => (Kind::Thought, text),
            Part::Text(text) => (Kind::Text, text),
        };
        if !self.takes(text.len(), out) {
            return;
        }
        self.open(kind, out);
        self.text.push_str(text);
        let place = self.open.as_ref().map_or("", |open| &open.place);
        match kind {
            Kind::Thought => self.events.put(
                out,
                "response.reasoning_summary_text.delta",
                &[place, ",\"summary_index\":0,\"delta\":\"", text, "\""],
            ),
            Kind::Text => self.events.put(
                out,
                "response.output_text.delta",
                &[
                    place,
                    ",\"content_index\":0,\"logprobs\":[],\"delta\":\"",
                    text,
                    "\"",
                ],
            ),
        }
    }

    /// Whether so much more can be held.
    pub(super) fn takes(&mut self, more: usize, out: &mut Vec<u8>) -> bool {
        self.written += more;
        if self.written > LONGEST {
            self.fail(
                "the answer is longer than alvus can repeat at its end: 4 MiB",
                out,
            );
        }
        self.ended.is_none()
    }

    /// Opens an item of this kind, if that is not the open one.
    pub(super) fn open(&mut self, kind: Kind, out: &mut Vec<u8>) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.begin_calls(self.blocks.len(), out);
        self.close_open(out);
        self.close_whole_calls(out);
        self.start(out);
        let id = self.fresh.id(match kind {
            Kind::Thought => "rs_",
            Kind::Text => "msg_",
        });
        let (at, place, index) = self.add_item(&id);
        match kind {
            Kind::Thought => {
                let item = [
                    ",\"item\":{\"id\":\"",
                    &id,
                    "\",\"type\":\"reasoning\",\"summary\":[]}",
                ]
                .concat();
                self.events
                    .put(out, "response.output_item.added", &[&index, &item]);
                let part = [
                    ",\"summary_index\":0,\"part\":",
                    output::SUMMARY,
                    output::TEXT_END,
                ]
                .concat();
                self.events.put(
                    out,
                    "response.reasoning_summary_part.added",
                    &[&place, &part],
                );
            }
            Kind::Text => {
                self.speaks = true;
                let item = [",\"item\":{\"id\":\"", &id, "\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"in_progress\",\"content\":[]}"].concat();
                self.events
                    .put(out, "response.output_item.added", &[&index, &item]);
                let part = [
                    ",\"content_index\":0,\"part\":",
                    output::TEXT,
                    output::TEXT_END,
                ]
                .concat();
                self.events
                    .put(out, "response.content_part.added", &[&place, &part]);
            }
        }
        self.open = Some(Open {
            at,
            kind,
            id,
            place,
        });
    }

    /// A new place in the output, and how events of it say that: with the item's id, and without.
    pub(super) fn add_item(&mut self, id: &str) -> (usize, String, String) {
        self.items.push(String::new());
        let at = self.items.len() - 1;
        let index = format!(",\"output_index\":{at}");
        (at, format!("{index},\"item_id\":\"{id}\""), index)
    }

    pub(super) fn start(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            self.events.open(out, &self.asked, self.were_heard);
        }
    }

    /// Tells the end of the item that is no call.
    pub(super) fn close_open(&mut self, out: &mut Vec<u8>) {
        let Some(Open {
            at,
            kind,
            id,
            place,
        }) = self.open.take()
        else {
            return;
        };
        let text = std::mem::take(&mut self.text);
        let events = &mut self.events;
        let item = match kind {
            Kind::Thought => {
                let index = ",\"summary_index\":0";
                events.put(
                    out,
                    "response.reasoning_summary_text.done",
                    &[&place, index, ",\"text\":\"", &text, "\""],
                );
                events.put(
                    out,
                    "response.reasoning_summary_part.done",
                    &[
                        &place,
                        index,
                        ",\"part\":",
                        output::SUMMARY,
                        &text,
                        output::TEXT_END,
                    ],
                );
                output::reasoning(&id, &text)
            }
            Kind::Text => {
                let index = ",\"content_index\":0";
                events.put(
                    out,
                    "response.output_text.done",
                    &[&place, index, ",\"logprobs\":[],\"text\":\"", &text, "\""],
                );
                events.put(
                    out,
                    "response.content_part.done",
                    &[
                        &place,
                        index,
                        ",\"part\":",
                        output::TEXT,
                        &text,
                        output::TEXT_END,
                    ],
                );
                output::message(&id, &text)
            }
        };
        self.item_done(at, item, out);
    }

    pub(super) fn item_done(&mut self, at: usize, item: String, out: &mut Vec<u8>) {
        let index = format!(",\"output_index\":{at},\"item\":");
        self.events
            .put(out, "response.output_item.done", &[&index, &item]);
        self.items[at] = item;
    }

    pub(super) fn finish_if_done(&mut self, out: &mut Vec<u8>) {
        if !self.done || self.ended.is_some() {
            return;
        }
        self.think(Think::pause, out);
        self.begin_calls(self.blocks.len(), out);
        let cut_short = self.finish == Some(Finish::Length);
        for (block, call) in self.blocks.iter().zip(self.calls.list()) {
            if block.at.is_none() {
                return self.break_off("a tool call without a name");
            }
            let is_none = || matches!(Str::of_raw(&block.arguments).plain().trim(), "" | "null");
            if !(block.closed || call.arguments.is_whole() || cut_short || is_none()) {
                return self.break_off("the arguments of a tool call are not whole");
            }
        }
        if self.items.is_empty() {
            self.ended = Some(End::Empty);
            return;
        }
        self.close_open(out);
        for at in 0..self.blocks.len() {
            if !self.blocks[at].closed {
                self.close_call(at, out);
            }
        }
        self.put_end(out);
    }

    /// How the response ends. For who set no limit one that has words is whole, whatever limit it met:
    /// Codex ends its work at one that is not.
    pub(super) fn status(&self) -> Status<'static> {
        match self.finish {
            Some(Finish::Length) if self.asked.limited || !self.speaks => {
                Status::Incomplete("max_output_tokens")
            }
            Some(Finish::Filter) => Status::Incomplete("content_filter"),
            _ => Status::Completed,
        }
    }

    pub(super) fn counted(&self) -> Usage {
        self.asked.usage(self.usage, self.written as u64)
    }

    pub(super) fn put_end(&mut self, out: &mut Vec<u8>) {
        let (status, usage) = (self.status(), self.counted());
        self.events
            .put_whole(out, &self.asked, status, &self.items, Some(usage));
        self.ended = Some(End::Whole);
    }

    /// The response by itself.
    pub(super) fn response(&self) -> Vec<u8> {
        let mut out = Vec::new();
        output::put_response(
            &mut out,
            &self.asked,
            self.status(),
            &self.items,
            Some(self.counted()),
        );
        out
    }
}
