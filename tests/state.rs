//! `STATE_FILE`: what one alvus learned, the next one knows.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::{Alvus, KEYS, TempDir, Upstream, answer, eventually, ok};

/// Key 0 is limited for the model, key 1 is refused, key 2 has spent its quota; then key 3 works.
fn upstream(keys: &'static [&'static str]) -> Upstream {
    Upstream::new(
        move |seen| match keys.iter().position(|k| seen.key.as_deref() == Some(k)) {
            Some(0) => answer(429, "Retry-After: 3000\r\n", ""),
            Some(1) => answer(401, "", ""),
            Some(2) => answer(429, "", "your daily quota is spent"),
            _ => ok(),
        },
    )
}

const FOUR: [&str; 4] = [KEYS[0], KEYS[1], KEYS[2], "test-key-never-shown-dddd4444"];

fn start(upstream: &Upstream, file: &Path) -> Alvus {
    let (keys, file) = (FOUR.join(","), file.to_str().unwrap().to_string());
    Alvus::before_with(upstream, &[("API_KEYS", &keys), ("STATE_FILE", &file)])
}

fn stop(mut alvus: Alvus) -> String {
    alvus.signal("TERM");
    assert_eq!(alvus.wait().code(), Some(0));
    eventually("its last words", || alvus.log().contains("stopping"));
    alvus.log()
}

/// A file that an alvus with all four kinds of keys left behind.
fn kept(dir: &TempDir) -> PathBuf {
    let (upstream, file) = (upstream(&FOUR), dir.0.join("state"));
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.ask().status, 200);
    stop(alvus);
    file
}

#[test]
fn rests_survive_a_restart_and_refusals_are_found_out_again() {
    let dir = TempDir::new();
    let file = kept(&dir);
    let text = fs::read_to_string(&file).unwrap();
    for key in FOUR {
        assert!(!text.contains(&key[key.len() - 8..]), "{text}");
    }
    let upstream = upstream(&FOUR);
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.states(), ["cooling", "ready", "cooling", "ready"]);
    let left = |at: usize| {
        let health = alvus.health();
        health["key_status"][at]["seconds_left"].as_u64().unwrap()
    };
    assert!((2900..=3000).contains(&left(0)), "{}", left(0));
    assert!((60..=120).contains(&left(2)), "{}", left(2));
    for _ in 0..3 {
        assert_eq!(alvus.ask().status, 200);
    }
    let seen = upstream.seen();
    let asked = FOUR.map(|key| {
        let with = |seen: &&common::Seen| seen.key.as_deref() == Some(key);
        seen.iter().filter(with).count()
    });
    assert_eq!(asked, [0, 1, 0, 3], "who rests is not asked");
    assert_eq!(alvus.states(), ["cooling", "ejected", "cooling", "ready"]);
    // A hangup gives ejected keys another chance; rests go on, and are kept again.
    alvus.signal("HUP");
    eventually("it reloads", || alvus.log().contains("1 tried again"));
    stop(alvus);
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.states(), ["cooling", "ready", "cooling", "ready"]);
}

/// There is a time to write only every 30 s, so this is the one test that takes as long.
#[test]
fn a_kill_costs_no_more_than_was_learned_since_the_last_write_half_a_minute_ago() {
    let every = alvus::state::EVERY;
    let dir = TempDir::new();
    let (limited, file) = (upstream(&FOUR), dir.0.join("state"));
    let began = Instant::now();
    let mut alvus = start(&limited, &file);
    let ask_for = |alvus: &Alvus, model: &str| {
        let body = format!("{{\"model\":\"{model}\"}}");
        let length = body.len();
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/chat/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        assert_eq!(client.response().status, 200);
    };
    ask_for(&alvus, "first");
    ask_for(&alvus, "second");
    while !file.exists() {
        assert!(began.elapsed() < every * 2, "nothing was written");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() > every - Duration::from_secs(1), "too soon");
    let text = fs::read_to_string(&file).unwrap();
    ask_for(&alvus, "third");
    alvus.signal("KILL");
    alvus.wait();
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "once in 30 s");
    let upstream = upstream(&FOUR);
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.states(), ["cooling", "ready", "cooling", "ready"]);
    let rests = alvus.health()["key_status"][0]["models"].clone();
    let rests = rests.as_array().unwrap().iter();
    let rests: Vec<_> = rests
        .map(|rest| {
            (
                rest["model"].as_str().unwrap(),
                rest["seconds_left"].as_u64().unwrap(),
            )
        })
        .collect();
    assert!(
        matches!(rests[..], [("first", 2800..3000), ("second", 2800..3000)]),
        "{rests:?}"
    );
    // What the kill took away is learned again, for one attempt with each key.
    ask_for(&alvus, "third");
    assert_eq!(upstream.seen().len(), FOUR.len());
}

#[test]
fn rests_of_keys_that_are_no_longer_listed_are_ignored() {
    let dir = TempDir::new();
    let file = kept(&dir);
    let upstream = Upstream::new(|_| ok());
    let env = [
        ("API_KEYS", FOUR[3]),
        ("STATE_FILE", file.to_str().unwrap()),
    ];
    let alvus = Alvus::before_with(&upstream, &env);
    assert_eq!(alvus.states(), ["ready"]);
    assert_eq!(alvus.ask().status, 200);
}

#[test]
fn a_damaged_file_is_reported_ignored_and_replaced() {
    let dir = TempDir::new();
    let file = kept(&dir);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("cooling", "cooking")).unwrap();
    let upstream = upstream(&FOUR);
    let alvus = start(&upstream, &file);
    eventually("it says so", || alvus.log().contains("is damaged"));
    assert_eq!(alvus.states(), ["ready"; 4]);
    assert_eq!(alvus.ask().status, 200);
    stop(alvus);
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.states(), ["cooling", "ready", "cooling", "ready"]);
}

#[test]
fn a_file_of_another_program_is_reported_and_left_alone() {
    let dir = TempDir::new();
    let file = dir.write("state", "precious\n");
    let upstream = upstream(&FOUR);
    let alvus = start(&upstream, &file);
    eventually("it says so", || alvus.log().contains("left alone"));
    assert_eq!(alvus.ask().status, 200);
    stop(alvus);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious\n");
}

#[test]
fn a_file_that_cannot_be_written_is_a_line_in_the_log_and_nothing_else() {
    let dir = TempDir::new();
    let file = dir.0.join("no/such/folder/state");
    let upstream = upstream(&FOUR);
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.ask().status, 200);
    let log = stop(alvus);
    assert_eq!(log.matches("cannot write").count(), 1, "{log}");
}

#[test]
fn nothing_is_written_while_there_is_nothing_to_keep() {
    let dir = TempDir::new();
    let file = dir.0.join("state");
    let upstream = Upstream::new(|_| ok());
    let alvus = start(&upstream, &file);
    assert_eq!(alvus.ask().status, 200);
    stop(alvus);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}
