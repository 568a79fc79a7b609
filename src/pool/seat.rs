//! One key in one lane: whether it rests, why and how long, and how many requests it takes.
//!
//! Four plain ideas; the first success ends the first three:
//!
//! - a **rest**: the upstream said no. It lasts as long as the answer said, else longer each time
//!   it repeats. After it one request *probes* before others follow.
//! - an **ejection** is a rest after a refusal with a witness: another key served the same request.
//! - a **suspect** is a key refused without a witness: it goes last for [`SUSPICION`].
//! - a **learned limit**: the key gets as many requests in a window as it took before its last 429,
//!   until that has held for a while. Until a key has met its own, it is careful at another key's.

use std::time::{Duration, Instant};

use super::rare::Blank;
use super::window::{MINUTE, Window};
use crate::config::Pace;
use crate::verdict::MAX_REST;

/// How long a key near its limit waits after each request, if no answer comes sooner.
pub const PROBE_GAP: Duration = Duration::from_secs(1);

/// The longest rest when 429s repeat and none says how long.
const MAX_ESCALATED: Duration = Duration::from_secs(15 * 60);

/// A stated rest that proves too short is lengthened up to this.
const MAX_DOUBTED: Duration = Duration::from_secs(60);

/// How long an ejection lasts: the first, then each one that a refused probe and a witness confirm.
const EJECTIONS: [Duration; 5] = [minutes(1), minutes(10), minutes(60), minutes(360), MAX_REST];

/// How long a key rests for a spent quota, if no answer says how long: the first time, then each further one.
const QUOTAS: [Duration; 4] = [minutes(2), minutes(10), minutes(60), minutes(360)];

/// How long a key goes last after a refusal without a witness.
const SUSPICION: Duration = Duration::from_secs(60);

/// The most requests that may be unanswered at once beyond a learned limit of its own.
const MOST_ALLOWED: u32 = 8;

/// How many windows a learned limit is kept before more is tried; twice and four times as many once it was met again.
const KEPT: u32 = 6;
/// The same with `RPM_LIMIT=auto`.
const KEPT_AUTO: u32 = 16;
/// A limit below this must be met more than once, until the requests add up to it: it may be a limit in tokens.
const LEAST_EVIDENCE: u32 = 5;
/// A key that took fewer requests than this counts as far from its limit.
const LEAST_LIMIT: u32 = 3;

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Why a key rests in a lane.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum RestReason {
    /// 429: its limit.
    Limited,
    /// Its quota is spent.
    Quota,
    /// It was refused with this status, and another key was not.
    Refused {
        /// The status.
        status: u16,
        /// The answer called the key itself invalid.
        names_key: bool,
    },
}

impl RestReason {
    /// Whether the key is ejected.
    pub(super) fn is_refusal(self) -> bool {
        matches!(self, RestReason::Refused { .. })
    }

    /// Whether an answer called the key itself invalid.
    pub(super) fn names_key(self) -> bool {
        match self {
            RestReason::Refused { names_key, .. } => names_key,
            RestReason::Limited | RestReason::Quota => false,
        }
    }
}

/// Where a key stands in its lane.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Phase {
    /// In line, with this turn.
    InLine(u64),
    /// Out until this instant, because of what the upstream said.
    Resting(Instant),
    /// Out until this instant: held back by our own pacing.
    Paced(Instant),
    /// Out until this instant, for another reason: an answer is awaited, or the key is out in all lanes.
    Held(Instant),
    /// Not in the lane: the key is not in the configuration.
    Gone,
}

impl Phase {
    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Phase::Resting(at) | Phase::Paced(at) | Phase::Held(at) => Some(at),
            Phase::InLine(_) | Phase::Gone => None,
        }
    }
}

/// The last rest, until a success ends it.
#[derive(Debug, Clone, Copy)]
struct Rest {
    why: RestReason,
    /// The upstream said how long.
    stated: bool,
    /// How many of this kind in a row.
    times: usize,
    /// When it began. Refusals of requests sent before are not news.
    began: Instant,
    until: Instant,
    /// When the refused request went out.
    sent: Instant,
}

/// How many requests the key took before its last 429.
#[derive(Debug, Clone, Copy)]
struct LearnedLimit {
    took: u32,
    /// In this much time.
    span: Duration,
    /// When the rest that taught it ended; requests from before do not count.
    since: Instant,
    /// How often in a row the same limit was met again.
    right: u32,
    /// Until this instant no more is tried.
    kept_until: Option<Instant>,
}

impl LearnedLimit {
    fn is_kept(&self, now: Instant) -> bool {
        self.kept_until.is_some_and(|until| now < until)
    }
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// Boxed, as the next: most keys have neither.
    rest: Option<Box<Rest>>,
    suspect_until: Option<Instant>,
    learned: Option<Box<LearnedLimit>>,
    /// The most the key ever took in a minute.
    peak: u32,
    /// How many requests may be unanswered at once while it is probed: 1, doubled by each success.
    allowed: u32,
    unanswered: u32,
    window: Window,
}

impl Blank for Seat {
    const BLANK: &Seat = &Seat {
        rest: None,
        suspect_until: None,
        learned: None,
        peak: 0,
        allowed: 1,
        unanswered: 0,
        window: Window::NEW,
    };
}

impl Seat {
    fn rest(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    fn learned(&self) -> Option<&LearnedLimit> {
        self.learned.as_deref()
    }

    /// A request goes out with this key.
    pub(super) fn hand_out(&mut self, now: Instant) {
        self.unanswered += 1;
        self.window.add(now);
    }

    /// Its answer has come, or none will.
    pub(super) fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// A request that was handed out at this instant was not sent.
    pub(super) fn take_back(&mut self, at: Instant, pace: Pace) {
        self.window.take_back(at);
        if self.knew(at) {
            self.learn_less(pace); // it had been counted as taken
        }
    }

    /// A request was accepted. Returns whether that ends a rest.
    pub(super) fn accepted(&mut self, sent: Instant, now: Instant) -> bool {
        // An answer to a request sent before the refusal proves nothing.
        if self.knew(sent) {
            return false;
        }
        let lately = self.sent_lately(now);
        let took = lately.saturating_sub(self.unanswered);
        self.peak = self.peak.max(took);
        if self.unanswered > 0 {
            // A slow answer comes after many further requests. This was one of so many when it was sent:
            let itself_and_later = self.window.count(Some(sent), MINUTE, now);
            let until_then = (lately + 1).saturating_sub(itself_and_later);
            self.peak = self.peak.max(until_then);
        }
        self.allowed = match &mut self.learned {
            Some(learned) if took > learned.took => {
                learned.took = took;
                learned.right = 0;
                (self.allowed * 2).min(MOST_ALLOWED)
            }
            _ => 1,
        };
        self.suspect_until = None;
        self.rest.take().is_some()
    }

    /// A 429. Returns how long the key rests, if that is news. `cooldown`: the first rest, if the
    /// answer does not say how long.
    pub(super) fn limited(
        &mut self,
        stated: Option<Duration>,
        cooldown: Duration,
        pace: Pace,
        sent: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let known = self.knew(sent);
        let times = self.times(RestReason::Limited, stated.is_some(), sent);
        let rest = match stated {
            // A stated rest that proves too short again and again is doubled.
            Some(stated) => {
                let doubted = stated.saturating_mul(1 << times.saturating_sub(1).min(6));
                stated.max(doubted.min(MAX_DOUBTED))
            }
            None => cooldown
                .saturating_mul(1 << times.min(8))
                .min(MAX_ESCALATED.max(cooldown)),
        };
        let news = self.begin(RestReason::Limited, stated.is_some(), rest, sent, now);
        match known {
            true => self.learn_less(pace),
            false => self.learn(pace, now),
        }
        news
    }

    /// The quota is spent, and the answer does not say for how long. Returns how long the key rests, if that is news.
    pub(super) fn quota_spent(&mut self, sent: Instant, now: Instant) -> Option<Duration> {
        let rest = step(&QUOTAS, self.times(RestReason::Quota, false, sent));
        self.begin(RestReason::Quota, false, rest, sent, now)
    }

    /// The key was refused, and it is not known yet whose fault that is. `true`: this was the probe
    /// of an ejected key, so the refusal says nothing about the request.
    pub(super) fn refused(&mut self, why: RestReason, sent: Instant, now: Instant) -> bool {
        let probed = |rest: &&Rest| rest.why.is_refusal() && rest.began < sent && rest.until <= now;
        let Some(times) = self.rest().filter(probed).map(|rest| rest.times) else {
            self.suspect_until = now.checked_add(SUSPICION);
            return false;
        };
        // As long as before; longer once a witness confirms it.
        self.begin(why, false, step(&EJECTIONS, times - 1), sent, now);
        if let Some(new) = &mut self.rest {
            new.times = times;
        }
        true
    }

    /// Another key served the request that this one was refused for, sent at `sent`. Returns how
    /// long the key is ejected, if that is news.
    pub(super) fn eject(
        &mut self,
        why: RestReason,
        sent: Instant,
        now: Instant,
    ) -> Option<Duration> {
        self.suspect_until = None;
        if let Some(rest) = &mut self.rest
            && rest.sent == sent
            && rest.why.is_refusal()
        {
            rest.sent = rest.began; // so that this counts once
            let (times, length) = (rest.times + 1, step(&EJECTIONS, rest.times));
            rest.times = times;
            rest.until = rest.until.max(now + length);
            return Some(length);
        }
        if self.knew(sent) {
            return None;
        }
        let length = step(&EJECTIONS, 0);
        self.begin(why, false, length, sent, now)
    }

    /// The key rests until then, as it did before a restart of alvus.
    pub(super) fn resume(&mut self, until: Instant, now: Instant) {
        let left = until.saturating_duration_since(now);
        self.begin(RestReason::Limited, true, left, now, now);
    }

    /// Ends a rest after a bare 429: the model was overloaded, and the key not at its limit.
    pub(super) fn forgive(&mut self) {
        let bare = |rest: &mut Box<Rest>| rest.why == RestReason::Limited && !rest.stated;
        if let Some(rest) = self.rest.take_if(bare) {
            self.window.take_back(rest.sent);
            self.learned = None;
        }
    }

    /// An ejected key may be probed at once. Says whether it was ejected.
    pub(super) fn probe_now(&mut self, now: Instant) -> bool {
        let ejected = |rest: &&mut Box<Rest>| rest.until > now && rest.why != RestReason::Limited;
        let rest = self.rest.as_mut().filter(ejected);
        rest.map(|rest| rest.until = now).is_some()
    }

    /// The key was accepted elsewhere: ends an ejection by an answer that called it invalid.
    pub(super) fn pardon(&mut self) {
        self.rest.take_if(|rest| rest.why.names_key());
    }

    /// Until when it rests, and why.
    pub(super) fn rests(&self, now: Instant) -> Option<(RestReason, Instant)> {
        self.rest()
            .filter(|rest| rest.until > now)
            .map(|rest| (rest.why, rest.until))
    }

    /// Whether it was refused, or its quota spent, after that instant, and it was not accepted since.
    pub(super) fn is_out_since(&self, served: Option<Instant>) -> bool {
        self.rest().is_some_and(|rest| {
            rest.why != RestReason::Limited && served.is_none_or(|at| at < rest.began)
        })
    }

    /// Whether its present or last rest is an ejection.
    pub(super) fn is_ejected(&self) -> bool {
        self.rest().is_some_and(|rest| rest.why.is_refusal())
    }

    /// Ends the suspicion.
    pub(super) fn trust(&mut self) {
        self.suspect_until = None;
    }

    /// Whether it was refused lately without a witness.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }

    /// Whether it took so few requests that a 429 is likely not for its own limit.
    pub(super) fn is_far_from_its_limit(&self, now: Instant) -> bool {
        let took = self.sent_lately(now).saturating_sub(self.unanswered + 1);
        let most = self.limit().unwrap_or(self.peak);
        took < most.max(LEAST_LIMIT)
    }

    /// How many requests it took before its last 429.
    pub(super) fn limit(&self) -> Option<u32> {
        self.learned().map(|learned| learned.took)
    }

    /// Where the key must wait although its turn has come, if it must. `expected`: the limit of another key.
    pub(super) fn hold(&self, expected: Option<u32>, now: Instant) -> Option<Phase> {
        // Another key's limit says nothing about one that took more.
        let most = self.limit().or(expected.filter(|most| self.peak <= *most));
        let is_beyond = most.is_some_and(|most| most > 0 && self.sent_lately(now) >= most);
        if let Some(learned) = self.learned().filter(|it| is_beyond && it.is_kept(now)) {
            let at = self.window.free_at(learned.took, learned.span, now);
            return at.map(Phase::Paced);
        }
        // One at a time (then two, four, …) after a rest and beyond a limit, its own or an expected one, so that a herd
        // of waiting requests meets a limit once, and not with each of them.
        if self.unanswered >= self.allowed && (self.rest.is_some() || is_beyond) {
            let at = self.window.newest()? + PROBE_GAP;
            return (at > now).then_some(Phase::Held(at));
        }
        None
    }

    /// How many rests for this reason came in a row, before the one that a refusal of this request belongs to.
    fn times(&self, why: RestReason, stated: bool, sent: Instant) -> usize {
        let kind = std::mem::discriminant::<RestReason>;
        let same = |rest: &&Rest| kind(&rest.why) == kind(&why) && rest.stated == stated;
        let times = self.rest().filter(same).map_or(0, |rest| rest.times);
        times.saturating_sub(usize::from(self.knew(sent)))
    }

    /// Begins a rest, or makes the present one longer, never shorter. Returns how long, if it is new.
    fn begin(
        &mut self,
        why: RestReason,
        stated: bool,
        length: Duration,
        sent: Instant,
        now: Instant,
    ) -> Option<Duration> {
        let known = self.knew(sent);
        // If the sum overflows, the key rests a day.
        let until = now.checked_add(length).unwrap_or(now + MAX_REST);
        if let Some(rest) = &mut self.rest
            && (known || rest.until >= until)
        {
            rest.until = rest.until.max(until);
            return None;
        }
        self.rest = Some(Box::new(Rest {
            why,
            stated,
            times: self.times(why, stated, sent) + 1,
            began: now,
            until,
            sent,
        }));
        self.allowed = 1;
        Some(length)
    }

    /// Learns from a new refusal how many requests the key took.
    fn learn(&mut self, pace: Pace, now: Instant) {
        let until = self.rest().map_or(now, |rest| rest.until);
        // Refused below its learned limit: what was learned is wrong.
        let before = self.learned().copied().filter(|it| !it.is_kept(now));
        let span = before.map_or(MINUTE, |before| before.span);
        // All but the refused one. Unanswered ones count as taken until they are refused.
        let took = self
            .window
            .count(self.counted_since(), span, now)
            .saturating_sub(1);
        let right = before.filter(|before| before.took == took);
        let right = right.map_or(0, |before| before.right + 1);
        let first = self.window.first(self.counted_since(), span, now);
        let seen = first.map_or(span, |at| until.saturating_duration_since(at));
        let span = seen.clamp(PROBE_GAP, span);
        let kept = match pace {
            Pace::Auto => KEPT_AUTO,
            _ => KEPT,
        };
        let believed = is_evidence(took, right, pace);
        let learned = LearnedLimit {
            took,
            span,
            since: until,
            right,
            kept_until: believed.then(|| until + span * (kept << right.min(2))),
        };
        self.learned = (!self.window.is_full()).then(|| Box::new(learned));
    }

    /// One that had been counted as taken was not. If a whole herd was refused, nothing is left.
    fn learn_less(&mut self, pace: Pace) {
        if let Some(learned) = &mut self.learned {
            learned.took = learned.took.saturating_sub(1);
            if !is_evidence(learned.took, learned.right, pace) {
                learned.kept_until = None;
            }
        }
    }

    /// How many requests the upstream may count now: those of the last window, but none from before
    /// the last rest, as most limits begin anew after it.
    fn sent_lately(&self, now: Instant) -> u32 {
        let span = self.learned().map_or(MINUTE, |learned| learned.span);
        self.window.count(self.counted_since(), span, now)
    }

    fn counted_since(&self) -> Option<Instant> {
        self.learned().map(|learned| learned.since)
    }

    /// Whether a refusal of a request sent then is not news: when a limit is met, each request under way may be
    /// refused.
    fn knew(&self, sent: Instant) -> bool {
        self.rest().is_some_and(|rest| sent <= rest.began)
    }
}

/// Whether a limit is believed: met after `took` requests, and `right` times again.
fn is_evidence(took: u32, right: u32, pace: Pace) -> bool {
    let least = match pace {
        Pace::Auto => 1,
        _ => LEAST_EVIDENCE,
    };
    took * (right + 1) >= least
}

fn step(table: &[Duration], at: usize) -> Duration {
    table[at.min(table.len() - 1)]
}
