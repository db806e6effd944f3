//! The disk seam: files as the commit log, checkpoints and snapshots need them.
//!
//! One contract, two implementations: [`RealDisk`] over the operating system's files, and
//! [`SimDisk`] in memory, where what was not synced is lost or torn at a crash. Paths are relative
//! to the root that the disk was made with, with `/` between parts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::planted::{self, Bug};

#[cfg(test)]
mod contract;
mod real;
mod sim;

pub use real::RealDisk;
pub use sim::{DiskCounts, SimDisk};

/// A place for files. Paths that are absolute, or climb with `..`, are refused.
///
/// **Durability.** What was written to a file survives a crash only once [`DiskFile::sync`] of that
/// file returned. A file's name survives only once [`Disk::sync_dir`] of its directory returned
/// after the file was created, renamed or removed. An error from a sync means that nothing is known
/// about what is durable: the caller stops, and never syncs again.
pub trait Disk: Send + Sync + 'static {
    /// Creates a file that must not exist yet, along with the directories above it.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// The names (not paths) of the files in a directory, sorted; empty where there is none.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Renames a file within its directory, replacing the target where it exists. Atomic.
    /// Another directory is refused: two directories cannot be made durable at once.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// How long a sync takes in a simulated world; asked for by drivers that run as tasks there,
    /// which sleep that long before they sync. Zero on real disks, which take their own time.
    fn simulated_sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// An open file. Reads and writes name their offset; writing past the end extends the file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads exactly `buffer.len()` bytes, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written to the file durable, its length included.
    fn sync(&self) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Replaces a small file whole and durably: writes `<path>.tmp`, syncs it, renames it over `path`,
/// and syncs the directory. After a crash the file is the old one or the new one.
pub fn replace_file(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let dir = directory_of(path);
    let (_, temporary_name) = temporary.rsplit_once('/').unwrap_or(("", &temporary));
    if disk.list(dir)?.iter().any(|name| name == temporary_name) {
        disk.remove(&temporary)?;
    }
    let file = disk.create(&temporary)?;
    file.write_all_at(bytes, 0)?;
    if !planted::is(Bug::RenameBeforeSync) {
        file.sync()?;
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(dir)
}

/// Reads a small file whole; `None` where it does not exist.
pub fn read_file(disk: &dyn Disk, path: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Refuses a path that is not a plain relative one: it could leave the root.
fn check_path(path: &str) -> io::Result<()> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if path.split('/').all(plain) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("'{path}' is not a path of this disk: expected names with '/' between them"),
    ))
}

/// The directory that a path is in; empty for the root.
fn directory_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Refuses a rename from one directory into another.
fn same_directory(from: &str, to: &str) -> io::Result<()> {
    if directory_of(from) == directory_of(to) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("cannot rename '{from}' to '{to}': they are in two directories"),
    ))
}
