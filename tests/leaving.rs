//! A client that leaves is noticed wherever its request stands, and nothing more is spent on it.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};

use common::{
    Act, Alvus, CHAT, KEYS, PATIENCE, SSE_HEAD, Upstream, answer, chunk, eventually, gate, ok,
};

/// Waits until the other side ends the connection, then says so.
fn until_it_ends(stream: &mut TcpStream, ended: &Sender<()>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if matches!(stream.read(&mut [0]), Ok(0) | Err(_)) {
        let _ = ended.send(());
    }
}

/// An upstream that answers its first request with `begin` and then waits for the connection's
/// end, which it reports; later requests get a plain answer.
fn waits_for_the_end(begin: &'static str) -> (Upstream, Receiver<()>) {
    let (ended, end) = gate();
    let first = Mutex::new(Some(ended));
    let upstream = Upstream::new(move |_| match first.lock().unwrap().take() {
        Some(ended) => Act::Do(Box::new(move |stream| {
            stream.write_all(begin.as_bytes()).unwrap();
            until_it_ends(stream, &ended);
        })),
        None => ok(),
    });
    (upstream, end)
}

#[test]
fn a_client_that_leaves_before_the_first_byte_cancels_its_call() {
    let (upstream, end) = waits_for_the_end("");
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut client = alvus.connect();
    client.send(CHAT);
    upstream.wait_for(1);
    client.leave();
    end.recv_timeout(PATIENCE)
        .expect("the upstream's connection ends");
    assert_eq!(alvus.ask().status, 200, "the one worker is free again");
    assert_eq!(upstream.seen().len(), 2, "no further key was spent");
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_stream_cancels_its_call() {
    let (upstream, end) = waits_for_the_end(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    );
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    client.chunk().unwrap();
    client.leave();
    end.recv_timeout(PATIENCE)
        .expect("the upstream's connection ends");
    eventually("it is logged", || alvus.log().contains("(the client left)"));
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_key_costs_nothing_more() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 3\r\n", ""));
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("it waits", || alvus.health()["waiting"] == 1);
    client.leave();
    eventually("it is noticed", || alvus.health()["waiting"] == 0);
    eventually("the key is ready again", || alvus.states() == ["ready"]);
    assert_eq!(upstream.seen().len(), 1, "nothing went up after the rest");
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_worker_is_forgotten() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        })),
        None => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut first = alvus.connect();
    first.send(CHAT);
    upstream.wait_for(1);
    let mut second = alvus.connect();
    second.send(CHAT);
    eventually("the second waits", || alvus.health()["in_flight"] == 2);
    second.leave();
    eventually("it is forgotten", || alvus.health()["in_flight"] == 1);
    go.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn a_client_that_will_close_but_waits_has_not_left() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().take().expect("asked once");
        Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            stream.write_all(SSE_HEAD.as_bytes()).unwrap();
            let _ = gone.recv_timeout(PATIENCE);
            stream
                .write_all((chunk("data: 1\n\n") + "0\r\n\r\n").as_bytes())
                .unwrap();
        }))
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    upstream.wait_for(1);
    assert_eq!(alvus.health()["in_flight"], 1, "alvus has had time to look");
    go.send(()).unwrap();
    assert_eq!(client.head().status, 200);
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    assert_eq!(client.chunk().unwrap(), None);
    assert!(client.ended());
}

#[test]
fn a_client_that_sends_its_next_request_early_has_not_left() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
                .unwrap();
        })),
        None => answer(200, "", "second"),
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.send(CHAT);
    upstream.wait_for(1);
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "first");
    assert_eq!(client.response().text(), "second");
}

#[test]
fn a_connection_whose_call_was_cancelled_is_not_used_again() {
    let connections = Arc::new(Mutex::new(Vec::new()));
    let noted = connections.clone();
    let (ended, end) = gate();
    let first = Mutex::new(Some(ended));
    let upstream = Upstream::new(move |seen| {
        noted.lock().unwrap().push(seen.connection);
        match first.lock().unwrap().take() {
            Some(ended) => Act::Do(Box::new(move |stream| {
                let begin = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
                stream.write_all(begin.as_bytes()).unwrap();
                until_it_ends(stream, &ended);
            })),
            None => ok(),
        }
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    client.leave();
    end.recv_timeout(PATIENCE)
        .expect("the upstream's connection ends");
    assert_eq!(alvus.ask().text(), "{\"ok\":true}");
    assert_eq!(*connections.lock().unwrap(), [0, 1]);
}
