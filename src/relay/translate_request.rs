//! Translates a request in a client's dialect to chat completions: before its first attempt, or once the upstream turns
//! out not to know its path. Fits it to its model, and changes it when a refusal says what the model does not take.

use std::time::Instant;

use super::Exchange;
use super::answer_mode::{AnswerMode, refusal};
use crate::debug;
use crate::dialect::adapt::adapt;
use crate::dialect::json::Json;
use crate::dialect::lessons::{Lesson, learn_from_error};
use crate::dialect::terms::RequestContext;
use crate::reply::{BODIES_FULL, BUSY_RETRY, Reply};
use crate::upstream::Answer;
use crate::verdict::Verdict;

/// How often refusals may change one request.
const MOST_CHANGES: usize = 6;

impl Exchange<'_> {
    #[cfg(feature = "messages")]
    pub(super) fn count(&self) -> Reply {
        use crate::dialect::messages::request::count_tokens;
        let body = self.body.as_ref().map_or(&[][..], |body| &body.bytes);
        let known = &self.mapped.policy.known;
        let ratio = known.learned().traits(&model_of(body)).ratio();
        match count_tokens(body, ratio) {
            Ok(json) => Reply::json(200, String::from_utf8_lossy(&json).into_owned()),
            Err(failure) => refusal(failure),
        }
    }

    /// Replaces the request by its translation.
    pub(super) fn translate(&mut self) -> Result<(), Reply> {
        let AnswerMode::Translation(translation) = &mut self.mapped.answer_mode else {
            return Ok(());
        };
        let refuse = |status, text| translation.dialect.refusal(status, "", text);
        let Some(body) = &mut self.body else {
            return Err(refusal(refuse(400, "a body is required")));
        };
        if body.has_no_chance() {
            let text = "the request is too large to be translated (MAX_BODY_MB, or what memory allows; a translated body counts twice)";
            return Err(refusal(refuse(413, text)));
        }
        let Some(room) = body.room() else {
            return Err(refusal(
                refuse(503, BODIES_FULL).after(Some(BUSY_RETRY.as_secs())),
            ));
        };
        let model = model_of(&body.bytes);
        let chat = translation
            .dialect
            .translate(&body.bytes, &model)
            .map_err(refusal)?;
        *body = room.filled(chat.body); // frees the client's body
        translation.asked = RequestContext {
            model: self.mapped.asked.clone().unwrap_or(chat.model),
            used: chat.used,
            tools: chat.tools,
            limited: chat.limited,
            ..std::mem::take(&mut translation.asked)
        };
        (
            translation.streams,
            translation.size,
            translation.translated,
        ) = (chat.streams, chat.size, true);
        self.mapped.stores = false;
        if let Some(chat) = translation.chat.take() {
            self.mapped.request = chat;
        }
        self.fit(&model);
        Ok(())
    }

    /// Changes a translated request to what was learned of its model. `model`: the upstream's name.
    pub(super) fn fit(&mut self, model: &str) {
        let (AnswerMode::Translation(translation), Some(body)) =
            (&mut self.mapped.answer_mode, &mut self.body)
        else {
            return;
        };
        if !translation.translated {
            return;
        }
        let traits = self.mapped.policy.known.learned().traits(model);
        if traits.blind {
            translation.size.images = 0; // none is sent
        }
        let tokens = traits.tokens(translation.size);
        (translation.asked.prompt_tokens, translation.asked.ratio) = (tokens, traits.ratio());
        translation.asked.thinks_unopened = traits.thinks_unopened;
        model.clone_into(&mut translation.model);
        translation.taught.clear();
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
        let AnswerMode::Translation(translation) = &self.mapped.answer_mode else {
            return false;
        };
        match translation.translated {
            true if answer.status == 200 && about_request => self.hears(answer),
            _ if answer.status < 400 || !about_request => false,
            false => self.was_not_understood(answer) && self.translate().is_ok(),
            true => self.learns(answer),
        }
    }

    /// The upstream does not know the path of the dialect.
    fn was_not_understood(&self, answer: &Answer) -> bool {
        let AnswerMode::Translation(translation) = &self.mapped.answer_mode else {
            return false;
        };
        let unknown = matches!(answer.status, 404 | 405 | 501) && translation.chat.is_some();
        unknown
            && !self.mapped.policy.known.passes(translation.dialect)
            && !translation.dialect.is_spoken_in(&answer.words())
    }

    /// An answer came: the lessons of the refusals were right. `true`: it has no content, and is asked for once more.
    fn hears(&mut self, answer: &Answer) -> bool {
        let AnswerMode::Translation(translation) = &mut self.mapped.answer_mode else {
            return false;
        };
        let mut learned = self.mapped.policy.known.learned();
        for lesson in translation.taught.drain(..) {
            learned.learn(&translation.model, lesson, translation.size, Instant::now());
        }
        drop(learned);
        let is_first = !std::mem::replace(&mut translation.heard, true);
        is_first
            && translation
                .dialect
                .says_nothing(answer.start(), answer.is_stream())
    }

    /// Learns from a refusal that names what the model does not take. `true`: the request was changed.
    fn learns(&mut self, answer: &Answer) -> bool {
        let policy = self.mapped.policy.clone();
        let (AnswerMode::Translation(translation), Some(body)) =
            (&mut self.mapped.answer_mode, &mut self.body)
        else {
            return false;
        };
        let Some(lesson) = learn_from_error(answer.status, &answer.words()) else {
            return false;
        };
        debug!("{}: {lesson:?}", translation.model);
        let learned = policy.known.learned();
        if lesson == Lesson::Blind && learned.sees(&translation.model, Instant::now()) {
            return false; // only this image is to blame
        }
        let mut traits = learned.traits(&translation.model);
        drop(learned);
        let taught = translation.taught.iter().copied().chain([lesson]);
        taught.for_each(|lesson| traits.learn(lesson, translation.size));
        if traits.blind {
            translation.size.images = 0; // none is sent
        }
        let tokens = traits.tokens(translation.size);
        (translation.asked.prompt_tokens, translation.asked.ratio) = (tokens, traits.ratio());
        let may_change = translation.taught.len() < MOST_CHANGES;
        if let Some(room) = body.room().filter(|_| may_change)
            && let Some(adapted) = adapt(&body.bytes, &traits, tokens)
        {
            *body = room.filled(adapted);
            translation.taught.push(lesson);
            return true;
        }
        // The request does not fit and its client is told; the model's context is known from now on.
        if let Lesson::Context(..) = lesson {
            let mut learned = policy.known.learned();
            learned.learn(&translation.model, lesson, translation.size, Instant::now());
        }
        false
    }
}

fn model_of(body: &[u8]) -> String {
    let model = Json::parse(body).and_then(|body| body.get("model")?.string());
    model.map_or(String::new(), |model| model.plain().into_owned())
}
