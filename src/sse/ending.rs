//! Watches a stream pass by: whether it is complete, and how many tokens it took. Pure. It looks at each byte once, and
//! keeps only the first bytes of a name.

use std::io::{self, Read};

use memchr::{memchr2, memrchr_iter};

use super::Tokens;

/// One byte more than the longest word that is looked for.
const WORD: usize = 21;

/// The names of token counts in a `usage`, cut to a word's length: chat completions; then Messages and the Responses
/// API, which count cached tokens apart.
const USAGE: [&[u8]; 6] = [
    b"prompt_tokens",
    b"completion_tokens",
    b"input_tokens",
    b"cache_read_input_toke",
    b"cache_creation_input_",
    b"output_tokens",
];

/// The depths of the names that are looked for: the top of an event's JSON, and a member of `choices`.
const TOP: u32 = 1;
const CHOICE: u32 = 3;

/// The closing sign of a stream is `[DONE]`, a `finish_reason`, Anthropic's `message_stop`, the last events of the
/// Responses API, or an error. Tokens come from the `usage` of its events: at the top, or in a `message` or `response`.
#[derive(Debug, Default)]
pub struct Ending {
    line: Line,
    /// The last byte was a CR: a LF belongs to the same line's end.
    after_cr: bool,
    /// Bytes of the line so far that are the field's name, then of `[DONE]`.
    matched: usize,
    depth: u32,
    string: bool,
    escaped: bool,
    word: [u8; WORD],
    length: usize,
    /// The name of the value that comes next.
    name: Name,
    /// What the present event says, and the last one that said something.
    event: Says,
    stream: Says,
    done: bool,
    /// It began with events of an API that has a closing sign.
    promised: bool,
    /// Names are read at this depth too: in a `usage`, or in a field that may hold one.
    looks_at: u32,
    in_usage: bool,
    /// The present number, and the largest value of each of [`USAGE`] so far.
    number: Option<u32>,
    counted: [u32; USAGE.len()],
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
    /// It may hold a `usage`.
    Holder,
    Usage,
    /// A count, by its index in [`USAGE`].
    Count(usize),
}

#[derive(Debug, Default, PartialEq, Clone, Copy)]
enum Says {
    #[default]
    Nothing,
    GoesOn,
    Over,
}

impl Ending {
    /// Takes the next piece.
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
                Line::Data if self.string => {
                    // Most bytes of a stream are in strings.
                    let plain = match self.escaped {
                        true => Some(0),
                        false => memchr2(b'"', b'\\', part),
                    };
                    self.keep(&part[..plain.unwrap_or(part.len())]);
                    let Some(at) = plain else {
                        return;
                    };
                    self.in_string(part[at]);
                    &part[at + 1..]
                }
                Line::Data => self.between_strings(part),
            }
        }
    }

    /// Whether the closing sign came.
    pub fn is_finished(&self) -> bool {
        // The last event may lack its blank line, and even its line's end.
        let last = match (self.event, self.depth) {
            (Says::Nothing, _) | (_, 1..) => self.stream,
            (says, 0) => says,
        };
        self.is_done() || last == Says::Over
    }

    /// Whether it is complete, now that it has ended. `marked`: other streams of its model had a closing sign.
    pub fn is_whole(&self, marked: bool) -> bool {
        self.is_finished() || !(marked || self.promised || self.depth > 0)
    }

    /// Whether `[DONE]` came, after which nothing follows.
    pub fn is_done(&self) -> bool {
        self.done || self.is_done_here()
    }

    /// The tokens that it states, cached ones included; zero if it states none.
    pub fn tokens(&self) -> Tokens {
        let [prompt, completion, input, cached, cache, output] = self.counted.map(u64::from);
        Tokens {
            // Some upstreams state them in two dialects at once.
            input: prompt.max(input + cached + cache),
            output: completion.max(output),
        }
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
            (self.looks_at, self.in_usage) = (0, false);
        }
        (self.string, self.escaped) = (false, false);
        (self.line, self.matched) = (Line::Start, 0);
    }

    fn field_name(&mut self, byte: u8) {
        if byte == DATA[self.matched] {
            self.matched += 1;
            if self.matched == DATA.len() {
                self.line = Line::Data;
            }
        } else {
            self.line = Line::Other;
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
            _ => {}
        }
        self.name = Name::None;
    }

    /// Takes a byte of `[DONE]`, which is not JSON; `false`: it is not one.
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

    /// Reads up to the beginning of a string. Returns what follows.
    fn between_strings<'a>(&mut self, mut part: &'a [u8]) -> &'a [u8] {
        while let [byte, rest @ ..] = part {
            self.in_json(*byte);
            part = rest;
            if self.string {
                break;
            }
        }
        part
    }

    fn in_json(&mut self, byte: u8) {
        if self.depth == 0 && self.in_done(byte) {
            return;
        }
        match byte {
            b'"' => {
                let of_interest = matches!(self.depth, TOP | CHOICE) || self.depth == self.looks_at;
                (self.string, self.length) = (true, if of_interest { 0 } else { WORD });
            }
            b'{' | b'[' => {
                if self.name == Name::Error && self.event == Says::Nothing {
                    self.event = Says::Over;
                }
                self.depth += 1;
                if let Name::Usage | Name::Holder = self.name {
                    (self.looks_at, self.in_usage) = (self.depth, self.name == Name::Usage);
                }
                self.name = Name::None;
            }
            b'}' | b']' => {
                self.number_ends();
                self.depth = self.depth.saturating_sub(1);
                if self.depth < self.looks_at {
                    (self.looks_at, self.in_usage) = (self.depth, false);
                }
            }
            b',' => self.number_ends(),
            b':' => self.name = self.name_of(&self.word[..self.length]),
            b' ' => {}
            b'0'..=b'9' if matches!(self.name, Name::Count(_)) => {
                let digit = u32::from(byte - b'0');
                let number = self.number.unwrap_or(0).saturating_mul(10);
                self.number = Some(number.saturating_add(digit));
            }
            b'n' if self.name == Name::Finish => self.goes_on(),
            _ => (self.name, self.number) = (Name::None, None),
        }
    }

    /// What a value of this name means at this depth.
    fn name_of(&self, word: &[u8]) -> Name {
        match (self.depth, word) {
            (depth, word) if self.in_usage && depth == self.looks_at => {
                let at = USAGE.iter().position(|name| *name == word);
                at.map_or(Name::None, Name::Count)
            }
            (CHOICE, b"finish_reason") => Name::Finish,
            (TOP, b"type") => Name::Type,
            (TOP, b"error") => Name::Error,
            (TOP, b"message" | b"response" | b"x_groq") => Name::Holder,
            (depth, b"usage") if depth == TOP || depth == self.looks_at => Name::Usage,
            _ => Name::None,
        }
    }

    /// The end of a value: keeps a number, if a name of [`USAGE`] came before it.
    fn number_ends(&mut self) {
        if let (Name::Count(at), Some(number)) = (self.name, self.number.take()) {
            self.counted[at] = self.counted[at].max(number);
        }
        self.name = Name::None;
    }

    /// The stream goes on, whatever else the event says: some upstreams send an empty error with each event.
    fn goes_on(&mut self) {
        self.event = Says::GoesOn;
        self.name = Name::None;
    }
}

/// How much of a whole answer's end is read: the longest `usage` and what follows it, with a client's `metadata` in the
/// Responses API.
const TAIL: usize = 2048;

/// The tokens of a whole answer, by its last bytes: from the `usage` at the top of the document. A text that quotes
/// such words has escapes before its quotes.
fn tokens_at_end(end: &[u8]) -> Option<Tokens> {
    const NAME: &[u8] = b"\"usage\"";
    let end = end.trim_ascii_end().strip_suffix(b"}")?;
    memrchr_iter(b'"', end).find_map(|at| {
        let from = end.get(at..).filter(|from| from.starts_with(NAME))?;
        // The document as a stream's only event, on one line.
        let mut ending = Ending::default();
        ending.push(b"data:{");
        let lines = from.split(|b| matches!(b, b'\n' | b'\r' | b'\t'));
        lines.for_each(|line| ending.push(line));
        let on_top = ending.depth == TOP && !ending.string;
        on_top.then(|| ending.tokens())
    })
}

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

const DATA: &[u8] = b"data:";
const DONE: &[u8] = b"[DONE]";

#[cfg(test)]
mod tests;
