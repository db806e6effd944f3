//! The layout that a data directory's cluster was founded with.
//!
//! **Why it exists.** A mode that places keys by the cluster's first nodes and the number of replicas looks
//! for them where those say, until the layout is changed. With others, a read quorum need not meet the
//! replicas that acknowledged a write. What the settings say of it never changes afterwards: nodes come
//! and go by changes of the members and of the layout.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::config::LeaderlessSettings;
use crate::error::StartError;
use crate::types::NodeId;

/// The nodes and the number of replicas that decide where keys lie, and how many of those reads and writes
/// usually wait for, which decides what a quorum is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedLayout {
    nodes: BTreeSet<NodeId>,
    replicas: u16,
    read_quorum: u16,
    write_quorum: u16,
}

impl PinnedLayout {
    /// The layout of these nodes; there are never more replicas than nodes.
    pub fn new(
        nodes: impl IntoIterator<Item = NodeId>,
        settings: &LeaderlessSettings,
    ) -> PinnedLayout {
        let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
        let replicas = settings.replicas.min(u16::try_from(nodes.len()).unwrap_or(u16::MAX));
        let (read_quorum, write_quorum) = (settings.read_quorum, settings.write_quorum);
        PinnedLayout { nodes, replicas, read_quorum, write_quorum }
    }

    /// A number that differs where the layouts do, for telling a peer. Part of what nodes of
    /// different builds must agree on: never change it.
    pub fn digest(&self) -> u64 {
        let counts = [self.replicas, self.read_quorum, self.write_quorum];
        let numbers = self.nodes.iter().map(|node| node.0).chain(counts);
        let bytes: Vec<u8> = numbers.flat_map(u16::to_be_bytes).collect();
        XxHash3_64::oneshot(&bytes)
    }

    /// Refuses another layout than this one.
    pub(super) fn check(&self, asked: &PinnedLayout) -> Result<(), StartError> {
        if self == asked {
            return Ok(());
        }
        Err(StartError::DataDirectory(format!(
            "this data directory was made for {self}, but the settings say {asked}: start with the \
             --peers, replicas and quorums that it was made for; who came or left since need not be \
             named: that is done with quorate cluster add, layout apply and remove"
        )))
    }
}

impl std::fmt::Display for PinnedLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<String> = self.nodes.iter().map(NodeId::to_string).collect();
        let PinnedLayout { replicas, read_quorum, write_quorum, .. } = self;
        write!(
            f,
            "nodes {} with {replicas} replicas of a key, of which reads wait for {read_quorum} and \
             writes for {write_quorum}",
            nodes.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Settings;
    use crate::types::Mode;

    fn digest(nodes: &[u16], replicas: u16) -> u64 {
        layout(nodes, |settings| settings.replicas = replicas).digest()
    }

    fn layout(nodes: &[u16], change: impl FnOnce(&mut LeaderlessSettings)) -> PinnedLayout {
        let mut settings =
            Settings::defaults(NodeId(1), Mode::Leaderless, BTreeMap::new()).leaderless;
        change(&mut settings);
        PinnedLayout::new(nodes.iter().copied().map(NodeId), &settings)
    }

    #[test]
    fn other_quorums_are_another_layout() {
        let one = layout(&[1, 2, 3], |settings| settings.read_quorum = 2);
        for other in [
            layout(&[1, 2, 3], |settings| settings.read_quorum = 1),
            layout(&[1, 2, 3], |settings| (settings.read_quorum, settings.write_quorum) = (2, 3)),
        ] {
            assert_ne!(one.digest(), other.digest());
            assert!(one.check(&other).is_err());
        }
    }

    #[test]
    fn layouts_that_differ_have_other_digests_and_the_same_ones_the_same() {
        assert_eq!(digest(&[1, 2, 3], 3), digest(&[3, 1, 2, 2], 5));
        let different = [(&[1, 2, 3][..], 3), (&[1, 2, 3], 2), (&[1, 2, 4], 3), (&[1, 2], 2)];
        let digests: BTreeSet<u64> =
            different.iter().map(|(nodes, replicas)| digest(nodes, *replicas)).collect();
        assert_eq!(digests.len(), different.len());
    }
}
