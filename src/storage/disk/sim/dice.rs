//! What decides on a simulated disk's losses: a seeded generator.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::runtime::below;

pub(super) struct Dice(StdRng);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(StdRng::seed_from_u64(seed))
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        below(self.0.next_u64(), bound as u64) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}
