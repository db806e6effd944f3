//! What can go wrong with an operation, one type an operation.
//!
//! The distinction that matters most is in [`WriteError`]: whether a write that failed is
//! definitely not applied or may yet show up. `api` maps every variant to an answer in one
//! exhaustive match without a wildcard arm, so a new variant does not compile until it has one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{LayoutRefusal, Level, Mode, NodeId, Outcome, Version};

/// Why a node cannot serve an operation at all, whichever it is. Nothing has happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The level is a mistake in this mode.
    #[error("consistency '{level}' is not offered for this request in {mode} mode: use {allowed}")]
    LevelNotOffered { level: Level, mode: Mode, allowed: &'static str },
    /// The level, or the operation, will exist but does not yet. It is never imitated.
    #[error("{what} is not implemented in {mode} mode")]
    NotImplemented { what: String, mode: Mode },
    /// A request parameter makes no sense for this cluster.
    #[error("{parameter}: {problem}")]
    BadParameter { parameter: &'static str, problem: String },
    /// No leader is known, or none confirmed itself in time.
    #[error("{detail}")]
    NoLeader { detail: String },
    /// The client asked for no forwarding, and another node leads.
    #[error("node {leader} leads; ask it at {client_address}")]
    NotLeader { leader: NodeId, client_address: String },
    /// This node's copy is older, or may be, than the read allows.
    #[error("{detail}")]
    TooStale { detail: String },
    /// Too few replicas answered.
    #[error("{answered} of the {needed} replicas needed answered: {detail}")]
    NotEnoughReplicas { needed: u16, answered: u16, detail: String },
    /// The versions of this node run too far ahead of its wall clock.
    #[error("{detail}")]
    ClockDrift { detail: String },
    /// A queue is full.
    #[error("{what} is full; try again after {} ms", retry_after.as_millis())]
    Overloaded { what: &'static str, retry_after: Duration },
    /// The node starts, stops, or installs a snapshot.
    #[error("this node cannot serve yet: {detail}")]
    NotReady { detail: String },
    /// The node's storage failed; it is stopping.
    #[error("this node's storage failed: {detail}")]
    Storage { detail: String },
}

/// Why a read gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request's deadline passed.
    #[error("the read was not answered within {} ms", waited.as_millis())]
    TimedOut { waited: Duration },
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Definitely not applied.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Definitely not applied: the condition did not hold. `current` is the version that stood in
    /// the way, `None` where the key held nothing.
    #[error("the precondition does not hold: the key is {}", current.map_or("absent".to_owned(), |version| format!("at version {version}")))]
    PreconditionFailed { current: Option<Version> },
    /// Definitely not applied: the idempotency key is remembered for another request.
    #[error(
        "the Idempotency-Key was used for another request (method, key, value, content type or \
         conditions differ): give each request a key of its own, and repeat it only with the request"
    )]
    IdempotencyKeyReused,
    /// It may have been applied, or may yet be: once and wholly, or not at all.
    #[error("it is unknown whether the write was applied: {detail}")]
    Unknown { detail: String },
}

impl WriteError {
    /// What a client may conclude.
    pub fn outcome(&self) -> Outcome {
        match self {
            WriteError::Refused(_)
            | WriteError::PreconditionFailed { .. }
            | WriteError::IdempotencyKeyReused => Outcome::NotApplied,
            WriteError::Unknown { .. } => Outcome::Unknown,
        }
    }
}

/// Why leadership was not handed over. Every error but `Elsewhere` and `Unknown` changed nothing.
/// It travels between nodes, so its order is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TransferError {
    #[error("node {node} is not of this cluster, whose voters are {}", list(voters))]
    UnknownNode { node: NodeId, voters: Vec<NodeId> },
    #[error("node {node} is a learner and cannot lead: promote it first, or name a voter")]
    NotVoter { node: NodeId },
    #[error("node {node} cannot take over now: {reason}; wait for it, or name another voter")]
    Behind { node: NodeId, reason: String },
    #[error("no voter beside node {leader}, which leads, is there and has caught up")]
    NoTarget { leader: NodeId },
    #[error(
        "node {fixed} is the fixed leader and leads for ever: take leader.fixed_leader out of \
         every node's settings first"
    )]
    Fixed { fixed: NodeId },
    #[error("nobody could be asked to hand over: {reason}")]
    NoLeader { reason: String },
    /// An election came out otherwise.
    #[error("node {target} was asked to lead, but node {leader} was elected")]
    Elsewhere { target: NodeId, leader: NodeId },
    #[error("it is unknown whether leadership was handed over: {reason}; ask who leads")]
    Unknown { reason: String },
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a call to hand leadership over gave no new leader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeadershipError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// Why the members of the cluster were not changed. Every error but `Unknown` changed nothing. It
/// travels between nodes, so its order is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MemberError {
    #[error("node {node} is not of this cluster, whose members are {}", list(members))]
    UnknownNode { node: NodeId, members: Vec<NodeId> },
    #[error("id {node} was a member's that was removed, and ids are never reused: take a new id")]
    IdUsed { node: NodeId },
    #[error("node {node} is a member at {known} already, not at {asked}: {hint}")]
    OtherAddress { node: NodeId, known: String, asked: String, hint: String },
    #[error("{address} is the peer address of node {node}: each node needs one of its own")]
    AddressTaken { node: NodeId, address: String },
    #[error("the cluster has {limit} members already, as many as it may: remove one first")]
    TooMany { limit: usize },
    #[error("{reason}")]
    LosesQuorum { reason: String },
    #[error("node {node} has not caught up: {reason}; wait for it, and ask again")]
    Behind { node: NodeId, reason: String },
    #[error(
        "node {fixed} is the fixed leader and cannot leave: take leader.fixed_leader out of every \
         node's settings first"
    )]
    Fixed { fixed: NodeId },
    #[error("node {leader} leads and cannot leave before another took over: {reason}")]
    LeaderStays { leader: NodeId, reason: String },
    #[error("another change of the members is under way: ask again")]
    InProgress,
    #[error("nobody could be asked to change the members: {reason}")]
    NoLeader { reason: String },
    /// The leader that was asked has handed over, since it was to be removed itself.
    #[error("node {to} leads now: ask again")]
    HandedOver { to: NodeId },
    #[error("it is unknown whether the members were changed: {reason}; ask who they are")]
    Unknown { reason: String },
    #[error(
        "node {node} holds partitions, or is to: give them to other nodes first, with a layout \
         without it (quorate cluster layout apply --remove {node}), and wait until that is done"
    )]
    HoldsPartitions { node: NodeId },
    #[error(
        "node {node} still brings others what it alone may have of partitions that it held: ask \
         again in a moment, or stop it if it cannot"
    )]
    Departing { node: NodeId },
}

/// Why a call to change the members was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Change(#[from] MemberError),
}

/// Why the layout was not changed. Every error but `Unknown` changed nothing. It travels between nodes,
/// so its order is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LayoutError {
    #[error(transparent)]
    Refused(#[from] LayoutRefusal),
    #[error("nobody could be asked to change the layout: {reason}")]
    NoLeader { reason: String },
    #[error("it is unknown whether the layout was changed: {reason}; look at it")]
    Unknown { reason: String },
}

/// Why a call to change the layout was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutCallError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Change(#[from] LayoutError),
}

/// Why a node does not start; one clear line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory belongs to something else, or its files are damaged.
    #[error("{0}")]
    DataDirectory(String),
    /// A port could not be listened on.
    #[error("cannot listen on {address} ({role}): {source}")]
    Listen { role: &'static str, address: String, source: std::io::Error },
    /// Peers know this node id with another data directory.
    #[error(
        "node {node} is known to its peers with other data (incarnation {known}, this directory is \
         {own}): a wiped node must not come back under its old id; restore the data directory"
    )]
    WipedNode { node: NodeId, known: String, own: String },
    /// The cluster has removed this node.
    #[error(
        "node {node} was removed from its cluster and may not serve any more: to bring this machine \
         back, start it with an empty data directory and a new id, and --join"
    )]
    RemovedNode { node: NodeId },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}
