//! The two architectures behind one trait.
//!
//! [`Replicator`] is all that `api` knows. `leader` and `leaderless` implement it and never import
//! each other; [`build`] is the one place in the server that matches on the mode.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::explain::Explanation;
use self::layout::{LayoutPlan, LayoutStatus};
use self::repair::RepairStatus;
use crate::error::{
    LayoutCallError, LeadershipError, MembershipError, ReadError, Refusal, WriteError,
};
use crate::peer::{Inbound, PeerView};
use crate::runtime::Instant;
use crate::storage::rows::Bound;
use crate::types::{
    ClusterId, EffectiveLevel, Epoch, Key, Level, MemberChange, Mode, NodeId, Record, Share,
    Version, Write,
};

mod build;
pub mod explain;
pub mod fold;
pub mod layout;
pub mod leader;
pub mod leaderless;
pub mod repair;

pub use build::{ReplicaRecovery, ReplicatorParts, build};

/// What a client asks of one request, whatever it is.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// `None`: the mode's default.
    pub level: Option<Level>,
    /// How old what a read at `local` shows may be: it shows every write acknowledged longer ago than
    /// this before the request came in. Leader mode only.
    pub max_staleness: Option<Duration>,
    /// Replicas to wait for on a read; leaderless only.
    pub r: Option<u16>,
    /// Replicas to wait for on a write; leaderless only.
    pub w: Option<u16>,
    /// Whether the request may be passed on to another node.
    pub may_forward: bool,
    /// When the client is answered with what is known.
    pub deadline: Instant,
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAnswer {
    /// The version the write was given.
    pub version: Version,
    /// The newer version it lost to, where it did.
    pub superseded_by: Option<Version>,
    pub level: EffectiveLevel,
    pub cost: Cost,
}

/// An answered read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// The record, tombstones included; `None` where no replica asked ever had one.
    pub record: Option<Record>,
    pub level: EffectiveLevel,
    pub cost: Cost,
}

/// What a request cost, for `Quorate-Trace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Peer messages sent and received on this request's account; shared ones count as one.
    pub messages: u32,
    /// Replicas whose acknowledgement the answer rests on.
    pub acks: u16,
}

/// A page of keys to list.
#[derive(Clone, Debug)]
pub struct List {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Where the page starts: [`Bound::Start`], or the `next` of the page before.
    pub from: Bound,
    /// Keys that hold the delimiter after the prefix are folded into one prefix each.
    pub delimiter: Option<String>,
    /// Items and prefixes together, at most.
    pub limit: usize,
    /// Whether items carry their values.
    pub with_values: bool,
}

/// A page of a list, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAnswer {
    pub items: Vec<(Key, Record)>,
    pub prefixes: Vec<String>,
    /// Where the next page starts, for [`List::from`]; `None` at the end. A page may hold fewer
    /// entries than its limit, none even, and yet have a next.
    pub next: Option<Bound>,
    pub level: EffectiveLevel,
    pub cost: Cost,
}

/// One node of the cluster, as another sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub peer_address: String,
    pub client_address: Option<String>,
    /// `voter` or `learner`; in leaderless mode `replica` where it holds partitions, or is to.
    pub role: &'static str,
    /// Whether it has a vote in the group, which in leaderless mode is the control plane's.
    pub votes: bool,
    pub standing: Standing,
}

/// What a node thinks of another, by its own links alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The link is up, and answers come. Also the node itself.
    Normal,
    /// The link is up, and nothing has come for longer than usual.
    Suspected,
    /// The link is down.
    Unreachable,
}

impl Standing {
    /// By what is known of the link.
    pub fn of(peer: &PeerView) -> Standing {
        match (peer.connected, peer.suspected) {
            (false, _) => Standing::Unreachable,
            (true, true) => Standing::Suspected,
            (true, false) => Standing::Normal,
        }
    }

    /// The standing in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Normal => "normal",
            Standing::Suspected => "suspected",
            Standing::Unreachable => "unreachable",
        }
    }
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    pub cluster: Option<ClusterId>,
    pub mode: Mode,
    pub epoch: Epoch,
    pub node: NodeId,
    /// The leader of the control plane (in leader mode, of the data too).
    pub leader: Option<NodeId>,
    /// The node that leads for ever, where the settings name one.
    pub fixed_leader: Option<NodeId>,
    pub term: u64,
    pub members: Vec<Member>,
    /// Ids of nodes that were removed: they are never used again.
    pub removed: Vec<NodeId>,
    /// Log index up to which the control plane's log is applied here.
    pub applied_index: u64,
}

/// Reads and writes of keys, by one architecture. Every method answers by the deadline that its
/// options name, and tells failures apart as `crate::error` does.
pub trait Replicator: Send + Sync + 'static {
    /// Reads one key.
    fn read(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ReadAnswer, ReadError>>;

    /// Writes one key. An error other than `Unknown` means that nothing happened and nothing will.
    fn write(
        &self,
        write: Write,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<WriteAnswer, WriteError>>;

    /// Lists keys in order, without those that are deleted.
    fn list(
        &self,
        list: List,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<ListAnswer, ReadError>>;

    /// What every replica holds of a key, and what reads would return now. Changes nothing.
    fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> BoxFuture<'_, Result<Explanation, ReadError>>;

    /// The cluster as this node sees it.
    fn status(&self) -> ClusterStatus;

    /// Hands leadership over to `to`, or to whoever has caught up furthest; gives who leads then.
    /// Only where a leader orders the data is there anything to hand over.
    fn transfer(
        &self,
        _to: Option<NodeId>,
        _options: RequestOptions,
    ) -> BoxFuture<'_, Result<NodeId, LeadershipError>> {
        let what = "handing leadership over".to_owned();
        let mode = self.status().mode;
        Box::pin(async move { Err(Refusal::NotImplemented { what, mode }.into()) })
    }

    /// Changes who is of the cluster; answered once that is done, also where it was so already.
    fn change_members(
        &self,
        _change: MemberChange,
        _options: RequestOptions,
    ) -> BoxFuture<'_, Result<(), MembershipError>> {
        let what = "changing the members".to_owned();
        let mode = self.status().mode;
        Box::pin(async move { Err(Refusal::NotImplemented { what, mode }.into()) })
    }

    /// Which nodes hold which partitions; only where not every node holds all data by its nature.
    fn layout(&self) -> BoxFuture<'_, Result<LayoutStatus, Refusal>> {
        let refusal = self.no_layout();
        Box::pin(async move { Err(refusal) })
    }

    /// What would move if the partitions were spread over these nodes. Changes nothing.
    fn plan_layout(
        &self,
        _nodes: BTreeMap<NodeId, Share>,
    ) -> BoxFuture<'_, Result<LayoutPlan, Refusal>> {
        let refusal = self.no_layout();
        Box::pin(async move { Err(refusal) })
    }

    /// Begins to spread the partitions over these nodes; answered once that is decided.
    fn apply_layout(
        &self,
        _nodes: BTreeMap<NodeId, Share>,
        _options: RequestOptions,
    ) -> BoxFuture<'_, Result<LayoutStatus, LayoutCallError>> {
        let refusal = self.no_layout();
        Box::pin(async move { Err(refusal.into()) })
    }

    /// Goes back to the layout that stood before the change that is under way.
    fn cancel_layout(
        &self,
        _options: RequestOptions,
    ) -> BoxFuture<'_, Result<LayoutStatus, LayoutCallError>> {
        let refusal = self.no_layout();
        Box::pin(async move { Err(refusal.into()) })
    }

    /// Why there is no layout.
    fn no_layout(&self) -> Refusal {
        let what = "a layout (every member holds all data)".to_owned();
        Refusal::NotImplemented { what, mode: self.status().mode }
    }

    /// Has this node's replicas compared with those of every other node, and each brought what it
    /// lacks; begins, and does not wait. Only where there are replicas that may differ.
    fn start_repair(&self) -> Result<RepairStatus, Refusal> {
        let what = "repairing replicas (the log brings every node what it lacks)".to_owned();
        Err(Refusal::NotImplemented { what, mode: self.status().mode })
    }

    /// How far that is, or what the last one came to.
    fn repair_status(&self) -> Result<RepairStatus, Refusal> {
        self.start_repair()
    }

    /// Whether this node can serve the mode's default level now, and if not, why.
    fn ready(&self) -> Result<(), String>;

    /// Takes a peer's request for one of the services that belong to the architecture. Called on
    /// the link's reader: must not block.
    fn handle(&self, inbound: Inbound);

    /// Makes the table durable and cuts the log behind it.
    fn checkpoint(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Waits until the architecture can go on no longer on this node, and says why; the node then
    /// stops. Pending for ever where nothing but what the node itself watches can fail.
    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    /// Stops background work, after what is under way.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
