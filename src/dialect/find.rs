//! Finds bytes a word at a time. Pure.
//!
//! `memchr` is faster for long texts on machines with vector instructions. On the boards, and for the short strings of
//! JSON, it takes up to twice as many instructions.

const WORD: usize = size_of::<usize>();
/// 1 in each byte of a word.
const ONES: usize = usize::MAX / 0xff;

/// The position of the quote that ends a string. The text begins after the string's first quote.
#[inline]
pub fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut ahead = text;
    loop {
        let found = quote(ahead)?;
        let (before, rest) = ahead.split_at(found);
        let escapes = before.iter().rev().take_while(|b| **b == b'\\').count();
        match rest {
            [_, after @ ..] if escapes % 2 == 1 => ahead = after,
            _ => return Some(text.len() - rest.len()),
        }
    }
}

#[cfg(target_pointer_width = "64")]
fn quote(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'"', text)
}

#[cfg(not(target_pointer_width = "64"))]
#[inline(always)]
fn quote(text: &[u8]) -> Option<usize> {
    by_words(text)
}

/// The length of a text up to the first quote, backslash or control character.
#[inline(never)]
pub fn plain(text: &[u8]) -> usize {
    let marked = |word| is(word, b'"') | is(word, b'\\') | below(word, b' ');
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    first(text, marked, special).unwrap_or(text.len())
}

/// How many bytes two texts have in common at their beginning.
pub fn alike(one: &[u8], other: &[u8]) -> usize {
    let words = one.as_chunks::<WORD>().0.iter().zip(other.as_chunks().0);
    let whole = words.take_while(|(one, other)| one == other).count() * WORD;
    let bytes = one.iter().zip(other).skip(whole);
    whole + bytes.take_while(|(one, other)| one == other).count()
}

#[cfg(any(test, not(target_pointer_width = "64")))]
#[inline(always)]
fn by_words(text: &[u8]) -> Option<usize> {
    first(text, |word| is(word, b'"'), |byte| *byte == b'"')
}

/// The place of the first `wanted` byte. In a word, `marked` sets the highest bit of this byte.
#[inline(always)]
fn first(
    text: &[u8],
    marked: impl Fn(usize) -> usize,
    wanted: impl Fn(&u8) -> bool,
) -> Option<usize> {
    let (words, rest) = text.as_chunks::<WORD>();
    let mut ahead = words.iter();
    while let Some(word) = ahead.next() {
        let marks = marked(usize::from_le_bytes(*word)) & (ONES << 7);
        if marks != 0 {
            let before = words.len() - ahead.len() - 1;
            return Some(before * WORD + marks.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(wanted)?;
    Some(text.len() - rest.len() + at)
}

/// Marks the bytes that are `wanted`. It may also mark bytes above the first of them.
#[inline(always)]
fn is(word: usize, wanted: u8) -> usize {
    below(word ^ (ONES * usize::from(wanted)), 1)
}

/// Marks the bytes below `limit` (at most 0x80). It may also mark bytes above the first of them.
#[inline(always)]
fn below(word: usize, limit: u8) -> usize {
    word.wrapping_sub(ONES * usize::from(limit)) & !word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wanted_byte_is_found_at_every_place() {
        let mut random = 1u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::from((random >> 24) as u8) % 64
        };
        // Neighbours of the wanted bytes would show a wrong borrow.
        let odd = *b"\0\x01\n\x1f !\"#[\\]~\x7f\x80\xa1\xa2\xdc\xff";
        for length in 0..200 {
            // Every other text is full of quotes and escapes.
            let text: Vec<u8> = (0..length)
                .map(|_| match length % 2 {
                    0 => *odd.get(next()).unwrap_or(&b'a'),
                    _ => b"\"\\\\a"[next() % 4],
                })
                .collect();
            for from in 0..length {
                let text = &text[from..];
                let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
                let by_bytes = text.iter().position(special).unwrap_or(text.len());
                assert_eq!(plain(text), by_bytes, "{text:?}");
                let is_quote = |byte: &u8| *byte == b'"';
                assert_eq!(by_words(text), text.iter().position(is_quote), "{text:?}");
                let mut escaped = false;
                let by_bytes = text.iter().position(|byte| {
                    let closes = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    closes
                });
                assert_eq!(closing_quote(text), by_bytes, "{text:?}");
            }
        }
    }
}
