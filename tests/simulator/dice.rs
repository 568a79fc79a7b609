//! The simulator's dice, with a seed, so that each day can be repeated.

use std::time::Duration;

/// Xorshift (Marsaglia).
pub struct Dice(pub u64);

impl Dice {
    /// Splitmix64's last step (Vigna), so that near seeds are far apart.
    pub fn seeded(seed: u64, n: u64) -> Dice {
        let mut x = seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Dice((x ^ (x >> 31)) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 16) % n
    }

    pub fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.below(to_ms - from_ms + 1))
    }

    /// Exponentially distributed.
    pub fn about(&mut self, mean: Duration) -> Duration {
        let unit = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64(-(1.0 - unit).ln())
    }
}
