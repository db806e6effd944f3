//! Changing who is of the group while it runs.
//!
//! **Why it exists.** Nodes come, get a vote, leave and are replaced without a stop. A node is added
//! as a learner, which is sent everything and counts for nothing; once it has caught up it is given
//! a vote. Voters change through a joint configuration, in which majorities of the old and of the
//! new voters are both needed (Ongaro, Ousterhout, "In Search of an Understandable Consensus
//! Algorithm", 2014, section 6), so that no two majorities without a common node ever decide.
//!
//! **Guarantees.** One change at a time. A change is answered as done once it is committed, its
//! joint step left, and applied on the leader. A refusal changed nothing. What [`member_rules`] says
//! holds for the membership that the change is made to, not for an older one. A joint configuration
//! that a leader left behind when it died is finished by the next.
//!
//! **Does not guarantee** that a change whose answer is `Unknown` is not made. Asked for again it is
//! done once, since what is so already is left as it is.
//!
//! [`member_rules`]: super::member_rules

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{BasicNode, ChangeMembers};

use super::ask::{AskError, ask};
use super::group::Consensus;
use super::leadership::Leadership;
use super::member_rules::{Step, View, decide};
use super::messages::MembersMessage;
use super::raft_types::{StoredMembership, TypeConfig};
use super::state_machine::Machine;
use crate::error::{MemberError, TransferError};
use crate::peer::{Inbound, Service};
use crate::runtime::{Instant, watch};
use crate::types::{MemberChange, Members, NodeId};

/// How often it is looked again whether the change before is over.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long a node that passed a change on waits until it has applied it itself: who asked there
/// finds there what was done, unless the node lags by more.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// How long a refusal for silence or lag is looked at again before it is given: a leader that has
/// just been elected has not heard from anybody yet, and a busy node is late, not gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a change is passed on: to the leader, and once more where that one hands over first,
/// since it is to leave itself.
const MAX_HOPS: usize = 2;

/// What changing the members needs; shared by the group's handle, what takes peers' requests, and
/// the keeper.
pub(super) struct Membership {
    pub(super) leadership: Arc<Leadership>,
    pub(super) machine: Arc<Machine>,
    /// See [`Membership::turn`].
    turn: tokio::sync::Mutex<()>,
}

/// A try that may be made again.
enum Tried {
    Changed,
    /// Nothing was appended: the membership is not settled, or another one by now.
    NotYet,
}

impl Consensus {
    /// Changes the members, through whoever leads. Answers by `deadline`.
    pub async fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<(), MemberError> {
        let own = &self.membership;
        let mut answer = Err(no_leader("no leader is known"));
        for _ in 0..MAX_HOPS {
            answer = match own.leadership.leads() {
                Some(leader) if leader == own.leadership.node => {
                    own.change_here(&change, deadline).await
                }
                Some(leader) => own.ask(leader, &change, deadline).await,
                None => return Err(no_leader("no leader is known")),
            };
            match &answer {
                Err(MemberError::HandedOver { to }) => {
                    // Where it is not known here in time, the leader that is asked will say so.
                    let _ = own.leadership.known_here(*to, deadline).await;
                }
                Ok(()) => {
                    own.machine.see(&change, own.leadership.runtime.now() + SEEN_WITHIN).await;
                    return answer;
                }
                Err(_) => return answer,
            }
        }
        answer
    }

    /// How many voters and learners the group has.
    pub fn nodes(&self) -> usize {
        self.machine.nodes()
    }

    /// Who is of the group, as it is applied here, and as it changes.
    pub fn watch_members(&self) -> watch::Receiver<Members> {
        self.machine.watch_members()
    }
}

impl Membership {
    pub(super) fn new(leadership: Arc<Leadership>, machine: Arc<Machine>) -> Membership {
        Membership { leadership, machine, turn: tokio::sync::Mutex::new(()) }
    }

    /// Held while the members, or the layout, are changed on this node.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    async fn ask(
        &self,
        leader: NodeId,
        change: &MemberChange,
        deadline: Instant,
    ) -> Result<(), MemberError> {
        let transport = &*self.leadership.transport;
        let question: &MembersMessage = change;
        let answer = ask(transport, leader, Service::ChangeMembers, question, deadline).await;
        answer.unwrap_or_else(|error| match error {
            AskError::NotAsked(reason) => Err(MemberError::NoLeader { reason }),
            AskError::Unknown(reason) => Err(MemberError::Unknown { reason }),
        })
    }

    /// Answers another node that passed a change on.
    pub(super) async fn answer(&self, change: MemberChange, inbound: Inbound) {
        let own = &self.leadership;
        let answer = match own.leads() {
            Some(leader) if leader == own.node => self.change_here(&change, inbound.deadline).await,
            _ => Err(no_leader(&format!("node {} does not lead any more", own.node))),
        };
        super::inbound::answer(inbound.reply, &answer);
    }

    /// Makes a change; this node leads.
    async fn change_here(
        &self,
        change: &MemberChange,
        deadline: Instant,
    ) -> Result<(), MemberError> {
        let runtime = &self.leadership.runtime;
        let Some(_turn) = runtime.deadline(deadline, self.turn.lock()).await else {
            return Err(MemberError::InProgress);
        };
        let patient_until = (runtime.now() + PATIENCE).min(deadline);
        while runtime.now() < deadline {
            let Some(now) = self.settled(deadline).await? else {
                runtime.sleep(LOOK_AGAIN).await;
                continue;
            };
            let step = match self.decide(change) {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::HandOverFirst) => return Err(self.hand_over(change, deadline).await),
                Ok(Step::Change(step)) => step,
                Err(error) if may_pass(&error) && runtime.now() < patient_until => {
                    runtime.sleep(LOOK_AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            tracing::info!(node = %self.leadership.node, %step, "changes the members");
            match self.propose(step, &now, deadline).await? {
                Tried::Changed => {
                    self.leadership.metrics.membership_changes.inc();
                    return Ok(());
                }
                Tried::NotYet => runtime.sleep(LOOK_AGAIN).await,
            }
        }
        Err(MemberError::InProgress)
    }

    fn decide(&self, change: &MemberChange) -> Result<Step, MemberError> {
        let own = &self.leadership;
        let standing = own.standing();
        let members = self.machine.watch_members().borrow().clone();
        decide(
            change,
            &View {
                leader: own.node,
                fixed: own.fixed,
                members: &members,
                trouble: &|node| standing.matched(node).err(),
                there: &|node| standing.is_there(node),
                holds: &|node| self.holds_partitions(node, standing.is_there(node)),
            },
        )
    }

    /// The membership, once it is committed, not joint, and what this node has applied; `None` where
    /// that is not so yet. A joint one is finished first.
    async fn settled(&self, deadline: Instant) -> Result<Option<StoredMembership>, MemberError> {
        let effective = self.effective();
        if *effective.log_id() != self.machine.membership_log_id() {
            return Ok(None);
        }
        let applied = self.machine.applied().map_or(0, |applied| applied.index);
        let last = self.leadership.standing().metrics().last_log_index.unwrap_or(0);
        if !self.machine.orders_data && applied < last {
            // A change of the layout may be among what is not applied: who is to hold partitions stays.
            return Ok(None);
        }
        if effective.get_joint_config().len() > 1 {
            self.finish_joint(&effective, deadline).await?;
            return Ok(None);
        }
        Ok(Some(effective))
    }

    fn effective(&self) -> StoredMembership {
        let standing = self.leadership.standing();
        StoredMembership::clone(&standing.metrics().membership_config)
    }

    /// Leaves the joint configuration that a leader which died has left behind.
    async fn finish_joint(
        &self,
        joint: &StoredMembership,
        deadline: Instant,
    ) -> Result<(), MemberError> {
        tracing::info!(node = %self.leadership.node, "finishes a change of the members");
        // Nobody beyond those that the change was about.
        let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.propose(nobody, joint, deadline).await.map(|_| ())
    }

    /// Finishes a joint configuration, where there is one and no change is under way here.
    pub(super) async fn keep(&self, deadline: Instant) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        let effective = self.effective();
        let applied = *effective.log_id() == self.machine.membership_log_id();
        if applied && effective.get_joint_config().len() > 1 {
            // Where it failed it is tried again.
            let _ = self.finish_joint(&effective, deadline).await;
        }
    }

    async fn propose(
        &self,
        step: ChangeMembers<NodeId, BasicNode>,
        now: &StoredMembership,
        deadline: Instant,
    ) -> Result<Tried, MemberError> {
        // One entry, or two with a joint configuration between them.
        let in_one_step =
            matches!(step, ChangeMembers::AddNodes(_) | ChangeMembers::RemoveNodes(_));
        let seen: Precondition<TypeConfig> =
            Precondition::LastMembershipLogId { last_membership_log_id: *now.log_id() };
        let raft = &self.leadership.raft;
        let changed = raft.change_membership_if(step, false, [seen]);
        let changed = self.leadership.runtime.deadline(deadline, Box::pin(changed)).await;
        let unknown = |reason: String| Err(MemberError::Unknown { reason });
        match changed {
            None => unknown("it was not committed in time".to_owned()),
            Some(Ok(_)) => Ok(Tried::Changed),
            Some(Err(RaftError::APIError(error))) => match error {
                ClientWriteError::PreconditionFailed(_) => Ok(Tried::NotYet),
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ) => Ok(Tried::NotYet),
                // The first of two entries may be in the log when this says so of the second.
                ClientWriteError::ForwardToLeader(_) if in_one_step => {
                    Err(no_leader("this node leads no more"))
                }
                error => unknown(error.to_string()),
            },
            Some(Err(RaftError::Fatal(fatal))) => unknown(fatal.to_string()),
        }
    }

    /// Lets another node lead, before this one leaves; gives what the caller is told then.
    async fn hand_over(&self, change: &MemberChange, deadline: Instant) -> MemberError {
        let leader = self.leadership.node;
        tracing::info!(node = %leader, ?change, "hands over, since it is to leave");
        match self.leadership.transfer_here(None, deadline).await {
            Ok(to) | Err(TransferError::Elsewhere { leader: to, .. }) => {
                MemberError::HandedOver { to }
            }
            Err(error) => MemberError::LeaderStays { leader, reason: error.to_string() },
        }
    }
}

/// Whether a little time may be all that is missing.
fn may_pass(error: &MemberError) -> bool {
    matches!(error, MemberError::LosesQuorum { .. } | MemberError::Behind { .. })
}

fn no_leader(reason: &str) -> MemberError {
    MemberError::NoLeader { reason: reason.to_owned() }
}
