//! alvus in a small control group, as service managers and containers make them.
//!
//! The tests need root and writable control groups of version 1 or 2; without them they say that they were skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use common::{Alvus, Client, KEYS, PATIENCE, Upstream, answer, gate};

/// A control group of its own, removed at the end.
struct Group(PathBuf);

impl Group {
    /// With these limits, each a file of version 1, one of version 2, and what goes in. `None`, and a
    /// word, if there can be none.
    fn new(name: &str, controller: &str, limits: &[(&str, &str, &str)]) -> Option<Group> {
        let top = Path::new("/sys/fs/cgroup");
        let first = top.join(controller);
        let dir = match first.join("tasks").exists() {
            true => first,
            false => top.to_path_buf(),
        };
        let group = Group(dir.join(format!("alvus-{}-{name}", std::process::id())));
        let made = fs::create_dir(&group.0).and_then(|()| {
            limits.iter().try_for_each(|(one, two, value)| {
                let file = [one, two].map(|file| group.0.join(file));
                let file = file.iter().find(|file| file.exists());
                fs::write(file.ok_or(std::io::ErrorKind::NotFound)?, value)
            })
        });
        if let Err(e) = made {
            let words = format!("SKIPPED {name}: no control group can be had: {e}\n");
            std::io::stderr().write_all(words.as_bytes()).unwrap();
            return None;
        }
        Some(group)
    }

    /// An alvus in it.
    fn start(&self, upstream: &Upstream, more: &[(&str, &str)]) -> Alvus {
        let script = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", self.0.display());
        Alvus::before_under(&["sh", "-c", &script, "sh"], upstream, more)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last process may be on its way out.
        for _ in 0..500 {
            match fs::remove_dir(&self.0) {
                Err(e) if e.raw_os_error() == Some(16) => {
                    thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

#[test]
fn a_group_of_24_mb_with_the_defaults_is_not_killed_by_uploads() {
    let limits = [("memory.limit_in_bytes", "memory.max", "25165824")];
    let Some(group) = Group::new("memory", "memory", &limits) else {
        return;
    };
    let (go, gone) = gate();
    let gone = Mutex::new(gone);
    let upstream = Upstream::new(move |_| {
        let _ = gone.lock().unwrap().recv_timeout(PATIENCE);
        answer(200, "", "{}")
    });
    let alvus = group.start(&upstream, &[]);
    assert!(
        alvus.log().contains(
            "memory: 24 MiB in its control group; request bodies take up to 12 MiB of it, not 32"
        ),
        "{}",
        alvus.log()
    );
    let size = 3 << 20;
    let addr = alvus.addr;
    let uploads: Vec<_> = (0..12)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                let head =
                    format!("POST /v1/x HTTP/1.1\r\nHost: alvus\r\nContent-Length: {size}\r\n\r\n");
                client.send(head);
                // Who is turned away may not be read to the end.
                let _ = client.stream.write_all(&vec![b'x'; size]);
                let mut start = [0; 12];
                let _ = client.stream.read_exact(&mut start);
                start
            })
        })
        .collect();
    // How many find room is a matter of their pace; one body fits whatever the others do.
    upstream.wait_for(1);
    assert_eq!(alvus.health()["status"], "ok");
    for _ in 0..12 {
        go.send(()).unwrap();
    }
    let answers: Vec<_> = uploads.into_iter().map(|one| one.join().unwrap()).collect();
    let served = answers.iter().filter(|a| *a == b"HTTP/1.1 200").count();
    assert!(served >= 1, "{served}");
    assert_eq!(alvus.ask().status, 200, "it lives");
}

#[test]
fn a_group_of_few_threads_leaves_room_for_health_and_start_up_says_so() {
    let limits = [("pids.max", "pids.max", "40")];
    let Some(group) = Group::new("threads", "pids", &limits) else {
        return;
    };
    let upstream = Upstream::new(|_| answer(200, "", "{}"));
    let alvus = group.start(&upstream, &[("API_KEYS", KEYS[0]), ("WORKERS", "4")]);
    let said = "the limit of threads leaves room for 22 connections (MAX_CONNECTIONS; TasksMax of a unit, pids.max of a control group, ulimit -u)";
    assert!(alvus.log().contains(said), "{}", alvus.log());
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..60 {
        crowd.push(TcpStream::connect(alvus.addr).unwrap());
        crowd.last_mut().unwrap().write_all(b"G").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(alvus.health()["status"], "ok");
        assert_eq!(alvus.ask().status, 200);
    }
    let threads = fs::read_dir(format!("/proc/{}/task", alvus.pid())).unwrap();
    assert!(threads.count() < 40);
}
