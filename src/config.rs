//! `.env` text and environment → a checked [`Config`], or every fault at once.
//!
//! Pure: `main` reads the file and hands its text in. [`VARIABLES`] is the one list of names, defaults, limits and
//! help; `--help`, the README's table, the error texts and the defaults used here all come from it. A new variable is
//! a row there, a field of [`Config`] and its line in [`Config::parse`].
//!
//! Faults and warnings are lines for the operator. Nothing of an `API_KEYS` or `CLIENT_KEYS` value gets into them beyond a label, and
//! of other values at most [`ECHOED`] characters, and none that look like a key in the wrong place.

mod dotenv;
mod guests;
mod lookalike;
mod target;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::dialect::models::ModelMap;
use crate::logging::{LogFormat, LogLevel};
use crate::secret::ApiKey;
pub use guests::{ClientKey, Host, WebOrigin};
pub use target::{Scheme, Target};

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

/// What becomes of requests in Anthropic's Messages dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Messages {
    /// They are translated where the provider does not speak it.
    #[default]
    Auto,
    /// They are translated.
    Translate,
    /// They go up as they are.
    Pass,
}

impl Messages {
    /// As they are written.
    pub const WORDS: &[&str] = &["auto", "translate", "pass"];

    fn parse(word: &str) -> Result<Messages, &'static str> {
        let word = Messages::WORDS
            .iter()
            .position(|w| w.eq_ignore_ascii_case(word));
        match word {
            Some(0) => Ok(Messages::Auto),
            Some(1) if cfg!(feature = "messages") => Ok(Messages::Translate),
            Some(1) => Err("this alvus was built without it"),
            Some(_) => Ok(Messages::Pass),
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
    Variable { name: "MESSAGES", default: "auto", form: Form::Word(Messages::WORDS),
        help: "Requests in Anthropic's Messages API: auto translates them to chat completions where the provider does not know them." },
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
        help: "How many requests are served at the same time." },
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
    pub messages: Messages,
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
            messages: values.checked("MESSAGES", Messages::parse),
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

/// What is set, and what was found wrong with it so far.
struct Values<'a> {
    env_file: Option<&'a str>,
    env_file_name: &'a str,
    set: Settings<'a>,
    strangers: Vec<Stranger>,
    faults: Vec<String>,
    warnings: Vec<String>,
}

/// Settings by name. A dozen of them need no map, and a map's code is 5 kB of the binary.
#[derive(Default)]
struct Settings<'a>(Vec<(&'static str, Setting<'a>)>);

impl<'a> Settings<'a> {
    fn get(&self, name: &str) -> Option<&Setting<'a>> {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, setting)| setting)
    }

    /// Replaces an earlier one and returns it.
    fn insert(&mut self, name: &'static str, setting: Setting<'a>) -> Option<Setting<'a>> {
        let at = self.0.iter().position(|(n, _)| *n == name);
        let earlier = at.map(|at| self.0.swap_remove(at).1);
        self.0.push((name, setting));
        earlier
    }
}

struct Setting<'a> {
    value: Cow<'a, OsStr>,
    /// For the messages: `environment`, or `.env line 7`.
    origin: String,
}

/// A name that is not ours, but close to one that is.
struct Stranger {
    name: String,
    ours: &'static str,
    /// `None`: from the environment.
    line: Option<String>,
}

impl<'a> Values<'a> {
    fn collect<N: Into<OsString>, V: Into<OsString>>(
        env_file: Option<&'a str>,
        env_file_name: &'a str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Values<'a> {
        let (set, strangers, faults, warnings) = Default::default();
        let mut values = Values {
            env_file,
            env_file_name,
            set,
            strangers,
            faults,
            warnings,
        };
        values.take_file();
        for (name, value) in environment {
            if let Ok(name) = name.into().into_string() {
                values.take_environment(name, value.into());
            }
        }
        values
    }

    fn take_file(&mut self) {
        let (assignments, bad_lines) = dotenv::parse(self.env_file.unwrap_or_default());
        for bad in bad_lines {
            self.faults.push(format!(
                "{} line {} {}",
                self.env_file_name, bad.line, bad.why
            ));
        }
        for dotenv::Assignment { line, name, value } in assignments {
            let origin = format!("{} line {line}", self.env_file_name);
            if let Some(ours) = VARIABLES.iter().find(|v| v.name == name) {
                if let Some(earlier) = self.set.insert(
                    ours.name,
                    Setting {
                        value: match value {
                            Cow::Borrowed(text) => Cow::Borrowed(text.as_ref()),
                            Cow::Owned(text) => Cow::Owned(text.into()),
                        },
                        origin,
                    },
                ) {
                    let earlier = earlier.origin;
                    self.warnings.push(format!(
                        "{name} is set again on line {line}, so {earlier} has no effect"
                    ));
                }
            } else if let Some(ours) = lookalike::nearest(name) {
                self.strangers.push(Stranger {
                    name: name.to_owned(),
                    ours: ours.name,
                    line: Some(origin),
                });
            }
        }
        self.set.0.retain(|(_, setting)| !is_blank(&setting.value));
    }

    fn take_environment(&mut self, name: String, value: OsString) {
        if is_blank(&value) {
            return;
        }
        if let Some(ours) = VARIABLES.iter().find(|v| v.name == name) {
            self.set.insert(
                ours.name,
                Setting {
                    value: value.into(),
                    origin: "environment".to_owned(),
                },
            );
        } else if let Some(ours) = lookalike::nearest(&name) {
            self.strangers.push(Stranger {
                name,
                ours: ours.name,
                line: None,
            });
        }
    }

    /// The value that is set or else the default, checked by `parse`, whose error may say more than
    /// [`Form::expected`] (it follows the value, so it must not repeat it). After a fault the default stands in,
    /// so that the check goes on.
    fn checked<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> T {
        let variable = variable(name);
        if let Some(Setting { value, origin }) = self.set.get(name) {
            let text = text_of(value);
            match parse(text.trim()) {
                Ok(value) => return value,
                Err(why) => {
                    let found = echo(&variable.form, text.trim());
                    let why = if why.is_empty() {
                        String::new()
                    } else {
                        format!(" ({why})")
                    };
                    let expected = variable.form.expected();
                    let example = variable.form.example().unwrap_or(variable.default);
                    self.faults.push(format!(
                        "{name} ({origin}): found {found}{why}, expected {expected}, for example {name}={example}"
                    ));
                }
            }
        }
        match parse(variable.default) {
            Ok(value) => value,
            Err(why) => panic!("the default of {name} is wrong: {why}"),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, name: &'static str) -> T {
        let Form::Number { min, max, .. } = variable(name).form else {
            panic!("{name} is not a number")
        };
        self.checked(name, |text| {
            let number = target::whole_number(text).filter(|n| (min..=max).contains(n));
            number.and_then(|n| T::try_from(n).ok()).ok_or("")
        })
    }

    fn seconds(&mut self, name: &'static str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    fn models(&mut self, name: &'static str) -> ModelMap {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return ModelMap::default();
        };
        let text = text_of(value);
        ModelMap::parse(&text).unwrap_or_else(|why| {
            let why = match like_a_key(&text) {
                true => "something in it looks like a key".into(),
                false => why,
            };
            self.faults.push(format!(
                "{name} ({origin}): {why}, for example {name}=claude-haiku*=a/b,claude-*=c/d"
            ));
            ModelMap::default()
        })
    }

    fn file(&mut self, name: &'static str) -> Option<PathBuf> {
        self.set
            .get(name)
            .map(|setting| PathBuf::from(&*setting.value))
    }

    /// The list without blanks and duplicates. A key that cannot be sent is a fault that gives its place in the list.
    fn keys(&mut self, name: &'static str) -> Vec<ApiKey> {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return Vec::new();
        };
        let text = text_of(value);
        let mut repeated: Vec<String> = Vec::new();
        let listed = || {
            let parts = text.split(',').map(str::trim);
            parts.filter(|key| !key.is_empty())
        };
        // There may be ten thousand, so nothing grows.
        let most = 1 + text.bytes().filter(|b| *b == b',').count();
        let mut keys = Vec::with_capacity(most);
        let mut seen = HashSet::with_capacity(most);
        for (at, key_text) in (1..).zip(listed()) {
            let key = ApiKey::new(key_text);
            if let Some(fault) = key.fault() {
                let count = listed().count();
                self.faults.push(format!(
                    "{name} ({origin}): key {at} of {count} {fault}, expected keys of visible ASCII characters, \
                     separated by commas, for example {name}=key1,key2"
                ));
            } else if seen.insert(key_text) {
                keys.push(key);
            } else {
                repeated.push(format!("key {at} ({})", key.label()));
            }
        }
        if !repeated.is_empty() {
            let repeated = repeated.join(", ");
            self.warnings.push(format!(
                "{name} ({origin}): dropped as duplicates: {repeated}"
            ));
        }
        keys
    }

    /// The clients and their keys. A fault gives the place in the list.
    fn client_keys(&mut self, name: &'static str, api_keys: &[ApiKey]) -> Vec<ClientKey> {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return Vec::new();
        };
        let (clients, faults) = guests::client_keys(&text_of(value), api_keys);
        let faults = faults.iter().map(|why| format!("{name} ({origin}): {why}"));
        self.faults.extend(faults);
        self.warnings.extend(guests::short_keys(&clients));
        clients
    }

    /// Nobody opens the keys to a whole network without saying so.
    fn guard_the_door(&mut self, config: &Config, open_lan: bool) {
        let blamed =
            |fault: &String| fault.starts_with("CLIENT_KEYS") || fault.starts_with("OPEN_LAN");
        if config.host.to_canonical().is_loopback()
            || !config.client_keys.is_empty()
            || self.faults.iter().any(blamed)
        {
            return;
        }
        let host = config.host;
        if open_lan {
            self.warnings.push(format!(
                "OPEN_LAN: whoever can reach {host} can use your keys; CLIENT_KEYS=name:key would ask for one first"
            ));
        } else {
            let origin = self.set.get("HOST").map_or("", |setting| &setting.origin);
            self.faults.push(format!(
                "HOST ({origin}): {host} would let everyone on the network use your keys: set CLIENT_KEYS=name:key \
                 (clients send that key as their API key), or OPEN_LAN=yes if that is what you want"
            ));
        }
    }

    /// Each request that is served holds a connection, and one must be left for `/health`. Of the two, what
    /// the operator did not set follows what was.
    fn keep_room(&mut self, config: &mut Config) {
        let blamed =
            |fault: &String| fault.starts_with("WORKERS") || fault.starts_with("MAX_CONNECTIONS");
        if config.max_connections > config.workers || self.faults.iter().any(blamed) {
            return;
        }
        let (workers, connections) = (config.workers, config.max_connections);
        match (self.set.get("WORKERS"), self.set.get("MAX_CONNECTIONS")) {
            (Some(Setting { origin, .. }), Some(Setting { origin: other, .. })) => {
                self.faults.push(format!(
                    "WORKERS ({origin}): {workers} requests at a time do not fit into MAX_CONNECTIONS ({other}): \
                     {connections}, expected more connections than workers, for example MAX_CONNECTIONS={}",
                    2 * workers
                ));
            }
            (Some(_), None) => config.max_connections = 2 * workers,
            _ => config.workers = connections.saturating_sub(1).max(1),
        }
    }

    fn required_keys(&mut self, name: &'static str) -> Vec<ApiKey> {
        let faults_before = self.faults.len();
        let keys = self.keys(name);
        if !keys.is_empty() || self.faults.len() > faults_before {
            return keys;
        }
        let file = self.env_file_name;
        let mut fault = match self.set.get(name) {
            Some(Setting { origin, .. }) => format!("{name} ({origin}) holds no key"),
            None => format!("{name} is not set"),
        };
        match self.strangers.iter().find(|stranger| stranger.ours == name) {
            Some(stranger) => {
                let (found, origin) = (shown(&stranger.name), stranger.origin());
                fault += &format!(
                    ", but {found} is ({origin}): rename it to {name}, and separate keys by commas"
                );
            }
            None if self.env_file.is_some() => {
                fault += &format!(
                    ": put {name}=key1,key2 into {file} (your provider's keys, separated by commas)"
                );
            }
            None => {
                fault += &format!(
                    ": create {file} with the line {name}=key1,key2 (your provider's keys, separated by commas)"
                );
            }
        }
        self.faults.push(fault);
        keys
    }

    /// A foreign name in the environment is worth a line only while ours is not set: it may well be another program's.
    fn report_strangers(&mut self) {
        for stranger in &self.strangers {
            if stranger.line.is_some() || self.set.get(stranger.ours).is_none() {
                let (found, origin, ours) =
                    (shown(&stranger.name), stranger.origin(), stranger.ours);
                self.warnings.push(format!(
                    "{found} ({origin}) is not a setting of alvus; did you mean {ours}?"
                ));
            }
        }
    }
}

impl Stranger {
    fn origin(&self) -> &str {
        self.line.as_deref().unwrap_or("environment")
    }
}

/// The row called `name`. A wrong name is a bug that the first call of [`Config::parse`] finds.
fn variable(name: &str) -> &'static Variable {
    match VARIABLES.iter().find(|v| v.name == name) {
        Some(variable) => variable,
        None => panic!("{name} has no row in VARIABLES"),
    }
}

fn is_blank(value: &OsStr) -> bool {
    let visible = |b: &u8| b.is_ascii_graphic();
    !value.as_encoded_bytes().iter().any(visible) && text_of(value).trim().is_empty()
}

/// As `to_string_lossy`, which is slow where nothing is lost.
fn text_of(value: &OsStr) -> Cow<'_, str> {
    match value.to_str() {
        Some(text) => text.into(),
        None => value.to_string_lossy(),
    }
}

/// How many characters of a wrong value are shown.
const ECHOED: usize = 40;

/// A run of this many letters and digits, with both in it, is taken for a key in the wrong place.
const KEY_LIKE: usize = 20;

/// A wrong value as a message may show it.
fn echo(form: &Form, value: &str) -> String {
    match form {
        Form::Keys | Form::ClientKeys => "something not shown here".to_owned(),
        _ if like_a_key(value) => "something that looks like a key".to_owned(),
        // Passwords stand before an @, keys in a query.
        Form::Url if value.contains(['@', '?', '#']) => "a URL not shown here".to_owned(),
        _ => format!("\"{}\"", shown(value)),
    }
}

fn like_a_key(value: &str) -> bool {
    let mut runs = value.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    runs.any(|run| {
        run.len() >= KEY_LIKE
            && run.bytes().any(|b| b.is_ascii_digit())
            && run.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

/// At most [`ECHOED`] characters, control characters escaped.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(ECHOED).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

impl Form {
    /// What a value must be, to follow the word "expected".
    fn expected(&self) -> String {
        match self {
            Form::Keys => "keys separated by commas".to_owned(),
            Form::ClientKeys => "name:key pairs separated by commas".to_owned(),
            Form::Hosts => "names or addresses separated by commas".to_owned(),
            Form::Origins => "origins separated by commas".to_owned(),
            Form::Host => "an IP address or localhost".to_owned(),
            Form::Url => {
                "an http:// or https:// URL with a host and no user name, query or fragment"
                    .to_owned()
            }
            Form::Number { min, max, unit: "" } => format!("a whole number from {min} to {max}"),
            Form::Number { min, max, unit } => {
                format!("a whole number of {unit} from {min} to {max}")
            }
            Form::Rate => format!("a whole number of requests from 0 to {MAX_RATE}, or auto"),
            Form::Models => "NAME=MODEL pairs separated by commas".to_owned(),
            Form::Word(words) => or(words),
            Form::File => "the path of a file".to_owned(),
        }
    }

    /// A value for the messages, where the default is none.
    fn example(&self) -> Option<&'static str> {
        match self {
            Form::Hosts => Some("pi.local,alvus.lan"),
            Form::Origins => Some("http://localhost:5173,app://obsidian.md,vscode-webview://*"),
            _ => None,
        }
    }

    /// What [`Form::expected`] says, for the tables, as a sentence; nothing where the help says it all.
    fn limits(&self) -> String {
        match self {
            Form::Keys
            | Form::ClientKeys
            | Form::Hosts
            | Form::Origins
            | Form::Url
            | Form::Models
            | Form::File => String::new(),
            Form::Host => " An IP address or localhost.".to_owned(),
            Form::Number { min, max, .. } => format!(" {min} to {max}."),
            Form::Rate => format!(" 0 (no limit) to {MAX_RATE}, or auto."),
            Form::Word(words) => format!(" One of {}.", or(words)),
        }
    }
}

/// `a, b or c`.
fn or(words: &[&str]) -> String {
    match words {
        [start @ .., last] if !start.is_empty() => format!("{} or {last}", start.join(", ")),
        _ => words.concat(),
    }
}

/// Columns of `--help`.
const WIDTH: usize = 100;

/// The table for `--help`: at most 100 columns, ends with a line break.
pub fn table() -> String {
    let longest = VARIABLES
        .iter()
        .map(|v| v.name.len())
        .max()
        .unwrap_or_default();
    let indent = longest + 4;
    let mut out = String::new();
    for v in VARIABLES {
        let default = if v.default.is_empty() {
            String::new()
        } else {
            format!(" [default:\u{a0}{}]", v.default)
        };
        let mut line = format!("  {:longest$} ", v.name);
        for word in format!("{}{}{default}", v.help, v.form.limits()).split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                out += &line;
                out += "\n";
                line = " ".repeat(indent - 1);
            }
            line += " ";
            line += word;
        }
        out += &line;
        out += "\n";
    }
    out.replace('\u{a0}', " ") // held a default and its label on one line
}

/// The same list as the README's table, in markdown; ends with a line break.
pub fn markdown_table() -> String {
    let mut out = "| Variable | Default | Meaning |\n|---|---|---|\n".to_owned();
    for v in VARIABLES {
        let default = if v.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", v.default)
        };
        out += &format!(
            "| `{}` | {default} | {}{} |\n",
            v.name,
            v.help,
            v.form.limits()
        );
    }
    out
}

#[cfg(test)]
mod tests;
