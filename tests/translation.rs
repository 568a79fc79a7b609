//! The memory of a translated stream, beside one that passes, with the real binary. `STREAM_MB=1000` looks closer;
//! `--nocapture` shows the figures. `make bench` measures the time.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![cfg(feature = "messages")]

mod common;

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};

use common::driven::{END, PATHS, TOKEN, ask, driven};
use common::{Act, Alvus, SSE_HEAD, Upstream, chunk};

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// A figure of the process in KiB.
fn memory(alvus: &Alvus, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", alvus.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_long_stream_takes_no_more_memory_than_a_short_one() {
    let megabytes = number("STREAM_MB", 32);
    let block = chunk(&format!("{TOKEN}\n\n").repeat(256));
    let blocks = Arc::new(Mutex::new(1));
    let wanted = blocks.clone();
    let upstream = Upstream::new(move |_| {
        let (block, blocks) = (block.clone(), *wanted.lock().unwrap());
        Act::Do(Box::new(move |stream| {
            let mut say = |text: &str| stream.write_all(text.as_bytes()).unwrap();
            say(SSE_HEAD);
            (0..blocks).for_each(|_| say(&block));
            say(&(chunk(END) + "0\r\n\r\n"));
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("MESSAGES", "translate")]);
    let read = || {
        let mut client = ask(&alvus, PATHS[1]);
        let mut last = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = client.chunk().unwrap() {
            bytes += piece.len();
            last = piece;
        }
        assert!(String::from_utf8_lossy(&last).contains("message_stop"));
        bytes
    };
    *blocks.lock().unwrap() = 16;
    read();
    let before = memory(&alvus, "VmHWM");
    *blocks.lock().unwrap() = (megabytes << 20) / (256 * TOKEN.len());
    let bytes = read();
    let after = memory(&alvus, "VmHWM");
    println!(
        "{megabytes} MB up, {bytes} bytes down: {before} KiB at most before, {after} KiB after"
    );
    assert!(after <= before + 256, "{before} KiB became {after} KiB");
}

#[test]
fn a_stream_takes_at_most_16_kib_more() {
    const STREAMS: usize = 48;
    let each = PATHS.map(|path| {
        let (upstream, drives) = driven();
        let env = [("MESSAGES", "translate"), ("WORKERS", "100"), ("PORT", "0")];
        let alvus = Alvus::before_with(&upstream, &env);
        let open = |count: usize| -> Vec<_> {
            let one = |_| {
                let mut client = ask(&alvus, path);
                client.chunk().unwrap().unwrap();
                let drive = drives.recv().unwrap();
                for _ in 0..20 {
                    drive.send(true).unwrap();
                    client.chunk().unwrap().unwrap();
                }
                (client, drive)
            };
            (0..count).map(one).collect()
        };
        let first = open(4);
        let before = memory(&alvus, "VmRSS");
        let more = open(STREAMS);
        let grown = memory(&alvus, "VmRSS").saturating_sub(before) as f64 / STREAMS as f64;
        for (mut client, drive) in first.into_iter().chain(more) {
            drive.send(false).unwrap();
            while client.chunk().unwrap().is_some() {}
        }
        grown
    });
    println!(
        "KiB a stream: {:.1} passing, {:.1} translated",
        each[0], each[1]
    );
    assert!(each[1] <= each[0] + 16.0, "{each:?}");
}
