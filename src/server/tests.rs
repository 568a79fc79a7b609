//! A bug costs one request.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// A bug on demand. There is no other way to a panic: one that was known would be mended.
pub(super) fn bug_at(target: &str, place: &str) {
    assert!(target != place, "a bug on demand, for a test");
}

fn ask(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("send");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer, or the end");
    answer
}

#[test]
fn a_bug_costs_one_request() {
    // an upstream that refuses every connection
    let nobody = TcpListener::bind("127.77.0.2:0").and_then(|l| l.local_addr());
    let target = format!("http://{}/v1", nobody.expect("an address"));
    let settings = [
        ("API_KEYS", "test-key-never-shown-aaaa1111"),
        ("TARGET_BASE_URL", &target),
        ("PORT", "0"),
        ("WORKERS", "1"),
        ("MAX_WAIT_SEC", "0"),
    ];
    let loaded = Config::parse(None, settings, &[]).expect("valid");
    let relay = Relay::new(&loaded.config).expect("a relay");
    let server = Server::start(&loaded.config, relay).expect("a server");
    let addr = server.addr().expect("an address");
    for _ in 0..5 {
        let early = ask(addr, "/bug/early");
        assert!(early.starts_with("HTTP/1.1 500 "), "{early}");
        assert_eq!(
            ask(addr, "/bug/late"),
            "",
            "nothing that looks like an answer"
        );
        let served = ask(addr, "/v1/models");
        assert!(served.starts_with("HTTP/1.1 503 "), "{served}");
        // its thread may be a moment behind its answer
        let since = Instant::now();
        while server.in_flight() > 0 {
            assert!(since.elapsed() < Duration::from_secs(10), "it has left");
            std::thread::yield_now();
        }
    }
}
