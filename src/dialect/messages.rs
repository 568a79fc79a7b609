//! Anthropic's Messages dialect on an upstream that speaks chat completions.

pub mod answer;
pub mod blocks;
pub mod errors;
pub mod request;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tools;

use super::chat::{Finish, Usage};
use super::json::put;
pub use super::terms::RequestContext;

/// Why the model stopped, in Anthropic's words. Whether tools are to run depends on the calls, not on what the upstream
/// says.
fn stop_reason(finish: Finish, has_calls: bool) -> &'static str {
    match finish {
        Finish::Length => "max_tokens",
        Finish::Filter => "refusal",
        _ if has_calls => "tool_use",
        _ => "end_turn",
    }
}

/// Writes the tokens in Anthropic's shape. `written`: bytes of the answer, for an upstream that does not count.
fn put_usage(out: &mut Vec<u8>, usage: Option<Usage>, asked: &RequestContext, written: u64) {
    let usage = asked.usage(usage, written);
    // A client takes 0 for "not stated" and keeps its older number, the whole prompt.
    let fresh = usage.prompt.saturating_sub(usage.cached).max(1);
    put!(
        out,
        "{\"input_tokens\":",
        fresh,
        ",\"cache_creation_input_tokens\":0"
    );
    put!(out, ",\"cache_read_input_tokens\":", usage.cached);
    put!(out, ",\"output_tokens\":", usage.completion, "}");
}
