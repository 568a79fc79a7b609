//! More requests than `WORKERS`.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, Response, SSE_HEAD, TempDir, Upstream, answer, chunk,
    eventually, gate, ok,
};

/// An upstream whose first request is held until the gate opens; the others are answered.
fn holds_the_first() -> (Upstream, Sender<()>) {
    let (go, gone): (_, Receiver<()>) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        })),
        None => ok(),
    });
    (upstream, go)
}

fn ask(alvus: &Alvus) -> Client {
    let mut client = alvus.connect();
    client.send(CHAT);
    client
}

/// The answer to whom no worker serves: in OpenAI's shape, with a time to come back.
fn is_busy(refused: &Response) {
    is_turned_away(refused, "workers_busy", "WORKERS");
}

fn is_turned_away(refused: &Response, code: &str, why: &str) {
    assert_eq!(refused.status, 503);
    let after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let json = refused.json();
    let error = json["error"].as_object().expect("an error object");
    let names: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(names, ["code", "message", "param", "type"], "{json}");
    assert_eq!(error["code"], code);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(why), "{message}");
}

#[test]
fn health_answers_while_every_worker_is_busy_and_requests_are_queued() {
    let (upstream, go) = holds_the_first();
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    let mut queued: Vec<Client> = (0..5).map(|_| ask(&alvus)).collect();
    eventually("all of them are in", || alvus.health()["in_flight"] == 6);
    assert_eq!(alvus.health()["status"], "ok");
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    for client in &mut queued {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_request_that_gets_no_worker_in_time_is_told_so() {
    let (upstream, go) = holds_the_first();
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1"), ("MAX_WAIT_SEC", "1")]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    is_busy(&ask(&alvus).response());
    assert_eq!(upstream.seen().len(), 1, "it did not go up");
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
}

#[test]
fn a_reload_changes_how_long_a_request_waits_for_a_worker() {
    let (upstream, go) = holds_the_first();
    let dir = TempDir::new();
    let configure = |wait| {
        let (key, url) = (KEYS[0], upstream.base_url());
        let text =
            format!("API_KEYS={key}\nTARGET_BASE_URL={url}\nWORKERS=1\nMAX_WAIT_SEC={wait}\n");
        dir.write("conf", &text)
    };
    let path = configure("300");
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    configure("1");
    eventually("it is read", || alvus.log().contains("MAX_WAIT_SEC"));
    let asked = Instant::now();
    is_busy(&ask(&alvus).response());
    // With the old value it would have been half a minute.
    assert!(asked.elapsed() < Duration::from_secs(25));
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
}

#[test]
fn thirty_new_connections_at_once_are_all_answered() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "4")]);
    let mut clients: Vec<Client> = (0..30).map(|_| alvus.connect()).collect();
    for client in clients.iter_mut().rev() {
        client.send(CHAT);
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn uploads_under_way_hold_no_worker() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut slow: Vec<Client> = (0..3).map(|_| alvus.connect()).collect();
    for client in &mut slow {
        client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    }
    eventually("all are in", || alvus.health()["in_flight"] == 3);
    assert_eq!(alvus.ask().status, 200);
    for client in &mut slow {
        client.send("lo");
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn health_answers_while_every_worker_streams() {
    let gates: Vec<_> = (0..2).map(|_| gate()).collect();
    let (go, gone): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
    let gone = Mutex::new(gone);
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().pop().expect("asked twice");
        Act::Do(Box::new(move |stream| {
            let begin = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
            stream.write_all(begin.as_bytes()).unwrap();
            let _ = gone.recv_timeout(PATIENCE);
            stream.write_all(b"0\r\n\r\n").unwrap();
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "2"), ("MAX_WAIT_SEC", "1")]);
    let mut streams: Vec<Client> = (0..2).map(|_| ask(&alvus)).collect();
    for stream in &mut streams {
        stream.head();
        assert!(stream.chunk().unwrap().is_some());
    }
    let mut queued = ask(&alvus);
    let health = alvus.health();
    assert_eq!(health["status"], "ok");
    is_busy(&queued.response());
    eventually("it is gone", || alvus.health()["in_flight"] == 2);
    drop(go);
    for stream in &mut streams {
        assert_eq!(stream.chunk().unwrap(), None);
    }
}

#[test]
fn a_refused_client_can_ask_again_on_the_same_connection() {
    let (upstream, go) = holds_the_first();
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1"), ("MAX_WAIT_SEC", "1")]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    let mut second = ask(&alvus);
    is_busy(&second.response());
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    second.send(CHAT);
    assert_eq!(second.response().status, 200);
}

#[test]
fn requests_are_served_in_the_order_in_which_they_queued() {
    let (upstream, go) = holds_the_first();
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    let mut queued = Vec::new();
    for n in 0..5 {
        let mut client = alvus.connect();
        client.send(format!("GET /v1/{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
        queued.push(client);
        eventually("it is queued", || alvus.health()["in_flight"] == n + 2);
    }
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    for client in &mut queued {
        assert_eq!(client.response().status, 200);
    }
    let order: Vec<String> = upstream.seen()[1..]
        .iter()
        .map(|seen| seen.target.clone())
        .collect();
    assert_eq!(order, ["/v1/0", "/v1/1", "/v1/2", "/v1/3", "/v1/4"]);
}

#[test]
fn as_many_may_wait_as_there_are_connections_but_those_that_are_kept_for_health() {
    let (upstream, go) = holds_the_first();
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1"), ("MAX_CONNECTIONS", "40")]);
    let mut first = ask(&alvus);
    upstream.wait_for(1);
    let mut queued: Vec<Client> = (0..31).map(|_| ask(&alvus)).collect();
    eventually("the house is full", || alvus.health()["in_flight"] == 32);
    is_turned_away(
        &ask(&alvus).response(),
        "connections_busy",
        "MAX_CONNECTIONS",
    );
    assert_eq!(alvus.health()["in_flight"], 32);
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    for client in &mut queued {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn requests_that_wait_for_a_resting_model_keep_none_from_a_ready_one() {
    let upstream = Upstream::new(|seen| match seen.body_text().contains("tired") {
        true => answer(429, "Retry-After: 100\r\n", ""),
        false => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let tired = r#"{"model":"tired"}"#;
    let waiting: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = alvus.connect();
            client.send(format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{tired}",
                tired.len()
            ));
            client
        })
        .collect();
    eventually("all of them wait", || alvus.health()["waiting"] == 8);
    for _ in 0..20 {
        assert_eq!(alvus.ask().status, 200);
    }
    assert_eq!(alvus.health()["status"], "degraded", "and health says so");
    waiting.into_iter().for_each(Client::leave);
    eventually("they are gone", || alvus.health()["in_flight"] == 0);
}

#[test]
fn never_more_requests_go_up_at_a_time_than_there_are_workers() {
    const WORKERS: usize = 2;
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let upstream = Upstream::new(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_micros(200)); // so that they can meet
        now.fetch_sub(1, Ordering::SeqCst);
        ok()
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", &WORKERS.to_string())]);
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let mut client = alvus.connect();
                for _ in 0..100 {
                    client.send(CHAT);
                    assert_eq!(client.response().status, 200);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), WORKERS);
    eventually("all workers are free", || alvus.health()["in_flight"] == 0);
}

#[test]
fn six_and_twenty_parallel_connections_are_all_served_at_the_same_time() {
    for count in [6, 20] {
        let all = Arc::new((Mutex::new(0), std::sync::Condvar::new()));
        let upstream = Upstream::new(move |_| {
            // Nobody is answered before everybody has asked.
            let (asked, more) = &*all;
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            more.notify_all();
            let waited = more.wait_timeout_while(asked, PATIENCE, |n| *n < count);
            match waited.unwrap().1.timed_out() {
                true => answer(599, "", "not all of them came"),
                false => ok(),
            }
        });
        let alvus = Alvus::before(&upstream);
        let mut clients: Vec<Client> = (0..count).map(|_| ask(&alvus)).collect();
        for client in &mut clients {
            assert_eq!(client.response().status, 200, "{count}");
        }
    }
}

#[test]
fn a_body_that_nobody_reads_and_that_never_comes_holds_nobody_up() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut health = alvus.connect();
    health.send("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(health.response().status, 200);
    let mut refused = alvus.connect();
    refused.send("TRACE /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx");
    assert_eq!(refused.response().status, 501);
    eventually("nobody is in", || alvus.health()["in_flight"] == 0);
    assert_eq!(alvus.ask().status, 200);
}
