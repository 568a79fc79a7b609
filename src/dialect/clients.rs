//! The dialects that clients speak, behind one face: what each of them makes of a request, an answer, a
//! stream and a refusal. Pure. A dialect that alvus is built without is not among them.

use super::chat::Finish;
use super::json::Json;
#[cfg(feature = "messages")]
use super::messages;
use super::reader::Reader;
#[cfg(feature = "responses")]
use super::responses;
use super::terms::{Answer, Asked, ChatRequest, Fault, Options, Refused};

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
#[derive(Debug)]
pub enum Refusal {
    /// In Anthropic's shape.
    #[cfg(feature = "messages")]
    Messages(messages::errors::Failure),
    /// In OpenAI's shape.
    #[cfg(feature = "responses")]
    Responses(responses::errors::Failure),
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

    /// Seconds to wait before the next try: the field `retry-after`.
    pub fn retry_after(&self) -> Option<u64> {
        each!(Refusal, self, failure => failure.retry_after)
    }

    /// The same with so many of them, if waiting is of use at all.
    pub fn after(mut self, seconds: Option<u64>) -> Refusal {
        each!(Refusal, &mut self, failure => {
            failure.retry_after = failure.retry_after.and_then(|usual| seconds.or(Some(usual)));
        });
        self
    }

    /// The answer's body; `id`: the request's.
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

    /// A refusal of ours. `code`: OpenAI's word for it.
    pub fn refusal(self, status: u16, code: &str, message: &str) -> Refusal {
        let _ = code; // of use to some dialects only
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => Refusal::Messages(messages::errors::Failure::new(status, message)),
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                Refusal::Responses(responses::errors::Failure::new(status, code, message))
            }
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
            Dialect::Messages => {
                Refusal::Messages(messages::errors::translate(status, body, after, asked))
            }
            #[cfg(feature = "responses")]
            Dialect::Responses => {
                Refusal::Responses(responses::errors::translate(status, body, after, asked))
            }
        }
    }

    /// What a client hears while it waits for its stream to begin: once, and then again and again.
    pub fn beats(self, asked: &Asked) -> (Vec<u8>, Vec<u8>) {
        let _ = asked;
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

    /// Whether an error says by its shape that the upstream speaks it, and only something in the request is
    /// unknown.
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

    /// Whether an answer, of which this is the beginning, has an end and nothing else.
    pub fn says_nothing(self, start: &[u8], is_stream: bool) -> bool {
        self.stream(Asked::default()).says_nothing(start, is_stream)
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
            Dialect::Responses => responses::stream::document(asked.clone()).whole(body),
        }
    }

    /// For an answer that is no stream, says nothing and shall not be asked for again.
    pub fn empty(self, asked: &Asked, finish: Finish) -> Vec<u8> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::empty(asked, finish),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::document(asked.clone()).empty(finish),
        }
    }

    /// For the answer to what was asked.
    pub fn stream(self, asked: Asked) -> Reader {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::stream::reader(asked),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::reader(asked),
        }
    }
}
