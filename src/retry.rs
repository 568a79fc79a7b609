//! Decides what to do next with one request. Pure: it never waits; [`crate::relay`] acts.
//!
//! The rule: a chat request costs money. It is sent again if nothing reached the upstream, or if the upstream refused it
//! or failed before its first word. If an answer leaves open whether the upstream worked on it, it is sent once more at
//! most. If no answer came, it is sent again only if the client allows that, or once if a pooled connection was dead.

use std::time::{Duration, Instant};

use crate::verdict::Verdict;

/// First pause after trouble with the upstream or on the way to it; doubles up to [`MAX_PAUSE`]. (An
/// overloaded model's is in `pool/backoff.rs`.)
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// How many keys a request may be refused with.
const MAX_REFUSED_KEYS: u32 = 3;

/// A request that the upstream may have worked on is sent once more only within this time of its arrival.
const UNSURE_PATIENCE: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum AttemptEnd {
    /// The upstream answered, with this verdict.
    Answered(Verdict),
    /// An ejected key was probed and refused again: it does not count.
    StillOut,
    /// The upstream began an answer and ended it before its first word.
    Empty,
    /// Nothing was sent: DNS, connect, TLS.
    NotSent,
    /// Nothing was sent, and nothing can be: the target or its certificate cannot be used.
    Unusable,
    /// A pooled connection turned out to be dead: it ended at once, without one byte of an answer.
    Stale,
    /// The request was sent, at least in part, and no answer came.
    MaybeSent,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Step {
    /// Pick a key and send, at once.
    Again,
    /// Wait for this long, then pick a key and send.
    Pause(Duration),
    /// Give the client this answer as it is.
    Pass,
    /// Give the client an error of our own.
    GiveUp,
}

/// How far one request may go.
#[derive(Debug, Clone, Copy)]
pub struct RetryLimits {
    /// The most rounds of waiting, for a key or after trouble. Pauses after an attempt that sent
    /// nothing do not count, nor do waits for an overloaded model: only `max_wait` bounds those.
    pub max_retries: u32,
    /// Time from the request's arrival after which no further round begins.
    pub max_wait: Duration,
}

/// Whether the client allows repetition.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Repeat {
    /// It does not: a POST.
    No,
    /// An idempotent method (RFC 9110 §9.2.2).
    Yes,
    /// An `Idempotency-Key`: the upstream recognises repetitions, within one account.
    SameKey,
}

/// The retry budget of all requests together while the provider is in trouble, so that an outage does not multiply
/// its load or use up a free tier's 40 requests a minute. Like Finagle's and Envoy's: a fifth of the requests, and a
/// few a minute. If it is spent, a retry waits for its turn.
#[derive(Debug)]
pub struct Budget {
    /// In fifths of a retry. Below zero: that many are promised to retries that wait.
    fifths: i32,
    filled: Instant,
}

impl Budget {
    /// The most retries it holds.
    const MOST: i32 = 20;
    /// Another retry comes in this time, even without requests.
    const EVERY: Duration = Duration::from_secs(6);

    /// A full budget.
    pub fn new(now: Instant) -> Budget {
        Budget {
            fifths: 5 * Budget::MOST,
            filled: now,
        }
    }

    /// A request comes.
    pub fn request(&mut self) {
        self.fifths = (self.fifths + 1).min(5 * Budget::MOST);
    }

    /// The provider is well again: the next retry need not wait for a turn.
    pub fn recovered(&mut self) {
        self.fifths = self.fifths.max(0);
    }

    /// Takes one retry. Returns how long it must wait for its turn; `None`: that would be longer
    /// than `most`, and nothing is taken.
    fn take(&mut self, most: Option<Duration>, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.filled);
        let times = passed.as_secs() / Budget::EVERY.as_secs();
        if times > 0 {
            self.filled = now;
            let times = i32::try_from(times).unwrap_or(i32::MAX / 5);
            let full = self.fifths.saturating_add(times.saturating_mul(5));
            self.fifths = full.min(5 * Budget::MOST);
        }
        let left = self.fifths.saturating_sub(5);
        let promised = left.min(0).unsigned_abs().div_ceil(5);
        let wait = Budget::EVERY.saturating_mul(promised);
        if most.is_some_and(|most| wait > most) {
            return None; // a request that will not wait must not make others wait
        }
        self.fifths = left;
        Some(wait)
    }
}

/// What one request has been through, and may still do.
#[derive(Debug)]
pub struct RetryState {
    limits: RetryLimits,
    arrived: Instant,
    /// When no further round may begin.
    deadline: Option<Instant>,
    repeat: Repeat,
    /// For the jitter.
    random: u64,
    rounds: u32,
    pauses: u32,
    stale_tried: bool,
    unsure_tried: bool,
    nowhere_tried: bool,
    /// The present or next wait for a key is counted already: one wait is one round, however often
    /// a key is picked during it.
    wait_is_paid: bool,
    refusals: u32,
}

impl RetryState {
    /// A request that arrived `now`. `seed`: a random number, so that requests which fail together
    /// do not come back together.
    pub fn new(limits: RetryLimits, repeat: Repeat, seed: u64, now: Instant) -> RetryState {
        RetryState {
            limits,
            arrived: now,
            deadline: now.checked_add(limits.max_wait),
            repeat,
            random: seed | 1,
            rounds: 0,
            pauses: 0,
            stale_tried: false,
            unsure_tried: false,
            nowhere_tried: false,
            wait_is_paid: false,
            refusals: 0,
        }
    }

    /// Another model is asked from now on. Refusals for the earlier one say nothing about it.
    pub fn another_model(&mut self) {
        self.refusals = 0;
    }

    /// When waiting ends; `None`: later than the clock can count.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// After an attempt.
    pub fn attempted(&mut self, attempt: AttemptEnd, budget: &mut Budget, now: Instant) -> Step {
        // A wait for an overloaded model counts no round: its requests take turns.
        self.wait_is_paid = matches!(attempt, AttemptEnd::Answered(Verdict::Overloaded(_)));
        match attempt {
            // The pool knows which key rests now. Picking the next one may mean a wait.
            AttemptEnd::StillOut
            | AttemptEnd::Answered(Verdict::Limited(_) | Verdict::Quota | Verdict::Overloaded(_)) => {
                Step::Again
            }
            AttemptEnd::Answered(Verdict::Refused { .. }) => {
                self.refusals += 1;
                match self.refusals < MAX_REFUSED_KEYS {
                    true => Step::Again,
                    false => Step::Pass,
                }
            }
            AttemptEnd::Answered(Verdict::Trouble(stated)) => {
                self.pause(stated.unwrap_or_default(), budget, now, Step::Pass)
            }
            AttemptEnd::Answered(Verdict::MaybeWorked(stated)) => match self.may_repeat(now) {
                true => self.pause(stated.unwrap_or_default(), budget, now, Step::Pass),
                false => Step::Pass,
            },
            // Perhaps a proxy that is being changed, so once more. More often the path is wrong.
            AttemptEnd::Answered(Verdict::Nowhere) => {
                let again = !std::mem::replace(&mut self.nowhere_tried, true);
                let pause = again.then(|| self.pause_in_time(Duration::ZERO, now));
                pause.flatten().map_or(Step::Pass, Step::Pause)
            }
            AttemptEnd::Answered(Verdict::Pass | Verdict::TooMuch) => Step::Pass,
            AttemptEnd::Stale if !self.stale_tried => {
                self.stale_tried = true;
                Step::Again
            }
            // A retry costs nothing here, so the network may be away for as long as the client waits.
            AttemptEnd::NotSent => match self.pause_in_time(Duration::ZERO, now) {
                Some(pause) => Step::Pause(pause),
                None => Step::GiveUp,
            },
            AttemptEnd::Unusable => Step::GiveUp,
            AttemptEnd::Empty => self.pause(Duration::ZERO, budget, now, Step::GiveUp),
            AttemptEnd::Stale | AttemptEnd::MaybeSent if self.repeat != Repeat::No => {
                self.pause(Duration::ZERO, budget, now, Step::GiveUp)
            }
            AttemptEnd::Stale | AttemptEnd::MaybeSent => Step::GiveUp,
        }
    }

    /// Whether the next attempt must be made with the same key, after this one.
    pub fn is_bound_by(&self, attempt: AttemptEnd) -> bool {
        let refused = matches!(
            attempt,
            AttemptEnd::NotSent
                | AttemptEnd::StillOut
                | AttemptEnd::Answered(
                    Verdict::Limited(_) | Verdict::Quota | Verdict::Refused { .. }
                )
        );
        self.repeat == Repeat::SameKey && !refused
    }

    /// No key is free before `soonest`: whether to wait for one. Calls during one wait count one round.
    pub fn may_wait(&mut self, soonest: Instant, now: Instant) -> bool {
        let in_time = self.in_time(soonest.saturating_duration_since(now), now);
        let waits = in_time && (self.wait_is_paid || self.begin_round());
        self.wait_is_paid |= waits;
        waits
    }

    /// Whether a request that the upstream may have worked on may be sent again.
    fn may_repeat(&mut self, now: Instant) -> bool {
        let early = now.saturating_duration_since(self.arrived) <= UNSURE_PATIENCE;
        let first = !std::mem::replace(&mut self.unsure_tried, true);
        self.repeat != Repeat::No || (first && early)
    }

    /// A pause of at least `least`, if time and rounds allow one more; else `or`.
    fn pause(&mut self, least: Duration, budget: &mut Budget, now: Instant, or: Step) -> Step {
        let most = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(now));
        let pause = self.pause_in_time(least, now);
        let pause = pause.filter(|_| self.begin_round());
        match pause.and_then(|pause| Some(pause.max(budget.take(most, now)?))) {
            Some(pause) => Step::Pause(pause),
            None => or,
        }
    }

    /// The next pause, if there is time for it.
    fn pause_in_time(&mut self, least: Duration, now: Instant) -> Option<Duration> {
        let full = FIRST_PAUSE
            .saturating_mul(1 << self.pauses.min(8))
            .min(MAX_PAUSE);
        self.pauses += 1;
        let pause = self.jittered(full).max(least);
        self.in_time(pause, now).then_some(pause)
    }

    /// Between half of it and all of it.
    fn jittered(&mut self, full: Duration) -> Duration {
        // Marsaglia's xorshift64; spread is all that is asked of it.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = full / 2;
        half + half * (self.random >> 40) as u32 / (1 << 24)
    }

    fn in_time(&self, wait: Duration, now: Instant) -> bool {
        let is_before = |deadline| now.checked_add(wait).is_some_and(|at| at <= deadline);
        self.deadline.is_none_or(is_before) // none: MAX_WAIT_SEC beyond what the clock can count
    }

    fn begin_round(&mut self) -> bool {
        let allowed = self.rounds < self.limits.max_retries;
        self.rounds = self.rounds.saturating_add(1);
        allowed
    }
}

#[cfg(test)]
mod tests;
