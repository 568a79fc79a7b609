//! Whether an answer says anything. Most answers do, and then this is all that is looked at of them: each is read as
//! it stands, up to its first word, and nothing is kept. No parser: what is no JSON says nothing.

/// Fields in which an answer says something, once they are not empty …
const SAYS: &str = "\
    choices delta output candidates parts part item content content_block response text reasoning \
    reasoning_content reasoning_details thinking refusal arguments partial_json transcript \
    output_text summary audio images outputs";

/// … and those whose mere contents are the answer.
const HOLDS: &str = "\
    tool_calls function_call functionCall inlineData data embedding embeddings results predictions \
    segments artifacts b64_json";

/// Deeper is no answer.
const DEPTH: usize = 64;

/// Whether an answer, or its beginning, says anything.
pub fn says(json: &[u8]) -> bool {
    Scan(json).value(Looked::Words, DEPTH)
}

/// What is looked for in a value.
#[derive(Clone, Copy, PartialEq)]
enum Looked {
    /// Words, in the fields that have them.
    Words,
    /// The same, but an object's: a text beside an error is the error's.
    Message,
    /// Whatever is in it.
    Anything,
    /// An item that is no message is a call of something.
    Call,
    Nothing,
}

impl Looked {
    fn within(self, name: &[u8]) -> Looked {
        let is_in = |list: &str| list.split(' ').any(|one| one.as_bytes() == name);
        match name {
            _ if !matches!(self, Looked::Words | Looked::Message) => Looked::Nothing,
            // Most fields of most answers: no need to go through the lists for them.
            b"id" | b"object" | b"created" | b"model" | b"index" | b"role" => Looked::Nothing,
            b"message" => Looked::Message,
            b"type" => Looked::Call,
            _ if is_in(SAYS) => Looked::Words,
            _ if is_in(HOLDS) => Looked::Anything,
            _ => Looked::Nothing,
        }
    }
}

/// What is not yet read.
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    /// Goes past the next value, or no further than to its first word: then it is true.
    fn value(&mut self, looked: Looked, depth: usize) -> bool {
        match self.next() {
            b'"' => {
                // One byte tells that there are words: the rest of them need not be read.
                let words = matches!(looked, Looked::Words | Looked::Anything);
                if words && self.0.first().is_some_and(|byte| *byte != b'"') {
                    return true;
                }
                let text = self.string();
                looked == Looked::Call && (text.ends_with(b"_call") || text.ends_with(b"_use"))
            }
            b'{' | b'[' if depth == 0 => {
                self.0 = &[];
                false
            }
            b'{' => self.members(looked, depth - 1, true),
            b'[' if matches!(looked, Looked::Message | Looked::Call) => {
                self.members(Looked::Nothing, depth - 1, false)
            }
            b'[' => self.members(looked, depth - 1, false),
            _ => {
                let ends = |b: &u8| matches!(b, b',' | b']' | b'}');
                let end = self.0.iter().position(ends);
                self.0 = &self.0[end.unwrap_or(self.0.len())..];
                false
            }
        }
    }

    /// Those of an object or a list that was opened.
    fn members(&mut self, looked: Looked, depth: usize, named: bool) -> bool {
        loop {
            let here = self.0;
            match self.next() {
                0 | b'}' | b']' => return false,
                b',' => continue,
                _ if looked == Looked::Anything => return true,
                _ => {}
            }
            let mut looked = looked;
            if named {
                looked = looked.within(self.string());
                self.next(); // its colon
            } else {
                self.0 = here;
            }
            if self.value(looked, depth) {
                return true;
            }
        }
    }

    /// The next byte that is no blank; 0 at the end.
    fn next(&mut self) -> u8 {
        let [byte, rest @ ..] = self.0.trim_ascii_start() else {
            self.0 = &[];
            return 0;
        };
        self.0 = rest;
        *byte
    }

    /// The rest of a string, which is not decoded.
    fn string(&mut self) -> &'a [u8] {
        let mut at = 0;
        while let Some(byte) = self.0.get(at) {
            match byte {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let (text, rest) = self.0.split_at(at.min(self.0.len()));
        self.0 = rest.get(1..).unwrap_or_default();
        text
    }
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
            Value::String(text) => !text.is_empty(),
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
    fn what_is_read_as_it_stands_is_what_a_parser_reads() {
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
        const WORDS: [&str; 6] = [
            "",
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
            assert_eq!(says(kept.as_bytes()), parsed(&value), "{kept}");
            met[usize::from(parsed(&value))] += 1;
            // A beginning says no more than the whole.
            let cut = &json.as_bytes()[..random(json.len() + 1)];
            assert!(
                !says(cut) || says(json.as_bytes()) || cut.len() < json.len(),
                "{json}"
            );
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
            assert!(!says(junk.as_bytes()), "{junk}");
        }
        assert!(!says("[".repeat(100_000).as_bytes()));
        assert!(says(
            b"{\"id\":\"c\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"H"
        ));
    }
}
