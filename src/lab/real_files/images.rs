//! Data directories that a crash, a power cut or rot could have left at some moment of a recording.
//!
//! **The table's own files** do not go through the disk seam, so they are known only at the moments
//! when they were copied. At any step they may be as the last checkpoint left them, since nothing
//! was synced after it; as a later copy shows them, where everything reached the disk; or, in a
//! [`Kind::Mixed`] image, anything between: each block that differs is old or new, files that
//! appeared later are there, cut, empty or absent, and files that went away are still there or not.
//!
//! **What must hold.** An image is *plain* where a correct node has no reason to refuse it: it then
//! has to start. Other images it may refuse with a clear line. On none may it lose a write.

use std::fmt;

use super::model::{Files, Loss, Model, SECTOR_BYTES};
use super::recorder::Step;
use super::session::{Moment, Session};
use crate::history::Seeded;
use crate::node::TABLE_DIRECTORY;

/// The bytes that operating systems write back at once, a page.
const BLOCK_BYTES: usize = 4_096;

/// What happened to a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The commit log is cut at a byte after its last sync.
    Cut,
    /// Of writes and names not synced, a prefix survives.
    Tail,
    /// Of writes and names not synced, any are lost, and any sectors of each.
    Torn,
    /// The process was killed, and the operating system lost nothing.
    Killed,
    /// The table's own files hold some of what was written since the last checkpoint.
    Mixed,
    /// One bit of what was synced is flipped.
    Rot,
    /// The disk was full for a while.
    Full,
}

impl Kind {
    /// Every kind that is an image of a recording.
    pub(super) const OF_RECORDINGS: [Kind; 6] =
        [Kind::Cut, Kind::Tail, Kind::Torn, Kind::Killed, Kind::Mixed, Kind::Rot];

    /// Whether a node must start on such an image.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Kind::Cut | Kind::Tail | Kind::Killed | Kind::Full)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cut => "log cut at a byte",
            Kind::Tail => "unsynced tail lost",
            Kind::Torn => "unsynced writes torn",
            Kind::Killed => "process killed",
            Kind::Mixed => "table half written",
            Kind::Rot => "a bit flipped",
            Kind::Full => "disk full",
        })
    }
}

/// A data directory, and what must be in it.
pub(super) struct Image {
    pub kind: Kind,
    /// Every file by its path under the data directory; a path that ends with `/` is a directory.
    pub files: Files,
    /// Steps of the recording done before: what was acknowledged by then must be there.
    pub at: usize,
    /// What was done to it, for whoever replays it.
    pub story: String,
}

impl Session {
    /// Image `number` of a kind, of `count`; `None` where the recording has nothing to make it of.
    pub(super) fn image(
        &self,
        kind: Kind,
        number: usize,
        count: usize,
        random: &mut Seeded,
    ) -> Option<Image> {
        match kind {
            Kind::Cut => self.cut(number, count, random),
            Kind::Tail => Some(self.power_cut(Kind::Tail, Loss::Tail, random)),
            Kind::Torn => Some(self.power_cut(Kind::Torn, Loss::Any, random)),
            Kind::Killed => Some(self.killed(random)),
            Kind::Mixed => self.mixed(random),
            Kind::Rot => self.rot(random),
            Kind::Full => None,
        }
    }

    /// The first half of the images cut at one byte after the other; the second half at any.
    fn cut(&self, number: usize, count: usize, random: &mut Seeded) -> Option<Image> {
        let cuts = self.cuts();
        let all: usize = cuts.iter().map(|(_, bytes)| bytes).sum();
        let in_a_row = count / 2;
        let mut place = if number < in_a_row && all > 0 {
            let mut first = Seeded::derived(self.steps.len() as u64, "first cut", 0);
            (first.below(all) + number) % all
        } else {
            random.below(all)
        };
        let &(step, _) = cuts.iter().find(|(_, bytes)| match place.checked_sub(*bytes) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        })?;
        let Step::Write { file, offset, .. } = &self.steps[step] else { return None };
        let at = step + 1;
        let model = Model::after(&self.steps[..at]);
        let path = model.path_of(*file)?.to_owned();
        let mut files = model.live();
        // What the write had not come to is as it was before: a log that is opened writes its last
        // bytes again, and a file does not grow shorter by that.
        let mut before = Model::after(&self.steps[..step]).live();
        let old = before.remove(&path).unwrap_or_default();
        let bytes = files.get_mut(&path)?;
        bytes.truncate(offset + place);
        bytes.extend_from_slice(old.get(offset + place..).unwrap_or_default());
        let table = self.add_table(&mut files, at, random);
        let story = format!("{path} cut at byte {}; {table}", offset + place);
        Some(Image { kind: Kind::Cut, files, at, story })
    }

    /// The writes to the commit log that a sync follows, and at how many bytes each can be cut.
    fn cuts(&self) -> Vec<(usize, usize)> {
        let log_files: Vec<usize> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Create { path, file } if path.starts_with("log/") => Some(*file),
                _ => None,
            })
            .collect();
        let cut = |(index, step): (usize, &Step)| match step {
            Step::Write { file, bytes, .. } if log_files.contains(file) => {
                Some((index, bytes.len()))
            }
            _ => None,
        };
        self.steps.iter().enumerate().filter_map(cut).collect()
    }

    fn power_cut(&self, kind: Kind, loss: Loss, random: &mut Seeded) -> Image {
        let at = random.below(self.steps.len() + 1);
        let mut files = Model::after(&self.steps[..at]).power_cut(loss, random);
        let table = self.add_table(&mut files, at, random);
        Image { kind, files, at, story: format!("power cut after step {at}; {table}") }
    }

    fn killed(&self, random: &mut Seeded) -> Image {
        let moment = &self.moments[random.below(self.moments.len())];
        // Without files of its own the table is as the seam knows it at every step.
        let at = match self.has_table_files() {
            true => moment.at,
            false => random.below(self.steps.len() + 1),
        };
        let mut files = Model::after(&self.steps[..at]).live();
        put_table(&mut files, &moment.files);
        Image { kind: Kind::Killed, files, at, story: format!("killed after step {at}") }
    }

    fn mixed(&self, random: &mut Seeded) -> Option<Image> {
        let later: Vec<usize> =
            (1..self.moments.len()).filter(|index| !self.moments[*index].synced).collect();
        if !self.has_table_files() || later.is_empty() {
            return None;
        }
        let newer = later[random.below(later.len())];
        let older = (0..newer).rev().find(|index| self.moments[*index].synced)?;
        let next = self.moments.get(newer + 1).map_or(self.steps.len(), |moment| moment.at);
        let from = self.moments[newer].at;
        let at = from + random.below(next.saturating_sub(from) + 1);
        let mut files = Model::after(&self.steps[..at]).power_cut(Loss::Tail, random);
        let (older, newer) = (&self.moments[older], &self.moments[newer]);
        let (mixed, how) = mix(&older.files, &newer.files, random);
        put_table(&mut files, &mixed);
        let story = format!(
            "power cut after step {at}; table of step {} over that of step {}: {how}",
            newer.at, older.at
        );
        Some(Image { kind: Kind::Mixed, files, at, story })
    }

    fn rot(&self, random: &mut Seeded) -> Option<Image> {
        let synced: Vec<&Moment> =
            self.moments.iter().skip(1).filter(|moment| moment.synced).collect();
        let moment = *synced.get(random.below(synced.len()))?;
        let mut files = Model::after(&self.steps[..moment.at]).live();
        put_table(&mut files, &moment.files);
        let full: Vec<String> =
            files.iter().filter(|(_, it)| !it.is_empty()).map(|(path, _)| path.clone()).collect();
        let path = full.get(random.below(full.len()))?;
        let bytes = files.get_mut(path)?;
        let (byte, bit) = (random.below(bytes.len()), random.below(8));
        *bytes.get_mut(byte)? ^= 1 << bit;
        let story = format!("step {}; bit {bit} of byte {byte} of {path} flipped", moment.at);
        Some(Image { kind: Kind::Rot, files, at: moment.at, story })
    }

    fn has_table_files(&self) -> bool {
        self.moments.iter().any(|moment| !moment.files.is_empty())
    }

    /// Adds the table's own files: as the last checkpoint left them, or as a later copy shows them.
    fn add_table(&self, files: &mut Files, at: usize, random: &mut Seeded) -> String {
        let before = self.moments.iter().filter(|moment| moment.at <= at);
        let known: Vec<&Moment> = before.collect();
        let synced = known.iter().rposition(|moment| moment.synced).unwrap_or(0);
        let moment = known[synced + random.below(known.len() - synced)];
        put_table(files, &moment.files);
        format!("table as of step {}", moment.at)
    }
}

fn put_table(files: &mut Files, table: &Files) {
    if !table.is_empty() {
        files.insert(format!("{TABLE_DIRECTORY}/"), Vec::new());
    }
    for (path, bytes) in table {
        files.insert(format!("{TABLE_DIRECTORY}/{path}"), bytes.clone());
    }
}

/// Something between two states of a directory, and what it is.
fn mix(older: &Files, newer: &Files, random: &mut Seeded) -> (Files, &'static str) {
    let mut mixed = Files::new();
    let style = random.below(3);
    // How many blocks in 16 are new.
    let new_of_16 = [1, 8, 15][random.below(3)];
    let paths = older.keys().chain(newer.keys());
    for path in paths {
        let bytes = match (older.get(path), newer.get(path)) {
            (Some(old), Some(new)) => Some(match style {
                0 => new.clone(),
                _ => blocks(old, new, new_of_16, random),
            }),
            (None, Some(_)) if path.ends_with('/') => Some(Vec::new()),
            (None, Some(new)) if style < 2 => appeared(new, random),
            (None, Some(new)) => Some(new.clone()),
            (Some(old), None) => (random.below(2) == 0).then(|| old.clone()),
            (None, None) => None,
        };
        if let Some(bytes) = bytes {
            mixed.insert(path.clone(), bytes);
        }
    }
    let how = match style {
        0 => "files that are new may be missing or cut",
        1 => "blocks and new files may be missing",
        _ => "blocks may be missing",
    };
    (mixed, how)
}

/// A file that did not exist when everything was synced.
fn appeared(new: &[u8], random: &mut Seeded) -> Option<Vec<u8>> {
    match random.below(4) {
        0 => None,
        1 => Some(new[..random.below(new.len() + 1)].to_vec()),
        // Its length reached the disk, and its bytes did not.
        2 => Some(vec![0; new.len()]),
        _ => Some(new.to_vec()),
    }
}

fn blocks(old: &[u8], new: &[u8], new_of_16: usize, random: &mut Seeded) -> Vec<u8> {
    let block = if random.below(2) == 0 { BLOCK_BYTES } else { SECTOR_BYTES };
    let shorter = old.len().min(new.len());
    let len = match random.below(3) {
        0 => shorter + random.below(old.len().max(new.len()) - shorter + 1),
        1 => old.len(),
        _ => new.len(),
    };
    let mut bytes = old.to_vec();
    bytes.resize(len, 0);
    for start in (0..len.min(new.len())).step_by(block) {
        let end = (start + block).min(len).min(new.len());
        if random.below(16) < new_of_16 {
            bytes[start..end].copy_from_slice(&new[start..end]);
        }
    }
    bytes
}
