//! What the last checkpoint reached, in a file beside fjall's.
//!
//! **Why it exists.** To fjall a journal that is missing, or that makes no sense from some place on, is
//! one that ended there. What a checkpoint made durable must be there, or the node refuses. And
//! damage to the few rows that fjall keeps about its keyspaces makes it abort the process: those
//! never change once they are made, so that a hash of their files shows it first. So does damage to
//! the version that says which sorted files there are, which has a hash that fjall never compares.
//!
//! **How.** The number of a batch, the hash of those files and a hash of both, written anew and put in
//! place by a rename, both synced. The first is written before the first batch: a table without a
//! mark is one whose making was interrupted.

use std::fs::{self, File};
use std::hash::Hasher as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use twox_hash::{XxHash3_64, XxHash3_128};

use super::{TableError, WHAT_TO_DO};

/// The file's name in fjall's folder, and that of the next one until it is in place.
const MARK: &str = "checkpointed";
const NEXT: &str = "checkpointed.next";

/// Where fjall keeps what it knows about its keyspaces.
const ABOUT_KEYSPACES: &str = "keyspaces/0";

/// Where fjall keeps the rows: the one keyspace that was made after those files.
const ROWS: &str = "keyspaces/1";

/// What fjall takes for a table that was never made where it is missing.
const NEEDED: [&str; 2] = ["version", "keyspaces/1/current"];

const MARK_BYTES: usize = 8 + 8 + 8;

/// A checkpoint, as it is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The batch that it reached.
    pub number: u64,
    about_keyspaces: u64,
}

impl Mark {
    /// The mark of a table that was just made.
    pub(super) fn new(dir: &Path) -> io::Result<Mark> {
        Ok(Mark { number: 0, about_keyspaces: hash_of(dir)? })
    }

    /// The mark that was written last; `None` where there never was one.
    pub(super) fn read(dir: &Path) -> Result<Option<Mark>, TableError> {
        let bytes = match fs::read(dir.join(MARK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let mark = word(0).zip(word(8));
        match mark.map(|(number, about_keyspaces)| Mark { number, about_keyspaces }) {
            Some(mark) if mark.encode()[..] == bytes[..] => Ok(Some(mark)),
            _ => Err(damaged(&format!("{MARK} does not match its hash"))),
        }
    }

    /// Writes the mark, durably.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let mut file = File::create(dir.join(NEXT))?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        fs::rename(dir.join(NEXT), dir.join(MARK))?;
        File::open(dir)?.sync_all()
    }

    /// Whether fjall's files are there and say about its keyspaces what they always said.
    pub(super) fn check_files(self, dir: &Path) -> Result<(), TableError> {
        if let Some(missing) = NEEDED.iter().find(|name| !dir.join(name).exists()) {
            return Err(damaged(&format!("{missing} is missing")));
        }
        if hash_of(dir)? != self.about_keyspaces {
            return Err(damaged(&format!("{ABOUT_KEYSPACES} does not match its hash")));
        }
        check_version(&dir.join(ROWS))
    }

    fn encode(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.about_keyspaces.to_be_bytes());
        let hash = XxHash3_64::oneshot(&bytes[..16]);
        bytes[16..].copy_from_slice(&hash.to_be_bytes());
        bytes
    }
}

fn damaged(what: &str) -> TableError {
    TableError::Damaged(format!("{what}; {WHAT_TO_DO}"))
}

/// Compares the version that `current` names with its hash. fjall writes the hash and never compares
/// it: of sorted files that are not in the version it would know nothing, and remove them.
fn check_version(keyspace: &Path) -> Result<(), TableError> {
    let current = fs::read(keyspace.join("current"))?;
    let (Some(number), Some(hash)) = (current.first_chunk::<8>(), current.get(8..24)) else {
        return Err(damaged(&format!("{ROWS}/current is cut short")));
    };
    let name = format!("v{}", u64::from_le_bytes(*number));
    let version = match fs::read(keyspace.join(&name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&format!("{ROWS}/{name} is missing")));
        }
        version => version?,
    };
    if XxHash3_128::oneshot(&version).to_le_bytes() != hash {
        return Err(damaged(&format!("{ROWS}/{name} does not match its hash")));
    }
    Ok(())
}

/// The hash of the names and contents of all files about keyspaces, but for the versions before the
/// current one, which fjall removes as it opens.
fn hash_of(dir: &Path) -> io::Result<u64> {
    let mut files = Vec::new();
    gather(&dir.join(ABOUT_KEYSPACES), &mut files)?;
    let current = fs::read(dir.join(ABOUT_KEYSPACES).join("current")).unwrap_or_default();
    let current = current.first_chunk().map(|number| format!("v{}", u64::from_le_bytes(*number)));
    files.retain(|file| match file.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.starts_with('v') => Some(name) == current.as_deref(),
        _ => true,
    });
    files.sort();
    let mut hash = XxHash3_64::new();
    for path in files {
        hash.write(path.strip_prefix(dir).unwrap_or(&path).as_os_str().as_encoded_bytes());
        let contents = fs::read(&path)?;
        hash.write_u64(contents.len() as u64);
        hash.write(&contents);
    }
    Ok(hash.finish())
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() { gather(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = || Mark::read(dir.path());
        assert_eq!(read().expect("none yet"), None);
        for number in [1, 77] {
            let mark = Mark { number, about_keyspaces: 5 };
            mark.write(dir.path()).expect("written");
            assert_eq!(read().expect("it reads back"), Some(mark));
        }
        let bytes = fs::read(dir.path().join(MARK)).expect("the file");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(MARK), flipped).expect("written");
            assert!(read().is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            fs::write(dir.path().join(MARK), &bytes[..cut]).expect("written");
            assert!(read().is_err(), "cut at {cut}");
        }
    }
}
