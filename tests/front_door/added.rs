//! What the patches add to the API: it does not compile against the crate as published.

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tiny_http::{ClientSocket, Limits, Server};

use crate::wire::{Client, GET, HANG, next, server, write_ok};

const SHORT: Duration = Duration::from_millis(200);

fn server_with(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits::default();
    change(&mut limits);
    Server::from_listener_with(TcpListener::bind("127.0.0.1:0").unwrap(), limits).unwrap()
}

/// Whether the client has left, by the time that it takes at most.
fn has_left(socket: &ClientSocket, within: Duration) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    let timeout = Timespec::try_from(within).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap();
    fds[0]
        .revents()
        .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

#[test]
fn headers_come_as_sent() {
    let server = server();
    let mut client = Client::new(&server);
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-b: \t caf\xe9 \xff\t \r\nX-A:1\r\nx-B:\r\n\r\n");
    let request = next(&server);
    let headers: Vec<_> = request.raw_headers().collect();
    assert_eq!(
        headers,
        [
            ("Host", &b"a"[..]),
            ("X-b", b"caf\xe9 \xff"),
            ("X-A", b"1"),
            ("x-B", b"")
        ]
    );
    assert_eq!(request.headers()[1].value.as_str(), "caf? ?");
}

#[test]
fn nagle_is_off() {
    let server = server();
    let mut client = Client::new(&server);
    client.send(GET);
    let socket = next(&server).client();
    assert!(rustix::net::sockopt::tcp_nodelay(&socket).unwrap());
}

#[test]
fn a_client_that_waits_for_the_last_response_has_not_left() {
    for last in [
        "Connection: close",
        "Content-Length: 0",
        "Connection: close\r\nContent-Length: 3",
    ] {
        let server = server();
        let mut client = Client::new(&server);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{last}\r\n\r\nabc"));
        let request = next(&server);
        let socket = request.client();
        let writer = request.into_writer();
        assert!(!has_left(&socket, SHORT), "{last}");
        drop(client);
        assert!(has_left(&socket, HANG), "{last}");
        drop(writer);
    }
}

#[test]
fn a_shutdown_ends_the_connection_in_both_directions() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let mut request = next(&server);
    let socket = request.client();
    let reader = thread::spawn(move || {
        let end = request.as_reader().read_to_end(&mut Vec::new());
        let mut writer = request.into_writer();
        let sent = writer
            .write_all(b"HTTP/1.1 200 OK\r\n")
            .and_then(|()| writer.flush());
        (end.unwrap_err().kind(), sent.unwrap_err().kind())
    });
    socket.shutdown();
    assert!(client.is_closed());
    assert_eq!(
        reader.join().unwrap(),
        (ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe)
    );
}

#[test]
fn connections_persist_as_their_request_says() {
    for (stays, head) in [
        (true, "GET / HTTP/1.1\r\nHost: a\r\n"),
        (false, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n"),
        (false, "GET / HTTP/1.0\r\n"),
        (true, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n"),
    ] {
        let server = server();
        let mut client = Client::new(&server);
        client.send(format!("{head}\r\n"));
        let request = next(&server);
        assert_eq!(request.keeps_alive(), stays, "{head}");
        write_ok(request);
        assert_eq!(client.status(), 200);
        if stays {
            client.send(GET);
            write_ok(next(&server));
            assert_eq!(client.status(), 200);
        } else {
            assert!(client.is_closed(), "{head}");
        }
    }
}

#[test]
fn a_connection_is_closed_after_the_response_when_asked() {
    let server = server();
    for request in [
        &GET.repeat(2)[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let mut client = Client::new(&server);
        client.send(request);
        let mut request = next(&server);
        request.close_connection();
        assert!(!request.keeps_alive());
        write_ok(request);
        let answer = client.until_the_end().unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1);
    }
}

#[test]
fn a_client_that_still_sends_can_read_why_it_is_refused() {
    let server = server();
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = Client::new(&server);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n30d40\r\n"
        ));
        let mut request = next(&server);
        request.close_connection();
        let refusal = thread::spawn(move || {
            let mut writer = request.into_writer();
            let _ = writer.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!");
        });
        client.try_send(vec![b'x'; 200_000]);
        assert!(
            client.until_the_end().unwrap().ends_with("no!"),
            "{framing}"
        );
        refusal.join().unwrap();
    }
}

#[test]
fn a_client_that_waits_for_a_continue_in_vain_is_disconnected() {
    let server = server();
    let mut client = Client::new(&server);
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n");
    let request = next(&server);
    assert!(!request.keeps_alive());
    write_ok(request);
    assert!(client.until_the_end().unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn refusals_speak_the_words_of_the_application() {
    let server = server_with(|l| {
        l.error_body = |status, why| ("application/json", format!("{{\"{status}\": \"{why}\"}}"));
    });
    let answer = Client::new(&server)
        .send("nonsense\r\n\r\n")
        .until_the_end()
        .unwrap();
    assert!(
        answer.contains("Content-Type: application/json\r\n"),
        "{answer}"
    );
    assert!(answer.contains("{\"400\": \""), "{answer}");
}

#[test]
fn a_head_that_drips_in_is_cut_off() {
    let server = server_with(|l| l.head_timeout = SHORT);
    let mut client = Client::new(&server);
    let mut drip = Client(client.0.try_clone().unwrap());
    let dripping = thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < HANG && drip.0.write_all(b"x").is_ok() {
            thread::sleep(SHORT / 10);
        }
    });
    assert_eq!(client.status(), 408);
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn an_idle_connection_is_closed() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut silent = Client::new(&server);
    assert!(silent.is_closed());
    let mut client = Client::new(&server);
    client.send(GET);
    write_ok(next(&server));
    assert_eq!(client.status(), 200);
    assert!(client.is_closed());
}

#[test]
fn a_connection_is_not_idle_while_a_response_is_outstanding() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send(GET);
    let request = next(&server);
    assert!(!has_left(&request.client(), SHORT * 4));
    client.send(GET);
    write_ok(request);
    write_ok(next(&server));
    assert_eq!((client.status(), client.status()), (200, 200));
}

#[test]
fn a_body_that_stops_coming_is_an_error() {
    let server = server_with(|l| l.body_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let end = next(&server).as_reader().read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_body_may_pause_for_longer_than_a_connection_may_be_idle() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let mut request = next(&server);
    let socket = request.client();
    let reader = thread::spawn(move || {
        let mut body = String::new();
        request.as_reader().read_to_string(&mut body).map(|_| body)
    });
    assert!(!has_left(&socket, SHORT * 3));
    client.send("hello");
    assert_eq!(reader.join().unwrap().unwrap(), "hello");
}

#[test]
fn a_response_that_nobody_takes_is_an_error() {
    let server = server_with(|l| l.write_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send(GET);
    let mut writer = next(&server).into_writer();
    let end = (0..10_000).find_map(|_| writer.write_all(&[0; 8192]).err());
    assert_eq!(end.unwrap().kind(), ErrorKind::TimedOut);
}

#[test]
fn the_connection_that_waited_longest_makes_place_for_a_new_one() {
    let server = server_with(|l| l.max_connections = 3);
    let serve = |client: &mut Client| {
        client.send(GET);
        write_ok(next(&server));
        assert_eq!(client.status(), 200);
    };
    let mut busy = Client::new(&server);
    busy.send(GET);
    let request = next(&server);
    let (mut longest, mut shorter) = (Client::new(&server), Client::new(&server));
    serve(&mut longest);
    longest.send("GET / HT"); // half a head does not help
    serve(&mut shorter);
    serve(&mut Client::new(&server));
    assert!(longest.is_closed());
    serve(&mut shorter);
    write_ok(request);
    assert_eq!(busy.status(), 200);
}

#[test]
fn a_connection_too_many_is_refused_while_all_others_are_served() {
    let server = server_with(|l| l.max_connections = 2);
    let mut clients = [Client::new(&server), Client::new(&server)];
    let requests = clients.each_mut().map(|client| {
        client.send(GET);
        next(&server)
    });
    let mut refused = Client::new(&server);
    assert_eq!(refused.send(GET).status(), 503);
    requests.into_iter().for_each(write_ok);
    assert_eq!(clients.map(|mut client| client.status()), [200, 200]);
}

#[test]
fn connections_are_counted() {
    let server = server();
    assert_eq!(server.num_connections(), 0);
    let mut clients = [Client::new(&server), Client::new(&server)];
    for client in &mut clients {
        client.send(GET);
        write_ok(next(&server));
        assert_eq!(client.status(), 200);
    }
    assert_eq!(server.num_connections(), 2);
    drop(clients);
    let start = Instant::now();
    while server.num_connections() > 0 {
        assert!(start.elapsed() < HANG, "connections are still counted");
        thread::yield_now();
    }
}

#[test]
fn a_thread_of_a_connection_needs_only_a_small_stack() {
    let server = server_with(|l| l.thread_stack = Limits::default().thread_stack / 2);
    let mut client = Client::new(&server);
    let fields: String = (0..99)
        .map(|i| format!("X-{i}: {}\r\n", "x".repeat(200)))
        .collect();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    write_ok(next(&server));
    assert_eq!(client.status(), 200);
    assert_eq!(client.send("nonsense\r\n\r\n").status(), 400);
}

#[test]
fn requests_are_served_in_place_by_the_thread_of_their_connection() {
    let (tell, told) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::serve_in_place(listener, Limits::default(), move |request| {
        tell.send(thread::current().id()).unwrap();
        write_ok(request);
    })
    .unwrap();
    let mut clients = [Client::new(&server), Client::new(&server)];
    let threads = clients.each_mut().map(|client| {
        let ids = [(); 2].map(|()| {
            assert_eq!(client.send(GET).status(), 200);
            told.recv_timeout(HANG).unwrap()
        });
        assert_eq!(ids[0], ids[1]);
        ids[0]
    });
    assert_ne!(threads[0], threads[1]);
    assert!(server.try_recv().unwrap().is_none());
}

#[test]
fn a_panic_while_serving_in_place_costs_its_request_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::serve_in_place(listener, Limits::default(), |request| {
        assert!(request.url() != "/bug", "this is the test");
        write_ok(request);
    })
    .unwrap();
    for _ in 0..5 {
        let mut client = Client::new(&server);
        let answer = client
            .send("GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
            .until_the_end()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert_eq!(Client::new(&server).send(GET).status(), 200);
    }
}
