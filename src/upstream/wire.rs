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
        let buffers = || LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER);
        let tcp = Tcp {
            stream,
            buffers: buffers(),
        };
        if !details.needs_tls() {
            return Ok(Wire::Plain(tcp));
        }
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
        Ok(Wire::Tls(Box::new(Tls {
            stream: StreamOwned::new(session, socket),
            buffers: buffers(),
        })))
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

/// A connection as ureq uses it.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(Tcp),
    Tls(Box<Tls>),
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match self {
            Wire::Plain(tcp) => &mut tcp.buffers,
            Wire::Tls(tls) => &mut tls.buffers,
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        CALL.with_borrow_mut(|call| call.sent = true);
        match self {
            Wire::Plain(tcp) => tcp.transmit_output(amount, timeout),
            Wire::Tls(tls) => tls.transmit_output(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let progress = match self {
            Wire::Plain(tcp) => tcp.await_input(timeout),
            Wire::Tls(tls) => tls.await_input(timeout),
        };
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
                Ok(true)
            }
            other => other,
        }
    }

    fn is_open(&mut self) -> bool {
        match self {
            Wire::Plain(tcp) => tcp.is_open(),
            Wire::Tls(tls) => tls.stream.get_mut().get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self, Wire::Tls(_))
    }
}

/// A TCP connection; its socket is non-blocking and every wait goes through [`wait`].
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait(&self.stream, Interest::Write, timeout)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // It wants no more of the request. What it said before, a 429 or a 413 perhaps,
                // can still be read; if it said nothing, reading tells.
                Err(e)
                    if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
                {
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
        }
        loop {
            wait(&self.stream, Interest::Read, timeout)?;
            match (&self.stream).read(input) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// An idle connection with anything to read (bytes, an end, an error) is not fit for use.
    fn is_open(&mut self) -> bool {
        let probe = (&self.stream).read(&mut [0]);
        matches!(probe, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }
}

/// TLS over a [`Tcp`].
pub(super) struct Tls {
    stream: StreamOwned<ClientConnection, TransportAdapter<Tcp>>,
    buffers: LazyBuffers,
}

impl Transport for Tls {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
        }
        let n = self.stream.read(input)?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
