//! The forms of settings: how a value is read, and what messages say about it.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{ClientKey, Host, Target, WebOrigin, clients};
use crate::dialect::models::{Malformed, ModelMap};
use crate::logging::{LogFormat, LogLevel};
use crate::secret::ApiKey;

/// The form of a [`super::Variable`]'s values.
#[derive(Debug)]
pub enum Form {
    /// Digits, `min` and `max` included.
    Number {
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value. It must fit the field's type, also on 32 bits.
        max: u64,
        /// The unit, in the plural, or nothing.
        unit: &'static str,
    },
    /// One of a few words, in upper or lower case.
    Word(&'static [&'static str]),
    /// yes or no, in any of the ways people write them.
    Switch,
    /// Text of its own form: the words after "expected", and an example if there is no default.
    Text(&'static str, &'static str),
    /// The same, but values are never shown.
    Secret(&'static str, &'static str),
    /// The path of a file, taken as it is.
    File,
}

/// The longest sensible wait, in seconds: a day.
const DAY: u64 = 24 * 60 * 60;

/// The highest `RPM_LIMIT`: a small box need not pace itself for a higher one.
const MAX_RATE: u64 = 1000;

/// The unit of a size that its field counts in bytes.
pub(super) const MIB: &str = "MiB";

pub(super) const fn number(min: u64, max: u64, unit: &'static str) -> Form {
    Form::Number { min, max, unit }
}

pub(super) const fn seconds(min: u64) -> Form {
    number(min, DAY, "seconds")
}

pub(super) const KEYS: Form = Form::Secret("keys separated by commas", "key1,key2");
pub(super) const CLIENT_KEYS: Form = Form::Secret(
    "name:key pairs separated by commas",
    "phone:key1,laptop:key2",
);
pub(super) const HOST: Form = Form::Text("an IP address or localhost", "");
pub(super) const HOSTS: Form = Form::Text(
    "names or addresses separated by commas",
    "pi.local,alvus.lan",
);
pub(super) const ORIGINS: Form = Form::Text(
    "origins separated by commas",
    "http://localhost:5173,app://obsidian.md,vscode-webview://*",
);
pub(super) const URL: Form = Form::Text(
    "an http:// or https:// URL with a host and no user name, query or fragment",
    "",
);
pub(super) const MODELS: Form = Form::Text(
    "NAME=MODEL pairs separated by commas",
    "claude-haiku*=a/b,claude-*=c/d",
);
pub(super) const RATE: Form = Form::Text("a whole number of requests from 0 to 1000, or auto", "");

/// The words of [`DialectMode`].
pub(super) const DIALECT_MODES: &[&str] = &["auto", "translate", "pass"];

/// The header fields for a provider's key. In the first one it follows `Bearer`.
pub(super) const KEY_HEADERS: &[&str] =
    &["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// How people say yes and no.
const YES: &[&str] = &["yes", "true", "1", "on"];
const NO: &[&str] = &["no", "false", "0", "off"];

impl Form {
    /// The words after "expected".
    pub(super) fn expected(&self) -> String {
        match self {
            Form::Text(words, _) | Form::Secret(words, _) => (*words).to_owned(),
            Form::Number { min, max, unit } => {
                let of = if unit.is_empty() { "" } else { " of " };
                format!("a whole number{of}{unit} from {min} to {max}")
            }
            Form::Word(words) => or(words),
            Form::Switch => "yes or no".to_owned(),
            Form::File => "the path of a file".to_owned(),
        }
    }

    /// An example for messages, if there is no default.
    pub(super) fn example(&self) -> &'static str {
        match self {
            Form::Text(_, example) | Form::Secret(_, example) => example,
            Form::File => "/etc/alvus/file",
            _ => "",
        }
    }

    /// The same as a sentence for the tables; empty if the help says it.
    pub fn limits(&self) -> String {
        match self {
            Form::Number { min, max, .. } => format!(" {min} to {max}."),
            Form::Word(words) => format!(" One of {}.", or(words)),
            Form::Switch => " Yes or no.".to_owned(),
            Form::Text(..) | Form::Secret(..) | Form::File => String::new(),
        }
    }

    /// A wrong value as a message may show it.
    pub(super) fn echo(&self, value: &str) -> String {
        match self {
            Form::Secret(..) => "something not shown here".to_owned(),
            _ if like_a_key(value) => "something that looks like a key".to_owned(),
            // A password may precede an @, a key may be in a query.
            _ if value.contains("://") && value.contains(['@', '?', '#']) => {
                "a URL not shown here".to_owned()
            }
            _ => format!("\"{}\"", shown(value)),
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

/// A run of this many letters and digits, with both in it, is taken for a key in the wrong place.
const KEY_LIKE: usize = 20;

/// Whether a part of it may be a key.
pub(super) fn like_a_key(value: &str) -> bool {
    let mut runs = value.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    runs.any(|run| {
        run.len() >= KEY_LIKE
            && run.bytes().any(|b| b.is_ascii_digit())
            && run.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

/// No file's extension is longer. What follows the dot of a key is: Zhipu's are `id.secret`.
const EXTENSION: usize = 12;

/// Whether a key was pasted in place of a file's path: errors about a file show its path.
pub fn pasted(path: &OsStr) -> bool {
    let text = text_of(path);
    let extension = text.bytes().rev().position(|byte| byte == b'.');
    let has_extension = extension.is_some_and(|length| length <= EXTENSION);
    let is_path = has_extension || text.starts_with('.') || text.contains('/');
    !is_path && like_a_key(&text)
}

/// How many characters of a wrong value are shown.
const ECHOED: usize = 40;

/// At most [`ECHOED`] characters, control characters escaped.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(ECHOED).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

/// Why a value is refused.
pub(super) enum Why {
    /// It is not what [`Form::expected`] says.
    Unexpected,
    /// The words after the value in the message, with no part of a secret.
    Because(Cow<'static, str>),
}

/// A type that a setting is read as.
pub(super) trait Value: Sized {
    fn read(text: &str, form: &Form) -> Result<Self, Why>;

    /// Reads a value that need not be text.
    fn read_raw(value: &OsStr, form: &Form) -> Result<Self, Why> {
        Self::read(text_of(value).trim(), form)
    }
}

/// As `to_string_lossy`, but fast for valid text.
pub(super) fn text_of(value: &OsStr) -> Cow<'_, str> {
    match value.to_str() {
        Some(text) => text.into(),
        None => value.to_string_lossy(),
    }
}

/// Digits only: `u64::from_str` would also take `+3`.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn bounded(text: &str, form: &Form) -> Result<u64, Why> {
    let Form::Number { min, max, unit } = form else {
        return Err(Why::Unexpected);
    };
    let number = whole_number(text).filter(|n| (min..=max).contains(&n));
    let scale = if *unit == MIB { 1024 * 1024 } else { 1 };
    number.map(|n| n * scale).ok_or(Why::Unexpected)
}

/// The index of this word among the form's.
fn place(text: &str, form: &Form) -> Result<usize, Why> {
    let Form::Word(words) = form else {
        return Err(Why::Unexpected);
    };
    let mut words = words.iter();
    let at = words.position(|word| word.eq_ignore_ascii_case(text));
    at.ok_or(Why::Unexpected)
}

fn is_one_of(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn because<T>(why: impl Into<Cow<'static, str>>) -> Result<T, Why> {
    Err(Why::Because(why.into()))
}

fn fitted<T: TryFrom<u64>>(text: &str, form: &Form) -> Result<T, Why> {
    T::try_from(bounded(text, form)?).map_err(|_| Why::Unexpected)
}

/// How each type is read.
macro_rules! read {
    ($( $kind:ty: |$text:ident, $form:ident| $how:expr; )*) => {$(
        impl Value for $kind {
            fn read($text: &str, $form: &Form) -> Result<$kind, Why> {
                $how
            }
        }
    )*};
}

read! {
    u16: |text, form| fitted(text, form);
    u32: |text, form| fitted(text, form);
    usize: |text, form| fitted(text, form);
    Duration: |text, form| bounded(text, form).map(Duration::from_secs);
    bool: |text, _form| match (is_one_of(YES, text), is_one_of(NO, text)) {
        (false, false) => Err(Why::Unexpected),
        (yes, _) => Ok(yes),
    };
    &'static str: |text, form| place(text, form).map(|at| KEY_HEADERS[at]);
    LogLevel: |text, form| place(text, form).map(|at| [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug][at]);
    LogFormat: |text, form| place(text, form).map(|at| [LogFormat::Text, LogFormat::Json][at]);
    Rotation: |text, form| place(text, form).map(|at| [Rotation::RoundRobin, Rotation::Sticky][at]);
    Pace: |text, _form| match text.eq_ignore_ascii_case("auto") {
        true => Ok(Pace::Auto),
        false => fitted(text, &number(0, MAX_RATE, "")).map(|rate| match rate {
            0 => Pace::Off,
            rate => Pace::Fixed(rate),
        }),
    };
    DialectMode: |text, form| place(text, form).map(|at| [DialectMode::Auto, DialectMode::Translate, DialectMode::Pass][at]);
    IpAddr: |text, _form| match text.eq_ignore_ascii_case("localhost") {
        true => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        false => {
            let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
            bare.unwrap_or(text).parse().map_err(|_| Why::Unexpected)
        }
    };
    Target: |text, _form| Target::parse(text).or_else(because);
    Option<Target>: |text, form| Target::read(text, form).map(Some);
    Vec<Host>: |text, _form| clients::hosts(text).or_else(because);
    Vec<WebOrigin>: |text, _form| clients::origins(text).or_else(because);
    ModelMap: |text, _form| ModelMap::parse(text).or_else(|Malformed(why)| match like_a_key(text) {
        true => Err(Why::Unexpected),
        false => because(why),
    });
    // Keys may come from a file, and may have several faults: see `keys.rs`, `clients.rs`.
    Vec<ApiKey>: |_text, _form| Ok(Vec::new());
    Vec<ClientKey>: |_text, _form| Ok(Vec::new());
}

impl Value for Option<PathBuf> {
    fn read(text: &str, form: &Form) -> Result<Option<PathBuf>, Why> {
        Self::read_raw(text.as_ref(), form)
    }

    fn read_raw(value: &OsStr, _: &Form) -> Result<Option<PathBuf>, Why> {
        match pasted(value) {
            true => Err(Why::Unexpected),
            false => Ok((!value.is_empty()).then(|| value.into())),
        }
    }
}

/// Requests a minute that alvus itself allows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// No limit of ours.
    #[default]
    Off,
    /// This many with each key, all models together.
    Fixed(u32),
    /// With each key and model as many as were accepted before its last 429.
    Auto,
}

/// Which of the ready keys is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The one unused longest.
    #[default]
    RoundRobin,
    /// The one that this conversation used before, while it is ready.
    Sticky,
}

/// Whether requests in a client's dialect are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DialectMode {
    /// If the provider does not speak it.
    #[default]
    Auto,
    /// Always.
    Translate,
    /// Never: they pass as they are.
    Pass,
}
