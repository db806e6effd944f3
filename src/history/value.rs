//! The values that recorded clients write: they can be told apart afterwards.
//!
//! Every value that is ever written names its writer and is written once, so that a read can be
//! traced to the one write it shows, a lost write can be missed, and a value that nobody wrote is
//! seen at once. The rest of the value is filler computed from its name: a value that was cut or
//! mixed up with another does not pass for either.
//!
//! Guarantees: the same name and size give the same bytes.

use std::fmt;
use std::str::FromStr;

use super::Seeded;

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
}
