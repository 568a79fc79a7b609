//! What survives a restart: which keys rest for which model; as text, and back. Pure;
//! [`mod@file`] reads and writes it. What else is held against keys (an ejection, a suspicion) is
//! found out again: a probe costs less than a wrong hour.
//!
//! A key is known by a salted hash only, its [`Tag`]. Times are kept as what is left of them, with
//! the wall clock beside it: a board without a real-time clock starts in 1970, or where it last
//! was. So the time that passed while alvus was off counts only if the clock can be believed at
//! both ends; otherwise all that was left is left still.
//!
//! ```text
//! alvus-state 1 salt=00112233445566778899aabbccddeeff clock=1790000000
//! 0123456789abcdef cooling 3600 meta/llama-3.3-70b-instruct
//! end 8899aabbccddeeff
//! ```

pub mod file;

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::secret::{SALT, Tag, tag};

/// The first word of the file, and what stands for "ours, of a later version".
const MAGIC: &str = "alvus-state ";

/// A clock before this (the first second of 2024, UTC) was never set.
const CLOCK_IS_SET: u64 = 1_704_067_200;

/// No rest is longer than a month; one that claims to be is not ours.
const LONGEST: u64 = 31 * 24 * 60 * 60;

/// One key that rests for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which key.
    pub key: Tag,
    /// For which model.
    pub model: String,
    /// For how much longer.
    pub left: Duration,
}

/// The same at one moment of a running alvus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Which key.
    pub key: Tag,
    /// For which model.
    pub model: String,
    /// Until when.
    pub until: Instant,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    /// What the tags were made with.
    pub salt: [u8; SALT],
    /// What is still to come of it.
    pub entries: Vec<Entry>,
}

/// Why a file says nothing.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Unreadable {
    /// Someone else's, or a later version's: it must not be touched.
    Foreign,
    /// Ours, and damaged.
    Corrupt,
}

/// The text of a file written when the wall clock, in seconds since 1970, said `clock`.
pub fn to_text(salt: &[u8; SALT], entries: &[Entry], clock: u64) -> String {
    let mut out = format!("{MAGIC}1 salt={} clock={clock}\n", hex(salt));
    for entry in entries {
        // Writing into a String cannot fail.
        let _ = write!(out, "{} cooling {} ", hex(&entry.key), seconds(entry.left));
        escape(&mut out, &entry.model);
        out.push('\n');
    }
    let end = hex(&tag(salt, out.as_bytes()));
    out + "end " + &end + "\n"
}

/// Reads a file when the wall clock says `clock`.
///
/// # Errors
/// [`Unreadable`]; nothing of it can be used then.
pub fn from_text(text: &str, clock: u64) -> Result<Saved, Unreadable> {
    let rest = text.strip_prefix(MAGIC).ok_or(Unreadable::Foreign)?;
    let rest = rest.strip_prefix("1 ").ok_or(Unreadable::Foreign)?;
    parse(text, rest, clock).ok_or(Unreadable::Corrupt)
}

fn parse(text: &str, rest: &str, clock: u64) -> Option<Saved> {
    let (head, rest) = rest.strip_prefix("salt=")?.split_once('\n')?;
    let (salt, written) = head.split_once(" clock=")?;
    let salt = unhex::<SALT>(salt)?;
    let before = written.parse().ok()?;
    // The end covers every byte before it, so what passes here is as it was written.
    let lines_end = text.rfind("end ")?;
    let end = text[lines_end..].strip_prefix("end ")?.strip_suffix('\n')?;
    if unhex(end)? != tag(&salt, &text.as_bytes()[..lines_end]) {
        return None;
    }
    let off = time_off(before, clock);
    let lines = rest.get(..rest.len().checked_sub(text.len() - lines_end)?)?;
    let entries: Option<Vec<Option<Entry>>> = lines.lines().map(entry).collect();
    let mut entries: Vec<Entry> = entries?.into_iter().flatten().collect();
    entries.retain_mut(|entry| {
        entry.left = entry.left.saturating_sub(off);
        !entry.left.is_zero()
    });
    Some(Saved { salt, entries })
}

/// Rounded up.
fn seconds(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

/// The time between two readings of the wall clock, if both can be believed.
fn time_off(before: u64, now: u64) -> Duration {
    match before >= CLOCK_IS_SET {
        true => Duration::from_secs(now.saturating_sub(before)),
        false => Duration::ZERO,
    }
}

/// One line; `Some(None)` for what 0.1.0 wrote of keys that it had taken out, or parked as a whole.
fn entry(line: &str) -> Option<Option<Entry>> {
    let mut words = line.split(' ');
    let key = unhex(words.next()?)?;
    let (word, number) = (words.next()?, words.next()?.parse::<u64>().ok()?);
    let model = words.next().map(unescape);
    if words.next().is_some() {
        return None;
    }
    match (word, model) {
        ("rejected", None) if number < 1000 => Some(None),
        ("cooling" | "parked", _) if number > LONGEST => None,
        ("parked", None) => Some(None),
        ("cooling" | "parked", model) => Some(Some(Entry {
            key,
            model: model.unwrap_or_else(|| Some(String::new()))?,
            left: Duration::from_secs(number),
        })),
        _ => None,
    }
}

/// A model's name is the client's text: what could be taken for a blank, a line break or an escape
/// is written as `%XX`, byte by byte.
fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_ascii_graphic() && c != '%' {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02x}");
            }
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next()?.as_bytes());
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.len() != 2 * N || !digits {
        return None;
    }
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALTED: [u8; SALT] = [7; SALT];
    const NOW: u64 = 1_790_000_000;

    fn entry_of(secs: u64, model: &str) -> Entry {
        Entry {
            key: [0xab; 8],
            model: model.to_owned(),
            left: Duration::from_secs(secs),
        }
    }

    fn some() -> Vec<Entry> {
        vec![
            entry_of(90, "m"),
            entry_of(7200, "meta/llama 3%\nend\u{e9}"),
            entry_of(50, ""),
        ]
    }

    #[test]
    fn what_0_1_0_took_out_is_tried_again() {
        let lines = "abababababababab cooling 90 m\nabababababababab parked 7200\n\
                     abababababababab parked 50 n\nabababababababab rejected 401\n";
        let head = format!("{MAGIC}1 salt={} clock={NOW}\n{lines}", hex(&SALTED));
        let end = hex(&tag(&SALTED, head.as_bytes()));
        let saved = from_text(&format!("{head}end {end}\n"), NOW).expect("ours");
        assert_eq!(saved.entries, [entry_of(90, "m"), entry_of(50, "n")]);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for entries in [some(), vec![]] {
            let text = to_text(&SALTED, &entries, NOW);
            let saved = from_text(&text, NOW).expect("ours");
            assert_eq!((saved.salt, saved.entries), (SALTED, entries));
        }
    }

    #[test]
    fn time_off_counts_only_where_the_clock_can_be_believed() {
        let left = |written: u64, read: u64| {
            let text = to_text(&SALTED, &some(), written);
            let entries = from_text(&text, read).expect("ours").entries;
            entries.iter().map(|e| e.left.as_secs()).collect::<Vec<_>>()
        };
        let full = vec![90, 7200, 50];
        assert_eq!(left(NOW, NOW), full);
        assert_eq!(left(NOW, NOW + 60), [30, 7140], "one has passed");
        assert!(left(NOW, NOW + 1_000_000).is_empty(), "all have");
        assert_eq!(left(NOW, NOW - 1), full, "backwards");
        assert_eq!(left(NOW, 12), full, "1970 after the restart");
        assert_eq!(left(12, NOW), full, "1970 before it");
        assert_eq!(left(12, 30), full, "1970 both times");
        assert_eq!(left(CLOCK_IS_SET, CLOCK_IS_SET + 60).len(), 2);
    }

    #[test]
    fn every_single_damaged_byte_and_every_cut_is_noticed() {
        let text = to_text(&SALTED, &some(), NOW);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let damaged = String::from_utf8(bytes).expect("ASCII");
            // A digit in upper case would say the same; this flip does not make one.
            assert!(from_text(&damaged, NOW).is_err(), "byte {at}: {damaged}");
            assert!(from_text(&text[..at], NOW).is_err(), "cut at {at}");
        }
        assert!(from_text(&(text.clone() + "x"), NOW).is_err());
        assert!(from_text(&(text.clone() + &text), NOW).is_err());
    }

    #[test]
    fn what_is_not_ours_is_told_from_what_is_damaged() {
        for (text, why) in [
            ("", Unreadable::Foreign),
            ("API_KEYS=a,b\n", Unreadable::Foreign),
            ("alvus-state 2 salt=00\n", Unreadable::Foreign),
            ("alvus-state 1 ", Unreadable::Corrupt),
            (
                "alvus-state 1 salt=00 clock=1\nend 00\n",
                Unreadable::Corrupt,
            ),
        ] {
            assert_eq!(from_text(text, NOW), Err(why), "{text:?}");
        }
    }

    #[test]
    fn lines_that_are_signed_and_yet_make_no_sense_are_refused() {
        for line in [
            "abababababababab cooling 99999999",
            "abababababababab cooling",
            "abababababababab cooling -1",
            "abababababababab resting 1",
            "abababababababab rejected 70000",
            "ababab cooling 1",
            "abababababababab cooling 1 a b",
            "abababababababab cooling 1 %f",
            "abababababababab cooling 1 %ff",
        ] {
            let head = format!("{MAGIC}1 salt={} clock={NOW}\n{line}\n", hex(&SALTED));
            let end = hex(&tag(&SALTED, head.as_bytes()));
            let text = format!("{head}end {end}\n");
            assert_eq!(from_text(&text, NOW), Err(Unreadable::Corrupt), "{line}");
        }
    }

    #[test]
    fn a_file_holds_nothing_of_a_key() {
        let key = crate::secret::ApiKey::new("nvapi-0123456789-f9a1");
        let entry = Entry {
            key: key.tag(&SALTED),
            ..entry_of(9, "m")
        };
        let text = to_text(&SALTED, &[entry], NOW);
        assert!(!text.contains("f9a1") && !text.contains("0123456789-"));
        assert_ne!(key.tag(&SALTED), key.tag(&[8; SALT]), "the salt counts");
    }
}
