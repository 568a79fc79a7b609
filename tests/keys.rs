//! Keys: how they take turns, rest, and fall out; and what is tried again.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Act, Alvus, CHAT, KEYS, Upstream, answer, dead_addr, eventually, gate, ok};

#[test]
fn keys_take_turns_evenly() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for _ in 0..10 {
        assert_eq!(alvus.ask().status, 200);
    }
    let used: Vec<usize> = upstream.seen().iter().map(|s| s.key_index()).collect();
    assert_eq!(used, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn a_limited_key_rests_and_the_next_one_answers() {
    for (fields, seconds) in [
        ("Retry-After: 120\r\n", 120),
        (
            "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:51:07 GMT\r\n",
            90,
        ),
        ("", 77), // COOLDOWN_SEC
    ] {
        let upstream = Upstream::new(move |seen| match seen.key_index() {
            0 => answer(429, fields, "slow down"),
            _ => ok(),
        });
        let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "77")]);
        for _ in 0..4 {
            assert_eq!(alvus.ask().status, 200);
        }
        let used: Vec<usize> = upstream.seen().iter().map(|s| s.key_index()).collect();
        assert_eq!(used, [0, 1, 2, 1, 2], "once refused, it is left alone");
        let health = alvus.health();
        assert_eq!(health["status"], "degraded");
        let left = health["key_status"][0]["seconds_left"].as_u64().unwrap();
        assert!(
            (seconds - 30..=seconds).contains(&left),
            "{fields:?}: {left}"
        );
        assert_eq!(health["key_status"][0]["failures"]["limited"], 1);
    }
}

#[test]
fn when_all_keys_rest_the_request_waits_for_the_soonest() {
    let refusals = AtomicUsize::new(0);
    let upstream = Upstream::new(move |_| match refusals.fetch_add(1, Ordering::SeqCst) {
        0 => answer(429, "Retry-After: 300\r\n", ""),
        1 => answer(429, "Retry-After: 1\r\n", ""),
        2 => answer(429, "Retry-After: 300\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let response = alvus.ask();
    assert_eq!(response.status, 200);
    assert_eq!(upstream.seen().last().unwrap().key_index(), 1);
    assert_eq!(response.field("x-alvus-attempts"), Some("4"));
    assert_eq!(response.field("x-alvus-key"), Some("1"));
    assert!(
        response
            .field("x-alvus-waited-ms")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
}

#[test]
fn a_rest_longer_than_the_wait_is_answered_at_once_in_words() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 100\r\n", "{}"));
    let alvus = Alvus::before_with(&upstream, &[("MAX_WAIT_SEC", "60")]);
    let response = alvus.ask();
    assert_eq!(response.status, 503);
    let after: u64 = response.field("retry-after").unwrap().parse().unwrap();
    assert!((70..=100).contains(&after), "{after}");
    let error = &response.json()["error"];
    assert_eq!(error["code"], "keys_cooling");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("3 of 3 keys are cooling"), "{message}");
    assert_eq!(upstream.seen().len(), 3);
    assert_eq!(alvus.health()["status"], "down");
    assert_eq!(alvus.ask().status, 503);
    assert_eq!(
        upstream.seen().len(),
        3,
        "asking again costs the upstream nothing"
    );
}

#[test]
fn max_retries_bounds_the_rounds_of_waiting() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 1\r\n", ""));
    for (rounds, attempts) in [("0", "3"), ("1", "4")] {
        let alvus = Alvus::before_with(&upstream, &[("MAX_RETRIES", rounds)]);
        let response = alvus.ask();
        assert_eq!(response.status, 503);
        let made = upstream.seen().len().to_string();
        if rounds == "0" {
            assert_eq!(made, attempts);
        } else {
            // One round: whoever is back at its end is tried, and no further round begins.
            assert!(made.parse::<usize>().unwrap() >= 3 + 4, "{made}");
            assert!(made.parse::<usize>().unwrap() <= 3 + 6, "{made}");
        }
    }
}

#[test]
fn a_rejected_key_is_out_and_the_next_one_answers() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        1 => answer(401, "", "who?"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    for _ in 0..5 {
        assert_eq!(alvus.ask().status, 200);
    }
    let used: Vec<usize> = upstream.seen().iter().map(|s| s.key_index()).collect();
    assert_eq!(used, [0, 1, 2, 0, 2, 0]);
    assert_eq!(alvus.states(), ["ready", "rejected", "ready"]);
    assert!(
        alvus
            .log()
            .contains("key 1 …2222: rejected by the upstream (401)"),
        "{}",
        alvus.log()
    );
}

#[test]
fn when_all_keys_are_rejected_the_answer_says_so_and_costs_nothing_more() {
    let upstream = Upstream::new(|_| answer(401, "", "who?"));
    let alvus = Alvus::before(&upstream);
    for _ in 0..2 {
        let response = alvus.ask();
        assert_eq!(response.status, 503);
        assert!(response.field("retry-after").is_some());
        assert!(
            response.text().contains("all 3 keys were rejected"),
            "{}",
            response.text()
        );
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[test]
fn a_403_that_another_key_does_not_get_is_the_keys_own() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(403, "", "no"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["rejected", "ready", "ready"]);
}

#[test]
fn a_403_that_a_second_key_gets_too_is_the_requests_own_and_passes() {
    let upstream = Upstream::new(|_| answer(403, "X-Why: moderation\r\n", "flagged"));
    let alvus = Alvus::before(&upstream);
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (403, "flagged"));
    assert_eq!(response.field("x-why"), Some("moderation"));
    assert_eq!(upstream.seen().len(), 2, "no third key is asked");
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn a_403_passes_when_there_is_no_second_key_to_ask() {
    let upstream = Upstream::new(|_| answer(403, "X-Why: moderation\r\n", "flagged"));
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (403, "flagged"));
    assert_eq!(response.field("x-why"), Some("moderation"));
    assert_eq!(alvus.states(), ["ready"]);
}

#[test]
fn waiting_requests_are_served_in_the_order_they_came() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer(429, "Retry-After: 2\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut clients = Vec::new();
    for (n, target) in ["/v1/a", "/v1/b", "/v1/c"].iter().enumerate() {
        let mut client = alvus.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        eventually("it waits", || alvus.health()["waiting"] == n + 1);
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.response().status, 200);
    }
    let order: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(order, ["/v1/a", "/v1/a", "/v1/b", "/v1/c"]);
}

#[test]
fn an_upstream_that_cannot_be_reached_is_tried_again_and_no_key_is_blamed() {
    let addr = dead_addr();
    let url = format!("http://{addr}/v1");
    let keys = KEYS.join(",");
    let alvus = Alvus::start(&[
        ("TARGET_BASE_URL", &url),
        ("API_KEYS", &keys),
        ("LOG", "debug"),
    ]);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("the first try fails", || alvus.log().contains("NotSent"));
    let upstream = Upstream::at(addr, |_| ok());
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn an_upstream_that_stays_away_is_reported_in_words() {
    let url = format!("http://{}/v1", dead_addr());
    let env = [
        ("TARGET_BASE_URL", url.as_str()),
        ("API_KEYS", KEYS[0]),
        ("MAX_RETRIES", "1"),
    ];
    let response = Alvus::start(&env).ask();
    assert_eq!(response.status, 503);
    assert!(response.field("retry-after").is_some());
    assert!(
        response.text().contains("could not reach http://127.0.0.1"),
        "{}",
        response.text()
    );
}

#[test]
fn a_dead_kept_connection_is_tried_once_more_without_blame() {
    let upstream = Upstream::new(|seen| match seen.connection {
        // Keeps its connection, then closes it on the next request before any byte of an answer.
        0 if seen.target == "/v1/second" => Act::SayAndClose(Vec::new()),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /v1/first HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.send("GET /v1/second HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let connections: Vec<usize> = upstream.seen().iter().map(|s| s.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn a_request_that_may_be_under_way_is_not_sent_again() {
    let upstream = Upstream::new(|_| Act::SayAndClose(Vec::new()));
    let alvus = Alvus::before(&upstream);
    let response = alvus.ask();
    assert_eq!(response.status, 502);
    assert_eq!(response.json()["error"]["code"], "upstream_broke");
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn an_answer_that_does_not_begin_in_time_is_not_asked_for_again() {
    let (open, opened) = gate();
    let opened = std::sync::Mutex::new(Some(opened));
    let upstream = Upstream::new(move |_| {
        let opened = opened.lock().unwrap().take().expect("asked once only");
        Act::Do(Box::new(move |_| {
            let _ = opened.recv();
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
    let response = alvus.ask();
    assert_eq!(response.status, 504);
    assert_eq!(upstream.seen().len(), 1);
    drop(open);
}

#[test]
fn a_reload_brings_new_keys_in_and_rejected_ones_back() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(401, "", "who?"),
        _ => ok(),
    });
    let file = |keys: &str| format!("API_KEYS={keys}\nTARGET_BASE_URL={}\n", upstream.base_url());
    let dir = common::TempDir::new();
    let path = dir.write("conf", &file(&KEYS[..2].join(",")));
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["rejected", "ready"]);
    std::fs::write(&path, file(&KEYS.join(","))).unwrap();
    alvus.signal("HUP");
    eventually("the reload is logged", || {
        alvus
            .log()
            .contains("reloaded: 3 keys (1 new, 0 removed, 1 tried again)")
    });
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
    std::fs::write(&path, "API_KEYS=\nPORT=x\n").unwrap();
    alvus.signal("HUP");
    eventually("the refusal is logged", || {
        alvus.log().contains("reload refused")
    });
    assert_eq!(alvus.states().len(), 3, "the running configuration stays");
}
