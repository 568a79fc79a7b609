//! The dialects of clients behind one interface: requests, answers, streams and refusals. Pure. Only the dialects of
//! this build are in it.

use super::json::Json;
use super::lessons::{Overflow, code, message};
#[cfg(feature = "messages")]
use super::messages;
use super::reader::Reader;
#[cfg(feature = "responses")]
use super::responses;
use super::terms::{ChatRequest, Refused, RequestContext};

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

/// Seconds to wait before a retry, if nobody names any: after a 429 without them Codex gives up.
pub const USUAL_WAIT: u64 = 5;

/// The same as a field's value.
pub const USUAL_WAIT_DIGIT: &[u8] = b"5";

/// A refusal, to be written in its client's dialect.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Refusal {
    /// The client's dialect.
    pub dialect: Dialect,
    /// The status to answer with.
    pub status: u16,
    /// Anthropic's type of error, or OpenAI's code; "" for none.
    pub code: String,
    /// The field that is to blame, as OpenAI's clients are told it; "" for none.
    pub param: String,
    /// What is wrong.
    pub message: String,
    /// Seconds to wait before a retry: the field `retry-after`. `None`: a wait is of no use.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Sets `retry-after`, if a wait is of use.
    pub fn after(mut self, seconds: Option<u64>) -> Refusal {
        self.retry_after = self.retry_after.map(|usual| seconds.unwrap_or(usual));
        self
    }

    /// The answer's body. `id`: the request's.
    pub fn body(&self, id: &str) -> Vec<u8> {
        let _ = id;
        match self.dialect {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::body(self, Some(id)),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::errors::body(self),
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

    /// Translates a request. `model`: by the upstream's name.
    ///
    /// # Errors
    /// What the client hears when it cannot be translated.
    pub fn translate(self, body: &[u8], model: &str) -> Result<ChatRequest, Refusal> {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::request::translate(body, model),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::request::translate(body, model),
        }
    }

    /// A refusal of ours. `code`: OpenAI's code for it.
    pub fn refusal(self, status: u16, code: &str, message: &str) -> Refusal {
        let _ = code; // not used in every build
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::refusal(status, message),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::errors::refusal(status, code, message),
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
        let said =
            message(body).unwrap_or_else(|| format!("the upstream answered with status {status}"));
        let refusal = match Overflow::read(status, body) {
            Some(overflow) => self.too_long(overflow, asked, &said),
            // NVIDIA NIM: the function exists, but its workers are down.
            None if status == 400 && said.contains("DEGRADED") => self.refusal(503, "", &said),
            None if status == 404 && said.contains("Not found for account") => {
                let text = format!("the upstream has no model {:?}: {said}", asked.model);
                self.refusal(404, "model_not_found", &text)
            }
            None => self.refusal(status, &code(body), &said),
        };
        refusal.after(after)
    }

    /// The refusal of a prompt that is longer than the model's context, in the words after which clients compact it.
    fn too_long(self, overflow: Overflow, asked: Refused<'_>, said: &str) -> Refusal {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::errors::too_long(overflow, asked, said),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::errors::too_long(overflow, asked, said),
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

    /// A reader for an answer to this request that is not a stream; see [`Reader::whole`].
    pub fn document(self, asked: RequestContext) -> Reader {
        match self {
            #[cfg(feature = "messages")]
            Dialect::Messages => messages::answer::document(asked),
            #[cfg(feature = "responses")]
            Dialect::Responses => responses::stream::document(asked),
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
