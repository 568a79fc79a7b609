//! The clock, the agents and their requests. The policies say how a request is sent: `lease.rs`, `plain.rs`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use alvus::config::{Pace, Rotation};
use alvus::pool::{LaneId, Picked, Pool, RestReason, Settings, Ticket};
use alvus::retry::{Budget, Repeat, RetryLimits, RetryState};
use alvus::secret::ApiKey;

use crate::dice::Dice;
use crate::plain::{Plain, Rules};
use crate::scenario::{FILES, LANES, MINUTE, PAID, Scenario};
use crate::tally::{Tally, Watch};
use crate::upstream::{Answer, Ask, Blame, Upstream};

pub const COOLDOWN: Duration = Duration::from_secs(60);
pub const MAX_RETRIES: u32 = 10;
pub const MAX_WAIT: Duration = Duration::from_secs(300);
const WORKERS: usize = 32;
const SECOND: Duration = Duration::from_secs(1);
pub const SEEDS: [u64; 3] = [1, 2, 3];

struct Agent {
    seed: u64,
    /// It asks for this and nothing else.
    only: Option<usize>,
    /// Which piece of work it is at, that piece's dice, and the time until the next one.
    piece: u64,
    dice: Dice,
    rest: Duration,
    lane: usize,
    /// Requests left in this piece of work.
    turns: u64,
    /// Requests without an answer.
    open: u32,
    failed: bool,
    conversation: u64,
}

pub struct Task {
    agent: usize,
    pub ask: Ask,
    pub conversation: Option<u64>,
    pub born: Duration,
    /// The last attempt went out then, with this key.
    pub sent: Duration,
    pub key: usize,
    pub answer: Option<Answer>,
    over: bool,
    /// Of the plain policies: rounds, and keys that were refused.
    pub tries: u32,
    pub refused_with: Vec<usize>,
    // The rest as in `relay.rs`.
    pub lane: Option<(LaneId, Ticket)>,
    pub journey: RetryState,
    pub refused: Vec<(Picked, RestReason)>,
    /// Whose fault the last answer was that the client may have to hear.
    pub last: Option<Blame>,
    pub picked: Option<Picked>,
    /// It waits, and a bell hangs.
    pub waits: bool,
    /// Grows with each wait that ends, so that what was to end it before is known to be stale.
    pub wait: u32,
    /// The pool named its ticket then.
    pub woken: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// An agent has its next idea.
    Turn(usize),
    /// A request wants a key: at first, or after a pause.
    Go(usize),
    /// A waiting request's instant has come, or it was woken.
    Wake(usize, u32),
    /// It looks up although nothing happened, to see whether something was kept from it.
    Peek(usize, u32),
    /// A request's pause is over.
    Resume(usize, u32),
    Answered(usize),
    Over(usize),
    /// What is out of use is counted.
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Alvus(Pace, Rotation),
    Plain(Rules),
}

impl Policy {
    pub fn name(self) -> String {
        match self {
            Policy::Alvus(Pace::Off, Rotation::RoundRobin) => "alvus".into(),
            Policy::Alvus(Pace::Off, Rotation::Sticky) => "alvus, sticky".into(),
            Policy::Alvus(Pace::Fixed(n), _) => format!("alvus, RPM_LIMIT={n}"),
            Policy::Alvus(Pace::Auto, _) => "alvus, RPM_LIMIT=auto".into(),
            Policy::Plain(rules) => rules.name().into(),
        }
    }

    pub fn is_alvus(self) -> bool {
        matches!(self, Policy::Alvus(..))
    }
}

pub struct Sim {
    t0: Instant,
    pub now: Duration,
    pub policy: Policy,
    pub pool: Pool,
    pub budget: Budget,
    pub upstream: Upstream,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    next_event: u64,
    agents: Vec<Agent>,
    pub tasks: Vec<Task>,
    /// Who waits at the pool.
    pub bells: HashMap<Ticket, usize>,
    /// Whether the provider was well at the last attempt, and who pauses because it was not.
    pub is_well: bool,
    pub pausing: Vec<(usize, u32)>,
    /// Whose fault the last refusal of all was.
    pub last_refusal: Option<Blame>,
    pub plain: Plain,
    pub tally: Tally,
    pub watch: Watch,
}

impl Sim {
    /// As many days as there are seeds.
    pub fn run(scenario: &Scenario, policy: Policy) -> Tally {
        let days = SEEDS.map(|seed| Sim::day(scenario, policy, seed));
        days.into_iter().reduce(Tally::with).expect("a day")
    }

    fn day(scenario: &Scenario, policy: Policy, seed: u64) -> Tally {
        let mut sim = Sim::new(scenario, policy, seed);
        while let Some(Reverse((at, _, event))) = sim.events.pop() {
            sim.now = at;
            sim.handle(event);
        }
        let stuck = sim.tasks.iter().filter(|task| !task.over).count();
        let name = scenario.name;
        assert_eq!(stuck, 0, "requests that never ended: {name} {policy:?}");
        assert_eq!(sim.pool.waiting(), 0);
        for key in sim.keys() {
            assert_eq!(key.counts.in_flight, 0, "a key was not given back");
        }
        let mut tally = sim.tally;
        tally.limited = sim.upstream.limited;
        tally.overloaded = sim.upstream.overloaded;
        tally.denied = sim.upstream.denied;
        tally.off_minutes = sim.watch.off_minutes;
        tally
    }

    fn new(scenario: &Scenario, policy: Policy, seed: u64) -> Sim {
        let t0 = Instant::now();
        let keys: Vec<ApiKey> = (0..scenario.keys)
            .map(|n| ApiKey::new(format!("simulated-key-{n:04}")))
            .collect();
        let (pace, rotation) = match policy {
            Policy::Alvus(pace, rotation) => (pace, rotation),
            Policy::Plain(_) => (Pace::Off, Rotation::RoundRobin),
        };
        let settings = Settings {
            cooldown: COOLDOWN,
            pace,
            rotation,
            attempts: WORKERS,
        };
        let mut sim = Sim {
            t0,
            now: Duration::ZERO,
            policy,
            pool: Pool::new(&keys, settings, t0),
            budget: Budget::new(t0),
            upstream: Upstream::new(scenario),
            events: BinaryHeap::new(),
            next_event: 0,
            agents: Vec::new(),
            tasks: Vec::new(),
            bells: HashMap::new(),
            is_well: true,
            pausing: Vec::new(),
            last_refusal: None,
            plain: Plain::new(scenario.keys),
            tally: Tally::default(),
            watch: Watch::default(),
        };
        let working = (0..scenario.agents).map(|n| (None, n % 2));
        let paid = scenario.asks_for_paid.then_some((Some(PAID), PAID));
        let files = scenario.uses_files.then_some((Some(FILES), FILES));
        for (n, (only, lane)) in working.chain(paid).chain(files).enumerate() {
            sim.agents.push(Agent {
                seed: seed * 1000 + n as u64,
                only,
                piece: 0,
                dice: Dice(1),
                rest: Duration::ZERO,
                lane,
                turns: 0,
                open: 0,
                failed: false,
                conversation: 0,
            });
            sim.after(Duration::from_millis(n as u64), Event::Turn(n));
        }
        if scenario.watched {
            sim.after(SECOND, Event::Second);
        }
        sim
    }

    pub fn instant(&self) -> Instant {
        self.t0 + self.now
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.next_event += 1;
        let at = self.now + wait;
        self.events.push(Reverse((at, self.next_event, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Turn(agent) => self.turn(agent),
            Event::Go(task) => match self.policy {
                Policy::Alvus(..) => self.lease(task),
                Policy::Plain(rules) => self.go_plainly(task, rules),
            },
            Event::Wake(task, wait) => {
                if self.tasks[task].wait == wait && self.tasks[task].waits {
                    self.lease(task);
                }
            }
            Event::Peek(task, wait) => {
                if self.tasks[task].wait == wait && self.tasks[task].waits {
                    self.peek(task);
                }
            }
            Event::Resume(task, wait) => {
                if self.tasks[task].wait == wait {
                    self.tasks[task].wait += 1;
                    self.lease(task);
                }
            }
            Event::Answered(task) => match self.policy {
                Policy::Alvus(..) => self.answered(task),
                Policy::Plain(rules) => self.answered_plainly(task, rules),
            },
            Event::Over(task) => self.served(task),
            Event::Second => {
                self.look_at_keys();
                if self.now < self.upstream.scenario.lasts {
                    self.after(SECOND, Event::Second);
                }
            }
        }
    }

    fn turn(&mut self, n: usize) {
        let traffic = self.upstream.scenario.traffic;
        if self.now >= self.upstream.scenario.lasts {
            return;
        }
        let agent = &mut self.agents[n];
        if agent.turns == 0 {
            agent.piece += 1;
            agent.dice = Dice::seeded(agent.seed, agent.piece);
            agent.rest = agent.dice.about(traffic.rest);
            agent.turns = 1 + agent.dice.below(traffic.turns);
            agent.conversation = agent.dice.roll();
            agent.failed = false;
            if agent.dice.below(4) == 0 && agent.only.is_none() {
                agent.lane = 1 - agent.lane;
            }
            if agent.only.is_some() {
                agent.turns = 1;
            }
        }
        agent.turns -= 1;
        // Now and then an agent sends out its helpers.
        let several = if agent.dice.below(10) == 0 && !traffic.one_model && agent.only.is_none() {
            4
        } else {
            1
        };
        agent.open = several;
        for _ in 0..several {
            self.ask(n);
        }
    }

    fn ask(&mut self, n: usize) {
        let traffic = self.upstream.scenario.traffic;
        let now = self.instant();
        let limits = RetryLimits {
            max_retries: MAX_RETRIES,
            max_wait: MAX_WAIT,
        };
        let agent = &mut self.agents[n];
        let seed = agent.dice.roll();
        let (from, to) = traffic.streams_ms;
        let lane = if traffic.one_model { 0 } else { agent.lane };
        let ask = Ask {
            lane,
            prompt: agent.dice.roll() >> 20,
            tokens: 200 + agent.dice.below(1800) as u32,
            thinks: agent.dice.between(200, 900),
            streams: agent.dice.between(from, to),
        };
        let mut task = Task {
            agent: n,
            ask,
            conversation: Some(agent.conversation),
            born: self.now,
            sent: self.now,
            key: 0,
            answer: None,
            over: false,
            tries: 0,
            refused_with: Vec::new(),
            lane: None,
            journey: RetryState::new(limits, Repeat::No, seed, now),
            refused: Vec::new(),
            last: None,
            picked: None,
            waits: false,
            wait: 0,
            woken: Duration::MAX,
        };
        if self.policy.is_alvus() {
            self.budget.request();
            task.lane = Some(self.pool.enter(LANES[lane], now));
        }
        self.tasks.push(task);
        self.tally.asked += 1;
        self.watch.asked(lane);
        self.handle(Event::Go(self.tasks.len() - 1));
    }

    fn served(&mut self, id: usize) {
        let task = &self.tasks[id];
        let lost = task.sent - task.born;
        self.upstream.in_flight[task.ask.lane] -= 1;
        self.tally.served += 1;
        self.tally.lost += lost;
        self.tally.worst = self.tally.worst.max(lost);
        if self.policy.is_alvus() {
            self.release(id);
        }
        self.end(id, false);
    }

    /// The upstream's own word went to the client; whether it was on the request or not.
    pub fn told(&mut self, id: usize, blame: Option<Blame>) {
        match blame {
            Some(Blame::Request) => {
                self.tally.told += 1;
                self.watch.ended(self.tasks[id].ask.lane);
                self.end(id, false);
            }
            _ => self.gave_up(id),
        }
    }

    pub fn gave_up(&mut self, id: usize) {
        self.tally.gave_up += 1;
        self.watch.ended(self.tasks[id].ask.lane);
        self.end(id, true);
    }

    /// The request is over, for better or worse.
    fn end(&mut self, id: usize, failed: bool) {
        let task = &mut self.tasks[id];
        assert!(!std::mem::replace(&mut task.over, true));
        if let Some((lane, ticket)) = task.lane {
            self.pool.exit(lane, ticket);
            self.ring();
        }
        let n = self.tasks[id].agent;
        let traffic = self.upstream.scenario.traffic;
        let agent = &mut self.agents[n];
        agent.open -= 1;
        agent.failed |= failed;
        if agent.open == 0 {
            if agent.failed {
                agent.turns = 0; // its piece of work is lost
            }
            let wait = match agent.turns {
                // On a hostile day somebody looks after it.
                0 if agent.failed && self.upstream.scenario.watched => agent.dice.about(MINUTE),
                0 => agent.rest,
                _ => agent.dice.about(traffic.think),
            };
            self.after(wait, Event::Turn(n));
        }
    }

    pub fn send(&mut self, id: usize, key: usize) {
        let task = &mut self.tasks[id];
        task.sent = self.now;
        task.key = key;
        let ask = task.ask;
        let answer = self.upstream.ask(key, &ask, self.now);
        match answer.blame {
            Blame::Nobody => self.watch.served(ask.lane),
            Blame::Request => self.watch.answered(),
            _ => {}
        }
        let after = answer.after;
        self.tasks[id].answer = Some(answer);
        self.after(after, Event::Answered(id));
    }

    /// Which keys are out of use although the upstream would serve them, and whether a minute went
    /// by in which nothing was served although a key works.
    fn look_at_keys(&mut self) {
        let out = match self.policy {
            Policy::Alvus(..) => self.kept_out(),
            Policy::Plain(_) => (0..self.upstream.scenario.keys)
                .map(|key| [self.plain.is_out(key, self.now); LANES.len()])
                .collect(),
        };
        for (key, lanes) in out.into_iter().enumerate() {
            let served = |lane: &usize| self.upstream.would_serve(key, *lane, self.now);
            let kept = (0..LANES.len()).filter(|lane| lanes[*lane] && served(lane));
            let seconds = SECOND * kept.count() as u32;
            // What was dead and is well again is another matter.
            match self.upstream.records[key].dead {
                true => self.tally.comeback += seconds,
                false => self.tally.out_of_use += seconds,
            }
        }
        let works = [0, 1].map(|lane| self.works(lane));
        self.watch.second(works, self.now);
    }
    /// Whether one of its keys would be served for this.
    pub fn works(&self, lane: usize) -> bool {
        let mut keys = 0..self.policy.keys(&self.upstream.scenario);
        keys.any(|key| self.upstream.would_serve(key, lane, self.now))
    }
}
