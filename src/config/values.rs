//! What is set, by `.env` and by the environment, and what is wrong with it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::words::{echo, like_a_key, shown};
use super::{ClientKey, Config, Form, VARIABLES, Variable, dotenv, guests, lookalike, target};
use crate::dialect::models::ModelMap;
use crate::secret::ApiKey;

/// What is set, and what was found wrong with it so far.
pub(super) struct Values<'a> {
    env_file: Option<&'a str>,
    env_file_name: &'a str,
    pub(super) set: Settings<'a>,
    strangers: Vec<Stranger>,
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Settings by name. A dozen of them need no map, and a map's code is 5 kB of the binary.
#[derive(Default)]
pub(super) struct Settings<'a>(Vec<(&'static str, Setting<'a>)>);

impl<'a> Settings<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Setting<'a>> {
        self.0
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, setting)| setting)
    }

    /// Replaces an earlier one and returns it.
    fn insert(&mut self, name: &'static str, setting: Setting<'a>) -> Option<Setting<'a>> {
        let at = self.0.iter().position(|(n, _)| *n == name);
        let earlier = at.map(|at| self.0.swap_remove(at).1);
        self.0.push((name, setting));
        earlier
    }
}

pub(super) struct Setting<'a> {
    value: Cow<'a, OsStr>,
    /// For the messages: `environment`, or `.env line 7`.
    origin: String,
}

/// A name that is not ours, but close to one that is.
struct Stranger {
    name: String,
    ours: &'static str,
    /// `None`: from the environment.
    line: Option<String>,
}

impl<'a> Values<'a> {
    pub(super) fn collect<N: Into<OsString>, V: Into<OsString>>(
        env_file: Option<&'a str>,
        env_file_name: &'a str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Values<'a> {
        let (set, strangers, faults, warnings) = Default::default();
        let mut values = Values {
            env_file,
            env_file_name,
            set,
            strangers,
            faults,
            warnings,
        };
        values.take_file();
        for (name, value) in environment {
            if let Ok(name) = name.into().into_string() {
                values.take_environment(name, value.into());
            }
        }
        values
    }

    fn take_file(&mut self) {
        let (assignments, bad_lines) = dotenv::parse(self.env_file.unwrap_or_default());
        for bad in bad_lines {
            self.faults.push(format!(
                "{} line {} {}",
                self.env_file_name, bad.line, bad.why
            ));
        }
        for dotenv::Assignment { line, name, value } in assignments {
            let origin = format!("{} line {line}", self.env_file_name);
            if let Some(ours) = VARIABLES.iter().find(|v| v.name == name) {
                if let Some(earlier) = self.set.insert(
                    ours.name,
                    Setting {
                        value: match value {
                            Cow::Borrowed(text) => Cow::Borrowed(text.as_ref()),
                            Cow::Owned(text) => Cow::Owned(text.into()),
                        },
                        origin,
                    },
                ) {
                    let earlier = earlier.origin;
                    self.warnings.push(format!(
                        "{name} is set again on line {line}, so {earlier} has no effect"
                    ));
                }
            } else if let Some(ours) = lookalike::nearest(name) {
                self.strangers.push(Stranger {
                    name: name.to_owned(),
                    ours: ours.name,
                    line: Some(origin),
                });
            }
        }
        self.set.0.retain(|(_, setting)| !is_blank(&setting.value));
    }

    fn take_environment(&mut self, name: String, value: OsString) {
        if is_blank(&value) {
            return;
        }
        if let Some(ours) = VARIABLES.iter().find(|v| v.name == name) {
            self.set.insert(
                ours.name,
                Setting {
                    value: value.into(),
                    origin: "environment".to_owned(),
                },
            );
        } else if let Some(ours) = lookalike::nearest(&name) {
            self.strangers.push(Stranger {
                name,
                ours: ours.name,
                line: None,
            });
        }
    }

    pub(super) fn models(&mut self, name: &'static str) -> ModelMap {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return ModelMap::default();
        };
        let text = text_of(value);
        ModelMap::parse(&text).unwrap_or_else(|why| {
            let why = match like_a_key(&text) {
                true => "something in it looks like a key".into(),
                false => why,
            };
            self.faults.push(format!(
                "{name} ({origin}): {why}, for example {name}=claude-haiku*=a/b,claude-*=c/d"
            ));
            ModelMap::default()
        })
    }

    /// The value that is set or else the default, checked by `parse`, whose error may say more than
    /// [`Form::expected`] (it follows the value, so it must not repeat it). After a fault the default stands in,
    /// so that the check goes on.
    pub(super) fn checked<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> T {
        let variable = variable(name);
        if let Some(Setting { value, origin }) = self.set.get(name) {
            let text = text_of(value);
            match parse(text.trim()) {
                Ok(value) => return value,
                Err(why) => {
                    let found = echo(&variable.form, text.trim());
                    let why = if why.is_empty() {
                        String::new()
                    } else {
                        format!(" ({why})")
                    };
                    let expected = variable.form.expected();
                    let example = variable.form.example().unwrap_or(variable.default);
                    self.faults.push(format!(
                        "{name} ({origin}): found {found}{why}, expected {expected}, for example {name}={example}"
                    ));
                }
            }
        }
        match parse(variable.default) {
            Ok(value) => value,
            Err(why) => panic!("the default of {name} is wrong: {why}"),
        }
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &'static str) -> T {
        let Form::Number { min, max, .. } = variable(name).form else {
            panic!("{name} is not a number")
        };
        self.checked(name, |text| {
            let number = target::whole_number(text).filter(|n| (min..=max).contains(n));
            number.and_then(|n| T::try_from(n).ok()).ok_or("")
        })
    }

    pub(super) fn seconds(&mut self, name: &'static str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    pub(super) fn file(&mut self, name: &'static str) -> Option<PathBuf> {
        self.set
            .get(name)
            .map(|setting| PathBuf::from(&*setting.value))
    }

    /// The list without blanks and duplicates. A key that cannot be sent is a fault that gives its place in the list.
    fn keys(&mut self, name: &'static str) -> Vec<ApiKey> {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return Vec::new();
        };
        let text = text_of(value);
        let mut repeated: Vec<String> = Vec::new();
        let listed = || {
            let parts = text.split(',').map(str::trim);
            parts.filter(|key| !key.is_empty())
        };
        // There may be ten thousand, so nothing grows.
        let most = 1 + text.bytes().filter(|b| *b == b',').count();
        let mut keys = Vec::with_capacity(most);
        let mut seen = HashSet::with_capacity(most);
        for (at, key_text) in (1..).zip(listed()) {
            let key = ApiKey::new(key_text);
            if let Some(fault) = key.fault() {
                let count = listed().count();
                self.faults.push(format!(
                    "{name} ({origin}): key {at} of {count} {fault}, expected keys of visible ASCII characters, \
                     separated by commas, for example {name}=key1,key2"
                ));
            } else if seen.insert(key_text) {
                keys.push(key);
            } else {
                repeated.push(format!("key {at} ({})", key.label()));
            }
        }
        if !repeated.is_empty() {
            let repeated = repeated.join(", ");
            self.warnings.push(format!(
                "{name} ({origin}): dropped as duplicates: {repeated}"
            ));
        }
        keys
    }

    /// The clients and their keys. A fault gives the place in the list.
    pub(super) fn client_keys(
        &mut self,
        name: &'static str,
        api_keys: &[ApiKey],
    ) -> Vec<ClientKey> {
        let Some(Setting { value, origin }) = self.set.get(name) else {
            return Vec::new();
        };
        let (clients, faults) = guests::client_keys(&text_of(value), api_keys);
        let faults = faults.iter().map(|why| format!("{name} ({origin}): {why}"));
        self.faults.extend(faults);
        self.warnings.extend(guests::short_keys(&clients));
        clients
    }

    /// Nobody opens the keys to a whole network without saying so.
    pub(super) fn guard_the_door(&mut self, config: &Config, open_lan: bool) {
        let blamed =
            |fault: &String| fault.starts_with("CLIENT_KEYS") || fault.starts_with("OPEN_LAN");
        if config.host.to_canonical().is_loopback()
            || !config.client_keys.is_empty()
            || self.faults.iter().any(blamed)
        {
            return;
        }
        let host = config.host;
        if open_lan {
            self.warnings.push(format!(
                "OPEN_LAN: whoever can reach {host} can use your keys; CLIENT_KEYS=name:key would ask for one first"
            ));
        } else {
            let origin = self.set.get("HOST").map_or("", |setting| &setting.origin);
            self.faults.push(format!(
                "HOST ({origin}): {host} would let everyone on the network use your keys: set CLIENT_KEYS=name:key \
                 (clients send that key as their API key), or OPEN_LAN=yes if that is what you want"
            ));
        }
    }

    /// Each request that is served holds a connection, and one must be left for `/health`. Of the two, what
    /// the operator did not set follows what was.
    pub(super) fn keep_room(&mut self, config: &mut Config) {
        let blamed =
            |fault: &String| fault.starts_with("WORKERS") || fault.starts_with("MAX_CONNECTIONS");
        let (workers, connections) = (config.workers, config.max_connections);
        if connections == 0 || connections > workers || self.faults.iter().any(blamed) {
            return;
        }
        match (self.set.get("WORKERS"), self.set.get("MAX_CONNECTIONS")) {
            (Some(Setting { origin, .. }), Some(Setting { origin: other, .. })) => {
                self.faults.push(format!(
                    "WORKERS ({origin}): {workers} requests at a time do not fit into MAX_CONNECTIONS ({other}): \
                     {connections}, expected more connections than workers, for example MAX_CONNECTIONS={}",
                    2 * workers
                ));
            }
            _ => config.workers = connections.saturating_sub(1).max(1),
        }
    }

    pub(super) fn required_keys(&mut self, name: &'static str) -> Vec<ApiKey> {
        let faults_before = self.faults.len();
        let keys = self.keys(name);
        if !keys.is_empty() || self.faults.len() > faults_before {
            return keys;
        }
        let file = self.env_file_name;
        let mut fault = match self.set.get(name) {
            Some(Setting { origin, .. }) => format!("{name} ({origin}) holds no key"),
            None => format!("{name} is not set"),
        };
        match self.strangers.iter().find(|stranger| stranger.ours == name) {
            Some(stranger) => {
                let (found, origin) = (shown(&stranger.name), stranger.origin());
                fault += &format!(
                    ", but {found} is ({origin}): rename it to {name}, and separate keys by commas"
                );
            }
            None if self.env_file.is_some() => {
                fault += &format!(
                    ": put {name}=key1,key2 into {file} (your provider's keys, separated by commas)"
                );
            }
            None => {
                fault += &format!(
                    ": create {file} with the line {name}=key1,key2 (your provider's keys, separated by commas)"
                );
            }
        }
        self.faults.push(fault);
        keys
    }

    /// A foreign name in the environment is worth a line only while ours is not set: it may well be another program's.
    pub(super) fn report_strangers(&mut self) {
        for stranger in &self.strangers {
            if stranger.line.is_some() || self.set.get(stranger.ours).is_none() {
                let (found, origin, ours) =
                    (shown(&stranger.name), stranger.origin(), stranger.ours);
                self.warnings.push(format!(
                    "{found} ({origin}) is not a setting of alvus; did you mean {ours}?"
                ));
            }
        }
    }
}

impl Stranger {
    fn origin(&self) -> &str {
        self.line.as_deref().unwrap_or("environment")
    }
}

/// The row called `name`. A wrong name is a bug that the first call of [`Config::parse`] finds.
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

/// As `to_string_lossy`, which is slow where nothing is lost.
fn text_of(value: &OsStr) -> Cow<'_, str> {
    match value.to_str() {
        Some(text) => text.into(),
        None => value.to_string_lossy(),
    }
}
