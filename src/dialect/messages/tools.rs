//! Translates the tools of a Messages request. Pure.

use super::super::interface::Refusal;
use super::super::json::{Json, put};
use super::super::schema::put_schema;
use super::errors::invalid;

/// A tool of the client that only stands for tools it has not loaded yet.
const PLACEHOLDER: &str = "DeferredToolPlaceholder";

/// Writes `tools`, `tool_choice` and `parallel_tool_calls`, with a comma before each.
///
/// Tools that run on Anthropic's servers are left out. A request that has only such tools is refused: its client tells
/// the model so, and goes on.
///
/// # Errors
/// Which tool cannot be translated, and why.
pub fn put_tools(
    out: &mut Vec<u8>,
    tools: Option<Json<'_>>,
    choice: Option<Json<'_>>,
) -> Result<(), Refusal> {
    let mut count = 0;
    let mut on_server = None;
    for (at, tool) in Json::items_of(tools).enumerate() {
        let [kind, name, description, schema] =
            tool.pick(["type", "name", "description", "input_schema"]);
        let name = name.and_then(Json::string);
        if let Some(kind) = kind
            .and_then(Json::string)
            .filter(|kind| !kind.is("custom"))
        {
            on_server = on_server.or(name).or(Some(kind));
            continue;
        }
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(invalid(format!("tools.{at}.name: a string is required")));
        };
        if name.is(PLACEHOLDER) {
            continue;
        }
        put!(out, if count == 0 { ",\"tools\":[" } else { "," });
        put!(out, "{\"type\":\"function\",\"function\":{\"name\":", name);
        if let Some(description) = description.and_then(Json::string) {
            put!(out, ",\"description\":", description);
        }
        put!(out, ",\"parameters\":");
        put_schema(out, schema);
        put!(out, "}}");
        count += 1;
    }
    match on_server {
        Some(name) if count == 0 => {
            let name = name.plain();
            return Err(invalid(format!("{name} is not available on this upstream")));
        }
        _ if count == 0 => return Ok(()),
        _ => put!(out, "]"),
    }
    choice.map_or(Ok(()), |choice| put_choice(out, choice))
}

fn put_choice(out: &mut Vec<u8>, choice: Json<'_>) -> Result<(), Refusal> {
    let [kind, name, alone] = choice.pick(["type", "name", "disable_parallel_tool_use"]);
    match (kind.and_then(Json::raw), name.and_then(Json::string)) {
        (Some("auto"), _) => put!(out, ",\"tool_choice\":\"auto\""),
        (Some("any"), _) => put!(out, ",\"tool_choice\":\"required\""),
        (Some("none"), _) => put!(out, ",\"tool_choice\":\"none\""),
        (Some("tool"), Some(name)) => {
            put!(
                out,
                ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":",
                name,
                "}}"
            );
        }
        _ => {
            return Err(invalid(
                "tool_choice: its type is auto, any, none, or tool with a name",
            ));
        }
    }
    if alone.is_some_and(Json::is_true) {
        put!(out, ",\"parallel_tool_calls\":false");
    }
    Ok(())
}
