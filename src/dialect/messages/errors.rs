//! Errors in Anthropic's shape: the upstream's, and our own. Pure.

use super::super::json::{Quoted, put};
use super::super::lessons::Overflow;
pub use super::super::lessons::message;
pub use super::super::terms::Refused;

/// The heartbeat of a client that waits for its stream.
pub const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// The status for "overloaded", after which clients retry by themselves.
pub const OVERLOADED: u16 = 529;

/// Seconds to wait before a retry, if the upstream names none.
const USUAL_WAIT: u64 = 5;

/// A request that failed, or could not be translated.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct ErrorBody {
    /// The status to answer with.
    pub status: u16,
    /// Anthropic's error type.
    pub kind: &'static str,
    /// What is wrong.
    pub message: String,
    /// Seconds to wait before a retry: the field `retry-after`.
    pub retry_after: Option<u64>,
}

impl ErrorBody {
    /// A failure with this status and its type. A status that a wait cures, and that is not a limit, becomes
    /// "overloaded".
    pub fn new(status: u16, message: impl Into<String>) -> ErrorBody {
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
        ErrorBody {
            status,
            kind,
            message: message.into(),
            retry_after: waits.then_some(USUAL_WAIT),
        }
    }

    /// The request is to blame.
    pub fn invalid(message: impl Into<String>) -> ErrorBody {
        ErrorBody::new(400, message)
    }

    /// The answer's body, with the request's id if there is one.
    pub fn body(&self, request_id: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len() + 100);
        put!(
            &mut out,
            "{\"type\":\"error\",\"error\":{\"type\":",
            Quoted(self.kind)
        );
        put!(&mut out, ",\"message\":", Quoted(&self.message), "}");
        if let Some(id) = request_id {
            put!(&mut out, ",\"request_id\":", Quoted(id));
        }
        put!(&mut out, "}");
        out
    }
}

/// Translates an upstream's error of any shape.
pub fn translate(
    status: u16,
    body: &[u8],
    retry_after: Option<u64>,
    request: Refused<'_>,
) -> ErrorBody {
    let said =
        message(body).unwrap_or_else(|| format!("the upstream answered with status {status}"));
    let mut failure = match Overflow::read(status, body) {
        Some(overflow) => ErrorBody::invalid(too_long(overflow, request, &said)),
        // NVIDIA NIM: the function exists, but its workers are down.
        None if status == 400 && said.contains("DEGRADED") => ErrorBody::new(503, said),
        None if status == 404 && said.contains("Not found for account") => ErrorBody::new(
            404,
            format!("the upstream has no model {:?}: {said}", request.model),
        ),
        None => ErrorBody::new(status, said),
    };
    if failure.retry_after.is_some() && retry_after.is_some() {
        failure.retry_after = retry_after;
    }
    failure
}

/// The sentence after which Claude Code compacts the conversation. It reads the numbers, so they are left out if the
/// limit is not known. A prompt that fits alone, but not with its answer, is counted with the least room for one.
fn too_long(overflow: Overflow, request: Refused<'_>, said: &str) -> String {
    let Some(limit) = overflow.limit.or(request.context) else {
        return format!("prompt is too long: {said}");
    };
    let prompt = overflow.prompt.unwrap_or(request.prompt_tokens);
    let prompt = match prompt > limit {
        true => prompt,
        false => (prompt + super::super::adapt::LEAST_ROOM).max(limit + 1),
    };
    format!("prompt is too long: {prompt} tokens > {limit} maximum")
}

/// An error for a stream that had only [`PING`]s. Its type is always this one: after others Claude Code asks again for
/// an answer that is not a stream.
pub fn late_error(message: &str) -> Vec<u8> {
    let mut out = b"event: error\ndata: ".to_vec();
    out.extend_from_slice(&ErrorBody::new(OVERLOADED, message).body(None));
    out.extend_from_slice(b"\n\n");
    out
}
