//! Writes an answer as a Response, item by item; `calls.rs` writes its calls. Pure. Bounded by [`LONGEST`]: the whole
//! output is repeated at the end.
//!
//! A rule that other proxies lost users over: no item is done before the answer is. Codex keeps done items, and asks
//! again for all if the rest breaks off.

use super::super::chat::Finish;
use super::super::ids::Fresh;
use super::super::json::Str;
use super::super::reader::{AnswerWriter, Heard};
use super::super::terms::{RequestContext, StreamEnd};
use super::super::think::ThinkPart;
use super::calls::Block;
use super::output::{self, EventWriter, Status};

/// The longest output, in bytes: a hundred times what models write.
pub const LONGEST: usize = 4 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum ItemKind {
    Thought,
    Text,
    /// The call of this number.
    Call(usize),
}

/// An item of the output. It is done when the answer is, so that a client that asks again does not keep half an answer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: ItemKind,
    pub(super) id: String,
    /// The fields by which its events name it: its index in the output, and its id.
    pub(super) place: String,
    /// Its text so far, still escaped; empty for a call.
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct ResponseStream {
    pub(super) asked: RequestContext,
    pub(super) events: EventWriter,
    pub(super) fresh: Fresh,
    /// One for each call.
    pub(super) blocks: Vec<Block>,
    pub(super) items: Vec<Item>,
    /// The items as they are repeated at the end.
    pub(super) output: Vec<String>,
    /// The first two events were sent, or are not needed.
    pub(super) started: bool,
    pub(super) were_heard: bool,
    /// How many bytes the model wrote.
    pub(super) written: usize,
}

impl ResponseStream {
    pub(super) fn new(asked: RequestContext) -> ResponseStream {
        ResponseStream {
            events: EventWriter::default(),
            fresh: Fresh::new(!asked.random),
            asked,
            blocks: Vec::new(),
            items: Vec::new(),
            output: Vec::new(),
            started: false,
            were_heard: false,
            written: 0,
        }
    }

    /// Whether this much more can be held.
    pub(super) fn takes(&mut self, heard: &mut Heard, more: usize, out: &mut Vec<u8>) -> bool {
        self.written += more;
        if self.written > LONGEST {
            self.fail(
                heard,
                "the answer is longer than alvus can repeat at its end: 4 MiB",
                out,
            );
        }
        heard.ended.is_none()
    }

    /// The index of the last item, if it is of this kind; else opens one.
    pub(super) fn open(&mut self, heard: &mut Heard, kind: ItemKind, out: &mut Vec<u8>) -> usize {
        if self.items.last().is_some_and(|item| item.kind == kind) {
            return self.items.len() - 1;
        }
        self.begin_calls(heard, self.blocks.len(), out);
        let (prefix, item, added, part) = match kind {
            ItemKind::Text => (
                "msg_",
                "\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"in_progress\",\"content\":[]}",
                "response.content_part.added",
                [
                    ",\"content_index\":0,\"part\":",
                    output::TEXT,
                    output::TEXT_END,
                ],
            ),
            _ => (
                "rs_",
                "\",\"type\":\"reasoning\",\"summary\":[]}",
                "response.reasoning_summary_part.added",
                [
                    ",\"summary_index\":0,\"part\":",
                    output::SUMMARY,
                    output::TEXT_END,
                ],
            ),
        };
        let id = self.fresh.id(prefix);
        let item = ["{\"id\":\"", &id, item].concat();
        let at = self.add_item(kind, id, &item, out);
        let [begin, middle, end] = part;
        let fields = [&*self.items[at].place, begin, middle, end];
        self.events.put(out, added, &fields);
        at
    }

    /// Opens an item. Returns its index in the output.
    pub(super) fn add_item(
        &mut self,
        kind: ItemKind,
        id: String,
        item: &str,
        out: &mut Vec<u8>,
    ) -> usize {
        self.start(out);
        let at = self.items.len();
        let index = format!(",\"output_index\":{at}");
        let added = [&*index, ",\"item\":", item];
        self.events.put(out, "response.output_item.added", &added);
        let place = [&*index, ",\"item_id\":\"", &id, "\""].concat();
        self.items.push(Item {
            kind,
            id,
            place,
            text: String::new(),
        });
        at
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.started, true) {
            self.events.open(out, &self.asked, self.were_heard);
        }
    }

    /// Writes the ends of all items.
    fn close(&mut self, out: &mut Vec<u8>) {
        for (at, item) in std::mem::take(&mut self.items).into_iter().enumerate() {
            let whole = match item.kind {
                ItemKind::Call(call) => self.close_call(call, &item, out),
                ItemKind::Text => {
                    self.close_part(&item, ["output_text", "content_part", "content"], out)
                }
                ItemKind::Thought => {
                    let names = [
                        "reasoning_summary_text",
                        "reasoning_summary_part",
                        "summary",
                    ];
                    self.close_part(&item, names, out)
                }
            };
            let index = format!(",\"output_index\":{at},\"item\":");
            self.events
                .put(out, "response.output_item.done", &[&index, &whole]);
            self.output.push(whole);
        }
    }

    /// Writes the end of a text or of thoughts. `names`: of its event, of its part's event, and of the part's index.
    fn close_part(&mut self, item: &Item, names: [&str; 3], out: &mut Vec<u8>) -> String {
        let [text, part, list] = names;
        let place = [&*item.place, ",\"", list, "_index\":0"].concat();
        let (begin, whole, more) = match item.kind {
            ItemKind::Text => {
                let whole = output::message(&item.id, &item.text);
                (output::TEXT, whole, ",\"logprobs\":[]")
            }
            _ => (output::SUMMARY, output::reasoning(&item.id, &item.text), ""),
        };
        let fields = [&*place, more, ",\"text\":\"", &item.text, "\""];
        self.events
            .put(out, &["response.", text, ".done"].concat(), &fields);
        let fields = [&*place, ",\"part\":", begin, &item.text, output::TEXT_END];
        self.events
            .put(out, &["response.", part, ".done"].concat(), &fields);
        whole
    }

    /// How the response ends. If the client set no limit, a response with content is complete, whatever limit it met:
    /// Codex ends its work at an incomplete one.
    fn status(&self, heard: &Heard) -> Status<'static> {
        match heard.finish {
            Some(Finish::Length) if self.asked.limited || self.only_thinks() => {
                Status::Incomplete("max_output_tokens")
            }
            Some(Finish::Filter) => Status::Incomplete("content_filter"),
            _ => Status::Completed,
        }
    }

    fn only_thinks(&self) -> bool {
        self.items.iter().all(|item| item.kind == ItemKind::Thought)
    }

    fn put_end(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.start(out);
        let counted = self.asked.usage(heard.usage, self.written as u64);
        let (status, usage) = (self.status(heard), Some(counted));
        self.close(out);
        match self.events.silent {
            // The response alone, without events.
            true => output::put_response(out, &self.asked, status, &self.output, usage),
            false => self
                .events
                .put_whole(out, &self.asked, status, &self.output, usage),
        }
        heard.ended = Some(StreamEnd::Whole);
    }
}

impl AnswerWriter for ResponseStream {
    fn part(&mut self, heard: &mut Heard, part: ThinkPart<'_>, out: &mut Vec<u8>) {
        let (kind, text) = match part {
            ThinkPart::Thought(text) => (ItemKind::Thought, text),
            ThinkPart::Text(text) => (ItemKind::Text, text),
        };
        if !self.takes(heard, text.len(), out) {
            return;
        }
        let at = self.open(heard, kind, out);
        let item = &mut self.items[at];
        item.text.push_str(text);
        let (name, begin) = match kind {
            ItemKind::Text => (
                "response.output_text.delta",
                ",\"content_index\":0,\"logprobs\":[],\"delta\":\"",
            ),
            _ => (
                "response.reasoning_summary_text.delta",
                ",\"summary_index\":0,\"delta\":\"",
            ),
        };
        let fields = [&*item.place, begin, text, "\""];
        self.events.put(out, name, &fields);
    }

    fn call(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.begin_calls(heard, self.blocks.len(), out);
        self.blocks.push(Block::default());
    }

    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, out: &mut Vec<u8>) {
        if self.takes(heard, text.len(), out) {
            self.more_arguments(heard, at, text, out);
        }
    }

    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.begin_calls(heard, self.blocks.len(), out);
        let cut_short = heard.finish == Some(Finish::Length);
        for (block, call) in self.blocks.iter().zip(heard.calls.list()) {
            if block.at.is_none() {
                return heard.break_off("a tool call without a name");
            }
            let is_none = || matches!(Str::of_raw(&block.arguments).plain().trim(), "" | "null");
            if !(call.arguments.is_whole() || cut_short || is_none()) {
                return heard.break_off("the arguments of a tool call are not whole");
            }
        }
        if self.items.is_empty() {
            heard.ended = Some(StreamEnd::Empty);
            return;
        }
        self.put_end(heard, out);
    }

    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.put_end(heard, out);
    }

    fn were_heard(&mut self) {
        self.were_heard = true;
    }

    /// The output is in an item, in the events that end it, and in the last event.
    fn needs(&self) -> usize {
        self.written * 6
    }

    fn fail(&mut self, heard: &mut Heard, why: &str, out: &mut Vec<u8>) {
        if heard.ended.is_none() {
            self.start(out);
            let status = Status::Failed("server_error", why);
            self.events.put_whole(out, &self.asked, status, &[], None);
            heard.ended = Some(StreamEnd::Whole);
        }
    }
}
