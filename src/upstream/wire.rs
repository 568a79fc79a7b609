//! Connections: TCP, and TLS on top if the target is https.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::Duration as Patience;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::INPUT_BUFFER;
use super::buffers::Buffer;
use super::call::{CALL, Request, wait};
use super::dns::CachingResolver;
use super::tls::{self, TlsSetup};
use super::{alarm, dial};
use crate::client::Interest;

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
        let socket = Socket::new(stream, details.timeout);
        if !details.needs_tls() {
            return Ok(Some(Wire::new(Kind::Plain(socket))));
        }
        let wire = self.secure(socket, details);
        // A bad certificate is the same at every address. A silent or broken server may not be.
        if wire.is_err() && CALL.with_borrow(|call| !call.never && !call.client_left) {
            self.names.lost(details.uri, addr);
        }
        wire.map(Some)
    }
}

impl Dialler {
    /// TLS on top of a connection.
    fn secure(&self, mut socket: Socket, details: &ConnectionDetails) -> Result<Wire, ureq::Error> {
        let name = tls::name(details.uri.host().unwrap_or_default()).ok_or(ureq::Error::Tls(
            "its host is not a name that TLS can check",
        ))?;
        let mut session = ClientConnection::new(self.tls.config(), name)?;
        session
            .complete_io(&mut socket)
            .map_err(alarm::handshake_failed)?;
        let tls = StreamOwned::new(session, socket);
        Ok(Wire::new(Kind::Tls(Box::new(tls))))
    }
}

/// A connection as ureq uses it.
pub(super) struct Wire {
    kind: Kind,
    buffer: Buffer,
    /// The last answer was read, and no request was sent since.
    answered: bool,
}

enum Kind {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Wire {
    fn new(kind: Kind) -> Wire {
        Wire {
            kind,
            buffer: Buffer::default(),
            answered: false,
        }
    }
}

impl Kind {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Kind::Plain(socket) => socket,
            Kind::Tls(tls) => &mut tls.sock,
        }
    }

    /// Sends a request, head and body together and from where they lie.
    fn send(&mut self, request: &Request, timeout: NextTimeout) -> io::Result<()> {
        self.socket().begin(timeout);
        let mut parts = [&request.head, &request.body].map(|part| IoSlice::new(part));
        let mut rest = &mut parts[..];
        IoSlice::advance_slices(&mut rest, 0); // skips an empty body
        while !rest.is_empty() {
            let n = match self {
                Kind::Plain(socket) => socket.write_vectored(rest),
                Kind::Tls(tls) => tls.write_vectored(rest),
            }?;
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }

    fn receive(&mut self, input: &mut [u8], timeout: NextTimeout) -> io::Result<usize> {
        self.socket().begin(timeout);
        match self {
            Kind::Plain(socket) => socket.read(input),
            Kind::Tls(tls) => decrypted(tls, input),
        }
    }
}

/// Reads as `tls` would by itself, but does not ask again for each token whether the handshake is over.
fn decrypted(
    tls: &mut StreamOwned<ClientConnection, Socket>,
    input: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.conn.reader().read(input) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
        // What is left of a request if a write failed: rustls hides that error and keeps the bytes.
        while tls.conn.wants_write() && tls.conn.write_tls(&mut tls.sock)? > 0 {}
        tls.conn.read_tls(&mut tls.sock)?;
        if let Err(e) = tls.conn.process_new_packets() {
            let _ = tls.conn.write_tls(&mut tls.sock); // the alert that says so
            return Err(io::Error::new(ErrorKind::InvalidData, e));
        }
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffer
    }

    /// ureq has written its own request: now the real one is sent. It is kept, as it may be sent again.
    fn transmit_output(&mut self, _: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.answered = false;
        let request = CALL.with_borrow_mut(|call| {
            if call.sent.is_some() {
                return None;
            }
            call.sent = Some(Instant::now());
            Some(mem::take(&mut call.request))
        });
        let Some(request) = request else {
            return Ok(());
        };
        self.buffer.asked();
        let sent = self.kind.send(&request, timeout);
        CALL.with_borrow_mut(|call| call.request = request);
        Ok(sent?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let input = self.buffer.input_append_buf();
        if input.is_empty() {
            return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
        }
        let n = self.kind.receive(input, timeout).map_err(lasting)?;
        self.buffer.input_appended(n);
        if n > 0 {
            CALL.with_borrow_mut(|call| call.received = true);
            self.answered = true;
        }
        Ok(n > 0)
    }

    /// An idle connection with anything to read (bytes, an end, an error) must not be used. ureq asks when it puts a
    /// connection into its pool and when it takes it out; checking the latter is enough.
    fn is_open(&mut self) -> bool {
        if mem::take(&mut self.answered) {
            self.buffer.answered();
            return true;
        }
        let probe = self.kind.socket().stream.read(&mut [0]);
        matches!(probe, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }
}

/// ureq takes a reset, or TLS without close_notify, for the end of a body that ends with the connection. With another
/// error kind it remains a failure.
fn lasting(error: io::Error) -> ureq::Error {
    match ureq::Error::from(error) {
        ureq::Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
            io::Error::other("it ended the connection without a TLS close_notify").into()
        }
        ureq::Error::Io(e) => {
            io::Error::other(alarm::words_of(&e).unwrap_or_else(|| e.to_string())).into()
        }
        other => other,
    }
}

/// A socket that does not block by itself: every wait goes through [`wait`].
struct Socket {
    stream: TcpStream,
    /// The time limit for all reads and writes, if there is one; counted from the first wait, which is `since`.
    timeout: NextTimeout,
    since: Option<Instant>,
}

impl Socket {
    fn new(stream: TcpStream, timeout: NextTimeout) -> Socket {
        Socket {
            stream,
            timeout,
            since: None,
        }
    }

    /// Sets the time limit, from the next wait on.
    fn begin(&mut self, timeout: NextTimeout) {
        (self.timeout, self.since) = (timeout, None);
    }

    fn wait(&mut self, interest: Interest) -> io::Result<()> {
        let mut left = self.timeout;
        if let Patience::Exact(after) = left.after {
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            let after = after.saturating_sub(now - since);
            if after.is_zero() {
                return Err(ureq::Error::Timeout(left.reason).into_io());
            }
            left.after = Patience::Exact(after);
        }
        wait(&self.stream, interest, left).map_err(ureq::Error::into_io)
    }
}

impl Read for Socket {
    fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(Interest::Read)?;
            match self.stream.read(input) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.stream.write_vectored(parts) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.wait(Interest::Write)?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // The server wants no more of the request. Its answer, perhaps a 429 or a 413, can still be read; if
                // there is none, the read says so.
                Err(e)
                    if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
                {
                    return Ok(parts.iter().map(|part| part.len()).sum());
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_time_limit_holds_for_all_waits_together() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let stream = TcpStream::connect(address).expect("a connection");
        let (mut peer, _) = listener.accept().expect("its other end");
        peer.write_all(b"x").expect("sent"); // there is always something to read
        let limit = |after| NextTimeout {
            after: Patience::Exact(after),
            reason: ureq::Timeout::RecvResponse,
            per_read: None,
            per_write: None,
        };
        let hour = limit(Duration::from_secs(3600));
        let mut socket = Socket::new(stream, hour);
        let may_wait = |socket: &mut Socket| socket.wait(Interest::Read).is_ok();
        assert!(may_wait(&mut socket));
        let began = socket.since.expect("counted from the first wait");
        assert!(may_wait(&mut socket) && socket.since == Some(began));
        socket.timeout = limit(began.elapsed());
        assert!(!may_wait(&mut socket), "the limit is over");
        socket.begin(hour);
        assert!(may_wait(&mut socket), "and begins anew");
    }
}
