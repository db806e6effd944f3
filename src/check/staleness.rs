//! The check of local reads that bound how stale they may be.

use super::sights::Sight;
use super::{Finding, Key, Keys, Tally};

const LOOKS_FOR: &str =
    "a read with max_staleness that shows less than a write acknowledged longer ago than that";

/// Answered reads with a bound that show less than what was acknowledged that long before they began.
pub fn reads_past_their_bound(keys: &Keys, sights: &[(&Key, Sight)]) -> Option<Finding> {
    let mut tally: Option<Tally> = None;
    for (key, sight) in sights {
        let Some(bound_ms) = sight.op.max_staleness_ms else { continue };
        let Some(writes) = keys.get(key) else { continue };
        let before_us = sight.op.invoked_us.saturating_sub(bound_ms * 1_000);
        let Some(expected) = writes.acknowledged.newest_before(before_us) else { continue };
        let asked = sight.op.asked();
        let tally =
            tally.get_or_insert_with(|| Tally::new("staleness-bound", LOOKS_FOR, &asked, true));
        tally.examined();
        if writes.shows_less(sight, expected) {
            tally.found(|| {
                let shown = sight.describe(key);
                format!("{shown}, allowed to lag {bound_ms} ms, less than {expected}")
            });
        }
    }
    tally.map(Tally::done)
}
