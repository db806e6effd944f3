//! The segments of an open log: where records go, reading them back, and removing whole segments.
//!
//! **Positions.** A segment that begins at base `b` has its header first; the record at position `p`
//! lies `p - b` bytes after it. The next segment's base is the position where the last one ends, so
//! positions rise by exactly the bytes of records and of what lies between them, and headers do not count.
//!
//! **Removing** goes from the oldest segment on, one at a time, each made durable before the next:
//! a crash in between never leaves a hole.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::codec::{self, HEAD_BYTES, HEADER_BYTES, Head, TAIL_BYTES};
use super::{Kind, LogError, Position};
use crate::planted::{self, Bug};
use crate::storage::disk::{Disk, DiskFile};
use crate::telemetry::Metrics;

/// Where a new log begins. Not 0, so that the default position is before every record.
pub(super) const FIRST_BASE: u64 = 1;

const SUFFIX: &str = ".log";

/// The end of the log, and the rule where the next record goes. The queue and the writer each keep
/// one, and come to the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Where the last segment begins.
    pub base: u64,
    /// The position of the next record.
    pub end: u64,
    /// A segment that has records takes no more beyond this length, in bytes.
    pub segment_bytes: u64,
    /// The format version of the last segment.
    pub version: u16,
}

/// Where a record goes.
pub(super) struct Placed {
    pub position: Position,
    /// Whether it begins a new segment.
    pub begins_segment: bool,
}

impl Tail {
    /// Takes the place for a record that is this long in all. A record never spans segments; one
    /// that is longer than a segment should be has a segment to itself.
    pub fn place(&mut self, record_bytes: u64) -> Placed {
        let has_records = self.end > self.base;
        let offset = codec::record_offset(self.file_offset(), self.version);
        let begins_segment =
            has_records && offset.saturating_add(record_bytes) > self.segment_bytes;
        if begins_segment {
            self.base = self.end;
            self.version = codec::FORMAT_VERSION;
        } else {
            self.end = self.base + (offset - HEADER_BYTES as u64);
        }
        let position = Position(self.end);
        self.end += record_bytes;
        Placed { position, begins_segment }
    }

    /// The length of the last segment's file.
    pub fn file_offset(self) -> u64 {
        file_offset(self.base, Position(self.end))
    }
}

/// Where in the segment that begins at `base` the record at `position` lies.
fn file_offset(base: u64, position: Position) -> u64 {
    HEADER_BYTES as u64 + (position.0 - base)
}

/// The path of the segment that begins at `base`.
pub(super) fn segment_path(dir: &str, base: u64) -> String {
    format!("{dir}/{base:020}{SUFFIX}")
}

/// The base that a file name gives; `None` for files that are no segments, and an error for names
/// that only look like one.
pub(super) fn base_of(name: &str) -> Result<Option<u64>, String> {
    let Some(digits) = name.strip_suffix(SUFFIX) else { return Ok(None) };
    let well_formed = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(base) if well_formed => Ok(Some(base)),
        _ => Err(format!("the name is not that of a segment, which is 20 digits and '{SUFFIX}'")),
    }
}

/// One file of the log.
pub(super) struct Segment {
    pub base: u64,
    pub path: String,
    pub file: Arc<dyn DiskFile>,
}

impl Segment {
    /// Makes a segment without records, durable in content and name.
    pub fn create(
        disk: &dyn Disk,
        dir: &str,
        base: u64,
        metrics: &Metrics,
    ) -> io::Result<Arc<Segment>> {
        let path = segment_path(dir, base);
        let file = disk.create(&path)?;
        write_header(&*file, base, codec::FORMAT_VERSION, metrics)?;
        if !planted::is(Bug::DirectoryNotSynced) {
            disk.sync_dir(dir)?;
        }
        Ok(Arc::new(Segment { base, path, file }))
    }

    fn read(&self, position: Position) -> Result<(Kind, Bytes), LogError> {
        let offset = file_offset(self.base, position);
        let damaged = |problem| self.damaged(offset, problem);
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, offset).map_err(LogError::from)?;
        let head: Head = codec::decode_head(&head, position).map_err(damaged)?;
        let mut body = vec![0; head.payload_bytes + TAIL_BYTES];
        self.file.read_exact_at(&mut body, offset + HEAD_BYTES as u64).map_err(LogError::from)?;
        let payload_bytes = codec::decode_body(head, &body).map_err(damaged)?.len();
        body.truncate(payload_bytes);
        Ok((head.kind, Bytes::from(body)))
    }

    pub fn damaged(&self, offset: u64, problem: String) -> LogError {
        LogError::Damaged { file: self.path.clone(), offset, problem }
    }
}

/// Writes and syncs the header of the segment that begins at `base`.
pub(super) fn write_header(
    file: &dyn DiskFile,
    base: u64,
    version: u16,
    metrics: &Metrics,
) -> io::Result<()> {
    file.write_all_at(&codec::encode_header(base, version), 0)?;
    file.sync()?;
    metrics.log_syncs.inc();
    Ok(())
}

/// Every segment of a log, oldest first; never empty.
pub(super) struct Segments {
    list: RwLock<VecDeque<Arc<Segment>>>,
    /// Held while segments are removed, so that two callers do not remove the same.
    removing: Mutex<()>,
}

impl Segments {
    pub fn new(list: VecDeque<Arc<Segment>>) -> Segments {
        Segments { list: RwLock::new(list), removing: Mutex::new(()) }
    }

    /// Adds the new last segment.
    pub fn push(&self, segment: Arc<Segment>) {
        self.list.write().push_back(segment);
    }

    /// The position of the first record kept.
    pub fn start(&self) -> Position {
        Position(self.list.read().front().map_or(FIRST_BASE, |segment| segment.base))
    }

    pub fn read(&self, position: Position) -> Result<(Kind, Bytes), LogError> {
        let segment = {
            let list = self.list.read();
            let after = list.partition_point(|segment| segment.base <= position.0);
            after.checked_sub(1).and_then(|index| list.get(index).cloned())
        };
        match segment {
            Some(segment) => segment.read(position),
            None => Err(LogError::from(io::Error::new(
                io::ErrorKind::NotFound,
                format!("position {} is before the start of the log", position.0),
            ))),
        }
    }

    /// Removes the segments whose records are all before `cut`, but never the last one.
    pub fn remove_before(&self, disk: &dyn Disk, dir: &str, cut: Position) -> io::Result<()> {
        let _removing = self.removing.lock();
        while let Some(path) = self.first_removable(cut) {
            match disk.remove(&path) {
                // Gone already: an earlier call removed it, and then failed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            disk.sync_dir(dir)?;
            self.list.write().pop_front();
        }
        Ok(())
    }

    fn first_removable(&self, cut: Position) -> Option<String> {
        let list = self.list.read();
        let (first, second) = (list.front()?, list.get(1)?);
        (second.base <= cut.0).then(|| first.path.clone())
    }
}
