//! The server: listens, admits requests, serves them, and drains at the stop.
//!
//! No other room uses [`crate::front`]. The thread of a connection serves its requests from head to end, without a
//! hand-over. Requests for the upstream wait in [`crate::relay`]; pages such as `/health`, and refusals, never wait.
//!
//! A request goes through `reception.rs` (admission), `upload.rs` (its body) and `serve.rs` (to the relay and back).
//! `answer.rs` has our own answers, `capacity.rs` counts what the machine has room for.

mod answer;
mod capacity;
mod reception;
mod serve;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::body::Budget;
use crate::config::Config;
use crate::front::{self, Limits};
use crate::lock::lock;
use crate::machine::Machine;
use crate::relay::Relay;
use crate::upstream;

/// Connections that requests for the upstream may not take: they are for `/health` and refusals. A quarter of all at
/// most: a place becomes free only a moment after its answer, and a client's next request must still find one.
const KEPT_FREE: usize = 8;
/// Stack of a connection's thread. The deepest calls, a TLS handshake and an error of 128 nested
/// lists, take half of it. Untouched pages cost no memory, but 256 stacks must fit into the address
/// space of a small board (`tests/endure.rs`).
const STACK: usize = 128 * 1024;
/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    /// Kept only because the server ends when this is dropped.
    _http: Arc<front::Server>,
}

struct Inner {
    /// A second handle of the listening socket, to close it with.
    listener: TcpListener,
    relay: Relay,
    admission: Mutex<Admission>,
    /// Signalled when a request ends while the server drains.
    called: Condvar,
    workers: usize,
    connections: usize,
    /// How many requests may be admitted at a time.
    places: usize,
    /// The memory of all request bodies together, and so the bound for each.
    bodies: Budget,
    /// Replaced as a whole by a reload.
    rules: Mutex<Arc<Access>>,
    started: Instant,
    /// `GET /dashboard` is answered with the page.
    dashboard: bool,
}

/// The admitted requests.
#[derive(Default)]
struct Admission {
    /// Requests that are being received, wait, or are served.
    inside: usize,
    /// The clients that are sending a body, which a stop cuts short.
    uploads: Vec<Arc<TcpStream>>,
    draining: bool,
}

/// An admitted request's place, until it is answered.
struct Admitted<'a>(&'a Inner);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut admission = self.0.admission();
        admission.inside -= 1;
        if admission.draining {
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
        let machine = Machine::look();
        let max_connections = capacity::connections(config, &machine);
        let max_body = capacity::bodies(&machine, config.max_body);
        let limits = Limits {
            thread_stack: STACK,
            max_connections,
            body_timeout: BODY_PAUSE,
            error_body: answer::refusal,
            ..Limits::default()
        };
        let rules = Access::new(config, listener.local_addr()?, random()?, None);
        let inner = Arc::new(Inner {
            rules: Mutex::new(Arc::new(rules)),
            listener: listener.try_clone()?,
            relay,
            admission: Mutex::default(),
            called: Condvar::new(),
            workers: config.workers,
            connections: max_connections,
            places: max_connections - KEPT_FREE.min(max_connections / 4),
            bodies: Budget::new(max_body),
            started: Instant::now(),
            dashboard: config.dashboard && cfg!(feature = "dashboard"),
        });
        let host = inner.clone();
        let http =
            front::Server::serve_in_place(listener, limits, move |request| host.meet(request))?;
        Ok(Server {
            inner,
            _http: Arc::new(http),
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.inner.listener.local_addr()
    }

    /// What it uses of the machine's memory, in words.
    pub fn memory(&self) -> String {
        let (mb, connections) = (self.inner.bodies.limit >> 20, self.inner.connections);
        let there_is = Machine::look().shown();
        format!("up to {mb} MiB for request bodies and {connections} connections, of {there_is}")
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.inner.relay
    }

    /// The rules of `config`, with the clients' counts so far. They hold once given to [`Server::admit`].
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn rules(&self, config: &Config) -> io::Result<Access> {
        let earlier = self.inner.rules();
        Ok(Access::new(config, self.addr()?, random()?, Some(&earlier)))
    }

    /// These rules hold from now on.
    pub fn admit(&self, rules: Access) {
        *lock(&self.inner.rules) = Arc::new(rules);
    }

    /// Accepts no more connections and closes idle ones. Requests that still arrive, upload or wait
    /// are answered with 503.
    pub fn close_door(&self) {
        let mut admission = self.inner.admission();
        admission.draining = true;
        for client in admission.uploads.drain(..) {
            let _ = client.shutdown(Shutdown::Read); // its answer can still be written
        }
        drop(admission);
        self.inner.relay.stop();
        // Wakes the accept thread, and makes the kernel refuse new connections.
        let _ = rustix::net::shutdown(&self.inner.listener, rustix::net::Shutdown::Read);
    }

    /// Waits until every request is answered; `false` if that took longer than `patience`.
    pub fn drained(&self, patience: Duration) -> bool {
        let Inner { called, .. } = &*self.inner;
        let admission = self.inner.admission();
        let waited = called.wait_timeout_while(admission, patience, |a| a.inside > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.inside == 0
    }

    /// How many requests are being received, wait, or are served.
    pub fn in_flight(&self) -> usize {
        self.inner.admission().inside
    }
}

impl Inner {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }

    fn rules(&self) -> Arc<Access> {
        lock(&self.rules).clone()
    }
}

fn random() -> io::Result<[u8; 16]> {
    upstream::random().ok_or_else(|| io::Error::other("the system has no randomness to give"))
}
