//! Whether one request wanted more than its limit can ever give: "Limit 30000, Requested 35064", a
//! limit of zero, the advice to ask for less. If there are two numbers, they decide.

use std::time::Duration;

use super::words::Word;

/// Words between a name and its number.
const LEAD: &str = "\
    is of was to up a total the tokens token input output count size per minute about at requests";

/// What can be smaller in one request …
const SIZE: &str = "\
    input prompt length message* context token* max size completion output conversation body";
/// … and what can be slower in many, which a wait cures.
const PACE: &str = "requests rate frequency concurren* number load speed traffic usage";

/// A limit, and what one request wanted of it. Only the numbers are compared, whatever their unit.
pub(super) fn limit_and_request(words: &[Word]) -> Option<(Duration, Duration)> {
    let limit = limits(words).next()?;
    let request = (0..words.len()).find_map(|at| {
        if words[at].is("requested requesting") {
            let before = || words[..at].iter().rev().take(2).find_map(Word::number);
            let after = number_after(words, at + 1).map(|(number, _)| number);
            return after.or_else(before);
        }
        match words.get(at..at + 3) {
            Some([request, of, n]) if request.is("request") && of.is("of for with") => n.number(),
            _ => None,
        }
    })?;
    Some((limit, request))
}

/// Whether a limit is zero: the model is not on this plan.
pub(super) fn is_limit_of_nothing(words: &[Word]) -> bool {
    limits(words).any(|limit| limit.is_zero())
}

/// "You can only afford 0": it is not the request that is too much, and another key may have money.
pub(super) fn affords_nothing(words: &[Word]) -> bool {
    let mut places = (0..words.len()).filter(|at| words[*at].is("afford"));
    places.any(|at| number_after(words, at + 1).is_some_and(|(number, _)| number.is_zero()))
}

/// "fewer max_tokens", "reduce the length of the messages", "Request too large".
pub(super) fn asks_for_less(words: &[Word]) -> bool {
    let of_size = |words: &[Word]| {
        let paced = words.iter().any(|word| word.is(PACE));
        !paced && words.iter().any(|word| word.is(SIZE))
    };
    (0..words.len()).any(|at| {
        let before = &words[at.saturating_sub(6)..at];
        let after = &words[at + 1..words.len().min(at + 5)];
        if words[at].is("reduced shortened") {
            return of_size(before);
        }
        if words[at].is("reduce shorten fewer lower decrease truncate") {
            return of_size(after);
        }
        let too = words[at].is("too") && after.first().is_some_and(|word| word.is("large long"));
        too && before
            .iter()
            .any(|word| word.is("request") || word.is(SIZE))
    })
}

/// The numbers that are called limits, but not what remains of one.
fn limits<'a>(words: &'a [Word]) -> impl Iterator<Item = Duration> + use<'a> {
    let left = "remaining left";
    let named = (0..words.len()).filter(|at| words[*at].is("limit limits maximum max afford"));
    named.filter_map(move |at| {
        let (number, after) = number_after(words, at + 1)?;
        let before = &words[at.saturating_sub(2)..at];
        let mut around = before.iter().chain(words.get(after));
        (!around.any(|word| word.is(left))).then_some(number)
    })
}

/// The number after such words, and the word after it.
fn number_after(words: &[Word], from: usize) -> Option<(Duration, usize)> {
    let mut at = from;
    while at < from + 4 && words.get(at)?.is(LEAD) && !words[at].first {
        at += 1;
    }
    let word = words.get(at).filter(|word| !word.first)?;
    Some((word.number()?, at + 1))
}
