//! The upstream's answer: a head, and a body that is read, looked at, kept or thrown away.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use ureq::http;

use super::call::{CALL, CurrentCall};
use super::fields::Fields;
use super::{Failure, unpack};
use crate::ascii::{begins, ends};
use crate::body::lengthen;
use crate::client::Client;
use crate::headers::{self, ConnectionOptions, Field};
use crate::logging::shown;
use crate::mask::Mask;
use crate::secret::ApiKey;

/// How much of an unwanted body is read so that its connection can be used again.
const DRAIN_LIMIT: usize = 16 * 1024;
/// How long that may take between two pieces.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long that may take in all: a slow body must not delay the next attempt.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// How much of a body is looked at in one go, before it is read. A first event has some hundred bytes.
const LOOK: usize = 2 * 1024;

/// Why alvus cannot read the body after this head.
fn unfit(status: http::StatusCode, version: http::Version, fields: &Fields) -> Option<String> {
    if status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Some("it changed to another protocol (101), which nobody asked for".into());
    }
    let mut codings = fields.all("transfer-encoding");
    let coding = codings.next()?;
    // RFC 9112 §6.1: HTTP/1.0 has no codings. Of the others we know only chunked, and asked for no other.
    let known = coding.trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if known && version > http::Version::HTTP_10 {
        return None;
    }
    let name = String::from_utf8_lossy(coding);
    let version = match known {
        true => " of HTTP/1.0",
        false => "",
    };
    Some(format!(
        "its answer{version} is in the Transfer-Encoding {:?}, and alvus reads \"chunked\" of HTTP/1.1 only",
        shown(&name)
    ))
}

fn stated_length(fields: &Fields) -> Option<u64> {
    let length = std::str::from_utf8(fields.get("content-length")?).ok()?;
    length.parse().ok()
}

/// Whether this `Content-Type` is JSON, or a type made of it.
fn is_json(kind: &[u8]) -> bool {
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
    let kind = kind.trim_ascii_end();
    ends(kind, "/json") || ends(kind, "+json")
}

/// An answer whose head has come. Its body is read through [`Read`]; dropping it before the end
/// closes the connection and so cancels the call.
pub struct Answer {
    /// The status code.
    pub status: u16,
    pub(super) fields: Fields,
    /// The body's length, if the upstream stated it.
    pub length: Option<u64>,
    /// It is one JSON document, whatever its coding.
    pub json: bool,
    /// The body is in a coding, such as gzip.
    pub coded: bool,
    /// The start of the body, if it was looked at before it is read.
    start: Vec<u8>,
    /// How much of `start` has been read.
    given: usize,
    body: ureq::BodyReader<'static>,
    /// The error that ended the body. ureq reports it once, and a clean end afterwards.
    broken: Option<ErrorKind>,
    /// A stream of events, whatever its coding.
    events: bool,
    /// The key of the request, which the answer must not repeat to the client.
    key: ApiKey,
    mask: Option<Mask>,
    _call: CurrentCall,
}

impl Answer {
    /// The answer to the call under way, which was sent with this key.
    ///
    /// # Errors
    /// When its body cannot be read.
    pub(super) fn new(
        response: http::Response<ureq::Body>,
        key: &ApiKey,
        call: CurrentCall,
    ) -> Result<Box<Answer>, Failure> {
        let fields = CALL.with_borrow_mut(|call| std::mem::take(&mut call.fields));
        let (head, body) = response.into_parts();
        if let Some(why) = unfit(head.status, head.version, &fields) {
            return Err(Failure::MaybeSent(why));
        }
        // ureq takes an empty body for none.
        let length = body.content_length();
        let length = length.or_else(|| stated_length(&fields).filter(|n| *n == 0));
        let kind = fields.get("content-type");
        let coded = fields
            .get("content-encoding")
            .is_some_and(|v| v != b"identity");
        let answer = Answer {
            status: head.status.as_u16(),
            length,
            start: Vec::new(),
            given: 0,
            body: body.into_reader(),
            broken: None,
            coded,
            events: kind.is_some_and(|kind| begins(kind, "text/event-stream")),
            json: kind.is_some_and(is_json),
            key: key.clone(),
            mask: Mask::of(kind, length).filter(|_| !coded),
            fields,
            _call: call,
        };
        Ok(Box::new(answer)) // boxed: it is large, and moved often
    }
}

impl Answer {
    /// The first field of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// Whether it is a stream of events that alvus can read; it cannot if it is compressed.
    pub fn is_stream(&self) -> bool {
        self.events && !self.coded && (200..300).contains(&self.status)
    }

    /// The fields that go back to the client.
    pub fn fields_back(&self) -> impl Iterator<Item = Field<'_>> {
        let options = ConnectionOptions::new(self.fields.all("connection"));
        let fields = self.fields.iter();
        fields.filter(move |(name, _)| headers::comes_back(name, &options))
    }

    /// `Content-Length` as sent. In an answer to HEAD it describes a body that does not follow.
    pub fn stated_length(&self) -> Option<u64> {
        stated_length(&self.fields)
    }

    /// The client has its answer and may leave from now on. The rest of the body is read for a moment, so that the
    /// connection can be used again.
    pub fn let_client_go(&mut self) {
        CALL.with_borrow_mut(|call| {
            call.client = Client::nobody();
            call.idle = DRAIN_PATIENCE;
        });
    }

    /// What was looked at so far of the body. A read begins there all the same.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The same as plain text, if alvus can unpack its coding.
    pub fn words(&self) -> Cow<'_, [u8]> {
        unpack::unpacked(self.header("content-encoding"), &self.start)
    }

    /// Looks at one more piece of the body, and waits for it no longer than `patience`. `false`: the body has ended.
    ///
    /// # Errors
    /// When the body cannot be read on. After [`Failure::TimedOut`] a later call may.
    pub fn look_further(&mut self, patience: Duration) -> Result<bool, Failure> {
        let idle = CALL.with_borrow_mut(|call| std::mem::replace(&mut call.idle, patience));
        let have = self.start.len();
        // Room for the start only: a stream may last.
        let left = self
            .length
            .map_or(LOOK, |length| (length as usize).saturating_sub(have));
        lengthen(&mut self.start, have + left.clamp(1, LOOK));
        let read = self.body.read(&mut self.start[have..]);
        let came = read.as_ref().copied().unwrap_or(0);
        self.start.truncate(have + came);
        if self.events {
            self.start.shrink_to_fit();
        }
        CALL.with_borrow_mut(|call| call.idle = idle);
        match read {
            Ok(n) => Ok(n > 0),
            Err(e) => {
                let failure = CALL.with_borrow_mut(|call| {
                    let failure = call.broke(&e);
                    call.timed_out = false;
                    failure
                });
                if !matches!(failure, Failure::TimedOut(_)) {
                    self.broken = Some(e.kind());
                }
                Err(failure)
            }
        }
    }

    /// Looks at the whole body of an answer that is judged by its words, up to a limit and a pause.
    pub fn look_at_all(&mut self) {
        let until = Instant::now() + DRAIN_TIME;
        while matches!(self.look_further(DRAIN_PATIENCE), Ok(true))
            && self.start.len() < DRAIN_LIMIT
            && Instant::now() < until
        {}
    }

    /// Reads the rest of a small unwanted body, so that its connection can be used again: a TLS
    /// handshake costs a Pi Zero a tenth of a second.
    pub fn discard(mut self) {
        self.given = self.start.len();
        self.drain(|_| ());
    }

    /// Reads a body up to [`DRAIN_LIMIT`], if it comes without a pause. Returns whether `piece` has seen all of it.
    fn drain(&mut self, mut piece: impl FnMut(&[u8])) -> bool {
        CALL.with_borrow_mut(|call| call.idle = DRAIN_PATIENCE);
        let until = Instant::now() + DRAIN_TIME;
        let mut buffer = [0; 1024];
        let mut left = DRAIN_LIMIT;
        while Instant::now() < until {
            match self.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) if n <= left => {
                    piece(&buffer[..n]);
                    left -= n;
                }
                Ok(_) | Err(_) => break,
            }
        }
        false
    }
}

/// A small answer, read from its connection, to be delivered later or not at all.
#[derive(Debug, Default, Clone)]
pub struct Kept {
    /// The status code.
    pub status: u16,
    /// The fields that go back to the client.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Kept {
    /// The body as plain text, if alvus can unpack its coding.
    pub fn words(&self) -> Cow<'_, [u8]> {
        let coding = self.fields.iter().find(|(n, _)| n == b"content-encoding");
        unpack::unpacked(coding.map(|(_, v)| v.as_slice()), &self.body)
    }
}

impl Answer {
    /// A copy, with as much of the body as was looked at.
    pub fn copy(&self) -> Kept {
        let mut body = self.start.clone();
        if self.mask.is_some() {
            Mask::default().pass(&mut body, self.key.expose().as_bytes());
        }
        self.with(body)
    }

    fn with(&self, body: Vec<u8>) -> Kept {
        let fields = self.fields_back();
        Kept {
            status: self.status,
            fields: fields.map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
            body,
        }
    }

    /// Reads the whole body, if it is small and comes without a pause.
    pub fn keep(mut self) -> Option<Kept> {
        let mut body = Vec::new();
        let whole = self.drain(|piece| body.extend_from_slice(piece));
        whole.then(|| self.with(body))
    }
}

impl Answer {
    /// Reads on: first what was looked at already, then the connection.
    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given < self.start.len() {
            let n = (&self.start[self.given..]).read(buffer)?;
            self.given += n;
            return Ok(n);
        }
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let read = self.body.read(buffer);
        if let Err(e) = &read {
            self.broken = Some(e.kind());
        }
        read
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let held = self.mask.as_mut().map_or(0, |mask| mask.begin(buffer));
            if held == buffer.len() {
                return Ok(held);
            }
            let n = match self.read_on(&mut buffer[held..]) {
                Ok(n) if n > 0 => n,
                // What was held back is not a key then. The error comes again.
                Ok(_) | Err(_) if held > 0 => return Ok(held),
                other => return other,
            };
            let piece = &mut buffer[..held + n];
            let goes = match &mut self.mask {
                Some(mask) => mask.pass(piece, self.key.expose().as_bytes()),
                None => piece.len(),
            };
            if goes > 0 {
                return Ok(goes);
            }
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({})", self.status)
    }
}
