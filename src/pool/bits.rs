//! A set of keys, one bit each: finds the few among many without a look at the others.

/// How many keys one word holds.
pub(super) const WORD: usize = usize::BITS as usize;

#[derive(Debug, Default)]
pub(super) struct Bits(Vec<usize>);

impl Bits {
    /// Puts a key in, or takes it out.
    pub(super) fn put(&mut self, key: usize, is_in: bool) {
        let (at, bit) = (key / WORD, 1 << (key % WORD));
        match (self.0.get_mut(at), is_in) {
            (Some(word), true) => *word |= bit,
            (Some(word), false) => *word &= !bit,
            (None, true) => {
                self.0.resize(at + 1, 0);
                self.0[at] = bit;
            }
            (None, false) => {}
        }
    }

    pub(super) fn has(&self, key: usize) -> bool {
        self.word(key / WORD) >> (key % WORD) & 1 == 1
    }

    /// How many keys are in.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The keys from `at * WORD` on.
    pub(super) fn word(&self, at: usize) -> usize {
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// The keys of a word that stands at `at`.
pub(super) fn keys(at: usize, mut word: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(at * WORD + bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_order_until_they_are_taken_out() {
        let mut bits = Bits::default();
        bits.put(9000, false); // as it was
        for key in [700, 0, 63, 64] {
            bits.put(key, true);
        }
        bits.put(63, false);
        let all = (0..bits.0.len()).flat_map(|at| keys(at, bits.word(at)));
        assert_eq!(all.collect::<Vec<_>>(), [0, 64, 700]);
        assert!(bits.has(64) && !bits.has(63) && !bits.has(9000));
        assert_eq!(bits.count(), 3);
    }
}
