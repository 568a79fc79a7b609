//! What is fuzzed, and what must hold whatever comes in.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use alvus::config::{Config, Loaded};
use alvus::dialect::events::EventReader;
use alvus::front::body::{BodyLength, IncomingBody};
use alvus::front::head::{Head, HeadError};
use alvus::front::{Limits, Request, Server};
use alvus::metadata::{Metadata, ReadConversation};
use alvus::state::{self, SavedRest};
use alvus::verdict::{self, Verdict};
use alvus::{route, sse};

use crate::engine::Target;

pub const TARGETS: &[Target] = &[
    Target {
        name: "config",
        corpus: "config",
        words: &[
            b"API_KEYS=",
            b"TARGET_BASE_URL=",
            b"PORT=",
            b"HOST=",
            b"LOG=",
            b"WORKERS=",
            b"COOLDOWN_SEC=",
            b"MAX_BODY_MB=",
            b"SSL_CERT_FILE=",
            b"export ",
            b"http://",
            b"https://",
            b"\"",
            b"'",
            b"#",
            b"\\n",
            b"\n",
            b"\r\n",
            b"$",
            b"[::1]",
            SECRET.as_bytes(),
            b"\xef\xbb\xbf",
            b"/v1",
            b",",
        ],
        max_len: 4096,
        run: config,
    },
    Target {
        name: "hints",
        corpus: "hints",
        words: &[
            b"retry-after: ",
            b"retry-after-ms: ",
            b"date: ",
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"\n",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 1994",
            b"429\n",
            b"401\n",
            b"403\n",
            b"x-ratelimit-reset-requests: ",
            b"x-ratelimit-reset-tokens: ",
            b"1m30s",
            b"20ms",
            b"{\"error\":",
            b"\n\n{\"error\":",
            b"\"retryDelay\":\"34s\"",
            b"try again in 6m2.5s",
            b"x-ratelimit-remaining-requests: 0\n",
            b"x-ratelimit-reset-requests: 6m0s\n",
            b"2026-11-23T12:00:45Z",
            b"\"X-RateLimit-Reset\":\"1795478400000\"",
            b"ResourceExhausted: Worker",
        ],
        max_len: 2048,
        run: judge,
    },
    Target {
        name: "events",
        corpus: "events",
        words: &[
            b"data: ",
            b"data:",
            b"\n\n",
            b"\r\n\r\n",
            b"\r",
            b": PROCESSING\n",
            b"event: error\n",
            b"[DONE]",
            b"\"finish_reason\":\"stop\"",
            b"\xef\xbb\xbf",
        ],
        max_len: 4096,
        run: events,
    },
    Target {
        name: "metadata",
        corpus: "metadata",
        words: &[
            b"{",
            b"}",
            b"\"model\":",
            b"\"stream\":",
            b"true",
            b"\"messages\":[",
            b"{\"role\":\"user\",\"content\":\"x\"}",
            b"\"system\":",
            b"\\u0000",
            b"\"mod\\u0065l\":\"\\\\\"",
            b"\\\"",
            b"\\\\",
            b"\"stream\" : true ",
            b"[[[[",
            b",",
        ],
        max_len: 4096,
        run: metadata,
    },
    #[cfg(feature = "messages")]
    Target {
        name: "messages-request",
        corpus: "messages-request",
        words: crate::dialects::REQUEST,
        max_len: 4096,
        run: crate::dialects::request,
    },
    #[cfg(feature = "messages")]
    Target {
        name: "messages-stream",
        corpus: "messages-stream",
        words: crate::dialects::STREAM,
        max_len: 8192,
        run: crate::dialects::stream,
    },
    #[cfg(feature = "responses")]
    Target {
        name: "responses-request",
        corpus: "responses-request",
        words: crate::responses::REQUEST,
        max_len: 4096,
        run: crate::responses::request,
    },
    #[cfg(feature = "responses")]
    Target {
        name: "responses-stream",
        corpus: "messages-stream", // what upstreams say is the same
        words: crate::responses::STREAM,
        max_len: 8192,
        run: crate::responses::stream,
    },
    Target {
        name: "state",
        corpus: "state",
        words: &[
            b"\n",
            b" ",
            b"cooling",
            b"parked",
            b"rejected",
            b"0123456789abcdef ",
            b"%20",
            b"end ",
        ],
        max_len: 4096,
        run: saved,
    },
    Target {
        name: "route",
        corpus: "target",
        words: &[
            b"/v1",
            b"http://",
            b"HTTPS://",
            b"//",
            b"/../",
            b"%2F",
            b"?",
            b"#",
            b"@",
            b":80",
            b"[::1]",
            b"\\",
            b"/health",
            b"*",
        ],
        max_len: 512,
        run: target,
    },
    Target {
        name: "head",
        corpus: "head",
        words: HTTP,
        max_len: 48 * 1024,
        run: head,
    },
    Target {
        name: "body",
        corpus: "body",
        words: &[
            b"\r\n",
            b"0\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b";ext=1",
            b"ffffffffffffffff",
            b"T: r\r\n",
        ],
        max_len: 24 * 1024,
        run: body,
    },
    Target {
        name: "httparse",
        corpus: "head",
        words: HTTP,
        max_len: 48 * 1024,
        run: compare,
    },
    Target {
        name: "connection",
        corpus: "head",
        words: HTTP,
        max_len: 16 * 1024,
        run: connection,
    },
];

const HTTP: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\n",
    b"HEAD / HTTP/1.0\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.9",
    b"HTTP/2.0",
    b"\r\n",
    b"\r\n\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"X-A: b\r\n",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b" ",
    b": ",
];

// ---- configuration ------------------------------------------------------------------------------

/// Stands for a key in the seeds, and must not come out again.
const SECRET: &str = "sk-planted-9f27c1b4e8d35a60";

fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let none = std::iter::empty::<(String, String)>();
    let said = match Config::parse(Some(&text), none, &[]) {
        Ok(Loaded { config, warnings }) => {
            assert!(!config.api_keys.is_empty());
            assert!((1..=256).contains(&config.workers));
            assert!(config.max_body >= 1024 * 1024);
            assert!(config.target.origin().starts_with("http"));
            // Not the rest: what stands in an address or a path is shown.
            format!("{:?} {warnings:?}", config.api_keys)
        }
        Err(faults) => {
            // The same here.
            let is_path = |line: &&str| line.ends_with(" cannot be read: unsupported");
            let text = faults.to_string();
            let lines = text.lines().filter(|line| !is_path(line));
            lines.collect()
        }
    };
    assert!(!said.contains(SECRET), "a key is shown: {said}");
}

// ---- hints --------------------------------------------------------------------------------------

/// `status`, then header lines, an empty line, and the start of the body.
fn judge(input: &[u8]) {
    let end = input.windows(2).position(|w| w == b"\n\n");
    let (head, body) = match end {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|b| *b == b'\n');
    let status = lines
        .next()
        .and_then(|l| std::str::from_utf8(l).ok()?.parse().ok());
    let status = status.unwrap_or(429);
    let fields: Vec<(&[u8], &[u8])> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|b| *b == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
        .collect();
    let header = |name: &str| {
        let found = fields.iter().find(|(n, _)| *n == name.as_bytes());
        found.map(|(_, value)| *value)
    };
    let verdict = verdict::judge(status, header, body);
    for verdict in [verdict, verdict::judge_inside(body)] {
        if let Verdict::Limited(Some(rest))
        | Verdict::Overloaded(Some(rest))
        | Verdict::Trouble(Some(rest))
        | Verdict::MaybeWorked(Some(rest)) = verdict
        {
            let bounds = verdict::MIN_REST..=verdict::MAX_REST;
            assert!(bounds.contains(&rest), "{rest:?}");
        }
    }
    if status < 400 {
        assert_eq!(verdict, Verdict::Pass);
    }
}

// ---- a stream's events and its end ----------------------------------------------------------------

/// However a stream is cut, its events are the same, and so is its end.
fn events(input: &[u8]) {
    let [found, others @ ..] = [4096, 7, 1].map(|size| {
        let mut events = EventReader::default();
        let mut found = Vec::new();
        for piece in input.chunks(size) {
            let _ = events.push(piece, &mut |data| found.push(data.to_vec()));
        }
        found
    });
    for other in others {
        assert_eq!(found, other, "the events depend on how they came");
    }
    if sse::is_silent(input) {
        assert!(found.is_empty());
    }
    let mut ends = [1, 7, 4096].map(|size| {
        let mut ending = sse::Ending::default();
        input.chunks(size).for_each(|piece| ending.push(piece));
        (ending.is_finished(), ending.is_whole(false))
    });
    ends.sort_unstable();
    assert_eq!(ends[0], ends[2], "the end depends on how it came");
}

// ---- a request's body -----------------------------------------------------------------------------

/// What is read of a body is what a whole parser reads of it.
fn metadata(input: &[u8]) {
    let found = Metadata::read(input, ReadConversation::Wanted);
    let Ok(whole) = serde_json::from_slice::<serde_json::Value>(input) else {
        return;
    };
    if whole.is_object() {
        // Of a name that stands twice, both take the last value.
        assert_eq!(found.model, whole["model"].as_str().unwrap_or_default());
        assert_eq!(found.streams, whole["stream"] == true);
    } else {
        assert_eq!(found, Metadata::default());
    }
}

// ---- the state file -----------------------------------------------------------------------------

/// Whatever stands in a file, behind our first line or not, is refused or read, at any time of day; and
/// what was read can be written and read again.
fn saved(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (now, salt) = (Instant::now(), "07".repeat(16));
    let ours = format!("alvus-state 1 salt={salt} clock=1800000000\n{text}");
    for clock in [0, 1_800_000_000, u64::MAX] {
        let _ = state::from_text(&text, now, clock);
        let (salt, rests, _) = state::from_text(&ours, now, clock).expect("ours");
        let again = state::to_text(&salt, &rests, now, clock);
        let writable = |r: &SavedRest| r.model.len() <= 200 && !r.model.contains(char::is_control);
        let kept: Vec<SavedRest> = rests.into_iter().filter(writable).collect();
        assert_eq!(
            state::from_text(&again, now, clock),
            Some((salt, kept, false))
        );
    }
}

// ---- request targets ----------------------------------------------------------------------------

/// Wherever a target leads, it leads to our provider, and the path is the client's.
fn target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(target) = route::origin_form(&text) else {
        return;
    };
    assert!(target.starts_with('/') && text.ends_with(target) || target == "/");
    for base in ["", "/v1", "/v1beta/openai"] {
        let up = route::upward(base, target);
        assert!(up.starts_with(base) && up.starts_with('/'), "{up}");
        let left = target.strip_prefix("/v1").unwrap_or(target);
        assert!(up.ends_with(left), "{target} became {up}");
        assert!(up.len() <= base.len() + target.len() + 1);
        if let Ok(uri) = ureq::http::Uri::try_from(format!("http://provider.test:81{up}")) {
            let authority = uri.authority().unwrap();
            assert_eq!(authority.as_str(), "provider.test:81", "{up}");
            assert_eq!(uri.path_and_query().unwrap().as_str(), up);
        }
    }
    assert!(target.starts_with(route::path(target)));
}

// ---- the head of a request ----------------------------------------------------------------------

/// Everything that a head says, to be compared.
#[derive(Debug, PartialEq)]
struct Read_ {
    used: usize,
    method: String,
    target: String,
    minor: u8,
    fields: Vec<(String, Vec<u8>)>,
    framing: BodyLength,
    persistent: bool,
}

#[derive(Debug, PartialEq)]
enum Ours {
    Taken(Read_),
    Refused(u16, &'static str),
    /// More bytes are needed.
    Unfinished,
}

/// Reads a head from pieces of this size.
fn read_head(input: &[u8], piece: usize) -> Ours {
    let mut source = BufReader::with_capacity(piece, input);
    let result = Head::read(&mut source, &Limits::default());
    let left = source.buffer().len() + source.get_ref().len();
    match result {
        Ok(head) => Ours::Taken(Read_ {
            used: input.len() - left,
            method: head.method.as_str().to_string(),
            target: head.target().to_string(),
            minor: head.version.1,
            fields: head
                .fields()
                .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), v.to_vec()))
                .collect(),
            framing: head.framing(),
            persistent: head.persistent,
        }),
        Err(HeadError::Refused(status, why)) => Ours::Refused(status, why),
        Err(HeadError::Io(_)) => Ours::Unfinished,
    }
}

/// A head reads the same however it comes in, and means the same when it is written again.
fn head(input: &[u8]) {
    let whole = read_head(input, 64 * 1024);
    for piece in [1, 7] {
        assert_eq!(read_head(input, piece), whole);
    }
    let Ours::Taken(whole) = whole else { return };
    assert!(whole.target.bytes().all(|b| b.is_ascii_graphic()));
    let mut text = format!(
        "{} {} HTTP/1.{}\r\n",
        whole.method, whole.target, whole.minor
    )
    .into_bytes();
    for (name, value) in &whole.fields {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
        text.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    // Neither longer lines nor another version than it had.
    if let Ours::Taken(again) = read_head(&text, 64 * 1024) {
        assert_eq!(
            again,
            Read_ {
                used: text.len(),
                ..whole
            }
        );
    } else {
        let longest = text.split(|b| *b == b'\n').map(<[u8]>::len).max();
        assert!(
            longest > Some(8 * 1024) || text.len() > 32 * 1024,
            "not read again"
        );
    }
}

// ---- the body of a request ----------------------------------------------------------------------

fn read_body(
    input: &[u8],
    framing: BodyLength,
    capacity: usize,
    step: usize,
) -> (Vec<u8>, Option<std::io::ErrorKind>, usize) {
    let mut body = IncomingBody::new(BufReader::with_capacity(capacity, input));
    body.begin(framing);
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; step]);
    let end = loop {
        match body.read(&mut buffer) {
            Ok(0) => break None,
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(e) => break Some(e.kind()),
        }
    };
    let left = body.source().buffer().len() + body.source().get_ref().len();
    assert_eq!(body.is_done(), end.is_none());
    (bytes, end, input.len() - left)
}

/// A body reads the same however it comes in, and never grows.
fn body(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let framing = match first {
        b'c' => BodyLength::Chunked,
        n => BodyLength::Length(u64::from(*n)),
    };
    let whole = read_body(rest, framing, 64 * 1024, 16 * 1024);
    assert!(whole.0.len() <= whole.2.min(rest.len()));
    for (capacity, step) in [(1, 1), (7, 3), (300, 1000)] {
        let again = read_body(rest, framing, capacity, step);
        if whole.1.is_none() {
            assert_eq!(again, whole);
        } else {
            assert_eq!((again.0, again.1), (whole.0.clone(), whole.1));
        }
    }
    match (framing, whole.1) {
        (BodyLength::Length(n), None) => assert_eq!(whole.0.len() as u64, n),
        (BodyLength::Chunked, None) => assert_eq!(unchunked(rest), Some(whole.0)),
        _ => {}
    }
}

/// The same, told in the plainest way and without rigour: what is in chunks that are well formed.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let digits = rest.iter().position(|b| !b.is_ascii_hexdigit())?;
        let size = u64::from_str_radix(std::str::from_utf8(&rest[..digits]).ok()?, 16).ok()?;
        let size = usize::try_from(size).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(all);
        }
        all.extend(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

// ---- beside another parser ----------------------------------------------------------------------

/// Refusals of ours that httparse does not share, and why we want them. Anything else that one of
/// the two takes and the other refuses is a failure.
const STRICTER: &[(&str, &str)] = &[
    (
        "more than one Content-Length",
        "framing is not its business; here it is how requests are smuggled",
    ),
    ("Content-Length is not a number of bytes", "framing"),
    ("Transfer-Encoding is not just chunked", "framing"),
    ("both Content-Length and Transfer-Encoding", "framing"),
    ("Transfer-Encoding in HTTP/1.0", "framing"),
    ("more than one Host", "RFC 9112 §3.2"),
    ("there is no Host", "RFC 9112 §3.2"),
    (
        "the expectation is not 100-continue",
        "RFC 9110 §10.1.1: 417",
    ),
    (
        "a line does not end in CRLF",
        "a bare LF ends a line for some parsers and not for others",
    ),
    (
        "the target holds a byte that has to be percent-encoded",
        "RFC 3986: a target is ASCII",
    ),
    (
        "the request does not start with a method",
        "it skips any number of bare LFs",
    ),
    (
        "the request line is not: method, target, version",
        "it skips any number of empty lines, we one",
    ),
    ("a line of the head is too long", "a limit of ours"),
    ("the head of the request is too long", "a limit of ours"),
    ("too many header fields", "a limit of ours"),
];

/// What we take and httparse does not.
const LAXER: &str = "HTTP/1.2 to 1.9 are read as 1.1 (RFC 9110 §2.5)";

/// How often each difference came up.
static DIFFERENCES: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

pub fn differences() -> BTreeMap<&'static str, u64> {
    DIFFERENCES.lock().unwrap().clone()
}

fn differ(why: &'static str) {
    *DIFFERENCES.lock().unwrap().entry(why).or_default() += 1;
}

fn compare(input: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 512];
    let mut theirs = httparse::Request::new(&mut fields);
    let parsed = theirs.parse(input);
    match (read_head(input, 64 * 1024), parsed) {
        (Ours::Taken(ours), Ok(httparse::Status::Complete(used))) => {
            let theirs = Read_ {
                used,
                method: theirs.method.unwrap().to_string(),
                target: theirs.path.unwrap().to_string(),
                minor: theirs.version.unwrap(),
                fields: theirs
                    .headers
                    .iter()
                    .map(|h| (h.name.to_string(), h.value.to_vec()))
                    .collect(),
                framing: ours.framing,
                persistent: ours.persistent,
            };
            assert_eq!(ours, theirs);
        }
        (Ours::Taken(ours), theirs) => {
            let line = String::from_utf8_lossy(&input[..ours.used]);
            let version = line
                .trim_start()
                .lines()
                .next()
                .unwrap()
                .as_bytes()
                .last()
                .copied();
            assert!(
                matches!(version, Some(b'2'..=b'9')) && theirs == Err(httparse::Error::Version),
                "we take it, httparse does not: {theirs:?}"
            );
            differ(LAXER);
        }
        (Ours::Refused(_, why), Ok(httparse::Status::Complete(_))) => {
            let wanted = STRICTER.iter().find(|(text, _)| *text == why);
            let Some((text, _)) = wanted else {
                panic!("httparse takes it, we do not: {why}");
            };
            differ(text);
        }
        (Ours::Unfinished, Ok(httparse::Status::Complete(_))) => {
            panic!("httparse sees an end that we do not");
        }
        _ => {}
    }
}

// ---- a whole connection -------------------------------------------------------------------------

/// Panics on any thread, those of the server included.
pub static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A front door that answers each request with its method, target and body.
static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::serve_in_place(listener, Limits::default(), answer_summary).unwrap();
    std::mem::forget(server); // it serves as long as the process lives
    addr
});

fn answer_summary(mut request: Request<'_>) {
    let mut body = Vec::new();
    if request.as_reader().read_to_end(&mut body).is_err() {
        let _ = request.client().shutdown(Shutdown::Both);
        return;
    }
    let text = summary(request.method().as_str(), request.url(), &body);
    let length = text.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
    let _ = request.into_writer().write_all(head.as_bytes());
}

fn summary(method: &str, target: &str, body: &[u8]) -> String {
    let sum = body.iter().fold(body.len() as u64, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*b))
    });
    format!("{method} {target} {} {sum}\n", body.len())
}

/// What a connection that brings these bytes must be answered, request by request, read by the
/// parser alone.
fn expected(input: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    let mut source = IncomingBody::new(BufReader::new(input));
    loop {
        let Ok(head) = Head::read(source.source(), &Limits::default()) else {
            return all;
        };
        source.begin(head.framing());
        let mut bytes = Vec::new();
        if source.read_to_end(&mut bytes).is_err() {
            return all;
        }
        all.push(summary(head.method.as_str(), head.target(), &bytes));
        if !head.persistent {
            return all;
        }
    }
}

/// Sends the bytes over loopback. Requests are answered once each, in order, none is lost, none is
/// made up, and after a refusal comes nothing more.
fn connection(input: &[u8]) {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let n = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    // Another address each time, so that ports in TIME_WAIT do not run out.
    let host = Ipv4Addr::from(0x7f00_0001 + u32::try_from(n % 0x00ff_fff0).unwrap());
    let mut stream = TcpStream::connect((host, SERVER.port())).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    let mut read = stream.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        // A reset is an end: the server need not read on after a refusal.
        let end = read.read_to_end(&mut said);
        (said, end.err().map(|e| e.kind()))
    });
    let sent = stream.write_all(input);
    let _ = stream.shutdown(Shutdown::Write);
    let (said, end) = reader.join().unwrap();
    assert_ne!(
        end,
        Some(std::io::ErrorKind::WouldBlock),
        "no end after 15 s"
    );
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "the server panicked");
    let text = String::from_utf8(said).expect("answers are ASCII");
    let mut rest = text.as_str();
    let mut answered = Vec::new();
    let mut refused = false;
    while !rest.is_empty() {
        if let Some(left) = rest.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n") {
            rest = left;
            continue;
        }
        assert!(!refused, "something follows a refusal: {text:?}");
        let (head, behind) = rest.split_once("\r\n\r\n").expect("a whole head");
        let status: u16 = head[9..12].parse().expect("a status");
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |n| n.parse().unwrap());
        if status == 200 {
            answered.push(behind[..length].to_string());
        } else {
            assert!((400..=505).contains(&status), "{status}");
            refused = true;
        }
        rest = &behind[length..];
    }
    let expected = expected(input);
    if sent.is_ok() && end.is_none() {
        assert_eq!(answered, expected);
    } else {
        assert!(
            expected.starts_with(&answered),
            "{answered:?} of {expected:?}"
        );
    }
}
