//! The scenarios of `simulator.rs` once over real sockets, with a minute scaled down to a second or
//! two: agents, the real binary, and a provider that enforces its limits in its own words.
//!
//! `make simulate` prints a line of a table for each. What is asserted are rules that hold on any
//! machine, however slow: a request is held against alvus only when alvus must have known better,
//! as it had already acted on the refusal that forbade it.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // the table is what it is for

mod common;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::dialect::{self, Dialect, Refusal};
use common::{Act, Alvus, KEYS, Response, Seen, Upstream, answer, eventually, provider};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How long a quota rests at first that nobody stated the end of.
const QUOTA: Duration = Duration::from_secs(2 * 60);
/// The provider's clock stands still at six in the morning: 18 hours of the day are left.
const DATE: (&str, u64) = ("Mon, 06 Apr 2026 06:00:00 GMT", 1_775_455_200);
const TO_MIDNIGHT: Duration = Duration::from_secs(18 * 60 * 60);
const MODELS: [&str; 2] = ["large", "small"];
/// How long a network or a provider is away.
const AWAY: Duration = Duration::from_millis(1500);

// ---- the provider -------------------------------------------------------------------------------

#[derive(Clone)]
struct Rules {
    dialect: Dialect,
    /// Requests of a key for a model, in windows that begin with the first of them. The first
    /// window lasts until it is used up, so that each limit is met, however slow the machine.
    requests: usize,
    window: Duration,
    /// Requests at a time for a model; the first ones are at work until there was one too many.
    at_a_time: usize,
    takes: Duration,
    day: Option<Day>,
    /// This key is, after so many requests.
    revoked: Option<(usize, usize)>,
    /// These of all requests, by number, find the backend full.
    full: Range<usize>,
    /// From this request on it is away, for [`AWAY`].
    outage: Option<usize>,
}

/// What is left of one key's day.
#[derive(Clone)]
struct Day {
    key: usize,
    /// For this one, or for all.
    model: Option<&'static str>,
    requests: usize,
}

fn rules(dialect: Dialect, requests: usize, window: Duration) -> Rules {
    Rules {
        dialect,
        requests,
        window,
        at_a_time: usize::MAX,
        takes: Duration::from_millis(20),
        day: None,
        revoked: None,
        full: 0..0,
        outage: None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Served,
    /// The key's limit of a minute, for this model.
    Limited,
    /// The key's limit of a day.
    Spent,
    Revoked,
    Moderated,
    /// The model is at work on as many as it can.
    Overloaded,
    /// Provider or network.
    Away,
}

/// One request as the provider had it.
#[derive(Debug, Clone)]
struct Entry {
    id: String,
    model: String,
    key: usize,
    at: Instant,
    said: Said,
    /// Until then the key is not to be used for this model.
    rest: Option<Instant>,
}

#[derive(Default)]
struct Book {
    entries: Vec<Entry>,
    /// When an agent began to ask, by the question's id.
    asked: HashMap<String, Instant>,
    /// By key and model.
    windows: HashMap<(usize, String), Window>,
    /// By model.
    at_work: HashMap<String, usize>,
    away_since: Option<Instant>,
}

struct Window {
    began: Instant,
    used: usize,
    is_first: bool,
}

struct Provider {
    rules: Rules,
    book: Mutex<Book>,
    unplugged: AtomicBool,
}

impl Provider {
    fn start(rules: Rules) -> (Arc<Provider>, Upstream) {
        let provider = Arc::new(Provider {
            rules,
            book: Mutex::default(),
            unplugged: AtomicBool::new(false),
        });
        // An address of its own, so that nobody else is given the port while it is away.
        let upstream = provider.listen("127.78.0.1:0");
        (provider, upstream)
    }

    fn listen(self: &Arc<Provider>, addr: &str) -> Upstream {
        let provider = self.clone();
        Upstream::at(addr.parse().unwrap(), move |seen| provider.act(seen))
    }

    fn act(&self, seen: &Seen) -> Act {
        if self.unplugged.load(Ordering::SeqCst) {
            return Act::SayAndClose(Vec::new()); // on a connection from before
        }
        let asked: Value = serde_json::from_slice(&seen.body).unwrap();
        let model = asked["model"].as_str().unwrap();
        if let Some(refusal) = self.judge(seen.key_index(), model, question(&asked)) {
            let mut fields = format!("Date: {}\r\n", DATE.0);
            let kind = match refusal.body.starts_with('<') {
                true => "text/html",
                false => "application/json",
            };
            fields += &format!("Content-Type: {kind}\r\n");
            for (name, value) in &refusal.fields {
                fields += &format!("{name}: {value}\r\n");
            }
            return answer(refusal.status, &fields, &refusal.body);
        }
        thread::sleep(self.rules.takes);
        if self.rules.at_a_time < usize::MAX {
            eventually("one more comes than can be", || self.overloaded(model) > 0);
        }
        // Before the answer: whoever has it may send the next request.
        *self.book().at_work.get_mut(model).unwrap() -= 1;
        provider::respond(seen)
    }

    fn judge(&self, key: usize, model: &str, id: &str) -> Option<Refusal> {
        let mut book = self.book();
        let at = Instant::now();
        let (said, refusal, rest) = match self.refuse(&mut book, key, model, id, at) {
            Some((said, refusal, rest)) => (said, Some(refusal), rest),
            None => (Said::Served, None, None),
        };
        book.entries.push(Entry {
            id: id.into(),
            model: model.into(),
            key,
            at,
            said,
            rest: rest.map(|rest| at + rest),
        });
        refusal
    }

    /// Why, the answer, and how long the key must not be used.
    fn refuse(
        &self,
        book: &mut Book,
        key: usize,
        model: &str,
        id: &str,
        now: Instant,
    ) -> Option<(Said, Refusal, Option<Duration>)> {
        let rules = &self.rules;
        let number = book.entries.len();
        if rules.outage.is_some_and(|first| number >= first)
            && now - *book.away_since.get_or_insert(now) < AWAY
        {
            return Some((Said::Away, dialect::outage(1), None));
        }
        let used = |model: Option<&str>| {
            let of = |e: &&Entry| e.key == key && model.is_none_or(|model| e.model == model);
            let served = book.entries.iter().filter(of);
            served.filter(|e| e.said == Said::Served).count()
        };
        if rules
            .revoked
            .is_some_and(|(revoked, after)| revoked == key && used(None) >= after)
        {
            // It rests once another key was served.
            return Some((Said::Revoked, dialect::revoked(), None));
        }
        if id.contains("violence") {
            return Some((Said::Moderated, dialect::moderated(), None));
        }
        if rules.full.contains(&number) {
            return Some((Said::Overloaded, dialect::backend_full(1), None));
        }
        if let Some(day) = rules.day.as_ref().filter(|day| day.key == key)
            && day.model.is_none_or(|spent| spent == model)
            && used(day.model) >= day.requests
        {
            let refusal = rules.dialect.day(day.requests as u32, TO_MIDNIGHT, DATE.1);
            let rest = refusal.stated.unwrap_or(QUOTA);
            return Some((Said::Spent, refusal, Some(rest)));
        }
        let window = book.windows.entry((key, model.into())).or_insert(Window {
            began: now,
            used: 0,
            is_first: true,
        });
        if now - window.began >= rules.window && !window.is_first {
            (window.began, window.used) = (now, 0);
        }
        if window.used >= rules.requests {
            window.is_first = false;
            // A little more, as what is said is rounded.
            let left = (window.began + rules.window).saturating_duration_since(now)
                + Duration::from_millis(20);
            let refusal = rules.dialect.minute(left, DATE.1);
            // COOLDOWN_SEC=1
            let rest = refusal.stated.unwrap_or(SECOND);
            return Some((Said::Limited, refusal, Some(rest)));
        }
        let at_work = book.at_work.entry(model.into()).or_default();
        if *at_work >= rules.at_a_time {
            let refusal = dialect::overloaded(rules.at_a_time as u32, number as u64);
            return Some((Said::Overloaded, refusal, None));
        }
        *at_work += 1;
        window.used += 1;
        None
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn overloaded(&self, model: &str) -> usize {
        let book = self.book();
        let of = book.entries.iter().filter(|e| e.model == model);
        of.filter(|e| e.said == Said::Overloaded).count()
    }

    fn count(&self, said: Said) -> usize {
        let book = self.book();
        book.entries.iter().filter(|e| e.said == said).count()
    }
}

// ---- the agents ---------------------------------------------------------------------------------

/// What the last message of a chat says; the first one is the same in all of them.
fn question(asked: &Value) -> &str {
    asked["messages"][1]["content"].as_str().unwrap()
}

fn ask(provider: &Provider, alvus: &Alvus, model: &str, id: &str, streams: bool) -> Response {
    let said = |words: &str| json!({"role": "user", "content": words});
    let messages = [said("Hello"), said(id)];
    let body = json!({"model": model, "stream": streams, "messages": messages}).to_string();
    let mut client = alvus.connect();
    let before = provider.book().asked.insert(id.into(), Instant::now());
    assert!(before.is_none(), "{id} is asked once");
    client.send(format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.response()
}

/// Asks, and expects the whole answer to this very question. Says how long it took beyond the
/// provider's own work.
fn ask_well(provider: &Provider, alvus: &Alvus, model: &str, id: &str, streams: bool) -> Duration {
    let begun = Instant::now();
    let response = ask(provider, alvus, model, id, streams);
    let lost = begun.elapsed().saturating_sub(provider.rules.takes);
    assert_eq!(response.status, 200, "{id}: {}", response.text());
    assert!(response.whole, "{id}");
    let said = match streams {
        false => response.json()["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_string(),
        true => {
            let events: Vec<&str> = response
                .text()
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .collect();
            let (last, deltas) = events.split_last().expect("events");
            assert_eq!(*last, "[DONE]", "{id}");
            let piece = |event: &&str| -> String {
                let event: Value = serde_json::from_str(event).unwrap();
                let text = event["choices"][0]["delta"]["content"].as_str();
                text.unwrap_or_default().into()
            };
            deltas.iter().map(piece).collect()
        }
    };
    assert_eq!(said, id, "its own answer, once");
    lost
}

/// So many agents at once, each with so many questions, every second one for a stream. Says how long
/// that took beyond the provider's own work, all together.
fn work(
    provider: &Provider,
    alvus: &Alvus,
    models: &[&str],
    agents: usize,
    each: usize,
) -> Duration {
    let begun = provider.book().asked.len();
    thread::scope(|scope| {
        let working: Vec<_> = (0..agents)
            .map(|agent| {
                scope.spawn(move || -> Duration {
                    let questions = (0..each).map(|n| {
                        let id = format!("question {n} of agent {agent}, {begun}");
                        let model = models[agent % models.len()];
                        ask_well(provider, alvus, model, &id, (agent + n) % 2 == 0)
                    });
                    questions.sum()
                })
            })
            .collect();
        working.into_iter().map(|w| w.join().unwrap()).sum()
    })
}

// ---- the rules ----------------------------------------------------------------------------------

/// What holds in every scenario, and its line of the table.
fn conclude(name: &str, provider: &Provider, alvus: &Alvus, lost: Duration) {
    eventually("all keys are given back", || {
        alvus.health()["in_flight"] == 0
    });
    let wrong = wrongly_punished(provider, alvus);
    let book = provider.book();
    let count = |served: bool| {
        let alike = |e: &&Entry| (e.said == Said::Served) == served;
        book.entries.iter().filter(alike).count()
    };
    let (served, refused) = (count(true), count(false));
    println!(
        "{name:<66} {served:>4} served {:>6.3} refused/1 {:>6.2} s lost each {:>2} wrong",
        refused as f64 / served as f64,
        lost.as_secs_f64() / served as f64,
        wrong.len(),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    for id in book.asked.keys().filter(|id| !id.contains("violence")) {
        let of = book.entries.iter().filter(|e| e.id == *id);
        let served = of.filter(|e| e.said == Said::Served).count();
        assert_eq!(served, 1, "{id} was answered so often");
    }
    let broken = broken_rests(&book);
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What `/health` holds against a key that the provider did not say of it.
fn wrongly_punished(provider: &Provider, alvus: &Alvus) -> Vec<String> {
    let mut wrong = Vec::new();
    let health = alvus.health();
    let book = provider.book();
    for (key, view) in health["key_status"].as_array().unwrap().iter().enumerate() {
        let said = |said: Said, model: Option<&str>| {
            let of = |e: &&Entry| e.key == key && model.is_none_or(|model| e.model == model);
            let alike = book.entries.iter().filter(of).filter(|e| e.said == said);
            alike.count()
        };
        let counted = |names: [&str; 2]| -> u64 {
            let of = |name: &str| view["failures"][name].as_u64().unwrap_or_default();
            names.into_iter().map(of).sum()
        };
        for (names, kinds) in [
            // A day whose end is stated is a limit, another one a quota.
            (["limited", "quota"], [Said::Limited, Said::Spent]),
            (["refused", ""], [Said::Revoked, Said::Moderated]),
        ] {
            let times: usize = kinds.into_iter().map(|kind| said(kind, None)).sum();
            // A 429 that says nothing may be the model's: then no key is blamed for it.
            let is_bare = matches!(provider.rules.dialect, Dialect::Nim);
            let (counted, times) = (counted(names), times as u64);
            if counted > times || (counted < times && !is_bare) {
                wrong.push(format!("not {times} times {names:?}: {view}"));
            }
        }
        for rest in view["models"].as_array().unwrap() {
            let model = rest["model"].as_str();
            let why = match rest["state"].as_str().unwrap() {
                "cooling" => said(Said::Limited, model) + said(Said::Spent, model),
                "parked" => said(Said::Spent, model),
                "ejected" => said(Said::Revoked, None),
                _ => 1,
            };
            if why == 0 {
                wrong.push(format!("{rest} of {view}"));
            }
        }
    }
    wrong
}

impl Book {
    /// When alvus knew of this answer at the latest, if that can be told: when it sent the same
    /// request again.
    fn known(&self, n: usize) -> Option<Instant> {
        let mut later = self.entries[n + 1..].iter();
        later.find(|e| e.id == self.entries[n].id).map(|e| e.at)
    }

    /// When this request was given its key at the earliest: after its agent asked, and after it was
    /// last refused itself.
    fn given_after(&self, n: usize) -> Instant {
        let id = &self.entries[n].id;
        let mut before = self.entries[..n].iter().rev();
        before
            .find(|e| e.id == *id)
            .map_or(self.asked[id], |e| e.at)
    }

    /// Those later ones for which `forbidden` holds although alvus knew of the answer `n`.
    fn in_spite_of(&self, n: usize, forbidden: impl Fn(&Entry) -> bool) -> Vec<String> {
        let Some(known) = self.known(n) else {
            return Vec::new();
        };
        let later = (n + 1..self.entries.len())
            .filter(|m| forbidden(&self.entries[*m]) && self.given_after(*m) > known);
        later
            .map(|m| format!("{:?} in spite of {:?}", self.entries[m], self.entries[n]))
            .collect()
    }
}

/// Which requests went out with a key that had to rest, by an alvus that knew.
fn broken_rests(book: &Book) -> Vec<String> {
    let of = |(n, refused): (usize, &Entry)| {
        let rest = refused.rest;
        book.in_spite_of(n, |other| {
            other.key == refused.key
                && other.model == refused.model
                && rest.is_some_and(|rest| other.at < rest)
        })
    };
    book.entries.iter().enumerate().flat_map(of).collect()
}

/// For each rest of each key: how many requests the provider refused.
fn refusals_by_rest(book: &Book) -> Vec<Vec<usize>> {
    let of_key = |key: usize| {
        let (mut rests, mut until) = (Vec::new(), None);
        let limited = |e: &&Entry| e.key == key && e.said == Said::Limited;
        for entry in book.entries.iter().filter(limited) {
            if until.is_none_or(|until| entry.at >= until) {
                rests.push(0);
            }
            *rests.last_mut().unwrap() += 1;
            until = until.max(entry.rest);
        }
        rests
    };
    (0..KEYS.len()).map(of_key).collect()
}

// ---- the scenarios ------------------------------------------------------------------------------

#[test]
fn a_provider_that_names_no_time_and_takes_few_at_a_time_serves_every_request() {
    const CAP: usize = 4;
    const AGENTS: usize = 8; // of a model
    let (provider, upstream) = Provider::start(Rules {
        at_a_time: CAP,
        takes: Duration::from_millis(100),
        ..rules(Dialect::Nim, 4, 2 * SECOND)
    });
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    let mut lost = work(&provider, &alvus, &MODELS, 2 * AGENTS, 2);
    let overloaded = MODELS.map(|model| provider.overloaded(model));
    assert!(overloaded.iter().all(|n| *n > 0), "each model was full");
    // The first refusal halves what is sent at a time.
    let health = alvus.health();
    for model in health["models"].as_array().unwrap() {
        let most = if model["model"] == "" { 0 } else { CAP };
        let capacity = model["capacity"].as_u64().unwrap_or_default();
        assert!(capacity as usize <= most, "{health}");
        assert_eq!(capacity > 0, most > 0, "{health}");
    }
    lost += work(&provider, &alvus, &MODELS, 2 * AGENTS, 1);
    let later = MODELS.map(|model| provider.overloaded(model));
    assert_eq!(later, overloaded, "not once more");
    let book = provider.book();
    for model in MODELS {
        let full = |e: &Entry| e.said == Said::Overloaded && e.model == model;
        let refused: Vec<usize> = (0..book.entries.len())
            .filter(|n| full(&book.entries[*n]))
            .collect();
        let alone_until = book.entries[refused[0]].at + SECOND;
        for n in refused {
            assert!(book.known(n) >= Some(alone_until), "a second of peace");
            let herd = book.in_spite_of(n, full);
            assert!(herd.is_empty(), "{herd:#?}");
        }
    }
    drop(book);
    assert!(provider.count(Said::Limited) > 0, "keys met their limits");
    let name = "NIM-like: 4 in 2 s, 429 says nothing, 4 at a time";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn a_provider_that_names_times_is_taken_at_its_word_and_a_revoked_key_alone_is_out() {
    let (provider, upstream) = Provider::start(Rules {
        revoked: Some((2, 4)),
        ..rules(Dialect::Groq, 6, 2 * SECOND)
    });
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    const AGENTS: usize = 6;
    let lost = work(&provider, &alvus, &MODELS, AGENTS, 8);
    assert!(provider.count(Said::Limited) > 0, "keys met their limits");
    let states = alvus.states();
    assert_eq!(states[2], "ejected");
    assert!(!states[..2].contains(&"ejected".to_string()), "{states:?}");
    // One request of each was under way at most when another one showed whose fault it was.
    assert!(provider.count(Said::Revoked) <= AGENTS);
    let name = "Groq-like: 6 in 2 s, one key revoked";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn a_spent_day_rests_its_key_to_its_end_and_full_backends_and_moderated_prompts_harm_none() {
    let (provider, upstream) = Provider::start(Rules {
        day: Some(Day {
            key: 0,
            model: None,
            requests: 4,
        }),
        full: 10..12,
        ..rules(Dialect::OpenRouter, 5, 2 * SECOND)
    });
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    let mut lost = work(&provider, &alvus, &MODELS, 4, 8);
    let told = ask(&provider, &alvus, "large", "violence", false);
    assert_eq!(told.status, 403, "{}", told.text());
    assert!(told.text().contains("flagged"), "{}", told.text());
    lost += work(&provider, &alvus, &MODELS, 4, 2);
    for said in [Said::Limited, Said::Spent, Said::Overloaded] {
        assert!(provider.count(said) > 0, "{said:?}");
    }
    let key = alvus.health()["key_status"][0].clone();
    assert_eq!(key["state"], "cooling", "{key}");
    let left = key["seconds_left"].as_u64().unwrap();
    let reset = TO_MIDNIGHT.as_secs();
    assert!((reset - 600..=reset).contains(&left), "{key}");
    let name = "OpenRouter-like: 5 in 2 s, a spent day, moderation, full backends";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn a_models_spent_day_rests_its_key_for_that_model_and_a_minute_only_as_long_as_it_says() {
    let (provider, upstream) = Provider::start(Rules {
        day: Some(Day {
            key: 0,
            model: Some("large"),
            requests: 4,
        }),
        ..rules(Dialect::Gemini, 5, 2 * SECOND)
    });
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    let mut lost = work(&provider, &alvus, &MODELS, 4, 8);
    for said in [Said::Limited, Said::Spent] {
        assert!(provider.count(said) > 0, "{said:?}");
    }
    let by_the_first = || {
        let book = provider.book();
        let served = book.entries.iter().filter(|e| e.said == Said::Served);
        served.filter(|e| e.key == 0 && e.model == "small").count()
    };
    let before = by_the_first();
    eventually("the key serves the other model", || {
        lost += work(&provider, &alvus, &["small"], 1, 1);
        by_the_first() > before
    });
    let key = alvus.health()["key_status"][0].clone();
    assert_eq!(key["state"], "parked", "{key}");
    let models = key["models"].as_array().unwrap();
    let large = models.iter().find(|rest| rest["model"] == "large");
    let left = large.unwrap()["seconds_left"].as_u64().unwrap();
    assert!(left <= QUOTA.as_secs(), "{key}");
    let name = "Gemini-like: 5 in 2 s, a model's spent day";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn a_network_that_is_away_for_a_while_loses_no_request_and_rests_no_key() {
    let (provider, mut upstream) = Provider::start(rules(Dialect::Nim, 1000, HOUR));
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    let mut lost = work(&provider, &alvus, &MODELS, 4, 4);
    provider.unplugged.store(true, Ordering::SeqCst);
    upstream.close();
    let mut meanwhile = Vec::new();
    let _back = thread::scope(|scope| {
        let agents = scope.spawn(|| work(&provider, &alvus, &MODELS, 4, 4));
        eventually("alvus notices", || alvus.log().contains("could not reach"));
        let until = Instant::now() + AWAY;
        while Instant::now() < until {
            meanwhile.push(alvus.states());
            thread::sleep(Duration::from_millis(50));
        }
        provider.unplugged.store(false, Ordering::SeqCst);
        let back = provider.listen(&upstream.addr().to_string());
        lost += agents.join().unwrap();
        back
    });
    meanwhile.push(alvus.states());
    let well = |states: &Vec<String>| states.iter().all(|state| state == "ready");
    assert!(meanwhile.iter().all(well), "{meanwhile:?}");
    assert_eq!(provider.book().entries.len(), 32, "each went up once");
    let log = alvus.log();
    assert!(!log.contains("rests") && !log.contains("parked"), "{log}");
    let name = "Wi-Fi away for 1.5 s";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn a_provider_that_is_away_for_a_while_loses_no_request_and_rests_no_key() {
    let (provider, upstream) = Provider::start(Rules {
        outage: Some(10),
        ..rules(Dialect::Nim, 1000, HOUR)
    });
    let alvus = Alvus::before_with(&upstream, &[("COOLDOWN_SEC", "1")]);
    let lost = work(&provider, &alvus, &MODELS, 4, 8);
    assert!(provider.count(Said::Away) > 0, "it was away");
    assert_eq!(alvus.states(), ["ready", "ready", "ready"]);
    let log = alvus.log();
    assert!(!log.contains("rests") && !log.contains("parked"), "{log}");
    let name = "provider away for 1.5 s (503)";
    conclude(name, &provider, &alvus, lost);
}

const STORM: usize = 16;

#[test]
fn once_a_limit_is_known_a_storm_costs_one_refused_request_a_key_and_rest() {
    let (provider, upstream) = Provider::start(Rules {
        takes: Duration::ZERO,
        ..rules(Dialect::OpenAi, 8, 2 * SECOND)
    });
    let alvus = Alvus::before(&upstream);
    let lost = work(&provider, &alvus, &["large"], STORM, 6); // 96, 24 in a window
    let refused = refusals_by_rest(&provider.book());
    for rests in &refused {
        // The first time nobody knows the limit, and what is under way may be refused with it.
        assert!(rests.iter().take(1).all(|n| *n <= STORM), "{refused:?}");
        assert!(rests.iter().skip(1).all(|n| *n == 1), "{refused:?}");
    }
    let name = "storm: 16 clients, 3 keys, 8 in 2 s";
    conclude(name, &provider, &alvus, lost);
}

#[test]
fn with_a_pace_a_storm_costs_no_refused_request_at_all() {
    let (provider, upstream) = Provider::start(Rules {
        takes: Duration::ZERO,
        ..rules(Dialect::OpenAi, 20, HOUR)
    });
    // All of one conversation, so that without the pace all would be sent with one key.
    let env = [("RPM_LIMIT", "20"), ("ROTATION", "sticky")];
    let alvus = Alvus::before_with(&upstream, &env);
    let lost = work(&provider, &alvus, &["large"], STORM, 3); // 48 of the 60 a minute has room for
    let book = provider.book();
    assert!(book.entries.iter().all(|e| e.said == Said::Served));
    drop(book);
    let name = "storm: 16 clients, 3 keys, 20 a minute and RPM_LIMIT=20";
    conclude(name, &provider, &alvus, lost);
}
