//! The request for the upstream: its target, and its bytes.

use std::mem;
use std::sync::OnceLock;

use ureq::http::{self, Method, Uri};

use super::tls;
use crate::config::{Faults, Scheme, Target};
use crate::headers::{self, ConnectionOptions, Field};
use crate::reply::{self, BadRequest};
use crate::retry::Repeat;

/// Room for the head of most requests.
const HEAD: usize = 512;

/// The origin that requests go to: a [`Target`], taken apart once for all requests.
#[derive(Debug, PartialEq)]
pub struct Origin {
    /// All that ureq knows of a request's target.
    pub(super) uri: Uri,
    /// What follows the path in a head: the version and `Host`.
    after_path: String,
}

impl Origin {
    /// The origin of this target.
    ///
    /// # Errors
    /// In the operator's words, when host and port are not valid, or no certificate can be for that host.
    pub fn new(target: &Target) -> Result<Origin, Faults> {
        let text = target.authority.as_str();
        let authority = http::uri::Authority::try_from(text).map_err(|_| no_host(text))?;
        let (scheme, usual) = match target.scheme {
            Scheme::Http => (http::uri::Scheme::HTTP, 80),
            Scheme::Https if tls::name(authority.host()).is_none() => {
                return Err(Faults::from(format!(
                    "https://{text}: no certificate can be for such a name; expected a host name (labels of letters, digits and hyphens) or an address"
                )));
            }
            Scheme::Https => (http::uri::Scheme::HTTPS, 443),
        };
        let host = match authority.port_u16() {
            Some(port) if port != usual => format!("{}:{port}", authority.host()),
            _ => authority.host().to_owned(),
        };
        let uri = Uri::builder().scheme(scheme).authority(authority);
        let uri = uri.path_and_query("/").build();
        let uri = uri.map_err(|_| no_host(text))?;
        let after_path = format!(" HTTP/1.1\r\nhost: {host}\r\n");
        Ok(Origin { uri, after_path })
    }
}

fn no_host(text: &str) -> Faults {
    format!("{text:?} is not a host").into()
}

/// Our name in `Via`. It differs in each process, so that one alvus may stand before another and each still recognises
/// its own requests.
pub fn pseudonym() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let [a, b, c, d, ..] = tls::random().unwrap_or_default();
        let number = u32::from_ne_bytes([a, b, c, d]);
        format!("{}{number:08x}", headers::PSEUDONYM)
    })
}

/// A request ready to be sent, as often as needed.
///
/// Its head is lines ready to be written, which `wire.rs` sends. ureq knows only where they go: it would hash, copy and
/// search them as a map, and has no use for them.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) uri: Uri,
    /// The answer has no body.
    pub(super) is_head: bool,
    /// A length is sent even without a body (RFC 9110 §8.6).
    expects_body: bool,
    /// From the request line to the client's last field; behind that, only while it is lent, what an attempt adds.
    head: Vec<u8>,
    /// The lines of `Accept-Encoding`, if the answer may be compressed.
    codings: Vec<u8>,
    repeat: Repeat,
}

impl Prepared {
    /// Makes the upstream's request from a client's. `fields`: all of the client's, as the front door let them in; those
    /// that are not forwarded are left out here.
    ///
    /// # Errors
    /// When method or path cannot be sent; the text is for the client.
    pub fn new(
        method: &str,
        to: &Origin,
        path: &str,
        fields: &[Field],
    ) -> Result<Prepared, BadRequest> {
        let bad = |text: &str| BadRequest(text.to_owned());
        let known = Method::from_bytes(method.as_bytes())
            .map_err(|_| bad("the request method is not valid"))?;
        let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>');
        if !path.bytes().all(fits) {
            return Err(bad(
                "the request target holds characters that must be percent-encoded",
            ));
        }
        let mut prepared = Prepared {
            uri: to.uri.clone(),
            is_head: known == Method::HEAD,
            expects_body: matches!(known, Method::POST | Method::PUT | Method::PATCH),
            head: Vec::with_capacity(HEAD),
            codings: Vec::new(),
            repeat: match known.is_idempotent() {
                true => Repeat::Yes,
                false => Repeat::No,
            },
        };
        prepared.put(&[method, " ", path, &to.after_path]);
        // alvus must be able to read an answer that is made for this request: an error, a stream of events. A download
        // may be compressed.
        let is_download = matches!(known, Method::GET | Method::HEAD);
        prepared.put_fields(fields, is_download);
        // RFC 9110 §7.6.3: after the client's own `Via` fields.
        prepared.put(&["via: 1.1 ", pseudonym(), "\r\n"]);
        Ok(prepared)
    }

    fn put(&mut self, parts: &[&str]) {
        for part in parts {
            self.head.extend_from_slice(part.as_bytes());
        }
    }

    /// The client's fields that are forwarded.
    fn put_fields(&mut self, fields: &[Field], is_download: bool) {
        let all = fields.iter().copied();
        let connection = all
            .clone()
            .filter(|(name, _)| headers::is(name, "connection"));
        let options = ConnectionOptions::new(connection.map(|(_, value)| value));
        for (name, value) in all {
            if !headers::goes_up(name, &options) {
                continue;
            }
            if headers::is(name, "idempotency-key") {
                self.repeat = Repeat::SameKey;
            }
            let lines = match headers::is(name, "accept-encoding") {
                true if !is_download => continue,
                true => &mut self.codings,
                false => &mut self.head,
            };
            reply::field(lines, name, value);
        }
    }

    /// Whether the client allows it to be sent twice.
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// Asks for an uncompressed answer, as alvus must read a stream of events.
    pub fn ask_for_plain_text(&mut self) {
        self.codings = Vec::new();
    }

    /// Lends the whole head, with the body's length and the line that holds the key. Returns how much of it is to be
    /// [given back](Prepared::give_back).
    pub(super) fn lend_head(&mut self, body: Option<usize>, key: [&[u8]; 2]) -> (Vec<u8>, usize) {
        let mut head = mem::take(&mut self.head);
        let size = head.len();
        match self.codings.is_empty() {
            true => head.extend_from_slice(b"accept-encoding: identity\r\n"),
            false => head.extend_from_slice(&self.codings),
        }
        if let Some(length) = body.or(self.expects_body.then_some(0)) {
            reply::number(&mut head, "content-length", length as u64);
        }
        for part in [key[0], key[1], b"\r\n\r\n"] {
            head.extend_from_slice(part);
        }
        (head, size)
    }

    /// The attempt is over: removes its key.
    pub(super) fn give_back(&mut self, mut head: Vec<u8>, size: usize) {
        head.truncate(size);
        self.head = head;
    }
}
