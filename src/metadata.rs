//! Reads three things from a request's body: the model, whether a stream is wanted, and the
//! conversation. Pure, in one pass.
//!
//! The body is not checked: the upstream refuses one that is not JSON.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use alvus_scan::{Fields, items};
use serde_json::Value;

/// See the module's text. The default, if the body is not a JSON object or is cut short.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The `model`; empty if there is none.
    pub model: String,
    /// The `stream` flag.
    pub streams: bool,
    /// A number for the conversation: always the same for the same model, instructions and first
    /// message of the user. `None` if not wanted.
    pub conversation: Option<u64>,
}

/// Whether to read the conversation.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum ReadConversation {
    /// It is.
    Wanted,
    /// It is not.
    Ignored,
}

impl Metadata {
    /// Reads a request's body; the conversation only if that is `wanted`.
    pub fn read(body: &[u8], wanted: ReadConversation) -> Metadata {
        read(body, wanted == ReadConversation::Wanted).unwrap_or_default()
    }
}

fn read(body: &[u8], wanted: bool) -> Option<Metadata> {
    let mut metadata = Metadata::default();
    let mut hasher = DefaultHasher::new();
    let mut begun = false;
    let mut fields = Fields::of(body);
    for (name, value) in fields.by_ref() {
        // If a name occurs twice the last value counts, as in other parsers.
        match meant(name)?.as_ref() {
            b"model" => {
                metadata.model = match value.first() {
                    Some(b'"') => plain(value)?.into_owned(),
                    _ => String::new(),
                };
            }
            b"stream" => metadata.streams = value == b"true",
            // Anthropic's and the Responses API's names for the same.
            b"system" | b"instructions" if wanted => value.hash(&mut hasher),
            b"messages" if wanted => begun = hash_beginning(value, &mut hasher),
            _ => {}
        }
    }
    if begun {
        metadata.model.hash(&mut hasher);
        metadata.conversation = Some(hasher.finish());
    }
    fields.whole.then_some(metadata)
}

/// Hashes the messages up to the user's first one. Returns whether there is any.
fn hash_beginning(messages: &[u8], hasher: &mut DefaultHasher) -> bool {
    let mut begun = false;
    for message in items(messages) {
        begun = true;
        message.hash(hasher);
        let is = |text, expected| plain(text).is_some_and(|text| text == expected);
        if Fields::of(message).any(|(name, value)| is(name, "role") && is(value, "user")) {
            break;
        }
    }
    begun
}

/// The text of a name in its quotes. Hardly any has an escape.
fn meant(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    match name.contains(&b'\\') {
        true => Some(plain(name)?.into_owned().into_bytes().into()),
        false => Some(name[1..name.len() - 1].into()),
    }
}

/// The text of a string in its quotes, if it is valid.
fn plain(string: &[u8]) -> Option<Cow<'_, str>> {
    let inside = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inside.iter().any(|b| *b < b' ' || *b == b'\\') {
        // Escapes are rare here: leave them to a parser.
        return match serde_json::from_slice(string) {
            Ok(Value::String(text)) => Some(text.into()),
            _ => None,
        };
    }
    Some(std::str::from_utf8(inside).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Metadata {
        Metadata::read(body.as_bytes(), ReadConversation::Wanted)
    }

    #[test]
    fn model_and_stream_are_read_wherever_they_stand() {
        for (body, model, streams) in [
            (
                r#"{"model":"a/b","stream":true,"messages":[]}"#,
                "a/b",
                true,
            ),
            (
                r#" {"messages":[{"x":{"model":"no"}}],"model":"m"}"#,
                "m",
                false,
            ),
            (r#"{"model":"caf\u00e9","stream":false}"#, "café", false),
            (r#"{"model":7,"stream":"true"}"#, "", false),
            (
                r#"{"model":"m","stream":true,"model":7,"stream":0}"#,
                "",
                false,
            ),
            (r#"{"stream":true}"#, "", true),
            (r#"{"messages":true,"model":"m"}"#, "m", false),
            (r#"{"messages":null,"model":"m"}"#, "m", false),
            (r#"{"messages":-1,"model":"m"}"#, "m", false),
            (r#"{"messages":1.5,"model":"m"}"#, "m", false),
            (r#"{"messages":"a","model":"m"}"#, "m", false),
            (r#"{"messages":{"a":[{}]},"model":"m"}"#, "m", false),
            (r#"{"model":"m","stream":true"#, "", false), // cut short: the upstream will say so
            ("[1]", "", false),
            ("", "", false),
            ("\u{0}\u{1}", "", false),
            ("model=m&stream=true", "", false),
        ] {
            let found = read(body);
            assert_eq!((&*found.model, found.streams), (model, streams), "{body}");
        }
    }

    #[test]
    fn a_conversation_is_known_by_its_beginning() {
        let turn = |more: &str| {
            let body = format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"s"}},{{"role":"user","content":"hi"}}{more}]}}"#
            );
            read(&body).conversation.expect("a conversation")
        };
        let first = turn("");
        let later = r#",{"role":"assistant","content":"yes"},{"role":"user","content":"and?"}"#;
        assert_eq!(turn(later), first);
        for other in [
            r#"{"model":"n","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}]}"#,
            r#"{"model":"m","messages":[{"role":"system","content":"t"},{"role":"user","content":"hi"}]}"#,
            r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"ho"}]}"#,
            r#"{"model":"m","system":"z","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}]}"#,
        ] {
            assert_ne!(read(other).conversation, Some(first), "{other}");
        }
    }

    #[test]
    fn a_conversation_nobody_asked_for_is_not_read() {
        let body = br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let found = Metadata::read(body, ReadConversation::Ignored);
        assert_eq!((&*found.model, found.streams), ("m", true));
        assert_eq!(found.conversation, None);
    }

    #[test]
    fn a_body_without_a_conversation_has_no_number() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","messages":[]}"#,
            r#"{"messages":{}}"#,
        ] {
            assert_eq!(read(body).conversation, None, "{body}");
        }
    }
}
