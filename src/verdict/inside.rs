//! Answers that call themselves a success: an error inside a 200, as a document or as an event of
//! a stream. It is one when something in it is filled in and no content stands beside it. Only the
//! error's own words count: an answer may speak of anything.

use std::time::Duration;

use serde_json::Value;

use super::kinds::Kinds;
use super::said::Said;
use super::{BODY_LIMIT, Verdict, bounded, by_status, limit};
use crate::dialect::scan::{Fields, Items, behind_blanks, next_value};

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

/// Content is looked for so deep inside; those known have it within eight.
const DEEPEST: u8 = 16;

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
    let one = match json.first() {
        Some(b'[') => Items::of(json).next().unwrap_or_default(), // Gemini
        _ => json,
    };
    if has_content(one) {
        return Some(Verdict::Pass);
    }
    if json.is_empty() || json == b"[DONE]" {
        return None;
    }
    let whole = match serde_json::from_slice(json) {
        Ok(Value::Array(list)) => list.into_iter().next().unwrap_or_default(),
        Ok(whole) => whole,
        Err(_) => return Some(Verdict::Pass),
    };
    if !whole.is_object() {
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

/// Whether an answer says anything, as far as a look can tell that parses nothing: of all that come, nearly all
/// need no other. What is no JSON may look as if it did.
pub fn has_content(json: &[u8]) -> bool {
    let json = json.trim_ascii();
    // An event about a whole response repeats what was asked; only the output is said.
    let mut text = match response_in(json) {
        Some((_, response)) => field(response, b"\"output\""),
        None => json,
    };
    says(&mut text, DEEPEST).unwrap_or(false)
}

/// The kind and the response of an event about a whole one.
fn response_in(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let kind = field(json, b"\"type\"");
    let response = field(json, b"\"response\"");
    let is = kind.starts_with(b"\"response.") && response.starts_with(b"{");
    is.then_some((kind, response))
}

/// What such an event says itself, at whatever length it repeats tools and instructions.
fn response_in_short(json: &[u8]) -> Option<Vec<u8>> {
    let (kind, response) = response_in(json.trim_ascii())?;
    let error = field(response, b"\"error\"");
    let output = field(response, b"\"output\"");
    let mut short = b"{\"type\":".to_vec();
    for piece in [
        kind,
        b",\"response\":{\"error\":",
        filled(error),
        b",\"output\":",
        filled(output),
        b"}}",
    ] {
        short.extend_from_slice(piece);
    }
    (short.len() <= BODY_LIMIT).then_some(short)
}

fn filled(value: &[u8]) -> &[u8] {
    if value.is_empty() { b"null" } else { value }
}

/// A field of an object; nothing, if there is none.
fn field<'a>(object: &'a [u8], name: &[u8]) -> &'a [u8] {
    let found = Fields::of(object).find(|(found, _)| *found == name);
    found.map_or(&[], |(_, value)| value)
}

/// Whether the value that a text begins with says anything; if not, the text is what follows the value. `None`:
/// it cannot be told.
fn says(text: &mut &[u8], deep: u8) -> Option<bool> {
    match text.first()? {
        b'"' => Some(next_value(text)?.len() > 2),
        b'[' if deep > 0 => {
            *text = &text[1..];
            while !ends(text)? {
                if says(text, deep - 1)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        b'{' if deep > 0 => {
            *text = &text[1..];
            while !ends(text)? {
                let name = next_value(text)?;
                if field_says(name.strip_prefix(b"\"")?, text, deep)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        _ => next_value(text).map(|_| false),
    }
}

/// The same of a field, whose name this is without its first quote, and its value.
fn field_says(name: &[u8], text: &mut &[u8], deep: u8) -> Option<bool> {
    *text = behind_blanks(text);
    let is_one = |names: &[&str]| {
        let name = &name[..name.len() - 1];
        names.iter().any(|known| known.as_bytes() == name)
    };
    Some(match name {
        // An item that is no message is a call of something.
        b"type\"" => {
            let kind = next_value(text)?;
            kind.ends_with(b"_call\"") || kind.ends_with(b"_use\"")
        }
        // Not the message of an error.
        b"message\"" if !text.starts_with(b"{") => next_value(text).map(|_| false)?,
        _ if is_one(&SAYS) => says(text, deep - 1)?,
        _ if is_one(&HOLDS) => match next_value(text)? {
            [b'"', inside @ .., _] => !inside.is_empty(),
            [b'[' | b'{', inside @ .., _] => !inside.trim_ascii().is_empty(),
            _ => false,
        },
        _ => next_value(text).map(|_| false)?,
    })
}

/// Whether a list or an object ends here; it is gone then, and so is what stands between two values.
fn ends(text: &mut &[u8]) -> Option<bool> {
    *text = behind_blanks(text);
    let ends = matches!(text.first()?, b']' | b'}');
    *text = &text[usize::from(ends)..];
    Some(ends)
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
