//! What a node's links are told: who it is, whom it talks to, and where requests go.

use std::sync::Arc;

use super::fail;
use crate::config::Settings;
use crate::consensus::Consensus;
use crate::error::StartError;
use crate::peer::{Greeter, Hello, Inbound, Lane, PeerHandler, Rejection, Service};
use crate::planted::{self, Bug};
use crate::replication::Replicator;
use crate::runtime::watch;
use crate::storage::identity::Identity;
use crate::types::{Mode, NodeId};

/// Sends each request to the part that it is for.
pub(super) struct NodeHandler {
    pub consensus: Arc<Consensus>,
    pub replicator: Arc<dyn Replicator>,
}

impl PeerHandler for NodeHandler {
    fn handle(&self, inbound: Inbound) {
        match inbound.service {
            Service::RaftAppend
            | Service::RaftVote
            | Service::RaftSnapshot
            | Service::RaftTransfer => self.consensus.handle(inbound),
            Service::Forward
            | Service::ReadIndex
            | Service::ReplicaWrite
            | Service::ReplicaRead
            | Service::ReplicaList => self.replicator.handle(inbound),
        }
    }
}

/// Says who this node is, and whom it talks to.
pub(super) struct NodeGreeter {
    pub identity: Arc<Identity>,
    pub settings: Settings,
    /// The digest of what places keys on nodes.
    pub layout: u64,
    pub failed: watch::Sender<Option<String>>,
}

impl Greeter for NodeGreeter {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            cluster: self.identity.cluster(),
            node: self.identity.node(),
            incarnation: self.identity.incarnation(),
            mode: self.settings.mode,
            client_address: self.settings.advertise.clone(),
            lane,
            layout: self.layout,
            fixed_leader: self.settings.leader.fixed_leader,
        }
    }

    fn accept(&self, hello: &Hello) -> Result<(), Rejection> {
        let node = hello.node;
        if !self.settings.peers.contains_key(&node) {
            return Err(Rejection::Unknown { node });
        }
        if hello.mode != self.settings.mode {
            let (ours, theirs) = (self.settings.mode, hello.mode);
            return Err(Rejection::OtherMode { ours, theirs });
        }
        if self.settings.mode == Mode::Leaderless && hello.layout != self.layout {
            return Err(Rejection::OtherLayout { ours: self.layout, theirs: hello.layout });
        }
        let (ours, theirs) = (self.settings.leader.fixed_leader, hello.fixed_leader);
        if ours != theirs {
            return Err(Rejection::OtherFixedLeader { ours, theirs });
        }
        if let (Some(ours), Some(theirs)) = (self.identity.cluster(), hello.cluster)
            && ours != theirs
        {
            return Err(Rejection::OtherCluster { ours, theirs });
        }
        let offered = hello.incarnation;
        match self.identity.meet(node, offered) {
            Ok(known) if known == offered || planted::is(Bug::WipedNodeLetIn) => Ok(()),
            Ok(known) => Err(Rejection::OtherIncarnation { node, known, offered }),
            Err(error) => {
                fail(&self.failed, format!("a peer could not be remembered: {error}"));
                Err(Rejection::Unknown { node })
            }
        }
    }

    fn rejected(&self, by: NodeId, rejection: Rejection) {
        match rejection {
            Rejection::OtherIncarnation { node, known, offered }
                if node == self.identity.node() && offered == self.identity.incarnation() =>
            {
                let (known, own) = (known.to_string(), offered.to_string());
                fail(&self.failed, StartError::WipedNode { node, known, own }.to_string());
            }
            other => tracing::warn!(%by, %other, "a peer does not talk to this node"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::runtime::Runtime;
    use crate::storage::disk::SimDisk;
    use crate::storage::identity::PinnedLayout;

    fn greeter(node: u16, mode: Mode, nodes: &[u16], replicas: u16) -> NodeGreeter {
        let node = NodeId(node);
        let peers: BTreeMap<_, _> =
            nodes.iter().map(|id| (NodeId(*id), format!("node{id}:8001"))).collect();
        let layout = PinnedLayout::new(peers.keys().copied(), replicas);
        let disk = Arc::new(SimDisk::new(u64::from(node.0)));
        let identity = Identity::open(disk, &Runtime::real(), node, mode, "memory", None);
        NodeGreeter {
            identity: Arc::new(identity.expect("an empty directory")),
            settings: Settings::defaults(node, mode, peers),
            layout: layout.digest(),
            failed: watch::Sender::new(None),
        }
    }

    #[test]
    fn nodes_that_would_place_keys_elsewhere_do_not_talk() {
        let own = greeter(1, Mode::Leaderless, &[1, 2, 3], 3);
        let like = greeter(2, Mode::Leaderless, &[1, 2, 3], 3);
        assert_eq!(own.accept(&like.hello(Lane::Bulk)), Ok(()));
        for (nodes, replicas) in [(&[1, 2, 3, 4][..], 3), (&[1, 2, 3], 2)] {
            let other = greeter(2, Mode::Leaderless, nodes, replicas);
            let rejected = own.accept(&other.hello(Lane::Bulk));
            assert!(matches!(rejected, Err(Rejection::OtherLayout { .. })), "{rejected:?}");
        }
    }

    #[test]
    fn nodes_that_name_different_fixed_leaders_do_not_talk() {
        let named = |node, fixed: Option<u16>| {
            let mut greeter = greeter(node, Mode::Leader, &[1, 2, 3], 3);
            greeter.settings.leader.fixed_leader = fixed.map(NodeId);
            greeter
        };
        let own = named(1, Some(1));
        assert_eq!(own.accept(&named(2, Some(1)).hello(Lane::Bulk)), Ok(()));
        for other in [None, Some(2)] {
            let rejected = own.accept(&named(2, other).hello(Lane::Bulk));
            let theirs = other.map(NodeId);
            let wanted = Rejection::OtherFixedLeader { ours: Some(NodeId(1)), theirs };
            assert_eq!(rejected, Err(wanted));
        }
    }

    #[test]
    fn in_leader_mode_the_layout_does_not_matter() {
        let own = greeter(1, Mode::Leader, &[1, 2, 3], 3);
        let other = greeter(2, Mode::Leader, &[1, 2], 1);
        assert_eq!(own.accept(&other.hello(Lane::Bulk)), Ok(()));
    }
}
