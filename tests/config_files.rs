//! Whole `.env` files, each with its expected result beside it.
//!
//! `valid/NAME.env` has `NAME.txt`: what differs from the defaults, then the warnings. `invalid/NAME.env` has the
//! faults. A new case is a new pair of files.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use alvus::config::{Config, Faults, Loaded, VARIABLES};

/// No key of these files may appear in a message; each of them contains this.
const SECRET: &str = "secret";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The `.env` files of a folder, of which there must be some.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/data/env").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "env"));
    files.sort();
    assert!(
        files.len() >= 5,
        "only {} cases in {}",
        files.len(),
        folder.display()
    );
    files
}

fn parse(text: &str) -> Result<Loaded, Faults> {
    Config::parse(Some(text), std::iter::empty::<(String, String)>(), &[])
}

/// One line per setting. The keys in full: these are test data, and the parser is on trial.
fn dump(config: &Config) -> Vec<String> {
    let mut lines: Vec<String> = config
        .api_keys
        .iter()
        .map(|key| format!("key {}", key.expose()))
        .collect();
    lines.push(format!(
        "listen {}",
        SocketAddr::new(config.host, config.port)
    ));
    let clients = config.client_keys.iter();
    lines.extend(clients.map(|c| format!("client {} {}", c.name, c.key.expose())));
    lines.push(format!("allowed_hosts {:?}", config.allowed_hosts));
    lines.push(format!("allowed_origins {:?}", config.allowed_origins));
    lines.push(format!(
        "target {} + {:?}",
        config.target.origin(),
        config.target.base_path
    ));
    let genai = config.genai.as_ref().map(ToString::to_string);
    lines.push(format!("genai {}", genai.as_deref().unwrap_or("-")));
    lines.push(format!("cooldown {:?}", config.cooldown));
    lines.push(format!("pace {:?}", config.pace));
    lines.push(format!("rotation {:?}", config.rotation));
    lines.push(format!("max_retries {}", config.max_retries));
    lines.push(format!("max_wait {:?}", config.max_wait));
    lines.push(format!("heartbeat {:?}", config.heartbeat));
    lines.push(format!("max_body {}", config.max_body));
    lines.push(format!("workers {}", config.workers));
    lines.push(format!("max_connections {}", config.max_connections));
    lines.push(format!("connect_timeout {:?}", config.connect_timeout));
    lines.push(format!(
        "first_byte_timeout {:?}",
        config.first_byte_timeout
    ));
    lines.push(format!("idle_timeout {:?}", config.idle_timeout));
    lines.push(format!("ssl_cert_file {:?}", config.ssl_cert_file));
    lines.push(format!("state_file {:?}", config.state_file));
    lines.push(format!("dashboard {}", config.dashboard));
    lines.push(format!("log {:?}", config.log));
    lines.push(format!("log_format {:?}", config.log_format));
    lines
}

#[test]
fn every_valid_file_gives_the_settings_beside_it() {
    let defaults = dump(&parse("API_KEYS=k").expect("the defaults are valid").config);
    for path in cases("valid") {
        let loaded = parse(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut found = dump(&loaded.config);
        found.retain(|line| !defaults.contains(line));
        for warning in &loaded.warnings {
            assert!(!warning.contains(SECRET), "{}: {warning}", path.display());
            found.push(format!("warning {warning}"));
        }
        let expected = read(&path.with_extension("txt"));
        assert_eq!(
            found,
            expected.lines().collect::<Vec<_>>(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_invalid_file_gives_the_faults_beside_it_and_no_secret() {
    for path in cases("invalid") {
        let text = read(&path);
        assert!(
            text.contains(SECRET) || !text.contains("API_KEYS="),
            "{} proves nothing",
            path.display()
        );
        let faults = parse(&text)
            .err()
            .unwrap_or_else(|| panic!("{} was taken", path.display()));
        let found = faults.to_string();
        assert!(!found.contains(SECRET), "{}: {found}", path.display());
        let expected = read(&path.with_extension("txt"));
        assert_eq!(
            found.lines().collect::<Vec<_>>(),
            expected.lines().collect::<Vec<_>>(),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_example_works_once_keys_are_put_in_whether_its_defaults_are_commented_out_or_not() {
    let example = read(&root().join(".env.example"));
    let with_key = example.replace("\nAPI_KEYS=\n", "\nAPI_KEYS=k\n");
    let defaults = dump(&parse("API_KEYS=k").expect("the defaults are valid").config);
    let spelled_out = VARIABLES.iter().fold(with_key.clone(), |text, v| {
        text.replace(&format!("\n#{}=", v.name), &format!("\n{}=", v.name))
    });
    assert_ne!(spelled_out, with_key);
    for text in [with_key, spelled_out] {
        let loaded = parse(&text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(dump(&loaded.config), defaults);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
    let faults = parse(&example)
        .expect_err("the example as it is has no key")
        .to_string();
    assert!(
        faults.starts_with("API_KEYS is not set: put API_KEYS=key1,key2 into .env"),
        "{faults}"
    );
}
