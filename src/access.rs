//! Decides who may ask, by which of our names, and from which web page. Pure; [`crate::server`] applies it.
//!
//! Three questions, in this order:
//! 1. [`Access::door`]: does the request name us (else it may be DNS rebinding: a web page whose host name was made to
//!    point at us), and may its web page ask? A page is known by its `Origin`; if a browser sends none (an image, a
//!    link, a form), by `Sec-Fetch-Site`.
//! 2. [`Access::client`]: does a request for the provider show a key of `CLIENT_KEYS`?
//! 3. [`Access::page`]: may this client see alvus' own pages? From this machine, yes. From others, with a client key,
//!    or with the cookie that a browser got for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::config::{ClientKey, Config, Host, WebOrigin};
use crate::headers::Field;
use crate::lock::lock;
use crate::logging::shown;
use crate::reply::Reply;
use crate::route;
use crate::secret::same;
use crate::sse::Tokens;

/// The realm of the challenges (RFC 9110 §11.5).
const BEARER: &str = "Bearer realm=\"alvus\"";
/// For the pages, so that a browser asks for the key in its own dialogue.
const BASIC: &str = "Basic realm=\"alvus\", charset=\"UTF-8\"";

/// How long a browser may remember a preflight, in seconds.
const PREFLIGHT_AGE: &str = "600";

/// How long a browser keeps the cookie, in seconds: a month, so that a phone need not ask for the key each time.
const COOKIE_AGE: &str = "2592000";

/// The rules, and how often each client asked.
#[derive(Debug)]
pub struct Access {
    clients: Vec<ClientKey>,
    /// Shared with the rules before a reload, which older requests still use.
    counts: Vec<Arc<Mutex<ClientUsage>>>,
    bound: SocketAddr,
    hosts: Vec<Host>,
    origins: Vec<WebOrigin>,
    /// It only opens the pages, until the clients change or alvus ends.
    cookie: String,
}

/// How much a client asked for so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ClientUsage {
    /// Requests.
    pub requests: u64,
    /// The tokens that the answers took.
    pub tokens: Tokens,
}

/// The parts of a request that decide.
#[derive(Debug, Default)]
pub struct AccessRequest<'a> {
    /// The client is a process of this machine, and not a proxy for another one.
    local: bool,
    target: &'a str,
    host: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    api_key: Option<&'a [u8]>,
    cookie: Option<&'a [u8]>,
    /// It may be a CORS preflight.
    preflight: bool,
    preflight_fields: Option<&'a [u8]>,
    /// What a browser says of the request's source (Fetch Metadata): another site; a link that somebody followed in a
    /// window of its own.
    foreign: bool,
    navigates: bool,
    to_window: bool,
    /// The method is GET or HEAD.
    looks: bool,
    /// It asks for WebSocket. (Java's clients always offer `h2c`; that is ignored.)
    pub upgrades: bool,
    /// It came through another proxy, or through us.
    pub via: bool,
}

impl<'a> AccessRequest<'a> {
    /// Reads the fields of a head. `target`: the request target as it came.
    pub fn new(
        peer: Option<IpAddr>,
        method: &str,
        target: &'a str,
        fields: impl Iterator<Item = Field<'a>>,
    ) -> AccessRequest<'a> {
        let mut asked = AccessRequest {
            local: peer.is_some_and(|ip| ip.to_canonical().is_loopback()),
            target,
            to_window: true,
            looks: matches!(method, "GET" | "HEAD"),
            ..AccessRequest::default()
        };
        for (name, value) in fields {
            let is = |ours: &str| name.eq_ignore_ascii_case(ours.as_bytes());
            // By length first, as each comparison of a name costs, and few fields match.
            match name.len() {
                3 if is("via") => asked.via = true,
                4 if is("host") => asked.host = Some(value),
                6 if is("origin") => asked.origin = Some(value),
                6 if is("cookie") => asked.cookie = Some(value),
                7 if is("api-key") => asked.api_key = Some(value),
                7 if is("upgrade") => asked.upgrades = value.eq_ignore_ascii_case(b"websocket"),
                9 if is("x-api-key") => asked.api_key = Some(value),
                // a proxy on this machine acts for another machine
                9 if is("forwarded") => asked.local = false,
                13 if is("authorization") => asked.authorization = Some(value),
                14 if is("sec-fetch-site") => {
                    let near = [&b"same-origin"[..], b"none"]; // `none`: typed by the user
                    asked.foreign = !near.contains(&value);
                }
                14 if is("sec-fetch-mode") => asked.navigates = value == b"navigate",
                14 if is("sec-fetch-dest") => asked.to_window = value == b"document",
                14 if is("x-goog-api-key") => asked.api_key = Some(value),
                15 if is("x-forwarded-for") => asked.local = false,
                29 if is("access-control-request-method") => asked.preflight = method == "OPTIONS",
                30 if is("access-control-request-headers") => asked.preflight_fields = Some(value),
                _ => {}
            }
        }
        asked
    }

    /// The key that it shows, in any field that clients use. The last field of a name counts.
    fn keys(&self) -> [Option<&'a [u8]>; 2] {
        let bearer = self.authorization.and_then(|v| credentials(v, "bearer"));
        [bearer, self.api_key]
    }
}

/// The credentials after a scheme in `Authorization` (RFC 9110 §11.4), in any case.
fn credentials<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(scheme.len())?;
    let fits = start.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    fits.then(|| rest.trim_ascii())
}

/// The password of `Authorization: Basic` (RFC 7617), with any user name.
fn password(value: &[u8]) -> Option<Vec<u8>> {
    let pair = base64(credentials(value, "basic")?)?;
    let colon = pair.iter().position(|b| *b == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Decodes base64 (RFC 4648 §4), with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.iter().take_while(|b| **b != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// Whether a client may see the operator's pages.
enum Trust {
    Known,
    /// Yes: a browser, by its password; it gets this `Set-Cookie`.
    Cookie(String),
    None,
}

impl Access {
    /// The rules of `config` for a server that listens on `bound`. `random` must not be guessable;
    /// `earlier` are the rules that these replace.
    pub fn new(
        config: &Config,
        bound: SocketAddr,
        random: [u8; 16],
        earlier: Option<&Access>,
    ) -> Access {
        let clients = config.client_keys.clone();
        let so_far = |client: &ClientKey| earlier.and_then(|e| e.count(&client.name));
        let counts = clients.iter().map(|c| so_far(c).unwrap_or_default());
        let counts = counts.collect();
        let same_clients = earlier.filter(|e| e.clients == clients);
        let cookie = match same_clients {
            Some(earlier) => earlier.cookie.clone(),
            // All ports of a host share cookies, so the name differs for each alvus.
            None => format!(
                "alvus-{}={:032x}",
                bound.port(),
                u128::from_ne_bytes(random)
            ),
        };
        Access {
            clients,
            counts,
            bound,
            hosts: config.allowed_hosts.clone(),
            origins: config.allowed_origins.clone(),
            cookie,
        }
    }

    fn count(&self, name: &str) -> Option<Arc<Mutex<ClientUsage>>> {
        let at = self.clients.iter().position(|c| c.name == name)?;
        Some(self.counts[at].clone())
    }

    /// The clients by name, and how much each asked for.
    pub fn clients(&self) -> Vec<(&str, ClientUsage)> {
        let names = self.clients.iter().map(|c| c.name.as_str());
        let counts = (0..self.counts.len()).map(|at| self.change(at, |_| ()));
        names.zip(counts).collect()
    }

    fn change(&self, client: usize, with: impl FnOnce(&mut ClientUsage)) -> ClientUsage {
        let mut count = lock(&self.counts[client]);
        with(&mut count);
        *count
    }

    /// Whether the request names us, and its web page, if any, may ask. `Ok`: the page's origin, if there is one, for
    /// [`crate::reply::Downstream`].
    ///
    /// # Errors
    /// The refusal.
    pub fn door<'a>(&self, asked: &AccessRequest<'a>) -> Result<Option<&'a str>, Reply> {
        // A target in absolute form names a host too, and takes precedence (RFC 9112 §3.2.2).
        let absolute = Some(asked.target).filter(|target| !target.starts_with('/'));
        let named = absolute.and_then(|target| target.split_once("://"));
        let named = named.map(|(_, rest)| {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            &rest.as_bytes()[..end]
        });
        // HTTP/1.0 needs no Host. Browsers, which web pages could misuse, always send one.
        for host in named.into_iter().chain(asked.host) {
            if !self.is_us(host) {
                let lossy = String::from_utf8_lossy(host);
                let text = format!(
                    "alvus is not known as {} here; if that is one of its names, add it to ALLOWED_HOSTS",
                    shown(&lossy)
                );
                return Err(Reply::error(421, "unknown_host", &text));
            }
        }
        let Some(origin) = asked.origin else {
            return self.without_origin(asked);
        };
        let text = str::from_utf8(origin).ok();
        let allowed = |text: &&str| {
            let own = text.strip_prefix("http://");
            own.is_some_and(|own| Some(own.as_bytes()) == asked.host)
                || self.origins.iter().any(|o| o.covers(text))
        };
        let Some(origin) = text.filter(allowed) else {
            let lossy = String::from_utf8_lossy(origin);
            let text = format!(
                "web pages of {} may not ask; if they should, add that to ALLOWED_ORIGINS",
                shown(&lossy)
            );
            return Err(Reply::error(403, "origin_not_allowed", &text));
        };
        Ok(Some(origin))
    }

    /// The same for a request without an origin: no browser, a page of ours, or another site's image, link or form.
    /// Another site may link only to pages that a person opens.
    fn without_origin<'a>(&self, asked: &AccessRequest<'a>) -> Result<Option<&'a str>, Reply> {
        let is_page = || {
            let target = route::origin_form(asked.target).unwrap_or_default();
            route::own(route::path(target)).is_some()
        };
        if !asked.foreign || (asked.navigates && asked.to_window && asked.looks && is_page()) {
            return Ok(None);
        }
        let text = "a page of another site sent this request; to allow it, use fetch() there and add its origin to ALLOWED_ORIGINS";
        Err(Reply::error(403, "cross_site", text))
    }

    /// The answer to a CORS preflight (Fetch standard, "CORS-preflight request"), which carries no
    /// credentials. Only for a visit that [`Access::door`] let in.
    pub fn preflight(&self, asked: &AccessRequest<'_>) -> Option<Reply> {
        if !asked.preflight || asked.origin.is_none() {
            return None;
        }
        let fields = String::from_utf8_lossy(asked.preflight_fields.unwrap_or_default());
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
        let reply = Reply::json(200, String::new())
            .with("access-control-allow-methods", methods)
            .with("access-control-allow-headers", fields.as_bytes())
            .with("access-control-max-age", PREFLIGHT_AGE);
        Some(reply)
    }

    fn is_us(&self, host: &[u8]) -> bool {
        let Some(host) = std::str::from_utf8(host).ok().and_then(Host::parse) else {
            return false;
        };
        let known = match &host {
            // Rebinding needs a name. A client that sends an address has connected to it.
            Host::Address(ip) => {
                let bound = self.bound.ip().to_canonical();
                ip.is_loopback() || bound.is_unspecified() || bound == *ip
            }
            // RFC 6761 §6.3: names under localhost lead to loopback.
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        };
        known || self.hosts.contains(&host)
    }

    /// The client of a request for the provider, by its index in `CLIENT_KEYS`; `None`: there are no client keys, and
    /// everyone may ask.
    ///
    /// # Errors
    /// The refusal: 401, as OpenAI words it.
    pub fn client(&self, asked: &AccessRequest<'_>) -> Result<Option<usize>, Reply> {
        if self.clients.is_empty() {
            return Ok(None);
        }
        let shown = asked.keys();
        match shown.iter().flatten().find_map(|key| self.known(key)) {
            Some(at) => Ok(Some(at)),
            None => Err(stranger(shown.iter().any(Option::is_some))),
        }
    }

    /// Counts a request of this client and returns its name.
    pub fn counted(&self, client: usize) -> &str {
        self.change(client, |asked| asked.requests += 1);
        &self.clients[client].name
    }

    /// Counts the tokens of an answer to this client.
    pub fn spent(&self, client: usize, tokens: Tokens) {
        self.change(client, |asked| asked.tokens += tokens);
    }

    /// The client with this key. It compares all of them, so that the time does not tell which.
    fn known(&self, key: &[u8]) -> Option<usize> {
        let mut found = None;
        for (at, client) in self.clients.iter().enumerate() {
            if client.key.is(key) {
                found = Some(at);
            }
        }
        found
    }

    /// Whether this client may see the operator's pages.
    fn trusts(&self, asked: &AccessRequest<'_>) -> Trust {
        if asked.local {
            return Trust::Known;
        }
        if self.clients.is_empty() {
            return Trust::None; // without CLIENT_KEYS there are no cookies
        }
        let mut cookies = asked.cookie.unwrap_or_default().split(|b| *b == b';');
        let by_cookie = cookies.any(|cookie| same(self.cookie.as_bytes(), cookie.trim_ascii()));
        let mut keys = asked.keys().into_iter().flatten();
        if by_cookie || keys.any(|key| self.known(key).is_some()) {
            return Trust::Known;
        }
        let password = asked.authorization.and_then(password);
        match password.and_then(|password| self.known(&password)) {
            Some(_) => Trust::Cookie(format!(
                "{}; Path=/; Max-Age={COOKIE_AGE}; HttpOnly; SameSite=Strict",
                self.cookie
            )),
            None => Trust::None,
        }
    }

    /// `/health` as this client may see it: `whole`, or its first field only.
    pub fn health(&self, asked: &AccessRequest<'_>, whole: Reply) -> Reply {
        if !matches!(self.trusts(asked), Trust::None) {
            return whole;
        }
        let status = whole.body.split(',').next().unwrap_or_default();
        Reply::json(whole.status, format!("{status}}}"))
    }

    /// A page of alvus' own, made by `show`, for those who may see it: processes of this machine,
    /// and from elsewhere those with a client key, in a field or as the password in a browser's
    /// dialogue, which gets a cookie for it. Others get a refusal.
    pub fn page(&self, asked: &AccessRequest<'_>, show: impl FnOnce() -> Reply) -> Reply {
        match self.trusts(asked) {
            Trust::Known => show(),
            Trust::Cookie(cookie) => show().with("set-cookie", cookie),
            Trust::None if self.clients.is_empty() => {
                let text = "other machines see this page only with a client key; set CLIENT_KEYS";
                Reply::error(403, "no_client_keys", text)
            }
            Trust::None => {
                let shown = asked.authorization.is_some() || asked.api_key.is_some();
                stranger(shown).with("www-authenticate", BASIC)
            }
        }
    }
}

fn stranger(showed_a_key: bool) -> Reply {
    let (code, text) = match showed_a_key {
        true => (
            "invalid_api_key",
            "Incorrect API key provided: it is not one of CLIENT_KEYS of this alvus.",
        ),
        false => (
            "missing_api_key",
            "You didn't provide an API key: send one of CLIENT_KEYS of this alvus as Authorization: Bearer KEY.",
        ),
    };
    Reply::error(401, code, text).with("www-authenticate", BEARER)
}

#[cfg(test)]
mod tests;
