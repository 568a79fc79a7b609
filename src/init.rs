//! `alvus init`: writes a `.env` that works. It asks for provider, keys and network at a terminal, else it takes
//! options.
//!
//! It tries the keys before it writes. It never replaces a file without `--force`.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::arguments::Arguments;
use crate::check::{self, Finding};
use crate::config::{Config, Faults, Loaded, PROVIDERS, Target};
use crate::secret::ApiKey;
use crate::state::replace;
use crate::upstream;

/// What is known before it asks.
#[derive(Debug)]
pub struct Given<'a> {
    /// The command line.
    pub arguments: &'a Arguments,
    /// `API_KEYS` of the environment.
    pub keys: Option<OsString>,
    /// How this program was called.
    pub program: String,
    /// There is a terminal to ask at.
    pub asks: bool,
}

/// The default, which is not written.
const PORT: u16 = 3000;

/// Why nothing was written.
#[derive(Debug)]
pub enum Stopped {
    /// The options or answers cannot be used.
    Misused(String),
    /// No key works, or the file cannot be written.
    Failed(String),
}

/// One conversation at the terminal.
struct Terminal<'a> {
    input: &'a mut dyn BufRead,
    output: &'a mut dyn Write,
}

/// Asks, tries, writes, and says how to go on.
///
/// # Errors
/// When nothing was written, in the operator's words.
pub fn run(given: &Given, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<(), Stopped> {
    let arguments = given.arguments;
    let path = arguments.env_file().unwrap_or_else(|| ".env".into());
    let shown = path.display();
    if let Ok(there) = fs::symlink_metadata(&path) {
        // A rename would put a file in the place of a link, a FIFO or a device.
        let text = match (there.is_file(), arguments.has("force")) {
            (true, true) => None,
            (true, false) => {
                Some("is there already: edit it, or let `alvus init --force` replace it")
            }
            (false, _) => Some("is not a regular file"),
        };
        if let Some(text) = text {
            return Err(Stopped::Misused(format!("{shown} {text}")));
        }
    }
    let mut terminal = Terminal { input, output };
    let (url, key_header) = provider(given, &mut terminal)?;
    let mut config = keys(given, &mut terminal, &url, key_header)?;
    if !arguments.has("no-check") {
        try_keys(given, &mut terminal, &mut config)?;
    }
    let lan = arguments.has("lan")
        || (given.asks
            && terminal
                .agrees("May other machines on your network use it, with a key of their own?"));
    let text = file(&config, key_header, lan)?;
    // A service may read it as a user of its own.
    let owner = fs::metadata(&path).ok().map(|old| (old.uid(), old.gid()));
    replace(&path, &text, owner)
        .map_err(|e| Stopped::Failed(format!("cannot write {shown}: {e}")))?;
    terminal.say(&next_steps(&path, &given.program, config.port, lan));
    Ok(())
}

impl Terminal<'_> {
    /// Errors are ignored: nobody may be reading.
    fn say(&mut self, text: &str) {
        let _ = self.output.write_all(text.as_bytes());
        let _ = self.output.flush();
    }

    /// One line of input; `None` at its end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).unwrap_or(0);
        (read > 0).then(|| line.trim().to_owned())
    }

    fn agrees(&mut self, question: &str) -> bool {
        self.say(&format!("\n{question} [y/N] "));
        let answer = self.line().unwrap_or_default();
        answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes")
    }
}

/// The URL and, unless it is the default, the field for the key of the provider with this number, name or URL.
fn find(text: &str) -> Option<(String, &'static str)> {
    let named = |name: &str| {
        let first = name.split(' ').next().unwrap_or_default();
        name.eq_ignore_ascii_case(text) || first.eq_ignore_ascii_case(text)
    };
    let number = text.parse::<usize>().ok();
    let mut known = (1..).zip(PROVIDERS);
    match known.find(|(n, p)| Some(*n) == number || named(p.name)) {
        Some((_, provider)) => Some((provider.url.to_owned(), provider.key_header)),
        None => Target::parse(text).ok().map(|_| (text.to_owned(), "")),
    }
}

fn provider(given: &Given, terminal: &mut Terminal) -> Result<(String, &'static str), Stopped> {
    if let Some(text) = given.arguments.value("provider") {
        let names: Vec<&str> = PROVIDERS.iter().map(|p| p.name).collect();
        let names = names.join(", ");
        return find(&text.to_string_lossy()).ok_or_else(|| {
            Stopped::Misused(format!(
                "--provider: expected one of {names}, or an http:// or https:// URL"
            ))
        });
    }
    if !given.asks {
        return Ok((PROVIDERS[0].url.to_owned(), ""));
    }
    terminal.say("Which provider are your keys for?\n\n");
    for (n, provider) in (1..).zip(PROVIDERS) {
        terminal.say(&format!("  {n}  {:12} {}\n", provider.name, provider.url));
    }
    loop {
        terminal.say("\nNumber, name, or another URL [1]: ");
        let Some(text) = terminal.line() else {
            return Err(Stopped::Misused("nothing was answered".to_owned()));
        };
        let text = if text.is_empty() { "1" } else { &text };
        match find(text) {
            Some(found) => return Ok(found),
            None => terminal.say("That is none of them, and not an http:// or https:// URL.\n"),
        }
    }
}

/// A configuration with the keys that were given, checked.
fn keys(
    given: &Given,
    terminal: &mut Terminal,
    url: &str,
    key_header: &str,
) -> Result<Config, Stopped> {
    loop {
        let (text, more) = match &given.keys {
            Some(keys) => (keys.clone(), false),
            None => read_keys(given, terminal),
        };
        let named = |words: &str| match given.keys {
            Some(_) => words.to_owned(),
            None => words.replace("API_KEYS (environment)", "what you typed"),
        };
        let fault = if text.is_empty() {
            "no key was given: type them, pipe them in, or set API_KEYS".to_owned()
        } else {
            match load(given, text, url, key_header) {
                Ok(loaded) => {
                    for warning in loaded.warnings {
                        terminal.say(&format!("\nwarn: {}\n", named(&warning)));
                    }
                    return Ok(loaded.config);
                }
                Err(faults) => named(&faults.to_string()),
            }
        };
        if !more {
            return Err(Stopped::Misused(fault));
        }
        terminal.say(&format!("{fault}\n"));
    }
}

fn load(given: &Given, keys: OsString, url: &str, key_header: &str) -> Result<Loaded, Faults> {
    let environment = [
        ("API_KEYS", keys),
        ("TARGET_BASE_URL", url.into()),
        ("KEY_HEADER", key_header.into()),
    ];
    Config::parse(None, environment, &given.arguments.settings())
}

/// The keys, and whether more may be typed.
fn read_keys(given: &Given, terminal: &mut Terminal) -> (OsString, bool) {
    if given.asks {
        terminal.say("\nYour keys, one or more a line; an empty line ends them:\n");
    }
    let mut text = String::new();
    while let Some(line) = terminal.line() {
        if !line.is_empty() {
            text += &line;
            text.push('\n');
        } else if given.asks {
            return (text.into(), true);
        }
    }
    (text.into(), false)
}

/// Drops the keys that the provider refuses, if another one works.
fn try_keys(given: &Given, terminal: &mut Terminal, config: &mut Config) -> Result<(), Stopped> {
    terminal.say(&format!("\nTrying them at {}:\n", config.target));
    let mut refused: Vec<ApiKey> = Vec::new();
    let works = check::run(config, |index, key, finding| {
        terminal.say(&format!("  key {index} {}: {finding}\n", key.label()));
        if matches!(finding, Finding::Rejected(_)) {
            refused.push(key.clone());
        }
    });
    match works.map_err(|faults| Stopped::Misused(faults.to_string()))? {
        true if refused.is_empty() => {}
        true => {
            config.api_keys.retain(|key| !refused.contains(key));
            terminal.say("Those that are rejected are left out.\n");
        }
        false
            if given.asks
                && terminal.agrees("None of them works. Write the file with them anyway?") => {}
        false => {
            let text = "no key works, so nothing was written (--no-check writes without trying)";
            return Err(Stopped::Failed(text.to_owned()));
        }
    }
    Ok(())
}

/// This machine's name for other machines.
fn own_name() -> Option<String> {
    let system = rustix::system::uname();
    let name = system.nodename().to_str().ok()?.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

fn file(config: &Config, key_header: &str, lan: bool) -> Result<String, Stopped> {
    let keys: Vec<&str> = config.api_keys.iter().map(ApiKey::expose).collect();
    let mut text = format!(
        "# Made by `alvus init`. `alvus help` lists what else can be set.\nAPI_KEYS={}\nTARGET_BASE_URL={}\n",
        keys.join(","),
        config.target
    );
    if !key_header.is_empty() {
        text += &format!("KEY_HEADER={key_header}\n");
    }
    if config.port != PORT {
        text += &format!("PORT={}\n", config.port);
    }
    if lan {
        let no_key = || Stopped::Failed("the system has no randomness for a client key".to_owned());
        let random = upstream::random().ok_or_else(no_key)?;
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!(
            "# The clients that may ask; add one for each device: name:key,name:key\nHOST=0.0.0.0\nCLIENT_KEYS=home:{key}\n"
        );
        if let Some(name) = own_name() {
            text += &format!("ALLOWED_HOSTS={name},{name}.local\n");
        }
    }
    Ok(text)
}

fn next_steps(path: &Path, program: &str, port: u16, lan: bool) -> String {
    let shown = path.display();
    let named = match path == Path::new(".env") {
        true => String::new(),
        false => format!(" --env-file {shown}"),
    };
    let client = match lan {
        true => {
            let address = own_name().map_or("THIS-MACHINE".to_owned(), |name| name + ".local");
            format!("http://{address}:{port}/v1, and as its API key what follows home: in {shown}")
        }
        false => format!("http://127.0.0.1:{port}/v1, and any API key"),
    };
    format!(
        "\nWrote {shown}, which only its owner can read.\n\nStart it:      {program}{named}\nLook at it:    {program} status{named}\nA client takes {client}.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_found_by_number_name_or_url() {
        for (text, url) in [
            ("1", Some("https://integrate.api.nvidia.com/v1")),
            ("nvidia", Some("https://integrate.api.nvidia.com/v1")),
            ("GROQ", Some("https://api.groq.com/openai/v1")),
            ("http://10.0.0.7:8000/v1", Some("http://10.0.0.7:8000/v1")),
            ("0", None),
            ("99", None),
            ("nobody", None),
        ] {
            assert_eq!(find(text).map(|found| found.0).as_deref(), url, "{text}");
        }
        assert_eq!(find("anthropic").map(|found| found.1), Some("x-api-key"));
    }
}
