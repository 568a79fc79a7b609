//! What alvus says: one line, one `write(2)`, to standard error.
//!
//! As text, or as JSON (`LOG_FORMAT`). No time stamps: a Pi's clock is wrong after boot, and syslog,
//! journald and `logger` add their own. When standard error is the journal, each line begins with its
//! priority (sd-daemon(3)). A storm is cut after [`BURST`] lines a second, and counted. A line that
//! cannot be written (full disk, closed pipe) is dropped: a proxy does not stop for want of a log.
//! Key text cannot get here, since [`crate::secret::ApiKey`] does not print it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many lines are written in a second; errors and warnings have as many of their own. An SD card
/// bears that for weeks, and no one reads more.
const BURST: u32 = 100;

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

impl LogFormat {
    /// As they are written.
    pub const WORDS: &[&str] = &["text", "json"];

    /// The format that a word names, in upper or lower case.
    pub fn parse(word: &str) -> Option<LogFormat> {
        match word {
            _ if word.eq_ignore_ascii_case("text") => Some(LogFormat::Text),
            _ if word.eq_ignore_ascii_case("json") => Some(LogFormat::Json),
            _ => None,
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
static JSON: AtomicBool = AtomicBool::new(false);
static JOURNAL: OnceLock<bool> = OnceLock::new();
static STARTED: OnceLock<Instant> = OnceLock::new();
/// For errors and warnings, and for the rest.
static LIMITS: Mutex<[Limit; 3]> = Mutex::new([Limit::NONE; 3]);

/// Sets what is worth a line from now on, and how it is written.
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
    admitted(level, Kind::Message, formed(level, &text));
}

/// A line without values.
fn formed(level: LogLevel, text: &str) -> String {
    if JSON.load(Ordering::Relaxed) {
        return Line::new(level, "message").word("message", text).ended();
    }
    format!("{}: {text}", level.word())
}

/// Writes text for the operator as it stands, whatever the level: the banner, the demo's words.
pub fn say(text: &str) {
    say_as(LogLevel::Info, text);
}

/// The same for text that means more to the journal.
pub fn say_as(level: LogLevel, text: &str) {
    if JSON.load(Ordering::Relaxed) {
        write(level, &formed(level, text));
    } else {
        write(level, text);
    }
}

/// One line of named values, written as text or as JSON:
///
/// ```text
/// info: GET /v1/models -> 200 key=0 total=3ms
/// {"level":"info","event":"request","method":"GET","path":"/v1/models","status":200,"key":0,"total_ms":3}
/// ```
#[derive(Debug)]
pub struct Line {
    level: LogLevel,
    json: bool,
    text: String,
    /// The next value stands without its name, in text, and with this in front.
    lead: Option<&'static str>,
}

impl Line {
    /// Begins a line about this kind of event, which only JSON names.
    pub fn new(level: LogLevel, event: &str) -> Line {
        Line::in_format(level, event, JSON.load(Ordering::Relaxed))
    }

    fn in_format(level: LogLevel, event: &str, json: bool) -> Line {
        let mut line = Line {
            level,
            json,
            text: String::with_capacity(192),
            lead: None,
        };
        if json {
            line.text.push('{');
            line.word("level", level.word());
            line.word("event", event);
        } else {
            line.text.push_str(level.word());
            line.text.push_str(": ");
        }
        line
    }

    /// In text, the next value stands without its name, after `lead`.
    pub fn bare(&mut self, lead: &'static str) -> &mut Line {
        self.lead = Some(lead);
        self
    }

    /// Adds a word or a text. In text it is quoted where it would not be read as one word.
    pub fn word(&mut self, name: &str, value: &str) -> &mut Line {
        self.name(name);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '"';
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"'; // nearly always, and soon seen
        let is_word = || value.bytes().all(plain) || !value.contains(odd);
        if self.json || value.is_empty() || !is_word() {
            quote(&mut self.text, value);
        } else {
            self.text.push_str(value);
        }
        self
    }

    /// Adds words of our own, which stand in brackets in text.
    pub fn note(&mut self, name: &str, value: &str) -> &mut Line {
        if self.json {
            return self.word(name, value);
        }
        self.text.push_str(" (");
        self.text.push_str(value);
        self.text.push(')');
        self
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Line {
        self.name(name);
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds a time in milliseconds: `waited=3ms`, or `"waited_ms":3`.
    pub fn time(&mut self, name: &str, value: Duration) -> &mut Line {
        self.name(name);
        if self.json {
            let quote = self.text.len() - 2;
            self.text.insert_str(quote, "_ms");
        }
        // 128 bits take several times as long to write.
        let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        let _ = write!(self.text, "{millis}");
        if !self.json {
            self.text.push_str("ms");
        }
        self
    }

    fn name(&mut self, name: &str) {
        if self.json {
            if !self.text.ends_with('{') {
                self.text.push(',');
            }
            quote(&mut self.text, name);
            self.text.push(':');
            return;
        }
        match self.lead.take() {
            Some(lead) => self.text.push_str(lead),
            None => {
                self.text.push(' ');
                self.text.push_str(name);
                self.text.push('=');
            }
        }
    }

    fn ended(&mut self) -> String {
        if self.json {
            self.text.push('}');
        }
        std::mem::take(&mut self.text)
    }

    /// Writes it, if its level is enabled.
    pub fn write(&mut self) {
        if enabled(self.level) {
            let text = self.ended();
            admitted(self.level, Kind::Values, text);
        }
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
            // Also those that Unicode calls control characters and JSON does not.
            _ if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// How many lines were written in the current second, and how many were not.
#[derive(Debug, Clone, Copy)]
struct Limit {
    second: u64,
    written: u32,
    suppressed: u32,
}

impl Limit {
    const NONE: Limit = Limit {
        second: 0,
        written: 0,
        suppressed: 0,
    };

    /// Whether a line may be written in this second. If not, it is counted.
    fn admits(&mut self, second: u64) -> bool {
        if second != self.second {
            self.second = second;
            self.written = 0;
        }
        let admits = self.written < BURST;
        match admits {
            true => self.written += 1,
            false => self.suppressed += 1,
        }
        admits
    }
}

/// What a line tells: each kind has a limit of its own.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A request, as named values.
    Values,
    /// Anything else.
    Message,
}

/// Writes a line unless there were too many.
fn admitted(level: LogLevel, kind: Kind, line: String) {
    // A storm of requests must not hide that a key rests or that a reload was done.
    let which = match kind {
        Kind::Values => 0,
        Kind::Message => 1 + usize::from(level > LogLevel::Warn),
    };
    let second = STARTED.get_or_init(Instant::now).elapsed().as_secs();
    let (admits, suppressed) = {
        let limit = &mut LIMITS.lock().unwrap_or_else(PoisonError::into_inner)[which];
        (limit.admits(second), limit.suppressed)
    };
    if admits {
        write(level, &line);
    } else if suppressed == 1 {
        // The count is told by a thread that lives as long as the second, so that it is told even if
        // no line follows. Without one (no memory) it is told after the next storm.
        let _ = thread::Builder::new().spawn(move || {
            thread::sleep(Duration::from_secs(1));
            let mut limits = LIMITS.lock().unwrap_or_else(PoisonError::into_inner);
            let count = std::mem::take(&mut limits[which].suppressed);
            drop(limits);
            let text =
                format!("{count} lines suppressed: there were more than {BURST} in a second");
            write(LogLevel::Warn, &formed(LogLevel::Warn, &text));
        });
    }
}

/// To standard error, in one piece.
fn write(level: LogLevel, text: &str) {
    let journal = *JOURNAL.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        !stream.is_empty() && Some(stream) == identity_of_stderr()
    });
    let mut out = String::with_capacity(text.len() + 4);
    for line in text.split('\n') {
        if journal {
            out.push_str(level.priority());
        }
        out.push_str(line);
        out.push('\n');
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// `device:inode`, which systemd puts into `JOURNAL_STREAM` for the stream that it connected.
fn identity_of_stderr() -> Option<String> {
    let copy = std::io::stderr().as_fd().try_clone_to_owned().ok()?;
    let file = File::from(copy).metadata().ok()?;
    Some(format!("{}:{}", file.dev(), file.ino()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: bool) -> String {
        let mut line = Line::in_format(LogLevel::Info, "request", json);
        line.bare("").word("method", "GET");
        line.bare(" ").word("path", "/v1/models");
        line.bare(" -> ").number("status", 200);
        line.note("end", "the client left");
        line.word("model", "a \"b\"\n\u{9b}ü\\");
        line.time("waited", Duration::from_micros(3999));
        line.ended()
    }

    #[test]
    fn a_line_of_text_reads_as_a_line() {
        assert_eq!(
            request(false),
            r#"info: GET /v1/models -> 200 (the client left) model="a \"b\"\u000a\u009bü\\" waited=3ms"#
        );
    }

    #[test]
    fn the_same_line_in_json_has_every_value_by_name() {
        let parsed: serde_json::Value = serde_json::from_str(&request(true)).expect("JSON");
        assert_eq!(
            parsed,
            serde_json::json!({
                "level": "info", "event": "request", "method": "GET", "path": "/v1/models",
                "status": 200, "end": "the client left", "model": "a \"b\"\n\u{9b}ü\\", "waited_ms": 3
            })
        );
    }

    #[test]
    fn a_second_holds_so_many_lines_and_the_next_as_many_again() {
        let mut limit = Limit::NONE;
        for second in [0, 1, 7] {
            let written = (0..BURST + 5).filter(|_| limit.admits(second)).count();
            assert_eq!(written, BURST as usize, "second {second}");
        }
        assert_eq!(limit.suppressed, 15);
    }
}
