//! The command line: words, exit codes, the banner, `check`, `demo`, signals.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

use common::{
    Act, Alvus, CHAT, KEYS, PATIENCE, SSE_HEAD, TempDir, Upstream, alvus_command, answer, chunk,
    dead_addr, eventually, gate, ok, run_alvus,
};

/// As OpenAI says it.
const INVALID_KEY: &str =
    r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#;

/// Nothing that alvus prints may hold more of a key than its last four characters.
fn holds_no_key(out: &str) {
    for key in KEYS {
        assert!(!out.contains(&key[..key.len() - 5]), "{out}");
        assert!(!out.contains(&key[key.len() - 5..]), "{out}");
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    for args in ["--version", "-V", "version"] {
        let (code, out, err) = run_alvus(&[args], &[], None);
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (0, concat!("alvus ", env!("CARGO_PKG_VERSION"), "\n"), "")
        );
    }
    for args in [&["--help"][..], &["-h"], &["help"], &["check", "--help"]] {
        let (code, out, err) = run_alvus(args, &[], None);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(out, alvus::arguments::help());
    }
}

#[test]
fn unknown_words_are_refused_with_one_line() {
    for args in [
        &["--no-such"][..],
        &["server"],
        &["check", "demo"],
        &["check", "--watch"],
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
fn a_bad_value_is_one_line_with_its_name_what_was_found_and_what_is_expected() {
    let keys = KEYS.join(",");
    for (name, value) in [
        ("PORT", "abc"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HOST", "not an address"),
        ("TARGET_BASE_URL", "integrate.api.nvidia.com"),
        ("COOLDOWN_SEC", "0"),
        ("COOLDOWN_SEC", "1.5"),
        ("MAX_RETRIES", "many"),
        ("MAX_WAIT_SEC", "5m"),
        ("MAX_BODY_MB", "0"),
        ("WORKERS", "0"),
        ("WORKERS", "99999999999999999999"),
        ("CONNECT_TIMEOUT_SEC", "x"),
        ("FIRST_BYTE_TIMEOUT_SEC", "0"),
        ("IDLE_TIMEOUT_SEC", "+3"),
        ("LOG", "loud"),
    ] {
        let (code, out, err) = run_alvus(&[], &[("API_KEYS", &keys), (name, value)], None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (2, "", 1),
            "{name}={value}: {err}"
        );
        assert!(
            err.starts_with(name) && err.contains(value) && err.contains("expected"),
            "{name}={value}: {err}"
        );
        holds_no_key(&err);
    }
}

#[test]
fn without_keys_alvus_says_how_to_give_it_some() {
    for env in [&[][..], &[("API_KEYS", "")], &[("API_KEYS", " , ,")]] {
        for args in [&[][..], &["check"]] {
            let (code, out, err) = run_alvus(args, env, None);
            assert_eq!(
                (code, out.as_str(), err.lines().count()),
                (2, "", 1),
                "{err}"
            );
            assert!(err.contains("API_KEYS=key1,key2"), "{err}");
        }
    }
}

#[test]
fn a_name_that_is_nearly_ours_is_reported_with_the_right_one() {
    let (code, _, err) = run_alvus(&[], &[("API_KEY", KEYS[0])], None);
    assert_eq!((code, err.lines().count()), (2, 1), "{err}");
    assert!(
        err.contains("API_KEY is (environment): rename it to API_KEYS"),
        "{err}"
    );
    holds_no_key(&err);
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN", "5")]);
    let line = "warn: COOLDOWN (environment) is not a setting of alvus; did you mean COOLDOWN_SEC?";
    assert!(alvus.log().lines().any(|l| l == line), "{}", alvus.log());
}

#[test]
fn no_message_holds_a_key_wherever_it_was_put() {
    let (listed, quoted) = (KEYS.join(";"), format!("[\"{}\"]", KEYS.join("\",\"")));
    let file = format!("API_KEYS={}\nPORT={}\n{}\n", KEYS[0], KEYS[1], KEYS[2]);
    for (env, file) in [
        (vec![("API_KEYS", listed.as_str())], None),
        (vec![("API_KEYS", quoted.as_str())], None),
        (
            vec![("API_KEYS", KEYS[0]), ("SSL_CERT_FILE", "/no/such")],
            None,
        ),
        (vec![("API_KEYS_FILE", KEYS[0])], None),
        (
            vec![("API_KEYS", KEYS[0]), ("SSL_CERT_FILE", KEYS[1])],
            None,
        ),
        (vec![("API_KEYS", KEYS[0]), ("STATE_FILE", KEYS[1])], None),
        (vec![], Some(file.as_str())),
    ] {
        for args in [&[][..], &["check"]] {
            let (code, out, err) = run_alvus(args, &env, file);
            assert_eq!(code, 2, "{err}");
            holds_no_key(&out);
            holds_no_key(&err);
        }
    }
}

#[test]
fn a_key_that_was_typed_as_an_argument_is_not_repeated() {
    let (option, value) = (format!("--{}", KEYS[0]), format!("--json={}", KEYS[0]));
    let short = format!("-{}", KEYS[0]);
    for args in [
        &[KEYS[0]][..],
        &["check", KEYS[0]],
        &[&option],
        &["check", &value],
        &[&short],
        &["--env-file", KEYS[0]],
    ] {
        let (code, out, err) = run_alvus(args, &[], None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (2, "", 1),
            "{err}"
        );
        assert!(err.contains("alvus --help"), "{err}");
        holds_no_key(&err);
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
fn a_file_that_cannot_be_read_is_a_fault_in_one_line() {
    let dir = TempDir::new();
    let folder = dir.0.display().to_string();
    let binary = dir.0.join("binary");
    std::fs::write(&binary, b"API_KEYS=\xff\xfe\n").unwrap();
    for path in [&folder, &binary.display().to_string()] {
        let (code, _, err) = run_alvus(&["--env-file", path], &[], None);
        assert_eq!(
            (code, err.lines().filter(|l| !l.contains("chmod")).count()),
            (2, 1),
            "{err}"
        );
        assert!(err.contains(path), "{err}");
    }
}

#[test]
fn the_file_can_be_named_before_or_after_the_word_and_is_read_instead_of_dot_env() {
    let dir = TempDir::new();
    let path = dir.write("conf", "API_KEYS=x\nPORT=from-conf\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = path.display().to_string();
    let joined = format!("--env-file={path}");
    for args in [
        &["--env-file", &path][..],
        &[&joined],
        &["check", "--env-file", &path],
        &["--env-file", &path, "check"],
    ] {
        let (code, _, err) = run_alvus(args, &[], Some("PORT=from-dot-env\n"));
        assert_eq!((code, err.lines().count()), (2, 1), "{err}");
        assert!(err.contains("from-conf") && err.contains("line 2"), "{err}");
    }
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
        let env = [("API_KEYS", KEYS[0]), ("SSL_CERT_FILE", path)];
        let (code, out, err) = run_alvus(&["check"], &env, None);
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (2, "", 1),
            "{err}"
        );
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
        "⚡ Alvus started on {}\n   Target  : {}\n   Keys    : 3 loaded\n   Cooldown: 60s per key on 429\n   Memory  : up to 32 MiB for request bodies and ",
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
fn check_asks_all_keys_side_by_side_and_waits_ten_seconds_for_each_at_most() {
    let all = std::sync::Arc::new(std::sync::Barrier::new(KEYS.len()));
    let upstream = Upstream::new(move |seen| {
        all.wait(); // who is asked first is answered when the last is asked
        match seen.key_index() {
            1 => Act::Do(Box::new(|stream| drop(stream.read(&mut [0])))),
            _ => ok(),
        }
    });
    let (keys, url) = (KEYS.join(","), upstream.base_url());
    let env = [("API_KEYS", keys.as_str()), ("TARGET_BASE_URL", &url)];
    let (code, out, err) = run_alvus(&["check"], &env, None);
    let expected =
        "key 0 …1111: ok\nkey 1 …2222: unreachable: no answer within 10 s\nkey 2 …3333: ok\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
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
fn check_counts_a_key_that_rests_as_one_that_works() {
    let upstream = Upstream::new(|_| answer(429, "", ""));
    let env = [
        ("API_KEYS", KEYS[0]),
        ("TARGET_BASE_URL", &upstream.base_url()),
    ];
    let (code, out, _) = run_alvus(&["check"], &env, None);
    assert_eq!((code, out.as_str()), (0, "key 0 …1111: rate-limited\n"));
}

#[test]
fn check_does_not_call_a_key_good_that_it_could_not_try() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(403, "", ""),
        1 => answer(404, "", ""),
        _ => answer(500, "", ""),
    });
    let (keys, url) = (KEYS.join(","), upstream.base_url());
    let env = [("API_KEYS", keys.as_str()), ("TARGET_BASE_URL", &url)];
    let (code, out, err) = run_alvus(&["check"], &env, None);
    let verdicts: Vec<&str> = out
        .lines()
        .filter_map(|l| l.split_once(": "))
        .map(|l| l.1)
        .collect();
    assert_eq!(
        (code, verdicts.len(), verdicts[0], verdicts[2]),
        (1, 3, "rejected (403)", "unclear (500)")
    );
    assert!(verdicts[1].contains("TARGET_BASE_URL"), "{out}");
    holds_no_key(&out);
    holds_no_key(&err);
}

#[test]
fn the_demos_seventh_request_waits_and_its_client_sees_no_429() {
    let alvus = Alvus::launch(&["demo"], &[]);
    for _ in 0..6 {
        assert_eq!(alvus.ask().status, 200);
    }
    let mut seventh = alvus.connect();
    seventh.send(CHAT);
    eventually("it waits for a key", || alvus.health()["waiting"] == 1);
    assert_eq!(alvus.states(), ["cooling", "cooling", "cooling"]);
    seventh.leave(); // the window is 15 s
}

#[test]
fn the_curl_line_of_the_demo_is_a_request_that_any_client_can_make() {
    let alvus = Alvus::launch(&["demo"], &[]);
    eventually("it says what to try", || alvus.log().contains("/health\n"));
    let log = alvus.log();
    let line = log.lines().find(|l| l.contains("curl -N")).unwrap();
    let (_, rest) = line.split_once(&alvus.url()).expect("its own address");
    let (path, data) = rest.split_once(" -d '").expect("a body");
    let data = data.strip_suffix('\'').expect("a closing quote");
    let mut client = alvus.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{data}",
        data.len()
    ));
    let response = client.response();
    assert_eq!(response.field("content-type"), Some("text/event-stream"));
    assert!(response.whole && response.text().ends_with("data: [DONE]\n\n"));
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

#[cfg(all(feature = "messages", feature = "responses"))]
#[test]
fn the_demo_speaks_chat_completions_and_is_spoken_to_in_messages_and_responses() {
    let alvus = Alvus::launch(&["demo"], &[]);
    for (path, words, expected) in [
        (
            "/v1/messages",
            r#""messages":[{"role":"user","content":"hi"}]"#,
            "message",
        ),
        ("/v1/responses", r#""input":"hi""#, "response"),
    ] {
        let body = format!(r#"{{"model":"demo","max_tokens":9,{words}}}"#);
        let mut client = alvus.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: alvus\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let answer: serde_json::Value = client.response().json();
        let kind = answer["object"].as_str().or(answer["type"].as_str());
        assert_eq!(kind, Some(expected), "{answer}");
    }
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
fn health_of_a_fresh_alvus_is_ok_and_lists_everything_about_each_key() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    let known = r#"{"status":"ok","keys":3,"pool":"[0]:ready  [1]:ready  [2]:ready","#;
    assert!(response.text().starts_with(known), "{}", response.text());
    assert_eq!(response.field("content-type"), Some("application/json"));
    alvus.ask();
    eventually("the key is given back", || alvus.health()["in_flight"] == 0);
    let health = alvus.health();
    for (index, label) in ["…1111", "…2222", "…3333"].iter().enumerate() {
        let mut key = health["key_status"][index].clone();
        let last_used = key["last_used_sec_ago"].take();
        assert_eq!(last_used.is_u64(), index == 0, "{last_used}");
        assert_eq!(
            key,
            serde_json::json!({
                "index": index, "label": label, "state": "ready", "reason": "", "seconds_left": 0,
                "requests": u8::from(index == 0), "in_flight": 0, "last_used_sec_ago": null,
                "failures": {"limited": 0, "quota": 0, "refused": 0, "no_answer": 0}, "models": [],
                "tokens_in": 0, "tokens_out": 0,
            })
        );
    }
    holds_no_key(&health.to_string());
}

#[test]
fn health_counts_what_is_in_flight_on_each_key() {
    let (upstream, go) = holds();
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    upstream.wait_for(1);
    let health = alvus.health();
    assert_eq!(
        (&health["in_flight"], &health["waiting"]),
        (&1.into(), &0.into())
    );
    assert_eq!(health["key_status"][0]["in_flight"], 1);
    assert_eq!(health["key_status"][1]["in_flight"], 0);
    go.send(()).unwrap();
    assert_eq!(client.response().status, 200);
    eventually("it is counted off", || alvus.health()["in_flight"] == 0);
    assert_eq!(alvus.health()["key_status"][0]["in_flight"], 0);
}

#[test]
fn health_is_down_with_503_while_all_keys_cool_and_says_for_how_long() {
    let upstream = Upstream::new(|_| answer(429, "Retry-After: 3000\r\n", ""));
    let alvus = Alvus::before_with(&upstream, &[("API_KEYS", KEYS[0])]);
    assert_eq!(alvus.ask().status, 503);
    let mut client = alvus.connect();
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, &response.json()["status"]),
        (503, &"down".into())
    );
    let left = response.json()["key_status"][0]["seconds_left"]
        .as_u64()
        .unwrap();
    assert!((2900..=3000).contains(&left), "{left}");
}

#[test]
fn health_is_down_with_503_when_every_key_is_called_invalid() {
    let upstream = Upstream::new(|_| answer(401, "", INVALID_KEY));
    let alvus = Alvus::before(&upstream);
    assert_eq!(alvus.ask().text(), INVALID_KEY, "the upstream's own words");
    let mut client = alvus.connect();
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, &response.json()["status"]),
        (503, &"down".into())
    );
}

#[test]
fn a_request_that_is_refused_with_every_key_says_nothing_about_the_keys() {
    let upstream = Upstream::new(|seen| match seen.target.as_str() {
        "/v1/organization/usage" => answer(403, "", "not with keys of this project"),
        _ => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /v1/organization/usage HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, response.text()),
        (403, "not with keys of this project")
    );
    assert_eq!(upstream.seen().len(), KEYS.len(), "others were asked");
    assert_eq!(alvus.states(), ["ready"; 3]);
    assert_eq!(alvus.health()["status"], "ok");
    assert_eq!(alvus.ask().status, 200);
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
fn a_signal_ends_an_alvus_that_has_nothing_to_do_at_once() {
    let upstream = Upstream::new(|_| ok());
    for signal in ["TERM", "INT"] {
        let mut alvus = Alvus::before(&upstream);
        assert_eq!(alvus.ask().status, 200);
        let _idle = alvus.connect();
        alvus.signal(signal);
        assert_eq!(alvus.wait().code(), Some(0));
    }
}

#[test]
fn a_signal_lets_a_stream_go_on_to_its_end() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().take().expect("asked twice");
        Act::Do(Box::new(move |stream| {
            let begin = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
            stream.write_all(begin.as_bytes()).unwrap();
            for n in 2..4 {
                let _ = gone.recv_timeout(PATIENCE);
                let event = chunk(&format!("data: {n}\n\n"));
                stream.write_all(event.as_bytes()).unwrap();
            }
            let _ = gone.recv_timeout(PATIENCE);
            stream.write_all(b"0\r\n\r\n").unwrap();
        }))
    });
    let mut alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    alvus.signal("TERM");
    eventually("it is stopping", || alvus.log().contains("stopping"));
    for event in ["data: 2\n\n", "data: 3\n\n"] {
        go.send(()).unwrap();
        assert_eq!(client.chunk().unwrap().unwrap(), event.as_bytes());
    }
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap(), None);
    assert_eq!(alvus.wait().code(), Some(0));
}

#[test]
fn a_signal_tells_requests_that_wait_for_a_place_at_once_and_lets_the_running_one_finish() {
    let (upstream, go) = holds();
    let mut alvus = Alvus::before_with(&upstream, &[("WORKERS", "1")]);
    let mut running = alvus.connect();
    running.send(CHAT);
    upstream.wait_for(1);
    let mut queued = alvus.connect();
    queued.send(CHAT);
    eventually("it is queued", || alvus.health()["waiting"] == 1);
    alvus.signal("TERM");
    // While the one it would have waited for is still being served.
    let told = queued.response();
    assert_eq!(
        (told.status, &told.json()["error"]["code"]),
        (503, &"shutting_down".into())
    );
    assert!(told.field("retry-after").is_some());
    go.send(()).unwrap();
    assert_eq!(running.response().text(), "done");
    assert_eq!(alvus.wait().code(), Some(0));
    assert_eq!(upstream.seen().len(), 1, "it did not go up");
}

#[test]
fn a_request_that_comes_after_the_signal_is_told_that_alvus_stops() {
    let gates: Vec<_> = (0..2).map(|_| gate()).collect();
    let (go, gone): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
    let gone = Mutex::new(gone);
    let upstream = Upstream::new(move |_| {
        let gone = gone.lock().unwrap().remove(0);
        Act::Do(Box::new(move |stream| {
            let _ = gone.recv_timeout(PATIENCE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        }))
    });
    let mut alvus = Alvus::before(&upstream);
    let mut running = alvus.connect(); // keeps alvus from ending
    running.send(CHAT);
    upstream.wait_for(1);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.send(CHAT);
    upstream.wait_for(2);
    alvus.signal("TERM");
    eventually("it is stopping", || alvus.log().contains("stopping"));
    go[1].send(()).unwrap();
    assert_eq!(client.response().text(), "done");
    let refused = client.response();
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    assert_eq!(refused.json()["error"]["code"], "shutting_down");
    assert!(client.ended());
    assert_eq!(upstream.seen().len(), 2);
    go[0].send(()).unwrap();
    assert_eq!(running.response().text(), "done");
    assert_eq!(alvus.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once_with_128_and_its_number() {
    for (signal, again, code) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("TERM", "INT", 130),
    ] {
        let (upstream, go) = holds();
        let mut alvus = Alvus::before(&upstream);
        let mut running = alvus.connect();
        running.send(CHAT);
        upstream.wait_for(1);
        alvus.signal(signal);
        eventually("it is stopping", || alvus.log().contains("stopping"));
        let told = std::time::Instant::now();
        alvus.signal(again);
        assert_eq!(alvus.wait().code(), Some(code));
        // Far from the 30 s for which it would wait for the request.
        assert!(told.elapsed() < PATIENCE / 3, "{:?}", told.elapsed());
        drop(go);
    }
}

#[test]
fn a_hangup_ends_nothing_not_even_while_alvus_stops() {
    let (upstream, go) = holds();
    let mut alvus = Alvus::before(&upstream);
    let mut running = alvus.connect();
    running.send(CHAT);
    upstream.wait_for(1);
    alvus.signal("HUP");
    eventually("it reloads", || alvus.log().contains("reloaded:"));
    assert_eq!(alvus.ask().status, 200);
    alvus.signal("TERM");
    eventually("it is stopping", || alvus.log().contains("stopping"));
    alvus.signal("HUP");
    go.send(()).unwrap();
    assert_eq!(running.response().text(), "done");
    assert_eq!(alvus.wait().code(), Some(0));
}

#[test]
fn output_to_a_closed_pipe_is_no_failure() {
    let dir = TempDir::new();
    let shell = format!("{:?} --help | head -n 1", alvus_command(&dir).get_program());
    let out = Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert!(out.status.success());
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
}
