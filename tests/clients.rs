//! Real clients and real servers, not written here: what their users would see through alvus.
//!
//! `make clients` installs them; without them these tests fail and say so.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::provider::{Limit, Provider};
use common::{Alvus, KEYS, TempDir, eventually};

/// Where `tests/clients/setup` put them.
fn installed(what: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::env::var_os("ALVUS_CLIENTS_DIR")
        .map_or_else(|| root.join("target/clients"), PathBuf::from);
    let path = dir.join(what);
    assert!(
        path.exists(),
        "{} is missing: run `make clients`",
        path.display()
    );
    path
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// A limit that a handful of requests runs into, and that passes within a test.
const TIGHT: Limit = Limit {
    requests: 3,
    window: Duration::from_millis(900),
    hints: true,
};

fn alvus_before(provider: &Provider) -> Alvus {
    Alvus::before_with(
        &provider.upstream,
        &[("COOLDOWN_SEC", "1"), ("LOG", "debug")],
    )
}

/// Runs a client to its end; shows what it said if it failed.
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdin(Stdio::null()).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    assert!(status.success(), "{status}:\n{said}");
    said
}

/// The limits bit, the client saw nothing of them, and its own key stayed down.
fn limits_were_hidden(provider: &Provider, log: &str) {
    assert!(
        provider.refused() > 0,
        "the limits never bit, so this proves nothing"
    );
    for seen in provider.upstream.seen() {
        assert!(
            KEYS.contains(&seen.key.as_deref().unwrap()),
            "a key that is not the pool's"
        );
        let ours = seen
            .fields
            .iter()
            .any(|(_, value)| value.windows(11).any(|w| w == b"the-clients"));
        assert!(!ours, "the client's own key went up");
    }
    assert!(!log.contains("-> 429"), "alvus answered 429:\n{log}");
}

#[test]
fn openai_python_sdk_sees_no_429_while_the_keys_are_limited() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    let said = run(Command::new(installed("sdk/bin/python"))
        .arg(script("python_sdk.py"))
        .env("OPENAI_BASE_URL", alvus.url() + "/v1"));
    assert_eq!(said.matches(": ok").count(), 8, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

#[test]
fn openai_python_sdk_sees_no_429_from_a_provider_without_hints() {
    let provider = Provider::start(Limit {
        hints: false,
        ..TIGHT
    });
    let alvus = alvus_before(&provider);
    run(Command::new(installed("sdk/bin/python"))
        .arg(script("python_sdk.py"))
        .env("OPENAI_BASE_URL", alvus.url() + "/v1"));
    limits_were_hidden(&provider, &alvus.log());
}

#[test]
fn openai_node_sdk_sees_no_429_while_the_keys_are_limited() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    // Node looks for packages beside the script.
    let dir = installed("node/node_modules");
    let copy = dir.with_file_name("node_sdk.mjs");
    std::fs::copy(script("node_sdk.mjs"), &copy).unwrap();
    let said = run(Command::new("node")
        .arg(copy)
        .env("OPENAI_BASE_URL", alvus.url() + "/v1"));
    assert_eq!(said.matches(": ok").count(), 3, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

/// The provider speaks chat completions only.
#[cfg(feature = "messages")]
#[test]
fn anthropics_python_sdk_speaks_through_alvus_and_never_has_to_repeat() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    let said = run(Command::new(installed("sdk/bin/python"))
        .arg(script("anthropic_sdk.py"))
        .env("ANTHROPIC_BASE_URL", alvus.url()));
    assert_eq!(said.matches(": ok").count(), 11, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

#[cfg(feature = "messages")]
#[test]
fn anthropics_node_sdk_speaks_through_alvus_and_never_has_to_repeat() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    let copy = installed("node/node_modules").with_file_name("anthropic_sdk.mjs");
    std::fs::copy(script("anthropic_sdk.mjs"), &copy).unwrap();
    let said = run(Command::new("node")
        .arg(copy)
        .env("ANTHROPIC_BASE_URL", alvus.url()));
    assert_eq!(said.matches(": ok").count(), 9, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

/// The provider speaks chat completions only.
#[cfg(feature = "responses")]
#[test]
fn openais_python_sdk_and_agents_speak_responses_through_alvus() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    let said = run(Command::new(installed("sdk/bin/python"))
        .arg(script("responses_sdk.py"))
        .env("OPENAI_BASE_URL", alvus.url() + "/v1"));
    assert_eq!(said.matches(": ok").count(), 16, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

#[cfg(feature = "responses")]
#[test]
fn openais_node_sdk_speaks_responses_through_alvus() {
    let provider = Provider::start(TIGHT);
    let alvus = alvus_before(&provider);
    let copy = installed("node/node_modules").with_file_name("responses_sdk.mjs");
    std::fs::copy(script("responses_sdk.mjs"), &copy).unwrap();
    let said = run(Command::new("node")
        .arg(copy)
        .env("OPENAI_BASE_URL", alvus.url() + "/v1"));
    assert_eq!(said.matches(": ok").count(), 9, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

#[test]
fn curl_sees_no_429_and_gets_every_shape_of_request_through() {
    // A process per request is slow on a busy machine, so one request a window it is.
    let provider = Provider::start(Limit {
        requests: 1,
        ..TIGHT
    });
    let alvus = alvus_before(&provider);
    let dir = TempDir::new();
    let said = run(Command::new(script("curl.sh"))
        .env("BASE_URL", alvus.url() + "/v1")
        .env("TMP", &dir.0));
    assert_eq!(said.matches(": ok").count(), 17, "{said}");
    limits_were_hidden(&provider, &alvus.log());
}

#[test]
fn a_coding_agent_writes_its_file_while_every_key_is_limited() {
    // Two requests a key, used up before the agent comes: its first one meets three 429s.
    let limit = Limit {
        requests: 2,
        window: Duration::from_secs(40),
        hints: true,
    };
    let provider = Provider::start(limit);
    let alvus = alvus_before(&provider);
    let dir = TempDir::new();
    for _ in 0..6 {
        assert_eq!(alvus.ask().status, 200);
    }
    run(Command::new(script("agent.sh"))
        .env("AIDER", installed("agent/bin/aider"))
        .env("OPENAI_API_BASE", alvus.url() + "/v1")
        .env("OPENAI_API_KEY", "sk-the-clients-own")
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True") // nothing is fetched
        .env("HOME", &dir.0)
        .env("TMP", &dir.0));
    limits_were_hidden(&provider, &alvus.log());
}

// ---- real servers -------------------------------------------------------------------------------

/// A port that was free a moment ago; programs cannot be handed a listener.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A server program on a loopback port; killed and waited for at the end.
struct Daemon {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Daemon {
    fn start(dir: TempDir, port: u16, command: &mut Command) -> Daemon {
        let log = std::fs::File::create(dir.0.join("daemon.log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the server program is installed (make clients)");
        let mut daemon = Daemon {
            child,
            port,
            _dir: dir,
        };
        eventually("the server listens", || {
            assert!(
                daemon.child.try_wait().unwrap().is_none(),
                "{}",
                daemon.log()
            );
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        daemon
    }

    /// nginx with this inside of `server { listen …; }`. `listen` may say more, such as `ssl`.
    fn nginx(dir: TempDir, listen: &str, server: &str) -> Daemon {
        let port = free_port();
        let root = dir.0.display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {root}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; default_type text/plain;\n{temp}\
             server {{ listen 127.0.0.1:{port} {listen}; root {root};\n{server} }} }}\n"
        );
        let file = dir.write("nginx.conf", &config);
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"]
            .into_iter()
            .find(|p| Path::new(p).exists());
        let mut command = Command::new(program.unwrap_or("nginx"));
        command.arg("-c").arg(file).args(["-e", "stderr"]);
        Daemon::start(dir, port, &mut command)
    }

    fn httpbin() -> Daemon {
        let port = free_port();
        let listen = format!("--listen=127.0.0.1:{port}");
        let mut command = Command::new(installed("sdk/bin/waitress-serve"));
        command.args([&listen, "httpbin:app"]);
        Daemon::start(TempDir::new(), port, &mut command)
    }

    fn alvus(&self) -> Alvus {
        let url = format!("http://127.0.0.1:{}", self.port);
        Alvus::start(&[("API_KEYS", KEYS[0]), ("TARGET_BASE_URL", &url)])
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._dir.0.join("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // SIGTERM, so that nginx takes its workers along.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

#[test]
fn httpbin_sees_the_request_as_it_was_meant() {
    let httpbin = Daemon::httpbin();
    let alvus = httpbin.alvus();
    let mut client = alvus.connect();
    client.send(
        "POST /anything/a%2Fb?q=1%20x&q=2 HTTP/1.1\r\nHost: alvus\r\nAuthorization: Bearer sk-own\r\n\
         X-Api-Key: sk-own\r\nCookie: session=1\r\nX-Forwarded-For: 10.0.0.7\r\nConnection: X-Hop\r\n\
         X-Hop: 1\r\nX-Kept: yes\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    );
    let seen = client.response().json();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["data"], "hello");
    assert_eq!(seen["args"]["q"], serde_json::json!(["1 x", "2"]));
    let fields = &seen["headers"];
    // The key went up, and what comes back of it are its last four characters.
    let (hidden, shown) = KEYS[0].split_at(KEYS[0].len() - 4);
    let masked = format!("Bearer {}{shown}", "*".repeat(hidden.len()));
    assert_eq!(fields["Authorization"], masked);
    assert_eq!(fields["Host"], format!("127.0.0.1:{}", httpbin.port));
    assert_eq!(fields["Accept-Encoding"], "identity");
    assert_eq!(fields["Content-Length"], "5");
    assert_eq!(fields["X-Kept"], "yes");
    for gone in [
        "X-Api-Key",
        "Cookie",
        "X-Forwarded-For",
        "X-Hop",
        "Connection",
    ] {
        assert!(fields.get(gone).is_none(), "{gone} went up: {fields}");
    }
}

#[test]
fn answers_of_httpbin_come_back_as_they_are() {
    let httpbin = Daemon::httpbin();
    let alvus = httpbin.alvus();
    let get = |path: &str, more: &str| {
        let mut client = alvus.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n"));
        client.response()
    };
    assert_eq!(get("/status/418", "").status, 418);
    let redirect = get("/redirect-to?url=http%3A%2F%2Fexample.invalid%2F", "");
    assert_eq!(
        (redirect.status, redirect.field("location")),
        (302, Some("http://example.invalid/"))
    );
    let zipped = get("/gzip", "Accept-Encoding: gzip\r\n");
    assert_eq!(zipped.field("content-encoding"), Some("gzip"));
    assert_eq!(zipped.body[..2], [0x1f, 0x8b], "still gzip");
    assert_eq!(get("/stream/5", "").text().lines().count(), 5);
    assert_eq!(get("/bytes/100000?seed=1", "").body.len(), 100_000);
    assert_eq!(
        get("/response-headers?x-one=1", "").field("x-one"),
        Some("1")
    );
}

#[test]
fn nginx_serves_files_through_alvus_over_kept_connections() {
    let dir = TempDir::new();
    let large: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    dir.write("large.txt", &large);
    dir.write("small.txt", "small");
    let nginx = Daemon::nginx(dir, "", "");
    let alvus = nginx.alvus();
    let mut client = alvus.connect();
    for _ in 0..3 {
        client.send("GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.response().text(), "small");
        client.send("GET /large.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(client.response().text() == large);
        client.send("HEAD /large.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = client.head();
        assert_eq!(
            head.field("content-length"),
            Some(large.len().to_string().as_str())
        );
        client.send("GET /missing HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.response().status, 404);
    }
}

#[test]
fn a_provider_with_a_private_ca_is_reached_through_ssl_cert_file() {
    let dir = TempDir::new();
    let at = |name: &str| dir.0.join(name).display().to_string();
    let openssl = |line: &str| {
        let words = line
            .split(' ')
            .map(|w| w.replace("DIR", &dir.0.display().to_string()));
        run(Command::new("openssl").args(words));
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout DIR/ca.key -out DIR/ca.pem",
    );
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout DIR/key.pem -out DIR/csr.pem");
    dir.write("names", "subjectAltName=DNS:localhost");
    openssl(
        "x509 -req -in DIR/csr.pem -CA DIR/ca.pem -CAkey DIR/ca.key -CAcreateserial -days 2 -extfile DIR/names -out DIR/cert.pem",
    );
    dir.write("small.txt", "over TLS");
    let ca = at("ca.pem");
    let server = format!(
        "ssl_certificate {};\nssl_certificate_key {};",
        at("cert.pem"),
        at("key.pem")
    );
    let nginx = Daemon::nginx(dir, "ssl", &server);
    let url = format!("https://localhost:{}", nginx.port);
    let env = [
        ("API_KEYS", KEYS[0]),
        ("TARGET_BASE_URL", url.as_str()),
        ("MAX_WAIT_SEC", "0"),
    ];

    let trusting = Alvus::start(&[&env[..], &[("SSL_CERT_FILE", ca.as_str())]].concat());
    let mut client = trusting.connect();
    for _ in 0..2 {
        client.send("GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.response().text(), "over TLS");
    }

    let distrusting = Alvus::start(&env);
    let refused = distrusting.ask();
    assert_eq!(refused.status, 502);
    assert!(refused.text().contains("certificate"), "{}", refused.text());
    assert_eq!(distrusting.states(), ["ready"], "the key is not to blame");
}
