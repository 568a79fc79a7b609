//! Writes the tool calls of a Response. Pure.

use super::super::json::Str;
use super::super::reader::Heard;
use super::answer::{Item, ItemKind, ResponseStream};
use super::output::OutputCall;
use super::tools::called;

/// A client that waits for a free-text tool's input gets an event each time this many bytes have come.
const SIGN_OF_LIFE: usize = 1024;

/// The item of a call.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Its index in the output, once it was opened.
    pub(super) at: Option<usize>,
    call: OutputCall,
    /// All arguments so far, still escaped; and how much of them was written.
    pub(super) arguments: String,
    told: usize,
    /// They are an object, and are written as they come.
    flows: bool,
}

impl ResponseStream {
    /// Takes the next piece of a call's arguments, still escaped.
    pub(super) fn more_arguments(
        &mut self,
        heard: &mut Heard,
        at: usize,
        text: &str,
        out: &mut Vec<u8>,
    ) {
        let call = heard.calls.get(at);
        call.arguments.push(Str::of_raw(text));
        let has_name = !call.name.is_empty();
        let before = self.blocks[at].arguments.len() / SIGN_OF_LIFE;
        self.blocks[at].arguments.push_str(text);
        if !self.blocks[at].flows {
            // Before an object begins they may be `null`, which means none.
            let arguments = Str::of_raw(&self.blocks[at].arguments);
            if !has_name || !arguments.plain().trim_start().starts_with('{') {
                return;
            }
            self.blocks[at].flows = true;
            self.begin_calls(heard, at + 1, out);
        }
        let block = &mut self.blocks[at];
        let place = block.at.map_or("", |at| &self.items[at].place);
        let count = block.arguments.len() / SIGN_OF_LIFE;
        if block.call.is_custom() && count > before {
            let name = "response.custom_tool_call_input.delta";
            self.events.put(out, name, &[place, ",\"delta\":\"\""]);
        } else if block.call.is_function() {
            let delta = &block.arguments[block.told..];
            let name = "response.function_call_arguments.delta";
            self.events
                .put(out, name, &[place, ",\"delta\":\"", delta, "\""]);
            block.told = block.arguments.len();
        }
    }

    /// Opens the items of the calls before `end`, whose names are complete now.
    pub(super) fn begin_calls(&mut self, heard: &mut Heard, end: usize, out: &mut Vec<u8>) {
        for at in 0..end {
            if self.blocks[at].at.is_some() || heard.calls.list()[at].name.is_empty() {
                continue;
            }
            let call = heard.calls.get(at);
            let call_id = self.asked.used.own(&call.id, &mut self.fresh, "call_");
            let tool = called(&self.asked.tools, &call.name).cloned();
            let name = call.name.clone();
            let mut call = OutputCall {
                id: String::new(),
                call_id,
                name,
                tool,
            };
            call.id = self.fresh.id(if call.is_custom() { "ctc_" } else { "fc_" });
            let item = call.item(None);
            let number = self.add_item(ItemKind::Call(at), call.id.clone(), &item, out);
            let block = &mut self.blocks[at];
            (block.at, block.call) = (Some(number), call);
        }
    }

    /// Writes the end of a call. Returns its final item.
    pub(super) fn close_call(&mut self, at: usize, item: &Item, out: &mut Vec<u8>) -> String {
        let block = &mut self.blocks[at];
        let arguments = std::mem::take(&mut block.arguments);
        let input = block.call.input(&arguments);
        let (name, field) = match block.call.is_custom() {
            true => ("response.custom_tool_call_input.", ",\"input\":\""),
            false => ("response.function_call_arguments.", ",\"arguments\":\""),
        };
        if block.call.is_custom() || block.call.is_function() {
            if block.told == 0 {
                let fields = [&*item.place, ",\"delta\":\"", &input, "\""];
                self.events.put(out, &[name, "delta"].concat(), &fields);
            }
            let fields = [&*item.place, field, &input, "\""];
            self.events.put(out, &[name, "done"].concat(), &fields);
        }
        block.call.item(Some(&input))
    }
}
