//! Real data directories after crashes, power cuts, full disks and rot.
//!
//! **Why it exists.** Simulated disks try the commit log in many worlds, but table engines have
//! files of their own, and a promise about durability is one about real files. So a campaign
//! records what one real node does to a real directory, makes of the recording every kind of
//! directory that an accident could have left, starts a node on each, and looks.
//!
//! **What is checked.** On every directory the node either refuses to start, with one line that
//! names what is wrong, or serves every write that was acknowledged before the accident, byte for
//! byte or by a newer version, and nothing that nobody wrote; it then takes one more write, stops,
//! starts again and still holds all. Where nothing but unsynced writes was lost in order, or only
//! the process died, it may not refuse. A node that panics, hangs or says nothing clear fails.
//!
//! **How.** `recorder` is a disk that remembers every step, `session` the recorded run of one node
//! (the whole cluster, through the node's own start), `model` what a directory holds after some
//! steps and what a power cut may leave of it, `images` the accidents, `trial` the judgement, `full`
//! the disks without space. `node` runs the node under simulated time, so that a recording of the
//! same seed takes the same steps; the table's own threads are real, and so its files may differ.
//!
//! **Not covered.** Devices that acknowledge a flush and do not do it; two accidents at once;
//! several flipped bits. Other nodes: their part is the simulator's.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use self::full::fill_disk;
use self::session::Session;
use self::trial::{Expectation, Verdict, materialise, try_image};
use crate::config::Engine;
use crate::history::Seeded;
use crate::runtime::Runtime;
use crate::types::Mode;

mod full;
mod images;
mod model;
mod node;
mod recorder;
mod session;
#[cfg(test)]
mod tests;
mod trial;

pub use self::images::Kind;

/// The engines that a campaign tries unless told otherwise: all there are.
pub const ENGINES: [Engine; 3] = [Engine::Sled, Engine::Fjall, Engine::Memory];

/// Where directories are made unless told otherwise: in memory where there is such a place, since
/// what reaches a device is decided by the images and not by the device.
const IN_MEMORY: &str = "/dev/shm";

/// What a campaign tries.
#[derive(Clone, Debug)]
pub struct RealFilesOptions {
    pub engines: Vec<Engine>,
    pub modes: Vec<Mode>,
    /// One recording a seed, engine and mode.
    pub seeds: RangeInclusive<u64>,
    /// Images of each kind of each recording.
    pub images: usize,
    /// Only the image with this number, to replay it.
    pub only_image: Option<usize>,
    /// Where directories are made, and those that broke a promise are kept; a place in memory, or
    /// that for temporary files, where there is none given.
    pub directory: Option<PathBuf>,
}

impl Default for RealFilesOptions {
    fn default() -> RealFilesOptions {
        RealFilesOptions {
            engines: ENGINES.to_vec(),
            modes: vec![Mode::Leader, Mode::Leaderless],
            seeds: 1..=1,
            images: 100,
            only_image: None,
            directory: None,
        }
    }
}

/// How the images of one kind did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub tried: usize,
    pub held: usize,
    pub refused: usize,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct BrokenFile {
    pub engine: Engine,
    pub mode: Mode,
    pub seed: u64,
    pub image: usize,
    pub kind: Kind,
    pub story: String,
    pub problem: String,
    /// The directory as it was before the node started on it, where it could be kept.
    pub kept_in: Option<PathBuf>,
}

impl fmt::Display for BrokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BrokenFile { engine, mode, seed, image, kind, story, problem, .. } = self;
        write!(f, "{engine}, {mode} mode, {kind}: {problem} (seed {seed}, image {image}: {story}")?;
        match &self.kept_in {
            Some(path) => write!(f, "; kept in {})", path.display()),
            None => f.write_str(")"),
        }
    }
}

/// What a campaign came to. Displays as a table and a line for each broken promise.
#[derive(Clone, Debug, Default)]
pub struct RealFilesReport {
    pub tallies: BTreeMap<(&'static str, &'static str, Kind), Tally>,
    pub broken: Vec<BrokenFile>,
    /// What could not be tried here, and why.
    pub not_tried: Vec<String>,
    /// One refusal of each kind, engine and mode, to see what refusals read like.
    pub refusals: BTreeMap<(&'static str, &'static str, Kind), String>,
    pub took: Duration,
}

impl RealFilesReport {
    /// Images tried in all.
    pub fn tried(&self) -> usize {
        self.tallies.values().map(|tally| tally.tried).sum()
    }
}

impl fmt::Display for RealFilesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "engine  mode        accident               tried   held  refused")?;
        for ((engine, mode, kind), Tally { tried, held, refused }) in &self.tallies {
            let kind = kind.to_string();
            writeln!(f, "{engine:<7} {mode:<11} {kind:<21} {tried:>6} {held:>6} {refused:>8}")?;
        }
        let seconds = self.took.as_secs_f64();
        let pace = self.tried() as f64 / seconds.max(0.001);
        write!(f, "{} directories in {seconds:.0} s, {pace:.1} a second; ", self.tried())?;
        writeln!(f, "{} broken promises", self.broken.len())?;
        self.not_tried.iter().try_for_each(|line| writeln!(f, "not tried: {line}"))?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "BROKEN {broken}"))
    }
}

/// Runs a campaign; `progress` is told a line a recording. Blocking; must not be called from within
/// a tokio runtime.
pub fn run(
    options: RealFilesOptions,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<RealFilesReport> {
    let clock = Runtime::real();
    let begun = clock.now();
    let root = options.directory.clone().unwrap_or_else(default_directory);
    let name = format!("quorate-real-files-{:016x}", clock.random_u64());
    let mut campaign =
        Campaign { workplace: root.join(name), options, report: RealFilesReport::default() };
    std::fs::create_dir_all(&campaign.workplace)
        .with_context(|| format!("cannot make directories in {}", campaign.workplace.display()))?;
    let done = campaign.run(progress);
    if campaign.report.broken.is_empty() {
        let removed = std::fs::remove_dir_all(&campaign.workplace);
        removed.with_context(|| format!("cannot remove {}", campaign.workplace.display()))?;
    }
    done?;
    campaign.report.took = clock.now().saturating_duration_since(begun);
    Ok(campaign.report)
}

fn default_directory() -> PathBuf {
    let in_memory = Path::new(IN_MEMORY);
    if in_memory.is_dir() { in_memory.to_owned() } else { std::env::temp_dir() }
}

struct Campaign {
    options: RealFilesOptions,
    workplace: PathBuf,
    report: RealFilesReport,
}

impl Campaign {
    fn run(&mut self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        for seed in self.options.seeds.clone() {
            for engine in self.options.engines.clone() {
                for mode in self.options.modes.clone() {
                    let before = (self.report.tried(), self.report.broken.len());
                    self.try_one(engine, mode, seed)?;
                    let tried = self.report.tried() - before.0;
                    let broken = self.report.broken.len() - before.1;
                    progress(&format!(
                        "{engine}, {mode} mode, seed {seed}: {tried} directories, {broken} broken \
                         promises"
                    ));
                }
            }
        }
        Ok(())
    }

    fn try_one(&mut self, engine: Engine, mode: Mode, seed: u64) -> anyhow::Result<()> {
        let directory = self.workplace.join("recorded");
        let session = session::record(engine, mode, seed, &directory)
            .with_context(|| format!("recording {engine}, {mode} mode, seed {seed}"))?;
        std::fs::remove_dir_all(&directory)?;
        let mut number = 0;
        for kind in Kind::OF_RECORDINGS {
            for index in 0..self.options.images {
                number += 1;
                if self.options.only_image.is_none_or(|only| only == number) {
                    self.try_number(&session, seed, kind, number, index)?;
                }
            }
        }
        if self.options.only_image.is_none() {
            self.fill(engine, mode, seed, number + 1)?;
        }
        Ok(())
    }

    fn try_number(
        &mut self,
        session: &Session,
        seed: u64,
        kind: Kind,
        number: usize,
        index: usize,
    ) -> anyhow::Result<()> {
        let mut random = Seeded::derived(seed, "image", number as u64);
        let image = session.image(kind, index, self.options.images, &mut random);
        let Some(image) = image else { return Ok(()) };
        // Each its own: a node that hangs still has the last one open.
        let directory = self.workplace.join(format!("image-{number}"));
        let settings = node::settings(session.engine, session.mode, &directory);
        let expected = Expectation::at(&session.writes, image.at);
        let verdict = try_image(&settings, &image, expected, seed)?;
        let kept_in = match verdict {
            Verdict::Broken(_) => {
                let name = format!("{}-{}-{seed}-{number}", session.engine, session.mode);
                let kept = self.workplace.join(name);
                materialise(&image.files, &kept)?;
                Some(kept)
            }
            _ => None,
        };
        self.note(session.engine, session.mode, seed, number, kind, image.story, verdict, kept_in);
        std::fs::remove_dir_all(&directory)?;
        Ok(())
    }

    fn fill(&mut self, engine: Engine, mode: Mode, seed: u64, number: usize) -> anyhow::Result<()> {
        let directory = self.workplace.join("full");
        match fill_disk(engine, mode, seed, &directory)? {
            Ok((story, verdict)) => {
                self.note(engine, mode, seed, number, Kind::Full, story, verdict, None);
            }
            Err(reason) => {
                let line = format!("{engine}, {mode} mode, disk full: {reason}");
                if !self.report.not_tried.contains(&line) {
                    self.report.not_tried.push(line);
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one line of the report")]
    fn note(
        &mut self,
        engine: Engine,
        mode: Mode,
        seed: u64,
        image: usize,
        kind: Kind,
        story: String,
        verdict: Verdict,
        kept_in: Option<PathBuf>,
    ) {
        let place = (engine.as_str(), mode.as_str(), kind);
        let tally = self.report.tallies.entry(place).or_default();
        tally.tried += 1;
        match verdict {
            Verdict::Held => tally.held += 1,
            Verdict::Refused(line) => {
                tally.refused += 1;
                self.report.refusals.entry(place).or_insert(line);
            }
            Verdict::Broken(problem) => {
                let broken =
                    BrokenFile { engine, mode, seed, image, kind, story, problem, kept_in };
                self.report.broken.push(broken);
            }
        }
    }
}
