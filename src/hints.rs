//! What an upstream's answer means: whose limit, and for how long. Pure: no clock, no I/O.
//!
//! The facts behind the rules are vendors' documentation; the table in the tests names them.
//! Nothing is decided here about the request: that is [`crate::retry`].

use std::time::{Duration, SystemTime};

/// What one answer says about the key that was used.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// The answer is for the client, whatever its status; the key did its work.
    Pass,
    /// 429: this key must rest, for as long as the upstream said, if it said.
    Limited(Option<Duration>),
    /// 401: this key is not, or no longer, valid.
    Rejected,
    /// 403: the key, or the request (moderation): a second key will tell.
    Forbidden,
}

/// The longest rest an answer can impose. Longer ones are mistakes, or epochs in a wrong unit.
pub const MAX_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest rest: `Retry-After: 0` after a 429 is a wish, not a fact.
pub const MIN_REST: Duration = Duration::from_secs(1);

/// Judges an answer by its status and header fields (`header` finds one by its lower-case name).
pub fn judge<'a>(status: u16, header: impl Fn(&str) -> Option<&'a [u8]>) -> Verdict {
    match status {
        429 => Verdict::Limited(stated_wait(header)),
        401 => Verdict::Rejected,
        403 => Verdict::Forbidden,
        _ => Verdict::Pass,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(fields: &[(&str, &str)]) -> Verdict {
        judge(429, |name| {
            fields
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_bytes())
        })
    }

    const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn a_429_rests_the_key_as_long_as_the_upstream_says() {
        let after = |v| ("retry-after", v);
        let secs = |s| Verdict::Limited(Some(Duration::from_secs(s)));
        let unsaid = Verdict::Limited(None);
        for (fields, expected) in [
            (&[][..], unsaid),
            (&[after("7")], secs(7)),
            (&[after(" 7 ")], secs(7)),
            (
                &[after("1.5")],
                Verdict::Limited(Some(Duration::from_millis(1500))),
            ),
            (&[after("0")], secs(1)),
            (&[after("-3")], unsaid),
            (&[after("NaN")], unsaid),
            (&[after("inf")], unsaid),
            (&[after("1e300")], unsaid),
            (&[after("1.")], unsaid),
            (&[after(".5")], unsaid),
            (&[after("2.0000000009")], secs(2)),
            (&[after("99999999999999999999")], secs(86_400)),
            (&[after("soon")], unsaid),
            (&[after("")], unsaid),
            (
                &[("retry-after-ms", "2500"), after("60")],
                Verdict::Limited(Some(Duration::from_millis(2500))),
            ),
            (&[("retry-after-ms", "x"), after("60")], secs(60)),
            // RFC 9110 §10.2.3, against the answer's own Date, in all three HTTP-date forms
            (&[DATE, after("Sun, 06 Nov 1994 08:50:07 GMT")], secs(30)),
            (&[DATE, after("Sunday, 06-Nov-94 08:50:07 GMT")], secs(30)),
            (&[DATE, after("Sun Nov  6 08:50:07 1994")], secs(30)),
            (&[DATE, after("Sun, 06 Nov 1994 08:00:00 GMT")], unsaid), // in the past
            (&[after("Sun, 06 Nov 1994 08:50:07 GMT")], unsaid),       // no Date to count from
            (
                &[("date", "junk"), after("Sun, 06 Nov 1994 08:50:07 GMT")],
                unsaid,
            ),
        ] {
            assert_eq!(limited(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_say_nothing() {
        assert_eq!(
            judge(429, |_| Some(&b"\xff\xfe7"[..])),
            Verdict::Limited(None)
        );
    }

    #[test]
    fn every_other_status_is_judged_by_itself() {
        for (status, expected) in [
            (200, Verdict::Pass),
            (302, Verdict::Pass),
            (400, Verdict::Pass),
            (401, Verdict::Rejected),
            (402, Verdict::Pass),
            (403, Verdict::Forbidden),
            (404, Verdict::Pass),
            (413, Verdict::Pass),
            (500, Verdict::Pass),
            (503, Verdict::Pass),
        ] {
            assert_eq!(judge(status, |_| None), expected, "{status}");
        }
    }
}
