//! The kinds of refusals, by their words. A kind is a small grammar (what is said of which thing,
//! within a few words), so that the words of a provider nobody has heard of are understood too.
//! Two of them have rooms of their own: `key.rs`, `size.rs`.
//!
//! *Strict* is for answers that may quote the request: there a kind counts only where the error's
//! own message begins with it, or where a code is nothing but that.

use super::said::Said;
use super::words::{Word, first, position, says, words};
use super::{key, size};

/// How many words into a message its head reaches.
const HEAD: usize = 5;

/// A model or an engine that is full, whoever asks.
const OVERLOADED: &str = "\
    overload*, busy, rate limited upstream, upstream rate limit*, provider returned error, \
    worker local total request limit, no available *, no healthy *, no provider*, no instance*, \
    no worker*, currently loading, is loading, loading model, degraded function, high demand, \
    high load, heavy load, high traffic, too many users, receiving too many requests";
const OVERLOADED_CHINESE: [&str; 3] = ["繁忙", "过载", "饱和"];

/// Whose capacity is the key's own.
const OWN: &str = "bucket your burst quota throughput";

/// A limit that is over in a minute. These words count before those of a quota: Gemini speaks of a
/// quota, OpenAI and Groq link to a page about billing, whatever the limit was.
const SHORT: &str = "\
    per minute, per min, per second, per sec, minute, min, rpm, tpm, rps, qps, tps, concurren*, \
    parallel";

/// A limit of hours, a day, a month.
const QUOTA: &str = "\
    quota*, per day, per week, per month, daily, weekly, monthly, rpd, tpd, usage limit*, \
    session limit*, session usage, plan limit*, allowance, billing cycle, set limit*, \
    inference limit*, has been paused";

/// A limit, as a code says it.
const LIMIT: &str = "\
    rate limit*, ratelimit*, throttl*, too many requests, resource exhausted, request* limit*, \
    limit exceeded, limit reached, quota exceeded, insufficient quota, usage limit*";

/// What a quota is a part of, and what becomes of it.
const SHARE: &str = "quota*, free tier, allocation, allowance, usage limit*, rate limit*";
const SPENT: &str = "reached exceeded hit exhausted used spent";

/// What a request has too much of, which is no quota.
const SIZE: &str = "\
    context length size prompt input output max maximum token* image* file* tool* message* \
    parameter* field* fields";

/// Words of money that need no other.
const MONEY: &str = "\
    recharge, top up, topup, arrears, arrearage, overdue, payment required, no payment method, \
    add a payment method, valid payment method, key limit, spend* limit*, spend* cap, \
    budget exceeded, budget has been exceeded, exceeded budget, billing hard limit, billing limit, \
    billing not active, credits error, more credits, extra usage";
const MONEY_CHINESE: [&str; 4] = ["欠费", "余额不足", "额度不足", "充值"];

/// Money, and what is said of it within three words.
const PURSE: &str = "balance credit credits fund funds";
const EMPTY: &str = "\
    insufficient no not low negative exhausted depleted out zero used required unpaid";

/// Whose account it is, and that it is closed.
const ACCOUNT: &str = "\
    account organization organisation project team plan tier subscription workspace";
const CLOSED: &str = "suspended restricted deactivated disabled banned blocked terminated inactive";

/// One text or code.
pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    pub(super) words: Vec<Word<'a>>,
    pub(super) is_code: bool,
}

/// What was said, in words.
pub(super) struct Kinds<'a> {
    said: &'a Said,
    lines: Vec<Line<'a>>,
}

impl<'a> Kinds<'a> {
    pub(super) fn new(said: &'a Said) -> Kinds<'a> {
        let line = |is_code: bool| {
            move |text: &'a String| Line {
                text,
                words: words(text),
                is_code,
            }
        };
        let codes = said.codes.iter().map(line(true));
        Kinds {
            said,
            lines: codes.chain(said.texts.iter().map(line(false))).collect(),
        }
    }

    fn any(&self, is: impl Fn(&Line) -> bool) -> bool {
        self.lines.iter().any(is)
    }

    fn say(&self, phrases: &str) -> bool {
        self.any(|line| says(&line.words, phrases))
    }

    /// One of the codes says one of these.
    pub(super) fn code_says(&self, phrases: &str) -> bool {
        self.any(|line| line.is_code && says(&line.words, phrases))
    }

    /// The model or the provider behind it is full.
    pub(super) fn overloaded(&self) -> bool {
        self.say(OVERLOADED)
            || self.any(|line| lacks_capacity(&line.words) || holds(line.text, &OVERLOADED_CHINESE))
    }

    /// The same where the request may be quoted.
    pub(super) fn overloaded_strictly(&self) -> bool {
        self.any(|line| {
            let code = line.is_code && says(&line.words, "overload*, capacity");
            // "Function id '…': DEGRADED function cannot be invoked"
            let function = line.words.first().is_some_and(|word| word.is("function"))
                && says(&line.words, "degraded function");
            let head = first(
                &line.words,
                "degraded function, overload*, currently loading",
            );
            code || function || head.is_some_and(|at| self.is_head(line, at))
        })
    }

    /// The limit is over in a minute.
    pub(super) fn short(&self) -> bool {
        self.say(SHORT)
    }

    /// A limit of hours or more.
    pub(super) fn quota(&self) -> bool {
        self.say(QUOTA)
    }

    /// A code, not a sentence, says that it is a day's, and no code that it is a minute's.
    pub(super) fn is_days_by_code(&self) -> bool {
        self.code_says("per day") && !self.code_says(SHORT)
    }

    /// A code that says that a limit was met.
    pub(super) fn limit_code(&self) -> bool {
        self.said.numbers.contains(&429) || self.code_says(LIMIT)
    }

    /// The same, or a message that begins with that.
    pub(super) fn limit_at_the_head(&self) -> bool {
        self.limit_code()
            || self.any(|line| {
                let at = first(
                    &line.words,
                    "rate limit*, too many requests, quota exceeded",
                );
                at.is_some_and(|at| at < 2 * HEAD)
            })
    }

    /// The same where the request may be quoted: "You have reached your … usage limits".
    pub(super) fn limit_strictly(&self) -> bool {
        self.limit_code()
            || self.any(|line| {
                let head = &line.words[..line.words.len().min(2 * HEAD)];
                let spent = head.iter().position(|word| word.is(SPENT));
                let share = first(head, SHARE);
                let of_size = head.iter().any(|word| word.is(SIZE));
                match (spent, share) {
                    (Some(spent), Some(share)) if !of_size => {
                        self.is_unquoted(line, spent.max(share))
                    }
                    _ => false,
                }
            })
    }

    /// The account has no money, may spend none, or is closed.
    pub(super) fn no_money(&self, strictly: bool) -> bool {
        self.any(|line| {
            let at = empty_purse(&line.words)
                .or_else(|| closed_account(&line.words))
                .or_else(|| first(&line.words, MONEY));
            match at {
                Some(at) => !strictly || line.is_code || self.is_head(line, at),
                None => !strictly && holds(line.text, &MONEY_CHINESE),
            }
        })
    }

    /// No waiting cures it: see [`super::Verdict::TooMuch`]. Where two numbers tell, words do not.
    pub(super) fn too_much(&self) -> bool {
        let numbers = |line: &Line| size::limit_and_request(&line.words);
        if let Some((limit, request)) = self.lines.iter().find_map(numbers) {
            return request > limit;
        }
        self.said.no_limit_at_all
            || self.any(|line| size::is_limit_of_nothing(&line.words))
            || !self.short() && self.any(|line| size::asks_for_less(&line.words))
    }

    /// The key itself is called invalid.
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

    /// It is not there for this account, and may be for another.
    pub(super) fn other_account(&self) -> bool {
        self.any(|line| {
            let mine = first(&line.words, "for this, for your").is_some_and(|at| {
                let mut about = line.words[at..].iter().skip(2).take(3);
                about.any(|word| word.is(ACCOUNT))
            });
            mine || says(&line.words, "not found for account")
        })
    }

    /// Whether the error's own message begins there.
    fn is_head(&self, line: &Line, at: usize) -> bool {
        at < HEAD && self.is_unquoted(line, at)
    }

    /// What is quoted stands in quotes, or in a body of which no more is known than its bytes.
    fn is_unquoted(&self, line: &Line, at: usize) -> bool {
        let before = &line.text[..line.words[at].at];
        !self.said.is_raw && !before.contains(['"', '\'', '`', '“', '‘', '«'])
    }
}

fn holds(text: &str, any_of: &[&str]) -> bool {
    any_of.iter().any(|part| text.contains(part))
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
    let closed = said.iter().any(|word| word.is(CLOSED)) || says(said, "not active");
    closed.then_some(at)
}
