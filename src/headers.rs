//! Which header fields are forwarded: to the provider, and back to the client.
//!
//! It judges names, and of values only `Via`; values pass byte for byte. [`crate::upstream`] sets `Host`,
//! `Content-Length` and `Authorization`; [`crate::stream`] frames an answer.

/// A field of a head: its name as it was spelled, and its value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// Fields that belong to one connection, not to the message (RFC 9110 §7.6.1).
static HOP_BY_HOP: Names = Names::new(&[
    "connection",
    "keep-alive",
    "proxy-authenticate", // between us and a proxy in front of the provider
    "proxy-authorization",
    "proxy-connection", // never standardised, still sent
    "te",
    "trailer",
    "transfer-encoding", // framing is ours on both sides
    "upgrade",           // we speak HTTP/1.1 only
]);

/// Fields of a request that stay on the client's side.
static STAYS_DOWN: Names = Names::new(&[
    // Nearly every request has these three.
    "host",           // set anew
    "content-length", // set anew
    "authorization",  // the client's own, often a placeholder; the pool's key is sent instead
    "x-api-key",
    "api-key",        // Azure's name for the same
    "x-goog-api-key", // Google's
    "cookie",         // a browser's, for us
    "origin",         // the web page that asks, and the one before it: for us to judge
    "referer",
    "expect",    // answered here, as the body is buffered first
    "forwarded", // the provider need not learn about the local network
    "x-real-ip",
    "x-client-ip",
    "cf-connecting-ip", // Cloudflare's names for the same
    "true-client-ip",
]);

/// Beginnings of names that are not forwarded either: the forerunners of `Forwarded`; CORS; what browsers tell about
/// the page and themselves (`Sec-Fetch-…`, `Sec-CH-…`); fields for alvus.
const STAYS_DOWN_PREFIXES: [&str; 4] = ["x-forwarded-", CORS_PREFIX, "sec-", OUR_PREFIX];

/// Beginning of the names of our own fields.
const OUR_PREFIX: &str = "x-alvus-";

/// The beginning of our name in `Via` (RFC 9110 §7.6.3); the rest differs in each process.
pub const PSEUDONYM: &str = "alvus-";

/// A request that passed this many proxies goes in circles, even if one of them renames the others. Nobody uses more
/// than five.
const MOST_HOPS: usize = 16;

/// Whether a request has been here before, by its `Via` fields. `own`: our name in them.
pub fn goes_in_circles<'a>(vias: impl Iterator<Item = &'a [u8]>, own: &str) -> bool {
    let mut hops = 0;
    for hop in vias.flat_map(|via| via.split(|b| *b == b',')) {
        hops += 1;
        // `1.1 name (comment)`
        let mut words = hop
            .split(|b| *b == b' ' || *b == b'\t')
            .filter(|w| !w.is_empty());
        let name = words.nth(1).unwrap_or_default();
        if hops > MOST_HOPS || name.eq_ignore_ascii_case(own.as_bytes()) {
            return true;
        }
    }
    false
}

/// The names a message's own `Connection` fields declared hop-by-hop.
#[derive(Debug, Default)]
pub struct ConnectionOptions(Vec<String>);

impl ConnectionOptions {
    /// Reads the values of all `Connection` fields of one message.
    pub fn new<'a>(values: impl Iterator<Item = &'a [u8]>) -> ConnectionOptions {
        let options = values.flat_map(|value| value.split(|b| *b == b','));
        // The usual two name no field. Skipping them saves an allocation.
        let is_usual = |option: &[u8]| {
            [&b""[..], b"close", b"keep-alive"]
                .iter()
                .any(|usual| option.eq_ignore_ascii_case(usual))
        };
        let names = options
            .map(<[u8]>::trim_ascii)
            .filter(|option| !is_usual(option))
            .map(|option| String::from_utf8_lossy(option).into_owned());
        ConnectionOptions(names.collect())
    }

    fn is_hop_by_hop(&self, name: &[u8]) -> bool {
        HOP_BY_HOP.has(name) || self.0.iter().any(|n| is(name, n))
    }
}

/// Names of fields. Each field of each message is looked up here, so most others are told by a bit, which names of
/// one length and first letter share.
struct Names {
    names: &'static [&'static str],
    bits: u64,
}

impl Names {
    const fn new(names: &'static [&'static str]) -> Names {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= Names::bit(names[at].as_bytes());
            at += 1;
        }
        Names { names, bits }
    }

    const fn bit(name: &[u8]) -> u64 {
        let first = if name.is_empty() { 0 } else { name[0] | 0x20 };
        1 << ((first as usize + 13 * name.len()) % 64)
    }

    fn has(&self, name: &[u8]) -> bool {
        self.bits & Names::bit(name) != 0 && self.names.iter().any(|known| is(name, known))
    }
}

/// Whether a field has this name. By length first: most have not, and the comparison is a call.
#[inline]
pub fn is(name: &[u8], known: &str) -> bool {
    name.len() == known.len() && name.eq_ignore_ascii_case(known.as_bytes())
}

fn starts_with(name: &[u8], prefix: &str) -> bool {
    let start = name.get(..prefix.len());
    start.is_some_and(|start| {
        start[0] | 0x20 == prefix.as_bytes()[0] && start.eq_ignore_ascii_case(prefix.as_bytes())
    })
}

/// Whether a head can hold this value: it cannot end the line.
pub fn is_value(value: &[u8]) -> bool {
    let fits = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let (words, rest) = value.as_chunks();
    words
        .iter()
        .all(|word| is_visible(*word) || word.iter().all(fits))
        && rest.iter().all(fits)
}

/// Whether these bytes are all blanks and visible ASCII, as nearly all of a head are: one look for a whole word.
fn is_visible(word: [u8; size_of::<usize>()]) -> bool {
    const ONES: usize = usize::MAX / 0xff; // 1 in each byte
    let word = usize::from_ne_bytes(word);
    // The highest bit of a byte is set by one that has it, by one below a blank, and by 0x7f.
    let marks = word | word.wrapping_sub(ONES * 0x20) | word.wrapping_add(ONES);
    marks & (ONES << 7) == 0
}

/// Whether a request's field goes up to the provider.
pub fn goes_up(name: &[u8], options: &ConnectionOptions) -> bool {
    let begins = |prefix: &&str| starts_with(name, prefix);
    !(STAYS_DOWN.has(name) || STAYS_DOWN_PREFIXES.iter().any(begins) || options.is_hop_by_hop(name))
}

/// The prefix of fields that tell browsers who may read an answer.
const CORS_PREFIX: &str = "access-control-";

/// Whether an answer's field goes back to the client. `Content-Length` does not, as we frame the answer. CORS fields
/// do not: alvus decides which web pages may read an answer (`ALLOWED_ORIGINS`). Nor do fields of another alvus.
pub fn comes_back(name: &[u8], options: &ConnectionOptions) -> bool {
    !(starts_with(name, CORS_PREFIX)
        || starts_with(name, OUR_PREFIX)
        || is(name, "content-length")
        || options.is_hop_by_hop(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_travel_as_the_table_says() {
        let named =
            ConnectionOptions::new([&b"close, X-Secret-Hop"[..], b" keep-alive"].into_iter());
        for (name, up, back) in [
            ("Content-Type", true, true),
            ("X-Request-Id", true, true),
            ("Idempotency-Key", true, true),
            ("Set-Cookie", true, true),
            ("Via", true, true),
            ("Retry-After", true, true),
            ("Connection", false, false),
            ("KEEP-ALIVE", false, false),
            ("Transfer-Encoding", false, false),
            ("TE", false, false),
            ("Trailer", false, false),
            ("Upgrade", false, false),
            ("Proxy-Authorization", false, false),
            ("x-secret-hop", false, false),
            ("Authorization", false, true),
            ("X-Api-Key", false, true),
            ("X-Goog-Api-Key", false, true),
            ("Cookie", false, true),
            ("Expect", false, true),
            ("Host", false, true),
            ("Forwarded", false, true),
            ("X-Forwarded-For", false, true),
            ("x-forwarded-proto", false, true),
            ("X-Forwarde", true, true),
            ("Content-Length", false, false),
            ("Access-Control-Allow-Origin", false, false),
            ("Origin", false, true),
            ("Referer", false, true),
            ("Referrer-Policy", true, true),
            ("Sec-Fetch-Site", false, true),
            ("sec-ch-ua-platform", false, true),
            ("Second", true, true),
            ("X-Real-IP", false, true),
            ("CF-Connecting-IP", false, true),
            ("True-Client-IP", false, true),
            ("X-Goog-Api-Key", false, true),
            ("X-Goog-User-Project", true, true),
            ("X-Alvus-Key", false, false),
            ("x-alvus-waited-ms", false, false),
            ("X-Alvu", true, true),
        ] {
            assert_eq!(goes_up(name.as_bytes(), &named), up, "{name} up");
            assert_eq!(comes_back(name.as_bytes(), &named), back, "{name} back");
        }
    }

    #[test]
    fn every_listed_name_is_known_in_any_case() {
        let none = ConnectionOptions::default();
        for name in HOP_BY_HOP.names.iter().chain(STAYS_DOWN.names) {
            for name in [name.to_string(), name.to_uppercase()] {
                assert!(!goes_up(name.as_bytes(), &none), "{name}");
            }
        }
        assert!(goes_up(b"", &none));
    }

    #[test]
    fn a_request_that_was_here_before_is_known_by_its_via() {
        let own = "alvus-00112233";
        let many = "1.1 a, ".repeat(MOST_HOPS);
        for (vias, circles) in [
            (&[][..], false),
            (&["1.1 nginx"], false),
            (&["1.1 alvus-44556677"], false), // another one in front of us
            (&["1.1 alvus-00112233"], true),
            (&["1.0 fred", "HTTP/1.1 ALVUS-00112233 (a comment)"], true),
            (&["1.1 a,1.1  alvus-00112233 ,1.1 b"], true),
            (&["1.1 a (alvus-00112233)"], false),
            (&["alvus-00112233"], false), // no version: not ours
            (&[",,", ""], false),
            (&[&many[..many.len() - 2]], false),
            (&[&many[..]], true),
        ] {
            let vias = vias.iter().map(|v| v.as_bytes());
            assert_eq!(
                goes_in_circles(vias.clone(), own),
                circles,
                "{:?}",
                vias.collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_value_that_would_break_a_head_is_none() {
        let whole: Vec<u8> = (b' '..=b'~').cycle().take(100).collect();
        for byte in 0..=u8::MAX {
            let breaks = byte != b'\t' && byte.is_ascii_control();
            for (length, at) in (0..40).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut value = whole[length..2 * length].to_vec();
                value[at] = byte;
                assert_eq!(is_value(&value), !breaks, "{value:?}");
            }
        }
        assert!(is_value(b""));
    }

    #[test]
    fn a_connection_field_with_junk_names_nothing_else() {
        let named = ConnectionOptions::new([&b",, ,\xff, "[..]].into_iter());
        assert!(goes_up(b"Accept", &named));
    }
}
