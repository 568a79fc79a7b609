//! What a refusal teaches of a model, by its words: limits, and what the model does not take. Pure. [`super::adapt`]
//! uses it for this request, [`super::learned`] for later ones.

use super::json::Json;

/// How much of an error's body is read, in bytes.
const MOST_WORDS: usize = 4 * 1024;

/// The fields that may be left out of a request, or get another name.
pub const FIELDS: [&str; 11] = [
    "stream_options",
    "temperature",
    "top_p",
    "stop",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "chat_template_kwargs",
    "reasoning_content", // of the assistant's messages
    "max_tokens",        // is sent as `max_completion_tokens`
];

/// No model has more tokens than this.
const MOST_TOKENS: u64 = 1 << 40;

/// The longest error message of an upstream that is passed on, in bytes.
const MAX_MESSAGE: usize = 2_000;

/// What one refusal teaches.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Lesson {
    /// The model does not take this one of [`FIELDS`].
    Refuses(&'static str),
    /// The most tokens of output that may be asked for.
    Output(u64),
    /// The model's context, prompt and output together, in tokens; and the prompt's tokens, if stated.
    Context(u64, Option<u64>),
    /// Schemas of tools may have simple keywords only.
    PlainSchemas,
    /// The model cannot read images.
    Blind,
    /// Messages with tool calls must have thoughts.
    NeedsThoughts,
    /// Ids of tool calls must have nine letters or digits (Mistral).
    ShortIds,
}

/// Reads a refusal. [`super::adapt`] finds out whether it concerns the request at all.
pub fn learn_from_error(status: u16, body: &[u8]) -> Option<Lesson> {
    if !matches!(status, 400 | 404 | 413 | 422 | 500) {
        return None;
    }
    let words = words(body);
    let says = |any: &[&str]| any.iter().any(|word| words.contains(word));
    let about_images = says(&[
        "image input",
        "image_url",
        "images are not",
        "multimodal",
        "vision",
    ]);
    if let Some(overflow) = Overflow::read(status, body) {
        return overflow
            .limit
            .map(|limit| Lesson::Context(limit, overflow.prompt));
    }
    if about_images && (status == 500 || says(&NOT_TAKEN)) {
        return Some(Lesson::Blind);
    }
    if !matches!(status, 400 | 422) {
        return None;
    }
    if let Some(most) = output_limit(&words) {
        Some(Lesson::Output(most))
    } else if says(&["length of 9"]) {
        Some(Lesson::ShortIds)
    } else if says(&["reasoning_content"])
        && says(&[
            "missing",
            "must be passed",
            "must be provided",
            "is required",
        ])
    {
        Some(Lesson::NeedsThoughts)
    } else if says(&["schema", "parameters.properties", "function_declarations"])
        && !says(&["response_format"])
    {
        Some(Lesson::PlainSchemas)
    } else if says(&NOT_TAKEN) {
        FIELDS
            .into_iter()
            .find(|field| names(&words, field))
            .map(Lesson::Refuses)
    } else {
        None
    }
}

/// Words that say that something is not taken.
const NOT_TAKEN: [&str; 15] = [
    "no endpoints found", // OpenRouter
    "unsupported",
    "not support", // is not supported, does not support
    "not permitted",
    "not allowed",
    "extra_forbidden",
    "immutable",
    "unrecognized",
    "unknown field",
    "unknown name",
    "unknown parameter",
    "unknown variant",
    "unexpected keyword",
    "must be one of",
    "not a multimodal",
];

/// The beginning of a body, in lower case, without escapes of quotes.
fn words(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(&body[..body.len().min(MOST_WORDS)]);
    body.replace("\\\"", "\"").to_ascii_lowercase()
}

/// Whether a field is named: as a word of its own, in quotes, or at the end of a path.
fn names(words: &str, field: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    words.match_indices(field).any(|(at, _)| {
        let before = words[..at].chars().next_back();
        let after = words[at + field.len()..].chars().next();
        let quoted = before.is_some_and(|c| "\"'`.".contains(c))
            && after.is_some_and(|c| "\"'`:".contains(c));
        let alone = !before.is_some_and(is_name) && !after.is_some_and(is_name);
        quoted || (alone && field.contains('_')) || (alone && words.starts_with(field))
    })
}

/// A prompt that is longer than the model's context, alone or with the output asked for.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Overflow {
    /// The prompt's tokens, if stated.
    pub prompt: Option<u64>,
    /// The context's tokens, if stated.
    pub limit: Option<u64>,
}

/// Words of OpenAI, vLLM, SGLang, llama.cpp, TensorRT-LLM, Mistral, Gemini, Groq, Ollama.
const OVERFLOWS: [&str; 16] = [
    "maximum context length",
    "context_length_exceeded",
    "longer than the model",
    "exceeds the maximum number of tokens",
    "reduce the length",
    "prompt too long",
    "prompt is too long",
    "maximum input length",
    "context length is only",
    "exceed_context_size",
    "available context size",
    "max_tokens must be at least 1, got -",
    "max_num_tokens",
    "context window",
    "exceed context limit",
    "exceeded max context length",
];

const LIMIT_AFTER: [&str; 12] = [
    "maximum context length is ",
    "maximum context length of ",
    "context length is only ",
    "context length (",
    "context window of ",
    "context size (",
    "limit is ",
    "tokens allowed (",
    "\"n_ctx\":",
    "max_num_tokens (",
    "tokens > ",
    "maximum of ",
];
const LIMIT_BEFORE: [&str; 1] = [" maximum context length"];
const PROMPT_AFTER: [&str; 10] = [
    "messages resulted in ",
    "input token count (",
    "the input (",
    "prompt contains ",
    "current length is ",
    "\"n_prompt_tokens\":",
    "prompt is too long: ",
    "prompt length (",
    "request (",
    "your prompt has ",
];
const PROMPT_BEFORE: [&str; 6] = [
    " in the messages",
    " input tokens",
    " of text input",
    " tokens from the input",
    " in the prompt",
    " prompt tokens",
];
const TOTAL_AFTER: [&str; 4] = [
    "requested about ",
    "requested a total of ",
    "you requested ",
    "requested: ",
];
const ANSWER_BEFORE: [&str; 4] = [
    " in the completion",
    " in the output",
    " tokens for the completion",
    " output tokens",
];

impl Overflow {
    /// Reads an error; `None`: it is about something else.
    pub fn read(status: u16, body: &[u8]) -> Option<Overflow> {
        if !matches!(status, 400 | 413 | 422 | 500) {
            return None;
        }
        let words = words(body);
        if !OVERFLOWS.iter().any(|sign| words.contains(sign)) {
            return None;
        }
        let after = |phrases: &[&str]| {
            phrases
                .iter()
                .find_map(|phrase| number_after(&words, phrase))
        };
        let before = |phrases: &[&str]| {
            phrases
                .iter()
                .find_map(|phrase| number_before(&words, phrase))
        };
        let all = after(&TOTAL_AFTER);
        let tools = number_before(&words, " of tool input").unwrap_or(0); // OpenRouter
        let told = before(&PROMPT_BEFORE).or_else(|| after(&PROMPT_AFTER));
        let rest = || Some(all?.saturating_sub(before(&ANSWER_BEFORE).unwrap_or(0)));
        Some(Overflow {
            prompt: told
                .map(|prompt| prompt.saturating_add(tools))
                .or_else(rest),
            limit: after(&LIMIT_AFTER)
                .or_else(|| before(&LIMIT_BEFORE))
                .filter(|limit| *limit > 0),
        })
    }
}

/// The limit of output in a refusal, if it states one.
fn output_limit(words: &str) -> Option<u64> {
    const ASKED: [&str; 4] = [
        "max_tokens",
        "max_completion_tokens",
        "maxoutputtokens",
        "max_output_tokens",
    ];
    const AFTER: [&str; 11] = [
        "supports at most ",
        "less than or equal to ",
        "[1, ",
        "(1, ",
        "must be at most ",
        "\"le\":",
        "cannot exceed ",
        "not exceed ",
        "no more than ",
        "must be <= ",
        " > ",
    ];
    if !ASKED.iter().any(|name| words.contains(name)) {
        return None;
    }
    let open = || number_after(words, "(inclusive) to ").map(|end| end.saturating_sub(1)); // Gemini
    let found = AFTER.iter().find_map(|phrase| number_after(words, phrase));
    found.or_else(open).filter(|most| *most > 0)
}

/// The number right after a phrase, perhaps in backticks or brackets.
fn number_after(words: &str, phrase: &str) -> Option<u64> {
    let mut starts = words
        .match_indices(phrase)
        .map(|(at, _)| &words[at + phrase.len()..]);
    starts.find_map(|rest| number(rest.trim_start_matches(['`', '(', ' ', '\''])))
}

/// The number before a phrase, with or without "tokens" between.
fn number_before(words: &str, phrase: &str) -> Option<u64> {
    let (before, _) = words.split_once(phrase)?;
    let before = before.trim_end_matches(" tokens");
    let others = |c: char| !(c.is_ascii_digit() || c == ',');
    number(before.rsplit(others).next()?)
}

/// The number of tokens that a text begins with. `131,072` counts; a number that no model has does not.
fn number(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == ','));
    text[..end.unwrap_or(text.len())]
        .replace(',', "")
        .parse()
        .ok()
        .filter(|tokens| *tokens <= MOST_TOKENS)
}

/// The message of an upstream's error, whatever its shape.
pub fn message(body: &[u8]) -> Option<String> {
    let json = Json::parse(body)?;
    let whole = json.items().next().unwrap_or(json); // Gemini wraps it in a list
    let text = |value: Option<Json<'_>>| {
        let plain = value?.string()?.plain();
        (!plain.trim().is_empty()).then(|| plain.into_owned())
    };
    let [error, message, detail, title] = whole.pick(["error", "message", "detail", "title"]);
    let in_detail = || detail?.items().next()?.get("msg");
    let in_error = error.and_then(|error| error.get("message"));
    let found = text(in_error)
        .or_else(|| text(error))
        .or_else(|| text(message))
        .or_else(|| text(detail))
        .or_else(|| text(in_detail()))
        .or_else(|| text(title))?;
    Some(found.chars().take(MAX_MESSAGE).collect())
}

/// The code of an error in OpenAI's shape; "" for none.
pub fn code(body: &[u8]) -> String {
    let error = Json::parse(body).and_then(|body| body.get("error"));
    let code = error.and_then(|error| error.get("code")?.string());
    code.map_or(String::new(), |code| code.plain().into_owned())
}
