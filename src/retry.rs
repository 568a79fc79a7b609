//! What to do next with one request: pure deciding, never sleeping ([`crate::relay`] acts).
//!
//! The rule behind all of it: a chat request costs money. It is sent again when nothing reached
//! the upstream, or when the upstream refused it or failed before its first word; where it may be
//! at work on it already, once more at most, unless the client allowed more.

use std::time::{Duration, Instant};

use crate::verdict::Verdict;

/// First pause after trouble with the upstream or on the way to it; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// Keys spent on a request that is refused with each of them.
const MAX_REFUSALS: u32 = 3;

/// A request that the upstream may have worked on is tried once more only if its client has
/// waited no longer than this.
const UNSURE_PATIENCE: Duration = Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Attempt {
    /// The upstream answered, and this is what the answer says.
    Answered(Verdict),
    /// An ejected key was probed and refused again: as if it had not been tried.
    StillOut,
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
    /// nothing are not counted, nor are waits for an overloaded model: only time bounds those.
    pub max_retries: u32,
    /// Time from the request's arrival after which no further round begins.
    pub max_wait: Duration,
}

/// What the client allows, by what it asked with.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Repeat {
    /// Nothing: a POST.
    No,
    /// An idempotent method (RFC 9110 §9.2.2).
    Yes,
    /// An `Idempotency-Key`, by which the upstream sorts out repetitions of one account.
    SameKey,
}

/// What all requests together try again while the provider is in trouble, so that an outage does
/// not multiply its load, nor eat a free tier's forty requests a minute. As Finagle's and Envoy's
/// budgets: a fifth of the requests, and a few a minute. Who finds it spent waits for its turn.
#[derive(Debug)]
pub struct Budget {
    /// In fifths of a retry; below zero: so many are promised.
    fifths: i32,
    filled: Instant,
}

impl Budget {
    /// Retries at hand at most.
    const MOST: i32 = 20;
    /// One more comes in so much time, whether requests come or not.
    const EVERY: Duration = Duration::from_secs(6);

    /// A full one.
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

    /// The provider is well again: nobody need wait for a turn.
    pub fn recovered(&mut self) {
        self.fifths = self.fifths.max(0);
    }

    /// Takes one retry. Says how long it has to wait for its turn.
    fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled);
        let times = passed.as_secs() / Budget::EVERY.as_secs();
        if times > 0 {
            self.filled = now;
            let times = i32::try_from(times).unwrap_or(i32::MAX / 5);
            let full = self.fifths.saturating_add(times.saturating_mul(5));
            self.fifths = full.min(5 * Budget::MOST);
        }
        self.fifths = self.fifths.saturating_sub(5);
        let promised = self.fifths.min(0).unsigned_abs().div_ceil(5);
        Budget::EVERY.saturating_mul(promised)
    }
}

/// What one request has been through.
#[derive(Debug)]
pub struct Journey {
    limits: Limits,
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
    /// The next wait for a key, or the one under way, is paid for: one wait is one round, however
    /// often it is looked at.
    wait_is_paid: bool,
    refusals: u32,
}

impl Journey {
    /// A request that arrived `now`. `seed`: any number, different for each request, so that those
    /// which fail together do not come back together.
    pub fn new(limits: Limits, repeat: Repeat, seed: u64, now: Instant) -> Journey {
        Journey {
            limits,
            arrived: now,
            deadline: now.checked_add(limits.max_wait),
            repeat,
            random: seed | 1,
            rounds: 0,
            pauses: 0,
            stale_tried: false,
            unsure_tried: false,
            wait_is_paid: false,
            refusals: 0,
        }
    }

    /// When the client will have waited long enough; `None`: beyond what the clock can count.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// After an attempt.
    pub fn attempted(&mut self, attempt: Attempt, budget: &mut Budget, now: Instant) -> Step {
        // Who waits for an overloaded model asks it in turn with the others.
        self.wait_is_paid = matches!(attempt, Attempt::Answered(Verdict::Overloaded(_)));
        match attempt {
            // The pool knows now who must rest; picking the next key may mean waiting for it.
            Attempt::StillOut
            | Attempt::Answered(Verdict::Limited(_) | Verdict::Quota | Verdict::Overloaded(_)) => {
                Step::Again
            }
            Attempt::Answered(Verdict::Refused { .. }) => {
                self.refusals += 1;
                match self.refusals < MAX_REFUSALS {
                    true => Step::Again,
                    false => Step::Pass,
                }
            }
            Attempt::Answered(Verdict::Trouble(stated)) => {
                self.pause(stated.unwrap_or_default(), budget, now, Step::Pass)
            }
            Attempt::Answered(Verdict::Failed(stated)) => match self.may_repeat(now) {
                true => self.pause(stated.unwrap_or_default(), budget, now, Step::Pass),
                false => Step::Pass,
            },
            Attempt::Answered(Verdict::Pass | Verdict::TooMuch) => Step::Pass,
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
            Attempt::Empty => self.pause(Duration::ZERO, budget, now, Step::GiveUp),
            Attempt::Stale | Attempt::MaybeSent if self.repeat != Repeat::No => {
                self.pause(Duration::ZERO, budget, now, Step::GiveUp)
            }
            Attempt::Stale | Attempt::MaybeSent => Step::GiveUp,
        }
    }

    /// Whether the next attempt must be made with the same key, after this one.
    pub fn is_bound_by(&self, attempt: Attempt) -> bool {
        let refused = matches!(
            attempt,
            Attempt::NotSent
                | Attempt::StillOut
                | Attempt::Answered(Verdict::Limited(_) | Verdict::Quota | Verdict::Refused { .. })
        );
        self.repeat == Repeat::SameKey && !refused
    }

    /// When no key is free before `soonest`. Asked again during one wait, it counts one round.
    pub fn no_key(&mut self, soonest: Instant, now: Instant) -> Step {
        let in_time = self.in_time(soonest.saturating_duration_since(now), now);
        if in_time && (self.wait_is_paid || self.begin_round()) {
            self.wait_is_paid = true;
            Step::WaitForKey(soonest)
        } else {
            Step::GiveUp
        }
    }

    /// Whether a request that the upstream may have worked on may be sent again.
    fn may_repeat(&mut self, now: Instant) -> bool {
        let early = now.saturating_duration_since(self.arrived) <= UNSURE_PATIENCE;
        let first = !std::mem::replace(&mut self.unsure_tried, true);
        self.repeat != Repeat::No || (first && early)
    }

    /// A pause of at least `least`, if time and rounds allow one more; else `or`.
    fn pause(&mut self, least: Duration, budget: &mut Budget, now: Instant, or: Step) -> Step {
        let pause = self.pause_in_time(least, now);
        let pause = pause.filter(|_| self.begin_round());
        let pause = pause.map(|pause| pause.max(budget.take(now)));
        match pause.filter(|pause| self.in_time(*pause, now)) {
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

    const REFUSED: Verdict = Verdict::Refused { names_key: false };

    fn journey(max_retries: u32, max_wait: u64, t0: Instant) -> Journey {
        let limits = Limits {
            max_retries,
            max_wait: Duration::from_secs(max_wait),
        };
        Journey::new(limits, Repeat::No, 42, t0)
    }

    #[test]
    fn an_attempt_leads_to_the_step_in_the_table() {
        let t0 = Instant::now();
        let mut pauses = 0;
        for (attempt, step) in [
            (Attempt::Answered(Verdict::Pass), Some(Step::Pass)),
            (Attempt::Answered(Verdict::Limited(None)), Some(Step::Again)),
            (Attempt::Answered(Verdict::TooMuch), Some(Step::Pass)),
            (Attempt::Answered(Verdict::Quota), Some(Step::Again)),
            (Attempt::Answered(REFUSED), Some(Step::Again)),
            (Attempt::StillOut, Some(Step::Again)),
            (
                Attempt::Answered(Verdict::Overloaded(None)),
                Some(Step::Again),
            ),
            (Attempt::Answered(Verdict::Trouble(None)), None),
            (Attempt::Answered(Verdict::Failed(None)), None),
            (Attempt::Empty, None),
            (Attempt::NotSent, None),
            (Attempt::Stale, Some(Step::Afresh)),
            (Attempt::MaybeSent, Some(Step::GiveUp)),
        ] {
            let found = journey(10, 300, t0).attempted(attempt, &mut Budget::new(t0), t0);
            match step {
                Some(step) => assert_eq!(found, step, "{attempt:?}"),
                None => {
                    assert!(matches!(found, Step::Pause(_)), "{attempt:?}: {found:?}");
                    pauses += 1;
                }
            }
        }
        assert_eq!(pauses, 4);
    }

    #[test]
    fn an_answer_that_does_not_come_is_asked_for_again_only_where_the_client_allows_it() {
        let t0 = Instant::now();
        let limits = journey(10, 300, t0).limits;
        let mut allowed = Journey::new(limits, Repeat::Yes, 42, t0);
        assert!(matches!(
            allowed.attempted(Attempt::MaybeSent, &mut Budget::new(t0), t0),
            Step::Pause(_)
        ));
        assert_eq!(
            journey(10, 300, t0).attempted(Attempt::MaybeSent, &mut Budget::new(t0), t0),
            Step::GiveUp
        );
    }

    #[test]
    fn a_provider_in_trouble_has_the_last_word_when_the_rounds_are_over() {
        let t0 = Instant::now();
        let trouble = |stated| Attempt::Answered(Verdict::Trouble(stated));
        let mut j = journey(1, 300, t0);
        assert!(matches!(
            j.attempted(trouble(None), &mut Budget::new(t0), t0),
            Step::Pause(_)
        ));
        assert_eq!(
            j.attempted(trouble(None), &mut Budget::new(t0), t0),
            Step::Pass
        );
        let long = Some(Duration::from_secs(30));
        assert_eq!(
            journey(10, 300, t0).attempted(trouble(long), &mut Budget::new(t0), t0),
            Step::Pause(Duration::from_secs(30)),
            "as the upstream asks"
        );
        assert_eq!(
            journey(10, 29, t0).attempted(trouble(long), &mut Budget::new(t0), t0),
            Step::Pass
        );
    }

    #[test]
    fn three_keys_are_spent_on_a_refused_request_and_probes_of_ejected_ones_do_not_count() {
        let t0 = Instant::now();
        let (mut j, mut budget) = (journey(10, 300, t0), Budget::new(t0));
        let mut attempted = |attempt| j.attempted(attempt, &mut budget, t0);
        assert_eq!(attempted(Attempt::Answered(REFUSED)), Step::Again);
        for _ in 0..5 {
            assert_eq!(attempted(Attempt::StillOut), Step::Again);
        }
        assert_eq!(attempted(Attempt::Answered(REFUSED)), Step::Again);
        assert_eq!(attempted(Attempt::Answered(REFUSED)), Step::Pass);
    }

    #[test]
    fn what_may_have_been_worked_on_is_sent_once_more_and_only_to_a_client_that_has_not_waited_long()
     {
        let t0 = Instant::now();
        let failed = Attempt::Answered(Verdict::Failed(None));
        let (mut j, mut budget) = (journey(10, 300, t0), Budget::new(t0));
        assert!(matches!(
            j.attempted(failed, &mut budget, t0),
            Step::Pause(_)
        ));
        assert_eq!(j.attempted(failed, &mut budget, t0), Step::Pass);
        let late = t0 + UNSURE_PATIENCE + Duration::from_millis(1);
        assert_eq!(
            journey(10, 300, t0).attempted(failed, &mut budget, late),
            Step::Pass
        );
        let mut get = Journey::new(j.limits, Repeat::Yes, 42, t0);
        for _ in 0..3 {
            assert!(matches!(
                get.attempted(failed, &mut budget, t0),
                Step::Pause(_)
            ));
        }
    }

    #[test]
    fn an_idempotency_key_binds_a_request_to_its_key_unless_the_upstream_refused_it() {
        let t0 = Instant::now();
        let limits = journey(10, 300, t0).limits;
        let j = Journey::new(limits, Repeat::SameKey, 42, t0);
        for (attempt, bound) in [
            (Attempt::Answered(Verdict::Limited(None)), false),
            (Attempt::Answered(REFUSED), false),
            (Attempt::NotSent, false),
            (Attempt::Answered(Verdict::Trouble(None)), true),
            (Attempt::Answered(Verdict::Failed(None)), true),
            (Attempt::MaybeSent, true),
            (Attempt::Empty, true),
        ] {
            assert_eq!(j.is_bound_by(attempt), bound, "{attempt:?}");
            assert!(!journey(10, 300, t0).is_bound_by(attempt));
        }
    }

    #[test]
    fn an_outage_costs_a_fifth_of_the_requests_and_ten_a_minute() {
        let t0 = Instant::now();
        let mut budget = Budget::new(t0);
        let at_once =
            |budget: &mut Budget, now| (0..1000).take_while(|_| budget.take(now).is_zero()).count();
        assert_eq!(at_once(&mut budget, t0), 20);
        assert_eq!(
            budget.take(t0),
            Duration::from_secs(12),
            "after the one that just found none"
        );
        budget.recovered();
        (0..50).for_each(|_| budget.request());
        assert_eq!(at_once(&mut budget, t0), 10);
        budget.recovered();
        assert_eq!(at_once(&mut budget, t0 + Duration::from_secs(60)), 10);
        (0..500).for_each(|_| budget.request());
        assert_eq!(at_once(&mut budget, t0 + Duration::from_secs(9999)), 20);
    }

    #[test]
    fn who_finds_the_budget_spent_waits_for_its_turn() {
        let t0 = Instant::now();
        let trouble = Attempt::Answered(Verdict::Trouble(None));
        let mut budget = Budget::new(t0);
        let mut pauses = (0..30).map(|_| journey(10, 300, t0).attempted(trouble, &mut budget, t0));
        assert!(
            pauses
                .by_ref()
                .take(20)
                .all(|step| matches!(step, Step::Pause(p) if p <= FIRST_PAUSE))
        );
        for n in 1..=10 {
            assert_eq!(pauses.next(), Some(Step::Pause(Budget::EVERY * n)));
        }
    }

    #[test]
    fn waiting_for_an_overloaded_model_costs_no_rounds() {
        let t0 = Instant::now();
        let (mut j, mut budget) = (journey(1, 300, t0), Budget::new(t0));
        for n in 1..200 {
            let now = t0 + Duration::from_secs(n);
            let overloaded = Attempt::Answered(Verdict::Overloaded(None));
            assert_eq!(j.attempted(overloaded, &mut budget, now), Step::Again);
            assert_eq!(j.no_key(now, now), Step::WaitForKey(now));
        }
    }

    #[test]
    fn a_dead_pooled_connection_is_tried_once_more_only() {
        let t0 = Instant::now();
        let mut j = journey(10, 300, t0);
        assert_eq!(
            j.attempted(Attempt::Stale, &mut Budget::new(t0), t0),
            Step::Afresh
        );
        assert_eq!(
            j.attempted(Attempt::Stale, &mut Budget::new(t0), t0),
            Step::GiveUp
        );
    }

    #[test]
    fn pauses_double_up_to_four_seconds_with_jitter_and_end_with_the_rounds() {
        let t0 = Instant::now();
        let mut j = journey(7, 300, t0);
        for full in [250, 500, 1000, 2000, 4000, 4000, 4000] {
            let Step::Pause(pause) = j.attempted(Attempt::Empty, &mut Budget::new(t0), t0) else {
                panic!("no pause of {full} ms")
            };
            let full = Duration::from_millis(full);
            assert!((full / 2..=full).contains(&pause), "{pause:?} of {full:?}");
        }
        assert_eq!(
            j.attempted(Attempt::Empty, &mut Budget::new(t0), t0),
            Step::GiveUp
        );
    }

    #[test]
    fn where_nothing_was_sent_only_time_ends_the_pauses_and_they_are_part_of_it() {
        for (max_retries, max_wait) in [(0, 60), (1, 60), (10, 300), (1, 3), (10, 0)] {
            let t0 = Instant::now();
            let mut j = journey(max_retries, max_wait, t0);
            let (mut now, mut tries) = (t0, 0);
            while let Step::Pause(pause) = j.attempted(Attempt::NotSent, &mut Budget::new(t0), now)
            {
                assert!(pause <= MAX_PAUSE);
                now += pause;
                tries += 1;
            }
            let (waited, all) = (now - t0, Duration::from_secs(max_wait));
            let what = format!("{max_retries} {max_wait}: {tries} in {waited:?}");
            assert!(waited <= all && waited + MAX_PAUSE >= all, "{what}");
            assert!(tries >= max_wait / 4, "{what}");
            // The rounds are untouched.
            let trouble = j.attempted(
                Attempt::Answered(Verdict::Trouble(None)),
                &mut Budget::new(t0),
                t0,
            );
            let more = max_retries > 0 && max_wait > 0;
            assert_eq!(matches!(trouble, Step::Pause(_)), more, "{what}");
        }
    }

    #[test]
    fn those_who_fail_together_do_not_come_back_together() {
        let t0 = Instant::now();
        let limits = journey(10, 300, t0).limits;
        let pause = |seed| {
            Journey::new(limits, Repeat::No, seed, t0).attempted(
                Attempt::NotSent,
                &mut Budget::new(t0),
                t0,
            )
        };
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
        j.attempted(
            Attempt::Answered(Verdict::Limited(None)),
            &mut Budget::new(t0),
            t0,
        );
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
