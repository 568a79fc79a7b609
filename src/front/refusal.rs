//! The answer before alvus closes a connection by itself: a bad head, a client too slow, no slot, a panic.

use std::io::{self, Write};

use tiny_http::StatusCode;

use super::limits::Limits;

/// Writes an answer after which the connection ends.
pub fn write(out: &mut impl Write, limits: &Limits, status: u16, reason: &str) -> io::Result<()> {
    let (content_type, body) = (limits.error_body)(status, reason);
    let text = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        StatusCode(status).default_reason_phrase(),
        body.len(),
    );
    out.write_all(text.as_bytes())
}

/// The answer after a panic or a missing answer; valid for HEAD too.
pub const UNANSWERED: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_says_its_length_and_that_it_is_the_last() {
        let mut said = Vec::new();
        write(&mut said, &Limits::default(), 431, "too long").unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(
            said,
            "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 9\r\nConnection: close\r\n\r\ntoo long\n"
        );
    }
}
