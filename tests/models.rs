//! Models under other names, and the field in which a provider wants its key: real sockets, the real
//! binary.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Alvus, KEYS, Response, Upstream, eventually, ok, run_alvus};

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
fn what_cannot_be_meant_is_a_fault_at_start() {
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
