//! Refusals, suspects and ejections; quotas; places.

use super::*;

const NAMED: Report = Report::Refused {
    status: 401,
    names_key: true,
};

fn ejected(seconds: u64) -> State {
    State::Ejected(401, secs(seconds))
}

/// Asks in this lane with the keys to avoid.
fn ask(desk: &mut Desk, lane: LaneId, avoid: &[Picked], after: Duration) -> Pick {
    let asker = Asker {
        avoid,
        ..Asker::default()
    };
    desk.pool.pick(lane, asker, desk.t0 + after)
}

/// A request that this key is refused for and another one serves.
fn witnessed(desk: &mut Desk, lane: LaneId, report: Report, after: Duration) -> Option<Duration> {
    let now = desk.t0 + after;
    let Pick::Key(bad) = ask(desk, lane, &[], after) else {
        panic!("no key")
    };
    desk.pool.report(&bad, report, now);
    desk.pool.release(&bad);
    let Pick::Key(good) = ask(desk, lane, std::slice::from_ref(&bad), after) else {
        panic!("no other key")
    };
    desk.pool.report(&good, Report::Accepted, now);
    desk.pool.release(&good);
    desk.pool.eject(&bad, 401, report == NAMED, now)
}

#[test]
fn a_key_that_was_refused_for_a_request_is_not_picked_for_it_again() {
    let mut desk = Desk::new(2, SETTINGS);
    let lane = desk.lane;
    let (first, second) = (desk.take(T0), desk.take(T0));
    let avoid = [first];
    let other = ask(&mut desk, lane, &avoid, T0);
    assert!(matches!(other, Pick::Key(Picked { index: 1, .. })));
    desk.report(&second, limited(9), T0);
    let wait = Pick::Wait(desk.t0 + secs(9));
    assert_eq!(
        ask(&mut desk, lane, &avoid, T0),
        wait,
        "it may be the witness"
    );
    let both = [avoid[0].clone(), second];
    assert_eq!(ask(&mut desk, lane, &both, secs(9)), Pick::NoOther);
}

#[test]
fn a_request_that_waits_for_a_witness_keeps_no_key_from_the_others() {
    let mut desk = Desk::new(2, SETTINGS);
    let (lane, now) = (desk.lane, desk.t0);
    let (refused, limited) = (desk.take(T0), desk.take(T0));
    desk.report(&limited, super::limited(9), T0);
    let (_, ticket) = desk.pool.enter("m", now);
    let avoid = [refused];
    let mut asker = Asker {
        ticket: Some(ticket),
        avoid: &avoid,
        ..Asker::default()
    };
    let wait = Pick::Wait(now + secs(9));
    assert_eq!(desk.pool.pick(lane, asker, now), wait);
    let (_, later) = desk.pool.enter("m", now);
    asker = Asker {
        ticket: Some(later),
        ..Asker::default()
    };
    let picked = desk.pool.pick(lane, asker, now);
    assert!(
        matches!(picked, Pick::Key(Picked { index: 0, .. })),
        "{picked:?}"
    );
    assert_eq!(desk.pool.waiting(), 1);
    let picked = desk.take(secs(9));
    desk.pool.woken().for_each(drop);
    desk.report(&picked, Report::Accepted, secs(9));
    let woken: Vec<Ticket> = desk.pool.woken().collect();
    assert_eq!(woken, [ticket], "it hears when a key comes free");
}

#[test]
fn a_refusal_without_a_witness_changes_no_state() {
    let mut desk = Desk::new(3, SETTINGS);
    for n in 0..300 {
        assert_eq!(desk.one(REFUSED, secs(n)), None);
        assert_eq!(desk.states(secs(n)), [State::Ready; 3]);
    }
    assert!(desk.pool.snapshot(desk.t0).iter().all(|key| key.serves));
}

#[test]
fn a_suspect_goes_last_in_its_lane_for_a_minute() {
    let mut desk = Desk::new(3, SETTINGS);
    desk.one(REFUSED, T0);
    assert_eq!(desk.indices(4, secs(59)), [1, 2, 1, 2]);
    assert_eq!(desk.indices(3, secs(60)), [0, 1, 2]);
    let (other, _) = desk.pool.enter("other", desk.t0);
    desk.one(REFUSED, secs(60));
    let picked = ask(&mut desk, other, &[], secs(60));
    assert!(matches!(picked, Pick::Key(_)), "{picked:?}");
}

#[test]
fn a_witness_ejects_for_a_minute_then_for_longer_as_probes_confirm_it() {
    let mut desk = Desk::new(2, SETTINGS);
    let (lane, mut at) = (desk.lane, T0);
    for minutes in [1, 10, 60, 360, 1440, 1440] {
        while !matches!(&desk.states(at)[..], [_, State::Ready]) {
            desk.one(Report::Accepted, at); // only the good one is left
        }
        // Key 0 is next in line after its rest.
        let rest = loop {
            let Pick::Key(picked) = ask(&mut desk, lane, &[], at) else {
                panic!("no key")
            };
            let now = desk.t0 + at;
            if picked.index == 1 {
                desk.pool.report(&picked, Report::Accepted, now);
                desk.pool.release(&picked);
                continue;
            }
            let known = desk.pool.report(&picked, REFUSED, now);
            assert_eq!(known == Some(Change::StillOut), minutes > 1, "{minutes}");
            desk.pool.release(&picked);
            break desk.pool.eject(&picked, 401, false, now);
        };
        assert_eq!(rest, Some(secs(60 * minutes)));
        assert_eq!(desk.states(at), [ejected(60 * minutes), State::Ready]);
        at += secs(60 * minutes);
    }
}

#[test]
fn a_probe_that_succeeds_brings_the_key_back_whole() {
    let mut desk = Desk::new(2, SETTINGS);
    let lane = desk.lane;
    assert_eq!(witnessed(&mut desk, lane, REFUSED, T0), Some(secs(60)));
    let at = secs(61);
    let probe = loop {
        let picked = desk.take(at);
        if picked.index == 0 {
            break picked;
        }
    };
    let change = desk.report(&probe, Report::Accepted, at);
    assert_eq!(change, Some(Change::Recovered));
    // The next ejection begins at the start of the table.
    let again = desk.take(at);
    let again = if again.index == 0 {
        again
    } else {
        desk.take(at)
    };
    desk.report(&again, REFUSED, at);
    assert_eq!(
        desk.pool.eject(&again, 401, false, desk.t0 + at),
        Some(secs(60))
    );
}

#[test]
fn a_probe_that_nobody_confirms_leaves_the_ejection_as_long_as_it_was() {
    let mut desk = Desk::new(2, SETTINGS);
    let lane = desk.lane;
    witnessed(&mut desk, lane, REFUSED, T0);
    for n in 1..9 {
        let at = secs(60 * n);
        while let Pick::Key(picked) = desk.pick(at) {
            if picked.index == 0 {
                assert_eq!(desk.report(&picked, REFUSED, at), Some(Change::StillOut));
                desk.pool.release(&picked);
                break;
            }
            desk.pool.release(&picked);
        }
        assert_eq!(desk.states(at)[0], ejected(60));
    }
}

#[test]
fn an_ejection_holds_for_its_model_alone() {
    let mut desk = Desk::new(2, SETTINGS);
    let (lane, (other, _)) = (desk.lane, desk.pool.enter("other", desk.t0));
    witnessed(&mut desk, lane, REFUSED, T0);
    let picked = [0, 1].map(|_| match ask(&mut desk, other, &[], T0) {
        Pick::Key(picked) => picked.index,
        none => panic!("{none:?}"),
    });
    assert!(picked.contains(&0), "{picked:?}");
}

#[test]
fn a_key_refused_for_two_models_is_out_for_all_for_a_minute_and_no_longer() {
    let mut desk = Desk::new(2, SETTINGS);
    let (lane, (other, _)) = (desk.lane, desk.pool.enter("other", desk.t0));
    let (third, _) = desk.pool.enter("third", desk.t0);
    witnessed(&mut desk, lane, REFUSED, T0);
    // Key 0 is refused for the second model too.
    let bad = loop {
        match ask(&mut desk, other, &[], secs(1)) {
            Pick::Key(picked) if picked.index == 0 => break picked,
            Pick::Key(picked) => desk.pool.release(&picked),
            none => panic!("{none:?}"),
        }
    };
    desk.report(&bad, REFUSED, secs(1));
    desk.pool.eject(&bad, 401, false, desk.t0 + secs(1));
    for (at, can) in [(1, false), (60, false), (61, true)] {
        let picked: Vec<_> = (0..4)
            .filter_map(|_| match ask(&mut desk, third, &[], secs(at)) {
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
        let mut desk = Desk::new(2, SETTINGS);
        let (lane, (other, _)) = (desk.lane, desk.pool.enter("other", desk.t0));
        if served {
            for _ in 0..2 {
                let Pick::Key(picked) = ask(&mut desk, other, &[], T0) else {
                    panic!("no key")
                };
                desk.report(&picked, Report::Accepted, T0);
                desk.pool.release(&picked);
            }
        }
        witnessed(&mut desk, lane, NAMED, secs(1));
        let picked: Vec<_> = (0..4)
            .filter_map(|_| match ask(&mut desk, other, &[], secs(1)) {
                Pick::Key(picked) => Some(picked.index),
                _ => None,
            })
            .collect();
        assert_eq!(picked.contains(&0), served, "{picked:?}");
    }
}

#[test]
fn a_pool_whose_every_key_is_called_invalid_is_down_and_soon_lets_one_request_a_minute_through() {
    let mut desk = Desk::new(3, SETTINGS);
    let (lane, t0) = (desk.lane, desk.t0);
    assert!((0..3).all(|_| desk.one(NAMED, T0).is_none()));
    desk.pool.refused(lane, t0);
    assert!(desk.pool.is_down(t0));
    assert!(desk.pool.snapshot(t0).iter().all(|key| !key.serves));
    let mut through = Vec::new();
    for at in 0..240 {
        if let Pick::Key(probe) = desk.pick(secs(at)) {
            through.push(at);
            desk.report(&probe, NAMED, secs(at));
            desk.pool.release(&probe);
            desk.pool.refused(lane, t0 + secs(at));
        }
        assert_eq!(desk.pick(secs(at)), Pick::Down);
    }
    assert_eq!(through, [2, 4, 8, 16, 32, 64, 124, 184]);
    // Another model is asked for without delay: its lane has nothing against anybody.
    let (other, _) = desk.pool.enter("other", t0);
    let Pick::Key(probe) = ask(&mut desk, other, &[], secs(240)) else {
        panic!("no key")
    };
    desk.report(&probe, Report::Accepted, secs(240));
    assert!(matches!(desk.pick(secs(240)), Pick::Key(_)));
}

#[test]
fn refusals_for_one_model_alone_do_not_close_anything() {
    let mut desk = Desk::new(3, SETTINGS);
    for n in 0..100 {
        desk.one(REFUSED, secs(n));
        desk.pool.refused(desk.lane, desk.t0 + secs(n));
        assert!(matches!(desk.pick(secs(n)), Pick::Key(_)));
    }
}

#[test]
fn a_reload_probes_an_ejected_key_at_once() {
    let mut desk = Desk::new(2, SETTINGS);
    let lane = desk.lane;
    witnessed(&mut desk, lane, NAMED, T0);
    let merged = desk.pool.merge(&keys(2), SETTINGS, desk.t0 + secs(1));
    assert_eq!(merged.revived, 1);
    let mut picked = desk.indices(2, secs(1));
    picked.sort_unstable();
    assert_eq!(picked, [0, 1]);
}

// ---- quotas -------------------------------------------------------------------------------------

#[test]
fn a_quota_without_a_time_begins_at_two_minutes_and_grows_as_probes_confirm_it() {
    let mut desk = Desk::new(1, SETTINGS);
    let mut at = T0;
    for minutes in [2, 10, 60, 360, 360] {
        let rest = secs(60 * minutes);
        let spent = desk.one(Report::Quota, at);
        assert_eq!(spent, Some(Change::Rests(Why::Quota, rest)));
        assert_eq!(desk.states(at), [State::Parked(rest)]);
        at += rest;
    }
    assert_eq!(desk.one(Report::Accepted, at), Some(Change::Recovered));
    let spent = desk.one(Report::Quota, at + secs(1));
    assert_eq!(spent, Some(Change::Rests(Why::Quota, secs(120))));
}

#[test]
fn a_herd_that_spends_a_quota_counts_as_one() {
    let mut desk = Desk::new(1, SETTINGS);
    let herd: Vec<Picked> = (0..9).map(|_| desk.take(T0)).collect();
    let news = herd
        .iter()
        .filter_map(|p| desk.report(p, Report::Quota, ms(5)));
    assert_eq!(news.count(), 1);
}

#[test]
fn a_stated_rest_that_proves_too_short_is_doubled_up_to_a_minute() {
    let mut desk = Desk::new(1, SETTINGS);
    let mut at = T0;
    for rest in [1, 1, 2, 4, 8, 16, 32, 60, 60] {
        if rest == 60 {
            assert_eq!(desk.one(limited(1), at), Some(rests(secs(60))));
        } else {
            assert_eq!(desk.one(limited(1), at), Some(rests(secs(rest))));
        }
        at += secs(rest);
    }
    assert_eq!(desk.one(limited(300), at), Some(rests(secs(300))));
}

// ---- places -------------------------------------------------------------------------------------

#[test]
fn requests_without_a_place_get_one_in_turn_whatever_their_model() {
    let one = Settings {
        attempts: 1,
        ..SETTINGS
    };
    let mut desk = Desk::new(2, one);
    let busy = desk.take(T0);
    let waiters: Vec<_> = ["m", "other"]
        .map(|model| desk.pool.enter(model, desk.t0))
        .into();
    let pick = |desk: &mut Desk, n: usize| {
        let (lane, ticket) = waiters[n];
        let asker = Asker {
            ticket: Some(ticket),
            ..Asker::default()
        };
        desk.pool.pick(lane, asker, desk.t0)
    };
    assert_eq!(pick(&mut desk, 0), Pick::InTurn);
    assert_eq!(pick(&mut desk, 1), Pick::InTurn);
    desk.pool.woken();
    desk.pool.release(&busy);
    assert!(desk.pool.woken().any(|ticket| ticket == waiters[0].1));
    assert_eq!(pick(&mut desk, 1), Pick::InTurn, "the other came first");
    let Pick::Key(first) = pick(&mut desk, 0) else {
        panic!("there is a place")
    };
    desk.pool.woken();
    desk.pool.release(&first);
    assert!(desk.pool.woken().any(|ticket| ticket == waiters[1].1));
    assert!(matches!(pick(&mut desk, 1), Pick::Key(_)));
}

#[test]
fn a_request_that_waits_for_a_key_holds_no_place() {
    let one = Settings {
        attempts: 1,
        ..SETTINGS
    };
    let mut desk = Desk::new(1, one);
    desk.one(limited(60), T0);
    let (lane, ticket) = desk.pool.enter("m", desk.t0);
    let asker = Asker {
        ticket: Some(ticket),
        ..Asker::default()
    };
    assert!(matches!(
        desk.pool.pick(lane, asker, desk.t0),
        Pick::Wait(_)
    ));
    let (other, _) = desk.pool.enter("other", desk.t0);
    assert!(matches!(ask(&mut desk, other, &[], T0), Pick::Key(_)));
}

#[test]
fn only_the_first_of_those_who_wait_is_woken() {
    let mut desk = Desk::new(1, SETTINGS);
    let busy = desk.take(T0);
    desk.report(&busy, limited(5), T0);
    let waiters: Vec<Ticket> = (0..500).map(|_| desk.queue_up()).collect();
    desk.pool.woken();
    desk.pool.release(&busy);
    assert_eq!(desk.pool.woken().collect::<Vec<_>>(), [waiters[0]]);
    let asker = Asker {
        ticket: Some(waiters[0]),
        ..Asker::default()
    };
    let picked = desk.pool.pick(desk.lane, asker, desk.t0 + secs(5));
    assert!(matches!(picked, Pick::Key(_)));
    assert_eq!(
        desk.pool.woken().collect::<Vec<_>>(),
        [waiters[1]],
        "and then the next"
    );
}

// ---- over a restart -----------------------------------------------------------------------------

#[test]
fn rests_go_on_after_a_restart_and_what_else_is_held_against_keys_does_not() {
    let salt = [7; SALT];
    let mut old = Desk::new(3, SETTINGS);
    let lane = old.lane;
    old.one(limited(300), T0);
    witnessed(&mut old, lane, NAMED, T0);
    let at = old.t0 + secs(100);
    let mut limits = Vec::new();
    assert!(!old.pool.limits(0, &mut limits, at));
    let t0 = Instant::now();
    let later = |(key, rests): &Limits| Rest {
        key: key.tag(&salt),
        model: rests[0].0.clone(),
        until: t0 + (rests[0].1 - at),
    };
    let entries: Vec<Rest> = limits.iter().map(later).collect();
    assert_eq!(entries.len(), 1);
    let mut pool = Pool::new(&keys(3), SETTINGS, t0);
    assert_eq!(pool.restore(&salt, &entries, t0), 1);
    let lane = pool.enter("m", t0).0;
    let mut new = Desk { lane, pool, t0 };
    let states = new.states(T0);
    assert_eq!(
        states,
        [State::Cooling(secs(200)), State::Ready, State::Ready]
    );
    assert_eq!(new.indices(2, T0), [1, 2]);
}
