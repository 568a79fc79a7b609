//! The backoff of an overloaded model. Nothing is sent for a pause that grows, then one request, the probe. A success
//! ends the pauses and allows one request more at a time. No key is to blame.
//!
//! A model that refuses one request while it works on others has a concurrency limit. The way back up to it is quick;
//! beyond it one more is tried every two minutes.

use std::time::{Duration, Instant};

use super::Pick;

/// The shortest and the longest time between two probes of an overloaded model.
const GAPS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A longer wait that the upstream asks for is cut to this: one request costs less than an idle hour.
const MOST_STATED: Duration = Duration::from_secs(60);

/// How long a concurrency limit is kept before one more request is tried.
const STEP: Duration = Duration::from_secs(120);

/// Two keys that get a bare 429 within this time, both far from their limits: the model is overloaded.
const AT_ONCE: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The model is, or was lately, overloaded.
    busy: Option<Busy>,
    /// When and for which key a bare 429 last came far from the key's limit.
    odd: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Busy {
    /// How many requests may be under way; grows by one with each success.
    limit: u32,
    /// How many the model worked on when it refused one more.
    met: u32,
    /// One of those was served: `met` is its concurrency limit.
    is_ceiling: bool,
    /// The last refusal, or step beyond the ceiling.
    stepped: Instant,
    /// Once `limit` reaches this, the model is well.
    well_at: u32,
    /// Since when it has refused everything; `None` after a success.
    since: Option<Instant>,
    /// The last refusal. Refusals of requests sent before it are not news.
    refused: Instant,
    /// No request before this instant.
    until: Instant,
}

impl Backoff {
    /// A request sent at `sent` found the model overloaded, with `in_flight` under way. Returns how
    /// many may be under way now, if that is news. `stated`: the wait that the upstream asks for.
    pub(super) fn overloaded(
        &mut self,
        stated: Option<Duration>,
        in_flight: u32,
        sent: Instant,
        now: Instant,
    ) -> Option<u32> {
        if let Some(busy) = self.busy.as_mut().filter(|busy| sent <= busy.refused) {
            // Another one of the same herd: the model works on one less than was thought.
            busy.met = busy.met.saturating_sub(1);
            busy.limit = busy.limit.min(busy.met.max(1));
            return None;
        }
        let before = self.busy.as_ref();
        let since = before.and_then(|busy| busy.since).unwrap_or(now);
        let well_at = before.map_or(0, |busy| busy.well_at);
        let limit = (in_flight / 2).max(1);
        self.busy = Some(Busy {
            limit,
            met: in_flight.saturating_sub(1),
            is_ceiling: false,
            stepped: now,
            well_at: well_at.max(in_flight.max(1) * 2),
            since: Some(since),
            refused: now,
            until: now + stated.map_or(gap(since, now), |stated| stated.clamp(GAPS.0, MOST_STATED)),
        });
        Some(limit)
    }

    /// A bare 429 for a key that was far from its limit. Returns the key of an earlier one, if the
    /// two mean an overloaded model.
    pub(super) fn odd_429(&mut self, key: usize, now: Instant) -> Option<usize> {
        let before = self.odd.replace((now, key));
        let (at, other) = before?;
        let at_once = now.saturating_duration_since(at) < AT_ONCE;
        (other != key && at_once).then_some(other)
    }

    /// Whether only so many requests may be under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether it has refused everything since its last success.
    pub(super) fn is_overloaded(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.since.is_some())
    }

    /// A request sent at `sent` was served.
    pub(super) fn served(&mut self, sent: Instant, now: Instant) {
        self.odd = None;
        let Some(busy) = &mut self.busy else {
            return;
        };
        if sent <= busy.refused {
            busy.is_ceiling = true;
            return;
        }
        (busy.since, busy.until) = (None, sent);
        if busy.is_ceiling && busy.limit >= busy.met {
            if now.saturating_duration_since(busy.stepped) < STEP {
                return;
            }
            busy.stepped = now;
        }
        busy.limit += 1;
        if busy.limit >= busy.well_at {
            self.busy = None;
        }
    }

    /// A request goes out as the probe: the others wait for its answer, or for a while.
    pub(super) fn probing(&mut self, now: Instant) {
        if let Some(busy) = &mut self.busy
            && let Some(since) = busy.since
        {
            busy.until = busy.until.max(now + gap(since, now));
        }
    }

    /// Whether a request may go now; if not, when: at an instant, or after another request's answer.
    pub(super) fn may_go(&self, in_flight: u32, now: Instant) -> Result<(), Pick> {
        match &self.busy {
            Some(busy) if now < busy.until => Err(Pick::Wait(busy.until)),
            Some(busy) if in_flight >= busy.limit => Err(Pick::InTurn),
            _ => Ok(()),
        }
    }

    /// How many requests may be under way, and for how much longer none may go, while it is overloaded.
    pub(super) fn shown(&self, now: Instant) -> Option<(u32, Duration)> {
        let busy = self.busy.as_ref()?;
        Some((busy.limit, busy.until.saturating_duration_since(now)))
    }
}

/// A quarter of how long it has lasted: probes become rarer, and nobody waits much beyond its end.
fn gap(since: Instant, now: Instant) -> Duration {
    (now.saturating_duration_since(since) / 4).clamp(GAPS.0, GAPS.1)
}
