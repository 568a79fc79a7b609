//! Remembers which key made what: files, batches, stored responses and answers that are fetched later belong to that
//! key's account. A later request for one is sent with the same key, while it exists.
//!
//! It keeps salted hashes of [`MOST`] ids, for an hour.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use memchr::memchr;

use super::{Exchange, Mapped, Relay, lock};
use crate::pool::Picked;
use crate::route;
use crate::upstream::Answer;

/// How many ids are known at a time; the oldest one goes.
const MOST: usize = 1000;

/// How long an id is known.
const KEPT: Duration = Duration::from_secs(3600);

/// Shorter ones are words of a path, not ids.
const SHORTEST: usize = 6;

/// How long to wait for the beginning of a document.
const GLANCE: Duration = Duration::from_secs(10);

/// The fields of a request that name what it continues.
const FIELDS: [&[u8]; 3] = [
    b"\"previous_response_id\"",
    b"\"input_file_id\"",
    b"\"file_id\"",
];

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Owners {
    salt: RandomState,
    made: Mutex<Made>,
}

/// The key and time of each id; and the ids, the oldest first.
#[derive(Debug, Default)]
struct Made {
    by: HashMap<u64, (Picked, Instant)>,
    order: VecDeque<u64>,
}

impl Owners {
    /// Remembers that an id was made with this key.
    pub(super) fn add(&self, id: &[u8], by: &Picked, at: Instant) {
        if id.len() < SHORTEST {
            return;
        }
        let id = self.salt.hash_one(id);
        let mut made = lock(&self.made);
        if made.by.insert(id, (by.clone(), at)).is_none() {
            made.order.push_back(id);
        }
        if made.order.len() > MOST
            && let Some(oldest) = made.order.pop_front()
        {
            made.by.remove(&oldest);
        }
    }

    /// The key of an id in the path.
    pub(super) fn of_path(&self, target: &str, now: Instant) -> Option<Picked> {
        let segments = route::path(target).split('/').map(str::as_bytes);
        self.find(segments, now)
    }

    /// The key of an id in the body.
    pub(super) fn of_body(&self, body: &[u8], now: Instant) -> Option<Picked> {
        self.find(strings_of(body, &FIELDS), now)
    }

    fn find<'a>(&self, ids: impl Iterator<Item = &'a [u8]>, now: Instant) -> Option<Picked> {
        let made = lock(&self.made);
        if made.by.is_empty() {
            return None; // mostly: nothing need be looked for
        }
        let mut ids = ids.filter(|id| id.len() >= SHORTEST);
        ids.find_map(|id| {
            let (by, at) = made.by.get(&self.salt.hash_one(id))?;
            (now.saturating_duration_since(*at) < KEPT).then(|| by.clone())
        })
    }
}

impl Relay {
    /// Remembers the id in an answer with its key.
    pub(super) fn note_owner(
        &self,
        mapped: &Mapped,
        answer: &mut Answer,
        by: &Picked,
        now: Instant,
    ) {
        if !(mapped.stores && matches!(answer.status, 200..=202)) {
            return;
        }
        // NVIDIA's id of an answer that is fetched later.
        if let Some(id) = answer.header("nvcf-reqid") {
            return self.owners.add(id, by, now);
        }
        if answer.start().is_empty() && answer.json {
            let _ = answer.look_further(GLANCE);
        }
        if let Some(id) = first_id(answer.start()) {
            self.owners.add(id, by, now);
        }
    }

    /// The key that made what this request continues.
    pub(super) fn owner(&self, exchange: &mut Exchange, now: Instant) -> Option<Picked> {
        let body = exchange.body.as_ref().filter(|_| exchange.mapped.stores);
        let in_body = || self.owners.of_body(&body?.bytes, now);
        let owner = exchange.mapped.owner.take().or_else(in_body)?;
        self.pool(|pool| pool.has(&owner)).then_some(owner)
    }
}

/// The first id in the beginning of an answer.
fn first_id(start: &[u8]) -> Option<&[u8]> {
    strings_of(start, &[b"\"id\""]).next()
}

/// The string values of these names; `names` are in quotes.
fn strings_of<'a>(
    mut json: &'a [u8],
    names: &'static [&'static [u8]],
) -> impl Iterator<Item = &'a [u8]> {
    std::iter::from_fn(move || {
        loop {
            json = &json[memchr(b'"', json)?..];
            let Some(name) = names.iter().find(|name| json.starts_with(name)) else {
                json = &json[1..];
                continue;
            };
            json = &json[name.len()..];
            let value = json.trim_ascii_start().strip_prefix(b":");
            let text = value.and_then(|value| value.trim_ascii_start().strip_prefix(b"\""));
            if let Some(text) = text {
                return Some(&text[..memchr(b'"', text)?]);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pace, Rotation};
    use crate::pool::{Pick, PickRequest, Pool, Settings};
    use crate::secret::ApiKey;

    fn picked(count: usize, now: Instant) -> Vec<Picked> {
        let keys: Vec<ApiKey> = (0..count).map(|n| ApiKey::new(format!("k{n}"))).collect();
        let settings = Settings {
            cooldown: KEPT,
            pace: Pace::Off,
            rotation: Rotation::RoundRobin,
            attempts: count,
        };
        let mut pool = Pool::new(&keys, settings, now);
        let (lane, _) = pool.enter("m", now);
        let one = |_| match pool.pick(lane, PickRequest::default(), now) {
            Pick::Key(picked) => picked,
            other => panic!("{other:?}"),
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn ids_in_paths_and_bodies_are_known_for_an_hour() {
        let now = Instant::now();
        let keys = picked(2, now);
        let owners = Owners::default();
        assert_eq!(owners.of_path("/v1/files/file-1", now), None);
        owners.add(b"file-1", &keys[0], now);
        owners.add(b"resp_2", &keys[1], now);
        owners.add(b"files", &keys[1], now); // too short
        let index = |found: Option<Picked>| found.map(|key| key.index);
        for (target, expected) in [
            ("/v1/files/file-1", Some(0)),
            ("/v1/files/file-1/content?x=resp_2", Some(0)),
            ("/v1/responses/resp_2", Some(1)),
            ("/v1/files/file-2", None),
        ] {
            assert_eq!(index(owners.of_path(target, now)), expected, "{target}");
        }
        for (body, expected) in [
            (
                r#"{"model":"m","previous_response_id" : "resp_2"}"#,
                Some(1),
            ),
            (r#"{"input_file_id":"file-1"}"#, Some(0)),
            (
                r#"{"input":[{"file_id":null},{"file_id":"file-9"},{"file_id":"file-1"}]}"#,
                Some(0),
            ),
            (r#"{"previous_response_id":null,"file_id"#, None),
            (r#"{"input":"file-1"}"#, None),
        ] {
            assert_eq!(
                index(owners.of_body(body.as_bytes(), now)),
                expected,
                "{body}"
            );
        }
        assert_eq!(owners.of_path("/v1/files/file-1", now + KEPT), None);
    }

    #[test]
    fn the_oldest_one_makes_room() {
        let now = Instant::now();
        let keys = picked(1, now);
        let owners = Owners::default();
        for n in 0..=MOST {
            owners.add(format!("file-{n}").as_bytes(), &keys[0], now);
            owners.add(b"file-again", &keys[0], now);
        }
        assert_eq!(lock(&owners.made).by.len(), MOST);
        assert_eq!(owners.of_path("/file-0", now), None);
        assert!(owners.of_path("/file-again", now).is_some());
    }

    #[test]
    fn an_answer_names_itself_first() {
        for (start, expected) in [
            (r#"{"id":"file-1","object":"file"}"#, Some("file-1")),
            (
                r#"{"object":"batch","id" : "batch-1","x":{"id":"y"}}"#,
                Some("batch-1"),
            ),
            (
                "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"",
                Some("resp_1"),
            ),
            (r#"{"id":7,"ids":["x"]}"#, None),
            (r#"{"id":"cut"#, None),
        ] {
            let found = first_id(start.as_bytes()).map(|id| std::str::from_utf8(id).expect("text"));
            assert_eq!(found, expected, "{start}");
        }
    }
}
