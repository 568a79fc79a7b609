//! What was learned of each model from answers and refusals: its limits, what it does not take, how many bytes a token
//! has. Pure, without a clock. Bounded: [`MOST`] models; the one unused longest goes.
//!
//! A lesson is kept once the request that it changed is served. A wrong lesson costs a field that is left out, until
//! [`Learned::clear`] or the end of the process.

use super::json::{Quoted, put};
use super::lessons::{FIELDS, Lesson};
use super::measure::{Size, USUAL_RATIO};

/// The most models that are known at a time.
pub const MOST: usize = 32;

/// The longest name of a model, in bytes.
const LONGEST_NAME: usize = 256;

/// Smaller prompts do not teach the ratio: templates are most of them.
const LEAST_BYTES: u64 = 400;

/// Bytes a thousand tokens; a ratio outside this range is a mistake.
const RATIOS: std::ops::RangeInclusive<u64> = 800..=12_000;

/// What is known of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits {
    /// The limit of prompt and output together, in tokens.
    pub context: Option<u64>,
    /// The limit of output, in tokens.
    pub output: Option<u64>,
    /// One bit for each of [`FIELDS`].
    refused: u16,
    /// Bytes a thousand tokens, once learned.
    ratio: Option<u32>,
    /// See [`Lesson::PlainSchemas`].
    pub plain_schemas: bool,
    /// See [`Lesson::Blind`].
    pub blind: bool,
    /// See [`Lesson::NeedsThoughts`].
    pub needs_thoughts: bool,
    /// See [`Lesson::ShortIds`].
    pub short_ids: bool,
    /// Its template opens `<think>` itself.
    pub thinks_unopened: bool,
}

impl Traits {
    /// Whether the model refuses this one of [`FIELDS`].
    pub fn refuses(&self, field: &str) -> bool {
        bit(field) & self.refused != 0
    }

    /// Bytes a thousand tokens.
    pub fn ratio(&self) -> u32 {
        self.ratio.unwrap_or(USUAL_RATIO)
    }

    /// An estimate of a request's tokens.
    pub fn tokens(&self, size: Size) -> u64 {
        size.tokens(self.ratio())
    }

    /// Adds a lesson that a request of this size taught.
    pub fn learn(&mut self, lesson: Lesson, size: Size) {
        match lesson {
            Lesson::Refuses(field) => self.refused |= bit(field),
            Lesson::Output(most) => self.output = Some(most),
            Lesson::Context(limit, prompt) => {
                self.context = Some(limit);
                if let Some(tokens) = prompt {
                    self.measure(size, tokens);
                }
            }
            Lesson::PlainSchemas => self.plain_schemas = true,
            Lesson::Blind => self.blind = true,
            Lesson::NeedsThoughts => self.needs_thoughts = true,
            Lesson::ShortIds => self.short_ids = true,
        }
    }

    fn measure(&mut self, size: Size, tokens: u64) {
        let ratio = (size.bytes.saturating_mul(1000)).checked_div(tokens);
        let ratio = ratio.filter(|ratio| {
            RATIOS.contains(ratio) && size.images == 0 && size.bytes >= LEAST_BYTES
        });
        if let Some(ratio) = ratio.and_then(|ratio| u32::try_from(ratio).ok()) {
            self.ratio = Some(ratio);
        }
    }
}

fn bit(field: &str) -> u16 {
    FIELDS
        .iter()
        .position(|name| *name == field)
        .map_or(0, |at| 1 << at)
}

/// The table. Names are the upstream's.
#[derive(Debug, Default)]
pub struct Learned {
    /// The one used last is last.
    models: Vec<(String, Traits)>,
}

impl Learned {
    /// What is known of a model; the default if nothing is.
    pub fn traits(&self, model: &str) -> Traits {
        let found = self.models.iter().find(|(name, _)| name == model);
        found.map(|(_, traits)| *traits).unwrap_or_default()
    }

    /// Adds a lesson that a refused request of this size taught.
    pub fn learn(&mut self, model: &str, lesson: Lesson, size: Size) {
        self.change(model, |traits| traits.learn(lesson, size));
    }

    /// A request of this size was served, with this many tokens. A known context too small for them was wrong.
    pub fn measured(&mut self, model: &str, size: Size, prompt_tokens: u64) {
        self.change(model, |traits| {
            traits.measure(size, prompt_tokens);
            traits.context = traits.context.filter(|limit| prompt_tokens <= *limit);
        });
    }

    /// An answer showed whether the model's template opens `<think>` itself.
    pub fn thinks_unopened(&mut self, model: &str, it_does: bool) {
        self.change(model, |traits| traits.thinks_unopened = it_does);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.models.clear();
    }

    /// All models, the one used last first.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Traits)> {
        self.models
            .iter()
            .rev()
            .map(|(name, traits)| (&**name, traits))
    }

    fn change(&mut self, model: &str, change: impl FnOnce(&mut Traits)) {
        if model.len() > LONGEST_NAME {
            return;
        }
        let mut entry = match self.models.iter().position(|(name, _)| name == model) {
            Some(at) => self.models.remove(at),
            None => (model.to_string(), Traits::default()),
        };
        change(&mut entry.1);
        // An entry that says nothing is dropped.
        if entry.1 != Traits::default() {
            if self.models.len() == MOST {
                self.models.remove(0);
            }
            self.models.push(entry);
        }
    }
}

/// What is known of all models, as a JSON object for `/health`: each name, and what differs from the default.
pub fn to_json(learned: &Learned) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before = "{";
    for (name, traits) in learned.all() {
        put!(&mut out, before, Quoted(name), ":{");
        put_traits(&mut out, traits);
        put!(&mut out, "}");
        before = ",";
    }
    put!(&mut out, if before == "{" { "{}" } else { "}" });
    out
}

fn put_traits(out: &mut Vec<u8>, traits: &Traits) {
    let begin = out.len();
    let numbers = [
        ("context", traits.context),
        ("output", traits.output),
        ("bytes_per_1000_tokens", traits.ratio.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            put!(out, ",\"", name, "\":", number);
        }
    }
    let flags = [
        ("plain_schemas", traits.plain_schemas),
        ("no_images", traits.blind),
        ("needs_reasoning_content", traits.needs_thoughts),
        ("short_ids", traits.short_ids),
        ("thinks_unopened", traits.thinks_unopened),
    ];
    for (name, _) in flags.iter().filter(|(_, is)| *is) {
        put!(out, ",\"", *name, "\":true");
    }
    let mut before = ",\"refuses\":[\"";
    for field in FIELDS.iter().filter(|field| traits.refuses(field)) {
        put!(out, before, *field, "\"");
        before = ",\"";
    }
    if before == ",\"" {
        put!(out, "]");
    }
    if out.len() > begin {
        out.remove(begin); // the first comma
    }
}
