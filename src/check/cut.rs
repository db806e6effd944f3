//! Parts of histories that are histories themselves.
//!
//! Guarantees: a part tells nothing that the whole does not, so that what is wrong with a part is
//! wrong with the whole.

use std::collections::BTreeMap;

use super::sights::covers;
use super::{Action, Ended, History, Key, Op};

/// The operations that concern each key, lists among them.
pub fn by_key(history: &History) -> Vec<(&Key, Vec<&Op>)> {
    let mut keys: BTreeMap<&Key, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        match op.action {
            Action::List => {
                for item in op.items.iter().flatten() {
                    keys.entry(&item.key).or_default();
                }
            }
            Action::Get | Action::Put | Action::Delete => keys.entry(&op.key).or_default().push(op),
        }
    }
    for list in history.ops.iter().filter(|op| op.action == Action::List) {
        let begun = keys.range_mut::<Key, _>(&list.key..);
        for (key, ops) in begun.take_while(|(key, _)| key.as_str().starts_with(list.key.as_str())) {
            if covers(list, key) {
                ops.push(list);
            }
        }
    }
    keys.into_iter().collect()
}

/// What a history says of one key, given the operations that concern it. Lists become lists of
/// that key alone.
pub fn of_key(history: &History, key: &Key, ops: &[&Op]) -> History {
    let ops = ops.iter().map(|op| match op.action {
        Action::List => list_of_key(op, key),
        Action::Get | Action::Put | Action::Delete => (*op).clone(),
    });
    History::new(history.header.clone(), ops.collect())
}

/// What was known at `instant_us`: later operations are gone, unanswered writes are unknown, and
/// unanswered reads say nothing.
pub fn until(history: &History, instant_us: u64) -> History {
    let begun = history.ops.iter().filter(|op| op.invoked_us <= instant_us);
    let ops = begun.filter_map(|op| {
        if op.answered_us <= instant_us {
            return Some(op.clone());
        }
        (op.action.is_write()).then(|| Op {
            answered_us: instant_us,
            ended: Ended::Unknown,
            version: None,
            superseded: None,
            served: None,
            status: 0,
            ..op.clone()
        })
    });
    History { header: history.header.clone(), ops: ops.collect() }
}

fn list_of_key(list: &Op, key: &Key) -> Op {
    let items = list.items.iter().flatten().filter(|item| item.key == *key);
    Op { items: Some(items.cloned().collect()), more: false, ..list.clone() }
}
