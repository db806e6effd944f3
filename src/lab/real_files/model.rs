//! What a directory holds after the first steps of a recording, and what a crash may leave of it.
//!
//! **The model of a power cut** is as wide as the contract of [`Disk`](crate::storage::disk::Disk)
//! allows. What was synced is there. Of the writes since a file's last sync any may be lost, also
//! earlier ones than those that are kept, and each may be torn: of its sectors of 512 bytes any
//! may be lost. Of the names that were made, changed or removed since their directory's last sync
//! any may be as before; where changes of one directory touch the same name, a prefix of them
//! survives. [`Loss::Tail`] is the milder cut that file systems with an ordered journal give: of a
//! file's writes a prefix, its last one cut at any byte.

use std::collections::BTreeMap;

use super::recorder::Step;
use crate::history::Seeded;

/// The bytes that a disk writes at once or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// Files by path, with what they hold.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// What a power cut does to writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A prefix of each file's writes survives; the first that does not is cut at some byte.
    Tail,
    /// Any writes, and any sectors of each, are lost.
    Any,
}

/// The directory after some steps.
#[derive(Default)]
pub(super) struct Model {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: std::sync::Arc<[u8]> },
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Created { path: String, file: usize },
    Renamed { from: String, to: String, file: usize },
    Removed { path: String },
}

impl Model {
    /// The directory after these steps.
    pub(super) fn after(steps: &[Step]) -> Model {
        let mut model = Model::default();
        steps.iter().for_each(|step| model.take(step));
        model
    }

    /// What the operating system shows: what a process that is started again after a kill finds.
    pub(super) fn live(&self) -> Files {
        let live = |file: &usize| self.files[*file].live.clone();
        self.names.iter().map(|(path, file)| (path.clone(), live(file))).collect()
    }

    /// The path of a file, where it has a name.
    pub(super) fn path_of(&self, file: usize) -> Option<&str> {
        self.names.iter().find(|(_, it)| **it == file).map(|(path, _)| path.as_str())
    }

    /// What a power cut now might leave.
    pub(super) fn power_cut(&self, loss: Loss, random: &mut Seeded) -> Files {
        let names = self.surviving_names(random);
        let settle = |file: usize, random: &mut Seeded| self.files[file].settle(loss, random);
        names.into_iter().map(|(path, file)| (path, settle(file, random))).collect()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Create { path, file } => {
                self.files.resize_with(self.files.len().max(file + 1), File::default);
                self.names.insert(path.clone(), *file);
                self.pending_names.push(NameChange::Created { path: path.clone(), file: *file });
            }
            Step::Write { file, offset, bytes } => {
                self.files[*file].change(Change::Write { offset: *offset, bytes: bytes.clone() });
            }
            Step::SetLen { file, len } => self.files[*file].change(Change::SetLen(*len)),
            Step::Sync { file } => self.files[*file].sync(),
            Step::Rename { from, to } => {
                let Some(file) = self.names.remove(from) else { return };
                self.names.insert(to.clone(), file);
                let (from, to) = (from.clone(), to.clone());
                self.pending_names.push(NameChange::Renamed { from, to, file });
            }
            Step::Remove { path } => {
                self.names.remove(path);
                self.pending_names.push(NameChange::Removed { path: path.clone() });
            }
            Step::SyncDir { dir } => {
                let pending = std::mem::take(&mut self.pending_names);
                for change in pending {
                    if change.directory() == dir {
                        change.apply(&mut self.durable_names);
                    } else {
                        self.pending_names.push(change);
                    }
                }
            }
        }
    }

    fn surviving_names(&self, random: &mut Seeded) -> BTreeMap<String, usize> {
        let mut names = self.durable_names.clone();
        let mut directories: BTreeMap<&str, Vec<&NameChange>> = BTreeMap::new();
        for change in &self.pending_names {
            directories.entry(change.directory()).or_default().push(change);
        }
        for changes in directories.into_values() {
            let kept = random.below(changes.len() + 1);
            let independent = are_independent(&changes);
            for (index, change) in changes.into_iter().enumerate() {
                let survives = if independent { random.below(2) == 0 } else { index < kept };
                if survives {
                    change.clone().apply(&mut names);
                }
            }
        }
        names
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.live);
    }

    fn settle(&self, loss: Loss, random: &mut Seeded) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        match loss {
            Loss::Tail => {
                let kept = random.below(self.pending.len() + 1);
                self.pending.iter().take(kept).for_each(|change| change.apply(&mut bytes));
                if let Some(Change::Write { offset, bytes: torn }) = self.pending.get(kept) {
                    let cut = random.below(torn.len() + 1);
                    write_at(&mut bytes, *offset, &torn[..cut]);
                }
            }
            Loss::Any => {
                for change in &self.pending {
                    match (random.below(4), change) {
                        (0, _) => {}
                        (1, _) | (_, Change::SetLen(_)) => change.apply(&mut bytes),
                        (_, Change::Write { offset, bytes: torn }) => {
                            tear(&mut bytes, *offset, torn, random);
                        }
                    }
                }
            }
        }
        bytes
    }
}

/// Writes some of the sectors of a write.
fn tear(target: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Seeded) {
    let mut at = 0;
    while at < bytes.len() {
        // Sectors lie at their own multiples, not at those of the write.
        let to_boundary = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
        let end = (at + to_boundary).min(bytes.len());
        if random.below(2) == 0 {
            write_at(target, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

impl Change {
    fn apply(&self, target: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => write_at(target, *offset, bytes),
            Change::SetLen(len) => target.resize(*len, 0),
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

impl NameChange {
    fn directory(&self) -> &str {
        let (NameChange::Created { path, .. }
        | NameChange::Removed { path }
        | NameChange::Renamed { to: path, .. }) = self;
        path.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    fn names(&self) -> Vec<&str> {
        match self {
            NameChange::Created { path, .. } | NameChange::Removed { path } => vec![path],
            NameChange::Renamed { from, to, .. } => vec![from, to],
        }
    }

    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Created { path, file } => {
                names.insert(path, file);
            }
            NameChange::Renamed { from, to, file } => {
                names.remove(&from);
                names.insert(to, file);
            }
            NameChange::Removed { path } => {
                names.remove(&path);
            }
        }
    }
}

/// Whether no two changes touch the same name.
fn are_independent(changes: &[&NameChange]) -> bool {
    let mut names: Vec<&str> = changes.iter().flat_map(|change| change.names()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == count
}
