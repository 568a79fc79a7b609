//! Who is connected. Each connection takes a [`Slot`] before it gets a thread, and gives it back when its descriptor is
//! closed. So there are never more threads or descriptors than [`super::Limits::max_connections`].
//!
//! If no slot is left, the connection that has been without a *complete* request longest is closed. Sending one drop by
//! drop does not protect it.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How long a new connection waits for the slot of the one closed for it. That one's thread only
/// has to end, but on a loaded machine it must get its turn.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);

/// The connections of a server.
pub struct Slots {
    max: usize,
    list: Mutex<List>,
    given_back: Condvar,
}

#[derive(Default)]
struct List {
    /// The slots that were ever taken; those given back are empty.
    all: Vec<Option<Taken>>,
    /// The server is gone: no further request is served.
    closed: bool,
}

struct Taken {
    /// Weak: the descriptor is closed before the slot is given back.
    socket: Weak<TcpStream>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Waits since then for a request, or for the rest of one.
    Waiting(Instant),
    Serving,
    /// The last answer was sent then, and the client may still be sending.
    Lingering(Instant),
    /// Closed for another connection, or because the server is gone.
    Closed,
}

impl Slots {
    /// A server's slots, `max` in number.
    pub fn new(max: usize) -> Arc<Slots> {
        Arc::new(Slots {
            max,
            list: Mutex::default(),
            given_back: Condvar::new(),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken()
    }

    /// A slot for `socket`. If all are taken, the connection that has waited longest is closed;
    /// `None`: all are being served.
    pub fn take(self: &Arc<Slots>, socket: &Arc<TcpStream>, now: Instant) -> Option<Slot> {
        let full = |list: &mut List| list.taken() >= self.max;
        let mut list = self.lock();
        if full(&mut list) {
            if !list.close_longest_waiting() {
                return None;
            }
            let waited = self
                .given_back
                .wait_timeout_while(list, ROOM_PATIENCE, full);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if full(&mut list) || list.closed {
            return None;
        }
        let taken = Some(Taken {
            socket: Arc::downgrade(socket),
            state: State::Waiting(now),
        });
        let at = list.all.iter().position(Option::is_none);
        let at = at.unwrap_or(list.all.len());
        match list.all.get_mut(at) {
            Some(empty) => *empty = taken,
            None => list.all.push(taken),
        }
        Some(Slot {
            slots: self.clone(),
            at,
        })
    }

    /// Ends a lingering connection, else the one that has waited longest; `false`: all are being served.
    pub fn close_longest_waiting(&self) -> bool {
        self.lock().close_longest_waiting()
    }

    /// Ends all connections but those being served; those get no further request.
    pub fn close(&self) {
        let mut list = self.lock();
        list.closed = true;
        let taken = list.all.iter_mut().flatten();
        taken
            .filter(|taken| taken.state != State::Serving)
            .for_each(Taken::close);
    }

    // a panic cannot leave the list half changed: each change is a single call
    fn lock(&self) -> MutexGuard<'_, List> {
        lock(&self.list)
    }
}

impl List {
    /// `false`: the connection was closed.
    fn set(&mut self, at: usize, state: State) -> bool {
        let taken = self.all[at].as_mut();
        let open = taken.filter(|taken| taken.state != State::Closed);
        open.map(|open| open.state = state).is_some()
    }

    fn taken(&self) -> usize {
        self.all.iter().flatten().count()
    }

    fn close_longest_waiting(&mut self) -> bool {
        let unused = self
            .all
            .iter_mut()
            .flatten()
            .filter_map(|taken| match taken.state {
                State::Lingering(since) => Some(((0, since), taken)),
                State::Waiting(since) => Some(((1, since), taken)),
                State::Serving | State::Closed => None,
            });
        let longest = unused.min_by_key(|(order, _)| *order);
        longest.map(|(_, taken)| taken.close()).is_some()
    }
}

impl Taken {
    /// Ends the connection. Its thread sees the end of the stream, and cleans up.
    fn close(&mut self) {
        self.state = State::Closed;
        if let Some(socket) = self.socket.upgrade() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A connection's right to be here.
pub struct Slot {
    slots: Arc<Slots>,
    at: usize,
}

impl Slot {
    /// A request came. `false`: the connection was closed meanwhile.
    pub fn begin(&self) -> bool {
        self.slots.lock().set(self.at, State::Serving)
    }

    /// The request was answered: the connection waits for the next one. `false`: the server is gone.
    pub fn end(&self, now: Instant) -> bool {
        let mut list = self.slots.lock();
        list.set(self.at, State::Waiting(now)) && !list.closed
    }

    /// No further request will come; the client may not know yet.
    pub fn linger(&self, now: Instant) {
        self.slots.lock().set(self.at, State::Lingering(now));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().all[self.at] = None;
        self.slots.given_back.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    /// Both ends of a connection.
    fn pair() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    fn is_closed(client: &mut TcpStream) -> bool {
        client.set_nonblocking(true).unwrap();
        client.read(&mut [0]).is_ok_and(|n| n == 0)
    }

    #[test]
    fn the_connection_that_waits_longest_makes_room_and_none_that_is_served() {
        let t0 = Instant::now();
        let slots = Slots::new(3);
        let mut all: Vec<_> = (0..3).map(|_| pair()).collect();
        let taken: Vec<_> = (0..3)
            .map(|n| {
                slots
                    .take(&all[n].1, t0 + Duration::from_secs(n as u64))
                    .unwrap()
            })
            .collect();
        assert!(taken[0].begin());
        assert!(slots.close_longest_waiting());
        assert!(!taken[1].begin(), "it was closed");
        assert!(taken[2].begin());
        assert!(!slots.close_longest_waiting(), "all are being served");
        assert!(taken[0].end(t0));
        taken[2].linger(t0 + Duration::from_secs(9));
        assert!(slots.close_longest_waiting());
        let closed: Vec<_> = all
            .iter_mut()
            .map(|(client, _)| is_closed(client))
            .collect();
        assert_eq!(closed, [false, true, true]);
    }

    #[test]
    fn a_slot_is_had_when_the_one_closed_for_it_is_given_back() {
        let t0 = Instant::now();
        let slots = Slots::new(1);
        let ((_client, first), (_other, second)) = (pair(), pair());
        let old = slots.take(&first, t0).unwrap();
        let asked = slots.clone();
        // Nothing is had while the one connection is being served.
        let new = thread::spawn(move || {
            loop {
                if let Some(slot) = asked.take(&second, t0) {
                    return slot;
                }
            }
        });
        while old.begin() {
            old.end(t0); // it was not closed yet
            thread::yield_now();
        }
        assert_eq!(slots.taken(), 1);
        drop(old);
        let new = new.join().unwrap();
        assert_eq!(slots.taken(), 1);
        drop(new);
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn when_the_server_is_gone_nobody_gets_another_request() {
        let t0 = Instant::now();
        let slots = Slots::new(9);
        let ((mut idle, one), (mut served, two), (_late, three)) = (pair(), pair(), pair());
        let (waiting, serving) = (slots.take(&one, t0).unwrap(), slots.take(&two, t0).unwrap());
        assert!(serving.begin());
        slots.close();
        assert!(is_closed(&mut idle) && !waiting.begin());
        assert!(!is_closed(&mut served) && !serving.end(t0));
        assert!(slots.take(&three, t0).is_none());
    }
}
