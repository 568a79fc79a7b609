//! The pool as people see it: snapshots for `/health`, `/metrics`, the dashboard and the state file.

use std::time::{Duration, Instant};

use super::lane::Lane;
use super::seat::{Place, Why};
use super::{Pool, RECENT, Slot};
use crate::secret::SALT;
use crate::sse::Tokens;
use crate::state::Rest;

/// A key's state at one instant.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum State {
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
pub struct Counts {
    /// Attempts made with it.
    pub requests: u64,
    /// Attempts answered with a limit.
    pub limited: u64,
    /// Attempts answered with a spent quota.
    pub quota: u64,
    /// Attempts that were refused: the key's fault or the request's.
    pub refused: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// Attempts that found the model overloaded.
    pub overloaded: u64,
    /// Attempts without an answer.
    pub no_answer: u64,
    /// Attempts under way.
    pub in_flight: u32,
    /// The tokens that its answers took.
    pub tokens: Tokens,
}

/// One key as `/health` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyView {
    /// The key's name and its last four characters.
    pub label: String,
    /// Its name alone.
    pub name: Option<String>,
    /// Its state; of several models' states the gravest.
    pub state: State,
    /// The models it is not ready for.
    pub models: Vec<(String, State)>,
    /// Whether it is ready for a model that was asked for lately.
    pub serves: bool,
    /// Its counters.
    pub counts: Counts,
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

/// How many keys are read under one lock; that takes microseconds on a PC, with 16 models each.
const AT_A_TIME: usize = 32;

impl Pool {
    /// The state of all keys, in the order of the configuration.
    pub fn snapshot(&self, now: Instant) -> Vec<KeyView> {
        let down = self.is_down(now);
        let mut views = Vec::new();
        while self.snapshot_further(&mut views, down, now) {}
        views
    }

    /// The same, a few keys at a time, so that nobody waits long for the lock. Returns whether there are more.
    pub fn snapshot_further(&self, views: &mut Vec<KeyView>, down: bool, now: Instant) -> bool {
        // Requests without a model (GET /v1/models) are rare, and say nothing about the others.
        let is_named = |lane: &Lane| !lane.model.is_empty() && !lane.model.starts_with('/');
        let named = self.lanes.iter().any(is_named);
        let recent = self.recent_lanes(now);
        let recent: Vec<&Lane> = recent.filter(|lane| !named || is_named(lane)).collect();
        let end = self.listed.len().min(views.len() + AT_A_TIME);
        for at in self.listed.get(views.len()..end).unwrap_or_default() {
            // A listed key has a slot.
            let Some(slot) = &self.slots[*at] else {
                return false;
            };
            views.push(self.view(*at, slot, down, &recent, now));
        }
        views.len() < self.listed.len()
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

    /// Which key rests for which model for its limits, to be kept over a restart. Ejections are not
    /// kept: they are found out again. Keys are named by their tags with this salt.
    pub fn limits(&self, salt: &[u8; SALT], now: Instant) -> Vec<Rest> {
        let mut limits = Vec::new();
        for at in &self.listed {
            let Some(slot) = &self.slots[*at] else {
                continue;
            };
            let mut tag = None; // hashed only if needed, as few keys rest
            for lane in &self.lanes {
                if let Some((Why::Limited | Why::Quota, until)) = lane.seats[*at].rests(now) {
                    limits.push(Rest {
                        key: *tag.get_or_insert_with(|| slot.key.tag(salt)),
                        model: lane.model.clone(),
                        until,
                    });
                }
            }
        }
        limits
    }

    fn view(&self, key: usize, slot: &Slot, down: bool, recent: &[&Lane], now: Instant) -> KeyView {
        let whole = slot
            .out
            .filter(|(_, until)| *until > now)
            .map(|(why, until)| state(why, until.saturating_duration_since(now)));
        let models: Vec<(String, State)> = self
            .lanes
            .iter()
            .map(|lane| match (in_lane(lane, key, now), whole) {
                (State::Ready, Some(whole)) => (lane.model.clone(), whole),
                (state, _) => (lane.model.clone(), state),
            })
            .filter(|(_, state)| *state != State::Ready)
            .collect();
        let gravest = models
            .iter()
            .map(|(_, state)| *state)
            .max_by_key(State::weight);
        let serves =
            |lane: &Lane| matches!(in_lane(lane, key, now), State::Ready | State::Throttled(_));
        KeyView {
            label: slot.key.label(),
            name: slot.key.name().map(str::to_owned),
            state: whole.or(gravest).unwrap_or(State::Ready),
            serves: whole.is_none()
                && !down
                && recent
                    .iter()
                    .map(|lane| serves(lane))
                    .reduce(|a, b| a || b)
                    .unwrap_or(true),
            models,
            counts: slot.counts,
            last_used: slot.last_used.map(|at| now.saturating_duration_since(at)),
        }
    }

    /// All lanes; the first one, which is always there, only while a request is in it.
    fn recent_lanes(&self, now: Instant) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().filter(move |lane| {
            let lately = now.saturating_duration_since(lane.last_used) < RECENT;
            lane.visitors > 0 || (lately && !lane.model.is_empty())
        })
    }
}

fn in_lane(lane: &Lane, key: usize, now: Instant) -> State {
    let seat = &lane.seats[key];
    match (seat.rests(now), seat.place) {
        (Some((why, until)), _) => state(why, until.saturating_duration_since(now)),
        (None, Place::Paced(at)) if at > now => State::Throttled(at.saturating_duration_since(now)),
        _ => State::Ready,
    }
}

fn state(why: Why, left: Duration) -> State {
    match why {
        Why::Limited => State::Cooling(left),
        Why::Quota => State::Parked(left),
        Why::Refused { status, .. } => State::Ejected(status, left),
    }
}

impl State {
    /// Of a key's several states the heaviest is shown.
    fn weight(&self) -> (u8, Duration) {
        match self {
            State::Ready => (0, Duration::ZERO),
            State::Throttled(left) => (1, *left),
            State::Cooling(left) => (2, *left),
            State::Parked(left) => (3, *left),
            State::Ejected(_, left) => (4, *left),
        }
    }
}
