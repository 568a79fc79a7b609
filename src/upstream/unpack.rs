//! Unpacks a compressed body for judging; the client gets it as it came. alvus asks for plain text
//! where it must read, but some upstreams compress all the same.

use std::borrow::Cow;

use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The most bytes that are unpacked of one body, against decompression bombs.
const LIMIT: usize = 64 * 1024;

/// The text of a body in this coding (RFC 9110 §8.4.1), as far as it can be read: the beginning of
/// a body that is cut short, nothing of an unknown coding.
pub fn unpacked<'a>(coding: Option<&[u8]>, body: &'a [u8]) -> Cow<'a, [u8]> {
    let Some(coding) = coding else {
        return body.into();
    };
    let is = |name: &str| coding.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    let out = if is("identity") {
        return body.into();
    } else if is("gzip") || is("x-gzip") {
        deflated(body).map(|deflated| inflated(deflated, 0))
    } else if is("deflate") {
        // The name means zlib's format; some send bare deflate under it.
        let zlib = inflated(body, TINFL_FLAG_PARSE_ZLIB_HEADER);
        Some(if zlib.is_empty() {
            inflated(body, 0)
        } else {
            zlib
        })
    } else {
        None
    };
    out.unwrap_or_default().into()
}

/// What can be unpacked, up to [`LIMIT`].
fn inflated(body: &[u8], format: u32) -> Vec<u8> {
    let mut state = Box::<DecompressorOxide>::default();
    let mut out = vec![0; LIMIT];
    let flags = format | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (_, _, came) = decompress(&mut state, body, &mut out, 0, flags);
    out.truncate(came);
    out
}

/// What follows a gzip member's header (RFC 1952 §2.3).
fn deflated(gzip: &[u8]) -> Option<&[u8]> {
    let (&[0x1f, 0x8b, 8, flags, ..], mut rest) = gzip.split_at_checked(10)? else {
        return None;
    };
    let text_ends = |rest: &[u8]| Some(rest.iter().position(|b| *b == 0)? + 1);
    if flags & 4 != 0 {
        let &[low, high] = rest.first_chunk()?;
        rest = rest.get(2 + usize::from(u16::from_le_bytes([low, high]))..)?;
    }
    for text in [8, 16] {
        if flags & text != 0 {
            rest = &rest[text_ends(rest)?..];
        }
    }
    if flags & 2 != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &[u8] = b"{\"error\":{\"message\":\"API key not valid\"}}";

    fn gzip(data: &[u8], flags: u8, extra: &[u8]) -> Vec<u8> {
        let head = [0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
        let deflated = miniz_oxide::deflate::compress_to_vec(data, 6);
        [&head[..], extra, &deflated, &[0; 8]].concat()
    }

    #[test]
    fn compressed_bodies_can_be_read() {
        let zlib = miniz_oxide::deflate::compress_to_vec_zlib(WORDS, 6);
        let bare = miniz_oxide::deflate::compress_to_vec(WORDS, 6);
        for (coding, body) in [
            ("gzip", gzip(WORDS, 0, b"")),
            ("X-GZIP ", gzip(WORDS, 0, b"")),
            (
                "gzip",
                gzip(WORDS, 4 | 8 | 16 | 2, b"\x03\0abcname\0comment\0\x01\x02"),
            ),
            ("deflate", zlib),
            ("deflate", bare),
            ("identity", WORDS.to_vec()),
        ] {
            assert_eq!(unpacked(Some(coding.as_bytes()), &body), WORDS, "{coding}");
        }
        assert_eq!(unpacked(None, WORDS), WORDS);
    }

    #[test]
    fn a_body_that_is_cut_is_read_as_far_as_it_goes() {
        let text: String = (0..2000).map(|n| format!("{} ", n * n)).collect();
        let whole = gzip(text.as_bytes(), 0, b"");
        let found = unpacked(Some(b"gzip"), &whole[..whole.len() / 2]);
        assert!(text.as_bytes().starts_with(&found) && found.len() > text.len() / 4);
    }

    #[test]
    fn a_bomb_is_cut_off_and_junk_says_nothing() {
        let bomb = gzip(&vec![b'a'; 10_000_000], 0, b"");
        assert!(bomb.len() < 16 * 1024, "as much as is looked at");
        assert_eq!(unpacked(Some(b"gzip"), &bomb).len(), LIMIT);
        let whole = gzip(WORDS, 4 | 8 | 16 | 2, b"\x03\0abcname\0comment\0\x01\x02");
        for end in 0..36 {
            unpacked(Some(b"gzip"), &whole[..end]);
        }
        for coding in ["br", "zstd", "gzip, gzip", ""] {
            assert!(
                unpacked(Some(coding.as_bytes()), WORDS).is_empty(),
                "{coding}"
            );
        }
        assert!(unpacked(Some(b"gzip"), WORDS).is_empty());
    }
}
