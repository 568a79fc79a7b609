//! Finds bytes a group at a time: sixteen with SSE2, a word on other machines. Pure.
//!
//! `memchr` is faster for long texts on machines with vector instructions. For the short strings of JSON, and on the
//! boards, it takes twice as many instructions and more.

use std::ops::BitOr;

#[cfg(target_feature = "sse2")]
use safe_arch::m128i;

#[cfg(target_feature = "sse2")]
type Best = m128i;
#[cfg(not(target_feature = "sse2"))]
type Best = usize;

/// The position of the quote that ends a string. The text begins after the string's first quote.
#[inline(never)]
pub fn closing_quote(text: &[u8]) -> Option<usize> {
    closing_quote_in::<Best, _>(text)
}

#[inline(always)]
fn closing_quote_in<G: Group<N>, const N: usize>(text: &[u8]) -> Option<usize> {
    let mut ahead = text;
    loop {
        let found = first(ahead, G::quotes, |byte| *byte == b'"')?;
        let (before, rest) = ahead.split_at_checked(found)?;
        if !is_escaped(before) {
            return Some(text.len() - rest.len());
        }
        ahead = rest.split_first()?.1;
    }
}

/// Whether what follows is escaped: by the last of an odd number of backslashes.
#[inline(always)]
fn is_escaped(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'\\'] => {
            let slashes = before.iter().rev().take_while(|b| **b == b'\\');
            slashes.count() % 2 == 1
        }
        [.., b'\\'] => true,
        _ => false,
    }
}

/// The length of a text up to the first quote, backslash or control character.
#[inline(never)]
pub fn plain(text: &[u8]) -> usize {
    plain_in::<Best, _>(text)
}

#[inline(always)]
fn plain_in<G: Group<N>, const N: usize>(text: &[u8]) -> usize {
    let marked = |group: G| (group.is(b'"') | group.is(b'\\') | group.below(b' ')).marks();
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    first(text, marked, special).unwrap_or(text.len())
}

/// How many bytes two texts have in common at their beginning.
pub fn alike(one: &[u8], other: &[u8]) -> usize {
    alike_in::<Best, _>(one, other)
}

#[inline(always)]
fn alike_in<G: Group<N>, const N: usize>(one: &[u8], other: &[u8]) -> usize {
    let mut whole = 0;
    for (one, other) in one.as_chunks::<N>().0.iter().zip(other.as_chunks().0) {
        let marks = G::of(one).differs(G::of(other));
        if marks != 0 {
            return whole + G::place(marks);
        }
        whole += N;
    }
    let bytes = one[whole..].iter().zip(&other[whole..]);
    whole + bytes.take_while(|(one, other)| one == other).count()
}

/// The place of the first `wanted` byte, which `marked` marks in a group.
#[inline(always)]
fn first<G: Group<N>, const N: usize>(
    text: &[u8],
    marked: impl Fn(G) -> usize,
    wanted: impl Fn(&u8) -> bool,
) -> Option<usize> {
    let (groups, rest) = text.as_chunks();
    let mut at = 0;
    for group in groups {
        let marks = marked(G::of(group));
        if marks != 0 {
            return Some(at + G::place(marks));
        }
        at += N;
    }
    let at = rest.iter().position(wanted)?;
    Some(text.len() - rest.len() + at)
}

/// Bytes that are looked at together.
trait Group<const N: usize>: Copy + BitOr<Output = Self> {
    fn of(bytes: &[u8; N]) -> Self;
    /// Marks the bytes that are `wanted`; it may also mark bytes above the first of them.
    fn is(self, wanted: u8) -> Self;
    /// Marks the bytes below `limit`, which is at most 0x80; it may also mark bytes above the first of them.
    fn below(self, limit: u8) -> Self;
    /// Bits for quotes, at least for the first that may end a string.
    fn quotes(self) -> usize;
    /// Bits for the bytes in which two groups differ.
    fn differs(self, other: Self) -> usize;
    /// A bit for each marked byte.
    fn marks(self) -> usize;
    /// The byte that the lowest of such bits stands for.
    fn place(marks: usize) -> usize;
}

/// The bytes of a word.
const WORD: usize = size_of::<usize>();
/// 1 in each byte of a word.
const ONES: usize = usize::MAX / 0xff;

impl Group<WORD> for usize {
    fn of(bytes: &[u8; WORD]) -> usize {
        usize::from_le_bytes(*bytes)
    }
    fn is(self, wanted: u8) -> usize {
        (self ^ (ONES * usize::from(wanted))).below(1)
    }
    fn below(self, limit: u8) -> usize {
        self.wrapping_sub(ONES * usize::from(limit)) & !self
    }
    fn quotes(self) -> usize {
        self.is(b'"').marks()
    }
    fn differs(self, other: usize) -> usize {
        self ^ other
    }
    fn marks(self) -> usize {
        self & (ONES << 7)
    }
    fn place(marks: usize) -> usize {
        marks.trailing_zeros() as usize / 8
    }
}

#[cfg(target_feature = "sse2")]
impl Group<16> for m128i {
    fn of(bytes: &[u8; 16]) -> m128i {
        safe_arch::load_unaligned_m128i(bytes)
    }
    fn is(self, wanted: u8) -> m128i {
        safe_arch::cmp_eq_mask_i8_m128i(self, safe_arch::set_splat_i8_m128i(wanted as i8))
    }
    fn below(self, limit: u8) -> m128i {
        let highest = safe_arch::set_splat_i8_m128i((limit - 1) as i8);
        safe_arch::cmp_eq_mask_i8_m128i(self, safe_arch::min_u8_m128i(self, highest))
    }
    #[inline(always)]
    fn quotes(self) -> usize {
        let quotes = self.is(b'"').marks();
        if quotes == 0 {
            return 0;
        }
        let slashes = self.is(b'\\').marks();
        // Not if a backslash stands before it, and none before that, which the first two places cannot know.
        quotes & (!(slashes << 1) | slashes << 2 | 3)
    }
    fn differs(self, other: m128i) -> usize {
        0xffff ^ safe_arch::cmp_eq_mask_i8_m128i(self, other).marks()
    }
    fn marks(self) -> usize {
        safe_arch::move_mask_i8_m128i(self) as usize
    }
    fn place(marks: usize) -> usize {
        marks.trailing_zeros() as usize
    }
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
                assert_eq!(plain_in::<usize, _>(text), by_bytes, "{text:?}");
                let mut escaped = false;
                let by_bytes = text.iter().position(|byte| {
                    let closes = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    closes
                });
                assert_eq!(closing_quote(text), by_bytes, "{text:?}");
                assert_eq!(closing_quote_in::<usize, _>(text), by_bytes, "{text:?}");
            }
        }
    }
}
