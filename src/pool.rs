//! The pool of keys: which one is next, which ones rest, which ones are out. Pure: every call
//! takes `now`; there is no lock, no clock and no I/O in here (the one lock is in
//! [`crate::relay`]).
//!
//! Providers limit and refuse keys *per model*, so each model has a lane: its turns through the
//! keys, its rests, its queue (`lane.rs`, `seat.rs`). A key as a whole is out for a minute at most,
//! when two lanes have something against it or when it was called invalid: then every lane finds
//! out for itself. So no request can take a key from another model for longer.
//!
//! A request's *attempt* takes a key and one of `WORKERS` places together, and gives both back.
//!
//! A reload merges: keys that stay keep their rests and counters, removed ones finish what they
//! carry, ejected ones are probed at once.

mod backoff;
mod lane;
mod seat;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use self::lane::{Fitness, Lane, Turn, Want};
use self::window::{MINUTE, Window};
use crate::config::{Pace, Rotation};
use crate::secret::{ApiKey, SALT};
use crate::state::Entry;

pub use self::lane::Ticket;
pub use self::seat::{PROBE_GAP, Why};
pub use self::view::{Counts, KeyView, ModelView, State};

/// How many models can have a lane of their own at a time; the one that was not asked for the
/// longest makes room.
pub const MAX_LANES: usize = 16;

/// The longest name of a model that is kept, in bytes.
const MAX_MODEL_NAME: usize = 128;

/// For so long a key that was served somewhere is no dead key.
const RECENT: Duration = Duration::from_secs(10 * 60);

/// For so long a key as a whole is out.
const WHOLE: Duration = Duration::from_secs(60);

/// For so long a lane is closed whose every key was refused: as long as that has lasted, within
/// these bounds.
const CLOSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A key of this pool; a later key in the same place has another `era`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct KeyId {
    at: usize,
    era: u32,
}

/// A model's lane, for as long as a request is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId(usize);

/// How the pool is to behave; all of it can change in a reload.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The first rest after a 429 that names none.
    pub cooldown: Duration,
    /// Our own limit.
    pub pace: Pace,
    /// The order of the keys.
    pub rotation: Rotation,
    /// Attempts under way at most (`WORKERS`).
    pub attempts: usize,
}

/// A key to send a request with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    id: KeyId,
    lane: LaneId,
    at: Instant,
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
    /// Ejected before, still listed: probed at once.
    pub revived: usize,
}

/// Who asks for a key.
#[derive(Debug, Default, Clone, Copy)]
pub struct Asker<'a> {
    /// Its place among the others; without one it is the last.
    pub ticket: Option<Ticket>,
    /// Not these: they were refused for this very request.
    pub avoid: &'a [Picked],
    /// This one or none: it has the request's `Idempotency-Key`.
    pub only: Option<&'a Picked>,
    /// For [`Rotation::Sticky`]: the same number, the same key.
    pub conversation: Option<u64>,
}

impl Asker<'_> {
    /// Not every key will do.
    fn is_choosy(&self) -> bool {
        !self.avoid.is_empty() || self.only.is_some()
    }
}

/// What [`Pool::pick`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Pick {
    /// Use this one. The pool counts it as in flight until [`Pool::release`].
    Key(Picked),
    /// None is free; nothing can change before this instant unless the request is woken.
    Wait(Instant),
    /// Others were here first, or all places are taken: the request will be woken.
    InTurn,
    /// No other key than the ones to be avoided is ready.
    NoOther,
    /// Every key of the pool was refused: one request a minute finds out whether that is over.
    Down,
}

/// What an attempt showed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Report {
    /// The upstream accepted the key.
    Accepted,
    /// The key's limit for this model: rest for that long, or for the cooldown and longer.
    Limited(Option<Duration>),
    /// The key's quota for this model is spent, and nobody said for how long.
    Quota,
    /// The key, or the request, was refused with this status: see [`Pool::refused`].
    Refused {
        /// The status.
        status: u16,
        /// The words call the key itself invalid.
        names_key: bool,
    },
    /// The model has no capacity. No key is to blame.
    Overloaded(Option<Duration>),
    /// An answer that says nothing about the key: a provider in trouble.
    Unclear,
    /// No answer came: network or provider. The key is not to blame.
    NoAnswer,
    /// Not one byte was sent; likewise, and it counts towards no limit.
    NotSent,
}

/// What a report changed, where that is news.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Change {
    /// The key rests for this model.
    Rests(Why, Duration),
    /// An ejected key was probed and refused again: that says nothing about the request.
    StillOut,
    /// So many requests at a time for this model, which is overloaded.
    Overloaded(u32),
    /// The key is well again after a rest.
    Recovered,
}

#[derive(Debug)]
struct Slot {
    key: ApiKey,
    id: KeyId,
    index: usize,
    /// In the configuration. One that is not is forgotten when its last request ends.
    listed: bool,
    /// Out for all models until then.
    out: Option<(Why, Instant)>,
    /// The last request that it was accepted for went out then.
    served: Option<Instant>,
    /// Refused since, for this lane; `two`: for another one as well, or called invalid by name.
    refused: Option<(LaneId, Grave)>,
    /// For [`Pace::Fixed`].
    window: Window,
    counts: Counts,
    last_used: Option<Instant>,
}

/// How much refusals without a witness say of a key.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Grave {
    /// One lane: it may be what was asked for.
    No,
    /// Two lanes, or words that name the key.
    Yes,
}

/// The pool; see the module's text.
#[derive(Debug)]
pub struct Pool {
    slots: Vec<Option<Slot>>,
    /// Places in `slots` that can be used again.
    free: Vec<usize>,
    /// The keys in the order of the configuration.
    listed: Vec<usize>,
    /// The first one is for those that find no room.
    lanes: Vec<Lane>,
    /// Where in `listed` a new lane's first turn is: behind the last key that was picked.
    next: usize,
    /// Attempts under way.
    attempts: usize,
    /// Requests that could have a key but no place, in turn.
    placeless: VecDeque<Ticket>,
    /// Requests that may find now what they wait for.
    woken: Vec<Ticket>,
    next_ticket: u64,
    next_era: u32,
    /// The latest instant it was told. Who looked at the clock first need not come first.
    latest: Instant,
    settings: Settings,
}

impl Pool {
    /// A pool in which every key is ready.
    pub fn new(keys: &[ApiKey], settings: Settings, now: Instant) -> Pool {
        let mut pool = Pool {
            slots: Vec::new(),
            free: Vec::new(),
            listed: Vec::new(),
            lanes: vec![Lane::new("", now)],
            next: 0,
            attempts: 0,
            placeless: VecDeque::new(),
            woken: Vec::new(),
            next_ticket: 0,
            next_era: 0,
            latest: now,
            settings,
        };
        pool.slots.reserve(keys.len());
        pool.lanes[0].reserve(keys.len());
        pool.merge(keys, settings, now);
        pool
    }

    /// Takes over a new list of keys; see the module's text.
    pub fn merge(&mut self, keys: &[ApiKey], settings: Settings, now: Instant) -> Merged {
        let mut merged = Merged::default();
        let old = std::mem::replace(&mut self.listed, Vec::with_capacity(keys.len()));
        let mut known: HashMap<ApiKey, usize> = old
            .iter()
            .filter_map(|at| Some((self.slots[*at].as_ref()?.key.clone(), *at)))
            .collect();
        for (index, key) in keys.iter().enumerate() {
            let before = match known.is_empty() {
                true => None, // at the start, when there is no need to hash them all
                false => known.remove(key),
            };
            let at = before.unwrap_or_else(|| self.add(key));
            merged.new += usize::from(before.is_none());
            merged.revived += usize::from(self.revive(at, now));
            if let Some(slot) = &mut self.slots[at] {
                slot.index = index;
            }
            self.listed.push(at);
        }
        merged.removed = known.len();
        for at in known.into_values() {
            self.lanes.iter_mut().for_each(|lane| lane.dismiss(at));
            if let Some(slot) = &mut self.slots[at] {
                slot.listed = false;
            }
            self.forget_if_idle(at);
        }
        self.settings = settings;
        self.wake_all();
        merged
    }

    /// A request for this model comes; it must [`Pool::exit`] the lane it is given.
    pub fn enter(&mut self, model: &str, now: Instant) -> (LaneId, Ticket) {
        let id = self.lane_for(model, now);
        let lane = &mut self.lanes[id.0];
        lane.visitors += 1;
        lane.last_used = now;
        self.next_ticket += 1;
        (id, Ticket(self.next_ticket))
    }

    /// The request is over, whatever became of it: nobody waits behind a place that nobody will take.
    pub fn exit(&mut self, lane: LaneId, ticket: Ticket) {
        self.leave(lane, ticket);
        self.lanes[lane.0].visitors -= 1;
    }

    /// Picks the next key. A request with a ticket that gets a key leaves the queue with it; one
    /// that does not is in it.
    pub fn pick(&mut self, lane: LaneId, asker: Asker<'_>, now: Instant) -> Pick {
        let now = self.in_order(now);
        if self.is_closed(lane, now) {
            return Pick::Down;
        }
        if self.is_full() || self.others_want_a_place(asker.ticket) {
            if let Some(ticket) = asker.ticket {
                self.lanes[lane.0].queue_up(ticket, asker.is_choosy());
                if let Err(at) = self.placeless.binary_search(&ticket) {
                    self.placeless.insert(at, ticket);
                }
            }
            return Pick::InTurn;
        }
        let turn = self.turn(lane, asker, now);
        if !matches!(turn, Turn::Key(_)) {
            self.wants_no_place(asker.ticket);
        }
        let wait = match turn {
            Turn::Key(key) => {
                if let Some(ticket) = asker.ticket {
                    self.leave(lane, ticket);
                }
                return self.hand_out(key, lane, now);
            }
            Turn::NoOther => return Pick::NoOther,
            Turn::NotBefore(at) => Pick::Wait(at),
            Turn::AfterOthers | Turn::Nobody => Pick::InTurn,
        };
        if let Some(ticket) = asker.ticket {
            self.lanes[lane.0].queue_up(ticket, asker.is_choosy());
        }
        wait
    }

    fn turn(&mut self, lane: LaneId, asker: Asker<'_>, now: Instant) -> Turn {
        let (slots, settings) = (&self.slots, self.settings);
        let score = asker
            .conversation
            .filter(|_| settings.rotation == Rotation::Sticky)
            .map(|conversation| move |key: usize| affinity(conversation, slots[key].as_ref()));
        let avoid: Vec<usize> = asker.avoid.iter().map(|picked| picked.id.at).collect();
        let want = Want {
            ticket: asker.ticket,
            choosy: asker.is_choosy(),
            avoid: &avoid,
            only: asker.only.map(|picked| picked.id.at),
            score: score.as_ref().map(|score| score as &dyn Fn(usize) -> u64),
        };
        self.lanes[lane.0].next(&want, now, |key| {
            fitness(slots[key].as_ref(), settings.pace, now)
        })
    }

    /// Leaves the queue; a ticket that has left already is no matter. The next one is woken.
    pub fn leave(&mut self, lane: LaneId, ticket: Ticket) {
        self.wants_no_place(Some(ticket));
        let was_first = self.lanes[lane.0].front() == Some(ticket);
        self.lanes[lane.0].leave(ticket);
        if was_first {
            self.wake_first(lane);
        }
    }

    /// How many requests wait for a key or a place.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(Lane::waiting).sum()
    }

    /// Those that may find now what they wait for, since this was last asked.
    pub fn woken(&mut self) -> std::vec::Drain<'_, Ticket> {
        self.woken.drain(..)
    }

    /// Takes in what an attempt showed; once for each, before its [`Pool::release`].
    pub fn report(&mut self, picked: &Picked, report: Report, now: Instant) -> Option<Change> {
        let now = self.in_order(now);
        let key = self.known(picked.id)?;
        let Settings { cooldown, pace, .. } = self.settings;
        let lane = &mut self.lanes[picked.lane.0];
        lane.answered(key);
        let report = match report {
            Report::Limited(None) if lane.is_overloaded(key, now) => Report::Overloaded(None),
            report => report,
        };
        let seat = &mut lane.seats[key];
        let counts = &mut self.slots[key].as_mut()?.counts;
        let sent = picked.at;
        let change = match report {
            Report::Accepted => {
                if seat.is_suspect(now) {
                    lane.suspect_nobody(); // it was the request
                }
                lane.backoff.served(sent, now);
                let seat = &mut lane.seats[key];
                let well = seat.accepted(sent, now);
                let whole = self.is_well(key, sent, now);
                (well || whole).then_some(Change::Recovered)
            }
            Report::Limited(stated) => {
                counts.limited += 1;
                let rest = seat.limited(stated, cooldown, pace, sent, now);
                rest.map(|rest| Change::Rests(Why::Limited, rest))
            }
            Report::Quota => {
                counts.quota += 1;
                let rest = seat.spent(sent, now);
                let rest = rest.map(|rest| Change::Rests(Why::Quota, rest));
                self.look_at_whole(key, picked.lane, Why::Quota, now);
                rest
            }
            Report::Refused { status, names_key } => {
                counts.refused += 1;
                let why = Why::Refused { status, names_key };
                let still_out = seat.refused(why, sent, now);
                self.suspect(key, picked.lane, names_key);
                still_out.then_some(Change::StillOut)
            }
            Report::Overloaded(stated) => {
                counts.overloaded += 1;
                seat.take_back(sent); // nothing was taken
                let limit = lane.backoff.overloaded(stated, lane.in_flight, sent, now);
                limit.map(Change::Overloaded)
            }
            Report::Unclear => None,
            Report::NoAnswer => {
                counts.no_answer += 1;
                None
            }
            Report::NotSent => {
                counts.no_answer += 1;
                seat.take_back(sent);
                if let Some(slot) = &mut self.slots[key] {
                    slot.window.take_back(sent);
                }
                None
            }
        };
        self.lanes[picked.lane.0].settle(key, now);
        self.wake_first(picked.lane);
        change
    }

    /// The request that these keys were refused for was answered well with another key: the refusals
    /// were the keys' own fault. Says for how long each is out, where that is news.
    pub fn eject(
        &mut self,
        refused: &Picked,
        status: u16,
        names_key: bool,
        now: Instant,
    ) -> Option<Duration> {
        let now = self.in_order(now);
        // A reload may have taken it away meanwhile.
        let key = self.known(refused.id)?;
        let why = Why::Refused { status, names_key };
        let lane = &mut self.lanes[refused.lane.0];
        let rest = lane.seats[key].eject(why, refused.at, now)?;
        lane.settle(key, now);
        if let Some(slot) = &mut self.slots[key] {
            slot.counts.ejections += 1;
        }
        self.look_at_whole(key, refused.lane, why, now);
        Some(rest)
    }

    /// A request in this lane was refused with every key that was tried. If all of the pool was,
    /// the lane is closed but for one request now and then, and soon one a minute.
    pub fn refused(&mut self, lane: LaneId, now: Instant) {
        if self.is_down(now) {
            self.lanes[lane.0].close(CLOSED, now);
        }
    }

    /// The attempt, stream and all, is over.
    pub fn release(&mut self, picked: &Picked) {
        self.attempts = self.attempts.saturating_sub(1);
        let lane = &mut self.lanes[picked.lane.0];
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if let Some(slot) = self.slots[picked.id.at]
            .as_mut()
            .filter(|slot| slot.id == picked.id)
        {
            slot.counts.in_flight = slot.counts.in_flight.saturating_sub(1);
            self.forget_if_idle(picked.id.at);
        }
        self.woken.extend(self.placeless.front());
        self.wake_first(picked.lane);
    }

    /// Threads look at the clock, and then wait for the lock: what happens later must not seem to
    /// have happened before, or a request that went out before a refusal would seem to be news.
    fn in_order(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// Whether the model refuses at the moment, whatever the key.
    pub fn is_refusing(&self, lane: LaneId) -> bool {
        self.lanes[lane.0].backoff.is_refusing()
    }

    /// The model is not asked for so long, as if it were overloaded.
    pub fn leave_alone(&mut self, lane: LaneId, time: Duration, now: Instant) {
        let now = self.in_order(now);
        let lane = &mut self.lanes[lane.0];
        lane.backoff
            .overloaded(Some(time), lane.in_flight, now, now);
    }

    /// Whether this key is still one of the pool's.
    pub fn has(&self, picked: &Picked) -> bool {
        let slot = self.slots.get(picked.id.at).and_then(Option::as_ref);
        slot.is_some_and(|slot| slot.id == picked.id && slot.listed)
    }

    /// All places are taken.
    pub fn is_full(&self) -> bool {
        self.attempts >= self.settings.attempts
    }

    /// Every key was refused for two models or by name, and none has served since.
    pub fn is_down(&self, now: Instant) -> bool {
        let is_bad = |slot: &Slot| {
            slot.refused.is_some_and(|(_, grave)| grave == Grave::Yes)
                || slot.out.is_some_and(|(_, until)| now < until)
        };
        let slots = self.listed.iter().map(|at| self.slots[*at].as_ref());
        slots.flatten().all(is_bad)
    }

    /// Takes up what an earlier alvus knew, of the keys that are still listed. Says of how many
    /// entries.
    pub fn restore(&mut self, salt: &[u8; SALT], entries: &[Entry], now: Instant) -> usize {
        let mut taken = 0;
        for key in self.listed.clone() {
            let Some(tag) = self.slots[key].as_ref().map(|slot| slot.key.tag(salt)) else {
                continue;
            };
            for entry in entries.iter().filter(|entry| entry.key == tag) {
                let lane = self.lane_for(&entry.model, now);
                let lane = &mut self.lanes[lane.0];
                lane.seats[key].resume(now + entry.left, now);
                lane.settle(key, now);
                taken += 1;
            }
        }
        taken
    }

    /// A lane whose every key was refused lets one request through now and then.
    fn is_closed(&mut self, lane: LaneId, now: Instant) -> bool {
        let Some((_, until)) = self.lanes[lane.0].closed else {
            return false;
        };
        if !self.is_down(now) {
            self.lanes[lane.0].closed = None;
        } else if now >= until {
            self.lanes[lane.0].close(CLOSED, now); // this one finds out
        } else {
            return true;
        }
        false
    }

    /// The key was accepted: nothing that was held against it as a whole is true any more.
    fn is_well(&mut self, key: usize, sent: Instant, now: Instant) -> bool {
        let Some(slot) = &mut self.slots[key] else {
            return false;
        };
        slot.served = slot.served.max(Some(sent));
        let was_bad = slot
            .refused
            .take()
            .is_some_and(|(_, grave)| grave == Grave::Yes);
        let was_out = slot.out.take().is_some();
        if was_bad || was_out {
            for lane in &mut self.lanes {
                lane.welcome(key, now);
            }
            self.wake_all();
        }
        was_out
    }

    /// A refusal without a witness: a second lane, or words that name the key, make it grave.
    fn suspect(&mut self, key: usize, lane: LaneId, names_key: bool) {
        if let Some(slot) = &mut self.slots[key] {
            let grave = match slot.refused {
                Some((_, Grave::Yes)) => true,
                Some((other, Grave::No)) => other != lane || names_key,
                None => names_key,
            };
            let grave = if grave { Grave::Yes } else { Grave::No };
            slot.refused = Some((lane, grave));
        }
    }

    /// The key is out for this lane. Is it for all? See the module's text.
    fn look_at_whole(&mut self, key: usize, here: LaneId, why: Why, now: Instant) {
        let Some(slot) = &mut self.slots[key] else {
            return;
        };
        let served = slot.served;
        let lately = served.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
        let named = matches!(
            why,
            Why::Refused {
                names_key: true,
                ..
            }
        );
        let elsewhere = self
            .lanes
            .iter()
            .enumerate()
            .any(|(at, lane)| at != here.0 && lane.seats[key].is_out_since(served));
        // Not again at once, so that another lane's request can show that the key is well.
        let rested = slot.out.is_none_or(|(_, until)| now >= until + WHOLE);
        if rested && (elsewhere || (named && !lately)) {
            slot.out = now.checked_add(WHOLE).map(|until| (why, until));
        }
    }

    fn lane_for(&mut self, model: &str, now: Instant) -> LaneId {
        if let Some(at) = self.lanes.iter().position(|lane| lane.model == model) {
            return LaneId(at);
        }
        if model.len() > MAX_MODEL_NAME {
            return LaneId(0);
        }
        let mut lane = Lane::new(model, now);
        lane.reserve(self.slots.len());
        let (before, after) = self.listed.split_at(self.next.min(self.listed.len()));
        for key in after.iter().chain(before) {
            lane.admit(*key);
        }
        if self.lanes.len() < MAX_LANES {
            self.lanes.push(lane);
            return LaneId(self.lanes.len() - 1);
        }
        let unvisited = (1..MAX_LANES).filter(|at| self.lanes[*at].visitors == 0);
        match unvisited.min_by_key(|at| self.lanes[*at].last_used) {
            Some(at) => {
                self.lanes[at] = lane;
                LaneId(at)
            }
            None => LaneId(0),
        }
    }

    fn hand_out(&mut self, key: usize, lane: LaneId, now: Instant) -> Pick {
        let pace = self.settings.pace;
        let Some(slot) = &mut self.slots[key] else {
            return Pick::InTurn; // a lane hands out no key that is gone
        };
        self.lanes[lane.0].hand_out(key, now);
        self.attempts += 1;
        if matches!(pace, Pace::Fixed(_)) {
            slot.window.add(now);
        }
        slot.counts.requests += 1;
        slot.counts.in_flight += 1;
        slot.last_used = Some(now);
        self.next = slot.index + 1;
        Pick::Key(Picked {
            id: slot.id,
            lane,
            at: now,
            index: slot.index,
            key: slot.key.clone(),
        })
    }

    fn add(&mut self, key: &ApiKey) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        self.next_era += 1;
        let slot = Slot {
            key: key.clone(),
            id: KeyId {
                at,
                era: self.next_era,
            },
            index: 0,
            listed: true,
            out: None,
            served: None,
            refused: None,
            window: Window::default(),
            counts: Counts::default(),
            last_used: None,
        };
        match self.slots.get_mut(at) {
            Some(free) => *free = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        self.lanes.iter_mut().for_each(|lane| lane.admit(at));
        at
    }

    /// An ejected key that is still listed after a reload is probed at once.
    fn revive(&mut self, key: usize, now: Instant) -> bool {
        let mut revived = false;
        for lane in &mut self.lanes {
            revived |= lane.revive(key, now);
        }
        if let Some(slot) = &mut self.slots[key] {
            revived |= slot.out.take().is_some();
            slot.refused = None;
        }
        revived
    }

    fn forget_if_idle(&mut self, at: usize) {
        let idle = |slot: &Slot| !slot.listed && slot.counts.in_flight == 0;
        if self.slots[at].as_ref().is_some_and(idle) {
            self.slots[at] = None;
            self.free.push(at);
        }
    }

    /// Where a key stands that was handed out; `None`: a reload removed it.
    fn known(&self, id: KeyId) -> Option<usize> {
        let slot = self.slots[id.at].as_ref()?;
        (slot.id == id && slot.listed).then_some(id.at)
    }

    /// Whether others have waited longer for a place.
    fn others_want_a_place(&self, ticket: Option<Ticket>) -> bool {
        let first = self.placeless.front();
        first.is_some_and(|first| ticket.is_none_or(|ticket| *first < ticket))
    }

    /// It has what it wants, or cannot use a place yet: the next one may.
    fn wants_no_place(&mut self, ticket: Option<Ticket>) {
        let at = ticket.and_then(|ticket| self.placeless.binary_search(&ticket).ok());
        if let Some(at) = at {
            self.placeless.remove(at);
            self.woken.extend(self.placeless.front());
        }
    }

    fn wake_first(&mut self, lane: LaneId) {
        self.woken.extend(self.lanes[lane.0].hopeful());
    }

    fn wake_all(&mut self) {
        self.woken.extend(self.lanes.iter().flat_map(Lane::hopeful));
    }
}

fn fitness(slot: Option<&Slot>, pace: Pace, now: Instant) -> Fitness {
    let Some(slot) = slot.filter(|slot| slot.listed) else {
        return Fitness::Gone;
    };
    match (slot.out, pace) {
        (Some((_, until)), _) if until > now => Fitness::Out(until),
        (_, Pace::Fixed(limit)) => match slot.window.free_at(limit, MINUTE, now) {
            Some(at) => Fitness::Paced(at),
            None => Fitness::Fit,
        },
        _ => Fitness::Fit,
    }
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): each conversation has its own order of
/// preference among the keys, and a key that comes or goes moves only its own conversations.
fn affinity(conversation: u64, slot: Option<&Slot>) -> u64 {
    let mut hasher = DefaultHasher::new();
    conversation.hash(&mut hasher);
    slot.map(|slot| &slot.key).hash(&mut hasher);
    hasher.finish()
}
