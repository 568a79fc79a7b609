//! A client that sends exactly the bytes it is given.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::door::Server;

/// Long enough for the slowest machine; what takes longer hangs.
pub const HANG: Duration = Duration::from_secs(10);

pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

pub struct Client(pub TcpStream);

impl Client {
    pub fn new(server: &Server) -> Client {
        Client::connect(server.address())
    }

    pub fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        Client(socket)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.0.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// Sends what the server may not care to read to its end.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        let _ = self.0.write_all(bytes.as_ref());
        self
    }

    pub fn sends_no_more(&mut self) -> &mut Client {
        self.0.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// One response: head and body as text.
    pub fn response(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(self.byte(&text));
        }
        let head = String::from_utf8(text.clone()).unwrap();
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "));
        for _ in 0..length.map_or(0, |l| l.parse().unwrap()) {
            text.push(self.byte(&text));
        }
        String::from_utf8(text).unwrap()
    }

    pub fn status(&mut self) -> u16 {
        self.response()[9..12].parse().unwrap()
    }

    fn byte(&mut self, before: &[u8]) -> u8 {
        let mut byte = [0];
        let read = self.0.read_exact(&mut byte);
        read.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(before)));
        byte[0]
    }

    /// All until the server closes the connection.
    pub fn until_the_end(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether the server has closed the connection, or does so without another word.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A whole response, written the way alvus does it.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
