//! Counts answers by model: a few rows, however many names clients invent. The row unused longest makes room; its
//! numbers go to the row of the others.

use std::time::Instant;

use super::Answered;
use crate::sse::Tokens;

/// The most rows, besides the one for the others.
pub const MOST: usize = 32;
/// The longest name that is kept, in bytes.
const LONGEST: usize = 128;

/// One model's row; without a name, the others'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCounts {
    /// The provider's name of the model.
    pub name: String,
    /// The name that the last client used, if that is another one.
    pub asked: String,
    /// Requests that it answered.
    pub requests: u64,
    /// Of these, for clients that used another name.
    pub in_place: u64,
    /// The tokens that its answers took.
    pub tokens: Tokens,
    last: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub struct Models(Vec<ModelCounts>);

impl Models {
    /// No rows but that of the others.
    pub fn new(now: Instant) -> Models {
        Models(vec![row("", now)])
    }

    /// Counts an answer of the upstream that is not an error.
    pub fn answered(&mut self, answered: Answered, now: Instant) {
        if !matches!(answered.status, 200..400) || answered.model.is_empty() {
            return;
        }
        let at = self.at(answered.model, now);
        let row = &mut self.0[at];
        row.last = now;
        row.requests += 1;
        row.tokens += answered.tokens;
        if let Some(asked) = answered.asked {
            row.in_place += 1;
            if at > 0 && row.asked != asked && asked.len() <= LONGEST {
                asked.clone_into(&mut row.asked);
            }
        }
    }

    /// The rows; that of the others first, if it has any requests.
    pub fn rows(&self) -> Vec<ModelCounts> {
        let rows = self.0.iter().filter(|row| row.requests > 0);
        rows.cloned().collect()
    }

    fn at(&mut self, name: &str, now: Instant) -> usize {
        if let Some(at) = self.0.iter().position(|row| row.name == name) {
            return at;
        }
        if name.len() > LONGEST {
            return 0;
        }
        if self.0.len() <= MOST {
            self.0.push(row(name, now));
            return self.0.len() - 1;
        }
        let oldest = (1..=MOST).min_by_key(|at| self.0[*at].last).unwrap_or(0);
        let gone = std::mem::replace(&mut self.0[oldest], row(name, now));
        let others = &mut self.0[0];
        others.requests += gone.requests;
        others.in_place += gone.in_place;
        others.tokens += gone.tokens;
        oldest
    }
}

fn row(name: &str, now: Instant) -> ModelCounts {
    ModelCounts {
        name: name.to_owned(),
        asked: String::new(),
        requests: 0,
        in_place: 0,
        tokens: Tokens::default(),
        last: now,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ask<'a>(model: &'a str, asked: Option<&'a str>, status: u16) -> Answered<'a> {
        let tokens = Tokens {
            input: 10,
            output: 1,
        };
        Answered {
            status,
            model,
            asked,
            tokens,
            ..Answered::default()
        }
    }

    #[test]
    fn a_model_is_counted_where_it_answered_and_named_by_whom_it_stood_in_for() {
        let now = Instant::now();
        let mut models = Models::new(now);
        assert_eq!(models.rows(), []);
        models.answered(ask("a", None, 200), now);
        models.answered(ask("a", Some("claude"), 200), now);
        models.answered(ask("a", None, 404), now);
        models.answered(ask("", None, 200), now);
        let rows = models.rows();
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.name.as_str(), row.asked.as_str()), ("a", "claude"));
        assert_eq!((row.requests, row.in_place, row.tokens.input), (2, 1, 20));
    }

    #[test]
    fn names_that_are_invented_take_no_room_and_lose_no_tokens() {
        let start = Instant::now();
        let mut models = Models::new(start);
        let mut now = start;
        let long = "x".repeat(LONGEST + 1);
        models.answered(ask(&long, Some(&long), 200), now);
        for n in 0..1000 {
            now += Duration::from_secs(1);
            models.answered(ask(&n.to_string(), Some(&long), 200), now);
            models.answered(ask("used", None, 200), now);
        }
        let rows = models.rows();
        assert_eq!(rows.len(), MOST + 1);
        assert!(
            rows.iter()
                .all(|row| row.name.len() + row.asked.len() <= LONGEST)
        );
        assert_eq!(rows.iter().map(|row| row.tokens.input).sum::<u64>(), 20_010);
        let used = rows
            .iter()
            .find(|row| row.name == "used")
            .expect("it is used");
        assert_eq!(used.requests, 1000);
    }
}
