//! The client's socket as seen from the other side: is it still there?
//!
//! A worker waits for three things: a key, the first byte, the next piece. In all of them the
//! client may leave, and then nothing more may be spent on it. [`Client::wait`] therefore watches
//! the upstream socket *and* the client's in one `poll(2)`, so that no watcher thread and no
//! tick is needed. This room reads and writes nothing.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What says that the client closed its end. A half-closed client counts as gone, as in nginx.
const LEFT: PollFlags = PollFlags::RDHUP
    .union(PollFlags::HUP)
    .union(PollFlags::ERR)
    .union(PollFlags::NVAL);

/// The client of one request; cheap to clone.
#[derive(Clone, Default)]
pub struct Client(Option<Arc<dyn AsFd + Send + Sync>>);

/// Why [`Client::wait`] came back.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Wake {
    /// The upstream socket can be read or written (or reports its own error when tried).
    Ready,
    /// The client left; whatever the upstream does no longer matters.
    ClientLeft,
    /// Neither, for as long as was asked.
    TimedOut,
}

/// What to wait for on the upstream socket.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Interest {
    /// Bytes (or the end) to read.
    Read,
    /// Room to write, or a connect that finished.
    Write,
}

impl Client {
    /// The client behind this socket.
    pub fn new(socket: impl AsFd + Send + Sync + 'static) -> Client {
        Client(Some(Arc::new(socket)))
    }

    /// Nobody: for requests that alvus makes of its own accord, such as `alvus check`.
    pub fn nobody() -> Client {
        Client(None)
    }

    /// Whether the client closed its connection.
    pub fn has_left(&self) -> bool {
        let Some(socket) = &self.0 else { return false };
        let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(LEFT)
    }

    /// Waits until `upstream` is ready, this client leaves, or `timeout` has passed (`None`: for ever).
    ///
    /// # Errors
    /// Only what `poll(2)` itself reports, which means a broken descriptor or no memory.
    pub fn wait(
        &self,
        upstream: BorrowedFd<'_>,
        interest: Interest,
        timeout: Option<Duration>,
    ) -> io::Result<Wake> {
        let events = match interest {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        };
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let mut up = PollFd::from_borrowed_fd(upstream, events);
            let woken = match &self.0 {
                None => wait_one(std::slice::from_mut(&mut up), left)?,
                Some(socket) => {
                    let down = PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP);
                    let mut both = [up, down];
                    let woken = wait_one(&mut both, left)?;
                    if both[1].revents().intersects(LEFT) {
                        return Ok(Wake::ClientLeft);
                    }
                    woken
                }
            };
            match woken {
                Some(0) if left.is_some() => return Ok(Wake::TimedOut),
                Some(0) | None => {} // interrupted by a signal: look at the clock and wait on
                Some(_) => return Ok(Wake::Ready),
            }
        }
    }

    /// Ends the connection with a reset, so that what was sent so far cannot pass for a whole answer.
    /// Needed only where nothing else tells the client: an answer whose end is the connection's end.
    pub fn reset(&self) {
        if let Some(socket) = &self.0 {
            // Linux dissolves a connection when it is connected to AF_UNSPEC, and sends RST.
            let _ = rustix::net::connect_unspec(socket.as_fd());
        }
    }
}

/// Whether a write to this socket would not have to wait. A client that leaves its answers lying
/// fills the buffers between us.
pub fn takes_more(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    !matches!(wait_one(&mut fds, Some(Duration::ZERO)), Ok(Some(0)))
}

/// One `poll(2)`; `None` when a signal interrupted it.
fn wait_one(fds: &mut [PollFd<'_>], left: Option<Duration>) -> io::Result<Option<usize>> {
    let left = left.map(|d| Timespec {
        tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    });
    match poll(fds, left.as_ref()) {
        Ok(n) => Ok(Some(n)),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Client"
        } else {
            "Client(nobody)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
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
        let watched = Client::new(ours);
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
        let woken = Client::new(ours).wait(upstream.as_fd(), Interest::Read, LONG);
        assert_eq!(woken.expect("poll"), Wake::Ready);
    }

    #[test]
    fn a_client_that_sends_early_has_not_left() {
        let (mut client, ours) = pair();
        let (upstream, _kept) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n").expect("write");
        let watched = Client::new(ours);
        assert!(!watched.has_left());
        let short = Some(Duration::from_millis(1));
        let woken = watched.wait(upstream.as_fd(), Interest::Read, short);
        assert_eq!(woken.expect("poll"), Wake::TimedOut);
    }

    #[test]
    fn nobody_never_leaves() {
        let (upstream, _kept) = pair();
        assert!(!Client::nobody().has_left());
        let woken = Client::nobody().wait(upstream.as_fd(), Interest::Write, LONG);
        assert_eq!(woken.expect("poll"), Wake::Ready);
    }
}
