//! **The heart.** One request's way through alvus, from the first key to the last byte.
//!
//! [`Relay::ask`] is the loop. Its decisions are made elsewhere, without I/O: [`crate::pool`] picks the key,
//! [`crate::verdict`] says whose fault an answer is, [`crate::retry`] says what is next. The files in `relay/` are the
//! steps of the loop; `docs/architecture.md` lists them.

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
mod names;
mod outcome;
mod owners;
mod policy;
mod report;
#[cfg(any(feature = "messages", feature = "responses"))]
mod translate_answer;
#[cfg(any(feature = "messages", feature = "responses"))]
mod translate_request;

use std::borrow::Cow;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::answer_mode::AnswerMode;
use self::client_fields::ClientFields;
use self::errors::Unserved;
use self::host_health::HostHealth;
use self::lease::{Entry, Lease, Shared};
use self::names::StandIns;
pub use self::outcome::{End, Outcome};
use self::owners::Owners;
use self::policy::Policy;
use crate::body::Body;
use crate::client::Client;
use crate::config::{Config, Faults};
use crate::metadata::Metadata;
use crate::metrics::{Metrics, Reason};
use crate::pool::{LISTED, Merged, ModelView, Overview, Picked, Pool};
use crate::reply::{self, Downstream, Reply};
use crate::retry::{Attempt, RetryState, Step};
use crate::secret::SALT;
use crate::state::SavedRest;
use crate::upstream::{Answer, Failure, Kept, Prepared, Reuse};
use crate::verdict::Verdict;
use crate::{body, debug};

impl Relay {
    /// Serves one request: the main loop of alvus.
    fn ask(&self, exchange: &mut Exchange, out: &mut dyn Write) -> Outcome {
        let mut trip = match self.begin(exchange) {
            Ok(trip) => trip,
            Err(reply) => return reply.deliver(exchange, out, Outcome::new(String::new())),
        };
        loop {
            // A key and one of the WORKERS' places, perhaps after a wait.
            let mut lease = match self.lease(&mut trip, &exchange.client) {
                Ok(lease) => lease,
                Err(Unserved::NotSoon) => {
                    self.stand_in(&mut trip, exchange);
                    continue;
                }
                Err(why) => return self.unserved(why, trip, exchange, out),
            };
            let came = self.attempt(&mut trip, exchange, &lease);
            // Whose fault is it? The pool learns; an ejected key's probe counts as no attempt.
            let now = Instant::now();
            let attempt = self.report(&mut lease, &came, &mut trip, now);
            let step = match came {
                Came::Answer(ref answer, verdict) if exchange.revise(answer, verdict) => {
                    Step::Again
                }
                Came::Answer(ref answer, _) if answer.ends_it(attempt) => Step::Pass,
                _ => trip
                    .retry
                    .attempted(attempt, &mut trip.health.budget(), now),
            };
            let step = self.or_stand_in(step, &came, attempt, &mut trip, exchange);
            debug!("key {}: {attempt:?}, then {step:?}", lease.picked.index);
            trip.remember(attempt, &lease.picked);
            match (step, came) {
                (_, Came::Nothing(Failure::ClientLeft)) => return trip.outcome.left(),
                (Step::Pass, Came::Answer(mut answer, verdict)) => {
                    self.settle(&trip, &mut answer, verdict);
                    self.note_owner(&exchange.mapped, &mut answer, &lease.picked, now);
                    exchange.body = None; // an answer may stream for long, and no longer needs it
                    let outcome = answer.deliver(exchange, out, trip.outcome);
                    lease.tokens = outcome.tokens;
                    return outcome;
                }
                (Step::GiveUp | Step::Pass, came) => {
                    let why = Unserved::Failed(came.into_failure());
                    return self.unserved(why, trip, exchange, out);
                }
                (_, came) => trip.last = came.into_last_words(attempt),
            }
            drop(lease); // a request that pauses holds no key and no place
            if let Err(why) = self.pause(step, &mut trip, &exchange.client) {
                return self.unserved(why, trip, exchange, out);
            }
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

    /// Sends once, and reads as much of the answer as it takes to judge it.
    fn attempt(&self, trip: &mut Trip, exchange: &mut Exchange, lease: &Lease) -> Came {
        trip.outcome.attempts += 1;
        trip.outcome.key = Some(lease.picked.index);
        self.metrics.attempt(trip.again);
        let sent_at = Instant::now();
        let policy = &exchange.mapped.policy;
        let sent = policy.upstream.send(
            &mut exchange.mapped.request,
            exchange.body.as_mut().map(|body| &mut body.bytes),
            &lease.picked.key,
            &exchange.client,
            trip.reuse,
        );
        let judged = sent.and_then(|mut answer| {
            let first_word_by = sent_at.checked_add(policy.first_byte);
            let makes = exchange.mapped.makes;
            let verdict = examine::examine(&mut answer, exchange.down, makes, first_word_by)?;
            Ok((answer, verdict))
        });
        match judged {
            Ok((answer, Some(verdict))) => Came::Answer(answer, verdict),
            Ok((_, None)) => Came::Empty,
            Err(failure) => Came::Nothing(failure),
        }
    }

    /// The final answer settles whose fault the earlier refusals were.
    fn settle(&self, trip: &Trip, answer: &mut Answer, verdict: Verdict) {
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
}

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
    /// The path's kind: its lane where the body names no model.
    kind: Cow<'static, str>,
    /// A path of chat or text completions: its streams end with `[DONE]`.
    is_completion: bool,
    /// The model that the client named, if `MODEL_MAP` puts another one in its place.
    asked: Option<String>,
    /// The request continues something that was made with this key.
    owner: Option<Picked>,
    /// Its answer may have an id that a later request names.
    stores: bool,
    /// Which of its stand-in models is asked, counted from 0.
    turn: usize,
    answer_mode: AnswerMode,
    client_fields: ClientFields,
    /// The name of the list of models that it asks for, if alvus keeps that list.
    list: Option<String>,
    /// It is a POST: an error inside a 200 is about this request, and not part of a stored object.
    makes: bool,
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

/// The state of one request on its way through the loop.
struct Trip<'a> {
    arrived: Instant,
    entry: Entry<'a>,
    health: &'a HostHealth,
    is_genai: bool,
    policy: Arc<Policy>,
    retry: RetryState,
    outcome: Outcome,
    /// The name of its lane, if that is not the model; see [`Mapped::lane`].
    lane: Option<String>,
    /// Keys that were refused for this request, with status and whether the words named the key.
    refused: Vec<(Picked, u16, bool)>,
    stand_ins: StandIns,
    /// If set, the only key that it may be sent with.
    bound: Option<Picked>,
    reuse: Reuse,
    /// Why the next attempt is made.
    again: Option<Reason>,
    /// What the client hears if no further attempt is made.
    last: Option<Last>,
}

/// What the latest failed attempt left for the client.
enum Last {
    /// The upstream's answer.
    Kept(Kept),
    /// What went wrong.
    Failed(Failure),
}

/// What an attempt brought.
enum Came {
    /// An answer and its verdict.
    Answer(Box<Answer>, Verdict),
    /// An answer that ended before its first word.
    Empty,
    /// No answer.
    Nothing(Failure),
}

impl Trip<'_> {
    /// The name of its lane.
    fn lane(&self) -> &str {
        self.lane.as_deref().unwrap_or(&self.outcome.model)
    }

    /// The upstream's latest answer was that there is no such model.
    fn was_not_found(&self) -> bool {
        matches!(&self.last, Some(Last::Kept(kept)) if kept.status == 404)
    }

    /// The upstream's origin, as people write it.
    fn origin(&self) -> &str {
        self.policy.origin(self.is_genai)
    }

    /// Takes note of an attempt before another one is made.
    fn remember(&mut self, attempt: Attempt, picked: &Picked) {
        self.again = report::reason(attempt);
        self.outcome.limited |= matches!(self.again, Some(Reason::Limited | Reason::Quota));
        if attempt == Attempt::Stale {
            self.reuse = Reuse::Never; // one dead connection a request is enough
        }
        if self.retry.is_bound_by(attempt) {
            self.bound = Some(picked.clone());
        }
    }
}

impl Came {
    fn into_failure(self) -> Failure {
        match self {
            Came::Nothing(failure) => failure,
            Came::Empty | Came::Answer(..) => Failure::Empty,
        }
    }

    /// What the client hears if this was the last attempt. Not a 429: instead the client is told
    /// which keys rest, in words that make agents wait.
    fn into_last_words(self, attempt: Attempt) -> Option<Last> {
        match (self, attempt) {
            (Came::Answer(answer, _), Attempt::Answered(Verdict::Refused { .. })) => {
                answer.keep().map(Last::Kept)
            }
            (Came::Answer(answer, _), _) if answer.status >= 500 => answer.keep().map(Last::Kept),
            (Came::Answer(answer, _), _) => {
                answer.discard();
                None
            }
            (came, _) => Some(Last::Failed(came.into_failure())),
        }
    }
}

impl Relay {
    /// A relay with the keys and the provider of `config`.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn new(config: &Config) -> Result<Relay, Faults> {
        let now = Instant::now();
        let pool = Pool::new(&config.api_keys, policy::settings(config), now);
        Ok(Relay {
            shared: Mutex::new(Shared::new(pool)),
            policy: Mutex::new(Arc::new(Policy::new(config, None)?)),
            target: HostHealth::new(now),
            genai: HostHealth::new(now),
            owners: Owners::default(),
            last_refusal: Mutex::default(),
            metrics: Metrics::new(now),
        })
    }

    /// Takes over another configuration. Keys are merged; everything else holds for requests that
    /// come from now on. On an error nothing changes.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Merged, Faults> {
        let earlier = self.policy().clone();
        let policy = Arc::new(Policy::new(config, Some(&earlier))?);
        policy.upstream.takes_over();
        let now = Instant::now();
        // Both under one lock, as `pick` compares them: no provider may see another provider's keys.
        let merged = self.pool(|pool| {
            *self.policy() = policy;
            pool.merge(&config.api_keys, policy::settings(config), now)
        });
        *lock(&self.last_refusal) = None;
        self.metrics.reloaded(config.api_keys.len(), now);
        Ok(merged)
    }

    /// A request begins: reads what it asks for and enters its lane. The error is the answer, if it needs no attempt.
    fn begin(&self, exchange: &mut Exchange) -> Result<Trip<'_>, Reply> {
        if let Some(reply) = exchange.prepare() {
            return Err(reply);
        }
        let arrived = Instant::now();
        let policy = exchange.mapped.policy.clone();
        let mut limits = policy.limits;
        if let Some(within) = exchange.mapped.client_fields.within {
            limits.max_wait = limits.max_wait.min(within);
        }
        let metadata = exchange
            .body
            .as_ref()
            .map_or_else(Metadata::default, |body| {
                Metadata::read(&body.bytes, policy.conversation)
            });
        if metadata.streams {
            exchange.mapped.request.ask_for_plain_text();
            if !policy.heartbeat.is_zero() {
                exchange.client = exchange.patient_client(policy.heartbeat);
            }
        }
        let health = match exchange.mapped.is_genai {
            true => &self.genai,
            false => &self.target,
        };
        health.budget().request();
        let lane = exchange.mapped.lane(&metadata.model);
        let seed = reply::random();
        let repeat = exchange.mapped.request.repeat();
        let by = lane.as_deref().unwrap_or(&metadata.model);
        let entry = self.enter(by, metadata.conversation, arrived);
        let bound = match &exchange.mapped.client_fields.key {
            Some(wanted) => Some(self.key_named(wanted, entry.lane, arrived)?),
            None => self.owner(exchange, arrived),
        };
        Ok(Trip {
            arrived,
            entry,
            retry: RetryState::new(limits, repeat, seed, arrived),
            health,
            is_genai: exchange.mapped.is_genai,
            policy,
            outcome: Outcome {
                asked: exchange.mapped.asked.clone(),
                ..Outcome::new(metadata.model)
            },
            lane,
            refused: Vec::new(),
            stand_ins: exchange.stand_ins(),
            bound,
            reuse: Reuse::Allowed,
            again: None,
            last: None,
        })
    }

    /// The state of all keys. Requests go on meanwhile.
    pub fn keys(&self) -> Overview {
        let now = Instant::now();
        let mut seen = self.pool(|pool| pool.survey(LISTED, now));
        while self.pool(|pool| pool.survey_further(&mut seen, now)) {}
        seen
    }

    /// The models that were asked for lately.
    pub fn models(&self) -> Vec<ModelView> {
        self.pool(|pool| pool.models(Instant::now()))
    }

    /// Requests waiting for a key.
    pub fn waiting(&self) -> usize {
        self.pool(|pool| pool.waiting())
    }

    /// The rests of all keys, for the state file; see [`Pool::saved_rests`].
    pub fn saved_rests(&self, salt: &[u8; SALT]) -> Vec<SavedRest> {
        let (now, mut keys, mut at) = (Instant::now(), Vec::new(), 0);
        while self.pool(|pool| pool.saved_rests(at, &mut keys, now)) {
            at += 1;
        }
        let mut rests = Vec::new();
        for (key, models) in keys {
            let key = key.tag(salt); // slow, so not under the lock
            let models = models.into_iter();
            rests.extend(models.map(|(model, until)| SavedRest { key, model, until }));
        }
        rests
    }

    /// Takes over rests from the state file; see [`Pool::restore`].
    pub fn restore(&self, salt: &[u8; SALT], rests: &[SavedRest]) -> usize {
        self.pool(|pool| pool.restore(salt, rests, Instant::now()))
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the upstream was well at the last attempt.
    pub fn is_well(&self) -> bool {
        self.target.is_well()
    }

    /// Where requests go, as people write it: no path, no secret.
    pub fn origin(&self) -> String {
        self.policy().origin(false).to_owned()
    }

    fn policy(&self) -> MutexGuard<'_, Arc<Policy>> {
        lock(&self.policy)
    }
}

/// Locks, also after a panic of the last holder: that panic costs one request, not the proxy.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
