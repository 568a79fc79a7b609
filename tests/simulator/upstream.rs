//! A provider with its limits and its troubles. It knows whose fault each of its answers is, and
//! which key it would serve.

use std::collections::HashMap;
use std::time::Duration;

use crate::dialect::{self, Dialect, Refusal};
use crate::dice::Dice;
use crate::scenario::{FILES, Fault, HOUR, LANES, LARGE, PAID, Scenario};

/// The simulated day begins at six in the morning of Monday, 6 April 2026, UTC.
const SIX: Duration = Duration::from_secs(6 * 60 * 60);
const MONDAY: u64 = 1_775_433_600;

/// Whose fault an answer is, in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Nobody,
    /// The key's limit of a minute, for this model.
    Key,
    /// The key's limit of a day.
    Quota,
    /// The key is dead, or is not for this endpoint.
    Refused,
    Request,
    /// Model, provider or network.
    Upstream,
}

/// What one request is to the provider.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub lane: usize,
    pub prompt: u64,
    pub tokens: u32,
    /// How long it takes for the first word, and for the others.
    pub thinks: Duration,
    pub streams: Duration,
}

#[derive(Debug)]
pub struct Answer {
    pub after: Duration,
    pub lasts: Duration,
    /// 0: nothing was sent
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: String,
    pub blame: Blame,
}

/// What may be held against a key.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// By lane.
    pub limited: [bool; LANES.len()],
    pub spent: bool,
    /// It was dead, and was not served since.
    pub dead: bool,
    /// It was refused for a reason of its own.
    pub was_refused: bool,
}

pub struct Upstream {
    pub scenario: Scenario,
    dice: Dice,
    /// By key and model: the window's number, and what came in it.
    minutes: HashMap<(usize, usize), (u64, u32)>,
    /// By key and model: tokens left, and when that was.
    buckets: HashMap<(usize, usize), (f64, Duration)>,
    /// By key: the day's number, and what came in it.
    days: Vec<(u64, u32)>,
    /// By key: of a day's requests, and until when that was reckoned.
    given_back: Vec<(u32, Duration)>,
    pub in_flight: [u32; LANES.len()],
    /// By key.
    pub records: Vec<Record>,
    /// Attempts refused because of a key's limits, of the model's, and for other reasons.
    pub limited: u64,
    pub overloaded: u64,
    pub denied: u64,
}

impl Upstream {
    pub fn new(scenario: &Scenario) -> Upstream {
        let keys = scenario.keys;
        Upstream {
            scenario: scenario.clone(),
            dice: Dice(0x9E37_79B9_7F4A_7C15),
            minutes: HashMap::new(),
            buckets: HashMap::new(),
            days: vec![(0, 0); keys],
            given_back: vec![(0, Duration::ZERO); keys],
            in_flight: [0; LANES.len()],
            records: vec![Record::default(); keys],
            limited: 0,
            overloaded: 0,
            denied: 0,
        }
    }

    fn has(&self, fault: Fault, now: Duration) -> bool {
        let mut faults = self.scenario.faults.iter();
        faults.any(|(from, to, f)| *f == fault && (*from..*to).contains(&now))
    }

    /// Whether the key is none, for this.
    fn refuses(&self, key: usize, lane: usize, now: Duration) -> bool {
        self.has(Fault::Dead(key), now) || lane == FILES && self.scenario.restricted == Some(key)
    }

    /// Whether it would serve this key but for a limit that is over within a minute.
    pub fn would_serve(&self, key: usize, lane: usize, now: Duration) -> bool {
        use Fault::{FullBare, FullInWords, Login, Outage, Wifi};
        let away = [Wifi, Outage, Login].map(|fault| self.has(fault, now));
        let full = [FullBare, FullInWords].map(|fault| self.has(fault, now));
        let full = lane == LARGE && full.contains(&true);
        let spent = self
            .scenario
            .rpd
            .is_some_and(|most| self.days[key].1 >= most);
        !away.contains(&true) && !full && !spent && lane != PAID && !self.refuses(key, lane, now)
    }

    fn answer(&self, status: u16, blame: Blame, body: &str) -> Answer {
        Answer {
            after: Duration::from_millis(60),
            lasts: Duration::ZERO,
            status,
            fields: Vec::new(),
            body: body.into(),
            blame,
        }
    }

    fn refuse(&self, refusal: Refusal, blame: Blame) -> Answer {
        Answer {
            fields: refusal.fields,
            ..self.answer(refusal.status, blame, &refusal.body)
        }
    }

    /// One request. `now` is the time since six o'clock.
    pub fn ask(&mut self, key: usize, ask: &Ask, now: Duration) -> Answer {
        let mut answer = self.judge(key, ask, now);
        answer.fields.push(("date", date(now)));
        let record = &mut self.records[key];
        match answer.blame {
            Blame::Key => {
                record.limited[ask.lane] = true;
                self.limited += 1;
            }
            Blame::Quota => {
                record.spent = true;
                self.limited += 1;
            }
            Blame::Refused => {
                record.dead |= ask.lane != FILES;
                record.was_refused = true;
                self.denied += 1;
            }
            Blame::Request => self.denied += 1,
            Blame::Upstream if matches!(answer.status, 401 | 402) => self.denied += 1,
            Blame::Upstream => {}
            Blame::Nobody => {
                record.dead = false;
                self.in_flight[ask.lane] += 1;
            }
        }
        answer
    }

    fn judge(&mut self, key: usize, ask: &Ask, now: Duration) -> Answer {
        if let Some(answer) = self.trouble(key, ask, now) {
            return answer;
        }
        let refusal = self.day(key, now);
        let refusal = refusal.or_else(|| self.minute(key, ask.lane, now));
        if let Some(answer) = refusal.or_else(|| self.tokens(key, ask, now)) {
            return answer;
        }
        let most = self.scenario.at_a_time.unwrap_or(u32::MAX);
        if self.in_flight[ask.lane] >= most {
            self.overloaded += 1;
            let shape = self.dice.below(3);
            return self.refuse(dialect::overloaded(most, shape), Blame::Upstream);
        }
        // It counts from here on.
        let window = self.window(key, now);
        let minute = self.minutes.entry((key, ask.lane)).or_default();
        *minute = if minute.0 == window {
            (window, minute.1 + 1)
        } else {
            (window, 1)
        };
        self.days[key].1 += 1;
        if let Some((left, _)) = self.buckets.get_mut(&(key, ask.lane)) {
            *left -= f64::from(ask.tokens);
        }
        let body = r#"{"choices":[{"delta":{"content":"Hello"}}]}"#;
        let mut answer = self.answer(200, Blame::Nobody, body);
        answer.after = ask.thinks;
        answer.lasts = ask.streams;
        answer
    }

    /// What is wrong whatever the limits.
    fn trouble(&mut self, key: usize, ask: &Ask, now: Duration) -> Option<Answer> {
        if self.has(Fault::Wifi, now) {
            return Some(self.answer(0, Blame::Upstream, ""));
        }
        if self.has(Fault::Outage, now) {
            let n = self.dice.below(2);
            return Some(self.refuse(dialect::outage(n), Blame::Upstream));
        }
        if self.has(Fault::Login, now) {
            return Some(self.refuse(dialect::revoked(), Blame::Upstream));
        }
        if self.has(Fault::Dead(key), now) {
            return Some(self.refuse(dialect::revoked(), Blame::Refused));
        }
        if self.refuses(key, ask.lane, now) {
            return Some(self.refuse(dialect::restricted(), Blame::Refused));
        }
        if ask.lane == PAID {
            return Some(self.refuse(dialect::unpaid(ask.prompt), Blame::Request));
        }
        let moderated = self.scenario.moderated;
        if moderated.is_some_and(|every| ask.prompt.is_multiple_of(every)) {
            return Some(self.refuse(dialect::moderated(), Blame::Request));
        }
        let full = match () {
            () if self.scenario.full_backends && now.as_secs() % 600 < 10 => {
                dialect::backend_full(5)
            }
            () if ask.lane != LARGE => return None,
            () if self.has(Fault::FullBare, now) => dialect::bare(),
            () if self.has(Fault::FullInWords, now) => dialect::full_in_words(),
            () => return None,
        };
        self.overloaded += 1;
        Some(self.refuse(full, Blame::Upstream))
    }

    /// Each key's minutes begin at another second.
    fn window(&self, key: usize, now: Duration) -> u64 {
        (now + SIX + Duration::from_secs(17) * key as u32).as_secs() / 60
    }

    fn day(&mut self, key: usize, now: Duration) -> Option<Answer> {
        let most = self.scenario.rpd?;
        let dialect = self.scenario.dialect;
        // OpenRouter's days end at midnight UTC, Gemini's at midnight in California.
        let shift = if dialect == Dialect::Gemini {
            7 * HOUR
        } else {
            Duration::ZERO
        };
        let clock = (now + SIX + 24 * HOUR - shift).as_secs();
        let (today, left) = (clock / 86_400, 86_400 - clock % 86_400);
        if self.days[key].0 != today && dialect != Dialect::Groq {
            self.days[key] = (today, 0);
        }
        if dialect == Dialect::Groq {
            // Groq gives a day's requests back one by one.
            let (given_back, at) = &mut self.given_back[key];
            let step = Duration::from_secs(86_400 / u64::from(most));
            while now - *at >= step {
                *at += step;
                *given_back += 1;
            }
            self.days[key].1 -= std::mem::take(given_back).min(self.days[key].1);
        }
        if self.days[key].1 < most {
            return None;
        }
        let left = match dialect {
            Dialect::OpenRouter | Dialect::Gemini => left,
            _ => left.min(86_400 / u64::from(most)),
        };
        let refusal = dialect.day(most, Duration::from_secs(left), epoch(now));
        Some(self.refuse(refusal, Blame::Quota))
    }

    fn minute(&mut self, key: usize, lane: usize, now: Duration) -> Option<Answer> {
        let window = self.window(key, now);
        let used = self
            .minutes
            .get(&(key, lane))
            .filter(|(number, _)| *number == window);
        if used.is_none_or(|(_, n)| *n < self.scenario.rpm) {
            return None;
        }
        let left = 60 - (now + SIX + Duration::from_secs(17) * key as u32).as_secs() % 60;
        let dialect = self.scenario.dialect;
        let left = match self.has(Fault::Lies, now) {
            true => 1,
            false => left,
        };
        let refusal = dialect.minute(Duration::from_secs(left), epoch(now));
        Some(self.refuse(refusal, Blame::Key))
    }

    fn tokens(&mut self, key: usize, ask: &Ask, now: Duration) -> Option<Answer> {
        let most = f64::from(self.scenario.tpm?);
        let (left, at) = self.buckets.entry((key, ask.lane)).or_insert((most, now));
        *left = (*left + (now - *at).as_secs_f64() * most / 60.0).min(most);
        *at = now;
        let missing = f64::from(ask.tokens) - *left;
        if missing <= 0.0 {
            return None;
        }
        let wait = missing * 60.0 / most;
        let refusal = dialect::tokens(most, ask.tokens, wait);
        Some(self.refuse(refusal, Blame::Key))
    }
}

/// The same as `Date`, in seconds since 1970.
fn epoch(now: Duration) -> u64 {
    MONDAY + (now + SIX).as_secs()
}

/// The `Date` of an answer.
fn date(now: Duration) -> String {
    let clock = (now + SIX).as_secs();
    let (day, clock) = (clock / 86_400, clock % 86_400);
    let name = ["Mon", "Tue", "Wed"][day as usize];
    let (h, m, s) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{name}, {:02} Apr 2026 {h:02}:{m:02}:{s:02} GMT", 6 + day)
}
