//! Opening a log: reading every record once, and telling a torn tail from damage.
//!
//! **A torn tail** is what a crash may leave of records that were never acknowledged: the last
//! segment ends (or holds nothing but zeros from some byte on) before its last record does. Because
//! the last byte of a record is never zero, this is one rule: the segment counts up to its last byte
//! that is not zero, and a record that needs more than that is torn. It is cut off. A last segment
//! that holds no more than a beginning of its header was being created, and is created again. So is a
//! hole in the last write, which `torn` tells from damage: it is cut off with all that follows.
//!
//! **Damage** is everything else, and is refused: all other segments must be whole to the byte, and
//! each must begin where the one before it ends.
//!
//! What is found is synced before it is replayed: after the death of the process alone, the tail may
//! be in the operating system's memory only, and whoever takes a record from here relies on it. The
//! header and the last write are written once more for that: where a sync of them failed before, the
//! operating system shows them, takes them for written, and would never write them again. The writer
//! cuts off what it could not sync, but a process that is killed in that sync does not come to it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::codec::{self, HEAD_BYTES, HEADER_BYTES, Head};
use super::segments::{FIRST_BASE, Segment, Tail, base_of, segment_path, write_header};
use super::{LogError, LogOptions, Position, ReplayedRecord, torn};
use crate::planted::{self, Bug};
use crate::storage::disk::DiskFile;

/// How much of a segment is read at once, in bytes: enough to keep a disk busy.
const READ_BYTES: u64 = 512 << 10;

/// How much is read at once in search of the last byte that is not zero, in bytes. Nearly always
/// the last byte of the file is that byte.
const LOOK_BACK_BYTES: u64 = 4 << 10;

/// A segment that is no longer than this may be one whose creation was cut short, in bytes: the
/// header, and zeros up to the end of what file systems hand out.
const CREATED_BYTES: u64 = 8 << 10;

/// Takes the records of a log while it is opened.
pub(super) type Replay<'a> = dyn FnMut(ReplayedRecord<'_>) -> Result<(), String> + 'a;

/// A log that was read to its end.
pub(super) struct Opened {
    pub segments: VecDeque<Arc<Segment>>,
    pub tail: Tail,
}

/// Opens or creates the segments in the log's directory, and replays their records.
pub(super) fn open(options: &LogOptions, replay: &mut Replay<'_>) -> Result<Opened, LogError> {
    let mut segments = find(options)?;
    let Some(newest) = segments.back().cloned() else {
        let first = Segment::create(&*options.disk, &options.dir, FIRST_BASE, &options.metrics)?;
        segments.push_back(first);
        let segment_bytes = options.segment_bytes;
        let version = codec::FORMAT_VERSION;
        let tail = Tail { base: FIRST_BASE, end: FIRST_BASE, segment_bytes, version };
        return Ok(Opened { segments, tail });
    };
    options.disk.sync_dir(&options.dir)?;
    let mut end = segments.front().map_or(FIRST_BASE, |segment| segment.base);
    let mut version = codec::FORMAT_VERSION;
    for segment in &segments {
        if segment.base != end {
            let problem =
                format!("the segment before it ends at {end}: one is missing or too many");
            return Err(segment.damaged(0, problem));
        }
        end = if Arc::ptr_eq(segment, &newest) {
            let (end, of_newest) = open_newest(segment, options, replay)?;
            version = of_newest;
            end
        } else {
            let file_bytes = segment.file.len()?;
            let scanned = scan(segment, file_bytes, None, replay)?;
            if scanned != file_bytes {
                return Err(segment.damaged(scanned, "a record is cut short".to_owned()));
            }
            end_position(segment, scanned)?
        };
    }
    let segment_bytes = options.segment_bytes;
    let tail = Tail { base: newest.base, end, segment_bytes, version };
    Ok(Opened { segments, tail })
}

/// The segments that there are files of, oldest first.
fn find(options: &LogOptions) -> Result<VecDeque<Arc<Segment>>, LogError> {
    let mut bases = Vec::new();
    for name in options.disk.list(&options.dir)? {
        let base = base_of(&name).map_err(|problem| LogError::Damaged {
            file: format!("{}/{name}", options.dir),
            offset: 0,
            problem,
        })?;
        bases.extend(base);
    }
    bases.sort_unstable();
    let mut segments = VecDeque::new();
    for base in bases {
        let path = segment_path(&options.dir, base);
        let file = options.disk.open(&path)?;
        segments.push_back(Arc::new(Segment { base, path, file }));
    }
    Ok(segments)
}

/// Reads the last segment and cuts what a crash tore off; gives the position where it ends, and its
/// format version.
fn open_newest(
    segment: &Segment,
    options: &LogOptions,
    replay: &mut Replay<'_>,
) -> Result<(u64, u16), LogError> {
    let file_bytes = segment.file.len()?;
    let used_bytes = used_bytes(&*segment.file, file_bytes)?;
    if used_bytes < HEADER_BYTES as u64 {
        create_again(segment, used_bytes as usize, file_bytes, options)?;
        return Ok((segment.base, codec::FORMAT_VERSION));
    }
    let version = check_header(segment, &mut Reader::new(&*segment.file, used_bytes))?;
    write_again(segment, last_write(segment, version, used_bytes)?, used_bytes)?;
    write_header(&*segment.file, segment.base, version, &options.metrics)?;
    // Without flags, nothing tells a hole from damage.
    let holes = (version > 1).then_some(Holes);
    let scanned = match scan(segment, used_bytes, holes, replay) {
        Err(LogError::Damaged { offset, .. }) if planted::is(Bug::DamagedMiddleCut) => offset,
        scanned => scanned?,
    };
    if scanned < file_bytes {
        tracing::warn!(
            file = segment.path,
            offset = scanned,
            bytes = file_bytes - scanned,
            "cut a torn tail off the commit log: what was being written at the last crash, and was \
             never acknowledged"
        );
        segment.file.set_len(scanned)?;
        segment.file.sync()?;
        options.metrics.log_torn_tails.inc();
    }
    Ok((end_position(segment, scanned)?, version))
}

/// Where the last write of a segment begins, or an earlier one where that cannot be told. Only it may
/// not be durable, as a write begins once all before it is.
fn last_write(segment: &Segment, version: u16, used_bytes: u64) -> Result<u64, LogError> {
    let mut reader = Reader::new(&*segment.file, used_bytes);
    let mut offset = HEADER_BYTES as u64;
    let mut last = offset;
    loop {
        offset = codec::record_offset(offset, version);
        let Some(head) = reader.array::<HEAD_BYTES>(offset)? else { break };
        let position = Position(end_position(segment, offset)?);
        let Ok(head) = codec::decode_head(&head, position) else { break };
        if head.begins_write {
            last = offset;
        }
        offset += head.record_bytes();
    }
    Ok(last)
}

/// Writes what is there again, as it is, for the next sync.
fn write_again(segment: &Segment, from: u64, to: u64) -> io::Result<()> {
    let mut offset = from;
    while offset < to {
        let mut bytes = vec![0; READ_BYTES.min(to - offset) as usize];
        segment.file.read_exact_at(&mut bytes, offset)?;
        segment.file.write_all_at(&bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// Finishes a segment whose creation a crash cut short.
fn create_again(
    segment: &Segment,
    used_bytes: usize,
    file_bytes: u64,
    options: &LogOptions,
) -> Result<(), LogError> {
    let mut found = [0; HEADER_BYTES];
    segment.file.read_exact_at(&mut found[..used_bytes], 0)?;
    if !codec::begins_header(&found[..used_bytes], segment.base) {
        return Err(segment.damaged(0, "what there is of the segment header is wrong".to_owned()));
    }
    // Records are written only once the header is durable.
    if file_bytes > CREATED_BYTES {
        return Err(segment.damaged(0, "the segment header of records is gone".to_owned()));
    }
    tracing::warn!(
        file = segment.path,
        bytes = file_bytes,
        "the last crash cut the creation of a segment of the commit log short: created it again"
    );
    segment.file.set_len(0)?;
    write_header(&*segment.file, segment.base, codec::FORMAT_VERSION, &options.metrics)?;
    options.metrics.log_torn_tails.inc();
    Ok(())
}

/// How long the file is without the zeros at its end.
fn used_bytes(file: &dyn DiskFile, file_bytes: u64) -> io::Result<u64> {
    let mut buffer = [0; LOOK_BACK_BYTES as usize];
    let mut end = file_bytes;
    while end > 0 {
        let start = end.saturating_sub(LOOK_BACK_BYTES);
        let chunk = &mut buffer[..(end - start) as usize];
        file.read_exact_at(chunk, start)?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// A hole in the last write may be met, and ends the log.
#[derive(Clone, Copy)]
struct Holes;

/// Replays the records in the first `used_bytes` of a segment. Gives the offset of the first record
/// that is not whole there, which is `used_bytes` where all are.
fn scan(
    segment: &Segment,
    used_bytes: u64,
    holes: Option<Holes>,
    replay: &mut Replay<'_>,
) -> Result<u64, LogError> {
    let mut reader = Reader::new(&*segment.file, used_bytes);
    let version = check_header(segment, &mut reader)?;
    let mut end = HEADER_BYTES as u64;
    loop {
        let offset = codec::record_offset(end, version);
        let position = Position(end_position(segment, offset)?);
        let (head, payload) = match record_at(&mut reader, offset, position)? {
            Ok(Some(record)) => record,
            Ok(None) => {
                if planted::is(Bug::TornTailAccepted) {
                    replay_torn(&mut reader, offset, position, replay)?;
                }
                return Ok(end);
            }
            Err(problem) => {
                let is_hole =
                    holes.is_some() && torn::is_hole(&*segment.file, offset, used_bytes, position)?;
                return if is_hole { Ok(end) } else { Err(segment.damaged(offset, problem)) };
            }
        };
        replay(ReplayedRecord { position, kind: head.kind, payload })
            .map_err(|problem| LogError::Replay { position, problem })?;
        end = offset + head.record_bytes();
    }
}

/// What the planted bug does with a record that is cut short.
fn replay_torn(
    reader: &mut Reader<'_>,
    offset: u64,
    position: Position,
    replay: &mut Replay<'_>,
) -> Result<(), LogError> {
    let Some(head) = reader.array::<HEAD_BYTES>(offset)? else { return Ok(()) };
    let Ok(head) = codec::decode_head(&head, position) else { return Ok(()) };
    let body_offset = offset + HEAD_BYTES as u64;
    let payload = reader.bytes(body_offset, reader.end - body_offset)?.unwrap_or_default();
    replay(ReplayedRecord { position, kind: head.kind, payload })
        .map_err(|problem| LogError::Replay { position, problem })
}

/// The record at an offset, or what is wrong with it; `None` where it is cut short.
#[allow(clippy::type_complexity, reason = "two ways to fail, of which one is the disk's")]
fn record_at<'a>(
    reader: &'a mut Reader<'_>,
    offset: u64,
    position: Position,
) -> io::Result<Result<Option<(Head, &'a [u8])>, String>> {
    let Some(head) = reader.array::<HEAD_BYTES>(offset)? else { return Ok(Ok(None)) };
    let head = match codec::decode_head(&head, position) {
        Ok(head) => head,
        Err(problem) => return Ok(Err(problem)),
    };
    let body_bytes = head.record_bytes() - HEAD_BYTES as u64;
    let Some(body) = reader.bytes(offset + HEAD_BYTES as u64, body_bytes)? else {
        return Ok(Ok(None));
    };
    Ok(codec::decode_body(head, body).map(|payload| Some((head, payload))))
}

fn check_header(segment: &Segment, reader: &mut Reader<'_>) -> Result<u16, LogError> {
    let header = reader.array::<HEADER_BYTES>(0)?;
    let checked = match header {
        Some(header) => codec::check_header(&header, segment.base),
        None => Err("the segment header is cut short".to_owned()),
    };
    checked.map_err(|problem| segment.damaged(0, problem))
}

/// The position of a record at this offset of a segment's file, at or after the header.
fn end_position(segment: &Segment, offset: u64) -> Result<u64, LogError> {
    let end = (offset - HEADER_BYTES as u64).checked_add(segment.base);
    end.ok_or_else(|| segment.damaged(offset, "its positions are beyond all numbers".to_owned()))
}

/// Reads a file from its beginning to a given end, in large pieces.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    /// Where in the file the buffer begins.
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a dyn DiskFile, end: u64) -> Reader<'a> {
        Reader { file, end, start: 0, buffer: Vec::new() }
    }

    /// The bytes at an offset; `None` where they reach beyond the end.
    fn bytes(&mut self, offset: u64, count: u64) -> io::Result<Option<&[u8]>> {
        let Some(remaining) = self.end.checked_sub(offset).filter(|left| count <= *left) else {
            return Ok(None);
        };
        let buffered = self.start..=self.start + self.buffer.len() as u64;
        if !buffered.contains(&offset) || !buffered.contains(&(offset + count)) {
            // At most the file's own length, so a wrong length cannot ask for more memory.
            let wanted = READ_BYTES.max(count).min(remaining);
            self.buffer.resize(wanted as usize, 0);
            self.file.read_exact_at(&mut self.buffer, offset)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(self.buffer.get(from..from + count as usize))
    }

    fn array<const COUNT: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; COUNT]>> {
        Ok(self.bytes(offset, COUNT as u64)?.and_then(|bytes| bytes.try_into().ok()))
    }
}
