//! `quorate sim`: simulated clusters from seeds.

use std::io::IsTerminal as _;
use std::ops::RangeInclusive;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, complain, modes};
use crate::sim::{self, Campaign, CampaignOptions, Outcome, SimOptions};
use crate::types::Mode;

/// Seeds of a campaign that names none.
const DEFAULT_SEEDS: RangeInclusive<u64> = 1..=20;

/// How many failing worlds are written out in full.
const SHOWN_FAILURES: usize = 5;

#[derive(Args)]
pub(super) struct SimArgs {
    /// leader, leaderless or both
    #[arg(long, default_value = "both")]
    mode: String,
    /// The seeds of many worlds, such as 1..500, both ends included [default: 1..20]
    #[arg(long, value_name = "FROM..TO", value_parser = seeds, conflicts_with = "seed")]
    seeds: Option<RangeInclusive<u64>>,
    /// The seed of one world
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: print everything that happened, in order; the same seed prints the same bytes
    #[arg(long, requires = "seed")]
    trace: bool,
    /// With --seed: write what clients asked and were told to a file, for `quorate check`
    #[arg(long, value_name = "FILE", requires = "seed")]
    history: Option<std::path::PathBuf>,
    /// Run every world twice, and fail where the two traces differ
    #[arg(long)]
    twice: bool,
    /// Worlds at a time [default: one a core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Print how often each fault and each path of recovery happened
    #[arg(long)]
    counts: bool,
    /// Test builds: run with one planted bug
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Test builds: try every planted bug, and print the table of what caught it
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    planted: bool,
}

/// Reads `FROM..TO`, both ends included.
pub(super) fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let range = text.split_once("..").and_then(|(from, to)| {
        let to = to.strip_prefix('=').unwrap_or(to);
        Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
    });
    match range {
        Some((from, to)) if from <= to && to < u64::MAX => Ok(from..=to),
        _ => Err("expected two numbers, the lower first, such as 1..500".to_owned()),
    }
}

pub(super) fn run(args: &SimArgs) -> Exit {
    let modes = match modes(&args.mode) {
        Ok(modes) => modes,
        Err(exit) => return exit,
    };
    #[cfg(feature = "planted-bugs")]
    if args.planted || args.plant.is_some() {
        return planted::run(args, modes);
    }
    match args.seed {
        Some(seed) if !args.twice => {
            let runs = modes.iter().map(|mode| one(args, SimOptions { mode: *mode, seed }));
            runs.fold(Exit::Done, |worst, exit| if exit == Exit::Done { worst } else { exit })
        }
        seed => {
            let seeds = seed.map(|seed| seed..=seed);
            let seeds = seeds.or_else(|| args.seeds.clone()).unwrap_or(DEFAULT_SEEDS);
            many(args, modes, &seeds)
        }
    }
}

fn jobs(args: &SimArgs) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    args.jobs.unwrap_or(cores).max(1)
}

fn one(args: &SimArgs, options: SimOptions) -> Exit {
    let report = match sim::run(options) {
        Ok(report) => report,
        Err(error) => {
            complain(format!("no simulated world: {error}"));
            return Exit::Failed;
        }
    };
    if args.trace {
        print!("{}", report.trace.text());
    }
    if let Some(path) = &args.history {
        let written =
            std::fs::File::create(path).map_err(|error| error.to_string()).and_then(|file| {
                let file = std::io::BufWriter::new(file);
                report.history.write(file).map_err(|error| error.to_string())
            });
        if let Err(problem) = written {
            complain(format!("{} cannot be written: {problem}", path.display()));
            return Exit::Failed;
        }
    }
    println!(
        "{} mode, seed {}: {} writes acknowledged, {} unknown, {} reads answered in {} simulated \
         ms; {} broken promises",
        options.mode,
        options.seed,
        report.writes_acknowledged,
        report.writes_unknown,
        report.reads_answered,
        report.simulated_ms,
        report.broken.len()
    );
    if args.counts {
        report.coverage.iter().for_each(|(what, times)| println!("{times:>10}  {what}"));
    }
    for broken in &report.broken {
        complain(broken);
        broken.shortest(&report.history).iter().for_each(|line| eprintln!("  {line}"));
    }
    if report.broken.is_empty() {
        return Exit::Done;
    }
    complain(format!("replay it with: {}", options.replay_command()));
    Exit::Failed
}

fn many(args: &SimArgs, modes: Vec<Mode>, seeds: &RangeInclusive<u64>) -> Exit {
    let (first, last) = (*seeds.start(), *seeds.end());
    let bar = bar((last - first + 1).saturating_mul(modes.len() as u64));
    let options = CampaignOptions { modes, first, last, jobs: jobs(args), twice: args.twice };
    let mut shown = 0;
    let campaign = sim::campaign(&options, &mut |outcome| {
        bar.inc(1);
        if !outcome.is_good() && shown < SHOWN_FAILURES {
            shown += 1;
            bar.suspend(|| tell_failure(outcome));
        }
        true
    });
    bar.finish_and_clear();
    match campaign {
        Ok(campaign) => conclude(args, &campaign),
        Err(error) => {
            complain(format!("no simulated world: {error}"));
            Exit::Failed
        }
    }
}

/// A bar on a terminal; nothing elsewhere.
fn bar(worlds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} worlds, {eta} left");
    ProgressBar::new(worlds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn tell_failure(outcome: &Outcome) {
    let options = outcome.options;
    complain(format!("{} mode, seed {} failed", options.mode, options.seed));
    for (broken, evidence) in outcome.broken.iter().zip(&outcome.evidence) {
        eprintln!("  {broken}");
        evidence.iter().for_each(|line| eprintln!("    {line}"));
    }
    if outcome.replayed == Some(false) {
        eprintln!("  replay: two runs of this seed gave different traces");
    }
    eprintln!("  replay it with: {}", options.replay_command());
}

fn conclude(args: &SimArgs, campaign: &Campaign) -> Exit {
    for (mode, worlds) in &campaign.worlds {
        println!("{mode} mode: {worlds} worlds");
        if let Some(coverage) = campaign.coverage.get(mode).filter(|_| args.counts) {
            coverage.iter().for_each(|(what, times)| println!("{times:>10}  {what}"));
        }
    }
    let worlds: u64 = campaign.worlds.values().sum();
    println!(
        "{} operations in {} simulated seconds; {} of {worlds} worlds failed",
        campaign.operations,
        campaign.simulated_ms / 1_000,
        campaign.failed.len(),
    );
    if args.twice {
        println!("{} of {worlds} worlds gave the same trace twice", campaign.replayed);
    }
    for (mode, what) in campaign.never_happened() {
        complain(format!("{mode} mode: never happened in this campaign: {what}"));
    }
    if campaign.is_good() { Exit::Done } else { Exit::Failed }
}

#[cfg(feature = "planted-bugs")]
mod planted {
    //! Planted bugs: only in test builds.

    use std::collections::BTreeMap;

    use super::{DEFAULT_SEEDS, SimArgs, complain, jobs};
    use crate::cli::Exit;
    use crate::planted::{Bug, CaughtBy, table};
    use crate::sim::{SabotageOptions, SimOptions, sabotage};
    use crate::types::Mode;

    /// Worlds a mode in which a bug must be caught: the rarest takes a thousand.
    const WORLDS: u64 = 2_000;

    /// At least half of the bugs must be caught within so many worlds.
    const MEDIAN_WORLDS: u64 = 100;

    pub fn run(args: &SimArgs, modes: Vec<Mode>) -> Exit {
        match &args.plant {
            Some(name) => one(args, &modes, name),
            None => all(args, &modes),
        }
    }

    /// One bug in one world, or in worlds until one catches it.
    fn one(args: &SimArgs, modes: &[Mode], name: &str) -> Exit {
        let Some(bug) = Bug::named(name) else {
            let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            complain(format!("--plant {name}: expected one of {}", names.join(", ")));
            return Exit::Usage;
        };
        if let Some(seed) = args.seed {
            crate::planted::plant(Some(bug));
            let runs = modes.iter().map(|mode| super::one(args, SimOptions { mode: *mode, seed }));
            return runs.fold(Exit::Done, |all, exit| if exit == Exit::Done { all } else { exit });
        }
        match caught(args, modes, bug) {
            Some(_) => Exit::Done,
            None => Exit::Failed,
        }
    }

    fn caught(args: &SimArgs, modes: &[Mode], bug: Bug) -> Option<crate::planted::Caught> {
        let seeds = args.seeds.clone();
        let first = seeds.as_ref().map_or(*DEFAULT_SEEDS.start(), |seeds| *seeds.start());
        let worlds = seeds.map_or(WORLDS, |seeds| seeds.end() - seeds.start() + 1);
        let options = SabotageOptions { modes: modes.to_vec(), first, worlds, jobs: jobs(args) };
        match sabotage(bug, &options) {
            Ok(Some(caught)) => {
                eprintln!("{}: caught in world {} by {}", bug.name(), caught.worlds, caught.check);
                Some(caught)
            }
            Ok(None) => {
                complain(format!("{}: not caught in {worlds} worlds a mode", bug.name()));
                None
            }
            Err(error) => {
                complain(format!("no simulated world: {error}"));
                None
            }
        }
    }

    /// Every bug that the simulator must catch.
    fn all(args: &SimArgs, modes: &[Mode]) -> Exit {
        let tried = Bug::ALL.iter().copied().filter(|bug| bug.caught_by() == CaughtBy::Simulator);
        let tried: Vec<Bug> =
            tried.filter(|bug| bug.modes().iter().any(|mode| modes.contains(mode))).collect();
        let all: BTreeMap<_, _> =
            tried.iter().filter_map(|bug| Some((*bug, caught(args, modes, *bug)?))).collect();
        println!("{}", table(&all));
        let mut worlds: Vec<u64> = all.values().map(|caught| caught.worlds).collect();
        worlds.sort_unstable();
        let median = worlds.get(worlds.len() / 2).copied().unwrap_or(u64::MAX);
        println!("{} of {} caught; the median took {median} worlds", all.len(), tried.len());
        if all.len() == tried.len() && median <= MEDIAN_WORLDS { Exit::Done } else { Exit::Failed }
    }
}
