//! The answer to a request that could not be served: the upstream's latest answer, or an error of
//! our own. Each reason becomes an answer here and nowhere else.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{Exchange, Outcome, Relay, Trip, client_fields, lock};
use crate::pool::LaneId;
use crate::reply::{Reply, whole_seconds};
use crate::upstream::Failure;
use crate::warn;

/// When a client may come back after the upstream could not be reached, or refused every key.
const UNREACHABLE_RETRY: Duration = Duration::from_secs(5);

/// Why a request is not served.
pub(super) enum Unserved {
    /// No key comes free in time. If one comes free at all, then not before this instant.
    NoKey(Option<Instant>),
    /// The only ready keys are those that this request was refused with.
    NoOther,
    /// Every key of the pool was refused.
    Down,
    /// A reload brought another provider, with keys of its own.
    ProviderChanged,
    /// alvus stops.
    Stopping,
    /// The last attempt brought no answer.
    Failed(Failure),
}

/// The client's own deadline is shorter than `MAX_WAIT_SEC`.
fn is_hurried(exchange: &Exchange) -> bool {
    let mapped = &exchange.mapped;
    let within = mapped.client_fields.within;
    within.is_some_and(|within| within < mapped.policy.limits.max_wait)
}

impl Relay {
    /// Answers the client, counts and logs.
    pub(super) fn unserved(&self, why: Unserved, mut trip: Trip, out: &mut dyn Write) -> Outcome {
        let is_hurried = matches!(why, Unserved::NoKey(_)) && is_hurried(trip.exchange);
        let last = match (&why, trip.last.take()) {
            (Unserved::Failed(Failure::ClientLeft), _) => {
                return trip.outcome.left();
            }
            (Unserved::NoOther, last) => {
                self.pool(|pool| pool.close_if_down(trip.entry.lane, Instant::now()));
                last
            }
            (Unserved::Down, None) => lock(&self.last_refusal).clone().map(Ok),
            (Unserved::NoKey(_) | Unserved::Down, last) if !is_hurried => last,
            _ => None,
        };
        let reply = match last {
            Some(Ok(kept)) => return trip.exchange.deliver(out, trip.outcome).kept(&kept),
            Some(Err(failure)) => in_words(&failure, trip.exchange.mapped.origin()),
            None if is_hurried => client_fields::too_late(),
            None => self.reply(&why, &trip),
        };
        trip.exchange.deliver(out, trip.outcome).reply(&reply)
    }

    fn reply(&self, why: &Unserved, trip: &Trip) -> Reply {
        match why {
            Unserved::Failed(failure) => {
                let reply = in_words(failure, trip.exchange.mapped.origin());
                if let Failure::MaybeSent(_) | Failure::TimedOut(_) = failure {
                    warn!("{}", reply.reason().unwrap_or_default());
                }
                reply
            }
            Unserved::NoKey(soonest) => self.no_key(*soonest, trip.entry.lane),
            Unserved::NoOther => {
                let text = "the upstream refused this request with each ready key; its answer was not kept";
                Reply::error(403, "refused", text)
            }
            Unserved::ProviderChanged => {
                let text = "the provider was changed while this request waited; ask again";
                Reply::error(503, "provider_changed", text).retry_after(Duration::ZERO)
            }
            Unserved::Stopping => {
                let text = "alvus is shutting down";
                Reply::error(503, "shutting_down", text).retry_after(UNREACHABLE_RETRY)
            }
            Unserved::Down => {
                let text = format!(
                    "the upstream refuses all {} keys; alvus tries one again from time to time",
                    self.pool(|pool| pool.keys())
                );
                Reply::error(503, "keys_refused", &text).retry_after(UNREACHABLE_RETRY)
            }
        }
    }

    fn no_key(&self, soonest: Option<Instant>, lane: LaneId) -> Reply {
        let now = Instant::now();
        let wait = soonest.map_or(UNREACHABLE_RETRY, |at| at.saturating_duration_since(now));
        let (full, (all, resting, out, overloaded)) =
            self.pool(|pool| (pool.is_full(), pool.why_none(lane, now)));
        if soonest.is_none() && full {
            let text = "all WORKERS places are taken, and none came free in time";
            return Reply::error(503, "workers_busy", text).retry_after(wait);
        }
        if overloaded {
            let text = "the model is overloaded at the provider, with every key";
            return Reply::error(503, "model_overloaded", text).retry_after(wait);
        }
        let mut text = format!(
            "{resting} of {all} keys are cooling down; the next one is ready in {} s",
            whole_seconds(wait)
        );
        if out > 0 {
            text += &format!("; {out} were refused by the upstream");
        }
        Reply::error(503, "keys_cooling", &text).retry_after(wait)
    }
}

/// An error for an attempt without an answer.
fn in_words(failure: &Failure, origin: &str) -> Reply {
    let (status, code, what, why) = match failure {
        Failure::NotSent(why) => (503, "upstream_unreachable", "could not reach", why.as_str()),
        Failure::Unusable(why) => (502, "upstream_misconfigured", "cannot use", why.as_str()),
        Failure::TimedOut(why) => (
            504,
            "upstream_timeout",
            "got no answer in time from",
            why.as_str(),
        ),
        Failure::Stale(why) | Failure::MaybeSent(why) => {
            (502, "upstream_broke", "got no answer from", why.as_str())
        }
        Failure::Empty => {
            let text = format!("{origin} ended its answer before the first word");
            return Reply::error(502, "upstream_empty", &text);
        }
        Failure::ClientLeft => (502, "client_left", "stopped waiting for", ""),
    };
    let reply = Reply::error(status, code, &format!("{what} {origin}: {why}"));
    match failure {
        Failure::NotSent(_) => reply.retry_after(UNREACHABLE_RETRY),
        _ => reply,
    }
}
