//! `quorate bench`: load, and what it costs.
//!
//! **Why it exists.** `compare` puts both modes through one fixed set of experiments and keeps every
//! answer. A bench asks one question at a time, with the sizes, rates and mixes that the question
//! needs, for as long as it takes, and keeps counts instead of answers.
//!
//! **What it guarantees.** In an open loop the latency counts from when a request was to start, so
//! that a stall of the server is measured by everybody who would have come, and who found no room
//! to wait is counted as missed. Costs are differences of the nodes' own counters and of what the
//! kernel charges them, with nothing asked at either end. It ends only nodes that it has started.
//!
//! **What it does not do.** It does not check what reads show; only writes that were acknowledged
//! while nodes were killed are read back. `nemesis` and `check` look for more.

mod absences;
mod course;
mod gaps;
mod growth;
mod kills;
mod ledger;
mod loading;
pub mod options;
mod pace;
mod reading_back;
mod report;
mod restarts;
pub mod results;
mod rows;
mod schedule;
mod snapshots;
mod stage;
mod steady;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use parking_lot::Mutex;

pub use options::{BenchOptions, Events, Mix, StartedNodes, Subject};
pub use results::{BenchResults, BenchVerdict};

use super::cluster::{Cluster, ClusterSpec};
use super::compare::interruption;
use super::process::Machine;
use super::progress::Progress;
use super::running::introduce_all;
use crate::runtime::Runtime;
use crate::types::Mode;
use kills::Victims;
use loading::Loading;
use results::{FORMAT, Setup};
use stage::{Load, Stage};

/// The results as a table for people.
pub fn render(results: &BenchResults) -> String {
    report::terminal(results)
}

/// Runs a bench and writes its files. Must be called from outside any asynchronous runtime: it makes
/// one of its own, with a single thread, so that the load never takes more than one core from the
/// nodes. What was measured before it ended early is in the results.
pub fn bench(options: &BenchOptions) -> anyhow::Result<BenchResults> {
    if let Some(out) = &options.out {
        make_directory(out)?;
    }
    let world = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let progress = Progress::new(steps(options));
    let results = world.block_on(run(options, &progress))?;
    progress.finish();
    if let Some(out) = &options.out {
        report::write(&results, out)?;
    }
    Ok(results)
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// How many steps will be reported, so that the bar can show how far it is.
fn steps(options: &BenchOptions) -> u64 {
    let events = options.events;
    let (clusters, restarts) = match &options.subject {
        Subject::Started(started) => (started.modes.len(), 2 * u64::from(started.nodes)),
        Subject::Running(_) => (1, 0),
    };
    let rows = (options.mixes.len() * options.connections.len()) as u64;
    let of_kills = |times: u32| if times > 0 { u64::from(times) + 1 } else { 0 };
    let of_a_cluster = match events.is_empty() {
        true => rows,
        false => {
            of_kills(events.kill_leader)
                + of_kills(events.stop_leader)
                + of_kills(events.kill_follower)
                + of_kills(events.pause_follower)
                + if events.restart { restarts } else { 0 }
                + if events.snapshot { 2 } else { 0 }
                + if events.away > 0 { 2 } else { 0 }
                + if events.grow { 3 } else { 0 }
        }
    };
    let loading = u64::from(options.loads());
    (clusters * options.value_bytes.len()) as u64 * (1 + loading + of_a_cluster)
}

async fn run(options: &BenchOptions, progress: &Progress) -> anyhow::Result<BenchResults> {
    let runtime = Runtime::real();
    let began = runtime.now();
    let place = Place::make(&options.subject)?;
    let results = Mutex::new(begin(options, &runtime, &place));
    let bench = Bench { runtime: &runtime, options, progress, results: &results, place: &place };
    let (interrupted, ended) = tokio::select! {
        biased;
        () = interruption() => (true, Ok(())),
        ended = bench.everything() => (false, ended),
    };
    let mut results = results.into_inner();
    if ended.is_ok() || interrupted {
        place.tidy(&results);
    }
    results.ended_early = match ended {
        Ok(()) if interrupted => Some("it was interrupted".to_owned()),
        Ok(()) => None,
        Err(error) => Some(place.explain(&error)),
    };
    results.seconds = runtime.now().duration_since(began).as_secs_f64();
    Ok(results)
}

fn begin(options: &BenchOptions, runtime: &Runtime, place: &Place) -> BenchResults {
    let setup = Setup {
        targets: match &options.subject {
            Subject::Started(_) => Vec::new(),
            Subject::Running(nodes) => nodes.iter().map(ToString::to_string).collect(),
        },
        nodes: match &options.subject {
            Subject::Started(started) => usize::from(started.nodes),
            Subject::Running(nodes) => nodes.len(),
        },
        engine: match &options.subject {
            Subject::Started(started) => Some(started.engine.to_string()),
            Subject::Running(_) => None,
        },
        settings: match &options.subject {
            Subject::Started(started) => started.settings.clone(),
            Subject::Running(_) => Vec::new(),
        },
        keys: options.keys,
        loaded: options.loads(),
        duration_s: options.duration.as_secs_f64(),
        warm_up_s: options.warm_up.as_secs_f64(),
        timeout_ms: worker::TIMEOUT.as_millis() as u64,
        max_in_flight: options.is_open().then_some(options.max_in_flight),
    };
    BenchResults {
        format: FORMAT,
        quorate_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_wall_ms: runtime.wall_ms(),
        seconds: 0.0,
        seed: options.seed,
        machine: Machine::facts(&place.directory),
        setup,
        rows: Vec::new(),
        kills: Vec::new(),
        restarts: Vec::new(),
        snapshots: Vec::new(),
        absences: Vec::new(),
        growths: Vec::new(),
        ended_early: None,
    }
}

/// Where the nodes' data and logs lie while they are measured.
struct Place {
    directory: PathBuf,
    /// Whether there is anything of bench's own in it.
    own: bool,
}

impl Place {
    fn make(subject: &Subject) -> anyhow::Result<Place> {
        let Subject::Started(started) = subject else {
            return Ok(Place { directory: PathBuf::from("."), own: false });
        };
        let name = format!("quorate-bench-{}", std::process::id());
        let directory = started.data_dir.join(name);
        make_directory(&directory).context("--data-dir")?;
        Ok(Place { directory, own: true })
    }

    /// Removes the directories, unless what is in them shows how something was lost.
    fn tidy(&self, results: &BenchResults) {
        let is_evidence = results.read_back().any(|(_, kept)| kept.evidence.is_some());
        if self.own && !is_evidence {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    /// An error, and where to look for its cause.
    fn explain(&self, error: &anyhow::Error) -> String {
        if self.own {
            format!("{error:#} (the nodes' logs: {})", self.directory.join("logs").display())
        } else {
            format!("{error:#}")
        }
    }
}

/// A bench under way. Results are put down as they come, so that what was measured before it ended
/// early is reported.
struct Bench<'a> {
    runtime: &'a Runtime,
    options: &'a BenchOptions,
    progress: &'a Progress,
    results: &'a Mutex<BenchResults>,
    place: &'a Place,
}

impl Bench<'_> {
    async fn everything(&self) -> anyhow::Result<()> {
        match &self.options.subject {
            Subject::Started(started) => {
                for mode in &started.modes {
                    for value_bytes in &self.options.value_bytes {
                        self.on_own_nodes(started, *mode, *value_bytes).await?;
                    }
                }
            }
            Subject::Running(addresses) => {
                let (mode, nodes) = introduce_all(self.runtime, addresses).await?;
                for value_bytes in &self.options.value_bytes {
                    self.progress.step(&format!("{mode}: {} nodes found", nodes.len()));
                    let mut stage = self.stage(mode, nodes.clone(), None);
                    self.measure(&mut stage, *value_bytes).await?;
                }
            }
        }
        Ok(())
    }

    /// A cluster of its own for each mode and size, so that no row pays for the data of another.
    async fn on_own_nodes(
        &self,
        started: &StartedNodes,
        mode: Mode,
        value_bytes: usize,
    ) -> anyhow::Result<()> {
        self.progress.step(&format!("{mode}: starting {} nodes", started.nodes));
        let settings = started.settings.iter();
        let spec = ClusterSpec {
            binary: started.binary.clone(),
            mode,
            nodes: started.nodes,
            engine: started.engine,
            name: format!("{mode}-{value_bytes}"),
            data_dir: self.place.directory.join("data"),
            logs_dir: self.place.directory.join("logs"),
            flags: settings.flat_map(|setting| ["--set".to_owned(), setting.clone()]).collect(),
        };
        let cluster = Cluster::start(self.runtime, spec).await?;
        let nodes = cluster.ids().into_iter().zip(cluster.addresses()).collect();
        let mut stage = self.stage(mode, nodes, Some(cluster));
        self.measure(&mut stage, value_bytes).await
    }

    fn stage(
        &self,
        mode: Mode,
        nodes: Vec<(u16, std::net::SocketAddr)>,
        cluster: Option<Cluster>,
    ) -> Stage<'_> {
        let (runtime, options, progress) = (self.runtime, self.options, self.progress);
        Stage { runtime, options, progress, mode, nodes, cluster }
    }

    async fn measure(&self, stage: &mut Stage<'_>, value_bytes: usize) -> anyhow::Result<()> {
        let (options, mode) = (self.options, stage.mode);
        if options.loads() {
            self.progress.step(&format!("{mode}: {} keys of {value_bytes} bytes", options.keys));
            let (nodes, keys) = (stage.nodes.clone(), options.keys);
            let prefix = worker::prefix(value_bytes);
            loading::load(self.runtime, Loading { nodes, prefix, keys, value_bytes }).await?;
        }
        for mix in &options.mixes {
            for connections in &options.connections {
                let rate_per_second = options.rate_per_second;
                let (mix, connections) = (*mix, *connections);
                let load = Load { mix, value_bytes, connections, rate_per_second };
                if options.events.is_empty() {
                    self.progress.step(&format!("{mode}: {mix}, {connections} at a time"));
                    let row = rows::measure(stage, load).await?;
                    self.results.lock().rows.push(row);
                } else {
                    self.events(stage, load).await?;
                }
            }
        }
        Ok(())
    }

    async fn events(&self, stage: &mut Stage<'_>, load: Load) -> anyhow::Result<()> {
        let events = self.options.events;
        let kills = [
            (Victims::Leader, events.kill_leader),
            (Victims::StoppedLeader, events.stop_leader),
            (Victims::Follower, events.kill_follower),
            (Victims::PausedFollower, events.pause_follower),
        ];
        for (victims, times) in kills.into_iter().filter(|(_, times)| *times > 0) {
            let found = kills::run(stage, load, victims, times).await?;
            self.results.lock().kills.push(found);
        }
        if events.restart {
            let found = restarts::run(stage, load.value_bytes).await?;
            self.results.lock().restarts.push(found);
        }
        if events.snapshot {
            let found = snapshots::run(stage, load).await?;
            self.results.lock().snapshots.push(found);
        }
        if events.away > 0 {
            let found = absences::run(stage, load, events.away).await?;
            self.results.lock().absences.push(found);
        }
        if events.grow {
            let found = growth::run(stage, load).await?;
            self.results.lock().growths.push(found);
        }
        Ok(())
    }
}
