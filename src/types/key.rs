//! Keys and the partitions they fall into.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// How many slices the key space has, in both modes and for ever: a partition is one byte of every
/// row key on disk.
pub const PARTITIONS: usize = 256;

/// One of [`PARTITIONS`] slices of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u8);

impl Partition {
    /// Every partition, in order.
    pub fn all() -> impl Iterator<Item = Partition> {
        (0..=u8::MAX).map(Partition)
    }
}

/// A key: non-empty UTF-8 of at most the configured limit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is empty: a key is any non-empty path")]
    Empty,
    #[error("the key has {bytes} bytes: at most {limit} are allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("the key is not UTF-8 once percent-decoded")]
    NotUtf8,
}

impl Key {
    /// Checks `text` against the rules for keys; `limit_bytes` is the setting `max_key_bytes`.
    pub fn new(text: &str, limit_bytes: usize) -> Result<Key, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > limit_bytes {
            return Err(KeyError::TooLong { bytes: text.len(), limit: limit_bytes });
        }
        Ok(Key(Arc::from(text)))
    }

    /// A key from bytes that this node or a peer stored before; only UTF-8 is checked again.
    pub fn from_stored(bytes: &[u8]) -> Result<Key, KeyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NotUtf8)?;
        Key::new(text, usize::MAX)
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition the key falls into: the low byte of its XXH3 hash (64 bits, seed 0). This is
    /// part of the disk format and of the wire format.
    pub fn partition(&self) -> Partition {
        Partition((XxHash3_64::oneshot(self.0.as_bytes()) & 0xff) as u8)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_non_empty_and_bounded() {
        assert_eq!(Key::new("", 8), Err(KeyError::Empty));
        assert_eq!(Key::new("123456789", 8), Err(KeyError::TooLong { bytes: 9, limit: 8 }));
        assert_eq!(Key::new("a/b", 8).map(|k| k.as_str().to_owned()), Ok("a/b".to_owned()));
        assert_eq!(Key::from_stored(&[0xff]), Err(KeyError::NotUtf8));
    }

    #[test]
    fn the_partition_of_a_key_never_changes() {
        // These values are on disks: a change here is a change of format.
        let partition = |text: &str| Key::new(text, 64).map(|k| k.partition().0);
        let seen: Vec<u8> = ["a", "greeting", "img/cat", "key-000000000001"]
            .into_iter()
            .map(|text| partition(text).expect("a valid key"))
            .collect();
        assert_eq!(seen, GOLDEN);
    }

    const GOLDEN: [u8; 4] = [31, 65, 37, 160];
}
