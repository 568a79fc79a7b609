//! How a place that requests go to is doing: the target, or the host of the visual models. What one goes
//! through is not the other's affair.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::lock;
use crate::retry::Budget;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Standing {
    well: AtomicBool,
    budget: Mutex<Budget>,
}

impl Standing {
    pub(super) fn new(now: Instant) -> Standing {
        Standing {
            well: AtomicBool::new(true),
            budget: Mutex::new(Budget::new(now)),
        }
    }

    /// Whether it was well at the last attempt.
    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// The same from now on; says whether that is news, so that its going and coming back are one line
    /// each in the log.
    pub(super) fn now(&self, well: bool) -> bool {
        self.well.swap(well, Ordering::Relaxed) != well
    }

    /// What is tried again there.
    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        lock(&self.budget)
    }
}
