//! `API_KEYS_FILE`: keys with names, re-read like `.env`, and shown by their names.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::{Alvus, KEYS, TempDir, Upstream, answer, eventually, ok, run_alvus};

fn named() -> String {
    format!("# the household's\nwork = {}\n{}\n", KEYS[0], KEYS[1])
}

#[test]
fn a_named_key_shows_its_name_wherever_it_is_shown() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 3000\r\n", ""),
        _ => ok(),
    });
    let dir = TempDir::new();
    let file = dir.write("keys", &named()).display().to_string();
    let env = [
        ("API_KEYS_FILE", &*file),
        ("TARGET_BASE_URL", &upstream.base_url()),
    ];
    let alvus = Alvus::start(&env);
    assert_eq!(alvus.ask().status, 200);
    eventually("the log names it", || {
        alvus.log().contains("key 0 work …1111: limited (429)")
    });
    let keys = &alvus.health()["key_status"];
    assert_eq!(
        (&keys[0]["label"], &keys[1]["label"]),
        (&"work …1111".into(), &"…2222".into())
    );
    let mut client = alvus.connect();
    client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let metrics = client.response();
    for line in [
        "alvus_key_requests_total{key=\"0\",name=\"work\"} 1\n",
        "alvus_key_requests_total{key=\"1\"} 1\n",
    ] {
        assert!(metrics.text().contains(line), "{}", metrics.text());
    }
    let port = alvus.addr.port().to_string();
    let (_, table, _) = run_alvus(&["status", "--port", &port], &[], None);
    assert!(table.contains("\n0    work …1111  cooling"), "{table}");
    let (code, found, _) = run_alvus(&["check"], &env, None);
    assert_eq!(code, 0);
    assert!(
        found.starts_with("key 0 work …1111: rate-limited (3000 s)\nkey 1 …2222: ok\n"),
        "{found}"
    );
}

#[test]
fn an_edit_of_the_file_is_at_work_without_a_signal_and_a_bad_one_is_refused() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let keys = dir.write("keys", &named());
    let conf = format!(
        "API_KEYS_FILE={}\nTARGET_BASE_URL={}\n",
        keys.display(),
        upstream.base_url()
    );
    let conf = dir.write("conf", &conf);
    let alvus = Alvus::launch(&["--env-file", conf.to_str().unwrap()], &[]);
    fs::write(
        &keys,
        format!("home = {}\n{}\n{}\n", KEYS[0], KEYS[1], KEYS[2]),
    )
    .unwrap();
    eventually("the third key", || {
        alvus
            .log()
            .contains("reloaded: 3 keys (1 new, 0 removed, 0 tried again)")
    });
    assert_eq!(
        alvus.health()["key_status"][0]["label"],
        "home …1111",
        "by another name"
    );
    fs::write(&keys, "one key, another\n").unwrap();
    eventually("it is refused", || {
        alvus.log().contains("reload refused") && alvus.log().contains("line 1 holds")
    });
    fs::remove_file(&keys).unwrap();
    eventually("it is missed", || alvus.log().contains("cannot be read"));
    assert_eq!(alvus.states(), ["ready"; 3]);
    fs::write(&keys, KEYS[1]).unwrap();
    eventually("it is back", || {
        alvus.log().contains("reloaded: 1 keys (0 new, 2 removed")
    });
    // Into the other file, and no longer looked at.
    let list = format!(
        "API_KEYS={},{}\nTARGET_BASE_URL={}\n",
        KEYS[0],
        KEYS[1],
        upstream.base_url()
    );
    fs::write(&conf, list).unwrap();
    eventually("the list", || {
        alvus.log().contains("reloaded: 2 keys (1 new, 0 removed")
    });
}

#[test]
fn a_file_that_is_not_there_is_a_fault_and_one_that_others_read_a_warning() {
    let (code, _, err) = run_alvus(&[], &[("API_KEYS_FILE", "/no/such/file")], None);
    assert_eq!((code, err.lines().count()), (2, 1), "{err}");
    assert!(
        err.starts_with("API_KEYS_FILE (environment): /no/such/file cannot be read: "),
        "{err}"
    );
    let dir = TempDir::new();
    let file = dir.write("keys", &named());
    let upstream = Upstream::new(|_| ok());
    for (mode, warned) in [(0o644, true), (0o600, false), (0o400, false)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let env = [
            ("API_KEYS_FILE", file.to_str().unwrap()),
            ("TARGET_BASE_URL", &upstream.base_url()),
        ];
        let (code, _, err) = run_alvus(&["check"], &env, None);
        assert_eq!(code, 0, "{err}");
        assert_eq!(
            err.contains(&format!("chmod 600 {}", file.display())),
            warned,
            "{mode:o}: {err}"
        );
    }
}
