//! Finds the key that a conversation stays with, at a cost that does not grow with the number of keys.

use super::PoolKey;

/// How many keys are in a neighbourhood.
const SIZE: usize = 32;
/// How many neighbourhoods are searched for a free key.
const MOST: usize = 8;

/// Rendezvous hashing (Thaler and Ravishankar, 1998), but only among neighbours in the configuration, so that the cost
/// does not grow with the keys: each conversation has its own order of them. A key that comes or goes shifts the
/// neighbourhoods by one at most, so few conversations but its own move.
pub(super) fn sticky_key(
    conversation: u64,
    listed: &[usize],
    slots: &[PoolKey],
    is_free: impl Fn(usize) -> bool,
) -> Option<usize> {
    let keys = listed.len();
    let start = (((conversation >> 32) * keys as u64) >> 32) as usize;
    (0..keys).step_by(SIZE).take(MOST).find_map(|from| {
        let places = (from..keys.min(from + SIZE)).map(|at| listed[(start + at) % keys]);
        let liking = |key: &usize| {
            let era = slots[*key].id.era;
            mixed(conversation ^ u64::from(era).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        places.filter(|key| is_free(*key)).max_by_key(liking)
    })
}

/// SplitMix64's last step (Steele, Lea and Flood, 2014): each bit depends on all.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
