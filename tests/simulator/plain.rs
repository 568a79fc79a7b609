//! Other ways to deal with refusals, to compare with.

use std::collections::HashMap;
use std::time::Duration;

use crate::scenario::{HOUR, LANES, Scenario};
use crate::sim::{COOLDOWN, Event, MAX_RETRIES, MAX_WAIT, Policy, Sim};
use crate::upstream::{Answer, Blame};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// One cooldown of 60 s for a key as a whole after any 429 and any network error; a key with a
    /// 401 or 403 is out; errors of the provider go to the client.
    AnyError,
    /// The next key at once, whatever came.
    AtOnce,
    /// Words alone decide: 401 takes a key out for good, 402 and a spent quota for an hour; a 403
    /// does once a second key is served; an overloaded model is left alone for two seconds.
    Seed,
    /// One key, and an agent that tries again by itself: after a second, two, four … 32, or as told.
    NoProxy,
}

impl Rules {
    pub fn name(self) -> &'static str {
        match self {
            Rules::AnyError => "60 s per key, any error",
            Rules::AtOnce => "next key at once",
            Rules::Seed => "seed's rules",
            Rules::NoProxy => "no proxy",
        }
    }
}

impl Policy {
    /// How many keys it uses.
    pub fn keys(self, scenario: &Scenario) -> usize {
        match self {
            Policy::Plain(Rules::NoProxy) => 1,
            _ => scenario.keys,
        }
    }
}

/// What such a policy knows.
pub struct Plain {
    /// Out for all lanes until then; for good: [`Duration::MAX`].
    out: Vec<Duration>,
    /// By key and lane.
    cool: HashMap<(usize, usize), Duration>,
    /// Until then a model is left alone.
    gap: [Duration; LANES.len()],
    next_key: usize,
    /// When each key rested first.
    pub first_rest: Vec<Option<Duration>>,
}

impl Plain {
    pub fn new(keys: usize) -> Plain {
        Plain {
            out: vec![Duration::ZERO; keys],
            cool: HashMap::new(),
            gap: [Duration::ZERO; LANES.len()],
            next_key: 0,
            first_rest: vec![None; keys],
        }
    }

    pub fn is_out(&self, key: usize, now: Duration) -> bool {
        self.out[key] > now
    }

    /// When the key is free for this lane.
    fn free(&self, key: usize, lane: usize) -> Duration {
        let cool = self.cool.get(&(key, lane)).copied().unwrap_or_default();
        self.out[key].max(cool).max(self.gap[lane])
    }
}

impl Sim {
    pub fn go_plainly(&mut self, id: usize, rules: Rules) {
        if rules == Rules::NoProxy {
            return self.send(id, 0);
        }
        let (keys, task) = (self.upstream.scenario.keys, &mut self.tasks[id]);
        let first = self.plain.next_key;
        let turns = (0..keys).map(|n| (first + n) % keys);
        let free: Vec<(Duration, usize)> = turns
            .filter(|key| !task.refused_with.contains(key))
            .map(|key| (self.plain.free(key, task.ask.lane), key))
            .collect();
        if let Some((_, key)) = free.iter().find(|(at, _)| *at <= self.now) {
            self.plain.next_key = key + 1;
            return self.send(id, *key);
        }
        task.tries += 1;
        let soonest = free.iter().map(|(at, _)| *at).min();
        match soonest {
            Some(at) if task.tries <= MAX_RETRIES && at <= task.born + MAX_WAIT => {
                let wait = at - self.now;
                self.after(wait, Event::Go(id));
            }
            _ => self.told(id, self.tasks[id].last),
        }
    }

    pub fn answered_plainly(&mut self, id: usize, rules: Rules) {
        let answer = self.tasks[id].answer.take().expect("it was sent");
        if answer.blame == Blame::Nobody {
            if rules == Rules::Seed {
                for key in std::mem::take(&mut self.tasks[id].refused_with) {
                    self.plain.out[key] = Duration::MAX;
                }
            }
            return self.after(answer.lasts, Event::Over(id));
        }
        match rules {
            Rules::AnyError => self.after_any_error(id, &answer),
            Rules::AtOnce if answer.blame == Blame::Request => {
                return self.told(id, Some(answer.blame));
            }
            Rules::AtOnce => {}
            Rules::Seed => return self.as_seed(id, &answer),
            Rules::NoProxy => return self.without_proxy(id, &answer),
        }
        let passes = rules == Rules::AnyError && !matches!(answer.status, 0 | 401 | 403 | 429);
        self.tasks[id].tries += 1;
        match self.tasks[id].tries <= MAX_RETRIES && !passes {
            true => self.go_plainly(id, rules),
            false => self.gave_up(id),
        }
    }

    fn after_any_error(&mut self, id: usize, answer: &Answer) {
        let out = &mut self.plain.out[self.tasks[id].key];
        let fair = match answer.status {
            429 | 0 => {
                *out = (*out).max(self.now + COOLDOWN);
                matches!(answer.blame, Blame::Key | Blame::Quota)
            }
            401 | 403 => {
                let was_out = std::mem::replace(out, Duration::MAX) == Duration::MAX;
                answer.blame == Blame::Refused || was_out
            }
            _ => true,
        };
        self.tally.wrong += u64::from(!fair);
    }

    fn as_seed(&mut self, id: usize, answer: &Answer) {
        let (key, lane) = (self.tasks[id].key, self.tasks[id].ask.lane);
        let task = &mut self.tasks[id];
        let capacity = ["request limit reached", "Provider returned", "overloaded"];
        let full = capacity.iter().any(|words| answer.body.contains(words));
        let out = &mut self.plain.out[key];
        match answer.status {
            401 => *out = Duration::MAX,
            402 => *out = (*out).max(self.now + HOUR),
            403 if task.refused_with.is_empty() => {
                task.refused_with.push(key);
                task.last = Some(answer.blame);
            }
            403 => return self.told(id, Some(answer.blame)),
            _ if full => self.plain.gap[lane] = self.now + Duration::from_secs(2),
            429 if answer.blame == Blame::Quota => *out = (*out).max(self.now + HOUR),
            429 => {
                let rest = stated(answer).unwrap_or(COOLDOWN);
                self.plain.cool.insert((key, lane), self.now + rest);
            }
            _ => return self.again_after(Duration::from_millis(250), 4, id, answer),
        }
        self.go_plainly(id, Rules::Seed);
    }

    fn without_proxy(&mut self, id: usize, answer: &Answer) {
        match answer.status {
            429 | 500.. | 0 => self.again_after(Duration::from_secs(1), 32, id, answer),
            _ => self.told(id, Some(answer.blame)),
        }
    }

    /// Another try after a while that doubles, up to so many seconds.
    fn again_after(&mut self, first: Duration, most: u64, id: usize, answer: &Answer) {
        let task = &mut self.tasks[id];
        let pause = (first * (1 << task.tries.min(8))).min(Duration::from_secs(most));
        task.tries += 1;
        match task.tries <= MAX_RETRIES && self.now <= task.born + MAX_WAIT {
            true => self.after(pause.max(stated(answer).unwrap_or_default()), Event::Go(id)),
            false => self.gave_up(id),
        }
    }
}

/// `Retry-After`.
fn stated(answer: &Answer) -> Option<Duration> {
    let mut fields = answer.fields.iter();
    let (_, value) = fields.find(|(name, _)| *name == "retry-after")?;
    Duration::try_from_secs_f64(value.parse().ok()?).ok()
}
