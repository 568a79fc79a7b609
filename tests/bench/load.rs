//! The clients of the measurements: blocking threads that send one prepared request after another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::mock::{TOKEN_GAP, field, find};

/// What an agent sends: the fields of OpenAI's SDKs that matter for size, and a short question.
pub fn question(path: &str) -> Vec<u8> {
    let body = b"{\"model\":\"meta/llama-3.1-8b-instruct\",\"messages\":[{\"role\":\"system\",\"content\":\
        \"You are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"Which animal is lazy?\"}],\
        \"temperature\":0.2}";
    request(path, body)
}

/// The same, asking for a stream.
pub fn stream_question(path: &str) -> Vec<u8> {
    request(
        path,
        b"{\"model\":\"meta/llama-3.1-8b-instruct\",\"stream\":true,\"messages\":[{\"role\":\"user\",\
        \"content\":\"Which animal is lazy?\"}]}",
    )
}

/// What an agent has gathered in an hour: 200 kB of conversation, with code in it.
pub fn conversation(path: &str, streams: bool) -> Vec<u8> {
    let text = "Read src/main.rs and say why it prints nothing: fn main() { println!(\\\"{}\\\", answer()); }\\n\
                It was changed on Tuesday, and the tests that were green before are green still.\\n";
    let mut body =
        format!("{{\"model\":\"meta/llama-3.1-8b-instruct\",\"stream\":{streams},\"messages\":[");
    for n in 0.. {
        let role = ["user", "assistant"][n % 2];
        let text = text.repeat(10);
        body += &format!("{{\"role\":\"{role}\",\"content\":\"{text}\"}}");
        if body.len() > 200_000 {
            break;
        }
        body.push(',');
    }
    body += "]}";
    request(path, body.as_bytes())
}

/// A POST with this body.
pub fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         User-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nAccept-Encoding: identity\r\n\
         Authorization: Bearer sk-the-clients-own\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A connection that reads answers of a stated length.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(to: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection {
            stream,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends, and reads a stream to its end; whether it came.
    pub fn stream(&mut self, request: &[u8]) -> io::Result<bool> {
        self.stream.write_all(request)?;
        const END: &[u8] = b"\r\n0\r\n\r\n";
        let mut have = 0;
        loop {
            match self.stream.read(&mut self.buffer[have..])? {
                0 => return Ok(false),
                n => have += n,
            }
            if self.buffer[..have].ends_with(END) {
                return Ok(true);
            }
            let keep = have.min(END.len());
            self.buffer.copy_within(have - keep..have, 0);
            have = keep;
        }
    }

    /// Sends, and reads the whole answer. Its status, and its body's length.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<(u16, usize)> {
        self.stream.write_all(request)?;
        let mut have = 0;
        let head = loop {
            match self.stream.read(&mut self.buffer[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
            if let Some(at) = find(&self.buffer[..have], b"\r\n\r\n") {
                break at + 4;
            }
        };
        let start = &self.buffer[..head];
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<usize>().ok();
        let status = start.get(9..12).and_then(number).unwrap_or(0);
        let length = field(start, b"content-length")
            .and_then(number)
            .ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
        let mut left = (head + length).saturating_sub(have);
        while left > 0 {
            let step = left.min(self.buffer.len());
            match self.stream.read(&mut self.buffer[..step])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        Ok((u16::try_from(status).unwrap_or(0), length))
    }
}

/// What a run of small requests showed.
#[derive(Default)]
pub struct Run {
    /// Sorted.
    pub latencies: Vec<Duration>,
    pub failed: usize,
    pub took: Duration,
}

impl Run {
    /// The latency below which this share of the requests stayed, in µs.
    pub fn percentile(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }
}

pub fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted
        .get(at)
        .map_or(f64::NAN, |d| d.as_nanos() as f64 / 1e3)
}

/// `each` requests on each of `connections`, at the same time; `fresh`: a new connection for each.
pub fn run(to: SocketAddr, request: &[u8], connections: usize, each: usize, fresh: bool) -> Run {
    let began = Instant::now();
    let parts = in_threads(connections, |_| {
        let mut latencies = Vec::with_capacity(each);
        let mut failed = 0;
        let mut kept = None;
        for _ in 0..each {
            let at = Instant::now();
            let connection = match kept.take() {
                Some(connection) if !fresh => Ok(connection),
                _ => Connection::open(to),
            };
            let asked = connection.and_then(|mut connection| {
                let answer = connection.ask(request)?;
                Ok((connection, answer))
            });
            match asked {
                Ok((connection, (200, _))) => {
                    latencies.push(at.elapsed());
                    kept = Some(connection);
                }
                _ => failed += 1,
            }
        }
        (latencies, failed)
    });
    let mut run = Run {
        took: began.elapsed(),
        ..Run::default()
    };
    for (latencies, failed) in parts {
        run.latencies.extend(latencies);
        run.failed += failed;
    }
    run.latencies.sort();
    run
}

/// `each` streams on each of `connections`, at the same time; how many did not come to their end.
pub fn turns(to: SocketAddr, request: &[u8], connections: usize, each: usize) -> usize {
    let broken = in_threads(connections, |_| {
        let Ok(mut connection) = Connection::open(to) else {
            return each;
        };
        let whole = |_: &usize| matches!(connection.stream(request), Ok(true));
        each - (0..each).take_while(whole).count()
    });
    broken.iter().sum()
}

/// Reads `streams` streams of `tokens` tokens at the same time: how long each token took, sorted,
/// and how many streams did not come to their end.
pub fn streams(
    to: SocketAddr,
    streams: usize,
    tokens: u32,
    epoch: Instant,
) -> (Vec<Duration>, usize) {
    let parts = in_threads(streams, |n| {
        // Not all in step.
        thread::sleep(
            TOKEN_GAP * u32::try_from(n).unwrap_or(0) / u32::try_from(streams).unwrap_or(1),
        );
        let mut delays = Vec::with_capacity(tokens as usize);
        let whole = read_stream(to, tokens, epoch, &mut delays).unwrap_or(false);
        (delays, usize::from(!whole))
    });
    let mut delays: Vec<Duration> = parts.iter().flat_map(|(d, _)| d.clone()).collect();
    delays.sort();
    (delays, parts.iter().map(|(_, broken)| broken).sum())
}

fn read_stream(
    to: SocketAddr,
    tokens: u32,
    epoch: Instant,
    delays: &mut Vec<Duration>,
) -> io::Result<bool> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&stream_question(&format!("/v1/stream/{tokens}")))?;
    let mut buffer = vec![0; 16 * 1024];
    let mut have = 0;
    loop {
        let n = stream.read(&mut buffer[have..])?;
        if n == 0 {
            return Ok(false);
        }
        let now = epoch.elapsed();
        have += n;
        let mut used = 0;
        while let Some(at) = find(&buffer[used..have], b" word ") {
            let number = used + at + 6;
            let Some(digits) = buffer[..have].get(number..number + 15) else {
                break;
            };
            let written: u64 = std::str::from_utf8(digits)
                .ok()
                .and_then(|d| d.parse().ok())
                .unwrap_or(0);
            delays.push(now.saturating_sub(Duration::from_nanos(written)));
            used = number + 15;
        }
        if find(&buffer[used..have], b"[DONE]").is_some() {
            return Ok(delays.len() == tokens as usize);
        }
        // What may be the start of a token or of the end stays.
        let keep = (have - used).min(32);
        buffer.copy_within(have - keep..have, 0);
        have = keep;
    }
}

/// `f(0)`, `f(1)` …, each on a thread of its own.
pub fn in_threads<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let f = &f;
                thread::Builder::new()
                    .stack_size(256 * 1024)
                    .spawn_scoped(scope, move || f(n))
                    .expect("a thread")
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("a client thread"))
            .collect()
    })
}
