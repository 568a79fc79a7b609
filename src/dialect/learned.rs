//! What was learned of each model from answers and refusals: its limits, what it does not take, how many bytes a token
//! has. Pure. Bounded: [`MOST`] models; the one unused longest goes.
//!
//! A lesson is kept once the request that it changed is served. A refusal may have been about that request alone, so
//! each lesson ends ([`KEPT`]) and is learned again if it was right.

use std::time::{Duration, Instant};

use super::json::{Quoted, put};
use super::lessons::{FIELDS, Lesson};
use super::measure::{Size, USUAL_RATIO};

/// The most models that are known at a time.
pub const MOST: usize = 32;

/// How long lessons are kept: the first time, and each time that the same is learned again.
const KEPT: [Duration; 5] = [
    Duration::from_secs(60),
    Duration::from_secs(600),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
    Duration::from_secs(24 * 3600),
];

/// How long a model that read an image is not taken for blind: the fault is the image's.
const SEES: Duration = Duration::from_secs(3600);

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

/// A model in the table.
#[derive(Debug, Default)]
struct Model {
    /// The upstream's name for it.
    name: String,
    traits: Traits,
    /// When its lessons end.
    until: Option<Instant>,
    /// All lessons so far, ended ones too, and how often they were learned.
    taught: Traits,
    times: usize,
    /// When it read an image last.
    saw: Option<Instant>,
}

impl Model {
    fn learn(&mut self, lesson: Lesson, size: Size, now: Instant) {
        self.traits.learn(lesson, size);
        let mut taught = self.taught;
        taught.learn(lesson, size);
        taught.ratio = None;
        if taught != self.taught {
            (self.taught, self.times, self.until) = (taught, 0, None);
        }
        if self.until.is_none() {
            self.until = Some(now + KEPT[self.times.min(KEPT.len() - 1)]);
            self.times += 1;
        }
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Learned {
    /// The one used last is last.
    models: Vec<Model>,
}

impl Learned {
    /// What is known of a model; the default if nothing is.
    pub fn traits(&self, model: &str) -> Traits {
        self.find(model)
            .map(|model| model.traits)
            .unwrap_or_default()
    }

    /// Whether it read an image lately.
    pub fn sees(&self, model: &str, now: Instant) -> bool {
        let saw = self.find(model).and_then(|model| model.saw);
        saw.is_some_and(|at| now < at + SEES)
    }

    /// Adds a lesson that a refused request of this size taught.
    pub fn learn(&mut self, model: &str, lesson: Lesson, size: Size, now: Instant) {
        self.change(model, |model| model.learn(lesson, size, now));
    }

    /// Drops the lessons that have ended.
    pub fn forget(&mut self, now: Instant) {
        let is_over = |model: &&mut Model| model.until.is_some_and(|until| until <= now);
        for model in self.models.iter_mut().filter(is_over) {
            model.until = None;
            model.traits = Traits {
                ratio: model.traits.ratio,
                thinks_unopened: model.traits.thinks_unopened,
                ..Traits::default()
            };
        }
    }

    /// A request of this size was served, with this many tokens. A known context too small for them was wrong.
    pub fn measured(&mut self, model: &str, size: Size, prompt_tokens: u64, now: Instant) {
        self.change(model, |model| {
            let traits = &mut model.traits;
            traits.measure(size, prompt_tokens);
            traits.context = traits.context.filter(|limit| prompt_tokens <= *limit);
            if size.images > 0 {
                model.saw = Some(now);
            }
        });
    }

    /// An answer showed whether the model's template opens `<think>` itself.
    pub fn thinks_unopened(&mut self, model: &str, it_does: bool) {
        self.change(model, |model| model.traits.thinks_unopened = it_does);
    }

    /// All models, the one used last first.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Traits)> {
        let known = |model: &&Model| model.traits != Traits::default();
        let models = self.models.iter().rev().filter(known);
        models.map(|model| (&*model.name, &model.traits))
    }

    fn find(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Model)) {
        if name.len() > LONGEST_NAME {
            return;
        }
        let mut entry = match self.models.iter().position(|model| model.name == name) {
            Some(at) => self.models.remove(at),
            None => Model {
                name: name.to_string(),
                ..Model::default()
            },
        };
        change(&mut entry);
        let is_new = (entry.taught, entry.saw) == (Traits::default(), None);
        // An entry that says nothing is dropped.
        if !(is_new && entry.traits == Traits::default()) {
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
