use super::*;
use crate::reply::Reply;

const KEY: &str = "client-key-0123456789";
/// `me:client-key-0123456789`
const DIALOGUE: &str = "Basic bWU6Y2xpZW50LWtleS0wMTIzNDU2Nzg5";

fn access(clients: &str, earlier: Option<&Access>) -> Access {
    let environment = [("API_KEYS", "k"), ("CLIENT_KEYS", clients)];
    let loaded = Config::parse(None, environment, &[]).expect("a good configuration");
    let bound = "127.0.0.1:3000".parse().expect("an address");
    let random = [7 + u8::from(earlier.is_some()); 16];
    Access::new(&loaded.config, bound, random, earlier)
}

fn facts<'a>(peer: &str, fields: &[(&'a str, &'a str)]) -> AccessRequest<'a> {
    let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    AccessRequest::new(peer.parse().ok(), "GET", "/dashboard", fields)
}

fn page(access: &Access, asked: &AccessRequest<'_>) -> Reply {
    access.page(asked, || Reply::json(200, "{}".into()))
}

/// The values of the reply's own fields with this name.
fn values<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let lines = std::str::from_utf8(&reply.lines).expect("text").lines();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let named = fields.filter(|(found, _)| *found == name);
    named.map(|(_, value)| value).collect()
}

fn cookie(reply: &Reply) -> Option<String> {
    values(reply, "set-cookie").first().map(|v| (*v).to_owned())
}

#[test]
fn base64_is_read_to_its_end() {
    for (text, expected) in [
        ("", Some(&b""[..])),
        ("Zg==", Some(b"f")),
        ("Zm8", Some(b"fo")),
        ("Zm9v", Some(b"foo")),
        ("Zm9vYmFy", Some(b"foobar")),
        ("//79", Some(b"\xff\xfe\xfd")),
        ("Zm9v YmFy", None),
        ("Zm-v", None),
    ] {
        assert_eq!(base64(text.as_bytes()).as_deref(), expected, "{text}");
    }
}

#[test]
fn the_pages_are_open_on_this_machine_and_with_a_key_elsewhere() {
    let access = access(&format!("phone:{KEY}"), None);
    let bearer = format!("Bearer {KEY}");
    for (peer, fields, status) in [
        ("127.0.0.1", &[][..], 200),
        ("127.3.2.1", &[], 200),
        ("::1", &[], 200),
        ("::ffff:127.0.0.1", &[], 200),
        ("192.168.1.7", &[], 401),
        ("::ffff:192.168.1.7", &[], 401),
        ("", &[], 401),
        ("127.0.0.1", &[("X-Forwarded-For", "192.168.1.7")], 401),
        ("192.168.1.7", &[("Authorization", &*bearer)], 200),
        ("192.168.1.7", &[("x-api-key", KEY)], 200),
        ("192.168.1.7", &[("authorization", DIALOGUE)], 200),
        (
            "192.168.1.7",
            &[("authorization", "Basic bWU6bm90aGluZw==")],
            401,
        ),
        ("192.168.1.7", &[("authorization", "Basic !")], 401),
        ("192.168.1.7", &[("authorization", "Basic")], 401),
        (
            "192.168.1.7",
            &[("cookie", "alvus-3000=07070707070707070707070707070707")],
            200,
        ),
        (
            "192.168.1.7",
            &[(
                "cookie",
                "a=b; alvus-3000=07070707070707070707070707070707 ;c",
            )],
            200,
        ),
        (
            "192.168.1.7",
            &[("cookie", "alvus-3000=07070707070707070707070707070708")],
            401,
        ),
        ("192.168.1.7", &[("cookie", "")], 401),
    ] {
        let reply = page(&access, &facts(peer, fields));
        assert_eq!(reply.status, status, "{peer} {fields:?}");
        assert!(!reply.body.contains("client-key"), "{}", reply.body);
    }
}

#[test]
fn a_browser_is_asked_for_the_key_once_and_then_has_a_cookie_that_is_not_the_key() {
    let access = access(&format!("phone:{KEY}"), None);
    let refused = page(&access, &facts("192.168.1.7", &[]));
    assert_eq!(values(&refused, "www-authenticate"), [BEARER, BASIC]);
    let shown = page(
        &access,
        &facts("192.168.1.7", &[("authorization", DIALOGUE)]),
    );
    let given = cookie(&shown).expect("a cookie");
    let (value, rest) = given.split_once(';').expect("attributes");
    assert_eq!(rest, " Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    assert!(!value.contains("client-key"));
    let again = page(&access, &facts("192.168.1.7", &[("cookie", value)]));
    assert_eq!((again.status, cookie(&again)), (200, None));
    let asked = access.client(&facts("192.168.1.7", &[("cookie", value)]));
    assert_eq!(
        asked.map_err(|reply| reply.status),
        Err(401),
        "it opens pages only"
    );
}

#[test]
fn a_cookie_lasts_until_the_clients_change() {
    let clients = format!("phone:{KEY}");
    let first = access(&clients, None);
    let same = access(&clients, Some(&first));
    let other = access(&format!("{clients},b:{KEY}2"), Some(&same));
    let asked = facts("192.168.1.7", &[("cookie", &first.cookie)]);
    let statuses = [&first, &same, &other].map(|a| page(a, &asked).status);
    assert_eq!(statuses, [200, 200, 401]);
}

#[test]
fn without_client_keys_the_pages_are_for_this_machine_only() {
    let access = access("", None);
    assert_eq!(page(&access, &facts("127.0.0.1", &[])).status, 200);
    let refused = page(
        &access,
        &facts("192.168.1.7", &[("cookie", &access.cookie)]),
    );
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("CLIENT_KEYS"), "{}", refused.body);
    assert_eq!(access.client(&facts("192.168.1.7", &[])), Ok(None));
}
