//! How an answer in chat completions is read for a Response: as a stream, or whole. Pure.

use super::super::reader::Reader;
use super::super::terms::Asked;
pub use super::super::terms::End;
use super::answer::Answer;

/// For the answer to what was asked.
pub fn reader(asked: Asked) -> Reader {
    telling(asked, false)
}

/// For one that is no stream: nothing is told but the response, at the end.
pub fn document(asked: Asked) -> Reader {
    telling(asked, true)
}

fn telling(asked: Asked, silent: bool) -> Reader {
    let thinks_unopened = asked.thinks_unopened;
    let mut answer = Answer::new(asked);
    answer.events.silent = silent;
    Reader::new(Box::new(answer), thinks_unopened)
}
