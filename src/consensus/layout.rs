//! Changing which nodes hold which partitions, in leaderless mode: through whoever leads the control plane.
//!
//! **Guarantees.** A change that is answered is committed and applied on the leader. A refusal changed
//! nothing; what it says was decided in log order, so that of two changes at once one is refused.
//!
//! **Does not guarantee** that a change whose answer is `Unknown` is not made. What is done, when every
//! node has what a step asks for, is the layout's own affair ([`LayoutState`]).

use std::sync::Arc;

use super::ask::{AskError, ask};
use super::group::{Consensus, propose};
use super::membership::Membership;
use super::raft_types::Proposal;
use super::{Applied, Command, Control, ProposeError};
use crate::error::{LayoutError, MemberError};
use crate::peer::{Inbound, Service};
use crate::runtime::{Instant, watch};
use crate::types::{Epoch, LayoutCommand, LayoutState, NodeId};

impl Consensus {
    /// Changes the layout, through whoever leads; gives the epoch that it has then. Answers by `deadline`.
    pub async fn change_layout(
        &self,
        command: LayoutCommand,
        deadline: Instant,
    ) -> Result<Epoch, LayoutError> {
        let own = &self.membership;
        match own.leadership.leads() {
            Some(leader) if leader == own.leadership.node => {
                own.change_layout_here(command, deadline).await
            }
            Some(leader) => own.ask_for_layout(leader, &command, deadline).await,
            None => Err(LayoutError::NoLeader { reason: "no leader is known".to_owned() }),
        }
    }

    /// Which nodes hold which partitions, as it is applied here, and as it changes; `None` before it was
    /// founded, and in leader mode.
    pub fn watch_layout(&self) -> watch::Receiver<Option<Arc<LayoutState>>> {
        self.machine.layout.subscribe()
    }
}

impl Membership {
    async fn ask_for_layout(
        &self,
        leader: NodeId,
        command: &LayoutCommand,
        deadline: Instant,
    ) -> Result<Epoch, LayoutError> {
        let transport = &*self.leadership.transport;
        let answer = ask(transport, leader, Service::ChangeLayout, command, deadline).await;
        answer.unwrap_or_else(|error| match error {
            AskError::NotAsked(reason) => Err(LayoutError::NoLeader { reason }),
            AskError::Unknown(reason) => Err(LayoutError::Unknown { reason }),
        })
    }

    /// Answers another node that passed a change of the layout on.
    pub(super) async fn answer_layout(&self, command: LayoutCommand, inbound: Inbound) {
        let own = &self.leadership;
        let answer = match own.leads() {
            Some(leader) if leader == own.node => {
                self.change_layout_here(command, inbound.deadline).await
            }
            _ => {
                let reason = format!("node {} does not lead any more", own.node);
                Err(LayoutError::NoLeader { reason })
            }
        };
        super::inbound::answer(inbound.reply, &answer);
    }

    /// Changes the layout; this node leads.
    async fn change_layout_here(
        &self,
        command: LayoutCommand,
        deadline: Instant,
    ) -> Result<Epoch, LayoutError> {
        let own = &self.leadership;
        // Not beside a change of the members: who is removed is to hold nothing.
        let Some(_turn) = own.runtime.deadline(deadline, self.turn()).await else {
            let reason = "a change of the members is under way".to_owned();
            return Err(LayoutError::NoLeader { reason });
        };
        let unknown = |reason: String| LayoutError::Unknown { reason };
        let command = Command::Control(Control::Layout(command));
        let proposal = Proposal::encode(&command).map_err(|error| unknown(error.to_string()))?;
        match propose(&own.runtime, &own.raft, proposal, deadline).await {
            Ok(Applied::Layout(changed)) => changed.map_err(LayoutError::Refused),
            Ok(Applied::Nothing | Applied::Data(_)) => Err(unknown("it gave no epoch".to_owned())),
            Err(ProposeError::NotAppended { reason, .. }) => Err(LayoutError::NoLeader { reason }),
            Err(ProposeError::Unknown { reason }) => Err(unknown(reason)),
        }
    }

    /// Why a node must not leave: it holds partitions, or is to, or has not brought all that it had of
    /// others to those who hold them. One that does not answer is not waited for, since it may be gone.
    pub(super) fn holds_partitions(&self, node: NodeId, is_there: bool) -> Option<MemberError> {
        if self.machine.orders_data {
            return None;
        }
        let layout = self.machine.layout.borrow();
        let Some(layout) = layout.as_ref() else {
            return Some(MemberError::HoldsPartitions { node });
        };
        match layout.nodes().contains(&node) {
            true => Some(MemberError::HoldsPartitions { node }),
            false if layout.departing.contains(&node) && is_there => {
                Some(MemberError::Departing { node })
            }
            false => None,
        }
    }
}
