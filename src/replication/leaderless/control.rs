//! What leaderless mode needs of the control plane: a seam, so that it can be tested without a group.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use crate::consensus::{Consensus, ConsensusStatus};
use crate::error::{LayoutError, MemberError};
use crate::runtime::{Instant, watch};
use crate::types::{Epoch, LayoutCommand, LayoutState, MemberChange};

/// How long the control plane's log may take to be cut at a checkpoint.
const COMPACT_TIMEOUT: Duration = Duration::from_secs(30);

/// What leaderless mode needs of the control plane. The data path never touches it.
pub trait ControlPlane: Send + Sync + 'static {
    /// The group as this node sees it.
    fn status(&self) -> ConsensusStatus;
    /// Lets the group release the log that it needs no more; the table was made durable before.
    fn compact(&self) -> BoxFuture<'_, Result<(), String>>;
    /// Which nodes hold which partitions, as it is applied here, and as it changes.
    fn watch_layout(&self) -> watch::Receiver<Option<Arc<LayoutState>>>;
    /// Changes that, through whoever leads.
    fn change_layout(
        &self,
        command: LayoutCommand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Epoch, LayoutError>>;
    /// Changes who is of the group, through whoever leads.
    fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), MemberError>>;
}

impl ControlPlane for Consensus {
    fn status(&self) -> ConsensusStatus {
        Consensus::status(self)
    }

    fn compact(&self) -> BoxFuture<'_, Result<(), String>> {
        Consensus::release_log(self, COMPACT_TIMEOUT).boxed()
    }

    fn watch_layout(&self) -> watch::Receiver<Option<Arc<LayoutState>>> {
        Consensus::watch_layout(self)
    }

    fn change_layout(
        &self,
        command: LayoutCommand,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Epoch, LayoutError>> {
        Consensus::change_layout(self, command, deadline).boxed()
    }

    fn change_members(
        &self,
        change: MemberChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), MemberError>> {
        Consensus::change_members(self, change, deadline).boxed()
    }
}
