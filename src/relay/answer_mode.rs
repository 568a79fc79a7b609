//! Decides which dialect a client is answered in: the upstream's, or the client's own where the upstream speaks only
//! chat completions. [`crate::dialect`] translates; this file knows which requests need it, and what refusals and
//! heartbeats look like.
//!
//! `translate_request.rs` handles requests, `translate_answer.rs` answers. In a build without dialects `no_dialect.rs`
//! replaces all three.

use std::time::Duration;

pub(super) use super::known::Known;
use super::policy::Policy;
use super::{Exchange, Mapped, Relay};
use crate::dialect::interface::{Dialect, Refusal, USUAL_WAIT, USUAL_WAIT_DIGIT};
use crate::dialect::json::Json;
use crate::dialect::lessons::{Lesson, code};
use crate::dialect::measure::Size;
use crate::dialect::terms::{Refused, RequestContext};
use crate::headers::{self, Field};
use crate::reply::{self, BadRequest, Reply};
use crate::route;
use crate::upstream::{Answer, Kept, Prepared};

/// How Claude Code's User-Agent begins; see [`RequestContext::keeps_open`].
const CLAUDE_CODE: &[u8] = b"claude-cli/";

/// Fields of the client's request that a translated request keeps.
const GOES_UP: [&str; 2] = ["traceparent", "idempotency-key"];

/// How a request's answer is made.
#[derive(Debug, Default)]
pub(super) enum AnswerMode {
    /// The upstream's answer as it is.
    #[default]
    Plain,
    /// An answer in a dialect.
    Translation(Box<Translation>),
    /// A count of the request's tokens.
    #[cfg(feature = "messages")]
    Count,
    /// The list of models, in Anthropic's shape.
    #[cfg(feature = "messages")]
    Models,
}

/// A request in a dialect.
#[derive(Debug)]
pub(super) struct Translation {
    pub(super) dialect: Dialect,
    pub(super) stage: Stage,
    /// What the translation of the answer needs to know.
    pub(super) asked: RequestContext,
    /// Heartbeats may be events of the dialect.
    pub(super) beats: bool,
    /// The client wants a stream.
    pub(super) streams: bool,
    /// The model, by the upstream's name.
    pub(super) model: String,
    pub(super) size: Size,
    /// What its refusals taught; kept once it is served.
    pub(super) taught: Vec<Lesson>,
    /// One answer came already: a second one without content passes.
    pub(super) answered_once: bool,
}

/// How far the translation of a request is.
#[derive(Debug)]
pub(super) enum Stage {
    /// None is needed: the upstream speaks the dialect.
    Passes,
    /// It can be translated, and goes up with this head then.
    Ready(Prepared),
    /// It is.
    Translated,
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum About {
    Translation(Dialect),
    #[cfg(feature = "messages")]
    Count,
    #[cfg(feature = "messages")]
    Models,
}

impl About {
    fn of(method: &str, path: &str) -> Option<About> {
        let about = match method {
            #[cfg(feature = "messages")]
            "POST" if path.ends_with("/v1/messages/count_tokens") => Some(About::Count),
            #[cfg(feature = "messages")]
            "GET" if path.ends_with("/v1/models") => Some(About::Models),
            "POST" => Dialect::of(path).map(About::Translation),
            _ => None,
        };
        about.filter(|_| !route::is_genai(path))
    }

    fn dialect(self) -> Dialect {
        match self {
            About::Translation(dialect) => dialect,
            #[cfg(feature = "messages")]
            About::Count | About::Models => Dialect::Messages,
        }
    }
}

impl Mapped {
    /// A request that was not translated has this answer. A page or a redirect, perhaps a portal's, proves nothing.
    pub(super) fn passed(&self, answer: &Answer) {
        let speaks = answer.status == 200 && (answer.json || answer.is_stream());
        if let (AnswerMode::Translation(translation), true) = (&self.answer_mode, speaks) {
            self.policy.known.served(translation.dialect, false);
        }
    }

    /// Finds out which dialect the client speaks.
    pub(super) fn listen(
        &mut self,
        method: &str,
        target: &str,
        fields: &[Field],
    ) -> Result<(), BadRequest> {
        let Some(about) = About::of(method, route::path(target)) else {
            return Ok(());
        };
        let policy = self.policy.clone();
        let dialect = about.dialect();
        let passes = policy.known.passes(dialect);
        let up = |method, path| prepared(&policy, method, path, fields);
        match about {
            About::Translation(_) if !passes || dialect.is_openais() => {
                let keeps_open = fields.iter().any(|(name, value)| {
                    headers::is(name, "user-agent") && value.starts_with(CLAUDE_CODE)
                });
                self.answer_mode = AnswerMode::Translation(Box::new(Translation {
                    dialect,
                    stage: match passes {
                        true => Stage::Passes,
                        false => Stage::Ready(up("POST", "/v1/chat/completions")?),
                    },
                    asked: RequestContext {
                        random: reply::random(),
                        keeps_open,
                        ..RequestContext::default()
                    },
                    beats: false,
                    streams: false,
                    model: String::new(),
                    size: Size::default(),
                    taught: Vec::new(),
                    answered_once: false,
                }));
            }
            #[cfg(feature = "messages")]
            About::Count if !passes => self.answer_mode = AnswerMode::Count,
            #[cfg(feature = "messages")]
            About::Models if !passes && super::listing::is_anthropics(fields) => {
                self.answer_mode = AnswerMode::Models;
                self.request = up("GET", "/v1/models")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A translated request to the target. It keeps few of the client's fields.
fn prepared(
    policy: &Policy,
    method: &str,
    path: &str,
    fields: &[Field],
) -> Result<Prepared, BadRequest> {
    let kept = |name: &[u8]| GOES_UP.iter().any(|up| headers::is(name, up));
    let mut ours: Vec<Field> = Vec::new();
    if method == "POST" {
        ours.push((b"content-type", b"application/json"));
    }
    ours.push((b"accept", b"application/json"));
    ours.extend(fields.iter().filter(|(name, _)| kept(name)));
    let path = route::upward(&policy.target.base_path, path);
    let mut prepared = Prepared::new(method, &policy.target.to, &path, &ours)?;
    prepared.ask_for_plain_text();
    Ok(prepared)
}

impl AnswerMode {
    /// What a client gets while it waits for its stream: first once, then as each heartbeat.
    pub(super) fn beats(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            AnswerMode::Translation(translation) if translation.beats => {
                translation.dialect.beats(&translation.asked)
            }
            _ => (Vec::new(), b": alvus is waiting\n\n".to_vec()),
        }
    }

    /// Whether the upstream's answers are translated.
    pub(super) fn translates(&self) -> bool {
        match self {
            AnswerMode::Translation(translation) => translation.is_translated(),
            #[cfg(feature = "messages")]
            AnswerMode::Models => true,
            _ => false,
        }
    }

    /// Whether the client of a stream takes only events of the dialect, and no document.
    #[cfg(feature = "responses")]
    pub(super) fn speaks_events(&self) -> bool {
        matches!(self, AnswerMode::Translation(translation) if translation.dialect.is_openais())
    }

    fn dialect(&self) -> Option<Dialect> {
        match self {
            AnswerMode::Plain => None,
            AnswerMode::Translation(translation) => Some(translation.dialect),
            #[cfg(feature = "messages")]
            AnswerMode::Count | AnswerMode::Models => Some(Dialect::Messages),
        }
    }

    /// A refusal of ours in the client's dialect; `None`: send it as it is.
    pub(super) fn reply(&self, reply: &Reply) -> Option<Reply> {
        in_shape(self.dialect()?, reply)
    }

    /// An upstream's error in the client's dialect; `None`: send it as it is.
    pub(super) fn kept(&self, kept: &Kept, known: &Known) -> Option<Reply> {
        let dialect = self.dialect().filter(|_| self.translates())?;
        let status = if kept.status < 400 { 502 } else { kept.status };
        let after = kept.fields.iter().find(|(name, _)| name == b"retry-after");
        let after = after.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let mut request = Refused {
            model: "",
            prompt_tokens: 1,
            context: None,
        };
        if let AnswerMode::Translation(translation) = self {
            request = Refused {
                model: &translation.asked.model,
                prompt_tokens: translation.asked.prompt_tokens,
                context: known.learned().traits(&translation.model).context,
            };
        }
        Some(refusal(dialect.error(
            status,
            &kept.words(),
            after,
            request,
        )))
    }

    /// The field that a refusal of this status lacks and the client needs.
    pub(super) fn lacks<'a, F: Iterator<Item = Field<'a>>>(
        &self,
        status: u16,
        fields: impl FnOnce() -> F,
    ) -> Option<Field<'static>> {
        let wanted = matches!(status, 429 | 503) && self.dialect()?.is_openais();
        let is_there = wanted && fields().any(|(name, _)| name == b"retry-after");
        (wanted && !is_there).then_some((b"retry-after", USUAL_WAIT_DIGIT))
    }

    /// A refusal as the last event of a stream that has begun, if the dialect has an event for it.
    pub(super) fn late(&self, reply: &Reply) -> Option<Vec<u8>> {
        let dialect = self.dialect()?;
        let mut text = reply.reason().unwrap_or_default();
        let (nobody, mut by_beats) = (RequestContext::default(), false);
        let mut asked = &nobody;
        if let AnswerMode::Translation(translation) = self {
            (asked, by_beats) = (&translation.asked, translation.beats);
        }
        if let (true, Some(wait)) = (dialect.is_openais(), reply.retry_after) {
            // Codex reads the wait from these words.
            text += &format!("; please try again in {}s", reply::whole_seconds(wait));
        }
        let code = code(reply.body.as_bytes());
        Some(dialect.late(asked, by_beats, reply.status, &code, &text))
    }
}

/// A refusal of ours in a dialect; `None`: send it as it is.
fn in_shape(dialect: Dialect, reply: &Reply) -> Option<Reply> {
    let wait = reply.retry_after;
    match reply.status {
        ..400 => None,
        429 | 503 if dialect.is_openais() && wait.is_none() => {
            Some(reply.clone().retry_after(Duration::from_secs(USUAL_WAIT)))
        }
        _ if dialect.is_openais() => None,
        status => {
            let text = reply.reason().unwrap_or_default();
            let failure = dialect.refusal(status, "", &text);
            Some(refusal(failure.after(wait.map(reply::whole_seconds))))
        }
    }
}

/// A failed translation as a reply.
pub(super) fn refusal(failure: Refusal) -> Reply {
    let id = format!("req_{:016x}", reply::random());
    let body = String::from_utf8_lossy(&failure.body(&id)).into_owned();
    let mut reply = Reply::json(failure.status, body).with("request-id", id);
    reply.retry_after = failure.retry_after.map(Duration::from_secs);
    reply
}

impl Relay {
    /// The reply in the dialect of this path; `None`: send it as it is.
    pub fn in_dialect(&self, method: &str, target: &str, reply: &Reply) -> Option<Reply> {
        let about = About::of(method, route::path(target));
        #[cfg(feature = "messages")]
        let about = about.filter(|about| *about != About::Models);
        let dialect = about?.dialect();
        let may = self.policy().known.may_translate(dialect);
        may.then(|| in_shape(dialect, reply))?
    }
}

impl Exchange<'_> {
    /// Prepares the request for the loop. `Some`: the answer, if it needs no attempt.
    pub(super) fn prepare(&mut self) -> Option<Reply> {
        if let Some(reply) = self.rename() {
            return Some(reply);
        }
        let policy = self.mapped.policy.clone();
        match &mut self.mapped.answer_mode {
            AnswerMode::Translation(translation)
                if matches!(translation.stage, Stage::Ready(_))
                    && policy.known.translates(translation.dialect) =>
            {
                translation.beats = true;
                self.translate().err()
            }
            AnswerMode::Translation(translation) => {
                // A client whose response is stored looks for it by the id of its first event.
                let body = self.body.as_ref().and_then(|body| Json::parse(&body.bytes));
                let [model, store] = body.map_or([None; 2], |body| body.pick(["model", "store"]));
                translation.beats = !translation.dialect.is_openais()
                    || store.is_some_and(|store| store.text() == "false");
                self.mapped.stores &= !(translation.beats && translation.dialect.is_openais());
                let model = model
                    .and_then(Json::string)
                    .map(|model| model.plain().into_owned());
                let renamed = self.mapped.client_model.clone();
                translation.asked.model = renamed.or(model).unwrap_or_default();
                None
            }
            #[cfg(feature = "messages")]
            AnswerMode::Count => Some(self.count()),
            _ => None,
        }
    }
}

#[cfg(all(test, feature = "messages", feature = "responses"))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_about_what_its_end_says_but_for_visual_models() {
        for (method, path, about) in [
            (
                "POST",
                "/v1/messages",
                Some(About::Translation(Dialect::Messages)),
            ),
            (
                "POST",
                "/a/v1/responses",
                Some(About::Translation(Dialect::Responses)),
            ),
            ("POST", "/v1/messages/count_tokens", Some(About::Count)),
            ("GET", "/v1/models", Some(About::Models)),
            ("GET", "/v1/messages", None),
            ("POST", "/v1/chat/completions", None),
            ("POST", "/v1/genai/a/v1/messages", None),
        ] {
            assert_eq!(About::of(method, path), about, "{method} {path}");
        }
    }
}
