//! Watches a stream pass by: whether it is complete, and how many tokens it took. Pure. It reads each byte once at
//! most, and keeps the first bytes of a name and the beginning that the lines share.

use alvus_scan::find;
use memchr::memchr2;

use super::Tokens;

/// One byte more than the longest word that is looked for.
pub(super) const WORD: usize = 21;

/// The names of token counts in a `usage`, cut to a word's length: chat completions; then Messages and the Responses
/// API, which count cached tokens apart.
pub(super) const USAGE: [&[u8]; 6] = [
    b"prompt_tokens",
    b"completion_tokens",
    b"input_tokens",
    b"cache_read_input_toke",
    b"cache_creation_input_",
    b"output_tokens",
];

/// The tokens that these counts of [`USAGE`] mean.
pub(super) fn tokens(counted: [u32; USAGE.len()]) -> Tokens {
    let [prompt, completion, input, cached, cache, output] = counted.map(u64::from);
    Tokens {
        // Some upstreams state them in two dialects at once.
        input: prompt.max(input + cached + cache),
        output: completion.max(output),
    }
}

/// The depths of the names that are looked for: the top of an event's JSON, and a member of `choices`.
const TOP: u32 = 1;
const CHOICE: u32 = 3;

/// The closing sign of a stream is `[DONE]`, a `finish_reason`, Anthropic's `message_stop`, the last events of the
/// Responses API, or an error. Tokens come from the `usage` of its events: at the top, or in a `message` or `response`.
#[derive(Debug, Default)]
pub struct Ending {
    at: Position,
    /// What the last event with a meaning said.
    stream: Says,
    done: bool,
    /// It began with events of an API that has a closing sign.
    promised: bool,
    /// The largest value of each of [`USAGE`] so far.
    counted: [u32; USAGE.len()],
    /// The beginning of the last line; how many bytes of it lines have in common; and the state after those, once two
    /// lines had them.
    last: Vec<u8>,
    common: usize,
    behind: Option<Position>,
    /// What followed the last token of such a line, up to the line's end, with the state after it.
    rest: Vec<u8>,
    past: Option<Position>,
}

/// A position in an event, and what the event says up to there.
#[derive(Debug, Default, Clone, Copy)]
struct Position {
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
    event: Says,
    /// Names are read at this depth too: in a `usage`, or in a field that may hold one.
    looks_at: u32,
    in_usage: bool,
    number: Option<u32>,
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
    /// A name that is not looked for: its value need not be kept.
    Other,
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
        while let [byte, rest @ ..] = piece {
            piece = match self.at.line {
                _ if matches!(byte, b'\n' | b'\r') => {
                    if *byte == b'\r' || !self.at.after_cr {
                        self.line_ends();
                    }
                    self.at.after_cr = *byte == b'\r';
                    rest
                }
                Line::Start if self.at.matched == 0 && piece.starts_with(DATA) => self.begin(piece),
                Line::Start => {
                    self.at.after_cr = false;
                    self.field_name(*byte);
                    rest
                }
                Line::Other => {
                    let end = memchr2(b'\n', b'\r', piece).unwrap_or(piece.len());
                    piece.split_at(end).1
                }
                Line::Data if self.at.string => self.in_string(piece),
                Line::Data => match self.at.depth == 0 && self.in_done(*byte) {
                    true => rest,
                    false => {
                        self.at.matched = usize::MAX; // `[DONE]` can no longer come on this line
                        self.in_json(piece)
                    }
                },
            };
        }
    }

    /// Whether the closing sign came.
    pub fn is_finished(&self) -> bool {
        // The last event may lack its blank line, and even its line's end.
        let last = match (self.at.event, self.at.depth) {
            (Says::Nothing, _) | (_, 1..) => self.stream,
            (says, 0) => says,
        };
        self.is_done() || last == Says::Over
    }

    /// Whether it is complete, now that it has ended. `marked`: other streams of its model had a closing sign.
    pub fn is_whole(&self, marked: bool) -> bool {
        self.is_finished() || !(marked || self.promised || self.at.depth > 0)
    }

    /// Whether `[DONE]` came, after which nothing follows.
    pub fn is_done(&self) -> bool {
        self.done || self.is_done_here()
    }

    /// The tokens that it states, cached ones included; zero if it states none.
    pub fn tokens(&self) -> Tokens {
        tokens(self.counted)
    }

    fn is_done_here(&self) -> bool {
        self.at.line == Line::Data
            && self.at.depth == 0
            && self.at.matched == DATA.len() + DONE.len()
    }

    fn line_ends(&mut self) {
        self.done |= self.is_done_here();
        let blank = self.at.line == Line::Start && self.at.matched == 0;
        if self.at.depth == 0 || blank {
            if self.at.event != Says::Nothing {
                self.promised |= self.at.event == Says::GoesOn;
                self.stream = self.at.event;
            }
            self.at.event = Says::Nothing;
            self.at.depth = 0;
            (self.at.name, self.at.number, self.at.length) = (Name::None, None, 0);
            (self.at.looks_at, self.at.in_usage) = (0, false);
        }
        (self.at.string, self.at.escaped) = (false, false);
        (self.at.line, self.at.matched) = (Line::Start, 0);
    }

    /// Begins a line of data. The lines of a stream begin alike, up to the token: this beginning is read once.
    fn begin<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        let on_top = self.at.depth == 0;
        let alike = find::alike(&self.last, line);
        if let Some(behind) = self.behind
            && on_top
            && (self.common..self.common + NOTABLE).contains(&alike)
        {
            self.at = behind;
            return self.token(line.split_at(self.common).1);
        }
        self.at.after_cr = false;
        (self.at.line, self.at.matched) = (Line::Data, DATA.len());
        let mut read = DATA.len();
        if on_top && (self.behind.is_none() || alike >= LEAST) {
            let mut kept = line.len().min(MOST);
            let alike = memchr2(b'\n', b'\r', &line[..alike]).unwrap_or(alike);
            if alike >= LEAST {
                self.push(&line[read..alike]);
                (self.behind, self.past) = (Some(self.at), None);
                self.common = alike;
                (read, kept) = (alike, alike);
            }
            self.last.clear();
            self.last.extend_from_slice(&line[..kept]);
        }
        line.split_at(read).1
    }

    /// Reads the token after the common beginning, if what it says does not count. What follows it is mostly what
    /// followed the last one, and then is not read again.
    fn token<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let counts = !self.at.string || self.at.escaped || self.at.length < WORD;
        let end = find::plain(text);
        let rest = text.split_at(end).1;
        let is_token = !counts && rest.starts_with(b"\"");
        if is_token
            && let Some(past) = self.past
            && find::alike(&self.rest, rest) == self.rest.len()
        {
            self.last.truncate(self.common);
            self.at = past;
            return rest.split_at(self.rest.len()).1;
        }
        let line = memchr2(b'\n', b'\r', text).unwrap_or(text.len());
        let (line, next) = text.split_at(line);
        // The next line may begin like this one, and further.
        self.last.truncate(self.common);
        let more = line.len().min(MOST - self.common);
        self.last.extend_from_slice(&line[..more]);
        let rest = line.split_at(end).1;
        if !is_token || next.is_empty() || rest.len() > MOST {
            return text;
        }
        self.push(rest);
        self.past = Some(self.at);
        self.rest.clear();
        self.rest.extend_from_slice(rest);
        next
    }

    fn field_name(&mut self, byte: u8) {
        if byte == DATA[self.at.matched] {
            self.at.matched += 1;
            if self.at.matched == DATA.len() {
                self.at.line = Line::Data;
            }
        } else {
            self.at.line = Line::Other;
        }
    }

    /// Reads up to the end of a string or of the line. Returns what follows.
    fn in_string<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        let plain = match std::mem::take(&mut self.at.escaped) {
            true => 1,
            false => find::plain(part),
        };
        let (plain, rest) = part.split_at(plain);
        if self.at.length < WORD {
            self.keep(plain);
        }
        match rest {
            [b'"', rest @ ..] => {
                self.string_ends();
                rest
            }
            [] | [b'\n' | b'\r', ..] => rest,
            [byte, rest @ ..] => {
                self.at.escaped = *byte == b'\\';
                self.keep(&[*byte]);
                rest
            }
        }
    }

    /// The beginning of a name, or of a value.
    fn keep(&mut self, bytes: &[u8]) {
        for (place, byte) in self.at.word.iter_mut().skip(self.at.length).zip(bytes) {
            *place = *byte;
            self.at.length += 1;
        }
    }

    fn string_ends(&mut self) {
        self.at.string = false;
        match std::mem::take(&mut self.at.name) {
            Name::Finish if self.at.length > 0 => self.at.event = Says::Over,
            Name::Finish => self.goes_on(),
            Name::Error if self.at.length > 0 && self.at.event == Says::Nothing => {
                self.at.event = Says::Over;
            }
            Name::Type => match &self.at.word[..self.at.length] {
                b"message_start" | b"response.created" | b"response.in_progress" => self.goes_on(),
                b"message_stop"
                | b"response.completed"
                | b"response.failed"
                | b"response.incomplete"
                | b"response.cancelled"
                | b"error" => {
                    self.at.event = Says::Over;
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Takes a byte of `[DONE]`, which is not JSON; `false`: it is not one.
    fn in_done(&mut self, byte: u8) -> bool {
        let after = self.at.matched - DATA.len();
        if after > DONE.len() {
            return false;
        }
        if byte == b' ' && matches!(after, 0 | 6) {
            return true;
        }
        if DONE.get(after) == Some(&byte) {
            self.at.matched += 1;
            return true;
        }
        self.at.depth += u32::from(after > 0); // its bracket was a list's
        false
    }

    /// Reads up to the beginning of a string or the end of the line. Returns what follows.
    fn in_json<'a>(&mut self, mut part: &'a [u8]) -> &'a [u8] {
        while let [byte, rest @ ..] = part {
            match byte {
                b'\n' | b'\r' => break,
                b'"' => {
                    self.string_begins();
                    return rest;
                }
                b'{' | b'[' => {
                    if self.at.name == Name::Error && self.at.event == Says::Nothing {
                        self.at.event = Says::Over;
                    }
                    self.at.depth += 1;
                    if let Name::Usage | Name::Holder = self.at.name {
                        (self.at.looks_at, self.at.in_usage) =
                            (self.at.depth, self.at.name == Name::Usage);
                    }
                    self.at.name = Name::None;
                }
                b'}' | b']' => {
                    self.number_ends();
                    self.at.depth = self.at.depth.saturating_sub(1);
                    if self.at.depth < self.at.looks_at {
                        (self.at.looks_at, self.at.in_usage) = (self.at.depth, false);
                    }
                }
                b',' => self.number_ends(),
                b':' => self.at.name = self.name_of(&self.at.word[..self.at.length]),
                b' ' => {}
                b'0'..=b'9' if matches!(self.at.name, Name::Count(_)) => {
                    let digit = u32::from(*byte - b'0');
                    let number = self.at.number.unwrap_or(0).saturating_mul(10);
                    self.at.number = Some(number.saturating_add(digit));
                }
                b'n' if self.at.name == Name::Finish => self.goes_on(),
                _ => (self.at.name, self.at.number) = (Name::None, None),
            }
            part = rest;
        }
        part
    }

    fn string_begins(&mut self) {
        let of_interest = self.at.name != Name::Other
            && (matches!(self.at.depth, TOP | CHOICE) || self.at.depth == self.at.looks_at);
        (self.at.string, self.at.length) = (true, if of_interest { 0 } else { WORD });
    }

    /// What a value of this name means at this depth.
    fn name_of(&self, word: &[u8]) -> Name {
        match (self.at.depth, word) {
            (depth, word) if self.at.in_usage && depth == self.at.looks_at => {
                let at = USAGE.iter().position(|name| *name == word);
                at.map_or(Name::Other, Name::Count)
            }
            (CHOICE, b"finish_reason") => Name::Finish,
            (TOP, b"type") => Name::Type,
            (TOP, b"error") => Name::Error,
            (TOP, b"message" | b"response" | b"x_groq") => Name::Holder,
            (depth, b"usage") if depth == TOP || depth == self.at.looks_at => Name::Usage,
            _ => Name::Other,
        }
    }

    /// The end of a value: keeps a number, if a name of [`USAGE`] came before it.
    fn number_ends(&mut self) {
        if let (Name::Count(at), Some(number)) = (self.at.name, self.at.number.take()) {
            self.counted[at] = self.counted[at].max(number);
        }
        self.at.name = Name::None;
    }

    /// The stream goes on, whatever else the event says: some upstreams send an empty error with each event.
    fn goes_on(&mut self) {
        self.at.event = Says::GoesOn;
        self.at.name = Name::None;
    }
}

const DATA: &[u8] = b"data:";

/// The least and the most bytes that are kept of a line's beginning.
const LEAST: usize = 32;
const MOST: usize = 256;
/// Lines that have so many bytes more in common begin alike up to there: one field later, say. Two tokens seldom do.
const NOTABLE: usize = 8;
const DONE: &[u8] = b"[DONE]";

#[cfg(test)]
mod tests;
