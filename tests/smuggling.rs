//! Request smuggling, compared with nginx: the same bytes go through alvus and through nginx, each
//! in front of a recorder that believes them. alvus must not make two requests of one, and must not
//! forward what nginx refuses, unless a reason is written here. It may be stricter than nginx.
//!
//! `make clients` installs nginx.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Alvus, KEYS, TempDir, eventually};

/// Silence for this long is the end of an answer.
const QUIET: Duration = Duration::from_millis(700);
/// So many cases go at a time.
const AT_A_TIME: usize = 16;

/// How many requests the bytes of a case hold, by the letter of RFC 9112.
#[derive(Clone, Copy, PartialEq)]
enum Holds {
    /// One, or none that deserves an answer: `b` is never a request.
    AtMostOne,
    /// `a` and then `b`, both beyond doubt.
    Two,
}
use Holds::{AtMostOne, Two};

/// What is sent, with `{a}` for the path of the request and `{b}` for that of a second one; and why
/// alvus may pass up what nginx refuses.
type Case = (Holds, &'static str, Option<&'static str>);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // beyond doubt
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "GET {a} HTTP/1.1\r\nHost: x\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "GET {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n05;a=b\r\nhello\r\n000\r\nT: t\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: \t 05 \t\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n",
        Some("blanks around a value may be tabs: RFC 9110, 5.6.3")),
    (Two, "\r\nGET {a} HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (Two, "POST {a} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // two lengths
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 33\r\nContent-Length: 0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // lengths that are none
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 5.0\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551621\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length: \u{ff15}\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // names that are none
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length\t: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length\0: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\n Content-Length: 33\r\nHost: x\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\n: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nContent-Length\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // line ends and folds
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\nHost: x\nContent-Length: 5\n\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x\r\n\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nX: a\r\n Content-Length: 33\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x\r\nX: a\x0b\r\n\r\n", None),
    // encodings
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhelloGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // chunks
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5,5\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x\ry\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\n\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "POST {a} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 33\r\n\0\r\n\r\nGET {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // request lines
    (AtMostOne, "GET\t{a}\tHTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET  {a} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} {b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a}\r\n", None),
    (AtMostOne, "GET {a} HTTP/2.0\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.01\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a} http/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "get {a} HTTP/1.1\r\nHost: x\r\n\r\n", Some("a method is any token, and the upstream's business: RFC 9110, 9.1")),
    (AtMostOne, "G(T {a} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a}\0 HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a}\rX HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a}%0d%0aHost:%20y HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET {a}#{b} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "GET http://x{a} HTTP/1.1\r\nHost: y\r\n\r\n", None),
    (AtMostOne, "CONNECT {a} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (AtMostOne, "TRACE {a} HTTP/1.1\r\nHost: x\r\n\r\n", None),
    // Host
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1\r\n\r\n", None),
    (AtMostOne, "GET {a} HTTP/1.1\r\nHost: x/y\r\n\r\n", None),
];

/// The bodies of the requests that arrived, by path.
type Arrived = Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>;

/// An upstream that takes every line that ends in LF for a line, and every length as it comes.
fn recorder() -> (SocketAddr, Arrived) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, arrived) = (listener.local_addr().unwrap(), Arrived::default());
    let noted = arrived.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = noted.clone();
            thread::spawn(move || record(stream, &noted));
        }
    });
    (addr, arrived)
}

fn record(mut stream: TcpStream, noted: &Arrived) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let next_line = |reader: &mut BufReader<TcpStream>| {
        let mut line = Vec::new();
        let n = reader.read_until(b'\n', &mut line).ok()?;
        (n > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_string())
    };
    loop {
        let start = next_line(&mut reader)?;
        let target = start.split_whitespace().nth(1)?.to_string();
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = next_line(&mut reader)?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            chunked |= line.starts_with("transfer-encoding:");
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        while chunked {
            let size = usize::from_str_radix(&next_line(&mut reader)?, 16).ok()?;
            let mut piece = vec![0; size];
            reader.read_exact(&mut piece).ok()?;
            body.extend(piece);
            next_line(&mut reader)?;
            chunked = size > 0;
        }
        noted.lock().unwrap().entry(target).or_default().push(body);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .ok()?;
    }
}

/// Debian's nginx as a reverse proxy.
struct Nginx {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    fn before(upstream: SocketAddr) -> Nginx {
        let dir = TempDir::new();
        let addr = common::dead_addr();
        let at = dir.0.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {at}/{what};"))
            .concat();
        let conf = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 512; }}
             http {{ access_log off; {paths}
               server {{ listen {addr}; location / {{
                 proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Connection \"\";
               }} }} }}"
        );
        let conf = dir.write("nginx.conf", &conf);
        let installed = ["/usr/sbin/nginx", "/usr/bin/nginx"].map(Path::new);
        let nginx = installed
            .into_iter()
            .find(|path| path.exists())
            .expect("nginx is missing: run `make clients`");
        let child = Command::new(nginx)
            .arg("-c")
            .arg(conf)
            .arg("-e")
            .arg(dir.0.join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually("nginx listens", || TcpStream::connect(addr).is_ok());
        Nginx {
            child,
            addr,
            _dir: dir,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn path(number: usize, which: char) -> String {
    format!("/v1/{number:02}{which}")
}

fn bytes_of(number: usize, text: &str) -> Vec<u8> {
    text.replace("{a}", &path(number, 'a'))
        .replace("{b}", &path(number, 'b'))
        .into_bytes()
}

/// Sends all cases to `addr`, some at a time, and returns the first line that each is answered with.
fn send_all(addr: SocketAddr) -> Vec<String> {
    let numbered: Vec<(usize, &Case)> = CASES.iter().enumerate().collect();
    let mut answers = Vec::new();
    for some in numbered.chunks(AT_A_TIME) {
        let sent: Vec<_> = some
            .iter()
            .map(|(number, (_, text, _))| {
                let bytes = bytes_of(*number, text);
                thread::spawn(move || {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    stream.set_read_timeout(Some(QUIET)).unwrap();
                    stream.write_all(&bytes).unwrap();
                    let mut answer = Vec::new();
                    let _ = stream.read_to_end(&mut answer); // or until it is quiet
                    let answer = String::from_utf8_lossy(&answer);
                    answer.lines().next().unwrap_or("(nothing)").to_string()
                })
            })
            .collect();
        answers.extend(sent.into_iter().map(|one| one.join().unwrap()));
    }
    answers
}

#[test]
fn nothing_gets_past_alvus_that_nginx_would_stop() {
    let ((behind_alvus, ours), (behind_nginx, theirs)) = (recorder(), recorder());
    let (url, keys) = (format!("http://{behind_alvus}/v1"), KEYS.join(","));
    let alvus = Alvus::start(&[
        ("TARGET_BASE_URL", &url),
        ("API_KEYS", &keys),
        ("WORKERS", "64"),
    ]);
    let nginx = Nginx::before(behind_nginx);
    let (we_said, they_said) = (send_all(alvus.addr), send_all(nginx.addr));

    let (ours, theirs) = (ours.lock().unwrap(), theirs.lock().unwrap());
    let mut faults = Vec::new();
    let mut stricter = 0;
    for (number, (holds, text, reason)) in CASES.iter().enumerate() {
        // A target may have been passed on with something behind the path.
        let arrived = |at: &HashMap<String, Vec<Vec<u8>>>, which| {
            let mut bodies = Vec::new();
            for (target, found) in at {
                if target.contains(&path(number, which)) {
                    bodies.extend(found.iter().cloned());
                }
            }
            bodies
        };
        let [our_a, our_b] = ['a', 'b'].map(|which| arrived(&ours, which));
        let [their_a, their_b] = ['a', 'b'].map(|which| arrived(&theirs, which));
        eprintln!(
            "{number:2} alvus {}+{} {:<34} nginx {}+{} {:<34} {text:?}",
            our_a.len(),
            our_b.len(),
            we_said[number],
            their_a.len(),
            their_b.len(),
            they_said[number],
        );
        let mut fault = |what: &str| faults.push(format!("{number} {text:?}: {what}"));
        if our_a.len() > 1 || our_b.len() > usize::from(*holds == Two) {
            fault("alvus let a request through that was not one");
        }
        if *holds == Two && (our_a.len(), our_b.len()) != (1, 1) {
            fault("alvus lost a request");
        }
        let refused_there = !our_a.is_empty() && their_a.is_empty();
        match reason {
            None if refused_there => fault("alvus passed up what nginx refused"),
            Some(_) if !refused_there => fault("the reason is no longer needed"),
            _ => {}
        }
        if !our_a.is_empty() && !their_a.is_empty() && our_a != their_a {
            fault("the bodies differ");
        }
        stricter +=
            usize::from(our_a.is_empty() && !their_a.is_empty() || our_b.len() < their_b.len());
    }
    eprintln!(
        "{} cases; alvus is stricter than nginx in {stricter}",
        CASES.len()
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
