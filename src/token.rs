//! The bytes of an HTTP token (`tchar` of RFC 9110 §5.6.2): methods and field names are tokens.

/// A table: each byte of each name is looked up.
static BYTES: [bool; 256] = {
    let mut is_token = [false; 256];
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < 256 {
        is_token[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < marks.len() {
        is_token[marks[at] as usize] = true;
        at += 1;
    }
    is_token
};

/// Whether these bytes are a token.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// Whether a token may hold this byte.
pub fn is_token_byte(byte: u8) -> bool {
    BYTES[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_letters_digits_and_some_marks() {
        for (text, token) in [
            ("x-a", true),
            ("!#$%&'*+-.^_`|~09azAZ", true),
            ("", false),
            ("x a", false),
            ("x:", false),
            ("x\r\n", false),
            ("x-\u{e9}", false),
            ("x(", false),
            ("x,", false),
            ("x@", false),
        ] {
            assert_eq!(is_token(text.as_bytes()), token, "{text:?}");
        }
    }
}
