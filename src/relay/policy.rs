//! Where requests go, and how far: what a configuration says about the provider. Replaced as a
//! whole by a reload.

use std::time::{Duration, Instant};

use super::voice::{Known, Voice};
use super::{Mapped, Relay};
use crate::config::{Config, Rotation};
use crate::dialect::models::ModelMap;
use crate::pool::Settings;
use crate::question::Conversation;
use crate::retry::Limits;
use crate::route;
use crate::sse::Marked;
use crate::upstream::{Origin, Prepared, Upstream};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) upstream: Upstream,
    pub(super) target: Origin,
    pub(super) base_path: String,
    /// Where paths with `/genai/` go, and what stands in front of them.
    genai: Option<(Origin, String)>,
    /// The target's, as people write it.
    pub(super) origin: String,
    pub(super) limits: Limits,
    pub(super) first_byte: Duration,
    pub(super) heartbeat: Duration,
    pub(super) conversation: Conversation,
    /// Models whose streams of completions were seen to say when they are over.
    pub(super) marked: Marked,
    pub(super) models: ModelMap,
    /// What is known of the upstream's dialects.
    pub(super) known: Known,
}

impl Policy {
    /// `earlier`: what is kept of it if the provider is the same (names, connections, TLS sessions, what
    /// was learned of models).
    pub(super) fn new(config: &Config, earlier: Option<&Policy>) -> Result<Policy, String> {
        let target = Origin::new(&config.target)?;
        let same = earlier.filter(|earlier| earlier.target == target);
        Ok(Policy {
            upstream: Upstream::new(config, earlier.map(|earlier| &earlier.upstream))?,
            known: Known::new(config, same.map(|same| &same.known)),
            models: config.models.clone(),
            target,
            base_path: config.target.base_path.clone(),
            genai: match &config.genai {
                Some(genai) => Some((Origin::new(genai)?, genai.base_path.clone())),
                None => None,
            },
            origin: config.target.origin(),
            limits: Limits {
                max_retries: config.max_retries,
                max_wait: config.max_wait,
            },
            first_byte: config.first_byte_timeout,
            heartbeat: config.heartbeat,
            conversation: match config.rotation {
                Rotation::Sticky => Conversation::Wanted,
                Rotation::RoundRobin => Conversation::Ignored,
            },
            marked: Marked::default(),
        })
    }

    /// Whether requests go to the same places by these rules.
    pub(super) fn leads_where(&self, others: &Policy) -> bool {
        std::ptr::eq(self, others) || (self.target == others.target && self.genai == others.genai)
    }
}

/// What the pool goes by.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        cooldown: config.cooldown,
        pace: config.pace,
        rotation: config.rotation,
        attempts: config.workers,
    }
}

impl Mapped {
    /// What providers limit and refuse this request with: its model; the kind of its path where it
    /// names none; both where it is no chat, so that an endpoint that a key is refused for takes the
    /// key from no other.
    pub(super) fn lane(&self, model: &str) -> String {
        match (model, self.kind.as_str()) {
            ("", kind) => kind.to_owned(),
            (model, "/chat" | "/completions" | "/messages") => model.to_owned(),
            (model, kind) => format!("{model} {kind}"),
        }
    }
}

impl Relay {
    /// Maps a client's request onto the provider; see [`Prepared::new`].
    ///
    /// # Errors
    /// In words for the client, when it cannot be sent as it is.
    pub fn map<'a>(
        &self,
        method: &str,
        target: &str,
        fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) -> Result<Mapped, String> {
        let policy = self.policy().clone();
        let genai = policy.genai.as_ref().filter(|_| route::is_genai(target));
        let (to, path) = match genai {
            Some((to, base)) => (to, route::upward_whole(base, target)),
            None => (&policy.target, route::upward(&policy.base_path, target)),
        };
        let request = Prepared::new(method, to, path, fields.clone())?;
        let (kind, is_completion) = (route::kind(target), route::is_completion(target));
        // Answers of these two have ids too, and nobody comes back for them.
        let is_talk = is_completion || kind == "/messages";
        let owner = match is_talk {
            true => None,
            false => self.owners.of_path(target, Instant::now()),
        };
        let mapped = Mapped {
            kind,
            is_completion,
            owner,
            stores: method == "POST" && !is_talk,
            makes: method == "POST",
            asked: None,
            turn: 0,
            voice: Voice::default(),
            policy,
            request,
        };
        mapped.listen(method, target, fields)
    }
}
