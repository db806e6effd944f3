//! Sending hints to the replicas that they are for, once those are back.
//!
//! One page at a time goes to each replica, and with comparisons no more than
//! `leaderless.repair_bytes_per_s`: a replica that comes back has requests to serve. A hint stays until it was taken.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::gather::{Arrival, Gathering};
use super::hints::Hint;
use super::horizons::is_too_old;
use super::messages::StoredWrite;
use super::tally::Taken;
use crate::storage::table::TableError;
use crate::types::NodeId;

/// How often it is looked whether there is somebody to send hints to.
const LOOK: Duration = Duration::from_millis(250);

/// How long a replica may take for a page of hints.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends hints for as long as the node runs; ends where the table fails.
pub(super) async fn run(core: Arc<Core>) -> TableError {
    loop {
        let mut sent = false;
        // A page each in turn.
        for node in core.hints.receivers() {
            let view = core.view();
            if view.stands() && !view.nodes.contains(&node) {
                // It holds nothing any more, and may never be seen again.
                match core.drop_hints(node) {
                    Ok(dropped) => sent |= dropped,
                    Err(error) => return error,
                }
                continue;
            }
            if core.peers.is_connected(node) && core.hints.bytes_for(node) > 0 {
                match core.send_hints(node).await {
                    Ok(all) => sent |= all,
                    Err(error) => return error,
                }
            }
        }
        if !sent {
            core.runtime.sleep(LOOK).await;
        }
    }
}

impl Core {
    /// Drops a page of hints; whether there was one.
    fn drop_hints(&self, to: NodeId) -> Result<bool, TableError> {
        let hints = self.hints.page(to)?;
        self.hints.arrived(&hints)?;
        self.metrics.hints_dropped.inc_by(hints.len() as u64);
        Ok(!hints.is_empty())
    }

    /// Sends a page of hints; whether all of it was taken.
    async fn send_hints(&self, to: NodeId) -> Result<bool, TableError> {
        let hints = self.hints.page(to)?;
        if hints.is_empty() {
            // What is counted is not in the table yet.
            return Ok(false);
        }
        let view = self.view();
        let (hints, strays): (Vec<Hint>, Vec<Hint>) =
            hints.into_iter().partition(|hint| view.holds(to, hint.key.partition()));
        if !strays.is_empty() {
            // It holds them no longer: whoever does was brought them when the layout changed.
            self.hints.arrived(&strays)?;
            self.metrics.hints_dropped.inc_by(strays.len() as u64);
        }
        let began = self.begin_repair();
        let sent: Vec<(Hint, Gathering<Taken>)> = hints
            .into_iter()
            .map(|hint| {
                let gathering = Gathering::new(None);
                let slot = gathering.slot(to);
                let deadline = began + TIMEOUT;
                let (key, record) = (hint.key.clone(), hint.record.clone());
                let write = StoredWrite { key, record, survived_ms: None };
                self.send_write(write, view.epoch, deadline, slot);
                (hint, gathering)
            })
            .collect();
        let (mut taken, mut too_old, mut bytes, all) = (Vec::new(), Vec::new(), 0, sent.len());
        for (hint, gathering) in sent {
            let answer = self.runtime.deadline(began + TIMEOUT, gathering.next(1)).await;
            let Some(Arrival { result, .. }) = answer.and_then(|mut arrived| arrived.pop()) else {
                continue;
            };
            match result {
                Ok(_) => {
                    bytes += hint.record.len() as u64;
                    taken.push(hint);
                }
                // Comparisons are about to bring it what others have of that time, if they did not yet.
                Err(error) if is_too_old(&error) => too_old.push(hint),
                Err(_) => {}
            }
        }
        self.hints.arrived(&taken)?;
        self.hints.arrived(&too_old)?;
        self.metrics.hints_sent.inc_by(taken.len() as u64);
        self.metrics.hints_dropped.inc_by(too_old.len() as u64);
        self.rest_for(bytes).await;
        Ok(taken.len() + too_old.len() == all)
    }
}
