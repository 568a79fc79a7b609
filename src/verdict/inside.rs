//! Answers that call themselves a success: an error inside a 200, as a document or as an event of
//! a stream. It is one when something in it is filled in and no content stands beside it. Only the
//! error's own words count: an answer may speak of anything.

use std::time::Duration;

use serde_json::Value;

use super::kinds::Kinds;
use super::said::Said;
use super::{BODY_LIMIT, Verdict, bounded, by_status, limit};
use crate::dialect::json::Json;

/// Fields in which an answer says something, once they are not empty.
const SAYS: [&str; 25] = [
    "choices",
    "message",
    "delta",
    "output",
    "candidates",
    "parts",
    "part",
    "item",
    "content",
    "content_block",
    "response",
    "text",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "refusal",
    "arguments",
    "partial_json",
    "transcript",
    "output_text",
    "summary",
    "audio",
    "images",
    "outputs",
];

/// Fields whose mere contents are the answer.
const HOLDS: [&str; 12] = [
    "tool_calls",
    "function_call",
    "functionCall",
    "inlineData",
    "data",
    "embedding",
    "embeddings",
    "results",
    "predictions",
    "segments",
    "artifacts",
    "b64_json",
];

/// Events that only open a stream: Anthropic's, and those of the Responses API.
const OPENING: [&str; 8] = [
    "ping",
    "message_start",
    "content_block_start",
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
];

/// A code of one of these says that the request is to blame …
const REQUEST: &str = "\
    invalid*, bad request*, not found, content*, context length*, unsupported*, \
    moderation*, polic*, safety, validation*, unprocessable*, not supported, failed \
    precondition";
/// … and of these that the key was refused.
const REFUSAL: &str = "\
    auth*, unauthorized, unauthenticated, permission*, forbidden, access denied";

/// A document longer than this that has choices and no error need not be parsed to see that.
const SHORT: usize = 1024;

/// Judges an error inside a 200; [`Verdict::Pass`] when it is none, or the request's own fault.
pub fn judge_inside(json: &[u8]) -> Verdict {
    judge_event(json).unwrap_or(Verdict::Pass)
}

/// Judges a whole JSON document. `None`: it is the answer to a chat, and nothing is in it.
pub fn judge_document(json: &[u8]) -> Option<Verdict> {
    match judge_event(json) {
        None if !CHOICES.is_in(json) && !json.trim_ascii().is_empty() => Some(Verdict::Pass),
        verdict => verdict,
    }
}

/// Judges the data of a stream's event. `None`: it tells nothing yet, such as whose role is to speak.
pub fn judge_event(json: &[u8]) -> Option<Verdict> {
    if json.len() > SHORT && CHOICES.is_in(json) && !ERROR.is_in(json) {
        return Some(Verdict::Pass);
    }
    if json.len() > BODY_LIMIT
        && let Some(short) = response_in_short(json)
    {
        return judge_event(&short);
    }
    let json = json[..json.len().min(BODY_LIMIT)].trim_ascii();
    if json.is_empty() || json == b"[DONE]" {
        return None;
    }
    let whole = match serde_json::from_slice(json) {
        Ok(Value::Array(list)) => list.into_iter().next().unwrap_or_default(), // Gemini
        Ok(whole) => whole,
        Err(_) => return Some(Verdict::Pass),
    };
    // An event about a whole response repeats what was asked; only the output is said.
    let kind = whole["type"].as_str().unwrap_or_default();
    let says = match &whole["response"] {
        Value::Object(response) if kind.starts_with("response.") => {
            response.get("output").is_some_and(has_content)
        }
        _ => has_content(&whole),
    };
    if !whole.is_object() || says {
        return Some(Verdict::Pass);
    }
    if let Some(error) = error_in(&whole) {
        return Some(judge_error(&Said::of(error, None)));
    }
    let choices = whole["choices"].as_array();
    let choice = |choice: &'_ Value| choice["finish_reason"].as_str().map(str::to_owned);
    let mut ends = choices.into_iter().flatten().filter_map(choice);
    if let Some(end) = ends.find(|end| !end.is_empty()) {
        // What ends without a word has nothing to say, unless that is for an error.
        return Some(match end.as_str() {
            "error" => Verdict::Trouble(None),
            _ => Verdict::Pass,
        });
    }
    let opening = whole["type"]
        .as_str()
        .is_some_and(|kind| OPENING.contains(&kind));
    let empty = whole.as_object().is_some_and(serde_json::Map::is_empty);
    match choices.is_some() || opening || empty {
        true => None,
        false => Some(Verdict::Pass),
    }
}

/// Of an event about a whole response, which may repeat tools and instructions at any length, what it says
/// itself.
fn response_in_short(json: &[u8]) -> Option<Vec<u8>> {
    let [kind, response] = Json::parse(json)?.pick(["type", "response"]);
    let kind = kind?
        .string()
        .filter(|kind| kind.raw().starts_with("response."))?;
    let error = response?.get("error").map_or("null", Json::text);
    let output = response?.get("output").map_or("[]", Json::text);
    let kind = kind.raw();
    let short = format!(r#"{{"type":"{kind}","response":{{"error":{error},"output":{output}}}}}"#);
    (short.len() <= BODY_LIMIT).then(|| short.into_bytes())
}

/// Whether an answer says anything.
fn has_content(value: &Value) -> bool {
    let Value::Object(fields) = value else {
        return match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => list.iter().any(has_content),
            _ => false,
        };
    };
    // An item that is no message is a call of something.
    let calls = |kind: &Value| {
        kind.as_str()
            .is_some_and(|kind| kind.ends_with("_call") || kind.ends_with("_use"))
    };
    fields.iter().any(|(name, value)| match name.as_str() {
        "type" => calls(value),
        // Not the message of an error.
        "message" => value.is_object() && has_content(value),
        name if HOLDS.contains(&name) => match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => false,
        },
        name => SAYS.contains(&name) && has_content(value),
    })
}

/// The error that stands in an answer, wherever providers put one.
fn error_in(whole: &Value) -> Option<&Value> {
    let beside = || matches!(whole["error"], Value::String(_) | Value::Bool(_));
    let choice = &whole["choices"][0]["error"];
    for error in [
        &whole["error"],
        &whole["response"]["error"],
        &whole["errors"],
        choice,
    ] {
        if is_filled(error) {
            // A mere text: its code is beside it.
            return Some(if beside() { whole } else { error });
        }
    }
    let is = |field: &str, value: &str| whole[field].as_str() == Some(value);
    if is("type", "error") || is("object", "error") || is("type", "response.failed") {
        return Some(whole);
    }
    let code = &whole["base_resp"]["status_code"]; // MiniMax
    if is_filled(code) {
        return Some(&whole["base_resp"]);
    }
    // NVIDIA NIM's shapes, and whatever looks like an error's body: what it says must be known.
    let said = Said::of(whole, None);
    let kinds = Kinds::new(&said);
    // What has an identity is the answer, whatever it is about.
    let answers = ["id", "object", "choices"];
    let answers = answers.iter().any(|field| whole.get(field).is_some());
    let numbered = said.numbers.iter().any(is_status);
    let known = || kinds.overloaded() || kinds.names_key(true) || kinds.limit_code();
    (!answers && !said.texts.is_empty() && (numbered || known())).then_some(whole)
}

/// Some always have the field, and fill it only when there is an error.
fn is_filled(value: &Value) -> bool {
    const NONE: [&str; 6] = ["", "0", "ok", "success", "none", "null"];
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !NONE
            .iter()
            .any(|none| none.eq_ignore_ascii_case(text.trim())),
        Value::Array(list) => list.iter().any(is_filled),
        Value::Object(fields) => fields.values().any(is_filled),
    }
}

/// Other numbers are codes of a vendor.
fn is_status(number: &u64) -> bool {
    (400..600).contains(number)
}

fn judge_error(said: &Said) -> Verdict {
    let stated = || -> Option<Duration> { bounded(said.stated()) };
    let status = said.numbers.iter().find(|number| is_status(number));
    if let Some(status) = status.and_then(|status| u16::try_from(*status).ok()) {
        return by_status(status, said, false, stated);
    }
    let kinds = Kinds::new(said);
    if kinds.names_key(true) {
        Verdict::Refused { names_key: true }
    } else if kinds.overloaded() {
        Verdict::Overloaded(stated())
    } else if kinds.limit_at_the_head() || kinds.code_says("insufficient quota") {
        limit(&kinds, false, stated())
    } else if kinds.code_says(REFUSAL) || kinds.no_money(false) {
        Verdict::Refused { names_key: false }
    } else if kinds.code_says(REQUEST) {
        Verdict::Pass
    } else {
        Verdict::Trouble(stated())
    }
}

static CHOICES: Needle<9> = Needle::new(b"\"choices\"");
static ERROR: Needle<7> = Needle::new(b"\"error\"");

/// Bytes to look for in every answer (Boyer–Moore–Horspool): most bytes are never looked at.
struct Needle<const N: usize> {
    bytes: &'static [u8; N],
    /// By the byte that stands where the last one is looked for: how far on it may be found.
    skip: [u8; 256],
}

impl<const N: usize> Needle<N> {
    const fn new(bytes: &'static [u8; N]) -> Needle<N> {
        let mut skip = [N as u8; 256];
        let mut at = 0;
        while at + 1 < N {
            skip[bytes[at] as usize] = (N - 1 - at) as u8;
            at += 1;
        }
        Needle { bytes, skip }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        let mut at = 0;
        while let Some(here) = text.get(at..at + N) {
            if here == self.bytes {
                return true;
            }
            at += usize::from(self.skip[usize::from(here[N - 1])]);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_wherever_it_stands() {
        let text = br#"{"erro":"error","choice":1,"choices":[{"x":"er\"error"}]}"#;
        for from in 0..text.len() {
            for to in from..=text.len() {
                let text = &text[from..to];
                let (choices, error) = (br#""choices""#, br#""error""#);
                let naive = |word: &[u8]| text.windows(word.len()).any(|w| w == word);
                assert_eq!(CHOICES.is_in(text), naive(choices), "{from}..{to}");
                assert_eq!(ERROR.is_in(text), naive(error), "{from}..{to}");
            }
        }
    }
}
