//! The upstream of the measurements: answers at once, and as little as it can.
//!
//! One blocking thread per connection, no parsing beyond what a request needs to be found. What it
//! serves depends on the path's end:
//!
//! | path | answer |
//! |---|---|
//! | `/stream/N` | N server-sent events, 20 a second, each with the time it was written |
//! | `/turn/N` | the same, 1000 a second |
//! | `/slow` | as `/json`, after [`SLOW`] |
//! | `/down` | [`DOWN`] bytes |
//! | `/storm` | as `/json`, or 429 with `Retry-After`: each key has [`STORM_LIMIT`] a window |
//! | anything else | a JSON document of about 600 bytes, after the request's body was read |

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a large answer.
pub const DOWN: usize = 50 << 20;
/// The time between two tokens of one stream.
pub const TOKEN_GAP: Duration = Duration::from_millis(50);
/// The same for one that is in a hurry.
const TURN_GAP: Duration = Duration::from_millis(1);
/// How long a slow answer takes.
pub const SLOW: Duration = Duration::from_millis(100);
/// Requests that a key may make in a window; the first request opens the window.
pub const STORM_LIMIT: usize = 20;
/// The window's length.
pub const STORM_WINDOW: Duration = Duration::from_secs(5);

/// A running upstream; it lives as long as the process.
#[derive(Clone)]
pub struct Mock {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// All clocks of a run count from here.
    epoch: Instant,
    json: Vec<u8>,
    windows: Mutex<HashMap<Vec<u8>, (Instant, usize)>>,
    refused: AtomicUsize,
}

impl Mock {
    pub fn start(epoch: Instant) -> io::Result<Mock> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let shared = Arc::new(Shared {
            epoch,
            json: json_answer(),
            windows: Mutex::default(),
            refused: AtomicUsize::new(0),
        });
        let mock = Mock {
            addr: listener.local_addr()?,
            shared: shared.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A connection that cannot be served shows as a failed request of the run.
                let _ = thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || serve(&stream, &shared));
            }
        });
        Ok(mock)
    }

    /// Forgets the storm so far.
    pub fn calm(&self) {
        self.shared.windows.lock().expect("windows").clear();
        self.shared.refused.store(0, Relaxed);
    }

    /// How many requests of the storm got a 429.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Relaxed)
    }
}

fn json_answer() -> Vec<u8> {
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(7);
    let body = format!(
        "{{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1750000000,\
         \"model\":\"meta/llama-3.1-8b-instruct\",\"choices\":[{{\"index\":0,\"message\":{{\"role\":\
         \"assistant\",\"content\":\"{words}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{{\
         \"prompt_tokens\":20,\"completion_tokens\":70,\"total_tokens\":90}}}}"
    );
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
         X-Request-Id: 0123456789abcdef\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body.as_bytes());
    answer
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut have = 0;
    loop {
        let head = loop {
            if let Some(at) = find(&buffer[..have], b"\r\n\r\n") {
                break at + 4;
            }
            if have == buffer.len() {
                return Err(io::Error::other("the request's head is too long"));
            }
            match stream.read(&mut buffer[have..])? {
                0 => return Ok(()),
                n => have += n,
            }
        };
        let body = field(&buffer[..head], b"content-length")
            .and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
            .unwrap_or(0_usize);
        let path = buffer[..head]
            .split(|b| *b == b' ')
            .nth(1)
            .unwrap_or(b"")
            .to_vec();
        let key = field(&buffer[..head], b"authorization")
            .unwrap_or(b"")
            .to_vec();
        let here = body.min(have - head);
        if here < body {
            drain(stream, body - here)?;
        }
        buffer.copy_within(head + here..have, 0);
        have -= head + here;

        let path = String::from_utf8_lossy(&path);
        let (before, last) = path.rsplit_once('/').unwrap_or(("", ""));
        if before.ends_with("/stream") {
            tell(stream, shared.epoch, last.parse().unwrap_or(1), TOKEN_GAP)?;
        } else if before.ends_with("/turn") {
            tell(stream, shared.epoch, last.parse().unwrap_or(1), TURN_GAP)?;
        } else if last == "slow" {
            thread::sleep(SLOW);
            stream.write_all(&shared.json)?;
        } else if last == "down" {
            pour(stream)?;
        } else if last == "storm" {
            storm(stream, shared, key)?;
        } else {
            stream.write_all(&shared.json)?;
        }
    }
}

/// Reads and forgets.
fn drain(mut stream: &TcpStream, mut left: usize) -> io::Result<()> {
    let mut sink = vec![0; (256 * 1024).min(left)];
    while left > 0 {
        let step = left.min(sink.len());
        match stream.read(&mut sink[..step])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n,
        }
    }
    Ok(())
}

fn tell(mut stream: &TcpStream, epoch: Instant, tokens: u32, gap: Duration) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let began = Instant::now();
    for n in 0..tokens {
        thread::sleep((gap * n).saturating_sub(began.elapsed()));
        // As from a provider, tokens differ in their text alone. It is the time at which they were written.
        let event = format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"choices\":\
             [{{\"index\":0,\"delta\":{{\"content\":\" word {:015}\"}},\"finish_reason\":null}}]}}\n\n",
            epoch.elapsed().as_nanos()
        );
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
    }
    stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
}

fn pour(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {DOWN}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let piece = vec![b'x'; 256 * 1024];
    for _ in 0..DOWN / piece.len() {
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn storm(mut stream: &TcpStream, shared: &Shared, key: Vec<u8>) -> io::Result<()> {
    let now = Instant::now();
    let rest = {
        let mut windows = shared.windows.lock().expect("windows");
        let window = windows.entry(key).or_insert((now, 0));
        if now - window.0 >= STORM_WINDOW {
            *window = (now, 0);
        }
        window.1 += 1;
        (window.1 > STORM_LIMIT).then(|| STORM_WINDOW - (now - window.0))
    };
    let Some(rest) = rest else {
        return stream.write_all(&shared.json);
    };
    shared.refused.fetch_add(1, Relaxed);
    let body = "{\"error\":{\"message\":\"Too many requests\",\"type\":\"rate_limit\"}}";
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: {}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        rest.as_secs() + 1,
        body.len()
    );
    stream.write_all(answer.as_bytes())
}

/// Where `what` begins in `bytes`.
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// The value of a field in a head.
pub fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|b| *b == b'\n').find_map(|line| {
        let (line_name, value) = line.split_at(line.iter().position(|b| *b == b':')?);
        line_name
            .eq_ignore_ascii_case(name)
            .then(|| value[1..].trim_ascii())
    })
}
