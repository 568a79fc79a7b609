//! Edits of the configuration file under a running alvus: every way to edit, every way to fail.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Act, Alvus, AtEnd, KEYS, TempDir, Upstream, answer, chunk, eventually, ok};

/// A file of two lines.
fn text(keys: &[&str], upstream: &Upstream) -> String {
    let (keys, url) = (keys.join(","), upstream.base_url());
    format!("API_KEYS={keys}\nTARGET_BASE_URL={url}\n")
}

/// alvus, configured by `path` alone.
fn reading(path: &Path) -> Alvus {
    Alvus::launch(&["--env-file", path.to_str().unwrap()], &[])
}

/// A file with these keys, and alvus reading it.
fn started(dir: &TempDir, keys: &[&str], upstream: &Upstream) -> (PathBuf, Alvus) {
    let path = dir.write("conf", &text(keys, upstream));
    let alvus = reading(&path);
    (path, alvus)
}

/// As careful editors and `sed -i` do it.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn said(alvus: &Alvus, words: &str) -> usize {
    alvus.log().matches(words).count()
}

fn says(alvus: &Alvus, words: &str) {
    eventually(words, || said(alvus, words) > 0);
}

fn hides_its_keys(alvus: &Alvus) {
    let log = alvus.log();
    for key in KEYS {
        assert!(!log.contains(&key[..key.len() - 5]), "{log}");
    }
}

/// Adds a key, then puts another in its place, and sees both at work.
fn follows(alvus: &Alvus, upstream: &Upstream, edit: impl Fn(&str)) {
    edit(&text(&KEYS[..2], upstream));
    says(alvus, "reloaded: 2 keys (1 new, 0 removed, 0 tried again)");
    // As long as the file before: size alone does not tell them apart.
    edit(&text(&[KEYS[0], KEYS[2]], upstream));
    says(alvus, "reloaded: 2 keys (1 new, 1 removed, 0 tried again)");
    assert_eq!(said(alvus, "reloaded:"), 2, "{}", alvus.log());
    for _ in 0..2 {
        assert_eq!(alvus.ask().status, 200);
    }
    let used: Vec<usize> = upstream.seen().iter().map(|s| s.key_index()).collect();
    assert!(used == [0, 2] || used == [2, 0], "{used:?}");
    hides_its_keys(alvus);
}

#[test]
fn a_file_written_in_place_is_at_work_without_a_signal() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS[..1], &upstream);
    follows(&alvus, &upstream, |text| fs::write(&path, text).unwrap());
}

#[test]
fn a_file_moved_into_its_place_is_at_work_without_a_signal() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS[..1], &upstream);
    follows(&alvus, &upstream, |text| replace(&path, text));
}

#[test]
fn a_link_that_points_elsewhere_is_at_work_without_a_signal() {
    let (upstream, dir, other) = (Upstream::new(|_| ok()), TempDir::new(), TempDir::new());
    let first = other.write("0", &text(&KEYS[..1], &upstream));
    let link = dir.0.join("conf");
    symlink(first, &link).unwrap();
    let alvus = reading(&link);
    follows(&alvus, &upstream, |text| {
        let target = TempDir::new();
        let (target, spare) = (target.write("env", text), dir.0.join("spare"));
        let kept = other
            .0
            .join(format!("{}", text.len() + said(&alvus, "reloaded:")));
        fs::rename(target, &kept).unwrap();
        symlink(kept, &spare).unwrap();
        fs::rename(spare, &link).unwrap();
    });
}

#[test]
fn a_folder_swapped_behind_the_file_is_at_work_without_a_signal() {
    // As Kubernetes updates a mounted secret: conf -> data/conf, and data -> another folder.
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let swap = |text: &str| {
        let folder = TempDir::new();
        folder.write("conf", text);
        let kept = dir
            .0
            .join(format!("v{}", fs::read_dir(&dir.0).unwrap().count()));
        fs::rename(&folder.0, &kept).unwrap();
        symlink(kept, dir.0.join("spare")).unwrap();
        fs::rename(dir.0.join("spare"), dir.0.join("data")).unwrap();
    };
    swap(&text(&KEYS[..1], &upstream));
    let path = dir.0.join("conf");
    symlink("data/conf", &path).unwrap();
    let alvus = reading(&path);
    follows(&alvus, &upstream, swap);
}

/// Streams and answers, all of them slow enough to be under way when a file is read; key 0 is limited.
fn slow_upstream() -> Upstream {
    Upstream::new(|seen| {
        if seen.key_index() == 0 {
            return answer(429, "Retry-After: 3000\r\n", "");
        }
        // Connections that were kept would be asked twice when they are closed meanwhile.
        let head = |kind: &str| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{kind}\r\n\r\n");
        let pieces = match seen.body.ends_with(b"1}") {
            true => [
                head("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"),
                chunk("data: 1\n\n"),
                chunk("data: 2\n\n") + "0\r\n\r\n",
            ],
            false => [head("Content-Length: 4"), "do".into(), "ne".into()],
        };
        Act::Do(Box::new(move |stream| {
            for piece in pieces {
                thread::sleep(Duration::from_millis(10));
                let _ = stream.write_all(piece.as_bytes());
            }
        }))
    })
}

#[test]
fn while_the_file_is_written_again_and_again_no_request_is_lost_and_removed_keys_rest_in_peace() {
    const CLIENTS: usize = 12;
    let (upstream, dir) = (slow_upstream(), TempDir::new());
    let path = dir.0.join("conf");
    let first = dir.write("0", &text(&KEYS, &upstream));
    symlink(first, &path).unwrap();
    let alvus = reading(&path);
    let (over, done) = (
        AtomicBool::new(false),
        [const { AtomicUsize::new(0) }; CLIENTS],
    );
    let client = |n: usize| {
        // Every other one asks for a stream, and every other pair keeps its connection.
        let body = format!("{{\"model\":\"m\",\"n\":{}}}", n % 2);
        let request = format!(
            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut kept = alvus.connect();
        while !over.load(Ordering::Relaxed) {
            if n % 4 < 2 {
                kept = alvus.connect();
            }
            kept.send(&request);
            let response = kept.response();
            assert_eq!((response.status, response.whole), (200, true));
            let expected = ["done", "data: 1\n\ndata: 2\n\n"][n % 2];
            assert_eq!(response.text(), expected);
            done[n].fetch_add(1, Ordering::Relaxed);
        }
    };
    // Whatever was under way at this moment is over, and more was asked since.
    let all_ask_again = || {
        let before = done.each_ref().map(|n| n.load(Ordering::Relaxed));
        eventually("every client has asked again", || {
            let now = done.each_ref().map(|n| n.load(Ordering::Relaxed));
            now.iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 2)
        });
    };
    let at = AtomicUsize::new(1);
    let next = || dir.0.join(at.fetch_add(1, Ordering::Relaxed).to_string());
    let in_place = |text: &str| fs::write(&path, text).unwrap();
    let renamed = |text: &str| replace(&path, text);
    let linked = |text: &str| {
        let (target, spare) = (next(), next());
        fs::write(&target, text).unwrap();
        symlink(target, &spare).unwrap();
        fs::rename(spare, &path).unwrap();
    };
    thread::scope(|scope| {
        let end = AtEnd(&over);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| scope.spawn(move || client(n)))
            .collect();
        all_ask_again();
        for (round, edit) in [&in_place as &dyn Fn(&str), &linked, &renamed]
            .into_iter()
            .enumerate()
        {
            edit(&text(&[KEYS[0], KEYS[2]], &upstream));
            eventually("the key is removed", || {
                said(&alvus, "0 new, 1 removed") == round + 1
            });
            all_ask_again();
            let from = upstream.seen().len();
            all_ask_again();
            let seen = upstream.seen();
            assert!(
                seen[from..].iter().all(|s| s.key_index() == 2),
                "round {round}"
            );
            edit("PORT=x\n");
            eventually("garbage is refused", || {
                said(&alvus, "reload refused") == round + 1
            });
            edit(&text(&KEYS, &upstream));
            eventually("it is back", || {
                said(&alvus, "1 new, 0 removed") == round + 1
            });
            let from = upstream.seen().len();
            all_ask_again();
            let seen = upstream.seen();
            assert!(
                seen[from..].iter().any(|s| s.key_index() == 1),
                "round {round}"
            );
        }
        drop(end);
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
    });
    eventually("nothing is left", || alvus.health()["in_flight"] == 0);
    assert_eq!(alvus.states(), ["cooling", "ready", "ready"]);
    let seen = upstream.seen();
    let asked = |key| seen.iter().filter(|s| s.key_index() == key).count();
    // The limit was met once at first, by as many as were under way; it was not forgotten since.
    assert!(asked(0) <= CLIENTS, "{}", asked(0));
    let keys = alvus.health()["key_status"].clone();
    assert_eq!(
        (&keys[0]["requests"], &keys[2]["requests"]),
        (&asked(0).into(), &asked(2).into())
    );
    hides_its_keys(&alvus);
}

#[test]
fn a_request_that_waits_shows_the_provider_it_is_for_no_key_of_the_next_one() {
    let dir = TempDir::new();
    let limited = Upstream::new(|_| answer(429, "Retry-After: 200\r\n", ""));
    let troubled = Upstream::new(|_| answer(503, "Retry-After: 3\r\n", "busy"));
    // While it waits for a key, and between two attempts.
    for before in [limited, troubled] {
        let after = Upstream::new(|_| ok());
        let (path, alvus) = started(&dir, &KEYS[..1], &before);
        let mut waiting = alvus.connect();
        waiting.send(common::CHAT);
        before.wait_for(1);
        replace(&path, &text(&KEYS[1..], &after));
        says(&alvus, "reloaded: 2 keys");
        let response = waiting.response();
        assert_eq!(response.status, 503, "{}", response.text());
        assert_eq!(response.json()["error"]["code"], "provider_changed");
        assert!(response.field("retry-after").is_some());
        assert_eq!(alvus.ask().status, 200);
        assert!(before.seen().iter().all(|seen| seen.key_index() == 0));
        assert!(after.seen().iter().all(|seen| seen.key_index() > 0));
    }
}

#[test]
fn keys_that_stay_keep_their_rest_when_the_file_is_edited() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 3000\r\n", ""),
        _ => ok(),
    });
    let dir = TempDir::new();
    let (path, alvus) = started(&dir, &KEYS[..2], &upstream);
    assert_eq!(alvus.ask().status, 200);
    replace(&path, &text(&KEYS, &upstream));
    says(&alvus, "reloaded:");
    assert_eq!(alvus.states(), ["cooling", "ready", "ready"]);
    assert_eq!(alvus.health()["key_status"][1]["requests"], 1);
}

#[test]
fn garbage_is_refused_once_with_its_reason_and_the_running_configuration_stays() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS, &upstream);
    let garbage = format!("API_KEYS={}\nWORKERS=x\n{}\n", KEYS[0], KEYS[1]);
    fs::write(&path, &garbage).unwrap();
    says(&alvus, "reload refused, the running configuration stays: ");
    says(&alvus, "WORKERS (");
    says(&alvus, "line 3 is not NAME=value");
    assert_eq!(alvus.states().len(), 3);
    fs::write(&path, &garbage).unwrap();
    // For the second complaint that must not come there is nothing to wait for.
    thread::sleep(Duration::from_millis(2500));
    replace(&path, &text(&KEYS[..1], &upstream));
    says(&alvus, "reloaded: 1 keys (0 new, 2 removed, 0 tried again)");
    assert_eq!(said(&alvus, "reload refused"), 1, "{}", alvus.log());
    hides_its_keys(&alvus);
}

#[test]
fn a_file_that_cannot_be_read_changes_nothing_until_it_can() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS, &upstream);
    fs::write(&path, b"API_KEYS=\xff\xfe\n").unwrap();
    says(&alvus, "cannot read");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    eventually("a folder is refused", || {
        said(&alvus, "reload refused") == 2
    });
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states().len(), 3);
    fs::remove_dir(&path).unwrap();
    fs::write(&path, text(&KEYS[..1], &upstream)).unwrap();
    says(&alvus, "reloaded: 1 keys");
}

#[test]
fn a_deleted_file_changes_nothing_and_is_taken_when_it_is_back() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS, &upstream);
    fs::remove_file(&path).unwrap();
    says(&alvus, "reload refused, the running configuration stays: ");
    assert_eq!(alvus.states().len(), 3);
    fs::write(&path, text(&KEYS[..2], &upstream)).unwrap();
    says(&alvus, "reloaded: 2 keys (0 new, 1 removed, 0 tried again)");
    assert_eq!(said(&alvus, "reload refused"), 1, "{}", alvus.log());
}

#[test]
fn one_line_says_what_changed_and_another_what_takes_a_restart() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (path, alvus) = started(&dir, &KEYS, &upstream);
    let more = "COOLDOWN_SEC=7\nIDLE_TIMEOUT_SEC=9\nHOST=::1\nWORKERS=5\n";
    replace(&path, &(text(&KEYS, &upstream) + more));
    says(&alvus, "only after a restart");
    let log = alvus.log();
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("changed")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].starts_with("info: reloaded: 3 keys (0 new, 0 removed, 0 tried again), "));
    assert!(lines[0].ends_with("; changed: COOLDOWN_SEC, IDLE_TIMEOUT_SEC"));
    assert!(lines[1].ends_with(": HOST, WORKERS"), "{}", lines[1]);
}

/// How often the main thread of a process has gone to sleep so far.
fn naps(alvus: &Alvus) -> u64 {
    let pid = alvus.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("voluntary_ctxt"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn watching_wakes_at_most_once_a_second_and_without_a_file_never() {
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let (_path, watching) = started(&dir, &KEYS, &upstream);
    let without = Alvus::before(&upstream);
    let (began, before) = (Instant::now(), (naps(&watching), naps(&without)));
    eventually("it looks", || naps(&watching) >= before.0 + 3);
    // It may have been about to go to sleep when it was first asked.
    assert!(naps(&without) <= before.1 + 1);
    // One more for the nap that had begun before, and for a page that was not there.
    assert!(naps(&watching) - before.0 <= began.elapsed().as_secs() + 2);
}

#[test]
fn a_signal_still_reads_the_file_at_once_whether_it_changed_or_not() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        2 => ok(),
        _ => answer(401, "", ""),
    });
    let dir = TempDir::new();
    let (_path, alvus) = started(&dir, &KEYS, &upstream);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states(), ["ejected", "ejected", "ready"]);
    alvus.signal("HUP");
    says(&alvus, "reloaded: 3 keys (0 new, 0 removed, 2 tried again)");
    assert_eq!(alvus.states(), ["ready"; 3]);
}
