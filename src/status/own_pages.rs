//! `GET /`, and the other small answers of alvus' own: what no provider should be asked, as each question
//! there costs a key.

use crate::reply::Reply;

/// What this is, for whoever opens the address in a browser; with links to what is switched on.
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
    let reply = Reply {
        content_type: "text/html; charset=utf-8",
        ..Reply::json(200, page)
    };
    let policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    reply
        .with("content-security-policy", policy.into())
        .with("x-content-type-options", "nosniff".into())
        .with("referrer-policy", "no-referrer".into())
}

/// Claude Code asks this at its start, and goes on whatever it hears but a failure.
pub fn hello() -> Reply {
    Reply::json(200, "{\"message\":\"hello\"}".into())
}

/// There is no such thing, and no provider needs to say so.
pub fn nothing() -> Reply {
    Reply::error(404, "not_found", "alvus has no such page")
}

/// A page of ours is looked at and nothing else (RFC 9110 §15.5.6).
pub fn only_looked_at() -> Reply {
    let text = "this path is alvus' own, and can only be looked at; clients ask under /v1";
    Reply::error(405, "method_not_allowed", text).with("allow", "GET, HEAD".into())
}

/// No WebSocket here. Clients that can do without (Codex) do after this. RFC 9110 §15.5.22 wants to hear what
/// would be understood.
pub fn no_upgrade() -> Reply {
    let text = "alvus speaks no WebSocket; ask in plain HTTP";
    Reply::error(426, "no_upgrade", text).with("upgrade", "HTTP/1.1".into())
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
