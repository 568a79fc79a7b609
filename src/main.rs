//! The command line: arguments, wiring, exit codes. Reads as a list.
//!
//! Exit codes: 0 done; 1 a failure at run time (port in use, no key works, no alvus answers); 2 bad
//! arguments or configuration; 128 and its number after a second signal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use alvus::config::{self, Config, Loaded};
use alvus::logging::{self, LogLevel, say};
use alvus::relay::Relay;
use alvus::secret::ApiKey;
use alvus::server::Server;
use alvus::signals::{Order, Orders};
use alvus::state::file::StateFile;
use alvus::watch::{EnvFile, Text};
use alvus::{ask, check, demo, error, info, machine, warn};

/// How long running requests may go on after the first SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// How long whoever reads the log may take for the last lines.
const LAST_WORDS: Duration = Duration::from_millis(500);

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

/// What the command line asks for.
enum Command {
    Serve,
    Check { json: bool },
    Status { watch: bool },
    Demo,
    Help,
    Version,
}

fn main() -> ExitCode {
    let result = arguments().and_then(|(command, env_file)| match command {
        Command::Help => print(&help()),
        Command::Version => print(&format!("alvus {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Check { json: true } => check_in_json(load(&mut EnvFile::new(env_file))),
        Command::Check { json: false } => run_check(&load(&mut EnvFile::new(env_file))?),
        Command::Status { watch } => run_status(&load_to_ask(&mut EnvFile::new(env_file))?, watch),
        Command::Demo => run_demo(),
        Command::Serve => {
            machine::tame_allocator();
            let mut file = EnvFile::new(env_file);
            let config = load(&mut file)?;
            serve(&config, "", Some(file))
        }
    });
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            if !text.is_empty() {
                logging::say_as(LogLevel::Error, &text);
            }
            ExitCode::from(code)
        }
    };
    logging::finish(LAST_WORDS);
    code
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
            Value(word) if command.is_none() && word == "check" => {
                command = Some(Command::Check { json: false });
            }
            Value(word) if command.is_none() && word == "status" => {
                command = Some(Command::Status { watch: false });
            }
            Long("json") if matches!(command, Some(Command::Check { .. })) => {
                command = Some(Command::Check { json: true });
            }
            Long("watch") if matches!(command, Some(Command::Status { .. })) => {
                command = Some(Command::Status { watch: true });
            }
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
         alvus check    try each key once and say what it is worth (--json: for programs)\n  \
         alvus status   ask the alvus that runs here how it is (--watch: every 2 s)\n  \
         alvus demo     serve a built-in provider with three limited keys; nothing leaves the machine\n\n\
         Options:\n  \
         --env-file PATH  read this file instead of .env in the working directory\n  \
         --version, --help\n\n\
         Configuration (the environment wins over .env):\n{}\n\
         Exit codes:\n  \
         0  done; check: a key works; status: a key can serve\n  \
         1  it failed: the port is in use; check: no key works; status: no key can serve, or no alvus\n  \
         \u{20}  answers\n  \
         2  bad arguments or configuration; nothing was started or sent\n  \
         128 and its number: a second SIGTERM or SIGINT ended what the first one let finish\n",
        env!("CARGO_PKG_VERSION"),
        config::table()
    )
}

/// To standard output; a closed pipe (`alvus --help | head`) is no failure.
fn print(text: &str) -> Result<(), Exit> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Reads the configuration, sets how the log is written and says what there is to say about it.
fn load(file: &mut EnvFile) -> Result<Config, Exit> {
    let text = file.read();
    take_in(file, text, &[]).map(begin_with)
}

/// The same to ask a running alvus, perhaps on another machine: that takes no key of the provider's.
fn load_to_ask(file: &mut EnvFile) -> Result<Config, Exit> {
    let text = file.read();
    take_in(file, text, &[("API_KEYS", "none")]).map(begin_with)
}

/// What was read is what alvus goes by.
fn begin_with(loaded: Loaded) -> Config {
    logging::set(loaded.config.log, loaded.config.log_format);
    warn_of(loaded.warnings);
    loaded.config
}

fn warn_of(warnings: Vec<String>) {
    for warning in warnings {
        warn!("{warning}");
    }
}

/// Checks a file that was just read, with `overrides` on top of the environment. Changes nothing.
fn take_in(file: &EnvFile, text: Text, overrides: &[(&str, &str)]) -> Result<Loaded, Exit> {
    let shown = file.shown();
    let text = text.map_err(|e| (MISUSED, format!("error: cannot read {shown}: {e}")))?;
    if text.is_some() && file.is_open_to_others() {
        logging::say_as(
            LogLevel::Warn,
            &format!("warn: {shown} can be read by others on this machine; run: chmod 600 {shown}"),
        );
    }
    parse(text.as_deref(), &shown, overrides)
}

fn parse(text: Option<&str>, shown: &str, overrides: &[(&str, &str)]) -> Result<Loaded, Exit> {
    let overrides = overrides.iter().map(|(n, v)| (n.into(), v.into()));
    Config::parse(text, shown, std::env::vars_os().chain(overrides))
        .map_err(|faults| (MISUSED, faults.to_string()))
}

/// Serves until told to stop. `file`: where the configuration came from, to be read again after
/// SIGHUP and after an edit.
fn serve(config: &Config, first_words: &str, mut file: Option<EnvFile>) -> Result<(), Exit> {
    let failed = |text: String| (FAILED, format!("error: {text}"));
    logging::detach();
    let mut orders = Orders::listen().map_err(|e| failed(format!("cannot handle signals: {e}")))?;
    let relay = Relay::new(config).map_err(|text| (MISUSED, format!("error: {text}")))?;
    let mut memory = config.state_file.clone().map(|path| remember(path, &relay));
    let server = Server::start(config, relay).map_err(|e| {
        failed(format!(
            "cannot listen on {}:{}: {e} (HOST, PORT)",
            config.host, config.port
        ))
    })?;
    let addr = server.addr().map_err(|e| failed(e.to_string()))?;
    say(&format!(
        "⚡ Alvus started on {addr}\n   Target  : {}\n   Keys    : {} loaded\n   Cooldown: {}s per key on 429\n   Memory  : {}",
        config.target,
        config.api_keys.len(),
        config.cooldown.as_secs(),
        server.memory()
    ));
    if !first_words.is_empty() {
        say(&first_words.replace("{addr}", &addr.to_string()));
    }
    let mut running = config.clone();
    loop {
        let look = file.as_ref().and_then(EnvFile::pause);
        let write = memory.as_ref().map(|memory| memory.pause(Instant::now()));
        let order = orders.next(look.into_iter().chain(write).min());
        if let Some(memory) = &mut memory
            && memory.pause(Instant::now()).is_zero()
        {
            keep(memory, &server);
        }
        let new = match (order, &mut file) {
            (Some(Order::Stop(_)), _) => break,
            (Some(Order::Reload), Some(file)) => {
                let text = file.read();
                Some(take_in(file, text, &[]))
            }
            (Some(Order::Reload), None) => Some(Ok(Loaded {
                config: running.clone(),
                warnings: Vec::new(),
            })),
            (None, Some(file)) => file.news().map(|text| take_in(file, text, &[])),
            (None, None) => None,
        };
        let done = match new {
            Some(Ok(Loaded {
                config: new,
                warnings,
            })) => {
                let done = take_over(config, &mut running, new, &server);
                warn_of(warnings);
                done
            }
            Some(Err((_, text))) => Err(text),
            None => continue,
        };
        if let Err(text) = done {
            refuse(&text);
        }
    }
    server.close_door();
    memory.iter_mut().for_each(|memory| keep(memory, &server));
    info!(
        "stopping: {} requests under way; a second signal ends at once",
        server.in_flight()
    );
    // The second signal must end a wait for requests that may take half a minute.
    std::thread::spawn(move || {
        loop {
            if let Some(Order::Stop(signal)) = orders.next(None) {
                logging::finish(LAST_WORDS);
                std::process::exit(128 + i32::from(signal)); // as a shell has it
            }
        }
    });
    if !server.drained(DRAIN) {
        warn!(
            "{} requests did not end within {} s",
            server.in_flight(),
            DRAIN.as_secs()
        );
    }
    memory.iter_mut().for_each(|memory| keep(memory, &server));
    Ok(())
}

/// Says why a reload came to nothing: one line for each fault.
fn refuse(faults: &str) {
    let mut begin = "reload refused, the running configuration stays";
    for fault in faults.lines() {
        let fault = fault.strip_prefix("error: ").unwrap_or(fault);
        error!("{begin}: {fault}");
        begin = "refused for this too";
    }
}

/// Takes up what an earlier alvus kept in this file.
fn remember(path: PathBuf, relay: &Relay) -> StateFile {
    let salt = alvus::upstream::random().unwrap_or_default();
    let (file, entries, complaint) = StateFile::open(path, salt, Instant::now());
    if let Some(complaint) = complaint {
        error!("{complaint}");
    }
    let taken = relay.restore(file.salt(), &entries);
    if taken > 0 {
        info!("STATE_FILE: {taken} rests go on");
    }
    file
}

/// Keeps for a later alvus what this one knows.
fn keep(memory: &mut StateFile, server: &Server) {
    let limits = server.relay().limits(memory.salt());
    if let Err(text) = memory.keep(limits, Instant::now()) {
        error!("{text}");
    }
}

/// Puts a reloaded configuration to work and says in one line what changed.
fn take_over(
    started_with: &Config,
    running: &mut Config,
    new: Config,
    server: &Server,
) -> Result<(), String> {
    // Whatever can fail comes before anything changes.
    if new.client_keys.is_empty()
        && !running.client_keys.is_empty()
        && new.host.to_canonical().is_loopback()
        && !started_with.host.to_canonical().is_loopback()
    {
        let host = started_with.host;
        return Err(format!(
            "without CLIENT_KEYS everyone on the network could use your keys: alvus listens on {host} until a restart"
        ));
    }
    let rules = server.rules(&new).map_err(|e| e.to_string())?;
    let merged = server.relay().reload(&new)?;
    server.admit(rules);
    logging::set(new.log, new.log_format);
    let live = config::differences(running, &new, false).join(", ");
    let fixed = config::differences(started_with, &new, true).join(", ");
    info!(
        "reloaded: {} keys ({} new, {} removed, {} tried again), target {}{}{live}",
        new.api_keys.len(),
        merged.new,
        merged.removed,
        merged.revived,
        new.target,
        if live.is_empty() { "" } else { "; changed: " }
    );
    if !fixed.is_empty() {
        warn!("changed, but only a restart brings it to work: {fixed}");
    }
    *running = new;
    Ok(())
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

/// The same for programs: one JSON document on standard output, whatever is found.
fn check_in_json(loaded: Result<Config, Exit>) -> Result<(), Exit> {
    let mut findings = Vec::new();
    let done = loaded.and_then(|config| {
        let tell = |_, key: &ApiKey, finding| findings.push((key.clone(), finding));
        check::run(&config, tell).map_err(|text| (MISUSED, format!("error: {text}")))
    });
    match done {
        Ok(any) => {
            print(&check::json(&findings))?;
            if any {
                Ok(())
            } else {
                Err((FAILED, String::new()))
            }
        }
        Err((code, text)) => {
            print(&check::json_faults(&text))?;
            Err((code, text))
        }
    }
}

fn run_status(config: &Config, watch: bool) -> Result<(), Exit> {
    let terminal = std::io::stdout().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    loop {
        let page = ask::health(config);
        let (text, up) = match &page {
            Ok(page) => (ask::table(page, colours), ask::is_up(page)),
            Err(text) if watch => (format!("{text}\n"), false),
            Err(text) => return Err((FAILED, format!("error: {text}"))),
        };
        // To the top left corner of an empty screen.
        let clear = if watch && terminal {
            "\x1b[H\x1b[2J"
        } else {
            ""
        };
        let mut out = std::io::stdout();
        let written = out
            .write_all(format!("{clear}{text}").as_bytes())
            .and_then(|()| out.flush());
        match watch && written.is_ok() {
            true => ask::pause(),
            false if up || watch => return Ok(()),
            false => return Err((FAILED, String::new())),
        }
    }
}

fn run_demo() -> Result<(), Exit> {
    let url = demo::start().map_err(|e| (FAILED, format!("error: cannot start the demo: {e}")))?;
    let keys = demo::KEYS.join(",");
    let config = parse(
        None,
        ".env",
        &[("API_KEYS", &keys), ("TARGET_BASE_URL", &url)],
    )
    .map(begin_with)?;
    let words = format!(
        "\nThis is the demo: a built-in provider with {} keys, each good for {} requests in {} s.\nAsk it a few times and watch the keys rotate; no answer is a 429:\n\n  curl -N http://{{addr}}/v1/chat/completions -d '{{\"model\":\"demo\",\"stream\":true,\"messages\":[]}}'\n  curl http://{{addr}}/health\n",
        demo::KEYS.len(),
        demo::LIMIT,
        demo::WINDOW.as_secs()
    );
    serve(&config, &words, None)
}
