//! Reads as much of an answer as it takes to judge it, and no more: what follows is left to be
//! delivered. What the words mean is decided in [`crate::verdict`].

use std::time::{Duration, Instant};

use crate::reply::Downstream;
use crate::sse;
use crate::upstream::{Answer, Failure};
use crate::verdict::{self, Verdict};

/// Reads as much of an answer as it takes to judge it: the words of an error, the first event of
/// a stream, a short document. `None`: it ended before its first word.
///
/// # Errors
/// When it cannot be read so far, or its first event did not come in time.
pub(super) fn examine(
    answer: &mut Answer,
    down: Downstream,
    first_word_by: Option<Instant>,
) -> Result<Option<Verdict>, Failure> {
    let judged = |answer: &Answer| {
        let header = |name: &str| answer.header(name);
        verdict::judge(answer.status, header, answer.start())
    };
    if answer.status >= 400 {
        if !down.head_only {
            answer.look_at_all();
        }
        return Ok(Some(judged(answer)));
    }
    if answer.status != 200 || down.head_only {
        return Ok(Some(judged(answer)));
    }
    if answer.is_stream() {
        while answer.start().len() < verdict::BODY_LIMIT {
            if let Some(data) = sse::first_data(answer.start()) {
                return Ok(Some(verdict::judge_inside(&data)));
            }
            let patience = match first_word_by {
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            match answer.look_further(patience) {
                Ok(true) => {}
                Ok(false) if sse::is_silent(answer.start()) => return Ok(None),
                Ok(false) => return Ok(Some(Verdict::Pass)), // no stream of events, whatever it says
                // It broke before it said anything: as good as none.
                Err(Failure::MaybeSent(_)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        return Ok(Some(Verdict::Pass));
    }
    // An error that calls itself a success is short, and its length is known; a long answer need
    // not wait for its end.
    let short = answer
        .length()
        .is_some_and(|n| n <= verdict::BODY_LIMIT as u64);
    if short && answer.is_json() {
        answer.look_at_all();
        return Ok(Some(verdict::judge_inside(answer.start())));
    }
    Ok(Some(Verdict::Pass))
}
