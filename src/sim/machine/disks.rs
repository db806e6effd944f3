//! The disks of a machine: its own, and an empty one that takes its place.

use std::time::Duration;

use super::Machine;
use crate::sim::plan::Plan;
use crate::sim::world::Shared;
use crate::storage::disk::SimDisk;

pub(super) fn new_disk(plan: &Plan, seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_sync_delay_range(Duration::from_millis(1), plan.sync);
    disk
}

impl Machine {
    /// Puts an empty disk in place of the machine's own, which may never come back.
    pub fn put_empty_disk(&mut self, plan: &Plan, seed: u64, for_good: bool) {
        if self.own_disk.is_none() {
            self.own_disk = Some(std::mem::replace(&mut self.disk, new_disk(plan, seed)));
            self.lost_for_good = for_good;
        }
    }

    /// The node was refused for its empty disk: puts the machine's own back in its place, where there
    /// still is one; false where the node stays out.
    pub(super) fn leave_empty_disk(&mut self, shared: &Shared) -> bool {
        shared.happened("a wiped node was refused");
        let own = self.own_disk.take().filter(|_| !self.lost_for_good);
        let comes_back = own.is_some();
        if let Some(disk) = own {
            self.disk = disk;
            shared.losses().find(self.id());
        } else {
            shared.happened("a wiped node stayed out");
        }
        comes_back
    }

    /// Whether a sync has failed that was not the reason of a stop yet.
    pub(super) fn take_failed_sync(&mut self) -> bool {
        let failed = self.disk.counts().failed_syncs;
        std::mem::replace(&mut self.failed_syncs_answered, failed) < failed
    }

    /// The machine's disk, and its own where an empty one is in its place.
    fn disks(&self) -> impl Iterator<Item = &SimDisk> {
        std::iter::once(&self.disk).chain(&self.own_disk)
    }

    /// Lets the disk be as quick as it usually is.
    pub fn speed_up_disk(&self) {
        let least = Duration::from_millis(1);
        self.disks().for_each(|disk| disk.set_sync_delay_range(least, self.usual_sync));
    }

    /// Makes room on the disk.
    pub fn free_disk(&self) {
        self.disks().for_each(|disk| disk.set_full(false));
    }
}
