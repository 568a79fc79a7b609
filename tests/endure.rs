//! What the machine does to alvus: disks that are full or read-only, a stop for a while, clocks
//! that jump, little address space. A bug of our own has its test in `src/server/tests.rs`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{File, Permissions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, FRUGAL, KEYS, PATIENCE, SSE_HEAD, TempDir, Upstream, alone,
    alvus_command, alvus_under, answer, chunk, dead_addr, eventually, gate, ok, say,
};

/// An alvus whose words nobody reads.
struct Mute {
    child: Child,
    addr: SocketAddr,
    _dir: TempDir,
}

impl Mute {
    fn start(upstream: &Upstream, stderr: Stdio) -> Mute {
        let (dir, addr) = (TempDir::new(), dead_addr());
        let child = alvus_command(&dir)
            .env("HOST", addr.ip().to_string())
            .env("PORT", addr.port().to_string())
            .env("TARGET_BASE_URL", upstream.base_url())
            .env("API_KEYS", KEYS.join(","))
            .env("ALLOWED_HOSTS", "alvus")
            .env("LOG", "debug")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mute = Mute {
            child,
            addr,
            _dir: dir,
        };
        eventually("it listens", || TcpStream::connect(addr).is_ok());
        mute
    }

    fn ask(&self) -> u16 {
        let mut client = Client::connect(self.addr);
        client.send(CHAT);
        client.response().status
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this machine lets us start something this way; says so when it does not.
fn possible(wrapper: &[&str]) -> bool {
    let tried = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    let possible = tried.as_ref().is_ok_and(|out| out.status.success());
    if !possible {
        eprintln!(
            "SKIPPED: this machine does not allow {}: {tried:?}",
            wrapper.join(" ")
        );
    }
    possible
}

#[test]
fn a_log_on_a_full_disk_costs_nothing_but_the_log() {
    let upstream = Upstream::new(|_| ok());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let alvus = Mute::start(&upstream, full.into());
    for _ in 0..20 {
        assert_eq!(alvus.ask(), 200);
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_costs_nothing_but_the_log() {
    let upstream = Upstream::new(|_| ok());
    let mut alvus = Mute::start(&upstream, Stdio::piped());
    drop(alvus.child.stderr.take());
    for _ in 0..20 {
        assert_eq!(alvus.ask(), 200);
    }
}

#[test]
fn read_only_file_systems_are_enough() {
    let read_only = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        "for d in / /tmp /var /dev/shm; do mount -o remount,bind,ro $d 2>/dev/null; done; \
         ! touch ./new 2>/dev/null && exec \"$@\"",
        "sh",
    ];
    if !possible(&read_only) {
        return;
    }
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_under(&read_only, &upstream, &[("LOG", "debug")]);
    assert_eq!(alvus.ask().status, 200);
    alvus.signal("HUP");
    eventually("it reloads", || alvus.log().contains("reloaded"));
    assert_eq!(alvus.ask().status, 200);
}

/// The usual, with a state file, stopped again: what it said.
fn lives_and_stops(upstream: &Upstream, file: &Path, more: &[(&str, &str)]) -> String {
    let mut env = vec![("STATE_FILE", file.to_str().unwrap())];
    env.extend_from_slice(more);
    let mut alvus = Alvus::before_with(upstream, &env);
    assert_eq!(alvus.ask().status, 200);
    alvus.signal("TERM");
    assert_eq!(alvus.wait().code(), Some(0));
    eventually("its last words", || alvus.log().contains("stopping"));
    alvus.log()
}

/// An upstream that limits the keys of which this is true.
fn limits(which: fn(usize) -> bool) -> Upstream {
    Upstream::new(move |seen| match seen.key_index() {
        index if which(index) => answer(429, "Retry-After: 3000\r\n", ""),
        _ => ok(),
    })
}

#[test]
fn a_full_disk_keeps_the_state_that_was_written_before_and_loses_no_request() {
    alone(
        "a_full_disk_keeps_the_state_that_was_written_before_and_loses_no_request",
        || {
            let dir = TempDir::new();
            let small = ["-t", "tmpfs", "-o", "size=64k", "none"];
            let mut mount = Command::new("mount");
            assert!(mount.args(small).arg(&dir.0).status().unwrap().success());
            let (file, fill) = (dir.0.join("state"), dir.0.join("fill"));
            let log = lives_and_stops(&limits(|key| key == 0), &file, &[]);
            assert!(!log.contains("STATE_FILE"), "{log}");
            let before = std::fs::read_to_string(&file).unwrap();
            let mut filling = File::create(&fill).unwrap();
            while filling.write_all(&[0; 4096]).is_ok() {}

            let log = lives_and_stops(&limits(|key| key == 1), &file, &[]);
            assert!(log.contains("STATE_FILE: 1 rests"), "{log}");
            let full = log.matches("cannot write").count();
            assert_eq!((full, log.contains("No space left")), (1, true), "{log}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
            assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 2);

            drop(filling);
            std::fs::remove_file(&fill).unwrap();
            lives_and_stops(&limits(|key| key == 1), &file, &[]);
            let upstream = limits(|_| false);
            let env = [("STATE_FILE", file.to_str().unwrap())];
            let alvus = Alvus::before_with(&upstream, &env);
            assert_eq!(alvus.states(), ["cooling", "cooling", "ready"]);
        },
    );
}

#[test]
fn a_file_that_alvus_may_not_read_is_refused_in_words_and_taken_when_it_may() {
    // Root may read everything.
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let (upstream, dir) = (Upstream::new(|_| ok()), TempDir::new());
    let text = |keys: &[&str]| {
        let (keys, url) = (keys.join(","), upstream.base_url());
        format!("API_KEYS={keys}\nTARGET_BASE_URL={url}\nPORT=0\n")
    };
    let path = dir.write("conf", &text(&KEYS));
    let root = rustix::process::geteuid().is_root();
    let wrapper = if root { &nobody[..] } else { &["env"] };
    let allow = |mode| std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    let runs = alvus_under(wrapper, &dir).arg("--version").output();
    if !runs.as_ref().is_ok_and(|out| out.status.success()) {
        eprintln!("SKIPPED: the binary cannot be run as somebody else: {runs:?}");
        return;
    }
    if root {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    allow(0o600);
    let args = ["--env-file", path.to_str().unwrap()];
    let alvus = Alvus::launch_under(wrapper, &args, &[]);
    let said = |words: &str| alvus.log().matches(words).count();
    allow(0);
    eventually("it is refused", || said("Permission denied") == 1);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.states().len(), 3, "the running configuration stays");
    let out = alvus_under(wrapper, &dir).args(args).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(
        (out.status.code(), err.lines().count()),
        (Some(2), 1),
        "{err}"
    );
    assert!(err.contains("cannot read") && err.contains("conf"), "{err}");
    allow(0o600);
    std::fs::write(&path, text(&KEYS[..2])).unwrap();
    eventually("it is read", || said("reloaded: 2 keys") == 1);
    assert_eq!((said("refused"), said("warn")), (1, 0), "{}", alvus.log());
}

/// Stops alvus for a while: 3 s, or `STOP_SEC`; `make attack` takes a minute.
fn stop(alvus: &Alvus, meanwhile: impl FnOnce()) {
    let time = std::env::var("STOP_SEC").map_or(3, |n| n.parse().unwrap());
    alvus.signal("STOP");
    meanwhile();
    thread::sleep(Duration::from_secs(time));
    alvus.signal("CONT");
}

#[test]
fn a_stop_while_all_keys_rest_neither_shortens_nor_forgets_their_rest() {
    let limited = Mutex::new(Vec::new());
    let upstream = Upstream::new(move |seen| {
        let mut limited = limited.lock().unwrap();
        match seen.key_index() {
            _ if limited.contains(&seen.key) => ok(),
            index => {
                limited.push(seen.key.clone());
                // The first key rests for longer than any stop here.
                let rest = [600, 5, 5][index];
                answer(429, &format!("Retry-After: {rest}\r\n"), "{}")
            }
        }
    });
    let alvus = Alvus::before(&upstream);
    let began = Instant::now();
    let mut waiting = alvus.connect();
    waiting.send(CHAT);
    eventually("it waits", || alvus.health()["waiting"] == 1);
    stop(&alvus, || ());
    assert_eq!(waiting.response().status, 200);
    assert!(began.elapsed() >= Duration::from_secs(5), "too early");
    assert_eq!(alvus.states()[0], "cooling");
    assert_eq!(alvus.ask().status, 200);
}

#[test]
fn a_stop_for_a_while_loses_nothing() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let first = format!("{SSE_HEAD}{}", chunk("data: 1\n\n"));
            stream.write_all(first.as_bytes()).unwrap();
            gone.recv_timeout(PATIENCE).unwrap();
            let last = format!("{}0\r\n\r\n", chunk("data: 2\n\n"));
            stream.write_all(last.as_bytes()).unwrap();
        })),
        None => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let mut streaming = alvus.connect();
    streaming.send(CHAT);
    streaming.head();
    assert_eq!(streaming.chunk().unwrap().unwrap(), b"data: 1\n\n");
    let mut meanwhile = alvus.connect();
    stop(&alvus, || {
        go.send(()).unwrap();
        meanwhile.send(CHAT);
    });
    assert_eq!(streaming.chunk().unwrap().unwrap(), b"data: 2\n\n");
    assert_eq!(streaming.chunk().unwrap(), None);
    assert_eq!(meanwhile.response().status, 200);
    assert_eq!(alvus.health()["status"], "ok");
}

/// An upstream that limits each key once at `/v1/limited`, until a second later by its own clock.
fn limits_by_date() -> Upstream {
    let limited = Mutex::new(Vec::new());
    Upstream::new(move |seen| {
        if seen.target == "/v1/forget" {
            limited.lock().unwrap().clear();
        }
        let mut limited = limited.lock().unwrap();
        if seen.target != "/v1/limited" || limited.contains(&seen.key) {
            return ok();
        }
        limited.push(seen.key.clone());
        let dates =
            "Date: Tue, 01 Jul 2025 10:00:00 GMT\r\nRetry-After: Tue, 01 Jul 2025 10:00:01 GMT\r\n";
        answer(429, dates, "{}")
    })
}

/// All keys are limited for a second, and the request waits that out.
fn a_rest_takes_its_time(alvus: &Alvus) {
    let began = Instant::now();
    let mut client = alvus.connect();
    client.send("GET /v1/limited HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(900),
        "the keys did not rest: {took:?}"
    );
    client.send("GET /v1/forget HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let uptime = alvus.health()["uptime_sec"].as_u64().unwrap();
    assert!(uptime < 600, "{uptime}");
}

/// The library that shows a program another wall clock; `None` where nothing can be loaded.
fn faketime() -> Option<String> {
    if std::env::var_os("ALVUS_BIN").is_some() {
        return None; // a static binary
    }
    let lib = ["x86_64", "i386", "aarch64", "arm"]
        .map(|cpu| format!("/usr/lib/{cpu}-linux-gnu/faketime/libfaketimeMT.so.1"))
        .map(PathBuf::from);
    let lib = lib
        .iter()
        .find(|path| path.exists())
        .expect("libfaketime is missing: run `make clients`");
    Some(lib.display().to_string())
}

#[test]
fn a_rest_that_was_kept_is_shortened_by_a_clock_that_can_be_believed_only() {
    let Some(lib) = faketime() else { return };
    let clock = |offset| {
        [
            ("LD_PRELOAD", lib.as_str()),
            ("FAKETIME", offset),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]
    };
    // When it was written, when it is read, what is left of the 3000 s.
    for (written, read, left) in [
        ("+0", "+0", 2800..=3000),
        ("+0", "+1000s", 1800..=2000),
        ("+0", "+4000s", 0..=0),
        ("+0", "-1000s", 2800..=3000), // set back meanwhile
        ("+0", "-50y", 2800..=3000),   // read before the clock was set
        ("-50y", "+0", 2800..=3000),   // written before that
        ("-50y", "-50y", 2800..=3000),
    ] {
        let dir = TempDir::new();
        let file = dir.0.join("state");
        lives_and_stops(&limits(|key| key == 0), &file, &clock(written));
        let mut env = vec![("STATE_FILE", file.to_str().unwrap())];
        env.extend(clock(read));
        let upstream = limits(|key| key == 0);
        let alvus = Alvus::before_with(&upstream, &env);
        let key = alvus.health()["key_status"][0].clone();
        let found = key["seconds_left"].as_u64().unwrap();
        assert!(left.contains(&found), "{written}, {read}: {found}");
    }
}

#[test]
fn a_wall_clock_that_jumps_by_fifty_years_changes_nothing() {
    let Some(lib) = faketime() else { return };
    let dir = TempDir::new();
    let clock = dir.write("clock", "+0");
    let clock_path = clock.display().to_string();
    let fake = [
        ("LD_PRELOAD", lib.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &clock_path),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"), // a jump of the wall clock does not move that one
    ];
    let upstream = limits_by_date();
    let alvus = Alvus::before_with(&upstream, &fake);
    let mut kept = alvus.connect();
    a_rest_takes_its_time(&alvus);
    for jump in ["+50y", "-50y", "+50y", "+0"] {
        dir.write("clock", jump);
        let date = Command::new("date").arg("+%Y").envs(fake).output().unwrap();
        let year: i32 = String::from_utf8(date.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let offset = jump.trim_end_matches('y').parse::<i32>().unwrap();
        assert!(
            (2024 + offset..2100 + offset).contains(&year),
            "{jump}: {year}"
        );
        a_rest_takes_its_time(&alvus);
        kept.send(CHAT);
        assert_eq!(kept.response().status, 200, "{jump}");
    }
}

#[test]
fn a_machine_that_has_been_up_for_fifty_years_is_served_as_well() {
    let years = (50u64 * 365 * 86400).to_string();
    let mut late = vec!["unshare"];
    if !rustix::process::geteuid().is_root() {
        late.push("-r");
    }
    late.extend([
        "--time",
        "--monotonic",
        &years,
        "--boottime",
        &years,
        "--fork",
        "--kill-child",
    ]);
    if !possible(&late) {
        return;
    }
    let upstream = limits_by_date();
    let alvus = Alvus::before_under(&late, &upstream, &[]);
    a_rest_takes_its_time(&alvus);
    assert_eq!(alvus.ask().status, 200);
}

#[test]
fn the_address_space_of_a_small_board_is_enough() {
    if std::env::var_os("ALVUS_RUNNER").is_some() {
        return; // the limit would be the emulator's
    }
    const MIB: usize = 1 << 20;
    let upstream = Upstream::new(|_| ok());
    let limit = format!("--as={}", 64 * MIB);
    let mut env = vec![("MAX_BODY_MB", "8"), ("MAX_CONNECTIONS", "256")];
    env.extend(FRUGAL);
    let alvus = Alvus::before_under(&["prlimit", &limit], &upstream, &env);
    // more idle clients than it lets in, and more work than it has workers or memory for
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(alvus.addr).unwrap())
        .collect();
    let body = "x".repeat(MIB);
    let length = body.len();
    let request = format!(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    for _ in 0..3 {
        let statuses: Vec<String> = thread::scope(|scope| {
            let one = || {
                let answer = say(alvus.connect().stream, request.as_bytes());
                answer.split(' ').nth(1).unwrap_or("none").to_string()
            };
            let all: Vec<_> = (0..48).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let expected = |s: &String| matches!(s.as_str(), "200" | "503");
        assert!(statuses.iter().all(expected), "{statuses:?}");
        assert!(statuses.iter().any(|s| s == "200"), "{statuses:?}");
        assert_eq!(alvus.ask().status, 200);
    }
    drop(idle);
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(alvus.health()["status"], "ok");
}

#[test]
fn waiting_requests_leave_descriptors_to_attempts() {
    if std::env::var_os("ALVUS_RUNNER").is_some() {
        return; // the limit would be the emulator's
    }
    let upstream = Upstream::new(|seen| match seen.body_text().contains("tired") {
        true => answer(429, "Retry-After: 200\r\n", ""),
        false => ok(),
    });
    let env = [("WORKERS", "4"), ("MAX_CONNECTIONS", "250")];
    let alvus = Alvus::before_under(&["prlimit", "--nofile=120:120"], &upstream, &env);
    let said = "the limit of open files leaves room for 50 connections";
    assert!(alvus.log().contains(said), "{}", alvus.log());
    let tired = "{\"model\":\"tired\"}";
    let mut crowd: Vec<Client> = (0..42)
        .map(|_| {
            let mut client = alvus.connect();
            client.send(format!(
                "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{tired}",
                tired.len()
            ));
            client
        })
        .collect();
    eventually("all wait", || alvus.health()["waiting"] == crowd.len());
    crowd.truncate(40); // the house was full to the last place
    eventually("two have left", || alvus.health()["waiting"] == 40);
    for _ in 0..10 {
        let response = alvus.ask();
        assert_eq!(response.status, 200, "{}", response.text());
        eventually("its place is free", || alvus.health()["in_flight"] == 40);
    }
}

#[test]
fn every_build_gives_the_memory_of_uploads_back() {
    const MB: usize = 1 << 20;
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", alvus.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kb: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kb * 1024
    };
    // Each size is one that was freed before, and a little more.
    for round in 0..4 {
        for size in [MB, 3 * MB, 7 * MB] {
            let body = vec![b'x'; size + round * 1000];
            thread::scope(|scope| {
                for _ in 0..24 * MB / size {
                    scope.spawn(|| {
                        let mut client = alvus.connect();
                        let length = body.len();
                        client.send(format!(
                            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                        ));
                        client.send(&body);
                        assert_eq!(client.response().status, 200);
                    });
                }
            });
        }
    }
    eventually("it is given back", || resident() < 16 * MB);
}

/// Threads of alvus.
fn threads(alvus: &Alvus) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", alvus.pid())).unwrap();
    tasks.count()
}

#[test]
fn a_connection_that_waits_for_its_next_request_has_no_thread() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut clients: Vec<_> = (0..40).map(|_| alvus.connect()).collect();
    for client in &mut clients {
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
    eventually("their threads end", || threads(&alvus) < 16);
    for client in &mut clients[10..] {
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
    // Those that hang up without a thread are forgotten as well.
    let files = || std::fs::read_dir(format!("/proc/{}/fd", alvus.pid())).unwrap();
    let before = files().count();
    drop(clients);
    eventually("their sockets are closed", || {
        files().count() + 40 <= before
    });
}
