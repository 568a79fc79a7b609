//! How providers refuse, word for word: for the simulator, and for the scenarios over sockets.
#![allow(dead_code)] // each test file uses its own part

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Nim,
    OpenAi,
    Groq,
    OpenRouter,
    Gemini,
}

#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: u16,
    pub fields: Vec<(&'static str, String)>,
    pub body: String,
    /// How long it says that it holds.
    pub stated: Option<Duration>,
}

impl Refusal {
    fn new(status: u16, body: impl Into<String>) -> Refusal {
        Refusal {
            status,
            fields: Vec::new(),
            body: body.into(),
            stated: None,
        }
    }
}

impl Dialect {
    /// The limit of a minute, over in `left`. `date`: the answer's own, in seconds since 1970.
    pub fn minute(self, left: Duration, date: u64) -> Refusal {
        let mut refusal = Refusal::new(429, "");
        refusal.stated = Some(left);
        let seconds = left.as_secs_f64();
        match self {
            Dialect::Nim => {
                refusal.body = r#"{"status":429,"title":"Too Many Requests"}"#.into();
                refusal.stated = None;
            }
            Dialect::OpenAi => {
                let ms = left.as_millis().to_string();
                refusal.stated = Some(Duration::from_millis(left.as_millis() as u64));
                refusal.fields.push(("retry-after-ms", ms));
                refusal.body = r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#.into();
            }
            Dialect::Groq => {
                let after = seconds.ceil();
                refusal.fields.push(("retry-after", after.to_string()));
                refusal.stated = Some(Duration::from_secs_f64(after));
                refusal.body = format!(
                    r#"{{"error":{{"message":"Rate limit reached for model `m` on requests per minute (RPM): Limit 30, Used 30, Requested 1. Please try again in {seconds}s.","type":"requests","code":"rate_limit_exceeded"}}}}"#
                );
            }
            Dialect::OpenRouter => {
                let reset = u128::from(date) * 1000 + left.as_millis();
                refusal.stated = Some(Duration::from_millis(left.as_millis() as u64));
                refusal.body = format!(
                    r#"{{"error":{{"message":"Rate limit exceeded: free-models-per-min. ","code":429,"metadata":{{"headers":{{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"{reset}"}}}}}}}}"#
                );
            }
            Dialect::Gemini => {
                refusal.body = format!(
                    r#"[{{"error":{{"code":429,"message":"Resource has been exhausted","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}}]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{seconds}s"}}]}}}}]"#
                );
            }
        }
        refusal
    }

    /// The limit of a day, of `most` requests, over in `left`. `date` as above.
    pub fn day(self, most: u32, left: Duration, date: u64) -> Refusal {
        let mut refusal = Refusal::new(429, "");
        let seconds = left.as_secs();
        match self {
            Dialect::OpenRouter => {
                let reset = (date + seconds) * 1000;
                refusal.stated = Some(left);
                refusal.body = format!(
                    r#"{{"error":{{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{{"headers":{{"X-RateLimit-Limit":"{most}","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"{reset}"}}}}}}}}"#
                );
            }
            // The delay is a minute's.
            Dialect::Gemini => {
                refusal.body = r#"[{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"21s"}]}}]"#.into();
            }
            Dialect::Groq | Dialect::Nim | Dialect::OpenAi => {
                refusal.stated = Some(left);
                refusal.fields = vec![
                    ("retry-after", seconds.to_string()),
                    ("x-ratelimit-remaining-requests", "0".into()),
                    ("x-ratelimit-reset-requests", format!("{seconds}s")),
                ];
                refusal.body = format!(
                    r#"{{"error":{{"message":"Rate limit reached for model `m` on requests per day (RPD): Limit {most}, Used {most}, Requested 1. Please try again in {seconds}s.","type":"requests","code":"rate_limit_exceeded"}}}}"#
                );
            }
        }
        refusal
    }
}

/// Groq's limit of `most` tokens a minute, in which there will be room in `wait` seconds.
pub fn tokens(most: f64, requested: u32, wait: f64) -> Refusal {
    let body = format!(
        r#"{{"error":{{"message":"Rate limit reached for model `m` on tokens per minute (TPM): Limit {most}, Used 7174, Requested {requested}. Please try again in {wait:.3}s.","type":"tokens","code":"rate_limit_exceeded"}}}}"#
    );
    let mut refusal = Refusal::new(429, body);
    let after = (wait.ceil() as u64).max(1);
    refusal.stated = Some(Duration::from_secs(after));
    refusal.fields = vec![
        ("retry-after", after.to_string()),
        ("x-ratelimit-remaining-tokens", "0".into()),
        ("x-ratelimit-reset-tokens", format!("{wait:.3}s")),
    ];
    refusal
}

/// NIM's model that is at work on `most` requests already, in one of three `shape`s.
pub fn overloaded(most: u32, shape: u64) -> Refusal {
    let text =
        format!("ResourceExhausted: Worker local total request limit reached ({most}/{most})");
    match shape % 3 {
        0 => Refusal::new(429, format!(r#"{{"detail":"{text}"}}"#)),
        1 => Refusal::new(
            500,
            format!(r#"{{"message":"{text}","type":"internal_server_error","code":500}}"#),
        ),
        _ => Refusal::new(
            200,
            format!(
                r#"{{"error":{{"message":"{text}","type":"internal_server_error","code":500}}}}"#
            ),
        ),
    }
}

/// OpenRouter's, when the provider behind it is full for so many seconds.
pub fn backend_full(seconds: u32) -> Refusal {
    let body = format!(
        r#"{{"error":{{"message":"Provider returned error","code":429,"metadata":{{"raw":"try later","provider_name":"X","retry_after_seconds":{seconds}}}}}}}"#
    );
    Refusal::new(429, body)
}

/// OpenRouter's, for one prompt.
pub fn moderated() -> Refusal {
    let body = r#"{"error":{"message":"Your input was flagged","code":403,"metadata":{"reasons":["violence"]}}}"#;
    Refusal::new(403, body)
}

pub fn revoked() -> Refusal {
    let body = r#"{"error":{"message":"Invalid API Key","code":"invalid_api_key"}}"#;
    Refusal::new(401, body)
}

/// OpenAI's, for a key that is for other endpoints.
pub fn restricted() -> Refusal {
    let body = r#"{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.files.read. Check that you have the correct role in your organization, and if you're using a restricted API key, that it has the necessary scopes.","type":"invalid_request_error","param":null,"code":"missing_scope"}}"#;
    Refusal::new(401, body)
}

/// For a model that must be paid for, in one of two shapes (`n` says which).
pub fn unpaid(n: u64) -> Refusal {
    let (status, words) = match n % 2 {
        0 => (
            402,
            "Insufficient credits. This account never purchased credits. Make sure your key is on the correct account or org.",
        ),
        _ => (
            401,
            "You have to be authorized to use paid models. Upgrade your plan.",
        ),
    };
    let body = format!(r#"{{"error":{{"message":"{words}","code":{status}}}}}"#);
    Refusal::new(status, body)
}

/// 429 and not a word about whose, or how long.
pub fn bare() -> Refusal {
    Refusal::new(429, r#"{"status":429,"title":"Too Many Requests"}"#)
}

/// A model that has no capacity.
pub fn full_in_words() -> Refusal {
    let body = r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"engine_overloaded_error"}}"#;
    Refusal::new(429, body)
}

/// 502 or 503 (`n` says which), from a machine in front of the provider.
pub fn outage(n: u64) -> Refusal {
    Refusal::new(502 + (n % 2) as u16, "<html>Bad gateway</html>")
}
