//! Errors in OpenAI's shape, and as the last event of a stream. Pure.

use super::super::interface::{Dialect, Refusal, USUAL_WAIT};
use super::super::json::{Quoted, put};
use super::super::lessons::Overflow;
use super::super::terms::Refused;

/// The code after which Codex compacts a conversation.
const TOO_LONG: &str = "context_length_exceeded";

/// A refusal with this status.
pub fn refusal(status: u16, code: &str, message: impl Into<String>) -> Refusal {
    Refusal {
        dialect: Dialect::Responses,
        status,
        code: code.to_string(),
        param: String::new(),
        message: message.into(),
        retry_after: matches!(status, 429 | 503).then_some(USUAL_WAIT),
    }
}

/// This field of the request is to blame; "": the request is.
pub fn invalid(param: impl Into<String>, what: &str) -> Refusal {
    let param = param.into();
    let message = match param.is_empty() {
        true => what.to_string(),
        false => format!("{param}: {what}"),
    };
    Refusal {
        param,
        ..refusal(400, "", message)
    }
}

/// A refusal's body.
pub fn body(refusal: &Refusal) -> Vec<u8> {
    let kind = match refusal.status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let mut out = b"{\"error\":{\"message\":".to_vec();
    put!(
        &mut out,
        Quoted(&refusal.message),
        ",\"type\":\"",
        kind,
        "\",\"param\":"
    );
    put_or_null(&mut out, &refusal.param);
    put!(&mut out, ",\"code\":");
    put_or_null(&mut out, &refusal.code);
    put!(&mut out, "}}");
    out
}

fn put_or_null(out: &mut Vec<u8>, text: &str) {
    match text {
        "" => put!(out, "null"),
        text => put!(out, Quoted(text)),
    }
}

/// The refusal of a prompt that is longer than the model's context.
pub fn too_long(overflow: Overflow, request: Refused<'_>, said: &str) -> Refusal {
    let limit = overflow.limit.or(request.context);
    let limit = limit.map_or(String::new(), |limit| {
        let prompt = overflow.prompt.unwrap_or(request.prompt_tokens);
        format!(" ({prompt} tokens, {limit} at most)")
    });
    let text = "Your input exceeds the context window of this model";
    Refusal {
        param: "input".into(),
        ..refusal(400, TOO_LONG, format!("{text}{limit}: {said}"))
    }
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
