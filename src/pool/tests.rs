use super::*;

const COOLDOWN: Duration = Duration::from_secs(60);

const SETTINGS: Settings = Settings {
    cooldown: COOLDOWN,
    pace: Pace::Off,
    rotation: Rotation::RoundRobin,
};

fn key(name: &str) -> ApiKey {
    ApiKey::new(format!("test-key-number-{name}"))
}

fn keys(n: usize) -> Vec<ApiKey> {
    (0..n).map(|i| key(&format!("{i:04}"))).collect()
}

/// A pool with one request of a model in it that asks again and again.
struct Desk {
    pool: Pool,
    lane: LaneId,
    t0: Instant,
}

impl Desk {
    fn new(n: usize, settings: Settings) -> Desk {
        let t0 = Instant::now();
        let mut pool = Pool::new(&keys(n), settings, t0);
        let (lane, _) = pool.enter("m", t0);
        Desk { pool, lane, t0 }
    }

    /// Another request comes and has to wait.
    fn queue_up(&mut self) -> Ticket {
        let (lane, ticket) = self.pool.enter("m", self.t0);
        self.pool.queue_up(lane, ticket);
        ticket
    }

    fn pick(&mut self, after: Duration) -> Pick {
        self.pool.pick(self.lane, Asker::default(), self.t0 + after)
    }

    fn take(&mut self, after: Duration) -> Picked {
        match self.pick(after) {
            Pick::Key(picked) => picked,
            other => panic!("no key: {other:?}"),
        }
    }

    fn report(&mut self, picked: &Picked, report: Report, after: Duration) -> Option<Change> {
        self.pool.report(picked, report, self.t0 + after)
    }

    /// One whole request.
    fn one(&mut self, report: Report, after: Duration) -> Option<Change> {
        let picked = self.take(after);
        let change = self.report(&picked, report, after);
        self.pool.release(&picked);
        change
    }

    fn indices(&mut self, n: usize, after: Duration) -> Vec<usize> {
        (0..n).map(|_| self.take(after).index).collect()
    }

    fn wait(&mut self, after: Duration) -> Duration {
        match self.pick(after) {
            Pick::Wait(at) => at - self.t0,
            other => panic!("no wait: {other:?}"),
        }
    }

    fn states(&self, after: Duration) -> Vec<State> {
        let views = self.pool.snapshot(self.t0 + after);
        views.into_iter().map(|view| view.state).collect()
    }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const T0: Duration = Duration::ZERO;
const UNSAID: Report = Report::Limited(None);

fn limited(n: u64) -> Report {
    Report::Limited(Some(secs(n)))
}

// ---- turns ------------------------------------------------------------------------------------

#[test]
fn ready_keys_take_turns_evenly() {
    let mut desk = Desk::new(3, SETTINGS);
    assert_eq!(desk.indices(7, T0), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn a_new_model_goes_on_where_the_others_are() {
    let mut desk = Desk::new(3, SETTINGS);
    desk.take(T0);
    let (other, _) = desk.pool.enter("other", desk.t0);
    let picked = desk.pool.pick(other, Asker::default(), desk.t0);
    assert!(
        matches!(picked, Pick::Key(Picked { index: 1, .. })),
        "{picked:?}"
    );
}

#[test]
fn the_key_to_avoid_is_not_picked() {
    let mut desk = Desk::new(2, SETTINGS);
    let (first, second) = (desk.take(T0), desk.take(T0));
    let avoid = Asker {
        avoid: Some(&first),
        ..Asker::default()
    };
    let (lane, t0) = (desk.lane, desk.t0);
    let picked = desk.pool.pick(lane, avoid, t0);
    assert!(
        matches!(picked, Pick::Key(Picked { index: 1, .. })),
        "{picked:?}"
    );
    desk.report(&second, limited(9), T0);
    assert_eq!(
        desk.pool.pick(lane, avoid, t0),
        Pick::NoOther,
        "not worth a wait"
    );
    desk.report(&second, Report::Rejected(401), T0);
    assert_eq!(desk.pool.pick(lane, avoid, t0), Pick::NoOther);
}

#[test]
fn a_conversation_stays_with_its_key_and_spills_over_while_that_rests() {
    let sticky = Settings {
        rotation: Rotation::Sticky,
        ..SETTINGS
    };
    let mut desk = Desk::new(5, sticky);
    let (lane, t0) = (desk.lane, desk.t0);
    let ask = |desk: &mut Desk, conversation, after| {
        let asker = Asker {
            conversation: Some(conversation),
            ..Asker::default()
        };
        match desk.pool.pick(lane, asker, t0 + after) {
            Pick::Key(picked) => picked,
            other => panic!("{other:?}"),
        }
    };
    let mut used = [false; 5];
    for conversation in 0..50 {
        let home = ask(&mut desk, conversation, T0).index;
        used[home] = true;
        assert_eq!(ask(&mut desk, conversation, T0).index, home);
    }
    assert_eq!(used, [true; 5], "all keys have conversations");
    let home = ask(&mut desk, 7, T0);
    desk.report(&home, limited(9), T0);
    let elsewhere = ask(&mut desk, 7, T0).index;
    assert_ne!(elsewhere, home.index);
    assert_eq!(
        ask(&mut desk, 7, secs(1)).index,
        elsewhere,
        "spills to one key"
    );
    assert_eq!(
        ask(&mut desk, 7, secs(9)).index,
        home.index,
        "and comes back"
    );
}

// ---- rests ------------------------------------------------------------------------------------

#[test]
fn a_limited_key_rests_for_the_cooldown_and_comes_back() {
    let mut desk = Desk::new(2, SETTINGS);
    assert_eq!(desk.one(UNSAID, T0), Some(Change::Rests(COOLDOWN)));
    assert_eq!(desk.indices(2, T0), [1, 1]);
    assert_eq!(
        desk.states(secs(18)),
        [State::Cooling(secs(42)), State::Ready]
    );
    assert_eq!(desk.indices(2, COOLDOWN), [1, 0]);
}

#[test]
fn a_stated_rest_wins_over_the_cooldown() {
    let mut desk = Desk::new(1, SETTINGS);
    assert_eq!(desk.one(limited(5), T0), Some(Change::Rests(secs(5))));
    assert_eq!(desk.wait(T0), secs(5));
}

#[test]
fn refusals_that_say_nothing_rest_a_key_longer_each_time_until_one_request_succeeds() {
    let mut desk = Desk::new(1, SETTINGS);
    let mut at = T0;
    for rest in [60, 120, 240, 480, 900, 900, 900] {
        assert_eq!(desk.one(UNSAID, at), Some(Change::Rests(secs(rest))));
        at += secs(rest);
    }
    assert_eq!(desk.one(limited(5), at), Some(Change::Rests(secs(5))));
    at += secs(5);
    assert_eq!(desk.one(Report::Accepted, at), Some(Change::Recovered));
    assert_eq!(
        desk.one(UNSAID, at + secs(1)),
        Some(Change::Rests(secs(60)))
    );
}

#[test]
fn a_rest_is_extended_but_never_cut_short() {
    let mut desk = Desk::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..5).map(|_| desk.take(T0)).collect();
    assert!(desk.report(&herd[0], limited(100), ms(1)).is_some());
    assert_eq!(desk.report(&herd[1], limited(5), ms(1)), None);
    assert_eq!(
        desk.report(&herd[2], Report::Accepted, ms(1)),
        None,
        "an older request"
    );
    assert_eq!(desk.wait(ms(1)), secs(100) + ms(1));
    assert_eq!(
        desk.report(&herd[3], limited(200), ms(1)),
        None,
        "one log line"
    );
    assert_eq!(desk.wait(ms(1)), secs(200) + ms(1));
}

#[test]
fn a_herd_of_refusals_counts_as_one() {
    let mut desk = Desk::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|_| desk.take(T0)).collect();
    let news: Vec<_> = herd
        .iter()
        .filter_map(|p| desk.report(p, UNSAID, ms(5)))
        .collect();
    assert_eq!(news, [Change::Rests(COOLDOWN)]);
    assert_eq!(desk.wait(ms(5)), COOLDOWN + ms(5));
}

#[test]
fn a_limit_holds_for_its_model_alone() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.one(UNSAID, T0);
    let (other, _) = desk.pool.enter("other", desk.t0);
    let picked = desk.pool.pick(other, Asker::default(), desk.t0);
    assert!(matches!(picked, Pick::Key(..)), "{picked:?}");
    let view = &desk.pool.snapshot(desk.t0)[0];
    assert_eq!(view.state, State::Cooling(COOLDOWN));
    assert_eq!(view.models, [("m".to_owned(), State::Cooling(COOLDOWN))]);
    assert!(view.serves, "the other model");
}

#[test]
fn a_key_serves_while_a_model_of_late_can_have_it() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.pool.enter("", desk.t0); // GET /v1/models is no measure
    desk.one(UNSAID, T0);
    assert!(!desk.pool.snapshot(desk.t0)[0].serves);
    assert!(desk.pool.snapshot(desk.t0 + COOLDOWN)[0].serves);
}

// ---- probes -----------------------------------------------------------------------------------

#[test]
fn after_a_rest_one_request_probes_before_the_others_follow() {
    let mut desk = Desk::new(1, SETTINGS);
    let t1 = COOLDOWN;
    for _ in 0..3 {
        desk.one(Report::Accepted, T0);
    }
    desk.one(UNSAID, T0);
    let probe = desk.take(t1);
    assert_eq!(desk.wait(t1), t1 + PROBE_GAP);
    assert_eq!(desk.states(t1), [State::Ready], "a probe is not a fault");
    assert_eq!(
        desk.report(&probe, Report::Accepted, t1),
        Some(Change::Recovered)
    );
    assert_eq!(desk.indices(2, t1), [0, 0]);
}

#[test]
fn a_slow_probe_holds_the_others_back_for_a_gap_only() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.one(UNSAID, T0);
    desk.take(COOLDOWN);
    assert_eq!(desk.wait(COOLDOWN + ms(300)), COOLDOWN + PROBE_GAP);
    desk.take(COOLDOWN + PROBE_GAP);
    assert_eq!(desk.wait(COOLDOWN + PROBE_GAP), COOLDOWN + 2 * PROBE_GAP);
}

#[test]
fn a_limit_met_once_is_met_again_with_one_request_and_not_with_a_herd() {
    let mut desk = Desk::new(1, SETTINGS);
    for _ in 0..5 {
        desk.one(Report::Accepted, T0);
    }
    desk.one(limited(10), T0);
    // Again five are accepted; eight ask at once whenever they can.
    let at = secs(10);
    let probe = desk.take(at);
    desk.report(&probe, Report::Accepted, at);
    let four: Vec<Picked> = (0..4).map(|_| desk.take(at)).collect();
    assert!(
        matches!(desk.pick(at), Pick::Wait(_)),
        "beyond what was proven"
    );
    for picked in &four {
        desk.report(picked, Report::Accepted, at);
    }
    let sixth = desk.take(at);
    assert!(matches!(desk.pick(at), Pick::Wait(_)), "one at a time");
    assert!(desk.report(&sixth, limited(10), at).is_some());
}

/// Of so many windows of ten seconds those in which a key is refused that is asked for all it may be.
fn refused_windows(desk: &mut Desk, limit: u32, windows: u64) -> Vec<u64> {
    let mut refused = Vec::new();
    for window in 0..windows {
        let at = secs(10 * window);
        let mut used = 0;
        while let Pick::Key(picked) = desk.pick(at) {
            used += 1;
            if used > limit {
                refused.push(window);
                desk.report(&picked, limited(10), at);
            } else {
                desk.report(&picked, Report::Accepted, at);
            }
            desk.pool.release(&picked);
        }
        assert!(used >= limit, "{window}: {used}");
        assert_eq!(desk.wait(at), at + secs(10), "{window}");
    }
    refused
}

#[test]
fn a_limit_that_was_confirmed_is_asked_about_less_and_less() {
    let mut desk = Desk::new(1, SETTINGS);
    let refused = refused_windows(&mut desk, 6, 60);
    assert_eq!(refused, [0, 1, 6, 15, 32, 49]);
}

#[test]
fn a_small_limit_has_to_be_confirmed_more_often() {
    let mut desk = Desk::new(1, SETTINGS);
    assert_eq!(refused_windows(&mut desk, 1, 9), [0, 1, 2, 3, 4, 5]);
    let mut desk = Desk::new(1, SETTINGS);
    assert_eq!(refused_windows(&mut desk, 2, 9), [0, 1, 2, 3]);
}

#[test]
fn a_limit_met_with_one_key_is_met_with_another_by_one_request_only() {
    let mut desk = Desk::new(2, SETTINGS);
    for _ in 0..12 {
        desk.one(Report::Accepted, T0);
    }
    let refused = desk.take(T0);
    desk.report(&refused, limited(10), T0);
    // The other took as many; two more are not asked of it at once.
    let next = desk.take(ms(1));
    assert_ne!(next.index, refused.index);
    assert_eq!(desk.wait(ms(1)), ms(1) + PROBE_GAP);
    desk.report(&next, limited(10), ms(2));
    // Two keys that agree: one of them need not be asked again.
    let at = secs(11);
    let mut used = [0; 2];
    for _ in 0..20 {
        let picked = desk.take(at);
        desk.report(&picked, Report::Accepted, at);
        used[usize::from(picked.index == next.index)] += 1;
    }
    assert_eq!(used, [6, 14]);
}

#[test]
fn what_another_key_took_is_no_measure_once_that_one_has_rested() {
    let mut desk = Desk::new(2, SETTINGS);
    for _ in 0..12 {
        desk.one(Report::Accepted, T0);
    }
    let refused = desk.take(T0);
    desk.report(&refused, limited(1), T0);
    let picked = desk.indices(4, secs(2));
    let probes = picked.iter().filter(|index| **index == refused.index);
    assert_eq!(probes.count(), 1, "the others go to the other at once");
}

#[test]
fn a_window_is_as_short_as_was_seen_although_a_rest_was_longer() {
    let mut desk = Desk::new(1, SETTINGS);
    // Asked about in the third of these, as the limit is kept for four windows in between.
    for (at, rest) in [(0, 10), (10, 10), (60, 15)] {
        for _ in 0..6 {
            desk.one(Report::Accepted, secs(at));
        }
        assert!(desk.one(limited(rest), secs(at)).is_some());
    }
    for _ in 0..6 {
        desk.one(Report::Accepted, secs(75));
    }
    assert_eq!(desk.wait(secs(75)), secs(85));
}

#[test]
fn what_was_accepted_counts_although_the_answer_comes_after_a_refusal() {
    let mut desk = Desk::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..6).map(|_| desk.take(T0)).collect();
    desk.report(&herd[5], limited(10), ms(1));
    for picked in &herd[..5] {
        desk.report(picked, Report::Accepted, ms(2));
    }
    // Five go at once, as before.
    let at = secs(11);
    desk.one(Report::Accepted, at);
    for _ in 0..4 {
        desk.take(at);
    }
    assert!(matches!(desk.pick(at), Pick::Wait(_)));
}

#[test]
fn requests_of_two_windows_of_the_upstream_make_no_higher_limit() {
    let mut desk = Desk::new(1, SETTINGS);
    for _ in 0..6 {
        desk.one(Report::Accepted, T0);
    }
    desk.one(limited(10), T0);
    // Long after the rest: three at the end of a window, six in the next.
    let at = secs(100);
    for _ in 0..9 {
        desk.one(Report::Accepted, at);
    }
    desk.one(limited(10), at);
    let at = secs(111);
    desk.one(Report::Accepted, at);
    for _ in 0..5 {
        desk.take(at);
    }
    assert!(matches!(desk.pick(at), Pick::Wait(_)), "six, not nine");
}

#[test]
fn a_limit_that_is_lower_than_confirmed_is_learned_anew() {
    let mut desk = Desk::new(1, SETTINGS);
    let mut at = T0;
    for limit in [6, 6, 2, 6, 6] {
        for _ in 0..limit {
            desk.one(Report::Accepted, at);
        }
        if let Pick::Key(picked) = desk.pick(at) {
            desk.report(&picked, limited(10), at);
        }
        at += secs(10);
    }
    // After the two nothing is confirmed: more than six are asked for.
    assert!(matches!(desk.pick(at), Pick::Key(_)));
}

#[test]
fn beyond_what_was_proven_each_success_lets_more_through() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.one(limited(5), T0);
    let at = secs(5);
    for at_once in [1, 2, 4, 8] {
        let picked: Vec<Picked> = (0..at_once).map(|_| desk.take(at)).collect();
        assert!(matches!(desk.pick(at), Pick::Wait(_)), "{at_once}");
        desk.report(&picked[0], Report::Accepted, at);
        for picked in &picked[1..] {
            desk.report(picked, Report::Unclear, at);
        }
    }
}

// ---- pace -------------------------------------------------------------------------------------

#[test]
fn a_fixed_pace_lets_so_many_through_in_any_minute() {
    let pace = Settings {
        pace: Pace::Fixed(3),
        ..SETTINGS
    };
    let mut desk = Desk::new(1, pace);
    for at in [0, 10, 20] {
        desk.one(Report::Accepted, secs(at));
    }
    assert_eq!(desk.wait(secs(30)), secs(60));
    assert_eq!(desk.states(secs(30)), [State::Throttled(secs(30))]);
    let (other, _) = desk.pool.enter("other", desk.t0);
    let picked = desk.pool.pick(other, Asker::default(), desk.t0 + secs(30));
    assert!(
        matches!(picked, Pick::Wait(_)),
        "it holds for the key: {picked:?}"
    );
    desk.one(Report::Accepted, secs(60));
    assert_eq!(desk.wait(secs(61)), secs(70));
}

#[test]
fn what_was_not_sent_does_not_count_towards_the_pace() {
    let pace = Settings {
        pace: Pace::Fixed(1),
        ..SETTINGS
    };
    let mut desk = Desk::new(1, pace);
    desk.one(Report::NotSent, T0);
    desk.one(Report::Accepted, secs(1));
    assert_eq!(desk.wait(secs(2)), secs(61));
}

#[test]
fn an_automatic_pace_trusts_a_limit_at_first_sight_and_seldom_asks_for_more() {
    let pace = Settings {
        pace: Pace::Auto,
        ..SETTINGS
    };
    let mut desk = Desk::new(1, pace);
    assert_eq!(refused_windows(&mut desk, 6, 60), [0, 17, 34]);
}

// ---- quota and rejection ------------------------------------------------------------------------

#[test]
fn a_spent_quota_parks_the_key_for_all_models_and_longer_each_time() {
    let mut desk = Desk::new(1, SETTINGS);
    let mut at = T0;
    for hours in [1, 6, 24, 24] {
        let rest = secs(hours * 3600);
        assert_eq!(
            desk.one(Report::Quota(None), at),
            Some(Change::Parked(rest))
        );
        assert_eq!(desk.wait(at), at + rest);
        assert_eq!(desk.states(at), [State::Parked(rest)]);
        at += rest;
    }
    assert_eq!(desk.one(Report::Accepted, at), Some(Change::Recovered));
    let stated = desk.one(Report::Quota(Some(secs(600))), at + secs(1));
    assert_eq!(stated, Some(Change::Parked(secs(600))));
    at += secs(601);
    assert_eq!(
        desk.one(Report::Quota(None), at),
        Some(Change::Parked(secs(3600)))
    );
}

#[test]
fn a_parked_key_is_parked_for_other_models_too() {
    let mut desk = Desk::new(2, SETTINGS);
    let (other, _) = desk.pool.enter("other", desk.t0);
    desk.one(Report::Quota(None), T0);
    for _ in 0..3 {
        let picked = desk.pool.pick(other, Asker::default(), desk.t0);
        assert!(
            matches!(picked, Pick::Key(Picked { index: 1, .. })),
            "{picked:?}"
        );
    }
}

#[test]
fn a_spent_quota_of_one_model_rests_the_key_for_that_model_alone_and_is_remembered() {
    let salt = [7; SALT];
    let mut desk = Desk::new(1, SETTINGS);
    let (other, _) = desk.pool.enter("other", desk.t0);
    let hour = secs(3600);
    let spent = desk.one(Report::ModelQuota(None), T0);
    assert_eq!(spent, Some(Change::Rests(hour)));
    assert_eq!(desk.wait(secs(1)), hour);
    let picked = desk.pool.pick(other, Asker::default(), desk.t0);
    assert!(matches!(picked, Pick::Key(_)), "{picked:?}");
    assert_eq!(desk.pool.snapshot(desk.t0)[0].counts.quota, 1);
    let limits = desk.pool.limits(&salt, desk.t0);
    assert_eq!(limits.len(), 1);
    assert_eq!(limits[0].model.as_deref(), Some("m"));
    // Still spent: it rests for longer, until a request is accepted; or for as long as is stated.
    let stated = desk.one(Report::ModelQuota(Some(secs(432))), hour);
    assert_eq!(stated, Some(Change::Rests(secs(432))));
    let more = desk.one(Report::ModelQuota(None), hour + secs(432));
    assert_eq!(more, Some(Change::Rests(6 * hour)));
    // Nothing is known of the minute's limit: after one probe as many go as come.
    desk.one(Report::Accepted, 8 * hour);
    assert_eq!(desk.indices(3, 8 * hour), [0, 0, 0]);
    let anew = desk.one(Report::ModelQuota(None), 8 * hour + secs(1));
    assert_eq!(anew, Some(Change::Rests(hour)));
}

#[test]
fn a_herd_that_spends_a_quota_counts_as_one() {
    let mut desk = Desk::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|_| desk.take(T0)).collect();
    let quota = Report::Quota(None);
    let news: Vec<_> = herd
        .iter()
        .filter_map(|p| desk.report(p, quota, ms(5)))
        .collect();
    assert_eq!(news, [Change::Parked(secs(3600))]);
}

#[test]
fn a_rejected_key_is_out_and_when_all_are_the_pool_says_so() {
    let mut desk = Desk::new(2, SETTINGS);
    let (one, two, again) = (desk.take(T0), desk.take(T0), desk.take(T0));
    assert_eq!(
        desk.report(&one, Report::Rejected(401), T0),
        Some(Change::Out)
    );
    assert_eq!(
        desk.report(&again, Report::Rejected(401), T0),
        None,
        "one log line"
    );
    assert_eq!(desk.indices(2, T0), [1, 1]);
    assert_eq!(desk.pool.condemn(&two), Some(Change::Out));
    assert_eq!(desk.pick(secs(999)), Pick::AllRejected);
    assert_eq!(
        desk.states(T0),
        [State::Rejected(401), State::Rejected(403)]
    );
}

#[test]
fn neither_network_nor_provider_cost_a_key_anything() {
    let mut desk = Desk::new(1, SETTINGS);
    for report in [Report::NoAnswer, Report::NotSent, Report::Unclear] {
        assert_eq!(desk.one(report, T0), None, "{report:?}");
        assert_eq!(desk.states(T0), [State::Ready]);
    }
}

// ---- capacity -----------------------------------------------------------------------------------

#[test]
fn a_model_without_capacity_takes_half_as_many_after_a_gap_and_no_key_suffers() {
    let mut desk = Desk::new(3, SETTINGS);
    let herd: Vec<Picked> = (0..8).map(|_| desk.take(T0)).collect();
    let crowded = Report::Crowded(None);
    assert_eq!(
        desk.report(&herd[0], crowded, T0),
        Some(Change::Capacity(4))
    );
    assert_eq!(desk.report(&herd[1], crowded, T0), None, "the same event");
    assert_eq!(desk.states(T0), [State::Ready; 3]);
    assert_eq!(desk.wait(T0), secs(2));
    herd[..4]
        .iter()
        .for_each(|picked| desk.pool.release(picked));
    assert_eq!(desk.wait(secs(2)), secs(2), "four are still under way");
    desk.pool.release(&herd[4]);
    desk.take(secs(2));
    assert_eq!(desk.wait(secs(2)), secs(2));
    assert_eq!(desk.pool.models()[1].capacity, Some(4));
}

#[test]
fn capacity_comes_back_by_one_a_minute_and_wholly_after_thirty() {
    let mut desk = Desk::new(3, SETTINGS);
    let first = desk.take(T0);
    desk.report(&first, Report::Crowded(None), T0);
    assert_eq!(desk.wait(secs(2)), secs(2), "one at a time");
    desk.take(secs(60));
    assert_eq!(desk.wait(secs(60)), secs(60), "two");
    desk.take(secs(120));
    assert_eq!(desk.wait(secs(120)), secs(120), "three");
    for _ in 0..100 {
        desk.take(secs(1800));
    }
}

// ---- waiting ------------------------------------------------------------------------------------

#[test]
fn waiters_are_served_in_the_order_they_came() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.one(limited(5), T0);
    let (lane, t1) = (desk.lane, desk.t0 + secs(5));
    let (a, b) = (desk.queue_up(), desk.queue_up());
    let with = |ticket| Asker {
        ticket: Some(ticket),
        ..Asker::default()
    };
    assert_eq!(
        desk.pool.pick(lane, with(b), t1),
        Pick::Wait(t1),
        "b came second"
    );
    assert_eq!(desk.pick(secs(5)), Pick::Wait(t1), "a newcomer comes last");
    let Pick::Key(picked) = desk.pool.pick(lane, with(a), t1) else {
        panic!("a is first")
    };
    desk.pool.report(&picked, Report::Accepted, t1);
    assert!(matches!(desk.pool.pick(lane, with(b), t1), Pick::Key(..)));
    assert_eq!(desk.pool.waiting(), 0);
}

#[test]
fn a_request_that_is_refused_does_not_start_over_behind_the_others() {
    let mut desk = Desk::new(1, SETTINGS);
    let (lane, first) = desk.pool.enter("m", desk.t0);
    desk.one(limited(5), T0);
    let second = desk.queue_up();
    let at = desk.t0 + secs(5);
    for (ticket, is_first) in [(second, false), (first, true)] {
        desk.pool.queue_up(lane, first);
        let asker = Asker {
            ticket: Some(ticket),
            ..Asker::default()
        };
        let picked = desk.pool.pick(lane, asker, at);
        assert_eq!(matches!(picked, Pick::Key(_)), is_first, "{picked:?}");
    }
}

#[test]
fn nobody_waits_behind_a_request_that_ended_in_the_queue() {
    let mut desk = Desk::new(1, SETTINGS);
    let ended = desk.queue_up();
    assert!(matches!(desk.pick(T0), Pick::Wait(_)));
    desk.pool.exit(desk.lane, ended); // as after a panic
    assert!(matches!(desk.pick(T0), Pick::Key(_)));
}

#[test]
fn a_waiter_that_leaves_lets_the_next_one_pass() {
    let mut desk = Desk::new(1, SETTINGS);
    let (a, b) = (desk.queue_up(), desk.queue_up());
    desk.pool.leave(desk.lane, a);
    let asker = Asker {
        ticket: Some(b),
        ..Asker::default()
    };
    assert!(matches!(
        desk.pool.pick(desk.lane, asker, desk.t0),
        Pick::Key(..)
    ));
}

// ---- counters, reloads, bounds ------------------------------------------------------------------

#[test]
fn attempts_are_counted_by_what_became_of_them() {
    let mut desk = Desk::new(1, SETTINGS);
    let (first, second, _third) = (desk.take(T0), desk.take(T0), desk.take(T0));
    desk.report(&first, Report::NoAnswer, T0);
    desk.report(&second, UNSAID, T0);
    desk.pool.release(&first);
    desk.pool.release(&second);
    let view = &desk.pool.snapshot(desk.t0 + secs(3))[0];
    let expected = Counts {
        requests: 3,
        limited: 1,
        no_answer: 1,
        in_flight: 1,
        ..Counts::default()
    };
    assert_eq!(view.counts, expected);
    assert_eq!(view.last_used, Some(secs(3)));
    assert_eq!(view.label, "…0000");
}

fn remembered(pool: &Pool) -> usize {
    pool.slots.iter().flatten().count()
}

fn with_keys(names: &[&str]) -> (Desk, Vec<ApiKey>) {
    let keys: Vec<ApiKey> = names.iter().map(|name| key(name)).collect();
    let mut desk = Desk::new(0, SETTINGS);
    desk.pool.merge(&keys, SETTINGS);
    (desk, keys)
}

#[test]
fn a_reload_keeps_the_rest_and_the_counters_of_keys_that_stay() {
    let (mut desk, _) = with_keys(&["a", "b"]);
    desk.one(limited(9), T0);
    let merged = desk.pool.merge(&[key("c"), key("a")], SETTINGS);
    let expected = Merged {
        new: 1,
        removed: 1,
        revived: 0,
    };
    assert_eq!(merged, expected);
    assert_eq!(desk.states(T0), [State::Ready, State::Cooling(secs(9))]);
    assert_eq!(desk.pool.snapshot(desk.t0)[1].counts.requests, 1);
    assert_eq!(desk.indices(2, T0), [0, 0], "only c is ready");
    assert_eq!(desk.indices(2, secs(9)), [0, 1], "a has its new index");
}

#[test]
fn a_removed_key_finishes_what_it_carries_and_is_forgotten() {
    let (mut desk, _) = with_keys(&["a", "b"]);
    let carried: Vec<Picked> = (0..3)
        .map(|_| desk.take(T0))
        .filter(|p| p.index == 0)
        .collect();
    desk.pool.merge(&[key("b")], SETTINGS);
    assert_eq!(desk.report(&carried[0], UNSAID, T0), None);
    assert_eq!(desk.report(&carried[1], Report::Rejected(401), T0), None);
    assert_eq!(remembered(&desk.pool), 2);
    carried.iter().for_each(|picked| desk.pool.release(picked));
    assert_eq!(remembered(&desk.pool), 1);
    assert_eq!(desk.pool.condemn(&carried[0]), None, "forgotten");
    assert_eq!(desk.indices(2, T0), [0, 0]);
}

#[test]
fn a_rejected_key_that_is_still_listed_is_tried_again_after_a_reload() {
    let (mut desk, keys) = with_keys(&["a"]);
    desk.one(Report::Rejected(401), T0);
    assert_eq!(desk.pick(T0), Pick::AllRejected);
    assert_eq!(desk.pool.merge(&keys, SETTINGS).revived, 1);
    assert_eq!(desk.indices(1, T0), [0]);
}

#[test]
fn a_key_that_comes_back_while_its_old_self_is_in_flight_starts_anew() {
    let (mut desk, keys) = with_keys(&["a", "b"]);
    let old = desk.take(T0);
    desk.pool.merge(&keys[1..], SETTINGS);
    assert_eq!(desk.pool.merge(&keys, SETTINGS).new, 1);
    desk.pool.release(&old);
    assert_eq!(remembered(&desk.pool), 2);
}

#[test]
fn the_table_of_models_is_bounded_and_forgets_the_one_unused_for_the_longest() {
    let mut desk = Desk::new(1, SETTINGS); // "m" stays: its request is under way
    for n in 0..10_000 {
        let at = desk.t0 + secs(n);
        let (lane, ticket) = desk.pool.enter(&format!("model-{n}"), at);
        assert_ne!(lane, LaneId(0), "there is room");
        desk.pool.exit(lane, ticket);
    }
    let models = desk.pool.models();
    assert_eq!(models.len(), MAX_LANES);
    assert!(models.iter().any(|view| view.model == "m"));
    assert!(models.iter().any(|view| view.model == "model-9999"));
    let (long, _) = desk.pool.enter(&"x".repeat(200), desk.t0);
    assert_eq!(
        long,
        LaneId(0),
        "no name is too long, but some are not kept"
    );
    for n in 0..MAX_LANES {
        desk.pool.enter(&format!("busy-{n}"), desk.t0);
    }
    assert_eq!(desk.pool.enter("one-too-many", desk.t0).0, LaneId(0));
}

#[test]
fn a_long_day_leaves_no_old_entries_behind() {
    let mut desk = Desk::new(5, SETTINGS);
    for n in 0..10_000_u64 {
        let at = ms(500 * n);
        if let Pick::Key(picked) = desk.pick(at) {
            let report = match n % 3 {
                0 => limited(n % 7 + 1),
                _ => Report::Accepted,
            };
            desk.report(&picked, report, at);
            desk.pool.release(&picked);
        }
    }
    let entries = desk.pool.lanes[1].entries();
    assert!(entries <= 25, "{entries}");
}

#[test]
fn an_absurd_cooldown_does_not_overflow() {
    let absurd = Settings {
        cooldown: Duration::MAX,
        ..SETTINGS
    };
    let mut desk = Desk::new(1, absurd);
    desk.one(UNSAID, T0);
    assert!(matches!(desk.pick(T0), Pick::Wait(_)));
}

// ---- over a restart ---------------------------------------------------------------------------

#[test]
fn what_one_pool_knows_of_its_keys_another_takes_up() {
    let salt = [7; SALT];
    let mut old = Desk::new(4, SETTINGS);
    old.one(limited(300), T0);
    old.one(Report::Quota(Some(secs(7200))), T0);
    old.one(Report::Rejected(401), T0);
    old.one(Report::Accepted, T0);
    let limits = old.pool.limits(&salt, old.t0 + secs(100));
    let left = |limit: &Limit| limit.until.map_or(T0, |at| at - (old.t0 + secs(100)));
    let entries: Vec<Entry> = limits
        .iter()
        .map(|limit| Entry {
            key: limit.key,
            model: limit.model.clone(),
            kind: limit.kind,
            left: left(limit),
        })
        .collect();
    // Another order, and one key fewer; the other is new.
    let mut names = keys(5);
    names.reverse();
    names.truncate(4);
    let t0 = Instant::now();
    let mut pool = Pool::new(&names, SETTINGS, t0);
    assert_eq!(pool.restore(&salt, &entries, t0), 2);
    let states: Vec<_> = pool.snapshot(t0).iter().map(|view| view.state).collect();
    let known = [State::Rejected(401), State::Parked(secs(7100))];
    assert_eq!(states, [State::Ready, State::Ready, known[0], known[1]]);
    let mut pool = Pool::new(&keys(4), SETTINGS, t0);
    assert_eq!(pool.restore(&salt, &entries, t0), 3);
    assert_eq!(pool.limits(&salt, t0).len(), 3);
    // The rest is for one model, and after it the key is on probation as before.
    let mut new = Desk {
        lane: pool.enter("m", t0).0,
        pool,
        t0,
    };
    assert_eq!(new.indices(2, T0), [3, 3]);
    assert_eq!(new.states(T0)[0], State::Cooling(secs(200)));
    let (other, _) = new.pool.enter("other", t0);
    assert!(matches!(
        new.pool.pick(other, Asker::default(), t0),
        Pick::Key(picked) if picked.index == 0
    ));
    assert_eq!(new.pool.limits(&salt, t0 + secs(201)).len(), 2);
}

#[test]
fn a_key_whose_quota_is_back_is_probed_and_not_stormed() {
    let mut desk = Desk::new(1, SETTINGS);
    desk.one(Report::Quota(Some(COOLDOWN)), Duration::ZERO);
    let probe = desk.take(COOLDOWN);
    let at = desk.t0 + COOLDOWN + PROBE_GAP;
    assert_eq!(desk.pick(COOLDOWN), Pick::Wait(at));
    desk.report(&probe, Report::Accepted, COOLDOWN);
    desk.take(COOLDOWN);
    desk.take(COOLDOWN);
}
