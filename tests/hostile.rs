//! Attacks on the front door of the real binary. Each is a siege: while it lasts `/health` answers
//! within a second, afterwards alvus still serves, and within ten seconds its threads, descriptors
//! and memory are back to what they were.
//!
//! Operators were promised these two times. On a busy machine a probe may be repeated.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, FRUGAL, PATIENCE, SSE_HEAD, Seen, Upstream, answer, chunk,
    eventually, many_descriptors, ok, say,
};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};

// ---- a siege ------------------------------------------------------------------------------------

/// `/health` answers within this.
const PULSE: Duration = Duration::from_secs(1);
/// So often is it asked again when the machine had something else to do.
const PULSE_TRIES: usize = 5;
/// After an attack everything is back within this.
const RECOVERY: Duration = Duration::from_secs(10);
/// What an allocator may keep for itself, in KiB. What an attack left behind for each connection
/// or request would be more.
const ALLOCATOR_KEEPS: usize = 4 * 1024;
/// What a process takes of the machine.
#[derive(Debug, Clone, Copy)]
struct Taken {
    threads: usize,
    descriptors: usize,
    rss_kib: usize,
}

impl Taken {
    fn by(pid: u32) -> Taken {
        let count =
            |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alvus is gone");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss
            .and_then(|text| text.split_whitespace().next())
            .expect("alvus is dead");
        Taken {
            threads: count("task").unwrap(),
            descriptors: count("fd").unwrap(),
            rss_kib: rss.parse().unwrap(),
        }
    }

    fn is_within(&self, before: &Taken) -> bool {
        // An emulator's own memory grows with what it has translated.
        let emulated = std::env::var_os("ALVUS_RUNNER").is_some();
        self.threads <= before.threads
            && self.descriptors <= before.descriptors
            && (emulated || self.rss_kib <= before.rss_kib + ALLOCATOR_KEEPS)
    }
}

/// An alvus under attack.
struct Siege {
    alvus: Alvus,
    before: Taken,
    over: Arc<AtomicBool>,
    pulse: JoinHandle<()>,
}

const WORKERS: usize = 4;

impl Siege {
    fn before(upstream: &Upstream) -> Siege {
        Siege::before_with(upstream, &[])
    }

    fn before_with(upstream: &Upstream, more: &[(&str, &str)]) -> Siege {
        let workers = WORKERS.to_string();
        let mut env = vec![("WORKERS", workers.as_str()), ("LOG", "error")];
        env.extend(FRUGAL);
        env.extend_from_slice(more);
        Siege::of(Alvus::before_with(upstream, &env), WORKERS)
    }

    /// Wakes all `workers`, notes what is taken then, and begins to feel the pulse.
    fn of(alvus: Alvus, workers: usize) -> Siege {
        many_descriptors();
        let mut clients: Vec<Client> = (0..workers).map(|_| alvus.connect()).collect();
        for client in &mut clients {
            client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{");
        }
        eventually("all workers are awake", || {
            alvus.health()["in_flight"] == workers
        });
        for client in &mut clients {
            client.send("}");
            assert_eq!(client.response().status, 200);
        }
        let before = Taken::by(alvus.pid());
        drop(clients);
        let over = Arc::new(AtomicBool::new(false));
        let (addr, stop) = (alvus.addr, over.clone());
        let pulse = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                feel_pulse(addr);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Siege {
            alvus,
            before,
            over,
            pulse,
        }
    }

    fn dial(&self) -> TcpStream {
        dial(self.alvus.addr)
    }

    /// The end of the attack: everything is as it was.
    fn survive(self) {
        self.over.store(true, Ordering::Relaxed);
        self.pulse.join().expect("/health answered throughout");
        let pid = self.alvus.pid();
        let until = Instant::now() + RECOVERY;
        loop {
            let now = Taken::by(pid);
            if now.is_within(&self.before) {
                break;
            }
            assert!(
                Instant::now() < until,
                "before {:?}, now still {now:?}",
                self.before
            );
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.alvus.ask().status, 200);
        eventually("nothing is left in flight", || {
            self.alvus.health()["in_flight"] == 0
        });
    }
}

/// One `/health` on a connection of its own, in time.
fn feel_pulse(addr: SocketAddr) {
    let mut why = String::new();
    for _ in 0..PULSE_TRIES {
        let began = Instant::now();
        match try_health(addr) {
            Ok(()) if began.elapsed() < PULSE => return,
            Ok(()) => why = format!("took {:?}", began.elapsed()),
            Err(e) => why = e,
        }
    }
    panic!("/health failed {PULSE_TRIES} times in a row; at last: {why}");
}

fn try_health(addr: SocketAddr) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect_timeout(&addr, PULSE).map_err(text)?;
    stream.set_read_timeout(Some(PULSE)).map_err(text)?;
    let ask = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    match answer.starts_with("HTTP/1.1 200 ") || answer.contains("\"status\":\"down\"") {
        true => Ok(()),
        false => Err(answer),
    }
}

fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("alvus accepts");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Leaves with a reset instead of a farewell.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// A request that must not get through, however the one before it is read.
const SMUGGLED: &[u8] = b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// The client is told off in OpenAI's words and disconnected.
fn is_told_off(siege: &Siege, status: u16, request: &[u8]) {
    let said = String::from_utf8_lossy(&request[..request.len().min(90)]).into_owned();
    let answer = say(siege.dial(), &[request, SMUGGLED].concat());
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{said:?}: {answer:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "{said:?}: {answer}"
    );
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: close"), "{said:?}: {head}");
    let body: serde_json::Value =
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{said:?}: {e}: {body}"));
    assert!(body["error"]["message"].is_string(), "{said:?}: {body}");
}

/// Nothing of an attack went up: only what the tests asked themselves.
fn nothing_went_up(upstream: &Upstream) {
    let strangers: Vec<Seen> = upstream
        .seen()
        .into_iter()
        .filter(|seen| !matches!(seen.target.as_str(), "/v1/x" | "/v1/chat/completions"))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

// ---- heads and bodies that make no sense --------------------------------------------------------

#[test]
fn requests_that_can_be_read_in_two_ways_are_refused() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length:",
        "Content-Length: 18446744073709551616",
        "Content-Length : 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        "A: b\r\n Content-Length: 3",
        "A: b\r\n\tTransfer-Encoding: chunked",
        "A: b\nContent-Length: 3",
        "A: b\rContent-Length: 3",
        "A: b\0",
        "A\0: b",
        "A: b\x01",
        "A: b\x7f",
        ": b",
        "no colon",
        "Host: b",
    ] {
        let request = format!("POST /v1/framing HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        is_told_off(&siege, 400, request.as_bytes());
    }
    for line in [
        "GET  /v1/framing HTTP/1.1",
        "GET /v1/framing HTTP/1.1 ",
        "GET /v1/framing HTTP/1.1 x",
        "GET /v1/framing",
        " GET /v1/framing HTTP/1.1",
        "GET /v1/fra\0ming HTTP/1.1",
        "GET /v1/fra\tming HTTP/1.1",
        "GET /v1/fram\u{ef}ng HTTP/1.1",
        "G\0ET /v1/framing HTTP/1.1",
        "GET /v1/framing http/1.1",
        "GET /v1/framing HTTP/1.10",
        "GET /v1/framing HTTP/+1.1",
    ] {
        is_told_off(&siege, 400, format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
    }
    is_told_off(&siege, 400, b"GET /v1/framing HTTP/1.1\nHost: a\n\n");
    is_told_off(
        &siege,
        400,
        b"GET /v1/framing HTTP/1.1\r\nA: no host\r\n\r\n",
    );
    is_told_off(
        &siege,
        400,
        b"POST /v1/framing HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    for version in [
        "GET /v1/framing HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        is_told_off(&siege, 505, version.as_bytes());
    }
    // the one would show the pool's key to the client, the other open a tunnel
    for method in ["TRACE", "trace", "CONNECT"] {
        let request = format!("{method} /v1/framing HTTP/1.1\r\nHost: a\r\n\r\n");
        is_told_off(&siege, 501, request.as_bytes());
    }
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn chunks_that_make_no_sense_are_refused() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    let (line, trailer, trailers) = (
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5_000_000)),
        format!("0\r\nA: {}\r\n\r\n", "x".repeat(5_000_000)),
        format!("0\r\n{}\r\n", "a: b\r\n".repeat(20_000)),
    );
    for chunks in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!!0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        &line,
        &trailer,
        &trailers,
    ] {
        let request = format!(
            "POST /v1/chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        );
        is_told_off(&siege, 400, request.as_bytes());
    }
    // A size that only lacks its bytes is no fault, but nothing is allocated by it.
    for size in ["ffffffffffffffff", "7fffffff", "80000000"] {
        let mut stream = siege.dial();
        let head = "POST /v1/chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream
            .write_all(format!("{head}{size}\r\nhello").as_bytes())
            .unwrap();
        reset(stream);
    }
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn lengths_that_no_machine_has_are_refused() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    for length in [
        "9000000000000",
        "2147483648",
        "4294967296",
        "18446744073709551615",
    ] {
        let head =
            format!("POST /v1/huge HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nbody");
        is_told_off(&siege, 413, head.as_bytes());
        for health in ["GET /health", "POST /v1/huge"] {
            let head = head.replacen("POST /v1/huge", health, 1);
            for _ in 0..20 {
                let mut early = siege.dial();
                early.write_all(head.as_bytes()).unwrap();
                early.shutdown(Shutdown::Write).unwrap();
                let mut earlier = siege.dial();
                earlier.write_all(head.as_bytes()).unwrap();
                reset(earlier);
            }
        }
    }
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    let long = "x".repeat(5_000_000);
    is_told_off(&siege, 414, long.as_bytes());
    is_told_off(
        &siege,
        414,
        format!("GET /v1/{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
    );
    is_told_off(
        &siege,
        431,
        format!("GET /v1/long HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n").as_bytes(),
    );
    is_told_off(
        &siege,
        431,
        format!("GET /v1/long HTTP/1.1\r\nHost: a\r\n{long}: a\r\n\r\n").as_bytes(),
    );
    let many = "a: b\r\n".repeat(20_000);
    is_told_off(
        &siege,
        431,
        format!("GET /v1/long HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes(),
    );
    let wide = format!("a: {}\r\n", "x".repeat(4000)).repeat(9);
    is_told_off(
        &siege,
        431,
        format!("GET /v1/long HTTP/1.1\r\nHost: a\r\n{wide}\r\n").as_bytes(),
    );
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn bytes_that_are_not_http_harm_nobody() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = || {
        (0..65_536)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect::<Vec<u8>>()
    };
    // These cannot be the beginning of a request: no need to wait for more.
    for bytes in [&hello[..], b"\0", b"\xff\xfb\x18", b"(hello)", b"\n"] {
        let answer = say(siege.dial(), bytes);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bytes:?}: {answer}");
    }
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"EHLO a\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\r\n\r\n\r\n",
    ] {
        let answer = say(siege.dial(), bytes);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bytes:?}: {answer}");
    }
    for _ in 0..50 {
        let noise = noise();
        let answer = say(siege.dial(), &noise);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
        // and where a request is expected behind a good one
        let answer = say(
            siege.dial(),
            &[b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", &noise[..]].concat(),
        );
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    nothing_went_up(&upstream);
    siege.survive();
}

// ---- many of them, and slow ones ----------------------------------------------------------------

#[test]
fn five_hundred_connections_that_say_little_harm_nobody() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before_with(&upstream, &[("MAX_CONNECTIONS", "256")]);
    // Those that serve no connection: at least the four that wait for one are not among them.
    let others = siege.before.threads - WORKERS;
    for _ in 0..4 {
        let mut crowd = Vec::new();
        for n in 0..500 {
            let mut stream = siege.dial();
            let said = [
                "",
                "G",
                "GET / HTTP/1.1\r\nHost: a\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\nX",
            ][n % 4];
            stream.write_all(said.as_bytes()).unwrap();
            crowd.push(stream);
        }
        assert_eq!(siege.alvus.ask().status, 200);
        let now = Taken::by(siege.alvus.pid());
        assert!(
            now.descriptors <= 256 + siege.before.descriptors && now.threads <= 256 + others,
            "MAX_CONNECTIONS bounds them: {now:?}"
        );
    }
    siege.survive();
}

#[test]
fn one_byte_a_second_harms_nobody() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before_with(&upstream, &[("MAX_CONNECTIONS", "256")]);
    let mut drips: Vec<TcpStream> = (0..60).map(|_| siege.dial()).collect();
    for stream in &mut drips[..WORKERS / 2] {
        stream
            .write_all(b"POST /v1/drip HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            .unwrap();
    }
    for stream in &mut drips[WORKERS / 2..WORKERS] {
        stream
            .write_all(
                b"POST /v1/drip HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n200\r\n",
            )
            .unwrap();
    }
    for stream in &mut drips[WORKERS..] {
        stream
            .write_all(b"GET /v1/drip HTTP/1.1\r\nHost: a\r\nX: ")
            .unwrap();
    }
    let mut tap: Vec<TcpStream> = drips.iter().map(|s| s.try_clone().unwrap()).collect();
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                tap.retain_mut(|stream| stream.write_all(b"x").is_ok());
                thread::sleep(Duration::from_secs(1));
            }
        });
        for stream in drips.iter_mut().rev() {
            let mut start = [0; 12];
            let told = stream.read_exact(&mut start);
            over.store(told.is_err(), Ordering::Relaxed);
            told.expect("a drip is told that it is too slow");
            assert_eq!(&start, b"HTTP/1.1 408");
        }
        over.store(true, Ordering::Relaxed);
    });
    drop(drips);
    nothing_went_up(&upstream);
    // They hold no worker, and where places become scarce there is less patience with them: while
    // half of MAX_CONNECTIONS but the 8 that are kept for /health is taken.
    let crowd = (256 - 8) / 2;
    let mut slow: Vec<TcpStream> = (0..crowd).map(|_| siege.dial()).collect();
    let began = Instant::now();
    let head = b"POST /v1/drip HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    for stream in &mut slow {
        stream.write_all(head).unwrap();
    }
    eventually("all are in", || siege.alvus.health()["in_flight"] == crowd);
    assert_eq!(siege.alvus.ask().status, 200);
    let mut told = false;
    while !told {
        thread::sleep(Duration::from_millis(500));
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "it takes as long as where there is room"
        );
        // Whoever is told may go on sending for a while: it is not cut off before it has read why.
        for stream in &mut slow {
            stream.write_all(b"x").unwrap();
            stream.set_nonblocking(true).unwrap();
            told |= stream.read(&mut [0; 512]).is_ok();
            stream.set_nonblocking(false).unwrap();
        }
    }
    drop(slow);
    siege.survive();
}

/// Streams without end to whoever asks for `/v1/long`, and counts those under way.
fn endless(streaming: Arc<AtomicUsize>) -> Upstream {
    Upstream::new(move |seen| {
        if seen.target != "/v1/long" {
            return ok();
        }
        let streaming = streaming.clone();
        Act::Do(Box::new(move |stream| {
            streaming.fetch_add(1, Ordering::SeqCst);
            let event = chunk(&format!("data: {}\n\n", "x".repeat(1000)));
            let _ = stream.write_all(SSE_HEAD.as_bytes());
            while stream.write_all(event.as_bytes()).is_ok() {}
            streaming.fetch_sub(1, Ordering::SeqCst);
        }))
    })
}

#[test]
fn slow_readers_of_a_long_stream_harm_nobody() {
    let streaming = Arc::new(AtomicUsize::new(0));
    let upstream = endless(streaming.clone());
    let siege = Siege::before(&upstream);
    let readers = WORKERS - 1;
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..readers {
        let mut stream = siege.dial();
        set_socket_recv_buffer_size(&stream, 2048).unwrap();
        stream
            .write_all(b"GET /v1/long HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        slow.push(stream);
    }
    eventually("all of them stream", || {
        streaming.load(Ordering::SeqCst) == readers
    });
    for _ in 0..30 {
        for stream in &mut slow {
            stream.read_exact(&mut [0]).unwrap();
        }
        assert_eq!(siege.alvus.ask().status, 200, "the last worker is free");
        thread::sleep(Duration::from_millis(50));
    }
    // What they do not take waits in the upstream's hands, not in ours.
    let now = Taken::by(siege.alvus.pid());
    assert!(
        now.rss_kib < siege.before.rss_kib + ALLOCATOR_KEEPS,
        "{now:?}"
    );
    let (leave, go) = slow
        .split_off(1)
        .into_iter()
        .next()
        .zip(slow.pop())
        .unwrap();
    reset(leave);
    drop(go);
    drop(slow);
    eventually("the upstream is released", || {
        streaming.load(Ordering::SeqCst) == 0
    });
    siege.survive();
}

#[test]
fn a_hundred_thousand_pipelined_requests_harm_nobody() {
    const COUNT: usize = 100_000;
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // one client reads its answers, another does not
    let mut deaf = siege.dial();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let _ = deaf.write_all(&request.repeat(COUNT));
    let mut stream = siege.dial();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all(&request.repeat(COUNT - 1)).unwrap();
        sender.write_all(last).unwrap();
    });
    let (mut answers, mut kept, mut piece) = (0, Vec::new(), [0; 65_536]);
    let start = b"HTTP/1.1 200 ";
    loop {
        let n = stream.read(&mut piece).expect("answers in time");
        kept.extend_from_slice(&piece[..n]);
        answers += kept.windows(start.len()).filter(|w| w == start).count();
        let rest = kept.len().min(start.len() - 1);
        kept.drain(..kept.len() - rest);
        if n == 0 {
            break;
        }
        let now = Taken::by(siege.alvus.pid());
        assert!(
            now.rss_kib < siege.before.rss_kib + ALLOCATOR_KEEPS,
            "{now:?}"
        );
    }
    sending.join().unwrap();
    assert_eq!(answers, COUNT);
    drop(deaf);
    siege.survive();
}

#[test]
fn a_storm_of_resets_harms_nobody() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    thread::scope(|scope| {
        for n in 0..4 {
            let siege = &siege;
            scope.spawn(move || {
                for round in 0..500 {
                    let mut stream = siege.dial();
                    // before accept, with a head, and with a request on its way
                    let said = [
                        "",
                        "GET /health HTTP/1.1\r\nHost: a\r\n",
                        "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
                        CHAT,
                    ][(n + round) % 4];
                    let _ = stream.write_all(said.as_bytes());
                    reset(stream);
                }
            });
        }
    });
    siege.survive();
}

#[test]
fn more_connections_than_descriptors_harm_nobody() {
    let upstream = Upstream::new(|_| ok());
    let workers = WORKERS.to_string();
    let alvus = Alvus::before_under(
        &["prlimit", "--nofile=64:64"],
        &upstream,
        &[("WORKERS", &workers)],
    );
    assert!(
        alvus.log().contains("leaves room for 22 connections"),
        "{}",
        alvus.log()
    );
    let siege = Siege::of(alvus, WORKERS);
    let mut crowd = Vec::new();
    for n in 0..300 {
        crowd.push(siege.dial());
        if n % 50 == 0 {
            assert_eq!(siege.alvus.ask().status, 200);
        }
    }
    assert_eq!(siege.alvus.ask().status, 200);
    drop(crowd);
    siege.survive();
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_under(&["prlimit", "--nofile=128:777"], &upstream, &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", alvus.pid())).unwrap();
    let open_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = open_files
        .split_whitespace()
        .filter(|w| w.parse::<u32>().is_ok())
        .collect();
    assert_eq!(numbers, ["777", "777"]);
}

#[test]
fn the_client_idle_longest_makes_room_for_a_new_one() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1"), ("MAX_CONNECTIONS", "3")]);
    // It came before the others, and says nothing.
    let mut idle = alvus.connect();
    let mut others = [alvus.connect(), alvus.connect()];
    for client in &mut others {
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(alvus.ask().status, 200);
    assert!(idle.ended());
    for client in &mut others {
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
}

// ---- uploads ------------------------------------------------------------------------------------

#[test]
fn bodies_cut_short_harm_nobody() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before(&upstream);
    for n in 0..100 {
        let mut stream = siege.dial();
        let framing = match n % 2 {
            0 => "Content-Length: 5000\r\n\r\n",
            _ => "Transfer-Encoding: chunked\r\n\r\n1388\r\n",
        };
        let request = format!(
            "POST /v1/cut HTTP/1.1\r\nHost: a\r\n{framing}{}",
            "x".repeat(4000)
        );
        stream.write_all(request.as_bytes()).unwrap();
        match n % 3 {
            0 => reset(stream),
            1 => drop(stream),
            _ => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }
    eventually("nobody is served any more", || {
        siege.alvus.health()["in_flight"] == 0
    });
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn uploads_above_the_limit_are_refused() {
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let body = "x".repeat(3 << 20);
    for framing in [
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ] {
        let request = format!("POST /v1/large HTTP/1.1\r\nHost: a\r\n{framing}");
        for _ in 0..10 {
            is_told_off(&siege, 413, request.as_bytes());
        }
    }
    nothing_went_up(&upstream);
    siege.survive();
}

#[test]
fn sixty_four_uploads_at_once_stay_within_the_budget() {
    const BUDGET_MIB: usize = 8;
    let upstream = Upstream::new(|_| ok());
    let siege = Siege::before_with(&upstream, &[("MAX_BODY_MB", "8")]);
    let body = "x".repeat(3 << 20);
    let most = AtomicUsize::new(0);
    let request = format!(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let request = &request;
    let statuses: Vec<String> = thread::scope(|scope| {
        let all: Vec<_> = (0..64)
            .map(|_| {
                let (siege, most) = (&siege, &most);
                scope.spawn(move || {
                    let answer = say(siege.dial(), request.as_bytes());
                    most.fetch_max(Taken::by(siege.alvus.pid()).rss_kib, Ordering::Relaxed);
                    answer.split(' ').nth(1).unwrap_or("none").to_string()
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(
        statuses.iter().all(|s| s == "200" || s == "503"),
        "{statuses:?}"
    );
    assert!(statuses.iter().any(|s| s == "200"), "{statuses:?}");
    if std::env::var_os("ALVUS_RUNNER").is_none() {
        let most = most.into_inner();
        let bound = siege.before.rss_kib + BUDGET_MIB * 1024 + ALLOCATOR_KEEPS;
        assert!(most < bound, "{most} KiB at most, of {bound}");
    }
    siege.survive();
}

// ---- clients that leave -------------------------------------------------------------------------

#[test]
fn clients_gone_in_every_phase_leave_nothing_behind() {
    let streaming = Arc::new(AtomicUsize::new(0));
    let counted = streaming.clone();
    let upstream = Upstream::new(move |seen| match seen.target.as_str() {
        "/v1/silent" => Act::Do(Box::new(|stream| {
            // until alvus gives up
            let _ = stream.read(&mut [0]);
        })),
        "/v1/limited" => answer(429, "Retry-After: 1\r\n", "{}"),
        "/v1/long" => {
            let streaming = counted.clone();
            Act::Do(Box::new(move |stream| {
                streaming.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(SSE_HEAD.as_bytes());
                while stream.write_all(chunk("data: 1\n\n").as_bytes()).is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                streaming.fetch_sub(1, Ordering::SeqCst);
            }))
        }
        _ => ok(),
    });
    let siege = Siege::before(&upstream);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let phases = [
        String::new(),
        "G".to_string(),
        "GET / HTTP/1.1\r\nHost: a\r\n".to_string(),
        get("/health"),
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
            .to_string(),
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf".to_string(),
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf".to_string(),
        get("/v1/silent"), // waiting for the first byte; more of them than workers: waiting in line
        get("/v1/long"),   // in the middle of a stream
        get("/v1/x"),      // maybe just answered
        get("/v1/limited"), // waiting for a key
    ];
    for phase in &phases {
        for round in 0..WORKERS * 3 {
            let mut stream = siege.dial();
            let _ = stream.write_all(phase.as_bytes());
            if phase.contains("/v1/long") && round % 2 == 0 {
                let _ = stream.read(&mut [0; 300]);
            }
            match round % 3 {
                0 => reset(stream),
                1 => drop(stream),
                _ => drop(stream.shutdown(Shutdown::Write)),
            }
        }
        eventually("nobody is served any more", || {
            siege.alvus.health()["in_flight"] == 0
        });
    }
    eventually("the upstream is released", || {
        streaming.load(Ordering::SeqCst) == 0
    });
    siege.survive();
}
