//! The upgrade from 0.1.0: its files, as its binary and its commit left them, still work unchanged.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Alvus, TempDir, Upstream, eventually, ok};

const ENV: &str = include_str!("data/0.1.0/env");
const STATE: &str = include_str!("data/0.1.0/state");
const KEY: &str = "client-key-never-shown-02";

/// alvus with 0.1.0's `.env`, but for a provider of ours and a free port.
fn started(upstream: &Upstream, env: &[(&str, &str)]) -> (TempDir, Alvus) {
    let dir = TempDir::new();
    let path = dir.write("env", ENV);
    let (url, state) = (upstream.base_url(), dir.0.join("state"));
    let mut all = vec![
        ("TARGET_BASE_URL", url.as_str()),
        ("STATE_FILE", state.to_str().unwrap()),
    ];
    all.extend_from_slice(env);
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &all);
    (dir, alvus)
}

#[test]
fn its_env_is_taken_without_a_word() {
    for text in [ENV, include_str!("data/0.1.0/env.example")] {
        let text = text.replace("\nAPI_KEYS=\n", "\nAPI_KEYS=k\n");
        let nothing = std::iter::empty::<(String, String)>();
        let loaded = alvus::config::Config::parse(Some(&text), nothing, &[]);
        let loaded = loaded.unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(loaded.warnings, [""; 0]);
    }
    let upstream = Upstream::new(|_| ok());
    let (_dir, alvus) = started(&upstream, &[]);
    assert_eq!(alvus.states(), ["ready"; 4]);
}

#[test]
fn its_rests_go_on() {
    let upstream = Upstream::new(|_| ok());
    let dir = TempDir::new();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let state = STATE.replace("clock=1795666522", &format!("clock={now}"));
    assert_ne!(state, STATE);
    let file = dir.write("kept", &state);
    let (_dir, alvus) = started(&upstream, &[("STATE_FILE", file.to_str().unwrap())]);
    // It parked whole keys and took refused ones out; both are found out again.
    assert_eq!(alvus.states(), ["cooling", "ready", "ready", "ready"]);
    let health = alvus.health();
    let rest = &health["key_status"][0]["models"][0];
    assert_eq!(rest["model"], "meta/llama-3.3-70b-instruct");
    assert!(
        (2900..=3000).contains(&rest["seconds_left"].as_u64().unwrap()),
        "{rest}"
    );
    assert!(!alvus.log().contains("damaged"), "{}", alvus.log());
}

/// A browser elsewhere, with these fields.
fn dashboard(alvus: &Alvus, fields: &str) -> common::Response {
    let mut client = alvus.connect();
    client.send(format!(
        "GET /dashboard HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.9\r\n{fields}\r\n"
    ));
    client.response()
}

#[test]
fn a_browser_with_its_cookie_is_asked_for_the_key_and_given_a_cookie_in_its_place() {
    let upstream = Upstream::new(|_| ok());
    let (_dir, alvus) = started(&upstream, &[]);
    let name = format!("alvus-{}", alvus.addr.port());
    // A cookie opened the pages of the process that gave it, of no later one: also then.
    let old = format!("Cookie: {name}=90cba3ecc36090b6756250a96f6ce214\r\n");
    let asked = dashboard(&alvus, &old);
    assert_eq!(asked.status, 401);
    let asks = |(name, value): &(String, Vec<u8>)| {
        name == "www-authenticate" && value.starts_with(b"Basic")
    };
    assert!(asked.fields.iter().any(asks), "{asked:?}");
    // x:client-key-never-shown-02
    let password = "Authorization: Basic eDpjbGllbnQta2V5LW5ldmVyLXNob3duLTAy\r\n";
    let shown = dashboard(&alvus, &format!("{old}{password}"));
    let cookie = shown.field("set-cookie").unwrap();
    assert!(
        shown.status == 200 && cookie.starts_with(&format!("{name}=")) && !cookie.contains(KEY)
    );
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(
        dashboard(&alvus, &format!("Cookie: {cookie}\r\n")).status,
        200
    );
}

#[test]
fn its_init_script_starts_reloads_asks_and_stops() {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has("start-stop-daemon") {
        return; // as in cross/init/try, which has the others
    }
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let addr = common::dead_addr();
    let (host, port) = (addr.ip(), addr.port());
    let env = ENV
        .replace("http://127.0.0.1:19999/v1", &upstream.base_url())
        .replace("PORT=13000", &format!("PORT={port}"))
        .replace("HOST=127.0.0.1", &format!("HOST={host}"))
        .replace("STATE_FILE=state", "STATE_FILE=");
    let (env, root) = (dir.write("env", &env), dir.0.display());
    let supervise = dir.write("supervise", include_str!("data/0.1.0/supervise"));
    Command::new("chmod")
        .arg("755")
        .arg(&supervise)
        .status()
        .unwrap();
    let script = include_str!("data/0.1.0/alvus.sysv")
        .replace("/usr/local/bin/alvus", env!("CARGO_BIN_EXE_alvus"))
        .replace(
            "/usr/local/lib/alvus/supervise",
            supervise.to_str().unwrap(),
        )
        .replace("/etc/alvus/.env", env.to_str().unwrap())
        .replace("RUN_AS=alvus", "RUN_AS=root")
        .replace("START_SEC=10", "START_SEC=60");
    let script = dir.write("alvus", &script);
    let run = |word: &str| {
        let mut command = Command::new("sh");
        let out = command
            .arg(&script)
            .arg(word)
            .env("ALVUS_RUN", format!("{root}"))
            .env("ALVUS_LOG", format!("{root}/log"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        (out.status.code(), said.into_owned())
    };
    let (code, said) = run("start");
    assert_eq!((code, &*said), (Some(0), "alvus started\n"));
    let (code, said) = run("status");
    assert!(
        code == Some(0) && said.contains("alvus runs, pid") && said.contains("…4444"),
        "{said}"
    );
    let one = fs::read_to_string(&env)
        .unwrap()
        .replace(",test-key-never-shown-dddd4444", "");
    fs::write(&env, one).unwrap();
    assert_eq!(run("reload").0, Some(0));
    eventually("it is reloaded", || !run("status").1.contains("…4444"));
    assert_eq!(run("stop"), (Some(0), "alvus stopped\n".into()));
    assert_eq!(run("status").0, Some(3));
}
