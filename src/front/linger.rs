//! Ends connections whose client may still be sending.
//!
//! If a socket is closed while bytes come in, the system answers them with a reset, and that
//! overtakes our answer: a client refused within an upload would see a broken pipe instead of the
//! reason. So we end our side only, and throw away what comes until the client ends, falls silent,
//! or has had its time. This is nginx's `lingering_close`, with its defaults.
//!
//! One thread does this for all such connections, while there are any. Each keeps its slot, and is
//! among the first to be closed for another connection.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::slots::Slot;

/// How long a client may go on sending.
const LINGER_TIME: Duration = Duration::from_secs(30);
/// How long it may send nothing.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// The most connections without a slot. For one more the oldest is closed.
const MAX_REFUSED: usize = 8;
/// How soon a new connection is looked at.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How much is read at a time.
const PIECE: usize = 8 * 1024;
/// The thread's stack, in bytes.
const STACK: usize = 64 * 1024;

/// The connections that are about to end.
#[derive(Clone, Default)]
pub struct Lingering(Arc<Mutex<Newcomers>>);

#[derive(Default)]
struct Newcomers {
    list: Vec<Ending>,
    /// The thread runs.
    running: bool,
}

struct Ending {
    socket: Arc<TcpStream>,
    began: Instant,
    last_heard: Instant,
    /// `None` for a connection too many. The last field: it is dropped after the descriptor is closed.
    slot: Option<Arc<Slot>>,
}

impl Lingering {
    /// Ends a connection: our side at once, the client's when it is done.
    pub fn end(&self, socket: Arc<TcpStream>, slot: Option<Arc<Slot>>, now: Instant) {
        if socket.shutdown(Shutdown::Write).is_err() {
            return; // it has ended already
        }
        let mut new = self.lock();
        new.list.push(Ending {
            socket,
            began: now,
            last_heard: now,
            slot,
        });
        drop_the_oldest_refused(&mut new.list);
        if !new.running {
            let all = self.clone();
            let thread = thread::Builder::new().stack_size(STACK);
            new.running = thread.spawn(move || all.run()).is_ok();
            if !new.running {
                new.list.clear();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Newcomers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut all: Vec<Ending> = Vec::new();
        let mut piece = [0; PIECE];
        loop {
            {
                let mut new = self.lock();
                all.append(&mut new.list);
                new.running = !all.is_empty();
                if !new.running {
                    return;
                }
            }
            drop_the_oldest_refused(&mut all);
            let mut fds: Vec<_> = all
                .iter()
                .map(|ending| PollFd::new(&ending.socket, PollFlags::IN))
                .collect();
            let _ = poll(&mut fds, Some(&TICK)); // after a signal: look again
            let heard: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let now = Instant::now();
            let mut heard = heard.into_iter();
            all.retain_mut(|ending| ending.goes_on(heard.next() == Some(true), &mut piece, now));
        }
    }
}

fn drop_the_oldest_refused(list: &mut Vec<Ending>) {
    let mut too_many = list.iter().filter(|ending| ending.slot.is_none()).count();
    list.retain(|ending| {
        let goes = ending.slot.is_none() && too_many > MAX_REFUSED;
        too_many -= usize::from(goes);
        !goes
    });
}

impl Ending {
    /// Throws a piece away, if there is one. `false`: the client is done.
    fn goes_on(&mut self, heard: bool, piece: &mut [u8], now: Instant) -> bool {
        if heard {
            match recv(&self.socket, piece, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok(_) => self.last_heard = now,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        now - self.began < LINGER_TIME && now - self.last_heard < LINGER_SILENCE
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // for other handles of the same socket
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::slots::Slots;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn pair() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    #[test]
    fn a_client_sends_all_it_has_and_then_reads_what_it_was_told() {
        let lingering = Lingering::default();
        let (mut client, socket) = pair();
        (&*socket).write_all(b"no").unwrap();
        lingering.end(socket, None, Instant::now());
        for _ in 0..1000 {
            client.write_all(&[b'x'; 16 * 1024]).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).unwrap();
        assert_eq!(told, "no");
        while lingering.lock().running {
            thread::yield_now(); // its thread goes
        }
    }

    #[test]
    fn a_client_may_send_for_a_while_and_be_silent_for_less() {
        let (_client, socket) = pair();
        let t0 = Instant::now();
        let ending = |last_heard| Ending {
            socket: socket.clone(),
            began: t0,
            last_heard,
            slot: None,
        };
        let after = |seconds| t0 + Duration::from_secs(seconds);
        assert!(ending(after(25)).goes_on(false, &mut [], after(29)));
        assert!(!ending(after(29)).goes_on(false, &mut [], after(30)));
        assert!(!ending(t0).goes_on(false, &mut [], after(5)));
    }

    #[test]
    fn the_last_few_connections_too_many_linger() {
        let lingering = Lingering::default();
        lingering.lock().running = true; // nobody looks
        let slots = Slots::new(1);
        let (_kept, socket) = pair();
        let slot = slots.take(&socket, Instant::now()).map(Arc::new);
        lingering.end(socket, slot, Instant::now());
        let _clients: Vec<_> = (0..MAX_REFUSED + 5)
            .map(|_| {
                let (client, socket) = pair();
                lingering.end(socket, None, Instant::now());
                client
            })
            .collect();
        assert_eq!(lingering.lock().list.len(), MAX_REFUSED + 1);
        assert!(lingering.lock().list[0].slot.is_some());
        lingering.lock().list.clear();
        assert_eq!(slots.taken(), 0);
    }
}
