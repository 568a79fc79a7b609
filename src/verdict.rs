//! What an upstream's answer means: whose limit or fault it is, and for how long. Pure: no clock,
//! no I/O. It decides nothing: [`crate::retry`] decides about
//! the request, [`crate::pool`] about the key.
//!
//! Words only suggest the kind of a refusal. `error_text.rs` finds an
//! error's texts, codes and times at any depth, `words.rs` takes them apart, `kinds.rs` knows the
//! kinds, `sentence.rs` and `time.rs` read times, and `inside.rs` judges errors inside a success.

mod content;
mod error_text;
mod inside;
mod key;
mod kinds;
mod sentence;
mod size;
#[cfg(test)]
mod tests;
mod time;
mod words;

use std::time::Duration;

pub use self::content::has_content;
use self::error_text::Said;
pub use self::inside::{judge_document, judge_event, judge_inside};
use self::kinds::Kinds;
use self::time::{Date, any_form, decimal};
use crate::ascii::begins;

/// What one answer says: whose limit or fault it is.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// The answer is for the client, whatever its status: the key was accepted, or the request is to blame.
    Pass,
    /// A limit that no wait cures: one request is larger than it, it is zero, or fewer `max_tokens`
    /// are wanted. The answer passes at once, and no key rests.
    TooMuch,
    /// The key's limit for this model: it rests for as long as the upstream said, if it said.
    Limited(Option<Duration>),
    /// The key's quota of hours, a day or a month is spent, and no time is stated.
    Quota,
    /// The key was refused for this request. Whether the key or the request is to blame, another key will show.
    Refused {
        /// The answer calls the key itself invalid.
        names_key: bool,
    },
    /// The model is overloaded; no key is to blame. With the wait that is stated, if any.
    Overloaded(Option<Duration>),
    /// The provider is in trouble and did no work on the request; no key is to blame. With the stated wait.
    Trouble(Option<Duration>),
    /// The provider failed on a request that it may have worked on; no key is to blame. With the stated wait.
    MaybeWorked(Option<Duration>),
    /// A web page says that there is no such path.
    Nowhere,
}

/// The longest rest an answer can impose. Longer ones are mistakes, or epochs in a wrong unit.
pub const MAX_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest rest: `Retry-After: 0` after a 429 is not believed.
pub const MIN_REST: Duration = Duration::from_secs(1);

/// How much of an error's body is read, in bytes.
pub const BODY_LIMIT: usize = 16 * 1024;

/// A shorter stated time is not believed for a day's quota. Gemini states half a minute with each
/// of its limits, even where its code says `…PerDay…`.
const SHORT_OF_A_DAY: Duration = Duration::from_secs(120);

/// The header fields about classes of limits, with a star for limit, remaining or reset: Together; OpenAI and Groq;
/// Cerebras and SambaNova; Mistral; Azure; Anthropic; the standard's draft.
const CLASSES: &str = "\
    x-ratelimit-* x-ratelimit-*-requests x-ratelimit-*-tokens x-ratelimit-*-requests-minute \
    x-ratelimit-*-tokens-minute x-ratelimit-*-requests-hour x-ratelimit-*-tokens-hour \
    x-ratelimit-*-requests-day x-ratelimit-*-tokens-day x-ratelimit-*-req-minute \
    x-ratelimit-*-tokens-month x-rate-limit-* x-rate-limit-*-requests x-rate-limit-*-tokens \
    anthropic-ratelimit-requests-* anthropic-ratelimit-tokens-* \
    anthropic-ratelimit-input-tokens-* anthropic-ratelimit-output-tokens-* ratelimit-*";

/// Judges an answer by its status, its header fields (`header` finds one by its lower-case name)
/// and the start of its body, which may be empty or cut anywhere.
pub fn judge<'a>(status: u16, header: impl Fn(&str) -> Option<&'a [u8]>, body: &[u8]) -> Verdict {
    if status < 400 {
        return Verdict::Pass;
    }
    let header = |name: &str| std::str::from_utf8(header(name)?).ok().map(str::trim);
    let body = &body[..body.len().min(BODY_LIMIT)];
    let fields = Fields(&header);
    if fields.is_page(body) {
        return page(status, fields.stated(|| None));
    }
    let mut said = Said::read(body, fields.date());
    said.no_limit_at_all |= fields.no_limit_at_all();
    let stated = || fields.stated(|| said.stated());
    by_status(status, &said, fields.day_is_spent(), stated)
}

/// A web page is not the API's answer: an edge, a captive portal or a firewall sent it. A page that
/// may mean a wrong path is retried once only.
fn page(status: u16, stated: Option<Duration>) -> Verdict {
    match status {
        413 | 414 | 431 => Verdict::Pass,
        404 | 405 | 410 => Verdict::Nowhere,
        // The edge gave up on a server that may still be at work.
        504 | 524 => Verdict::MaybeWorked(stated),
        _ => Verdict::Trouble(stated),
    }
}

/// The rules, in order. For a status with which an answer may quote the request (400, 404, 422 …) they are strict.
fn by_status(
    status: u16,
    said: &Said,
    day_is_spent: bool,
    stated: impl Fn() -> Option<Duration>,
) -> Verdict {
    let kinds = Kinds::new(said);
    let strictly = !matches!(status, 401 | 403);
    let names_key = kinds.names_key(strictly);
    match status {
        413 => Verdict::Pass,
        402 | 403 if kinds.too_much() => Verdict::TooMuch,
        403 if !names_key && !kinds.no_money(false) && kinds.limit_at_the_head() => {
            limit(&kinds, day_is_spent, stated())
        }
        // A 402 too. Then `retry.rs` tries other keys, `pool/report.rs` blames, `pool/seat.rs` ejects.
        401..=403 => Verdict::Refused { names_key },
        _ if names_key => Verdict::Refused { names_key },
        429 => limit(&kinds, day_is_spent, stated()),
        400 if kinds.overloaded_strictly() => Verdict::Overloaded(stated()),
        400.. if kinds.no_money(true) => Verdict::Refused { names_key },
        400 if kinds.limit_strictly() => limit(&kinds, day_is_spent, stated()),
        500.. if (kinds.limit_code() || kinds.quotes_a_limit()) && !kinds.overloaded() => {
            limit(&kinds, day_is_spent, stated())
        }
        400 | 404 if kinds.other_account() => Verdict::Refused { names_key },
        // An edge sends it without words, a server that has begun with words.
        408 if said.texts.is_empty() => Verdict::Trouble(stated()),
        408 => Verdict::MaybeWorked(stated()),
        425 | 498 | 500 | 502..=504 | 507 | 511 | 520..=527 | 529 | 530
            if kinds.overloaded() && !kinds.speaks_of_the_origin() =>
        {
            Verdict::Overloaded(stated())
        }
        // The provider may have begun. 524 is Cloudflare's 504. Not 508: alvus itself sends it for a request that goes
        // in circles.
        500 | 502 | 504 | 507 | 524 => Verdict::MaybeWorked(stated()),
        // The provider did no work: Cloudflare's 52x and 530, Anthropic's 529, an edge's expired login (498), a captive
        // portal (511).
        425 | 498 | 503 | 511 | 520..=527 | 529 | 530 => Verdict::Trouble(stated()),
        _ => Verdict::Pass,
    }
}

/// Judges a 429 and its like. A stated time counts before words.
fn limit(kinds: &Kinds, day_is_spent: bool, stated: Option<Duration>) -> Verdict {
    if kinds.too_much() {
        Verdict::TooMuch
    } else if kinds.overloaded() {
        Verdict::Overloaded(stated)
    } else if kinds.is_days_by_code() && stated.is_some_and(|time| time < SHORT_OF_A_DAY) {
        Verdict::Quota
    } else if stated.is_some() || kinds.short() {
        Verdict::Limited(stated)
    } else if kinds.no_money(false) {
        Verdict::Refused { names_key: false }
    } else if kinds.quota() || day_is_spent {
        Verdict::Quota
    } else {
        Verdict::Limited(None)
    }
}

fn bounded(rest: Option<Duration>) -> Option<Duration> {
    rest.map(|rest| rest.clamp(MIN_REST, MAX_REST))
}

/// The header fields of an answer, by lower-case name.
struct Fields<'a>(&'a dyn Fn(&str) -> Option<&'a str>);

impl Fields<'_> {
    /// The time of this refusal: `retry-after` and its variant; else by words; else the limits' resets.
    fn stated(&self, by_words: impl Fn() -> Option<Duration>) -> Option<Duration> {
        let by_field = || any_form((self.0)("retry-after")?, self.date());
        let by_ms = (self.0)("retry-after-ms").and_then(decimal);
        let stated = by_ms.map(|ms| ms / 1000).or_else(by_field);
        bounded(stated.or_else(by_words).or_else(|| self.longest_reset()))
    }

    /// The latest reset among the spent limits; without one, among those that do not say what remains.
    fn longest_reset(&self) -> Option<Duration> {
        let reset = |class| any_form(self.class(class, "reset")?, self.date());
        let latest = |of: &dyn Fn(&str) -> bool| {
            let classes = CLASSES.split(' ').filter(|class| of(class));
            classes.filter_map(reset).max()
        };
        latest(&|class| self.is_zero(class, "remaining"))
            .or_else(|| latest(&|class| self.class(class, "remaining").is_none()))
    }

    /// Whether a class that is a day's by its name is spent.
    fn day_is_spent(&self) -> bool {
        let mut days = CLASSES.split(' ').filter(|class| class.ends_with("-day"));
        days.any(|class| self.is_zero(class, "remaining"))
    }

    /// Whether a limit is zero: the model is not on this plan (Mistral), and a wait will not help.
    fn no_limit_at_all(&self) -> bool {
        CLASSES.split(' ').any(|class| self.is_zero(class, "limit"))
    }

    fn is_zero(&self, class: &str, what: &str) -> bool {
        self.class(class, what).and_then(decimal) == Some(Duration::ZERO)
    }

    fn class(&self, class: &str, what: &str) -> Option<&str> {
        (self.0)(&class.replace('*', what))
    }

    /// Whether it is a web page, by its type or its beginning, or a challenge in one.
    fn is_page(&self, body: &[u8]) -> bool {
        let body = body.trim_ascii_start();
        let kind = (self.0)("content-type").unwrap_or_default();
        let json = body.starts_with(b"{") || body.starts_with(b"[");
        (self.0)("cf-mitigated").is_some()
            || !json && begins(kind.as_bytes(), "text/html")
            || !kind.contains("json") && (begins(body, "<!doctype") || begins(body, "<html"))
    }

    /// The answer's own `Date`. Times are counted from it and never from our clock: a board
    /// without a real-time clock believes it is 1970.
    fn date(&self) -> Option<Date> {
        Date::parse((self.0)("date")?)
    }
}
