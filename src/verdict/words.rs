//! Splits a text into words, and finds phrases among them. Texts and codes are read alike:
//! `RESOURCE_EXHAUSTED`, `ResourceExhausted` and "resource exhausted" are the same two words.

use std::time::Duration;

use super::time::decimal;
use crate::ascii;

/// The most words that are read of one text, so that the work is bounded.
const MOST: usize = 1500;

/// One word: a run of letters of one kind, or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// Where it begins.
    pub(super) at: usize,
    /// A sentence begins with it.
    pub(super) first: bool,
}

impl Word<'_> {
    pub(super) fn end(&self) -> usize {
        self.at + self.text.len()
    }

    /// Its number, whatever the unit.
    pub(super) fn number(&self) -> Option<Duration> {
        decimal(&self.text.replace(',', ""))
    }

    pub(super) fn is_number(&self) -> bool {
        self.text.starts_with(|c: char| c.is_ascii_digit())
    }

    /// Whether it is one of these, in any case; `retr*` is each word that begins so. Chinese has no blanks between
    /// words: there a part of it counts.
    pub(super) fn is(&self, any_of: &str) -> bool {
        any_of.split(' ').any(|pattern| self.matches(pattern))
    }

    fn matches(&self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(stem) => ascii::begins(self.text.as_bytes(), stem),
            None if pattern.is_ascii() => self.text.eq_ignore_ascii_case(pattern),
            None => self.text.contains(pattern),
        }
    }
}

/// Splits a text: at all but letters and digits, between letters and digits (`2hr`), and inside
/// camel case. A number keeps its fraction and the commas between its thousands.
pub(super) fn words(text: &str) -> Vec<Word<'_>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Word> = Vec::new();
    let (mut at, mut first) = (0, true);
    while at < bytes.len() && found.len() < MOST {
        if !is_inner(bytes[at]) {
            let blank_follows = bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace);
            first |= match bytes[at] {
                b'\n' | b';' => true,
                b'.' | b'!' | b'?' => blank_follows,
                _ => false,
            };
            at += 1;
            continue;
        }
        let end = word_end(bytes, at);
        found.push(Word {
            text: &text[at..end],
            at,
            first,
        });
        (at, first) = (end, false);
    }
    found
}

/// Bytes outside ASCII count as letters.
fn is_inner(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    let mut at = start + 1;
    if bytes[start].is_ascii_digit() {
        let mut fraction = false;
        loop {
            let next = byte(at + 1).is_ascii_digit();
            let thousands = || (2..=3).all(|n| byte(at + n).is_ascii_digit());
            match byte(at) {
                b if b.is_ascii_digit() => {}
                b'.' if next && !fraction => fraction = true,
                b',' if next && thousands() && !byte(at + 4).is_ascii_digit() => {}
                _ => return at,
            }
            at += 1;
        }
    }
    while is_inner(byte(at)) && !byte(at).is_ascii_digit() {
        let (before, here, after) = (byte(at - 1), byte(at), byte(at + 1));
        let hump = before.is_ascii_lowercase() && here.is_ascii_uppercase();
        let tail = before.is_ascii_uppercase()
            && here.is_ascii_uppercase()
            && after.is_ascii_lowercase()
            && byte(at + 2).is_ascii_alphabetic();
        if hump || tail {
            break;
        }
        at += 1;
    }
    at
}

/// Whether one of these phrases occurs. A phrase is words in a row; commas separate phrases.
pub(super) fn says(words: &[Word], phrases: &str) -> bool {
    first(words, phrases).is_some()
}

/// Where the first of these phrases begins that occurs.
pub(super) fn first(words: &[Word], phrases: &str) -> Option<usize> {
    phrases
        .split(", ")
        .find_map(|phrase| position(words, phrase))
}

/// Where a phrase begins.
pub(super) fn position(words: &[Word], phrase: &str) -> Option<usize> {
    positions(words, phrase).next()
}

/// All places where a phrase begins.
pub(super) fn positions(words: &[Word], phrase: &str) -> impl Iterator<Item = usize> {
    (0..words.len()).filter(|at| begins(&words[*at..], phrase))
}

/// Whether the words begin with a phrase.
pub(super) fn begins(words: &[Word], phrase: &str) -> bool {
    let mut rest = words.iter();
    phrase
        .split(' ')
        .all(|pattern| rest.next().is_some_and(|word| word.matches(pattern)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_falls_into_words_as_the_table_says() {
        for (text, expected) in [
            ("", ""),
            ("Resets in 2hr 57min.", "Resets in 2 hr 57 min"),
            ("retry in 34.074824224s.", "retry in 34.074824224 s"),
            ("1m30.5s", "1 m 30.5 s"),
            ("API_KEY_INVALID", "API KEY INVALID"),
            ("InvalidAPIKey apiKey", "Invalid API Key api Key"),
            ("RPDs TPM", "RPDs TPM"),
            (
                "limit 30,000, 1,2 and 1,2345",
                "limit 30,000 1 2 and 1 2345",
            ),
            ("1.2.3 v1", "1.2 3 v 1"),
            ("x-api-key: é!", "x api key é"),
            ("5.", "5"),
        ] {
            let found: Vec<&str> = words(text).iter().map(|word| word.text).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn sentences_begin_where_they_do() {
        let text = "Limit 3.5 per 60s. Please wait; then\ngo? Yes";
        let firsts: Vec<&str> = words(text)
            .iter()
            .filter(|w| w.first)
            .map(|w| w.text)
            .collect();
        assert_eq!(firsts, ["Limit", "Please", "then", "go", "Yes"]);
    }

    #[test]
    fn a_phrase_is_found_whatever_the_case_and_stems_count() {
        let text = words("No available channels for it");
        assert!(says(&text, "x, no AVAILABLE channel*"));
        assert!(!says(&text, "no channel*, for it all"));
        assert_eq!(position(&text, "for it"), Some(3));
    }
}
