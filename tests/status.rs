//! `alvus status` against a running alvus, and `alvus check --json`.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Alvus, CHAT, KEYS, PATIENCE, TempDir, Upstream, alvus_command, answer, dead_addr, eventually,
    ok, run_alvus,
};

const CLIENT: &str = "client-key-never-shown-aaaa0001";

fn keys() -> String {
    KEYS.join(",")
}

/// `alvus status` with these variables beside those that find this alvus.
fn status(alvus: &Alvus, more: &[(&str, &str)]) -> (i32, String, String) {
    let (keys, port) = (keys(), alvus.addr.port().to_string());
    let mut env = vec![("API_KEYS", keys.as_str()), ("PORT", &port)];
    env.extend_from_slice(more);
    run_alvus(&["status"], &env, None)
}

#[test]
fn status_prints_what_the_running_alvus_says_as_a_table() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        1 => answer(429, "Retry-After: 100\r\n", ""),
        2 => answer(401, "", ""),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    for _ in 0..2 {
        assert_eq!(alvus.ask().status, 200);
    }
    eventually("it is done", || alvus.health()["in_flight"] == 0);
    let (code, out, err) = status(&alvus, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    let first = format!(
        "alvus {}: degraded, up 0 d 0 h 0 min, 0 in flight, 0 waiting",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!((lines.len(), lines[0]), (6, first.as_str()), "{out}");
    let words: Vec<Vec<&str>> = lines[3..]
        .iter()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(words[0][..4], ["0", "…1111", "ready", "2"]);
    assert_eq!(words[1][..3], ["1", "…2222", "cooling"]);
    assert_eq!(words[2][..3], ["2", "…3333", "ejected"]);
    let counts: Vec<&str> = lines[2].split_whitespace().take(4).collect();
    assert_eq!(counts, ["KEY", "STATE", "REQUESTS", "LIMITED"]);
    assert_eq!(words[2][5..8], ["1", "0", "1"], "asked, limited, refused");
    assert!(
        !out.contains('\u{1b}'),
        "colours are for terminals: {out:?}"
    );
    assert!(!out.contains("never-shown"), "{out}");
}

#[test]
fn of_hundreds_of_keys_the_page_shows_some_and_those_that_are_not_ready_first() {
    let names: Vec<String> = (0..400)
        .map(|n| format!("test-key-never-shown-{n:04}"))
        .collect();
    let upstream = Upstream::new(move |seen| {
        match seen.key.as_deref().is_some_and(|key| key.ends_with("0399")) {
            true => answer(429, "Retry-After: 100\r\n", ""),
            false => ok(),
        }
    });
    let keys = names.join(",");
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", &keys), ("DASHBOARD", "1")]);
    let mut client = alvus.connect();
    for _ in 0..400 {
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
    let page = alvus.health();
    assert_eq!(
        (&page["keys"], &page["keys_listed"]),
        (&400.into(), &256.into())
    );
    assert_eq!(
        (&page["key_states"]["ready"], &page["key_states"]["cooling"]),
        (&399.into(), &1.into())
    );
    let listed = page["key_status"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[254]["index"]), (256, &254.into()));
    assert_eq!(
        (&listed[255]["index"], &listed[255]["state"]),
        (&399.into(), &"cooling".into())
    );
    let pool = page["pool"].as_str().unwrap();
    assert_eq!(pool.matches('[').count(), 256);
    let (code, out, _) = status(&alvus, &[("API_KEYS", &keys)]);
    assert_eq!((code, out.lines().count()), (0, 3 + 256 + 1), "{out}");
    assert!(out.ends_with("and 144 keys more\n"), "{out}");
}

#[test]
fn status_says_with_its_exit_code_whether_a_key_can_serve() {
    let upstream = Upstream::new(|_| answer(401, "", "the API key has expired"));
    let alvus = Alvus::before(&upstream);
    assert_eq!(status(&alvus, &[]).0, 0);
    assert_eq!(alvus.ask().status, 401);
    let (code, out, err) = status(&alvus, &[]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains(": down, up "), "{out}");
}

#[test]
fn status_finds_an_alvus_on_the_network_and_shows_a_client_key() {
    let upstream = Upstream::new(|_| ok());
    let clients = format!("phone:{CLIENT}");
    for host in ["0.0.0.0", "::1"] {
        let alvus = Alvus::before_with(&upstream, &[("HOST", host), ("CLIENT_KEYS", &clients)]);
        let (code, out, err) = status(&alvus, &[("HOST", host), ("CLIENT_KEYS", &clients)]);
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.ends_with("CLIENT  REQUESTS\nphone   0\n"), "{out}");
    }
}

#[test]
fn status_speaks_of_settings_only_when_nobody_answers() {
    let upstream = Upstream::new(|_| ok());
    let open = [("HOST", "0.0.0.0"), ("OPEN_LAN", "yes")];
    let alvus = Alvus::before_with(&upstream, &open);
    let (code, _, err) = status(&alvus, &open);
    assert_eq!(
        (code, err.as_str()),
        (0, ""),
        "a health check asks every 30 s"
    );
    let dead = dead_addr().port().to_string();
    let (code, _, err) = run_alvus(&["status"], &[("PORT", &dead), ("WORKER", "3")], None);
    assert_eq!((code, err.lines().count()), (1, 2), "{err}");
    assert!(err.contains("did you mean WORKERS?"), "{err}");
}

#[test]
fn status_of_nobody_or_of_something_else_is_a_failure_in_one_line() {
    let keys = keys();
    let dead = dead_addr();
    let (host, port) = (dead.ip().to_string(), dead.port().to_string());
    let env = [
        ("API_KEYS", keys.as_str()),
        ("HOST", &host),
        ("PORT", &port),
    ];
    let (code, out, err) = run_alvus(&["status"], &env, None);
    assert_eq!(
        (code, out.as_str(), err.lines().count()),
        (1, "", 1),
        "{err}"
    );
    assert!(
        err.contains(&dead.to_string()) && err.contains("PORT"),
        "{err}"
    );
    let (code, _, err) = run_alvus(&["status"], &[("API_KEYS", &keys), ("PORT", "0")], None);
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert!(err.contains("PORT"), "{err}");

    for page in [
        "HTTP/1.1 200 OK\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\n\r\n{}",
        "220 mail ready",
        "\u{fc}",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let answers = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = BufReader::new(&stream)
                .lines()
                .take_while(|l| l.as_ref().is_ok_and(|l| !l.is_empty()))
                .count();
            stream.write_all(page.as_bytes()).unwrap();
        });
        let env = [("API_KEYS", keys.as_str()), ("PORT", &port)];
        let (code, out, err) = run_alvus(&["status"], &env, None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (1, "", 1),
            "{err}"
        );
        assert!(err.contains("is not alvus"), "{err}");
        answers.join().unwrap();
    }
}

#[test]
fn status_of_something_that_never_ends_its_answer_gives_up_after_five_seconds() {
    for drips in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let answers = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0; 4096]);
            let until = Instant::now() + PATIENCE;
            while drips && stream.write_all(b"x").is_ok() && Instant::now() < until {
                thread::sleep(Duration::from_millis(100));
            }
            let _ = stream.read(&mut [0]); // until it leaves
        });
        let began = Instant::now();
        let env = [("API_KEYS", KEYS[0]), ("PORT", &port)];
        let (code, out, err) = run_alvus(&["status"], &env, None);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains("no answer in 5 s"), "{err}");
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        answers.join().unwrap();
    }
}

#[test]
fn status_of_another_machine_takes_a_client_key_and_none_of_the_providers() {
    let upstream = Upstream::new(|_| ok());
    let clients = format!("phone:{CLIENT}");
    let env = [("HOST", "0.0.0.0"), ("CLIENT_KEYS", &*clients)];
    let alvus = Alvus::before_with(&upstream, &env);
    let port = alvus.addr.port().to_string();
    let mut env = vec![("PORT", port.as_str()), ("CLIENT_KEYS", &clients)];
    let (code, out, err) = run_alvus(&["status"], &env, None);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("…3333") && out.contains("phone   0"), "{out}");
    env[1] = ("HOST", "192.0.2.7");
    let (code, out, err) = run_alvus(&["status"], &env, None);
    assert_eq!(
        (code, out.as_str(), err.lines().count()),
        (2, "", 1),
        "{err}"
    );
    assert!(err.contains("CLIENT_KEYS=name:key"), "{err}");
}

#[test]
fn status_watches_until_its_output_is_closed() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let dir = TempDir::new();
    let mut watching = alvus_command(&dir)
        .args(["status", "--watch"])
        .envs([
            ("API_KEYS", keys()),
            ("PORT", alvus.addr.port().to_string()),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let first = out
            .find(|l| l.as_ref().is_ok_and(|l| l.starts_with("alvus ")))
            .unwrap()
            .unwrap();
        assert!(first.contains(": ok, up "), "{first}");
    }
    drop(out);
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}

#[test]
fn status_has_colours_on_a_terminal_unless_no_color_says_no() {
    if Command::new("script").arg("--version").output().is_err()
        || std::env::var("ALVUS_RUNNER").is_ok()
    {
        eprintln!("skipped: no script(1), or an emulator in between");
        return;
    }
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let port = alvus.addr.port().to_string();
    for (value, coloured) in [(None, true), (Some("1"), false), (Some(""), true)] {
        let dir = TempDir::new();
        let binary = alvus_command(&dir).get_program().to_owned();
        let mut command = Command::new("script");
        let line = format!("{} status", binary.to_str().unwrap());
        command
            .args(["-qec", &line, "/dev/null"])
            .current_dir(&dir.0);
        command
            .env_remove("NO_COLOR")
            .envs([("API_KEYS", keys()), ("PORT", port.clone())]);
        command.envs(value.map(|v| ("NO_COLOR", v)));
        let out = command.stdin(Stdio::null()).output().unwrap();
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(
            out.contains("\u{1b}[32mready\u{1b}[0m"),
            coloured,
            "{out:?}"
        );
        assert!(out.contains("…1111"), "{out:?}");
    }
}

#[test]
fn check_in_json_is_one_document_with_a_verdict_for_each_key() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => ok(),
        1 => answer(401, "", "who?"),
        _ => answer(429, "Retry-After: 42\r\n", ""),
    });
    let (keys, url) = (keys(), upstream.base_url());
    let env = [("API_KEYS", keys.as_str()), ("TARGET_BASE_URL", &url)];
    let (code, out, err) = run_alvus(&["check", "--json"], &env, None);
    assert_eq!((code, err.as_str()), (0, ""));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({"ok": true, "keys": [
        {"index": 0, "label": "…1111", "verdict": "ok", "text": "ok"},
        {"index": 1, "label": "…2222", "verdict": "rejected", "status": 401, "text": "rejected (401)"},
        {"index": 2, "label": "…3333", "verdict": "limited", "seconds": 42, "text": "rate-limited (42 s)"},
    ]});
    assert_eq!(found, expected);

    let upstream = Upstream::new(|_| answer(500, "", ""));
    let url = upstream.base_url();
    let env = [("API_KEYS", KEYS[0]), ("TARGET_BASE_URL", &url)];
    let (code, out, _) = run_alvus(&["check", "--json"], &env, None);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &found["ok"], &found["keys"][0]["verdict"]),
        (1, &false.into(), &"unclear".into())
    );
}

#[test]
fn check_in_json_says_the_faults_of_the_configuration_too() {
    for env in [
        &[("PORT", "\"x"), ("HOST", "0.0.0.0")][..],
        &[("API_KEYS", KEYS[0]), ("SSL_CERT_FILE", "/no/such.pem")],
    ] {
        let (code, out, err) = run_alvus(&["check", "--json"], env, None);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        let faults: Vec<&str> = found["faults"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f.as_str().unwrap())
            .collect();
        assert_eq!((code, &found["ok"]), (2, &false.into()));
        assert_eq!(faults, err.lines().collect::<Vec<_>>());
        assert!(!out.contains("never-shown"), "{out}");
    }
}

#[test]
fn a_flag_belongs_to_its_command() {
    for args in [
        &["--json"][..],
        &["--watch"],
        &["status", "--force"],
        &["check", "--watch"],
        &["demo", "--json"],
        &["status", "check"],
    ] {
        let (code, out, err) = run_alvus(args, &[("API_KEYS", KEYS[0])], None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (2, "", 1),
            "{args:?}: {err}"
        );
    }
    let (_, help, _) = run_alvus(&["--help"], &[], None);
    for words in [
        "  status ",
        "--watch",
        "--json",
        "Exit codes:",
        "\n  0  ",
        "\n  1  ",
        "\n  2  ",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
}
