//! Who leads on purpose: handing leadership over, and the leader that is fixed.
//!
//! **Why it exists.** An operator moves the leader, and a leader that is to be stopped names its
//! successor first: an election that nobody planned costs an election timeout, one that the leader
//! asks for costs a round trip and a sync. Where `leader.fixed_leader` names a node, that node leads
//! and no other ever does, as in the simplest single-leader architecture.
//!
//! **Guarantees.** A transfer is answered as done only once this node knows the target to lead. A
//! refusal changed nothing. With a fixed leader the others neither stand nor vote for one another,
//! so that no majority that holds the setting can elect another.
//!
//! **How it passes pre-vote and leases.** The target's request for votes says that the leader itself
//! asked for the election, and is granted inside the leader's lease (Ongaro, "Consensus: Bridging
//! Theory and Practice", 2014, sections 3.10 and 4.2.3). The leader takes no proposal from then on.
//!
//! **Does not guarantee** that the target leads in the end: where it does not take over, the leader
//! sends no more heartbeats, and whoever is caught up is elected after an election timeout.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::ask::{AskError, ask};
use super::group::Consensus;
use super::messages::TransferMessage;
use super::raft_types::Raft;
use super::standing::Standing;
use crate::error::TransferError;
use crate::peer::{Inbound, Service, SharedTransport};
use crate::planted::{self, Bug};
use crate::runtime::watch;
use crate::runtime::{Instant, Runtime};
use crate::telemetry::Metrics;
use crate::types::NodeId;

/// How long a transfer may take before its outcome is called unknown; after this an election that
/// nobody planned is over too.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a leader that is to stop looks again for a voter that has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often a node that waits for the target to lead looks at the term too.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// What handing over needs; shared by the group's handle and what takes peers' requests.
pub(super) struct Leadership {
    pub runtime: Runtime,
    pub node: NodeId,
    pub raft: Raft,
    /// The node that leads for ever, where one does.
    pub fixed: Option<NodeId>,
    /// A voter that answered within this time is taken to be there.
    pub heard_within: Duration,
    pub transport: SharedTransport,
    pub leader: watch::Receiver<Option<NodeId>>,
    pub metrics: Metrics,
    /// Whether the node is to stop: it stands in no election from then on.
    stopping: Mutex<bool>,
}

/// Whether `node` may stand for election, and be voted for, where `fixed` is the fixed leader.
pub(super) fn may_stand(fixed: Option<NodeId>, node: NodeId) -> bool {
    fixed.is_none_or(|fixed| fixed == node) || planted::is(Bug::OthersStandBesideFixedLeader)
}

impl Consensus {
    /// Hands leadership over to `to`, or to the voter that has caught up furthest, through whoever
    /// leads. Gives who leads then; answers by `deadline`.
    pub async fn transfer(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, TransferError> {
        let own = &self.leadership;
        let deadline = deadline.min(own.runtime.now() + TRANSFER_TIMEOUT);
        match own.leads() {
            Some(leader) if leader == own.node => own.transfer_here(to, deadline).await,
            Some(leader) => own.ask(leader, to, deadline).await,
            None => Err(TransferError::NoLeader { reason: "no leader is known".to_owned() }),
        }
    }

    /// Makes ready to stop: stands in no election any more and, where this node leads and no leader
    /// is fixed, hands over within `within`. True where another node took over.
    pub async fn hand_over(&self, within: Duration) -> bool {
        let own = &self.leadership;
        own.stop_standing();
        if own.is_the_only_voter() {
            return false;
        }
        let deadline = own.runtime.now() + within;
        while own.leads() == Some(own.node) && own.runtime.now() < deadline {
            match own.transfer_here(None, deadline).await {
                Ok(leader) => {
                    own.metrics.hand_overs_at_stop.inc();
                    tracing::info!(%leader, "handed leadership over before stopping");
                    return true;
                }
                Err(TransferError::NoTarget { .. }) => own.runtime.sleep(LOOK_AGAIN).await,
                Err(error) => {
                    tracing::info!(%error, "leadership is not handed over before stopping");
                    return false;
                }
            }
        }
        false
    }
}

impl Leadership {
    pub(super) fn leads(&self) -> Option<NodeId> {
        *self.leader.borrow()
    }

    /// Whether this node is known to be the group's only voter, so that nobody could take over however
    /// long one waits.
    pub(super) fn is_the_only_voter(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.next() == Some(self.node) && voters.next().is_none()
    }

    /// Lets this node stand in elections, unless it is to stop.
    pub(super) fn stand(&self) {
        let stopping = self.stopping.lock();
        self.raft.runtime_config().elect(!*stopping);
    }

    /// Stands in no election any more.
    fn stop_standing(&self) {
        let mut stopping = self.stopping.lock();
        *stopping = true;
        self.raft.runtime_config().elect(false);
    }

    /// Passes a transfer on to the leader.
    async fn ask(
        &self,
        leader: NodeId,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, TransferError> {
        let question = TransferMessage::Ask { to };
        let service = Service::RaftTransfer;
        let answer = ask(&*self.transport, leader, service, &question, deadline).await;
        let answer: Result<NodeId, TransferError> = answer.map_err(|error| match error {
            AskError::NotAsked(reason) => TransferError::NoLeader { reason },
            AskError::Unknown(reason) => TransferError::Unknown { reason },
        })?;
        self.known_here(answer?, deadline).await
    }

    /// Waits until this node knows `target` to lead: who asked here must find here what it is told.
    pub(super) async fn known_here(
        &self,
        target: NodeId,
        deadline: Instant,
    ) -> Result<NodeId, TransferError> {
        let mut leader = self.leader.clone();
        let known = async { leader.wait_for(|leader| *leader == Some(target)).await.is_ok() };
        if self.runtime.deadline(deadline, known).await == Some(true) {
            return Ok(target);
        }
        let reason = format!("node {target} took over, but this node has not heard from it");
        Err(TransferError::Unknown { reason })
    }

    /// Answers another node that passed a transfer on.
    pub async fn answer(&self, to: Option<NodeId>, inbound: Inbound) {
        let answer = match self.leads() {
            Some(leader) if leader == self.node => self.transfer_here(to, inbound.deadline).await,
            _ => {
                let reason = format!("node {} does not lead any more", self.node);
                Err(TransferError::NoLeader { reason })
            }
        };
        super::inbound::answer(inbound.reply, &answer);
    }

    /// Hands over; this node leads.
    pub(super) async fn transfer_here(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, TransferError> {
        if let Some(fixed) = self.fixed {
            return Err(TransferError::Fixed { fixed });
        }
        if to == Some(self.node) {
            return Ok(self.node);
        }
        let target = self.target(to)?;
        let term = self.raft.metrics().borrow_watched().current_term;
        tracing::info!(node = %self.node, %target, "hands leadership over");
        self.raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|fatal| TransferError::NoLeader { reason: fatal.to_string() })?;
        if planted::is(Bug::TransferAnsweredAtOnce) {
            return Ok(target);
        }
        let leader = self.next_leader(term, deadline).await;
        match leader {
            Some(leader) if leader == target => {
                self.metrics.leadership_transfers.inc();
                self.known_here(target, deadline).await
            }
            Some(leader) => Err(TransferError::Elsewhere { target, leader }),
            None => {
                let reason =
                    format!("node {target} was asked to lead, and did not say that it does");
                Err(TransferError::Unknown { reason })
            }
        }
    }

    /// Waits until a node leads in a later term than `term`; `None` where none did by `deadline`.
    async fn next_leader(&self, term: u64, deadline: Instant) -> Option<NodeId> {
        let mut leader = self.leader.clone();
        loop {
            {
                let metrics = self.raft.metrics();
                let now = metrics.borrow_watched();
                if now.current_term > term && now.current_leader.is_some() {
                    return now.current_leader;
                }
            }
            if self.runtime.now() >= deadline {
                return None;
            }
            let soon = deadline.min(self.runtime.now() + CHECK_EVERY);
            // Whether one was told in time or not, what is known now is looked at. Once nobody is left to tell,
            // as where the node stops meanwhile, there is nothing to wait for.
            if let Some(Err(_)) = self.runtime.deadline(soon, leader.changed()).await {
                return None;
            }
        }
    }

    /// How the others stand, where this node leads.
    pub(super) fn standing(&self) -> Standing {
        Standing::of(&self.raft, self.node, self.heard_within)
    }

    /// Who takes over: `to` where it may, else the voter that has caught up furthest.
    fn target(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let standing = self.standing();
        let membership = standing.metrics().membership_config.membership();
        let voters = || membership.voter_ids();
        if let Some(node) = to {
            if voters().any(|voter| voter == node) {
                return match standing.matched(node) {
                    Ok(_) => Ok(node),
                    Err(reason) => Err(TransferError::Behind { node, reason }),
                };
            }
            return Err(match membership.learner_ids().any(|learner| learner == node) {
                true => TransferError::NotVoter { node },
                false => TransferError::UnknownNode { node, voters: voters().collect() },
            });
        }
        let others = voters().filter(|id| *id != self.node);
        let ready = others.filter_map(|id| Some((standing.matched(id).ok()?, Reverse(id))));
        let furthest = ready.max().map(|(_, Reverse(id))| id);
        furthest.ok_or(TransferError::NoTarget { leader: self.node })
    }
}

/// The parts of a group that handing over needs.
pub(super) fn leadership(
    options: &super::ConsensusOptions,
    raft: Raft,
    leader: watch::Receiver<Option<NodeId>>,
) -> Arc<Leadership> {
    Arc::new(Leadership {
        runtime: options.runtime.clone(),
        node: options.node,
        stopping: Mutex::new(false),
        raft,
        fixed: options.settings.fixed_leader,
        heard_within: options.settings.election_timeout_min,
        transport: options.transport.clone(),
        leader,
        metrics: options.metrics.clone(),
    })
}
