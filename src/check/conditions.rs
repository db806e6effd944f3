//! Conditional writes decide on what is there.
//!
//! Conditions are decided where writes are ordered, and versions rise in that order. So the write
//! just below an acknowledged conditional write, by version, is what its condition saw, but for
//! writes with unknown outcomes.

use std::collections::BTreeMap;

use super::{Action, Finding, History, Key, Keys, Op, Tally, Version};

const LOOKS_FOR: &str = "a conditional write acknowledged although its condition no longer held";

/// Acknowledged conditional writes whose condition did not hold: updates that overwrote what they
/// had not seen. A history without conditional writes has no finding.
pub fn lost_updates(history: &History, keys: &Keys) -> Option<Finding> {
    let conditional = |op: &&Op| op.is_acknowledged_write() && op.is_conditional();
    history.ops.iter().find(conditional)?;
    let by_version = acknowledged_by_version(history);
    let mut tally = Tally::new("lost-update", LOOKS_FOR, "every level", true);
    // Which write was acknowledged on condition of a version: there can be one.
    let mut taken: BTreeMap<(&Key, Version), &Op> = BTreeMap::new();
    for op in history.ops.iter().filter(conditional) {
        tally.examined();
        let before = op.version.and_then(|version| {
            let below = by_version.get(&op.key)?.range(..version);
            below.last().map(|(_, before)| *before)
        });
        let rival = op.if_match.and_then(|wanted| taken.insert((&op.key, wanted), op));
        let wrong = match (op.if_match, before) {
            (Some(wanted), Some(before)) => {
                let stood = before.version.unwrap_or(Version::ZERO);
                stood > wanted || (stood == wanted && before.action == Action::Delete)
            }
            (None, Some(before)) => before.action == Action::Put && !may_be_deleted(keys, op),
            (_, None) => false,
        };
        if wrong || rival.is_some() {
            tally.found(|| in_words(op, rival.or(before)));
        }
    }
    Some(tally.done())
}

fn acknowledged_by_version(history: &History) -> BTreeMap<&Key, BTreeMap<Version, &Op>> {
    let mut by_version: BTreeMap<&Key, BTreeMap<Version, &Op>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.is_acknowledged_write()) {
        if let Some(version) = op.version {
            by_version.entry(&op.key).or_default().insert(version, op);
        }
    }
    by_version
}

/// Whether a delete without a known version may have come before `op`.
fn may_be_deleted(keys: &Keys, op: &Op) -> bool {
    keys.get(&op.key).is_some_and(|writes| {
        let unclear = |delete: &&&Op| delete.version.is_none();
        writes.deletes.iter().filter(unclear).any(|delete| delete.invoked_us <= op.answered_us)
    })
}

fn in_words(op: &Op, before: Option<&Op>) -> String {
    let condition = match op.if_match {
        Some(wanted) => format!("if it was at {wanted}"),
        None => "if it held nothing".to_owned(),
    };
    let got = op.version.map_or(String::new(), |version| format!(" at {version}"));
    let before = before.map_or(String::new(), |before| {
        let at = before.version.map_or(String::new(), |version| format!(" at {version}"));
        let which = before.value.as_ref().map_or(String::new(), |value| format!(" of {value}"));
        format!(
            ", although client {}'s {}{which} was acknowledged{at} ({} to {} µs)",
            before.client, before.action, before.invoked_us, before.answered_us
        )
    });
    let what = op.value.as_ref().map_or(String::new(), |value| format!(" of {value}"));
    format!(
        "client {}'s {}{what} on {} {condition} was acknowledged{got} ({} to {} µs){before}",
        op.client, op.action, op.key, op.invoked_us, op.answered_us
    )
}
