//! The fields of an answer's head. They bypass ureq, whose map would hash, copy and search each of them. ureq sees only
//! those that frame the body, and malformed ones, so that it refuses them. Pure.

use memchr::memchr;

use crate::headers::{self, Field};
use crate::token::is_token_byte;

/// The most fields; ureq reads no more either.
const MOST: usize = 128;

/// Fields, one after the other: the lengths of name and value (two bytes each), the name in lower case, the value. So
/// the next one is found without a search.
#[derive(Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    /// All fields, in the order sent.
    pub(super) fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || next(&mut rest))
    }

    /// The values of this (lower-case) name.
    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self
            .iter()
            .filter(move |(found, _)| *found == name.as_bytes());
        named.map(|(_, value)| value)
    }

    /// The first value of this (lower-case) name.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Takes a well-formed field over; returns its name.
    fn take(&mut self, line: &[u8]) -> Option<&[u8]> {
        let line = line.strip_suffix(b"\n")?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // The name is a token, so the first other byte is the colon.
        let colon = line.iter().position(|b| !is_token_byte(*b))?;
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b":")?;
        if name.is_empty() || !headers::is_value(value) || line.len() > usize::from(u16::MAX) {
            return None;
        }
        let value = value.trim_ascii(); // of white space, only blanks and tabs are left
        let lengths = [name, value].map(|part| (part.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(lengths.as_flattened());
        let at = self.0.len();
        self.0.extend_from_slice(name);
        self.0[at..].make_ascii_lowercase();
        self.0.extend_from_slice(value);
        Some(&self.0[at..at + colon])
    }
}

/// The next one, with its name.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let (&[a, b, c, d], after) = rest.split_first_chunk()?;
    let (name, after) = after.split_at_checked(u16::from_ne_bytes([a, b]).into())?;
    let (value, after) = after.split_at_checked(u16::from_ne_bytes([c, d]).into())?;
    *rest = after;
    Some((name, value))
}

/// A head that was taken apart.
#[derive(Default)]
pub(super) struct Head {
    pub(super) fields: Fields,
    /// Where ureq's part of it begins in the input. The body stays where it was.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    /// Another head follows (status 100 to 199, except 101).
    pub(super) is_interim: bool,
}

/// Takes the head at the start of the input apart, once it is complete.
pub(super) fn take_head(input: &mut [u8]) -> Option<Head> {
    let begin = input.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
    let mut kept = line_end(input, begin.count())?;
    let status = input[..kept].trim_ascii_start();
    let is_interim = status.starts_with(b"HTTP/1.")
        && status.get(8..10) == Some(b" 1")
        && !status[9..].starts_with(b"101");
    let (end, lines) = head_end(input, kept)?;
    if lines > MOST {
        // Left as it is, so that ureq refuses it.
        return Some(Head {
            end,
            ..Head::default()
        });
    }
    let mut fields = Fields(Vec::with_capacity(end - kept));
    let mut at = kept;
    while at < end {
        let next = line_end(input, at)?;
        match fields.take(&input[at..next]) {
            Some(b"content-length" | b"transfer-encoding" | b"connection") | None => {
                input.copy_within(at..next, kept);
                kept += next - at;
            }
            Some(_) => {}
        }
        at = next;
    }
    let start = end - kept;
    input.copy_within(..kept, start);
    Some(Head {
        fields,
        start,
        end,
        is_interim,
    })
}

/// The position after the empty line that ends a head, and the number of lines before it.
fn head_end(input: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut lines = 0;
    loop {
        let next = line_end(input, at)?;
        if matches!(&input[at..next], b"\n" | b"\r\n") {
            return Some((next, lines));
        }
        (at, lines) = (next, lines + 1);
    }
}

/// The position after the line that begins at `at`.
fn line_end(input: &[u8], at: usize) -> Option<usize> {
    Some(at + memchr(b'\n', &input[at..])? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ureq gets to see of a head and what follows, and the fields as they are kept.
    fn taken(head: &str) -> Option<(String, String, bool)> {
        let mut input = head.as_bytes().to_vec();
        let head = take_head(&mut input)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let left = text(&input[head.start..]);
        let fields = head.fields.iter();
        let fields = fields.map(|(name, value)| format!("{}:{}\n", text(name), text(value)));
        Some((left, fields.collect(), head.is_interim))
    }

    #[test]
    fn ureq_sees_what_frames_the_body_and_what_is_malformed() {
        for (head, left, fields) in [
            (
                "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length:  2 \r\nB:\tc d\t\r\n\r\nhi",
                "HTTP/1.1 200 OK\r\nContent-Length:  2 \r\n\r\nhi",
                "x-a:1\ncontent-length:2\nb:c d\n",
            ),
            (
                "\r\n\nHTTP/1.1 200 a: b\nTransfer-Encoding: chunked\nConnection: close\nD:\n\n0",
                "\r\n\nHTTP/1.1 200 a: b\nTransfer-Encoding: chunked\nConnection: close\n\n0",
                "transfer-encoding:chunked\nconnection:close\nd:\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nno colon\r\nE : f\r\nG: h\x01\r\n: i\r\nJ: k\r\r\n\r\n",
                "HTTP/1.1 200 OK\r\n folded\r\nno colon\r\nE : f\r\nG: h\x01\r\n: i\r\nJ: k\r\r\n\r\n",
                "a:b\n",
            ),
        ] {
            let expected = Some((left.to_string(), fields.to_string(), false));
            assert_eq!(taken(head), expected, "{head:?}");
            let end = head.len() - 2;
            let unfinished = head.rfind("\r\n\r\n").map_or(end, |at| at + 3).min(end);
            assert!(taken(&head[..unfinished]).is_none(), "{head:?}");
        }
    }

    #[test]
    fn a_head_of_too_many_fields_is_left_for_ureq_to_refuse() {
        for (fields, kept) in [(128, 0), (129, 129)] {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(fields));
            let (left, _, _) = taken(&head).expect("a head");
            assert_eq!(left.matches("A: b").count(), kept, "{fields}");
        }
    }

    #[test]
    fn an_interim_answer_is_known_by_its_status() {
        for (status, interim) in [
            ("HTTP/1.1 100 Continue", true),
            ("HTTP/1.1 103 Early Hints", true),
            ("HTTP/1.1 101 Switching Protocols", false),
            ("HTTP/1.1 200 OK", false),
            ("HTTP/2 100", false),
            ("", false),
        ] {
            let found = taken(&format!("{status}\r\nlink: x\r\n\r\n"));
            assert_eq!(
                found.map(|(_, _, interim)| interim),
                Some(interim),
                "{status}"
            );
        }
    }

    #[test]
    fn fields_are_found_by_their_names() {
        let mut input = b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\na: 3:4\r\n\r\n".to_vec();
        let fields = take_head(&mut input).expect("a head").fields;
        assert_eq!(fields.get("a"), Some(&b"1"[..]));
        assert_eq!(fields.all("a").collect::<Vec<_>>(), [&b"1"[..], b"3:4"]);
        assert_eq!((fields.get("c"), fields.iter().count()), (None, 3));
    }
}
