//! `.env` text and environment → a checked [`Config`], or every fault at once.
//!
//! Pure: `main` reads the file and hands its text in. [`VARIABLES`] is the one list of names, defaults, limits and
//! help; `--help`, the README's table, the error texts and the defaults used here all come from it. A new variable is
//! a row there, a field of [`Config`] and its line in [`Config::parse`].
//!
//! Faults and warnings are lines for the operator. Nothing of an `API_KEYS` or `CLIENT_KEYS` value gets into them beyond a label, and
//! of other values a few characters, and none that look like a key in the wrong place.

mod dotenv;
mod guests;
mod lookalike;
mod target;
mod values;
mod words;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::models::ModelMap;
use crate::logging::{LogFormat, LogLevel};
use crate::secret::ApiKey;
pub use guests::{ClientKey, Host, WebOrigin};
pub use target::{Scheme, Target};
use values::Values;
pub use words::{markdown_table, table};

/// One setting: a row of [`VARIABLES`].
#[derive(Debug)]
pub struct Variable {
    /// As it is written in the environment and in `.env`.
    pub name: &'static str,
    /// Used when it is not set or set to nothing; empty: there is none.
    pub default: &'static str,
    /// What values it takes.
    pub form: Form,
    /// What it does: whole sentences for the tables.
    pub help: &'static str,
}

/// What values a [`Variable`] takes.
#[derive(Debug)]
pub enum Form {
    /// API keys separated by commas. Never echoed.
    Keys,
    /// Names and keys of clients, separated by commas. Never echoed.
    ClientKeys,
    /// Names and addresses of hosts, separated by commas.
    Hosts,
    /// Web origins, separated by commas.
    Origins,
    /// An IP address, or `localhost` for 127.0.0.1.
    Host,
    /// What [`Target::parse`] takes.
    Url,
    /// Digits, `min` and `max` included.
    Number {
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value; must fit the type of the field that it ends in, also on 32 bits.
        max: u64,
        /// What is counted, in the plural, or nothing.
        unit: &'static str,
    },
    /// Requests a minute from 0 to [`MAX_RATE`], or `auto`.
    Rate,
    /// What [`ModelMap::parse`] takes.
    Models,
    /// One of a few words, in upper or lower case.
    Word(&'static [&'static str]),
    /// The path of a file, taken as it is.
    File,
}

/// The longest sensible wait, in seconds: a day.
const DAY: u64 = 24 * 60 * 60;

/// The highest `RPM_LIMIT`: above this, a limit is none that a small box has to pace itself for.
pub const MAX_RATE: u64 = 1000;

/// Requests a minute that alvus itself allows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As many as come.
    #[default]
    Off,
    /// So many with each key, all models together.
    Fixed(u32),
    /// As many with each key and model as were accepted in the minute before its last 429.
    Auto,
}

impl Pace {
    fn parse(text: &str) -> Option<Pace> {
        if text.eq_ignore_ascii_case("auto") {
            return Some(Pace::Auto);
        }
        let rate = target::whole_number(text).filter(|rate| *rate <= MAX_RATE)?;
        Some(match u32::try_from(rate).ok()? {
            0 => Pace::Off,
            rate => Pace::Fixed(rate),
        })
    }
}

/// Which of the ready keys is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The one whose last turn is the longest ago.
    #[default]
    RoundRobin,
    /// The one that this conversation had before, while it is ready.
    Sticky,
}

impl Rotation {
    /// As they are written.
    pub const WORDS: &[&str] = &["round-robin", "sticky"];

    fn parse(word: &str) -> Option<Rotation> {
        match Rotation::WORDS
            .iter()
            .position(|w| w.eq_ignore_ascii_case(word))?
        {
            0 => Some(Rotation::RoundRobin),
            _ => Some(Rotation::Sticky),
        }
    }
}

/// What becomes of requests in a dialect that not every provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speech {
    /// They are translated where the provider does not speak it.
    #[default]
    Auto,
    /// They are translated.
    Translate,
    /// They go up as they are.
    Pass,
}

impl Speech {
    /// As they are written.
    pub const WORDS: &[&str] = &["auto", "translate", "pass"];

    /// `built`: this alvus knows the dialect.
    fn parse(word: &str, built: bool) -> Result<Speech, &'static str> {
        let word = Speech::WORDS
            .iter()
            .position(|w| w.eq_ignore_ascii_case(word));
        match word {
            Some(0) => Ok(Speech::Auto),
            Some(1) if built => Ok(Speech::Translate),
            Some(1) => Err("this alvus was built without it"),
            Some(_) => Ok(Speech::Pass),
            None => Err(""),
        }
    }
}

/// The fields that a provider may want its key in; behind the first one's stands `Bearer`.
pub const KEY_HEADERS: &[&str] = &["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// What a switch takes.
const YES_NO: &[&str] = &["no", "yes"];

/// Every setting, in the order of the tables.
#[rustfmt::skip]
pub const VARIABLES: &[Variable] = &[
    Variable { name: "API_KEYS", default: "", form: Form::Keys,
        help: "Required: your provider's keys, separated by commas. Requests take turns through them." },
    Variable { name: "PORT", default: "3000", form: Form::Number { min: 0, max: 65535, unit: "" },
        help: "Port to listen on; 0 takes any free one." },
    Variable { name: "HOST", default: "127.0.0.1", form: Form::Host,
        help: "Address to listen on. Another than loopback, such as 0.0.0.0, takes CLIENT_KEYS." },
    Variable { name: "CLIENT_KEYS", default: "", form: Form::ClientKeys,
        help: "Who may ask: name:key,name:key. Clients send the key as their API key. Not set: whoever can connect." },
    Variable { name: "OPEN_LAN", default: "no", form: Form::Word(YES_NO),
        help: "Listen on the network without CLIENT_KEYS: everyone on it can use your keys." },
    Variable { name: "ALLOWED_HOSTS", default: "", form: Form::Hosts,
        help: "More names under which alvus is reached, separated by commas: pi.local,alvus.lan." },
    Variable { name: "ALLOWED_ORIGINS", default: "", form: Form::Origins,
        help: "Web pages and desktop agents that may ask, by their origins: http://localhost:5173,app://obsidian.md,vscode-webview://*,null." },
    Variable { name: "TARGET_BASE_URL", default: "https://integrate.api.nvidia.com/v1", form: Form::Url,
        help: "The provider. Its path replaces a leading /v1 of the client's path." },
    Variable { name: "GENAI_BASE_URL", default: "https://ai.api.nvidia.com", form: Form::Url,
        help: "Where paths with /genai/ go, whole: NVIDIA's visual models. For another provider than NVIDIA only if it is set." },
    Variable { name: "KEY_HEADER", default: "authorization", form: Form::Word(KEY_HEADERS),
        help: "The field in which the provider wants its key; in authorization it follows Bearer." },
    Variable { name: "MESSAGES", default: "auto", form: Form::Word(Speech::WORDS),
        help: "Requests in Anthropic's Messages API: auto translates them to chat completions where the provider does not know them." },
    Variable { name: "RESPONSES", default: "auto", form: Form::Word(Speech::WORDS),
        help: "The same for OpenAI's Responses API." },
    Variable { name: "MODEL_MAP", default: "", form: Form::Models,
        help: "Models under other names, the first match counts: claude-haiku*=a/b,claude-*=c/d." },
    Variable { name: "COOLDOWN_SEC", default: "60", form: Form::Number { min: 1, max: DAY, unit: "seconds" },
        help: "How long a key rests after a 429 that does not say how long; twice as long each time that is repeated, up to 15 minutes." },
    Variable { name: "RPM_LIMIT", default: "0", form: Form::Rate,
        help: "Requests a minute that alvus allows each key, so that it is never refused. auto learns what each key and model takes." },
    Variable { name: "ROTATION", default: "round-robin", form: Form::Word(Rotation::WORDS),
        help: "sticky keeps a conversation on one key while that is ready, for the provider's prompt cache." },
    Variable { name: "MAX_RETRIES", default: "10", form: Form::Number { min: 0, max: 1000, unit: "" },
        help: "How many times a request waits for a key or for a provider in trouble." },
    Variable { name: "MAX_WAIT_SEC", default: "300", form: Form::Number { min: 0, max: DAY, unit: "seconds" },
        help: "How long a request waits, all rounds together." },
    Variable { name: "HEARTBEAT_SEC", default: "15", form: Form::Number { min: 0, max: DAY, unit: "seconds" },
        help: "While a stream's client waits, it gets a comment this often; 0: never." },
    Variable { name: "MAX_BODY_MB", default: "32", form: Form::Number { min: 1, max: 1024, unit: "MiB" },
        help: "Largest request body, in MiB; a larger one is answered with 413." },
    Variable { name: "WORKERS", default: "32", form: Form::Number { min: 1, max: 256, unit: "" },
        help: "How many requests may be at the provider at the same time; others wait." },
    Variable { name: "MAX_CONNECTIONS", default: "256", form: Form::Number { min: 1, max: 10_000, unit: "" },
        help: "How many clients may be connected; for one more, the one idle longest goes. More than WORKERS." },
    Variable { name: "CONNECT_TIMEOUT_SEC", default: "10", form: Form::Number { min: 1, max: 300, unit: "seconds" },
        help: "How long connecting to the provider may take." },
    Variable { name: "FIRST_BYTE_TIMEOUT_SEC", default: "600", form: Form::Number { min: 1, max: DAY, unit: "seconds" },
        help: "How long the provider may think before its answer begins." },
    Variable { name: "IDLE_TIMEOUT_SEC", default: "300", form: Form::Number { min: 1, max: DAY, unit: "seconds" },
        help: "How long an answer may pause between two pieces." },
    Variable { name: "SSL_CERT_FILE", default: "", form: Form::File,
        help: "PEM file of extra CA certificates, trusted besides the built-in ones." },
    Variable { name: "STATE_FILE", default: "", form: Form::File,
        help: "Where the rests of keys are kept over a restart." },
    Variable { name: "DASHBOARD", default: "0", form: Form::Word(&["0", "1"]),
        help: "1: GET /dashboard shows what alvus is doing." },
    Variable { name: "LOG", default: "info", form: Form::Word(LogLevel::WORDS),
        help: "How much is logged." },
    Variable { name: "LOG_FORMAT", default: "text", form: Form::Word(LogFormat::WORDS),
        help: "How a line of the log is written." },
];

/// Everything alvus can be told, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one, all different, all fit for a header, in the order they were given.
    pub api_keys: Vec<ApiKey>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0: any free one.
    pub port: u16,
    /// Who may ask; empty: whoever can connect.
    pub client_keys: Vec<ClientKey>,
    /// Other names of ours.
    pub allowed_hosts: Vec<Host>,
    /// Web pages that may ask.
    pub allowed_origins: Vec<WebOrigin>,
    /// Where requests go.
    pub target: Target,
    /// Where paths with `/genai/` go; `None`: where all others go.
    pub genai: Option<Target>,
    /// One of [`KEY_HEADERS`].
    pub key_header: &'static str,
    /// What becomes of requests in the Messages dialect.
    pub messages: Speech,
    /// What becomes of requests in the Responses dialect.
    pub responses: Speech,
    /// Which model is asked in place of another.
    pub models: ModelMap,
    /// How long a key rests after the first 429 without a hint.
    pub cooldown: Duration,
    /// Our own limit for each key.
    pub pace: Pace,
    /// The order of the keys.
    pub rotation: Rotation,
    /// How many rounds of waiting a request may take while all keys cool.
    pub max_retries: u32,
    /// How long a request may wait in total.
    pub max_wait: Duration,
    /// How often a stream's client gets a comment while it waits; zero: never.
    pub heartbeat: Duration,
    /// Largest request body, in bytes; at most 1 GiB, so it fits 32 bits.
    pub max_body: usize,
    /// How many requests are served at a time.
    pub workers: usize,
    /// Connections of clients at a time.
    pub max_connections: usize,
    /// Time to connect to the upstream.
    pub connect_timeout: Duration,
    /// Time from the request to the head of the upstream's answer.
    pub first_byte_timeout: Duration,
    /// Longest gap between two pieces of an answer.
    pub idle_timeout: Duration,
    /// PEM file of CAs to trust besides the built-in ones; not opened yet.
    pub ssl_cert_file: Option<PathBuf>,
    /// What is to survive a restart.
    pub state_file: Option<PathBuf>,
    /// Show the dashboard; always false where it was left out of the build.
    pub dashboard: bool,
    /// How much to log.
    pub log: LogLevel,
    /// How it is written.
    pub log_format: LogFormat,
}

/// A [`Config`] and what the operator should be told about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// One line each.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with the configuration, one line each. `Display` joins them with line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Merges and checks. `env_file` is the text of the `.env` file, if there is one, and `env_file_name` what the
    /// messages call it. The environment wins over the file; an empty value counts as not set.
    ///
    /// # Errors
    /// All faults of both sources, none of them with any part of a key.
    pub fn parse<N: Into<OsString>, V: Into<OsString>>(
        env_file: Option<&str>,
        env_file_name: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Loaded, Faults> {
        let mut values = Values::collect(env_file, env_file_name, environment);
        let api_keys = values.required_keys("API_KEYS");
        let mut config = Config {
            client_keys: values.client_keys("CLIENT_KEYS", &api_keys),
            api_keys,
            host: values.checked("HOST", |text| parse_host(text).ok_or("")),
            port: values.number("PORT"),
            allowed_hosts: values.checked("ALLOWED_HOSTS", guests::hosts),
            allowed_origins: values.checked("ALLOWED_ORIGINS", guests::origins),
            target: values.checked("TARGET_BASE_URL", Target::parse),
            genai: Some(values.checked("GENAI_BASE_URL", Target::parse)),
            key_header: values.checked("KEY_HEADER", |text| {
                let mut all = KEY_HEADERS.iter().copied();
                all.find(|name| name.eq_ignore_ascii_case(text)).ok_or("")
            }),
            messages: values.checked("MESSAGES", |text| {
                Speech::parse(text, cfg!(feature = "messages"))
            }),
            responses: values.checked("RESPONSES", |text| {
                Speech::parse(text, cfg!(feature = "responses"))
            }),
            models: values.models("MODEL_MAP"),
            cooldown: values.seconds("COOLDOWN_SEC"),
            pace: values.checked("RPM_LIMIT", |text| Pace::parse(text).ok_or("")),
            rotation: values.checked("ROTATION", |text| Rotation::parse(text).ok_or("")),
            max_retries: values.number("MAX_RETRIES"),
            max_wait: values.seconds("MAX_WAIT_SEC"),
            heartbeat: values.seconds("HEARTBEAT_SEC"),
            max_body: values.number::<usize>("MAX_BODY_MB") * MIB,
            workers: values.number("WORKERS"),
            max_connections: values.number("MAX_CONNECTIONS"),
            connect_timeout: values.seconds("CONNECT_TIMEOUT_SEC"),
            first_byte_timeout: values.seconds("FIRST_BYTE_TIMEOUT_SEC"),
            idle_timeout: values.seconds("IDLE_TIMEOUT_SEC"),
            ssl_cert_file: values.file("SSL_CERT_FILE"),
            state_file: values.file("STATE_FILE"),
            dashboard: values.checked("DASHBOARD", |text| match text {
                "0" => Ok(false),
                "1" if cfg!(feature = "dashboard") => Ok(true),
                "1" => Err("this alvus was built without it"),
                _ => Err(""),
            }),
            log: values.checked("LOG", |text| LogLevel::parse(text).ok_or("")),
            log_format: values.checked("LOG_FORMAT", |text| LogFormat::parse(text).ok_or("")),
        };
        // NVIDIA's own keys may go there unasked, and no others.
        if !config.target.is_at("nvidia.com") && values.set.get("GENAI_BASE_URL").is_none() {
            config.genai = None;
        }
        values.keep_room(&mut config);
        values.warnings.extend(
            guests::nameless(&config.allowed_origins, &config.client_keys).map(str::to_owned),
        );
        let open_lan = values.checked("OPEN_LAN", yes_or_no);
        values.guard_the_door(&config, open_lan);
        if let Some(base) = config.target.base_path.strip_suffix("/chat/completions") {
            values.warnings.push(format!(
                "TARGET_BASE_URL ends in /chat/completions, which clients append themselves; did you mean {}{base}?",
                config.target.origin()
            ));
        }
        values.report_strangers();
        if values.faults.is_empty() {
            Ok(Loaded {
                config,
                warnings: values.warnings,
            })
        } else {
            Err(Faults(values.faults))
        }
    }

    /// Address and port to listen on.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        _ if text.eq_ignore_ascii_case("yes") => Ok(true),
        _ if text.eq_ignore_ascii_case("no") => Ok(false),
        _ => Err(""),
    }
}

/// The names of the settings, keys aside, in which two configurations differ: those that take a
/// `restart`, or those that a reload brings to work.
#[rustfmt::skip]
pub fn differences(old: &Config, new: &Config, restart: bool) -> Vec<&'static str> {
    let all = [
        ("PORT", true, old.port != new.port),
        ("HOST", true, old.host != new.host),
        ("CLIENT_KEYS", false, old.client_keys != new.client_keys),
        ("ALLOWED_HOSTS", false, old.allowed_hosts != new.allowed_hosts),
        ("ALLOWED_ORIGINS", false, old.allowed_origins != new.allowed_origins),
        ("TARGET_BASE_URL", false, old.target != new.target),
        ("GENAI_BASE_URL", false, old.genai != new.genai),
        ("KEY_HEADER", false, old.key_header != new.key_header),
        ("MESSAGES", false, old.messages != new.messages),
        ("RESPONSES", false, old.responses != new.responses),
        ("MODEL_MAP", false, old.models != new.models),
        ("COOLDOWN_SEC", false, old.cooldown != new.cooldown),
        ("RPM_LIMIT", false, old.pace != new.pace),
        ("ROTATION", false, old.rotation != new.rotation),
        ("MAX_RETRIES", false, old.max_retries != new.max_retries),
        ("MAX_WAIT_SEC", false, old.max_wait != new.max_wait),
        ("HEARTBEAT_SEC", false, old.heartbeat != new.heartbeat),
        ("MAX_BODY_MB", true, old.max_body != new.max_body),
        ("WORKERS", true, old.workers != new.workers),
        ("MAX_CONNECTIONS", true, old.max_connections != new.max_connections),
        ("CONNECT_TIMEOUT_SEC", false, old.connect_timeout != new.connect_timeout),
        ("FIRST_BYTE_TIMEOUT_SEC", false, old.first_byte_timeout != new.first_byte_timeout),
        ("IDLE_TIMEOUT_SEC", false, old.idle_timeout != new.idle_timeout),
        ("SSL_CERT_FILE", false, old.ssl_cert_file != new.ssl_cert_file),
        ("STATE_FILE", true, old.state_file != new.state_file),
        ("DASHBOARD", true, old.dashboard != new.dashboard),
        ("LOG", false, old.log != new.log),
        ("LOG_FORMAT", false, old.log_format != new.log_format),
    ];
    let found = all.into_iter().filter(|(_, r, differs)| *differs && *r == restart);
    found.map(|(name, ..)| name).collect()
}

/// Bytes in what `MAX_BODY_MB` counts.
const MIB: usize = 1024 * 1024;

fn parse_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests;
