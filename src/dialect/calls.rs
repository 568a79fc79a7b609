//! The tool calls of one answer: which call a piece belongs to, and whether its arguments are
//! complete. Pure. Bounded: [`MOST`] calls, and only arguments that are held back are kept.
//!
//! Upstreams number the pieces, or name them by id, or do neither. They repeat id and name in each
//! piece, or send them once. Some give every call the number 0.

use super::chat::CallPiece;
use super::json::Str;

/// The most calls in one answer.
pub const MOST: usize = 128;

/// The longest name of a tool, or id of a call, in bytes.
const LONGEST: usize = 1024;

/// One call.
#[derive(Debug, Default)]
pub struct StreamedCall {
    /// The upstream's number for it.
    index: Option<u64>,
    /// The upstream's id for it, still escaped; "" if it gave none.
    pub id: String,
    /// The tool's name, still escaped.
    pub name: String,
    /// How much of its arguments has come.
    pub arguments: Progress,
    /// Arguments held back, still escaped: they came before the name, may be `null`, which means none, or are written
    /// only when all of them are there.
    pub held: String,
    /// Arguments are passed on as they come.
    pub flows: bool,
    /// The client's block or item for it, once it has begun.
    pub place: Option<usize>,
    /// The client was told its end. What comes later does not count.
    pub closed: bool,
}

impl StreamedCall {
    /// Whether it has a name, and the arguments held back begin an object.
    pub fn is_ready(&self) -> bool {
        let begins = || {
            Str::of_raw(&self.held)
                .plain()
                .trim_start()
                .starts_with('{')
        };
        !self.name.is_empty() && begins()
    }

    /// Whether it has no arguments.
    pub fn has_none(&self) -> bool {
        !self.flows && matches!(Str::of_raw(&self.held).plain().trim(), "" | "null")
    }
}

/// The calls of one answer, in the order in which they began.
#[derive(Debug, Default)]
pub struct Calls {
    list: Vec<StreamedCall>,
    /// The call that the last piece belonged to.
    last: Option<usize>,
}

/// More calls than [`MOST`], or a name longer than [`LONGEST`].
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct TooMany;

impl Calls {
    /// The number of the call that a piece belongs to, perhaps a new one. Its id and name are
    /// noted; the caller passes the arguments to [`StreamedCall::arguments`].
    ///
    /// # Errors
    /// When the answer makes more calls than are kept.
    pub fn find(&mut self, piece: &CallPiece<'_>) -> Result<usize, TooMany> {
        let id = piece.id.map_or("", Str::raw);
        let name = piece.name.map_or("", Str::raw);
        if id.len().max(name.len()) > LONGEST {
            return Err(TooMany);
        }
        let found = match self.known(piece, id) {
            Some(at) if !self.begins_another(at, piece, id, name) => at,
            _ => {
                if self.list.len() == MOST {
                    return Err(TooMany);
                }
                self.list.push(StreamedCall {
                    index: piece.index,
                    ..StreamedCall::default()
                });
                self.list.len() - 1
            }
        };
        self.last = Some(found);
        let call = &mut self.list[found];
        if call.id.is_empty() {
            call.id.push_str(id);
        }
        // A name may come in pieces, or be repeated whole.
        if call.name != name && (call.name.is_empty() || !call.arguments.has_begun()) {
            call.name.push_str(name);
        }
        match call.name.len() > LONGEST {
            true => Err(TooMany),
            false => Ok(found),
        }
    }

    /// All calls.
    pub fn list(&self) -> &[StreamedCall] {
        &self.list
    }

    /// All calls, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, StreamedCall> {
        self.list.iter_mut()
    }

    /// The call of this number.
    pub fn get(&mut self, at: usize) -> &mut StreamedCall {
        &mut self.list[at]
    }

    /// The call that a piece may belong to. By its number: the one of those with its id, else the last of them. Without
    /// a number: the one with its id, else the one of the last piece.
    fn known(&self, piece: &CallPiece<'_>, id: &str) -> Option<usize> {
        let numbered = |call: &StreamedCall| {
            piece.index.is_none() || call.index.is_none() || call.index == piece.index
        };
        let by_id = |call: &StreamedCall| numbered(call) && !id.is_empty() && call.id == id;
        let found = self.list.iter().rposition(by_id);
        match piece.index {
            Some(_) => found.or_else(|| self.list.iter().rposition(numbered)),
            None => found.or(self.last),
        }
    }

    /// Whether it begins another call all the same: it has a name, and either another id, or arguments although this
    /// call's are complete.
    fn begins_another(&self, at: usize, piece: &CallPiece<'_>, id: &str, name: &str) -> bool {
        let call = &self.list[at];
        let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
        let more = call.arguments.is_whole() && (piece.arguments.is_some() || call.name != name);
        let same_id = !id.is_empty() && call.id == id;
        !name.is_empty() && !call.name.is_empty() && (other_id || (more && !same_id))
    }
}

/// Follows a JSON object that comes in pieces: whether it has begun, and whether it is complete. It
/// looks only at strings and brackets.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Progress {
    depth: u32,
    in_string: bool,
    after_backslash: bool,
    begun: bool,
}

impl Progress {
    /// Takes the next piece: a JSON string that holds a piece of the object.
    pub fn push(&mut self, piece: Str<'_>) {
        piece.each(|part| match part {
            Ok(text) => text.bytes().for_each(|byte| self.byte(byte)),
            Err(escaped) => self.byte(u8::try_from(escaped).unwrap_or(b'x')),
        });
    }

    /// Whether anything but blanks has come.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether something was opened, and all of it is closed.
    pub fn is_whole(&self) -> bool {
        self.begun && self.depth == 0
    }

    fn byte(&mut self, byte: u8) {
        self.begun |= !byte.is_ascii_whitespace();
        if self.in_string {
            let plain = !std::mem::take(&mut self.after_backslash);
            self.after_backslash = plain && byte == b'\\';
            self.in_string = !(plain && byte == b'"');
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::chat::{Chunk, Piece};
    use crate::dialect::json::Json;

    /// `(id, name, whole)` of the calls that these pieces make, and which piece went to which.
    fn calls(pieces: &[&str]) -> (Vec<(String, String, bool)>, Vec<usize>) {
        let mut calls = Calls::default();
        let mut to = Vec::new();
        for piece in pieces {
            let text = format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{piece}]}}}}]}}"#);
            let json = Json::parse(text.as_bytes()).expect(piece);
            Chunk::read(json).pieces(&mut |piece| {
                let Piece::Call(piece) = piece else {
                    panic!("a call")
                };
                let at = calls.find(&piece).expect("few");
                if let Some(text) = piece.arguments.and_then(Json::string) {
                    calls.get(at).arguments.push(text);
                }
                to.push(at);
            });
        }
        let list = calls.list().iter();
        let list = list.map(|c| (c.id.clone(), c.name.clone(), c.arguments.is_whole()));
        (list.collect(), to)
    }

    fn names(pieces: &[&str]) -> Vec<String> {
        calls(pieces).0.into_iter().map(|call| call.1).collect()
    }

    #[test]
    fn interleaved_pieces_find_their_calls() {
        let (list, to) = calls(&[
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#,
            r#"{"index":1,"id":"b","function":{"name":"g","arguments":""}}"#,
            r#"{"index":0,"function":{"arguments":"{\"x\":"}}"#,
            r#"{"index":1,"function":{"arguments":"{}"}}"#,
            r#"{"index":0,"function":{"arguments":"\"}\"}"}}"#,
        ]);
        assert_eq!(to, [0, 1, 0, 1, 0]);
        assert_eq!(
            list,
            [
                ("a".into(), "f".into(), true),
                ("b".into(), "g".into(), true)
            ]
        );
    }

    #[test]
    fn id_and_name_in_every_piece_make_one_call() {
        let piece = |arguments: &str| {
            format!(r#"{{"index":0,"id":"a","function":{{"name":"f","arguments":"{arguments}"}}}}"#)
        };
        let pieces = ["", "{", "}", ""].map(piece);
        assert_eq!(names(&pieces.each_ref().map(String::as_str)), ["f"]);
        let without_index = pieces.map(|piece| piece.replace(r#""index":0,"#, ""));
        assert_eq!(names(&without_index.each_ref().map(String::as_str)), ["f"]);
    }

    #[test]
    fn calls_that_all_have_the_number_0_are_told_apart() {
        let (list, to) = calls(&[
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{"}}"#,
            r#"{"index":0,"function":{"arguments":"}"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"f","arguments":"{"}}"#,
            r#"{"index":0,"function":{"arguments":"}"}}"#,
        ]);
        assert_eq!((list.len(), to), (2, vec![0, 0, 1, 1]));
        let whole = r#"{"index":0,"function":{"name":"f","arguments":"{}"}}"#;
        assert_eq!(names(&[whole, whole]), ["f", "f"], "no ids at all: Gemini");
    }

    #[test]
    fn without_a_number_the_id_decides_and_else_the_last_one() {
        let (_, to) = calls(&[
            r#"{"id":"a","function":{"name":"f","arguments":"{"}}"#,
            r#"{"id":"b","function":{"name":"g","arguments":"{"}}"#,
            r#"{"id":"a","function":{"arguments":"}"}}"#,
            r#"{"function":{"arguments":""}}"#,
            r#"{"id":"b","function":{"arguments":"}"}}"#,
        ]);
        assert_eq!(to, [0, 1, 0, 0, 1]);
    }

    #[test]
    fn a_name_may_come_in_pieces_and_after_its_arguments() {
        assert_eq!(
            names(&[
                r#"{"index":0,"id":"a","function":{"name":"Ba"}}"#,
                r#"{"index":0,"function":{"name":"sh","arguments":"{}"}}"#,
                r#"{"index":0,"id":"a","function":{"name":"Bash"}}"#,
            ]),
            ["Bash"]
        );
        let late = [
            r#"{"index":0,"function":{"arguments":"{"}}"#,
            r#"{"index":0,"id":"a","function":{"name":"f"}}"#,
        ];
        assert_eq!(names(&late), ["f"]);
    }

    #[test]
    fn the_calls_and_names_of_an_answer_are_bounded() {
        let mut calls = Calls::default();
        for n in 0..=MOST as u64 {
            let piece = CallPiece {
                index: Some(n),
                id: None,
                name: None,
                arguments: None,
            };
            assert_eq!(calls.find(&piece).is_err(), n == MOST as u64);
        }
    }

    #[test]
    fn arguments_are_whole_when_their_object_is() {
        for (text, whole) in [
            ("", false),
            (" ", false),
            ("{", false),
            ("{}", true),
            (r#"{"a":"}"#, false),
            (r#"{"a":"}\""#, false),
            (r#"{"a":"\\"}"#, true),
            (r#"{"a":[{"b":"{"}]}"#, true),
            (r#"{"a":[{}]"#, false),
            ("null", true),
        ] {
            let mut progress = Progress::default();
            for c in text.chars() {
                let quoted = format!("\"{}\"", crate::dialect::json::escaped(&c.to_string()));
                progress.push(
                    Json::parse(quoted.as_bytes())
                        .and_then(Json::string)
                        .expect("a string"),
                );
            }
            assert_eq!(progress.is_whole(), whole, "{text}");
        }
        let mut progress = Progress::default();
        let escaped = r#""\u007b\u0022a\u0022:\u0022\u005c\u0022""#;
        progress.push(
            Json::parse(escaped.as_bytes())
                .and_then(Json::string)
                .expect("a string"),
        );
        assert!(progress.in_string, "escapes are read");
    }
}
