//! What an upstream's answer means: whose limit, and for how long. Pure: no clock, no I/O.
//!
//! The facts behind the rules are vendors' documentation; the table in the tests names them.
//! Nothing is decided here about the request: that is [`crate::retry`].

use std::time::{Duration, SystemTime};

/// What one answer says: whose limit or fault it is.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// The answer is for the client.
    Pass,
    /// The key's limit for this model.
    Limited(Option<Duration>),
    /// The key's quota.
    Quota(Option<Duration>),
    /// The key is not valid.
    Rejected,
    /// 403: the key, or the request: a second key will tell.
    Forbidden,
    /// The model has no capacity.
    Crowded(Option<Duration>),
    /// The provider is in trouble.
    Trouble(Option<Duration>),
}

/// longest
pub const MAX_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// shortest
pub const MIN_REST: Duration = Duration::from_secs(1);

/// bytes
pub const BODY_LIMIT: usize = 16 * 1024;

/// Judges
pub fn judge<'a>(status: u16, header: impl Fn(&str) -> Option<&'a [u8]>, body: &[u8]) -> Verdict {
    let crowded = body.windows(17).any(|w| w == b"ResourceExhausted");
    match status {
        429 | 500 | 503 if crowded => Verdict::Crowded(None),
        429 => Verdict::Limited(stated_wait(header)),
        401 => Verdict::Rejected,
        402 => Verdict::Quota(stated_wait(header)),
        403 => Verdict::Forbidden,
        500 | 502 | 503 | 504 | 529 => Verdict::Trouble(stated_wait(header)),
        _ => Verdict::Pass,
    }
}

/// inside
pub fn judge_inside(json: &[u8]) -> Verdict {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else {
        return Verdict::Pass;
    };
    if value["error"].is_null() {
        return Verdict::Pass;
    }
    let text = value["error"].to_string();
    if text.contains("ResourceExhausted") {
        return Verdict::Crowded(None);
    }
    match value["error"]["code"].as_u64() {
        Some(429) => Verdict::Limited(None),
        Some(400) => Verdict::Pass,
        _ => Verdict::Trouble(None),
    }
}

/// How long the upstream asks to wait, clamped to [`MIN_REST`]..=[`MAX_REST`]; `None` when it
/// does not say, or says nonsense.
fn stated_wait<'a>(header: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Duration> {
    let text = |name: &str| std::str::from_utf8(header(name)?).ok().map(str::trim);
    let millis = text("retry-after-ms").and_then(decimal).map(|ms| ms / 1000);
    let stated = millis.or_else(|| {
        let value = text("retry-after")?;
        decimal(value).or_else(|| until(value, text("date")?))
    })?;
    Some(stated.clamp(MIN_REST, MAX_REST))
}

/// A number of seconds: digits, and perhaps a fraction. What is too large to count is a very long
/// time; anything else (signs, exponents, `NaN`) is no number here.
fn decimal(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    // Nine digits are nanoseconds; finer ones do not matter.
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    Some(Duration::new(whole.parse().unwrap_or(u64::MAX >> 1), nanos))
}

/// From the answer's own `Date` to an HTTP-date (RFC 9110 §10.2.3). Never from our clock: a board
/// without a real-time clock believes it is 1970.
fn until(value: &str, date: &str) -> Option<Duration> {
    let at: SystemTime = httpdate::parse_http_date(value).ok()?;
    at.duration_since(httpdate::parse_http_date(date).ok()?)
        .ok()
}
