//! The pool of keys: which one is next, which ones rest, which ones are out. Pure: every call
//! takes `now`; there is no lock, no clock and no I/O in here (the one lock is in
//! [`crate::relay`]).
//!
//! Ready keys stand in a line: the first is picked and goes to the end, which is round-robin.
//! A resting key leaves the line and returns to its end when its time has come. The first request
//! after a rest is a *probe*: until its answer is there, the key gives out at most one request a
//! [`PROBE_GAP`], so that waiters do not run into a limit as a herd.
//!
//! A reload merges: keys that stay keep their place and counters, removed ones finish what they
//! carry, rejected ones that are still listed get another chance.
//!
//! Requests that find no key wait in a queue of [`Ticket`]s, first come, first served.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::secret::ApiKey;

/// How long a key that has just rested is held back after each request, until one is answered.
pub const PROBE_GAP: Duration = Duration::from_secs(1);

/// A key of this pool, for as long as anything refers to it; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(usize);

/// A key to send a request with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// For [`Pool::report`] and [`Pool::release`].
    pub id: KeyId,
    /// Its place in the configuration, counted from 0, as people know it.
    pub index: usize,
    /// The key itself.
    pub key: ApiKey,
}

/// What a reload changed, in numbers of keys.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Merged {
    /// Not known before.
    pub new: usize,
    /// No longer listed.
    pub removed: usize,
    /// Rejected before, still listed: tried again.
    pub revived: usize,
}

/// A place in the queue of waiting requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What [`Pool::pick`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Pick {
    /// Use this one. The pool counts it as in flight until [`Pool::release`].
    Key(Picked),
    /// None is free, or others were here first; nothing can change before this instant unless a
    /// request is answered.
    Wait(Instant),
    /// Every key was rejected by the upstream: waiting will not help.
    AllRejected,
    /// No other key than the one to be avoided is ready.
    NoOther,
}

/// What an attempt showed about its key.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Report {
    /// The upstream accepted the key.
    Accepted,
    /// 429: rest for that long, or for the configured cooldown.
    Limited(Option<Duration>),
    /// 401, or a 403 that another key did not get: out of the pool.
    Rejected(u16),
    /// No answer came: network or provider. The key is not to blame.
    NoAnswer,
}

/// A key's state at one instant.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum State {
    /// Can be picked.
    Ready,
    /// Limited by the upstream, for that much longer.
    Cooling(Duration),
    /// Rejected by the upstream with this status.
    Rejected(u16),
}

/// Counters of one key since the start.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Counts {
    /// Attempts made with it.
    pub requests: u64,
    /// Attempts answered with 429.
    pub limited: u64,
    /// Attempts answered with 401 (or a 403 that was its fault).
    pub rejected: u64,
    /// Attempts without an answer.
    pub no_answer: u64,
    /// Attempts under way.
    pub in_flight: u32,
}

/// One key as `/health` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The key's last four characters.
    pub label: String,
    /// Its state.
    pub state: State,
    /// Its counters.
    pub counts: Counts,
    /// How long ago it was last picked.
    pub last_used: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Place {
    /// In `line`, with this turn.
    InLine(u64),
    /// In `resting` until this instant: limited by the upstream.
    Cooling(Instant),
    /// In `resting` until this instant: a probe was sent and is not answered yet.
    Probing(Instant),
    /// Nowhere: rejected with this status.
    Out(u16),
    /// Nowhere: no longer in the configuration; forgotten when its last request ends.
    Retired,
}

#[derive(Debug)]
struct Slot {
    key: ApiKey,
    index: usize,
    place: Place,
    /// Has rested, and no request was accepted since.
    unproven: bool,
    counts: Counts,
    last_used: Option<Instant>,
}

/// The pool; see the module's text.
#[derive(Debug)]
pub struct Pool {
    /// By id; `None` once forgotten.
    slots: Vec<Option<Slot>>,
    /// The keys in the order of the configuration.
    listed: Vec<KeyId>,
    /// Ready keys, the next one first. An entry counts only while its slot says the same place:
    /// a key that moves leaves its old entry behind, to be dropped when it comes to the front.
    line: VecDeque<(KeyId, Place)>,
    /// Keys that return to the line at an instant, the soonest first; likewise.
    resting: BinaryHeap<Reverse<(Instant, KeyId)>>,
    queue: VecDeque<Ticket>,
    next_turn: u64,
    next_ticket: u64,
    cooldown: Duration,
}

impl Pool {
    /// A pool in which every key is ready. `cooldown`: the rest after a 429 that names none.
    pub fn new(keys: &[ApiKey], cooldown: Duration) -> Pool {
        let mut pool = Pool {
            slots: Vec::new(),
            listed: Vec::new(),
            line: VecDeque::new(),
            resting: BinaryHeap::new(),
            queue: VecDeque::new(),
            next_turn: 0,
            next_ticket: 0,
            cooldown,
        };
        pool.merge(keys, cooldown);
        pool
    }

    /// Takes over a new list of keys; see the module's text.
    pub fn merge(&mut self, keys: &[ApiKey], cooldown: Duration) -> Merged {
        let mut merged = Merged::default();
        let old = std::mem::take(&mut self.listed);
        let mut known: HashMap<ApiKey, KeyId> = old
            .iter()
            .map(|id| (self.slot(*id).key.clone(), *id))
            .collect();
        for (index, key) in keys.iter().enumerate() {
            let id = match known.remove(key) {
                Some(id) => id,
                None => {
                    merged.new += 1;
                    self.add(key)
                }
            };
            let slot = self.slot(id);
            slot.index = index;
            if matches!(slot.place, Place::Out(_)) {
                merged.revived += 1;
                slot.unproven = true;
                self.line_up(id);
            }
            self.listed.push(id);
        }
        merged.removed = known.len();
        for id in known.into_values() {
            self.move_to(id, Place::Retired);
            self.forget_if_idle(id);
        }
        self.cooldown = cooldown;
        merged
    }

    /// Picks the next key, for the request that holds `ticket` or for one that just came. Never
    /// `avoid`. A request with a ticket that gets a key leaves the queue with it.
    pub fn pick(&mut self, ticket: Option<Ticket>, avoid: Option<KeyId>, now: Instant) -> Pick {
        self.wake(now);
        // Whoever avoids a key has had its turn already and goes on; it never blocks the queue.
        let first = avoid.is_some()
            || self
                .queue
                .front()
                .is_none_or(|front| Some(*front) == ticket);
        match self.next_in_line(avoid) {
            Some((at, id)) if first => {
                if let Some(ticket) = ticket {
                    self.leave(ticket);
                }
                self.line.remove(at);
                self.hand_out(id, now)
            }
            Some(_) => Pick::Wait(now), // the front of the queue is about to take it
            None if self.listed.iter().all(|id| self.is_out(*id)) => Pick::AllRejected,
            // A second opinion is not worth a wait: the client may be told a 403 all the same.
            None if avoid.is_some() => Pick::NoOther,
            None => self
                .first_rest()
                .map_or(Pick::AllRejected, |Reverse((at, _))| Pick::Wait(at)),
        }
    }

    /// Joins the queue of waiting requests.
    pub fn queue_up(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.queue.push_back(ticket);
        ticket
    }

    /// Leaves the queue; a ticket that has left already is no matter.
    pub fn leave(&mut self, ticket: Ticket) {
        self.queue.retain(|t| *t != ticket);
    }

    /// How many requests wait for a key.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes in what an attempt showed. Says whether the key's state changed by it.
    pub fn report(&mut self, id: KeyId, report: Report, now: Instant) -> bool {
        let rest = self.cooldown;
        // A second key's answer may speak of a first one that a reload has taken away meanwhile.
        let Some(slot) = self.slots[id.0].as_mut() else {
            return false;
        };
        let retired = slot.place == Place::Retired;
        match report {
            Report::Accepted => {
                let was_probing = matches!(slot.place, Place::Probing(_));
                // An answer to a request sent before a 429 proves nothing about the time after it.
                if !matches!(slot.place, Place::Cooling(_)) {
                    slot.unproven = false;
                }
                if was_probing {
                    self.line_up(id);
                }
                was_probing
            }
            Report::Limited(stated) => {
                slot.counts.limited += 1;
                // An absurd COOLDOWN_SEC cannot overflow: without a sum, the key rests a day.
                let until = now
                    .checked_add(stated.unwrap_or(rest))
                    .unwrap_or(now + crate::hints::MAX_REST);
                match slot.place {
                    Place::Out(_) | Place::Retired => false,
                    // A later answer may extend a rest, never cut it short.
                    Place::Cooling(at) if at >= until => false,
                    place => {
                        self.move_to(id, Place::Cooling(until));
                        !matches!(place, Place::Cooling(_))
                    }
                }
            }
            Report::Rejected(status) => {
                slot.counts.rejected += 1;
                if retired {
                    return false;
                }
                let changed = !matches!(slot.place, Place::Out(_));
                self.move_to(id, Place::Out(status));
                changed
            }
            Report::NoAnswer => {
                slot.counts.no_answer += 1;
                false
            }
        }
    }

    /// The attempt, stream and all, is over.
    pub fn release(&mut self, id: KeyId) {
        let counts = &mut self.slot(id).counts;
        counts.in_flight = counts.in_flight.saturating_sub(1);
        self.forget_if_idle(id);
    }

    /// All keys as they stand, in the order of the configuration.
    pub fn snapshot(&self, now: Instant) -> Vec<KeyView> {
        self.listed
            .iter()
            .filter_map(|id| self.slots[id.0].as_ref())
            .map(|slot| KeyView {
                label: slot.key.label(),
                state: match slot.place {
                    Place::Cooling(at) if at > now => State::Cooling(at - now),
                    Place::Out(status) => State::Rejected(status),
                    _ => State::Ready,
                },
                counts: slot.counts,
                last_used: slot.last_used.map(|at| now.saturating_duration_since(at)),
            })
            .collect()
    }

    fn hand_out(&mut self, id: KeyId, now: Instant) -> Pick {
        let slot = self.slot(id);
        slot.counts.requests += 1;
        slot.counts.in_flight += 1;
        slot.last_used = Some(now);
        let picked = Picked {
            id,
            index: slot.index,
            key: slot.key.clone(),
        };
        if slot.unproven {
            self.move_to(id, Place::Probing(now + PROBE_GAP));
        } else {
            self.line_up(id);
        }
        Pick::Key(picked)
    }

    /// Returns to the line whoever has rested enough.
    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.first_rest().filter(|Reverse((at, _))| *at <= now)
        {
            self.resting.pop();
            debug_assert!(self.rests_until(id, at));
            self.slot(id).unproven = true;
            self.line_up(id);
        }
    }

    /// Where in the line the next key stands that is not `avoid`.
    fn next_in_line(&mut self, avoid: Option<KeyId>) -> Option<(usize, KeyId)> {
        while let Some((id, place)) = self.line.front().copied() {
            if self.place(id) == Some(place) {
                break;
            }
            self.line.pop_front();
        }
        let counts = |(_, (id, place)): &(usize, &(KeyId, Place))| {
            self.place(*id) == Some(*place) && Some(*id) != avoid
        };
        let (at, (id, _)) = self.line.iter().enumerate().find(counts)?;
        Some((at, *id))
    }

    /// The first rest that counts.
    fn first_rest(&mut self) -> Option<Reverse<(Instant, KeyId)>> {
        while let Some(Reverse((at, id))) = self.resting.peek().copied() {
            if self.rests_until(id, at) {
                return Some(Reverse((at, id)));
            }
            self.resting.pop();
        }
        None
    }

    fn rests_until(&self, id: KeyId, at: Instant) -> bool {
        matches!(self.place(id), Some(Place::Cooling(a) | Place::Probing(a)) if a == at)
    }

    fn is_out(&self, id: KeyId) -> bool {
        matches!(self.place(id), Some(Place::Out(_)))
    }

    fn place(&self, id: KeyId) -> Option<Place> {
        self.slots[id.0].as_ref().map(|slot| slot.place)
    }

    /// To the end of the line.
    fn line_up(&mut self, id: KeyId) {
        self.next_turn += 1;
        self.move_to(id, Place::InLine(self.next_turn));
    }

    /// The only way for a key to change its place; see [`Pool::line`] for the entry left behind.
    fn move_to(&mut self, id: KeyId, place: Place) {
        self.slot(id).place = place;
        match place {
            Place::InLine(_) => self.line.push_back((id, place)),
            Place::Cooling(at) | Place::Probing(at) => self.resting.push(Reverse((at, id))),
            Place::Out(_) | Place::Retired => {}
        }
    }

    fn add(&mut self, key: &ApiKey) -> KeyId {
        let id = KeyId(self.slots.len());
        let slot = Slot {
            key: key.clone(),
            index: 0,
            place: Place::Retired, // until it lines up
            unproven: false,
            counts: Counts::default(),
            last_used: None,
        };
        self.slots.push(Some(slot));
        self.line_up(id);
        id
    }

    fn forget_if_idle(&mut self, id: KeyId) {
        let slot = self.slot(id);
        if slot.place == Place::Retired && slot.counts.in_flight == 0 {
            self.slots[id.0] = None;
        }
    }

    /// The slot of a key that is listed, or has a request in flight.
    fn slot(&mut self, id: KeyId) -> &mut Slot {
        self.slots[id.0]
            .as_mut()
            .expect("a key in use is not forgotten")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(60);

    fn pool(n: usize) -> Pool {
        let keys: Vec<ApiKey> = (0..n)
            .map(|i| ApiKey::new(format!("test-key-number-{i:04}")))
            .collect();
        Pool::new(&keys, COOLDOWN)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn take(pool: &mut Pool, now: Instant) -> usize {
        match pool.pick(None, None, now) {
            Pick::Key(picked) => picked.index,
            other => panic!("no key: {other:?}"),
        }
    }

    #[test]
    fn ready_keys_take_turns_evenly() {
        let (mut pool, t0) = (pool(3), Instant::now());
        let turns: Vec<usize> = (0..7).map(|_| take(&mut pool, t0)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_limited_key_rests_for_the_cooldown_and_comes_back() {
        let (mut pool, t0) = (pool(2), Instant::now());
        let first = KeyId(take(&mut pool, t0));
        assert!(pool.report(first, Report::Limited(None), t0));
        assert_eq!([take(&mut pool, t0), take(&mut pool, t0)], [1, 1]);
        assert_eq!(
            pool.snapshot(t0 + secs(18))[0].state,
            State::Cooling(secs(42))
        );
        assert_eq!(take(&mut pool, t0 + secs(60)), 1);
        assert_eq!(take(&mut pool, t0 + secs(60)), 0);
    }

    #[test]
    fn a_stated_rest_wins_over_the_cooldown() {
        let (mut pool, t0) = (pool(1), Instant::now());
        take(&mut pool, t0);
        pool.report(KeyId(0), Report::Limited(Some(secs(5))), t0);
        assert_eq!(pool.pick(None, None, t0), Pick::Wait(t0 + secs(5)));
    }

    #[test]
    fn a_rest_is_extended_but_never_cut_short() {
        let (mut pool, t0) = (pool(1), Instant::now());
        pool.report(KeyId(0), Report::Limited(Some(secs(100))), t0);
        pool.report(KeyId(0), Report::Limited(Some(secs(5))), t0);
        assert_eq!(pool.pick(None, None, t0), Pick::Wait(t0 + secs(100)));
        pool.report(KeyId(0), Report::Accepted, t0); // an older request's answer
        assert_eq!(pool.pick(None, None, t0), Pick::Wait(t0 + secs(100)));
        pool.report(KeyId(0), Report::Limited(Some(secs(200))), t0);
        assert_eq!(pool.pick(None, None, t0), Pick::Wait(t0 + secs(200)));
    }

    #[test]
    fn after_a_rest_one_request_probes_before_the_others_follow() {
        let (mut pool, t0) = (pool(1), Instant::now());
        pool.report(KeyId(0), Report::Limited(None), t0);
        let t1 = t0 + COOLDOWN;
        assert_eq!(take(&mut pool, t1), 0);
        assert_eq!(pool.pick(None, None, t1), Pick::Wait(t1 + PROBE_GAP));
        assert_eq!(
            pool.snapshot(t1)[0].state,
            State::Ready,
            "a probe is not a fault"
        );
        assert!(
            pool.report(KeyId(0), Report::Accepted, t1),
            "waiters must be told"
        );
        assert_eq!([take(&mut pool, t1), take(&mut pool, t1)], [0, 0]);
    }

    #[test]
    fn a_slow_probe_holds_the_others_back_for_a_gap_only() {
        let (mut pool, t0) = (pool(1), Instant::now());
        pool.report(KeyId(0), Report::Limited(None), t0);
        let t1 = t0 + COOLDOWN;
        take(&mut pool, t1);
        let t2 = t1 + PROBE_GAP;
        take(&mut pool, t2);
        assert_eq!(pool.pick(None, None, t2), Pick::Wait(t2 + PROBE_GAP));
    }

    #[test]
    fn a_rejected_key_is_out_and_when_all_are_the_pool_says_so() {
        let (mut pool, t0) = (pool(2), Instant::now());
        assert!(pool.report(KeyId(0), Report::Rejected(401), t0));
        assert!(
            !pool.report(KeyId(0), Report::Rejected(401), t0),
            "one log line, not two"
        );
        assert!(
            !pool.report(KeyId(0), Report::Limited(None), t0),
            "a limit does not bring it back"
        );
        assert_eq!([take(&mut pool, t0), take(&mut pool, t0)], [1, 1]);
        pool.report(KeyId(1), Report::Rejected(403), t0);
        assert_eq!(pool.pick(None, None, t0 + secs(999)), Pick::AllRejected);
        assert_eq!(pool.snapshot(t0)[1].state, State::Rejected(403));
    }

    #[test]
    fn the_key_to_avoid_is_not_picked() {
        let (mut pool, t0) = (pool(2), Instant::now());
        let avoid = Some(KeyId(0));
        assert!(matches!(
            pool.pick(None, avoid, t0),
            Pick::Key(Picked { index: 1, .. })
        ));
        pool.report(KeyId(1), Report::Limited(Some(secs(9))), t0);
        assert_eq!(
            pool.pick(None, avoid, t0),
            Pick::NoOther,
            "not worth a wait"
        );
        pool.report(KeyId(1), Report::Rejected(401), t0);
        assert_eq!(pool.pick(None, avoid, t0), Pick::NoOther);
    }

    #[test]
    fn waiters_are_served_in_the_order_they_came() {
        let (mut pool, t0) = (pool(1), Instant::now());
        pool.report(KeyId(0), Report::Limited(Some(secs(5))), t0);
        let (a, b) = (pool.queue_up(), pool.queue_up());
        let t1 = t0 + secs(5);
        assert_eq!(
            pool.pick(Some(b), None, t1),
            Pick::Wait(t1),
            "b came second"
        );
        assert_eq!(
            pool.pick(None, None, t1),
            Pick::Wait(t1),
            "a newcomer comes last"
        );
        assert!(matches!(pool.pick(Some(a), None, t1), Pick::Key(..)));
        pool.report(KeyId(0), Report::Accepted, t1);
        assert!(matches!(pool.pick(Some(b), None, t1), Pick::Key(..)));
        assert_eq!(pool.waiting(), 0);
    }

    #[test]
    fn a_waiter_that_leaves_lets_the_next_one_pass() {
        let (mut pool, t0) = (pool(1), Instant::now());
        let (a, b) = (pool.queue_up(), pool.queue_up());
        pool.leave(a);
        assert!(matches!(pool.pick(Some(b), None, t0), Pick::Key(..)));
    }

    #[test]
    fn attempts_are_counted_by_what_became_of_them() {
        let (mut pool, t0) = (pool(1), Instant::now());
        take(&mut pool, t0);
        take(&mut pool, t0);
        pool.report(KeyId(0), Report::NoAnswer, t0);
        pool.report(KeyId(0), Report::Limited(None), t0);
        pool.release(KeyId(0));
        let view = &pool.snapshot(t0 + secs(3))[0];
        let expected = Counts {
            requests: 2,
            limited: 1,
            rejected: 0,
            no_answer: 1,
            in_flight: 1,
        };
        assert_eq!(view.counts, expected);
        assert_eq!(view.last_used, Some(secs(3)));
        assert_eq!(view.label, "…0000");
    }

    fn remembered(pool: &Pool) -> usize {
        pool.slots.iter().flatten().count()
    }

    fn key(name: &str) -> ApiKey {
        ApiKey::new(format!("test-key-number-{name}"))
    }

    #[test]
    fn a_reload_keeps_the_rest_and_the_counters_of_keys_that_stay() {
        let t0 = Instant::now();
        let mut pool = Pool::new(&[key("a"), key("b")], COOLDOWN);
        take(&mut pool, t0);
        pool.report(KeyId(0), Report::Limited(Some(secs(9))), t0);
        let merged = pool.merge(&[key("c"), key("a")], COOLDOWN);
        assert_eq!(
            merged,
            Merged {
                new: 1,
                removed: 1,
                revived: 0
            }
        );
        let views = pool.snapshot(t0);
        assert_eq!(views[1].state, State::Cooling(secs(9)));
        assert_eq!(views[1].counts.requests, 1);
        assert_eq!(
            [take(&mut pool, t0), take(&mut pool, t0)],
            [0, 0],
            "only c is ready"
        );
        assert_eq!(take(&mut pool, t0 + secs(9)), 0);
        assert_eq!(take(&mut pool, t0 + secs(9)), 1, "a has its new index");
    }

    #[test]
    fn a_removed_key_finishes_what_it_carries_and_is_forgotten() {
        let t0 = Instant::now();
        let mut pool = Pool::new(&[key("a"), key("b")], COOLDOWN);
        assert_eq!(take(&mut pool, t0), 0);
        pool.merge(&[key("b")], COOLDOWN);
        assert!(!pool.report(KeyId(0), Report::Limited(None), t0));
        assert!(!pool.report(KeyId(0), Report::Rejected(401), t0));
        assert!(!pool.report(KeyId(0), Report::Accepted, t0));
        assert_eq!(remembered(&pool), 2);
        pool.release(KeyId(0));
        assert_eq!(remembered(&pool), 1);
        assert!(
            !pool.report(KeyId(0), Report::Rejected(403), t0),
            "forgotten"
        );
        assert_eq!([take(&mut pool, t0), take(&mut pool, t0)], [0, 0]);
    }

    #[test]
    fn a_rejected_key_that_is_still_listed_is_tried_again_after_a_reload() {
        let t0 = Instant::now();
        let mut pool = Pool::new(&[key("a")], COOLDOWN);
        pool.report(KeyId(0), Report::Rejected(401), t0);
        assert_eq!(pool.merge(&[key("a")], COOLDOWN).revived, 1);
        assert_eq!(take(&mut pool, t0), 0);
    }

    #[test]
    fn a_key_that_comes_back_while_its_old_self_is_in_flight_starts_anew() {
        let t0 = Instant::now();
        let mut pool = Pool::new(&[key("a"), key("b")], COOLDOWN);
        assert_eq!(take(&mut pool, t0), 0);
        pool.merge(&[key("b")], COOLDOWN);
        assert_eq!(pool.merge(&[key("a"), key("b")], COOLDOWN).new, 1);
        pool.release(KeyId(0));
        assert_eq!(remembered(&pool), 2);
    }

    #[test]
    fn a_long_day_leaves_no_old_entries_behind() {
        let (mut pool, mut now) = (pool(5), Instant::now());
        for n in 0..10_000_u64 {
            now += Duration::from_millis(500);
            if let Pick::Key(picked) = pool.pick(None, None, now) {
                let report = match n % 3 {
                    0 => Report::Limited(Some(secs(n % 7 + 1))),
                    _ => Report::Accepted,
                };
                pool.report(picked.id, report, now);
                pool.release(picked.id);
            }
        }
        assert!(pool.line.len() <= 10, "{}", pool.line.len());
        assert!(pool.resting.len() <= 15, "{}", pool.resting.len());
    }

    #[test]
    fn an_absurd_cooldown_does_not_overflow() {
        let t0 = Instant::now();
        let mut pool = Pool::new(&[ApiKey::new("test-key-number-1")], Duration::MAX);
        pool.report(KeyId(0), Report::Limited(None), t0);
        assert!(matches!(pool.pick(None, None, t0), Pick::Wait(_)));
    }
}
