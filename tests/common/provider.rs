//! A provider as real clients expect one: OpenAI's endpoints, and a strict limit on every key.
//!
//! Its answers repeat the question, so that a client can tell its own answer from another's. It
//! knows nothing of alvus.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Act, KEYS, SSE_HEAD, Seen, Upstream, answer, chunk};

/// How it limits its keys.
#[derive(Clone, Copy)]
pub struct Limit {
    /// Requests a key may make in a window.
    pub requests: usize,
    /// The rolling window.
    pub window: Duration,
    /// Says `Retry-After` with its 429s, as OpenAI does; NVIDIA does not.
    pub hints: bool,
}

/// A running provider.
pub struct Provider {
    pub upstream: Upstream,
    refused: Arc<AtomicUsize>,
}

impl Provider {
    pub fn start(limit: Limit) -> Provider {
        let refused = Arc::new(AtomicUsize::new(0));
        let count = refused.clone();
        let uses: Mutex<HashMap<String, VecDeque<Instant>>> = Mutex::default();
        let upstream = Upstream::new(move |seen| {
            let Some(key) = seen.key.as_ref().filter(|k| KEYS.contains(&k.as_str())) else {
                return error(401, "invalid_api_key", "Incorrect API key provided");
            };
            let mut uses = uses.lock().unwrap();
            let used = uses.entry(key.clone()).or_default();
            let now = Instant::now();
            while used.front().is_some_and(|at| now - *at >= limit.window) {
                used.pop_front();
            }
            if used.len() >= limit.requests {
                count.fetch_add(1, Ordering::SeqCst);
                let wait = limit.window - (now - used[0]);
                return too_many(limit.hints, wait);
            }
            used.push_back(now);
            drop(uses);
            respond(seen)
        });
        Provider { upstream, refused }
    }

    /// How many requests it refused with 429.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

fn too_many(hints: bool, wait: Duration) -> Act {
    if !hints {
        return answer(429, "", r#"{"status":429,"title":"Too Many Requests"}"#);
    }
    let after = format!("Retry-After: {}\r\n", wait.as_secs_f64().ceil());
    let body = json!({"error": {"message": "Rate limit reached", "type": "requests",
                                "param": null, "code": "rate_limit_exceeded"}});
    answer(429, &after, &body.to_string())
}

fn error(status: u16, code: &str, message: &str) -> Act {
    let body = json!({"error": {"message": message, "type": "invalid_request_error",
                                "param": null, "code": code}});
    answer(status, JSON, &body.to_string())
}

const JSON: &str = "Content-Type: application/json\r\n";

/// The answer to this request.
pub fn respond(seen: &Seen) -> Act {
    let path = seen.target.split('?').next().unwrap_or_default();
    let say = |body: Value| answer(200, JSON, &body.to_string());
    let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    match (seen.method.as_str(), path) {
        ("GET" | "HEAD", "/v1/models") => say(json!({"object": "list", "data": [
            {"id": "test-model", "object": "model", "created": 1, "owned_by": "nobody"}]})),
        ("POST", "/v1/chat/completions") if asked["model"] == "no-such-model" => error(
            404,
            "model_not_found",
            "The model no-such-model does not exist",
        ),
        ("POST", "/v1/chat/completions") if asked["stream"] == true => streamed(&asked),
        ("POST", "/v1/chat/completions") => {
            let finish = if asked["tools"].is_array() {
                "tool_calls"
            } else {
                "stop"
            };
            say(
                json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message(&asked), "finish_reason": finish}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}),
            )
        }
        ("POST", "/v1/embeddings") => say(embeddings(&asked)),
        ("POST", "/v1/files") => match uploaded(&seen.body) {
            Some(file) => say(
                json!({"id": "file-1", "object": "file", "bytes": file.len(),
                "created_at": 1, "filename": "upload.bin", "purpose": "assistants",
                "status": "processed", "sum": file.iter().map(|b| u64::from(*b)).sum::<u64>()}),
            ),
            None => error(400, "bad_upload", "no file in the multipart body"),
        },
        ("POST", "/v1/echo") => say(
            json!({"bytes": seen.body.len(), "sum": seen.body.iter().map(|b| u64::from(*b)).sum::<u64>()}),
        ),
        _ => error(404, "not_found", "no such endpoint"),
    }
}

/// What the last message said.
fn last_words(asked: &Value) -> String {
    let messages = asked["messages"].as_array().cloned().unwrap_or_default();
    match messages
        .last()
        .map(|m| m["content"].clone())
        .unwrap_or_default()
    {
        Value::String(text) => text,
        Value::Array(parts) => {
            let images = parts.iter().filter(|p| p["image_url"].is_object()).count();
            let words: String = parts.iter().filter_map(|p| p["text"].as_str()).collect();
            match images {
                0 => words,
                n => format!("{words} [{n} images]"),
            }
        }
        _ => String::new(),
    }
}

/// The answer to a chat: a tool call if tools were offered; a file if a coding agent asked for
/// one; else the question itself.
fn message(asked: &Value) -> Value {
    let words = last_words(asked);
    if let Some(tool) = asked["tools"][0]["function"]["name"].as_str() {
        let arguments = json!({"said": words}).to_string();
        return json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": tool, "arguments": arguments}}]});
    }
    if words.contains("greeting.txt") {
        let file = "Here it is:\n\ngreeting.txt\n```\nhello from the model\n```\n";
        return json!({"role": "assistant", "content": file});
    }
    if words.contains("think aloud") {
        return json!({"role": "assistant", "reasoning_content": "hm, ünïcödé", "content": words});
    }
    json!({"role": "assistant", "content": words})
}

fn streamed(asked: &Value) -> Act {
    let message = message(asked);
    let mut deltas = vec![json!({"role": "assistant"})];
    let pieces = |text: &str| -> Vec<String> {
        text.chars()
            .collect::<Vec<_>>()
            .chunks(7)
            .map(|piece| piece.iter().collect())
            .collect()
    };
    let finish = match message["tool_calls"].get(0) {
        Some(call) => {
            let name = &call["function"]["name"];
            deltas.push(
                json!({"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                "function": {"name": name, "arguments": ""}}]}),
            );
            for piece in pieces(call["function"]["arguments"].as_str().unwrap()) {
                let function = json!({"arguments": piece});
                deltas.push(json!({"tool_calls": [{"index": 0, "function": function}]}));
            }
            "tool_calls"
        }
        None => {
            let text = message["content"].as_str().unwrap();
            let thoughts = message["reasoning_content"].as_str();
            deltas.extend(thoughts.map(|text| json!({"reasoning_content": text})));
            deltas.extend(
                pieces(text)
                    .into_iter()
                    .map(|piece| json!({"content": piece})),
            );
            "stop"
        }
    };
    let mut choices: Vec<Value> = deltas
        .into_iter()
        .map(|delta| json!({"index": 0, "delta": delta, "finish_reason": null}))
        .collect();
    choices.push(json!({"index": 0, "delta": {}, "finish_reason": finish}));
    let mut events: Vec<String> = choices
        .into_iter()
        .map(|choice| {
            json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                             "model": asked["model"], "choices": [choice]})
        })
        .map(|event| chunk(&format!("data: {event}\n\n")))
        .collect();
    events.push(chunk("data: [DONE]\n\n") + "0\r\n\r\n");
    Act::Do(Box::new(move |stream| {
        // A client that leaves early ends this with an error, which is its own business.
        let _ = stream.write_all(SSE_HEAD.as_bytes());
        for event in events {
            if stream.write_all(event.as_bytes()).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }))
}

fn embeddings(asked: &Value) -> Value {
    let inputs = match &asked["input"] {
        Value::Array(inputs) => inputs.len(),
        _ => 1,
    };
    let vector = [0.5f32, -1.0, 2.0];
    let shown = if asked["encoding_format"] == "base64" {
        let bytes: Vec<u8> = vector.iter().flat_map(|f| f.to_le_bytes()).collect();
        Value::from(base64(&bytes))
    } else {
        json!(vector)
    };
    let data: Vec<Value> = (0..inputs)
        .map(|i| json!({"object": "embedding", "index": i, "embedding": shown}))
        .collect();
    json!({"object": "list", "model": asked["model"], "data": data,
           "usage": {"prompt_tokens": 1, "total_tokens": 1}})
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(bytes.len() % 3, 0, "no padding needed here");
    bytes
        .chunks(3)
        .flat_map(|three| {
            let n = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            [18, 12, 6, 0].map(|shift| LETTERS[(n >> shift & 63) as usize] as char)
        })
        .collect()
}

/// The content of the part of a multipart body that has a file name.
fn uploaded(body: &[u8]) -> Option<&[u8]> {
    let find = |from: usize, what: &[u8]| {
        body.get(from..)?
            .windows(what.len())
            .position(|w| w == what)
            .map(|at| from + at)
    };
    let line_end = find(0, b"\r\n")?;
    let boundary = [b"\r\n", &body[..line_end]].concat();
    let start = find(find(0, b"filename=")?, b"\r\n\r\n")? + 4;
    Some(&body[start..find(start, &boundary)?])
}
