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
//! - **Power cuts.** sled issues no barriers of its own, never syncs `blobs/`, and recovery skips in
//!   silence over a page that it cannot find. `rows` therefore keeps every page too small for a file
//!   of its own, and `ledger` keeps a sum over all rows that shows where any of them is missing or
//!   old. `books` says when it is compared, and `boot` whether the machine went down.
//! - **Damage.** sled panics over some of what it reads. Every call into it is caught, and ends the
//!   table with one clear line.
//!
//! **Not guaranteed.** A crash of the process keeps the contract of [`Table`] in full. After a power
//! cut the table opens as the contract says, or is refused: sled may reuse parts of its file before
//! what replaced them is on the device, and what that loses cannot be brought back. Rot in a large
//! table may show only once the check beside the work has come to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Table, TableBatch, TableError, TableView};
use crate::runtime::Runtime;

mod books;
mod boot;
mod ledger;
mod overlay;
mod rows;

use self::books::Books;
use self::overlay::{ActiveView, SledView, Views};

/// How often opening tries for the lock, and the pause between two tries: one second in all, far
/// longer than sled's threads hold on to a file after a close.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

const SEGMENT_BYTES: usize = 2 << 20;

/// A table whose files are no longer than this in all is checked before it is served: it takes some
/// hundred milliseconds at most.
const CHECKED_AT_OPEN_BYTES: u64 = 256 << 20;

/// The pause between two steps of a check beside the work, so that it takes a fraction of one core.
const CHECK_PAUSE: Duration = Duration::from_millis(1);

/// sled as a table.
pub struct SledTable {
    inner: Arc<Inner>,
}

/// What a table and its view share. The view holds it weakly, so that dropping the table closes it.
struct Inner {
    db: sled::Db,
    /// Held by every apply and by every page of a view.
    views: Mutex<Views>,
    overlay_bytes: u64,
    dir: PathBuf,
    /// Taken after `views`.
    books: Mutex<Books>,
    /// How the table failed, once it has: sled is not called again after that.
    failed: OnceLock<TableError>,
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
    /// How many batches the last one made durable.
    batches: u64,
    /// Names of page files that an earlier checkpoint synced. sled never writes to one again, and
    /// never uses its name again while it is open.
    synced: BTreeSet<OsString>,
}

impl SledTable {
    /// Opens or creates the table in `dir`. `cache_bytes` bounds sled's page cache, `overlay_bytes`
    /// what a view may keep.
    pub fn open(dir: &Path, cache_bytes: u64, overlay_bytes: u64) -> Result<SledTable, TableError> {
        SledTable::open_checked(dir, cache_bytes, overlay_bytes, CHECKED_AT_OPEN_BYTES)
    }

    /// [`SledTable::open`], with another size up to which all rows are read first.
    pub(super) fn open_checked(
        dir: &Path,
        cache_bytes: u64,
        overlay_bytes: u64,
        checked_bytes: u64,
    ) -> Result<SledTable, TableError> {
        let config = config(dir, cache_bytes);
        let db = open_unlocked(&config)?;
        let within = |error| match error {
            TableError::Damaged(what) => damaged(&config, &what),
            other => other,
        };
        let books = caught(|| Books::open(&db)).map_err(within)?;
        let inner = Arc::new(Inner {
            db,
            views: Mutex::new(Views::default()),
            overlay_bytes,
            dir: dir.to_owned(),
            books: Mutex::new(books),
            failed: OnceLock::new(),
            data_file: File::open(dir.join("db"))?,
            checkpoints: Mutex::default(),
        });
        let check_first = boot::went_down(dir)? || bytes_in(dir)? <= checked_bytes;
        inner.books.lock().begin_check();
        if check_first {
            while inner.check_step().map_err(within)? {}
        } else {
            let table = Arc::downgrade(&inner);
            Runtime::real().thread("table-check", move || check_beside_the_work(&table))?;
        }
        boot::mark(dir)?;
        Ok(SledTable { inner })
    }
}

#[cfg(test)]
impl SledTable {
    /// Waits until the check that began at the open is done.
    pub(super) fn check_to_its_end(&self) -> Result<(), TableError> {
        while self.inner.check_step()? {}
        self.inner.guarded(|| Ok(()))
    }
}

/// Compares all rows with the ledger while the table is used, until it is closed.
fn check_beside_the_work(table: &Weak<Inner>) {
    loop {
        let Some(table) = table.upgrade() else { return };
        match table.check_step() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "the check of the table found damage");
                return;
            }
        }
        drop(table);
        pause(CHECK_PAUSE);
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
                pause(LOCK_PAUSE);
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

// Never in a simulated world, which has no sled; and never on a thread that serves requests.
#[allow(clippy::disallowed_methods)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs work that calls sled, and makes damage of a panic there.
fn caught<T>(work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(TableError::Damaged(
            "sled panicked over what its files hold; restore this node's data directory from a \
             copy, or replace the node"
                .to_owned(),
        ))
    })
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
        self.inner.guarded(|| rows::get(&self.inner.db, key))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        self.inner.guarded(|| {
            let mut found = Vec::new();
            for row in self.inner.range(from, to) {
                if found.len() >= limit {
                    break;
                }
                let (row, stored) = row?;
                // A row that has gone meanwhile was not there at the instant after that.
                if let Some(value) = rows::read(&self.inner.db, &row, stored)? {
                    found.push((Bytes::copy_from_slice(rows::key_of(&row)), value));
                }
            }
            Ok(found)
        })
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        self.inner.guarded(|| {
            let rows = self.inner.range(from, to).take(limit);
            rows.map(|row| Ok(Bytes::copy_from_slice(rows::key_of(&row?.0)))).collect()
        })
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        self.inner.guarded(|| {
            let mut views = self.inner.views.lock();
            if let Some(view) = &mut views.active {
                view.keep_old_rows(&self.inner, &batch)?;
            }
            let changes = self.inner.books.lock().write(&self.inner.db, batch)?;
            Ok(self.inner.db.apply_batch(changes)?)
        })
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn checkpoint(&self) -> Result<(), TableError> {
        let mut checkpoints = self.inner.checkpoints.lock();
        if let Some(error) = &checkpoints.failed {
            return Err(error.clone());
        }
        let done = self.inner.guarded(|| self.inner.checkpoint(&mut checkpoints));
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
    /// Calls sled, unless the table has failed; what fails or panics there ends the table.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let done = caught(work);
        match &done {
            Ok(_) | Err(TableError::ViewOverrun { .. } | TableError::ViewEnded) => {}
            Err(error) => drop(self.failed.set(self.named(error))),
        }
        done.map_err(|error| self.named(&error))
    }

    /// The error with the directory that it is about.
    fn named(&self, error: &TableError) -> TableError {
        match error {
            TableError::Damaged(what) => {
                TableError::Damaged(format!("{}: {what}", self.dir.display()))
            }
            other => other.clone(),
        }
    }

    /// One step of the check; false once it is done.
    fn check_step(&self) -> Result<bool, TableError> {
        self.guarded(|| {
            let _no_apply = self.views.lock();
            let mut books = self.books.lock();
            let done = caught(|| books.check_step(&self.db));
            if let Err(error) = &done {
                // Before anybody else can see that the check has ended.
                drop(self.failed.set(self.named(error)));
            }
            done
        })
    }

    /// Bounds the wrong way round hold nothing; sled is not asked what it makes of them.
    fn range(&self, from: &[u8], to: &[u8]) -> sled::Iter {
        let (from, to) = (rows::row_key(from), rows::row_key(to.max(from)));
        self.db.range::<&[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])))
    }

    fn checkpoint(&self, checkpoints: &mut Checkpoints) -> Result<(), TableError> {
        // While no batch is being applied, every page file there is is complete.
        let (page_files, batches) = {
            let _no_apply = self.views.lock();
            (files_in(&self.dir.join("blobs"))?, self.books.lock().batches)
        };
        // The log refers to them, so that they go first.
        for name in page_files.difference(&checkpoints.synced) {
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
        checkpoints.synced = page_files;
        checkpoints.batches = batches;
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let all_synced = self.failed.get().is_none()
            && self.checkpoints.get_mut().batches == self.books.get_mut().batches;
        // sled still closes after this, but has nothing left to write that matters.
        if all_synced && let Err(error) = boot::unmark(&self.dir) {
            tracing::warn!(%error, "the next start after a restart of the machine checks the table");
        }
    }
}

/// How long all files of a table are.
fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for dir in [dir, &dir.join("blobs")] {
        for entry in fs::read_dir(dir)? {
            bytes += entry?.metadata()?.len();
        }
    }
    Ok(bytes)
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
