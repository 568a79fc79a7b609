//! What a client may use of the server: connections, time, bytes of a head.

use std::time::Duration;

/// What a server allows its clients to use.
///
/// The defaults suit a machine with 64 MB of memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of stack of each thread that serves a connection. The standard library's 2 MiB are
    /// only reserved, but on a 32-bit machine a few hundred of them use the address space up.
    pub thread_stack: usize,

    /// Connections at a time, and threads that serve them. One more, and the one that has waited
    /// longest for a request is closed; if all are being served, the new one gets 503.
    pub max_connections: usize,

    /// From the first byte of a head to its last: a client gets 408 then.
    pub head_timeout: Duration,
    /// Without a request, after which a connection is closed.
    pub idle_timeout: Duration,
    /// Without a byte of a body that is waited for: the read fails with `TimedOut`.
    pub body_timeout: Duration,
    /// Within one write of a response, the client taking nothing: the write fails with `TimedOut`.
    pub write_timeout: Duration,

    /// Bytes of the request line, and of each header field.
    pub max_line: usize,
    /// Number of header fields.
    pub max_headers: usize,
    /// Bytes of request line and header fields together.
    pub max_head: usize,

    /// What a client reads that is refused before there is a request to answer: from a status and
    /// the reason in words to a content type and a body.
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
