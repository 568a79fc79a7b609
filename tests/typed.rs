//! The command line as people type it; times in the log.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::process::Stdio;

use common::{Alvus, Client, KEYS, TempDir, Upstream, alvus_command, eventually, ok, run_alvus};

#[test]
fn port_and_host_are_taken_before_and_after_the_word() {
    let upstream = Upstream::new(|_| ok());
    let (url, keys) = (upstream.base_url(), KEYS.join(","));
    let env = [
        ("TARGET_BASE_URL", &*url),
        ("API_KEYS", &keys),
        ("PORT", "wrong"),
        ("HOST", "wrong"),
    ];
    let alvus = Alvus::launch(&["--port", "0", "serve", "--host=127.0.0.1"], &env);
    let port = alvus.addr.port().to_string();
    for args in [
        &["status", "--port", &port][..],
        &["--port", &port, "status"],
    ] {
        let (code, out, err) = run_alvus(args, &[], None);
        assert_eq!((code, &*err), (0, ""));
        assert!(out.starts_with("alvus "), "{out}");
    }
    let (code, _, err) = run_alvus(&["--port", "x"], &[("API_KEYS", KEYS[0])], None);
    assert_eq!(code, 2);
    assert!(
        err.starts_with("PORT (--port): found \"x\", expected"),
        "{err}"
    );
}

#[test]
fn status_in_json_is_the_page_itself() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let port = alvus.addr.port().to_string();
    let (code, out, err) = run_alvus(&["status", "--json", "--port", &port], &[], None);
    assert_eq!((code, &*err, out.lines().count()), (0, "", 1));
    let page: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&page["status"], &page["keys"]), (&"ok".into(), &3.into()));
}

#[test]
fn status_asks_a_machine_by_its_name() {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().filter(|line| line.starts_with("127.0.0.1"));
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1));
    let upstream = Upstream::new(|_| ok());
    if let Some(name) = names.find(|name| !name.starts_with("localhost")) {
        let alvus = Alvus::before_with(&upstream, &[("ALLOWED_HOSTS", name)]);
        let port = alvus.addr.port().to_string();
        let (code, out, err) = run_alvus(&["status"], &[("HOST", name), ("PORT", &port)], None);
        assert_eq!((code, &*err), (0, ""));
        assert!(out.starts_with("alvus "), "{out}");
        let (code, _, err) = run_alvus(&["status", "--host", name], &[("PORT", "1")], None);
        assert_eq!(code, 1);
        assert!(
            err.contains(&format!("no alvus answers on {name}:1: ")),
            "{err}"
        );
    }
}

#[test]
fn lines_have_a_time_in_a_file_and_none_in_a_pipe() {
    let upstream = Upstream::new(|_| ok());
    let (url, keys) = (upstream.base_url(), KEYS.join(","));
    for format in ["text", "json"] {
        let env = [
            ("TARGET_BASE_URL", &*url),
            ("API_KEYS", &keys),
            ("PORT", "0"),
            ("LOG_FORMAT", format),
        ];
        let piped = Alvus::start(&env);
        let dir = TempDir::new();
        let path = dir.0.join("log");
        let mut child = alvus_command(&dir)
            .envs(env)
            .stdout(Stdio::null())
            .stderr(File::create(&path).unwrap())
            .spawn()
            .unwrap();
        let log = || fs::read_to_string(&path).unwrap();
        eventually("it listens", || log().contains("Memory"));
        let log_of_start = log();
        let (_, addr) = log_of_start.split_once("started on ").unwrap();
        let addr = addr.split(['\n', '\\']).next().unwrap();
        let mut client = Client::connect(addr.parse().unwrap());
        client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /x HTTP/1.1\r\nHost: no.name\r\n\r\n");
        assert_eq!(client.response().status, 200);
        assert_eq!(client.response().status, 421);
        eventually("a line", || log().contains("/x"));
        let kill = child.kill();
        child.wait().unwrap();
        kill.unwrap();
        let log = log();
        let line = log.lines().find(|line| line.contains("/x")).unwrap();
        let time = match format {
            "json" => line.strip_prefix("{\"time\":\"").unwrap(),
            _ => line,
        };
        let is_time = |c: char| c.is_ascii_digit() || "-:TZ".contains(c);
        assert!(
            time.starts_with("20") && time[..20].chars().all(is_time),
            "{line}"
        );
        assert!(
            !log_of_start.starts_with("20"),
            "the banner has none: {log_of_start}"
        );
        let mut client = piped.connect();
        client.send("GET /x HTTP/1.1\r\nHost: no.name\r\n\r\n");
        assert_eq!(client.response().status, 421);
        eventually("a line", || piped.log().contains("/x"));
        let line = piped
            .log()
            .lines()
            .find(|line| line.contains("/x"))
            .unwrap()
            .to_owned();
        assert!(
            line.starts_with("info: ") || line.starts_with("{\"level\":\"info\""),
            "{line}"
        );
    }
}
