//! A state machine over a table, to apply entries to.

use std::sync::Arc;

use super::support::*;
use crate::consensus::apply::{Applying, MachineState};
use crate::consensus::raft_types::Entry;
use crate::consensus::{Applied, Command, Submission, SubmissionResult};
use crate::storage::disk::SimDisk;
use crate::storage::table::Table;
use crate::storage::{encoding, rows};
use crate::telemetry::Metrics;
use crate::types::{Content, Version};

/// Applies entries to a table as one batch or as one each, and keeps the results.
pub struct Bench {
    pub state: MachineState,
    pub table: Arc<dyn Table>,
    pub metrics: Metrics,
    next: u64,
}

impl Bench {
    pub fn new() -> Bench {
        let table: Arc<dyn Table> = open_table(&SimDisk::new(1));
        let state = MachineState::load(&*table).expect("loads");
        Bench { state, table, metrics: Metrics::new(), next: 0 }
    }

    fn entry(&mut self, submissions: Vec<Submission>) -> Entry {
        self.next += 1;
        entry(1, self.next, &Command::Data(submissions))
    }

    /// One batch of an entry for each submission.
    pub fn batch(&mut self, submissions: Vec<Submission>) -> Vec<SubmissionResult> {
        let entries: Vec<_> = submissions.into_iter().map(|one| self.entry(vec![one])).collect();
        let mut applying = Applying::new(&mut self.state, &*self.table, &self.metrics);
        let mut results = Vec::new();
        for entry in &entries {
            match applying.entry(entry).expect("applies") {
                Applied::Data(data) => results.extend(data),
                Applied::Nothing | Applied::Layout(_) => panic!("data has results"),
            }
        }
        applying.commit().expect("commits");
        results
    }

    /// One batch of these commands, an entry each.
    pub fn commands(&mut self, commands: Vec<Command>) {
        let entries: Vec<_> = commands
            .iter()
            .map(|command| {
                self.next += 1;
                entry(1, self.next, command)
            })
            .collect();
        let mut applying = Applying::new(&mut self.state, &*self.table, &self.metrics);
        for entry in &entries {
            applying.entry(entry).expect("applies");
        }
        applying.commit().expect("commits");
    }

    /// All rows.
    pub fn rows(&self) -> Vec<(bytes::Bytes, bytes::Bytes)> {
        self.table.scan(b"", &[0xff], usize::MAX).expect("readable")
    }

    pub fn one(&mut self, submission: Submission) -> SubmissionResult {
        self.batch(vec![submission]).remove(0)
    }

    pub fn content(&self, name: &str) -> Option<(Version, Content)> {
        let row = self.table.get(&rows::data_row(&key(name))).expect("readable")?;
        let record = encoding::decode(&row).expect("a record");
        Some((record.version, record.content))
    }

    /// What was lost with the process comes back from the table.
    pub fn reload(&mut self) {
        self.state = MachineState::load(&*self.table).expect("loads");
    }
}
