//! Names created, renamed and removed on a simulated disk, and which of these a crash keeps.

use std::collections::BTreeMap;

use super::contents::SharedContents;
use super::dice::Dice;
use crate::storage::disk::directory_of;

/// The files of a disk by path.
pub(super) type Names = BTreeMap<String, SharedContents>;

/// A change to one directory that is not synced yet.
pub(super) enum NameChange {
    Created { path: String, contents: SharedContents },
    Renamed { from: String, to: String, contents: SharedContents },
    Removed { path: String },
}

/// Decides which name changes survive. Changes of different names may overtake each other; where a
/// directory has several of one name, a prefix of its changes survives.
pub(super) fn settle(pending: Vec<NameChange>, durable: &mut Names, dice: &mut Dice) {
    let mut directories: BTreeMap<String, Vec<NameChange>> = BTreeMap::new();
    for change in pending {
        directories.entry(change.directory().to_owned()).or_default().push(change);
    }
    for changes in directories.into_values() {
        let independent = are_independent(&changes);
        let kept = dice.below(changes.len() + 1);
        for (index, change) in changes.into_iter().enumerate() {
            let survives = if independent { dice.one_in(2) } else { index < kept };
            if survives {
                change.apply(durable);
            }
        }
    }
}

impl NameChange {
    /// A rename is within one directory, so one path says which it is.
    pub fn directory(&self) -> &str {
        match self {
            NameChange::Created { path, .. } | NameChange::Removed { path } => directory_of(path),
            NameChange::Renamed { to, .. } => directory_of(to),
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            NameChange::Created { path, .. } | NameChange::Removed { path } => vec![path],
            NameChange::Renamed { from, to, .. } => vec![from, to],
        }
    }

    pub fn apply(self, names: &mut Names) {
        match self {
            NameChange::Created { path, contents } => {
                names.insert(path, contents);
            }
            NameChange::Renamed { from, to, contents } => {
                names.remove(&from);
                names.insert(to, contents);
            }
            NameChange::Removed { path } => {
                names.remove(&path);
            }
        }
    }
}

/// Whether no two changes touch the same name.
fn are_independent(changes: &[NameChange]) -> bool {
    let mut names: Vec<&str> = changes.iter().flat_map(NameChange::names).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == count
}
