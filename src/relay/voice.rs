//! How a client is spoken to: as the upstream speaks, or in Anthropic's Messages dialect where the
//! upstream speaks only chat completions. What is said is made in [`crate::dialect`]; this room
//! knows when: a request is translated before its trip begins, or when the upstream turns out not
//! to know its path, and is changed and sent again when a refusal teaches how.
//!
//! Answers are in `spoken.rs`. Built without `messages`, `one_voice.rs` stands in for both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::policy::Policy;
use super::{Exchange, Mapped, Relay, lock};
use crate::config::{self, Config};
use crate::dialect::adapt::adapt;
use crate::dialect::json::Json;
use crate::dialect::learned::{Learned, to_json};
use crate::dialect::lessons::{Lesson, learn_from_error};
use crate::dialect::measure::Size;
use crate::dialect::messages::Asked;
use crate::dialect::messages::errors::{self, Failure, Refused};
use crate::dialect::messages::request::{Options, count_tokens, translate};
use crate::dialect::messages::stream::Stream;
use crate::reply::{self, Reply};
use crate::upstream::{Answer, Kept, Prepared};
use crate::verdict::Verdict;
use crate::{debug, route};

/// Hosts that speak chat completions and not Messages.
const CHAT_ONLY: [&str; 5] = [
    "integrate.api.nvidia.com",
    "api.groq.com",
    "api.cerebras.ai",
    "api.mistral.ai",
    "generativelanguage.googleapis.com",
];

/// A request is changed at most so often by what its refusals teach.
const MOST_CHANGES: usize = 6;

/// How the name begins by which Claude Code calls itself; see [`Asked::keeps_open`].
const CLAUDE_CODE: &[u8] = b"claude-cli/";

/// When a client may come back that found no memory left for its translation.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// Fields of a client that say something to the upstream too.
const GOES_UP: [&str; 2] = ["traceparent", "idempotency-key"];

/// What is known of the upstream's dialects and models.
#[derive(Debug)]
pub(super) struct Known {
    mode: config::Messages,
    /// It speaks chat completions only.
    translates: AtomicBool,
    /// It was seen to speak Messages itself.
    passes: AtomicBool,
    learned: Arc<Mutex<Learned>>,
}

impl Known {
    /// `earlier`: what was learned goes on, if the provider is the same.
    pub(super) fn new(config: &Config, earlier: Option<&Known>) -> Known {
        let authority = config.target.authority.as_str();
        let host = authority.split(':').next().unwrap_or_default();
        let translates = match config.messages {
            config::Messages::Auto => CHAT_ONLY.contains(&host),
            mode => mode == config::Messages::Translate,
        };
        Known {
            mode: config.messages,
            translates: AtomicBool::new(translates),
            passes: AtomicBool::new(config.messages == config::Messages::Pass),
            learned: earlier
                .map(|earlier| earlier.learned.clone())
                .unwrap_or_default(),
        }
    }

    fn translates(&self) -> bool {
        self.translates.load(Ordering::Relaxed)
    }

    fn passes(&self) -> bool {
        self.passes.load(Ordering::Relaxed)
    }

    /// A request was served, translated or as it was.
    pub(super) fn served(&self, translated: bool) {
        match translated {
            true => self.translates.store(true, Ordering::Relaxed),
            false => self.passes.store(true, Ordering::Relaxed),
        }
    }

    pub(super) fn learned(&self) -> MutexGuard<'_, Learned> {
        lock(&self.learned)
    }
}

/// What a client wants to hear.
#[derive(Debug, Default)]
pub(super) enum Voice {
    /// What the upstream says.
    #[default]
    Plain,
    /// A Message, or a stream of one.
    Messages(Box<Talk>),
    /// How many tokens a request has.
    Count,
    /// The list of models, in Anthropic's shape.
    Models,
}

/// A request in the Messages dialect.
#[derive(Debug)]
pub(super) struct Talk {
    /// Goes up in place of the client's request, once that is translated.
    chat: Option<Prepared>,
    /// What is to be known for the answer; none: the request goes up as it is.
    pub(super) asked: Option<Asked>,
    /// The client wants a stream.
    pub(super) streams: bool,
    /// By the upstream's name.
    pub(super) model: String,
    pub(super) size: Size,
    is_claude_code: bool,
    /// What its refusals taught: kept once it is served.
    taught: Vec<Lesson>,
    /// Its first answer was looked at; a second one that says nothing passes.
    heard: bool,
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum About {
    Messages,
    Count,
    Models,
}

fn about(method: &str, target: &str) -> Option<About> {
    let path = route::path(target);
    match method {
        _ if route::is_genai(target) => None,
        "POST" if path.ends_with("/v1/messages") => Some(About::Messages),
        "POST" if path.ends_with("/v1/messages/count_tokens") => Some(About::Count),
        "GET" if path.ends_with("/v1/models") => Some(About::Models),
        _ => None,
    }
}

impl Mapped {
    /// A request that went up as it was has this answer.
    pub(super) fn passed(&self, status: u16) {
        if let (Voice::Messages(_), 200..400) = (&self.voice, status) {
            self.policy.known.served(false);
        }
    }

    /// Finds out how the client wants to be spoken to.
    pub(super) fn listen<'a>(
        mut self,
        method: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Mapped, String> {
        let policy = self.policy.clone();
        if policy.known.passes() {
            return Ok(self);
        }
        let is_anthropics = || {
            let mut names = fields.clone().map(|(name, _)| name);
            names.any(|name| name.eq_ignore_ascii_case("anthropic-version"))
        };
        let up = |method, path| prepared(&policy, method, path, fields.clone());
        match about(method, target) {
            Some(About::Messages) => {
                self.voice = Voice::Messages(Box::new(Talk {
                    chat: Some(up("POST", "/v1/chat/completions")?),
                    asked: None,
                    streams: false,
                    model: String::new(),
                    size: Size::default(),
                    is_claude_code: fields.clone().any(|(name, value)| {
                        name.eq_ignore_ascii_case("user-agent") && value.starts_with(CLAUDE_CODE)
                    }),
                    taught: Vec::new(),
                    heard: false,
                }));
            }
            Some(About::Count) => self.voice = Voice::Count,
            Some(About::Models) if is_anthropics() => {
                self.voice = Voice::Models;
                self.request = up("GET", "/v1/models")?;
            }
            _ => {}
        }
        Ok(self)
    }
}

/// A request of ours to the target. Of the client's fields hardly any means anything there.
fn prepared<'a>(
    policy: &Policy,
    method: &str,
    path: &str,
    fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
) -> Result<Prepared, String> {
    const OURS: [(&str, &[u8]); 2] = [
        ("content-type", b"application/json"),
        ("accept", b"application/json"),
    ];
    let ours = OURS
        .iter()
        .filter(|(name, _)| method == "POST" || *name == "accept");
    let theirs = fields.filter(|(name, _)| GOES_UP.iter().any(|up| up.eq_ignore_ascii_case(name)));
    let path = route::upward(&policy.base_path, path);
    let mut prepared = Prepared::new(method, &policy.target, path, ours.copied().chain(theirs))?;
    prepared.ask_for_plain_text();
    Ok(prepared)
}

impl Voice {
    /// What a client hears while it waits for its stream.
    pub(super) fn beat(&self) -> &'static [u8] {
        match self {
            Voice::Messages(_) => errors::PING,
            _ => b": alvus is waiting\n\n",
        }
    }

    /// Whether the upstream's answers are translated.
    pub(super) fn translates(&self) -> bool {
        match self {
            Voice::Plain | Voice::Count => false,
            Voice::Messages(talk) => talk.asked.is_some(),
            Voice::Models => true,
        }
    }

    /// A refusal of ours in the client's dialect; none: as it is.
    pub(super) fn reply(&self, reply: &Reply) -> Option<Reply> {
        match self {
            Voice::Plain => None,
            _ if reply.status < 400 => None,
            _ => Some(in_anthropics_shape(reply)),
        }
    }

    /// An upstream's answer that is no success, likewise.
    pub(super) fn kept(&self, kept: &Kept, known: &Known) -> Option<Reply> {
        if !self.translates() {
            return None;
        }
        let status = if kept.status < 400 { 502 } else { kept.status };
        let after = kept.fields.iter().find(|(name, _)| name == "retry-after");
        let after = after.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        let mut request = Refused {
            model: "",
            prompt_tokens: 1,
            context: None,
        };
        if let Voice::Messages(talk) = self
            && let Some(asked) = &talk.asked
        {
            request = Refused {
                model: &asked.model,
                prompt_tokens: asked.prompt_tokens,
                context: known.learned().traits(&talk.model).context,
            };
        }
        let failure = errors::translate(status, &kept.words(), after, request);
        Some(refusal(failure))
    }

    /// A refusal as the last event of a stream that has begun, where the client has an event for it.
    pub(super) fn late(&self, reply: &Reply) -> Option<Vec<u8>> {
        match self {
            Voice::Plain => None,
            _ => Some(errors::late_error(&reply.reason().unwrap_or_default())),
        }
    }
}

fn in_anthropics_shape(reply: &Reply) -> Reply {
    let mut failure = Failure::new(reply.status, reply.reason().unwrap_or_default());
    if let (Some(_), Some(wait)) = (failure.retry_after, reply.retry_after) {
        failure.retry_after = Some(reply::whole_seconds(wait));
    }
    refusal(failure)
}

/// As it goes to the client.
pub(super) fn refusal(failure: Failure) -> Reply {
    let id = format!("req_{:016x}", reply::random());
    let body = String::from_utf8_lossy(&failure.body(Some(&id))).into_owned();
    let mut reply = Reply::json(failure.status, body).with("request-id", id);
    reply.retry_after = failure.retry_after.map(Duration::from_secs);
    reply
}

impl Relay {
    /// A refusal in the words of who asks for this; none: as it is.
    pub fn in_dialect(&self, method: &str, target: &str, reply: &Reply) -> Option<Reply> {
        let is_messages = !matches!(about(method, target), None | Some(About::Models));
        let wanted = reply.status >= 400 && is_messages && self.speaks_messages();
        wanted.then(|| in_anthropics_shape(reply))
    }

    /// Whether clients of the Messages dialect find here what they look for.
    fn speaks_messages(&self) -> bool {
        self.policy().known.mode != config::Messages::Pass
    }

    /// What was learned of models, as a JSON object.
    pub fn learned(&self) -> Option<String> {
        let known = self.policy().clone();
        let json = to_json(&known.known.learned());
        String::from_utf8(json).ok()
    }
}

impl Exchange<'_> {
    /// Makes the request ready for its trip. What comes back is the answer to it already.
    pub(super) fn prepare(&mut self) -> Option<Reply> {
        if let Some(reply) = self.rename() {
            return Some(reply);
        }
        match self.mapped.voice {
            Voice::Messages(_) if self.mapped.policy.known.translates() => self.translate().err(),
            Voice::Count => Some(self.count()),
            _ => None,
        }
    }

    fn count(&self) -> Reply {
        let body = self.body.as_ref().map_or(&[][..], |body| &body.bytes);
        let ratio = self
            .mapped
            .policy
            .known
            .learned()
            .traits(&model_of(body))
            .ratio();
        match count_tokens(body, ratio) {
            Ok(json) => Reply::json(200, String::from_utf8_lossy(&json).into_owned()),
            Err(failure) => refusal(failure),
        }
    }

    /// Puts a chat completion in the request's place.
    fn translate(&mut self) -> Result<(), Reply> {
        let (Voice::Messages(talk), Some(body)) = (&mut self.mapped.voice, &mut self.body) else {
            return Err(refusal(Failure::invalid("a body is required")));
        };
        if body.has_no_chance() {
            let text = "the request is too large to be translated (MAX_BODY_MB, or what memory allows; a translated body counts twice)";
            return Err(refusal(Failure::new(413, text)));
        }
        let Some(room) = body.room() else {
            let text = "too many request bodies at once (MAX_BODY_MB bounds them all together, and a translated one counts twice)";
            let mut failure = Failure::new(errors::OVERLOADED, text);
            failure.retry_after = Some(BUSY_RETRY.as_secs());
            return Err(refusal(failure));
        };
        let model = model_of(&body.bytes);
        let options = Options {
            model: &model,
            max_output: None,
            effort: false,
        };
        let chat = translate(&body.bytes, &options).map_err(refusal)?;
        *body = room.filled(chat.body); // what it was made of is given back
        talk.asked = Some(Asked {
            model: self.mapped.asked.clone().unwrap_or(chat.model),
            random: reply::random(),
            used: chat.used,
            keeps_open: talk.is_claude_code,
            ..Asked::default()
        });
        (talk.streams, talk.size) = (chat.streams, chat.size);
        if let Some(chat) = talk.chat.take() {
            self.mapped.request = chat;
        }
        self.fit(&model);
        Ok(())
    }

    /// Changes a translated request to what is known of its model, by the upstream's name for it.
    pub(super) fn fit(&mut self, model: &str) {
        let Voice::Messages(talk) = &mut self.mapped.voice else {
            return;
        };
        let (Some(asked), Some(body)) = (&mut talk.asked, &mut self.body) else {
            return;
        };
        let traits = self.mapped.policy.known.learned().traits(model);
        let tokens = traits.tokens(talk.size);
        (asked.prompt_tokens, asked.ratio) = (tokens, traits.ratio());
        asked.thinks_unopened = traits.thinks_unopened;
        model.clone_into(&mut talk.model);
        talk.taught.clear();
        if let Some(room) = body.room()
            && let Some(adapted) = adapt(&body.bytes, &traits, tokens)
        {
            *body = room.filled(adapted);
        }
    }

    /// Whether the request was changed because of what this answer says, and is to be sent again.
    pub(super) fn revise(&mut self, answer: &Answer, verdict: Verdict) -> bool {
        let about_request = matches!(
            verdict,
            Verdict::Pass | Verdict::TooMuch | Verdict::Failed(_) | Verdict::Nowhere
        );
        let Voice::Messages(talk) = &self.mapped.voice else {
            return false;
        };
        match talk.asked {
            Some(_) if answer.status == 200 && about_request => self.hears(answer),
            _ if answer.status < 400 || !about_request => false,
            None => self.was_not_understood(answer) && self.translate().is_ok(),
            Some(_) => self.learns(answer),
        }
    }

    /// The upstream does not know the path of the dialect.
    fn was_not_understood(&self, answer: &Answer) -> bool {
        let unknown = matches!(answer.status, 404 | 405 | 501);
        // An error in Anthropic's shape is the dialect itself: an unknown model, say.
        let words = answer.words();
        let error = Json::parse(&words).and_then(|error| error.get("type")?.string());
        unknown && !self.mapped.policy.known.passes() && !error.is_some_and(|kind| kind.is("error"))
    }

    /// An answer: what refusals taught was right. Whether it says nothing; the first one that does is not
    /// believed.
    fn hears(&mut self, answer: &Answer) -> bool {
        let Voice::Messages(talk) = &mut self.mapped.voice else {
            return false;
        };
        let mut learned = self.mapped.policy.known.learned();
        for lesson in talk.taught.drain(..) {
            learned.learn(&talk.model, lesson, talk.size);
        }
        drop(learned);
        let is_first = !std::mem::replace(&mut talk.heard, true);
        is_first && Stream::says_nothing(answer.start(), answer.is_stream())
    }

    /// A refusal that names what the model does not take.
    fn learns(&mut self, answer: &Answer) -> bool {
        let policy = self.mapped.policy.clone();
        let (Voice::Messages(talk), Some(body)) = (&mut self.mapped.voice, &mut self.body) else {
            return false;
        };
        let Some(lesson) = learn_from_error(answer.status, &answer.words()) else {
            return false;
        };
        debug!("{}: {lesson:?}", talk.model);
        let mut traits = policy.known.learned().traits(&talk.model);
        let taught = talk.taught.iter().copied().chain([lesson]);
        taught.for_each(|lesson| traits.learn(lesson, talk.size));
        let tokens = traits.tokens(talk.size);
        if let Some(asked) = &mut talk.asked {
            (asked.prompt_tokens, asked.ratio) = (tokens, traits.ratio());
        }
        let may_change = talk.taught.len() < MOST_CHANGES;
        if let Some(room) = body.room().filter(|_| may_change)
            && let Some(adapted) = adapt(&body.bytes, &traits, tokens)
        {
            *body = room.filled(adapted);
            talk.taught.push(lesson);
            return true;
        }
        // The request does not fit, and its client is told; how much does is known from now on.
        if let Lesson::Context(..) = lesson {
            policy.known.learned().learn(&talk.model, lesson, talk.size);
        }
        false
    }
}

fn model_of(body: &[u8]) -> String {
    let model = Json::parse(body).and_then(|body| body.get("model")?.string());
    model.map_or(String::new(), |model| model.plain().into_owned())
}
