//! A model that has no capacity: it is left alone for a while, then asked by one request, then by
//! more. No key is to blame, and the first success ends the waiting.
//!
//! Where a model refuses one request while it is at work on others, it takes so many at a time: up
//! to there the way back is quick, beyond it one more is tried every two minutes.

use std::time::{Duration, Instant};

/// How long an overloaded model is left alone at least, and at most, between two tries.
const GAPS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a model is believed that takes so many at a time, before one more is tried.
const STEP: Duration = Duration::from_secs(120);

/// Two keys' bare 429s within this time, neither of them near its limit, are the model's.
const AT_ONCE: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The model is, or was lately, overloaded.
    busy: Option<Busy>,
    /// The last bare 429 of a key that was far from its limit: when, and whose.
    odd: Option<(Instant, usize)>,
}

#[derive(Debug)]
struct Busy {
    /// How many requests may be under way; grows by one with each success.
    limit: u32,
    /// How many it was at work on when it refused one more.
    met: u32,
    /// One of those was served, so that it takes so many at a time.
    is_ceiling: bool,
    /// The last refusal, or step beyond the ceiling.
    stepped: Instant,
    /// When it has grown so far, all is well.
    well_at: u32,
    /// Since when it refuses without a success between; `None` once it has served.
    since: Option<Instant>,
    /// The last refusal; of what was sent before another one is no news.
    refused: Instant,
    /// None before this instant.
    until: Instant,
}

/// What the model allows.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Allows {
    /// A request may go.
    Go,
    /// Not before this instant.
    NotBefore(Instant),
    /// Not before an answer comes.
    AfterAnother,
}

impl Backoff {
    /// A request that was sent then found the model overloaded, with so many under way. Says how
    /// many may be now, if that is news. `stated`: how long the upstream asks to wait.
    pub(super) fn overloaded(
        &mut self,
        stated: Option<Duration>,
        in_flight: u32,
        sent: Instant,
        now: Instant,
    ) -> Option<u32> {
        if let Some(busy) = self.busy.as_mut().filter(|busy| sent <= busy.refused) {
            // One of the same herd, and none of those that it is at work on.
            busy.met = busy.met.saturating_sub(1);
            busy.limit = busy.limit.min(busy.met.max(1));
            return None;
        }
        let since = self
            .busy
            .as_ref()
            .and_then(|busy| busy.since)
            .unwrap_or(now);
        let limit = (in_flight / 2).max(1);
        let well_at = in_flight.max(1) * 2;
        self.busy = Some(Busy {
            limit,
            met: in_flight.saturating_sub(1),
            is_ceiling: false,
            stepped: now,
            well_at: self
                .busy
                .as_ref()
                .map_or(well_at, |busy| busy.well_at.max(well_at)),
            since: Some(since),
            refused: now,
            until: now + stated.map_or(gap(since, now), |stated| stated.max(GAPS.0)),
        });
        Some(limit)
    }

    /// A bare 429 for a key that was far from its limit. Says whose an earlier one was, if the two
    /// speak for an overloaded model.
    pub(super) fn odd_refusal(&mut self, key: usize, now: Instant) -> Option<usize> {
        let before = self.odd.replace((now, key));
        let (at, other) = before?;
        let at_once = now.saturating_duration_since(at) < AT_ONCE;
        (other != key && at_once).then_some(other)
    }

    /// It takes only so many requests at a time.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// It refuses at the moment, without a success between.
    pub(super) fn is_refusing(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.since.is_some())
    }

    /// A request that was sent then was served.
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
        let is_beyond = busy.is_ceiling && busy.limit >= busy.met;
        if is_beyond && now.saturating_duration_since(busy.stepped) < STEP {
            return;
        }
        if is_beyond {
            busy.stepped = now;
        }
        busy.limit += 1;
        if busy.limit >= busy.well_at {
            self.busy = None;
        }
    }

    /// A request goes out: the others wait for its answer, or for a while.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some(busy) = &mut self.busy
            && let Some(since) = busy.since
        {
            busy.until = busy.until.max(now + gap(since, now));
        }
    }

    /// Whether a request may go now.
    pub(super) fn allows(&self, in_flight: u32, now: Instant) -> Allows {
        match &self.busy {
            Some(busy) if now < busy.until => Allows::NotBefore(busy.until),
            Some(busy) if in_flight >= busy.limit => Allows::AfterAnother,
            _ => Allows::Go,
        }
    }

    /// How many requests may be under way, while that is limited, and for how much longer none.
    pub(super) fn shown(&self, now: Instant) -> Option<(u32, Duration)> {
        let busy = self.busy.as_ref()?;
        Some((busy.limit, busy.until.saturating_duration_since(now)))
    }
}

/// A quarter of what it has lasted: nobody waits longer than that beyond its end, and it is asked
/// less and less.
fn gap(since: Instant, now: Instant) -> Duration {
    (now.saturating_duration_since(since) / 4).clamp(GAPS.0, GAPS.1)
}
