//! What a node's links are told: who it is, whom it talks to, and where requests go.

use std::sync::{Arc, OnceLock};

use super::fail;
use super::members::stop_removed;
use crate::config::Settings;
use crate::consensus::Consensus;
use crate::error::StartError;
use crate::peer::{Greeter, Hello, Inbound, Lane, PeerHandler, Rejection, Service};
use crate::planted::{self, Bug};
use crate::replication::Replicator;
use crate::runtime::watch;
use crate::storage::identity::Identity;
use crate::types::{ClusterId, Members, Mode, NodeId};

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
            | Service::RaftTransfer
            | Service::ChangeMembers
            | Service::ChangeLayout => self.consensus.handle(inbound),
            Service::Forward
            | Service::ReadIndex
            | Service::ReplicaWrite
            | Service::ReplicaRead
            | Service::ReplicaList
            | Service::Inspect
            | Service::Compare
            | Service::Layout
            | Service::Collect => self.replicator.handle(inbound),
        }
    }
}

/// Says who this node is, and whom it talks to.
pub(super) struct NodeGreeter {
    pub identity: Arc<Identity>,
    pub settings: Settings,
    /// The digest of what places keys on nodes.
    pub layout: u64,
    /// Who is of the cluster, as this node has applied it; set before anybody is accepted.
    pub members: OnceLock<watch::Receiver<Members>>,
    pub failed: watch::Sender<Option<String>>,
}

impl Greeter for NodeGreeter {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            cluster: self.cluster(),
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
        self.accept_settings(hello)?;
        let (node, offered) = (hello.node, hello.incarnation);
        let (ours, theirs) = (self.cluster(), hello.cluster);
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
        {
            return Err(Rejection::OtherCluster { ours, theirs });
        }
        let members = self.members();
        if members.removed.contains(&node)
            && let Some(cluster) = ours
        {
            return Err(Rejection::Removed { cluster, node });
        }
        let other = |known| Rejection::OtherIncarnation { node, known, offered };
        let member = members.nodes.get(&node);
        match member.and_then(|facts| facts.incarnation) {
            Some(known) if known == offered || planted::is(Bug::WipedNodeLetIn) => return Ok(()),
            Some(known) => return Err(other(known)),
            None => {}
        }
        if member.is_none() && !self.settings.peers.contains_key(&node) {
            // One that joins, or that joined and this node does not know it yet. It knows the
            // cluster's name, so it is of the cluster or was let in by a member; whom it stands for
            // is agreed on once it is a member.
            return match ours.is_some() && ours == theirs {
                true => Ok(()),
                false => Err(Rejection::Unknown { node }),
            };
        }
        if self.settings.joins.is_some() && members.nodes.is_empty() {
            // One that joins has never met anybody, and cannot tell a wiped node from a good one:
            // what it remembered of the first that came would keep the other out for ever. The
            // group tells it.
            return Ok(());
        }
        match self.identity.meet(node, offered) {
            Ok(known) if known == offered || planted::is(Bug::WipedNodeLetIn) => Ok(()),
            Ok(known) => Err(other(known)),
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
            Rejection::Removed { cluster, node }
                if node == self.identity.node()
                    && self.cluster().is_none_or(|own| own == cluster) =>
            {
                stop_removed(node, &self.identity, &self.failed);
            }
            other => tracing::warn!(%by, %other, "a peer does not talk to this node"),
        }
    }
}

impl NodeGreeter {
    /// The cluster that this node is of, or that it joins.
    fn cluster(&self) -> Option<ClusterId> {
        self.identity.cluster().or(self.settings.joins)
    }

    fn members(&self) -> Members {
        self.members.get().map(|members| members.borrow().clone()).unwrap_or_default()
    }

    /// Refuses a node whose settings do not go with this one's.
    fn accept_settings(&self, hello: &Hello) -> Result<(), Rejection> {
        if hello.mode != self.settings.mode {
            let (ours, theirs) = (self.settings.mode, hello.mode);
            return Err(Rejection::OtherMode { ours, theirs });
        }
        // 0 is said by one that joined: it was told the layout.
        let both_found = hello.layout != 0 && self.layout != 0;
        if self.settings.mode == Mode::Leaderless && both_found && hello.layout != self.layout {
            return Err(Rejection::OtherLayout { ours: self.layout, theirs: hello.layout });
        }
        let (ours, theirs) = (self.settings.leader.fixed_leader, hello.fixed_leader);
        match ours == theirs {
            true => Ok(()),
            false => Err(Rejection::OtherFixedLeader { ours, theirs }),
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
    use crate::types::{Incarnation, MemberFacts};

    fn greeter(node: u16, mode: Mode, nodes: &[u16], replicas: u16) -> NodeGreeter {
        let node = NodeId(node);
        let peers: BTreeMap<_, _> =
            nodes.iter().map(|id| (NodeId(*id), format!("node{id}:8001"))).collect();
        let mut settings = Settings::defaults(node, mode, peers.clone());
        settings.leaderless.replicas = replicas;
        let layout = PinnedLayout::new(peers.keys().copied(), &settings.leaderless);
        let disk = Arc::new(SimDisk::new(u64::from(node.0)));
        let identity = Identity::open(disk, &Runtime::real(), node, mode, "memory", None);
        NodeGreeter {
            identity: Arc::new(identity.expect("an empty directory")),
            settings: Settings::defaults(node, mode, peers),
            layout: layout.digest(),
            members: OnceLock::new(),
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

    /// Tells a greeter who is of the cluster.
    fn tell(greeter: &NodeGreeter, members: &[(u16, Option<Incarnation>)], removed: &[u16]) {
        let facts = |incarnation| MemberFacts { address: String::new(), voter: true, incarnation };
        let members = Members {
            nodes: members.iter().map(|(id, known)| (NodeId(*id), facts(*known))).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
        };
        let told = watch::Sender::new(members).subscribe();
        greeter.members.set(told).unwrap_or_else(|_| panic!("told once"));
    }

    #[test]
    fn a_wiped_node_is_refused_also_by_one_that_never_met_it() {
        let own = greeter(1, Mode::Leader, &[1], 1);
        let before = Incarnation(77);
        tell(&own, &[(1, None), (4, Some(before))], &[]);
        let mut hello = greeter(4, Mode::Leader, &[4], 1).hello(Lane::Bulk);
        let offered = hello.incarnation;
        let wanted = Rejection::OtherIncarnation { node: NodeId(4), known: before, offered };
        assert_eq!(own.accept(&hello), Err(wanted));
        hello.incarnation = before;
        assert_eq!(own.accept(&hello), Ok(()));
    }

    #[test]
    fn a_removed_node_is_told_so_and_stops() {
        let own = greeter(1, Mode::Leader, &[1, 2], 2);
        let cluster = ClusterId(9);
        own.identity.join_cluster(cluster).expect("joins");
        tell(&own, &[(1, None)], &[2]);
        let gone = greeter(2, Mode::Leader, &[1, 2], 2);
        gone.identity.join_cluster(cluster).expect("joins");
        let rejection = own.accept(&gone.hello(Lane::Bulk)).expect_err("refused");
        assert_eq!(rejection, Rejection::Removed { cluster, node: NodeId(2) });
        // What another cluster says of it does not count.
        gone.rejected(NodeId(1), Rejection::Removed { cluster: ClusterId(8), node: NodeId(2) });
        assert_eq!(*gone.failed.borrow(), None);
        gone.rejected(NodeId(1), rejection);
        let said = gone.failed.borrow().clone().expect("it stops");
        assert!(said.contains("was removed from its cluster"), "{said}");
    }

    #[test]
    fn a_removed_node_is_told_so_also_with_an_empty_directory() {
        let wiped = greeter(2, Mode::Leader, &[1, 2], 2);
        let about = |node| Rejection::Removed { cluster: ClusterId(9), node: NodeId(node) };
        wiped.rejected(NodeId(1), about(3));
        assert_eq!(*wiped.failed.borrow(), None, "another node's removal");
        wiped.rejected(NodeId(1), about(2));
        let said = wiped.failed.borrow().clone().expect("it stops");
        assert!(said.contains("was removed from its cluster"), "{said}");
    }

    #[test]
    fn one_that_joins_accuses_nobody_before_the_group_has_told_it_who_is_who() {
        let mut own = greeter(4, Mode::Leader, &[1, 4], 1);
        own.settings.joins = Some(ClusterId(9));
        let wiped = greeter(1, Mode::Leader, &[1], 1).hello(Lane::Bulk);
        assert_eq!(own.accept(&wiped), Ok(()));
        let mut good = wiped.clone();
        good.incarnation = Incarnation(77);
        assert_eq!(own.accept(&good), Ok(()), "the wiped one was not taken for the right one");
        tell(&own, &[(1, Some(Incarnation(77)))], &[]);
        assert_eq!(own.accept(&good), Ok(()));
        assert!(own.accept(&wiped).is_err());
    }

    #[test]
    fn one_that_joins_is_let_in_by_the_clusters_name_and_nobody_else_is() {
        let own = greeter(1, Mode::Leader, &[1], 1);
        own.identity.join_cluster(ClusterId(9)).expect("joins");
        tell(&own, &[(1, None)], &[]);
        let mut joins = greeter(4, Mode::Leader, &[1, 4], 1);
        let stranger = own.accept(&joins.hello(Lane::Bulk));
        assert_eq!(stranger, Err(Rejection::Unknown { node: NodeId(4) }));
        joins.settings.joins = Some(ClusterId(9));
        assert_eq!(own.accept(&joins.hello(Lane::Bulk)), Ok(()));
        // It was not pinned: another directory may join under the id, until it is a member.
        let mut other = joins.hello(Lane::Bulk);
        other.incarnation = Incarnation(1);
        assert_eq!(own.accept(&other), Ok(()));
    }
}
