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
use super::ids::Used;
use super::json::put;

/// What is to be known of a request when its answer is translated.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The model that was asked for, by the client's name for it.
    pub model: String,
    /// A random number, another one for each answer: where its ids come from.
    pub random: u64,
    /// The ids of the tool calls so far.
    pub used: Used,
    /// The prompt's tokens, as far as they are known beforehand.
    pub prompt_tokens: u64,
    /// Bytes a thousand tokens of the model that answers.
    pub ratio: u32,
    /// The model's template opens `<think>` itself.
    pub thinks_unopened: bool,
    /// No block of a stream is closed before the message's end. For Claude Code: it repeats a request whose
    /// answer breaks, but not once a text or a thought was closed.
    pub keeps_open: bool,
}

/// Why the model stopped, in Anthropic's words. What was called is to be run, whatever the upstream says;
/// and nothing is where nothing was called.
fn stop_reason(finish: Finish, has_calls: bool) -> &'static str {
    match finish {
        Finish::Length => "max_tokens",
        Finish::Filter => "refusal",
        _ if has_calls => "tool_use",
        _ => "end_turn",
    }
}

/// The tokens in Anthropic's shape. `written`: bytes of the answer, for an upstream that did not count.
fn put_usage(out: &mut Vec<u8>, usage: Option<Usage>, asked: &Asked, written: u64) {
    let estimate = Usage {
        prompt: asked.prompt_tokens,
        completion: written.saturating_mul(1000) / u64::from(asked.ratio.max(1)),
        ..Usage::default()
    };
    let usage = usage.unwrap_or(estimate);
    // A client takes 0 for "not told" and keeps what it had, which was the whole prompt.
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
