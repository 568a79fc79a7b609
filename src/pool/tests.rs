use super::*;
use crate::secret::SALT;
use crate::state::SavedRest;
use crate::verdict::Verdict;

mod overload;
mod refusals;
mod walk;

const COOLDOWN: Duration = Duration::from_secs(60);

const SETTINGS: Settings = Settings {
    cooldown: COOLDOWN,
    pace: Pace::Off,
    rotation: Rotation::RoundRobin,
    attempts: 10_000,
};

fn key(name: &str) -> ApiKey {
    ApiKey::new(format!("test-key-number-{name}"))
}

fn keys(n: usize) -> Vec<ApiKey> {
    (0..n).map(|i| key(&format!("{i:04}"))).collect()
}

/// A pool with one request of a model in it that asks again and again.
struct Fixture {
    pool: Pool,
    lane: LaneId,
    t0: Instant,
}

impl Pool {
    /// The state of all keys, in the order of the configuration.
    fn snapshot(&self, now: Instant) -> Vec<KeyView> {
        let mut seen = self.survey(usize::MAX, now);
        while self.survey_further(&mut seen, now) {}
        seen.listed
    }
}

impl Fixture {
    fn new(n: usize, settings: Settings) -> Fixture {
        let t0 = Instant::now();
        let mut pool = Pool::new(&keys(n), settings, t0);
        let (lane, _) = pool.enter("m", t0);
        Fixture { pool, lane, t0 }
    }

    /// Another request comes and has to wait.
    fn queue_up(&mut self) -> Ticket {
        let (lane, ticket) = self.pool.enter("m", self.t0);
        self.pool.lanes[lane.0].queue_up(ticket, false);
        ticket
    }

    fn pick(&mut self, after: Duration) -> Pick {
        self.pool
            .pick(self.lane, PickRequest::default(), self.t0 + after)
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

    fn states(&self, after: Duration) -> Vec<KeyState> {
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
fn rests(rest: Duration) -> Change {
    Change::Rests(RestReason::Limited, rest)
}

const ACCEPTED: Report = Report::Answered(Verdict::Pass, 200);
const UNSAID: Report = Report::Answered(Verdict::Limited(None), 429);
const QUOTA: Report = Report::Answered(Verdict::Quota, 429);
const OVERLOADED: Report = Report::Answered(Verdict::Overloaded(None), 503);
const REFUSED: Report = refusal(false);

const fn refusal(names_key: bool) -> Report {
    Report::Answered(Verdict::Refused { names_key }, 401)
}

/// Why a key rests that was refused.
fn out(names_key: bool) -> RestReason {
    let status = 401;
    RestReason::Refused { status, names_key }
}

fn limited(n: u64) -> Report {
    Report::Answered(Verdict::Limited(Some(secs(n))), 429)
}

// ---- turns ------------------------------------------------------------------------------------

#[test]
fn ready_keys_take_turns_evenly() {
    let mut fixture = Fixture::new(3, SETTINGS);
    assert_eq!(fixture.indices(7, T0), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn a_new_model_goes_on_where_the_others_are() {
    let mut fixture = Fixture::new(3, SETTINGS);
    fixture.take(T0);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    let picked = fixture.pool.pick(other, PickRequest::default(), fixture.t0);
    assert!(
        matches!(picked, Pick::Key(Picked { index: 1, .. })),
        "{picked:?}"
    );
}

#[test]
fn a_conversation_stays_with_its_key_and_spills_over_while_that_rests() {
    let sticky = Settings {
        rotation: Rotation::Sticky,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(5, sticky);
    let (lane, t0) = (fixture.lane, fixture.t0);
    let ask = |fixture: &mut Fixture, conversation, after| {
        let request = PickRequest {
            conversation: Some(conversation),
            ..PickRequest::default()
        };
        match fixture.pool.pick(lane, request, t0 + after) {
            Pick::Key(picked) => picked,
            other => panic!("{other:?}"),
        }
    };
    let mut used = [false; 5];
    for conversation in 0..50 {
        let home = ask(&mut fixture, conversation, T0).index;
        used[home] = true;
        assert_eq!(ask(&mut fixture, conversation, T0).index, home);
    }
    assert_eq!(used, [true; 5], "all keys have conversations");
    let home = ask(&mut fixture, 7, T0);
    fixture.report(&home, limited(9), T0);
    let elsewhere = ask(&mut fixture, 7, T0).index;
    assert_ne!(elsewhere, home.index);
    assert_eq!(
        ask(&mut fixture, 7, secs(1)).index,
        elsewhere,
        "spills to one key"
    );
    assert_eq!(
        ask(&mut fixture, 7, secs(9)).index,
        home.index,
        "and comes back"
    );
}

// ---- rests ------------------------------------------------------------------------------------

#[test]
fn of_thousands_of_keys_a_conversation_knows_a_few_and_a_new_key_moves_few_conversations() {
    let sticky = Settings {
        rotation: Rotation::Sticky,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1_000, sticky);
    let (lane, t0) = (fixture.lane, fixture.t0);
    let ask = |fixture: &mut Fixture, n: u64, report: Report| {
        let request = PickRequest {
            conversation: Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..PickRequest::default()
        };
        match fixture.pool.pick(lane, request, t0) {
            Pick::Key(picked) => {
                fixture.report(&picked, report, T0);
                picked
            }
            other => panic!("{other:?}"),
        }
    };
    let homes: Vec<Picked> = (0..4_000).map(|n| ask(&mut fixture, n, ACCEPTED)).collect();
    let mut used = vec![0; 1_000];
    homes.iter().for_each(|home| used[home.index] += 1);
    assert!(used.iter().all(|n| *n < 20), "a fair share is 4");
    let mut more = keys(1_000);
    more.insert(500, key("new"));
    fixture.pool.merge(&more, sticky, t0);
    let moved =
        (0..4_000).filter(|n| ask(&mut fixture, *n, ACCEPTED).key != homes[*n as usize].key);
    let moved = moved.count();
    assert!(moved < 400, "{moved}");

    // Resting keys are passed over, even all that a conversation knows; then it returns.
    let home = ask(&mut fixture, 7, ACCEPTED);
    for n in 0..990 {
        ask(&mut fixture, n, limited(9));
    }
    let away = ask(&mut fixture, 7, ACCEPTED);
    assert_ne!(away.index, home.index);
    assert_eq!(ask(&mut fixture, 7, ACCEPTED).index, away.index);
    let entries = fixture.pool.lanes[0].entries();
    assert!(entries < 4_000, "they are tidied up: {entries}");
}

#[test]
fn a_limited_key_rests_for_the_cooldown_and_comes_back() {
    let mut fixture = Fixture::new(2, SETTINGS);
    assert_eq!(fixture.one(UNSAID, T0), Some(rests(COOLDOWN)));
    assert_eq!(fixture.indices(2, T0), [1, 1]);
    assert_eq!(
        fixture.states(secs(18)),
        [KeyState::Cooling(secs(42)), KeyState::Ready]
    );
    assert_eq!(fixture.indices(2, COOLDOWN), [1, 0]);
}

#[test]
fn a_stated_rest_wins_over_the_cooldown() {
    let mut fixture = Fixture::new(1, SETTINGS);
    assert_eq!(fixture.one(limited(5), T0), Some(rests(secs(5))));
    assert_eq!(fixture.wait(T0), secs(5));
}

#[test]
fn refusals_that_say_nothing_rest_a_key_longer_each_time_until_one_request_succeeds() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let mut at = T0;
    for rest in [60, 120, 240, 480, 900, 900, 900] {
        assert_eq!(fixture.one(UNSAID, at), Some(rests(secs(rest))));
        at += secs(rest);
    }
    assert_eq!(fixture.one(limited(5), at), Some(rests(secs(5))));
    at += secs(5);
    assert_eq!(fixture.one(ACCEPTED, at), Some(Change::Recovered));
    assert_eq!(fixture.one(UNSAID, at + secs(1)), Some(rests(secs(60))));
}

#[test]
fn a_rest_is_extended_but_never_cut_short() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..5).map(|_| fixture.take(T0)).collect();
    assert!(fixture.report(&herd[0], limited(100), ms(1)).is_some());
    assert_eq!(fixture.report(&herd[1], limited(5), ms(1)), None);
    assert_eq!(
        fixture.report(&herd[2], ACCEPTED, ms(1)),
        None,
        "an older request"
    );
    assert_eq!(fixture.wait(ms(1)), secs(100) + ms(1));
    assert_eq!(
        fixture.report(&herd[3], limited(200), ms(1)),
        None,
        "one log line"
    );
    assert_eq!(fixture.wait(ms(1)), secs(200) + ms(1));
}

#[test]
fn a_herd_of_refusals_counts_as_one() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|_| fixture.take(T0)).collect();
    let news: Vec<_> = herd
        .iter()
        .filter_map(|p| fixture.report(p, UNSAID, ms(5)))
        .collect();
    assert_eq!(news, [rests(COOLDOWN)]);
    assert_eq!(fixture.wait(ms(5)), COOLDOWN + ms(5));
}

#[test]
fn a_thread_that_looked_at_the_clock_before_another_one_changes_nothing() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..8).map(|n| fixture.take(ms(n))).collect();
    for picked in &herd[..6] {
        fixture.report(picked, ACCEPTED, ms(10));
    }
    // Both were sent when the first refusal came, although its thread read the clock before that.
    assert!(fixture.report(&herd[6], limited(10), ms(3)).is_some());
    assert_eq!(fixture.report(&herd[7], limited(10), ms(10)), None);
    herd.iter().for_each(|picked| fixture.pool.release(picked));
    let at = secs(11);
    for _ in 0..6 {
        fixture.one(ACCEPTED, at);
    }
    assert!(fixture.wait(at) > at, "six is what it takes");
}

#[test]
fn a_limit_holds_for_its_model_alone() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.one(UNSAID, T0);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    let picked = fixture.pool.pick(other, PickRequest::default(), fixture.t0);
    assert!(matches!(picked, Pick::Key(..)), "{picked:?}");
    let view = &fixture.pool.snapshot(fixture.t0)[0];
    assert_eq!(view.state, KeyState::Cooling(COOLDOWN));
    assert_eq!(view.models, [("m".to_owned(), KeyState::Cooling(COOLDOWN))]);
    assert!(view.serves, "the other model");
}

#[test]
fn a_key_that_rests_for_the_only_kind_of_path_serves_nobody() {
    let t0 = Instant::now();
    let mut pool = Pool::new(&keys(1), SETTINGS, t0);
    assert!(pool.snapshot(t0)[0].serves, "as far as anybody knows");
    let (lane, _) = pool.enter("/chat", t0);
    let Pick::Key(picked) = pool.pick(lane, PickRequest::default(), t0) else {
        panic!("no key");
    };
    pool.report(&picked, limited(COOLDOWN.as_secs()), t0);
    assert!(!pool.snapshot(t0)[0].serves);
    assert!(pool.snapshot(t0 + COOLDOWN)[0].serves);
}

#[test]
fn a_key_serves_while_a_model_of_late_can_have_it() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.pool.enter("/models", fixture.t0); // GET /v1/models is no measure
    fixture.one(UNSAID, T0);
    assert!(!fixture.pool.snapshot(fixture.t0)[0].serves);
    assert!(fixture.pool.snapshot(fixture.t0 + COOLDOWN)[0].serves);
}

// ---- probes -----------------------------------------------------------------------------------

#[test]
fn after_a_rest_one_request_probes_before_the_others_follow() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let t1 = COOLDOWN;
    for _ in 0..3 {
        fixture.one(ACCEPTED, T0);
    }
    fixture.one(UNSAID, T0);
    let probe = fixture.take(t1);
    assert_eq!(fixture.wait(t1), t1 + PROBE_GAP);
    assert_eq!(
        fixture.states(t1),
        [KeyState::Ready],
        "a probe is not a fault"
    );
    assert_eq!(
        fixture.report(&probe, ACCEPTED, t1),
        Some(Change::Recovered)
    );
    assert_eq!(fixture.indices(2, t1), [0, 0]);
}

#[test]
fn a_slow_probe_holds_the_others_back_for_a_gap_only() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.one(UNSAID, T0);
    fixture.take(COOLDOWN);
    assert_eq!(fixture.wait(COOLDOWN + ms(300)), COOLDOWN + PROBE_GAP);
    fixture.take(COOLDOWN + PROBE_GAP);
    assert_eq!(fixture.wait(COOLDOWN + PROBE_GAP), COOLDOWN + 2 * PROBE_GAP);
}

#[test]
fn a_key_gets_as_many_requests_as_it_took_before_its_429() {
    let mut fixture = Fixture::new(1, SETTINGS);
    for _ in 0..5 {
        fixture.one(ACCEPTED, T0);
    }
    fixture.one(limited(10), T0);
    let at = secs(10);
    for _ in 0..5 {
        fixture.one(ACCEPTED, at);
    }
    assert_eq!(
        fixture.wait(at),
        secs(20),
        "a window later, and nobody is refused"
    );
    assert_eq!(fixture.states(at), [KeyState::Throttled(secs(10))]);
}

/// Of so many windows of ten seconds those in which a key is refused that is asked for all it may be.
fn refused_windows(fixture: &mut Fixture, limit: u32, windows: u64) -> Vec<u64> {
    let mut refused = Vec::new();
    for window in 0..windows {
        let at = secs(10 * window);
        let mut used = 0;
        while let Pick::Key(picked) = fixture.pick(at) {
            used += 1;
            if used > limit {
                refused.push(window);
                fixture.report(&picked, limited(10), at);
            } else {
                fixture.report(&picked, ACCEPTED, at);
            }
            fixture.pool.release(&picked);
        }
        assert!(used >= limit, "{window}: {used}");
        assert_eq!(fixture.wait(at), at + secs(10), "{window}");
    }
    refused
}

#[test]
fn a_limit_that_was_confirmed_is_asked_about_less_and_less() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let refused = refused_windows(&mut fixture, 6, 60);
    assert_eq!(refused, [0, 7, 20, 45]);
}

#[test]
fn a_small_limit_has_to_be_confirmed_more_often() {
    let mut fixture = Fixture::new(1, SETTINGS);
    assert_eq!(refused_windows(&mut fixture, 1, 9), [0, 1, 2, 3, 4]);
    let mut fixture = Fixture::new(1, SETTINGS);
    assert_eq!(refused_windows(&mut fixture, 2, 9), [0, 1, 2]);
}

#[test]
fn a_window_is_as_short_as_was_seen_although_a_rest_was_longer() {
    let mut fixture = Fixture::new(1, SETTINGS);
    // Asked about in the second of these, as the limit is kept for six windows in between.
    for (at, rest) in [(0, 10), (80, 15)] {
        for _ in 0..6 {
            fixture.one(ACCEPTED, secs(at));
        }
        assert!(fixture.one(limited(rest), secs(at)).is_some());
    }
    for _ in 0..6 {
        fixture.one(ACCEPTED, secs(95));
    }
    assert_eq!(fixture.wait(secs(95)), secs(105));
}

#[test]
fn an_accepted_request_counts_although_its_answer_comes_after_a_refusal() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..6).map(|_| fixture.take(T0)).collect();
    fixture.report(&herd[5], limited(10), ms(1));
    for picked in &herd[..5] {
        fixture.report(picked, ACCEPTED, ms(2));
    }
    // Five go at once, as before.
    let at = secs(11);
    fixture.one(ACCEPTED, at);
    for _ in 0..4 {
        fixture.take(at);
    }
    assert!(matches!(fixture.pick(at), Pick::Wait(_)));
}

#[test]
fn a_request_that_was_not_sent_does_not_count_as_taken() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|n| fixture.take(ms(n))).collect();
    for (n, picked) in herd.iter().enumerate() {
        let report = match n {
            0 => limited(10),
            1 | 2 => Report::NotSent, // a connection that was dead, as it turned out
            _ => ACCEPTED,
        };
        fixture.report(picked, report, ms(10));
        fixture.pool.release(picked);
    }
    let at = secs(11);
    for _ in 0..6 {
        fixture.one(ACCEPTED, at);
    }
    assert!(fixture.wait(at) > at, "six is what it takes");
}

#[test]
fn a_limit_that_is_lower_than_confirmed_is_learned_anew() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let mut at = T0;
    for limit in [6, 6, 2, 6, 6] {
        for _ in 0..limit {
            fixture.one(ACCEPTED, at);
        }
        if let Pick::Key(picked) = fixture.pick(at) {
            fixture.report(&picked, limited(10), at);
        }
        at += secs(10);
    }
    // After the two nothing is confirmed: more than six are asked for.
    assert!(matches!(fixture.pick(at), Pick::Key(_)));
}

#[test]
fn beyond_what_was_proven_each_success_lets_more_through() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.one(limited(5), T0);
    let at = secs(5);
    for at_once in [1, 2, 4, 8] {
        let picked: Vec<Picked> = (0..at_once).map(|_| fixture.take(at)).collect();
        assert!(matches!(fixture.pick(at), Pick::Wait(_)), "{at_once}");
        fixture.report(&picked[0], ACCEPTED, at);
        for picked in &picked[1..] {
            fixture.report(picked, Report::Unclear, at);
        }
    }
}

/// Two keys that were asked in turn, `n` requests each, and accepted; then the first one met its limit.
fn two_keys_and_one_met_its_limit(n: u32) -> Fixture {
    let mut fixture = Fixture::new(2, SETTINGS);
    for _ in 0..2 * n {
        fixture.one(ACCEPTED, T0);
    }
    assert_eq!(fixture.one(limited(600), T0), Some(rests(secs(600))));
    fixture
}

#[test]
fn a_key_is_careful_where_another_one_met_its_limit_until_it_took_more() {
    let mut fixture = two_keys_and_one_met_its_limit(4);
    let picked = fixture.take(T0);
    assert_eq!(fixture.wait(T0), PROBE_GAP);
    fixture.report(&picked, ACCEPTED, T0);
    assert_eq!(fixture.indices(50, T0), [1; 50]);
}

#[test]
fn a_key_whose_answers_are_slow_took_more_once_a_later_request_is_accepted() {
    let mut fixture = two_keys_and_one_met_its_limit(4);
    let picked: Vec<Picked> = (60..80).map(|n| fixture.take(secs(n))).collect();
    assert_eq!(fixture.wait(secs(79)), secs(80));
    fixture.report(&picked[10], ACCEPTED, secs(79));
    assert_eq!(fixture.indices(50, secs(79)), [1; 50]);
}

#[test]
fn a_key_that_is_not_in_the_configuration_any_more_makes_no_other_one_careful() {
    let mut fixture = two_keys_and_one_met_its_limit(4);
    fixture.pool.merge(&keys(2)[1..], SETTINGS, fixture.t0);
    assert_eq!(fixture.indices(50, T0), [0; 50]);
}

#[test]
fn a_key_takes_as_many_at_once_as_another_took() {
    let mut fixture = Fixture::new(2, SETTINGS);
    for report in [ACCEPTED, Report::NotSent].repeat(4) {
        fixture.one(report, T0);
    }
    fixture.one(limited(60), T0);
    assert_eq!(fixture.indices(4, T0), [1; 4]);
    assert_eq!(fixture.wait(T0), PROBE_GAP);
}

// ---- pace -------------------------------------------------------------------------------------

#[test]
fn a_fixed_pace_lets_so_many_through_in_any_minute() {
    let pace = Settings {
        pace: Pace::Fixed(3),
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1, pace);
    for at in [0, 10, 20] {
        fixture.one(ACCEPTED, secs(at));
    }
    assert_eq!(fixture.wait(secs(30)), secs(60));
    assert_eq!(fixture.states(secs(30)), [KeyState::Throttled(secs(30))]);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    let picked = fixture
        .pool
        .pick(other, PickRequest::default(), fixture.t0 + secs(30));
    assert!(
        matches!(picked, Pick::Wait(_)),
        "it holds for the key: {picked:?}"
    );
    fixture.one(ACCEPTED, secs(60));
    assert_eq!(fixture.wait(secs(61)), secs(70));
}

#[test]
fn a_request_that_was_not_sent_does_not_count_towards_the_pace() {
    let pace = Settings {
        pace: Pace::Fixed(1),
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1, pace);
    fixture.one(Report::NotSent, T0);
    fixture.one(ACCEPTED, secs(1));
    assert_eq!(fixture.wait(secs(2)), secs(61));
}

#[test]
fn an_automatic_pace_trusts_a_limit_at_first_sight_and_seldom_asks_for_more() {
    let pace = Settings {
        pace: Pace::Auto,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1, pace);
    assert_eq!(refused_windows(&mut fixture, 6, 60), [0, 17, 50]);
}

#[test]
fn neither_network_nor_provider_cost_a_key_anything() {
    let mut fixture = Fixture::new(1, SETTINGS);
    for report in [Report::NoAnswer, Report::NotSent, Report::Unclear] {
        assert_eq!(fixture.one(report, T0), None, "{report:?}");
        assert_eq!(fixture.states(T0), [KeyState::Ready]);
    }
}

// ---- waiting ------------------------------------------------------------------------------------

#[test]
fn waiters_are_served_in_the_order_they_came() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.one(limited(5), T0);
    let (lane, t1) = (fixture.lane, fixture.t0 + secs(5));
    let (a, b) = (fixture.queue_up(), fixture.queue_up());
    let with = |ticket| PickRequest {
        ticket: Some(ticket),
        ..PickRequest::default()
    };
    assert_eq!(
        fixture.pool.pick(lane, with(b), t1),
        Pick::InTurn,
        "b came second"
    );
    assert_eq!(fixture.pick(secs(5)), Pick::InTurn, "a newcomer comes last");
    let Pick::Key(picked) = fixture.pool.pick(lane, with(a), t1) else {
        panic!("a is first")
    };
    fixture.pool.report(&picked, ACCEPTED, t1);
    assert!(matches!(
        fixture.pool.pick(lane, with(b), t1),
        Pick::Key(..)
    ));
    assert_eq!(fixture.pool.waiting(), 0);
}

#[test]
fn at_the_end_of_a_rest_the_first_request_wakes_and_wakes_the_next() {
    let mut fixture = Fixture::new(2, SETTINGS);
    fixture.one(limited(5), T0);
    fixture.one(limited(9), T0);
    let (a, b, c) = (fixture.queue_up(), fixture.queue_up(), fixture.queue_up());
    let mut pick = |ticket, after| {
        let request = PickRequest {
            ticket: Some(ticket),
            ..PickRequest::default()
        };
        let pick = fixture
            .pool
            .pick(fixture.lane, request, fixture.t0 + secs(after));
        (pick, fixture.pool.woken().collect::<Vec<_>>())
    };
    let at = |after| fixture.t0 + secs(after);
    assert_eq!(pick(a, 1).0, Pick::Wait(at(5)));
    assert_eq!(pick(b, 1).0, Pick::Behind(at(5)));
    let (found, woken) = pick(a, 5);
    assert!(
        matches!(found, Pick::Key(_)) && woken == [b],
        "{found:?} {woken:?}"
    );
    // The other key is what b waits for now; c still need not look.
    fixture.pool.leave(fixture.lane, b);
    assert_eq!(fixture.pool.woken().collect::<Vec<_>>(), [c]);
}

#[test]
fn a_herd_that_was_refused_as_a_whole_teaches_no_limit() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..20).map(|_| fixture.take(T0)).collect();
    for picked in &herd {
        fixture.report(picked, limited(3), ms(1));
        fixture.pool.release(picked);
    }
    // One request probes, then more and more go: nothing is held back for a window.
    for _ in 0..20 {
        fixture.one(ACCEPTED, secs(4));
    }
    assert_eq!(fixture.states(secs(4)), [KeyState::Ready]);
}

#[test]
fn where_all_lanes_are_taken_a_models_limits_hold_nobody_else_up() {
    let mut fixture = Fixture::new(2, SETTINGS);
    for n in 1..MAX_LANES {
        fixture.pool.enter(&format!("waits {n}"), fixture.t0);
    }
    let (hostile, _) = fixture.pool.enter("hostile", fixture.t0);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    assert!(hostile == other && fixture.pool.lanes[other.0].is_shared());
    for report in [limited(9999), UNSAID, QUOTA, OVERLOADED, REFUSED] {
        let Pick::Key(picked) = fixture
            .pool
            .pick(hostile, PickRequest::default(), fixture.t0)
        else {
            panic!("no key after {report:?}")
        };
        let kept = fixture.report(&picked, report, T0);
        assert_eq!(kept, (report != REFUSED).then_some(Change::Unkept));
        fixture.pool.release(&picked);
        assert_eq!(fixture.pool.eject(&picked, out(false), fixture.t0), None);
    }
    let found = fixture.pool.pick(other, PickRequest::default(), fixture.t0);
    assert!(matches!(found, Pick::Key(_)), "{found:?}");
}

#[test]
fn the_shared_lane_takes_no_models_place_and_is_made_once() {
    let mut fixture = Fixture::new(2, SETTINGS); // "m" has the first place
    let (shared, _) = fixture.pool.enter(&"x".repeat(200), fixture.t0);
    for n in 1..MAX_LANES {
        let (lane, _) = fixture.pool.enter(&format!("busy {n}"), fixture.t0);
        assert!(lane != shared && !fixture.pool.lanes[lane.0].is_shared());
    }
    for round in 0..40 {
        let now = fixture.t0 + secs(round * 100);
        let models = (0..=fixture.pool.lanes.len()).map(|n| format!("{round} {n}"));
        let inside: Vec<_> = models.map(|m| fixture.pool.enter(&m, now)).collect();
        for (lane, ticket) in inside {
            fixture.pool.exit(lane, ticket);
        }
    }
    assert_eq!(fixture.pool.lanes.len(), MAX_LANES + 1);
}

#[test]
fn a_request_that_waits_for_one_key_is_woken_only_when_a_key_comes_back() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let theirs = fixture.take(T0);
    fixture.report(&theirs, limited(60), T0);
    fixture.pool.release(&theirs);
    let (lane, ticket) = fixture.pool.enter("m", fixture.t0);
    let pinned = PickRequest {
        ticket: Some(ticket),
        only: Some(&theirs),
        ..PickRequest::default()
    };
    let at = fixture.t0 + secs(60);
    assert_eq!(fixture.pool.pick(lane, pinned, fixture.t0), Pick::Wait(at));
    fixture.pool.woken().for_each(drop);
    for _ in 0..10 {
        fixture.one(ACCEPTED, secs(1));
    }
    assert_eq!(fixture.pool.woken().count(), 0);
    fixture.one(ACCEPTED, secs(60)); // its rest is over by then
    assert_eq!(fixture.pool.woken().collect::<Vec<_>>(), [ticket]);
}

#[test]
fn nobody_waits_behind_a_request_that_ended_in_the_queue() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let ended = fixture.queue_up();
    assert_eq!(fixture.pick(T0), Pick::InTurn);
    fixture.pool.exit(fixture.lane, ended); // as after a panic
    assert!(matches!(fixture.pick(T0), Pick::Key(_)));
}

#[test]
fn a_waiter_that_leaves_lets_the_next_one_pass() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let (a, b) = (fixture.queue_up(), fixture.queue_up());
    fixture.pool.leave(fixture.lane, a);
    let request = PickRequest {
        ticket: Some(b),
        ..PickRequest::default()
    };
    assert!(matches!(
        fixture.pool.pick(fixture.lane, request, fixture.t0),
        Pick::Key(..)
    ));
}

// ---- counters, reloads, bounds ------------------------------------------------------------------

#[test]
fn attempts_are_counted_by_what_became_of_them() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let (first, second, _third) = (fixture.take(T0), fixture.take(T0), fixture.take(T0));
    fixture.report(&first, Report::NoAnswer, T0);
    fixture.report(&second, UNSAID, T0);
    fixture.pool.release(&first);
    fixture.pool.release(&second);
    let view = &fixture.pool.snapshot(fixture.t0 + secs(3))[0];
    let expected = KeyCounts {
        requests: 3,
        limited: 1,
        no_answer: 1,
        in_flight: 1,
        ..KeyCounts::default()
    };
    assert_eq!(view.counts, expected);
    assert_eq!(view.last_used, Some(secs(3)));
    assert_eq!(view.label, "…0000");
}

fn remembered(pool: &Pool) -> usize {
    pool.slots.len() - pool.free.len()
}

fn with_keys(names: &[&str]) -> (Fixture, Vec<ApiKey>) {
    let keys: Vec<ApiKey> = names.iter().map(|name| key(name)).collect();
    let mut fixture = Fixture::new(0, SETTINGS);
    fixture.pool.merge(&keys, SETTINGS, fixture.t0);
    (fixture, keys)
}

#[test]
fn a_reload_may_give_a_key_another_name() {
    let (mut fixture, _) = with_keys(&["a"]);
    let named = ApiKey::named("home", key("a").expose());
    let merged = fixture.pool.merge(&[named], SETTINGS, fixture.t0);
    assert_eq!((merged.new, merged.removed), (0, 0));
    let name = fixture.pool.snapshot(fixture.t0).remove(0).name;
    assert_eq!(name.as_deref(), Some("home"));
}

#[test]
fn a_reload_keeps_the_rest_and_the_counters_of_keys_that_stay() {
    let (mut fixture, _) = with_keys(&["a", "b"]);
    fixture.one(limited(9), T0);
    let merged = fixture
        .pool
        .merge(&[key("c"), key("a")], SETTINGS, fixture.t0);
    let expected = Merged {
        new: 1,
        removed: 1,
        revived: 0,
    };
    assert_eq!(merged, expected);
    assert_eq!(
        fixture.states(T0),
        [KeyState::Ready, KeyState::Cooling(secs(9))]
    );
    assert_eq!(fixture.pool.snapshot(fixture.t0)[1].counts.requests, 1);
    assert_eq!(fixture.indices(2, T0), [0, 0], "only c is ready");
    assert_eq!(fixture.indices(2, secs(9)), [0, 1], "a has its new index");
}

#[test]
fn a_removed_key_finishes_what_it_carries_and_is_forgotten() {
    let (mut fixture, _) = with_keys(&["a", "b"]);
    let carried: Vec<Picked> = (0..3)
        .map(|_| fixture.take(T0))
        .filter(|p| p.index == 0)
        .collect();
    fixture.pool.merge(&[key("b")], SETTINGS, fixture.t0);
    assert_eq!(fixture.report(&carried[0], UNSAID, T0), None);
    assert_eq!(fixture.report(&carried[1], REFUSED, T0), None);
    assert_eq!(remembered(&fixture.pool), 2);
    carried
        .iter()
        .for_each(|picked| fixture.pool.release(picked));
    assert_eq!(remembered(&fixture.pool), 1);
    assert_eq!(
        fixture.pool.eject(&carried[0], out(false), fixture.t0),
        None
    );
    assert_eq!(fixture.indices(2, T0), [0, 0]);
}

#[test]
fn a_new_key_in_the_place_of_a_removed_one_starts_anew() {
    let (mut fixture, keys) = with_keys(&["a", "b"]);
    fixture.one(limited(9), T0);
    let [_, stays] = &keys[..] else { panic!() };
    for keys in [vec![stays.clone()], vec![stays.clone(), key("c")]] {
        fixture.pool.merge(&keys, SETTINGS, fixture.t0);
    }
    for _ in 0..2 {
        assert_eq!(fixture.one(ACCEPTED, secs(1)), None);
    }
}

#[test]
fn a_key_that_comes_back_while_its_old_self_is_in_flight_starts_anew() {
    let (mut fixture, keys) = with_keys(&["a", "b"]);
    let old = fixture.take(T0);
    fixture.pool.merge(&keys[1..], SETTINGS, fixture.t0);
    assert_eq!(fixture.pool.merge(&keys, SETTINGS, fixture.t0).new, 1);
    fixture.pool.release(&old);
    assert_eq!(remembered(&fixture.pool), 2);
}

#[test]
fn the_table_of_models_is_bounded_and_forgets_the_one_unused_for_the_longest() {
    let mut fixture = Fixture::new(1, SETTINGS); // "m" stays: its request is under way
    for n in 0..10_000 {
        let at = fixture.t0 + secs(n);
        let (lane, ticket) = fixture.pool.enter(&format!("model-{n}"), at);
        assert!(!fixture.pool.lanes[lane.0].is_shared(), "there is room");
        fixture.pool.exit(lane, ticket);
    }
    let models = fixture.pool.models(fixture.t0);
    assert_eq!(models.len(), MAX_LANES);
    assert!(models.iter().any(|view| view.model == "m"));
    assert!(models.iter().any(|view| view.model == "model-9999"));
    // No name is too long, but some have no lane of their own.
    let (shared, _) = fixture.pool.enter(&"x".repeat(200), fixture.t0);
    assert!(fixture.pool.lanes[shared.0].is_shared());
    for n in 0..MAX_LANES {
        fixture.pool.enter(&format!("busy-{n}"), fixture.t0);
    }
    assert_eq!(fixture.pool.enter("one-too-many", fixture.t0).0, shared);
}

#[test]
fn a_long_day_leaves_no_old_entries_behind() {
    let mut fixture = Fixture::new(5, SETTINGS);
    for n in 0..10_000_u64 {
        let at = ms(500 * n);
        if let Pick::Key(picked) = fixture.pick(at) {
            let report = match n % 3 {
                0 => limited(n % 7 + 1),
                _ => ACCEPTED,
            };
            fixture.report(&picked, report, at);
            fixture.pool.release(&picked);
        }
    }
    let entries = fixture.pool.lanes[0].entries();
    assert!(entries <= 25, "{entries}");
}

#[test]
fn of_many_keys_those_that_are_not_ready_are_shown_first_and_only_they_are_looked_at() {
    let mut fixture = Fixture::new(10_000, SETTINGS);
    let picked: Vec<Picked> = (0..9_000).map(|_| fixture.take(T0)).collect();
    for picked in &picked[1_000..1_300] {
        fixture.report(picked, limited(9), T0);
    }
    let out = fixture.pool.eject(&picked[8_000], out(false), fixture.t0);
    assert_eq!(out, Some(secs(60)));
    let survey = |fixture: &Fixture, after| {
        let now = fixture.t0 + after;
        let mut seen = fixture.pool.survey(MOST_SHOWN, now);
        while fixture.pool.survey_further(&mut seen, now) {}
        seen
    };
    let seen = survey(&fixture, T0);
    assert_eq!((seen.total, seen.states), (10_000, [9_699, 0, 300, 0, 1]));
    assert!(seen.serves);
    assert_eq!((seen.order.len(), seen.listed.len()), (301, MOST_SHOWN));
    let shown: Vec<usize> = seen.listed.iter().map(|key| key.index).collect();
    let ejected = std::iter::once(8_000);
    assert_eq!(shown, (1_000..1_255).chain(ejected).collect::<Vec<_>>());
    assert_eq!(seen.longest, secs(60));
    assert_eq!(
        (seen.counts.requests, seen.counts.in_flight),
        (9_000, 9_000)
    );
    assert_eq!(seen.counts.limited, 300);
    assert_eq!(
        fixture.pool.why_none(fixture.lane, fixture.t0),
        (10_000, 300, 1, false)
    );

    fixture.take(secs(10)); // the lane notes it
    let later = survey(&fixture, secs(10));
    assert_eq!(
        (later.order.len(), later.states),
        (MOST_SHOWN, [9_999, 0, 0, 0, 1])
    );
    let shown: Vec<usize> = later.listed.iter().map(|key| key.index).collect();
    let ready = 0..MOST_SHOWN - 1;
    assert_eq!(
        shown,
        ready.chain(std::iter::once(8_000)).collect::<Vec<_>>()
    );
}

#[test]
fn an_absurd_cooldown_does_not_overflow() {
    let absurd = Settings {
        cooldown: Duration::MAX,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1, absurd);
    fixture.one(UNSAID, T0);
    assert!(matches!(fixture.pick(T0), Pick::Wait(_)));
}

// ---- over a restart ---------------------------------------------------------------------------
