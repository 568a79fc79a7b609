//! `GET /health`: the three fields the first Alvus had, then what an operator wants to know.

use std::fmt::Write;
use std::time::Duration;

use crate::pool::{KeyView, State};
use crate::reply::{Reply, whole_seconds};

/// The page. `clients`: each by name, with its requests. 503 when no key can serve, so that a load balancer sends its requests elsewhere.
pub fn page(
    keys: &[KeyView],
    clients: &[(&str, usize)],
    uptime: Duration,
    in_flight: usize,
    waiting: usize,
) -> Reply {
    let ready = keys.iter().filter(|k| k.state == State::Ready).count();
    let (status, word) = match ready {
        0 => (503, "down"),
        n if n == keys.len() => (200, "ok"),
        _ => (200, "degraded"),
    };
    let pool: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(i, k)| format!("[{i}]:{}", in_short(k.state)))
        .collect();
    // By hand, not as a map: people read this page, and its order is part of it.
    let mut out = String::with_capacity(256 + 256 * keys.len());
    let _ = write!(
        out,
        "{{\"status\":\"{word}\",\"keys\":{},\"pool\":\"{}\",\"version\":\"{}\",\"uptime_sec\":{},\"in_flight\":{in_flight},\"waiting\":{waiting},",
        keys.len(),
        pool.join("  "),
        env!("CARGO_PKG_VERSION"),
        uptime.as_secs(),
    );
    for (i, (name, requests)) in clients.iter().enumerate() {
        let start = if i > 0 { "," } else { "\"clients\":[" };
        // A name needs no escapes, see CLIENT_KEYS.
        let _ = write!(
            out,
            "{start}{{\"name\":\"{name}\",\"requests\":{requests}}}"
        );
    }
    if !clients.is_empty() {
        out.push_str("],");
    }
    out.push_str("\"key_status\":[");
    for (i, key) in keys.iter().enumerate() {
        let (state, left) = match key.state {
            State::Ready => ("ready", 0),
            State::Cooling(left) => ("cooling", whole_seconds(left)),
            State::Rejected(_) => ("rejected", 0),
        };
        let c = key.counts;
        let _ = write!(
            out,
            "{}{{\"index\":{i},\"label\":{},\"state\":\"{state}\",\"seconds_left\":{left},\"requests\":{},\"failures\":{{\"limited\":{},\"rejected\":{},\"no_answer\":{}}},\"in_flight\":{},\"last_used_sec_ago\":{}}}",
            if i > 0 { "," } else { "" },
            serde_json::Value::from(key.label.as_str()),
            c.requests,
            c.limited,
            c.rejected,
            c.no_answer,
            c.in_flight,
            key.last_used
                .map_or("null".into(), |age| age.as_secs().to_string()),
        );
    }
    out.push_str("]}");
    Reply::json(status, out)
}

fn in_short(state: State) -> String {
    match state {
        State::Ready => "ready".into(),
        State::Cooling(left) => format!("cooling({}s)", whole_seconds(left)),
        State::Rejected(status) => format!("rejected({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Counts;

    fn key(state: State) -> KeyView {
        let counts = Counts {
            requests: 7,
            limited: 2,
            in_flight: 1,
            ..Counts::default()
        };
        KeyView {
            label: "…f9a1".into(),
            state,
            counts,
            last_used: Some(Duration::from_secs(3)),
        }
    }

    fn shown(keys: &[KeyView]) -> (u16, serde_json::Value) {
        let reply = page(keys, &[], Duration::from_secs(90), 4, 2);
        (
            reply.status,
            serde_json::from_str(&reply.body).expect("JSON"),
        )
    }

    #[test]
    fn the_three_known_fields_come_first_and_as_known() {
        let cooling = State::Cooling(Duration::from_millis(41_200));
        let keys = [key(State::Ready), key(cooling), key(State::Ready)];
        let body = page(&keys, &[], Duration::ZERO, 0, 0).body;
        let known =
            r#"{"status":"degraded","keys":3,"pool":"[0]:ready  [1]:cooling(42s)  [2]:ready","#;
        assert!(body.starts_with(known), "{body}");
    }

    #[test]
    fn clients_are_shown_with_what_they_asked() {
        let clients = [("phone", 3), ("lap-top", 0)];
        let reply = page(&[key(State::Ready)], &clients, Duration::ZERO, 0, 0);
        let page: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        let expected = serde_json::json!([
            {"name": "phone", "requests": 3}, {"name": "lap-top", "requests": 0}
        ]);
        assert_eq!(page["clients"], expected);
        assert_eq!(page["key_status"][0]["state"], "ready");
    }

    #[test]
    fn the_status_follows_the_keys() {
        let cooling = State::Cooling(Duration::from_secs(1));
        for (states, status, word) in [
            (vec![State::Ready, State::Ready], 200, "ok"),
            (vec![State::Ready, cooling], 200, "degraded"),
            (vec![State::Ready, State::Rejected(401)], 200, "degraded"),
            (vec![cooling, State::Rejected(401)], 503, "down"),
        ] {
            let keys: Vec<_> = states.into_iter().map(key).collect();
            let (code, page) = shown(&keys);
            assert_eq!((code, page["status"].as_str()), (status, Some(word)));
        }
    }

    #[test]
    fn each_key_is_shown_with_its_counters_and_its_last_four_characters() {
        let (_, page) = shown(&[key(State::Rejected(401))]);
        let shown = &page["key_status"][0];
        assert_eq!(shown["label"], "…f9a1");
        assert_eq!(shown["state"], "rejected");
        assert_eq!(shown["requests"], 7);
        assert_eq!(shown["failures"]["limited"], 2);
        assert_eq!(shown["in_flight"], 1);
        assert_eq!(shown["last_used_sec_ago"], 3);
        assert_eq!(page["pool"], "[0]:rejected(401)");
        assert_eq!(page["uptime_sec"], 90);
        assert_eq!(
            (&page["in_flight"], &page["waiting"]),
            (&4.into(), &2.into())
        );
    }
}
