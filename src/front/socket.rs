//! A client's socket, as those see it who write to it, watch it, or break it off.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A handle to the socket of the client that sent a request: to watch whether it is still there
/// (`poll` for `POLLRDHUP`), and to break the connection off.
///
/// All clones share the one descriptor, which stays open as long as one of them lives; the
/// connection itself ends regardless of that.
#[derive(Clone, Debug)]
pub struct ClientSocket(pub(super) Arc<TcpStream>);

impl ClientSocket {
    /// Ends the connection in both directions, at once. Reads of the body and writes of the
    /// response fail from now on, in whichever thread they are.
    pub fn shutdown(&self) {
        // fails only when the client has ended the connection already
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl ClientSocket {
    /// The socket itself, for who only watches it.
    pub fn shared(&self) -> Arc<TcpStream> {
        self.0.clone()
    }

    /// Reads of the body end from now on, in whichever thread they are. The way back stays open.
    pub fn stop_reading(&self) {
        let _ = self.0.shutdown(Shutdown::Read);
    }

    /// Whether both are handles of one connection.
    pub fn is(&self, other: &ClientSocket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Writes to a client, whose patience the socket knows ([`super::Limits::write_timeout`]).
pub(super) struct Outlet<'c>(pub &'c TcpStream);

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|e| match e.kind() {
            // that is how a socket's timeout shows on Unix
            ErrorKind::WouldBlock => {
                io::Error::new(ErrorKind::TimedOut, "the client takes nothing")
            }
            _ => e,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
