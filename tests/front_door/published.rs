//! Faults of the published crate that a client can see, and that the front door does not have.
//! `tests/front_door/prove` runs these tests against that crate, to see each fail.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use rustix::net::sockopt::set_socket_linger;

use crate::door::{Asked, Server, answer_all_on, write_ok};
use crate::wire::{Client, GET, HANG};

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn server() -> Server {
    Server::on(listener())
}

fn answering() -> SocketAddr {
    answer_all_on(listener())
}

fn next(server: &Server) -> Asked {
    server.next_within(HANG).expect("no request came through")
}

#[test]
fn a_burst_of_connections_is_served_at_once() {
    for _ in 0..5 {
        // all are there before the first is accepted
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..100).map(|_| Client::connect(address)).collect();
        answer_all_on(listener);
        for client in &mut clients {
            assert_eq!(client.send(GET).status(), 200);
        }
    }
}

#[test]
fn the_server_accepts_again_after_it_ran_out_of_descriptors() {
    let name = "the_server_accepts_again_after_it_ran_out_of_descriptors";
    if std::env::var_os("FEW_DESCRIPTORS").is_none() {
        // a process of its own, with few descriptors
        let run = r#"ulimit -n 64 && FEW_DESCRIPTORS=1 exec "$0" --exact --nocapture "$1""#;
        let test = std::env::current_exe().unwrap();
        let path = format!("published::{name}");
        let child = Command::new("sh")
            .args(["-c", run])
            .arg(test)
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }

    let address = answering();
    let mut files: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    files.pop();
    // takes the last descriptor; the server has none for its side of the connection
    let mut client = Client::connect(address);
    client.send(GET);
    thread::sleep(Duration::from_millis(50));
    drop(files);
    assert_eq!(client.status(), 200);
}

#[test]
fn the_server_accepts_again_after_its_listener_timed_out() {
    let listener = listener();
    let timeout = Some(Duration::from_millis(1));
    rustix::net::sockopt::set_socket_timeout(
        &listener,
        rustix::net::sockopt::Timeout::Recv,
        timeout,
    )
    .unwrap();
    let address = answer_all_on(listener);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(Client::connect(address).send(GET).status(), 200);
}

#[test]
fn a_request_whose_client_reset_before_accept_is_delivered_without_a_panic() {
    let listener = listener();
    let mut client = Client::connect(listener.local_addr().unwrap());
    client.send(GET);
    set_socket_linger(&client.0, Some(Duration::ZERO)).unwrap();
    drop(client);

    let server = Server::on(listener);
    next(&server).begin(|request| drop(request)).join().unwrap();
}

#[test]
fn nothing_is_allocated_by_a_declared_length() {
    let server = server();
    for length in ["9000000000000", "2147483648", "18446744073709551615"] {
        let mut client = Client::new(&server);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nbody"
        ));
        drop(next(&server));
        assert_eq!(client.status(), 500);
    }
}

#[test]
fn an_answer_does_not_wait_for_a_body_that_nobody_reads() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let answered = next(&server).begin(write_ok);
    assert_eq!(client.status(), 200);
    answered.join().unwrap();
}

#[test]
fn a_request_follows_a_body_that_nobody_read() {
    let server = server();
    let mut client = Client::new(&server);
    for framing in ["Content-Length: 3000", "Transfer-Encoding: chunked"] {
        let body = match framing.starts_with('C') {
            true => "x".repeat(3000),
            false => format!("bb8\r\n{}\r\n0\r\nTrailer: t\r\n\r\n", "x".repeat(3000)),
        };
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"
        ));
        next(&server).begin(write_ok);
        assert_eq!(client.status(), 200);
    }
    client.send(GET);
    next(&server).begin(write_ok);
    assert_eq!(client.status(), 200);
}

#[test]
fn a_body_cut_short_is_an_error() {
    let server = server();
    for (framing, body) in [
        ("Content-Length: 5000", "x".repeat(4000)),
        ("Content-Length: 5", "hell".to_string()),
        (
            "Transfer-Encoding: chunked",
            "fa0\r\n".to_string() + &"x".repeat(2000),
        ),
    ] {
        let mut client = Client::new(&server);
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"
            ))
            .sends_no_more();
        let reads = next(&server).begin(|mut request| {
            [(); 2].map(|()| {
                let end = request.as_reader().read_to_end(&mut Vec::new());
                end.map_err(|e| e.kind())
            })
        });
        let cut = Err(ErrorKind::UnexpectedEof);
        assert_eq!(reads.join().unwrap(), [cut, cut], "{framing}");
    }
}

#[test]
fn a_malformed_chunk_is_an_error() {
    let server = server();
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(9000));
    for body in [
        "+5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        &long,
    ] {
        let mut client = Client::new(&server);
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send(body);
        let end = next(&server)
            .begin(|mut request| request.as_reader().read_to_end(&mut Vec::new()))
            .join();
        assert_eq!(
            end.unwrap().unwrap_err().kind(),
            ErrorKind::InvalidData,
            "{body:.20}"
        );
    }
}

#[test]
fn the_body_of_a_request_that_offers_an_upgrade_has_an_end() {
    let server = server();
    let mut client = Client::new(&server);
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c";
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{offer}\r\nContent-Length: 5\r\n\r\nhello"
    ));
    let reader = next(&server).begin(|mut request| {
        let mut body = String::new();
        request.as_reader().read_to_string(&mut body).unwrap();
        write_ok(request);
        body
    });
    assert_eq!(client.status(), 200);
    assert_eq!(reader.join().unwrap(), "hello");
    // and since nothing was upgraded, the connection goes on
    client.send(GET);
    next(&server).begin(write_ok);
    assert_eq!(client.status(), 200);
}

#[test]
fn another_version_of_http_is_refused_and_the_connection_closed() {
    let address = answering();
    for version in ["GET / HTTP/2.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = Client::connect(address);
        let answer = client.send(version).until_the_end().unwrap();
        assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    }
}

#[test]
fn continue_is_a_bare_line() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let reader = next(&server).begin(|mut request| {
        request.as_reader().read_to_end(&mut Vec::new()).unwrap();
        write_ok(request);
    });
    assert_eq!(client.response(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send("hello").status(), 200);
    reader.join().unwrap();
}

#[test]
fn a_client_of_http_1_0_is_not_told_to_continue() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n");
    let reader = next(&server).begin(|mut request| {
        request.as_reader().read_to_end(&mut Vec::new()).unwrap();
        write_ok(request);
    });
    client.send("x".repeat(2000));
    assert_eq!(client.status(), 200);
    reader.join().unwrap();
}

#[test]
fn a_dropped_writer_sends_what_it_still_holds() {
    let server = server();
    let mut client = Client::new(&server);
    client.send(GET);
    next(&server).begin(|request| {
        let mut writer = request.into_writer();
        writer
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap();
    });
    assert_eq!(client.status(), 204);
}

#[test]
fn pipelined_requests_come_one_at_a_time_and_in_order() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    for url in ["/1", "/2", "/3"] {
        let asked = next(&server);
        assert!(server.next_within(Duration::from_millis(50)).is_none());
        let came = asked.begin(|request| {
            let came = request.url().to_string();
            write_ok(request);
            came
        });
        assert_eq!(came.join().unwrap(), url);
        assert_eq!(client.status(), 200);
    }
}

#[test]
fn a_response_broken_off_by_a_panic_is_the_last_on_its_connection() {
    let server = server();
    let mut client = Client::new(&server);
    client.send([GET, GET].concat());
    let bug = next(&server).begin(|request| {
        let mut writer = request.into_writer();
        writer
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            .unwrap();
        panic!("this is the test");
    });
    assert!(bug.join().is_err());
    assert!(client.until_the_end().unwrap().ends_with("half"));
}

#[test]
fn a_value_that_is_not_ascii_does_not_cost_the_connection() {
    let mut client = Client::connect(answering());
    assert_eq!(
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nX-Name: caf\u{e9}\r\n\r\n")
            .status(),
        200
    );
}

/// Sends a request that has to be refused, with another one behind it that must not get through.
fn refused(status: u16, request: &[u8]) {
    let server = server();
    let mut client = Client::new(&server);
    client.try_send(request).try_send(GET);
    let said = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
    let answer = client
        .until_the_end()
        .unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {status} ")),
        "{said:?}: {answer}"
    );
    assert!(server.next_within(Duration::ZERO).is_none(), "{said:?}");
}

#[test]
fn a_body_of_two_lengths_is_refused() {
    for fields in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 3\r\nContent-Length: 3",
        "Content-Length: 3, 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        refused(
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n").as_bytes(),
        );
    }
}

#[test]
fn a_length_that_is_not_a_number_is_refused() {
    for length in [
        "",
        "+3",
        "-3",
        "0x3",
        "3 3",
        "three",
        "18446744073709551616",
    ] {
        refused(
            400,
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nabc").as_bytes(),
        );
    }
}

#[test]
fn a_transfer_encoding_other_than_chunked_is_refused() {
    for encoding in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "xchunked",
        "identity",
        "",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {encoding}\r\n\r\n0\r\n\r\n");
        refused(400, request.as_bytes());
    }
    refused(
        400,
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
}

#[test]
fn a_malformed_request_line_is_refused() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        " GET / HTTP/1.1",
        "G\tT / HTTP/1.1",
        "GET /\0 HTTP/1.1",
    ] {
        refused(400, format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
    }
}

#[test]
fn a_malformed_header_field_is_refused() {
    for field in [
        "Content-Length : 3",
        ": no name",
        "no colon",
        "A\0: b",
        "A: b\0",
        "A: b\x01c",
        "A: b\rc",
        "A: b\nContent-Length: 3",
        "A: b\r\n folded",
    ] {
        refused(
            400,
            format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n").as_bytes(),
        );
    }
}

#[test]
fn a_request_that_does_not_name_one_host_is_refused() {
    for fields in [
        "",
        "A: b\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nhost: a\r\n",
    ] {
        refused(400, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
    }
}

#[test]
fn a_line_that_ends_in_a_bare_lf_is_refused() {
    refused(400, b"GET / HTTP/1.1\r\nHost: a\r\nA: b\n\r\n\r\n");
}

#[test]
fn a_client_that_speaks_tls_is_refused_at_once() {
    refused(400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
}

#[test]
fn a_head_too_large_is_refused() {
    let long = "x".repeat(9000);
    refused(
        414,
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
    );
    refused(
        431,
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n").as_bytes(),
    );
    refused(
        431,
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(20_000)
        )
        .as_bytes(),
    );
    let wide = format!("a: {}\r\n", "x".repeat(4000)).repeat(9);
    refused(
        431,
        format!("GET / HTTP/1.1\r\nHost: a\r\n{wide}\r\n").as_bytes(),
    );
    refused(414, &vec![b'x'; 5_000_000]);
}

#[test]
fn a_server_that_is_dropped_ends_its_idle_connections() {
    let server = server();
    let mut client = Client::new(&server);
    client.send(GET);
    next(&server).begin(write_ok);
    assert_eq!(client.status(), 200);
    drop(server);
    assert!(client.is_closed());
}

#[test]
fn weights_that_are_no_numbers_do_not_cost_the_answer() {
    let weights: Vec<String> = (0..60)
        .map(|n| match n % 3 {
            0 => format!("x{n};q=nan"),
            1 => format!("x{n};q=0.{n}"),
            _ => format!("x{n};q={n}"),
        })
        .collect();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nTE: {}\r\n\r\n",
        weights.join(", ")
    );
    let mut client = Client::connect(answering());
    client.send(request.as_bytes());
    assert_eq!(client.status(), 200);
}
