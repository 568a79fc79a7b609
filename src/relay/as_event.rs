//! Turns a JSON answer into the only event of a stream, for a client whose stream has begun.
//!
//! The document is changed as it passes, whatever its length: `message` becomes `delta`, each tool
//! call gets its `index`, and line breaks go, as an event's data is one line.

use std::io::{self, ErrorKind, Read};

/// How deep a member of `choices`, its message and a tool call in it stand.
const CHOICE: usize = 3;
const CALL: usize = 6;

/// Longer names and strings are none of those that are looked for.
const WORD: usize = 16;

/// A reader that yields the event.
#[derive(Debug)]
pub(super) struct AsEvent<R> {
    pub(super) json: R,
    rewriter: Rewriter,
    /// What follows the event.
    end: &'static [u8],
    ready: Vec<u8>,
    given: usize,
    over: bool,
}

impl<R: Read> AsEvent<R> {
    /// `json` as an event, followed by `end`.
    pub(super) fn new(json: R, end: &'static [u8]) -> AsEvent<R> {
        AsEvent {
            json,
            rewriter: Rewriter::default(),
            end,
            ready: b"data: ".to_vec(),
            given: 0,
            over: false,
        }
    }
}

impl<R: Read> Read for AsEvent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() && !self.over {
            (self.given, self.ready) = (0, std::mem::take(&mut self.ready));
            self.ready.clear();
            let mut piece = [0; 1024];
            let n = self.json.read(&mut piece)?;
            for byte in &piece[..n] {
                self.rewriter.push(*byte, &mut self.ready);
            }
            if n == 0 {
                if self.rewriter.depth > 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                self.over = true;
                self.ready.extend_from_slice(b"\n\n");
                self.ready.extend_from_slice(self.end);
            }
        }
        let n = (&self.ready[self.given..]).read(buffer)?;
        self.given += n;
        Ok(n)
    }
}

/// Follows a JSON document byte by byte, down to the depth of what is changed.
#[derive(Debug, Default)]
struct Rewriter {
    depth: usize,
    /// By depth: the value there is on the path to what is changed.
    leads: [bool; CALL + 1],
    string: bool,
    escaped: bool,
    /// The string so far, held back while it may be one that is looked for.
    held: Option<Vec<u8>>,
    /// The last name, once its colon has come.
    name: Vec<u8>,
    value: bool,
    /// How many tool calls have come so far.
    calls: usize,
    call_begins: bool,
}

impl Rewriter {
    fn push(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.string {
            return self.in_string(byte, out);
        }
        match byte {
            b'\n' | b'\r' | b'\t' | b' ' => return,
            b'"' => {
                self.numbered(out);
                (self.string, self.held) = (true, Some(Vec::new()));
                return;
            }
            b'{' | b'[' => {
                self.numbered(out);
                self.open(byte);
            }
            b'}' | b']' => {
                self.call_begins = false;
                self.depth = self.depth.saturating_sub(1);
                self.value = false;
            }
            b':' => self.value = true,
            b',' => self.value = false,
            _ => {}
        }
        out.push(byte);
    }

    /// Gives a tool call its `index`.
    fn numbered(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.call_begins) {
            out.extend_from_slice(format!("\"index\":{},", self.calls).as_bytes());
            self.calls += 1;
        }
    }

    fn open(&mut self, byte: u8) {
        self.depth += 1;
        let Some(on_the_way) = self.depth.checked_sub(1).and_then(|up| self.leads.get(up)) else {
            return;
        };
        // choices: [ { message: { tool_calls: [ {
        let name = match self.depth {
            1 => None,
            2 => Some(&b"choices"[..]),
            4 => Some(&b"message"[..]),
            5 => Some(&b"tool_calls"[..]),
            _ => None,
        };
        let named = name.is_none_or(|name| self.value && self.name == name);
        let leads = named && (self.depth == 1 || *on_the_way);
        if self.depth == CHOICE + 2 && leads {
            self.calls = 0;
        }
        self.call_begins = self.depth == CALL && leads && byte == b'{';
        if let Some(here) = self.leads.get_mut(self.depth) {
            *here = leads;
        }
        self.value = false;
    }

    fn in_string(&mut self, byte: u8, out: &mut Vec<u8>) {
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        if !ends {
            match &mut self.held {
                Some(held) if held.len() < WORD => held.push(byte),
                Some(held) => {
                    out.push(b'"');
                    out.append(held);
                    out.push(byte);
                    self.held = None;
                }
                None => out.push(byte),
            }
            return;
        }
        self.string = false;
        if let Some(held) = self.held.take() {
            out.push(b'"');
            out.extend_from_slice(self.word(&held));
            if !self.value {
                self.name = held;
            }
        }
        out.push(b'"');
    }

    /// The name or string that a stream has in place of this one.
    fn word<'a>(&self, word: &'a [u8]) -> &'a [u8] {
        let choice = self.depth == CHOICE && self.leads[CHOICE];
        match word {
            b"message" if choice && !self.value => b"delta",
            b"chat.completion" if self.depth == 1 && self.value => b"chat.completion.chunk",
            word => word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str, piece: usize) -> io::Result<String> {
        let mut event = AsEvent::new(json.as_bytes(), b"data: [DONE]\n\n");
        let mut all = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            match event.read(&mut buffer)? {
                0 => return Ok(String::from_utf8(all).expect("text")),
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn a_completion_becomes_a_chunk_and_all_else_stays() {
        for (json, expected) in [
            (
                r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"a \"message\": {\n}"},"finish_reason":"stop"}]}"#,
                r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"a \"message\": {\n}"},"finish_reason":"stop"}]}"#,
            ),
            (
                "{\n \"choices\" : [\r\n\t{ \"message\" : { \"content\" : \"two  words\" } } ]\n}\n",
                r#"{"choices":[{"delta":{"content":"two  words"}}]}"#,
            ),
            (
                r#"{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"b"},{}]}},{"message":{"tool_calls":[{"id":"c"}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"b"},{}]}},{"delta":{"tool_calls":[{"index":0,"id":"c"}]}}]}"#,
            ),
            (
                r#"{"error":{"message":"m","tool_calls":[{"a":[{"message":1}]}]},"message":{"message":"chat.completion"}}"#,
                r#"{"error":{"message":"m","tool_calls":[{"a":[{"message":1}]}]},"message":{"message":"chat.completion"}}"#,
            ),
            (
                r#"{"other":[{"message":{"tool_calls":[{"a":1}]}}],"choices":"message","a_name_longer_than_any":{}}"#,
                r#"{"other":[{"message":{"tool_calls":[{"a":1}]}}],"choices":"message","a_name_longer_than_any":{}}"#,
            ),
            (
                r#"{"choices":[{"text":"\\","message":null}]}"#,
                r#"{"choices":[{"text":"\\","delta":null}]}"#,
            ),
            ("[[[[[[[[[[{}]]]]]]]]]]", "[[[[[[[[[[{}]]]]]]]]]]"),
        ] {
            for piece in [1, 7, 10_000] {
                let found = event(json, piece).expect("whole");
                assert_eq!(found, format!("data: {expected}\n\ndata: [DONE]\n\n"));
            }
        }
    }

    #[test]
    fn a_document_that_is_cut_is_no_event() {
        let error = event(r#"{"choices":[{"mess"#, 100).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_long_answer_needs_no_room() {
        let json = format!(
            r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#,
            "x".repeat(1 << 20)
        );
        let mut event = AsEvent::new(json.as_bytes(), b"");
        let mut buffer = [0; 4096];
        while event.read(&mut buffer).expect("whole") > 0 {
            assert!(event.ready.capacity() < 8192);
        }
    }
}
