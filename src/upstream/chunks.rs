//! How much of a chunked body ureq sees at a time. To find the end of a chunk's first line ureq searches a hundred
//! bytes, which is a third of what a token costs; so it is shown that line alone. Pure.
//!
//! This room refuses nothing: chunks that it cannot follow are shown as they are, for ureq to judge.

use memchr::memchr;

/// The position in a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The chunks are followed.
    on: bool,
    /// This many bytes are shown in one go,
    run: usize,
    /// and then this many.
    then: usize,
}

impl Chunks {
    /// A body begins.
    pub(super) fn begin(&mut self, chunked: bool) {
        *self = Chunks {
            on: chunked,
            ..Chunks::default()
        };
    }

    /// How many of `input` bytes are shown.
    pub(super) fn shown(&self, input: usize) -> usize {
        match self.run {
            0 => input,
            run => run.min(input),
        }
    }

    /// `amount` bytes were used; `input` follows them.
    pub(super) fn used(&mut self, amount: usize, input: &[u8]) {
        self.on &= amount <= self.run; // else ureq used more than was shown
        self.run = self.run.saturating_sub(amount);
        self.plan(input);
    }

    /// Plans what is shown next.
    pub(super) fn plan(&mut self, input: &[u8]) {
        if !self.on || self.run > 0 {
            return;
        }
        self.run = std::mem::take(&mut self.then);
        if self.run > 0 {
            return;
        }
        // ureq makes one piece of several complete chunks.
        let mut whole = 0;
        let mut first = None;
        while let Some((line, size)) = first_line(&input[whole..]) {
            first = first.or(Some((line, size)));
            let end = whole + line + size;
            if size == 0 || end > input.len() {
                break;
            }
            whole = end;
        }
        let Some((line, size)) = first else {
            return;
        };
        match size {
            0 => self.on = false,
            _ if whole > line + size => self.run = whole,
            _ => (self.run, self.then) = (line, size),
        }
    }
}

/// The length of a chunk's first line, and of what follows with its CR LF; 0 for the last chunk.
fn first_line(input: &[u8]) -> Option<(usize, usize)> {
    let (mut digits, mut size) = (0, 0);
    while let Some(digit) = input.get(digits).and_then(|b| char::from(*b).to_digit(16)) {
        (digits, size) = (digits + 1, size << 4 | digit as usize);
        if digits > 7 {
            return None;
        }
    }
    let line = match input.get(digits..)? {
        _ if digits == 0 => return None,
        [b'\r', b'\n', ..] => digits + 2,
        extension @ [b';', ..] => {
            digits + memchr(b'\n', extension).filter(|end| extension[end - 1] == b'\r')? + 1
        }
        _ => return None,
    };
    Some((line, if size == 0 { 0 } else { size + 2 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen of a body, piece by piece, when all that is seen is used.
    fn seen(body: &str) -> Vec<&str> {
        let (mut chunks, mut rest, mut seen) = (Chunks::default(), body, Vec::new());
        chunks.begin(true);
        chunks.plan(rest.as_bytes());
        while !rest.is_empty() {
            let (now, after) = rest.split_at(chunks.shown(rest.len()));
            seen.push(now);
            rest = after;
            chunks.used(now.len(), rest.as_bytes());
        }
        seen
    }

    #[test]
    fn a_chunk_that_comes_alone_is_seen_in_two_pieces() {
        for (body, pieces) in [
            ("5\r\nhello\r\n", &["5\r\n", "hello\r\n"][..]),
            (
                "00a;x=y\r\n0123456789\r\n",
                &["00a;x=y\r\n", "0123456789\r\n"],
            ),
            (
                "5\r\nhello\r\n3\r\nyo",
                &["5\r\n", "hello\r\n", "3\r\n", "yo"],
            ),
            (
                "5\r\nhello\r\n0\r\n\r\n",
                &["5\r\n", "hello\r\n", "0\r\n\r\n"],
            ),
            (
                "5\r\nhello\r\n2\r\nyo\r\n1\r\nx",
                &["5\r\nhello\r\n2\r\nyo\r\n", "1\r\n", "x"],
            ),
            ("0\r\nTrailer: x\r\n\r\n", &["0\r\nTrailer: x\r\n\r\n"]),
            ("5 \r\nhello\r\n", &["5 \r\nhello\r\n"]), // ureq's to judge
            ("fffffffff\r\nhello\r\n", &["fffffffff\r\nhello\r\n"]),
            ("\r\n", &["\r\n"]),
            ("5\nhello", &["5\nhello"]),
            ("5;x\nhello", &["5;x\nhello"]),
        ] {
            assert_eq!(seen(body), pieces, "{body:?}");
        }
    }

    #[test]
    fn a_line_that_is_not_whole_is_waited_for() {
        let mut chunks = Chunks::default();
        chunks.begin(true);
        for (input, shown) in [("", 0), ("1", 1), ("10", 2), ("10\r", 3), ("10\r\n01", 4)] {
            chunks.plan(input.as_bytes());
            assert_eq!(chunks.shown(input.len()), shown, "{input:?}");
        }
    }

    #[test]
    fn a_body_that_is_not_in_chunks_is_seen_as_it_is() {
        let mut chunks = Chunks::default();
        chunks.begin(false);
        chunks.plan(b"5\r\nhello\r\n");
        assert_eq!(chunks.shown(10), 10);
    }
}
