//! Server-sent events as far as alvus reads them: the data of a stream's first events, and whether
//! its last ones said that it is over. Pure. Format: WHATWG HTML, "Server-sent events".

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use memchr::memchr2;

/// The data of the next event that has any, once it is complete, and where the event ends. Comment
/// lines (`: …`, by which providers say that they are still thinking) and events without data do
/// not count.
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
        // A CR at the very end may be half of a CR LF; it ends the line all the same.
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

/// Whether a stream, or its beginning, holds nothing but comments and blank lines.
pub fn is_silent(stream: &[u8]) -> bool {
    let mut lines = stream.split(|b| matches!(b, b'\n' | b'\r'));
    lines.all(|line| line.is_empty() || line.starts_with(b":"))
}

/// Models whose streams were seen to say when they are over, so that one that ends without saying
/// so is known to be broken off. A few, and the latest.
#[derive(Debug, Default)]
pub struct Marked(Mutex<Vec<u64>>);

/// A pool serves a few models; one that is forgotten is learned anew with its next stream.
const MARKED: usize = 32;

impl Marked {
    /// A stream of this model said that it is over.
    pub fn add(&self, model: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let model = number(model);
        if !known.contains(&model) {
            if known.len() == MARKED {
                known.remove(0);
            }
            known.push(model);
        }
    }

    /// Whether one ever did.
    pub fn has(&self, model: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&number(model))
    }
}

fn number(model: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    model.hash(&mut hasher);
    hasher.finish()
}

/// One byte more than the longest of the strings looked for, so that a longer one is none of them.
const WORD: usize = 21;

/// Where the names looked for stand: on top of an event's JSON, and in a member of `choices`.
const TOP: u32 = 1;
const CHOICE: u32 = 3;

/// Watches a stream go by for the sign that it is whole: `[DONE]` or a `finish_reason`, Anthropic's
/// `message_stop`, the last events of the Responses API, or an error that ends it. Each byte is
/// looked at once where it stands; nothing is kept but a name's first bytes.
#[derive(Debug, Default)]
pub struct Ending {
    line: Line,
    /// The byte before was a CR: a LF is part of the same line's end.
    after_cr: bool,
    /// Bytes of the line so far that are the field's name, then of `[DONE]`.
    matched: usize,
    depth: u32,
    string: bool,
    escaped: bool,
    word: [u8; WORD],
    length: usize,
    /// What the value that comes next means.
    name: Name,
    /// What the event under way says, and the last one that said anything.
    event: Says,
    stream: Says,
    done: bool,
    /// It began in a way that promises an end.
    promised: bool,
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Line {
    #[default]
    Start,
    Data,
    Other,
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Name {
    #[default]
    None,
    Finish,
    Type,
    Error,
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Says {
    #[default]
    Nothing,
    GoesOn,
    Over,
}

impl Ending {
    /// The next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        while let Some(first) = piece.first() {
            let after_cr = std::mem::replace(&mut self.after_cr, *first == b'\r');
            match (first, after_cr) {
                (b'\n', true) => piece = &piece[1..],
                (b'\n' | b'\r', _) => {
                    self.line_ends();
                    piece = &piece[1..];
                }
                _ => {
                    let end = memchr2(b'\n', b'\r', piece).unwrap_or(piece.len());
                    self.in_line(&piece[..end]);
                    piece = &piece[end..];
                }
            }
        }
    }

    /// A line, or a part of one.
    fn in_line(&mut self, mut part: &[u8]) {
        while let [byte, rest @ ..] = part {
            part = match self.line {
                Line::Other => return,
                Line::Start => {
                    self.field_name(*byte);
                    rest
                }
                Line::Data if self.string && !self.escaped => {
                    // Most bytes of a stream are in strings.
                    let plain = memchr2(b'"', b'\\', part).unwrap_or(part.len());
                    self.keep(&part[..plain]);
                    match part.get(plain) {
                        Some(byte) => self.in_string(*byte),
                        None => return,
                    }
                    &part[plain + 1..]
                }
                Line::Data if self.string => {
                    self.in_string(*byte);
                    rest
                }
                Line::Data => {
                    self.in_json(*byte);
                    rest
                }
            }
        }
    }

    /// Whether the stream said that it is over.
    pub fn is_finished(&self) -> bool {
        // The last event may lack its blank line, and even its line's end.
        let last = match (self.event, self.depth) {
            (Says::Nothing, _) | (_, 1..) => self.stream,
            (says, 0) => says,
        };
        self.is_done() || last == Says::Over
    }

    /// Whether it is whole, now that it ended. `marked`: others of its kind said when they were over.
    pub fn is_whole(&self, marked: bool) -> bool {
        self.is_finished() || !(marked || self.promised || self.depth > 0)
    }

    /// Whether it said `[DONE]`, after which nothing follows.
    pub fn is_done(&self) -> bool {
        self.done || self.is_done_here()
    }

    fn is_done_here(&self) -> bool {
        self.line == Line::Data && self.depth == 0 && self.matched == DATA.len() + DONE.len()
    }

    fn line_ends(&mut self) {
        self.done |= self.is_done_here();
        let blank = self.line == Line::Start && self.matched == 0;
        if self.depth == 0 || blank {
            if self.event != Says::Nothing {
                self.promised |= self.event == Says::GoesOn;
                self.stream = self.event;
            }
            self.event = Says::Nothing;
            self.depth = 0;
            self.name = Name::None;
        }
        (self.string, self.escaped) = (false, false);
        (self.line, self.matched) = (Line::Start, 0);
    }

    fn field_name(&mut self, byte: u8) {
        if byte != DATA[self.matched] {
            self.line = Line::Other;
        } else {
            self.matched += 1;
            if self.matched == DATA.len() {
                self.line = Line::Data;
            }
        }
    }

    fn in_string(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => return self.string_ends(),
            _ => {}
        }
        self.keep(&[byte]);
    }

    /// The beginning of a name, or of a value.
    fn keep(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(WORD - self.length);
        self.word[self.length..][..n].copy_from_slice(&bytes[..n]);
        self.length += n;
    }

    fn string_ends(&mut self) {
        self.string = false;
        let word = &self.word[..self.length];
        match self.name {
            Name::Finish if !word.is_empty() => self.event = Says::Over,
            Name::Finish => self.goes_on(),
            Name::Error if !word.is_empty() && self.event == Says::Nothing => {
                self.event = Says::Over;
            }
            Name::Type => match word {
                b"message_start" | b"response.created" | b"response.in_progress" => self.goes_on(),
                b"message_stop"
                | b"response.completed"
                | b"response.failed"
                | b"response.incomplete"
                | b"response.cancelled"
                | b"error" => {
                    self.event = Says::Over;
                }
                _ => {}
            },
            Name::Error | Name::None => {}
        }
        self.name = Name::None;
    }

    /// Takes a byte of `[DONE]`, which is no JSON; `false`: it is another's.
    fn in_done(&mut self, byte: u8) -> bool {
        let after = self.matched - DATA.len();
        if after > DONE.len() {
            return false;
        }
        if byte == b' ' && matches!(after, 0 | 6) {
            return true;
        }
        if DONE.get(after) == Some(&byte) {
            self.matched += 1;
            return true;
        }
        self.matched = usize::MAX; // never again on this line
        self.depth += u32::from(after > 0); // its bracket was a list's
        false
    }

    fn in_json(&mut self, byte: u8) {
        if self.depth == 0 && self.in_done(byte) {
            return;
        }
        match byte {
            b'"' => {
                let of_interest = matches!(self.depth, TOP | CHOICE);
                (self.string, self.length) = (true, if of_interest { 0 } else { WORD });
            }
            b'{' | b'[' => {
                if self.name == Name::Error && self.event == Says::Nothing {
                    self.event = Says::Over;
                }
                self.depth += 1;
                self.name = Name::None;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' => {
                self.name = match (self.depth, &self.word[..self.length]) {
                    (CHOICE, b"finish_reason") => Name::Finish,
                    (TOP, b"type") => Name::Type,
                    (TOP, b"error") => Name::Error,
                    _ => Name::None,
                }
            }
            b' ' => {}
            b'n' if self.name == Name::Finish => self.goes_on(),
            _ => self.name = Name::None,
        }
    }

    /// Whatever else the event says: some have an empty error on every one.
    fn goes_on(&mut self) {
        self.event = Says::GoesOn;
        self.name = Name::None;
    }
}

const DATA: &[u8] = b"data:";
const DONE: &[u8] = b"[DONE]";

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

    const WORD: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
    const BARE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    const STOP: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str = "data: {\"usage\":{\"total_tokens\":9},\"choices\":[]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// What is said of a stream, however it is cut into pieces: (finished, whole, whole if marked).
    fn ends(stream: &str) -> (bool, bool, bool) {
        let mut found: Vec<_> = [1, 2, 7, 100, 1_000_000]
            .map(|size| {
                let mut ending = Ending::default();
                stream
                    .as_bytes()
                    .chunks(size)
                    .for_each(|piece| ending.push(piece));
                (
                    ending.is_finished(),
                    ending.is_whole(false),
                    ending.is_whole(true),
                )
            })
            .into();
        found.dedup();
        assert_eq!(found.len(), 1, "the end depends on how it came: {stream}");
        found[0]
    }

    #[test]
    fn a_stream_says_at_its_end_that_it_is_over() {
        let large = format!(
            "data: {{\"choices\":[{{\"index\":0,\"finish_reason\":\"stop\",\"delta\":{{\"content\":\"\"}},\"signature\":\"{}\"}}]}}\n\n",
            "A".repeat(3000)
        );
        let quoted = WORD.replace("\"x\"", r#""data: [DONE] \"finish_reason\":\"stop\"""#);
        let deeper = WORD.replace("\"x\"", r#"[{"finish_reason":"stop"}]"#);
        for over in [
            format!("{WORD}{DONE}"),
            format!("{WORD}{STOP}"),
            format!("{WORD}{STOP}{USAGE}"),
            format!("{}{}", WORD.repeat(99), STOP.replace(":\"", ": \"")),
            format!("{WORD}{large}"),
            STOP.replace('\n', "\r\n"),
            STOP.trim_end().to_string(),
            format!("{BARE}data:[DONE]"),
            format!("{BARE}data: [DONE] \n"),
            "data: {\"choices\":\ndata: [{\"finish_reason\":\ndata: \"stop\"}]}\n\n".into(),
            "data: {\"choices\":\r\ndata: [{\"finish_reason\":\r\ndata: \"stop\"}]}\r\n\r\n".into(),
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"message_stop\"}\n\n".into(),
            "data: {\"type\":\"response.created\"}\n\ndata: {\"type\": \"response.completed\"}\n\n".into(),
            format!("{WORD}data: {{\"error\":{{\"message\":\"it broke\"}}}}\n\n"),
            format!("{WORD}data: {{\"type\":\"error\",\"error\":{{}}}}\n\n"),
        ] {
            assert_eq!(ends(&over), (true, true, true), "{over}");
        }
        let empty_error = WORD.replace("{\"choices", "{\"error\":{\"code\":0},\"choices");
        for broken in [
            WORD.to_string(),
            WORD.repeat(99),
            format!("{STOP}{WORD}"),
            format!("{WORD}{USAGE}"),
            format!("{WORD}{BARE}"),
            quoted,
            deeper,
            empty_error,
            WORD.replace("null", "\"\""),
            format!("{WORD}{}", &STOP[..STOP.len() - 4]),
            format!("{BARE}data: {{\"cho"),
            "data: {\"type\":\"message_start\"}\n\ndata: {\"type\":\"content_block_delta\"}\n\n"
                .into(),
            "data: {\"type\":\"response.created\",\"x\":1}\n\n".into(),
        ] {
            assert_eq!(ends(&broken), (false, false, false), "{broken}");
        }
        for unmarked in [
            "",
            BARE,
            "data: 1\n\n",
            "data: plain { text\n\ndata: more\n\n",
            "data: [1,2]\n\n",
            "data: [DON]\n\n",
        ] {
            assert_eq!(ends(unmarked), (false, true, false), "{unmarked}");
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
