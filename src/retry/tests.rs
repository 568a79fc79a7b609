use super::*;

const REFUSED: Verdict = Verdict::Refused { names_key: false };

fn retry(max_retries: u32, max_wait: u64, t0: Instant) -> RetryState {
    let limits = RetryLimits {
        max_retries,
        max_wait: Duration::from_secs(max_wait),
    };
    RetryState::new(limits, Repeat::No, 42, t0)
}

#[test]
fn an_attempt_leads_to_the_step_in_the_table() {
    let t0 = Instant::now();
    let mut pauses = 0;
    for (attempt, step) in [
        (AttemptEnd::Answered(Verdict::Pass), Some(Step::Pass)),
        (
            AttemptEnd::Answered(Verdict::Limited(None)),
            Some(Step::Again),
        ),
        (AttemptEnd::Answered(Verdict::TooMuch), Some(Step::Pass)),
        (AttemptEnd::Answered(Verdict::Quota), Some(Step::Again)),
        (AttemptEnd::Answered(REFUSED), Some(Step::Again)),
        (AttemptEnd::StillOut, Some(Step::Again)),
        (
            AttemptEnd::Answered(Verdict::Overloaded(None)),
            Some(Step::Again),
        ),
        (AttemptEnd::Answered(Verdict::Trouble(None)), None),
        (AttemptEnd::Answered(Verdict::MaybeWorked(None)), None),
        (AttemptEnd::Empty, None),
        (AttemptEnd::NotSent, None),
        (AttemptEnd::Stale, Some(Step::Again)),
        (AttemptEnd::MaybeSent, Some(Step::GiveUp)),
    ] {
        let found = retry(10, 300, t0).attempted(attempt, &mut Budget::new(t0), t0);
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
    let limits = retry(10, 300, t0).limits;
    let mut allowed = RetryState::new(limits, Repeat::Yes, 42, t0);
    assert!(matches!(
        allowed.attempted(AttemptEnd::MaybeSent, &mut Budget::new(t0), t0),
        Step::Pause(_)
    ));
    assert_eq!(
        retry(10, 300, t0).attempted(AttemptEnd::MaybeSent, &mut Budget::new(t0), t0),
        Step::GiveUp
    );
}

#[test]
fn a_provider_in_trouble_has_the_last_word_when_the_rounds_are_over() {
    let t0 = Instant::now();
    let trouble = |stated| AttemptEnd::Answered(Verdict::Trouble(stated));
    let mut j = retry(1, 300, t0);
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
        retry(10, 300, t0).attempted(trouble(long), &mut Budget::new(t0), t0),
        Step::Pause(Duration::from_secs(30)),
        "as the upstream asks"
    );
    assert_eq!(
        retry(10, 29, t0).attempted(trouble(long), &mut Budget::new(t0), t0),
        Step::Pass
    );
}

#[test]
fn three_keys_are_spent_on_a_refused_request_and_probes_of_ejected_ones_do_not_count() {
    let t0 = Instant::now();
    let (mut j, mut budget) = (retry(10, 300, t0), Budget::new(t0));
    let mut attempted = |attempt| j.attempted(attempt, &mut budget, t0);
    assert_eq!(attempted(AttemptEnd::Answered(REFUSED)), Step::Again);
    for _ in 0..5 {
        assert_eq!(attempted(AttemptEnd::StillOut), Step::Again);
    }
    assert_eq!(attempted(AttemptEnd::Answered(REFUSED)), Step::Again);
    assert_eq!(attempted(AttemptEnd::Answered(REFUSED)), Step::Pass);
}

#[test]
fn a_request_that_may_have_been_worked_on_is_sent_once_more_unless_its_client_has_waited_long() {
    let t0 = Instant::now();
    let failed = AttemptEnd::Answered(Verdict::MaybeWorked(None));
    let (mut j, mut budget) = (retry(10, 300, t0), Budget::new(t0));
    assert!(matches!(
        j.attempted(failed, &mut budget, t0),
        Step::Pause(_)
    ));
    assert_eq!(j.attempted(failed, &mut budget, t0), Step::Pass);
    let late = t0 + UNSURE_PATIENCE + Duration::from_millis(1);
    assert_eq!(
        retry(10, 300, t0).attempted(failed, &mut budget, late),
        Step::Pass
    );
    let mut get = RetryState::new(j.limits, Repeat::Yes, 42, t0);
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
    let limits = retry(10, 300, t0).limits;
    let j = RetryState::new(limits, Repeat::SameKey, 42, t0);
    for (attempt, bound) in [
        (AttemptEnd::Answered(Verdict::Limited(None)), false),
        (AttemptEnd::Answered(REFUSED), false),
        (AttemptEnd::NotSent, false),
        (AttemptEnd::Answered(Verdict::Trouble(None)), true),
        (AttemptEnd::Answered(Verdict::MaybeWorked(None)), true),
        (AttemptEnd::MaybeSent, true),
        (AttemptEnd::Empty, true),
    ] {
        assert_eq!(j.is_bound_by(attempt), bound, "{attempt:?}");
        assert!(!retry(10, 300, t0).is_bound_by(attempt));
    }
}

#[test]
fn an_outage_costs_a_fifth_of_the_requests_and_ten_a_minute() {
    let t0 = Instant::now();
    let mut budget = Budget::new(t0);
    let at_once = |budget: &mut Budget, now| {
        (0..1000)
            .take_while(|_| budget.take(None, now) == Some(Duration::ZERO))
            .count()
    };
    assert_eq!(at_once(&mut budget, t0), 20);
    assert_eq!(
        budget.take(None, t0),
        Some(Duration::from_secs(12)),
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
fn a_retry_waits_for_its_turn_when_the_budget_is_spent() {
    let t0 = Instant::now();
    let trouble = AttemptEnd::Answered(Verdict::Trouble(None));
    let mut budget = Budget::new(t0);
    let mut pauses = (0..30).map(|_| retry(10, 300, t0).attempted(trouble, &mut budget, t0));
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
fn a_retry_that_cannot_wait_for_its_turn_makes_no_other_wait() {
    let t0 = Instant::now();
    let trouble = AttemptEnd::Answered(Verdict::Trouble(None));
    let mut budget = Budget::new(t0);
    for _ in 0..1000 {
        retry(10, 60, t0).attempted(trouble, &mut budget, t0);
    }
    // Ten wait for six seconds each; the others had their answer.
    let patient = retry(10, 300, t0).attempted(trouble, &mut budget, t0);
    assert_eq!(patient, Step::Pause(Budget::EVERY * 11));
}

#[test]
fn a_path_that_leads_nowhere_is_looked_for_once_more_and_costs_the_others_nothing() {
    let t0 = Instant::now();
    let (nowhere, mut budget) = (AttemptEnd::Answered(Verdict::Nowhere), Budget::new(t0));
    for repeat in [Repeat::No, Repeat::Yes] {
        for _ in 0..100 {
            let mut j = RetryState::new(retry(10, 300, t0).limits, repeat, 42, t0);
            let first = j.attempted(nowhere, &mut budget, t0);
            assert!(
                matches!(first, Step::Pause(p) if p <= FIRST_PAUSE),
                "{first:?}"
            );
            assert_eq!(j.attempted(nowhere, &mut budget, t0), Step::Pass);
        }
    }
    assert_eq!(budget.take(None, t0), Some(Duration::ZERO));
}

#[test]
fn waiting_for_an_overloaded_model_costs_no_rounds() {
    let t0 = Instant::now();
    let (mut j, mut budget) = (retry(1, 300, t0), Budget::new(t0));
    for n in 1..200 {
        let now = t0 + Duration::from_secs(n);
        let overloaded = AttemptEnd::Answered(Verdict::Overloaded(None));
        assert_eq!(j.attempted(overloaded, &mut budget, now), Step::Again);
        assert!(j.may_wait(now, now));
    }
}

#[test]
fn a_dead_pooled_connection_is_tried_once_more_only() {
    let t0 = Instant::now();
    let mut j = retry(10, 300, t0);
    assert_eq!(
        j.attempted(AttemptEnd::Stale, &mut Budget::new(t0), t0),
        Step::Again
    );
    assert_eq!(
        j.attempted(AttemptEnd::Stale, &mut Budget::new(t0), t0),
        Step::GiveUp
    );
}

#[test]
fn pauses_double_up_to_four_seconds_with_jitter_and_end_with_the_rounds() {
    let t0 = Instant::now();
    let mut j = retry(7, 300, t0);
    for full in [250, 500, 1000, 2000, 4000, 4000, 4000] {
        let Step::Pause(pause) = j.attempted(AttemptEnd::Empty, &mut Budget::new(t0), t0) else {
            panic!("no pause of {full} ms")
        };
        let full = Duration::from_millis(full);
        assert!((full / 2..=full).contains(&pause), "{pause:?} of {full:?}");
    }
    assert_eq!(
        j.attempted(AttemptEnd::Empty, &mut Budget::new(t0), t0),
        Step::GiveUp
    );
}

#[test]
fn where_nothing_was_sent_only_time_ends_the_pauses_and_they_are_part_of_it() {
    for (max_retries, max_wait) in [(0, 60), (1, 60), (10, 300), (1, 3), (10, 0)] {
        let t0 = Instant::now();
        let mut j = retry(max_retries, max_wait, t0);
        let (mut now, mut tries) = (t0, 0);
        while let Step::Pause(pause) = j.attempted(AttemptEnd::NotSent, &mut Budget::new(t0), now) {
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
            AttemptEnd::Answered(Verdict::Trouble(None)),
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
    let limits = retry(10, 300, t0).limits;
    let pause = |seed| {
        RetryState::new(limits, Repeat::No, seed, t0).attempted(
            AttemptEnd::NotSent,
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
    assert!(retry(10, 300, t0).may_wait(at(300), t0));
    assert!(!retry(10, 300, t0).may_wait(at(301), t0));
    assert!(
        !retry(10, 300, t0).may_wait(at(301), at(1)),
        "counted from arrival"
    );
    assert!(!retry(0, 300, t0).may_wait(at(1), t0), "no rounds allowed");
    assert!(!retry(10, 0, t0).may_wait(at(1), t0), "no waiting allowed");
}

#[test]
fn one_wait_is_one_round_however_often_it_is_looked_at() {
    let t0 = Instant::now();
    let mut j = retry(1, 300, t0);
    let soonest = t0 + Duration::from_secs(9);
    assert!(j.may_wait(soonest, t0));
    assert!(j.may_wait(soonest, t0));
    j.attempted(
        AttemptEnd::Answered(Verdict::Limited(None)),
        &mut Budget::new(t0),
        t0,
    );
    assert!(!j.may_wait(soonest, t0));
}

#[test]
fn an_endless_wait_is_no_overflow() {
    let t0 = Instant::now();
    let mut j = retry(1, u64::MAX, t0);
    let soonest = t0 + Duration::from_secs(9);
    assert!(j.may_wait(soonest, t0));
}
