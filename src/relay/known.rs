//! What is known of the upstream: the dialects it speaks, and what was learned of its models.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::{Relay, lock};
use crate::config::{Config, DialectMode};
use crate::dialect::interface::{DIALECTS, Dialect};
use crate::dialect::learned::{Learned, to_json};

/// Hosts that speak chat completions and not Messages. The flag: they speak Responses.
const CHAT_HOSTS: [(&str, bool); 5] = [
    ("integrate.api.nvidia.com", false),
    ("api.groq.com", true),
    ("api.cerebras.ai", false),
    ("api.mistral.ai", false),
    ("generativelanguage.googleapis.com", false),
];

/// See the module's text.
#[derive(Debug)]
pub(super) struct Known {
    /// By dialect.
    ways: [Way; DIALECTS],
    learned: Arc<Mutex<Learned>>,
}

/// What is known of one dialect.
#[derive(Debug)]
struct Way {
    mode: DialectMode,
    /// The upstream does not speak it: requests are translated to chat completions.
    translates: AtomicBool,
    /// The upstream was seen to speak it: requests pass as they are.
    passes: AtomicBool,
}

impl Known {
    /// `earlier`: lessons to keep, if the provider is the same.
    pub(super) fn new(config: &Config, earlier: Option<&Known>) -> Known {
        let host = config.target.host();
        let chat = CHAT_HOSTS.iter().find(|(name, _)| *name == host);
        let way = |mode: DialectMode, chat_only: bool| Way {
            mode,
            translates: AtomicBool::new(match mode {
                DialectMode::Auto => chat_only,
                mode => mode == DialectMode::Translate,
            }),
            passes: AtomicBool::new(mode == DialectMode::Pass),
        };
        Known {
            ways: [
                way(config.messages, chat.is_some()),
                way(
                    config.responses,
                    chat.is_some_and(|(_, responses)| !responses),
                ),
            ],
            learned: earlier
                .map(|earlier| earlier.learned.clone())
                .unwrap_or_default(),
        }
    }

    /// Whether requests in the dialect may be translated.
    pub(super) fn may_translate(&self, dialect: Dialect) -> bool {
        self.way(dialect).mode != DialectMode::Pass
    }

    pub(super) fn translates(&self, dialect: Dialect) -> bool {
        self.way(dialect).translates.load(Ordering::Relaxed)
    }

    pub(super) fn passes(&self, dialect: Dialect) -> bool {
        self.way(dialect).passes.load(Ordering::Relaxed)
    }

    /// A request was served, translated or not.
    pub(super) fn served(&self, dialect: Dialect, translated: bool) {
        let way = self.way(dialect);
        match translated {
            true => way.translates.store(true, Ordering::Relaxed),
            false => way.passes.store(true, Ordering::Relaxed),
        }
    }

    /// What is known of models by now.
    pub(super) fn learned(&self) -> MutexGuard<'_, Learned> {
        let mut learned = lock(&self.learned);
        learned.forget(Instant::now());
        learned
    }

    fn way(&self, dialect: Dialect) -> &Way {
        &self.ways[dialect as usize]
    }
}

impl Relay {
    /// What was learned of models, as a JSON object.
    pub fn learned(&self) -> Option<String> {
        let policy = self.policy().clone();
        let json = to_json(&policy.known.learned());
        String::from_utf8(json).ok()
    }
}
