//! Turns `.env` text and the environment into a checked [`Config`], or reports all faults at once.
//!
//! [`VARIABLES`] is the one table of names, defaults, forms and help. The fields of [`Config`], their parsers, what a
//! reload cannot change, `--help`, the README's list, `.env.example`, the man page and the shell completions come from
//! it: a new setting is a row there. Pure: the caller reads the files.
//!
//! Faults and warnings are lines for the operator. They show no more of a key than its label, a few characters of other
//! values, and no value that looks like a key in the wrong place.

mod clients;
mod dotenv;
mod form;
mod keys;
mod lookalike;
mod providers;
mod target;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dialect::models::ModelMap;
use crate::logging::{LogFormat, LogLevel};
use crate::secret::ApiKey;
pub use clients::{ClientKey, Host, WebOrigin};
pub use form::{DialectMode, Form, Pace, Rotation, pasted};
pub use providers::{PROVIDERS, Provider};
pub use target::{Scheme, Target};
use values::Values;

/// One setting: a row of [`VARIABLES`].
#[derive(Debug)]
pub struct Variable {
    /// As it is written in the environment and in `.env`.
    pub name: &'static str,
    /// Used when it is not set or set to nothing. Empty: there is no default.
    pub default: &'static str,
    /// What values it takes.
    pub form: Form,
    /// A reload does not change it.
    pub restart: bool,
    /// What it does: whole sentences for the tables.
    pub help: &'static str,
}

/// The rows: a field of [`Config`] and its type; name and default; form; whether it is `live` after a reload or takes a
/// `restart`; help.
macro_rules! settings {
    ($( $field:ident: $kind:ty, $name:literal = $default:literal, $form:expr, $when:ident, $help:literal; )*) => {
        /// Every setting, in the order of the tables.
        pub static VARIABLES: &[Variable] = &[$(
            Variable { name: $name, default: $default, form: $form, restart: settings!(@ $when), help: $help },
        )*];

        /// Everything alvus can be told, checked.
        #[derive(Clone, Debug)]
        pub struct Config {
            $( #[doc = concat!("`", $name, "`: ", $help)] pub $field: $kind, )*
        }

        impl Config {
            fn read(values: &mut Values<'_>) -> Config {
                Config { $( $field: values.read($name), )* }
            }
        }

        /// The names of the settings, keys aside, in which two configurations differ: those that take a `restart`, or
        /// those that a reload changes.
        pub fn differences(old: &Config, new: &Config, restart: bool) -> Vec<&'static str> {
            let differs = [$( old.$field != new.$field, )*];
            let rows = VARIABLES.iter().zip(differs);
            let found = rows.filter(|(v, differs)| *differs && v.restart == restart && v.name != "API_KEYS");
            found.map(|(v, _)| v.name).collect()
        }
    };
    (@ live) => { false };
    (@ restart) => { true };
}

settings! {
    api_keys: Vec<ApiKey>, "API_KEYS" = "", form::KEYS, live,
        "Required, here or in API_KEYS_FILE: your provider's keys, separated by commas or blanks. Requests take turns through them.";
    api_keys_file: Option<PathBuf>, "API_KEYS_FILE" = "", Form::File, live,
        "The keys in a file of their own: one a line, or name = key; # begins a comment.";
    port: u16, "PORT" = "3000", form::number(0, 65535, ""), restart,
        "Port to listen on; 0 takes any free one.";
    host: IpAddr, "HOST" = "127.0.0.1", form::HOST, restart,
        "Address to listen on: an IP address or localhost. An address other than loopback, such as 0.0.0.0, needs CLIENT_KEYS.";
    client_keys: Vec<ClientKey>, "CLIENT_KEYS" = "", form::CLIENT_KEYS, live,
        "The clients that may ask: name:key,name:key. They send the key as their API key. Not set: everyone who can connect may ask.";
    open_lan: bool, "OPEN_LAN" = "no", Form::Switch, live,
        "Listen on the network without CLIENT_KEYS: everyone on it can use your keys.";
    allowed_hosts: Vec<Host>, "ALLOWED_HOSTS" = "", form::HOSTS, live,
        "More names under which alvus is reached, separated by commas: pi.local,alvus.lan.";
    allowed_origins: Vec<WebOrigin>, "ALLOWED_ORIGINS" = "", form::ORIGINS, live,
        "Web pages and desktop agents that may ask, by their origins: http://localhost:5173,app://obsidian.md,vscode-webview://*,null.";
    target: Target, "TARGET_BASE_URL" = "https://integrate.api.nvidia.com/v1", form::URL, live,
        "The provider. Its path replaces a leading /v1 of the client's path.";
    genai: Option<Target>, "GENAI_BASE_URL" = "https://ai.api.nvidia.com", form::URL, live,
        "Where paths with /genai/ (NVIDIA's visual models) go, unchanged. The default holds only if TARGET_BASE_URL is NVIDIA's.";
    key_header: &'static str, "KEY_HEADER" = "authorization", Form::Word(form::KEY_HEADERS), live,
        "The header field for the provider's key. In authorization the key follows Bearer.";
    messages: DialectMode, "MESSAGES" = "auto", Form::Word(form::DIALECT_MODES), live,
        "Requests in Anthropic's Messages API: auto translates them to chat completions where the provider does not know them.";
    responses: DialectMode, "RESPONSES" = "auto", Form::Word(form::DIALECT_MODES), live,
        "The same for OpenAI's Responses API.";
    models: ModelMap, "MODEL_MAP" = "", form::MODELS, live,
        "Models under other names; the first match counts: claude-haiku*=a/b,claude-*=c/d. Stand-ins follow after vertical bars.";
    cooldown: Duration, "COOLDOWN_SEC" = "60", form::seconds(1), live,
        "How long a key rests after a 429 that states no time; doubled with each repetition, up to 15 minutes.";
    pace: Pace, "RPM_LIMIT" = "0", form::RATE, live,
        "Requests a minute that alvus allows each key, so that the provider does not refuse it. auto learns what each key and model takes. 0 (no limit) to 1000, or auto.";
    rotation: Rotation, "ROTATION" = "round-robin", Form::Word(&["round-robin", "sticky"]), live,
        "round-robin takes the keys in turn. sticky keeps a conversation on one key while that is ready, for the provider's prompt cache.";
    max_retries: u32, "MAX_RETRIES" = "10", form::number(0, 1000, ""), live,
        "How many times a request waits for a key or for a provider in trouble.";
    max_wait: Duration, "MAX_WAIT_SEC" = "300", form::seconds(0), live,
        "How long a request may wait for keys and between tries; the provider's own time does not count.";
    heartbeat: Duration, "HEARTBEAT_SEC" = "15", form::seconds(0), live,
        "How often the client of a stream gets a sign of life while it waits; 0: never.";
    max_body: usize, "MAX_BODY_MB" = "32", form::number(1, 1024, form::MIB), restart,
        "Largest request body, in MiB; a larger one is answered with 413.";
    workers: usize, "WORKERS" = "64", form::number(1, 256, ""), restart,
        "How many requests may be at the provider at the same time; others wait.";
    max_connections: usize, "MAX_CONNECTIONS" = "0", form::number(0, 10_000, ""), restart,
        "How many clients may be connected, waiting ones included. One more takes the place of the one idle longest. More than WORKERS. 0: as many as memory allows, up to 1024.";
    connect_timeout: Duration, "CONNECT_TIMEOUT_SEC" = "10", form::number(1, 300, "seconds"), live,
        "How long connecting to the provider may take.";
    first_byte_timeout: Duration, "FIRST_BYTE_TIMEOUT_SEC" = "600", form::seconds(1), live,
        "How long the provider may think before its answer begins.";
    idle_timeout: Duration, "IDLE_TIMEOUT_SEC" = "300", form::seconds(1), live,
        "How long an answer may pause between two pieces.";
    ssl_cert_file: Option<PathBuf>, "SSL_CERT_FILE" = "", Form::File, live,
        "PEM file of extra CA certificates, trusted besides the built-in ones.";
    state_file: Option<PathBuf>, "STATE_FILE" = "", Form::File, restart,
        "The file that keeps the rests of keys over a restart: /var/lib/alvus/state.";
    dashboard: bool, "DASHBOARD" = "no", Form::Switch, restart,
        "GET /dashboard shows what alvus is doing.";
    log: LogLevel, "LOG" = "info", Form::Word(LogLevel::WORDS), live,
        "How much is logged.";
    log_format: LogFormat, "LOG_FORMAT" = "text", Form::Word(&["text", "json"]), live,
        "How a line of the log is written.";
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

impl From<String> for Faults {
    fn from(line: String) -> Faults {
        Faults(vec![line])
    }
}

/// Where settings come from; later ones win. An empty value counts as not set.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The text of the `.env` file, if there is one.
    pub env_file: Option<&'a str>,
    /// Its name in messages.
    pub env_file_name: &'a str,
    /// Names and values of the environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Names and values of the command line: `PORT`, `HOST`.
    pub options: &'a [(&'static str, OsString)],
}

/// Reads the file that `API_KEYS_FILE` names.
pub type ReadKeys<'a> = &'a mut dyn FnMut(&Path) -> io::Result<String>;

impl Config {
    /// Merges and checks. `read_keys`: not needed to ask a running alvus, as that takes no provider's key.
    ///
    /// # Errors
    /// All faults of all sources, none of them with any part of a key.
    pub fn load(sources: &Sources, read_keys: Option<ReadKeys>) -> Result<Loaded, Faults> {
        let mut values = Values::collect(sources);
        let api_keys = match read_keys {
            Some(read) => values.api_keys(read),
            None => Vec::new(),
        };
        let client_keys = values.client_keys(&api_keys);
        let mut config = Config {
            api_keys,
            client_keys,
            ..Config::read(&mut values)
        };
        config.check_together(&mut values);
        if values.faults.is_empty() {
            Ok(Loaded {
                config,
                warnings: values.warnings,
            })
        } else {
            Err(Faults(values.faults))
        }
    }

    /// The same without files: `env_file` is the text of one, and `API_KEYS_FILE` is not read.
    ///
    /// # Errors
    /// All faults of all sources, none of them with any part of a key.
    pub fn parse<N: Into<OsString>, V: Into<OsString>>(
        env_file: Option<&str>,
        environment: impl IntoIterator<Item = (N, V)>,
        options: &[(&'static str, OsString)],
    ) -> Result<Loaded, Faults> {
        let environment = environment.into_iter().map(|(n, v)| (n.into(), v.into()));
        let sources = Sources {
            env_file,
            env_file_name: ".env",
            environment: environment.collect(),
            options,
        };
        Config::load(
            &sources,
            Some(&mut |_| Err(io::ErrorKind::Unsupported.into())),
        )
    }

    /// Checks settings against each other.
    fn check_together(&mut self, values: &mut Values) {
        // Only NVIDIA's own keys may go there by default.
        if !self.target.is_at("nvidia.com") && !values.is_set("GENAI_BASE_URL") {
            self.genai = None;
        }
        values.keep_room(self);
        let nameless = clients::nameless(&self.allowed_origins, &self.client_keys);
        values.warnings.extend(nameless.map(str::to_owned));
        values.guard_the_door(self);
        let translates = |mode| mode == DialectMode::Translate;
        for (name, wanted, built) in [
            ("DASHBOARD", self.dashboard, cfg!(feature = "dashboard")),
            (
                "MESSAGES",
                translates(self.messages),
                cfg!(feature = "messages"),
            ),
            (
                "RESPONSES",
                translates(self.responses),
                cfg!(feature = "responses"),
            ),
        ] {
            if wanted && !built {
                let fault = format!("{name}: this alvus was built without it");
                values.faults.push(fault);
            }
        }
        if let Some(words) = providers::complete(&mut self.target) {
            values.warnings.push(words);
        }
        values.report_strangers();
    }
}

#[cfg(test)]
mod tests;
