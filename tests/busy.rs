//! When there is more to do than workers.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender};

use common::{Act, Alvus, CHAT, Client, PATIENCE, Upstream, eventually, gate, ok};

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
    let refused = ask(&alvus).response();
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    assert_eq!(refused.json()["error"]["code"], "workers_busy");
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
fn a_slow_upload_holds_up_nobody_else() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "2")]);
    let mut slow = alvus.connect();
    slow.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    assert_eq!(alvus.ask().status, 200);
    slow.send("lo");
    assert_eq!(slow.response().status, 200);
}
