//! What an upstream's answer means: whose limit or fault it is, and for how long. Pure: no clock,
//! no I/O. `time.rs` reads the many ways to write a time.
//!
//! The facts behind the rules are vendors' documentation; the table in the tests names them.
//! Nothing is decided here about the request: that is [`crate::retry`].

mod time;

use std::time::Duration;

use serde_json::Value;

use self::time::{Date, any_form, decimal, spelled};

/// What one answer says: whose limit or fault it is.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// The answer is for the client, whatever its status: the key did its work, or the request is
    /// to blame.
    Pass,
    /// No waiting cures it: one request over the limit, a limit of nothing, fewer `max_tokens`
    /// wanted. It passes at once, and nobody rests.
    TooMuch,
    /// The key's limit for this model: it rests for as long as the upstream said, if it said.
    Limited(Option<Duration>),
    /// Words of a quota of hours, a day or a month, and no time with them.
    Quota,
    /// The key was refused for this request: its own fault or the request's. Another key will
    /// tell.
    Refused {
        /// The words call the key itself invalid.
        names_key: bool,
    },
    /// The model is overloaded; no key is to blame. How long it asks to wait, if it does.
    Overloaded(Option<Duration>),
    /// The provider is in trouble and did no work on the request; no key is to blame. How long it
    /// asks to wait, if it does.
    Trouble(Option<Duration>),
    /// The provider failed on a request that it may have worked on; likewise.
    Failed(Option<Duration>),
}

/// The longest rest an answer can impose. Longer ones are mistakes, or epochs in a wrong unit.
pub const MAX_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest rest: `Retry-After: 0` after a 429 is a wish, not a fact.
pub const MIN_REST: Duration = Duration::from_secs(1);

/// How much of an error's body is looked at, in bytes.
pub const BODY_LIMIT: usize = 16 * 1024;

/// A spent quota does not come back sooner; providers that say so mean something else.
const MIN_QUOTA_REST: Duration = Duration::from_secs(60);

/// Words of a worker or model without capacity: NVIDIA NIM's, OpenRouter's for its own upstreams.
const CAPACITY: [&str; 2] = [
    "Worker local total request limit",
    "Provider returned error",
];

/// Words of a limit that is over in a minute, and that count first: Gemini speaks of a quota, OpenAI
/// and Groq link to a page about billing, whatever the limit was.
const MINUTE: [&str; 2] = ["PerMinute", "per min"];

/// Words of a limit that is not.
const QUOTA: [&str; 5] = [
    "insufficient_quota", // OpenAI
    "per day",            // Groq: "tokens per day (TPD)"
    "per-day",            // OpenRouter: "free-models-per-day"
    "daily",
    "quota exceeded",
];

/// Words that come with the name of the model whose limit it is: OpenAI's, Groq's.
const ONE_MODEL: [&str; 1] = ["limit reached for "];

/// Pairs of fields: how much is left of a limit, and when it begins anew.
const CLASSES: [(&str, &str); 12] = [
    ("x-ratelimit-remaining", "x-ratelimit-reset"), // Together
    (
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ), // OpenAI, Groq
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"), // and Azure
    (
        "x-ratelimit-remaining-requests-minute",
        "x-ratelimit-reset-requests-minute",
    ),
    (
        "x-ratelimit-remaining-tokens-minute",
        "x-ratelimit-reset-tokens-minute",
    ), // Cerebras
    (
        "x-ratelimit-remaining-requests-hour",
        "x-ratelimit-reset-requests-hour",
    ),
    DAY_CLASSES[0],
    DAY_CLASSES[1],
    (
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    (
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ),
    (
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ),
    (
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ),
];

/// Those of them that are quotas by their name: Cerebras, SambaNova.
const DAY_CLASSES: [(&str, &str); 2] = [
    (
        "x-ratelimit-remaining-requests-day",
        "x-ratelimit-reset-requests-day",
    ),
    (
        "x-ratelimit-remaining-tokens-day",
        "x-ratelimit-reset-tokens-day",
    ),
];

/// A limit of nothing: the model is not on this plan (Mistral). Waiting will not help.
const PLAN: [&str; 2] = [
    "x-ratelimit-limit-req-minute",
    "x-ratelimit-limit-tokens-minute",
];

/// Judges an answer by its status, its header fields (`header` finds one by its lower-case name)
/// and the start of its body, which may be empty or cut anywhere.
pub fn judge<'a>(status: u16, header: impl Fn(&str) -> Option<&'a [u8]>, body: &[u8]) -> Verdict {
    let answer = Answer {
        header: &|name| std::str::from_utf8(header(name)?).ok().map(str::trim),
        words: &body[..body.len().min(BODY_LIMIT)],
    };
    answer.judge(status)
}

/// Judges an error inside a 200: a whole JSON document, or the data of a stream's first event.
/// [`Verdict::Pass`] when it is none, or one that is the request's own fault.
pub fn judge_inside(json: &[u8]) -> Verdict {
    // Nearly every answer is a completion without an error, and need not be parsed to see that.
    if CHOICES.is_in(json) && !ERROR.is_in(json) {
        return Verdict::Pass;
    }
    let answer = Answer {
        header: &|_| None,
        words: &json[..json.len().min(BODY_LIMIT)],
    };
    let Some(whole) = answer.json() else {
        return Verdict::Pass;
    };
    let error = &whole["error"];
    // Some always have the field, and fill it only when there is one.
    let none = match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if none {
        // NVIDIA NIM's two shapes have no `error`. Only these fields count: an answer may quote the words.
        let says = |field: &str| {
            let text = whole[field].as_str();
            text.is_some_and(|text| has(text.as_bytes(), &CAPACITY))
        };
        return match says("detail") || says("message") {
            true => Verdict::Overloaded(None),
            false => Verdict::Pass,
        };
    }
    let code = &error["code"];
    let number = code.as_u64().or_else(|| code.as_str()?.parse().ok());
    if let Some(status) = number.and_then(|n| u16::try_from(n).ok()) {
        return answer.judge(status);
    }
    let kind = |words: &[&str]| {
        let is = |field: &str| {
            error[field]
                .as_str()
                .is_some_and(|text| has(text.as_bytes(), words))
        };
        is("code") || is("type") || is("status")
    };
    if kind(&["rate_limit", "RESOURCE_EXHAUSTED", "insufficient_quota"]) {
        answer.judge(429)
    } else if kind(&["invalid_api_key", "authentication", "UNAUTHENTICATED"]) {
        Verdict::Refused { names_key: true }
    } else if kind(&[
        "invalid",
        "not_found",
        "permission",
        "content",
        "context_length",
        "INVALID",
    ]) {
        Verdict::Pass
    } else if answer.says(&CAPACITY) {
        Verdict::Overloaded(None)
    } else {
        Verdict::Trouble(None)
    }
}

static CHOICES: Word<9> = Word::new(b"\"choices\"");
static ERROR: Word<7> = Word::new(b"\"error\"");

/// A word to look for in every answer (Boyer–Moore–Horspool): most bytes are never looked at.
struct Word<const N: usize> {
    bytes: &'static [u8; N],
    /// By the byte that stands where the word's last one is looked for: how far on it may be found.
    skip: [u8; 256],
}

impl<const N: usize> Word<N> {
    const fn new(bytes: &'static [u8; N]) -> Word<N> {
        let mut skip = [N as u8; 256];
        let mut at = 0;
        while at + 1 < N {
            skip[bytes[at] as usize] = (N - 1 - at) as u8;
            at += 1;
        }
        Word { bytes, skip }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        let mut at = 0;
        while let Some(here) = text.get(at..at + N) {
            if here == self.bytes {
                return true;
            }
            at += usize::from(self.skip[usize::from(here[N - 1])]);
        }
        false
    }
}

/// One answer, as far as it is looked at.
struct Answer<'a> {
    header: &'a dyn Fn(&str) -> Option<&'a str>,
    words: &'a [u8],
}

impl Answer<'_> {
    fn judge(&self, status: u16) -> Verdict {
        match status {
            // Before anything else: these words come with several statuses.
            429 | 500 | 502 | 503 if self.says(&CAPACITY) => Verdict::Overloaded(self.stated()),
            429 if self.is_off_plan() => Verdict::Pass,
            429 => self.limit(),
            402 => Verdict::Refused { names_key: false },
            // No API says that in HTML: a captive portal does, or a proxy that wants a login.
            401 if self.is_page() => Verdict::Trouble(self.stated()),
            401 => Verdict::Refused { names_key: true },
            400 if self.says(&["API_KEY_INVALID"]) => Verdict::Refused { names_key: true }, // Gemini
            403 => Verdict::Refused { names_key: false },
            500 | 502 | 503 | 504 | 529 => Verdict::Trouble(self.stated()), // 529: Anthropic
            _ => Verdict::Pass,
        }
    }

    /// A 429: the minute's limit, or the day's.
    fn limit(&self) -> Verdict {
        let stated = self.stated();
        match stated.is_none() && !self.says(&MINUTE) && self.says(&QUOTA) {
            true => Verdict::Quota,
            false => Verdict::Limited(stated),
        }
    }

    /// How long the upstream asks to wait, clamped to [`MIN_REST`]..=[`MAX_REST`]; `None` when it
    /// does not say, or says nonsense. What speaks of this very refusal comes first.
    fn stated(&self) -> Option<Duration> {
        let by_field = || {
            let value = (self.header)("retry-after")?;
            decimal(value).or_else(|| self.date()?.until_http(value))
        };
        (self.header)("retry-after-ms")
            .and_then(decimal)
            .map(|ms| ms / 1000)
            .or_else(by_field)
            .or_else(|| self.stated_in_words())
            .or_else(|| self.longest_reset())
            .map(|rest| rest.clamp(MIN_REST, MAX_REST))
    }

    /// In the body: Gemini's RetryInfo, OpenRouter's metadata, and the sentence of OpenAI and Groq.
    fn stated_in_words(&self) -> Option<Duration> {
        let whole = self.json().unwrap_or_default();
        let error = &whole["error"];
        let details = error["details"].as_array().into_iter().flatten();
        let delay = details
            .filter_map(|detail| detail["retryDelay"].as_str())
            .find_map(spelled);
        let metadata = &error["metadata"];
        let seconds = || match &metadata["retry_after_seconds"] {
            Value::Number(n) => Duration::try_from_secs_f64(n.as_f64()?).ok(),
            Value::String(text) => decimal(text),
            _ => None,
        };
        let reset = || {
            any_form(
                metadata["headers"]["X-RateLimit-Reset"].as_str()?,
                self.date(),
            )
        };
        let sentence = || {
            let phrase = b"try again in ";
            let at = position(self.words, phrase)? + phrase.len();
            let after = &self.words[at..];
            let end = after
                .iter()
                .position(|b| !(b.is_ascii_alphanumeric() || *b == b'.'));
            let span = std::str::from_utf8(&after[..end.unwrap_or(after.len())]).ok()?;
            spelled(span.trim_end_matches('.'))
        };
        delay.or_else(seconds).or_else(reset).or_else(sentence)
    }

    /// In the fields: the limit that is spent and begins anew last.
    fn longest_reset(&self) -> Option<Duration> {
        CLASSES
            .iter()
            .filter(|(remaining, _)| self.is_spent(remaining))
            .filter_map(|(_, reset)| any_form((self.header)(reset)?, self.date()))
            .max()
    }

    fn is_spent(&self, remaining: &str) -> bool {
        (self.header)(remaining).and_then(decimal) == Some(Duration::ZERO)
    }

    fn is_page(&self) -> bool {
        (self.header)("content-type").is_some_and(|kind| has(kind.as_bytes(), &["text/html"]))
    }

    fn is_off_plan(&self) -> bool {
        PLAN.iter().any(|limit| self.is_spent(limit))
    }

    /// The answer's own `Date`. Times are counted from it and never from our clock: a board
    /// without a real-time clock believes it is 1970.
    fn date(&self) -> Option<Date> {
        Date::parse((self.header)("date")?)
    }

    /// The body, if it is JSON and whole; Gemini wraps it in an array.
    fn json(&self) -> Option<Value> {
        match serde_json::from_slice(self.words).ok()? {
            Value::Array(list) => list.into_iter().next(),
            other => Some(other),
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        has(self.words, words)
    }
}

/// Whether one of these words, in upper or lower case, stands in the text.
fn has(text: &[u8], words: &[&str]) -> bool {
    words
        .iter()
        .any(|word| position(text, word.as_bytes()).is_some())
}

fn position(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len())
        .position(|w| w.eq_ignore_ascii_case(word))
}
