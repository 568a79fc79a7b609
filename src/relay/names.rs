//! `MODEL_MAP` at work: the name of another model in a request's body, and nothing else of it.

use std::time::Duration;

use super::Exchange;
use crate::dialect::models::place_of_model;
use crate::question::{Conversation, Question};
use crate::reply::{Reply, quoted};

/// When a client may come back that found no memory left.
const BUSY_RETRY: Duration = Duration::from_secs(5);

impl Exchange<'_> {
    /// Puts the model that stands for the one that is asked for in its place. What comes back is a
    /// refusal.
    pub(super) fn rename(&mut self) -> Option<Reply> {
        let models = &self.mapped.policy.models;
        let body = self.body.as_mut().filter(|_| !models.is_empty())?;
        let asked = Question::read(&body.bytes, Conversation::Ignored).model;
        let model = models.models(&asked).first()?;
        let place = place_of_model(&body.bytes)?;
        if !body.splice(place, quoted(model).as_bytes()) {
            let text = "too many request bodies at once (MAX_BODY_MB bounds them all together)";
            return Some(Reply::error(503, "body_budget", text).retry_after(BUSY_RETRY));
        }
        self.mapped.asked = Some(asked);
        None
    }
}
