//! **The heart.** One request's way through alvus, from the first key to the last byte:
//!
//! > pick a key → send → judge the answer → report to the pool → decide → wait, or try again, or
//! > stream the answer back
//!
//! [`Relay::serve`] is that loop. What the steps mean is decided elsewhere and without I/O: which
//! key in [`crate::pool`], whose fault in [`crate::hints`], what next in [`crate::retry`].
//!
//! The one lock around the pool lives here. It is never held while something is sent, waited for
//! (other than on its own condition variable) or logged.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::body::Body;
use crate::config::Config;
use crate::hints::{self, Verdict};
use crate::peer::Client;
use crate::pool::{KeyView, Merged, Pick, Picked, Pool, Report, State, Ticket};
use crate::reply::{self, Downstream, Framing, Reply, whole_seconds};
use crate::retry::{Attempt, Journey, Limits, Step};
use crate::route;
use crate::stream::{self, CopyEnd};
use crate::upstream::{Answer, Failure, Kept, Prepared, Reuse, Upstream};
use crate::{debug, info, warn};

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
    /// Whether the last attempt reached the upstream, so that its going and coming back are one
    /// line each in the log.
    reached: AtomicBool,
    /// Replaced as a whole by a reload; a request keeps the one it began with.
    rules: Mutex<Arc<Rules>>,
}

/// Where requests go, and how far.
#[derive(Debug)]
struct Rules {
    upstream: Upstream,
    base_path: String,
    origin: String,
    limits: Limits,
}

/// A request mapped onto the provider.
#[derive(Debug)]
pub struct Mapped {
    rules: Arc<Rules>,
    request: Prepared,
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
    /// The status the client got; 0 if it left before there was one.
    pub status: u16,
    /// The key that was used last, by its place in the configuration.
    pub key: Option<usize>,
    /// Attempts made.
    pub attempts: u32,
    /// Time spent waiting for a key.
    pub waited: Duration,
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
    /// Not before then, which is too late.
    TooLate(Instant),
}

/// A key in use; given back when dropped.
struct Lease<'a> {
    relay: &'a Relay,
    picked: Picked,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.relay.pool().release(self.picked.id);
    }
}

impl Relay {
    /// Everything that `config` says about keys and the provider.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn new(config: &Config) -> Result<Relay, String> {
        Ok(Relay {
            pool: Mutex::new(Pool::new(&config.api_keys, config.cooldown)),
            freed: Condvar::new(),
            reached: AtomicBool::new(true),
            rules: Mutex::new(Arc::new(Rules::new(config)?)),
        })
    }

    /// Takes over another configuration: keys are merged, everything else holds for requests that
    /// come from now on. Nothing changes if it fails.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Merged, String> {
        let rules = Arc::new(Rules::new(config)?);
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
        let merged = self.pool().merge(&config.api_keys, config.cooldown);
        self.freed.notify_all();
        Ok(merged)
    }

    /// Maps a client's request onto the provider; see [`Upstream::prepare`].
    ///
    /// # Errors
    /// In words for the client, when it cannot be sent as it is.
    pub fn map<'a>(
        &self,
        method: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Mapped, String> {
        let rules = self
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let target = route::upward(&rules.base_path, target);
        let request = rules.upstream.prepare(method, &target, fields)?;
        Ok(Mapped { rules, request })
    }

    /// The keys as they stand.
    pub fn keys(&self) -> Vec<KeyView> {
        self.pool().snapshot(Instant::now())
    }

    /// Requests waiting for a key.
    pub fn waiting(&self) -> usize {
        self.pool().waiting()
    }

    /// Serves one request: the main loop of alvus.
    pub fn serve(&self, mut exchange: Exchange, out: &mut impl Write) -> Outcome {
        let rules = exchange.mapped.rules.clone();
        let mut journey = Journey::new(rules.limits, Instant::now());
        let mut outcome = Outcome {
            status: 0,
            key: None,
            attempts: 0,
            waited: Duration::ZERO,
            bytes: 0,
            end: End::Complete,
            closes: false,
        };
        // A 403: the key that got it, and its own words, kept while a second key is asked whose
        // fault it was.
        let mut suspect: Option<Picked> = None;
        let mut forbidden: Option<Kept> = None;
        let mut reuse = Reuse::Allowed;
        loop {
            let lease = match self.lease(
                &mut journey,
                suspect.as_ref(),
                &exchange.client,
                &mut outcome,
            ) {
                Ok(lease) => lease,
                Err(NoKey::ClientLeft) => return outcome.left(),
                Err(why) => {
                    return match forbidden {
                        Some(kept) => kept.deliver(&exchange, out, outcome),
                        None => self.no_key(&why).deliver(&exchange, out, outcome),
                    };
                }
            };
            outcome.attempts += 1;
            outcome.key = Some(lease.picked.index);
            let sent = rules.upstream.send(
                &exchange.mapped.request,
                exchange.body.as_ref().map(|body| body.bytes.as_slice()),
                &lease.picked.key,
                &exchange.client,
                reuse,
            );
            match sent {
                Ok(answer) => {
                    if !self.reached.swap(true, Ordering::Relaxed) {
                        info!("the upstream is back");
                    }
                    let verdict = hints::judge(answer.status, |name| answer.header(name));
                    self.take_in(&lease, verdict, answer.status);
                    match journey.attempted(Attempt::Answered(verdict), Instant::now()) {
                        Step::Pass => {
                            if let Some(first) = &suspect {
                                self.settle_forbidden(first, answer.status);
                            }
                            exchange.body = None; // a stream may last; its question need not
                            return answer.deliver(&exchange, out, outcome);
                        }
                        _ if verdict == Verdict::Forbidden => {
                            suspect = Some(lease.picked.clone());
                            forbidden = answer.keep();
                        }
                        _ => answer.discard(),
                    }
                }
                Err(failure) => {
                    if let Failure::NotSent(why) = &failure
                        && self.reached.swap(false, Ordering::Relaxed)
                    {
                        warn!("could not reach {}: {why}", rules.origin);
                    }
                    let Some((attempt, reply)) = rules.failed(failure) else {
                        return outcome.left();
                    };
                    self.report(&lease, Report::NoAnswer);
                    let key = lease.picked.index;
                    drop(lease); // a pause must not look like a request in flight
                    match journey.attempted(attempt, Instant::now()) {
                        Step::Afresh => {
                            debug!("key {key}: a kept connection was dead, again on a new one");
                            reuse = Reuse::Never;
                        }
                        Step::Pause(pause) => {
                            debug!("key {key}: {attempt:?}, again in {pause:?}");
                            if !self.pause(pause, &exchange.client) {
                                return outcome.left();
                            }
                        }
                        _ => return reply.deliver(&exchange, out, outcome),
                    }
                }
            }
        }
    }

    /// Gets a key, waiting for one in the queue if that is what it takes.
    fn lease(
        &self,
        journey: &mut Journey,
        avoid: Option<&Picked>,
        client: &Client,
        outcome: &mut Outcome,
    ) -> Result<Lease<'_>, NoKey> {
        // Our place in the queue, and since when, once there is anything to wait for.
        let mut wait: Option<(Ticket, Instant)> = None;
        let mut pool = self.pool();
        let found = loop {
            let now = Instant::now();
            let soonest = match pool.pick(wait.map(|(ticket, _)| ticket), avoid.map(|p| p.id), now)
            {
                Pick::Key(picked) => {
                    break Ok(Lease {
                        relay: self,
                        picked,
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
                wait = Some((pool.queue_up(), now));
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
            let left = client.has_left();
            pool = self.pool();
            if left {
                break Err(NoKey::ClientLeft);
            }
        };
        if let Some((ticket, since)) = wait {
            pool.leave(ticket);
            self.freed.notify_all(); // the next in the queue is first now
            outcome.waited += since.elapsed();
        }
        found
    }

    /// Lets the pool know what an answer says about its key, and the log if that changed anything.
    fn take_in(&self, lease: &Lease<'_>, verdict: Verdict, status: u16) {
        match verdict {
            Verdict::Pass => drop(self.report(lease, Report::Accepted)),
            Verdict::Limited(stated) => {
                if self.report(lease, Report::Limited(stated)) {
                    let (index, label) = (lease.picked.index, lease.picked.key.label());
                    match stated {
                        Some(wait) => info!(
                            "key {index} {label}: limited (429), rests {} s as the upstream asks",
                            whole_seconds(wait)
                        ),
                        None => info!("key {index} {label}: limited (429), rests for COOLDOWN_SEC"),
                    }
                }
            }
            Verdict::Rejected => {
                if self.report(lease, Report::Rejected(status)) {
                    let (index, label) = (lease.picked.index, lease.picked.key.label());
                    warn!(
                        "key {index} {label}: rejected by the upstream ({status}), out of the pool until a reload"
                    );
                }
            }
            Verdict::Forbidden => {} // judged when a second key was tried
        }
    }

    /// A second key has shown whose fault the first one's 403 was.
    fn settle_forbidden(&self, first: &Picked, status: u16) {
        if !(200..300).contains(&status) {
            return;
        }
        if self
            .pool()
            .report(first.id, Report::Rejected(403), Instant::now())
        {
            let (index, label) = (first.index, first.key.label());
            warn!(
                "key {index} {label}: rejected by the upstream (403), another key was not; out of the pool until a reload"
            );
        }
    }

    fn report(&self, lease: &Lease<'_>, report: Report) -> bool {
        let changed = self.pool().report(lease.picked.id, report, Instant::now());
        if changed {
            self.freed.notify_all();
        }
        changed
    }

    /// Waits, unless the client leaves meanwhile.
    fn pause(&self, pause: Duration, client: &Client) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
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
        let cooling = count(|s| matches!(s, State::Cooling(_)));
        let rejected = count(|s| matches!(s, State::Rejected(_)));
        let of = keys.len();
        match why {
            NoKey::TooLate(soonest) => {
                let wait = soonest.saturating_duration_since(Instant::now());
                let mut text = format!(
                    "{cooling} of {of} keys are cooling down; the next one is ready in {} s",
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
            NoKey::AllRejected | NoKey::ClientLeft => {
                let text = format!(
                    "all {of} keys were rejected by the upstream; correct API_KEYS and reload or restart alvus"
                );
                Reply::error(503, "keys_rejected", &text).retry_after(REJECTED_RETRY)
            }
        }
    }

    /// The pool. A panic while it was locked costs one request, not the proxy.
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn new(config: &Config) -> Result<Rules, String> {
        Ok(Rules {
            upstream: Upstream::new(config)?,
            base_path: config.target.base_path.clone(),
            origin: config.target.origin(),
            limits: Limits {
                max_retries: config.max_retries,
                max_wait: config.max_wait,
            },
        })
    }

    /// How far a failed attempt came, and the answer if it was the last one; `None` when there is
    /// nobody left to answer.
    fn failed(&self, failure: Failure) -> Option<(Attempt, Reply)> {
        let (attempt, status, code, what, why) = match failure {
            Failure::ClientLeft => return None,
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
            Failure::MaybeSent(why) => (
                Attempt::MaybeSent,
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
        };
        let reply = Reply::error(status, code, &format!("{what} {}: {why}", self.origin));
        Some(match attempt {
            Attempt::NotSent => (attempt, reply.retry_after(UNREACHABLE_RETRY)),
            _ => (attempt, reply),
        })
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
            reply::field(head, "x-alvus-key", index.to_string().as_bytes());
        }
        reply::field(
            head,
            "x-alvus-attempts",
            self.attempts.to_string().as_bytes(),
        );
        reply::field(
            head,
            "x-alvus-waited-ms",
            self.waited.as_millis().to_string().as_bytes(),
        );
    }
}

// ---- what goes back to the client ---------------------------------------------------------------

impl Reply {
    fn deliver(&self, exchange: &Exchange, out: &mut impl Write, mut outcome: Outcome) -> Outcome {
        outcome.status = self.status;
        outcome.bytes = self.body.len() as u64;
        let sent = out
            .write_all(&self.to_bytes(exchange.down))
            .and_then(|()| out.flush());
        outcome.end = if sent.is_ok() {
            End::Complete
        } else {
            End::ClientLeft
        };
        outcome
    }
}

impl Kept {
    fn deliver(&self, exchange: &Exchange, out: &mut impl Write, mut outcome: Outcome) -> Outcome {
        outcome.status = self.status;
        let framing = Framing::Length(self.body.len() as u64);
        let fields = self.fields.iter().map(|(n, v)| (n.as_str(), v.as_slice()));
        let head = head(self.status, framing, exchange.down, fields, &outcome);
        let framing = if exchange.down.head_only {
            Framing::None
        } else {
            framing
        };
        let copied = stream::copy(&mut self.body.as_slice(), out, &head, framing);
        outcome.bytes = copied.bytes;
        outcome.end = if matches!(copied.end, CopyEnd::Done) {
            End::Complete
        } else {
            End::ClientLeft
        };
        outcome
    }
}

impl Answer {
    fn deliver(
        mut self,
        exchange: &Exchange,
        out: &mut impl Write,
        mut outcome: Outcome,
    ) -> Outcome {
        outcome.status = self.status;
        let down = exchange.down;
        // What the head says and what follows differ for HEAD, and for statuses without a body
        // (RFC 9110 §6.4.1).
        let bodyless = down.head_only || matches!(self.status, 204 | 304);
        let framing = if bodyless {
            Framing::None
        } else {
            down.framing(self.length())
        };
        let stated = match self.stated_length() {
            Some(n) if down.head_only => Framing::Length(n),
            _ => framing,
        };
        // An encoded stream cannot be continued in plain text.
        let is_sse = self
            .header("content-encoding")
            .is_none_or(|v| v == b"identity")
            && self
                .header("content-type")
                .is_some_and(|v| v.to_ascii_lowercase().starts_with(b"text/event-stream"));
        let head = head(self.status, stated, down, self.fields_back(), &outcome);
        let copied = stream::copy(&mut self, out, &head, framing);
        outcome.bytes = copied.bytes;
        outcome.closes = framing == Framing::UntilClose;
        outcome.end = match copied.end {
            CopyEnd::Done => End::Complete,
            CopyEnd::ClientLeft => End::ClientLeft,
            CopyEnd::UpstreamBroke(_) if exchange.client.has_left() => End::ClientLeft,
            CopyEnd::UpstreamBroke(error) => {
                warn!(
                    "the upstream broke off an answer after {} bytes: {error}",
                    copied.bytes
                );
                cut_short(exchange, out, framing, is_sse);
                End::Cut
            }
        };
        outcome
    }
}

fn head<'a>(
    status: u16,
    framing: Framing,
    down: Downstream,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    outcome: &Outcome,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    reply::begin_head(&mut head, status, framing, down);
    for (name, value) in fields {
        reply::field(&mut head, name, value);
    }
    outcome.fields(&mut head);
    reply::end_head(&mut head);
    head
}

/// Tells the client that the answer is not whole: a stream of events gets an error event, anything
/// else only a cut connection. There is never a terminating chunk.
fn cut_short(exchange: &Exchange, out: &mut impl Write, framing: Framing, is_sse: bool) {
    if is_sse && matches!(framing, Framing::Chunked | Framing::UntilClose) {
        let text = "the upstream broke off the stream; what came so far is not the whole answer";
        let error = reply::error_json("server_error", "stream_truncated", text);
        // The blank line ends whatever event was under way; between events it means nothing.
        let event = format!("\n\ndata: {error}\n\n");
        let bytes = match framing {
            Framing::Chunked => stream::chunk(event.as_bytes()),
            _ => event.into_bytes(),
        };
        let _ = out.write_all(&bytes).and_then(|()| out.flush());
    } else if framing == Framing::UntilClose {
        exchange.client.reset();
    }
}
