//! A disk in memory that loses and tears what was not synced when it crashes.

use std::io;
use std::sync::Arc;

use super::{Disk, DiskFile};

/// A simulated disk; cheap to clone, and outlives the node that crashes on it.
#[derive(Clone)]
pub struct SimDisk {}

impl SimDisk {
    /// An empty disk; `seed` decides what a crash loses and tears.
    pub fn new(_seed: u64) -> SimDisk {
        todo!()
    }

    /// What a power cut does: every write since a file's last sync is kept, lost or torn (by the
    /// seed), and names not synced may be gone. Open files fail from then on.
    pub fn crash(&self) {
        todo!()
    }
}

impl Disk for SimDisk {
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
