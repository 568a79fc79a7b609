//! `GET /` and other small answers of alvus' own. The provider is not asked for these, as each request costs a key.

use crate::reply::Reply;

/// The page for a browser at alvus' address, with links to the other pages.
pub fn page(dashboard: bool) -> Reply {
    let link = match dashboard {
        true => "<li><a href=\"/dashboard\">/dashboard</a>: what it is doing",
        false => "",
    };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>alvus</title><link rel=icon href=\"data:,\">\n\
         <h1>alvus</h1>\n<p>A proxy between agents and a provider of language models. Nothing to see here: give your \
         agent this address and <b>/v1</b> as its base URL.\n\
         <ul>{link}<li><a href=\"/health\">/health</a>: the state of the keys\
         <li><a href=\"/metrics\">/metrics</a>: counters for Prometheus</ul>\n"
    );
    let policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    html(page, policy)
}

/// A page for a browser, which keeps to the policy.
pub(super) fn html(page: String, policy: &str) -> Reply {
    let reply = Reply {
        content_type: "text/html; charset=utf-8",
        ..Reply::json(200, page)
    };
    reply
        .with("content-security-policy", policy)
        .with("x-content-type-options", "nosniff")
        .with("referrer-policy", "no-referrer")
}

/// The answer to Claude Code's first request; it needs only a success.
pub fn hello() -> Reply {
    Reply::json(200, "{\"message\":\"hello\"}".into())
}

/// The answer to what no provider has either.
pub fn nothing() -> Reply {
    Reply::error(404, "not_found", "alvus has no such page")
}

/// Refuses other methods than GET and HEAD for pages of ours (RFC 9110 §15.5.6).
pub fn only_looked_at() -> Reply {
    let text = "this path is a page of alvus, which takes only GET and HEAD; clients ask under /v1";
    Reply::error(405, "method_not_allowed", text).with("allow", "GET, HEAD")
}

/// Refuses WebSocket; clients that can do without (Codex) then do. RFC 9110 §15.5.22 demands the `Upgrade` field.
pub fn no_upgrade() -> Reply {
    let text = "alvus does not speak WebSocket; use plain HTTP";
    Reply::error(426, "no_upgrade", text).with("upgrade", "HTTP/1.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_leads_to_what_is_switched_on_and_needs_nothing_else() {
        for on in [true, false] {
            let reply = page(on);
            assert_eq!(reply.body.contains("/dashboard"), on);
            for outside in ["http:", "https:", "<script", "style"] {
                assert!(!reply.body.contains(outside), "{outside}");
            }
        }
    }
}
