//! The front door: listens, lets in, serves, drains at the end.
//!
//! The only room that names [`crate::front`]. A request is served from head to end by the thread of its
//! connection: it is never handed over, so it wakes nobody and needs no second stack. Who waits,
//! waits in [`crate::relay`]; `/health`, the other pages and refusals never do.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::access::{Access, Visit};
use crate::body::{Body, Budget};
use crate::config::Config;
use crate::front::{self, Limits, Method, Request};
use crate::logging::{self, Line, LogLevel, shown};
use crate::machine::Machine;
use crate::metrics::Answered;
use crate::peer::{self, Client};
use crate::relay::{End, Exchange, Outcome, Relay};
use crate::reply::{self, Downstream, Reply};
use crate::route::Own;
#[cfg(feature = "dashboard")]
use crate::status::dashboard;
use crate::status::{Load, health, own_pages, prometheus};
use crate::{error, headers, route, upstream, warn};

/// Connections that requests for the upstream may not take up: for `/health` and refusals. Of few
/// connections a quarter at most: a place is free a moment after its client has the answer, and who
/// asks next, on another connection, must find one.
const KEPT_FREE: usize = 8;
/// Descriptors for the rest of the house: stdio, listener, signals, name servers, CA files.
const RESERVED_DESCRIPTORS: usize = 16;
/// When a client may come back that found no room.
const BUSY_RETRY: Duration = Duration::from_secs(5);
/// Stack of a connection's thread. The deepest calls, a TLS handshake and an error of 128 nested
/// lists, take half of it. Only pages that are touched cost memory, but 256 of the whole have to
/// fit into the address space of a small board (`tests/endure.rs`).
const STACK: usize = 128 * 1024;
/// How long a client that has left our replies lying may take to make room for one more.
const REPLY_PATIENCE: Duration = Duration::from_millis(100);
/// Request bodies are read in steps of this size.
const BODY_STEP: usize = 64 * 1024;
/// A body may take this long in any case; a slower one must come at [`BODY_RATE`] on average, for
/// it holds a place. Both as in Apache's `RequestReadTimeout body=20,MinRate=500`.
const BODY_GRACE: Duration = Duration::from_secs(20);
/// The same while half of the places are taken.
const BODY_GRACE_BUSY: Duration = Duration::from_secs(3);
/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Bytes per second.
const BODY_RATE: u64 = 500;

/// A running server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    /// Kept, because it ends with its last owner.
    _http: Arc<front::Server>,
}

struct Inner {
    /// A second handle of the listening socket, to close the door with.
    listener: TcpListener,
    relay: Relay,
    desk: Mutex<Desk>,
    /// Signalled when a request ends while the server drains.
    called: Condvar,
    workers: usize,
    /// How many requests may be in the house.
    places: usize,
    /// For all request bodies together, and so for each.
    bodies: Budget,
    /// Replaced as a whole by a reload.
    rules: Mutex<Arc<Rules>>,
    started: Instant,
    /// `GET /dashboard` is answered with the page.
    #[cfg(feature = "dashboard")]
    dashboard: bool,
}

/// What a reload changes at the front door.
pub struct Rules {
    access: Access,
}

impl Rules {
    fn new(config: &Config, bound: SocketAddr, earlier: Option<&Access>) -> io::Result<Rules> {
        Ok(Rules {
            access: Access::new(config, bound, random()?, earlier),
        })
    }
}

/// Who is in the house.
#[derive(Default)]
struct Desk {
    /// Requests that are being received, wait, or are served.
    inside: usize,
    draining: bool,
}

/// A place in the house, from when a request is let in until it is answered.
struct Place<'a>(&'a Inner);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut desk = self.0.desk();
        desk.inside -= 1;
        if desk.draining {
            self.0.called.notify_all();
        }
    }
}

impl Server {
    /// Listens on the address of `config` and starts serving.
    ///
    /// # Errors
    /// When the address cannot be bound or no thread can be started.
    pub fn start(config: &Config, relay: Relay) -> io::Result<Server> {
        let listener = TcpListener::bind((config.host, config.port))?;
        // A worker needs a descriptor for its way up, whoever else knocks at the door.
        let spoken_for = RESERVED_DESCRIPTORS + config.workers;
        let room = raise_descriptor_limit().saturating_sub(spoken_for);
        let max_connections = config.max_connections.min(room.max(1));
        if max_connections < config.max_connections {
            warn!(
                "the limit of open files leaves room for {max_connections} connections (MAX_CONNECTIONS, ulimit -n)"
            );
        }
        let machine = Machine::look();
        let max_connections = allowed_by(&machine, max_connections);
        let max_body = memory_of(&machine, config.max_body);
        let limits = Limits {
            thread_stack: STACK,
            max_connections,
            body_timeout: BODY_PAUSE,
            error_body: refusal,
            ..Limits::default()
        };
        let rules = Rules::new(config, listener.local_addr()?, None)?;
        let inner = Arc::new(Inner {
            rules: Mutex::new(Arc::new(rules)),
            listener: listener.try_clone()?,
            relay,
            desk: Mutex::default(),
            called: Condvar::new(),
            workers: config.workers,
            places: max_connections - KEPT_FREE.min(max_connections / 4),
            bodies: Budget::new(max_body),
            started: Instant::now(),
            #[cfg(feature = "dashboard")]
            dashboard: config.dashboard,
        });
        let host = inner.clone();
        let http =
            front::Server::serve_in_place(listener, limits, move |request| host.meet(request))?;
        Ok(Server {
            inner,
            _http: Arc::new(http),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.inner.listener.local_addr()
    }

    /// What it took of the memory there is, in words.
    pub fn memory(&self) -> String {
        let mb = self.inner.bodies.limit >> 20;
        let there_is = Machine::look().shown();
        format!("up to {mb} MiB for request bodies, of {there_is}")
    }

    /// What serves the requests.
    pub fn relay(&self) -> &Relay {
        &self.inner.relay
    }

    /// The rules of `config`, with the counts of clients so far; [`Server::admit`] brings them to
    /// work.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn rules(&self, config: &Config) -> io::Result<Rules> {
        let earlier = self.inner.rules();
        Rules::new(config, self.addr()?, Some(&earlier.access))
    }

    /// From now on, these rules hold.
    pub fn admit(&self, rules: Rules) {
        let rules = Arc::new(rules);
        *self
            .inner
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Accepts no more connections. Idle ones are closed; a request that comes on one before that,
    /// or waits, is answered with 503.
    pub fn close_door(&self) {
        self.inner.desk().draining = true;
        self.inner.relay.stop();
        // Wakes the accept thread, and makes the kernel refuse whoever comes now.
        let _ = rustix::net::shutdown(&self.inner.listener, rustix::net::Shutdown::Read);
    }

    /// Waits until every request is answered; `false` if that took longer than `patience`.
    pub fn drained(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut desk = self.inner.desk();
        while desk.inside > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            desk = self
                .inner
                .called
                .wait_timeout(desk, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// How many requests are being received, wait for a worker, or are served.
    pub fn in_flight(&self) -> usize {
        self.inner.desk().inside
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What becomes of a request, on its connection's thread.
    fn meet(&self, request: Request) {
        // A bug costs one request, not the box. The panic's own message is on stderr.
        if catch_unwind(AssertUnwindSafe(|| self.receive(request))).is_err() {
            error!("a request failed inside alvus; please report the message above");
        }
    }

    /// Lets in who may ask and answers the others; pages of our own need no worker.
    fn receive(&self, request: Request) {
        let rules = self.rules();
        let visit = visit(&request);
        let origin = match rules.access.door(&visit) {
            Ok(origin) => origin.map(str::to_owned),
            Err(refusal) => return self.refuse(request, None, &refusal),
        };
        let origin = origin.as_deref();
        let preflight = rules.access.preflight(&visit);
        if let Some(page) = preflight.or_else(|| self.page(&request, &rules.access, &visit)) {
            if page.status == 405 {
                return self.refuse(request, origin, &page); // there may be a body
            }
            if matches!(page.status, 401 | 403) {
                log_refusal(&request, &page); // someone may be trying out keys
            }
            return self.answer(request, origin, &page);
        }
        let client = match rules.access.client(&visit) {
            Ok(client) => client,
            Err(refusal) => return self.refuse(request, origin, &refusal),
        };
        if let Some(refusal) = leads_nowhere(&request, &visit) {
            return self.refuse(request, origin, &refusal);
        }
        match self.place() {
            Ok(_place) => self.serve(request, origin, &rules, client),
            Err(Some(full)) => self.turn_away(request, origin, &full),
            Err(None) => self.refuse(
                request,
                origin,
                &Reply::error(503, "shutting_down", "alvus is shutting down")
                    .retry_after(BUSY_RETRY),
            ),
        }
    }

    /// Lets a request in. `Err`: there is no place for it, and why; `None`: the server drains.
    fn place(&self) -> Result<Place<'_>, Option<Reply>> {
        let mut desk = self.desk();
        if desk.draining {
            return Err(None);
        }
        if desk.inside >= self.places {
            return Err(Some(self.full()));
        }
        desk.inside += 1;
        Ok(Place(self))
    }

    fn full(&self) -> Reply {
        let text = format!(
            "{} requests are under way already (MAX_CONNECTIONS)",
            self.places
        );
        Reply::error(503, "connections_busy", &text).retry_after(BUSY_RETRY)
    }

    /// The page that a request asks of alvus itself, or a refusal; `None`: it is for the upstream.
    fn page(&self, request: &Request, access: &Access, visit: &Visit<'_>) -> Option<Reply> {
        let own = route::own(route::path(route::origin_form(request.url()).ok()?))?;
        if !matches!(request.method().as_str(), "GET" | "HEAD") {
            return Some(own_pages::only_looked_at());
        }
        Some(match own {
            Own::Front => own_pages::page(self.shows_dashboard()),
            Own::Hello => own_pages::hello(),
            Own::Nothing => own_pages::nothing(),
            Own::Health => access.health(visit, self.health(access)),
            Own::Metrics => access.page(visit, || {
                let counts = self.relay.metrics().snapshot();
                prometheus::page(&counts, &self.relay.keys(), &access.clients(), &self.load())
            }),
            #[cfg(not(feature = "dashboard"))]
            Own::Dashboard | Own::Data => own_pages::nothing(),
            #[cfg(feature = "dashboard")]
            Own::Dashboard | Own::Data if !self.dashboard => dashboard::off(),
            #[cfg(feature = "dashboard")]
            Own::Dashboard => access.page(visit, dashboard::page),
            #[cfg(feature = "dashboard")]
            Own::Data => access.page(visit, || {
                let (health, load) = (self.health(access), self.load());
                let target = self.relay.origin();
                let recent = self.relay.metrics().recent();
                dashboard::data(health, &load, &target, &recent, Instant::now())
            }),
        })
    }

    fn shows_dashboard(&self) -> bool {
        #[cfg(feature = "dashboard")]
        return self.dashboard;
        #[cfg(not(feature = "dashboard"))]
        return false;
    }

    fn health(&self, access: &Access) -> Reply {
        health::page(
            &self.relay.keys(),
            &self.relay.models(),
            &access.clients(),
            &self.load(),
            self.relay.learned().as_deref(),
        )
    }

    fn load(&self) -> Load {
        Load {
            uptime: self.started.elapsed(),
            in_flight: self.desk().inside,
            waiting: self.relay.waiting(),
            workers: self.workers,
            upstream_well: self.relay.is_well(),
        }
    }

    /// Passes a request on to the upstream, and the answer back.
    fn serve(
        &self,
        mut request: Request,
        origin: Option<&str>,
        rules: &Rules,
        guest: Option<usize>,
    ) {
        let began = Instant::now();
        let target = match route::origin_form(request.url()) {
            Ok(target) => target.to_string(),
            Err(bad) => {
                return self.refuse(request, origin, &Reply::error(400, "bad_target", bad.0));
            }
        };
        // TRACE would show the client the key that went up with it, and CONNECT open a tunnel.
        let method = request.method().as_str();
        if ["TRACE", "CONNECT"]
            .iter()
            .any(|m| method.eq_ignore_ascii_case(m))
        {
            let text = "TRACE and CONNECT do not lead to an API";
            return self.refuse(request, origin, &Reply::error(501, "bad_method", text));
        }
        let body = match self.read_body(&mut request) {
            Ok(body) => body,
            Err(Some(reply)) => return self.refuse(request, origin, &reply),
            Err(None) => return request.client().shutdown(),
        };
        let socket = request.client();
        let client = Client::new(socket.clone());
        #[cfg(test)]
        tests::bug_at(&target, "/bug/early");
        let guest = guest.map(|at| rules.access.counted(at));
        let method = request.method().clone();
        let method = method.as_str();
        let fields: Vec<_> = request.raw_headers().collect();
        let mapped = match self.relay.map(method, &target, fields.iter().copied()) {
            Ok(mapped) => mapped,
            Err(text) => {
                return self.refuse(request, origin, &Reply::error(400, "bad_request", &text));
            }
        };
        let down = downstream(&request, origin);
        let exchange = Exchange {
            mapped,
            body,
            bodies: self.bodies.clone(),
            client,
            down,
        };
        let bytes_in = exchange.body.as_ref().map_or(0, |body| body.bytes.len()) as u64;
        let mut out = request.into_writer();
        #[cfg(test)]
        tests::bug_at(&target, "/bug/late");
        let outcome = self.relay.serve(exchange, &mut out);
        let answered = Answered {
            status: outcome.status,
            first_byte: outcome.first_byte,
            bytes_in,
            bytes_out: outcome.bytes,
            cut: outcome.end == End::Cut,
        };
        self.relay.metrics().answered(answered, Instant::now());
        if outcome.end != End::Complete || outcome.closes {
            socket.shutdown();
        }
        drop(out);
        log_request(method, &target, guest, &outcome, began.elapsed());
    }

    /// Reads the whole body, within the limits. `Err(None)`: the client left while sending it.
    fn read_body(&self, request: &mut Request) -> Result<Option<Body>, Option<Reply>> {
        let declared = request.body_length();
        let chunked = |(name, _): (&str, _)| name.eq_ignore_ascii_case("transfer-encoding");
        if declared.is_none() && !request.raw_headers().any(chunked) {
            return Ok(None);
        }
        let too_large = || {
            let mb = self.bodies.limit / (1024 * 1024);
            let text = format!(
                "the request body is larger than {mb} MiB (MAX_BODY_MB, or what memory allows)"
            );
            Some(Reply::error(413, "body_too_large", &text))
        };
        if declared.is_some_and(|n| n > self.bodies.limit) {
            return Err(too_large());
        }
        let mut body = Body::new(&self.bodies);
        let too_slow = || {
            let text = "the request body comes too slowly";
            Some(Reply::error(408, "body_timeout", text))
        };
        let began = Instant::now();
        let mut have = 0;
        loop {
            // One byte beyond the limit shows that an undeclared body is too large.
            let room = declared.unwrap_or(self.bodies.limit + 1) - have;
            let step = room.min(BODY_STEP);
            if step == 0 {
                return Ok(Some(body));
            }
            // What was not filled by the last read is not written once more for the next.
            if !body.stretch(have + step) {
                let text = "too many request bodies at once (MAX_BODY_MB bounds them all together)";
                return Err(Some(
                    Reply::error(503, "body_budget", text).retry_after(BUSY_RETRY),
                ));
            }
            let read = loop {
                match request.as_reader().read(&mut body.bytes[have..have + step]) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let n = match read {
                Ok(n) => n,
                Err(e) => {
                    return Err(match e.kind() {
                        ErrorKind::TimedOut | ErrorKind::WouldBlock => too_slow(),
                        ErrorKind::InvalidInput | ErrorKind::InvalidData => Some(Reply::error(
                            400,
                            "bad_body",
                            "the request body is not framed correctly",
                        )),
                        _ => None,
                    });
                }
            };
            have += n;
            if n == 0 {
                body.bytes.truncate(have);
                // The declared end is reached by `step`, so this is the end of the chunks.
                return if declared.is_none() {
                    Ok(Some(body))
                } else {
                    Err(None)
                };
            }
            if have > self.bodies.limit {
                return Err(too_large());
            }
            let grace = match self.desk().inside * 2 < self.places {
                true => BODY_GRACE,
                false => BODY_GRACE_BUSY,
            };
            let earned = Duration::from_secs(have as u64 / BODY_RATE);
            if began.elapsed() > grace + earned {
                return Err(too_slow());
            }
        }
    }

    /// Answers with a reply of our own and keeps the connection.
    fn answer(&self, request: Request, origin: Option<&str>, reply: &Reply) {
        let socket = request.client();
        // While it is being answered, a connection is not closed to make room for another one: a
        // client that asks and asks and takes no answers must not keep many of them that way.
        if !peer::takes_more(&socket, REPLY_PATIENCE) {
            return socket.shutdown();
        }
        let down = downstream(&request, origin);
        let mut out = request.into_writer();
        let sent = out.write_all(&reply.to_bytes(down));
        if sent.and_then(|()| out.flush()).is_err() {
            socket.shutdown();
        }
    }

    /// Answers and closes: what follows on the connection is not to be trusted or not wanted.
    fn refuse(&self, mut request: Request, origin: Option<&str>, reply: &Reply) {
        request.close_connection();
        self.turn_away(request, origin, reply);
    }

    /// Answers a request that goes no further, and counts it.
    fn turn_away(&self, request: Request, origin: Option<&str>, reply: &Reply) {
        let (method, target) = (request.method().as_str(), request.url());
        let spoken = self.relay.in_dialect(method, target, reply);
        let reply = spoken.as_ref().unwrap_or(reply);
        log_refusal(&request, reply);
        let answered = Answered {
            status: reply.status,
            first_byte: None,
            bytes_in: 0,
            bytes_out: reply.body.len() as u64,
            cut: false,
        };
        self.relay.metrics().answered(answered, Instant::now());
        self.answer(request, origin, reply);
    }
}

/// So many connections can have a thread; says so if that is less than were wanted.
fn allowed_by(machine: &Machine, wanted: usize) -> usize {
    let connections = machine.connections(wanted);
    if connections < wanted {
        warn!(
            "the limit of threads leaves room for {connections} connections (MAX_CONNECTIONS; TasksMax of a unit, pids.max of a control group)"
        );
    }
    connections
}

/// So much memory request bodies may take; says so if that is less than was wanted.
fn memory_of(machine: &Machine, wanted: usize) -> usize {
    let bodies = machine.bodies(wanted);
    if bodies < wanted {
        let (shown, mb, asked) = (machine.shown(), bodies >> 20, wanted >> 20);
        warn!(
            "memory: {shown}; request bodies take up to {mb} MiB of it, not {asked} (MAX_BODY_MB)"
        );
    }
    bodies
}

/// Why a request goes no further, whoever asks: WebSocket, a way out of the provider's paths, a circle.
fn leads_nowhere(request: &Request, visit: &Visit<'_>) -> Option<Reply> {
    if visit.upgrades() {
        return Some(own_pages::no_upgrade());
    }
    let target = route::origin_form(request.url()).unwrap_or_default();
    if route::has_dot_segments(route::path(target)) {
        let text = "a path with . or .. between its slashes may lead elsewhere than it looks";
        return Some(Reply::error(400, "bad_target", text));
    }
    let fields = request.raw_headers();
    let vias = fields.filter(|(name, _)| name.eq_ignore_ascii_case("via"));
    if headers::goes_in_circles(vias.map(|(_, value)| value), upstream::pseudonym()) {
        let text = "this request has been here before: TARGET_BASE_URL leads back to this alvus";
        return Some(Reply::error(508, "loop", text));
    }
    None
}

/// Raises the limit of open files as far as the system allows, and returns it.
fn raise_descriptor_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        limit.current = limit.maximum;
    }
    let descriptors = limit.current.and_then(|n| usize::try_from(n).ok());
    descriptors.unwrap_or(usize::MAX)
}

/// What decides whether a request may be served.
fn visit<'a>(request: &'a Request<'_>) -> Visit<'a> {
    Visit::new(
        Some(request.remote_addr().ip()),
        request.method().as_str(),
        request.url(),
        request.raw_headers(),
    )
}

fn random() -> io::Result<[u8; 16]> {
    upstream::random().ok_or_else(|| io::Error::other("the system has no randomness to give"))
}

fn downstream<'a>(request: &Request, origin: Option<&'a str>) -> Downstream<'a> {
    Downstream {
        origin,
        http_1_1: *request.http_version() >= (1, 1),
        keep_alive: request.keeps_alive(),
        head_only: *request.method() == Method::Head,
    }
}

/// The body of a refusal that the front door itself sends.
fn refusal(status: u16, reason: &str) -> (&'static str, String) {
    (
        "application/json",
        reply::error_json("invalid_request_error", &format!("http_{status}"), reason),
    )
}

/// The beginning of a request's line: no query string, no header, no body.
fn request_line(method: &str, target: &str, status: u16) -> Line {
    let mut line = Line::new(LogLevel::Info, "request");
    line.bare("").word("method", &shown(method));
    line.bare(" ").word("path", &shown(route::path(target)));
    line.bare(" -> ").number("status", status.into());
    line
}

/// One line for a request that goes no further, with the reason that its client is given.
fn log_refusal(request: &Request, reply: &Reply) {
    if !logging::enabled(LogLevel::Info) {
        return;
    }
    // A target that is no path may hold a user's name and password.
    let target = route::origin_form(request.url()).unwrap_or("-");
    let mut line = request_line(request.method().as_str(), target, reply.status);
    line.word("refused", reply.reason().as_deref().unwrap_or_default());
    line.write();
}

/// One line for a request that was served.
fn log_request(
    method: &str,
    target: &str,
    client: Option<&str>,
    outcome: &Outcome,
    took: Duration,
) {
    if !logging::enabled(LogLevel::Info) {
        return;
    }
    let end = match outcome.end {
        End::Complete => "",
        End::ClientLeft => "the client left",
        End::Cut => "cut short",
    };
    let mut line = request_line(method, target, outcome.status);
    if !end.is_empty() {
        line.note("end", end);
    }
    if let Some(client) = client {
        line.word("client", client);
    }
    match outcome.key {
        Some(index) => line.number("key", index as u64),
        None => line.word("key", "-"),
    };
    line.number("attempts", outcome.attempts.into());
    line.time("waited", outcome.waited);
    if let Some(after) = outcome.first_byte {
        line.time("first", after);
    }
    line.time("total", took);
    line.number("bytes", outcome.bytes);
    if !outcome.model.is_empty() {
        line.word("model", &shown(&outcome.model));
    }
    if let Some(asked) = &outcome.asked {
        line.word("asked", &shown(asked));
    }
    line.write();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    /// A bug on demand. There is no other way to a panic: one that was known would be mended.
    pub(super) fn bug_at(target: &str, place: &str) {
        assert!(target != place, "a bug on demand, for a test");
    }

    fn ask(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).expect("connect");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("an answer, or the end");
        answer
    }

    #[test]
    fn a_bug_costs_one_request() {
        // an upstream that refuses every connection
        let nobody = TcpListener::bind("127.77.0.2:0").and_then(|l| l.local_addr());
        let target = format!("http://{}/v1", nobody.expect("an address"));
        let settings = [
            ("API_KEYS", "test-key-never-shown-aaaa1111"),
            ("TARGET_BASE_URL", &target),
            ("PORT", "0"),
            ("WORKERS", "1"),
            ("MAX_WAIT_SEC", "0"),
        ];
        let loaded = Config::parse(None, ".env", settings).expect("valid");
        let relay = Relay::new(&loaded.config).expect("a relay");
        let server = Server::start(&loaded.config, relay).expect("a server");
        let addr = server.addr().expect("an address");
        for _ in 0..5 {
            let early = ask(addr, "/bug/early");
            assert!(early.starts_with("HTTP/1.1 500 "), "{early}");
            assert_eq!(
                ask(addr, "/bug/late"),
                "",
                "nothing that looks like an answer"
            );
            let served = ask(addr, "/v1/models");
            assert!(served.starts_with("HTTP/1.1 503 "), "{served}");
            // its thread may be a moment behind its answer
            let since = Instant::now();
            while server.in_flight() > 0 {
                assert!(since.elapsed() < Duration::from_secs(10), "it has left");
                std::thread::yield_now();
            }
        }
    }
}
