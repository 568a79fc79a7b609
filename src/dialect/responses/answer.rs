//! Writes an answer as a Response, item by item; `calls.rs` writes its calls. Pure. Bounded by [`LONGEST`]: the whole
//! output is repeated at the end.
//!
//! A rule that other proxies lost users over: no item is done before the answer is. Codex keeps done items, and asks
//! again for all if the rest breaks off.

use super::super::chat::Finish;
use super::super::ids::Fresh;
use super::super::reader::{AnswerWriter, Heard};
use super::super::terms::{RequestContext, StreamEnd};
use super::super::think::ThinkPart;
use super::output::{self, EventWriter, OutputCall, Status};

/// The longest output, in bytes: a hundred times what models write.
pub const LONGEST: usize = 4 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum ItemKind {
    Thought,
    Text,
    Call,
}

/// An item of the output. It is done when the answer is, so that a client that asks again does not keep half an answer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: ItemKind,
    pub(super) id: String,
    /// The fields by which its events name it: its index in the output, and its id.
    pub(super) place: String,
    /// Its text so far, or its call's arguments, still escaped.
    pub(super) text: String,
    pub(super) call: Option<OutputCall>,
    /// The client got its arguments as they came.
    pub(super) told: bool,
}

#[derive(Debug)]
pub(super) struct ResponseStream {
    pub(super) asked: RequestContext,
    pub(super) events: EventWriter,
    pub(super) fresh: Fresh,
    pub(super) items: Vec<Item>,
    /// The items as they are repeated at the end.
    pub(super) output: Vec<String>,
    /// The first two events were sent, or are not needed.
    pub(super) started: bool,
    pub(super) were_heard: bool,
}

impl ResponseStream {
    pub(super) fn new(asked: RequestContext) -> ResponseStream {
        ResponseStream {
            events: EventWriter::default(),
            fresh: Fresh::new(!asked.random),
            asked,
            items: Vec::new(),
            output: Vec::new(),
            started: false,
            were_heard: false,
        }
    }

    /// The index of the last item, if it is of this kind; else opens one.
    fn open(&mut self, kind: ItemKind, out: &mut Vec<u8>) -> usize {
        if self.items.last().is_some_and(|item| item.kind == kind) {
            return self.items.len() - 1;
        }
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
            call: None,
            told: false,
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
            let whole = match (item.kind, &item.call) {
                (_, Some(call)) => self.close_call(call, &item, out),
                (ItemKind::Text, _) => {
                    self.close_part(&item, ["output_text", "content_part", "content"], out)
                }
                _ => {
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
        let counted = self.asked.usage(heard.usage, heard.written as u64);
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

fn kind_of(part: ThinkPart<'_>) -> ItemKind {
    match part {
        ThinkPart::Thought(_) => ItemKind::Thought,
        ThinkPart::Text(_) => ItemKind::Text,
    }
}

impl AnswerWriter for ResponseStream {
    fn continues(&self, part: ThinkPart<'_>) -> bool {
        let last = self.items.last();
        last.is_some_and(|item| item.kind == kind_of(part))
    }

    fn part(&mut self, _: &mut Heard, part: ThinkPart<'_>, out: &mut Vec<u8>) {
        let at = self.open(kind_of(part), out);
        let (name, begin, text) = match part {
            ThinkPart::Text(text) => (
                "response.output_text.delta",
                ",\"content_index\":0,\"logprobs\":[],\"delta\":\"",
                text,
            ),
            ThinkPart::Thought(text) => (
                "response.reasoning_summary_text.delta",
                ",\"summary_index\":0,\"delta\":\"",
                text,
            ),
        };
        let item = &mut self.items[at];
        item.text.push_str(text);
        let fields = [&*item.place, begin, text, "\""];
        self.events.put(out, name, &fields);
    }

    fn call(&mut self, heard: &mut Heard, at: usize, out: &mut Vec<u8>) {
        self.begin_call(heard.calls.get(at), out);
    }

    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, out: &mut Vec<u8>) {
        self.more_arguments(heard.calls.get(at), text, out);
    }

    fn call_ends(&mut self, heard: &mut Heard, at: usize, _: &mut Vec<u8>) {
        let call = heard.calls.get(at);
        let item = &mut self.items[call.place.unwrap_or_default()];
        item.text.push_str(&call.held);
    }

    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        match self.items.is_empty() {
            true => heard.ended = Some(StreamEnd::Empty),
            false => self.put_end(heard, out),
        }
    }

    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.put_end(heard, out);
    }

    fn were_heard(&mut self) {
        self.were_heard = true;
    }

    /// The output is in an item, in the events that end it, and in the last event.
    fn needs(&self, heard: &Heard) -> usize {
        heard.written * 6
    }

    fn check(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        if heard.written > LONGEST {
            let why = "the answer is longer than alvus can repeat at its end: 4 MiB";
            self.fail(heard, why, out);
        }
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
