//! JSON answers as types. Fields that are not known here are passed over: a newer node may say
//! more.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

/// A page of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    pub items: Vec<ListItem>,
    pub prefixes: Vec<String>,
    pub next_cursor: Option<String>,
}

/// One key of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListItem {
    pub key: String,
    pub etag: String,
    pub size: usize,
    pub content_type: Option<String>,
    /// The value where it was asked for and is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value where it was asked for and is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl ListItem {
    /// The value's bytes, where they were asked for.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let encoded = || self.value_base64.as_ref();
        let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).ok();
        match &self.value {
            Some(text) => Some(text.clone().into_bytes()),
            None => encoded().and_then(decode),
        }
    }
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    pub cluster_id: Option<String>,
    pub mode: String,
    pub epoch: u64,
    pub node: u16,
    pub leader: Option<u16>,
    pub term: u64,
    pub applied_index: u64,
    pub members: Vec<MemberView>,
}

/// What each replica holds of a key, and what reads would return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    pub key: String,
    pub partition: u8,
    pub replicas: Vec<ReplicaView>,
    pub reads: Vec<ReadView>,
}

/// What one replica holds of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    pub node: u16,
    /// `None` where it holds nothing, or did not answer.
    pub etag: Option<String>,
    /// Whether a read of it finds nothing, for a delete or because it has expired.
    pub tombstone: Option<bool>,
    /// Bytes of the value.
    pub size: Option<u64>,
    pub expires_at_ms: Option<u64>,
    /// Whether another replica holds something newer; `None` where it did not answer.
    pub behind: Option<bool>,
    /// By how much older its version is than the newest, in milliseconds of version time.
    pub lag_ms: Option<u64>,
    /// Entries of the log that it has still to apply; leader mode alone.
    pub lag_entries: Option<u64>,
    /// Why it is not known what it holds.
    pub error: Option<String>,
}

/// What a read at a level would return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadView {
    pub consistency: String,
    /// More than one where it depends on who answers first; `None` is *not found*.
    pub may_return: Vec<Option<String>>,
    pub error: Option<String>,
}

/// How far the repair of a node's replicas is, or what the last one came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairView {
    pub node: u16,
    pub running: bool,
    pub peers: Vec<PeerRepairView>,
}

/// The part of a repair that concerns one other node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRepairView {
    pub node: u16,
    /// `waiting`, `running`, `done` or `failed`.
    pub state: String,
    pub differing_partitions: u64,
    pub compared_partitions: u64,
    pub repaired_records: u64,
    pub error: Option<String>,
}

/// Which nodes hold which partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutView {
    pub epoch: u64,
    pub replicas: u16,
    pub nodes: Vec<LayoutNodeView>,
    /// The nodes of each partition.
    pub partitions: Vec<Vec<u16>>,
    /// `None` where the layout stands.
    pub change: Option<LayoutChangeView>,
    /// Nodes that still bring others what they alone may have of partitions that they held before.
    pub departing: Vec<u16>,
}

/// A change of the layout that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutChangeView {
    /// `copying`, and then `checking`.
    pub step: String,
    pub replicas: u16,
    pub nodes: Vec<LayoutNodeView>,
    pub partitions: Vec<Vec<u16>>,
    /// The nodes that the step waits for.
    pub progress: Vec<LayoutProgressView>,
}

/// How far a node is with the step under way of a change of the layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutProgressView {
    pub id: u16,
    /// Partitions that it has to have, and that it is known to have.
    pub partitions: u64,
    pub proven: u64,
    /// Records that it was brought in this step, or brought others, and their bytes.
    pub records: u64,
    pub bytes: u64,
    pub done: bool,
    pub waits_for: Option<String>,
}

/// A node of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutNodeView {
    pub id: u16,
    pub weight: u32,
    pub zone: Option<String>,
    /// Partitions it holds.
    pub holds: usize,
}

/// What a change of the layout would move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutPlanView {
    pub replicas: u16,
    /// Replicas of partitions that would be sent to another node.
    pub moves: usize,
    pub nodes: Vec<PlannedNodeView>,
    pub partitions: Vec<Vec<u16>>,
}

/// What would change for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNodeView {
    pub id: u16,
    pub holds: usize,
    pub will_hold: usize,
    pub receives: usize,
}

/// Who leads, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderView {
    pub leader: Option<u16>,
    /// The node that leads for ever, where the settings name one.
    pub fixed_leader: Option<u16>,
    pub term: u64,
    /// Where clients reach the leader.
    pub client: Option<String>,
}

/// Who is of the cluster, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersView {
    pub members: Vec<MemberView>,
    /// Ids of nodes that were removed; never used again.
    #[serde(default)]
    pub removed: Vec<u16>,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    pub id: u16,
    pub peer: String,
    pub client: Option<String>,
    pub role: String,
    /// Whether it has a vote in the group; not told by older nodes.
    #[serde(default)]
    pub vote: bool,
    pub state: String,
}
