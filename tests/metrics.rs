//! `/metrics` and the dashboard's data, after known events. (That Prometheus and a browser can read
//! them is `tests/pages.rs`.)
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    Act, Alvus, CHAT, KEYS, PATIENCE, Response, SSE_HEAD, Upstream, answer, chunk, dead_addr,
    eventually, gate, ok,
};

fn get(alvus: &Alvus, path: &str) -> Response {
    let mut client = alvus.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.response()
}

/// One sample of `/metrics`, by its name and labels.
fn sample(alvus: &Alvus, name: &str) -> String {
    let page = get(alvus, "/metrics");
    let line = page.text().lines().find_map(|l| {
        let (n, value) = l.rsplit_once(' ')?;
        (n == name).then(|| value.to_string())
    });
    line.unwrap_or_else(|| panic!("no {name} in\n{}", page.text()))
}

/// Waits for a counter, which is counted after the client has its answer.
fn counts(alvus: &Alvus, name: &str, value: u64) {
    eventually(name, || sample(alvus, name) == value.to_string());
}

#[test]
fn each_thing_that_happens_to_a_request_is_counted() {
    let upstream = Upstream::new(|seen| match (seen.key_index(), seen.target.as_str()) {
        (0, _) => answer(429, "Retry-After: 3000\r\n", ""),
        (1, _) => answer(401, "", ""),
        (_, "/v1/missing") => answer(404, "", "no"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200); // key 0 rests for one model, key 1 is ejected
    // For requests without a model the keys are tried anew; a 404 is no witness against key 1.
    assert_eq!(get(&alvus, "/v1/missing").status, 404);
    let mut client = alvus.connect();
    client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n");
    assert_eq!(client.response().status, 413); // by alvus itself
    for (name, value) in [
        ("alvus_requests_total{code=\"2xx\"}", 1),
        ("alvus_requests_total{code=\"4xx\"}", 2),
        ("alvus_attempts_total", 6),
        ("alvus_retries_total{reason=\"limited\"}", 2),
        ("alvus_retries_total{reason=\"refused\"}", 2),
        ("alvus_retries_total{reason=\"probed\"}", 0),
        ("alvus_retries_total{reason=\"overloaded\"}", 0),
        ("alvus_retries_total{reason=\"stale\"}", 0),
        ("alvus_cooldowns_total", 2),
        ("alvus_ejections_total", 1),
        ("alvus_failed_probes_total", 0),
        ("alvus_waits_total", 0),
        ("alvus_absorbed_requests_total", 1), // a 404 was not served
        ("alvus_keys", 3),
        ("alvus_key_requests_total{key=\"0\"}", 2),
        ("alvus_key_requests_total{key=\"2\"}", 2),
        ("alvus_key_failures_total{key=\"0\",reason=\"limited\"}", 2),
        ("alvus_key_failures_total{key=\"1\",reason=\"refused\"}", 2),
        (
            "alvus_key_failures_total{key=\"1\",reason=\"overloaded\"}",
            0,
        ),
        ("alvus_key_state{key=\"0\",state=\"cooling\"}", 1),
        ("alvus_key_state{key=\"1\",state=\"ejected\"}", 1),
        ("alvus_key_state{key=\"2\",state=\"ready\"}", 1),
        ("alvus_first_byte_seconds_count", 2),
        ("alvus_request_bytes_total", 13),
        ("alvus_upstream_up", 1),
    ] {
        counts(&alvus, name, value);
    }
    let page = get(&alvus, "/metrics");
    assert_eq!(
        page.field("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(upstream.seen().len(), 6, "pages are not asked upstream");
    for key in KEYS {
        assert!(!page.text().contains(&key[key.len() - 4..]));
    }
}

#[test]
fn a_wait_for_a_key_is_counted_and_measured() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => answer(429, "Retry-After: 1\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut client = alvus.connect();
    client.send(CHAT);
    counts(&alvus, "alvus_requests_waiting_for_key", 1);
    assert_eq!(client.response().status, 200);
    counts(&alvus, "alvus_waits_total", 1);
    counts(&alvus, "alvus_requests_waiting_for_key", 0);
    let waited = sample(&alvus, "alvus_wait_seconds_total");
    assert!(waited.parse::<f64>().unwrap() > 0.5, "{waited}");
}

#[test]
fn an_unreachable_upstream_is_counted_and_shown() {
    let url = format!("http://{}/v1", dead_addr());
    let keys = KEYS.join(",");
    let env = [
        ("TARGET_BASE_URL", url.as_str()),
        ("API_KEYS", &keys),
        ("MAX_WAIT_SEC", "1"),
        ("DASHBOARD", "1"),
    ];
    let alvus = Alvus::start(&env);
    assert_eq!(alvus.ask().status, 503);
    let retries = sample(&alvus, "alvus_retries_total{reason=\"unreachable\"}");
    assert!(
        (1..9).contains(&retries.parse::<u32>().unwrap()),
        "{retries}"
    );
    counts(&alvus, "alvus_requests_total{code=\"5xx\"}", 1);
    counts(&alvus, "alvus_upstream_up", 0);
    let data = get(&alvus, "/dashboard/data").json();
    assert_eq!(data["upstream_well"], false);
    assert_eq!(data["upstream"], url.trim_end_matches("/v1"));
    assert_eq!(data["events"][0][1], "down");
    let why = data["events"][0][4].as_str().unwrap();
    assert!(why.starts_with("could not reach http://127.77."), "{why}");
}

#[test]
fn an_answer_that_breaks_off_is_counted_and_is_an_event() {
    let upstream = Upstream::new(|_| {
        let begin = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
        Act::SayAndClose(begin.into_bytes())
    });
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    alvus.ask();
    counts(&alvus, "alvus_cut_answers_total", 1);
    let data = get(&alvus, "/dashboard/data").json();
    assert_eq!(data["events"][0][1], "cut");
    let slots = data["slots"].as_array().unwrap();
    let failed: u64 = slots.iter().map(|slot| slot[1].as_u64().unwrap()).sum();
    assert_eq!(failed, 1);
}

#[test]
fn a_client_chooses_no_label_but_a_models_and_no_number_of_lines() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let lines = |alvus: &Alvus| get(alvus, "/metrics").text().lines().count();
    let before = lines(&alvus);
    for n in 0..50 {
        let mut client = alvus.connect();
        let body = format!("{{\"model\":\"named\\\"-{n}\"}}");
        client.send(format!(
            "CHOSEN{n} /v1/chosen-{n}?chosen={n} HTTP/1.1\r\nHost: a\r\nX-Chosen: {n}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.response();
    }
    eventually("all are counted", || {
        get(&alvus, "/metrics")
            .text()
            .contains("_attempts_total 50\n")
    });
    // Thirty-two and the others, a line of requests and two of tokens each; and what explains them.
    eventually("all rows are there", || {
        lines(&alvus) == before + 33 * 3 + 4
    });
    counts(
        &alvus,
        "alvus_model_requests_total{model=\"named\\\"-49\"}",
        1,
    );
    counts(&alvus, "alvus_model_requests_total{model=\"\"}", 18);
    assert!(
        !get(&alvus, "/metrics")
            .text()
            .to_lowercase()
            .contains("chosen")
    );
}

/// A POST of this body by the laptop.
fn post(alvus: &Alvus, path: &str, body: &str) -> Response {
    let mut client = alvus.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer client-key-never-shown-2222\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.response()
}

/// Events of these data, as a provider sends them.
fn events(all: &[&str]) -> Act {
    let events: String = all
        .iter()
        .map(|data| chunk(&format!("data: {data}\n\n")))
        .collect();
    Act::Say(format!("{SSE_HEAD}{events}0\r\n\r\n").into_bytes())
}

const CLIENTS: (&str, &str) = (
    "CLIENT_KEYS",
    "phone:client-key-never-shown-1111,laptop:client-key-never-shown-2222",
);

#[test]
fn tokens_are_counted_by_key_model_and_client_whatever_the_shape_of_the_answer() {
    let upstream = Upstream::new(|seen| match seen.target.as_str() {
        "/v1/chat/completions" if seen.body.ends_with(b"1}") => events(&[
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],"usage":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":1}}"#,
            "[DONE]",
        ]),
        "/v1/messages" => events(&[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":20,"output_tokens":1}}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":2}}"#,
            r#"{"type":"message_stop"}"#,
        ]),
        "/v1/responses" => events(&[
            r#"{"type":"response.output_text.delta","delta":"x"}"#,
            r#"{"type":"response.completed","response":{"usage":{"input_tokens":40,"output_tokens":4}}}"#,
        ]),
        _ => answer(
            200,
            "Content-Type: application/json\r\n",
            r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9000}"}}],"usage":{"prompt_tokens":80,"completion_tokens":8}}"#,
        ),
    });
    let more = [CLIENTS, ("API_KEYS", KEYS[0]), ("MESSAGES", "pass")];
    let alvus = Alvus::before_with(&upstream, &more);
    for (path, body) in [
        (
            "/v1/chat/completions",
            r#"{"model":"m","stream":true,"n":1}"#,
        ),
        ("/v1/messages", r#"{"model":"m","stream":true}"#),
        ("/v1/responses", r#"{"model":"m","stream":true}"#),
        ("/v1/chat/completions", r#"{"model":"other","n":2}"#),
    ] {
        assert_eq!(post(&alvus, path, body).status, 200, "{path}");
    }
    for (name, value) in [
        ("alvus_tokens_total{direction=\"in\"}", 150),
        ("alvus_tokens_total{direction=\"out\"}", 15),
        ("alvus_key_tokens_total{key=\"0\",direction=\"in\"}", 150),
        ("alvus_key_tokens_total{key=\"0\",direction=\"out\"}", 15),
        ("alvus_model_tokens_total{model=\"m\",direction=\"in\"}", 70),
        (
            "alvus_model_tokens_total{model=\"other\",direction=\"out\"}",
            8,
        ),
        ("alvus_model_requests_total{model=\"m\"}", 3),
        (
            "alvus_client_tokens_total{client=\"laptop\",direction=\"in\"}",
            150,
        ),
        (
            "alvus_client_tokens_total{client=\"phone\",direction=\"in\"}",
            0,
        ),
    ] {
        counts(&alvus, name, value);
    }
    let health = alvus.health();
    assert_eq!(health["total"]["tokens_in"], 150);
    assert_eq!(health["key_status"][0]["tokens_out"], 15);
    assert_eq!(health["clients"][1]["tokens_in"], 150);
    assert_eq!(health["answered_by"][0]["model"], "m");
    assert_eq!(health["answered_by"][0]["tokens_in"], 70);
}

#[test]
fn an_answer_that_is_only_fetched_counts_no_tokens() {
    let upstream = Upstream::new(|_| {
        let json = "Content-Type: application/json\r\n";
        answer(
            200,
            json,
            r#"{"usage":{"input_tokens":5,"output_tokens":5}}"#,
        )
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(get(&alvus, "/v1/responses/resp_1").status, 200);
    counts(&alvus, "alvus_requests_total{code=\"2xx\"}", 1);
    counts(&alvus, "alvus_tokens_total{direction=\"in\"}", 0);
}

#[cfg(feature = "messages")]
#[test]
fn tokens_of_translated_answers_are_the_upstreams() {
    let upstream = Upstream::new(|seen| match seen.body.windows(6).any(|w| w == b"stream") {
        true => events(&[
            r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":1}}"#,
            "[DONE]",
        ]),
        false => answer(
            200,
            "Content-Type: application/json\r\n",
            r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":2}}"#,
        ),
    });
    let more = [
        CLIENTS,
        ("MESSAGES", "translate"),
        ("MODEL_MAP", "claude-*=small"),
    ];
    let alvus = Alvus::before_with(&upstream, &more);
    for stream in ["", ",\"stream\":true"] {
        let body = format!(
            r#"{{"model":"claude-x","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]{stream}}}"#
        );
        let response = post(&alvus, "/v1/messages", &body);
        assert_eq!(response.status, 200, "{}", response.text());
    }
    counts(&alvus, "alvus_tokens_total{direction=\"in\"}", 30);
    counts(
        &alvus,
        "alvus_key_tokens_total{key=\"1\",direction=\"out\"}",
        1,
    );
    let row = &alvus.health()["answered_by"][0];
    assert_eq!(
        (&row["model"], &row["asked_as"]),
        (&"small".into(), &"claude-x".into())
    );
    assert_eq!(
        (&row["in_its_place"], &row["tokens_out"]),
        (&2.into(), &3.into())
    );
}

#[test]
fn pages_answer_at_once_while_every_worker_is_busy() {
    let (go, gone) = gate();
    let gone = std::sync::Mutex::new(gone);
    let gone = std::sync::Arc::new(gone);
    let upstream = Upstream::new(move |_| {
        let gone = gone.clone();
        Act::Do(Box::new(move |stream| {
            let _ = gone.lock().unwrap().recv_timeout(PATIENCE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1"), ("DASHBOARD", "1")]);
    let mut running = alvus.connect();
    running.send(CHAT);
    upstream.wait_for(1);
    let mut waiting = alvus.connect();
    waiting.send(CHAT);
    counts(&alvus, "alvus_requests_waiting_for_key", 1); // one line for both
    counts(&alvus, "alvus_requests_in_flight", 2);
    counts(&alvus, "alvus_workers", 1);
    assert_eq!(get(&alvus, "/dashboard").status, 200);
    assert_eq!(get(&alvus, "/dashboard/data").json()["waiting"], 1);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(running.response().status, 200);
    assert_eq!(waiting.response().status, 200);
}

#[test]
fn the_dashboard_is_off_until_it_is_switched_on() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for path in ["/dashboard", "/dashboard/data"] {
        let response = get(&alvus, path);
        assert_eq!(response.status, 404);
        assert_eq!(response.json()["error"]["code"], "dashboard_off");
    }
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    let page = get(&alvus, "/dashboard?from=bookmark");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().starts_with("<!doctype html>"));
    let policy = page.field("content-security-policy").unwrap();
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn the_dashboard_shows_keys_by_their_last_four_characters_and_changes_nothing() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 50\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    assert_eq!(alvus.ask().status, 200);
    let response = get(&alvus, "/dashboard/data");
    for key in KEYS {
        assert!(!response.text().contains(&key[..key.len() - 5]));
    }
    let data = response.json();
    assert_eq!(data["key_status"][0]["label"], "…1111");
    assert_eq!(data["key_status"][0]["state"], "cooling");
    assert_eq!(data["events"][0][1], "limited");
    assert_eq!(
        (&data["events"][0][2], &data["events"][0][3]),
        (&0.into(), &50.into())
    );
    let before = upstream.seen().len();
    for method in ["POST", "PUT", "DELETE"] {
        let mut client = alvus.connect();
        client.send(format!(
            "{method} /dashboard HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.response().status, 405);
    }
    assert_eq!(upstream.seen().len(), before, "it is nobody's but ours");
}

#[test]
fn requests_are_counted_by_the_clients_name() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[CLIENTS]);
    let mut client = alvus.connect();
    client.send(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nx-api-key: client-key-never-shown-2222\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    assert_eq!(get(&alvus, "/v1/models").status, 401);
    counts(&alvus, "alvus_client_requests_total{client=\"laptop\"}", 1);
    counts(&alvus, "alvus_client_requests_total{client=\"phone\"}", 0);
    counts(&alvus, "alvus_requests_total{code=\"4xx\"}", 1);
}
