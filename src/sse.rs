//! Server-sent events as far as alvus reads them: the data of a stream's first event, and whether
//! its last ones said that it is over. Pure. Format: WHATWG HTML, "Server-sent events".

/// The data of the first event that has any, once it is complete. Comment lines (`: …`, by which
/// providers say that they are still thinking) and events without data do not count.
pub fn first_data(stream: &[u8]) -> Option<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut data: Vec<u8> = Vec::new();
    let mut rest = stream;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
        let line = &rest[..at];
        let crlf = rest[at..].starts_with(b"\r\n");
        // A CR at the very end may be half of a CR LF; it ends the line all the same.
        rest = &rest[at + 1 + usize::from(crlf)..];
        if line.is_empty() && !data.is_empty() {
            data.pop(); // the last line's own end
            return Some(data);
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

/// Whether a stream, or its beginning, holds nothing but comments and blank lines.
pub fn is_silent(stream: &[u8]) -> bool {
    let mut lines = stream.split(|b| matches!(b, b'\n' | b'\r'));
    lines.all(|line| line.is_empty() || line.starts_with(b":"))
}

/// How much of a stream's end is looked at: the last two or three events.
const TAIL: usize = 1024;

/// Watches a stream of chat completions go by for the sign that it is whole: `data: [DONE]`, or a
/// `finish_reason`.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL)..];
        let keep = TAIL - piece.len();
        self.0.drain(..self.0.len().saturating_sub(keep));
        self.0.extend_from_slice(piece);
    }

    /// Whether the stream said that it is over.
    pub fn is_finished(&self) -> bool {
        let has = |sign: &[u8]| self.0.windows(sign.len()).any(|w| w == sign);
        has(b"[DONE]") || has(b"\"finish_reason\":\"") || has(b"\"finish_reason\": \"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_events_data_is_found_as_the_table_says() {
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
            let found = first_data(stream.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{stream:?}");
        }
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
    fn an_event_is_found_however_it_is_cut() {
        let stream = b": x\r\n\r\nevent: e\r\ndata: {\"a\":1}\r\n\r\ndata: [DONE]\r\n\r\n";
        let whole = stream
            .windows(4)
            .rposition(|w| w == b"data")
            .expect("there");
        for end in 0..stream.len() {
            let found = first_data(&stream[..end]);
            // The CR of the blank line is enough.
            assert_eq!(found.is_some(), end >= whole - 1, "{end}");
            assert!(found.is_none_or(|data| data == b"{\"a\":1}"));
        }
    }

    #[test]
    fn a_stream_says_at_its_end_that_it_is_over() {
        let word =
            "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
        let stop = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
        let usage = "data: {\"usage\":{\"total_tokens\":9}}\n\n";
        let long = word.repeat(100);
        for (stream, finished) in [
            (String::new(), false),
            (word.to_string(), false),
            (format!("{word}data: [DONE]\n\n"), true),
            (format!("{long}{stop}{usage}"), true),
            (format!("{stop}{long}"), false),
            (long, false),
        ] {
            for size in [1, 7, 1000, 100_000] {
                let mut tail = Tail::default();
                stream
                    .as_bytes()
                    .chunks(size)
                    .for_each(|piece| tail.push(piece));
                assert_eq!(tail.is_finished(), finished, "{size} {stream:?}");
                assert!(tail.0.len() <= TAIL);
            }
        }
    }
}
