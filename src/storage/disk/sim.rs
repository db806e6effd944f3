//! A disk in memory that loses and tears what was not synced when it crashes.
//!
//! **Why it exists.** What a power cut does to files cannot be tried on a machine that must go on
//! running, and a fault that cannot be tried again cannot be mended.
//!
//! **What a crash does.** Of each file's writes since its last sync a prefix survives; the first one
//! that does not may be torn: some of its first bytes are there, sometimes with zeros for the rest.
//! Of the names created, renamed and removed in a directory since its last sync some survive. A
//! failed sync of a file loses what it should have kept, though reads go on seeing it and later syncs
//! succeed (as on Linux, where pages that could not be written are marked clean). The same seed and
//! the same calls give the same losses.
//!
//! **What it does not do.** Writes of one file do not overtake each other, and what was synced does
//! not rot unless [`SimDisk::flip_bit`] says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, check_path, directory_of, same_directory};

/// How long a sync takes unless [`SimDisk::set_sync_delay`] says otherwise: a plain SSD. Shorter
/// ones make no difference: tokio's timer counts whole milliseconds.
const DEFAULT_SYNC_DELAY: Duration = Duration::from_millis(1);

/// A simulated disk; cheap to clone, and outlives the node that crashes on it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    /// Rises with each crash: files opened before it fail.
    generation: u64,
    /// The files by path, as reads see them.
    names: BTreeMap<String, SharedContents>,
    /// The files by path, as a crash would leave them.
    durable_names: BTreeMap<String, SharedContents>,
    /// What turns the durable names into the others, oldest first.
    pending_names: Vec<NameChange>,
    sync_delay: Duration,
    fail_next_sync: bool,
    full: bool,
    syncs: u64,
    torn_writes: u64,
}

type SharedContents = Arc<Mutex<Contents>>;

/// A change to one directory that is not synced yet.
enum NameChange {
    Created { path: String, contents: SharedContents },
    Renamed { from: String, to: String, contents: SharedContents },
    Removed { path: String },
}

/// What a file holds.
#[derive(Default)]
struct Contents {
    /// As reads see it.
    live: Vec<u8>,
    /// As it is after every synced change.
    durable: Vec<u8>,
    /// The changes since the last sync, oldest first.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl SimDisk {
    /// An empty disk; `seed` decides what a crash loses and tears.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(seed),
            generation: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            sync_delay: DEFAULT_SYNC_DELAY,
            fail_next_sync: false,
            full: false,
            syncs: 0,
            torn_writes: 0,
        })))
    }

    /// What a power cut does: every write since a file's last sync is kept, lost or torn (by the
    /// seed), and names not synced may be gone. Open files fail from then on.
    pub fn crash(&self) {
        let state = &mut *self.0.lock();
        state.generation += 1;
        state.fail_next_sync = false;
        state.settle_names();
        let paths = std::mem::take(&mut state.durable_names);
        for (path, contents) in paths {
            let survived = state.settle_contents(&mut contents.lock());
            let fresh = Contents { live: survived.clone(), durable: survived, pending: Vec::new() };
            state.durable_names.insert(path, Arc::new(Mutex::new(fresh)));
        }
        state.names = state.durable_names.clone();
    }

    /// Sets how long a sync takes.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.0.lock().sync_delay = delay;
    }

    /// Makes the next sync, of a file or a directory, fail. What a file's should have kept is lost.
    pub fn fail_next_sync(&self) {
        self.0.lock().fail_next_sync = true;
    }

    /// Says whether the disk is full: writes then fail half done, and no file can be created.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Flips one bit (0 to 7) of one byte of a file, as rot does; false where there is no such byte.
    pub fn flip_bit(&self, path: &str, byte: usize, bit: u8) -> bool {
        let Some(contents) = self.0.lock().names.get(path).cloned() else { return false };
        let contents = &mut *contents.lock();
        let mask = 1_u8 << (bit % 8);
        let found = contents.live.get_mut(byte).map(|byte| *byte ^= mask).is_some();
        if let Some(byte) = contents.durable.get_mut(byte) {
            *byte ^= mask;
        }
        found
    }

    /// What a read of the whole file gives; `None` where there is no such file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let contents = self.0.lock().names.get(path).cloned()?;
        let live = contents.lock().live.clone();
        Some(live)
    }

    /// How many syncs of files succeeded.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// How many writes were torn by crashes.
    pub fn torn_writes(&self) -> u64 {
        self.0.lock().torn_writes
    }
}

impl State {
    fn below(&mut self, bound: usize) -> usize {
        // Lemire's multiply-shift, as `Runtime::random_below`.
        ((u128::from(self.random.next_u64()) * bound as u128) >> 64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    /// Decides which name changes survive. Changes of different names may overtake each other;
    /// where a directory has several of one name, a prefix of its changes survives.
    fn settle_names(&mut self) {
        let pending = std::mem::take(&mut self.pending_names);
        let mut directories: BTreeMap<String, Vec<NameChange>> = BTreeMap::new();
        for change in pending {
            directories.entry(change.directory().to_owned()).or_default().push(change);
        }
        for changes in directories.into_values() {
            let independent = are_independent(&changes);
            let kept = self.below(changes.len() + 1);
            for (index, change) in changes.into_iter().enumerate() {
                let survives = if independent { self.one_in(2) } else { index < kept };
                if survives {
                    change.apply(&mut self.durable_names);
                }
            }
        }
    }

    /// Decides which changes of a file survive, and gives what it holds then.
    fn settle_contents(&mut self, contents: &mut Contents) -> Vec<u8> {
        let mut survived = std::mem::take(&mut contents.durable);
        let pending = std::mem::take(&mut contents.pending);
        let kept = self.below(pending.len() + 1);
        for (index, change) in pending.iter().enumerate() {
            if index < kept {
                change.apply(&mut survived);
            } else if let (true, Change::Write { offset, bytes }) = (index == kept, change)
                && !self.one_in(4)
            {
                let torn_at = self.below(bytes.len().max(1));
                write_at(&mut survived, *offset, &bytes[..torn_at]);
                if self.one_in(4) {
                    write_at(&mut survived, offset + torn_at, &vec![0; bytes.len() - torn_at]);
                }
                self.torn_writes += 1;
            }
        }
        survived
    }

    fn check_not_full(&self) -> io::Result<()> {
        if self.full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
        }
        Ok(())
    }

    /// Whether a sync may go on; takes the failure that was asked for.
    fn begin_sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_next_sync) {
            return Err(io::Error::other("the simulated sync failed"));
        }
        Ok(())
    }
}

impl NameChange {
    /// A rename is within one directory, so one path says which it is.
    fn directory(&self) -> &str {
        match self {
            NameChange::Created { path, .. } | NameChange::Removed { path } => directory_of(path),
            NameChange::Renamed { to, .. } => directory_of(to),
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            NameChange::Created { path, .. } | NameChange::Removed { path } => vec![path],
            NameChange::Renamed { from, to, .. } => vec![from, to],
        }
    }

    fn apply(self, names: &mut BTreeMap<String, SharedContents>) {
        match self {
            NameChange::Created { path, contents } => {
                names.insert(path, contents);
            }
            NameChange::Renamed { from, to, contents } => {
                names.remove(&from);
                names.insert(to, contents);
            }
            NameChange::Removed { path } => {
                names.remove(&path);
            }
        }
    }
}

/// Whether no two changes touch the same name.
fn are_independent(changes: &[NameChange]) -> bool {
    let mut names: Vec<&str> = changes.iter().flat_map(NameChange::names).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == count
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes: written } => write_at(bytes, *offset, written),
            Change::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

fn write_at(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file '{path}'"))
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        check_path(path)?;
        let state = &mut *self.0.lock();
        state.check_not_full()?;
        if state.names.contains_key(path) {
            let problem = format!("the file '{path}' exists already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        let contents = SharedContents::default();
        state.names.insert(path.to_owned(), contents.clone());
        let change = NameChange::Created { path: path.to_owned(), contents: contents.clone() };
        state.pending_names.push(change);
        Ok(Arc::new(SimFile { disk: self.clone(), contents, generation: state.generation }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        check_path(path)?;
        let state = self.0.lock();
        let contents = state.names.get(path).cloned().ok_or_else(|| not_found(path))?;
        Ok(Arc::new(SimFile { disk: self.clone(), contents, generation: state.generation }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        if !dir.is_empty() {
            check_path(dir)?;
        }
        let state = self.0.lock();
        let in_dir = state.names.keys().filter(|path| directory_of(path) == dir);
        let mut names: Vec<String> =
            in_dir.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_path(from)?;
        check_path(to)?;
        same_directory(from, to)?;
        let state = &mut *self.0.lock();
        let contents = state.names.remove(from).ok_or_else(|| not_found(from))?;
        state.names.insert(to.to_owned(), contents.clone());
        let (from, to) = (from.to_owned(), to.to_owned());
        state.pending_names.push(NameChange::Renamed { from, to, contents });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let state = &mut *self.0.lock();
        state.names.remove(path).ok_or_else(|| not_found(path))?;
        state.pending_names.push(NameChange::Removed { path: path.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let state = &mut *self.0.lock();
        state.begin_sync()?;
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition(|change| change.directory() == dir);
        state.pending_names = rest;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn simulated_sync_delay(&self) -> Duration {
        self.0.lock().sync_delay
    }
}

/// A file of a simulated disk, open since a given generation.
struct SimFile {
    disk: SimDisk,
    contents: SharedContents,
    generation: u64,
}

impl SimFile {
    /// Runs `work` on the disk and the file, where the file was opened since the last crash.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut State, &mut Contents) -> io::Result<T>,
    ) -> io::Result<T> {
        let state = &mut *self.disk.0.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the simulated disk crashed while this file was open"));
        }
        work(state, &mut self.contents.lock())
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|_, contents| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = contents.live.get(from..from.saturating_add(buffer.len()));
            buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, contents| {
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let full = state.check_not_full();
            let written = if full.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
            let change = Change::Write { offset, bytes: written.to_vec() };
            change.apply(&mut contents.live);
            contents.pending.push(change);
            full
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, contents| {
            let pending = std::mem::take(&mut contents.pending);
            state.begin_sync()?;
            for change in &pending {
                change.apply(&mut contents.durable);
            }
            state.syncs += 1;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, contents| Ok(contents.live.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|_, contents| {
            let change =
                Change::SetLen(usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?);
            change.apply(&mut contents.live);
            contents.pending.push(change);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
