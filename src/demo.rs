//! `alvus demo`: a provider to play with, so that a newcomer sees keys rotate without owning one. It speaks only chat
//! completions.
//!
//! It speaks just enough HTTP for alvus, on a loopback port of its own; nothing leaves the machine.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::lock;
use crate::reply::quoted;

/// The demo's keys, which no provider knows.
pub const KEYS: [&str; 3] = [
    "demo-key-of-no-worth-aaaa",
    "demo-key-of-no-worth-bbbb",
    "demo-key-of-no-worth-cccc",
];

/// How many requests each key may make in a [`WINDOW`].
pub const LIMIT: usize = 2;

/// The window of [`LIMIT`], rolling.
pub const WINDOW: Duration = Duration::from_secs(15);

/// Pause between two tokens of a streamed answer.
const TOKEN_PAUSE: Duration = Duration::from_millis(80);

/// The largest request body.
const MAX_BODY: u64 = 1024 * 1024;

const WORDS: [&str; 9] = [
    "Hello", " from", " the", " demo:", " this", " answer", " cost", " no", " key.",
];

/// When each key was used, for the window.
type Uses = Arc<Mutex<[VecDeque<Instant>; KEYS.len()]>>;

/// Starts the provider on a free loopback port and returns its base URL.
///
/// # Errors
/// When there is no port or no thread to be had.
pub fn start() -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/v1", listener.local_addr()?);
    let uses = Uses::default();
    thread::Builder::new().name("demo".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let uses = uses.clone();
            let talk = move || drop(converse(&stream, &uses));
            let _ = thread::Builder::new().spawn(talk);
        }
    })?;
    Ok(url)
}

/// A request.
struct Request {
    line: String,
    /// The index of its key.
    key: Option<usize>,
    body: serde_json::Value,
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut request_line = String::new();
    reader.read_line(&mut request_line)?;
    let (mut key, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => key = KEYS.iter().position(|k| value.trim().ends_with(k)),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = Vec::new();
    reader.take(length.min(MAX_BODY)).read_to_end(&mut body)?;
    Ok(Request {
        line: request_line,
        key,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

/// One request, one answer, one connection.
fn converse(stream: &TcpStream, uses: &Uses) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let asked = read(stream)?;
    let Some(key) = asked.key else {
        let refusal = r#"{"error":{"message":"no such key","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
        return plain(stream, "401 Unauthorized", "", refusal);
    };
    // Like the default provider it does not know Messages and Responses; alvus translates them.
    let is_list = asked.line.contains("/models");
    if !is_list && !asked.line.contains("/chat/completions ") {
        let nothing = r#"{"status":404,"title":"Not Found"}"#;
        return plain(stream, "404 Not Found", "", nothing);
    }
    if let Some(wait) = over_limit(uses, key) {
        let after = format!("retry-after: {}\r\n", wait.as_secs() + 1);
        let refusal = r#"{"status":429,"title":"Too Many Requests"}"#;
        return plain(stream, "429 Too Many Requests", &after, refusal);
    }
    if is_list {
        let list = r#"{"object":"list","data":[{"id":"demo","object":"model","created":0,"owned_by":"alvus"}]}"#;
        return plain(stream, "200 OK", "", list);
    }
    if asked.body["stream"] == true {
        return streamed(stream);
    }
    let (content, tokens) = (quoted(&WORDS.concat()), WORDS.len());
    let answer = format!(
        r#"{{"id":"demo","object":"chat.completion","created":0,"model":"demo","choices":[{{"index":0,"finish_reason":"stop","message":{{"role":"assistant","content":{content}}}}}],"usage":{{"prompt_tokens":0,"completion_tokens":{tokens},"total_tokens":{tokens}}}}}"#
    );
    plain(stream, "200 OK", "", &answer)
}

/// How long this key must rest, if it has used up its window; else counts one use.
fn over_limit(uses: &Uses, key: usize) -> Option<Duration> {
    let mut uses = lock(uses);
    let uses = &mut uses[key];
    let now = Instant::now();
    while uses
        .front()
        .is_some_and(|at| now.duration_since(*at) >= WINDOW)
    {
        uses.pop_front();
    }
    if uses.len() < LIMIT {
        uses.push_back(now);
        return None;
    }
    uses.front().map(|at| WINDOW - now.duration_since(*at))
}

fn plain(mut to: &TcpStream, status: &str, fields: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{fields}connection: close\r\n\r\n"
    );
    to.write_all((head + body).as_bytes())
}

fn streamed(mut to: &TcpStream) -> io::Result<()> {
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")?;
    let mut event = |data: &str| -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        to.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    };
    for word in WORDS {
        let content = quoted(word);
        event(&format!(
            r#"{{"id":"demo","object":"chat.completion.chunk","created":0,"model":"demo","choices":[{{"index":0,"delta":{{"content":{content}}},"finish_reason":null}}]}}"#
        ))?;
        thread::sleep(TOKEN_PAUSE);
    }
    event(
        r#"{"id":"demo","object":"chat.completion.chunk","created":0,"model":"demo","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    )?;
    event("[DONE]")?;
    to.write_all(b"0\r\n\r\n")
}
