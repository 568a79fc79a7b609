//! The counters, and the table.

use std::time::Duration;

use crate::scenario::MINUTE;
use crate::sim::Policy;

#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub asked: u64,
    pub served: u64,
    /// The upstream's own word on the request went to the client.
    pub told: u64,
    pub gave_up: u64,
    /// Attempts refused because of a key's limit, for want of capacity, and for other reasons.
    pub limited: u64,
    pub overloaded: u64,
    pub denied: u64,
    pub lost: Duration,
    pub worst: Duration,
    /// Reports and states that nothing the key did explains.
    pub wrong: u64,
    /// Keys found by a request whose time had not come and that nobody had woken.
    pub overlooked: u64,
    /// Waits until an instant that has passed.
    pub spins: u64,
    pub rests: u64,
    pub longest_rest: Duration,
    /// Refusals that were no news, after the first refusal's rest.
    pub herd: u64,
    /// Times a key that would be served for a lane was kept out of it …
    pub out_of_use: Duration,
    /// … and when it had been dead, and was well again.
    pub comeback: Duration,
    /// Requests that were not sent because every key had been refused, although one works again.
    pub turned_away: u64,
    /// Minutes in which nothing was served although it was asked for and a key works.
    pub off_minutes: u64,
}

impl Tally {
    pub fn with(self, other: Tally) -> Tally {
        Tally {
            asked: self.asked + other.asked,
            served: self.served + other.served,
            told: self.told + other.told,
            gave_up: self.gave_up + other.gave_up,
            limited: self.limited + other.limited,
            overloaded: self.overloaded + other.overloaded,
            denied: self.denied + other.denied,
            lost: self.lost + other.lost,
            worst: self.worst.max(other.worst),
            wrong: self.wrong + other.wrong,
            overlooked: self.overlooked + other.overlooked,
            spins: self.spins + other.spins,
            rests: self.rests + other.rests,
            longest_rest: self.longest_rest.max(other.longest_rest),
            herd: self.herd + other.herd,
            // The worst day counts.
            out_of_use: self.out_of_use.max(other.out_of_use),
            comeback: self.comeback.max(other.comeback),
            turned_away: self.turned_away + other.turned_away,
            off_minutes: self.off_minutes + other.off_minutes,
        }
    }

    pub fn refused_per_success(&self) -> f64 {
        (self.limited + self.overloaded) as f64 / self.served.max(1) as f64
    }
}

/// Watches whether anything is served, minute by minute.
#[derive(Debug, Default)]
pub struct Watch {
    /// Requests without an answer, by lane; of models only.
    open: [u32; 2],
    /// One came in this second, by lane.
    came: [bool; 2],
    /// In this minute a request was open, or came, for which a key worked.
    wanted: bool,
    served: bool,
    pub off_minutes: u64,
}

impl Watch {
    pub fn asked(&mut self, lane: usize) {
        if let Some(open) = self.open.get_mut(lane) {
            *open += 1;
            self.came[lane] = true;
        }
    }

    pub fn ended(&mut self, lane: usize) {
        if let Some(open) = self.open.get_mut(lane) {
            *open -= 1;
        }
    }

    /// An attempt went out that is served.
    pub fn served(&mut self, lane: usize) {
        self.served = true;
        self.ended(lane);
    }

    /// One went out that no key would be served for.
    pub fn answered(&mut self) {
        self.served = true;
    }

    /// A second has passed; `works`: whether a key works for that lane.
    pub fn second(&mut self, works: [bool; 2], now: Duration) {
        let wanted = |lane: usize| works[lane] && (self.open[lane] > 0 || self.came[lane]);
        // What comes in a minute's last second may be served in the next one.
        let last = now.as_secs().is_multiple_of(MINUTE.as_secs());
        self.wanted |= !last && (wanted(0) || wanted(1));
        self.came = [false; 2];
        if last {
            self.off_minutes += u64::from(self.wanted && !self.served);
            (self.wanted, self.served) = (false, false);
        }
    }
}

pub fn print_head() {
    println!(
        "{:<25} {:>7} {:>6} {:>6} {:>8} {:>8} {:>9} {:>8} {:>8} {:>6}",
        "policy",
        "served",
        "told",
        "gaveup",
        "limited",
        "overloaded",
        "refused/1",
        "mean s",
        "worst s",
        "wrong"
    );
}

pub fn print_row(policy: Policy, tally: &Tally) {
    println!(
        "{:<25} {:>7} {:>6} {:>6} {:>8} {:>8} {:>9.4} {:>8.2} {:>8.1} {:>6}   (rests {}, longest {} s, herd {})",
        policy.name(),
        tally.served,
        tally.told,
        tally.gave_up,
        tally.limited,
        tally.overloaded,
        tally.refused_per_success(),
        tally.lost.as_secs_f64() / tally.served.max(1) as f64,
        tally.worst.as_secs_f64(),
        tally.wrong,
        tally.rests,
        tally.longest_rest.as_secs(),
        tally.herd,
    );
}

pub fn print_hostile_head() {
    println!(
        "{:<16} {:>7} {:>6} {:>6} {:>8} {:>8} {:>9} {:>8} {:>7} {:>7}",
        "policy",
        "served",
        "told",
        "gaveup",
        "refused",
        "worst s",
        "out s",
        "back s",
        "turned",
        "off min"
    );
}

pub fn print_hostile_row(policy: Policy, tally: &Tally) {
    println!(
        "{:<16} {:>7} {:>6} {:>6} {:>8} {:>8.1} {:>9} {:>8} {:>7} {:>7}",
        policy.name(),
        tally.served,
        tally.told,
        tally.gave_up,
        tally.limited + tally.overloaded + tally.denied,
        tally.worst.as_secs_f64(),
        tally.out_of_use.as_secs(),
        tally.comeback.as_secs(),
        tally.turned_away,
        tally.off_minutes,
    );
}
