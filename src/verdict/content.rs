//! Whether an answer has content. It is scanned in place up to its first content, and no further. This is no parser: a text
//! that is not JSON may seem to have content.

use alvus_scan::{behind_blanks, next_value};

/// Fields whose text is content, unless it is empty or `[DONE]` …
const SAYS: &str = "\
    choices message content delta text output candidates parts part item content_block response \
    reasoning reasoning_content reasoning_details thinking refusal arguments partial_json \
    transcript output_text summary audio images outputs";

/// … and fields whose presence is content.
const HOLDS: &str = "\
    tool_calls function_call functionCall inlineData data embedding embeddings results predictions \
    segments artifacts b64_json";

/// How deep content is looked for; known answers have it within eight.
const DEEPEST: u8 = 16;

/// Whether an answer has content, as far as a scan can tell.
pub fn has_content(json: &[u8]) -> bool {
    says(&mut json.trim_ascii_start(), DEEPEST).unwrap_or(false)
}

/// Whether the value at the start of `text` has content; if not, `text` becomes what follows it. `None`: not known.
fn says(text: &mut &[u8], deep: u8) -> Option<bool> {
    match text.first()? {
        // Huawei's ModelArts has that text beside an error.
        b'"' => Some(!matches!(next_value(text)?, b"\"\"" | b"\"[DONE]\"")),
        b'[' if deep > 0 => {
            *text = &text[1..];
            while !ends(text)? {
                if says(text, deep - 1)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        b'{' if deep > 0 => {
            *text = &text[1..];
            while !ends(text)? {
                let name = next_value(text)?;
                if field_says(name.strip_prefix(b"\"")?, text, deep)? {
                    return Some(true);
                }
            }
            Some(false)
        }
        _ => next_value(text).map(|_| false),
    }
}

/// The same for a field's value. `name`: the field's, without its first quote.
fn field_says(name: &[u8], text: &mut &[u8], deep: u8) -> Option<bool> {
    *text = behind_blanks(text);
    let is_one = |names: &str| {
        let name = &name[..name.len() - 1];
        names.split(' ').any(|known| known.as_bytes() == name)
    };
    Some(match name {
        // The most frequent fields, without a search in the lists.
        b"id\"" | b"object\"" | b"created\"" | b"model\"" | b"index\"" | b"role\"" => {
            next_value(text).map(|_| false)?
        }
        b"choices\"" | b"delta\"" | b"content\"" => says(text, deep - 1)?,
        // An item that is not a message is a call.
        b"type\"" => {
            let kind = next_value(text)?;
            kind.ends_with(b"_call\"") || kind.ends_with(b"_use\"")
        }
        // An error's message is not content.
        b"message\"" if text.starts_with(b"{") => says(text, deep - 1)?,
        b"message\"" => next_value(text).map(|_| false)?,
        // The request's own setting, which the Responses API repeats.
        b"reasoning\"" if text.starts_with(b"{") => next_value(text).map(|_| false)?,
        _ if is_one(SAYS) => says(text, deep - 1)?,
        _ if is_one(HOLDS) => match next_value(text)? {
            [b'"', inside @ .., _] => !inside.is_empty(),
            [b'[' | b'{', inside @ .., _] => !inside.trim_ascii().is_empty(),
            _ => false,
        },
        _ => next_value(text).map(|_| false)?,
    })
}

/// Whether a list or an object ends here. Skips that end, or what stands between two values.
fn ends(text: &mut &[u8]) -> Option<bool> {
    *text = behind_blanks(text);
    let ends = matches!(text.first()?, b']' | b'}');
    *text = &text[usize::from(ends)..];
    Some(ends)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The same, said of what a parser read.
    fn parsed(value: &Value) -> bool {
        let is_in = |list: &str, name: &str| list.split(' ').any(|one| one == name);
        let holds = |value: &Value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => false,
        };
        let call = |kind: &str| kind.ends_with("_call") || kind.ends_with("_use");
        match value {
            Value::String(text) => !text.is_empty() && text != "[DONE]",
            Value::Array(list) => list.iter().any(parsed),
            Value::Object(fields) => fields.iter().any(|(name, value)| match name.as_str() {
                "type" => value.as_str().is_some_and(call),
                "message" => value.is_object() && parsed(value),
                name => is_in(HOLDS, name) && holds(value) || is_in(SAYS, name) && parsed(value),
            }),
            _ => false,
        }
    }

    #[test]
    fn a_scan_in_place_finds_what_a_parser_finds() {
        const NAMES: [&str; 12] = [
            "choices",
            "message",
            "content",
            "type",
            "data",
            "usage",
            "error",
            "text",
            "delta",
            "tool_calls",
            "a\\\"b",
            "role",
        ];
        const WORDS: [&str; 7] = [
            "",
            "[DONE]",
            "x",
            "tool_use",
            "\\\"content\\\":\\\"x\\\"",
            "{[",
            "message",
        ];
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 33) as usize % below
        };
        fn any(random: &mut dyn FnMut(usize) -> usize, depth: usize) -> String {
            match random(if depth == 0 { 3 } else { 7 }) {
                0 => format!("\"{}\"", WORDS[random(WORDS.len())]),
                1 => ["1", "-2.5e3", "null", "true", "false"][random(5)].into(),
                2 => "\"\"".into(),
                3 => {
                    let items: Vec<_> = (0..random(3)).map(|_| any(random, depth - 1)).collect();
                    format!("[{}]", items.join(","))
                }
                _ => {
                    let mut field = || {
                        let name = NAMES[random(NAMES.len())];
                        format!("\"{name}\" : {}\n", any(random, depth - 1))
                    };
                    let fields: Vec<_> = (0..3).map(|_| field()).collect();
                    format!("{{{}}}", fields.join(", "))
                }
            }
        }
        let mut met = [0; 2];
        for _ in 0..30_000 {
            let json = any(&mut random, 5);
            let value: Value = serde_json::from_str(&json).expect(&json);
            // Of a name that stands twice a parser keeps the last.
            let kept = value.to_string();
            assert_eq!(has_content(kept.as_bytes()), parsed(&value), "{kept}");
            met[usize::from(parsed(&value))] += 1;
        }
        assert!(met[0] > 1_000 && met[1] > 1_000, "{met:?}");
        for junk in [
            "",
            "plain",
            "{",
            "[[",
            "}",
            "{\"content\"",
            "{\"content\":\"",
            "\\",
        ] {
            assert!(!has_content(junk.as_bytes()), "{junk}");
        }
        assert!(!has_content("[".repeat(100_000).as_bytes()));
    }
}
