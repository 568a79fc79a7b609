//! The ways in which upstreams write a time: `7.66`, `6m0s`, an HTTP-date, RFC 3339, an epoch in
//! seconds or milliseconds. Without floats: every number is digits and perhaps a fraction.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant on the upstream's clock, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date(Duration);

impl Date {
    /// An HTTP-date (RFC 9110 §5.6.7).
    pub(super) fn parse(text: &str) -> Option<Date> {
        let at: SystemTime = httpdate::parse_http_date(text).ok()?;
        at.duration_since(UNIX_EPOCH).ok().map(Date)
    }

    /// From here to an HTTP-date; `None` if that is past.
    pub(super) fn until_http(self, text: &str) -> Option<Duration> {
        self.until(Date::parse(text)?.0)
    }

    fn until(self, epoch: Duration) -> Option<Duration> {
        epoch.checked_sub(self.0)
    }
}

/// Above this, a number of seconds is an epoch (2001) …
const EPOCH_SECONDS: u64 = 1_000_000_000;
/// … and above this, one in milliseconds.
const EPOCH_MILLIS: u64 = 1_000_000_000_000;

/// Seconds, a spelled duration, an epoch or RFC 3339; the latter two from `date` on.
pub(super) fn any_form(text: &str, date: Option<Date>) -> Option<Duration> {
    if let Some(number) = decimal(text) {
        return match number.as_secs() {
            0..EPOCH_SECONDS => Some(number),
            EPOCH_SECONDS..EPOCH_MILLIS => date?.until(number),
            millis => date?.until(Duration::from_millis(millis)),
        };
    }
    spelled(text).or_else(|| date?.until(rfc3339(text)?))
}

/// A number of seconds: digits, and perhaps a fraction. What is too large to count is a very long
/// time; anything else (signs, exponents, `NaN`) is no number here.
pub(super) fn decimal(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    // Nine digits are nanoseconds; finer ones do not matter.
    let nanos = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(Duration::new(whole.parse().unwrap_or(u64::MAX >> 1), nanos))
}

/// As Go writes a duration: `6m0s`, `1h2m3.5s`, `12ms`.
pub(super) fn spelled(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (value, unit_on) = rest.split_at(number);
        let unit = unit_on
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit_on.len());
        let value = decimal(value)?;
        let value = match &unit_on[..unit] {
            "d" => value.saturating_mul(24 * 60 * 60),
            "h" => value.saturating_mul(60 * 60),
            "m" => value.saturating_mul(60),
            "s" => value,
            "ms" => value / 1000,
            "us" | "µs" | "ns" => Duration::ZERO,
            _ => return None,
        };
        sum = sum.saturating_add(value);
        rest = &unit_on[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

/// `2026-11-23T17:18:19Z` (RFC 3339 §5.6) as time since 1970; with a fraction and an offset too.
fn rfc3339(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let signs = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if signs.iter().any(|(at, sign)| bytes[*at] != *sign)
        || !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
    {
        return None;
    }
    // Days since 1970 of the civil calendar, counted in years that begin in March (H. Hinnant).
    let (y, m) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = u64::from(days) * 86_400 + u64::from(hour * 3600 + minute * 60 + second);
    let zone = text[19..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let ahead = match (zone.get(..1)?, zone) {
        ("Z" | "z", _) => return Some(Duration::from_secs(seconds)),
        (sign @ ("+" | "-"), zone) => {
            let hours: u64 = zone.get(1..3)?.parse().ok()?;
            let minutes: u64 = zone.get(4..6)?.parse().ok()?;
            (sign, hours * 3600 + minutes * 60)
        }
        _ => return None,
    };
    let seconds = match ahead {
        ("+", offset) => seconds.checked_sub(offset)?,
        (_, offset) => seconds + offset,
    };
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "Mon, 23 Nov 2026 12:00:00 GMT"; // 1795435200

    #[test]
    fn every_form_is_read_as_the_table_says() {
        let ms = |n| Some(Duration::from_millis(n));
        let date = Date::parse(NOON);
        for (text, expected) in [
            ("7", ms(7_000)),
            ("7.66", ms(7_660)),
            ("33011.382867", Some(Duration::from_micros(33_011_382_867))),
            ("86400", ms(86_400_000)),
            ("1s", ms(1_000)),
            ("6m0s", ms(360_000)),
            ("12ms", ms(12)),
            ("4h17m", ms((4 * 60 + 17) * 60_000)),
            ("1h2m3.5s", ms(3_723_500)),
            ("1d", ms(86_400_000)),
            ("100µs", ms(0)),
            ("1795435234", ms(34_000)),
            ("1795435234500", ms(34_500)),
            ("1795435100", None), // past
            ("2026-11-23T12:00:34Z", ms(34_000)),
            ("2026-11-23T12:00:34.123Z", ms(34_000)),
            ("2026-11-23T13:00:34+01:00", ms(34_000)),
            ("2026-11-23T06:30:34-05:30", ms(34_000)),
            ("2026-11-24T12:00:00z", ms(86_400_000)),
            ("2028-02-29T12:00:00Z", ms(463 * 86_400_000)),
            ("2026-11-23T11:00:00Z", None), // past
            ("2026-13-23T12:00:34Z", None),
            ("2026-11-23 12:00:34", None),
            ("-1", None),
            ("-1s", None),
            ("", None),
            ("s", None),
            ("5 s", None),
            ("NaN", None),
            ("inf", None),
            ("1e9", None),
            ("1.", None),
            (".5", None),
            ("7x", None),
            ("2026-11-23T", None),
            ("ääääääääääääääääääää", None),
        ] {
            assert_eq!(any_form(text, date), expected, "{text}");
        }
    }

    #[test]
    fn an_epoch_means_nothing_without_the_answers_own_date() {
        for text in ["1795435234", "1795435234500", "2026-11-23T12:00:34Z"] {
            assert_eq!(any_form(text, None), None, "{text}");
        }
    }

    #[test]
    fn what_is_too_large_to_count_is_a_very_long_time() {
        let long = Duration::from_secs(1 << 40);
        assert!(decimal("99999999999999999999").is_some_and(|d| d > long));
        assert!(spelled("99999999999999999999h9999999999999999999h").is_some_and(|d| d > long));
    }
}
