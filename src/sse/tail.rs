//! Reads the token count at the end of a whole answer that passes by. Pure.

use std::io::{self, Read};

use alvus_scan::{behind_blanks, next_value};
use memchr::memrchr_iter;

use super::Tokens;
use super::ending::{self, USAGE, WORD};

/// How much of an answer's end is read: the longest `usage` and what follows it, with a client's `metadata` in the
/// Responses API.
const TAIL: usize = 2048;

/// A whole answer that passes by, with its last bytes.
#[derive(Debug)]
pub struct Tail<R> {
    answer: R,
    end: Vec<u8>,
}

impl<R> Tail<R> {
    /// Before its first byte.
    pub fn new(answer: R) -> Tail<R> {
        let end = Vec::new();
        Tail { answer, end }
    }

    /// The tokens that it states.
    pub fn tokens(&self) -> Tokens {
        tokens_at_end(&self.end).unwrap_or_default()
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.answer.read(buffer)?;
        let last = &buffer[n.saturating_sub(TAIL)..n];
        let over = (self.end.len() + last.len()).saturating_sub(TAIL);
        self.end.drain(..over);
        self.end.extend_from_slice(last);
        Ok(n)
    }
}

/// The tokens of a document, by its last bytes: from the `usage` on top. A text that quotes such words has escapes before
/// its quotes.
fn tokens_at_end(end: &[u8]) -> Option<Tokens> {
    // This letter is rarer there than quotes.
    memrchr_iter(b'u', end).find_map(|at| {
        let from = end.get(at.checked_sub(1)?..)?;
        tokens_of(from.strip_prefix(b"\"usage\"")?)
    })
}

/// The tokens of the object that comes next, if it is a field on top: nothing but fields follows, and the document's end.
fn tokens_of(text: &[u8]) -> Option<Tokens> {
    let mut rest = behind_blanks(text).strip_prefix(b"{")?;
    let mut counted = [0; USAGE.len()];
    while let Some(name) = next_value(&mut rest) {
        let name = name.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let name = name.get(..WORD).unwrap_or(name);
        let value = next_value(&mut rest)?;
        if let Some(at) = USAGE.iter().position(|known| *known == name) {
            counted[at] = number(value).unwrap_or(0).max(counted[at]);
        }
    }
    rest = behind_blanks(rest).strip_prefix(b"}")?;
    while next_value(&mut rest).is_some() {}
    let is_on_top = behind_blanks(rest).trim_ascii_end() == b"}";
    is_on_top.then(|| ending::tokens(counted))
}

/// A whole number, `u32::MAX` at most.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_says_its_tokens_on_top_at_its_end() {
        let long = format!(
            "{{\"choices\":[{{\"text\":\"{}\"}}],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":5}}}}\n",
            "x".repeat(100_000)
        );
        for (json, expected) in [
            (long.as_str(), Some((7, 5))),
            (
                "{\n  \"usage\": {\n    \"input_tokens\": 7,\n\t\"output_tokens\": 5\n  },\r\n  \"user\": null\n}\n",
                Some((7, 5)),
            ),
            (
                r#"{"usage":{"prompt_tokens":7,"completion_tokens":5},"choices":[{"note":{"usage":{"prompt_tokens":99}}}]}"#,
                Some((7, 5)),
            ),
            (
                r#"{"usage":{"prompt_tokens":7,"completion_tokens":5},"x_groq":{"usage":{"prompt_tokens":7}}}"#,
                Some((7, 5)),
            ),
            (r#"{"a":{"b":{"usage":{"prompt_tokens":99}}}}"#, None),
            (
                r#"{"a":"usage","b":"\"usage\":{\"prompt_tokens\":9}"}"#,
                None,
            ),
            (
                r#"{"a":"b","usage":{"input_tokens":4,"cache_read_input_tokens":2,"cache_creation_input_tokens":1,"output_tokens":5},"c":"usage"} "#,
                Some((7, 5)),
            ),
            (
                r#"{"usage":{"prompt_tokens":9999999999,"completion_tokens":5,"a":{"completion_tokens":6}}}"#,
                Some((u32::MAX.into(), 5)),
            ),
            (
                r#"{"usage":{"prompt_tokens":7.5,"completion_tokens":-5,"input_tokens":"7","output_tokens":null}}"#,
                None,
            ),
            (r#"{"usage":null}"#, None),
            (r#"[{"usage":{"prompt_tokens":7}}]"#, None),
            (r#"{"a":["usage",{"prompt_tokens":7}]}"#, None),
            (r#"{"usage":{7,8}}"#, None),
            (r#"{"usage":{"prompt_tokens":7"#, None),
            ("", None),
        ] {
            for size in [1, 5000, 200_000] {
                let mut tail = Tail::new(json.as_bytes());
                let mut buffer = vec![0; size];
                while tail.read(&mut buffer).expect("bytes") > 0 {}
                assert!(tail.end.len() <= TAIL);
                let tokens = tail.tokens();
                let found = (tokens != Tokens::default()).then_some((tokens.input, tokens.output));
                assert_eq!(found, expected, "{json:.200}");
            }
        }
    }
}
