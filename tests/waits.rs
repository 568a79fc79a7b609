//! Waits for a key, a place or a pause cost nothing, are fair, and end when alvus stops.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, SSE_HEAD, Upstream, answer, chunk, eventually, gate,
    many_descriptors, ok,
};

/// How soon what has happened must be noticed: far less than any wait here.
const NOTICED: Duration = Duration::from_secs(2);

/// A chat request for this model; `more` are further members of its body.
fn chat(alvus: &Alvus, path: &str, model: &str, more: &str) -> Client {
    let body = format!("{{\"model\":\"{model}\"{more}}}");
    let length = body.len();
    let mut client = alvus.connect();
    client.send(format!(
        "POST /v1/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    client
}

fn waiting(alvus: &Alvus, n: usize) {
    eventually("so many wait", || alvus.health()["waiting"] == n);
}

#[test]
fn five_hundred_waiting_requests_are_all_served_in_the_order_in_which_they_came() {
    const CLIENTS: usize = 500;
    many_descriptors();
    let (all_in, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (are_in, order) = (all_in.clone(), served.clone());
    let upstream = Upstream::new(move |seen| {
        if !seen.body_text().contains("tired") {
            return ok();
        }
        // However long it takes until all of them wait, and for a second after that.
        if !are_in.load(Ordering::SeqCst) {
            return answer(429, "Retry-After: 3\r\n", "");
        }
        order.lock().unwrap().push(seen.target.clone());
        ok()
    });
    let env = [("WORKERS", "1"), ("MAX_CONNECTIONS", "600")];
    let alvus = Alvus::before_with(&upstream, &env);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(chat(&alvus, &format!("chat/{n}"), "tired", ""));
        // It is in the queue before the next one comes. One that asks just now will wait again.
        waiting(&alvus, n + 1);
    }
    // With one place for all, which those that wait do not take. Nor do they wake for a request that is none of theirs.
    let before = sum(&naps(&alvus));
    for _ in 0..10 {
        assert_eq!(alvus.ask().status, 200, "another model is served meanwhile");
    }
    let slept = sum(&naps(&alvus)) - before;
    assert!(slept < CLIENTS as u64, "{slept}");
    all_in.store(true, Ordering::SeqCst);
    let before = sum(&naps(&alvus));
    for client in &mut clients {
        // A rest grows while it is stated too short, and does so for as long as all of them took to come.
        let patience = Some(4 * PATIENCE);
        client.stream.set_read_timeout(patience).unwrap();
        let response = client.response();
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // Each is woken once, and sleeps a few times while the upstream is at work.
    let slept = sum(&naps(&alvus)) - before;
    assert!(slept < 12 * CLIENTS as u64, "{slept}");
    let came: Vec<String> = (0..CLIENTS).map(|n| format!("/v1/chat/{n}")).collect();
    assert_eq!(*served.lock().unwrap(), came);
    eventually("nothing is left", || alvus.health()["in_flight"] == 0);
}

/// Streams "data: 1", and "data: 2" with the end once the gate opens; is in trouble or limited for
/// models of that name.
fn moody() -> (Upstream, std::sync::mpsc::Sender<()>) {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |seen| match seen.body_text() {
        body if body.contains("tired") => answer(429, "Retry-After: 200\r\n", ""),
        body if body.contains("troubled") => answer(503, "Retry-After: 100\r\n", "not now"),
        _ => {
            let gone = gone.lock().unwrap().take().expect("one stream");
            Act::Do(Box::new(move |stream| {
                let begin = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
                stream.write_all(begin.as_bytes()).unwrap();
                let _ = gone.recv_timeout(PATIENCE);
                let end = format!("{}0\r\n\r\n", chunk("data: 2\n\n"));
                let _ = stream.write_all(end.as_bytes());
            }))
        }
    });
    (upstream, go)
}

#[test]
fn a_signal_tells_all_that_wait_at_once_lets_the_stream_finish_and_then_alvus_is_gone() {
    let (upstream, go) = moody();
    let env = [
        ("API_KEYS", KEYS[0]),
        ("HEARTBEAT_SEC", "1"),
        ("LOG", "debug"),
    ];
    let mut alvus = Alvus::before_with(&upstream, &env);
    let mut streaming = alvus.connect();
    streaming.send(CHAT);
    assert_eq!(streaming.head().status, 200);
    assert_eq!(streaming.chunk().unwrap().unwrap(), b"data: 1\n\n");
    let for_a_key = chat(&alvus, "chat/completions", "tired", "");
    waiting(&alvus, 1);
    let mut patient = chat(&alvus, "chat/completions", "tired", ",\"stream\":true");
    assert_eq!(patient.head().status, 200, "its head came with a heartbeat");
    let beat = patient.chunk().unwrap().unwrap();
    assert!(beat.starts_with(b":"), "{beat:?}");
    let pausing = chat(&alvus, "x", "troubled", "");
    eventually("it pauses", || alvus.log().contains("then Pause"));

    alvus.signal("TERM");
    for mut client in [for_a_key, pausing] {
        let told = client.response();
        assert_eq!(told.status, 503, "{}", told.text());
        assert_eq!(told.json()["error"]["code"], "shutting_down");
        let after: u64 = told.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
    }
    let mut event = beat;
    while event.starts_with(b":") {
        event = patient.chunk().unwrap().expect("an event before the end");
    }
    let event = String::from_utf8(event).unwrap();
    assert!(event.starts_with("data: {\"error\":"), "{event}");
    assert!(event.contains("alvus is shutting down"), "{event}");

    go.send(()).unwrap();
    assert_eq!(streaming.chunk().unwrap().unwrap(), b"data: 2\n\n");
    assert_eq!(streaming.chunk().unwrap(), None);
    let ended = Instant::now();
    assert_eq!(alvus.wait().code(), Some(0));
    // Far from the half a minute that a stream would have had.
    assert!(ended.elapsed() < PATIENCE / 3, "{:?}", ended.elapsed());
    let asked = upstream.seen().len();
    assert_eq!(asked, 3, "each of the others was asked for once");
}

fn sum(naps: &HashMap<String, String>) -> u64 {
    let count = |line: &String| line.split_whitespace().last()?.parse::<u64>().ok();
    naps.values().filter_map(count).sum()
}

/// How often each thread of alvus has gone to sleep so far, at a time when all of them sleep.
fn naps(alvus: &Alvus) -> HashMap<String, String> {
    let mut naps = HashMap::new();
    eventually("all of them sleep", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", alvus.pid())).unwrap();
        let paths = tasks.map(|task| task.unwrap().path());
        // One may have ended.
        let read = |path: PathBuf| Some((fs::read_to_string(path.join("status")).ok()?, path));
        let statuses: Vec<(String, PathBuf)> = paths.filter_map(read).collect();
        naps.clear();
        for (status, path) in &statuses {
            let line = status.lines().find(|l| l.starts_with("voluntary_ctxt"));
            naps.insert(path.display().to_string(), line.unwrap().to_owned());
        }
        let sleeps = |(status, _): &(String, PathBuf)| status.contains("State:\tS");
        statuses.iter().all(sleeps)
    });
    naps
}

#[test]
fn a_wait_ends_only_when_its_client_leaves_and_then_at_once() {
    const CLIENTS: usize = 40;
    let asked = Mutex::new(HashMap::new());
    let upstream = Upstream::new(move |seen| {
        let mut asked = asked.lock().unwrap();
        let times: &mut u32 = asked.entry(seen.body.clone()).or_default();
        *times += 1;
        match seen.body_text() {
            body if body.contains("tired") => answer(429, "Retry-After: 250\r\n", ""),
            body if body.contains("soon") && *times == 1 => answer(429, "Retry-After: 3\r\n", ""),
            _ => ok(),
        }
    });
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    let mut clients = vec![chat(&alvus, "x", "tired", "")];
    waiting(&alvus, 1);
    clients.extend((1..CLIENTS).map(|_| chat(&alvus, "x", "tired", "")));
    waiting(&alvus, CLIENTS);
    let before = naps(&alvus);
    // Somebody else waits for three seconds and is served.
    let mut other = chat(&alvus, "x", "soon", "");
    assert_eq!(other.response().status, 200);
    let after = naps(&alvus);
    let asleep = before
        .iter()
        .filter(|(task, n)| after.get(*task) == Some(n));
    assert!(
        asleep.count() >= CLIENTS,
        "somebody woke for nothing: {before:?}, {after:?}"
    );
    assert_eq!(alvus.health()["waiting"], CLIENTS);
    let left = Instant::now();
    clients.into_iter().for_each(Client::leave);
    eventually("they are gone", || alvus.health()["in_flight"] == 0);
    assert!(left.elapsed() < NOTICED, "{:?}", left.elapsed());
    assert_eq!(alvus.health()["waiting"], 0);
    assert_eq!(upstream.seen().len(), 3, "nothing more was spent on them");
}

#[test]
fn only_one_of_the_waiting_requests_wakes_at_the_end_of_a_rest() {
    const CLIENTS: usize = 60;
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 2\r\n", ""));
    let alvus = Alvus::before_with(&upstream, &[("MAX_RETRIES", "1000")]);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| chat(&alvus, "x", "tired", ""))
        .collect();
    waiting(&alvus, CLIENTS);
    let (asked, before) = (upstream.seen().len(), naps(&alvus));
    // Rests end, and one request finds out each time that the next one has begun.
    upstream.wait_for(asked + 6);
    let after = naps(&alvus);
    let asleep = before
        .iter()
        .filter(|(task, n)| after.get(*task) == Some(n));
    // All but the few that had their turn.
    let woken = before.len() - asleep.count();
    assert!(woken < CLIENTS / 3, "{woken} of {CLIENTS} woke");
    clients.into_iter().for_each(Client::leave);
    eventually("they are gone", || alvus.health()["in_flight"] == 0);
}

#[test]
fn a_signal_tells_whoever_is_still_sending_at_once_and_alvus_is_gone() {
    let upstream = Upstream::new(|_| ok());
    let mut alvus = Alvus::before(&upstream);
    let mut sending: Vec<Client> = (0..3).map(|_| alvus.connect()).collect();
    for (client, part) in sending.iter_mut().zip(["", "half", "half"]) {
        client.send(format!(
            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{part}"
        ));
    }
    eventually("all are in", || alvus.health()["in_flight"] == 3);
    let signalled = Instant::now();
    alvus.signal("TERM");
    for client in &mut sending {
        let told = client.response();
        assert_eq!(told.status, 503, "{}", told.text());
        assert_eq!(told.json()["error"]["code"], "shutting_down");
        assert!(told.field("retry-after").is_some());
    }
    assert_eq!(alvus.wait().code(), Some(0));
    // A body may pause for ten seconds, and answers have half a minute.
    assert!(signalled.elapsed() < Duration::from_secs(8));
    assert!(upstream.seen().is_empty());
}
