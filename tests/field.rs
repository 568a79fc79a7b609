//! What providers really answer: every file of `tests/field/` is one case, run over real sockets
//! against the real binary. `tests/field/README.md` says how to write one.
//!
//! `FIELD=word cargo test --test field` runs those with the word in their name.
#![allow(clippy::unwrap_used)]

#[path = "field/case.rs"]
mod case;
mod common;
#[path = "field/upstream.rs"]
mod upstream;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use case::{Ask, Case, Gzip, See, Standing, Step, Then};
use common::{Alvus, Response, eventually};
use upstream::Provider;

/// Cases at the same time, the longest first: most of them wait.
const AT_ONCE: usize = 24;

/// What holds for a case that does not say otherwise. The wait ends before a client of the tests
/// loses its patience.
const SETTINGS: [(&str, &str); 2] = [("COOLDOWN_SEC", "2"), ("MAX_WAIT_SEC", "25")];

/// A rest is as long as it should be, give or take so many seconds.
const SLACK: u64 = 2;

/// So many of alvus' last lines are shown with a fault.
const LOG_LINES: usize = 5;

/// A report may come a moment after the answer.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn answers_of_real_providers_are_judged_as_their_cases_say() {
    let mut cases = files();
    assert!(!cases.is_empty(), "no file of tests/field was run");
    cases.sort_by(|a, b| b.length().total_cmp(&a.length()));
    let all = cases.len();
    let left = Mutex::new(cases.into_iter());
    let wrong: Mutex<Vec<(String, String)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(all) {
            scope.spawn(|| {
                loop {
                    let Some(case) = left.lock().unwrap().next() else {
                        return;
                    };
                    let case = Arc::new(case);
                    if let Err(fault) = tried(&case) {
                        let told = format!("{}\n  {}\n  {fault}", case.name, case.about);
                        wrong.lock().unwrap().push((case.name.clone(), told));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    let told: Vec<&str> = wrong.iter().map(|(_, told)| told.as_str()).collect();
    let names: Vec<&str> = wrong.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        wrong.is_empty(),
        "\n{}\n\n{} of {all} cases are wrong: {}",
        told.join("\n\n"),
        wrong.len(),
        names.join(" ")
    );
}

/// All cases, or those that `FIELD` names.
fn files() -> Vec<Case> {
    let only = std::env::var("FIELD").unwrap_or_default();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/field");
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path());
    let paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    assert!(paths.len() > 150, "only {} files in {folder}", paths.len());
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        Case::parse(&name, &text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
    };
    let all = paths.into_iter().map(read);
    all.filter(|case| case.name.contains(&only)).collect()
}

/// Runs a case; a panic is a fault like others.
fn tried(case: &Arc<Case>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(case))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_string()));
        Err(words.unwrap_or_else(|| "a panic without words".into()))
    })
}

fn run(case: &Arc<Case>) -> Result<(), String> {
    let provider = Provider::of(case);
    let keys: Vec<String> = (0..case.keys).map(upstream::key).collect();
    let keys = keys.join(",");
    let mut settings: Vec<(&str, &str)> = SETTINGS.to_vec();
    settings.push(("API_KEYS", &keys));
    settings.extend(case.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let alvus = Alvus::before_with(&provider.upstream, &settings);
    let scene = Scene {
        case,
        provider: &provider,
        alvus: &alvus,
    };
    scene.play(&case.steps, true).map_err(|fault| {
        let log = alvus.log();
        let last: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("{fault}\n    {}", last.join("\n    "))
    })
}

/// A case under way.
#[derive(Clone, Copy)]
struct Scene<'a> {
    case: &'a Case,
    provider: &'a Provider,
    alvus: &'a Alvus,
}

/// An answer that the client has, in full.
struct Had {
    response: Response,
    took: Duration,
    /// Requests that the upstream had for it, when no other was under way; else what alvus says.
    attempts: usize,
}

impl Scene<'_> {
    /// `alone`: nothing else asks meanwhile.
    fn play(self, steps: &[Step], alone: bool) -> Result<(), String> {
        for (n, step) in steps.iter().enumerate() {
            let place = |fault: String| format!("step {}: {fault}", n + 1);
            self.step(step, alone).map_err(place)?;
        }
        Ok(())
    }

    fn step(self, step: &Step, alone: bool) -> Result<(), String> {
        thread::sleep(step.wait.unwrap_or_default());
        if let Some(ask) = &step.ask {
            let alone = alone && step.together == 1 && step.meanwhile.is_empty();
            let mut had = Vec::new();
            for _ in 0..step.times {
                for one in self.round(step, ask, alone)? {
                    self.compare(&step.see, &one)?;
                    had.push(one);
                }
            }
            self.compare_keys(&step.see, &had)?;
        }
        self.stands(&step.then)
    }

    /// Asks, as often at the same moment as the step wants, and does meanwhile what it says.
    fn round(self, step: &Step, ask: &Ask, alone: bool) -> Result<Vec<Had>, String> {
        let before = self.provider.requests();
        thread::scope(|scope| {
            let asking: Vec<_> = (0..step.together)
                .map(|_| scope.spawn(move || self.ask(ask, alone)))
                .collect();
            if !step.meanwhile.is_empty() {
                eventually("the upstream has it", || self.provider.requests() > before);
                let meanwhile = |fault| format!("meanwhile, {fault}");
                self.play(&step.meanwhile, false).map_err(meanwhile)?;
            }
            let join = |one: thread::ScopedJoinHandle<Had>| {
                one.join().map_err(|_| "no answer came in time".to_string())
            };
            asking.into_iter().map(join).collect()
        })
    }

    fn ask(self, ask: &Ask, alone: bool) -> Had {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: alvus\r\n", ask.method, ask.path);
        for (name, value) in &ask.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let body = ask.body.as_deref().unwrap_or_default();
        if !body.is_empty() {
            let length = body.len();
            head += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        let before = self.provider.requests();
        let started = Instant::now();
        let mut client = self.alvus.connect();
        client.send(format!("{head}\r\n{body}"));
        let response = client.response();
        let says = number(&response, "x-alvus-attempts").unwrap_or_default();
        let attempts = match alone {
            true => self.provider.requests() - before,
            false => says,
        };
        Had {
            response,
            took: started.elapsed(),
            attempts,
        }
    }

    fn compare(self, see: &See, had: &Had) -> Result<(), String> {
        let response = &had.response;
        let text = self.plain(response);
        let fault = |expected: String| {
            let kind = response.field("content-type").unwrap_or("no type");
            Err(format!(
                "expected {expected}; saw {} {kind} from key {:?} after {} attempts in {:.1} s: {}",
                response.status,
                response.field("x-alvus-key"),
                had.attempts,
                had.took.as_secs_f64(),
                text.chars().take(400).collect::<String>()
            ))
        };
        if !see.status.contains(&u64::from(response.status)) {
            return fault(format!("status {:?}", see.status));
        }
        if let Some(word) = see.words.iter().find(|w| !text.contains(w.as_str())) {
            return fault(format!("the words {word:?}"));
        }
        if let Some(word) = see.without.iter().find(|w| text.contains(w.as_str())) {
            return fault(format!("nothing of {word:?}"));
        }
        if see.as_is && !self.case.upstream.iter().any(|a| a.text() == text) {
            return fault("the upstream's own bytes".into());
        }
        let kind = response.field("content-type").unwrap_or_default();
        if let Some(end) = &see.ends
            && kind.starts_with("text/event-stream")
            && !text.trim_end().ends_with(&format!("data: {end}"))
        {
            return fault(format!("a stream that ends with {end}"));
        }
        if see.whole != response.whole {
            return fault(format!("whole: {}", see.whole));
        }
        if see.attempts.is_some_and(|n| n != had.attempts)
            || see.attempts_at_most.is_some_and(|n| n < had.attempts)
        {
            let most = see.attempts.or(see.attempts_at_most);
            return fault(format!("{} attempts", most.unwrap_or_default()));
        }
        let took = had.took.as_secs_f64();
        if see.within_sec.is_some_and(|s| took > s) || see.not_before_sec.is_some_and(|s| took < s)
        {
            return fault(format!(
                "{:?} to {:?} s",
                see.not_before_sec, see.within_sec
            ));
        }
        let after = number(response, "retry-after").map(|n| n as u64);
        match see.retry_after_at_most {
            Some(most) if response.status != 200 && after.is_none_or(|n| n > most) => {
                fault(format!("Retry-After of at most {most}, not {after:?}"))
            }
            _ => Ok(()),
        }
    }

    fn compare_keys(self, see: &See, had: &[Had]) -> Result<(), String> {
        let Some(expected) = &see.keys else {
            return Ok(());
        };
        let seen: BTreeSet<usize> = had
            .iter()
            .filter_map(|one| number(&one.response, "x-alvus-key"))
            .collect();
        match *expected == seen.iter().copied().collect::<Vec<_>>() {
            true => Ok(()),
            false => Err(format!(
                "expected answers from keys {expected:?}; saw {seen:?}"
            )),
        }
    }

    /// The body; unpacked, if it is one that the upstream packed.
    fn plain(self, response: &Response) -> String {
        let packed = response.field("content-encoding") == Some("gzip");
        let plain = self.case.upstream.iter().find_map(|answer| {
            let can = packed && answer.gzip != Gzip::Never;
            let text = can.then(|| answer.text())?;
            (upstream::gzip(text.as_bytes()) == response.body).then_some(text)
        });
        plain.unwrap_or_else(|| String::from_utf8_lossy(&response.body).into_owned())
    }

    /// Whether things stand as they should, in a moment at the latest.
    fn stands(self, then: &Then) -> Result<(), String> {
        let until = Instant::now() + SOON;
        loop {
            let health = self.alvus.health();
            match self.standing(then, &health) {
                Err(fault) if Instant::now() > until => {
                    return Err(fault);
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn standing(self, then: &Then, health: &Value) -> Result<(), String> {
        if let Some(word) = &then.health
            && health["status"] != word.as_str()
        {
            return Err(format!("expected the pool to be {word}"));
        }
        let suffering = suffering(health);
        if then.nobody_suffers && !suffering.is_empty() {
            return Err(format!("expected nobody to suffer; saw {suffering:?}"));
        }
        let mut endings = suffering.iter().map(|s| s.left);
        if let Some(most) = then.ends_within
            && endings.any(|left| left.is_none_or(|left| left > most))
        {
            return Err(format!(
                "expected an end within {most} s; saw {suffering:?}"
            ));
        }
        let wanted = [(State::Rests, &then.rests), (State::Out, &then.out)];
        for (state, list) in wanted {
            for one in list {
                if !suffering.iter().any(|s| s.is(state, one)) {
                    return Err(format!(
                        "expected {state:?} for {:?} s: key {} for {}; saw {suffering:?}",
                        one.seconds, one.key, one.model
                    ));
                }
            }
        }
        for (key, expected) in &then.given {
            let given = self.provider.given(Some(*key));
            if given != *expected {
                return Err(format!(
                    "expected key {key} to meet {expected} of these answers, not {given}"
                ));
            }
        }
        let given = self.provider.given(None);
        match then.given_at_most {
            Some(most) if given > most => Err(format!(
                "expected at most {most} of these answers in all, not {given}"
            )),
            _ => Ok(()),
        }
    }
}

fn number(response: &Response, field: &str) -> Option<usize> {
    response.field(field)?.parse().ok()
}

// ---- /health, and nothing else knows its words --------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Limited, or its quota is spent.
    Rests,
    /// Refused.
    Out,
}

/// A key that rests or is out: for this model, or altogether.
#[derive(Debug)]
struct Suffering {
    key: usize,
    model: Option<String>,
    state: State,
    /// Seconds; none: no end.
    left: Option<u64>,
}

impl Suffering {
    fn is(&self, state: State, wanted: &Standing) -> bool {
        let model = self.model.as_deref();
        let long = wanted
            .seconds
            .is_none_or(|s| self.left.is_some_and(|left| left.abs_diff(s) <= SLACK));
        self.state == state
            && self.key == wanted.key
            && model.is_none_or(|model| model == wanted.model)
            && long
    }
}

/// Who rests or is out, as `/health` says it.
fn suffering(health: &Value) -> Vec<Suffering> {
    let mut all = Vec::new();
    for key in health["key_status"].as_array().into_iter().flatten() {
        let index = key["index"].as_u64().expect("an index") as usize;
        let models = key["models"].as_array().cloned().unwrap_or_default();
        let one = |of: &Value, model: Option<String>| {
            let state = match of["state"].as_str().unwrap_or_default() {
                "ready" | "throttled" => return None,
                "cooling" | "parked" | "limited" | "quota" => State::Rests,
                "ejected" | "rejected" => State::Out,
                other => panic!("/health has a new word: {other}"),
            };
            Some(Suffering {
                key: index,
                model,
                state,
                left: of["seconds_left"].as_u64().filter(|n| *n > 0),
            })
        };
        let named = |of: &Value| one(of, of["model"].as_str().map(str::to_string));
        let of_models: Vec<Suffering> = models.iter().filter_map(named).collect();
        // A key shows the longest rest of its models as its own.
        let own = one(key, None).filter(|own| {
            let same = |s: &Suffering| s.state == own.state && s.left == own.left;
            !of_models.iter().any(same)
        });
        all.extend(own);
        all.extend(of_models);
    }
    all
}
