//! `MODEL_MAP` at work: the name of another model in a request's body, and nothing else of it; and the
//! next name, where a model cannot serve now.

use std::time::{Duration, Instant};

use super::{Came, Exchange, Relay, Trip};
use crate::debug;
use crate::dialect::models::{is_unknown, place_of_model};
use crate::question::{Conversation, Question};
use crate::reply::{Reply, quoted};
use crate::retry::{Attempt, Repeat, Step};
use crate::verdict::Verdict;

/// When a client may come back that found no memory left.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// A key is waited for so long where another model can stand in.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A model that the upstream does not know is asked for again after so long.
const UNKNOWN: Duration = Duration::from_secs(60);

/// The models that can serve one request, and how many of them were tried.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    models: usize,
    /// Since the last wait: then all of them may serve again.
    tried: usize,
    /// Another model is asked from now on.
    pub(super) moved: bool,
}

impl StandIns {
    /// After the last one it is the first one's turn again, which is then waited for.
    pub(super) fn has_next(&self) -> bool {
        self.models > 1 && self.tried < self.models
    }

    /// A request waited, as if there were no others.
    pub(super) fn waited(&mut self) {
        self.tried = 0;
    }
}

impl Exchange<'_> {
    /// Puts the model that stands for the one that is asked for in its place. What comes back is a
    /// refusal.
    pub(super) fn rename(&mut self) -> Option<Reply> {
        let models = &self.mapped.policy.models;
        let body = self.body.as_ref().filter(|_| !models.is_empty())?;
        let asked = Question::read(&body.bytes, Conversation::Ignored).model;
        let model = models.models(&asked).first()?.clone();
        match self.put_model(&model)? {
            true => self.mapped.asked = Some(asked),
            false => {
                let text = "too many request bodies at once (MAX_BODY_MB bounds them all together)";
                return Some(Reply::error(503, "body_budget", text).retry_after(BUSY_RETRY));
            }
        }
        None
    }

    /// The models that can serve it; none where the client's `Idempotency-Key` is for one body.
    pub(super) fn stand_ins(&self) -> StandIns {
        let is_bound = self.mapped.request.repeat() == Repeat::SameKey;
        StandIns {
            models: if is_bound {
                0
            } else {
                self.mapped.models().len()
            },
            ..StandIns::default()
        }
    }

    /// Puts the next model in the body, in the client's dialect or in the upstream's.
    fn next_model(&mut self) -> Option<String> {
        let models = self.mapped.models();
        let turn = (self.mapped.turn + 1) % models.len().max(1);
        let model = models.get(turn)?.clone();
        if self.put_model(&model) != Some(true) {
            return None;
        }
        self.mapped.turn = turn;
        self.fit(&model);
        Some(model)
    }

    /// None: the body names no model. False: there is no memory for a longer name.
    fn put_model(&mut self, model: &str) -> Option<bool> {
        let body = self.body.as_mut()?;
        let place = place_of_model(&body.bytes)?;
        Some(body.splice(place, quoted(model).as_bytes()))
    }
}

impl super::Mapped {
    fn models(&self) -> &[String] {
        let asked = self.asked.as_ref();
        asked.map_or(&[], |asked| self.policy.models.models(asked))
    }
}

impl Relay {
    /// What is next after an attempt, where another model may stand in for one that is overloaded, or
    /// that the upstream does not know.
    pub(super) fn or_stand_in(
        &self,
        step: Step,
        came: &Came,
        attempt: Attempt,
        trip: &mut Trip,
        exchange: &mut Exchange,
    ) -> Step {
        let Came::Answer(answer, _) = came else {
            return step;
        };
        if answer.status == 200 && step == Step::Pass || !trip.stand_ins.has_next() {
            return step;
        }
        let overloaded = matches!(attempt, Attempt::Answered(Verdict::Overloaded(_)));
        let unknown = step == Step::Pass && is_unknown(answer.status, &answer.words());
        // One that is overloaded is waited for once the others are; one that there is not is not.
        let is_last = trip.stand_ins.tried + 1 == trip.stand_ins.models;
        if !overloaded && (!unknown || is_last) {
            return step;
        }
        if unknown {
            let (lane, now) = (trip.entry.lane, Instant::now());
            self.pool(|pool| pool.leave_alone(lane, UNKNOWN, now));
        }
        match self.stand_in(trip, exchange) {
            true => Step::Again,
            false => step,
        }
    }

    /// The next model is asked from now on; false if that cannot be.
    pub(super) fn stand_in(&self, trip: &mut Trip, exchange: &mut Exchange) -> bool {
        let Some(model) = exchange.next_model() else {
            trip.stand_ins.models = 0; // nor later
            return false;
        };
        debug!("{model:?} stands in for {:?}", trip.outcome.model);
        trip.lane = exchange.mapped.lane(&model);
        trip.outcome.model = model;
        // Keys that were refused for another model: that is no word about this one.
        trip.refused.clear();
        trip.stand_ins.tried += 1;
        trip.stand_ins.moved = true;
        true
    }
}
