//! What a reload replaces as a whole: the provider, the limits of a request, the lessons about models. It also maps a
//! request onto the provider and names its lane.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::answer_mode::{AnswerMode, Known};
use super::client_fields::ClientFields;
use super::host_health::HostHealth;
use super::lease::Shared;
use super::listing::{self, Lists};
use super::owners::Owners;
use super::{Mapped, Relay, lock};
use crate::config::{Config, Faults, Rotation, Target};
use crate::dialect::models::ModelMap;
use crate::headers::Field;
use crate::metadata::ReadConversation;
use crate::metrics::Metrics;
use crate::pool::{Merged, Pool, Settings};
use crate::reply::BadRequest;
use crate::retry::RetryLimits;
use crate::route;
use crate::sse::Marked;
use crate::upstream::{Origin, Prepared, Upstream};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) upstream: Upstream,
    pub(super) target: Host,
    /// Where paths with `/genai/` go: the host of the visual models.
    genai: Option<Host>,
    pub(super) limits: RetryLimits,
    pub(super) first_byte: Duration,
    pub(super) heartbeat: Duration,
    pub(super) conversation: ReadConversation,
    /// Models whose streams were seen to end with a sign that they are complete.
    pub(super) marked: Marked,
    pub(super) models: ModelMap,
    pub(super) lists: Mutex<Lists>,
    /// What is known of the upstream's dialects and models.
    pub(super) known: Known,
}

/// A host that requests go to.
#[derive(Debug, PartialEq)]
pub(super) struct Host {
    pub(super) to: Origin,
    /// Stands before each path.
    pub(super) base_path: String,
    /// As people write it.
    pub(super) origin: String,
}

impl Host {
    fn new(target: &Target) -> Result<Host, Faults> {
        Ok(Host {
            to: Origin::new(target)?,
            base_path: target.base_path.clone(),
            origin: target.origin(),
        })
    }
}

impl Policy {
    /// `earlier`: the policy before a reload. If the provider is the same, its resolved names, connections, TLS
    /// sessions and lessons about models are kept.
    fn new(config: &Config, earlier: Option<&Policy>) -> Result<Policy, Faults> {
        let target = Host::new(&config.target)?;
        let same = earlier.filter(|earlier| earlier.target.to == target.to);
        Ok(Policy {
            upstream: Upstream::new(config, earlier.map(|earlier| &earlier.upstream))?,
            known: Known::new(config, same.map(|same| &same.known)),
            models: config.models.clone(),
            target,
            genai: config.genai.as_ref().map(Host::new).transpose()?,
            limits: RetryLimits {
                max_retries: config.max_retries,
                max_wait: config.max_wait,
            },
            first_byte: config.first_byte_timeout,
            heartbeat: config.heartbeat,
            conversation: match config.rotation {
                Rotation::Sticky => ReadConversation::Wanted,
                Rotation::RoundRobin => ReadConversation::Ignored,
            },
            marked: Marked::default(),
            lists: Mutex::default(),
        })
    }

    /// Whether both policies send requests to the same hosts.
    pub(super) fn has_same_hosts(&self, others: &Policy) -> bool {
        std::ptr::eq(self, others)
            || (self.target.to == others.target.to && self.genai == others.genai)
    }

    /// The host of a request.
    fn host(&self, is_genai: bool) -> &Host {
        let genai = self.genai.as_ref().filter(|_| is_genai);
        genai.unwrap_or(&self.target)
    }
}

/// The pool's settings.
fn settings(config: &Config) -> Settings {
    Settings {
        cooldown: config.cooldown,
        pace: config.pace,
        rotation: config.rotation,
        attempts: config.workers,
    }
}

impl Mapped {
    /// The origin that the request goes to, as people write it: the visual models' host, or the target.
    pub(super) fn origin(&self) -> &str {
        &self.policy.host(self.is_genai).origin
    }

    /// The name of this request's lane. A chat request's is its model. Without a model it is the path's kind. Any other
    /// request's is both, so that a refusal at one endpoint does not take the key from others.
    pub(super) fn lane<'a>(&'a self, model: &'a str) -> Cow<'a, str> {
        let kind: &str = &self.kind;
        match model {
            _ if self.is_genai => kind.into(), // never a lane of the target
            "" => kind.into(),
            _ if route::TALKS.contains(&kind) => model.into(),
            model => format!("{model} {kind}").into(),
        }
    }
}

impl Relay {
    /// A relay with the keys and the provider of `config`.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn new(config: &Config) -> Result<Relay, Faults> {
        let now = Instant::now();
        let pool = Pool::new(&config.api_keys, settings(config), now);
        Ok(Relay {
            shared: Mutex::new(Shared::new(pool)),
            policy: Mutex::new(Arc::new(Policy::new(config, None)?)),
            target: HostHealth::new(now),
            genai: HostHealth::new(now),
            owners: Owners::default(),
            last_refusal: Mutex::default(),
            metrics: Metrics::new(now),
        })
    }

    /// Takes over another configuration. Keys are merged; everything else holds for requests that
    /// come from now on. On an error nothing changes.
    ///
    /// # Errors
    /// In the operator's words, when the upstream's settings cannot be used.
    pub fn reload(&self, config: &Config) -> Result<Merged, Faults> {
        let earlier = self.policy().clone();
        let policy = Arc::new(Policy::new(config, Some(&earlier))?);
        policy.upstream.takes_over();
        let now = Instant::now();
        // Both under one lock, as `pick` compares them: no provider may see another provider's keys.
        let merged = self.pool(|pool| {
            *self.policy() = policy;
            pool.merge(&config.api_keys, settings(config), now)
        });
        *lock(&self.last_refusal) = None;
        self.metrics.reloaded(config.api_keys.len(), now);
        Ok(merged)
    }

    /// Maps a client's request onto the provider; see [`Prepared::new`].
    ///
    /// # Errors
    /// In words for the client, when it cannot be sent as it is.
    pub fn map(&self, method: &str, target: &str, fields: &[Field]) -> Result<Mapped, BadRequest> {
        let policy = self.policy().clone();
        let asked = route::path(target);
        let is_genai = policy.genai.is_some() && route::is_genai(asked);
        let host = policy.host(is_genai);
        let path = match is_genai {
            true => route::upward_whole(&host.base_path, target),
            false => route::upward(&host.base_path, target),
        };
        let client_fields = ClientFields::read(fields)?;
        let list = listing::name(method, target, &path, fields);
        let request = Prepared::new(method, &host.to, &path, fields)?;
        let (kind, is_completion) = (route::kind(asked), route::is_completion(asked));
        // Their answers have ids too, but no later request names those.
        let is_talk = is_completion || kind == "/messages";
        let owner = match is_talk {
            true => None,
            false => self.owners.of_path(target, Instant::now()),
        };
        let mut mapped = Mapped {
            is_genai,
            list: list.filter(|_| client_fields.key.is_none()), // a client that asks for one key wants that key used
            client_fields,
            kind,
            is_completion,
            owner,
            stores: method == "POST" && !is_talk,
            is_post: method == "POST",
            client_model: None,
            model_at: 0,
            answer_mode: AnswerMode::default(),
            policy,
            request,
        };
        mapped.listen(method, target, fields)?;
        Ok(mapped)
    }
}
