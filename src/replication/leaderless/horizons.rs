//! Collection horizons: up to when a partition's deletions may be forgotten, and what may come no more.
//!
//! **Why it exists.** A tombstone keeps a deleted key deleted: as long as it lies there, an older record
//! that comes late loses to it. Once it is dropped, nothing tells that record from a new one. Cassandra
//! drops tombstones by a timer alone, and brings back what a replica missed for longer (`gc_grace_seconds`).
//!
//! **How.** A partition has a horizon at each replica: a time that rises in two steps, decided by
//! `collection`. What a replica *promised* is that it takes no client's write any more that was
//! stamped then or before, whoever brings it and however late: a hint, a message that a link held back, a
//! write through a slow clock. What it *reached* is what it was proven to have whole, or newer, of that
//! time, with all other replicas: deletions from before that are dropped, and count as gone until they are.
//!
//! Repairs bring old records by their nature. Each carries what horizon its record has *survived*: the
//! one that the replica had reached that it was read from. A replica takes a repair of a record from before
//! its own horizon only where the record has survived that: else it may have been read before its
//! deletion came there, and be on its way since.
//!
//! **Guarantees.** What a replica promised it keeps over a restart. A replica that comes to hold a partition
//! takes no client's write of it before it knows what the others promised. A deletion is dropped only if
//! it is from before the horizon that was reached, and by the one that applies writes, so that no newer
//! record is dropped with it.
//!
//! **Does not guarantee** anything of a data directory that is restored from an older copy: replace the node.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::active::OTHER_EPOCH;
use super::messages::StoredWrite;
use crate::peer::PeerError;
use crate::planted::{self, Bug};
use crate::storage::encoding::{self, DecodeError};
use crate::storage::rows;
use crate::storage::table::{Table, TableBatch, TableError};
use crate::types::{NodeId, PARTITIONS, Partition};

/// What a replica has promised that does not know yet what others have: to take nothing at all.
const UNKNOWN_MS: u64 = u64::MAX;

/// How the refusal of a write begins that is from before the horizon.
const TOO_OLD: &str = "stamped at or before the collection horizon";

/// The horizon of a partition at one replica; times are of versions, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    /// No client's write that was stamped then or before is taken.
    pub promised_ms: u64,
    /// Deletions from then or before are dropped.
    pub reached_ms: u64,
}

impl Horizon {
    /// That of a replica that is new to a partition.
    pub const UNKNOWN: Horizon = Horizon { promised_ms: UNKNOWN_MS, reached_ms: 0 };

    /// Whether the replica is new, and does not know yet what the others promised.
    pub fn is_unknown(self) -> bool {
        self.promised_ms == UNKNOWN_MS
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.promised_ms.to_be_bytes(), self.reached_ms.to_be_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Horizon> {
        let (promised, rest) = bytes.split_first_chunk::<8>()?;
        let reached = <[u8; 8]>::try_from(rest).ok()?;
        let [promised_ms, reached_ms] = [*promised, reached].map(u64::from_be_bytes);
        Some(Horizon { promised_ms, reached_ms })
    }
}

/// A horizon that changes.
pub type Change = (Partition, Horizon);

/// Why a replica does not take a write that it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is from before what the replica promised, or has not survived what it reached.
    TooOld,
    /// The replica is new, and does not know yet what is too old.
    NotYet,
}

impl Late {
    /// The refusal, as whoever sent the write sees it.
    pub fn refusal(self, to: NodeId) -> PeerError {
        let reason = match self {
            Late::TooOld => {
                format!("{TOO_OLD} of its partition, by a node whose clock is behind, or long ago")
            }
            Late::NotYet => format!("{OTHER_EPOCH}: it comes to hold the partition, and asks"),
        };
        PeerError::Refused { to, reason }
    }
}

/// Whether a write was refused since it is from before the horizon: sent again it is refused again.
pub fn is_too_old(error: &PeerError) -> bool {
    matches!(error, PeerError::Refused { reason, .. } if reason.starts_with(TOO_OLD))
}

/// When the deletion that a record is may be forgotten, in milliseconds since 1970; `None` of a value that
/// never expires.
pub fn due_ms(record: &[u8]) -> Result<Option<u64>, DecodeError> {
    let (version, is_tombstone) = encoding::peek(record)?;
    if is_tombstone {
        return Ok(Some(version.millis()));
    }
    Ok(encoding::peek_expiry(record)?.map(|at_ms| at_ms.max(version.millis())))
}

/// The horizons of a replica's partitions. They change only with the log, see [`super::replica`].
pub struct Horizons(Vec<(AtomicU64, AtomicU64)>);

impl Horizons {
    /// Those that a table holds.
    pub fn load(table: &dyn Table) -> Result<Horizons, TableError> {
        let load = |partition| {
            let Horizon { promised_ms, reached_ms } = stored(table, partition)?;
            Ok((AtomicU64::new(promised_ms), AtomicU64::new(reached_ms)))
        };
        Partition::all().map(load).collect::<Result<_, _>>().map(Horizons)
    }

    /// That of a partition.
    pub fn of(&self, partition: Partition) -> Horizon {
        let (promised, reached) = &self.0[usize::from(partition.0)];
        Horizon {
            promised_ms: promised.load(Ordering::Acquire),
            reached_ms: reached.load(Ordering::Acquire),
        }
    }

    /// Changes one. Only the replica may, under the lock of its queue.
    pub fn set(&self, (partition, horizon): Change) {
        let (promised, reached) = &self.0[usize::from(partition.0)];
        promised.store(horizon.promised_ms, Ordering::Release);
        reached.store(horizon.reached_ms, Ordering::Release);
    }

    /// What has been reached, partition by partition.
    pub fn reached(&self) -> [u64; PARTITIONS] {
        std::array::from_fn(|number| self.0[number].1.load(Ordering::Acquire))
    }

    /// Whether a write may be taken.
    pub fn check(&self, write: &StoredWrite) -> Result<(), Late> {
        let horizon = self.of(write.key.partition());
        // Most partitions never had one.
        if horizon == Horizon::default() {
            return Ok(());
        }
        // What is no record fails when it is merged.
        let Ok((version, _)) = encoding::peek(&write.record) else { return Ok(()) };
        let is_after = |horizon_ms: u64| version.millis() > horizon_ms;
        match write.survived_ms {
            Some(_) if is_after(horizon.reached_ms) => Ok(()),
            Some(survived_ms) if survived_ms >= horizon.reached_ms => Ok(()),
            Some(_) if planted::is(Bug::StaleRepairTaken) => Ok(()),
            None if planted::is(Bug::LateWriteTaken) => Ok(()),
            None if horizon.is_unknown() => Err(Late::NotYet),
            None if is_after(horizon.promised_ms) => Ok(()),
            _ => Err(Late::TooOld),
        }
    }
}

/// Whether a record is a tombstone, or a value that has expired by `now_ms`. A replica that refuses to have one
/// repaired has forgotten it, or something newer: it shows nothing older for it.
pub fn is_deletion(record: &[u8], now_ms: u64) -> bool {
    let is_tombstone = encoding::peek(record).is_ok_and(|(_, is_tombstone)| is_tombstone);
    is_tombstone || due_ms(record).is_ok_and(|due| due.is_some_and(|due| due <= now_ms))
}

/// Whether a record is a deletion from before what was reached: as good as gone.
pub fn is_gone(record: &[u8], reached_ms: u64) -> bool {
    // What is no record fails where it is decoded.
    reached_ms > 0 && due_ms(record).is_ok_and(|due| due.is_some_and(|due| due <= reached_ms))
}

/// The horizon that a table holds of a partition.
pub fn stored(table: &dyn Table, partition: Partition) -> Result<Horizon, TableError> {
    let stored = table.get(&rows::horizon_row(partition))?;
    let horizon = stored.map_or(Some(Horizon::default()), |it| Horizon::from_bytes(&it));
    horizon.ok_or_else(|| TableError::Damaged(format!("the horizon of partition {partition:?}")))
}

/// Puts horizons into the batch that brings them to the table.
pub fn put(batch: &mut TableBatch, changes: &[Change]) {
    for (partition, horizon) in changes {
        batch.put(rows::horizon_row(*partition), horizon.to_bytes());
    }
}

/// The payload of a log record of horizons.
pub fn encode(changes: &[Change]) -> Bytes {
    let mut payload = Vec::with_capacity(changes.len() * 17);
    for (partition, horizon) in changes {
        payload.push(partition.0);
        payload.extend(horizon.to_bytes());
    }
    payload.into()
}

/// Reads [`encode`] back.
pub fn decode(payload: &[u8]) -> Result<Vec<Change>, String> {
    let (changes, []) = payload.as_chunks::<17>() else {
        return Err(format!("horizons have 17 bytes each, not {} in all", payload.len()));
    };
    let change = |[partition, rest @ ..]: &[u8; 17]| {
        Horizon::from_bytes(rest).map(|horizon| (Partition(*partition), horizon))
    };
    changes.iter().map(change).collect::<Option<_>>().ok_or_else(|| "no horizons".to_owned())
}
