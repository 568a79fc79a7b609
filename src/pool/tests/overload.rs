//! Overloaded models.

use super::*;

#[test]
fn an_overloaded_model_takes_half_as_many_after_a_gap_and_no_key_suffers() {
    let mut fixture = Fixture::new(3, SETTINGS);
    let herd: Vec<Picked> = (0..8).map(|_| fixture.take(T0)).collect();
    let news = fixture.report(&herd[0], OVERLOADED, ms(1));
    assert_eq!(news, Some(Change::Overloaded(4)));
    assert_eq!(
        fixture.report(&herd[1], OVERLOADED, ms(1)),
        None,
        "the same event"
    );
    assert_eq!(fixture.states(ms(1)), [KeyState::Ready; 3]);
    assert_eq!(fixture.wait(ms(1)), secs(1) + ms(1));
    assert_eq!(
        fixture.pick(secs(2)),
        Pick::InTurn,
        "eight are still under way"
    );
    herd.iter().for_each(|picked| fixture.pool.release(picked));
    let probe = fixture.take(secs(2));
    assert_eq!(fixture.wait(secs(2)), secs(3), "one finds out");
    fixture.report(&probe, ACCEPTED, ms(2100));
    assert_eq!(
        fixture.indices(4, ms(2100)).len(),
        4,
        "as many as may be, and one more"
    );
    assert_eq!(fixture.pick(ms(2100)), Pick::InTurn);
}

/// As many as it lets through, all of them served.
fn served_at_once(fixture: &mut Fixture, after: Duration) -> usize {
    let picked: Vec<Picked> = std::iter::from_fn(|| match fixture.pick(after) {
        Pick::Key(picked) => Some(picked),
        _ => None,
    })
    .collect();
    for picked in &picked {
        fixture.report(picked, ACCEPTED, after);
        fixture.pool.release(picked);
    }
    picked.len()
}

#[test]
fn a_herd_of_which_a_part_is_refused_shows_how_many_a_model_takes() {
    let mut fixture = Fixture::new(3, SETTINGS);
    let herd: Vec<Picked> = (0..8).map(|_| fixture.take(T0)).collect();
    for (n, picked) in herd.iter().enumerate() {
        let report = match n < 4 {
            true => OVERLOADED,
            false => ACCEPTED,
        };
        fixture.report(picked, report, ms(1 + n as u64));
        fixture.pool.release(picked);
    }
    let served = [2, 3, 60].map(|n| served_at_once(&mut fixture, secs(n)));
    assert_eq!(served, [1, 4, 4]);
}

#[test]
fn a_model_that_takes_so_many_at_a_time_is_asked_for_one_more_every_two_minutes() {
    let mut fixture = Fixture::new(3, SETTINGS);
    let mut at_work: Vec<Picked> = (0..8).map(|_| fixture.take(T0)).collect();
    let one_more = fixture.take(ms(1));
    fixture.report(&one_more, OVERLOADED, ms(2));
    fixture.pool.release(&one_more);
    for picked in at_work.drain(..) {
        fixture.report(&picked, ACCEPTED, ms(3));
        fixture.pool.release(&picked);
    }
    let mut round = |after: Duration| served_at_once(&mut fixture, after);
    let quickly = [2, 3, 4].map(|n| round(secs(n)));
    assert_eq!(quickly, [1, 5, 8], "up to there it is quick");
    assert_eq!([10, 60, 119].map(|n| round(secs(n))), [8; 3]);
    round(secs(121));
    assert_eq!([122, 240].map(|n| round(secs(n))), [9; 2]);
}

#[test]
fn an_overloaded_model_is_asked_again_within_a_quarter_of_what_it_lasted() {
    let mut fixture = Fixture::new(3, SETTINGS);
    let first = fixture.take(T0);
    fixture.report(&first, OVERLOADED, T0);
    fixture.pool.release(&first);
    let (mut at, mut tries) = (T0, 0);
    while at < secs(600) {
        let next = fixture.wait(at);
        let most = (at / 4).clamp(secs(1), secs(30));
        assert!(next - at <= most + ms(1), "{at:?}: {next:?}");
        at = next;
        tries += 1;
        let probe = fixture.take(at);
        fixture.report(&probe, OVERLOADED, at);
        fixture.pool.release(&probe);
    }
    assert!(tries < 40, "{tries}");
    let at = fixture.wait(at);
    fixture.one(ACCEPTED, at);
    assert!(
        matches!(fixture.pick(at), Pick::Key(_)),
        "the first success ends it"
    );
}

#[test]
fn a_stated_time_of_an_overloaded_model_is_kept() {
    let mut fixture = Fixture::new(3, SETTINGS);
    fixture.one(
        Report::Answered(Verdict::Overloaded(Some(secs(20))), 503),
        T0,
    );
    assert_eq!(fixture.wait(T0), secs(20));
}

#[test]
fn bare_429s_of_several_keys_that_took_little_are_the_models() {
    let mut fixture = Fixture::new(3, SETTINGS);
    fixture.one(ACCEPTED, T0);
    assert_eq!(
        fixture.one(UNSAID, secs(1)),
        Some(rests(COOLDOWN)),
        "the first may be its own"
    );
    let news = fixture.one(UNSAID, secs(1));
    assert_eq!(news, Some(Change::Overloaded(1)));
    assert_eq!(fixture.states(secs(1)), [KeyState::Ready; 3]);
    assert_eq!(fixture.wait(secs(1)), secs(2));
}

#[test]
fn bare_429s_of_keys_that_took_as_much_as_ever_are_their_own() {
    let mut fixture = Fixture::new(2, SETTINGS);
    for _ in 0..80 {
        fixture.one(ACCEPTED, T0);
    }
    assert_eq!(fixture.one(UNSAID, secs(1)), Some(rests(COOLDOWN)));
    assert_eq!(fixture.one(UNSAID, secs(1)), Some(rests(COOLDOWN)));
}

#[test]
fn a_bare_429_of_one_key_alone_is_its_own() {
    let mut fixture = Fixture::new(1, SETTINGS);
    for rest in [60, 120, 240] {
        let at = if rest == 60 { T0 } else { secs(rest - 60) };
        assert_eq!(fixture.one(UNSAID, at), Some(rests(secs(rest))));
    }
}
