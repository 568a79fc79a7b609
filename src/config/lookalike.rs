//! "Did you mean API_KEYS?": which of our names a foreign name was probably meant to be.
//!
//! The environment is full of other programs' names, so a name must be very close to one of ours before anyone is
//! told: `HOSTNAME`, `LOGNAME`, `PORTS` and `SSL_CERT_DIR` are everyday names and stay unreported.

use super::{VARIABLES, Variable};

/// Below this length half of all words are one letter apart: `HOST`/`POST`, `LOG`/`LOGS`.
const SHORTEST: usize = 6;

/// Leading words alone must be this long to count: `COOLDOWN`, `MAX_WAIT`, but not `TARGET`, `CONNECT`.
const SHORTEST_PART: usize = 8;

/// Names from this length on may be two typing errors away, shorter ones only one. Three would take `SSL_CERT_DIR`.
const LONG: usize = 10;

/// Words that say in what a number is measured; the most frequent thing to get wrong in a name.
const UNITS: &[&str] = &[
    "SEC", "SECS", "SECOND", "SECONDS", "S", "MS", "MIN", "MINUTES", "MB", "MIB", "BYTES", "SIZE",
];

/// The variable of ours that `name`, which is none of them, was probably meant to be.
pub fn nearest(name: &str) -> Option<&'static Variable> {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let name = name.strip_prefix("ALVUS_").unwrap_or(&name);
    if let Some(exact) = VARIABLES.iter().find(|v| v.name == name) {
        return Some(exact);
    }
    if name.len() < SHORTEST {
        return None;
    }
    VARIABLES
        .iter()
        .filter(|v| v.name.len() >= SHORTEST && close(name, v.name))
        .min_by_key(|v| distance(name, v.name))
}

fn close(name: &str, ours: &str) -> bool {
    let allowed = if ours.len() < LONG { 1 } else { 2 };
    let starts_alike = name.as_bytes().first() == ours.as_bytes().first();
    // The cheap question first: each foreign name is compared with each of ours.
    (starts_alike && (stem(name) == stem(ours) || leaves_words_out(name, ours)))
        || (name.len().abs_diff(ours.len()) <= allowed && distance(name, ours) <= allowed)
}

/// The name without its unit, in the singular, in one piece: `COOLDOWN_SECONDS` and `COOLDOWN_SEC` share theirs.
fn stem(name: &str) -> String {
    let mut words: Vec<&str> = name.split('_').collect();
    if words.len() > 1 && words.last().is_some_and(|last| UNITS.contains(last)) {
        words.pop();
    }
    words.into_iter().map(singular).collect()
}

fn singular(word: &str) -> String {
    match word.strip_suffix("IES") {
        Some(start) => format!("{start}Y"),
        None => word.strip_suffix('S').unwrap_or(word).to_owned(),
    }
}

/// `TARGET_URL` for `TARGET_BASE_URL`: the same first word, and every other word is one of ours, in our order.
fn leaves_words_out(name: &str, ours: &str) -> bool {
    let mut left = ours.split('_');
    let first = left.clone().next();
    name.len() >= SHORTEST_PART
        && name.split('_').next() == first
        && name
            .split('_')
            .all(|word| left.any(|our_word| our_word == word))
}

/// Levenshtein's: how many letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_close_to_ours_is_recognised() {
        for (name, ours) in [
            ("API_KEY", "API_KEYS"),
            ("APIKEYS", "API_KEYS"),
            ("APIKEY", "API_KEYS"),
            ("API-KEYS", "API_KEYS"),
            ("api_key", "API_KEYS"),
            ("ALVUS_API_KEYS", "API_KEYS"),
            ("ALVUS_API_KEY", "API_KEYS"),
            ("ALVUS_PORT", "PORT"),
            ("port", "PORT"),
            ("Host", "HOST"),
            ("COOLDOWN", "COOLDOWN_SEC"),
            ("COOLDOWN_S", "COOLDOWN_SEC"),
            ("COOLDOWN_SECS", "COOLDOWN_SEC"),
            ("COOLDOWN_SECONDS", "COOLDOWN_SEC"),
            ("COOLDOWNSEC", "COOLDOWN_SEC"),
            ("MAX_RETRY", "MAX_RETRIES"),
            ("MAX_RETIRES", "MAX_RETRIES"),
            ("MAX_WAIT", "MAX_WAIT_SEC"),
            ("MAX_WAIT_MS", "MAX_WAIT_SEC"),
            ("MAX_BODY_SIZE", "MAX_BODY_MB"),
            ("WORKER", "WORKERS"),
            ("TARGET_URL", "TARGET_BASE_URL"),
            ("TARGET_BASEURL", "TARGET_BASE_URL"),
            ("CONNECT_TIMEOUT", "CONNECT_TIMEOUT_SEC"),
            ("FIRST_BYTE_TIMEOUT", "FIRST_BYTE_TIMEOUT_SEC"),
            ("IDLE_TIMEOUT_SECONDS", "IDLE_TIMEOUT_SEC"),
            ("SSL_CERT", "SSL_CERT_FILE"),
        ] {
            assert_eq!(nearest(name).map(|v| v.name), Some(ours), "{name}");
        }
    }

    #[test]
    fn everyday_names_of_other_programs_are_left_alone() {
        for name in [
            "HOSTNAME",
            "LOGNAME",
            "LOGS",
            "HOSTTYPE",
            "PORTS",
            "HOSTS",
            "POST",
            "LOG_LEVEL",
            "RUST_LOG",
            "SSL_CERT_DIR",
            "HOME",
            "PATH",
            "USER",
            "SHELL",
            "TERM",
            "LANG",
            "PWD",
            "OLDPWD",
            "MAIL",
            "EDITOR",
            "TARGET",
            "CONNECT",
            "WORKDIR",
            "WORKSPACE",
            "OPENAI_API_KEY",
            "NVIDIA_API_KEY",
            "API_URL",
            "API_TOKEN",
            "BASE_URL",
            "DB_HOST",
            "DB_PORT",
            "HTTP_PROXY",
            "no_proxy",
            "MAX_JOBS",
            "TMOUT",
            "IDLE",
            "_",
            "",
            "ALVUS_HOME",
            "ÄPI_KÖYS",
        ] {
            assert_eq!(nearest(name).map(|v| v.name), None, "{name}");
        }
    }

    #[test]
    fn distance_counts_typing_errors() {
        for (a, b, errors) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "axc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), errors, "{a} {b}");
            assert_eq!(distance(b, a), errors, "{b} {a}");
        }
    }
}
