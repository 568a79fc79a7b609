//! One model's turns through the keys: which key is next, which rest, which requests wait.
//!
//! Providers limit each key per model, so each model has a lane of its own. So has each kind of
//! path, for requests without a model or that are no chat. `seat.rs` is one key in the lane, `backoff.rs` is the
//! model's own limit. The pool passes in what holds for a key in all lanes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::bits::Bits;
use super::rare::Rare;
use super::seat::{Phase, Seat};
use super::{Pick, PickRequest, SHARED};

/// A request's turn, from its arrival to its end: a request that was refused does not start over behind later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) model: String,
    /// Requests in this lane, waiting ones included.
    pub(super) requests: u32,
    /// Attempts under way.
    pub(super) in_flight: u32,
    pub(super) last_used: Instant,
    /// Where each key stands, by the keys' places in the pool's table.
    pub(super) phases: Vec<Phase>,
    /// The same keys' seats.
    pub(super) seats: Vec<Rare<Seat>>,
    pub(super) backoff: Backoff,
    /// Every key was refused since the first instant. Until the second one requests get the
    /// upstream's last refusal and are not sent.
    pub(super) closed: Option<(Instant, Instant)>,
    /// The key that met its limit last. Keys of one pool are mostly alike: its limit is expected of those that have met
    /// none.
    last_limited: Option<usize>,
    /// Keys that are out of the line until an instant. One whose time is over stays in until the
    /// lane is asked.
    pub(super) out_of_line: Bits,
    /// The ejected keys among them.
    pub(super) ejected: Bits,
    /// Ready keys, the next one first. An entry counts only while its phase has the same turn: a key
    /// that moves leaves its old entry behind, which is dropped at the front.
    line: VecDeque<(usize, u64)>,
    /// Keys that return to the line at an instant, the soonest first. Old entries stay here too.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Waiting requests, the first come first.
    queue: VecDeque<Ticket>,
    /// Waiting requests for which not every key will do. They wait beside the queue, so that they
    /// do not block a key they cannot use.
    beside: VecDeque<Ticket>,
    /// A key has come back into the line since those beside the queue were last woken.
    returned: bool,
    next_turn: u64,
}

impl Lane {
    /// An empty lane with room for this many keys.
    pub(super) fn new(model: &str, keys: usize, now: Instant) -> Lane {
        Lane {
            model: model.to_owned(),
            requests: 0,
            in_flight: 0,
            last_used: now,
            phases: Vec::with_capacity(keys),
            seats: Vec::with_capacity(keys),
            backoff: Backoff::default(),
            closed: None,
            last_limited: None,
            out_of_line: Bits::default(),
            ejected: Bits::default(),
            line: VecDeque::with_capacity(keys),
            resting: BinaryHeap::new(),
            queue: VecDeque::new(),
            beside: VecDeque::new(),
            returned: false,
            next_turn: 0,
        }
    }

    /// Whether it is the lane of all models that have none of their own.
    pub(super) fn is_shared(&self) -> bool {
        self.model == SHARED
    }

    /// Seats a key that is new, at the end of the line.
    pub(super) fn admit(&mut self, key: usize) {
        while self.seats.len() <= key {
            self.phases.push(Phase::Gone);
            self.seats.push(Rare::new());
        }
        (self.phases[key], self.seats[key]) = (Phase::Gone, Rare::new());
        self.tidy();
        self.line_up(key);
    }

    /// The key leaves the lane.
    pub(super) fn dismiss(&mut self, key: usize) {
        self.last_limited.take_if(|limited| *limited == key);
        self.move_to(key, Phase::Gone);
    }

    /// Whether a request may go now, whatever its key; if not, when.
    pub(super) fn may_go(&mut self, now: Instant) -> Result<(), Pick> {
        self.wake(now);
        self.backoff.may_go(self.in_flight, now)
    }

    /// Finds the next key: `sticky_key`, or the first in line. `hold`: where a key must wait in all lanes, if it must.
    pub(super) fn next(
        &mut self,
        request: &PickRequest<'_>,
        sticky_key: Option<usize>,
        now: Instant,
        hold: impl Fn(usize) -> Option<Phase>,
    ) -> Result<usize, Pick> {
        match sticky_key.or_else(|| self.scan(request, now, hold)) {
            Some(key) if self.is_first(request) => Ok(key),
            Some(_) => Err(Pick::InTurn), // the first in the queue will take it
            None if request.is_choosy() => {
                let witness = self.first_witness(request, now);
                Err(witness.map_or(Pick::NoOther, Pick::Wait))
            }
            None => {
                let rest = self.first_rest();
                Err(rest.map_or(Pick::InTurn, |(until, _)| Pick::Wait(until)))
            }
        }
    }

    /// Whether nobody has waited longer for any key. A request that avoids a key has had its turn already, and goes on.
    pub(super) fn is_first(&self, request: &PickRequest<'_>) -> bool {
        let is_not_behind = |front| request.ticket.is_some_and(|ticket| ticket <= front);
        request.is_choosy() || self.front().is_none_or(is_not_behind)
    }

    /// When the first key comes free that can be a witness: one that rests for its limits, not
    /// because it was refused itself. Or, if only one key will do, when that one does.
    fn first_witness(&self, request: &PickRequest<'_>, now: Instant) -> Option<Instant> {
        let may = |(key, phase): (usize, &Phase)| {
            let refused = || {
                self.seats[key]
                    .rests(now)
                    .is_some_and(|(why, _)| why.is_refusal())
            };
            let wanted = match request.only {
                Some(only) => only.id.at == key,
                None => !refused(),
            };
            let until = phase.until();
            until.filter(|_| wanted && !request.avoids(key))
        };
        self.phases.iter().enumerate().filter_map(may).min()
    }

    /// The limit that is expected of keys that have met none.
    fn expected(&self) -> Option<u32> {
        self.seats[self.last_limited?].limit()
    }

    /// Where the key must wait although its turn has come, if it must.
    fn hold(&self, key: usize, now: Instant) -> Option<Phase> {
        self.seats[key].hold(self.expected(), now)
    }

    /// Whether this key is ready in this lane, no suspect, and not to be avoided.
    pub(super) fn is_free(&self, key: usize, request: &PickRequest<'_>, now: Instant) -> bool {
        let seat = &self.seats[key];
        matches!(self.phases[key], Phase::InLine(_))
            && self.hold(key, now).is_none()
            && !seat.is_suspect(now)
            && !request.avoids(key)
    }

    /// Finds the first key in line that will do, a suspect only if there is no other.
    fn scan(
        &mut self,
        request: &PickRequest<'_>,
        now: Instant,
        hold: impl Fn(usize) -> Option<Phase>,
    ) -> Option<usize> {
        let mut suspect = None;
        let mut at = 0;
        while let Some((key, turn)) = self.line.get(at).copied() {
            if self.phases[key] != Phase::InLine(turn) {
                self.line.remove(at);
                continue;
            }
            let is_suspect = self.seats[key].is_suspect(now);
            if let Some(phase) = hold(key).or_else(|| self.hold(key, now)) {
                self.move_to(key, phase);
                self.line.remove(at);
                continue;
            }
            if request.avoids(key) || request.only.is_some_and(|only| only.id.at != key) {
                // it stays where it is
            } else if is_suspect {
                suspect = suspect.or(Some(key));
            } else {
                return Some(key);
            }
            at += 1;
        }
        suspect
    }

    /// A request goes out with this key.
    pub(super) fn hand_out(&mut self, key: usize, now: Instant) {
        self.seats[key].hand_out(now);
        self.backoff.probing(now);
        self.in_flight += 1;
        self.line_up(key);
    }

    /// The key met its limit.
    pub(super) fn met_limit(&mut self, key: usize) {
        self.last_limited = Some(key);
    }

    /// An answer has come, or none will. Call it once for each [`Lane::hand_out`].
    pub(super) fn answered(&mut self, key: usize) {
        self.seats[key].answered();
        if matches!(self.phases[key], Phase::Held(_)) {
            self.line_up(key);
        }
    }

    /// The key as a whole is well again.
    pub(super) fn welcome(&mut self, key: usize, now: Instant) {
        if let Some(seat) = self.seats[key].changed() {
            seat.pardon();
        }
        if let Phase::Held(_) = self.phases[key] {
            self.line_up(key);
        }
        self.reseat(key, now);
    }

    /// An ejected key is probed by the next request. Says whether it was ejected.
    pub(super) fn revive(&mut self, key: usize, now: Instant) -> bool {
        let seat = self.seats[key].changed();
        let ejected = seat.is_some_and(|seat| seat.probe_now(now));
        self.reseat(key, now);
        ejected
    }

    /// Moves the key to where its rest puts it.
    pub(super) fn reseat(&mut self, key: usize, now: Instant) {
        self.tidy();
        let phase = self.phases[key];
        match self.seats[key].rests(now) {
            _ if phase == Phase::Gone => {}
            Some((_, until)) => self.move_to(key, Phase::Resting(until)),
            None if matches!(phase, Phase::Resting(_)) => self.line_up(key),
            None => {}
        }
    }

    /// Closes the lane, for as long as it has been closed already, within bounds.
    pub(super) fn close(&mut self, bounds: (Duration, Duration), now: Instant) {
        let since = self.closed.map_or(now, |(since, _)| since);
        let gap = now
            .saturating_duration_since(since)
            .clamp(bounds.0, bounds.1);
        self.closed = now.checked_add(gap).map(|until| (since, until));
    }

    /// A suspect key was accepted: the refused request was to blame, so nobody is suspect.
    pub(super) fn suspect_nobody(&mut self) {
        let seats = self.seats.iter_mut().filter_map(Rare::changed);
        seats.for_each(Seat::trust);
    }

    /// Whether a bare 429 means that the model is overloaded, not the key limited: several keys get
    /// one at once, all far from what they took before. Then no key rests.
    pub(super) fn is_overloaded(&mut self, key: usize, now: Instant) -> bool {
        if !self.seats[key].is_far_from_its_limit(now) {
            return false;
        }
        let Some(other) = self.backoff.odd_429(key, now) else {
            return self.backoff.is_overloaded();
        };
        self.seats[other].forgive();
        self.reseat(other, now);
        true
    }

    /// `choosy`: not every key will do.
    pub(super) fn queue_up(&mut self, ticket: Ticket, choosy: bool) {
        let queue = match choosy {
            true => &mut self.beside,
            false => &mut self.queue,
        };
        if let Err(at) = queue.binary_search(&ticket) {
            queue.insert(at, ticket);
        }
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        for queue in [&mut self.queue, &mut self.beside] {
            if let Ok(at) = queue.binary_search(&ticket) {
                queue.remove(at);
            }
        }
    }

    /// The request that has waited longest.
    pub(super) fn front(&self) -> Option<Ticket> {
        self.queue.front().copied()
    }

    /// The requests that may get a key now: the one that waited longest, and those beside the queue, if a key has come
    /// back, the model is overloaded, or `all` are meant.
    pub(super) fn hopeful(&mut self, all: bool) -> impl Iterator<Item = Ticket> {
        let wakes_beside = std::mem::take(&mut self.returned) || self.backoff.is_busy() || all;
        let beside = wakes_beside.then_some(&self.beside).into_iter().flatten();
        beside.chain(self.queue.front()).copied()
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.beside.len()
    }

    /// All entries, old ones included: a test checks that they do not pile up.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.line.len() + self.resting.len()
    }

    /// Returns to the line all keys whose rest is over.
    fn wake(&mut self, now: Instant) {
        while let Some((_, key)) = self.first_rest().filter(|(at, _)| *at <= now) {
            self.resting.pop();
            self.line_up(key);
        }
    }

    /// The rest that ends first, old entries aside.
    fn first_rest(&mut self) -> Option<(Instant, usize)> {
        while let Some(Reverse((at, key))) = self.resting.peek().copied() {
            if self.phases[key].until() == Some(at) {
                return Some((at, key));
            }
            self.resting.pop();
        }
        None
    }

    /// Puts a key at the end of the line.
    fn line_up(&mut self, key: usize) {
        self.returned |= !matches!(self.phases[key], Phase::InLine(_));
        self.next_turn += 1;
        self.move_to(key, Phase::InLine(self.next_turn));
    }

    /// Drops old entries once they outnumber the others. In an idle lane, or one where the same few keys move again and
    /// again, they would never come to the front.
    fn tidy(&mut self) {
        let most = 2 * self.seats.len() + 16;
        let phases = &self.phases;
        if self.line.len() > most {
            self.line
                .retain(|(key, turn)| phases[*key] == Phase::InLine(*turn));
        }
        if self.resting.len() > most {
            self.resting
                .retain(|Reverse((at, key))| phases[*key].until() == Some(*at));
        }
    }

    /// Changes a key's place; nothing else does. See [`Lane::line`] for the entry left behind.
    fn move_to(&mut self, key: usize, phase: Phase) {
        if self.phases[key] == phase {
            return;
        }
        self.phases[key] = phase;
        let ejected = matches!(phase, Phase::Resting(_)) && self.seats[key].is_ejected();
        self.out_of_line.put(key, phase.until().is_some());
        self.ejected.put(key, ejected);
        match phase {
            Phase::InLine(turn) => self.line.push_back((key, turn)),
            Phase::Resting(at) | Phase::Paced(at) | Phase::Held(at) => {
                self.resting.push(Reverse((at, key)));
            }
            Phase::Gone => {}
        }
    }
}
