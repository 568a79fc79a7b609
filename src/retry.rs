//! What to do next with one request: pure deciding, never sleeping ([`crate::relay`] acts).
//!
//! The rule behind all of it: a chat request costs money. It is sent again when nothing reached
//! the upstream, or when the upstream refused it; never when it may be at work on it already.

use std::time::{Duration, Instant};

use crate::hints::Verdict;

/// First pause after a network failure; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two tries of an unreachable upstream.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Attempt {
    /// The upstream answered, and this is what the answer says.
    Answered(Verdict),
    /// Nothing was sent: DNS, connect, TLS.
    NotSent,
    /// A pooled connection turned out to be dead: not one byte of an answer came.
    Stale,
    /// The request was sent, at least in part, and no answer came.
    MaybeSent,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Step {
    /// Pick a key and send, at once.
    Again,
    /// The same on a new connection: where one pooled connection is dead, others may be.
    Afresh,
    /// Wait for this long, then pick a key and send.
    Pause(Duration),
    /// Wait until then for a key, or until one is given back.
    WaitForKey(Instant),
    /// Give the client this answer as it is.
    Pass,
    /// Give the client an error of our own.
    GiveUp,
}

/// How far one request may go.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rounds of waiting (for a key, or after a network failure) at most.
    pub max_retries: u32,
    /// Time from the request's arrival after which no further round begins.
    pub max_wait: Duration,
}

/// What one request has been through.
#[derive(Debug)]
pub struct Journey {
    limits: Limits,
    /// When no further round may begin.
    deadline: Option<Instant>,
    rounds: u32,
    pauses: u32,
    stale_tried: bool,
    /// Waiting for a key at this moment: one round, however often the wait is looked at.
    waiting: bool,
    /// One key got a 403; a second one will show whose fault it was.
    forbidden: bool,
}

impl Journey {
    /// A request that arrived `now`.
    pub fn new(limits: Limits, now: Instant) -> Journey {
        Journey {
            limits,
            deadline: now.checked_add(limits.max_wait),
            rounds: 0,
            pauses: 0,
            stale_tried: false,
            waiting: false,
            forbidden: false,
        }
    }

    /// After an attempt.
    pub fn attempted(&mut self, attempt: Attempt, now: Instant) -> Step {
        self.waiting = false;
        match attempt {
            Attempt::Answered(Verdict::Limited(_) | Verdict::Rejected) => Step::Again,
            Attempt::Answered(Verdict::Forbidden) if !self.forbidden => {
                self.forbidden = true;
                Step::Again
            }
            Attempt::Answered(_) => Step::Pass,
            Attempt::Stale if !self.stale_tried => {
                self.stale_tried = true;
                Step::Afresh
            }
            Attempt::NotSent => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << self.pauses.min(8))
                    .min(MAX_PAUSE);
                self.pauses += 1;
                if self.in_time(pause, now) && self.begin_round() {
                    Step::Pause(pause)
                } else {
                    Step::GiveUp
                }
            }
            Attempt::Stale | Attempt::MaybeSent => Step::GiveUp,
        }
    }

    /// When no key is free before `soonest`. Asked again during one wait, it counts one round.
    pub fn no_key(&mut self, soonest: Instant, now: Instant) -> Step {
        let in_time = self.in_time(soonest.saturating_duration_since(now), now);
        if in_time && (self.waiting || self.begin_round()) {
            self.waiting = true;
            Step::WaitForKey(soonest)
        } else {
            Step::GiveUp
        }
    }

    fn in_time(&self, wait: Duration, now: Instant) -> bool {
        match (now.checked_add(wait), self.deadline) {
            (Some(at), Some(deadline)) => at <= deadline,
            (_, None) => true, // MAX_WAIT_SEC beyond what the clock can count
            (None, _) => false,
        }
    }

    fn begin_round(&mut self) -> bool {
        let allowed = self.rounds < self.limits.max_retries;
        self.rounds = self.rounds.saturating_add(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journey(max_retries: u32, max_wait: u64, t0: Instant) -> Journey {
        Journey::new(
            Limits {
                max_retries,
                max_wait: Duration::from_secs(max_wait),
            },
            t0,
        )
    }

    #[test]
    fn an_attempt_leads_to_the_step_in_the_table() {
        let t0 = Instant::now();
        let pause = Step::Pause(FIRST_PAUSE);
        for (attempt, step) in [
            (Attempt::Answered(Verdict::Pass), Step::Pass),
            (Attempt::Answered(Verdict::Limited(None)), Step::Again),
            (Attempt::Answered(Verdict::Rejected), Step::Again),
            (Attempt::Answered(Verdict::Forbidden), Step::Again),
            (Attempt::NotSent, pause),
            (Attempt::Stale, Step::Afresh),
            (Attempt::MaybeSent, Step::GiveUp),
        ] {
            assert_eq!(
                journey(10, 300, t0).attempted(attempt, t0),
                step,
                "{attempt:?}"
            );
        }
    }

    #[test]
    fn a_second_403_is_the_requests_own_fault_and_passes() {
        let t0 = Instant::now();
        let mut j = journey(10, 300, t0);
        let forbidden = Attempt::Answered(Verdict::Forbidden);
        assert_eq!(j.attempted(forbidden, t0), Step::Again);
        assert_eq!(j.attempted(forbidden, t0), Step::Pass);
    }

    #[test]
    fn a_dead_pooled_connection_is_tried_once_more_only() {
        let t0 = Instant::now();
        let mut j = journey(10, 300, t0);
        assert_eq!(j.attempted(Attempt::Stale, t0), Step::Afresh);
        assert_eq!(j.attempted(Attempt::Stale, t0), Step::GiveUp);
    }

    #[test]
    fn pauses_double_up_to_four_seconds_and_end_with_the_rounds() {
        let t0 = Instant::now();
        let mut j = journey(7, 300, t0);
        let pauses: Vec<Step> = (0..8).map(|_| j.attempted(Attempt::NotSent, t0)).collect();
        let ms = |n| Step::Pause(Duration::from_millis(n));
        let expected = [
            ms(250),
            ms(500),
            ms(1000),
            ms(2000),
            ms(4000),
            ms(4000),
            ms(4000),
            Step::GiveUp,
        ];
        assert_eq!(pauses, expected);
    }

    #[test]
    fn a_key_further_away_than_the_wait_allows_is_not_waited_for() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        assert_eq!(
            journey(10, 300, t0).no_key(at(300), t0),
            Step::WaitForKey(at(300))
        );
        assert_eq!(journey(10, 300, t0).no_key(at(301), t0), Step::GiveUp);
        assert_eq!(
            journey(10, 300, t0).no_key(at(301), at(1)),
            Step::GiveUp,
            "counted from arrival"
        );
        assert_eq!(
            journey(0, 300, t0).no_key(at(1), t0),
            Step::GiveUp,
            "no rounds allowed"
        );
        assert_eq!(
            journey(10, 0, t0).no_key(at(1), t0),
            Step::GiveUp,
            "no waiting allowed"
        );
    }

    #[test]
    fn one_wait_is_one_round_however_often_it_is_looked_at() {
        let t0 = Instant::now();
        let mut j = journey(1, 300, t0);
        let soonest = t0 + Duration::from_secs(9);
        assert_eq!(j.no_key(soonest, t0), Step::WaitForKey(soonest));
        assert_eq!(j.no_key(soonest, t0), Step::WaitForKey(soonest));
        j.attempted(Attempt::Answered(Verdict::Limited(None)), t0);
        assert_eq!(j.no_key(soonest, t0), Step::GiveUp);
    }

    #[test]
    fn an_endless_wait_is_no_overflow() {
        let t0 = Instant::now();
        let mut j = journey(1, u64::MAX, t0);
        let soonest = t0 + Duration::from_secs(9);
        assert_eq!(j.no_key(soonest, t0), Step::WaitForKey(soonest));
    }
}
