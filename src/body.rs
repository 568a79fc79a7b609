//! Request bodies in memory. Each is buffered once, so that it can be sent again. All together stay
//! within one budget.

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// The most memory of a body that is kept for the next one, in bytes: an agent's next turn is as long as its last. With
/// new memory, most of the CPU time of receiving 200 kB goes into the kernel's page faults.
const SPARE: usize = 256 * 1024;

static ZEROS: [u8; 512] = [0; 512];

/// The memory that all bodies share.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
    /// In bytes. One body of this size always fits if there is no other.
    pub limit: usize,
}

#[derive(Debug, Default)]
struct Shared {
    /// In bytes.
    used: AtomicUsize,
    /// The memory of an earlier body, empty; outside the budget.
    spare: Mutex<Vec<u8>>,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(limit: usize) -> Budget {
        Budget {
            shared: Arc::default(),
            limit,
        }
    }
}

/// Makes it this long, with zeros, if it is shorter. In a build for size, `resize` takes five instructions a byte.
pub fn lengthen(bytes: &mut Vec<u8>, size: usize) {
    bytes.reserve_exact(size.saturating_sub(bytes.len()));
    while bytes.len() < size {
        let more = (size - bytes.len()).min(ZEROS.len());
        bytes.extend_from_slice(&ZEROS[..more]);
    }
}

/// One body. A drop gives its share of the budget back.
#[derive(Debug)]
pub struct Body {
    /// What has been received; during the upload, with room behind it.
    pub bytes: Vec<u8>,
    counted: usize,
    budget: Budget,
}

impl Body {
    /// An empty body.
    pub fn new(budget: &Budget) -> Body {
        Body {
            bytes: mem::take(&mut *lock(&budget.shared.spare)),
            counted: 0,
            budget: budget.clone(),
        }
    }

    /// Makes it at least this long, with zeros. `false`: the budget or the machine does not allow it.
    pub fn stretch(&mut self, size: usize) -> bool {
        // An eighth ahead, so that a large body is not moved at each step. `Vec` itself would
        // double, and need twice the budget.
        let ahead = size.saturating_add(size / 8);
        let fits = size <= self.counted || self.grow_to(ahead) || self.grow_to(size);
        if fits {
            lengthen(&mut self.bytes, size);
        }
        fits
    }

    /// Room for a translation beside this body: its size, an eighth more and a little. `None`: the
    /// budget does not allow it.
    pub fn room(&self) -> Option<Body> {
        let size = self.bytes.len();
        let wanted = size + size / 8 + 512;
        let before = self.budget.shared.used.fetch_add(wanted, Ordering::Relaxed);
        let room = Body {
            bytes: Vec::new(),
            counted: wanted,
            budget: self.budget.clone(),
        };
        let allowed = before.saturating_add(wanted) <= self.budget.limit;
        allowed.then_some(room) // else it is given back here
    }

    /// Whether there can never be such room, even if this is the only body.
    pub fn has_no_chance(&self) -> bool {
        let size = self.bytes.len();
        2 * size + size / 8 + 512 > self.budget.limit
    }

    /// Fills this room. From now on the bytes' real size counts.
    pub fn filled(mut self, mut bytes: Vec<u8>) -> Body {
        bytes.shrink_to_fit();
        let used = &self.budget.shared.used;
        used.fetch_add(bytes.capacity(), Ordering::Relaxed);
        used.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = bytes.capacity();
        self.bytes = bytes;
        self
    }

    /// Counts bytes that are kept elsewhere. `false`: the budget does not allow it.
    pub fn count(&mut self, size: usize) -> bool {
        let more = size.saturating_sub(self.counted);
        let before = self.budget.shared.used.fetch_add(more, Ordering::Relaxed);
        self.counted += more;
        before.saturating_add(more) <= self.budget.limit
    }

    /// Replaces some bytes by others. `false`: the budget does not allow it, and nothing is changed.
    pub fn splice(&mut self, place: Range<usize>, bytes: &[u8]) -> bool {
        let size = self.bytes.len();
        if !self.stretch((size + bytes.len()).saturating_sub(place.len())) {
            return false;
        }
        self.bytes.truncate(size);
        self.bytes.splice(place, bytes.iter().copied());
        true
    }

    fn grow_to(&mut self, size: usize) -> bool {
        let more = size - self.counted;
        let before = self.budget.shared.used.fetch_add(more, Ordering::Relaxed);
        // One byte beyond shows that a body of unknown length is too large.
        let allowed = before.saturating_add(more) <= self.budget.limit.saturating_add(1);
        if self.bytes.is_empty() && self.bytes.capacity() < size {
            self.bytes = Vec::new(); // an earlier body's memory, which need not be moved
        }
        let extra = size - self.bytes.len();
        if allowed && self.bytes.try_reserve_exact(extra).is_ok() {
            self.counted = size;
            return true;
        }
        self.budget.shared.used.fetch_sub(more, Ordering::Relaxed);
        false
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.clear();
        let mut spare = lock(&self.budget.shared.spare);
        if (spare.capacity()..=SPARE).contains(&bytes.capacity()) {
            mem::swap(&mut *spare, &mut bytes);
        }
        drop(spare);
        drop(bytes); // before another body may take its share
        let used = &self.budget.shared.used;
        used.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_the_budget_and_give_it_back() {
        let budget = Budget::new(100);
        let mut first = Body::new(&budget);
        assert!(first.stretch(60));
        let mut second = Body::new(&budget);
        assert!(!second.stretch(60));
        drop(second);
        drop(first);
        assert!(Body::new(&budget).stretch(100));
    }

    #[test]
    fn a_body_takes_no_more_memory_than_is_counted() {
        let budget = Budget::new(1 << 20);
        let mut body = Body::new(&budget);
        while body.stretch(body.bytes.len() + 1000) {
            assert!(body.bytes.capacity() <= body.counted);
        }
        assert!(
            body.bytes.len() > (1 << 20) - 1000,
            "and all of it can be used"
        );
    }

    #[test]
    fn the_memory_of_one_body_is_kept_for_the_next_if_it_is_not_large() {
        let budget = Budget::new(1 << 20);
        let body = |size| {
            let mut body = Body::new(&budget);
            assert!(body.bytes.is_empty() && body.stretch(size));
            body
        };
        let kept = || lock(&budget.shared.spare).capacity();
        let (one, other, large) = (body(100_000), body(200_000), body(SPARE + 1));
        drop(other);
        let most = kept();
        assert!((200_000..=SPARE).contains(&most));
        drop((one, large));
        assert_eq!(kept(), most);
        let next = body(1000);
        assert_eq!((next.bytes.capacity(), kept()), (most, 0));
    }

    #[test]
    fn a_translated_body_counts_beside_the_first_and_then_in_its_place() {
        let budget = Budget::new(10_000);
        let mut body = Body::new(&budget);
        assert!(body.stretch(4000));
        let room = body.room().expect("room for both");
        assert!(body.room().is_none(), "and for no third one");
        assert!(!body.has_no_chance(), "but once the other one is gone");
        body = room.filled(vec![1; 3000]);
        assert_eq!(budget.shared.used.load(Ordering::Relaxed), 3000);
        drop(body);
        assert_eq!(budget.shared.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_that_is_kept_elsewhere_is_counted_and_given_back() {
        let budget = Budget::new(100);
        let mut body = Body::new(&budget);
        assert!(body.count(60) && body.count(40) && body.count(100));
        assert!(!body.count(101));
        drop(body);
        assert_eq!(budget.shared.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_are_put_in_the_place_of_others() {
        let budget = Budget::new(20);
        let mut body = Body::new(&budget);
        assert!(body.stretch(6));
        body.bytes.copy_from_slice(b"abcdef");
        assert!(body.splice(1..3, b"12345") && body.bytes == b"a12345def");
        assert!(body.splice(1..6, b"") && body.bytes == b"adef");
        assert!(!body.splice(1..2, &[0; 30]) && body.bytes == b"adef");
    }

    #[test]
    fn room_that_was_not_filled_is_counted_once() {
        let budget = Budget::new(100);
        let mut body = Body::new(&budget);
        for _ in 0..50 {
            assert!(body.stretch(60));
            assert_eq!(body.bytes, [0; 60]);
            body.bytes.truncate(10);
        }
    }
}
