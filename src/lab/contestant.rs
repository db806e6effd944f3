//! What a comparison compares: a mode, and in leader mode whether one node leads for ever.
//!
//! A fixed leader is leader mode with one setting more, and yet an architecture of its own: the
//! simplest with one leader, whose cluster waits for that node when it dies.

use std::fmt;
use std::str::FromStr;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::types::Mode;

/// The node that leads for ever: the one that initialises a cluster without that setting.
const FIXED_LEADER: u16 = 1;

/// One of the architectures that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contestant {
    pub mode: Mode,
    /// The id of the node that leads for ever, where one does.
    pub fixed_leader: Option<u16>,
}

impl Contestant {
    pub const LEADER: Contestant = Contestant { mode: Mode::Leader, fixed_leader: None };
    pub const FIXED: Contestant =
        Contestant { mode: Mode::Leader, fixed_leader: Some(FIXED_LEADER) };
    pub const LEADERLESS: Contestant = Contestant { mode: Mode::Leaderless, fixed_leader: None };

    /// Every contestant.
    pub const ALL: [Contestant; 3] =
        [Contestant::LEADER, Contestant::FIXED, Contestant::LEADERLESS];

    /// Those that are compared where nobody names any: the two modes as they come.
    pub const DEFAULT: [Contestant; 2] = [Contestant::LEADER, Contestant::LEADERLESS];

    /// The word for it in flags, files and tables.
    pub const fn as_str(self) -> &'static str {
        match (self.mode, self.fixed_leader) {
            (Mode::Leader, None) => "leader",
            (Mode::Leader, Some(_)) => "fixed-leader",
            (Mode::Leaderless, _) => "leaderless",
        }
    }

    /// The same within a sentence.
    pub const fn in_words(self) -> &'static str {
        match (self.mode, self.fixed_leader) {
            (Mode::Leader, None) => "leader mode",
            (Mode::Leader, Some(_)) => "leader mode with a fixed leader",
            (Mode::Leaderless, _) => "leaderless mode",
        }
    }

    /// What is special about it, as the report introduces it.
    pub const fn introduction(self) -> &'static str {
        match (self.mode, self.fixed_leader) {
            (Mode::Leader, None) => "with an elected leader that orders every write",
            (Mode::Leader, Some(_)) => {
                "with a fixed leader that orders every write and that the cluster waits for when it \
                 dies"
            }
            (Mode::Leaderless, _) => "without a leader, where any node writes to a majority",
        }
    }

    /// The flags that its nodes are started with beside those of every node of its mode.
    pub fn flags(self) -> Vec<String> {
        self.fixed_leader.map_or_else(Vec::new, |id| vec![format!("--fixed-leader={id}")])
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Contestant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Contestant::ALL.into_iter().find(|contestant| contestant.as_str() == text).ok_or_else(
            || {
                let all = Contestant::ALL.map(Contestant::as_str).join(", ");
                format!("'{text}' is not a contestant: expected one or more of {all}")
            },
        )
    }
}

/// Refuses a list that is empty or names a contestant twice. One alone is measured and checked like
/// several: it is only not compared.
pub fn validate(contestants: &[Contestant]) -> anyhow::Result<()> {
    let all = Contestant::ALL.map(Contestant::as_str).join(", ");
    ensure!(!contestants.is_empty(), "--contestants: none is named: expected one or more of {all}");
    for (place, contestant) in contestants.iter().enumerate() {
        ensure!(
            !contestants[..place].contains(contestant),
            "--contestants: '{contestant}' is named twice: name each contestant once"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_is_read_by_its_own_name_and_no_other() {
        for contestant in Contestant::ALL {
            assert_eq!(contestant.to_string().parse(), Ok(contestant));
        }
        for wrong in ["", "fixed", "Leader", "leader ", "fixed_leader"] {
            let refused = wrong.parse::<Contestant>().expect_err(wrong);
            for part in [format!("'{wrong}'").as_str(), "leader, fixed-leader, leaderless"] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    }

    #[test]
    fn only_a_fixed_leader_is_told_to_the_nodes() {
        assert_eq!(Contestant::FIXED.flags(), ["--fixed-leader=1"]);
        assert!(Contestant::DEFAULT.iter().all(|contestant| contestant.flags().is_empty()));
    }

    #[test]
    fn one_contestant_is_enough_and_twice_the_same_is_refused() {
        for good in [&Contestant::ALL[..], &Contestant::DEFAULT, &[Contestant::FIXED]] {
            assert!(validate(good).is_ok(), "{good:?}");
        }
        let twice = [Contestant::FIXED, Contestant::LEADER, Contestant::FIXED];
        let refused = validate(&twice).expect_err("twice").to_string();
        assert!(refused.contains("'fixed-leader' is named twice"), "{refused}");
        let refused = validate(&[]).expect_err("none").to_string();
        assert!(refused.contains("leader, fixed-leader, leaderless"), "{refused}");
    }
}
