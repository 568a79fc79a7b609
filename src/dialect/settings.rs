//! Writes the settings of a chat completion that the dialects have in common. Pure.

use super::json::{Json, put};
use super::reasoning::{Wanted, switch};

/// The least output, in tokens, for a model that may think first.
const LEAST_OUTPUT: u64 = 1024;

/// The most stop strings that chat upstreams take.
const MOST_STOPS: usize = 4;

/// Writes the `limit` of output, the sampling, where to stop, and how much to think. `None`: the limit is not a whole
/// number above 0.
pub fn put_settings(
    out: &mut Vec<u8>,
    request: Json<'_>,
    limit: Option<Json<'_>>,
    stops: Option<Json<'_>>,
    model: &str,
    wanted: Wanted,
) -> Option<()> {
    let switch = switch(model, wanted);
    if let Some(limit) = limit {
        let asked = limit.number().filter(|limit| *limit > 0)?;
        let least = if switch.may_think { LEAST_OUTPUT } else { 0 };
        put!(out, ",\"max_tokens\":", asked.max(least));
    }
    const SAMPLING: [&str; 2] = ["temperature", "top_p"];
    for (name, value) in SAMPLING.iter().zip(request.pick(SAMPLING)) {
        if let Some(value) = value.filter(|value| value.is_number()) {
            put!(out, ",\"", *name, "\":", value);
        }
    }
    put_stops(out, stops);
    put!(out, switch.fields);
    Some(())
}

fn put_stops(out: &mut Vec<u8>, stops: Option<Json<'_>>) {
    let stops = Json::items_of(stops)
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
