//! Takes new connections from tiny_http's accepting thread.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Shared, linger, refusal};

/// Pause after a failed `accept()`, in milliseconds; doubled by each further failure.
const PAUSE_MIN: u32 = 1;
/// The longest pause; a client waits at most this long once `accept()` works again.
const PAUSE_MAX: u32 = 256;

/// Takes connections from tiny_http.
pub struct Acceptor {
    shared: Arc<Shared>,
    /// The pause after the next failed `accept()`.
    pause: AtomicU32,
}

impl Acceptor {
    /// A host for connections of one server.
    pub fn new(shared: Arc<Shared>) -> Acceptor {
        Acceptor {
            shared,
            pause: AtomicU32::new(PAUSE_MIN),
        }
    }

    /// Tells a client that there is no room. The socket is new, so the few bytes fit into its buffer.
    fn refuse(&self, socket: Arc<TcpStream>) {
        let limits = &self.shared.limits;
        if refusal::write(&mut &*socket, limits, 503, "too many connections").is_ok() {
            linger::end(&self.shared.watch, socket, None, Instant::now());
        }
    }
}

impl tiny_http::Host for Acceptor {
    fn admit(&self, stream: TcpStream, client: SocketAddr) {
        self.pause.store(PAUSE_MIN, Ordering::Relaxed);
        // These fail only on a connection that is gone. No Nagle: it would hold a short last segment back for 40 ms,
        // until the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(self.shared.limits.write_timeout));
        let socket = Arc::new(stream);
        let Some(slot) = self.shared.slots.take(&socket, Instant::now()) else {
            return self.refuse(socket);
        };
        Connection::new(self.shared.clone(), socket, client, slot).start();
    }

    /// The listener outlives every error: the client may have left (ECONNABORTED), or descriptors may have run out
    /// (EMFILE). Then `accept()` fails at once, over and over: hence the pause.
    fn accept_failed(&self, _error: io::Error) {
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > PAUSE_MIN {
            // it failed again: make room
            self.shared.slots.close_longest_waiting();
        }
        thread::sleep(Duration::from_millis(pause.into()));
        self.pause
            .store((pause * 2).min(PAUSE_MAX), Ordering::Relaxed);
    }
}
