//! The program: arguments, wiring, exit codes.
//!
//! Exit codes: 0 done; 1 a failure at run time (port in use, no key works, no alvus answers); 2 bad
//! arguments or configuration; 128 and its number after a second signal.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use alvus::arguments::{self, Arguments, Misused};
use alvus::ask::{self, NoHealth};
use alvus::config::{self, Config, Faults, Loaded, Sources};
use alvus::init::{self, Given, Stopped};
use alvus::logging::{self, LogLevel, say};
use alvus::relay::Relay;
use alvus::secret::ApiKey;
use alvus::server::Server;
use alvus::signals::{Order, Orders};
use alvus::state::StateFile;
use alvus::watch::{FileText, Files};
use alvus::{check, demo, error, info, machine, warn};

#[cfg(target_env = "musl")]
#[global_allocator]
static MEMORY: alvus_malloc::Cached = alvus_malloc::Cached;

// Linked in place of another `memcpy`.
#[cfg(all(target_env = "musl", target_arch = "arm"))]
extern crate alvus_memcpy as _;

/// How long running requests may go on after the first SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// How long to wait for the last lines of the log.
const LAST_WORDS: Duration = Duration::from_millis(500);

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let result = Arguments::parse(std::env::args_os().skip(1))
        .map_err(|Misused(what)| {
            let text = format!("alvus: {what} (`alvus --help` lists what there is)");
            (MISUSED, text)
        })
        .and_then(|arguments| run(&arguments));
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

fn failed(what: impl Display) -> Exit {
    (FAILED, format!("error: {what}"))
}

fn misused(what: impl Display) -> Exit {
    (MISUSED, format!("error: {what}"))
}

/// The end of a command that has said already what it found.
fn found(good: bool) -> Result<(), Exit> {
    match good {
        true => Ok(()),
        false => Err((FAILED, String::new())),
    }
}

fn run(arguments: &Arguments) -> Result<(), Exit> {
    let mut setup = Setup {
        files: Files::new(arguments.env_file()),
        options: arguments.settings(),
    };
    let json = arguments.has("json");
    match arguments.command {
        "help" => print(&arguments::help()),
        "version" => print(&format!("alvus {}\n", env!("CARGO_PKG_VERSION"))),
        "init" => run_init(arguments),
        "check" if json => check_in_json(setup.load()),
        "check" => run_check(&setup.load()?),
        "status" => run_status(setup, arguments.has("watch"), json),
        "demo" => run_demo(setup.options),
        _ => {
            machine::tame_allocator();
            let config = setup.load()?;
            serve(&config, "", Some(setup))
        }
    }
}

/// Where the configuration comes from, besides the environment.
struct Setup {
    files: Files,
    /// Settings of the command line.
    options: Vec<(&'static str, OsString)>,
}

impl Setup {
    /// Reads the configuration, sets up the log, and logs warnings.
    fn load(&mut self) -> Result<Config, Exit> {
        let text = self.files.env.read();
        self.take_in(text, true).map(begin_with)
    }

    /// Checks a file that was just read. Changes nothing. `keys`: the provider's keys are needed.
    fn take_in(&mut self, text: FileText, keys: bool) -> Result<Loaded, Exit> {
        let shown = self.files.env.shown();
        let text = text.map_err(|e| misused(format!("cannot read {shown}: {e}")))?;
        let sources = Sources {
            env_file: text.as_deref(),
            env_file_name: &shown,
            environment: std::env::vars_os().collect(),
            options: &self.options,
        };
        let files = &mut self.files;
        let mut read = |path: &Path| files.read_keys(path);
        let loaded = Config::load(&sources, keys.then_some(&mut read));
        for open in self.files.open_to_others() {
            let text = format!(
                "warn: {open} can be read by others on this machine; run: chmod 600 {open}"
            );
            logging::say_as(LogLevel::Warn, &text);
        }
        let loaded = loaded.map_err(|faults| (MISUSED, faults.to_string()))?;
        if loaded.config.api_keys_file.is_none() {
            self.files.forget_keys();
        }
        Ok(loaded)
    }
}

/// Prints to standard output. A closed pipe (`alvus --help | head`) is not a failure.
fn print(text: &str) -> Result<(), Exit> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Logs the warnings, and applies the settings of the log.
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

/// Serves until a signal. `setup`: where the configuration came from, to read it again after SIGHUP
/// and after an edit.
fn serve(config: &Config, first_words: &str, mut setup: Option<Setup>) -> Result<(), Exit> {
    logging::detach();
    let mut orders = Orders::listen().map_err(|e| failed(format!("cannot handle signals: {e}")))?;
    let relay = Relay::new(config).map_err(misused)?;
    let mut memory = config.state_file.clone().map(|path| remember(path, &relay));
    let server = Server::start(config, relay).map_err(|e| {
        failed(format!(
            "cannot listen on {}:{}: {e} (HOST, PORT)",
            config.host, config.port
        ))
    })?;
    let addr = server.addr().map_err(failed)?;
    greet(config, &server, &addr.to_string(), first_words);
    let mut running = Cow::Borrowed(config);
    loop {
        let look = setup.as_ref().and_then(|setup| setup.files.pause());
        let write = memory.as_ref().map(|memory| memory.pause(Instant::now()));
        let order = orders.next(look.into_iter().chain(write).min());
        let is_time = |memory: &StateFile| memory.pause(Instant::now()).is_zero();
        if memory.as_ref().is_some_and(is_time) {
            keep(&mut memory, &server);
        }
        let is_asked = match order {
            Some(Order::Stop(_)) => break,
            order => order.is_some(),
        };
        match read_anew(is_asked, &mut setup, &running) {
            Some(Ok(new)) => {
                if let Err(faults) = take_over(config, &mut running, new.config, &server) {
                    refuse(&faults.to_string());
                }
                warn_of(new.warnings);
            }
            Some(Err((_, text))) => refuse(&text),
            None => {}
        }
    }
    server.close_door();
    keep(&mut memory, &server);
    drain(&server, orders);
    keep(&mut memory, &server);
    Ok(())
}

/// The new configuration, after an order to reload or a change of a file.
fn read_anew(
    is_asked: bool,
    setup: &mut Option<Setup>,
    running: &Config,
) -> Option<Result<Loaded, Exit>> {
    let Some(setup) = setup else {
        let config = running.clone();
        let warnings = Vec::new();
        return is_asked.then_some(Ok(Loaded { config, warnings }));
    };
    let text = match is_asked {
        true => setup.files.env.read(),
        false => setup.files.news()?,
    };
    Some(setup.take_in(text, true))
}

/// The first lines that an operator sees.
fn greet(config: &Config, server: &Server, addr: &str, first_words: &str) {
    say(&format!(
        "⚡ Alvus started on {addr}\n   Target  : {}\n   Keys    : {} loaded\n   Cooldown: {}s per key on 429\n   Memory  : {}",
        config.target,
        config.api_keys.len(),
        config.cooldown.as_secs(),
        server.memory()
    ));
    if !first_words.is_empty() {
        say(&first_words.replace("{addr}", addr));
    }
}

/// Waits for the requests under way, unless a second signal comes.
fn drain(server: &Server, mut orders: Orders) {
    info!(
        "stopping: {} requests under way; a second signal ends at once",
        server.in_flight()
    );
    // A second signal ends the wait. If there is no thread for it, the wait takes its time.
    let second = std::thread::Builder::new().spawn(move || {
        while let Some(order) = orders.next(None) {
            if let Order::Stop(signal) = order {
                logging::finish(LAST_WORDS);
                std::process::exit(128 + i32::from(signal)); // as a shell has it
            }
        }
    });
    drop(second);
    if !server.drained(DRAIN) {
        warn!(
            "{} requests did not end within {} s",
            server.in_flight(),
            DRAIN.as_secs()
        );
    }
}

/// Logs why a reload was refused: one line for each fault.
fn refuse(faults: &str) {
    let mut begin = "reload refused, the running configuration stays";
    for fault in faults.lines() {
        let fault = fault.strip_prefix("error: ").unwrap_or(fault);
        error!("{begin}: {fault}");
        begin = "refused for this too";
    }
}

/// Takes over the rests in the state file.
fn remember(path: PathBuf, relay: &Relay) -> StateFile {
    let salt = alvus::upstream::random().unwrap_or_default();
    let (file, rests, complaint) = StateFile::open(path, salt, Instant::now());
    if let Some(complaint) = complaint {
        error!("{complaint}");
    }
    let taken = relay.restore(file.salt(), &rests);
    if taken > 0 {
        info!("STATE_FILE: {taken} rests go on");
    }
    file
}

/// Writes the state file, if there is one.
fn keep(memory: &mut Option<StateFile>, server: &Server) {
    let Some(memory) = memory else { return };
    let rests = server.relay().saved_rests(memory.salt());
    if let Err(text) = memory.keep(rests, Instant::now()) {
        error!("{text}");
    }
}

/// Applies a reloaded configuration, and logs in one line what changed.
fn take_over(
    started_with: &Config,
    running: &mut Cow<'_, Config>,
    new: Config,
    server: &Server,
) -> Result<(), Faults> {
    // All that can fail comes before anything changes.
    if new.client_keys.is_empty()
        && !running.client_keys.is_empty()
        && new.host.to_canonical().is_loopback()
        && !started_with.host.to_canonical().is_loopback()
    {
        let host = started_with.host;
        return Err(Faults::from(format!(
            "without CLIENT_KEYS everyone on the network could use your keys: alvus listens on {host} until a restart"
        )));
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
        warn!("changed, but takes effect only after a restart: {fixed}");
    }
    *running = Cow::Owned(new);
    Ok(())
}

fn run_check(config: &Config) -> Result<(), Exit> {
    let any = check::run(config, |index, key, finding| {
        let _ = print(&format!("key {index} {}: {finding}\n", key.label()));
    })
    .map_err(misused)?;
    found(any)
}

/// The same for programs: always one JSON document on standard output.
fn check_in_json(loaded: Result<Config, Exit>) -> Result<(), Exit> {
    let mut findings = Vec::new();
    let done = loaded.and_then(|config| {
        let tell = |_, key: &ApiKey, finding| findings.push((key.clone(), finding));
        check::run(&config, tell).map_err(misused)
    });
    match done {
        Ok(any) => {
            print(&check::json(&findings))?;
            found(any)
        }
        Err((code, text)) => {
            print(&check::json_faults(&text))?;
            Err((code, text))
        }
    }
}

fn run_status(mut setup: Setup, watch: bool, json: bool) -> Result<(), Exit> {
    let name = machine_asked(&mut setup.options);
    let text = setup.files.env.read();
    let Loaded { config, warnings } = setup.take_in(text, false)?;
    let terminal = std::io::stdout().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    loop {
        let page = ask::health(&config, name.as_deref());
        let (text, up) = match page {
            Ok((text, page)) if json => (text + "\n", ask::is_up(&page)),
            Ok((_, page)) => (ask::table(&page, colours), ask::is_up(&page)),
            Err(NoHealth(text)) if watch => (format!("{text}\n"), false),
            // One of the warnings may say why nobody answers.
            Err(NoHealth(text)) => {
                warn_of(warnings);
                return Err(failed(text));
            }
        };
        // To the top left corner of an empty screen.
        let clear = if watch && terminal && !json {
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
            false => return found(up || watch),
        }
    }
}

/// For `HOST=pi.local alvus status`: takes a machine's name out of the settings, where `HOST` must be an address.
fn machine_asked(options: &mut Vec<(&'static str, OsString)>) -> Option<String> {
    let given = options.iter().find(|(name, _)| *name == "HOST");
    let host = given
        .map(|(_, host)| host.clone())
        .or_else(|| std::env::var_os("HOST"));
    let host = host?.into_string().ok()?;
    let name = host.trim().trim_matches(['[', ']']);
    if name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    options.push(("HOST", "localhost".into()));
    Some(name.to_owned())
}

fn run_init(arguments: &Arguments) -> Result<(), Exit> {
    let program = std::env::args_os().next().unwrap_or_default();
    let given = Given {
        arguments,
        keys: std::env::var_os("API_KEYS").filter(|keys| !keys.is_empty()),
        program: program.to_string_lossy().into_owned(),
        asks: std::io::stdin().is_terminal(),
    };
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    init::run(&given, &mut input, &mut output).map_err(|stopped| match stopped {
        Stopped::Misused(text) => misused(text),
        Stopped::Failed(text) => failed(text),
    })
}

fn run_demo(mut options: Vec<(&'static str, OsString)>) -> Result<(), Exit> {
    let url = demo::start().map_err(|e| failed(format!("cannot start the demo: {e}")))?;
    options.push(("API_KEYS", demo::KEYS.join(",").into()));
    options.push(("TARGET_BASE_URL", url.into()));
    let environment = std::env::vars_os().filter(|(name, _)| name != "API_KEYS_FILE");
    let config = Config::parse(None, environment, &options)
        .map(begin_with)
        .map_err(|faults| (MISUSED, faults.to_string()))?;
    let words = format!(
        "\nThis is the demo: a built-in provider with {} keys, each good for {} requests in {} s.\nAsk it a few times and watch the keys rotate; no answer is a 429:\n\n  curl -N http://{{addr}}/v1/chat/completions -d '{{\"model\":\"demo\",\"stream\":true,\"messages\":[]}}'\n  curl http://{{addr}}/health\n",
        demo::KEYS.len(),
        demo::LIMIT,
        demo::WINDOW.as_secs()
    );
    serve(&config, &words, None)
}
