//! A handle of a client's socket, to write to it, to watch it, or to break it off.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A handle of the socket of a request's client: to watch whether it is still there (`poll` for
/// `POLLRDHUP`), and to break the connection off.
///
/// All clones share one descriptor, which stays open as long as one of them lives. The connection
/// itself may end earlier.
#[derive(Clone, Debug)]
pub struct ClientSocket(pub(super) Arc<TcpStream>);

impl ClientSocket {
    /// Ends the connection in both directions, at once. Reads of the body and writes of the
    /// response fail from now on, in any thread.
    pub fn shutdown(&self) {
        // this fails only if the client has ended the connection
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl ClientSocket {
    /// The socket itself, for code that only watches it.
    pub fn shared(&self) -> Arc<TcpStream> {
        self.0.clone()
    }

    /// Reads of the body end from now on, in any thread. Writes still work.
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

/// Writes to a client. The socket's timeout is [`super::Limits::write_timeout`].
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
