//! Adds the content blocks of a Messages request to a [`Conversation`]. Pure.

use super::super::conversation::{Arguments, Conversation, Image, Part, Text, joined};
use super::super::ids::Used;
use super::super::interface::Refusal;
use super::super::json::{Json, Str};
use super::errors::invalid;

/// The position of a block, for errors.
#[derive(Debug, Clone, Copy)]
pub struct BlockPath {
    message: usize,
    block: usize,
}

impl BlockPath {
    fn wrong(self, what: &str) -> Refusal {
        invalid(format!(
            "messages.{}.content.{}: {what}",
            self.message, self.block
        ))
    }

    fn cannot(self, kind: &str) -> Refusal {
        self.wrong(&format!(
            "a block of type {kind:?} cannot be translated for this upstream"
        ))
    }
}

/// The speaker of a message.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Role {
    User,
    Assistant,
    System,
}

/// Adds all messages; `used` gets the ids of their tool calls.
///
/// # Errors
/// Which block cannot be translated, and why.
pub fn add_messages<'a>(
    messages: Json<'a>,
    conversation: &mut Conversation<'a>,
    used: &mut Used,
) -> Result<(), Refusal> {
    for (message, json) in messages.items().enumerate() {
        let [role, content] = json.pick(["role", "content"]);
        let role = match role.and_then(Json::raw) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system" | "developer") => Role::System,
            other => {
                let other = other.unwrap_or("none");
                return Err(invalid(format!(
                    "messages.{message}.role: {other:?} is not one of user, assistant, system"
                )));
            }
        };
        let mut place = BlockPath { message, block: 0 };
        let Some(content) = content else { continue };
        match (role, content.raw()) {
            (Role::System, _) => conversation.system(instructions(content, place)?),
            (Role::Assistant, Some(text)) => conversation.said(text.into(), false),
            (Role::User, Some(text)) => conversation.user(Part::Text(text.into())),
            (_, None) if !content.is_list() => {
                return Err(place.wrong("content is a string or a list of blocks"));
            }
            (_, None) => {
                let mut has_said = false;
                for (block, json) in content.items().enumerate() {
                    place.block = block;
                    add_block(json, role, place, conversation, used, &mut has_said)?;
                }
            }
        }
    }
    Ok(())
}

fn add_block<'a>(
    block: Json<'a>,
    role: Role,
    place: BlockPath,
    conversation: &mut Conversation<'a>,
    used: &mut Used,
    has_said: &mut bool,
) -> Result<(), Refusal> {
    let [kind, thinking] = block.pick(["type", "thinking"]);
    let kind = kind.and_then(Json::raw).unwrap_or("none");
    match kind {
        "tool_use" => {
            let [id, name, input] = block.pick(["id", "name", "input"]);
            let id = string(id, place, "tool_use.id")?;
            let name = string(name, place, "tool_use.name")?;
            used.add(&id.plain());
            conversation.call(
                id,
                name.raw().into(),
                input.map_or(Arguments::None, Arguments::Value),
            );
        }
        "tool_result" => {
            let [id, content, is_error] = block.pick(["tool_use_id", "content", "is_error"]);
            let id = string(id, place, "tool_result.tool_use_id")?;
            let mut parts = Vec::new();
            if let Some(content) = content {
                content_parts(content, place, &mut parts)?;
            }
            conversation.result(id, parts, is_error.is_some_and(Json::is_true));
        }
        "thinking" => {
            let text = thinking.and_then(Json::raw).unwrap_or("");
            conversation.thought(text.into());
        }
        // Only Anthropic's servers can read or run these.
        "redacted_thinking" | "server_tool_use" | "mcp_tool_use" | "container_upload"
        | "fallback" => {}
        _ => {
            let mut parts = Vec::new();
            add_parts(block, place, &mut parts)?;
            for part in parts {
                match (role, part) {
                    (Role::Assistant, Part::Text(text)) => {
                        conversation.said(text, std::mem::replace(has_said, true));
                    }
                    (Role::Assistant, Part::Image(_)) => {
                        return Err(place.cannot("image of the assistant's"));
                    }
                    (_, part) => conversation.user(part),
                }
            }
        }
    }
    Ok(())
}

fn string<'a>(value: Option<Json<'a>>, place: BlockPath, name: &str) -> Result<Str<'a>, Refusal> {
    let found = value.and_then(Json::string).filter(|text| !text.is_empty());
    found.ok_or_else(|| place.wrong(&format!("{name}: a string is required")))
}

/// The parts of a content that is a string or a list of blocks.
fn content_parts<'a>(
    content: Json<'a>,
    place: BlockPath,
    parts: &mut Vec<Part<'a>>,
) -> Result<(), Refusal> {
    if let Some(text) = content.raw() {
        parts.push(Part::Text(text.into()));
    }
    for block in content.items() {
        add_parts(block, place, parts)?;
    }
    Ok(())
}

/// Adds the parts of one block: text, an image, or what can be told as text.
fn add_parts<'a>(
    block: Json<'a>,
    place: BlockPath,
    parts: &mut Vec<Part<'a>>,
) -> Result<(), Refusal> {
    let [kind, text, source, title, content, name] =
        block.pick(["type", "text", "source", "title", "content", "tool_name"]);
    let kind = kind.and_then(Json::raw).unwrap_or("none");
    match kind {
        "text" => {
            let text = text.and_then(Json::raw);
            let text = text.ok_or_else(|| place.wrong("text: a string is required"))?;
            parts.push(Part::Text(text.into()));
        }
        "image" => parts.push(Part::Image(image(source, place)?)),
        "document" => document(source, title, place, parts)?,
        "search_result" => {
            let lines = [title, source]
                .into_iter()
                .flatten()
                .filter_map(Json::string);
            parts.extend(lines.map(|line| Part::Text(line.raw().into())));
            content.map_or(Ok(()), |content| content_parts(content, place, parts))?;
        }
        "tool_reference" => {
            let name = name.and_then(Json::raw).unwrap_or("");
            parts.push(Part::Text(format!("Tool {name} is now loaded.").into()));
        }
        "compaction" => content.map_or(Ok(()), |content| content_parts(content, place, parts))?,
        _ if kind.ends_with("_tool_result") => parts.extend(found_by_server(kind, content)),
        _ => return Err(place.cannot(kind)),
    }
    Ok(())
}

fn image<'a>(source: Option<Json<'a>>, place: BlockPath) -> Result<Image<'a>, Refusal> {
    let [kind, media, data, url] = match source {
        Some(source) => source
            .pick(["type", "media_type", "data", "url"])
            .map(|value| value.and_then(Json::raw)),
        None => [None; 4],
    };
    match (kind, media, data, url) {
        (Some("base64"), Some(media), Some(data), _) => Ok(Image::Data(media, data)),
        (Some("url"), _, _, Some(url)) => Ok(Image::Url(url.into())),
        (other, ..) => Err(place.wrong(&format!(
            "an image's source is base64 or url on this upstream, not {:?}",
            other.unwrap_or("none")
        ))),
    }
}

/// A document's text. Of a PDF, which no chat upstream reads, only a note.
fn document<'a>(
    source: Option<Json<'a>>,
    title: Option<Json<'a>>,
    place: BlockPath,
    parts: &mut Vec<Part<'a>>,
) -> Result<(), Refusal> {
    let source = source.ok_or_else(|| place.wrong("document.source is required"))?;
    let [kind, data, url, content] = source.pick(["type", "data", "url", "content"]);
    let [kind, data, url] = [kind, data, url].map(|value| value.and_then(Json::raw));
    let title = title.and_then(Json::raw).unwrap_or("");
    let note = match (kind, data, url, content) {
        (Some("text"), Some(data), ..) => Some(Text::from(data)),
        (Some("base64"), Some(data), ..) => {
            let kb = (data.len() / 4 * 3).div_ceil(1024);
            let what = format!("PDF {title}").trim_end().to_string();
            let note = format!("[{what}, {kb} KB: not readable by this model]");
            parts.push(Part::Text(note.into()));
            return Ok(());
        }
        (Some("url"), _, Some(url), _) => {
            Some(format!("[PDF at {url}: not readable by this model]").into())
        }
        (Some("content"), _, _, Some(_)) => None,
        _ => {
            let kind = kind.unwrap_or("none");
            return Err(place.wrong(&format!(
                "a document's source of type {kind:?} cannot be read here"
            )));
        }
    };
    if !title.is_empty() {
        parts.push(Part::Text(format!("Document: {title}").into()));
    }
    match (note, content) {
        (Some(note), _) => parts.push(Part::Text(note)),
        (None, Some(content)) => content_parts(content, place, parts)?,
        (None, None) => {}
    }
    Ok(())
}

/// The readable part of what a tool on Anthropic's servers found in an earlier turn.
fn found_by_server<'a>(kind: &str, content: Option<Json<'a>>) -> Option<Part<'a>> {
    let content = content?;
    let alone = content.is_object().then_some(content);
    let mut lines = vec![format!("[{kind}]")];
    for item in content.items().chain(alone) {
        let fields = item.pick(["title", "url", "text", "stdout", "stderr", "error_code"]);
        let texts = fields.into_iter().flatten().filter_map(Json::raw);
        lines.extend(texts.filter(|text| !text.is_empty()).map(String::from));
    }
    (lines.len() > 1).then(|| Part::Text(lines.join("\\n").into()))
}

/// The text of instructions: a string, or blocks of text. Lines for Anthropic's accounting are left out: they differ in
/// each request, so that no prefix cache would hit.
///
/// # Errors
/// When a block is not text.
pub fn system_texts<'a>(system: Json<'a>) -> Result<Vec<Text<'a>>, Refusal> {
    let blocks = system.items().map(|block| block.pick(["type", "text"]));
    let mut texts: Vec<&str> = system.raw().into_iter().collect();
    for (at, [kind, text]) in blocks.enumerate() {
        match (kind.and_then(Json::string), text.and_then(Json::raw)) {
            (Some(kind), Some(text)) if kind.is("text") => texts.push(text),
            _ => {
                return Err(invalid(format!(
                    "system.{at}: only blocks of text can be translated"
                )));
            }
        }
    }
    texts.retain(|text| !text.starts_with("x-anthropic-billing-header:"));
    Ok(texts.into_iter().map(Text::from).collect())
}

/// Joins blocks that must all be text.
fn instructions<'a>(content: Json<'a>, place: BlockPath) -> Result<Text<'a>, Refusal> {
    let mut parts = Vec::new();
    content_parts(content, place, &mut parts)?;
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Text(text) => texts.push(text),
            Part::Image(_) => return Err(place.cannot("image in a system message")),
        }
    }
    Ok(joined(texts, "\\n\\n"))
}
