//! Keeps the lists of models for ten minutes: agents poll them, and each poll would cost a key a request. When a list is
//! old, one request fetches a new one. Meanwhile, and if that fails, all others get the old one. Before the first list is
//! there, each request fetches its own.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::deliver::Delivery;
use super::{End, Exchange, Outcome, Relay, lock};
use crate::headers::{self, Field};
use crate::reply::{self, Downstream};
use crate::route;
use crate::upstream::Kept;

/// How long a list counts as fresh.
const FRESH: Duration = Duration::from_secs(600);
/// How long an old list is served after a new one could not be had.
const ANYWAY: Duration = Duration::from_secs(30);
/// The most lists that are kept: one for each query and dialect that clients use.
const MOST: usize = 4;
/// The most bytes of all lists; OpenRouter's takes 1 MB.
const LARGEST: usize = 4 * 1024 * 1024;
/// The longest name of a list.
const LONGEST: usize = 128;

/// For an answer that is kept: no chunks, no connection.
const PLAIN: Downstream = Downstream {
    http_1_1: false,
    keep_alive: false,
    head_only: false,
    origin: None,
};

/// The name of the list of models that a request asks for, if it does. `path`: the upstream's.
pub(super) fn name(method: &str, target: &str, path: &str, fields: &[Field]) -> Option<String> {
    let is_list = || matches!(route::path(target), "/v1/models" | "/models");
    let kept = method == "GET" && is_list() && path.len() < LONGEST;
    kept.then(|| format!("{path} {}", u8::from(is_anthropics(fields))))
}

/// Whether the client wants Anthropic's shape.
pub(super) fn is_anthropics(fields: &[Field]) -> bool {
    let is_theirs = |(name, _): &Field| headers::is(name, "anthropic-version");
    fields.iter().any(is_theirs)
}

/// See the module's text. Pure: it takes `now`.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<Listing>);

#[derive(Debug)]
struct Listing {
    name: String,
    kept: Option<Arc<Kept>>,
    came: Instant,
    fresh_until: Instant,
    /// A request is at the upstream for it.
    asked: bool,
}

/// What a request for a list does next.
#[derive(Debug)]
enum Look {
    /// Serve this list, which is so old.
    Kept(Arc<Kept>, Duration),
    /// Ask the upstream; call [`Lists::over`] afterwards. The old list, if any, serves meanwhile.
    Ask(Option<Arc<Kept>>),
    /// Ask the upstream, and keep nothing: another request will, or there is no room.
    Pass,
}

impl Lists {
    fn look(&mut self, name: &str, now: Instant) -> Look {
        if let Some(list) = self.0.iter_mut().find(|list| list.name == name) {
            return match &list.kept {
                Some(kept) if list.asked || now < list.fresh_until => {
                    let age = now.saturating_duration_since(list.came);
                    Look::Kept(kept.clone(), age)
                }
                None if list.asked => Look::Pass,
                kept => {
                    list.asked = true;
                    Look::Ask(kept.clone())
                }
            };
        }
        if self.0.len() == MOST {
            let idle = (0..MOST).filter(|at| !self.0[*at].asked);
            let Some(oldest) = idle.min_by_key(|at| self.0[*at].came) else {
                return Look::Pass;
            };
            self.0.remove(oldest);
        }
        self.0.push(Listing {
            name: name.to_owned(),
            kept: None,
            came: now,
            fresh_until: now,
            asked: true,
        });
        Look::Ask(None)
    }

    /// Keeps a new list. Older ones may have to make room.
    fn keep(&mut self, name: &str, kept: &Arc<Kept>, now: Instant) {
        let size = |list: &Listing| list.kept.as_ref().map_or(0, |kept| kept.body.len());
        if kept.body.len() + self.0.iter().map(size).sum::<usize>() > LARGEST {
            self.0.retain(|list| list.name == name || list.asked);
        }
        if let Some(list) = self.0.iter_mut().find(|list| list.name == name) {
            list.kept = Some(kept.clone());
            (list.came, list.fresh_until) = (now, now + FRESH);
        }
    }

    /// The request that asked is back, with or without a list.
    fn over(&mut self, name: &str, now: Instant) {
        self.0
            .retain(|list| list.name != name || list.kept.is_some());
        if let Some(list) = self.0.iter_mut().find(|list| list.name == name) {
            list.asked = false;
            list.fresh_until = list.fresh_until.max(now + ANYWAY);
        }
    }
}

/// One request's turn to ask the upstream; over when dropped.
struct Fetching<'a> {
    lists: &'a Mutex<Lists>,
    name: &'a str,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        lock(self.lists).over(self.name, Instant::now());
    }
}

impl Relay {
    /// Serves a request for this list.
    pub(super) fn list(&self, name: &str, exchange: &mut Exchange, out: &mut dyn Write) -> Outcome {
        let policy = exchange.mapped.policy.clone();
        let look = lock(&policy.lists).look(name, Instant::now());
        let stale = match look {
            Look::Kept(kept, age) => {
                return exchange.deliver(out, Outcome::default()).list(&kept, age);
            }
            Look::Ask(stale) => stale,
            Look::Pass => return self.ask(exchange, out),
        };
        let turn = Fetching {
            lists: &policy.lists,
            name,
        };
        exchange.mapped.request.ask_for_plain_text();
        let down = std::mem::replace(&mut exchange.down, PLAIN);
        let mut wire = Wire::default();
        let outcome = self.ask(exchange, &mut wire);
        exchange.down = down;
        let came = wire.kept(outcome.status).map(Arc::new);
        let is_good = (outcome.status, outcome.end) == (200, End::Complete);
        if let Some(kept) = came.as_ref().filter(|_| is_good) {
            lock(&policy.lists).keep(name, kept, Instant::now());
        }
        drop(turn);
        match (came, stale) {
            (Some(kept), _) if is_good => {
                exchange.deliver(out, outcome).list(&kept, Duration::ZERO)
            }
            (_, Some(stale)) if outcome.status != 0 => {
                exchange.deliver(out, outcome).list(&stale, FRESH)
            }
            (_, _) if outcome.status == 0 => outcome,
            (Some(kept), _) if outcome.end == End::Complete => {
                exchange.deliver(out, outcome).kept_as_it_is(&kept, None)
            }
            // Too long to keep, or broken off: served as any other answer.
            (..) => self.ask(exchange, out),
        }
    }
}

impl Delivery<'_> {
    /// A list that is so old.
    fn list(self, list: &Kept, age: Duration) -> Outcome {
        let age = age.as_secs().to_string();
        self.kept_as_it_is(list, Some((b"age", age.as_bytes())))
    }
}

/// Collects an answer as it goes over a wire, up to [`LARGEST`].
#[derive(Default)]
struct Wire(Vec<u8>);

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LARGEST {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    /// Takes it apart again: the parts that are the same for every client.
    fn kept(mut self, status: u16) -> Option<Kept> {
        let end = self.0.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&self.0[..end]).ok()?;
        let lines = head.split("\r\n").skip(1);
        let fields = lines.filter_map(|line| line.split_once(": "));
        let theirs = fields.filter(|(name, _)| {
            let ours = ["connection", "content-length", reply::REQUEST_ID];
            !ours.contains(name) && !name.starts_with("x-alvus-")
        });
        let fields = theirs
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        self.0.drain(..end + 4);
        self.0.shrink_to_fit(); // it is kept for minutes
        Some(Kept {
            status,
            fields,
            body: self.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(size: usize) -> Arc<Kept> {
        Arc::new(Kept {
            body: vec![b'x'; size],
            ..Kept::default()
        })
    }

    #[test]
    fn a_list_is_asked_for_by_a_get_of_its_path() {
        for (method, target, is_list) in [
            ("GET", "/v1/models", true),
            ("GET", "/models?limit=9", true),
            ("POST", "/v1/models", false),
            ("GET", "/v1/models/m", false),
        ] {
            let name = name(method, target, "/v1/models", &[]);
            assert_eq!(name.is_some(), is_list, "{method} {target}");
        }
    }

    #[test]
    fn a_list_is_asked_for_once_and_then_every_ten_minutes() {
        let start = Instant::now();
        let mut lists = Lists::default();
        assert!(matches!(lists.look("a", start), Look::Ask(None)));
        assert!(matches!(lists.look("a", start), Look::Pass));
        lists.keep("a", &kept(1), start);
        lists.over("a", start);
        let later = start + FRESH - Duration::from_secs(1);
        let Look::Kept(_, age) = lists.look("a", later) else {
            panic!("it is there");
        };
        assert_eq!(age, FRESH - Duration::from_secs(1));
        assert!(matches!(lists.look("a", start + FRESH), Look::Ask(Some(_))));
        assert!(matches!(lists.look("a", start + FRESH), Look::Kept(..)));
    }

    #[test]
    fn an_old_list_serves_for_a_while_if_no_new_one_comes() {
        let start = Instant::now();
        let mut lists = Lists::default();
        lists.look("a", start);
        lists.over("a", start);
        assert!(
            matches!(lists.look("a", start), Look::Ask(None)),
            "nothing came"
        );
        lists.keep("a", &kept(1), start);
        lists.over("a", start);
        let now = start + 2 * FRESH;
        assert!(matches!(lists.look("a", now), Look::Ask(Some(_))));
        lists.over("a", now);
        assert!(matches!(lists.look("a", now), Look::Kept(..)));
        assert!(matches!(lists.look("a", now + ANYWAY), Look::Ask(Some(_))));
    }

    #[test]
    fn the_lists_and_their_bytes_are_bounded() {
        let start = Instant::now();
        let mut lists = Lists::default();
        for n in 0..MOST {
            let name = n.to_string();
            assert!(matches!(lists.look(&name, start), Look::Ask(None)));
        }
        assert!(matches!(lists.look("more", start), Look::Pass));
        for n in 0..MOST {
            let (name, now) = (n.to_string(), start + Duration::from_secs(n as u64));
            lists.keep(&name, &kept(10), now);
            lists.over(&name, now);
        }
        assert!(matches!(lists.look("more", start), Look::Ask(None)));
        assert!(
            matches!(lists.look("0", start), Look::Ask(None)),
            "it made room"
        );
        lists.keep("more", &kept(LARGEST), start);
        lists.over("more", start);
        let all = lists.0.iter().filter_map(|list| list.kept.as_ref());
        assert_eq!(all.map(|kept| kept.body.len()).sum::<usize>(), LARGEST);
    }
}
