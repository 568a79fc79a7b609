//! Translates a Messages request to a chat completion, and counts its tokens. Pure.
//!
//! What chat completions lack is left out if only Anthropic's own servers use it (cache marks, metadata, betas). What
//! would change the meaning is refused, with its place.

use super::super::clients::Refusal;
use super::super::conversation::{self, Conversation};
use super::super::ids::Used;
use super::super::json::{Json, Str, put};
use super::super::measure::Size;
use super::super::reasoning::{Wanted, switch};
pub use super::super::terms::{ChatRequest, Options};
use super::blocks::{add_messages, system_texts};
use super::errors::invalid;
use super::tools::put_tools;

/// The least output, in tokens, for a model that may think first.
const LEAST_OUTPUT: u64 = 1024;

/// The most stop strings that chat upstreams take.
const MOST_STOPS: usize = 4;

/// Translates a Messages request.
///
/// # Errors
/// What cannot be translated, and why.
pub fn translate(body: &[u8], options: &Options<'_>) -> Result<ChatRequest, Refusal> {
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

    let mut out = conversation::open(options.model, streams, body.len());
    put_settings(&mut out, json, options)?;
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
        model: model.into_owned(),
        streams,
        used,
        size: Size::of(json),
        ..ChatRequest::default()
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

fn put_stops(out: &mut Vec<u8>, stops: Option<Json<'_>>) {
    let stops = stops.map(Json::items).into_iter().flatten();
    let stops = stops
        .filter_map(Json::string)
        .filter(|stop| !stop.is_empty());
    let mut before = ",\"stop\":[";
    for stop in stops.take(MOST_STOPS) {
        put!(out, before, stop);
        before = ",";
    }
    if before == "," {
        put!(out, "]");
    }
}

/// Writes the settings for the model's answer.
fn put_settings(out: &mut Vec<u8>, json: Json<'_>, options: &Options<'_>) -> Result<(), Refusal> {
    let [thinking, config, format, most, temperature, top_p, stops] = json.pick([
        "thinking",
        "output_config",
        "output_format",
        "max_tokens",
        "temperature",
        "top_p",
        "stop_sequences",
    ]);
    let [effort, own_format] = config.map_or([None; 2], |config| config.pick(["effort", "format"]));
    let effort = effort.and_then(Json::string).map(Str::raw);
    let thinking = thinking.and_then(|thinking| thinking.get("type")?.string());
    let wanted = match (thinking.map(Str::raw), effort) {
        (None | Some("disabled"), _) => Wanted::Off,
        (_, Some("low")) => Wanted::Effort("low"),
        (_, Some("medium")) => Wanted::Effort("medium"),
        (_, Some("high" | "xhigh" | "max")) => Wanted::Effort("high"),
        _ => Wanted::Usual,
    };
    let switch = switch(options.model, wanted, options.effort);
    if let Some(most) = most {
        let asked = most.number().filter(|most| *most > 0);
        let asked =
            asked.ok_or_else(|| invalid("max_tokens: a whole number above 0 is required"))?;
        let least = if switch.may_think { LEAST_OUTPUT } else { 0 };
        let most = asked.max(least).min(options.max_output.unwrap_or(u64::MAX));
        put!(out, ",\"max_tokens\":", most);
    }
    for (name, value) in [("temperature", temperature), ("top_p", top_p)] {
        if let Some(value) = value.filter(|value| value.is_number()) {
            put!(out, ",\"", name, "\":", value);
        }
    }
    put_stops(out, stops);
    put!(out, switch.fields);
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
