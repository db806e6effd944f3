//! The simulator tried on itself: worlds with a planted bug, until one is caught.
//!
//! A world counts only where it is good without the bug: what is broken anyway catches nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{SimOptions, run};
use crate::planted::{self, Bug, Caught};
use crate::types::Mode;

/// How far to go for one bug.
#[derive(Clone, Debug)]
pub struct SabotageOptions {
    pub modes: Vec<Mode>,
    pub first: u64,
    /// At most so many worlds a mode.
    pub worlds: u64,
    pub jobs: usize,
}

/// Runs worlds with `bug` planted until one breaks a promise: the first such by seed, in whichever
/// of the bug's modes. `None` where all of them look good.
pub fn sabotage(bug: Bug, options: &SabotageOptions) -> std::io::Result<Option<Caught>> {
    let modes: Vec<Mode> =
        options.modes.iter().copied().filter(|mode| bug.modes().contains(mode)).collect();
    let total = options.worlds * modes.len() as u64;
    let next = AtomicU64::new(0);
    // The number of the first world that caught it, and how.
    let caught: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let failed: Mutex<Option<std::io::Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                planted::plant(Some(bug));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = caught.lock().as_ref().is_some_and(|(first, _)| *first < number);
                    if number >= total || over || failed.lock().is_some() {
                        break;
                    }
                    let mode = modes[(number % modes.len() as u64) as usize];
                    let seed = options.first + number / modes.len() as u64;
                    let options = SimOptions { mode, seed };
                    match run(options) {
                        Ok(report) => {
                            let Some(broken) = report.broken.first() else { continue };
                            if !planted::without(|| is_good(options)) {
                                continue;
                            }
                            let mut caught = caught.lock();
                            if caught.as_ref().is_none_or(|(first, _)| number < *first) {
                                *caught = Some((number, format!("{} ({mode})", broken.check)));
                            }
                        }
                        Err(error) => *failed.lock() = Some(error),
                    }
                }
                planted::plant(None);
            });
        }
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    Ok(caught.into_inner().map(|(number, check)| Caught { worlds: number + 1, check }))
}

/// Whether the world breaks no promise.
fn is_good(options: SimOptions) -> bool {
    run(options).is_ok_and(|report| report.broken.is_empty())
}
