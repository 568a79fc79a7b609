//! `GET /dashboard`: one self-contained page that asks `GET /dashboard/data` every two seconds
//! while somebody looks at it. It changes nothing.
//!
//! The page may run only its own script and style, by their hashes, and ask only this server. It
//! inserts all values as text, never as markup.

use std::fmt::Write;
use std::time::Instant;

use super::{Shown, health, own_pages};
use crate::metrics::recent::{Recent, STEP};
use crate::reply::{Reply, quoted};
use crate::upstream::unpacked;

/// Compressed: that saves 12 kB of the binary. After an edit of the page run `gzip -9nfk src/status/dashboard.html`.
const PAGE: &[u8] = include_bytes!("dashboard.html.gz");

/// `img-src data:` is for the page's icon, without which a browser asks for `/favicon.ico`.
const POLICY: &str = "default-src 'none'; script-src 'sha256-T5Vj03CQL9/BKS+VpbnGO9GT7fJV6Lavkw4b6ftcn38='; style-src 'sha256-rKSLsbmv4mA6wZQXwhJ/kHQSprH6S7qBl75hjN4QEtQ='; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub fn page() -> Reply {
    let page = unpacked(Some(b"gzip"), PAGE);
    own_pages::html(String::from_utf8_lossy(&page).into_owned(), POLICY)
}

/// The answer while it is switched off.
pub fn off() -> Reply {
    let text = "the dashboard is switched off; DASHBOARD=1 and a restart switch it on";
    Reply::error(404, "dashboard_off", text)
}

/// The page's data: all of `/health`, and the upstream, the last minutes, the last events.
pub fn data(all: &Shown, origin: &str, recent: &Recent, now: Instant) -> Reply {
    let load = all.load;
    let mut out = health::page(all).body;
    out.pop(); // the closing brace
    let _ = write!(
        out,
        ",\"workers\":{},\"upstream\":{},\"upstream_well\":{},\"step_sec\":{STEP},\"slots\":[",
        load.workers,
        quoted(origin),
        load.upstream_well,
    );
    for (i, slot) in recent.slots(now).enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, "{comma}[{},{},", slot.requests, slot.failed);
        let _ = match slot.mean() {
            Some(millis) => write!(out, "{millis}]"),
            None => write!(out, "null]"),
        };
    }
    out.push_str("],\"events\":[");
    for (i, (ago, event)) in recent.events(now).enumerate() {
        let _ = write!(
            out,
            "{}[{},\"{}\",{},{},{}]",
            if i > 0 { "," } else { "" },
            ago.as_secs(),
            event.what.word(),
            event.key,
            event.number,
            quoted(&event.why),
        );
    }
    out.push_str("]}");
    Reply::json(200, out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Answered;
    use crate::metrics::{What, recent::SLOTS};

    const TEXT: &str = include_str!("dashboard.html");

    /// What stands between `<tag>` and `</tag>`, of which there is one.
    fn inside(tag: &str) -> &'static str {
        let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(TEXT.matches(&format!("<{tag}")).count(), 1);
        let (_, rest) = TEXT.split_once(&start).expect("no attributes");
        rest.split_once(&end).expect("it ends").0
    }

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for three in bytes.chunks(3) {
            let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
            let n = at(0) << 16 | at(1) << 8 | at(2);
            for i in 0..4 {
                out.push(match i <= three.len() {
                    true => LETTERS[(n >> (18 - 6 * i) & 63) as usize] as char,
                    false => '=',
                });
            }
        }
        out
    }

    #[test]
    fn the_policy_allows_the_script_and_the_style_that_are_in_the_page() {
        for (tag, kind) in [("script", "script-src"), ("style", "style-src")] {
            let hash = ring::digest::digest(&ring::digest::SHA256, inside(tag).as_bytes());
            let allowed = format!("{kind} 'sha256-{}';", base64(hash.as_ref()));
            assert!(POLICY.contains(&allowed), "after an edit, write: {allowed}");
        }
    }

    #[test]
    fn the_compressed_page_is_the_page() {
        assert!(
            page().body == TEXT,
            "after an edit run: gzip -9nfk src/status/dashboard.html"
        );
    }

    #[test]
    fn the_page_needs_nothing_else_and_is_small() {
        // The name of SVG's namespace looks like an address and is none.
        let page = TEXT.replace("xmlns='http://www.w3.org/2000/svg'", "");
        for outside in [
            "src=",
            "http:",
            "https:",
            "url(",
            "import",
            "innerHTML",
            " style=",
            "onclick",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(TEXT.len() <= 24_000, "{}", TEXT.len());
    }

    #[test]
    fn the_data_is_the_page_of_health_with_the_last_minutes() {
        let start = Instant::now();
        let now = start + Duration::from_secs(15);
        let mut recent = Recent::new(start);
        let answered = Answered {
            status: 502,
            first_byte: Some(Duration::from_millis(250)),
            ..Answered::default()
        };
        recent.answered(answered, start);
        recent.note(What::Limited, 2, 60, start);
        recent.failed("it answers \"502\"", now);
        let (counts, load) = (Default::default(), Default::default());
        let all = super::super::nothing(&counts, &load);
        let reply = data(&all, "https://up\"stream", &recent, now);
        let data: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        assert_eq!((reply.status, &data["status"]), (200, &"down".into()));
        assert_eq!(data["upstream"], "https://up\"stream");
        let slots = data["slots"].as_array().expect("slots");
        assert_eq!(slots.len(), SLOTS);
        assert_eq!(slots[SLOTS - 2], serde_json::json!([1, 1, 250]));
        assert_eq!(slots[SLOTS - 1], serde_json::json!([0, 0, null]));
        let events = serde_json::json!([
            [0, "down", 0, 1, "it answers \"502\""],
            [15, "limited", 2, 60, ""]
        ]);
        assert_eq!(data["events"], events);
    }
}
