//! The ledger at work: kept with every batch, and compared with all rows.
//!
//! **When all rows are read.** At an open, before anything is served, where the machine went down
//! while the table was open, or where that is quick; else beside the work, a page at a time. A row that
//! changes behind the check's cursor changes the check's own sum by as much as the ledger's, so that
//! both meet at the end whatever was written meanwhile.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::ledger::{Ledger, Sum};
use super::rows::{self, LEDGER_KEY, ROWS_END, Stored};
use crate::storage::table::{TableBatch, TableError};

/// What is checked in one step, in rows and in bytes of values, and one row more: at most some
/// milliseconds, which writes wait.
const CHECK_STEP_ROWS: usize = 256;
const CHECK_STEP_BYTES: usize = 1 << 20;

/// The ledger, and the check that is under way.
#[derive(Default)]
pub(super) struct Books {
    ledger: Ledger,
    check: Option<Check>,
    /// Batches applied since the table was opened.
    pub batches: u64,
}

/// How far a check is.
#[derive(Default)]
struct Check {
    /// sled's key of the last row that was read.
    cursor: Option<Vec<u8>>,
    sum: Sum,
}

impl Books {
    /// Reads the ledger; a table without rows and without one is new.
    pub(super) fn open(db: &sled::Db) -> Result<Books, TableError> {
        let ledger = match db.get(LEDGER_KEY)? {
            Some(bytes) => Ledger::decode(&bytes)?,
            None if db.is_empty() => Ledger::default(),
            None => {
                return Err(TableError::Damaged(
                    "it holds rows but no ledger of them: part of its files was lost, or an \
                     earlier version of quorate made it; restore this node's data directory from \
                     a copy, or replace the node"
                        .to_owned(),
                ));
            }
        };
        Ok(Books { ledger, check: None, batches: 0 })
    }

    /// Turns a batch into sled's, the ledger's change included. What is counted here holds once
    /// sled applied it.
    pub(super) fn write(
        &mut self,
        db: &sled::Db,
        batch: TableBatch,
    ) -> Result<sled::Batch, TableError> {
        let mut changes = sled::Batch::default();
        // Later changes of a row win, and only they are counted.
        let last: BTreeMap<Bytes, Option<Bytes>> = batch.changes.into_iter().collect();
        for (key, value) in last {
            let row = rows::row_key(&key);
            let old = db.get(&row)?;
            if let Some(old) = &old {
                let stored = Stored::parse(old)?;
                let hash = stored.hash(&key);
                self.count(&row, |sum| sum.subtract(hash));
                if let Stored::Parts(parts) = stored {
                    parts.remove(&mut changes);
                }
            }
            match value {
                Some(value) => {
                    let number = &mut self.ledger.next_parts;
                    let hash = rows::put(&key, &value, number, &mut changes);
                    self.count(&row, |sum| sum.add(hash));
                }
                None if old.is_some() => changes.remove(row),
                None => {}
            }
        }
        changes.insert(&LEDGER_KEY, &self.ledger.encode()[..]);
        self.batches += 1;
        Ok(changes)
    }

    fn count(&mut self, row: &[u8], change: impl Fn(&mut Sum)) {
        change(&mut self.ledger.sum);
        if let Some(check) = &mut self.check
            && check.cursor.as_deref().is_some_and(|cursor| row <= cursor)
        {
            change(&mut check.sum);
        }
    }

    /// Begins to compare all rows with the ledger.
    pub(super) fn begin_check(&mut self) {
        self.check = Some(Check::default());
    }

    /// Takes the next rows into the check; false once it is done and all rows were right. No batch
    /// may be applied meanwhile.
    pub(super) fn check_step(&mut self, db: &sled::Db) -> Result<bool, TableError> {
        let Some(check) = &mut self.check else { return Ok(false) };
        let first = rows::row_key(b"");
        let from = match &check.cursor {
            Some(cursor) => Bound::Excluded(&cursor[..]),
            None => Bound::Included(&first[..]),
        };
        let (mut read, mut bytes) = (0, 0);
        for row in db.range::<&[u8], _>((from, Bound::Excluded(&ROWS_END[..]))) {
            let (row, stored) = row?;
            let key = rows::key_of(&row);
            let form = Stored::parse(&stored)?;
            check.sum.add(form.hash(key));
            bytes += stored.len();
            if matches!(form, Stored::Parts(_)) {
                // Reading a value in parts compares it with the hash that was counted.
                bytes += rows::read(db, &row, stored.clone())?.map_or(0, |value| value.len());
            }
            read += 1;
            if read == CHECK_STEP_ROWS || bytes >= CHECK_STEP_BYTES {
                check.cursor = Some(row.to_vec());
                return Ok(true);
            }
        }
        let found = check.sum;
        self.check = None;
        self.ledger.sum.check(found).map(|()| false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_a_check_reads_few_long_values() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = sled::open(dir.path()).expect("opens");
        let mut books = Books::open(&db).expect("new");
        let mut batch = TableBatch::default();
        (0..6_u8).for_each(|key| batch.put(vec![key], vec![key; CHECK_STEP_BYTES / 2]));
        let changes = books.write(&db, batch).expect("written");
        db.apply_batch(changes).expect("applied");
        books.begin_check();
        let mut steps = 1;
        while books.check_step(&db).expect("all is right") {
            steps += 1;
        }
        assert_eq!(steps, 4, "two rows a step, and the end");
    }
}
