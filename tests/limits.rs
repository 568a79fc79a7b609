//! Limits and faults in the words of real upstreams: whose fault they are, what is tried again, and
//! what a client gets meanwhile.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{
    Act, Alvus, Client, PATIENCE, Response, SSE_HEAD, Upstream, answer, chunk, eventually, gate, ok,
};

const GEMINI_DAY: &str = r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"retryDelay":"34s"}]}}]"#;

#[test]
fn a_models_spent_day_leaves_the_key_to_other_models() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("spent") {
        true => answer(429, "", GEMINI_DAY),
        false => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "60")]);
    let response = ask(&alvus, r#"{"model":"spent"}"#);
    assert_eq!(response.status, 503, "{}", response.text());
    assert_eq!(response.field("retry-after"), Some("120"));
    assert_eq!(ask(&alvus, r#"{"model":"other"}"#).status, 200);
    assert_eq!(alvus.states(), ["parked", "parked", "parked"]);
}

/// A chat request with this body.
fn chat(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ask(alvus: &Alvus, body: &str) -> Response {
    let mut client = alvus.connect();
    client.send(chat(body));
    client.response()
}

const STREAM: &str = r#"{"model":"m","stream":true}"#;
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A whole stream of these events.
fn stream(events: &[&str]) -> Act {
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    Act::Say(format!("{SSE_HEAD}{chunks}0\r\n\r\n").into_bytes())
}

/// The same, broken off after its last event.
fn broken(events: &[&str]) -> Act {
    let chunks: String = events.iter().map(|event| chunk(event)).collect();
    Act::SayAndClose(format!("{SSE_HEAD}{chunks}").into_bytes())
}

/// Which keys the upstream saw, in order.
fn used(upstream: &Upstream) -> Vec<usize> {
    upstream.seen().iter().map(|s| s.key_index()).collect()
}

// ---- whose limit --------------------------------------------------------------------------------

#[test]
fn a_limit_of_one_model_leaves_the_key_to_the_others() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("busy") {
        true if seen.key_index() < 2 => answer(429, "Retry-After: 100\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(ask(&alvus, r#"{"model":"busy"}"#).status, 200);
    for _ in 0..3 {
        assert_eq!(ask(&alvus, r#"{"model":"free"}"#).status, 200);
    }
    assert_eq!(used(&upstream), [0, 1, 2, 0, 1, 2]);
    let health = alvus.health();
    let rest = &health["key_status"][1]["models"][0];
    assert_eq!(
        (&rest["model"], &rest["state"]),
        (&"busy".into(), &"cooling".into())
    );
    assert_eq!(health["status"], "degraded");
}

#[test]
fn a_spent_quota_without_a_time_rests_the_key_for_two_minutes_and_that_model() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 if seen.body_text().contains("\"a\"") => answer(
            429,
            "Content-Type: application/json\r\n",
            r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}"#,
        ),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    for model in ["a", "b", "b", "b", "a", "a"] {
        let body = format!(r#"{{"model":"{model}"}}"#);
        assert_eq!(ask(&alvus, &body).status, 200);
    }
    let health = alvus.health();
    let rest = &health["key_status"][0]["models"][0];
    assert_eq!(
        (&rest["model"], &rest["state"]),
        (&"a".into(), &"parked".into())
    );
    let left = rest["seconds_left"].as_u64().unwrap();
    assert!((100..=120).contains(&left), "{left}");
    eventually("one line of it", || {
        alvus.log().matches("quota is spent").count() == 1
    });
}

#[test]
fn payment_required_of_one_key_alone_ejects_it() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(402, "", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["ejected", "ready", "ready"]);
}

#[test]
fn a_bad_key_that_is_called_a_bad_request_is_out() {
    let body = r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]"#;
    let upstream = Upstream::new(move |seen| match seen.key_index() {
        0 => answer(400, "Content-Type: application/json\r\n", body),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["ejected", "ready", "ready"]);
}

#[test]
fn a_model_without_capacity_costs_no_key_anything_and_is_asked_again_later() {
    let capacity =
        r#"{"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"}"#;
    for status in [429, 500, 503] {
        let upstream = Upstream::scripted(vec![answer(status, "", capacity), ok()]);
        let alvus = Alvus::before(&upstream);
        let response = alvus.ask();
        assert_eq!(response.status, 200, "{status}");
        assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
        let waited: u64 = response
            .field("x-alvus-waited-ms")
            .unwrap()
            .parse()
            .unwrap();
        assert!(waited >= 900, "a gap of a second: {waited}");
    }
}

#[test]
fn refusals_that_name_no_time_rest_a_key_longer_each_time() {
    let upstream = Upstream::new(|_| answer(429, "", ""));
    let keys = [
        ("API_KEYS", common::KEYS[0]),
        ("COOLDOWN_SEC", "1"),
        ("MAX_RETRIES", "2"),
    ];
    let alvus = Alvus::before_with(&upstream, &keys);
    assert_eq!(alvus.ask().status, 503);
    for rest in ["rests 1 s", "rests 2 s", "rests 4 s"] {
        eventually(rest, || alvus.log().matches(rest).count() == 1);
    }
}

// ---- a provider in trouble ----------------------------------------------------------------------

#[test]
fn a_provider_in_trouble_is_asked_again_with_another_key() {
    for status in [500, 502, 503, 504, 529] {
        let upstream = Upstream::scripted(vec![answer(status, "", "oops"), ok()]);
        let alvus = Alvus::before(&upstream);
        assert_eq!(alvus.ask().status, 200, "{status}");
        assert_eq!(used(&upstream), [0, 1]);
        assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
        for line in [&format!("answers {status}"), "the upstream is back"] {
            eventually(line, || alvus.log().matches(line).count() == 1);
        }
    }
}

#[test]
fn a_provider_that_stays_in_trouble_has_the_last_word_itself() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let upstream = Upstream::new(move |_| {
        let n = counted.fetch_add(1, Ordering::Relaxed);
        answer(503, "X-Try: yes\r\n", &format!("trouble {n}"))
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_RETRIES", "2")]);
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (503, "trouble 2"));
    assert_eq!(response.field("x-try"), Some("yes"));
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}

#[test]
fn an_answer_that_was_cut_is_asked_for_again_only_where_that_does_no_harm() {
    for (head, expected) in [
        (
            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n",
            502,
        ),
        (
            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nIdempotency-Key: 7\r\n",
            200,
        ),
        ("GET /v1/x HTTP/1.1\r\nHost: a\r\n", 200),
    ] {
        let cut = AtomicBool::new(false);
        let upstream = Upstream::new(move |_| match cut.swap(true, Ordering::Relaxed) {
            false => Act::SayAndClose(b"HTTP/1.1 20".to_vec()),
            true => ok(),
        });
        let alvus = Alvus::before(&upstream);
        let mut client = alvus.connect();
        client.send(format!("{head}\r\n"));
        assert_eq!(client.response().status, expected, "{head}");
    }
}

// ---- before the first token -------------------------------------------------------------------

#[test]
fn before_its_first_word_everything_about_a_stream_can_be_tried_again() {
    let limited = "data: {\"error\":{\"message\":\"slow down\",\"code\":429}}\n\n";
    for (what, first, states) in [
        ("an error event", stream(&[limited]), "cooling"),
        (
            "an error event after comments",
            stream(&[": PROCESSING\n\n", limited]),
            "cooling",
        ),
        ("an empty stream", stream(&[]), "ready"),
        (
            "nothing but comments",
            stream(&[": PROCESSING\n\n"]),
            "ready",
        ),
        ("a connection closed at once", broken(&[]), "ready"),
        (
            "a connection closed before the first event",
            broken(&[": PROCESSING\n\n"]),
            "ready",
        ),
        (
            "an error that calls itself a success",
            answer(
                200,
                "Content-Type: application/json\r\n",
                r#"{"error":{"message":"slow down","code":429}}"#,
            ),
            "cooling",
        ),
    ] {
        let upstream = Upstream::scripted(vec![first, stream(&[WORD, DONE])]);
        let alvus = Alvus::before(&upstream);
        let response = ask(&alvus, STREAM);
        assert_eq!((response.status, response.whole), (200, true), "{what}");
        assert_eq!(response.text(), format!("{WORD}{DONE}"), "{what}");
        assert_eq!(alvus.states(), [states, "ready", "ready"], "{what}");
    }
}

#[test]
fn an_error_event_that_is_the_requests_own_fault_passes() {
    let event = "data: {\"error\":{\"message\":\"no such parameter\",\"code\":400}}\n\n";
    let upstream = Upstream::scripted(vec![stream(&[event])]);
    let alvus = Alvus::before(&upstream);
    let response = ask(&alvus, STREAM);
    assert_eq!((response.status, response.text()), (200, event));
}

#[test]
fn comments_are_no_first_word() {
    let upstream = Upstream::new(|_| {
        Act::Do(Box::new(|stream| {
            let _ = std::io::Write::write_all(stream, SSE_HEAD.as_bytes());
            // Until alvus hangs up.
            while std::io::Write::write_all(stream, chunk(": PROCESSING\n\n").as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
    let response = ask(&alvus, STREAM);
    assert_eq!(
        (response.status, response.json()["error"]["code"].as_str()),
        (504, Some("upstream_timeout"))
    );
}

#[test]
fn a_stream_without_its_end_is_not_whole_where_others_had_one() {
    let upstream = Upstream::scripted(vec![
        stream(&[WORD, DONE]),
        stream(&[WORD]),
        stream(&[WORD]),
    ]);
    let alvus = Alvus::before(&upstream);
    assert!(ask(&alvus, STREAM).whole);
    let mut client = alvus.connect();
    client.send(chat(STREAM));
    client.head();
    let mut text = String::new();
    while let Ok(Some(data)) = client.chunk() {
        text += std::str::from_utf8(&data).unwrap();
    }
    assert!(text.contains("stream_truncated"), "{text}");
    eventually("the log says why", || {
        alvus.log().contains("without finish_reason or [DONE]")
    });
    // Another API's streams may end as they like.
    let mut client = alvus.connect();
    client.send(chat(STREAM).replace("/v1/chat/completions", "/v1/responses"));
    assert!(client.response().whole);
}

// ---- heartbeats ---------------------------------------------------------------------------------

/// Reads chunks until one is no heartbeat, of which there was at least one.
fn after_heartbeats(client: &mut Client) -> String {
    let mut beats = 0;
    loop {
        let data = client.chunk().unwrap().expect("more");
        let data = String::from_utf8(data).unwrap();
        if !data.starts_with(": ") {
            assert!(beats > 0, "no heartbeat before {data}");
            return data;
        }
        beats += 1;
    }
}

#[test]
fn a_streams_client_that_waits_for_a_key_hears_a_heartbeat() {
    let upstream = Upstream::scripted(vec![
        answer(429, "Retry-After: 3\r\n", ""),
        stream(&[WORD, DONE]),
    ]);
    let env = [("API_KEYS", common::KEYS[0]), ("HEARTBEAT_SEC", "1")];
    let alvus = Alvus::before_with(&upstream, &env);
    let mut client = alvus.connect();
    client.send(chat(STREAM));
    let head = client.head();
    assert_eq!(
        (head.status, upstream.seen().len()),
        (200, 1),
        "before the key is ready"
    );
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    assert_eq!(after_heartbeats(&mut client), format!("{WORD}{DONE}"));
    assert_eq!(client.chunk().unwrap(), None);
    client.send(chat(STREAM)); // the connection is still good
    assert_eq!(client.response().status, 599, "not in the script");
}

#[test]
fn a_streams_client_that_waits_for_the_first_word_hears_a_heartbeat() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().take().expect("asked once");
        Act::Do(Box::new(move |to| {
            gone.recv_timeout(PATIENCE).expect("the test's word");
            let whole = format!("{SSE_HEAD}{}0\r\n\r\n", chunk(WORD));
            let _ = std::io::Write::write_all(to, whole.as_bytes());
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("HEARTBEAT_SEC", "1")]);
    let mut client = alvus.connect();
    client.send(chat(STREAM));
    assert_eq!(client.head().status, 200);
    let beat = client.chunk().unwrap().unwrap();
    assert!(beat.starts_with(b": "), "{beat:?}");
    go.send(()).unwrap();
    let rest = client.chunk().unwrap().unwrap();
    if rest.starts_with(b": ") {
        assert_eq!(client.chunk().unwrap().unwrap(), WORD.as_bytes());
    } else {
        assert_eq!(rest, WORD.as_bytes());
    }
    assert_eq!(client.chunk().unwrap(), None);
}

#[test]
fn a_failure_after_a_heartbeat_is_an_error_event_in_openais_shape() {
    let moderated = r#"{"error":{"message":"no","type":"moderation","code":451}}"#;
    for (second, code) in [
        (
            answer(451, "Content-Type: application/json\r\n", moderated),
            "451",
        ),
        (
            answer(404, "Content-Type: text/plain\r\n", "what?"),
            "\"no_stream\"",
        ),
        (answer(429, "Retry-After: 1000\r\n", ""), "503"),
    ] {
        let upstream = Upstream::scripted(vec![answer(429, "Retry-After: 2\r\n", ""), second]);
        let env = [("API_KEYS", common::KEYS[0]), ("HEARTBEAT_SEC", "1")];
        let alvus = Alvus::before_with(&upstream, &env);
        let mut client = alvus.connect();
        client.send(chat(STREAM));
        assert_eq!(client.head().status, 200);
        let event = after_heartbeats(&mut client);
        let data = event
            .strip_prefix("data: ")
            .and_then(|e| e.strip_suffix("\n\n"));
        let data: serde_json::Value = serde_json::from_str(data.unwrap()).unwrap();
        assert_eq!(data["error"]["code"].to_string(), code, "{event}");
        assert_eq!(client.chunk().unwrap(), None, "and that is the end");
    }
}

#[test]
fn a_client_that_asked_for_no_stream_gets_no_heartbeat() {
    let upstream = Upstream::scripted(vec![answer(429, "Retry-After: 2\r\n", ""), ok()]);
    let env = [("API_KEYS", common::KEYS[0]), ("HEARTBEAT_SEC", "1")];
    let alvus = Alvus::before_with(&upstream, &env);
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (200, "{\"ok\":true}"));
}

// ---- pacing, rotation, routes -------------------------------------------------------------------

#[test]
fn rpm_limit_holds_requests_back_before_the_upstream_would() {
    let upstream = Upstream::new(|_| ok());
    let env = [("RPM_LIMIT", "2"), ("MAX_WAIT_SEC", "0")];
    let alvus = Alvus::before_with(&upstream, &env);
    for _ in 0..6 {
        assert_eq!(alvus.ask().status, 200);
    }
    let refused = alvus.ask();
    assert_eq!(refused.status, 503);
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((20..=60).contains(&wait), "{wait}");
    assert_eq!(upstream.seen().len(), 6);
    let health = alvus.health();
    assert_eq!(alvus.states(), ["throttled", "throttled", "throttled"]);
    assert_eq!(health["status"], "ok", "nothing is wrong");
}

#[test]
fn a_sticky_conversation_stays_on_its_key() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("ROTATION", "sticky")]);
    let mut homes: HashMap<String, usize> = HashMap::new();
    for turn in 0..3 {
        for talk in 0..8 {
            let later = r#",{"role":"assistant","content":"go on"}"#.repeat(turn);
            let body = format!(
                r#"{{"model":"m","messages":[{{"role":"user","content":"talk {talk}"}}{later}]}}"#
            );
            assert_eq!(ask(&alvus, &body).status, 200);
            let key = upstream.seen().last().unwrap().key_index();
            let home = *homes.entry(format!("talk {talk}")).or_insert(key);
            assert_eq!(key, home, "turn {turn} of talk {talk}");
        }
    }
    let keys: std::collections::HashSet<usize> = homes.into_values().collect();
    assert!(keys.len() > 1, "not all of them on one key");
}

#[test]
fn visual_models_go_to_a_host_of_their_own_whole() {
    let (upstream, genai) = (Upstream::new(|_| ok()), Upstream::new(|_| ok()));
    let base = format!("http://{}", genai.addr());
    let alvus = Alvus::before_with(&upstream, &[("GENAI_BASE_URL", &base)]);
    let mut client = alvus.connect();
    client.send(
        "POST /v1/genai/black-forest-labs/flux HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(client.response().status, 200);
    assert_eq!(genai.seen()[0].target, "/v1/genai/black-forest-labs/flux");
    assert_eq!(genai.seen()[0].key_index(), 0);
    assert!(upstream.seen().is_empty());
}

#[test]
fn trouble_of_the_visual_models_is_their_own() {
    let upstream = Upstream::scripted(vec![answer(503, "", "not now"), ok()]);
    let genai = Upstream::new(|_| answer(503, "", "not now"));
    let base = format!("http://{}", genai.addr());
    let env = [("GENAI_BASE_URL", base.as_str()), ("MAX_WAIT_SEC", "1")];
    let alvus = Alvus::before_with(&upstream, &env);
    let paint = || {
        let mut client = alvus.connect();
        client.send("POST /v1/genai/a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        client.response().status
    };
    // More than all that may be tried again in a while.
    for _ in 0..30 {
        assert_eq!(paint(), 503);
    }
    let mut metrics = alvus.connect();
    metrics.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let page = metrics.response();
    assert!(page.text().contains("\nalvus_upstream_up 1\n"));
    let said = format!("warn: {base} answers 503");
    eventually("it is said whose it is", || {
        alvus.log().matches(&said).count() == 1
    });
    assert_eq!(alvus.ask().status, 200, "it is tried again at once");
}

#[test]
fn a_path_that_leads_nowhere_says_nothing_of_the_upstream() {
    let page = "<!doctype html><title>404 Not Found</title>";
    let upstream = Upstream::new(move |seen| match seen.target.as_str() {
        "/v1/nowhere" => answer(404, "Content-Type: text/html\r\n", page),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    for n in 1..=25 {
        let mut client = alvus.connect();
        client.send("GET /v1/nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text()), (404, page));
        assert_eq!(upstream.seen().len(), 2 * n, "it is looked for once more");
    }
    assert_eq!(alvus.ask().status, 200);
    let log = alvus.log();
    assert!(
        !log.contains("answers 404") && !log.contains("is back"),
        "{log}"
    );
}
