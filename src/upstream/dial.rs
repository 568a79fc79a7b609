//! Happy Eyeballs (RFC 8305): connects to that address of a host which answers first.
//!
//! The next address is tried [`HEAD_START`] after the last one, or at once when that one fails. The earlier ones stay
//! in the race: on a slow line they arrive first. There are no threads; one `poll(2)` waits for all of them and for the
//! client. `dns.rs` remembers the winner.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net as sys;

use super::call::{CALL, client_left};
use crate::client::{Client, Interest, Wake};

/// How long to wait for an address before the next one is tried beside it (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// How many addresses are tried at the same time; each takes a descriptor.
const ABREAST: usize = 4;

/// If more are known, the eldest gives way after its share of the time, or after this.
const LONGEST_SHARE: Duration = Duration::from_secs(60);

/// Idle time before the kernel probes a connection, so that NATs keep it and a dead one is found.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// A connect under way.
struct Runner {
    socket: OwnedFd,
    addr: SocketAddr,
    since: Instant,
}

/// Connects to one of these addresses within `limit`; returns which.
pub(super) fn race(addrs: &[SocketAddr], limit: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let client = CALL.with_borrow(|call| call.client.clone());
    let (socket, addr) = run(addrs, limit, &client)?;
    sys::sockopt::set_tcp_nodelay(&socket, true)?;
    sys::sockopt::set_socket_keepalive(&socket, true)?;
    sys::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    Ok((TcpStream::from(socket), addr))
}

fn run(
    addrs: &[SocketAddr],
    limit: Duration,
    client: &Client,
) -> io::Result<(OwnedFd, SocketAddr)> {
    let started = Instant::now();
    let heats = u32::try_from(addrs.len().div_ceil(ABREAST)).unwrap_or(1);
    let mut race = Race {
        waiting: addrs.iter(),
        running: VecDeque::new(),
        failed: io::Error::from(ErrorKind::ConnectionRefused),
        next: started,
        share: (limit / heats.max(1)).min(LONGEST_SHARE),
    };
    loop {
        let now = Instant::now();
        if let Some(won) = race.start_next(now) {
            return Ok(won);
        }
        if race.running.is_empty() {
            return Err(race.failed);
        }
        let mut patience = limit.saturating_sub(now - started);
        if race.waiting.len() > 0 {
            patience = patience.min(race.next.saturating_duration_since(now));
        }
        let sockets = race.running.iter().map(|runner| runner.socket.as_fd());
        match client.wait_any(sockets, Interest::Write, Some(patience))? {
            (Wake::Ready, at) => {
                if let Some(won) = race.arrived(at)? {
                    return Ok(won);
                }
            }
            (Wake::ClientLeft, _) => return Err(client_left()),
            (Wake::TimedOut, _) if started.elapsed() >= limit => {
                let late = io::Error::new(ErrorKind::TimedOut, "no answer in time");
                let first = race.running.front();
                return Err(first.map_or(race.failed, |first| with_address(first.addr, &late)));
            }
            (Wake::TimedOut, _) => {}
        }
    }
}

/// The connects under way, and the addresses that wait.
struct Race<'a> {
    waiting: std::slice::Iter<'a, SocketAddr>,
    running: VecDeque<Runner>,
    /// Why the last one failed.
    failed: io::Error,
    /// When the next one starts.
    next: Instant,
    /// How long the eldest may take while others wait.
    share: Duration,
}

impl Race<'_> {
    /// Starts the next one, if it is time. It may connect at once.
    fn start_next(&mut self, now: Instant) -> Option<(OwnedFd, SocketAddr)> {
        while now >= self.next {
            let &addr = self.waiting.next()?;
            if self.running.len() == ABREAST {
                self.running.pop_front();
            }
            let socket = match start(addr) {
                Ok((socket, true)) => return Some((socket, addr)),
                Ok((socket, false)) => socket,
                Err(e) => {
                    self.failed = with_address(addr, &e);
                    continue;
                }
            };
            self.running.push_back(Runner {
                socket,
                addr,
                since: now,
            });
            self.next = match self.running.front() {
                Some(first) if self.running.len() == ABREAST => first.since + self.share,
                _ => now + HEAD_START,
            };
            break;
        }
        None
    }

    /// This one has connected, or failed: then the next one may start.
    fn arrived(&mut self, at: usize) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        let Some(runner) = self.running.remove(at) else {
            return Ok(None);
        };
        match sys::sockopt::socket_error(&runner.socket)? {
            Ok(()) => return Ok(Some((runner.socket, runner.addr))),
            Err(e) => self.failed = with_address(runner.addr, &e.into()),
        }
        self.next = Instant::now();
        Ok(None)
    }
}

/// Begins to connect without blocking. `true`: it has connected already.
fn start(addr: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let family = match addr {
        SocketAddr::V4(_) => sys::AddressFamily::INET,
        SocketAddr::V6(_) => sys::AddressFamily::INET6,
    };
    let flags = sys::SocketFlags::NONBLOCK | sys::SocketFlags::CLOEXEC;
    let socket = sys::socket_with(family, sys::SocketType::STREAM, flags, None)?;
    match sys::connect(&socket, &addr) {
        Ok(()) => Ok((socket, true)),
        Err(rustix::io::Errno::INPROGRESS) => Ok((socket, false)),
        Err(e) => Err(e.into()),
    }
}

fn with_address(addr: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{addr}: {error}"))
}

/// The addresses with the two families in turns (RFC 8305 §4): sixteen dead ones of one family must not come before the
/// first of the other.
pub(super) fn in_turns(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (ones, others): (Vec<_>, Vec<_>) = addrs
        .iter()
        .copied()
        .partition(|addr| addr.is_ipv6() == first);
    let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
    let mut all = Vec::with_capacity(addrs.len());
    while all.len() < addrs.len() {
        all.extend(ones.next());
        all.extend(others.next());
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_families_take_turns_in_the_order_of_the_resolver() {
        let parse = |list: &str| -> Vec<SocketAddr> {
            list.split(' ').map(|a| a.parse().unwrap()).collect()
        };
        for (found, tried) in [
            ("[::1]:1 [::2]:1 1.1.1.1:1", "[::1]:1 1.1.1.1:1 [::2]:1"),
            ("1.1.1.1:1 2.2.2.2:1 [::1]:1", "1.1.1.1:1 [::1]:1 2.2.2.2:1"),
            ("1.1.1.1:1", "1.1.1.1:1"),
        ] {
            assert_eq!(in_turns(&parse(found)), parse(tried), "{found}");
        }
        assert_eq!(in_turns(&[]), []);
    }

    #[test]
    fn an_address_that_refuses_costs_no_time_wherever_it_stands() {
        let living = TcpListener::bind("127.0.0.1:0").unwrap();
        let living = living.local_addr().unwrap();
        let dead = |n: u8| SocketAddr::from(([127, 77, 3, n], 9));
        let list: Vec<SocketAddr> = (1..12)
            .map(dead)
            .chain([living])
            .chain([dead(13)])
            .collect();
        let (stream, won) = race(&list, Duration::from_secs(60)).unwrap();
        assert_eq!((won, stream.peer_addr().unwrap()), (living, living));
        let error = race(&list[..3], Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("127.77.3.3:9: "), "{error}");
    }
}
