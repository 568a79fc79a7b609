//! A client stricter than any SDK: it takes a stream of Messages only if every event is one that may come
//! where it comes, and gives what it makes of it. And a chat template stricter than any server's. Also for
//! `tests/fuzz`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The message that a stream makes, and whether it was whole. An `Err` says what no client may see.
pub fn accumulate(stream: &[u8]) -> Result<(Value, bool), String> {
    let text = std::str::from_utf8(stream).map_err(|fault| fault.to_string())?;
    let mut client = Client::default();
    if !(text.is_empty() || text.ends_with("\n\n")) {
        return Err("the last event has no end".into());
    }
    for event in text.split_terminator("\n\n") {
        let (name, data) = event
            .strip_prefix("event: ")
            .and_then(|event| event.split_once("\ndata: "))
            .ok_or(format!(
                "no event with a name and one line of data: {event:?}"
            ))?;
        let data: Value = serde_json::from_str(data).map_err(|fault| format!("{fault}: {data}"))?;
        if data["type"] != name {
            return Err(format!("the event {name} holds {data}"));
        }
        client
            .take(name, &data)
            .map_err(|fault| format!("{fault}: {data}"))?;
    }
    Ok((client.message(), client.stopped))
}

/// What is wrong with a stream whose blocks are kept open, beside the same one whose are not: nothing else
/// may differ, and all of them are closed in order, in front of the message's end.
pub fn kept_open_fault(open: &[u8], usual: &[u8]) -> Option<&'static str> {
    let [open, usual] = [open, usual].map(|stream| String::from_utf8_lossy(stream).into_owned());
    let is_stop = |event: &&str| event.starts_with("event: content_block_stop");
    let rest = |stream: &str| -> Vec<String> {
        let events = stream.split_inclusive("\n\n");
        events
            .filter(|event| !is_stop(event))
            .map(str::to_string)
            .collect()
    };
    let mut events = open
        .split_inclusive("\n\n")
        .skip_while(|event| !is_stop(event));
    let blocks = open.matches("\nevent: content_block_start\n").count();
    let closed = (0..blocks).all(|at| {
        let stop = events.next().filter(is_stop);
        stop.is_some_and(|stop| stop.contains(&format!("\"index\":{at}}}")))
    });
    match open.contains("event: message_stop\n") {
        _ if rest(&open) != rest(&usual) => Some("more than the ends of blocks differs"),
        true if !closed || events.any(|event| is_stop(&event)) => Some("not closed in order"),
        false if open.contains("event: content_block_stop\n") => Some("closed before the end"),
        _ => None,
    }
}

#[derive(Default)]
struct Client {
    start: Option<Value>,
    blocks: Vec<Value>,
    /// The open ones, and the arguments so far.
    open: BTreeMap<u64, String>,
    delta: Option<Value>,
    stopped: bool,
}

impl Client {
    fn take(&mut self, name: &str, data: &Value) -> Result<(), &'static str> {
        if self.stopped {
            return Err("behind message_stop");
        }
        if (name == "message_start") != self.start.is_none() {
            return Err("message_start is the first and comes once");
        }
        if self.delta.is_some() && name != "message_stop" {
            return Err("behind message_delta");
        }
        match name {
            "message_start" => self.begin(&data["message"]),
            "content_block_start" => self.open(data),
            "content_block_delta" => self.add(data),
            "content_block_stop" => self.close(data),
            "message_delta" => self.finish(data),
            "message_stop" if self.delta.is_none() => Err("message_stop without message_delta"),
            "message_stop" => {
                self.stopped = true;
                Ok(())
            }
            _ => Err("unknown"),
        }
    }

    fn begin(&mut self, message: &Value) -> Result<(), &'static str> {
        let usage = &message["usage"];
        let is_good = message["id"]
            .as_str()
            .is_some_and(|id| id.len() == 20 && id.starts_with("msg_"))
            && message["type"] == "message"
            && message["role"] == "assistant"
            && message["model"].is_string()
            && message["content"] == json!([])
            && message["stop_reason"].is_null()
            && usage["input_tokens"].as_u64() > Some(0)
            && usage["output_tokens"].is_u64();
        self.start = Some(message.clone());
        is_good
            .then_some(())
            .ok_or("a message_start that is not whole")
    }

    fn open(&mut self, data: &Value) -> Result<(), &'static str> {
        let at = data["index"].as_u64().ok_or("no index")?;
        let block = &data["content_block"];
        if at != self.blocks.len() as u64 {
            return Err("indexes have no gaps");
        }
        let id = block["id"].as_str().unwrap_or_default();
        let is_good = match block["type"].as_str() {
            Some("text") => block["text"] == "",
            Some("thinking") => block["thinking"] == "" && block["signature"] == "",
            Some("tool_use") => {
                let taken = self.blocks.iter().any(|earlier| earlier["id"] == id);
                let name = block["name"].as_str().unwrap_or_default();
                !id.is_empty() && !taken && !name.is_empty() && block["input"] == json!({})
            }
            _ => false,
        };
        let one_text = block["type"] == "tool_use"
            || self
                .open
                .keys()
                .all(|at| self.blocks[*at as usize]["type"] == "tool_use");
        self.open.insert(at, String::new());
        self.blocks.push(block.clone());
        (is_good && one_text)
            .then_some(())
            .ok_or("a block that may not open")
    }

    fn add(&mut self, data: &Value) -> Result<(), &'static str> {
        let at = data["index"].as_u64().ok_or("no index")?;
        let arguments = self.open.get_mut(&at).ok_or("no such block is open")?;
        let block = &mut self.blocks[at as usize];
        let delta = &data["delta"];
        let (kind, field) = match delta["type"].as_str() {
            Some("text_delta") => ("text", "text"),
            Some("thinking_delta") => ("thinking", "thinking"),
            Some("input_json_delta") => ("tool_use", "partial_json"),
            _ => return Err("an unknown delta"),
        };
        let text = delta[field]
            .as_str()
            .filter(|text| !text.is_empty())
            .ok_or("an empty delta")?;
        if block["type"] != kind {
            return Err("a delta of another kind");
        }
        match kind {
            "tool_use" => arguments.push_str(text),
            _ => {
                block[field] =
                    Value::from(block[field].as_str().unwrap_or_default().to_string() + text);
            }
        }
        Ok(())
    }

    fn close(&mut self, data: &Value) -> Result<(), &'static str> {
        let at = data["index"].as_u64().ok_or("no index")?;
        let arguments = self.open.remove(&at).ok_or("a block is closed once")?;
        let block = &mut self.blocks[at as usize];
        if block["type"] == "tool_use" && !arguments.is_empty() {
            // The client tells its model when they are cut.
            block["input"] = serde_json::from_str(&arguments).unwrap_or(json!({"cut": arguments}));
        }
        Ok(())
    }

    fn finish(&mut self, data: &Value) -> Result<(), &'static str> {
        if !self.open.is_empty() {
            return Err("message_delta with an open block");
        }
        let delta = &data["delta"];
        let usage = &data["usage"];
        let tools = self.blocks.iter().any(|block| block["type"] == "tool_use");
        let is_good = match delta["stop_reason"].as_str() {
            Some("end_turn") => !tools,
            Some("tool_use") => tools,
            Some("max_tokens" | "refusal") => true,
            _ => false,
        } && usage["input_tokens"].as_u64() > Some(0)
            && usage["output_tokens"].is_u64()
            && delta.get("stop_sequence") == Some(&Value::Null)
            && !self.blocks.is_empty();
        self.delta = Some(data.clone());
        is_good
            .then_some(())
            .ok_or("a message_delta that is not whole")
    }

    fn message(&self) -> Value {
        let mut message = self.start.clone().unwrap_or_default();
        if self.start.is_some() {
            message["content"] = self.blocks.clone().into();
        }
        if let Some(delta) = &self.delta {
            message["stop_reason"] = delta["delta"]["stop_reason"].clone();
            message["usage"] = delta["usage"].clone();
        }
        message
    }
}

/// What is wrong with the messages of a chat request.
pub fn chat_fault(messages: &[Value]) -> Option<String> {
    let mut waiting: Vec<String> = Vec::new();
    let mut last = "";
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str()?;
        if role == "system" && at != 0 {
            return Some("a system message that is not the first".into());
        }
        if role == last && role != "tool" {
            return Some(format!("two messages of {role}"));
        }
        let content = &message["content"];
        let has_image = || {
            content
                .as_array()
                .is_some_and(|parts| parts.iter().any(|part| part["type"] == "image_url"))
        };
        if !(content.is_string() || (role == "user" && has_image())) {
            return Some(format!("content {content}"));
        }
        if role == "tool" {
            if waiting.is_empty() || message["tool_call_id"] != waiting.remove(0) {
                return Some("a result that does not follow its call".into());
            }
        } else if !waiting.is_empty() {
            return Some("a call without its result".into());
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            waiting.push(call["id"].as_str()?.to_string());
            let arguments: Value =
                serde_json::from_str(call["function"]["arguments"].as_str()?).ok()?;
            if !arguments.is_object() {
                return Some(format!("arguments {arguments}"));
            }
        }
        last = role;
    }
    (!waiting.is_empty()).then(|| "a call without its result".into())
}

#[test]
fn the_strict_reader_refuses_what_a_client_would() {
    let start = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_0123456789abcdef","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}

"#;
    let open = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    let stop = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n";
    let delta = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}\n\n";
    let end = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    for (events, is_good) in [
        (vec![], true),
        (vec![start, open, stop, delta, end], true),
        (vec![start, open, stop, delta], true),
        (vec![open], false),
        (vec![start, start], false),
        (vec![start, open, open], false),
        (vec![start, open, stop, stop], false),
        (vec![start, open, delta], false),
        (vec![start, delta], false),
        (vec![start, open, stop, end], false),
        (vec![start, open, stop, delta, end, end], false),
        (vec![start.trim_end()], false),
        (vec!["data: {}\n\n"], false),
    ] {
        let found = accumulate(events.concat().as_bytes());
        assert_eq!(found.is_ok(), is_good, "{events:?} {found:?}");
    }
}
