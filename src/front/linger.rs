//! Ends connections whose client may still be sending.
//!
//! If a socket is closed while bytes come in, the system answers them with a reset, and that
//! overtakes our answer: a client refused within an upload would see a broken pipe instead of the
//! reason. So we end our side only, and throw away what comes until the client ends, falls silent,
//! or has had its time. This is nginx's `lingering_close`, with its defaults.
//!
//! [`super::idle`] waits for what comes. Such a connection keeps its slot, and is among the first to be closed
//! for another connection.

use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::idle::{Idle, Watch};
use super::slots::Slot;

/// How long a client may go on sending.
const LINGER_TIME: Duration = Duration::from_secs(30);
/// How long it may send nothing.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// How much is read at a time.
const PIECE: usize = 8 * 1024;

struct Lingering {
    socket: Arc<TcpStream>,
    began: Instant,
    last_heard: Instant,
    /// `None` for a connection too many. The last field: it is dropped after the descriptor is closed.
    slot: Option<Arc<Slot>>,
}

/// Ends a connection: our side at once, the client's when it is done.
pub fn end(watch: &Watch, socket: Arc<TcpStream>, slot: Option<Arc<Slot>>, now: Instant) {
    if socket.shutdown(Shutdown::Write).is_err() {
        return; // it has ended already
    }
    watch.add(Box::new(Lingering {
        socket,
        began: now,
        last_heard: now,
        slot,
    }));
}

impl Idle for Lingering {
    fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn until(&self) -> Instant {
        (self.began + LINGER_TIME).min(self.last_heard + LINGER_SILENCE)
    }

    fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// Throws a piece away, if there is one.
    fn go_on(mut self: Box<Self>, heard: bool, now: Instant) -> Option<Box<dyn Idle>> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        if heard {
            match recv(&self.socket, &mut piece[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return None,
                Ok(_) => self.last_heard = now,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        match now < self.until() {
            true => Some(self),
            false => None,
        }
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        // for other handles of the same socket
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        let watch = Watch::new().unwrap();
        let (mut client, socket) = pair();
        (&*socket).write_all(b"no").unwrap();
        end(&watch, socket, None, Instant::now());
        for _ in 0..1000 {
            client.write_all(&[b'x'; 16 * 1024]).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).unwrap();
        assert_eq!(told, "no");
    }

    #[test]
    fn a_client_may_send_for_a_while_and_be_silent_for_less() {
        let (_client, socket) = pair();
        let t0 = Instant::now();
        let after = |seconds| t0 + Duration::from_secs(seconds);
        let goes_on = |last_heard, now| {
            let ending = Box::new(Lingering {
                socket: socket.clone(),
                began: t0,
                last_heard,
                slot: None,
            });
            ending.go_on(false, now).is_some()
        };
        assert!(goes_on(after(25), after(29)));
        assert!(!goes_on(after(29), after(30)));
        assert!(!goes_on(t0, after(5)));
    }
}
