//! The command line: words, exit codes, the banner, `check`, `demo`, signals.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

use common::{
    Act, Alvus, CHAT, KEYS, PATIENCE, TempDir, Upstream, alvus_command, answer, dead_addr,
    eventually, gate, ok, run_alvus,
};

#[test]
fn version_and_help_go_to_standard_output() {
    let (code, out, err) = run_alvus(&["--version"], &[], None);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, concat!("alvus ", env!("CARGO_PKG_VERSION"), "\n"), "")
    );
    for flag in ["--help", "-h"] {
        let (code, out, err) = run_alvus(&[flag], &[], None);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains(&alvus::config::table()), "{out}");
        assert!(out.lines().all(|line| line.chars().count() <= 100));
    }
}

#[test]
fn the_readme_has_the_same_table_as_help() {
    let readme = include_str!("../README.md");
    assert!(
        readme.contains(&alvus::config::markdown_table()),
        "{}",
        alvus::config::markdown_table()
    );
}

#[test]
fn unknown_words_are_refused_with_one_line() {
    for args in [
        &["--no-such"][..],
        &["serve"],
        &["check", "demo"],
        &["--env-file"],
    ] {
        let (code, out, err) = run_alvus(args, &[], None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (2, "", 1),
            "{args:?}: {err}"
        );
        assert!(err.contains("alvus --help"), "{err}");
    }
}

#[test]
fn every_fault_of_the_configuration_is_reported_at_once() {
    let env = [
        ("PORT", "abc"),
        ("COOLDOWN_SEC", "soon"),
        ("TARGET_BASE_URL", "ftp://x"),
    ];
    for args in [&[][..], &["check"]] {
        let (code, _, err) = run_alvus(args, &env, None);
        assert_eq!((code, err.lines().count()), (2, 4), "{err}");
        for (name, found) in [
            ("PORT", "abc"),
            ("COOLDOWN_SEC", "soon"),
            ("TARGET_BASE_URL", "ftp://x"),
        ] {
            let line = err
                .lines()
                .find(|l| l.contains(name))
                .unwrap_or_else(|| panic!("{name}: {err}"));
            assert!(line.contains(found) && line.contains("expected"), "{line}");
        }
        assert!(err.contains("API_KEYS"), "{err}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let (code, _, err) = run_alvus(
        &[],
        &[("PORT", "from-env")],
        Some("API_KEYS=x\nPORT=from-file\n"),
    );
    assert_eq!(code, 2);
    assert!(
        err.contains("from-env") && !err.contains("from-file"),
        "{err}"
    );
    let (code, _, err) = run_alvus(&[], &[], Some("API_KEYS=x\nPORT=from-file\n"));
    assert_eq!(code, 2);
    assert!(
        err.contains("from-file") && err.contains(".env line 2"),
        "{err}"
    );
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let (code, _, err) = run_alvus(
        &["--env-file", "no/such/file"],
        &[("API_KEYS", KEYS[0])],
        None,
    );
    assert_eq!((code, err.lines().count()), (2, 1), "{err}");
    assert!(err.contains("no/such/file"), "{err}");
}

#[test]
fn certificates_that_cannot_be_used_are_a_fault_of_the_configuration() {
    let dir = TempDir::new();
    let junk = dir
        .write("junk.pem", "no certificate")
        .display()
        .to_string();
    for path in ["/no/such.pem", &junk] {
        let (code, _, err) =
            run_alvus(&[], &[("API_KEYS", KEYS[0]), ("SSL_CERT_FILE", path)], None);
        assert_eq!((code, err.lines().count()), (2, 1), "{err}");
        assert!(err.contains("SSL_CERT_FILE") && err.contains(path), "{err}");
    }
}

#[test]
fn a_port_in_use_is_a_failure_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, err) = run_alvus(&[], &[("API_KEYS", KEYS[0]), ("PORT", &port)], None);
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert!(err.contains(&port) && err.contains("PORT"), "{err}");
}

#[test]
fn the_banner_says_where_to_what_and_with_how_many_keys() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let expected = format!(
        "⚡ Alvus started on {}\n   Target  : {}\n   Keys    : 3 loaded\n   Cooldown: 60s per key on 429\n",
        alvus.addr,
        upstream.base_url()
    );
    eventually("the banner is whole", || alvus.log().starts_with(&expected));
}

#[test]
fn a_file_that_others_can_read_draws_a_warning() {
    for (mode, warned) in [(0o644, true), (0o640, true), (0o600, false)] {
        let dir = TempDir::new();
        let path = dir.write("conf", &format!("API_KEYS={}\n", KEYS[0]));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
        assert_eq!(
            alvus.log().contains("chmod 600"),
            warned,
            "{mode:o}: {}",
            alvus.log()
        );
    }
}

#[test]
fn check_says_what_each_key_is_worth() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => ok(),
        1 => answer(401, "", "who?"),
        _ => answer(429, "Retry-After: 42\r\n", ""),
    });
    let url = upstream.base_url();
    let (code, out, err) = run_alvus(
        &["check"],
        &[("API_KEYS", &KEYS.join(",")), ("TARGET_BASE_URL", &url)],
        None,
    );
    let expected =
        "key 0 …1111: ok\nkey 1 …2222: rejected (401)\nkey 2 …3333: rate-limited (42 s)\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    assert!(
        upstream
            .seen()
            .iter()
            .all(|s| (s.method.as_str(), s.target.as_str()) == ("GET", "/v1/models"))
    );
}

#[test]
fn check_fails_when_no_key_works() {
    let upstream = Upstream::new(|_| answer(401, "", "who?"));
    let dead = format!("http://{}/v1", dead_addr());
    for (url, word) in [
        (upstream.base_url(), "rejected (401)"),
        (dead, "unreachable: "),
    ] {
        let (code, out, _) = run_alvus(
            &["check"],
            &[("API_KEYS", KEYS[0]), ("TARGET_BASE_URL", &url)],
            None,
        );
        assert_eq!(code, 1);
        assert!(out.starts_with(&format!("key 0 …1111: {word}")), "{out}");
    }
}

#[test]
fn the_demo_rotates_its_keys_and_its_own_curl_line_works() {
    let alvus = Alvus::launch(&["demo"], &[]);
    eventually("it says what to try", || alvus.log().contains("/health\n"));
    let log = alvus.log();
    let line = log
        .lines()
        .find(|l| l.trim_start().starts_with("curl -N"))
        .expect("a curl line");
    let shown = Command::new("sh")
        .args(["-c", line.trim()])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.trim_end().ends_with("data: [DONE]"), "{shown}");
    for _ in 0..5 {
        assert_eq!(alvus.ask().status, 200);
    }
    let requests: Vec<u64> = alvus.health()["key_status"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["requests"].as_u64().unwrap())
        .collect();
    assert_eq!(requests, [2, 2, 2]);
}

#[test]
fn health_has_the_fields_that_are_documented() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        1 => answer(429, "Retry-After: 100\r\n", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    alvus.ask();
    alvus.ask();
    let health = alvus.health();
    let pool = health["pool"].as_str().unwrap();
    assert!(
        pool.starts_with("[0]:ready  [1]:cooling(") && pool.ends_with("s)  [2]:ready"),
        "{pool}"
    );
    assert_eq!(
        (&health["status"], &health["keys"]),
        (&"degraded".into(), &3.into())
    );
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    for field in ["uptime_sec", "in_flight", "waiting"] {
        assert!(health[field].is_u64(), "{field}");
    }
    let key = &health["key_status"][1];
    assert_eq!(
        (&key["label"], &key["state"]),
        (&"…2222".into(), &"cooling".into())
    );
    assert_eq!(
        (&key["requests"], &key["failures"]["limited"]),
        (&1.into(), &1.into())
    );
    let mut client = alvus.connect();
    client.send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
}

#[test]
fn health_is_down_with_503_when_no_key_can_serve() {
    let upstream = Upstream::new(|_| answer(401, "", ""));
    let alvus = Alvus::before(&upstream);
    alvus.ask();
    let mut client = alvus.connect();
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, &response.json()["status"]),
        (503, &"down".into())
    );
}

/// An upstream that holds its first request until the test says so.
fn holds() -> (Upstream, Sender<()>) {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        })),
        None => ok(),
    });
    (upstream, go)
}

#[test]
fn a_signal_lets_running_requests_finish_and_ends_with_0() {
    for signal in ["TERM", "INT"] {
        let (upstream, go) = holds();
        let mut alvus = Alvus::before(&upstream);
        let mut idle = alvus.connect();
        idle.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(idle.response().status, 200);
        let mut running = alvus.connect();
        running.send(CHAT);
        upstream.wait_for(1);
        alvus.signal(signal);
        eventually("the door is closed", || {
            std::net::TcpStream::connect(alvus.addr).is_err()
        });
        assert!(idle.ended(), "an idle connection is closed");
        go.send(()).unwrap();
        assert_eq!(running.response().text(), "done");
        assert_eq!(alvus.wait().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let (upstream, go) = holds();
    let mut alvus = Alvus::before(&upstream);
    let mut running = alvus.connect();
    running.send(CHAT);
    upstream.wait_for(1);
    alvus.signal("TERM");
    eventually("it is stopping", || alvus.log().contains("stopping"));
    alvus.signal("TERM");
    assert_eq!(alvus.wait().code(), Some(0));
    drop(go);
}

#[test]
fn output_to_a_closed_pipe_is_no_failure() {
    let dir = TempDir::new();
    let shell = format!("{:?} --help | head -n 1", alvus_command(&dir).get_program());
    let out = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert!(out.status.success());
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
}
