//! The scenarios: how providers and agents behave.

use std::time::Duration;

use crate::dialect::Dialect;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(60 * 60);

/// What is asked for: models, and an endpoint that has no model and so a lane of its own.
pub const LANES: [&str; 4] = ["large", "small", "paid", "/files"];
pub const LARGE: usize = 0;
pub const PAID: usize = 2;
pub const FILES: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing can be sent.
    Wifi,
    /// The provider answers 502, 503.
    Outage,
    /// Its login is ill: every key is refused, in words that name the key.
    Login,
    /// This key is refused, and no other.
    Dead(usize),
    /// The large model has no capacity, and the 429 says nothing.
    FullBare,
    /// The same in words.
    FullInWords,
    /// `Retry-After: 1` while the limit lasts the minute.
    Lies,
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub dialect: Dialect,
    pub keys: usize,
    pub agents: usize,
    /// Requests a minute of a key for a model, in fixed windows.
    pub rpm: u32,
    /// Requests at a time for a model.
    pub at_a_time: Option<u32>,
    /// Tokens a minute of a key for a model, in a bucket.
    pub tpm: Option<u32>,
    /// Requests a day of a key.
    pub rpd: Option<u32>,
    /// Every so many prompts one is refused whatever the key.
    pub moderated: Option<u64>,
    /// This key may not use the endpoint.
    pub restricted: Option<usize>,
    /// Agents that ask for the paid model now and then, which no key may use.
    pub asks_for_paid: bool,
    /// Agents that use the endpoint now and then.
    pub uses_files: bool,
    /// A backend of theirs is full for ten seconds of every ten minutes.
    pub full_backends: bool,
    /// It is counted, second by second, what is out of use.
    pub watched: bool,
    pub faults: Vec<(Duration, Duration, Fault)>,
    pub traffic: Traffic,
    pub lasts: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Mean time between an answer and the next request.
    pub think: Duration,
    /// Mean time between two pieces of work.
    pub rest: Duration,
    /// Requests in a piece of work, at most.
    pub turns: u64,
    /// How long an answer streams.
    pub streams_ms: (u64, u64),
    /// One model only.
    pub one_model: bool,
}

fn work(think_ms: u64, rest: Duration, turns: u64) -> Traffic {
    Traffic {
        think: Duration::from_millis(think_ms),
        rest,
        turns,
        streams_ms: (300, 4000),
        one_model: false,
    }
}

/// From an hour of the day on, for so many minutes; the day begins at six.
fn at(hours: f64, minutes: u32, fault: Fault) -> (Duration, Duration, Fault) {
    let from = HOUR.mul_f64(hours);
    (from, from + minutes * MINUTE, fault)
}

pub fn nim() -> Scenario {
    Scenario {
        name: "NIM-like: 40 a minute, 429 says nothing, 8 at a time",
        dialect: Dialect::Nim,
        keys: 3,
        agents: 24,
        rpm: 40,
        at_a_time: Some(8),
        tpm: None,
        rpd: None,
        moderated: None,
        restricted: None,
        asks_for_paid: false,
        uses_files: false,
        full_backends: false,
        watched: false,
        faults: Vec::new(),
        traffic: work(300, 15 * MINUTE, 120),
        lasts: 24 * HOUR,
    }
}

pub fn scenarios() -> Vec<Scenario> {
    let nim = nim();
    let calm = Scenario {
        agents: 4,
        traffic: work(8000, 10 * MINUTE, 40),
        ..nim.clone()
    };
    vec![
        nim.clone(),
        Scenario {
            name: "Groq-like: 30 a minute, 12 000 tokens, 2000 a day, one key revoked",
            dialect: Dialect::Groq,
            keys: 4,
            agents: 6,
            rpm: 30,
            at_a_time: None,
            tpm: Some(12_000),
            rpd: Some(2000),
            faults: vec![at(9.0, 24 * 60, Fault::Dead(3))],
            traffic: work(1500, 30 * MINUTE, 60),
            ..nim.clone()
        },
        Scenario {
            name: "OpenRouter-like: 20 a minute, 1000 a day, moderation, full backends",
            dialect: Dialect::OpenRouter,
            agents: 4,
            rpm: 20,
            at_a_time: None,
            rpd: Some(1000),
            moderated: Some(40),
            full_backends: true,
            traffic: work(1500, 20 * MINUTE, 60),
            ..nim.clone()
        },
        Scenario {
            name: "Gemini-like: 15 a minute, 500 a day",
            dialect: Dialect::Gemini,
            agents: 4,
            rpm: 15,
            at_a_time: None,
            rpd: Some(500),
            traffic: work(1500, 20 * MINUTE, 60),
            ..nim.clone()
        },
        Scenario {
            name: "Wi-Fi away: 30 s, 3 min, 10 min",
            faults: vec![
                (HOUR, HOUR + MINUTE / 2, Fault::Wifi),
                at(4.0, 3, Fault::Wifi),
                at(9.0, 10, Fault::Wifi),
            ],
            ..calm.clone()
        },
        Scenario {
            name: "provider away (502, 503): 1, 4, 10 min",
            faults: vec![
                at(1.0, 1, Fault::Outage),
                at(4.0, 4, Fault::Outage),
                at(9.0, 10, Fault::Outage),
            ],
            ..calm
        },
        storm(),
    ]
}

/// As many clients as can be on few keys, and a strict limit.
pub fn storm() -> Scenario {
    Scenario {
        name: "storm: 16 clients, 3 keys, 10 a minute",
        agents: 16,
        rpm: 10,
        at_a_time: None,
        traffic: Traffic {
            streams_ms: (50, 200),
            one_model: true,
            ..work(1, Duration::from_millis(1), 1000)
        },
        lasts: 2 * HOUR,
        ..nim()
    }
}

/// The hostile day, and each of its troubles alone.
pub fn hostile() -> Vec<Scenario> {
    let well = Scenario {
        name: "nothing is wrong",
        watched: true,
        dialect: Dialect::Groq,
        keys: 5,
        agents: 8,
        rpm: 10,
        at_a_time: None,
        traffic: work(1500, 10 * MINUTE, 60),
        ..nim()
    };
    let login = vec![at(7.0, 10, Fault::Login)];
    let dead = vec![at(1.5, 4 * 60, Fault::Dead(4))];
    let bare = [2.2, 6.1, 11.4, 15.8].map(|hour| at(hour, 4, Fault::FullBare));
    let words = [3.3, 13.7].map(|hour| at(hour, 5, Fault::FullInWords));
    let full: Vec<_> = bare.into_iter().chain(words).collect();
    let lies = vec![at(8.0, 5 * 60, Fault::Lies)];
    let part = |name, faults: &Vec<_>| Scenario {
        name,
        faults: faults.clone(),
        ..well.clone()
    };
    vec![
        Scenario {
            name: "the hostile day",
            moderated: Some(200),
            restricted: Some(3),
            asks_for_paid: true,
            uses_files: true,
            faults: [&login, &dead, &full, &lies].map(|f| f.clone()).concat(),
            ..well.clone()
        },
        well.clone(),
        part("every key refused (401) for ten minutes", &login),
        part("a key that is dead (401) for four hours", &dead),
        part(
            "a model without capacity: six times, four or five minutes",
            &full,
        ),
        part(
            "an afternoon of `Retry-After: 1` while the limit lasts the minute",
            &lies,
        ),
        Scenario {
            name: "a key refused (401) at one endpoint only",
            restricted: Some(3),
            uses_files: true,
            ..well.clone()
        },
        Scenario {
            name: "a model that no key may use (402, 401), asked for now and then",
            asks_for_paid: true,
            ..well.clone()
        },
        Scenario {
            name: "prompts refused (403) whatever the key",
            moderated: Some(200),
            ..well
        },
    ]
}
