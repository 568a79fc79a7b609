//! JSON in place: values are slices of their text, so that nothing is decoded that can be copied.
//! Pure; knows no dialect.
//!
//! [`Json::parse`] checks the whole text once; what is taken out of it later is known to be valid.
//! [`put!`] writes JSON, piece by piece.

use std::borrow::Cow;
use std::iter;

use alvus_scan::{behind_blanks, value_end};
use serde::de::IgnoredAny;

/// A valid JSON value, as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Reads a text that is one JSON value in UTF-8.
    pub fn parse(text: &'a [u8]) -> Option<Json<'a>> {
        let text = std::str::from_utf8(text).ok()?;
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        Some(Json(text.trim_matches([' ', '\n', '\r', '\t'])))
    }

    /// The value's own text.
    pub fn text(self) -> &'a str {
        self.0
    }

    /// The fields of an object, in their order; none of anything else.
    pub fn fields(self) -> impl Iterator<Item = (Str<'a>, Json<'a>)> {
        let mut rest = self.0.strip_prefix('{').unwrap_or_default();
        iter::from_fn(move || Some((next_value(&mut rest)?.string()?, next_value(&mut rest)?)))
    }

    /// The items of a list; none of anything else.
    pub fn items(self) -> impl Iterator<Item = Json<'a>> {
        let mut rest = self.0.strip_prefix('[').unwrap_or_default();
        iter::from_fn(move || next_value(&mut rest))
    }

    /// The items of a list that may be missing.
    pub fn items_of(list: Option<Json<'a>>) -> impl Iterator<Item = Json<'a>> {
        list.into_iter().flat_map(Json::items)
    }

    /// These fields of an object, in one pass. If a name occurs twice the last one counts. `null` counts as missing.
    pub fn pick<const N: usize>(self, names: [&str; N]) -> [Option<Json<'a>>; N] {
        let mut found = [None; N];
        for (name, value) in self.fields() {
            let name = name.plain();
            if let Some(at) = names.iter().position(|wanted| *wanted == name) {
                found[at] = Some(value).filter(|value| value.0 != "null");
            }
        }
        found
    }

    /// One field of an object; see [`Json::pick`].
    pub fn get(self, name: &str) -> Option<Json<'a>> {
        self.pick([name])[0]
    }

    /// The string, if it is one.
    pub fn string(self) -> Option<Str<'a>> {
        let inside = self.0.strip_prefix('"')?.strip_suffix('"')?;
        Some(Str(inside))
    }

    /// The string's text with its escapes, if it is one; see [`Str::raw`].
    pub fn raw(self) -> Option<&'a str> {
        self.string().map(Str::raw)
    }

    /// The number, if it is whole and not negative, written without a point or exponent.
    pub fn number(self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether it is a number of any kind.
    pub fn is_number(self) -> bool {
        self.0.starts_with(|c: char| c == '-' || c.is_ascii_digit())
    }

    /// Whether it is `true`.
    pub fn is_true(self) -> bool {
        self.0 == "true"
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it is a list.
    pub fn is_list(self) -> bool {
        self.0.starts_with('[')
    }
}

/// Takes the next value of a list or object; `None` at its end.
fn next_value<'a>(rest: &mut &'a str) -> Option<Json<'a>> {
    let text = &rest[rest.len() - behind_blanks(rest.as_bytes()).len()..];
    let (value, after) = text.split_at_checked(value_end(text.as_bytes(), 0)?)?;
    *rest = after;
    Some(Json(value))
}

/// A string as it is written between its quotes, with its escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Str<'a>(&'a str);

impl<'a> Str<'a> {
    /// A string of text that is known to be escaped correctly.
    pub fn of_raw(raw: &'a str) -> Str<'a> {
        Str(raw)
    }

    /// Its text with escapes, which may be copied into any other JSON string.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// Whether it is "".
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Whether it means this text, however it is escaped.
    pub fn is(self, text: &str) -> bool {
        self.0 == text || (self.0.contains('\\') && self.plain() == text)
    }

    /// Its text without escapes. Half a surrogate pair becomes U+FFFD.
    pub fn plain(self) -> Cow<'a, str> {
        if !self.0.contains('\\') {
            return Cow::Borrowed(self.0);
        }
        let mut plain = String::with_capacity(self.0.len());
        self.each(|piece| match piece {
            Ok(text) => plain.push_str(text),
            Err(escaped) => plain.push(escaped),
        });
        Cow::Owned(plain)
    }

    /// Its text in pieces: unescaped text, and single characters that were escaped.
    pub fn each(self, mut found: impl FnMut(Result<&'a str, char>)) {
        let mut rest = self.0;
        while let Some(at) = rest.find('\\') {
            found(Ok(&rest[..at]));
            let (character, length) = unescaped(&rest[at..]);
            found(Err(character));
            rest = rest.get(at + length..).unwrap_or_default();
        }
        found(Ok(rest));
    }
}

/// The character that an escape at the start of a text means, and the escape's length.
fn unescaped(text: &str) -> (char, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 4)?;
        (text.get(at - 2..at)? == "\\u").then(|| u32::from_str_radix(digits, 16).ok())?
    };
    match text.as_bytes().get(1) {
        Some(b'n') => ('\n', 2),
        Some(b't') => ('\t', 2),
        Some(b'r') => ('\r', 2),
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'u') => match (unit(2), unit(8)) {
            (Some(high @ 0xd800..0xdc00), Some(low @ 0xdc00..0xe000)) => {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                (char::from_u32(code).unwrap_or('\u{fffd}'), 12)
            }
            (Some(code), _) => (char::from_u32(code).unwrap_or('\u{fffd}'), 6),
            (None, _) => ('\u{fffd}', 2),
        },
        Some(other) => (char::from(*other), 2),
        None => ('\\', 1),
    }
}

/// What can be written into JSON; see [`put!`].
pub trait Put {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
}

/// Appends its parts to a `Vec<u8>`: text and [`Json`] as they are, [`Str`] in quotes, [`Quoted`]
/// in quotes and escaped, numbers in digits.
macro_rules! put {
    ($out:expr, $($part:expr),+ $(,)?) => {{
        $($crate::dialect::json::Put::put(&$part, $out);)+
    }};
}
pub(crate) use put;

/// Plain text, to be written as a JSON string.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

/// Plain text, to be written inside of a JSON string.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl Put for &str {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Put for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        // In 32 bits if they suffice: a 64-bit division takes a small CPU a hundred instructions.
        let (rest, last) = match u32::try_from(*self) {
            Ok(number) => (u64::from(number / 10), number % 10),
            Err(_) => (self / 10, (self % 10) as u32),
        };
        if rest > 0 {
            rest.put(out);
        }
        out.push(b'0' + last as u8);
    }
}

impl Put for Json<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
}

impl Put for Str<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put!(out, "\"", self.0, "\"");
    }
}

impl Put for Quoted<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put!(out, "\"", Escaped(self.0), "\"");
    }
}

impl Put for Escaped<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        let mut rest = self.0;
        let special = |b: u8| b < b' ' || b == b'"' || b == b'\\';
        while let Some(at) = rest.bytes().position(special) {
            put!(out, &rest[..at]);
            match rest.as_bytes()[at] {
                b'\n' => put!(out, "\\n"),
                b'\t' => put!(out, "\\t"),
                b'\r' => put!(out, "\\r"),
                byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
                byte => {
                    let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
                }
            }
            rest = &rest[at + 1..];
        }
        put!(out, rest);
    }
}

/// Plain text with JSON escapes, as a `String`.
pub fn escaped(plain: &str) -> String {
    let mut out = Vec::with_capacity(plain.len());
    put!(&mut out, Escaped(plain));
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json<'_> {
        Json::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn fields_and_items_are_the_slices_they_were() {
        let all = json(
            " {\"a\" : [1, \"x,]}\" , {\"b\":{}} ,[]], \"c\\\"\":-1.5e3,\"a\":null ,\"d\":true}\n",
        );
        let fields: Vec<_> = all.fields().map(|(n, v)| (n.raw(), v.text())).collect();
        assert_eq!(
            fields,
            [
                ("a", "[1, \"x,]}\" , {\"b\":{}} ,[]]"),
                ("c\\\"", "-1.5e3"),
                ("a", "null"),
                ("d", "true")
            ]
        );
        let list = all.fields().next().expect("a").1;
        let items: Vec<_> = list.items().map(Json::text).collect();
        assert_eq!(items, ["1", "\"x,]}\"", "{\"b\":{}}", "[]"]);
        assert_eq!(all.get("a"), None, "the last one counts, and it is null");
        assert_eq!(
            all.get("c\""),
            Some(Json("-1.5e3")),
            "escaped names are read"
        );
        for none in ["[]", "{}", "7", "\"{\"", "[ ]", "{ }", "null"] {
            let none = json(none);
            assert!(none.fields().next().is_none() && none.items().next().is_none());
        }
    }

    #[test]
    fn invalid_json_is_not_read() {
        for text in [
            "", "{", "{\"a\":}", "[1,]", "{} {}", "nul", "\"\n\"", "\"\\x\"", "{'a':1}",
        ] {
            assert_eq!(Json::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Json::parse(b"\"\xff\""), None, "not UTF-8");
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(json(&deep).items().next().is_some(), "depth costs no stack");
    }

    #[test]
    fn strings_mean_what_serde_json_says() {
        for text in [
            r#""""#,
            r#""plain é 😀""#,
            r#""\n\t\r\b\f\"\\\/""#,
            r#""\u00e9\u4e2d\ud83d\ude00x""#,
            r#""\\u0041\u0041""#,
        ] {
            let expected: String = serde_json::from_str(text).expect(text);
            let found = json(text).string().expect(text);
            assert_eq!(found.plain(), expected);
            assert!(found.is(&expected) && !found.is("other"));
        }
        for (half, expected) in [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\ude00\ud83dx""#, "\u{fffd}\u{fffd}x"),
        ] {
            assert_eq!(json(half).string().expect(half).plain(), expected);
        }
    }

    #[test]
    fn written_json_is_read_back() {
        let all: String = (0..0x300)
            .filter_map(char::from_u32)
            .chain("😀\\\"".chars())
            .collect();
        let mut out = Vec::new();
        put!(
            &mut out,
            "{",
            Quoted("k"),
            ":[",
            Quoted(&all),
            ",",
            7,
            ",",
            json("[ 1]"),
            "]}"
        );
        let found = Json::parse(&out).expect("valid").get("k").expect("k");
        let mut items = found.items();
        assert_eq!(
            items.next().and_then(Json::string).expect("all").plain(),
            all
        );
        assert_eq!(items.map(Json::text).collect::<Vec<_>>(), ["7", "[ 1]"]);
        assert_eq!(escaped("a\"\u{1}"), "a\\\"\\u0001");
    }

    #[test]
    fn numbers_are_whole_or_not_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("1.0", None),
            ("1e3", None),
            ("\"1\"", None),
        ] {
            assert_eq!(json(text).number(), expected, "{text}");
        }
        assert!(json("-1.5").is_number() && !json("\"1\"").is_number());
    }
}
