//! Signals as messages: the main thread asks for the next one and acts on it.
//!
//! SIGPIPE stays ignored (Rust's own default): a client that leaves is an error of one write.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What the operator wants.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Order {
    /// SIGTERM or SIGINT: finish and go; the second time, go.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals meant for us, queued from the moment this exists.
#[derive(Debug)]
pub struct Orders(Signals);

impl Orders {
    /// Takes over SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    /// When the handlers cannot be installed (no descriptors left).
    pub fn listen() -> io::Result<Orders> {
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Orders)
    }

    /// A handle that ends [`Orders::next`] from another thread.
    pub fn handle(&self) -> signal_hook::iterator::Handle {
        self.0.handle()
    }

    /// Waits for the next order; `None` once the handle was closed.
    #[allow(clippy::should_implement_trait)] // an iterator would invite adaptors; this blocks
    pub fn next(&mut self) -> Option<Order> {
        self.0.forever().next().map(|signal| match signal {
            SIGHUP => Order::Reload,
            _ => Order::Stop,
        })
    }
}
