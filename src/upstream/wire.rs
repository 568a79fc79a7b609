//! Connections: TCP, and TLS on top where the target says https.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net as sys;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::call::{CALL, client_left, wait};
use super::tls::TlsSetup;
use super::{INPUT_BUFFER, OUTPUT_BUFFER};
use crate::peer::{Interest, Wake};

/// Idle time before the kernel probes a connection, so that NATs keep it and a dead one is found.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// Makes connections: TCP, and TLS on top where the target says https.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) tls: TlsSetup,
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
        let started = Instant::now();
        let mut left = details.addrs.len();
        let mut failed = io::Error::from(ErrorKind::ConnectionRefused);
        for addr in details.addrs.iter() {
            // Each address gets its share of what time is left.
            let share =
                limit.saturating_sub(started.elapsed()) / u32::try_from(left).unwrap_or(1).max(1);
            left -= 1;
            match dial(*addr, share) {
                Ok(stream) => return self.wire(stream, details).map(Some),
                Err(e) => failed = io::Error::new(e.kind(), format!("{addr}: {e}")),
            }
            if CALL.with_borrow(|call| call.client_left) {
                break;
            }
        }
        Err(failed.into())
    }
}

impl Dialler {
    fn wire(&self, stream: TcpStream, details: &ConnectionDetails) -> Result<Wire, ureq::Error> {
        if !details.needs_tls() {
            return Ok(Wire::new(Kind::Plain(stream)));
        }
        let tcp = Tcp {
            stream,
            buffers: LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER),
        };
        let host = details
            .uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| ureq::Error::Tls("the target's host is no name that TLS can check"))?;
        let mut session = ClientConnection::new(self.tls.config(), name)?;
        let mut socket = TransportAdapter::new(tcp, details.current_time.clone());
        socket.set_timeout(details.timeout);
        session.complete_io(&mut socket)?;
        Ok(Wire::new(Kind::Tls(Box::new(Tls {
            stream: StreamOwned::new(session, socket),
        }))))
    }
}

/// Connects without blocking, so that a client that leaves meanwhile is noticed.
fn dial(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = match addr {
        SocketAddr::V4(_) => sys::AddressFamily::INET,
        SocketAddr::V6(_) => sys::AddressFamily::INET6,
    };
    let flags = sys::SocketFlags::NONBLOCK | sys::SocketFlags::CLOEXEC;
    let socket = sys::socket_with(family, sys::SocketType::STREAM, flags, None)?;
    match sys::connect(&socket, &addr) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => CALL.with_borrow_mut(|call| {
            match call
                .client
                .wait(socket.as_fd(), Interest::Write, Some(limit))?
            {
                Wake::Ready => sys::sockopt::socket_error(&socket)?.map_err(io::Error::from),
                Wake::TimedOut => Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")),
                Wake::ClientLeft => {
                    call.client_left = true;
                    Err(client_left())
                }
            }
        })?,
        Err(e) => return Err(e.into()),
    }
    sys::sockopt::set_tcp_nodelay(&socket, true)?;
    sys::sockopt::set_socket_keepalive(&socket, true)?;
    sys::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    Ok(TcpStream::from(socket))
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
            buffers: Corked {
                inner: LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER),
                held: 0,
            },
            answered: false,
        }
    }

    /// Sends what is held back.
    fn uncork(&mut self, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let held = std::mem::take(&mut self.buffers.held);
        if held == 0 {
            return Ok(());
        }
        CALL.with_borrow_mut(|call| *call.sent.get_or_insert_with(Instant::now));
        self.kind
            .send(&self.buffers.inner.output()[..held], timeout)
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
            self.buffers.held += amount;
            return Ok(());
        }
        let at = amount - end.len();
        if at + lines.len() + end.len() <= output.len() {
            output[at..][..lines.len()].copy_from_slice(&lines);
            output[at + lines.len()..][..end.len()].copy_from_slice(end);
            self.buffers.held += amount + lines.len();
            return Ok(());
        }
        // More than the buffer holds, they go out by themselves.
        self.buffers.held += at;
        self.uncork(timeout)?;
        self.kind.send(&lines, timeout)?;
        self.buffers.output()[..end.len()].copy_from_slice(end);
        self.buffers.held = end.len();
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

/// A connection's buffers, of which the output keeps what is small: ureq sends a request's head and
/// its body one by one, and two writes are two system calls, two packets, two TLS records.
#[derive(Debug)]
struct Corked {
    inner: LazyBuffers,
    /// Bytes at the start of the output that wait for more, or for someone to read the answer.
    held: usize,
}

impl Buffers for Corked {
    fn output(&mut self) -> &mut [u8] {
        &mut self.inner.output()[self.held..]
    }
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        let (tmp, output) = self.inner.tmp_and_output();
        (tmp, &mut output[self.held..])
    }
    fn input(&self) -> &[u8] {
        self.inner.input()
    }
    fn input_append_buf(&mut self) -> &mut [u8] {
        self.inner.input_append_buf()
    }
    fn input_appended(&mut self, amount: usize) {
        self.inner.input_appended(amount);
    }
    fn input_consume(&mut self, amount: usize) {
        self.inner.input_consume(amount);
    }
    fn can_use_input(&self) -> bool {
        self.inner.can_use_input()
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.answered = false;
        self.hold(amount, timeout)?;
        // A head that leaves too little room for the body to begin in would only slow it down.
        match self.buffers.held > OUTPUT_BUFFER / 2 {
            true => self.uncork(timeout),
            false => Ok(()),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let progress = self.uncork(timeout).and_then(|()| {
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
                _ => e.to_string(),
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
            return true;
        }
        match &mut self.kind {
            Kind::Plain(stream) => is_open(stream),
            Kind::Tls(tls) => tls.stream.get_mut().get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }
}

/// What rustls reads and writes through.
#[derive(Debug)]
struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let bytes = &self.buffers.output()[..amount];
        send(&self.stream, bytes, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let n = receive(&self.stream, self.buffers.input_append_buf(), timeout)?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    fn is_open(&mut self) -> bool {
        is_open(&self.stream)
    }
}

/// TLS over a [`Tcp`].
struct Tls {
    stream: StreamOwned<ClientConnection, TransportAdapter<Tcp>>,
}

impl Tls {
    fn send(&mut self, bytes: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(bytes)?)
    }

    fn receive(&mut self, input: &mut [u8], timeout: NextTimeout) -> Result<usize, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.read(input)?)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
