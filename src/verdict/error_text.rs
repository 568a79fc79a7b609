//! What an answer says about its error: texts for people, codes for programs, and times to wait.
//!
//! Providers name and nest these as they like, so fields are recognised by what their names mean. What an error quotes
//! (`input`, `messages`, `request` …) is under other names, and not read.

use std::time::Duration;

use alvus_scan::value_end;
use serde_json::{Map, Value};

use super::sentence;
use super::time::{Date, any_form, decimal, number_form, times, unit};

/// How deep errors are nested, JSON within strings included.
const DEPTH: usize = 8;

/// The most names of errors before a message.
const NAMES: usize = 8;

/// The most fields among which the rest of a limit is looked for.
const BESIDE: usize = 64;

/// Marks around what an error quotes.
pub(super) const QUOTES: [char; 6] = ['"', '\'', '`', '“', '‘', '«'];

/// The names of texts, as [`plain`] writes them.
const TEXTS: &str = " message msg detail details error errormessage errordescription errormsg errmsg \
                     description title raw statusmsg cause info ";

/// The names of codes.
const CODES: &str = " code type status reason error errorcode errcode errno errortype statuscode kind quotaid \
                     quotalimit quotametric quotavalue title ";

/// The names of fields that hold more of it.
const PARTS: &str = " error errors message detail details violations metadata headers data info cause \
                     innererror errorinfo baseresp ";

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) texts: Vec<String>,
    pub(super) codes: Vec<String>,
    /// Codes that are numbers, as a number or as a string of digits.
    pub(super) numbers: Vec<u64>,
    /// A limit is zero.
    pub(super) no_limit_at_all: bool,
    /// The body could not be parsed and is one text, so the head of a message is not known.
    pub(super) is_raw: bool,
    retry: Option<Duration>,
    reset: Option<Duration>,
    date: Option<Date>,
}

impl Said {
    /// Reads an error's body, which may be cut short. `date` is the answer's own.
    pub(super) fn read(body: &[u8], date: Option<Date>) -> Said {
        match serde_json::from_slice(body) {
            Ok(json) => Said::of(&json, date),
            Err(_) => {
                let text = String::from_utf8_lossy(body).trim().to_owned();
                let mut said = Said {
                    is_raw: text.starts_with(['{', '[']),
                    date,
                    ..Said::default()
                };
                match said.is_raw {
                    true => said.texts.push(text),
                    false => said.text(&text, DEPTH),
                }
                said
            }
        }
    }

    /// Reads an error that stands in an answer.
    pub(super) fn of(error: &Value, date: Option<Date>) -> Said {
        let mut said = Said {
            date,
            ..Said::default()
        };
        match error {
            Value::String(text) => said.text(text, DEPTH),
            part => said.part(part, DEPTH),
        }
        said
    }

    /// How long it asks to wait: by a field, else by a sentence.
    pub(super) fn stated(&self) -> Option<Duration> {
        let sentences = || {
            self.texts
                .iter()
                .find_map(|text| sentence::stated(text, self.date))
        };
        self.retry.or(self.reset).or_else(sentences)
    }

    fn part(&mut self, part: &Value, depth: usize) {
        match part {
            Value::Array(list) if depth > 0 => {
                for one in list {
                    self.part(one, depth - 1);
                }
            }
            Value::Object(fields) if depth > 0 => {
                for (name, value) in fields {
                    self.field(&plain(name), value, fields, depth - 1);
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, name: &str, value: &Value, beside: &Map<String, Value>, depth: usize) {
        self.time(name, value, beside);
        let is_in = |list: &str| list.contains(&format!(" {name} "));
        match value {
            Value::Array(_) | Value::Object(_) if is_in(PARTS) => self.part(value, depth),
            Value::String(text) if !text.is_empty() => {
                let sentence = text.contains(' ');
                // A code quotes nothing; some put a whole sentence where others have a code.
                if is_in(CODES) && !text.contains(QUOTES) {
                    self.codes.push(text.clone());
                    self.numbers.extend(text.parse::<u64>());
                }
                if is_in(TEXTS) || is_in(CODES) && sentence {
                    self.text(text, depth);
                }
                self.no_limit_at_all |= is_limit(name) && text == "0";
            }
            Value::Number(number) => {
                let number = number.as_u64();
                self.numbers.extend(number.filter(|_| is_in(CODES)));
                self.no_limit_at_all |= is_limit(name) && number == Some(0);
            }
            _ => {}
        }
    }

    /// Takes a text. It may hold the whole error of another answer: gateways do that, and put words of their own
    /// around it. With such words around, other JSON is the request's.
    fn text(&mut self, text: &str, depth: usize) {
        let (names, text) = unwrapped(text.trim());
        if !names.is_empty() {
            self.codes.push(names.to_owned());
        }
        if depth > 0
            && let Some((json, behind)) = json_at_the_head(text)
        {
            let alone = names.is_empty() && behind.trim().is_empty();
            let is_error = |json: &Value| !json["error"].is_null();
            if alone || is_error(&json) || is_error(&json[0]) {
                self.part(&json, depth - 1);
                return self.words(behind);
            }
        }
        self.words(text);
    }

    fn words(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.texts.push(text.trim().to_owned());
        }
    }

    /// Takes a field whose name means a time to wait. The first one counts; of resets the latest
    /// one; not the reset of a limit that is not spent.
    fn time(&mut self, name: &str, value: &Value, beside: &Map<String, Value>) {
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        if has(&["retries", "count", "max", "attempt", "retryable"]) {
            return;
        }
        if has(&["retry", "wait", "estimatedtime", "cooldown", "backoff"]) {
            self.retry = self.retry.or_else(|| wait(name, value, self.date));
        } else if has(&["reset", "availablein", "availableat", "nextflush"]) {
            let left = name.replace("reset", "remaining");
            let mut beside = beside.iter().take(BESIDE);
            let left = beside.find(|(name, _)| plain(name) == left);
            let left = left.and_then(|(_, left)| number(left));
            if left.is_none_or(|left| left.is_zero()) {
                self.reset = self.reset.max(wait(name, value, self.date));
            }
        }
    }
}

/// The names of errors before a message, and that message. LiteLLM writes "litellm.BadRequestError: OpenAIException - …".
fn unwrapped(text: &str) -> (&str, &str) {
    let mut message = text;
    for _ in 0..NAMES {
        let marks = [": ", " - "].iter();
        let found = marks.filter_map(|mark| Some((message.find(mark)?, mark.len())));
        match found.min() {
            Some((at, mark)) if is_error_name(&message[..at]) => message = &message[at + mark..],
            _ => break,
        }
    }
    let (names, message) = text.split_at(text.len() - message.len());
    (names.trim_end_matches([':', '-', ' ']), message)
}

/// One or two words that end so. Fields' names, which may be the request's, are written small.
fn is_error_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    (text.ends_with("Error") || text.ends_with("Exception"))
        && text.chars().all(plain)
        && text.split(' ').count() <= 2
}

/// The JSON that a text begins with, and what follows it.
fn json_at_the_head(text: &str) -> Option<(Value, &str)> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let (json, behind) = text.split_at_checked(value_end(text.as_bytes(), 0)?)?;
    Some((serde_json::from_str(json).ok()?, behind))
}

/// A name without its dashes, in lower case.
pub(super) fn plain(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

fn is_limit(name: &str) -> bool {
    name.ends_with("limit")
        || ["quotavalue", "quotalimitvalue"].contains(&name)
        || name.starts_with("xratelimitlimit")
}

/// The value of a field of this name, as a time from now.
fn wait(name: &str, value: &Value, date: Option<Date>) -> Option<Duration> {
    let units = ["milliseconds", "millis", "ms", "minutes", "mins", "hours"];
    let length = units.iter().find(|unit| name.ends_with(*unit));
    let Some(number) = number(value) else {
        let text = value.as_str()?.trim();
        return any_form(text, date).or_else(|| sentence::stated(&format!("wait {text}"), date));
    };
    match length.and_then(|name| unit(name)) {
        Some(length) if number_form(number, None).is_some() => Some(times(number, length)),
        Some(1) => number_form(number, date).or(Some(number / 1000)),
        _ => number_form(number, date),
    }
}

/// A number that is not negative, as a number or as a string of digits.
fn number(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(n) => match n.as_u64() {
            Some(whole) => Some(Duration::from_secs(whole)),
            None => Duration::try_from_secs_f64(n.as_f64()?).ok(),
        },
        Value::String(text) => decimal(text.trim()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Mon, 23 Nov 2026 12:00:00 GMT"; // 1795435200

    fn said(body: &str) -> Said {
        Said::read(body.as_bytes(), Date::parse(NOON))
    }

    #[test]
    fn a_field_of_any_name_that_means_a_wait_is_one() {
        for (body, ms) in [
            (r#"{"error":{"retry_after":7}}"#, 7_000),
            (r#"{"error":{"retryAfter":"7.5"}}"#, 7_500),
            (r#"{"retry_after_ms":2500}"#, 2_500),
            (
                r#"{"error":{"details":[{"@type":"x.RetryInfo","retryDelay":"34.5s"}]}}"#,
                34_500,
            ),
            (r#"{"error":{"metadata":{"retry_after_seconds":9}}}"#, 9_000),
            (
                r#"{"error":{"metadata":{"headers":{"X-RateLimit-Reset":"1795435260000"}}}}"#,
                60_000,
            ),
            (
                r#"{"error":{"type":"usage_limit_reached","resets_in_seconds":120,"resets_at":1795435300}}"#,
                120_000,
            ),
            (
                r#"{"error":"Model x is currently loading","estimated_time":20.5}"#,
                20_500,
            ),
            (
                r#"{"detail":{"message":"slow","reset_in":"2hr 57min"}}"#,
                10_620_000,
            ),
            (
                r#"{"error":{"details":[{"metadata":{"quotaResetDelay":"1h2m3s"}}]}}"#,
                3_723_000,
            ),
            (r#"{"error":{"reset_at":"2026-11-23T12:00:30Z"}}"#, 30_000),
            (r#"{"error":{"wait_minutes":3}}"#, 180_000),
            (
                r#"{"error":{"headers":{"x-ratelimit-reset-a":"5","x-ratelimit-remaining-a":"0","x-ratelimit-reset-b":"99","x-ratelimit-remaining-b":"3"}}}"#,
                5_000,
            ),
            (
                r#"{"error":{"message":"{\n  \"error\": {\"retryDelay\":\"4s\"}}"}}"#,
                4_000,
            ),
            // fields before sentences
            (
                r#"{"error":{"message":"try again in 9s","retry_after":7}}"#,
                7_000,
            ),
        ] {
            let expected = Some(Duration::from_millis(ms));
            assert_eq!(said(body).stated(), expected, "{body}");
        }
        for body in [
            r#"{"error":{"max_retries":3,"retry_count":2,"retryable":true,"limit":60}}"#,
            r#"{"error":{"retry_after":null,"reset":-1,"retryDelay":"soon"}}"#,
            r#"{"request":{"retry_after":7},"error":{"input":"try again in 9s"}}"#,
            r#"{"error":{"headers":{"x-ratelimit-reset":"9","x-ratelimit-remaining":"3"}}}"#,
        ] {
            assert_eq!(said(body).stated(), None, "{body}");
        }
    }

    #[test]
    fn texts_and_codes_are_what_the_error_says_and_not_what_it_quotes() {
        let found = said(
            r#"[{"error":{"code":"429","status":"RESOURCE_EXHAUSTED","message":"no","param":"p","input":"quoted",
               "errors":[{"reason":"quotaExceeded"}],"metadata":{"raw":"{\"detail\":\"deep\"}"}},"user_id":"u"}]"#,
        );
        assert_eq!(found.texts, ["no", "deep"]);
        assert_eq!(found.codes, ["429", "quotaExceeded", "RESOURCE_EXHAUSTED"]);
        assert_eq!(found.numbers, [429]);
        let found = said("plain words");
        assert!(!found.is_raw && found.texts == ["plain words"]);
        assert!(said(r#"{"error":{"mess"#).is_raw);
        let found = said(r#"{"error":{"message":{"message":"inner","code":"x"},"code":"y"}}"#);
        assert_eq!(
            (found.texts, found.codes),
            (vec!["inner".into()], vec!["y".into(), "x".into()])
        );
        let deep = "[".repeat(50) + &"]".repeat(50);
        assert!(said(&deep).texts.is_empty());
    }

    #[test]
    fn what_a_gateway_puts_around_a_message_stands_by_itself() {
        for (message, names, texts) in [
            ("no error here", "", &["no error here"][..]),
            ("Some error: no", "", &["Some error: no"]),
            ("Some Error: no", "Some Error", &["no"]),
            (
                "litellm.BadRequestError: OpenAIException - Budget has been exceeded!",
                "litellm.BadRequestError: OpenAIException",
                &["Budget has been exceeded!"],
            ),
            (
                r#"a.B_aiException - {"error":{"message":"inner"}}. Received Model Group=x"#,
                "a.B_aiException",
                &["inner", ". Received Model Group=x"],
            ),
            ("`Some Error: no", "", &["`Some Error: no"]),
            (
                r#"{"error":"inner"} and more"#,
                "inner",
                &["inner", "and more"],
            ),
            (r#"{"title":"x"} is no"#, "", &[r#"{"title":"x"} is no"#]),
            (
                r#"An Error: {"title":"x"}"#,
                "An Error",
                &[r#"{"title":"x"}"#],
            ),
            (
                "it says in the error: no",
                "",
                &["it says in the error: no"],
            ),
            ("Error: ", "", &["Error:"]),
        ] {
            let found = said(&serde_json::json!({ "message": message }).to_string());
            assert_eq!(found.codes.concat(), names, "{message}");
            assert_eq!(found.texts, texts, "{message}");
        }
    }

    #[test]
    fn a_limit_of_nothing_is_noticed() {
        for body in [
            r#"{"error":{"metadata":{"headers":{"X-RateLimit-Limit":"0"}}}}"#,
            r#"{"error":{"details":[{"violations":[{"quotaValue":"0"}]}]}}"#,
            r#"{"error":{"details":[{"metadata":{"quota_limit_value":"0"}}]}}"#,
            r#"{"limit":0}"#,
        ] {
            assert!(said(body).no_limit_at_all, "{body}");
        }
        assert!(!said(r#"{"limit":10,"remaining":0}"#).no_limit_at_all);
    }
}
