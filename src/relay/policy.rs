//! Where requests go, and how far: what a configuration says about the provider. Replaced as a
//! whole by a reload.

use std::time::{Duration, Instant};

use super::listing::{self, Listings};
use super::voice::{Known, Voice};
use super::wishes::Wishes;
use super::{Mapped, Relay};
use crate::config::{Config, Rotation, Target};
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
    /// Where paths with `/genai/` go.
    genai: Option<Genai>,
    /// The target's, as people write it.
    origin: String,
    pub(super) limits: Limits,
    pub(super) first_byte: Duration,
    pub(super) heartbeat: Duration,
    pub(super) conversation: Conversation,
    /// Models whose streams of completions were seen to say when they are over.
    pub(super) marked: Marked,
    pub(super) models: ModelMap,
    pub(super) listings: Listings,
    /// What is known of the upstream's dialects.
    pub(super) known: Known,
}

/// The host of the visual models.
#[derive(Debug, PartialEq)]
struct Genai {
    to: Origin,
    /// What stands in front of a path.
    base_path: String,
    /// As people write it.
    origin: String,
}

impl Genai {
    fn new(target: &Target) -> Result<Genai, String> {
        Ok(Genai {
            to: Origin::new(target)?,
            base_path: target.base_path.clone(),
            origin: target.origin(),
        })
    }
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
            genai: config.genai.as_ref().map(Genai::new).transpose()?,
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
            listings: Listings::default(),
        })
    }

    /// Where requests go, as people write it: to the host of the visual models, or to the target.
    pub(super) fn origin(&self, is_genai: bool) -> &str {
        match self.genai.as_ref().filter(|_| is_genai) {
            Some(genai) => &genai.origin,
            None => &self.origin,
        }
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
    /// key from no other. `None`: the model alone.
    pub(super) fn lane(&self, model: &str) -> Option<String> {
        let kind: &str = &self.kind;
        match model {
            _ if self.is_genai => Some(kind.to_owned()), // and no lane of the target's
            "" => Some(kind.to_owned()),
            _ if route::TALKS.contains(&kind) => None,
            model => Some(format!("{model} {kind}")),
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
            Some(genai) => (&genai.to, route::upward_whole(&genai.base_path, target)),
            None => (&policy.target, route::upward(&policy.base_path, target)),
        };
        let wishes = Wishes::read(fields.clone())?;
        let list = listing::name(method, target, &path, fields.clone());
        let request = Prepared::new(method, to, &path, fields.clone())?;
        let (kind, is_completion) = (route::kind(target), route::is_completion(target));
        // Answers of these two have ids too, and nobody comes back for them.
        let is_talk = is_completion || kind == "/messages";
        let owner = match is_talk {
            true => None,
            false => self.owners.of_path(target, Instant::now()),
        };
        let mut mapped = Mapped {
            is_genai: genai.is_some(),
            list: list.filter(|_| wishes.key.is_none()), // who wants one key wants to see it used
            wishes,
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
        mapped.listen(method, target, fields)?;
        Ok(mapped)
    }
}
