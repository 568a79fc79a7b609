//! Request bodies in memory: each is buffered once, so that it can be sent again, and all of them
//! together stay within one budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// What has been received so far.
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

    /// Makes room for `step` bytes more; `false` if the budget or the machine does not allow it.
    pub fn reserve(&mut self, step: usize) -> bool {
        let need = self.bytes.len().saturating_add(step);
        // An eighth ahead, so that a large body is not moved at each step. `Vec` by itself would
        // double, and take twice the budget.
        let ahead = need.saturating_add(need / 8);
        need <= self.counted || self.grow_to(ahead) || self.grow_to(need)
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
        assert!(first.reserve(60));
        let mut second = Body::new(&budget);
        assert!(!second.reserve(60));
        drop(second);
        drop(first);
        assert!(Body::new(&budget).reserve(100));
    }

    #[test]
    fn what_is_taken_of_the_machine_is_what_is_counted() {
        let budget = Budget::new(1 << 20);
        let mut body = Body::new(&budget);
        while body.reserve(1000) {
            body.bytes.resize(body.bytes.len() + 1000, 0);
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
            assert!(body.reserve(60));
            body.bytes.push(0);
            body.bytes.truncate(10);
        }
    }
}
