//! A judge that tries everything: every order that the times allow of every subset of the writes
//! that may have happened. It shares nothing with the search but the history, and is only for a
//! handful of operations on one key.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Ended, History, Op};
use crate::types::{EffectiveLevel, Key, Version};

/// Whether some order explains every answer about `key`.
pub fn is_linearizable(history: &History, key: &Key) -> bool {
    let ops: Vec<&Op> = history.ops.iter().filter(|op| takes_part(op, key)).collect();
    assert!(ops.len() <= 9, "too many operations to try everything");
    let maybe: Vec<usize> = (0..ops.len())
        .filter(|i| ops[*i].action.is_write() && ops[*i].ended == Ended::Unknown)
        .collect();
    // Every subset of the writes that may have happened.
    (0..1_u32 << maybe.len()).any(|chosen| {
        let left_out: BTreeSet<usize> = maybe
            .iter()
            .enumerate()
            .filter(|(bit, _)| chosen >> bit & 1 == 0)
            .map(|(_, i)| *i)
            .collect();
        let todo: Vec<usize> = (0..ops.len()).filter(|i| !left_out.contains(i)).collect();
        try_orders(&ops, key, &todo, &World::default())
    })
}

fn takes_part(op: &Op, key: &Key) -> bool {
    let is_fresh = op.served.is_some_and(|served| served.0 == EffectiveLevel::Linearizable);
    match op.action {
        Action::Get => op.key == *key && op.ended == Ended::Ok && is_fresh,
        Action::List => op.ended == Ended::Ok && is_fresh && list_shows(op, key).is_some(),
        Action::Put | Action::Delete => {
            op.key == *key && (op.ended != Ended::Failed || op.status == 412)
        }
    }
}

/// What has happened so far in one order.
#[derive(Clone, Default)]
struct World {
    /// The place of the put whose value is there.
    holds: Option<usize>,
    /// The version each put turned out to have.
    versions: BTreeMap<usize, Version>,
    /// Versions that puts turned out not to have.
    not: BTreeSet<(usize, Version)>,
}

fn try_orders(ops: &[&Op], key: &Key, todo: &[usize], world: &World) -> bool {
    if todo.is_empty() {
        return true;
    }
    todo.iter().any(|next| {
        let end = |i: &usize| match ops[*i].ended {
            Ended::Unknown => u64::MAX,
            Ended::Ok | Ended::Failed => ops[*i].answered_us,
        };
        if todo.iter().any(|other| end(other) < ops[*next].invoked_us) {
            return false;
        }
        let mut world = world.clone();
        let rest: Vec<usize> = todo.iter().copied().filter(|i| i != next).collect();
        world.happens(ops, key, *next) && try_orders(ops, key, &rest, &world)
    })
}

impl World {
    /// Whether operation `i` can be what happens now; then it has.
    fn happens(&mut self, ops: &[&Op], key: &Key, i: usize) -> bool {
        let op = ops[i];
        match op.action {
            Action::Get => match &op.value {
                None => self.holds.is_none(),
                Some(_) => self.shows_value(ops, op.value.as_ref()) && self.is(ops, op.version),
            },
            Action::List => match list_shows(op, key) {
                Some(Some((value, version))) => {
                    (value.is_none() || self.shows_value(ops, value)) && self.is(ops, Some(version))
                }
                _ => self.holds.is_none(),
            },
            Action::Put | Action::Delete if op.ended == Ended::Failed => self.refuses(ops, op),
            Action::Put | Action::Delete => {
                let held = (!op.if_absent || self.holds.is_none())
                    && (op.if_match.is_none() || self.is(ops, op.if_match));
                self.holds = (op.action == Action::Put).then_some(i);
                let version = op.version.filter(|_| op.ended == Ended::Ok);
                if let (Some(version), Some(put)) = (version, self.holds) {
                    self.versions.insert(put, version);
                }
                held
            }
        }
    }

    /// Whether the condition of `op` fails now, in the way that its answer tells.
    fn refuses(&mut self, ops: &[&Op], op: &Op) -> bool {
        match (op.if_match, op.if_absent, op.version) {
            (None, false, _) => true,
            (wanted, _, Some(version)) => wanted != Some(version) && self.is(ops, Some(version)),
            (None, true, None) => self.holds.is_some(),
            (Some(_), true, None) => true,
            (Some(wanted), false, None) => match self.holds {
                None => true,
                Some(put) => match self.versions.get(&put) {
                    Some(version) => *version != wanted,
                    None => {
                        self.not.insert((put, wanted));
                        true
                    }
                },
            },
        }
    }

    fn shows_value(&self, ops: &[&Op], value: Option<&crate::history::Value>) -> bool {
        self.holds.is_some_and(|put| ops[put].value.as_ref() == value)
    }

    /// Whether something is there, and its version is or may be this one.
    fn is(&mut self, ops: &[&Op], version: Option<Version>) -> bool {
        let Some(put) = self.holds else { return false };
        let Some(version) = version else { return true };
        if let Some(known) = self.versions.get(&put) {
            return *known == version;
        }
        let acknowledged = |op: &&Op| op.action.is_write() && op.ended == Ended::Ok;
        let of_another = ops.iter().any(|op| acknowledged(op) && op.version == Some(version));
        let taken = self.versions.values().any(|taken| *taken == version);
        if of_another || taken || self.not.contains(&(put, version)) {
            return false;
        }
        self.versions.insert(put, version);
        true
    }
}

type Shown<'a> = Option<(Option<&'a crate::history::Value>, Version)>;

/// What a list shows of `key`: `None` where it did not get that far.
fn list_shows<'a>(list: &'a Op, key: &Key) -> Option<Shown<'a>> {
    let items = list.items.as_ref()?;
    if !key.as_str().starts_with(list.key.as_str()) {
        return None;
    }
    if let Some(item) = items.iter().find(|item| item.key == *key) {
        return Some(Some((item.value.as_ref(), item.version)));
    }
    let passed = !list.more || items.last().is_some_and(|last| last.key > *key);
    passed.then_some(None)
}
