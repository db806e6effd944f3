//! A disk in memory for tests of what lies on a disk, where everything written stays.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::disk::{Disk, DiskFile};

/// Files by path; a rename moves the open file with its name.
#[derive(Default)]
pub struct PlainDisk {
    files: Mutex<BTreeMap<String, Arc<PlainFile>>>,
}

#[derive(Default)]
struct PlainFile(Mutex<Vec<u8>>);

impl PlainDisk {
    fn file(&self, path: &str) -> io::Result<Arc<PlainFile>> {
        self.files.lock().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What a file holds.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        self.file(path).expect("the file exists").0.lock().clone()
    }

    /// Puts other bytes in place of a file.
    pub fn replace(&self, path: &str, contents: Vec<u8>) {
        let file = Arc::new(PlainFile(Mutex::new(contents)));
        self.files.lock().insert(path.to_owned(), file);
    }
}

impl Disk for PlainDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(PlainFile::default());
        match self.files.lock().insert(path.to_owned(), file.clone()) {
            None => Ok(file),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(path)?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let files = self.files.lock();
        let split = files.keys().map(|path| path.rsplit_once('/').unwrap_or(("", path)));
        Ok(split.filter(|(parent, _)| *parent == dir).map(|(_, name)| name.to_owned()).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.files.lock().remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for PlainFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut held = self.0.lock();
        let end = offset as usize + bytes.len();
        if held.len() < end {
            held.resize(end, 0);
        }
        held[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }
}
