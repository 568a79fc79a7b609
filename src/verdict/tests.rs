//! One line is one answer: its status, its header fields in `<…>`, its body, and after `=>` what it
//! means (times in milliseconds). `NOON` is a `Date` of 2026-11-23T12:00:00Z, epoch 1795435200.

use super::*;

const NOON: &str = "date: Mon, 23 Nov 2026 12:00:00 GMT";

fn show(verdict: Verdict) -> String {
    let with = |kind: &str, stated: Option<Duration>| match stated {
        Some(time) => format!("{kind} {}", time.as_millis()),
        None => kind.to_string(),
    };
    match verdict {
        Verdict::Limited(stated) => with("Limited", stated),
        Verdict::Overloaded(stated) => with("Overloaded", stated),
        Verdict::Trouble(stated) => with("Trouble", stated),
        Verdict::MaybeWorked(stated) => with("Failed", stated),
        Verdict::Refused { names_key: true } => "Refused key".into(),
        Verdict::Refused { names_key: false } => "Refused".into(),
        other => format!("{other:?}"),
    }
}

fn answer(line: &str) -> Verdict {
    let (status, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (fields, body) = match rest.strip_prefix('<') {
        Some(rest) => rest
            .split_once("> ")
            .unwrap_or((rest.trim_end_matches('>'), "")),
        None => ("", rest),
    };
    let fields = fields.replace("NOON", NOON);
    let fields: Vec<_> = fields
        .split("; ")
        .filter_map(|f| f.split_once(": "))
        .collect();
    let field = |name: &str| fields.iter().find(|(n, _)| *n == name);
    let header = |name: &str| field(name).map(|(_, value)| value.as_bytes());
    judge(status.parse().expect("a status"), header, body.as_bytes())
}

fn check(table: &str, judge: impl Fn(&str) -> Verdict) {
    let lines = table.lines().map(str::trim);
    let mut wrong = Vec::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with("//")) {
        let (given, expected) = line.rsplit_once("=>").expect("=>");
        let found = show(judge(given.trim_end()));
        if found != expected.trim() {
            wrong.push(format!("{line}\n    but found {found}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_provider_is_understood_as_its_documentation_says() {
    check(
        r#"
        // NVIDIA NIM
        429 {"status":429,"title":"Too Many Requests"} => Limited
        429 {"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"} => Overloaded
        500 {"message":"ResourceExhausted: Worker local total request limit reached (32/32)","type":"internal_server_error","code":500} => Overloaded
        503 <retry-after: 9> {"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"} => Overloaded 9000
        403 {"status":403,"title":"Forbidden","detail":"Authorization failed"} => Refused key
        404 {"status":404,"title":"Not Found","detail":"Function '12345678-b123-12a3-1221-123456789123': Not found for account 'Ab1Ez'"} => Refused
        400 {"status":400,"title":"Bad Request","detail":"Function id '12345678-b123-12a3-1221-123456789123': DEGRADED function cannot be invoked"} => Overloaded
        // OpenAI
        429 <retry-after-ms: 1500; retry-after: 2> {"error":{"code":"rate_limit_exceeded"}} => Limited 1500
        429 <x-ratelimit-remaining-requests: 0; x-ratelimit-reset-requests: 6m0s; x-ratelimit-remaining-tokens: 149984; x-ratelimit-reset-tokens: 12h> => Limited 360000
        429 <x-ratelimit-remaining-requests: 0; x-ratelimit-reset-requests: 12ms; x-ratelimit-remaining-tokens: 0; x-ratelimit-reset-tokens: 20s> => Limited 20000
        429 {"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 6m2.5s. Visit https://platform.openai.com","code":"rate_limit_exceeded"}} => Limited 362500
        429 {"error":{"message":"Rate limit reached for gpt-4 in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s. You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.","type":"requests","code":"rate_limit_exceeded"}} => Limited 20000
        429 {"error":{"message":"Rate limit reached for gpt-4 on requests per min (RPM): Limit 3, Used 3, Requested 1. You can increase your rate limit by adding a payment method","type":"requests","code":"rate_limit_exceeded"}} => Limited
        429 {"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}} => Quota
        429 <retry-after: 20> {"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}} => Limited 20000
        429 {"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 35064. The input or output tokens must be reduced in order to run successfully.","type":"tokens","code":"rate_limit_exceeded"}} => TooMuch
        429 {"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 25064. The input or output tokens must be reduced in order to run successfully.","type":"tokens","code":"rate_limit_exceeded"}} => Limited
        401 {"error":{"message":"Incorrect API key provided: sk-proj-***abcd. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","code":"invalid_api_key"}} => Refused key
        401 {"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.responses.write.","type":"invalid_request_error","param":null,"code":null}} => Refused
        401 {"error":{"message":"The OpenAI account associated with this API key has been deactivated."}} => Refused key
        404 {"error":{"message":"The model `gpt-9` does not exist or you do not have access to it.","type":"invalid_request_error","code":"model_not_found"}} => Pass
        // Azure, GitHub Models
        429 <x-ratelimit-remaining-tokens: 0; x-ratelimit-reset-tokens: 17> => Limited 17000
        429 <x-ratelimit-remaining-tokens: -1; x-ratelimit-reset-tokens: -1; retry-after: -1> => Limited
        429 {"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-02-01 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 2 seconds."}} => Limited 2000
        401 {"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}} => Refused key
        429 {"error":{"code":"RateLimitReached","message":"Rate limit of 15 per 60s exceeded for UserByModelByMinute. Please wait 27 seconds before retrying."}} => Limited 27000
        // Groq
        429 {"error":{"message":"Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` on tokens per minute (TPM): Limit 12000, Used 7174, Requested 7540. Please try again in 13.569999999s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing","type":"tokens","code":"rate_limit_exceeded"}} => Limited 13569
        429 <retry-after: 432> {"error":{"message":"Rate limit reached on requests per day (RPD): Limit 1000, Used 1000, Requested 1. Please try again in 7m12s."}} => Limited 432000
        429 {"error":{"message":"Rate limit reached for model `x` on tokens per day (TPD): Limit 100000, Used 99674, Requested 1234."}} => Quota
        413 <retry-after: 9> {"error":{"message":"Request too large … tokens per minute (TPM)","code":"rate_limit_exceeded"}} => Pass
        // OpenRouter
        429 <NOON> {"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795478400000"}}}} => Limited 43200000
        429 {"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"1795478400000"}}}} => Quota
        429 <NOON> {"error":{"message":"Rate limit exceeded: free-models-per-min","code":429,"metadata":{"headers":{"X-RateLimit-Reset":"1795435221000"}}}} => Limited 21000
        429 {"error":{"message":"Provider returned error","code":429,"metadata":{"retry_after_seconds":7,"raw":"x is temporarily rate-limited upstream"}}} => Overloaded 7000
        400 {"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"error\":{\"message\":\"no such tool\"}}"}}} => Pass
        402 {"error":{"message":"Insufficient credits","code":402}} => Refused
        402 {"error":{"message":"This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 30104.","code":402},"user_id":"u"} => TooMuch
        403 {"error":{"message":"Input was flagged","code":403}} => Refused
        403 {"error":{"message":"Key limit exceeded (daily limit).","code":403}} => Refused
        401 {"error":{"message":"User not found.","code":401}} => Refused key
        401 {"error":{"message":"No auth credentials found","code":401}} => Refused key
        // Gemini
        429 [{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34s"}]}}] => Limited 34000
        429 [{"error":{"code":429,"message":"You exceeded your current quota","status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]}]}}] => Limited
        429 {"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}} => Quota
        429 [{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"retryDelay":"34s"}]}}] => Quota
        429 [{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"retryDelay":"7200s"}]}}] => Limited 7200000
        429 {"error":{"code":429,"message":"Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-x\nPlease retry in 34s.","status":"RESOURCE_EXHAUSTED"}} => TooMuch
        429 {"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: generate_content_free_tier_requests, limit: 10, model: gemini-x\nPlease retry in 34.074824224s.","type":"upstream_error"}} => Limited 34074
        429 {"error":{"code":429,"message":"No capacity available for model gemini-x on the server","details":[{"reason":"MODEL_CAPACITY_EXHAUSTED"}]}} => Overloaded
        503 {"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}} => Overloaded
        400 [{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}] => Refused key
        400 {"error":{"code":400,"message":"API key expired. Please renew the API key.","status":"INVALID_ARGUMENT"}} => Refused key
        400 {"error":{"code":400,"message":"User location is not supported","status":"FAILED_PRECONDITION"}} => Pass
        401 {"error":{"code":401,"message":"Request had invalid authentication credentials. Expected OAuth 2 access token","status":"UNAUTHENTICATED"}} => Refused key
        // Anthropic
        429 <NOON; anthropic-ratelimit-requests-remaining: 0; anthropic-ratelimit-requests-reset: 2026-11-23T12:00:45Z; anthropic-ratelimit-tokens-remaining: 5; anthropic-ratelimit-tokens-reset: 2026-11-23T13:00:00Z> {"type":"error","error":{"type":"rate_limit_error"}} => Limited 45000
        529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}} => Overloaded
        529 => Trouble
        401 {"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}} => Refused key
        403 {"type":"error","error":{"type":"permission_error"}} => Refused
        400 {"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}} => Refused
        // Cerebras, SambaNova, Mistral, Together
        429 <x-ratelimit-remaining-requests-day: 0; x-ratelimit-reset-requests-day: 33011.382867> => Limited 33011382
        429 <x-ratelimit-remaining-requests-day: 9; x-ratelimit-reset-requests-day: 33011.3; x-ratelimit-remaining-tokens-minute: 0; x-ratelimit-reset-tokens-minute: 11.38> => Limited 11380
        429 <x-ratelimit-remaining-requests-day: 0; x-ratelimit-reset-requests-day: 4h17m> => Limited 15420000
        429 <x-ratelimit-remaining-requests-day: 0> => Quota
        429 <x-ratelimit-limit-req-minute: 60> {"message":"Rate limit exceeded"} => Limited
        429 <x-ratelimit-limit-req-minute: 0> {"message":"Rate limit exceeded"} => TooMuch
        429 <x-ratelimit-limit: 10; x-ratelimit-remaining: 0; x-ratelimit-reset: 1.25> => Limited 1250
        // Z.ai, Kimi, DeepSeek, DashScope, xAI, Hugging Face, opencode, Ollama, LiteLLM
        429 {"error":{"code":"1113","message":"Insufficient balance or no resource package. Please recharge."}} => Refused
        429 {"error":{"code":"1302","message":"High concurrency usage of this API, please reduce concurrency or contact customer service to increase limits"}} => Limited
        429 <NOON> {"error":{"code":"1308","message":"Usage limit reached for 5 hour. Your limit will reset at 2026-11-23 19:01:25"}} => Quota
        429 {"error":{"message":"The engine is currently overloaded, please try again later","type":"engine_overloaded_error"}} => Overloaded
        429 {"error":{"message":"Your account org-x reached max organization concurrency: 3, please try again after 1 seconds","type":"rate_limit_reached_error"}} => Limited 1000
        429 {"error":{"message":"Your account has insufficient balance. Please recharge to continue.","type":"rate_limit_reached"}} => Refused
        401 {"error":{"message":"Invalid Authentication","type":"invalid_authentication_error"}} => Refused key
        401 {"error":{"message":"Authentication Fails (no such user)","type":"authentication_error","code":"invalid_request_error"}} => Refused key
        503 {"error":{"message":"Service is too busy. We advise users to temporarily switch to alternative LLM API service providers."}} => Overloaded
        429 {"error":{"code":"insufficient_quota","message":"You exceeded your current quota, please check your plan and billing details. For details, see: https://provider.example/error-code#token-limit","type":"insufficient_quota"}} => Quota
        400 {"code":"Arrearage","message":"Access denied, please make sure your account is in good standing."} => Refused
        400 {"code":"Client specified an invalid argument","error":"Incorrect API key provided: gs***tF."} => Refused key
        429 {"code":"x","error":"Your team t has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit."} => Refused
        503 {"error":"Model x/y is currently loading","estimated_time":20.5} => Overloaded 20500
        429 {"type":"error","error":{"type":"GoUsageLimitError","message":"5-hour usage limit reached. Resets in 2hr 57min."}} => Limited 10620000
        401 {"type":"error","error":{"type":"CreditsError","message":"No payment method. Add a payment method here: https://provider.example/billing"}} => Refused
        429 {"error":"you have reached your session usage limit, please wait or upgrade to continue"} => Quota
        503 {"error":{"message":"当前分组上游负载已饱和,请稍后再试 No available channel for model x","type":"new_api_error"}} => Overloaded
        500 {"error":{"message":"litellm.RateLimitError: slow down","type":"throttling_error","code":"429"}} => Limited
        400 {"error":{"message":"Budget has been exceeded! Current cost: 3, Max budget: 2","type":"budget_exceeded"}} => Refused
        403 {"message":"API rate limit exceeded for user ID 1."} => Limited
        403 <retry-after: 60> {"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again."} => Limited 60000
        422 {"error":{"code":"expired_api_key","message":"no"}} => Refused key
        400 <NOON> {"error":{"message":"You have reached your specified API usage limits. You will regain access on 2026-11-24 at 00:00 UTC.","type":"invalid_request_error"}} => Limited 43200000
        400 {"error":{"code":"AllocationQuota.FreeTierOnly","message":"The free tier of the model has been exhausted. If you wish to continue, disable the \"use free tier only\" mode."}} => Quota
        400 {"error":{"code":"organization_restricted","message":"Organization has been restricted. Please reach out to support."}} => Refused
        412 {"error":{"code":"PRECONDITION_FAILED","message":"Account x is suspended, possibly due to reaching the monthly spending limit"}} => Refused
        500 {"error":{"message":"insufficient balance (1008)","type":"api_error"}} => Refused
        429 {"error":{"code":"SetLimitExceeded","message":"Your account [1] has reached the set inference limit for the [m] model, and the model service has been paused.","type":"TooManyRequests"}} => Quota
        429 {"error":{"message":"This request would exceed the rate limit for your organization (o) of 30,000 input tokens per minute. Please reduce the prompt length or the maximum tokens requested, or try again later."}} => Limited
        429 {"error":{"message":"Extra usage is required for long context requests.","type":"rate_limit_error"}} => Refused
        429 {"error":{"message":"Model busy, retry later"}} => Overloaded
        429 {"error":{"message":"当前分组上游负载已饱和，请稍后再试"}} => Overloaded
        429 {"error":{"message":"Limit 7000, Used 0, Requested ~12903. Please try again in 50.5s."}} => TooMuch
        503 {"error":{"message":"Loading model","code":503}} => Overloaded
        // whoever
        401 => Refused
        401 {"message":"Unauthorized"} => Refused
        500 => Failed
        502 bad gateway => Failed
        503 <retry-after: 30> => Trouble 30000
        504 => Failed
        524 error code: 524 => Failed
        520 error code: 520 => Trouble
        522 error code: 522 => Trouble
        525 error code: 525 => Trouble
        530 error code: 1033 => Trouble
        425 => Trouble
        498 => Trouble
        408 => Trouble
        408 {"error":{"message":"it took too long"}} => Failed
        501 => Pass
        200 => Pass
        307 => Pass
        // a body cut short
        429 {"error":{"type":"insufficient_quota","mess => Quota
        "#,
        answer,
    );
}

#[test]
fn answers_seen_in_public_get_the_verdict_beside_them() {
    let lines = include_str!("seen.txt").lines();
    let cases: Vec<&str> = lines
        .filter(|line| line.contains(" => ") && !line.starts_with('#'))
        .collect();
    let mut wrong = Vec::new();
    for line in &cases {
        let (given, expected) = line.rsplit_once(" => ").expect("=>");
        let found = show(match given.strip_prefix("200 ") {
            Some(json) => judge_inside(json.as_bytes()),
            None => answer(given),
        });
        if !expected.split(" / ").any(|one| one == found) {
            wrong.push(format!("{line}\n    but found {found}"));
        }
    }
    let (wrong_ones, all) = (wrong.len(), cases.len());
    assert!(
        wrong.is_empty(),
        "\n{}\n{wrong_ones} of {all}",
        wrong.join("\n")
    );
}

#[test]
fn a_gateway_s_words_around_an_error_change_nothing() {
    check(
        r#"
        400 {"error":{"message":"litellm.BadRequestError: AnthropicException - Your credit balance is too low to access the Anthropic API."}} => Refused
        400 {"error":{"message":"litellm.BadRequestError: GeminiException - {\"error\":{\"code\":400,\"message\":\"API key not valid. Please pass a valid API key.\"}}. Received Model Group=g"}} => Refused key
        412 {"error":{"message":"Flux.APIError: APIError: Fireworks_aiException - {\"error\":{\"message\":\"Account x is suspended, possibly due to reaching the monthly spending limit\"}}"}} => Refused
        429 {"error":{"message":"litellm.RateLimitError: RateLimitError: OpenAIException - Rate limit reached on requests per min (RPM): Limit 3. Please try again in 20s."}} => Limited 20000
        500 {"error":{"message":"litellm.RateLimitError: RateLimitError: OpenAIException - slow down"}} => Limited
        400 {"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - This model's maximum context length is 8192 tokens."}} => Pass
        400 {"error":{"message":"Validation error: messages[0]: \"Invalid API key\" is too short"}} => Pass
        400 {"message":{"error":"Invalid API key"}} => Refused key
        // names and JSON of the request's own
        400 {"error":{"message":"rate_limit_error: Extra inputs are not permitted"}} => Pass
        400 {"error":{"message":"{\"type\":\"object\",\"title\":\"Invalid API key\"} is not valid under any of the schemas listed in the 'anyOf' keyword"}} => Pass
        400 {"error":{"message":"ValidationError: {\"type\":\"object\",\"title\":\"RateLimit\"}"}} => Pass
        400 {"error":"json: unknown field \"rate_limit\""} => Pass
        422 {"code":"x","error":"messages[0].role: unknown variant `insufficient balance`, expected one of `system`, `user`"} => Pass
        "#,
        answer,
    );
}

#[test]
fn a_limit_that_a_server_behind_met_is_a_limit() {
    check(
        r#"
        500 {"error":{"message":"Request failed with status code 429"}} => Limited
        502 {"error":{"message":"upstream error: HTTP 429 Too Many Requests, retry after 7s"}} => Limited 7000
        500 {"error":{"message":"Request failed with status code 500"}} => Failed
        400 {"error":{"message":"tool error: Request failed with status code 429"}} => Pass
        500 {"error":{"message":"error parsing tool call: raw='{\"content\":\"if HTTP 429 then retry\"}', err=invalid character"}} => Failed
        500 litellm.RateLimitError: slow down => Limited
        "#,
        answer,
    );
}

#[test]
fn a_limit_that_was_reached_is_no_refusal() {
    check(
        r#"
        403 {"error":{"message":"You have exceeded your concurrency limit of 3","type":"permission_error"}} => Limited
        403 {"message":"You've hit your request limit, try again in 20s"} => Limited 20000
        403 {"error":{"message":"You have reached the context limit of your plan"}} => Refused
        403 {"error":{"message":"You do not have access to this model"}} => Refused
        400 {"error":{"message":"You've reached your concurrent request limit."}} => Limited
        400 {"error":{"message":"Invalid input 'You've reached your concurrent request limit.'"}} => Pass
        "#,
        answer,
    );
}

#[test]
fn a_reset_counts_where_nothing_is_said_to_remain() {
    check(
        r#"
        429 <x-ratelimit-remaining-tokens: 0; x-ratelimit-reset-tokens: 12s; x-ratelimit-reset-requests-day: 60000> => Limited 12000
        429 <x-rate-limit-reset-tokens: 55> => Limited 55000
        429 <x-ratelimit-reset-requests: 9s; x-ratelimit-remaining-requests: 1> => Limited
        "#,
        answer,
    );
}

#[test]
fn what_is_configured_is_no_wait() {
    check(
        r#"
        503 {"error":{"message":"dropped after exceeding maxWaitMs (15000ms) (reset after 3s)"}} => Trouble 3000
        503 {"error":{"message":"the maximum wait of 60 seconds is over"}} => Trouble
        "#,
        answer,
    );
}

#[test]
fn who_can_afford_nothing_has_no_money() {
    check(
        r#"
        402 {"error":{"message":"This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, but can only afford 0."}} => Refused
        "#,
        answer,
    );
}

#[test]
fn a_key_is_named_in_chinese_too() {
    check(
        r#"
        401 {"error":{"message":"无效的 API Key"}} => Refused key
        401 {"error":{"message":"API Key 已过期"}} => Refused key
        401 {"code":401,"msg":"密钥不存在"} => Refused key
        401 {"error":{"message":"该令牌状态不可用"}} => Refused key
        403 {"error":{"message":"该令牌额度已用尽"}} => Refused
        403 {"error":{"message":"该令牌无权访问模型 gpt-4o"}} => Refused
        401 {"error":{"message":"无效的API Key"}} => Refused key
        403 {"error":{"message":"该令牌无权使用模型：不存在的模型 (request id: r)"}} => Refused
        400 {"error":{"message":"参数错误: 令牌无效"}} => Pass
        400 {"error":{"message":"参数 api_key 不存在"}} => Pass
        400 {"error":"不支持的内容：“密钥无效，请重试”"} => Pass
        404 {"error":{"message":"API Key 无权访问该模型或模型不存在"}} => Pass
        "#,
        answer,
    );
}

#[test]
fn an_edge_that_cannot_reach_the_provider_knows_no_model() {
    check(
        r#"
        521 {"detail":"the origin may be overloaded"} => Trouble
        530 {"title":"Error 530","detail":"the origin is overloaded","retry_after":60} => Trouble 60000
        522 {"error":{"code":522,"message":"Provider returned error"}} => Overloaded
        524 {"detail":"the origin may be overloaded"} => Failed
        529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}} => Overloaded
        "#,
        answer,
    );
}

#[test]
fn a_model_that_the_plan_lacks_is_there_for_another_account() {
    check(
        r#"
        400 {"error":{"message":"no endpoints available for this model under your current plan and policies","code":"no_available_model_endpoints"}} => Refused
        400 {"error":{"message":"Model x is not enabled for your organization"}} => Refused
        404 {"error":{"message":"The model x is not found under your subscription"}} => Refused
        400 {"error":{"message":"max_tokens is too large for this model"}} => Pass
        400 {"error":{"message":"\"a plan for your team plan\" is too long"}} => Pass
        "#,
        answer,
    );
}

#[test]
fn a_web_page_is_nobodys_word_about_a_key() {
    check(
        r#"
        403 <content-type: text/html; charset=UTF-8; cf-mitigated: challenge> <!DOCTYPE html><html><head><title>Just a moment...</title> => Trouble
        403 <cf-mitigated: challenge> => Trouble
        401 <content-type: Text/HTML> <html>Please log in => Trouble
        429 <content-type: text/html> <html>Your API key is invalid => Trouble
        400 <> <!doctype html><html>Bad Request => Trouble
        503 <content-type: text/html; retry-after: 30> <html> => Trouble 30000
        502 <content-type: text/html> <html><h1>502 Bad Gateway => Trouble
        504 <content-type: text/html> <html><h1>504 Gateway Time-out => Failed
        524 <content-type: text/html> <html>A timeout occurred => Failed
        404 <content-type: text/html> <html><h1>404 Not Found => Nowhere
        413 <content-type: text/html> <html><h1>413 Request Entity Too Large => Pass
        // no pages
        401 <content-type: application/json> <html> => Refused
        401 <content-type: text/html> {"error":{"message":"Invalid API key"}} => Refused key
        200 <content-type: text/html> <html> => Pass
        "#,
        answer,
    );
}

#[test]
fn answers_that_only_look_like_a_refusal_pass() {
    check(
        r#"
        400 {"error":{"message":"Unknown parameter: 'api_key'","type":"invalid_request_error","param":"api_key"}} => Pass
        400 {"error":{"message":"Invalid value for api_key: must be a string","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"Unrecognized request argument supplied: api_key","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"The field api_key is not a valid parameter","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"Invalid prompt: \"Incorrect API key provided\" was flagged","code":"content_policy"}} => Pass
        400 {"error":{"message":"'invalid api key' is no valid tool name","code":"invalid_tool"}} => Pass
        400 {"error":{"message":"messages.3: the text \"You exceeded your quota per day, insufficient balance, overloaded\" is too long","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"Invalid token 'api' at position 3 of the JSON","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"tools[0].parameters.error: invalid schema","code":"invalid_function_parameters"}} => Pass
        400 {"error":{"message":"per day billing daily"}} => Pass
        400 {"error":{"code":"invalid_request_error","input":"API_KEY_INVALID","message":"no"}} => Pass
        422 {"detail":[{"loc":["body","api_key"],"msg":"extra fields not permitted","input":{"message":"Invalid API key"}}]} => Pass
        400 {"error":{"message":"Your prompt asks to recharge the account, insufficient balance","type":"invalid_request_error"}} => Pass
        400 {"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. Please reduce the length of the messages."}} => Pass
        400 {"error":{"message":"Prompt exceeded the maximum tokens of your quota","code":"context_length_exceeded"}} => Pass
        400 {"error":{"message":"Invalid prompt 'quota exceeded, usage limit reached'"}} => Pass
        422 {"detail":[{"input":"429","loc":["body","metadata","quota"],"msg":"Extra inputs are not permitted: insufficient balance of fields","type":"extra_forbidden"}]} => Pass
        404 {"error":{"message":"No endpoints found that support tool use","code":404}} => Pass
        404 {"detail":"Not Found"} => Pass
        404 => Pass
        422 => Pass
        // a key's scope, region and models are not the key
        403 {"error":{"message":"Your API key does not have permission to use model x"}} => Refused
        403 {"error":{"message":"This token is not allowed from your region"}} => Refused
        401 {"error":{"message":"API key is disabled for this model"}} => Refused
        401 {"error":{"message":"Invalid model for this API key"}} => Refused
        // waits that are none, and limits that a smaller request does not meet
        429 {"error":{"message":"Rate limit of 15 per 60s exceeded"}} => Limited
        429 {"error":{"message":"Limit 50, remaining limit: 0"}} => Limited
        429 {"error":{"message":"Please reduce the number of requests or tokens you send"}} => Limited
        429 {"error":{"message":"slow down","limit":10,"remaining":0}} => Limited
        429 {"error":{"message":"the token bucket's capacity is used up"}} => Limited
        429 {"error":{"message":"Add 10 credits to your balance for more"}} => Limited
        "#,
        answer,
    );
}

#[test]
fn retry_after_is_read_as_rfc_9110_says() {
    check(
        r#"
        429 => Limited
        429 <retry-after: 7> => Limited 7000
        429 <retry-after:  7 > => Limited 7000
        429 <retry-after: 1.5> => Limited 1500
        429 <retry-after: 0> => Limited 1000
        429 <retry-after: -3> => Limited
        429 <retry-after: NaN> => Limited
        429 <retry-after: inf> => Limited
        429 <retry-after: 1e300> => Limited
        429 <retry-after: 99999999999999999999> => Limited
        429 <retry-after: 999999> => Limited 86400000
        429 <NOON; retry-after: 1795435234> => Limited 34000
        429 <retry-after: soon> => Limited
        429 <retry-after: 20s> => Limited 20000
        429 <retry-after-ms: 2500; retry-after: 60> => Limited 2500
        429 <retry-after-ms: x; retry-after: 60> => Limited 60000
        // all three HTTP-date forms, counted from the answer's own Date
        429 <date: Sun, 06 Nov 1994 08:49:37 GMT; retry-after: Sun, 06 Nov 1994 08:50:07 GMT> => Limited 30000
        429 <date: Sun, 06 Nov 1994 08:49:37 GMT; retry-after: Sunday, 06-Nov-94 08:50:07 GMT> => Limited 30000
        429 <date: Sun, 06 Nov 1994 08:49:37 GMT; retry-after: Sun Nov  6 08:50:07 1994> => Limited 30000
        429 <date: Sun, 06 Nov 1994 08:49:37 GMT; retry-after: Sun, 06 Nov 1994 08:00:00 GMT> => Limited
        429 <retry-after: Sun, 06 Nov 1994 08:50:07 GMT> => Limited
        429 <date: junk; retry-after: Sun, 06 Nov 1994 08:50:07 GMT> => Limited
        // nonsense falls to what comes next in order
        429 <retry-after: -1; x-ratelimit-remaining: 0; x-ratelimit-reset: 5> => Limited 5000
        429 <x-ratelimit-remaining: 0; x-ratelimit-reset: 5> {"error":{"message":"try again in 3s"}} => Limited 3000
        "#,
        answer,
    );
}

#[test]
fn an_error_inside_a_200_is_judged_like_the_status_it_should_have_had() {
    check(
        r#"
        {"error":{"message":"slow down","code":429}} => Limited
        {"error":{"message":"slow down, try again in 5s","code":"429"}} => Limited 5000
        {"error":{"code":429,"message":"Rate limit exceeded: free-models-per-day"}} => Quota
        {"id":"gen-1","error":{"code":502,"message":"Provider returned error","metadata":{"retry_after_seconds":"3"}},"choices":[{"delta":{"content":""},"finish_reason":"error"}]} => Overloaded 3000
        {"error":{"code":401,"message":"no"}} => Refused
        {"error":{"code":402,"message":"Insufficient credits"}} => Refused
        {"error":{"code":403,"message":"flagged"}} => Refused
        {"error":{"code":400,"message":"no such parameter"}} => Pass
        {"error":{"code":500}} => Failed
        {"error":{"code":1302,"message":"Rate limit reached"}} => Limited
        {"error":{"code":20041,"message":"who knows"}} => Trouble
        {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}} => Overloaded
        {"type":"error","code":"rate_limit_exceeded","message":"Please try again in 1.5s"} => Limited 1500
        {"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"try again in 9s"},"output":[]}} => Limited 9000
        {"error":{"code":"rate_limit_exceeded"}} => Limited
        {"error":{"type":"insufficient_quota"}} => Quota
        {"error":{"code":"invalid_api_key"}} => Refused key
        {"error":{"type":"authentication_error","message":"no"}} => Refused
        {"error":{"type":"invalid_request_error","code":null}} => Pass
        {"error":{"code":"context_length_exceeded"}} => Pass
        {"error":{"message":"something"}} => Trouble
        {"error":"something"} => Trouble
        {"error":"Rate limit exceeded","code":"slow"} => Limited
        {"errors":[{"message":"Authentication failed","code":10000}],"success":false} => Refused key
        {"base_resp":{"status_code":1002,"status_msg":"rate limit"},"choices":null} => Limited
        {"detail":"ResourceExhausted: Worker local total request limit reached (32/32)"} => Overloaded
        {"message":"ResourceExhausted: Worker local total request limit reached (32/32)","type":"internal_server_error","code":500} => Overloaded
        {"status":429,"title":"Too Many Requests"} => Limited
        {"object":"error","message":"unwell","code":503} => Trouble
        {"choices":[{"error":{"code":502,"message":"x"},"message":{"content":null},"finish_reason":"stop"}]} => Failed
        {"choices":[{"delta":{"content":""},"finish_reason":"error"}]} => Trouble
        // no errors at all
        {"error":"","choices":[]} => Pass
        {"error":false} => Pass
        {"error":{}} => Pass
        {"error":{"message":"","type":"","param":"","code":null},"choices":[{"message":{"content":"fine"}}]} => Pass
        {"error":{"code":0,"message":""},"choices":[{"delta":{"content":"fine"}}]} => Pass
        {"error":[],"choices":[{"message":{"content":"fine"}}]} => Pass
        {"error":0,"choices":[{"message":{"content":"fine"}}]} => Pass
        {"error":{"code":0,"message":"success"},"id":"x"} => Pass
        {"error":{"code":500,"message":"late"},"choices":[{"message":{"content":"whole words"}}]} => Pass
        {"error":{"code":500},"output":[{"type":"function_call","name":"f"}]} => Pass
        {"error":{"code":500},"choices":[{"message":{"tool_calls":[{"id":"1"}]}}]} => Pass
        {"object":"response","error":null,"output":[{"content":[{"text":"Worker local total request limit reached"}]}]} => Pass
        {"type":"message","content":[{"text":"OpenRouter says: Provider returned error"}]} => Pass
        {"choices":[{"delta":{"content":"ResourceExhausted: Worker local"}}]} => Pass
        {"message":"overloading is what operators do","id":"x"} => Pass
        {"error":{"code":500},"response":"words of another API"} => Pass
        {"message":"cancelled","id":"x","status":"cancelled"} => Pass
        {"data":[]} => Pass
        [DONE] => Pass
        7 => Pass
        {"error": => Pass
        "#,
        |json| judge_inside(json.as_bytes()),
    );
}

#[test]
fn an_event_that_only_opens_a_stream_tells_nothing_yet() {
    for quiet in [
        "{}",
        "",
        "[DONE]",
        r#"{"type":"ping"}"#,
        r#"{"type":"message_start","message":{"role":"assistant","content":[]}}"#,
        r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
        r#"{"type":"response.created","response":{"status":"queued","error":null,"output":[]}}"#,
        r#"{"type":"response.in_progress","response":{"output":[]}}"#,
        r#"{"type":"response.created","response":{"output":[],"reasoning":{"summary":"auto"},"text":{"format":{"type":"text"}}}}"#,
        r#"{"type":"response.output_item.added","item":{"type":"message","content":[]}}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":null,"reasoning":""}}]}"#,
        r#"{"choices":[],"prompt_filter_results":[{"index":0}]}"#,
        r#"{"choices":[],"usage":{"total_tokens":3}}"#,
    ] {
        assert_eq!(judge_event(quiet.as_bytes()), None, "{quiet}");
    }
    for telling in [
        r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":{}}}"#,
        r#"{"type":"response.output_item.added","item":{"type":"function_call","name":"f"}}"#,
        r#"{"type":"response.output_text.delta","delta":"x"}"#,
        r#"{"type":"response.completed","response":{"output":[]}}"#,
        r#"{"choices":[{"delta":{"content":" "}}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"text":"x"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"x"}]}}]}"#,
        "plain text",
    ] {
        assert_eq!(
            judge_event(telling.as_bytes()),
            Some(Verdict::Pass),
            "{telling}"
        );
    }
}

#[test]
fn a_response_that_fails_is_judged_whatever_it_repeats_of_what_was_asked() {
    for length in [10, 2_000, 40_000] {
        let text = "x".repeat(length);
        let event = |kind: &str, error: &str| {
            format!(
                r#"{{"type":"response.{kind}","response":{{"instructions":"{text}","reasoning":{{"summary":"auto"}},"error":{error},"output":[]}}}}"#
            )
        };
        let limit = r#"{"code":"rate_limit_exceeded","message":"try again in 7s"}"#;
        let found = judge_event(event("failed", limit).as_bytes());
        assert_eq!(
            found,
            Some(Verdict::Limited(Some(Duration::from_secs(7)))),
            "{length}"
        );
        assert_eq!(
            judge_event(event("created", "null").as_bytes()),
            None,
            "{length}"
        );
    }
}

#[test]
fn a_document_without_anything_in_it_is_empty_only_where_it_should_be_a_chats_answer() {
    for (json, empty) in [
        (" \n ", true),
        (r#"{"id":"c","choices":[]}"#, true),
        (
            r#"{"choices":[{"message":{"role":"assistant","content":null},"finish_reason":null}]}"#,
            true,
        ),
        (
            r#"{"choices":[{"message":{"content":""},"finish_reason":"stop"}]}"#,
            false,
        ),
        (
            r#"{"choices":[{"message":{"content":"x"},"finish_reason":null}]}"#,
            false,
        ),
        ("{}", false),
        (r#"{"object":"list","data":[]}"#, false),
    ] {
        assert_eq!(judge_document(json.as_bytes()).is_none(), empty, "{json}");
    }
}

#[test]
fn no_junk_is_too_strange_and_every_rest_is_in_bounds() {
    let pieces = "{ } [ ] : , \"error\" \"code\" 429 \"retryDelay\" \"34s\" \"metadata\" \"headers\" -1 NaN . e9 1m \
        \"X-RateLimit-Reset\" \"1795478400000\" 99999999999999999999999999 9999999999h \"details\" 4294967296 \
        2026-11-23T12:00:34Z 2026-99-99T99:99:99+99:99 ResourceExhausted 18446744073709551616 \u{fffd} 秒 后重试 \
        \"retry_after_ms\" try·again·in· wait· Limit· Requested· invalid·API·key \"message\" · ' µs 1.7e300 and·";
    let pieces: Vec<String> = pieces
        .split_whitespace()
        .map(|p| p.replace('·', " "))
        .collect();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut text = |most: usize| -> String {
            (0..random(most))
                .map(|_| pieces[random(pieces.len())].as_str())
                .collect()
        };
        let (body, value, date) = (text(30), text(4), text(2));
        let status = [400, 401, 402, 403, 404, 429, 429, 429, 500, 503, 529][random(11)];
        let header = |name: &str| match name {
            "date" => Some(date.as_bytes()),
            name if name.contains("remaining") => Some(&b"0"[..]),
            _ if value.len() % 2 == 0 => Some(value.as_bytes()),
            _ => None,
        };
        for verdict in [
            judge(status, header, body.as_bytes()),
            judge_inside(body.as_bytes()),
        ] {
            if let Verdict::Limited(Some(rest))
            | Verdict::Overloaded(Some(rest))
            | Verdict::Trouble(Some(rest))
            | Verdict::MaybeWorked(Some(rest)) = verdict
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
