//! Collects what is set by `.env`, the environment and the command line, and what is wrong with it.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::form::{Value, Why, pasted, shown, text_of};
use super::{ClientKey, Config, ReadKeys, Sources, VARIABLES, Variable};
use super::{clients, dotenv, keys, lookalike};
use crate::secret::ApiKey;

/// What is set, and what was found wrong with it so far.
pub(super) struct Values<'a> {
    sources: &'a Sources<'a>,
    /// A list: a map for some dozens would cost 5 kB of code.
    set: Vec<Setting<'a>>,
    strangers: Vec<Stranger>,
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
}

struct Setting<'a> {
    name: &'static str,
    value: Cow<'a, OsStr>,
    /// For messages: `environment`, or `.env line 7`.
    origin: String,
}

/// A name that is not ours, but close to one that is.
struct Stranger {
    name: String,
    ours: &'static str,
    /// How many reasons there are to take it for another program's: it is in the environment, it is such a program's
    /// usual name.
    doubts: u8,
    origin: String,
}

impl<'a> Values<'a> {
    pub(super) fn collect(sources: &'a Sources<'a>) -> Values<'a> {
        let mut values = Values {
            sources,
            set: Vec::new(),
            strangers: Vec::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        values.take_file();
        for (name, value) in &sources.environment {
            if let Some(name) = name.to_str()
                && !is_blank(value)
            {
                values.take(name, Cow::Borrowed(value), "environment".to_owned(), 1);
            }
        }
        for (name, value) in sources.options {
            let origin = format!("--{}", name.to_ascii_lowercase());
            values.take(name, Cow::Borrowed(value), origin, 0);
        }
        values
    }

    fn take_file(&mut self) {
        let file = self.sources.env_file_name;
        let (assignments, bad_lines) = dotenv::parse(self.sources.env_file.unwrap_or_default());
        for bad in bad_lines {
            self.faults
                .push(format!("{file} line {} {}", bad.line, bad.why));
        }
        for dotenv::Assignment { line, name, value } in assignments {
            let value = match value {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_ref()),
                Cow::Owned(text) => Cow::Owned(OsString::from(text)),
            };
            if let Some(earlier) = self.take(name, value, format!("{file} line {line}"), 0) {
                self.warnings.push(format!(
                    "{name} is set again on line {line}, so {earlier} has no effect"
                ));
            }
        }
        self.set.retain(|setting| !is_blank(&setting.value));
    }

    /// Takes a setting. Returns the origin of an earlier one that it replaces.
    fn take(
        &mut self,
        name: &str,
        value: Cow<'a, OsStr>,
        origin: String,
        doubts: u8,
    ) -> Option<String> {
        let Some(ours) = VARIABLES.iter().find(|v| v.name == name) else {
            if let Some((ours, sure)) = lookalike::nearest(name) {
                self.strangers.push(Stranger {
                    name: name.to_owned(),
                    ours,
                    doubts: doubts + u8::from(!sure),
                    origin,
                });
            }
            return None;
        };
        let at = self.set.iter().position(|s| s.name == ours.name);
        let earlier = at.map(|at| self.set.swap_remove(at).origin);
        self.set.push(Setting {
            name: ours.name,
            value,
            origin,
        });
        earlier
    }

    fn get(&self, name: &str) -> Option<&Setting<'a>> {
        self.set.iter().find(|setting| setting.name == name)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value that is set, else the default. After a fault it is the default, so that the check goes on.
    pub(super) fn read<T: Value>(&mut self, name: &str) -> T {
        let variable = variable(name);
        if let Some(setting) = self.get(name) {
            match T::read_raw(&setting.value, &variable.form) {
                Ok(value) => return value,
                Err(why) => {
                    let fault = unread(variable, setting, &why);
                    self.faults.push(fault);
                }
            }
        }
        match T::read_raw(variable.default.as_ref(), &variable.form) {
            Ok(value) => value,
            Err(_) => panic!("the default of {name} is wrong"),
        }
    }

    /// The provider's keys, from the list or from the file; there must be at least one.
    pub(super) fn api_keys(&mut self, read: ReadKeys) -> Vec<ApiKey> {
        let (list, file) = (self.get("API_KEYS"), self.get("API_KEYS_FILE"));
        let (found, place, expected) = match (list, file) {
            (Some(list), Some(file)) => {
                let (list, file) = (&list.origin, &file.origin);
                self.faults.push(format!(
                    "API_KEYS ({list}) and API_KEYS_FILE ({file}): keys belong in one place; remove one of the two"
                ));
                return Vec::new();
            }
            (Some(list), None) => (
                keys::list(&text_of(&list.value)),
                format!("API_KEYS ({})", list.origin),
                "keys separated by commas, for example API_KEYS=key1,key2",
            ),
            // That no file can be called so is said where the setting itself is read.
            (None, Some(file)) if pasted(&file.value) => return Vec::new(),
            (None, Some(file)) => {
                let path = Path::new(&file.value);
                let place = format!("API_KEYS_FILE ({}): {}", file.origin, path.display());
                let expected = "one key a line, or name = key";
                match read(path) {
                    Ok(text) => (keys::file(&text), place, expected),
                    Err(why) => {
                        self.faults.push(format!("{place} cannot be read: {why}"));
                        return Vec::new();
                    }
                }
            }
            (None, None) => {
                let fault = self.no_keys();
                self.faults.push(fault);
                return Vec::new();
            }
        };
        if found.keys.is_empty() && found.faults.is_empty() {
            self.faults
                .push(format!("{place} holds no key, expected {expected}"));
        }
        let faults = found.faults.iter();
        self.faults
            .extend(faults.map(|why| format!("{place}: {why}, expected {expected}")));
        if !found.repeated.is_empty() {
            let repeated = found.repeated.join(", ");
            self.warnings
                .push(format!("{place}: dropped as duplicates: {repeated}"));
        }
        found.keys
    }

    fn no_keys(&self) -> String {
        let file = self.sources.env_file_name;
        let mut strangers = self.strangers.iter();
        match strangers.find(|stranger| stranger.ours == "API_KEYS") {
            Some(Stranger { name, origin, .. }) => format!(
                "API_KEYS is not set, but {} is ({origin}): rename it to API_KEYS, and separate keys by commas",
                shown(name)
            ),
            None if self.sources.env_file.is_some() => format!(
                "API_KEYS is not set: put API_KEYS=key1,key2 into {file} (your provider's keys, separated by commas)"
            ),
            None => format!(
                "API_KEYS is not set: run `alvus init`, or create {file} with the line API_KEYS=key1,key2 (your provider's keys, separated by commas)"
            ),
        }
    }

    /// The clients and their keys. A fault gives the place in the list.
    pub(super) fn client_keys(&mut self, api_keys: &[ApiKey]) -> Vec<ClientKey> {
        let Some(Setting { value, origin, .. }) = self.get("CLIENT_KEYS") else {
            return Vec::new();
        };
        let (clients, faults) = clients::client_keys(&text_of(value), api_keys);
        let place = format!("CLIENT_KEYS ({origin})");
        let faults = faults.iter().map(|why| format!("{place}: {why}"));
        self.faults.extend(faults);
        self.warnings.extend(clients::short_keys(&clients));
        clients
    }

    /// Whether a fault of one of these settings was found already.
    fn blamed(&self, names: &[&str]) -> bool {
        let mut faults = self.faults.iter();
        faults.any(|fault| names.iter().any(|name| fault.starts_with(name)))
    }

    /// Nobody opens the keys to a whole network by accident.
    pub(super) fn guard_the_door(&mut self, config: &Config) {
        if config.host.to_canonical().is_loopback()
            || !config.client_keys.is_empty()
            || self.blamed(&["CLIENT_KEYS", "OPEN_LAN"])
        {
            return;
        }
        let host = config.host;
        if config.open_lan {
            self.warnings.push(format!(
                "OPEN_LAN: everyone who can reach {host} can use your keys; CLIENT_KEYS=name:key would demand a key"
            ));
        } else {
            let origin = self.get("HOST").map_or("", |setting| &setting.origin);
            self.faults.push(format!(
                "HOST ({origin}): {host} would let everyone on the network use your keys: set CLIENT_KEYS=name:key \
                 (clients send that key as their API key), or OPEN_LAN=yes if that is what you want"
            ));
        }
    }

    /// WORKERS must be less than MAX_CONNECTIONS: each request holds a connection, and one must be left for `/health`.
    /// The one that the operator did not set follows the other.
    pub(super) fn keep_room(&mut self, config: &mut Config) {
        let (workers, connections) = (config.workers, config.max_connections);
        let fits = connections == 0 || connections > workers;
        if fits || self.blamed(&["WORKERS", "MAX_CONNECTIONS"]) {
            return;
        }
        match (self.get("WORKERS"), self.get("MAX_CONNECTIONS")) {
            (Some(Setting { origin, .. }), Some(Setting { origin: other, .. })) => {
                let fault = format!(
                    "WORKERS ({origin}): {workers} requests at a time do not fit into MAX_CONNECTIONS ({other}): \
                     {connections}, expected more connections than workers, for example MAX_CONNECTIONS={}",
                    2 * workers
                );
                self.faults.push(fault);
            }
            _ => config.workers = connections.saturating_sub(1).max(1),
        }
    }

    /// A name that may be another program's is reported only while ours is not set, and one that probably is, never.
    pub(super) fn report_strangers(&mut self) {
        for stranger in &self.strangers {
            let ours = stranger.ours;
            if stranger.doubts == 0 || stranger.doubts == 1 && !self.is_set(ours) {
                let (found, origin) = (shown(&stranger.name), &stranger.origin);
                self.warnings.push(format!(
                    "{found} ({origin}) is not a setting of alvus; did you mean {ours}?"
                ));
            }
        }
    }
}

/// The fault of a value that could not be read.
fn unread(variable: &Variable, setting: &Setting, why: &Why) -> String {
    let Variable { name, form, .. } = variable;
    let found = form.echo(text_of(&setting.value).trim());
    let why = match why {
        Why::Unexpected => String::new(),
        Why::Because(why) => format!(" ({why})"),
    };
    let example = match form.example() {
        "" => variable.default,
        example => example,
    };
    format!(
        "{name} ({}): found {found}{why}, expected {}, for example {name}={example}",
        setting.origin,
        form.expected()
    )
}

/// The row of this name. A wrong name is a bug that the first [`Config::load`] finds.
fn variable(name: &str) -> &'static Variable {
    match VARIABLES.iter().find(|v| v.name == name) {
        Some(variable) => variable,
        None => panic!("{name} has no row in VARIABLES"),
    }
}

fn is_blank(value: &OsStr) -> bool {
    let visible = |b: &u8| b.is_ascii_graphic();
    !value.as_encoded_bytes().iter().any(visible) && text_of(value).trim().is_empty()
}
