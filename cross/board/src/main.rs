//! The board's other end: a fake provider, a client that notes when things arrive, and a stop
//! watch for TLS handshakes. Test equipment: it trusts its peers and unwraps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};

const USAGE: &str =
    "board provider PORT [CERT KEY] | health PORT | ask PORT JSON | handshake CA CERT KEY
  provider   answers chat requests; keys beginning sk-busy get a 429; GET /counts says what was
             asked; over TLS each handshake is a line on standard error: full, resumed or refused
  health     waits for GET /health and prints the uptime in ms at its answer, then the answer
  ask        posts JSON to /v1/chat/completions and prints `MS line` as each line arrives
  handshake  prints the mean ms of a full and of a resumed TLS 1.3 handshake, client's side";

/// Time between two events of a streamed answer: far above what a busy emulator adds.
const EVENT_GAP: Duration = Duration::from_millis(500);
const EVENTS: u32 = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["provider", port] => provider(port, None),
        ["provider", port, cert, key] => provider(port, Some(server_config(cert, key))),
        ["health", port] => health(port),
        ["ask", port, json] => ask(port, json),
        ["handshake", ca, cert, key] => handshake(ca, cert, key),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

// --- the fake provider

#[derive(Default)]
struct Counts {
    good: AtomicU32,
    busy: AtomicU32,
}

fn bump(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn provider(port: &str, tls: Option<Arc<ServerConfig>>) {
    let counts = Arc::new(Counts::default());
    for stream in TcpListener::bind(format!("127.0.0.1:{port}"))
        .unwrap()
        .incoming()
    {
        let (mut tcp, tls, counts) = (stream.unwrap(), tls.clone(), counts.clone());
        std::thread::spawn(move || {
            tcp.set_nodelay(true).unwrap();
            let Some(config) = tls else {
                let reader = BufReader::new(tcp.try_clone().unwrap());
                while serve(
                    &mut BufReader::new(reader.get_ref()),
                    &mut tcp,
                    &counts,
                    false,
                ) {}
                return;
            };
            let mut conn = ServerConnection::new(config).unwrap();
            while conn.is_handshaking() {
                if conn.complete_io(&mut tcp).is_err() {
                    return eprintln!("refused"); // a client that does not like the certificate
                }
            }
            match conn.handshake_kind() {
                Some(HandshakeKind::Resumed) => eprintln!("resumed"),
                _ => eprintln!("full"),
            }
            // One request a connection, so that the next request needs the next handshake.
            let mut stream = rustls::StreamOwned::new(conn, tcp);
            let (head, body) = read_request(&mut BufReader::new(&mut stream));
            answer(&head, &body, &mut stream, &counts, true);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });
    }
}

/// Reads and answers one request; whether another may follow.
fn serve(reader: &mut impl BufRead, writer: &mut impl Write, counts: &Counts, close: bool) -> bool {
    let (head, body) = read_request(reader);
    !head.is_empty() && answer(&head, &body, writer, counts, close)
}

fn read_request(reader: &mut impl BufRead) -> (String, String) {
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return Default::default();
    }
    (head, String::from_utf8_lossy(&body).into_owned())
}

fn answer(head: &str, body: &str, w: &mut impl Write, counts: &Counts, close: bool) -> bool {
    let get = |c: &AtomicU32| c.load(Ordering::Relaxed);
    let connection = if close { "connection: close\r\n" } else { "" };
    let mut whole = |status: &str, text: String| {
        let length = text.len();
        write!(w, "HTTP/1.1 {status}\r\n{connection}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{text}").is_ok()
    };
    if head.starts_with("get /counts") {
        return whole(
            "200 OK",
            format!("good={} busy={}\n", get(&counts.good), get(&counts.busy)),
        );
    }
    if head.contains("bearer sk-busy") {
        bump(&counts.busy);
        return whole(
            "429 Too Many Requests\r\nretry-after: 60",
            r#"{"error":{"message":"slow down"}}"#.into(),
        );
    }
    bump(&counts.good);
    if !body.contains(r#""stream":true"#) {
        return whole(
            "200 OK",
            r#"{"choices":[{"message":{"role":"assistant","content":"pong"}}]}"#.into(),
        );
    }
    let mut events = || -> std::io::Result<()> {
        write!(
            w,
            "HTTP/1.1 200 OK\r\n{connection}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )?;
        for n in 1..=EVENTS {
            let event = format!("data: {{\"n\":{n}}}\n\n");
            write!(w, "{:x}\r\n{event}\r\n", event.len())?;
            w.flush()?;
            sleep(EVENT_GAP);
        }
        write!(w, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")?;
        w.flush()
    };
    events().is_ok()
}

// --- the client

fn health(port: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(mut tcp) = TcpStream::connect(format!("127.0.0.1:{port}")) {
            let _ =
                tcp.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            let mut answer = String::new();
            if tcp.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200") {
                let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
                let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
                println!("{:.0}", seconds * 1000.0);
                println!("{}", answer.split("\r\n\r\n").nth(1).unwrap_or(""));
                return;
            }
        }
        if Instant::now() > deadline {
            eprintln!("no healthy answer on port {port} within 20 s");
            std::process::exit(1);
        }
        sleep(Duration::from_millis(2));
    }
}

fn ask(port: &str, json: &str) {
    let start = Instant::now();
    let Ok(mut tcp) = TcpStream::connect(format!("127.0.0.1:{port}")) else {
        return println!("0 nobody listens on port {port}");
    };
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(tcp, "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}", json.len()).unwrap();
    for line in BufReader::new(tcp).lines() {
        let Ok(line) = line else { break };
        println!("{} {}", start.elapsed().as_millis(), line.trim_end());
    }
}

// --- the stop watch

/// Handshakes measured for each mean.
const ROUNDS: u32 = 5;

fn handshake(ca: &str, cert: &str, key: &str) {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(std::fs::read(ca).unwrap()))
        .unwrap();
    let roots = Arc::new(roots);
    let server = server_config(cert, key);
    let client = || {
        Arc::new(
            ClientConfig::builder()
                .with_root_certificates(roots.clone())
                .with_no_client_auth(),
        )
    };
    install_ring();
    let (mut full, mut resumed) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let config = client(); // with an empty session cache
        let (kind, time) = one_handshake(&config, &server);
        assert_eq!(kind, HandshakeKind::Full);
        full += time;
        let (kind, time) = one_handshake(&config, &server);
        assert_eq!(kind, HandshakeKind::Resumed);
        resumed += time;
    }
    let mean = |d: Duration| d.as_secs_f64() * 1000.0 / f64::from(ROUNDS);
    println!("{:.1} {:.1}", mean(full), mean(resumed));
}

/// A handshake in memory; only what the client computes is timed.
fn one_handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> (HandshakeKind, Duration) {
    let spent = Mutex::new(Duration::ZERO);
    let timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        *spent.lock().unwrap() += start.elapsed();
    };
    let name = ServerName::try_from("localhost").unwrap();
    let mut c = None;
    timed(&mut || c = Some(ClientConnection::new(client.clone(), name.clone()).unwrap()));
    let mut c = c.unwrap();
    let mut s = ServerConnection::new(server.clone()).unwrap();
    // Two rounds after the handshake carry the session tickets.
    let mut rounds_left = 2;
    while rounds_left > 0 {
        let mut wire = Vec::new();
        timed(&mut || {
            while c.wants_write() {
                c.write_tls(&mut wire).unwrap();
            }
        });
        let mut wire = &wire[..];
        while !wire.is_empty() {
            s.read_tls(&mut wire).unwrap();
            s.process_new_packets().unwrap();
        }
        let mut wire = Vec::new();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        timed(&mut || {
            let mut wire = &wire[..];
            while !wire.is_empty() {
                c.read_tls(&mut wire).unwrap();
                c.process_new_packets().unwrap();
            }
        });
        if !c.is_handshaking() && !s.is_handshaking() {
            rounds_left -= 1;
        }
    }
    (c.handshake_kind().unwrap(), spent.into_inner().unwrap())
}

/// With the key exchanges of alvus (src/upstream/tls.rs).
fn install_ring() {
    use rustls::crypto::ring::{default_provider, kx_group};
    let mut provider = default_provider();
    provider.kx_groups = vec![
        #[cfg(not(target_arch = "x86"))]
        kx_group::X25519,
        kx_group::SECP256R1,
    ];
    let _ = provider.install_default();
}

fn server_config(cert: &str, key: &str) -> Arc<ServerConfig> {
    install_ring();
    let cert = CertificateDer::from(std::fs::read(cert).unwrap());
    let key = PrivateKeyDer::try_from(std::fs::read(key).unwrap()).unwrap();
    Arc::new(
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap(),
    )
}
