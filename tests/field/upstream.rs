//! The upstream of a case: gives the case's answers to the requests that they are for, and a good
//! answer to all others. It counts what it gave.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::case::{Answer, Case, GOOD, Gzip, Piece, When};
use super::common::{Act, KEYS, Seen, Upstream, answer, chunk};

/// A running upstream, and what it gave.
pub struct Provider {
    pub upstream: Upstream,
    given: Arc<Mutex<Vec<(usize, bool)>>>,
}

/// How often an answer's conditions were met, and since when.
#[derive(Default, Clone)]
struct Count {
    fitted: usize,
    given: usize,
    since: Option<Instant>,
}

impl Provider {
    pub fn of(case: &Arc<Case>) -> Provider {
        let given: Arc<Mutex<Vec<(usize, bool)>>> = Arc::default();
        let (account, case) = (given.clone(), case.clone());
        let counts = Mutex::new(vec![Count::default(); case.upstream.len()]);
        let upstream = Upstream::new(move |seen| {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
            let key = key_index(seen, case.keys);
            let mut counts = counts.lock().unwrap();
            let mut all = case.upstream.iter().zip(counts.iter_mut());
            let at = all.position(|(answer, count)| answer.when.is_it(seen, &asked, key, count));
            account.lock().unwrap().push((key, at.is_some()));
            drop(counts);
            match at {
                Some(at) => given_out(case.clone(), at, seen),
                None => good(seen, &asked),
            }
        });
        Provider { upstream, given }
    }

    /// How many requests it had.
    pub fn requests(&self) -> usize {
        self.given.lock().unwrap().len()
    }

    /// How many of the case's own answers it gave to this key; to all of them without one.
    pub fn given(&self, key: Option<usize>) -> usize {
        let given = self.given.lock().unwrap();
        let own = given.iter().filter(|(_, own)| *own);
        own.filter(|(k, _)| key.is_none_or(|key| *k == key)).count()
    }
}

/// The key of this number.
pub fn key(index: usize) -> String {
    match KEYS.get(index) {
        Some(key) => (*key).to_string(),
        None => format!("test-key-never-shown-more{index:04}"),
    }
}

fn key_index(seen: &Seen, keys: usize) -> usize {
    (0..keys)
        .find(|index| seen.key.as_deref() == Some(key(*index).as_str()))
        .unwrap_or_else(|| panic!("no such key: {:?}", seen.key))
}

impl When {
    fn is_it(&self, seen: &Seen, asked: &Value, key: usize, count: &mut Count) -> bool {
        let path = seen.target.split('?').next().unwrap_or_default();
        let model = asked["model"].as_str().unwrap_or_default();
        let one_of = |list: &Option<Vec<String>>, word: &str| {
            list.as_ref()
                .is_none_or(|list| list.iter().any(|w| w == word))
        };
        let max_tokens = asked["max_tokens"].as_u64().unwrap_or(u64::MAX);
        let fits = self.keys.as_ref().is_none_or(|list| list.contains(&key))
            && one_of(&self.models, model)
            && one_of(&self.paths, path)
            && one_of(&self.methods, &seen.method)
            && self.stream.is_none_or(|s| s == (asked["stream"] == true))
            && self.body_over.is_none_or(|n| seen.body.len() > n)
            && self.max_tokens_over.is_none_or(|n| max_tokens > n);
        if !fits {
            return false;
        }
        count.fitted += 1;
        if count.fitted <= self.after {
            return false;
        }
        let since = *count.since.get_or_insert_with(Instant::now);
        let turn = (count.fitted - self.after - 1).is_multiple_of(self.every.unwrap_or(1));
        let more = self.times.is_none_or(|n| count.given < n);
        let still = self
            .seconds
            .is_none_or(|s| since.elapsed().as_secs_f64() < s);
        let it_is = turn && more && still;
        count.given += usize::from(it_is);
        it_is
    }
}

/// Gives the case's answer `at`.
fn given_out(case: Arc<Case>, at: usize, seen: &Seen) -> Act {
    let asked_for = seen.field("accept-encoding").unwrap_or_default();
    let packed = match case.upstream[at].gzip {
        Gzip::Never => false,
        Gzip::Asked => asked_for.contains("gzip"),
        Gzip::Always => true,
    };
    Act::Do(Box::new(move |stream| {
        // A client that leaves early ends this with an error, which is its own business.
        let _ = write(&case.upstream[at], packed, stream);
    }))
}

fn write(answer: &Answer, packed: bool, stream: &mut TcpStream) -> std::io::Result<()> {
    thread::sleep(answer.thinks);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    head += &format!("Content-Type: {}\r\n", answer.kind);
    for (name, value) in &answer.fields {
        head += &format!("{name}: {value}\r\n");
    }
    if packed {
        let body = gzip(answer.text().as_bytes());
        head += &format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        return stream.write_all(&body);
    }
    if !answer.chunked {
        let body = answer.text();
        head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        return stream.write_all(head.as_bytes());
    }
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
    for piece in &answer.body {
        match piece {
            Piece::Pause(pause) => thread::sleep(*pause),
            Piece::Text(text) => stream.write_all(chunk(text).as_bytes())?,
        }
    }
    match answer.cut {
        true => Ok(()),
        false => stream.write_all(b"0\r\n\r\n"),
    }
}

impl Answer {
    /// The whole body.
    pub fn text(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Pause(_) => String::new(),
        };
        self.body.iter().map(text).collect()
    }
}

/// The answer to requests for which the case has none.
fn good(seen: &Seen, asked: &Value) -> Act {
    let model = &asked["model"];
    if asked["stream"] == true {
        let event = |delta: Value, finish: Value| {
            let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
            let event = json!({"id": "c", "object": "chat.completion.chunk", "model": model, "choices": choices});
            format!("data: {event}\n\n")
        };
        let events = [
            event(json!({"role": "assistant", "content": ""}), Value::Null),
            event(json!({"content": GOOD}), Value::Null),
            event(json!({}), "stop".into()),
            "data: [DONE]\n\n".into(),
        ];
        return answer(200, "Content-Type: text/event-stream\r\n", &events.concat());
    }
    let body = match seen.target.ends_with("/chat/completions") {
        true => json!({"id": "c", "object": "chat.completion", "model": model, "choices": [
            {"index": 0, "message": {"role": "assistant", "content": GOOD}, "finish_reason": "stop"}]}),
        false => json!({"id": "x", "object": "thing", "model": model, "text": GOOD}),
    };
    answer(200, "Content-Type: application/json\r\n", &body.to_string())
}

/// RFC 1952, with the fixed codes of RFC 1951 §3.2.6 and no matches: nothing of the text can be
/// read without unpacking it, and it takes no crate.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false]; // the last block; fixed codes
    let mut code = |value: u32, length: u32| {
        bits.extend((0..length).rev().map(|n| value >> n & 1 == 1));
    };
    for byte in plain.iter().map(|b| u32::from(*b)) {
        match byte {
            0..144 => code(0x30 + byte, 8),
            _ => code(0x190 + byte - 144, 9),
        }
    }
    code(0, 7); // the end
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for byte in bits.chunks(8) {
        let set = byte.iter().enumerate().filter(|(_, bit)| **bit);
        out.push(set.fold(0, |sum, (at, _)| sum | 1 << at));
    }
    out.extend(crc(plain).to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    out
}

fn crc(plain: &[u8]) -> u32 {
    !plain.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0xEDB8_8320 * (c & 1))
        })
    })
}
