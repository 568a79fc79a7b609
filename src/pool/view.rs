//! The pool as people see it: snapshots for `/health`, `/metrics`, the dashboard and the state file.

use std::time::{Duration, Instant};

use super::bits::{self, Bits};
use super::lane::Lane;
use super::seat::{Phase, RestReason};
use super::{LaneId, Pool, PoolKey, RECENT};
use crate::secret::ApiKey;
use crate::sse::Tokens;

/// A key's state at one instant.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum KeyState {
    /// Can be picked.
    Ready,
    /// Held back by alvus itself (`RPM_LIMIT`, or a limit it learned), for that much longer.
    Throttled(Duration),
    /// Limited by the upstream, for that much longer.
    Cooling(Duration),
    /// Its quota is spent; probed after that much longer.
    Parked(Duration),
    /// Refused by the upstream with this status where another key was not; probed after that much
    /// longer.
    Ejected(u16, Duration),
}

/// Counters of one key since the start.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct KeyCounts {
    /// Attempts made with it.
    pub requests: u64,
    /// Attempts answered with a limit.
    pub limited: u64,
    /// Attempts answered with a spent quota.
    pub quota: u64,
    /// Attempts that were refused: the key's fault or the request's.
    pub refused: u64,
    /// Attempts that found the model overloaded.
    pub overloaded: u64,
    /// Attempts without an answer.
    pub no_answer: u64,
    /// Attempts under way.
    pub in_flight: u32,
    /// The tokens that its answers took.
    pub tokens: Tokens,
}

impl KeyCounts {
    pub(super) const NONE: KeyCounts = KeyCounts {
        requests: 0,
        limited: 0,
        quota: 0,
        refused: 0,
        overloaded: 0,
        no_answer: 0,
        in_flight: 0,
        tokens: Tokens {
            input: 0,
            output: 0,
        },
    };
}

/// One key as `/health` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyView {
    /// Its place in the configuration.
    pub index: usize,
    /// The key's name and its last four characters.
    pub label: String,
    /// Its name alone.
    pub name: Option<String>,
    /// Its state; of several models' states the gravest.
    pub state: KeyState,
    /// The models it is not ready for.
    pub models: Vec<(String, KeyState)>,
    /// Whether it is ready for a model that was asked for lately.
    pub serves: bool,
    /// Its counters.
    pub counts: KeyCounts,
    /// How long ago it was last picked.
    pub last_used: Option<Duration>,
}

/// One model as `/health` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelView {
    /// Its name; a path's kind for requests that name none.
    pub model: String,
    /// Attempts under way.
    pub in_flight: u32,
    /// Requests waiting for a key.
    pub waiting: usize,
    /// How many attempts may be under way, while the model is overloaded.
    pub capacity: Option<u32>,
    /// For how much longer no request is sent, while it is overloaded.
    pub backoff: Option<Duration>,
}

/// A key, and until when it rests for each model.
pub type KeyRests = (ApiKey, Vec<(String, Instant)>);

/// The most keys that are shown one by one.
pub const MOST_SHOWN: usize = 256;

/// How many keys are read under one lock; that takes microseconds on a PC, with 17 lanes each.
const AT_A_TIME: usize = 32;

/// The state of all keys: some one by one, and sums over all.
#[derive(Debug, Default)]
pub struct Overview {
    /// The keys that are shown, in the order of the configuration.
    pub listed: Vec<KeyView>,
    /// How many keys there are.
    pub total: usize,
    /// How many keys are in each state, in the order of [`KeyState::WORDS`].
    pub states: [usize; 5],
    /// Whether any is ready for a model that was asked for lately.
    pub serves: bool,
    /// The longest rest.
    pub longest: Duration,
    /// The sums of all counters, removed keys included.
    pub counts: KeyCounts,
    /// The slots to look at, and how many of them are done.
    pub(super) order: Vec<usize>,
    looked: usize,
    most: usize,
    down: bool,
}

impl Pool {
    /// Begins an overview. It looks at the keys that are not ready, the ejected ones first, and then at ready ones in
    /// their order, until `most` can be shown. The other keys are ready: no lane has marked them, and a key that is out
    /// for all lanes rests in the one that refused it.
    pub fn survey(&self, most: usize, now: Instant) -> Overview {
        let (mut order, mut found) = (Vec::new(), Bits::default());
        let marks: [fn(&Lane) -> &Bits; 2] = [|lane| &lane.ejected, |lane| &lane.out_of_line];
        for marks in marks {
            for at in 0..self.slots.len().div_ceil(bits::WORD) {
                let lanes = self.lanes.iter();
                let word = lanes.fold(0, |word, lane| word | marks(lane).word(at));
                for key in bits::keys(at, word & !found.word(at)) {
                    found.put(key, true);
                    order.push(key);
                }
            }
        }
        let room = most.saturating_sub(order.len());
        let others = self.listed.iter().copied();
        order.extend(others.filter(|key| !found.has(*key)).take(room));
        let total = self.listed.len();
        let left = total.saturating_sub(order.len());
        let down = self.is_down(now);
        Overview {
            total,
            states: [left, 0, 0, 0, 0],
            serves: left > 0 && !down,
            counts: KeyCounts {
                in_flight: self.attempts as u32, // at most WORKERS
                ..self.counts
            },
            order,
            most,
            down,
            ..Overview::default()
        }
    }

    /// Looks at a few more keys, so that nobody waits long for the lock. Returns whether there are more.
    pub fn survey_further(&self, seen: &mut Overview, now: Instant) -> bool {
        // Requests without a model (GET /v1/models) are rare, and say nothing about the others.
        let is_named = |lane: &Lane| !lane.is_shared() && !lane.model.starts_with('/');
        let named = self.lanes.iter().any(is_named);
        let recent = self.recent_lanes(now);
        let recent: Vec<&Lane> = recent.filter(|lane| !named || is_named(lane)).collect();
        let end = seen.order.len().min(seen.looked + AT_A_TIME);
        for key in seen.order[seen.looked..end].iter().copied() {
            let slot = &self.slots[key];
            if !slot.listed {
                continue; // a reload removed it
            }
            let (state, serves) = self.look(key, slot, &recent, now);
            let (rank, left) = state.weight();
            seen.states[rank] += 1;
            seen.longest = seen.longest.max(left);
            seen.serves |= serves && !seen.down;
            if seen.listed.len() < seen.most {
                let view = self.view(key, slot, (state, serves && !seen.down), now);
                let before = |other: &KeyView| other.index < view.index;
                let at = seen.listed.partition_point(before); // nearly always the end
                seen.listed.insert(at, view);
            }
        }
        seen.looked = end;
        end < seen.order.len()
    }

    /// The models that were asked for.
    pub fn models(&self, now: Instant) -> Vec<ModelView> {
        let views = self.lanes.iter().map(|lane| {
            let shown = lane.backoff.shown(now);
            ModelView {
                model: lane.model.clone(),
                in_flight: lane.in_flight,
                waiting: lane.waiting(),
                capacity: shown.map(|(limit, _)| limit),
                backoff: shown.map(|(_, left)| left).filter(|left| !left.is_zero()),
            }
        });
        views.collect()
    }

    /// Why a lane has no key: how many keys there are, rest, are ejected; and whether the model is overloaded.
    pub fn why_none(&self, lane: LaneId, now: Instant) -> (usize, usize, usize, bool) {
        let lane = &self.lanes[lane.0];
        let (out_of_line, out) = (lane.out_of_line.count(), lane.ejected.count());
        let overloaded = lane.backoff.shown(now).is_some();
        (self.listed.len(), out_of_line - out, out, overloaded)
    }

    /// Which key rests for which models for its limits, to be kept over a restart. Ejections are not kept: they are
    /// found out again. A few keys at a time: those of word `at`. Returns whether there are more.
    pub fn saved_rests(&self, at: usize, rests: &mut Vec<KeyRests>, now: Instant) -> bool {
        let lanes = self.lanes.iter();
        let word = lanes.fold(0, |word, lane| word | lane.out_of_line.word(at));
        for key in bits::keys(at, word) {
            let limited = |lane: &Lane| match lane.seats[key].rests(now) {
                Some((RestReason::Limited | RestReason::Quota, until)) => {
                    Some((lane.model.clone(), until))
                }
                _ => None,
            };
            let of_key: Vec<_> = self.lanes.iter().filter_map(limited).collect();
            if !of_key.is_empty() {
                rests.push((self.slots[key].key.clone(), of_key));
            }
        }
        (at + 1) * bits::WORD < self.slots.len()
    }

    /// A key's state, and whether it is ready for one of the `recent` lanes.
    fn look(&self, key: usize, slot: &PoolKey, recent: &[&Lane], now: Instant) -> (KeyState, bool) {
        let whole = whole(slot, now);
        let lanes = self.lanes.iter().map(|lane| in_lane(lane, key, now));
        let gravest = lanes.max_by_key(KeyState::weight);
        let serves = |lane: &&Lane| {
            matches!(
                in_lane(lane, key, now),
                KeyState::Ready | KeyState::Throttled(_)
            )
        };
        (
            whole.or(gravest).unwrap_or(KeyState::Ready),
            whole.is_none() && (recent.is_empty() || recent.iter().any(serves)),
        )
    }

    fn view(
        &self,
        key: usize,
        slot: &PoolKey,
        (state, serves): (KeyState, bool),
        now: Instant,
    ) -> KeyView {
        let whole = whole(slot, now);
        let lanes = self.lanes.iter().map(|lane| {
            let state = match (in_lane(lane, key, now), whole) {
                (KeyState::Ready, Some(whole)) => whole,
                (state, _) => state,
            };
            (state != KeyState::Ready).then(|| (lane.model.clone(), state))
        });
        KeyView {
            index: slot.index,
            label: slot.key.label(),
            name: slot.key.name().map(str::to_owned),
            state,
            serves,
            models: lanes.flatten().collect(),
            counts: slot.past.counts,
            last_used: slot
                .past
                .last_used
                .map(|at| now.saturating_duration_since(at)),
        }
    }

    /// All lanes that were used lately; the shared one only while a request is in it.
    fn recent_lanes(&self, now: Instant) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(move |lane| {
            let lately = now.saturating_duration_since(lane.last_used) < RECENT;
            lane.requests > 0 || (lately && !lane.is_shared())
        })
    }
}

/// A state that holds for all models.
fn whole(slot: &PoolKey, now: Instant) -> Option<KeyState> {
    let (why, until) = slot.past.out.filter(|(_, until)| *until > now)?;
    Some(state(why, until.saturating_duration_since(now)))
}

fn in_lane(lane: &Lane, key: usize, now: Instant) -> KeyState {
    if !lane.out_of_line.has(key) {
        return KeyState::Ready;
    }
    let seat = &lane.seats[key];
    match (seat.rests(now), lane.phases[key]) {
        (Some((why, until)), _) => state(why, until.saturating_duration_since(now)),
        (None, Phase::Paced(at)) if at > now => {
            KeyState::Throttled(at.saturating_duration_since(now))
        }
        _ => KeyState::Ready,
    }
}

fn state(why: RestReason, left: Duration) -> KeyState {
    match why {
        RestReason::Limited => KeyState::Cooling(left),
        RestReason::Quota => KeyState::Parked(left),
        RestReason::Refused { status, .. } => KeyState::Ejected(status, left),
    }
}

/// For tests of the pages: an overview of these keys.
#[cfg(test)]
impl Overview {
    /// An overview of these keys only.
    pub fn of(listed: Vec<KeyView>) -> Overview {
        let mut all = Overview {
            total: listed.len(),
            serves: listed.iter().any(|key| key.serves),
            ..Overview::default()
        };
        for key in &listed {
            let (rank, left) = key.state.weight();
            all.states[rank] += 1;
            all.longest = all.longest.max(left);
        }
        Overview { listed, ..all }
    }
}

impl KeyState {
    /// Their names, by weight.
    pub const WORDS: [&str; 5] = ["ready", "throttled", "cooling", "parked", "ejected"];

    /// Of a key's several states the heaviest is shown.
    pub fn weight(&self) -> (usize, Duration) {
        match self {
            KeyState::Ready => (0, Duration::ZERO),
            KeyState::Throttled(left) => (1, *left),
            KeyState::Cooling(left) => (2, *left),
            KeyState::Parked(left) => (3, *left),
            KeyState::Ejected(_, left) => (4, *left),
        }
    }
}
