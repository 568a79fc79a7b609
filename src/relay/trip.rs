//! One request on its way through the loop: how it begins, and what it remembers from attempt to attempt.

use std::time::Instant;

use super::client_fields::unknown_key;
use super::host_health::HostHealth;
use super::lease::Entry;
use super::stand_ins::StandIns;
use super::{Came, Exchange, Outcome, Relay, report};
use crate::metadata::Metadata;
use crate::metrics::Reason;
use crate::pool::{Picked, RestReason};
use crate::reply::{self, Reply};
use crate::retry::{AttemptEnd, RetryState};
use crate::upstream::{Failure, Kept, Reuse};
use crate::verdict::Verdict;

/// See the module's text.
pub(super) struct Trip<'a, 'b> {
    pub(super) exchange: &'a mut Exchange<'b>,
    pub(super) arrived: Instant,
    pub(super) entry: Entry<'a>,
    pub(super) health: &'a HostHealth,
    pub(super) retry: RetryState,
    pub(super) outcome: Outcome,
    /// The conversation that its key should serve, if any.
    pub(super) conversation: Option<u64>,
    /// Keys that were refused for this request.
    pub(super) refused: Vec<(Picked, RestReason)>,
    pub(super) stand_ins: StandIns,
    /// If set, the only key that it may be sent with.
    pub(super) bound: Option<Picked>,
    pub(super) reuse: Reuse,
    /// Why the next attempt is made.
    pub(super) again: Option<Reason>,
    /// What the client hears if no further attempt is made: the upstream's answer, or what went wrong.
    pub(super) last: Option<Result<Kept, Failure>>,
}

impl Relay {
    /// A request begins: reads what it asks for and enters its lane.
    pub(super) fn begin<'a, 'b>(&'a self, exchange: &'a mut Exchange<'b>) -> Trip<'a, 'b> {
        let arrived = Instant::now();
        let policy = exchange.mapped.policy.clone();
        let mut limits = policy.limits;
        if let Some(within) = exchange.mapped.client_fields.within {
            limits.max_wait = limits.max_wait.min(within);
        }
        let body = exchange.body.as_ref();
        let metadata = body.map(|body| Metadata::read(&body.bytes, policy.conversation));
        let metadata = metadata.unwrap_or_default();
        if metadata.streams {
            exchange.mapped.request.ask_for_plain_text();
            if !policy.heartbeat.is_zero() {
                exchange.client = exchange.patient_client(policy.heartbeat);
            }
        }
        let health = match exchange.mapped.is_genai {
            true => &self.genai,
            false => &self.target,
        };
        health.budget().request();
        let seed = reply::random();
        let repeat = exchange.mapped.request.repeat();
        let entry = self.enter(&exchange.mapped.lane(&metadata.model), arrived);
        Trip {
            arrived,
            entry,
            retry: RetryState::new(limits, repeat, seed, arrived),
            health,
            outcome: Outcome {
                model: metadata.model,
                asked: exchange.mapped.client_model.clone(),
                ..Outcome::default()
            },
            conversation: metadata.conversation,
            refused: Vec::new(),
            stand_ins: exchange.stand_ins(),
            bound: None,
            reuse: Reuse::Allowed,
            again: None,
            last: None,
            exchange,
        }
    }

    /// Binds the request to one key, where its client names it or it continues what a key made. The error is the answer.
    pub(super) fn bind(&self, trip: &mut Trip) -> Result<(), Reply> {
        let (lane, now) = (trip.entry.lane, trip.arrived);
        trip.bound = match &trip.exchange.mapped.client_fields.key {
            Some(wanted) => {
                let named = self.pool(|pool| pool.named(wanted, lane, now).ok_or(pool.keys()));
                Some(named.map_err(unknown_key)?)
            }
            None => self.owner(trip.exchange, now),
        };
        Ok(())
    }
}

impl Trip<'_, '_> {
    /// The upstream's latest answer was that there is no such model.
    pub(super) fn was_not_found(&self) -> bool {
        matches!(&self.last, Some(Ok(kept)) if kept.status == 404)
    }

    /// Takes note of an attempt before another one is made.
    pub(super) fn remember(&mut self, attempt: AttemptEnd, picked: &Picked) {
        self.again = report::reason(attempt);
        self.outcome.limited |= matches!(self.again, Some(Reason::Limited | Reason::Quota));
        if attempt == AttemptEnd::Stale {
            self.reuse = Reuse::Never; // one dead connection a request is enough
        }
        if self.retry.is_bound_by(attempt) {
            self.bound = Some(picked.clone());
        }
    }
}

/// What the client hears if this was the last attempt. Not a 429: instead the client is told
/// which keys rest, in words that make agents wait.
pub(super) fn last_words(came: Came, attempt: AttemptEnd) -> Option<Result<Kept, Failure>> {
    let answer = match came {
        Ok((answer, _)) => answer,
        Err(failure) => return Some(Err(failure)),
    };
    let is_refusal = matches!(attempt, AttemptEnd::Answered(Verdict::Refused { .. }));
    if is_refusal || answer.status >= 500 {
        return answer.keep().map(Ok);
    }
    answer.discard();
    None
}
