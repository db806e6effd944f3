//! What a leader sees to by itself: the cluster's name, who its members are, and that a change of
//! them does not stay half done.

use std::sync::Arc;
use std::time::Duration;

use super::group::propose;
use super::leadership::Leadership;
use super::membership::Membership;
use super::raft_types::Proposal;
use super::state_machine::Machine;
use super::{Command, Control};
use crate::types::{ClusterId, Incarnation, NodeId};

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long one proposal may take before the next look.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Looks after the group while this node leads it.
pub(super) struct Keeper {
    pub leadership: Arc<Leadership>,
    pub membership: Arc<Membership>,
    pub machine: Arc<Machine>,
    /// What this node's own data directory was minted with.
    pub incarnation: Incarnation,
}

impl Keeper {
    /// Runs for ever.
    pub(super) async fn run(self) {
        loop {
            let leads = self.leadership.raft.is_leader();
            // Whoever is sent a snapshot is then what a majority is made of.
            let in_haste = leads && !self.leadership.standing().has_majority_at_hand();
            self.machine.haste.set(in_haste);
            if leads {
                self.look().await;
            }
            self.leadership.runtime.sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) {
        if self.machine.cluster().is_none() {
            // The first one that is applied counts, also where another leader tries at the same time.
            let cluster = ClusterId(self.leadership.runtime.random_u64());
            self.propose(Control::MintCluster { cluster }).await;
        }
        for node in self.machine.strangers() {
            if let Some(incarnation) = self.incarnation_of(node) {
                self.propose(Control::Introduce { node, incarnation }).await;
            }
        }
        self.membership.keep(self.leadership.runtime.now() + TIMEOUT).await;
    }

    /// What a member said of itself when its link to this node was made.
    fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        if node == self.leadership.node {
            return Some(self.incarnation);
        }
        self.leadership.transport.peer(node).and_then(|peer| peer.incarnation)
    }

    /// Proposes; where that fails it is tried again at the next look.
    async fn propose(&self, control: Control) {
        let own = &self.leadership;
        if let Ok(proposal) = Proposal::encode(&Command::Control(control)) {
            let deadline = own.runtime.now() + TIMEOUT;
            let _ = propose(&own.runtime, &own.raft, proposal, deadline).await;
        }
    }
}
