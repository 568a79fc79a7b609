//! Signals as messages: the main thread asks for the next one and acts on it.
//!
//! A handler sets a flag and writes one byte into a socket pair, so that a wait for a signal is a read with a time
//! limit. SIGPIPE stays ignored, as Rust does by default: a client that leaves is an error of one write.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

/// What the operator orders.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Order {
    /// SIGTERM or SIGINT, by its number: finish and end; the second time, end at once.
    Stop(u8),
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals since this was made. Equal ones that were not fetched yet count as one.
#[derive(Debug)]
pub struct Orders {
    bell: UnixStream,
    /// The number of the signal that asks for it, or 0.
    stop: Arc<AtomicUsize>,
    reload: Arc<AtomicBool>,
}

impl Orders {
    /// Takes over SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// When the handlers cannot be installed (no descriptors left).
    pub fn listen() -> io::Result<Orders> {
        let (bell, rope) = UnixStream::pair()?;
        let orders = Orders {
            bell,
            stop: Arc::default(),
            reload: Arc::default(),
        };
        // Handlers run in this order, so that the flag is set before the byte arrives.
        for signal in [SIGTERM, SIGINT] {
            flag::register_usize(signal, orders.stop.clone(), signal as usize)?;
            pipe::register(signal, rope.try_clone()?)?;
        }
        flag::register(SIGHUP, orders.reload.clone())?;
        pipe::register(SIGHUP, rope)?;
        Ok(orders)
    }

    /// Waits for the next order, at most for `patience` (`None`: for as long as it takes).
    pub fn next(&mut self, patience: Option<Duration>) -> Option<Order> {
        loop {
            match self.stop.swap(0, Ordering::SeqCst) {
                0 => {}
                signal => return Some(Order::Stop(signal as u8)), // 2 or 15
            }
            if self.reload.swap(false, Ordering::SeqCst) {
                return Some(Order::Reload);
            }
            self.bell.set_read_timeout(patience).ok()?;
            match self.bell.read(&mut [0; 16]) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return None,
                _ => {} // perhaps for a flag that was seen already
            }
        }
    }
}
