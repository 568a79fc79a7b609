//! Random walks over the pool: whatever requests of one model bring about, another model is not
//! kept from a key for longer than a minute, nothing panics and nothing grows.

use super::*;

/// Xorshift (Marsaglia).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

fn any_report(dice: &mut Dice) -> Report {
    let stated = [None, Some(secs(dice.below(90_000)))][dice.below(2) as usize];
    match dice.below(9) {
        0 | 1 => ACCEPTED,
        2 => Report::Answered(Verdict::Limited(stated), 429),
        3 => QUOTA,
        4 | 5 => refusal(dice.below(2) == 0),
        6 => Report::Answered(Verdict::Overloaded(stated), 503),
        7 => Report::NoAnswer,
        _ => Report::NotSent,
    }
}

/// One request of a client that the upstream treats as the dice fall.
fn hostile(pool: &mut Pool, model: &str, dice: &mut Dice, now: Instant) -> Vec<Picked> {
    let (lane, ticket) = pool.enter(model, now);
    let mut refused: Vec<Picked> = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..4 {
        let request = PickRequest {
            ticket: Some(ticket),
            avoid: &refused,
            ..PickRequest::default()
        };
        let Pick::Key(picked) = pool.pick(lane, request, now) else {
            break;
        };
        if dice.below(20) == 0 {
            kept.push(picked); // its answer comes late, perhaps after a reload
            break;
        }
        let report = any_report(dice);
        pool.report(&picked, report, now);
        pool.release(&picked);
        match report {
            Report::Answered(Verdict::Refused { .. }, _) => refused.push(picked),
            ACCEPTED => {
                for bad in &refused {
                    pool.eject(bad, out(dice.below(2) == 0), now);
                }
                break;
            }
            _ => {}
        }
    }
    if refused.len() > 2 {
        pool.close_if_down(lane, now);
    }
    pool.exit(lane, ticket);
    kept
}

#[test]
fn no_request_takes_a_key_from_another_model_for_longer_than_a_minute() {
    for seed in 1..=2_000 {
        let mut dice = Dice(seed * 0x9E37_79B9);
        let mut now = Instant::now();
        let names = 1 + dice.below(4) as usize;
        let mut pool = Pool::new(&keys(names), SETTINGS, now);
        let mut kept = Vec::new();
        // Since when the good model, which is always served, cannot have a key.
        let mut without: Option<Instant> = None;
        for _ in 0..150 {
            now += ms(dice.below(20_000));
            let model = format!("bad-{}", dice.below(5));
            kept.extend(hostile(&mut pool, &model, &mut dice, now));
            if dice.below(10) == 0 {
                for late in kept.drain(..) {
                    pool.report(&late, any_report(&mut dice), now);
                    pool.release(&late);
                }
            }
            let (lane, ticket) = pool.enter("good", now);
            let request = PickRequest {
                ticket: Some(ticket),
                ..PickRequest::default()
            };
            match pool.pick(lane, request, now) {
                Pick::Key(picked) => {
                    pool.report(&picked, ACCEPTED, now);
                    pool.release(&picked);
                    without = None;
                }
                other => {
                    let since = *without.get_or_insert(now);
                    let waited = now - since;
                    assert!(waited <= secs(60), "seed {seed}: {other:?} for {waited:?}");
                }
            }
            pool.exit(lane, ticket);
        }
    }
}

#[test]
fn reloads_and_late_reports_neither_panic_nor_grow_the_pool() {
    let mut dice = Dice(77);
    let mut now = Instant::now();
    let mut pool = Pool::new(&keys(200), SETTINGS, now);
    let mut kept = Vec::new();
    let mut most = (0, 0);
    for reload in 0..1_000 {
        for _ in 0..20 {
            now += ms(dice.below(2_000));
            let model = format!("m-{}", dice.below(4));
            kept.extend(hostile(&mut pool, &model, &mut dice, now));
        }
        let replaced: Vec<ApiKey> = (0..200)
            .map(|n| key(&format!("{n:04}-{}", reload * dice.below(2))))
            .collect();
        pool.merge(&replaced, SETTINGS, now);
        for late in kept.drain(..) {
            pool.report(&late, any_report(&mut dice), now);
            pool.eject(&late, out(true), now);
            pool.release(&late);
        }
        let entries = pool.lanes.iter().map(|lane| lane.entries()).max();
        let size = (pool.slots.len(), entries.unwrap_or(0));
        if reload == 10 {
            most = size;
        }
        assert!(reload <= 10 || size.0 <= 420, "{reload}: {size:?}");
        assert!(reload <= 10 || size.1 <= 4 * most.1, "{reload}: {size:?}");
    }
}
