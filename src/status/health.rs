//! `GET /health`: the three fields of the first Alvus, then what an operator wants to know.

use std::fmt::Write;

use super::{Shown, seconds};
use crate::logging::shown;
use crate::pool::{KeyState, Overview};
use crate::reply::{Reply, quoted, whole_seconds};
use crate::sse::Tokens;

/// The page. 503 when no key can serve, so that a load balancer sends its requests elsewhere.
pub fn page(all: &Shown) -> Reply {
    let (keys, load) = (all.keys, all.load);
    let [_, _, resting @ ..] = keys.states;
    let (status, word) = match keys.serves {
        false => (503, "down"),
        true if resting == [0; 3] => (200, "ok"),
        true => (200, "degraded"),
    };
    // Written by hand, not from a map: people read this page, so its order counts.
    let mut out = String::with_capacity(512 + 256 * keys.listed.len());
    let _ = write!(
        out,
        "{{\"status\":\"{word}\",\"keys\":{},\"pool\":\"",
        keys.total
    );
    for (i, key) in keys.listed.iter().enumerate() {
        let gap = if i > 0 { "  " } else { "" };
        let _ = write!(out, "{gap}[{}]:", key.index);
        in_short(&mut out, key.state);
    }
    let _ = write!(
        out,
        "\",\"version\":\"{}\",\"uptime_sec\":{},\"in_flight\":{},\"waiting\":{},",
        env!("CARGO_PKG_VERSION"),
        load.uptime.as_secs(),
        load.in_flight,
        load.waiting,
    );
    totals(&mut out, all);
    for (i, (name, asked)) in all.clients.iter().enumerate() {
        let start = if i > 0 { "," } else { "\"clients\":[" };
        // A name needs no escapes; see CLIENT_KEYS.
        let _ = write!(out, "{start}{{\"name\":\"{name}\"");
        taken(&mut out, asked.requests, asked.tokens);
        out.push('}');
    }
    if !all.clients.is_empty() {
        out.push_str("],");
    }
    one_by_one(&mut out, keys);
    lanes(&mut out, all);
    models(&mut out, all);
    if let Some(learned) = all.learned.filter(|learned| *learned != "{}") {
        let _ = write!(out, ",\"learned\":{learned}");
    }
    out.push('}');
    Reply::json(status, out)
}

/// Requests and tokens, as further members of an object.
fn taken(out: &mut String, requests: u64, tokens: Tokens) {
    let Tokens { input, output } = tokens;
    let _ = write!(
        out,
        ",\"requests\":{requests},\"tokens_in\":{input},\"tokens_out\":{output}"
    );
}

/// The counters since the start.
fn totals(out: &mut String, all: &Shown) {
    let counts = all.counts;
    let _ = write!(
        out,
        "\"total\":{{\"attempts\":{},\"absorbed\":{},\"waits\":{},\"waited_ms\":{}",
        counts.attempts,
        counts.absorbed,
        counts.waits,
        counts.waited.as_millis() as u64, // to print 128 bits takes 1.4 kB of code
    );
    taken(out, counts.requests.iter().sum(), counts.tokens);
    out.push_str("},");
}

fn one_by_one(out: &mut String, keys: &Overview) {
    let _ = write!(
        out,
        "\"keys_listed\":{},\"key_states\":{{",
        keys.listed.len()
    );
    for (i, (word, n)) in KeyState::WORDS.iter().zip(keys.states).enumerate() {
        let _ = write!(out, "{}\"{word}\":{n}", comma(i));
    }
    out.push_str("},\"key_status\":[");
    for (i, key) in keys.listed.iter().enumerate() {
        let (state, reason, left) = in_words(key.state);
        let c = key.counts;
        let _ = write!(
            out,
            "{}{{\"index\":{},\"label\":{},\"state\":\"{state}\",\"reason\":\"{reason}\",\"seconds_left\":{left}",
            comma(i),
            key.index,
            quoted(&key.label),
        );
        if let KeyState::Ejected(status, _) = key.state {
            let _ = write!(out, ",\"advice\":\"{}\"", advice(status));
        }
        taken(out, c.requests, c.tokens);
        let _ = write!(
            out,
            ",\"failures\":{{\"limited\":{},\"quota\":{},\"refused\":{},\"no_answer\":{}}},\"in_flight\":{},\"last_used_sec_ago\":{},\"models\":[",
            c.limited,
            c.quota,
            c.refused,
            c.no_answer,
            c.in_flight,
            key.last_used
                .map_or("null".into(), |age| age.as_secs().to_string()),
        );
        for (n, (model, state)) in key.models.iter().enumerate() {
            let (state, reason, left) = in_words(*state);
            let _ = write!(
                out,
                "{}{{\"model\":{},\"state\":\"{state}\",\"reason\":\"{reason}\",\"seconds_left\":{left}}}",
                comma(n),
                quoted(&shown(model)),
            );
        }
        out.push_str("]}");
    }
    out.push(']');
}

/// The lanes: what waits for which model.
fn lanes(out: &mut String, all: &Shown) {
    out.push_str(",\"models\":[");
    for (i, view) in all.lanes.iter().enumerate() {
        let _ = write!(
            out,
            "{}{{\"model\":{},\"in_flight\":{},\"waiting\":{},\"capacity\":{},\"backoff\":{}}}",
            comma(i),
            quoted(&shown(&view.model)),
            view.in_flight,
            view.waiting,
            view.capacity.map_or("null".into(), |n| n.to_string()),
            view.backoff.map_or(0, whole_seconds),
        );
    }
    out.push(']');
}

/// The models that answered; without a name, the others.
fn models(out: &mut String, all: &Shown) {
    out.push_str(",\"answered_by\":[");
    for (i, model) in all.models.iter().enumerate() {
        let (name, asked) = (quoted(&shown(&model.name)), quoted(&shown(&model.asked)));
        let _ = write!(
            out,
            "{}{{\"model\":{name},\"asked_as\":{asked},\"in_its_place\":{}",
            comma(i),
            model.in_place
        );
        taken(out, model.requests, model.tokens);
        out.push('}');
    }
    out.push(']');
}

/// What to do about a key that was ejected with this status.
fn advice(status: u16) -> &'static str {
    match status {
        401 => {
            "the provider does not know it: compare it with the provider's own page, or put a new one in its place"
        }
        402 => "its account has no credit: top it up, or take it out",
        403 => {
            "it may not ask for this: look at the account's rights, terms and region at the provider"
        }
        404 => {
            "its account does not have this model: ask for access at the provider, or leave it to the other keys"
        }
        _ => "look at its account at the provider; the log has the provider's words",
    }
}

fn comma(at: usize) -> &'static str {
    if at > 0 { "," } else { "" }
}

/// The reasons, by the weight of a state.
const REASONS: [&str; 5] = [
    "",
    "RPM_LIMIT",
    "limited by the upstream",
    "its quota is spent",
    "refused by the upstream where another key was not; probed then",
];

/// State, reason, and seconds left.
fn in_words(state: KeyState) -> (&'static str, &'static str, u64) {
    let (rank, left) = state.weight();
    (KeyState::WORDS[rank], REASONS[rank], seconds(left))
}

fn in_short(out: &mut String, state: KeyState) {
    let (word, _, left) = in_words(state);
    let _ = match state {
        KeyState::Ejected(status, _) => write!(out, "{word}({status},{left}s)"),
        KeyState::Ready => write!(out, "{word}"),
        _ => write!(out, "{word}({left}s)"),
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Load, nothing};
    use super::*;
    use crate::access::ClientUsage;
    use crate::pool::{KeyCounts, KeyView, ModelView};

    const EJECTED: KeyState = KeyState::Ejected(401, Duration::from_secs(60));

    fn key(state: KeyState) -> KeyView {
        let counts = KeyCounts {
            requests: 7,
            limited: 2,
            in_flight: 1,
            ..KeyCounts::default()
        };
        KeyView {
            index: 0,
            label: "…f9a1".into(),
            name: None,
            state,
            models: Vec::new(),
            serves: matches!(state, KeyState::Ready | KeyState::Throttled(_)),
            counts,
            last_used: Some(Duration::from_secs(3)),
        }
    }

    fn all(mut keys: Vec<KeyView>) -> Overview {
        let places = keys.iter_mut().enumerate();
        places.for_each(|(at, key)| key.index = at);
        Overview::of(keys)
    }

    fn shown(keys: Vec<KeyView>) -> (u16, serde_json::Value) {
        let load = Load {
            uptime: Duration::from_secs(90),
            in_flight: 4,
            waiting: 2,
            ..Load::default()
        };
        let counts = crate::metrics::Counts::default();
        let reply = page(&Shown {
            keys: &all(keys),
            ..nothing(&counts, &load)
        });
        (
            reply.status,
            serde_json::from_str(&reply.body).expect("JSON"),
        )
    }

    #[test]
    fn the_three_known_fields_come_first_and_as_known() {
        let cooling = KeyState::Cooling(Duration::from_millis(41_200));
        let keys = all(vec![
            key(KeyState::Ready),
            key(cooling),
            key(KeyState::Ready),
        ]);
        let (counts, load) = (crate::metrics::Counts::default(), Load::default());
        let all = Shown {
            keys: &keys,
            ..nothing(&counts, &load)
        };
        let body = page(&all).body;
        let known =
            r#"{"status":"degraded","keys":3,"pool":"[0]:ready  [1]:cooling(42s)  [2]:ready","#;
        assert!(body.starts_with(known), "{body}");
    }

    #[test]
    fn of_more_keys_than_are_shown_the_numbers_are_true_of_all() {
        let mut keys = all(vec![key(KeyState::Ready), key(EJECTED)]);
        (keys.total, keys.states) = (10_000, [9_998, 0, 1, 0, 1]);
        let (counts, load) = (crate::metrics::Counts::default(), Load::default());
        let reply = page(&Shown {
            keys: &keys,
            ..nothing(&counts, &load)
        });
        let page: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        assert_eq!(page["status"], "degraded");
        assert_eq!(
            (&page["keys"], &page["keys_listed"]),
            (&10_000.into(), &2.into())
        );
        let states = serde_json::json!({"ready": 9_998, "throttled": 0, "cooling": 1, "parked": 0, "ejected": 1});
        assert_eq!(page["key_states"], states);
        assert_eq!(page["pool"], "[0]:ready  [1]:ejected(401,60s)");
        let left = |at: usize| page["key_status"][at]["seconds_left"].as_u64();
        assert_eq!((left(0), left(1)), (Some(0), Some(60)));
    }

    #[test]
    fn clients_are_shown_with_what_they_asked() {
        let tokens = Tokens {
            input: 7,
            output: 8,
        };
        let asked = ClientUsage {
            requests: 3,
            tokens,
        };
        let (counts, load) = (crate::metrics::Counts::default(), Load::default());
        let reply = page(&Shown {
            keys: &all(vec![key(KeyState::Ready)]),
            clients: &[("phone", asked), ("lap-top", ClientUsage::default())],
            ..nothing(&counts, &load)
        });
        let page: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        let expected = serde_json::json!([
            {"name": "phone", "requests": 3, "tokens_in": 7, "tokens_out": 8},
            {"name": "lap-top", "requests": 0, "tokens_in": 0, "tokens_out": 0},
        ]);
        assert_eq!(page["clients"], expected);
        assert_eq!(page["key_status"][0]["state"], "ready");
    }

    #[test]
    fn the_status_follows_the_keys() {
        let cooling = KeyState::Cooling(Duration::from_secs(1));
        for (states, status, word) in [
            (vec![KeyState::Ready, KeyState::Ready], 200, "ok"),
            (vec![KeyState::Ready, cooling], 200, "degraded"),
            (vec![KeyState::Ready, EJECTED], 200, "degraded"),
            (vec![cooling, EJECTED], 503, "down"),
            (vec![KeyState::Parked(Duration::from_secs(1))], 503, "down"),
            (vec![KeyState::Throttled(Duration::from_secs(1))], 200, "ok"),
        ] {
            let (code, page) = shown(states.into_iter().map(key).collect());
            assert_eq!((code, page["status"].as_str()), (status, Some(word)));
        }
    }

    #[test]
    fn each_key_is_shown_with_its_counters_and_its_last_four_characters() {
        let (_, page) = shown(vec![key(EJECTED)]);
        let shown = &page["key_status"][0];
        assert_eq!(shown["label"], "…f9a1");
        assert_eq!(shown["state"], "ejected");
        let advice = shown["advice"].as_str().expect("what to do");
        assert!(advice.contains("a new one"), "{advice}");
        assert_eq!(shown["requests"], 7);
        assert_eq!(shown["failures"]["limited"], 2);
        assert_eq!(shown["in_flight"], 1);
        assert_eq!(shown["last_used_sec_ago"], 3);
        assert_eq!(page["pool"], "[0]:ejected(401,60s)");
        assert_eq!(page["uptime_sec"], 90);
        assert_eq!(
            (&page["in_flight"], &page["waiting"]),
            (&4.into(), &2.into())
        );
    }

    #[test]
    fn models_are_shown_with_who_rests_for_them_and_who_waits() {
        let mut one = key(KeyState::Ready);
        one.models = vec![("a\"b".into(), KeyState::Cooling(Duration::from_secs(5)))];
        let models = [ModelView {
            model: "a\"b".into(),
            in_flight: 1,
            waiting: 2,
            capacity: Some(3),
            backoff: Some(Duration::from_secs(4)),
        }];
        let (counts, load) = (crate::metrics::Counts::default(), Load::default());
        let reply = page(&Shown {
            keys: &all(vec![one]),
            lanes: &models,
            ..nothing(&counts, &load)
        });
        let page: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        let rest = &page["key_status"][0]["models"][0];
        assert_eq!(
            (&rest["model"], &rest["seconds_left"]),
            (&"a\"b".into(), &5.into())
        );
        let expected = serde_json::json!({"model": "a\"b", "in_flight": 1, "waiting": 2, "capacity": 3, "backoff": 4});
        assert_eq!(page["models"][0], expected);
    }
}
