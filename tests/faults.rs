//! When the upstream misbehaves: what the client sees, what the pool records, what the log says.
//! docs/behaviour.md has the rules. `streams.rs` has bodies that break off, `keys.rs` retries.
//!
//! `openssl` makes the certificates.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, Response, SSE_HEAD, TempDir, Upstream, answer, chunk,
    dead_addr, eventually, gate, ok,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// One key, one try, short patience; `more` wins.
fn before(url: &str, more: &[(&str, &str)]) -> Alvus {
    let mut env = vec![
        ("TARGET_BASE_URL", url),
        ("API_KEYS", KEYS[0]),
        ("MAX_WAIT_SEC", "0"),
        ("CONNECT_TIMEOUT_SEC", "1"),
        ("FIRST_BYTE_TIMEOUT_SEC", "1"),
        ("IDLE_TIMEOUT_SEC", "1"),
    ];
    env.retain(|(name, _)| more.iter().all(|(n, _)| n != name));
    env.extend_from_slice(more);
    Alvus::start(&env)
}

/// Checks one POST that meets a fault before an answer begins: the client's status and code,
/// `words` in the message and in the log, the failure's count, and that the key is not blamed.
fn refused(alvus: &Alvus, status: u16, code: &str, words: &str) {
    let response = alvus.ask();
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    let error = &response.json()["error"];
    assert_eq!(error["code"], code, "{text}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
    assert_eq!(response.field("retry-after").is_some(), status == 503);
    eventually("the request has ended", || alvus.health()["in_flight"] == 0);
    let health = alvus.health();
    let key = &health["key_status"][0];
    assert_eq!(key["state"], "ready", "no key is to blame");
    assert_eq!(key["failures"]["no_answer"], 1, "{key}");
    eventually("the log says why", || {
        let log = alvus.log();
        log.lines()
            .any(|line| line.starts_with("warn: ") && line.contains(words))
    });
}

fn unreachable(url: &str, more: &[(&str, &str)], words: &str) {
    refused(&before(url, more), 503, "upstream_unreachable", words);
}

/// A fault that no wait cures is told at once, however long a request may wait.
fn hopeless(url: &str, more: &[(&str, &str)], words: &str) {
    let more = [more, &[("MAX_WAIT_SEC", "600")]].concat();
    refused(&before(url, &more), 502, "upstream_misconfigured", words);
}

/// An upstream whose answer is these bytes and the end of the connection.
fn answers(bytes: impl Into<Vec<u8>>) -> Upstream {
    let bytes = bytes.into();
    Upstream::new(move |_| Act::SayAndClose(bytes.clone()))
}

fn broke(upstream: &Upstream, words: &str) {
    let alvus = before(&upstream.base_url(), &[]);
    refused(&alvus, 502, "upstream_broke", words);
    assert_eq!(upstream.seen().len(), 1, "asked once");
}

fn timed_out(upstream: &Upstream) {
    let alvus = before(&upstream.base_url(), &[]);
    refused(&alvus, 504, "upstream_timeout", "timed out");
    assert_eq!(upstream.seen().len(), 1, "asked once");
}

// ---- no connection ------------------------------------------------------------------------------

#[test]
fn a_refused_connection_is_an_unreachable_upstream() {
    let url = format!("http://{}/v1", dead_addr());
    unreachable(&url, &[], "refused");
}

#[test]
fn a_connection_that_nothing_answers_is_an_unreachable_upstream() {
    // A listener whose queue is full drops what knocks on it, as a dropped route does.
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let full = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&full, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    listen(&full, 0).unwrap();
    let addr = SocketAddr::try_from(getsockname(&full).unwrap()).unwrap();
    let knock = || TcpStream::connect_timeout(&addr, Duration::from_millis(500));
    let _queued: Vec<TcpStream> = std::iter::from_fn(|| knock().ok()).take(16).collect();
    unreachable(&format!("http://{addr}/v1"), &[], "no answer in time");
}

#[test]
fn a_name_that_does_not_exist_is_an_unreachable_upstream() {
    // Longer than a label may be (RFC 1035 §2.3.4), so that no name server is asked.
    let url = format!("http://{}.invalid/v1", "x".repeat(64));
    unreachable(&url, &[], "lookup");
}

#[test]
fn a_host_that_no_certificate_can_be_for_is_a_fault_at_the_start() {
    let (code, _, said) = common::run_alvus(
        &[],
        &[
            ("API_KEYS", KEYS[0]),
            ("TARGET_BASE_URL", "https://my-box-.lan/v1"),
        ],
        None,
    );
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("https://my-box-.lan") && said.contains("certificate"),
        "{said}"
    );
}

#[test]
fn every_target_that_the_front_door_accepts_reaches_the_upstream() {
    let upstream = Upstream::new(|_| ok());
    let long_path = format!("{}/{}", upstream.base_url(), "p".repeat(3000));
    let alvus = before(&long_path, &[]);
    let mut longest = 0;
    for length in (7000..8300).step_by(50).chain([100]) {
        let path = format!("/v1/{}", "x".repeat(length));
        let mut client = alvus.connect();
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: alvus\r\nConnection: close\r\n\r\n"
        ));
        let response = client.response();
        match response.status {
            200 => longest = longest.max(length),
            status => assert_eq!((status, length > 8000), (414, true), "{}", response.text()),
        }
    }
    assert!(longest > 8000, "{longest}");
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.target.contains("ppp/"))
    );
}

// ---- no head ------------------------------------------------------------------------------------

fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_before_the_head_is_a_broken_upstream() {
    let upstream = Upstream::new(|_| Act::Do(Box::new(|stream| reset(stream))));
    broke(&upstream, "reset");
}

#[test]
fn an_end_before_the_head_is_a_broken_upstream() {
    broke(&answers(""), "it closed the connection");
}

#[test]
fn a_stall_before_the_head_is_a_timeout() {
    timed_out(&Upstream::new(|_| {
        Act::Do(Box::new(|stream| drop(stream.read(&mut [0]))))
    }));
}

/// Says `piece` again and again, with a pause, until alvus hangs up.
fn drips(begin: &'static str, piece: &'static str, pause: Duration) -> Upstream {
    Upstream::new(move |_| {
        Act::Do(Box::new(move |stream| {
            let _ = stream.write_all(begin.as_bytes());
            stream.set_read_timeout(Some(pause)).unwrap();
            let until = Instant::now() + PATIENCE;
            while stream.write_all(piece.as_bytes()).is_ok() && Instant::now() < until {
                if stream.read(&mut [0]).is_ok() {
                    return; // alvus has hung up
                }
            }
        }))
    })
}

const PAUSE: Duration = Duration::from_millis(50);

#[test]
fn a_head_that_drips_is_a_timeout() {
    timed_out(&drips("HTTP/1.1 200 OK\r\nX-A: ", "a", PAUSE));
}

#[test]
fn interim_answers_without_an_end_are_a_timeout() {
    timed_out(&drips("", "HTTP/1.1 103 Early Hints\r\n\r\n", PAUSE));
}

#[test]
fn a_head_of_64_kib_is_a_broken_upstream() {
    let long = "a".repeat(64 * 1024);
    broke(
        &answers(format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\n\r\n")),
        "head",
    );
}

#[test]
fn a_head_without_an_end_is_a_broken_upstream() {
    let upstream = Upstream::new(|_| {
        Act::Do(Box::new(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream
                .write_all("X-A: b\r\n".repeat(512).as_bytes())
                .is_ok()
            {}
        }))
    });
    broke(&upstream, "head");
}

#[test]
fn two_hundred_fields_are_a_broken_upstream() {
    let fields = "X-A: b\r\n".repeat(200);
    broke(
        &answers(format!(
            "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\n{{}}"
        )),
        "head",
    );
}

#[test]
fn garbage_instead_of_a_head_is_a_broken_upstream() {
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", // HTTP/2 SETTINGS
        b"\x15\x03\x01\x00\x02\x02\x46",                                 // a TLS alert
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        &[0xff; 20_000],
    ] {
        let text = String::from_utf8_lossy(&garbage[..garbage.len().min(60)]).into_owned();
        let response = before(&answers(garbage).base_url(), &[]).ask();
        assert_eq!(response.status, 502, "{text:?}: {response:?}");
        assert_eq!(response.json()["error"]["code"], "upstream_broke");
    }
}

// ---- a body that is not what its head says ------------------------------------------------------

/// Whatever follows an answer is not part of it, and no answer to anything else.
#[test]
fn bytes_behind_an_answer_are_never_the_next_answer() {
    const MORE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    for (status, method, framing, body) in [
        (200, "POST", "Content-Length: 2", "{}"),
        (200, "POST", "Content-Length: 0", ""),
        (
            200,
            "POST",
            "Transfer-Encoding: chunked",
            "2\r\n{}\r\n0\r\n\r\n",
        ),
        (200, "HEAD", "Content-Length: 2", "{}"),
        (204, "POST", "X-A: b", "{}"),
        (304, "GET", "Content-Length: 2", "{}"),
        (429, "POST", "Content-Length: 2", "{}"),
        (403, "POST", "Content-Length: 2", "{}"),
    ] {
        for late in [false, true] {
            if late && matches!(status, 429 | 403) {
                continue; // the next request is under way by then
            }
            let first = format!("HTTP/1.1 {status} X\r\n{framing}\r\n\r\n{body}");
            let (more, came) = channel();
            let upstream = Upstream::new(move |seen| match seen.target.as_str() {
                "/v1/first" if seen.connection == 0 && !late => {
                    Act::Say((first.clone() + MORE).into_bytes())
                }
                "/v1/first" if seen.connection == 0 => {
                    let (first, more) = (first.clone(), more.clone());
                    Act::Do(Box::new(move |stream| {
                        let _ = stream.write_all(first.as_bytes());
                        // Time for alvus to read it by itself and to put the connection aside.
                        std::thread::sleep(PAUSE);
                        let _ = stream.write_all(MORE.as_bytes());
                        let _ = more.send(());
                        let _ = stream.read(&mut [0]);
                    }))
                }
                _ => answer(200, "", "the next"),
            });
            let alvus = Alvus::before(&upstream);
            let ask = |method: &str, target: &str| {
                let mut client = alvus.connect();
                client.send(format!(
                    "{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                ));
                let mut response = client.head();
                if method != "HEAD" {
                    response.body = rest(&mut client, &response);
                }
                response
            };
            let response = ask(method, "/v1/first");
            let text = String::from_utf8_lossy(&response.body);
            let what = format!("{method} {status} {framing}, late: {late}");
            if matches!(status, 429 | 403) {
                assert_eq!(text, "the next", "{what}");
            } else {
                assert_eq!(response.status, status, "{what}");
                assert!(!text.contains("poison"), "{what}: {text}");
            }
            if late {
                came.recv_timeout(PATIENCE).expect("the upstream says more");
            }
            let next = ask("GET", "/v1/next");
            assert_eq!(
                String::from_utf8_lossy(&next.body),
                "the next",
                "{what}: {next:?}"
            );
        }
    }
}

/// The body behind a head on a connection that ends with it.
fn rest(client: &mut Client, head: &Response) -> Vec<u8> {
    let mut body = Vec::new();
    if head.field("transfer-encoding").is_some() {
        while let Ok(Some(data)) = client.chunk() {
            body.extend(data);
        }
    } else {
        let mut byte = [0];
        let length: usize = head
            .field("content-length")
            .map_or(0, |n| n.parse().unwrap());
        for _ in 0..if head.status == 304 { 0 } else { length } {
            client.read_exact(&mut byte);
            body.push(byte[0]);
        }
    }
    body
}

/// The log says that an answer was cut.
fn noted(alvus: &Alvus) {
    eventually("the log says so", || {
        let log = alvus.log();
        log.contains("warn: the upstream broke off an answer") && log.contains("(cut short)")
    });
}

#[test]
fn malformed_chunks_break_the_answer_off() {
    for bad in [
        "-2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "\r\n",
        "2",
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let first = chunk("{\"half\":");
        let (go, gone) = gate();
        let gone = std::sync::Mutex::new(Some(gone));
        let upstream = Upstream::new(move |_| {
            let (first, gone) = (first.clone(), gone.lock().unwrap().take());
            Act::Do(Box::new(move |stream| {
                let _ = stream.write_all((head.to_string() + &first).as_bytes());
                let _ = gone.map(|gone| gone.recv_timeout(PATIENCE));
                let _ = stream.write_all(bad.as_bytes());
            }))
        });
        let alvus = before(&upstream.base_url(), &[]);
        let mut client = alvus.connect();
        client.send(CHAT);
        assert_eq!(client.head().status, 200);
        assert_eq!(client.chunk().unwrap().unwrap(), b"{\"half\":");
        go.send(()).unwrap();
        let mut left = client.chunk();
        while let Ok(Some(_)) = left {
            left = client.chunk();
        }
        assert!(left.is_err(), "{bad:?} looks like a clean end");
        noted(&alvus);
        assert_eq!(alvus.states(), ["ready"]);
    }
}

#[test]
fn a_gzip_that_breaks_off_is_cut_and_not_continued_in_plain_text() {
    let head = SSE_HEAD.replace("Transfer", "Content-Encoding: gzip\r\nTransfer");
    let upstream = answers(format!("{head}{}", chunk("\x1f\x7f\x08 half")));
    let alvus = before(&upstream.base_url(), &[]);
    let response = alvus.ask();
    assert_eq!((response.status, response.whole), (200, false));
    assert_eq!(response.text(), "\x1f\x7f\x08 half");
    noted(&alvus);
}

fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_endless_body_costs_no_memory_and_ends_with_the_client() {
    let (ended, end) = channel();
    let upstream = Upstream::new(move |_| {
        let ended = ended.clone();
        Act::Do(Box::new(move |stream| {
            let _ = stream.write_all(SSE_HEAD.as_bytes());
            let piece = chunk(&"x".repeat(65_536));
            while stream.write_all(piece.as_bytes()).is_ok() {}
            let _ = ended.send(());
        }))
    });
    let alvus = before(&upstream.base_url(), &[]);
    let mut client = alvus.connect();
    client.send(CHAT);
    client.head();
    let mut piece = vec![0; 1024 * 1024];
    client.read_exact(&mut piece);
    let early = rss_kib(alvus.pid());
    for _ in 0..64 {
        client.read_exact(&mut piece);
    }
    let late = rss_kib(alvus.pid());
    assert!(late < early + 1024, "{early} KiB, then {late} KiB");
    client.leave();
    end.recv_timeout(PATIENCE).expect("alvus hangs up");
    eventually("it is noted", || alvus.log().contains("the client left"));
    assert_eq!(alvus.states(), ["ready"]);
}

#[test]
fn a_refusal_whose_words_drip_or_never_end_does_not_hold_the_next_key_up() {
    for (status, pause) in [
        (429, PAUSE),
        (429, Duration::from_millis(1)),
        (401, PAUSE),
        (403, PAUSE),
    ] {
        let upstream = Upstream::new(move |seen| match seen.key_index() {
            0 => Act::Do(Box::new(move |stream| {
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 9999999\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                stream.set_read_timeout(Some(pause)).unwrap();
                while stream.write_all(b"slow").is_ok() {
                    if stream.read(&mut [0]).is_ok() {
                        return;
                    }
                }
            })),
            _ => ok(),
        });
        let alvus = Alvus::before(&upstream);
        assert_eq!(alvus.ask().status, 200, "{status}");
    }
}

#[test]
fn an_upload_that_the_upstream_does_not_take_is_a_timeout() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts, and reads nothing
    let url = format!("http://{}/v1", upstream.local_addr().unwrap());
    let alvus = before(&url, &[]);
    let mut client = alvus.connect();
    let length = 16 * 1024 * 1024;
    client.send(format!(
        "POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    ));
    client.send(vec![b'x'; length]);
    let response = client.response();
    assert_eq!(
        (response.status, &response.json()["error"]["code"]),
        (504, &"upstream_timeout".into())
    );
    assert_eq!(alvus.states(), ["ready"]);
}

/// Refuses the first key as soon as it has seen the head of a request, and closes.
fn refuses_early(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            if String::from_utf8(head).unwrap().contains(KEYS[0]) {
                let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nearly");
                let _ = stream.write_all(text.as_bytes());
                continue; // closed with bytes unread, which is a reset
            }
            let mut body = vec![0; UPLOAD];
            if stream.read_exact(&mut body).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}");
            }
        }
    });
    url
}

const UPLOAD: usize = 8 * 1024 * 1024;

#[test]
fn an_answer_that_does_not_wait_for_the_upload_is_heard() {
    for (status, expected) in [(429, 200), (401, 200), (413, 413)] {
        let keys = KEYS.join(",");
        let alvus = before(&refuses_early(status), &[("API_KEYS", &keys)]);
        let mut client = alvus.connect();
        client.send(format!(
            "POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: {UPLOAD}\r\n\r\n"
        ));
        client.send(vec![b'x'; UPLOAD]);
        let response = client.response();
        assert_eq!(response.status, expected, "{}", response.text());
    }
}

// ---- a captive portal ---------------------------------------------------------------------------

#[test]
fn a_web_page_passes_and_the_log_wonders_about_it_once() {
    for (status, fields) in [
        (200, "Content-Type: text/html; charset=utf-8\r\n"),
        (
            302,
            "Content-Type: Text/HTML\r\nLocation: http://login.example/\r\n",
        ),
    ] {
        let page = "<html>Welcome to the hotel</html>";
        let mut script = vec![answer(status, fields, page), answer(status, fields, page)];
        script.extend([ok(), answer(status, fields, page)]);
        let upstream = Upstream::scripted(script);
        let alvus = before(&upstream.base_url(), &[]);
        let wondered = |times: usize| {
            let count = || alvus.log().matches("a captive portal").count();
            eventually("the log wonders", || count() >= times);
            assert_eq!(count(), times);
        };
        for _ in 0..2 {
            let response = alvus.ask();
            assert_eq!((response.status, response.text()), (status, page));
            wondered(1);
        }
        assert_eq!(alvus.ask().status, 200);
        alvus.ask();
        wondered(2); // it was away in between
        assert_eq!(alvus.states(), ["ready"]);
    }
}

#[test]
fn an_error_in_html_is_nothing_to_wonder_about() {
    let upstream = answers("HTTP/1.1 404 X\r\nContent-Type: text/html\r\n\r\n<html>");
    let alvus = before(&upstream.base_url(), &[]);
    assert_eq!(alvus.ask().status, 404);
    assert!(!alvus.log().contains("captive"), "{}", alvus.log());
}

// ---- TLS ----------------------------------------------------------------------------------------

/// A CA for one test, and what it signs for `localhost`.
struct Ca(TempDir);

impl Ca {
    fn new() -> Ca {
        let ca = Ca(TempDir::new());
        ca.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem");
        ca.0.write("index", "");
        ca.0.write(
            "conf",
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\n\
             default_md=sha256\nunique_subject=no\npolicy=p\n[p]\ncommonName=supplied\n",
        );
        ca
    }

    fn openssl(&self, line: &str) {
        let out = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(&self.0.0)
            .output()
            .expect("openssl is installed");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "openssl {line}:\n{said}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    /// What alvus needs to trust this CA.
    fn file(&self) -> String {
        self.path("ca.pem").display().to_string()
    }

    /// Server settings with a certificate for `name`, good between two dates (YYMMDD).
    fn server(&self, name: &str, from: &str, to: &str) -> Arc<rustls::ServerConfig> {
        self.0
            .write("names", &format!("[v]\nsubjectAltName=DNS:{name}\n"));
        self.openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -keyout key.pem -out csr.pem");
        self.openssl(&format!("ca -batch -notext -config conf -cert ca.pem -keyfile ca.key -in csr.pem -out cert.pem -startdate {from}000000Z -enddate {to}000000Z -extfile names -extensions v"));
        self.shown()
    }

    /// Server settings with what lies there as `cert.pem` and `key.pem`.
    fn shown(&self) -> Arc<rustls::ServerConfig> {
        shows(&self.0)
    }

    fn good(&self) -> Arc<rustls::ServerConfig> {
        self.server("localhost", "200101", "491231")
    }
}

/// Server settings with the certificate and the key in this directory.
fn shows(dir: &TempDir) -> Arc<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(dir.0.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.0.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key);
    Arc::new(config.unwrap())
}

/// A TLS upstream that says this to every request and ends the connection, with a close_notify or
/// without. Returns its base URL.
fn tls_upstream(config: Arc<rustls::ServerConfig>, say: &'static str, notify: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}/v1",
        listener.local_addr().unwrap().port()
    );
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, socket);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"}") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(say.as_bytes());
            if notify {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
        }
    });
    url
}

const OVER_TLS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nover TLS";

#[test]
fn certificates_that_do_not_hold_are_named_as_such() {
    let ca = Ca::new();
    let file = ca.file();
    let trust = [("SSL_CERT_FILE", file.as_str())];
    let expired = ca.server("localhost", "200101", "200102");
    hopeless(
        &tls_upstream(expired, OVER_TLS, true),
        &trust,
        "expired on Thu, 02 Jan 2020",
    );
    let early = ca.server("localhost", "481231", "491231");
    unreachable(
        &tls_upstream(early, OVER_TLS, true),
        &trust,
        "not valid yet",
    );
    let other = ca.server("other.test", "200101", "491231");
    let other = tls_upstream(other, OVER_TLS, true);
    hopeless(
        &other,
        &trust,
        "not valid for localhost but for other.test: another host",
    );
    let good = tls_upstream(ca.good(), OVER_TLS, true);
    hopeless(&good, &[], "not signed by a CA that alvus knows");
    hopeless(&good, &[], "SSL_CERT_FILE");
    assert_eq!(before(&good, &trust).ask().text(), "over TLS");
}

/// A server certificate as people make one: `openssl req -x509`, and these words.
fn self_signed(dir: &TempDir, words: &str) -> (Arc<rustls::ServerConfig>, String) {
    let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem";
    let made = Command::new("openssl")
        .args(line.split(' '))
        .args(words.split(' '))
        .current_dir(&dir.0)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let file = dir.0.join("cert.pem").display().to_string();
    (shows(dir), file)
}

#[test]
fn a_self_signed_certificate_is_accepted_where_it_is_listed_and_for_a_host_it_names() {
    let fine = [
        "-days 2 -subj /CN=localhost", // no subjectAltName: the name is in the subject
        "-days 2 -subj /O=home/CN=LOCALHOST/OU=x",
        "-days 2 -subj /CN=x -addext subjectAltName=DNS:localhost",
        "-days 2 -subj /CN=localhost -addext basicConstraints=critical,CA:FALSE",
    ];
    for words in fine {
        let dir = TempDir::new();
        let (config, file) = self_signed(&dir, words);
        let url = tls_upstream(config, OVER_TLS, true);
        let trust = [("SSL_CERT_FILE", file.as_str())];
        let answer = before(&url, &trust).ask();
        assert_eq!(answer.text(), "over TLS", "{words}");
    }
    let other = TempDir::new();
    let (_, elsewhere) = self_signed(&other, "-days 2 -subj /CN=localhost");
    for (words, listed, why) in [
        (
            "-days 2 -subj /CN=other.test",
            true,
            "not valid for localhost",
        ),
        (
            "-days 2 -subj /CN=localhost.test",
            true,
            "not valid for localhost",
        ),
        (
            "-days 2 -subj /CN=localhost/CN=x",
            true,
            "not valid for localhost",
        ),
        (
            "-days 2 -subj /CN=localhost -addext subjectAltName=DNS:other.test",
            true,
            "but for other.test",
        ),
        ("-days 2 -subj /CN=localhost", false, "SSL_CERT_FILE"),
    ] {
        let dir = TempDir::new();
        let (config, file) = self_signed(&dir, words);
        let file = if listed { file } else { elsewhere.clone() };
        let url = tls_upstream(config, OVER_TLS, true);
        hopeless(&url, &[("SSL_CERT_FILE", file.as_str())], why);
    }
    // Its dates hold for it too.
    let ca = Ca::new();
    ca.0.write("names", "[v]\nbasicConstraints=CA:TRUE\n");
    ca.openssl("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem -out csr.pem");
    ca.openssl("ca -batch -notext -config conf -selfsign -keyfile key.pem -in csr.pem -out cert.pem -startdate 200101000000Z -enddate 200102000000Z -extfile names -extensions v");
    let url = tls_upstream(ca.shown(), OVER_TLS, true);
    let file = ca.path("cert.pem").display().to_string();
    hopeless(&url, &[("SSL_CERT_FILE", file.as_str())], "expired on");
}

#[test]
fn an_end_without_close_notify_is_no_end_of_a_body() {
    let ca = Ca::new();
    let file = ca.file();
    let trust = [("SSL_CERT_FILE", file.as_str())];
    let until_close = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf";
    for (say, notify, whole) in [
        (until_close, false, false),
        (until_close, true, true),
        (OVER_TLS, false, true), // complete by its length
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            false,
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            true,
            false,
        ),
    ] {
        let alvus = before(&tls_upstream(ca.good(), say, notify), &trust);
        let response = alvus.ask();
        assert_eq!(
            (response.status, response.whole),
            (200, whole),
            "{say} {notify}"
        );
        if !whole {
            noted(&alvus);
        }
        assert_eq!(alvus.states(), ["ready"]);
    }
}

#[test]
fn an_end_before_the_head_over_tls_is_a_broken_upstream() {
    let ca = Ca::new();
    let file = ca.file();
    for notify in [false, true] {
        let alvus = before(
            &tls_upstream(ca.good(), "", notify),
            &[("SSL_CERT_FILE", &file)],
        );
        refused(&alvus, 502, "upstream_broke", "the connection");
    }
}

/// Listens, and says this to whoever connects, at once.
fn greets(greeting: &'static [u8]) -> (String, std::sync::mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}/v1",
        listener.local_addr().unwrap().port()
    );
    let (done, wait) = gate();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(greeting);
            if greeting.is_empty() {
                let _ = wait.recv_timeout(PATIENCE);
            }
        }
    });
    (url, done)
}

#[test]
fn a_server_without_tls_is_named_as_such() {
    let (url, _done) = greets(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    hopeless(&url, &[], "it does not speak TLS");
}

#[test]
fn a_refused_handshake_is_named_as_such() {
    let (url, _done) = greets(b"\x15\x03\x03\x00\x02\x02\x28"); // fatal: handshake_failure
    hopeless(
        &url,
        &[],
        "it refused the TLS handshake (handshake failure)",
    );
}

#[test]
fn a_handshake_that_stalls_is_an_unreachable_upstream() {
    let (url, _done) = greets(b"");
    unreachable(&url, &[], "timed out");
}

#[test]
fn a_handshake_that_breaks_off_is_an_unreachable_upstream() {
    let (url, _done) = greets(b"\x16\x03\x03\x00\x50");
    unreachable(&url, &[], "it closed the connection");
}

/// rustls declines (RFC 5246 §7.2.2, no_renegotiation), and OpenSSL takes that for an end.
#[test]
fn a_renegotiation_that_the_upstream_wants_is_declined() {
    let ca = Ca::new();
    ca.good(); // leaves cert.pem and key.pem there
    for begun in [false, true] {
        let mut server = Command::new("openssl")
            .args(["s_server", "-tls1_2", "-accept", "127.0.0.1:0"])
            .args(["-cert", "cert.pem", "-key", "key.pem"])
            .current_dir(&ca.0.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let mut orders = server.stdin.take().unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it listens");
        }
        let port = line.trim_end().rsplit(':').next().unwrap().to_string();
        let file = ca.file();
        let alvus = before(
            &format!("https://localhost:{port}/v1"),
            &[
                ("SSL_CERT_FILE", &file),
                ("FIRST_BYTE_TIMEOUT_SEC", "30"),
                ("IDLE_TIMEOUT_SEC", "30"),
            ],
        );
        let (come, came) = channel();
        std::thread::scope(|scope| {
            let alvus = &alvus;
            let asked = scope.spawn(move || {
                if !begun {
                    return refused(alvus, 502, "upstream_broke", "handshake failure");
                }
                let mut client = alvus.connect();
                client.send(CHAT);
                assert_eq!(client.head().status, 200);
                let mut half = [0; 4];
                client.read_exact(&mut half);
                come.send(()).unwrap();
                assert!(client.ended(), "cut");
                noted(alvus);
                assert_eq!(alvus.states(), ["ready"]);
            });
            let mut request = Vec::new();
            while !request.ends_with(b"{\"model\":\"m\"}") {
                let mut byte = [0];
                said.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            if begun {
                orders
                    .write_all(b"HTTP/1.1 200 OK\nContent-Length: 20\n\nhalf")
                    .unwrap();
                // Only what one read begins with is an order.
                came.recv_timeout(PATIENCE).expect("the answer begins");
            }
            orders.write_all(b"R\n").unwrap();
            asked.join().unwrap();
        });
        let _ = server.kill();
        let _ = server.wait();
    }
}

#[test]
fn a_tls_session_survives_a_reload_that_changes_neither_target_nor_trust() {
    let ca = Ca::new();
    let config = ca.good();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, socket);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"}") && matches!(stream.read(&mut byte), Ok(1)) {
                request.push(byte[0]);
            }
            let _ = stream.write_all(OVER_TLS.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = tell.send(stream.conn.handshake_kind());
        }
    });
    let text = |more: &str| {
        format!(
            "TARGET_BASE_URL=https://localhost:{port}/v1\nAPI_KEYS={}\nSSL_CERT_FILE={}\n{more}",
            KEYS[0],
            ca.file()
        )
    };
    let dir = TempDir::new();
    let path = dir.write("alvus.env", &text(""));
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    let handshake = || {
        assert_eq!(alvus.ask().text(), "over TLS");
        told.recv_timeout(PATIENCE).unwrap().unwrap()
    };
    use rustls::HandshakeKind::{Full, Resumed};
    assert_eq!(handshake(), Full);
    assert_eq!(handshake(), Resumed);
    for (at, more) in ["COOLDOWN_SEC=9\n", "CONNECT_TIMEOUT_SEC=9\n"]
        .iter()
        .enumerate()
    {
        dir.write("alvus.env", &text(more));
        alvus.signal("HUP");
        eventually("it is taken in", || {
            alvus.log().matches("info: reloaded: ").count() == at + 1
        });
        assert_eq!(handshake(), Resumed, "{more}");
    }
}

/// OpenSSL's server takes the first of its client's ciphers that it has, unless it is told otherwise.
#[test]
fn a_server_that_honours_the_order_gets_the_cipher_that_costs_this_cpu_least() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |word: &str| {
        let flags = cpu
            .lines()
            .find(|l| l.starts_with("flags") || l.starts_with("Features"));
        flags.is_some_and(|l| l.split_whitespace().any(|w| w == word))
    };
    let fast = has("aes") && (has("pclmulqdq") || has("pmull"));
    let [one, other] = match fast {
        true => ["AES128-GCM-SHA256", "AES_128_GCM_SHA256"],
        false => ["CHACHA20-POLY1305", "CHACHA20_POLY1305_SHA256"],
    };
    let ca = Ca::new();
    ca.good(); // leaves cert.pem and key.pem there
    let file = ca.file();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut server = Command::new("openssl")
            .args(["s_server", version, "-accept", "127.0.0.1:0", "-www"])
            .args(["-cert", "cert.pem", "-key", "key.pem"])
            .current_dir(&ca.0.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let mut said = BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it listens");
        }
        let port = line.trim_end().rsplit(':').next().unwrap();
        let alvus = before(
            &format!("https://localhost:{port}"),
            &[("SSL_CERT_FILE", &file), ("FIRST_BYTE_TIMEOUT_SEC", "30")],
        );
        // Its page tells of the connection.
        let mut client = alvus.connect();
        client.send("GET /page HTTP/1.1\r\nHost: alvus\r\n\r\n");
        let page = client.response().text().to_string();
        let _ = server.kill();
        let _ = server.wait();
        let line = page
            .lines()
            .find(|l| l.contains("Cipher is"))
            .unwrap_or_default();
        assert!(
            line.contains(one) || line.contains(other),
            "{version}: {page}"
        );
    }
}
