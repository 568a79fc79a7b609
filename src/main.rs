//! The command line: arguments, wiring, exit codes. Reads as a list.
//!
//! Exit codes: 0 done; 1 a failure at run time (port in use, no key works); 2 bad arguments or
//! configuration.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alvus::config::{self, Config, Loaded};
use alvus::logging::{self, say};
use alvus::relay::Relay;
use alvus::server::Server;
use alvus::signals::{Order, Orders};
use alvus::{check, demo, error, info, warn};

/// How long running requests may go on after the first SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// What the command line asks for.
enum Command {
    Serve,
    Check,
    Demo,
    Help,
    Version,
}

fn main() -> ExitCode {
    let result = arguments().and_then(|(command, env_file)| match command {
        Command::Help => print(&help()),
        Command::Version => print(&format!("alvus {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Check => run_check(&load(env_file)?),
        Command::Demo => run_demo(),
        Command::Serve => {
            let config = load(env_file.clone())?;
            serve(&config, "", || load(env_file.clone()))
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            if !text.is_empty() {
                say(&text);
            }
            ExitCode::from(code)
        }
    }
}

/// An exit code, and what to say before it.
type Exit = (u8, String);

fn arguments() -> Result<(Command, Option<PathBuf>), Exit> {
    use lexopt::prelude::*;
    let misused = |e: lexopt::Error| (MISUSED, format!("alvus: {e}; try `alvus --help`"));
    let mut command = None;
    let mut env_file = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next().map_err(misused)? {
        match argument {
            Short('h') | Long("help") => return Ok((Command::Help, None)),
            Short('V') | Long("version") => return Ok((Command::Version, None)),
            Long("env-file") => env_file = Some(PathBuf::from(parser.value().map_err(misused)?)),
            Value(word) if command.is_none() && word == "check" => command = Some(Command::Check),
            Value(word) if command.is_none() && word == "demo" => command = Some(Command::Demo),
            // Someone may have pasted a key here, so only a short word is repeated.
            Value(word) if word.len() > 12 => {
                return Err((
                    MISUSED,
                    "alvus: unexpected argument (not shown here); try `alvus --help`".into(),
                ));
            }
            other => return Err(misused(other.unexpected())),
        }
    }
    Ok((command.unwrap_or(Command::Serve), env_file))
}

fn help() -> String {
    format!(
        "alvus {}: a key-rotating LLM proxy. Your agent never sees a 429.\n\n\
         Usage:\n  \
         alvus          serve\n  \
         alvus check    try each key once and say what it is worth\n  \
         alvus demo     serve a built-in provider with three limited keys; nothing leaves the machine\n\n\
         Options:\n  \
         --env-file PATH  read this file instead of .env in the working directory\n  \
         --version, --help\n\n\
         Configuration (the environment wins over .env):\n{}\n\
         Exit codes: 0 done, 1 failure at run time, 2 bad arguments or configuration.\n",
        env!("CARGO_PKG_VERSION"),
        config::table()
    )
}

/// To standard output; a closed pipe (`alvus --help | head`) is no failure.
fn print(text: &str) -> Result<(), Exit> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Reads the configuration, says its warnings and sets the log level.
fn load(env_file: Option<PathBuf>) -> Result<Config, Exit> {
    let named = env_file.is_some();
    let path = env_file.unwrap_or_else(|| PathBuf::from(".env"));
    let shown = path.display().to_string();
    let text = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => None,
        Err(e) => return Err((MISUSED, format!("error: cannot read {shown}: {e}"))),
    };
    if text.is_some() && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        say(&format!(
            "warn: {shown} can be read by others on this machine; run: chmod 600 {shown}"
        ));
    }
    parse(text.as_deref(), &shown, &[])
}

/// Checks what was read, with `overrides` on top of the environment.
fn parse(text: Option<&str>, shown: &str, overrides: &[(&str, &str)]) -> Result<Config, Exit> {
    let overrides = overrides.iter().map(|(n, v)| (n.into(), v.into()));
    let Loaded { config, warnings } =
        Config::parse(text, shown, std::env::vars_os().chain(overrides))
            .map_err(|faults| (MISUSED, faults.to_string()))?;
    logging::set_level(config.log);
    for warning in warnings {
        warn!("{warning}");
    }
    Ok(config)
}

/// Serves until told to stop. `reload` reads the configuration again.
fn serve(
    config: &Config,
    first_words: &str,
    reload: impl Fn() -> Result<Config, Exit>,
) -> Result<(), Exit> {
    let failed = |text: String| (FAILED, format!("error: {text}"));
    let mut orders = Orders::listen().map_err(|e| failed(format!("cannot handle signals: {e}")))?;
    let relay = Relay::new(config).map_err(|text| (MISUSED, format!("error: {text}")))?;
    let server = Server::start(config, relay).map_err(|e| {
        failed(format!(
            "cannot listen on {}:{}: {e} (HOST, PORT)",
            config.host, config.port
        ))
    })?;
    let addr = server.addr().map_err(|e| failed(e.to_string()))?;
    say(&format!(
        "⚡ Alvus started on {addr}\n   Target  : {}\n   Keys    : {} loaded\n   Cooldown: {}s per key on 429",
        config.target,
        config.api_keys.len(),
        config.cooldown.as_secs()
    ));
    if !first_words.is_empty() {
        say(&first_words.replace("{addr}", &addr.to_string()));
    }
    while orders.next() == Some(Order::Reload) {
        match reload() {
            Ok(new) => take_over(config, &new, server.relay()),
            Err((_, text)) => error!("reload refused, the running configuration stays: {text}"),
        }
    }
    server.close_door();
    info!(
        "stopping: {} requests under way; a second signal ends at once",
        server.in_flight()
    );
    // The second signal must end a wait for requests that may take half a minute.
    std::thread::spawn(move || {
        while orders.next() == Some(Order::Reload) {}
        std::process::exit(0);
    });
    if !server.drained(DRAIN) {
        warn!(
            "{} requests did not end within {} s",
            server.in_flight(),
            DRAIN.as_secs()
        );
    }
    Ok(())
}

/// Puts a reloaded configuration to work and says in one line what changed.
fn take_over(started_with: &Config, new: &Config, relay: &Relay) {
    let fixed = [
        ("HOST", started_with.host != new.host),
        ("PORT", started_with.port != new.port),
        ("WORKERS", started_with.workers != new.workers),
        ("MAX_BODY_MB", started_with.max_body != new.max_body),
        (
            "MAX_CONNECTIONS",
            started_with.max_connections != new.max_connections,
        ),
    ];
    for (name, _) in fixed.iter().filter(|(_, changed)| *changed) {
        warn!("{name} changed; that takes a restart");
    }
    match relay.reload(new) {
        Ok(merged) => info!(
            "reloaded: {} keys ({} new, {} removed, {} tried again), target {}",
            new.api_keys.len(),
            merged.new,
            merged.removed,
            merged.revived,
            new.target
        ),
        Err(text) => error!("reload refused, the running configuration stays: {text}"),
    }
}

fn run_check(config: &Config) -> Result<(), Exit> {
    let any = check::run(config, |index, key, finding| {
        let _ = print(&format!("key {index} {}: {finding}\n", key.label()));
    })
    .map_err(|text| (MISUSED, format!("error: {text}")))?;
    if any {
        Ok(())
    } else {
        Err((FAILED, String::new()))
    }
}

fn run_demo() -> Result<(), Exit> {
    let url = demo::start().map_err(|e| (FAILED, format!("error: cannot start the demo: {e}")))?;
    let keys = demo::KEYS.join(",");
    let config = parse(
        None,
        ".env",
        &[("API_KEYS", &keys), ("TARGET_BASE_URL", &url)],
    )?;
    let words = format!(
        "\nThis is the demo: a built-in provider with {} keys, each good for {} requests in {} s.\nAsk it a few times and watch the keys rotate; no answer is a 429:\n\n  curl -N http://{{addr}}/v1/chat/completions -d '{{\"model\":\"demo\",\"stream\":true,\"messages\":[]}}'\n  curl http://{{addr}}/health\n",
        demo::KEYS.len(),
        demo::LIMIT,
        demo::WINDOW.as_secs()
    );
    serve(&config, &words, || Ok(config.clone()))
}
