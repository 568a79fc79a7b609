//! The front door: listens, lets in, serves, drains at the end.
//!
//! The only room that names [`crate::front`]. A request is served from head to end by the thread of its
//! connection: it is never handed over, so it wakes nobody and needs no second stack. Who waits,
//! waits in [`crate::relay`]; `/health`, the other pages and refusals never do.
//!
//! A request goes through `reception.rs` (who may come in), `upload.rs` (its body) and `serve.rs` (to the
//! relay and back); `answer.rs` has our own answers, `room.rs` how many come in.

mod answer;
mod reception;
mod room;
mod serve;
#[cfg(test)]
mod tests;
mod upload;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::body::Budget;
use crate::config::Config;
use crate::front::{self, ClientSocket, Limits};
use crate::machine::Machine;
use crate::relay::Relay;
use crate::upstream;

/// Connections that requests for the upstream may not take up: for `/health` and refusals. Of few
/// connections a quarter at most: a place is free a moment after its client has the answer, and who
/// asks next, on another connection, must find one.
const KEPT_FREE: usize = 8;
/// Stack of a connection's thread. The deepest calls, a TLS handshake and an error of 128 nested
/// lists, take half of it. Only pages that are touched cost memory, but 256 of the whole have to
/// fit into the address space of a small board (`tests/endure.rs`).
const STACK: usize = 128 * 1024;
/// Longest pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);

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
    connections: usize,
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
    /// Those whose bodies are on the way, which the stop breaks off.
    uploads: Vec<ClientSocket>,
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
        let machine = Machine::look();
        let max_connections = room::connections(config, &machine);
        let max_body = room::bodies(&machine, config.max_body);
        let limits = Limits {
            thread_stack: STACK,
            max_connections,
            body_timeout: BODY_PAUSE,
            error_body: answer::refusal,
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
            connections: max_connections,
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
        let (mb, connections) = (self.inner.bodies.limit >> 20, self.inner.connections);
        let there_is = Machine::look().shown();
        format!("up to {mb} MiB for request bodies and {connections} connections, of {there_is}")
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
    /// is still on its way, or waits, is answered with 503.
    pub fn close_door(&self) {
        let mut desk = self.inner.desk();
        desk.draining = true;
        desk.uploads
            .drain(..)
            .for_each(|client| client.stop_reading());
        drop(desk);
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
}

fn random() -> io::Result<[u8; 16]> {
    upstream::random().ok_or_else(|| io::Error::other("the system has no randomness to give"))
}
