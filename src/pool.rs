//! The pool of keys: which one is next, which rest, which are ejected. Pure: every call takes
//! `now`. There is no lock, no clock and no I/O in here; the one lock is in [`crate::relay`].
//!
//! Providers limit and refuse keys *per model*, so each model has a lane: its turns through the
//! keys, its rests, its queue (`lane.rs`, `seat.rs`). A key is out of *all* lanes, for a minute, if two
//! lanes refused it or an answer called it invalid. Then each lane probes it. So one model's requests
//! cannot take a key from another model for longer.
//!
//! An *attempt* takes a key and one of the `WORKERS` places together, and gives both back: this file does that.
//! `report.rs` takes in what an attempt showed, `merge.rs` the list of keys. `backoff.rs` is an overloaded model,
//! `window.rs` counts the last minute, `rare.rs` keeps what most keys never get, `sticky.rs` keeps a conversation on a
//! key, `view.rs` is what people see.
//!
//! A reload merges: keys that stay keep their rests and counters, removed keys finish their
//! requests, ejected keys are probed at once.

mod backoff;
mod bits;
mod lane;
mod merge;
mod rare;
mod report;
mod seat;
mod sticky;
#[cfg(test)]
mod tests;
mod view;
mod window;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::lane::Lane;
use self::rare::{Blank, Rare};
use self::report::Evidence;
use self::seat::Phase;
use self::window::{MINUTE, Window};
use crate::config::{Pace, Rotation};
use crate::secret::ApiKey;
use crate::sse::Tokens;

pub use self::lane::Ticket;
pub use self::merge::Merged;
pub use self::report::{Change, Report};
pub use self::seat::{PROBE_GAP, RestReason};
pub use self::view::{KeyCounts, KeyRests, KeyState, KeyView, MOST_SHOWN, ModelView, Overview};

/// How many models can have a lane of their own at a time. The one unused longest makes room.
pub const MAX_LANES: usize = 16;

/// Models with longer names, in bytes, get no lane.
const MAX_MODEL_NAME: usize = 128;

/// A key that was accepted somewhere this recently is not dead.
const RECENT: Duration = Duration::from_secs(10 * 60);

/// A key of this pool. A later key in the same slot has another `era`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct KeyId {
    at: usize,
    era: u32,
}

/// A model's lane; valid while a request is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId(usize);

/// The name of the lane of all models that have none of their own. It is made when the first such model comes. No limits
/// are kept in it, as one model's limit must not hold up the others.
const SHARED: &str = "";

/// The pool's settings. A reload can change all of them.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The first rest after a 429 that does not say how long.
    pub cooldown: Duration,
    /// `RPM_LIMIT`.
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
    /// When it was picked.
    pub at: Instant,
    /// Its number in the configuration, from 0, as people see it.
    pub index: usize,
    /// The key itself.
    pub key: ApiKey,
}

/// A request that asks for a key.
#[derive(Debug, Default, Clone, Copy)]
pub struct PickRequest<'a> {
    /// Its turn; without a ticket it is the last.
    pub ticket: Option<Ticket>,
    /// Keys not to pick: they were refused for this request.
    pub avoid: &'a [Picked],
    /// The only key to pick, if set.
    pub only: Option<&'a Picked>,
    /// For [`Rotation::Sticky`]: the same number gets the same key.
    pub conversation: Option<u64>,
}

impl PickRequest<'_> {
    /// Whether not every key will do.
    fn is_choosy(&self) -> bool {
        !self.avoid.is_empty() || self.only.is_some()
    }

    /// Whether it must not get this key.
    fn avoids(&self, key: usize) -> bool {
        self.avoid.iter().any(|picked| picked.id.at == key)
    }
}

/// What [`Pool::pick`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Pick {
    /// This key. The attempt counts as in flight until [`Pool::release`].
    Key(Picked),
    /// No key is free. Pick again at this instant, or when woken.
    Wait(Instant),
    /// No key is free, and others are first: they pick at this instant, and wake the next. Wait until woken.
    Behind(Instant),
    /// Others are first, or all places are taken. Wait until woken.
    InTurn,
    /// The only ready keys are those to avoid.
    NoOther,
    /// Every key of the pool was refused; now and then a request probes.
    Down,
}

#[derive(Debug)]
struct PoolKey {
    key: ApiKey,
    id: KeyId,
    index: usize,
    /// Whether it is in the configuration. A key that is not is forgotten when its last request ends.
    listed: bool,
    past: Rare<Past>,
}

/// What a key's requests showed, in all lanes.
#[derive(Debug, Clone)]
struct Past {
    /// Out for all models until this instant.
    out: Option<(RestReason, Instant)>,
    /// When the last request went out that it was accepted for.
    served: Option<Instant>,
    /// Refused since then: what that says against the key.
    refused: Option<Evidence>,
    /// For [`Pace::Fixed`].
    window: Window,
    counts: KeyCounts,
    last_used: Option<Instant>,
}

impl Blank for Past {
    const BLANK: &Past = &Past {
        out: None,
        served: None,
        refused: None,
        window: Window::NEW,
        counts: KeyCounts::NONE,
        last_used: None,
    };
}

impl PoolKey {
    fn picked(&self, lane: LaneId, now: Instant) -> Picked {
        Picked {
            id: self.id,
            lane,
            at: now,
            index: self.index,
            key: self.key.clone(),
        }
    }

    /// Where the key must wait in any lane although its turn has come, if it must.
    fn hold(&self, pace: Pace, now: Instant) -> Option<Phase> {
        if !self.listed {
            return Some(Phase::Gone);
        }
        match (self.past.out, pace) {
            (Some((_, until)), _) if until > now => Some(Phase::Held(until)),
            (_, Pace::Fixed(limit)) => self
                .past
                .window
                .free_at(limit, MINUTE, now)
                .map(Phase::Paced),
            _ => None,
        }
    }
}

/// The pool; see the module's text.
#[derive(Debug)]
pub struct Pool {
    slots: Vec<PoolKey>,
    /// Places in `slots` that can be used again: their keys are forgotten.
    free: Vec<usize>,
    /// The keys in the order of the configuration.
    listed: Vec<usize>,
    lanes: Vec<Lane>,
    /// Where in `listed` a new lane begins: after the last key that was picked.
    next: usize,
    /// Attempts under way.
    attempts: usize,
    /// The sums over all keys, removed ones included.
    counts: KeyCounts,
    /// Requests that could have a key but find no place, in turn.
    placeless: VecDeque<Ticket>,
    /// Requests to wake: they may get now what they wait for.
    woken: Vec<Ticket>,
    next_ticket: u64,
    next_era: u32,
    /// The latest `now` so far; see [`Pool::in_order`].
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
            lanes: Vec::new(),
            next: 0,
            attempts: 0,
            counts: KeyCounts::default(),
            placeless: VecDeque::new(),
            woken: Vec::new(),
            next_ticket: 0,
            next_era: 0,
            latest: now,
            settings,
        };
        pool.slots.reserve(keys.len());
        pool.merge(keys, settings, now);
        pool
    }

    /// A request for this model comes. It must [`Pool::exit`] its lane at its end.
    pub fn enter(&mut self, model: &str, now: Instant) -> (LaneId, Ticket) {
        let id = self.lane_for(model, now);
        let lane = &mut self.lanes[id.0];
        lane.requests += 1;
        lane.last_used = now;
        self.next_ticket += 1;
        (id, Ticket(self.next_ticket))
    }

    /// The request is over. Nobody waits behind it any more.
    pub fn exit(&mut self, lane: LaneId, ticket: Ticket) {
        self.leave(lane, ticket);
        self.lanes[lane.0].requests -= 1;
    }

    /// Picks the next key. A request with a ticket that gets a key leaves the queue; otherwise it
    /// joins or keeps its place in it.
    pub fn pick(&mut self, lane: LaneId, request: PickRequest<'_>, now: Instant) -> Pick {
        let now = self.in_order(now);
        if self.is_closed(lane, now) {
            return Pick::Down;
        }
        if self.is_full() || self.others_want_a_place(request.ticket) {
            if let Some(ticket) = request.ticket {
                self.lanes[lane.0].queue_up(ticket, request.is_choosy());
                if let Err(at) = self.placeless.binary_search(&ticket) {
                    self.placeless.insert(at, ticket);
                }
            }
            return Pick::InTurn;
        }
        let wait = match self.turn(lane, &request, now) {
            Ok(key) => {
                if let Some(ticket) = request.ticket {
                    self.leave(lane, ticket);
                }
                return self.hand_out(key, lane, now);
            }
            Err(Pick::Wait(at)) if !self.lanes[lane.0].is_first(&request) => Pick::Behind(at),
            Err(wait) => wait,
        };
        self.wants_no_place(request.ticket);
        if let Some(ticket) = request.ticket
            && wait != Pick::NoOther
        {
            self.lanes[lane.0].queue_up(ticket, request.is_choosy());
        }
        wait
    }

    /// The key whose turn it is, or why there is none.
    fn turn(
        &mut self,
        lane: LaneId,
        request: &PickRequest<'_>,
        now: Instant,
    ) -> Result<usize, Pick> {
        let (slots, settings) = (&self.slots, self.settings);
        let hold = |key: usize| slots[key].hold(settings.pace, now);
        let lane = &mut self.lanes[lane.0];
        lane.may_go(now)?;
        let sticks = settings.rotation == Rotation::Sticky && request.only.is_none();
        let conversation = request.conversation.filter(|_| sticks);
        let sticky_key = conversation.and_then(|conversation| {
            let is_free = |key| lane.is_free(key, request, now) && hold(key).is_none();
            sticky::sticky_key(conversation, &self.listed, slots, is_free)
        });
        lane.next(request, sticky_key, now, hold)
    }

    /// Leaves the queue, if the ticket is in it, and wakes the next.
    pub fn leave(&mut self, lane: LaneId, ticket: Ticket) {
        self.wants_no_place(Some(ticket));
        let was_first = self.lanes[lane.0].front() == Some(ticket);
        self.lanes[lane.0].leave(ticket);
        if was_first {
            self.wake_first(lane);
        }
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.listed.len()
    }

    /// The key with this name or number, for [`PickRequest::only`].
    pub fn named(&self, wanted: &str, lane: LaneId, now: Instant) -> Option<Picked> {
        let mut slots = self.listed.iter().map(|at| &self.slots[*at]);
        let slot = match slots.clone().find(|slot| slot.key.name() == Some(wanted)) {
            None => slots.nth(wanted.parse().ok()?),
            named => named,
        };
        slot.map(|slot| slot.picked(lane, now))
    }

    /// How many requests wait for a key or a place.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(Lane::waiting).sum()
    }

    /// The requests to wake since the last call.
    pub fn woken(&mut self) -> std::vec::Drain<'_, Ticket> {
        self.woken.drain(..)
    }

    /// Counts an answer's tokens; call it before [`Pool::release`].
    pub fn count_tokens(&mut self, picked: &Picked, tokens: Tokens) {
        self.counts.tokens += tokens;
        self.slots[picked.id.at].past.counts.tokens += tokens;
    }

    /// The attempt is over, its stream included.
    pub fn release(&mut self, picked: &Picked) {
        self.attempts = self.attempts.saturating_sub(1);
        let lane = &mut self.lanes[picked.lane.0];
        lane.in_flight = lane.in_flight.saturating_sub(1);
        let slot = &mut self.slots[picked.id.at];
        slot.past.counts.in_flight = slot.past.counts.in_flight.saturating_sub(1);
        self.forget_if_idle(picked.id.at);
        self.woken.extend(self.placeless.front());
        self.wake_first(picked.lane);
    }

    /// Never goes back. Threads read the clock and then wait for the lock, so an older `now` may
    /// come later; a request sent before a refusal must not seem to be sent after it.
    fn in_order(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// Whether the model refuses all keys at the moment.
    pub fn is_overloaded(&self, lane: LaneId) -> bool {
        self.lanes[lane.0].backoff.is_overloaded()
    }

    /// Leaves the model alone for this time, as if it were overloaded.
    pub fn leave_alone(&mut self, lane: LaneId, time: Duration, now: Instant) {
        let now = self.in_order(now);
        let lane = &mut self.lanes[lane.0];
        lane.backoff
            .overloaded(Some(time), lane.in_flight, now, now);
    }

    /// Whether this key is still one of the pool's.
    pub fn has(&self, picked: &Picked) -> bool {
        self.known(picked.id).is_some()
    }

    /// All places are taken.
    pub fn is_full(&self) -> bool {
        self.attempts >= self.settings.attempts
    }

    fn lane_for(&mut self, model: &str, now: Instant) -> LaneId {
        let has_own = model.len() <= MAX_MODEL_NAME;
        let model = if has_own { model } else { SHARED };
        if let Some(at) = self.lanes.iter().position(|lane| lane.model == model) {
            return LaneId(at);
        }
        // The shared lane, once made, stays: it is none of the sixteen, and makes no room.
        let own = (0..self.lanes.len()).filter(|at| !self.lanes[*at].is_shared());
        if model == SHARED || own.clone().count() < MAX_LANES {
            self.lanes.push(self.new_lane(model, now));
            return LaneId(self.lanes.len() - 1);
        }
        let unvisited = own.filter(|at| self.lanes[*at].requests == 0);
        match unvisited.min_by_key(|at| self.lanes[*at].last_used) {
            Some(at) => {
                self.lanes[at] = self.new_lane(model, now);
                LaneId(at)
            }
            None => self.lane_for(SHARED, now),
        }
    }

    /// A lane with all keys, first the one after the last that was picked.
    fn new_lane(&self, model: &str, now: Instant) -> Lane {
        let mut lane = Lane::new(model, self.slots.len(), now);
        let (before, after) = self.listed.split_at(self.next.min(self.listed.len()));
        for key in after.iter().chain(before) {
            lane.admit(*key);
        }
        lane
    }

    fn hand_out(&mut self, key: usize, lane: LaneId, now: Instant) -> Pick {
        let slot = &mut self.slots[key];
        self.lanes[lane.0].hand_out(key, now);
        self.attempts += 1;
        if matches!(self.settings.pace, Pace::Fixed(_)) {
            slot.past.window.add(now);
        }
        self.counts.requests += 1;
        slot.past.counts.requests += 1;
        slot.past.counts.in_flight += 1;
        slot.past.last_used = Some(now);
        self.next = slot.index + 1;
        Pick::Key(slot.picked(lane, now))
    }

    /// Whether others have waited longer for a place.
    fn others_want_a_place(&self, ticket: Option<Ticket>) -> bool {
        let first = self.placeless.front();
        first.is_some_and(|first| ticket.is_none_or(|ticket| *first < ticket))
    }

    /// The request no longer waits for a place: another one may have it.
    fn wants_no_place(&mut self, ticket: Option<Ticket>) {
        let at = ticket.and_then(|ticket| self.placeless.binary_search(&ticket).ok());
        if let Some(at) = at {
            self.placeless.remove(at);
            self.woken.extend(self.placeless.front());
        }
    }

    fn wake_first(&mut self, lane: LaneId) {
        self.woken.extend(self.lanes[lane.0].hopeful(false));
    }

    fn wake_all(&mut self) {
        for lane in &mut self.lanes {
            self.woken.extend(lane.hopeful(true));
        }
    }
}
