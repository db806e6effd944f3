//! What a replica takes from its commit log when a node starts.
//!
//! **Guarantees.** Afterwards the table holds every write that the log holds, the version ceiling is the
//! highest ever stored, and the layout the newest. Replaying again changes nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::horizons::{self, Change};
use super::merge::{Merge, applied_position};
use super::messages::{StoredWrite, decode_writes, weight};
use super::{active, ceiling};
use crate::planted::{self, Bug};
use crate::storage::log::{Kind, Position, ReplayedRecord};
use crate::storage::table::{Table, TableError};
use crate::telemetry::Metrics;
use crate::types::{Epoch, LayoutState};

/// How many bytes of writes are merged at once: enough that a batch costs little, and bounded.
const REPLAY_BATCH_BYTES: usize = 4 << 20;

/// Takes the replica's records while the commit log is opened. The table must be open before.
pub struct ReplicaReplay {
    table: Arc<dyn Table>,
    metrics: Metrics,
    applied: Option<Position>,
    ceiling_ms: u64,
    layout: Option<LayoutState>,
    waiting: Vec<StoredWrite>,
    waiting_bytes: usize,
    horizons: Vec<Change>,
    last: Option<Position>,
}

/// What the log said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last record whose writes are in the table.
    pub applied: Option<Position>,
    /// The highest version ceiling stored, in milliseconds since 1970; 0 where there is none.
    pub ceiling_ms: u64,
    /// The layout that the node went by last; `None` where it never was told one.
    pub layout: Option<LayoutState>,
}

impl ReplicaReplay {
    /// Starts from what the table says was applied.
    pub fn new(table: Arc<dyn Table>, metrics: Metrics) -> Result<ReplicaReplay, TableError> {
        let applied = applied_position(&*table)?;
        Ok(ReplicaReplay {
            table,
            metrics,
            applied,
            ceiling_ms: 0,
            layout: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            horizons: Vec::new(),
            last: None,
        })
    }

    /// Takes a record of one of the replica's kinds; others are ignored.
    pub fn take(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        match record.kind {
            Kind::VersionCeiling => {
                self.ceiling_ms = self.ceiling_ms.max(ceiling::decode(record.payload)?);
                Ok(())
            }
            Kind::Layout => {
                let state = active::decode_state(record.payload)?;
                let known = self.layout.as_ref().map_or(Epoch(0), |known| known.epoch);
                if state.epoch > known {
                    self.layout = Some(state);
                }
                Ok(())
            }
            Kind::ReplicaWrites if Some(record.position) > self.applied => self.take_writes(record),
            Kind::Horizons if Some(record.position) > self.applied => {
                self.horizons.extend(horizons::decode(record.payload)?);
                self.last = Some(record.position);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_writes(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        if planted::is(Bug::ReplaySkipsOne) && self.last.is_none() {
            self.last = Some(record.position);
            return Ok(());
        }
        let payload = Bytes::copy_from_slice(record.payload);
        let writes = decode_writes(&payload).map_err(|error| error.to_string())?;
        self.waiting_bytes += writes.iter().map(|w| weight(&w.key, &w.record)).sum::<usize>();
        self.waiting.extend(writes);
        self.last = Some(record.position);
        if self.waiting_bytes >= REPLAY_BATCH_BYTES {
            self.apply().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), TableError> {
        let Some(last) = self.last.take() else { return Ok(()) };
        let mut merge = Merge::new(&*self.table, &self.metrics);
        for write in self.waiting.drain(..) {
            merge.take(&write)?;
        }
        merge.take_horizons(&std::mem::take(&mut self.horizons));
        self.waiting_bytes = 0;
        self.table.apply(merge.into_batch(last)?.0)?;
        self.applied = Some(last);
        Ok(())
    }

    /// Merges what is left. Call it once the log is open.
    pub fn finish(mut self) -> Result<Recovered, TableError> {
        self.apply()?;
        let ReplicaReplay { applied, ceiling_ms, layout, .. } = self;
        Ok(Recovered { applied, ceiling_ms, layout })
    }
}
