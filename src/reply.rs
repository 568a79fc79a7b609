//! Answers of our own, and the bytes of an answer's head. Pure.
//!
//! Errors have OpenAI's shape, as every client can read that.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::dialect::json::put;
use crate::logging::quote;

/// When a client whom we had no room for may come back.
pub const BUSY_RETRY: Duration = Duration::from_secs(5);

/// Why there is no room for another body.
pub const BODIES_FULL: &str =
    "too many request bodies at once (MAX_BODY_MB bounds them all together)";

/// How the body that follows a head is framed (RFC 9112 §6).
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Framing {
    /// No body: HEAD, 204, 304.
    None,
    /// Exactly this many bytes.
    Length(u64),
    /// Chunks, ended by an empty one.
    Chunked,
    /// Until the connection ends: for HTTP/1.0, when the length is not known.
    UntilClose,
}

/// What the client's connection allows of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Downstream<'a> {
    /// The client speaks HTTP/1.1.
    pub http_1_1: bool,
    /// The connection stays open after this answer.
    pub keep_alive: bool,
    /// The request was a HEAD: no body follows, whatever the head says.
    pub head_only: bool,
    /// The web origin that may read the answer, if a web page asked.
    pub origin: Option<&'a str>,
}

impl Downstream<'_> {
    /// The framing for a body of this length, if it is known.
    pub fn framing(self, length: Option<u64>) -> Framing {
        match length {
            Some(n) => Framing::Length(n),
            None if self.http_1_1 => Framing::Chunked,
            None => Framing::UntilClose,
        }
    }
}

/// Begins a head: status line and framing. Fields follow with [`field`], [`end_head`] ends it.
pub fn begin_head(out: &mut Vec<u8>, status: u16, framing: Framing, down: Downstream) {
    let keep = down.keep_alive && framing != Framing::UntilClose;
    // Not `write!`: it costs as much as the rest of the head.
    put!(
        out,
        "HTTP/1.1 ",
        u64::from(status),
        " ",
        reason(status),
        "\r\n"
    );
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(n) => number(out, "content-length", n),
        Framing::Chunked => field(out, "transfer-encoding", b"chunked"),
    }
    let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
    match (keep, down.http_1_1) {
        (false, _) => put("connection: close\r\n"),
        (true, false) => put("connection: keep-alive\r\n"),
        (true, true) => {}
    }
    if let Some(origin) = down.origin {
        // `*` means every field, as such a request has no cookies (Fetch, CORS protocol).
        put("vary: origin\r\naccess-control-expose-headers: *\r\naccess-control-allow-origin: ");
        put(origin);
        put("\r\n");
    }
}

/// Adds one field. Name and value must come from a parsed message or from us.
pub fn field(out: &mut Vec<u8>, name: impl AsRef<[u8]>, value: &[u8]) {
    // What separates them, by `push`: on the boards a copy of two bytes takes as long as one of thirty.
    out.extend_from_slice(name.as_ref());
    out.push(b':');
    out.push(b' ');
    out.extend_from_slice(value);
    out.push(b'\r');
    out.push(b'\n');
}

/// Adds one field whose value is a number.
pub fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    put!(out, name, ": ", value, "\r\n");
}

/// Ends a head.
pub fn end_head(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// A small answer of our own.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// When the client may come back.
    pub retry_after: Option<Duration>,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// Other fields of the head: whole lines.
    pub lines: Vec<u8>,
    /// The body.
    pub body: String,
}

/// What is wrong with a request, in words for its client.
#[derive(Debug, PartialEq, Eq)]
pub struct BadRequest(pub String);

impl From<BadRequest> for Reply {
    fn from(bad: BadRequest) -> Reply {
        Reply::error(400, "bad_request", &bad.0)
    }
}

impl Reply {
    /// A JSON document.
    pub fn json(status: u16, body: String) -> Reply {
        Reply {
            status,
            retry_after: None,
            content_type: "application/json",
            lines: Vec::new(),
            body,
        }
    }

    /// An error in OpenAI's shape.
    pub fn error(status: u16, code: &str, message: &str) -> Reply {
        Reply::json(status, error_json(kind(status), code, message))
    }

    /// An error of a server that has too much to do now and soon has less.
    pub fn busy(code: &str, message: &str) -> Reply {
        Reply::error(503, code, message).retry_after(BUSY_RETRY)
    }

    /// The bodies' budget is spent.
    pub fn bodies_full() -> Reply {
        Reply::busy("body_budget", BODIES_FULL)
    }

    /// The message of an error.
    pub fn reason(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(body["error"]["message"].as_str()?.to_owned())
    }

    /// The same with `Retry-After`.
    pub fn retry_after(mut self, wait: Duration) -> Reply {
        self.retry_after = Some(wait);
        self
    }

    /// The same with another field; see [`field`].
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        field(&mut self.lines, name, value.as_ref());
        self
    }

    /// The same as the data of an event, for a stream that has begun.
    pub fn as_event(&self) -> String {
        match self.status {
            500.. => late_error(self.status, &self.reason().unwrap_or_default()),
            _ => self.body.clone(),
        }
    }

    /// Head and body as they go over the wire.
    pub fn to_bytes(&self, down: Downstream) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        let framing = Framing::Length(self.body.len() as u64);
        begin_head(&mut out, self.status, framing, down);
        field(&mut out, "content-type", self.content_type.as_bytes());
        field(&mut out, "cache-control", b"no-store");
        request_id(&mut out);
        if let Some(wait) = self.retry_after {
            number(&mut out, "retry-after", whole_seconds(wait));
        }
        out.extend_from_slice(&self.lines);
        end_head(&mut out);
        if !down.head_only {
            out.extend_from_slice(self.body.as_bytes());
        }
        out
    }
}

/// A random number for jitter and ids.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Seconds, rounded up, at least one: a client that comes back early would only wait again.
pub fn whole_seconds(wait: Duration) -> u64 {
    let up = u64::from(wait.subsec_nanos() > 0);
    wait.as_secs().saturating_add(up).max(1)
}

/// `{"error":{…}}` as OpenAI writes it.
pub fn error_json(kind: &str, code: &str, message: &str) -> String {
    let [code, message, kind] = [code, message, kind].map(quoted);
    format!(r#"{{"error":{{"code":{code},"message":{message},"param":null,"type":{kind}}}}}"#)
}

/// An error as the only event of a stream that had only comments before. Agents decide by its words whether to ask
/// again: pi by "rate limit" and "service unavailable", Qwen Code and Cline by a `code` that is a number.
pub fn late_error(status: u16, message: &str) -> String {
    let name = reason(status).to_ascii_lowercase();
    let message = quoted(&format!("{status} {name} (rate limit): {message}"));
    format!(
        r#"{{"error":{{"code":{status},"message":{message},"param":null,"type":"server_error"}}}}"#
    )
}

/// An error as the last event of a stream that broke after its first words. With a number for a
/// `code` Qwen Code would give up here; pi asks again because of "terminated".
pub fn cut_error() -> String {
    let message = "server error 502: the connection to the provider was terminated before the end of the stream; what came so far is not the whole answer";
    error_json("server_error", "stream_truncated", message)
}

/// Adds the field that names an answer, for those who compare logs. Qwen Code asks again only with it.
pub fn request_id(out: &mut Vec<u8>) {
    out.extend_from_slice(REQUEST_ID.as_bytes());
    out.extend_from_slice(b": ");
    let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
    let mut line = [*b"\r\n"; 9]; // the last one stays
    for (pair, byte) in line.iter_mut().zip(random().to_ne_bytes()) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    out.extend_from_slice(line.as_flattened());
}

/// See [`request_id`].
pub const REQUEST_ID: &str = "x-request-id";

/// A JSON string. alvus writes its own JSON by hand: serde_json's writer would link code for floats, 20 kB.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote(&mut out, text);
    out
}

fn kind(status: u16) -> &'static str {
    if status < 500 {
        "invalid_request_error"
    } else {
        "server_error"
    }
}

/// The reason phrase of a status, as the `http` crate has it; empty for those that have none.
fn reason(status: u16) -> &'static str {
    let known = http::StatusCode::from_u16(status).ok();
    known
        .and_then(|known| known.canonical_reason())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Downstream = Downstream {
        http_1_1: true,
        keep_alive: true,
        head_only: false,
        origin: None,
    };

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_head_says_framing_and_connection_as_the_client_needs_them() {
        let old = Downstream {
            http_1_1: false,
            ..KEPT
        };
        let closing = Downstream {
            keep_alive: false,
            ..KEPT
        };
        for (framing, down, expected) in [
            (Framing::Length(5), KEPT, "content-length: 5\r\n"),
            (Framing::Chunked, KEPT, "transfer-encoding: chunked\r\n"),
            (Framing::None, KEPT, ""),
            (
                Framing::Chunked,
                closing,
                "transfer-encoding: chunked\r\nconnection: close\r\n",
            ),
            (
                Framing::Length(5),
                old,
                "content-length: 5\r\nconnection: keep-alive\r\n",
            ),
            (Framing::UntilClose, old, "connection: close\r\n"),
        ] {
            let mut out = Vec::new();
            begin_head(&mut out, 200, framing, down);
            assert_eq!(text(&out), format!("HTTP/1.1 200 OK\r\n{expected}"));
        }
    }

    #[test]
    fn a_number_has_the_digits_that_display_gives_it() {
        for n in [0, 7, 10, 429, 1_000_000, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, "n", n);
            assert_eq!(text(&out), format!("n: {n}\r\n"));
        }
    }

    #[test]
    fn an_error_is_shaped_as_openai_shapes_it() {
        let reply = Reply::error(503, "no_key", "all \"3\" keys\nrest")
            .retry_after(Duration::from_millis(1100));
        let bytes = reply.to_bytes(KEPT);
        let (head, body) = text(&bytes).split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("\r\nretry-after: 2\r\n") || head.ends_with("\r\nretry-after: 2"));
        let parsed: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(parsed["error"]["message"], "all \"3\" keys\nrest");
        assert_eq!(parsed["error"]["type"], "server_error");
        assert_eq!(parsed["error"]["code"], "no_key");
        assert!(parsed["error"]["param"].is_null());
    }

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let bytes = Reply::json(200, "{}".into()).to_bytes(Downstream {
            head_only: true,
            ..KEPT
        });
        assert!(text(&bytes).contains("content-length: 2\r\n"));
        assert!(text(&bytes).ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_web_page_that_may_ask_can_read_the_answer() {
        let origin = Some("http://localhost:5173");
        let bytes = Reply::error(401, "x", "y").to_bytes(Downstream { origin, ..KEPT });
        let expected = "\r\naccess-control-allow-origin: http://localhost:5173\r\n";
        assert!(text(&bytes).contains(expected), "{}", text(&bytes));
        assert!(text(&bytes).contains("\r\nvary: origin\r\n"));
        let bytes = Reply::error(401, "x", "y").to_bytes(KEPT);
        assert!(!text(&bytes).contains("access-control"));
    }

    #[test]
    fn waits_are_rounded_up_to_whole_seconds() {
        for (ms, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), expected);
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    /// The `error` of an event of ours.
    fn error_of(event: &str) -> serde_json::Value {
        let mut event: serde_json::Value = serde_json::from_str(event).expect("JSON");
        event["error"].take()
    }

    /// Every error that can come after the first heartbeat, as an event.
    fn late_errors() -> impl Iterator<Item = (u16, serde_json::Value)> {
        (500..600).map(|status| {
            let reply = Reply::error(status, "keys_cooling", "all keys rest");
            (status, error_of(&reply.as_event()))
        })
    }

    /// pi 0.73.1 reads the message alone, whatever its case. These are some of the words that make
    /// it ask again; a status that has no name of its own has none but "rate limit".
    #[test]
    fn pi_asks_again_since_the_message_has_its_words() {
        let has = |error: &serde_json::Value, words: &[&str]| {
            let message = error["message"].as_str().expect("a message").to_lowercase();
            words.iter().all(|word| message.contains(word))
        };
        for (status, error) in late_errors() {
            assert!(has(&error, &["rate limit"]), "{status}: {error}");
            assert!(has(&error, &["all keys rest"]), "the cause: {error}");
        }
        let late = error_of(&late_error(503, "all keys rest"));
        assert!(has(&late, &["503", "service unavailable"]), "{late}");
        let cut = error_of(&cut_error());
        assert!(has(&cut, &["server error", "502", "terminated"]), "{cut}");
    }

    /// Qwen Code 0.24.4 asks again when an error has a `code` that is a number, or came in an answer
    /// that has an `x-request-id`; after words only when it has none of a number, which it would
    /// take for a refusal.
    #[test]
    fn qwen_code_asks_again_since_the_code_is_a_number_and_the_head_has_a_request_id() {
        for (status, error) in late_errors() {
            assert_eq!(error["code"].as_u64(), Some(status.into()), "{error}");
        }
        let cut = error_of(&cut_error());
        let code = cut["code"].as_str().expect("words");
        assert!(code.parse::<f64>().is_err(), "as good as a number: {code}");

        let ids = [(), ()].map(|()| {
            let bytes = Reply::error(503, "x", "y").to_bytes(KEPT);
            let (_, rest) = text(&bytes)
                .split_once("\r\nx-request-id: ")
                .expect("an id");
            rest.split("\r\n").next().expect("a line").to_owned()
        });
        assert_eq!(ids[0].len(), 16);
        assert_ne!(ids[0], ids[1]);
    }

    /// Cline CLI 3.0.65 asks again when the `code` is a number, 429 or 500 to 599. After words it
    /// ends its task on any event.
    #[test]
    fn cline_asks_again_since_the_code_is_a_number_of_a_server_error() {
        for (_, error) in late_errors() {
            let code = error["code"].as_u64().expect("a number");
            assert!(code == 429 || (500..600).contains(&code), "{error}");
        }
    }
}
