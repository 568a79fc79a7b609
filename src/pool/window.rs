//! The requests of the last minute: an exact rolling window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Providers count requests a minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// No more requests are remembered: a small box need not pace itself for a higher limit, and a
/// window stays below 16 KiB.
const MOST: usize = 1000;

/// The instants of the last minute's requests.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// All but the newest, oldest first: a key that is seldom used takes no memory here.
    earlier: VecDeque<Instant>,
    newest: Option<Instant>,
}

impl Window {
    pub(super) const NEW: Window = Window {
        earlier: VecDeque::new(),
        newest: None,
    };

    /// A request goes out.
    pub(super) fn add(&mut self, now: Instant) {
        self.forget(now);
        if self.is_full() {
            self.earlier.pop_front();
        }
        self.earlier.extend(self.newest.replace(now));
    }

    /// The request that was added at this instant was never sent.
    pub(super) fn take_back(&mut self, at: Instant) {
        if self.newest == Some(at) {
            self.newest = self.earlier.pop_back();
        } else if let Some(i) = self.earlier.iter().rposition(|t| *t == at) {
            self.earlier.remove(i);
        }
    }

    /// How many requests of the last `span`, a minute at most, came after `since`.
    pub(super) fn count(&self, since: Option<Instant>, span: Duration, now: Instant) -> u32 {
        let is_in = is_in(since, span, now);
        let earlier = self.earlier.len() - self.earlier.partition_point(|at| !is_in(at));
        let newest = self.newest.is_some_and(|at| is_in(&at));
        // At most MOST.
        (earlier + usize::from(newest)) as u32
    }

    /// The first of the requests that [`Window::count`] counts.
    pub(super) fn first(
        &self,
        since: Option<Instant>,
        span: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let mut all = self.earlier.iter().copied().chain(self.newest);
        all.find(is_in(since, span, now))
    }

    /// When the next request fits under `limit` in `span`; `None`: now.
    pub(super) fn free_at(&self, limit: u32, span: Duration, now: Instant) -> Option<Instant> {
        let newest_that_must_go = self.len().checked_sub(limit.max(1) as usize)?;
        let at = self.earlier.get(newest_that_must_go).copied();
        let at = at.or(self.newest)? + span;
        (at > now).then_some(at)
    }

    /// The last request.
    pub(super) fn newest(&self) -> Option<Instant> {
        self.newest
    }

    /// Whether it may have forgotten requests.
    pub(super) fn is_full(&self) -> bool {
        self.len() == MOST
    }

    fn len(&self) -> usize {
        self.earlier.len() + usize::from(self.newest.is_some())
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= MINUTE;
        while self.earlier.front().is_some_and(|at| is_old(*at)) {
            self.earlier.pop_front();
        }
        self.newest = self.newest.filter(|at| !is_old(*at));
    }
}

/// Whether a request of this instant is one of the last `span`, and came after `since`.
fn is_in(since: Option<Instant>, span: Duration, now: Instant) -> impl Fn(&Instant) -> bool {
    let before = now.checked_sub(span);
    move |at| before.is_none_or(|before| *at > before) && since.is_none_or(|since| *at >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_leaves_the_window_after_exactly_a_minute() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut window = Window::NEW;
        for ms in [0, 100, 40_000] {
            window.add(at(ms));
        }
        assert_eq!(window.count(None, MINUTE, at(59_999)), 3);
        assert_eq!(window.count(None, MINUTE, at(60_000)), 2);
        assert_eq!(window.count(Some(at(40_000)), MINUTE, at(40_000)), 1);
        assert_eq!(window.free_at(4, MINUTE, at(41_000)), None);
        assert_eq!(window.free_at(3, MINUTE, at(41_000)), Some(at(60_000)));
        assert_eq!(window.free_at(2, MINUTE, at(41_000)), Some(at(60_100)));
        assert_eq!(window.free_at(1, MINUTE, at(41_000)), Some(at(100_000)));
        assert_eq!(window.free_at(3, MINUTE, at(60_000)), None);
    }

    #[test]
    fn a_request_that_was_not_sent_is_taken_back() {
        let t0 = Instant::now();
        let mut window = Window::NEW;
        window.add(t0);
        window.add(t0 + MINUTE / 2);
        window.take_back(t0);
        window.take_back(t0);
        assert_eq!(window.count(None, MINUTE, t0 + MINUTE / 2), 1);
    }

    #[test]
    fn the_window_is_bounded() {
        let t0 = Instant::now();
        let mut window = Window::NEW;
        for _ in 0..10 * MOST {
            window.add(t0);
        }
        assert!(window.is_full());
        assert_eq!(window.count(None, MINUTE, t0), MOST as u32);
    }
}
