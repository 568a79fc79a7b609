//! Sends the answer to the client: the upstream's, one that was kept, or one of our own.
//!
//! A client that was sent heartbeats has the head of a stream already. The rest of its answer comes
//! as events of that stream.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use super::as_event::AsEvent;
use super::{End, Exchange, Mapped, Outcome, client_fields};
use crate::client::Client;
use crate::headers::Field;
use crate::reply::{self, Framing, Reply};
use crate::sse::{Ending, Tail};
use crate::stream::{self, Copied, CopyEnd};
use crate::upstream::{Answer, Kept};
use crate::warn;

/// Tells nginx, and proxies that copied it, to pass a stream on as it comes.
const NO_BUFFER: Field = (b"x-accel-buffering", b"no");

/// The last step of an exchange: each of its methods sends one kind of answer, and returns what became of it.
pub(super) struct Delivery<'a> {
    pub(super) exchange: &'a Exchange<'a>,
    pub(super) out: &'a mut dyn Write,
    pub(super) outcome: Outcome,
}

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

    /// Begins the delivery; what became of the exchange so far is its `outcome`.
    pub(super) fn deliver<'a>(&'a self, out: &'a mut dyn Write, outcome: Outcome) -> Delivery<'a> {
        Delivery {
            exchange: self,
            out,
            outcome,
        }
    }
}

/// Answers of our own.
impl Delivery<'_> {
    /// A reply, put into the client's dialect.
    pub(super) fn reply(self, reply: &Reply) -> Outcome {
        match self.exchange.mapped.answer_mode.reply(reply) {
            Some(reply) => self.tell(reply),
            None => self.reply_as_it_is(reply),
        }
    }

    /// A reply that is in the client's dialect already.
    pub(super) fn tell(self, mut reply: Reply) -> Outcome {
        self.outcome.fields(&mut reply.lines);
        self.reply_as_it_is(&reply)
    }

    fn reply_as_it_is(mut self, reply: &Reply) -> Outcome {
        self.outcome.status = reply.status;
        if self.exchange.client.stop_beats() {
            return self.late(reply, reply.as_event().as_bytes());
        }
        self.outcome.bytes = reply.body.len() as u64;
        self.send(&reply.to_bytes(self.exchange.down));
        self.outcome
    }

    /// The end of a stream that has begun: the dialect's event for this reply, or else the document.
    fn late(self, reply: &Reply, json: &[u8]) -> Outcome {
        if let Some(event) = self.exchange.mapped.answer_mode.late(reply) {
            return self.event(&event);
        }
        // An event's data is one line; JSON has line breaks only between its tokens.
        let mut event = b"data: ".to_vec();
        event.extend(json.iter().filter(|b| !matches!(b, b'\n' | b'\r')));
        event.extend_from_slice(b"\n\n");
        self.event(&event)
    }

    /// The last event of a stream that has begun, and the end of that stream.
    pub(super) fn event(mut self, event: &[u8]) -> Outcome {
        let framing = self.exchange.down.framing(None);
        let mut bytes = framed(event, framing);
        if framing == Framing::Chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        self.outcome.bytes = event.len() as u64;
        self.outcome.closes = framing == Framing::UntilClose;
        self.send(&bytes);
        self.outcome
    }

    fn send(&mut self, bytes: &[u8]) {
        let sent = self.out.write_all(bytes).and_then(|()| self.out.flush());
        self.outcome.end = match sent {
            Ok(()) => End::Complete,
            Err(_) => End::ClientLeft,
        };
    }
}

/// The upstream's answers that were kept.
impl Delivery<'_> {
    /// A kept answer, put into the client's dialect where answers are translated.
    pub(super) fn kept(mut self, kept: &Kept) -> Outcome {
        let mapped = &self.exchange.mapped;
        if let Some(reply) = mapped.answer_mode.kept(kept, &mapped.policy.known) {
            return self.tell(reply);
        }
        if self.exchange.client.stop_beats() {
            self.outcome.status = kept.status;
            return self.kept_late(kept);
        }
        let lacks = mapped.answer_mode.lacks(kept.status, || kept.fields());
        self.kept_as_it_is(kept, lacks)
    }

    /// A kept answer as it is, with one more field if there is one.
    pub(super) fn kept_as_it_is(mut self, kept: &Kept, more: Option<Field>) -> Outcome {
        self.outcome.status = kept.status;
        let framing = Framing::Length(kept.body.len() as u64);
        let head = self.head(framing, kept.fields().chain(more));
        let framing = match self.exchange.down.head_only {
            true => Framing::None,
            false => framing,
        };
        let copied = stream::copy(&mut kept.body.as_slice(), self.out, head, framing);
        self.copied(copied, framing, false)
    }

    /// A kept answer as the end of a stream that has begun.
    fn kept_late(self, kept: &Kept) -> Outcome {
        let error = kept.as_error();
        let words = String::from_utf8_lossy(&error).into_owned();
        self.late(&Reply::json(kept.status, words), &error)
    }
}

impl Kept {
    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields
            .iter()
            .map(|(n, v)| (n.as_slice(), v.as_slice()))
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

/// The upstream's answer as it comes.
impl Delivery<'_> {
    /// The upstream's answer, translated if need be.
    pub(super) fn answer(mut self, answer: Box<Answer>) -> Outcome {
        let exchange = self.exchange;
        #[cfg(any(feature = "messages", feature = "responses"))]
        if exchange.mapped.answer_mode.translates() {
            return self.translated(*answer);
        }
        exchange.mapped.passed(&answer);
        self.outcome.status = answer.status;
        let is_sse = answer.is_stream();
        let begun = exchange.client.stop_beats();
        if begun && answer.status == 200 && answer.json && !answer.coded {
            #[cfg(feature = "responses")]
            if exchange.mapped.answer_mode.speaks_events() {
                return self.in_events(*answer);
            }
            return self.in_one_event(answer);
        }
        if begun && !is_sse {
            return self.kept_late(&answer.keep().unwrap_or_default());
        }
        // HEAD has no body, nor have some statuses (RFC 9110 §6.4.1).
        let bodyless = exchange.down.head_only || matches!(answer.status, 204 | 304);
        let framing = match bodyless {
            true => Framing::None,
            false if begun => exchange.down.framing(None),
            false => exchange.down.framing(answer.length),
        };
        let head = match begun {
            true => Vec::new(),
            false => self.head_of(&answer, framing),
        };
        let copied = self.body_of(answer, head, framing);
        self.copied(copied, framing, is_sse)
    }

    /// Sends all of it as an event, in place of the stream that was asked for.
    fn in_one_event(mut self, answer: Box<Answer>) -> Outcome {
        let end: &[u8] = match self.exchange.mapped.is_completion {
            true => b"data: [DONE]\n\n",
            false => b"",
        };
        let mut event = AsEvent::new(Tail::new(answer), end);
        let framing = self.exchange.down.framing(None);
        let copied = stream::copy(&mut event, self.out, Vec::new(), framing);
        self.outcome.tokens = event.json.tokens();
        self.copied(copied, framing, true)
    }

    fn head_of(&self, answer: &Answer, framing: Framing) -> Vec<u8> {
        let is_sse = answer.is_stream();
        let stated = match self.exchange.down.head_only {
            true => answer.stated_length().map_or(framing, Framing::Length),
            false => framing,
        };
        let theirs = answer
            .fields_back()
            .filter(|(name, _)| !is_sse || *name != NO_BUFFER.0);
        let answer_mode = &self.exchange.mapped.answer_mode;
        let lacks = answer_mode.lacks(answer.status, || answer.fields_back());
        self.head(
            stated,
            theirs.chain(is_sse.then_some(NO_BUFFER)).chain(lacks),
        )
    }

    /// The head of an answer with these fields.
    pub(super) fn head<'a>(
        &self,
        framing: Framing,
        fields: impl Iterator<Item = Field<'a>>,
    ) -> Vec<u8> {
        // A short body goes out in one write with the head.
        let body = match framing {
            Framing::Length(length) if length < 2048 => length as usize,
            _ => 0,
        };
        let mut head = Vec::with_capacity(1024 + body);
        reply::begin_head(&mut head, self.outcome.status, framing, self.exchange.down);
        let mut is_named = false;
        for (name, value) in fields {
            is_named |= name == reply::REQUEST_ID.as_bytes();
            reply::field(&mut head, name, value);
        }
        if !is_named {
            reply::request_id(&mut head);
        }
        self.outcome.fields(&mut head);
        reply::end_head(&mut head);
        head
    }

    /// Copies the body to the client, and reads the token count at its end.
    fn body_of(&mut self, mut answer: Box<Answer>, head: Vec<u8>, framing: Framing) -> Copied {
        let mapped = &self.exchange.mapped;
        if answer.is_stream() {
            let mut body = Watched {
                answer,
                ending: Ending::default(),
                mapped,
                model: &self.outcome.model,
            };
            let copied = stream::copy(&mut body, self.out, head, framing);
            self.outcome.tokens = body.ending.tokens();
            return copied.whole_if(body.ending.is_done());
        }
        // A GET fetches what was counted when it was made.
        if mapped.is_post && answer.json {
            let mut body = Tail::new(answer);
            let copied = stream::copy(&mut body, self.out, head, framing);
            self.outcome.tokens = body.tokens();
            return copied;
        }
        stream::copy(&mut *answer, self.out, head, framing)
    }

    /// What became of an answer that was copied to the client.
    pub(super) fn copied(mut self, copied: Copied, framing: Framing, is_sse: bool) -> Outcome {
        self.outcome.bytes = copied.bytes;
        self.outcome.closes = framing == Framing::UntilClose;
        self.outcome.end = match copied.end {
            CopyEnd::Done => End::Complete,
            CopyEnd::ClientLeft => End::ClientLeft,
            CopyEnd::UpstreamBroke(_) if self.exchange.client.is_late() => {
                let late = client_fields::too_late();
                match self.exchange.mapped.answer_mode.late(&late) {
                    Some(event) => drop(self.out.write_all(&framed(&event, framing))),
                    None => self.cut_short(framing, is_sse, &late.body),
                }
                End::Late
            }
            CopyEnd::UpstreamBroke(_) if self.exchange.client.has_left() => End::ClientLeft,
            CopyEnd::UpstreamBroke(error) => {
                let bytes = copied.bytes;
                warn!("the upstream broke off an answer after {bytes} bytes: {error}");
                self.cut_short(framing, is_sse, &reply::cut_error());
                End::Cut
            }
        };
        self.outcome
    }

    /// Tells the client that the answer is incomplete. A stream of events gets an error event; anything
    /// else is only cut. Neither gets a terminating chunk.
    fn cut_short(&mut self, framing: Framing, is_sse: bool, error: &str) {
        if is_sse && matches!(framing, Framing::Chunked | Framing::UntilClose) {
            // The blank line ends whatever event was under way; between events it means nothing.
            let event = format!("\n\ndata: {error}\n\n");
            let bytes = framed(event.as_bytes(), framing);
            let _ = self.out.write_all(&bytes).and_then(|()| self.out.flush());
        } else if framing == Framing::UntilClose {
            self.exchange.client.reset();
        }
    }
}

fn framed(bytes: &[u8], framing: Framing) -> Vec<u8> {
    match framing {
        Framing::Chunked => stream::chunk(bytes),
        _ => bytes.to_vec(),
    }
}

/// A stream of events on its way. It counts as broken off if it ends without its closing sign, however clean the
/// connection's end, when it or other streams of its model are known to have such a sign.
struct Watched<'a> {
    answer: Box<Answer>,
    ending: Ending,
    mapped: &'a Mapped,
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
        let (is_completion, marked) = (self.mapped.is_completion, &self.mapped.policy.marked);
        if is_completion && self.ending.is_finished() {
            marked.add(self.model);
        }
        match self
            .ending
            .is_whole(is_completion && marked.has(self.model))
        {
            true => Ok(0),
            false => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "it ended without finish_reason or [DONE]",
            )),
        }
    }
}
