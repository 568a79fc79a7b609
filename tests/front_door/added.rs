//! What the front door can do and the crate as published cannot at all.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use alvus::front::{self, Limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::door::{Asked, Server, Under, write_ok};
use crate::wire::{Client, GET, HANG};

const SHORT: Duration = Duration::from_millis(200);

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn server() -> Server {
    Server::on(listener())
}

fn server_with(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits::default();
    change(&mut limits);
    Server::with(listener(), limits)
}

fn next(server: &Server) -> Asked {
    server.next_within(HANG).expect("no request came through")
}

/// Answers the next request.
fn answer(server: &Server) -> Under<()> {
    next(server).begin(write_ok)
}

/// Whether the client has left, by the time that it takes at most.
fn has_left(socket: &TcpStream, within: Duration) -> bool {
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
    let came = next(&server).begin(|request| {
        let headers: Vec<_> = request.raw_headers().collect();
        assert_eq!(
            headers,
            [
                (&b"Host"[..], &b"a"[..]),
                (b"X-b", b"caf\xe9 \xff"),
                (b"X-A", b"1"),
                (b"x-B", b"")
            ]
        );
    });
    came.join().unwrap();
}

#[test]
fn nagle_is_off() {
    let server = server();
    let mut client = Client::new(&server);
    client.send(GET);
    let socket = next(&server).begin(|request| request.client());
    let socket = socket.join().unwrap();
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
        let (tell, told) = channel();
        let answering = next(&server).begin(move |request| {
            let socket = request.client();
            let writer = request.into_writer();
            tell.send(has_left(&socket, SHORT)).unwrap();
            let left = has_left(&socket, HANG);
            drop(writer);
            left
        });
        assert!(!told.recv_timeout(HANG).unwrap(), "{last}");
        drop(client);
        assert!(answering.join().unwrap(), "{last}");
    }
}

#[test]
fn a_shutdown_ends_the_connection_in_both_directions() {
    let server = server();
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let (tell, told) = channel();
    let reader = next(&server).begin(move |mut request| {
        tell.send(request.client()).unwrap();
        let end = request.as_reader().read_to_end(&mut Vec::new());
        let mut writer = request.into_writer();
        let sent = writer
            .write_all(b"HTTP/1.1 200 OK\r\n")
            .and_then(|()| writer.flush());
        (end.unwrap_err().kind(), sent.unwrap_err().kind())
    });
    let told = told.recv_timeout(HANG).unwrap();
    told.shutdown(Shutdown::Both).unwrap();
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
        let kept = next(&server).begin(|request| {
            let kept = request.keeps_alive();
            write_ok(request);
            kept
        });
        assert_eq!(kept.join().unwrap(), stays, "{head}");
        assert_eq!(client.status(), 200);
        if stays {
            client.send(GET);
            answer(&server);
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
        next(&server).begin(|mut request| {
            request.close_connection();
            assert!(!request.keeps_alive());
            write_ok(request);
        });
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
        let refusal = next(&server).begin(|mut request| {
            request.close_connection();
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
    next(&server).begin(|request| {
        assert!(!request.keeps_alive());
        write_ok(request);
    });
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
    client.0.shutdown(Shutdown::Both).unwrap();
    dripping.join().unwrap();
}

#[test]
fn an_idle_connection_is_closed() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut silent = Client::new(&server);
    assert!(silent.is_closed());
    let mut client = Client::new(&server);
    client.send(GET);
    answer(&server);
    assert_eq!(client.status(), 200);
    assert!(client.is_closed());
}

#[test]
fn a_connection_is_not_idle_while_a_response_is_outstanding() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send(GET);
    let left = next(&server).begin(|request| {
        let left = has_left(&request.client(), SHORT * 4);
        write_ok(request);
        left
    });
    client.send(GET);
    assert!(!left.join().unwrap());
    answer(&server);
    assert_eq!((client.status(), client.status()), (200, 200));
}

#[test]
fn a_body_that_stops_coming_is_an_error() {
    let server = server_with(|l| l.body_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let end = next(&server).begin(|mut request| request.as_reader().read_to_end(&mut Vec::new()));
    assert_eq!(end.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn a_body_may_pause_for_longer_than_a_connection_may_be_idle() {
    let server = server_with(|l| l.idle_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let (tell, told) = channel();
    let reader = next(&server).begin(move |mut request| {
        tell.send(request.client()).unwrap();
        let mut body = String::new();
        request.as_reader().read_to_string(&mut body).map(|_| body)
    });
    assert!(!has_left(&told.recv_timeout(HANG).unwrap(), SHORT * 3));
    client.send("hello");
    assert_eq!(reader.join().unwrap().unwrap(), "hello");
}

#[test]
fn a_response_that_nobody_takes_is_an_error() {
    let server = server_with(|l| l.write_timeout = SHORT);
    let mut client = Client::new(&server);
    client.send(GET);
    let end = next(&server).begin(|request| {
        let mut writer = request.into_writer();
        (0..10_000).find_map(|_| writer.write_all(&[0; 8192]).err())
    });
    assert_eq!(end.join().unwrap().unwrap().kind(), ErrorKind::TimedOut);
}

#[test]
fn the_connection_that_waited_longest_makes_place_for_a_new_one() {
    let server = server_with(|l| l.max_connections = 3);
    let serve = |client: &mut Client| {
        client.send(GET);
        answer(&server);
        assert_eq!(client.status(), 200);
    };
    let mut busy = Client::new(&server);
    busy.send(GET);
    let asked = next(&server);
    let (mut longest, mut shorter) = (Client::new(&server), Client::new(&server));
    serve(&mut longest);
    longest.send("GET / HT"); // half a head does not help
    serve(&mut shorter);
    serve(&mut Client::new(&server));
    assert!(longest.is_closed());
    serve(&mut shorter);
    asked.begin(write_ok);
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
    let _answering = requests.map(|asked| asked.begin(write_ok));
    assert_eq!(clients.map(|mut client| client.status()), [200, 200]);
}

#[test]
fn connections_are_counted() {
    let server = server();
    assert_eq!(server.front.connections(), 0);
    let mut clients = [Client::new(&server), Client::new(&server)];
    for client in &mut clients {
        client.send(GET);
        answer(&server);
        assert_eq!(client.status(), 200);
    }
    assert_eq!(server.front.connections(), 2);
    drop(clients);
    let start = Instant::now();
    while server.front.connections() > 0 {
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
    answer(&server);
    assert_eq!(client.status(), 200);
    assert_eq!(client.send("nonsense\r\n\r\n").status(), 400);
}

#[test]
fn requests_are_served_in_place_by_the_thread_of_their_connection() {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let _server = front::Server::serve_in_place(listener, Limits::default(), move |request| {
        tell.lock().unwrap().send(thread::current().id()).unwrap();
        write_ok(request);
    })
    .unwrap();
    let mut clients = [Client::connect(address), Client::connect(address)];
    let threads = clients.each_mut().map(|client| {
        let ids = [(); 2].map(|()| {
            assert_eq!(client.send(GET).status(), 200);
            told.recv_timeout(HANG).unwrap()
        });
        assert_eq!(ids[0], ids[1]);
        ids[0]
    });
    assert_ne!(threads[0], threads[1]);
}

#[test]
fn a_panic_while_serving_in_place_costs_its_request_only() {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let _server = front::Server::serve_in_place(listener, Limits::default(), |request| {
        assert!(request.url() != "/bug", "this is the test");
        write_ok(request);
    })
    .unwrap();
    for _ in 0..5 {
        let mut client = Client::connect(address);
        let answer = client
            .send("GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
            .until_the_end()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert_eq!(Client::connect(address).send(GET).status(), 200);
    }
}
