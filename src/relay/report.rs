//! Tells the pool, the log and the counters what an attempt showed.
//!
//! One attempt has five names on its way: what came ([`Came`]), what an answer means ([`Verdict`]), how the attempt ended
//! for the request ([`AttemptEnd`]), what it shows the pool ([`Report`]), and why there is another one ([`Reason`]).

use std::time::Instant;

use super::lease::Lease;
use super::{Came, Relay, Trip, lock};
use crate::metrics::Reason;
use crate::pool::{Change, Picked, Report, RestReason};
use crate::reply::whole_seconds;
use crate::retry::AttemptEnd;
use crate::upstream::Failure;
use crate::verdict::Verdict;
use crate::{debug, info, warn};

impl Relay {
    /// Reports an attempt to the pool, the log and the counters. Returns what it was, for [`crate::retry`].
    pub(super) fn report(
        &self,
        lease: &mut Lease,
        came: &Came,
        trip: &mut Trip,
        now: Instant,
    ) -> AttemptEnd {
        lease.reported = true;
        let (attempt, report, status) = match came {
            Ok((answer, verdict)) => {
                trip.outcome.first_byte = Some(now.saturating_duration_since(trip.arrived));
                self.notice(*verdict, answer.status, trip);
                let report = Report::Answered(*verdict, answer.status);
                (AttemptEnd::Answered(*verdict), report, answer.status)
            }
            Err(failure) => {
                if let Failure::NotSent(why) | Failure::Unusable(why) = failure {
                    let origin = trip.exchange.mapped.origin();
                    self.upstream_fails(&format!("could not reach {origin}: {why}"), trip);
                }
                let (attempt, report) = failed(failure);
                (attempt, report, 0)
            }
        };
        let change = self.pool(|pool| pool.report(&lease.picked, report, now));
        if let Ok((answer, Verdict::Refused { names_key })) = came {
            *lock(&self.last_refusal) = Some(answer.copy());
            let names_key = *names_key;
            let why = RestReason::Refused { status, names_key };
            trip.refused.push((lease.picked.clone(), why));
        }
        if let Some(change) = change {
            let stated = matches!(
                attempt,
                AttemptEnd::Answered(Verdict::Limited(Some(_)) | Verdict::Overloaded(Some(_)))
            );
            self.tell(&lease.picked, change, status, stated, &trip.outcome.model);
        }
        let overloaded = matches!(change, Some(Change::Overloaded(_)));
        let unkept = change == Some(Change::Unkept);
        match attempt {
            AttemptEnd::Answered(Verdict::Refused { .. }) if change == Some(Change::StillOut) => {
                AttemptEnd::StillOut
            }
            // The pool has seen the other keys' answers, and judges better.
            AttemptEnd::Answered(Verdict::Limited(None)) if overloaded => {
                AttemptEnd::Answered(Verdict::Overloaded(None))
            }
            // No lane keeps this limit for others, so the request waits by itself.
            AttemptEnd::Answered(Verdict::Limited(stated) | Verdict::Overloaded(stated))
                if unkept =>
            {
                AttemptEnd::Answered(Verdict::Trouble(stated))
            }
            AttemptEnd::Answered(Verdict::Quota) if unkept => {
                AttemptEnd::Answered(Verdict::Trouble(None))
            }
            attempt => attempt,
        }
    }

    /// Another key served the request that these keys were refused for: ejects them.
    pub(super) fn eject(&self, refused: &[(Picked, RestReason)], model: &str) {
        for (picked, why) in refused {
            let now = Instant::now();
            if let Some(rest) = self.pool(|pool| pool.eject(picked, *why, now)) {
                let change = Change::Rests(*why, rest); // it says the status
                self.tell(picked, change, 0, false, model);
            }
        }
    }

    /// Notes whether the upstream is well. The log gets one line a change, however many requests see it.
    fn notice(&self, verdict: Verdict, status: u16, trip: &Trip) {
        let health = trip.health;
        match verdict {
            Verdict::Trouble(_) | Verdict::MaybeWorked(_) => {
                self.upstream_fails(
                    &format!("{} answers {status}", trip.exchange.mapped.origin()),
                    trip,
                );
            }
            Verdict::Nowhere => {} // a wrong path says nothing about the upstream's health
            _ if health.note(true) => {
                health.budget().recovered();
                match std::ptr::eq(health, &self.target) {
                    true => {
                        info!("the upstream is back");
                        self.metrics.recovered(Instant::now());
                    }
                    false => info!("{} is back", trip.exchange.mapped.origin()),
                }
                self.ring_pausing();
            }
            _ => {}
        }
    }

    fn upstream_fails(&self, how: &str, trip: &Trip) {
        if trip.health.note(false) {
            warn!("{how}");
            if std::ptr::eq(trip.health, &self.target) {
                self.metrics.failed(how, Instant::now());
            }
        }
    }

    fn tell(&self, picked: &Picked, change: Change, status: u16, stated: bool, model: &str) {
        let (index, label, now) = (picked.index, picked.key.label(), Instant::now());
        let said = match stated {
            true => "as the upstream asks",
            false => "which did not say how long",
        };
        let of = match model {
            "" => String::new(),
            model => format!(" for {:?}", crate::logging::shown(model)),
        };
        match change {
            Change::Rests(RestReason::Limited, rest) => {
                self.metrics.cooldown(index, rest, now);
                let rest = whole_seconds(rest);
                info!("key {index} {label}: limited ({status}){of}, rests {rest} s, {said}");
            }
            Change::Rests(RestReason::Quota, rest) => {
                self.metrics.parked(index, rest, now);
                let rest = whole_seconds(rest);
                warn!("key {index} {label}: its quota is spent ({status}){of}, probed in {rest} s");
            }
            Change::Rests(RestReason::Refused { status, .. }, rest) => {
                self.metrics.ejected(index, status, now);
                warn!(
                    "key {index} {label}: refused by the upstream ({status}){of} where another key was not; ejected, probed in {} s",
                    whole_seconds(rest)
                );
            }
            Change::StillOut => {
                self.metrics.probe_failed();
                debug!("key {index} {label}: refused again{of} ({status})");
            }
            Change::Overloaded(limit) => {
                info!("the model is overloaded{of} ({status}): {limit} requests at a time for now");
            }
            Change::Recovered => debug!("key {index} {label}: well again{of}"),
            Change::Unkept => {
                debug!("key {index} {label}: limited ({status}){of}; the pool has no lane for it");
            }
        }
    }
}

/// What a failed attempt means for the retry and for the pool.
fn failed(failure: &Failure) -> (AttemptEnd, Report) {
    match failure {
        Failure::NotSent(_) => (AttemptEnd::NotSent, Report::NotSent),
        Failure::Unusable(_) => (AttemptEnd::Unusable, Report::NotSent),
        Failure::Stale(_) => (AttemptEnd::Stale, Report::NotSent),
        Failure::MaybeSent(_) | Failure::TimedOut(_) => (AttemptEnd::MaybeSent, Report::NoAnswer),
        Failure::ClientLeft => (AttemptEnd::MaybeSent, Report::Unclear),
        Failure::Empty => (AttemptEnd::Empty, Report::Unclear),
    }
}

/// The reason under which the next attempt is counted.
pub(super) fn reason(attempt: AttemptEnd) -> Option<Reason> {
    Some(match attempt {
        AttemptEnd::Answered(Verdict::Limited(_)) => Reason::Limited,
        AttemptEnd::Answered(Verdict::Quota) => Reason::Quota,
        AttemptEnd::Answered(Verdict::Refused { .. }) => Reason::Refused,
        AttemptEnd::StillOut => Reason::Probed,
        AttemptEnd::Answered(Verdict::Overloaded(_)) => Reason::Overloaded,
        AttemptEnd::Answered(Verdict::Trouble(_) | Verdict::MaybeWorked(_) | Verdict::Nowhere) => {
            Reason::Trouble
        }
        AttemptEnd::Answered(Verdict::Pass | Verdict::TooMuch) | AttemptEnd::Unusable => {
            return None;
        }
        AttemptEnd::Empty => Reason::Empty,
        AttemptEnd::NotSent => Reason::Unreachable,
        AttemptEnd::Stale => Reason::Stale,
        AttemptEnd::MaybeSent => Reason::Unanswered,
    })
}
