//! Reads the body of a request: as many bytes as its head declares, or its chunks.

use std::io::{self, BufRead, ErrorKind, Read};

/// The longest line of a chunked body that holds a size, extensions included.
const MAX_CHUNK_LINE: usize = 256;

/// The most bytes of trailers behind a chunked body. They are read and thrown away.
const MAX_TRAILERS: usize = 8 * 1024;

/// What a request's head says about where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// After that many bytes. The client's number is not trusted: nothing is allocated by it.
    Length(u64),
    /// At the end of its chunks.
    Chunked,
}

/// A connection's incoming bytes, read as the bodies of its requests.
///
/// Reads give the body that [`IncomingBody::begin`] declared. If the client closes the connection before
/// its end, they give an error.
pub struct IncomingBody<R> {
    source: R,
    state: State,
    /// The line being read; its memory is used again.
    line: Vec<u8>,
}

#[derive(Clone, Copy)]
enum State {
    /// This many bytes are still to come, of a chunk or of the whole body.
    Data { left: u64, chunked: bool },
    /// The next line is empty: the end of a chunk.
    ChunkEnd,
    /// The next line holds the size of a chunk.
    ChunkSize,
    /// The body has been read in full.
    Done,
    /// The body broke off, or makes no sense.
    Failed(ErrorKind),
}

impl<R: BufRead> IncomingBody<R> {
    /// An empty body, already read, before the first request.
    pub fn new(source: R) -> IncomingBody<R> {
        IncomingBody {
            source,
            state: State::Done,
            line: Vec::new(),
        }
    }

    /// The bytes themselves, to read the next head from once the last body is done.
    pub fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// The head was read: a body begins here.
    pub fn begin(&mut self, framing: BodyLength) {
        self.state = match framing {
            BodyLength::Length(0) => State::Done,
            BodyLength::Length(left) => State::Data {
                left,
                chunked: false,
            },
            BodyLength::Chunked => State::ChunkSize,
        };
    }

    /// Whether the body was read in full.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Throws the rest of the body away, `at_most` so many bytes.
    ///
    /// Returns true if the next request may follow.
    pub fn discard(&mut self, at_most: usize) -> bool {
        let mut left = at_most;
        let mut buf = [0; 1024];
        while left > 0 && !self.is_done() {
            let n = left.min(buf.len());
            match self.read(&mut buf[..n]) {
                Ok(0) | Err(_) => break,
                Ok(n) => left -= n,
            }
        }
        self.is_done()
    }

    fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let State::ChunkEnd = self.state {
            self.read_line(0)?;
            self.state = State::ChunkSize;
        }
        if let State::ChunkSize = self.state {
            self.state = match self.read_chunk_size()? {
                0 => {
                    self.read_trailers()?;
                    State::Done
                }
                left => State::Data {
                    left,
                    chunked: true,
                },
            };
        }

        match self.state {
            State::Data { left, chunked } => {
                let n = self.read_some(buf, left)?;
                self.state = match left - n {
                    0 if chunked => State::ChunkEnd,
                    0 => State::Done,
                    left => State::Data { left, chunked },
                };
                Ok(n as usize)
            }
            State::Failed(kind) => Err(kind.into()),
            State::ChunkEnd | State::ChunkSize | State::Done => Ok(0),
        }
    }

    /// Reads at most `left` bytes, and at least one.
    fn read_some(&mut self, buf: &mut [u8], left: u64) -> io::Result<u64> {
        let most = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        match self.source.read(&mut buf[..most])? {
            0 if most > 0 => Err(ErrorKind::UnexpectedEof.into()),
            n => Ok(n as u64),
        }
    }

    /// `1*HEXDIG [ chunk-ext ] CRLF`, RFC 9112, 7.1
    fn read_chunk_size(&mut self) -> io::Result<u64> {
        self.read_line(MAX_CHUNK_LINE)?;
        let digits = self.line.iter().take_while(|b| b.is_ascii_hexdigit());
        let (digits, rest) = self.line.split_at(digits.count());
        let is_extension = rest.trim_ascii_start().starts_with(b";");
        let digits = str::from_utf8(digits).ok();
        let digits = digits.filter(|_| rest.is_empty() || is_extension);
        let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        size.ok_or(ErrorKind::InvalidData.into())
    }

    fn read_trailers(&mut self) -> io::Result<()> {
        let mut left = MAX_TRAILERS;
        loop {
            self.read_line(left)?;
            if self.line.is_empty() {
                return Ok(());
            }
            left = left.saturating_sub(self.line.len());
        }
    }

    /// Reads a line of at most `max` bytes plus CRLF into `self.line`.
    fn read_line(&mut self, max: usize) -> io::Result<()> {
        self.line.clear();
        let most = max as u64 + 3; // one byte beyond shows that it is too long
        let mut source = (&mut self.source).take(most);
        let n = source.read_until(b'\n', &mut self.line)?;
        let control = |b: &u8| *b < b' ' && *b != b'\t';
        match &self.line[..] {
            _ if n > max + 2 => Err(ErrorKind::InvalidData.into()),
            // lines end in CRLF, and nowhere else are control bytes allowed
            [text @ .., b'\r', b'\n'] if !text.iter().any(control) => {
                self.line.truncate(n - 2);
                Ok(())
            }
            [.., b'\n'] => Err(ErrorKind::InvalidData.into()),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: BufRead> Read for IncomingBody<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.try_read(buf);
        if let Err(e) = &result {
            // a second try must not read the rest as if nothing had happened
            self.state = State::Failed(e.kind());
        }
        result.map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                io::Error::new(e.kind(), "the client closed the connection within the body")
            }
            ErrorKind::InvalidData => {
                io::Error::new(e.kind(), "the chunks of the body are malformed")
            }
            _ => e,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{BodyLength, IncomingBody};
    use std::io::{BufReader, ErrorKind, Read};

    fn read(framing: BodyLength, sent: &[u8]) -> Result<(Vec<u8>, Vec<u8>), ErrorKind> {
        let mut body = IncomingBody::new(BufReader::with_capacity(3, sent));
        body.begin(framing);
        let (mut got, mut rest) = (Vec::new(), Vec::new());
        body.read_to_end(&mut got).map_err(|e| e.kind())?;
        assert!(body.is_done());
        body.source().read_to_end(&mut rest).unwrap();
        Ok((got, rest))
    }

    #[test]
    fn a_body_is_read_to_its_declared_end() {
        let both = Ok((b"hello".to_vec(), b"GET".to_vec()));
        assert_eq!(read(BodyLength::Length(5), b"helloGET"), both);
        for chunked in [
            "5\r\nhello\r\n0\r\n\r\nGET",
            "2\r\nhe\r\n003 ; a=b\r\nllo\r\n0\r\nTrailer: x\r\n\r\nGET",
        ] {
            assert_eq!(
                read(BodyLength::Chunked, chunked.as_bytes()),
                both,
                "{chunked:?}"
            );
        }
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let cut = Err(ErrorKind::UnexpectedEof);
        assert_eq!(read(BodyLength::Length(u64::MAX), b"hell"), cut);
        for chunked in [
            "",
            "5",
            "5\r",
            "5\r\nhel",
            "5\r\nhello",
            "5\r\nhello\r\n0\r\n",
        ] {
            assert_eq!(
                read(BodyLength::Chunked, chunked.as_bytes()),
                cut,
                "{chunked:?}"
            );
        }
    }

    #[test]
    fn a_malformed_chunk_is_an_error() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(9000));
        for chunked in [
            "\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "-1\r\nhello\r\n0\r\n\r\n",
            "5\0\r\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            &long,
            &trailers,
        ] {
            assert_eq!(
                read(BodyLength::Chunked, chunked.as_bytes()),
                Err(ErrorKind::InvalidData),
                "{chunked:?}"
            );
        }
    }
}
