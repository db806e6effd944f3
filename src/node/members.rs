//! Links to whoever is a member, as that changes while the node runs.
//!
//! **Guarantees.** Links to every member that this node has applied are kept, and none to a node that
//! was removed. A node that was removed itself says so, remembers it, and stops.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fail;
use crate::error::StartError;
use crate::peer::SharedTransport;
use crate::planted::{self, Bug};
use crate::runtime::{Runtime, watch};
use crate::storage::identity::Identity;
use crate::types::{Members, NodeId};

/// What following the members needs.
pub(super) struct MemberLinks {
    pub node: NodeId,
    pub members: watch::Receiver<Members>,
    pub transport: SharedTransport,
    pub identity: Arc<Identity>,
    pub failed: watch::Sender<Option<String>>,
}

impl MemberLinks {
    /// Follows the members until the group is gone, or this node no member any more.
    pub(super) async fn follow(mut self, runtime: Runtime) {
        let mut unlinked = BTreeSet::new();
        loop {
            let members = self.members.borrow_and_update().clone();
            if members.removed.contains(&self.node) {
                let Self { node, identity, failed, .. } = self;
                return runtime.blocking(move || stop_removed(node, &identity, &failed)).await;
            }
            for (id, facts) in members.nodes.iter().filter(|(id, _)| **id != self.node) {
                self.transport.link(*id, &facts.address);
            }
            for id in members.removed.into_iter().filter(|id| unlinked.insert(*id)) {
                self.transport.unlink(id);
            }
            if self.members.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Remembers that this node was removed, and stops it. Blocking.
pub(super) fn stop_removed(
    node: NodeId,
    identity: &Identity,
    failed: &watch::Sender<Option<String>>,
) {
    if planted::is(Bug::RemovedNodeServesOn) {
        return;
    }
    if let Err(error) = identity.mark_removed() {
        // Its peers tell it again at the next start.
        tracing::error!(%error, "it could not be remembered that this node was removed");
    }
    fail(failed, StartError::RemovedNode { node }.to_string());
}
