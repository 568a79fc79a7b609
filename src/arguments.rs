//! Parses the command line, words and options in any order, and writes `--help`.
//!
//! [`COMMANDS`] and [`OPTIONS`] are the only lists; help, the man page and the shell completions come from them. An
//! unknown word is repeated only if it is short, as it may be a pasted key.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::{VARIABLES, pasted};

/// The commands: a word, and what it does.
pub static COMMANDS: &[(&str, &str)] = &[
    ("serve", "serve; the default"),
    (
        "init",
        "ask for provider and keys, try them, and write .env",
    ),
    ("check", "try each key once and say whether it works"),
    (
        "status",
        "show the keys and clients of the alvus that runs here",
    ),
    (
        "demo",
        "serve a built-in provider with three limited keys; nothing leaves the machine",
    ),
    ("help", "this text"),
    ("version", "the version"),
];

/// An option.
#[derive(Debug)]
pub struct Opt {
    /// Its name without dashes.
    pub name: &'static str,
    /// The value that follows it; empty: none.
    pub value: &'static str,
    /// The commands that take it; empty: all of them.
    pub of: &'static [&'static str],
    /// What it does.
    pub help: &'static str,
}

const fn opt(
    name: &'static str,
    value: &'static str,
    of: &'static [&'static str],
    help: &'static str,
) -> Opt {
    Opt {
        name,
        value,
        of,
        help,
    }
}

/// Every option, in the order of `--help`.
pub static OPTIONS: &[Opt] = &[
    opt(
        "env-file",
        "PATH",
        &[],
        "use this file instead of .env in the working directory",
    ),
    opt("port", "PORT", &[], "in place of PORT"),
    opt(
        "host",
        "ADDRESS",
        &["serve", "check", "status", "demo"],
        "in place of HOST",
    ),
    opt("json", "", &["check", "status"], "for programs"),
    opt("watch", "", &["status"], "again every 2 s"),
    opt(
        "provider",
        "NAME",
        &["init"],
        "its name or URL; keys come from API_KEYS or standard input",
    ),
    opt(
        "lan",
        "",
        &["init"],
        "let other machines on the network ask, with a key of their own",
    ),
    opt("no-check", "", &["init"], "do not try the keys"),
    opt("force", "", &["init"], "replace a file that is there"),
    opt("help", "", &[], "this text"),
    opt("version", "", &[], "the version"),
];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// One of [`COMMANDS`].
    pub command: &'static str,
    given: Vec<(&'static str, OsString)>,
}

/// What is wrong with the command line, in one line for the operator that repeats nothing that may be a key.
#[derive(Debug, PartialEq, Eq)]
pub struct Misused(pub String);

impl Arguments {
    /// Reads the arguments, without the program's own name.
    ///
    /// # Errors
    /// If it cannot be understood.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, Misused> {
        use lexopt::prelude::*;
        let mut found = Arguments::default();
        let mut parser = lexopt::Parser::from_args(words);
        while let Some(argument) = parser.next().map_err(|e| misused(&e))? {
            let name = match &argument {
                Short('h') => "help",
                Short('V') => "version",
                Long(name) => name,
                Value(word) if found.command.is_empty() => {
                    found.command = command(word)?;
                    continue;
                }
                // `alvus help check`
                Value(_) if found.command == "help" => continue,
                Value(word) => return Err(unknown("argument ", word, std::iter::empty())),
                Short(_) => "",
            };
            let Some(option) = OPTIONS.iter().find(|o| o.name == name) else {
                let known = OPTIONS.iter().map(|option| option.name);
                return Err(unknown("option --", OsStr::new(name), known));
            };
            let value = match option.value {
                "" => OsString::new(),
                what => {
                    let value = parser.value().ok();
                    let value = value.filter(|value| what != "PATH" || !pasted(value));
                    let takes = || Misused(format!("--{} takes a {what}", option.name));
                    value.ok_or_else(takes)?
                }
            };
            found.given.push((option.name, value));
        }
        found.command = match found.command {
            _ if found.has("help") => "help",
            _ if found.has("version") => "version",
            "" => "serve",
            command => command,
        };
        match found.given.iter().find(|(name, _)| !found.takes(name)) {
            Some((name, _)) => Err(Misused(format!("{} takes no --{name}", found.command))),
            None => Ok(found),
        }
    }

    fn takes(&self, name: &str) -> bool {
        let asks = ["help", "version"].contains(&self.command);
        let fits = |o: &Opt| o.name == name && (o.of.is_empty() || o.of.contains(&self.command));
        asks || OPTIONS.iter().any(fits)
    }

    /// Whether this option was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The value of this option; of several the last.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        let mut given = self.given.iter().rev();
        given.find(|(n, _)| *n == name).map(|(_, value)| &**value)
    }

    /// `--env-file`.
    pub fn env_file(&self) -> Option<PathBuf> {
        self.value("env-file").map(PathBuf::from)
    }

    /// The options that replace settings.
    pub fn settings(&self) -> Vec<(&'static str, OsString)> {
        let both = [("port", "PORT"), ("host", "HOST")].into_iter();
        both.filter_map(|(option, setting)| Some((setting, self.value(option)?.to_owned())))
            .collect()
    }
}

fn command(word: &OsStr) -> Result<&'static str, Misused> {
    let found = COMMANDS.iter().find(|(name, _)| word == *name);
    found.map(|(name, _)| *name).ok_or_else(|| {
        let known = COMMANDS.iter().map(|(name, _)| *name);
        unknown("command ", word, known)
    })
}

/// A longer word may be a key that someone pasted.
const SHOWN: usize = 12;

/// An error about an unknown word. `what`: the text before it.
fn unknown(what: &str, word: &OsStr, mut known: impl Iterator<Item = &'static str>) -> Misused {
    let text = word.to_string_lossy();
    if text.is_empty() || text.len() > SHOWN || text.contains(char::is_control) {
        let what = what.trim_end_matches('-');
        return Misused(format!("there is no such {what}(not shown here)"));
    }
    let like = match &*text {
        "start" | "run" => "serve", // as others call it
        text => text,
    };
    let near = known.find(|name| strsim::jaro_winkler(name, like) >= 0.85);
    let dashes = if what.ends_with('-') { "--" } else { "" };
    let meant = near.map(|near| format!("; did you mean {dashes}{near}?"));
    Misused(format!(
        "there is no {what}{text}{}",
        meant.unwrap_or_default()
    ))
}

fn misused(error: &lexopt::Error) -> Misused {
    Misused(match error {
        lexopt::Error::MissingValue {
            option: Some(option),
        } => format!("{option} takes a value"),
        lexopt::Error::UnexpectedValue { .. } => "an option has a value that takes none".to_owned(),
        _ => "an argument cannot be read".to_owned(),
    })
}

/// Columns of `--help`.
const WIDTH: usize = 100;

/// All of `--help`; at most 100 columns.
pub fn help() -> String {
    let mut out = format!(
        "alvus {}: a key-rotating LLM proxy. Your agent never sees a 429.\n\nUsage: alvus [COMMAND] [OPTIONS]\n",
        env!("CARGO_PKG_VERSION")
    );
    for (name, help) in COMMANDS {
        row(&mut out, 9, name, help);
    }
    out += "\nOptions:\n";
    for option in OPTIONS {
        let gap = if option.value.is_empty() { "" } else { " " };
        let name = format!("--{}{gap}{}", option.name, option.value);
        let of = match option.of {
            [] => String::new(),
            of => format!("{}: ", of.join(", ")),
        };
        row(&mut out, 16, &name, &format!("{of}{}", option.help));
    }
    out += "\nSettings (in the environment, or in .env; the environment wins):\n";
    let names = VARIABLES.iter().map(|v| v.name.len());
    let wide = names.max().unwrap_or_default();
    for v in VARIABLES {
        let default = match v.default {
            "" => String::new(),
            default => format!(" [default:\u{a0}{default}]"),
        };
        row(
            &mut out,
            wide,
            v.name,
            &format!("{}{}{default}", v.help, v.form.limits()),
        );
    }
    out += "\nExit codes:\n";
    for (code, means) in EXIT_CODES {
        row(&mut out, 3, code, means);
    }
    out.replace('\u{a0}', " ") // held a default and its label on one line
}

/// The exit codes.
pub const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "done; check: a key works; status: a key can serve"),
    (
        "1",
        "it failed: the port is in use; check: no key works; status: no key can serve, or no alvus answers",
    ),
    (
        "2",
        "bad arguments or settings; nothing was started or sent",
    ),
    (
        "128",
        "and its number: a second SIGTERM or SIGINT ended what the first one let finish",
    ),
];

/// Writes a name and its text, wrapped below itself.
fn row(out: &mut String, wide: usize, name: &str, text: &str) {
    let mut line = format!("  {name:wide$} ");
    let indent = " ".repeat(wide + 3);
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            *out += line.trim_end();
            out.push('\n');
            line.clone_from(&indent);
        }
        line += " ";
        line += word;
    }
    *out += &line;
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, Misused> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn words_and_options_come_in_any_order() {
        for (line, command) in [
            ("", "serve"),
            ("serve", "serve"),
            ("help", "help"),
            ("help check", "help"),
            ("check --help", "help"),
            ("-h", "help"),
            ("version", "version"),
            ("-V", "version"),
            ("check --json", "check"),
            ("--json check", "check"),
            ("--watch --env-file x status --json", "status"),
            ("--port 1 init --lan", "init"),
        ] {
            assert_eq!(parse(line).map(|a| a.command), Ok(command), "{line}");
        }
        let found = parse("--port 1 status --host=pi.local --port=2").expect("fine");
        let both = [("PORT", "2".into()), ("HOST", "pi.local".into())];
        assert_eq!(found.settings(), both);
        assert_eq!(found.env_file(), None);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (line, words) in [
            ("stauts", "there is no command stauts; did you mean status?"),
            ("start", "there is no command start; did you mean serve?"),
            ("init --host ::1", "init takes no --host"),
            ("check demo", "there is no argument demo"),
            (
                "--jsno check",
                "there is no option --jsno; did you mean --json?",
            ),
            ("-x", "there is no such option (not shown here)"),
            ("--json", "serve takes no --json"),
            ("check --watch", "check takes no --watch"),
            ("--env-file", "--env-file takes a PATH"),
            ("check --json=yes", "an option has a value that takes none"),
        ] {
            assert!(
                parse(line).is_err_and(|e| e.0.starts_with(words)),
                "{line}: {:?}",
                parse(line)
            );
        }
    }

    #[test]
    fn what_may_be_a_key_is_not_repeated() {
        let key = "nvapi-0123456789-secret";
        for line in [
            "KEY",
            "--KEY",
            "-KEY",
            "check KEY",
            "--KEY=x",
            "--json=KEY check",
            "check --port 1 KEY",
            "--env-file KEY check",
        ] {
            let error = parse(&line.replace("KEY", key)).expect_err(line);
            assert!(!error.0.contains("0123"), "{error:?}");
        }
    }

    #[test]
    fn help_names_all_there_is_and_fits_100_columns() {
        let help = help();
        assert!(
            help.lines().all(|line| line.chars().count() <= WIDTH),
            "{help}"
        );
        for name in COMMANDS
            .iter()
            .map(|c| c.0)
            .chain(VARIABLES.iter().map(|v| v.name))
        {
            assert!(help.contains(&format!("\n  {name} ")), "{name}\n{help}");
        }
        let port = "  PORT                    Port to listen on; 0 takes any free one. 0 to 65535. [default: 3000]\n";
        assert!(help.contains(port), "{help}");
    }
}
