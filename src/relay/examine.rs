//! Reads as much of an answer as it takes to judge it, and no more: the rest is left for the
//! delivery. [`crate::verdict`] decides what the words mean.

use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use crate::dialect::events::EventReader;
use crate::reply::Downstream;
use crate::retry::AttemptEnd;
use crate::sse;
use crate::upstream::{Answer, Failure};
use crate::verdict::{self, BODY_LIMIT, Verdict};

/// Reads an error's body. Of an answer to a POST it reads the first event of a stream
/// that has content, or a short document.
///
/// # Errors
/// When the answer breaks off too early, ends empty, or its first word does not come in time.
pub(super) fn examine(
    answer: &mut Answer,
    down: Downstream,
    is_post: bool,
    first_word_by: Option<Instant>,
) -> Result<Verdict, Failure> {
    if answer.status >= 400 {
        if !down.head_only {
            answer.look_at_all();
        }
        let header = |name: &str| answer.header(name);
        let verdict = verdict::judge(answer.status, header, &answer.words());
        return Ok(verdict);
    }
    if answer.status != 200 || !is_post || down.head_only {
        return Ok(Verdict::Pass);
    }
    if answer.is_stream() {
        return stream(answer, first_word_by);
    }
    let short = answer
        .length
        .is_none_or(|length| length <= BODY_LIMIT as u64);
    match answer.json && short {
        true => document(answer, first_word_by),
        false => Ok(Verdict::Pass),
    }
}

/// A Responses stream begins with events that repeat tools and instructions; this much is read.
const RESPONSE_LIMIT: usize = 256 * 1024;

/// How much of a stream is read to judge it.
fn stream_limit(start: &[u8]) -> usize {
    let begin = &start[..start.len().min(64)];
    let is_response = begin.windows(17).any(|word| word == b"\"response.created");
    match is_response || begin.starts_with(b"event: response.") {
        true => RESPONSE_LIMIT,
        false => BODY_LIMIT,
    }
}

/// Judges a stream of events. Comments, and events that only open it, have no content.
fn stream(answer: &mut Answer, by: Option<Instant>) -> Result<Verdict, Failure> {
    let mut events = EventReader::default();
    let mut read = 0;
    let mut opened = false;
    while answer.start().len() < stream_limit(answer.start()) {
        let mut judged = None;
        // No event is too long for the reader: it takes longer ones than are read here.
        let _ = events.push(&answer.start()[read..], &mut |data| {
            opened |= !data.is_empty();
            if judged.is_none() {
                judged = match data {
                    b"[DONE]" => Some(Err(Failure::Empty)),
                    data => verdict::judge_event(data).map(Ok),
                };
            }
        });
        if let Some(judged) = judged {
            return judged;
        }
        read = answer.start().len();
        match answer.look_further(patience(by)) {
            Ok(true) => {}
            Ok(false) => return last_event(events, opened, answer.start()).ok_or(Failure::Empty),
            // It broke before it had content: as good as empty.
            Err(Failure::MaybeSent(_)) => return Err(Failure::Empty),
            // It is open but silent: the client gets what there is.
            Err(Failure::TimedOut(_)) if opened => break,
            Err(failure) => return Err(failure),
        }
    }
    Ok(Verdict::Pass)
}

/// Judges a stream that ended without content. Its last event may be incomplete.
fn last_event(mut events: EventReader, mut opened: bool, stream: &[u8]) -> Option<Verdict> {
    let mut verdict = None;
    events.end(&mut |data| {
        opened |= !matches!(data, b"" | b"[DONE]");
        verdict = verdict::judge_event(data);
    });
    match opened || sse::is_silent(stream) {
        true => verdict,
        // Not a stream of events, whatever its type says.
        false => verdict::judge_document(stream),
    }
}

/// Judges a short document, or the beginning of one of unknown length. A client that wants JSON
/// cannot use a part of it, so the wait costs it nothing.
fn document(answer: &mut Answer, by: Option<Instant>) -> Result<Verdict, Failure> {
    while answer.start().len() < BODY_LIMIT {
        let start = answer.start();
        let complete = answer
            .length
            .is_none_or(|length| start.len() as u64 >= length);
        if !answer.coded {
            if verdict::has_content(start) {
                return Ok(Verdict::Pass);
            }
            if complete && let Some(value) = first_value(start) {
                return verdict::judge_document(value).ok_or(Failure::Empty);
            }
        }
        let said = !start.trim_ascii().is_empty();
        let begun = !start.is_empty();
        match answer.look_further(patience(by)) {
            Ok(true) => {}
            // The client judges what alvus cannot read.
            Ok(false) if begun && answer.words().is_empty() => break,
            Ok(false) => return verdict::judge_document(&answer.words()).ok_or(Failure::Empty),
            Err(Failure::MaybeSent(_)) if !said => return Err(Failure::Empty),
            // The client gets what there is, and sees the break itself.
            Err(Failure::MaybeSent(_)) => break,
            Err(Failure::TimedOut(_)) if begun => break,
            Err(failure) => return Err(failure),
        }
    }
    Ok(Verdict::Pass)
}

/// The JSON document at the start of a body, once it is complete.
fn first_value(body: &[u8]) -> Option<&[u8]> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(&body[..values.byte_offset()])
}

impl Answer {
    /// The upstream asks for no retry (`x-should-retry: false`).
    pub(super) fn ends_it(&self, attempt: AttemptEnd) -> bool {
        let in_trouble = matches!(
            attempt,
            AttemptEnd::Answered(Verdict::Trouble(_) | Verdict::MaybeWorked(_) | Verdict::Nowhere)
        );
        in_trouble && self.header("x-should-retry") == Some(b"false")
    }
}

fn patience(by: Option<Instant>) -> Duration {
    match by {
        Some(at) => at.saturating_duration_since(Instant::now()),
        None => Duration::MAX,
    }
}
