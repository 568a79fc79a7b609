//! **The heart.** One request's way through alvus, from the first key to the last byte:
//!
//! > pick a key → send → judge the answer → report to the pool → decide → wait, or try again, or
//! > stream the answer back
//!
//! [`Relay::serve`] is that loop. What the steps mean is decided elsewhere and without I/O: which
//! key in [`crate::pool`], whose fault in [`crate::hints`], what next in [`crate::retry`]. How an
//! answer is told to the client is in `deliver.rs`.
//!
//! The one lock around the pool lives here. It is never held while something is sent, waited for
//! (other than on its own condition variable) or logged.

mod deliver;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::body::Body;
use crate::config::{Config, Rotation};
use crate::hints::{self, Verdict};
use crate::metrics::{Metrics, Reason};
use crate::peer::Client;
use crate::pool::{
    Asker, Change, KeyView, LaneId, Merged, ModelView, Pick, Picked, Pool, Report, Settings, State,
    Ticket,
};
use crate::question::{Conversation, Question};
use crate::reply::{self, Downstream, Reply, whole_seconds};
use crate::retry::{Attempt, Journey, Limits, Step};
use crate::secret::SALT;
use crate::state::{Entry, Limit};
use crate::upstream::{Answer, Failure, Kept, Origin, Prepared, Reuse, Upstream};
use crate::{debug, info, route, sse, warn};

/// How often a request that waits looks whether its client is still there.
const TICK: Duration = Duration::from_secs(1);

/// When a client may come back after the upstream could not be reached.
const UNREACHABLE_RETRY: Duration = Duration::from_secs(5);

/// When a client may come back after every key was rejected: only the operator can help.
const REJECTED_RETRY: Duration = Duration::from_secs(60);

/// The pool, the upstream and the rules between them.
#[derive(Debug)]
pub struct Relay {
    pool: Mutex<Pool>,
    /// Signalled when a waiting request may find a key.
    freed: Condvar,
    /// Whether the upstream was well at the last attempt, so that its going and coming back are
    /// one line each in the log.
    well: AtomicBool,
    /// Replaced as a whole by a reload; a request keeps the one it began with.
    rules: Mutex<Arc<Rules>>,
    metrics: Metrics,
}

/// Where requests go, and how far.
#[derive(Debug)]
struct Rules {
    upstream: Upstream,
    target: Origin,
    base_path: String,
    /// Where paths with `/genai/` go, and what stands in front of them.
    genai: Option<(Origin, String)>,
    /// The target's, as people write it.
    origin: String,
    limits: Limits,
    first_byte: Duration,
    heartbeat: Duration,
    conversation: Conversation,
    /// Streams of completions were seen to say when they are over.
    ends_are_marked: AtomicBool,
}

/// A request mapped onto the provider.
#[derive(Debug)]
pub struct Mapped {
    rules: Arc<Rules>,
    request: Prepared,
    /// Its streams end with a sign in OpenAI's API.
    is_completion: bool,
}

/// One request as the relay sees it.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// What goes up.
    pub mapped: Mapped,
    /// The buffered body, if the request has one.
    pub body: Option<Body>,
    /// Who asked.
    pub client: Client,
    /// What the client's connection allows.
    pub down: Downstream<'a>,
}

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    /// The client has its whole answer.
    Complete,
    /// The client left first.
    ClientLeft,
    /// The upstream broke the answer off; the client's connection must be cut.
    Cut,
}

/// What became of an exchange, for the log and for the client's connection.
#[derive(Debug)]
pub struct Outcome {
    /// The status of the answer; 0 if the client left before there was one.
    pub status: u16,
    /// The model that was asked for; empty if none.
    pub model: String,
    /// The key that was used last, by its place in the configuration.
    pub key: Option<usize>,
    /// Attempts made.
    pub attempts: u32,
    /// Time spent waiting for a key.
    pub waited: Duration,
    /// From the request's arrival to the answer's first words; `None` if there was none.
    pub first_byte: Option<Duration>,
    /// Body bytes sent to the client.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
    /// The end of the connection is the end of the answer.
    pub closes: bool,
}

/// Why there is no key.
enum NoKey {
    ClientLeft,
    AllRejected,
    NoOther,
    /// A reload brought another provider, and keys for that one.
    Moved,
    /// Not before then, which is too late.
    TooLate(Instant),
}

/// What an attempt brought.
enum Came {
    /// An answer, and what it says.
    Answer(Box<Answer>, Verdict),
    /// None, or none that says anything; what to tell the client if that was the last attempt.
    Nothing(Attempt, Reply),
    ClientLeft,
}

/// One request at the pool, in its model's lane; leaves when dropped.
struct Visit<'a> {
    relay: &'a Relay,
    lane: LaneId,
    ticket: Ticket,
    conversation: Option<u64>,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.relay.pool().exit(self.lane, self.ticket);
    }
}

/// A key in use; given back when dropped.
struct Lease<'a> {
    relay: &'a Relay,
    picked: Picked,
    reported: bool,
}

impl Lease<'_> {
    /// Tells the pool what the attempt showed.
    fn report(&mut self, report: Report) -> Option<Change> {
        self.reported = true;
        let mut pool = self.relay.pool();
        let change = pool.report(&self.picked, report, Instant::now());
        if pool.waiting() > 0 {
            self.relay.freed.notify_all();
        }
        change
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.report(Report::Unclear); // the client left before there was an answer
        }
        let mut pool = self.relay.pool();
        pool.release(&self.picked);
        if pool.waiting() > 0 {
            self.relay.freed.notify_all();
        }
    }
}

impl Relay {
    /// Everything that `config` says about keys and the provider.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn new(config: &Config) -> Result<Relay, String> {
        let pool = Pool::new(&config.api_keys, settings(config), Instant::now());
        Ok(Relay {
            pool: Mutex::new(pool),
            freed: Condvar::new(),
            well: AtomicBool::new(true),
            rules: Mutex::new(Arc::new(Rules::new(config)?)),
            metrics: Metrics::new(Instant::now()),
        })
    }

    /// Takes over another configuration: keys are merged, everything else holds for requests that
    /// come from now on. Nothing changes if it fails.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Merged, String> {
        let rules = Arc::new(Rules::new(config)?);
        // At once, for who picks a key looks at both: no provider is to see another one's.
        let mut pool = self.pool();
        *self.rules() = rules;
        let merged = pool.merge(&config.api_keys, settings(config));
        drop(pool);
        self.freed.notify_all();
        self.metrics.reloaded(config.api_keys.len(), Instant::now());
        Ok(merged)
    }

    /// Maps a client's request onto the provider; see [`Prepared::new`].
    ///
    /// # Errors
    /// In words for the client, when it cannot be sent as it is.
    pub fn map<'a>(
        &self,
        method: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Mapped, String> {
        let rules = self.rules().clone();
        let genai = rules.genai.as_ref().filter(|_| route::is_genai(target));
        let (to, path) = match genai {
            Some((to, base)) => (to, route::upward_whole(base, target)),
            None => (&rules.target, route::upward(&rules.base_path, target)),
        };
        let request = Prepared::new(method, to, path, fields)?;
        Ok(Mapped {
            is_completion: route::is_completion(target),
            rules,
            request,
        })
    }

    /// The keys as they stand.
    pub fn keys(&self) -> Vec<KeyView> {
        self.pool().snapshot(Instant::now())
    }

    /// The models that were asked for lately.
    pub fn models(&self) -> Vec<ModelView> {
        self.pool().models()
    }

    /// Requests waiting for a key.
    pub fn waiting(&self) -> usize {
        self.pool().waiting()
    }

    /// What the upstream has against which key; see [`Pool::limits`].
    pub fn limits(&self, salt: &[u8; SALT]) -> Vec<Limit> {
        self.pool().limits(salt, Instant::now())
    }

    /// Takes up what an earlier alvus knew; see [`Pool::restore`].
    pub fn restore(&self, salt: &[u8; SALT], entries: &[Entry]) -> usize {
        self.pool().restore(salt, entries, Instant::now())
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether the upstream was well at the last attempt.
    pub fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }

    /// Where requests go, as people write it: no path, no secret.
    pub fn origin(&self) -> String {
        self.rules().origin.clone()
    }

    /// Serves one request: the main loop of alvus.
    pub fn serve(&self, mut exchange: Exchange, out: &mut impl Write) -> Outcome {
        let arrived = Instant::now();
        let rules = exchange.mapped.rules.clone();
        let body = exchange.body.as_ref();
        let question = body.map_or_else(Question::default, |body| {
            Question::read(&body.bytes, rules.conversation)
        });
        if question.streams {
            exchange.mapped.request.ask_for_plain_text();
            if !rules.heartbeat.is_zero() {
                exchange.client = exchange.patient_client(rules.heartbeat);
            }
        }
        let (lane, ticket) = self.pool().enter(&question.model, arrived);
        let mut visit = Visit {
            relay: self,
            lane,
            ticket,
            conversation: question.conversation,
        };
        let repeatable = exchange.mapped.request.is_repeatable();
        let seed = RandomState::new().build_hasher().finish();
        let mut journey = Journey::new(rules.limits, repeatable, seed, arrived);
        let mut outcome = Outcome {
            status: 0,
            model: question.model,
            key: None,
            attempts: 0,
            waited: Duration::ZERO,
            first_byte: None,
            bytes: 0,
            end: End::Complete,
            closes: false,
        };
        // A 403: the key that got it, while a second key is asked whose fault it was.
        let mut suspect: Option<Picked> = None;
        // The upstream's own words, for when no attempt will bring better ones.
        let mut last: Option<Kept> = None;
        let mut reuse = Reuse::Allowed;
        let mut again: Option<Reason> = None;
        loop {
            let client = &exchange.client;
            let avoid = suspect.as_ref();
            let found = self.lease(&visit, &rules, &mut journey, avoid, client, &mut outcome);
            let mut lease = match found {
                Ok(lease) => lease,
                Err(NoKey::ClientLeft) => return outcome.left(),
                Err(why) => {
                    return match last {
                        Some(kept) => kept.deliver(&exchange, out, outcome),
                        None => self.no_key(&why).deliver(&exchange, out, outcome),
                    };
                }
            };
            outcome.attempts += 1;
            self.metrics.attempt(again);
            outcome.key = Some(lease.picked.index);
            let (step, why) = match self.attempt(&rules, &exchange, &mut lease, reuse) {
                Came::ClientLeft => return outcome.left(),
                Came::Answer(answer, verdict) => {
                    self.take_in(&mut lease, verdict, answer.status, &outcome.model);
                    let step = journey.attempted(Attempt::Answered(verdict), Instant::now());
                    if step == Step::Pass {
                        outcome.first_byte = Some(arrived.elapsed());
                        if let Some(first) = &suspect {
                            self.settle_forbidden(first, answer.status);
                        }
                        exchange.body = None; // a stream may last; its question need not
                        return answer.deliver(&exchange, out, outcome);
                    }
                    match verdict {
                        Verdict::Forbidden => {
                            suspect = Some(lease.picked.clone());
                            last = answer.keep();
                        }
                        Verdict::Trouble(_) | Verdict::Crowded(_) => last = answer.keep(),
                        _ => answer.discard(),
                    }
                    (step, Attempt::Answered(verdict))
                }
                Came::Nothing(attempt, reply) => {
                    let step = journey.attempted(attempt, Instant::now());
                    if step == Step::GiveUp {
                        return reply.deliver(&exchange, out, outcome);
                    }
                    debug!("key {}: {attempt:?}, then {step:?}", lease.picked.index);
                    (step, attempt)
                }
            };
            drop(lease); // a pause must not look like a request in flight
            again = Some(reason(why));
            match step {
                Step::Afresh => reuse = Reuse::Never,
                Step::Pause(pause) => {
                    visit.conversation = None; // another key, if there is one
                    if !self.pause(pause, &exchange.client) {
                        return outcome.left();
                    }
                }
                _ => {}
            }
        }
    }

    /// Sends once, and reads as much of the answer as it takes to judge it.
    fn attempt(
        &self,
        rules: &Rules,
        exchange: &Exchange,
        lease: &mut Lease<'_>,
        reuse: Reuse,
    ) -> Came {
        let sent_at = Instant::now();
        let sent = rules.upstream.send(
            &exchange.mapped.request,
            exchange.body.as_ref().map(|body| body.bytes.as_slice()),
            &lease.picked.key,
            &exchange.client,
            reuse,
        );
        let judged = sent.and_then(|mut answer| {
            let first_word_by = sent_at.checked_add(rules.first_byte);
            let verdict = examine(&mut answer, exchange.down, first_word_by)?;
            Ok((answer, verdict))
        });
        match judged {
            Ok((answer, Some(verdict))) => {
                if let Verdict::Trouble(_) = verdict {
                    self.upstream_fails(&format!("{} answers {}", rules.origin, answer.status));
                } else if !self.well.swap(true, Ordering::Relaxed) {
                    info!("the upstream is back");
                    self.metrics.upstream(true, Instant::now());
                }
                Came::Answer(Box::new(answer), verdict)
            }
            Ok((_, None)) => {
                lease.report(Report::Unclear);
                let text = format!("{} ended its answer before the first word", rules.origin);
                let reply = Reply::error(502, "upstream_empty", &text);
                Came::Nothing(Attempt::Empty, reply)
            }
            Err(failure) => {
                if let Failure::NotSent(why) = &failure {
                    self.upstream_fails(&format!("could not reach {}: {why}", rules.origin));
                }
                let report = match &failure {
                    Failure::ClientLeft => return Came::ClientLeft,
                    Failure::NotSent(_) | Failure::Stale(_) => Report::NotSent,
                    Failure::MaybeSent(_) | Failure::TimedOut(_) => Report::NoAnswer,
                };
                lease.report(report);
                let (attempt, reply) = rules.failed(failure);
                Came::Nothing(attempt, reply)
            }
        }
    }

    /// One line in the log when the upstream goes, however many requests find it gone.
    fn upstream_fails(&self, how: &str) {
        if self.well.swap(false, Ordering::Relaxed) {
            warn!("{how}");
            self.metrics.upstream(false, Instant::now());
        }
    }

    /// Gets a key, waiting for one in the queue if that is what it takes.
    fn lease(
        &self,
        visit: &Visit<'_>,
        rules: &Rules,
        journey: &mut Journey,
        avoid: Option<&Picked>,
        client: &Client,
        outcome: &mut Outcome,
    ) -> Result<Lease<'_>, NoKey> {
        // Since when, once there is anything to wait for.
        let mut wait: Option<Instant> = None;
        let mut pool = self.pool();
        let found = loop {
            if !self.rules().lead_where(rules) {
                break Err(NoKey::Moved);
            }
            let now = Instant::now();
            let asker = Asker {
                ticket: Some(visit.ticket),
                avoid,
                conversation: visit.conversation,
            };
            let soonest = match pool.pick(visit.lane, asker, now) {
                Pick::Key(picked) => {
                    break Ok(Lease {
                        relay: self,
                        picked,
                        reported: false,
                    });
                }
                Pick::AllRejected => break Err(NoKey::AllRejected),
                Pick::NoOther => break Err(NoKey::NoOther),
                Pick::Wait(soonest) => soonest,
            };
            if journey.no_key(soonest, now) == Step::GiveUp {
                break Err(NoKey::TooLate(soonest));
            }
            if wait.is_none() {
                pool.queue_up(visit.lane, visit.ticket);
                wait = Some(now);
            }
            // `soonest` is now when others are first: they will say when they are through.
            let nap = match soonest.saturating_duration_since(now) {
                Duration::ZERO => TICK,
                wait => wait.min(TICK),
            };
            pool = self
                .freed
                .wait_timeout(pool, nap)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            drop(pool);
            client.beat();
            let left = client.has_left();
            pool = self.pool();
            if left {
                break Err(NoKey::ClientLeft);
            }
        };
        if let Some(since) = wait {
            pool.leave(visit.lane, visit.ticket);
            self.freed.notify_all(); // the next in the queue is first now
            drop(pool);
            let waited = since.elapsed();
            outcome.waited += waited;
            self.metrics.waited(waited);
        }
        found
    }

    /// Lets the pool know what an answer says about its key, and the log if that changed anything.
    fn take_in(&self, lease: &mut Lease<'_>, verdict: Verdict, status: u16, model: &str) {
        let (report, stated) = match verdict {
            Verdict::Pass => (Report::Accepted, None),
            Verdict::Limited(stated) => (Report::Limited(stated), stated),
            Verdict::Quota(stated) => (Report::Quota(stated), stated),
            Verdict::ModelQuota(stated) => (Report::ModelQuota(stated), stated),
            Verdict::Crowded(stated) => (Report::Crowded(stated), stated),
            Verdict::Rejected => (Report::Rejected(status), None),
            // A 403 is judged when a second key was tried.
            Verdict::Forbidden | Verdict::Trouble(_) => (Report::Unclear, None),
        };
        let Some(change) = lease.report(report) else {
            return;
        };
        let (index, label) = (lease.picked.index, lease.picked.key.label());
        match change {
            Change::Rests(rest) => self.metrics.cooldown(index, rest, Instant::now()),
            Change::Parked(rest) => self.metrics.parked(index, rest, Instant::now()),
            Change::Out => self.metrics.rejected(index, status, Instant::now()),
            Change::Capacity(_) | Change::Recovered => {}
        }
        let said = match stated {
            Some(_) => "as the upstream asks",
            None => "which did not say how long",
        };
        let of = match model {
            "" => String::new(),
            model => format!(" for {model:?}"),
        };
        match change {
            Change::Rests(rest) => info!(
                "key {index} {label}: limited ({status}){of}, rests {} s, {said}",
                whole_seconds(rest)
            ),
            Change::Parked(rest) => warn!(
                "key {index} {label}: its quota is spent ({status}), parked for {} s, {said}",
                whole_seconds(rest)
            ),
            Change::Out => warn!(
                "key {index} {label}: rejected by the upstream ({status}), out of the pool until a reload"
            ),
            Change::Capacity(limit) => info!(
                "the upstream has no capacity{of} ({status}): {limit} requests at a time for now"
            ),
            Change::Recovered => debug!("key {index} {label}: well again{of}"),
        }
    }

    /// A second key has shown whose fault the first one's 403 was.
    fn settle_forbidden(&self, first: &Picked, status: u16) {
        if !(200..300).contains(&status) {
            return;
        }
        let change = self.pool().condemn(first);
        if change.is_some() {
            let (index, label) = (first.index, first.key.label());
            self.metrics.rejected(index, 403, Instant::now());
            warn!(
                "key {index} {label}: rejected by the upstream (403), another key was not; out of the pool until a reload"
            );
        }
    }

    /// Waits, unless the client leaves meanwhile.
    fn pause(&self, pause: Duration, client: &Client) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            client.beat();
            if client.has_left() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    /// The answer when there is no key, in words.
    fn no_key(&self, why: &NoKey) -> Reply {
        let keys = self.keys();
        let count = |state: fn(&State) -> bool| keys.iter().filter(|k| state(&k.state)).count();
        let ready = count(|s| matches!(s, State::Ready));
        let rejected = count(|s| matches!(s, State::Rejected(_)));
        let of = keys.len();
        match why {
            NoKey::TooLate(soonest) => {
                let wait = soonest.saturating_duration_since(Instant::now());
                let mut text = format!(
                    "{} of {of} keys are cooling down; the next one is ready in {} s",
                    of - ready - rejected,
                    whole_seconds(wait)
                );
                if rejected > 0 {
                    text += &format!("; {rejected} were rejected by the upstream");
                }
                Reply::error(503, "keys_cooling", &text).retry_after(wait)
            }
            NoKey::NoOther => {
                let text =
                    "the upstream forbade this request (403), in more words than alvus keeps";
                Reply::error(403, "forbidden", text)
            }
            NoKey::Moved => {
                let text = "alvus was given another provider while this request waited; ask again";
                Reply::error(503, "provider_changed", text).retry_after(Duration::ZERO)
            }
            NoKey::AllRejected | NoKey::ClientLeft => {
                let text = format!(
                    "all {of} keys were rejected by the upstream; correct API_KEYS and reload or restart alvus"
                );
                Reply::error(503, "keys_rejected", &text).retry_after(REJECTED_RETRY)
            }
        }
    }

    /// Where requests go. Who locks both locks the pool first.
    fn rules(&self) -> MutexGuard<'_, Arc<Rules>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool. A panic while it was locked costs one request, not the proxy.
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads as much of an answer as it takes to judge it: the words of an error, the first event of
/// a stream, a short document. `None`: it ended before its first word.
///
/// # Errors
/// When it cannot be read so far, or its first event did not come in time.
fn examine(
    answer: &mut Answer,
    down: Downstream,
    first_word_by: Option<Instant>,
) -> Result<Option<Verdict>, Failure> {
    let judged = |answer: &Answer| {
        let header = |name: &str| answer.header(name);
        hints::judge(answer.status, header, answer.start())
    };
    if answer.status >= 400 {
        if !down.head_only {
            answer.look_at_all();
        }
        return Ok(Some(judged(answer)));
    }
    if answer.status != 200 || down.head_only {
        return Ok(Some(judged(answer)));
    }
    if answer.is_stream() {
        while answer.start().len() < hints::BODY_LIMIT {
            if let Some(data) = sse::first_data(answer.start()) {
                return Ok(Some(hints::judge_inside(&data)));
            }
            let patience = match first_word_by {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            match answer.look_further(patience) {
                Ok(true) => {}
                Ok(false) if sse::is_silent(answer.start()) => return Ok(None),
                Ok(false) => return Ok(Some(Verdict::Pass)), // no stream of events, whatever it says
                // It broke before it said anything: as good as none.
                Err(Failure::MaybeSent(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        return Ok(Some(Verdict::Pass));
    }
    // An error that calls itself a success is short, and its length is known; a long answer need
    // not wait for its end.
    let short = answer
        .length()
        .is_some_and(|n| n <= hints::BODY_LIMIT as u64);
    if short && answer.is_json() {
        answer.look_at_all();
        return Ok(Some(hints::judge_inside(answer.start())));
    }
    Ok(Some(Verdict::Pass))
}

/// Why an attempt after this one is made, as it is counted.
fn reason(attempt: Attempt) -> Reason {
    match attempt {
        Attempt::Answered(Verdict::Limited(_) | Verdict::Pass) => Reason::Limited,
        Attempt::Answered(Verdict::Quota(_) | Verdict::ModelQuota(_)) => Reason::Quota,
        Attempt::Answered(Verdict::Rejected) => Reason::Rejected,
        Attempt::Answered(Verdict::Forbidden) => Reason::Forbidden,
        Attempt::Answered(Verdict::Crowded(_)) => Reason::Crowded,
        Attempt::Answered(Verdict::Trouble(_)) => Reason::Trouble,
        Attempt::Empty => Reason::Empty,
        Attempt::NotSent => Reason::Unreachable,
        Attempt::Stale => Reason::Stale,
        Attempt::MaybeSent => Reason::Unanswered,
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        cooldown: config.cooldown,
        pace: config.pace,
        rotation: config.rotation,
    }
}

impl Rules {
    /// Whether requests go to the same places by these rules.
    fn lead_where(&self, others: &Rules) -> bool {
        std::ptr::eq(self, others) || (self.target == others.target && self.genai == others.genai)
    }

    fn new(config: &Config) -> Result<Rules, String> {
        Ok(Rules {
            upstream: Upstream::new(config)?,
            target: Origin::new(&config.target)?,
            base_path: config.target.base_path.clone(),
            genai: match &config.genai {
                Some(genai) => Some((Origin::new(genai)?, genai.base_path.clone())),
                None => None,
            },
            origin: config.target.origin(),
            limits: Limits {
                max_retries: config.max_retries,
                max_wait: config.max_wait,
            },
            first_byte: config.first_byte_timeout,
            heartbeat: config.heartbeat,
            conversation: match config.rotation {
                Rotation::Sticky => Conversation::Wanted,
                Rotation::RoundRobin => Conversation::Ignored,
            },
            ends_are_marked: AtomicBool::new(false),
        })
    }

    /// How far a failed attempt came, and what to tell the client if it was the last one.
    fn failed(&self, failure: Failure) -> (Attempt, Reply) {
        let (attempt, status, code, what, why) = match failure {
            Failure::NotSent(why) => (
                Attempt::NotSent,
                503,
                "upstream_unreachable",
                "could not reach",
                why,
            ),
            Failure::Stale(why) => (
                Attempt::Stale,
                502,
                "upstream_broke",
                "got no answer from",
                why,
            ),
            Failure::TimedOut(why) => (
                Attempt::MaybeSent,
                504,
                "upstream_timeout",
                "got no answer in time from",
                why,
            ),
            Failure::MaybeSent(why) => (
                Attempt::MaybeSent,
                502,
                "upstream_broke",
                "got no answer from",
                why,
            ),
            Failure::ClientLeft => (
                Attempt::MaybeSent,
                502,
                "client_left",
                "stopped waiting for",
                String::new(),
            ),
        };
        let text = format!("{what} {}: {why}", self.origin);
        if attempt == Attempt::MaybeSent {
            warn!("{text}");
        }
        let reply = Reply::error(status, code, &text);
        match attempt {
            Attempt::NotSent => (attempt, reply.retry_after(UNREACHABLE_RETRY)),
            _ => (attempt, reply),
        }
    }
}

impl Outcome {
    fn left(mut self) -> Outcome {
        self.end = End::ClientLeft;
        self
    }

    /// The fields that tell a curious client what alvus did.
    fn fields(&self, head: &mut Vec<u8>) {
        if let Some(index) = self.key {
            reply::number(head, "x-alvus-key", index as u64);
        }
        reply::number(head, "x-alvus-attempts", self.attempts.into());
        let waited = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        reply::number(head, "x-alvus-waited-ms", waited);
    }
}
