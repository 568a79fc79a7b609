//! Reads the times that upstreams write: `7.66`, `6m0s`, an HTTP-date, RFC 3339, an epoch in
//! seconds or milliseconds. Without floats: a number is digits and perhaps a fraction.
//! `sentence.rs` finds times in sentences, and reads them with this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ascii::begins;

/// An instant on the upstream's clock, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date(Duration);

impl Date {
    /// An HTTP-date (RFC 9110 §5.6.7).
    pub(super) fn parse(text: &str) -> Option<Date> {
        let at: SystemTime = httpdate::parse_http_date(text).ok()?;
        at.duration_since(UNIX_EPOCH).ok().map(Date)
    }

    /// The time from this instant to an epoch; `None`: it is past.
    fn until(self, epoch: Duration) -> Option<Duration> {
        epoch.checked_sub(self.0)
    }
}

/// Above this, a number of seconds is an epoch (2001) …
const EPOCH_SECONDS: u64 = 1_000_000_000;
/// … and above this, one in milliseconds.
const EPOCH_MILLIS: u64 = 1_000_000_000_000;

/// Reads seconds, a spelled duration, an epoch or a date; the latter two as the time after `date`.
pub(super) fn any_form(text: &str, date: Option<Date>) -> Option<Duration> {
    match decimal(text) {
        Some(number) => number_form(number, date),
        None => spelled(text).or_else(|| date_form(text, date)),
    }
}

/// A number of seconds, or an epoch if it is too large for that.
pub(super) fn number_form(number: Duration, date: Option<Date>) -> Option<Duration> {
    match number.as_secs() {
        0..EPOCH_SECONDS => Some(number),
        EPOCH_SECONDS..EPOCH_MILLIS => date?.until(number),
        millis => date?.until(Duration::from_millis(millis)),
    }
}

/// The date at the start of a text, if it names its zone, as the time after `date`.
pub(super) fn date_form(text: &str, date: Option<Date>) -> Option<Duration> {
    // `08-15 06:20:00 UTC` is of the answer's own year.
    let this_year = || {
        let own = text.get(2..3) == Some("-");
        let today = httpdate::fmt_http_date(UNIX_EPOCH + date.filter(|_| own)?.0);
        rfc3339(&format!("{}-{text}", today.get(12..16)?))
    };
    match rfc3339(text).or_else(this_year) {
        Some(epoch) => date?.until(epoch),
        None => {
            // `Thu, 26 Nov 2026 12:00:00 GMT`: 29 bytes, whatever follows.
            let at = Date::parse(text).or_else(|| Date::parse(text.get(..29)?));
            date?.until(at?.0)
        }
    }
}

/// The length of a unit, in milliseconds; 0 for smaller ones.
pub(super) fn unit(name: &str) -> Option<u32> {
    const UNITS: [(&str, u32); 12] = [
        ("ns us µs nanoseconds microseconds", 0),
        ("ms msec msecs milli millis millisecond milliseconds", 1),
        ("s sec secs second seconds", 1_000),
        ("m min mins minute minutes", 60_000),
        ("h hr hrs hour hours", 3_600_000),
        ("d day days", 86_400_000),
        ("w week weeks", 604_800_000),
        ("month months", 2_592_000_000),
        // Chinese has no blank after them: 30 秒后重试.
        ("秒", 1_000),
        ("分", 60_000),
        ("小时", 3_600_000),
        ("天", 86_400_000),
    ];
    let is = |n: &str| n.eq_ignore_ascii_case(name) || !n.is_ascii() && name.starts_with(n);
    let mut found = UNITS.iter().filter(|(names, _)| names.split(' ').any(is));
    found.next().map(|(_, length)| *length)
}

/// This many units.
pub(super) fn times(number: Duration, millis: u32) -> Duration {
    match millis {
        0 => Duration::ZERO,
        1..1_000 => number / 1_000,
        more => number.saturating_mul(more / 1_000),
    }
}

/// A number of seconds: digits, and perhaps a fraction. A number too large to count is a very long
/// time. Anything else (signs, exponents, `NaN`) is not a number here.
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

/// A duration as Go writes it: `6m0s`, `1h2m3.5s`, `12ms`.
pub(super) fn spelled(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (value, unit_on) = rest.split_at(number);
        let end = unit_on
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit_on.len());
        let value = times(decimal(value)?, unit(&unit_on[..end])?);
        sum = sum.saturating_add(value);
        rest = &unit_on[end..];
    }
    (!text.is_empty()).then_some(sum)
}

/// `2026-11-23T17:18:19Z` (RFC 3339 §5.6) as the time since 1970. Also with a fraction, an offset,
/// a blank instead of the T, UTC or GMT instead of the Z. Without a zone it is not an instant.
fn rfc3339(text: &str) -> Option<Duration> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let sign = |at: usize| text.get(at..at + 1);
    let clock = text.get(10..)?;
    let clock = ["T", "t", " at ", " "]
        .iter()
        .find_map(|sign| clock.strip_prefix(sign))?;
    let of_clock = |from: usize| clock.get(from..from + 2)?.parse::<u32>().ok();
    let (hour, minute) = (of_clock(0)?, of_clock(3)?);
    let has_seconds = clock.get(5..6) == Some(":");
    let second = if has_seconds { of_clock(6)? } else { 0 };
    if (sign(4), sign(7), clock.get(2..3)) != (Some("-"), Some("-"), Some(":"))
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
    let zone = clock
        .get(if has_seconds { 8 } else { 5 }..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    ahead_of_utc(zone.trim_start(), seconds).map(Duration::from_secs)
}

/// A local time's seconds in UTC.
fn ahead_of_utc(zone: &str, seconds: u64) -> Option<u64> {
    let named = |name: &str| begins(zone.as_bytes(), name);
    if named("Z") || named("UTC") || named("GMT") {
        return Some(seconds);
    }
    let hours: u64 = zone.get(1..3)?.parse().ok()?;
    let minutes = zone.get(3..)?.trim_start_matches(':').get(..2);
    let minutes: u64 = minutes.unwrap_or("0").parse().ok()?;
    let offset = hours * 3600 + minutes * 60;
    match zone.get(..1)? {
        "+" => seconds.checked_sub(offset),
        "-" => Some(seconds + offset),
        _ => None,
    }
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
            ("2026-11-23 12:00:34", None), // in which zone?
            ("2026-11-23 12:00:34 UTC", ms(34_000)),
            ("2026-11-24 at 00:00 UTC", ms(43_200_000)),
            ("2026-11-23 12:00:34.5+00:00, and", ms(34_000)),
            ("2026-11-23 20:00:34 +0800", ms(34_000)),
            ("Mon, 23 Nov 2026 12:00:34 GMT", ms(34_000)),
            ("Mon, 23 Nov 2026 12:00:34 GMT.", ms(34_000)),
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
    fn a_number_too_large_to_count_is_a_very_long_time() {
        let long = Duration::from_secs(1 << 40);
        assert!(decimal("99999999999999999999").is_some_and(|d| d > long));
        assert!(spelled("99999999999999999999h9999999999999999999h").is_some_and(|d| d > long));
    }
}
