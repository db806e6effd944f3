//! A repair that an operator asks for: this node compared with every other one, now.
//!
//! One at a time; who asks while one runs is told of that one. It does what the comparisons in the
//! background do, and differs in that it is for all other nodes, says how far it is, and goes on until
//! nothing is left that was too new for the first look.
//!
//! Also the pace that all repairs of a node keep together, hints among them.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Core;
use crate::replication::repair::{PeerRepair, RepairState, RepairStatus};
use crate::runtime::Instant;
use crate::types::NodeId;

impl Core {
    /// Says that records are about to be sent so that replicas become equal; gives the time.
    pub(super) fn begin_repair(&self) -> Instant {
        let now = self.runtime.now();
        self.repair_pace.lock().begin(now);
        now
    }

    /// Rests for what was sent, so that all of it together keeps `leaderless.repair_bytes_per_s`.
    pub(super) async fn rest_for(&self, bytes: u64) {
        let next_at = self.repair_pace.lock().charge(bytes, self.runtime.now());
        self.runtime.sleep_until(next_at).await;
    }
}

/// The repair that runs, or the last one.
#[derive(Default)]
pub struct Repairs {
    status: Mutex<RepairStatus>,
    wanted: Notify,
}

impl Repairs {
    /// Has a repair started with these nodes, unless one runs.
    pub fn start(&self, others: impl Iterator<Item = NodeId>) -> RepairStatus {
        let mut status = self.status.lock();
        if !status.running {
            let peers = others.map(|node| PeerRepair {
                node,
                state: RepairState::Waiting,
                differing: 0,
                compared: 0,
                repaired: 0,
                error: None,
            });
            *status = RepairStatus { running: true, peers: peers.collect() };
            self.wanted.notify_one();
        }
        status.clone()
    }

    pub fn status(&self) -> RepairStatus {
        self.status.lock().clone()
    }

    /// Waits until a repair is to begin.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whom the repair has still to compare with.
    pub fn next(&self) -> Option<NodeId> {
        let status = self.status.lock();
        let waits = |peer: &&PeerRepair| peer.state == RepairState::Waiting;
        status.peers.iter().find(waits).map(|peer| peer.node)
    }

    /// Says how far it is with one node.
    pub fn note(&self, node: NodeId, change: impl FnOnce(&mut PeerRepair)) {
        let mut status = self.status.lock();
        if let Some(peer) = status.peers.iter_mut().find(|peer| peer.node == node) {
            change(peer);
        }
    }

    /// Says that it is over.
    pub fn end(&self) {
        self.status.lock().running = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_runs_at_a_time_and_names_every_node() {
        let repairs = Repairs::default();
        assert_eq!(repairs.status(), RepairStatus::default());
        let started = repairs.start([1, 3].map(NodeId).into_iter());
        assert!(started.running && started.peers.len() == 2);
        repairs.note(NodeId(1), |peer| peer.state = RepairState::Done);
        assert_eq!(repairs.next(), Some(NodeId(3)));
        assert_eq!(repairs.start([4].map(NodeId).into_iter()).peers.len(), 2, "it runs already");
        repairs.note(NodeId(3), |peer| peer.state = RepairState::Failed);
        assert_eq!(repairs.next(), None);
        repairs.end();
        assert!(!repairs.status().running);
        assert_eq!(repairs.start([4].map(NodeId).into_iter()).peers[0].node, NodeId(4));
    }
}
