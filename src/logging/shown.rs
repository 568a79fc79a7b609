//! Makes a text that somebody else chose fit to be shown. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// The most bytes that are shown. Names of models, clients and hosts are shorter.
pub const SHOWN: usize = 64;

/// A text that a client or an upstream chose, fit for a log, a page, a metric or a message: whole characters, at most
/// [`SHOWN`] bytes, and `…` if more follows. Characters that steer a terminal or reverse a line become `\u{…}`. Quotes
/// are not escaped: the caller does that.
pub fn shown(text: &str) -> Cow<'_, str> {
    let end = text.floor_char_boundary(SHOWN);
    let start = &text[..end];
    if end == text.len() && !start.contains(steers) {
        return start.into();
    }
    let mut out = String::with_capacity(start.len() + 16);
    for c in start.chars() {
        match steers(c) {
            // Writing into a String cannot fail.
            true => drop(write!(out, "\\u{{{:x}}}", c as u32)),
            false => out.push(c),
        }
    }
    if end < text.len() {
        out.push('…');
    }
    out.into()
}

/// Whether it is a control character, invisible, a line break, or reverses a line's direction (Unicode's "Trojan
/// Source" set, UTR #36).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_name_is_shown_as_it_is_and_costs_nothing() {
        for text in [
            "",
            "meta/llama-3.3-70b-instruct",
            "模型 ü \"quoted\" \\",
            &"x".repeat(SHOWN),
        ] {
            assert!(
                matches!(shown(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        for (text, expected) in [
            ("x".repeat(SHOWN + 1), "x".repeat(SHOWN) + "…"),
            ("ü".repeat(SHOWN), "ü".repeat(SHOWN / 2) + "…"),
            ("€".repeat(SHOWN), "€".repeat(SHOWN / 3) + "…"),
        ] {
            assert_eq!(shown(&text), expected);
        }
    }

    #[test]
    fn characters_that_steer_a_terminal_or_reverse_a_line_are_escaped() {
        for (text, expected) in [
            ("a\nb\r\t\0", r"a\u{a}b\u{d}\u{9}\u{0}"),
            ("\u{1b}[31mred\u{9b}0m", r"\u{1b}[31mred\u{9b}0m"),
            ("gpt\u{202e}4-\u{2066}x", r"gpt\u{202e}4-\u{2066}x"),
            (
                "a\u{200b}b\u{2028}c\u{feff}",
                r"a\u{200b}b\u{2028}c\u{feff}",
            ),
        ] {
            assert_eq!(shown(text), expected);
        }
    }
}
