//! A soak: `make soak`. Eight clients, one upstream that misbehaves now and then, reloads in
//! between, for `SOAK_MIN` minutes, at least two; `SOAK_SEED` repeats the choices of a run.
//!
//! Each request carries an id in path and body, and its answer repeats it, so that a lost, doubled
//! or exchanged answer is noticed. At the end memory, threads, descriptors and the cost of a
//! request must be what they were at the beginning.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Alvus, Client, SSE_HEAD, Seen, TempDir, chunk, eventually, read_request};

/// How many clients ask, one request at a time each.
const CLIENTS: u64 = 8;
/// Rows of the table.
const ROWS: u32 = 12;
/// A client's pause between two requests, at most.
const PAUSE_MS: u64 = 20;
/// One request in so many meets a 429.
const LIMITED: u64 = 400;
/// How the cost of a request is measured: in at least and at most so many rounds of so many requests.
const QUIET_ROUNDS: u64 = 40;
const QUIET_ROUNDS_MOST: u64 = 400;
const QUIET_REQUESTS: u64 = 100;
/// What every key holds, and no output may.
const MARK: &str = "never-shown";
/// A key that the upstream does not know.
const REVOKED: &str = "test-key-never-shown-soak-revoked";

fn key(n: u32) -> String {
    format!("test-key-never-shown-soak-{n:04}")
}

/// Numbers from a seed (splitmix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What a request is about, and how often in a hundred.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    Stream,
    Upload,
    Large,
    /// Answered, and the connection closed without a word.
    Close,
    /// 500 at first.
    Error,
    /// A stream that breaks off.
    Cut,
    /// The connection ends instead of an answer.
    Nothing,
    Garbage,
    /// A stream whose client leaves in the middle.
    Leave,
    /// A client that leaves as soon as it has asked.
    LeaveEarly,
    Health,
}

const MIX: [(Kind, u64); 12] = [
    (Kind::Plain, 38),
    (Kind::Stream, 25),
    (Kind::Upload, 8),
    (Kind::Large, 6),
    (Kind::Close, 5),
    (Kind::Error, 1),
    (Kind::Cut, 3),
    (Kind::Nothing, 2),
    (Kind::Garbage, 2),
    (Kind::Leave, 4),
    (Kind::LeaveEarly, 3),
    (Kind::Health, 3),
];

fn draw(rng: &mut Rng) -> Kind {
    let mut left = rng.below(MIX.iter().map(|(_, n)| n).sum());
    for (kind, n) in MIX {
        if left < n {
            return kind;
        }
        left -= n;
    }
    Kind::Plain
}

// ---- the upstream -------------------------------------------------------------------------------

/// What the upstream remembers.
struct Book {
    /// How often it took each request upon itself, until the client has asked for the number.
    taken: Mutex<HashMap<String, u32>>,
    limited: AtomicU64,
    /// No 429s for now.
    calm: AtomicBool,
    rng: Mutex<Rng>,
}

impl Book {
    fn draw(&self, n: u64) -> u64 {
        self.rng.lock().unwrap().below(n)
    }

    fn times(&self, id: &str) -> u32 {
        self.taken.lock().unwrap().remove(id).unwrap_or(0)
    }
}

fn upstream(seed: u64) -> (SocketAddr, Arc<Book>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let book = Arc::new(Book {
        taken: Mutex::default(),
        limited: AtomicU64::new(0),
        calm: AtomicBool::new(false),
        rng: Mutex::new(Rng(seed)),
    });
    let shared = book.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let book = shared.clone();
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(seen) = read_request(&mut reader, 0) {
                    if !respond(&mut stream, &seen, &book) {
                        return;
                    }
                }
            });
        }
    });
    (addr, book)
}

/// Answers one request; whether the connection goes on.
fn respond(stream: &mut TcpStream, seen: &Seen, book: &Book) -> bool {
    let key = seen.key.as_deref().unwrap_or_default();
    if key == REVOKED {
        return say(stream, 401, "", "who?");
    }
    assert!(key.contains(MARK), "no key of the pool came up");
    if !book.calm.load(Ordering::Relaxed) && book.draw(LIMITED) == 0 {
        book.limited.fetch_add(1, Ordering::Relaxed);
        let fields = ["Retry-After: 1\r\n", ""][usize::from(book.draw(4) == 0)];
        return say(stream, 429, fields, "slow down");
    }
    let mut words = seen.target.trim_start_matches("/v1/").split('/');
    let (kind, id) = (words.next().unwrap(), words.next().unwrap());
    let brought = String::from_utf8_lossy(&seen.body);
    let brought = brought.split(' ').next().unwrap();
    assert_eq!(brought, id, "the body of another request came up");
    let times = {
        let mut taken = book.taken.lock().unwrap();
        let times = taken.entry(id.into()).or_default();
        *times += 1;
        *times
    };
    let event = |n: u64| chunk(&format!("data: {{\"id\":\"{id}\",\"n\":{n}}}\n\n"));
    let mut write = |text: &str| stream.write_all(text.as_bytes()).is_ok();
    match kind {
        "Stream" | "Cut" => {
            let mut going = write(SSE_HEAD);
            for n in 0..3 + book.draw(20) {
                if book.draw(4) == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                going = going && write(&event(n));
            }
            kind == "Stream" && going && write(&(chunk("data: [DONE]\n\n") + "0\r\n\r\n"))
        }
        "Leave" | "LeaveEarly" => {
            write(SSE_HEAD);
            for n in 0..1000 {
                if !write(&event(n)) {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            false
        }
        "Nothing" => false,
        "Garbage" => {
            write("never heard of HTTP\r\n\r\n");
            false
        }
        "Error" if times == 1 => say(stream, 500, "", "not now"),
        "Upload" => say(stream, 200, "", &format!("{id} {}", checksum(&seen.body))),
        "Large" => say(stream, 200, "", &large(id)),
        "Close" => {
            say(stream, 200, "", &format!("{id} ok"));
            false
        }
        _ => say(stream, 200, "", &format!("{id} ok")),
    }
}

fn say(stream: &mut TcpStream, status: u16, fields: &str, body: &str) -> bool {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).is_ok()
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*b))
    })
}

fn large(id: &str) -> String {
    format!("{id} ").repeat(200_000 / (id.len() + 1))
}

// ---- the clients --------------------------------------------------------------------------------

/// What all clients share.
struct Soak {
    addr: SocketAddr,
    book: Arc<Book>,
    over: AtomicBool,
    requests: AtomicU64,
    streams: AtomicU64,
    left: AtomicU64,
    faults: AtomicU64,
}

/// Asks until it is over. Panics when an answer is not what it must be.
fn client(soak: &Soak, number: u64, mut rng: Rng) {
    let mut connection: Option<Client> = None;
    let mut n = 0;
    while !soak.over.load(Ordering::Relaxed) {
        n += 1;
        let id = format!("{number}-{n}-{:08x}", rng.below(1 << 32));
        let kind = draw(&mut rng);
        let mut client = match connection.take() {
            Some(client) if rng.below(20) > 0 => client,
            _ => Client::connect(soak.addr),
        };
        if ask(soak, &mut client, kind, &id, &mut rng) {
            connection = Some(client);
        }
        soak.requests.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(rng.below(PAUSE_MS)));
    }
}

/// One request and its answer; whether the connection can be used again.
fn ask(soak: &Soak, client: &mut Client, kind: Kind, id: &str, rng: &mut Rng) -> bool {
    if kind == Kind::Health {
        client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
        let health = client.response();
        assert!(
            health.json()["keys"].as_u64() >= Some(5),
            "{}",
            health.text()
        );
        assert!(!health.text().contains(MARK), "a key is shown");
        return true;
    }
    let filler = match kind {
        Kind::Upload => rng.below(300_000),
        _ => rng.below(2_000),
    };
    let body = format!("{id} {}", "x".repeat(usize::try_from(filler).unwrap()));
    let length = body.len();
    let head =
        format!("POST /v1/{kind:?}/{id} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    client.send(head + &body);
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    if kind == Kind::LeaveEarly {
        count(&soak.left);
        // As it is dropped. Whether the upstream has heard of it nobody knows.
        return false;
    }
    let goes_on = match kind {
        Kind::Stream | Kind::Cut | Kind::Leave => {
            count(&soak.streams);
            let head = client.head();
            assert_eq!(head.status, 200, "{kind:?} {id}");
            let leave_at = (kind == Kind::Leave).then(|| rng.below(6));
            let text = events(client, id, leave_at);
            match (kind, text) {
                (Kind::Leave, _) => {
                    count(&soak.left);
                    false
                }
                (Kind::Stream, (true, last)) => {
                    assert_eq!(last, "data: [DONE]", "{id}");
                    true
                }
                (Kind::Cut, (false, last)) => {
                    count(&soak.faults);
                    assert!(last.contains("stream_truncated"), "{id}: {last}");
                    false
                }
                (_, text) => panic!("{kind:?} {id} ends with {text:?}"),
            }
        }
        _ => {
            let response = client.response();
            let text = String::from_utf8_lossy(&response.body);
            assert!(response.whole, "{kind:?} {id}: cut");
            assert!(!text.contains(MARK), "a key is shown: {text}");
            let expected = match kind {
                Kind::Upload => format!("{id} {}", checksum(body.as_bytes())),
                Kind::Large => large(id),
                _ => format!("{id} ok"),
            };
            match kind {
                Kind::Nothing | Kind::Garbage => {
                    count(&soak.faults);
                    assert_eq!(response.status, 502, "{kind:?} {id}: {text}");
                }
                _ => {
                    assert_eq!(response.status, 200, "{kind:?} {id}: {text}");
                    assert!(text == expected, "{kind:?} {id}: not its own answer");
                }
            }
            response.field("connection") != Some("close")
        }
    };
    let times = soak.book.times(id);
    let expected = match kind {
        Kind::Error => 2..=2,
        Kind::Nothing => 1..=2, // a kept connection that ends without a word is taken for a dead one
        _ => 1..=1,
    };
    assert!(
        expected.contains(&times),
        "{kind:?} {id} went up {times} times"
    );
    goes_on
}

/// Reads events of one stream, all of them with this id and in order; whether it ended cleanly, and
/// its last line.
fn events(client: &mut Client, id: &str, leave_at: Option<u64>) -> (bool, String) {
    let mut text = String::new();
    let mut lines = 0;
    let whole = loop {
        match client.chunk() {
            Ok(Some(data)) => text.push_str(std::str::from_utf8(&data).unwrap()),
            Ok(None) => break true,
            Err(_) => break false,
        }
        lines += 1;
        if leave_at.is_some_and(|n| lines > n) {
            break false;
        }
    };
    let mut next = 0;
    let mut last = "";
    for line in text.lines().filter(|line| !line.is_empty()) {
        assert!(last.is_empty(), "{id}: something follows {last}");
        if line == format!("data: {{\"id\":\"{id}\",\"n\":{next}}}") {
            next += 1;
        } else {
            last = line; // the end, or a failure that the caller will name
        }
    }
    (whole, last.into())
}

// ---- what it costs ------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy)]
struct Sample {
    rss_kib: u64,
    threads: u64,
    descriptors: u64,
    /// Processor time since the start, in ticks of 10 ms.
    ticks: u64,
    requests: u64,
}

impl Sample {
    fn take(pid: u32, requests: u64) -> Sample {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // proc_pid_stat(5): utime and stime are the 14th and 15th field, the 2nd ends with `)`.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let field = |n: usize| fields[n - 3].parse::<u64>().unwrap();
        Sample {
            rss_kib: number("VmRSS:"),
            threads: number("Threads:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
            ticks: field(14) + field(15),
            requests,
        }
    }
}

/// Microseconds of processor time per request between two samples, faults and uploads included.
fn cost(from: &Sample, to: &Sample) -> u64 {
    (to.ticks - from.ticks) * 10_000 / (to.requests - from.requests).max(1)
}

/// Processor time of a plain request in nanoseconds, of each of these processes, while nothing else
/// goes on.
///
/// Noise (other programs, caches, the clock of the processor) only ever adds, and comes and goes, so
/// they take turns in short rounds, and the cheapest round of each is its cost. Rounds go on while
/// the first seems too dear beside the second, for a while.
fn costs_in_quiet(soak: &Soak, processes: [(SocketAddr, u32); 2]) -> [u64; 2] {
    // What each of its threads has spent; one that has just ended is not among them.
    let spent = |pid: u32| -> HashMap<PathBuf, u64> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let times = tasks.filter_map(|task| {
            let path = task.unwrap().path();
            let stat = fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path, stat.split(' ').next()?.parse().ok()?))
        });
        times.collect()
    };
    let mut clients = processes.map(|(addr, _)| Client::connect(addr));
    let mut least = [u64::MAX; 2];
    for round in 0..QUIET_ROUNDS_MOST {
        for (process, client) in clients.iter_mut().enumerate() {
            let pid = processes[process].1;
            let mut rng = Rng(1); // the same requests in each round
            let before = spent(pid);
            for n in 0..QUIET_REQUESTS {
                let id = format!("quiet-{process}-{round:03}-{n:03}");
                assert!(ask(soak, client, Kind::Plain, &id, &mut rng));
            }
            let more = |(task, time)| time - before.get(&task).unwrap_or(&0);
            let cost: u64 = spent(pid).into_iter().map(more).sum();
            least[process] = least[process].min(cost / QUIET_REQUESTS);
        }
        if round >= QUIET_ROUNDS && !dearer(least) {
            break;
        }
    }
    least
}

/// More than a quarter.
fn dearer([late, early]: [u64; 2]) -> bool {
    // Tables that are full cost a little: ids whose key is remembered, models that are counted. A leak doubles it.
    late > early + early / 4
}

/// Lets the clients go when it is dropped, by a failure too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse().expect(name));
    let Some(minutes) = number("SOAK_MIN") else {
        println!("soak: only with SOAK_MIN (make soak)");
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("SOAK_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    assert!(minutes >= 2, "SOAK_MIN is {minutes}, expected 2 or more");
    println!("soak: {minutes} min, SOAK_SEED={seed}");

    let (addr, book) = upstream(seed);
    let file = |keys: &str| {
        format!(
            "API_KEYS={keys}\nTARGET_BASE_URL=http://{addr}/v1\nCOOLDOWN_SEC=1\nMAX_RETRIES=100\n"
        )
    };
    let all: Vec<String> = (0..6).map(key).collect();
    let mut others = all[1..].to_vec();
    others.extend([key(6), REVOKED.into()]);
    let dir = TempDir::new();
    let path = dir.write("env", &file(&all.join(",")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    let soak = Soak {
        addr: alvus.addr,
        book,
        over: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        streams: AtomicU64::new(0),
        left: AtomicU64::new(0),
        faults: AtomicU64::new(0),
    };

    let mut samples = Vec::new();
    let mut reloads = 0;
    thread::scope(|scope| {
        let _ends = Ends(&soak.over);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let soak = &soak;
                scope.spawn(move || client(soak, n, Rng(seed ^ (n + 1))))
            })
            .collect();
        println!(
            "  time  requests  streams  left  faults  429s  reloads  RSS KiB  threads  descriptors  µs/request"
        );
        let start = Instant::now();
        let row = Duration::from_secs(minutes * 60) / ROWS;
        samples.push(Sample::take(alvus.pid(), 0));
        for n in 1..=ROWS {
            // Twice a row another configuration, every third time one that is refused.
            for half in [row * (2 * n - 1) / 2, row * n] {
                while start.elapsed() < half && !clients.iter().any(|c| c.is_finished()) {
                    thread::sleep(Duration::from_millis(50));
                }
                let (text, keys) = match reloads % 3 {
                    0 => (file(&others.join(",")), others.len()),
                    1 => ("API_KEYS=\nPORT=x\n".into(), others.len()), // refused
                    _ => (file(&all.join(",")), all.len()),
                };
                fs::write(&path, text).unwrap();
                alvus.signal("HUP");
                eventually("the reload is at work", || alvus.health()["keys"] == keys);
                reloads += 1;
            }
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let sample = Sample::take(alvus.pid(), get(&soak.requests));
            println!(
                "{:>5}s {:>9} {:>8} {:>5} {:>7} {:>5} {reloads:>8} {:>8} {:>8} {:>12} {:>11}",
                start.elapsed().as_secs(),
                sample.requests,
                get(&soak.streams),
                get(&soak.left),
                get(&soak.faults),
                get(&soak.book.limited),
                sample.rss_kib,
                sample.threads,
                sample.descriptors,
                cost(samples.last().unwrap(), &sample),
            );
            samples.push(sample);
            if clients.iter().any(|c| c.is_finished()) {
                break; // one has failed, and says so when it is joined
            }
        }
    });

    eventually("everything has ended", || {
        let health = alvus.health();
        // The connection that asks is the only one that is served.
        health["in_flight"] == 0 && health["waiting"] == 0
    });
    let [late, early] = {
        soak.book.calm.store(true, Ordering::Relaxed);
        // What it was at the beginning: another one, just started, on the machine as it is now.
        let young = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
        costs_in_quiet(
            &soak,
            [(alvus.addr, alvus.pid()), (young.addr, young.pid())],
        )
    };
    for (id, times) in soak.book.taken.lock().unwrap().iter() {
        assert_eq!(*times, 1, "{id} went up {times} times");
    }
    let log = alvus.log();
    assert!(!log.contains(MARK), "a key stands in the log");
    assert!(log.contains("refused by the upstream (401)") && log.contains("reload refused"));
    assert!(soak.book.limited.load(Ordering::Relaxed) > 0, "no 429");
    // Requests of the last minute are remembered, so memory fills in the first minute.
    let filling = u64::from(ROWS) / minutes;
    flat(&samples[filling as usize..]);
    println!(
        "soak: a plain request in quiet costs a new process {} µs, this one {} µs in the end",
        early / 1000,
        late / 1000
    );
    assert!(!dearer([late, early]), "requests became dearer");
    println!("soak: no answer lost, doubled or mixed up; no key shown; flat");
}

/// The last third is as the first one, the very first row aside, in which everything grows.
fn flat(samples: &[Sample]) {
    let third = samples.len() / 3;
    let (first, last) = (
        &samples[1..=third + 1],
        &samples[samples.len() - third - 1..],
    );
    let most = |part: &[Sample], what: fn(&Sample) -> u64| part.iter().map(what).max().unwrap();
    for (name, what, room) in [
        (
            "RSS in KiB",
            (|s| s.rss_kib) as fn(&Sample) -> u64,
            most(first, |s| s.rss_kib) / 10 + 256,
        ),
        ("threads", |s| s.threads, 4),
        ("descriptors", |s| s.descriptors, 12),
    ] {
        let (early, late) = (most(first, what), most(last, what));
        assert!(
            late <= early + room,
            "{name}: {early} at first, {late} in the end"
        );
    }
}
