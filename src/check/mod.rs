//! Checks of whole histories: did anything happen that was promised not to?
//!
//! Each check is a plain pass over one [`History`] and says, for every level that it looked at,
//! whether what it looks for is **promised** not to happen there or is merely **counted**, how many
//! operations it looked at, and what it found. A promise is never inferred from the absence of
//! findings, and a check that could not look says so (`unverified`).
//!
//! | check | what it looks for | promised at | counted at |
//! | --- | --- | --- | --- |
//! | `lost-write` | a read after everything settled shows less than an acknowledged write | each mode's default level | weaker levels are not looked at |
//! | `value-from-nowhere` | an answer shows what nobody had asked to write to that key | every level | |
//! | `version-from-nowhere` | an answer shows a version that no write of the key can have been given | every level | |
//! | `version-used-twice` | two writes under one version | every level | |
//! | `shown-after-not-applied` | an answer shows a write that was answered `not_applied` | every level | |
//! | `applied-twice` | one write shows under two versions | every level | |
//! | `stale-read` | a read begun after a write was acknowledged shows less than it | `linearizable`; `lease`; `quorum` with R + W > N | `local`, R + W ≤ N |
//! | `staleness-bound` | a read with `max_staleness` shows less than a write acknowledged longer ago than that | `local` with `max_staleness` | |
//! | `read-went-back` | a client sees less of a key than it saw or wrote before | `linearizable` and `lease` (any node); `quorum` with R + W > N (same coordinator) | other levels; `quorum` across coordinators |
//! | `deleted-key-came-back` | a key whose newest write is an acknowledged delete shows an older value | `linearizable`; `lease`; `quorum` with R + W > N; every level once settled | other levels before that |
//! | `replicas-differ` | two nodes hold different versions of a key once everything settled | `local` reads at the end | |
//! | `lost-update` | a conditional write was acknowledged although its condition no longer held | every level | |
//! | `level-not-served` | an answer served below the level asked for, or named `quorum` with R + W ≤ N | `linearizable`, `quorum` | |
//! | `superseded-not-told` | an acknowledged write was not told of a newer version acknowledged before it began | leaderless mode, where the W of both exceed N together | |
//! | `linearizability` | no order of a key's operations within their times explains the answers | leader mode: reads served as `linearizable` or `lease` | leaderless mode: `quorum` |
//!
//! *Less* means an older version, or nothing at all where no delete explains it. Answers are reads,
//! items of lists (and what a list leaves out), and the versions that refused conditions name. A
//! delete that was superseded is not followed by `deleted-key-came-back`.
//!
//! **Does not** look at expiry, nor at several keys together.

mod conditions;
mod cut;
mod deletes;
mod drawing;
mod finding;
mod keys;
pub mod linearizability;
mod replicas;
mod rules;
mod session;
mod shortest;
mod sights;
mod staleness;
mod superseded;
#[cfg(test)]
mod tests;
mod versions;

pub use drawing::draw;
use finding::Tally;
pub use finding::{Age, Finding};
use keys::Keys;
pub use shortest::shortest;
use sights::describe;

use crate::history::{Action, Ended, History, Op, Value};
use crate::types::{EffectiveLevel, Key, Level, Mode, Version};

/// Runs every check over `history`.
pub fn check(history: &History) -> Vec<Finding> {
    check_within(history, linearizability::Budget::DEFAULT)
}

/// Runs every check over `history`, linearizability within `budget`.
pub fn check_within(history: &History, budget: linearizability::Budget) -> Vec<Finding> {
    let mut findings = plain_checks(history);
    findings.push(linearizability::check(history, budget));
    findings
}

/// Every check that is a plain pass over the history.
fn plain_checks(history: &History) -> Vec<Finding> {
    let keys = Keys::of(history);
    let sights = keys.sights(history);
    let mut findings = vec![
        rules::lost_writes(history, &keys),
        rules::values_from_nowhere(&keys, &sights),
        versions::versions_from_nowhere(&keys, &sights),
        versions::versions_used_twice(history, &keys, &sights),
        rules::shown_after_not_applied(&keys, &sights),
        versions::applied_twice(&keys, &sights),
    ];
    findings.extend(rules::stale_reads(history, &keys, &sights));
    findings.extend(staleness::reads_past_their_bound(&keys, &sights));
    findings.extend(session::reads_that_went_back(history, &keys, &sights));
    findings.extend(deletes::deleted_keys_that_came_back(history, &keys, &sights));
    findings.extend(replicas::replicas_that_differ(history));
    findings.extend(conditions::lost_updates(history, &keys));
    findings.extend(rules::levels_not_served(history));
    findings.extend(superseded::superseded_not_told(history));
    findings
}

/// Whether an acknowledged write does not bind reads at `quorum`: its answer says that it waited
/// for too few replicas, or that reads do not repair.
fn is_weak_write(op: &Op) -> bool {
    matches!(op.served.map(|served| served.0), Some(EffectiveLevel::Eventual { .. }))
}

/// Whether a read promises to show every write acknowledged before it began. What the answer says
/// was served decides; where it does not say, what was asked for.
fn promises_freshness(mode: Mode, op: &Op) -> bool {
    match op.served.map(|served| served.0) {
        // Reads by lease promise it as long as no clock runs twice as fast as another.
        Some(EffectiveLevel::Linearizable | EffectiveLevel::Lease) => true,
        Some(EffectiveLevel::Quorum { r, w, n }) => u32::from(r) + u32::from(w) > u32::from(n),
        Some(
            EffectiveLevel::Local
            | EffectiveLevel::LocalWithin { .. }
            | EffectiveLevel::Eventual { .. },
        ) => false,
        None => match (mode, op.level) {
            (Mode::Leader, Level::Linearizable | Level::Quorum | Level::Lease) => true,
            (Mode::Leaderless, Level::Quorum) => op.r.is_none(),
            _ => false,
        },
    }
}
