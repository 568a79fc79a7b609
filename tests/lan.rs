//! Who may ask: client keys, our names, web pages; and what the network sees of alvus' own pages.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use common::{Alvus, CHAT, Client, KEYS, Response, Upstream, answer, eventually, ok, run_alvus};

const PHONE: &str = "client-key-never-shown-aaaa0001";
const LAPTOP: &str = "client-key-never-shown-bbbb0002";

fn clients() -> String {
    format!("phone:{PHONE},laptop:{LAPTOP}")
}

/// One request with these lines in its head, on a connection of its own.
fn ask(addr: SocketAddr, request_line: &str, fields: &[&str]) -> Response {
    let mut client = Client::connect(addr);
    let mut head = format!("{request_line}\r\n");
    for field in fields {
        head += field;
        head += "\r\n";
    }
    client.send(head + "\r\n");
    client.response()
}

/// The answer to a question that is passed on each time, with these fields, which hold a Host.
fn models(addr: SocketAddr, fields: &[&str]) -> Response {
    ask(addr, "GET /v1/models/m HTTP/1.1", fields)
}

/// Our own address on a network, and alvus there; `None` where there is no network.
fn on_the_network(alvus: &Alvus) -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing; the kernel picks the way
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| SocketAddr::new(ip, alvus.addr.port()))
}

/// In OpenAI's shape, with this code, and without any key.
fn is_error(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    let error = &response.json()["error"];
    assert_eq!(error["code"], code);
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
    assert_eq!(error["type"], "invalid_request_error");
    assert!(!response.text().contains("never-shown"));
}

// ---- client keys --------------------------------------------------------------------------------

#[test]
fn a_client_with_a_key_may_ask_wherever_it_puts_the_key() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("CLIENT_KEYS", &clients())]);
    for field in [
        format!("Authorization: Bearer {PHONE}"),
        format!("authorization: bearer   {PHONE}"),
        format!("x-api-key: {LAPTOP}"),
        format!("API-KEY: {LAPTOP}"),
    ] {
        assert_eq!(
            models(alvus.addr, &["Host: localhost", &field]).status,
            200,
            "{field}"
        );
    }
    for seen in upstream.seen() {
        assert!(KEYS.contains(&seen.key.as_deref().unwrap()));
        for (name, value) in &seen.fields {
            let value = String::from_utf8_lossy(value);
            assert!(!value.contains("client-key"), "{name}: {value}");
        }
    }
    let both = [
        "Host: localhost",
        "Authorization: Basic eDp5",
        &format!("x-api-key: {PHONE}"),
    ];
    assert_eq!(models(alvus.addr, &both).status, 200);
}

#[test]
fn a_client_without_a_known_key_gets_401_and_nothing_goes_up() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("CLIENT_KEYS", &clients())]);
    let none = models(alvus.addr, &["Host: localhost"]);
    is_error(&none, 401, "missing_api_key");
    assert_eq!(
        none.field("www-authenticate"),
        Some("Bearer realm=\"alvus\"")
    );
    let short = &PHONE[..PHONE.len() - 1];
    for field in [
        format!("Authorization: Bearer {short}"),
        format!("Authorization: Bearer {PHONE}x"),
        format!("Authorization: Bearer {}", PHONE.to_uppercase()),
        format!("Authorization: Bearer phone:{PHONE}"),
        format!("Authorization: Bearer {}", KEYS[0]),
        "x-api-key:".into(),
        "api-key: \u{fc}".into(),
    ] {
        is_error(
            &models(alvus.addr, &["Host: localhost", &field]),
            401,
            "invalid_api_key",
        );
    }
    let empty = models(alvus.addr, &["Host: localhost", "Authorization: Bearer "]);
    is_error(&empty, 401, "missing_api_key");
    // The user name of a browser's dialogue opens the pages only.
    let basic = format!("Authorization: Basic {}", base64(&format!("me:{PHONE}")));
    assert_eq!(models(alvus.addr, &["Host: localhost", &basic]).status, 401);
    let mut poster = alvus.connect();
    poster.send(CHAT);
    is_error(&poster.response(), 401, "missing_api_key");
    assert!(poster.ended());
    assert_eq!(upstream.seen().len(), 0);
    assert!(!alvus.log().contains("client-key"), "{}", alvus.log());
}

#[test]
fn requests_are_counted_by_client_and_logged_with_its_name() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("CLIENT_KEYS", &clients())]);
    for key in [PHONE, LAPTOP, PHONE] {
        let key = format!("x-api-key: {key}");
        assert_eq!(models(alvus.addr, &["Host: localhost", &key]).status, 200);
    }
    assert_eq!(models(alvus.addr, &["Host: localhost"]).status, 401);
    let expected = serde_json::json!([
        {"name": "phone", "requests": 2, "tokens_in": 0, "tokens_out": 0},
        {"name": "laptop", "requests": 1, "tokens_in": 0, "tokens_out": 0}
    ]);
    assert_eq!(alvus.health()["clients"], expected);
    eventually("they are logged", || {
        alvus.log().matches(" client=phone ").count() == 2
            && alvus.log().contains(" client=laptop ")
    });
}

#[test]
fn a_reload_takes_over_the_clients_and_keeps_their_counts() {
    let upstream = Upstream::new(|_| ok());
    let dir = common::TempDir::new();
    let file = |clients: &str| {
        dir.write(
            "conf",
            &format!(
                "API_KEYS={}\nTARGET_BASE_URL={}\nCLIENT_KEYS={clients}\n",
                KEYS.join(","),
                upstream.base_url()
            ),
        )
    };
    let path = file(&clients());
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    let phone = format!("x-api-key: {PHONE}");
    let laptop = format!("x-api-key: {LAPTOP}");
    assert_eq!(models(alvus.addr, &["Host: a", &phone]).status, 200);
    assert_eq!(models(alvus.addr, &["Host: a", &laptop]).status, 200);
    file(&format!("phone:{PHONE}"));
    alvus.signal("HUP");
    eventually("it is taken over", || alvus.log().contains("reloaded"));
    assert_eq!(models(alvus.addr, &["Host: a", &laptop]).status, 401);
    assert_eq!(models(alvus.addr, &["Host: a", &phone]).status, 200);
    let expected =
        serde_json::json!([{"name": "phone", "requests": 2, "tokens_in": 0, "tokens_out": 0}]);
    assert_eq!(alvus.health()["clients"], expected);
}

// ---- the network --------------------------------------------------------------------------------

#[test]
fn the_network_is_not_let_in_without_client_keys_or_a_word() {
    for host in ["0.0.0.0", "::", "192.0.2.7"] {
        for args in [&[][..], &["check"]] {
            let env = [("API_KEYS", KEYS[0]), ("HOST", host), ("PORT", "0")];
            let (code, out, err) = run_alvus(args, &env, None);
            assert_eq!(
                (code, out.as_str(), err.lines().count()),
                (2, "", 1),
                "{err}"
            );
            for word in [
                "HOST (environment)",
                host,
                "CLIENT_KEYS=name:key",
                "OPEN_LAN=yes",
            ] {
                assert!(err.contains(word), "{err}");
            }
        }
    }
    let upstream = Upstream::new(|_| ok());
    let open = Alvus::before_with(&upstream, &[("HOST", "0.0.0.0"), ("OPEN_LAN", "yes")]);
    assert!(open.log().contains("warn: OPEN_LAN: "), "{}", open.log());
    let closed = [("HOST", "0.0.0.0"), ("CLIENT_KEYS", &*clients())];
    let closed = Alvus::before_with(&upstream, &closed);
    assert!(!closed.log().contains("warn: "), "{}", closed.log());
}

#[test]
fn client_keys_cannot_be_taken_away_while_alvus_still_listens_on_the_network() {
    let (upstream, dir) = (Upstream::new(|_| ok()), common::TempDir::new());
    let file = |lines: &str| {
        let url = upstream.base_url();
        dir.write(
            "conf",
            &format!("API_KEYS={}\nTARGET_BASE_URL={url}\n{lines}\n", KEYS[0]),
        )
    };
    let closed = format!("HOST=0.0.0.0\nCLIENT_KEYS={}", clients());
    let path = file(&closed);
    let alvus = Alvus::launch(&["--env-file", path.to_str().unwrap()], &[]);
    // HOST takes a restart, so the new file is not what it says.
    for lines in [
        "HOST=127.0.0.1",
        "HOST=localhost\nOPEN_LAN=yes",
        "OPEN_LAN=no",
    ] {
        let refused = alvus.log().matches("reload refused").count();
        file(lines);
        alvus.signal("HUP");
        eventually("it is refused", || {
            alvus.log().matches("reload refused").count() > refused
        });
        let addr = SocketAddr::new("127.0.0.1".parse().unwrap(), alvus.addr.port());
        is_error(&models(addr, &["Host: localhost"]), 401, "missing_api_key");
    }
    assert!(
        alvus.log().contains("listens on 0.0.0.0 until a restart"),
        "{}",
        alvus.log()
    );
    file("HOST=0.0.0.0\nOPEN_LAN=yes"); // whoever says so
    alvus.signal("HUP");
    eventually("it is taken over", || alvus.log().contains("reloaded"));
    assert!(alvus.log().contains("warn: OPEN_LAN"), "{}", alvus.log());
}

#[test]
fn the_network_sees_the_status_only_and_whoever_has_a_key_sees_all() {
    let refused = r#"{"error":{"message":"Invalid API key"}}"#;
    let upstream = Upstream::new(|_| answer(401, "", refused));
    let alvus = Alvus::before_with(
        &upstream,
        &[
            ("HOST", "0.0.0.0"),
            ("CLIENT_KEYS", &clients()),
            ("API_KEYS", KEYS[0]),
        ],
    );
    let Some(outside) = on_the_network(&alvus) else {
        eprintln!("skipped: this machine has no network");
        return;
    };
    let host = format!("Host: {outside}");
    let health = |fields: &[&str]| ask(outside, "GET /health HTTP/1.1", fields);
    let seen = health(&[&host]);
    assert_eq!((seen.status, seen.text()), (200, "{\"status\":\"ok\"}"));
    let key = format!("Authorization: Bearer {PHONE}");
    assert!(health(&[&host, &key]).json()["key_status"].is_array());
    let inside = SocketAddr::new("127.0.0.1".parse().unwrap(), outside.port());
    let seen = ask(inside, "GET /health HTTP/1.1", &["Host: localhost"]);
    assert!(seen.json()["key_status"].is_array());
    is_error(&models(outside, &[&host]), 401, "missing_api_key");
    let seen = models(outside, &[&host, &key]); // the provider's words about the pool's only key
    assert_eq!((seen.status, seen.text()), (401, refused));
    let seen = health(&[&host]);
    assert_eq!((seen.status, seen.text()), (503, "{\"status\":\"down\"}"));
}

#[test]
fn a_proxy_on_this_machine_speaks_for_the_network() {
    let upstream = Upstream::new(|_| ok());
    for env in [&[("CLIENT_KEYS", &*clients())][..], &[]] {
        let alvus = Alvus::before_with(&upstream, env);
        for field in ["X-Forwarded-For: 127.0.0.1", "Forwarded: for=192.0.2.7"] {
            let seen = ask(alvus.addr, "GET /health HTTP/1.1", &["Host: a", field]);
            assert_eq!(seen.text(), "{\"status\":\"ok\"}");
        }
    }
}

// ---- names --------------------------------------------------------------------------------------

fn host(addr: SocketAddr, host: &str) -> u16 {
    let seen = models(addr, &[&format!("Host: {host}")]);
    if seen.status == 421 {
        is_error(&seen, 421, "unknown_host");
    }
    seen.status
}

#[test]
fn a_loopback_alvus_answers_to_its_own_names_only() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("ALLOWED_HOSTS", "Pi.local,10.1.2.3:80")]);
    for name in [
        "localhost",
        "LOCALHOST:3000",
        "localhost.:1",
        "alvus.localhost",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.8.9.10",
        "[::1]",
        "[::1]:3000",
        "[0:0::0:1]",
        "[::ffff:127.0.0.1]",
        "pi.LOCAL:3000",
        "10.1.2.3",
    ] {
        assert_eq!(host(alvus.addr, name), 200, "{name}");
    }
    for name in [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xlocalhost",
        "192.0.2.7",
        "[2001:db8::1]",
        "[::1",
        "::1",
        "127.1",
        "2130706433",
        "evil@localhost",
        "localhost@evil.example",
        "localhost evil",
        "localhost,evil",
        "localhost:80:80",
        "localhost:x",
        "pi.local/x",
        "",
    ] {
        assert_eq!(host(alvus.addr, name), 421, "{name}");
    }
    let refused = models(alvus.addr, &["Host: evil.example"]);
    assert!(refused.text().contains("evil.example") && refused.text().contains("ALLOWED_HOSTS"));
    assert_eq!(
        ask(alvus.addr, "GET /health HTTP/1.1", &["Host: evil.example"]).status,
        421
    );
    let seen = upstream.seen().len();
    assert_eq!(seen, 13);
}

#[test]
fn on_all_addresses_any_address_is_a_name_but_no_other_name_is() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("HOST", "0.0.0.0"), ("OPEN_LAN", "yes")]);
    let addr = SocketAddr::new("127.0.0.1".parse().unwrap(), alvus.addr.port());
    for name in ["192.0.2.7:3000", "[2001:DB8::1]:3000", "localhost"] {
        assert_eq!(host(addr, name), 200, "{name}");
    }
    for name in ["evil.example", "192.0.2.7.nip.io", "192.0.2"] {
        assert_eq!(host(addr, name), 421, "{name}");
    }
}

#[test]
fn on_ipv6_it_answers_to_its_address() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("HOST", "::1")]);
    assert!(matches!(alvus.addr.ip(), IpAddr::V6(_)));
    assert_eq!(host(alvus.addr, &alvus.addr.to_string()), 200);
    assert_eq!(host(alvus.addr, "[2001:db8::1]"), 421);
}

#[test]
fn only_http_1_0_needs_no_host_and_an_absolute_target_counts_as_one() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for (line, fields, status) in [
        ("GET /v1/models HTTP/1.0", &[][..], 200),
        ("GET /v1/models HTTP/1.0", &["Host: evil.example"], 421),
        ("GET /v1/models HTTP/1.1", &[], 400),
        ("GET http://localhost/v1/models HTTP/1.1", &[], 400),
        (
            "GET http://localhost:1/v1/models HTTP/1.1",
            &["Host: localhost:1"],
            200,
        ),
        ("GET HTTP://[::1]/v1/models HTTP/1.1", &["Host: [::1]"], 200),
        (
            "GET http://evil.example/v1/models HTTP/1.1",
            &["Host: localhost"],
            421,
        ),
        ("GET http://evil.example/v1/models HTTP/1.0", &[], 421),
        (
            "GET http://localhost@evil.example/v1/models HTTP/1.1",
            &["Host: localhost"],
            421,
        ),
        (
            "GET http://localhost/v1/models HTTP/1.1",
            &["Host: evil.example"],
            421,
        ),
        (
            "GET http://evil.example/health HTTP/1.1",
            &["Host: localhost"],
            421,
        ),
        (
            "GET /v1/models?at=http://evil.example/ HTTP/1.1",
            &["Host: localhost"],
            200,
        ),
    ] {
        assert_eq!(
            ask(alvus.addr, line, fields).status,
            status,
            "{line} {fields:?}"
        );
    }
}

// ---- web pages ----------------------------------------------------------------------------------

const PAGE: &str = "http://localhost:5173";

#[test]
fn a_web_page_may_not_ask_unless_it_is_named() {
    let upstream = Upstream::new(|_| answer(200, "Access-Control-Allow-Origin: *\r\n", "{}"));
    let alvus = Alvus::before_with(
        &upstream,
        &[("ALLOWED_ORIGINS", "HTTP://localhost:5173,app://x.y")],
    );
    for origin in [
        "https://evil.example",
        "null",
        "http://localhost",
        "http://localhost:51730",
        "https://localhost:5173",
        "http://localhost:5173/",
        "http://localhost:5173.evil.example",
        "http://localhost:5173, https://evil.example",
        "",
        "\u{fc}",
    ] {
        let field = format!("Origin: {origin}");
        for line in [
            "GET /v1/models HTTP/1.1",
            "GET /health HTTP/1.1",
            "OPTIONS /v1/x HTTP/1.1",
        ] {
            let refused = ask(
                alvus.addr,
                line,
                &[
                    "Host: localhost:3000",
                    &field,
                    "Access-Control-Request-Method: POST",
                ],
            );
            is_error(&refused, 403, "origin_not_allowed");
            assert_eq!(refused.field("access-control-allow-origin"), None);
        }
    }
    assert_eq!(upstream.seen().len(), 0);
    for origin in [PAGE, "app://x.y"] {
        let answer = models(
            alvus.addr,
            &["Host: localhost", &format!("Origin: {origin}")],
        );
        let allowed: Vec<_> = answer
            .fields
            .iter()
            .filter(|(name, _)| name == "access-control-allow-origin")
            .map(|(_, value)| std::str::from_utf8(value).unwrap())
            .collect();
        assert_eq!((answer.status, allowed), (200, vec![origin]));
        assert_eq!(answer.field("vary"), Some("origin"));
    }
    assert_eq!(upstream.seen()[0].field("origin"), None);
    // The page of alvus itself.
    let own = ["Host: localhost:3000", "Origin: http://localhost:3000"];
    assert_eq!(models(alvus.addr, &own).status, 200);
    // Programs send no Origin, and nothing about pages comes back to them.
    let plain = models(alvus.addr, &["Host: localhost"]);
    assert_eq!(plain.field("access-control-allow-origin"), None);
}

#[test]
fn a_page_that_may_ask_gets_its_preflight_answered_and_can_read_errors() {
    let upstream = Upstream::new(|_| ok());
    let env = [("ALLOWED_ORIGINS", PAGE), ("CLIENT_KEYS", &*clients())];
    let alvus = Alvus::before_with(&upstream, &env);
    let origin = format!("Origin: {PAGE}");
    let preflight = ask(
        alvus.addr,
        "OPTIONS /v1/chat/completions HTTP/1.1",
        &[
            "Host: localhost",
            &origin,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,content-type",
        ],
    );
    assert_eq!(preflight.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-headers", "authorization,content-type"),
        (
            "access-control-allow-methods",
            "GET, HEAD, POST, PUT, PATCH, DELETE",
        ),
    ] {
        assert_eq!(preflight.field(name), Some(value));
    }
    let refused = models(alvus.addr, &["Host: localhost", &origin]);
    is_error(&refused, 401, "missing_api_key");
    assert_eq!(refused.field("access-control-allow-origin"), Some(PAGE));
    assert_eq!(upstream.seen().len(), 0);
    let key = format!("Authorization: Bearer {PHONE}");
    assert_eq!(
        models(alvus.addr, &["Host: localhost", &origin, &key]).status,
        200
    );
    // An OPTIONS that is no preflight is the provider's to answer.
    let options = ask(
        alvus.addr,
        "OPTIONS /v1/models HTTP/1.1",
        &["Host: localhost", &key],
    );
    assert_eq!((options.status, upstream.seen().len()), (200, 2));
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits =
            three.iter().fold(0, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n) & 63) as usize] as char;
            out.push(if n <= three.len() { digit } else { '=' });
        }
    }
    out
}
