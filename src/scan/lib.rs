//! Finds where a string, a value, a field of a JSON text ends. Pure.
//!
//! It checks no more than it needs to find the ends, so that a large body costs hardly more than a search for its
//! quotes. In a text that is not JSON it finds anything or nothing.

pub mod find;

use std::iter;

/// The position after the string that begins at `start`; `None`: it has no end.
#[inline(never)] // once in the binary, for all its callers
pub fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let inside = text.get(start + 1..)?;
    Some(start + find::closing_quote(inside)? + 2)
}

/// The position after the value that begins at `start`; `None`: there is none, or it has no end.
pub fn value_end(text: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at)?,
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            b'}' | b']' => (depth, at) = (depth.checked_sub(1)?, at + 1),
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
                let end = text[at..].iter().position(ends);
                return Some(end.map_or(text.len(), |end| at + end)).filter(|end| *end > at);
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The fields of an object, in their order: names in their quotes, and values.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
    /// The object's end was found.
    pub whole: bool,
}

impl<'a> Fields<'a> {
    /// The fields of an object; none of anything else.
    pub fn of(text: &'a [u8]) -> Fields<'a> {
        let inside = text.trim_ascii_start().strip_prefix(b"{");
        Fields {
            rest: inside.unwrap_or_default(),
            whole: false,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = behind_blanks(self.rest);
        self.whole |= self.rest.starts_with(b"}");
        let name = next_value(&mut self.rest).filter(|name| name.starts_with(b"\""))?;
        Some((name, next_value(&mut self.rest)?))
    }
}

/// The items of a list, in their order; none of anything else.
pub fn items(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text.strip_prefix(b"[").unwrap_or_default();
    iter::from_fn(move || next_value(&mut rest))
}

/// Takes the next value of a list or object; `None` at its end.
pub fn next_value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = behind_blanks(rest);
    let (value, after) = text.split_at(value_end(text, 0)?);
    *rest = after;
    Some(value)
}

/// The text after the blanks, commas and colons at its beginning.
pub fn behind_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t' | b',' | b':', rest @ ..] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> (Vec<String>, bool) {
        let mut fields = Fields::of(text.as_bytes());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let each = fields
            .by_ref()
            .map(|(name, value)| text(name) + "=" + &text(value));
        (each.collect(), fields.whole)
    }

    #[test]
    fn fields_are_found_as_they_stand() {
        for (text, found, whole) in [
            (r#"{}"#, &[][..], true),
            (
                r#" { "a" : 1 , "b":[{"c":"}]"},2] } x"#,
                &[r#""a"=1"#, r#""b"=[{"c":"}]"},2]"#],
                true,
            ),
            (
                r#"{"a\"b":"\\","c":"\\\"}"}"#,
                &[r#""a\"b"="\\""#, r#""c"="\\\"}""#],
                true,
            ),
            (r#"{"a":true}"#, &[r#""a"=true"#], true),
            (r#"{"a":true"#, &[r#""a"=true"#], false),
            (r#"{"a":"b"#, &[], false),
            (r#"{"a":[1,2"#, &[], false),
            (r#"{"a":"b\"}"#, &[], false),
            (r#"{"a"}"#, &[], false),
            (r#"{a:1}"#, &[], false),
            (r#"{1:2}"#, &[], false),
            (r#"[1]"#, &[], false),
            ("", &[], false),
        ] {
            assert_eq!(
                fields(text),
                (found.iter().map(|f| f.to_string()).collect(), whole),
                "{text}"
            );
        }
    }

    #[test]
    fn items_are_found_as_they_stand() {
        let found: Vec<_> = items(br#"[1 ,"a,]", {"b":[2]},[ ],null]"#).collect();
        assert_eq!(
            found,
            [&b"1"[..], b"\"a,]\"", b"{\"b\":[2]}", b"[ ]", b"null"]
        );
        assert_eq!(items(b"{}").count() + items(b"[]").count(), 0);
    }
}
