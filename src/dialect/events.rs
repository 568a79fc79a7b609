//! The data of a stream's events, however the stream's bytes are cut. Pure, and bounded: one event.
//! Format: WHATWG HTML, "Server-sent events". Event names are ignored.

/// The longest event that is read, in bytes. Tokens take some hundred, a whole tool call some thousand.
pub const MAX_EVENT: usize = 1024 * 1024;

/// A buffer that grew beyond this for one event is given back.
const USUAL: usize = 8 * 1024;

/// An event was longer than [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct TooLong;

/// Cuts a stream into the data of its events.
#[derive(Debug, Default)]
pub struct EventReader {
    /// The beginning of an incomplete line.
    line: Vec<u8>,
    /// The data of the present event.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: a following LF belongs to it.
    after_cr: bool,
    /// The first line has ended: a byte order mark can no longer come.
    begun: bool,
}

impl EventReader {
    /// Takes the next bytes; `each` gets the data of each event that they complete.
    ///
    /// # Errors
    /// When an event is longer than is kept.
    pub fn push(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), TooLong> {
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            bytes = &bytes[1..];
        }
        while let Some(at) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let mut line = std::mem::take(&mut self.line);
            match line.is_empty() {
                true => self.line_ends(&bytes[..at], each),
                false => {
                    line.extend_from_slice(&bytes[..at]);
                    self.line_ends(&line, each);
                    line.clear();
                    line.shrink_to(USUAL);
                    self.line = line;
                }
            }
            let crlf = bytes[at..].starts_with(b"\r\n");
            self.after_cr = bytes[at] == b'\r' && at + 1 == bytes.len();
            bytes = &bytes[at + 1 + usize::from(crlf)..];
            self.check()?;
        }
        if !bytes.is_empty() {
            self.line.extend_from_slice(bytes);
        }
        self.check()
    }

    /// The stream ended cleanly: `each` gets its last event, if only its blank line is missing.
    pub fn end(&mut self, each: &mut dyn FnMut(&[u8])) {
        let line = std::mem::take(&mut self.line);
        self.line_ends(&line, each);
        self.line_ends(b"", each);
    }

    fn check(&self) -> Result<(), TooLong> {
        match self.line.len() + self.data.len() > MAX_EVENT {
            true => Err(TooLong),
            false => Ok(()),
        }
    }

    fn line_ends(&mut self, mut line: &[u8], each: &mut dyn FnMut(&[u8])) {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() && self.has_data {
            each(&self.data);
            self.data.clear();
            self.data.shrink_to(USUAL);
            self.has_data = false;
        } else if let Some(value) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8], size: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut each = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
        let mut events = EventReader::default();
        for piece in stream.chunks(size) {
            events.push(piece, &mut each).expect("short");
        }
        events.end(&mut each);
        found
    }

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        for (stream, expected) in [
            ("", &[][..]),
            ("data: a\n\ndata:b\n\n", &["a", "b"]),
            (
                "\u{feff}data: a\r\n\r\ndata: b\r\rdata: c",
                &["a", "b", "c"],
            ),
            (
                ": x\n\nevent: e\nid: 1\ndata: a\ndata:  b\n\n\n",
                &["a\n b"],
            ),
            ("data\n\nretry: 1\n\ndata: [DONE]\n", &["[DONE]"]),
            ("data: é😀\n\n", &["é😀"]),
            ("data:\n\n\n: x\n\ndata: x\n\n", &["", "x"]),
            (
                "event: error\ndata: {\"a\":\ndata: 1}\nid: 7\n\n",
                &["{\"a\":\n1}"],
            ),
            ("data: a\r\ndata: b\r\n\r\n", &["a\nb"]),
        ] {
            for size in 1..=stream.len().max(1) {
                assert_eq!(
                    events(stream.as_bytes(), size),
                    expected,
                    "{size} {stream:?}"
                );
            }
        }
    }

    #[test]
    fn an_event_without_end_is_too_long() {
        let mut events = EventReader::default();
        let piece = [b'x'; 64 * 1024];
        let refused = (0..17).find(|_| events.push(&piece, &mut |_| ()).is_err());
        assert_eq!(refused, Some(16));
    }
}
