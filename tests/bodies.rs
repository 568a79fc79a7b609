//! Request bodies: buffered once, bounded, replayed byte for byte.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::net::Shutdown;

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

const CHUNKED: &str = "POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// In chunks of unlike sizes, without the last, empty one.
fn in_chunks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(70_001) {
        out.extend(format!("{:X}\r\n", piece.len()).as_bytes());
        out.extend(piece);
        out.extend(b"\r\n");
    }
    out
}

#[test]
fn a_chunked_body_of_exactly_the_limit_passes_byte_for_byte() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let body = noise(MIB);
    let mut client = alvus.connect();
    client.send(CHUNKED);
    client.send(in_chunks(&body));
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert!(upstream.seen()[0].body == body);
}

#[test]
fn a_chunked_body_is_refused_at_its_first_byte_too_many() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut client = alvus.connect();
    client.send(CHUNKED);
    client.send(in_chunks(&noise(MIB + 1))); // and more may come, for all that alvus knows
    let refused = client.response();
    assert_eq!(
        (refused.status, refused.field("connection")),
        (413, Some("close"))
    );
    assert!(upstream.seen().is_empty());
}

#[test]
fn chunk_extensions_and_trailers_are_no_part_of_the_body() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(CHUNKED);
    client.send("5;name=value\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.send(post(2));
    client.send("hi");
    assert_eq!(
        client.response().status,
        200,
        "the connection goes on behind the trailers"
    );
    let bodies: Vec<Vec<u8>> = upstream.seen().into_iter().map(|s| s.body).collect();
    assert_eq!(bodies, [&b"hello"[..], b"hi"]);
    assert_eq!(upstream.seen()[0].field("x-sum"), None);
}

#[test]
fn a_client_that_still_sends_can_read_why_its_body_was_refused() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let heads = [CHUNKED.to_string(), post(64 * MIB)];
    for head in heads {
        let mut client = alvus.connect();
        let mut sender = client.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let _ = sender.write_all(head.as_bytes());
            let piece = chunk(&"x".repeat(64 * 1024));
            // Until the connection breaks.
            while sender.write_all(piece.as_bytes()).is_ok() {}
        });
        let refused = client.response();
        assert_eq!((refused.status, refused.whole), (413, true));
        assert_eq!(refused.json()["error"]["code"], "body_too_large");
        client.stream.shutdown(Shutdown::Both).unwrap();
        sending.join().unwrap();
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_client_that_reads_only_when_all_is_sent_can_read_why_it_was_refused() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(
        &upstream,
        &[
            ("MAX_BODY_MB", "1"),
            ("CLIENT_KEYS", "laptop:let-me-in-0123456789"),
        ],
    );
    let with_key = "Host: a\r\nAuthorization: Bearer let-me-in-0123456789";
    for (status, head) in [
        (401, post(24 * MIB)),
        (413, post(24 * MIB).replace("Host: a", with_key)),
    ] {
        let mut client = alvus.connect();
        client.send(head);
        // more than any socket's buffers, in pieces as clients send them
        for _ in 0..24 {
            client.send(vec![b'x'; MIB]);
        }
        let refused = client.response();
        assert_eq!((refused.status, refused.whole), (status, true));
        assert!(client.ended(), "and that was it");
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_client_that_asks_first_is_told_at_once_that_its_body_is_too_large() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut client = alvus.connect();
    client.send(post(MIB + 1).replace("Host: a", "Host: a\r\nExpect: 100-continue"));
    assert_eq!(client.head().status, 413, "and not 100");
}

#[test]
fn a_client_that_does_not_wait_for_its_continue_is_answered_too() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    let chunked = CHUNKED.replace("Host: a", "Host: a\r\nExpect: 100-continue");
    for (head, body) in [
        (
            post(5).replace("Host: a", "Host: a\r\nExpect: 100-continue"),
            "hello",
        ),
        (chunked, "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        client.send(head + body);
        assert_eq!(client.response().status, 200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(
            (seen.body.as_slice(), seen.field("expect")),
            (&b"hello"[..], None)
        );
    }
}

#[test]
fn a_body_that_ends_early_is_dropped_with_its_connection() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    // A connection is kept on which a part of a body could go up at once.
    let mut client = alvus.connect();
    for target in ["/v1/models", "/health"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.response().status, 200);
    }
    let beginnings = [
        post(10) + "five!",
        post(MIB) + "five!",
        CHUNKED.to_string() + "5\r\nfive!\r\n",
        CHUNKED.to_string() + "a\r\nfive!",
    ];
    for beginning in beginnings {
        let mut client = alvus.connect();
        client.send(&beginning);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert!(client.ended(), "{beginning}");
    }
    assert_eq!(upstream.seen().len(), 1, "only the first request went up");
}

#[test]
fn a_body_that_was_refused_or_cut_short_gives_its_budget_back() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "1")]);
    let mut refused = alvus.connect();
    refused.send(CHUNKED);
    refused.send(in_chunks(&noise(MIB + 1)));
    assert_eq!(refused.response().status, 413);
    let mut cut = alvus.connect();
    cut.send(post(MIB));
    cut.send(noise(MIB / 2));
    cut.stream.shutdown(Shutdown::Write).unwrap();
    assert!(cut.ended());
    let mut client = alvus.connect();
    for _ in 0..2 {
        client.send(post(MIB));
        client.send(noise(MIB));
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_small_request_passes_beside_a_large_one() {
    let (open, opened) = gate();
    let opened = std::sync::Mutex::new(Some(opened));
    let upstream = Upstream::new(move |seen| match seen.body.len() {
        MIB => {
            let opened = opened.lock().unwrap().take().expect("asked once only");
            Act::Do(Box::new(move |stream| {
                opened.recv().unwrap();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }))
        }
        _ => ok(),
    });
    let alvus = Alvus::before_with(&upstream, &[("MAX_BODY_MB", "2")]);
    let mut large = alvus.connect();
    large.send(post(MIB));
    large.send(noise(MIB));
    upstream.wait_for(1);
    assert_eq!(alvus.ask().status, 200);
    open.send(()).unwrap();
    assert_eq!(large.response().status, 200);
}

#[test]
fn a_chunked_body_is_replayed_identically_on_the_next_keys() {
    let upstream = Upstream::scripted(vec![
        answer(429, "", "slow down"),
        answer(401, "", "who?"),
        ok(),
    ]);
    let alvus = Alvus::before(&upstream);
    let body = noise(300_000);
    let mut client = alvus.connect();
    client.send(CHUNKED);
    client.send(in_chunks(&body));
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen = upstream.seen();
    assert!(
        seen.iter()
            .all(|s| s.body == body && s.field("content-length") == Some("300000"))
    );
    assert_eq!(
        seen.iter().map(|s| s.key_index()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
}
