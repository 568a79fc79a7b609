//! The front door to clients. Each connection has one thread while it is busy, which reads requests by
//! the letter of RFC 9112, has each answered in place, and closes the connection.
//!
//! tiny_http accepts connections and keeps threads that are done for the next ones (`front/tiny_http`: the published
//! crate with two small patches). The rest is here, from the inside out:
//!
//! - [`limits`]: what a client may use; [`slots`]: who is connected, and who makes room
//! - [`head`], [`body`]: what the bytes mean; [`reader`]: how long they may take
//! - [`request`]: what the handler gets, and the way back to the client
//! - [`connection`]: the loop of one connection; [`linger`]: its end; [`refusal`]: the last answer;
//!   [`idle`]: the connections that need no thread for now
//! - [`accept`]: lets connections in
//!
//! It knows nothing of keys, upstreams and settings. `tests/front_door/README.md` says what the
//! published crate does instead.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

mod accept;
pub mod body;
mod connection;
pub mod head;
mod idle;
pub mod limits;
mod linger;
mod reader;
mod refusal;
mod request;
mod slots;

pub use limits::Limits;
pub use request::{Request, ResponseWriter};
pub use tiny_http::{HTTPVersion, Method};

use idle::Watch;
use slots::Slots;

/// Called with each request.
type Handler = Box<dyn Fn(Request<'_>) + Send + Sync>;

/// What all connections of a server share.
struct Shared {
    limits: Limits,
    handler: Handler,
    slots: Arc<Slots>,
    threads: tiny_http::TaskPool,
    /// The connections that need no thread for now.
    watch: Watch,
}

/// A server. Once dropped, it accepts no more connections; those that wait for a request end, and
/// those being served end with their answer.
pub struct Server {
    shared: Arc<Shared>,
    _http: tiny_http::Server,
}

impl Server {
    /// Calls `handler` with each request, on the thread of its connection. When `handler` returns,
    /// that thread reads the next request.
    ///
    /// [`Limits::thread_stack`] must be large enough for `handler`. A panic of `handler` costs its connection.
    ///
    /// # Errors
    /// When the listener has no address, or no descriptor is left.
    pub fn serve_in_place(
        listener: TcpListener,
        limits: Limits,
        handler: impl Fn(Request<'_>) + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let threads = tiny_http::Threads {
            max: limits.max_connections,
            stack: limits.thread_stack,
        };
        let shared = Arc::new(Shared {
            slots: Slots::new(limits.max_connections),
            limits,
            handler: Box::new(handler),
            threads: tiny_http::TaskPool::new(threads),
            watch: Watch::new()?,
        });
        let host = Arc::new(accept::Acceptor::new(shared.clone()));
        let http = tiny_http::Server::from_listener(listener, host);
        Ok(Server {
            shared,
            _http: http?,
        })
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.slots.taken()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.slots.close();
    }
}
