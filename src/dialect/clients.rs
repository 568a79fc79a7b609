//! The dialects that clients speak, behind one face: what each of them makes of a request, an answer, a
//! stream and a refusal. Pure. A dialect that alvus is built without is not among them.

use super::chat::{Finish, Usage};
#[cfg(feature = "messages")]
use super::messages;
#[cfg(feature = "responses")]
use super::responses;
use super::terms::{Answer, Asked, ChatRequest, End, Fault, Options, Refused};

/// Which dialect.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Dialect {
    /// Anthropic's.
    #[cfg(feature = "messages")]
    Messages = 0,
    /// OpenAI's later one.
    #[cfg(feature = "responses")]
    Responses = 1,
}

/// So many there may be.
pub const DIALECTS: usize = 2;

/// A refusal in a client's dialect.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Refusal {
    /// The status to answer with.
    pub status: u16,
    /// Seconds to wait before the next try: the field `retry-after`.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: Vec<u8>,
}

#[cfg(feature = "messages")]
impl From<messages::errors::Failure> for Refusal {
    fn from(failure: messages::errors::Failure) -> Refusal {
        Refusal {
            status: failure.status,
            retry_after: failure.retry_after,
            body: failure.body(None),
        }
    }
}

#[cfg(feature = "responses")]
impl From<responses::errors::Failure> for Refusal {
    fn from(failure: responses::errors::Failure) -> Refusal {
        Refusal {
            status: failure.status,
            retry_after: failure.retry_after,
            body: failure.body(),
        }
    }
}

impl Dialect {
    /// The dialect of requests to this path.
    pub fn of(path: &str) -> Option<Dialect> {
        #[cfg(feature = "messages")]
        if path.ends_with("/v1/messages") {
            return Some(Dialect::Messages);
        }
        #[cfg(feature = "responses")]
        if path.ends_with("/v1/responses") {
            return Some(Dialect::Responses);
        }
        let _ = path;
        None
    }

    /// Translates a request.
    pub fn translate(self, body: &[u8], options: &Options<'_>) -> Result<ChatRequest, Refusal> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => Ok(messages::request::translate(body, options)?),
            #[cfg(feature = "responses")]
            Dialect::Responses => Ok(responses::request::translate(body, options)?),
        }
    }

    /// A refusal of ours. `code`: OpenAI's word for it.
    pub fn refusal(self, status: u16, code: &str, message: &str) -> Refusal {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::Failure::new(status, message).into(),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::errors::Failure::new(status, code, message).into(),
        }
    }

    /// An upstream's error, which may be of any shape.
    pub fn error(
        self,
        status: u16,
        body: &[u8],
        after: Option<u64>,
        asked: Refused<'_>,
    ) -> Refusal {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::translate(status, body, after, asked).into(),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::errors::translate(status, body, after, asked).into(),
        }
    }

    /// What a client hears while it waits for its stream to begin: once, and then again and again.
    pub fn beats(self, asked: &Asked) -> (Vec<u8>, Vec<u8>) {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => (Vec::new(), messages::errors::PING.to_vec()),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::output::beats(asked),
        }
    }

    /// A refusal as the last event of a stream that has begun; `were_heard`: with such beats.
    pub fn late(
        self,
        asked: &Asked,
        were_heard: bool,
        status: u16,
        code: &str,
        message: &str,
    ) -> Vec<u8> {
        let _ = (asked, were_heard, status, code);
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::late_error(message),
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                let code = responses::errors::code_in_stream(status, code);
                responses::output::late_failure(asked, were_heard, code, message)
            }
        }
    }

    /// A document that came in place of a stream, as that; none where the dialect has no word for it.
    pub fn as_stream(self, asked: &Asked, were_heard: bool, body: &[u8]) -> Option<Vec<u8>> {
        let _ = (asked, were_heard, body);
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => None,
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::output::as_stream(asked, were_heard, body),
        }
    }

    /// Whether refusals of ours have its shape as they are.
    pub fn is_openais(self) -> bool {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => false,
            #[cfg(feature = "responses")]
            Dialect::Responses => true,
        }
    }

    /// Translates an answer that is no stream.
    pub fn answer(self, body: &[u8], asked: &Asked) -> Result<Answer, Fault> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::translate(body, asked),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::whole(body, asked),
        }
    }

    /// For an answer that is no stream, says nothing and shall not be asked for again.
    pub fn empty(self, asked: &Asked, finish: Finish) -> Vec<u8> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::empty(asked, finish),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::empty(asked, finish),
        }
    }

    /// For the answer to what was asked.
    pub fn stream(self, asked: Asked) -> Stream {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => Stream::Messages(Box::new(messages::stream::Stream::new(asked))),
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                Stream::Responses(Box::new(responses::stream::Stream::new(asked)))
            }
        }
    }
}

/// Translates the stream of one answer.
#[derive(Debug)]
pub enum Stream {
    /// See [`messages::stream::Stream`].
    #[cfg(feature = "messages")]
    Messages(Box<messages::stream::Stream>),
    /// See [`responses::stream::Stream`].
    #[cfg(feature = "responses")]
    Responses(Box<responses::stream::Stream>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $does:expr) => {
        match $self {
            #[cfg(feature = "messages")]
            Stream::Messages($stream) => $does,
            #[cfg(feature = "responses")]
            Stream::Responses($stream) => $does,
        }
    };
}

impl Stream {
    /// The client had its beats already.
    pub fn were_heard(&mut self) {
        match self {
            #[cfg(feature = "messages")]
            Stream::Messages(_) => {}
            #[cfg(feature = "responses")]
            Stream::Responses(stream) => stream.were_heard(),
        }
    }

    /// The next bytes of the upstream's stream; appends to `out` what the client is to get.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        each!(self, stream => stream.push(bytes, out));
    }

    /// The upstream's answer is no stream, although one was asked for: all of it.
    pub fn push_whole(&mut self, body: &[u8], out: &mut Vec<u8>) {
        each!(self, stream => stream.push_whole(body, out));
    }

    /// The upstream's stream is over: `clean`, if not cut. What is appended to `out` comes before the end.
    pub fn end(&mut self, clean: bool, out: &mut Vec<u8>) -> End {
        each!(self, stream => stream.end(clean, out))
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<End> {
        each!(self, stream => stream.ended())
    }

    /// For an answer that says nothing and shall not be asked for again.
    pub fn put_empty(&mut self, out: &mut Vec<u8>) {
        each!(self, stream => stream.put_empty(out));
    }

    /// What the upstream counted.
    pub fn usage(&self) -> Option<Usage> {
        each!(self, stream => stream.usage())
    }

    /// Whether the model's template opens the tag of thoughts, where the answer showed it.
    pub fn thinks_unopened(&self) -> Option<bool> {
        each!(self, stream => stream.thinks_unopened())
    }

    /// What telling the rest may take of memory that grows with the answer, in bytes.
    pub fn needs(&self) -> usize {
        match self {
            #[cfg(feature = "messages")]
            Stream::Messages(_) => 0,
            #[cfg(feature = "responses")]
            Stream::Responses(stream) => stream.needs(),
        }
    }

    /// Tells the client that there is no memory for the rest of the answer.
    pub fn fail(&mut self, why: &str, out: &mut Vec<u8>) {
        let _ = (why, &out);
        match self {
            #[cfg(feature = "messages")]
            Stream::Messages(_) => {}
            #[cfg(feature = "responses")]
            Stream::Responses(stream) => stream.fail(why, out),
        }
    }
}
