//! Reads and checks a case from its file, and runs nothing. `README.md` beside this explains the
//! words. An unknown word is a fault, so that no expectation is lost by a slip.

use std::time::Duration;

use serde_json::{Map, Value};

/// One file.
pub struct Case {
    /// The file's name, without `.json`.
    pub name: String,
    /// Who says this, where it was reported.
    pub about: String,
    /// How many keys alvus has.
    pub keys: usize,
    /// Variables for alvus.
    pub settings: Vec<(String, String)>,
    /// What the upstream says instead of a good answer; the first one that fits is given.
    pub upstream: Vec<Answer>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// An answer and who gets it.
pub struct Answer {
    pub when: When,
    pub status: u16,
    pub kind: String,
    pub fields: Vec<(String, String)>,
    /// Before the head.
    pub thinks: Duration,
    pub body: Vec<Piece>,
    /// In chunks, as it was written as a list; else with a length.
    pub chunked: bool,
    /// The connection ends without the last chunk.
    pub cut: bool,
    pub gzip: Gzip,
}

/// A part of a body.
pub enum Piece {
    Text(String),
    Pause(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gzip {
    Never,
    /// If the request offers to take it.
    Asked,
    Always,
}

/// Which requests get an answer: those for which all that is said here is true.
#[derive(Default)]
pub struct When {
    pub keys: Option<Vec<usize>>,
    pub models: Option<Vec<String>>,
    pub paths: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub stream: Option<bool>,
    pub body_over: Option<usize>,
    /// Also those that name no `max_tokens`.
    pub max_tokens_over: Option<u64>,
    /// Not the first so many that fit.
    pub after: usize,
    /// One in so many that fit, the first of them included.
    pub every: Option<usize>,
    /// At most so many.
    pub times: Option<usize>,
    /// For so long after the first that fits.
    pub seconds: Option<f64>,
}

/// What is done, then what must be seen.
pub struct Step {
    /// First of all.
    pub wait: Option<Duration>,
    pub ask: Option<Ask>,
    pub times: usize,
    /// So many at the same moment, instead of one after the other.
    pub together: usize,
    pub see: See,
    /// Done while the upstream has this step's request.
    pub meanwhile: Vec<Step>,
    pub then: Then,
}

/// A request.
pub struct Ask {
    pub method: String,
    pub path: String,
    pub fields: Vec<(String, String)>,
    pub body: Option<String>,
}

/// What the client must see of each answer.
#[derive(Default)]
pub struct See {
    /// One of these.
    pub status: Vec<u64>,
    pub words: Vec<String>,
    pub without: Vec<String>,
    /// The body is the upstream's, byte for byte.
    pub as_is: bool,
    pub attempts: Option<usize>,
    pub attempts_at_most: Option<usize>,
    /// Exactly these keys gave the answers of this step.
    pub keys: Option<Vec<usize>>,
    pub within_sec: Option<f64>,
    pub not_before_sec: Option<f64>,
    pub retry_after_at_most: Option<u64>,
    /// The body ends as its framing says.
    pub whole: bool,
    /// If it is a stream of events, the last one.
    pub ends: Option<String>,
}

/// How things stand afterwards.
#[derive(Default)]
pub struct Then {
    /// No key rests and none is out, for no model.
    pub nobody_suffers: bool,
    /// The word of `/health`.
    pub health: Option<String>,
    pub rests: Vec<Standing>,
    pub out: Vec<Standing>,
    /// Whatever rests or is out ends within so many seconds.
    pub ends_within: Option<u64>,
    /// How many of the answers of `upstream` were given so far, by key.
    pub given: Vec<(usize, usize)>,
    pub given_at_most: Option<usize>,
}

/// A key and a model, and for how long; give or take two seconds.
pub struct Standing {
    pub key: usize,
    pub model: String,
    pub seconds: Option<u64>,
}

impl Case {
    pub fn parse(name: &str, text: &str) -> Result<Case, String> {
        let whole = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let mut all = Fields::of("the case", whole)?;
        let case = Case {
            name: name.into(),
            about: all.text("about")?.ok_or("no `about`: who says this?")?,
            keys: all.number("keys")?.unwrap_or(3),
            settings: all.pairs("settings")?,
            upstream: all.list("upstream", answer)?,
            steps: all.list("steps", step)?,
        };
        all.done()?;
        if case.steps.is_empty() {
            return Err("no `steps`: nothing would be tried".into());
        }
        Ok(case)
    }

    /// About how long it takes: pauses, waits, times until something is over.
    pub fn length(&self) -> f64 {
        let pauses = self.upstream.iter().map(|answer| {
            let pause = |piece: &Piece| match piece {
                Piece::Pause(pause) => pause.as_secs_f64(),
                Piece::Text(_) => 0.0,
            };
            answer.body.iter().map(pause).sum::<f64>()
                + answer.thinks.as_secs_f64()
                + answer.when.seconds.unwrap_or_default()
        });
        let waits = self.steps.iter().filter_map(|step| step.wait);
        pauses.sum::<f64>() + waits.map(|wait| wait.as_secs_f64()).sum::<f64>()
    }
}

fn answer(value: Value) -> Result<Answer, String> {
    let mut all = Fields::of("an answer", value)?;
    let events = all.take("events");
    let (mut kind, body, chunked) = match (events, all.take("body")) {
        (Some(Value::Array(list)), None) => (
            "text/event-stream",
            list.into_iter().map(event).collect(),
            true,
        ),
        (None, Some(Value::Array(list))) => (
            "application/json",
            list.into_iter().map(piece).collect(),
            true,
        ),
        (None, body) => {
            let body = body.unwrap_or(Value::String(String::new()));
            ("application/json", vec![piece(body)], false)
        }
        _ => return Err("an answer has a `body`, or `events` as a list".into()),
    };
    let said = all.text("type")?;
    if let Some(said) = &said {
        kind = said;
    }
    let answer = Answer {
        when: all.take("when").map_or(Ok(When::default()), when)?,
        status: all.number("status")?.ok_or("an answer without `status`")? as u16,
        kind: kind.into(),
        fields: all.pairs("fields")?,
        thinks: Duration::from_secs_f64(all.seconds("thinks_sec")?.unwrap_or_default()),
        body,
        chunked,
        cut: all.flag("cut")?.unwrap_or_default(),
        gzip: match all.text("gzip")?.as_deref() {
            None => Gzip::Never,
            Some("asked") => Gzip::Asked,
            Some("always") => Gzip::Always,
            Some(other) => return Err(format!("`gzip` is asked or always, not {other}")),
        },
    };
    all.done()?;
    Ok(answer)
}

/// A string as it is, a number as a pause, anything else as JSON.
fn piece(value: Value) -> Piece {
    match value {
        Value::String(text) => Piece::Text(repeated(&text)),
        Value::Number(n) => Piece::Pause(Duration::from_secs_f64(n.as_f64().unwrap_or_default())),
        other => Piece::Text(repeated(&other.to_string())),
    }
}

/// The same, each as the data of an event. A string that begins with a colon is a comment.
fn event(value: Value) -> Piece {
    match piece(value) {
        Piece::Text(text) if text.starts_with(':') => Piece::Text(format!("{text}\n\n")),
        Piece::Text(text) => Piece::Text(format!("data: {text}\n\n")),
        pause => pause,
    }
}

/// `⟦A×3000⟧` stands for three thousand A, so that a file can be read.
fn repeated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, (inside, after))) = rest
        .split_once('⟦')
        .and_then(|(before, on)| Some((before, on.split_once('⟧')?)))
    {
        out.push_str(before);
        if let Some((what, n)) = inside.split_once('×') {
            out.push_str(&what.repeat(n.parse().unwrap_or_default()));
        }
        rest = after;
    }
    out + rest
}

fn when(value: Value) -> Result<When, String> {
    let mut all = Fields::of("`when`", value)?;
    let when = When {
        keys: all.numbers("keys")?,
        models: all.texts("models")?,
        paths: all.texts("paths")?,
        methods: all.texts("methods")?,
        stream: all.flag("stream")?,
        body_over: all.number("body_over")?,
        max_tokens_over: all.number("max_tokens_over")?.map(|n| n as u64),
        after: all.number("after")?.unwrap_or_default(),
        every: all.number("every")?,
        times: all.number("times")?,
        seconds: all.seconds("seconds")?,
    };
    all.done()?;
    Ok(when)
}

fn step(value: Value) -> Result<Step, String> {
    let mut all = Fields::of("a step", value)?;
    let step = Step {
        wait: all.seconds("wait_sec")?.map(Duration::from_secs_f64),
        ask: all.take("ask").map(ask).transpose()?,
        times: all.number("times")?.unwrap_or(1),
        together: all.number("together")?.unwrap_or(1),
        see: see(all.take("see"))?,
        meanwhile: all.list("meanwhile", step)?,
        then: all.take("then").map_or(Ok(Then::default()), then)?,
    };
    all.done()?;
    Ok(step)
}

fn ask(value: Value) -> Result<Ask, String> {
    let mut all = Fields::of("`ask`", value)?;
    let path = all.text("path")?;
    let path = path.unwrap_or_else(|| "/v1/chat/completions".into());
    let method = all.text("method")?.unwrap_or_else(|| "POST".into());
    let model = all.take("model").unwrap_or_else(|| "m".into());
    let says = all.text("says")?.unwrap_or_else(|| "hi".into());
    let filler = "x ".repeat(all.number("filler")?.unwrap_or_default() / 2);
    let mut body = Map::new();
    if path.ends_with("/chat/completions") {
        let message = serde_json::json!({"role": "user", "content": says + &filler});
        body.insert("messages".into(), Value::Array(vec![message]));
    } else {
        body.insert("input".into(), (says + &filler).into());
    }
    if !model.is_null() {
        body.insert("model".into(), model);
    }
    for name in ["stream", "max_tokens"] {
        if let Some(value) = all.take(name) {
            body.insert(name.into(), value);
        }
    }
    let own = all.take("body");
    let body = (method != "GET").then(|| match own {
        Some(own) => repeated(&own.to_string()),
        None => Value::Object(body).to_string(),
    });
    let ask = Ask {
        method,
        path,
        fields: all.pairs("fields")?,
        body,
    };
    all.done()?;
    Ok(ask)
}

/// What is not said is a good answer.
fn see(value: Option<Value>) -> Result<See, String> {
    let mut all = Fields::of("`see`", value.unwrap_or_else(|| Value::Object(Map::new())))?;
    let status = match all.take("status") {
        None => vec![200],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
        Some(one) => vec![one.as_u64().ok_or("`status` is a number or a list")?],
    };
    let as_is = all.flag("as_is")?.unwrap_or_default();
    let words = all.texts("words")?;
    let good = status == [200] && !as_is;
    let see = See {
        words: words.unwrap_or_else(|| good.then(|| GOOD.into()).into_iter().collect()),
        status,
        without: all.texts("without")?.unwrap_or_default(),
        as_is,
        attempts: all.number("attempts")?,
        attempts_at_most: all.number("attempts_at_most")?,
        keys: all.numbers("keys")?,
        within_sec: all.seconds("within_sec")?,
        not_before_sec: all.seconds("not_before_sec")?,
        retry_after_at_most: all.number("retry_after_at_most")?.map(|n| n as u64),
        whole: all.flag("whole")?.unwrap_or(true),
        ends: all.text("ends")?,
    };
    all.done()?;
    Ok(see)
}

/// The words of every good answer.
pub const GOOD: &str = "a good answer";

fn then(value: Value) -> Result<Then, String> {
    let mut all = Fields::of("`then`", value)?;
    let given = all.pairs("given")?.into_iter();
    let number = |text: String| text.parse::<usize>().map_err(|e| format!("`given`: {e}"));
    let then = Then {
        nobody_suffers: all.flag("nobody_suffers")?.unwrap_or_default(),
        health: all.text("health")?,
        rests: all.list("rests", standing)?,
        out: all.list("out", standing)?,
        ends_within: all.number("ends_within")?.map(|n| n as u64),
        given: given
            .map(|(key, n)| Ok((number(key)?, number(n)?)))
            .collect::<Result<_, String>>()?,
        given_at_most: all.number("given_at_most")?,
    };
    all.done()?;
    Ok(then)
}

fn standing(value: Value) -> Result<Standing, String> {
    let mut all = Fields::of("a standing", value)?;
    let standing = Standing {
        key: all.number("key")?.ok_or("which `key`?")?,
        model: all.text("model")?.unwrap_or_else(|| "m".into()),
        seconds: all.number("seconds")?.map(|n| n as u64),
    };
    all.done()?;
    Ok(standing)
}

/// An object's fields, each taken once; what is left over is a fault.
struct Fields {
    of: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    fn of(of: &'static str, value: Value) -> Result<Fields, String> {
        match value {
            Value::Object(map) => Ok(Fields { of, map }),
            other => Err(format!("{of} is an object, not {other}")),
        }
    }

    fn done(self) -> Result<(), String> {
        match self.map.keys().next() {
            Some(name) => Err(format!("{} knows no `{name}`", self.of)),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    fn read<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.map.remove(name) else {
            return Ok(None);
        };
        match read(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(format!("`{name}` of {} is {what}, not {value}", self.of)),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        self.read(name, "a text", |v| v.as_str().map(repeated))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, String> {
        self.read(name, "true or false", Value::as_bool)
    }

    fn number(&mut self, name: &str) -> Result<Option<usize>, String> {
        self.read(name, "a number", |v| v.as_u64().map(|n| n as usize))
    }

    fn seconds(&mut self, name: &str) -> Result<Option<f64>, String> {
        self.read(name, "a number of seconds", Value::as_f64)
    }

    fn numbers(&mut self, name: &str) -> Result<Option<Vec<usize>>, String> {
        let number = |v: &Value| v.as_u64().map(|n| n as usize);
        self.read(name, "a list of numbers", |v| {
            v.as_array()?.iter().map(number).collect()
        })
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, String> {
        self.read(name, "a list of texts", |v| {
            let list = v.as_array()?.iter();
            list.map(|v| v.as_str().map(str::to_string)).collect()
        })
    }

    /// An object of texts or numbers.
    fn pairs(&mut self, name: &str) -> Result<Vec<(String, String)>, String> {
        let plain = |v: &Value| match v {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let found = self.read(name, "an object", |v| {
            let map = v.as_object()?.iter();
            Some(map.map(|(k, v)| (k.clone(), plain(v))).collect())
        });
        Ok(found?.unwrap_or_default())
    }

    fn list<T>(
        &mut self,
        name: &str,
        each: impl Fn(Value) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        match self.map.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.into_iter().map(each).collect(),
            Some(other) => Err(format!("`{name}` of {} is a list, not {other}", self.of)),
        }
    }
}
