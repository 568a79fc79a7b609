//! Parses and checks `TARGET_BASE_URL`: where requests go, and under which path.

use std::fmt;
use std::net::Ipv6Addr;

use super::form::whole_number;

/// How to connect to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS: a server on this machine or network.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `"http"` or `"https"`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Origin and path prefix of `TARGET_BASE_URL`. `Display` gives the URL without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// `host` or `host:port` in lower case, as the `Host` header has it: `integrate.api.nvidia.com`, `[::1]:8080`.
    pub authority: String,
    /// Empty, or a path with a leading and without a trailing slash: `/v1`. Percent-encoding as it was written.
    pub base_path: String,
}

impl Target {
    /// Parses an `http://` or `https://` URL.
    ///
    /// # Errors
    /// What is wrong. It shows none of the text, as a pasted URL may hold a password.
    pub fn parse(url: &str) -> Result<Target, &'static str> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("it does not start with http:// or https://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("it does not start with http:// or https://"),
        };
        if rest.contains('?') {
            return Err("it has a query (?…)");
        }
        if rest.contains('#') {
            return Err("it has a fragment (#…)");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("it has a user name or password (…@)");
        }
        check_authority(authority)?;
        let base_path = path.trim_end_matches('/');
        check_path(base_path)?;
        Ok(Target {
            scheme,
            authority: authority.to_ascii_lowercase(),
            base_path: base_path.to_owned(),
        })
    }

    /// The host without its port; an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        }
    }

    /// Whether its host is this domain, or one under it.
    pub fn is_at(&self, domain: &str) -> bool {
        let host = self.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        let start = host.strip_suffix(domain);
        start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
    }

    /// `https://host` or `https://host:port`, without a path.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme.as_str(), self.authority)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.base_path)
    }
}

fn check_authority(authority: &str) -> Result<(), &'static str> {
    let port = if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or("its [ has no ]")?;
        address
            .parse::<Ipv6Addr>()
            .map_err(|_| "its host is not an IPv6 address")?;
        match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err("only a :port may follow its ]"),
        }
    } else {
        let mut parts = authority.splitn(2, ':');
        let (host, port) = (parts.next().unwrap_or_default(), parts.next());
        if host.is_empty() {
            return Err("it has no host");
        }
        if !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
            || host.starts_with('.')
        {
            return Err("its host has characters that a host name cannot have");
        }
        port
    };
    match port.map(whole_number) {
        None | Some(Some(1..=65535)) => Ok(()),
        Some(_) => Err("its port is not a number from 1 to 65535"),
    }
}

/// Checks for RFC 3986 `path-abempty`, which a request line can hold as it is.
fn check_path(path: &str) -> Result<(), &'static str> {
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let fine = match byte {
            b'%' => [rest.next(), rest.next()]
                .iter()
                .all(|b| b.is_some_and(|b| b.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fine {
            return Err("its path has a character that must be percent-encoded");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_into_origin_and_base_path() {
        for (url, origin, base_path) in [
            (
                "https://integrate.api.nvidia.com/v1",
                "https://integrate.api.nvidia.com",
                "/v1",
            ),
            (
                "https://integrate.api.nvidia.com/v1///",
                "https://integrate.api.nvidia.com",
                "/v1",
            ),
            (
                "HTTPS://Api.Groq.COM/openai/V1",
                "https://api.groq.com",
                "/openai/V1",
            ),
            ("http://localhost:11434", "http://localhost:11434", ""),
            ("http://localhost:11434/", "http://localhost:11434", ""),
            (
                "http://10.0.0.7:80/a%20b/~c@d:e",
                "http://10.0.0.7:80",
                "/a%20b/~c@d:e",
            ),
            (
                "http://[::1]:8080/v1beta/openai",
                "http://[::1]:8080",
                "/v1beta/openai",
            ),
            ("http://[fe80::1]", "http://[fe80::1]", ""),
            ("http://my_box.lan./v1", "http://my_box.lan.", "/v1"),
        ] {
            let target = Target::parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            assert_eq!(
                (target.origin().as_str(), target.base_path.as_str()),
                (origin, base_path),
                "{url}"
            );
            assert_eq!(target.to_string(), format!("{origin}{base_path}"), "{url}");
        }
    }

    #[test]
    fn a_host_has_no_port_and_an_ipv6_address_keeps_its_brackets() {
        for (url, host) in [
            ("https://Api.Groq.COM/openai/v1", "api.groq.com"),
            ("http://localhost:11434", "localhost"),
            ("http://[::1]:8080", "[::1]"),
            ("http://[fe80::1]", "[fe80::1]"),
        ] {
            assert_eq!(Target::parse(url).expect(url).host(), host, "{url}");
        }
    }

    #[test]
    fn a_host_is_at_a_domain_or_under_it_and_not_beside_it() {
        for (url, is_there) in [
            ("https://integrate.api.nvidia.com/v1", true),
            ("https://NVIDIA.com:8443", true),
            ("http://nvidia.com.", true),
            ("https://not-nvidia.com", false),
            ("https://nvidia.com.example.org", false),
            ("https://example.org/nvidia.com", false),
            ("http://[::1]:8080", false),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!(target.is_at("nvidia.com"), is_there, "{url}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_a_base_is_refused_with_the_reason() {
        for (url, why) in [
            ("", "http://"),
            ("integrate.api.nvidia.com/v1", "http://"),
            ("ftp://host/v1", "http://"),
            ("https:/host/v1", "http://"),
            ("https://", "no host"),
            ("https:///v1", "no host"),
            ("https://:443/v1", "no host"),
            ("https://user:pass@host/v1", "password"),
            ("https://host/v1?key=1", "query"),
            ("https://host?key=1", "query"),
            ("https://host/v1#top", "fragment"),
            ("https://host:/v1", "port"),
            ("https://host:0/v1", "port"),
            ("https://host:65536/v1", "port"),
            ("https://host:+80/v1", "port"),
            ("https://host:99999999999999999999/v1", "port"),
            ("https://::1/v1", "no host"),
            ("https://[::1/v1", "["),
            ("https://[::g]/v1", "IPv6"),
            ("https://[::1]8080/v1", "]"),
            ("https://ho st/v1", "host name"),
            ("https://höst/v1", "host name"),
            ("https://host\\v1", "host name"),
            ("https://host/v 1", "percent"),
            ("https://host/v1\r\nX: y", "percent"),
            ("https://host/ä", "percent"),
            ("https://host/%2", "percent"),
            ("https://host/%zz", "percent"),
            ("https://host/{model}", "percent"),
        ] {
            let fault = Target::parse(url).expect_err(url);
            assert!(fault.contains(why), "{url}: {fault}");
        }
    }
}
