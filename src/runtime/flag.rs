//! A flag that several tasks look at, and that is raised for as long as something goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cheap to clone; all clones say the same.
#[derive(Clone, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    /// One that is set.
    pub fn raised() -> Flag {
        Flag(Arc::new(AtomicBool::new(true)))
    }

    pub fn set(&self, raised: bool) {
        self.0.store(raised, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Sets it, until what is given is dropped, however that comes. One at a time.
    pub fn raise(&self) -> Raised {
        self.set(true);
        Raised(self.clone())
    }
}

/// Keeps a flag raised.
pub struct Raised(Flag);

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_raised_until_the_guard_is_dropped_and_all_clones_see_it() {
        let flag = Flag::default();
        let other = flag.clone();
        let raised = flag.raise();
        assert!(other.is_set());
        drop(raised);
        assert!(!other.is_set() && Flag::raised().is_set());
    }
}
