//! fjall's journals, read before fjall does.
//!
//! **Why it exists.** Recovery takes a journal as far as it makes sense and goes on with the next one,
//! without a word about what it left out; and the hash of a batch leaves out its place in fjall's
//! order, by which fjall decides whether the batch lies in a sorted file already.
//!
//! **How.** Every batch holds a row with its number, one more than the one before. The last journal may
//! end torn, and is cut there, where fjall itself would sometimes refuse. Any other journal was synced
//! before the next one was begun: it has to be whole. What fjall then makes of them is compared.
//!
//! **Guarantees.** After [`check`] and [`Batches::compare`] the table is what some prefix of its
//! batches made it, as far as the journals go; sorted files have their own hashes.
//!
//! A journal is `start (count, sequence), row..., end (hash, magic)` again and again, and zeros up to
//! its end, since space for it is taken ahead; fjall is pinned, so that this stays so.

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher as _;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use super::{NUMBER_KEY, TableError, WHAT_TO_DO, parse_number};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const MAGIC: [u8; 4] = *b"FJL\x03";

/// What is read at once, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// A batch in a journal: its place in fjall's order, and its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    sequence: u64,
    number: u64,
}

/// The batches that the journals hold, in order.
#[derive(Debug, Default)]
pub(super) struct Batches(Vec<Batch>);

/// Reads all journals in `dir`, and cuts a torn tail. `mark` is the batch that has to be there.
pub(super) fn check(dir: &Path, mark: u64) -> Result<Batches, TableError> {
    let mut batches = Batches::default();
    let paths = paths_in(dir)?;
    for (i, path) in paths.iter().enumerate() {
        let mut journal = Journal::open(path)?;
        while let Some(batch) = journal.next()? {
            batches.add(batch)?;
        }
        if i + 1 < paths.len() {
            journal.expect_zeros().map_err(|error| named(path, error))?;
        } else if batches.0.last().is_none_or(|last| last.number >= mark) {
            cut(path, journal.valid_bytes)?;
        } else {
            // Cut nothing that somebody might still make sense of.
            return Err(damaged("breaks off before what the last checkpoint reached"))
                .map_err(|error| named(path, error));
        }
    }
    Ok(batches)
}

impl Batches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, batch: Batch) -> Result<(), TableError> {
        if let Some(last) = self.0.last() {
            let follows = batch.number == last.number + 1 && batch.sequence > last.sequence;
            if !follows {
                return Err(damaged("batches are missing or out of order"));
            }
        }
        self.0.push(batch);
        Ok(())
    }

    /// Compares what is in the journals with what fjall recovered: the place and the number of the
    /// last batch in its sorted files, and the number of the last batch of all.
    pub(super) fn compare(
        &self,
        sorted: Option<(u64, u64)>,
        recovered: u64,
    ) -> Result<(), TableError> {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return Ok(()) };
        let number = sorted.map_or(0, |(_, number)| number);
        let is_sorted = |batch: &Batch| sorted.is_some_and(|(to, _)| batch.sequence <= to);
        if first.number > number + 1 {
            return Err(damaged("batches are missing between its files and its journals"));
        }
        if !self.0.iter().all(|batch| is_sorted(batch) == (batch.number <= number)) {
            return Err(damaged("a batch is not where it was in their order"));
        }
        // A batch may be in a sorted file, which is synced at once, before its journal is.
        let all_sorted = last.number < recovered && recovered == number;
        if last.number != recovered && !all_sorted {
            return Err(damaged("its journals end elsewhere than its files do"));
        }
        Ok(())
    }
}

fn damaged(what: &str) -> TableError {
    TableError::Damaged(format!("{what}; {WHAT_TO_DO}"))
}

fn named(path: &Path, error: TableError) -> TableError {
    match (path.file_name(), error) {
        (Some(name), TableError::Damaged(what)) => {
            TableError::Damaged(format!("journal {}: {what}", name.display()))
        }
        (_, error) => error,
    }
}

/// The journals in `dir`, the oldest first.
fn paths_in(dir: &Path) -> Result<Vec<PathBuf>, TableError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let number = number.ok_or_else(|| damaged("a journal's name is not a number"))?;
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// Cuts a journal, durably; fjall appends to what is left.
fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    Ok(())
}

/// A journal that is being read.
struct Journal<R> {
    input: R,
    /// How far it made sense.
    valid_bytes: u64,
    /// What was read since the last whole batch ended.
    read_bytes: u64,
    /// The hash over the rows of the batch being read.
    hash: XxHash3_64,
    buffer: Vec<u8>,
}

impl Journal<BufReader<File>> {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Journal::new(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?)))
    }

    /// Whether nothing was ever written after the last whole batch.
    fn expect_zeros(self) -> Result<(), TableError> {
        let mut file = self.input.into_inner();
        io::Seek::seek(&mut file, io::SeekFrom::Start(self.valid_bytes))?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read if buffer[..read].iter().all(|byte| *byte == 0) => {}
                _ => return Err(damaged("breaks off in the middle, though another follows it")),
            }
        }
    }
}

impl<R: Read> Journal<R> {
    fn new(input: R) -> Journal<R> {
        let (hash, buffer) = (XxHash3_64::new(), Vec::new());
        Journal { input, valid_bytes: 0, read_bytes: 0, hash, buffer }
    }

    /// The next whole batch; `None` where the journal ends or makes no sense any more.
    fn next(&mut self) -> Result<Option<Batch>, TableError> {
        self.read_bytes = 0;
        let batch = match self.read_batch() {
            Ok(batch) => batch,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error.into()),
        };
        let Some((sequence, number)) = batch else { return Ok(None) };
        self.valid_bytes += self.read_bytes;
        let number = number.ok_or_else(|| damaged("a batch in a journal has no number"))?;
        Ok(Some(Batch { sequence, number: parse_number(&number)? }))
    }

    fn read_batch(&mut self) -> io::Result<Option<(u64, Option<Vec<u8>>)>> {
        if self.bytes::<1>()? != [START] {
            return Ok(None);
        }
        let rows = u32::from_le_bytes(self.bytes()?);
        let sequence = u64::from_le_bytes(self.bytes()?);
        self.hash = XxHash3_64::new();
        let mut number = None;
        for _ in 0..rows {
            let Some(found) = self.read_row()? else { return Ok(None) };
            number = found.or(number);
        }
        if self.bytes::<1>()? != [END] {
            return Ok(None);
        }
        let hash = u64::from_le_bytes(self.bytes()?);
        if hash != self.hash.finish() || self.bytes()? != MAGIC {
            return Ok(None);
        }
        Ok(Some((sequence, number)))
    }

    /// Reads a row, and gives the value of the one that counts; the outer `None` where it is no row.
    fn read_row(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        // Tag, kind of value, compression, keyspace, and the lengths of key, value and stored value.
        let head: [u8; 21] = self.bytes()?;
        let [ITEM, _, 0, rest @ ..] = &head else { return Ok(None) };
        self.hash.write(&head);
        let key_bytes = usize::from(u16::from_le_bytes([rest[8], rest[9]]));
        let value_bytes = u32::from_le_bytes([rest[10], rest[11], rest[12], rest[13]]);
        if rest[10..14] != rest[14..18] {
            return Ok(None);
        }
        let row_bytes = key_bytes as u64 + u64::from(value_bytes);
        self.buffer.clear();
        // Grows as it is read: a length may be anything.
        (&mut self.input).take(row_bytes).read_to_end(&mut self.buffer)?;
        self.read_bytes += self.buffer.len() as u64;
        if self.buffer.len() as u64 != row_bytes {
            return Ok(None);
        }
        self.hash.write(&self.buffer);
        let (key, value) = self.buffer.split_at(key_bytes);
        Ok(Some((key == NUMBER_KEY).then(|| value.to_vec())))
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.read_bytes += N as u64;
        Ok(bytes)
    }
}
