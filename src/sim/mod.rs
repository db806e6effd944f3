//! Simulating: whole clusters in one thread, in simulated time, from one seed.
//!
//! **Why it exists.** What breaks replicated stores is order and timing, and those cannot be tried
//! again in real processes. Here three or five nodes run the real node, consensus, replication,
//! storage log and API code on a paused clock, over simulated disks and links in memory. The same
//! seed gives the same trace byte for byte, in any process on any machine.
//!
//! **What a world is.** A seed picks the cluster, the load and a subset of the faults (`plan`).
//! Clients put, get, delete, list and write conditionally through every node, at every level, some
//! under idempotency keys, and sometimes leave in the middle (`clients`, `request`), while the
//! `nemesis` breaks links, disks, clocks and processes (`machine`). Then every fault ends, and the cluster must serve and converge
//! within a bound of simulated time (`ending`). What clients were told is a history, and the checks
//! of `check` are run on it; what a history cannot show is looked at here: panics, nodes that stop
//! without a fault or do not start, a wiped node that is taken back, replicas that differ, answers
//! that contradict themselves, tasks and files that pile up.
//!
//! **A campaign** (`campaign`) runs many worlds on several threads, counts what happened in them
//! (`coverage`), and fails where a promise was broken or something never happened. In a test build
//! it also tries the simulator itself, on bugs that are planted (`crate::planted`).
//!
//! **What is not real here.** TCP and HTTP parsing: requests enter as parsed HTTP requests, and peer
//! messages are framed and parsed but cross memory. The table is the memory engine, which keeps the
//! same contract as the others and loses at a crash what was not checkpointed. Timers of all nodes
//! run at one rate; only wall clocks differ.

mod batches;
mod campaign;
mod clients;
mod coverage;
mod ending;
mod layouts;
mod losses;
mod machine;
mod members;
mod nemesis;
mod panics;
mod plan;
#[cfg(any(test, feature = "planted-bugs"))]
mod sabotage;
mod trace;
mod transfer;
mod verdict;
mod witness;
mod world;

mod request;

pub use campaign::{Campaign, CampaignOptions, Outcome, campaign};
pub use coverage::{Coverage, WORLDS_TO_SEE_ALL, expected};
#[cfg(any(test, feature = "planted-bugs"))]
pub use sabotage::{SabotageOptions, sabotage};
pub use trace::Trace;
pub use verdict::Broken;

use crate::history::History;
use crate::types::Mode;

/// Which world to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    pub mode: Mode,
    pub seed: u64,
}

impl SimOptions {
    /// The command that runs this world again.
    pub fn replay_command(&self) -> String {
        format!("quorate sim --mode {} --seed {} --trace", self.mode, self.seed)
    }
}

/// What a world came to.
#[derive(Debug)]
pub struct SimReport {
    pub options: SimOptions,
    pub trace: Trace,
    /// Operations that clients asked for.
    pub operations: usize,
    pub writes_acknowledged: usize,
    pub writes_unknown: usize,
    pub reads_answered: usize,
    /// Simulated milliseconds that the run covered.
    pub simulated_ms: u64,
    pub coverage: Coverage,
    /// What clients asked and were told.
    pub history: History,
    /// The promises that were broken; none in a good run.
    pub broken: Vec<Broken>,
}

/// Runs one simulated world to its end. Blocking; must not be called from within a tokio runtime.
pub fn run(options: SimOptions) -> std::io::Result<SimReport> {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(tokio.block_on(world::run(options)))
}
