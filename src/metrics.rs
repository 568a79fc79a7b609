//! The counters: requests, attempts, retries, waits, bytes, tokens, times to the first byte; the models that answered
//! ([`models`]); and for the dashboard the last minutes and events ([`recent`]).
//!
//! No clock: the caller passes the time. [`crate::pool`] counts what each key has done; [`crate::status`] makes text
//! of it all. Small locks, held for a few additions: one for the counters, so that a reader sees those of one moment, one
//! for the models, one for the dashboard.

pub mod models;
#[cfg(feature = "dashboard")]
pub mod recent;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::lock;
use crate::reply::whole_seconds;
use crate::sse::Tokens;
use models::{ModelCounts, Models};
#[cfg(feature = "dashboard")]
use recent::Recent;

/// Why a request was sent again.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Reason {
    /// The key was limited.
    Limited,
    /// The key's quota was spent.
    Quota,
    /// The key or the request was refused: another key shows whose fault it was.
    Refused,
    /// An ejected key was probed and refused again.
    Probed,
    /// The model was overloaded.
    Overloaded,
    /// The provider was in trouble.
    Trouble,
    /// The answer ended before its first word.
    Empty,
    /// The upstream could not be reached.
    Unreachable,
    /// A pooled connection was dead.
    Stale,
    /// No answer came, and the client allows a repetition.
    Unanswered,
}

impl Reason {
    /// As labels, in the order of the variants.
    pub const WORDS: [&str; 10] = [
        "limited",
        "quota",
        "refused",
        "probed",
        "overloaded",
        "trouble",
        "empty",
        "unreachable",
        "stale",
        "unanswered",
    ];
}

/// Upper bounds of the histogram of times to the first byte, in milliseconds: from a quick error to
/// a model that thinks for long.
pub const BOUNDS: [u64; 9] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000];

/// How one request ended, as its client saw it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Answered<'a> {
    /// The status; 0 if the client left before there was one.
    pub status: u16,
    /// From its arrival to the upstream's first words; `None` if there were none.
    pub first_byte: Option<Duration>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The answer broke off.
    pub cut: bool,
    /// A key was limited on the way.
    pub limited: bool,
    /// The tokens that the answer took, if it says so.
    pub tokens: Tokens,
    /// The model by the provider's name; empty if none.
    pub model: &'a str,
    /// The model by the client's name, if that is another one.
    pub asked: Option<&'a str>,
}

/// A kind of event, and the meaning of `key` and `number` in the dashboard's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `key` was limited and rests for `number` seconds.
    Limited,
    /// The quota of `key` is spent, and it is parked for `number` seconds.
    Parked,
    /// `key` was ejected with status `number`.
    Ejected,
    /// The upstream cannot be reached, or fails, for the `number`th time lately.
    Down,
    /// The upstream is well again.
    Back,
    /// The configuration was read again and has `number` keys.
    Reloaded,
    /// An answer broke off after `number` bytes.
    Cut,
}

/// Everything counted since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Requests by the first digit of their status; 0: the client left before there was one.
    pub requests: [u64; 6],
    /// Answers that broke off.
    pub cut: u64,
    /// Requests that were served although a key was limited on the way.
    pub absorbed: u64,
    /// The tokens that all answers took.
    pub tokens: Tokens,
    /// Requests sent to the upstream.
    pub attempts: u64,
    /// Retries, by [`Reason`].
    pub retries: [u64; Reason::WORDS.len()],
    /// How often a key began to rest.
    pub cooldowns: u64,
    /// How often a key was parked: its quota was spent.
    pub parked: u64,
    /// How often a key was ejected.
    pub ejections: u64,
    /// Attempts at which an ejected key was refused again.
    pub failed_probes: u64,
    /// Requests that waited for a key.
    pub waits: u64,
    /// How long they waited, all together.
    pub waited: Duration,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
    /// Times to the first byte: how many in each interval that [`BOUNDS`] ends; the last counts those beyond.
    pub first_bytes: [u64; BOUNDS.len() + 1],
    /// Their sum.
    pub first_byte_sum: Duration,
}

/// The counters; see the module's text. Each method counts one event.
#[derive(Debug)]
pub struct Metrics {
    counts: Mutex<Counts>,
    models: Mutex<Models>,
    #[cfg(feature = "dashboard")]
    recent: Mutex<Recent>,
}

impl Metrics {
    /// All zero, from `now` on.
    pub fn new(now: Instant) -> Metrics {
        Metrics {
            counts: Mutex::default(),
            models: Mutex::new(Models::new(now)),
            #[cfg(feature = "dashboard")]
            recent: Mutex::new(Recent::new(now)),
        }
    }

    /// An attempt is made. `again`: why, if it is not the first one.
    pub fn attempt(&self, again: Option<Reason>) {
        let mut counts = self.counts();
        counts.attempts += 1;
        if let Some(reason) = again {
            counts.retries[reason as usize] += 1;
        }
    }

    /// A request waited for a key, this long.
    pub fn waited(&self, wait: Duration) {
        let mut counts = self.counts();
        counts.waits += 1;
        counts.waited += wait;
    }

    /// A key was limited and rests this long from `now` on. `key`: its number in the configuration.
    pub fn cooldown(&self, key: usize, rest: Duration, now: Instant) {
        self.counts().cooldowns += 1;
        self.note(What::Limited, key, whole_seconds(rest), now);
    }

    /// A key's quota is spent; it is parked this long.
    pub fn parked(&self, key: usize, rest: Duration, now: Instant) {
        self.counts().parked += 1;
        self.note(What::Parked, key, whole_seconds(rest), now);
    }

    /// A key was ejected: refused with this status where another one was not.
    pub fn ejected(&self, key: usize, status: u16, now: Instant) {
        self.counts().ejections += 1;
        self.note(What::Ejected, key, status.into(), now);
    }

    /// A probe found that an ejected key is still refused.
    pub fn probe_failed(&self) {
        self.counts().failed_probes += 1;
    }

    /// The upstream is well again.
    pub fn recovered(&self, now: Instant) {
        self.note(What::Back, 0, 0, now);
    }

    /// The upstream is in trouble, in words for the operator.
    pub fn failed(&self, why: &str, now: Instant) {
        #[cfg(feature = "dashboard")]
        self.recent().failed(why, now);
        #[cfg(not(feature = "dashboard"))]
        let _ = (why, now);
    }

    /// A configuration with this many keys was taken over.
    pub fn reloaded(&self, keys: usize, now: Instant) {
        self.note(What::Reloaded, 0, keys as u64, now);
    }

    /// A request was answered, or its client left.
    pub fn answered(&self, answered: Answered, now: Instant) {
        let mut counts = self.counts();
        counts.requests[usize::from(answered.status / 100).min(5)] += 1;
        counts.bytes_in += answered.bytes_in;
        counts.bytes_out += answered.bytes_out;
        counts.cut += u64::from(answered.cut);
        let served = matches!(answered.status, 200..400) && !answered.cut;
        counts.absorbed += u64::from(answered.limited && served);
        counts.tokens += answered.tokens;
        if let Some(time) = answered.first_byte {
            let millis = time.as_millis() as u64;
            let above = BOUNDS.iter().filter(|b| **b < millis).count();
            counts.first_bytes[above] += 1;
            counts.first_byte_sum += time;
        }
        drop(counts);
        self.rows().answered(answered, now);
        #[cfg(feature = "dashboard")]
        self.recent().answered(answered, now);
        if answered.cut {
            self.note(What::Cut, 0, answered.bytes_out, now);
        }
    }

    /// All counters.
    pub fn snapshot(&self) -> Counts {
        self.counts().clone()
    }

    /// The models that answered.
    pub fn models(&self) -> Vec<ModelCounts> {
        self.rows().rows()
    }

    fn rows(&self) -> MutexGuard<'_, Models> {
        lock(&self.models)
    }

    /// The last minutes and events.
    #[cfg(feature = "dashboard")]
    pub fn recent(&self) -> MutexGuard<'_, Recent> {
        lock(&self.recent)
    }

    fn note(&self, what: What, key: usize, number: u64, now: Instant) {
        #[cfg(feature = "dashboard")]
        self.recent().note(what, key, number, now);
        #[cfg(not(feature = "dashboard"))]
        let _ = (what, key, number, now);
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, millis: u64) -> Answered<'static> {
        Answered {
            status,
            first_byte: Some(Duration::from_millis(millis)),
            bytes_in: 2,
            bytes_out: 3,
            ..Answered::default()
        }
    }

    #[test]
    fn a_request_is_saved_from_a_limit_if_it_was_served_after_one() {
        let metrics = Metrics::new(Instant::now());
        for (status, limited, cut, saved) in [
            (200, true, false, 1),
            (200, false, false, 1),
            (503, true, false, 1),
            (0, true, false, 1),
            (200, true, true, 1),
            (201, true, false, 2),
        ] {
            let answered = Answered {
                limited,
                cut,
                ..answer(status, 1)
            };
            metrics.answered(answered, Instant::now());
            assert_eq!(
                metrics.snapshot().absorbed,
                saved,
                "{status} {limited} {cut}"
            );
        }
    }

    #[test]
    fn requests_are_counted_by_the_class_of_their_status() {
        let now = Instant::now();
        let metrics = Metrics::new(now);
        for status in [200, 204, 301, 404, 429, 503, 0, 999] {
            metrics.answered(answer(status, 1), now);
        }
        let counts = metrics.snapshot();
        assert_eq!(counts.requests, [1, 0, 2, 1, 2, 2]);
        assert_eq!((counts.bytes_in, counts.bytes_out), (16, 24));
    }

    #[test]
    fn a_time_belongs_to_the_first_bucket_that_is_not_below_it() {
        for (millis, bucket) in [
            (0, 0),
            (100, 0),
            (101, 1),
            (1_000, 3),
            (120_000, 8),
            (120_001, 9),
        ] {
            let metrics = Metrics::new(Instant::now());
            metrics.answered(answer(200, millis), Instant::now());
            let counts = metrics.snapshot();
            assert_eq!(counts.first_bytes[bucket], 1, "{millis}");
            assert_eq!(counts.first_byte_sum, Duration::from_millis(millis));
        }
    }

    #[test]
    fn each_reason_has_its_word() {
        let metrics = Metrics::new(Instant::now());
        metrics.attempt(None);
        metrics.attempt(Some(Reason::Unanswered));
        metrics.attempt(Some(Reason::Limited));
        let counts = metrics.snapshot();
        assert_eq!(counts.attempts, 3);
        assert_eq!(counts.retries, [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        for reason in [Reason::Overloaded, Reason::Trouble, Reason::Unanswered] {
            let word = format!("{reason:?}").to_lowercase();
            assert_eq!(Reason::WORDS[reason as usize], word);
        }
    }
}
