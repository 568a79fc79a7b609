//! What goes up: where, and as which bytes.

use std::sync::OnceLock;

use ureq::http::uri::PathAndQuery;
use ureq::http::{self, Method, Uri};

use super::tls;
use crate::config::{Faults, Scheme, Target};
use crate::headers::{self, ConnectionOptions};
use crate::logging::shown;
use crate::reply::{self, BadRequest};
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
        Ok(Origin { uri, host })
    }
}

fn no_host(text: &str) -> Faults {
    format!("{text:?} is no host").into()
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
#[derive(Debug)]
pub struct Prepared {
    pub(super) uri: Uri,
    /// No body comes back.
    pub(super) is_head: bool,
    /// A length is expected even of no body (RFC 9110 §8.6).
    expects_body: bool,
    /// From the request line to the client's last field.
    head: Vec<u8>,
    /// The lines of `Accept-Encoding`, if what comes may be in a coding.
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
    ) -> Result<Prepared, BadRequest> {
        let bad = |text: &str| BadRequest(text.to_owned());
        let known = Method::from_bytes(method.as_bytes())
            .map_err(|_| bad("the request method is not valid"))?;
        let path = PathAndQuery::try_from(path)
            .map_err(|_| bad("the request target holds characters that must be percent-encoded"))?;
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
        prepared.put(&[
            method,
            " ",
            path.as_str(),
            " HTTP/1.1\r\nhost: ",
            &to.host,
            "\r\n",
        ]);
        // What is made for this request must be readable on the way: an error, a stream of events. A
        // download may stay compressed.
        let is_download = matches!(known, Method::GET | Method::HEAD);
        prepared.put_fields(fields, is_download)?;
        // RFC 9110 §7.6.3. Behind those of the client, which say where it was before.
        prepared.put(&["via: 1.1 ", pseudonym(), "\r\n"]);
        Ok(prepared)
    }

    fn put(&mut self, parts: &[&str]) {
        for part in parts {
            self.head.extend_from_slice(part.as_bytes());
        }
    }

    /// Those of the client's fields that go up.
    fn put_fields<'a>(
        &mut self,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
        is_download: bool,
    ) -> Result<(), BadRequest> {
        let connection = fields
            .clone()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let options = ConnectionOptions::new(connection.map(|(_, value)| value));
        for (name, value) in fields {
            if !headers::goes_up(name, &options) {
                continue;
            }
            if !headers::well_formed(name, value) {
                let text = format!("the header field `{}` is not valid", shown(name));
                return Err(BadRequest(text));
            }
            if name.eq_ignore_ascii_case("idempotency-key") {
                self.repeat = Repeat::SameKey;
            }
            let lines = match name.eq_ignore_ascii_case("accept-encoding") {
                true if !is_download => continue,
                true => &mut self.codings,
                false => &mut self.head,
            };
            reply::field(lines, name, value);
        }
        Ok(())
    }

    /// Whether the client allows it to be sent twice.
    pub fn repeat(&self) -> Repeat {
        self.repeat
    }

    /// Asks for an answer that can be read on the way, as a stream of events has to be.
    pub fn ask_for_plain_text(&mut self) {
        self.codings = Vec::new();
    }

    /// The whole head, with the length of a body and the line that holds a key.
    pub(super) fn head(&self, body: Option<usize>, key: [&[u8]; 2]) -> Vec<u8> {
        let [field, key] = key;
        let size = self.head.len() + self.codings.len() + field.len() + key.len();
        let mut head = Vec::with_capacity(size + 64);
        head.extend_from_slice(&self.head);
        match self.codings.is_empty() {
            true => reply::field(&mut head, "accept-encoding", b"identity"),
            false => head.extend_from_slice(&self.codings),
        }
        if let Some(length) = body.or(self.expects_body.then_some(0)) {
            reply::number(&mut head, "content-length", length as u64);
        }
        head.extend_from_slice(field);
        head.extend_from_slice(key);
        head.extend_from_slice(b"\r\n\r\n");
        head
    }
}
