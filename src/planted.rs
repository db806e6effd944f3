//! Planted bugs: named mistakes that test builds can switch on, to see that the checks catch them.
//!
//! **Why it exists.** A check that has never failed proves nothing. Each [`Bug`] is a mistake that a
//! real system shipped; the place in the code that would make it asks [`is`] whether it is to.
//! `quorate sim --planted` in a test build runs simulated worlds with each until one is caught.
//!
//! **Guarantees.** Without the feature `planted-bugs` no bug can be switched on: [`is`] is constant
//! `false`, and what would do harm is not in the program. With it, a bug is planted in one thread,
//! which is one simulated world, and nowhere else.

/// A mistake that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A write is acknowledged before the commit log has synced it.
    AckBeforeSync,
}

impl Bug {
    /// Every bug, in the order of the table in `docs/testing.md`.
    pub const ALL: &[Bug] = &[Bug::AckBeforeSync];

    /// The bug's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Bug::AckBeforeSync => "ack-before-sync",
        }
    }

    /// The bug with this name.
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.iter().copied().find(|bug| bug.name() == name)
    }
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

    /// Whether `bug` is planted in this thread.
    #[inline]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(any(test, feature = "planted-bugs"))]
pub use switch::{is, plant};

/// Whether `bug` is planted: never, in this build.
#[cfg(not(any(test, feature = "planted-bugs")))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}
