//! Admission: which web pages may make a browser ask, what alvus answers itself, what it refuses for everybody.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use common::{Alvus, Response, Upstream, answer, ok};

/// Sends a request without a body; `fields` are lines without their ends. `Host` is `a` unless given.
fn ask(alvus: &Alvus, line: &str, fields: &[&str]) -> Response {
    let mut client = alvus.connect();
    let host = match fields.iter().any(|f| f.starts_with("Host:")) {
        true => "",
        false => "Host: a\r\n",
    };
    let lines: String = fields.iter().map(|f| format!("{f}\r\n")).collect();
    client.send(format!("{line} HTTP/1.1\r\n{host}{lines}\r\n"));
    match line.starts_with("HEAD") {
        true => client.head(),
        false => client.response(),
    }
}

fn code(response: &Response) -> String {
    let code = response.json()["error"]["code"].as_str().map(Into::into);
    code.unwrap_or_else(|| panic!("no error: {}", response.text()))
}

// ---- browsers -----------------------------------------------------------------------------------

#[test]
fn a_page_of_another_site_spends_no_key_by_an_image_a_link_or_a_form() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for site in ["cross-site", "same-site", "something-new"] {
        let site = format!("Sec-Fetch-Site: {site}");
        for (line, more) in [
            (
                "GET /v1/models",
                &["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"][..],
            ),
            (
                "GET /v1/models",
                &["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"],
            ),
            (
                "POST /v1/chat/completions",
                &["Sec-Fetch-Mode: navigate", "Content-Length: 0"],
            ),
            ("GET /v1/models", &[]),
        ] {
            let fields: Vec<&str> = [&[site.as_str()], more].concat();
            let refused = ask(&alvus, line, &fields);
            assert_eq!(
                (refused.status, code(&refused)),
                (403, "cross_site".into()),
                "{line} {fields:?}"
            );
        }
    }
    assert_eq!(upstream.seen().len(), 0, "no key was spent");
}

#[test]
fn a_typed_address_and_a_client_that_is_no_browser_may_ask() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for fields in [
        &["Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"][..],
        &["Sec-Fetch-Site: same-origin"],
        &["Sec-Fetch-Mode: cors"], // Node's fetch
        &[],
    ] {
        assert_eq!(
            ask(&alvus, "GET /v1/models", fields).status,
            200,
            "{fields:?}"
        );
    }
}

#[test]
fn a_link_on_another_site_opens_our_pages_in_a_window_and_nowhere_else() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    let link = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"];
    for path in ["/", "/dashboard", "/health", "/metrics"] {
        let line = format!("GET {path}");
        let window = [&link[..], &["Sec-Fetch-Dest: document"]].concat();
        assert_eq!(ask(&alvus, &line, &window).status, 200, "{path}");
        let frame = [&link[..], &["Sec-Fetch-Dest: iframe"]].concat();
        assert_eq!(ask(&alvus, &line, &frame).status, 403, "{path} in a frame");
        let script = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"];
        assert_eq!(
            ask(&alvus, &line, &script).status,
            403,
            "{path} as a script"
        );
    }
}

#[test]
fn desktop_agents_may_ask_by_their_origins() {
    let upstream = Upstream::new(|_| ok());
    let origins = "vscode-webview://*,app://obsidian.md,tauri://localhost,null";
    let alvus = Alvus::before_with(&upstream, &[("ALLOWED_ORIGINS", origins)]);
    for origin in [
        "vscode-webview://1f2nv3a4b5c6d7e8f9",
        "app://obsidian.md",
        "tauri://localhost",
        "null",
    ] {
        let field = format!("Origin: {origin}");
        let fields = [&field, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors"];
        let asked = ask(&alvus, "GET /v1/models", &fields);
        assert_eq!(asked.status, 200, "{origin}");
        assert_eq!(asked.field("access-control-allow-origin"), Some(origin));
        let preflight = [&field, "Access-Control-Request-Method: POST"];
        assert_eq!(
            ask(&alvus, "OPTIONS /v1/chat/completions", &preflight).status,
            200
        );
        assert_eq!(ask(&alvus, "OPTIONS /health", &preflight).status, 200);
    }
    for origin in [
        "app://other",
        "http://tauri.localhost",
        "vscode-file://vscode-app",
        "nullify",
    ] {
        let refused = ask(&alvus, "GET /v1/models", &[&format!("Origin: {origin}")]);
        assert_eq!(code(&refused), "origin_not_allowed", "{origin}");
    }
    assert!(
        alvus.log().contains("null"),
        "there is a warning: {}",
        alvus.log()
    );
}

// ---- what alvus answers itself --------------------------------------------------------------------

#[test]
fn paths_that_browsers_ask_of_every_server_cost_no_key() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let front = ask(&alvus, "GET /", &[]);
    assert_eq!(front.status, 200);
    assert_eq!(
        front.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        front.text().contains("alvus") && front.text().contains("/v1"),
        "{}",
        front.text()
    );
    assert!(!front.text().contains("/dashboard"), "it is off");
    for (line, status) in [
        ("HEAD /", 200),
        ("GET /?utm=1", 200),
        ("GET /favicon.ico", 404),
        ("GET /robots.txt", 404),
        ("GET /apple-touch-icon-precomposed.png", 404),
        ("GET /.well-known/appspecific/com.chrome.devtools.json", 404),
        ("HEAD /api/hello", 200), // Claude Code, at its start
        ("GET /api/hello", 200),
    ] {
        assert_eq!(ask(&alvus, line, &[]).status, status, "{line}");
    }
    assert_eq!(upstream.seen().len(), 0, "no key was spent");
}

#[test]
fn our_pages_can_only_be_looked_at() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    for path in [
        "/",
        "/health",
        "/metrics",
        "/dashboard",
        "/dashboard/data",
        "/favicon.ico",
    ] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
            let refused = ask(&alvus, &format!("{method} {path}"), &["Content-Length: 0"]);
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_eq!(refused.field("allow"), Some("GET, HEAD"));
        }
    }
    assert_eq!(upstream.seen().len(), 0, "no key was spent");
}

#[test]
fn the_front_page_leads_to_the_dashboard_where_there_is_one() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before_with(&upstream, &[("DASHBOARD", "1")]);
    assert!(
        ask(&alvus, "GET /", &[])
            .text()
            .contains("href=\"/dashboard\"")
    );
}

// ---- what leads nowhere ---------------------------------------------------------------------------

#[test]
fn a_path_that_climbs_out_of_the_api_is_refused() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/..%2Fadmin",
        "/v1/..",
        "/v1/./models",
        "/..;/admin",
        "http://a/v1/%2E./admin",
    ] {
        let refused = ask(&alvus, &format!("GET {path}"), &[]);
        assert_eq!(
            (refused.status, code(&refused)),
            (400, "bad_target".into()),
            "{path}"
        );
    }
    assert_eq!(upstream.seen().len(), 0, "nothing went up");
    for path in ["/v1/models/.hidden", "/v1/a..b", "/v1/models?x=/../"] {
        assert_eq!(
            ask(&alvus, &format!("GET {path}"), &[]).status,
            200,
            "{path}"
        );
    }
}

#[test]
fn a_websocket_is_declined_without_an_attempt() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let fields = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ];
    let declined = ask(&alvus, "GET /v1/responses", &fields);
    assert_eq!(declined.status, 426);
    assert!(declined.field("upgrade").is_some());
    assert_eq!(upstream.seen().len(), 0, "no key was spent");
    // Java's HttpClient offers this with its first request, and takes HTTP/1.1 as well.
    let fields = [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk",
    ];
    assert_eq!(ask(&alvus, "GET /v1/models", &fields).status, 200);
}

#[test]
fn a_request_that_comes_back_to_us_is_told_so_at_once() {
    // The address is chosen first, for the target is known before alvus is.
    let addr = common::dead_addr();
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let url = format!("http://{addr}/v1");
    let alvus = Alvus::start(&[
        ("TARGET_BASE_URL", &url),
        ("API_KEYS", common::KEYS[0]),
        ("HOST", &host),
        ("PORT", &port),
    ]);
    let answer = ask(&alvus, "GET /v1/models", &[]);
    assert_eq!((answer.status, code(&answer)), (508, "loop".into()));
    assert!(
        answer.text().contains("TARGET_BASE_URL"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.field("x-alvus-attempts"), Some("1"));
}

#[test]
fn two_of_us_in_a_row_are_no_loop() {
    let upstream = Upstream::new(|_| ok());
    let second = Alvus::before(&upstream);
    let url = format!("{}/v1", second.url());
    let first = Alvus::start(&[("TARGET_BASE_URL", &url), ("API_KEYS", common::KEYS[0])]);
    assert_eq!(
        ask(&first, "GET /v1/models", &["Via: 1.1 nginx"]).status,
        200
    );
    let seen = upstream.seen().remove(0);
    let vias = seen.all("via");
    let vias: Vec<_> = vias
        .iter()
        .map(|v| std::str::from_utf8(v).unwrap())
        .collect();
    assert_eq!((vias.len(), vias[0]), (3, "1.1 nginx"), "{vias:?}");
    assert!(
        vias[1].starts_with("1.1 alvus-") && vias[2].starts_with("1.1 alvus-"),
        "{vias:?}"
    );
    assert_ne!(vias[1], vias[2], "each has a name of its own");
}

#[test]
fn a_request_that_went_through_a_dozen_proxies_too_many_is_a_loop() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let via = format!("Via: {}1.1 x", "1.1 x, ".repeat(20));
    assert_eq!(ask(&alvus, "GET /v1/models", &[&via]).status, 508);
}

// ---- keys go to the provider and nowhere else -------------------------------------------------------

#[test]
fn a_path_that_speaks_of_genai_takes_no_key_elsewhere() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let path = "/v1/genai/black-forest-labs/flux";
    assert_eq!(ask(&alvus, &format!("GET {path}"), &[]).status, 200);
    assert_eq!(upstream.seen()[0].target, path);
}

#[test]
fn nothing_goes_up_that_is_the_browsers_the_networks_or_a_clients_own_key() {
    let upstream = Upstream::new(|_| ok());
    let origins = [("ALLOWED_ORIGINS", "http://app.example")];
    let alvus = Alvus::before_with(&upstream, &origins);
    let fields = [
        "Origin: http://app.example",
        "Referer: http://app.example/private/page",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: cors",
        "sec-ch-ua-platform: \"Linux\"",
        "X-Real-IP: 192.168.1.7",
        "CF-Connecting-IP: 192.168.1.7",
        "True-Client-IP: 192.168.1.7",
        "x-goog-api-key: AIza-client-secret",
        "X-Alvus-Key: 2",
        "X-Stays: yes",
    ];
    let target = "/v1/models?a=%20&key=AIza-client-secret&b=1&keys=2";
    assert_eq!(ask(&alvus, &format!("GET {target}"), &fields).status, 200);
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.target, "/v1/models?a=%20&b=1&keys=2");
    let mut names: Vec<String> = seen
        .fields
        .iter()
        .map(|(n, _)| n.to_ascii_lowercase())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["accept-encoding", "authorization", "host", "via", "x-stays"]
    );
}

#[test]
fn a_client_key_is_known_in_googles_field_too() {
    let upstream = Upstream::new(|_| answer(200, "", "{}"));
    let clients = [("CLIENT_KEYS", "phone:client-key-never-shown-aaaa0001")];
    let alvus = Alvus::before_with(&upstream, &clients);
    let key = "x-goog-api-key: client-key-never-shown-aaaa0001";
    assert_eq!(ask(&alvus, "GET /v1/models", &[key]).status, 200);
    assert_eq!(
        ask(&alvus, "GET /v1/models", &["x-goog-api-key: other"]).status,
        401
    );
}
