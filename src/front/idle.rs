//! Watches the connections that need no thread for now: those that wait for their next request (`connection.rs`), and
//! those that are about to end (`linger.rs`). It knows them only as [`Idle`].
//!
//! One thread polls them all, while there are any. A thread each would keep its stack in memory.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;
use std::{io, iter, mem};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::lock::lock;

/// The most connections without a slot. For one more the oldest is closed.
const MAX_REFUSED: usize = 8;
/// The thread's stack, in bytes.
const STACK: usize = 64 * 1024;

/// A connection that is watched. It ends when it is dropped.
pub trait Idle: Send {
    /// The socket to watch.
    fn socket(&self) -> &TcpStream;
    /// How long nothing may come.
    fn until(&self) -> Instant;
    /// Whether it counts among [`super::Limits::max_connections`].
    fn has_slot(&self) -> bool;
    /// Something came, or the time is over. Returns what is to be watched further.
    fn go_on(self: Box<Self>, heard: bool, now: Instant) -> Option<Box<dyn Idle>>;
}

/// All connections that are watched.
#[derive(Clone)]
pub struct Watch {
    new: Arc<Mutex<Newcomers>>,
    /// Wakes the thread for a new connection.
    bell: Arc<OwnedFd>,
}

#[derive(Default)]
struct Newcomers {
    list: Vec<Box<dyn Idle>>,
    /// The thread runs.
    running: bool,
}

impl Watch {
    /// Watches none so far.
    ///
    /// # Errors
    /// When no descriptor is left for the bell.
    pub fn new() -> io::Result<Watch> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Watch {
            new: Arc::default(),
            bell: Arc::new(eventfd(0, flags)?),
        })
    }

    /// Watches one more.
    pub fn add(&self, idle: Box<dyn Idle>) {
        let mut new = self.lock();
        new.list.push(idle);
        let gone = one_too_many(&mut new.list);
        if new.running {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        } else {
            let all = self.clone();
            let thread = thread::Builder::new().stack_size(STACK);
            new.running = thread.spawn(move || all.run()).is_ok();
        }
        let lost = match new.running {
            true => Vec::new(),
            false => mem::take(&mut new.list),
        };
        drop(new); // a connection that ends may come back to linger
        drop((gone, lost));
    }

    fn lock(&self) -> MutexGuard<'_, Newcomers> {
        lock(&self.new)
    }

    fn run(&self) {
        let mut all: Vec<Box<dyn Idle>> = Vec::new();
        loop {
            {
                let mut new = self.lock();
                all.append(&mut new.list);
                new.running = !all.is_empty();
                if !new.running {
                    return;
                }
            }
            while one_too_many(&mut all).is_some() {}
            let heard = self.wait(&all);
            let now = Instant::now();
            let came = all.into_iter().zip(heard);
            let goes_on = |(idle, heard): (Box<dyn Idle>, bool)| match heard || idle.until() <= now
            {
                true => idle.go_on(heard, now),
                false => Some(idle),
            };
            all = came.filter_map(goes_on).collect();
        }
    }

    /// Waits until something comes, or the first one's time is over. Returns which were heard.
    fn wait(&self, all: &[Box<dyn Idle>]) -> Vec<bool> {
        let bell = PollFd::new(&self.bell, PollFlags::IN);
        let sockets = all
            .iter()
            .map(|idle| PollFd::new(idle.socket(), PollFlags::IN));
        let mut fds: Vec<_> = iter::once(bell).chain(sockets).collect();
        let first = all.iter().map(|idle| idle.until()).min();
        let left = first.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let _ = poll(&mut fds, left.as_ref()); // after a signal: look again
        let _ = rustix::io::read(&self.bell, &mut [0; 8]); // it may ring again
        let sockets = fds.iter().skip(1);
        sockets.map(|fd| !fd.revents().is_empty()).collect()
    }
}

/// Takes out the oldest of those without a slot, if there are too many.
fn one_too_many(list: &mut Vec<Box<dyn Idle>>) -> Option<Box<dyn Idle>> {
    let all = list.iter().enumerate();
    let mut refused = all.filter(|(_, idle)| !idle.has_slot());
    let (oldest, _) = refused.next()?;
    (refused.count() >= MAX_REFUSED).then(|| list.remove(oldest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    struct Told {
        socket: TcpStream,
        until: Instant,
        has_slot: bool,
        by: Sender<bool>,
    }

    impl Idle for Told {
        fn socket(&self) -> &TcpStream {
            &self.socket
        }
        fn until(&self) -> Instant {
            self.until
        }
        fn has_slot(&self) -> bool {
            self.has_slot
        }
        fn go_on(self: Box<Self>, heard: bool, _: Instant) -> Option<Box<dyn Idle>> {
            self.by.send(heard).unwrap();
            None
        }
    }

    fn told(by: &Sender<bool>, has_slot: bool, patience: Duration) -> (TcpStream, Box<Told>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let told = Told {
            socket: listener.accept().unwrap().0,
            until: Instant::now() + patience,
            has_slot,
            by: by.clone(),
        };
        (client, Box::new(told))
    }

    #[test]
    fn each_is_told_what_came_or_that_nothing_did_and_then_there_is_no_thread() {
        let watch = Watch::new().unwrap();
        let (by, said) = channel();
        let (mut client, talks) = told(&by, true, Duration::MAX / 4);
        let (_silent, silent) = told(&by, true, Duration::from_millis(10));
        watch.add(talks);
        watch.add(silent); // the bell: the thread waits for the first alone
        assert!(!said.recv().unwrap());
        client.write_all(b"x").unwrap();
        assert!(said.recv().unwrap());
        while watch.lock().running {
            thread::yield_now(); // its thread goes
        }
    }

    #[test]
    fn of_those_without_a_slot_the_last_few_stay() {
        let watch = Watch::new().unwrap();
        watch.lock().running = true; // nobody looks
        let (by, _said) = channel();
        let (_kept, kept) = told(&by, true, Duration::ZERO);
        watch.add(kept);
        for _ in 0..MAX_REFUSED + 5 {
            let (_client, refused) = told(&by, false, Duration::ZERO);
            watch.add(refused);
        }
        let mut list = std::mem::take(&mut watch.lock().list).into_iter();
        assert!(list.next().is_some_and(|first| first.has_slot()));
        assert_eq!(list.count(), MAX_REFUSED);
    }
}
