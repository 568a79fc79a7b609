//! A stream of chat completions as a stream of a Response, however its bytes are cut. Pure, and bounded: one
//! event ([`super::super::events::MAX_EVENT`]), the table of calls, and the output, all of which is told
//! again at the end ([`super::answer::LONGEST`]).

use super::super::chat::{Finish, Usage};
use super::super::events::Events;
use super::super::json::Json;
pub use super::super::terms::End;
use super::super::terms::{Answer as Whole, Asked, Fault};
use super::answer::Answer;

/// Translates one answer.
#[derive(Debug)]
pub struct Stream {
    pieces: Events,
    answer: Answer,
}

impl Stream {
    /// For the answer to what was asked.
    pub fn new(asked: Asked) -> Stream {
        Stream {
            pieces: Events::default(),
            answer: Answer::new(asked),
        }
    }

    /// The client had `output::beats` already.
    pub fn were_heard(&mut self) {
        self.answer.were_heard = true;
    }

    /// The next bytes of the upstream's stream; appends to `out` what the client is to get.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let answer = &mut self.answer;
        let pushed = self.pieces.push(bytes, &mut |data| answer.event(data, out));
        if pushed.is_err() {
            answer.break_off("an event is too long");
        }
    }

    /// The upstream's answer is no stream, although one was asked for: all of it.
    pub fn push_whole(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.answer.event(body, out);
        self.answer.done = self.answer.finish.is_some();
        self.answer.finish_if_done(out);
    }

    /// The upstream's stream is over: `clean`, if not cut. What is appended to `out` comes before the end.
    pub fn end(&mut self, clean: bool, out: &mut Vec<u8>) -> End {
        let answer = &mut self.answer;
        if clean && answer.ended.is_none() {
            self.pieces.end(&mut |data| answer.event(data, out));
            answer.done |= answer.finish.is_some();
            answer.finish_if_done(out);
        }
        *answer.ended.get_or_insert(match clean {
            true => End::Broken("the stream ended without a finish_reason"),
            false => End::Broken("the stream was cut"),
        })
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<End> {
        self.answer.ended
    }

    /// For an answer that says nothing and shall not be asked for again: a response without words.
    pub fn put_empty(&mut self, out: &mut Vec<u8>) {
        self.answer.put_end(out);
    }

    /// Whether an answer, of which this is the beginning, has an end and nothing else.
    pub fn says_nothing(start: &[u8], is_stream: bool) -> bool {
        let (mut stream, mut out) = (Stream::new(Asked::default()), Vec::new());
        match is_stream {
            true => stream.push(start, &mut out),
            false => stream.push_whole(start, &mut out),
        }
        stream.end(true, &mut out) == End::Empty
            && matches!(stream.answer.finish, Some(Finish::Stop | Finish::Calls))
    }

    /// Tells the client that the rest of the answer cannot be had, and why.
    pub fn fail(&mut self, why: &str, out: &mut Vec<u8>) {
        self.answer.fail(why, out);
    }

    /// What telling the rest may take of memory, in bytes: the output stands in an item, in the events that end it, and in the last one.
    pub fn needs(&self) -> usize {
        self.answer.written * 6
    }

    /// Whether anything was told.
    pub fn started(&self) -> bool {
        self.answer.started
    }

    /// What the upstream counted.
    pub fn usage(&self) -> Option<Usage> {
        self.answer.usage
    }

    /// Whether the model's template opens `<think>` itself, if this answer showed that it does or does not
    /// and something else was believed.
    pub fn thinks_unopened(&self) -> Option<bool> {
        let answer = &self.answer;
        let whole = answer.ended == Some(End::Whole) && answer.finish != Some(Finish::Length);
        match (answer.think.lone(), answer.think.misled() && whole) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// Translates an answer that is no stream.
pub fn whole(body: &[u8], asked: &Asked) -> Result<Whole, Fault> {
    let mut stream = silent(asked);
    if Json::parse(body).is_none() {
        return Err(Fault::Broken("the answer is not valid JSON"));
    }
    let mut out = Vec::new();
    stream.push_whole(body, &mut out);
    // Some say nothing of why it ended.
    stream.answer.done |= !(stream.answer.items.is_empty() && stream.answer.blocks.is_empty());
    match stream.end(true, &mut out) {
        End::Empty => Err(Fault::Empty(stream.answer.finish.unwrap_or(Finish::Stop))),
        End::Broken(why) => Err(Fault::Broken(why)),
        End::Whole => Ok(Whole {
            body: out,
            usage: stream.usage(),
        }),
    }
}

/// For an answer that is no stream, says nothing and shall not be asked for again.
pub fn empty(asked: &Asked, finish: Finish) -> Vec<u8> {
    let (mut stream, mut out) = (silent(asked), Vec::new());
    stream.answer.finish = Some(finish);
    stream.put_empty(&mut out);
    out
}

/// Tells nothing but the response, at the end.
fn silent(asked: &Asked) -> Stream {
    let mut stream = Stream::new(asked.clone());
    stream.answer.events.silent = true;
    stream
}
