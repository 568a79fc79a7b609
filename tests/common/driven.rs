//! Streams of chat completions that a test drives token by token, and their clients.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its own part

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::{Act, Alvus, Client, SSE_HEAD, Upstream, chunk};

/// As one of NVIDIA's, of a usual size.
pub const TOKEN: &str = r#"data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1750000000,"model":"meta/llama-3.1-8b-instruct","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}"#;

pub const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

pub fn ask(alvus: &Alvus, path: &str) -> Client {
    let body = r#"{"model":"m","max_tokens":9999,"stream":true,"messages":[{"role":"user","content":"go"}]}"#;
    let mut client = alvus.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: alvus\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(client.head().status, 200);
    client
}

pub const PATHS: [&str; 2] = ["/v1/chat/completions", "/v1/messages"];

/// Streams that go on a token at a time; each is driven by who sends to it.
pub fn driven() -> (Upstream, Receiver<Sender<bool>>) {
    let (begun, drives) = channel();
    let begun = Mutex::new(begun);
    let upstream = Upstream::new(move |_| {
        let (drive, driven) = channel();
        begun.lock().unwrap().send(drive).unwrap();
        Act::Do(Box::new(move |stream| {
            let mut say = |text: &str| stream.write_all(text.as_bytes()).is_ok();
            let token = chunk(&format!("{TOKEN}\n\n"));
            let mut goes_on = say(SSE_HEAD) && say(&token);
            while goes_on && driven.recv() == Ok(true) {
                goes_on = say(&token);
            }
            say(&(chunk(END) + "0\r\n\r\n"));
        }))
    });
    (upstream, drives)
}
