//! A whole chat completion as a Message. Pure.

use super::super::calls::Calls;
use super::super::chat::{Chunk, Finish, Piece, Usage};
use super::super::ids::Fresh;
use super::super::json::{Json, Quoted, put};
pub use super::super::terms::{Fault, WholeAnswer};
use super::super::think::{PartKind, Think};
use super::{RequestContext, put_usage, stop_reason};

/// Translates an answer.
///
/// # Errors
/// When it is empty, broken, or an error.
pub fn translate(body: &[u8], asked: &RequestContext) -> Result<WholeAnswer, Fault> {
    let json = Json::parse(body).ok_or(Fault::Broken("the answer is not valid JSON"))?;
    let chunk = Chunk::read(json);
    if chunk.is_error {
        return Err(Fault::Broken("the answer is an error"));
    }
    let mut parts = Parts {
        think: Think::new(asked.thinks_unopened),
        ..Parts::default()
    };
    chunk.pieces(&mut |piece| parts.add(piece));
    parts
        .think
        .pause(&mut |part, piece| add_part(part, piece, &mut parts.thoughts, &mut parts.text));
    let finish = match chunk.finish {
        Some(Finish::Trouble) => return Err(Fault::Broken("the upstream gave up its answer")),
        Some(finish) => finish,
        None if parts.calls.list().is_empty() && parts.text.is_empty() => {
            return Err(Fault::Broken("the answer has no finish_reason"));
        }
        None => Finish::Stop,
    };
    let (content, has_calls, written) = parts.content(asked, finish)?;
    if content == b"[]" {
        let was_cut = !parts.calls.list().is_empty();
        return match was_cut {
            true => Ok(WholeAnswer {
                body: empty(asked, finish),
                usage: chunk.usage,
            }),
            false => Err(Fault::Empty(finish)),
        };
    }
    let body = message(
        asked,
        &content,
        stop_reason(finish, has_calls),
        chunk.usage,
        written,
    );
    Ok(WholeAnswer {
        body,
        usage: chunk.usage,
    })
}

/// A message without content, in place of an answer that had none and is not asked for again.
pub fn empty(asked: &RequestContext, finish: Finish) -> Vec<u8> {
    let content = b"[{\"type\":\"text\",\"text\":\"\"}]";
    message(asked, content, stop_reason(finish, false), None, 0)
}

fn message(
    asked: &RequestContext,
    content: &[u8],
    reason: &str,
    usage: Option<Usage>,
    written: u64,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 400);
    put!(
        &mut out,
        "{\"id\":",
        Quoted(&Fresh::new(asked.random).id("msg_"))
    );
    put!(
        &mut out,
        ",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
        Quoted(&asked.model)
    );
    put!(&mut out, ",\"content\":");
    out.extend_from_slice(content);
    put!(
        &mut out,
        ",\"stop_reason\":\"",
        reason,
        "\",\"stop_sequence\":null,\"usage\":"
    );
    put_usage(&mut out, usage, asked, written);
    put!(&mut out, "}");
    out
}

/// The parts of an answer, still escaped.
#[derive(Debug, Default)]
struct Parts<'a> {
    think: Think,
    thoughts: String,
    text: String,
    calls: Calls,
    /// The arguments of each call.
    arguments: Vec<Option<Json<'a>>>,
    too_many: bool,
}

fn add_part(part: PartKind, piece: &str, thoughts: &mut String, text: &mut String) {
    match part {
        PartKind::Thought => thoughts.push_str(piece),
        PartKind::Text => text.push_str(piece),
    }
}

impl<'a> Parts<'a> {
    fn add(&mut self, piece: Piece<'a>) {
        match piece {
            Piece::Thought(text) => {
                self.think.beside();
                self.thoughts.push_str(text.raw());
            }
            Piece::Text(text) => {
                self.think.push(text, &mut |part, piece| {
                    add_part(part, piece, &mut self.thoughts, &mut self.text);
                });
            }
            Piece::Call(piece) => match self.calls.add_whole(&piece) {
                Ok(()) => self.arguments.push(piece.arguments),
                Err(_) => self.too_many = true,
            },
        }
    }

    /// The blocks, whether tools are called, and how many bytes the model wrote.
    fn content(
        &self,
        asked: &RequestContext,
        finish: Finish,
    ) -> Result<(Vec<u8>, bool, u64), Fault> {
        if self.too_many {
            return Err(Fault::Broken("too many tool calls, or a name without end"));
        }
        let mut out = b"[".to_vec();
        if !self.thoughts.is_empty() {
            put!(
                &mut out,
                "{\"type\":\"thinking\",\"thinking\":\"",
                &*self.thoughts,
                "\",\"signature\":\"\"}"
            );
        }
        if !self.text.is_empty() {
            put!(&mut out, if out.len() == 1 { "" } else { "," });
            put!(
                &mut out,
                "{\"type\":\"text\",\"text\":\"",
                &*self.text,
                "\"}"
            );
        }
        let mut written = self.thoughts.len() + self.text.len();
        let mut fresh = Fresh::new(!asked.random);
        let mut used = asked.used.clone();
        let mut has_calls = false;
        for (call, arguments) in self.calls.list().iter().zip(&self.arguments) {
            let input = match input(*arguments) {
                Some(input) => input,
                None if finish == Finish::Length => continue,
                None => return Err(Fault::Broken("the arguments of a tool call are not whole")),
            };
            if call.name.is_empty() {
                return Err(Fault::Broken("a tool call without a name"));
            }
            let id = used.own(&call.id, &mut fresh, "toolu_");
            put!(&mut out, if out.len() == 1 { "" } else { "," });
            put!(
                &mut out,
                "{\"type\":\"tool_use\",\"id\":",
                Quoted(&id),
                ",\"name\":\"",
                &*call.name
            );
            put!(&mut out, "\",\"input\":", &*input, "}");
            written += input.len();
            has_calls = true;
        }
        put!(&mut out, "]");
        Ok((out, has_calls, written as u64))
    }
}

/// A call's arguments as an object.
fn input(arguments: Option<Json<'_>>) -> Option<String> {
    let Some(arguments) = arguments else {
        return Some("{}".into());
    };
    if arguments.is_object() {
        return Some(arguments.text().into());
    }
    let plain = arguments.string()?.plain();
    match plain.trim() {
        "" | "null" => Some("{}".into()),
        text => Json::parse(text.as_bytes())
            .filter(|json| json.is_object())
            .map(|json| json.text().into()),
    }
}
