//! How often each fault and each path of recovery really happened.
//!
//! A campaign that never saw a snapshot installed says nothing about snapshots, however many worlds
//! it tried: what [`expected`] names and never happened fails the campaign.

use std::collections::BTreeMap;
use std::fmt;

use super::plan::Fault;
use crate::peer::fault::FaultPlan;
use crate::storage::disk::SimDisk;
use crate::telemetry::Metrics;
use crate::types::Mode;

/// A campaign of this many worlds of a mode must have seen everything.
pub const WORLDS_TO_SEE_ALL: u64 = 100;

/// What happened, by name, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// Counts something.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// Takes over what another world saw.
    pub fn merge(&mut self, other: &Coverage) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    /// How often something happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// What should have happened in this mode and did not.
    pub fn missing(&self, mode: Mode) -> Vec<&'static str> {
        expected(mode).into_iter().filter(|what| self.get(what) == 0).collect()
    }

    /// Everything that happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, times)| (*what, *times))
    }

    /// Takes over what a node counted in one run.
    pub(super) fn add_node(&mut self, metrics: &Metrics) {
        for (what, counter) in [
            ("recovery: election won", &metrics.elections_won),
            ("transfer: led over", &metrics.leadership_transfers),
            ("transfer: hand-over at stop", &metrics.hand_overs_at_stop),
            ("recovery: consensus log truncated", &metrics.raft_log_truncations),
            ("recovery: snapshot sent", &metrics.snapshots_sent),
            ("recovery: snapshot resumed", &metrics.snapshots_resumed),
            ("recovery: snapshot installed", &metrics.snapshots_installed),
            ("recovery: torn tail cut", &metrics.log_torn_tails),
            ("recovery: checkpoint", &metrics.checkpoints),
            ("recovery: read repair", &metrics.read_repairs),
            ("recovery: straggler finished", &metrics.stragglers_finished),
            ("recovery: straggler given up", &metrics.stragglers_failed),
            ("recovery: hint kept", &metrics.hints_kept),
            ("recovery: hint sent", &metrics.hints_sent),
            ("write: expired by the log", &metrics.records_expired),
            ("recovery: hint dropped", &metrics.hints_dropped),
            ("recovery: repair by comparison", &metrics.comparison_repairs),
            ("write: forwarded", &metrics.writes_forwarded),
            ("write: duplicate discarded", &metrics.writes_deduplicated),
            ("write: answered by its idempotency key", &metrics.writes_remembered),
            ("write: refused for its idempotency key", &metrics.idempotency_keys_refused),
            ("write: superseded", &metrics.writes_superseded),
            ("read: confirmation round", &metrics.read_index_rounds),
            ("read: on a follower's word", &metrics.read_indexes_by_word),
            ("read: the leader's round on a word", &metrics.read_rounds_by_word),
            ("read: by lease alone", &metrics.lease_reads),
            ("read: refused as too stale", &metrics.stale_reads_refused),
            ("clock: version too far ahead", &metrics.clock_drift_ignored),
        ] {
            self.add(what, counter.get());
        }
    }

    /// Takes over what a disk did.
    pub(super) fn add_disk(&mut self, disk: &SimDisk) {
        let counts = disk.counts();
        for (what, times) in [
            ("disk: sync failed", counts.failed_syncs),
            ("disk: crash that lost writes", counts.crashes_with_losses),
            ("disk: write torn", counts.torn_writes),
            ("disk: write scattered", counts.scattered_writes),
            ("disk: bit flipped", counts.bits_flipped),
            ("disk: write refused as full", counts.refused_as_full),
        ] {
            self.add(what, times);
        }
    }

    /// Takes over what links did.
    pub(super) fn add_faults(&mut self, faults: &FaultPlan) {
        let counts = faults.counts();
        for (what, times) in [
            ("message: cut", counts.cut),
            ("message: lost silently", counts.muted),
            ("message: request dropped", counts.requests_dropped),
            ("message: answer dropped", counts.answers_dropped),
            ("message: duplicated", counts.requests_duplicated),
            ("message: reordered", counts.requests_reordered),
            ("message: held", counts.held),
            ("message: delayed", counts.delayed),
            ("message: slowed", counts.slowed),
        ] {
            self.add(what, times);
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (what, times) in self.iter().filter(|(_, times)| *times > 0) {
            write!(f, "{}{what} {times}", if first { "" } else { "; " })?;
            first = false;
        }
        Ok(())
    }
}

/// What a campaign of leaderless mode must have seen beside what both must.
const LEADERLESS: [&str; 15] = [
    "recovery: read repair",
    "recovery: straggler finished",
    "recovery: straggler given up",
    "recovery: hint sent",
    "recovery: hint dropped",
    "recovery: repair by comparison",
    "ending: replicas equal by comparison alone",
    "layout: changed",
    "layout: change taken back",
    "members: added",
    "members: promoted",
    "members: removed",
    "a removed node stopped",
    "write: superseded",
    "clock: version too far ahead",
];

/// What a campaign in this mode must have seen.
pub fn expected(mode: Mode) -> Vec<&'static str> {
    let faults = Fault::ALL.into_iter().filter(|fault| fault.applies_to(mode));
    let mut expected: Vec<&'static str> = faults.map(Fault::name).collect();
    expected.extend([
        "client: leaves in the middle",
        "client: nonsense",
        "client: batch",
        "client: a put with a time to live",
        "client: later page of a list",
        "process: crash during start",
        "a wiped node was refused",
        "a damaged node was refused",
        "a node stopped for its disk",
        "disk: sync failed",
        "disk: crash that lost writes",
        "disk: write torn",
        "disk: write scattered",
        "disk: bit flipped",
        "disk: write refused as full",
        "message: cut",
        "message: lost silently",
        "message: request dropped",
        "message: answer dropped",
        "message: duplicated",
        "message: reordered",
        "message: held",
        "message: delayed",
        "message: slowed",
        "recovery: torn tail cut",
        "recovery: checkpoint",
    ]);
    match mode {
        Mode::Leader => expected.extend([
            "recovery: election won",
            "members: added",
            "members: promoted",
            "members: removed",
            "members: replaced",
            "members: a voter lost its disk",
            "members: one without its disk left",
            "a wiped node stayed out",
            "a removed node stopped",
            "transfer: done",
            "transfer: refused",
            "transfer: hand-over at stop",
            "a fixed leader led",
            "recovery: consensus log truncated",
            "recovery: snapshot sent",
            "recovery: snapshot installed",
            "write: forwarded",
            "write: expired by the log",
            "write: duplicate discarded",
            "write: answered by its idempotency key",
            "client: retry under its idempotency key",
            "client: retry told what became of the write",
            "client: refused write done by its retry",
            "client: remembered answer given again",
            "client: reused idempotency key refused",
            "read: confirmation round",
            "read: on a follower's word",
            "read: the leader's round on a word",
            "read: by lease alone",
            "read: refused as too stale",
            "clocks: monotonic ones drift",
        ]),
        Mode::Leaderless => expected.extend(LEADERLESS),
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_missing_until_it_happens() {
        let mut coverage = Coverage::default();
        let missing = coverage.missing(Mode::Leader);
        assert!(missing.contains(&"recovery: snapshot installed"));
        coverage.add("recovery: snapshot installed", 1);
        let mut sum = Coverage::default();
        sum.merge(&coverage);
        assert!(!sum.missing(Mode::Leader).contains(&"recovery: snapshot installed"));
        assert_eq!(sum.to_string(), "recovery: snapshot installed 1");
    }
}
