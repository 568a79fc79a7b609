//! Reads an answer in chat completions, however its bytes are cut. An [`AnswerWriter`] writes it in the client's dialect.
//! Pure, and bounded: one event ([`super::events::MAX_EVENT`]) and the table of calls.
//!
//! Two rules hold in every dialect, as other proxies lost users over them. The end is written only if the upstream sent
//! one. Nothing is written before the first word, so that a failure until then can be retried.

use std::fmt;

use super::calls::{Calls, MOST};
use super::chat::{CallPiece, Chunk, Finish, Piece, Usage};
use super::events::EventReader;
use super::json::{Json, Str, escaped};
use super::terms::{StreamEnd, WholeAnswer};
use super::think::{PartKind, Think};

/// What was read of an answer so far.
#[derive(Debug, Default)]
pub struct Heard {
    /// The calls, in the order in which they began.
    pub calls: Calls,
    /// Why it ended.
    pub finish: Option<Finish>,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
    /// How it ended for the client. What comes later does not count.
    pub ended: Option<StreamEnd>,
    /// How many bytes the model wrote.
    pub written: usize,
    /// Text or calls came.
    said: bool,
    /// `[DONE]` or an equal sign came.
    done: bool,
}

impl Heard {
    /// The answer cannot go on. Nothing happens if it has ended.
    pub fn break_off(&mut self, why: &'static str) {
        self.ended.get_or_insert(StreamEnd::Broken(why));
    }
}

/// Writes an answer in a client's dialect; all methods append to `out`.
pub trait AnswerWriter: fmt::Debug {
    /// Thoughts or a text begin.
    fn open(&mut self, heard: &mut Heard, part: PartKind, out: &mut Vec<u8>);

    /// More of what was opened last, still escaped.
    fn more(&mut self, part: PartKind, text: &str, out: &mut Vec<u8>);

    /// This call begins, as its name is complete; sets its `place`.
    fn call(&mut self, heard: &mut Heard, at: usize, out: &mut Vec<u8>);

    /// More of this call's arguments, still escaped. All of them make an object, unless the answer is cut short.
    fn arguments(&mut self, heard: &mut Heard, at: usize, text: &str, out: &mut Vec<u8>);

    /// All of this call came. If the writer itself holds nothing back, what is still `held` makes no object.
    fn call_ends(&mut self, heard: &mut Heard, at: usize, out: &mut Vec<u8>);

    /// All of it came: writes the end, unless there is no content.
    fn finish(&mut self, heard: &mut Heard, out: &mut Vec<u8>);

    /// Writes an answer without content, in place of one that had none and is not asked for again.
    fn put_empty(&mut self, heard: &mut Heard, out: &mut Vec<u8>);

    /// The client got heartbeats of the dialect.
    fn were_heard(&mut self) {}

    /// How much memory the rest may need, in bytes, if that grows with the answer.
    fn needs(&self, heard: &Heard) -> usize {
        let _ = heard;
        0
    }

    /// Fails if the answer is longer than can be held.
    fn check(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        let _ = (heard, out);
    }

    /// The most bytes of arguments that are held back, of all calls together.
    fn most_held(&self) -> usize {
        usize::MAX
    }

    /// Tells the client that the rest is missing, and why.
    fn fail(&mut self, heard: &mut Heard, why: &str, out: &mut Vec<u8>) {
        let _ = (heard, why, out);
    }
}

/// One answer on its way to a client.
#[derive(Debug)]
pub struct Reader {
    events: EventReader,
    think: Think,
    heard: Heard,
    /// What was told last, unless it was a call.
    open: Option<PartKind>,
    writer: Box<dyn AnswerWriter>,
}

impl Reader {
    /// `thinks_unopened`: the model's template opens `<think>` itself.
    pub fn new(writer: Box<dyn AnswerWriter>, thinks_unopened: bool) -> Reader {
        Reader {
            events: EventReader::default(),
            think: Think::new(thinks_unopened),
            heard: Heard::default(),
            open: None,
            writer,
        }
    }

    /// Takes the next bytes of the upstream's stream, and appends what the client gets to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut events = std::mem::take(&mut self.events);
        if events
            .push(bytes, &mut |data| self.event(data, out))
            .is_err()
        {
            self.heard.break_off("an event is too long");
        }
        self.events = events;
    }

    /// Takes all of an answer that is not a stream, although one was asked for.
    pub fn push_whole(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.event(body, out);
        self.heard.done = self.heard.finish.is_some();
        self.finish_if_done(out);
    }

    /// The upstream's stream has ended; `clean`: not cut. What is appended to `out` goes before the end.
    pub fn end(&mut self, clean: bool, out: &mut Vec<u8>) -> StreamEnd {
        if clean && self.heard.ended.is_none() {
            let mut events = std::mem::take(&mut self.events);
            events.end(&mut |data| self.event(data, out));
            self.heard.done |= self.heard.finish.is_some();
            self.finish_if_done(out);
        }
        *self.heard.ended.get_or_insert(match clean {
            true => StreamEnd::Broken("it ended without a finish_reason"),
            false => StreamEnd::Broken("the stream was cut"),
        })
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<StreamEnd> {
        self.heard.ended
    }

    /// The tokens that the upstream counted.
    pub fn usage(&self) -> Option<Usage> {
        self.heard.usage
    }

    /// Whether the model's template opens `<think>` itself, if this answer showed that the belief was wrong.
    pub fn thinks_unopened(&self) -> Option<bool> {
        let Reader { think, heard, .. } = self;
        let whole = heard.ended == Some(StreamEnd::Whole) && heard.finish != Some(Finish::Length);
        match (think.lone(), think.misled() && whole) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    /// Whether an answer that begins with `start` ends without content.
    pub fn says_nothing(mut self, start: &[u8], is_stream: bool) -> bool {
        let mut out = Vec::new();
        match is_stream {
            true => self.push(start, &mut out),
            false => self.push_whole(start, &mut out),
        }
        self.end(true, &mut out) == StreamEnd::Empty && self.heard.finish == Some(Finish::Stop)
    }

    /// Translates an answer that is not a stream, for a client that asked for none.
    ///
    /// # Errors
    /// When it is not an answer, or incomplete; and why, for the log.
    pub fn whole(mut self, body: &[u8]) -> Result<WholeAnswer, &'static str> {
        if Json::parse(body).is_none() {
            return Err("the answer is not valid JSON");
        }
        let mut out = Vec::new();
        self.push_whole(body, &mut out);
        self.heard.done |= self.heard.said; // some upstreams do not say why it ended
        match self.end(true, &mut out) {
            StreamEnd::Whole => {}
            StreamEnd::Empty => self.put_empty(&mut out),
            StreamEnd::Broken(why) => return Err(why),
        }
        Ok(WholeAnswer {
            body: out,
            usage: self.usage(),
        })
    }

    /// See [`AnswerWriter::put_empty`].
    pub fn put_empty(&mut self, out: &mut Vec<u8>) {
        self.writer.put_empty(&mut self.heard, out);
    }

    /// See [`AnswerWriter::were_heard`].
    pub fn were_heard(&mut self) {
        self.writer.were_heard();
    }

    /// See [`AnswerWriter::needs`].
    pub fn needs(&self) -> usize {
        self.writer.needs(&self.heard)
    }

    /// See [`AnswerWriter::fail`].
    pub fn fail(&mut self, why: &str, out: &mut Vec<u8>) {
        self.writer.fail(&mut self.heard, why, out);
    }

    /// The data of one event.
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let data = data.trim_ascii();
        if self.heard.ended.is_some() || data.is_empty() {
            return;
        }
        if data == b"[DONE]" {
            self.heard.done = true;
            return self.finish_if_done(out);
        }
        let Some(json) = Json::parse(data) else {
            // Data that is not JSON at all is some upstream's heartbeat.
            if data.starts_with(b"{") {
                self.heard.break_off("an event is not valid JSON");
            }
            return;
        };
        let chunk = Chunk::read(json);
        if chunk.is_error {
            let why = "the upstream reported an error";
            return self.heard.break_off(why);
        }
        chunk.pieces(&mut |piece| match piece {
            Piece::Thought(text) => {
                self.think.beside();
                self.part(PartKind::Thought, text.raw(), out);
            }
            Piece::Text(text) => self.think(|think, each| think.push(text, each), out),
            Piece::Call(piece) => self.call(piece, out),
        });
        self.heard.finish = chunk.finish.or(self.heard.finish);
        self.heard.usage = chunk.usage.or(self.heard.usage);
        if self.heard.finish == Some(Finish::Trouble) {
            self.heard.break_off("the upstream gave up its answer");
        }
    }

    /// Lets `act` use the splitter of thoughts, and writes what it gives out.
    fn think(
        &mut self,
        act: impl FnOnce(&mut Think, &mut dyn FnMut(PartKind, &str)),
        out: &mut Vec<u8>,
    ) {
        let mut think = std::mem::take(&mut self.think);
        act(&mut think, &mut |part, text| self.part(part, text, out));
        self.think = think;
    }

    fn part(&mut self, part: PartKind, text: &str, out: &mut Vec<u8>) {
        self.heard.said = true;
        if !self.takes(text, out) {
            return;
        }
        if self.open != Some(part) {
            self.begin_calls(MOST, out);
            self.writer.open(&mut self.heard, part, out);
            self.open = Some(part);
        }
        self.writer.more(part, text, out);
    }

    /// Counts what the model wrote. Whether the answer goes on.
    fn takes(&mut self, text: &str, out: &mut Vec<u8>) -> bool {
        self.heard.written += text.len();
        self.writer.check(&mut self.heard, out);
        self.heard.ended.is_none()
    }

    fn call(&mut self, piece: CallPiece<'_>, out: &mut Vec<u8>) {
        if self.heard.ended.is_some() {
            return;
        }
        let known = self.heard.calls.list().len();
        let Ok(at) = self.heard.calls.find(&piece) else {
            let why = "too many tool calls, or a name without end";
            return self.heard.break_off(why);
        };
        if at == known {
            // Text that was held back comes before the call.
            self.think(Think::pause, out);
            self.heard.said = true;
            self.begin_calls(at, out);
        }
        match piece.arguments.map(|given| (given.raw(), given.text())) {
            None | Some((None, "null" | "[]")) => {} // PHP writes an empty object as a list
            Some((Some(text), _)) => self.arguments(at, text, out),
            Some((None, value)) => self.arguments(at, &escaped(value), out),
        }
    }

    /// More of a call's arguments. They are held back until the call has a name and an object begins.
    fn arguments(&mut self, at: usize, text: &str, out: &mut Vec<u8>) {
        if text.is_empty() || self.heard.calls.get(at).closed || !self.takes(text, out) {
            return;
        }
        let call = self.heard.calls.get(at);
        call.arguments.push(Str::of_raw(text));
        if call.flows {
            return self.writer.arguments(&mut self.heard, at, text, out);
        }
        call.held.push_str(text);
        if call.is_ready() {
            self.begin_calls(at + 1, out);
            let held = std::mem::take(&mut self.heard.calls.get(at).held);
            self.writer.arguments(&mut self.heard, at, &held, out);
            self.heard.calls.get(at).flows = true;
            return;
        }
        let held = self.heard.calls.list().iter().map(|call| call.held.len());
        if held.sum::<usize>() > self.writer.most_held() {
            let why = "arguments without a name, or that are no object";
            self.heard.break_off(why);
        }
    }

    /// Begins the calls before `end` whose names are complete now.
    fn begin_calls(&mut self, end: usize, out: &mut Vec<u8>) {
        for at in 0..end.min(self.heard.calls.list().len()) {
            let call = self.heard.calls.get(at);
            if call.place.is_none() && !call.name.is_empty() {
                self.writer.call(&mut self.heard, at, out);
                self.open = None;
            }
        }
    }

    fn finish_if_done(&mut self, out: &mut Vec<u8>) {
        if !self.heard.done || self.heard.ended.is_some() {
            return;
        }
        self.think(Think::pause, out);
        self.begin_calls(MOST, out);
        let cut_short = self.heard.finish == Some(Finish::Length);
        for at in 0..self.heard.calls.list().len() {
            let call = self.heard.calls.get(at);
            if call.place.is_none() {
                return self.heard.break_off("a tool call without a name");
            }
            if !(call.arguments.is_whole() || call.has_none() || cut_short) {
                let why = "the arguments of a tool call are not whole";
                return self.heard.break_off(why);
            }
            self.writer.call_ends(&mut self.heard, at, out);
        }
        self.writer.finish(&mut self.heard, out);
    }
}
