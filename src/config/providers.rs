//! The providers of the README: `alvus init` offers them, and they complete a target without a path.

use super::Target;

/// A provider, and the settings that it takes.
#[derive(Debug)]
pub struct Provider {
    /// Its name.
    pub name: &'static str,
    /// Its `TARGET_BASE_URL`.
    pub url: &'static str,
    /// Its `KEY_HEADER`; empty: the default.
    pub key_header: &'static str,
}

const fn provider(name: &'static str, url: &'static str) -> Provider {
    let key_header = "";
    Provider {
        name,
        url,
        key_header,
    }
}

/// In the order of the README's table; the first is the default.
pub static PROVIDERS: &[Provider] = &[
    provider("NVIDIA NIM", "https://integrate.api.nvidia.com/v1"),
    provider("OpenAI", "https://api.openai.com/v1"),
    provider("Groq", "https://api.groq.com/openai/v1"),
    provider("OpenRouter", "https://openrouter.ai/api/v1"),
    provider(
        "Gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
    ),
    provider("Z.ai", "https://api.z.ai/api/paas/v4"),
    provider("Mistral", "https://api.mistral.ai/v1"),
    provider("Cerebras", "https://api.cerebras.ai/v1"),
    Provider {
        key_header: "x-api-key",
        ..provider("Anthropic", "https://api.anthropic.com/v1")
    },
];

/// Adds the path that the provider needs to a target without one. Returns a warning if the path is, or may be, not the
/// one that is meant.
pub(super) fn complete(target: &mut Target) -> Option<String> {
    let origin = target.origin();
    if let Some(base) = target.base_path.strip_suffix("/chat/completions") {
        return Some(format!(
            "TARGET_BASE_URL ends in /chat/completions, which clients append themselves; did you mean {origin}{base}?"
        ));
    }
    if !target.base_path.is_empty() {
        return None;
    }
    let path = |p: &Provider| p.url.strip_prefix(&origin).filter(|p| p.starts_with('/'));
    match PROVIDERS.iter().find_map(path) {
        Some(path) => {
            target.base_path = path.to_owned();
            Some(format!(
                "TARGET_BASE_URL has no path; {target} is used, as this provider needs it"
            ))
        }
        None => Some(format!(
            "TARGET_BASE_URL has no path, so {origin}/chat/completions is asked; most providers want {origin}/v1"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_path_gets_that_of_a_known_provider_and_a_warning_otherwise() {
        for (url, taken, says) in [
            (
                "https://api.openai.com",
                "https://api.openai.com/v1",
                "is used",
            ),
            (
                "https://API.groq.com/",
                "https://api.groq.com/openai/v1",
                "is used",
            ),
            ("https://api.openai.com/v1", "https://api.openai.com/v1", ""),
            ("https://api.openai.com/v2", "https://api.openai.com/v2", ""),
            (
                "http://localhost:11434",
                "http://localhost:11434",
                "want http://localhost:11434/v1",
            ),
            (
                "https://api.openai.com.evil.example",
                "https://api.openai.com.evil.example",
                "most providers",
            ),
        ] {
            let mut target = Target::parse(url).expect(url);
            let said = complete(&mut target).unwrap_or_default();
            assert_eq!(target.to_string(), taken);
            assert!(
                said.contains(says) && said.is_empty() == says.is_empty(),
                "{said}"
            );
        }
    }
}
