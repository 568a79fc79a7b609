//! Writes the parts of a response: the response itself, its items, its events. Pure.

use super::super::chat::Usage;
use super::super::ids::Fresh;
use super::super::json::{Json, Quoted, Str, put};
use super::super::terms::{RequestContext, Tool, ToolKind};
use super::super::think::PartKind;
use super::tools::custom_input;

/// The status of a response.
#[derive(Debug, Clone, Copy)]
pub enum Status<'a> {
    /// Under way.
    InProgress,
    /// All of it came.
    Completed,
    /// It ended early; and why: `max_output_tokens`, `content_filter`.
    Incomplete(&'static str),
    /// It failed, with this code and message.
    Failed(&'a str, &'a str),
}

/// The id of the response to this request.
pub fn response_id(asked: &RequestContext) -> String {
    Fresh::new(asked.random).id("resp_")
}

/// Writes a response. `items`: its output.
pub fn put_response(
    out: &mut Vec<u8>,
    asked: &RequestContext,
    status: Status<'_>,
    items: &[String],
    usage: Option<Usage>,
) {
    let (word, why) = match status {
        Status::InProgress => ("in_progress", ""),
        Status::Completed => ("completed", ""),
        Status::Incomplete(why) => ("incomplete", why),
        Status::Failed(..) => ("failed", ""),
    };
    // Our clock may be wrong, and no client uses the time.
    put!(
        out,
        "{\"id\":\"",
        &*response_id(asked),
        "\",\"object\":\"response\",\"created_at\":0"
    );
    put!(out, ",\"status\":\"", word, "\",\"error\":");
    match status {
        Status::Failed(code, message) => {
            put!(
                out,
                "{\"code\":",
                Quoted(code),
                ",\"message\":",
                Quoted(message),
                "}"
            );
        }
        _ => put!(out, "null"),
    }
    match why {
        "" => put!(out, ",\"incomplete_details\":null"),
        why => put!(out, ",\"incomplete_details\":{\"reason\":\"", why, "\"}"),
    }
    put!(
        out,
        ",\"instructions\":null,\"max_output_tokens\":null,\"model\":",
        Quoted(&asked.model)
    );
    put!(
        out,
        ",\"output\":[",
        &*items.join(","),
        "],\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":{\"effort\":null,\"summary\":null},\"store\":false,\"temperature\":null,\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":null,\"truncation\":\"disabled\",\"metadata\":{},\"usage\":"
    );
    match usage {
        Some(usage) => put_usage(out, usage),
        None => put!(out, "null"),
    }
    put!(out, "}");
}

fn put_usage(out: &mut Vec<u8>, usage: Usage) {
    put!(
        out,
        "{\"input_tokens\":",
        usage.prompt,
        ",\"input_tokens_details\":{\"cached_tokens\":",
        usage.cached
    );
    put!(out, "},\"output_tokens\":", usage.completion);
    put!(
        out,
        ",\"output_tokens_details\":{\"reasoning_tokens\":",
        usage.reasoning
    );
    put!(
        out,
        "},\"total_tokens\":",
        usage.prompt.saturating_add(usage.completion),
        "}"
    );
}

/// Writes events, each with the next number.
#[derive(Debug, Default)]
pub struct EventWriter {
    next: u64,
    /// Write no events: the answer is not a stream.
    pub silent: bool,
}

impl EventWriter {
    /// Writes one event: its name, and its fields in pieces, with a comma before the first.
    pub fn put(&mut self, out: &mut Vec<u8>, name: &str, fields: &[&str]) {
        if self.silent {
            return;
        }
        put!(
            out,
            "event: ",
            name,
            "\ndata: {\"type\":\"",
            name,
            "\",\"sequence_number\":",
            self.next
        );
        self.next += 1;
        for piece in fields {
            put!(out, *piece);
        }
        put!(out, "}\n\n");
    }

    /// Writes an event that holds the whole response.
    pub fn put_whole(
        &mut self,
        out: &mut Vec<u8>,
        asked: &RequestContext,
        status: Status<'_>,
        items: &[String],
        usage: Option<Usage>,
    ) {
        if self.silent {
            return;
        }
        let name = match status {
            Status::InProgress if self.next == 0 => "response.created",
            Status::InProgress => "response.in_progress",
            Status::Completed => "response.completed",
            Status::Incomplete(_) => "response.incomplete",
            Status::Failed(..) => "response.failed",
        };
        // The event's end goes after the response.
        self.put(out, name, &[",\"response\":"]);
        out.truncate(out.len() - "}\n\n".len());
        put_response(out, asked, status, items, usage);
        put!(out, "}\n\n");
    }

    /// Writes the two first events, unless the client has got them as heartbeats.
    pub fn open(&mut self, out: &mut Vec<u8>, asked: &RequestContext, were_heard: bool) {
        match were_heard {
            true => self.next = 2,
            false => (0..2).for_each(|_| self.put_whole(out, asked, Status::InProgress, &[], None)),
        }
    }
}

/// What a client gets while it waits for its stream: first once, then as each heartbeat. Codex counts only events as a
/// sign of life, and the SDKs accept none before the first of these.
pub fn beats(asked: &RequestContext) -> (Vec<u8>, Vec<u8>) {
    let mut events = EventWriter::default();
    let (mut first, mut other) = (Vec::new(), Vec::new());
    events.put_whole(&mut first, asked, Status::InProgress, &[], None);
    events.put_whole(&mut other, asked, Status::InProgress, &[], None);
    (first, other)
}

/// The end of a stream of which at most [`beats`] were sent.
pub fn late_failure(
    asked: &RequestContext,
    were_heard: bool,
    code: &str,
    message: &str,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut events = EventWriter::default();
    events.open(&mut out, asked, were_heard);
    events.put_whole(&mut out, asked, Status::Failed(code, message), &[], None);
    out
}

/// A whole response as the end of a stream: its done items, and the response. `None`: it is not a response.
pub fn as_stream(asked: &RequestContext, were_heard: bool, body: &[u8]) -> Option<Vec<u8>> {
    let response = Json::parse(body)?;
    let [items, status] = response.pick(["output", "status"]);
    let mut out = Vec::new();
    let mut events = EventWriter::default();
    events.open(&mut out, asked, were_heard);
    for (at, item) in items?.items().enumerate() {
        let index = format!(",\"output_index\":{at},\"item\":");
        events.put(
            &mut out,
            "response.output_item.done",
            &[&index, &one_line(item)],
        );
    }
    let name = match status.and_then(Json::raw) {
        Some("failed") => "response.failed",
        Some("incomplete") => "response.incomplete",
        _ => "response.completed",
    };
    events.put(&mut out, name, &[",\"response\":", &one_line(response)]);
    Some(out)
}

/// The text on one line: JSON has line breaks only between its tokens.
fn one_line(json: Json<'_>) -> String {
    json.text().replace(['\n', '\r'], "")
}

/// How an item of text, or one of thoughts, and its events are written.
#[derive(Debug)]
pub struct Words {
    /// The beginning of its id.
    pub prefix: &'static str,
    /// The item behind its id, when it begins.
    pub begun: &'static str,
    /// The same when it is done, up to its only part.
    done: &'static str,
    /// The part, up to its text.
    pub part: &'static str,
    /// The field with the part's index.
    pub index: &'static str,
    /// More fields of the text's events.
    pub more: &'static str,
    /// The name of the event with more text.
    pub delta: &'static str,
    /// The name of the event with all of it.
    pub text_done: &'static str,
    /// The name of the event when the part begins.
    pub part_added: &'static str,
    /// The name of the event when it is done.
    pub part_done: &'static str,
}

/// The end of a part, after its text.
pub const PART_END: &str = "\"}";

const TEXT: Words = Words {
    prefix: "msg_",
    begun: "\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"in_progress\",\"content\":[]}",
    done: "\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"completed\",\"content\":[",
    part: "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"",
    index: ",\"content_index\":0",
    more: ",\"logprobs\":[]",
    delta: "response.output_text.delta",
    text_done: "response.output_text.done",
    part_added: "response.content_part.added",
    part_done: "response.content_part.done",
};

/// Thoughts are summaries: clients show that field, and send it back.
const THOUGHTS: Words = Words {
    prefix: "rs_",
    begun: "\",\"type\":\"reasoning\",\"summary\":[]}",
    done: "\",\"type\":\"reasoning\",\"summary\":[",
    part: "{\"type\":\"summary_text\",\"text\":\"",
    index: ",\"summary_index\":0",
    more: "",
    delta: "response.reasoning_summary_text.delta",
    text_done: "response.reasoning_summary_text.done",
    part_added: "response.reasoning_summary_part.added",
    part_done: "response.reasoning_summary_part.done",
};

impl Words {
    /// The words for this.
    pub fn of(part: PartKind) -> &'static Words {
        match part {
            PartKind::Thought => &THOUGHTS,
            PartKind::Text => &TEXT,
        }
    }

    /// The item when it is done; `text` is still escaped.
    pub fn item(&self, id: &str, text: &str) -> String {
        let Words { done, part, .. } = self;
        ["{\"id\":\"", id, done, part, text, PART_END, "]}"].concat()
    }
}

/// A tool call as the client knows it.
#[derive(Debug, Clone)]
pub struct OutputCall {
    /// The item's id.
    pub id: String,
    /// The id that joins it with its output.
    pub call_id: String,
    /// The tool.
    pub tool: Tool,
}

impl OutputCall {
    /// Whether it takes free text instead of an object.
    pub fn is_custom(&self) -> bool {
        self.tool.kind == ToolKind::Custom
    }

    /// Whether its arguments are written as they come.
    pub fn is_function(&self) -> bool {
        matches!(self.tool.kind, ToolKind::Function(_))
    }

    /// The tool's input as the client expects it, with JSON escapes.
    pub fn input(&self, arguments: &str) -> String {
        let arguments = Str::of_raw(arguments);
        match arguments.plain().trim() {
            _ if self.is_custom() => custom_input(arguments),
            "" | "null" => "{}".into(),
            _ => arguments.raw().into(),
        }
    }

    /// The item. `input`: see [`OutputCall::input`]; `None`: not known yet.
    pub fn item(&self, input: Option<&str>) -> String {
        let (kind, space) = match &self.tool.kind {
            ToolKind::Function(space) => ("function_call", space.as_str()),
            ToolKind::Custom => ("custom_tool_call", ""),
            ToolKind::Search => ("tool_search_call", ""),
        };
        let mut out = Vec::new();
        put!(
            &mut out,
            "{\"id\":\"",
            &*self.id,
            "\",\"type\":\"",
            kind,
            "\",\"call_id\":",
            Quoted(&self.call_id)
        );
        put!(
            &mut out,
            ",\"status\":\"",
            if input.is_some() {
                "completed"
            } else {
                "in_progress"
            }
        );
        let input = input.unwrap_or_default();
        if kind == "tool_search_call" {
            let plain = Str::of_raw(input).plain();
            let object = Json::parse(plain.as_bytes()).filter(|json| json.is_object());
            put!(
                &mut out,
                "\",\"execution\":\"client\",\"arguments\":",
                object.map_or("{}", Json::text),
                "}"
            );
        } else {
            put!(&mut out, "\",\"name\":\"", &*self.tool.name);
            if !space.is_empty() {
                put!(&mut out, "\",\"namespace\":\"", space);
            }
            let field = if self.is_custom() {
                "input"
            } else {
                "arguments"
            };
            put!(&mut out, "\",\"", field, "\":\"", input, "\"}");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}
