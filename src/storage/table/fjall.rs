//! fjall 3.1 as a table.
//!
//! What fjall itself does, read from its source at 3.1.13 (and lsm-tree 3.1.10), because this module
//! stands on it:
//!
//! - **Atomic batches.** A batch is one unit of fjall's journal, with a hash over its rows, and is
//!   entered into the table in memory only after that; recovery takes it whole or not at all.
//! - **Sync.** `persist(SyncAll)` writes out what the journal still holds in memory and syncs it. A
//!   journal is synced before the next one is begun, a sorted file with its folder before the version
//!   that names it, a version before `current` names it, and a journal goes only after that. So
//!   after it nothing applied is missing; the folders above fjall's are synced here.
//! - **Snapshots.** Files and old rows stay as long as one needs them.
//! - **Torn tails.** Recovery cuts a journal where it stops making sense, and goes on. It does so in the
//!   middle too, and in a journal that is not the last, silently, but refuses where a row's hash is
//!   wrong, as a torn write leaves it. `journals` therefore reads them first: it cuts a torn tail,
//!   refuses holes, and says which batches must be there. Its hash leaves out a batch's place
//!   in the order, so every batch carries a number of its own.
//! - **Lost files.** A missing journal or version is to fjall a new one. So a checkpoint writes beside
//!   fjall's files which batch it reached (`mark`), and a table that is older is refused; a table
//!   whose making was interrupted, before which nothing was promised, is made anew.
//! - **Rot.** Every block of a sorted file has a hash, compared whenever it is read. So sled's sum over
//!   all rows has no place here, and no old row is read for each row written. The version that says
//!   which sorted files there are has a hash too, but fjall never compares it: `mark` does.
//! - **Errors.** What fails in a background thread poisons fjall: the next write and the next checkpoint
//!   are refused. fjall itself waits in a loop that does not look at this once too much has
//!   gathered, so `make_room` waits before, and looks. Its queue of requests to empty the table in
//!   memory can fill up and stop its threads for good; it is never used.
//! - **Damage.** fjall panics over some of what it reads. Every call into it is caught, and ends the
//!   table with one clear line. A panic while it recovers a keyspace ends the process, since a
//!   destructor panics too: `mark` sees to it that what leads there is refused before.
//!
//! **Not guaranteed.** Rot in a sorted file shows only when its block is read, and stops the node
//! then. Where a power cut reorders what was synced, the table is refused.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::fjall::{Database, Guard, Keyspace, OwnedWriteBatch, PersistMode, Slice};
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Table, TableBatch, TableError, TableView};

mod journals;
mod mark;
mod options;
mod view;

use self::journals::Batches;
use self::mark::Mark;
use self::view::{FjallView, Views};

/// The one keyspace.
const KEYSPACE: &str = "table";

/// The key of the row that counts batches; below every row's.
const NUMBER_KEY: [u8; 1] = [0];

/// What a row's key begins with in fjall, and where the rows end.
const ROW: u8 = 1;
const ROWS_END: [u8; 1] = [ROW + 1];

/// The table in memory goes to a sorted file from here on, in bytes of rows with what fjall adds to
/// each. Large files are written and merged less often; up to three such tables are held in memory.
const MEMORY_TABLE_BYTES: u64 = 32 << 20;
const ROW_OVERHEAD_BYTES: u64 = 64;

/// How many full tables in memory may wait to be written; fjall itself stalls at four.
const MAX_WAITING_TABLES: usize = 2;

/// How many sorted files may wait to be merged before writes slow down: fjall begins to merge at four,
/// slows down by itself at twenty and stalls at thirty. Each is looked into by a read that finds nothing.
const SLOW_AT_UNMERGED_FILES: usize = 16;

/// How many may wait at all. Between the two a table is written out after a pause: fjall merges something
/// each time one is, and nothing in between, so that waiting for it alone could last for ever.
const MAX_UNMERGED_FILES: usize = 27;

const ROOM_PAUSE: Duration = Duration::from_millis(2);

/// How many pauses slow a table down, a fifth of a second, and after how many, a minute, fjall is taken to
/// have stopped.
const SLOWING_PAUSES: u32 = 100;
const MOST_PAUSES: u32 = 30_000;

/// How often opening tries for the lock that a table just closed in this process may still hold, and the
/// pause between two tries: one second in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// fjall as a table.
pub struct FjallTable {
    inner: Arc<Inner>,
}

/// What a table and its view share. The view holds it weakly, so that dropping the table closes it.
struct Inner {
    db: Database,
    keyspace: Keyspace,
    dir: PathBuf,
    memory_table_bytes: u64,
    /// Held by every apply.
    books: Mutex<Books>,
    /// One checkpoint at a time.
    checkpoints: Mutex<Checkpoints>,
    views: Mutex<Views>,
    /// How the table failed, once it has: fjall is not called again after that.
    failed: OnceLock<TableError>,
}

struct Checkpoints {
    mark: Mark,
    /// Why the last one failed: after a failed sync nothing is known, and none is tried again.
    failed: Option<TableError>,
}

struct Books {
    /// How many batches made the table what it is.
    number: u64,
    /// What was applied since the table in memory was last set aside.
    in_memory_bytes: u64,
}

impl FjallTable {
    /// Opens or creates the table in `dir`. `cache_bytes` bounds fjall's cache of blocks.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<FjallTable, TableError> {
        FjallTable::open_with(dir, cache_bytes, MEMORY_TABLE_BYTES)
    }

    /// [`FjallTable::open`], with another size of the table in memory.
    pub(super) fn open_with(
        dir: &Path,
        cache_bytes: u64,
        memory_table_bytes: u64,
    ) -> Result<FjallTable, TableError> {
        // Journals are cut, so that nobody else may have them open.
        let lock = lock(dir)?;
        let made = Mark::read(dir).and_then(|mark| match mark {
            Some(mark) => open_made(dir, cache_bytes, mark, lock),
            None => make(dir, cache_bytes, lock),
        });
        let Made { db, keyspace, mark, number } = made.map_err(|error| within(dir, error))?;
        let inner = Arc::new(Inner {
            db,
            keyspace,
            dir: dir.to_owned(),
            memory_table_bytes,
            books: Mutex::new(Books { number, in_memory_bytes: 0 }),
            checkpoints: Mutex::new(Checkpoints { mark, failed: None }),
            views: Mutex::default(),
            failed: OnceLock::new(),
        });
        Ok(FjallTable { inner })
    }
}

/// fjall, opened and checked.
struct Made {
    db: Database,
    keyspace: Keyspace,
    mark: Mark,
    number: u64,
}

/// Makes a new table, in place of what an interrupted making left.
fn make(dir: &Path, cache_bytes: u64, lock: Option<File>) -> Result<Made, TableError> {
    if !journals::check(dir, 0)?.is_empty() || has_sorted_files(dir)? {
        return Err(TableError::Damaged(format!(
            "it holds batches, but nothing says which a checkpoint reached; {WHAT_TO_DO}"
        )));
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    unlock(lock)?;
    let (db, keyspace) = caught(|| open_fjall(dir, cache_bytes))?;
    sync_folders(dir)?;
    let mark = Mark::new(dir)?;
    mark.write(dir)?;
    Ok(Made { db, keyspace, mark, number: 0 })
}

/// Whether rows were ever written out to sorted files; the mark is there before that.
fn has_sorted_files(dir: &Path) -> io::Result<bool> {
    // Keyspace 0 is fjall's own, for what it keeps about the others.
    match fs::read_dir(dir.join("keyspaces/1/tables")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(tables) => Ok(tables.count() > 0),
    }
}

/// Opens a table that was made before.
fn open_made(
    dir: &Path,
    cache_bytes: u64,
    mark: Mark,
    lock: Option<File>,
) -> Result<Made, TableError> {
    mark.check_files(dir)?;
    let journals = journals::check(dir, mark.number)?;
    unlock(lock)?;
    let (db, keyspace) = caught(|| open_fjall(dir, cache_bytes))?;
    let number = caught(|| recovered(&keyspace, &journals, mark.number))?;
    Ok(Made { db, keyspace, mark, number })
}

/// Takes fjall's own lock, waiting for one that is about to be let go; `None` where there is no table.
fn lock(dir: &Path) -> Result<Option<File>, TableError> {
    let file = match File::open(dir.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => pause(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(fjall::Error::Locked.into())
}

/// Lets go of the lock for fjall to take, also where a process being started has a copy of the handle.
fn unlock(lock: Option<File>) -> io::Result<()> {
    lock.map_or(Ok(()), |file| file.unlock())
}

fn open_fjall(dir: &Path, cache_bytes: u64) -> Result<(Database, Keyspace), TableError> {
    let db = options::database(dir, cache_bytes).open()?;
    let keyspace = db.keyspace(KEYSPACE, options::keyspace)?;
    Ok((db, keyspace))
}

/// Compares what fjall made of its files with what they must come to; gives the number of the last
/// batch.
fn recovered(keyspace: &Keyspace, journals: &Batches, mark: u64) -> Result<u64, TableError> {
    use fjall::AbstractTree as _;
    let read = |sequence| -> Result<u64, TableError> {
        match keyspace.tree.get(NUMBER_KEY, sequence).map_err(fjall::Error::from)? {
            Some(number) => parse_number(&number),
            None => Ok(0),
        }
    };
    let number = read(fjall::SeqNo::MAX)?;
    loop {
        // What lies in sorted files, and the number of the last batch among it.
        let sorted_to = keyspace.tree.get_highest_persisted_seqno();
        let sorted = sorted_to.map_or(Ok(0), |sequence| read(sequence + 1))?;
        // fjall may be writing another at this moment, and drop what this one was needed for.
        if keyspace.tree.get_highest_persisted_seqno() == sorted_to {
            journals.compare(sorted_to.map(|sequence| (sequence, sorted)), number)?;
            break;
        }
    }
    if number < mark {
        return Err(TableError::Damaged(format!(
            "it holds {number} batches, but {mark} were made durable: part of its files was lost; {}",
            WHAT_TO_DO
        )));
    }
    Ok(number)
}

fn parse_number(stored: &[u8]) -> Result<u64, TableError> {
    let bytes = stored.try_into();
    bytes
        .map(u64::from_be_bytes)
        .map_err(|_| TableError::Damaged("the number of its batches has a wrong length".to_owned()))
}

const WHAT_TO_DO: &str = "restore this node's data directory from a copy, or replace the node";

fn within(dir: &Path, error: TableError) -> TableError {
    match error {
        TableError::Damaged(what) => TableError::Damaged(format!("{}: {what}", dir.display())),
        other => other,
    }
}

/// Makes the names of fjall's folders durable: it syncs what is in them.
fn sync_folders(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    for folder in [&dir.join("keyspaces"), dir, parent.unwrap_or(Path::new("."))] {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Runs work that calls fjall, and makes damage of a panic there.
fn caught<T>(work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(TableError::Damaged(format!("fjall panicked over what its files hold; {WHAT_TO_DO}")))
    })
}

impl From<fjall::Error> for TableError {
    fn from(error: fjall::Error) -> TableError {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                TableError::from(error)
            }
            fjall::Error::Poisoned => TableError::from(io::Error::other(
                "fjall stopped: one of its writes or of its threads failed before",
            )),
            fjall::Error::Locked => TableError::from(io::Error::other(
                "could not acquire lock: another process has the table open",
            )),
            other => TableError::Damaged(format!("{other:?}; {WHAT_TO_DO}")),
        }
    }
}

impl Table for FjallTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.inner.guarded(|| {
            let found = self.inner.keyspace.get(row_key(key))?;
            Ok(found.map(|value| Bytes::copy_from_slice(&value)))
        })
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        self.inner.guarded(|| self.inner.range(from, to).take(limit).map(row).collect())
    }

    fn scan_keys(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Bytes>, TableError> {
        self.inner.guarded(|| {
            let rows = self.inner.range(from, to).take(limit);
            rows.map(|row| Ok(key_of(&row.key()?))).collect()
        })
    }

    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        self.inner.guarded(|| {
            let mut books = self.inner.books.lock();
            self.inner.make_room(&mut books)?;
            // fjall gives all rows of a batch one place in its order: a key may be there once.
            let last: BTreeMap<Bytes, Option<Bytes>> = batch.changes.into_iter().collect();
            let mut changes = OwnedWriteBatch::with_capacity(self.inner.db.clone(), last.len() + 1);
            let mut bytes = 0;
            for (key, value) in &last {
                let key = row_key(key);
                bytes += ROW_OVERHEAD_BYTES + key.len() as u64;
                match value {
                    Some(value) => {
                        bytes += value.len() as u64;
                        changes.insert(&self.inner.keyspace, key, &value[..]);
                    }
                    None => changes.remove(&self.inner.keyspace, key),
                }
            }
            let number = books.number + 1;
            changes.insert(&self.inner.keyspace, NUMBER_KEY, number.to_be_bytes());
            // Left in the journal's buffer, which is written out as it fills: the commit log is the
            // truth, and saves a call of the system for each batch.
            changes.durability(None).commit()?;
            books.number = number;
            books.in_memory_bytes += bytes + 2 * ROW_OVERHEAD_BYTES;
            Ok(())
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
        let done = self.inner.guarded(|| {
            let number = self.inner.books.lock().number;
            self.inner.db.persist(PersistMode::SyncAll)?;
            checkpoints.mark.number = number;
            Ok(checkpoints.mark.write(&self.inner.dir)?)
        });
        checkpoints.failed = done.clone().err();
        done
    }

    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        self.inner.guarded(|| {
            let number = self.inner.views.lock().begin(self.inner.db.snapshot());
            Ok(Box::new(FjallView::new(Arc::downgrade(&self.inner), number)) as Box<dyn TableView>)
        })
    }
}

impl Drop for Inner {
    /// Writes out what fjall's journal holds in memory. fjall does so too as it goes, but may let go of
    /// its lock before: who opened the table then would read a journal that still grows.
    fn drop(&mut self) {
        if self.failed.get().is_none()
            && let Err(error) = caught(|| Ok(self.db.persist(PersistMode::Buffer)?))
        {
            tracing::warn!(%error, "the table's journal is not written out; the log replays it");
        }
    }
}

impl Inner {
    /// Calls fjall, unless the table has failed; what fails or panics there ends the table.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let done = caught(work).map_err(|error| within(&self.dir, error));
        match &done {
            Ok(_) | Err(TableError::ViewOverrun { .. } | TableError::ViewEnded) => {}
            Err(error) => drop(self.failed.set(error.clone())),
        }
        done
    }

    /// Bounds the wrong way round hold nothing; fjall is not asked what it makes of them.
    fn range(&self, from: &[u8], to: &[u8]) -> fjall::Iter {
        self.keyspace.range(row_key(from)..row_key(to.max(from)))
    }

    /// Sets the table in memory aside once it is full. Waits first where fjall is behind, and gives up
    /// where it has stopped.
    fn make_room(&self, books: &mut Books) -> Result<(), TableError> {
        if books.in_memory_bytes < self.memory_table_bytes {
            return Ok(());
        }
        for pauses in 0.. {
            let unmerged = self.keyspace.l0_table_count();
            let slows = unmerged >= SLOW_AT_UNMERGED_FILES && pauses < SLOWING_PAUSES;
            let full = self.keyspace.sealed_memtable_count() >= MAX_WAITING_TABLES
                || unmerged >= MAX_UNMERGED_FILES;
            if !slows && !full {
                break;
            }
            if pauses == MOST_PAUSES {
                let what = format!("fjall writes nothing out any more: {unmerged} files wait");
                return Err(io::Error::other(what).into());
            }
            // Refused once fjall is poisoned.
            self.db.persist(PersistMode::Buffer)?;
            pause(ROOM_PAUSE);
        }
        self.keyspace.rotate_memtable()?;
        books.in_memory_bytes = 0;
        Ok(())
    }
}

/// fjall's key for a row.
fn row_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(ROW);
    stored.extend_from_slice(key);
    stored
}

/// A row's key from fjall's.
fn key_of(stored: &Slice) -> Bytes {
    Bytes::copy_from_slice(stored.get(1..).unwrap_or_default())
}

fn row(found: Guard) -> Result<(Bytes, Bytes), TableError> {
    let (key, value) = found.into_inner()?;
    Ok((key_of(&key), Bytes::copy_from_slice(&value)))
}

// Never in a simulated world, which has no fjall; and never on a thread that serves requests.
#[allow(clippy::disallowed_methods)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
