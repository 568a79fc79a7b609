//! Translates a request in a client's dialect to chat completions: before its first attempt, or once the upstream turns
//! out not to know its path. Fits it to its model, and changes it when a refusal says what the model does not take.

use std::time::Instant;

use super::Exchange;
use super::answer_mode::{AnswerMode, Known, Stage, Translation, refusal};
use crate::body::Body;
use crate::debug;
use crate::dialect::adapt::adapt;
use crate::dialect::learned::Traits;
use crate::dialect::lessons::{Lesson, learn_from_error};
use crate::dialect::terms::RequestContext;
use crate::metadata::{Metadata, ReadConversation};
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
        let model = Metadata::read(body, ReadConversation::Ignored).model;
        let ratio = known.learned().traits(&model).ratio();
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
        let model = Metadata::read(&body.bytes, ReadConversation::Ignored).model;
        let chat = translation
            .dialect
            .translate(&body.bytes, &model)
            .map_err(refusal)?;
        *body = room.filled(chat.body); // frees the client's body
        translation.asked = RequestContext {
            random: translation.asked.random,
            keeps_open: translation.asked.keeps_open,
            ..chat.asked
        };
        if let Some(model) = &self.mapped.client_model {
            model.clone_into(&mut translation.asked.model);
        }
        (translation.streams, translation.size) = (chat.streams, chat.size);
        self.mapped.stores = false;
        if let Stage::Ready(head) = std::mem::replace(&mut translation.stage, Stage::Translated) {
            self.mapped.request = head;
        }
        self.fit(&model);
        Ok(())
    }

    /// Changes a translated request to what was learned of its model. `model`: the upstream's name.
    pub(super) fn fit(&mut self, model: &str) {
        if let (AnswerMode::Translation(translation), Some(body)) =
            (&mut self.mapped.answer_mode, &mut self.body)
            && translation.is_translated()
        {
            let traits = self.mapped.policy.known.learned().traits(model);
            translation.asked.thinks_unopened = traits.thinks_unopened;
            model.clone_into(&mut translation.model);
            translation.taught.clear();
            translation.adapt(body, &traits);
        }
    }

    /// Whether the request was changed because of what this answer says, and is to be sent again.
    pub(super) fn revise(&mut self, answer: &Answer, verdict: Verdict) -> bool {
        let about_request = matches!(
            verdict,
            Verdict::Pass | Verdict::TooMuch | Verdict::MaybeWorked(_) | Verdict::Nowhere
        );
        let known = &self.mapped.policy.known;
        let (AnswerMode::Translation(translation), true) =
            (&mut self.mapped.answer_mode, about_request)
        else {
            return false;
        };
        match (translation.is_translated(), &mut self.body) {
            (true, _) if answer.status == 200 => translation.hears(answer, known),
            _ if answer.status < 400 => false,
            (false, _) => translation.was_not_understood(answer, known) && self.translate().is_ok(),
            (true, Some(body)) => translation.learns(answer, body, known),
            (true, None) => false,
        }
    }
}

impl Translation {
    pub(super) fn is_translated(&self) -> bool {
        matches!(self.stage, Stage::Translated)
    }

    /// Counts the request anew, and fits its body to these traits. `false`: there is nothing to change, or no room.
    fn adapt(&mut self, body: &mut Body, traits: &Traits) -> bool {
        if traits.blind {
            self.size.images = 0; // none is sent
        }
        let tokens = traits.tokens(self.size);
        (self.asked.prompt_tokens, self.asked.ratio) = (tokens, traits.ratio());
        let may_change = self.taught.len() < MOST_CHANGES;
        let Some(room) = body.room().filter(|_| may_change) else {
            return false;
        };
        let Some(adapted) = adapt(&body.bytes, traits, tokens) else {
            return false;
        };
        *body = room.filled(adapted);
        true
    }

    /// The upstream does not know the path of the dialect.
    fn was_not_understood(&self, answer: &Answer, known: &Known) -> bool {
        let unknown = matches!(answer.status, 404 | 405 | 501);
        let can = matches!(self.stage, Stage::Ready(_));
        unknown && can && !known.passes(self.dialect) && !self.dialect.is_spoken_in(&answer.words())
    }

    /// An answer came: the lessons of the refusals were right. `true`: it has no content, and is asked for once more.
    fn hears(&mut self, answer: &Answer, known: &Known) -> bool {
        let mut learned = known.learned();
        for lesson in self.taught.drain(..) {
            learned.learn(&self.model, lesson, self.size, Instant::now());
        }
        drop(learned);
        let is_first = !std::mem::replace(&mut self.answered_once, true);
        is_first
            && self
                .dialect
                .says_nothing(answer.start(), answer.is_stream())
    }

    /// Learns from a refusal that names what the model does not take. `true`: the request was changed.
    fn learns(&mut self, answer: &Answer, body: &mut Body, known: &Known) -> bool {
        let Some(lesson) = learn_from_error(answer.status, &answer.words()) else {
            return false;
        };
        debug!("{}: {lesson:?}", self.model);
        let learned = known.learned();
        if lesson == Lesson::Blind && learned.sees(&self.model, Instant::now()) {
            return false; // only this image is to blame
        }
        let mut traits = learned.traits(&self.model);
        drop(learned);
        let taught = self.taught.iter().copied().chain([lesson]);
        taught.for_each(|lesson| traits.learn(lesson, self.size));
        if self.adapt(body, &traits) {
            self.taught.push(lesson);
            return true;
        }
        // The request does not fit and its client is told; the model's context is known from now on.
        if let Lesson::Context(..) = lesson {
            let mut learned = known.learned();
            learned.learn(&self.model, lesson, self.size, Instant::now());
        }
        false
    }
}
