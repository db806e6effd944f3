//! `quorate compare`: the same loads and the same fault for each contestant, one after the other.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

use super::cluster::{Cluster, ClusterSpec};
use super::contestant::{self, Contestant};
use super::experiments::{NAMES, Outcome, Plan, Stage, killed_node, stale_reads, throughput};
use super::process::Machine;
use super::progress::Progress;
use super::report;
use super::results::{CheckedHistory, ContestantResults, FORMAT, Results, Section, Verdict};
use crate::check;
use crate::config::Engine;
use crate::history::{Header, History};
use crate::runtime::Runtime;
use crate::types::Level;

/// Steps that a whole comparison reports, so that the bar can show how far it is.
const STEPS_PER_EXPERIMENT: [u64; 3] = [7, 5, 5];

/// What to compare, and how thoroughly.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The short form: under three minutes.
    pub quick: bool,
    /// Where the report is written.
    pub out: PathBuf,
    pub seed: u64,
    /// Which experiments to run, by their names in the report; all where empty.
    pub only: Vec<String>,
    /// What is compared, in the order in which it is measured and shown.
    pub contestants: Vec<Contestant>,
    /// The `quorate` executable that nodes are started from.
    pub binary: PathBuf,
    pub nodes: usize,
    pub engine: Engine,
}

impl CompareOptions {
    /// The defaults, with nodes started from `binary`.
    pub fn new(binary: PathBuf) -> CompareOptions {
        CompareOptions {
            quick: false,
            out: PathBuf::from("quorate-report"),
            seed: 42,
            only: Vec::new(),
            contestants: Contestant::DEFAULT.to_vec(),
            binary,
            nodes: 3,
            engine: Engine::Sled,
        }
    }

    /// Says what is wrong with the options, before anything starts.
    pub fn validate(&self) -> anyhow::Result<()> {
        contestant::validate(&self.contestants)?;
        for name in &self.only {
            ensure!(
                NAMES.contains(&name.as_str()),
                "--only: '{name}' is not an experiment: expected {}",
                NAMES.join(", ")
            );
        }
        ensure!(
            (1..=9).contains(&self.nodes),
            "--nodes: {} is not possible: expected 1 to 9",
            self.nodes
        );
        Ok(())
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// Runs the comparison and writes the report; prints its summary. Must be called from outside any
/// asynchronous runtime: it makes one of its own, with a single thread, so that the load generator
/// never takes more than one core from the nodes.
pub fn compare(options: &CompareOptions) -> anyhow::Result<Verdict> {
    let plan = if options.quick { Plan::quick() } else { Plan::full() };
    let steps = STEPS_PER_EXPERIMENT.iter().zip(NAMES).filter(|(_, name)| options.wants(name));
    let steps = steps.map(|(steps, _)| steps).sum::<u64>() * options.contestants.len() as u64;
    let progress = Progress::new(steps);
    let results = compare_with(options, &plan, &progress)?;
    print!("{}", report::terminal::render(&results, &options.out));
    Ok(results.verdict())
}

/// The comparison with a plan of the caller's; writes the report and prints nothing.
pub fn compare_with(
    options: &CompareOptions,
    plan: &Plan,
    progress: &Progress,
) -> anyhow::Result<Results> {
    options.validate()?;
    let world = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = world.block_on(run(options, plan, progress))?;
    progress.finish();
    report::write(&results, &options.out)?;
    Ok(results)
}

async fn run(
    options: &CompareOptions,
    plan: &Plan,
    progress: &Progress,
) -> anyhow::Result<Results> {
    let out = &options.out;
    for folder in ["histories", "logs", "data"] {
        let folder = out.join(folder);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("--out: cannot make {}", folder.display()))?;
    }
    let runtime = Runtime::real();
    let began = runtime.now();
    let results = Mutex::new(Results {
        format: FORMAT,
        quorate_version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        quick: options.quick,
        started_wall_ms: runtime.wall_ms(),
        duration_s: 0.0,
        interrupted: false,
        machine: Machine::facts(out),
        nodes: options.nodes as u16,
        engine: options.engine.to_string(),
        contestants: options.contestants.iter().copied().map(nothing_yet).collect(),
    });
    let bench = Bench { runtime: runtime.clone(), options, plan, progress, results: &results };
    let interrupted = tokio::select! {
        biased;
        () = interruption() => true,
        () = bench.everything() => false,
    };
    for folder in ["logs", "data"] {
        // Only goes where nothing was left inside.
        let _ = std::fs::remove_dir(out.join(folder));
    }
    let mut results = results.into_inner();
    results.interrupted = interrupted;
    results.duration_s = runtime.now().duration_since(began).as_secs_f64();
    Ok(results)
}

/// Waits for Ctrl-C or a polite request to end.
pub(super) async fn interruption() {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process themselves.
        _ => std::future::pending().await,
    }
}

fn nothing_yet(contestant: Contestant) -> ContestantResults {
    ContestantResults {
        name: contestant.to_string(),
        contestant,
        default_level: Level::default_for(contestant.mode).to_string(),
        served_level: None,
        command: None,
        throughput: Section::Skipped,
        killed_node: Section::Skipped,
        stale_reads: Section::Skipped,
        checked: Vec::new(),
    }
}

/// One comparison under way. Results are put down as they come, so that an interrupted comparison
/// still reports what it has.
struct Bench<'a> {
    runtime: Runtime,
    options: &'a CompareOptions,
    plan: &'a Plan,
    progress: &'a Progress,
    results: &'a Mutex<Results>,
}

impl Bench<'_> {
    async fn everything(&self) {
        for index in 0..self.options.contestants.len() {
            if self.options.wants(NAMES[0]) {
                let plan = &self.plan.throughput;
                let section = self
                    .experiment(index, NAMES[0], async |stage| throughput::run(stage, plan).await);
                let section = section.await;
                self.results.lock().contestants[index].throughput = section;
            }
            if self.options.wants(NAMES[1]) {
                let plan = &self.plan.killed_node;
                let section = self
                    .experiment(index, NAMES[1], async |stage| killed_node::run(stage, plan).await);
                let section = section.await;
                self.results.lock().contestants[index].killed_node = section;
            }
            if self.options.wants(NAMES[2]) {
                let plan = &self.plan.stale_reads;
                let section = self
                    .experiment(index, NAMES[2], async |stage| stale_reads::run(stage, plan).await);
                let section = section.await;
                self.results.lock().contestants[index].stale_reads = section;
            }
        }
    }

    /// One experiment on a fresh cluster; a failure is a result too.
    async fn experiment<T>(
        &self,
        index: usize,
        name: &str,
        body: impl AsyncFnOnce(&mut Stage<'_>) -> anyhow::Result<Outcome<T>>,
    ) -> Section<T> {
        match self.try_experiment(index, name, body).await {
            Ok(figures) => Section::Done { figures },
            Err(error) => Section::Failed { reason: format!("{error:#}") },
        }
    }

    async fn try_experiment<T>(
        &self,
        index: usize,
        name: &str,
        body: impl AsyncFnOnce(&mut Stage<'_>) -> anyhow::Result<Outcome<T>>,
    ) -> anyhow::Result<T> {
        let out = &self.options.out;
        let contestant = self.options.contestants[index];
        let full_name = format!("{contestant}-{name}");
        self.progress.step(&format!("{contestant}: starting {} nodes", self.options.nodes));
        let spec = ClusterSpec {
            binary: self.options.binary.clone(),
            mode: contestant.mode,
            nodes: self.options.nodes as u16,
            engine: self.options.engine,
            name: full_name.clone(),
            data_dir: out.join("data"),
            logs_dir: out.join("logs"),
            flags: contestant.flags(),
        };
        let mut cluster = Cluster::start(&self.runtime, spec).await?;
        self.results.lock().contestants[index].command = Some(cluster.command());
        let mut stage = Stage {
            runtime: &self.runtime,
            contestant,
            seed: self.options.seed,
            cluster: &mut cluster,
            progress: self.progress,
        };
        let outcome = body(&mut stage).await?;
        let header =
            Header::new(contestant.mode, name, self.options.seed, self.options.nodes as u16);
        let history = History::new(header, outcome.ops);
        let file = format!("histories/{full_name}.jsonl");
        let checked = judge(&history, out, file)?;
        let flawless = !checked.findings.iter().any(|finding| finding.is_broken());
        let mut results = self.results.lock();
        let measured = &mut results.contestants[index];
        measured.served_level = measured.served_level.take().or_else(|| served(&history));
        measured.checked.push(checked);
        if flawless {
            cluster.forget_logs();
        }
        Ok(outcome.figures)
    }
}

/// The level that reads of the default level were served at.
fn served(history: &History) -> Option<String> {
    let default = Level::default_for(history.header.mode);
    let mut reads = history.ops.iter().filter(|op| op.level == default && op.r.is_none());
    reads.find_map(|op| op.served).map(|served| served.to_string())
}

/// Writes a history down and runs every check over it.
fn judge(history: &History, out: &Path, file: String) -> anyhow::Result<CheckedHistory> {
    let path = out.join(&file);
    let to = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    history.write(BufWriter::new(to))?;
    let writes = || history.ops.iter().filter(|op| op.is_acknowledged_write());
    Ok(CheckedHistory {
        experiment: history.header.experiment.clone(),
        file,
        operations: history.ops.len() as u64,
        acknowledged_writes: writes().count() as u64,
        superseded_writes: writes().filter(|op| op.superseded.is_some()).count() as u64,
        findings: check::check(history),
    })
}
