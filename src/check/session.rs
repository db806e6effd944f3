//! The check that follows each client through time.

use std::collections::BTreeMap;

use super::keys::KeyWrites;
use super::sights::{self, Sight};
use super::{
    Finding, History, Key, Keys, Mode, Op, Tally, Version, is_weak_write, promises_freshness,
};

const LOOKS_FOR: &str = "a client that sees less of a key than it saw or wrote before";

/// Reads that show a client less of a key than it already saw or wrote.
///
/// In leader mode a linearizable read must show at least what the client saw by any read, or wrote,
/// through any node. At `quorum` the promise holds for one coordinator, and only what the client saw
/// at `quorum` or wrote counts: a `local` read may have shown a write that no quorum holds. What
/// goes back across coordinators is counted. A read that finds nothing where something was before
/// saw a delete of it, also where nobody was told the version of that delete: what stood there
/// before must not show again.
pub fn reads_that_went_back(
    history: &History,
    keys: &Keys,
    sights: &[(&Key, Sight)],
) -> Vec<Finding> {
    let mode = history.header.mode;
    let mut seen = Seen::default();
    let mut levels: BTreeMap<(String, bool), Tally> = BTreeMap::new();
    let mut sights = sights.iter().peekable();
    // A client has one request under way at a time, so the order of invocation is its order.
    for op in &history.ops {
        if let Some(version) = op.version.filter(|_| op.is_acknowledged_write()) {
            seen.learn(op, &op.key, Known { version, gone: false }, mode);
        }
        while let Some((key, sight)) = sights.next_if(|(_, sight)| std::ptr::eq(sight.op, op)) {
            let fresh = promises_freshness(mode, op);
            let (same_node, any_node) = seen.before(op, key, mode, fresh);
            let mut count = |level: String, promised: bool, before: Option<Known>| {
                let Some(before) = before else { return };
                let tally = levels.entry((level, promised)).or_insert_with_key(|(level, _)| {
                    Tally::new("read-went-back", LOOKS_FOR, level, promised)
                });
                tally.examined();
                if before.is_more_than(sight, keys.get(key)) {
                    tally.found(|| format!("{}, after it knew {before}", sight.describe(key)));
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
            let before = if mode == Mode::Leader { any_node } else { same_node };
            if let Some(known) = learned(sight, keys.get(key), before.filter(|_| fresh), fresh) {
                seen.learn(op, key, known, mode);
            }
        }
    }
    levels.into_values().map(Tally::done).collect()
}

/// The version that a sight shows.
fn shown(sight: &Sight) -> Option<Version> {
    sight.held().and_then(|(_, version)| version)
}

/// What a sight teaches the client who had it.
fn learned(
    sight: &Sight,
    writes: Option<&KeyWrites>,
    before: Option<Known>,
    fresh: bool,
) -> Option<Known> {
    if let Some(version) = shown(sight) {
        return Some(Known { version, gone: false });
    }
    let writes = writes.filter(|_| fresh && sight.seen == sights::Seen::Nothing)?;
    let acknowledged = writes.firm.newest_before(sight.op.invoked_us);
    let version = acknowledged.max(before.map(|before| before.version))?;
    // Where no delete explains that nothing was there, that is what is wrong.
    (!writes.shows_less(sight, version)).then_some(Known { version, gone: true })
}

/// What a client knows of a key: that a write of this version happened, and, where it is gone, that
/// so did a delete after it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    version: Version,
    gone: bool,
}

impl Known {
    fn is_more_than(self, sight: &Sight, writes: Option<&KeyWrites>) -> bool {
        let shown = shown(sight);
        let less = match writes {
            Some(writes) => writes.shows_less(sight, self.version),
            None => shown.unwrap_or(Version::ZERO) < self.version,
        };
        less || (self.gone && shown == Some(self.version))
    }
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.gone { "a delete after " } else { "" }, self.version)
    }
}

/// The newest that each client knows of each key.
#[derive(Default)]
struct Seen<'a> {
    /// By writes, and by reads that promise freshness: at each node, and (node 0) at any.
    firm: BTreeMap<(u32, &'a Key, u16), Known>,
    /// By any read or write, at any node.
    any: BTreeMap<(u32, &'a Key), Known>,
}

impl<'a> Seen<'a> {
    /// What the client knew of the key before `op`: through the same node, and through any.
    fn before(
        &self,
        op: &Op,
        key: &Key,
        mode: Mode,
        fresh: bool,
    ) -> (Option<Known>, Option<Known>) {
        let firm = |node| self.firm.get(&(op.client, key, node)).copied();
        let all = || self.any.get(&(op.client, key)).copied();
        // Only a committed write is ever applied in leader mode, so a local read is firm there.
        let any_node = if mode == Mode::Leader || !fresh { all() } else { firm(0) };
        (firm(op.node), any_node)
    }

    fn learn(&mut self, op: &Op, key: &'a Key, known: Known, mode: Mode) {
        let newest = self.any.entry((op.client, key)).or_insert(known);
        *newest = (*newest).max(known);
        let is_firm = match op.is_acknowledged_write() {
            true => !is_weak_write(op),
            false => op.action.is_write() || promises_freshness(mode, op),
        };
        if is_firm {
            for node in [op.node, 0] {
                let newest = self.firm.entry((op.client, key, node)).or_insert(known);
                *newest = (*newest).max(known);
            }
        }
    }
}
