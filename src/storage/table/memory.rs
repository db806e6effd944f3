//! A table in memory, written out whole at each checkpoint.
//!
//! It exists for simulated worlds, where an engine with threads and files of its own cannot run, and
//! for tests. It promises exactly what [`Table`] promises, over whatever [`Disk`] it is given. A
//! checkpoint costs as much as the table is large, and so does a view: not an engine for big data.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes};
use parking_lot::{Mutex, RwLock};

use super::{Table, TableBatch, TableError, TableView};
use crate::storage::disk::{Disk, read_file, replace_file};

type Rows = BTreeMap<Bytes, Bytes>;

/// What a checkpoint begins with: the name of the format, and its number.
const MAGIC: [u8; 8] = *b"quotabl\x01";

/// Magic, length of the body (8 bytes), CRC-32C of the body (4 bytes).
const HEAD_BYTES: usize = 8 + 8 + 4;

/// An ordered map in memory over a [`Disk`]; a crash loses what was not checkpointed.
pub struct MemoryTable {
    rows: RwLock<Rows>,
    disk: Arc<dyn Disk>,
    path: String,
    /// One checkpoint at a time: two would write the same temporary file. Holds why the last one
    /// failed: after a failed sync nothing is known, and none is tried again.
    checkpointing: Mutex<Option<TableError>>,
    /// The number of the view taken last; an older one has ended.
    last_view: Arc<AtomicU64>,
}

impl MemoryTable {
    /// Opens what the last checkpoint wrote to `path`, or an empty table.
    pub fn open(disk: Arc<dyn Disk>, path: &str) -> Result<MemoryTable, TableError> {
        let rows = match read_file(&*disk, path)? {
            Some(bytes) => parse_checkpoint(Bytes::from(bytes))
                .map_err(|what| TableError::Damaged(format!("{path}: {what}")))?,
            None => Rows::new(),
        };
        Ok(MemoryTable {
            rows: RwLock::new(rows),
            disk,
            path: path.to_owned(),
            checkpointing: Mutex::new(None),
            last_view: Arc::new(AtomicU64::new(0)),
        })
    }
}

impl Table for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        Ok(self.rows.read().get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let rows = self.rows.read();
        // `BTreeMap::range` panics where the bounds are the wrong way round.
        let range = (Bound::Included(from), Bound::Excluded(to.max(from)));
        let rows = rows.range::<[u8], _>(range).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let mut rows = self.rows.write();
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
        let mut failed = self.checkpointing.lock();
        if let Some(error) = &*failed {
            return Err(error.clone());
        }
        let bytes = write_checkpoint(&self.rows.read());
        let done = replace_file(&*self.disk, &self.path, &bytes).map_err(TableError::from);
        *failed = done.clone().err();
        done
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        let rows = self.rows.read();
        let number = self.last_view.fetch_add(1, Ordering::SeqCst) + 1;
        let last_view = self.last_view.clone();
        Ok(Box::new(MemoryView { rows: rows.clone(), number, last_view }))
    }
}

/// A copy of the map; the rows themselves are shared.
struct MemoryView {
    rows: Rows,
    number: u64,
    last_view: Arc<AtomicU64>,
}

impl TableView for MemoryView {
    fn next_page(&mut self, max_bytes: usize) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        if self.number != self.last_view.load(Ordering::SeqCst) {
            return Err(TableError::ViewEnded);
        }
        let mut page = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes.max(1) {
            let Some((key, value)) = self.rows.pop_first() else { break };
            bytes += (key.len() + value.len()).max(1);
            page.push((key, value));
        }
        Ok(page)
    }
}

fn write_checkpoint(rows: &Rows) -> Vec<u8> {
    let body_bytes: usize = rows.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
    let mut out = Vec::with_capacity(HEAD_BYTES + body_bytes);
    out.put_slice(&MAGIC);
    out.put_u64(body_bytes as u64);
    out.put_u32(0);
    for (key, value) in rows {
        out.put_u32(key.len() as u32);
        out.put_u32(value.len() as u32);
        out.put_slice(key);
        out.put_slice(value);
    }
    let checksum = crc32c::crc32c(&out[HEAD_BYTES..]);
    out[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&checksum.to_be_bytes());
    out
}

/// Reads [`write_checkpoint`] back; the rows share `bytes`.
fn parse_checkpoint(mut bytes: Bytes) -> Result<Rows, &'static str> {
    const SHORT: &str = "the checkpoint is cut short";
    if bytes.len() < HEAD_BYTES {
        return Err(SHORT);
    }
    if bytes.split_to(MAGIC.len()) != MAGIC[..] {
        return Err("it is no checkpoint of a table in memory, or of another format");
    }
    let (body_bytes, checksum) = (bytes.get_u64(), bytes.get_u32());
    if bytes.len() as u64 != body_bytes {
        return Err("the checkpoint has another length than it says");
    }
    if crc32c::crc32c(&bytes) != checksum {
        return Err("the checkpoint's checksum is wrong");
    }
    let mut rows = Rows::new();
    while !bytes.is_empty() {
        if bytes.len() < 8 {
            return Err(SHORT);
        }
        let (key_bytes, value_bytes) = (bytes.get_u32() as usize, bytes.get_u32() as usize);
        if bytes.len() < key_bytes.saturating_add(value_bytes) {
            return Err(SHORT);
        }
        let key = bytes.split_to(key_bytes);
        rows.insert(key, bytes.split_to(value_bytes));
    }
    Ok(rows)
}
