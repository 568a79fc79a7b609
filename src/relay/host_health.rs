//! Whether one upstream host answers, and the budget of retries there. The target has one, the host of the visual models
//! another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::lock;
use crate::retry::Budget;

/// See the module's text.
#[derive(Debug)]
pub(super) struct HostHealth {
    well: AtomicBool,
    budget: Mutex<Budget>,
}

impl HostHealth {
    pub(super) fn new(now: Instant) -> HostHealth {
        HostHealth {
            well: AtomicBool::new(true),
            budget: Mutex::new(Budget::new(now)),
        }
    }

    /// Whether the host was well at the last attempt.
    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Takes note whether the host is well. Says whether that is a change, so that the log gets one line for each.
    pub(super) fn note(&self, well: bool) -> bool {
        self.well.swap(well, Ordering::Relaxed) != well
    }

    /// The budget of retries at this host.
    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        lock(&self.budget)
    }
}
