//! What alvus reads of a request's body: which model, whether a stream is wanted, and which
//! conversation it belongs to. Pure, and in one pass: a body of many megabytes costs no second
//! copy, as nothing of it is kept but these three.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// See the module's text. A body that is no JSON object is the default.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The `model`; empty if there is none.
    pub model: String,
    /// The `stream` flag.
    pub streams: bool,
    /// A number for the conversation: the same for the same model, instructions and first
    /// message of the user, however long the conversation has become. Only where it was asked for.
    pub conversation: Option<u64>,
}

impl Question {
    /// Reads a request's body; the conversation only if that is `wanted`, for then its first
    /// messages stand in memory twice for a moment.
    pub fn read(body: &[u8], wanted: Conversation) -> Question {
        if !body.trim_ascii_start().starts_with(b"{") {
            return Question::default();
        }
        let mut json = serde_json::Deserializer::from_slice(body);
        json.deserialize_any(Body(wanted)).unwrap_or_default()
    }
}

/// Whether the conversation is of interest.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Conversation {
    /// It is.
    Wanted,
    /// It is not.
    Ignored,
}

/// For a visitor: of what it does not look for it makes the default. serde's own way, an error that names
/// what was found, would link the writing of floats: 20 kB.
macro_rules! anything_else_is_the_default {
    () => { anything_else_is_the_default!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str); };
    ($($visit:ident: $found:ty),+) => {
        $(fn $visit<E>(self, _: $found) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })+
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
        fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Ok(())
        }
    };
}

/// Reads the top level.
struct Body(Conversation);

impl<'de> Visitor<'de> for Body {
    type Value = Question;

    anything_else_is_the_default!();

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Question, A::Error> {
        Ok(Question::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Question, A::Error> {
        let mut question = Question::default();
        let mut hasher = DefaultHasher::new();
        let mut begun = false;
        let wanted = self.0 == Conversation::Wanted;
        while let Some(name) = map.next_key()? {
            match name {
                // Of a name that stands twice the last value counts, as for other parsers.
                Name::Model => {
                    question.model = match map.next_value()? {
                        Value::String(model) => model,
                        _ => String::new(),
                    };
                }
                Name::Stream => question.streams = map.next_value::<Value>()? == Value::Bool(true),
                Name::Instructions if wanted => map.next_value::<Value>()?.hash(&mut hasher),
                Name::Messages if wanted => {
                    let messages: Beginning = map.next_value()?;
                    messages.0.hash(&mut hasher);
                    begun = !messages.0.is_empty();
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if begun {
            question.model.hash(&mut hasher);
            question.conversation = Some(hasher.finish());
        }
        Ok(question)
    }
}

/// A name of the top level. Recognised where it stands, it costs no allocation.
enum Name {
    Model,
    Stream,
    /// `system` or `instructions`: Anthropic's and the Responses API's names for the same.
    Instructions,
    Messages,
    Other,
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_identifier(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_str<E>(self, name: &str) -> Result<Name, E> {
        Ok(match name {
            "model" => Name::Model,
            "stream" => Name::Stream,
            "system" | "instructions" => Name::Instructions,
            "messages" => Name::Messages,
            _ => Name::Other,
        })
    }
}

/// The messages up to the user's first one; none where there is no list of them.
#[derive(Default)]
struct Beginning(Vec<Value>);

impl<'de> serde::Deserialize<'de> for Beginning {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Beginning, D::Error> {
        deserializer.deserialize_any(Messages)
    }
}

struct Messages;

impl<'de> Visitor<'de> for Messages {
    type Value = Beginning;

    anything_else_is_the_default!();

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Beginning, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Beginning::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Beginning, A::Error> {
        let mut beginning = Vec::new();
        while let Some(message) = seq.next_element::<Value>()? {
            let is_users = message["role"] == "user";
            beginning.push(message);
            if is_users {
                break;
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Beginning(beginning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Question {
        Question::read(body.as_bytes(), Conversation::Wanted)
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
        let found = Question::read(body, Conversation::Ignored);
        assert_eq!((&*found.model, found.streams), ("m", true));
        assert_eq!(found.conversation, None);
    }

    #[test]
    fn what_is_no_conversation_has_no_number() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","messages":[]}"#,
            r#"{"messages":{}}"#,
        ] {
            assert_eq!(read(body).conversation, None, "{body}");
        }
    }
}
