//! Takes a key and a place among the `WORKERS`, and waits: for a key, for a place, or for a pause to end. There is
//! one way to wait, [`Relay::wait`]: it notices that the client leaves, sends heartbeats, keeps the deadline and ends
//! when alvus stops. Each waiting request sleeps on an eventfd of its own, its bell, until the pool rings it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::errors::Unserved;
use super::stand_ins::STAND_IN_AFTER;
use super::{Relay, Trip, lock};
use crate::client::{Client, Interest, Wake};
use crate::pool::{LaneId, Pick, PickRequest, Picked, Pool, Report, Ticket};
use crate::retry::Step;
use crate::sse::Tokens;
use crate::upstream::Failure;

/// How often a request polls that has no bell, because no file descriptor was left.
const TICK: Duration = Duration::from_secs(1);

/// The pool, and the bells of the waiting requests.
#[derive(Debug)]
pub(super) struct Shared {
    pool: Pool,
    bells: HashMap<Ticket, Ringer>,
    stopping: bool,
}

#[derive(Debug)]
struct Ringer {
    bell: Arc<OwnedFd>,
    /// The request waits for a pause to end, not for a key.
    pauses: bool,
}

impl Shared {
    pub(super) fn new(pool: Pool) -> Shared {
        Shared {
            pool,
            bells: HashMap::new(),
            stopping: false,
        }
    }

    /// The bells of the requests that the pool wants woken.
    fn woken(&mut self) -> Vec<Arc<OwnedFd>> {
        let Shared { pool, bells, .. } = self;
        let woken = pool.woken();
        woken
            .filter_map(|ticket| Some(bells.get(&ticket)?.bell.clone()))
            .collect()
    }
}

/// One request's entry in its lane; leaves the lane when dropped.
pub(super) struct Entry<'a> {
    relay: &'a Relay,
    pub(super) lane: LaneId,
    ticket: Ticket,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.relay.pool(|pool| pool.exit(self.lane, self.ticket));
    }
}

/// A key in use, and a place; both are given back when dropped.
pub(super) struct Lease<'a> {
    relay: &'a Relay,
    pub(super) picked: Picked,
    pub(super) reported: bool,
    /// The tokens that the answer took.
    pub(super) tokens: Tokens,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.relay.pool(|pool| {
            if !self.reported {
                // The client left before there was an answer.
                pool.report(&self.picked, Report::Unclear, Instant::now());
            }
            pool.count_tokens(&self.picked, self.tokens);
            pool.release(&self.picked);
        });
    }
}

/// A registered bell; removed when dropped.
struct Bell<'a> {
    relay: &'a Relay,
    ticket: Ticket,
    bell: Option<Arc<OwnedFd>>,
}

impl Drop for Bell<'_> {
    fn drop(&mut self) {
        lock(&self.relay.shared).bells.remove(&self.ticket);
    }
}

impl Relay {
    /// Does something with the pool, and wakes the requests that can go on because of it.
    pub(super) fn pool<T>(&self, with: impl FnOnce(&mut Pool) -> T) -> T {
        let mut shared = lock(&self.shared);
        let done = with(&mut shared.pool);
        let woken = shared.woken();
        drop(shared);
        ring(&woken);
        done
    }

    /// alvus stops: ends all waits, and all that would begin.
    pub fn stop(&self) {
        lock(&self.shared).stopping = true;
        self.ring_all(|_| true);
    }

    /// Wakes requests that pause: another one found that the upstream is back.
    pub(super) fn ring_pausing(&self) {
        self.ring_all(|ringer| ringer.pauses);
    }

    fn ring_all(&self, which: fn(&Ringer) -> bool) {
        let shared = lock(&self.shared);
        let ringers = shared.bells.values().filter(|ringer| which(ringer));
        let bells: Vec<_> = ringers.map(|ringer| ringer.bell.clone()).collect();
        drop(shared);
        ring(&bells);
    }

    /// A request enters a lane.
    pub(super) fn enter(&self, lane: &str, now: Instant) -> Entry<'_> {
        let (lane, ticket) = self.pool(|pool| pool.enter(lane, now));
        Entry {
            relay: self,
            lane,
            ticket,
        }
    }

    /// Takes a key, after a wait in line if needed. `None`: none comes free soon, and another model can stand in.
    pub(super) fn pick<'a>(
        &'a self,
        trip: &mut Trip<'a, '_>,
    ) -> Result<Option<Lease<'a>>, Unserved> {
        let mut wait: Option<(Bell, Instant)> = None;
        if std::mem::take(&mut trip.stand_ins.changed) {
            let lane = trip.exchange.mapped.lane(&trip.outcome.model);
            trip.entry = self.enter(&lane, Instant::now());
        }
        let found = loop {
            let now = Instant::now();
            let pick = self.pick_now(trip, now)?;
            let since = wait.as_ref().map_or(now, |(_, since)| *since);
            let patience = self.patience(trip, &pick, since);
            if patience.is_some_and(|until| until <= now) {
                break Ok(None);
            }
            // When a key comes free, and when to look again. A request behind others does not look: it is woken.
            let (soonest, look) = match pick {
                Pick::Key(picked) => break Ok(Some(picked)),
                Pick::NoOther => break Err(Unserved::NoOther),
                Pick::Down => break Err(Unserved::Down),
                Pick::Wait(at) => (Some(at), Some(at)),
                Pick::Behind(at) => (Some(at), None),
                Pick::InTurn => (None, None),
            };
            if !trip.retry.may_wait(soonest.unwrap_or(now), now) {
                break Err(Unserved::NoKey(soonest));
            }
            match &wait {
                // Pick again before the wait: a wake-up before the bell was registered is lost.
                None => wait = Some((self.hang_bell(trip.entry.ticket, false), now)),
                Some((bell, _)) => {
                    let ends = trip.retry.deadline().into_iter().chain(patience);
                    let until = look.into_iter().chain(ends).min();
                    if let Err(why) = self.wait(bell, until, &trip.exchange.client) {
                        break Err(why);
                    }
                }
            }
        };
        let has_key = matches!(found, Ok(Some(_)));
        if let Some((_bell, since)) = wait {
            let waited = since.elapsed();
            trip.outcome.waited += waited;
            self.metrics.waited(waited);
            if has_key {
                trip.stand_ins.waited();
            }
        }
        if !has_key {
            self.pool(|pool| pool.leave(trip.entry.lane, trip.entry.ticket));
        }
        Ok(found?.map(|picked| Lease {
            relay: self,
            picked,
            reported: false,
            tokens: Tokens::default(),
        }))
    }

    /// How long to wait for a key before another model stands in: not at all, if no key comes free in time.
    fn patience(&self, trip: &Trip, pick: &Pick, since: Instant) -> Option<Instant> {
        if !trip.stand_ins.has_next() {
            return None;
        }
        let end = since.checked_add(STAND_IN_AFTER)?;
        let in_vain = match pick {
            Pick::Key(_) => return None,
            Pick::Down => true,
            Pick::NoOther => trip.was_not_found(),
            Pick::Wait(at) | Pick::Behind(at) if *at > end => true,
            _ => match self.pool(|pool| (pool.is_full(), pool.is_overloaded(trip.entry.lane))) {
                (true, _) => return None, // another model would not have a place either
                (_, overloaded) => overloaded,
            },
        };
        Some(if in_vain { since } else { end })
    }

    /// Waits for the pause that was decided on. The request holds no key and no place meanwhile.
    pub(super) fn pause(&self, step: Step, trip: &mut Trip) -> Result<(), Unserved> {
        let Step::Pause(pause) = step else {
            return Ok(());
        };
        trip.conversation = None; // prefer another key
        let until = Instant::now().checked_add(pause);
        let was_well = trip.health.is_well();
        let bell = self.hang_bell(trip.entry.ticket, true);
        while until.is_some_and(|until| Instant::now() < until) {
            self.wait(&bell, until, &trip.exchange.client)?;
            if !was_well && trip.health.is_well() {
                break; // another request found that it is back
            }
        }
        Ok(())
    }

    fn pick_now(&self, trip: &Trip, now: Instant) -> Result<Pick, Unserved> {
        let refused = trip.refused.iter();
        let avoid: Vec<_> = refused.map(|(picked, ..)| picked.clone()).collect();
        let request = PickRequest {
            ticket: Some(trip.entry.ticket),
            avoid: &avoid,
            only: trip.bound.as_ref(),
            conversation: trip.conversation,
        };
        let policy = &trip.exchange.mapped.policy;
        // Both under one lock, as a reload changes both.
        self.pool(|pool| match self.policy().has_same_hosts(policy) {
            true => Ok(pool.pick(trip.entry.lane, request, now)),
            false => Err(Unserved::ProviderChanged),
        })
    }

    /// The one wait; see the module's text. Ends at `until`, at a ring of the bell, or with an error.
    fn wait(&self, bell: &Bell, until: Option<Instant>, client: &Client) -> Result<(), Unserved> {
        if lock(&self.shared).stopping {
            return Err(Unserved::Stopping);
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let has_left = match &bell.bell {
            Some(bell) => {
                let woken = client.wait(bell.as_fd(), Interest::Read, left);
                let _ = rustix::io::read(bell, &mut [0; 8]); // it may ring again
                matches!(woken, Ok(Wake::ClientLeft))
            }
            None => {
                std::thread::sleep(left.map_or(TICK, |left| left.min(TICK)));
                client.beat();
                client.has_left()
            }
        };
        match has_left {
            true => Err(Unserved::Failed(Failure::ClientLeft)),
            false => Ok(()),
        }
    }

    fn hang_bell(&self, ticket: Ticket, pauses: bool) -> Bell<'_> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let bell = eventfd(0, flags).ok().map(Arc::new);
        if let Some(bell) = bell.clone() {
            let ringer = Ringer { bell, pauses };
            lock(&self.shared).bells.insert(ticket, ringer);
        }
        Bell {
            relay: self,
            ticket,
            bell,
        }
    }
}

fn ring(bells: &[Arc<OwnedFd>]) {
    for bell in bells {
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}
