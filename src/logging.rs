//! What alvus says: one line, one `write(2)`, to standard error.
//!
//! No time stamps: a Pi's clock is wrong after boot, and syslog, journald and `logger` add their
//! own. A line that cannot be written (full disk, closed pipe) is dropped: a proxy does not stop
//! for want of a log. Key text cannot get here, since [`crate::secret::ApiKey`] does not print it.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

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
    /// As they are written, in the order of the levels.
    pub const WORDS: &[&str] = &["error", "warn", "info", "debug"];

    /// The level that a word names, in upper or lower case.
    pub fn parse(word: &str) -> Option<LogLevel> {
        let levels = [
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
        ];
        let at = LogLevel::WORDS
            .iter()
            .position(|w| w.eq_ignore_ascii_case(word))?;
        levels.get(at).copied()
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// Sets what is worth a line from now on.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether a line of this level would be written.
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one line if its level is enabled. Line breaks inside become spaces, so that one event
/// stays one line whatever an upstream put into a message.
pub fn log(level: LogLevel, message: fmt::Arguments<'_>) {
    if enabled(level) {
        let name = match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        };
        let line = format!("{name}: {message}").replace(['\n', '\r'], " ");
        say(&line);
    }
}

/// Writes text for the operator as it stands, whatever the level: the banner, the demo's words.
pub fn say(text: &str) {
    let mut out = String::with_capacity(text.len() + 1);
    out.push_str(text);
    out.push('\n');
    let _ = std::io::stderr().write_all(out.as_bytes());
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
