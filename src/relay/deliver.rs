//! Sends the answer to the client: the upstream's, one that was kept, or one of our own.
//!
//! A client that was sent heartbeats has the head of a stream already. The rest of its answer comes
//! as events of that stream.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::as_event::AsEvent;
use super::{End, Exchange, Mapped, Outcome, client_fields};
use crate::client::Client;
use crate::reply::{self, Downstream, Framing, Reply};
use crate::sse::{Ending, Tail};
use crate::stream::{self, Copied, CopyEnd};
use crate::upstream::{Answer, Kept};
use crate::warn;

/// Tells nginx, and proxies that copied it, to pass a stream on as it comes.
const NO_BUFFER: (&str, &[u8]) = ("x-accel-buffering", b"no");

impl Exchange<'_> {
    /// The client of a stream, with heartbeats from now on. None for a HEAD: its answer has no body for them.
    pub(super) fn patient_client(&self, every: Duration) -> Client {
        if self.down.head_only {
            return self.client.clone();
        }
        let framing = self.down.framing(None);
        let mut head = Vec::with_capacity(256);
        reply::begin_head(&mut head, 200, framing, self.down);
        reply::field(&mut head, "content-type", b"text/event-stream");
        reply::field(&mut head, "cache-control", b"no-cache");
        reply::request_id(&mut head);
        reply::field(&mut head, NO_BUFFER.0, NO_BUFFER.1);
        reply::end_head(&mut head);
        let (first, beat) = self.mapped.answer_mode.beats();
        if !first.is_empty() {
            head.extend_from_slice(&framed(&first, framing));
        }
        self.client
            .kept_patient(every, head, framed(&beat, framing))
    }

    /// What became of an answer that was copied to the client.
    pub(super) fn copied(
        &self,
        copied: Copied,
        framing: Framing,
        is_sse: bool,
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.bytes = copied.bytes;
        outcome.closes = framing == Framing::UntilClose;
        outcome.end = match copied.end {
            CopyEnd::Done => End::Complete,
            CopyEnd::ClientLeft => End::ClientLeft,
            CopyEnd::UpstreamBroke(_) if self.client.is_late() => {
                match self.mapped.answer_mode.late(&client_fields::too_late()) {
                    Some(event) => drop(out.write_all(&framed(&event, framing))),
                    None => cut_short(self, out, framing, is_sse),
                }
                End::Late
            }
            CopyEnd::UpstreamBroke(_) if self.client.has_left() => End::ClientLeft,
            CopyEnd::UpstreamBroke(error) => {
                warn!(
                    "the upstream broke off an answer after {} bytes: {error}",
                    copied.bytes
                );
                cut_short(self, out, framing, is_sse);
                End::Cut
            }
        };
        outcome
    }

    /// Sends a JSON document as the only event of a stream that has begun, and ends the stream.
    fn deliver_late(&self, json: &[u8], out: &mut dyn Write, outcome: Outcome) -> Outcome {
        // An event's data is one line; JSON has line breaks only between its tokens.
        let mut event = b"data: ".to_vec();
        event.extend(json.iter().filter(|b| !matches!(b, b'\n' | b'\r')));
        event.extend_from_slice(b"\n\n");
        self.deliver_event(&event, out, outcome)
    }

    /// Sends the last event of a stream that has begun, and ends the stream.
    pub(super) fn deliver_event(
        &self,
        event: &[u8],
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        let framing = self.down.framing(None);
        let mut bytes = framed(event, framing);
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

impl Exchange<'_> {
    /// Sends a reply that is in the client's dialect already.
    pub(super) fn tell(&self, mut reply: Reply, out: &mut dyn Write, outcome: Outcome) -> Outcome {
        let mut fields = Vec::new();
        outcome.fields(&mut fields);
        reply.lines.extend_from_slice(&fields);
        reply.deliver_as_it_is(self, out, outcome)
    }
}

impl Reply {
    /// Sends the reply in the client's dialect.
    pub(super) fn deliver(
        &self,
        exchange: &Exchange,
        out: &mut dyn Write,
        outcome: Outcome,
    ) -> Outcome {
        match exchange.mapped.answer_mode.reply(self) {
            Some(reply) => exchange.tell(reply, out, outcome),
            None => self.deliver_as_it_is(exchange, out, outcome),
        }
    }

    fn deliver_as_it_is(
        &self,
        exchange: &Exchange,
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        if exchange.client.stop_beats() {
            if let Some(event) = exchange.mapped.answer_mode.late(self) {
                return exchange.deliver_event(&event, out, outcome);
            }
            return exchange.deliver_late(self.as_event().as_bytes(), out, outcome);
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
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        let Mapped {
            answer_mode,
            policy,
            ..
        } = &exchange.mapped;
        if let Some(reply) = answer_mode.kept(self, &policy.known) {
            return exchange.tell(reply, out, outcome);
        }
        if exchange.client.stop_beats() {
            outcome.status = self.status;
            return self.deliver_late(exchange, out, outcome);
        }
        let fields = self.fields.iter().map(|(n, v)| (n.as_str(), v.as_slice()));
        let lacks = answer_mode.lacks(self.status, fields);
        self.deliver_as_it_is(lacks, exchange, out, outcome)
    }

    /// Sends the reply as it is, with one more field if there is one.
    pub(super) fn deliver_as_it_is(
        &self,
        more: Option<(&str, &[u8])>,
        exchange: &Exchange,
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        let framing = Framing::Length(self.body.len() as u64);
        let fields = self.fields.iter().map(|(n, v)| (n.as_str(), v.as_slice()));
        let fields = fields.chain(more);
        let head = head(self.status, framing, exchange.down, fields, &outcome);
        let framing = if exchange.down.head_only {
            Framing::None
        } else {
            framing
        };
        let copied = stream::copy(&mut self.body.as_slice(), out, head, framing);
        outcome.bytes = copied.bytes;
        outcome.end = if matches!(copied.end, CopyEnd::Done) {
            End::Complete
        } else {
            End::ClientLeft
        };
        outcome
    }

    /// Sends the reply as the end of a stream that has begun.
    fn deliver_late(&self, exchange: &Exchange, out: &mut dyn Write, outcome: Outcome) -> Outcome {
        let words = String::from_utf8_lossy(&self.as_error()).into_owned();
        match exchange
            .mapped
            .answer_mode
            .late(&Reply::json(self.status, words))
        {
            Some(event) => exchange.deliver_event(&event, out, outcome),
            None => exchange.deliver_late(&self.as_error(), out, outcome),
        }
    }

    /// Its body, if that is a JSON error that a retry does not cure; else an error of our own about it.
    fn as_error(&self) -> Vec<u8> {
        let words = self.words();
        let body: Option<serde_json::Value> = serde_json::from_slice(&words).ok();
        let error = body.as_ref().map(|body| &body["error"]);
        if self.status < 500 && error.is_some_and(|error| !error.is_null()) {
            return words.into_owned();
        }
        let said = error.and_then(|error| error["message"].as_str().or(error.as_str()));
        let text = format!(
            "the upstream answered {} where a stream was expected",
            self.status
        );
        match self.status {
            500.. => reply::late_error(self.status, said.unwrap_or(&text)).into_bytes(),
            _ => reply::error_json("server_error", "no_stream", &text).into_bytes(),
        }
    }
}

impl Answer {
    pub(super) fn deliver(
        self: Box<Self>,
        exchange: &Exchange,
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        #[cfg(any(feature = "messages", feature = "responses"))]
        if exchange.mapped.answer_mode.translates() {
            return self.deliver_spoken(exchange, out, outcome);
        }
        exchange.mapped.passed(&self);
        outcome.status = self.status;
        let is_sse = self.is_stream();
        let begun = exchange.client.stop_beats();
        if begun && self.status == 200 && self.is_json() && !self.is_coded() {
            #[cfg(feature = "responses")]
            if exchange.mapped.answer_mode.speaks_events() {
                return self.deliver_as_stream(exchange, out, outcome);
            }
            return self.deliver_as_event(exchange, out, outcome);
        }
        if begun && !is_sse {
            let kept = self.keep().unwrap_or_default();
            return kept.deliver_late(exchange, out, outcome);
        }
        // HEAD has no body, nor have some statuses (RFC 9110 §6.4.1).
        let bodyless = exchange.down.head_only || matches!(self.status, 204 | 304);
        let framing = match bodyless {
            true => Framing::None,
            false if begun => exchange.down.framing(None),
            false => exchange.down.framing(self.length()),
        };
        let head = match begun {
            true => Vec::new(),
            false => self.head_down(framing, exchange, &outcome),
        };
        let copied = self.body_down(head, framing, exchange, out, &mut outcome);
        exchange.copied(copied, framing, is_sse, out, outcome)
    }

    /// Sends all of it as an event, in place of the stream that was asked for.
    fn deliver_as_event(
        self: Box<Self>,
        exchange: &Exchange,
        out: &mut dyn Write,
        mut outcome: Outcome,
    ) -> Outcome {
        let end: &[u8] = match exchange.mapped.is_completion {
            true => b"data: [DONE]\n\n",
            false => b"",
        };
        let mut event = AsEvent::new(Tail::new(self), end);
        let framing = exchange.down.framing(None);
        let copied = stream::copy(&mut event, out, Vec::new(), framing);
        outcome.tokens = event.json.tokens();
        exchange.copied(copied, framing, true, out, outcome)
    }

    fn head_down(&self, framing: Framing, exchange: &Exchange, outcome: &Outcome) -> Vec<u8> {
        let is_sse = self.is_stream();
        let stated = match self.stated_length() {
            Some(n) if exchange.down.head_only => Framing::Length(n),
            _ => framing,
        };
        let theirs = self
            .fields_back()
            .filter(|(name, _)| !is_sse || *name != NO_BUFFER.0);
        let lacks = exchange
            .mapped
            .answer_mode
            .lacks(self.status, self.fields_back());
        let fields = theirs.chain(is_sse.then_some(NO_BUFFER)).chain(lacks);
        head(self.status, stated, exchange.down, fields, outcome)
    }

    /// Copies the body to the client, and reads the token count at its end.
    fn body_down(
        mut self: Box<Self>,
        head: Vec<u8>,
        framing: Framing,
        exchange: &Exchange,
        out: &mut dyn Write,
        outcome: &mut Outcome,
    ) -> Copied {
        if self.is_stream() {
            let mut body = Watched {
                answer: self,
                ending: Ending::default(),
                exchange,
                model: &outcome.model,
            };
            let mut copied = stream::copy(&mut body, out, head, framing);
            let tokens = body.ending.tokens();
            // Many clients close at [DONE], before the end of the stream. They have their whole answer.
            if body.ending.is_done() && matches!(copied.end, CopyEnd::ClientLeft) {
                copied.end = CopyEnd::Done;
            }
            outcome.tokens = tokens;
            return copied;
        }
        // A GET fetches what was counted when it was made.
        if exchange.mapped.makes && self.is_json() {
            let mut body = Tail::new(self);
            let copied = stream::copy(&mut body, out, head, framing);
            outcome.tokens = body.tokens();
            return copied;
        }
        stream::copy(&mut *self, out, head, framing)
    }
}

/// A stream of events on its way. It counts as broken off if it ends without its closing sign, however clean the
/// connection's end, when it or other streams of its model are known to have such a sign.
struct Watched<'a> {
    answer: Box<Answer>,
    ending: Ending,
    exchange: &'a Exchange<'a>,
    model: &'a str,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.answer.read(buffer) {
            // The stream is complete, whatever the connection does now.
            Err(_) if self.ending.is_done() => return Ok(0),
            read => read?,
        };
        if n > 0 || buffer.is_empty() {
            self.ending.push(&buffer[..n]);
            if self.ending.is_done() {
                self.answer.let_client_go();
            }
            return Ok(n);
        }
        let Mapped {
            policy,
            is_completion,
            ..
        } = &self.exchange.mapped;
        if *is_completion && self.ending.is_finished() {
            policy.marked.add(self.model);
        }
        match self
            .ending
            .is_whole(*is_completion && policy.marked.has(self.model))
        {
            true => Ok(0),
            false => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "it ended without finish_reason or [DONE]",
            )),
        }
    }
}

pub(super) fn head<'a>(
    status: u16,
    framing: Framing,
    down: Downstream,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    outcome: &Outcome,
) -> Vec<u8> {
    // A short body goes out in one write with the head.
    let body = match framing {
        Framing::Length(length) if length < 2048 => length as usize,
        _ => 0,
    };
    let mut head = Vec::with_capacity(1024 + body);
    reply::begin_head(&mut head, status, framing, down);
    let mut is_named = false;
    for (name, value) in fields {
        is_named |= name == reply::REQUEST_ID;
        reply::field(&mut head, name, value);
    }
    if !is_named {
        reply::request_id(&mut head);
    }
    outcome.fields(&mut head);
    reply::end_head(&mut head);
    head
}

/// Tells the client that the answer is incomplete. A stream of events gets an error event; anything
/// else is only cut. Neither gets a terminating chunk.
fn cut_short(exchange: &Exchange, out: &mut dyn Write, framing: Framing, is_sse: bool) {
    if is_sse && matches!(framing, Framing::Chunked | Framing::UntilClose) {
        let error = match exchange.client.is_late() {
            true => client_fields::too_late().body,
            false => reply::cut_error(),
        };
        // The blank line ends whatever event was under way; between events it means nothing.
        let event = format!("\n\ndata: {error}\n\n");
        let bytes = framed(event.as_bytes(), framing);
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    } else if framing == Framing::UntilClose {
        exchange.client.reset();
    }
}
