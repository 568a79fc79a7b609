//! Random answers, in words of real upstreams. What one request causes ends within a minute for all others, and words
//! that an answer only quotes from a request blame no key.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use alvus::config::{Pace, Rotation};
use alvus::pool::{Pick, PickRequest, Picked, Pool, Report, RestReason, Settings};
use alvus::secret::ApiKey;
use alvus::verdict::{self, Verdict};
use serde_json::{Value, json};

/// Random answers for each rule.
const ANSWERS: usize = 20_000;
const KEYS: usize = 3;
const MINUTE: Duration = Duration::from_secs(60);

/// What was seen in public: statuses, header fields, bodies, and every text in them.
struct Parts {
    fields: Vec<(String, String)>,
    bodies: Vec<Value>,
    texts: Vec<String>,
    dice: Dice,
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}

impl Parts {
    fn read() -> Parts {
        let seen = include_str!("../src/verdict/seen.txt").lines();
        let mut parts = Parts {
            fields: Vec::new(),
            bodies: Vec::new(),
            texts: Vec::new(),
            dice: Dice(0x9E37_79B9_7F4A_7C15),
        };
        for line in seen.filter(|line| line.contains(" => ") && !line.starts_with('#')) {
            let (given, _) = line.rsplit_once(" => ").expect("=>");
            let json = given.find(['{', '[']).unwrap_or(given.len());
            if let Ok(body) = serde_json::from_str(&given[json..]) {
                parts.add(body);
            }
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/field");
        for file in std::fs::read_dir(folder).expect(folder) {
            let path = file.expect(folder).path();
            if path.extension().is_some_and(|kind| kind == "json") {
                let text = std::fs::read_to_string(path).expect("text");
                let case: Value = serde_json::from_str(&text).expect("JSON");
                for answer in case["upstream"].as_array().into_iter().flatten() {
                    parts.add(answer["body"].clone());
                    let fields = answer["fields"].as_object().into_iter().flatten();
                    let text = |value: &Value| value.as_str().unwrap_or("7").to_string();
                    let fields = fields.map(|(name, value)| (name.to_lowercase(), text(value)));
                    parts.fields.extend(fields);
                }
            }
        }
        let enough = parts.bodies.len() > 300 && parts.texts.len() > 400;
        assert!(enough, "{} {}", parts.bodies.len(), parts.texts.len());
        parts
    }

    fn add(&mut self, body: Value) {
        fn texts(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::String(text) => found.push(text.clone()),
                Value::Array(list) => list.iter().for_each(|one| texts(one, found)),
                Value::Object(fields) => fields.values().for_each(|one| texts(one, found)),
                _ => {}
            }
        }
        texts(&body, &mut self.texts);
        self.bodies.push(body);
    }

    /// A few texts after one another.
    fn says(&mut self) -> String {
        let (texts, dice) = (&self.texts, &mut self.dice);
        let texts: Vec<&str> = (0..=dice.below(3))
            .map(|_| texts[dice.below(texts.len())].as_str())
            .collect();
        texts.join([" ", ". ", "\n", ": "][self.dice.below(4)])
    }

    /// One answer's body with the texts of others in it.
    fn body(&mut self) -> String {
        let mut body = self.bodies[self.dice.below(self.bodies.len())].clone();
        for name in ["message", "code", "detail", "type", "error"] {
            let said = self.says();
            for part in ["/error", ""] {
                let change = self.dice.below(6) == 0;
                if let Some(Value::Object(fields)) = body.pointer_mut(part).filter(|_| change) {
                    fields.insert(name.into(), said.clone().into());
                }
            }
        }
        body.to_string()
    }

    fn answer(&mut self) -> (u16, Verdict) {
        const STATUSES: [u16; 14] = [
            200, 200, 400, 401, 402, 403, 404, 422, 429, 429, 429, 500, 503, 529,
        ];
        let status = STATUSES[self.dice.below(STATUSES.len())];
        let body = self.body();
        let (fields, dice) = (&self.fields, &mut self.dice);
        let fields = [(); 2].map(|()| &fields[dice.below(fields.len())]);
        let verdict = match status {
            200 => verdict::judge_inside(body.as_bytes()),
            _ => {
                let field = fields.iter();
                let field = |name: &str| {
                    let found = field.clone().find(|(known, _)| known == name);
                    found.map(|(_, value)| value.as_bytes())
                };
                verdict::judge(status, field, body.as_bytes())
            }
        };
        (status, verdict)
    }
}

/// The keys that requests for this model are sent with, one after the other.
fn at_hand(pool: &mut Pool, model: &str, now: Instant) -> BTreeSet<usize> {
    let (lane, ticket) = pool.enter(model, now);
    let mut found = BTreeSet::new();
    for _ in 0..2 * KEYS {
        if let Pick::Key(picked) = pool.pick(lane, PickRequest::default(), now) {
            pool.report(&picked, Report::Answered(Verdict::Pass, 200), now);
            pool.release(&picked);
            found.insert(picked.index);
        }
    }
    pool.exit(lane, ticket);
    found
}

#[test]
fn no_request_takes_a_key_from_others_for_longer_than_a_minute() {
    let mut parts = Parts::read();
    let keys: Vec<ApiKey> = (0..KEYS)
        .map(|n| ApiKey::new(format!("a-key-of-the-test-{n}")))
        .collect();
    let settings = Settings {
        cooldown: MINUTE,
        pace: Pace::Off,
        rotation: Rotation::RoundRobin,
        attempts: 100,
    };
    let mut met = BTreeSet::new();
    for _ in 0..ANSWERS {
        let t0 = Instant::now();
        let mut pool = Pool::new(&keys, settings, t0);
        let (lane, ticket) = pool.enter("m", t0);
        let mut refused: Vec<(Picked, RestReason)> = Vec::new();
        let mut told = Vec::new();
        let mut goes_on = true;
        while goes_on && told.len() < KEYS {
            let avoid: Vec<Picked> = refused.iter().map(|(picked, ..)| picked.clone()).collect();
            let asker = PickRequest {
                avoid: &avoid,
                ..PickRequest::default()
            };
            let Pick::Key(picked) = pool.pick(lane, asker, t0) else {
                break;
            };
            let (status, verdict) = parts.answer();
            met.insert(format!("{verdict:?}").split('(').next().map(str::to_owned));
            told.push(verdict);
            pool.report(&picked, Report::Answered(verdict, status), t0);
            pool.release(&picked);
            goes_on = !matches!(verdict, Verdict::Pass | Verdict::TooMuch);
            if !goes_on && status < 400 {
                for (picked, why) in &refused {
                    pool.eject(picked, *why, t0);
                }
            }
            if let Verdict::Refused { names_key } = verdict {
                let why = RestReason::Refused { status, names_key };
                refused.push((picked, why));
            }
        }
        pool.exit(lane, ticket);
        let all: BTreeSet<usize> = (0..KEYS).collect();
        let later = t0 + MINUTE + Duration::from_millis(1);
        assert_eq!(at_hand(&mut pool, "another", later), all, "{told:?}");
        // Of the model itself the upstream said that it is the key's own limit, and for how long.
        let own = |verdict: &Verdict| matches!(verdict, Verdict::Quota | Verdict::Limited(Some(_)));
        if !told.iter().any(own) {
            assert_eq!(at_hand(&mut pool, "m", later), all, "{told:?}");
        }
    }
    assert!(met.len() >= 8, "only {met:?}");
}

#[test]
fn words_that_an_answer_quotes_from_a_request_blame_no_key() {
    let mut parts = Parts::read();
    for _ in 0..ANSWERS {
        let said = parts.says();
        let quoted = |before: &str, after: &str| format!("{before}{said}{after}");
        let answers = [
            (
                400,
                json!({"error": {"message": quoted("Invalid value: '", "'. Supported values are: 'a' and 'b'."), "type": "invalid_request_error", "param": said, "code": "invalid_value"}}),
            ),
            (
                400,
                json!({"error": {"message": quoted("messages.3.content: \"", "\" is too long"), "type": "invalid_request_error"}}),
            ),
            (
                400,
                json!({"object": "error", "message": quoted("The tool `", "` is not known"), "type": "BadRequestError", "param": null, "code": 400}),
            ),
            (
                400,
                json!({"error": {"message": quoted("litellm.BadRequestError: OpenAIException - Invalid value: '", "'."), "code": "400"}}),
            ),
            (
                400,
                json!({"error": {"message": format!("litellm.BadRequestError: OpenAIException - {}. Received Model Group=m", json!({"error": {"message": quoted("messages.3.content: \"", "\" is too long")}})), "code": "400"}}),
            ),
            (
                400,
                json!({"error": {"message": json!({"type": "object", "title": said}).to_string() + " is not valid under any of the schemas"}}),
            ),
            (
                422,
                json!({"code": "x", "error": quoted("messages[0].role: unknown variant `", "`")}),
            ),
            (
                404,
                json!({"error": {"message": quoted("The model '", "' does not exist"), "type": "invalid_request_error", "param": null, "code": "model_not_found"}}),
            ),
            (
                422,
                json!({"detail": [{"type": "string_type", "loc": ["body", "messages", 0], "msg": "Input should be a valid string", "input": {"content": said, "message": said}}]}),
            ),
            (
                200,
                json!({"id": "c", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": said.clone() + "."}, "finish_reason": "stop"}]}),
            ),
            (
                200,
                json!({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": said}}]}}], "error": {"code": 429, "message": said}}),
            ),
        ];
        for (status, body) in answers {
            let body = body.to_string();
            let verdict = match status {
                200 => verdict::judge_inside(body.as_bytes()),
                _ => verdict::judge(status, |_| None, body.as_bytes()),
            };
            assert_eq!(verdict, Verdict::Pass, "{status} {body}");
        }
    }
}
