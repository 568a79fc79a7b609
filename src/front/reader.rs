//! Reads what a client sends. Fails with `TimedOut` when that takes too long.

use std::io::{self, BufRead, ErrorKind, Read};
use std::mem;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recv};

/// Bytes of the buffer. Most heads fit in. Larger pieces of a body bypass it.
const BUFFER_SIZE: usize = 3 * 1024;

/// The bytes that a client sends, buffered.
pub struct TimedReader {
    socket: Arc<TcpStream>,
    /// The unread bytes begin at `read`.
    buffer: Vec<u8>,
    read: usize,
    patience: Patience,
    /// The timeout that the socket has; `None`: it must be set anew. Kept because setting it is a system call, and the
    /// timeout changes twice with each request.
    timeout_set: Option<Duration>,
}

enum Patience {
    /// For each read.
    Each(Duration),
    /// For all reads together, counted from the first one.
    Total(Duration),
    Until(Instant),
}

impl TimedReader {
    /// Reads from `socket`, without a time limit at first.
    pub fn new(socket: Arc<TcpStream>) -> TimedReader {
        TimedReader {
            socket,
            buffer: Vec::new(),
            read: 0,
            patience: Patience::Each(Duration::MAX),
            timeout_set: None,
        }
    }

    /// From now on each read may take that long.
    pub fn wait_each(&mut self, timeout: Duration) {
        self.patience = Patience::Each(timeout);
    }

    /// From now on all reads together may take that long.
    pub fn wait_total(&mut self, timeout: Duration) {
        self.patience = Patience::Total(timeout);
    }

    /// What has come already.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    /// Frees the buffer: a request that waits for its answer needs none.
    pub fn give_back(&mut self) {
        if self.buffered().is_empty() {
            self.buffer = Vec::new();
            self.read = 0;
        }
    }

    /// Waits for the first bytes of a request.
    ///
    /// # Errors
    /// As [`Read::read`]. The end of the stream is not an error: the next read reports it.
    pub fn wait(&mut self) -> io::Result<()> {
        self.fill_buf().map(drop)
    }

    /// One read from the socket, within the patience.
    fn patiently(
        &mut self,
        mut read: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let start = Instant::now();
        if let Patience::Total(timeout) = self.patience {
            let end = start.checked_add(timeout);
            self.patience = end.map_or(Patience::Each(timeout), Patience::Until);
        }
        let mut now = start;
        loop {
            let left = match self.patience {
                Patience::Each(timeout) | Patience::Total(timeout) => {
                    timeout.saturating_sub(now - start)
                }
                Patience::Until(end) => end.saturating_duration_since(now),
            };
            if left.is_zero() {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the client sent nothing",
                ));
            }
            // The socket keeps an older timeout if that is at most an eighth longer. If it is
            // shorter, there is another round.
            let most = left.saturating_add(left / 8);
            if self.timeout_set.is_none_or(|set| set > most) {
                self.socket.set_read_timeout(Some(left))?;
                self.timeout_set = Some(left);
            }
            match read(&self.socket) {
                // a socket's timeout shows as this on Unix
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.timeout_set = None,
                // a signal: try again
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
            now = Instant::now();
        }
    }
}

impl Read for TimedReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.buffered().is_empty() && bytes.len() >= BUFFER_SIZE {
            return self.patiently(|mut socket| socket.read(bytes));
        }
        let n = self.fill_buf()?.read(bytes)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for TimedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered().is_empty() {
            let mut buffer = mem::take(&mut self.buffer);
            self.read = 0;
            buffer.clear();
            buffer.reserve_exact(BUFFER_SIZE);
            self.patiently(|socket| {
                let room = spare_capacity(&mut buffer);
                Ok(recv(socket, room, RecvFlags::empty())?.0)
            })?;
            self.buffer = buffer;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, n: usize) {
        self.read = self.buffer.len().min(self.read + n);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TimedReader) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (
            client,
            TimedReader::new(Arc::new(listener.accept().unwrap().0)),
        )
    }

    #[test]
    fn bytes_are_read_in_order_whatever_the_size_of_the_pieces() {
        let (mut client, mut reader) = pair();
        let sent: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        client.write_all(&sent).unwrap();
        drop(client);
        reader.wait().unwrap();
        let mut got = vec![0; 7];
        reader.read_exact(&mut got).unwrap();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, sent);
    }

    #[test]
    fn a_connection_that_waits_has_no_buffer() {
        let (mut client, mut reader) = pair();
        client.write_all(b"one").unwrap();
        reader.wait().unwrap();
        assert_eq!(reader.buffered(), b"one");
        reader.consume(3);
        reader.wait_each(Duration::from_millis(1));
        assert_eq!(reader.wait().unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(reader.buffer.capacity(), 0);
    }

    #[test]
    fn all_reads_together_end_in_time_though_each_brings_a_byte() {
        let (mut client, mut reader) = pair();
        reader.wait_total(Duration::from_millis(100));
        let end = loop {
            client.write_all(b"x").unwrap();
            match reader.fill_buf() {
                Ok(bytes) => {
                    let n = bytes.len();
                    reader.consume(n);
                }
                Err(e) => break e.kind(),
            }
        };
        assert_eq!(end, ErrorKind::TimedOut);
    }
}
