//! Adds the input items of a Responses request to a [`Conversation`]. Pure.

use super::super::conversation::{Arguments, Conversation, Image, Part, Text, joined};
use super::super::ids::Used;
use super::super::interface::Refusal;
use super::super::json::{Json, Str};
use super::super::terms::{Tool, ToolKind};
use super::errors::invalid;
use super::tools::chat_name;

/// Said of what would need a memory of earlier requests.
const NOTHING_STORED: &str = "nothing is stored here; send what it means as input";

/// Adds all items; `used` gets the ids of their tool calls.
///
/// # Errors
/// Which item cannot be translated, and why.
pub fn add_items<'a>(
    input: Json<'a>,
    tools: &[Tool],
    conversation: &mut Conversation<'a>,
    used: &mut Used,
) -> Result<(), Refusal> {
    if let Some(text) = input.raw() {
        conversation.user(Part::Text(text.into()));
        return Ok(());
    }
    if !input.is_list() {
        return Err(invalid("input", "a string or a list of items is required"));
    }
    for (at, item) in input.items().enumerate() {
        let place = format!("input[{at}]");
        let [kind, role] = item.pick(["type", "role"]);
        let kind = kind.and_then(Json::raw);
        match kind {
            None if role.is_none() => {
                return Err(invalid(place + ".type", "a string is required"));
            }
            None | Some("message") => add_message(item, role, &place, conversation)?,
            Some("item_reference") => return Err(invalid(place, NOTHING_STORED)),
            Some("reasoning") => conversation.thought(thoughts(item)),
            Some(kind) if kind.ends_with("_output") => {
                add_output(item, kind, &place, conversation)?;
            }
            Some(kind) => add_call(item, kind, tools, conversation, used),
        }
    }
    Ok(())
}

fn add_message<'a>(
    item: Json<'a>,
    role: Option<Json<'a>>,
    place: &str,
    conversation: &mut Conversation<'a>,
) -> Result<(), Refusal> {
    let role = role.and_then(Json::raw).unwrap_or("none");
    let mut parts = Vec::new();
    if let Some(content) = item.get("content") {
        add_parts(content, &format!("{place}.content"), &mut parts)?;
    }
    match role {
        "user" => parts.into_iter().for_each(|part| conversation.user(part)),
        "assistant" => {
            for (at, part) in parts.into_iter().enumerate() {
                if let Part::Text(text) = part {
                    conversation.said(text, at > 0);
                }
            }
        }
        "system" | "developer" => {
            let texts: Vec<Text<'a>> = parts.into_iter().filter_map(text_of).collect();
            conversation.system(joined(texts, "\\n\\n"));
        }
        other => {
            let what = format!("{other:?} is not one of user, assistant, system, developer");
            return Err(invalid(format!("{place}.role"), &what));
        }
    }
    Ok(())
}

fn text_of(part: Part<'_>) -> Option<Text<'_>> {
    match part {
        Part::Text(text) => Some(text),
        Part::Image(_) => None,
    }
}

/// Adds the parts of a content: a string, or a list.
fn add_parts<'a>(content: Json<'a>, place: &str, parts: &mut Vec<Part<'a>>) -> Result<(), Refusal> {
    if let Some(text) = content.raw() {
        parts.push(Part::Text(text.into()));
    }
    for (at, part) in content.items().enumerate() {
        let [kind, text, refusal, url, name] =
            part.pick(["type", "text", "refusal", "image_url", "filename"]);
        let wrong = |what: &str| invalid(format!("{place}[{at}]"), what);
        let string = |value: Option<Json<'a>>| value.and_then(Json::raw);
        match string(kind).unwrap_or("none") {
            "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
                let text = string(text).ok_or_else(|| wrong("text: a string is required"))?;
                parts.push(Part::Text(text.into()));
            }
            "refusal" => parts.push(Part::Text(string(refusal).unwrap_or_default().into())),
            "input_image" => {
                let in_object = || string(url?.get("url"));
                let url = string(url).or_else(in_object);
                // An image without a URL is a file at OpenAI.
                let url =
                    url.ok_or_else(|| wrong(&format!("image_url is required: {NOTHING_STORED}")))?;
                parts.push(Part::Image(Image::Url(url.into())));
            }
            "input_file" => {
                let name = string(name).unwrap_or_default();
                parts.push(Part::Text(
                    format!("[file {name}: not readable by this model]").into(),
                ));
            }
            kind => {
                let what =
                    format!("a part of type {kind:?} cannot be translated for this upstream");
                return Err(wrong(&what));
            }
        }
    }
    Ok(())
}

/// The thoughts themselves, or their summary.
fn thoughts(item: Json<'_>) -> Text<'_> {
    let [content, summary] = item.pick(["content", "summary"]);
    for list in [content, summary].into_iter().flatten() {
        let texts = list.items().filter_map(|part| part.get("text")?.raw());
        let texts: Vec<Text<'_>> = texts.map(Text::from).collect();
        if !texts.is_empty() {
            return joined(texts, "\\n");
        }
    }
    Text::default()
}

/// The id that joins a call and its output; some items use their own id.
fn id_of(item: Json<'_>) -> Str<'_> {
    let [call_id, id] = item
        .pick(["call_id", "id"])
        .map(|id| id.and_then(Json::string));
    call_id.or(id).unwrap_or(Str::of_raw(""))
}

/// Adds a tool call. Calls that ran on OpenAI's servers, and unknown ones, are left out.
fn add_call<'a>(
    item: Json<'a>,
    kind: &str,
    tools: &[Tool],
    conversation: &mut Conversation<'a>,
    used: &mut Used,
) {
    let [name, space, arguments, input, action] =
        item.pick(["name", "namespace", "arguments", "input", "action"]);
    let arguments = arguments.map_or(Arguments::None, Arguments::Value);
    let space = space.and_then(Json::raw).unwrap_or("");
    let function = ToolKind::Function(space.to_string());
    let (own_name, kind, arguments) = match kind {
        "function_call" | "mcp_call" => ("", function, arguments),
        "tool_search_call" => ("tool_search", ToolKind::Search, arguments),
        "local_shell_call" => {
            let action = action.map_or(Arguments::None, Arguments::Value);
            ("local_shell", function, action)
        }
        "custom_tool_call" => {
            let input = input.and_then(Json::string).unwrap_or(Str::of_raw(""));
            ("", ToolKind::Custom, Arguments::Input(input))
        }
        _ => return,
    };
    let id = id_of(item);
    let name = name.and_then(Json::raw).unwrap_or(own_name);
    used.add(&id.plain());
    conversation.call(id, chat_name(tools, name, &kind).into(), arguments);
    // A server's tool has its result in the same item.
    let [output, error] = item.pick(["output", "error"]);
    if let Some(text) = output.or(error).and_then(Json::raw) {
        conversation.result(id, vec![Part::Text(text.into())], output.is_none());
    }
}

fn add_output<'a>(
    item: Json<'a>,
    kind: &str,
    place: &str,
    conversation: &mut Conversation<'a>,
) -> Result<(), Refusal> {
    let [output, found] = item.pick(["output", "tools"]);
    let mut parts = Vec::new();
    match output {
        Some(output) if output.is_object() => {
            let text = super::super::json::escaped(output.text());
            parts.push(Part::Text(text.into()));
        }
        Some(output) => add_parts(output, &format!("{place}.output"), &mut parts)?,
        None => {}
    }
    if kind == "tool_search_output" {
        let names = Json::items_of(found).filter_map(|tool| tool.get("name")?.raw());
        let names = names.collect::<Vec<_>>().join(", ");
        parts.push(Part::Text(
            format!("Tools found, ready to be called: {names}").into(),
        ));
    }
    conversation.result(id_of(item), parts, false);
    Ok(())
}
