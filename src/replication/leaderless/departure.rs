//! What a node keeps of partitions that it holds no longer: brought to those that do, and dropped.
//!
//! **Guarantees.** Rows are dropped only after a comparison with each replica that the partition has now
//! ended with all that this node has there, or newer, and only while the layout that says so stands.
//! Nothing is dropped while a change is under way: it may be taken back. Once nothing is left the control
//! plane is told, which lets nobody remove the node before, nor forget a deletion that it may have missed: a
//! checkpoint comes first, so that no crash brings back what was dropped.
//!
//! **Why it compares again.** What a node proves when it takes a partition over is that it has what every
//! quorum of the old replicas has. A write that asked for less than the usual quorum may lie on one old
//! replica alone; here it is brought along.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::comparison::{Comparison, Scope};
use super::view::View;
use crate::planted::{self, Bug};
use crate::storage::rows;
use crate::storage::table::{TableBatch, TableError};
use crate::types::{Epoch, NodeId, Partition};

/// How often it is looked whether there is something to drop; where somebody who is to be brought it cannot
/// be reached, less and less often, up to [`SELDOM`].
const LOOK: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);

/// Rows that are dropped in one batch of the table: no request is served meanwhile.
const BATCH: usize = 128;

/// The pause between two batches: other work on the table comes first.
const PAUSE: Duration = Duration::from_millis(2);

/// What was done under one layout.
struct Departure {
    epoch: Epoch,
    /// Which partition was brought whole to whom.
    brought: BTreeSet<(Partition, NodeId)>,
    /// Whether nothing was left over: nothing comes to be under the same layout.
    is_over: bool,
    /// Whether rows were dropped, by this departure or one before, that a crash may bring back.
    dropped: bool,
    pause: Duration,
}

/// Looks after departures for as long as the node runs; ends where the table fails.
pub(super) async fn run(core: Arc<Core>) -> TableError {
    let mut departure = Departure::new(Epoch(0), false);
    loop {
        core.runtime.sleep(LOOK).await;
        let view = core.view();
        if !view.stands() || core.settled_epoch() != view.epoch {
            continue;
        }
        if departure.epoch != view.epoch {
            departure = Departure::new(view.epoch, departure.dropped);
        }
        if departure.is_over {
            core.say_departed(view.epoch).await;
            continue;
        }
        if let Err(error) = departure.go_on(&core, &view).await {
            return error;
        }
        let pause = departure.pause.saturating_sub(LOOK);
        // A layout that changes meanwhile is looked at at once.
        let changed = core.active.changed.notified();
        let _ = core.runtime.deadline(core.runtime.now() + pause, changed).await;
    }
}

impl Departure {
    fn new(epoch: Epoch, dropped: bool) -> Departure {
        Departure { epoch, brought: BTreeSet::new(), is_over: false, dropped, pause: LOOK }
    }

    async fn go_on(&mut self, core: &Arc<Core>, view: &View) -> Result<(), TableError> {
        let left = core.left_over(view).await?;
        if left.is_empty() {
            if std::mem::take(&mut self.dropped) && !planted::is(Bug::DroppedForNow) {
                let table = core.table.clone();
                core.runtime.blocking(move || table.checkpoint()).await?;
            }
            self.is_over = true;
            return Ok(());
        }
        // Who comes back after a restart has no trees of them.
        left.iter().for_each(|partition| core.replica.build_tree(*partition));
        let before = self.brought.len();
        let takers: BTreeSet<NodeId> =
            left.iter().flat_map(|partition| view.old_replicas(*partition)).copied().collect();
        for peer in takers.into_iter().filter(|peer| core.peers.is_connected(*peer)) {
            self.bring(core, view, &left, peer).await;
        }
        for partition in left {
            let takers = view.old_replicas(partition);
            if !takers.iter().all(|peer| self.brought.contains(&(partition, *peer))) {
                continue;
            }
            self.dropped = true;
            if !core.drop_rows(view.epoch, partition).await? {
                return Ok(());
            }
        }
        let came_further = self.brought.len() > before;
        self.pause = if came_further { LOOK } else { (self.pause * 2).min(SELDOM) };
        Ok(())
    }

    /// Brings a node what it lacks of what is left over and was not brought to it yet.
    async fn bring(&mut self, core: &Arc<Core>, view: &View, left: &[Partition], peer: NodeId) {
        let lacks = |partition: &&Partition| {
            view.holds(peer, **partition) && !self.brought.contains(&(**partition, peer))
        };
        let partitions: BTreeSet<Partition> = left.iter().filter(lacks).copied().collect();
        if partitions.is_empty() {
            return;
        }
        let comparison = Comparison::new(core, peer, false)
            .of(partitions.clone(), view.epoch)
            .everything()
            .giving_alone();
        match comparison.run(&mut Default::default()).await {
            Ok(Scope::Whole) => self.brought.extend(partitions.into_iter().map(|it| (it, peer))),
            Ok(Scope::Part) => {}
            Err(reason) => {
                tracing::debug!(%peer, %reason, "what was left is not brought to it yet")
            }
        }
    }
}

impl Core {
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

    /// Drops a partition's rows; false where the layout changed meanwhile.
    async fn drop_rows(
        self: &Arc<Core>,
        epoch: Epoch,
        partition: Partition,
    ) -> Result<bool, TableError> {
        loop {
            let core = self.clone();
            let batch = move || -> Result<Option<bool>, TableError> {
                let (from, to) = rows::partition_range(partition);
                let rows = core.table.scan_keys(&from, &to, BATCH)?;
                let more = rows.len() == BATCH;
                let mut batch = TableBatch::default();
                for row in rows {
                    rows::collectable_row(&row).into_iter().for_each(|row| batch.remove(row));
                    batch.remove(row);
                }
                // Held meanwhile, so that nobody gives the partition back in the middle of it.
                let Ok(_held) = core.hold(epoch) else { return Ok(None) };
                core.trees.forget(partition);
                core.table.apply(batch)?;
                Ok(Some(more))
            };
            match self.runtime.blocking(batch).await? {
                Some(true) => self.runtime.sleep(PAUSE).await,
                Some(false) => return Ok(true),
                None => return Ok(false),
            }
        }
    }
}
