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
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::LeaderSettings;
use crate::error::StartError;
use crate::peer::{Inbound, SharedTransport};
use crate::runtime::{Instant, Runtime};
use crate::storage::disk::Disk;
use crate::storage::log::{CommitLog, ReplayedRecord};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::{ClusterId, NodeId, Version, Write};

/// What the Raft group agrees on: the payload of one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Writes of keys, in leader mode. Several submissions share an entry.
    Data(Vec<Submission>),
    /// The cluster's affairs, in both modes.
    Control(Control),
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
}

/// What applying a command gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// Nothing to say: a blank entry, a membership entry, or control.
    Nothing,
    /// A result for each submission, in order.
    Data(Vec<SubmissionResult>),
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
    Written { version: Version },
    PreconditionFailed { current: Option<Version> },
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
    /// Voters and learners.
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
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
    /// The voters of a new group: node and peer address.
    pub peers: BTreeMap<NodeId, String>,
    /// Whether this is the node's first boot and it has the lowest id: it initialises the group.
    pub initialise: bool,
    pub log: Arc<CommitLog>,
    /// Recent entries kept in memory, in bytes.
    pub log_cache_bytes: u64,
    pub recovered: RaftReplay,
    pub table: Arc<dyn Table>,
    /// For snapshots that are being received.
    pub disk: Arc<dyn Disk>,
    pub transport: SharedTransport,
    pub metrics: Metrics,
}

/// Takes the group's records while the commit log is opened.
#[derive(Default)]
pub struct RaftReplay {}

impl RaftReplay {
    /// Takes a record of one of the Raft kinds; others are ignored.
    pub fn take(&mut self, _record: ReplayedRecord<'_>) -> Result<(), String> {
        todo!()
    }
}

/// The Raft group on this node. Share it in an `Arc`.
pub struct Consensus {}

impl Consensus {
    /// Starts the group; returns once it runs, not once it has a leader.
    pub async fn start(_options: ConsensusOptions) -> Result<Consensus, StartError> {
        todo!()
    }

    /// Proposes a command. Only the leader can; does not wait longer than `deadline`.
    pub async fn propose(
        &self,
        _command: Command,
        _deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        todo!()
    }

    /// Confirms with a majority that this node leads, and gives the index that a linearizable read
    /// asked for before this call must wait for. One round a call: callers share it.
    pub async fn read_index(&self, _deadline: Instant) -> Result<u64, ReadIndexError> {
        todo!()
    }

    /// Waits until the entry at `index` is applied here; false where it was not by `deadline`.
    pub async fn wait_applied(&self, _index: u64, _deadline: Instant) -> bool {
        todo!()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        todo!()
    }

    /// Waits until the leader is another than `than`, or until `deadline`; gives who leads then.
    pub async fn leader_change(&self, _than: Option<NodeId>, _deadline: Instant) -> Option<NodeId> {
        todo!()
    }

    /// The group as this node sees it.
    pub fn status(&self) -> ConsensusStatus {
        todo!()
    }

    /// Takes a peer's request of one of the Raft services. Must not block.
    pub fn handle(&self, _inbound: Inbound) {
        todo!()
    }

    /// Makes the table durable, lets the group forget entries behind it (all but `keep_entries`),
    /// and releases the log that it needs no more.
    pub async fn compact(&self, _timeout: Duration) -> Result<(), String> {
        todo!()
    }

    /// Waits until the group has stopped for good by itself (a storage failure), and says why.
    pub async fn stopped(&self) -> String {
        todo!()
    }

    /// Stops the group.
    pub async fn shutdown(&self) {
        todo!()
    }
}
