//! One model's turns through the keys. Providers limit each key per model, so each model that is
//! asked for has a lane of its own: who is next for it, who rests, who waits.
//!
//! A lane knows keys by their place in the pool's table and nothing else about them; what holds
//! for a key as a whole (quota, rejection) the pool passes in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::window::{MINUTE, Window};
use super::{PROBE_GAP, Pace};

/// The longest rest that alvus itself comes to, when refusals repeat and none says how long.
pub(super) const MAX_ESCALATED: Duration = Duration::from_secs(15 * 60);

/// How long a model that is out of capacity is left alone.
const CAPACITY_GAP: Duration = Duration::from_secs(2);
/// After so long without another capacity error, one more request at a time is let through.
const CAPACITY_STEP: Duration = MINUTE;
/// How many requests may be unanswered at once beyond what is proven, once that goes well.
const MOST_ALLOWED: u32 = 8;
/// For so many windows a limit that is trusted is kept without asking for more; for twice and four times
/// as many once it was confirmed again.
const UNASKED: u32 = 4;
/// The same where the operator wants to be held back: [`Pace::Auto`].
const UNASKED_AUTO: u32 = 16;
/// So many requests have to speak for a limit before it is trusted: those that were accepted, for
/// each refusal after equally many. A limit of tokens agrees with itself by chance, but not for long.
const LEAST_EVIDENCE: u32 = 5;
/// A minute, and a rest of a minute after it. What takes longer is no limit of a minute.
const LONGEST_WINDOW: Duration = Duration::from_secs(2 * 60);
/// After so long, as many as come.
const CAPACITY_TRUST: Duration = Duration::from_secs(30 * 60);

/// A request's place among those of its lane, from its arrival to its end: one that was refused does not
/// start over behind the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where a key stands in this lane.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Place {
    /// In `line`, with this turn.
    InLine(u64),
    /// In `resting` until this instant: limited by the upstream.
    Cooling(Instant),
    /// In `resting` until this instant: held back by our own pacing.
    Paced(Instant),
    /// In `resting` until this instant, for another reason: an answer is awaited, or the key as a
    /// whole is parked.
    Held(Instant),
    /// Nowhere: the key is out of the pool.
    Away,
}

impl Place {
    fn until(self) -> Option<Instant> {
        match self {
            Place::Cooling(at) | Place::Paced(at) | Place::Held(at) => Some(at),
            Place::InLine(_) | Place::Away => None,
        }
    }
}

/// What holds for a key as a whole when its turn comes.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Fitness {
    Fit,
    Paced(Instant),
    Parked(Instant),
    Gone,
}

/// One key in this lane.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) place: Place,
    /// Rests in a row that no upstream named the length of, with no success between.
    level: u32,
    /// When the last rest began and ended, if there was one.
    rested: Option<(Instant, Instant)>,
    /// Has rested, and no request was accepted since.
    unproven: bool,
    /// What the refusal showed that the key rests for. Taken in when the rest ends, as requests that were
    /// accepted before it may be answered after it.
    met: Option<Met>,
    /// The upstream's limit as far as it is known: as many were accepted before the last refusal.
    proven: Option<u32>,
    /// Refusals in a row that came after as many as the one before.
    agreed: u32,
    /// How long the upstream's window is: a minute, or what was seen of a limit that is trusted.
    span: Duration,
    /// Until then the limit is trusted: the key is held back rather than asked for more.
    trusted: Option<Instant>,
    /// How many may be unanswered at once beyond what is proven: 1, doubling with each success.
    allowed: u32,
    unanswered: u32,
    window: Window,
}

/// What a refusal showed.
#[derive(Debug)]
struct Met {
    /// As many were accepted before it,
    accepted: u32,
    /// of which the first was sent then.
    since: Instant,
}

/// How many requests a model takes at a time, since it said that it was full.
#[derive(Debug)]
struct Capacity {
    limit: u32,
    /// None before this instant.
    gap: Instant,
    /// When the limit changed last.
    changed: Instant,
    /// The last capacity error.
    refused: Instant,
}

/// What a lane has for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This key.
    Key(usize),
    /// Nothing before this instant.
    NotBefore(Instant),
    /// Something is there, or may be once an answer comes, but not for this request.
    AfterOthers,
    /// No key that could ever come free.
    Nobody,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) model: String,
    /// Requests that are under way here, waiting ones included.
    pub(super) visitors: u32,
    /// Attempts under way.
    pub(super) in_flight: u32,
    pub(super) last_used: Instant,
    pub(super) seats: Vec<Seat>,
    /// Ready keys, the next one first. An entry counts only while its seat says the same turn:
    /// a key that moves leaves its old entry behind, to be dropped when it comes to the front.
    line: VecDeque<(usize, u64)>,
    /// Keys that return to the line at an instant, the soonest first; likewise.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Whoever came first is first.
    queue: VecDeque<Ticket>,
    next_turn: u64,
    next_ticket: u64,
    /// The key that was refused last.
    refused: Option<usize>,
    capacity: Option<Capacity>,
}

impl Lane {
    pub(super) fn new(model: &str, now: Instant) -> Lane {
        Lane {
            model: model.to_owned(),
            visitors: 0,
            in_flight: 0,
            last_used: now,
            seats: Vec::new(),
            line: VecDeque::new(),
            resting: BinaryHeap::new(),
            queue: VecDeque::new(),
            next_turn: 0,
            next_ticket: 0,
            refused: None,
            capacity: None,
        }
    }

    /// Room for so many keys at once.
    pub(super) fn reserve(&mut self, keys: usize) {
        self.seats.reserve(keys);
        self.line.reserve(keys);
    }

    /// A key comes to the end of the line, or comes back to it.
    pub(super) fn admit(&mut self, key: usize) {
        while self.seats.len() <= key {
            self.seats.push(Seat {
                place: Place::Away,
                level: 0,
                rested: None,
                unproven: false,
                met: None,
                proven: None,
                agreed: 0,
                span: MINUTE,
                trusted: None,
                allowed: 1,
                unanswered: 0,
                window: Window::default(),
            });
        }
        self.line_up(key);
    }

    /// Finds the next key for the request that holds `ticket` or for one that just came, never
    /// `avoid`. `score` chooses among the ready ones instead of taking turns.
    pub(super) fn next(
        &mut self,
        ticket: Option<Ticket>,
        avoid: Option<usize>,
        score: Option<&dyn Fn(usize) -> u64>,
        pace: Pace,
        now: Instant,
        fitness: impl Fn(usize) -> Fitness,
    ) -> Turn {
        self.wake(pace, now);
        if let Some(turn) = self.held_by_capacity(now) {
            return turn;
        }
        // Whoever avoids a key has had its turn already and goes on; it never blocks the queue.
        let first = avoid.is_some()
            || self
                .queue
                .front()
                .is_none_or(|front| ticket.is_some_and(|ticket| ticket <= *front));
        let mut best: Option<(usize, u64)> = None; // place in the line, score
        let mut at = 0;
        while let Some((key, turn)) = self.line.get(at).copied() {
            if self.seats[key].place != Place::InLine(turn) {
                self.drop_from_line(at);
                continue;
            }
            let hold = match fitness(key) {
                Fitness::Gone => Some(Place::Away),
                Fitness::Parked(until) => Some(Place::Held(until)),
                Fitness::Paced(until) => Some(Place::Paced(until)),
                Fitness::Fit => self.seats[key].hold(self.limit(key), now),
            };
            if let Some(place) = hold {
                self.move_to(key, place);
                self.drop_from_line(at);
                continue;
            }
            if avoid == Some(key) {
                at += 1;
                continue;
            }
            if !first {
                return Turn::AfterOthers; // the front of the queue is about to take it
            }
            let Some(score) = score else {
                self.line.remove(at);
                return Turn::Key(key);
            };
            let score = score(key);
            if best.is_none_or(|(_, s)| score > s) {
                best = Some((at, score));
            }
            at += 1;
        }
        if let Some((at, _)) = best {
            let (key, _) = self.line.remove(at).expect("it was just there");
            return Turn::Key(key);
        }
        match self.first_rest() {
            _ if at > 0 => Turn::Nobody, // only the one to avoid
            Some((until, _)) => Turn::NotBefore(until),
            None => Turn::Nobody,
        }
    }

    /// A request goes out with this key, which [`Lane::next`] took out of the line.
    pub(super) fn hand_out(&mut self, key: usize, now: Instant) {
        let seat = &mut self.seats[key];
        seat.unanswered += 1;
        seat.window.add(now);
        self.in_flight += 1;
        self.line_up(key);
    }

    /// The key is rested for as long as the upstream stated, or else for `cooldown` and longer
    /// each time. `sent`: when the refused request went out. Says for how long, if that is news.
    pub(super) fn limited(
        &mut self,
        key: usize,
        stated: Option<Duration>,
        cooldown: Duration,
        sent: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let seat = &mut self.seats[key];
        let known = seat.knew(sent);
        let rest = stated.unwrap_or_else(|| {
            cooldown
                .saturating_mul(1 << seat.level_at(sent).min(8))
                .min(MAX_ESCALATED.max(cooldown))
        });
        if !known {
            if stated.is_none() {
                seat.level += 1;
            }
            seat.meet(now);
            self.refused = Some(key);
        }
        if seat.place == Place::Away {
            return None;
        }
        // An absurd COOLDOWN_SEC cannot overflow: without a sum, the key rests a day.
        let until = now
            .checked_add(rest)
            .unwrap_or(now + crate::verdict::MAX_REST);
        // A later answer may extend a rest, never cut it short.
        if let Place::Cooling(at) = seat.place
            && at >= until
        {
            return None;
        }
        let began = match seat.rested {
            Some((began, _)) if known => began,
            _ => now,
        };
        seat.rested = Some((began, until));
        seat.unproven = true;
        self.move_to(key, Place::Cooling(until));
        (!known).then_some(rest)
    }

    /// The key's quota for this model is spent: it rests for as long as the upstream stated, or else for
    /// the first of `rests`, for the next one if that is repeated; and what it took until then says
    /// nothing about the limit of a minute.
    pub(super) fn spent(
        &mut self,
        key: usize,
        stated: Option<Duration>,
        rests: &[Duration],
        sent: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let seat = &self.seats[key];
        let (proven, level) = (seat.proven, seat.level_at(sent));
        let rest = stated.unwrap_or(rests[(level as usize).min(rests.len() - 1)]);
        let news = self.limited(key, Some(rest), rest, sent, now);
        let seat = &mut self.seats[key];
        (seat.met, seat.proven) = (None, proven);
        seat.level = level + u32::from(stated.is_none());
        news
    }

    /// The key rests until then, as it did before a restart.
    pub(super) fn resume(&mut self, key: usize, until: Instant, now: Instant) {
        let seat = &mut self.seats[key];
        seat.rested = Some((now, until));
        seat.unproven = true;
        self.move_to(key, Place::Cooling(until));
    }

    /// The key's quota is spent: what comes back of it may be a single request, so the next ones go
    /// in single file too.
    pub(super) fn parked(&mut self, key: usize) {
        self.seats[key].unproven = true;
        self.seats[key].allowed = 1;
    }

    /// A request with this key was accepted. Says whether that proves the key well again.
    pub(super) fn accepted(&mut self, key: usize, sent: Instant, now: Instant) -> bool {
        let limit = self.limit(key);
        let seat = &mut self.seats[key];
        // An answer to a request sent before a refusal proves nothing about the time after it.
        if seat.knew(sent) {
            if let Some(met) = &mut seat.met {
                met.accepted += 1;
            }
            return false;
        }
        let answered = seat.sent_lately(now).saturating_sub(seat.unanswered);
        seat.allowed = match limit.is_some_and(|limit| answered > limit) {
            true => (seat.allowed * 2).min(MOST_ALLOWED),
            false => 1,
        };
        seat.level = 0;
        std::mem::take(&mut seat.unproven)
    }

    /// An answer has come, of whatever kind, or none will: to be called once for each
    /// [`Lane::hand_out`]. Says whether that frees the key for others.
    pub(super) fn answered(&mut self, key: usize) -> bool {
        let seat = &mut self.seats[key];
        seat.unanswered = seat.unanswered.saturating_sub(1);
        let held = matches!(seat.place, Place::Held(_));
        if held {
            self.line_up(key);
        }
        held
    }

    /// A request that was handed out at this instant was not sent.
    pub(super) fn take_back(&mut self, key: usize, at: Instant) {
        self.seats[key].window.take_back(at);
    }

    /// The model has no capacity: halve what may be under way. Says how many, if that is news.
    pub(super) fn crowded(&mut self, stated: Option<Duration>, now: Instant) -> Option<u32> {
        if self.capacity.as_ref().is_some_and(|c| now < c.gap) {
            return None; // one of the same herd
        }
        let limit = (self.in_flight / 2).max(1);
        self.capacity = Some(Capacity {
            limit,
            gap: now + stated.map_or(CAPACITY_GAP, |s| s.max(CAPACITY_GAP)),
            changed: now,
            refused: now,
        });
        Some(limit)
    }

    /// How many requests the model may have under way, while that is limited.
    pub(super) fn capacity(&self) -> Option<u32> {
        self.capacity.as_ref().map(|c| c.limit)
    }

    fn held_by_capacity(&mut self, now: Instant) -> Option<Turn> {
        let capacity = self.capacity.as_mut()?;
        if now.saturating_duration_since(capacity.refused) >= CAPACITY_TRUST {
            self.capacity = None;
            return None;
        }
        while now.saturating_duration_since(capacity.changed) >= CAPACITY_STEP {
            capacity.limit += 1;
            capacity.changed += CAPACITY_STEP;
        }
        if now < capacity.gap {
            return Some(Turn::NotBefore(capacity.gap));
        }
        (self.in_flight >= capacity.limit).then_some(Turn::AfterOthers)
    }

    /// A request comes.
    pub(super) fn enter(&mut self, now: Instant) -> Ticket {
        self.visitors += 1;
        self.last_used = now;
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(super) fn queue_up(&mut self, ticket: Ticket) {
        if let Err(at) = self.queue.binary_search(&ticket) {
            self.queue.insert(at, ticket);
        }
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Ok(at) = self.queue.binary_search(&ticket) {
            self.queue.remove(at);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Old entries included: for the test that they do not pile up.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.line.len() + self.resting.len()
    }

    /// Returns to the line whoever has rested enough.
    fn wake(&mut self, pace: Pace, now: Instant) {
        while let Some((_, key)) = self.first_rest().filter(|(at, _)| *at <= now) {
            self.resting.pop();
            let limit = self.limit(key);
            self.seats[key].learn(limit, pace);
            self.line_up(key);
        }
    }

    /// The first rest that counts.
    fn first_rest(&mut self) -> Option<(Instant, usize)> {
        while let Some(Reverse((at, key))) = self.resting.peek().copied() {
            if self.seats[key].place.until() == Some(at) {
                return Some((at, key));
            }
            self.resting.pop();
        }
        None
    }

    /// To the end of the line.
    fn line_up(&mut self, key: usize) {
        self.next_turn += 1;
        self.move_to(key, Place::InLine(self.next_turn));
    }

    /// The only way for a key to change its place; see [`Lane::line`] for the entry left behind.
    fn move_to(&mut self, key: usize, place: Place) {
        self.seats[key].place = place;
        match place {
            Place::InLine(turn) => self.line.push_back((key, turn)),
            Place::Cooling(at) | Place::Paced(at) | Place::Held(at) => {
                self.resting.push(Reverse((at, key)));
            }
            Place::Away => {}
        }
    }

    /// As many requests as the key is known to take. For one that was never refused that is what another
    /// took, while that one rests: keys of one pool mostly have the same plan.
    fn limit(&self, key: usize) -> Option<u32> {
        let of_other = || {
            let other = &self.seats[self.refused.filter(|other| *other != key)?];
            let rests = matches!(other.place, Place::Cooling(_));
            let met = other.met.as_ref().map(|met| met.accepted);
            let limit = met.or(other.proven).filter(|_| rests);
            limit.filter(|limit| *limit >= LEAST_EVIDENCE)
        };
        self.seats[key].proven.or_else(of_other)
    }

    fn drop_from_line(&mut self, at: usize) {
        self.line.remove(at);
    }
}

impl Seat {
    /// A refusal that is news: what does it show?
    fn meet(&mut self, now: Instant) {
        // All but the refused one and those that have no answer yet.
        let accepted = self.sent_lately(now).saturating_sub(self.unanswered + 1);
        let since = self.window.first(self.began(), self.span, now);
        let is_whole = |at| now.saturating_duration_since(at) < self.span;
        (self.met, self.allowed) = (None, 1);
        match self.proven {
            _ if self.window.is_full() => self.proven = None,
            // Long after a rest nobody knows where the upstream's window began: these may be of two.
            Some(proven) if proven != accepted && !self.began().is_some_and(is_whole) => {
                self.proven = Some(proven.clamp(accepted.div_ceil(2), accepted));
            }
            _ => self.met = since.map(|since| Met { accepted, since }),
        }
    }

    /// The rest after a refusal is over. `expected`: the limit so far, or that of another key.
    fn learn(&mut self, expected: Option<u32>, pace: Pace) {
        let (Some(met), Some((_, until))) = (self.met.take(), self.rested) else {
            return;
        };
        self.agreed = match expected == Some(met.accepted) {
            true => self.agreed.saturating_add(1),
            false => 0,
        };
        self.proven = Some(met.accepted);
        let (unasked, witnesses) = match pace {
            Pace::Auto => (UNASKED_AUTO, self.agreed.max(1)), // at first sight
            _ => (UNASKED, self.agreed),
        };
        let span = until.saturating_duration_since(met.since);
        if met.accepted.saturating_mul(witnesses) >= LEAST_EVIDENCE && span <= LONGEST_WINDOW {
            // Stated in whole seconds, a rest is too long rather than too short.
            self.span = self.span.min(span);
            let again = self.agreed.saturating_sub(1).min(2);
            self.trusted = Some(until + self.span * (unasked << again));
        } else {
            (self.span, self.trusted) = (MINUTE, None);
        }
    }

    /// Where the key has to wait although its turn has come, if it has to.
    fn hold(&self, limit: Option<u32>, now: Instant) -> Option<Place> {
        let beyond = limit.filter(|limit| self.sent_lately(now) >= *limit);
        if let Some(limit) = beyond.filter(|_| self.trusted.is_some_and(|until| now < until)) {
            let at = self.window.free_at(limit, self.span, now)?;
            return Some(Place::Paced(at));
        }
        // In single file (then in twos, fours, …) after a rest and beyond what is proven, so that
        // a herd of waiters finds a limit with one request and not with each of them.
        if self.unanswered >= self.allowed && (self.unproven || beyond.is_some()) {
            let at = self.window.newest()? + PROBE_GAP;
            return (at > now).then_some(Place::Held(at));
        }
        None
    }

    /// Requests that count towards what the upstream may be counting: those of its window's length,
    /// but none from before the last rest, as most limits begin anew with its end.
    fn sent_lately(&self, now: Instant) -> u32 {
        self.window.count(self.began(), self.span, now)
    }

    /// Whether a refusal of what was sent then is no news: of the requests under way when a limit was
    /// hit, each may be refused.
    fn knew(&self, sent: Instant) -> bool {
        self.rested.is_some_and(|(began, _)| sent <= began)
    }

    /// How many rests without a success came before the one that a refusal of this request means.
    fn level_at(&self, sent: Instant) -> u32 {
        self.level.saturating_sub(u32::from(self.knew(sent)))
    }

    /// The end of the last rest.
    fn began(&self) -> Option<Instant> {
        self.rested.map(|(_, until)| until)
    }
}
