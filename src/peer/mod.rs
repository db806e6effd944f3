//! Links between nodes: requests and answers as opaque bytes, in order, with deadlines.
//!
//! **Why it exists.** Both modes talk over the same links, so that a difference measured between
//! them is one of architecture. Consensus and replication encode their own messages; a link only
//! knows which [`Service`] a message is for.
//!
//! **Guarantees.** On one lane between two nodes, requests reach the other side's
//! [`PeerHandler::handle`] in the order of the calls, one at a time. A request reaches it at most
//! once. An answer reaches its caller or the caller gets a [`PeerError`], by the deadline. Of a
//! failed call the error says whether the request may have been handled: `NotSent` and `Refused`
//! mean that it was not. Both ends know each other's cluster, node id and incarnation before the
//! first request.
//!
//! **Does not guarantee** that a request is handled because it was sent, or that answers come in
//! the order of requests: a handler answers when it can. A call to a peer that is down fails at
//! once; only where a link is about to be made with good reason to expect that it works (at first,
//! after a working one broke, when the peer has just dialled this node) do calls wait for it.
//!
//! **How it is built.** `frame` turns messages into bytes and back, `link` holds a connection's
//! queue and the calls that wait, `connection` reads and writes, `handshake` says who is who, and
//! `mesh` dials, accepts and finds the link for a call. All of that is the same whatever carries
//! the bytes: [`tcp`], or the simulated wires of [`memory`]. [`fault`] decorates either.
//!
//! **Bounds.** A frame has 256 KiB at most, longer messages are split; a message has
//! [`MAX_MESSAGE_BYTES`] at most; a lane queues [`MAX_QUEUED_BYTES`] at most and refuses more.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::runtime::Instant;
use crate::types::{ClusterId, Epoch, Incarnation, Mode, NodeId};

mod connection;
#[cfg(test)]
mod contract;
pub mod fault;
mod frame;
pub mod greeter;
mod handshake;
mod link;
pub mod memory;
mod mesh;
mod silence;
pub mod tcp;

/// The longest message a link carries, in bytes: a batch of the largest values and its framing.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How many bytes may wait on a lane before calls are refused.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The longest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 256 << 10;

/// Which of the two connections to a peer a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Data, in bulk.
    Bulk,
    /// Heartbeats, votes and read indexes, which must not wait behind data.
    Control,
}

/// What a message is for. The number is on the wire for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Service {
    /// Raft entries to a follower (also empty, as heartbeats).
    RaftAppend = 1,
    /// Raft votes and pre-votes.
    RaftVote = 2,
    /// A piece of a Raft snapshot.
    RaftSnapshot = 3,
    /// A Raft leadership transfer.
    RaftTransfer = 4,
    /// Writes passed on to the leader.
    Forward = 5,
    /// What log index a linearizable read must wait for.
    ReadIndex = 6,
    /// Writes for a replica.
    ReplicaWrite = 7,
    /// Reads of a replica's records.
    ReplicaRead = 8,
    /// A page of a replica's keys.
    ReplicaList = 9,
    /// A change of the members, passed on to the leader.
    ChangeMembers = 10,
    /// What a node holds of a key, for explaining it.
    Inspect = 11,
    /// A comparison of replicas by their hash trees.
    Compare = 12,
    /// A change of the layout, passed on to the leader.
    ChangeLayout = 13,
    /// What layout a node has, asked for or told.
    Layout = 14,
    /// What deletions may be collected.
    Collect = 15,
}

impl Service {
    /// Every service.
    pub const ALL: [Service; 15] = [
        Service::RaftAppend,
        Service::RaftVote,
        Service::RaftSnapshot,
        Service::RaftTransfer,
        Service::Forward,
        Service::ReadIndex,
        Service::ReplicaWrite,
        Service::ReplicaRead,
        Service::ReplicaList,
        Service::ChangeMembers,
        Service::Inspect,
        Service::Compare,
        Service::ChangeLayout,
        Service::Layout,
        Service::Collect,
    ];

    /// The service with this number.
    pub fn from_number(number: u8) -> Option<Service> {
        Service::ALL.into_iter().find(|service| *service as u8 == number)
    }

    /// The word for the service in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Service::RaftAppend => "raft_append",
            Service::RaftVote => "raft_vote",
            Service::RaftSnapshot => "raft_snapshot",
            Service::RaftTransfer => "raft_transfer",
            Service::Forward => "forward",
            Service::ReadIndex => "read_index",
            Service::ReplicaWrite => "replica_write",
            Service::ReplicaRead => "replica_read",
            Service::ReplicaList => "replica_list",
            Service::ChangeMembers => "change_members",
            Service::Inspect => "inspect",
            Service::Compare => "compare",
            Service::ChangeLayout => "change_layout",
            Service::Layout => "layout",
            Service::Collect => "collect",
        }
    }
}

/// A request on its way out.
#[derive(Clone, Debug)]
pub struct Request {
    pub to: NodeId,
    pub lane: Lane,
    pub service: Service,
    /// The layout the request was made under, where it concerns data.
    pub epoch: Option<Epoch>,
    /// After this the caller no longer waits, and the other side need not begin.
    pub deadline: Instant,
    pub body: Bytes,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The request never left this node: no connection, or the lane is full. Not handled.
    #[error("node {to} was not asked: {reason}")]
    NotSent { to: NodeId, reason: String },
    /// The other side refused to handle it. Not handled.
    #[error("node {to} refused: {reason}")]
    Refused { to: NodeId, reason: String },
    /// The request left and no answer came: the link broke or the deadline passed. It may have been
    /// handled, or may yet be.
    #[error("node {to} did not answer: {reason}")]
    NoAnswer { to: NodeId, reason: String },
}

impl PeerError {
    /// Whether the other side may have handled the request, or may yet.
    pub fn may_have_been_handled(&self) -> bool {
        matches!(self, PeerError::NoAnswer { .. })
    }
}

/// A request that came in, to be answered.
pub struct Inbound {
    pub from: NodeId,
    pub service: Service,
    pub epoch: Option<Epoch>,
    /// When the caller stops waiting, on this node's clock.
    pub deadline: Instant,
    /// May share its memory with neighbours on the wire: copy what is kept for long.
    pub body: Bytes,
    pub reply: Reply,
}

/// The way back to a caller. Dropped unused, the caller is told that the request was taken but not
/// answered ([`PeerError::NoAnswer`]).
pub struct Reply(Option<Box<dyn FnOnce(Answer) + Send>>);

/// What goes back to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer.
    Body(Bytes),
    /// The request was not handled, and will not be.
    Refused(String),
    /// The request was taken and then given up; it may have had effects.
    GivenUp,
}

impl Reply {
    /// A way back that calls `send` once.
    pub fn new(send: impl FnOnce(Answer) + Send + 'static) -> Reply {
        Reply(Some(Box::new(send)))
    }

    /// Answers.
    pub fn send(self, body: impl Into<Bytes>) {
        self.finish(Answer::Body(body.into()));
    }

    /// Says that the request was not handled, and will not be.
    pub fn refuse(self, reason: impl Into<String>) {
        self.finish(Answer::Refused(reason.into()));
    }

    fn finish(mut self, answer: Answer) {
        if let Some(send) = self.0.take() {
            send(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Answer::GivenUp);
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Takes the requests that come in.
///
/// `handle` is called in order, one request of a lane at a time, on the link's reader: it must not
/// block, and what takes time is queued or spawned. What it enqueues synchronously keeps the order.
pub trait PeerHandler: Send + Sync + 'static {
    /// Takes a request, and answers it through `inbound.reply` now or later.
    fn handle(&self, inbound: Inbound);
}

/// Links to every peer.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and waits for its answer. The request is queued before this returns, so
    /// that calls made one after the other on a lane are handled in that order, also where the
    /// futures are awaited later or concurrently. Dropping the future stops the waiting alone.
    /// A request whose deadline passes while it still waits to be sent is never sent.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Whether the last thing known is that the link is up; cheap, for every request.
    fn is_connected(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.connected)
    }

    /// Whether a peer is asked something and silent for longer than it usually is. A guess, for whoever
    /// can choose whom to ask.
    fn is_suspected(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.suspected)
    }

    /// What is known of a peer's link.
    fn peer(&self, node: NodeId) -> Option<PeerView>;

    /// Keeps links to `node` from now on, at `address` unless the settings say where it is. Where
    /// that is so already, dials at once where they are down.
    fn link(&self, node: NodeId, address: &str);

    /// Ends the links to and from `node`, and keeps none from now on. It may dial again, and is then
    /// what the [`Greeter`] says it is.
    fn unlink(&self, node: NodeId);
}

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Whether the last thing known is that the link is up.
    pub connected: bool,
    /// See [`Transport::is_suspected`].
    pub suspected: bool,
    /// The client address and the incarnation that the peer told, once it has.
    pub client_address: Option<String>,
    pub incarnation: Option<Incarnation>,
}

/// What both ends of a link tell each other first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Known once the control plane's first entry was applied.
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub mode: Mode,
    /// Where clients reach the node.
    pub client_address: String,
    pub lane: Lane,
    /// Stands for what places keys on nodes, which the peers of a leaderless cluster must agree on.
    pub layout: u64,
    /// The node that leads for ever, which the nodes of a cluster must agree on.
    pub fixed_leader: Option<NodeId>,
}

/// Decides, for the links, who this node is and whom it accepts.
pub trait Greeter: Send + Sync + 'static {
    /// What to tell a peer.
    fn hello(&self, lane: Lane) -> Hello;

    /// Whether a peer may be talked to; remembers its incarnation durably where it is new.
    /// The refusal is sent to the peer, which shows it to its operator.
    fn accept(&self, hello: &Hello) -> Result<(), Rejection>;

    /// Says that a peer refused this node.
    fn rejected(&self, by: NodeId, rejection: Rejection);
}

/// Why a peer is not talked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("it belongs to cluster {theirs}, not to {ours}")]
    OtherCluster { ours: ClusterId, theirs: ClusterId },
    #[error("it runs in {theirs} mode, this cluster in {ours} mode")]
    OtherMode { ours: Mode, theirs: Mode },
    #[error("node {node} is known with incarnation {known}, not {offered}: its data was wiped")]
    OtherIncarnation { node: NodeId, known: Incarnation, offered: Incarnation },
    #[error("node {node} is not among the peers of this cluster")]
    Unknown { node: NodeId },
    #[error("node {node} was removed from cluster {cluster}")]
    Removed { cluster: ClusterId, node: NodeId },
    #[error("it says it is node {said}, but node {expected} was expected at this address")]
    OtherNode { said: NodeId, expected: NodeId },
    #[error(
        "its layout is {theirs:016x}, this cluster's {ours:016x}: all nodes need the same --peers \
         and replicas"
    )]
    OtherLayout { ours: u64, theirs: u64 },
    #[error(
        "its leader.fixed_leader is {}, this cluster's {}: all nodes need the same setting",
        or_none(theirs),
        or_none(ours)
    )]
    OtherFixedLeader { ours: Option<NodeId>, theirs: Option<NodeId> },
}

fn or_none(node: &Option<NodeId>) -> String {
    node.map_or("none".to_owned(), |node| node.to_string())
}

/// A transport that can be shared.
pub type SharedTransport = Arc<dyn Transport>;
