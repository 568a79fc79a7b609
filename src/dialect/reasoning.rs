//! How to tell a model how much to think. Pure. It goes by the model's name, as there is no other way to know. What an
//! upstream refuses of it is learned and left out ([`super::adapt`]).

/// How much a client wants a model to think.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Wanted {
    /// Not at all.
    Off,
    /// As much as it usually does.
    Usual,
    /// A little.
    Low,
    /// More.
    Medium,
    /// Much.
    High,
}

impl Wanted {
    /// Reads an effort, in the words of all dialects.
    pub fn effort(word: Option<&str>) -> Wanted {
        match word {
            Some("low") => Wanted::Low,
            Some("medium") => Wanted::Medium,
            Some("high" | "xhigh" | "max") => Wanted::High,
            _ => Wanted::Usual,
        }
    }
}

/// Families whose templates have a switch, which vLLM, SGLang and NVIDIA NIM take with the request. It has two names; a
/// template ignores the one that it does not know.
const WITH_SWITCH: [&str; 10] = [
    "qwen3",
    "qwen-3",
    "glm-",
    "glm4",
    "glm5",
    "nemotron",
    "deepseek-v3.",
    "deepseek-v4",
    "kimi-k2.",
    "hunyuan",
];

/// Families that take `reasoning_effort`, and think at every effort.
const WITH_EFFORT: [&str; 5] = ["gpt-oss", "gpt-5", "o1", "o3", "o4-"];

/// What to write into a request.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Switch {
    /// Fields, with a comma before the first; "" for none.
    pub fields: &'static str,
    /// The model may think all the same: a small limit of output would leave no room for the answer.
    pub may_think: bool,
}

/// The switch for this model.
pub fn switch(model: &str, wanted: Wanted) -> Switch {
    let model = model.to_ascii_lowercase();
    let name = model.rsplit('/').next().unwrap_or_default();
    let has_switch = WITH_SWITCH.iter().any(|family| name.contains(family));
    let has_effort = WITH_EFFORT.iter().any(|family| name.starts_with(family));
    let fields = match wanted {
        Wanted::Off if has_switch => {
            ",\"chat_template_kwargs\":{\"enable_thinking\":false,\"thinking\":false}"
        }
        Wanted::Off | Wanted::Low if has_effort => ",\"reasoning_effort\":\"low\"",
        Wanted::Medium if has_effort => ",\"reasoning_effort\":\"medium\"",
        Wanted::High if has_effort => ",\"reasoning_effort\":\"high\"",
        _ => "",
    };
    Switch {
        fields,
        may_think: wanted == Wanted::Off && !has_switch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_told_in_its_own_words() {
        let kwargs = r#","chat_template_kwargs":{"enable_thinking":false,"thinking":false}"#;
        let low = r#","reasoning_effort":"low""#;
        for (model, wanted, fields, may_think) in [
            ("qwen/qwen3-32b", Wanted::Off, kwargs, false),
            ("z-ai/GLM-4.7", Wanted::Off, kwargs, false),
            (
                "nvidia/llama-3.3-nemotron-super-49b-v1.5",
                Wanted::Off,
                kwargs,
                false,
            ),
            ("openai/gpt-oss-120b", Wanted::Off, low, true),
            ("meta/llama-3.3-70b-instruct", Wanted::Off, "", true),
            ("meta/llama-3.3-70b-instruct", Wanted::High, "", false),
            ("gpt-5-mini", Wanted::Low, low, false),
            ("qwen3", Wanted::Usual, "", false),
        ] {
            assert_eq!(
                switch(model, wanted),
                Switch { fields, may_think },
                "{model}"
            );
        }
    }
}
