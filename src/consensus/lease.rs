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
//! - *A transfer asks for votes inside the lease.* From the moment when openraft takes the request to
//!   hand over, it gives no read index any more in that term.
//! - *A new leader lacks what the old one acknowledged.* A read waits until the leader has applied an
//!   entry of its own term, and all that is committed: a follower may have shown that already.
//!
//! **Guarantees.** A read of a table that has applied [`super::Consensus::lease_index`] shows every
//! write that any node acknowledged, and everything that any read at `linearizable` or `lease` had
//! shown, before the index was asked for.
//!
//! **Does not guarantee** anything where a clock runs twice as fast as another, or stands still while
//! the machine is suspended: linearizable reads rest on no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::LinearizerOption;

use super::leadership::{Leadership, may_stand};
use crate::planted::{self, Bug};
use crate::runtime::Runtime;

/// Which part of a lease its leader trusts: the rest is for clocks that run at other rates.
const TRUSTED_PART: u32 = 2;

/// How openraft is to vouch for a read by the lease of this length: at once, or not at all.
pub(super) fn by_lease(lease: Duration) -> LinearizerOption {
    let part = if planted::is(Bug::LeaseUnderClockDrift) { 1 } else { TRUSTED_PART };
    LinearizerOption::new(Some(lease / part), false).with_wait_timeout(Duration::ZERO)
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
