//! Whether an error calls the key itself invalid: a name of the key and a word such as *invalid* stand within a few words
//! of each other, or in Chinese in one text. It does not if they speak of its scopes, a region, a model, or a parameter
//! called key.

use super::error_text::QUOTES;
use super::kinds::Line;
use super::words::{Word, begins, first};

/// Names of a key that leave no doubt …
const KEY: &str = "\
    api key*, apikey*, access key*, secret key*, subscription key*, access token*, auth* token*, \
    api token*, bearer token*, auth* credential*, api credential*, jwt, authentication, credentials";
/// … and names that count only if the status fits.
const LOOSE_KEY: &str = "token, key, credential*, auth* header";

/// What is said of it.
const WRONG: &str = "\
    invalid, incorrect, wrong, expired, revoked, leaked, disabled, deactivated, deleted, \
    unrecognized, unknown, malformed, inactive, suspended, not valid, not found, not exist, not recognized, \
    not active, no longer valid, no longer active, not correct";

/// A key in Chinese, which has no blanks between its words; what is said of it; and what shows that it is not the key.
const CHINESE: [&[&str]; 3] = [
    &["令牌", "密钥", "秘钥", "key", "Key", "KEY"],
    &["无效", "过期", "失效", "不正确", "错误", "不存在", "不可用"],
    &["模型", "权", "分组", "参数", "字段", "额度"],
];

/// What may stand between the two.
const BETWEEN: &str = "\
    is are has have was been you provided supplied specified passed included your or either does \
    appears reported as seems to be the this in request";

/// Words that show that "key" is a name in the request, or that another thing is wrong.
const OTHER: &str = "\
    parameter* field* argument* property value* type name model* tool* input* json format for \
    scope* region permission* option prompt count limit message*";

/// Phrases that name the key by what came of it.
const FAILED: &str = "\
    authentication fail*, authorization failed, user not found, no such user, no auth credentials, \
    bad credentials, account deactivated, account suspended";

/// How far apart the two may be, in words.
const REACH: usize = 6;

/// Where that is said: the first word, and the word after it.
pub(super) fn named(line: &Line, strictly: bool) -> Option<(usize, usize)> {
    let words = &line.words;
    if !strictly && is_wrong_in_chinese(line.text) {
        return Some((0, words.len()));
    }
    if let Some(at) = first(words, FAILED) {
        return Some((at, at + length(&words[at..], FAILED)?));
    }
    (0..words.len()).find_map(|at| {
        let end = key_at(words, at, strictly)?;
        let before = wrong_before(words, at).map(|from| (from, end));
        let (from, end) = before.or_else(|| wrong_after(words, end).map(|end| (at, end)))?;
        // In quotes it is the name of a parameter, or what the request said.
        let quoted = line.text[words[from].at..words[end - 1].at].contains(QUOTES);
        (!(strictly && quoted)).then_some((from, end))
    })
}

fn is_wrong_in_chinese(text: &str) -> bool {
    let [key, wrong, other] = CHINESE.map(|any_of| any_of.iter().any(|part| text.contains(part)));
    key && wrong && !other
}

/// How many words long the phrase is that these words begin with, if they do.
fn length(words: &[Word], phrases: &str) -> Option<usize> {
    let mut phrases = phrases.split(", ");
    let found = phrases.find(|phrase| begins(words, phrase))?;
    Some(found.split(' ').count())
}

/// The word after a key's name, if one begins here.
fn key_at(words: &[Word], at: usize, strictly: bool) -> Option<usize> {
    let here = &words[at..];
    let loose = || length(here, LOOSE_KEY).filter(|_| !strictly);
    let end = at + length(here, KEY).or_else(loose)?;
    let next = words.get(end).filter(|word| !word.first);
    let other = next.is_some_and(|word| word.is(OTHER) && !word.is("for"));
    (!other).then_some(end)
}

/// "Invalid API key": the first of those words.
fn wrong_before(words: &[Word], key: usize) -> Option<usize> {
    for at in (key.saturating_sub(3)..key).rev() {
        if words[at + 1].first || words[at].is(OTHER) {
            return None;
        }
        if length(&words[at..=at], WRONG).is_some() {
            return Some(at);
        }
    }
    None
}

/// "The API key you provided has been revoked": the word after it.
fn wrong_after(words: &[Word], from: usize) -> Option<usize> {
    for at in from..words.len().min(from + REACH) {
        if words[at].first {
            return None;
        }
        if let Some(length) = length(&words[at..], WRONG) {
            let end = at + length;
            let word = |at: usize| words.get(at).filter(|word| !word.first);
            let other = word(end).is_some_and(|word| word.is(OTHER))
                || word(end + 1).is_some_and(|word| word.is("parameter field argument"));
            return (!other).then_some(end);
        }
        if !words[at].is(BETWEEN) {
            return None;
        }
    }
    None
}
