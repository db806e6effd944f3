//! How often each fault of a simulated disk really happened: one that never did proves nothing.

/// What happened to a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Syncs of files that succeeded.
    pub syncs: u64,
    /// Syncs, of files and directories, that were made to fail.
    pub failed_syncs: u64,
    pub crashes: u64,
    /// Crashes after which a file did not hold all that was written.
    pub crashes_with_losses: u64,
    /// Writes of which a crash kept the first bytes only.
    pub torn_writes: u64,
    /// Files of which a crash kept later sectors and lost earlier ones, or the other way around.
    pub scattered_writes: u64,
    pub bits_flipped: u64,
    /// Writes and creations that found the disk full.
    pub refused_as_full: u64,
    /// How often the disk was replaced by an empty one.
    pub wipes: u64,
}

impl DiskCounts {
    /// Every count with its name, in a fixed order.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("syncs", self.syncs),
            ("failed_syncs", self.failed_syncs),
            ("crashes", self.crashes),
            ("crashes_with_losses", self.crashes_with_losses),
            ("torn_writes", self.torn_writes),
            ("scattered_writes", self.scattered_writes),
            ("bits_flipped", self.bits_flipped),
            ("refused_as_full", self.refused_as_full),
            ("wipes", self.wipes),
        ]
    }
}
