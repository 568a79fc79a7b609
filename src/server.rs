//! The front door: listens, hands requests to workers, drains at the end.
//!
//! The only room that names tiny_http. Every thread that is free listens; the one that receives a
//! request that needs a worker serves it itself, so that a request is handed over once, not twice,
//! and wakes nobody else. `WORKERS` of them can serve at a time; the one more that listens is never
//! busy, so `/health`, and a refusal when no worker comes free, never wait behind a stream. Threads
//! start when they are first needed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tiny_http::{Limits, Request};

use crate::access::{Access, Visit};
use crate::body::{Body, Budget};
use crate::config::Config;
use crate::logging::{self, Line, LogLevel};
use crate::metrics::Answered;
use crate::peer::{self, Client};
use crate::relay::{End, Exchange, Outcome, Relay};
use crate::reply::{self, Downstream, Reply};
#[cfg(feature = "dashboard")]
use crate::status::dashboard;
use crate::status::{Load, health, prometheus};
use crate::{error, info, route, upstream, warn};

/// How long a request may wait for a worker. Agents give up after minutes, not seconds.
const WORKER_PATIENCE: Duration = Duration::from_secs(30);
/// How many requests may wait for a worker; each holds a connection and nothing else.
const MAX_PARKED: usize = 128;
/// Connections that neither workers nor waiting requests may take up: for `/health` and refusals.
const KEPT_FREE: usize = 8;
/// Descriptors for the rest of the house: stdio, listener, signals, name servers, CA files.
const RESERVED_DESCRIPTORS: usize = 16;
/// How often waiting requests are looked at.
const TICK: Duration = Duration::from_millis(500);
/// When a client may come back after no worker came free.
const BUSY_RETRY: Duration = Duration::from_secs(5);
/// Stack of a worker. A TLS handshake in a debug build is the deepest call; only pages that are
/// touched cost memory.
const WORKER_STACK: usize = 256 * 1024;
/// How much of a model's name stands in the log, in bytes.
const MODEL_SHOWN: usize = 100;
/// A reply of our own fits into the socket's buffer. One that does not (a page on hundreds of keys)
/// gets this long, not more: see [`Inner::answer`].
const REPLY_PATIENCE: Duration = Duration::from_millis(100);
/// Request bodies are read in steps of this size.
const BODY_STEP: usize = 64 * 1024;
/// A body may take this long in any case; a slower one must come at [`BODY_RATE`] on average, for
/// it holds a worker. Both as in Apache's `RequestReadTimeout body=20,MinRate=500`.
const BODY_GRACE: Duration = Duration::from_secs(20);
/// The same while others wait for a worker.
const BODY_GRACE_BUSY: Duration = Duration::from_secs(3);
/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// Bytes per second.
const BODY_RATE: u64 = 500;

/// A running server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    http: tiny_http::Server,
    /// A second handle of the listening socket, to close the door with.
    listener: TcpListener,
    relay: Relay,
    desk: Mutex<Desk>,
    /// Signalled when a request was served while the server drains.
    called: Condvar,
    workers: usize,
    worker_patience: Duration,
    max_parked: usize,
    write_patience: Duration,
    /// For all request bodies together, and so for each.
    bodies: Budget,
    /// Replaced as a whole by a reload.
    access: Mutex<Arc<Access>>,
    started: Instant,
    /// `GET /dashboard` is answered with the page.
    #[cfg(feature = "dashboard")]
    dashboard: bool,
}

/// Who does what.
#[derive(Default)]
struct Desk {
    /// Requests that wait for a worker, oldest first.
    parked: VecDeque<(Request, Instant)>,
    threads: usize,
    /// Threads that wait for a request: all that serve none.
    listening: usize,
    serving: usize,
    draining: bool,
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
        let limits = Limits {
            max_connections,
            body_timeout: BODY_PAUSE,
            error_body: refusal,
            ..Limits::default()
        };
        let write_patience = limits.write_timeout;
        let http = tiny_http::Server::from_listener_with(listener.try_clone()?, limits)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let access = Access::new(config, listener.local_addr()?, random()?, None);
        let server = Server(Arc::new(Inner {
            access: Mutex::new(Arc::new(access)),
            http,
            listener,
            relay,
            desk: Mutex::default(),
            called: Condvar::new(),
            workers: config.workers,
            worker_patience: config.max_wait.min(WORKER_PATIENCE),
            write_patience,
            // At least one each: a worker is still busy for a moment after its client has its answer.
            max_parked: MAX_PARKED
                .min(max_connections.saturating_sub(config.workers + KEPT_FREE))
                .max(config.workers),
            bodies: Budget::new(config.max_body),
            started: Instant::now(),
            #[cfg(feature = "dashboard")]
            dashboard: config.dashboard,
        }));
        server.0.add_thread(&mut server.0.desk())?;
        Ok(server)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.0.listener.local_addr()
    }

    /// What serves the requests.
    pub fn relay(&self) -> &Relay {
        &self.0.relay
    }

    /// The rules of `config` about who may ask, with the counts so far; [`Server::admit`] brings
    /// them to work.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn rules(&self, config: &Config) -> io::Result<Access> {
        let earlier = self.0.access();
        Ok(Access::new(config, self.addr()?, random()?, Some(&earlier)))
    }

    /// From now on, these rules hold.
    pub fn admit(&self, rules: Access) {
        *self.0.access.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Accepts no more connections. Idle ones are closed; a request that comes on one before that
    /// is answered with 503.
    pub fn close_door(&self) {
        self.0.desk().draining = true;
        // Wakes the accept thread, and makes the kernel refuse whoever comes now.
        let _ = rustix::net::shutdown(&self.0.listener, rustix::net::Shutdown::Read);
    }

    /// Waits until every request is answered; `false` if that took longer than `patience`.
    pub fn drained(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut desk = self.0.desk();
        while desk.serving > 0 || !desk.parked.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            desk = self
                .0
                .called
                .wait_timeout(desk, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// How many requests are being served or wait for a worker.
    pub fn in_flight(&self) -> usize {
        let desk = self.0.desk();
        desk.serving + desk.parked.len()
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_thread(self: &Arc<Self>, desk: &mut Desk) -> io::Result<()> {
        let me = self.clone();
        std::thread::Builder::new()
            .name(format!("worker-{}", desk.threads))
            .stack_size(WORKER_STACK)
            .spawn(move || me.take_turns())?;
        desk.threads += 1;
        Ok(())
    }

    /// The life of a thread: serve who waits, else listen.
    fn take_turns(self: &Arc<Self>) {
        let mut desk = self.desk();
        loop {
            let free = desk.serving < self.workers;
            let request = match free.then(|| desk.parked.pop_front()).flatten() {
                Some((request, _)) => {
                    desk.serving += 1;
                    drop(desk);
                    request
                }
                None => {
                    desk.listening += 1;
                    drop(desk);
                    match caught(|| self.listen()) {
                        Some(request) => request,
                        None => {
                            desk = self.desk();
                            desk.listening -= 1;
                            continue;
                        }
                    }
                }
            };
            caught(|| self.serve(request));
            desk = self.desk();
            desk.serving -= 1;
            if desk.draining {
                self.called.notify_all();
            }
        }
    }

    /// Listens until a request comes that this thread is to serve itself.
    fn listen(self: &Arc<Self>) -> Request {
        loop {
            let waiting = !self.desk().parked.is_empty();
            let came = match waiting {
                true => self.http.recv_timeout(TICK),
                false => self.http.recv().map(Some),
            };
            if waiting {
                self.turn_away_the_patient();
            }
            // An error is one connection that could not be accepted; the next may.
            let Ok(Some(request)) = came else { continue };
            let Some(request) = self.receive(request) else {
                continue;
            };
            let mut desk = self.desk();
            if desk.draining {
                drop(desk);
                self.refuse(
                    request,
                    &Reply::error(503, "shutting_down", "alvus is shutting down")
                        .retry_after(BUSY_RETRY),
                );
                continue;
            }
            // Someone must listen when this thread does not.
            let successor = desk.serving < self.workers
                && (desk.listening > 1 || self.add_thread(&mut desk).is_ok());
            if successor {
                desk.serving += 1;
                desk.listening -= 1;
                return request;
            }
            if desk.parked.len() < self.max_parked {
                desk.parked.push_back((request, Instant::now()));
            } else {
                drop(desk);
                self.turn_away(request, &self.busy());
            }
        }
    }

    /// Answers what needs no worker: pages of our own, and who may not ask.
    fn receive(&self, request: Request) -> Option<Request> {
        let access = self.access();
        let visit = visit(&request);
        let refusal = match access.door(&visit) {
            Err(refusal) => Some(refusal),
            Ok(_) => {
                let page = self.page(&request, &access, &visit);
                if let Some(page) = page.or_else(|| access.preflight(&visit)) {
                    self.answer(request, &page);
                    return None;
                }
                access.client(&visit).err()
            }
        };
        match refusal {
            Some(refusal) => {
                self.refuse(request, &refusal);
                None
            }
            None => Some(request),
        }
    }

    fn access(&self) -> Arc<Access> {
        self.access
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers those who waited too long for a worker, and forgets those who left.
    fn turn_away_the_patient(&self) {
        let mut desk = self.desk();
        let parked = std::mem::take(&mut desk.parked);
        let (gone, stay): (VecDeque<_>, VecDeque<_>) =
            parked.into_iter().partition(|(request, since)| {
                since.elapsed() >= self.worker_patience || Client::new(request.client()).has_left()
            });
        desk.parked = stay;
        drop(desk);
        for (request, _) in gone {
            self.turn_away(request, &self.busy());
        }
    }

    fn busy(&self) -> Reply {
        let text = format!("all {} workers are busy (WORKERS)", self.workers);
        Reply::error(503, "workers_busy", &text).retry_after(BUSY_RETRY)
    }

    /// The page that a request asks of alvus itself, or a refusal; `None`: it is for the upstream.
    fn page(&self, request: &Request, access: &Access, visit: &Visit<'_>) -> Option<Reply> {
        if !matches!(
            *request.method(),
            tiny_http::Method::Get | tiny_http::Method::Head
        ) {
            return None;
        }
        match route::path(route::origin_form(request.url()).ok()?) {
            "/health" => Some(access.health(visit, self.health(access))),
            "/metrics" => Some(access.page(visit, || {
                let counts = self.relay.metrics().snapshot();
                prometheus::page(&counts, &self.relay.keys(), &access.clients(), &self.load())
            })),
            #[cfg(feature = "dashboard")]
            dashboard::PATH | dashboard::DATA if !self.dashboard => Some(dashboard::off()),
            #[cfg(feature = "dashboard")]
            dashboard::PATH => Some(access.page(visit, dashboard::page)),
            #[cfg(feature = "dashboard")]
            dashboard::DATA => Some(access.page(visit, || {
                let (health, load) = (self.health(access), self.load());
                let target = self.relay.origin();
                let recent = self.relay.metrics().recent();
                dashboard::data(health, &load, &target, &recent, Instant::now())
            })),
            _ => None,
        }
    }

    fn health(&self, access: &Access) -> Reply {
        health::page(
            &self.relay.keys(),
            &self.relay.models(),
            &access.clients(),
            &self.load(),
        )
    }

    fn load(&self) -> Load {
        let (serving, parked) = {
            let desk = self.desk();
            (desk.serving, desk.parked.len())
        };
        Load {
            uptime: self.started.elapsed(),
            in_flight: serving + parked,
            parked,
            waiting: self.relay.waiting(),
            workers: self.workers,
            upstream_well: self.relay.is_well(),
        }
    }

    /// Serves one request on this thread.
    fn serve(&self, mut request: Request) {
        let began = Instant::now();
        let target = match route::origin_form(request.url()) {
            Ok(target) => target.to_string(),
            Err(bad) => return self.refuse(request, &Reply::error(400, "bad_target", bad.0)),
        };
        #[cfg(test)]
        tests::bug_at(&target, "/bug/early");
        // TRACE would show the client the key that went up with it, and CONNECT open a tunnel.
        let method = request.method().as_str();
        if ["TRACE", "CONNECT"]
            .iter()
            .any(|m| method.eq_ignore_ascii_case(m))
        {
            let text = "TRACE and CONNECT do not lead to an API";
            return self.refuse(request, &Reply::error(501, "bad_method", text));
        }
        let body = match self.read_body(&mut request) {
            Ok(body) => body,
            Err(Some(reply)) => return self.refuse(request, &reply),
            Err(None) => return request.client().shutdown(),
        };
        let method = request.method().to_string();
        let fields: Vec<_> = request.raw_headers().collect();
        let mapped = match self.relay.map(&method, &target, fields.into_iter()) {
            Ok(mapped) => mapped,
            Err(text) => return self.refuse(request, &Reply::error(400, "bad_request", &text)),
        };
        let access = self.access();
        let (origin, client) = {
            let visit = visit(&request);
            let client = access.client(&visit).ok().flatten();
            (origin(&access, &visit), client.map(|at| access.counted(at)))
        };
        let socket = request.client();
        let down = downstream(&request, origin.as_deref());
        let exchange = Exchange {
            mapped,
            body,
            client: Client::new(socket.clone()),
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
        log_request(&method, &target, client, &outcome, began.elapsed());
    }

    /// Reads the whole body, within the limits. `Err(None)`: the client left while sending it.
    fn read_body(&self, request: &mut Request) -> Result<Option<Body>, Option<Reply>> {
        let declared = request.body_length();
        let chunked = request
            .raw_headers()
            .any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        if declared.is_none() && !chunked {
            return Ok(None);
        }
        let too_large = || {
            let mb = self.bodies.limit / (1024 * 1024);
            let text = format!("the request body is larger than {mb} MiB (MAX_BODY_MB)");
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
        loop {
            let have = body.bytes.len();
            // One byte beyond the limit shows that an undeclared body is too large.
            let room = declared.unwrap_or(self.bodies.limit + 1) - have;
            let step = room.min(BODY_STEP);
            if step == 0 {
                return Ok(Some(body));
            }
            if !body.reserve(step) {
                let text = "too many request bodies at once (MAX_BODY_MB bounds them all together)";
                return Err(Some(
                    Reply::error(503, "body_budget", text).retry_after(BUSY_RETRY),
                ));
            }
            body.bytes.resize(have + step, 0);
            let read = loop {
                match request.as_reader().read(&mut body.bytes[have..]) {
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
            body.bytes.truncate(have + n);
            if n == 0 {
                // The declared end is reached by `step`, so this is the end of the chunks.
                return if declared.is_none() {
                    Ok(Some(body))
                } else {
                    Err(None)
                };
            }
            if body.bytes.len() > self.bodies.limit {
                return Err(too_large());
            }
            let grace = match self.desk().parked.is_empty() {
                true => BODY_GRACE,
                false => BODY_GRACE_BUSY,
            };
            let earned = Duration::from_secs(body.bytes.len() as u64 / BODY_RATE);
            if began.elapsed() > grace + earned {
                return Err(too_slow());
            }
        }
    }

    /// Answers with a reply of our own and keeps the connection.
    ///
    /// Never waits long for the client, since it may be the listening thread that answers: one
    /// client that asks and asks and takes no answers would otherwise hold up all the others.
    fn answer(&self, request: Request, reply: &Reply) {
        let socket = request.client();
        if !peer::takes_more(&socket, REPLY_PATIENCE) {
            return socket.shutdown();
        }
        let patience = |patience| set_socket_timeout(&socket, Timeout::Send, Some(patience));
        let _ = patience(REPLY_PATIENCE);
        let origin = origin(&self.access(), &visit(&request));
        let down = downstream(&request, origin.as_deref());
        let mut out = request.into_writer();
        let sent = out.write_all(&reply.to_bytes(down));
        if sent.and_then(|()| out.flush()).is_err() {
            return socket.shutdown();
        }
        let _ = patience(self.write_patience);
    }

    /// Answers and closes: what follows on the connection is not to be trusted or not wanted.
    fn refuse(&self, mut request: Request, reply: &Reply) {
        request.close_connection();
        info!(
            "{} refused: {} {}",
            request.method(),
            reply.status,
            reply.body
        );
        self.turn_away(request, reply);
    }

    /// Answers a request that goes no further, and counts it.
    fn turn_away(&self, request: Request, reply: &Reply) {
        let answered = Answered {
            status: reply.status,
            first_byte: None,
            bytes_in: 0,
            bytes_out: reply.body.len() as u64,
            cut: false,
        };
        self.relay.metrics().answered(answered, Instant::now());
        self.answer(request, reply);
    }
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

/// Runs `f`; a bug in it costs one request, not the box. The panic's own message is on stderr.
fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(f));
    if result.is_err() {
        error!("a request failed inside alvus; please report the message above");
    }
    result.ok()
}

/// What decides whether a request may be served.
fn visit(request: &Request) -> Visit<'_> {
    Visit::new(
        request.remote_addr().map(SocketAddr::ip),
        request.method().as_str(),
        request.url(),
        request.raw_headers(),
    )
}

/// The web origin that may read the answer.
fn origin(access: &Access, visit: &Visit<'_>) -> Option<String> {
    access.door(visit).ok().flatten().map(str::to_owned)
}

fn random() -> io::Result<[u8; 16]> {
    upstream::random().ok_or_else(|| io::Error::other("the system has no randomness to give"))
}

fn downstream<'a>(request: &Request, origin: Option<&'a str>) -> Downstream<'a> {
    Downstream {
        origin,
        http_1_1: *request.http_version() >= (1, 1),
        keep_alive: request.keeps_alive(),
        head_only: *request.method() == tiny_http::Method::Head,
    }
}

/// The body of a refusal that tiny_http itself sends.
fn refusal(status: u16, reason: &str) -> (&'static str, String) {
    (
        "application/json",
        reply::error_json("invalid_request_error", &format!("http_{status}"), reason),
    )
}

/// One line for one request: no query string, no header, no body.
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
    let mut line = Line::new(LogLevel::Info, "request");
    line.bare("").word("method", method);
    line.bare(" ").word("path", route::path(target));
    line.bare(" -> ").number("status", outcome.status.into());
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
        let end = outcome.model.floor_char_boundary(MODEL_SHOWN);
        line.word("model", &outcome.model[..end]);
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
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
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
            ("MAX_RETRIES", "0"),
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
            assert!(
                served.starts_with("HTTP/1.1 503 "),
                "the one worker lives: {served}"
            );
            assert!(ask(addr, "/health").contains("\"in_flight\":0"));
        }
    }
}
