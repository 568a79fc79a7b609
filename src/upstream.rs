//! The way up: sends one attempt and hands back the answer's head and a reader of its body.
//!
//! The only room that names ureq and rustls, and the only one with outgoing sockets. It decides
//! nothing about keys or retries; it says *how far an attempt came*: not sent, maybe sent,
//! answered.
//!
//! Every wait on an upstream socket also watches the client ([`Client::wait`]), so a client that
//! leaves cancels its call at once.
//!
//! `call.rs` is the state of the call under way, `wire.rs` the connections, `buffers.rs`, `dial.rs`,
//! `dns.rs`, `tls.rs` and `alarm.rs` what they need.

mod alarm;
mod buffers;
mod call;
mod dial;
mod dns;
mod tls;
mod unpack;
mod wire;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ureq::http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING,
};
use ureq::http::uri::PathAndQuery;
use ureq::http::{self, HeaderMap, HeaderValue, Method, Uri};

use self::call::{CALL, CurrentCall};
use self::dns::CachingResolver;
use self::tls::TlsSetup;
pub use self::tls::random;
use self::wire::Dialler;
use crate::config::{Config, Scheme, Target};
use crate::headers::{self, ConnectionOptions};
use crate::logging::shown;
use crate::mask::Mask;
use crate::peer::Client;
use crate::reply;
use crate::retry::Repeat;
use crate::secret::ApiKey;

/// Input buffer of a connection, at most. An answer's head must fit.
const INPUT_BUFFER: usize = 16 * 1024;
/// Output buffer of a connection, at most.
const OUTPUT_BUFFER: usize = 8 * 1024;
/// How long an idle connection is kept. Below nginx's 75 s, so that we close first.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);
/// Room for the fields of most requests.
const LINES: usize = 512;
/// How much of a body nobody wants is read so that its connection can be used again.
const DRAIN_LIMIT: usize = 16 * 1024;
/// How long that may take between two pieces.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long that may take in all: a body that drips must not hold the next key up.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// How much of a body is looked at in one go before it is read; a first event is some hundred bytes.
const LOOK: usize = 2 * 1024;

/// How an attempt failed. The texts are for logs and error messages; they hold no key.
#[derive(Debug)]
pub enum Failure {
    /// Not one byte of the request went out: name, connect, TLS.
    NotSent(String),
    /// Nor will it at another try: the target, its certificate or the key cannot be used.
    Never(String),
    /// A pooled connection was dead: it ended as soon as the request was written, and nothing came back.
    Stale(String),
    /// The request went out, at least in part; then it failed.
    MaybeSent(String),
    /// The request went out, and no head came in time.
    TimedOut(String),
    /// An answer began, and ended before its first word.
    Empty,
    /// The client left; the call was cancelled.
    ClientLeft,
}

/// Where requests go: a [`Target`] taken apart once for all of them.
#[derive(Debug, PartialEq)]
pub struct Origin {
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
}

impl Origin {
    /// The origin of this target.
    ///
    /// # Errors
    /// In the operator's words, when host and port cannot stand in a URL, or no certificate can be
    /// for that host.
    pub fn new(target: &Target) -> Result<Origin, String> {
        let text = target.authority.as_str();
        let authority =
            http::uri::Authority::try_from(text).map_err(|_| format!("{text:?} is no host"))?;
        let scheme = match target.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https if tls::name(authority.host()).is_none() => {
                return Err(format!(
                    "https://{text}: no certificate can be for such a name; expected a host name (labels of letters, digits and hyphens) or an address"
                ));
            }
            Scheme::Https => http::uri::Scheme::HTTPS,
        };
        Ok(Origin { scheme, authority })
    }
}

/// Our name in `Via`: another one in each process, so that two of us can stand in a row and each still knows a
/// request that it has seen.
pub fn pseudonym() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let [a, b, c, d, ..] = random().unwrap_or_default();
        let number = u32::from_ne_bytes([a, b, c, d]);
        format!("{}{number:08x}", headers::PSEUDONYM)
    })
}

/// A request ready to be sent, as often as needed.
///
/// ureq gets to know its method, its target and its body. The other fields are lines ready to be
/// written, which `wire.rs` lays into the head: as a map they would be hashed, copied and looked through
/// by ureq, which has no use for them.
#[derive(Debug)]
pub struct Prepared {
    method: Method,
    uri: Uri,
    lines: Vec<u8>,
    /// The lines of `Accept-Encoding`.
    codings: Vec<u8>,
    repeat: Repeat,
}

impl Prepared {
    /// Turns a client's request into what goes up: `to` and `path` are where, `fields` are the client's
    /// own (the ones that stay down are left out here).
    ///
    /// # Errors
    /// When method, path or a field cannot be sent; the text is for the client.
    pub fn new<'a>(
        method: &str,
        to: &Origin,
        path: String,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Prepared, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| "the request method is not valid".to_string())?;
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(to.scheme.clone());
        parts.authority = Some(to.authority.clone());
        parts.path_and_query = PathAndQuery::try_from(path).ok();
        let uri = Uri::from_parts(parts).map_err(|_| {
            "the request target holds characters that must be percent-encoded".to_string()
        })?;
        let connection = fields
            .clone()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let options = ConnectionOptions::new(connection.map(|(_, value)| value));
        let mut prepared = Prepared {
            repeat: match method.is_idempotent() {
                true => Repeat::Yes,
                false => Repeat::No,
            },
            method,
            uri,
            lines: Vec::with_capacity(LINES),
            codings: Vec::with_capacity(64),
        };
        for (name, value) in fields {
            if !headers::goes_up(name, &options) {
                continue;
            }
            if !headers::well_formed(name, value) {
                return Err(format!("the header field `{}` is not valid", shown(name)));
            }
            if name.eq_ignore_ascii_case("idempotency-key") {
                prepared.repeat = Repeat::SameKey;
            }
            let lines = match name.eq_ignore_ascii_case("accept-encoding") {
                true => &mut prepared.codings,
                false => &mut prepared.lines,
            };
            reply::field(lines, name, value);
        }
        // What is made for this request must be readable on the way: an error, a stream of events. A
        // download may stay compressed.
        let download = matches!(prepared.method, Method::GET | Method::HEAD);
        if prepared.codings.is_empty() || !download {
            prepared.ask_for_plain_text();
        }
        // RFC 9110 §7.6.3. Behind those of the client, which say where it was before.
        prepared.lines.extend_from_slice(b"via: 1.1 ");
        prepared.lines.extend_from_slice(pseudonym().as_bytes());
        prepared.lines.extend_from_slice(b"\r\n");
        Ok(prepared)
    }

    /// Whether the client allows it to be sent twice.
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// Asks for an answer that can be read on the way, as a stream of events has to be.
    pub fn ask_for_plain_text(&mut self) {
        self.codings.clear();
        reply::field(&mut self.codings, "accept-encoding", b"identity");
    }
}

/// Whether an attempt may go out on a connection that an earlier one left open.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Reuse {
    /// Yes, as usual.
    Allowed,
    /// No; all idle connections are closed, for one of them was just found dead.
    Never,
}

/// The provider.
#[derive(Debug)]
pub struct Upstream {
    agent: ureq::Agent,
    /// What the agent was made for and with; one that was made otherwise cannot take its place.
    made: Made,
    names: CachingResolver,
    tls: Arc<TlsSetup>,
    idle_timeout: Duration,
    /// What stands before the key in its field.
    key_field: String,
    /// Never used. musl's allocator gives the page of a size back when its last block is freed: without
    /// this block every request would have one mapped, cleared and unmapped for its lines.
    _company: Vec<u8>,
    /// The last answer was a web page.
    web_page: AtomicBool,
}

/// See [`Upstream::made`].
#[derive(Debug, PartialEq)]
struct Made {
    targets: Vec<Target>,
    timeouts: [Duration; 2],
    connections: usize,
}

impl Upstream {
    /// The provider of this configuration. `SSL_CERT_FILE` is read here, once.
    ///
    /// What an `earlier` one has and this one can use goes on: names, TLS sessions, idle connections.
    ///
    /// # Errors
    /// In the operator's words, when the file cannot be read or holds no certificate.
    pub fn new(config: &Config, earlier: Option<&Upstream>) -> Result<Upstream, String> {
        let extra_roots = tls::extra_roots(config)?;
        let same = earlier.filter(|earlier| earlier.tls.extra_roots == extra_roots);
        let made = Made {
            targets: [Some(&config.target), config.genai.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            timeouts: [config.connect_timeout, config.first_byte_timeout],
            connections: config.workers,
        };
        let names = earlier
            .map(|earlier| earlier.names.clone())
            .unwrap_or_default();
        let tls = match same {
            Some(same) => same.tls.clone(),
            None => Arc::new(TlsSetup::new(extra_roots)),
        };
        let agent = match same.filter(|same| same.made == made) {
            Some(same) => same.agent.clone(),
            None => agent(config, tls.clone(), names.clone()),
        };
        Ok(Upstream {
            agent,
            made,
            names,
            tls,
            idle_timeout: config.idle_timeout,
            key_field: match config.key_header {
                "authorization" => "authorization: Bearer ".into(),
                name => format!("{name}: "),
            },
            _company: Vec::with_capacity(LINES),
            web_page: AtomicBool::new(false),
        })
    }

    /// From now on this one serves: names that only an earlier one asked for are forgotten.
    pub fn takes_over(&self) {
        let hosts = self.made.targets.iter().map(|target| {
            let authority = target.authority.as_str();
            // An address in brackets has colons of its own.
            let end = authority
                .rfind(':')
                .filter(|at| !authority[*at..].contains(']'));
            &authority[..end.unwrap_or(authority.len())]
        });
        self.names.keep(&hosts.collect::<Vec<_>>());
    }

    /// Sends one attempt with `key` and waits for the answer's head.
    ///
    /// # Errors
    /// [`Failure`] says how far the attempt came.
    pub fn send(
        &self,
        prepared: &Prepared,
        body: Option<&[u8]>,
        key: &ApiKey,
        client: &Client,
        reuse: Reuse,
    ) -> Result<Answer, Failure> {
        let mut request = http::Request::new(());
        *request.method_mut() = prepared.method.clone();
        *request.uri_mut() = prepared.uri.clone();
        let text = key.expose().as_bytes();
        if !headers::well_formed("authorization", text) {
            return Err(Failure::Never(
                "the key cannot stand in a header field".into(),
            ));
        }
        let parts = [
            &prepared.lines[..],
            &prepared.codings,
            self.key_field.as_bytes(),
            text,
            b"\r\n",
        ];
        if reuse == Reuse::Never {
            let settings = self.agent.configure_request(request);
            request = settings.max_idle_age(Duration::ZERO).build();
        }

        let lines = parts.concat();
        let head = request_line(&prepared.method, &prepared.uri);
        let length = body.map_or(0, <[u8]>::len);
        let call = CurrentCall::begin(client, self.idle_timeout, lines, head, length);
        // ureq would announce chunks for a POST without a body, where a length of 0 is expected
        // (RFC 9110 §8.6).
        let expects_body = matches!(prepared.method, Method::POST | Method::PUT | Method::PATCH);
        let sent = match body.or(expects_body.then_some(&[])) {
            Some(bytes) => self.agent.run(request.map(|()| bytes)),
            None => self.agent.run(request),
        };
        match sent {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                if let Some(why) = unfit(&parts) {
                    return Err(Failure::MaybeSent(why));
                }
                self.notice_web_page(&prepared.uri, parts.status, &parts.headers);
                let length = body.content_length();
                let field = |name| parts.headers.get(name).map(HeaderValue::as_bytes);
                let plain = field(CONTENT_ENCODING).is_none_or(|v| v == b"identity");
                let mask = Mask::of(field(CONTENT_TYPE), length).filter(|_| plain);
                Ok(Answer {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    length,
                    start: Vec::new(),
                    given: 0,
                    body: body.into_reader(),
                    broken: None,
                    key: key.clone(),
                    mask,
                    _call: call,
                })
            }
            Err(error) => Err(CALL.with_borrow(|call| call.failure(&error))),
        }
    }

    /// A web page where an API was asked is somebody else's answer. It passes, since it may be what
    /// was wanted, but the log says so, once until another kind of answer comes.
    fn notice_web_page(&self, asked: &Uri, status: http::StatusCode, headers: &HeaderMap) {
        let html = headers.get(CONTENT_TYPE).is_some_and(|v| {
            v.to_str()
                .unwrap_or_default()
                .to_ascii_lowercase()
                .starts_with("text/html")
        });
        // Errors as a page are common: a CDN's 502, say.
        let page = html && status.as_u16() < 400;
        if page && !self.web_page.load(Ordering::Relaxed) {
            crate::warn!(
                "{}://{} answered {} with a web page: a captive portal, or a wrong TARGET_BASE_URL?",
                asked.scheme_str().unwrap_or_default(),
                asked.authority().map_or("", |a| a.as_str()),
                status.as_u16()
            );
        }
        self.web_page.store(page, Ordering::Relaxed);
    }
}

/// What sends requests as this configuration says.
fn agent(config: &Config, tls: Arc<TlsSetup>, names: CachingResolver) -> ureq::Agent {
    let settings = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .allow_non_standard_methods(true)
        .user_agent("")
        .accept("")
        .accept_encoding("")
        .proxy(None)
        .timeout_connect(Some(config.connect_timeout))
        .timeout_recv_response(Some(config.first_byte_timeout))
        .max_response_header_size(INPUT_BUFFER)
        .max_idle_connections(config.workers)
        .max_idle_connections_per_host(config.workers)
        .max_idle_age(MAX_IDLE_AGE)
        .build();
    let dialler = Dialler {
        tls,
        names: names.clone(),
    };
    ureq::Agent::with_parts(settings, dialler, names)
}

/// Why the head of an answer cannot be followed by a body that alvus can read.
fn unfit(head: &http::response::Parts) -> Option<String> {
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return Some("it changed to another protocol (101), which nobody asked for".into());
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?.as_bytes();
    // RFC 9112 §6.1: none in HTTP/1.0; and of all that there are we know one, and nobody was told of more.
    let known = coding.trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if known && head.version > http::Version::HTTP_10 {
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

/// At most so many bytes are what ureq itself writes: the request line, the host, the length.
fn request_line(method: &Method, uri: &Uri) -> usize {
    let path = uri.path_and_query().map_or(1, |path| path.as_str().len());
    let host = uri.authority().map_or(0, |host| host.as_str().len());
    method.as_str().len() + path + host + 80
}

/// An answer whose head has come. Its body is read through [`Read`]; dropping it before the end
/// closes the connection and so cancels the call.
pub struct Answer {
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    length: Option<u64>,
    /// The start of the body, when it was looked at before the whole is read.
    start: Vec<u8>,
    /// How much of `start` was read since.
    given: usize,
    body: ureq::BodyReader<'static>,
    /// The error that ended the body: ureq reports it once and a clean end afterwards.
    broken: Option<ErrorKind>,
    /// What it was asked with, and should not repeat.
    key: ApiKey,
    mask: Option<Mask>,
    _call: CurrentCall,
}

impl Answer {
    /// The first field of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    /// The same of a name that need not be read first.
    fn known(&self, name: http::HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    /// Whether the body says that it is one JSON document, whatever its coding.
    pub fn is_json(&self) -> bool {
        let kind = self.known(CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(|b| *b == b';').next().unwrap_or_default();
        let ends = |with: &[u8]| {
            let at = kind.trim_ascii().len().checked_sub(with.len());
            at.is_some_and(|at| kind.trim_ascii()[at..].eq_ignore_ascii_case(with))
        };
        ends(b"/json") || ends(b"+json")
    }

    /// Whether the body is in a coding, such as gzip.
    pub fn is_coded(&self) -> bool {
        self.known(CONTENT_ENCODING)
            .is_some_and(|v| v != b"identity")
    }

    /// A stream of events that can be read on the way; one in an encoding cannot.
    pub fn is_stream(&self) -> bool {
        let events = |v: &[u8]| {
            let kind = b"text/event-stream";
            v.get(..kind.len())
                .is_some_and(|v| v.eq_ignore_ascii_case(kind))
        };
        (200..300).contains(&self.status)
            && !self.is_coded()
            && self.known(CONTENT_TYPE).is_some_and(events)
    }

    /// The fields that go back to the client.
    pub fn fields_back(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let connection = self.headers.get_all(CONNECTION);
        let options = ConnectionOptions::new(connection.iter().map(HeaderValue::as_bytes));
        let fields = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        fields.filter(move |(name, _)| headers::comes_back(name, &options))
    }

    /// The body's length, where the upstream stated one.
    pub fn length(&self) -> Option<u64> {
        // ureq counts an empty body as none.
        self.length
            .or_else(|| self.stated_length().filter(|n| *n == 0))
    }

    /// The value of `Content-Length` as sent, which in an answer to HEAD describes a body that
    /// does not follow.
    pub fn stated_length(&self) -> Option<u64> {
        std::str::from_utf8(self.known(CONTENT_LENGTH)?)
            .ok()?
            .parse()
            .ok()
    }

    /// The client has what it wants: whether it leaves is no matter from now on. What is left of the
    /// body is read for a moment, so that the connection can be used again.
    pub fn let_client_go(&mut self) {
        CALL.with_borrow_mut(|call| {
            call.client = Client::nobody();
            call.idle = DRAIN_PATIENCE;
        });
    }

    /// What was looked at so far of the body; reading it begins there all the same.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The same in plain text, if it came in a coding that can be read.
    pub fn words(&self) -> Cow<'_, [u8]> {
        unpack::unpacked(self.known(CONTENT_ENCODING), &self.start)
    }

    /// Looks at one more piece of the body, waiting for it no longer than `patience`. `false`: the
    /// body is at its end.
    ///
    /// # Errors
    /// When it cannot be read on. After [`Failure::TimedOut`] it can, later.
    pub fn look_further(&mut self, patience: Duration) -> Result<bool, Failure> {
        let idle = CALL.with_borrow_mut(|call| std::mem::replace(&mut call.idle, patience));
        // Not `resize` and `read`: optimised for size, that zeroes byte by byte.
        let mut piece = [0; LOOK];
        let read = loop {
            match self.body.read(&mut piece) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let came = read.as_ref().copied().unwrap_or(0);
        self.start.extend_from_slice(&piece[..came]);
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

    /// Looks at the whole body, or as much of it as comes without a pause and is worth it: for
    /// answers that must be judged by their words.
    pub fn look_at_all(&mut self) {
        let until = Instant::now() + DRAIN_TIME;
        while matches!(self.look_further(DRAIN_PATIENCE), Ok(true))
            && self.start.len() < DRAIN_LIMIT
            && Instant::now() < until
        {}
    }

    /// Reads the start of a body nobody wants and lets go: a connection whose answer was read to
    /// its end can be used again, and a TLS handshake costs a Pi Zero a tenth of a second.
    pub fn discard(mut self) {
        self.given = self.start.len();
        self.drain(|_| ());
    }

    /// Reads a body, if it is no larger than [`DRAIN_LIMIT`] and comes without a pause; whether
    /// `piece` has seen all of it.
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

/// A small answer taken off its connection, to be delivered later or not at all.
#[derive(Debug, Default, Clone)]
pub struct Kept {
    /// The status code.
    pub status: u16,
    /// The fields that go back to the client.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Kept {
    /// The body in plain text, if it came in a coding that can be read.
    pub fn words(&self) -> Cow<'_, [u8]> {
        let coding = self.fields.iter().find(|(n, _)| n == "content-encoding");
        unpack::unpacked(coding.map(|(_, v)| v.as_slice()), &self.body)
    }
}

impl Answer {
    /// As much of it as was looked at.
    pub fn copy(&self) -> Kept {
        let fields = self.fields_back();
        let mut body = self.start.clone();
        if self.mask.is_some() {
            Mask::default().pass(&mut body, self.key.expose().as_bytes());
        }
        Kept {
            status: self.status,
            fields: fields.map(|(n, v)| (n.to_string(), v.to_vec())).collect(),
            body,
        }
    }

    /// Reads the whole body, if it is small and comes without a pause.
    pub fn keep(mut self) -> Option<Kept> {
        let mut body = Vec::new();
        if !self.drain(|piece| body.extend_from_slice(piece)) {
            return None;
        }
        let fields = self
            .fields_back()
            .map(|(n, v)| (n.to_string(), v.to_vec()))
            .collect();
        Some(Kept {
            status: self.status,
            fields,
            body,
        })
    }
}

impl Answer {
    /// Reads on: first what was looked at already, then the connection.
    fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ahead = &self.start[self.given..];
        if !ahead.is_empty() {
            let n = ahead.len().min(buffer.len());
            buffer[..n].copy_from_slice(&ahead[..n]);
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
                // What was held back is no key then. The error comes again.
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
