//! A set of small numbers that fills up from below.
//!
//! The search marks operations as done roughly in the order in which they began, so the set is a
//! full beginning and a few words after it. Equal sets have equal parts, whatever the order of
//! insertion, so that they hash alike.

const BITS: usize = u64::BITS as usize;

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filling {
    /// Every number below this many words is in.
    full_words: usize,
    /// The words after those; the last is not zero, the first is not full.
    words: Vec<u64>,
}

impl Filling {
    /// Whether `number` is in.
    pub fn contains(&self, number: usize) -> bool {
        let Some(word) = (number / BITS).checked_sub(self.full_words) else { return true };
        self.words.get(word).is_some_and(|word| word >> (number % BITS) & 1 == 1)
    }

    /// Puts `number` in.
    pub fn insert(&mut self, number: usize) {
        let Some(word) = (number / BITS).checked_sub(self.full_words) else { return };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % BITS);
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        self.words.drain(..full);
        self.full_words += full;
    }

    /// The smallest number that is not in.
    pub fn first_missing(&self) -> usize {
        let begun = self.words.first().map_or(0, |word| word.trailing_ones() as usize);
        self.full_words * BITS + begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Seeded;

    #[test]
    fn it_holds_what_was_put_in_and_equal_sets_are_equal_in_any_order() {
        let mut random = Seeded::new(7);
        for _ in 0..200 {
            let mut numbers: Vec<usize> = (0..200).filter(|_| random.below(4) > 0).collect();
            let mut forwards = Filling::default();
            numbers.iter().for_each(|n| forwards.insert(*n));
            for at in (1..numbers.len()).rev() {
                numbers.swap(at, random.below(at + 1));
            }
            let mut shuffled = Filling::default();
            numbers.iter().for_each(|n| shuffled.insert(*n));
            assert_eq!(forwards, shuffled);
            assert!((0..300).all(|n| forwards.contains(n) == numbers.contains(&n)));
            let missing = (0..).find(|n| !numbers.contains(n));
            assert_eq!(Some(forwards.first_missing()), missing);
        }
    }
}
