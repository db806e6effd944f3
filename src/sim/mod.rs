//! Simulating: a whole cluster in one thread, in simulated time, from one seed.
//!
//! **Why it exists.** What breaks replicated stores is order and timing, and those cannot be tried
//! again in real processes. Here three nodes run the real node, consensus, replication, storage log
//! and API code on a paused clock, over simulated disks and links in memory. The same seed gives the
//! same trace byte for byte, in any process on any machine.
//!
//! **What a run does.** Clients put and get a few keys through every node while one node, chosen by
//! the seed, crashes (its tasks end wherever they wait, its disk loses and tears what was not
//! synced), stays away, and comes back over what its disk kept. Then every key is read through every
//! node, and the run fails where an acknowledged write is gone, a value appears that nobody wrote,
//! or a write shows up that was answered `not_applied`.
//!
//! **What is not real here.** TCP and HTTP parsing: requests enter as parsed HTTP requests, and peer
//! messages are framed and parsed but cross memory. The table is the memory engine, which loses at a
//! crash what was not checkpointed.

mod clients;
mod trace;
mod verdict;
mod world;

pub use trace::Trace;
pub use verdict::Broken;

use crate::types::Mode;

/// Which run to make.
#[derive(Clone, Copy, Debug)]
pub struct SimOptions {
    pub mode: Mode,
    pub seed: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct SimReport {
    pub trace: Trace,
    pub writes_acknowledged: usize,
    pub writes_unknown: usize,
    pub reads_answered: usize,
    /// Simulated milliseconds that the run covered.
    pub simulated_ms: u64,
    /// The promises that were broken; none in a good run.
    pub broken: Vec<Broken>,
}

/// Runs one simulated world to its end. Blocking; must not be called from within a tokio runtime.
pub fn run(options: SimOptions) -> std::io::Result<SimReport> {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    tokio.block_on(world::run(options)).map_err(std::io::Error::other)
}
