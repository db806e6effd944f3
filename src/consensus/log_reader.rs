//! Reading entries: the newest from memory, older ones back from the commit log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use openraft::{OptionalSend, RaftLogReader};

use super::codec;
use super::log_store::Shared;
use super::raft_types::{Entry, TypeConfig, Vote};
use crate::storage::log::{Kind, LogError, Position};

/// How many bytes of entries are read at once, for one message to a follower or one step of
/// applying; a single entry may be longer. Far below the longest message, and long enough that a
/// message's overhead does not count.
pub(super) const MAX_READ_BYTES: usize = 1 << 20;

/// How many entries are looked up on the disk at once.
const MAX_READ_ENTRIES: usize = 4_096;

/// A reader of the Raft log.
#[derive(Clone)]
pub(super) struct LogReader(pub(super) Arc<Shared>);

impl Shared {
    /// The part of a range that the log has.
    fn clamp(&self, start: u64, end: u64) -> (u64, u64) {
        let state = self.state.lock();
        (start.max(state.index.first()), end.min(state.index.next()))
    }

    /// The entries from `start` to `end` that are there, up to about `max_bytes` and at least one.
    pub(super) async fn read(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<Vec<Entry>> {
        match self.read_once(start, end, max_bytes).await {
            // A segment went between the look-up and the reading: what is still in the log lies
            // elsewhere by now.
            Err(error) if is_gone(&error) => self.read_once(start, end, max_bytes).await,
            read => read,
        }
    }

    async fn read_once(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut read = Bounded { entries: Vec::new(), bytes: 0, max_bytes };
        let older = {
            let state = self.state.lock();
            let start = start.max(state.index.first());
            let end = end.min(state.index.next());
            let cache_first = state.cache_first();
            if start >= cache_first {
                state.cached(start, end).all(|entry| read.take(entry.clone()));
                return Ok(read.entries);
            }
            // What is not in memory is durable, and so can be read from the disk.
            (start..end.min(cache_first))
                .take(MAX_READ_ENTRIES)
                .map_while(|index| Some((index, state.index.position(index)?)))
                .collect::<Vec<_>>()
        };
        let Some((last, _)) = older.last().copied() else { return Ok(read.entries) };
        let log = self.log.clone();
        let from_disk = move || {
            for (index, position) in older {
                let (kind, payload) = log.read(position).map_err(io::Error::other)?;
                if !read.take(entry_at(index, position, kind, payload)?) {
                    return Ok::<_, io::Error>((read, false));
                }
            }
            Ok((read, true))
        };
        let (mut read, all) = self.runtime.blocking(from_disk).await?;
        let state = self.state.lock();
        if all && state.cache_first() <= last + 1 {
            let end = end.min(state.index.next());
            state.cached(last + 1, end).all(|entry| read.take(entry.clone()));
        }
        Ok(read.entries)
    }
}

/// Whether the place that was read is before the start of the log.
fn is_gone(error: &io::Error) -> bool {
    let log = error.get_ref().and_then(|source| source.downcast_ref::<LogError>());
    matches!(log, Some(LogError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
}

struct Bounded {
    entries: Vec<Entry>,
    bytes: usize,
    max_bytes: usize,
}

impl Bounded {
    /// Takes an entry unless the bound is reached; the first always.
    fn take(&mut self, entry: Entry) -> bool {
        self.bytes += codec::weight(&entry);
        let fits = self.entries.is_empty() || self.bytes <= self.max_bytes;
        if fits {
            self.entries.push(entry);
        }
        fits
    }
}

fn entry_at(
    index: u64,
    position: Position,
    kind: Kind,
    payload: bytes::Bytes,
) -> io::Result<Entry> {
    if kind != Kind::RaftEntry {
        return Err(codec::invalid("the log", format!("{kind:?} at {position:?}, not an entry")));
    }
    let entry = codec::decode_entry(payload)?;
    if entry.log_id.index != index {
        let found = entry.log_id.index;
        return Err(codec::invalid(
            "the log",
            format!("entry {found} at {position:?}, not {index}"),
        ));
    }
    Ok(entry)
}

/// The first index of a range, and the one after its last.
fn ends(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// What is left of a stream of entries.
struct Rest {
    shared: Arc<Shared>,
    read: std::vec::IntoIter<Entry>,
    next: u64,
    end: u64,
}

impl Rest {
    async fn next_entry(mut self) -> Option<(io::Result<Entry>, Rest)> {
        if let Some(entry) = self.read.next() {
            self.next = entry.log_id.index + 1;
            return Some((Ok(entry), self));
        }
        if self.next >= self.end {
            return None;
        }
        let wanted = self.next;
        let read = self.shared.read(wanted, self.end, MAX_READ_BYTES).await;
        let read = read.and_then(|entries| match entries.first() {
            Some(first) if first.log_id.index == wanted => Ok(entries),
            _ => Err(codec::invalid("the log", format!("entry {wanted} is not there"))),
        });
        match read {
            Err(error) => {
                self.end = self.next;
                Some((Err(error), self))
            }
            Ok(entries) => {
                self.read = entries.into_iter();
                let entry = self.read.next()?;
                self.next = entry.log_id.index + 1;
                Some((Ok(entry), self))
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = ends(&range);
        let (mut next, end) = self.0.clamp(start, end);
        let mut entries = Vec::new();
        // Nothing in the range may be left out, however long it is.
        while next < end {
            let read = self.0.read(next, end, MAX_READ_BYTES).await?;
            if read.first().is_none_or(|first| first.log_id.index != next) {
                return Err(codec::invalid("the log", format!("entry {next} is not there")));
            }
            next += read.len() as u64;
            entries.extend(read);
        }
        Ok(entries)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = ends(&range);
        let (next, end) = self.0.clamp(start, end);
        let rest = Rest { shared: self.0.clone(), read: Vec::new().into_iter(), next, end };
        stream::unfold(rest, Rest::next_entry).fuse()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.state.lock().index.vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.0.read(start, end, MAX_READ_BYTES).await?;
        self.0.before_sending(&entries).await?;
        Ok(entries)
    }
}
