//! Schemas of tools in a form that all servers take. Pure.

use super::json::{Json, put};

/// Writes a tool's schema: without `$schema`, which some servers refuse, and with `properties`, which others demand.
pub fn put_schema(out: &mut Vec<u8>, schema: Option<Json<'_>>) {
    let Some(schema) = schema.filter(|schema| schema.is_object()) else {
        return put!(out, "{\"type\":\"object\",\"properties\":{}}");
    };
    let [marker, kind, properties] = schema.pick(["$schema", "type", "properties"]);
    let is_bare = kind.is_none()
        || (properties.is_none() && kind.is_some_and(|kind| kind.text() == "\"object\""));
    if marker.is_none() && !is_bare {
        return put!(out, schema);
    }
    put!(out, "{");
    let begin = out.len();
    for (name, value) in schema.fields().filter(|(name, _)| !name.is("$schema")) {
        put!(out, if out.len() == begin { "" } else { "," });
        put!(out, name, ":", value);
    }
    if kind.is_none() {
        put!(out, if out.len() == begin { "" } else { "," });
        put!(out, "\"type\":\"object\"");
    }
    if properties.is_none() && kind.is_none_or(|kind| kind.text() == "\"object\"") {
        put!(out, ",\"properties\":{}");
    }
    put!(out, "}");
}
