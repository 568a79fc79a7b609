//! The head of a request: the request line and the header fields, read by the letter of RFC 9112.
//!
//! What two parties could read in two ways is refused: that is how requests are smuggled past a proxy.

use std::io::{self, BufRead, ErrorKind};
use std::ops::Range;
use std::str;

use memchr::memchr;
use tiny_http::{HTTPVersion, Method};

use super::body::BodyLength;
use super::limits::Limits;
use crate::headers::{Field, is_value};
use crate::token::{is_token, is_token_byte};

/// Why there is no head.
#[derive(Debug)]
pub enum HeadError {
    /// The client left, or is too slow.
    Io(io::Error),
    /// The client gets this status, with this reason.
    Refused(u16, &'static str),
}

impl From<io::Error> for HeadError {
    fn from(e: io::Error) -> HeadError {
        HeadError::Io(e)
    }
}

fn bad<T>(why: &'static str) -> Result<T, HeadError> {
    refused(400, why)
}

fn refused<T>(status: u16, why: &'static str) -> Result<T, HeadError> {
    Err(HeadError::Refused(status, why))
}

/// The head of a request.
pub struct Head {
    /// The bytes as they came. The fields' ranges point into it.
    text: Vec<u8>,
    fields: Vec<Place>,
    target: String,

    /// The method.
    pub method: Method,
    /// 1.0, or 1.1 for that and all later ones.
    pub version: HTTPVersion,
    /// The declared length of the body, in bytes.
    pub content_length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The connection stays open after this request.
    pub persistent: bool,
}

/// Where a field stands.
struct Place {
    name: Range<usize>,
    value: Range<usize>,
}

impl Head {
    /// Reads a head, and not a byte further.
    ///
    /// # Errors
    /// When the client left, or the refusal.
    pub fn read<R: BufRead>(source: &mut R, limits: &Limits) -> Result<Head, HeadError> {
        // A client that speaks TLS here may never end a line. Old clients sent an empty line after
        // the body of a POST (RFC 9112, 2.2).
        match source.fill_buf()?.first() {
            None => return Err(HeadError::Io(ErrorKind::UnexpectedEof.into())),
            Some(&b) if is_token_byte(b) || b == b'\r' => (),
            Some(_) => return bad("the request does not start with a method"),
        }

        let mut text = Vec::with_capacity(512);
        let mut line = read_line(source, &mut text, limits, 414)?;
        if line.is_empty() {
            line = read_line(source, &mut text, limits, 414)?;
        }
        let (method, target, version) = parse_request_line(&text, line)?;

        let mut fields = Vec::with_capacity(16);
        loop {
            let line = read_line(source, &mut text, limits, 431)?;
            if line.is_empty() {
                break;
            }
            if fields.len() >= limits.max_headers {
                return refused(431, "too many header fields");
            }
            fields.push(parse_field(&text, line)?);
        }

        let mut head = Head {
            text,
            fields,
            target,
            persistent: version > (1, 0),
            method,
            version,
            content_length: None,
            chunked: false,
            expects_continue: false,
        };
        head.interpret()?;
        Ok(head)
    }

    /// The request's target.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Where the body ends. If no field says so, there is no body (RFC 9112, 6.3).
    pub fn framing(&self) -> BodyLength {
        if self.chunked {
            BodyLength::Chunked
        } else {
            BodyLength::Length(self.content_length.unwrap_or(0))
        }
    }

    /// All fields, in the order sent.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let text = |range: &Range<usize>| &self.text[range.clone()];
        self.fields
            .iter()
            .map(move |at| (text(&at.name), text(&at.value)))
    }

    /// The head without its fields: a request that may take minutes does not need them.
    pub fn without_fields(self) -> Head {
        Head {
            text: Vec::new(),
            fields: Vec::new(),
            ..self
        }
    }

    /// Reads the fields that say how to read on.
    fn interpret(&mut self) -> Result<(), HeadError> {
        let mut hosts = 0;
        let mut close = false;
        let mut keep_alive = false;

        for at in &self.fields {
            let (name, value) = (&self.text[at.name.clone()], &self.text[at.value.clone()]);
            let is = |ours: &[u8]| name.eq_ignore_ascii_case(ours);

            // by length first: most fields are none of these
            match name.len() {
                14 if is(b"Content-Length") => {
                    if self.content_length.is_some() {
                        return bad("more than one Content-Length");
                    }
                    self.content_length = match parse_length(value) {
                        None => return bad("Content-Length is not a number of bytes"),
                        length => length,
                    };
                }
                17 if is(b"Transfer-Encoding") => {
                    if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return bad("Transfer-Encoding is not just chunked");
                    }
                    self.chunked = true;
                }
                4 if is(b"Host") => hosts += 1,
                10 if is(b"Connection") => {
                    for option in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                6 if is(b"Expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return refused(417, "the expectation is not 100-continue");
                    }
                    self.expects_continue = true;
                }
                _ => (),
            }
        }
        self.conclude(hosts, close, keep_alive)
    }

    /// What the fields mean together.
    fn conclude(&mut self, hosts: u32, close: bool, keep_alive: bool) -> Result<(), HeadError> {
        // HTTP/1.0 needs no Host (RFC 9112, 3.2)
        match hosts {
            0 if self.version > (1, 0) => return bad("there is no Host"),
            0 | 1 => (),
            _ => return bad("more than one Host"),
        }
        if self.chunked && self.content_length.is_some() {
            return bad("both Content-Length and Transfer-Encoding");
        }
        if self.version == (1, 0) {
            if self.chunked {
                return bad("Transfer-Encoding in HTTP/1.0");
            }
            // an HTTP/1.0 client does not know interim responses (RFC 9110, 10.1.1)
            self.expects_continue = false;
            self.persistent = keep_alive;
        }
        self.persistent &= !close;
        Ok(())
    }
}

/// Appends a line to `text`. Returns its range, without the CRLF.
fn read_line<R: BufRead>(
    source: &mut R,
    text: &mut Vec<u8>,
    limits: &Limits,
    too_long: u16,
) -> Result<Range<usize>, HeadError> {
    let start = text.len();
    let left = limits.max_head.saturating_sub(start);
    let most = left.min(limits.max_line.saturating_add(2));
    // Not `read_until`: where std is built for size, it searches byte by byte (1 500 instructions a request).
    loop {
        let here = source.fill_buf()?;
        let room = start + most - text.len();
        let here = &here[..here.len().min(room)];
        let end = memchr(b'\n', here);
        let size = end.map_or(here.len(), |end| end + 1);
        text.extend_from_slice(&here[..size]);
        source.consume(size);
        if end.is_some() || size == 0 {
            break;
        }
    }
    let n = text.len() - start;
    match text[start..] {
        [.., b'\r', b'\n'] => Ok(start..text.len() - 2),
        [.., b'\n'] => bad("a line does not end in CRLF"),
        _ if n < most => Err(HeadError::Io(ErrorKind::UnexpectedEof.into())),
        _ if n == left => refused(431, "the head of the request is too long"),
        _ => refused(too_long, "a line of the head is too long"),
    }
}

/// `method SP request-target SP HTTP-version`
fn parse_request_line(
    text: &[u8],
    line: Range<usize>,
) -> Result<(Method, String, HTTPVersion), HeadError> {
    let mut parts = text[line].splitn(3, |&b| b == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next())
    else {
        return bad("the request line is not: method, target, version");
    };

    let version = match version {
        b"HTTP/1.0" => HTTPVersion(1, 0),
        // later minor versions are read as 1.1 (RFC 9110, 2.5)
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => HTTPVersion(1, 1),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        }
        _ => return bad("the HTTP version is malformed"),
    };
    let text = str::from_utf8(method).ok().filter(|_| is_token(method));
    let Some(known) = text.and_then(|text| text.parse().ok()) else {
        return bad("the method is malformed");
    };
    let is_plain = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    let Some(target) = str::from_utf8(target).ok().filter(|_| is_plain) else {
        return bad("the target holds a byte that has to be percent-encoded");
    };
    Ok((known, target.to_owned(), version))
}

/// `field-name ":" OWS field-value OWS`
fn parse_field(text: &[u8], line: Range<usize>) -> Result<Place, HeadError> {
    let bytes = &text[line.clone()];
    // this refuses white space before the colon, and folded lines
    let colon = bytes.iter().position(|&b| !is_token_byte(b));
    let Some(colon) = colon.filter(|&at| at > 0 && bytes[at] == b':') else {
        return bad(match bytes.contains(&b':') {
            true => "the name of a header field is malformed",
            false => "a header field has no colon",
        });
    };
    let value = &bytes[colon + 1..];
    if !is_value(value) {
        return bad("a header field holds a control byte");
    }

    // of white space, only blanks and tabs are left
    let value = value.trim_ascii_start();
    let start = line.end - value.len();
    Ok(Place {
        name: line.start..line.start + colon,
        value: start..start + value.trim_ascii_end().len(),
    })
}

/// `1*DIGIT`: no sign, no list, nothing that does not fit
fn parse_length(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Limits;
    use super::{Head, HeadError};

    fn read(text: &str) -> Result<Head, u16> {
        Head::read(&mut text.as_bytes(), &Limits::default()).map_err(|e| match e {
            HeadError::Refused(status, _) => status,
            HeadError::Io(_) => 0,
        })
    }

    #[test]
    fn fields_come_as_they_were_sent() {
        let head =
            read("POST /a?b HTTP/1.1\r\nHost: c\r\nB: \t1 2 \r\na:\r\nB:3\r\n\r\nbody").unwrap();
        assert_eq!(head.method.as_str(), "POST");
        assert_eq!(head.target(), "/a?b");
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(
            fields,
            [
                (&b"Host"[..], &b"c"[..]),
                (b"B", b"1 2"),
                (b"a", b""),
                (b"B", b"3")
            ]
        );
    }

    #[test]
    fn only_one_reading_is_accepted() {
        for (status, text) in [
            (400, "GET /\r\n\r\n"),
            (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/1.1 \r\n\r\n"),
            (400, "GET / http/1.1\r\n\r\n"),
            (400, "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/1.1\nA: b\n\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
            (400, "GET / HTTP/1.1\r\n\r\n"),
            (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            (417, "GET / HTTP/1.1\r\nHost: a\r\nExpect: a\r\n\r\n"),
            (0, "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n"),
        ] {
            assert_eq!(read(text).err(), Some(status), "{text:?}");
        }
    }

    #[test]
    fn the_length_of_the_body_is_said_once_and_plainly() {
        for fields in [
            "Content-Length: +3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(read(&text).err(), Some(400), "{fields:?}");
        }
        assert!(read("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let most =
            read("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n")
                .unwrap();
        assert_eq!(most.content_length, Some(u64::MAX));
    }

    #[test]
    fn connections_persist_as_their_version_says() {
        for (persistent, text) in [
            (true, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (
                false,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, Close\r\n\r\n",
            ),
            (
                true,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: not-close\r\n\r\n",
            ),
            (false, "GET / HTTP/1.0\r\n\r\n"),
            (true, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
        ] {
            assert_eq!(read(text).unwrap().persistent, persistent, "{text:?}");
        }
    }

    #[test]
    fn a_head_has_its_limits() {
        let long = "x".repeat(9000);
        assert_eq!(
            read(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")).err(),
            Some(414)
        );
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n")).err(),
            Some(431)
        );
        let many = "a: b\r\n".repeat(101);
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).err(),
            Some(431)
        );
        let wide = format!("a: {}\r\n", &long[..4000]).repeat(9);
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{wide}\r\n")).err(),
            Some(431)
        );
    }
}
