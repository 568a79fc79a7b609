//! The pool of keys: which one is next, which ones rest, which ones are out. Pure: every call
//! takes `now`; there is no lock, no clock and no I/O in here (the one lock is in
//! [`crate::relay`]).
//!
//! Limits of a minute are each key's own *per model*, so each model has a lane: its turns through
//! the keys, its rests, its queue (`lane.rs`). What holds for a key as a whole is kept here: a
//! spent quota parks it, a rejection takes it out, and a pace (`RPM_LIMIT`) spreads its requests.
//!
//! After a rest the first request is a *probe*: until it is answered the key gives out at most one
//! request a [`PROBE_GAP`], so that waiters do not run into a limit as a herd.
//!
//! A reload merges: keys that stay keep their rests and counters, removed ones finish what they
//! carry, rejected ones that are still listed get another chance.

mod lane;
#[cfg(test)]
mod tests;
mod window;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use self::lane::{Fitness, Lane, Place, Turn};
use self::window::{MINUTE, Window};
use crate::config::{Pace, Rotation};
use crate::secret::{ApiKey, SALT};
use crate::state::{Entry, Kind, Limit};

pub use self::lane::Ticket;

/// How long a key whose limit is near is held back after each request, until one is answered.
pub const PROBE_GAP: Duration = Duration::from_secs(1);

/// How many models can have a lane of their own at a time; the one that was not asked for the
/// longest makes room.
pub const MAX_LANES: usize = 16;

/// The longest name of a model that is kept, in bytes.
const MAX_MODEL_NAME: usize = 128;

/// How long a spent quota parks a key when the upstream does not say: the first, the second and
/// every further time in a row.
const QUOTA_RESTS: [Duration; 3] = [
    Duration::from_secs(60 * 60),
    Duration::from_secs(6 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

/// For so long after its last request a lane counts for [`KeyView::serves`].
const RECENT: Duration = Duration::from_secs(10 * 60);

/// A key of this pool, for as long as anything refers to it; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(usize);

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
    /// Rejected before, still listed: tried again.
    pub revived: usize,
}

/// Who asks for a key.
#[derive(Debug, Default, Clone, Copy)]
pub struct Asker<'a> {
    /// Its place among the others; without one it is the last.
    pub ticket: Option<Ticket>,
    /// Not this one.
    pub avoid: Option<&'a Picked>,
    /// For [`Rotation::Sticky`]: the same number, the same key.
    pub conversation: Option<u64>,
}

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

/// What an attempt showed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Report {
    /// The upstream accepted the key.
    Accepted,
    /// The key's limit for this model: rest for that long, or for the cooldown and longer.
    Limited(Option<Duration>),
    /// The key's quota is spent: park it for that long, or for hours.
    Quota(Option<Duration>),
    /// The key's quota for this model is spent: rest for that long, or for hours.
    ModelQuota(Option<Duration>),
    /// 401, or a 403 that another key did not get: out of the pool.
    Rejected(u16),
    /// The model has no capacity. No key is to blame.
    Crowded(Option<Duration>),
    /// An answer that says nothing about the key: a 403 to be judged, a provider in trouble.
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
    Rests(Duration),
    /// The key rests for all models.
    Parked(Duration),
    /// The key is out of the pool.
    Out,
    /// So many requests at a time for this model.
    Capacity(u32),
    /// The key is well again after a rest.
    Recovered,
}

/// A key's state at one instant.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum State {
    /// Can be picked.
    Ready,
    /// Held back by alvus itself (`RPM_LIMIT`, or a limit that is trusted), for that much longer.
    Throttled(Duration),
    /// Limited by the upstream, for that much longer.
    Cooling(Duration),
    /// Its quota is spent, for that much longer.
    Parked(Duration),
    /// Rejected by the upstream with this status.
    Rejected(u16),
}

/// Counters of one key since the start.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Counts {
    /// Attempts made with it.
    pub requests: u64,
    /// Attempts answered with a limit.
    pub limited: u64,
    /// Attempts answered with a spent quota.
    pub quota: u64,
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
    /// Its state; of several models' the one that lasts longest.
    pub state: State,
    /// The models it is not ready for, though the key as a whole is well.
    pub models: Vec<(String, State)>,
    /// Whether a model that was asked for lately can have it.
    pub serves: bool,
    /// Its counters.
    pub counts: Counts,
    /// How long ago it was last picked.
    pub last_used: Option<Duration>,
}

/// One model as `/health` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelView {
    /// Its name; empty for requests that name none.
    pub model: String,
    /// Attempts under way.
    pub in_flight: u32,
    /// Requests waiting for a key.
    pub waiting: usize,
    /// How many may be under way, while the upstream is short of capacity.
    pub capacity: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Standing {
    Good,
    /// Out until this instant: its quota is spent.
    Parked(Instant),
    /// Out: rejected with this status.
    Out(u16),
    /// No longer in the configuration; forgotten when its last request ends.
    Retired,
}

#[derive(Debug)]
struct Slot {
    key: ApiKey,
    index: usize,
    standing: Standing,
    /// Spent quotas in a row that the upstream did not name the length of.
    quota_level: usize,
    /// When it was parked last.
    parked: Option<Instant>,
    /// For [`Pace::Fixed`].
    window: Window,
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
    /// The first one is for requests that name no model, and for those that find no room.
    lanes: Vec<Lane>,
    /// Where in `listed` a new lane's first turn is: behind the last key that was picked.
    next: usize,
    settings: Settings,
}

impl Pool {
    /// A pool in which every key is ready.
    pub fn new(keys: &[ApiKey], settings: Settings, now: Instant) -> Pool {
        let mut pool = Pool {
            slots: Vec::new(),
            listed: Vec::new(),
            lanes: vec![Lane::new("", now)],
            next: 0,
            settings,
        };
        pool.merge(keys, settings);
        pool
    }

    /// Takes over a new list of keys; see the module's text.
    pub fn merge(&mut self, keys: &[ApiKey], settings: Settings) -> Merged {
        let mut merged = Merged::default();
        let old = std::mem::replace(&mut self.listed, Vec::with_capacity(keys.len()));
        if old.is_empty() {
            self.slots.reserve(keys.len());
            self.lanes[0].reserve(keys.len());
        }
        let mut known: HashMap<ApiKey, KeyId> = old
            .iter()
            .map(|id| (self.slot(*id).key.clone(), *id))
            .collect();
        for (index, key) in keys.iter().enumerate() {
            let before = match known.is_empty() {
                true => None, // at the start, when there is no need to hash them all
                false => known.remove(key),
            };
            let (id, is_new) = match before {
                Some(id) => (id, false),
                None => (self.add(key), true),
            };
            let slot = self.slot(id);
            slot.index = index;
            let revived = matches!(slot.standing, Standing::Out(_));
            if is_new || revived {
                slot.standing = Standing::Good;
                self.lanes.iter_mut().for_each(|lane| lane.admit(id.0));
            }
            merged.new += usize::from(is_new);
            merged.revived += usize::from(revived);
            self.listed.push(id);
        }
        merged.removed = known.len();
        for id in known.into_values() {
            self.slot(id).standing = Standing::Retired;
            self.forget_if_idle(id);
        }
        self.settings = settings;
        merged
    }

    /// A request for this model comes; it must [`Pool::exit`] the lane it is given.
    pub fn enter(&mut self, model: &str, now: Instant) -> (LaneId, Ticket) {
        let id = self.lane_for(model, now);
        (id, self.lanes[id.0].enter(now))
    }

    /// The request is over, whatever became of it: nobody waits behind a place that nobody will take.
    pub fn exit(&mut self, lane: LaneId, ticket: Ticket) {
        self.leave(lane, ticket);
        self.lanes[lane.0].visitors -= 1;
    }

    /// Picks the next key. A request with a ticket that gets a key leaves the queue with it.
    pub fn pick(&mut self, lane: LaneId, asker: Asker<'_>, now: Instant) -> Pick {
        let Asker {
            ticket,
            avoid,
            conversation,
        } = asker;
        let (slots, settings) = (&self.slots, self.settings);
        let score = conversation
            .filter(|_| settings.rotation == Rotation::Sticky)
            .map(|conversation| move |key: usize| affinity(conversation, slots[key].as_ref()));
        let turn = self.lanes[lane.0].next(
            ticket,
            avoid.map(|picked| picked.id.0),
            score.as_ref().map(|score| score as &dyn Fn(usize) -> u64),
            settings.pace,
            now,
            |key| fitness(slots[key].as_ref(), settings.pace, now),
        );
        match turn {
            Turn::Key(key) => {
                if let Some(ticket) = ticket {
                    self.leave(lane, ticket);
                }
                self.hand_out(KeyId(key), lane, now)
            }
            Turn::AfterOthers => Pick::Wait(now),
            // A second opinion is not worth a wait: the client may be told a 403 all the same.
            _ if avoid.is_some() => Pick::NoOther,
            Turn::NotBefore(at) => Pick::Wait(at),
            Turn::Nobody => Pick::AllRejected,
        }
    }

    /// Joins the queue of requests that wait in this lane, behind those that arrived earlier.
    pub fn queue_up(&mut self, lane: LaneId, ticket: Ticket) {
        self.lanes[lane.0].queue_up(ticket);
    }

    /// Leaves the queue; a ticket that has left already is no matter.
    pub fn leave(&mut self, lane: LaneId, ticket: Ticket) {
        self.lanes[lane.0].leave(ticket);
    }

    /// How many requests wait for a key.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(Lane::waiting).sum()
    }

    /// Takes in what an attempt showed; once for each, before its [`Pool::release`].
    pub fn report(&mut self, picked: &Picked, report: Report, now: Instant) -> Option<Change> {
        let Settings { cooldown, .. } = self.settings;
        let (key, lane) = (picked.id.0, &mut self.lanes[picked.lane.0]);
        let slot = self.slots[key].as_mut()?;
        lane.answered(key);
        match report {
            Report::Accepted => {
                let well = lane.accepted(key, picked.at, now);
                // As with rests: only what was sent since proves anything.
                let parked = slot.parked.take_if(|parked| *parked < picked.at);
                if parked.is_some() {
                    slot.quota_level = 0;
                }
                (well || parked.is_some()).then_some(Change::Recovered)
            }
            Report::Limited(stated) => {
                slot.counts.limited += 1;
                let news = lane.limited(key, stated, cooldown, picked.at, now)?;
                let gone = matches!(slot.standing, Standing::Out(_) | Standing::Retired);
                (!gone).then_some(Change::Rests(news))
            }
            Report::Quota(stated) => {
                slot.counts.quota += 1;
                for lane in &mut self.lanes {
                    lane.parked(key);
                }
                slot.park(stated, picked.at, now)
            }
            Report::ModelQuota(stated) => {
                slot.counts.quota += 1;
                let rest = lane.spent(key, stated, &QUOTA_RESTS, picked.at, now)?;
                let gone = matches!(slot.standing, Standing::Out(_) | Standing::Retired);
                (!gone).then_some(Change::Rests(rest))
            }
            Report::Rejected(status) => {
                slot.counts.rejected += 1;
                match slot.standing {
                    Standing::Out(_) | Standing::Retired => None,
                    Standing::Good | Standing::Parked(_) => {
                        slot.standing = Standing::Out(status);
                        Some(Change::Out)
                    }
                }
            }
            Report::Crowded(stated) => lane.crowded(stated, now).map(Change::Capacity),
            Report::Unclear => None,
            Report::NoAnswer => {
                slot.counts.no_answer += 1;
                None
            }
            Report::NotSent => {
                slot.counts.no_answer += 1;
                slot.window.take_back(picked.at);
                lane.take_back(key, picked.at);
                None
            }
        }
    }

    /// A second key has shown that the first one's 403 was the first one's fault.
    pub fn condemn(&mut self, first: &Picked) -> Option<Change> {
        // A reload may have taken it away meanwhile.
        let slot = self.slots[first.id.0].as_mut()?;
        if !matches!(slot.standing, Standing::Good | Standing::Parked(_)) {
            return None;
        }
        slot.counts.rejected += 1;
        slot.standing = Standing::Out(403);
        Some(Change::Out)
    }

    /// The attempt, stream and all, is over.
    pub fn release(&mut self, picked: &Picked) {
        let counts = &mut self.slot(picked.id).counts;
        counts.in_flight = counts.in_flight.saturating_sub(1);
        let lane = &mut self.lanes[picked.lane.0];
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.forget_if_idle(picked.id);
    }

    /// All keys as they stand, in the order of the configuration.
    pub fn snapshot(&self, now: Instant) -> Vec<KeyView> {
        let slots = self
            .listed
            .iter()
            .filter_map(|id| Some((id.0, self.slots[id.0].as_ref()?)));
        slots.map(|(key, slot)| self.view(key, slot, now)).collect()
    }

    /// The models that were asked for, the one without a name included.
    pub fn models(&self) -> Vec<ModelView> {
        let views = self.lanes.iter().map(|lane| ModelView {
            model: lane.model.clone(),
            in_flight: lane.in_flight,
            waiting: lane.waiting(),
            capacity: lane.capacity(),
        });
        views.collect()
    }

    /// What the upstream has against which key; our own pacing aside. Keys are named by their tags
    /// with this salt.
    pub fn limits(&self, salt: &[u8; SALT], now: Instant) -> Vec<Limit> {
        let mut limits = Vec::new();
        for id in &self.listed {
            let Some(slot) = self.slots[id.0].as_ref() else {
                continue;
            };
            let key = slot.key.tag(salt);
            let mut add = |model: Option<&str>, kind, until| {
                limits.push(Limit {
                    key,
                    model: model.map(str::to_owned),
                    kind,
                    until,
                });
            };
            match slot.standing {
                Standing::Out(status) => add(None, Kind::Rejected(status), None),
                Standing::Parked(at) if at > now => add(None, Kind::Parked, Some(at)),
                _ => {}
            }
            for lane in &self.lanes {
                match lane.seats[id.0].place {
                    Place::Cooling(at) if at > now => {
                        add(Some(&lane.model), Kind::Cooling, Some(at));
                    }
                    _ => {}
                }
            }
        }
        limits
    }

    /// Takes up what an earlier alvus knew, of the keys that are still listed. Says of how many
    /// entries.
    pub fn restore(&mut self, salt: &[u8; SALT], entries: &[Entry], now: Instant) -> usize {
        let listed = self.listed.clone();
        let mut taken = 0;
        for id in listed {
            let tag = self.slot(id).key.tag(salt);
            for entry in entries.iter().filter(|entry| entry.key == tag) {
                let until = now + entry.left;
                taken += 1;
                match entry.kind {
                    Kind::Rejected(status) => self.slot(id).standing = Standing::Out(status),
                    Kind::Parked => {
                        let slot = self.slot(id);
                        slot.standing = Standing::Parked(until);
                        slot.parked = Some(now);
                    }
                    Kind::Cooling => {
                        let lane = self.lane_for(entry.model.as_deref().unwrap_or_default(), now);
                        self.lanes[lane.0].resume(id.0, until, now);
                    }
                }
            }
        }
        taken
    }

    fn view(&self, key: usize, slot: &Slot, now: Instant) -> KeyView {
        let left = |at: Instant| at.saturating_duration_since(now);
        let in_lane = |lane: &Lane| match lane.seats[key].place {
            Place::Cooling(at) if at > now => State::Cooling(left(at)),
            Place::Paced(at) if at > now => State::Throttled(left(at)),
            _ => State::Ready,
        };
        let whole = match slot.standing {
            Standing::Out(status) => Some(State::Rejected(status)),
            Standing::Parked(at) if at > now => Some(State::Parked(left(at))),
            _ => None,
        };
        let models: Vec<(String, State)> = self
            .lanes
            .iter()
            .map(|lane| (lane.model.clone(), in_lane(lane)))
            .filter(|(_, state)| *state != State::Ready)
            .collect();
        let longest = models
            .iter()
            .map(|(_, state)| *state)
            .max_by_key(State::weight);
        // Requests without a model are rare (GET /v1/models) and no measure for the others.
        let named = self.lanes.iter().any(|lane| !lane.model.is_empty());
        let serves = |lane: &Lane| !matches!(in_lane(lane), State::Cooling(_));
        KeyView {
            label: slot.key.label(),
            state: whole.or(longest).unwrap_or(State::Ready),
            serves: whole.is_none()
                && self
                    .recent_lanes(now)
                    .filter(|lane| !(named && lane.model.is_empty()))
                    .map(serves)
                    .reduce(|a, b| a || b)
                    .unwrap_or(true),
            models,
            counts: slot.counts,
            last_used: slot.last_used.map(|at| now.saturating_duration_since(at)),
        }
    }

    fn recent_lanes(&self, now: Instant) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(move |lane| {
            lane.visitors > 0 || now.saturating_duration_since(lane.last_used) < RECENT
        })
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
        for id in after.iter().chain(before) {
            lane.admit(id.0);
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

    fn hand_out(&mut self, id: KeyId, lane: LaneId, now: Instant) -> Pick {
        self.lanes[lane.0].hand_out(id.0, now);
        let pace = self.settings.pace;
        let slot = self.slot(id);
        if matches!(pace, Pace::Fixed(_)) {
            slot.window.add(now);
        }
        slot.counts.requests += 1;
        slot.counts.in_flight += 1;
        slot.last_used = Some(now);
        let picked = Picked {
            id,
            lane,
            at: now,
            index: slot.index,
            key: slot.key.clone(),
        };
        self.next = picked.index + 1;
        Pick::Key(picked)
    }

    fn add(&mut self, key: &ApiKey) -> KeyId {
        let id = KeyId(self.slots.len());
        self.slots.push(Some(Slot {
            key: key.clone(),
            index: 0,
            standing: Standing::Good,
            quota_level: 0,
            parked: None,
            window: Window::default(),
            counts: Counts::default(),
            last_used: None,
        }));
        id
    }

    fn forget_if_idle(&mut self, id: KeyId) {
        let slot = self.slot(id);
        if slot.standing == Standing::Retired && slot.counts.in_flight == 0 {
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

impl Slot {
    /// Its quota is spent. Says for how long it is parked, if that is news.
    fn park(&mut self, stated: Option<Duration>, sent: Instant, now: Instant) -> Option<Change> {
        // Of the requests under way when the quota ran out each is refused; one is news.
        let known = self.parked.is_some_and(|parked| sent <= parked);
        let rest = stated.unwrap_or_else(|| {
            let level = self.quota_level - usize::from(known && self.quota_level > 0);
            QUOTA_RESTS[level.min(QUOTA_RESTS.len() - 1)]
        });
        let until = now + rest;
        match self.standing {
            Standing::Out(_) | Standing::Retired => return None,
            // A later answer may extend it, never cut it short.
            Standing::Parked(at) if at >= until => return None,
            Standing::Parked(_) | Standing::Good => self.standing = Standing::Parked(until),
        }
        if known {
            return None;
        }
        self.parked = Some(now);
        self.quota_level += usize::from(stated.is_none());
        Some(Change::Parked(rest))
    }
}

impl State {
    /// The heavier one is shown for a key that has several.
    fn weight(&self) -> (u8, Duration) {
        match self {
            State::Ready => (0, Duration::ZERO),
            State::Throttled(left) => (1, *left),
            State::Cooling(left) => (2, *left),
            State::Parked(left) => (3, *left),
            State::Rejected(_) => (4, Duration::ZERO),
        }
    }
}

fn fitness(slot: Option<&Slot>, pace: Pace, now: Instant) -> Fitness {
    let Some(slot) = slot else {
        return Fitness::Gone;
    };
    match (slot.standing, pace) {
        (Standing::Out(_) | Standing::Retired, _) => Fitness::Gone,
        (Standing::Parked(at), _) if at > now => Fitness::Parked(at),
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
