//! Readers that turn chat completions into a Response: a stream, or a whole one. Pure.

use super::super::reader::Reader;
use super::super::terms::RequestContext;
pub use super::super::terms::StreamEnd;
use super::answer::ResponseStream;

/// A reader for the answer to this request.
pub fn reader(asked: RequestContext) -> Reader {
    telling(asked, false)
}

/// The same for an answer that is not a stream: it writes only the response, at the end.
pub fn document(asked: RequestContext) -> Reader {
    telling(asked, true)
}

fn telling(asked: RequestContext, silent: bool) -> Reader {
    let thinks_unopened = asked.thinks_unopened;
    let mut answer = ResponseStream::new(asked);
    answer.events.silent = silent;
    Reader::new(Box::new(answer), thinks_unopened)
}
