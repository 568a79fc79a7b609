//! `MODEL_MAP` and `KEY_HEADER`: real sockets, the real binary.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;

use common::{Act, Alvus, KEYS, Response, Upstream, answer, eventually, ok, run_alvus};

fn ask(alvus: &Alvus, body: &str) -> Response {
    let mut client = alvus.connect();
    let length = body.len();
    client.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    client.response()
}

#[test]
fn the_model_of_a_request_is_replaced_and_not_a_byte_elsewhere() {
    let upstream = Upstream::new(|_| ok());
    let env = [(
        "MODEL_MAP",
        "claude-haiku*=a/b, claude-*=c/longer-name,fast=d",
    )];
    let alvus = Alvus::before_with(&upstream, &env);
    for (asked, sent, named) in [
        (
            r#"{ "model" :"claude-haiku-4", "x":[1 ,"model"]}"#,
            r#"{ "model" :"a/b", "x":[1 ,"model"]}"#,
            Some("a/b"),
        ),
        (
            r#"{"x":{"model":"fast"},"model":"claude-x"}  "#,
            r#"{"x":{"model":"fast"},"model":"c/longer-name"}  "#,
            Some("c/longer-name"),
        ),
        (r#"{"model":"fast"}"#, r#"{"model":"d"}"#, Some("d")),
        (r#"{"model":"faster"}"#, r#"{"model":"faster"}"#, None),
        (
            r#"{"model":7, "a":"fast"}"#,
            r#"{"model":7, "a":"fast"}"#,
            None,
        ),
        ("fast", "fast", None),
    ] {
        let response = ask(&alvus, asked);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!((response.status, seen.body_text()), (200, sent));
        assert_eq!(response.field("x-alvus-model"), named, "{asked}");
    }
    eventually("the log says which one served", || {
        alvus.log().contains("model=a/b asked=claude-haiku-4")
    });
}

const OVERLOADED: &str =
    r#"{"error":{"message":"The engine is currently overloaded, please try again later"}}"#;

/// An upstream that serves the model `b`, and does `act` where the model `a` is asked for.
fn serves_b(act: impl Fn() -> Act + Send + Sync + 'static) -> Upstream {
    Upstream::new(move |seen| match seen.body_text().contains("\"a\"") {
        true => act(),
        false => ok(),
    })
}

/// The models that were asked for.
fn asked(upstream: &Upstream) -> String {
    let model = |body: &str| body.split('"').nth(3).unwrap_or_default().to_string();
    let seen = upstream.seen();
    seen.iter().map(|seen| model(seen.body_text())).collect()
}

#[test]
fn another_model_stands_in_for_one_that_is_overloaded_or_unknown() {
    let unknown =
        r#"{"error":{"message":"The model `a` does not exist","code":"model_not_found"}}"#;
    for (status, words) in [
        (503, OVERLOADED),
        (429, OVERLOADED),
        (404, unknown),
        (404, "404 page not found"),
        (400, unknown),
    ] {
        let upstream = serves_b(move || answer(status, "", words));
        let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b|c")]);
        for count in [2, 3] {
            let response = ask(&alvus, r#"{"model":"fast", "x" : 1}"#);
            let seen = upstream.seen().pop().unwrap();
            assert_eq!(
                (response.status, seen.body_text()),
                (200, r#"{"model":"b", "x" : 1}"#)
            );
            assert_eq!(response.field("x-alvus-model"), Some("b"));
            assert_eq!(upstream.seen().len(), count, "it is remembered: {words}");
        }
        eventually("the log says which one served", || {
            alvus.log().contains("model=b asked=fast")
        });
    }
}

#[test]
fn a_stand_in_is_tried_with_as_many_keys_as_any_model() {
    let refused = r#"{"error":{"message":"Not allowed"}}"#;
    let left = Mutex::new([2, 2]);
    // Two keys may use neither model; then a is overloaded, and b is served.
    let upstream = Upstream::new(move |seen| {
        let is_b = seen.body_text().contains("\"b\"");
        let left = &mut left.lock().unwrap()[usize::from(is_b)];
        match (*left > 0, is_b) {
            (true, _) => {
                *left -= 1;
                answer(403, "", refused)
            }
            (false, true) => ok(),
            (false, false) => answer(503, "", OVERLOADED),
        }
    });
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    let response = ask(&alvus, r#"{"model":"fast"}"#);
    assert_eq!((response.status, &*asked(&upstream)), (200, "aaabbb"));
}

#[test]
fn another_model_stands_in_where_no_key_is_ready_soon_and_a_short_rest_is_waited_for() {
    let upstream = serves_b(|| answer(429, "Retry-After: 60\r\n", "{}"));
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    for expected in ["aaab", "aaabb"] {
        assert_eq!(ask(&alvus, r#"{"model":"fast"}"#).status, 200);
        assert_eq!(asked(&upstream), expected);
    }
    let short = || answer(429, "Retry-After: 2\r\n", "{}");
    let upstream = Upstream::scripted(vec![short(), short(), short(), ok()]);
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    assert_eq!(ask(&alvus, r#"{"model":"fast"}"#).status, 200);
    assert_eq!(asked(&upstream), "aaaa");
}

#[test]
fn the_first_model_is_waited_for_when_all_are_overloaded() {
    let upstream = Upstream::scripted(vec![
        answer(503, "", OVERLOADED),
        answer(503, "", OVERLOADED),
        ok(),
    ]);
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    let response = ask(&alvus, r#"{"model":"fast"}"#);
    assert_eq!((response.status, &*asked(&upstream)), (200, "aba"));
    assert_eq!(response.field("x-alvus-model"), Some("a"));
}

#[test]
fn nobody_stands_in_under_an_idempotency_key() {
    let upstream = serves_b(|| answer(404, "", "{}"));
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    let mut client = alvus.connect();
    client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\nIdempotency-Key: k\r\nContent-Length: 16\r\n\r\n{\"model\":\"fast\"}");
    assert_eq!((client.response().status, &*asked(&upstream)), (404, "a"));
}

#[test]
fn a_refusal_by_every_model_is_passed_on() {
    let upstream = Upstream::new(|_| answer(404, "", "{}"));
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b,alone=c")]);
    for (body, status, expected) in [
        (r#"{"model":"fast"}"#, 404, "ab"),
        (r#"{"model":"fast"}"#, 404, "abb"),
        (r#"{"model":"alone"}"#, 404, "abbc"),
        (r#"{"model":"other"}"#, 404, "abbcother"),
    ] {
        assert_eq!(ask(&alvus, body).status, status);
        assert_eq!(asked(&upstream), expected);
    }
    let refused = r#"{"error":{"message":"The model `a` does not exist"}}"#;
    let upstream = serves_b(move || answer(403, "", refused));
    let alvus = Alvus::before_with(&upstream, &[("MODEL_MAP", "fast=a|b")]);
    assert_eq!(ask(&alvus, r#"{"model":"fast"}"#).status, 403);
}

#[test]
fn the_key_goes_up_in_the_field_that_the_provider_wants() {
    for field in ["x-api-key", "api-key", "X-Goog-Api-Key"] {
        let upstream = Upstream::new(|_| ok());
        let alvus = Alvus::before_with(&upstream, &[("KEY_HEADER", field)]);
        assert_eq!(ask(&alvus, "{}").status, 200);
        let seen = &upstream.seen()[0];
        assert_eq!(
            (seen.field(field), seen.field("authorization")),
            (Some(KEYS[0]), None)
        );
    }
}

#[test]
fn settings_that_cannot_be_meant_are_a_fault_at_start() {
    for (name, value, why) in [
        ("MODEL_MAP", "claude", "has no \"=\""),
        ("MODEL_MAP", "a*=b,ab=c", "is never reached"),
        ("KEY_HEADER", "x-key", "expected authorization, x-api-key"),
        ("MESSAGES", "on", "expected auto, translate or pass"),
    ] {
        let (code, _, err) = run_alvus(&[], &[("API_KEYS", KEYS[0]), (name, value)], None);
        assert_eq!(code, 2, "{err}");
        assert!(
            err.contains(&format!("{name} (environment): ")) && err.contains(why),
            "{err}"
        );
    }
}
