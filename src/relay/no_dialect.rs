//! Replaces `answer_mode.rs` in a build without dialects: every client gets the upstream's answers as they are.

use super::{Exchange, Mapped, Relay};
use crate::config::Config;
use crate::headers::Field;
use crate::reply::{BadRequest, Reply};
use crate::upstream::{Answer, Kept};
use crate::verdict::Verdict;

#[derive(Debug)]
pub(super) struct Known;

impl Known {
    pub(super) fn new(_: &Config, _: Option<&Known>) -> Known {
        Known
    }
}

#[derive(Debug, Default)]
pub(super) struct AnswerMode(());

impl Mapped {
    pub(super) fn passed(&self, _: &Answer) {}

    pub(super) fn listen(&mut self, _: &str, _: &str, _: &[Field]) -> Result<(), BadRequest> {
        Ok(())
    }
}

impl AnswerMode {
    pub(super) fn beats(&self) -> (Vec<u8>, Vec<u8>) {
        (Vec::new(), b": alvus is waiting\n\n".to_vec())
    }

    pub(super) fn lacks<'a, F: Iterator<Item = Field<'a>>>(
        &self,
        _: u16,
        _: impl FnOnce() -> F,
    ) -> Option<Field<'static>> {
        None
    }

    pub(super) fn reply(&self, _: &Reply) -> Option<Reply> {
        None
    }

    pub(super) fn kept(&self, _: &Kept, _: &Known) -> Option<Reply> {
        None
    }

    pub(super) fn late(&self, _: &Reply) -> Option<Vec<u8>> {
        None
    }
}

impl Relay {
    /// The reply in the client's dialect; `None`: send it as it is.
    pub fn in_dialect(&self, _: &str, _: &str, _: &Reply) -> Option<Reply> {
        None
    }

    /// What was learned of models, as a JSON object.
    pub fn learned(&self) -> Option<String> {
        None
    }
}

impl Exchange<'_> {
    pub(super) fn prepare(&mut self) -> Option<Reply> {
        self.rename()
    }

    pub(super) fn revise(&mut self, _: &Answer, _: Verdict) -> bool {
        false
    }

    pub(super) fn fit(&mut self, _: &str) {}
}
