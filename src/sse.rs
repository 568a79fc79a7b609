//! Server-sent events, as far as alvus reads them: the data of a stream's first events; and in `ending.rs` the closing
//! sign and the token count at the end of a stream, and of a whole answer. Pure. Format: WHATWG HTML, "Server-sent
//! events".

mod ending;

use std::sync::Mutex;

pub use self::ending::{Ending, Tail};
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

/// The data of the next complete event that has data, and where the event ends. Comment lines (`:
/// …`, heartbeats of providers) and events without data are skipped.
pub fn next_data(stream: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data: Vec<u8> = Vec::new();
    let mut from = match stream.starts_with(b"\xef\xbb\xbf") {
        true => 3,
        false => 0,
    };
    while let Some(length) = stream[from..]
        .iter()
        .position(|b| matches!(b, b'\n' | b'\r'))
    {
        let line = &stream[from..from + length];
        from += length;
        // A CR at the very end may be half of a CR LF. It ends the line all the same.
        from += 1 + usize::from(stream[from..].starts_with(b"\r\n"));
        if line.is_empty() && !data.is_empty() {
            data.pop(); // the last line's own end
            return Some((data, from));
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if !(value.is_empty() && data.is_empty()) {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
        }
    }
    None
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
    fn the_next_events_data_is_found_as_the_table_says() {
        for (stream, expected) in [
            ("", None),
            ("data: {}", None),
            ("data: {}\n", None),
            ("data: {}\n\n", Some("{}")),
            ("data:{}\n\ndata: more\n\n", Some("{}")),
            ("\u{feff}data: {}\r\n\r\n", Some("{}")),
            ("data: {}\r\r", Some("{}")),
            (": OPENROUTER PROCESSING\n\n", None),
            (": thinking\n\n: still\n\ndata: x\n\n", Some("x")),
            ("\n\n\n", None),
            ("data:\n\ndata: x\n\n", Some("x")),
            (
                "event: error\ndata: {\"a\":\ndata: 1}\nid: 7\n\n",
                Some("{\"a\":\n1}"),
            ),
            ("data\n\n", None),
            ("retry: 5\n\n", None),
            ("data: [DONE]\n\n", Some("[DONE]")),
        ] {
            let found = next_data(stream.as_bytes()).map(|(data, _)| data);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{stream:?}");
        }
    }

    #[test]
    fn events_follow_each_other() {
        let stream = b"data: 1\n\n: x\n\ndata: 2\r\n\r\ndata: 3\n";
        let (first, end) = next_data(stream).expect("one");
        let (second, rest) = next_data(&stream[end..]).expect("two");
        assert_eq!(
            (first.as_slice(), second.as_slice()),
            (&b"1"[..], &b"2"[..])
        );
        assert_eq!(&stream[end + rest..], b"data: 3\n");
    }

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
