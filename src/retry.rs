//! What to do next with one request: pure deciding, never sleeping ([`crate::relay`] acts).
//!
//! The rule behind all of it: a chat request costs money. It is sent again when nothing reached
//! the upstream, or when the upstream refused it or failed before its first word; never when it
//! may be at work on it already, unless the client allowed that.

use std::time::{Duration, Instant};

use crate::hints::Verdict;

/// First pause after trouble with the upstream or on the way to it; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Attempt {
    /// The upstream answered, and this is what the answer says.
    Answered(Verdict),
    /// It began an answer and ended it before its first word: no event, no body.
    Empty,
    /// Nothing was sent: DNS, connect, TLS.
    NotSent,
    /// Nothing was sent, and nothing can be: the target or its certificate cannot be used.
    Hopeless,
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
    /// Rounds of waiting (for a key, or after trouble) at most. Pauses after an attempt that sent
    /// nothing are not counted: only time bounds those.
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
    /// The client allows the same request twice: its method is idempotent, or it said so.
    repeatable: bool,
    /// For the jitter.
    random: u64,
    rounds: u32,
    pauses: u32,
    stale_tried: bool,
    /// Waiting for a key at this moment: one round, however often the wait is looked at.
    waiting: bool,
    /// One key got a 403; a second one will show whose fault it was.
    forbidden: bool,
}

impl Journey {
    /// A request that arrived `now`. `seed`: any number, different for each request, so that those
    /// which fail together do not come back together.
    pub fn new(limits: Limits, repeatable: bool, seed: u64, now: Instant) -> Journey {
        Journey {
            limits,
            deadline: now.checked_add(limits.max_wait),
            repeatable,
            random: seed | 1,
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
            // The pool knows now who must rest; picking the next key may mean waiting for it.
            Attempt::Answered(
                Verdict::Limited(_)
                | Verdict::Quota(_)
                | Verdict::ModelQuota(_)
                | Verdict::Rejected
                | Verdict::Crowded(_),
            ) => Step::Again,
            Attempt::Answered(Verdict::Forbidden) if !self.forbidden => {
                self.forbidden = true;
                Step::Again
            }
            Attempt::Answered(Verdict::Trouble(stated)) => {
                self.pause(stated.unwrap_or_default(), now, Step::Pass)
            }
            Attempt::Answered(Verdict::Pass | Verdict::Forbidden) => Step::Pass,
            Attempt::Stale if !self.stale_tried => {
                self.stale_tried = true;
                Step::Afresh
            }
            // Costs nobody anything, so a network may be away for as long as the client would wait.
            Attempt::NotSent => match self.pause_in_time(Duration::ZERO, now) {
                Some(pause) => Step::Pause(pause),
                None => Step::GiveUp,
            },
            Attempt::Hopeless => Step::GiveUp,
            Attempt::Empty => self.pause(Duration::ZERO, now, Step::GiveUp),
            Attempt::Stale | Attempt::MaybeSent if self.repeatable => {
                self.pause(Duration::ZERO, now, Step::GiveUp)
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

    /// A pause of at least `least`, if time and rounds allow one more; else `or`.
    fn pause(&mut self, least: Duration, now: Instant, or: Step) -> Step {
        match self.pause_in_time(least, now) {
            Some(pause) if self.begin_round() => Step::Pause(pause),
            _ => or,
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
        let limits = Limits {
            max_retries,
            max_wait: Duration::from_secs(max_wait),
        };
        Journey::new(limits, false, 42, t0)
    }

    #[test]
    fn an_attempt_leads_to_the_step_in_the_table() {
        let t0 = Instant::now();
        let mut pauses = 0;
        for (attempt, step) in [
            (Attempt::Answered(Verdict::Pass), Some(Step::Pass)),
            (Attempt::Answered(Verdict::Limited(None)), Some(Step::Again)),
            (Attempt::Answered(Verdict::Quota(None)), Some(Step::Again)),
            (
                Attempt::Answered(Verdict::ModelQuota(None)),
                Some(Step::Again),
            ),
            (Attempt::Answered(Verdict::Rejected), Some(Step::Again)),
            (Attempt::Answered(Verdict::Forbidden), Some(Step::Again)),
            (Attempt::Answered(Verdict::Crowded(None)), Some(Step::Again)),
            (Attempt::Answered(Verdict::Trouble(None)), None),
            (Attempt::Empty, None),
            (Attempt::NotSent, None),
            (Attempt::Stale, Some(Step::Afresh)),
            (Attempt::MaybeSent, Some(Step::GiveUp)),
        ] {
            let found = journey(10, 300, t0).attempted(attempt, t0);
            match step {
                Some(step) => assert_eq!(found, step, "{attempt:?}"),
                None => {
                    assert!(matches!(found, Step::Pause(_)), "{attempt:?}: {found:?}");
                    pauses += 1;
                }
            }
        }
        assert_eq!(pauses, 3);
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_again_only_where_the_client_allows_it() {
        let t0 = Instant::now();
        let limits = journey(10, 300, t0).limits;
        let mut allowed = Journey::new(limits, true, 42, t0);
        assert!(matches!(
            allowed.attempted(Attempt::MaybeSent, t0),
            Step::Pause(_)
        ));
        assert_eq!(
            journey(10, 300, t0).attempted(Attempt::MaybeSent, t0),
            Step::GiveUp
        );
    }

    #[test]
    fn a_provider_in_trouble_has_the_last_word_when_the_rounds_are_over() {
        let t0 = Instant::now();
        let trouble = |stated| Attempt::Answered(Verdict::Trouble(stated));
        let mut j = journey(1, 300, t0);
        assert!(matches!(j.attempted(trouble(None), t0), Step::Pause(_)));
        assert_eq!(j.attempted(trouble(None), t0), Step::Pass);
        let long = Some(Duration::from_secs(30));
        assert_eq!(
            journey(10, 300, t0).attempted(trouble(long), t0),
            Step::Pause(Duration::from_secs(30)),
            "as the upstream asks"
        );
        assert_eq!(journey(10, 29, t0).attempted(trouble(long), t0), Step::Pass);
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
    fn pauses_double_up_to_four_seconds_with_jitter_and_end_with_the_rounds() {
        let t0 = Instant::now();
        let mut j = journey(7, 300, t0);
        for full in [250, 500, 1000, 2000, 4000, 4000, 4000] {
            let Step::Pause(pause) = j.attempted(Attempt::Empty, t0) else {
                panic!("no pause of {full} ms")
            };
            let full = Duration::from_millis(full);
            assert!((full / 2..=full).contains(&pause), "{pause:?} of {full:?}");
        }
        assert_eq!(j.attempted(Attempt::Empty, t0), Step::GiveUp);
    }

    #[test]
    fn where_nothing_was_sent_only_time_ends_the_pauses_and_they_are_part_of_it() {
        for (max_retries, max_wait) in [(0, 60), (1, 60), (10, 300), (1, 3), (10, 0)] {
            let t0 = Instant::now();
            let mut j = journey(max_retries, max_wait, t0);
            let (mut now, mut tries) = (t0, 0);
            while let Step::Pause(pause) = j.attempted(Attempt::NotSent, now) {
                assert!(pause <= MAX_PAUSE);
                now += pause;
                tries += 1;
            }
            let (waited, all) = (now - t0, Duration::from_secs(max_wait));
            let what = format!("{max_retries} {max_wait}: {tries} in {waited:?}");
            assert!(waited <= all && waited + MAX_PAUSE >= all, "{what}");
            assert!(tries >= max_wait / 4, "{what}");
            // The rounds are untouched.
            let trouble = j.attempted(Attempt::Answered(Verdict::Trouble(None)), t0);
            let more = max_retries > 0 && max_wait > 0;
            assert_eq!(matches!(trouble, Step::Pause(_)), more, "{what}");
        }
    }

    #[test]
    fn those_who_fail_together_do_not_come_back_together() {
        let t0 = Instant::now();
        let limits = journey(10, 300, t0).limits;
        let pause = |seed| Journey::new(limits, false, seed, t0).attempted(Attempt::NotSent, t0);
        let mut pauses: Vec<String> = (0..16).map(|n| format!("{:?}", pause(n * 7919))).collect();
        pauses.dedup();
        assert!(pauses.len() > 12, "{pauses:?}");
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
