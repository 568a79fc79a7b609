//! A client that leaves is noticed wherever its request is, and nothing more is spent on it.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, KEYS, PATIENCE, SSE_HEAD, Upstream, answer, chunk, eventually, gate, ok,
};

/// How soon a client that left must be noticed, wherever its request stands.
const NOTICED: Duration = Duration::from_secs(2);

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
    end.recv_timeout(NOTICED)
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
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    client.chunk().unwrap();
    client.leave();
    end.recv_timeout(NOTICED)
        .expect("the upstream's connection ends");
    eventually("it is logged", || alvus.log().contains("(the client left)"));
    assert_eq!(upstream.seen().len(), 1, "no further key was spent");
    assert_eq!(alvus.ask().status, 200, "the one worker is free again");
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_key_costs_nothing_more() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 4\r\n", ""));
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("it waits", || alvus.health()["waiting"] == 1);
    client.leave();
    let left = Instant::now();
    eventually("it is noticed", || alvus.health()["waiting"] == 0);
    assert!(left.elapsed() < NOTICED, "{:?}", left.elapsed());
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
    let left = Instant::now();
    eventually("it is forgotten", || alvus.health()["in_flight"] == 1);
    assert!(left.elapsed() < NOTICED, "{:?}", left.elapsed());
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
            stream
                .write_all((SSE_HEAD.to_owned() + &chunk("data: 0\n\n")).as_bytes())
                .unwrap();
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
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 0\n\n");
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    assert_eq!(client.chunk().unwrap(), None);
    assert!(client.ended());
}

#[test]
fn a_client_whose_next_request_is_too_large_to_be_read_early_has_not_left() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            stream
                .write_all((SSE_HEAD.to_owned() + &chunk("data: 0\n\n")).as_bytes())
                .unwrap();
            let _ = gone.recv_timeout(PATIENCE);
            let _ = stream.write_all((chunk("data: 1\n\n") + "0\r\n\r\n").as_bytes());
        })),
        None => answer(200, "", "second"),
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    // Most of it stays in the socket, which can be read all the time then.
    let body = "x".repeat(50_000);
    let length = body.len();
    client.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 0\n\n");
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    assert_eq!(client.chunk().unwrap(), None);
    assert_eq!(client.response().text(), "second");
    assert_eq!(upstream.seen()[1].body, body.as_bytes());
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
    end.recv_timeout(NOTICED)
        .expect("the upstream's connection ends");
    assert_eq!(alvus.ask().text(), "{\"ok\":true}");
    assert_eq!(*connections.lock().unwrap(), [0, 1]);
}

/// Waits until alvus has nothing more to do for anyone, in the time it has for that.
fn noticed(alvus: &Alvus) {
    let left = Instant::now();
    eventually("it is noticed", || alvus.health()["in_flight"] == 0);
    assert!(left.elapsed() < NOTICED, "{:?}", left.elapsed());
    eventually("it is logged", || {
        alvus.log().contains("-> 0 (the client left)")
    });
}

#[test]
fn a_client_that_resets_its_connection_cancels_its_call() {
    let (upstream, end) = waits_for_the_end("");
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    upstream.wait_for(1);
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).unwrap();
    drop(client);
    end.recv_timeout(NOTICED)
        .expect("the upstream's connection ends");
    noticed(&alvus);
    assert_eq!(upstream.seen().len(), 1, "no further key was spent");
}

#[test]
fn a_client_that_stops_reading_and_then_leaves_cancels_its_call() {
    let (ended, end) = gate();
    let ended = Mutex::new(Some(ended));
    let (full, filled) = gate();
    let full = Mutex::new(Some(full));
    let upstream = Upstream::new(move |_| {
        let (ended, full) = (ended.lock().unwrap().take(), full.lock().unwrap().take());
        Act::Do(Box::new(move |stream| {
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
            stream.write_all(head.as_bytes()).unwrap();
            let piece = [b'x'; 64 * 1024];
            // Once a write takes this long, all buffers on the way are full.
            let long = Duration::from_millis(300);
            stream.set_write_timeout(Some(long)).unwrap();
            while stream.write_all(&piece).is_ok() {}
            let _ = full.unwrap().send(());
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            while stream.write_all(&piece).is_ok() {}
            let _ = ended.unwrap().send(());
        }))
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    filled.recv_timeout(PATIENCE).unwrap();
    client.leave();
    end.recv_timeout(NOTICED)
        .expect("the upstream's connection ends");
    eventually("it is logged", || alvus.log().contains("(the client left)"));
}

#[test]
fn a_client_that_leaves_while_its_body_goes_up_cancels_its_call() {
    // An upstream that takes the connection and reads nothing.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", upstream.local_addr().unwrap());
    let alvus = Alvus::start(&[("TARGET_BASE_URL", &url), ("API_KEYS", KEYS[0])]);
    let body = vec![b'x'; 24 * 1024 * 1024]; // more than any socket buffer takes
    let mut client = alvus.connect();
    client.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    let (going_up, _) = upstream.accept().unwrap();
    going_up.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(going_up.peek(&mut [0]).unwrap(), 1);
    client.leave();
    noticed(&alvus);
}

#[test]
fn a_client_that_leaves_while_alvus_connects_is_noticed() {
    // A listener whose queue is full drops what knocks on it, so connecting takes for ever.
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let full = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(
        &full,
        &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap(),
    )
    .unwrap();
    listen(&full, 0).unwrap();
    let addr = std::net::SocketAddr::try_from(getsockname(&full).unwrap()).unwrap();
    let knock = || TcpStream::connect_timeout(&addr, Duration::from_millis(500));
    let _queued: Vec<TcpStream> = std::iter::from_fn(|| knock().ok()).take(16).collect();
    let alvus = Alvus::start(&[
        ("TARGET_BASE_URL", &format!("http://{addr}/v1")),
        ("API_KEYS", KEYS[0]),
        ("CONNECT_TIMEOUT_SEC", "300"),
    ]);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("it is in", || {
        alvus.health()["key_status"][0]["in_flight"] == 1
    });
    client.leave();
    noticed(&alvus);
}

#[test]
fn a_client_that_leaves_between_two_tries_is_noticed_and_not_tried_for_again() {
    let addr = common::dead_addr();
    let alvus = Alvus::start(&[
        ("TARGET_BASE_URL", &format!("http://{addr}/v1")),
        ("API_KEYS", KEYS[0]),
        ("LOG", "debug"),
    ]);
    let mut client = alvus.connect();
    client.send(CHAT);
    eventually("a long pause begins", || {
        alvus.log().matches("then Pause").count() >= 4
    });
    let tries = alvus.log().matches("then Pause").count();
    client.leave();
    noticed(&alvus);
    let log = alvus.log();
    assert!(log.contains(&format!("attempts={tries} ")), "{log}");
}
