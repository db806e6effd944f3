//! `quorate compare`: each mode, and a fixed leader where asked for, measured and checked.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, complain};
use crate::config::Engine;
use crate::lab::{self, CompareOptions, Contestant, Verdict};

#[derive(Args)]
pub(super) struct CompareArgs {
    /// The short form: under three minutes for two contestants
    #[arg(long)]
    quick: bool,
    /// Where to write the report
    #[arg(long, value_name = "DIR", default_value = "quorate-report")]
    out: PathBuf,
    /// The seed of loads and faults
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Only these experiments: of throughput, killed-node and stale-reads
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// What is compared, in this order: one or more of leader, fixed-leader (leader mode in which
    /// node 1 leads for ever, and is waited for when it dies) and leaderless
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "leader,leaderless")]
    contestants: Vec<String>,
    /// How many nodes each cluster has
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// The table engine of every node: sled, fjall or memory
    #[arg(long, default_value = "sled")]
    engine: String,
}

pub(super) fn run(args: &CompareArgs) -> Exit {
    let engine: Engine = match args.engine.parse() {
        Ok(engine) => engine,
        Err(problem) => {
            complain(format!("--engine: {problem}"));
            return Exit::Usage;
        }
    };
    let contestants = args.contestants.iter().map(|name| name.parse());
    let contestants: Vec<Contestant> = match contestants.collect::<Result<_, String>>() {
        Ok(contestants) => contestants,
        Err(problem) => {
            complain(format!("--contestants: {problem}"));
            return Exit::Usage;
        }
    };
    let binary = match std::env::current_exe() {
        Ok(binary) => binary,
        Err(error) => {
            complain(format!("cannot find the program that is running: {error}"));
            return Exit::Failed;
        }
    };
    let mut options = CompareOptions::new(binary);
    options.quick = args.quick;
    options.out = args.out.clone();
    options.seed = args.seed;
    options.only = args.only.clone();
    options.contestants = contestants;
    options.nodes = args.nodes;
    options.engine = engine;
    if let Err(error) = options.validate() {
        complain(error);
        return Exit::Usage;
    }
    match lab::compare(&options) {
        Ok(Verdict::Kept) => Exit::Done,
        // The summary that was printed lists what was broken, or could not be checked.
        Ok(Verdict::Broken(_)) => Exit::Failed,
        Ok(Verdict::Unknown(_)) => Exit::Unknown,
        Err(error) => {
            complain(format!("{error:#}"));
            Exit::Failed
        }
    }
}
