//! Request bodies: buffered once, bounded, replayed byte for byte.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Act, Alvus, Upstream, answer, chunk, gate, ok};

const MIB: usize = 1024 * 1024;

/// Bytes that repeat late, so that a piece lost or doubled shows.
fn noise(n: usize) -> Vec<u8> {
    (0..n as u64)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn post(length: usize) -> String {
    format!("POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

#[test]
fn a_chunked_upload_goes_up_whole_and_with_a_length() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunk("one ") + &chunk("two ") + &chunk("three") + "0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen = upstream.seen().pop().unwrap();
    assert_eq!(seen.body, b"one two three");
    assert_eq!(seen.all("content-length"), [b"13"]);
}

#[test]
fn a_large_body_arrives_byte_for_byte_and_again_on_the_next_key() {
    let upstream = Upstream::scripted(vec![answer(429, "", "slow down"), ok()]);
    let alvus = Alvus::before(&upstream);
    let body = noise(3 * MIB + 17);
    let mut client = alvus.connect();
    client.send(post(body.len()));
    client.send(&body);
    assert_eq!(client.response().status, 200);
    let seen = upstream.seen();
    assert_ne!(seen[0].key, seen[1].key);
    assert!(seen[0].body == body && seen[1].body == body);
}

#[test]
fn an_empty_body_goes_up_as_such_and_no_body_as_none() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(post(0));
    assert_eq!(client.response().status, 200);
    client.send("GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen = upstream.seen();
    assert_eq!(seen[0].field("content-length"), Some("0"));
    assert_eq!(seen[1].field("content-length"), None);
}

#[test]
fn a_client_that_expects_100_continue_is_told_to_continue() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(client.line(), "HTTP/1.1 100 Continue");
    assert_eq!(client.line(), "");
    client.send("hello");
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.seen()[0].field("expect"), None);
}

#[test]
fn a_declared_length_beyond_the_limit_is_refused_before_the_body_is_sent() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    for length in [
        (MIB + 1).to_string(),
        "4294967297".into(),
        "9000000000000".into(),
    ] {
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ));
        let refused = client.response();
        assert_eq!(
            (refused.status, refused.field("connection")),
            (413, Some("close"))
        );
        assert!(
            refused.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("MAX_BODY_MB")
        );
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_chunked_body_that_grows_beyond_the_limit_is_refused() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut client = alvus.connect();
    client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let piece = chunk(&"x".repeat(64 * 1024));
    for _ in 0..17 {
        client.send(&piece);
    }
    assert_eq!(client.response().status, 413);
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_body_of_exactly_the_limit_passes() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut client = alvus.connect();
    client.send(post(MIB));
    client.send(noise(MIB));
    assert_eq!(client.response().status, 200);
}

#[test]
fn bodies_share_one_budget_and_give_it_back() {
    let (open, opened) = gate();
    let opened = std::sync::Mutex::new(Some(opened));
    let upstream = Upstream::new(move |_| match opened.lock().unwrap().take() {
        Some(opened) => Act::Do(Box::new(move |stream| {
            opened.recv().unwrap();
            let _ =
                std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        })),
        None => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut first = alvus.connect();
    first.send(post(MIB));
    first.send(noise(MIB));
    upstream.wait_for(1); // held by the gate, and its body with it
    let mut second = alvus.connect();
    second.send(post(MIB));
    let refused = second.response();
    assert_eq!(refused.status, 503);
    assert!(refused.field("retry-after").is_some());
    open.send(()).unwrap();
    assert_eq!(first.response().status, 200);
    let mut third = alvus.connect();
    third.send(post(MIB));
    third.send(noise(MIB));
    assert_eq!(third.response().status, 200);
}

#[test]
fn a_body_cut_short_is_not_sent_up() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(post(1000));
    client.send("only this");
    client.leave();
    let mut client = alvus.connect();
    client.send("POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_eq!(
        client.response().status,
        400,
        "a chunk size that is no number"
    );
    assert_eq!(alvus.ask().status, 200);
    assert_eq!(upstream.seen().len(), 1, "only the last one went up");
}
