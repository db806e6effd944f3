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
    pub state: String,
}
