//! `quorate nemesis`: real nodes under faults, checked.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, complain, modes, tokio_runtime};
use crate::config::Engine;
use crate::lab::nemesis::{
    AttachOptions, CYCLES_A_SEGMENT, Campaign, Family, Plan, SegmentReport, add_faults, attach,
};
use crate::runtime::Runtime;
use crate::types::Mode;

#[derive(Args)]
pub(super) struct NemesisArgs {
    /// leader, leaderless or both
    #[arg(long, default_value = "both")]
    mode: String,
    /// How often faults strike in each mode
    #[arg(long, default_value_t = 18)]
    cycles: u64,
    /// Which kinds: all, or some of kill, pause, roll, cut, delay, drip, reset, clock, disk
    #[arg(long, value_name = "KINDS", default_value = "all")]
    faults: String,
    /// The seed of faults and load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many nodes each cluster has
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// The table engine of every node: sled, fjall or memory
    #[arg(long, default_value = "sled")]
    engine: String,
    /// Where evidence is written: histories of broken promises, what struck when, logs and data
    #[arg(long, value_name = "DIR", default_value = "quorate-nemesis")]
    out: PathBuf,
    /// Keep the histories of segments in which every promise held, too
    #[arg(long)]
    keep_histories: bool,
    /// Strike nothing: load the cluster whose nodes serve clients here while something else breaks it
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    attach: Vec<String>,
    /// With --attach: how long the load lasts
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(super) fn run(args: &NemesisArgs) -> Exit {
    let modes = match modes(&args.mode) {
        Ok(modes) => modes,
        Err(exit) => return exit,
    };
    let asked = match Asked::of(args, modes) {
        Ok(asked) => asked,
        Err(problem) => {
            complain(problem);
            return Exit::Usage;
        }
    };
    let tokio = match tokio_runtime() {
        Ok(tokio) => tokio,
        Err(exit) => return exit,
    };
    let ended = tokio.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever ends it: dropping the cluster ends its processes.
        tokio::select! {
            biased;
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("interrupted"),
            exit = carry_out(args, &asked) => exit,
        }
    });
    ended.unwrap_or_else(|error| {
        complain(format!("{error:#}"));
        Exit::Failed
    })
}

/// The flags, understood.
struct Asked {
    modes: Vec<Mode>,
    engine: Engine,
    families: Vec<Family>,
    attach: Vec<SocketAddr>,
}

impl Asked {
    fn of(args: &NemesisArgs, modes: Vec<Mode>) -> Result<Asked, String> {
        if args.cycles == 0 {
            return Err("--cycles 0: expected 1 or more".to_owned());
        }
        let engine = args.engine.parse().map_err(|problem| format!("--engine: {problem}"))?;
        let families = match args.faults.as_str() {
            "all" => Family::ALL.to_vec(),
            some => some
                .split(',')
                .map(|name| name.trim().parse())
                .collect::<Result<_, String>>()
                .map_err(|problem| format!("--faults: {problem}"))?,
        };
        let attach =
            args.attach.iter().map(|address| resolve(address)).collect::<Result<_, _>>()?;
        Ok(Asked { modes, engine, families, attach })
    }
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = address.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| format!("--attach {address}: expected HOST:PORT of a node's client port"))
}

async fn carry_out(args: &NemesisArgs, asked: &Asked) -> anyhow::Result<Exit> {
    let runtime = Runtime::real();
    if !asked.attach.is_empty() {
        let options = AttachOptions {
            addresses: asked.attach.clone(),
            load_for: Duration::from_secs(args.seconds),
            seed: args.seed,
            out: args.out.clone(),
        };
        let report = attach(&runtime, &options).await?;
        print_segment(&report);
        println!("history: {}", report.directory.join("history.jsonl").display());
        return Ok(exit_of(&[report.broken()], &[report.unverified()]));
    }
    let mut exit = Exit::Done;
    for mode in &asked.modes {
        let of_mode = campaign(&runtime, args, asked, *mode).await?;
        exit = worse(exit, of_mode);
    }
    Ok(exit)
}

async fn campaign(
    runtime: &Runtime,
    args: &NemesisArgs,
    asked: &Asked,
    mode: Mode,
) -> anyhow::Result<Exit> {
    let plan = Plan {
        binary: std::env::current_exe()?,
        mode,
        nodes: args.nodes,
        engine: asked.engine,
        families: asked.families.clone(),
        seed: args.seed,
        out: args.out.clone(),
    };
    let began = runtime.now();
    let mut campaign = Campaign::start(runtime, plan).await?;
    for not_tried in campaign.not_tried() {
        complain(format!("!!! NOT TRIED: {}: {}", not_tried.family, not_tried.reason));
    }
    let mut sum = Sum::default();
    while sum.cycles < args.cycles && sum.broken.is_empty() {
        let cycles = CYCLES_A_SEGMENT.min(args.cycles - sum.cycles);
        let report = match campaign.segment(cycles).await {
            Ok(report) => report,
            Err(error) => {
                keep(&mut campaign, args);
                return Err(error);
            }
        };
        print_segment(&report);
        if report.broken().is_empty() && !args.keep_histories {
            std::fs::remove_dir_all(&report.directory)?;
        }
        sum.add(&report);
    }
    sum.print(mode, args, &campaign, runtime.now() - began);
    if sum.broken.is_empty() {
        campaign.forget_logs();
    } else {
        keep(&mut campaign, args);
    }
    // Whoever names a kind of fault wants to know what it does; `all` is all that can be had.
    let named_not_tried = args.faults != "all" && !campaign.not_tried().is_empty();
    let exit = exit_of(&[sum.broken], &[sum.unverified]);
    Ok(if named_not_tried { worse(exit, Exit::Unknown) } else { exit })
}

/// Keeps what the nodes wrote, and says where it is.
fn keep(campaign: &mut Campaign, args: &NemesisArgs) {
    match campaign.keep_evidence() {
        Ok(data) => complain(format!("data directories are kept in {}", data.display())),
        Err(error) => complain(format!("data directories could not be kept: {error:#}")),
    }
    complain(format!("logs are kept in {}", args.out.join("logs").display()));
}

/// What the segments of one mode came to.
#[derive(Default)]
struct Sum {
    segments: u64,
    cycles: u64,
    kills: u64,
    operations: u64,
    acknowledged: u64,
    unknown: u64,
    faults: BTreeMap<String, u64>,
    broken: Vec<String>,
    unverified: Vec<String>,
}

impl Sum {
    fn add(&mut self, report: &SegmentReport) {
        self.segments += 1;
        self.cycles += report.cycles;
        self.kills += report.kills;
        self.operations += report.operations;
        self.acknowledged += report.acknowledged;
        self.unknown += report.unknown;
        add_faults(&mut self.faults, report);
        self.broken.extend(report.broken());
        self.unverified.extend(report.unverified());
    }

    fn print(&self, mode: Mode, args: &NemesisArgs, campaign: &Campaign, took: Duration) {
        println!(
            "{mode} mode, {} engine, {} nodes, seed {}: {} cycles in {:.0} s ({:.2} s each), {} \
             SIGKILLs, {} operations, {} writes acknowledged, {} unknown; {} broken promises",
            args.engine,
            args.nodes,
            args.seed,
            self.cycles,
            took.as_secs_f64(),
            took.as_secs_f64() / self.cycles.max(1) as f64,
            self.kills,
            self.operations,
            self.acknowledged,
            self.unknown,
            self.broken.len()
        );
        for (kind, count) in &self.faults {
            println!("  {count:5} × {kind}");
        }
        let links = campaign.links();
        println!(
            "  links: {} connections carried, {} refused, {} reset; {} chunks held, {} late, {} \
             pieces slow",
            links.carried, links.refused, links.reset, links.held, links.delayed, links.dripped
        );
        for not_tried in campaign.not_tried() {
            println!("  !!! NOT TRIED: {}: {}", not_tried.family, not_tried.reason);
        }
    }
}

fn print_segment(report: &SegmentReport) {
    println!(
        "{} segment {}: {} cycles in {:.1} s, {} operations, {} acknowledged, {} unknown, {} \
         broken promises",
        report.mode,
        report.number,
        report.cycles,
        report.took.as_secs_f64(),
        report.operations,
        report.acknowledged,
        report.unknown,
        report.broken().len()
    );
    for broken in report.broken() {
        complain(format!("BROKEN: {broken}"));
    }
    for unverified in report.unverified() {
        complain(format!("not verified: {unverified}"));
    }
    if !report.broken().is_empty() {
        complain(format!("the history is kept in {}", report.directory.display()));
    }
}

fn exit_of(broken: &[Vec<String>], unverified: &[Vec<String>]) -> Exit {
    if broken.iter().any(|list| !list.is_empty()) {
        Exit::Failed
    } else if unverified.iter().any(|list| !list.is_empty()) {
        Exit::Unknown
    } else {
        Exit::Done
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    match (one, other) {
        (Exit::Failed, _) | (_, Exit::Failed) => Exit::Failed,
        (Exit::Done, other) => other,
        (one, _) => one,
    }
}
