//! A disk in memory that loses and tears what was not synced when it crashes.
//!
//! **Why it exists.** What a power cut does to files cannot be tried on a machine that must go on
//! running, and a fault that cannot be tried again cannot be mended.
//!
//! **What a crash does.** Of each file's writes since its last sync, by the seed, either a prefix
//! survives, and the first write that does not may be torn: some of its first bytes are there,
//! sometimes with zeros for the rest; or each sector survives by itself, as it was after one of the
//! writes or before them, as a page cache that writes pages in any order leaves it: a single long
//! write may then have lost its middle. Of the names created, renamed and removed in a directory
//! since its last sync some survive. A failed sync of a file loses what it should have kept, though
//! reads go on seeing it and later syncs succeed (as on Linux, where pages that could not be written
//! are marked clean). The same seed and the same calls give the same losses.
//!
//! **What it does not do.** Where a file's length was set since its last sync, its changes do not
//! overtake each other. What was synced does not rot unless [`SimDisk::flip_bit`] or
//! [`SimDisk::flip_random_bit_in`] says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Disk, DiskFile, check_path, directory_of, same_directory};
use contents::{Contents, SharedContents};
use dice::Dice;
use file::SimFile;
use names::{NameChange, Names};

mod contents;
mod counts;
mod dice;
mod file;
mod names;

pub use counts::DiskCounts;

/// How long a sync takes unless [`SimDisk::set_sync_delay`] says otherwise: a plain SSD. Shorter
/// ones make no difference: tokio's timer counts whole milliseconds.
const DEFAULT_SYNC_DELAY: Duration = Duration::from_millis(1);

/// What disks write whole or not at all, in bytes, unless [`SimDisk::set_sector_bytes`] says otherwise.
const DEFAULT_SECTOR_BYTES: usize = 512;

/// Sets the seed of sync delays apart from that of losses.
const DELAYS: u64 = 0x5eed_de1a;

/// A simulated disk; cheap to clone, and outlives the node that crashes on it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    delays: Dice,
    /// Rises with each crash: files opened before it fail.
    generation: u64,
    /// The files by path, as reads see them.
    names: Names,
    /// The files by path, as a crash would leave them.
    durable_names: Names,
    /// What turns the durable names into the others, oldest first.
    pending_names: Vec<NameChange>,
    /// How long a sync takes, at least and at most.
    sync_delay: (Duration, Duration),
    sector_bytes: usize,
    fail_next_sync: bool,
    full: bool,
    /// How many more bytes can be written, where that is bounded.
    room: Option<usize>,
    counts: DiskCounts,
}

impl SimDisk {
    /// An empty disk; `seed` decides what a crash loses and tears.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            dice: Dice::new(seed),
            delays: Dice::new(seed ^ DELAYS),
            generation: 0,
            names: Names::new(),
            durable_names: Names::new(),
            pending_names: Vec::new(),
            sync_delay: (DEFAULT_SYNC_DELAY, DEFAULT_SYNC_DELAY),
            sector_bytes: DEFAULT_SECTOR_BYTES,
            fail_next_sync: false,
            full: false,
            room: None,
            counts: DiskCounts::default(),
        })))
    }

    /// What a power cut does: every write since a file's last sync is kept, lost or torn (by the
    /// seed), and names not synced may be gone. Open files fail from then on.
    pub fn crash(&self) {
        let state = &mut *self.0.lock();
        state.generation += 1;
        state.fail_next_sync = false;
        names::settle(
            std::mem::take(&mut state.pending_names),
            &mut state.durable_names,
            &mut state.dice,
        );
        let mut lost = state.names.keys().ne(state.durable_names.keys());
        for contents in state.durable_names.values_mut() {
            let fresh = {
                let old = &mut *contents.lock();
                let sector_bytes = state.sector_bytes;
                let survived = old.settle(&mut state.dice, sector_bytes, &mut state.counts);
                lost |= survived != old.live;
                Contents::settled(survived)
            };
            *contents = Arc::new(Mutex::new(fresh));
        }
        state.names = state.durable_names.clone();
        state.counts.crashes += 1;
        state.counts.crashes_with_losses += u64::from(lost);
    }

    /// Replaces the disk by an empty one, which is neither full nor about to fail. Open files fail.
    pub fn wipe(&self) {
        let state = &mut *self.0.lock();
        state.generation += 1;
        state.names.clear();
        state.durable_names.clear();
        state.pending_names.clear();
        state.fail_next_sync = false;
        (state.full, state.room) = (false, None);
        state.counts.wipes += 1;
    }

    /// Sets how long a sync takes.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.set_sync_delay_range(delay, delay);
    }

    /// Sets how long a sync takes at least and at most; drawn anew for each, by the seed.
    pub fn set_sync_delay_range(&self, least: Duration, most: Duration) {
        self.0.lock().sync_delay = (least, most.max(least));
    }

    /// Sets what the disk writes whole or not at all, in bytes. With 0, a crash never keeps a later
    /// part of a file's writes and loses an earlier one.
    pub fn set_sector_bytes(&self, sector_bytes: usize) {
        self.0.lock().sector_bytes = sector_bytes;
    }

    /// Makes the next sync, of a file or a directory, fail. What a file's should have kept is lost.
    pub fn fail_next_sync(&self) {
        self.0.lock().fail_next_sync = true;
    }

    /// Says whether the disk is full: writes then fail half done, and no file can be created.
    pub fn set_full(&self, full: bool) {
        let state = &mut *self.0.lock();
        (state.full, state.room) = (full, None);
    }

    /// Lets the disk become full once so many more bytes were written. The write that meets the end
    /// writes what there is room for, and fails. [`SimDisk::set_full`] ends it.
    pub fn fill_after_bytes(&self, bytes: u64) {
        self.0.lock().room = Some(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Flips one bit (0 to 7) of one byte of a file, as rot does; false where there is no such byte.
    pub fn flip_bit(&self, path: &str, byte: usize, bit: u8) -> bool {
        let state = &mut *self.0.lock();
        let Some(contents) = state.names.get(path).cloned() else { return false };
        let contents = &mut *contents.lock();
        let mask = 1_u8 << (bit % 8);
        let found = contents.live.get_mut(byte).map(|byte| *byte ^= mask).is_some();
        if let Some(byte) = contents.durable.get_mut(byte) {
            *byte ^= mask;
        }
        state.counts.bits_flipped += u64::from(found);
        found
    }

    /// Flips a bit, chosen by the seed, among those that are synced in files whose paths begin so.
    /// Gives the path, the byte and the bit; `None` where there is no such bit.
    pub fn flip_random_bit_in(&self, path_prefix: &str) -> Option<(String, usize, u8)> {
        let (path, byte, bit) = self.0.lock().choose_settled_bit(path_prefix)?;
        self.flip_bit(&path, byte, bit).then_some((path, byte, bit))
    }

    /// What a read of the whole file gives; `None` where there is no such file.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let contents = self.0.lock().names.get(path).cloned()?;
        let live = contents.lock().live.clone();
        Some(live)
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// How many bytes all files hold.
    pub fn total_bytes(&self) -> u64 {
        let state = self.0.lock();
        state.names.values().map(|contents| contents.lock().live.len() as u64).sum()
    }

    /// What happened to this disk so far.
    pub fn counts(&self) -> DiskCounts {
        self.0.lock().counts
    }
}

impl State {
    /// How many of so many bytes can be written, and whether that is all.
    fn take_room(&mut self, bytes: usize) -> (usize, io::Result<()>) {
        let fits = match self.room {
            None if self.full => bytes / 2,
            None => return (bytes, Ok(())),
            Some(room) if room > 0 && room >= bytes => {
                self.room = Some(room - bytes);
                return (bytes, Ok(()));
            }
            Some(room) => {
                self.room = Some(0);
                room
            }
        };
        self.counts.refused_as_full += 1;
        let problem = "the simulated disk is full";
        (fits, Err(io::Error::new(io::ErrorKind::StorageFull, problem)))
    }

    /// Whether a sync may go on; takes the failure that was asked for.
    fn begin_sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_next_sync) {
            self.counts.failed_syncs += 1;
            return Err(io::Error::other("the simulated sync failed"));
        }
        Ok(())
    }

    fn choose_settled_bit(&mut self, path_prefix: &str) -> Option<(String, usize, u8)> {
        let durable = |path: &String, contents: &SharedContents| {
            self.durable_names.get(path).is_some_and(|there| Arc::ptr_eq(there, contents))
        };
        let settled: Vec<(&String, Vec<usize>)> = self
            .names
            .iter()
            .filter(|(path, contents)| path.starts_with(path_prefix) && durable(path, contents))
            .map(|(path, contents)| {
                let contents = contents.lock();
                let bytes = (0..contents.live.len()).filter(|byte| contents.is_settled_at(*byte));
                (path, bytes.collect())
            })
            .collect();
        let total: usize = settled.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut chosen = self.dice.below(total);
        for (path, bytes) in settled {
            if let Some(byte) = bytes.get(chosen) {
                return Some((path.clone(), *byte, self.dice.below(8) as u8));
            }
            chosen -= bytes.len();
        }
        None
    }
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file '{path}'"))
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        check_path(path)?;
        let state = &mut *self.0.lock();
        state.take_room(0).1?;
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
        let state = &mut *self.0.lock();
        let (least, most) = state.sync_delay;
        let spread_us = most.saturating_sub(least).as_micros() as usize;
        match spread_us {
            0 => least,
            _ => least + Duration::from_micros(state.delays.below(spread_us + 1) as u64),
        }
    }
}

#[cfg(test)]
mod tests;
