//! Keys: turns, rests and ejections; and what is tried again.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, Response, Upstream, answer, dead_addr, eventually,
    gate, ok,
};

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
fn a_refused_key_is_out_and_the_next_one_answers() {
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
    assert_eq!(alvus.states(), ["ready", "ejected", "ready"]);
    assert!(
        alvus
            .log()
            .contains("key 1 …2222: refused by the upstream (401)"),
        "{}",
        alvus.log()
    );
}

#[test]
fn a_refusal_with_every_key_is_the_requests_fault_and_no_key_changes() {
    let upstream = Upstream::new(|_| answer(401, "X-Why: scope\r\n", "not with these"));
    let alvus = Alvus::before(&upstream);
    for n in 1..=20 {
        let response = alvus.ask();
        assert_eq!((response.status, response.text()), (401, "not with these"));
        assert_eq!(response.field("x-why"), Some("scope"));
        assert_eq!(upstream.seen().len(), 3 * n, "three keys are asked");
        assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
    }
    assert_eq!(alvus.health()["status"], "ok");
}

#[test]
fn eight_bad_keys_of_ten_are_found_out_within_a_few_requests() {
    let upstream =
        Upstream::new(
            |seen| match seen.key.as_deref().is_some_and(|key| key.ends_with("good")) {
                true => ok(),
                false => answer(401, "", "no"),
            },
        );
    let bad = (0..8).map(|n| format!("test-key-never-shown-bad{n}"));
    let good = (0..2).map(|n| format!("test-key-never-shown-{n}good"));
    let keys: Vec<String> = bad.chain(good).collect();
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", &keys.join(","))]);
    let statuses: Vec<u16> = (0..40).map(|_| alvus.ask().status).collect();
    let refused = statuses.iter().filter(|status| **status != 200).count();
    assert!(refused <= 2, "{statuses:?}");
}

#[test]
fn a_403_that_another_key_does_not_get_is_the_keys_own() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(403, "", "no"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["ejected", "ready", "ready"]);
}

#[test]
fn a_403_that_three_keys_get_is_the_requests_own_and_passes() {
    let upstream = Upstream::new(|_| answer(403, "X-Why: moderation\r\n", "flagged"));
    let alvus = Alvus::before(&upstream);
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (403, "flagged"));
    assert_eq!(response.field("x-why"), Some("moderation"));
    assert_eq!(upstream.seen().len(), 3);
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
    let targets = ["/v1/x/a", "/v1/x/b", "/v1/x/c", "/v1/x/d", "/v1/x/e"];
    let mut clients = Vec::new();
    for target in targets {
        clients.push(begin(&alvus, target));
        // On a machine so slow that the rest is over by now, there is nothing more to see.
        eventually("it waits", || {
            alvus.health()["waiting"] == clients.len() || upstream.seen().len() > 1
        });
    }
    for mut client in clients {
        assert_eq!(client.response().status, 200);
    }
    let seen: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(seen[..2], ["/v1/x/a", "/v1/x/a"]);
    // Behind the first one, which proved the key, they go up side by side.
    let mut all = seen[1..].to_vec();
    all.sort_unstable();
    assert_eq!(all, targets);
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
fn a_request_outlasts_a_network_that_is_away_for_more_pauses_than_it_has_retries() {
    let addr = dead_addr();
    let url = format!("http://{addr}/v1");
    let env = [
        ("TARGET_BASE_URL", url.as_str()),
        ("API_KEYS", KEYS[0]),
        ("MAX_RETRIES", "1"),
    ];
    let alvus = Alvus::start(&env);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("it was tried three times", || {
        let tried = alvus.health()["key_status"][0]["failures"]["no_answer"].as_u64();
        tried >= Some(3)
    });
    let upstream = Upstream::at(addr, |_| ok());
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.seen().len(), 1, "it went up once");
    assert_eq!(alvus.states(), ["ready"]);
}

#[test]
fn a_401_that_is_a_page_is_a_portals_and_costs_no_key() {
    let portal = "Content-Type: text/html; charset=utf-8\r\n";
    let upstream = Upstream::scripted(vec![answer(401, portal, "<html>Log in"), ok()]);
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn an_upstream_that_stays_away_is_reported_in_words() {
    let url = format!("http://{}/v1", dead_addr());
    let env = [
        ("TARGET_BASE_URL", url.as_str()),
        ("API_KEYS", KEYS[0]),
        ("MAX_WAIT_SEC", "1"),
    ];
    let response = Alvus::start(&env).ask();
    assert_eq!(response.status, 503);
    assert!(response.field("retry-after").is_some());
    assert!(
        response.text().contains("could not reach http://127.77."),
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
    assert_eq!(alvus.states(), ["ejected", "ready"]);
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

/// A GET on a connection of its own, sent and not yet answered.
fn begin(alvus: &Alvus, target: &str) -> Client {
    let mut client = alvus.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

/// The same on a connection that is used again, and its answer. By the time alvus reads the second
/// request it has let go of all that the first one took.
fn ask_again(client: &mut Client, target: &str) -> Response {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.response()
}

/// The same with a method that must not be repeated.
fn post_again(client: &mut Client, target: &str) -> Response {
    client.send(format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    ));
    client.response()
}

/// Which keys the upstream saw, in order.
fn used(upstream: &Upstream) -> Vec<usize> {
    upstream.seen().iter().map(|s| s.key_index()).collect()
}

#[test]
fn keys_take_turns_evenly_under_parallel_requests() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(alvus.ask().status, 200));
        }
    });
    let used = used(&upstream);
    let mut times = [0, 1, 2].map(|key| used.iter().filter(|k| **k == key).count());
    times.sort_unstable();
    assert_eq!(times, [3, 3, 4]);
}

#[test]
fn a_curious_client_learns_what_its_request_went_through() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 3600\r\n", "slow down"),
        1 => answer(401, "", "who?"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    for (attempts, key) in [("3", "2"), ("1", "2")] {
        let response = alvus.ask();
        assert_eq!((response.status, response.text()), (200, "{\"ok\":true}"));
        assert_eq!(response.field("x-alvus-key"), Some(key));
        assert_eq!(response.field("x-alvus-attempts"), Some(attempts));
        assert_eq!(response.field("x-alvus-waited-ms"), Some("0"));
    }
    let health = alvus.health();
    let pool = health["pool"].as_str().unwrap();
    assert!(
        pool.starts_with("[0]:cooling(3")
            && pool.contains("[1]:ejected(401,")
            && pool.ends_with("[2]:ready"),
        "{pool}"
    );
}

#[test]
fn the_answer_to_a_pool_at_rest_names_how_many_rest_and_until_when() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(401, "", "who?"),
        1 => answer(429, "Retry-After: 7200\r\n", "slow down"),
        _ => answer(429, "Retry-After: 3600\r\n", "slow down"),
    });
    let alvus = Alvus::before(&upstream);
    let response = alvus.ask(); // at once: the rest is longer than this test may take
    assert_eq!(response.status, 503, "never a 429 of our own");
    let error = &response.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&"server_error".into(), &"keys_cooling".into())
    );
    let after = response.field("retry-after").unwrap();
    assert!(
        (3600 - PATIENCE.as_secs()..=3600).contains(&after.parse().unwrap()),
        "{after}"
    );
    let message = error["message"].as_str().unwrap();
    for part in ["2 of 3 keys are cooling", &format!("in {after} s")] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn as_many_rounds_are_waited_as_max_retries_says() {
    for rounds in [0, 1, 2] {
        let upstream = Upstream::new(|_| answer(429, "Retry-After: 1\r\n", "slow down"));
        let env = [("API_KEYS", KEYS[0]), ("MAX_RETRIES", &rounds.to_string())];
        let response = Alvus::before_with(&upstream, &env).ask();
        assert_eq!(response.status, 503);
        assert!(response.field("retry-after").is_some());
        assert_eq!(
            upstream.seen().len(),
            1 + rounds,
            "the first try, and one after each round"
        );
    }
}

#[test]
fn no_round_begins_that_would_end_after_max_wait() {
    // The first rest is within MAX_WAIT_SEC, the second one is not, though each is for itself.
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 2\r\n", "slow down"));
    let env = [("API_KEYS", KEYS[0]), ("MAX_WAIT_SEC", "3")];
    let response = Alvus::before_with(&upstream, &env).ask();
    assert_eq!((response.status, upstream.seen().len()), (503, 2));
}

#[test]
fn a_pool_whose_every_key_is_called_invalid_is_down_and_asks_once_a_minute() {
    let words =
        r#"{"error":{"message":"Incorrect API key provided: sk-x","code":"invalid_api_key"}}"#;
    let upstream = Upstream::new(|_| answer(401, "Content-Type: application/json\r\n", words));
    let alvus = Alvus::before(&upstream);
    for _ in 0..5 {
        let response = alvus.ask();
        assert_eq!((response.status, response.text()), (401, words));
    }
    assert_eq!(used(&upstream), [0, 1, 2], "the others hear the same words");
    let health = begin(&alvus, "/health").response();
    assert_eq!(
        (health.status, &health.json()["status"]),
        (503, &"down".into())
    );
}

#[test]
fn the_second_of_two_403_passes_and_later_requests_use_both_keys() {
    let upstream = Upstream::new(|seen| {
        let index = seen.key_index();
        answer(
            403,
            &format!("X-Key: {index}\r\n"),
            &format!("no, said to {index}"),
        )
    });
    let env = [("API_KEYS", KEYS[..2].join(","))];
    let alvus = Alvus::before_with(&upstream, &env.each_ref().map(|(n, v)| (*n, v.as_str())));
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (403, "no, said to 1"));
    assert_eq!(response.field("x-key"), Some("1"));
    assert_eq!(response.field("x-alvus-attempts"), Some("2"));
    assert_eq!(alvus.states(), ["ready", "ready"]);
    assert_eq!(alvus.ask().status, 403);
    assert_eq!(used(&upstream), [0, 1, 0, 1]);
}

#[test]
fn a_403_is_judged_by_the_next_key_that_is_not_limited() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(403, "", "no"),
        1 => answer(429, "Retry-After: 3600\r\n", "slow down"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["ejected", "cooling", "ready"]);
}

#[test]
fn a_403_passes_when_the_other_key_rests_for_too_long() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 3600\r\n", "slow down"),
        _ => answer(403, "X-Why: moderation\r\n", "flagged"),
    });
    let env = [("API_KEYS", KEYS[..2].join(","))];
    let alvus = Alvus::before_with(&upstream, &env.each_ref().map(|(n, v)| (*n, v.as_str())));
    let response = alvus.ask();
    assert_eq!((response.status, response.text()), (403, "flagged"));
    assert_eq!(response.field("x-why"), Some("moderation"));
    assert_eq!(alvus.states(), ["cooling", "ready"]);
}

#[test]
fn after_a_rest_one_request_goes_first_and_the_others_wait_for_its_answer() {
    let rest = Duration::from_secs(1);
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let upstream = Upstream::new(move |_| {
        let mut noted = noted.lock().unwrap();
        noted.push(Instant::now());
        let n = noted.len();
        drop(noted);
        if n > 3 {
            return ok();
        }
        thread::sleep(rest / 4); // time for a herd to come, well within the wait for the answer
        answer(429, "Retry-After: 1\r\n", "slow down")
    });
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut clients = vec![begin(&alvus, "/v1/x/a")];
    eventually("the key rests", || {
        alvus.states() == ["cooling"] || upstream.seen().len() > 1
    });
    clients.extend(["/v1/x/b", "/v1/x/c", "/v1/x/d"].map(|target| begin(&alvus, target)));
    for mut client in clients {
        assert_eq!(client.response().status, 200);
    }
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 3 + 4);
    for limited in 0..3 {
        let gap = times[limited + 1].duration_since(times[limited]);
        assert!(gap >= rest, "a herd ran into the limit: {gap:?}");
    }
}

#[test]
fn all_kept_connections_may_be_dead_and_the_request_is_answered_all_the_same() {
    let (open, opened) = gate();
    let opened = Mutex::new(opened);
    // Two requests at once make two connections; both die when they are used again.
    let upstream = Upstream::new(move |seen| match seen.target.as_str() {
        "/v1/held" => {
            opened.lock().unwrap().recv().unwrap();
            ok()
        }
        "/v1/second" if seen.connection < 2 => Act::SayAndClose(Vec::new()),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let mut held = begin(&alvus, "/v1/held");
    upstream.wait_for(1);
    let mut client = alvus.connect();
    assert_eq!(ask_again(&mut client, "/v1/first").status, 200);
    open.send(()).unwrap();
    assert_eq!(held.response().status, 200);
    assert_eq!(ask_again(&mut held, "/health").status, 200);
    let response = ask_again(&mut client, "/v1/second");
    assert_eq!(
        (response.status, response.field("x-alvus-attempts")),
        (200, Some("2"))
    );
    let connections: Vec<usize> = upstream.seen().iter().map(|s| s.connection).collect();
    assert_eq!((connections[1], connections[3]), (1, 2));
}

/// Two requests on one connection.
fn answered_first_and_broken_second(alvus: &Alvus) {
    let mut client = alvus.connect();
    assert_eq!(post_again(&mut client, "/v1/first").status, 200);
    let response = post_again(&mut client, "/v1/second");
    assert_eq!(
        (response.status, response.json()["error"]["code"].as_str()),
        (502, Some("upstream_broke"))
    );
}

#[test]
fn a_dead_kept_connection_is_tried_again_once_and_not_twice() {
    let upstream = Upstream::new(|seen| match seen.target.as_str() {
        "/v1/first" => ok(),
        _ => Act::SayAndClose(Vec::new()),
    });
    let alvus = Alvus::before(&upstream);
    answered_first_and_broken_second(&alvus);
    let connections: Vec<usize> = upstream.seen().iter().map(|s| s.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn a_kept_connection_that_ends_when_there_was_time_to_work_is_not_taken_for_a_dead_one() {
    let upstream = Upstream::new(|seen| match seen.target.as_str() {
        "/v1/first" => ok(),
        _ => Act::Do(Box::new(|_| thread::sleep(Duration::from_millis(2500)))),
    });
    let alvus = Alvus::before(&upstream);
    answered_first_and_broken_second(&alvus);
    assert_eq!(upstream.seen().len(), 2, "sent once");
}

#[test]
fn a_request_whose_answer_had_begun_is_not_sent_again() {
    for beginning in [
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "no HTTP at all\r\n\r\n",
    ] {
        let upstream = Upstream::new(move |seen| match seen.target.as_str() {
            "/v1/first" => ok(),
            _ => Act::SayAndClose(beginning.into()),
        });
        let alvus = Alvus::before(&upstream);
        // On a new connection, and on one that is used again.
        let mut client = alvus.connect();
        for (target, status) in [("/v1/second", 502), ("/v1/first", 200), ("/v1/second", 502)] {
            assert_eq!(
                post_again(&mut client, target).status,
                status,
                "{beginning:?}"
            );
        }
        let connections: Vec<usize> = upstream.seen().iter().map(|s| s.connection).collect();
        assert_eq!(connections, [0, 1, 1], "{beginning:?}");
        assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
    }
}

#[test]
fn a_silent_upstream_is_not_asked_again_not_even_on_a_kept_connection() {
    let upstream = Upstream::new(|seen| match seen.target.as_str() {
        "/v1/first" => ok(),
        // Says nothing until alvus hangs up.
        _ => Act::Do(Box::new(|stream| drop(stream.read(&mut [0])))),
    });
    let alvus = Alvus::before_with(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
    let mut client = alvus.connect();
    assert_eq!(post_again(&mut client, "/v1/first").status, 200);
    let response = post_again(&mut client, "/v1/second");
    let error = &response.json()["error"];
    assert_eq!(
        (response.status, &error["code"]),
        (504, &"upstream_timeout".into())
    );
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains(&upstream.addr().to_string()),
        "{error}"
    );
    assert_eq!(upstream.seen().len(), 2);
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn a_limit_whose_words_never_end_does_not_hold_the_next_key_up() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => Act::Do(Box::new(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 429 X\r\nContent-Length: 99999\r\n\r\nslow");
            let _ = stream.read(&mut [0]); // until alvus hangs up
        })),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["cooling", "ready", "ready"]);
}

#[test]
fn an_endpoint_that_a_key_is_refused_for_takes_it_from_no_other_not_even_with_the_same_model() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 if seen.target == "/v1/responses" => answer(401, "", "Missing scopes: responses"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let body = r#"{"model":"m"}"#;
    for _ in 0..6 {
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/responses HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(client.response().status, 200);
    }
    let before = upstream.seen().len();
    for _ in 0..6 {
        assert_eq!(alvus.ask().status, 200);
    }
    let chat = &used(&upstream)[before..];
    assert_eq!(chat.iter().filter(|key| **key == 0).count(), 2, "{chat:?}");
}
