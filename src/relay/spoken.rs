//! An upstream's answer in Anthropic's Messages dialect: whole, as a stream, or as a list of models.

use std::io::{self, ErrorKind, Read, Write};

use super::deliver::head;
use super::voice::{Talk, Voice, refusal};
use super::{Exchange, Outcome};
use crate::body::{Body, Budget};
use crate::dialect::chat::Usage;
use crate::dialect::messages::Asked;
use crate::dialect::messages::answer::{self, Fault};
use crate::dialect::messages::errors::{self, Failure};
use crate::dialect::messages::stream::{End, Stream};
use crate::dialect::models;
use crate::reply::Reply;
use crate::sse::Tokens;
use crate::stream::{self, CopyEnd};
use crate::upstream::Answer;
use crate::warn;

/// The longest answer that is not a stream, in bytes; the longest output of a model is a tenth of it.
const LONGEST: usize = 4 * 1024 * 1024;

/// A buffer that an event made larger than this is given back.
const USUAL: usize = 8 * 1024;

/// One read of the upstream.
const PIECE: usize = 2 * 1024;

/// Why an answer that is no stream may have to be given up.
const NO_MEMORY: &str = "no memory is left for it (MAX_BODY_MB bounds all bodies together)";

impl Answer {
    /// Tells the client in its dialect.
    pub(super) fn deliver_spoken(
        mut self,
        exchange: &Exchange,
        out: &mut impl Write,
        mut outcome: Outcome,
    ) -> Outcome {
        let reply = match &exchange.mapped.voice {
            Voice::Messages(talk) if self.status == 200 => match &talk.asked {
                Some(asked) if talk.streams => {
                    return self.deliver_stream(talk, asked.clone(), exchange, out, outcome);
                }
                Some(asked) => message(&mut self, talk, asked, exchange, &mut outcome),
                None => Err(Failure::new(502, "the request was not translated")),
            },
            Voice::Models if matches!(self.status, 200 | 404) => Ok(self.models(exchange)),
            voice => {
                let kept = self.keep().unwrap_or_default();
                let reply = voice.kept(&kept, &exchange.mapped.policy.known);
                return exchange.tell(
                    reply.unwrap_or_else(|| Reply::json(502, String::new())),
                    out,
                    outcome,
                );
            }
        };
        if reply.is_err() && exchange.client.has_left() {
            return outcome.left();
        }
        exchange.tell(reply.unwrap_or_else(refusal), out, outcome)
    }

    fn models(mut self, exchange: &Exchange) -> Reply {
        let body = match self.status {
            200 => read_whole(&mut self, &exchange.bodies).ok(),
            _ => None,
        };
        let body = body.as_ref().map(|body| &*body.bytes);
        let list = models::list(exchange.mapped.policy.models.names(), body);
        Reply::json(200, String::from_utf8(list).unwrap_or_default())
    }

    fn deliver_stream(
        self,
        talk: &Talk,
        asked: Asked,
        exchange: &Exchange,
        out: &mut impl Write,
        outcome: Outcome,
    ) -> Outcome {
        let mut spoken = Spoken::new(self, Stream::new(asked));
        // Until there is something to tell, an error can be told as such.
        if let Err(error) = spoken.begin(&exchange.bodies) {
            if exchange.client.has_left() {
                return outcome.left();
            }
            let origin = exchange.mapped.policy.origin(false);
            warn!("{origin} broke off its answer before the first word: {error}");
            let said = errors::message(spoken.answer.start());
            let text = said.unwrap_or_else(|| format!("{origin} broke off its answer: {error}"));
            return exchange.tell(refusal(Failure::new(502, text)), out, outcome);
        }
        let framing = exchange.down.framing(None);
        let head = match exchange.client.stop_beats() {
            true => Vec::new(),
            false => {
                let fields: [(&str, &[u8]); 2] = [
                    ("content-type", b"text/event-stream; charset=utf-8"),
                    ("cache-control", b"no-cache"),
                ];
                head(200, framing, exchange.down, fields.into_iter(), &outcome)
            }
        };
        let mut copied = stream::copy(&mut spoken, out, head, framing);
        // Many close at the end of the message: they have their whole answer.
        if spoken.over && matches!(copied.end, CopyEnd::ClientLeft) {
            copied.end = CopyEnd::Done;
        }
        let usage = spoken.stream.usage();
        learn(exchange, talk, usage, spoken.stream.thinks_unopened());
        let outcome = Outcome {
            status: 200,
            tokens: tokens(usage),
            ..outcome
        };
        let outcome = exchange.copied(copied, framing, false, out, outcome);
        if spoken.over {
            spoken.answer.let_client_go();
            spoken.answer.discard();
        }
        outcome
    }
}

/// A whole answer as a Message.
fn message(
    answer: &mut Answer,
    talk: &Talk,
    asked: &Asked,
    exchange: &Exchange,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    let origin = exchange.mapped.policy.origin(false);
    let broke = |why: &dyn std::fmt::Display| {
        warn!("the answer of {origin} cannot be used: {why}");
        Failure::new(502, format!("the answer of {origin} cannot be used: {why}"))
    };
    let body = read_whole(answer, &exchange.bodies).map_err(|e| broke(&e))?;
    let room = body.room(); // for what is made of it
    if room.is_none() {
        return Err(broke(&NO_MEMORY));
    }
    let json = match answer::translate(&body.bytes, asked) {
        Ok(answer) => {
            learn(exchange, talk, answer.usage, None);
            outcome.tokens = tokens(answer.usage);
            answer.body
        }
        Err(Fault::Empty(finish)) => answer::empty(asked, finish),
        Err(Fault::Broken(why)) => {
            return Err(match errors::message(&body.bytes) {
                Some(said) => Failure::new(502, said),
                None => broke(&why),
            });
        }
    };
    Ok(Reply::json(
        200,
        String::from_utf8(json).unwrap_or_default(),
    ))
}

fn learn(exchange: &Exchange, talk: &Talk, usage: Option<Usage>, thinks_unopened: Option<bool>) {
    let known = &exchange.mapped.policy.known;
    known.served(true);
    let mut learned = known.learned();
    if let Some(usage) = usage {
        learned.measured(&talk.model, talk.size, usage.prompt);
    }
    if let Some(it_does) = thinks_unopened {
        learned.thinks_unopened(&talk.model, it_does);
    }
}

/// As they are counted.
fn tokens(usage: Option<Usage>) -> Tokens {
    let usage = usage.unwrap_or_default();
    Tokens {
        input: usage.prompt,
        output: usage.completion,
    }
}

/// All of an answer, within the memory for bodies.
fn read_whole(answer: &mut Answer, budget: &Budget) -> io::Result<Body> {
    if answer.is_coded() {
        return Err(io::Error::other(
            "it is compressed, although that was not asked for",
        ));
    }
    let mut body = Body::new(budget);
    let mut piece = [0; PIECE];
    loop {
        let n = match answer.read(&mut piece) {
            Ok(0) => return Ok(body),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let begin = body.bytes.len();
        if begin + n > LONGEST {
            return Err(io::Error::other("it is longer than 4 MiB"));
        }
        if !body.stretch(begin + n) {
            return Err(io::Error::other(NO_MEMORY));
        }
        body.bytes[begin..].copy_from_slice(&piece[..n]);
    }
}

/// A stream of chat completions, read as a stream of a Message.
struct Spoken {
    answer: Answer,
    stream: Stream,
    ready: Vec<u8>,
    given: usize,
    /// The message is told to its end.
    over: bool,
    broken: Option<&'static str>,
}

impl Spoken {
    fn new(answer: Answer, stream: Stream) -> Spoken {
        Spoken {
            answer,
            stream,
            ready: Vec::new(),
            given: 0,
            over: false,
            broken: None,
        }
    }

    /// Reads up to the first words.
    fn begin(&mut self, budget: &Budget) -> io::Result<()> {
        if !self.answer.is_stream() {
            let body = read_whole(&mut self.answer, budget)?;
            self.stream.push_whole(&body.bytes, &mut self.ready);
            self.stream.end(true, &mut self.ready);
            self.look_at_end();
        }
        while self.ready.is_empty() && !self.over && self.broken.is_none() {
            self.fill()?;
        }
        match self.broken {
            Some(why) if self.ready.is_empty() => Err(cut(why)),
            _ => Ok(()),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.given = 0;
        self.ready.clear();
        self.ready.shrink_to(USUAL);
        let mut piece = [0; PIECE];
        match self.answer.read(&mut piece) {
            Ok(0) => drop(self.stream.end(true, &mut self.ready)),
            Ok(n) => self.stream.push(&piece[..n], &mut self.ready),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                self.stream.end(false, &mut self.ready);
                return Err(e);
            }
        }
        self.look_at_end();
        Ok(())
    }

    fn look_at_end(&mut self) {
        match self.stream.ended() {
            None => {}
            Some(End::Whole) => self.over = true,
            Some(End::Empty) => {
                self.stream.put_empty(&mut self.ready);
                self.over = true;
            }
            Some(End::Broken(why)) => self.broken = Some(why),
        }
    }
}

impl Read for Spoken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() {
            match self.broken {
                _ if self.over => return Ok(0),
                Some(why) => return Err(cut(why)),
                None => self.fill()?,
            }
        }
        let left = &self.ready[self.given..];
        let n = left.len().min(buffer.len());
        buffer[..n].copy_from_slice(&left[..n]);
        self.given += n;
        Ok(n)
    }
}

fn cut(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, why)
}
