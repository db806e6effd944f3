//! How entries lie in the log and cross the wire: a small head, then the command's bytes as they
//! are, so that nothing encodes or decodes a command on the way.

use std::io;

use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;
use openraft::{BasicNode, EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use super::raft_types::{Entry, LogId, Proposal, TypeConfig, Vote};
use crate::types::NodeId;

/// A guess at the bytes of an entry's head, so that buffers rarely grow.
const HEAD_BYTES: usize = 32;

/// An entry without its command's bytes. The log id comes first, so that it can be read alone.
#[derive(Serialize, Deserialize)]
struct EntryHead {
    log_id: LogId,
    payload: PayloadHead,
}

#[derive(Serialize, Deserialize)]
enum PayloadHead {
    Blank,
    /// So many bytes of command follow the head (of all entries, where there are several).
    Normal(u32),
    Membership(Membership<NodeId, BasicNode>),
}

/// The head of a request to append.
#[derive(Serialize, Deserialize)]
struct AppendHead {
    /// Sent alone, outside the stream of entries. The first byte of the message: 1 or 0.
    heartbeat: bool,
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    entries: Vec<EntryHead>,
}

/// Bytes that are not what they should be.
pub(super) fn invalid(what: &str, problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {problem}"))
}

/// The postcard form of a value.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let bytes = postcard::to_stdvec(value).map_err(|error| invalid("cannot encode", error))?;
    Ok(bytes.into())
}

/// Reads [`encode`] back.
pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| invalid(what, error))
}

/// An entry, about so many bytes in memory.
pub(super) fn weight(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    payload + std::mem::size_of::<Entry>()
}

fn head(entry: &Entry) -> EntryHead {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadHead::Blank,
        EntryPayload::Normal(proposal) => PayloadHead::Normal(proposal.0.len() as u32),
        EntryPayload::Membership(membership) => PayloadHead::Membership(membership.clone()),
    };
    EntryHead { log_id: entry.log_id, payload }
}

fn command_bytes(entry: &Entry) -> &[u8] {
    match &entry.payload {
        EntryPayload::Normal(proposal) => &proposal.0,
        EntryPayload::Blank | EntryPayload::Membership(_) => &[],
    }
}

/// Puts a head and its command together; `tail` is what is left of the commands' bytes.
fn join(head: EntryHead, tail: &mut Bytes) -> io::Result<Entry> {
    let payload = match head.payload {
        PayloadHead::Blank => EntryPayload::Blank,
        PayloadHead::Membership(membership) => EntryPayload::Membership(membership),
        PayloadHead::Normal(len) if len as usize <= tail.len() => {
            EntryPayload::Normal(Proposal(tail.split_to(len as usize)))
        }
        PayloadHead::Normal(len) => {
            return Err(invalid("an entry", format!("{len} bytes expected, {} there", tail.len())));
        }
    };
    Ok(Entry { log_id: head.log_id, payload })
}

/// The log record of an entry.
pub(super) fn encode_entry(entry: &Entry) -> io::Result<Bytes> {
    let command = command_bytes(entry);
    let buffer = Vec::with_capacity(HEAD_BYTES + command.len());
    let mut buffer = postcard::to_extend(&head(entry), buffer)
        .map_err(|error| invalid("cannot encode an entry", error))?;
    buffer.extend_from_slice(command);
    Ok(buffer.into())
}

/// Reads [`encode_entry`] back; the command shares `bytes`.
pub(super) fn decode_entry(bytes: Bytes) -> io::Result<Entry> {
    let (head, rest) = postcard::take_from_bytes::<EntryHead>(&bytes)
        .map_err(|error| invalid("a log entry", error))?;
    let mut tail = bytes.slice(bytes.len() - rest.len()..);
    join(head, &mut tail)
}

/// Only the log id of an entry's record.
pub(super) fn peek_log_id(bytes: &[u8]) -> io::Result<LogId> {
    let (log_id, _) =
        postcard::take_from_bytes::<LogId>(bytes).map_err(|error| invalid("a log entry", error))?;
    Ok(log_id)
}

/// The message of a request to append.
pub(super) fn encode_append(
    request: &AppendEntriesRequest<TypeConfig>,
    heartbeat: bool,
) -> io::Result<Bytes> {
    let head = AppendHead {
        heartbeat,
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
        entries: request.entries.iter().map(head).collect(),
    };
    let commands: usize = request.entries.iter().map(|entry| command_bytes(entry).len()).sum();
    let capacity = HEAD_BYTES * (request.entries.len() + 2) + commands;
    let mut buffer = postcard::to_extend(&head, Vec::with_capacity(capacity))
        .map_err(|error| invalid("cannot encode a request to append", error))?;
    request.entries.iter().for_each(|entry| buffer.extend_from_slice(command_bytes(entry)));
    Ok(buffer.into())
}

/// Whether a request to append is a heartbeat, by its first byte alone.
pub(super) fn is_heartbeat(message: &[u8]) -> bool {
    message.first() == Some(&1)
}

/// Reads [`encode_append`] back; the commands share `message`.
pub(super) fn decode_append(message: Bytes) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let (head, rest) = postcard::take_from_bytes::<AppendHead>(&message)
        .map_err(|error| invalid("a request to append", error))?;
    let mut tail = message.slice(message.len() - rest.len()..);
    let entries = head.entries.into_iter().map(|head| join(head, &mut tail));
    Ok(AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.prev_log_id,
        leader_commit: head.leader_commit,
        entries: entries.collect::<io::Result<_>>()?,
    })
}
