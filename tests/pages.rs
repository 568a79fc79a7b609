//! The pages in the programs they are made for: Prometheus' own checker, and a browser.
//!
//! `make clients` installs both; without them these tests fail and say so.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Alvus, CHAT, KEYS, TempDir, Upstream, answer, dead_addr, eventually, ok};

/// Runs a program to its end: whether it was content, and what it said to both ends.
fn run(command: &mut Command, input: &[u8]) -> (bool, String, String) {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e}; run `make clients`"));
    let _ = child.stdin.take().unwrap().write_all(input);
    let out = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 3000\r\n", ""),
        1 => answer(401, "", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().status, 200);
    let mut client = alvus.connect();
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let page = client.response().body;
    let (content, out, err) = run(Command::new("promtool").args(["check", "metrics"]), &page);
    assert!(content && err.is_empty(), "{out}{err}");
    // It does find something when there is something to find.
    let bad = [b"# TYPE alvus_bad counter\nalvus_bad 1\n".as_slice(), &page].concat();
    let (content, ..) = run(Command::new("promtool").args(["check", "metrics"]), &bad);
    assert!(!content, "promtool proves nothing");
}

/// The dashboard as a browser has it once its script has run: the text of its body.
fn browse(alvus: &Alvus) -> String {
    let dir = TempDir::new();
    let profile = format!("--user-data-dir={}", dir.0.display());
    let (_, dom, err) = run(
        Command::new("chromium-headless-shell")
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args([
                "--enable-logging=stderr",
                "--virtual-time-budget=3000",
                &profile,
            ])
            .args(["--dump-dom", &format!("{}/dashboard", alvus.url())]),
        b"",
    );
    // What the policy forbids, and what the script gets wrong, a browser says on its console.
    assert!(!err.contains("CONSOLE"), "{err}");
    let body = dom
        .split_once("<body")
        .unwrap_or_else(|| panic!("no page: {dom}{err}"))
        .1;
    let body = body.split("<script>").next().unwrap();
    let mut text = String::new();
    for piece in body.split('<') {
        text += piece.split_once('>').map_or("", |(_, words)| words);
        text.push(' ');
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn holds(text: &str, all: &[&str]) {
    for words in all {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[test]
fn a_browser_shows_that_all_keys_are_ready() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    assert_eq!(alvus.ask().status, 200);
    eventually("it is counted", || alvus.health()["in_flight"] == 0);
    let text = browse(&alvus);
    holds(
        &text,
        &[
            "All 3 keys are ready",
            "Key 0 …1111",
            "Key 2 …3333",
            "1 request ",
        ],
    );
    holds(
        &text,
        &[
            "Nothing out of the ordinary",
            &upstream.base_url().replace("/v1", ""),
        ],
    );
    assert_eq!(
        upstream.seen().len(),
        1,
        "the browser asked for something else"
    );
}

#[test]
fn a_browser_shows_keys_that_rest_and_who_waits_for_them() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(401, "", ""),
        _ => answer(429, "Retry-After: 250\r\n", ""),
    });
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    let mut waiting = alvus.connect();
    waiting.send(CHAT);
    eventually("it waits", || alvus.health()["waiting"] == 1);
    let text = browse(&alvus);
    holds(
        &text,
        &[
            "No key is ready, the next one in 4:",
            "rests 4:",
            "rejected",
            "Waiting 1 for a key",
        ],
    );
    holds(
        &text,
        &["key 0 was rejected (401)", "key 1 was limited, rests 4 min"],
    );
    for key in KEYS {
        assert!(!text.contains(&key[..key.len() - 5]));
    }
}

#[test]
fn a_browser_shows_that_the_upstream_is_down() {
    let url = format!("http://{}/v1", dead_addr());
    let env = [
        ("TARGET_BASE_URL", url.as_str()),
        ("API_KEYS", KEYS[0]),
        ("MAX_WAIT_SEC", "0"),
        ("DASHBOARD", "1"),
    ];
    let alvus = Alvus::start(&env);
    assert_eq!(alvus.ask().status, 503);
    let text = browse(&alvus);
    holds(
        &text,
        &[
            "The upstream is in trouble",
            "failed the last time",
            "1 request, 1 failed",
        ],
    );
}
