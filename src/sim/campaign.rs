//! Many worlds, on several threads, and what they came to together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use super::{Broken, Coverage, SimOptions, SimReport, WORLDS_TO_SEE_ALL, run};
use crate::types::Mode;

/// Which worlds to run, and how.
#[derive(Clone, Debug)]
pub struct CampaignOptions {
    pub modes: Vec<Mode>,
    /// The first and the last seed.
    pub first: u64,
    pub last: u64,
    /// Threads.
    pub jobs: usize,
    /// Runs every world twice and compares the traces.
    pub twice: bool,
}

/// What one world came to, as far as a campaign cares.
#[derive(Debug)]
pub struct Outcome {
    pub options: SimOptions,
    pub operations: usize,
    pub simulated_ms: u64,
    pub coverage: Coverage,
    pub broken: Vec<Broken>,
    /// For each broken promise the shortest history that shows it, where a history does.
    pub evidence: Vec<Vec<String>>,
    /// Whether a second run gave the same trace; `None` where there was none.
    pub replayed: Option<bool>,
}

impl Outcome {
    /// Whether nothing is wrong with the world.
    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.replayed != Some(false)
    }
}

/// What all worlds came to.
#[derive(Debug, Default)]
pub struct Campaign {
    pub worlds: BTreeMap<Mode, u64>,
    pub operations: u64,
    pub simulated_ms: u64,
    pub replayed: u64,
    pub coverage: BTreeMap<Mode, Coverage>,
    /// The worlds that broke a promise or did not replay.
    pub failed: Vec<Outcome>,
}

impl Campaign {
    /// What never happened in a mode that was tried often enough for it.
    pub fn never_happened(&self) -> Vec<(Mode, &'static str)> {
        let tried = self.worlds.iter().filter(|(_, worlds)| **worlds >= WORLDS_TO_SEE_ALL);
        tried
            .filter_map(|(mode, _)| Some((*mode, self.coverage.get(mode)?.missing(*mode))))
            .flat_map(|(mode, missing)| missing.into_iter().map(move |what| (mode, what)))
            .collect()
    }

    /// Whether every promise held and everything happened that should have.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.never_happened().is_empty()
    }

    fn take(&mut self, outcome: Outcome) {
        let mode = outcome.options.mode;
        *self.worlds.entry(mode).or_default() += 1;
        self.operations += outcome.operations as u64;
        self.simulated_ms += outcome.simulated_ms;
        self.replayed += u64::from(outcome.replayed == Some(true));
        self.coverage.entry(mode).or_default().merge(&outcome.coverage);
        if !outcome.is_good() {
            self.failed.push(outcome);
        }
    }
}

/// Runs the worlds. `each` is told of every one as it ends, and says whether to go on.
pub fn campaign(
    options: &CampaignOptions,
    each: &mut dyn FnMut(&Outcome) -> bool,
) -> std::io::Result<Campaign> {
    let modes = options.modes.len() as u64;
    let total = (options.last + 1).saturating_sub(options.first) * modes;
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let (sender, outcomes) = mpsc::channel();
    let mut campaign = Campaign::default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return;
                    }
                    let mode = options.modes[(number % modes) as usize];
                    let seed = options.first + number / modes;
                    let outcome = one(SimOptions { mode, seed }, options.twice);
                    if sender.send(outcome).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for outcome in outcomes {
            let outcome = outcome.inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            if !each(&outcome) {
                stop.store(true, Ordering::Relaxed);
            }
            campaign.take(outcome);
        }
        Ok(campaign)
    })
}

/// Runs one world, once or twice.
fn one(options: SimOptions, twice: bool) -> std::io::Result<Outcome> {
    let report = run(options)?;
    let replayed = match twice {
        true => Some(run(options)?.trace.text() == report.trace.text()),
        false => None,
    };
    let evidence = report.broken.iter().map(|broken| broken.shortest(&report.history)).collect();
    let SimReport { operations, simulated_ms, coverage, broken, .. } = report;
    Ok(Outcome { options, operations, simulated_ms, coverage, broken, evidence, replayed })
}
