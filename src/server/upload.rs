//! Reads a request's body, within limits of size and time.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Inner;
use super::reception::stopping;
use crate::body::Body;
use crate::front::Request;
use crate::headers::{self, Field};
use crate::reply::Reply;

/// Request bodies are read in steps of this size.
const BODY_STEP: usize = 64 * 1024;
/// A body may take this long in any case. Then it must keep up [`BODY_RATE`] on average, as it
/// holds a place. Both as in Apache's `RequestReadTimeout body=20,MinRate=500`.
const BODY_GRACE: Duration = Duration::from_secs(20);
/// The same while half of the places are taken.
const BODY_GRACE_BUSY: Duration = Duration::from_secs(3);
/// Bytes per second.
const BODY_RATE: u64 = 500;

/// Why a body was not read.
pub(super) enum Unread {
    /// The client left while it sent it.
    Left,
    /// The answer for the client.
    Refused(Reply),
}

/// A body on its way, which a stop cuts short.
struct Upload<'a> {
    house: &'a Inner,
    client: Arc<TcpStream>,
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let uploads = &mut self.house.admission().uploads;
        if let Some(at) = uploads.iter().position(|c| Arc::ptr_eq(c, &self.client)) {
            uploads.swap_remove(at);
        }
    }
}

impl Inner {
    /// Reads the whole body of a request that came at `began`; `None`: it has none.
    pub(super) fn read_body(
        &self,
        request: &mut Request,
        began: Instant,
    ) -> Result<Option<Body>, Unread> {
        let declared = request.body_length();
        let chunked = |(name, _): Field| headers::is(name, "transfer-encoding");
        if declared.is_none() && !request.raw_headers().any(chunked) {
            return Ok(None);
        }
        if declared.is_some_and(|n| n > self.bodies.limit) {
            return Err(self.too_large());
        }
        let _upload = self.begin_upload(request)?;
        let mut body = Body::new(&self.bodies);
        let mut have = 0;
        loop {
            // One byte beyond the limit shows that an undeclared body is too large.
            let room = declared.unwrap_or(self.bodies.limit + 1) - have;
            let step = room.min(BODY_STEP);
            if step == 0 {
                return Ok(Some(body));
            }
            if have > 0 && self.is_too_slow(have, began) {
                return Err(too_slow());
            }
            // Zeros that the last read left are not written again.
            if !body.stretch(have + step) {
                return Err(Unread::Refused(Reply::bodies_full()));
            }
            let n = match read_piece(request, &mut body.bytes[have..have + step]) {
                Err(Unread::Left) => return Err(self.broken_off()),
                read => read?,
            };
            have += n;
            if n == 0 {
                body.bytes.truncate(have);
                // `step` ends at the declared length, so here the chunks have ended.
                return match declared {
                    None => Ok(Some(body)),
                    Some(_) => Err(self.broken_off()),
                };
            }
            if have > self.bodies.limit {
                return Err(self.too_large());
            }
        }
    }

    fn is_too_slow(&self, have: usize, began: Instant) -> bool {
        let grace = match self.admission().inside * 2 < self.places {
            true => BODY_GRACE,
            false => BODY_GRACE_BUSY,
        };
        let earned = Duration::from_secs(have as u64 / BODY_RATE);
        began.elapsed() > grace + earned
    }

    fn begin_upload(&self, request: &Request) -> Result<Upload<'_>, Unread> {
        let mut admission = self.admission();
        if admission.draining {
            return Err(Unread::Refused(stopping()));
        }
        let client = request.client();
        admission.uploads.push(client.clone());
        Ok(Upload {
            house: self,
            client,
        })
    }

    /// The body broke off: the client left, or we stop.
    fn broken_off(&self) -> Unread {
        match self.admission().draining {
            true => Unread::Refused(stopping()),
            false => Unread::Left,
        }
    }

    fn too_large(&self) -> Unread {
        let mb = self.bodies.limit / (1024 * 1024);
        let text = format!(
            "the request body is larger than {mb} MiB (MAX_BODY_MB, or what memory allows)"
        );
        Unread::Refused(Reply::error(413, "body_too_large", &text))
    }
}

fn too_slow() -> Unread {
    let text = "the request body comes too slowly";
    Unread::Refused(Reply::error(408, "body_timeout", text))
}

/// One read; 0 at the end.
fn read_piece(request: &mut Request, piece: &mut [u8]) -> Result<usize, Unread> {
    let read = request.as_reader().read(piece);
    read.map_err(|e| match e.kind() {
        ErrorKind::TimedOut => too_slow(),
        ErrorKind::InvalidData => {
            let text = "the request body is not framed correctly";
            Unread::Refused(Reply::error(400, "bad_body", text))
        }
        _ => Unread::Left,
    })
}
