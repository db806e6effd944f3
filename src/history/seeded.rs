//! Choices from a seed, for whoever writes histories.
//!
//! Guarantees: the same seed gives the same numbers in every version of this program and of its
//! libraries, so that a recorded seed stays good. Not for secrets.

use crate::runtime::below;

/// A small seeded generator (splitmix64), so that the choices of a load do not depend on any
/// library's version.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator; equal seeds draw equal numbers.
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    /// A generator for one of many uses of one seed.
    pub fn derived(seed: u64, purpose: &str, number: u64) -> Seeded {
        let mut mixed = Seeded(seed);
        for byte in purpose.bytes() {
            mixed.0 = mixed.next() ^ u64::from(byte);
        }
        mixed.0 = mixed.next() ^ number;
        Seeded(mixed.next())
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        below(self.next(), bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let draw = |seed, purpose: &str, number| {
            let mut random = Seeded::derived(seed, purpose, number);
            (0..64).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(42, "kill", 1), draw(42, "kill", 1));
        assert_ne!(draw(42, "kill", 1), draw(43, "kill", 1));
        assert_ne!(draw(42, "kill", 1), draw(42, "kill", 2));
        assert_ne!(draw(42, "kill", 1), draw(42, "load", 1));
        assert!(draw(1, "x", 0).into_iter().all(|n| n < 1000));
        let first: Vec<u64> = {
            let mut random = Seeded::new(0);
            (0..2).map(|_| random.next()).collect()
        };
        // Published test vector of splitmix64 with seed 0.
        assert_eq!(first, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }
}
