//! Files of the operating system.
//!
//! **Guarantees** what [`Disk`] asks for, with `fdatasync` on files (which covers a changed length)
//! and `fsync` on directories. A directory that [`Disk::create`] had to make is durable before the
//! call returns. While a [`RealDisk`] is open, no other process can open the same directory.
//!
//! **Does not guarantee** anything about drives that acknowledge a flush and do not do it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, check_path, directory_of, same_directory};

/// The file in the root whose lock says that the directory is in use. [`Disk::list`] hides it.
const LOCK_FILE: &str = "LOCK";

/// A directory of the operating system, locked against other processes while it is open.
pub struct RealDisk {
    root: PathBuf,
    /// Held for as long as the disk is open; the operating system releases it with the process.
    _lock: File,
}

impl RealDisk {
    /// Opens (and where needed creates) the directory and locks it: fails with `WouldBlock` where
    /// another process has it open.
    pub fn open(root: &Path) -> io::Result<RealDisk> {
        make_directories(root)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join(LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => Ok(RealDisk { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("the directory {} is in use by another process", root.display()),
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        check_path(path)?;
        if path == LOCK_FILE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("'{LOCK_FILE}' is the disk's own file"),
            ));
        }
        Ok(self.root.join(path))
    }

    fn resolve_directory(&self, dir: &str) -> io::Result<PathBuf> {
        if dir.is_empty() { Ok(self.root.clone()) } else { self.resolve(dir) }
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let full_path = self.resolve(path)?;
        make_directories(&self.resolve_directory(directory_of(path))?)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(full_path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.resolve(path)?)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.resolve_directory(dir)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours: no path of this disk can name it.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_lock = dir.is_empty() && name == LOCK_FILE;
            if !is_lock && entry.file_type()?.is_file() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        same_directory(from, to)?;
        fs::rename(self.resolve(from)?, self.resolve(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.resolve(path)?)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_directory(&self.resolve_directory(dir)?)
    }
}

/// A file of the operating system.
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// Makes a directory and those above it, each durable in the one above before the next is made.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directories(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_open_once_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("not/yet/there");
        let first = RealDisk::open(&root).expect("the first opens it");
        let second = RealDisk::open(&root).map(drop).expect_err("it is locked");
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        assert!(second.to_string().contains("in use by another process"), "{second}");
        drop(first);
        RealDisk::open(&root).expect("free again");
    }

    #[test]
    fn the_lock_is_neither_listed_nor_reachable() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(directory.path()).expect("opens");
        assert_eq!(disk.list("").expect("lists"), Vec::<String>::new());
        assert!(disk.open(LOCK_FILE).is_err());
        assert!(disk.remove(LOCK_FILE).is_err());
    }
}
