//! What the load writes: keys and values that can be told apart afterwards.
//!
//! Every value that is ever written names its writer and is written once, so that a read can be
//! traced to the one write it shows, a lost write can be missed, and a value that nobody wrote is
//! seen at once. The rest of the value is filler computed from its name: a value that was cut or
//! mixed up with another does not pass for either.
//!
//! Guarantees: the same seed gives the same choices and the same bytes. Does not model any
//! particular application; named workloads come later.

use std::fmt;
use std::str::FromStr;

use crate::types::Key;

/// The name of a value: who wrote it, and which of that writer's values it is. Its text is `3-120`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    pub client: u32,
    pub seq: u32,
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.client, self.seq)
    }
}

impl FromStr for ValueId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (client, seq) = text.split_once('-')?;
            Some(ValueId { client: client.parse().ok()?, seq: seq.parse().ok()? })
        };
        let id = parse().ok_or_else(|| format!("'{text}' is not a value id such as 3-120"))?;
        // "+3-007" parses too, but it is not how a value is named.
        if id.to_string() == text { Ok(id) } else { Err(format!("'{text}' is not a value id")) }
    }
}

/// Ends the name inside a value; what follows is filler.
const END_OF_NAME: u8 = b'.';

impl ValueId {
    /// Puts the value's bytes into `into`: the name, and filler up to `size_bytes`. A size that
    /// cannot hold the name gives the name alone.
    pub fn fill(self, size_bytes: usize, into: &mut Vec<u8>) {
        use std::io::Write as _;
        into.clear();
        // Writing to a vector cannot fail.
        let _ = write!(into, "{self}");
        into.push(END_OF_NAME);
        let mut filler = Seeded::new((u64::from(self.client) << 32) | u64::from(self.seq));
        while into.len() < size_bytes {
            let word = filler.next();
            let letters = (0..16).map(|nibble| b'a' + ((word >> (nibble * 4)) & 0xf) as u8);
            into.extend(letters.take(size_bytes - into.len()));
        }
    }

    /// The name of the value with these bytes; `None` where no [`ValueId::fill`] made them.
    pub fn of(bytes: &[u8], scratch: &mut Vec<u8>) -> Option<ValueId> {
        let end = bytes.iter().take(24).position(|byte| *byte == END_OF_NAME)?;
        let id: ValueId = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
        id.fill(bytes.len(), scratch);
        (scratch.as_slice() == bytes).then_some(id)
    }
}

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
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// The keys a load works on: `prefix-000017`.
pub fn keys(prefix: &str, count: usize) -> anyhow::Result<Vec<Key>> {
    (0..count).map(|n| Ok(Key::new(&format!("{prefix}-{n:06}"), 256)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_as_its_name_and_a_damaged_one_does_not() {
        let (mut bytes, mut scratch) = (Vec::new(), Vec::new());
        for (client, seq, size) in [(0, 0, 256), (3, 120, 256), (u32::MAX, u32::MAX, 4096)] {
            let id = ValueId { client, seq };
            id.fill(size, &mut bytes);
            assert_eq!(bytes.len(), size);
            assert_eq!(ValueId::of(&bytes, &mut scratch), Some(id));
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_eq!(ValueId::of(&bytes, &mut scratch), None, "a flipped bit passed");
        }
        for foreign in [&b""[..], b".", b"hello", b"1-2", b"01-2.", b"+1-2.abc"] {
            assert_eq!(ValueId::of(foreign, &mut scratch), None, "{foreign:?}");
        }
    }

    #[test]
    fn values_of_different_names_differ_beyond_the_name() {
        let fill = |seq| {
            let mut bytes = Vec::new();
            ValueId { client: 1, seq }.fill(64, &mut bytes);
            bytes.split_off(8)
        };
        assert_ne!(fill(1), fill(2));
    }

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
