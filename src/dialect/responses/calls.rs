//! The calls of tools in an answer on its way. Pure.

use super::super::chat::CallPiece;
use super::super::json::{Str, escaped};
use super::super::think::Think;
use super::answer::Answer;
use super::output::Call;
use super::tools::called;

/// A client that waits for the input of a tool hears of it whenever so much of it has come, in bytes.
const SIGN_OF_LIFE: usize = 1024;

/// What is known of a call's item.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Its place in the output, once it was opened.
    pub(super) at: Option<usize>,
    pub(super) place: String,
    pub(super) call: Call,
    /// All arguments so far, as they were escaped, and how many of them were told.
    pub(super) arguments: String,
    pub(super) told: usize,
    /// They are an object, and told as they come.
    pub(super) flows: bool,
    pub(super) closed: bool,
}

impl Answer {
    /// Closes the calls that can get nothing more, when another item begins.
    pub(super) fn close_whole_calls(&mut self, out: &mut Vec<u8>) {
        for at in 0..self.blocks.len() {
            let is_open = self.blocks[at].at.is_some() && !self.blocks[at].closed;
            if is_open && self.calls.list()[at].arguments.is_whole() {
                self.close_call(at, out);
            }
        }
    }

    pub(super) fn call(&mut self, piece: CallPiece<'_>, out: &mut Vec<u8>) {
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
                self.arguments(at, &escaped(arguments.text()), out);
            }
            Some(arguments) => self.arguments(at, arguments.string().map_or("", Str::raw), out),
            None => {}
        }
    }

    /// The next piece of a call's arguments, as it is escaped.
    pub(super) fn arguments(&mut self, at: usize, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() || self.blocks[at].closed || !self.takes(text.len(), out) {
            return;
        }
        let call = self.calls.get(at);
        call.arguments.push(Str::of_raw(text));
        let has_name = !call.name.is_empty();
        let before = self.blocks[at].arguments.len() / SIGN_OF_LIFE;
        self.blocks[at].arguments.push_str(text);
        if !self.blocks[at].flows {
            // Until an object has begun it may be `null`, which means none.
            let arguments = Str::of_raw(&self.blocks[at].arguments);
            if !has_name || !arguments.plain().trim_start().starts_with('{') {
                return;
            }
            self.blocks[at].flows = true;
            self.begin_calls(at + 1, out);
            if self.blocks[at].closed {
                return; // it was whole, and another one was opened behind it
            }
        }
        let block = &mut self.blocks[at];
        let count = block.arguments.len() / SIGN_OF_LIFE;
        if block.call.is_custom() && count > before {
            let name = "response.custom_tool_call_input.delta";
            self.events
                .put(out, name, &[&block.place, ",\"delta\":\"\""]);
        } else if block.call.is_function() {
            let delta = &block.arguments[block.told..];
            let name = "response.function_call_arguments.delta";
            self.events
                .put(out, name, &[&block.place, ",\"delta\":\"", delta, "\""]);
            block.told = block.arguments.len();
        }
    }

    /// Opens the items of the calls before `end` that are not open: their names are whole now.
    pub(super) fn begin_calls(&mut self, end: usize, out: &mut Vec<u8>) {
        for at in 0..end {
            if self.blocks[at].at.is_some() || self.calls.list()[at].name.is_empty() {
                continue;
            }
            self.close_open(out);
            self.close_whole_calls(out);
            self.start(out);
            self.speaks = true;
            let call = self.calls.get(at);
            let told = Str::of_raw(&call.id).plain().into_owned();
            let call_id = match told.is_empty() || self.asked.used.has(&told) {
                true => self.fresh.id("call_"),
                false => told,
            };
            self.asked.used.add(&call_id);
            let tool = called(&self.asked.tools, &call.name).cloned();
            let name = call.name.clone();
            let mut call = Call {
                id: String::new(),
                call_id,
                name,
                tool,
            };
            call.id = self.fresh.id(if call.is_custom() { "ctc_" } else { "fc_" });
            let (number, place, index) = self.add_item(&call.id);
            let item = call.item(None);
            self.events.put(
                out,
                "response.output_item.added",
                &[&index, ",\"item\":", &item],
            );
            let block = &mut self.blocks[at];
            (block.at, block.place, block.call) = (Some(number), place, call);
        }
    }

    /// Tells the end of a call.
    pub(super) fn close_call(&mut self, at: usize, out: &mut Vec<u8>) {
        let block = &mut self.blocks[at];
        let Some(number) = block.at else { return };
        block.closed = true;
        let arguments = std::mem::take(&mut block.arguments);
        let input = block.call.input(&arguments);
        let item = block.call.item(Some(&input));
        let (delta, done, field) = match block.call.is_custom() {
            true => (
                "response.custom_tool_call_input.delta",
                "response.custom_tool_call_input.done",
                ",\"input\":\"",
            ),
            false => (
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                ",\"arguments\":\"",
            ),
        };
        if block.call.is_custom() || block.call.is_function() {
            if block.told == 0 {
                self.events
                    .put(out, delta, &[&block.place, ",\"delta\":\"", &input, "\""]);
            }
            self.events
                .put(out, done, &[&block.place, field, &input, "\""]);
        }
        self.item_done(number, item, out);
    }
}
