//! Maps a request target to a page of alvus' own, or to the provider's path. Pure.

use std::borrow::Cow;

use memchr::memchr;

use crate::ascii::begins;

/// Why a request target cannot be mapped; the text is for the client.
#[derive(Debug, PartialEq, Eq)]
pub struct BadTarget(pub &'static str);

/// The query parameter in which Google's clients send their key.
const KEY_PARAMETER: &str = "key";

/// The path that clients put before all paths (`OPENAI_BASE_URL=http://…/v1`).
const CLIENT_BASE: &str = "/v1";

/// The origin-form of a request target (RFC 9112 §3.2): an absolute-form one is reduced.
///
/// # Errors
/// For fragments, `*` and authority-form targets, which a reverse proxy cannot map.
pub fn origin_form(target: &str) -> Result<&str, BadTarget> {
    if target.contains('#') {
        return Err(BadTarget(
            "a # in the request target must be percent-encoded",
        ));
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| begins(target.as_bytes(), scheme).then(|| &target[scheme.len()..]));
    let Some(rest) = rest else {
        return Err(BadTarget(
            "the request target must be a path, such as /v1/chat/completions",
        ));
    };
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes()[at] == b'/' => Ok(&rest[at..]),
        Some(_) => Err(BadTarget("the request target has a query but no path")),
        None => Ok("/"),
    }
}

/// The paths that alvus answers itself. Others lead to the provider.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Own {
    /// The page at `/`.
    Front,
    /// The state of the keys.
    Health,
    /// The counters.
    Metrics,
    /// The page of the dashboard.
    Dashboard,
    /// What it shows.
    Data,
    /// Claude Code's first request, whether a server is there.
    Hello,
    /// What browsers and crawlers ask of every server. Upstream it would cost a key each time.
    Nothing,
}

/// The page at this path.
pub fn own(path: &str) -> Option<Own> {
    Some(match path {
        "/" => Own::Front,
        "/health" => Own::Health,
        "/metrics" => Own::Metrics,
        "/dashboard" => Own::Dashboard,
        "/dashboard/data" => Own::Data,
        "/api/hello" => Own::Hello,
        "/favicon.ico" | "/robots.txt" => Own::Nothing,
        _ if path.starts_with("/apple-touch-icon") || path.starts_with("/.well-known/") => {
            Own::Nothing
        }
        _ => return None,
    })
}

/// Whether a segment of this path is `.` or `..`, as written or once decoded: then it may lead out of the provider's
/// API.
pub fn has_dot_segments(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false; // true of nearly all paths
    }
    let mut dots = Some(0); // the dots of this segment; `None`: it has other characters
    for byte in decoded(path).chain([b'/']) {
        match byte {
            b'/' | b'\\' | b';' if matches!(dots, Some(1 | 2)) => return true,
            b'/' | b'\\' => dots = Some(0),
            b'.' => dots = dots.map(|n| n + 1),
            _ => dots = None,
        }
    }
    false
}

/// The percent-decoded bytes of a text. Invalid encodings stay as they are.
fn decoded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let digit = |b: Option<&u8>| char::from(*b?).to_digit(16);
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        rest = after;
        if *first == b'%'
            && let (Some(high), Some(low)) = (digit(after.first()), digit(after.get(1)))
        {
            rest = &after[2..];
            return u8::try_from(high * 16 + low).ok();
        }
        Some(*first)
    })
}

/// The path of an origin-form target, without its query.
pub fn path(target: &str) -> &str {
    let end = memchr(b'?', target.as_bytes());
    &target[..end.unwrap_or(target.len())]
}

/// Whether a path is one of NVIDIA's visual models: they have their own host (`GENAI_BASE_URL`), and their path is not
/// changed.
pub fn is_genai(path: &str) -> bool {
    path.contains("/genai/")
}

/// Whether a path is completions or chat completions, whose streams end with `data: [DONE]`.
pub fn is_completion(path: &str) -> bool {
    path.ends_with("/completions")
}

/// The kinds of paths that count as a chat.
pub const TALKS: [&str; 3] = ["/chat", "/completions", "/messages"];

/// The kind of a path: its first segment after `/v1`, such as `/models` or `/files`. Providers
/// limit and refuse these separately.
pub fn kind(path: &str) -> Cow<'static, str> {
    let rest = path.strip_prefix(CLIENT_BASE).unwrap_or(path);
    let segment = rest.split('/').find(|segment| !segment.is_empty());
    let segment = segment.unwrap_or_default();
    match TALKS.iter().find(|talk| talk[1..] == *segment) {
        Some(talk) => Cow::Borrowed(talk),
        None => ["/", segment].concat().into(),
    }
}

/// The target upstream: a leading `/v1` of the client's path is replaced by `base_path` (which has
/// no trailing slash), and a key in the query is left out. Everything else, percent-encoding included,
/// stays byte for byte.
pub fn upward(base_path: &str, target: &str) -> String {
    let rest = match target.strip_prefix(CLIENT_BASE) {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) => rest,
        _ => target,
    };
    let mut up = String::with_capacity(base_path.len() + rest.len() + 1);
    up.push_str(base_path);
    if up.is_empty() && !rest.starts_with('/') {
        up.push('/');
    }
    push_without_key(&mut up, rest);
    up
}

/// The same for a target whose path is not changed.
pub fn upward_whole(base_path: &str, target: &str) -> String {
    let mut up = String::with_capacity(base_path.len() + target.len());
    up.push_str(base_path);
    push_without_key(&mut up, target);
    up
}

/// Appends a target without the query parameters that hold a client's key.
fn push_without_key(up: &mut String, target: &str) {
    let Some((path, query)) = target.split_once('?') else {
        return up.push_str(target);
    };
    let is_key = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        decoded(name).eq(KEY_PARAMETER.bytes())
    };
    if !query.split('&').any(|parameter| is_key(&parameter)) {
        return up.push_str(target);
    }
    up.push_str(path);
    let kept = query.split('&').filter(|parameter| !is_key(parameter));
    for (at, parameter) in kept.enumerate() {
        up.push(if at == 0 { '?' } else { '&' });
        up.push_str(parameter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_v1_becomes_the_targets_path() {
        for (base, target, expected) in [
            ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
            (
                "/openai/v1",
                "/v1/chat/completions",
                "/openai/v1/chat/completions",
            ),
            (
                "/v1beta/openai",
                "/v1/models?a=b%20c&d",
                "/v1beta/openai/models?a=b%20c&d",
            ),
            ("/api/paas/v4", "/v1/models", "/api/paas/v4/models"),
            ("", "/v1/models", "/models"),
            ("", "/v1", "/"),
            ("", "/v1?x", "/?x"),
            ("/v1", "/v1", "/v1"),
            ("/v1", "/v1/", "/v1/"),
            ("/v1", "/v1?limit=1", "/v1?limit=1"),
            ("/v1", "/chat/completions", "/v1/chat/completions"),
            ("/v1", "/v10/models", "/v1/v10/models"),
            ("/v1", "/v1/a%2Fb//c/../d", "/v1/a%2Fb//c/../d"),
            ("/v1", "/v1/v1/models", "/v1/v1/models"),
            ("/v1", "/v1/models?key=AIza", "/v1/models"),
            (
                "/v1",
                "/v1/models?a=%20&key=AIza&b&&=",
                "/v1/models?a=%20&b&&=",
            ),
            ("/v1", "/v1/models?%6bey=AIza&key", "/v1/models"),
            ("", "/v1?key=1&key=2", "/"),
            (
                "/v1",
                "/v1/models?keys=1&akey=2&Key=3&a=key",
                "/v1/models?keys=1&akey=2&Key=3&a=key",
            ),
        ] {
            assert_eq!(upward(base, target), expected, "{base} + {target}");
        }
    }

    #[test]
    fn an_absolute_form_target_is_reduced_to_its_path() {
        for (target, expected) in [
            ("/v1/models", Ok("/v1/models")),
            ("//x", Ok("//x")),
            (
                "http://host:1/v1/models?q=http://a/b",
                Ok("/v1/models?q=http://a/b"),
            ),
            ("HTTPS://host", Ok("/")),
        ] {
            assert_eq!(origin_form(target), expected, "{target}");
        }
        for bad in [
            "/v1/models#part",
            "*",
            "host:443",
            "",
            "ftp://x/y",
            "http://host?x",
            "é",
        ] {
            assert!(origin_form(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn visual_models_are_known_by_their_path() {
        assert!(is_genai("/v1/genai/stabilityai/sdxl"));
        assert!(!is_genai(path("/v1/chat/completions?x=/genai/")));
        assert!(!is_genai("/v1/genai"));
    }

    #[test]
    fn a_path_that_stays_whole_loses_nothing_but_a_key() {
        for (target, expected) in [
            ("/v1/genai/a/b?x=1", "/base/v1/genai/a/b?x=1"),
            ("/v1/genai/a/b?key=1&x=1", "/base/v1/genai/a/b?x=1"),
        ] {
            assert_eq!(upward_whole("/base", target), expected);
        }
    }

    #[test]
    fn a_segment_of_dots_is_found_however_it_is_written() {
        for path in [
            "/v1/../x",
            "/v1/..",
            "/..",
            "/.",
            "/v1/./x",
            "/v1/%2e%2E/x",
            "/v1/.%2e",
            "/%2e",
            "/v1/..%2fx",
            "/v1%2f..%2Fx",
            "/v1/..\\x",
            "/v1/..%5cx",
            "/v1/..;/x",
            "/v1/..;a=b/x",
        ] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in [
            "/",
            "/v1/models",
            "/v1/a..b",
            "/v1/...",
            "/v1/.env",
            "/v1/..a",
            "/v1/a.",
            "/v1/a..",
            "/v1/meta%2fllama-3.1:free",
            "/v1/%",
            "/v1/%2",
            "/v1/%zz.",
            "//double//",
            "/v1/%2e%2ea",
            "/v1/%252e%252e/x",
            "/v1/a;..",
            "/v1/;.",
        ] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }

    #[test]
    fn our_own_pages_are_known_by_their_whole_path() {
        assert_eq!(own("/"), Some(Own::Front));
        assert_eq!(own("/dashboard/data"), Some(Own::Data));
        assert_eq!(own("/apple-touch-icon-120x120.png"), Some(Own::Nothing));
        for path in [
            "/health/",
            "/Health",
            "//health",
            "/v1",
            "/v1/health",
            "/api/hello2",
            "",
        ] {
            assert_eq!(own(path), None, "{path}");
        }
    }

    #[test]
    fn a_query_does_not_hide_a_path() {
        assert_eq!(path("/health"), "/health");
        assert_eq!(path("/health?x=/y?z"), "/health");
        assert_eq!(path("/health/"), "/health/");
    }
}
