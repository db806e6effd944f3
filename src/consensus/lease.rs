//! The leader's lease, and what every voter does to keep it true.
//!
//! **Why it exists.** A leader that knows that nobody else can lead now may answer from its own
//! table without asking anybody. It knows for as long as the followers that acknowledged it lately
//! vote for nobody else (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4.1).
//!
//! **The rule.** A voter that took a message from its leader grants no other node a vote for
//! `election_timeout_max` after that, and stands in no election, by its own clock: the lease. The
//! leader counts from the moment when it *sent* what a majority then acknowledged, and trusts only
//! half of the lease. So no read is stale as long as no clock runs twice as fast as another.
//!
//! **What would break the rule, and does not.**
//! - *A restart forgets what was promised.* A node that may have promised something, because its log
//!   holds a vote, votes for nobody and stands in no election for one lease after its start.
//! - *A transfer asks for votes inside the lease.* The leader gives its own up before it asks the
//!   target to stand, until its term ends.
//! - *A new leader lacks what the old one acknowledged.* It serves nothing by its lease before an
//!   entry of its own term is applied.
//!
//! **Guarantees.** Where [`Lease::holds`], a read of the table after the call shows every write that
//! any node acknowledged before it.
//!
//! **Does not guarantee** anything where a clock runs twice as fast as another, or stands still while
//! the machine is suspended: linearizable reads rest on no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;

use super::leadership::{Leadership, may_stand};
use super::raft_types::{Raft, TypeConfig};
use super::runtime::SeamInstant;
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::types::NodeId;

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Which part of a lease its leader trusts: the rest is for clocks that run at other rates.
const TRUSTED_PART: u32 = 2;

/// The lease as this node may hold it.
pub(super) struct Lease {
    runtime: Runtime,
    node: NodeId,
    metrics: WatchReceiverOf<TypeConfig, Metrics>,
    trusted: Duration,
    /// The last term whose leader, this node, began to hand over; 0 where none.
    given_up_in: AtomicU64,
}

impl Lease {
    pub fn new(runtime: Runtime, node: NodeId, raft: &Raft, lease: Duration) -> Lease {
        let part = if planted::is(Bug::LeaseUnderClockDrift) { 1 } else { TRUSTED_PART };
        let (metrics, trusted) = (raft.metrics(), lease / part);
        Lease { runtime, node, metrics, trusted, given_up_in: AtomicU64::new(0) }
    }

    /// Whether nobody else can lead now; see the module.
    pub fn holds(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        let term = metrics.current_term;
        let leads =
            metrics.state == ServerState::Leader && metrics.current_leader == Some(self.node);
        let applied_own = metrics.last_applied.is_some_and(|last| last.leader_id.term == term);
        let given_up = self.given_up_in.load(Ordering::SeqCst) >= term;
        if !leads || !applied_own || (given_up && !planted::is(Bug::LeaseKeptInTransfer)) {
            return false;
        }
        // Nobody else has a vote, and nobody else is heard from.
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.next() == Some(self.node) && voters.next().is_none() {
            return true;
        }
        let now = SeamInstant::of(&self.runtime);
        metrics.last_quorum_acked.is_some_and(|sent| now < *sent + self.trusted)
    }

    /// Gives the lease up for the rest of `term`: another is to be elected inside it.
    pub fn give_up(&self, term: u64) {
        self.given_up_in.fetch_max(term, Ordering::SeqCst);
    }
}

/// Keeps a node that was started again from voting, and from standing, for one lease.
pub(super) struct StartGuard {
    active: AtomicBool,
    lease: Duration,
}

impl StartGuard {
    /// `may_have_promised`: whether the node followed a leader, or voted, before this start.
    pub fn new(may_have_promised: bool, lease: Duration) -> StartGuard {
        let active = may_have_promised && !planted::is(Bug::VoteWithinLeaseOfStart);
        StartGuard { active: AtomicBool::new(active), lease }
    }

    /// Whether the node must not vote yet.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Ends the guard after one lease of the node's own clock, and lets the node stand then.
    pub async fn run(self: Arc<Self>, runtime: Runtime, leadership: Arc<Leadership>) {
        if self.is_active() && !leadership.is_the_only_voter() {
            runtime.sleep(runtime.timer_sleep(self.lease)).await;
        }
        self.active.store(false, Ordering::SeqCst);
        if may_stand(leadership.fixed, leadership.node) {
            leadership.stand();
        }
    }
}
