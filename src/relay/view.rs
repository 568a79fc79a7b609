//! What others see of the relay: the pages, and the state file.

use std::time::Instant;

use super::Relay;
use crate::metrics::Metrics;
use crate::pool::{MOST_SHOWN, ModelView, Overview};
use crate::secret::SALT;
use crate::state::SavedRest;

impl Relay {
    /// The state of all keys. Requests go on meanwhile.
    pub fn keys(&self) -> Overview {
        let now = Instant::now();
        let mut seen = self.pool(|pool| pool.survey(MOST_SHOWN, now));
        while self.pool(|pool| pool.survey_further(&mut seen, now)) {}
        seen
    }

    /// The models that were asked for lately.
    pub fn models(&self) -> Vec<ModelView> {
        self.pool(|pool| pool.models(Instant::now()))
    }

    /// Requests waiting for a key.
    pub fn waiting(&self) -> usize {
        self.pool(|pool| pool.waiting())
    }

    /// The rests of all keys, for the state file; see [`crate::pool::Pool::saved_rests`].
    pub fn saved_rests(&self, salt: &[u8; SALT]) -> Vec<SavedRest> {
        let (now, mut keys, mut at) = (Instant::now(), Vec::new(), 0);
        while self.pool(|pool| pool.saved_rests(at, &mut keys, now)) {
            at += 1;
        }
        let mut rests = Vec::new();
        for (key, models) in keys {
            let key = key.tag(salt); // slow, so not under the lock
            let models = models.into_iter();
            rests.extend(models.map(|(model, until)| SavedRest { key, model, until }));
        }
        rests
    }

    /// Takes over rests from the state file; see [`crate::pool::Pool::restore`].
    pub fn restore(&self, salt: &[u8; SALT], rests: &[SavedRest]) -> usize {
        self.pool(|pool| pool.restore(salt, rests, Instant::now()))
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the upstream was well at the last attempt.
    pub fn is_well(&self) -> bool {
        self.target.is_well()
    }

    /// Where requests go, as people write it: no path, no secret.
    pub fn origin(&self) -> String {
        self.policy().target.origin.clone()
    }
}
