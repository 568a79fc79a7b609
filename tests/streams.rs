//! Streams: nothing is held back, and nothing that broke off looks complete.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use common::{
    Act, Alvus, CHAT, Client, PATIENCE, SSE_HEAD, Upstream, answer, chunk, eventually, gate, ok,
};

/// An upstream that serves one request like this; what it is handed waits for the test's word.
fn once(serve: impl FnOnce(&mut TcpStream) + Send + 'static) -> Upstream {
    let serve = Mutex::new(Some(serve));
    Upstream::new(move |_| match serve.lock().unwrap().take() {
        Some(serve) => Act::Do(Box::new(serve)),
        None => answer(599, "", "asked twice"),
    })
}

fn say(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// Waits for the test's word, or for its end.
fn wait(gate: &Receiver<()>) {
    let _ = gate.recv_timeout(PATIENCE);
}

fn ask(alvus: &Alvus) -> Client {
    let mut client = alvus.connect();
    client.send(CHAT);
    client
}

/// Reads chunks to the end; whether there was a last one, and all of the text.
fn all_chunks(client: &mut Client) -> (bool, String) {
    let mut text = Vec::new();
    loop {
        match client.chunk() {
            Ok(Some(data)) => text.extend(data),
            Ok(None) => return (true, String::from_utf8(text).unwrap()),
            Err(_) => return (false, String::from_utf8(text).unwrap()),
        }
    }
}

#[test]
fn each_event_arrives_before_the_next_one_is_written() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, SSE_HEAD);
        for n in 0..3 {
            wait(&gone);
            say(stream, &chunk(&format!("data: {n}\n\n")));
        }
        wait(&gone);
        say(stream, "0\r\n\r\n");
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    for n in 0..3 {
        go.send(()).unwrap();
        if n == 0 {
            let head = client.head(); // before the second event is written
            assert_eq!(head.field("content-type"), Some("text/event-stream"));
        }
        assert_eq!(
            client.chunk().unwrap().unwrap(),
            format!("data: {n}\n\n").into_bytes()
        );
    }
    go.send(()).unwrap();
    assert_eq!(client.chunk().unwrap(), None);
}

#[test]
fn a_body_of_known_length_is_not_held_back_either() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none");
        wait(&gone);
        say(stream, "two");
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    assert_eq!(client.head().field("content-length"), Some("6"));
    let mut piece = [0; 3];
    client.read_exact(&mut piece);
    assert_eq!(&piece, b"one");
    go.send(()).unwrap();
    client.read_exact(&mut piece);
    assert_eq!(&piece, b"two");
}

#[test]
fn a_stream_has_no_total_time_limit() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, SSE_HEAD);
        // Longer than FIRST_BYTE_TIMEOUT_SEC in all, never longer than IDLE_TIMEOUT_SEC at once.
        for n in 0..8 {
            let _ = gone.recv_timeout(std::time::Duration::from_millis(200));
            say(stream, &chunk(&format!("data: {n}\n\n")));
        }
        say(stream, &chunk("data: [DONE]\n\n"));
        say(stream, "0\r\n\r\n");
    });
    let alvus = Alvus::before_with(&upstream, &[("FIRST_BYTE_TIMEOUT_SEC", "1")]);
    let mut client = ask(&alvus);
    client.head();
    let (whole, text) = all_chunks(&mut client);
    assert!(whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    drop(go);
}

/// OpenAI's shape, with our code.
fn is_the_error_event(event: &serde_json::Value) {
    let error = event["error"].as_object().expect("an error object");
    let names: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(names, ["code", "message", "param", "type"], "{event}");
    assert_eq!(error["code"], "stream_truncated");
    assert_eq!(error["type"], "server_error");
    assert!(error["param"].is_null() && error["message"].is_string());
}

/// Ends the connection with a reset when it is closed.
fn reset_at_end(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)).unwrap();
}

/// Runs a broken stream to its end and checks what a client must see of it.
fn breaks_off(upstream: &Upstream, more: &[(&str, &str)]) {
    let alvus = Alvus::before_with(upstream, more);
    let mut client = ask(&alvus);
    assert_eq!(client.head().status, 200);
    let (whole, text) = all_chunks(&mut client);
    assert!(!whole, "a broken stream must not have a last chunk");
    assert!(text.starts_with("data: 1\n\n"), "{text}");
    let last = text.trim_end().lines().last().unwrap();
    let event: serde_json::Value =
        serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    is_the_error_event(&event);
    assert!(!text.contains("[DONE]"));
    assert!(client.ended(), "the connection ends with the stream");
    assert_eq!(
        alvus.states(),
        ["ready", "ready", "ready"],
        "no key is to blame"
    );
}

#[test]
fn a_stream_that_ends_without_its_last_chunk_gets_an_error_event() {
    breaks_off(
        &once(|stream| say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")))),
        &[],
    );
}

#[test]
fn a_stream_that_ends_within_an_event_gets_an_error_event_of_its_own() {
    let cut = chunk("data: 1\n\n") + &chunk("data: {\"cho");
    breaks_off(
        &once(move |stream| say(stream, &format!("{SSE_HEAD}{cut}"))),
        &[],
    );
}

#[test]
fn a_stream_with_a_broken_chunk_gets_an_error_event() {
    // By itself, since ureq drops what it decoded from the same read as the junk.
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")));
        wait(&gone);
        say(stream, "not hex\r\n");
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    client.head();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    go.send(()).unwrap();
    let (whole, text) = all_chunks(&mut client);
    assert!(!whole && text.contains("stream_truncated"), "{text}");
}

#[test]
fn a_stream_that_falls_silent_gets_an_error_event_after_the_idle_timeout() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")));
        wait(&gone);
    });
    breaks_off(&upstream, &[("IDLE_TIMEOUT_SEC", "1")]);
    go.send(()).expect("the upstream is still silent");
}

#[test]
fn a_chunked_body_that_is_no_stream_of_events_is_only_cut() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upstream = once(move |stream| say(stream, &format!("{head}{}", chunk("{\"half\":"))));
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    client.head();
    assert_eq!(all_chunks(&mut client), (false, "{\"half\":".into()));
}

#[test]
fn a_body_cut_short_of_its_length_reaches_the_client_cut() {
    let upstream = once(|stream| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"));
    let response = Alvus::before(&upstream).ask();
    assert_eq!((response.status, response.whole), (200, false));
    assert_eq!(response.text(), "half");
}

#[test]
fn a_truncated_answer_of_unknown_length_is_no_clean_end_for_http_1_0() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upstream = once(move |stream| say(stream, &format!("{head}{}", chunk("half"))));
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /v1/x HTTP/1.0\r\n\r\n");
    assert!(!client.response().whole, "a reset, not an end");
}

#[test]
fn a_stream_that_is_reset_gets_an_error_event() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")));
        wait(&gone); // a reset can overtake what was written
        reset_at_end(stream);
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    client.head();
    assert_eq!(client.chunk().unwrap().unwrap(), b"data: 1\n\n");
    go.send(()).unwrap();
    let (whole, text) = all_chunks(&mut client);
    assert!(!whole && text.contains("stream_truncated"), "{text}");
    assert!(client.ended());
}

#[test]
fn an_http_1_0_client_gets_each_event_at_once_and_the_error_event_too() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")));
        wait(&gone);
    });
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send("GET /v1/x HTTP/1.0\r\n\r\n");
    assert_eq!(client.head().field("transfer-encoding"), None);
    assert_eq!(
        (client.line(), client.line()),
        ("data: 1".into(), "".into())
    );
    go.send(()).unwrap();
    let event = loop {
        match client.line() {
            line if line.is_empty() => {}
            line => break line,
        }
    };
    is_the_error_event(&serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap());
    assert_eq!(client.line(), "");
    assert!(client.ended());
}

#[test]
fn a_stream_of_events_of_stated_length_is_only_cut() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100\r\n\r\n";
    let upstream = once(move |stream| say(stream, &format!("{head}data: 1\n\n")));
    let response = Alvus::before(&upstream).ask();
    assert_eq!(
        (response.whole, response.text()),
        (false, "data: 1\n\n"),
        "an event could pass for the rest of the body"
    );
}

#[test]
fn a_body_that_falls_silent_is_cut_after_the_idle_timeout() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        wait(&gone);
    });
    let response = Alvus::before_with(&upstream, &[("IDLE_TIMEOUT_SEC", "1")]).ask();
    assert_eq!((response.whole, response.text()), (false, "half"));
    go.send(()).expect("the upstream is still silent");
}

#[test]
fn a_body_that_ends_with_the_upstreams_connection_passes_whole() {
    let events: String = (0..20_000).map(|n| format!("data: {n}\n\n")).collect();
    let sent = events.clone();
    let upstream = once(move |stream| {
        say(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        );
        say(stream, &sent);
    });
    let response = Alvus::before(&upstream).ask();
    assert!(response.whole && response.text() == events);
}

#[test]
fn a_reset_is_not_taken_for_the_end_that_delimits_a_body() {
    let (go, gone) = gate();
    let upstream = once(move |stream| {
        say(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf",
        );
        wait(&gone);
        reset_at_end(stream);
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    client.head();
    assert_eq!(client.chunk().unwrap().unwrap(), b"half");
    go.send(()).unwrap();
    assert_eq!(all_chunks(&mut client), (false, String::new()));
}

/// More than 8 MiB in which every byte value occurs and no two places look alike.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(8 * 1024 * 1024 + 21)
    .collect()
}

#[test]
fn large_bodies_pass_byte_for_byte_in_both_framings() {
    let (body, whole) = (large(), large());
    let upstream = Upstream::new(move |seen| {
        let mut bytes = Vec::new();
        if seen.target.ends_with("known") {
            let length = whole.len();
            bytes.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").bytes());
            bytes.extend(&whole);
        } else {
            bytes.extend(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in whole.chunks(50_021) {
                bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        }
        Act::Say(bytes)
    });
    let alvus = Alvus::before(&upstream);
    for target in ["known", "chunked"] {
        let mut client = alvus.connect();
        client.send(format!("GET /v1/{target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = client.response();
        assert_eq!(
            (response.whole, response.body.len()),
            (true, body.len()),
            "{target}"
        );
        assert!(response.body == body, "{target}");
    }
}

#[test]
fn forty_streams_go_on_side_by_side() {
    let (count, all) = (
        std::sync::Arc::new(Mutex::new(0)),
        std::sync::Arc::new(std::sync::Condvar::new()),
    );
    let upstream = Upstream::new(move |_| {
        let (count, all) = (count.clone(), all.clone());
        Act::Do(Box::new(move |stream| {
            say(stream, &format!("{SSE_HEAD}{}", chunk("data: 1\n\n")));
            // The second event comes when all forty streams have begun.
            let mut begun = count.lock().unwrap();
            *begun += 1;
            all.notify_all();
            drop(
                all.wait_timeout_while(begun, PATIENCE, |n| *n < 40)
                    .unwrap(),
            );
            say(stream, &(chunk("data: 2\n\n") + "0\r\n\r\n"));
        }))
    });
    let alvus = Alvus::before_with(&upstream, &[("WORKERS", "40")]);
    let mut clients: Vec<Client> = (0..40).map(|_| ask(&alvus)).collect();
    for client in &mut clients {
        client.head();
        assert_eq!(all_chunks(client), (true, "data: 1\n\ndata: 2\n\n".into()));
    }
}

#[test]
fn a_client_that_closes_at_done_has_its_whole_answer_and_the_upstreams_connection_is_kept() {
    let (go, gone) = gate();
    let gone = Mutex::new(Some(gone));
    let upstream = Upstream::new(move |_| match gone.lock().unwrap().take() {
        Some(gone) => Act::Do(Box::new(move |stream| {
            let words = ["data: hello\n\n", "data: [DONE]\n\n"].map(chunk).concat();
            say(stream, &format!("{SSE_HEAD}{words}"));
            wait(&gone);
            say(stream, "0\r\n\r\n");
            // The next request comes on the same connection.
            let _ = stream.read(&mut [0; 4096]);
            say(
                stream,
                "HTTP/1.1 200 OK\r\nX-Same: yes\r\nContent-Length: 0\r\n\r\n",
            );
        })),
        None => ok(),
    });
    let alvus = Alvus::before(&upstream);
    let mut client = ask(&alvus);
    client.head();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("[DONE]") {
        text.extend(client.chunk().unwrap().expect("more"));
    }
    client.leave();
    go.send(()).unwrap();
    eventually("it is logged", || alvus.log().contains("-> 200"));
    assert!(!alvus.log().contains("the client left"), "{}", alvus.log());
    assert_eq!(alvus.ask().field("x-same"), Some("yes"));
}
