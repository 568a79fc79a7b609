//! **The heart.** One request's way through alvus, from the first key to the last byte.
//!
//! [`Relay::ask`] is the loop. Its decisions are made elsewhere, without I/O: [`crate::pool`] picks the key,
//! [`crate::verdict`] says whose fault an answer is, [`crate::retry`] says what is next. The files in `relay/` are the
//! steps of the loop; `docs/architecture.md` lists them:
//!
//! - prepare: [`Exchange::prepare`], [`Relay::begin`] and [`Relay::bind`]
//! - pick: [`Relay::pick`]; send and judge: [`Relay::attempt`]; report: [`Relay::report`]
//! - decide: [`Relay::decide`], and before it tries again [`Relay::pause`]
//! - deliver: [`deliver::Delivery`]; unserved: [`Relay::unserved`]

#[cfg_attr(
    not(any(feature = "messages", feature = "responses")),
    path = "relay/no_dialect.rs"
)]
mod answer_mode;
mod as_event;
mod client_fields;
mod deliver;
mod errors;
mod examine;
mod host_health;
#[cfg(any(feature = "messages", feature = "responses"))]
mod known;
mod lease;
mod listing;
mod outcome;
mod owners;
mod policy;
mod report;
mod stand_ins;
#[cfg(any(feature = "messages", feature = "responses"))]
mod translate_answer;
#[cfg(any(feature = "messages", feature = "responses"))]
mod translate_request;
mod trip;
mod view;

use std::borrow::Cow;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use self::answer_mode::AnswerMode;
use self::client_fields::ClientFields;
use self::errors::Unserved;
use self::host_health::HostHealth;
use self::lease::{Lease, Shared};
pub use self::outcome::{End, Outcome};
use self::owners::Owners;
use self::policy::Policy;
use self::trip::Trip;
use crate::body::{self, Body};
use crate::client::Client;
use crate::debug;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::pool::Picked;
use crate::reply::Downstream;
use crate::retry::{AttemptEnd, Step};
use crate::upstream::{Answer, Failure, Kept, Prepared};
use crate::verdict::Verdict;

impl Relay {
    /// Serves one request: the main loop of alvus.
    fn ask(&self, exchange: &mut Exchange, out: &mut dyn Write) -> Outcome {
        if let Some(reply) = exchange.prepare() {
            return exchange.deliver(out, Outcome::default()).reply(&reply);
        }
        let mut trip = self.begin(exchange);
        if let Err(reply) = self.bind(&mut trip) {
            return trip.exchange.deliver(out, Outcome::default()).reply(&reply);
        }
        loop {
            // A key and one of the WORKERS' places, perhaps after a wait.
            let mut lease = match self.pick(&mut trip) {
                Ok(Some(lease)) => lease,
                Ok(None) => {
                    self.stand_in(&mut trip); // if none can, the next wait is as long as it takes
                    continue;
                }
                Err(why) => return self.unserved(why, trip, out),
            };
            // Sent, and judged: whose fault is it?
            let came = self.attempt(&mut trip, &lease);
            // The pool learns from it, and may know better: the model is overloaded, the key was out anyway.
            let now = Instant::now();
            let attempt = self.report(&mut lease, &came, &mut trip, now);
            if matches!(came, Err(Failure::ClientLeft)) {
                return trip.outcome.left();
            }
            let step = self.decide(attempt, &came, &mut trip, now);
            debug!("key {}: {attempt:?}, then {step:?}", lease.picked.index);
            trip.remember(attempt, &lease.picked);
            match (step, came) {
                (Step::Pass, Ok((mut answer, verdict))) => {
                    self.settle_blame(&trip, &mut answer, verdict);
                    let exchange = trip.exchange;
                    self.note_owner(&exchange.mapped, &mut answer, &lease.picked, now);
                    exchange.body = None; // an answer may stream for long, and no longer needs it
                    let outcome = exchange.deliver(out, trip.outcome).answer(answer);
                    lease.tokens = outcome.tokens;
                    return outcome;
                }
                (Step::GiveUp | Step::Pass, came) => {
                    let why = Unserved::Failed(came.err().unwrap_or(Failure::Empty));
                    return self.unserved(why, trip, out);
                }
                (_, came) => trip.last = trip::last_words(came, attempt),
            }
            drop(lease); // a request that pauses holds no key and no place
            if let Err(why) = self.pause(step, &mut trip) {
                return self.unserved(why, trip, out);
            }
        }
    }

    /// Sends once, and reads as much of the answer as it takes to judge it.
    fn attempt(&self, trip: &mut Trip, lease: &Lease) -> Came {
        trip.outcome.attempts += 1;
        trip.outcome.key = Some(lease.picked.index);
        self.metrics.attempt(trip.again);
        let Exchange {
            mapped,
            body,
            client,
            down,
            ..
        } = &mut *trip.exchange;
        let mut answer = mapped.policy.upstream.send(
            &mut mapped.request,
            body.as_mut().map(|body| &mut body.bytes),
            &lease.picked.key,
            client,
            trip.reuse,
        )?;
        let first_word_by = lease.picked.at.checked_add(mapped.policy.first_byte);
        let verdict = examine::examine(&mut answer, *down, mapped.is_post, first_word_by)?;
        Ok((answer, verdict))
    }

    /// What is next: another attempt if the request was changed, the answer if the upstream wants no retry, another
    /// model if one can stand in; else as [`crate::retry`] says.
    fn decide(&self, attempt: AttemptEnd, came: &Came, trip: &mut Trip, now: Instant) -> Step {
        let answered = came.as_ref().ok();
        let step = match answered {
            Some((answer, verdict)) if trip.exchange.revise(answer, *verdict) => Step::Again,
            Some((answer, _)) if answer.ends_it(attempt) => Step::Pass,
            _ => trip
                .retry
                .attempted(attempt, &mut trip.health.budget(), now),
        };
        match answered {
            Some((answer, _)) => self.or_stand_in(step, answer, attempt, trip),
            None => step,
        }
    }

    /// The final answer settles whose fault the earlier refusals were.
    fn settle_blame(&self, trip: &Trip, answer: &mut Answer, verdict: Verdict) {
        match verdict {
            // Groq says 413 for this too; after a 429 agents would ask again and again.
            Verdict::TooMuch if answer.status == 429 => answer.status = 413,
            Verdict::Pass if answer.status < 400 => self.eject(&trip.refused, &trip.outcome.model),
            Verdict::Refused { .. } => {
                self.pool(|pool| pool.close_if_down(trip.entry.lane, Instant::now()));
            }
            _ => {}
        }
    }

    /// Serves one request: by the loop, or from a list of models that is kept. A client whose own
    /// deadline passes is told so.
    pub fn serve(&self, mut exchange: Exchange, out: &mut dyn Write) -> Outcome {
        if let Some(within) = exchange.mapped.client_fields.within {
            exchange.client = exchange.client.due(Instant::now() + within);
        }
        let outcome = match exchange.mapped.list.take() {
            Some(name) => self.list(&name, &mut exchange, out),
            None => self.ask(&mut exchange, out),
        };
        exchange.in_time(outcome, out)
    }
}

/// What an attempt brought: an answer and its verdict, or none.
type Came = Result<(Box<Answer>, Verdict), Failure>;

/// The pool, the upstream and the rules between them.
#[derive(Debug)]
pub struct Relay {
    /// The one lock around the pool. It is never held while something is sent, waited for or
    /// logged.
    shared: Mutex<Shared>,
    /// Replaced as a whole by a reload; a request keeps the one it began with. Lock order: `shared`, then this.
    policy: Mutex<Arc<Policy>>,
    /// The health of the target, and of the host of the visual models.
    target: HostHealth,
    genai: HostHealth,
    owners: Owners,
    /// The last refusal, which a request gets while every key is refused.
    last_refusal: Mutex<Option<Kept>>,
    metrics: Metrics,
}

/// A request mapped onto the provider.
#[derive(Debug)]
pub struct Mapped {
    policy: Arc<Policy>,
    request: Prepared,
    /// The request goes to the host of the visual models.
    is_genai: bool,
    /// The path's kind, part of the lane's name unless the request is a chat; see [`Mapped::lane`].
    kind: Cow<'static, str>,
    /// A path of chat or text completions: its streams end with `[DONE]`.
    is_completion: bool,
    /// The model that the client named, if `MODEL_MAP` puts another one in its place.
    client_model: Option<String>,
    /// The request continues something that was made with this key.
    owner: Option<Picked>,
    /// Its answer may have an id that a later request names.
    stores: bool,
    /// Which of its models is asked, counted from 0: the first, or a stand-in.
    model_at: usize,
    answer_mode: AnswerMode,
    client_fields: ClientFields,
    /// The name of the list of models that it asks for, if alvus keeps that list.
    list: Option<String>,
    /// A POST. Only its answers are searched for an error inside a 200: a GET may fetch a stored failure.
    is_post: bool,
}

/// One request as the relay sees it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The request for the upstream.
    pub mapped: Mapped,
    /// The buffered body, if the request has one.
    pub body: Option<Body>,
    /// The memory that all bodies share.
    pub bodies: body::Budget,
    /// The client's connection, which may close at any time.
    pub client: Client,
    /// What the client's connection allows of an answer.
    pub down: Downstream<'a>,
}

impl Relay {
    fn policy(&self) -> MutexGuard<'_, Arc<Policy>> {
        lock(&self.policy)
    }
}
