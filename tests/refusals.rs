//! Configurations that are refused, at the start and at a reload, and that no part of them takes effect.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Alvus, KEYS, TempDir, Upstream, alvus_command, answer, eventually, ok, run_alvus};

/// An alvus that reads this file.
fn reading(path: &Path) -> Alvus {
    Alvus::launch(&["--env-file", path.to_str().unwrap()], &[])
}

fn text(upstream: &Upstream, more: &str) -> String {
    format!(
        "API_KEYS={}\nTARGET_BASE_URL={}\n{more}",
        KEYS.join(","),
        upstream.base_url()
    )
}

#[test]
fn each_fault_of_a_refused_reload_is_a_line_of_its_own() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    for (format, level) in [("text", "error: "), ("json", "{\"level\":\"error\"")] {
        let more = format!("LOG_FORMAT={format}\n");
        let path = dir.write("env", &text(&upstream, &more));
        let alvus = reading(&path);
        dir.write(
            "env",
            &text(
                &upstream,
                &(more + "MAX_RETRIES=x\nCOOLDOWN_SEC=0\nnonsense\n"),
            ),
        );
        alvus.signal("HUP");
        let line_with = |words: &str| {
            let log = alvus.log();
            log.lines()
                .filter(|l| l.contains(words))
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        eventually("all are told", || !line_with("COOLDOWN_SEC (").is_empty());
        for fault in [
            "MAX_RETRIES (",
            "COOLDOWN_SEC (",
            "line 6 is not NAME=value",
        ] {
            let lines = line_with(fault);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with(level), "{lines:?}");
            assert_eq!(
                lines[0].matches(" expected ").count(),
                usize::from(fault.contains('(')),
                "{lines:?}"
            );
        }
        assert_eq!(line_with("reload refused").len(), 1, "{}", alvus.log());
    }
}

#[test]
fn how_a_refused_reload_would_log_is_not_how_alvus_logs() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let path = dir.write("env", &text(&upstream, ""));
    let alvus = reading(&path);
    let bad = "LOG=error\nLOG_FORMAT=json\nSSL_CERT_FILE=/nowhere/ca.pem\n";
    dir.write("env", &text(&upstream, bad));
    alvus.signal("HUP");
    eventually("it is refused", || {
        alvus.log().contains("error: reload refused")
    });
    assert_eq!(alvus.ask().status, 200);
    eventually("requests are logged as before", || {
        alvus
            .log()
            .contains("\ninfo: POST /v1/chat/completions -> 200")
    });
    // And one that is accepted is at work at once.
    dir.write("env", &text(&upstream, "LOG_FORMAT=json\n"));
    alvus.signal("HUP");
    eventually("it is accepted", || {
        alvus.log().contains("\n{\"level\":\"info\"")
    });
}

/// A process that a failing test does not leave behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn an_env_file_that_has_no_end_is_refused_and_not_read_for_ever() {
    let dir = TempDir::new();
    let pipe = dir.0.join("pipe");
    make_pipe(&pipe);
    for (path, words) in [
        (pipe.to_str().unwrap(), "a named pipe"),
        ("/dev/zero", "a device"),
        ("/dev/tty", "a device"),
        ("/tmp", "a directory"),
    ] {
        let mut child = Killed(
            alvus_command(&dir)
                .args(["--env-file", path])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut ended = None;
        eventually(&format!("{path} is refused"), || {
            ended = child.0.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(2), "{path}");
        let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
        assert!(said.contains(words) && said.contains(path), "{said}");
        assert_eq!(
            said.lines().filter(|l| !l.contains("chmod")).count(),
            1,
            "{said}"
        );
    }
}

#[test]
fn an_env_file_that_becomes_a_pipe_changes_nothing_and_stops_nothing() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let path = dir.write("env", &text(&upstream, ""));
    let mut alvus = reading(&path);
    std::fs::remove_file(&path).unwrap();
    make_pipe(&path);
    alvus.signal("HUP");
    eventually("it is refused", || alvus.log().contains("a named pipe"));
    assert_eq!(alvus.ask().status, 200);
    alvus.signal("TERM");
    assert_eq!(
        alvus.wait().code(),
        Some(0),
        "the main thread still listens"
    );
}

#[test]
fn an_env_file_without_measure_is_refused() {
    let dir = TempDir::new();
    let path = dir.write("env", "");
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let (code, _, said) = run_alvus(&["--env-file", path.to_str().unwrap()], &[], None);
    assert!(
        code == 2 && said.contains("larger than 16 MiB"),
        "{code}: {said}"
    );
}

#[test]
fn more_workers_than_connections_are_a_fault_that_names_both() {
    let (key, nobody) = (
        ("API_KEYS", KEYS[0]),
        format!("http://{}", common::dead_addr()),
    );
    for (workers, connections) in [("64", "64"), ("200", "100")] {
        let env = [
            key,
            ("TARGET_BASE_URL", nobody.as_str()),
            ("WORKERS", workers),
            ("MAX_CONNECTIONS", connections),
        ];
        let (code, _, said) = run_alvus(&["check"], &env, None);
        assert_eq!(code, 2, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for words in [
            "WORKERS (environment): ",
            workers,
            "MAX_CONNECTIONS (environment): ",
            connections,
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn the_unset_one_of_workers_and_connections_follows_the_other() {
    let upstream = Upstream::new(|_| ok());
    for set in [
        ("MAX_CONNECTIONS", "8"),
        ("WORKERS", "256"),
        ("MAX_CONNECTIONS", "1"),
    ] {
        let alvus = Alvus::before_with(&upstream, &[set]);
        assert_eq!(alvus.ask().status, 200, "{set:?}");
    }
}

#[test]
fn check_calls_no_web_page_a_key_that_works() {
    for (fields, body) in [
        (
            "Content-Type: text/html\r\n",
            "<!doctype html><title>Log in to the hotel's network</title>",
        ),
        ("Content-Type: text/plain\r\n", "\n <html>"),
        ("Content-Type: text/plain\r\n", "It works!"),
        ("", ""),
    ] {
        let upstream = Upstream::new(move |_| answer(200, fields, body));
        let env = [
            ("API_KEYS", KEYS[0]),
            ("TARGET_BASE_URL", &upstream.base_url()),
        ];
        let (code, said, _) = run_alvus(&["check"], &env, None);
        assert!(code == 1 && said.contains("unclear (200)"), "{code} {said}");
        if body.contains('<') {
            assert!(said.contains("web page"), "{said}");
        }
        let (code, said, _) = run_alvus(&["check", "--json"], &env, None);
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &found["ok"]), (1, &false.into()), "{said}");
        assert_eq!(found["keys"][0]["verdict"], "unclear");
    }
}

#[test]
fn a_request_under_way_during_a_reload_is_counted_for_its_client() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let key = "client-key-never-shown-aaaa0001";
    let clients = format!("CLIENT_KEYS=phone:{key}\n");
    let path = dir.write("env", &text(&upstream, &clients));
    let alvus = reading(&path);
    let mut slow = alvus.connect();
    slow.send(format!("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nContent-Length: 13\r\n\r\n{{\"model\":"));
    eventually("it is let in", || alvus.health()["in_flight"] == 1);
    dir.write("env", &text(&upstream, &(clients + "MAX_RETRIES=3\n")));
    alvus.signal("HUP");
    eventually("the reload is done", || alvus.log().contains("reloaded:"));
    slow.send("\"m\"}");
    assert_eq!(slow.response().status, 200);
    assert_eq!(
        alvus.health()["clients"][0]["requests"],
        1,
        "{}",
        alvus.health()
    );
}
