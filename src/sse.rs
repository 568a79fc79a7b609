//! The ends of streams of server-sent events: in `ending.rs` the closing sign and the token count, in `tail.rs` the
//! token count of a whole answer; and which models send such a sign. `dialect::events` reads events. Pure.
//! Format: WHATWG HTML, "Server-sent events".

mod ending;
mod tail;

use std::sync::Mutex;

pub use self::ending::Ending;
pub use self::tail::Tail;
use crate::dialect::ids::hash;
use crate::lock::lock;

/// Tokens, as the provider counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// What the model read.
    pub input: u64,
    /// What it wrote, thoughts included.
    pub output: u64,
}

impl std::ops::AddAssign for Tokens {
    fn add_assign(&mut self, more: Tokens) {
        self.input += more.input;
        self.output += more.output;
    }
}

/// Whether a stream, or its beginning, has only comments and blank lines.
pub fn is_silent(stream: &[u8]) -> bool {
    let mut lines = stream.split(|b| matches!(b, b'\n' | b'\r'));
    lines.all(|line| line.is_empty() || line.starts_with(b":"))
}

/// The models whose streams were seen to end with a closing sign. A stream of theirs without one
/// was broken off. Only the latest few.
#[derive(Debug, Default)]
pub struct Marked(Mutex<Vec<u64>>);

/// How many models are remembered. A forgotten one is learned again from its next stream.
const MARKED: usize = 32;

impl Marked {
    /// A stream of this model ended with a closing sign.
    pub fn add(&self, model: &str) {
        let mut known = lock(&self.0);
        let model = hash(model);
        if !known.contains(&model) {
            if known.len() == MARKED {
                known.remove(0);
            }
            known.push(model);
        }
    }

    /// Whether a stream of this model did.
    pub fn has(&self, model: &str) -> bool {
        let known = lock(&self.0);
        known.contains(&hash(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_stream_has_nothing_but_comments() {
        for (stream, silent) in [
            ("", true),
            (": one\n\n\r\n: two", true),
            (": one\n\nno event at all", false),
            ("data: x", false),
        ] {
            assert_eq!(is_silent(stream.as_bytes()), silent, "{stream:?}");
        }
    }

    #[test]
    fn a_few_models_are_remembered() {
        let marked = Marked::default();
        for n in 0..100 {
            marked.add(&n.to_string());
            marked.add(&n.to_string());
        }
        assert!(marked.has("99") && marked.has("68") && !marked.has("67"));
        assert!(!marked.has("another"));
    }
}
