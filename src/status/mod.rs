//! What alvus shows of itself, as text made from a snapshot. Pure: nothing here locks or asks.

#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod front;
pub mod health;
pub mod prometheus;

use std::time::Duration;

/// How busy alvus is at one moment.
#[derive(Debug, Default, Clone)]
pub struct Load {
    /// Time since the start.
    pub uptime: Duration,
    /// Requests being received, waiting for a worker or served.
    pub in_flight: usize,
    /// Requests waiting for a worker.
    pub parked: usize,
    /// Requests waiting for a key.
    pub waiting: usize,
    /// Requests that can be served at a time.
    pub workers: usize,
    /// The upstream was well at the last attempt.
    pub upstream_well: bool,
}
