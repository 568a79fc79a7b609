//! What all dialects of clients call alike: how a request is to be translated, what becomes of it, what is
//! to be known when its answer comes, how that ends. Pure.

use super::chat::{Finish, Usage};
use super::ids::Used;
use super::measure::Size;

/// How to translate a request.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The model by the upstream's name for it.
    pub model: &'a str,
    /// The most output to ask for, in tokens, if the operator sets one.
    pub max_output: Option<u64>,
    /// `reasoning_effort` may be sent to any model.
    pub effort: bool,
}

/// A translated request.
#[derive(Debug, Default)]
pub struct ChatRequest {
    /// Its body.
    pub body: Vec<u8>,
    /// The model that was asked for, by the client's name for it.
    pub model: String,
    /// The client wants a stream.
    pub streams: bool,
    /// The ids of the tool calls in it.
    pub used: Used,
    /// How large it is.
    pub size: Size,
    /// Tools that the upstream knows otherwise than the client.
    pub tools: Vec<Tool>,
    /// The client set a limit of output.
    pub limited: bool,
}

/// A tool that the upstream knows otherwise than the client. Names are as they were escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// What the upstream calls it.
    pub chat_name: String,
    /// What the client calls it.
    pub name: String,
    /// What it is to the client.
    pub kind: ToolKind,
}

/// See [`Tool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolKind {
    /// A function, in this namespace if not "".
    Function(String),
    /// It takes any text.
    Custom,
    /// It finds other tools.
    Search,
}

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
    /// See [`ChatRequest::tools`].
    pub tools: Vec<Tool>,
    /// The client set a limit of output.
    pub limited: bool,
}

impl Asked {
    /// The tokens: those that were counted, or an estimate by what was `written`, in bytes.
    pub fn usage(&self, counted: Option<Usage>, written: u64) -> Usage {
        counted.unwrap_or(Usage {
            prompt: self.prompt_tokens,
            completion: written.saturating_mul(1000) / u64::from(self.ratio.max(1)),
            ..Usage::default()
        })
    }
}

/// A translated answer that is no stream.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// What the upstream counted.
    pub usage: Option<Usage>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fault {
    /// It says nothing, and ended so: may be asked for again, else an empty one is told.
    Empty(Finish),
    /// It is no answer, or no whole one, and why, for the log.
    Broken(&'static str),
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// All of it came, and its end was told.
    Whole,
    /// It has an end and nothing else, and nothing was told.
    Empty,
    /// It is not whole, and why, for the log. The connection is to be cut: a clean end would be taken
    /// for the end of the answer. Before the first word it may be asked for again.
    Broken(&'static str),
}

/// What is known of the request that an upstream refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The model by the client's name for it.
    pub model: &'a str,
    /// The prompt's tokens, as far as they are known.
    pub prompt_tokens: u64,
    /// The model's context, if it was learned.
    pub context: Option<u64>,
}
