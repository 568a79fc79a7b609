//! Takes over the list of keys, at the start and at each reload, and their rests from the state file.

use std::collections::HashMap;
use std::time::Instant;

use super::{KeyId, Pool, PoolKey, Rare, Settings};
use crate::secret::{ApiKey, SALT};
use crate::state::SavedRest;

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

impl Pool {
    /// Takes over a new list of keys; see the module's text.
    pub fn merge(&mut self, keys: &[ApiKey], settings: Settings, now: Instant) -> Merged {
        let mut merged = Merged::default();
        let old = std::mem::replace(&mut self.listed, Vec::with_capacity(keys.len()));
        let mut known: HashMap<ApiKey, usize> = old
            .iter()
            .map(|at| (self.slots[*at].key.clone(), *at))
            .collect();
        for (index, key) in keys.iter().enumerate() {
            let before = match known.is_empty() {
                true => None, // at the start there is nothing to compare with
                false => known.remove(key),
            };
            let at = match before {
                Some(at) => {
                    merged.revived += usize::from(self.revive(at, now));
                    self.slots[at].key = key.clone(); // it may have another name now
                    at
                }
                None => {
                    merged.new += 1;
                    self.add(key)
                }
            };
            self.slots[at].index = index;
            self.listed.push(at);
        }
        merged.removed = known.len();
        for at in known.into_values() {
            self.lanes.iter_mut().for_each(|lane| lane.dismiss(at));
            self.slots[at].listed = false;
            self.forget_if_idle(at);
        }
        self.settings = settings;
        self.wake_all();
        merged
    }

    /// Takes over the rests of keys that are still listed. Returns how many.
    pub fn restore(&mut self, salt: &[u8; SALT], rests: &[SavedRest], now: Instant) -> usize {
        let mut taken = 0;
        for key in self.listed.clone() {
            let tag = self.slots[key].key.tag(salt);
            for rest in rests.iter().filter(|rest| rest.key == tag) {
                let lane = self.lane_for(&rest.model, now);
                let lane = &mut self.lanes[lane.0];
                lane.seats[key].resume(rest.until, now);
                lane.reseat(key, now);
                taken += 1;
            }
        }
        taken
    }

    fn add(&mut self, key: &ApiKey) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        self.next_era += 1;
        let slot = PoolKey {
            key: key.clone(),
            id: KeyId {
                at,
                era: self.next_era,
            },
            index: 0,
            listed: true,
            past: Rare::new(),
        };
        match self.slots.get_mut(at) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
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
        let Some(past) = self.slots[key].past.changed() else {
            return revived;
        };
        past.refused = None;
        past.out.take().is_some() || revived
    }

    pub(super) fn forget_if_idle(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if !slot.listed && slot.past.counts.in_flight == 0 {
            (slot.key, slot.past) = (ApiKey::new(""), Rare::new());
            self.free.push(at);
        }
    }

    /// The slot of a key that was handed out; `None`: a reload removed it.
    pub(super) fn known(&self, id: KeyId) -> Option<usize> {
        let slot = &self.slots[id.at];
        (slot.id == id && slot.listed).then_some(id.at)
    }
}
