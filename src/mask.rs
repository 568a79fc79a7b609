//! Covers a key that an answer repeats: an error that quotes it, a debugging endpoint. Pure, and in place: the answer
//! keeps its length, and only what may be the beginning of a key is held back.

use std::borrow::Cow;

use memchr::memrchr_iter;

use crate::ascii::{begins, ends};

/// How many characters of a key may be seen, as everywhere.
const SEEN: usize = 4;

/// Shorter keys are placeholders for servers without keys (`ollama`, `none`), and ordinary words.
const SHORT: usize = 12;

/// No key is longer, as it is written in an answer.
const LONG: usize = 1000;

/// How much of an answer is searched, in bytes; more than any error. A longer answer of known length is not searched at
/// all.
const LARGEST: u64 = 64 * 1024;

/// One answer that passes.
#[derive(Debug, Default)]
pub struct Mask {
    /// What may be the beginning of a key, until more comes.
    held: Vec<u8>,
    passed: u64,
}

impl Mask {
    /// For an answer of this type and length; `None`: it need not be searched. Searched is text that is not a stream,
    /// and not large.
    pub fn of(content_type: Option<&[u8]>, length: Option<u64>) -> Option<Mask> {
        let small = length.is_none_or(|n| n <= LARGEST);
        (small && is_text(content_type)).then(Mask::default)
    }

    /// Puts the held bytes at the start of `buffer`, and returns how many. The next piece belongs behind them.
    pub fn begin(&mut self, buffer: &mut [u8]) -> usize {
        let n = self.held.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.held[..n]);
        self.held.drain(..n);
        n
    }

    /// Covers `key` in what [`Mask::begin`] and a reader put into `piece`. Returns how much of it may go on; the rest
    /// is held.
    pub fn pass(&mut self, piece: &mut [u8], key: &[u8]) -> usize {
        if self.passed > LARGEST || key.len() < SHORT {
            return piece.len();
        }
        let Some(last) = piece.last().copied() else {
            return 0;
        };
        let mut waits = 0;
        for form in [Some(Cow::Borrowed(key)), escaped(key)]
            .into_iter()
            .flatten()
        {
            if form.len() > LONG {
                continue;
            }
            cover(piece, &form);
            // How much the piece may end with, the most first; most often it is nothing.
            let mut begun = memrchr_iter(last, &form[..form.len() - 1]).map(|at| at + 1);
            let begun = begun.find(|n| piece.ends_with(&form[..*n]));
            waits = begun.unwrap_or(0).max(waits);
        }
        let goes = piece.len() - waits;
        if waits > 0 {
            self.held.splice(..0, piece[goes..].iter().copied());
        }
        self.passed += goes as u64;
        goes
    }
}

/// Whether a body of this type can be read by people, so that a key in it would be seen.
fn is_text(content_type: Option<&[u8]>) -> bool {
    let Some(kind) = content_type else {
        return true; // not known, so perhaps
    };
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii();
    let words = ["json", "xml", "html", "javascript", "x-www-form-urlencoded"];
    let is_plain = begins(kind, "text/");
    (is_plain || words.iter().any(|word| ends(kind, word)))
        && !kind.eq_ignore_ascii_case(b"text/event-stream")
}

/// The key as PHP writes JSON: `\/` for `/`.
fn escaped(key: &[u8]) -> Option<Cow<'_, [u8]>> {
    key.contains(&b'/').then(|| {
        let mut out = Vec::with_capacity(key.len() + 8);
        for byte in key {
            if *byte == b'/' {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.into()
    })
}

/// Puts stars over each occurrence of `needle`, except its last characters. Horspool's method, which looks at every
/// thirtieth byte or so: on a small board most answers pass through here.
fn cover(text: &mut [u8], needle: &[u8]) {
    let last = needle.len() - 1;
    // How far the window may move when it ends in this byte.
    let step = |left: usize| u8::try_from(left).unwrap_or(u8::MAX);
    let mut skip = [step(needle.len()); 256];
    for (at, byte) in needle[..last].iter().enumerate() {
        skip[usize::from(*byte)] = step(last - at);
    }
    let mut at = 0;
    while let Some(window) = text.get_mut(at..at + needle.len()) {
        if window[last] == needle[last] && window == needle {
            window[..needle.len() - SEEN].fill(b'*');
            at += needle.len() - SEEN; // the next one may begin in the part that is left
            continue;
        }
        at += usize::from(skip[usize::from(window[last])]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sk-aaaa/bbbb+cccc=1234";

    /// What comes out of a text that is read in pieces of this size.
    fn in_pieces(text: &str, key: &str, size: usize) -> String {
        let mut mask = Mask::default();
        let (mut rest, mut out) = (text.as_bytes(), Vec::new());
        let mut buffer = [0; 1024];
        loop {
            let held = mask.begin(&mut buffer);
            let n = rest.len().min(size).min(buffer.len() - held);
            buffer[held..held + n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            let goes = match n {
                0 => held,
                n => mask.pass(&mut buffer[..held + n], key.as_bytes()),
            };
            out.extend_from_slice(&buffer[..goes]);
            if n == 0 {
                assert_eq!(out.len(), text.len());
                return String::from_utf8(out).expect("still text");
            }
        }
    }

    fn masked(text: &str, key: &str) -> String {
        let whole = in_pieces(text, key, 1024);
        for size in [1, 2, 7, 19, 100] {
            assert_eq!(in_pieces(text, key, size), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn a_key_is_covered_wherever_it_stands_but_for_its_last_four() {
        let stars = "*".repeat(KEY.len() - 4) + "1234";
        for (before, after) in [
            ("", ""),
            ("\"key: ", ".\""),
            ("s", "4"),
            ("sk-aaaa/", ""),
            ("", "sk-aaaa/"),
        ] {
            let text = format!("{before}{KEY}{after}");
            assert_eq!(masked(&text, KEY), format!("{before}{stars}{after}"));
        }
        assert_eq!(
            masked(&format!("{KEY}{KEY} {KEY}"), KEY),
            format!("{stars}{stars} {stars}")
        );
    }

    #[test]
    fn a_slash_may_be_escaped() {
        let text = KEY.replace('/', "\\/");
        let covered = masked(&format!("{{\"k\":\"{text}\"}}"), KEY);
        assert_eq!(
            covered,
            format!("{{\"k\":\"{}1234\"}}", "*".repeat(text.len() - 4))
        );
    }

    #[test]
    fn text_other_than_the_key_stays() {
        for text in [
            "",
            "1234",
            &KEY[1..],
            &KEY[..KEY.len() - 1],
            "sk-aaaa/bbbb+cccc=1235",
            "ünï…",
        ] {
            assert_eq!(masked(text, KEY), text);
        }
    }

    #[test]
    fn a_short_key_that_may_be_an_ordinary_word_is_not_masked() {
        assert_eq!(masked("ollama says no", "ollama"), "ollama says no");
    }

    #[test]
    fn it_finds_what_a_plain_search_finds() {
        // Texts of two letters are full of near misses.
        let mut seed = 1_u32;
        let mut letter = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if seed >> 31 == 0 { 'a' } else { 'b' }
        };
        for _ in 0..2000 {
            let key: String = (0..12).map(|_| letter()).collect();
            let mut text: String = (0..60).map(|_| letter()).collect();
            text += &key;
            let text = text + &(0..20).map(|_| letter()).collect::<String>();
            let places: Vec<usize> = (0..text.len())
                .filter(|at| text[*at..].starts_with(&key))
                .collect();
            for size in [1, 2, 7, 19, 1024] {
                let found = in_pieces(&text, &key, size);
                assert!(!found.contains(&key), "{key} in {text}");
                if places.len() == 1 {
                    let expected = text.replace(&key, &format!("********{}", &key[8..]));
                    assert_eq!(found, expected, "{key}");
                }
            }
        }
    }

    #[test]
    fn a_key_longer_than_a_step_is_found_too() {
        let key = "k".repeat(150) + &"y".repeat(150);
        let covered = masked(&format!("{}{key}", "x".repeat(1000)), &key);
        assert!(
            !covered.contains('k') && covered.ends_with("*yyyy"),
            "{covered}"
        );
    }

    #[test]
    fn a_piece_passes_at_once_but_for_what_may_begin_a_key() {
        let mut mask = Mask::default();
        for (piece, goes) in [("{\"a\": ", 6), ("one", 3), ("two s", 4)] {
            let mut piece = piece.as_bytes().to_vec();
            assert_eq!(mask.pass(&mut piece, KEY.as_bytes()), goes.min(piece.len()));
        }
        let mut buffer = [0; 8];
        assert_eq!((mask.begin(&mut buffer), buffer[0]), (1, b's'));
    }

    #[test]
    fn the_end_of_a_long_answer_is_not_searched() {
        let mut mask = Mask::default();
        let mut long = vec![b'x'; 70_000];
        assert_eq!(mask.pass(&mut long, KEY.as_bytes()), long.len());
        let mut late = KEY.as_bytes().to_vec();
        assert_eq!(mask.pass(&mut late, KEY.as_bytes()), KEY.len());
        assert_eq!(late, KEY.as_bytes());
        assert!(Mask::of(None, Some(LARGEST)).is_some() && Mask::of(None, None).is_some());
        assert!(Mask::of(None, Some(LARGEST + 1)).is_none());
    }

    #[test]
    fn text_is_what_people_can_read() {
        for (kind, text) in [
            (None, true),
            (Some("application/json; charset=utf-8"), true),
            (Some("Application/Problem+JSON"), true),
            (Some("text/plain"), true),
            (Some("text/html;x"), true),
            (Some("application/xml"), true),
            (Some("text/event-stream"), false),
            (Some("audio/mpeg"), false),
            (Some("application/octet-stream"), false),
            (Some("image/png"), false),
        ] {
            assert_eq!(is_text(kind.map(str::as_bytes)), text, "{kind:?}");
        }
    }
}
