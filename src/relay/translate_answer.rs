//! Translates the upstream's answer into the client's dialect: a whole answer or a stream.

use std::io::{self, ErrorKind, Read};
use std::time::Instant;

use super::answer_mode::{AnswerMode, Translation, refusal};
use super::deliver::Delivery;
use super::{Exchange, Outcome};
use crate::body::{Body, Budget};
use crate::client::Client;
use crate::dialect::chat::Usage;
use crate::dialect::interface::Refusal;
use crate::dialect::lessons::message;
#[cfg(feature = "messages")]
use crate::dialect::models;
use crate::dialect::reader::Reader;
use crate::dialect::terms::StreamEnd;
use crate::headers::Field;
use crate::reply::Reply;
use crate::sse::Tokens;
use crate::stream;
use crate::upstream::Answer;
use crate::warn;

/// The longest answer that is not a stream, in bytes; the longest output of a model is a tenth of it.
const LONGEST: usize = 4 * 1024 * 1024;

/// A buffer that grew beyond this for one event is given back.
const USUAL: usize = 8 * 1024;

/// How much is read from the upstream at once.
const PIECE: usize = 2 * 1024;

/// Why a whole answer may have to be given up.
const NO_MEMORY: &str = "no memory is left for it (MAX_BODY_MB bounds all bodies together)";

impl Delivery<'_> {
    /// The answer in the client's dialect.
    pub(super) fn translated(mut self, mut answer: Answer) -> Outcome {
        let exchange = self.exchange;
        let reply = match &exchange.mapped.answer_mode {
            AnswerMode::Translation(translation) if answer.status == 200 => {
                match translation.streams {
                    true => return self.stream(answer, translation),
                    false => self.whole(&mut answer, translation),
                }
            }
            #[cfg(feature = "messages")]
            AnswerMode::Models if matches!(answer.status, 200 | 404) => {
                Ok(models(&mut answer, exchange))
            }
            answer_mode => {
                let kept = answer.keep().unwrap_or_default();
                let reply = answer_mode.kept(&kept, &exchange.mapped.policy.known);
                return self.tell(reply.unwrap_or_else(|| Reply::json(502, String::new())));
            }
        };
        if reply.is_err() && exchange.client.has_left() {
            return self.outcome.left();
        }
        self.tell(reply.unwrap_or_else(refusal))
    }

    /// A Responses document, from an upstream that speaks it, for a client whose stream has begun.
    #[cfg(feature = "responses")]
    pub(super) fn in_events(self, mut answer: Answer) -> Outcome {
        let AnswerMode::Translation(translation) = &self.exchange.mapped.answer_mode else {
            return self.outcome;
        };
        let dialect = translation.dialect;
        let failed = |text: &str| refusal(dialect.refusal(502, "no_stream", text));
        let body = match read_whole(&mut answer, &self.exchange.bodies) {
            Ok(body) => body,
            Err(error) => return self.tell(failed(&error.to_string())),
        };
        match dialect.as_stream(&translation.asked, translation.beats, &body.bytes) {
            Some(events) => self.event(&events),
            None => self.tell(failed("the answer is no response")),
        }
    }

    fn stream(mut self, answer: Answer, translation: &Translation) -> Outcome {
        let exchange = self.exchange;
        let mut translated = TranslatedBody::new(answer, translation, exchange);
        // Nothing is sent before the first words, so that an error can still be a plain error.
        if let Err(error) = translated.begin(&exchange.bodies) {
            if exchange.client.has_left() {
                return self.outcome.left();
            }
            let origin = exchange.mapped.origin();
            warn!("{origin} broke off its answer before the first word: {error}");
            let said = message(translated.answer.start());
            let text = said.unwrap_or_else(|| format!("{origin} broke off its answer: {error}"));
            let failure = translation.dialect.refusal(502, "upstream_broke", &text);
            return self.tell(refusal(failure));
        }
        self.outcome.status = 200;
        let framing = exchange.down.framing(None);
        let head = match exchange.client.stop_beats() {
            true => Vec::new(),
            false => {
                let fields: [Field; 2] = [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-cache"),
                ];
                self.head(framing, fields.into_iter())
            }
        };
        let copied = stream::copy(&mut translated, self.out, head, framing);
        let copied = copied.whole_if(translated.is_over());
        let stream = &translated.stream;
        self.learn(translation, stream.usage(), stream.thinks_unopened());
        let outcome = self.copied(copied, framing, false);
        if translated.is_over() {
            translated.answer.let_client_go();
            translated.answer.discard();
        }
        outcome
    }

    /// A whole answer.
    fn whole(&mut self, answer: &mut Answer, translation: &Translation) -> Result<Reply, Refusal> {
        let exchange = self.exchange;
        let origin = exchange.mapped.origin();
        let failed = |text: &str| translation.dialect.refusal(502, "upstream_broke", text);
        let broke = |why: &dyn std::fmt::Display| {
            warn!("the answer of {origin} cannot be used: {why}");
            failed(&format!("the answer of {origin} cannot be used: {why}"))
        };
        let body = read_whole(answer, &exchange.bodies).map_err(|e| broke(&e))?;
        let room = body.room(); // the translation needs as much again
        if room.is_none() {
            return Err(broke(&NO_MEMORY));
        }
        let reader = translation.dialect.document(translation.asked.clone());
        match reader.whole(&body.bytes) {
            Ok(answer) => {
                self.learn(translation, answer.usage, None);
                Ok(json_reply(answer.body))
            }
            Err(why) => Err(match message(&body.bytes) {
                Some(said) => failed(&said),
                None => broke(&why),
            }),
        }
    }

    /// Keeps what an answer taught: the upstream's dialect, the model's tokens and thoughts.
    fn learn(&mut self, translation: &Translation, usage: Option<Usage>, thinks: Option<bool>) {
        self.outcome.tokens = tokens(usage);
        let known = &self.exchange.mapped.policy.known;
        known.served(translation.dialect, true);
        let (mut learned, model) = (known.learned(), &translation.model);
        if let Some(usage) = usage {
            learned.measured(model, translation.size, usage.prompt, Instant::now());
        }
        if let Some(unopened) = thinks {
            learned.thinks_unopened(model, unopened);
        }
    }
}

/// The list of models, in Anthropic's shape.
#[cfg(feature = "messages")]
fn models(answer: &mut Answer, exchange: &Exchange) -> Reply {
    let body = match answer.status {
        200 => read_whole(answer, &exchange.bodies).ok(),
        _ => None,
    };
    let body = body.as_ref().map(|body| &*body.bytes);
    json_reply(models::list(exchange.mapped.policy.models.names(), body))
}

fn json_reply(json: Vec<u8>) -> Reply {
    Reply::json(200, String::from_utf8(json).unwrap_or_default())
}

/// As the counters want them.
fn tokens(usage: Option<Usage>) -> Tokens {
    let usage = usage.unwrap_or_default();
    Tokens {
        input: usage.prompt,
        output: usage.completion,
    }
}

/// All of an answer, within the memory for bodies.
pub(super) fn read_whole(answer: &mut Answer, budget: &Budget) -> io::Result<Body> {
    if answer.coded {
        return Err(io::Error::other(
            "it is compressed, although that was not asked for",
        ));
    }
    let mut body = Body::new(budget);
    let mut piece = [0; PIECE];
    loop {
        let n = answer.read(&mut piece)?;
        if n == 0 {
            return Ok(body);
        }
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

/// Reads a stream of chat completions as a stream in the client's dialect.
struct TranslatedBody<'a> {
    answer: Answer,
    stream: Reader,
    /// The client, if it may have got heartbeats in the dialect.
    client: Option<&'a Client>,
    /// Reserves memory for the answer's end, where that repeats all of it.
    memory: Body,
    ready: Vec<u8>,
    given: usize,
    /// How the stream ended, once it has.
    end: Option<StreamEnd>,
}

impl<'a> TranslatedBody<'a> {
    fn new(
        answer: Answer,
        translation: &Translation,
        exchange: &'a Exchange,
    ) -> TranslatedBody<'a> {
        TranslatedBody {
            answer,
            stream: translation.dialect.stream(translation.asked.clone()),
            client: translation.beats.then_some(&exchange.client),
            memory: Body::new(&exchange.bodies),
            ready: Vec::new(),
            given: 0,
            end: None,
        }
    }

    /// Reads up to the first words.
    fn begin(&mut self, budget: &Budget) -> io::Result<()> {
        if !self.answer.is_stream() {
            let body = read_whole(&mut self.answer, budget)?;
            self.look_at_client();
            self.stream.push_whole(&body.bytes, &mut self.ready);
            self.stream.end(true, &mut self.ready);
            self.look_at_end();
        }
        while self.ready.is_empty() && self.end.is_none() {
            self.fill()?;
        }
        match self.end {
            Some(StreamEnd::Broken(why)) if self.ready.is_empty() => Err(cut(why)),
            _ => Ok(()),
        }
    }

    /// The message is complete.
    fn is_over(&self) -> bool {
        matches!(self.end, Some(StreamEnd::Whole | StreamEnd::Empty))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.given = 0;
        self.ready.clear();
        self.ready.shrink_to(USUAL);
        let mut piece = [0; PIECE];
        match self.answer.read(&mut piece) {
            Ok(0) => drop(self.stream.end(true, &mut self.ready)),
            Ok(n) => {
                self.look_at_client();
                self.stream.push(&piece[..n], &mut self.ready);
                if !self.memory.count(self.stream.needs()) {
                    self.stream.fail(NO_MEMORY, &mut self.ready);
                }
            }
            Err(e) => {
                self.stream.end(false, &mut self.ready);
                return Err(e);
            }
        }
        self.look_at_end();
        Ok(())
    }

    fn look_at_client(&mut self) {
        if self.client.is_some_and(Client::has_beats) {
            self.stream.were_heard();
            self.client = None;
        }
    }

    fn look_at_end(&mut self) {
        self.end = self.stream.ended();
        if self.end == Some(StreamEnd::Empty) {
            self.stream.put_empty(&mut self.ready);
        }
    }
}

impl Read for TranslatedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() {
            match self.end {
                None => self.fill()?,
                Some(StreamEnd::Broken(why)) => return Err(cut(why)),
                Some(StreamEnd::Whole | StreamEnd::Empty) => return Ok(0),
            }
        }
        let n = (&self.ready[self.given..]).read(buffer)?;
        self.given += n;
        Ok(n)
    }
}

fn cut(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, why)
}
