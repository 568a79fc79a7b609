//! One line of the log, made of named values.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queue::{LineKind, put};
use super::{JSON, LogLevel, enabled, quote};

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
    /// In text, the next value is written without its name, after this.
    lead: Option<&'static str>,
}

impl Line {
    /// Begins a line about this kind of event. Only JSON has the kind.
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

    /// In text, the next value is written without its name, after `lead`.
    pub fn bare(&mut self, lead: &'static str) -> &mut Line {
        self.lead = Some(lead);
        self
    }

    /// Adds a word or a text. In text it is quoted unless it is a single word.
    pub fn word(&mut self, name: &str, value: &str) -> &mut Line {
        self.name(name);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '"';
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"'; // nearly always, and quickly checked
        let is_word = || value.bytes().all(plain) || !value.contains(odd);
        if self.json || value.is_empty() || !is_word() {
            quote(&mut self.text, value);
        } else {
            self.text.push_str(value);
        }
        self
    }

    /// Adds words of our own, in brackets in text.
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
        // A number of 128 bits takes several times as long to write.
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

    pub(super) fn ended(&mut self) -> String {
        if self.json {
            self.text.push('}');
        }
        std::mem::take(&mut self.text)
    }

    /// Writes it, if its level is enabled.
    pub fn write(&mut self) {
        if enabled(self.level) {
            let text = self.ended();
            put(self.level, LineKind::Values, &text);
        }
    }
}

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
}
