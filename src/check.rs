//! `alvus check`: one cheap request for each key, and a verdict in words.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::ascii::begins;
use crate::client::Client;
use crate::config::{Config, Faults};
use crate::lock::lock;
use crate::reply::{quoted, whole_seconds};
use crate::route;
use crate::secret::ApiKey;
use crate::upstream::{Failure, Origin, Prepared, Reuse, Upstream};
use crate::verdict::{self, Verdict};

/// How long a key may take, as a person waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many keys are asked at the same time.
const ABREAST: usize = 16;
/// Stack of a thread that asks. A TLS handshake takes half of it.
const STACK: usize = 128 * 1024;

/// What the check found about a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The provider answered 2xx.
    Ok,
    /// The provider refuses this key with this status.
    Rejected(u16),
    /// The key works, but is limited, for this long if the provider says so.
    Limited(Option<Duration>),
    /// The answer says nothing about the key.
    Unclear(u16),
    /// The answer is a web page, not an API's: a login page, for example.
    Page(u16),
    /// No answer.
    Unreachable(String),
}

impl Finding {
    /// Whether requests can be served with this key, now or after its rest.
    pub fn works(&self) -> bool {
        matches!(self, Finding::Ok | Finding::Limited(_))
    }
}

/// The findings as one JSON document: each verdict as a word, and as text.
pub fn json(findings: &[(ApiKey, Finding)]) -> String {
    let works = findings.iter().any(|(_, finding)| finding.works());
    let one = |(index, (key, finding)): (usize, &(ApiKey, Finding))| {
        let (verdict, number) = match finding {
            Finding::Ok => ("ok", None),
            Finding::Rejected(status) => ("rejected", Some(("status", u64::from(*status)))),
            Finding::Limited(wait) => ("limited", wait.map(|w| ("seconds", whole_seconds(w)))),
            Finding::Unclear(status) | Finding::Page(status) => {
                ("unclear", Some(("status", u64::from(*status))))
            }
            Finding::Unreachable(_) => ("unreachable", None),
        };
        let number = number.map(|(name, value)| format!("\"{name}\":{value},"));
        let number = number.unwrap_or_default();
        let (label, text) = (quoted(&key.label()), quoted(&finding.to_string()));
        format!(
            "{{\"index\":{index},\"label\":{label},\"verdict\":\"{verdict}\",{number}\"text\":{text}}}"
        )
    };
    let keys: Vec<String> = findings.iter().enumerate().map(one).collect();
    format!("{{\"ok\":{works},\"keys\":[{}]}}\n", keys.join(","))
}

/// The same for a configuration that cannot be used; one fault a line.
pub fn json_faults(faults: &str) -> String {
    let faults: Vec<String> = faults.lines().map(quoted).collect();
    format!("{{\"ok\":false,\"faults\":[{}]}}\n", faults.join(","))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Ok => f.write_str("ok"),
            Finding::Rejected(status) => write!(f, "rejected ({status})"),
            Finding::Limited(Some(wait)) => write!(f, "rate-limited ({} s)", whole_seconds(*wait)),
            Finding::Limited(None) => f.write_str("rate-limited"),
            Finding::Unclear(404) => {
                f.write_str("unclear (404): is the path of TARGET_BASE_URL right?")
            }
            Finding::Unclear(status) => write!(f, "unclear ({status})"),
            Finding::Page(status) => write!(
                f,
                "unclear ({status}): a web page came in place of an API's answer; is the path of TARGET_BASE_URL right, or is there a captive portal?"
            ),
            Finding::Unreachable(why) => write!(f, "unreachable: {why}"),
        }
    }
}

/// Asks the provider for its list of models, once for each key, and passes each verdict to `tell`, in the order of
/// the keys. A key may take [`PATIENCE`]; [`ABREAST`] are asked at a time. Returns whether at least one key works.
///
/// # Errors
/// In the operator's words, when the upstream's settings cannot be used.
pub fn run(config: &Config, mut tell: impl FnMut(usize, &ApiKey, Finding)) -> Result<bool, Faults> {
    let upstream = Upstream::new(config, None)?;
    let path = route::upward(&config.target.base_path, "/v1/models");
    let target = Origin::new(&config.target)?;
    let request = Prepared::new("GET", &target, &path, &[]);
    let request = request.map_err(|unfit| Faults::from(unfit.0))?;
    let asker = Arc::new((upstream, request));
    let mut any = false;
    for (round, keys) in config.api_keys.chunks(ABREAST).enumerate() {
        for (at, finding) in side_by_side(&asker, keys).into_iter().enumerate() {
            any |= finding.works();
            tell(round * ABREAST + at, &keys[at], finding);
        }
    }
    Ok(any)
}

/// What was found so far, in the order of the keys.
type Found = (Mutex<Vec<Option<Finding>>>, Condvar);

/// The findings for these keys, in their order. Each key is tried on a thread of its own.
fn side_by_side(asker: &Arc<(Upstream, Prepared)>, keys: &[ApiKey]) -> Vec<Finding> {
    let found: Arc<Found> = Arc::default();
    lock(&found.0).resize_with(keys.len(), || None);
    for (at, key) in keys.iter().enumerate() {
        let (asker, key, all) = (asker.clone(), key.clone(), found.clone());
        let asks = move || {
            let finding = ask(&asker.0, asker.1.clone(), &key);
            // Late findings have no place any more.
            if let Some(place) = lock(&all.0).get_mut(at) {
                *place = Some(finding);
            }
            all.1.notify_one();
        };
        if let Err(e) = thread::Builder::new().stack_size(STACK).spawn(asks) {
            let why = format!("no thread to ask it with: {e}");
            lock(&found.0)[at] = Some(Finding::Unreachable(why));
        }
    }
    // A late thread is left behind, as the process ends soon.
    let open = |found: &mut Vec<Option<Finding>>| found.iter().any(Option::is_none);
    let waited = found.1.wait_timeout_while(lock(&found.0), PATIENCE, open);
    let mut found = waited.unwrap_or_else(PoisonError::into_inner).0;
    let late = || Finding::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()));
    found
        .drain(..)
        .map(|one| one.unwrap_or_else(late))
        .collect()
}

fn ask(upstream: &Upstream, mut request: Prepared, key: &ApiKey) -> Finding {
    match upstream.send(&mut request, None, key, &Client::nobody(), Reuse::Allowed) {
        Ok(mut answer) => {
            answer.look_at_all();
            let header = |name: &str| answer.header(name);
            let finding = weigh(answer.status, header, &answer.words());
            answer.discard();
            finding
        }
        Err(
            Failure::NotSent(why)
            | Failure::Unusable(why)
            | Failure::Stale(why)
            | Failure::MaybeSent(why)
            | Failure::TimedOut(why),
        ) => Finding::Unreachable(why),
        Err(Failure::ClientLeft | Failure::Empty) => Finding::Unreachable("cancelled".into()),
    }
}

/// What an answer says about its key. `start`: the start of its body.
fn weigh<'a>(status: u16, header: impl Fn(&str) -> Option<&'a [u8]>, start: &[u8]) -> Finding {
    let page = start.trim_ascii_start().first() == Some(&b'<')
        || header("content-type").is_some_and(|kind| begins(kind, "text/html"));
    let success = (200..300).contains(&status);
    if success && page {
        return Finding::Page(status);
    }
    let verdict = match success {
        true => verdict::judge_inside(start),
        false => verdict::judge(status, header, start),
    };
    match verdict {
        Verdict::Limited(wait) => Finding::Limited(wait),
        Verdict::Quota => Finding::Limited(None),
        Verdict::Refused { .. } => Finding::Rejected(status),
        // A list of models is always JSON.
        Verdict::Pass
            if success && matches!(start.trim_ascii_start().first(), Some(b'{' | b'[')) =>
        {
            Finding::Ok
        }
        _ => Finding::Unclear(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_apis_success_counts_as_one() {
        for (status, kind, start, expected) in [
            (200, "application/json", "{\"data\":[", Finding::Ok),
            (200, "", " \n[]", Finding::Ok),
            (200, "text/html; charset=utf-8", "", Finding::Page(200)),
            (200, "text/plain", "\n<!doctype html>", Finding::Page(200)),
            (200, "application/json", "", Finding::Unclear(200)),
            (200, "text/plain", "Welcome!", Finding::Unclear(200)),
            (204, "", "", Finding::Unclear(204)),
            (
                200,
                "",
                "{\"error\":{\"code\":401,\"message\":\"no\"}}",
                Finding::Rejected(200),
            ),
            (404, "text/html", "<html>", Finding::Unclear(404)),
            (401, "application/json", "{}", Finding::Rejected(401)),
        ] {
            let header = |name: &str| (name == "content-type").then_some(kind.as_bytes());
            assert_eq!(
                weigh(status, header, start.as_bytes()),
                expected,
                "{status} {kind} {start}"
            );
        }
    }
}
