//! The recorded run: acknowledged writes on a real directory, and what it looked like meanwhile.
//!
//! One client writes and deletes rows of mixed sizes, some at the same time. Now and then a checkpoint
//! is taken, the table's own files are copied as they are, or the node is stopped and started
//! again. For every write the recording says before which step it began and after which step it was
//! acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::model::Files;
use super::node::{NoStart, Running, in_a_paused_world, open_disk, settings};
use super::recorder::{Recording, RecordingDisk, Step};
use crate::config::{Engine, Settings};
use crate::history::{Seeded, ValueId};
use crate::node::{OpenTable, TABLE_DIRECTORY, World};
use crate::storage::disk::Disk;
use crate::storage::table::{Hooked, Hooks, Table, TableError};
use crate::types::{Mode, Version};

/// How many keys are written: few, so that most are written again.
const KEYS: usize = 24;

/// Rounds of writes; after each comes a checkpoint, a copy, or a new start.
const ROUNDS: usize = 10;

/// Writes a round at most.
const ROUND_WRITES: usize = 24;

/// Writes that may be under way at once.
const AT_ONCE: usize = 4;

/// Sizes of values, in bytes: from a word to beyond every limit at which an engine stores a value
/// in some other way.
const VALUE_BYTES: [usize; 8] = [8, 120, 900, 4_096, 16_500, 33_000, 60_000, 100_000];

/// How often the table's files are read until two readings agree.
const COPY_TRIES: usize = 50;

/// One write, as its client saw it.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub key: String,
    /// `None` deletes.
    pub value: Option<Bytes>,
    /// `None` where it was not acknowledged.
    pub version: Option<Version>,
    /// Steps done when it began, and when it was acknowledged; never is `usize::MAX`.
    pub begun: usize,
    pub acknowledged: usize,
}

/// The table's own files at one moment.
pub(super) struct Moment {
    /// Steps done then.
    pub at: usize,
    /// Whether a checkpoint had just ended, so that all of it was synced.
    pub synced: bool,
    pub files: Files,
}

/// Everything that a recorded run left.
pub(super) struct Session {
    pub engine: Engine,
    pub mode: Mode,
    pub steps: Vec<Step>,
    pub writes: Vec<Written>,
    /// In order; the first is before the table was made.
    pub moments: Vec<Moment>,
}

/// Records a run in an empty directory.
pub(super) fn record(
    engine: Engine,
    mode: Mode,
    seed: u64,
    directory: &Path,
) -> anyhow::Result<Session> {
    let mut recorder = Recorder {
        settings: settings(engine, mode, directory),
        seed,
        starts: 0,
        rounds: 0,
        ended: false,
        random: Seeded::derived(seed, "session", 0),
        recording: Recording::default(),
        moments: Arc::new(Mutex::new(vec![Moment { at: 0, synced: true, files: Files::new() }])),
        table: Arc::default(),
        writes: Vec::new(),
        sequence: 0,
    };
    // A world of its own for each life: what it held is let go of with it.
    while !recorder.ended {
        in_a_paused_world(recorder.live())??;
    }
    let moments = std::mem::take(&mut *recorder.moments.lock());
    let steps = recorder.recording.steps();
    Ok(Session { engine, mode, steps, writes: recorder.writes, moments })
}

struct Recorder {
    settings: Settings,
    seed: u64,
    starts: u64,
    rounds: usize,
    ended: bool,
    random: Seeded,
    recording: Recording,
    moments: Arc<Mutex<Vec<Moment>>>,
    /// The table of the running node.
    table: Arc<Mutex<Option<Arc<dyn Table>>>>,
    writes: Vec<Written>,
    sequence: u32,
}

impl Recorder {
    /// One life of the node: from its start until it stops, is killed, or all rounds are done.
    async fn live(&mut self) -> anyhow::Result<()> {
        let node = self.start().await?;
        while self.rounds < ROUNDS {
            self.rounds += 1;
            self.write_some(&node).await?;
            match self.random.below(6) {
                0 | 1 => node.checkpoint().await?,
                2 | 3 => self.copy_table()?,
                4 => {
                    self.table.lock().take();
                    return node.stop().await;
                }
                _ => {
                    self.copy_table()?;
                    self.table.lock().take();
                    node.kill();
                    return Ok(());
                }
            }
        }
        self.write_some(&node).await?;
        node.checkpoint().await?;
        self.write_some(&node).await?;
        self.copy_table()?;
        node.checkpoint().await?;
        self.table.lock().take();
        node.kill();
        self.ended = true;
        Ok(())
    }

    async fn start(&mut self) -> anyhow::Result<Running> {
        self.starts += 1;
        let real = open_disk(&self.settings.data_dir)?;
        let disk: Arc<dyn Disk> = Arc::new(RecordingDisk::new(real, self.recording.clone()));
        let open = World::table_of(&self.settings, disk.clone());
        let (slot, recording, moments) =
            (self.table.clone(), self.recording.clone(), self.moments.clone());
        let directory = self.settings.data_dir.join(TABLE_DIRECTORY);
        let open_table: OpenTable = Box::new(move || {
            let inner = open()?;
            *slot.lock() = Some(inner.clone());
            let copying = Copying { directory, recording, moments };
            Ok(Arc::new(Hooked::new(inner, copying)) as Arc<dyn Table>)
        });
        let settings = self.settings.clone();
        let started = Running::start(settings, disk, open_table, self.seed, self.starts).await;
        let node = started.map_err(|problem| match problem {
            NoStart::Refused(error) => anyhow!("the node does not start: {error}"),
            NoStart::Panicked(text) => anyhow!("the node does not start: {text}"),
        })?;
        node.ready().await.map_err(|reason| anyhow!("the node does not serve: {reason}"))?;
        if self.starts > 1 {
            self.copy_table()?;
        }
        Ok(node)
    }

    async fn write_some(&mut self, node: &Running) -> anyhow::Result<()> {
        let mut left = 1 + self.random.below(ROUND_WRITES);
        // Now and then a flood, so that engines which buffer write to their files by themselves.
        let flood = self.random.below(4) == 0;
        left += if flood { 2 * ROUND_WRITES } else { 0 };
        while left > 0 {
            let at_once = (1 + self.random.below(AT_ONCE)).min(left);
            left -= at_once;
            let mut batch = BTreeMap::new();
            for _ in 0..at_once {
                let key = format!("key/{:02}", self.random.below(KEYS));
                batch.insert(key, self.value(flood));
            }
            let begun = self.recording.len();
            let recording = &self.recording;
            let writes = batch.into_iter().map(|(key, value)| async move {
                let version = Some(node.write(&key, value.clone()).await??);
                let acknowledged = recording.len();
                anyhow::Ok(Written { key, value, version, begun, acknowledged })
            });
            for written in join_all(writes).await {
                self.writes.push(written.context("a write was not acknowledged")?);
            }
        }
        Ok(())
    }

    fn value(&mut self, large: bool) -> Option<Bytes> {
        if self.random.below(7) == 0 {
            return None;
        }
        let smallest = if large { VALUE_BYTES.len() - 3 } else { 0 };
        let size = VALUE_BYTES[smallest + self.random.below(VALUE_BYTES.len() - smallest)];
        self.sequence += 1;
        let mut bytes = Vec::new();
        ValueId { client: 1, seq: self.sequence }.fill(size, &mut bytes);
        Some(bytes.into())
    }

    /// Has the table write what it gathered, and copies its files without syncing any.
    fn copy_table(&self) -> anyhow::Result<()> {
        let Some(table) = self.table.lock().clone() else { bail!("there is no table") };
        // A view begins with everything applied before it.
        drop(table.view()?);
        let files = read_directory(&self.settings.data_dir.join(TABLE_DIRECTORY))?;
        self.moments.lock().push(Moment { at: self.recording.len(), synced: false, files });
        Ok(())
    }
}

/// Copies the table's files whenever a checkpoint has ended.
struct Copying {
    directory: std::path::PathBuf,
    recording: Recording,
    moments: Arc<Mutex<Vec<Moment>>>,
}

impl Hooks for Copying {
    fn after_checkpoint(&self) -> Result<(), TableError> {
        let files = read_directory(&self.directory)?;
        self.moments.lock().push(Moment { at: self.recording.len(), synced: true, files });
        Ok(())
    }
}

/// Every file under a directory, once two readings in a row agree; none where there is none. The
/// name of a directory itself is kept with a `/` at its end.
fn read_directory(directory: &Path) -> io::Result<Files> {
    let mut last = None;
    for _ in 0..COPY_TRIES {
        let mut files = Files::new();
        match read_into(directory, "", &mut files) {
            // Removed while it was being read: engines remove files in the background.
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.exists() => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::new()),
            other => other?,
        }
        if last.as_ref() == Some(&files) {
            return Ok(files);
        }
        last = Some(files);
    }
    Err(io::Error::other("the table's files never come to rest"))
}

fn read_into(directory: &Path, prefix: &str, files: &mut Files) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files.insert(format!("{name}/"), Vec::new());
            read_into(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}
