//! Merging writes into a replica's rows: the newest of each key wins, whenever and however often it
//! is merged. The applier and the replay share it, so that both come to the same rows.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::horizons::{self, Change};
use super::messages::StoredWrite;
use super::tally::Taken;
use super::trees::ChangedRow;
use crate::planted::{self, Bug};
use crate::storage::encoding::{DecodeError, collide, compare, peek};
use crate::storage::log::Position;
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, TableError};
use crate::telemetry::Metrics;

/// The row that names the last log record whose writes are in the table.
const APPLIED: &str = "replica-applied";

/// The row that names a place before which the log may have been cut.
const RELEASED: &str = "replica-released";

/// Writes that go into the table together.
pub struct Merge<'a> {
    table: &'a dyn Table,
    metrics: &'a Metrics,
    /// The rows that change, as they will be.
    changed: BTreeMap<Bytes, Changed>,
    horizons: Vec<Change>,
}

/// A row that changes.
struct Changed {
    /// What the table holds.
    was: Option<Bytes>,
    now: Bytes,
}

impl<'a> Merge<'a> {
    /// Nothing yet.
    pub fn new(table: &'a dyn Table, metrics: &'a Metrics) -> Merge<'a> {
        Merge { table, metrics, changed: BTreeMap::new(), horizons: Vec::new() }
    }

    /// Merges one write, and says whether its record is the newest of its key now.
    pub fn take(&mut self, write: &StoredWrite) -> Result<Taken, TableError> {
        let row = rows::data_row(&write.key);
        let current = match self.changed.get(&row) {
            Some(changed) => Some(changed.now.clone()),
            None => self.table.get(&row)?,
        };
        let Some(current) = current else {
            self.change(row, None, write);
            return Ok(Taken::Newest);
        };
        let damaged = |error: DecodeError| damaged(write, &error);
        let order = compare(&write.record, &current).map_err(damaged)?;
        let version = peek(&current).map_err(damaged)?.0;
        if collide(&write.record, &current) {
            self.metrics.version_collisions.inc();
            tracing::error!(key = %write.key, %version, "two different records under one version");
        }
        match order {
            _ if planted::is(Bug::LastArrivalWins) => {
                self.change(row, Some(current), write);
                Ok(Taken::Newest)
            }
            Ordering::Greater => {
                self.change(row, Some(current), write);
                Ok(Taken::Newest)
            }
            Ordering::Equal => Ok(Taken::Newest),
            Ordering::Less => Ok(Taken::SupersededBy(version)),
        }
    }

    /// Takes the horizons of one record of the log.
    pub fn take_horizons(&mut self, changes: &[Change]) {
        self.horizons.extend_from_slice(changes);
    }

    /// `current` is what the row holds in the table, or by an earlier write of this merge.
    fn change(&mut self, row: Bytes, current: Option<Bytes>, write: &StoredWrite) {
        let now = write.record.clone();
        self.changed
            .entry(row)
            .and_modify(|changed| changed.now = now.clone())
            .or_insert(Changed { was: current, now });
    }

    /// The changes, and with them the position of the last log record that they come from: both are
    /// in the table after a crash, or neither. Beside them each row that changes, for its hash tree.
    pub fn into_batch(
        self,
        applied: Position,
    ) -> Result<(TableBatch, Vec<ChangedRow>), TableError> {
        let mut batch = TableBatch::default();
        let mut rows = Vec::with_capacity(self.changed.len());
        for (row, Changed { was, now }) in self.changed {
            let forgotten =
                planted::is(Bug::TombstoneNotStored) && peek(&now).is_ok_and(|head| head.1);
            let now = (!forgotten).then_some(now);
            let changed = ChangedRow { row, was, now };
            put_changed(&mut batch, &changed)?;
            rows.push(changed);
        }
        horizons::put(&mut batch, &self.horizons);
        batch.put(rows::meta_row(APPLIED), applied.0.to_be_bytes().to_vec());
        Ok((batch, rows))
    }
}

/// Changes a row, and with it what says that it is a deletion, or comes to be one.
pub fn put_changed(batch: &mut TableBatch, changed: &ChangedRow) -> Result<(), TableError> {
    let ChangedRow { row, was, now } = changed;
    batch.changes.push((row.clone(), now.clone()));
    let due_ms = |record: &Option<Bytes>| {
        let due = record.as_ref().map(|record| horizons::due_ms(record)).transpose();
        due.map(Option::flatten).map_err(|error| TableError::Damaged(error.to_string()))
    };
    let (was, now) = (due_ms(was)?, due_ms(now)?);
    if was != now
        && let Some(collectable) = rows::collectable_row(row)
    {
        batch.changes.push((collectable, now.map(|at_ms| at_ms.to_be_bytes().to_vec().into())));
    }
    Ok(())
}

fn damaged(write: &StoredWrite, error: &DecodeError) -> TableError {
    TableError::Damaged(format!("the row of key '{}': {error}", write.key))
}

/// The last log record whose writes are in the table; `None` in a table that never had any.
pub fn applied_position(table: &dyn Table) -> Result<Option<Position>, TableError> {
    position(table, APPLIED)
}

/// Says in the table that the log may be cut before `released`: a checkpoint with it comes first.
pub fn released_batch(released: Position) -> TableBatch {
    let mut batch = TableBatch::default();
    batch.put(rows::meta_row(RELEASED), released.0.to_be_bytes().to_vec());
    batch
}

/// Before what place the log may have been cut; `None` where it never was.
pub fn released_position(table: &dyn Table) -> Result<Option<Position>, TableError> {
    position(table, RELEASED)
}

fn position(table: &dyn Table, name: &str) -> Result<Option<Position>, TableError> {
    let Some(value) = table.get(&rows::meta_row(name))? else { return Ok(None) };
    match <[u8; 8]>::try_from(value.as_ref()) {
        Ok(bytes) => Ok(Some(Position(u64::from_be_bytes(bytes)))),
        Err(_) => Err(TableError::Damaged(format!("the row '{name}' is no position"))),
    }
}
