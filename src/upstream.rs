//! The way up: sends one attempt and hands back the answer's head and a reader of its body.
//!
//! The only room that names ureq and rustls, and the only one with outgoing sockets. It decides
//! nothing about keys or retries; it says *how far an attempt came*: not sent, maybe sent,
//! answered.
//!
//! Every wait on an upstream socket also watches the client ([`Client::wait`]), so a client that
//! leaves cancels its call at once. ureq hands no per-call state to a transport, and connections
//! are pooled between calls; but a call and the reading of its body stay on one worker thread, so
//! the state of the current call ([`Call`]) is a thread-local.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::net as sys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::http::{self, HeaderMap, HeaderName, HeaderValue, Method, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::config::Config;
use crate::headers::{self, ConnectionOptions};
use crate::peer::{Client, Interest, Wake};
use crate::secret::ApiKey;

/// Input buffer of a connection. An answer's head must fit.
const INPUT_BUFFER: usize = 16 * 1024;
/// Output buffer of a connection.
const OUTPUT_BUFFER: usize = 8 * 1024;
/// How long an idle connection is kept. Below nginx's 75 s, so that we close first.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);
/// How long a resolved address is used before it is looked up again (in the background).
const DNS_FRESH: Duration = Duration::from_secs(60);
/// Addresses of one name that are tried; ureq's array holds no more.
const MAX_ADDRS: usize = 16;
/// How often a worker that waits for a name looks whether its client is still there.
const DNS_TICK: Duration = Duration::from_millis(250);
/// TLS sessions kept for resumption; one host needs few.
const TLS_SESSIONS: usize = 8;
/// Idle time before the kernel probes a connection, so that NATs keep it and a dead one is found.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How much of a body nobody wants is read so that its connection can be used again.
const DRAIN_LIMIT: usize = 16 * 1024;
/// How long that may take between two pieces.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// A clock that shows less was never set (2024-01-01).
const SANE_CLOCK: Duration = Duration::from_secs(1_704_067_200);

/// How an attempt failed. The texts are for logs and error messages; they hold no key.
#[derive(Debug)]
pub enum Failure {
    /// Not one byte of the request went out: name, connect, TLS.
    NotSent(String),
    /// A pooled connection was dead: the request was written, nothing came back.
    Stale(String),
    /// The request went out, at least in part; then it failed.
    MaybeSent(String),
    /// The request went out, and no head came in time.
    TimedOut(String),
    /// The client left; the call was cancelled.
    ClientLeft,
}

/// A request ready to be sent, as often as needed.
#[derive(Debug)]
pub struct Prepared {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
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
    origin: String,
    idle_timeout: Duration,
}

impl Upstream {
    /// The provider of this configuration. `SSL_CERT_FILE` is read here, once.
    ///
    /// # Errors
    /// In the operator's words, when the file cannot be read or holds no certificate.
    pub fn new(config: &Config) -> Result<Upstream, String> {
        let tls = TlsSetup {
            extra_roots: extra_roots(config)?,
            config: OnceLock::new(),
        };
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
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_response_header_size(INPUT_BUFFER)
            .max_idle_connections(config.workers)
            .max_idle_connections_per_host(config.workers)
            .max_idle_age(MAX_IDLE_AGE)
            .build();
        Ok(Upstream {
            agent: ureq::Agent::with_parts(settings, Dialler { tls }, CachingResolver::default()),
            origin: config.target.origin(),
            idle_timeout: config.idle_timeout,
        })
    }

    /// Turns a client's request into what goes up: `target` is the path upstream, `fields` are the
    /// client's own (the ones that stay down are left out here).
    ///
    /// # Errors
    /// When method, target or a field cannot be sent; the text is for the client.
    pub fn prepare<'a>(
        &self,
        method: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Prepared, String> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| "the request method is not valid".to_string())?;
        let uri = Uri::try_from(format!("{}{target}", self.origin)).map_err(|_| {
            "the request target holds characters that must be percent-encoded".to_string()
        })?;
        let connection = fields
            .clone()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let options = ConnectionOptions::new(connection.map(|(_, value)| value));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if headers::goes_up(name, &options) {
                let bad = || format!("the header field `{name}` is not valid");
                let value = HeaderValue::from_bytes(value).map_err(|_| bad())?;
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
                headers.append(name, value);
            }
        }
        if !headers.contains_key(http::header::ACCEPT_ENCODING) {
            let identity = HeaderValue::from_static("identity");
            headers.insert(http::header::ACCEPT_ENCODING, identity);
        }
        Ok(Prepared {
            method,
            uri,
            headers,
        })
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
        *request.headers_mut() = prepared.headers.clone();
        let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", key.expose())) else {
            return Err(Failure::NotSent(
                "the key cannot stand in a header field".into(),
            ));
        };
        bearer.set_sensitive(true);
        request
            .headers_mut()
            .insert(http::header::AUTHORIZATION, bearer);
        if reuse == Reuse::Never {
            let settings = self.agent.configure_request(request);
            request = settings.max_idle_age(Duration::ZERO).build();
        }

        let call = CurrentCall::begin(client, self.idle_timeout);
        let sent = match body {
            Some(bytes) => self.agent.run(request.map(|()| bytes)),
            None => self.agent.run(request),
        };
        match sent {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let length = body.content_length();
                Ok(Answer {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    length,
                    body: body.into_reader(),
                    broken: None,
                    _call: call,
                })
            }
            Err(error) => Err(CALL.with_borrow(|call| call.failure(&error))),
        }
    }
}

/// An answer whose head has come. Its body is read through [`Read`]; dropping it before the end
/// closes the connection and so cancels the call.
pub struct Answer {
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    length: Option<u64>,
    body: ureq::BodyReader<'static>,
    /// The error that ended the body: ureq reports it once and a clean end afterwards.
    broken: Option<ErrorKind>,
    _call: CurrentCall,
}

impl Answer {
    /// The first field of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(HeaderValue::as_bytes)
    }

    /// The fields that go back to the client.
    pub fn fields_back(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let connection = self.headers.get_all(http::header::CONNECTION);
        let options = ConnectionOptions::new(connection.iter().map(HeaderValue::as_bytes));
        let fields = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        fields.filter(move |(name, _)| headers::comes_back(name, &options))
    }

    /// The body's length, where the upstream stated one.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The value of `Content-Length` as sent, which in an answer to HEAD describes a body that
    /// does not follow.
    pub fn stated_length(&self) -> Option<u64> {
        std::str::from_utf8(self.header("content-length")?)
            .ok()?
            .parse()
            .ok()
    }

    /// Reads the start of a body nobody wants and lets go: a connection whose answer was read to
    /// its end can be used again, and a TLS handshake costs a Pi Zero a tenth of a second.
    pub fn discard(mut self) {
        CALL.with_borrow_mut(|call| call.idle = DRAIN_PATIENCE);
        let mut buffer = [0; 1024];
        let mut left = DRAIN_LIMIT;
        while left > 0 {
            match self.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }
}

/// A small answer taken off its connection, to be delivered later or not at all.
#[derive(Debug)]
pub struct Kept {
    /// The status code.
    pub status: u16,
    /// The fields that go back to the client.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads the whole body, if it is no larger than [`DRAIN_LIMIT`] and comes without a pause.
    pub fn keep(mut self) -> Option<Kept> {
        CALL.with_borrow_mut(|call| call.idle = DRAIN_PATIENCE);
        let mut body = Vec::new();
        let read = (&mut self)
            .take(DRAIN_LIMIT as u64 + 1)
            .read_to_end(&mut body);
        if read.is_err() || body.len() > DRAIN_LIMIT {
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

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({})", self.status)
    }
}

// ---- the state of the current call ----------------------------------------------------------

/// How far the call on this thread came.
#[derive(Debug, Default)]
struct Call {
    client: Client,
    /// The longest gap between two pieces.
    idle: Duration,
    /// The connection was made for this call, not taken from the pool.
    fresh: bool,
    /// Bytes of the request went out.
    sent: bool,
    /// Bytes of an answer came.
    received: bool,
    /// The client left while we waited.
    client_left: bool,
}

thread_local! {
    static CALL: RefCell<Call> = RefCell::default();
}

/// While this lives, [`CALL`] belongs to one call. Not `Send`: the call stays on its thread.
struct CurrentCall(std::marker::PhantomData<*const ()>);

impl CurrentCall {
    fn begin(client: &Client, idle: Duration) -> CurrentCall {
        CALL.set(Call {
            client: client.clone(),
            idle,
            ..Call::default()
        });
        CurrentCall(std::marker::PhantomData)
    }
}

impl Drop for CurrentCall {
    fn drop(&mut self) {
        CALL.set(Call::default()); // lets go of the client's socket
    }
}

impl Call {
    fn failure(&self, error: &ureq::Error) -> Failure {
        let text = in_words(error);
        match error {
            _ if self.client_left => Failure::ClientLeft,
            _ if !self.sent => Failure::NotSent(text),
            _ if !self.fresh && !self.received && !matches!(error, ureq::Error::Timeout(_)) => {
                Failure::Stale(text)
            }
            ureq::Error::Timeout(_) => Failure::TimedOut(text),
            _ => Failure::MaybeSent(text),
        }
    }
}

/// Waits on an upstream socket, and on the client of the current call.
fn wait(stream: &TcpStream, interest: Interest, timeout: NextTimeout) -> Result<(), ureq::Error> {
    CALL.with_borrow_mut(|call| {
        // Where ureq sets no limit (request going up, body coming down), the idle gap is the limit.
        let limit = timeout.not_zero().map_or(call.idle, |d| *d);
        match call.client.wait(stream.as_fd(), interest, Some(limit))? {
            Wake::Ready => Ok(()),
            Wake::TimedOut => Err(ureq::Error::Timeout(timeout.reason)),
            Wake::ClientLeft => {
                call.client_left = true;
                Err(client_left().into())
            }
        }
    })
}

fn client_left() -> io::Error {
    io::Error::other("the client left")
}

/// An error in the operator's words.
fn in_words(error: &ureq::Error) -> String {
    let text = match error {
        ureq::Error::Timeout(t) => format!("timed out ({t})"),
        ureq::Error::HostNotFound => "the host name was not found".into(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    };
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    if clock < SANE_CLOCK && text.contains("certificate") {
        return format!(
            "{text}; this machine's clock says {}, so no certificate can be valid: set the clock",
            httpdate::fmt_http_date(UNIX_EPOCH + clock)
        );
    }
    text
}

// ---- connections ------------------------------------------------------------------------------

/// Makes connections: TCP, and TLS on top where the target says https.
#[derive(Debug)]
struct Dialler {
    tls: TlsSetup,
}

impl Connector for Dialler {
    type Out = Wire;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Wire>, ureq::Error> {
        CALL.with_borrow_mut(|call| call.fresh = true);
        let limit = details.timeout.not_zero().map_or(Duration::MAX, |d| *d);
        let started = Instant::now();
        let mut left = details.addrs.len();
        let mut failed = io::Error::from(ErrorKind::ConnectionRefused);
        for addr in details.addrs.iter() {
            // Each address gets its share of what time is left.
            let share =
                limit.saturating_sub(started.elapsed()) / u32::try_from(left).unwrap_or(1).max(1);
            left -= 1;
            match dial(*addr, share) {
                Ok(stream) => return self.wire(stream, details).map(Some),
                Err(e) => failed = io::Error::new(e.kind(), format!("{addr}: {e}")),
            }
            if CALL.with_borrow(|call| call.client_left) {
                break;
            }
        }
        Err(failed.into())
    }
}

impl Dialler {
    fn wire(&self, stream: TcpStream, details: &ConnectionDetails) -> Result<Wire, ureq::Error> {
        let buffers = || LazyBuffers::new(INPUT_BUFFER, OUTPUT_BUFFER);
        let tcp = Tcp {
            stream,
            buffers: buffers(),
        };
        if !details.needs_tls() {
            return Ok(Wire::Plain(tcp));
        }
        let host = details
            .uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| ureq::Error::Tls("the target's host is no name that TLS can check"))?;
        let mut session = ClientConnection::new(self.tls.config(), name)?;
        let mut socket = TransportAdapter::new(tcp, details.current_time.clone());
        socket.set_timeout(details.timeout);
        session.complete_io(&mut socket)?;
        Ok(Wire::Tls(Box::new(Tls {
            stream: StreamOwned::new(session, socket),
            buffers: buffers(),
        })))
    }
}

/// Connects without blocking, so that a client that leaves meanwhile is noticed.
fn dial(addr: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = match addr {
        SocketAddr::V4(_) => sys::AddressFamily::INET,
        SocketAddr::V6(_) => sys::AddressFamily::INET6,
    };
    let flags = sys::SocketFlags::NONBLOCK | sys::SocketFlags::CLOEXEC;
    let socket = sys::socket_with(family, sys::SocketType::STREAM, flags, None)?;
    match sys::connect(&socket, &addr) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => CALL.with_borrow_mut(|call| {
            match call
                .client
                .wait(socket.as_fd(), Interest::Write, Some(limit))?
            {
                Wake::Ready => sys::sockopt::socket_error(&socket)?.map_err(io::Error::from),
                Wake::TimedOut => Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")),
                Wake::ClientLeft => {
                    call.client_left = true;
                    Err(client_left())
                }
            }
        })?,
        Err(e) => return Err(e.into()),
    }
    sys::sockopt::set_tcp_nodelay(&socket, true)?;
    sys::sockopt::set_socket_keepalive(&socket, true)?;
    sys::sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    Ok(TcpStream::from(socket))
}

/// A connection as ureq uses it.
#[derive(Debug)]
enum Wire {
    Plain(Tcp),
    Tls(Box<Tls>),
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        match self {
            Wire::Plain(tcp) => &mut tcp.buffers,
            Wire::Tls(tls) => &mut tls.buffers,
        }
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        CALL.with_borrow_mut(|call| call.sent = true);
        match self {
            Wire::Plain(tcp) => tcp.transmit_output(amount, timeout),
            Wire::Tls(tls) => tls.transmit_output(amount, timeout),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let progress = match self {
            Wire::Plain(tcp) => tcp.await_input(timeout),
            Wire::Tls(tls) => tls.await_input(timeout),
        };
        match progress {
            // ureq takes a reset, or TLS without close_notify, for the end of a body that only the
            // connection's end delimits. Under another kind it stays the failure it is.
            Err(ureq::Error::Io(e)) => Err(io::Error::other(e.to_string()).into()),
            Ok(true) => {
                CALL.with_borrow_mut(|call| call.received = true);
                Ok(true)
            }
            other => other,
        }
    }

    fn is_open(&mut self) -> bool {
        match self {
            Wire::Plain(tcp) => tcp.is_open(),
            Wire::Tls(tls) => tls.stream.get_mut().get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self, Wire::Tls(_))
    }
}

/// A TCP connection; its socket is non-blocking and every wait goes through [`wait`].
#[derive(Debug)]
struct Tcp {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Tcp {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut rest = &self.buffers.output()[..amount];
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait(&self.stream, Interest::Write, timeout)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
        }
        loop {
            wait(&self.stream, Interest::Read, timeout)?;
            match (&self.stream).read(input) {
                Ok(n) => {
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// An idle connection with anything to read (bytes, an end, an error) is not fit for use.
    fn is_open(&mut self) -> bool {
        let probe = (&self.stream).read(&mut [0]);
        matches!(probe, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }
}

/// TLS over a [`Tcp`].
struct Tls {
    stream: StreamOwned<ClientConnection, TransportAdapter<Tcp>>,
    buffers: LazyBuffers,
}

impl Transport for Tls {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        if input.is_empty() {
            return Err(ureq::Error::LargeResponseHeader(INPUT_BUFFER, INPUT_BUFFER));
        }
        let n = self.stream.read(input)?;
        self.buffers.input_appended(n);
        Ok(n > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

// ---- TLS settings -----------------------------------------------------------------------------

/// The TLS settings, made when the first https connection needs them.
#[derive(Debug)]
struct TlsSetup {
    extra_roots: Vec<CertificateDer<'static>>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsSetup {
    fn config(&self) -> Arc<ClientConfig> {
        self.config.get_or_init(|| Arc::new(self.build())).clone()
    }

    fn build(&self) -> ClientConfig {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(TLS_SESSIONS);
        config
    }
}

/// The certificates of `SSL_CERT_FILE`.
fn extra_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(path) = &config.ssl_cert_file else {
        return Ok(Vec::new());
    };
    let bad = |why: String| format!("SSL_CERT_FILE: {}: {why}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| bad(e.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("holds no certificate in PEM form".into()));
    }
    Ok(certificates)
}

// ---- names ------------------------------------------------------------------------------------

/// Remembers addresses: ureq asks for every request, and a look-up may take seconds. A remembered
/// address is served even when it is old or its look-up fails; old ones are looked up again in
/// the background.
#[derive(Debug, Default)]
struct CachingResolver {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug)]
struct Known {
    addrs: Vec<SocketAddr>,
    at: Instant,
    refreshing: bool,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri
            .port_u16()
            .unwrap_or(if uri.scheme_str() == Some("https") {
                443
            } else {
                80
            });
        let addrs = match host.trim_matches(['[', ']']).parse() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let limit = config.timeouts().connect.unwrap_or(Duration::MAX);
                self.look_up(format!("{host}:{port}"), limit)?
            }
        };
        let mut found = self.empty();
        addrs
            .into_iter()
            .take(MAX_ADDRS)
            .for_each(|a| found.push(a));
        if found.is_empty() {
            Err(ureq::Error::HostNotFound)
        } else {
            Ok(found)
        }
    }
}

impl CachingResolver {
    fn look_up(&self, name: String, limit: Duration) -> Result<Vec<SocketAddr>, ureq::Error> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = known.get_mut(&name) {
                if entry.at.elapsed() > DNS_FRESH && !entry.refreshing {
                    entry.refreshing = true;
                    self.ask(name.clone());
                }
                return Ok(entry.addrs.clone());
            }
        }
        let answer = self.ask(name);
        let started = Instant::now();
        loop {
            match answer.recv_timeout(DNS_TICK) {
                Ok(found) => return Ok(found?),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ureq::Error::HostNotFound),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if CALL.with_borrow(|call| call.client.has_left()) {
                CALL.with_borrow_mut(|call| call.client_left = true);
                return Err(client_left().into());
            }
            if started.elapsed() > limit {
                let text = "the name server did not answer in time";
                return Err(io::Error::new(ErrorKind::TimedOut, text).into());
            }
        }
    }

    /// Asks the system, which can neither be hurried nor cancelled, on a thread of its own.
    fn ask(&self, name: String) -> mpsc::Receiver<io::Result<Vec<SocketAddr>>> {
        let (tell, answer) = mpsc::channel();
        let known = self.known.clone();
        let asked = std::thread::Builder::new()
            .name("dns".into())
            .spawn(move || {
                let found = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                match &found {
                    Ok(addrs) if !addrs.is_empty() => {
                        let fresh = Known {
                            addrs: addrs.clone(),
                            at: Instant::now(),
                            refreshing: false,
                        };
                        known.insert(name, fresh);
                    }
                    _ => {
                        if let Some(entry) = known.get_mut(&name) {
                            // Keep the old address and try again after as long as a fresh one lives.
                            entry.at = Instant::now();
                            entry.refreshing = false;
                        }
                    }
                }
                let _ = tell.send(found);
            });
        if asked.is_err() {
            crate::warn!("no thread for a DNS look-up");
        }
        answer
    }
}
