//! Who is to hold which partition: what meets weights and zones, and moves the least.
//!
//! **Why it exists.** When nodes come and go, the partitions must be spread anew, and every replica that
//! changes its place is data that is sent. This finds, among all the spreads that are as good, one that
//! moves the fewest replicas.
//!
//! **How.** A minimum-cost flow from partitions through zones to nodes: each partition sends N units, a
//! zone takes its share of them, a node as many as its weight gives. A unit that stays where it is costs
//! nothing, one that moves costs one. Successive shortest paths: Ahuja, Magnanti, Orlin, "Network Flows"
//! (1993), section 9.7; the use of a flow for it is Garage's.
//!
//! **Guarantees.** Every partition gets N different nodes, or all where there are fewer. No zone holds more
//! replicas of a partition than it must; after that, no node holds more partitions than its weight gives,
//! by more than rounding, unless zones leave no choice; after that, the fewest replicas move. The same
//! input gives the same answer on every node.
//!
//! **Costs** some tenths of a second for twenty nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::types::Share;
use crate::types::{NodeId, PARTITIONS};

/// The nodes of each partition.
pub type Assignment = Vec<Vec<NodeId>>;

/// What a replica that moves costs.
const MOVED: i64 = 1;

/// What a replica beyond a node's share costs: more than all moves together.
const BEYOND_SHARE: i64 = 100_000;

/// What a replica costs that could lie in another zone: more than all else together.
const SAME_ZONE: i64 = 100_000_000;

/// Spreads the partitions over `nodes`, with `replicas` (N) each; `current` is how they lie now.
pub fn assign(
    current: &[Vec<NodeId>],
    nodes: &BTreeMap<NodeId, Share>,
    replicas: u16,
) -> Assignment {
    let n = usize::from(replicas).min(nodes.len());
    let zones = zones(nodes);
    let shares = shares(nodes, n);
    let mut flow = Flow::default();
    let (source, sink) = (flow.vertex(), flow.vertex());
    let places: BTreeMap<NodeId, usize> = nodes.keys().map(|node| (*node, flow.vertex())).collect();
    for (node, place) in &places {
        let share = shares[node];
        flow.edge(*place, sink, share, 0);
        flow.edge(*place, sink, PARTITIONS - share, BEYOND_SHARE);
    }
    let a_zone = n.div_ceil(zones.len().max(1));
    let mut chosen = Vec::with_capacity(PARTITIONS);
    for held in (0..PARTITIONS).map(|partition| current.get(partition)) {
        let partition = flow.vertex();
        flow.edge(source, partition, n, 0);
        let mut edges = Vec::new();
        for members in zones.values() {
            let zone = flow.vertex();
            flow.edge(partition, zone, a_zone, 0);
            flow.edge(partition, zone, n - a_zone, SAME_ZONE);
            for node in members {
                let stays = held.is_some_and(|held| held.contains(node));
                let cost = if stays { 0 } else { MOVED };
                edges.push((*node, flow.edge(zone, places[node], 1, cost)));
            }
        }
        chosen.push(edges);
    }
    while flow.augment(source, sink) {}
    let holders = |(partition, edges): (usize, &Vec<(NodeId, usize)>)| {
        let used = edges.iter().filter(|(_, edge)| flow.edges[*edge].room == 0);
        in_order(current.get(partition), used.map(|(node, _)| *node).collect())
    };
    chosen.iter().enumerate().map(holders).collect()
}

/// Those that stay, in the order in which they were, and then those that come.
fn in_order(held: Option<&Vec<NodeId>>, mut holders: BTreeSet<NodeId>) -> Vec<NodeId> {
    let stay = held.into_iter().flatten().filter(|node| holders.remove(node)).copied();
    let stay: Vec<NodeId> = stay.collect();
    stay.into_iter().chain(holders).collect()
}

/// The nodes of each zone.
fn zones(nodes: &BTreeMap<NodeId, Share>) -> BTreeMap<(Option<&str>, Option<NodeId>), Vec<NodeId>> {
    let mut zones = BTreeMap::<_, Vec<NodeId>>::new();
    for (node, share) in nodes {
        let zone = share.zone.as_deref();
        zones.entry((zone, zone.is_none().then_some(*node))).or_default().push(*node);
    }
    zones
}

/// How many partitions each node should hold of n in all: by weight, but no partition twice. What does
/// not come out even goes to the largest remainders, of equal ones to the lowest ids (Hamilton's method).
pub fn shares(nodes: &BTreeMap<NodeId, Share>, n: usize) -> BTreeMap<NodeId, usize> {
    let mut shares = BTreeMap::new();
    let mut left: BTreeMap<NodeId, u64> =
        nodes.iter().map(|(node, share)| (*node, u64::from(share.weight.max(1)))).collect();
    let mut places = n * PARTITIONS;
    loop {
        let weights: u64 = left.values().sum();
        // Who would hold a partition twice holds all, and the others share the rest.
        let is_full = |weight: &u64| weight * places as u64 >= weights * PARTITIONS as u64;
        let full: Vec<NodeId> =
            left.iter().filter(|(_, weight)| is_full(weight)).map(|(node, _)| *node).collect();
        if full.is_empty() {
            break;
        }
        for node in full {
            left.remove(&node);
            shares.insert(node, PARTITIONS);
            places = places.saturating_sub(PARTITIONS);
        }
    }
    let weights: u64 = left.values().sum();
    let mut remainders = Vec::new();
    let mut given = 0;
    for (node, weight) in left {
        let exact = weight * places as u64;
        shares.insert(node, (exact / weights) as usize);
        given += (exact / weights) as usize;
        remainders.push((std::cmp::Reverse(exact % weights), node));
    }
    remainders.sort_unstable();
    for (_, node) in remainders.into_iter().take(places.saturating_sub(given)) {
        shares.entry(node).and_modify(|share| *share += 1);
    }
    shares
}

/// A network of vertices, and edges with room and cost.
#[derive(Default)]
struct Flow {
    edges: Vec<Edge>,
    /// The edges that leave each vertex.
    leaving: Vec<Vec<usize>>,
}

struct Edge {
    to: usize,
    room: usize,
    cost: i64,
}

impl Flow {
    fn vertex(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// An edge, and behind it the one that takes back what went over it.
    fn edge(&mut self, from: usize, to: usize, room: usize, cost: i64) -> usize {
        let edge = self.edges.len();
        self.edges.push(Edge { to, room, cost });
        self.edges.push(Edge { to: from, room: 0, cost: -cost });
        self.leaving[from].push(edge);
        self.leaving[to].push(edge + 1);
        edge
    }

    /// Sends what fits over the cheapest way that has room; false where there is none.
    fn augment(&mut self, source: usize, sink: usize) -> bool {
        let Some(way) = self.cheapest(source, sink) else { return false };
        let room = way.iter().map(|edge| self.edges[*edge].room).min().unwrap_or(0);
        for edge in way {
            self.edges[edge].room -= room;
            self.edges[edge ^ 1].room += room;
        }
        room > 0
    }

    /// Bellman and Ford's search with a queue: costs may be negative, cycles are not.
    fn cheapest(&self, source: usize, sink: usize) -> Option<Vec<usize>> {
        let mut costs = vec![i64::MAX; self.leaving.len()];
        let mut by = vec![usize::MAX; self.leaving.len()];
        let mut waits = vec![false; self.leaving.len()];
        let mut queue = VecDeque::from([source]);
        costs[source] = 0;
        while let Some(vertex) = queue.pop_front() {
            waits[vertex] = false;
            for edge in &self.leaving[vertex] {
                let Edge { to, room, cost } = self.edges[*edge];
                if room == 0 || costs[vertex] + cost >= costs[to] {
                    continue;
                }
                costs[to] = costs[vertex] + cost;
                by[to] = *edge;
                if !std::mem::replace(&mut waits[to], true) {
                    queue.push_back(to);
                }
            }
        }
        let mut way = Vec::new();
        let mut at = sink;
        while at != source {
            let edge = *by.get(at).filter(|edge| **edge != usize::MAX)?;
            way.push(edge);
            at = self.edges[edge ^ 1].to;
        }
        Some(way)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;
    use proptest::prelude::*;

    fn nodes(weights: &[(u16, u32, &str)]) -> BTreeMap<NodeId, Share> {
        let share = |(id, weight, zone): &(u16, u32, &str)| {
            let zone = (!zone.is_empty()).then(|| (*zone).to_owned());
            (NodeId(*id), Share { weight: *weight, zone })
        };
        weights.iter().map(share).collect()
    }

    fn equal(ids: std::ops::RangeInclusive<u16>) -> BTreeMap<NodeId, Share> {
        nodes(&ids.map(|id| (id, 1, "")).collect::<Vec<_>>())
    }

    fn held(assignment: &Assignment) -> BTreeMap<NodeId, usize> {
        let mut held = BTreeMap::new();
        assignment.iter().flatten().for_each(|node| *held.entry(*node).or_default() += 1);
        held
    }

    fn moved(from: &[Vec<NodeId>], to: &[Vec<NodeId>]) -> usize {
        let pairs = from.iter().zip(to);
        pairs.map(|(from, to)| to.iter().filter(|node| !from.contains(node)).count()).sum()
    }

    /// No spread with these shares moves fewer: each node lacks at least so many.
    fn least(current: &Assignment, shares: &BTreeMap<NodeId, usize>) -> usize {
        let held = held(current);
        let lacks = |(node, share): (&NodeId, &usize)| {
            share.saturating_sub(held.get(node).copied().unwrap_or_default())
        };
        shares.iter().map(lacks).sum()
    }

    #[test]
    fn three_nodes_become_five_and_three_again_with_the_fewest_moves() {
        let three = assign(&[], &equal(1..=3), 3);
        assert!(three.iter().all(|holders| holders.len() == 3));
        let five = assign(&three, &equal(1..=5), 3);
        let shares = shares(&equal(1..=5), 3);
        assert_eq!(held(&five), shares);
        assert_eq!(moved(&three, &five), least(&three, &shares));
        let others = nodes(&[(3, 1, ""), (4, 1, ""), (5, 1, "")]);
        let back = assign(&five, &others, 3);
        let lost = five.iter().flatten().filter(|node| node.0 < 3).count();
        assert_eq!(moved(&five, &back), lost, "what was lost, and nothing else");
    }

    #[test]
    fn the_layout_of_a_new_cluster_is_evened_out_with_few_moves() {
        let layout = Layout::new((1..=5).map(NodeId), 3);
        let current: Assignment = layout.partitions().map(<[NodeId]>::to_vec).collect();
        let spread = assign(&current, &equal(1..=5), 3);
        let shares = shares(&equal(1..=5), 3);
        assert_eq!(held(&spread), shares);
        assert_eq!(moved(&current, &spread), least(&current, &shares));
        assert_eq!(assign(&spread, &equal(1..=5), 3), spread, "what is well stays");
    }

    #[test]
    fn weights_give_each_node_its_share_and_never_a_partition_twice() {
        let weighted = nodes(&[(1, 1, ""), (2, 2, ""), (3, 3, ""), (4, 100, "")]);
        let shares = shares(&weighted, 2);
        assert_eq!(shares[&NodeId(4)], PARTITIONS, "a heavy node holds everything");
        assert_eq!(shares.values().sum::<usize>(), 2 * PARTITIONS);
        let spread = assign(&[], &weighted, 2);
        assert_eq!(held(&spread), shares);
        let by_weight: Vec<usize> = (1..=3).map(|id| shares[&NodeId(id)]).collect();
        assert_eq!(by_weight, [43, 85, 128]);
    }

    #[test]
    fn no_two_replicas_share_a_zone_while_there_is_a_choice() {
        let zoned = nodes(&[(1, 1, "a"), (2, 1, "a"), (3, 1, "a"), (4, 1, "b"), (5, 1, "c")]);
        let spread = assign(&[], &zoned, 3);
        for holders in &spread {
            let zones: BTreeSet<_> = holders.iter().map(|node| &zoned[node].zone).collect();
            assert_eq!(zones.len(), 3, "{holders:?}");
        }
        // Two zones for three replicas: neither has all.
        let two = nodes(&[(1, 1, "a"), (2, 1, "a"), (3, 1, "a"), (4, 1, "b")]);
        for holders in assign(&[], &two, 3) {
            assert!(holders.contains(&NodeId(4)) && holders.len() == 3, "{holders:?}");
        }
    }

    #[test]
    fn fewer_nodes_than_replicas_hold_all() {
        for holders in assign(&[], &equal(1..=2), 3) {
            assert_eq!(holders, [NodeId(1), NodeId(2)]);
        }
        assert!(assign(&[], &BTreeMap::new(), 3).iter().all(Vec::is_empty));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn any_change_is_fair_and_moves_little(
            before in proptest::collection::btree_map(1..9_u16, 1..4_u32, 3..6),
            after in proptest::collection::btree_map(1..9_u16, 1..4_u32, 3..6),
        ) {
            let shared = |nodes: &BTreeMap<u16, u32>| {
                self::nodes(&nodes.iter().map(|(id, weight)| (*id, *weight, "")).collect::<Vec<_>>())
            };
            let (before, after) = (shared(&before), shared(&after));
            let current = assign(&[], &before, 3);
            let spread = assign(&current, &after, 3);
            let shares = shares(&after, 3);
            prop_assert_eq!(held(&spread), shares.clone());
            for holders in &spread {
                let distinct: BTreeSet<_> = holders.iter().collect();
                prop_assert_eq!((holders.len(), distinct.len()), (3, 3));
            }
            let (moved, least) = (moved(&current, &spread), least(&current, &shares));
            prop_assert!(moved * 10 <= least * 12 + 10, "{} moved, at least {}", moved, least);
        }
    }
}
