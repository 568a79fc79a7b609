//! Splits the thoughts from a text that begins with `<think>…</think>`, however it is cut into
//! pieces. Pure. It holds back less than a tag, or the blanks at the text's beginning.
//!
//! Only a tag at the very beginning counts; later it is text. Some models' templates open the tag themselves, so that
//! only `</think>` comes. That is learned from an earlier answer ([`Think::lone`]), and forgotten if it proves wrong.

use super::json::{Str, escaped};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// The longest row of blanks that is held back, in bytes.
const MAX_BLANK: usize = 256;

/// What a piece of the answer belongs to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum PartKind {
    /// The thoughts.
    Thought,
    /// The text.
    Text,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum State {
    /// Only blanks or a part of the tag have come.
    #[default]
    Start,
    /// Inside the tags; `true`: a thought has begun.
    Inside(bool),
    /// After a tag or a tool call: blanks are dropped until a text begins.
    Between,
    /// In the text.
    Text,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Think {
    state: State,
    held: String,
    /// The template opens the tag, as far as is known.
    unopened: bool,
    lone: bool,
    /// Thoughts have come, in a tag or in a field of their own.
    thought: bool,
    misled: bool,
}

impl Think {
    /// `unopened`: this model's answers begin inside the tag.
    pub fn new(unopened: bool) -> Think {
        Think {
            unopened,
            ..Think::default()
        }
    }

    /// Takes the next piece of the text. `each` gets pieces of both, with JSON escapes.
    pub fn push(&mut self, piece: Str<'_>, each: &mut dyn FnMut(PartKind, &str)) {
        if self.state == State::Text {
            self.look_for_lone(&piece.plain());
            return each(PartKind::Text, piece.raw());
        }
        self.held.push_str(&piece.plain());
        if self.state == State::Start {
            self.start(each);
        }
        if let State::Inside(_) = self.state {
            self.inside(each);
        }
        if self.state == State::Between {
            let text = self.held.trim_start();
            if !text.is_empty() {
                each(PartKind::Text, &escaped(text));
                self.state = State::Text;
            }
            self.held.clear();
        }
    }

    /// Thoughts came in a field of their own, so the text has none.
    pub fn beside(&mut self) {
        self.unopened = false;
        self.thought = true;
    }

    /// The text pauses or ends: gives out what is held back.
    pub fn pause(&mut self, each: &mut dyn FnMut(PartKind, &str)) {
        let held = std::mem::take(&mut self.held);
        self.misled |= self.unopened && matches!(self.state, State::Inside(_));
        match self.state {
            State::Start if held.trim().is_empty() => {}
            State::Inside(_) if held.is_empty() => {}
            State::Inside(_) => each(PartKind::Thought, &escaped(&held)),
            State::Start => each(PartKind::Text, &escaped(&held)),
            State::Between | State::Text => {}
        }
        self.state = State::Between;
    }

    /// Whether a `</think>` came that was not opened.
    pub fn lone(&self) -> bool {
        self.lone
    }

    /// Whether the answer was taken to begin inside the tag, but no end tag came: that was wrong,
    /// or the answer was cut short.
    pub fn misled(&self) -> bool {
        self.misled
    }

    fn start(&mut self, each: &mut dyn FnMut(PartKind, &str)) {
        let text = self.held.trim_start();
        if let Some(rest) = text.strip_prefix(OPEN) {
            self.held = rest.to_string();
            self.state = State::Inside(false);
            self.unopened = false;
            self.thought = true;
        } else if !OPEN.starts_with(text) || self.held.len() > MAX_BLANK {
            if self.unopened {
                self.state = State::Inside(false);
                return;
            }
            let held = std::mem::take(&mut self.held);
            self.look_for_lone(&held);
            each(PartKind::Text, &escaped(&held));
            self.state = State::Text;
        }
    }

    fn inside(&mut self, each: &mut dyn FnMut(PartKind, &str)) {
        let (end, rest) = match self.held.find(CLOSE) {
            Some(at) => (at, Some(at + CLOSE.len())),
            None => (self.held.len() - begun_tag(&self.held), None),
        };
        let mut thought = &self.held[..end];
        if self.state == State::Inside(false) {
            thought = thought.trim_start();
        }
        if !thought.is_empty() {
            each(PartKind::Thought, &escaped(thought));
            self.state = State::Inside(true);
        }
        self.held.drain(..rest.unwrap_or(end));
        if rest.is_some() {
            self.state = State::Between;
        }
    }

    /// Notes an unopened end tag, if it comes as a token of its own and no thoughts came otherwise; a text may speak of
    /// the tag.
    fn look_for_lone(&mut self, plain: &str) {
        self.lone |= !self.thought && plain.trim() == CLOSE;
    }
}

/// How many bytes at the end of a text may begin a [`CLOSE`].
fn begun_tag(text: &str) -> usize {
    let longest = (1..CLOSE.len()).rev();
    let is = |n: &usize| text.ends_with(&CLOSE[..*n]);
    longest.into_iter().find(is).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::json::Json;

    /// Thoughts and text of these pieces.
    fn split(think: &mut Think, pieces: &[&str]) -> (String, String) {
        let (mut thoughts, mut text) = (String::new(), String::new());
        let mut each = |part: PartKind, piece: &str| match part {
            PartKind::Thought => thoughts.push_str(piece),
            PartKind::Text => text.push_str(piece),
        };
        for piece in pieces {
            let quoted = format!("\"{}\"", escaped(piece));
            let piece = Json::parse(quoted.as_bytes())
                .and_then(Json::string)
                .expect("a string");
            think.push(piece, &mut each);
        }
        think.pause(&mut each);
        (thoughts, text)
    }

    #[test]
    fn thoughts_are_taken_out_wherever_the_tags_are_cut() {
        for (text, thoughts, rest) in [
            ("hello", "", "hello"),
            ("  indented", "", "  indented"),
            (" \n ", "", ""),
            (
                "<think>a < b\n</thin k></think>\n\nyes",
                "a < b\\n</thin k>",
                "yes",
            ),
            ("\n<think>\nhm</think>x", "hm", "x"),
            ("<think>\n\n</think>\n\nx", "", "x"),
            ("<think>never ends </th", "never ends </th", ""),
            ("<thi", "", "<thi"),
            ("<thing>x", "", "<thing>x"),
            (
                "`<think>` and </think> are tags",
                "",
                "`<think>` and </think> are tags",
            ),
            (
                "<think>a</think>b<think>c</think>",
                "a",
                "b<think>c</think>",
            ),
            ("é<think>", "", "é<think>"),
        ] {
            let characters: Vec<String> = text.chars().map(String::from).collect();
            for size in 1..=characters.len() {
                let pieces: Vec<String> = characters.chunks(size).map(|c| c.concat()).collect();
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                let mut think = Think::new(false);
                let found = split(&mut think, &pieces);
                assert_eq!(
                    found,
                    (thoughts.to_string(), rest.to_string()),
                    "{pieces:?}"
                );
            }
        }
    }

    #[test]
    fn an_unopened_tag_is_assumed_only_where_it_was_seen() {
        let pieces = ["so", " what", "</think>", "\n\nyes"];
        let mut think = Think::new(false);
        assert_eq!(split(&mut think, &pieces).1, "so what</think>\\n\\nyes");
        assert!(think.lone());
        let mut think = Think::new(true);
        assert_eq!(split(&mut think, &pieces), ("so what".into(), "yes".into()));
        assert!(!think.misled() && !think.lone());
        let mut think = Think::new(true);
        assert_eq!(
            split(&mut think, &["<think>a</think>b"]),
            ("a".into(), "b".into())
        );
        let mut think = Think::new(true);
        split(&mut think, &["no tag at all"]);
        assert!(think.misled());
        let mut think = Think::new(true);
        think.beside();
        assert_eq!(split(&mut think, &["text"]), (String::new(), "text".into()));
        let mut think = Think::new(false);
        split(&mut think, &["the tag ", "`</think>`", " ends it </think>"]);
        assert!(!think.lone(), "words about it");
    }
}
