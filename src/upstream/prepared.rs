//! What goes up: where, and as which bytes.

use std::mem;
use std::sync::OnceLock;

use ureq::http::{self, Method, Uri};

use super::tls;
use crate::config::{Scheme, Target};
use crate::headers::{self, ConnectionOptions};
use crate::reply;
use crate::retry::Repeat;

/// Room for the head of most requests.
const HEAD: usize = 512;

/// Where requests go: a [`Target`] taken apart once for all of them.
#[derive(Debug, PartialEq)]
pub struct Origin {
    /// What ureq gets to know of a request's target.
    pub(super) uri: Uri,
    /// The host as it stands in a head.
    host: String,
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
        let (scheme, usual) = match target.scheme {
            Scheme::Http => (http::uri::Scheme::HTTP, 80),
            Scheme::Https if tls::name(authority.host()).is_none() => {
                return Err(format!(
                    "https://{text}: no certificate can be for such a name; expected a host name (labels of letters, digits and hyphens) or an address"
                ));
            }
            Scheme::Https => (http::uri::Scheme::HTTPS, 443),
        };
        let host = match authority.port_u16() {
            Some(port) if port != usual => format!("{}:{port}", authority.host()),
            _ => authority.host().to_owned(),
        };
        let uri = Uri::builder().scheme(scheme).authority(authority);
        let uri = uri.path_and_query("/").build();
        let uri = uri.map_err(|_| format!("{text:?} is no host"))?;
        Ok(Origin { uri, host })
    }
}

/// Our name in `Via`: another one in each process, so that two of us can stand in a row and each still knows a
/// request that it has seen.
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
/// ureq gets to know where it goes, and no more: its head is lines ready to be written, which `wire.rs` sends. As a
/// map they would be hashed, copied and looked through by ureq, which has no use for them.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub(super) uri: Uri,
    /// No body comes back.
    pub(super) is_head: bool,
    /// A length is expected even of no body (RFC 9110 §8.6).
    expects_body: bool,
    /// From the request line to the client's last field; behind that, only while it is lent, what an attempt adds.
    head: Vec<u8>,
    /// The lines of `Accept-Encoding`, if what comes may be in a coding.
    codings: Vec<u8>,
    repeat: Repeat,
}

impl Prepared {
    /// Turns a client's request into what goes up: `to` and `path` are where, `fields` are the client's
    /// own, as the front door let them in (the ones that stay down are left out here).
    ///
    /// # Errors
    /// When method or path cannot be sent; the text is for the client.
    pub fn new<'a>(
        method: &str,
        to: &Origin,
        path: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Prepared, String> {
        let known = Method::from_bytes(method.as_bytes())
            .map_err(|_| "the request method is not valid".to_string())?;
        let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'<' | b'>');
        if !path.bytes().all(fits) {
            let text = "the request target holds characters that must be percent-encoded";
            return Err(text.into());
        }
        let connection = fields
            .clone()
            .filter(|(name, _)| headers::is(name, "connection"));
        let options = ConnectionOptions::new(connection.map(|(_, value)| value));
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
        let line = [method, " ", path, " HTTP/1.1\r\nhost: ", &to.host, "\r\n"];
        for part in line {
            prepared.head.extend_from_slice(part.as_bytes());
        }
        // What is made for this request must be readable on the way: an error, a stream of events. A
        // download may stay compressed.
        let download = matches!(known, Method::GET | Method::HEAD);
        for (name, value) in fields {
            if !headers::goes_up(name, &options) {
                continue;
            }
            if headers::is(name, "idempotency-key") {
                prepared.repeat = Repeat::SameKey;
            }
            let lines = match headers::is(name, "accept-encoding") {
                true if !download => continue,
                true => &mut prepared.codings,
                false => &mut prepared.head,
            };
            reply::field(lines, name, value);
        }
        // RFC 9110 §7.6.3. Behind those of the client, which say where it was before.
        for part in ["via: 1.1 ", pseudonym(), "\r\n"] {
            prepared.head.extend_from_slice(part.as_bytes());
        }
        Ok(prepared)
    }

    /// Whether the client allows it to be sent twice.
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// Asks for an answer that can be read on the way, as a stream of events has to be.
    pub fn ask_for_plain_text(&mut self) {
        self.codings = Vec::new();
    }

    /// Lends the whole head, with the length of a body and the line that holds a key. Says how much of it is to be
    /// [given back](Prepared::give_back).
    pub(super) fn lend_head(&mut self, body: Option<usize>, key: [&[u8]; 2]) -> (Vec<u8>, usize) {
        let mut head = mem::take(&mut self.head);
        let size = head.len();
        match self.codings.is_empty() {
            true => reply::field(&mut head, "accept-encoding", b"identity"),
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

    /// The attempt is over: its key goes.
    pub(super) fn give_back(&mut self, mut head: Vec<u8>, size: usize) {
        head.truncate(size);
        self.head = head;
    }
}
