//! Replacing the rows of a running node by those of a snapshot.
//!
//! **Why openraft is told last.** openraft takes a snapshot as one step: until it is installed, a node
//! answers nobody, neither a vote nor a heartbeat. For a large table that is minutes, in which a group of
//! three that loses another node has no leader, not even for reads. So the receiver has the rows
//! replaced first, at a rate that leaves requests their room, while openraft goes on; entries that openraft
//! would apply meanwhile wait, and the rows are then replaced as fast as they can be. Then openraft is told of a snapshot that is there already.
//!
//! **Why that is safe.** A snapshot holds committed entries alone, whoever sent it, and replaces fewer of
//! them: one that is no newer than the table is not installed. Entries that the table holds already are
//! passed over when openraft, or a later leader, comes to them. A crash in the middle is what
//! [`super::installation`] recovers from; after it the table may end beyond the log, as it may after a
//! crash within openraft's own step, and openraft closes the gap as it starts. It cannot close it
//! where the log ends at or after the snapshot's entry with others than the leader's: there the receiver
//! leaves the whole step to openraft, which cuts the log first.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard as AsyncMutexGuard;

use super::apply::MachineState;
use super::codec;
use super::installation::{Installation, Step};
use super::snapshot::{self, Manifest};
use super::state_machine::{Machine, Seen, index_of};
use crate::runtime::flag::Flag;
use crate::runtime::pace::Pace;

impl Machine {
    /// Replaces the rows by those that were received, unless the table holds as much. Where that
    /// fails the table is incomplete, and nothing can be applied to it any more.
    pub(super) async fn install(
        self: &Arc<Machine>,
        manifest: Manifest,
        haste: &Flag,
    ) -> io::Result<()> {
        let _rows = self.rows.lock().await;
        self.check_whole()?;
        if manifest.group.applied <= self.applied() {
            let disk = self.disk.clone();
            return self.runtime.blocking(move || snapshot::discard(&*disk)).await;
        }
        let (machine, received) = (self.clone(), manifest.clone());
        let begin = move || {
            {
                // A capture is taken before this or refused after it.
                let _state = machine.state.lock();
                machine.installs.fetch_add(1, Ordering::SeqCst);
            }
            let (table, disk) = (machine.table.clone(), machine.disk.clone());
            Installation::begin(table, disk, received, machine.orders_data)
        };
        let mut work = self.runtime.blocking(begin).await?;
        let mut pace = Pace::new(self.snapshot_bytes_per_s, self.runtime.now());
        loop {
            let step = move || {
                let step = work.step();
                (work, step)
            };
            let (rest_of_it, step) = self.runtime.blocking(step).await;
            match step? {
                Step::Done(loaded) => {
                    self.installed(&manifest, *loaded);
                    return Ok(());
                }
                Step::More(bytes) => {
                    pace.charge(bytes, self.runtime.now());
                    let in_haste = || haste.is_set() || self.rows_awaited.is_set();
                    pace.rest(&self.runtime, in_haste).await;
                }
            }
            work = rest_of_it;
        }
    }

    /// Holds the rows for a batch that is to be applied. Whoever replaces them makes haste meanwhile:
    /// openraft queues a bounded number of batches, and then answers nobody.
    pub(super) async fn hold_rows(&self) -> AsyncMutexGuard<'_, ()> {
        if let Ok(rows) = self.rows.try_lock() {
            return rows;
        }
        let _awaited = self.rows_awaited.raise();
        self.rows.lock().await
    }

    /// An error where the rows were being replaced and that failed. Asked while the rows are held.
    pub(super) fn check_whole(&self) -> io::Result<()> {
        match self.is_installing() {
            true => Err(codec::invalid("the table is incomplete", "a snapshot was not installed")),
            false => Ok(()),
        }
    }

    fn installed(&self, manifest: &Manifest, loaded: MachineState) {
        let (index, members) = (index_of(&loaded.group), loaded.group.members());
        let layout = loaded.group.layout.clone();
        *self.seen.lock() = Seen::of(&loaded);
        *self.state.lock() = loaded;
        self.metrics.snapshots_installed.inc();
        self.note_checkpoint(manifest.meta());
        self.installs.fetch_add(1, Ordering::SeqCst);
        self.members.send_replace(members);
        self.layout.send_replace(layout);
        self.applied.send_replace(index);
    }
}
