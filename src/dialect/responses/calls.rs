//! Writes the tool calls of a Response. Pure.

use super::super::calls::StreamedCall;
use super::super::terms::{Tool, ToolKind};
use super::answer::{Item, ItemKind, ResponseStream};
use super::output::OutputCall;
use super::tools::called;

/// A client that waits for a free-text tool's input gets an event each time this many bytes have come.
const SIGN_OF_LIFE: usize = 1024;

impl ResponseStream {
    /// Opens the item of a call.
    pub(super) fn begin_call(&mut self, call: &mut StreamedCall, out: &mut Vec<u8>) {
        let call_id = self.asked.used.own(&call.id, &mut self.fresh, "call_");
        let tool = called(&self.asked.tools, &call.name).cloned();
        let tool = tool.unwrap_or_else(|| Tool {
            chat_name: call.name.clone(),
            name: call.name.clone(),
            kind: ToolKind::Function(String::new()),
        });
        let mut output = OutputCall {
            id: String::new(),
            call_id,
            tool,
        };
        let prefix = if output.is_custom() { "ctc_" } else { "fc_" };
        output.id = self.fresh.id(prefix);
        let (id, item) = (output.id.clone(), output.item(None));
        call.place = Some(self.add_item(ItemKind::Call(output, false), id, &item, out));
    }

    /// Takes the next piece of a call's arguments, still escaped.
    pub(super) fn more_arguments(&mut self, call: &StreamedCall, text: &str, out: &mut Vec<u8>) {
        let item = &mut self.items[call.place.unwrap_or_default()];
        let before = item.text.len() / SIGN_OF_LIFE;
        item.text.push_str(text);
        let count = item.text.len() / SIGN_OF_LIFE;
        let ItemKind::Call(call, told) = &mut item.kind else {
            return;
        };
        if call.is_custom() && count > before {
            let name = "response.custom_tool_call_input.delta";
            let fields = [&*item.place, ",\"delta\":\"\""];
            self.events.put(out, name, &fields);
        } else if call.is_function() {
            *told = true;
            let name = "response.function_call_arguments.delta";
            let fields = [&*item.place, ",\"delta\":\"", text, "\""];
            self.events.put(out, name, &fields);
        }
    }

    /// Writes the end of a call. Returns its final item.
    pub(super) fn close_call(
        &mut self,
        call: &OutputCall,
        told: bool,
        item: &Item,
        out: &mut Vec<u8>,
    ) -> String {
        let input = call.input(&item.text);
        let (name, field) = match call.is_custom() {
            true => ("response.custom_tool_call_input.", ",\"input\":\""),
            false => ("response.function_call_arguments.", ",\"arguments\":\""),
        };
        if call.is_custom() || call.is_function() {
            if !told {
                let fields = [&*item.place, ",\"delta\":\"", &input, "\""];
                self.events.put(out, &[name, "delta"].concat(), &fields);
            }
            let fields = [&*item.place, field, &input, "\""];
            self.events.put(out, &[name, "done"].concat(), &fields);
        }
        call.item(Some(&input))
    }
}
