//! Versions: what orders the writes of a key, in both modes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// A hybrid logical clock reading and the node that took it; totally ordered, time first.
///
/// The reading has 48 bits of milliseconds since 1970 and 16 bits of counter (Kulkarni et al.,
/// "Logical Physical Clocks", 2014). The text form, used in `ETag`, is sixteen hexadecimal digits
/// of reading, a dash, and the node id in decimal: `0193e5f2a1b30000-1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    time: u64,
    node: NodeId,
}

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a version: expected sixteen hexadecimal digits, a dash and a node id")]
pub struct VersionError(pub String);

impl Version {
    /// The version before every other.
    pub const ZERO: Version = Version { time: 0, node: NodeId(0) };
    /// How many bytes [`Version::to_bytes`] gives.
    pub const BYTES: usize = 10;

    /// A version from a whole clock reading: milliseconds in the upper 48 bits, counter below.
    pub const fn new(time: u64, node: NodeId) -> Version {
        Version { time, node }
    }

    /// The whole clock reading.
    pub const fn time(self) -> u64 {
        self.time
    }

    /// Milliseconds since 1970 of the clock reading.
    pub const fn millis(self) -> u64 {
        self.time >> 16
    }

    /// The node that took the reading.
    pub const fn node(self) -> NodeId {
        self.node
    }

    /// The fixed binary form; its byte order is the version order.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.time.to_be_bytes());
        bytes[8..].copy_from_slice(&self.node.0.to_be_bytes());
        bytes
    }

    /// Reads [`Version::to_bytes`] back.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Version {
        let [a, b, c, d, e, f, g, h, i, j] = bytes;
        Version {
            time: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            node: NodeId(u16::from_be_bytes([i, j])),
        }
    }

    /// The version as an entity tag, quotes included.
    pub fn etag(self) -> String {
        format!("\"{self}\"")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.time, self.node)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (time, node) = text.split_once('-')?;
            if time.len() != 16 || !node.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let time = u64::from_str_radix(time, 16).ok()?;
            Some(Version { time, node: NodeId(node.parse().ok()?) })
        };
        parse().ok_or_else(|| VersionError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_order_by_time_and_then_node_in_every_form() {
        let older = Version::new(1 << 16, NodeId(9));
        let newer = Version::new((1 << 16) | 1, NodeId(1));
        let twin = Version::new((1 << 16) | 1, NodeId(2));
        assert!(older < newer && newer < twin);
        assert!(older.to_bytes() < newer.to_bytes() && newer.to_bytes() < twin.to_bytes());
        assert_eq!(Version::from_bytes(twin.to_bytes()), twin);
    }

    #[test]
    fn the_text_form_reads_back_and_nonsense_does_not() {
        let version = Version::new(0x0193_e5f2_a1b3_0002, NodeId(3));
        assert_eq!(version.to_string(), "0193e5f2a1b30002-3");
        assert_eq!("0193e5f2a1b30002-3".parse(), Ok(version));
        for bad in ["", "-", "1-1", "0193e5f2a1b30002", "0193e5f2a1b30002-", "zz93e5f2a1b30002-1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
