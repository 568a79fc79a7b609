//! One connection, from first byte to last: a head, its request, the rest of its body, the next head. It has a thread
//! while it is busy and for [`MOMENT`] longer; then [`super::idle`] waits for its next request.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::IncomingBody;
use super::head::{Head, HeadError};
use super::idle::Idle;
use super::reader::TimedReader;
use super::request::Request;
use super::slots::Slot;
use super::{Shared, linger, refusal};

/// The most bytes of an unread body that are thrown away so that the next request can follow. If more is to come, a new
/// connection is cheaper for both sides.
const MAX_DISCARDED: usize = 256 * 1024;

/// How long a connection keeps its thread while no request comes. A thread costs some 30 kB; an agent asks again at
/// once, or after seconds.
const MOMENT: Duration = Duration::from_secs(1);

/// A client's connection.
pub struct Connection {
    shared: Arc<Shared>,
    line: Buffers,
    client: SocketAddr,
    /// The last field: it is dropped, and so given back, after the descriptor is closed.
    slot: Arc<Slot>,
}

/// What requests and answers of a connection use, one after the other.
pub struct Buffers {
    pub socket: Arc<TcpStream>,
    pub body: IncomingBody<TimedReader>,
    pub end: RequestEnd,
}

/// How the last request ended, and so how the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestEnd {
    /// Another request may follow.
    Open,
    /// A request came and is not answered yet.
    Unanswered,
    /// The last answer was sent.
    Last,
    /// The last answer was sent, and what still comes is not trusted.
    Refused,
    /// It was broken off.
    Broken,
}

impl Connection {
    /// A connection that was accepted just now.
    pub fn new(
        shared: Arc<Shared>,
        socket: Arc<TcpStream>,
        client: SocketAddr,
        slot: Slot,
    ) -> Connection {
        Connection {
            shared,
            line: Buffers {
                body: IncomingBody::new(TimedReader::new(socket.clone())),
                socket,
                end: RequestEnd::Open,
            },
            client,
            slot: Arc::new(slot),
        }
    }

    /// Serves the requests that come on it, on a thread of the pool.
    pub fn start(self) {
        let shared = self.shared.clone();
        let mut connection = Some(self);
        shared.threads.spawn(Box::new(move || {
            if let Some(connection) = connection.take() {
                // A bug costs one connection, not the thread. The panic's own message is on stderr.
                let _ = catch_unwind(AssertUnwindSafe(|| connection.run()));
            }
        }));
    }

    fn run(mut self) {
        let shared = self.shared.clone();
        while self.line.end == RequestEnd::Open {
            let head = match self.next_head() {
                Ok(Some(head)) => head,
                Ok(None) => return self.watch(),
                Err(HeadError::Io(_)) => return,
                // it is not known where the next request would start
                Err(HeadError::Refused(status, reason)) => return self.refuse(status, reason),
            };
            if !self.slot.begin() {
                return;
            }
            self.line
                .body
                .source()
                .wait_each(shared.limits.body_timeout);
            self.line.body.begin(head.framing());
            self.line.end = RequestEnd::Unanswered;
            (shared.handler)(Request::new(head, &mut self.line, self.client));
            if !self.slot.end(Instant::now()) {
                return;
            }
        }
    }

    /// `None`: nothing came for a moment.
    fn next_head(&mut self) -> Result<Option<Head>, HeadError> {
        let limits = &self.shared.limits;
        // first the rest of the last request's body
        self.line.body.source().wait_total(limits.body_timeout);
        if !self.line.body.discard(MAX_DISCARDED) {
            return Err(HeadError::Io(ErrorKind::InvalidData.into()));
        }
        let reader = self.line.body.source();
        reader.wait_each(MOMENT.min(limits.idle_timeout));
        match reader.wait() {
            Err(e) if e.kind() == ErrorKind::TimedOut => return Ok(None),
            other => other?,
        }
        reader.wait_total(limits.head_timeout);
        match Head::read(reader, limits) {
            Err(HeadError::Io(e)) if e.kind() == ErrorKind::TimedOut => {
                Err(HeadError::Refused(408, "the head took too long to arrive"))
            }
            other => other.map(Some),
        }
    }

    /// Waits for the next request without a thread.
    fn watch(self) {
        let left = self.shared.limits.idle_timeout.saturating_sub(MOMENT);
        let (until, watch) = (Instant::now() + left, self.shared.watch.clone());
        watch.add(Box::new(Waiting {
            until,
            connection: self,
        }));
    }

    fn refuse(&mut self, status: u16, reason: &str) {
        let mut out = &*self.line.socket;
        let told = refusal::write(&mut out, &self.shared.limits, status, reason);
        self.line.end = told.map_or(RequestEnd::Broken, |()| RequestEnd::Refused);
    }

    /// Whether the client may still send what nobody will read.
    fn is_unread(&mut self) -> bool {
        let Buffers { body, end, .. } = &mut self.line;
        *end == RequestEnd::Refused || !body.is_done() || !body.source().buffered().is_empty()
    }
}

impl Drop for Connection {
    /// Closes the connection. Before, not even the reading side is shut down: to a thread that
    /// watches the socket it would look as if the client had left.
    fn drop(&mut self) {
        if self.line.end == RequestEnd::Unanswered {
            let _ = (&*self.line.socket).write_all(refusal::UNANSWERED);
        }
        if self.line.end != RequestEnd::Broken && self.is_unread() {
            let (socket, slot, now) = (self.line.socket.clone(), self.slot.clone(), Instant::now());
            slot.linger(now);
            linger::end(&self.shared.watch, socket, Some(slot), now);
        } else {
            let _ = self.line.socket.shutdown(Shutdown::Both);
        }
    }
}

/// A connection without a thread.
struct Waiting {
    until: Instant,
    connection: Connection,
}

impl Idle for Waiting {
    fn socket(&self) -> &TcpStream {
        &self.connection.line.socket
    }

    fn until(&self) -> Instant {
        self.until
    }

    fn has_slot(&self) -> bool {
        true
    }

    fn go_on(self: Box<Self>, heard: bool, _: Instant) -> Option<Box<dyn Idle>> {
        // If hundreds hang up at once, none needs a thread for it.
        if heard && self.socket().peek(&mut [0]).is_ok_and(|n| n > 0) {
            self.connection.start();
        }
        None
    }
}
