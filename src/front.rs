//! The front door: one thread for each connection, which reads its requests by the letter of RFC
//! 9112, has each answered in place, and closes it.
//!
//! tiny_http listens, accepts and has the threads (`front/tiny_http`: the published crate with two
//! joints). What faces a client is here, from the inside out:
//!
//! - [`limits`]: what a client may use; [`slots`]: who is connected, and who makes room
//! - [`head`], [`body`]: what the bytes mean; [`reader`]: how long they may take
//! - [`request`], [`socket`]: what the handler gets, and the way back to the client
//! - [`connection`]: the loop of one connection; [`linger`]: its end; [`refusal`]: what is said there
//! - [`accept`]: lets connections in
//!
//! It knows nothing of keys, upstreams and settings. What the published crate does instead:
//! `tests/front_door/README.md`.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

mod accept;
pub mod body;
mod connection;
pub mod head;
pub mod limits;
mod linger;
mod reader;
mod refusal;
mod request;
mod slots;
mod socket;

pub use limits::Limits;
pub use request::{Request, ResponseWriter};
pub use socket::ClientSocket;
pub use tiny_http::{HTTPVersion, Method};

use linger::Lingering;
use slots::Slots;

/// What is done with each request.
type Handler = Box<dyn Fn(Request<'_>) + Send + Sync>;

/// What the connections of a server have in common.
struct Shared {
    limits: Limits,
    handler: Handler,
    slots: Arc<Slots>,
    lingering: Lingering,
}

/// A server. When it is dropped, it accepts no more connections, those that wait for a request end,
/// and those being served end with their answer.
pub struct Server {
    shared: Arc<Shared>,
    _http: tiny_http::Server,
}

impl Server {
    /// Calls `handler` with each request that comes by `listener`, on the thread of its connection,
    /// which looks for the next request when `handler` is done.
    ///
    /// [`Limits::thread_stack`] has to be large enough for `handler`. If it panics, that costs its
    /// connection.
    ///
    /// # Errors
    /// When the listener has no address.
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
            lingering: Lingering::default(),
        });
        let host = Arc::new(accept::Host::new(shared.clone()));
        let http = tiny_http::Server::from_listener(listener, threads, host);
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
