//! What the real state machine promises, in few lines: sessions, conditions, rising versions. And a
//! table to apply to.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::consensus::{Submission, SubmissionResult, WriteResult};
use crate::storage::encoding;
use crate::storage::rows::data_row;
use crate::storage::table::{Table, TableBatch, TableError, TableView};
use crate::types::{Change, Key, NodeId, Version};

/// An ordered map without durability.
#[derive(Default)]
pub struct PlainTable(Mutex<BTreeMap<Bytes, Bytes>>);

impl Table for PlainTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let rows = self.0.lock();
        let range = (Bound::Included(from), Bound::Excluded(to));
        let found = rows.range::<[u8], _>(range).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let mut rows = self.0.lock();
        for (key, value) in batch.changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        Err(TableError::Damaged("this table has no views".to_owned()))
    }
}

/// The state machine.
#[derive(Default)]
pub struct Machine {
    last_time: u64,
    current: BTreeMap<Key, Version>,
    sessions: BTreeMap<NodeId, Kept>,
    /// How often each value was applied: a test gives every write a value of its own.
    pub applications: BTreeMap<Bytes, Vec<Version>>,
    pub duplicates: usize,
}

#[derive(Default)]
struct Kept {
    boot: u64,
    settled: u64,
    results: BTreeMap<u64, Vec<WriteResult>>,
}

impl Machine {
    /// Applies a submission; what it changes in the table goes into `batch`.
    pub fn apply(&mut self, submission: &Submission, batch: &mut TableBatch) -> SubmissionResult {
        let session = submission.session;
        let kept = self.sessions.entry(session.origin).or_default();
        if session.boot > kept.boot {
            *kept = Kept { boot: session.boot, ..Kept::default() };
        }
        if session.boot < kept.boot || session.sequence <= kept.settled {
            return SubmissionResult::Settled;
        }
        if let Some(results) = kept.results.get(&session.sequence) {
            self.duplicates += 1;
            return SubmissionResult::Applied(results.clone());
        }
        assert!(session.settled < session.sequence, "a submission that settles itself");
        kept.settled = kept.settled.max(session.settled);
        kept.results = kept.results.split_off(&(kept.settled + 1));
        let mut results = Vec::new();
        for write in &submission.writes {
            let current = self.current.get(&write.key).copied();
            if write.condition.as_ref().is_some_and(|condition| !condition.holds(current)) {
                results.push(WriteResult::PreconditionFailed { current });
                continue;
            }
            self.last_time = (self.last_time + 1).max(submission.proposed_time);
            let version = Version::new(self.last_time, session.origin);
            match &write.change {
                Change::Put { value, .. } | Change::PutFor { value, .. } => {
                    self.applications.entry(value.clone()).or_default().push(version);
                    self.current.insert(write.key.clone(), version);
                }
                Change::Delete => {
                    self.current.remove(&write.key);
                }
            }
            let record = write.change.clone().into_record(version);
            batch.put(data_row(&write.key), encoding::encode(&record));
            results.push(WriteResult::Written { version });
        }
        if let Some(kept) = self.sessions.get_mut(&session.origin) {
            kept.results.insert(session.sequence, results.clone());
        }
        SubmissionResult::Applied(results)
    }
}
