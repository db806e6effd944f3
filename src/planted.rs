//! Planted bugs: named mistakes that test builds can switch on, to see that the checks catch them.
//!
//! **Why it exists.** A check that has never failed proves nothing. Each [`Bug`] is a mistake that a
//! real system shipped, or that the literature warns of; the place in the code that would make it
//! asks [`is`] whether it is to. `quorate sim --planted` in a test build runs simulated worlds with
//! each until one is caught; faults of real files are caught by tests on real files.
//!
//! **Guarantees.** Without the feature `planted-bugs` no bug can be switched on: [`is`] is constant
//! `false`, and what would do harm is not in the program. With it, a bug is planted in one thread,
//! which is one simulated world, and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::types::Mode;

mod bugs;

pub use bugs::Bug;

/// What is known of a bug beside its place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    name: &'static str,
    /// As it is written above the variant: it begins with a space.
    sentence: &'static str,
    modes: &'static [Mode],
    caught_by: CaughtBy,
    shipped_by: &'static str,
}

/// What must catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaughtBy {
    /// Simulated worlds.
    Simulator,
    /// Tests that damage the files of a real directory.
    RealFiles,
    /// Tests of consensus: of a group in memory, or of the state machine.
    ConsensusTests,
    /// Tests of leaderless mode in memory.
    LeaderlessTests,
}

/// How a bug was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// How many worlds were tried, the one that caught it included.
    pub worlds: u64,
    /// The check that failed there.
    pub check: String,
}

impl Bug {
    /// The bug's name on the command line.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// What goes wrong, in a sentence or two.
    pub fn sentence(self) -> &'static str {
        self.about().sentence.trim_start()
    }

    /// The modes in which it does harm.
    pub fn modes(self) -> &'static [Mode] {
        self.about().modes
    }

    /// Who made this mistake, or where it is warned of.
    pub fn shipped_by(self) -> &'static str {
        self.about().shipped_by
    }

    /// What must catch it.
    pub fn caught_by(self) -> CaughtBy {
        self.about().caught_by
    }

    /// The bug with this name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

/// The table of all bugs in Markdown, with how those in `caught` were caught.
pub fn table(caught: &BTreeMap<Bug, Caught>) -> String {
    let mut table = String::from(
        "| bug | what goes wrong | modes | made by | worlds | caught by |\n\
         | --- | --- | --- | --- | ---: | --- |\n",
    );
    for bug in Bug::ALL {
        let modes: Vec<_> = bug.modes().iter().map(|mode| mode.as_str()).collect();
        let (worlds, check) = match (caught.get(bug), bug.caught_by()) {
            (Some(caught), _) => (caught.worlds.to_string(), caught.check.as_str()),
            (None, CaughtBy::ConsensusTests) => (String::new(), "tests of consensus"),
            (None, CaughtBy::LeaderlessTests) => (String::new(), "tests of leaderless mode"),
            (None, CaughtBy::RealFiles) => (String::new(), "tests on real files"),
            (None, CaughtBy::Simulator) => (String::new(), "**not caught**"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} | {worlds} | {} |",
            bug.name(),
            cell(bug.sentence()),
            modes.join(", "),
            cell(bug.shipped_by()),
            cell(check),
        );
    }
    table
}

/// Text as a cell may hold it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(any(test, feature = "planted-bugs"))]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in this thread, in place of an earlier one; `None` for none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Does `work` with a bug planted, and takes it out again, also where `work` panics.
    pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        struct TakeOut;
        impl Drop for TakeOut {
            fn drop(&mut self) {
                plant(None);
            }
        }
        let _take_out = TakeOut;
        plant(Some(bug));
        work()
    }

    /// Does `work` without the bug that is planted, and plants it again.
    pub fn without<T>(work: impl FnOnce() -> T) -> T {
        let bug = PLANTED.take();
        let done = work();
        PLANTED.set(bug);
        done
    }

    /// Whether `bug` is planted in this thread.
    #[inline]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "planted-bugs"))]
pub use switch::{is, plant, with, without};

/// Whether `bug` is planted: never, in this build.
#[cfg(not(any(test, feature = "planted-bugs")))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_in_kebab_case_and_is_found_by_it() {
        let mut names = BTreeSet::new();
        for bug in Bug::ALL {
            let mut expected = String::new();
            for letter in format!("{bug:?}").chars() {
                if letter.is_uppercase() && !expected.is_empty() {
                    expected.push('-');
                }
                expected.push(letter.to_ascii_lowercase());
            }
            assert_eq!(bug.name(), expected);
            assert!(names.insert(bug.name()));
            assert_eq!(Bug::named(bug.name()), Some(*bug));
        }
        assert_eq!(Bug::named("no-such-bug"), None);
    }

    #[test]
    fn every_bug_says_what_goes_wrong_where_and_who_made_it() {
        for bug in Bug::ALL {
            let sentence = bug.sentence();
            assert!(sentence.ends_with('.') && !sentence.starts_with(' '), "{bug:?}: {sentence}");
            assert!(!sentence.contains("  ") && !bug.shipped_by().contains("  "), "{bug:?}");
            assert!(!bug.modes().is_empty() && bug.modes().is_sorted(), "{bug:?}");
            assert!(!bug.shipped_by().is_empty() && !bug.shipped_by().ends_with('.'), "{bug:?}");
        }
        for mode in Mode::ALL {
            assert!(Bug::ALL.iter().filter(|bug| bug.modes().contains(&mode)).count() >= 20);
        }
    }

    #[test]
    fn the_table_has_a_row_a_bug_and_says_which_are_not_caught() {
        let check = "lost | gone".to_owned();
        let caught = BTreeMap::from([(Bug::AckBeforeSync, Caught { worlds: 7, check })]);
        let table = table(&caught);
        assert_eq!(table.lines().count(), 2 + Bug::ALL.len());
        let row = |bug: Bug| {
            let head = format!("| `{}` |", bug.name());
            table.lines().find(|line| line.starts_with(&head)).expect("a row")
        };
        assert!(row(Bug::AckBeforeSync).ends_with("| 7 | lost \\| gone |"));
        assert!(row(Bug::VoteNotDurable).ends_with("|  | **not caught** |"));
        assert!(row(Bug::TornTailAccepted).ends_with("|  | tests on real files |"));
    }
}
