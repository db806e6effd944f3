//! Has records expire: where this node leads, it proposes an entry once the first is due.
//!
//! **Guarantees.** None expires before its time by the leader's clock. Where there is a leader, one does
//! within [`LOOK`] and the time of an entry, or as soon as those due before it have; without a leader
//! none does.

use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::group::Group;
use crate::consensus::Command;

/// How often it is looked whether a record is due.
const LOOK: Duration = Duration::from_millis(100);

/// How long an entry may take, before another is proposed.
const ENTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub async fn run<G: Group>(context: Arc<Context<G>>) {
    loop {
        context.runtime.sleep(LOOK).await;
        while context.group.leader() == Some(context.node) && is_due(&context) {
            let deadline = context.runtime.now() + ENTRY_TIMEOUT;
            let command = Command::Expire { now_ms: context.runtime.wall_ms() };
            if let Err(error) = context.group.propose(command, deadline).await {
                tracing::debug!(%error, "records could not be made to expire yet");
                break;
            }
        }
    }
}

/// Whether a record's time may be over.
fn is_due<G: Group>(context: &Context<G>) -> bool {
    context.group.next_expiry_ms().is_some_and(|at_ms| at_ms <= context.runtime.wall_ms())
}
