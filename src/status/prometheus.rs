//! `GET /metrics`: Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! The number of lines grows with the keys and with `CLIENT_KEYS`; models, whose names clients choose, have a few rows
//! at most. A key is named by its number in the configuration. After a reload that may be another key; Prometheus takes
//! its smaller counters for a restart. The same holds for a model that had to make room.

use std::fmt::Write;
use std::time::Duration;

use super::{Shown, seconds};
use crate::logging::shown;
use crate::metrics::{BOUNDS, Counts, Reason};
use crate::pool::{KeyCounts, KeyState, Overview};
use crate::reply::Reply;
use crate::sse::Tokens;

/// A page under construction.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.add(&["# HELP alvus_", name, " ", help, "\n"]);
        self.add(&["# TYPE alvus_", name, " ", kind, "\n"]);
    }

    /// Writes a sample. `labels`: with their braces, or empty.
    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        self.add(&["alvus_", name, labels, " "]);
        let _ = writeln!(self.0, "{value}");
    }

    /// Writes a time in seconds, without floating point.
    fn time(&mut self, name: &str, value: Duration) {
        self.add(&["alvus_", name, " "]);
        let _ = writeln!(self.0, "{}.{:06}", value.as_secs(), value.subsec_micros());
    }

    /// Writes tokens in and out. `labels`: with a comma behind, or empty.
    fn tokens(&mut self, name: &str, labels: &str, tokens: Tokens) {
        for (way, value) in [("in", tokens.input), ("out", tokens.output)] {
            self.sample(name, &format!("{{{labels}direction=\"{way}\"}}"), value);
        }
    }

    fn add(&mut self, parts: &[&str]) {
        for part in parts {
            self.0.push_str(part);
        }
    }
}

/// The page.
pub fn page(all: &Shown) -> Reply {
    let (counts, keys) = (all.counts, all.keys);
    let mut page = Page(String::with_capacity(
        4096 + 512 * keys.listed.len().min(MOST_KEYS),
    ));
    page.family("build_info", "gauge", "What is running; always 1.");
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    page.sample("build_info", version, 1);
    by_outcome(&mut page, counts);
    plain(&mut page, all);
    let name = "wait_seconds_total";
    page.family(name, "counter", "Time that requests waited for a key.");
    page.time(name, counts.waited);
    let name = "tokens_total";
    page.family(
        name,
        "counter",
        "Tokens that answers took, where they say so.",
    );
    page.tokens(name, "", counts.tokens);
    first_bytes(&mut page, counts);
    per_key(&mut page, keys);
    let clients = all.clients.iter().map(|(name, asked)| {
        let label = format!("client=\"{name}\"");
        (label, asked.requests, asked.tokens)
    });
    whose(&mut page, "client", "client of CLIENT_KEYS", clients);
    let models = all.models.iter().map(|model| {
        let name = shown(&model.name)
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        (format!("model=\"{name}\""), model.requests, model.tokens)
    });
    whose(
        &mut page,
        "model",
        "model that answered; without a name, the others",
        models,
    );
    Reply {
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        ..Reply::json(200, page.0)
    }
}

/// Numbers without labels.
fn plain(page: &mut Page, all: &Shown) {
    let (counts, keys, load) = (all.counts, all.keys, all.load);
    #[rustfmt::skip]
    let rows = [
        ("attempts_total", "counter", "Requests sent to the upstream.", counts.attempts),
        ("cut_answers_total", "counter", "Answers that the upstream broke off.", counts.cut),
        ("cooldowns_total", "counter", "How often a key began to rest.", counts.cooldowns),
        ("quota_parks_total", "counter", "How often a key was parked because its quota was spent.", counts.parked),
        ("ejections_total", "counter", "How often a key was ejected: refused where another one was not.", counts.ejections),
        ("failed_probes_total", "counter", "Attempts at which an ejected key was refused again.", counts.failed_probes),
        ("absorbed_requests_total", "counter", "Requests served although a key was limited on the way.", counts.absorbed),
        ("waits_total", "counter", "Requests that waited for a key.", counts.waits),
        ("request_bytes_total", "counter", "Bytes of request bodies.", counts.bytes_in),
        ("response_bytes_total", "counter", "Bytes of answers' bodies.", counts.bytes_out),
        ("requests_in_flight", "gauge", "Requests being received, waiting or served.", load.in_flight as u64),
        ("requests_waiting_for_key", "gauge", "Requests in line for a key, or for a place among WORKERS.", load.waiting as u64),
        ("workers", "gauge", "Attempts that can be under way at a time.", load.workers as u64),
        ("upstream_up", "gauge", "Whether the last attempt found the upstream well.", u64::from(load.upstream_well)),
        ("uptime_seconds", "gauge", "Time since the start.", load.uptime.as_secs()),
        ("keys", "gauge", "Keys in the configuration.", keys.total as u64),
    ];
    for (name, kind, help, value) in rows {
        page.family(name, kind, help);
        page.sample(name, "", value);
    }
}

/// Requests by status, retries by reason.
fn by_outcome(page: &mut Page, counts: &Counts) {
    let name = "requests_total";
    page.family(name, "counter", "Requests answered, by the class of their status; none: the client left before there was one.");
    for (class, n) in counts.requests.iter().enumerate() {
        let code = match class {
            0 => "{code=\"none\"}".into(),
            _ => format!("{{code=\"{class}xx\"}}"),
        };
        page.sample(name, &code, *n);
    }
    let name = "retries_total";
    page.family(
        name,
        "counter",
        "Attempts after the first of a request, by what made them necessary.",
    );
    for (word, n) in Reason::WORDS.iter().zip(counts.retries) {
        page.sample(name, &format!("{{reason=\"{word}\"}}"), n);
    }
}

/// Requests and tokens of each client, or of each model.
fn whose(
    page: &mut Page,
    kind: &str,
    of: &str,
    rows: impl Iterator<Item = (String, u64, Tokens)> + Clone,
) {
    if rows.clone().next().is_none() {
        return;
    }
    let name = format!("{kind}_requests_total");
    page.family(&name, "counter", &format!("Requests of each {of}."));
    for (label, requests, _) in rows.clone() {
        page.sample(&name, &format!("{{{label}}}"), requests);
    }
    let name = format!("{kind}_tokens_total");
    page.family(&name, "counter", &format!("Tokens of each {of}."));
    for (label, _, tokens) in rows {
        page.tokens(&name, &(label + ","), tokens);
    }
}

fn first_bytes(page: &mut Page, counts: &Counts) {
    let help = "Time from a request's arrival to the upstream's first words.";
    page.family("first_byte_seconds", "histogram", help);
    let mut sum = 0;
    for (at, n) in counts.first_bytes.iter().enumerate() {
        sum += n;
        let bound = match BOUNDS.get(at) {
            Some(ms) if ms % 1000 == 0 => format!("{{le=\"{}\"}}", ms / 1000),
            Some(ms) => format!("{{le=\"{}.{:03}\"}}", ms / 1000, ms % 1000),
            None => "{le=\"+Inf\"}".into(),
        };
        page.sample("first_byte_seconds_bucket", &bound, sum);
    }
    page.time("first_byte_seconds_sum", counts.first_byte_sum);
    page.sample("first_byte_seconds_count", "", sum);
}

/// A metric of each key: name, kind, help, a label besides the key, the value.
type Column = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, fn(&KeyCounts, KeyState) -> u64)],
);

#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    ("key_requests_total", "counter", "Attempts made with a key.",
        &[("", |k, _| k.requests)]),
    ("key_failures_total", "counter", "Attempts with a key that failed, by reason.",
        &[(",reason=\"limited\"", |k, _| k.limited),
          (",reason=\"quota\"", |k, _| k.quota),
          (",reason=\"refused\"", |k, _| k.refused),
          (",reason=\"overloaded\"", |k, _| k.overloaded),
          (",reason=\"no_answer\"", |k, _| k.no_answer)]),
    ("key_tokens_total", "counter", "Tokens that answers to a key took.",
        &[(",direction=\"in\"", |k, _| k.tokens.input),
          (",direction=\"out\"", |k, _| k.tokens.output)]),
    ("key_in_flight", "gauge", "Attempts under way with a key.",
        &[("", |k, _| k.in_flight.into())]),
    ("key_state", "gauge", "1 for the state that a key is in; of several models' states the gravest.",
        &[(",state=\"ready\"", |_, state| is(state, 0)),
          (",state=\"throttled\"", |_, state| is(state, 1)),
          (",state=\"cooling\"", |_, state| is(state, 2)),
          (",state=\"parked\"", |_, state| is(state, 3)),
          (",state=\"ejected\"", |_, state| is(state, 4))]),
    ("key_rest_seconds", "gauge", "How much longer a key rests; of several models' rests the longest.",
        &[("", |_, state| seconds(state.weight().1))]),
];

/// More keys than this are summed up, as a line for each would be megabytes.
const MOST_KEYS: usize = 100;

/// Whether a state has this weight.
fn is(state: KeyState, weight: usize) -> u64 {
    u64::from(state.weight().0 == weight)
}

fn per_key(page: &mut Page, keys: &Overview) {
    for (name, kind, help, values) in COLUMNS {
        page.family(name, kind, help);
        if keys.total > MOST_KEYS {
            for (at, (label, value)) in values.iter().enumerate() {
                let label = label.trim_start_matches(',');
                let labels = match label {
                    "" => String::new(),
                    label => format!("{{{label}}}"),
                };
                let all = match *name {
                    "key_state" => keys.states[at] as u64,
                    "key_rest_seconds" => seconds(keys.longest),
                    _ => value(&keys.counts, KeyState::Ready),
                };
                page.sample(name, &labels, all);
            }
            continue;
        }
        for key in &keys.listed {
            let at = key.index;
            let named = match &key.name {
                Some(name) => format!(",name=\"{name}\""), // letters, digits, dots, dashes
                None => String::new(),
            };
            for (label, value) in *values {
                page.sample(
                    name,
                    &format!("{{key=\"{at}\"{named}{label}}}"),
                    value(&key.counts, key.state),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::ClientUsage;
    use crate::pool::KeyView;

    #[test]
    fn many_keys_are_summed_up() {
        let page = text(1000);
        assert!(
            page.contains("\nalvus_key_state{state=\"ejected\"} 998\n"),
            "{page}"
        );
        assert!(page.contains("\nalvus_key_requests_total 0\n"), "{page}");
        assert!(
            page.contains("\nalvus_key_rest_seconds 42\n"),
            "the longest"
        );
        assert!(!page.contains("key=\"") && page.len() < 10_000, "{page}");
        assert!(text(100).contains("key=\"99\""));
    }

    fn text(keys: usize) -> String {
        let counts = Counts {
            requests: [1, 0, 7, 0, 2, 3],
            attempts: 20,
            retries: [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
            waited: Duration::from_micros(2_000_001),
            first_bytes: [1, 0, 2, 0, 0, 0, 0, 0, 0, 1],
            first_byte_sum: Duration::from_millis(130_700),
            ..Counts::default()
        };
        let key = |at: usize| KeyView {
            index: at,
            label: "work …f9a1".into(),
            name: (at == 1).then(|| "work".into()),
            state: match at {
                0 => KeyState::Ready,
                1 => KeyState::Cooling(Duration::from_millis(41_200)),
                _ => KeyState::Ejected(401, Duration::from_secs(5)),
            },
            models: vec![("chosen".into(), KeyState::Ready)],
            serves: true,
            counts: KeyCounts::default(),
            last_used: None,
        };
        let keys = Overview::of((0..keys).map(key).collect());
        let asked = ClientUsage {
            requests: 5,
            tokens: Tokens {
                input: 6,
                output: 7,
            },
        };
        let load = super::super::Load::default();
        page(&Shown {
            keys: &keys,
            clients: &[("phone", asked)],
            ..super::super::nothing(&counts, &load)
        })
        .body
    }

    #[test]
    fn times_are_seconds_and_buckets_add_up() {
        let text = text(1);
        for line in [
            "alvus_requests_total{code=\"2xx\"} 7",
            "alvus_requests_total{code=\"none\"} 1",
            "alvus_client_requests_total{client=\"phone\"} 5",
            "alvus_client_tokens_total{client=\"phone\",direction=\"out\"} 7",
            "alvus_retries_total{reason=\"stale\"} 1",
            "alvus_wait_seconds_total 2.000001",
            "alvus_first_byte_seconds_bucket{le=\"0.100\"} 1",
            "alvus_first_byte_seconds_bucket{le=\"0.500\"} 3",
            "alvus_first_byte_seconds_bucket{le=\"120\"} 3",
            "alvus_first_byte_seconds_bucket{le=\"+Inf\"} 4",
            "alvus_first_byte_seconds_sum 130.700000",
            "alvus_first_byte_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_key_is_in_one_state_and_known_by_its_place_and_its_name() {
        let text = text(3);
        for line in [
            "alvus_key_state{key=\"0\",state=\"ready\"} 1",
            "alvus_key_state{key=\"1\",name=\"work\",state=\"cooling\"} 1",
            "alvus_key_state{key=\"1\",name=\"work\",state=\"ready\"} 0",
            "alvus_key_state{key=\"2\",state=\"ejected\"} 1",
            "alvus_key_rest_seconds{key=\"0\"} 0",
            "alvus_key_rest_seconds{key=\"1\",name=\"work\"} 42",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("f9a1") && !text.contains("chosen"));
    }

    #[test]
    fn each_key_adds_the_same_few_lines() {
        let lines = [1, 2, 3].map(|keys| text(keys).lines().count());
        assert_eq!(lines[2] - lines[1], lines[1] - lines[0]);
        assert!(lines[1] - lines[0] < 18, "{lines:?}");
    }
}
