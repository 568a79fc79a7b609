//! Errors in OpenAI's shape, and as the last event of a stream. Pure.

use super::super::json::{Json, Quoted, put};
use super::super::lessons::{Overflow, message};
use super::super::terms::Refused;

/// Seconds to wait before a retry, if nobody names any: after a 429 without them Codex gives up.
pub const USUAL_WAIT: u64 = 5;

/// The code after which Codex compacts a conversation.
const TOO_LONG: &str = "context_length_exceeded";

/// A request that failed, or could not be translated.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct ErrorBody {
    /// The status to answer with.
    pub status: u16,
    /// OpenAI's code; "" for none.
    pub code: String,
    /// The field that is to blame; "" for none.
    pub param: String,
    /// What is wrong.
    pub message: String,
    /// Seconds to wait before a retry: the field `retry-after`.
    pub retry_after: Option<u64>,
}

impl ErrorBody {
    /// A failure with this status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> ErrorBody {
        ErrorBody {
            status,
            code: code.to_string(),
            param: String::new(),
            message: message.into(),
            retry_after: matches!(status, 429 | 503).then_some(USUAL_WAIT),
        }
    }

    /// This field of the request is to blame.
    pub fn invalid(param: impl Into<String>, what: &str) -> ErrorBody {
        let param = param.into();
        let message = match param.is_empty() {
            true => what.to_string(),
            false => format!("{param}: {what}"),
        };
        ErrorBody {
            param,
            ..ErrorBody::new(400, "", message)
        }
    }

    /// The answer's body.
    pub fn body(&self) -> Vec<u8> {
        let kind = match self.status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let mut out = b"{\"error\":{\"message\":".to_vec();
        put!(
            &mut out,
            Quoted(&self.message),
            ",\"type\":\"",
            kind,
            "\",\"param\":"
        );
        put_or_null(&mut out, &self.param);
        put!(&mut out, ",\"code\":");
        put_or_null(&mut out, &self.code);
        put!(&mut out, "}}");
        out
    }
}

fn put_or_null(out: &mut Vec<u8>, text: &str) {
    match text {
        "" => put!(out, "null"),
        text => put!(out, Quoted(text)),
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
        Some(overflow) => {
            let limit = overflow.limit.or(request.context);
            let limit = limit.map_or(String::new(), |limit| {
                let prompt = overflow.prompt.unwrap_or(request.prompt_tokens);
                format!(" ({prompt} tokens, {limit} at most)")
            });
            let text = "Your input exceeds the context window of this model";
            ErrorBody {
                param: "input".into(),
                ..ErrorBody::new(400, TOO_LONG, format!("{text}{limit}: {said}"))
            }
        }
        // NVIDIA NIM: the function exists, but its workers are down.
        None if status == 400 && said.contains("DEGRADED") => ErrorBody::new(503, "", said),
        None if status == 404 && said.contains("Not found for account") => {
            let text = format!("the upstream has no model {:?}: {said}", request.model);
            ErrorBody::new(404, "model_not_found", text)
        }
        None => {
            let error = Json::parse(body).and_then(|body| body.get("error"));
            let code = error.and_then(|error| error.get("code")?.string());
            let code = code.map(|code| code.plain());
            ErrorBody::new(status, code.as_deref().unwrap_or_default(), said)
        }
    };
    if failure.retry_after.is_some() && retry_after.is_some() {
        failure.retry_after = retry_after;
    }
    failure
}

/// The code of a failure inside a stream. Codex ends its work at a spent quota, and at codes that it does not know as
/// passing; so those are replaced.
pub fn code_in_stream(status: u16, code: &str) -> &str {
    match (status, code) {
        (_, TOO_LONG) => TOO_LONG,
        (400..=428 | 430..=499, "") => "invalid_prompt",
        (400..=428 | 430..=499, code) => code,
        (429 | 503, _) => "rate_limit_exceeded",
        _ => "server_error",
    }
}
