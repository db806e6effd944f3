//! What the parts of leader mode share on one node, and what follows from it alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::freshness::Freshness;
use super::gate::{By, Confirmed};
use super::group::Group;
use super::queue::{Pending, Queue};
use super::vouches::Vouches;
use crate::error::{ReadError, Refusal};
use crate::peer::SharedTransport;
use crate::replication::{ClusterStatus, Cost, Member, Standing};
use crate::runtime::Runtime;
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::{Epoch, MemberFacts, Mode, NodeId};

/// What the parts of leader mode share on one node.
pub struct Context<G> {
    pub runtime: Runtime,
    pub node: NodeId,
    pub peers: BTreeMap<NodeId, String>,
    pub advertise: String,
    pub group: Arc<G>,
    pub table: Arc<dyn Table>,
    pub transport: SharedTransport,
    pub metrics: Metrics,
    pub queue: Queue,
    pub freshness: Freshness,
    pub vouches: Vouches,
}

impl<G: Group> Context<G> {
    /// Why a write or read found no leader, for people.
    pub fn no_leader(&self, leader: Option<NodeId>) -> String {
        match leader {
            None => "no leader is known: a majority of the nodes must be up and connected".into(),
            Some(leader) if leader == self.node => {
                "this node leads, but could not take the request in time".into()
            }
            Some(leader) => format!("node {leader} leads, but did not take the request in time"),
        }
    }

    /// The oldest writes of clients, as many as `fits` says yes to; those that have waited for far too
    /// long are refused before.
    pub fn take_writes(&self, fits: impl FnMut(&Pending) -> bool) -> Vec<Pending> {
        let overdue = self.queue.refuse_overdue(self.runtime.now());
        self.metrics.writes_refused_as_slow.inc_by(overdue);
        self.queue.take_writes(fits)
    }

    /// The refusal of a request that may not be passed on.
    pub fn not_leader(&self, leader: NodeId) -> Refusal {
        match self.transport.peer(leader).and_then(|peer| peer.client_address) {
            Some(client_address) => Refusal::NotLeader { leader, client_address },
            None => Refusal::NoLeader {
                detail: format!("node {leader} leads, but its client address is not known yet"),
            },
        }
    }

    /// Refuses what another node would have to do, where it may not be passed on.
    pub fn may_serve(&self, may_forward: bool) -> Result<(), Refusal> {
        match self.group.leader() {
            _ if may_forward => Ok(()),
            Some(leader) if leader == self.node => Ok(()),
            Some(leader) => Err(self.not_leader(leader)),
            None => Err(Refusal::NoLeader { detail: self.no_leader(None) }),
        }
    }

    /// How many snapshots were installed by now; refuses while one is, and rows are missing.
    pub fn whole_table(&self) -> Result<u64, ReadError> {
        self.group.installs().ok_or_else(installing)
    }

    /// Refuses what was read since [`Context::whole_table`] gave `installs`, where the table was
    /// being replaced meanwhile.
    pub fn still_whole(&self, installs: u64) -> Result<(), ReadError> {
        if self.group.installs() == Some(installs) { Ok(()) } else { Err(installing()) }
    }

    /// Messages to and from every other node, once for the batch that the request was part of, and
    /// two more for a hop to the leader and back. The acknowledgements are a majority's.
    fn cost(&self, hop: bool) -> Cost {
        let nodes = self.group.nodes();
        let messages = 2 * (nodes.saturating_sub(1) + usize::from(hop));
        Cost { messages: messages as u32, acks: (nodes / 2 + 1) as u16 }
    }

    pub fn write_cost(&self, forwarded: bool) -> Cost {
        self.cost(forwarded)
    }

    pub fn read_cost(&self, confirmed: Confirmed) -> Cost {
        let own = 2 * u32::from(confirmed.asked_leader);
        match confirmed.by {
            By::Majority => self.cost(confirmed.asked_leader),
            // The leader, and the follower who gave its word.
            By::Word => Cost { messages: own, acks: 2 },
            By::Lease => Cost { messages: own, acks: 1 },
        }
    }

    pub fn cluster_status(&self) -> ClusterStatus {
        let status = self.group.status();
        let members = status.members.nodes.into_iter().map(|(id, facts)| self.member(id, facts));
        ClusterStatus {
            cluster: status.cluster,
            mode: Mode::Leader,
            epoch: Epoch(1),
            node: self.node,
            leader: status.leader,
            fixed_leader: status.fixed_leader,
            term: status.term,
            members: members.collect(),
            removed: status.members.removed.into_iter().collect(),
            applied_index: status.applied_index,
        }
    }

    fn member(&self, id: NodeId, facts: MemberFacts) -> Member {
        let votes = facts.voter;
        let role = if votes { "voter" } else { "learner" };
        // The settings win, as they do for the links.
        let peer_address = self.peers.get(&id).cloned().unwrap_or(facts.address);
        if id == self.node {
            let (client_address, standing) = (Some(self.advertise.clone()), Standing::Normal);
            return Member { id, peer_address, client_address, role, votes, standing };
        }
        let view = self.transport.peer(id).unwrap_or_default();
        let (standing, client_address) = (Standing::of(&view), view.client_address);
        Member { id, peer_address, client_address, role, votes, standing }
    }
}

fn installing() -> ReadError {
    Refusal::NotReady { detail: "a snapshot is being installed".to_owned() }.into()
}
