//! The last ten minutes in slots of ten seconds, and the last events: 6 kB at most.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Answered, What};

/// Seconds in a slot.
pub const STEP: u64 = 10;
/// Slots kept.
pub const SLOTS: usize = 60;
/// Events kept.
const EVENTS: usize = 32;
/// Bytes of a reason that are kept.
const REASON: usize = 160;
/// Failures of the upstream within this time of each other are one event.
const FLAP: Duration = Duration::from_secs(600);

/// What happened in one slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its number: seconds since the start, divided by [`STEP`].
    number: u64,
    /// Requests answered.
    pub requests: u32,
    /// Of these, with 5xx, or broken off.
    pub failed: u32,
    /// How many have a time to the first byte.
    timed: u32,
    /// The sum of these times, in milliseconds.
    millis: u64,
}

impl Slot {
    /// The mean time to the first byte, in milliseconds, if there was any.
    pub fn mean(&self) -> Option<u64> {
        self.millis.checked_div(self.timed.into())
    }
}

impl What {
    /// Its name on the page.
    pub fn word(self) -> &'static str {
        match self {
            What::Limited => "limited",
            What::Parked => "parked",
            What::Ejected => "ejected",
            What::Down => "down",
            What::Back => "back",
            What::Reloaded => "reloaded",
            What::Cut => "cut",
        }
    }
}

/// An event. Its only text is in the log too, so that it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// What.
    pub what: What,
    /// See [`What`].
    pub key: usize,
    /// See [`What`].
    pub number: u64,
    /// The reason, if there is one.
    pub why: Box<str>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Recent {
    started: Instant,
    /// By number modulo [`SLOTS`]. A slot with another number than expected is old.
    slots: [Slot; SLOTS],
    /// The oldest first.
    events: VecDeque<Event>,
}

impl Recent {
    /// Empty, from `now` on.
    pub fn new(now: Instant) -> Recent {
        Recent {
            started: now,
            slots: [Slot::default(); SLOTS],
            events: VecDeque::with_capacity(EVENTS),
        }
    }

    /// Counts a request.
    pub fn answered(&mut self, answered: Answered, now: Instant) {
        let number = self.number(now);
        let slot = &mut self.slots[number as usize % SLOTS];
        if slot.number != number {
            *slot = Slot {
                number,
                ..Slot::default()
            };
        }
        slot.requests += 1;
        slot.failed += u32::from(answered.status >= 500 || answered.cut);
        if let Some(time) = answered.first_byte {
            slot.timed += 1;
            slot.millis += time.as_millis() as u64;
        }
    }

    /// Notes that the upstream failed, and why.
    pub fn failed(&mut self, why: &str, now: Instant) {
        // Else an upstream that fails often would push out the events of keys.
        let mut number = 1;
        let mut last = self.events.iter().rev();
        if let (Some(back), Some(down)) = (last.next(), last.next())
            && (back.what, down.what) == (What::Back, What::Down)
            && now.saturating_duration_since(down.at) < FLAP
        {
            number += down.number;
            self.events.truncate(self.events.len() - 2);
        }
        self.note(What::Down, 0, number, now);
        if let Some(event) = self.events.back_mut() {
            event.why = why[..why.floor_char_boundary(REASON)].into();
        }
    }

    /// Adds an event, and forgets the oldest.
    pub fn note(&mut self, what: What, key: usize, number: u64, now: Instant) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            at: now,
            what,
            key,
            number,
            why: "".into(),
        });
    }

    /// The slots up to the present one, the oldest first; empty ones for times before the start.
    pub fn slots(&self, now: Instant) -> impl Iterator<Item = Slot> {
        let last = self.number(now);
        (0..SLOTS as u64).rev().map(move |ago| {
            let slot = last
                .checked_sub(ago)
                .map(|number| self.slots[number as usize % SLOTS])
                .filter(|slot| slot.number + ago == last);
            slot.unwrap_or_default()
        })
    }

    /// The events, the latest first, each with its age.
    pub fn events(&self, now: Instant) -> impl Iterator<Item = (Duration, &Event)> {
        let events = self.events.iter().rev();
        events.map(move |event| (now.saturating_duration_since(event.at), event))
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / STEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, millis: u64) -> Answered<'static> {
        Answered {
            status,
            first_byte: Some(Duration::from_millis(millis)),
            cut: status == 206,
            ..Answered::default()
        }
    }

    fn shown(recent: &Recent, now: Instant) -> Vec<(usize, u32, u32, Option<u64>)> {
        let slots = recent.slots(now).enumerate();
        slots
            .filter(|(_, slot)| slot.requests > 0)
            .map(|(at, slot)| (at, slot.requests, slot.failed, slot.mean()))
            .collect()
    }

    #[test]
    fn a_request_is_in_the_slot_of_its_time_and_moves_out_with_it() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut recent = Recent::new(start);
        assert_eq!(recent.slots(start).count(), SLOTS);
        recent.answered(answer(200, 100), at(1));
        recent.answered(answer(503, 300), at(9));
        recent.answered(answer(206, 50), at(25));
        assert_eq!(
            shown(&recent, at(29)),
            [(57, 2, 1, Some(200)), (59, 1, 1, Some(50))]
        );
        assert_eq!(
            shown(&recent, at(599)),
            [(0, 2, 1, Some(200)), (2, 1, 1, Some(50))]
        );
        assert_eq!(shown(&recent, at(600)), [(1, 1, 1, Some(50))]);
        // The place is used again, its old content is not seen through it.
        recent.answered(answer(200, 7), at(605));
        assert_eq!(
            shown(&recent, at(605)),
            [(1, 1, 1, Some(50)), (59, 1, 0, Some(7))]
        );
        assert_eq!(shown(&recent, at(100_000)), []);
    }

    #[test]
    fn the_last_events_are_kept_the_latest_first() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        for n in 0..40 {
            recent.note(What::Limited, n, 60, start + Duration::from_secs(n as u64));
        }
        let events: Vec<_> = recent.events(start + Duration::from_secs(40)).collect();
        assert_eq!(events.len(), EVENTS);
        assert_eq!((events[0].0, events[0].1.key), (Duration::from_secs(1), 39));
        assert_eq!(events[EVENTS - 1].1.key, 8);
    }

    #[test]
    fn an_upstream_that_comes_and_goes_is_two_events_and_not_all_of_them() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        recent.note(What::Limited, 1, 60, start);
        let mut now = start;
        for _ in 0..50 {
            now += FLAP - Duration::from_secs(1);
            recent.failed("it answers 502", now);
            recent.note(What::Back, 0, 0, now);
        }
        let events: Vec<_> = recent
            .events(now)
            .map(|(_, e)| (e.what, e.number))
            .collect();
        assert_eq!(
            events,
            [(What::Back, 0), (What::Down, 50), (What::Limited, 60)]
        );
        // Other news in between, or a long peace, begin anew.
        recent.note(What::Limited, 1, 60, now);
        recent.failed("it answers 502", now);
        recent.note(What::Back, 0, 0, now);
        recent.failed(&"é".repeat(100), now + FLAP);
        let numbers: Vec<u64> = recent.events(now).map(|(_, e)| e.number).collect();
        assert_eq!(numbers, [1, 0, 1, 60, 0, 50, 60]);
        let reasons: Vec<usize> = recent.events(now).map(|(_, e)| e.why.len()).collect();
        assert_eq!(reasons, [REASON, 0, 14, 0, 0, 14, 0]);
    }
}
