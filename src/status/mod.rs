//! What alvus shows of itself, as text made from a snapshot. Pure: nothing here locks or asks.

#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod health;
pub mod own_pages;
pub mod prometheus;

use std::time::Duration;

/// How busy alvus is at one moment.
#[derive(Debug, Default, Clone)]
pub struct Load {
    /// Time since the start.
    pub uptime: Duration,
    /// Requests being received, waiting or served.
    pub in_flight: usize,
    /// Requests waiting for a key, or for a place among `WORKERS`.
    pub waiting: usize,
    /// Attempts that can be under way at a time.
    pub workers: usize,
    /// The upstream was well at the last attempt.
    pub upstream_well: bool,
}
