//! The model: one key as a register that holds nothing, or a value under a version.
//!
//! Values are numbers here, one a write. A write whose answer is unknown has no version until
//! something shows one: the first answer that names a version while the write's value stands there
//! **binds** it.

use std::collections::HashMap;

use crate::types::Version;

/// A value, by the number of its write within the key.
pub type ValueNumber = u32;

/// A written value that no answer can tell from another such.
pub const ANY_OTHER: ValueNumber = ValueNumber::MAX;

/// What the key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Absent,
    Holding { value: ValueNumber, version: Option<Version> },
}

/// What a write asks the state to be before it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub version: Option<Version>,
    pub absent: bool,
}

/// What an operation needs the state to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    Anything,
    Nothing,
    Held {
        value: Option<ValueNumber>,
        version: Option<Version>,
    },
    Not(Version),
    /// No state meets it: it shows what no write can have left behind.
    Impossible,
}

/// Whether a state meets a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    No,
    Yes,
    /// Yes, if the version of what stands there is this one.
    Binding(Version),
}

/// Whose version each known version is; `None` for those of deletes.
pub type Owners = HashMap<Version, Option<ValueNumber>>;

impl Condition {
    /// The condition as a demand.
    pub fn demand(self) -> Demand {
        match (self.version, self.absent) {
            (None, false) => Demand::Anything,
            (None, true) => Demand::Nothing,
            (Some(version), false) => Demand::Held { value: None, version: Some(version) },
            (Some(_), true) => Demand::Impossible,
        }
    }
}

impl Demand {
    /// Whether `state` meets the demand.
    pub fn met_by(self, state: State, owners: &Owners) -> Met {
        let yes = |met| if met { Met::Yes } else { Met::No };
        match (self, state) {
            (Demand::Impossible, _) => Met::No,
            (Demand::Anything, _) => Met::Yes,
            (Demand::Nothing, state) => yes(state == State::Absent),
            (Demand::Held { .. }, State::Absent) => Met::No,
            (Demand::Not(_), State::Absent) => Met::Yes,
            (Demand::Not(wrong), State::Holding { version, .. }) => yes(version != Some(wrong)),
            (Demand::Held { value, version }, State::Holding { value: held, version: bound }) => {
                if value.is_some_and(|value| value != held) {
                    return Met::No;
                }
                match (version, bound) {
                    (None, _) => Met::Yes,
                    (Some(version), Some(bound)) => yes(version == bound),
                    // A version that belongs to another write is not this one's.
                    (Some(version), None) if owners.contains_key(&version) => Met::No,
                    (Some(version), None) => Met::Binding(version),
                }
            }
        }
    }
}
