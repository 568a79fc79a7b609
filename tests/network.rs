//! A network between alvus and the upstream that goes away and comes back: what the client sees,
//! what the pool records, how soon all is well again.
//!
//! Each test runs `alone`, in a network of its own, where the upstream has an address that can be
//! taken away.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::Command;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, SSE_HEAD, TempDir, Upstream, alone, chunk, dead_addr,
    eventually, gate, ip, ok,
};

// Addresses for tests (RFC 2544).
const UPSTREAM: &str = "198.18.0.1";
const OURS: &str = "198.18.0.2";
/// How long the network is away.
const AWAY: Duration = Duration::from_secs(2);
/// TCP repeats what was lost after 0.2, 0.6, 1.4, 3 s: so long after an [`AWAY`] all is there.
const RECOVERY: Duration = Duration::from_secs(5);

/// The way to the upstream: here at first, and a link that leads nowhere.
fn link() {
    // What comes out at the other end is addressed to nobody there.
    ip("link add nowhere type veth peer name beyond");
    ip("link set beyond up");
    ip("link set nowhere arp off up");
    ip(&format!("address add {OURS}/32 dev nowhere"));
    ip(&format!("address add {UPSTREAM}/32 dev lo"));
}

/// From now on whatever goes to or comes from the upstream is lost without a word.
fn lose() {
    ip(&format!("route add {UPSTREAM} dev nowhere src {OURS}"));
    ip(&format!("route del local {UPSTREAM} table local"));
}

/// From now on there is no way to the upstream, and the kernel says so.
fn unplug() {
    ip(&format!("route del local {UPSTREAM} table local"));
}

/// The network is back.
fn mend() {
    ip("route flush table main");
    ip(&format!(
        "route add local {UPSTREAM} dev lo table local src {UPSTREAM}"
    ));
}

fn upstream(behaviour: impl Fn() -> Act + Send + Sync + 'static) -> Upstream {
    static LINKED: Once = Once::new();
    LINKED.call_once(link);
    Upstream::at(format!("{UPSTREAM}:0").parse().unwrap(), move |_| {
        behaviour()
    })
}

fn before(upstream: &Upstream, more: &[(&str, &str)]) -> Alvus {
    let mut env = vec![
        ("API_KEYS", KEYS[0]),
        ("MAX_WAIT_SEC", "0"),
        ("CONNECT_TIMEOUT_SEC", "1"),
    ];
    env.retain(|(name, _)| more.iter().all(|(n, _)| n != name));
    env.extend_from_slice(more);
    Alvus::before_with(upstream, &env)
}

/// No key is blamed, and the next request is answered, soon.
fn recovers(alvus: &Alvus) {
    let back = Instant::now();
    assert_eq!(alvus.states(), ["ready"], "no key is to blame");
    let response = alvus.ask();
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());
    eventually("nothing is left", || alvus.health()["in_flight"] == 0);
    assert_eq!(alvus.states(), ["ready"]);
}

/// An upstream that begins its first answer with `begin` and ends it with `end`, when it is told to.
fn halting(begin: String, end: String) -> (Upstream, Sender<()>) {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = upstream(move || match gone.lock().unwrap().take() {
        Some(gone) => {
            let (begin, end) = (begin.clone(), end.clone());
            Act::Do(Box::new(move |stream| {
                let _ = stream.write_all(begin.as_bytes());
                let _ = gone.recv_timeout(PATIENCE);
                let _ = stream.write_all(end.as_bytes());
            }))
        }
        None => ok(),
    });
    (upstream, go)
}

fn halting_stream() -> (Upstream, Sender<()>) {
    halting(
        format!("{SSE_HEAD}{}", chunk("data: 1\n\n")),
        format!("{}0\r\n\r\n", chunk("data: 2\n\n")),
    )
}

/// A request whose stream has begun.
fn streaming(alvus: &Alvus) -> Client {
    let mut client = alvus.connect();
    client.send(CHAT);
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    client
}

#[test]
fn a_stream_goes_on_after_the_network_was_away() {
    alone("a_stream_goes_on_after_the_network_was_away", || {
        for away in [lose, unplug] {
            let (upstream, go) = halting_stream();
            let alvus = before(&upstream, &[]);
            let mut client = streaming(&alvus);
            away();
            go.send(()).unwrap();
            thread::sleep(AWAY);
            mend();
            let back = Instant::now();
            assert_eq!(client.chunk().unwrap().unwrap(), b"data: 2\n\n");
            assert_eq!(client.chunk().unwrap(), None);
            assert!(back.elapsed() < RECOVERY, "{:?}", back.elapsed());
            recovers(&alvus);
            assert_eq!(upstream.seen().len(), 2);
        }
    });
}

#[test]
fn a_stream_that_has_gone_silent_ends_with_an_error() {
    alone("a_stream_that_has_gone_silent_ends_with_an_error", || {
        let (upstream, _go) = halting_stream();
        let alvus = before(&upstream, &[("IDLE_TIMEOUT_SEC", "1")]);
        let mut client = streaming(&alvus);
        lose();
        let last = client.chunk().unwrap().expect("an error event");
        assert!(String::from_utf8_lossy(&last).contains("stream_truncated"));
        mend();
        recovers(&alvus);
    });
}

#[test]
fn an_answer_is_waited_for_while_the_network_is_away() {
    alone("an_answer_is_waited_for_while_the_network_is_away", || {
        for away in [lose, unplug] {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            let (upstream, go) = halting(String::new(), answer.into());
            let alvus = before(&upstream, &[]);
            let mut client = alvus.connect();
            client.send(CHAT);
            upstream.wait_for(1);
            away();
            go.send(()).unwrap();
            thread::sleep(AWAY);
            mend();
            assert_eq!(client.response().status, 200);
            assert_eq!(upstream.seen().len(), 1, "asked once");
            recovers(&alvus);
        }
    });
}

#[test]
fn a_request_that_is_lost_on_a_kept_connection_times_out_and_is_not_repeated() {
    alone(
        "a_request_that_is_lost_on_a_kept_connection_times_out_and_is_not_repeated",
        || {
            let upstream = upstream(ok);
            let alvus = before(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
            assert_eq!(alvus.ask().status, 200); // its connection is kept
            lose();
            let response = alvus.ask();
            assert_eq!(response.status, 504, "{}", response.text());
            assert_eq!(response.json()["error"]["code"], "upstream_timeout");
            let key = alvus.health()["key_status"][0].clone();
            assert_eq!(key["failures"]["no_answer"], 1, "{key}");
            assert_eq!(upstream.seen().len(), 1);
            mend();
            recovers(&alvus);
        },
    );
}

#[test]
fn an_outage_while_nothing_happens_is_not_noticed() {
    alone("an_outage_while_nothing_happens_is_not_noticed", || {
        for away in [lose, unplug] {
            let upstream = upstream(ok);
            let alvus = before(&upstream, &[]);
            assert_eq!(alvus.ask().status, 200);
            away();
            thread::sleep(AWAY);
            mend();
            recovers(&alvus);
            let connections: Vec<usize> = upstream.seen().iter().map(|s| s.connection).collect();
            assert_eq!(connections, [0, 0], "the kept connection still serves");
            assert!(!alvus.log().contains("warn"), "{}", alvus.log());
        }
    });
}

#[test]
fn a_network_that_swallows_everything_is_an_upstream_that_cannot_be_reached() {
    alone(
        "a_network_that_swallows_everything_is_an_upstream_that_cannot_be_reached",
        || cannot_be_reached(lose, "no answer in time"),
    );
}

#[test]
fn a_network_that_is_not_there_is_an_upstream_that_cannot_be_reached() {
    alone(
        "a_network_that_is_not_there_is_an_upstream_that_cannot_be_reached",
        || cannot_be_reached(unplug, "unreachable"),
    );
}

fn cannot_be_reached(away: fn(), words: &str) {
    let upstream = upstream(ok);
    let alvus = before(&upstream, &[]);
    away();
    let response = alvus.ask();
    let error = &response.json()["error"];
    assert_eq!(response.status, 503, "{error}");
    assert_eq!(error["code"], "upstream_unreachable");
    assert!(
        error["message"].as_str().unwrap().contains(words),
        "{error}"
    );
    let key = alvus.health()["key_status"][0].clone();
    assert_eq!(key["failures"]["no_answer"], 1, "{key}");
    mend();
    recovers(&alvus);
    eventually("the log tells of it", || {
        alvus.log().matches("could not reach").count() == 1
    });
}

#[test]
fn a_request_that_meets_no_network_goes_up_when_it_is_back() {
    alone(
        "a_request_that_meets_no_network_goes_up_when_it_is_back",
        || {
            let upstream = upstream(ok);
            let alvus = before(&upstream, &[("MAX_RETRIES", "0"), ("MAX_WAIT_SEC", "60")]);
            lose();
            let mut client = alvus.connect();
            client.send(CHAT);
            thread::sleep(AWAY);
            assert!(upstream.seen().is_empty(), "nothing gets through");
            mend();
            let back = Instant::now();
            assert_eq!(client.response().status, 200);
            assert!(back.elapsed() < RECOVERY * 2, "{:?}", back.elapsed());
            assert_eq!(upstream.seen().len(), 1, "it went up once");
            recovers(&alvus);
        },
    );
}

// ---- several addresses --------------------------------------------------------------------------

/// What `/etc/hosts` says from now on, here only.
fn hosts(dir: &TempDir, text: &str) {
    says(dir, "/etc/hosts", text);
}

/// What this file says from now on, here only.
fn says(dir: &TempDir, path: &str, text: &str) {
    let file = dir.write(&path.replace('/', "_"), text);
    if std::fs::read_to_string(path).unwrap() == text {
        return; // bound already, and this is the same file
    }
    let bound = Command::new("mount")
        .args(["--bind", file.to_str().unwrap(), path])
        .status();
    assert!(bound.unwrap().success());
}

/// How many connections were asked for in this network so far.
fn opened() -> u64 {
    let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "ActiveOpens").unwrap();
    value.parse().unwrap()
}

/// An upstream that wants a new connection for each request.
fn brusque(addr: &str) -> Upstream {
    Upstream::at(addr.parse().unwrap(), |_| {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        Act::SayAndClose(text.into())
    })
}

fn before_name(more: &[(&str, &str)]) -> Alvus {
    let mut env = vec![
        ("TARGET_BASE_URL", "http://provider.test:8080/v1"),
        ("API_KEYS", KEYS[0]),
        ("MAX_WAIT_SEC", "0"),
        ("CONNECT_TIMEOUT_SEC", "20"),
    ];
    env.retain(|(name, _)| more.iter().all(|(n, _)| n != name));
    env.extend_from_slice(more);
    Alvus::start(&env)
}

/// Of two addresses, the first is dead: the request that finds out pays for it, the others do not.
fn pays_once(alvus: &Alvus) {
    let begun = Instant::now();
    assert_eq!(alvus.ask().status, 200);
    // A quarter of a second; the dead one's share of CONNECT_TIMEOUT_SEC would be ten.
    assert!(begun.elapsed() < RECOVERY, "{:?}", begun.elapsed());
    for _ in 0..3 {
        let before = opened();
        assert_eq!(alvus.ask().status, 200);
        assert_eq!(opened() - before, 2, "ours to alvus, and one up");
    }
    assert_eq!(alvus.states(), ["ready"]);
}

#[test]
fn a_dead_ipv6_address_costs_a_quarter_of_a_second_and_only_once() {
    alone(
        "a_dead_ipv6_address_costs_a_quarter_of_a_second_and_only_once",
        || {
            let dir = TempDir::new();
            link();
            ip("address add 2001:db8::2/128 dev nowhere nodad");
            ip("route add 2001:db8::1 dev nowhere");
            hosts(
                &dir,
                &format!("2001:db8::1 provider.test\n{UPSTREAM} provider.test\n"),
            );
            let _upstream = brusque(&format!("{UPSTREAM}:8080"));
            pays_once(&before_name(&[]));
        },
    );
}

#[test]
fn a_dead_ipv4_address_costs_a_quarter_of_a_second_and_only_once() {
    alone(
        "a_dead_ipv4_address_costs_a_quarter_of_a_second_and_only_once",
        || {
            let dir = TempDir::new();
            link();
            lose();
            // A private address: resolvers put it behind those of IPv4 (RFC 6724 §2.1), glibc only
            // when it is told.
            ip("address add fd00::1/128 dev lo nodad");
            says(&dir, "/etc/gai.conf", "precedence ::ffff:0:0/96 100\n");
            hosts(
                &dir,
                &format!("fd00::1 provider.test\n{UPSTREAM} provider.test\n"),
            );
            let _upstream = brusque("[fd00::1]:8080");
            pays_once(&before_name(&[]));
        },
    );
}

#[test]
fn an_address_that_comes_late_is_not_given_up_for_the_next_one() {
    alone(
        "an_address_that_comes_late_is_not_given_up_for_the_next_one",
        || {
            let dir = TempDir::new();
            link();
            let upstream = brusque(&format!("{UPSTREAM}:8080"));
            lose();
            hosts(
                &dir,
                &format!(
                    "{UPSTREAM} provider.test\n198.18.0.7 provider.test\n198.18.0.8 provider.test\n"
                ),
            );
            ip("route add 198.18.0.7 dev nowhere");
            ip("route add 198.18.0.8 dev nowhere");
            let alvus = before_name(&[]);
            let mut client = alvus.connect();
            let before = opened();
            client.send(CHAT);
            eventually("all three are tried", || opened() - before == 3);
            mend(); // the kernel knocks once more, a second after the first time
            assert_eq!(client.response().status, 200);
            assert_eq!(upstream.seen().len(), 1);
        },
    );
}

#[test]
fn a_client_that_leaves_while_addresses_are_tried_ends_that() {
    alone(
        "a_client_that_leaves_while_addresses_are_tried_ends_that",
        || {
            let dir = TempDir::new();
            link();
            lose();
            hosts(
                &dir,
                &format!("{UPSTREAM} provider.test\n198.18.0.7 provider.test\n"),
            );
            ip("route add 198.18.0.7 dev nowhere");
            let alvus = before_name(&[("CONNECT_TIMEOUT_SEC", "300")]);
            let mut client = alvus.connect();
            let before = opened();
            client.send(CHAT);
            eventually("both are tried", || opened() - before == 2);
            client.leave();
            eventually("the request has ended", || alvus.health()["in_flight"] == 0);
        },
    );
}

// ---- over a reload ------------------------------------------------------------------------------

/// An alvus with its configuration in a file, to be changed.
fn from_file(dir: &TempDir, text: &str) -> Alvus {
    let path = dir.write("alvus.env", text);
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    Alvus::launch(&["--env-file", path.to_str().unwrap()], &[])
}

/// Changes the file and waits until that is taken in.
fn reload(alvus: &Alvus, dir: &TempDir, text: &str) {
    let before = alvus.log().matches("info: reloaded: ").count();
    dir.write("alvus.env", text);
    alvus.signal("HUP");
    eventually("it is taken in", || {
        alvus.log().matches("info: reloaded: ").count() > before
    });
}

#[test]
fn a_name_that_is_known_and_an_idle_connection_survive_a_reload() {
    alone(
        "a_name_that_is_known_and_an_idle_connection_survive_a_reload",
        || {
            let dir = TempDir::new();
            let upstream = Upstream::at("127.0.0.1:8080".parse().unwrap(), |_| ok());
            hosts(&dir, "127.0.0.1 provider.test\n");
            let target = "TARGET_BASE_URL=http://provider.test:8080/v1\nMAX_WAIT_SEC=0\n";
            let alvus = from_file(&dir, &format!("{target}API_KEYS={}\n", KEYS[0]));
            assert_eq!(alvus.ask().status, 200);
            // From now on nobody knows the name.
            let dead = dead_addr().ip();
            hosts(&dir, &format!("{dead} other.test\n"));
            reload(&alvus, &dir, &format!("{target}API_KEYS={}\n", KEYS[1]));
            assert_eq!(alvus.ask().status, 200, "{}", alvus.log());
            let last = || upstream.seen().last().unwrap().connection;
            assert_eq!(last(), 0, "the kept connection serves");
            // Another timeout is another way to connect, but no other name.
            let slower = format!("{target}API_KEYS={}\nCONNECT_TIMEOUT_SEC=3\n", KEYS[1]);
            reload(&alvus, &dir, &slower);
            assert_eq!(alvus.ask().status, 200, "{}", alvus.log());
            assert_eq!(last(), 1);
        },
    );
}
