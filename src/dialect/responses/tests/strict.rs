//! A client stricter than any SDK: it takes a stream of a Response only if every event is one that may come
//! where it comes, and gives what it makes of it. Also for `tests/fuzz`.

use serde_json::{Value, json};

/// The response that a stream makes, and whether it was told to an end. An `Err` says what no client may see.
pub fn accumulate(stream: &[u8]) -> Result<(Value, bool), String> {
    let text = std::str::from_utf8(stream).map_err(|fault| fault.to_string())?;
    let mut client = Client::default();
    if !(text.is_empty() || text.ends_with("\n\n")) {
        return Err("the last event has no end".into());
    }
    for (number, event) in text.split_terminator("\n\n").enumerate() {
        let (name, data) = event
            .strip_prefix("event: ")
            .and_then(|event| event.split_once("\ndata: "))
            .ok_or(format!(
                "no event with a name and one line of data: {event:?}"
            ))?;
        let data: Value = serde_json::from_str(data).map_err(|fault| format!("{fault}: {data}"))?;
        if data["type"] != name || data["sequence_number"] != number {
            return Err(format!("the event {name}, number {number}, holds {data}"));
        }
        client
            .take(number, name, &data)
            .map_err(|fault| format!("{fault}: {data}"))?;
    }
    Ok((client.response, client.over))
}

#[derive(Default)]
struct Client {
    response: Value,
    items: Vec<Item>,
    over: bool,
}

/// An item under way: as it was added, what came of its part, and all of it.
struct Item {
    added: Value,
    text: String,
    has_part: bool,
    text_done: bool,
    part_done: bool,
    done: Option<Value>,
}

impl Client {
    fn take(&mut self, number: usize, name: &str, data: &Value) -> Result<(), &'static str> {
        if self.over {
            return Err("behind the end");
        }
        match (number, name) {
            (0, "response.created") | (1, "response.in_progress") => {
                let response = &data["response"];
                let new = number == 0 || response == &self.response;
                self.response = response.clone();
                let empty = response["output"] == json!([]) && response["usage"].is_null();
                return check(
                    new && empty && response["status"] == "in_progress",
                    "a bad beginning",
                );
            }
            (0 | 1, _) => return Err("it begins with created and in_progress"),
            (_, "response.created" | "response.in_progress") => return Err("it begins once"),
            (_, "response.completed" | "response.incomplete" | "response.failed") => {
                return self.end(name, &data["response"]);
            }
            (_, "response.output_item.added") => return self.add(data),
            _ => {}
        }
        let at = data["output_index"].as_u64().ok_or("no place")? as usize;
        let item = self.items.get_mut(at).ok_or("no such item")?;
        check(item.done.is_none(), "the item is done")?;
        if name == "response.output_item.done" {
            return item.finish(&data["item"]);
        }
        check(data["item_id"] == item.added["id"], "another item's id")?;
        item.take(name, data)
    }

    fn add(&mut self, data: &Value) -> Result<(), &'static str> {
        let item = &data["item"];
        check(
            data["output_index"] == self.items.len(),
            "a gap in the output",
        )?;
        let id = &item["id"];
        check(id.as_str().is_some_and(|id| id.len() > 10), "no id")?;
        check(
            self.items.iter().all(|other| other.added["id"] != *id),
            "an id again",
        )?;
        let call = &item["call_id"];
        let again = |other: &Item| !call.is_null() && other.added["call_id"] == *call;
        check(!self.items.iter().any(again), "a call's id again")?;
        self.items.push(Item {
            added: item.clone(),
            text: String::new(),
            has_part: false,
            text_done: false,
            part_done: false,
            done: None,
        });
        Ok(())
    }

    fn end(&mut self, name: &str, response: &Value) -> Result<(), &'static str> {
        self.over = true;
        check(response["id"] == self.response["id"], "another response")?;
        check(
            name.ends_with(response["status"].as_str().unwrap_or("none")),
            "another status",
        )?;
        self.response = response.clone();
        if name == "response.failed" {
            let error = &response["error"];
            return check(
                error["code"].is_string() && error["message"].is_string(),
                "no error",
            );
        }
        let items: Option<Vec<&Value>> = self.items.iter().map(|item| item.done.as_ref()).collect();
        let items = items.ok_or("an item that is not done")?;
        check(
            response["output"] == json!(items),
            "another output than was told",
        )?;
        let usage = &response["usage"];
        let count = |name: &str| usage[name].as_u64().ok_or("no usage");
        let total = count("input_tokens")? + count("output_tokens")?;
        let details = usage["input_tokens_details"]["cached_tokens"].is_u64()
            && usage["output_tokens_details"]["reasoning_tokens"].is_u64();
        check(total == count("total_tokens")? && details, "bad usage")
    }
}

impl Item {
    fn take(&mut self, name: &str, data: &Value) -> Result<(), &'static str> {
        let name = name.strip_prefix("response.").ok_or("another event")?;
        let kind = self.added["type"].as_str().unwrap_or_default();
        match (kind, name) {
            ("message", "content_part.added") | ("reasoning", "reasoning_summary_part.added") => {
                let index = data["content_index"]
                    .as_u64()
                    .or(data["summary_index"].as_u64());
                let first = !std::mem::replace(&mut self.has_part, true);
                check(
                    first && index == Some(0) && data["part"]["text"] == "",
                    "a bad part",
                )
            }
            ("message", "output_text.delta") | ("reasoning", "reasoning_summary_text.delta") => {
                check(self.has_part && !self.text_done, "text outside of a part")?;
                self.add(&data["delta"])
            }
            ("function_call", "function_call_arguments.delta")
            | ("custom_tool_call", "custom_tool_call_input.delta") => {
                check(!self.text_done, "behind its end")?;
                self.add(&data["delta"])
            }
            ("message", "output_text.done") | ("reasoning", "reasoning_summary_text.done") => {
                self.all(&data["text"])
            }
            ("function_call", "function_call_arguments.done") => self.all(&data["arguments"]),
            ("custom_tool_call", "custom_tool_call_input.done") => self.all(&data["input"]),
            ("message", "content_part.done") | ("reasoning", "reasoning_summary_part.done") => {
                check(
                    self.text_done && data["part"]["text"] == self.text,
                    "another part",
                )?;
                check(
                    !std::mem::replace(&mut self.part_done, true),
                    "a part done twice",
                )
            }
            _ => Err("no event of such an item"),
        }
    }

    fn add(&mut self, delta: &Value) -> Result<(), &'static str> {
        self.text += delta.as_str().ok_or("no text")?;
        Ok(())
    }

    fn all(&mut self, text: &Value) -> Result<(), &'static str> {
        check(!std::mem::replace(&mut self.text_done, true), "done twice")?;
        check(*text == self.text, "another text than was told")
    }

    fn finish(&mut self, item: &Value) -> Result<(), &'static str> {
        for field in ["id", "type", "call_id", "name", "namespace"] {
            check(
                item[field] == self.added[field],
                "another item than was added",
            )?;
        }
        let (text, has_part) = match item["type"].as_str().unwrap_or_default() {
            "message" => (&item["content"][0]["text"], true),
            "reasoning" => (&item["summary"][0]["text"], true),
            "function_call" => (&item["arguments"], false),
            "custom_tool_call" => (&item["input"], false),
            "tool_search_call" => {
                check(item["arguments"].is_object(), "no object")?;
                self.done = Some(item.clone());
                return Ok(());
            }
            _ => return Err("an item that nobody knows"),
        };
        check(
            *text == self.text && self.text_done,
            "another text than was told",
        )?;
        check(self.part_done == has_part, "its part is not done")?;
        self.done = Some(item.clone());
        Ok(())
    }
}

fn check(is_right: bool, fault: &'static str) -> Result<(), &'static str> {
    match is_right {
        true => Ok(()),
        false => Err(fault),
    }
}

#[test]
fn the_strict_reader_refuses_what_a_client_would() {
    let event = |number: usize, name: &str, fields: &str| {
        format!(
            "event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number}{fields}}}\n\n"
        )
    };
    let begin = r#","response":{"id":"r","status":"in_progress","output":[],"usage":null}"#;
    let created = event(0, "response.created", begin);
    let progress = event(1, "response.in_progress", begin);
    let added = event(
        2,
        "response.output_item.added",
        r#","output_index":0,"item":{"id":"msg_0123456789","type":"message","content":[]}"#,
    );
    let usage = r#""usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2,"input_tokens_details":{"cached_tokens":0},"output_tokens_details":{"reasoning_tokens":0}}"#;
    let end = format!(r#","response":{{"id":"r","status":"completed","output":[],{usage}}}"#);
    let completed = |number| event(number, "response.completed", &end);
    for (events, is_good) in [
        (vec![], true),
        (vec![created.clone(), progress.clone()], true),
        (vec![created.clone(), progress.clone(), completed(2)], true),
        (vec![created.clone(), completed(1)], false),
        (vec![progress.clone()], false),
        (vec![created.clone(), progress.clone(), completed(3)], false),
        (
            vec![
                created.clone(),
                progress.clone(),
                completed(2),
                completed(3),
            ],
            false,
        ),
        (vec![created.clone(), progress.clone(), added.clone()], true),
        (
            vec![created.clone(), progress.clone(), added, completed(3)],
            false,
        ),
        (vec![created, progress.trim_end().into()], false),
    ] {
        let found = accumulate(events.concat().as_bytes());
        assert_eq!(found.is_ok(), is_good, "{events:?} {found:?}");
    }
}
