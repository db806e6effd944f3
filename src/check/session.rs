//! The check that follows each client through time.

use std::collections::BTreeMap;

use super::{Finding, History, Key, Keys, Mode, Op, Tally, Version, describe, promises_freshness};

const LOOKS_FOR: &str = "a client that sees less of a key than it saw or wrote before";

/// Reads that show a client less of a key than it already saw or wrote.
///
/// In leader mode a linearizable read must show at least what the client saw by any read, or wrote,
/// through any node. At `quorum` the promise holds for one coordinator, and only what the client saw
/// at `quorum` or wrote counts: a `local` read may have shown a write that no quorum holds. What
/// goes back across coordinators is counted.
pub fn reads_that_went_back(history: &History, keys: &Keys) -> Vec<Finding> {
    let mode = history.header.mode;
    let mut seen = Seen::default();
    let mut levels: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    // A client has one request under way at a time, so the order of invocation is its order.
    for op in &history.ops {
        if op.is_answered_read() {
            let fresh = promises_freshness(mode, op);
            let (same_node, any_node) = seen.before(op, mode, fresh);
            let mut count = |level: String, promised: bool, before: Option<Version>| {
                let Some(before) = before else { return };
                let tally = levels.entry((level, promised)).or_insert_with_key(|(level, _)| {
                    Tally::new("read-went-back", LOOKS_FOR, level, promised)
                });
                tally.examined();
                let less = match keys.get(&op.key) {
                    Some(writes) => writes.shows_less(op, before),
                    None => op.version.unwrap_or(Version::ZERO) < before,
                };
                if less {
                    tally.found(|| format!("{}, after it knew {before}", describe(op)));
                }
            };
            match (mode, fresh) {
                (Mode::Leader, fresh) => count(op.asked(), fresh, any_node),
                (Mode::Leaderless, true) => {
                    count(format!("{}, same coordinator", op.asked()), true, same_node);
                    count(format!("{}, any coordinator", op.asked()), false, any_node);
                }
                (Mode::Leaderless, false) => count(op.asked(), false, any_node),
            }
        }
        seen.learn(op, mode);
    }
    levels.into_values().map(|tally| tally.finding).collect()
}

/// The newest version that each client knows of each key.
#[derive(Default)]
struct Seen<'a> {
    /// By writes, and by reads that promise freshness: at each node, and (node 0) at any.
    firm: BTreeMap<(u32, &'a Key, u16), Version>,
    /// By any read or write, at any node.
    any: BTreeMap<(u32, &'a Key), Version>,
}

impl<'a> Seen<'a> {
    /// What the client knew before the read `op`: through the same node, and through any.
    fn before(&self, op: &Op, mode: Mode, fresh: bool) -> (Option<Version>, Option<Version>) {
        let firm = |node| self.firm.get(&(op.client, &op.key, node)).copied();
        let all = || self.any.get(&(op.client, &op.key)).copied();
        // Only a committed write is ever applied in leader mode, so a local read is firm there.
        let any_node = if mode == Mode::Leader || !fresh { all() } else { firm(0) };
        (firm(op.node), any_node)
    }

    fn learn(&mut self, op: &'a Op, mode: Mode) {
        let told = op.is_acknowledged_write() || op.is_answered_read();
        let Some(version) = op.version.filter(|_| told) else { return };
        let newest = self.any.entry((op.client, &op.key)).or_insert(version);
        *newest = (*newest).max(version);
        if op.is_acknowledged_write() || promises_freshness(mode, op) {
            for node in [op.node, 0] {
                let newest = self.firm.entry((op.client, &op.key, node)).or_insert(version);
                *newest = (*newest).max(version);
            }
        }
    }
}
