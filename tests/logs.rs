//! The log: JSON, the journal's priorities, storms. Every test checks that it holds no key: see `Alvus::drop`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use common::{Alvus, AtEnd, CHAT, KEYS, TempDir, Upstream, alvus_command, answer, eventually, ok};

/// Every line of the log as JSON.
fn lines(alvus: &Alvus) -> Vec<serde_json::Value> {
    let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
    alvus.log().lines().map(parse).collect()
}

#[test]
fn in_json_every_line_is_an_object() {
    let upstream = Upstream::new(|seen| match seen.key_index() {
        0 => answer(429, "Retry-After: 100\r\n", ""),
        _ => ok(),
    });
    let env = [("LOG_FORMAT", "json"), ("LOG", "debug"), ("COOLDOWN", "5")];
    let mut alvus = Alvus::before_with(&upstream, &env);
    let mut client = alvus.connect();
    client.send("GET /v1/\"models\\?key=secret HTTP/1.1\r\nHost: a\r\n\r\n");
    client.response();
    assert_eq!(alvus.ask().status, 200);
    eventually("both are logged", || {
        alvus.log().matches("\"request\"").count() >= 1 && alvus.log().contains("chat/completions")
    });
    alvus.signal("TERM");
    alvus.wait();
    let lines = lines(&alvus);
    for line in &lines {
        assert!(
            line["level"].is_string() && line["event"].is_string(),
            "{line}"
        );
    }
    let request = lines
        .iter()
        .find(|l| l["path"] == "/v1/chat/completions")
        .unwrap();
    let expected = serde_json::json!({
        "level": "info", "event": "request", "method": "POST", "status": 200, "key": 1, "bytes": 11
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&request[name], value, "{request}");
    }
    assert!(
        request["total_ms"].is_u64() && request["waited_ms"].is_u64(),
        "{request}"
    );
    let message = |part: &str| {
        lines
            .iter()
            .any(|l| l["message"].as_str().is_some_and(|m| m.contains(part)))
    };
    for part in [
        "Alvus started on",
        "limited (429)",
        "did you mean COOLDOWN_SEC?",
        "stopping:",
    ] {
        assert!(message(part), "{part}: {}", alvus.log());
    }
    assert!(!alvus.log().contains("secret"), "{}", alvus.log());
}

#[test]
fn a_refused_request_is_a_line_like_any_other_with_its_reason() {
    let upstream = Upstream::new(|_| ok());
    let clients = "phone:client-key-never-shown-aaaa0001";
    for format in ["text", "json"] {
        let env = [
            ("LOG_FORMAT", format),
            ("CLIENT_KEYS", clients),
            ("HOST", "0.0.0.0"),
        ];
        let alvus = Alvus::before_with(&upstream, &env);
        for (line, field, status, reason) in [
            ("GET /a?secret", "Host: evil.example", 421, "evil.example"),
            (
                "GET /b",
                "Origin: http://evil.example",
                403,
                "http://evil.example",
            ),
            (
                "POST /c",
                "x-api-key: guessed-secret",
                401,
                "Incorrect API key",
            ),
            (
                "GET /metrics",
                "Forwarded: for=192.0.2.7",
                401,
                "provide an API key",
            ),
            ("GET http://u:secret@a:x/", "A: b", 421, "secret@a:x"),
        ] {
            let mut client = common::Client::connect(([127, 0, 0, 1], alvus.addr.port()).into());
            let host = if field.starts_with("Host") {
                ""
            } else {
                "Host: a\r\n"
            };
            client.send(format!("{line} HTTP/1.1\r\n{host}{field}\r\n\r\n"));
            assert_eq!(client.response().status, status, "{line}");
            let (method, target) = line.split_once(' ').unwrap();
            let path = target.split('?').next().unwrap();
            let path = if target.starts_with('/') { path } else { "/" };
            let begin = match format {
                "text" => format!("info: {method} {path} -> {status} refused=\""),
                _ => format!(
                    r#"{{"level":"info","event":"request","method":"{method}","path":"{path}","status":{status},"refused":""#
                ),
            };
            eventually(&begin, || {
                let log = alvus.log();
                let found = log.lines().find(|l| l.starts_with(&begin));
                found.is_some_and(|l| l.contains(reason))
            });
        }
        assert!(!alvus.log().contains("?secret"), "{}", alvus.log());
        assert!(!alvus.log().contains("guessed"), "{}", alvus.log());
    }
}

#[test]
fn a_path_without_end_is_cut_in_the_log() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    let path = "%fc".repeat(2000);
    client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.response();
    eventually("it is logged", || alvus.log().contains("GET /"));
    assert!(
        alvus.log().lines().all(|l| l.len() < 600),
        "{}",
        alvus.log()
    );
}

#[test]
fn to_the_journal_each_line_begins_with_its_priority() {
    let dir = TempDir::new();
    for (matches, start) in [
        (true, "<3>PORT (environment)"),
        (false, "PORT (environment)"),
    ] {
        let log = File::create(dir.0.join("log")).unwrap();
        let meta = log.metadata().unwrap();
        let inode = meta.ino() + u64::from(!matches);
        let status = alvus_command(&dir)
            .env("JOURNAL_STREAM", format!("{}:{inode}", meta.dev()))
            .envs([("PORT", "x"), ("WORKERS", "x"), ("API_KEYS", KEYS[0])])
            .stderr(log)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(2));
        let text = std::fs::read_to_string(dir.0.join("log")).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with(start), "{text}");
        assert!(
            text.lines().all(|l| l.starts_with("<3>") == matches),
            "{text}"
        );
    }
}

#[test]
fn requests_and_warnings_have_priorities_of_their_own() {
    let dir = TempDir::new();
    let path = dir.0.join("log");
    let log = File::create(&path).unwrap();
    let meta = log.metadata().unwrap();
    let mut child = alvus_command(&dir)
        .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
        .envs([("PORT", "0"), ("COOLDOWN", "5"), ("API_KEYS", KEYS[0])])
        .stderr(log)
        .spawn()
        .unwrap();
    let text = || std::fs::read_to_string(&path).unwrap();
    eventually("it starts", || text().contains("Cooldown:"));
    child.kill().unwrap();
    child.wait().unwrap();
    let text = text();
    let starts: Vec<&str> = text.lines().map(|l| &l[..3]).collect();
    // The warning, and the banner's lines.
    assert_eq!(starts, ["<4>", "<6>", "<6>", "<6>", "<6>", "<6>"], "{text}");
}

#[test]
fn a_storm_is_cut_and_counted() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let done = AtomicBool::new(false);
    let asked: usize = thread::scope(|scope| {
        let end = AtEnd(&done);
        let ask = || {
            let mut client = alvus.connect();
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                client.send(CHAT);
                assert_eq!(client.response().status, 200);
                asked += 1;
            }
            asked
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        eventually("lines are suppressed", || {
            alvus.log().contains("lines suppressed")
        });
        drop(end);
        clients.into_iter().map(|c| c.join().unwrap()).sum()
    });
    // Every request is either a line or counted in one.
    eventually("all are accounted for", || {
        let log = alvus.log();
        let written = log
            .lines()
            .filter(|l| l.contains("/v1/chat/completions"))
            .count();
        let counts = log
            .lines()
            .filter_map(|l| l.split_once(" lines suppressed"));
        let suppressed: usize = counts
            .map(|(start, _)| {
                start
                    .strip_prefix("warn: ")
                    .unwrap()
                    .parse::<usize>()
                    .unwrap()
            })
            .sum();
        written + suppressed == asked
    });
}

#[test]
fn a_storm_of_requests_hides_no_other_news_and_stays_json() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("LOG_FORMAT", "json")]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = AtEnd(&done);
        let ask = || {
            let mut client = alvus.connect();
            while !done.load(Ordering::Relaxed) {
                client.send(CHAT);
                assert_eq!(client.response().status, 200);
            }
        };
        (0..4).for_each(|_| drop(scope.spawn(ask)));
        let counted = || alvus.log().matches(" lines suppressed").count();
        eventually("lines are suppressed", || counted() >= 1);
        alvus.signal("HUP");
        eventually("the reload is told of", || {
            alvus.log().contains("reloaded:")
        });
        eventually("the storm went on meanwhile", || counted() >= 2);
        drop(end);
    });
    for line in lines(&alvus) {
        assert!(line["level"].is_string(), "{line}");
    }
}

// ---- a log that nobody reads ----------------------------------------------------------------------

/// An alvus whose standard error is a pipe that is full, and the end that nobody reads.
struct Wedged {
    child: Child,
    addr: SocketAddr,
    reader: BufReader<PipeReader>,
    _dir: TempDir,
}

impl Wedged {
    fn before(upstream: &Upstream) -> Wedged {
        let dir = TempDir::new();
        let text = format!("API_KEYS={}\n", KEYS.join(","));
        dir.write(".env", &text);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let child = alvus_command(&dir)
            .envs([("PORT", "0"), ("TARGET_BASE_URL", &upstream.base_url())])
            .stderr(writer.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut wedged = Wedged {
            child,
            addr: ([0; 4], 0).into(),
            reader: BufReader::new(reader),
            _dir: dir,
        };
        let started = wedged.line_with("Alvus started on ");
        wedged.addr = started.rsplit(' ').next().unwrap().parse().unwrap();
        wedged.line_with("Cooldown");
        // While there is room for a page, so much can be written without waiting.
        let room = |writer: &PipeWriter| {
            let mut fds = [PollFd::new(writer, PollFlags::OUT)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
        };
        while room(&writer) {
            writer.write_all(&[b'\n'; 4096]).unwrap();
        }
        wedged
    }

    /// Reads on until a line holds this.
    fn line_with(&mut self, words: &str) -> String {
        let patience = Timespec::try_from(common::PATIENCE).unwrap();
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            if self.reader.buffer().is_empty() {
                let mut fds = [PollFd::new(self.reader.get_ref(), PollFlags::IN)];
                assert!(
                    poll(&mut fds, Some(&patience)).unwrap() > 0,
                    "never said: {words}"
                );
            }
            assert!(
                self.reader.read_line(&mut line).unwrap() > 0,
                "it ended without {words}"
            );
        }
        line.trim_end().to_string()
    }

    fn ask(&self, request: &str) -> u16 {
        let mut client = common::Client::connect(self.addr);
        client.send(request);
        client.response().status
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Wedged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let upstream = Upstream::new(|_| ok());
    let mut wedged = Wedged::before(&upstream);
    for _ in 0..300 {
        assert_eq!(wedged.ask(&CHAT.replace("alvus", "localhost")), 200);
    }
    wedged.signal("TERM");
    let mut status = None;
    eventually("it ends", || {
        status = wedged.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn lines_that_were_lost_are_told_of_when_somebody_reads_again() {
    let upstream = Upstream::new(|_| ok());
    let mut wedged = Wedged::before(&upstream);
    let (long, host) = ("x".repeat(100), "h".repeat(100));
    // In a second a hundred lines are meant to be written, which is 25 kB.
    let (since, mut asked) = (Instant::now(), 0);
    while since.elapsed() < Duration::from_millis(2500) || asked < 500 {
        asked += 1;
        assert_eq!(
            wedged.ask(&format!("GET /{long} HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            421
        );
    }
    let told = wedged.line_with("lines of the log were lost");
    let count: u32 = told.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(count > 0, "{told}");
    // And requests are told of as before, once the second of the storm is over.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1100) {
        assert_eq!(wedged.ask(&CHAT.replace("alvus", "localhost")), 200);
    }
    wedged.line_with("POST /v1/chat/completions -> 200");
}

#[test]
fn a_log_that_cannot_be_written_costs_nothing_but_the_log() {
    let upstream = Upstream::new(|_| ok());
    let mut wedged = Wedged::before(&upstream);
    let (nobody, _) = std::io::pipe().unwrap();
    drop(std::mem::replace(
        &mut wedged.reader,
        BufReader::new(nobody),
    ));
    for _ in 0..20 {
        assert_eq!(wedged.ask(&CHAT.replace("alvus", "localhost")), 200);
    }
}

#[test]
fn text_that_a_client_chose_is_cut_and_escaped_wherever_it_is_shown() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let (long, trap) = (
        "m".repeat(5000),
        "\\u001b[2J\\u202egpt\\nerror: all is lost",
    );
    for model in [long.as_str(), trap] {
        let body = format!("{{\"model\":\"{model}\"}}");
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/{} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            "p".repeat(500),
            body.len()
        ));
        assert_eq!(client.response().status, 200);
    }
    let mut client = alvus.connect();
    client.send(format!(
        "{} /x HTTP/1.1\r\nHost: {}\r\n\r\n",
        "M".repeat(300),
        "h".repeat(300)
    ));
    assert_eq!(client.response().status, 421);
    eventually("all are logged", || {
        alvus.log().matches("info: ").count() >= 3
    });
    let cut = format!("model={}…", "m".repeat(64));
    assert!(alvus.log().contains(&cut), "{}", alvus.log());
    assert!(
        alvus
            .log()
            .contains(r"\u{1b}[2J\\u{202e}gpt\\u{a}error: all is lost"),
        "{}",
        alvus.log()
    );
    for letter in ["m", "p", "M", "h"] {
        assert!(!alvus.log().contains(&letter.repeat(65)), "{}", alvus.log());
    }
    assert!(!alvus.log().contains("\nerror:") && !alvus.log().contains('\u{1b}'));
    let health = alvus.health();
    let models = health["models"].as_array().unwrap();
    assert!(
        models
            .iter()
            .all(|m| m["model"].as_str().unwrap().len() < 100),
        "{health}"
    );
}
