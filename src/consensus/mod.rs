//! Everything that knows openraft: the control plane's Raft group, in both modes.
//!
//! **Why it exists.** In leader mode one Raft group orders the data; in both modes the same kind of
//! group holds what all nodes must agree on about the cluster. This module wraps openraft (0.10,
//! pinned) behind a small interface of our own, so that nothing else names its types.
//!
//! **Guarantees.** A proposal that is answered is on stable storage at a majority and applied on
//! the node that proposed it. [`ProposeError::NotAppended`] means that it never will be. A read
//! index, once confirmed, is at or above every proposal answered anywhere before the confirmation
//! was asked for. A [`Submission`] is applied once however often it is proposed, as long as its
//! origin has not settled it.
//!
//! **Does not guarantee** that a proposal answered `Unknown` is lost, or that it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod apply;
mod ask;
mod codec;
mod expiry;
mod group;
mod idempotency;
mod inbound;
mod installation;
mod keeper;
mod layout;
mod leadership;
mod lease;
mod log_index;
mod log_reader;
mod log_replay;
mod log_store;
mod member_rules;
mod membership;
mod messages;
mod network;
mod pins;
mod raft_types;
mod replacing;
mod roster;
mod runtime;
mod sessions;
mod settings;
mod snapshot;
mod snapshot_receiver;
mod snapshot_sender;
mod standing;
mod state_machine;
#[cfg(test)]
mod tests;
mod turns;
mod vouching;
mod watch;

pub use group::Consensus;
pub use idempotency::MAX_REMEMBERED;
pub use sessions::MAX_UNSETTLED;
pub use vouching::Allegiance;

use crate::config::LeaderSettings;
use crate::peer::SharedTransport;
use crate::runtime::Runtime;
use crate::storage::disk::Disk;
use crate::storage::log::{CommitLog, ReplayedRecord};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::{
    ClusterId, Epoch, Incarnation, LayoutCommand, LayoutRefusal, Members, NodeId, Version, Write,
};

/// What the Raft group agrees on: the payload of one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes of keys, in leader mode. Several submissions share an entry.
    Data(Vec<Submission>),
    /// The cluster's affairs, in both modes.
    Control(Control),
    /// Makes records whose time is over tombstones, in leader mode: as many as one entry may, oldest first.
    /// What a node shows so never depends on its own clock.
    Expire {
        /// By the leader's clock, in milliseconds since 1970.
        now_ms: u64,
    },
}

/// Writes that one node took from its clients together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    pub session: Session,
    /// The origin's clock, as the 64-bit reading of a [`Version`]. The state machine gives each
    /// write the version max(previous + 1, proposed time) with the origin as its node.
    pub proposed_time: u64,
    pub writes: Vec<Write>,
}

/// What makes a submission recognisable when it is proposed twice.
///
/// Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), section 6.3, with the node that
/// took the writes as the client. The state machine keeps, for each origin, the results of the
/// submissions of its current boot above `settled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The node that took the writes.
    pub origin: NodeId,
    /// Its boot number; a higher one ends the sessions of the lower.
    pub boot: u64,
    /// Rises with each submission of a boot, from 1.
    pub sequence: u64,
    /// Every submission up to this sequence is answered or given up at the origin: forget their
    /// results, and apply none of them any more.
    pub settled: u64,
}

/// A change to the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Names the cluster; the first one counts.
    MintCluster { cluster: ClusterId },
    /// Says which data directory a member's id stands for; the first one counts.
    Introduce { node: NodeId, incarnation: Incarnation },
    /// Changes which nodes hold which partitions, in leaderless mode.
    Layout(LayoutCommand),
}

/// What applying a command gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// Nothing to say: a blank entry, a membership entry, or control.
    Nothing,
    /// A result for each submission, in order.
    Data(Vec<SubmissionResult>),
    /// The epoch that the layout has now, or why it was not changed.
    Layout(Result<Epoch, LayoutRefusal>),
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubmissionResult {
    /// A result for each write, in order; also where the submission was applied earlier, and this is
    /// what was kept.
    Applied(Vec<WriteResult>),
    /// Its session had settled it, or a later boot has begun: not applied by this entry.
    Settled,
}

/// What became of one write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteResult {
    Written {
        version: Version,
    },
    PreconditionFailed {
        current: Option<Version>,
    },
    /// Not applied: its idempotency key is remembered for another request.
    KeyReused,
    /// Not applied: as many idempotency keys are remembered as may be.
    KeysFull,
}

/// Why a proposal has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not appended to any log, and will not be. `leader` is who might take it.
    #[error("not proposed: {reason}")]
    NotAppended { leader: Option<NodeId>, reason: String },
    /// It was appended; whether it commits is unknown.
    #[error("proposed, but not known to be committed: {reason}")]
    Unknown { reason: String },
}

/// Why a read index is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this node cannot confirm that it leads: {reason}")]
pub struct ReadIndexError {
    pub leader: Option<NodeId>,
    pub reason: String,
}

/// The group as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsensusStatus {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_log_index: u64,
    pub applied_index: u64,
    /// The node that leads for ever, where the settings name one.
    pub fixed_leader: Option<NodeId>,
    /// Who is of the cluster, as it is applied here.
    pub members: Members,
    pub cluster: Option<ClusterId>,
    /// Whether a snapshot is being installed: the table is incomplete.
    pub installing: bool,
    /// Set once the group has stopped for good on this node, and why.
    pub stopped: Option<String>,
}

/// What the group needs on a node.
pub struct ConsensusOptions {
    pub runtime: Runtime,
    pub settings: LeaderSettings,
    pub node: NodeId,
    /// What this node's data directory was minted with.
    pub incarnation: Incarnation,
    /// The voters of a new group: node and peer address.
    pub peers: BTreeMap<NodeId, String>,
    /// Whether this is the node's first boot and it has the lowest id: it initialises the group.
    pub initialise: bool,
    pub log: Arc<CommitLog>,
    /// Recent entries kept in memory, in bytes.
    pub log_cache_bytes: u64,
    /// Log kept behind a checkpoint for followers that lag, in bytes; `settings.keep_entries` bounds
    /// it by count.
    pub keep_log_bytes: u64,
    pub recovered: RaftReplay,
    pub table: Arc<dyn Table>,
    /// Whether the user rows of the table are the group's: true in leader mode. In leaderless mode
    /// they belong to the replica; snapshots then hold no rows, and installing one leaves them.
    pub orders_data: bool,
    /// For snapshots that are being received.
    pub disk: Arc<dyn Disk>,
    pub transport: SharedTransport,
    pub metrics: Metrics,
}

/// Takes the group's records while the commit log is opened.
#[derive(Default)]
pub struct RaftReplay {
    index: log_replay::LogReplay,
}

impl RaftReplay {
    /// Takes a record of one of the Raft kinds; others are ignored.
    pub fn take(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        self.index.take(record)
    }
}
