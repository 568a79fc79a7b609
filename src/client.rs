//! The client's socket while alvus waits for the upstream: watches whether the client leaves, and sends heartbeats.
//!
//! A request waits for three things: a key, the first byte, the next piece. If its client leaves
//! meanwhile, nothing more may be spent on it. So [`Client::wait`] watches the upstream's socket
//! *and* the client's in one `poll(2)`, without a watcher thread or a tick.
//!
//! A client that waits for a stream can get *heartbeats*: comments, which every reader of
//! server-sent events skips. Nothing else is written here.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};

use crate::lock::lock;

/// The events that mean that the client closed its end. A half-closed client counts as gone, as in nginx.
const LEFT: PollFlags = PollFlags::RDHUP
    .union(PollFlags::HUP)
    .union(PollFlags::ERR)
    .union(PollFlags::NVAL);

/// The client of one request; cheap to clone.
#[derive(Clone, Default)]
pub struct Client {
    socket: Option<Arc<dyn AsFd + Send + Sync>>,
    heart: Option<Arc<Heart>>,
    /// The client's deadline: from then on it counts as gone.
    due: Option<Instant>,
}

/// The heartbeats of a client.
struct Heart {
    every: Duration,
    /// The head of the answer, sent before the first heartbeat.
    head: Vec<u8>,
    beat: Vec<u8>,
    /// When the next heartbeat is due; `None`: no more.
    next: Mutex<Option<Instant>>,
    begun: AtomicBool,
    /// A heartbeat was sent in part only: the stream cannot go on.
    lost: AtomicBool,
}

/// Why [`Client::wait`] came back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Wake {
    /// The upstream socket can be read or written (or reports its own error when tried).
    Ready,
    /// The client left. The upstream no longer matters.
    ClientLeft,
    /// Neither happened in time.
    TimedOut,
}

/// What to wait for on the other descriptor.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Interest {
    /// Bytes (or the end) to read.
    Read,
    /// Room to write, or a connect that finished.
    Write,
}

impl Interest {
    fn events(self) -> PollFlags {
        match self {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        }
    }
}

impl Client {
    /// The client behind this socket.
    pub fn new(socket: Arc<impl AsFd + Send + Sync + 'static>) -> Client {
        Client {
            socket: Some(socket),
            heart: None,
            due: None,
        }
    }

    /// No client: for alvus' own requests, such as those of `alvus check`.
    pub fn nobody() -> Client {
        Client::default()
    }

    /// The same client, with heartbeats: it gets `beat` each time it has waited for `every`, and
    /// `head` before the first one.
    pub fn kept_patient(&self, every: Duration, head: Vec<u8>, beat: Vec<u8>) -> Client {
        let heart = Heart {
            every,
            head,
            beat,
            next: Mutex::new(Instant::now().checked_add(every)),
            begun: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        };
        Client {
            heart: Some(Arc::new(heart)),
            ..self.clone()
        }
    }

    /// The same client with a deadline: from then on it counts as gone.
    pub fn due(&self, at: Instant) -> Client {
        Client {
            due: Some(at),
            ..self.clone()
        }
    }

    /// Whether its deadline has passed.
    pub fn is_late(&self) -> bool {
        self.due.is_some_and(|due| Instant::now() >= due)
    }

    /// The answer comes: no more heartbeats. Returns whether there was one, and so a head.
    pub fn stop_beats(&self) -> bool {
        let Some(heart) = &self.heart else {
            return false;
        };
        *lock(&heart.next) = None;
        heart.begun.load(Ordering::Relaxed)
    }

    /// Whether a heartbeat was sent.
    pub fn has_beats(&self) -> bool {
        let heart = self.heart.as_ref();
        heart.is_some_and(|heart| heart.begun.load(Ordering::Relaxed))
    }

    /// Sends a heartbeat if one is due. Returns when the next one is.
    pub fn beat(&self) -> Option<Instant> {
        let (Some(heart), Some(socket)) = (&self.heart, &self.socket) else {
            return None;
        };
        let mut next = lock(&heart.next);
        let due = (*next)?;
        let now = Instant::now();
        if due > now {
            return *next;
        }
        *next = now.checked_add(heart.every);
        let mut bytes = Vec::new();
        if !heart.begun.swap(true, Ordering::Relaxed) {
            bytes.extend_from_slice(&heart.head);
        }
        bytes.extend_from_slice(&heart.beat);
        match send(
            socket.as_fd(),
            &bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(n) if n == bytes.len() => {}
            // The buffer of a client that reads nothing is full of heartbeats: skip one.
            Err(rustix::io::Errno::AGAIN) if bytes.len() == heart.beat.len() => {}
            _ => heart.lost.store(true, Ordering::Relaxed),
        }
        *next
    }

    /// Whether the client closed its connection, or its deadline has passed.
    pub fn has_left(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        if self.is_lost() || self.is_late() {
            return true;
        }
        let mut fds = [down(socket)];
        wait_one(&mut fds, Some(Duration::ZERO)).is_ok() && fds[0].revents().intersects(LEFT)
    }

    fn is_lost(&self) -> bool {
        self.heart
            .as_ref()
            .is_some_and(|heart| heart.lost.load(Ordering::Relaxed))
    }

    /// Waits until `upstream` (a socket, or the bell of a request that waits for a key) is ready, this
    /// client leaves, or `timeout` has passed (`None`: for ever).
    ///
    /// # Errors
    /// Only what `poll(2)` itself reports, which means a broken descriptor or no memory.
    pub fn wait(
        &self,
        upstream: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> io::Result<Wake> {
        let up = PollFd::from_borrowed_fd(upstream, interest.events());
        match &self.socket {
            None => self.wait_on(&mut [up], timeout),
            Some(socket) => self.wait_on(&mut [up, down(socket)], timeout),
        }
    }

    /// The same for several sockets. With [`Wake::Ready`] comes the index of the first ready one.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn wait_any<'a>(
        &self,
        upstream: impl Iterator<Item = BorrowedFd<'a>>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> io::Result<(Wake, usize)> {
        let mut fds: Vec<_> = upstream
            .map(|fd| PollFd::from_borrowed_fd(fd, interest.events()))
            .collect();
        fds.extend(self.socket.iter().map(down));
        let woken = self.wait_on(&mut fds, timeout)?;
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        Ok((woken, ready.unwrap_or(0)))
    }

    /// Waits on these. The client's own socket, if there is one, is the last.
    fn wait_on(&self, fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<Wake> {
        let mut end = None;
        loop {
            let alarm = self.beat().into_iter().chain(self.due).min();
            if self.is_lost() {
                return Ok(Wake::ClientLeft);
            }
            let left = match alarm {
                // `poll` keeps the time, and no clock is asked. A signal begins the wait anew.
                None => timeout,
                Some(alarm) => {
                    let now = Instant::now();
                    if self.due.is_some_and(|due| now >= due) {
                        return Ok(Wake::ClientLeft);
                    }
                    end = end.or_else(|| now.checked_add(timeout?));
                    let until = end.map_or(alarm, |end| end.min(alarm));
                    Some(until.saturating_duration_since(now))
                }
            };
            let woken = wait_one(fds, left)?;
            let down = fds.last().filter(|_| self.socket.is_some());
            if woken.is_some() && down.is_some_and(|fd| fd.revents().intersects(LEFT)) {
                return Ok(Wake::ClientLeft);
            }
            match woken {
                Some(1..) => return Ok(Wake::Ready),
                Some(0) if alarm.is_none() || end.is_some_and(|end| Instant::now() >= end) => {
                    return Ok(Wake::TimedOut);
                }
                _ => {} // a beat is due, or a signal came: wait on
            }
        }
    }

    /// Ends the connection with a reset, so that a part cannot pass for the whole answer. Needed only if the answer
    /// ends with the connection.
    pub fn reset(&self) {
        if let Some(socket) = &self.socket {
            // On Linux a connect to AF_UNSPEC ends a connection with RST.
            let _ = rustix::net::connect_unspec(socket.as_fd());
        }
    }
}

/// The events to watch on the client's socket.
fn down(socket: &Arc<dyn AsFd + Send + Sync>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)
}

/// Whether a write to this socket is possible within `patience`. A client that does not read its
/// answers fills the buffers between us.
pub fn takes_more(socket: impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    !matches!(wait_one(&mut fds, Some(patience)), Ok(Some(0)))
}

/// One `poll(2)`; `None` when a signal interrupted it.
fn wait_one(fds: &mut [PollFd<'_>], left: Option<Duration>) -> io::Result<Option<usize>> {
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, left.as_ref()) {
        Ok(n) => Ok(Some(n)),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.socket.is_some() {
            "Client"
        } else {
            "Client(nobody)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        (near, listener.accept().expect("accept").0)
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn a_client_that_closes_wakes_a_worker_that_waits_for_the_upstream() {
        let (client, ours) = pair();
        let (upstream, _kept) = pair();
        let watched = Client::new(Arc::new(ours));
        assert!(!watched.has_left());
        drop(client);
        let woken = watched.wait(upstream.as_fd(), Interest::Read, LONG);
        assert_eq!(woken.expect("poll"), Wake::ClientLeft);
        assert!(watched.has_left());
    }

    #[test]
    fn bytes_from_the_upstream_wake_it_while_the_client_stays() {
        let (_client, ours) = pair();
        let (upstream, mut far) = pair();
        far.write_all(b"x").expect("write");
        let woken = Client::new(Arc::new(ours)).wait(upstream.as_fd(), Interest::Read, LONG);
        assert_eq!(woken.expect("poll"), Wake::Ready);
    }

    #[test]
    fn the_ready_one_of_several_sockets_is_named() {
        let (_client, ours) = pair();
        let (first, _kept) = pair();
        let (second, mut far) = pair();
        far.write_all(b"x").expect("write");
        for watched in [Client::new(Arc::new(ours)), Client::nobody()] {
            let both = [first.as_fd(), second.as_fd()].into_iter();
            let woken = watched.wait_any(both, Interest::Read, LONG);
            assert_eq!(woken.expect("poll"), (Wake::Ready, 1));
        }
    }

    #[test]
    fn a_client_that_sends_early_has_not_left() {
        let (mut client, ours) = pair();
        let (upstream, _kept) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n").expect("write");
        let watched = Client::new(Arc::new(ours));
        assert!(!watched.has_left());
        let short = Some(Duration::from_millis(1));
        let woken = watched.wait(upstream.as_fd(), Interest::Read, short);
        assert_eq!(woken.expect("poll"), Wake::TimedOut);
    }

    #[test]
    fn a_patient_client_gets_a_head_once_and_then_beats_until_the_answer_comes() {
        let (mut client, ours) = pair();
        let (upstream, _kept) = pair();
        client.set_nonblocking(true).expect("non-blocking");
        let soon = Duration::from_millis(1);
        let watched =
            Client::new(Arc::new(ours)).kept_patient(soon, b"HEAD ".to_vec(), b":\n\n".to_vec());
        let mut heard = String::new();
        while heard.len() < 11 {
            let woken = watched.wait(upstream.as_fd(), Interest::Read, Some(soon));
            assert_eq!(woken.expect("poll"), Wake::TimedOut, "a beat is no answer");
            let mut piece = [0; 64];
            let n = client.read(&mut piece).unwrap_or(0);
            heard += std::str::from_utf8(&piece[..n]).expect("text");
        }
        assert!(heard.starts_with("HEAD :\n\n:\n\n"), "{heard:?}");
        assert!(watched.stop_beats(), "it has a head");
        assert_eq!(watched.beat(), None);
    }

    #[test]
    fn a_client_that_need_not_wait_gets_no_beat() {
        let (_client, ours) = pair();
        let long = Duration::from_secs(3600);
        let watched =
            Client::new(Arc::new(ours)).kept_patient(long, b"HEAD".to_vec(), b":".to_vec());
        assert!(watched.beat().is_some_and(|at| at > Instant::now()));
        assert!(!watched.stop_beats());
    }

    #[test]
    fn a_client_that_is_nobody_never_leaves() {
        let (upstream, _kept) = pair();
        assert!(!Client::nobody().has_left());
        let woken = Client::nobody().wait(upstream.as_fd(), Interest::Write, LONG);
        assert_eq!(woken.expect("poll"), Wake::Ready);
    }
}
