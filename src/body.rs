//! Request bodies in memory: each is buffered once, so that it can be sent again, and all of them
//! together stay within one budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static ZEROS: [u8; 512] = [0; 512];

/// The memory that all bodies share.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    /// Bytes; one body of this size always fits when no other is there.
    pub limit: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Budget {
        Budget {
            used: Arc::default(),
            limit,
        }
    }
}

/// One body; what it took of the budget is given back when it is dropped.
#[derive(Debug)]
pub struct Body {
    /// What has been received; while it is being received, with room behind it.
    pub bytes: Vec<u8>,
    counted: usize,
    budget: Budget,
}

impl Body {
    /// An empty body.
    pub fn new(budget: &Budget) -> Body {
        Body {
            bytes: Vec::new(),
            counted: 0,
            budget: budget.clone(),
        }
    }

    /// Makes it at least so long, with zeros; `false` if the budget or the machine does not allow it.
    pub fn stretch(&mut self, size: usize) -> bool {
        // An eighth ahead, so that a large body is not moved at each step. `Vec` by itself would
        // double, and take twice the budget.
        let ahead = size.saturating_add(size / 8);
        let fits = size <= self.counted || self.grow_to(ahead) || self.grow_to(size);
        while fits && self.bytes.len() < size {
            // In a build for size, `resize` takes five instructions a byte.
            let more = (size - self.bytes.len()).min(ZEROS.len());
            self.bytes.extend_from_slice(&ZEROS[..more]);
        }
        fits
    }

    fn grow_to(&mut self, size: usize) -> bool {
        let more = size - self.counted;
        let before = self.budget.used.fetch_add(more, Ordering::Relaxed);
        // One byte beyond, which shows a body of unknown length to be too large.
        let allowed = before.saturating_add(more) <= self.budget.limit.saturating_add(1);
        let extra = size - self.bytes.len();
        if allowed && self.bytes.try_reserve_exact(extra).is_ok() {
            self.counted = size;
            return true;
        }
        self.budget.used.fetch_sub(more, Ordering::Relaxed);
        false
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.counted, Ordering::Relaxed);
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
    fn what_is_taken_of_the_machine_is_what_is_counted() {
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
