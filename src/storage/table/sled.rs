//! sled 0.34 as a table.
//!
//! What sled itself does, read from its source at 0.34.7, because this module stands on it:
//!
//! - **Atomic batches.** `Tree::apply_batch` reserves a batch manifest in sled's log before the first
//!   row, and writes into it at the end how far the log must reach. Recovery stops before a manifest
//!   whose log does not reach that far, so a batch comes back whole or not at all, and all before it.
//! - **Flush.** On Linux, `flush` writes with `sync_file_range`, which neither flushes the device's
//!   cache nor the file's metadata; pages too large for a log segment lie in files of their own
//!   (`blobs/`) that it does not sync at all. [`Table::checkpoint`] therefore syncs every file and
//!   directory by itself.
//! - **Never `flush_async`**: it waits in the thread pool for writes that need the same pool.
//! - **Close.** sled flushes on drop. Its pool threads may hold the locked file a little longer, so
//!   that opening waits for the lock, bounded.
//! - Space is reclaimed as pages are rewritten, with or without sled's background flusher.
//!
//! **Not guaranteed.** A crash of the process keeps the contract of [`Table`] in full. A power cut
//! keeps it as far as the device keeps the order of writes between two checkpoints: sled issues no
//! barriers of its own, and skips silently over a page whose own file did not reach the disk.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::overlay::{ActiveView, SledView, Views};
use super::{Table, TableBatch, TableError, TableView};

/// How often opening tries for the lock, and the pause between two tries: one second in all, far
/// longer than sled's threads hold on to a file after a close.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const SEGMENT_BYTES: usize = 2 << 20;

/// sled as a table.
pub struct SledTable {
    inner: Arc<Inner>,
}

/// What a table and its view share. The view holds it weakly, so that dropping the table closes it.
pub(super) struct Inner {
    pub(super) db: sled::Db,
    /// Held by every apply and by every page of a view.
    pub(super) views: Mutex<Views>,
    pub(super) overlay_bytes: u64,
    dir: PathBuf,
    /// sled's data file, opened again at once after sled did, so that no failed write-back of it
    /// goes unreported to our syncs.
    data_file: File,
    /// One checkpoint at a time.
    checkpoints: Mutex<Checkpoints>,
}

#[derive(Default)]
struct Checkpoints {
    /// Why the last one failed: after a failed sync nothing is known, and none is tried again.
    failed: Option<TableError>,
    /// Names of page files that an earlier checkpoint synced. sled never writes to one again, and
    /// never uses its name again while it is open.
    synced: BTreeSet<OsString>,
}

impl SledTable {
    /// Opens or creates the table in `dir`. `cache_bytes` bounds sled's page cache, `overlay_bytes`
    /// what a view may keep.
    pub fn open(dir: &Path, cache_bytes: u64, overlay_bytes: u64) -> Result<SledTable, TableError> {
        let db = open_unlocked(&config(dir, cache_bytes))?;
        let data_file = File::open(dir.join("db"))?;
        let inner = Inner {
            db,
            views: Mutex::new(Views::default()),
            overlay_bytes,
            dir: dir.to_owned(),
            data_file,
            checkpoints: Mutex::default(),
        };
        Ok(SledTable { inner: Arc::new(inner) })
    }
}

/// Every setting that touches safety or speed, on purpose.
fn config(dir: &Path, cache_bytes: u64) -> sled::Config {
    sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        // A page of up to 17 rows that does not fit a quarter of a segment becomes a file of its own,
        // which costs a sync at the next checkpoint and is the weak spot in a power cut. sled's own
        // 512 KiB puts rows of 8 KiB into files; with 2 MiB they start near 30 KiB. It is written
        // into the data directory at the first start and cannot change after.
        .segment_size(SEGMENT_BYTES)
        // No background flush: the commit log is the truth, and a checkpoint says when to sync.
        .flush_every_ms(None)
        // 0.34.7 does not look at the mode; should a later patch do, speed is what we would choose.
        .mode(sled::Mode::HighThroughput)
        // Needs a C library, and values are often compressed already.
        .use_compression(false)
        .temporary(false)
        .create_new(false)
        .print_profile_on_drop(false)
}

/// Opens sled, waiting for the lock that a table just closed in this process may still hold.
fn open_unlocked(config: &sled::Config) -> Result<sled::Db, TableError> {
    let mut tries = 1;
    loop {
        // sled asserts some of what it reads; a damaged file must refuse to open, not end the node.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| damaged(config, "sled could not read its files"))?;
        match opened {
            Err(error) if is_locked(&error) && tries < LOCK_TRIES => {
                tries += 1;
                pause();
            }
            Err(error @ sled::Error::Corruption { .. }) => {
                return Err(damaged(config, &error.to_string()));
            }
            opened => return Ok(opened?),
        }
    }
}

fn damaged(config: &sled::Config, what: &str) -> TableError {
    TableError::Damaged(format!("{}: {what}", config.get_path().display()))
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

// Never in a simulated world, which has no sled; and opening runs before the node does.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

impl From<sled::Error> for TableError {
    fn from(error: sled::Error) -> TableError {
        match error {
            sled::Error::Io(error) => TableError::from(error),
            sled::Error::Corruption { .. } => TableError::Damaged(error.to_string()),
            other => TableError::from(io::Error::other(other.to_string())),
        }
    }
}

impl Table for SledTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        Ok(self.inner.db.get(key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let mut rows = Vec::new();
        for row in self.inner.range(from, to).take(limit) {
            let (key, value) = row?;
            rows.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
        }
        Ok(rows)
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        let keys = self.inner.range(from, to).take(limit);
        keys.map(|row| Ok(Bytes::copy_from_slice(&row?.0))).collect()
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        let mut views = self.inner.views.lock();
        if let Some(view) = &mut views.active {
            view.keep_old_rows(&self.inner, &batch)?;
        }
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes {
            match value {
                Some(value) => changes.insert(&key[..], &value[..]),
                None => changes.remove(&key[..]),
            }
        }
        Ok(self.inner.db.apply_batch(changes)?)
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        let mut checkpoints = self.inner.checkpoints.lock();
        if let Some(error) = &checkpoints.failed {
            return Err(error.clone());
        }
        let done = self.inner.checkpoint(&mut checkpoints.synced);
        checkpoints.failed = done.clone().err();
        done
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        let mut views = self.inner.views.lock();
        views.taken += 1;
        views.active = Some(ActiveView::new(views.taken));
        Ok(Box::new(SledView::new(Arc::downgrade(&self.inner), views.taken)))
    }
}

impl Inner {
    /// Bounds the wrong way round hold nothing; sled is not asked what it makes of them.
    fn range(&self, from: &[u8], to: &[u8]) -> sled::Iter {
        self.db.range::<&[u8], _>((Bound::Included(from), Bound::Excluded(to.max(from))))
    }

    fn checkpoint(&self, synced: &mut BTreeSet<OsString>) -> Result<(), TableError> {
        // While no batch is being applied, every page file there is is complete.
        let page_files = {
            let _no_apply = self.views.lock();
            files_in(&self.dir.join("blobs"))?
        };
        // The log refers to them, so that they go first.
        for name in page_files.difference(synced) {
            sync_file(&self.dir.join("blobs").join(name))?;
        }
        File::open(self.dir.join("blobs"))?.sync_all()?;
        self.db.flush()?;
        self.data_file.sync_all()?;
        for name in files_in(&self.dir)?.iter().filter(|name| *name != "db") {
            sync_file(&self.dir.join(name))?;
        }
        File::open(&self.dir)?.sync_all()?;
        // The table's own name, in the directory above it.
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        *synced = page_files;
        Ok(())
    }
}

fn files_in(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.insert(entry.file_name());
        }
    }
    Ok(names)
}

/// Syncs a file, unless sled removed it meanwhile, which it does only once nothing needs it.
fn sync_file(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
