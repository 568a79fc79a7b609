//! Translates the tools of a Responses request, and maps their names on both sides. Pure.

use super::super::conversation::INPUT;
use super::super::ids::hash;
use super::super::interface::Refusal;
use super::super::json::{Json, Str, escaped, put};
use super::super::schema::put_schema;
use super::super::terms::{Tool, ToolKind};
use super::errors::invalid;

/// The longest name of a tool that chat upstreams take.
const LONGEST_NAME: usize = 64;

/// The most tools of a request. No model takes more, and each name is compared with all others.
const MOST: usize = 1024;

/// Writes `tools`, `tool_choice` and `parallel_tool_calls`, with a comma before each. Tools that a search found are in
/// the `input`. Returns the tools that have another name upstream.
///
/// Tools that run on OpenAI's servers are left out.
///
/// # Errors
/// Which tool cannot be translated, and why.
pub fn put_tools(out: &mut Vec<u8>, json: Json<'_>) -> Result<Vec<Tool>, Refusal> {
    let [tools, input, choice, parallel] =
        json.pick(["tools", "input", "tool_choice", "parallel_tool_calls"]);
    let mut list = List {
        out,
        tools: Vec::new(),
    };
    for (at, tool) in Json::items_of(tools).enumerate() {
        let named = list.add(tool, "");
        named.ok_or_else(|| invalid(format!("tools[{at}].name"), "a string is required"))?;
    }
    for item in Json::items_of(input) {
        let [kind, found] = item.pick(["type", "tools"]);
        let is_found = kind.is_some_and(|kind| {
            matches!(
                kind.text(),
                "\"tool_search_output\"" | "\"additional_tools\""
            )
        });
        for tool in Json::items_of(found.filter(|_| is_found)) {
            list.add(tool, "");
        }
    }
    let List { out, mut tools } = list;
    if tools.is_empty() {
        return Ok(tools);
    }
    if tools.len() > MOST {
        return Err(invalid(
            "tools",
            "no more than 1024 tools can be translated",
        ));
    }
    put!(out, "]");
    put_choice(out, choice, &tools);
    if parallel.is_some_and(|parallel| parallel.text() == "false") {
        put!(out, ",\"parallel_tool_calls\":false");
    }
    tools.retain(|tool| {
        tool.chat_name != tool.name || tool.kind != ToolKind::Function(String::new())
    });
    Ok(tools)
}

struct List<'o> {
    out: &'o mut Vec<u8>,
    tools: Vec<Tool>,
}

impl List<'_> {
    /// Adds a tool of this namespace; `None`: it has no name.
    fn add(&mut self, tool: Json<'_>, space: &str) -> Option<()> {
        let [kind, name, inner, execution] = tool.pick(["type", "name", "tools", "execution"]);
        let name = name.and_then(Json::string).filter(|name| !name.is_empty());
        match kind.and_then(Json::raw) {
            Some("namespace") => {
                let space = name?.raw();
                return inner?.items().try_for_each(|tool| self.add(tool, space));
            }
            Some("function") => {
                let kind = ToolKind::Function(space.to_string());
                self.put(tool, name?.raw(), kind);
            }
            Some("custom") => self.put(tool, name?.raw(), ToolKind::Custom),
            Some("tool_search") if execution.is_some_and(|by| by.text() == "\"client\"") => {
                self.put(tool, "tool_search", ToolKind::Search);
            }
            _ => {}
        }
        Some(())
    }

    fn put(&mut self, tool: Json<'_>, name: &str, kind: ToolKind) {
        let is = |tool: &Tool| tool.name == name && tool.kind == kind;
        if self.tools.len() > MOST || self.tools.iter().any(is) {
            return; // too many, or it was found twice
        }
        let [description, schema, format] = tool.pick(["description", "parameters", "format"]);
        let mut chat_name = flattened(&kind, name);
        if self.tools.iter().any(|tool| tool.chat_name == chat_name) {
            chat_name = shortened(&chat_name, name);
        }
        let begins = if self.tools.is_empty() {
            ",\"tools\":["
        } else {
            ","
        };
        put!(
            self.out,
            begins,
            "{\"type\":\"function\",\"function\":{\"name\":\"",
            &*chat_name
        );
        put!(self.out, "\",\"description\":\"");
        put!(self.out, description.and_then(Json::raw).unwrap_or(""));
        if kind == ToolKind::Custom {
            put_grammar(self.out, format);
            put!(
                self.out,
                "\",\"parameters\":{\"type\":\"object\",\"properties\":{\"",
                INPUT
            );
            put!(
                self.out,
                "\":{\"type\":\"string\"}},\"required\":[\"",
                INPUT,
                "\"]}}}"
            );
        } else {
            put!(self.out, "\",\"parameters\":");
            put_schema(self.out, schema);
            put!(self.out, "}}");
        }
        self.tools.push(Tool {
            chat_name,
            name: name.to_string(),
            kind,
        });
    }
}

/// Describes the input of a free-text tool in words, as chat upstreams enforce no grammar.
fn put_grammar(out: &mut Vec<u8>, format: Option<Json<'_>>) {
    put!(
        out,
        "\\n\\nThe whole text goes into the field ",
        INPUT,
        ", as it is, not as JSON."
    );
    let [syntax, definition] =
        format.map_or([None; 2], |format| format.pick(["syntax", "definition"]));
    if let Some(definition) = definition.and_then(Json::string) {
        let syntax = syntax.and_then(Json::raw).unwrap_or("");
        put!(
            out,
            " It must match this ",
            syntax,
            " grammar:\\n",
            definition.raw()
        );
    }
}

/// A tool's name for the upstream.
fn flattened(kind: &ToolKind, name: &str) -> String {
    let whole = match kind {
        ToolKind::Function(space) if !space.is_empty() => format!("{space}__{name}"),
        _ => name.to_string(),
    };
    match whole.len() > LONGEST_NAME {
        true => shortened(&whole, name),
        false => whole,
    }
}

/// A unique name that is short enough: always the same one for the same name.
fn shortened(whole: &str, name: &str) -> String {
    let mut end = LONGEST_NAME - 9;
    while !whole.is_char_boundary(end.min(whole.len())) {
        end -= 1;
    }
    let start = &whole[..end.min(whole.len())];
    format!("{start}_{:08x}", hash((whole, name)) as u32)
}

/// The upstream's name of a call in the history.
pub fn chat_name(tools: &[Tool], name: &str, kind: &ToolKind) -> String {
    let known = tools
        .iter()
        .find(|tool| tool.name == name && tool.kind == *kind);
    known.map_or_else(|| flattened(kind, name), |tool| tool.chat_name.clone())
}

fn put_choice(out: &mut Vec<u8>, choice: Option<Json<'_>>, tools: &[Tool]) {
    let Some(choice) = choice else { return };
    let [kind, name, mode, space] = choice.pick(["type", "name", "mode", "namespace"]);
    let kind = kind.and_then(Json::raw).unwrap_or("");
    let kind = match kind {
        "function" => ToolKind::Function(space.and_then(Json::raw).unwrap_or("").into()),
        "custom" => ToolKind::Custom,
        _ => {
            // A word, or the mode of a choice among tools; a tool on OpenAI's servers is left out.
            let word = choice.raw().or(mode.and_then(Json::raw));
            if let Some(word @ ("auto" | "required" | "none")) = word {
                put!(out, ",\"tool_choice\":\"", word, "\"");
            }
            return;
        }
    };
    let name = name.and_then(Json::raw).unwrap_or("");
    let name = chat_name(tools, name, &kind);
    put!(
        out,
        ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"",
        &*name,
        "\"}}"
    );
}

/// The tool with this name upstream; `None`: a function with the same name on both sides.
pub fn called<'a>(tools: &'a [Tool], chat_name: &str) -> Option<&'a Tool> {
    tools.iter().find(|tool| tool.chat_name == chat_name)
}

/// The input of a free-text tool: the field `input` of its arguments, or the only string in them; arguments that are
/// not JSON are the text itself. With JSON escapes.
pub fn custom_input(arguments: Str<'_>) -> String {
    let plain = arguments.plain();
    let Some(json) = Json::parse(plain.as_bytes()) else {
        return arguments.raw().to_string();
    };
    let strings = || json.fields().filter_map(|(_, value)| value.string());
    let only = || strings().next().filter(|_| strings().count() == 1);
    let input = json
        .get(INPUT)
        .and_then(Json::string)
        .or_else(only)
        .or(json.string());
    match input {
        Some(input) => input.raw().to_string(),
        None => escaped(&plain),
    }
}
