//! The state of the call under way on this thread, and the one way to wait for its sockets.
//!
//! ureq passes no per-call state to a transport, and connections are pooled between calls. But a
//! call and the reading of its body stay on one thread, so a thread-local holds the state.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::NextTimeout;

use super::Failure;
use super::fields::Fields;
use crate::client::{Client, Interest, Wake};

/// If a pooled connection ends this soon after the first bytes were sent, the server had closed it
/// before they arrived: they crossed on a slow line. Later, the server may have been at work.
const CROSSING: Duration = Duration::from_secs(2);

/// The call on this thread, and how far it came.
#[derive(Default)]
pub(super) struct Call {
    pub(super) client: Client,
    /// The longest gap between two pieces.
    pub(super) idle: Duration,
    /// The connection was made for this call, not taken from the pool.
    pub(super) fresh: bool,
    /// What is sent. It is lent, as it may be sent again.
    pub(super) request: Request,
    /// The fields of the answer.
    pub(super) fields: Fields,
    /// When the first bytes of the request went out.
    pub(super) sent: Option<Instant>,
    /// Bytes of an answer came.
    pub(super) received: bool,
    /// The client left while we waited.
    pub(super) client_left: bool,
    /// A wait took too long.
    pub(super) timed_out: bool,
    /// A retry would fail the same way.
    pub(super) never: bool,
}

/// A request as it goes over the wire: a head, with the key in it, and a body.
#[derive(Default)]
pub(super) struct Request {
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

thread_local! {
    pub(super) static CALL: RefCell<Call> = RefCell::default();
}

/// While this lives, [`CALL`] belongs to one call. Not `Send`: the call stays on its thread.
pub(super) struct CurrentCall(std::marker::PhantomData<*const ()>);

impl CurrentCall {
    pub(super) fn begin(client: &Client, idle: Duration, request: Request) -> CurrentCall {
        // Not `set`, which moves a call three times.
        CALL.with_borrow_mut(|call| {
            *call = Call {
                client: client.clone(),
                idle,
                request,
                ..Call::default()
            };
        });
        CurrentCall(std::marker::PhantomData)
    }
}

impl Drop for CurrentCall {
    fn drop(&mut self) {
        CALL.with_borrow_mut(|call| *call = Call::default()); // releases the client's socket
    }
}

impl Call {
    /// Whether ureq takes the answer's body for a chunked one.
    pub(super) fn is_chunked(&self) -> bool {
        let mut codings = self.fields.all("transfer-encoding");
        codings.any(|coding| coding.eq_ignore_ascii_case(b"chunked"))
    }

    /// Why the body of an answer could not be read on.
    pub(super) fn broke(&self, error: &io::Error) -> Failure {
        match error {
            _ if self.client_left => Failure::ClientLeft,
            _ if self.timed_out => Failure::TimedOut("its answer did not go on".into()),
            error => Failure::MaybeSent(error.to_string()),
        }
    }

    pub(super) fn failure(&self, error: &ureq::Error) -> Failure {
        let text = in_words(error);
        match (error, self.sent) {
            _ if self.client_left => Failure::ClientLeft,
            (_, None) if self.never || is_hopeless(error) => Failure::Unusable(text),
            (_, None) => Failure::NotSent(text),
            (ureq::Error::Timeout(_), _) => Failure::TimedOut(text),
            (_, Some(sent)) if !self.fresh && !self.received && sent.elapsed() < CROSSING => {
                Failure::Stale(text)
            }
            _ => Failure::MaybeSent(text),
        }
    }
}

/// Waits on an upstream socket, and on the client of the current call.
pub(super) fn wait(
    stream: &TcpStream,
    interest: Interest,
    timeout: NextTimeout,
) -> Result<(), ureq::Error> {
    let woken = CALL.with_borrow(|call| {
        // Where ureq sets no limit (sending the request, reading the body), the idle timeout is the limit.
        let limit = timeout.not_zero().map_or(call.idle, |d| *d);
        call.client.wait(stream.as_fd(), interest, Some(limit))
    });
    match woken? {
        Wake::Ready => Ok(()),
        Wake::TimedOut => {
            CALL.with_borrow_mut(|call| call.timed_out = true);
            Err(ureq::Error::Timeout(timeout.reason))
        }
        Wake::ClientLeft => Err(client_left().into()),
    }
}

/// The client of the current call left.
pub(super) fn client_left() -> io::Error {
    CALL.with_borrow_mut(|call| call.client_left = true);
    io::Error::other("the client left")
}

/// Whether the error is not the network's: the request cannot be written, the target is not a URL.
fn is_hopeless(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    matches!(
        error,
        E::Http(_) | E::BadUri(_) | E::Protocol(_) | E::Tls(_) | E::TlsRequired
    )
}

/// An error in the operator's words.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(t) => format!("timed out ({t})"),
        ureq::Error::HostNotFound => "the host name was not found".into(),
        ureq::Error::Tls(words) => (*words).into(),
        ureq::Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
            "it closed the connection".into()
        }
        ureq::Error::Io(e) => e.to_string(), // without ureq's "io: "
        other => other.to_string(),
    }
}
