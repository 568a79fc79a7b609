//! Who may ask: parses `CLIENT_KEYS`, `ALLOWED_HOSTS` and `ALLOWED_ORIGINS`.
//!
//! It checks only their form; [`crate::access`] applies them. Messages show no part of a client key.

use std::net::{IpAddr, Ipv6Addr};

use crate::secret::ApiKey;

/// The most clients; each is a line of `/health` and a label of `/metrics`.
pub const MAX_CLIENTS: usize = 64;

/// The longest name, as it is shown in logs and pages.
const LONGEST_NAME: usize = 32;

/// Somebody on the same network could guess a shorter key.
const GUESSABLE: usize = 16;

/// A client that may ask, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// 1 to 32 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// Visible ASCII characters only.
    pub key: ApiKey,
}

/// The clients of `CLIENT_KEYS`, and the list's faults, in words that follow its name.
pub fn client_keys(text: &str, api_keys: &[ApiKey]) -> (Vec<ClientKey>, Vec<String>) {
    let mut found: Vec<ClientKey> = Vec::new();
    let mut faults = Vec::new();
    let entries = || text.split(',').map(str::trim).filter(|e| !e.is_empty());
    let count = entries().count();
    if count > MAX_CLIENTS {
        faults.push(format!(
            "{count} clients are too many, expected at most {MAX_CLIENTS}"
        ));
    }
    for (at, entry) in (1..).zip(entries().take(MAX_CLIENTS)) {
        match client_key(entry, &found, api_keys) {
            Ok(client) => found.push(client),
            Err(why) => faults.push(format!(
                "client {at} of {count} {why}, expected name:key pairs separated by commas, for example \
                 CLIENT_KEYS=phone:key1,laptop:key2"
            )),
        }
    }
    (found, faults)
}

fn client_key(
    entry: &str,
    earlier: &[ClientKey],
    api_keys: &[ApiKey],
) -> Result<ClientKey, &'static str> {
    let Some((name, key)) = entry.split_once(':') else {
        return Err("has no colon");
    };
    let (name, key) = (name.trim_end(), ApiKey::new(key.trim_start()));
    if !is_name(name) {
        return Err("has no name of 1 to 32 letters, digits, dots, dashes and underscores");
    }
    if key.fault().is_some() {
        return Err("has a key that is empty or does not consist of visible ASCII characters");
    }
    if earlier.iter().any(|c| c.name == name) {
        return Err("has the name of an earlier one");
    }
    if earlier.iter().any(|c| c.key == key) {
        return Err("has the key of an earlier one");
    }
    if api_keys.contains(&key) {
        return Err("has one of API_KEYS, which is for the provider and not to be given away");
    }
    Ok(ClientKey {
        name: name.to_owned(),
        key,
    })
}

/// Whether it is a valid name of a client or a key.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain)
}

/// A warning if keys could be guessed.
pub fn short_keys(clients: &[ClientKey]) -> Option<String> {
    let short = |c: &&ClientKey| c.key.characters() < GUESSABLE;
    let names: Vec<&str> = clients
        .iter()
        .filter(short)
        .map(|c| c.name.as_str())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "CLIENT_KEYS: a key of fewer than {GUESSABLE} characters can be guessed: {}; `openssl rand -hex 16` makes a good key",
            names.join(", ")
        )
    })
}

/// The host that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address. IPv4 inside IPv6 becomes IPv4.
    Address(IpAddr),
    /// A name in lower case, without the final dot.
    Name(String),
}

/// The longest host name (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 253;

impl Host {
    /// Reads the `host[:port]` of a `Host` field (RFC 9110 §7.2). The port is checked and dropped. `None`: neither a
    /// name nor an address, or a user name before an `@`. Only the usual form is an address: `127.1` is a name.
    pub fn parse(text: &str) -> Option<Host> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                let port = match port {
                    "" => "",
                    more => more.strip_prefix(':')?,
                };
                (Host::Address(IpAddr::V6(address).to_canonical()), port)
            }
            None => {
                let (name, port) = text.split_once(':').unwrap_or((text, ""));
                (Host::name(name)?, port)
            }
        };
        let fits = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
        fits.then_some(host)
    }

    fn name(text: &str) -> Option<Host> {
        // An IPv6 address is in brackets.
        if text.starts_with(|c: char| c.is_ascii_digit())
            && let Ok(address) = text.parse()
        {
            return Some(Host::Address(IpAddr::V4(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let fits = !name.is_empty()
            && name.len() <= LONGEST_HOST
            && !name.starts_with('.')
            && name.bytes().all(plain);
        fits.then(|| Host::Name(name.to_ascii_lowercase()))
    }
}

/// Reads `ALLOWED_HOSTS`: names and addresses. A port is allowed and ignored.
pub fn hosts(text: &str) -> Result<Vec<Host>, &'static str> {
    list(text, |host| match host.parse::<IpAddr>() {
        Ok(address) => Ok(Host::Address(address.to_canonical())),
        Err(_) => Host::parse(host).ok_or("a host has no http:// and no path"),
    })
}

/// Web pages that may ask, as `Origin` names them (RFC 6454 §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebOrigin {
    /// `scheme://host[:port]` in lower case.
    One(String),
    /// All origins of a scheme other than the web's: `vscode-webview://*`, where hosts are new each time.
    Scheme(String),
    /// `null`: a page from a file, a frame in a sandbox, some desktop agents.
    Nameless,
}

impl WebOrigin {
    fn parse(text: &str) -> Result<WebOrigin, &'static str> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(WebOrigin::Nameless);
        }
        let (scheme, host) = text.split_once("://").unwrap_or_default();
        let word = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(word) {
            return Err("an origin has a scheme, a host, perhaps a port, and no path");
        }
        match host {
            "*" if matches!(scheme, "http" | "https") => {
                Err("that would be every web page; name those that may ask")
            }
            "*" => Ok(WebOrigin::Scheme(scheme.to_owned())),
            host if Host::parse(host).is_some() => Ok(WebOrigin::One(text)),
            _ => Err("an origin has a scheme, a host, perhaps a port, and no path"),
        }
    }

    /// Whether it includes a page with this `Origin`.
    pub fn covers(&self, origin: &str) -> bool {
        match self {
            WebOrigin::One(one) => one.eq_ignore_ascii_case(origin),
            WebOrigin::Nameless => origin == "null",
            WebOrigin::Scheme(scheme) => {
                let found = origin.split_once("://");
                found.is_some_and(|(found, _)| scheme.eq_ignore_ascii_case(found))
            }
        }
    }
}

/// Reads `ALLOWED_ORIGINS`.
pub fn origins(text: &str) -> Result<Vec<WebOrigin>, &'static str> {
    list(text, WebOrigin::parse)
}

/// A warning if any page may ask and no client key is needed.
pub fn nameless(origins: &[WebOrigin], clients: &[ClientKey]) -> Option<&'static str> {
    let open = clients.is_empty() && origins.contains(&WebOrigin::Nameless);
    open.then_some(
        "ALLOWED_ORIGINS: any web page can have the origin null (a frame in a sandbox); with CLIENT_KEYS=name:key they would need a key",
    )
}

fn list<T>(
    text: &str,
    one: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
    entries.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(host: Option<Host>) -> Option<String> {
        host.map(|host| match host {
            Host::Address(address) => format!("address {address}"),
            Host::Name(name) => format!("name {name}"),
        })
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        for (text, expected) in [
            ("localhost", "name localhost"),
            ("LocalHost:3000", "name localhost"),
            ("pi.local.", "name pi.local"),
            ("pi.local.:80", "name pi.local"),
            ("my_box-1", "name my_box-1"),
            ("127.0.0.1:", "address 127.0.0.1"),
            ("192.168.1.7:65535", "address 192.168.1.7"),
            ("[::1]", "address ::1"),
            ("[2001:DB8::7]:3000", "address 2001:db8::7"),
            ("[::ffff:127.0.0.1]:1", "address 127.0.0.1"),
            ("127.1", "name 127.1"),
            ("0x7f000001", "name 0x7f000001"),
        ] {
            assert_eq!(
                shown(Host::parse(text)).as_deref(),
                Some(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_host_is_not_read() {
        let long = "a".repeat(LONGEST_HOST + 1);
        for text in [
            "",
            ".",
            ":80",
            "::1",
            "[::1",
            "[::1]3000",
            "[::1]:x",
            "[127.0.0.1]",
            "a b",
            "a:b:c",
            "me@localhost",
            "localhost/",
            "localhost:123456",
            "höst",
            ".local",
            &long,
        ] {
            assert_eq!(shown(Host::parse(text)), None, "{text}");
        }
    }

    const KEY: &str = "client-key-secret-0001";

    #[test]
    fn clients_have_a_name_and_a_key_each() {
        let text = format!(" phone:{KEY} ,, my.lap-top_2 : other:with:colons-0123 ,");
        let (clients, faults) = client_keys(&text, &[]);
        assert_eq!(faults, [""; 0]);
        let names: Vec<&str> = clients.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["phone", "my.lap-top_2"]);
        assert!(clients[0].key.is(KEY.as_bytes()));
        assert!(clients[1].key.is(b"other:with:colons-0123"));
        assert_eq!(short_keys(&clients), None);
    }

    #[test]
    fn a_fault_gives_the_place_in_the_list_and_nothing_of_a_key() {
        let many: Vec<String> = (0..=MAX_CLIENTS)
            .map(|n| format!("c{n}:{KEY}{n}"))
            .collect();
        let provider = ApiKey::new("provider-secret-0001");
        for (text, expected) in [
            (KEY, "client 1 of 1 has no colon"),
            (":secret", "client 1 of 1 has no name"),
            ("a b:secret", "client 1 of 1 has no name"),
            ("ä:secret", "client 1 of 1 has no name"),
            (
                "123456789012345678901234567890123:secret",
                "client 1 of 1 has no name",
            ),
            ("a:", "client 1 of 1 has a key that is empty"),
            (
                "a:sec ret",
                "client 1 of 1 has a key that is empty or does not consist of visible",
            ),
            (
                "a:secret1,a:secret2",
                "client 2 of 2 has the name of an earlier one",
            ),
            (
                "a:secret1,b:secret1",
                "client 2 of 2 has the key of an earlier one",
            ),
            (
                "a:provider-secret-0001",
                "client 1 of 1 has one of API_KEYS",
            ),
            (&many.join(","), "65 clients are too many"),
        ] {
            let (_, faults) = client_keys(text, std::slice::from_ref(&provider));
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].starts_with(expected), "{faults:?}");
            assert!(!faults[0].contains("secret"), "{faults:?}");
        }
    }

    #[test]
    fn keys_that_can_be_guessed_are_named_by_their_clients() {
        let (clients, _) = client_keys(&format!("a:{KEY},b:secret,c:fifteen-letters"), &[]);
        let warning = short_keys(&clients).expect("a warning");
        assert!(warning.contains("guessed: b, c;"), "{warning}");
        assert!(!warning.contains("secret"), "{warning}");
    }

    #[test]
    fn hosts_and_origins_are_lists() {
        assert_eq!(
            hosts(" Pi.local, [::1]:3000,::2,,10.0.0.1"),
            Ok(vec![
                Host::Name("pi.local".into()),
                Host::Address("::1".parse().expect("an address")),
                Host::Address("::2".parse().expect("an address")),
                Host::Address("10.0.0.1".parse().expect("an address")),
            ])
        );
        assert!(hosts("http://pi.local").is_err() && hosts("*").is_err());
        for bad in [
            "localhost:5173",
            "https://a/",
            "*",
            "*://a",
            "://a",
            "http://",
            "http://*",
            "HTTPS://*",
            "http://*.example.com",
            "app://*/",
            "null,app",
        ] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_one_page_or_a_scheme_or_nameless() {
        for (listed, covered, others) in [
            (
                "HTTP://LocalHost:5173,app://obsidian.md",
                &[
                    "http://localhost:5173",
                    "app://obsidian.md",
                    "APP://obsidian.md",
                ][..],
                &[
                    "http://localhost",
                    "https://localhost:5173",
                    "app://other",
                    "null",
                    "",
                ][..],
            ),
            (
                "VSCode-Webview://*",
                &["vscode-webview://0a1b2c3d", "vscode-webview://1?x=/"],
                &[
                    "vscode-webview",
                    "vscode-webview:",
                    "vscode-webviewx://a",
                    "http://vscode-webview://a",
                ],
            ),
            (
                "tauri://localhost",
                &["tauri://localhost"],
                &["http://tauri.localhost"],
            ),
            ("null", &["null"], &["", "NULL", "null://a", "http://null"]),
        ] {
            let origins = origins(listed).expect(listed);
            let covers = |text: &&&str| origins.iter().any(|o| o.covers(text));
            assert!(covered.iter().all(|text| covers(&text)), "{listed}");
            assert!(!others.iter().any(|text| covers(&text)), "{listed}");
        }
    }

    #[test]
    fn pages_without_a_name_draw_a_warning_where_no_key_is_asked_for() {
        let (nobody, clients) = (Vec::new(), client_keys(&format!("a:{KEY}"), &[]).0);
        let listed = |text| origins(text).expect(text);
        assert!(nameless(&listed("app://a,null"), &nobody).is_some());
        assert_eq!(nameless(&listed("app://a,null"), &clients), None);
        assert_eq!(nameless(&listed("app://*"), &nobody), None);
    }
}
