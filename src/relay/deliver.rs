//! What goes back to the client: an upstream's answer, one that was kept, or one of our own.
//!
//! A client that was kept patient has the head of a stream already. Whatever is left to say to it
//! comes as events of that stream.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{End, Exchange, Outcome};
use crate::peer::Client;
use crate::reply::{self, Downstream, Framing, Reply};
use crate::sse::Tail;
use crate::stream::{self, CopyEnd};
use crate::upstream::{Answer, Kept};
use crate::warn;

/// Tells nginx, and who learned from it, to pass a stream on as it comes.
const NO_BUFFER: (&str, &[u8]) = ("x-accel-buffering", b"no");

impl Exchange<'_> {
    /// The client of a stream, kept patient from now on. Not of a HEAD, whose answer has no body to wait in.
    pub(super) fn patient_client(&self, every: Duration) -> Client {
        if self.down.head_only {
            return self.client.clone();
        }
        let framing = self.down.framing(None);
        let mut head = Vec::with_capacity(256);
        reply::begin_head(&mut head, 200, framing, self.down);
        reply::field(&mut head, "content-type", b"text/event-stream");
        reply::field(&mut head, "cache-control", b"no-cache");
        reply::field(&mut head, NO_BUFFER.0, NO_BUFFER.1);
        reply::end_head(&mut head);
        let beat = framed(b": alvus is waiting\n\n", framing);
        self.client.kept_patient(every, head, beat)
    }

    /// Sends a JSON document as the only event of a stream that has begun, and ends the stream.
    fn deliver_late(&self, json: &[u8], out: &mut impl Write, mut outcome: Outcome) -> Outcome {
        // An event's data is one line; JSON has line breaks only between its tokens.
        let mut event = b"data: ".to_vec();
        event.extend(json.iter().filter(|b| !matches!(b, b'\n' | b'\r')));
        event.extend_from_slice(b"\n\n");
        let framing = self.down.framing(None);
        let mut bytes = framed(&event, framing);
        if framing == Framing::Chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        outcome.bytes = event.len() as u64;
        outcome.closes = framing == Framing::UntilClose;
        outcome.end = match out.write_all(&bytes).and_then(|()| out.flush()) {
            Ok(()) => End::Complete,
            Err(_) => End::ClientLeft,
        };
        outcome
    }
}

fn framed(bytes: &[u8], framing: Framing) -> Vec<u8> {
    match framing {
        Framing::Chunked => stream::chunk(bytes),
        _ => bytes.to_vec(),
    }
}

impl Reply {
    pub(super) fn deliver(
        &self,
        exchange: &Exchange,
        out: &mut impl Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        if exchange.client.stop_beats() {
            return exchange.deliver_late(self.body.as_bytes(), out, outcome);
        }
        outcome.bytes = self.body.len() as u64;
        let sent = out
            .write_all(&self.to_bytes(exchange.down))
            .and_then(|()| out.flush());
        outcome.end = if sent.is_ok() {
            End::Complete
        } else {
            End::ClientLeft
        };
        outcome
    }
}

impl Kept {
    pub(super) fn deliver(
        &self,
        exchange: &Exchange,
        out: &mut impl Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        if exchange.client.stop_beats() {
            return exchange.deliver_late(&self.as_error(), out, outcome);
        }
        let framing = Framing::Length(self.body.len() as u64);
        let fields = self.fields.iter().map(|(n, v)| (n.as_str(), v.as_slice()));
        let head = head(self.status, framing, exchange.down, fields, &outcome);
        let framing = if exchange.down.head_only {
            Framing::None
        } else {
            framing
        };
        let copied = stream::copy(&mut self.body.as_slice(), out, &head, framing);
        outcome.bytes = copied.bytes;
        outcome.end = if matches!(copied.end, CopyEnd::Done) {
            End::Complete
        } else {
            End::ClientLeft
        };
        outcome
    }

    /// Its body, if that is JSON that speaks of an error, or else an error that speaks of it.
    fn as_error(&self) -> Vec<u8> {
        let body: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        if body.is_some_and(|body| body.get("error").is_some()) {
            return self.body.clone();
        }
        let text = format!(
            "the upstream answered {} where a stream was expected",
            self.status
        );
        reply::error_json("server_error", "no_stream", &text).into_bytes()
    }
}

impl Answer {
    pub(super) fn deliver(
        self,
        exchange: &Exchange,
        out: &mut impl Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        let is_sse = self.is_stream();
        let begun = exchange.client.stop_beats();
        if begun && !is_sse {
            let kept = self.keep().unwrap_or_default();
            return exchange.deliver_late(&kept.as_error(), out, outcome);
        }
        let down = exchange.down;
        // What the head says and what follows differ for HEAD, and for statuses without a body
        // (RFC 9110 §6.4.1).
        let bodyless = down.head_only || matches!(self.status, 204 | 304);
        let framing = match bodyless {
            true => Framing::None,
            false if begun => down.framing(None),
            false => down.framing(self.length()),
        };
        let stated = match self.stated_length() {
            Some(n) if down.head_only => Framing::Length(n),
            _ => framing,
        };
        let head = match begun {
            true => Vec::new(),
            false => {
                let theirs = self
                    .fields_back()
                    .filter(|(name, _)| !is_sse || *name != NO_BUFFER.0);
                let fields = theirs.chain(is_sse.then_some(NO_BUFFER));
                head(self.status, stated, down, fields, &outcome)
            }
        };
        let mut body = Watched {
            answer: self,
            tail: Tail::default(),
            exchange,
            watch: is_sse && exchange.mapped.is_completion,
        };
        let copied = stream::copy(&mut body, out, &head, framing);
        outcome.bytes = copied.bytes;
        outcome.closes = framing == Framing::UntilClose;
        outcome.end = match copied.end {
            CopyEnd::Done => End::Complete,
            CopyEnd::ClientLeft => End::ClientLeft,
            CopyEnd::UpstreamBroke(_) if exchange.client.has_left() => End::ClientLeft,
            CopyEnd::UpstreamBroke(error) => {
                warn!(
                    "the upstream broke off an answer after {} bytes: {error}",
                    copied.bytes
                );
                cut_short(exchange, out, framing, is_sse);
                End::Cut
            }
        };
        outcome
    }
}

/// An answer's body on its way. Where this upstream's streams of completions say that they are
/// over, one that ends without saying so is broken off, however clean the end of the connection.
struct Watched<'a> {
    answer: Answer,
    tail: Tail,
    exchange: &'a Exchange<'a>,
    watch: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.answer.read(buffer)?;
        if !self.watch {
            return Ok(n);
        }
        self.tail.push(&buffer[..n]);
        let says_so = &self.exchange.mapped.rules.ends_are_marked;
        if n > 0 || buffer.is_empty() {
            Ok(n)
        } else if self.tail.is_finished() {
            says_so.store(true, Ordering::Relaxed);
            Ok(0)
        } else if says_so.load(Ordering::Relaxed) {
            let text = "it ended without finish_reason or [DONE]";
            Err(io::Error::new(ErrorKind::UnexpectedEof, text))
        } else {
            Ok(0)
        }
    }
}

fn head<'a>(
    status: u16,
    framing: Framing,
    down: Downstream,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    outcome: &Outcome,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    reply::begin_head(&mut head, status, framing, down);
    for (name, value) in fields {
        reply::field(&mut head, name, value);
    }
    outcome.fields(&mut head);
    reply::end_head(&mut head);
    head
}

/// Tells the client that the answer is not whole: a stream of events gets an error event, anything
/// else only a cut connection. There is never a terminating chunk.
fn cut_short(exchange: &Exchange, out: &mut impl Write, framing: Framing, is_sse: bool) {
    if is_sse && matches!(framing, Framing::Chunked | Framing::UntilClose) {
        let text = "the upstream broke off the stream; what came so far is not the whole answer";
        let error = reply::error_json("server_error", "stream_truncated", text);
        // The blank line ends whatever event was under way; between events it means nothing.
        let event = format!("\n\ndata: {error}\n\n");
        let bytes = framed(event.as_bytes(), framing);
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    } else if framing == Framing::UntilClose {
        exchange.client.reset();
    }
}
