//! The provider's keys: the list in `API_KEYS`, and the lines of `API_KEYS_FILE`.
//!
//! A text that cannot be a key is a fault. It says what to write, and shows none of the text.

use std::cell::LazyCell;
use std::collections::HashSet;

use memchr::{memchr_iter, memchr2};

use super::clients::is_name;
use super::dotenv::uncommented;
use super::form::like_a_key;
use crate::secret::ApiKey;
use crate::token::is_token;

/// What was found in a list or a file.
#[derive(Default)]
pub(super) struct Found {
    /// The keys, without blanks and duplicates.
    pub keys: Vec<ApiKey>,
    /// The faults, each with its place.
    pub faults: Vec<String>,
    /// The duplicates that were dropped.
    pub repeated: Vec<String>,
}

/// `key1,key2`, with commas, blanks or line breaks between them.
pub(super) fn list(text: &str) -> Found {
    if text.trim_start().starts_with(['[', '{']) {
        let faults = vec!["is JSON; write key1,key2 without brackets and quotes".to_owned()];
        return Found {
            faults,
            ..Found::default()
        };
    }
    let count = LazyCell::new(|| {
        let mut count = 0;
        each_key(text, &mut |_| count += 1);
        count
    });
    // There may be ten thousand: reserve at once.
    let commas = memchr_iter(b',', text.as_bytes()).count();
    let mut found = Found {
        keys: Vec::with_capacity(commas + 1),
        ..Found::default()
    };
    let mut seen = Seen::with_capacity(commas + 1);
    let mut at = 0;
    each_key(text, &mut |key| {
        at += 1;
        found.take(&mut seen, "", key, &|| format!("key {at} of {}", *count));
    });
    found
}

/// Takes what stands between commas and blanks, of any script.
fn each_key<'a>(text: &'a str, take: &mut dyn FnMut(&'a str)) {
    for piece in text.split(',') {
        // Nearly always one key: characters are looked for only in what has others than visible ASCII.
        match !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_graphic()) {
            true => take(piece),
            false => piece.split_whitespace().for_each(&mut *take),
        }
    }
}

/// One key a line, or `name = key`; `#` begins a comment.
pub(super) fn file(text: &str) -> Found {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Found::default();
    let mut seen = Seen::with_capacity(text.lines().count());
    let mut names = HashSet::new();
    for (at, line) in (1..).zip(text.lines()) {
        let line = uncommented(line, true).trim();
        if line.is_empty() {
            continue;
        }
        let place = || format!("line {at}");
        let (name, key) = named(line);
        if !name.is_empty() && !names.insert(name) {
            found
                .faults
                .push(format!("{} has the name of an earlier one", place()));
        } else if key.contains(',') {
            found
                .faults
                .push(format!("{} holds a comma; one key a line", place()));
        } else {
            found.take(&mut seen, name, key, &place);
        }
    }
    found
}

type Seen<'a> = HashSet<&'a str>;

impl Found {
    fn take<'a>(
        &mut self,
        seen: &mut Seen<'a>,
        name: &str,
        text: &'a str,
        place: &dyn Fn() -> String,
    ) {
        let key = ApiKey::named(name, text);
        if let Some(fault) = fault(&key, text) {
            self.faults.push(format!("{} {fault}", place()));
        } else if seen.insert(text) {
            self.keys.push(key);
        } else {
            self.repeated.push(format!("{} ({})", place(), key.label()));
        }
    }
}

/// Splits `name = key`; a line without a name is a key. A name that may itself be a key does not count, as names are
/// shown.
fn named(line: &str) -> (&str, &str) {
    match line.split_once('=') {
        Some((name, key))
            if is_name(name.trim_end())
                && !like_a_key(name)
                && !key.trim_start_matches([' ', '\t', '=']).is_empty() =>
        {
            (name.trim_end(), key.trim_start())
        }
        _ => ("", line),
    }
}

/// Why a key with this text is none.
fn fault(key: &ApiKey, text: &str) -> Option<&'static str> {
    let name = || text.split_once(':').map(|(name, _)| name);
    let bytes = text.as_bytes();
    Some(match text {
        _ if text.eq_ignore_ascii_case("bearer") => "is the word Bearer; write the key alone",
        _ if is_token(bytes) && memchr2(b'\'', b'`', bytes).is_none() => return None, // nearly every key
        _ if let Some(fault) = key.fault() => fault,
        _ if text.contains("://") => "is a URL; the provider's goes into TARGET_BASE_URL",
        _ if text.contains(['"', '\'', '`']) => "holds a quote; write keys without quotes",
        _ if text.contains("${") || text.contains("$(") => {
            "holds ${…}, which is not filled in here; write the key itself"
        }
        _ if text.contains(';') => "holds a semicolon; write a comma between keys",
        _ if name().is_some_and(is_name) => {
            "begins with a name and a colon; names belong in API_KEYS_FILE, as name = key"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(found: &Found) -> Vec<&str> {
        found.keys.iter().map(ApiKey::expose).collect()
    }

    #[test]
    fn a_list_has_commas_blanks_and_line_breaks_between_its_keys() {
        for text in [
            "a,b",
            " a , b ,",
            "a b",
            "a\nb\n",
            "a\r\n\tb",
            "a\u{b}b",
            "a,\u{a0}b",
            "a\u{3000}b",
            ",,a;",
        ] {
            let found = list(&text.replace("a;", "a b"));
            assert_eq!(texts(&found), ["a", "b"], "{text:?}");
            assert_eq!(
                (found.faults.len(), found.repeated.len()),
                (0, 0),
                "{text:?}"
            );
        }
    }

    #[test]
    fn text_that_cannot_be_a_key_is_refused_with_advice_and_never_shown() {
        for (text, why) in [
            ("sk-secret1;sk-secret2", "key 1 of 1 holds a semicolon"),
            (
                "[\"sk-secret1\", \"sk-secret2\"]",
                "is JSON; write key1,key2",
            ),
            ("{\"a\":\"sk-secret1\"}", "is JSON"),
            ("a,\"sk-secret1\"", "key 2 of 2 holds a quote"),
            ("'sk-secret1'", "key 1 of 1 holds a quote"),
            ("${SECRET_KEY}", "key 1 of 1 holds ${…}"),
            ("$(cat secret)", "key 1 of 2 holds ${…}"),
            ("https://api.example.com/secret", "key 1 of 1 is a URL"),
            ("work:sk-secret1", "key 1 of 1 begins with a name"),
            ("Bearer sk-secret1", "key 1 of 2 is the word Bearer"),
            ("sk-secret…", "key 1 of 1 holds a character outside ASCII"),
        ] {
            let faults = list(text).faults;
            assert!(faults[0].starts_with(why), "{text}: {faults:?}");
            assert!(!faults.concat().contains("sk-secret"), "{faults:?}");
        }
        for fine in [
            "sk-or-v1_Az09.+/=~!$",
            "AIza$HOME",
            "0123456789012345678901234567890123456:x",
        ] {
            assert_eq!(list(fine).faults, [""; 0], "{fine}");
        }
    }

    #[test]
    fn a_file_has_a_key_a_line_perhaps_with_a_name() {
        let found = file(
            "\u{feff}# the household's\r\n\nsk-one\n  work = sk-two # paid\nhome=sk-three==\nsk-four=\nsk#five\nsk-one\n",
        );
        assert_eq!(
            texts(&found),
            ["sk-one", "sk-two", "sk-three==", "sk-four=", "sk#five"]
        );
        let names: Vec<_> = found
            .keys
            .iter()
            .map(|key| key.name().unwrap_or("-"))
            .collect();
        assert_eq!(names, ["-", "work", "home", "-", "-"]);
        assert_eq!(
            (found.faults, found.repeated),
            (vec![], vec!["line 8 (…)".to_owned()])
        );
    }

    #[test]
    fn a_name_that_may_be_a_key_does_not_count() {
        let line = "nvapi-0123456789abcdef0=x";
        assert_eq!(named(line), ("", line));
        assert_eq!(named("a b=c"), ("", "a b=c"));
    }

    #[test]
    fn a_fault_of_a_file_names_its_line() {
        let text = "a = sk-secret1\na = sk-secret2\nsk-secret3,sk-secret4\nmy key = sk-secret5\n\"sk-secret6\"\n";
        let faults = file(text).faults;
        for (fault, why) in faults.iter().zip([
            "line 2 has the name of an earlier one",
            "line 3 holds a comma; one key a line",
            "line 4 holds a space",
            "line 5 holds a quote",
        ]) {
            assert!(fault.starts_with(why), "{faults:?}");
        }
        assert_eq!(faults.len(), 4);
        assert!(!faults.concat().contains("secret"), "{faults:?}");
    }
}
