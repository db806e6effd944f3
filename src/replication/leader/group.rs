//! The seam between leader mode and the Raft group: what this folder asks of `consensus`.
//!
//! It exists so that batching, forwarding and retries can be tried against a group whose failures a
//! test chooses. The contract of each method is the one of [`Consensus`]'s method of that name.

use std::future::Future;
use std::time::Duration;

use crate::consensus::{
    Allegiance, Applied, Command, Consensus, ConsensusStatus, ProposeError, ReadIndexError,
};
use crate::error::{MemberError, TransferError};
use crate::runtime::{Instant, Runtime};
use crate::types::{MemberChange, NodeId};

/// A Raft group as one of its nodes sees it.
pub trait Group: Send + Sync + 'static {
    /// See [`Consensus::propose`].
    fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send;

    /// See [`Consensus::read_index`].
    fn read_index(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, ReadIndexError>> + Send;

    /// See [`Consensus::lease_index`].
    fn lease_index(&self) -> impl Future<Output = Option<u64>> + Send;

    /// See [`Consensus::stands_by`].
    fn stands_by(&self) -> Option<Allegiance>;

    /// See [`Consensus::vouched`].
    fn vouched(&self, word: (NodeId, Allegiance), then: impl FnOnce(Option<u64>) + Send + 'static);

    /// See [`Consensus::wait_applied`].
    fn wait_applied(&self, index: u64, deadline: Instant) -> impl Future<Output = bool> + Send;

    /// See [`Consensus::leader`].
    fn leader(&self) -> Option<NodeId>;

    /// See [`Consensus::leader_change`].
    fn leader_change(
        &self,
        than: Option<NodeId>,
        deadline: Instant,
    ) -> impl Future<Output = Option<NodeId>> + Send;

    /// See [`Consensus::transfer`].
    fn transfer(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> impl Future<Output = Result<NodeId, TransferError>> + Send;

    /// See [`Consensus::change_members`].
    fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), MemberError>> + Send;

    /// See [`Consensus::nodes`].
    fn nodes(&self) -> usize;

    /// See [`Consensus::installs`].
    fn installs(&self) -> Option<u64>;

    /// See [`Consensus::next_expiry_ms`].
    fn next_expiry_ms(&self) -> Option<u64>;

    /// See [`Consensus::status`].
    fn status(&self) -> ConsensusStatus;

    /// See [`Consensus::compact`].
    fn compact(&self, timeout: Duration) -> impl Future<Output = Result<(), String>> + Send;
}

impl Group for Consensus {
    async fn propose(&self, command: Command, deadline: Instant) -> Result<Applied, ProposeError> {
        Consensus::propose(self, command, deadline).await
    }

    async fn read_index(&self, deadline: Instant) -> Result<u64, ReadIndexError> {
        Consensus::read_index(self, deadline).await
    }

    async fn lease_index(&self) -> Option<u64> {
        Consensus::lease_index(self).await
    }

    fn stands_by(&self) -> Option<Allegiance> {
        Consensus::stands_by(self)
    }

    fn vouched(&self, word: (NodeId, Allegiance), then: impl FnOnce(Option<u64>) + Send + 'static) {
        Consensus::vouched(self, word, then);
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        Consensus::wait_applied(self, index, deadline).await
    }

    fn leader(&self) -> Option<NodeId> {
        Consensus::leader(self)
    }

    async fn leader_change(&self, than: Option<NodeId>, deadline: Instant) -> Option<NodeId> {
        Consensus::leader_change(self, than, deadline).await
    }

    async fn transfer(
        &self,
        to: Option<NodeId>,
        deadline: Instant,
    ) -> Result<NodeId, TransferError> {
        Consensus::transfer(self, to, deadline).await
    }

    async fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> Result<(), MemberError> {
        Consensus::change_members(self, change, deadline).await
    }

    fn nodes(&self) -> usize {
        Consensus::nodes(self)
    }

    fn installs(&self) -> Option<u64> {
        Consensus::installs(self)
    }

    fn next_expiry_ms(&self) -> Option<u64> {
        Consensus::next_expiry_ms(self)
    }

    fn status(&self) -> ConsensusStatus {
        Consensus::status(self)
    }

    async fn compact(&self, timeout: Duration) -> Result<(), String> {
        Consensus::compact(self, timeout).await
    }
}

/// Awaits `work`, which `target` is to answer, until `deadline` or until this node knows that
/// another node leads: a leader that was replaced may be cut off, and never answer.
pub async fn while_leading<G: Group, F: Future>(
    group: &G,
    runtime: &Runtime,
    target: NodeId,
    deadline: Instant,
    work: F,
) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = work => Some(output),
        () = another_leads(group, runtime, target, deadline) => None,
    }
}

/// Waits until another node than `target` is known to lead (nobody is not another), or until
/// `deadline`.
async fn another_leads<G: Group>(group: &G, runtime: &Runtime, target: NodeId, deadline: Instant) {
    let mut seen = Some(target);
    while runtime.now() < deadline {
        seen = group.leader_change(seen, deadline).await;
        if seen.is_some_and(|leader| leader != target) {
            return;
        }
    }
}
