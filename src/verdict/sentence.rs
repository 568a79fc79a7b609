//! Times in sentences: "Please wait 27 seconds before retrying", "Resets in 2hr 57min".
//!
//! A grammar, not a list of sentences: a time counts if a word says that it is waited for. So "a
//! limit of 15 per 60s" and "the 5-hour limit" are not waits.

use std::time::Duration;

use super::time::{Date, date_form, number_form, times, unit};
use super::words::{Word, words};

/// Cues: what comes back, and who may come back.
const CUE: &str = "\
    retry* again wait* reset* available refresh* renew* replenish* resum* back backoff \
    unlock* unblock* lift* restor* recover* expir* cool* regain* next another 重试*";

/// Before the time itself.
const PREPOSITION: &str = "in after until till at for on within by";

/// Words between the two, and between a cue and its time.
const FILLER: &str = "\
    about approximately approx around roughly least another a an the next up to is was \
    be will of only time timestamp delay period date duration window ca estimated";

/// A number beside these is a window or a limit, not a wait.
const WINDOW: &str = "per every each limit over last";

/// How far a cue may be from its time, in words.
const REACH: usize = 4;

/// The first time that a text tells the reader to wait. A date counts from `date`, the answer's own.
pub(super) fn stated(text: &str, date: Option<Date>) -> Option<Duration> {
    let words = &words(text);
    let sentence = Sentence { text, words };
    (0..words.len()).find_map(|at| sentence.wait_at(at, date))
}

struct Sentence<'a> {
    text: &'a str,
    words: &'a [Word<'a>],
}

/// How clearly a time is said to be a wait.
#[derive(PartialEq)]
enum Sign {
    /// A cue and a preposition: "retry after".
    Strong,
    /// A cue alone.
    Weak,
}

impl Sentence<'_> {
    fn wait_at(&self, at: usize, date: Option<Date>) -> Option<Duration> {
        let word = self.words[at];
        if let Some((wait, after)) = self.duration(at) {
            let told = self.sign_before(at).is_some() || self.told_after(at, after);
            return told.then_some(wait);
        }
        if word.is_number() || word.is("mon tue wed thu fri sat sun") {
            let sign = self.sign_before(at);
            let on = date_form(&self.text[word.at..], date).filter(|_| sign.is_some());
            let strong = sign == Some(Sign::Strong);
            return on.or_else(|| self.bare_number(at, date).filter(|_| strong));
        }
        None
    }

    /// A duration that begins with this word, and the word after it: `2 hr 57 min`, `1 hour and 5
    /// minutes`, `an hour`.
    fn duration(&self, at: usize) -> Option<(Duration, usize)> {
        let mut sum = Duration::ZERO;
        let mut here = at;
        while let Some(&[number, name, ..]) = self.words.get(here..) {
            let article = here == at && number.is("a an one");
            let value = match article {
                true => Some(Duration::from_secs(1)),
                false => number.number(),
            };
            let Some((value, length)) = value.zip(unit(name.text)).filter(|_| !name.first) else {
                break;
            };
            sum = sum.saturating_add(times(value, length));
            here += 2;
            let word = |at: usize| self.words.get(at);
            here += usize::from(word(here).is_some_and(|w| w.text == "s" && self.in_brackets(w)));
            let joined = word(here).is_some_and(|w| w.is("and"))
                && word(here + 1).is_some_and(Word::is_number);
            here += usize::from(joined);
        }
        (here > at).then_some((sum, here))
    }

    /// As in `second(s)`.
    fn in_brackets(&self, word: &Word) -> bool {
        self.text[..word.at].ends_with('(')
    }

    /// A number at a sentence's end: seconds, the unit named before it, or an epoch.
    fn bare_number(&self, at: usize, date: Option<Date>) -> Option<Duration> {
        let word = self.words[at];
        let number = word.number()?;
        // It is part of a date, a version or the like.
        let rest = self.text[word.end()..].trim_start_matches([' ', '"', '\'', ')', ']', '}']);
        if rest
            .starts_with(|c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-:/%".contains(c))
        {
            return None;
        }
        let before = at.checked_sub(1).and_then(|n| unit(self.words[n].text));
        match before {
            Some(length) => Some(times(number, length)),
            None => number_form(number, date),
        }
    }

    /// The words before a time: "try again in", "please wait", "Retry-After:".
    fn sign_before(&self, at: usize) -> Option<Sign> {
        let mut left = at;
        let mut before = || {
            // No sentence may begin between a cue and its time.
            left = left.checked_sub(1).filter(|_| !self.words[left].first)?;
            Some(self.words[left])
        };
        let mut word = before();
        let mut fillers = 0;
        while word.is_some_and(|w| fillers < REACH && (w.is(FILLER) || unit(w.text).is_some())) {
            word = before();
            fillers += 1;
        }
        let nearest = word?;
        if !nearest.is(PREPOSITION) {
            // "maxWaitMs (15000ms)": what is configured is no wait.
            let most = (0..2).any(|_| before().is_some_and(|word| word.is("max maximum")));
            return (nearest.is(CUE) && !most).then_some(Sign::Weak);
        }
        let strong = nearest.is("after in until till at");
        for distance in 0..REACH {
            match before()? {
                word if word.is(WINDOW) => return None,
                word if word.is(CUE) && strong && distance == 0 => return Some(Sign::Strong),
                word if word.is(CUE) => return Some(Sign::Weak),
                _ => {}
            }
        }
        None
    }

    /// The words after it: "before retrying", "and try again", and "In 5 minutes you may try again".
    fn told_after(&self, at: usize, after: usize) -> bool {
        if at > 0 && self.words[at - 1].is(WINDOW) {
            return false;
        }
        let told = self.words[after..].iter().take_while(|word| !word.first);
        let mut told = told.take(REACH + 2);
        let opens = at > 0 && self.words[at - 1].first && self.words[at - 1].is(PREPOSITION);
        // Chinese puts its preposition behind: 30 秒后重试.
        if self.words[after - 1].text.contains("后重试") {
            return true;
        }
        if opens || self.words[after - 1].text.contains('后') {
            return told.any(|word| word.is(CUE));
        }
        let joins = "before and then until till remaining left to";
        told.next().is_some_and(|word| word.is(joins)) && told.take(3).any(|w| w.is(CUE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn a_time_to_wait_is_read_however_it_is_said() {
        let date = Date::parse("Mon, 23 Nov 2026 12:00:00 GMT"); // 1795435200
        for (text, expected) in [
            ("Please try again in 20s. Visit x", secs(20)),
            (
                "Please try again in 6m2.5s.",
                Some(Duration::from_millis(362_500)),
            ),
            ("please try again after 1 seconds", secs(1)),
            ("Please wait 27 seconds before retrying.", secs(27)),
            (
                "Please retry in 34.5s.",
                Some(Duration::from_millis(34_500)),
            ),
            ("Resets in 2hr 57min.", secs(10_620)),
            ("Please try again in 1 hour and 5 minutes.", secs(3_900)),
            ("Your quota will reset after 17h5m3s.", secs(61_503)),
            (
                "Sorry. Please wait 8 hours 24 minutes and try again",
                secs(30_240),
            ),
            ("Please wait 71 minutes before trying again.", secs(4_260)),
            ("Expected available in 86 seconds.", secs(86)),
            ("Expected available in 1 second(s)", secs(1)),
            ("Please retry after 2 seconds.", secs(2)),
            ("Retry your request after 1,800 seconds", secs(1_800)),
            (
                "Come back in 3h 47m, your usage resets at midnight",
                secs(13_620),
            ),
            ("try again in about 2 hours", secs(7_200)),
            ("try again in an hour", secs(3_600)),
            ("wait for at least 5 min", secs(300)),
            ("the wait time is 30 seconds", secs(30)),
            ("In 5 minutes you may try again", secs(300)),
            (
                "You have 30 seconds remaining until the next request",
                secs(30),
            ),
            ("Retry-After: 30", secs(30)),
            ("retry_after_seconds: 12", secs(12)),
            ("{\"retry_after\":\"7\"}", secs(7)),
            ("retry after 500 ms", Some(Duration::from_millis(500))),
            (
                "Try again in 58 hours. (Request ID: E942:3A)",
                secs(208_800),
            ),
            ("limit reached, retry in 1 day", secs(86_400)),
            ("Limit resets at: 2026-11-23 12:01:00 UTC", secs(60)),
            ("Your limit resets at 2026-11-23T12:00:30Z.", secs(30)),
            (
                "blocked until reset at Mon, 23 Nov 2026 12:00:45 GMT",
                secs(45),
            ),
            ("reset at 1795435260.", secs(60)),
            ("resets after 1795435260000", secs(60)),
            ("请求过于频繁,请 30 秒后重试", secs(30)),
            ("请在30秒后重试", secs(30)),
            // first of two
            ("Limit 3 per 60s. Wait 5 s. Retry in 9 s.", secs(5)),
            // no time to wait
            ("Rate limit of 15 per 60s exceeded", None),
            ("5-hour usage limit reached", None),
            ("Limit 30000, Requested 35064", None),
            ("limit of 20 requests in 60 seconds; retry later", None),
            ("20 requests in 60 seconds, please retry later", None),
            ("You may retry up to 3 times", None),
            ("retry after 3 attempts", None),
            ("try again in a few minutes", None),
            ("try again later", None),
            ("5 seconds. Please retry", None),
            (
                "Usage limit reached for 5 hour. It will reset at 2026-11-23 19:01:25",
                None,
            ),
            ("resets 8pm (America/New_York)", None),
            ("the model took 5 seconds", None),
            ("no retry within the limit of 60 s", None),
            ("Try again with gpt-4 in 2026", None),
            ("reset at 1795435100", None), // past
            ("", None),
        ] {
            assert_eq!(stated(text, date), expected, "{text}");
        }
    }

    #[test]
    fn a_date_means_nothing_without_the_answers_own() {
        for text in ["reset at 1795435260", "resets at 2026-11-23T12:00:30Z"] {
            assert_eq!(stated(text, None), None, "{text}");
        }
    }
}
