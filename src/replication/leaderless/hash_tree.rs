//! Hash trees over a replica's rows: what lets two replicas find the few keys that differ among many.
//!
//! **Why it exists.** Reads repair what is read, and hints what was noticed. The rest (a replica that
//! was away for too long, a disk that was restored) is found by comparing. A tree of hashes compares
//! a partition of any size by one number, and finds a key that differs in three steps.
//!
//! **Shape.** A tree a partition: [`LEAVES`] leaves, [`FAN_OUT`] of them under each of [`FAN_OUT`]
//! branches. A key falls to a leaf by its hash. A leaf is the sum, modulo 2⁶⁴, of the hashes of its
//! entries, a branch the sum of its leaves: so a row that changes changes three numbers, and no
//! other row is read for it. An entry's hash covers key, version and digest, which are the same on
//! every replica, and nothing else. Merkle, "A Digital Signature Based on a Conventional Encryption
//! Function" (1987), with sums in place of hashes of hashes: Bellare, Micciancio, "A New Paradigm for
//! Collision-Free Hashing: Incrementality at Reduced Cost" (1997), AdHASH.
//!
//! **Guarantees.** Two trees over the same rows are equal, whatever order the rows came in.
//!
//! **Does not guarantee** that different rows have different sums against someone who seeks such
//! rows; by chance two partitions that differ look equal once in 2⁶⁴.

use twox_hash::XxHash3_64;

use crate::storage::encoding::{self, DecodeError};
use crate::types::{Key, Version};

/// Branches a tree, and leaves a branch.
pub const FAN_OUT: usize = 32;

/// Leaves a tree.
pub const LEAVES: usize = FAN_OUT * FAN_OUT;

/// The bits of a key's hash above those that choose its partition.
const LEAF_SHIFT: u32 = 8;

/// What a tree knows of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    leaf: usize,
    hash: u64,
}

impl Entry {
    /// Of a key's bytes and its encoded record.
    pub fn of(key: &[u8], row: &[u8]) -> Result<Entry, DecodeError> {
        let (version, digest) = encoding::rank(row)?;
        let key_hash = XxHash3_64::oneshot(key);
        // On the stack: this is done twice for every row that changes.
        let mut bytes = [0; 16 + Version::BYTES];
        bytes[..8].copy_from_slice(&key_hash.to_be_bytes());
        bytes[8..16].copy_from_slice(&digest.to_be_bytes());
        bytes[16..].copy_from_slice(&version.to_bytes());
        Ok(Entry { leaf: leaf_of_hash(key_hash), hash: XxHash3_64::oneshot(&bytes) })
    }
}

/// The leaf that a key falls to. Part of what all nodes must agree on: never change it.
pub fn leaf_of(key: &Key) -> usize {
    leaf_of_hash(XxHash3_64::oneshot(key.as_str().as_bytes()))
}

fn leaf_of_hash(key_hash: u64) -> usize {
    (key_hash >> LEAF_SHIFT) as usize % LEAVES
}

/// The tree of one partition.
#[derive(Clone, PartialEq, Eq)]
pub struct HashTree {
    leaves: Vec<u64>,
    branches: [u64; FAN_OUT],
    root: u64,
}

impl Default for HashTree {
    fn default() -> HashTree {
        HashTree { leaves: vec![0; LEAVES], branches: [0; FAN_OUT], root: 0 }
    }
}

impl std::fmt::Debug for HashTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HashTree({:016x})", self.root)
    }
}

impl HashTree {
    /// Takes in a row that was not there.
    pub fn add(&mut self, entry: Entry) {
        self.shift(entry.leaf, entry.hash);
    }

    /// Forgets a row that was there.
    pub fn remove(&mut self, entry: Entry) {
        self.shift(entry.leaf, entry.hash.wrapping_neg());
    }

    fn shift(&mut self, leaf: usize, by: u64) {
        let add = |sum: &mut u64| *sum = sum.wrapping_add(by);
        add(&mut self.leaves[leaf % LEAVES]);
        add(&mut self.branches[leaf % LEAVES / FAN_OUT]);
        add(&mut self.root);
    }

    /// The sum of everything.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The sums of the branches.
    pub fn branches(&self) -> &[u64; FAN_OUT] {
        &self.branches
    }

    /// The sums of the leaves under a branch.
    pub fn leaves_under(&self, branch: usize) -> &[u64] {
        let from = branch % FAN_OUT * FAN_OUT;
        &self.leaves[from..from + FAN_OUT]
    }

    /// The sum of a leaf.
    pub fn leaf(&self, leaf: usize) -> u64 {
        self.leaves[leaf % LEAVES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::encoding::encode;
    use crate::types::{Content, NodeId, Record};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn key(number: u16) -> Key {
        Key::new(&format!("key-{number}"), 64).expect("a key")
    }

    fn entry(number: u16, time: u64) -> Entry {
        let version = Version::new(time, NodeId(1));
        let key = key(number);
        Entry::of(
            key.as_str().as_bytes(),
            &encode(&Record { version, content: Content::Tombstone }),
        )
        .expect("a record")
    }

    #[test]
    fn entries_and_leaves_never_change() {
        // Nodes of different builds compare them.
        assert_eq!((leaf_of(&key(1)), entry(1, 5).hash), GOLDEN);
    }

    const GOLDEN: (usize, u64) = (553, 13_375_817_486_845_159_506);

    #[test]
    fn one_row_of_a_million_shows_in_one_branch_and_one_leaf() {
        let mut tree = HashTree::default();
        (0..4_000).for_each(|number| tree.add(entry(number, 1)));
        let mut other = tree.clone();
        other.remove(entry(77, 1));
        other.add(entry(77, 2));
        assert_ne!(tree.root(), other.root());
        let differ = |one: &[u64], other: &[u64]| -> Vec<usize> {
            (0..one.len()).filter(|index| one[*index] != other[*index]).collect()
        };
        let branches = differ(tree.branches(), other.branches());
        assert_eq!(branches, [leaf_of(&key(77)) / FAN_OUT]);
        let leaves = differ(tree.leaves_under(branches[0]), other.leaves_under(branches[0]));
        assert_eq!(leaves, [leaf_of(&key(77)) % FAN_OUT]);
    }

    #[test]
    fn keys_spread_over_the_leaves() {
        let mut held = vec![0_usize; LEAVES];
        (0..u16::MAX).for_each(|number| held[leaf_of(&key(number))] += 1);
        let fair = usize::from(u16::MAX) / LEAVES;
        let (least, most) = (held.iter().min().unwrap(), held.iter().max().unwrap());
        assert!(*least > fair / 3 && *most < fair * 2, "from {least} to {most}, fair is {fair}");
    }

    #[test]
    fn what_is_under_no_version_of_ours_is_refused() {
        assert!(Entry::of(b"key", b"nonsense").is_err());
    }

    proptest! {
        #[test]
        fn changes_one_by_one_and_a_rebuild_come_to_the_same(
            writes in proptest::collection::vec((0..20_u16, 0..5_u64), 0..60),
        ) {
            let (mut tree, mut held) = (HashTree::default(), BTreeMap::new());
            for (number, time) in writes {
                if let Some(before) = held.insert(number, time) {
                    tree.remove(entry(number, before));
                }
                tree.add(entry(number, time));
            }
            let mut rebuilt = HashTree::default();
            held.into_iter().rev().for_each(|(number, time)| rebuilt.add(entry(number, time)));
            prop_assert_eq!(tree.root(), rebuilt.root());
            prop_assert_eq!(&tree, &rebuilt);
        }
    }
}
