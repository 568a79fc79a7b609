//! Fuzzing on a stable compiler: `make fuzz`. Without `FUZZ_SEC` the seeds are run, once each.
//!
//! `FUZZ_SEC` seconds for each target, or for those that the arguments name; `FUZZ_SEED` to repeat
//! a run; `FUZZ_REPLAY=TARGET:FILE` to see one failure again; `FUZZ_KEEP=1` to write the inputs that
//! reached new code to `target/fuzz-kept`.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "messages")]
#[path = "fuzz/dialects.rs"]
mod dialects;
#[path = "fuzz/engine.rs"]
mod engine;
#[cfg(feature = "responses")]
#[path = "fuzz/responses.rs"]
mod responses;
#[path = "fuzz/targets.rs"]
mod targets;

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::{corpus, fuzz, run_one, say};
use targets::{PANICS, TARGETS, differences};

fn main() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse().expect(name));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        hook(info);
    }));
    if let Ok(replay) = std::env::var("FUZZ_REPLAY")
        && let Some((name, file)) = replay.split_once(':')
    {
        let target = TARGETS.iter().find(|t| t.name == name).expect("a target");
        run_one(target, &std::fs::read(file).expect(file));
        return say(&format!("{name} has nothing to say against {file}"));
    }
    let Some(seconds) = number("FUZZ_SEC") else {
        for target in TARGETS {
            let seeds = corpus(target.corpus);
            seeds.iter().for_each(|(_, input)| run_one(target, input));
            say(&format!("fuzz: {}: {} seeds", target.name, seeds.len()));
        }
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    say(&format!(
        "fuzz: {seconds} s for each target, FUZZ_SEED={seed}"
    ));
    say("target            executions   per second   kept   counters reached");
    let named: Vec<String> = std::env::args().skip(1).collect();
    for target in TARGETS {
        if !named.is_empty() && !named.iter().any(|n| n == target.name) {
            continue;
        }
        let (executions, kept, reached) = fuzz(target, Duration::from_secs(seconds), seed);
        say(&format!(
            "{:<16} {executions:>11} {:>12} {kept:>6} {reached:>10}",
            target.name,
            executions / seconds.max(1)
        ));
    }
    say("\nhttparse and we differ, as wanted:");
    for (why, times) in differences() {
        say(&format!("{times:>9}  {why}"));
    }
}
