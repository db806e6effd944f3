//! Which nodes hold which partition, and the layout of a new cluster, which no node has to be told.
//!
//! **Guarantees.** Every node computes the same first layout from the same `--peers` and N, whatever
//! order they are given in. Every partition has N different nodes (all of them where there are
//! fewer), and about the same number of partitions falls to each.
//!
//! How a layout changes, see [`crate::types::LayoutState`] and `transfer`.
//!
//! Rendezvous hashing: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (1998).

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::config::LeaderlessSettings;
use crate::types::{NodeId, PARTITIONS, Partition, Share, Spread};

/// Which nodes hold which partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    replicas: u16,
    /// For each partition its replicas, the highest hash first.
    partitions: Vec<Vec<NodeId>>,
}

impl Layout {
    /// The layout of these nodes with `replicas` (N) replicas a partition.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>, replicas: u16) -> Layout {
        let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
        let replicas = replicas.min(nodes.len() as u16);
        let partitions = Partition::all()
            .map(|partition| {
                let mut ranked: Vec<NodeId> = nodes.iter().copied().collect();
                // The order of ids decides between equal hashes.
                ranked.sort_by_key(|node| (std::cmp::Reverse(weight(partition, *node)), *node));
                ranked.truncate(usize::from(replicas));
                ranked
            })
            .collect();
        Layout { replicas, partitions }
    }

    /// That of a spread.
    pub fn of(spread: &Spread) -> Layout {
        let replicas = spread.replicas.min(spread.nodes.len() as u16);
        Layout { replicas, partitions: spread.partitions.clone() }
    }

    /// N: how many replicas a partition has.
    pub fn replicas(&self) -> u16 {
        self.replicas
    }

    /// The replicas of a partition; never the same node twice.
    pub fn replicas_of(&self, partition: Partition) -> &[NodeId] {
        &self.partitions[usize::from(partition.0) % PARTITIONS]
    }

    /// Whether `node` holds `partition`.
    pub fn holds(&self, node: NodeId, partition: Partition) -> bool {
        self.replicas_of(partition).contains(&node)
    }

    /// Whether `node` holds every partition.
    pub fn holds_all(&self, node: NodeId) -> bool {
        self.partitions().all(|replicas| replicas.contains(&node))
    }

    /// Every partition with its replicas.
    pub fn partitions(&self) -> impl Iterator<Item = &[NodeId]> {
        self.partitions.iter().map(Vec::as_slice)
    }
}

/// The first layout of a cluster of these nodes, each as good as any other.
pub fn founding(
    nodes: impl IntoIterator<Item = NodeId> + Clone,
    settings: &LeaderlessSettings,
) -> Spread {
    let LeaderlessSettings { replicas, read_quorum, write_quorum, .. } = *settings;
    let partitions = Layout::new(nodes.clone(), replicas).partitions;
    let share = Share { weight: 1, zone: None };
    let nodes = nodes.into_iter().map(|node| (node, share.clone())).collect();
    Spread { replicas, read_quorum, write_quorum, nodes, partitions }
}

/// The weight of a node for a partition. Part of what all nodes must agree on: never change it.
fn weight(partition: Partition, node: NodeId) -> u64 {
    let [high, low] = node.0.to_be_bytes();
    XxHash3_64::oneshot(&[partition.0, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn layout(nodes: u16, replicas: u16) -> Layout {
        Layout::new((1..=nodes).map(NodeId), replicas)
    }

    #[test]
    fn every_partition_has_n_different_nodes() {
        for (nodes, replicas) in [(1, 1), (3, 3), (5, 3), (9, 5), (2, 3)] {
            let layout = layout(nodes, replicas);
            for held in layout.partitions() {
                let distinct: BTreeSet<_> = held.iter().collect();
                assert_eq!(distinct.len(), usize::from(replicas.min(nodes)));
                assert_eq!(distinct.len(), held.len());
            }
        }
    }

    #[test]
    fn the_load_is_balanced_within_reason() {
        let layout = layout(5, 3);
        let mut held = BTreeMap::<NodeId, usize>::new();
        layout.partitions().flatten().for_each(|node| *held.entry(*node).or_default() += 1);
        let fair = PARTITIONS * 3 / 5;
        for (node, count) in held {
            assert!(count.abs_diff(fair) < fair / 4, "{node} holds {count}, fair is {fair}");
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter() {
        let forward = Layout::new([1, 2, 3, 4, 5].map(NodeId), 3);
        let backward = Layout::new([5, 4, 3, 2, 1, 1].map(NodeId), 3);
        assert_eq!(forward, backward);
    }

    #[test]
    fn a_node_more_moves_only_what_falls_to_it() {
        let (five, six) = (layout(5, 3), layout(6, 3));
        for (old, new) in five.partitions().zip(six.partitions()) {
            assert!(new.iter().all(|node| old.contains(node) || *node == NodeId(6)));
        }
    }

    #[test]
    fn the_layout_never_changes() {
        // Nodes of different builds must agree, and data lies where an older build put it.
        let layout = layout(5, 3);
        let first: Vec<Vec<u16>> = layout
            .partitions()
            .take(4)
            .map(|held| held.iter().map(|node| node.0).collect())
            .collect();
        assert_eq!(first, GOLDEN.map(Vec::from));
    }

    const GOLDEN: [[u16; 3]; 4] = [[3, 5, 4], [5, 3, 4], [4, 2, 3], [5, 4, 2]];
}
