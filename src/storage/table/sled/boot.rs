//! Whether the machine went down while the table was open.
//!
//! **Why it exists.** A power cut may take from sled's files what the death of a process leaves, and
//! then the whole table is to be checked before anyone relies on it; after a plain restart that
//! would only take time. The kernel's boot id tells the two apart.
//!
//! **How.** While the table is open a file beside sled's says under which boot it was opened. It goes
//! at a close after which nothing is left unsynced.
//!
//! **Guarantees.** Where it cannot be told, the machine is taken to have gone down.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// The file in sled's directory that says under which boot it was opened.
const MARK: &str = "opened-in-boot";

/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether the table in `dir` was left open by another boot than this one.
pub(super) fn went_down(dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(dir.join(MARK)) {
        Ok(mark) => Ok(Some(mark) != boot_id()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A mark that is no text was written by no boot.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(true),
        Err(error) => Err(error),
    }
}

/// Says that this boot has the table open; durable.
pub(super) fn mark(dir: &Path) -> io::Result<()> {
    let mut file = File::create(dir.join(MARK))?;
    // An empty mark is of no boot, and so of another one.
    file.write_all(boot_id().unwrap_or_default().as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Says that the table was closed with everything synced.
pub(super) fn unmark(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string(BOOT_ID).ok().filter(|id| !id.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_left_open_by_another_boot_is_told_from_one_of_this_boot() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!went_down(dir.path()).expect("no mark yet"));
        mark(dir.path()).expect("marked");
        assert!(!went_down(dir.path()).expect("this boot's mark"));
        for other in [&b"an older boot"[..], b"", b"\xff\xfe"] {
            fs::write(dir.path().join(MARK), other).expect("written");
            assert!(went_down(dir.path()).expect("another mark"), "{other:?}");
        }
        unmark(dir.path()).expect("unmarked");
        unmark(dir.path()).expect("twice does no harm");
        assert!(!went_down(dir.path()).expect("no mark any more"));
    }
}
