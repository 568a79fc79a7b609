//! Sends one attempt to the upstream, and returns the answer's head and a reader of its body.
//!
//! No other room uses ureq or rustls, or opens sockets to a provider. It decides nothing about keys
//! or retries. It says *how far an attempt came*: not sent, maybe sent, answered.
//!
//! Every wait on an upstream socket also watches the client ([`Client::wait`]), so a client that
//! leaves cancels its call at once.
//!
//! `prepared.rs` is the request, `answer.rs` the answer, `call.rs` the state of the call under way, `wire.rs` the
//! connections. The other files serve those.

mod alarm;
mod answer;
mod buffers;
mod call;
mod chunks;
mod dial;
mod dns;
mod fields;
mod prepared;
mod tls;
mod unpack;
mod wire;

use std::iter;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::{self, Method, Uri};

pub use self::answer::{Answer, Kept};
use self::call::{CALL, CurrentCall, Request};
use self::dns::CachingResolver;
pub use self::prepared::{Origin, Prepared, pseudonym};
use self::tls::TlsSetup;
pub use self::tls::random;
pub use self::unpack::unpacked;
use self::wire::Dialler;
use crate::ascii::begins;
use crate::client::Client;
use crate::config::{Config, Faults, Target};
use crate::headers;
use crate::secret::ApiKey;

/// The largest input buffer of a connection. An answer's head must fit.
const INPUT_BUFFER: usize = 16 * 1024;
/// How long an idle connection is kept. Below nginx's 75 s, so that we close first.
const MAX_IDLE_AGE: Duration = Duration::from_secs(60);

/// How an attempt failed. The texts are for logs and error messages; they hold no key.
#[derive(Debug)]
pub enum Failure {
    /// Not one byte of the request went out: name, connect, TLS.
    NotSent(String),
    /// Nothing was sent, and a retry will not help: the target, its certificate or the key cannot be used.
    Unusable(String),
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

/// Whether an attempt may go out on a connection that an earlier one left open.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Reuse {
    /// It may, as usual.
    Allowed,
    /// It may not, and all idle connections are closed: one of them was just found dead.
    Never,
}

/// The provider.
#[derive(Debug)]
pub struct Upstream {
    agent: ureq::Agent,
    /// The settings that the agent was made with. A later one may use its connections only if these are equal.
    made: Made,
    names: CachingResolver,
    tls: Arc<TlsSetup>,
    idle_timeout: Duration,
    /// What precedes the key in its field.
    key_field: String,
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
    /// The upstream of this configuration. `SSL_CERT_FILE` is read here, once.
    ///
    /// It keeps what it can use of an `earlier` one: names, TLS sessions, idle connections.
    ///
    /// # Errors
    /// In the operator's words, when the file cannot be read or holds no certificate.
    pub fn new(config: &Config, earlier: Option<&Upstream>) -> Result<Upstream, Faults> {
        let extra_roots = tls::extra_roots(config)?;
        let same = earlier.filter(|earlier| earlier.tls.extra_roots == extra_roots);
        let made = Made {
            targets: iter::once(&config.target)
                .chain(&config.genai)
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
            web_page: AtomicBool::new(false),
        })
    }

    /// This upstream serves from now on: names that only an earlier one needs are forgotten.
    pub fn takes_over(&self) {
        let hosts = self.made.targets.iter().map(Target::host);
        self.names.keep(&hosts.collect::<Vec<_>>());
    }

    /// Sends one attempt with `key` and waits for the answer's head. The request is lent, and given back.
    ///
    /// # Errors
    /// [`Failure`] says how far the attempt came.
    pub fn send(
        &self,
        prepared: &mut Prepared,
        body: Option<&mut Vec<u8>>,
        key: &ApiKey,
        client: &Client,
        reuse: Reuse,
    ) -> Result<Box<Answer>, Failure> {
        let text = key.expose().as_bytes();
        if !headers::is_value(text) {
            return Err(Failure::Unusable(
                "the key cannot stand in a header field".into(),
            ));
        }
        // ureq gets only this. The real request bypasses it (`wire.rs`).
        let mut request = http::Request::new(());
        *request.uri_mut() = prepared.uri.clone();
        if prepared.is_head {
            *request.method_mut() = Method::HEAD;
        }
        // Without it ureq would build a Host line.
        let host = http::HeaderValue::from_static("-");
        request.headers_mut().insert(http::header::HOST, host);
        if reuse == Reuse::Never {
            let settings = self.agent.configure_request(request);
            request = settings.max_idle_age(Duration::ZERO).build();
        }
        let length = body.as_ref().map(|body| body.len());
        let mut nothing = Vec::new();
        let body = body.unwrap_or(&mut nothing);
        let (head, size) = prepared.lend_head(length, [self.key_field.as_bytes(), text]);
        let lent = Request {
            head,
            body: mem::take(body),
        };
        let call = CurrentCall::begin(client, self.idle_timeout, lent);
        let sent = self.agent.run(request);
        let lent = CALL.with_borrow_mut(|call| mem::take(&mut call.request));
        prepared.give_back(lent.head, size);
        *body = lent.body;
        let answer = match sent {
            Ok(response) => Answer::new(response, key, call)?,
            Err(error) => return Err(CALL.with_borrow(|call| call.failure(&error))),
        };
        self.notice_web_page(&prepared.uri, &answer);
        Ok(answer)
    }

    /// A web page is rarely an API's answer. It passes, as it may be wanted, but the log says so,
    /// once until another kind of answer comes.
    fn notice_web_page(&self, asked: &Uri, answer: &Answer) {
        let kind = || answer.header("content-type");
        let is_html = || kind().is_some_and(|kind| begins(kind, "text/html"));
        // Errors are often pages: a CDN's 502, say.
        let page = !answer.json && answer.status < 400 && is_html();
        if page && !self.web_page.load(Ordering::Relaxed) {
            crate::warn!(
                "{}://{} answered {} with a web page: a captive portal, or a wrong TARGET_BASE_URL?",
                asked.scheme_str().unwrap_or_default(),
                asked.authority().map_or("", |a| a.as_str()),
                answer.status
            );
        }
        self.web_page.store(page, Ordering::Relaxed);
    }
}

/// The ureq agent for this configuration.
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
