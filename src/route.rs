//! Where a request target leads: the client's path, mapped onto the provider's. Pure.

/// Why a request target cannot be mapped; the text is for the client.
#[derive(Debug, PartialEq, Eq)]
pub struct BadTarget(pub &'static str);

/// The path clients put in front of everything (`OPENAI_BASE_URL=http://…/v1`).
const CLIENT_BASE: &str = "/v1";

/// The origin-form of a request target (RFC 9112 §3.2): an absolute-form one is reduced.
///
/// # Errors
/// For fragments, `*` and authority-form targets, which lead nowhere behind a reverse proxy.
pub fn origin_form(target: &str) -> Result<&str, BadTarget> {
    if target.contains('#') {
        return Err(BadTarget(
            "a # in the request target must be percent-encoded",
        ));
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme)
            .then(|| &target[scheme.len()..])
    });
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

/// The path of an origin-form target, without its query.
pub fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// Whether an origin-form target is one of NVIDIA's visual models, which have a host of their own
/// (`GENAI_BASE_URL`) and whose path stays as it is.
pub fn is_genai(target: &str) -> bool {
    target
        .split('?')
        .next()
        .is_some_and(|path| path.contains("/genai/"))
}

/// Whether an origin-form target is one of the two whose streams end with `data: [DONE]` in
/// OpenAI's API: completions and chat completions.
pub fn is_completion(target: &str) -> bool {
    target
        .split('?')
        .next()
        .is_some_and(|path| path.ends_with("/completions"))
}

/// What a request is about whose body names no model: the first segment of its path behind `/v1`,
/// such as `/models` or `/files`. Providers limit and refuse these apart from each other.
pub fn kind(target: &str) -> String {
    let path = path(target);
    let rest = path.strip_prefix(CLIENT_BASE).unwrap_or(path);
    let segment = rest.split('/').find(|segment| !segment.is_empty());
    format!("/{}", segment.unwrap_or_default())
}

/// The target upstream: a leading `/v1` of the client's path is replaced by `base_path` (which has
/// no trailing slash). Everything else, query and percent-encoding included, stays byte for byte.
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
    up.push_str(rest);
    up
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
        assert!(!is_genai("/v1/chat/completions?x=/genai/"));
        assert!(!is_genai("/v1/genai"));
    }

    #[test]
    fn a_query_does_not_hide_a_path() {
        assert_eq!(path("/health"), "/health");
        assert_eq!(path("/health?x=/y?z"), "/health");
        assert_eq!(path("/health/"), "/health/");
    }
}
