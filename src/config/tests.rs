//! Tables for `config`: what the environment does, what the messages say and what they keep to themselves.
//! (Whole `.env` files are in `tests/config_files.rs`.)

use super::*;

const KEY: &str = "nvapi-0123456789-f9a1";

/// With the environment given and one key in it.
fn with(environment: &[(&str, &str)]) -> Result<Loaded, Faults> {
    Config::parse(
        None,
        [("API_KEYS", KEY)]
            .into_iter()
            .chain(environment.iter().copied()),
        &[],
    )
}

/// With this `.env` and this environment.
fn both(file: &str, environment: &[(&str, &str)]) -> Result<Loaded, Faults> {
    Config::parse(Some(file), environment.iter().copied(), &[])
}

fn config(loaded: Result<Loaded, Faults>) -> Config {
    loaded.unwrap_or_else(|faults| panic!("{faults}")).config
}

fn warnings(loaded: Result<Loaded, Faults>) -> Vec<String> {
    loaded.unwrap_or_else(|faults| panic!("{faults}")).warnings
}

fn faults(loaded: Result<Loaded, Faults>) -> Vec<String> {
    loaded.expect_err("a bad configuration was taken").0
}

#[test]
fn one_key_is_all_that_must_be_set() {
    let Loaded { config, warnings } = with(&[]).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.api_keys, [ApiKey::new(KEY)]);
    assert_eq!(format!("{}:{}", config.host, config.port), "127.0.0.1:3000");
    assert_eq!(
        config.target.to_string(),
        "https://integrate.api.nvidia.com/v1"
    );
    assert_eq!(
        (
            config.cooldown.as_secs(),
            config.max_retries,
            config.max_wait.as_secs()
        ),
        (60, 10, 300)
    );
    assert_eq!((config.max_body, config.workers), (32 << 20, 64));
    assert_eq!(config.connect_timeout.as_secs(), 10);
    assert_eq!(
        (
            config.first_byte_timeout.as_secs(),
            config.idle_timeout.as_secs()
        ),
        (600, 300)
    );
    assert_eq!((config.ssl_cert_file, config.log), (None, LogLevel::Info));
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn the_environment_wins_over_the_file_unless_it_is_empty() {
    let file = format!("API_KEYS={KEY}\nPORT=1\nWORKERS=1\nMAX_RETRIES=\n");
    let config = config(both(
        &file,
        &[("PORT", "2"), ("WORKERS", " "), ("API_KEYS", "")],
    ));
    assert_eq!(
        (config.port, config.workers, config.max_retries),
        (2, 1, 10)
    );
    assert_eq!(config.api_keys, [ApiKey::new(KEY)]);
}

#[test]
fn the_ends_of_each_range_are_allowed_and_what_is_beyond_is_not() {
    for v in VARIABLES {
        let Form::Number { min, max, .. } = v.form else {
            continue;
        };
        for good in [min, max] {
            config(with(&[(v.name, &good.to_string())]));
        }
        let beyond = (max + 1).to_string();
        for bad in [
            &*beyond,
            "-1",
            "+5",
            "5.0",
            "5s",
            "0x5",
            "5 5",
            "٥",
            "99999999999999999999999",
        ] {
            let faults = faults(with(&[(v.name, bad)]));
            assert_eq!(faults.len(), 1, "{}={bad}", v.name);
            let range = format!(" from {min} to {max}, for example {}={}", v.name, v.default);
            assert!(
                faults[0].starts_with(&format!(
                    "{} (environment): found \"{bad}\", expected",
                    v.name
                )),
                "{faults:?}"
            );
            assert!(faults[0].ends_with(&range), "{faults:?}");
        }
        if let Some(below) = min.checked_sub(1) {
            assert_eq!(
                faults(with(&[(v.name, &below.to_string())])).len(),
                1,
                "{}",
                v.name
            );
        }
    }
}

#[test]
fn the_largest_body_fits_32_bits() {
    assert_eq!(config(with(&[("MAX_BODY_MB", "1024")])).max_body, 1 << 30);
}

#[test]
fn host_is_an_address_or_localhost() {
    for (text, host) in [
        ("localhost", "127.0.0.1"),
        ("LocalHost", "127.0.0.1"),
        (" 0.0.0.0 ", "0.0.0.0"),
        ("::1", "::1"),
        ("[::]", "::"),
    ] {
        assert_eq!(
            config(with(&[("HOST", text), ("OPEN_LAN", "yes")]))
                .host
                .to_string(),
            host,
            "{text}"
        );
    }
    for text in ["netbook", "127.0.0.1:80", "127.1", "[::1", "*"] {
        let expected = format!(
            "HOST (environment): found \"{text}\", expected an IP address or localhost, for example HOST=127.0.0.1"
        );
        assert_eq!(faults(with(&[("HOST", text)])), [expected]);
    }
}

#[test]
fn yes_and_no_are_taken_as_people_write_them() {
    for (words, on) in [
        (["yes", "TRUE", "1", "On"], true),
        (["No", "false", "0", "off"], false),
    ] {
        for word in words {
            assert_eq!(config(with(&[("OPEN_LAN", word)])).open_lan, on, "{word}");
        }
    }
    assert_eq!(
        faults(with(&[("OPEN_LAN", "y")])),
        [r#"OPEN_LAN (environment): found "y", expected yes or no, for example OPEN_LAN=no"#]
    );
}

#[test]
fn keys_stand_in_one_place() {
    let both = faults(with(&[("API_KEYS_FILE", "/keys")]));
    assert_eq!(
        both,
        [
            "API_KEYS (environment) and API_KEYS_FILE (environment): keys belong in one place; remove one of the two"
        ]
    );
    let sources = |environment: &[(&str, &str)]| {
        let environment = environment.iter().map(|(n, v)| (n.into(), v.into()));
        Sources {
            env_file: None,
            env_file_name: ".env",
            environment: environment.collect(),
            options: &[],
        }
    };
    let file = sources(&[("API_KEYS_FILE", "/keys")]);
    let mut read = |path: &Path| {
        assert_eq!(path, Path::new("/keys"));
        Ok("work = sk-secret-1\nsk-secret;2\n".to_owned())
    };
    assert_eq!(
        faults(Config::load(&file, Some(&mut read))),
        [
            "API_KEYS_FILE (environment): /keys: line 2 holds a semicolon; write a comma between keys, expected one key a line, or name = key"
        ]
    );
    let mut read = |_: &Path| Ok("# none\n".to_owned());
    assert_eq!(
        faults(Config::load(&file, Some(&mut read))),
        ["API_KEYS_FILE (environment): /keys holds no key, expected one key a line, or name = key"]
    );
    let mut read = |_: &Path| Ok("work = sk-secret-1\n".to_owned());
    let keys = config(Config::load(&file, Some(&mut read))).api_keys;
    assert_eq!(keys[0].name(), Some("work"));
    // To ask a running alvus, no key is needed.
    assert_eq!(config(Config::load(&file, None)).api_keys, []);
    assert_eq!(config(Config::load(&sources(&[]), None)).api_keys, []);
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let environment = vec![("API_KEYS".into(), KEY.into()), ("PORT".into(), "1".into())];
    let mut sources = Sources {
        env_file: None,
        env_file_name: ".env",
        environment,
        options: &[("PORT", "2".into())],
    };
    let mut never = |_: &Path| Err(io::ErrorKind::Unsupported.into());
    assert_eq!(config(Config::load(&sources, Some(&mut never))).port, 2);
    let wrong = [("PORT", "x".into())];
    sources.options = &wrong;
    let faults = faults(Config::load(&sources, Some(&mut never)));
    assert!(
        faults[0].starts_with("PORT (--port): found \"x\""),
        "{faults:?}"
    );
}

#[test]
fn the_names_that_others_use_are_answered_with_ours() {
    assert_eq!(
        warnings(with(&[("LOG_LEVEL", "debug"), ("OPENAI_API_KEYS", "x")])),
        ["LOG_LEVEL (environment) is not a setting of alvus; did you mean LOG?"]
    );
    assert_eq!(
        faults(Config::parse(None, [("OPENAI_API_KEYS", "sk-secret")], &[])),
        [
            "API_KEYS is not set, but OPENAI_API_KEYS is (environment): rename it to API_KEYS, and separate keys by commas"
        ]
    );
}

#[test]
fn log_takes_four_words() {
    for (text, level) in [
        ("error", LogLevel::Error),
        ("WARN", LogLevel::Warn),
        ("Info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ] {
        assert_eq!(config(with(&[("LOG", text)])).log, level, "{text}");
    }
    assert_eq!(
        faults(with(&[("LOG", "trace")])),
        [
            r#"LOG (environment): found "trace", expected error, warn, info or debug, for example LOG=info"#
        ]
    );
}

#[test]
fn keys_are_trimmed_blanks_dropped_and_duplicates_merged_with_one_warning() {
    let other = "nvapi-9876543210-b002";
    let list = format!(" ,{KEY}, {other} ,,{KEY},short,{other},short,");
    let loaded = both(&format!("API_KEYS={list}"), &[]).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(
        loaded.config.api_keys,
        [KEY, other, "short"].map(ApiKey::new)
    );
    assert_eq!(
        loaded.warnings,
        [
            "API_KEYS (.env line 1): dropped as duplicates: key 3 of 6 (…f9a1), key 5 of 6 (…b002), key 6 of 6 (…)"
        ]
    );
}

#[test]
fn a_key_that_cannot_be_sent_is_a_fault_that_does_not_show_it() {
    for (list, fault) in [
        ("sk-secret1;sk-secret2", ": key 1 of 1 holds a semicolon"),
        (
            "sk-secret1,sk-secret…",
            ": key 2 of 2 holds a character outside ASCII",
        ),
        (
            "sk-secret\u{1b}[0m",
            ": key 1 of 1 holds a control character",
        ),
    ] {
        let faults = faults(Config::parse(None, [("API_KEYS", list)], &[]));
        assert_eq!(faults.len(), 1, "{list:?}: {faults:?}");
        assert!(
            faults[0].starts_with(&format!("API_KEYS (environment){fault}")),
            "{faults:?}"
        );
        assert!(!faults[0].contains("secret"), "{faults:?}");
    }
}

#[test]
fn missing_keys_say_what_to_do() {
    const NONE: [(&str, &str); 0] = [];
    let advice = "(your provider's keys, separated by commas)";
    for (file, environment, fault) in [
        (None, &NONE[..], format!("API_KEYS is not set: run `alvus init`, or create .env with the line API_KEYS=key1,key2 {advice}")),
        (Some(""), &NONE, format!("API_KEYS is not set: put API_KEYS=key1,key2 into .env {advice}")),
        (Some("API_KEYS="), &NONE, format!("API_KEYS is not set: put API_KEYS=key1,key2 into .env {advice}")),
        (
            Some("\nAPI_KEYS=,,"),
            &NONE,
            "API_KEYS (.env line 2) holds no key, expected keys separated by commas, for example API_KEYS=key1,key2".to_owned(),
        ),
        (
            Some("API_KEY=sk-secret"),
            &NONE,
            "API_KEYS is not set, but API_KEY is (.env line 1): rename it to API_KEYS, and separate keys by commas"
                .to_owned(),
        ),
        (
            None,
            &[("API_KEY", "sk-secret")],
            "API_KEYS is not set, but API_KEY is (environment): rename it to API_KEYS, and separate keys by commas"
                .to_owned(),
        ),
    ] {
        let found = faults(Config::parse(file, environment.iter().copied(), &[]));
        assert_eq!(found, [fault], "{file:?}");
    }
}

#[test]
fn a_name_close_to_ours_draws_a_warning() {
    let file = format!("API_KEYS={KEY}\nAPI_KEY=sk-secret\nCOOLDOWN=5\nDATABASE_URL=x\n");
    assert_eq!(
        warnings(both(
            &file,
            &[("MAX_RETRY", "3"), ("HOSTNAME", "x"), ("LOGNAME", "x")]
        )),
        [
            "API_KEY (.env line 2) is not a setting of alvus; did you mean API_KEYS?",
            "COOLDOWN (.env line 3) is not a setting of alvus; did you mean COOLDOWN_SEC?",
            "MAX_RETRY (environment) is not a setting of alvus; did you mean MAX_RETRIES?",
        ]
    );
}

#[test]
fn a_foreign_name_in_the_environment_is_no_news_once_ours_is_set() {
    assert_eq!(warnings(with(&[("API_KEY", "another program's")])), [""; 0]);
}

#[test]
fn a_clients_own_settings_in_the_environment_are_no_news() {
    // As the README has them for SDKs, in the shell that starts alvus.
    let clients = [
        ("OPENAI_BASE_URL", "http://127.0.0.1:3000/v1"),
        ("OPENAI_API_KEY", "unused"),
    ];
    assert_eq!(warnings(with(&clients)), [""; 0]);
    let file = format!("API_KEYS={KEY}\nOPENAI_BASE_URL=https://h/v1");
    assert_eq!(
        warnings(both(&file, &[])),
        ["OPENAI_BASE_URL (.env line 2) is not a setting of alvus; did you mean TARGET_BASE_URL?"]
    );
}

#[test]
fn a_variable_set_twice_in_the_file_draws_a_warning_and_the_last_wins() {
    let loaded = both(&format!("PORT=1\nAPI_KEYS={KEY}\nPORT=2"), &[])
        .unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.port, 2);
    assert_eq!(
        loaded.warnings,
        ["PORT is set again on line 3, so .env line 1 has no effect"]
    );
}

#[test]
fn a_base_url_with_the_endpoint_in_it_draws_a_warning() {
    assert_eq!(
        warnings(with(&[(
            "TARGET_BASE_URL",
            "https://h/v1/chat/completions/"
        )])),
        [
            "TARGET_BASE_URL ends in /chat/completions, which clients append themselves; did you mean https://h/v1?"
        ]
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    let faults = both("PORT=abc\nsk-secret\nLOG=loud", &[("WORKERS", "0")])
        .expect_err("a bad configuration was taken");
    let lines: Vec<String> = faults
        .to_string()
        .lines()
        .map(|l| l.chars().take(22).collect())
        .collect();
    assert_eq!(
        lines,
        [
            ".env line 2 is not NAM",
            "API_KEYS is not set: p",
            "PORT (.env line 1): fo",
            "WORKERS (environment):",
            "LOG (.env line 3): fou"
        ]
    );
}

#[test]
fn a_wrong_value_is_shown_escaped_and_cut_unless_it_may_be_secret() {
    for (name, value, shown) in [
        (
            "PORT",
            "a\u{1b}[31m\"b\n\u{202e}c",
            r#"found "a\u{1b}[31m\"b\n\u{202e}c","#,
        ),
        (
            "PORT",
            &"é".repeat(41),
            &format!("found \"{}…\",", "é".repeat(40)),
        ),
        (
            "PORT",
            &"é".repeat(40),
            &format!("found \"{}\",", "é".repeat(40)),
        ),
        ("PORT", KEY, "found something that looks like a key,"),
        (
            "HOST",
            "sk-or-v1-0123456789abcdef",
            "found something that looks like a key,",
        ),
        (
            "TARGET_BASE_URL",
            KEY,
            "found something that looks like a key (it does not start",
        ),
        (
            "TARGET_BASE_URL",
            "https://me:pa/ss@h/",
            "found a URL not shown here (",
        ),
        (
            "TARGET_BASE_URL",
            "https://h/?key=s3cr3t",
            "found a URL not shown here (it has a query",
        ),
        (
            "TARGET_BASE_URL",
            "ftp://h/v1",
            "found \"ftp://h/v1\" (it does not start with http:// or https://), expected",
        ),
    ] {
        let faults = faults(with(&[(name, value)]));
        assert_eq!(faults.len(), 1, "{value}");
        assert!(
            faults[0].starts_with(&format!("{name} (environment): {shown}")),
            "{value}: {faults:?}"
        );
    }
}

#[test]
fn a_key_in_place_of_a_path_is_refused_and_not_shown() {
    for value in [
        KEY,
        "0123456789abcdef0123456789abcdef.AbCdEfGhIjKlMnOp",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLW9mLWl0",
    ] {
        let faults = faults(with(&[("STATE_FILE", value)]));
        let said = "STATE_FILE (environment): found something that looks like a key,";
        assert_eq!(faults.len(), 1, "{value}");
        assert!(faults[0].starts_with(said), "{value}: {faults:?}");
    }
}

#[test]
fn a_long_name_with_an_extension_or_a_folder_is_a_path() {
    for value in [
        "alvus-state-2026-at-home.json",
        "alvus-state-2026-at-home.example.com",
        "/var/lib/alvus-state-2026-at-home",
        "./alvus-state-2026-at-home",
        ".alvus-state-2026-at-home",
    ] {
        let loaded = with(&[("STATE_FILE", value)]);
        loaded.unwrap_or_else(|faults| panic!("{value}: {faults}"));
    }
}

#[cfg(unix)]
#[test]
fn bytes_that_are_not_utf_8_are_a_fault_except_in_a_path() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |tail: &str| OsString::from_vec([b"\xff", tail.as_bytes()].concat());
    let environment = ["API_KEYS", "PORT"].map(|name| (OsString::from(name), bytes("sk-secret")));
    let faults = faults(Config::parse(None, environment, &[]));
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].starts_with("API_KEYS (environment): key 1 of 1 holds a character outside ASCII"),
        "{faults:?}"
    );
    let environment = [
        ("API_KEYS".into(), KEY.into()),
        ("SSL_CERT_FILE".into(), bytes("/ca.pem")),
        (bytes("X"), "".into()),
    ];
    let config = config(Config::parse::<OsString, OsString>(None, environment, &[]));
    assert_eq!(config.ssl_cert_file, Some(PathBuf::from(bytes("/ca.pem"))));
}

#[test]
fn the_debug_form_of_a_config_holds_no_key() {
    let text = format!("{:?}", with(&[]));
    assert!(
        text.contains("ApiKey(…f9a1)") && !text.contains("0123"),
        "{text}"
    );
}

#[test]
fn a_reload_can_name_every_setting_that_differs() {
    let file = include_str!("../../tests/data/env/valid/everything.env");
    let environment = std::iter::empty::<(String, String)>();
    let (old, new) = (
        config(with(&[])),
        config(Config::parse(Some(file), environment, &[])),
    );
    let live = differences(&old, &new, false);
    let restart = differences(&old, &new, true);
    // Keys are counted instead; they are in one of two places.
    let kept = |v: &&Variable| !["API_KEYS", "API_KEYS_FILE"].contains(&v.name);
    for v in VARIABLES.iter().filter(kept) {
        let named = [&live, &restart].map(|list| list.contains(&v.name));
        assert!(named[0] != named[1], "{}: {named:?}", v.name);
    }
    assert!(differences(&old, &old, false).is_empty());
    assert!(differences(&old, &old, true).is_empty());
}
