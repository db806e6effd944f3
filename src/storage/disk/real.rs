//! Files of the operating system.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile};

/// A directory of the operating system, locked against other processes while it is open.
pub struct RealDisk {}

impl RealDisk {
    /// Opens (and where needed creates) the directory and locks it: fails with `WouldBlock` where
    /// another process has it open.
    pub fn open(_root: &Path) -> io::Result<RealDisk> {
        todo!()
    }
}

impl Disk for RealDisk {
    fn create(&self, _path: &str) -> io::Result<Arc<dyn DiskFile>> {
        todo!()
    }
    fn open(&self, _path: &str) -> io::Result<Arc<dyn DiskFile>> {
        todo!()
    }
    fn list(&self, _dir: &str) -> io::Result<Vec<String>> {
        todo!()
    }
    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        todo!()
    }
    fn remove(&self, _path: &str) -> io::Result<()> {
        todo!()
    }
    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        todo!()
    }
}
