//! Takes in what an attempt showed: for the key in its lane, for the key in all lanes, and for a lane where every key
//! is refused. `seat.rs` decides how long a rest lasts.

use std::time::{Duration, Instant};

use super::{KeyCounts, LaneId, Past, Picked, Pool, RECENT, RestReason, Settings};
use crate::verdict::Verdict;

/// How long a key is out for all lanes.
const WHOLE: Duration = Duration::from_secs(60);

/// How long a lane is closed after every key was refused: as long as that has lasted, within these bounds.
const CLOSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What an attempt showed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Report {
    /// An answer with this verdict and status.
    Answered(Verdict, u16),
    /// No answer came: network or provider. The key is not to blame.
    NoAnswer,
    /// Nothing was sent. The key is not to blame, and it counts towards no limit.
    NotSent,
    /// Nothing about key or provider: the client left, or the answer was empty.
    Unclear,
}

/// What a report changed, where that is news.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Change {
    /// The key rests for this model.
    Rests(RestReason, Duration),
    /// An ejected key was probed and refused again. That says nothing about the request.
    StillOut,
    /// The model is overloaded: this many requests at a time.
    Overloaded(u32),
    /// The key is well again after a rest.
    Recovered,
    /// A limit that no lane keeps, as the model has none: the request waits by itself.
    Unkept,
}

/// How much refusals without a witness say against a key.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum Evidence {
    /// This lane refused it: the request may be to blame.
    Weak(LaneId),
    /// Two lanes refused it, or an answer called the key invalid.
    Strong,
}

impl Pool {
    /// Takes in what an attempt showed. Call it once for each attempt, before [`Pool::release`].
    pub fn report(&mut self, picked: &Picked, report: Report, now: Instant) -> Option<Change> {
        let now = self.in_order(now);
        let key = self.known(picked.id)?;
        let Settings { cooldown, pace, .. } = self.settings;
        let lane = &mut self.lanes[picked.lane.0];
        lane.answered(key);
        let is_kept = !lane.is_shared();
        let report = match report {
            Report::Answered(Verdict::Limited(None), status)
                if is_kept && lane.is_overloaded(key, now) =>
            {
                Report::Answered(Verdict::Overloaded(None), status)
            }
            report => report,
        };
        self.counts.count(report);
        self.slots[key].past.counts.count(report);
        let seat = &mut lane.seats[key];
        let sent = picked.at;
        let change = match report {
            Report::Answered(verdict, status) => match verdict {
                Verdict::Limited(_) | Verdict::Quota | Verdict::Overloaded(_) if !is_kept => {
                    Some(Change::Unkept)
                }
                Verdict::Pass | Verdict::TooMuch => self.accepted(key, picked, now),
                Verdict::Limited(stated) => {
                    let rest = seat.limited(stated, cooldown, pace, sent, now);
                    if rest.is_some() {
                        lane.met_limit(key);
                    }
                    rest.map(|rest| Change::Rests(RestReason::Limited, rest))
                }
                Verdict::Quota => {
                    let rest = seat.quota_spent(sent, now);
                    let rest = rest.map(|rest| Change::Rests(RestReason::Quota, rest));
                    self.look_at_whole(key, picked.lane, RestReason::Quota, now);
                    rest
                }
                Verdict::Refused { names_key } => {
                    let why = RestReason::Refused { status, names_key };
                    let still_out = seat.refused(why, sent, now);
                    self.note_refusal(key, picked.lane, names_key);
                    still_out.then_some(Change::StillOut)
                }
                Verdict::Overloaded(stated) => {
                    seat.take_back(sent, pace); // nothing was taken
                    let limit = lane.backoff.overloaded(stated, lane.in_flight, sent, now);
                    limit.map(Change::Overloaded)
                }
                Verdict::Trouble(_) | Verdict::MaybeWorked(_) | Verdict::Nowhere => None,
            },
            Report::Unclear | Report::NoAnswer => None,
            Report::NotSent => {
                seat.take_back(sent, pace);
                self.slots[key].past.window.take_back(sent);
                None
            }
        };
        self.lanes[picked.lane.0].reseat(key, now);
        self.wake_first(picked.lane);
        change
    }

    fn accepted(&mut self, key: usize, picked: &Picked, now: Instant) -> Option<Change> {
        let lane = &mut self.lanes[picked.lane.0];
        if lane.seats[key].is_suspect(now) {
            lane.suspect_nobody(); // the request was to blame
        }
        lane.backoff.served(picked.at, now);
        let seat = &mut lane.seats[key];
        let was_ejected = seat.is_ejected();
        let well = seat.accepted(picked.at, now);
        let whole = self.is_well(key, picked.at, well && was_ejected, now);
        (well || whole).then_some(Change::Recovered)
    }

    /// Another key served the request that this key was refused for: the key is to blame. Returns for how long it is
    /// ejected, if that is news.
    pub fn eject(&mut self, refused: &Picked, why: RestReason, now: Instant) -> Option<Duration> {
        let now = self.in_order(now);
        if self.lanes[refused.lane.0].is_shared() {
            return None;
        }
        // A reload may have removed it meanwhile.
        let key = self.known(refused.id)?;
        let lane = &mut self.lanes[refused.lane.0];
        let rest = lane.seats[key].eject(why, refused.at, now)?;
        lane.reseat(key, now);
        self.look_at_whole(key, refused.lane, why, now);
        Some(rest)
    }

    /// A request in this lane was refused with every key that was tried. If every key of the pool
    /// was refused, the lane is closed but for probes: soon one a minute.
    pub fn close_if_down(&mut self, lane: LaneId, now: Instant) {
        if self.is_down(now) {
            self.lanes[lane.0].close(CLOSED, now);
        }
    }

    /// Whether there is strong evidence against every key, or it is out, and none was accepted since.
    pub fn is_down(&self, now: Instant) -> bool {
        let mut slots = self.listed.iter().map(|at| &self.slots[*at]);
        slots.all(|slot| {
            let Past { refused, out, .. } = *slot.past;
            refused == Some(Evidence::Strong) || out.is_some_and(|(_, until)| now < until)
        })
    }

    /// Whether the lane is closed. A closed lane lets one request through now and then.
    pub(super) fn is_closed(&mut self, lane: LaneId, now: Instant) -> bool {
        let Some((_, until)) = self.lanes[lane.0].closed else {
            return false;
        };
        if !self.is_down(now) {
            self.lanes[lane.0].closed = None;
        } else if now >= until {
            self.lanes[lane.0].close(CLOSED, now); // this request probes
        } else {
            return true;
        }
        false
    }

    /// The key was accepted: it is well in all lanes. `is_back`: in this one it was ejected, so it may be back in the
    /// others too. Returns whether it was out.
    fn is_well(&mut self, key: usize, sent: Instant, is_back: bool, now: Instant) -> bool {
        let past = &mut *self.slots[key].past;
        past.served = past.served.max(Some(sent));
        let was_bad = past.refused.take() == Some(Evidence::Strong);
        let was_out = past.out.take().is_some();
        if was_bad || was_out || is_back {
            for lane in &mut self.lanes {
                lane.welcome(key, now);
                if is_back && lane.ejected.has(key) {
                    lane.revive(key, now);
                }
            }
            self.wake_all();
        }
        was_out
    }

    /// A refusal without a witness: a second lane, or words that name the key, make it strong evidence.
    fn note_refusal(&mut self, key: usize, lane: LaneId, names_key: bool) {
        let refused = &mut self.slots[key].past.refused;
        let elsewhere = refused.is_some_and(|before| before != Evidence::Weak(lane));
        *refused = Some(match names_key || elsewhere {
            true => Evidence::Strong,
            false => Evidence::Weak(lane),
        });
    }

    /// The key is out in this lane. Takes it out of all lanes, if the pool's rule says so.
    fn look_at_whole(&mut self, key: usize, here: LaneId, why: RestReason, now: Instant) {
        let past = &mut self.slots[key].past;
        let served = past.served;
        let lately = served.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
        let elsewhere = self
            .lanes
            .iter()
            .enumerate()
            .any(|(at, lane)| at != here.0 && lane.seats[key].is_out_since(served));
        // Not again at once: first another lane's request may show that the key is well.
        let rested = past.out.is_none_or(|(_, until)| now >= until + WHOLE);
        if rested && (elsewhere || (why.names_key() && !lately)) {
            past.out = now.checked_add(WHOLE).map(|until| (why, until));
        }
    }
}

impl KeyCounts {
    fn count(&mut self, report: Report) {
        match report {
            Report::Answered(Verdict::Limited(_), _) => self.limited += 1,
            Report::Answered(Verdict::Quota, _) => self.quota += 1,
            Report::Answered(Verdict::Refused { .. }, _) => self.refused += 1,
            Report::Answered(Verdict::Overloaded(_), _) => self.overloaded += 1,
            Report::NoAnswer | Report::NotSent => self.no_answer += 1,
            Report::Answered(..) | Report::Unclear => {}
        }
    }
}
