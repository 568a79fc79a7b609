//! `make bench`: alvus beside other proxies, measured in one run.
//!
//! A harness of the project's own: a mock upstream (`mock.rs`), clients (`load.rs`), the proxies
//! (`proxies.rs`), and here the scenarios and the table. Every scenario runs each proxy in turn,
//! round after round (A, B, A, B …), so that a noisy machine is noisy for all of them; a figure is
//! the median of the rounds. *direct* is the same run without a proxy: what mock and clients cost
//! themselves. Nothing is asserted here; all figures go to `target/bench/*.json`.

// A program that measures and prints; what fails ends the run.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod load;
mod mock;
mod proxies;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, exit};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use load::{Connection, conversation, in_threads, percentile, question, request};
use mock::{DOWN, Mock, STORM_LIMIT, STORM_WINDOW};
use proxies::{Proxy, Running, TlsUpstream, Under, Wish};

const USAGE: &str = "\
usage: make bench [BENCH='WORDS']
  quick            fewer requests, rounds and scenarios: a look after a change, under two minutes
  only=A,B         only scenarios whose name begins with one of these
  rounds=N         rounds of each scenario
  alvus=NAME:PATH  another alvus beside the one under test
  proxy=NAME:COMMAND  another proxy; {port} and {upstream} are filled in
  without=NAME     leave nginx or haproxy out
  bin=PATH         the alvus under test";

/// Tokens of an agent's turn.
const TOKENS: u32 = 500;

struct Bench {
    proxies: Vec<Proxy>,
    mock: Mock,
    epoch: Instant,
    dir: PathBuf,
    rounds: usize,
    quick: bool,
    only: Vec<String>,
    figures: Vec<Figure>,
}

/// One row of the table.
struct Figure {
    what: String,
    unit: &'static str,
    /// Per proxy, one value a round.
    values: Vec<Vec<f64>>,
}

/// An answer in the storm.
#[derive(Clone)]
struct Stormy {
    good: bool,
    took: Duration,
    at: Instant,
}

fn main() {
    let mut quick = false;
    let (mut only, mut without, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut rounds = None;
    let mut bin = env!("CARGO_BIN_EXE_alvus").to_string();
    for word in env::args().skip(1) {
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        let (label, rest) = value.split_once(':').unwrap_or((value, ""));
        match name {
            "quick" => quick = true,
            "only" => only.extend(value.split(',').map(String::from)),
            "without" => without.push(value.to_string()),
            "rounds" => rounds = value.parse().ok(),
            "bin" => bin = value.into(),
            "alvus" if !rest.is_empty() => others.push(Proxy::alvus(label, rest)),
            "proxy" if !rest.is_empty() => others.push(Proxy::other(label, rest)),
            "--bench" => {} // cargo's own
            _ => {
                eprintln!("bench: what is {word:?}?\n{USAGE}");
                exit(2);
            }
        }
    }
    let mut proxies = vec![Proxy::direct(), Proxy::alvus("alvus", &bin)];
    proxies.extend(others);
    for (proxy, package) in [
        (Proxy::nginx(), "nginx-light"),
        (Proxy::haproxy(), "haproxy"),
    ] {
        if without.contains(&proxy.name) {
            continue;
        }
        if proxy.size().is_none() && !install(package) {
            eprintln!("bench: no {}; apt-get install {package}", proxy.name);
            continue;
        }
        proxies.push(proxy);
    }
    let epoch = Instant::now();
    let mut bench = Bench {
        proxies,
        mock: Mock::start(epoch).expect("the mock listens"),
        epoch,
        dir: env::temp_dir().join(format!("alvus-bench-{}", std::process::id())),
        rounds: rounds.unwrap_or(if quick { 2 } else { 5 }),
        quick,
        only,
        figures: Vec::new(),
    };
    bench.all();
    let table = bench.table();
    println!("{table}");
    match bench.save() {
        Ok(path) => println!("{}", path.display()),
        Err(e) => eprintln!("bench: the figures were not saved: {e}"),
    }
    let _ = fs::remove_dir_all(&bench.dir);
}

/// With apt, as root on Debian.
fn install(package: &str) -> bool {
    let apt = [
        "apt-get",
        "install",
        "-qq",
        "-y",
        "--no-install-recommends",
        package,
    ];
    Command::new(apt[0])
        .args(&apt[1..])
        .output()
        .is_ok_and(|o| o.status.success())
}

fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok()
}

impl Bench {
    fn all(&mut self) {
        self.sizes();
        self.start_and_rest();
        for connections in [1, 8, 64] {
            self.kept(connections);
        }
        self.counts();
        self.new_connections();
        for streams in if self.quick {
            vec![8]
        } else {
            vec![1, 8, 32, 128]
        } {
            self.tokens(streams);
        }
        self.large();
        self.many_keys();
        self.turns(None);
        self.waiters();
        if !self.quick {
            self.later();
            self.tls();
            self.storm();
        }
    }

    fn wanted(&self, scenario: &str) -> bool {
        let wanted =
            self.only.is_empty() || self.only.iter().any(|o| scenario.starts_with(o.as_str()));
        if wanted {
            eprintln!("bench: {scenario}");
        }
        wanted
    }

    fn wish(&self) -> Wish {
        Wish {
            upstream: self.mock.addr,
            tls: false,
            streams: 0,
            keys: 3,
        }
    }

    /// Starts a proxy as the scenario wants it; a proxy that cannot be started is left out.
    fn start(&self, proxy: &Proxy, wish: &Wish, under: Under) -> Option<Running> {
        let dir = self.dir.join("proxy");
        proxy
            .start(wish, under, &dir)
            .inspect_err(|e| eprintln!("bench: {}: {e}", proxy.name))
            .ok()
    }

    fn note(&mut self, what: &str, unit: &'static str, proxy: usize, value: f64) {
        let at = self
            .figures
            .iter()
            .position(|f| f.what == what)
            .unwrap_or_else(|| {
                self.figures.push(Figure {
                    what: what.to_string(),
                    unit,
                    values: vec![Vec::new(); self.proxies.len()],
                });
                self.figures.len() - 1
            });
        self.figures[at].values[proxy].push(value);
    }

    /// Each proxy in turn, round after round.
    fn each(&mut self, wish: &Wish, mut run: impl FnMut(&mut Bench, usize, &Running)) {
        for _ in 0..self.rounds {
            for n in 0..self.proxies.len() {
                let proxy = self.proxies[n].clone();
                if wish.tls && proxy.is_direct() {
                    continue; // these clients speak no TLS
                }
                if let Some(running) = self.start(&proxy, wish, Under::Nothing) {
                    run(self, n, &running);
                }
            }
        }
    }

    fn complain(&self, proxy: usize, what: &str, failed: usize) {
        if failed > 0 {
            eprintln!(
                "bench: {}: {failed} failed in {what}",
                self.proxies[proxy].name
            );
        }
    }

    fn sizes(&mut self) {
        if !self.wanted("size") {
            return;
        }
        for n in 0..self.proxies.len() {
            if let Some(size) = self.proxies[n].size() {
                self.note("size: the program", "KiB", n, size as f64 / 1024.0);
            }
        }
    }

    fn start_and_rest(&mut self) {
        if !self.wanted("idle") {
            return;
        }
        self.each(&self.wish(), |b, n, running| {
            if b.proxies[n].is_direct() {
                return;
            }
            let first = running.first_answer.as_secs_f64() * 1e3;
            b.note("idle: start to first answer", "ms", n, first);
            b.note("idle: RSS after the first answer", "KiB", n, running.rss());
            b.note("idle: RssAnon", "KiB", n, running.anonymous());
            b.note("idle: PSS", "KiB", n, running.pss());
            b.note("idle: threads", "", n, running.threads());
        });
    }

    fn kept(&mut self, connections: usize) {
        let name = format!("kept-{connections}");
        if !self.wanted(&name) {
            return;
        }
        let total = if self.quick { 6_000 } else { 16_000 };
        let request = question("/v1/chat/completions");
        self.each(&self.wish(), |b, n, running| {
            load::run(running.addr, &request, connections, 100, false);
            let before = running.cpu();
            let run = load::run(
                running.addr,
                &request,
                connections,
                total / connections,
                false,
            );
            let cpu = running.cpu() - before;
            b.complain(n, &name, run.failed);
            for (what, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                b.note(&format!("{name}: {what}"), "µs", n, run.percentile(share));
            }
            let rate = run.latencies.len() as f64 / run.took.as_secs_f64();
            b.note(&format!("{name}: requests"), "/s", n, rate);
            if !b.proxies[n].is_direct() {
                b.note(
                    &format!("{name}: CPU a request"),
                    "µs",
                    n,
                    cpu / total as f64,
                );
            }
        });
    }

    /// What does not depend on how busy the machine is: the difference of two runs.
    fn counts(&mut self) {
        if !self.wanted("count") {
            return;
        }
        self.count_turns("", &self.wish());
        let tools = [
            (
                Under::Callgrind,
                "valgrind",
                "count: user instructions a request",
            ),
            (Under::Strace, "strace", "count: system calls a request"),
        ];
        for (under, tool, what) in tools {
            if !has(tool) {
                eprintln!("bench: no {tool}, so no figure for {what}");
                continue;
            }
            for n in 0..self.proxies.len() {
                let proxy = self.proxies[n].clone();
                if proxy.is_direct() || (self.quick && !proxy.is_alvus()) {
                    continue;
                }
                let counted = [200, 1200].map(|requests| {
                    let running = self.start(&proxy, &self.wish(), under)?;
                    let request = question("/v1/chat/completions");
                    let run = load::run(running.addr, &request, 1, requests, false);
                    self.complain(n, what, run.failed);
                    running.counted(under)
                });
                if let [Some(few), Some(many)] = counted {
                    self.note(what, "", n, (many - few) / 1000.0);
                }
            }
        }
    }

    /// An agent's turn and its upload alone, counted likewise, whatever is on the way up.
    fn count_turns(&mut self, over: &str, wish: &Wish) {
        if !has("valgrind") {
            return;
        }
        let turn = conversation(&format!("/v1/turn/{TOKENS}"), true);
        let upload = conversation("/v1/up", false);
        for n in 0..self.proxies.len() {
            let proxy = self.proxies[n].clone();
            if proxy.is_direct() || (self.quick && !proxy.is_alvus()) {
                continue;
            }
            let mut count = |what: &str, run: &dyn Fn(SocketAddr, usize) -> usize| {
                let counted = [2, 12].map(|times| {
                    let running = self.start(&proxy, wish, Under::Callgrind)?;
                    let failed = run(running.addr, times);
                    self.complain(n, what, failed);
                    running.counted(Under::Callgrind)
                });
                if let [Some(few), Some(many)] = counted {
                    self.note(what, "", n, (many - few) / 10.0);
                }
            };
            count(
                &format!("count: user instructions a turn{over}"),
                &|to, times| load::turns(to, &turn, 1, times),
            );
            count(
                &format!("count: user instructions a turn's upload{over}"),
                &|to, times| load::run(to, &upload, 1, times, false).failed,
            );
        }
    }

    /// What an agent does all day: 200 kB of conversation up, 500 tokens down.
    fn turns(&mut self, tls: Option<SocketAddr>) {
        if tls.is_none() && !self.wanted("turn") {
            return;
        }
        let (over, wish) = match tls {
            None => ("", self.wish()),
            Some(upstream) => {
                let wish = self.wish();
                let tls = true;
                (
                    "tls, ",
                    Wish {
                        upstream,
                        tls,
                        ..wish
                    },
                )
            }
        };
        let turn = conversation(&format!("/v1/turn/{TOKENS}"), true);
        let upload = conversation("/v1/up", false);
        for at_a_time in [1, 8] {
            let name = format!("{over}turn-{at_a_time}");
            let (each, uploads) = if self.quick { (2, 100) } else { (6, 500) };
            self.each(&wish, |b, n, running| {
                load::turns(running.addr, &turn, at_a_time, 1);
                let cpu = |running: &Running, what: &dyn Fn() -> usize| {
                    let before = running.cpu();
                    (what(), running.cpu() - before)
                };
                let (broken, took) = cpu(running, &|| {
                    load::turns(running.addr, &turn, at_a_time, each)
                });
                b.complain(n, &name, broken);
                let (failed, alone) = cpu(running, &|| {
                    load::run(running.addr, &upload, at_a_time, uploads, false).failed
                });
                b.complain(n, &name, failed);
                if !b.proxies[n].is_direct() {
                    let turns = (at_a_time * each) as f64;
                    b.note(&format!("{name}: CPU a turn"), "µs", n, took / turns);
                    let alone = alone / (at_a_time * uploads) as f64;
                    b.note(&format!("{name}: CPU its upload alone"), "µs", n, alone);
                    b.note(&format!("{name}: RssAnon"), "KiB", n, running.anonymous());
                }
            });
        }
    }

    /// Many more requests than may be under way at a time.
    fn waiters(&mut self) {
        if !self.wanted("wait") {
            return;
        }
        const WAITERS: usize = 240;
        let request = question("/v1/slow");
        let each = if self.quick { 1 } else { 4 };
        self.each(&self.wish(), |b, n, running| {
            if !b.proxies[n].is_alvus() {
                return;
            }
            load::run(running.addr, &question("/v1/warm"), WAITERS, 1, false);
            let before = (running.cpu(), running.switches());
            let (failed, switches) = thread::scope(|scope| {
                let run = || load::run(running.addr, &request, WAITERS, each, false).failed;
                let asking = scope.spawn(run);
                // The threads are gone with their connections: they are asked before that.
                let mut switches = before.1;
                while !asking.is_finished() {
                    switches = running.switches().max(switches);
                    thread::sleep(Duration::from_millis(20));
                }
                (asking.join().expect("the waiters"), switches)
            });
            let requests = (WAITERS * each) as f64;
            b.complain(n, "wait", failed);
            let cpu = (running.cpu() - before.0) / requests;
            b.note("wait: 240 at a time: CPU a request", "µs", n, cpu);
            let switches = (switches - before.1).max(0.0) / requests;
            b.note("wait: 240 at a time: switches a request", "", n, switches);
        });
    }

    fn new_connections(&mut self) {
        if !self.wanted("fresh") {
            return;
        }
        let total = if self.quick { 1_000 } else { 4_000 };
        let request = question("/v1/chat/completions");
        self.each(&self.wish(), |b, n, running| {
            let before = running.cpu();
            let run = load::run(running.addr, &request, 1, total, true);
            let cpu = running.cpu() - before;
            b.complain(n, "fresh", run.failed);
            b.note("fresh connections: p50", "µs", n, run.percentile(0.5));
            if !b.proxies[n].is_direct() {
                b.note(
                    "fresh connections: CPU a request",
                    "µs",
                    n,
                    cpu / total as f64,
                );
            }
        });
    }

    fn tokens(&mut self, streams: usize) {
        let name = format!("stream-{streams}");
        if !self.wanted(&name) {
            return;
        }
        let tokens: u32 = if self.quick { 40 } else { 80 };
        let wish = Wish {
            streams,
            ..self.wish()
        };
        self.each(&wish, |b, n, running| {
            let before = running.cpu();
            let epoch = b.epoch;
            let ((delays, broken), (rss, threads)) = thread::scope(|scope| {
                let reading = scope.spawn(|| load::streams(running.addr, streams, tokens, epoch));
                thread::sleep(mock::TOKEN_GAP * tokens / 2);
                let memory = (running.rss(), running.threads());
                (reading.join().expect("the readers"), memory)
            });
            let cpu = running.cpu() - before;
            b.complain(n, &name, broken);
            b.note(
                &format!("{name}: token delay p50"),
                "µs",
                n,
                percentile(&delays, 0.5),
            );
            b.note(
                &format!("{name}: token delay p99"),
                "µs",
                n,
                percentile(&delays, 0.99),
            );
            if !b.proxies[n].is_direct() {
                b.note(
                    &format!("{name}: CPU a token"),
                    "µs",
                    n,
                    cpu / delays.len().max(1) as f64,
                );
                b.note(&format!("{name}: RSS"), "KiB", n, rss);
                b.note(&format!("{name}: threads"), "", n, threads);
            }
        });
    }

    fn large(&mut self) {
        if !self.wanted("large") {
            return;
        }
        let up = |mb: usize| request("/v1/up", &vec![b'x'; mb << 20]);
        // alvus takes 32 MiB unless told otherwise; the 50 MB body is for whoever takes it.
        let bodies = [(5, up(5)), (30, up(30))];
        self.each(&self.wish(), |b, n, running| {
            let mut rate = |what: &str, bytes: usize, request: &[u8]| {
                let mut client = Connection::open(running.addr).expect("a connection");
                let _ = client.ask(&question("/v1/warm"));
                let began = Instant::now();
                let asked = client.ask(request);
                let took = began.elapsed().as_secs_f64();
                match asked {
                    Ok((200, _)) => b.note(what, "MB/s", n, bytes as f64 / 1e6 / took),
                    failed => eprintln!("bench: {}: {what}: {failed:?}", b.proxies[n].name),
                }
            };
            rate("large: 50 MB down", DOWN, &question("/v1/down"));
            for (mb, body) in &bodies {
                rate(&format!("large: {mb} MB up"), mb << 20, body);
            }
        });
    }

    fn many_keys(&mut self) {
        if !self.wanted("keys") {
            return;
        }
        let total = if self.quick { 2_000 } else { 6_000 };
        let request = question("/v1/chat/completions");
        for _ in 0..self.rounds {
            for keys in [3, 1_000, 10_000] {
                for n in 0..self.proxies.len() {
                    let proxy = self.proxies[n].clone();
                    if !proxy.is_alvus() {
                        continue;
                    }
                    let wish = Wish {
                        keys,
                        ..self.wish()
                    };
                    let Some(running) = self.start(&proxy, &wish, Under::Nothing) else {
                        continue;
                    };
                    let first = running.first_answer.as_secs_f64() * 1e3;
                    self.note(
                        &format!("keys-{keys}: start to first answer"),
                        "ms",
                        n,
                        first,
                    );
                    load::run(running.addr, &request, 1, 100, false);
                    let before = running.cpu();
                    let run = load::run(running.addr, &request, 1, total, false);
                    let cpu = (running.cpu() - before) / total as f64;
                    self.note(&format!("keys-{keys}: p50"), "µs", n, run.percentile(0.5));
                    self.note(&format!("keys-{keys}: CPU a request"), "µs", n, cpu);
                    self.note(&format!("keys-{keys}: RSS"), "KiB", n, running.rss());
                }
            }
        }
    }

    /// The first thousands of requests, and those after 100 000.
    fn later(&mut self) {
        if !self.wanted("later") {
            return;
        }
        let request = question("/v1/chat/completions");
        for n in 0..self.proxies.len() {
            let proxy = self.proxies[n].clone();
            if proxy.is_direct() {
                continue;
            }
            let Some(running) = self.start(&proxy, &self.wish(), Under::Nothing) else {
                continue;
            };
            let measured = |b: &mut Bench, when: &str| {
                let before = running.cpu();
                let run = load::run(running.addr, &request, 8, 1_000, false);
                let cpu = (running.cpu() - before) / 8_000.0;
                b.complain(n, "later", run.failed);
                b.note(&format!("later: CPU a request, {when}"), "µs", n, cpu);
                b.note(&format!("later: RSS, {when}"), "KiB", n, running.rss());
                b.note(
                    &format!("later: RssAnon, {when}"),
                    "KiB",
                    n,
                    running.anonymous(),
                );
            };
            measured(self, "at first");
            load::run(running.addr, &request, 8, 12_500, false);
            measured(self, "after 100 000");
        }
    }

    fn tls(&mut self) {
        if !self.wanted("tls") {
            return;
        }
        let upstream = match TlsUpstream::start(self.mock.addr, &self.dir.join("tls")) {
            Ok(upstream) => upstream,
            Err(e) => return eprintln!("bench: no TLS upstream: {e}"),
        };
        self.turns(Some(upstream.kept));
        let over_tls = Wish {
            upstream: upstream.kept,
            tls: true,
            ..self.wish()
        };
        self.count_turns(" over TLS", &over_tls);
        let request = question("/v1/chat/completions");
        let kinds = [
            ("kept connection", upstream.kept, 4_000),
            ("resumed handshake", upstream.resumed, 400),
            ("full handshake", upstream.full, 400),
        ];
        for (kind, addr, total) in kinds {
            let wish = Wish {
                upstream: addr,
                tls: true,
                ..self.wish()
            };
            self.each(&wish, |b, n, running| {
                load::run(running.addr, &request, 1, 20, false);
                let before = running.cpu();
                let run = load::run(running.addr, &request, 1, total, false);
                let cpu = (running.cpu() - before) / total as f64;
                b.complain(n, kind, run.failed);
                b.note(&format!("tls, {kind}: p50"), "µs", n, run.percentile(0.5));
                b.note(&format!("tls, {kind}: CPU a request"), "µs", n, cpu);
                if addr == upstream.kept {
                    let began = Instant::now();
                    let down = Connection::open(running.addr)
                        .and_then(|mut c| c.ask(&question("/v1/down")));
                    if let Ok((200, _)) = down {
                        let rate = DOWN as f64 / 1e6 / began.elapsed().as_secs_f64();
                        b.note("tls: 50 MB down", "MB/s", n, rate);
                    }
                }
            });
        }
    }

    /// More clients than the keys' limits allow: ten keys of 20 requests in 5 s are 40 a second.
    fn storm(&mut self) {
        if !self.wanted("storm") {
            return;
        }
        const KEYS: usize = 10;
        let windows = 4;
        for n in 0..self.proxies.len() {
            let proxy = self.proxies[n].clone();
            if !proxy.is_alvus() {
                continue;
            }
            let wish = Wish {
                keys: KEYS,
                ..self.wish()
            };
            let Some(running) = self.start(&proxy, &wish, Under::Nothing) else {
                continue;
            };
            self.mock.calm();
            let began = Instant::now();
            let until = began + STORM_WINDOW * windows;
            let request = question("/v1/storm");
            let answers: Vec<Stormy> = in_threads(24, |_| {
                let mut client = Connection::open(running.addr).expect("a connection");
                let mut answers = Vec::new();
                while Instant::now() < until {
                    let at = Instant::now();
                    let asked = client.ask(&request);
                    answers.push(Stormy {
                        good: matches!(asked, Ok((200, _))),
                        took: at.elapsed(),
                        at: Instant::now(),
                    });
                }
                answers
            })
            .concat();
            let good = answers.iter().filter(|a| a.good).count();
            self.complain(n, "storm", answers.len() - good);
            // What comes later belongs to windows that nobody uses up.
            let in_time = answers.iter().filter(|a| a.good && a.at < until).count();
            let possible = windows as usize * KEYS * STORM_LIMIT;
            let share = in_time as f64 / possible as f64 * 100.0;
            self.note("storm: of what the limits allow", "%", n, share);
            let refused = self.mock.refused() as f64 / good.max(1) as f64;
            self.note("storm: refused a success", "", n, refused);
            let slowest = answers.iter().map(|a| a.took).max().unwrap_or_default();
            self.note("storm: slowest answer", "s", n, slowest.as_secs_f64());
        }
    }

    fn table(&self) -> String {
        let mut out = String::from("| |");
        for proxy in &self.proxies {
            let _ = write!(out, " {} |", proxy.name);
        }
        let reference = self.proxies.iter().position(|p| p.name == "nginx");
        if reference.is_some() {
            out += " alvus : nginx |";
        }
        out += "\n|---|";
        out += &"--:|".repeat(self.proxies.len() + usize::from(reference.is_some()));
        for figure in &self.figures {
            let _ = write!(
                out,
                "\n| {}{} |",
                figure.what,
                match figure.unit {
                    "" => String::new(),
                    unit => format!(", {unit}"),
                }
            );
            let medians: Vec<Option<f64>> = figure.values.iter().map(|v| median(v)).collect();
            for value in &medians {
                let _ = write!(out, " {} |", value.map_or("–".into(), short));
            }
            if let Some(reference) = reference {
                match (medians[1], medians[reference]) {
                    (Some(ours), Some(theirs)) if theirs > 0.0 => {
                        let _ = write!(out, " {:.2} |", ours / theirs);
                    }
                    _ => out += " – |",
                }
            }
        }
        out
    }

    /// All figures of all rounds, for later.
    fn save(&self) -> std::io::Result<PathBuf> {
        let target = option_env!("CARGO_TARGET_TMPDIR").map_or("target/tmp".into(), PathBuf::from);
        let dir = target.with_file_name("bench");
        fs::create_dir_all(&dir)?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
            .map_or("?", |(_, name)| name.trim());
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let mut json = format!(
            "{{\"at\":{now},\"machine\":{:?},\"cores\":{cores},\"figures\":[",
            cpu
        );
        for (i, figure) in self.figures.iter().enumerate() {
            let _ = write!(
                json,
                "{}\n{{\"what\":{:?},\"unit\":{:?},\"values\":{{",
                if i > 0 { "," } else { "" },
                figure.what,
                figure.unit
            );
            let values = self
                .proxies
                .iter()
                .zip(&figure.values)
                .filter(|(_, v)| !v.is_empty());
            for (n, (proxy, values)) in values.enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(json, "{comma}{:?}:{values:?}", proxy.name);
            }
            json += "}}";
        }
        json += "\n]}\n";
        let path = dir.join(format!("{now}.json"));
        fs::write(&path, json)?;
        Ok(path)
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn short(value: f64) -> String {
    match value {
        v if v.abs() >= 1000.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
