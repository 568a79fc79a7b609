use super::*;

const NOON: (&str, &str) = ("date", "Mon, 23 Nov 2026 12:00:00 GMT"); // 1795435200

fn ask(status: u16, fields: &[(&str, &str)], body: &str) -> Verdict {
    let field = |name: &str| fields.iter().find(|(n, _)| *n == name);
    judge(
        status,
        |name| field(name).map(|(_, v)| v.as_bytes()),
        body.as_bytes(),
    )
}

fn secs(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

fn ms(n: u64) -> Option<Duration> {
    Some(Duration::from_millis(n))
}

#[test]
fn every_provider_is_understood_as_its_documentation_says() {
    use Verdict::*;
    for (who, status, fields, body, expected) in [
        // ---- NVIDIA NIM
        (
            "nim",
            429,
            &[][..],
            r#"{"status":429,"title":"Too Many Requests"}"#,
            Limited(None),
        ),
        (
            "nim capacity",
            429,
            &[],
            r#"{"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"}"#,
            Crowded(None),
        ),
        (
            "nim capacity",
            500,
            &[],
            r#"{"message":"ResourceExhausted: Worker local total request limit reached (32/32)","type":"internal_server_error","code":500}"#,
            Crowded(None),
        ),
        (
            "nim capacity",
            503,
            &[("retry-after", "9")],
            r#"{"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"}"#,
            Crowded(secs(9)),
        ),
        // ---- OpenAI
        (
            "openai",
            429,
            &[("retry-after-ms", "1500"), ("retry-after", "2")],
            r#"{"error":{"code":"rate_limit_exceeded"}}"#,
            Limited(ms(1500)),
        ),
        (
            "openai resets",
            429,
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-tokens", "12h"),
            ],
            "",
            Limited(secs(360)),
        ),
        (
            "openai both spent",
            429,
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "12ms"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "20s"),
            ],
            "",
            Limited(secs(20)),
        ),
        (
            "openai words",
            429,
            &[],
            r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 6m2.5s. Visit https://platform.openai.com","code":"rate_limit_exceeded"}}"#,
            Limited(ms(362_500)),
        ),
        (
            "openai quota",
            429,
            &[("retry-after", "20")],
            r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}"#,
            Quota(None),
        ),
        (
            "openai billing link",
            429,
            &[],
            r#"{"error":{"message":"Rate limit reached for gpt-4 in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s. Visit https://platform.openai.com/account/rate-limits to learn more. You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.","type":"requests","code":"rate_limit_exceeded"}}"#,
            Limited(secs(20)),
        ),
        (
            "groq billing link",
            429,
            &[],
            r#"{"error":{"message":"Rate limit reached for model `x` on tokens per minute (TPM): Limit 12000, Used 4437, Requested 9854. Please try again in 11.455s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing","type":"tokens","code":"rate_limit_exceeded"}}"#,
            Limited(ms(11_455)),
        ),
        // ---- Azure
        (
            "azure",
            429,
            &[
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "17"),
            ],
            "",
            Limited(secs(17)),
        ),
        (
            "azure -1",
            429,
            &[
                ("x-ratelimit-remaining-tokens", "-1"),
                ("x-ratelimit-reset-tokens", "-1"),
                ("retry-after", "-1"),
            ],
            "",
            Limited(None),
        ),
        // ---- Groq
        (
            "groq minute",
            429,
            &[],
            r#"{"error":{"message":"Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` on tokens per minute (TPM): Limit 12000, Used 7174, Requested 7540. Please try again in 13.569999999s. Need more tokens?","type":"tokens","code":"rate_limit_exceeded"}}"#,
            Limited(Some(Duration::from_nanos(13_569_999_999))),
        ),
        (
            "groq day",
            429,
            &[("retry-after", "432")],
            r#"{"error":{"message":"Rate limit reached on requests per day (RPD): Limit 1000, Used 1000, Requested 1. Please try again in 7m12s."}}"#,
            Quota(secs(432)),
        ),
        (
            "groq day of a model",
            429,
            &[("retry-after", "432")],
            r#"{"error":{"message":"Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_01` service tier `on_demand` on tokens per day (TPD): Limit 100000, Used 99834, Requested 1234. Please try again in 7m12s.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ModelQuota(secs(432)),
        ),
        (
            "openai day of a model",
            429,
            &[],
            r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-1 on requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s.","type":"requests","code":"rate_limit_exceeded"}}"#,
            ModelQuota(secs(432)),
        ),
        (
            "groq 413",
            413,
            &[("retry-after", "9")],
            r#"{"error":{"message":"Request too large … tokens per minute (TPM)","code":"rate_limit_exceeded"}}"#,
            Pass,
        ),
        // ---- OpenRouter
        (
            "openrouter day",
            429,
            &[NOON],
            r#"{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795478400000"}}}}"#,
            Quota(secs(43_200)),
        ),
        (
            "openrouter day, no date",
            429,
            &[],
            r#"{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"1795478400000"}}}}"#,
            Quota(None),
        ),
        (
            "openrouter minute",
            429,
            &[NOON],
            r#"{"error":{"message":"Rate limit exceeded: free-models-per-min","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"1795435221000"}}}}"#,
            Limited(secs(21)),
        ),
        (
            "openrouter upstream",
            429,
            &[],
            r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"retry_after_seconds":7,"raw":"x is temporarily rate-limited upstream"}}}"#,
            Crowded(secs(7)),
        ),
        (
            "openrouter credits",
            402,
            &[],
            r#"{"error":{"message":"Insufficient credits","code":402}}"#,
            Quota(None),
        ),
        (
            "openrouter moderation",
            403,
            &[],
            r#"{"error":{"message":"Input was flagged","code":403}}"#,
            Forbidden,
        ),
        // ---- Gemini
        (
            "gemini minute",
            429,
            &[],
            r#"[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34s"}]}}]"#,
            Limited(secs(34)),
        ),
        (
            "gemini fraction",
            429,
            &[],
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.5s"}]}}"#,
            Limited(ms(1500)),
        ),
        (
            "gemini day",
            429,
            &[],
            r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"retryDelay":"34s"}]}}]"#,
            ModelQuota(None),
        ),
        (
            "gemini day of the whole project",
            429,
            &[],
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProject"}]},{"retryDelay":"34s"}]}}"#,
            Quota(None),
        ),
        (
            "gemini day of the model and of the whole project",
            429,
            &[],
            r#"{"error":{"code":429,"details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"},{"quotaId":"GenerateRequestsPerDayPerProject"}]}]}}"#,
            Quota(None),
        ),
        (
            "gemini day of the project, minute of the model",
            429,
            &[],
            r#"{"error":{"code":429,"details":[{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"},{"quotaId":"GenerateRequestsPerDayPerProject"}]}]}}"#,
            Quota(None),
        ),
        (
            "gemini key",
            400,
            &[],
            r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
            Rejected,
        ),
        (
            "gemini region",
            400,
            &[],
            r#"{"error":{"code":400,"message":"User location is not supported","status":"FAILED_PRECONDITION"}}"#,
            Pass,
        ),
        // ---- Anthropic
        (
            "anthropic",
            429,
            &[
                NOON,
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-11-23T12:00:45Z"),
                ("anthropic-ratelimit-tokens-remaining", "5"),
                ("anthropic-ratelimit-tokens-reset", "2026-11-23T13:00:00Z"),
            ],
            r#"{"type":"error","error":{"type":"rate_limit_error"}}"#,
            Limited(secs(45)),
        ),
        (
            "anthropic overloaded",
            529,
            &[],
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            Trouble(None),
        ),
        (
            "anthropic permission",
            403,
            &[],
            r#"{"type":"error","error":{"type":"permission_error"}}"#,
            Forbidden,
        ),
        // ---- Cerebras, SambaNova: per day by the field's name
        (
            "cerebras day",
            429,
            &[
                ("x-ratelimit-remaining-requests-day", "0"),
                ("x-ratelimit-reset-requests-day", "33011.382867"),
            ],
            "",
            Quota(Some(Duration::from_micros(33_011_382_867))),
        ),
        (
            "cerebras minute",
            429,
            &[
                ("x-ratelimit-remaining-requests-day", "9"),
                ("x-ratelimit-reset-requests-day", "33011.3"),
                ("x-ratelimit-remaining-tokens-minute", "0"),
                ("x-ratelimit-reset-tokens-minute", "11.38"),
            ],
            "",
            Limited(ms(11_380)),
        ),
        (
            "sambanova",
            429,
            &[
                ("x-ratelimit-remaining-requests-day", "0"),
                ("x-ratelimit-reset-requests-day", "4h17m"),
            ],
            "",
            Quota(secs(15_420)),
        ),
        (
            "sambanova",
            429,
            &[
                ("x-ratelimit-remaining-requests-day", "0"),
                ("x-ratelimit-reset-requests-day", "86400"),
            ],
            "",
            Quota(secs(86_400)),
        ),
        // ---- Mistral
        (
            "mistral",
            429,
            &[("x-ratelimit-limit-req-minute", "60")],
            r#"{"message":"Rate limit exceeded"}"#,
            Limited(None),
        ),
        (
            "mistral plan",
            429,
            &[("x-ratelimit-limit-req-minute", "0")],
            r#"{"message":"Rate limit exceeded"}"#,
            Pass,
        ),
        // ---- Together
        (
            "together",
            429,
            &[
                ("x-ratelimit-limit", "10"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "1.25"),
            ],
            "",
            Limited(ms(1250)),
        ),
        // ---- whoever
        ("a bad key", 401, &[], "", Rejected),
        (
            "a bad key in JSON",
            401,
            &[("content-type", "application/json")],
            "<html>",
            Rejected,
        ),
        (
            "a captive portal",
            401,
            &[("content-type", "Text/HTML; charset=utf-8")],
            "<html>Please log in",
            Trouble(None),
        ),
        ("trouble", 500, &[], "", Trouble(None)),
        ("trouble", 502, &[], "<html>", Trouble(None)),
        (
            "trouble that says how long",
            503,
            &[("retry-after", "30")],
            "",
            Trouble(secs(30)),
        ),
        ("trouble", 504, &[], "", Trouble(None)),
        ("not implemented", 501, &[], "", Pass),
        (
            "a request's own fault",
            400,
            &[],
            r#"{"error":{"message":"per day billing daily"}}"#,
            Pass,
        ),
        ("a request's own fault", 404, &[], "", Pass),
        ("a request's own fault", 422, &[], "", Pass),
        (
            "a body cut short",
            429,
            &[],
            r#"{"error":{"type":"insufficient_quota","mess"#,
            Quota(None),
        ),
    ] {
        assert_eq!(
            ask(status, fields, body),
            expected,
            "{who} {status} {fields:?} {body}"
        );
    }
}

#[test]
fn retry_after_is_read_as_rfc_9110_says() {
    let after = |v| ("retry-after", v);
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    for (fields, expected) in [
        (&[][..], None),
        (&[after("7")], secs(7)),
        (&[after(" 7 ")], secs(7)),
        (&[after("1.5")], ms(1500)),
        (&[after("0")], secs(1)),
        (&[after("-3")], None),
        (&[after("NaN")], None),
        (&[after("inf")], None),
        (&[after("1e300")], None),
        (&[after("2.0000000009")], secs(2)),
        (&[after("99999999999999999999")], secs(86_400)),
        (&[after("soon")], None),
        (&[after("")], None),
        (&[("retry-after-ms", "2500"), after("60")], ms(2500)),
        (
            &[("retry-after-ms", "2500.7"), after("60")],
            Some(Duration::from_nanos(2_500_700_000)),
        ),
        (&[("retry-after-ms", "x"), after("60")], secs(60)),
        // all three HTTP-date forms, counted from the answer's own Date
        (&[date, after("Sun, 06 Nov 1994 08:50:07 GMT")], secs(30)),
        (&[date, after("Sunday, 06-Nov-94 08:50:07 GMT")], secs(30)),
        (&[date, after("Sun Nov  6 08:50:07 1994")], secs(30)),
        (&[date, after("Sun, 06 Nov 1994 08:00:00 GMT")], None), // past
        (&[after("Sun, 06 Nov 1994 08:50:07 GMT")], None),       // no Date to count from
        (
            &[("date", "junk"), after("Sun, 06 Nov 1994 08:50:07 GMT")],
            None,
        ),
        // nonsense falls to what comes next in order
        (
            &[
                after("-1"),
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "5"),
            ],
            secs(5),
        ),
    ] {
        assert_eq!(
            ask(429, fields, ""),
            Verdict::Limited(expected),
            "{fields:?}"
        );
    }
}

#[test]
fn an_error_inside_a_200_is_judged_like_the_status_it_should_have_had() {
    use Verdict::*;
    for (json, expected) in [
        (
            r#"{"error":{"message":"slow down","code":429}}"#,
            Limited(None),
        ),
        (
            r#"{"error":{"message":"slow down, try again in 5s","code":"429"}}"#,
            Limited(secs(5)),
        ),
        (
            r#"{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-day"}}"#,
            Quota(None),
        ),
        (
            r#"{"id":"gen-1","error":{"code":502,"message":"Provider returned error","metadata":{"retry_after_seconds":"3"}},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}"#,
            Crowded(secs(3)),
        ),
        (r#"{"error":{"code":401,"message":"no"}}"#, Rejected),
        (
            r#"{"error":{"code":402,"message":"Insufficient credits"}}"#,
            Quota(None),
        ),
        (r#"{"error":{"code":403,"message":"flagged"}}"#, Forbidden),
        (
            r#"{"error":{"code":400,"message":"no such parameter"}}"#,
            Pass,
        ),
        (r#"{"error":{"code":500}}"#, Trouble(None)),
        (
            r#"{"error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            Trouble(None),
        ),
        (r#"{"error":{"code":"rate_limit_exceeded"}}"#, Limited(None)),
        (r#"{"error":{"type":"insufficient_quota"}}"#, Quota(None)),
        (r#"{"error":{"code":"invalid_api_key"}}"#, Rejected),
        (
            r#"{"error":{"type":"invalid_request_error","code":null}}"#,
            Pass,
        ),
        (r#"{"error":{"code":"context_length_exceeded"}}"#, Pass),
        (r#"{"error":{"message":"something"}}"#, Trouble(None)),
        (r#"{"error":"something"}"#, Trouble(None)),
        (
            r#"{"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"}"#,
            Crowded(None),
        ),
        (
            r#"{"message":"ResourceExhausted: Worker local total request limit reached (32/32)","type":"internal_server_error","code":500}"#,
            Crowded(None),
        ),
        // no errors at all
        (r#"{"error":"","choices":[]}"#, Pass),
        (r#"{"error":false}"#, Pass),
        (r#"{"error":{}}"#, Pass),
        (
            r#"{"object":"response","error":null,"output":[{"content":[{"text":"Worker local total request limit reached"}]}]}"#,
            Pass,
        ),
        (
            r#"{"type":"message","content":[{"text":"OpenRouter says: Provider returned error"}]}"#,
            Pass,
        ),
        (r#"{"error":null,"choices":[]}"#, Pass),
        (
            r#"{"choices":[{"delta":{"content":"ResourceExhausted: Worker local"}}]}"#,
            Pass,
        ),
        (r#"{"data":[]}"#, Pass),
        ("[DONE]", Pass),
        ("", Pass),
        ("7", Pass),
        (r#"{"error":"#, Pass),
    ] {
        assert_eq!(judge_inside(json.as_bytes()), expected, "{json}");
    }
}

#[test]
fn no_junk_is_too_strange_and_every_rest_is_in_bounds() {
    let pieces: Vec<&[u8]> = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"error\"",
        "\"code\"",
        "429",
        "\"retryDelay\"",
        "\"34s\"",
        "\"metadata\"",
        "\"headers\"",
        "\"X-RateLimit-Reset\"",
        "\"1795478400000\"",
        "-1",
        "NaN",
        "99999999999999999999999999",
        "try again in ",
        "9999999999h",
        "1m",
        ".",
        "e9",
        "\"details\"",
        "2026-11-23T12:00:34Z",
        "2026-99-99T99:99:99+99:99",
        "ResourceExhausted",
        "per day",
        "\u{fffd}",
        "\"retry_after_seconds\"",
        "4294967296",
        "18446744073709551616",
        "Mon, 23 Nov 2026 12:00:00 GMT",
    ]
    .iter()
    .map(|s| s.as_bytes())
    .chain([&b"\xff\xfe"[..], b"\0"])
    .collect();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut text = |most: usize| -> Vec<u8> {
            let n = random(most);
            (0..n)
                .flat_map(|_| pieces[random(pieces.len())].to_vec())
                .collect()
        };
        let (body, value, date) = (text(30), text(4), text(2));
        let status = [400, 401, 402, 403, 429, 429, 429, 500, 503, 529][random(10)];
        let header = |name: &str| match name {
            "date" => Some(&date[..]),
            name if name.ends_with("remaining") || name.contains("remaining-") => Some(&b"0"[..]),
            _ if value.len() % 2 == 0 => Some(&value[..]),
            _ => None,
        };
        for verdict in [judge(status, header, &body), judge_inside(&body)] {
            if let Verdict::Limited(Some(rest))
            | Verdict::Quota(Some(rest))
            | Verdict::Crowded(Some(rest))
            | Verdict::Trouble(Some(rest)) = verdict
            {
                assert!((MIN_REST..=MAX_REST).contains(&rest), "{rest:?}");
            }
        }
    }
    // Deeper than any parser should go.
    let deep = "[".repeat(BODY_LIMIT);
    assert_eq!(
        judge(429, |_| None, deep.as_bytes()),
        Verdict::Limited(None)
    );
}

#[test]
fn a_word_is_found_wherever_it_stands() {
    let text = br#"{"erro":"error","choice":1,"choices":[{"x":"er\"error"}]}"#;
    for from in 0..text.len() {
        for to in from..=text.len() {
            let text = &text[from..to];
            let (choices, error) = (br#""choices""#, br#""error""#);
            let naive = |word: &[u8]| text.windows(word.len()).any(|w| w == word);
            assert_eq!(CHOICES.is_in(text), naive(choices), "{from}..{to}");
            assert_eq!(ERROR.is_in(text), naive(error), "{from}..{to}");
        }
    }
}
