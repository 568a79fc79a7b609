//! Models by name: `MODEL_MAP`, the model in a request's body, and the list of models. Pure; for all dialects.

use alvus_scan::Fields;

use super::json::{Json, Quoted, Str, put};

/// What is wrong with a `MODEL_MAP`, in the operator's words.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// `MODEL_MAP`: which models to ask for a client's name.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct ModelMap(Vec<Rule>);

#[derive(Debug, PartialEq, Eq, Clone)]
struct Rule {
    /// The name, or its beginning if `is_beginning`.
    name: String,
    is_beginning: bool,
    /// The model to ask, and then its stand-ins.
    models: Vec<String>,
}

impl Rule {
    /// Reads `NAME=MODEL`, or `NAME*=MODEL|STAND-IN`.
    fn parse(rule: &str) -> Result<Rule, Malformed> {
        let Some((name, models)) = rule.split_once('=') else {
            return Err(Malformed(format!(
                "{rule:?} has no \"=\"; expected NAME=MODEL, or NAME*=MODEL|STAND-IN"
            )));
        };
        let name = name.trim();
        let (beginning, is_beginning) = match name.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (name, false),
        };
        if name.is_empty() {
            return Err(Malformed(format!("{rule:?} has no name before its \"=\"")));
        }
        if beginning.contains('*') {
            return Err(Malformed(format!(
                "{name:?}: a \"*\" may only be the last character of a name"
            )));
        }
        let strange = |c: char| c.is_whitespace() || "*=".contains(c);
        let models = models.split('|').map(str::trim);
        if let Some(model) = models.clone().find(|m| m.is_empty() || m.contains(strange)) {
            return Err(Malformed(format!(
                "{rule:?}: {model:?} is not a model's name"
            )));
        }
        Ok(Rule {
            name: beginning.to_owned(),
            is_beginning,
            models: models.map(str::to_owned).collect(),
        })
    }

    /// Whether no name gets past this rule to a later one.
    fn hides(&self, later: &Rule) -> bool {
        self.takes(&later.name) && (self.is_beginning || !later.is_beginning)
    }

    fn takes(&self, asked: &str) -> bool {
        match self.is_beginning {
            true => asked.starts_with(&self.name),
            false => asked == self.name,
        }
    }
}

impl ModelMap {
    /// Reads `claude-haiku*=a/b, claude-*=c/d|e/f`. The first rule that matches a name counts.
    ///
    /// # Errors
    /// When a rule has another form, or is never reached.
    pub fn parse(text: &str) -> Result<ModelMap, Malformed> {
        let mut rules: Vec<Rule> = Vec::new();
        let texts = text.split(',').map(str::trim);
        for text in texts.filter(|text| !text.is_empty()) {
            let rule = Rule::parse(text)?;
            if let Some(earlier) = rules.iter().find(|earlier| earlier.hides(&rule)) {
                let star = if earlier.is_beginning { "*" } else { "" };
                let earlier = &earlier.name;
                return Err(Malformed(format!(
                    "{text:?} is never reached: \"{earlier}{star}\" before it matches all of its names"
                )));
            }
            rules.push(rule);
        }
        Ok(ModelMap(rules))
    }

    /// The models to ask for this one, the first choice first. Empty if no rule matches: then it is asked for as it is.
    pub fn models(&self, asked: &str) -> &[String] {
        let rule = self.0.iter().find(|rule| rule.takes(asked));
        rule.map_or(&[], |rule| &rule.models)
    }

    /// The names that clients may use, without `*`. `claude-` of `claude-*` is not a name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.0.iter().map(|rule| &*rule.name);
        names.filter(|name| name.ends_with(|c: char| !c.is_ascii_punctuation()))
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a refusal says that there is no such model.
pub fn is_unknown(status: u16, words: &[u8]) -> bool {
    const SAID: [&str; 7] = [
        "not found",
        "not exist",
        "not_found",
        "invalid model",
        "unknown model",
        "no such model",
        "not a valid model",
    ];
    let words = String::from_utf8_lossy(words).to_ascii_lowercase();
    let said = || words.contains("model") && SAID.iter().any(|said| words.contains(said));
    status == 404 || (status == 400 && said())
}

/// Where a request's body names its model, quotes included; `None`: it names none. Of several the last counts, as most
/// upstreams' parsers have it.
pub fn place_of_model(body: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut fields = Fields::of(body);
    let is_model = |(name, _): &(&[u8], &[u8])| {
        let name = std::str::from_utf8(&name[1..name.len() - 1]);
        name.is_ok_and(|name| Str::of_raw(name).is("model"))
    };
    let (_, model) = fields.by_ref().filter(is_model).last()?;
    let start = model.as_ptr() as usize - body.as_ptr() as usize;
    fields.whole.then_some(start..start + model.len())
}

/// The most models of an upstream that are listed; the largest list today has some hundred.
const MOST: usize = 4096;

/// The list of models in Anthropic's shape: these names, and the ids in the upstream's list.
pub fn list<'a>(names: impl Iterator<Item = &'a str>, upstream: Option<&'a [u8]>) -> Vec<u8> {
    let data = upstream
        .and_then(Json::parse)
        .and_then(|list| list.get("data"));
    let ids = Json::items_of(data).filter_map(|model| Some(model.get("id")?.string()?.plain()));
    let ids = ids.take(MOST);
    let mut all: Vec<std::borrow::Cow<'_, str>> = Vec::new();
    for id in names.map(Into::into).chain(ids) {
        if !all.contains(&id) {
            all.push(id);
        }
    }
    let mut out = b"{\"data\":[".to_vec();
    for (at, id) in all.iter().enumerate() {
        put!(
            &mut out,
            if at == 0 { "" } else { "," },
            "{\"type\":\"model\",\"id\":",
            Quoted(id)
        );
        put!(
            &mut out,
            ",\"display_name\":",
            Quoted(id),
            ",\"created_at\":\"1970-01-01T00:00:00Z\"}"
        );
    }
    put!(&mut out, "],\"has_more\":false");
    for (name, id) in [("first_id", all.first()), ("last_id", all.last())] {
        put!(&mut out, ",\"", name, "\":");
        match id {
            Some(id) => put!(&mut out, Quoted(id)),
            None => put!(&mut out, "null"),
        }
    }
    put!(&mut out, "}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_takes_a_name_counts() {
        let map =
            ModelMap::parse("claude-haiku*=a/b, claude-*=c/d|e/f ,fast=g/h | i/j,").expect("a map");
        for (asked, expected) in [
            ("claude-haiku-4-5", &["a/b"][..]),
            ("claude-haiku", &["a/b"]),
            ("claude-sonnet-5", &["c/d", "e/f"]),
            ("fast", &["g/h", "i/j"]),
            ("faster", &[]),
            ("", &[]),
        ] {
            assert_eq!(map.models(asked), expected, "{asked}");
        }
        assert_eq!(map.names().collect::<Vec<_>>(), ["claude-haiku", "fast"]);
        let all = ModelMap::parse("*=x").expect("a map");
        assert_eq!(
            (all.models("any"), all.names().count()),
            (&["x".to_string()][..], 0)
        );
        assert!(ModelMap::parse(" ").expect("none").is_empty());
    }

    #[test]
    fn bad_maps_are_told_in_the_operators_words() {
        for (text, expected) in [
            (
                "claude",
                r#""claude" has no "="; expected NAME=MODEL, or NAME*=MODEL|STAND-IN"#,
            ),
            ("=a/b", r#""=a/b" has no name before its "=""#),
            ("a=", r#""a=": "" is not a model's name"#),
            ("a=b|", r#""a=b|": "" is not a model's name"#),
            ("a=b c", r#""a=b c": "b c" is not a model's name"#),
            ("a=b*", r#""a=b*": "b*" is not a model's name"#),
            (
                "a*b=c",
                r#""a*b": a "*" may only be the last character of a name"#,
            ),
            (
                "a*=x, ab=y",
                r#""ab=y" is never reached: "a*" before it matches all of its names"#,
            ),
            (
                "a*=x, ab*=y",
                r#""ab*=y" is never reached: "a*" before it matches all of its names"#,
            ),
            (
                "a=x, a=y",
                r#""a=y" is never reached: "a" before it matches all of its names"#,
            ),
        ] {
            assert_eq!(
                ModelMap::parse(text),
                Err(Malformed(expected.to_string())),
                "{text}"
            );
        }
        assert!(ModelMap::parse("a=x, a*=y").is_ok());
    }

    #[test]
    fn a_model_that_is_unknown_is_known_by_status_and_words() {
        for (status, words, expected) in [
            (404, "404 page not found", true), // NVIDIA NIM
            (404, r#"{"error":{"code":"model_not_found"}}"#, true),
            (
                400,
                r#"{"message":"Invalid model: x","type":"invalid_model"}"#,
                true,
            ),
            (400, "x is not a valid model ID", true),
            (400, "The model `x` does not exist", true),
            (400, "temperature is not supported with this model", false),
            (400, "file not found", false),
            (403, "The model `x` does not exist", false),
        ] {
            assert_eq!(is_unknown(status, words.as_bytes()), expected, "{words}");
        }
    }

    #[test]
    fn the_last_model_is_found_where_it_stands() {
        for (body, expected) in [
            (r#" {"model" : "a\"b", "x":[1 ]}"#, Some(r#""a\"b""#)),
            (r#"{"model":"a","model":"b"}"#, Some(r#""b""#)),
            (r#"{"m\u006fdel":7}"#, Some("7")),
            (r#"{"x":{"model":"a"}}"#, None),
            (r#"{"model":"a""#, None),
            (r#"["model"]"#, None),
        ] {
            let found = place_of_model(body.as_bytes()).map(|place| &body[place]);
            assert_eq!(found, expected, "{body}");
        }
    }

    #[test]
    fn models_are_listed_once_in_anthropics_shape() {
        let upstream =
            br#"{"object":"list","data":[{"id":"a/b","object":"model"},{"id":"fast"},{"x":1}]}"#;
        let found = list(["fast"].into_iter(), Some(upstream));
        let one = |id: &str| {
            format!(
                r#"{{"type":"model","id":"{id}","display_name":"{id}","created_at":"1970-01-01T00:00:00Z"}}"#
            )
        };
        let expected = format!(
            r#"{{"data":[{},{}],"has_more":false,"first_id":"fast","last_id":"a/b"}}"#,
            one("fast"),
            one("a/b")
        );
        assert_eq!(String::from_utf8_lossy(&found), expected);
        let many = (0..2 * MOST).map(|n| format!(r#"{{"id":"{n}"}}"#));
        let many = format!(r#"{{"data":[{}]}}"#, many.collect::<Vec<_>>().join(","));
        let found = list([].into_iter(), Some(many.as_bytes()));
        let count = String::from_utf8_lossy(&found).matches("\"id\"").count();
        assert_eq!(count, MOST, "there is an end to them");
        let none = list([].into_iter(), Some(b"<html>"));
        assert_eq!(
            none,
            br#"{"data":[],"has_more":false,"first_id":null,"last_id":null}"#
        );
    }
}
