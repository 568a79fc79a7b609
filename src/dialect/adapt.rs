//! Changes a chat request to what was learned of its model, before its first attempt or the next one. Pure. All else
//! stays as it was, byte for byte.

use super::ids::hash;
use super::json::{Json, Str, put};
use super::learned::Traits;

/// The least room for an answer, in tokens. A prompt that leaves less is too long.
pub const LEAST_ROOM: u64 = 1024;

/// Replaces an image that the model cannot read.
const NO_IMAGE: &str = "[image omitted: this model reads none]";

/// How deep schemas are changed.
const DEEPEST: u32 = 32;

/// The request as this model takes it; `None`: nothing to change, so a retry would fail the same way. `prompt_tokens`:
/// the prompt's tokens, as far as they are known.
pub fn adapt(body: &[u8], traits: &Traits, prompt_tokens: u64) -> Option<Vec<u8>> {
    if *traits == Traits::default() {
        return None;
    }
    let json = Json::parse(body).filter(|json| json.is_object())?;
    let mut out = Vec::with_capacity(body.len() + 64);
    put!(&mut out, "{");
    let [effort, kwargs] = json.pick(["reasoning_effort", "chat_template_kwargs"]);
    let thinks = (effort.is_some() && traits.refuses("reasoning_effort"))
        || (kwargs.is_some() && traits.refuses("chat_template_kwargs"));
    for (name, value) in json.fields() {
        let plain = name.plain();
        let is_limit = matches!(&*plain, "max_tokens" | "max_completion_tokens");
        if !is_limit && traits.refuses(&plain) {
            continue;
        }
        put!(&mut out, if out.len() == 1 { "" } else { "," });
        match (&*plain, value.number()) {
            (_, Some(most)) if is_limit => {
                let name = if traits.refuses("max_tokens") {
                    "max_completion_tokens"
                } else {
                    &*plain
                };
                let least = if thinks { LEAST_ROOM } else { 0 };
                put!(
                    &mut out,
                    "\"",
                    name,
                    "\":",
                    limit(most.max(least), traits, prompt_tokens)
                );
            }
            ("messages", _) if changes_messages(traits) => {
                put!(&mut out, name, ":");
                put_list(&mut out, value, |out, message| {
                    put_message(out, message, traits);
                });
            }
            ("tools", _) if traits.plain_schemas => {
                put!(&mut out, name, ":");
                put_list(&mut out, value, |out, tool| {
                    put_object(out, tool, |out, name, value| match name.is("function") {
                        true => put_function(out, value),
                        false => put!(out, value),
                    });
                });
            }
            _ => put!(&mut out, name, ":", value),
        }
    }
    put!(&mut out, "}");
    (out != body).then_some(out)
}

/// The limit of output to send: what was asked, or the room that is left.
fn limit(asked: u64, traits: &Traits, prompt_tokens: u64) -> u64 {
    let mut most = asked.min(traits.output.unwrap_or(u64::MAX));
    if let Some(context) = traits.context {
        // The tokens are known to a few percent.
        let margin = prompt_tokens / 64 + 64;
        let room = context.saturating_sub(prompt_tokens.saturating_add(margin));
        // If the prompt does not fit at all, the upstream says so.
        if room >= LEAST_ROOM {
            most = most.min(room);
        }
    }
    most
}

fn put_list<'a>(
    out: &mut Vec<u8>,
    list: Json<'a>,
    mut put_item: impl FnMut(&mut Vec<u8>, Json<'a>),
) {
    put!(out, "[");
    for (at, item) in list.items().enumerate() {
        put!(out, if at == 0 { "" } else { "," });
        put_item(out, item);
    }
    put!(out, "]");
}

fn put_object<'a>(
    out: &mut Vec<u8>,
    object: Json<'a>,
    mut put_value: impl FnMut(&mut Vec<u8>, Str<'a>, Json<'a>),
) {
    put!(out, "{");
    for (at, (name, value)) in object.fields().enumerate() {
        put!(out, if at == 0 { "" } else { "," }, name, ":");
        put_value(out, name, value);
    }
    put!(out, "}");
}

fn changes_messages(traits: &Traits) -> bool {
    traits.blind || traits.needs_thoughts || traits.short_ids || traits.refuses("reasoning_content")
}

fn put_message(out: &mut Vec<u8>, message: Json<'_>, traits: &Traits) {
    let [thoughts, calls] = message.pick(["reasoning_content", "tool_calls"]);
    put!(out, "{");
    let begin = out.len();
    for (name, value) in message.fields() {
        if name.is("reasoning_content") && traits.refuses("reasoning_content") {
            continue;
        }
        put!(out, if out.len() == begin { "" } else { "," }, name, ":");
        if traits.blind && name.is("content") && value.is_list() {
            put_blind(out, value);
        } else if traits.short_ids && name.is("tool_call_id") {
            put_short(out, value);
        } else if traits.short_ids && name.is("tool_calls") {
            put_list(out, value, |out, call| {
                put_object(out, call, |out, name, value| match name.is("id") {
                    true => put_short(out, value),
                    false => put!(out, value),
                });
            });
        } else {
            put!(out, value);
        }
    }
    if traits.needs_thoughts && calls.is_some() && thoughts.is_none() {
        put!(out, ",\"reasoning_content\":\" \""); // upstreams refuse ""
    }
    put!(out, "}");
}

/// Writes content with images as a string without them.
fn put_blind(out: &mut Vec<u8>, parts: Json<'_>) {
    put!(out, "\"");
    for (at, part) in parts.items().enumerate() {
        let text = part.get("text").and_then(Json::string);
        put!(
            out,
            if at == 0 { "" } else { "\\n" },
            text.map_or(NO_IMAGE, Str::raw)
        );
    }
    put!(out, "\"");
}

/// Writes an id of nine letters and digits: always the same one for the same id.
fn put_short(out: &mut Vec<u8>, id: Json<'_>) {
    let mut rest = hash(id.text());
    put!(out, "\"");
    for _ in 0..9 {
        out.push(b"abcdefghijklmnopqrstuvwxyz0123456789"[(rest % 36) as usize]);
        rest /= 36;
    }
    put!(out, "\"");
}

fn put_function(out: &mut Vec<u8>, function: Json<'_>) {
    put_object(out, function, |out, name, value| {
        match name.is("parameters") {
            true => put_plain_schema(out, value, 0),
            false => put!(out, value),
        }
    });
}

/// Writes a schema without the keywords that servers refuse. `"type":["string","null"]` and `anyOf` with null lose the
/// null: a field may be left out anyway.
fn put_plain_schema(out: &mut Vec<u8>, schema: Json<'_>, depth: u32) {
    if depth == DEEPEST || !schema.is_object() {
        return put!(out, schema);
    }
    put!(out, "{");
    let begin = out.len();
    put_words(out, schema, depth, begin);
    put!(out, "}");
}

/// Writes a schema's keywords into the object that began at `begin`.
fn put_words(out: &mut Vec<u8>, schema: Json<'_>, depth: u32, begin: usize) {
    for (name, value) in schema.fields() {
        let plain = name.plain();
        if DROPPED.contains(&&*plain) {
            continue;
        }
        let alone = match &*plain {
            "anyOf" | "oneOf" => not_null(value, |item| item.get("type").is_some_and(is_null)),
            "type" => not_null(value, is_null),
            _ => None,
        };
        if let Some(alone) = alone.filter(|alone| alone.is_object() && depth < DEEPEST) {
            put_words(out, alone, depth + 1, begin);
            continue;
        }
        put!(out, if out.len() == begin { "" } else { "," });
        match &*plain {
            "const" => put!(out, "\"enum\":[", value, "]"),
            "type" => put!(out, name, ":", alone.unwrap_or(value)),
            "properties" | "$defs" | "definitions" => {
                put!(out, name, ":");
                put_object(out, value, |out, _, value| {
                    put_plain_schema(out, value, depth + 1);
                });
            }
            "anyOf" | "oneOf" | "allOf" => {
                put!(out, name, ":");
                put_list(out, value, |out, item| {
                    put_plain_schema(out, item, depth + 1);
                });
            }
            "items" | "not" => {
                put!(out, name, ":");
                put_plain_schema(out, value, depth + 1);
            }
            _ => put!(out, name, ":", value),
        }
    }
}

const DROPPED: [&str; 9] = [
    "$schema",
    "format",
    "pattern",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "propertyNames",
    "patternProperties",
    "default",
    "additionalProperties",
];

fn is_null(value: Json<'_>) -> bool {
    value.text() == "\"null\""
}

/// The other one of a list of two, one of which is null.
fn not_null<'a>(list: Json<'a>, is_null: impl Fn(Json<'a>) -> bool) -> Option<Json<'a>> {
    let mut items = list.items();
    let (first, second, third) = (items.next()?, items.next()?, items.next());
    match (is_null(first), is_null(second), third) {
        (false, true, None) => Some(first),
        (true, false, None) => Some(second),
        _ => None,
    }
}
