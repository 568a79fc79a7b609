//! Judges an error inside a 200, in a document or in an event of a stream. A 200 is an error if its error field
//! is filled and it has no content beside it. Only the error's own words count: an answer's text may speak of anything.

use std::time::Duration;

use alvus_scan::Fields;
use serde_json::Value;

use super::content::has_content;
use super::error_text::{Said, plain};
use super::kinds::{Kinds, LIMIT};
use super::{BODY_LIMIT, Verdict, bounded, by_status, limit};

/// Events that only open a stream: Anthropic's, and those of the Responses API.
const OPENING: &str = "\
    ping message_start content_block_start response.created response.queued response.in_progress \
    response.output_item.added response.content_part.added";

/// Fields that are an error's, as [`plain`] writes their names.
const ERROR: &str = " error errors errorcode errcode errno errormsg errmsg errormessage ";

/// Codes that blame the request …
const REQUEST: &str = "\
    invalid*, bad request*, not found, content*, context length*, unsupported*, \
    moderation*, polic*, safety, validation*, unprocessable*, not supported, failed \
    precondition";
/// … and a message that begins so.
const ASKED: &str = "\
    invalid param*, invalid argument*, invalid request, invalid input, invalid message*, \
    invalid model, sensitive";
/// Codes that say that the key was refused …
const REFUSAL: &str = "\
    auth*, unauthorized, unauthenticated, permission*, forbidden, access denied";
/// … and a message that begins so.
const REFUSED: &str = "unauthorized, forbidden, access denied, permission denied, log in, login";

/// Judges an error inside a 200; [`Verdict::Pass`] if there is none, or it is the request's own fault.
pub fn judge_inside(json: &[u8]) -> Verdict {
    judge_event(json).unwrap_or(Verdict::Pass)
}

/// Judges a whole JSON document. `None`: it is a chat answer without content.
pub fn judge_document(json: &[u8]) -> Option<Verdict> {
    let of_a_chat = || json.windows(9).any(|at| at == b"\"choices\"");
    match judge_event(json) {
        None if !json.trim_ascii().is_empty() && !of_a_chat() => Some(Verdict::Pass),
        verdict => verdict,
    }
}

/// Judges the data of a stream's event. `None`: it has no content yet, such as the role alone.
pub fn judge_event(json: &[u8]) -> Option<Verdict> {
    if has_content(json) {
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
    if !whole.is_object() {
        return Some(Verdict::Pass);
    }
    if let Some(error) = error_in(&whole) {
        return Some(judge_error(&Said::of(error, None)));
    }
    let choices = whole["choices"].as_array();
    let ends = choices.into_iter().flatten();
    let mut ends = ends.filter_map(|choice| choice["finish_reason"].as_str());
    let kind = whole["type"].as_str();
    let opening = || OPENING.split(' ').any(|opening| kind == Some(opening));
    match ends.find(|end| !end.is_empty()) {
        // Without content only an error ending means something.
        Some("error") => Some(Verdict::Trouble(None)),
        None if choices.is_some() || opening() || json == b"{}" => None,
        _ => Some(Verdict::Pass),
    }
}

/// The type and error of an event about a whole response, without the tools and instructions that
/// it repeats at length.
fn response_in_short(json: &[u8]) -> Option<Vec<u8>> {
    let kind = field(json.trim_ascii(), b"\"type\"");
    let response = field(json.trim_ascii(), b"\"response\"");
    if !kind.starts_with(b"\"response.") || !response.starts_with(b"{") {
        return None;
    }
    let mut short = [b"{\"type\":", kind, b",\"response\":{\"error\":"].concat();
    match field(response, b"\"error\"") {
        [] => short.extend_from_slice(b"null"),
        error => short.extend_from_slice(error),
    }
    short.extend_from_slice(b"}}");
    (short.len() <= BODY_LIMIT).then_some(short)
}

/// A field of an object; empty if there is none.
fn field<'a>(object: &'a [u8], name: &[u8]) -> &'a [u8] {
    let found = Fields::of(object).find(|(found, _)| *found == name);
    found.map_or(&[], |(_, value)| value)
}

/// The error in an answer, wherever providers put it.
fn error_in(whole: &Value) -> Option<&Value> {
    let named = whole.as_object().into_iter().flatten();
    let named = named.filter(|(name, _)| ERROR.contains(&format!(" {} ", plain(name))));
    let deeper = [&whole["response"]["error"], &whole["choices"][0]["error"]];
    let mut errors = named.map(|(_, error)| error).chain(deeper);
    if let Some(error) = errors.find(|error| is_filled(error)) {
        // If it is only a text or a number, the rest is beside it.
        let parted = error.is_object() || error.is_array();
        return Some(if parted { error } else { whole });
    }
    let is = |field: &str, value: &str| whole[field].as_str() == Some(value);
    if is("type", "error") || is("object", "error") || is("type", "response.failed") {
        return Some(whole);
    }
    let code = &whole["base_resp"]["status_code"]; // MiniMax
    if is_filled(code) {
        return Some(&whole["base_resp"]);
    }
    // NVIDIA NIM's shapes, and others that look like an error: only if their words are known.
    let said = Said::of(whole, None);
    let kinds = Kinds::new(&said);
    // A document with one of these is an answer, whatever it is about.
    let answers = ["id", "object", "choices"];
    let answers = answers.iter().any(|field| whole.get(field).is_some());
    let numbered = said.numbers.iter().any(is_status);
    let known = || kinds.overloaded() || kinds.names_key(true) || kinds.limit_code();
    (!answers && !said.texts.is_empty() && (numbered || known())).then_some(whole)
}

/// Some upstreams always send the field, empty if there is no error.
fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            !["", "0", "ok", "success", "none", "null"].contains(&text.as_str())
        }
        Value::Array(list) => list.iter().any(is_filled),
        Value::Object(fields) => fields.values().any(is_filled),
    }
}

/// Other numbers are a vendor's own codes.
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
    } else if kinds.limit_at_the_head() || kinds.begins_with(LIMIT) {
        limit(&kinds, false, stated())
    } else if kinds.code_says(REFUSAL) || kinds.begins_with(REFUSED) || kinds.no_money(false) {
        Verdict::Refused { names_key: false }
    } else if kinds.code_says(REQUEST) || kinds.begins_with(ASKED) {
        Verdict::Pass
    } else {
        Verdict::Trouble(stated())
    }
}
