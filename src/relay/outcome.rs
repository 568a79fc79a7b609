//! What became of one request: status, key, attempts, waits, tokens. The log and the `x-alvus-*` fields are made from it.

use std::time::Duration;

use crate::headers;
use crate::reply;
use crate::sse::Tokens;

/// Names the model that answered, if the client asked for another one.
const SERVED_BY: &str = "x-alvus-model";

/// How an exchange ended.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// The client has its whole answer.
    #[default]
    Complete,
    /// The client left first.
    ClientLeft,
    /// The upstream broke the answer off; the client's connection must be cut.
    Cut,
    /// The client's own deadline passed; its connection must be cut.
    Late,
}

/// What became of an exchange: for the log, and for the client's connection.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The status of the answer; 0 if the client left before there was one.
    pub status: u16,
    /// The model by the upstream's name; empty if none.
    pub model: String,
    /// The model by the client's name, if that is another one.
    pub asked: Option<String>,
    /// The key that was used last, by its place in the configuration.
    pub key: Option<usize>,
    /// Attempts made.
    pub attempts: u32,
    /// Time spent waiting for a key.
    pub waited: Duration,
    /// From the request's arrival to the answer's first words; `None` if there was none.
    pub first_byte: Option<Duration>,
    /// Body bytes sent to the client.
    pub bytes: u64,
    /// The tokens that the answer took, if it says so.
    pub tokens: Tokens,
    /// A key was limited on the way.
    pub limited: bool,
    /// How it ended.
    pub end: End,
    /// The end of the connection is the end of the answer.
    pub closes: bool,
}

impl Outcome {
    pub(super) fn left(mut self) -> Outcome {
        self.end = End::ClientLeft;
        self
    }

    /// The fields that tell a curious client what alvus did.
    pub(super) fn fields(&self, head: &mut Vec<u8>) {
        if let Some(index) = self.key {
            reply::number(head, "x-alvus-key", index as u64);
        }
        reply::number(head, "x-alvus-attempts", self.attempts.into());
        let waited = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        reply::number(head, "x-alvus-waited-ms", waited);
        if self.asked.is_some() && headers::is_value(self.model.as_bytes()) {
            reply::field(head, SERVED_BY, self.model.as_bytes());
        }
    }
}
