//! Errors in Anthropic's shape: the upstream's, and our own. Pure.

use super::super::adapt::LEAST_ROOM;
use super::super::interface::{Dialect, Refusal, USUAL_WAIT};
use super::super::json::{Quoted, put};
use super::super::lessons::Overflow;
use super::super::terms::Refused;

/// The heartbeat of a client that waits for its stream.
pub const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// The status for "overloaded", after which clients retry by themselves.
pub const OVERLOADED: u16 = 529;

/// A refusal with this status and its type. A status that a wait cures, and that is not a limit, becomes "overloaded".
pub fn refusal(status: u16, message: impl Into<String>) -> Refusal {
    let (status, kind) = match status {
        401 => (401, "authentication_error"),
        402 => (402, "billing_error"),
        403 => (403, "permission_error"),
        404 => (404, "not_found_error"),
        413 => (413, "request_too_large"),
        429 => (429, "rate_limit_error"),
        408 | 409 | 425 | 503 | 504 | 520..=529 => (OVERLOADED, "overloaded_error"),
        500.. => (status, "api_error"),
        _ => (400, "invalid_request_error"),
    };
    let waits = matches!(status, 429 | OVERLOADED);
    Refusal {
        dialect: Dialect::Messages,
        status,
        code: kind.to_string(),
        param: String::new(),
        message: message.into(),
        retry_after: waits.then_some(USUAL_WAIT),
    }
}

/// The request is to blame.
pub fn invalid(message: impl Into<String>) -> Refusal {
    refusal(400, message)
}

/// A refusal's body, with the request's id if there is one.
pub fn body(refusal: &Refusal, request_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(refusal.message.len() + 100);
    put!(
        &mut out,
        "{\"type\":\"error\",\"error\":{\"type\":",
        Quoted(&refusal.code)
    );
    put!(&mut out, ",\"message\":", Quoted(&refusal.message), "}");
    if let Some(id) = request_id {
        put!(&mut out, ",\"request_id\":", Quoted(id));
    }
    put!(&mut out, "}");
    out
}

/// The sentence after which Claude Code compacts the conversation. It reads the numbers, so they are left out if the
/// limit is not known. A prompt that fits alone, but not with its answer, is counted with the least room for one.
pub fn too_long(overflow: Overflow, request: Refused<'_>, said: &str) -> Refusal {
    let Some(limit) = overflow.limit.or(request.context) else {
        return invalid(format!("prompt is too long: {said}"));
    };
    let prompt = overflow.prompt.unwrap_or(request.prompt_tokens);
    let prompt = match prompt > limit {
        true => prompt,
        false => (prompt + LEAST_ROOM).max(limit + 1),
    };
    invalid(format!(
        "prompt is too long: {prompt} tokens > {limit} maximum"
    ))
}

/// An error for a stream that had only [`PING`]s. Its type is always this one: after others Claude Code asks again for
/// an answer that is not a stream.
pub fn late_error(message: &str) -> Vec<u8> {
    let mut out = b"event: error\ndata: ".to_vec();
    out.extend_from_slice(&body(&refusal(OVERLOADED, message), None));
    out.extend_from_slice(b"\n\n");
    out
}
