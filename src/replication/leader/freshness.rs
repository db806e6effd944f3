//! How fresh this node's table is known to be.
//!
//! A table that has applied every write acknowledged before some moment is *as fresh as* that moment.
//! A node learns of such a moment from each round of reads that it was let through for: the moment
//! when the round left to ask the leader, never the one when the answer came.

use std::time::Duration;

use parking_lot::Mutex;

use crate::runtime::Instant;

/// See the module.
#[derive(Default)]
pub struct Freshness(Mutex<Option<Instant>>);

impl Freshness {
    /// The table has every write acknowledged before `moment`.
    pub fn as_of(&self, moment: Instant) {
        let mut known = self.0.lock();
        *known = (*known).max(Some(moment));
    }

    /// How much older than `moment` the table may be, where that is known.
    pub fn age_at(&self, moment: Instant) -> Option<Duration> {
        self.0.lock().map(|known| moment.saturating_duration_since(known))
    }
}
