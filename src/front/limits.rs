//! What clients may use of the server: connections, time, bytes of a head.

use std::time::Duration;

/// What a server allows its clients to use.
///
/// The defaults suit a machine with 64 MB of memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of stack of each connection's thread. The standard library reserves 2 MiB; a few
    /// hundred of those use up the address space of a 32-bit machine.
    pub thread_stack: usize,

    /// The most connections. For one more, the one that has waited longest for
    /// a request is closed. If all are being served, the new one gets 503.
    pub max_connections: usize,

    /// How long a head may take, first byte to last. Then the client gets 408.
    pub head_timeout: Duration,
    /// How long a connection may have no request. Then it is closed.
    pub idle_timeout: Duration,
    /// How long a read of a body may wait for a byte. Then it fails with `TimedOut`.
    pub body_timeout: Duration,
    /// How long a write may wait for a client that takes nothing. Then it fails with `TimedOut`.
    pub write_timeout: Duration,

    /// The most bytes of the request line, and of each header field.
    pub max_line: usize,
    /// The most header fields.
    pub max_headers: usize,
    /// The most bytes of request line and header fields together.
    pub max_head: usize,

    /// Makes the answer to a client whose head is refused: from a status and a reason to a content type and a body.
    pub error_body: fn(u16, &str) -> (&'static str, String),
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            thread_stack: 64 * 1024,
            max_connections: 256,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_line: 8 * 1024,
            max_headers: 100,
            max_head: 32 * 1024,
            error_body: |_, reason| ("text/plain; charset=utf-8", format!("{reason}\n")),
        }
    }
}
