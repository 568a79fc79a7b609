//! What a client may ask of alvus itself, in fields that do not go to the upstream: a deadline for its answer, and one
//! key.

use std::io::Write;
use std::time::Duration;

use super::{End, Exchange, Outcome};
use crate::headers::{self, Field};
use crate::reply::{BadRequest, Reply};

const DEADLINE: &str = "x-alvus-deadline-ms";
const KEY: &str = "x-alvus-key";

/// The longest deadline, in milliseconds: a day.
const LONGEST: u64 = 24 * 3600 * 1000;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct ClientFields {
    /// The deadline: the whole answer must be there within this time.
    pub(super) within: Option<Duration>,
    /// The only key to use, by its number or its name.
    pub(super) key: Option<String>,
}

impl ClientFields {
    /// Reads a request's fields.
    ///
    /// # Errors
    /// In words for the client, when a field cannot be understood.
    pub(super) fn read(fields: &[Field]) -> Result<ClientFields, BadRequest> {
        let mut client_fields = ClientFields::default();
        for (name, value) in fields {
            if headers::is(name, KEY) {
                client_fields.key = Some(String::from_utf8_lossy(value.trim_ascii()).into_owned());
            } else if headers::is(name, DEADLINE) {
                let text = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
                let millis = text.parse().ok().filter(|ms| (1..=LONGEST).contains(ms));
                let Some(millis) = millis else {
                    return Err(BadRequest(format!(
                        "X-Alvus-Deadline-Ms is {:?}; expected 1 to {LONGEST} milliseconds",
                        crate::logging::shown(text)
                    )));
                };
                client_fields.within = Some(Duration::from_millis(millis));
            }
        }
        Ok(client_fields)
    }
}

/// There is no such key. The value is not repeated, as it may be a key itself.
pub(super) fn unknown_key(keys: usize) -> Reply {
    let text = format!(
        "x-alvus-key names no key; expected a number, 0 for the first of the {keys} keys, or a name"
    );
    Reply::error(400, "unknown_key", &text)
}

/// The client's deadline has passed, or no key comes free before it.
pub(super) fn too_late() -> Reply {
    let text = "there was no answer within X-Alvus-Deadline-Ms";
    Reply::error(504, "deadline_exceeded", text)
}

impl Exchange<'_> {
    /// Answers a client whose deadline passed before its answer began.
    pub(super) fn in_time(&self, outcome: Outcome, out: &mut dyn Write) -> Outcome {
        let unheard = outcome.end == End::ClientLeft && outcome.status == 0;
        match unheard && self.client.is_late() {
            true => self.deliver(out, outcome).reply(&too_late()),
            false => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_or_refused_as_the_table_says() {
        for (name, value, within, key) in [
            ("X-Alvus-Deadline-Ms", " 1500 ", Some(1500), None),
            ("x-alvus-deadline-ms", "1", Some(1), None),
            ("X-ALVUS-KEY", " 2", None, Some("2")),
            ("x-alvus-key", "work", None, Some("work")),
            ("x-alvus-keys", "2", None, None),
            ("x-other-field-there", "2", None, None),
        ] {
            let fields = [(name.as_bytes(), value.as_bytes())];
            let client_fields = ClientFields::read(&fields).expect("valid");
            assert_eq!(
                client_fields.within.map(|t| t.as_millis()),
                within,
                "{name}"
            );
            assert_eq!(client_fields.key.as_deref(), key, "{name}");
        }
        for bad in [
            "",
            "0",
            "-1",
            "1.5",
            "soon",
            "86400001",
            "99999999999999999999",
        ] {
            let fields = [(&b"x-alvus-deadline-ms"[..], bad.as_bytes())];
            let error = ClientFields::read(&fields).expect_err(bad);
            assert!(error.0.contains("milliseconds"), "{error:?}");
        }
    }
}
