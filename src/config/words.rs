//! What the operator reads: values as a message may show them, what was expected, the tables.

use super::{Form, MAX_RATE, VARIABLES};

/// How many characters of a wrong value are shown.
const ECHOED: usize = 40;

/// A run of this many letters and digits, with both in it, is taken for a key in the wrong place.
const KEY_LIKE: usize = 20;

/// A wrong value as a message may show it.
pub(super) fn echo(form: &Form, value: &str) -> String {
    match form {
        Form::Keys | Form::ClientKeys => "something not shown here".to_owned(),
        _ if like_a_key(value) => "something that looks like a key".to_owned(),
        // Passwords stand before an @, keys in a query.
        Form::Url if value.contains(['@', '?', '#']) => "a URL not shown here".to_owned(),
        _ => format!("\"{}\"", shown(value)),
    }
}

/// Whether something in it may be a key.
pub(super) fn like_a_key(value: &str) -> bool {
    let mut runs = value.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    runs.any(|run| {
        run.len() >= KEY_LIKE
            && run.bytes().any(|b| b.is_ascii_digit())
            && run.bytes().any(|b| b.is_ascii_alphabetic())
    })
}

/// At most [`ECHOED`] characters, control characters escaped.
pub(super) fn shown(text: &str) -> String {
    let start: String = text.chars().take(ECHOED).collect();
    let rest = if start.len() < text.len() { "…" } else { "" };
    format!("{}{rest}", start.escape_debug())
}

impl Form {
    /// What a value must be, to follow the word "expected".
    pub(super) fn expected(&self) -> String {
        match self {
            Form::Keys => "keys separated by commas".to_owned(),
            Form::ClientKeys => "name:key pairs separated by commas".to_owned(),
            Form::Models => "NAME=MODEL pairs separated by commas".to_owned(),
            Form::Hosts => "names or addresses separated by commas".to_owned(),
            Form::Origins => "origins separated by commas".to_owned(),
            Form::Host => "an IP address or localhost".to_owned(),
            Form::Url => {
                "an http:// or https:// URL with a host and no user name, query or fragment"
                    .to_owned()
            }
            Form::Number { min, max, unit: "" } => format!("a whole number from {min} to {max}"),
            Form::Number { min, max, unit } => {
                format!("a whole number of {unit} from {min} to {max}")
            }
            Form::Rate => format!("a whole number of requests from 0 to {MAX_RATE}, or auto"),
            Form::Word(words) => or(words),
            Form::File => "the path of a file".to_owned(),
        }
    }

    /// A value for the messages, where the default is none.
    pub(super) fn example(&self) -> Option<&'static str> {
        match self {
            Form::Hosts => Some("pi.local,alvus.lan"),
            Form::Origins => Some("http://localhost:5173,app://obsidian.md,vscode-webview://*"),
            _ => None,
        }
    }

    /// What [`Form::expected`] says, for the tables, as a sentence; nothing where the help says it all.
    fn limits(&self) -> String {
        match self {
            Form::Keys
            | Form::ClientKeys
            | Form::Models
            | Form::Hosts
            | Form::Origins
            | Form::Url
            | Form::File => String::new(),
            Form::Host => " An IP address or localhost.".to_owned(),
            Form::Number { min, max, .. } => format!(" {min} to {max}."),
            Form::Rate => format!(" 0 (no limit) to {MAX_RATE}, or auto."),
            Form::Word(words) => format!(" One of {}.", or(words)),
        }
    }
}

/// `a, b or c`.
fn or(words: &[&str]) -> String {
    match words {
        [start @ .., last] if !start.is_empty() => format!("{} or {last}", start.join(", ")),
        _ => words.concat(),
    }
}

/// Columns of `--help`.
const WIDTH: usize = 100;

/// The table for `--help`: at most 100 columns, ends with a line break.
pub fn table() -> String {
    let longest = VARIABLES
        .iter()
        .map(|v| v.name.len())
        .max()
        .unwrap_or_default();
    let indent = longest + 4;
    let mut out = String::new();
    for v in VARIABLES {
        let default = if v.default.is_empty() {
            String::new()
        } else {
            format!(" [default:\u{a0}{}]", v.default)
        };
        let mut line = format!("  {:longest$} ", v.name);
        for word in format!("{}{}{default}", v.help, v.form.limits()).split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                out += &line;
                out += "\n";
                line = " ".repeat(indent - 1);
            }
            line += " ";
            line += word;
        }
        out += &line;
        out += "\n";
    }
    out.replace('\u{a0}', " ") // held a default and its label on one line
}

/// The same list as the README's table, in markdown; ends with a line break.
pub fn markdown_table() -> String {
    let mut out = "| Variable | Default | Meaning |\n|---|---|---|\n".to_owned();
    for v in VARIABLES {
        let default = if v.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", v.default)
        };
        out += &format!(
            "| `{}` | {default} | {}{} |\n",
            v.name,
            v.help,
            v.form.limits()
        );
    }
    out
}
