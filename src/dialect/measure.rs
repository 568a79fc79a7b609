//! Measures a request's size so that its ratio to a model's tokens is steady. Pure.
//!
//! There is no tokenizer: the ratio is learned from a model's answers ([`super::learned`]), to a few percent.

use alvus_scan::string_end;

use super::json::Json;

/// An image's tokens: Anthropic's figure for a large one.
const IMAGE: u64 = 1_600;

/// Bytes a thousand tokens, before anything was learned.
pub const USUAL_RATIO: u32 = 3_600;

/// The size of a request.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Size {
    /// Bytes of its strings that are text. Of characters with several bytes four in five count, so that 1.5 Chinese
    /// ones make a token by [`USUAL_RATIO`].
    pub bytes: u64,
    /// Its images.
    pub images: u64,
}

impl Size {
    /// The size of a request in any dialect: all its names and strings.
    pub fn of(json: Json<'_>) -> Size {
        let mut size = Size::default();
        let mut rest = json.text();
        while let Some(at) = rest.find('"')
            && let Some(end) = string_end(rest.as_bytes(), at)
        {
            let text = &rest[at + 1..end - 1];
            match is_data(text) {
                // A PDF is not an image and is not sent.
                true => size.images += u64::from(!text.starts_with("JVBER")),
                false => size.bytes += weight(text),
            }
            rest = &rest[end..];
        }
        size
    }

    /// Its tokens, at `ratio` bytes a thousand tokens. Never 0.
    pub fn tokens(self, ratio: u32) -> u64 {
        let text = self.bytes.saturating_mul(1000) / u64::from(ratio.max(1));
        text.saturating_add(self.images.saturating_mul(IMAGE))
            .max(1)
    }
}

/// Whether it is base64, by its beginning: long, and without blanks or punctuation.
fn is_data(text: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    text.starts_with("data:image/") || (text.len() >= 256 && text.bytes().take(256).all(base64))
}

fn weight(text: &str) -> u64 {
    let (mut plain, mut wide) = (0u64, 0u64);
    for byte in text.bytes() {
        plain += u64::from(byte < 0x80 && byte != b'\\');
        wide += u64::from(byte >= 0x80);
    }
    // `\u4e2d` is one character of three bytes; the `\` was not counted.
    let escapes = text.matches("\\u").count() as u64;
    plain.saturating_sub(escapes * 5) + (wide + escapes * 3) * 4 / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> (u64, u64) {
        let size = Size::of(Json::parse(text.as_bytes()).expect(text));
        (size.bytes, size.images)
    }

    #[test]
    fn strings_are_counted_and_data_is_not() {
        let base64 = "iVBORw0KGgo".repeat(99);
        let pdf = "JVBERi0x".repeat(99);
        for (text, expected) in [
            ("{}".to_string(), (0, 0)),
            (r#"{"ab":"cde","f":[1,true,"g\"h"]}"#.into(), (9, 0)),
            (r#"["\n\t\\"]"#.into(), (2, 0)),
            ("[\"中文字\"]".into(), (7, 0)),
            (r#"["\u4e2d\u6587\u5b57"]"#.into(), (7, 0)),
            (format!(r#"{{"data":"{base64}"}}"#), (4, 1)),
            (
                format!(r#"{{"url":"data:image/png;base64,{base64}"}}"#),
                (3, 1),
            ),
            (format!(r#"{{"data":"{pdf}"}}"#), (4, 0)),
            (format!(r#"["{}"]"#, "a word ".repeat(20)), (140, 0)),
        ] {
            assert_eq!(size(&text), expected, "{text}");
        }
    }

    #[test]
    fn tokens_are_bytes_by_ratio_and_images() {
        let tokens = |bytes, images| Size { bytes, images }.tokens(USUAL_RATIO);
        assert_eq!(tokens(3600, 0), 1000);
        assert_eq!(tokens(0, 2), 3200);
        assert_eq!(tokens(0, 0), 1);
        assert_eq!(
            Size {
                bytes: u64::MAX,
                images: u64::MAX
            }
            .tokens(0),
            u64::MAX
        );
    }
}
