//! The steps of a request as in `src/relay.rs` and its rooms: enter a lane, pick or wait, send,
//! report, decide, settle, release, exit.
//!
//! A waiting request goes on at its own instant, at its deadline, or when the pool names its ticket, and at nothing
//! else. Meanwhile it peeks: a key that it finds so was wrongly kept from it.

use std::time::Duration;

use alvus::pool::{Change, KeyState, KeyView, Pick, PickRequest, Picked, Report, RestReason};
use alvus::retry::{AttemptEnd, Step};
use alvus::verdict::{self, Verdict};

use crate::scenario::LANES;
use crate::sim::{Event, Sim};
use crate::upstream::{Answer, Blame};

/// How often a waiting request peeks.
const PEEK: Duration = Duration::from_secs(1);

impl Sim {
    fn pick(&mut self, id: usize) -> Pick {
        let now = self.instant();
        let task = &self.tasks[id];
        let (lane, ticket) = task.lane.expect("it entered");
        let refused = task.refused.iter();
        let avoid: Vec<Picked> = refused.map(|(picked, ..)| picked.clone()).collect();
        let asker = PickRequest {
            ticket: Some(ticket),
            avoid: &avoid,
            only: None,
            conversation: task.conversation,
        };
        let pick = self.pool.pick(lane, asker, now);
        self.ring();
        pick
    }

    /// `Relay::lease`, one turn of its loop.
    pub fn lease(&mut self, id: usize) {
        let now = self.instant();
        let (soonest, until) = match self.pick(id) {
            Pick::Key(picked) => return self.leased(id, picked),
            Pick::NoOther => {
                self.stop_waiting(id);
                let (lane, _) = self.tasks[id].lane.expect("it entered");
                self.pool.close_if_down(lane, now);
                self.ring();
                return self.told(id, self.tasks[id].last);
            }
            Pick::Down => {
                self.stop_waiting(id);
                self.tally.turned_away += u64::from(self.works(self.tasks[id].ask.lane));
                return self.told(id, self.tasks[id].last.or(self.last_refusal));
            }
            Pick::Wait(at) => (Some(at), Some(at)),
            Pick::Behind(at) => (Some(at), None),
            Pick::InTurn => (None, None),
        };
        let task = &mut self.tasks[id];
        if !task.journey.may_wait(soonest.unwrap_or(now), now) {
            self.stop_waiting(id);
            return self.told(id, self.tasks[id].last);
        }
        let begins = !std::mem::replace(&mut task.waits, true);
        task.wait += 1;
        let (wait, deadline) = (task.wait, task.journey.deadline());
        let (_, ticket) = task.lane.expect("it entered");
        if until.is_some_and(|at| at <= now) {
            self.tally.spins += 1;
        }
        // A moment after: at the deadline itself it may still wait.
        let moment = Duration::from_millis(1);
        let deadline = deadline.map(|at| at + moment);
        if let Some(at) = until.into_iter().chain(deadline).min() {
            let nap = at.saturating_duration_since(now).max(moment);
            self.after(nap, Event::Wake(id, wait));
        }
        if begins {
            self.bells.insert(ticket, id);
        }
        self.after(PEEK, Event::Peek(id, wait));
    }

    /// A waiting request looks up although nobody woke it.
    pub fn peek(&mut self, id: usize) {
        let wait = self.tasks[id].wait;
        match self.pick(id) {
            Pick::Key(picked) if self.tasks[id].woken == self.now => self.leased(id, picked),
            Pick::Key(picked) => {
                self.tally.overlooked += 1;
                self.leased(id, picked);
            }
            _ => self.after(PEEK, Event::Peek(id, wait)),
        }
    }

    fn leased(&mut self, id: usize, picked: Picked) {
        let key = picked.index;
        self.tasks[id].picked = Some(picked);
        self.stop_waiting(id);
        self.send(id, key);
    }

    fn stop_waiting(&mut self, id: usize) {
        let task = &mut self.tasks[id];
        let (lane, ticket) = task.lane.expect("it entered");
        task.waits = false;
        let has_key = task.picked.is_some();
        self.bells.remove(&ticket);
        if !has_key {
            self.pool.leave(lane, ticket);
            self.ring();
        }
    }

    /// Those that the pool would wake, and no one else.
    pub fn ring(&mut self) {
        let woken: Vec<_> = self.pool.woken().collect();
        for ticket in woken {
            if let Some(id) = self.bells.get(&ticket).copied() {
                self.tasks[id].woken = self.now;
                let wait = self.tasks[id].wait;
                self.after(Duration::ZERO, Event::Wake(id, wait));
            }
        }
    }

    pub fn release(&mut self, id: usize) {
        let picked = self.tasks[id].picked.take().expect("it was sent");
        self.pool.release(&picked);
        self.ring();
    }

    /// The rest of `Relay::serve`'s loop.
    pub fn answered(&mut self, id: usize) {
        let now = self.instant();
        let answer = self.tasks[id].answer.take().expect("it was sent");
        let verdict = (answer.status != 0).then(|| judge(&answer));
        self.notice(verdict);
        let attempt = self.report(id, &answer, verdict);
        let task = &mut self.tasks[id];
        let step = task.journey.attempted(attempt, &mut self.budget, now);
        match (step, verdict) {
            (Step::Pass, Some(verdict)) => {
                self.settle(id, answer.status, verdict);
                if answer.blame == Blame::Nobody {
                    return self.after(answer.lasts, Event::Over(id));
                }
                self.release(id);
                return self.told(id, Some(answer.blame));
            }
            (Step::Pass | Step::GiveUp, _) => {
                self.release(id);
                return self.gave_up(id);
            }
            _ => {}
        }
        let refused = matches!(attempt, AttemptEnd::Answered(Verdict::Refused { .. }));
        let kept = refused || answer.status == 0 || answer.status >= 500;
        self.tasks[id].last = kept.then_some(answer.blame);
        self.release(id);
        match step {
            Step::Pause(pause) => {
                let task = &mut self.tasks[id];
                task.conversation = None;
                task.wait += 1;
                let wait = task.wait;
                if !self.is_well {
                    self.pausing.push((id, wait));
                }
                self.after(pause, Event::Resume(id, wait));
            }
            _ => self.lease(id),
        }
    }

    /// Whether the provider is well; who pauses because it was not goes on when it is.
    fn notice(&mut self, verdict: Option<Verdict>) {
        let bad = matches!(
            verdict,
            None | Some(Verdict::Trouble(_) | Verdict::MaybeWorked(_))
        );
        let was_well = std::mem::replace(&mut self.is_well, !bad);
        if bad || was_well {
            return;
        }
        self.budget.recovered();
        for (id, wait) in std::mem::take(&mut self.pausing) {
            self.after(Duration::ZERO, Event::Resume(id, wait));
        }
    }

    /// `Relay::report`.
    fn report(&mut self, id: usize, answer: &Answer, verdict: Option<Verdict>) -> AttemptEnd {
        let now = self.instant();
        let status = answer.status;
        let report = match verdict {
            None => Report::NotSent,
            Some(verdict) => Report::Answered(verdict, status),
        };
        let picked = self.tasks[id].picked.clone().expect("it was sent");
        let change = self.pool.report(&picked, report, now);
        self.ring();
        self.count(id, &picked, report, change, answer);
        if let Some(Verdict::Refused { names_key }) = verdict {
            self.last_refusal = Some(answer.blame);
            let why = RestReason::Refused { status, names_key };
            self.tasks[id].refused.push((picked, why));
        }
        match verdict {
            None => AttemptEnd::NotSent,
            Some(Verdict::Refused { .. }) if change == Some(Change::StillOut) => {
                AttemptEnd::StillOut
            }
            Some(Verdict::Limited(None)) if matches!(change, Some(Change::Overloaded(_))) => {
                AttemptEnd::Answered(Verdict::Overloaded(None))
            }
            Some(verdict) => AttemptEnd::Answered(verdict),
        }
    }

    /// `Relay::settle`.
    fn settle(&mut self, id: usize, status: u16, verdict: Verdict) {
        let now = self.instant();
        match verdict {
            Verdict::Pass if status < 400 => {
                for (picked, why) in std::mem::take(&mut self.tasks[id].refused) {
                    if self.pool.eject(&picked, why, now).is_some() {
                        let fair = self.upstream.records[picked.index].was_refused;
                        self.tally.wrong += u64::from(!fair);
                    }
                    self.ring();
                }
            }
            Verdict::Refused { .. } => {
                let (lane, _) = self.tasks[id].lane.expect("it entered");
                self.pool.close_if_down(lane, now);
                self.ring();
            }
            _ => {}
        }
    }

    /// What is held against the key must be its own.
    fn count(
        &mut self,
        id: usize,
        picked: &Picked,
        report: Report,
        change: Option<Change>,
        answer: &Answer,
    ) {
        if let Some(Change::Rests(why, rest)) = change {
            self.tally.rests += 1;
            self.tally.longest_rest = self.tally.longest_rest.max(rest);
            self.plain.first_rest[picked.index].get_or_insert(self.now);
            let fair = match why {
                RestReason::Limited => matches!(answer.blame, Blame::Key | Blame::Quota),
                RestReason::Quota => answer.blame == Blame::Quota,
                RestReason::Refused { .. } => answer.blame == Blame::Refused,
            };
            self.tally.wrong += u64::from(!fair);
        } else if let Report::Answered(Verdict::Limited(_), _) = report {
            let first = self.plain.first_rest[picked.index];
            let later = first.is_some_and(|at| self.tasks[id].sent > at);
            self.tally.herd += u64::from(later);
        }
        if !matches!(
            report,
            Report::Answered(Verdict::Pass | Verdict::TooMuch, _)
        ) {
            self.compare_states();
        }
    }

    /// No key is in a state that nothing it did explains.
    fn compare_states(&mut self) {
        let mut wrong = 0;
        for (view, record) in self.views().iter().zip(&self.upstream.records) {
            for (lane, state) in view {
                let fair = match state {
                    KeyState::Cooling(_) => record.limited[*lane] || record.spent,
                    KeyState::Parked(_) => record.spent,
                    KeyState::Ejected(..) => record.was_refused,
                    _ => true,
                };
                wrong += u64::from(!fair);
            }
        }
        self.tally.wrong += wrong;
    }

    /// The state of all keys.
    pub fn keys(&self) -> Vec<KeyView> {
        let now = self.instant();
        let mut seen = self.pool.survey(usize::MAX, now);
        while self.pool.survey_further(&mut seen, now) {}
        seen.listed
    }

    /// By key, the lanes that it is not ready for.
    fn views(&self) -> Vec<Vec<(usize, KeyState)>> {
        let keys = self.keys();
        let lane = |name: &str| LANES.iter().position(|lane| *lane == name);
        let of = |models: Vec<(String, KeyState)>| {
            let states = models.into_iter();
            states
                .filter_map(|(name, state)| Some((lane(&name)?, state)))
                .collect()
        };
        keys.into_iter().map(|key| of(key.models)).collect()
    }

    /// By key, the lanes that it is kept out of by a refusal or a quota.
    pub fn kept_out(&self) -> Vec<[bool; LANES.len()]> {
        let of = |states: Vec<(usize, KeyState)>| {
            let mut out = [false; LANES.len()];
            for (lane, state) in states {
                out[lane] = matches!(state, KeyState::Parked(_) | KeyState::Ejected(..));
            }
            out
        };
        self.views().into_iter().map(of).collect()
    }
}

/// `examine`.
fn judge(answer: &Answer) -> Verdict {
    if answer.status == 200 {
        return verdict::judge_inside(answer.body.as_bytes());
    }
    let field = |name: &str| {
        let mut fields = answer.fields.iter();
        let found = fields.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_bytes())
    };
    verdict::judge(answer.status, field, answer.body.as_bytes())
}
