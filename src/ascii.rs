//! Beginnings and ends of texts, in any case.

/// Whether a text begins so.
pub fn begins(text: &[u8], with: &str) -> bool {
    let start = text.get(..with.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
}

/// Whether a text ends so.
pub fn ends(text: &[u8], with: &str) -> bool {
    let start = text.len().checked_sub(with.len());
    start.is_some_and(|start| text[start..].eq_ignore_ascii_case(with.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_and_an_end_are_known_in_any_case() {
        for (text, with, at_the_start, at_the_end) in [
            ("Text/HTML; charset=utf-8", "text/html", true, false),
            ("application/problem+JSON", "+json", false, true),
            ("json", "JSON", true, true),
            ("son", "json", false, false),
            ("", "", true, true),
        ] {
            let found = (begins(text.as_bytes(), with), ends(text.as_bytes(), with));
            assert_eq!(found, (at_the_start, at_the_end), "{text}");
        }
    }
}
