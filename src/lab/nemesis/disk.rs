//! A small disk of its own for one node, so that it can be filled up.
//!
//! It is a tmpfs, which root may mount. Where that is not allowed there is none, and the reason is
//! reported: nothing else here pretends to be a full disk.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Room for the log, the table and a snapshot under the nemesis's short segments, in bytes. It
/// takes as much memory while it is full.
const SIZE_BYTES: u64 = 96 << 20;
/// What takes the room is written in pieces of this size, and the last one byte by byte.
const PIECE_BYTES: usize = 64 << 10;

/// A mounted tmpfs; unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `at`, which is made.
    pub fn mount(at: &Path) -> anyhow::Result<SmallDisk> {
        std::fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
        let size = std::ffi::CString::new(format!("size={SIZE_BYTES}"))?;
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), size.as_c_str())
            .with_context(|| format!("cannot mount a tmpfs at {}", at.display()))?;
        Ok(SmallDisk { at: at.to_owned() })
    }

    /// Where a node's data directory can be.
    pub fn data_dir(&self) -> PathBuf {
        self.at.join("data")
    }

    /// Takes all the room there is left.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut ballast = File::create(self.ballast()).context("cannot make the ballast")?;
        let mut piece = PIECE_BYTES;
        let zeros = vec![0; PIECE_BYTES];
        while piece > 0 {
            match ballast.write(&zeros[..piece]) {
                Ok(0) => piece /= 2,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
                Err(error) => return Err(error).context("cannot write the ballast"),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context("cannot remove the ballast")
            }
            _ => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, so that it goes away even where a file on it is still open.
        if unmount(&self.at, UnmountFlags::DETACH).is_ok() {
            let _ = std::fs::remove_dir(&self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_fills_up_and_has_room_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().join("small");
        let disk = match SmallDisk::mount(&at) {
            Ok(disk) => disk,
            Err(error) => {
                eprintln!("NOT TRIED: a full disk: {error:#}");
                return;
            }
        };
        std::fs::create_dir_all(disk.data_dir()).expect("room");
        let file = disk.data_dir().join("file");
        std::fs::write(&file, [1; 100_000]).expect("room");
        disk.fill().expect("filled");
        let full = std::fs::write(disk.data_dir().join("more"), [2; 4096]).expect_err("full");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        disk.free().expect("freed");
        std::fs::write(disk.data_dir().join("more"), [2; 4096]).expect("room again");
        assert_eq!(std::fs::read(&file).expect("kept"), [1; 100_000]);
        drop(disk);
        assert!(!at.exists(), "still mounted");
    }
}
