//! What a node keeps of partitions that it holds no longer: brought to those that do, and dropped.
//!
//! **Guarantees.** Rows are dropped only after a comparison with each replica that the partition has now
//! ended with all that this node has there, or newer, and only while the layout that says so stands.
//! Nothing is dropped while a change is under way: it may be taken back.
//!
//! **Why it compares again.** What a node proves when it takes a partition over is that it has what every
//! quorum of the old replicas has. A write that asked for less than the usual quorum may lie on one old
//! replica alone; here it is brought along.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::comparison::{Comparison, Scope};
use super::view::View;
use crate::storage::rows;
use crate::storage::table::{TableBatch, TableError};
use crate::types::{NodeId, Partition};

/// How often it is looked whether there is something to drop.
const LOOK: Duration = Duration::from_secs(1);

/// Rows that are dropped in one batch of the table.
const BATCH: usize = 512;

/// The pause between two batches: other work on the table comes first.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks after departures for as long as the node runs; ends where the table fails.
pub(super) async fn run(core: Arc<Core>) -> TableError {
    // The layout under which nothing was left over: nothing comes to be under the same.
    let mut clean = None;
    loop {
        core.runtime.sleep(LOOK).await;
        let view = core.view();
        let is_settled = view.stands() && core.settled_epoch() == view.epoch;
        if !is_settled || clean == Some(view.epoch) {
            continue;
        }
        match core.depart(&view).await {
            Ok(true) => clean = Some(view.epoch),
            Ok(false) => {}
            Err(error) => return error,
        }
    }
}

impl Core {
    /// Whether nothing was left over.
    async fn depart(self: &Arc<Core>, view: &View) -> Result<bool, TableError> {
        let left = self.left_over(view).await?;
        if left.is_empty() {
            return Ok(true);
        }
        // Who comes back after a restart has no trees of them.
        left.iter().for_each(|partition| self.replica.build_tree(*partition));
        let mut brought = BTreeMap::<Partition, BTreeSet<NodeId>>::new();
        let takers: BTreeSet<NodeId> =
            left.iter().flat_map(|partition| view.old_replicas(*partition)).copied().collect();
        for peer in takers {
            let shared: BTreeSet<Partition> =
                left.iter().copied().filter(|partition| view.holds(peer, *partition)).collect();
            let comparison = Comparison::new(self, peer, false)
                .of(shared.clone(), view.epoch)
                .everything()
                .giving_alone();
            match comparison.run(&mut BTreeMap::new()).await {
                Ok(Scope::Whole) => {
                    for partition in shared {
                        brought.entry(partition).or_default().insert(peer);
                    }
                }
                Ok(Scope::Part) => {}
                Err(reason) => {
                    tracing::debug!(%peer, %reason, "what was left is not brought to it yet");
                }
            }
        }
        for partition in left {
            let all = view.old_replicas(partition).len();
            if brought.get(&partition).is_some_and(|to| to.len() == all) {
                self.drop_rows(view, partition).await?;
            }
        }
        Ok(false)
    }

    /// Partitions of which this node has rows, and that it does not hold.
    async fn left_over(&self, view: &View) -> Result<Vec<Partition>, TableError> {
        let foreign: Vec<Partition> =
            Partition::all().filter(|partition| !view.holds(self.node, *partition)).collect();
        if foreign.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.table.clone();
        let look = move || {
            let mut left = Vec::new();
            for partition in foreign {
                let (from, to) = rows::partition_range(partition);
                if !table.scan_keys(&from, &to, 1)?.is_empty() {
                    left.push(partition);
                }
            }
            Ok(left)
        };
        self.runtime.blocking(look).await
    }

    async fn drop_rows(
        self: &Arc<Core>,
        view: &View,
        partition: Partition,
    ) -> Result<(), TableError> {
        self.trees.forget(partition);
        loop {
            let (core, epoch) = (self.clone(), view.epoch);
            let batch = move || {
                // Held meanwhile, so that nobody gives the partition back in the middle of it.
                let Ok(_held) = core.hold(epoch) else { return Ok(false) };
                let (from, to) = rows::partition_range(partition);
                let rows = core.table.scan_keys(&from, &to, BATCH)?;
                let mut batch = TableBatch::default();
                let more = rows.len() == BATCH;
                rows.into_iter().for_each(|row| batch.remove(row));
                core.table.apply(batch).map(|()| more)
            };
            if !self.runtime.blocking(batch).await? {
                return Ok(());
            }
            self.runtime.sleep(PAUSE).await;
        }
    }
}
