//! Two alvus boxes behind Debian's haproxy, with the file that docs/operations.md shows: `cross/haproxy.cfg`.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, Client, KEYS, PATIENCE, SSE_HEAD, Upstream, answer, chunk, eventually, gate,
};

/// haproxy in front of two boxes, each with a key of its own and this provider.
struct Boxes {
    haproxy: Child,
    addr: SocketAddr,
    a: Alvus,
    b: Alvus,
}

impl Boxes {
    fn before(upstream: &Upstream) -> Boxes {
        let with = |key| Alvus::before_with(upstream, &[("API_KEYS", key), ("MAX_WAIT_SEC", "0")]);
        let (a, b) = (with(KEYS[0]), with(KEYS[1]));
        let addr = common::dead_addr(); // haproxy takes no port 0
        let program = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];
        let program = program
            .iter()
            .find(|p| Path::new(p).exists())
            .unwrap_or(&"haproxy");
        let haproxy = Command::new(program)
            .args([
                "-db",
                "-f",
                concat!(env!("CARGO_MANIFEST_DIR"), "/cross/haproxy.cfg"),
            ])
            .env("ALVUS_LISTEN", addr.to_string())
            .env("ALVUS_A", a.addr.to_string())
            .env("ALVUS_B", b.addr.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy starts: tests/clients/setup installs it");
        let boxes = Boxes {
            haproxy,
            addr,
            a,
            b,
        };
        eventually("haproxy has seen a box", || boxes.is_up());
        boxes
    }

    /// A box answers through haproxy. While haproxy starts, it may also end a connection.
    fn is_up(&self) -> bool {
        let asked = TcpStream::connect(self.addr).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /health HTTP/1.0\r\nHost: alvus\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer.starts_with(b"HTTP/1.1 200 "))
        });
        asked.unwrap_or(false)
    }

    /// Sends a chat request of some size.
    fn send(&self, fields: &str, body: &str) -> Client {
        let mut client = Client::connect(self.addr);
        let length = body.len();
        client.send(format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ));
        client
    }

    fn ask(&self, fields: &str) -> u16 {
        self.send(fields, "{}").response().status
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        let _ = self.haproxy.kill();
        let ended = self.haproxy.wait();
        if thread::panicking() {
            eprintln!("haproxy ended with {ended:?} (signal 9 is the test's own)");
        }
    }
}

/// What a box's provider key says which box it was.
fn counts(upstream: &Upstream) -> [usize; 2] {
    let seen = upstream.seen();
    [0, 1].map(|box_| seen.iter().filter(|s| s.key_index() == box_).count())
}

#[test]
fn both_boxes_serve() {
    let upstream = Upstream::new(|_| common::ok());
    let boxes = Boxes::before(&upstream);
    for _ in 0..8 {
        assert_eq!(boxes.ask(""), 200);
    }
    let [a, b] = counts(&upstream);
    assert!(a > 0 && b > 0, "{a} and {b}");
}

#[test]
fn the_requests_of_a_session_stay_with_one_box_until_it_is_gone() {
    let upstream = Upstream::new(|_| common::ok());
    let boxes = Boxes::before(&upstream);
    for session in 0..4 {
        let before = counts(&upstream);
        for _ in 0..4 {
            assert_eq!(boxes.ask(&format!("X-Session-Id: {session}\r\n")), 200);
        }
        let after = counts(&upstream);
        let share = [after[0] - before[0], after[1] - before[1]];
        assert!(share == [4, 0] || share == [0, 4], "{share:?}");
    }
    boxes.a.signal("KILL");
    for session in 0..4 {
        assert_eq!(boxes.ask(&format!("X-Session-Id: {session}\r\n")), 200);
    }
}

/// An upstream that answers a request for "hold" with the start of a stream and goes on when told.
fn holds_streams() -> (Upstream, Arc<Mutex<Vec<Sender<()>>>>) {
    let gates = Arc::new(Mutex::new(Vec::new()));
    let kept = gates.clone();
    let upstream = Upstream::new(move |seen| {
        if !seen.body.starts_with(b"hold") {
            return common::ok();
        }
        let (go, gone) = gate();
        kept.lock().unwrap().push(go);
        Act::Do(Box::new(move |stream| {
            let begin = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
            let _ = stream.write_all(begin.as_bytes());
            let _ = gone.recv_timeout(PATIENCE);
            let end = format!("{}0\r\n\r\n", chunk("data: 2\n\n"));
            let _ = stream.write_all(end.as_bytes());
        }))
    });
    (upstream, gates)
}

#[test]
fn killing_one_box_loses_no_request_that_had_not_started_streaming() {
    // The first answers take until the box is dead, so that requests are under way when it dies.
    let dead = Arc::new(AtomicBool::new(false));
    let known = dead.clone();
    let upstream = Upstream::new(move |seen| {
        let (known, first) = (known.clone(), seen.key_index() == 0);
        Act::Do(Box::new(move |stream| {
            if first {
                eventually("the box is dead", || known.load(Ordering::SeqCst));
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }))
    });
    let boxes = Boxes::before(&upstream);
    let body = "x".repeat(100_000); // more than haproxy would keep by itself
    let waiting: Vec<Client> = (0..10).map(|_| boxes.send("", &body)).collect();
    eventually("a box has some of them", || counts(&upstream)[0] >= 3);
    boxes.a.signal("KILL");
    eventually("it is dead", || TcpStream::connect(boxes.a.addr).is_err());
    dead.store(true, Ordering::SeqCst);
    for mut client in waiting {
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "done"));
    }
    // Whoever comes after that, with haproxy's next look at the box or before it, is served too.
    let all: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..5).map(|_| boxes.ask("")).collect::<Vec<u16>>()))
            .collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    assert_eq!(all, [200; 40]);
}

#[test]
fn a_stream_of_the_box_that_stays_goes_on_and_one_of_the_dead_box_never_looks_whole() {
    let (upstream, gates) = holds_streams();
    let boxes = Boxes::before(&upstream);
    let mut clients: Vec<Client> = Vec::new();
    while counts(&upstream).contains(&0) {
        let mut client = boxes.send("", "hold");
        client.head();
        assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
        clients.push(client);
    }
    boxes.a.signal("KILL");
    eventually("it is dead", || TcpStream::connect(boxes.a.addr).is_err());
    for go in gates.lock().unwrap().drain(..) {
        let _ = go.send(());
    }
    let mut whole = 0;
    for mut client in clients {
        let mut next = || client.chunk().ok().flatten();
        match next() {
            Some(event) => {
                assert_eq!(event, b"data: 2\n\n");
                assert_eq!(client.chunk(), Ok(None));
                whole += 1;
            }
            None => assert!(client.ended()),
        }
    }
    assert_eq!(whole, counts(&upstream)[1]);
}

#[test]
fn when_all_keys_of_one_box_rest_the_other_one_gets_the_requests() {
    let resting = Arc::new(AtomicBool::new(true));
    let rests = resting.clone();
    let upstream = Upstream::new(move |seen| match seen.key_index() {
        0 if rests.load(Ordering::SeqCst) => answer(429, "Retry-After: 5\r\n", ""),
        _ => common::ok(),
    });
    let boxes = Boxes::before(&upstream);
    // The first request that meets the resting key is given to the other box (503, sent again).
    for _ in 0..6 {
        assert_eq!(boxes.ask(""), 200);
    }
    assert_eq!(boxes.a.states(), ["cooling"]);
    // Then haproxy's own look at /health keeps requests away from it.
    let turned_away = || boxes.a.log().matches("-> 503").count();
    eventually("no request comes to the resting box", || {
        let before = turned_away();
        for _ in 0..6 {
            assert_eq!(boxes.ask(""), 200);
        }
        thread::sleep(Duration::from_millis(200)); // log lines come late, and not more than 100 a second
        turned_away() == before
    });
    // And it comes back when its key has rested.
    resting.store(false, Ordering::SeqCst);
    let before = counts(&upstream)[0];
    eventually("it serves again", || {
        assert_eq!(boxes.ask(""), 200);
        counts(&upstream)[0] > before
    });
    assert_eq!(boxes.b.states(), ["ready"]);
}

#[test]
fn when_all_keys_of_both_rest_the_client_learns_when_to_come_back() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 100\r\n", ""));
    let boxes = Boxes::before(&upstream);
    // Both before haproxy has looked at the boxes (every 2 s) and after it.
    let until = Instant::now() + Duration::from_secs(3);
    let mut own_words = 0;
    while Instant::now() < until {
        let response = boxes.send("", "{}").response();
        assert_eq!(
            (response.status, response.field("content-type")),
            (503, Some("application/json"))
        );
        // no_box: haproxy's own words, in the moment in which the last box goes down.
        let code = response.json()["error"]["code"].clone();
        own_words += usize::from(code == "no_box");
        assert!(code == "keys_cooling" || own_words == 1, "{code}");
        assert!(response.field("retry-after").is_some());
        thread::sleep(Duration::from_millis(20)); // a client's pace, not a flood
    }
    assert_eq!(upstream.seen().len(), 2);
    let mut client = Client::connect(boxes.addr);
    client.send("GET /health HTTP/1.1\r\nHost: alvus\r\n\r\n");
    let seen = client.response();
    assert_eq!((seen.status, seen.text()), (503, "{\"status\":\"down\"}"));
}
