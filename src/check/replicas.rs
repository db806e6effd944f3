//! Replicas are equal once everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Ended, Finding, History, Key, Level, Op, Tally};

const LOOKS_FOR: &str = "a key of which two nodes hold different versions once everything settled";

/// Compares what each node's own replica shows of each key at the end: the last answered read at
/// `local`. A history without such reads has no finding; a key that some node did not answer for,
/// or that was written and is not among them, is unverified.
pub fn replicas_that_differ(history: &History) -> Option<Finding> {
    let mut last: BTreeMap<&Key, BTreeMap<u16, &Op>> = BTreeMap::new();
    let mut nodes: BTreeSet<u16> = BTreeSet::new();
    for op in &history.ops {
        let own_replica = op.level == Level::Local && op.r.is_none();
        if !(op.readback && op.action == Action::Get && own_replica) {
            continue;
        }
        nodes.insert(op.node);
        let of_key = last.entry(&op.key).or_default();
        if op.ended == Ended::Ok {
            let latest = of_key.entry(op.node).or_insert(op);
            if op.answered_us >= latest.answered_us {
                *latest = op;
            }
        }
    }
    if nodes.is_empty() {
        return None;
    }
    let level = "local, once settled";
    let mut tally = Tally::new("replicas-differ", LOOKS_FOR, level, true);
    // One node alone differs from nobody, and a key that was written must be looked at.
    let expected = nodes.len().max(usize::from(history.header.nodes.min(2)));
    let written = history.ops.iter().filter(|op| op.is_acknowledged_write()).map(|op| &op.key);
    for key in written {
        last.entry(key).or_default();
    }
    for (key, by_node) in last {
        tally.examined();
        if by_node.len() < expected {
            tally.unverified();
        }
        let mut shown = by_node.values().map(|op| (&op.value, op.version));
        let first = shown.next();
        if shown.any(|other| Some(other) != first) {
            tally.found(|| in_words(key, &by_node));
        }
    }
    Some(tally.done())
}

fn in_words(key: &Key, by_node: &BTreeMap<u16, &Op>) -> String {
    let each = by_node.iter().map(|(node, op)| match (&op.value, op.version) {
        (Some(value), Some(version)) => format!("node {node} shows {value} at {version}"),
        (Some(value), None) => format!("node {node} shows {value} without a version"),
        (None, _) => format!("node {node} shows nothing"),
    });
    format!("of {key}, {}", each.collect::<Vec<_>>().join(", "))
}
