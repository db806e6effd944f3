//! What a node's links are told: who it is, whom it talks to, and where requests go.

use std::sync::Arc;

use super::fail;
use crate::config::Settings;
use crate::consensus::Consensus;
use crate::error::StartError;
use crate::peer::{Greeter, Hello, Inbound, Lane, PeerHandler, Rejection, Service};
use crate::replication::Replicator;
use crate::runtime::watch;
use crate::storage::identity::Identity;
use crate::types::NodeId;

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
        if let (Some(ours), Some(theirs)) = (self.identity.cluster(), hello.cluster)
            && ours != theirs
        {
            return Err(Rejection::OtherCluster { ours, theirs });
        }
        let offered = hello.incarnation;
        match self.identity.meet(node, offered) {
            Ok(known) if known == offered => Ok(()),
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
