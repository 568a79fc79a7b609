//! The types that all dialects share: options of a translation, its result, what the answer's translation needs to
//! know, and how an answer ends. Pure.

use super::chat::Usage;
use super::ids::Used;
use super::measure::Size;

/// A translated request.
#[derive(Debug, Default)]
pub struct ChatRequest {
    /// Its body.
    pub body: Vec<u8>,
    /// The client wants a stream.
    pub streams: bool,
    /// Its size.
    pub size: Size,
    /// What it says for the translation of its answer: the model, the ids of its calls, its tools and limit.
    pub asked: RequestContext,
}

/// A tool that has another name or kind for the upstream than for the client. Names are still escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name for the upstream.
    pub chat_name: String,
    /// Its name for the client.
    pub name: String,
    /// Its kind for the client.
    pub kind: ToolKind,
}

/// See [`Tool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolKind {
    /// A function, in this namespace unless "".
    Function(String),
    /// It takes free text.
    Custom,
    /// It finds other tools.
    Search,
}

/// What the translation of an answer needs to know of the request.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// The model, by the client's name.
    pub model: String,
    /// A random number for the answer's ids.
    pub random: u64,
    /// The tool call ids of the conversation so far.
    pub used: Used,
    /// An estimate of the prompt's tokens.
    pub prompt_tokens: u64,
    /// The model's bytes a thousand tokens.
    pub ratio: u32,
    /// The model's template opens `<think>` itself.
    pub thinks_unopened: bool,
    /// Close no block of a stream before the message's end. For Claude Code: it repeats a request whose answer breaks,
    /// but not after a text or a thought was closed.
    pub keeps_open: bool,
    /// Tools that have another name or kind for the upstream than for the client.
    pub tools: Vec<Tool>,
    /// The client set a limit of output.
    pub limited: bool,
}

impl RequestContext {
    /// The tokens that were counted, or an estimate by the bytes `written`.
    pub fn usage(&self, counted: Option<Usage>, written: u64) -> Usage {
        counted.unwrap_or(Usage {
            prompt: self.prompt_tokens,
            completion: written.saturating_mul(1000) / u64::from(self.ratio.max(1)),
            ..Usage::default()
        })
    }
}

/// A translated answer that is not a stream.
#[derive(Debug)]
pub struct WholeAnswer {
    /// The body.
    pub body: Vec<u8>,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum StreamEnd {
    /// All of it came, and its end was written.
    Whole,
    /// It ended without content, and nothing was written.
    Empty,
    /// It is incomplete; and why, for the log. The connection must be cut: a clean end would look like the answer's
    /// end. Before the first word it may be asked for again.
    Broken(&'static str),
}

/// What is known of a request that the upstream refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The model, by the client's name.
    pub model: &'a str,
    /// An estimate of the prompt's tokens.
    pub prompt_tokens: u64,
    /// The model's context, if it was learned.
    pub context: Option<u64>,
}
