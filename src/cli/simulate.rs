//! `quorate sim`: simulated clusters from seeds.

use clap::Args;

use super::{Exit, complain, modes};
use crate::sim::{self, SimOptions};

#[derive(Args)]
pub(super) struct SimArgs {
    /// leader, leaderless or both
    #[arg(long, default_value = "both")]
    mode: String,
    /// The seed of the world
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print everything that happened, in order; the same seed prints the same bytes
    #[arg(long)]
    trace: bool,
}

pub(super) fn run(args: &SimArgs) -> Exit {
    let modes = match modes(&args.mode) {
        Ok(modes) => modes,
        Err(exit) => return exit,
    };
    let mut exit = Exit::Done;
    for mode in modes {
        match sim::run(SimOptions { mode, seed: args.seed }) {
            Ok(report) => {
                if args.trace {
                    print!("{}", report.trace.text());
                }
                println!(
                    "{mode} mode, seed {}: {} writes acknowledged, {} unknown, {} reads answered in \
                     {} simulated ms; {} broken promises",
                    args.seed,
                    report.writes_acknowledged,
                    report.writes_unknown,
                    report.reads_answered,
                    report.simulated_ms,
                    report.broken.len()
                );
                for promise in &report.broken {
                    complain(promise);
                    complain(format!(
                        "replay it with: quorate sim --mode {mode} --seed {} --trace",
                        args.seed
                    ));
                    exit = Exit::Failed;
                }
            }
            Err(error) => {
                complain(format!("{mode} mode, seed {}: {error}", args.seed));
                return Exit::Failed;
            }
        }
    }
    exit
}
