//! A disk that passes everything on to real files and remembers it, in order.
//!
//! **Why it exists.** What a power cut may leave of a directory follows from what was written to it
//! and what was synced; a recording of both, taken while a real node ran, gives every directory that
//! a cut at any moment could have left.
//!
//! **Guarantees.** A step is in the recording only once the real disk did it, and before the caller
//! goes on. Files are told apart by number, since they outlive their names.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::disk::{Disk, DiskFile};

/// One thing that was done to the directory.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create { path: String, file: usize },
    Write { file: usize, offset: usize, bytes: Arc<[u8]> },
    SetLen { file: usize, len: usize },
    Sync { file: usize },
    Rename { from: String, to: String },
    Remove { path: String },
    SyncDir { dir: String },
}

/// What was done so far; cheap to clone, and outlives the disks that write to it.
#[derive(Clone, Default)]
pub(super) struct Recording(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    /// The file at each name, as reads see it.
    names: BTreeMap<String, usize>,
    files: usize,
}

impl Recording {
    /// How many steps were done.
    pub(super) fn len(&self) -> usize {
        self.0.lock().steps.len()
    }

    /// Every step so far.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.0.lock().steps.clone()
    }

    fn done(&self, step: Step) {
        self.0.lock().steps.push(step);
    }
}

/// See the module.
pub(super) struct RecordingDisk {
    inner: Arc<dyn Disk>,
    recording: Recording,
}

impl RecordingDisk {
    /// Records what is done to `inner`. A directory that is opened again goes on with the same
    /// recording.
    pub(super) fn new(inner: Arc<dyn Disk>, recording: Recording) -> RecordingDisk {
        RecordingDisk { inner, recording }
    }

    fn file(&self, inner: Arc<dyn DiskFile>, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(RecordingFile { inner, file, recording: self.recording.clone() })
    }
}

impl Disk for RecordingDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.create(path)?;
        let file = {
            let steps = &mut *self.recording.0.lock();
            let file = steps.files;
            steps.files += 1;
            steps.names.insert(path.to_owned(), file);
            steps.steps.push(Step::Create { path: path.to_owned(), file });
            file
        };
        Ok(self.file(inner, file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path)?;
        let known = self.recording.0.lock().names.get(path).copied();
        let file = known.ok_or_else(|| {
            io::Error::other(format!("'{path}' was not made through this recording"))
        })?;
        Ok(self.file(inner, file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let steps = &mut *self.recording.0.lock();
        if let Some(file) = steps.names.remove(from) {
            steps.names.insert(to.to_owned(), file);
        }
        steps.steps.push(Step::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)?;
        let steps = &mut *self.recording.0.lock();
        steps.names.remove(path);
        steps.steps.push(Step::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)?;
        self.recording.done(Step::SyncDir { dir: dir.to_owned() });
        Ok(())
    }
}

struct RecordingFile {
    inner: Arc<dyn DiskFile>,
    file: usize,
    recording: Recording,
}

impl DiskFile for RecordingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(bytes, offset)?;
        let (file, offset) = (self.file, offset as usize);
        self.recording.done(Step::Write { file, offset, bytes: bytes.into() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        self.recording.done(Step::Sync { file: self.file });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        self.recording.done(Step::SetLen { file: self.file, len: len as usize });
        Ok(())
    }
}
