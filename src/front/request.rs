//! A request as its handler sees it, and the writer of its response.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, mem, thread};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use tiny_http::{HTTPVersion, Method};

use super::connection::{Buffers, RequestEnd};
use super::head::Head;
use crate::headers::Field;

/// How long a client's buffers may be full in all, plus the time its bytes take at [`TAKEN_RATE`]: a client that reads
/// an answer drop by drop holds a place.
const FULL_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes per second.
const TAKEN_RATE: u64 = 500;

/// A request on its connection's thread.
///
/// [`Request::into_writer`] answers it. If it is dropped without that, the client gets 500 and the connection ends.
pub struct Request<'c> {
    head: Head,
    line: &'c mut Buffers,
    client: SocketAddr,
    /// The connection is to be closed after the answer.
    closing: bool,
    /// The client waits for `100 Continue`.
    must_send_continue: bool,
}

impl<'c> Request<'c> {
    /// A request whose head was read from `line`, where its body follows.
    pub(super) fn new(head: Head, line: &'c mut Buffers, client: SocketAddr) -> Request<'c> {
        // a client that has begun to send its body does not wait for us
        let waits = !line.body.is_done() && line.body.source().buffered().is_empty();
        Request {
            must_send_continue: head.expects_continue && waits,
            head,
            line,
            client,
            closing: false,
        }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The target as it stands in the request line.
    pub fn url(&self) -> &str {
        self.head.target()
    }

    /// All header fields in the order sent: the name as it was spelled, and the bytes of the value
    /// without the white space around them.
    pub fn raw_headers(&self) -> impl Iterator<Item = Field<'_>> {
        self.head.fields()
    }

    /// HTTP/1.0 or HTTP/1.1.
    pub fn http_version(&self) -> &HTTPVersion {
        &self.head.version
    }

    /// The declared length of the body in bytes; `usize::MAX` if it does not fit.
    pub fn body_length(&self) -> Option<usize> {
        let length = self.head.content_length?;
        Some(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The address of the client, or of a proxy in front of alvus.
    pub fn remote_addr(&self) -> SocketAddr {
        self.client
    }

    /// The client's socket: to watch whether it is still there, and to break the connection off.
    pub fn client(&self) -> Arc<TcpStream> {
        self.line.socket.clone()
    }

    /// Whether the connection stays open after the answer, as far as is known now. If the client
    /// waits for `100 Continue` and its body is not read, it does not.
    pub fn keeps_alive(&self) -> bool {
        self.head.persistent && !self.closing && !self.must_send_continue
    }

    /// Closes the connection after the answer, without reading the rest of the body. The client is
    /// told, and has a while to notice.
    pub fn close_connection(&mut self) {
        self.closing = true;
    }

    /// The body. The first call sends `100 Continue` to a client that waits for it.
    pub fn as_reader(&mut self) -> &mut dyn Read {
        if mem::take(&mut self.must_send_continue) {
            // an interim response has no body, thus no Content-Length (RFC 9110, 8.6)
            let _ = (&*self.line.socket).write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        &mut self.line.body
    }

    /// The writer for one whole response: head and body. The response ends when it is dropped.
    pub fn into_writer(self) -> ResponseWriter<'c> {
        self.into_parts().1
    }

    /// The same, with the head but without its fields: a request that may take minutes does not need them.
    pub fn into_parts(self) -> (Head, ResponseWriter<'c>) {
        let then = match self.keeps_alive() {
            true => RequestEnd::Open,
            false => RequestEnd::Last,
        };
        let Buffers { socket, end, body } = self.line;
        body.source().give_back();
        let writer = ResponseWriter {
            taken: Taken::default(),
            socket,
            end,
            then,
        };
        (self.head.without_fields(), writer)
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} from {})", self.head.method, self.client)
    }
}

/// Writes the response to a request.
///
/// Each write is sent at once, and whole. If a write failed, or a panic drops it, the connection is
/// broken off: half a response must not look like the start of the next one.
pub struct ResponseWriter<'c> {
    taken: Taken,
    socket: &'c TcpStream,
    end: &'c mut RequestEnd,
    /// How the connection goes on after the response.
    then: RequestEnd,
}

impl Write for ResponseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.taken.send(self.socket, bytes);
        if sent.is_err() {
            self.then = RequestEnd::Broken;
        }
        sent.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How slowly a client takes an answer.
#[derive(Default)]
struct Taken {
    bytes: u64,
    /// How long its buffers were full.
    full: Duration,
}

impl Taken {
    fn send(&mut self, mut socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // The clock is read for slow clients only.
            let n = match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => {
                    let since = Instant::now();
                    let n = socket.write(bytes);
                    self.full += since.elapsed();
                    n
                }
                sent => sent.map_err(io::Error::from),
            };
            match n {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // that is how a socket's timeout shows on Unix
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let text = "the client takes nothing";
                    return Err(io::Error::new(ErrorKind::TimedOut, text));
                }
                n => {
                    let n = n?;
                    self.bytes += n as u64;
                    bytes = &bytes[n..];
                }
            }
            if self.is_too_slow() {
                let text = "the client takes too little at a time";
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
        }
        Ok(())
    }

    fn is_too_slow(&self) -> bool {
        let earned = Duration::from_secs(self.bytes / TAKEN_RATE);
        self.full > FULL_PATIENCE + earned
    }
}

impl Drop for ResponseWriter<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.then = RequestEnd::Broken;
        }
        if self.then == RequestEnd::Broken {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        *self.end = self.then;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_drips_an_answer_away_is_too_slow_and_one_on_a_thin_line_is_not() {
        let after = |secs, bytes| Taken {
            bytes,
            full: Duration::from_secs(secs),
        };
        for (secs, bytes, too_slow) in [
            (0, 0, false),
            (60, 0, false),
            (61, 0, true),
            (61, 499, true),
            (62, 1000, false),
            (3600, 3600 * 500, false),
            (3600, 3600 * 100, true),
        ] {
            assert_eq!(
                after(secs, bytes).is_too_slow(),
                too_slow,
                "{secs} s, {bytes}"
            );
        }
    }
}
