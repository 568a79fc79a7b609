//! Alvus' own pages, made from a snapshot. Pure: nothing here locks or waits.

#[cfg(feature = "dashboard")]
pub mod dashboard;
pub mod health;
pub mod own_pages;
pub mod prometheus;

use std::time::Duration;

use crate::access::ClientUsage;
use crate::metrics::{Counts, models::ModelCounts};
use crate::pool::{ModelView, Overview};
use crate::reply::whole_seconds;

/// All that the pages show, as it is at one moment.
pub struct Shown<'a> {
    /// The keys of the configuration.
    pub keys: &'a Overview,
    /// Models that are asked for now, or were lately.
    pub lanes: &'a [ModelView],
    /// Models that answered since the start.
    pub models: &'a [ModelCounts],
    /// The clients of `CLIENT_KEYS`, by name.
    pub clients: &'a [(&'a str, ClientUsage)],
    /// The counters since the start.
    pub counts: &'a Counts,
    /// The load now.
    pub load: &'a Load,
    /// What was learned of models, a JSON object.
    pub learned: Option<&'a str>,
}

/// What is left of a state, in whole seconds; 0 for one that does not end.
fn seconds(left: Duration) -> u64 {
    if left.is_zero() {
        0
    } else {
        whole_seconds(left)
    }
}

/// For tests: only a load.
#[cfg(test)]
fn nothing<'a>(counts: &'a Counts, load: &'a Load) -> Shown<'a> {
    Shown {
        keys: Box::leak(Box::default()),
        lanes: &[],
        models: &[],
        clients: &[],
        counts,
        load,
        learned: None,
    }
}

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
