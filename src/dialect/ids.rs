//! New ids for messages and tool calls. Pure: they come from one random number for each answer, given by the caller.
//!
//! A client that gets a message id twice takes two answers for one; one that gets a call id twice loses the call's
//! result. Upstreams that always count from `call_0` cause that.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use super::json::Str;

/// How many ids of earlier calls are remembered (8 KiB). In a longer history every new id is ours.
const MOST: usize = 2048;

/// Numbers that do not repeat (splitmix64).
#[derive(Debug, Clone)]
pub struct Fresh(u64);

impl Fresh {
    /// `random`: a new random number for each answer.
    pub fn new(random: u64) -> Fresh {
        Fresh(random)
    }

    /// The next id: `prefix` and 16 hexadecimal digits.
    pub fn id(&mut self, prefix: &str) -> String {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{prefix}{:016x}", n ^ (n >> 31))
    }
}

/// The tool call ids of a conversation, as hashes. If two collide, one id more is replaced by ours: no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    hashes: Vec<u32>,
    too_many: bool,
}

impl Used {
    /// The id for a new call, which is added: the upstream's (`told`, as it is escaped), or ours if that is "" or used.
    pub fn own(&mut self, told: &str, fresh: &mut Fresh, prefix: &str) -> String {
        let told = Str::of_raw(told).plain();
        let id = match told.is_empty() || self.has(&told) {
            true => fresh.id(prefix),
            false => told.into_owned(),
        };
        self.add(&id);
        id
    }

    /// Adds an id.
    pub fn add(&mut self, id: &str) {
        match self.hashes.len() < MOST {
            true => self.hashes.push(hash(id) as u32),
            false => self.too_many = true,
        }
    }

    /// Whether this id may have been used.
    pub fn has(&self, id: &str) -> bool {
        self.too_many || self.hashes.contains(&(hash(id) as u32))
    }
}

/// A number that is always the same for the same text.
pub fn hash(text: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let mut fresh = Fresh::new(7);
        let mut ids: Vec<String> = (0..1000).map(|_| fresh.id("msg_")).collect();
        assert!(
            ids.iter()
                .all(|id| id.len() == 20 && id.starts_with("msg_"))
        );
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn used_ids_are_known_and_a_long_history_trusts_none() {
        let mut used = Used::default();
        assert!(!used.has("call_0"));
        used.add("call_0");
        assert!(used.has("call_0") && !used.has("call_1"));
        (0..MOST).for_each(|n| used.add(&n.to_string()));
        assert!(used.has("call_1"));
        assert_eq!(used.hashes.len(), MOST);
    }
}
