//! A file of a simulated disk, open since a given generation.

use std::io;

use super::contents::{Change, Contents, SharedContents};
use super::{SimDisk, State};
use crate::storage::disk::DiskFile;

pub(super) struct SimFile {
    pub disk: SimDisk,
    pub contents: SharedContents,
    pub generation: u64,
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
            let (room, full) = state.take_room(bytes.len());
            contents.change(Change::Write { offset, bytes: bytes[..room].to_vec() });
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
            state.counts.syncs += 1;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, contents| Ok(contents.live.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|_, contents| {
            let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
            contents.change(Change::SetLen(len));
            Ok(())
        })
    }
}
