//! Translates a Responses request to a chat completion. Pure.
//!
//! What chat completions lack is left out if only OpenAI's own servers use it (stored copies, cache keys, metadata).
//! What would change the meaning is refused, with its name.

use super::super::conversation::{self, Conversation};
use super::super::ids::Used;
use super::super::interface::Refusal;
use super::super::json::{Json, put};
use super::super::measure::Size;
use super::super::reasoning::Wanted;
use super::super::settings;
use super::super::terms::{ChatRequest, RequestContext};
use super::errors::invalid;
use super::items::add_items;
use super::tools::put_tools;

/// Translates a Responses request. `upstream_model`: the model, by the upstream's name.
///
/// # Errors
/// What cannot be translated, and why.
pub fn translate(body: &[u8], upstream_model: &str) -> Result<ChatRequest, Refusal> {
    let json = Json::parse(body).filter(|json| json.is_object());
    let json = json.ok_or_else(|| invalid("", "the body is not a JSON object"))?;
    needs_no_store(json)?;
    let [model, input, instructions, stream, limit] = json.pick([
        "model",
        "input",
        "instructions",
        "stream",
        "max_output_tokens",
    ]);
    let model = model
        .and_then(Json::string)
        .filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| invalid("model", "a string is required"))?;
    let input = input.ok_or_else(|| invalid("input", "a string or a list of items is required"))?;
    let streams = stream.is_some_and(Json::is_true);

    let mut out = conversation::open(upstream_model, streams, body.len());
    put_settings(&mut out, json, limit, upstream_model)?;
    let tools = put_tools(&mut out, json)?;
    put!(&mut out, ",\"messages\":");
    let mut conversation = Conversation::new(out);
    if let Some(text) = instructions.and_then(Json::raw) {
        conversation.system(text.into());
    }
    let mut used = Used::default();
    add_items(input, &tools, &mut conversation, &mut used)?;
    let mut body = conversation.finish();
    put!(&mut body, "}");
    Ok(ChatRequest {
        body,
        streams,
        size: Size::of(json),
        asked: RequestContext {
            model: model.plain().into_owned(),
            used,
            tools,
            limited: limit.is_some(),
            ..RequestContext::default()
        },
    })
}

/// Refuses what needs a server with a memory.
fn needs_no_store(json: Json<'_>) -> Result<(), Refusal> {
    const NEEDS: [&str; 4] = [
        "previous_response_id",
        "conversation",
        "prompt",
        "background",
    ];
    for (name, value) in NEEDS.iter().zip(json.pick(NEEDS)) {
        if value.is_some_and(|value| !matches!(value.text(), "false" | "\"\"")) {
            let what = "nothing is stored here, so that this cannot be had on this upstream; send the whole conversation as input";
            return Err(Refusal {
                code: "unsupported_parameter".into(),
                ..invalid(*name, what)
            });
        }
    }
    Ok(())
}

/// Writes the settings for the model's answer.
fn put_settings(
    out: &mut Vec<u8>,
    json: Json<'_>,
    limit: Option<Json<'_>>,
    model: &str,
) -> Result<(), Refusal> {
    let [reasoning, text] = json.pick(["reasoning", "text"]);
    let effort = reasoning.and_then(|reasoning| reasoning.get("effort")?.raw());
    let wanted = match effort {
        Some("none" | "minimal") => Wanted::Off,
        effort => Wanted::effort(effort),
    };
    settings::put_settings(out, json, limit, None, model, wanted)
        .ok_or_else(|| invalid("max_output_tokens", "a whole number above 0 is required"))?;
    let format = text.and_then(|text| text.get("format"));
    let [kind, name, schema, strict] = format.map_or([None; 4], |format| {
        format.pick(["type", "name", "schema", "strict"])
    });
    match (kind.and_then(Json::raw), schema) {
        (Some("json_schema"), Some(schema)) => {
            let name = name.and_then(Json::raw).unwrap_or("answer");
            put!(
                out,
                ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"",
                name
            );
            put!(out, "\",\"schema\":", schema);
            if let Some(strict) = strict {
                put!(out, ",\"strict\":", strict);
            }
            put!(out, "}}");
        }
        (Some("json_object"), _) => put!(out, ",\"response_format\":{\"type\":\"json_object\"}"),
        _ => {}
    }
    Ok(())
}
