//! Connections: TCP, and TLS on top where the target says https.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::Duration as Patience;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::INPUT_BUFFER;
use super::buffers::Corked;
use super::call::{CALL, wait};
use super::dns::CachingResolver;
use super::tls::{self, TlsSetup};
use super::{alarm, dial};
use crate::peer::Interest;

/// Makes connections: TCP, and TLS on top where the target says https.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) tls: Arc<TlsSetup>,
    pub(super) names: CachingResolver,
}

impl Connector for Dialler {
    type Out = Wire;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Wire>, ureq::Error> {
        CALL.with_borrow_mut(|call| call.fresh = true);
        let limit = details.timeout.not_zero().map_or(Duration::MAX, |d| *d);
        let (stream, addr) = dial::race(&details.addrs, limit)?;
        self.names.won(details.uri, addr);
        if !details.needs_tls() {
            return Ok(Some(Wire::new(Kind::Plain(stream))));
        }
        let wire = self.secure(stream, details);
        // A certificate is the same at every address; who is silent or breaks off may not be.
        if wire.is_err() && CALL.with_borrow(|call| !call.never && !call.client_left) {
            self.names.lost(details.uri, addr);
        }
        wire.map(Some)
    }
}

impl Dialler {
    /// TLS on top of a connection.
    fn secure(&self, stream: TcpStream, details: &ConnectionDetails) -> Result<Wire, ureq::Error> {
        let name = tls::name(details.uri.host().unwrap_or_default())
            .ok_or(ureq::Error::Tls("its host is no name that TLS can check"))?;
        let mut session = ClientConnection::new(self.tls.config(), name)?;
        let mut socket = Socket {
            stream,
            timeout: details.timeout,
            since: Instant::now(),
        };
        session
            .complete_io(&mut socket)
            .map_err(alarm::handshake_failed)?;
        Ok(Wire::new(Kind::Tls(Box::new(Tls {
            stream: StreamOwned::new(session, socket),
        }))))
    }
}

// The socket is non-blocking, and every wait goes through [`wait`].

fn send(mut to: &TcpStream, mut rest: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait(to, Interest::Write, timeout)?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // It wants no more of the request. What it said before, a 429 or a 413 perhaps, can still
            // be read; if it said nothing, reading tells.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn receive(
    mut from: &TcpStream,
    input: &mut [u8],
    timeout: NextTimeout,
) -> Result<usize, ureq::Error> {
    loop {
        wait(from, Interest::Read, timeout)?;
        match from.read(input) {
            Ok(n) => return Ok(n),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_open(mut stream: &TcpStream) -> bool {
    let probe = stream.read(&mut [0]);
    matches!(probe, Err(e) if e.kind() == ErrorKind::WouldBlock)
}

/// A connection as ureq uses it.
#[derive(Debug)]
pub(super) struct Wire {
    kind: Kind,
    buffers: Corked,
    /// The last answer was read and nothing was asked since.
    answered: bool,
}

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Wire {
    fn new(kind: Kind) -> Wire {
        Wire {
            kind,
            buffers: Corked::default(),
            answered: false,
        }
    }

    /// Sends what is held back.
    fn uncork(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let held = self.buffers.release();
        if held.is_empty() {
            return Ok(());
        }
        CALL.with_borrow_mut(|call| *call.sent.get_or_insert_with(Instant::now));
        self.kind.send(held, timeout)
    }

    /// Holds back what ureq wrote, with the call's own lines in the head when that is at its end.
    fn hold(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let end = b"\r\n";
        let output = self.buffers.output();
        let is_head = output[..amount].ends_with(b"\r\n\r\n");
        let lines = match is_head {
            true => CALL.with_borrow_mut(|call| std::mem::take(&mut call.lines.0)),
            false => Vec::new(),
        };
        if lines.is_empty() {
            self.buffers.hold(amount);
            return Ok(());
        }
        let at = amount - end.len();
        if at + lines.len() + end.len() <= output.len() {
            output[at..][..lines.len()].copy_from_slice(&lines);
            output[at + lines.len()..][..end.len()].copy_from_slice(end);
            self.buffers.hold(amount + lines.len());
            return Ok(());
        }
        // More than the buffer holds, they go out by themselves.
        self.buffers.hold(at);
        self.uncork(timeout)?;
        self.kind.send(&lines, timeout)?;
        self.buffers.output()[..end.len()].copy_from_slice(end);
        self.buffers.hold(end.len());
        Ok(())
    }
}

impl Kind {
    fn send(&mut self, bytes: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
        match self {
            Kind::Plain(stream) => send(stream, bytes, timeout),
            Kind::Tls(tls) => tls.send(bytes, timeout),
        }
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.answered = false;
        self.hold(amount, timeout)?;
        match self.buffers.is_full() {
            true => self.uncork(timeout),
            false => Ok(()),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let progress = self.uncork(timeout).and_then(|()| {
            // An answer of one read is over soon, and the next request finds the buffer there.
            if self.answered {
                self.buffers.asked();
            }
            let input = self.buffers.input_append_buf();
            if input.is_empty() {
                return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
            }
            let n = match &mut self.kind {
                Kind::Plain(stream) => receive(stream, input, timeout)?,
                Kind::Tls(tls) => tls.receive(input, timeout)?,
            };
            self.buffers.input_appended(n);
            Ok(n > 0)
        });
        match progress {
            // ureq takes a reset, or TLS without close_notify, for the end of a body that only the
            // connection's end delimits. Under another kind it stays the failure it is.
            Err(ureq::Error::Io(e)) => Err(io::Error::other(match e.kind() {
                ErrorKind::UnexpectedEof => {
                    "it ended the connection without a TLS close_notify".into()
                }
                _ => alarm::words_of(&e).unwrap_or_else(|| e.to_string()),
            })
            .into()),
            Ok(true) => {
                CALL.with_borrow_mut(|call| call.received = true);
                self.answered = true;
                Ok(true)
            }
            other => other,
        }
    }

    /// An idle connection with anything to read (bytes, an end, an error) is not fit for use. ureq
    /// asks when it puts a connection into its pool and when it takes it out; the latter is enough.
    fn is_open(&mut self) -> bool {
        if std::mem::take(&mut self.answered) {
            self.buffers.answered();
            return true;
        }
        match &mut self.kind {
            Kind::Plain(stream) => is_open(stream),
            Kind::Tls(tls) => is_open(&tls.stream.sock.stream),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }
}

/// What rustls reads and writes through: it has buffers of its own.
struct Socket {
    stream: TcpStream,
    /// For all that is read and written, `since` then.
    timeout: NextTimeout,
    since: Instant,
}

impl Socket {
    fn time_left(&self) -> Result<NextTimeout, ureq::Error> {
        let mut left = self.timeout;
        if let Patience::Exact(after) = left.after {
            let after = after.saturating_sub(self.since.elapsed());
            if after.is_zero() {
                return Err(ureq::Error::Timeout(left.reason));
            }
            left.after = Patience::Exact(after);
        }
        Ok(left)
    }
}

impl Read for Socket {
    fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        let left = self.time_left();
        left.and_then(|left| receive(&self.stream, input, left))
            .map_err(ureq::Error::into_io)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.time_left();
        left.and_then(|left| send(&self.stream, bytes, left))
            .map_err(ureq::Error::into_io)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS over a [`Socket`].
struct Tls {
    stream: StreamOwned<ClientConnection, Socket>,
}

impl Tls {
    fn set_timeout(&mut self, timeout: NextTimeout) {
        self.stream.sock.timeout = timeout;
        self.stream.sock.since = Instant::now();
    }

    fn send(&mut self, bytes: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.set_timeout(timeout);
        Ok(self.stream.write_all(bytes)?)
    }

    fn receive(&mut self, input: &mut [u8], timeout: NextTimeout) -> Result<usize, ureq::Error> {
        self.set_timeout(timeout);
        Ok(self.stream.read(input)?)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
