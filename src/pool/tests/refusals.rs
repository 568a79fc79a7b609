//! Refusals, suspects and ejections; quotas; places.

use super::*;

const NAMED: Report = refusal(true);

fn ejected(seconds: u64) -> KeyState {
    KeyState::Ejected(401, secs(seconds))
}

/// Asks in this lane with the keys to avoid.
fn ask(fixture: &mut Fixture, lane: LaneId, avoid: &[Picked], after: Duration) -> Pick {
    let request = PickRequest {
        avoid,
        ..PickRequest::default()
    };
    fixture.pool.pick(lane, request, fixture.t0 + after)
}

/// A request that this key is refused for and another one serves.
fn witnessed(
    fixture: &mut Fixture,
    lane: LaneId,
    report: Report,
    after: Duration,
) -> Option<Duration> {
    let now = fixture.t0 + after;
    let Pick::Key(bad) = ask(fixture, lane, &[], after) else {
        panic!("no key")
    };
    fixture.pool.report(&bad, report, now);
    fixture.pool.release(&bad);
    let Pick::Key(good) = ask(fixture, lane, std::slice::from_ref(&bad), after) else {
        panic!("no other key")
    };
    fixture.pool.report(&good, ACCEPTED, now);
    fixture.pool.release(&good);
    fixture.pool.eject(&bad, out(report == NAMED), now)
}

#[test]
fn a_key_that_was_refused_for_a_request_is_not_picked_for_it_again() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let lane = fixture.lane;
    let (first, second) = (fixture.take(T0), fixture.take(T0));
    let avoid = [first];
    let other = ask(&mut fixture, lane, &avoid, T0);
    assert!(matches!(other, Pick::Key(Picked { index: 1, .. })));
    fixture.report(&second, limited(9), T0);
    let wait = Pick::Wait(fixture.t0 + secs(9));
    assert_eq!(
        ask(&mut fixture, lane, &avoid, T0),
        wait,
        "it may be the witness"
    );
    let both = [avoid[0].clone(), second];
    assert_eq!(ask(&mut fixture, lane, &both, secs(9)), Pick::NoOther);
}

#[test]
fn a_request_that_waits_for_a_witness_keeps_no_key_from_the_others() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (lane, now) = (fixture.lane, fixture.t0);
    let (refused, limited) = (fixture.take(T0), fixture.take(T0));
    fixture.report(&limited, super::limited(9), T0);
    let (_, ticket) = fixture.pool.enter("m", now);
    let avoid = [refused];
    let mut request = PickRequest {
        ticket: Some(ticket),
        avoid: &avoid,
        ..PickRequest::default()
    };
    let wait = Pick::Wait(now + secs(9));
    assert_eq!(fixture.pool.pick(lane, request, now), wait);
    let (_, later) = fixture.pool.enter("m", now);
    request = PickRequest {
        ticket: Some(later),
        ..PickRequest::default()
    };
    let picked = fixture.pool.pick(lane, request, now);
    assert!(
        matches!(picked, Pick::Key(Picked { index: 0, .. })),
        "{picked:?}"
    );
    assert_eq!(fixture.pool.waiting(), 1);
    let picked = fixture.take(secs(9));
    fixture.pool.woken().for_each(drop);
    fixture.report(&picked, ACCEPTED, secs(9));
    let woken: Vec<Ticket> = fixture.pool.woken().collect();
    assert_eq!(woken, [ticket], "it hears when a key comes free");
}

#[test]
fn a_refusal_without_a_witness_changes_no_state() {
    let mut fixture = Fixture::new(3, SETTINGS);
    for n in 0..300 {
        assert_eq!(fixture.one(REFUSED, secs(n)), None);
        assert_eq!(fixture.states(secs(n)), [KeyState::Ready; 3]);
    }
    assert!(
        fixture
            .pool
            .snapshot(fixture.t0)
            .iter()
            .all(|key| key.serves)
    );
}

#[test]
fn a_suspect_goes_last_in_its_lane_for_a_minute() {
    let mut fixture = Fixture::new(3, SETTINGS);
    fixture.one(REFUSED, T0);
    assert_eq!(fixture.indices(4, secs(59)), [1, 2, 1, 2]);
    assert_eq!(fixture.indices(3, secs(60)), [0, 1, 2]);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    fixture.one(REFUSED, secs(60));
    let picked = ask(&mut fixture, other, &[], secs(60));
    assert!(matches!(picked, Pick::Key(_)), "{picked:?}");
}

#[test]
fn where_a_suspect_is_accepted_nobody_is_suspect() {
    let mut fixture = Fixture::new(3, SETTINGS);
    for report in [REFUSED, REFUSED, REFUSED, ACCEPTED] {
        fixture.one(report, T0);
    }
    assert_eq!(fixture.indices(3, T0), [1, 2, 0]);
}

#[test]
fn a_key_that_was_called_invalid_is_back_once_another_model_accepts_it() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let lane = fixture.lane;
    fixture.one(ACCEPTED, T0);
    fixture.one(ACCEPTED, T0);
    witnessed(&mut fixture, lane, NAMED, T0);
    assert_eq!(fixture.states(T0), [ejected(60), KeyState::Ready]);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    let Pick::Key(picked) = ask(&mut fixture, other, &[], T0) else {
        panic!("no key")
    };
    fixture.report(&picked, ACCEPTED, secs(1));
    assert_eq!(picked.index, 0);
    assert_eq!(fixture.states(secs(1)), [KeyState::Ready; 2]);
}

#[test]
fn a_witness_ejects_for_a_minute_then_for_longer_as_probes_confirm_it() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (lane, mut at) = (fixture.lane, T0);
    for minutes in [1, 10, 60, 360, 1440, 1440] {
        while !matches!(&fixture.states(at)[..], [_, KeyState::Ready]) {
            fixture.one(ACCEPTED, at); // only the good one is left
        }
        // Key 0 is next in line after its rest.
        let rest = loop {
            let Pick::Key(picked) = ask(&mut fixture, lane, &[], at) else {
                panic!("no key")
            };
            let now = fixture.t0 + at;
            if picked.index == 1 {
                fixture.pool.report(&picked, ACCEPTED, now);
                fixture.pool.release(&picked);
                continue;
            }
            let known = fixture.pool.report(&picked, REFUSED, now);
            assert_eq!(known == Some(Change::StillOut), minutes > 1, "{minutes}");
            fixture.pool.release(&picked);
            break fixture.pool.eject(&picked, out(false), now);
        };
        assert_eq!(rest, Some(secs(60 * minutes)));
        assert_eq!(fixture.states(at), [ejected(60 * minutes), KeyState::Ready]);
        at += secs(60 * minutes);
    }
}

#[test]
fn a_probe_that_succeeds_brings_the_key_back_whole() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let lane = fixture.lane;
    assert_eq!(witnessed(&mut fixture, lane, REFUSED, T0), Some(secs(60)));
    let at = secs(61);
    let probe = loop {
        let picked = fixture.take(at);
        if picked.index == 0 {
            break picked;
        }
    };
    let change = fixture.report(&probe, ACCEPTED, at);
    assert_eq!(change, Some(Change::Recovered));
    // The next ejection begins at the start of the table.
    let again = fixture.take(at);
    let again = if again.index == 0 {
        again
    } else {
        fixture.take(at)
    };
    fixture.report(&again, REFUSED, at);
    assert_eq!(
        fixture.pool.eject(&again, out(false), fixture.t0 + at),
        Some(secs(60))
    );
}

#[test]
fn a_probe_that_nobody_confirms_leaves_the_ejection_as_long_as_it_was() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let lane = fixture.lane;
    witnessed(&mut fixture, lane, REFUSED, T0);
    for n in 1..9 {
        let at = secs(60 * n);
        while let Pick::Key(picked) = fixture.pick(at) {
            if picked.index == 0 {
                assert_eq!(fixture.report(&picked, REFUSED, at), Some(Change::StillOut));
                fixture.pool.release(&picked);
                break;
            }
            fixture.pool.release(&picked);
        }
        assert_eq!(fixture.states(at)[0], ejected(60));
    }
}

#[test]
fn an_ejection_holds_for_its_model_alone() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (lane, (other, _)) = (fixture.lane, fixture.pool.enter("other", fixture.t0));
    witnessed(&mut fixture, lane, REFUSED, T0);
    let picked = [0, 1].map(|_| match ask(&mut fixture, other, &[], T0) {
        Pick::Key(picked) => picked.index,
        none => panic!("{none:?}"),
    });
    assert!(picked.contains(&0), "{picked:?}");
}

/// Each of two keys serves a request in this lane.
fn serve_with_both(fixture: &mut Fixture, lane: LaneId, after: Duration) {
    for _ in 0..2 {
        let Pick::Key(picked) = ask(fixture, lane, &[], after) else {
            panic!("no key")
        };
        fixture.report(&picked, ACCEPTED, after);
        fixture.pool.release(&picked);
    }
}

/// Key 0 is ejected for "m" for ten minutes, perhaps for "other" for one; then "other" serves it.
fn probed_for_m(ejected_elsewhere: bool) -> bool {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (lane, (other, _)) = (fixture.lane, fixture.pool.enter("other", fixture.t0));
    witnessed(&mut fixture, lane, REFUSED, T0);
    if ejected_elsewhere {
        witnessed(&mut fixture, other, REFUSED, T0);
    }
    fixture.one(ACCEPTED, secs(61)); // key 1
    let rest = witnessed(&mut fixture, lane, REFUSED, secs(61));
    assert_eq!(rest, Some(secs(600)));
    serve_with_both(&mut fixture, other, secs(200));
    fixture.indices(2, secs(200)).contains(&0)
}

#[test]
fn a_key_that_is_back_for_one_model_is_probed_for_the_others_and_one_that_was_well_there_is_not() {
    assert!(probed_for_m(true));
    assert!(!probed_for_m(false));
}

#[test]
fn a_spent_quota_lasts_although_the_key_is_back_for_another_model() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    fixture.one(QUOTA, T0);
    witnessed(&mut fixture, other, REFUSED, T0);
    serve_with_both(&mut fixture, other, secs(61));
    assert_eq!(fixture.indices(2, secs(61)), [1; 2]);
}

#[test]
fn a_key_refused_for_two_models_is_out_for_all_for_a_minute_and_no_longer() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let (lane, (other, _)) = (fixture.lane, fixture.pool.enter("other", fixture.t0));
    let (third, _) = fixture.pool.enter("third", fixture.t0);
    witnessed(&mut fixture, lane, REFUSED, T0);
    // Key 0 is refused for the second model too.
    let bad = loop {
        match ask(&mut fixture, other, &[], secs(1)) {
            Pick::Key(picked) if picked.index == 0 => break picked,
            Pick::Key(picked) => fixture.pool.release(&picked),
            none => panic!("{none:?}"),
        }
    };
    fixture.report(&bad, REFUSED, secs(1));
    fixture.pool.eject(&bad, out(false), fixture.t0 + secs(1));
    for (at, can) in [(1, false), (60, false), (61, true)] {
        let picked: Vec<_> = (0..4)
            .filter_map(|_| match ask(&mut fixture, third, &[], secs(at)) {
                Pick::Key(picked) => Some(picked.index),
                _ => None,
            })
            .collect();
        assert_eq!(picked.contains(&0), can, "{at}: {picked:?}");
    }
}

#[test]
fn a_key_called_invalid_is_out_for_all_models_unless_it_was_served_lately() {
    for served in [false, true] {
        let mut fixture = Fixture::new(2, SETTINGS);
        let (lane, (other, _)) = (fixture.lane, fixture.pool.enter("other", fixture.t0));
        if served {
            for _ in 0..2 {
                let Pick::Key(picked) = ask(&mut fixture, other, &[], T0) else {
                    panic!("no key")
                };
                fixture.report(&picked, ACCEPTED, T0);
                fixture.pool.release(&picked);
            }
        }
        witnessed(&mut fixture, lane, NAMED, secs(1));
        let picked: Vec<_> = (0..4)
            .filter_map(|_| match ask(&mut fixture, other, &[], secs(1)) {
                Pick::Key(picked) => Some(picked.index),
                _ => None,
            })
            .collect();
        assert_eq!(picked.contains(&0), served, "{picked:?}");
    }
}

#[test]
fn a_pool_whose_every_key_is_called_invalid_is_down_and_soon_lets_one_request_a_minute_through() {
    let mut fixture = Fixture::new(3, SETTINGS);
    let (lane, t0) = (fixture.lane, fixture.t0);
    assert!((0..3).all(|_| fixture.one(NAMED, T0).is_none()));
    fixture.pool.close_if_down(lane, t0);
    assert!(fixture.pool.is_down(t0));
    assert!(fixture.pool.snapshot(t0).iter().all(|key| !key.serves));
    let mut through = Vec::new();
    for at in 0..240 {
        if let Pick::Key(probe) = fixture.pick(secs(at)) {
            through.push(at);
            fixture.report(&probe, NAMED, secs(at));
            fixture.pool.release(&probe);
            fixture.pool.close_if_down(lane, t0 + secs(at));
        }
        assert_eq!(fixture.pick(secs(at)), Pick::Down);
    }
    assert_eq!(through, [2, 4, 8, 16, 32, 64, 124, 184]);
    // Another model is asked for without delay: its lane has nothing against anybody.
    let (other, _) = fixture.pool.enter("other", t0);
    let Pick::Key(probe) = ask(&mut fixture, other, &[], secs(240)) else {
        panic!("no key")
    };
    fixture.report(&probe, ACCEPTED, secs(240));
    assert!(matches!(fixture.pick(secs(240)), Pick::Key(_)));
}

#[test]
fn refusals_for_one_model_alone_do_not_close_anything() {
    let mut fixture = Fixture::new(3, SETTINGS);
    for n in 0..100 {
        fixture.one(REFUSED, secs(n));
        fixture
            .pool
            .close_if_down(fixture.lane, fixture.t0 + secs(n));
        assert!(matches!(fixture.pick(secs(n)), Pick::Key(_)));
    }
}

#[test]
fn a_reload_probes_an_ejected_key_at_once() {
    let mut fixture = Fixture::new(2, SETTINGS);
    let lane = fixture.lane;
    witnessed(&mut fixture, lane, NAMED, T0);
    let merged = fixture.pool.merge(&keys(2), SETTINGS, fixture.t0 + secs(1));
    assert_eq!(merged.revived, 1);
    let mut picked = fixture.indices(2, secs(1));
    picked.sort_unstable();
    assert_eq!(picked, [0, 1]);
}

#[test]
fn a_reload_ends_what_refusals_said_against_a_key() {
    let mut fixture = Fixture::new(1, SETTINGS);
    fixture.one(NAMED, T0);
    assert!(fixture.pool.is_down(fixture.t0));
    fixture.pool.merge(&keys(1), SETTINGS, fixture.t0);
    assert!(!fixture.pool.is_down(fixture.t0));
}

// ---- quotas -------------------------------------------------------------------------------------

#[test]
fn a_quota_without_a_time_begins_at_two_minutes_and_grows_as_probes_confirm_it() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let mut at = T0;
    for minutes in [2, 10, 60, 360, 360] {
        let rest = secs(60 * minutes);
        let spent = fixture.one(QUOTA, at);
        assert_eq!(spent, Some(Change::Rests(RestReason::Quota, rest)));
        assert_eq!(fixture.states(at), [KeyState::Parked(rest)]);
        at += rest;
    }
    assert_eq!(fixture.one(ACCEPTED, at), Some(Change::Recovered));
    let spent = fixture.one(QUOTA, at + secs(1));
    assert_eq!(spent, Some(Change::Rests(RestReason::Quota, secs(120))));
}

#[test]
fn a_herd_that_spends_a_quota_counts_as_one() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|_| fixture.take(T0)).collect();
    let news = herd.iter().filter_map(|p| fixture.report(p, QUOTA, ms(5)));
    assert_eq!(news.count(), 1);
}

#[test]
fn a_stated_rest_that_proves_too_short_is_doubled_up_to_a_minute() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let mut at = T0;
    for rest in [1, 1, 2, 4, 8, 16, 32, 60, 60] {
        if rest == 60 {
            assert_eq!(fixture.one(limited(1), at), Some(rests(secs(60))));
        } else {
            assert_eq!(fixture.one(limited(1), at), Some(rests(secs(rest))));
        }
        at += secs(rest);
    }
    assert_eq!(fixture.one(limited(300), at), Some(rests(secs(300))));
}

// ---- places -------------------------------------------------------------------------------------

#[test]
fn requests_without_a_place_get_one_in_turn_whatever_their_model() {
    let one = Settings {
        attempts: 1,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(2, one);
    let busy = fixture.take(T0);
    let waiters: Vec<_> = ["m", "other"]
        .map(|model| fixture.pool.enter(model, fixture.t0))
        .into();
    let pick = |fixture: &mut Fixture, n: usize| {
        let (lane, ticket) = waiters[n];
        let request = PickRequest {
            ticket: Some(ticket),
            ..PickRequest::default()
        };
        fixture.pool.pick(lane, request, fixture.t0)
    };
    assert_eq!(pick(&mut fixture, 0), Pick::InTurn);
    assert_eq!(pick(&mut fixture, 1), Pick::InTurn);
    fixture.pool.woken();
    fixture.pool.release(&busy);
    assert!(fixture.pool.woken().any(|ticket| ticket == waiters[0].1));
    assert_eq!(pick(&mut fixture, 1), Pick::InTurn, "the other came first");
    let Pick::Key(first) = pick(&mut fixture, 0) else {
        panic!("there is a place")
    };
    fixture.pool.woken();
    fixture.pool.release(&first);
    assert!(fixture.pool.woken().any(|ticket| ticket == waiters[1].1));
    assert!(matches!(pick(&mut fixture, 1), Pick::Key(_)));
}

#[test]
fn a_request_that_waits_for_a_key_holds_no_place() {
    let one = Settings {
        attempts: 1,
        ..SETTINGS
    };
    let mut fixture = Fixture::new(1, one);
    fixture.one(limited(60), T0);
    let (lane, ticket) = fixture.pool.enter("m", fixture.t0);
    let request = PickRequest {
        ticket: Some(ticket),
        ..PickRequest::default()
    };
    assert!(matches!(
        fixture.pool.pick(lane, request, fixture.t0),
        Pick::Wait(_)
    ));
    let (other, _) = fixture.pool.enter("other", fixture.t0);
    assert!(matches!(ask(&mut fixture, other, &[], T0), Pick::Key(_)));
}

#[test]
fn only_the_first_of_those_who_wait_is_woken() {
    let mut fixture = Fixture::new(1, SETTINGS);
    let busy = fixture.take(T0);
    fixture.report(&busy, limited(5), T0);
    let waiters: Vec<Ticket> = (0..500).map(|_| fixture.queue_up()).collect();
    fixture.pool.woken();
    fixture.pool.release(&busy);
    assert_eq!(fixture.pool.woken().collect::<Vec<_>>(), [waiters[0]]);
    let request = PickRequest {
        ticket: Some(waiters[0]),
        ..PickRequest::default()
    };
    let picked = fixture
        .pool
        .pick(fixture.lane, request, fixture.t0 + secs(5));
    assert!(matches!(picked, Pick::Key(_)));
    assert_eq!(
        fixture.pool.woken().collect::<Vec<_>>(),
        [waiters[1]],
        "and then the next"
    );
}

// ---- over a restart -----------------------------------------------------------------------------

#[test]
fn rests_go_on_after_a_restart_and_what_else_is_held_against_keys_does_not() {
    let salt = [7; SALT];
    let mut old = Fixture::new(3, SETTINGS);
    let lane = old.lane;
    old.one(limited(300), T0);
    witnessed(&mut old, lane, NAMED, T0);
    let at = old.t0 + secs(100);
    let mut limits = Vec::new();
    assert!(!old.pool.saved_rests(0, &mut limits, at));
    let t0 = Instant::now();
    let later = |(key, rests): &KeyRests| SavedRest {
        key: key.tag(&salt),
        model: rests[0].0.clone(),
        until: t0 + (rests[0].1 - at),
    };
    let entries: Vec<SavedRest> = limits.iter().map(later).collect();
    assert_eq!(entries.len(), 1);
    let mut pool = Pool::new(&keys(3), SETTINGS, t0);
    assert_eq!(pool.restore(&salt, &entries, t0), 1);
    let lane = pool.enter("m", t0).0;
    let mut new = Fixture { lane, pool, t0 };
    let states = new.states(T0);
    assert_eq!(
        states,
        [
            KeyState::Cooling(secs(200)),
            KeyState::Ready,
            KeyState::Ready
        ]
    );
    assert_eq!(new.indices(2, T0), [1, 2]);
}
