//! `make bench`: the time of a token that is translated, beside one that passes. TOKENS (20000) tokens each.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/mod.rs"]
mod common;

use std::fs;

use common::Alvus;
use common::driven::{PATHS, ask, driven};

/// Nanoseconds that the threads there are have run.
fn time(alvus: &Alvus) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", alvus.pid())).unwrap();
    let spent = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(spent).sum()
}

fn main() {
    let tokens = std::env::var("TOKENS").map_or(20_000, |text| text.parse().unwrap());
    for path in PATHS {
        let (upstream, drives) = driven();
        let alvus = Alvus::before_with(&upstream, &[("MESSAGES", "translate")]);
        let mut client = ask(&alvus, path);
        client.chunk().unwrap().unwrap();
        let drive = drives.recv().unwrap();
        let mut go = |count: usize| {
            for _ in 0..count {
                drive.send(true).unwrap();
                client.chunk().unwrap().unwrap();
            }
        };
        go(tokens / 10);
        let before = time(&alvus);
        go(tokens);
        let took = (time(&alvus) - before) as f64 / tokens as f64 / 1000.0;
        println!("{path}: {took:.2} µs a token");
        drive.send(false).unwrap();
        while client.chunk().unwrap().is_some() {}
    }
}
