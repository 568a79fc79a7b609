//! `MODEL_MAP` at work: renames the model in a request's body and changes nothing else there. If the model is overloaded,
//! unknown, or without a ready key for long, the request goes to the next stand-in.

use std::time::{Duration, Instant};

use super::{Exchange, Relay, Trip};
use crate::debug;
use crate::dialect::models::{is_unknown, place_of_model};
use crate::metadata::{Metadata, ReadConversation};
use crate::reply::{Reply, quoted};
use crate::retry::{AttemptEnd, Repeat, Step};
use crate::upstream::Answer;
use crate::verdict::Verdict;

/// How long to wait for a key before another model stands in.
pub(super) const STAND_IN_AFTER: Duration = Duration::from_secs(10);

/// After this long a model that the upstream did not know is tried again.
const UNKNOWN: Duration = Duration::from_secs(60);

/// The models that can serve one request, and how many of them were tried.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    models: usize,
    /// How many were tried since the last wait. After a wait all may serve again.
    tried: usize,
    /// The model was changed: the request must enter another lane.
    pub(super) changed: bool,
}

impl StandIns {
    /// Whether another model may be asked. After the last one comes the first one again, and that one is waited for.
    pub(super) fn has_next(&self) -> bool {
        self.models > 1 && self.tried < self.models
    }

    /// The request waited for its model: all stand-ins count as untried.
    pub(super) fn waited(&mut self) {
        self.tried = 0;
    }
}

impl Exchange<'_> {
    /// Replaces the model's name as `MODEL_MAP` says. `Some`: the refusal, where that fails.
    pub(super) fn rename(&mut self) -> Option<Reply> {
        let models = &self.mapped.policy.models;
        let body = self.body.as_ref().filter(|_| !models.is_empty())?;
        let asked = Metadata::read(&body.bytes, ReadConversation::Ignored).model;
        let model = models.models(&asked).first()?.clone();
        match self.put_model(&model)? {
            true => self.mapped.client_model = Some(asked),
            false => return Some(Reply::bodies_full()),
        }
        None
    }

    /// The models that can serve the request. None with an `Idempotency-Key`: that is for one body only.
    pub(super) fn stand_ins(&self) -> StandIns {
        StandIns {
            models: match self.mapped.request.repeat() {
                Repeat::SameKey => 0,
                _ => self.mapped.models().len(),
            },
            ..StandIns::default()
        }
    }

    /// Puts the next stand-in's name into the body, whether translated or not.
    fn next_model(&mut self) -> Option<String> {
        let models = self.mapped.models();
        let at = (self.mapped.model_at + 1) % models.len().max(1);
        let model = models.get(at)?.clone();
        if self.put_model(&model) != Some(true) {
            return None;
        }
        self.mapped.model_at = at;
        self.fit(&model);
        Some(model)
    }

    /// `None`: the body names no model. `false`: there is no memory for a longer name.
    fn put_model(&mut self, model: &str) -> Option<bool> {
        let body = self.body.as_mut()?;
        let place = place_of_model(&body.bytes)?;
        Some(body.splice(place, quoted(model).as_bytes()))
    }
}

impl super::Mapped {
    fn models(&self) -> &[String] {
        let model = self.client_model.as_ref();
        model.map_or(&[], |model| self.policy.models.models(model))
    }
}

impl Relay {
    /// The next step after an attempt, where another model may stand in for one that is overloaded or unknown to the
    /// upstream.
    pub(super) fn or_stand_in(
        &self,
        step: Step,
        answer: &Answer,
        attempt: AttemptEnd,
        trip: &mut Trip,
    ) -> Step {
        if answer.status == 200 && step == Step::Pass || !trip.stand_ins.has_next() {
            return step;
        }
        let overloaded = matches!(attempt, AttemptEnd::Answered(Verdict::Overloaded(_)));
        let unknown = step == Step::Pass && is_unknown(answer.status, &answer.words());
        // An overloaded model is waited for once all are overloaded. An unknown one is never waited for.
        let is_last = trip.stand_ins.tried + 1 == trip.stand_ins.models;
        if !overloaded && (!unknown || is_last) {
            return step;
        }
        if unknown {
            let (lane, now) = (trip.entry.lane, Instant::now());
            self.pool(|pool| pool.leave_alone(lane, UNKNOWN, now));
        }
        match self.stand_in(trip) {
            true => Step::Again,
            false => step,
        }
    }

    /// Asks the next model from now on; `false` if it cannot.
    pub(super) fn stand_in(&self, trip: &mut Trip) -> bool {
        let Some(model) = trip.exchange.next_model() else {
            trip.stand_ins.models = 0; // not later either
            return false;
        };
        debug!("{model:?} stands in for {:?}", trip.outcome.model);
        trip.outcome.model = model;
        trip.refused.clear();
        trip.retry.another_model();
        trip.stand_ins.tried += 1;
        trip.stand_ins.changed = true;
        true
    }
}
