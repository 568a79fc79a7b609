//! "Did you mean API_KEYS?": finds the setting that an unknown name was probably meant to be.
//!
//! The environment is full of other programs' names, so only a name very close to one of ours is reported. `HOSTNAME`,
//! `LOGNAME`, `PORTS` and `SSL_CERT_DIR` are everyday names and are not.

use super::VARIABLES;

/// Below this length half of all words are one letter apart: `HOST`/`POST`, `LOG`/`LOGS`.
const SHORTEST: usize = 6;

/// How alike two names must be (Jaro-Winkler). Between `SSL_CERT` (0.923), which is meant for ours, and `SSL_CERT_DIR`
/// (0.9205), which is OpenSSL's own.
const ALIKE: f64 = 0.922;

/// The setting that an unknown `name` was probably meant to be, and whether that is sure: it may be another program's.
pub fn nearest(name: &str) -> Option<(&'static str, bool)> {
    // Other programs' names have few digits; one with many may have a key pasted into it.
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    let usual = name.len() <= 40 && digits <= 3;
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let name = name.strip_prefix("ALVUS_").unwrap_or(&name);
    // Most other programs call it so.
    let name = match name {
        "LOG_LEVEL" => "LOG",
        "BASE_URL" | "OPENAI_BASE_URL" | "OPENAI_API_BASE" => {
            return Some(("TARGET_BASE_URL", false));
        }
        name => name,
    };
    if let Some(exact) = VARIABLES.iter().find(|v| v.name == name) {
        return Some((exact.name, true));
    }
    let names = VARIABLES.iter().map(|v| v.name);
    let long = names.filter(|ours| name.len() >= SHORTEST && ours.len() >= SHORTEST);
    let scored = long.map(|ours| (strsim::jaro_winkler(name, ours), ours));
    let nearest = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest.filter(|(alike, _)| *alike >= ALIKE) {
        Some((_, ours)) => Some((ours, true)),
        // OPENAI_API_KEY, NVIDIA_API_KEYS: another program's, or meant for us.
        None => name
            .trim_end_matches('S')
            .ends_with("_API_KEY")
            .then_some(("API_KEYS", false))
            .filter(|_| usual),
    }
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
            ("MAX_BODY", "MAX_BODY_MB"),
            ("LOG_LEVEL", "LOG"),
            ("alvus_log_level", "LOG"),
            ("WORKER", "WORKERS"),
            ("TARGET_URL", "TARGET_BASE_URL"),
            ("TARGET_BASEURL", "TARGET_BASE_URL"),
            ("CONNECT_TIMEOUT", "CONNECT_TIMEOUT_SEC"),
            ("FIRST_BYTE_TIMEOUT", "FIRST_BYTE_TIMEOUT_SEC"),
            ("IDLE_TIMEOUT_SECONDS", "IDLE_TIMEOUT_SEC"),
            ("SSL_CERT", "SSL_CERT_FILE"),
        ] {
            assert_eq!(nearest(name), Some((ours, true)), "{name}");
        }
    }

    #[test]
    fn everyday_names_of_other_programs_are_left_alone() {
        for name in [
            "MY_sk-9f27c1b4e8d35a60_API_KEYS",
            "HOSTNAME",
            "LOGNAME",
            "LOGS",
            "HOSTTYPE",
            "PORTS",
            "HOSTS",
            "POST",
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
            "API_URL",
            "API_TOKEN",
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
            assert_eq!(nearest(name), None, "{name}");
        }
    }

    #[test]
    fn another_programs_key_or_url_may_be_meant_for_us() {
        for name in ["OPENAI_API_KEYS", "NVIDIA_API_KEY", "groq-api-key"] {
            assert_eq!(nearest(name), Some(("API_KEYS", false)), "{name}");
        }
        for name in ["OPENAI_BASE_URL", "OPENAI_API_BASE", "base-url"] {
            assert_eq!(nearest(name), Some(("TARGET_BASE_URL", false)), "{name}");
        }
    }
}
