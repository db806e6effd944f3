//! What an answer showed of a key: reads, items of lists, and refused conditions.
//!
//! **Why it exists.** A get is not the only answer that shows what a key holds. A list shows every
//! key of its page, and by leaving one out that the key holds nothing; a write refused with 412
//! names the version that stands there. Checks look at all of them in one form.

use super::{Action, Ended, Key, Op, Value, Version};

/// The HTTP status of a write whose condition did not hold.
pub const PRECONDITION_FAILED: u16 = 412;

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen<'a> {
    /// The key holds nothing.
    Nothing,
    /// The key holds a value; what is not known of it is absent.
    Held { value: Option<&'a Value>, version: Option<Version> },
    /// The key does not hold this version; it may hold nothing.
    Not(Version),
}

/// What one answer showed of one key.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The operation that was answered; of a list its key is the prefix.
    pub op: &'a Op,
    pub seen: Seen<'a>,
}

impl<'a> Sight<'a> {
    /// What `op` shows of `key`; `None` where it shows nothing of it.
    pub fn of(op: &'a Op, key: &Key) -> Option<Sight<'a>> {
        let seen = match (op.action, op.ended) {
            (Action::Get, Ended::Ok) if op.key == *key => match (&op.value, op.version) {
                (None, _) => Seen::Nothing,
                (value, version) => Seen::Held { value: value.as_ref(), version },
            },
            (Action::List, Ended::Ok) => listed(op, key)?,
            (Action::Put | Action::Delete, Ended::Failed) if op.key == *key => refused(op)?,
            _ => return None,
        };
        Some(Sight { op, seen })
    }

    /// The value and version, where something was seen.
    pub fn held(&self) -> Option<(Option<&'a Value>, Option<Version>)> {
        match self.seen {
            Seen::Held { value, version } => Some((value, version)),
            Seen::Nothing | Seen::Not(_) => None,
        }
    }

    /// In words, for examples.
    pub fn describe(&self, key: &Key) -> String {
        let op = self.op;
        let shown = match self.seen {
            Seen::Nothing => "nothing".to_owned(),
            Seen::Held { value: Some(value), version: Some(v) } => format!("value {value} at {v}"),
            Seen::Held { value: Some(value), version: None } => {
                format!("value {value} without a version")
            }
            Seen::Held { value: None, version: Some(version) } => format!("version {version}"),
            Seen::Held { value: None, version: None } => "something".to_owned(),
            Seen::Not(version) => format!("anything but {version}"),
        };
        let how = match op.action {
            Action::Get => "read",
            Action::List => "listed",
            Action::Put | Action::Delete => "was refused for",
        };
        format!(
            "client {} {how} {shown} of {key} from node {} at {} ({} to {} µs)",
            op.client,
            op.node,
            op.asked(),
            op.invoked_us,
            op.answered_us
        )
    }
}

/// An answered read in words, for examples.
pub fn describe(read: &Op) -> String {
    let nothing = Sight { op: read, seen: Seen::Nothing };
    Sight::of(read, &read.key).unwrap_or(nothing).describe(&read.key)
}

/// Whether an answered list of this form looked at `key`, had it been there.
pub fn covers(list: &Op, key: &Key) -> bool {
    let Some(items) = &list.items else { return false };
    key.as_str().starts_with(list.key.as_str())
        && list.after.as_ref().is_none_or(|after| key > after)
        && (!list.more || items.last().is_some_and(|last| *key <= last.key))
}

fn listed<'a>(list: &'a Op, key: &Key) -> Option<Seen<'a>> {
    if !covers(list, key) {
        return None;
    }
    // Items are in key order where the store is right, and a checker does not presume that.
    let item = list.items.iter().flatten().find(|item| item.key == *key);
    Some(item.map_or(Seen::Nothing, |item| Seen::Held {
        value: item.value.as_ref(),
        version: Some(item.version),
    }))
}

fn refused(op: &Op) -> Option<Seen<'_>> {
    if op.status != PRECONDITION_FAILED {
        return None;
    }
    match (op.if_match, op.if_absent, op.version) {
        (None, false, _) | (Some(_), true, None) => None,
        (_, _, version @ Some(_)) | (None, true, version) => {
            Some(Seen::Held { value: None, version })
        }
        (Some(wanted), false, None) => Some(Seen::Not(wanted)),
    }
}
