//! What a client may ask of alvus itself: the list of models without a key, a deadline, one key.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, KEYS, PATIENCE, Response, SSE_HEAD, TempDir, Upstream, answer, chunk, dead_addr,
    eventually, gate, ok,
};

fn get(alvus: &Alvus, path: &str, fields: &str) -> Response {
    let mut client = alvus.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.response()
}

/// A small chat request with these fields.
fn chat(alvus: &Alvus, fields: &str, more: &str) -> Response {
    let body = format!("{{\"model\":\"m\"{more}}}");
    let mut client = alvus.connect();
    client.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ));
    client.response()
}

fn code(response: &Response) -> String {
    response.json()["error"]["code"].as_str().unwrap().into()
}

const LIST: &str = r#"{"object":"list","data":[{"id":"one","object":"model"}]}"#;

fn list() -> Act {
    let fields = "Content-Type: application/json\r\nX-Theirs: yes\r\nConnection: close\r\n";
    answer(200, fields, LIST)
}

#[test]
fn the_list_of_models_is_asked_for_once() {
    let upstream = Upstream::new(|_| list());
    let alvus = Alvus::before(&upstream);
    let first = get(&alvus, "/v1/models", "Accept-Encoding: gzip\r\n");
    assert_eq!((first.status, first.text()), (200, LIST));
    assert_eq!(first.field("x-alvus-key"), Some("0"));
    for _ in 0..3 {
        let again = get(&alvus, "/v1/models", "");
        assert_eq!((again.status, again.text()), (200, LIST));
        assert_eq!(again.field("x-theirs"), Some("yes"));
        assert_eq!(again.field("content-type"), Some("application/json"));
        assert_eq!(again.field("x-alvus-attempts"), Some("0"));
        assert_eq!(again.field("x-alvus-key"), None);
        assert!(again.field("age").is_some() && again.field("connection").is_none());
        assert_ne!(again.field("x-request-id"), first.field("x-request-id"));
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(alvus.health()["total"]["attempts"], 1);
    // Another question is another list, and what is no list at all is asked each time.
    get(&alvus, "/v1/models?limit=5", "");
    get(&alvus, "/v1/models/one", "");
    get(&alvus, "/v1/models/one", "");
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn those_who_come_before_the_first_list_ask_for_themselves_and_later_ones_do_not() {
    let (go, gone) = gate();
    let gone = Arc::new(std::sync::Mutex::new(gone));
    let upstream = Upstream::new(move |_| {
        let gone = gone.clone();
        Act::Do(Box::new(move |stream| {
            let _ = gone.lock().unwrap().recv_timeout(PATIENCE);
            let text = format!(
                "HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{LIST}",
                LIST.len()
            );
            let _ = stream.write_all(text.as_bytes());
        }))
    });
    let alvus = Alvus::before(&upstream);
    thread::scope(|all| {
        let asked: Vec<_> = (0..5)
            .map(|_| all.spawn(|| get(&alvus, "/v1/models", "")))
            .collect();
        upstream.wait_for(5);
        drop(go);
        for one in asked {
            assert_eq!(one.join().unwrap().text(), LIST);
        }
    });
    assert_eq!(get(&alvus, "/v1/models", "").text(), LIST);
    assert_eq!(upstream.seen().len(), 5);
}

#[test]
fn a_list_that_cannot_be_had_is_not_kept() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let upstream = Upstream::new(move |_| match is_well.load(Ordering::SeqCst) {
        true => list(),
        false => answer(404, "X-Theirs: no\r\n", "nothing"),
    });
    let alvus = Alvus::before(&upstream);
    let refused = get(&alvus, "/v1/models", "");
    assert_eq!((refused.status, refused.text()), (404, "nothing"));
    assert_eq!(refused.field("x-theirs"), Some("no"));
    well.store(true, Ordering::SeqCst);
    assert_eq!(get(&alvus, "/v1/models", "").text(), LIST);
}

#[test]
fn a_list_too_long_to_be_kept_passes_as_it_is() {
    let long = format!("[\"{}\"]", "x".repeat(5 << 20));
    let answered = long.clone();
    let upstream = Upstream::new(move |_| answer(200, "", &answered));
    let alvus = Alvus::before(&upstream);
    let response = get(&alvus, "/v1/models", "");
    assert_eq!((response.status, response.whole), (200, true));
    assert!(response.body == long.as_bytes());
}

#[cfg(feature = "messages")]
#[test]
fn the_list_in_anthropics_shape_is_kept_too_and_beside_the_other() {
    let upstream = Upstream::new(|_| list());
    let alvus = Alvus::before(&upstream);
    for _ in 0..2 {
        let theirs = get(&alvus, "/v1/models", "anthropic-version: 2023-06-01\r\n");
        assert_eq!(theirs.json()["has_more"], false, "{}", theirs.text());
        assert_eq!(get(&alvus, "/v1/models", "").text(), LIST);
    }
    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn a_deadline_ends_a_wait_for_a_key_at_once_if_none_comes_in_time() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 50\r\n", ""));
    let alvus = Alvus::before(&upstream);
    let since = Instant::now();
    let response = chat(&alvus, "X-Alvus-Deadline-Ms: 20000\r\n", "");
    assert_eq!(
        (response.status, &*code(&response)),
        (504, "deadline_exceeded")
    );
    assert!(since.elapsed() < Duration::from_secs(15), "no need to wait");
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    let ours = |(name, _): &(String, Vec<u8>)| name.to_lowercase().starts_with("x-alvus");
    assert!(!seen[0].fields.iter().any(ours), "it goes no further");
}

#[test]
fn a_deadline_ends_the_wait_for_an_answer() {
    let upstream = Upstream::new(|_| Act::Say(Vec::new()));
    let alvus = Alvus::before(&upstream);
    for more in ["", ",\"stream\":true"] {
        let response = chat(&alvus, "X-Alvus-Deadline-Ms: 150\r\n", more);
        assert_eq!(
            (response.status, &*code(&response)),
            (504, "deadline_exceeded")
        );
    }
    eventually("the key is free", || {
        alvus.health()["key_status"][0]["in_flight"] == 0
    });
    assert_eq!(
        alvus.states(),
        ["ready", "ready", "ready"],
        "no key is to blame"
    );
    eventually("it is logged", || alvus.log().contains("-> 504"));
}

#[test]
fn a_deadline_ends_a_stream_with_an_error_event() {
    let upstream = Upstream::new(|_| {
        let word = chunk("data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n");
        Act::Do(Box::new(move |stream| {
            let _ = stream.write_all(format!("{SSE_HEAD}{word}").as_bytes());
            let mut rest = Vec::new();
            let _ = std::io::Read::read_to_end(stream, &mut rest); // until alvus hangs up
        }))
    });
    let alvus = Alvus::before(&upstream);
    let response = chat(&alvus, "X-Alvus-Deadline-Ms: 2000\r\n", ",\"stream\":true");
    assert_eq!((response.status, response.whole), (200, false));
    let text = response.text();
    assert!(
        text.contains("\"content\":\"x\"") && text.contains("deadline_exceeded"),
        "{text}"
    );
    eventually("it is told", || alvus.log().contains("out of time"));
}

#[test]
fn a_met_deadline_changes_nothing_and_an_invalid_one_is_refused() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    assert_eq!(
        chat(&alvus, "X-Alvus-Deadline-Ms: 60000\r\n", "").status,
        200
    );
    let refused = chat(&alvus, "X-Alvus-Deadline-Ms: soon\r\n", "");
    assert_eq!(refused.status, 400);
    assert!(
        refused.text().contains("milliseconds"),
        "{}",
        refused.text()
    );
}

#[test]
fn a_deadline_holds_while_the_provider_is_away() {
    let url = format!("http://{}/v1", dead_addr());
    let alvus = Alvus::start(&[("TARGET_BASE_URL", &url), ("API_KEYS", KEYS[0])]);
    let since = Instant::now();
    let response = chat(&alvus, "X-Alvus-Deadline-Ms: 700\r\n", "");
    assert!(response.status >= 500 && since.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_request_can_be_pinned_to_a_key() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for _ in 0..3 {
        let response = chat(&alvus, "X-Alvus-Key: 2\r\n", "");
        assert_eq!(response.field("x-alvus-key"), Some("2"));
    }
    assert_eq!(
        get(&alvus, "/v1/models", "x-alvus-key: 1\r\n").field("x-alvus-key"),
        Some("1")
    );
    let keys: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.key_index())
        .collect();
    assert_eq!(keys, [2, 2, 2, 1]);
    for unknown in ["3", "work", "-1", "", KEYS[0]] {
        let refused = chat(&alvus, &format!("X-Alvus-Key: {unknown}\r\n"), "");
        assert_eq!((refused.status, &*code(&refused)), (400, "unknown_key"));
        let text = refused.text();
        assert!(
            text.contains("first of the 3 keys") && !text.contains(KEYS[0]),
            "{text}"
        );
    }
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn a_key_can_be_pinned_by_its_name() {
    let upstream = Upstream::new(|_| ok());
    let dir = TempDir::new();
    let file = dir.write(
        "keys",
        &format!("{}\n2 = {}\nwork = {}\n", KEYS[0], KEYS[1], KEYS[2]),
    );
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (url, file) = (upstream.base_url(), file.display().to_string());
    let alvus = Alvus::start(&[("TARGET_BASE_URL", &url), ("API_KEYS_FILE", &file)]);
    for (wanted, key) in [("work", "2"), ("2", "1"), ("0", "0")] {
        let response = chat(&alvus, &format!("X-Alvus-Key: {wanted}\r\n"), "");
        assert_eq!(response.field("x-alvus-key"), Some(key), "{wanted}");
    }
}

#[test]
fn a_pinned_request_waits_for_its_key_and_takes_no_other() {
    let limited = AtomicBool::new(true);
    let upstream = Upstream::new(move |_| match limited.swap(false, Ordering::SeqCst) {
        true => answer(429, "Retry-After: 1\r\n", ""),
        false => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let response = chat(&alvus, "X-Alvus-Key: 1\r\n", "");
    assert_eq!(
        (response.status, response.field("x-alvus-attempts")),
        (200, Some("2"))
    );
    let keys: Vec<_> = upstream
        .seen()
        .iter()
        .map(|seen| seen.key_index())
        .collect();
    assert_eq!(keys, [1, 1]);
}

#[test]
fn a_refusal_of_a_pinned_key_is_passed_on() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        1 => answer(401, "", "no such key"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let response = chat(&alvus, "X-Alvus-Key: 1\r\n", "");
    assert_eq!((response.status, response.text()), (401, "no such key"));
    assert_eq!(
        alvus.states(),
        ["ready", "ready", "ready"],
        "there was no witness"
    );
}
