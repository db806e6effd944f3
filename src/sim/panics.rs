//! Noticing panics: a task that panics ends silently, and a node must never panic.
//!
//! One hook for the process notes panics of the threads that asked for it, and leaves all others to
//! the hook that was there before.

use std::cell::RefCell;
use std::sync::Once;

/// How many panics of one world are written down.
const MAX_NOTED: usize = 8;

thread_local! {
    static NOTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Notes panics of this thread from now on, in place of printing them.
pub(super) fn watch_this_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !note(&panic.to_string()) {
                before(panic);
            }
        }));
    });
    NOTED.set(Some(Vec::new()));
}

/// What was noted in this thread since it asked; notes no more after that.
pub(super) fn taken() -> Vec<String> {
    NOTED.take().unwrap_or_default()
}

fn note(panic: &str) -> bool {
    NOTED
        .try_with(|noted| {
            let mut noted = noted.try_borrow_mut().ok()?;
            let noted = noted.as_mut()?;
            if noted.len() < MAX_NOTED {
                noted.push(panic.replace('\n', " "));
            }
            Some(())
        })
        .is_ok_and(|noted| noted.is_some())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_of_a_task_is_noted_and_others_are_left_alone() {
        super::watch_this_thread();
        let caught = std::panic::catch_unwind(|| panic!("on purpose"));
        assert!(caught.is_err());
        let noted = super::taken();
        assert!(noted.len() == 1 && noted[0].contains("on purpose"), "{noted:?}");
        assert!(!super::note("nobody asked"));
    }
}
