//! A provider's API key as a type that cannot be printed by accident.
//!
//! `Debug` and `Display` show only the label. [`ApiKey::expose`] is the only way to the text, so `grep expose` lists
//! every place where a key leaves this type.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::hint::black_box;
use std::sync::Arc;

use ring::digest;

/// Bytes of a salt for [`tag`].
pub const SALT: usize = 16;

/// Eight bytes of a salted hash: enough to tell keys apart, and too little to learn a key from.
pub type Tag = [u8; 8];

/// The start of SHA-256 over salt and text.
pub fn tag(salt: &[u8; SALT], text: &[u8]) -> Tag {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(salt);
    hash.update(text);
    let mut tag = Tag::default();
    tag.copy_from_slice(&hash.finish().as_ref()[..8]);
    tag
}

/// How many characters of a key may be seen in logs and pages.
const SHOWN: usize = 4;

/// Shorter keys show none of their characters: the last four of eight would be half the secret.
const SHORT: usize = 12;

/// One API key, perhaps with a name. Compare it, clone it, hash it, but never print it: `{}` and `{:?}` give its
/// [label](ApiKey::label). The name is for people only: two keys are the same if their texts are.
#[derive(Clone)]
pub struct ApiKey {
    /// Its name and its text in one piece, as there may be ten thousand. Shared, as each request clones one.
    named: Arc<str>,
    /// Where in it the text begins.
    at: usize,
}

impl PartialEq for ApiKey {
    fn eq(&self, other: &ApiKey) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ApiKey {}

impl Hash for ApiKey {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.expose().hash(to);
    }
}

impl ApiKey {
    /// Wraps the text of a key as it is. [`ApiKey::fault`] says whether a header can hold it; `config` checks each key.
    pub fn new(text: impl AsRef<str>) -> ApiKey {
        ApiKey::named("", text)
    }

    /// The same with a name, which logs and pages may show.
    pub fn named(name: &str, text: impl AsRef<str>) -> ApiKey {
        let named = match name {
            "" => text.as_ref().into(),
            _ => [name, text.as_ref()].concat().into(),
        };
        let at = name.len();
        ApiKey { named, at }
    }

    /// The owner's name for it, if any.
    pub fn name(&self) -> Option<&str> {
        (self.at > 0).then(|| &self.named[..self.at])
    }

    /// Why an `Authorization` header cannot hold this text, in words that show none of it; `None` if it can. Allowed is
    /// visible ASCII; a space would split the credential.
    pub fn fault(&self) -> Option<&'static str> {
        let text = self.expose();
        if text.is_empty() {
            return Some("is empty");
        }
        if text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        match text.chars().find(|c| !c.is_ascii_graphic())? {
            c if c.is_control() => Some("holds a control character"),
            c if c.is_whitespace() => Some("holds a space"),
            _ => Some("holds a character outside ASCII"),
        }
    }

    /// How long it is.
    pub fn characters(&self) -> usize {
        self.expose().chars().count()
    }

    /// What people may see: its name, "…" and the last 4 characters; only "…" for a key of fewer than 12.
    pub fn label(&self) -> String {
        let length = self.characters();
        let hidden = if length < SHORT {
            length
        } else {
            length - SHOWN
        };
        let mut label = String::new();
        if let Some(name) = self.name() {
            label += name;
            label.push(' ');
        }
        label.push('…');
        label.extend(self.expose().chars().skip(hidden));
        label
    }

    /// Whether `given` is this key; see [`same`] for how long that takes.
    pub fn is(&self, given: &[u8]) -> bool {
        same(self.expose().as_bytes(), given)
    }

    /// Its name in a file.
    pub fn tag(&self, salt: &[u8; SALT]) -> Tag {
        tag(salt, self.expose().as_bytes())
    }

    /// The key itself, for the header that carries it upstream and for nothing else.
    pub fn expose(&self) -> &str {
        &self.named[self.at..]
    }
}

/// Whether two secrets are equal. The time depends only on the length of `given`, so that nobody can find a secret
/// letter by letter.
pub fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut differs = secret.len() ^ given.len();
    for (at, byte) in given.iter().enumerate() {
        let ours = secret.get(at % secret.len().max(1)).unwrap_or(&0);
        differs |= usize::from(byte ^ ours);
    }
    black_box(differs) == 0 // else the compiler might leave the loop early
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_shows_at_most_the_last_four_characters() {
        for (text, label) in [
            ("nvapi-0123456789-f9a1", "…f9a1"),
            ("abcdefghijkl", "…ijkl"),
            ("abcdefghijk", "…"),
            ("f9a1", "…"),
            ("", "…"),
            ("ключ-из-букв-äöü€", "…äöü€"),
        ] {
            assert_eq!(ApiKey::new(text).label(), label, "{text}");
        }
    }

    #[test]
    fn a_name_stands_before_the_last_four_and_makes_no_other_key() {
        let key = ApiKey::named("work", "nvapi-0123456789-f9a1");
        assert_eq!((key.name(), &*key.label()), (Some("work"), "work …f9a1"));
        assert_eq!(ApiKey::named("a", "short").label(), "a …");
        assert_eq!(key, ApiKey::new("nvapi-0123456789-f9a1"));
        assert_eq!(ApiKey::new("x").name(), None);
    }

    #[test]
    fn printing_a_key_shows_its_label_only() {
        let key = ApiKey::new("nvapi-0123456789-f9a1");
        assert_eq!(format!("{key}"), "…f9a1");
        assert_eq!(format!("{key:?}"), "ApiKey(…f9a1)");
        assert_eq!(format!("{:#?}", vec![key]), "[\n    ApiKey(…f9a1),\n]");
    }

    #[test]
    fn expose_gives_the_text_unchanged() {
        assert_eq!(ApiKey::new("nvapi-0123").expose(), "nvapi-0123");
    }

    #[test]
    fn only_the_same_text_is_the_same_key() {
        let key = ApiKey::new("abcabc");
        for (given, same) in [
            ("abcabc", true),
            ("abcab", false),
            ("abc", false),
            ("abcabcabc", false),
            ("abcabd", false),
            ("Abcabc", false),
            ("", false),
        ] {
            assert_eq!(key.is(given.as_bytes()), same, "{given}");
        }
        assert!(same(b"", b"") && !same(b"", b"a"));
    }

    #[test]
    fn a_key_must_be_visible_ascii() {
        for (text, fault) in [
            ("sk-or-v1_Az09.+/=~!$\"'", None),
            ("", Some("is empty")),
            ("two words", Some("holds a space")),
            ("no\u{a0}break", Some("holds a space")),
            ("tab\there", Some("holds a control character")),
            ("line\r\nX-Evil: 1", Some("holds a control character")),
            ("del\u{7f}", Some("holds a control character")),
            ("zero\u{200b}width", Some("holds a character outside ASCII")),
            ("nvapi-…", Some("holds a character outside ASCII")),
        ] {
            assert_eq!(ApiKey::new(text).fault(), fault, "{text:?}");
        }
    }
}
