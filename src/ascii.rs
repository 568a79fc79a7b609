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
