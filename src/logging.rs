//! The log: lines on standard error.
//!
//! Lines are text or JSON (`LOG_FORMAT`). On a terminal and in a file they have the time; syslog, journald and `logger`
//! add their own. In the journal each line begins with its priority (sd-daemon(3)). `queue.rs` cuts a storm of lines,
//! and sees to it that nobody waits for a line. Key text cannot get here, as [`crate::secret::ApiKey`] does not print
//! it. Text that others chose goes through [`shown()`] first.

mod line;
mod queue;
mod shown;

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

pub use line::Line;
use queue::{LineKind, put};
pub use queue::{detach, finish};
pub use shown::shown;

/// How much is logged; a level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What alvus could not do.
    Error,
    /// What the operator may want to change.
    Warn,
    /// Requests, and keys that change their state.
    Info,
    /// Every attempt.
    Debug,
}

impl LogLevel {
    /// Their names, in the order of the levels.
    pub const WORDS: &[&str] = &["error", "warn", "info", "debug"];

    fn word(self) -> &'static str {
        LogLevel::WORDS[self as usize]
    }

    /// syslog(3)'s number, as sd-daemon(3) has it at the start of a line.
    fn priority(self) -> &'static str {
        ["<3>", "<4>", "<6>", "<7>"][self as usize]
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `info: words name=value`
    Text,
    /// `{"level":"info","name":"value"}`
    Json,
}

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
static JSON: AtomicBool = AtomicBool::new(false);

/// Sets which lines are written from now on, and how.
pub fn set(level: LogLevel, format: LogFormat) {
    LEVEL.store(level as u8, Ordering::Relaxed);
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Whether a line of this level would be written.
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one line if its level is enabled. Line breaks inside become spaces, so that one event
/// stays one line whatever an upstream put into a message.
pub fn log(level: LogLevel, message: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let text = message.to_string().replace(['\n', '\r'], " ");
    put(level, LineKind::Message, &formed(level, &text));
}

/// A line without values.
fn formed(level: LogLevel, text: &str) -> String {
    if JSON.load(Ordering::Relaxed) {
        return Line::new(level, "message").word("message", text).ended();
    }
    format!("{}: {text}", level.word())
}

/// Writes text for the operator as it is, whatever the level: the banner, the demo's words.
pub fn say(text: &str) {
    say_as(LogLevel::Info, text);
}

/// The same with a priority for the journal.
pub fn say_as(level: LogLevel, text: &str) {
    if JSON.load(Ordering::Relaxed) {
        put(level, LineKind::Unlimited, &formed(level, text));
    } else {
        put(level, LineKind::Unlimited, text);
    }
}

/// A JSON string (RFC 8259 §7).
pub fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            // Unicode has more control characters than JSON.
            _ if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// `error!(…)`: something alvus could not do.
#[macro_export]
macro_rules! error { ($($t:tt)*) => { $crate::logging::log($crate::logging::LogLevel::Error, format_args!($($t)*)) } }
/// `warn!(…)`: something the operator may want to change.
#[macro_export]
macro_rules! warn { ($($t:tt)*) => { $crate::logging::log($crate::logging::LogLevel::Warn, format_args!($($t)*)) } }
/// `info!(…)`: a request, or a key that changed its state.
#[macro_export]
macro_rules! info { ($($t:tt)*) => { $crate::logging::log($crate::logging::LogLevel::Info, format_args!($($t)*)) } }
/// `debug!(…)`: every attempt.
#[macro_export]
macro_rules! debug { ($($t:tt)*) => { $crate::logging::log($crate::logging::LogLevel::Debug, format_args!($($t)*)) } }
