//! Writes an answer as a Response, item by item; `calls.rs` writes its calls. Pure. Bounded by [`LONGEST`]: the whole
//! output is repeated at the end.
//!
//! A rule that other proxies lost users over: no item is done before the answer is. Codex keeps done items, and asks
//! again for all if the rest breaks off.

use super::super::chat::Finish;
use super::super::ids::Fresh;
use super::super::reader::{AnswerWriter, Heard};
use super::super::terms::{RequestContext, StreamEnd};
use super::super::think::PartKind;
use super::output::{EventWriter, OutputCall, PART_END, Status, Words, put_response};

/// The longest output, in bytes: a hundred times what models write.
pub const LONGEST: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(super) enum ItemKind {
    Part(PartKind),
    /// A call; and whether the client got its arguments as they came.
    Call(OutputCall, bool),
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
}

#[derive(Debug)]
pub(super) struct ResponseStream {
    pub(super) asked: RequestContext,
    pub(super) events: EventWriter,
    pub(super) fresh: Fresh,
    pub(super) items: Vec<Item>,
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
            started: false,
            were_heard: false,
        }
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

    /// Writes the ends of all items. Returns the items as they are repeated at the end.
    fn close(&mut self, out: &mut Vec<u8>) -> Vec<String> {
        let items = std::mem::take(&mut self.items);
        let mut output = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let whole = match &item.kind {
                ItemKind::Call(call, told) => self.close_call(call, *told, item, out),
                ItemKind::Part(part) => self.close_part(Words::of(*part), item, out),
            };
            let index = format!(",\"output_index\":{at},\"item\":");
            self.events
                .put(out, "response.output_item.done", &[&index, &whole]);
            output.push(whole);
        }
        output
    }

    /// Writes the end of a text or of thoughts.
    fn close_part(&mut self, words: &Words, item: &Item, out: &mut Vec<u8>) -> String {
        let (place, text) = (&*item.place, &*item.text);
        let fields = [place, words.index, words.more, ",\"text\":\"", text, "\""];
        self.events.put(out, words.text_done, &fields);
        let part = [words.part, text, PART_END].concat();
        let fields = [place, words.index, ",\"part\":", &part];
        self.events.put(out, words.part_done, &fields);
        words.item(&item.id, text)
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
        let is_thought = |item: &Item| matches!(item.kind, ItemKind::Part(PartKind::Thought));
        self.items.iter().all(is_thought)
    }

    fn put_end(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        self.start(out);
        let counted = self.asked.usage(heard.usage, heard.written as u64);
        let (status, usage) = (self.status(heard), Some(counted));
        let output = self.close(out);
        match self.events.silent {
            // The response alone, without events.
            true => put_response(out, &self.asked, status, &output, usage),
            false => self
                .events
                .put_whole(out, &self.asked, status, &output, usage),
        }
        heard.ended = Some(StreamEnd::Whole);
    }
}

impl AnswerWriter for ResponseStream {
    fn open(&mut self, _: &mut Heard, part: PartKind, out: &mut Vec<u8>) {
        let words = Words::of(part);
        let id = self.fresh.id(words.prefix);
        let item = ["{\"id\":\"", &id, words.begun].concat();
        let at = self.add_item(ItemKind::Part(part), id, &item, out);
        let place = &*self.items[at].place;
        let fields = [place, words.index, ",\"part\":", words.part, PART_END];
        self.events.put(out, words.part_added, &fields);
    }

    fn more(&mut self, part: PartKind, text: &str, out: &mut Vec<u8>) {
        let (words, Some(item)) = (Words::of(part), self.items.last_mut()) else {
            return;
        };
        item.text.push_str(text);
        let Words { index, more, .. } = words;
        let fields = [&*item.place, index, more, ",\"delta\":\"", text, "\""];
        self.events.put(out, words.delta, &fields);
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
