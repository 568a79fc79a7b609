//! The pages in the programs that use them: Prometheus' checker, and a browser.
//!
//! `make clients` installs both; without them these tests fail and say so.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{
    Alvus, CHAT, KEYS, TempDir, Upstream, alone, answer, dead_addr, eventually, ip, ok, unshare,
};

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

/// Chromium with this profile, to print the page at `url` once its script has run.
fn browser(profile: &TempDir, url: &str) -> Vec<String> {
    let profile = format!("--user-data-dir={}", profile.0.display());
    let words = [
        "chromium-headless-shell",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        &profile,
        "--dump-dom",
        url,
    ];
    words.map(str::to_owned).into()
}

/// The dashboard as a browser on this machine has it: the text of its body.
fn browse(alvus: &Alvus) -> String {
    let profile = TempDir::new();
    let words = browser(&profile, &format!("{}/dashboard", alvus.url()));
    let (_, dom, err) = run(Command::new(&words[0]).args(&words[1..]), b"");
    // What the policy forbids, and what the script gets wrong, a browser says on its console.
    assert!(!err.contains("CONSOLE"), "{err}");
    text_of(&dom)
}

fn text_of(dom: &str) -> String {
    let body = dom.split_once("<body");
    let body = body.unwrap_or_else(|| panic!("no page: {dom}")).1;
    let body = body.split("<script>").next().unwrap();
    let mut text = String::new();
    for piece in body.split('<') {
        text += piece.split_once('>').map_or("", |(_, words)| words);
        text.push(' ');
    }
    let text = text.replace("&nbsp;", " ");
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
    let tired = Arc::new(AtomicBool::new(false));
    let are_tired = tired.clone();
    let upstream = Upstream::new(move |seen| match seen.key_index() {
        0 => answer(401, "", ""),
        _ if are_tired.load(Ordering::SeqCst) => answer(429, "Retry-After: 250\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    assert_eq!(alvus.ask().status, 200); // which shows that key 0 is to blame
    tired.store(true, Ordering::SeqCst);
    let mut waiting = alvus.connect();
    waiting.send(CHAT);
    eventually("it waits", || alvus.health()["waiting"] == 1);
    let text = browse(&alvus);
    holds(
        &text,
        &[
            "No key is ready, the next one in ",
            "rests 4:",
            "Key 0 …1111 ejected ",
            "where another key was not",
            "What to do: the provider does not know it",
            "Saving .env probes it at once",
            "1 refused",
            "3 of 3 keys not ready for it, the next one in ",
            "Waiting 1 for a key",
        ],
    );
    holds(
        &text,
        &[
            "key 0 was refused (401) where another was not",
            "key 1 was limited, rests 4 min",
        ],
    );
    for key in KEYS {
        assert!(!text.contains(&key[..key.len() - 5]));
    }
}

#[test]
fn a_browser_shows_that_the_upstream_refuses_all_keys() {
    let upstream = Upstream::new(|_| answer(401, "", "the API key has expired"));
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    assert_eq!(alvus.ask().status, 401);
    holds(&browse(&alvus), &["All keys are refused", "1 refused"]);
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
            "failed at the last attempt: could not reach it: 127.77.",
            "the upstream failed: could not reach http://127.77.",
            "1 request, 1 failed",
        ],
    );
}

#[test]
fn a_browser_shows_what_was_taken_by_whom_and_what_stood_in() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 250\r\n", ""),
        _ => answer(
            200,
            "Content-Type: application/json\r\n",
            r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":12000,"completion_tokens":34}}"#,
        ),
    });
    let more = [
        ("DASHBOARD", "1"),
        ("CLIENT_KEYS", "phone:client-key-never-shown-1111"),
        ("MODEL_MAP", "m=stands-in"),
    ];
    let alvus = Alvus::before_with(&upstream, &more);
    let mut client = alvus.connect();
    client.send(CHAT.replace(
        "\r\n\r\n",
        "\r\nx-api-key: client-key-never-shown-1111\r\n\r\n",
    ));
    assert_eq!(client.response().status, 200);
    eventually("it is counted", || alvus.health()["total"]["absorbed"] == 1);
    holds(
        &browse(&alvus),
        &[
            "Saved from a 429 1 of 1 request, 2 attempts",
            "Tokens 12.0 k 12.0 k in, 34 out",
            "stands-in stands in for m 1 of 3 keys not ready for it 1 answered · 12.0 k tokens in, 34 out",
            "phone 1 request 12.0 k tokens in, 34 out",
        ],
    );
}

#[test]
fn a_browser_shows_many_keys_in_little_room() {
    let keys: Vec<String> = (0..200)
        .map(|n| format!("test-key-never-shown-{n:03}"))
        .collect();
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 250\r\n", ""));
    let keys = keys.join(",");
    let more = [
        ("DASHBOARD", "1"),
        ("API_KEYS", &*keys),
        ("MAX_WAIT_SEC", "0"),
    ];
    let alvus = Alvus::before_with(&upstream, &more);
    assert_eq!(alvus.ask().status, 503);
    let text = browse(&alvus);
    let resting = text.split(" cooling").next().unwrap().rsplit(' ').next();
    let resting: usize = resting.unwrap().parse().unwrap();
    assert!(resting > 5, "{text}");
    holds(&text, &["195 more keys", "for m"]);
    assert_eq!(text.matches("Key ").count(), 5, "{text}");
}

/// Another machine, with nothing but a cable to this one (RFC 2544's addresses).
const HERE: &str = "198.18.0.1";
const THERE: &str = "198.18.0.2";

/// What a browser on the other machine makes of a page.
fn browse_there(profile: &TempDir, url: &str) -> String {
    let plugged = format!(
        "echo unplugged; read plugged; ip link set lo up; ip address add {THERE}/24 dev there; \
         ip link set there up; exec \"$@\""
    );
    let log = profile.0.join("said");
    let mut machine = unshare("-n")
        .args(["sh", "-c", &plugged, "sh"])
        .args(browser(profile, url))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(machine.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "unplugged\n");
    ip("link add here type veth peer name there");
    ip(&format!("link set there netns {}", machine.id()));
    ip(&format!("address add {HERE}/24 dev here"));
    ip("link set here up");
    machine.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut dom = String::new();
    out.read_to_string(&mut dom).unwrap();
    machine.wait().unwrap();
    // The cable goes with the machine, a moment later.
    let cable = || Command::new("ip").args(["link", "show", "here"]).output();
    eventually("the cable is gone", || !cable().unwrap().status.success());
    let err = std::fs::read_to_string(log).unwrap();
    assert!(
        !err.contains("CONSOLE") || dom.contains("_api_key"),
        "{err}"
    );
    text_of(&dom)
}

#[test]
fn a_browser_elsewhere_shows_a_key_once_and_then_the_cookie_opens_the_dashboard() {
    alone(
        "a_browser_elsewhere_shows_a_key_once_and_then_the_cookie_opens_the_dashboard",
        || {
            const KEY: &str = "client-key-never-shown-aaaa0001";
            let upstream = Upstream::new(|_| ok());
            let clients = format!("phone:{KEY}");
            let env = [
                ("HOST", "0.0.0.0"),
                ("CLIENT_KEYS", &*clients),
                ("DASHBOARD", "1"),
            ];
            let alvus = Alvus::before_with(&upstream, &env);
            let port = alvus.addr.port();
            let page = |user: &str| format!("http://{user}{HERE}:{port}/dashboard");
            let (phone, stranger) = (TempDir::new(), TempDir::new());
            let refused = |text: &str| holds(text, &["missing_api_key"]);
            refused(&browse_there(&phone, &page("")));
            holds(
                &browse_there(&stranger, &page("me:wrong-key-never-shown@")),
                &["invalid_api_key"],
            );
            // As a link that holds the key, which is what the browser's own dialogue comes to.
            let shown = browse_there(&phone, &page(&format!("me:{KEY}@")));
            holds(&shown, &["All 3 keys are ready", "Key 2 …3333"]);
            // The browser was closed meanwhile and has forgotten the key; it has the cookie.
            let shown = browse_there(&phone, &page(""));
            holds(&shown, &["All 3 keys are ready", "Key 2 …3333"]);
            refused(&browse_there(&stranger, &page("")));
            assert_eq!(upstream.seen().len(), 0);
            assert!(!alvus.log().contains("client-key"), "{}", alvus.log());
        },
    );
}
