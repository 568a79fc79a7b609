//! The dialects of clients behind one interface: requests, answers, streams and refusals. Pure. Only the dialects of
//! this build are in it.

use super::chat::Finish;
use super::json::Json;
#[cfg(feature = "messages")]
use super::messages;
use super::reader::Reader;
#[cfg(feature = "responses")]
use super::responses;
use super::terms::{ChatRequest, Fault, Options, Refused, RequestContext, WholeAnswer};

/// A dialect.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Dialect {
    /// Anthropic's Messages.
    #[cfg(feature = "messages")]
    Messages = 0,
    /// OpenAI's Responses.
    #[cfg(feature = "responses")]
    Responses = 1,
}

/// How many dialects there may be.
pub const DIALECTS: usize = 2;

/// A refusal in a client's dialect.
#[derive(Debug)]
pub enum Refusal {
    /// In Anthropic's shape.
    #[cfg(feature = "messages")]
    Messages(messages::errors::ErrorBody),
    /// In OpenAI's shape.
    #[cfg(feature = "responses")]
    Responses(responses::errors::ErrorBody),
}

macro_rules! each {
    ($of:ident, $self:expr, $it:ident => $does:expr) => {
        match $self {
            #[cfg(feature = "messages")]
            $of::Messages($it) => $does,
            #[cfg(feature = "responses")]
            $of::Responses($it) => $does,
        }
    };
}

impl Refusal {
    /// The status to answer with.
    pub fn status(&self) -> u16 {
        each!(Refusal, self, failure => failure.status)
    }

    /// Seconds to wait before a retry: the field `retry-after`.
    pub fn retry_after(&self) -> Option<u64> {
        each!(Refusal, self, failure => failure.retry_after)
    }

    /// Sets `retry-after`, if a wait is of use.
    pub fn after(mut self, seconds: Option<u64>) -> Refusal {
        each!(Refusal, &mut self, failure => {
            failure.retry_after = failure.retry_after.and_then(|usual| seconds.or(Some(usual)));
        });
        self
    }

    /// The answer's body. `id`: the request's.
    pub fn body(&self, id: &str) -> Vec<u8> {
        let _ = id;
        match self {
            #[cfg(feature = "messages")]
            Refusal::Messages(failure) => failure.body(Some(id)),
            #[cfg(feature = "responses")]
            Refusal::Responses(failure) => failure.body(),
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
    ///
    /// # Errors
    /// What the client hears when it cannot be translated.
    pub fn translate(self, body: &[u8], options: &Options<'_>) -> Result<ChatRequest, Refusal> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => {
                messages::request::translate(body, options).map_err(Refusal::Messages)
            }
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                responses::request::translate(body, options).map_err(Refusal::Responses)
            }
        }
    }

    /// A refusal of ours. `code`: OpenAI's code for it.
    pub fn refusal(self, status: u16, code: &str, message: &str) -> Refusal {
        let _ = code; // not used in every build
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => {
                Refusal::Messages(messages::errors::ErrorBody::new(status, message))
            }
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                Refusal::Responses(responses::errors::ErrorBody::new(status, code, message))
            }
        }
    }

    /// An upstream's error, in any shape, as a refusal.
    pub fn error(
        self,
        status: u16,
        body: &[u8],
        after: Option<u64>,
        asked: Refused<'_>,
    ) -> Refusal {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => {
                Refusal::Messages(messages::errors::translate(status, body, after, asked))
            }
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                Refusal::Responses(responses::errors::translate(status, body, after, asked))
            }
        }
    }

    /// What a client gets while it waits for its stream: first once, then as each heartbeat.
    pub fn beats(self, asked: &RequestContext) -> (Vec<u8>, Vec<u8>) {
        let _ = asked;
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => (Vec::new(), messages::errors::PING.to_vec()),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::output::beats(asked),
        }
    }

    /// A refusal as the last event of a stream that has begun. `were_heard`: with heartbeats of the dialect.
    pub fn late(
        self,
        asked: &RequestContext,
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

    /// A document that came instead of a stream, as a stream; `None`: the dialect has no events for that.
    pub fn as_stream(
        self,
        asked: &RequestContext,
        were_heard: bool,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let _ = (asked, were_heard, body);
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => None,
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::output::as_stream(asked, were_heard, body),
        }
    }

    /// Whether an error's shape shows that the upstream speaks the dialect, and only something in the request is
    /// unknown to it.
    pub fn is_spoken_in(self, error: &[u8]) -> bool {
        let Some(json) = Json::parse(error) else {
            return false;
        };
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => json
                .get("type")
                .is_some_and(|kind| kind.text() == "\"error\""),
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                let error = json
                    .get("error")
                    .map(|error| error.pick(["param", "code", "message"]));
                let [param, code, message] = error.unwrap_or_default();
                let words = [code, message].into_iter().flatten();
                param.is_some() || words.map(Json::text).any(|text| text.contains("model"))
            }
        }
    }

    /// Whether an answer that begins with `start` ends without content.
    pub fn says_nothing(self, start: &[u8], is_stream: bool) -> bool {
        self.stream(RequestContext::default())
            .says_nothing(start, is_stream)
    }

    /// Whether it is OpenAI's, so that our own errors have its shape already.
    pub fn is_openais(self) -> bool {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => false,
            #[cfg(feature = "responses")]
            Dialect::Responses => true,
        }
    }

    /// Translates an answer that is not a stream.
    ///
    /// # Errors
    /// When it is empty, broken, or an error.
    pub fn answer(self, body: &[u8], asked: &RequestContext) -> Result<WholeAnswer, Fault> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::translate(body, asked),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::document(asked.clone()).whole(body),
        }
    }

    /// An answer without content, in place of one that had none and is not asked for again.
    pub fn empty(self, asked: &RequestContext, finish: Finish) -> Vec<u8> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::empty(asked, finish),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::document(asked.clone()).empty(finish),
        }
    }

    /// A reader for the answer to this request.
    pub fn stream(self, asked: RequestContext) -> Reader {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::stream::reader(asked),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::reader(asked),
        }
    }
}
