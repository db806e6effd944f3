//! What of the log a snapshot that is being sent keeps from being purged.
//!
//! **Why it exists.** A follower that gets a snapshot needs the entries after it next. Were they
//! purged meanwhile, under steady writes it would be sent one whole snapshot after the other and
//! never catch up.
//!
//! **Bounds.** A pin ends a little after its attempt to send, which has timeouts of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::runtime::{Instant, Runtime};

/// How long the entries stay after an attempt: openraft must hear that the follower has the
/// snapshot, and from then on itself purges nothing that is on its way to a follower.
const LINGER: Duration = Duration::from_secs(10);

/// The pins of one group.
pub(super) struct Pins {
    runtime: Runtime,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    pins: BTreeMap<u64, Pinned>,
}

struct Pinned {
    /// The entries after this one stay.
    index: u64,
    /// Until when, once the attempt is over.
    until: Option<Instant>,
}

/// Keeps the entries after an index, and a little longer than it lives.
pub(super) struct Pin {
    pins: Arc<Pins>,
    number: u64,
}

impl Pins {
    pub(super) fn new(runtime: Runtime) -> Pins {
        Pins { runtime, held: Mutex::default() }
    }

    /// Keeps the entries after `index`.
    pub(super) fn pin(self: &Arc<Pins>, index: u64) -> Pin {
        let mut held = self.held.lock();
        let number = held.next;
        held.next += 1;
        held.pins.insert(number, Pinned { index, until: None });
        Pin { pins: self.clone(), number }
    }

    /// The index after which every entry must stay, if any must.
    pub(super) fn lowest(&self) -> Option<u64> {
        let now = self.runtime.now();
        let pins = &mut self.held.lock().pins;
        pins.retain(|_, pinned| pinned.until.is_none_or(|until| now < until));
        pins.values().map(|pinned| pinned.index).min()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let until = self.pins.runtime.now() + LINGER;
        if let Some(pinned) = self.pins.held.lock().pins.get_mut(&self.number) {
            pinned.until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::tests::support::in_a_world;

    #[test]
    fn what_was_pinned_stays_until_a_little_after_the_last_attempt() {
        in_a_world(|| async {
            let runtime = Runtime::simulated(1, 0);
            let pins = Arc::new(Pins::new(runtime.clone()));
            assert_eq!(pins.lowest(), None);
            let (late, early) = (pins.pin(9), pins.pin(5));
            assert_eq!(pins.lowest(), Some(5));
            drop(early);
            assert_eq!(pins.lowest(), Some(5), "openraft may not have heard of the end");
            runtime.sleep(LINGER).await;
            assert_eq!(pins.lowest(), Some(9));
            drop(late);
            runtime.sleep(LINGER).await;
            assert_eq!(pins.lowest(), None);
        });
    }
}
