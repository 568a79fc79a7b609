//! How requests travel up and answers travel back: paths, methods, header fields, framing.
#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{
    Act, Alvus, CHAT, Client, KEYS, PATIENCE, Response, SSE_HEAD, Seen, Upstream, answer, chunk, ok,
};

/// Sends these bytes on a connection of their own.
fn ask(alvus: &Alvus, request: impl AsRef<[u8]>) -> Response {
    let mut client = alvus.connect();
    client.send(request);
    client.response()
}

/// A request without a body; `fields` are lines, each with its CR LF.
fn bare(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: alvus\r\n{fields}\r\n")
}

/// What the upstream sees of a GET with these fields.
fn sent_up(fields: &[u8]) -> Seen {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let request = [
        b"GET /v1/models/m HTTP/1.1\r\nHost: alvus\r\n",
        fields,
        b"\r\n",
    ]
    .concat();
    assert_eq!(ask(&alvus, request).status, 200);
    upstream.seen().remove(0)
}

/// What the client gets of an answer with these bytes.
fn sent_back(answer: impl AsRef<[u8]>) -> Response {
    let upstream = Upstream::scripted(vec![Act::Say(answer.as_ref().to_vec())]);
    Alvus::before(&upstream).ask()
}

/// The message of an error, having checked that it is shaped as OpenAI shapes it.
fn openai_error(response: &Response) -> String {
    assert_eq!(response.field("content-type"), Some("application/json"));
    let error = &response.json()["error"];
    assert!(
        error["type"].is_string() && error["code"].is_string(),
        "{error}"
    );
    assert!(error["param"].is_null(), "{error}");
    error["message"].as_str().expect("a message").to_string()
}

// ---- where a request leads ----------------------------------------------------------------------

#[test]
fn the_clients_v1_is_replaced_by_the_path_of_the_target() {
    for base in [
        "/v1",
        "/openai/v1",
        "/v1beta/openai",
        "/api/paas/v4",
        "/api/paas/v4/",
        "",
    ] {
        let upstream = Upstream::new(|_| ok());
        let url = format!("http://{}{base}", upstream.addr());
        let alvus = Alvus::before_with(&upstream, &[("TARGET_BASE_URL", &url)]);
        alvus.ask();
        ask(&alvus, bare("GET", "/v1/models?limit=1", ""));
        ask(&alvus, bare("GET", "/models", ""));
        let base = base.trim_end_matches('/');
        let targets: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
        let expected = ["/chat/completions", "/models?limit=1", "/models"];
        assert_eq!(targets, expected.map(|rest| format!("{base}{rest}")));
    }
}

#[test]
fn path_and_query_travel_byte_for_byte() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let targets = [
        "/v1/files/a%2Fb%2f/%e4%F6/content",
        "/v1//double/.dots/..up/",
        "/v1/models?",
        "/v1/models?q=%20+&empty=&=&again=1&again=2",
        "/v1/models?next=http://other/v1?x=%2F/../..",
        "/v1/models;version=2?a[]=1&b={|}^`~'()*!$,:@\\",
        "/v1/%zz/100%?%",
        "/v1/models/meta%2fllama-3.1:free@latest",
    ];
    for target in targets {
        assert_eq!(ask(&alvus, bare("GET", target, "")).status, 200, "{target}");
    }
    let seen: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(seen, targets);
}

#[test]
fn a_target_that_cannot_travel_as_it_is_is_refused_and_not_altered() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for bad in [
        "/v1/models?a=\"b\"",
        "/v1/<model>",
        "/v1/models#part",
        "/v1/models?a#b",
    ] {
        let response = ask(&alvus, bare("GET", bad, ""));
        assert_eq!(
            response.status,
            400,
            "{bad} went up as {:?}",
            upstream.seen()
        );
        assert!(openai_error(&response).contains("percent-encoded"));
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn every_method_goes_up_with_and_without_a_body() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for method in [
        "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "x!#$-9",
    ] {
        for body in ["body", ""] {
            let length = format!("Content-Length: {}\r\n", body.len());
            let response = ask(&alvus, bare(method, "/v1/things/1", &length) + body);
            assert_eq!(response.status, 200, "{method} {body}");
            let seen = upstream.seen().pop().unwrap();
            assert_eq!(
                (seen.method.as_str(), seen.body.as_slice()),
                (method, body.as_bytes())
            );
        }
    }
}

#[test]
fn a_post_without_a_body_goes_up_without_one() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for method in ["POST", "PUT", "PATCH"] {
        // The upstream of these tests ends the connection when a body comes without a length.
        assert_eq!(
            ask(&alvus, bare(method, "/v1/batches/1/cancel", "")).status,
            200,
            "{method}"
        );
    }
    for seen in upstream.seen() {
        assert!(
            matches!(seen.field("content-length"), None | Some("0")),
            "{seen:?}"
        );
        assert!(seen.body.is_empty());
    }
}

#[test]
fn a_get_without_a_body_is_given_no_length() {
    let seen = sent_up(b"");
    assert_eq!((seen.field("content-length"), seen.body.len()), (None, 0));
}

#[test]
fn an_absolute_target_is_reduced_to_its_path() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    ask(
        &alvus,
        bare("GET", "http://alvus:3000/v1/models?a=http://b/c", ""),
    );
    let seen = &upstream.seen()[0];
    assert_eq!(seen.target, "/v1/models?a=http://b/c");
    assert_eq!(
        seen.field("host"),
        Some(upstream.addr().to_string().as_str())
    );
}

#[test]
fn targets_that_are_no_path_are_refused_in_openais_shape() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for line in ["OPTIONS *", "CONNECT provider:443", "GET models"] {
        let response = ask(
            &alvus,
            format!("{line} HTTP/1.1\r\nHost: provider:443\r\n\r\n"),
        );
        assert_eq!(response.status, 400, "{line}");
        openai_error(&response);
    }
    assert!(upstream.seen().is_empty());
}

#[test]
fn health_is_answered_by_alvus_itself() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for target in ["/health", "/health?from=a-monitor", "http://alvus/health"] {
        let response = ask(&alvus, bare("GET", target, ""));
        assert_eq!(
            (response.status, &response.json()["keys"]),
            (200, &3.into()),
            "{target}"
        );
    }
    let mut client = alvus.connect();
    client.send(bare("HEAD", "/health", ""));
    assert_eq!(client.head().status, 200);
    client.send(bare("GET", "/health", ""));
    assert_eq!(
        client.response().json()["status"],
        "ok",
        "HEAD was answered without a body"
    );
    assert!(upstream.seen().is_empty());
}

#[test]
fn paths_that_only_look_like_health_go_to_the_provider() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    for target in ["/v1/health", "/health/", "/healthz", "/Health"] {
        ask(&alvus, bare("GET", target, ""));
    }
    let seen: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(
        seen,
        ["/v1/health", "/v1/health/", "/v1/healthz", "/v1/Health"]
    );
}

#[test]
fn a_post_to_health_is_refused_whatever_its_body() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    let response = ask(
        &alvus,
        bare("POST", "/health", "Content-Length: 2\r\n") + "{}",
    );
    assert_eq!(response.status, 405);
    assert!(openai_error(&response).contains("takes only GET and HEAD"));
    assert!(upstream.seen().is_empty());
}

// ---- fields on their way up ---------------------------------------------------------------------

#[test]
fn fields_of_the_clients_connection_stay_on_its_side() {
    let seen = sent_up(
        b"Connection: X-Hop, keep-alive,\tx-other-hop\r\nX-Hop: 1\r\nX-Other-Hop: 2\r\n\
          Connection: upgrade\r\nUpgrade: h2c\r\nKeep-Alive: timeout=5\r\n\
          TE: trailers\r\nTrailer: X-Sum\r\nProxy-Connection: keep-alive\r\n\
          Proxy-Authorization: Basic Zm9v\r\nX-Stays: yes\r\n",
    );
    for name in [
        "x-hop",
        "x-other-hop",
        "upgrade",
        "keep-alive",
        "te",
        "trailer",
        "proxy-connection",
        "proxy-authorization",
        "transfer-encoding",
    ] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    let connection = seen
        .field("connection")
        .unwrap_or_default()
        .to_ascii_lowercase();
    assert!(
        !connection.contains("hop") && !connection.contains("upgrade"),
        "{connection}"
    );
    assert_eq!(seen.field("x-stays"), Some("yes"));
}

#[test]
fn the_clients_credentials_and_origin_stay_and_the_pools_key_goes_up() {
    let seen = sent_up(
        b"Authorization: Bearer sk-of-the-client\r\nAuthorization: Basic c2Vjb25k\r\n\
          x-api-key: sk-of-the-client\r\napi-key: sk-of-the-client\r\nCookie: session=1\r\n\
          Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: alvus\r\n\
          X-Forwarded-Proto: http\r\nOpenAI-Organization: org-1\r\n",
    );
    let key = format!("Bearer {}", KEYS[0]);
    assert_eq!(seen.all("authorization"), [key.as_bytes()]);
    for name in [
        "x-api-key",
        "api-key",
        "cookie",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ] {
        assert_eq!(seen.field(name), None, "{name}");
    }
    assert_eq!(seen.field("openai-organization"), Some("org-1"));
}

#[test]
fn all_other_fields_go_up_as_they_are_and_nothing_is_added_but_via() {
    let seen = sent_up(
        b"X-Second: b\r\nX-First: a\r\nX-Second: c, d\r\nX-Empty:\r\nX-Bytes: caf\xe9 \xc3\xa9 \xff\r\n\
          User-Agent: agent/1.0 (test)\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Second: b\r\n",
    );
    assert_eq!(seen.all("x-second"), [&b"b"[..], b"c, d", b"b"]);
    assert_eq!(seen.all("x-bytes"), [b"caf\xe9 \xc3\xa9 \xff"]);
    assert_eq!(seen.all("x-empty"), [b""]);
    let mut names: Vec<&str> = seen.fields.iter().map(|(n, _)| n.as_str()).collect();
    let ours = ["host", "authorization", "connection", "via"];
    names.retain(|n| !ours.contains(&n.to_ascii_lowercase().as_str()));
    let theirs = [
        "X-Second",
        "X-First",
        "X-Second",
        "X-Empty",
        "X-Bytes",
        "User-Agent",
        "Accept",
        "X-Second",
        "Accept-Encoding",
    ];
    assert_eq!(names, theirs);
}

#[test]
fn a_head_that_no_buffer_holds_goes_up_whole() {
    // The buffer holds 8 KiB; around that, and beyond.
    for length in [3_900, 3_960, 4_000, 4_050, 4_096, 6_000] {
        let value = "v".repeat(length);
        let fields = format!("X-Long: {value}\r\nX-Long: {value}\r\nX-After: 1\r\n");
        let seen = sent_up(fields.as_bytes());
        assert_eq!(seen.all("x-long"), [value.as_bytes(); 2], "{length}");
        assert_eq!(seen.field("x-after"), Some("1"), "{length}");
        assert_eq!(seen.all("host").len(), 1, "{length}");
    }
}

#[test]
fn a_client_without_user_agent_or_accept_is_given_none() {
    let seen = sent_up(b"");
    assert_eq!(
        (seen.field("user-agent"), seen.field("accept")),
        (None, None)
    );
}

#[test]
fn host_and_length_are_set_anew() {
    let upstream = Upstream::new(|_| ok());
    let alvus = Alvus::before(&upstream);
    alvus.ask();
    let seen = &upstream.seen()[0];
    assert_eq!(seen.all("host"), [upstream.addr().to_string().as_bytes()]);
    assert_eq!(seen.all("content-length"), [b"13"]);
}

#[test]
fn identity_is_asked_for_unless_the_client_asked_for_an_encoding() {
    assert_eq!(sent_up(b"").all("accept-encoding"), [b"identity"]);
    let seen = sent_up(b"Accept-Encoding: gzip, br;q=0.5\r\n");
    assert_eq!(seen.all("accept-encoding"), [b"gzip, br;q=0.5"]);
}

// ---- answers on their way back ------------------------------------------------------------------

#[test]
fn an_encoded_body_is_not_touched() {
    // `gzip` of "ok\n", and then bytes that are no gzip at all: nobody here may look inside.
    let body =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\xcf\xe6\x02\x00\x7a\x7a\x6f\xed\x00\xff";
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n");
    let response = sent_back([head.as_bytes(), body].concat());
    assert_eq!(response.field("content-encoding"), Some("gzip"));
    assert_eq!(response.body, body);
}

#[test]
fn fields_of_the_upstreams_connection_stay_on_its_side() {
    let response = sent_back(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\
         X-Stays: yes\r\n\r\n{}",
    );
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "trailer",
        "upgrade",
    ] {
        assert_eq!(response.field(name), None, "{name}");
    }
    assert_eq!(response.field("x-stays"), Some("yes"));
}

#[test]
fn all_other_fields_come_back_as_they_are() {
    let response = sent_back(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-Bytes: caf\xe9 \xc3\xa9 \xff\r\nSet-Cookie: b=2; Path=/\r\n\
          Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: provider\r\nX-Empty:\r\n\
          x-ratelimit-remaining-requests: 7\r\nContent-Length: 2\r\n\r\n{}",
    );
    let theirs: Vec<(&str, &[u8])> = response
        .fields
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_slice()))
        .filter(|(n, _)| {
            !n.starts_with("x-alvus-") && !matches!(*n, "content-length" | "x-request-id")
        })
        .collect();
    let expected: [(&str, &[u8]); 7] = [
        ("set-cookie", b"a=1"),
        ("x-bytes", b"caf\xe9 \xc3\xa9 \xff"),
        ("set-cookie", b"b=2; Path=/"),
        ("date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
        ("server", b"provider"),
        ("x-empty", b""),
        ("x-ratelimit-remaining-requests", b"7"),
    ];
    assert_eq!(theirs, expected);
}

#[test]
fn a_web_page_in_place_of_what_is_not_there_is_looked_for_once_more_and_passed_on() {
    for (method, status) in [("GET", 404), ("GET", 405), ("DELETE", 410), ("POST", 404)] {
        let fields = "Content-Type: text/html\r\n";
        let upstream = Upstream::new(move |_| answer(status, fields, "<html>nothing here"));
        let alvus = Alvus::before(&upstream);
        let response = ask(&alvus, bare(method, "/v1/missing", "Content-Length: 0\r\n"));
        assert_eq!(
            (response.status, response.text()),
            (status, "<html>nothing here")
        );
        assert_eq!(upstream.seen().len(), 2, "{method} {status}");
        assert_eq!(alvus.states(), ["ready"; 3]);
    }
}

#[test]
fn redirects_are_passed_on_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let upstream = Upstream::scripted(vec![answer(status, "Location: /v1/elsewhere\r\n", "x")]);
        let response = Alvus::before(&upstream).ask();
        assert_eq!(response.status, status);
        assert_eq!(response.field("location"), Some("/v1/elsewhere"));
        assert_eq!((response.text(), upstream.seen().len()), ("x", 1));
    }
}

#[test]
fn errors_that_are_not_about_a_key_pass_as_they_are() {
    for status in [
        400, 404, 408, 409, 413, 418, 422, 451, 500, 501, 502, 503, 504, 529,
    ] {
        let body = format!("{{\"error\":{{\"code\":{status}}}}}");
        let fields = "Content-Type: application/problem+json\r\nRetry-After: 3600\r\n";
        let upstream = Upstream::scripted(vec![answer(status, fields, &body)]);
        let alvus = Alvus::before(&upstream);
        let response = alvus.ask();
        assert_eq!((response.status, response.text()), (status, body.as_str()));
        assert_eq!(
            response.field("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(response.field("retry-after"), Some("3600"));
        assert_eq!(
            (upstream.seen().len(), alvus.states().join(" ")),
            (1, "ready ready ready".into())
        );
    }
}

/// Reads a head that no body follows, and checks that by asking again on the same connection.
fn bodyless(client: &mut Client) -> Response {
    let head = client.head();
    client.send(bare("GET", "/health", ""));
    assert_eq!(
        client.response().json()["keys"],
        3,
        "something followed the head"
    );
    head
}

#[test]
fn head_is_answered_with_the_length_of_what_get_would_bring_and_no_body() {
    let upstream = Upstream::scripted(vec![
        Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: b\r\n\r\n".to_vec()),
        Act::Say(b"HTTP/1.1 404 Not Found\r\nX-A: c\r\n\r\n".to_vec()),
    ]);
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(bare("HEAD", "/v1/files/1", ""));
    let head = bodyless(&mut client);
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("12345"))
    );
    assert_eq!(head.field("x-a"), Some("b"));
    client.send(bare("HEAD", "/v1/files/2", ""));
    let head = bodyless(&mut client);
    assert_eq!((head.status, head.field("x-a")), (404, Some("c")));
    assert!(upstream.seen().iter().all(|seen| seen.method == "HEAD"));
}

#[test]
fn a_head_that_states_a_length_of_zero_goes_up() {
    let upstream = Upstream::new(|_| answer(200, "", ""));
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    client.send(bare("HEAD", "/v1/files/1", "Content-Length: 0\r\n"));
    assert_eq!(bodyless(&mut client).status, 200);
    assert_eq!(upstream.seen()[0].method, "HEAD");
}

#[test]
fn answers_that_have_no_body_are_given_none() {
    let upstream = Upstream::scripted(vec![
        Act::Say(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n".to_vec()),
        Act::Say(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec()),
        Act::Say(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".to_vec()),
    ]);
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    for status in [204, 304, 304] {
        client.send(bare("DELETE", "/v1/files/1", ""));
        let head = bodyless(&mut client);
        assert_eq!(
            (head.status, head.field("transfer-encoding")),
            (status, None)
        );
    }
    assert!(
        upstream.seen().iter().all(|s| s.connection == 0),
        "the way up was kept open too"
    );
}

#[test]
fn an_empty_answer_keeps_its_length_of_zero() {
    let response = sent_back("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        (response.status, response.field("content-length")),
        (201, Some("0"))
    );
}

#[test]
fn a_known_length_is_kept() {
    let response = sent_back("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"ok\":true}");
    assert_eq!(response.field("content-length"), Some("11"));
    assert_eq!(response.field("transfer-encoding"), None);
    assert_eq!(response.text(), "{\"ok\":true}");
}

#[test]
fn a_chunked_answer_stays_chunked() {
    let response = sent_back(format!(
        "{SSE_HEAD}{}{}0\r\n\r\n",
        chunk("data: 1\n\n"),
        chunk("data: 2\n\n")
    ));
    assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    assert_eq!(response.field("content-length"), None);
    assert_eq!(
        (response.text(), response.whole),
        ("data: 1\n\ndata: 2\n\n", true)
    );
}

#[test]
fn an_answer_that_ends_with_the_upstreams_connection_becomes_chunked() {
    for version in ["1.0", "1.1"] {
        let text = format!("HTTP/{version} 200 OK\r\nConnection: close\r\n\r\n{{\"ok\":true}}");
        let upstream = Upstream::scripted(vec![Act::SayAndClose(text.into_bytes()), ok()]);
        let alvus = Alvus::before(&upstream);
        let mut client = alvus.connect();
        for framing in [Some("chunked"), None] {
            client.send(CHAT);
            let response = client.response();
            assert_eq!(response.field("transfer-encoding"), framing);
            assert_eq!((response.text(), response.whole), ("{\"ok\":true}", true));
        }
    }
}

#[test]
fn an_interim_answer_is_not_taken_for_the_answer() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let response = sent_back(format!(
        "{early}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}"
    ));
    assert_eq!((response.status, response.text()), (200, "{}"));
}

// ---- connections of clients ---------------------------------------------------------------------

/// An upstream that answers with the target, chunked if the target asks for it.
fn echo() -> Upstream {
    Upstream::new(|seen| match seen.target.contains("chunked") {
        true => Act::Say(format!("{SSE_HEAD}{}0\r\n\r\n", chunk(&seen.target)).into_bytes()),
        false => answer(200, "", &seen.target),
    })
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    for target in ["/v1/a", "/v1/chunked", "/v1/b"] {
        client.send(bare("GET", target, ""));
        let response = client.response();
        assert_eq!(
            (response.text(), response.field("connection")),
            (target, None)
        );
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    let post = bare("POST", "/v1/chunked/2", "Content-Length: 3\r\n") + "abc";
    client.send([bare("GET", "/v1/1", ""), post, bare("GET", "/v1/3", "")].concat());
    for target in ["/v1/1", "/v1/chunked/2", "/v1/3"] {
        assert_eq!(client.response().text(), target);
    }
}

#[test]
fn a_connection_ends_after_the_answer_when_the_client_asks_for_it() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    for target in ["/v1/a", "/v1/chunked", "/health"] {
        let mut client = alvus.connect();
        client.send(bare("GET", target, "Connection: close\r\n"));
        let response = client.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (200, Some("close"))
        );
        assert!(response.whole && client.ended(), "{target}");
    }
}

#[test]
fn a_client_of_http_1_0_is_answered_and_let_go() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    for target in ["/v1/a", "/v1/chunked"] {
        let mut client = alvus.connect();
        client.send(format!("GET {target} HTTP/1.0\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.text(), response.whole), (target, true));
        assert_eq!(response.field("transfer-encoding"), None);
        assert_eq!(response.field("connection"), Some("close"));
        assert!(client.ended(), "{target}");
    }
}

#[test]
fn a_client_of_http_1_0_keeps_its_connection_where_the_length_is_known() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    let keep = "Connection: keep-alive\r\n";
    for _ in 0..2 {
        client.send(format!("GET /v1/a HTTP/1.0\r\n{keep}\r\n"));
        let response = client.response();
        assert_eq!(response.text(), "/v1/a");
        assert_eq!(response.field("connection"), Some("keep-alive"));
    }
    client.send(format!("GET /v1/chunked HTTP/1.0\r\n{keep}\r\n"));
    let response = client.response(); // until the end of the connection
    assert_eq!((response.text(), response.whole), ("/v1/chunked", true));
    assert_eq!(response.field("transfer-encoding"), None);
    assert_eq!(response.field("connection"), Some("close"));
}

#[test]
fn connections_to_the_upstream_are_used_again() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    let mut client = alvus.connect();
    for target in ["/v1/a", "/v1/chunked", "/v1/b"] {
        client.send(bare("GET", target, ""));
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(upstream.seen().iter().map(|s| s.connection).max(), Some(0));
}

#[test]
fn parallel_requests_each_get_their_own_answer() {
    let upstream = echo();
    let alvus = Alvus::before(&upstream);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (alvus, answered) = (&alvus, &answered);
            scope.spawn(move || {
                let mut client = alvus.connect();
                client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
                for m in 0..5 {
                    let target = format!("/v1/{n}/chunked/{m}");
                    client.send(bare("GET", &target, ""));
                    assert_eq!(client.response().text(), target);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answered.into_inner(), 40);
}
