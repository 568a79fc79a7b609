//! The kinds of refusals, by their words. A kind is a small grammar: what is said of which thing, within a few words.
//! So the words of unknown providers are understood too. Two kinds have files of their own: `key.rs`, `size.rs`.
//!
//! *Strict* is for answers that may quote the request: there words count only at the beginning of the error's own
//! message, or as the whole code.

use super::error_text::{QUOTES, Said};
use super::words::{Word, first, position, positions, says, words};
use super::{key, size};

/// How many words make up a message's head.
const HEAD: usize = 5;

/// A model or an engine is full, for every key.
const OVERLOADED: &str = "\
    overload*, busy, rate limited upstream, upstream rate limit*, provider returned error, \
    worker local total request limit, currently loading, is loading, loading model, \
    degraded function, high demand, high load, heavy load, high traffic, too many users, \
    receiving too many requests, queue is full, 繁忙, 过载, 负载, 访问量, 拥挤, 无可用渠道";

/// After "no": nothing is there that could serve.
const SERVER: &str = "available healthy provider* instance* worker*";

/// Before "capacity": it is the key's own, or for sale.
const OWN: &str = "bucket your burst quota throughput dedicated";

/// A rate: whatever its reason, it is the key's limit.
const PACE: &str = "per minute, per min, per second, per sec, rpm, tpm, rps, qps, tps, 每分, 每秒";

/// A limit that is over in a minute. These words count before those of a quota: for any limit
/// Gemini speaks of a quota, and OpenAI and Groq link to a page about billing.
const SHORT: &str = "minute, min, concurren*, parallel, rate quota, 并发, 频率, 速率, 频繁";

/// A limit of hours, a day, a month.
const QUOTA: &str = "\
    quota*, day, week, month, today, daily, weekly, monthly, rpd, tpd, usage limit*, \
    session limit*, session usage, plan limit*, allowance, billing cycle, set limit*, \
    inference limit*, has been paused, 上限, 限额, 额度, 配额, 用完, 用尽";

/// "Check quota", "not your usage limit": a quota that is advised or denied was not met.
const DENIED: &str = "not check increase raise submit";
const DETERMINER: &str = "a an any our the your";

/// A limit, in codes.
pub(super) const LIMIT: &str = "\
    rate limit*, ratelimit*, throttl*, too many requests, resource exhausted, request* limit*, \
    limit exceeded, limit reached, quota exceeded, insufficient quota, usage limit*";

/// What can be spent, and the words for spent.
const SHARE: &str = "\
    quota*, free tier, allocation, allowance, usage limit*, rate limit*, request* limit*, \
    concurren* limit*";
const SPENT: &str = "reached exceeded hit exhausted used spent";

/// What a request can have too much of; not a quota.
const SIZE: &str = "\
    context length size prompt input output max maximum token* image* file* tool* message* \
    parameter* field* fields";

/// Words about money that suffice alone.
const MONEY: &str = "\
    recharge, top up, topup, arrears, arrearage, overdue, payment required, no payment method, \
    add a payment method, valid payment method, key limit, spend* limit*, spend* cap, \
    budget exceeded, budget has been exceeded, exceeded budget, billing hard limit, billing limit, \
    billing not active, credits error, more credits, extra usage, 欠费, 余额不足, 额度不足, 充值, \
    到期, 仅限, 未开通";

/// Money, and what is said of it within three words.
const PURSE: &str = "balance credit credits fund funds";
const EMPTY: &str = "\
    insufficient no not low negative exhausted depleted out zero used required unpaid";

/// An account, that it is closed, and what it was not given.
const ACCOUNT: &str = "\
    account organization organisation project team plan tier subscription workspace";
const CLOSED: &str = "\
    suspended restricted deactivated disabled banned blocked terminated inactive expired";
const GRANTED: &str = "access activ* includ* enabled authorized entitled subscribed permission";

/// One text or code.
pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    pub(super) words: Vec<Word<'a>>,
    pub(super) is_code: bool,
}

impl Line<'_> {
    fn says(&self, phrases: &str) -> bool {
        says(&self.words, phrases)
    }

    /// Whether one of these is among its first words.
    fn begins(&self, phrases: &str, reach: usize) -> bool {
        first(&self.words, phrases).is_some_and(|at| at < reach)
    }
}

/// An error's texts and codes, in words.
pub(super) struct Kinds<'a> {
    said: &'a Said,
    lines: Vec<Line<'a>>,
}

impl<'a> Kinds<'a> {
    pub(super) fn new(said: &'a Said) -> Kinds<'a> {
        let line = |text: &'a String, is_code: bool| Line {
            text,
            words: words(text),
            is_code,
        };
        let codes = said.codes.iter().map(|text| line(text, true));
        let texts = said.texts.iter().map(|text| line(text, false));
        Kinds {
            said,
            lines: codes.chain(texts).collect(),
        }
    }

    fn any(&self, is: impl Fn(&Line) -> bool) -> bool {
        self.lines.iter().any(is)
    }

    /// Whether a code says one of these.
    pub(super) fn code_says(&self, phrases: &str) -> bool {
        self.any(|line| line.is_code && line.says(phrases))
    }

    /// Whether the model or the provider behind it is full.
    pub(super) fn overloaded(&self) -> bool {
        self.any(|line| {
            let words = &line.words;
            let full = line.says(OVERLOADED) || lacks_capacity(words) || none_serves(words);
            full && !line.says(PACE)
        })
    }

    /// The same where the request may be quoted.
    pub(super) fn overloaded_strictly(&self) -> bool {
        self.any(|line| {
            let code = line.is_code && line.says("overload*, capacity");
            // "Function id '…': DEGRADED function cannot be invoked"
            let function = line.begins("function", 1) && line.says("degraded function");
            let phrases = "degraded function, overload*, currently loading";
            let head = first(&line.words, phrases);
            code || function || head.is_some_and(|at| self.is_head(line, at))
        })
    }

    /// Whether the limit is over in a minute.
    pub(super) fn short(&self) -> bool {
        self.any(|line| line.says(SHORT) || line.says(PACE))
    }

    /// Whether it is a limit of hours or more.
    pub(super) fn quota(&self) -> bool {
        self.any(|line| {
            let met = |phrase| positions(&line.words, phrase).any(|at| !is_denied(&line.words, at));
            QUOTA.split(", ").any(met)
        })
    }

    /// Whether a code says that it is a day's limit, and none that it is a minute's.
    pub(super) fn is_days_by_code(&self) -> bool {
        self.code_says("per day") && !self.code_says(PACE)
    }

    /// A code that says that a limit was met.
    pub(super) fn limit_code(&self) -> bool {
        self.said.numbers.contains(&429) || self.code_says(LIMIT)
    }

    /// Whether an edge speaks of the server behind it. It knows nothing of models.
    pub(super) fn speaks_of_the_origin(&self) -> bool {
        self.any(|line| line.says("origin"))
    }

    /// Whether a server that met a limit is quoted: "Request failed with status code 429".
    pub(super) fn quotes_a_limit(&self) -> bool {
        let said = ["code 429", "status 429", "http 429"];
        self.any(|line| {
            let mut places = said.iter().flat_map(|of| positions(&line.words, of));
            places.any(|at| self.is_unquoted(line, at))
        })
    }

    /// Whether a code or a message begins with one of these.
    pub(super) fn begins_with(&self, phrases: &str) -> bool {
        self.any(|line| line.begins(phrases, HEAD))
    }

    /// Whether a code or the head of a message says that a limit was met.
    pub(super) fn limit_at_the_head(&self) -> bool {
        let phrases = "rate limit*, too many requests, quota exceeded";
        self.limit_strictly() || self.any(|line| line.begins(phrases, 2 * HEAD))
    }

    /// The same where the request may be quoted: "You have reached your … usage limits".
    pub(super) fn limit_strictly(&self) -> bool {
        self.limit_code()
            || self.any(|line| {
                let head = &line.words[..line.words.len().min(2 * HEAD)];
                let spent = head.iter().position(|word| word.is(SPENT));
                let met = spent.zip(first(head, SHARE));
                let of_size = head.iter().any(|word| word.is(SIZE));
                met.is_some_and(|(spent, share)| {
                    !of_size && self.is_unquoted(line, spent.max(share))
                })
            })
    }

    /// Whether the account has no money, may spend none, or is closed.
    pub(super) fn no_money(&self, strictly: bool) -> bool {
        self.any(|line| {
            let at = empty_purse(&line.words)
                .or_else(|| closed_account(&line.words))
                .or_else(|| first(&line.words, MONEY));
            at.is_some_and(|at| !strictly || line.is_code || self.is_head(line, at))
        })
    }

    /// Whether no wait cures it: see [`super::Verdict::TooMuch`]. Two numbers count more than words.
    pub(super) fn too_much(&self) -> bool {
        if self.any(|line| size::affords_nothing(&line.words)) {
            return false;
        }
        let numbers = |line: &Line| size::limit_and_request(&line.words);
        if let Some((limit, request)) = self.lines.iter().find_map(numbers) {
            return request > limit;
        }
        self.said.no_limit_at_all
            || self.any(|line| size::is_limit_of_nothing(&line.words))
            || !self.short() && self.any(|line| size::asks_for_less(&line.words))
    }

    /// Whether the key itself is called invalid.
    pub(super) fn names_key(&self, strictly: bool) -> bool {
        self.any(|line| match key::named(line, strictly) {
            Some((at, end)) if line.is_code => {
                let rest = &line.words[end..];
                at == 0 && (rest.is_empty() || rest.len() == 1 && rest[0].is("error"))
            }
            Some((at, _)) => !strictly || self.is_head(line, at),
            None => false,
        })
    }

    /// Whether the model is missing for this account only.
    pub(super) fn other_account(&self) -> bool {
        self.any(|line| {
            let places = ["for this", "for your", "under your"];
            let mut places = places.iter().flat_map(|of| positions(&line.words, of));
            let mine = places.any(|at| {
                let mut about = line.words[at..].iter().skip(2).take(3);
                about.any(|word| word.is(ACCOUNT)) && self.is_unquoted(line, at)
            });
            // "Function '…': Not found for account '…'"
            mine || line.begins("function", 1) && line.says("not found for account")
        })
    }

    /// Whether the error's own message begins there. For a script without blanks that is not known.
    fn is_head(&self, line: &Line, at: usize) -> bool {
        at < HEAD && line.words[at].text.is_ascii() && self.is_unquoted(line, at)
    }

    /// Whether the word is not quoted. A quote is in quotation marks, or in a body that could not be parsed. The mark in
    /// "You've" is none.
    fn is_unquoted(&self, line: &Line, at: usize) -> bool {
        let before = &line.text[..line.words[at].at];
        let letter = |at: usize| {
            line.text
                .as_bytes()
                .get(at)
                .is_some_and(u8::is_ascii_alphabetic)
        };
        let mut marks = before.match_indices(QUOTES);
        let quote = |(at, mark)| mark != "'" || at == 0 || !letter(at - 1) || !letter(at + 1);
        !self.said.is_raw && !marks.any(quote)
    }
}

fn is_denied(words: &[Word], at: usize) -> bool {
    let mut before = words[..at].iter().rev();
    let nearest = before.find(|word| !word.is(DETERMINER));
    !words[at].first && nearest.is_some_and(|word| word.is(DENIED))
}

/// "No healthy upstream", "no deployments available"; not "no credits available".
fn none_serves(words: &[Word]) -> bool {
    positions(words, "no").any(|at| {
        let after = words[at + 1..].iter().take(3);
        let other = |word: &&Word| word.first || word.is(PURSE) || word.is("quota*");
        after
            .take_while(|word| !other(word))
            .any(|word| word.is(SERVER))
    })
}

fn lacks_capacity(words: &[Word]) -> bool {
    let at = position(words, "capacity");
    let own = |at: usize| &words[at.saturating_sub(2)..at];
    at.is_some_and(|at| !own(at).iter().any(|word| word.is(OWN)))
}

fn empty_purse(words: &[Word]) -> Option<usize> {
    let mut purses = (0..words.len()).filter(|at| words[*at].is(PURSE));
    purses.find_map(|at| {
        let mut before = (at.saturating_sub(3)..at).rev();
        let after = &words[at..words.len().min(at + 5)];
        let nearest = before.find(|at| words[*at].is(EMPTY));
        nearest.or_else(|| after.iter().any(|word| word.is(EMPTY)).then_some(at))
    })
}

fn closed_account(words: &[Word]) -> Option<usize> {
    let at = words.iter().position(|word| word.is(ACCOUNT))?;
    let said = &words[at..words.len().min(at + 8)];
    let closed = said.iter().any(|word| word.is(CLOSED));
    let denied = positions(said, "not").any(|not| {
        let mut what = said[not + 1..].iter().take(3);
        what.any(|word| word.is(GRANTED))
    });
    (closed || denied).then_some(at)
}
