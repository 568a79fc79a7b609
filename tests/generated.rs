//! Texts made from the tables of settings, commands, options and providers: README, `.env.example`, the man page, the
//! shell completions. `WRITE=1 cargo test --test generated` writes them.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use alvus::arguments::{COMMANDS, EXIT_CODES, OPTIONS, Opt};
use alvus::config::{PROVIDERS, VARIABLES, Variable};

/// The file holds this text from `from` to `to`, or is given it, or the test says what to put there.
fn holds_within(file: &str, expected: &str, piece: impl Fn(&str) -> (usize, usize)) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let found = fs::read_to_string(&path).unwrap_or_default();
    let (from, to) = piece(&found);
    if &found[from..to] == expected {
        return;
    }
    assert!(
        std::env::var_os("WRITE").is_some(),
        "{file} is not what the tables say; `WRITE=1 cargo test --test generated` puts this there:\n{expected}"
    );
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(
        path,
        format!("{}{expected}{}", &found[..from], &found[to..]),
    )
    .unwrap();
}

/// The file is this text.
fn holds(file: &str, expected: &str) {
    holds_within(file, expected, |found| (0, found.len()));
}

/// The README has this piece, which begins with these words and ends at an empty line.
fn readme_holds(first: &str, expected: &str) {
    holds_within("README.md", expected, |readme| {
        let from = readme
            .find(first)
            .unwrap_or_else(|| panic!("README.md has no {first:?}"));
        (from, from + readme[from..].find("\n\n").unwrap() + 1)
    });
}

/// What a setting does, with its bounds.
fn help(v: &Variable) -> String {
    format!("{}{}", v.help, v.form.limits())
}

#[test]
fn the_readme_has_every_setting() {
    let mut list = String::new();
    for v in VARIABLES {
        let default = match v.default {
            "" => String::new(),
            default => format!(" (`{default}`)"),
        };
        writeln!(list, "- **`{}`**{default}: {}", v.name, help(v)).unwrap();
    }
    readme_holds("- **`API_KEYS`**", &list);
}

#[test]
fn the_readme_says_what_takes_a_restart() {
    let names = VARIABLES.iter().filter(|v| v.restart).map(|v| v.name);
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let text = format!("These take a restart: {}.\n", names.join(", "));
    readme_holds("These take a restart:", &text);
}

#[test]
fn the_readme_has_every_provider() {
    let mut table = "| Provider | `TARGET_BASE_URL` |\n|---|---|\n".to_owned();
    for (at, p) in PROVIDERS.iter().enumerate() {
        let note = match p.key_header {
            "" if at == 0 => " (the default)".to_owned(),
            "" => String::new(),
            header => format!(", with `KEY_HEADER={header}`"),
        };
        writeln!(table, "| {} | `{}`{note} |", p.name, p.url).unwrap();
    }
    table += "| your own | `http://192.168.1.20:8000/v1` |\n";
    readme_holds("| Provider |", &table);
    assert_eq!(
        PROVIDERS[0].url,
        VARIABLES
            .iter()
            .find(|v| v.name == "TARGET_BASE_URL")
            .unwrap()
            .default
    );
}

/// Lines of at most 100 columns, each with this in front.
fn wrapped(prefix: &str, text: &str) -> String {
    let mut out = prefix.to_owned();
    let mut column = prefix.chars().count();
    for word in text.split(' ') {
        let length = word.chars().count() + 1;
        if column + length > 100 {
            out += "\n";
            out += prefix;
            column = prefix.chars().count();
        }
        out += " ";
        out += word;
        column += length;
    }
    out + "\n"
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let mut out = "\
# alvus reads this file as .env in its working directory; the environment wins over it.
# Copy it (cp .env.example .env; chmod 600 .env), put your keys in, and uncomment what you change.
# `alvus init` makes a shorter one.
"
    .to_owned();
    for v in VARIABLES {
        let sign = if v.name == "API_KEYS" { "" } else { "#" };
        write!(
            out,
            "\n{}{sign}{}={}\n",
            wrapped("#", &help(v)),
            v.name,
            v.default
        )
        .unwrap();
    }
    holds(".env.example", &out);
}

/// An option as it is written.
fn written(o: &Opt) -> String {
    format!("--{} {}", o.name, o.value).trim_end().to_owned()
}

fn belongs(o: &Opt) -> String {
    match o.of {
        [] => String::new(),
        of => format!("{}: ", of.join(", ")),
    }
}

#[test]
fn the_man_page_has_all_of_them() {
    let roff = |text: &str| {
        text.replace('\\', "\\e")
            .replace('-', "\\-")
            .replace('\'', "\\(aq")
    };
    let item = |out: &mut String, name: &str, text: &str| {
        writeln!(out, ".TP\n.B {}\n{}", roff(name), roff(text)).unwrap();
    };
    let mut out = format!(
        ".\\\" Made from the program's tables; see tests/generated.rs.\n.TH ALVUS 1 \"\" \"alvus {}\"\n",
        env!("CARGO_PKG_VERSION")
    );
    out += ".SH NAME\nalvus \\- a key\\-rotating LLM proxy for tiny machines\n";
    out += ".SH SYNOPSIS\n.B alvus\n[\\fICOMMAND\\fR] [\\fIOPTIONS\\fR]\n";
    out += ".SH DESCRIPTION\nalvus stands between agents and one LLM provider, and holds a pool of API keys. When a key is\nlimited, it tries the next one; when all keys rest, the request waits in line.\n";
    out += ".SH COMMANDS\n";
    COMMANDS
        .iter()
        .for_each(|(name, help)| item(&mut out, name, help));
    out += ".SH OPTIONS\n";
    for o in OPTIONS {
        item(&mut out, &written(o), &format!("{}{}", belongs(o), o.help));
    }
    out += ".SH ENVIRONMENT\nSettings stand in the environment or in\n.IR .env ,\nin the working directory; the environment wins.\n";
    for v in VARIABLES {
        let default = match v.default {
            "" => String::new(),
            default => format!(" Default: {default}."),
        };
        item(&mut out, v.name, &format!("{}{default}", help(v)));
    }
    out += ".SH SIGNALS\n";
    item(&mut out, "SIGHUP", "reads the configuration again");
    item(
        &mut out,
        "SIGTERM, SIGINT",
        "let running requests end, for up to 30 s",
    );
    out += ".SH EXIT STATUS\n";
    EXIT_CODES
        .iter()
        .for_each(|(code, means)| item(&mut out, code, means));
    holds("cross/shell/alvus.1", &out);
}

#[test]
fn bash_completes_commands_and_their_options() {
    let words: Vec<&str> = COMMANDS.iter().map(|c| c.0).collect();
    let of = |command: &str| {
        let takes = |o: &&Opt| o.of.is_empty() || o.of.contains(&command);
        let names = OPTIONS
            .iter()
            .filter(takes)
            .map(|o| format!("--{}", o.name));
        names.collect::<Vec<_>>().join(" ")
    };
    let mut out = "# Made from the program's tables; see tests/generated.rs.\n_alvus() {\n    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} word command=serve options\n".to_owned();
    let all = words.join(" | ");
    write!(
        out,
        "    for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        case $word in {all}) command=$word ;; esac\n    done\n"
    )
    .unwrap();
    out += "    case $command in\n";
    for word in &words {
        writeln!(out, "    {word}) options=\"{}\" ;;", of(word)).unwrap();
    }
    out += "    esac\n    case $prev in\n    --env-file) mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") ;;\n    --port | --host | --provider) COMPREPLY=() ;;\n    *) mapfile -t COMPREPLY < <(compgen -W \"";
    writeln!(out, "{} $options\" -- \"$cur\") ;;", words.join(" ")).unwrap();
    out += "    esac\n}\ncomplete -F _alvus alvus\n";
    holds("cross/shell/alvus.bash", &out);
}

#[test]
fn zsh_completes_commands_and_options() {
    let quoted = |text: &str| {
        text.replace('\'', "'\\''")
            .replace('[', "\\[")
            .replace(']', "\\]")
            .replace(':', "\\:")
    };
    let mut out = "#compdef alvus\n# Made from the program's tables; see tests/generated.rs.\n_arguments \\\n".to_owned();
    for o in OPTIONS {
        let value = match o.value {
            "" => String::new(),
            "PATH" => ":file:_files".to_owned(),
            value => format!(":{}:", value.to_lowercase()),
        };
        writeln!(
            out,
            "  '--{}[{}{}]{value}' \\",
            o.name,
            quoted(&belongs(o)),
            quoted(o.help)
        )
        .unwrap();
    }
    out += "  '1:command:((";
    let commands = COMMANDS
        .iter()
        .map(|(name, help)| format!("{name}\\:\"{}\"", quoted(help)));
    out += &commands.collect::<Vec<_>>().join(" ");
    out += "))'\n";
    holds("cross/shell/_alvus", &out);
}

#[test]
fn fish_completes_commands_and_their_options() {
    let mut out =
        "# Made from the program's tables; see tests/generated.rs.\ncomplete -c alvus -f\n"
            .to_owned();
    for (name, help) in COMMANDS {
        writeln!(
            out,
            "complete -c alvus -n __fish_use_subcommand -a {name} -d '{}'",
            help.replace('\'', "\\'")
        )
        .unwrap();
    }
    for o in OPTIONS {
        let only = match o.of {
            [] | ["serve", ..] => String::new(), // which needs no word
            of => format!(" -n '__fish_seen_subcommand_from {}'", of.join(" ")),
        };
        let takes = match o.value {
            "" => "",
            "PATH" => " -r -F",
            _ => " -x",
        };
        writeln!(
            out,
            "complete -c alvus{only} -l {}{takes} -d '{}'",
            o.name,
            o.help.replace('\'', "\\'")
        )
        .unwrap();
    }
    holds("cross/shell/alvus.fish", &out);
}
