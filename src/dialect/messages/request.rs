//! Translates a Messages request to a chat completion, and counts its tokens. Pure.
//!
//! What chat completions lack is left out if only Anthropic's own servers use it (cache marks, metadata, betas). What
//! would change the meaning is refused, with its place.

use super::super::conversation::{self, Conversation};
use super::super::ids::Used;
use super::super::interface::Refusal;
use super::super::json::{Json, put};
use super::super::measure::Size;
use super::super::reasoning::Wanted;
use super::super::settings;
pub use super::super::terms::{ChatRequest, RequestContext};
use super::blocks::{add_messages, system_texts};
use super::errors::invalid;
use super::tools::put_tools;

/// Translates a Messages request. `upstream_model`: the model, by the upstream's name.
///
/// # Errors
/// What cannot be translated, and why.
pub fn translate(body: &[u8], upstream_model: &str) -> Result<ChatRequest, Refusal> {
    let json = object(body)?;
    let [model, messages, system, stream] = json.pick(["model", "messages", "system", "stream"]);
    let model = model
        .and_then(Json::string)
        .filter(|model| !model.is_empty());
    let model = model
        .ok_or_else(|| invalid("model: a string is required"))?
        .plain();
    let messages = messages.filter(|messages| messages.items().next().is_some());
    let messages = messages.ok_or_else(|| invalid("messages: at least one message is required"))?;
    let streams = stream.is_some_and(Json::is_true);

    let mut out = conversation::open(upstream_model, streams, body.len());
    put_settings(&mut out, json, upstream_model)?;
    let [tools, choice] = json.pick(["tools", "tool_choice"]);
    put_tools(&mut out, tools, choice)?;
    put!(&mut out, ",\"messages\":");
    let mut conversation = Conversation::new(out);
    for text in system.map_or(Ok(Vec::new()), system_texts)? {
        conversation.system(text);
    }
    let mut used = Used::default();
    add_messages(messages, &mut conversation, &mut used)?;
    let mut body = conversation.finish();
    put!(&mut body, "}");
    Ok(ChatRequest {
        body,
        streams,
        size: Size::of(json),
        asked: RequestContext {
            model: model.into_owned(),
            used,
            ..RequestContext::default()
        },
    })
}

/// The answer to `count_tokens`. `ratio`: the model's bytes a thousand tokens.
///
/// # Errors
/// When the body is not a JSON object.
pub fn count_tokens(body: &[u8], ratio: u32) -> Result<Vec<u8>, Refusal> {
    let size = Size::of(object(body)?);
    let mut out = Vec::new();
    put!(&mut out, "{\"input_tokens\":", size.tokens(ratio), "}");
    Ok(out)
}

fn object(body: &[u8]) -> Result<Json<'_>, Refusal> {
    let json = Json::parse(body).filter(|json| json.is_object());
    json.ok_or_else(|| invalid("the body is not a JSON object"))
}

/// Writes the settings for the model's answer.
fn put_settings(out: &mut Vec<u8>, json: Json<'_>, model: &str) -> Result<(), Refusal> {
    let [thinking, config, format, most, stops] = json.pick([
        "thinking",
        "output_config",
        "output_format",
        "max_tokens",
        "stop_sequences",
    ]);
    let [effort, own_format] = config.map_or([None; 2], |config| config.pick(["effort", "format"]));
    let effort = effort.and_then(Json::raw);
    let thinking = thinking.and_then(|thinking| thinking.get("type")?.raw());
    let wanted = match thinking {
        None | Some("disabled") => Wanted::Off,
        _ => Wanted::effort(effort),
    };
    settings::put_settings(out, json, most, stops, model, wanted)
        .ok_or_else(|| invalid("max_tokens: a whole number above 0 is required"))?;
    let schema = own_format
        .or(format)
        .and_then(|format| format.get("schema"));
    if let Some(schema) = schema {
        put!(
            out,
            ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\",\"schema\":"
        );
        put!(out, schema, "}}");
    }
    Ok(())
}
