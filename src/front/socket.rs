//! The way back to a client.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;

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
