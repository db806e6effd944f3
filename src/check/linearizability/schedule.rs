//! Which key is given how many steps, and on which processor.
//!
//! Every key first gets an equal share of the whole budget; what is left over is then shared among
//! the keys that could not be decided with that. The shares depend on the history alone, so that
//! the answers do not depend on the machine.

use std::thread;

use super::{Answer, History, Key, Mode, Op, judge_key};
use crate::check::cut;

/// How much work may be spent. A step is one try of a next operation, about a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub steps_per_key: u64,
    /// For all keys together.
    pub steps: u64,
}

impl Budget {
    /// Enough for what simulated worlds and `compare` record, and seconds where it is not.
    pub const DEFAULT: Budget = Budget { steps_per_key: 500_000, steps: 2_000_000 };

    /// A budget for `steps_per_key`, with the usual room for several hard keys.
    pub fn per_key(steps_per_key: u64) -> Budget {
        Budget { steps_per_key, steps: steps_per_key.saturating_mul(4) }
    }
}

/// What was found out about a key.
#[derive(Clone, Debug)]
pub struct KeyJudgement {
    pub key: Key,
    pub answer: Answer,
    /// How many tries it took.
    pub steps: u64,
}

/// The least that every key gets, however many there are: an easy key takes a step a write.
const LEAST_STEPS_PER_KEY: u64 = 1_000;

/// Smaller histories are judged on one processor: starting threads would take longer.
const PARALLEL_FROM_OPS: usize = 20_000;

pub fn judge(history: &History, budget: Budget) -> Vec<KeyJudgement> {
    let work = cut::by_key(history);
    let threads = match history.ops.len() {
        0..PARALLEL_FROM_OPS => 1,
        _ => thread::available_parallelism().map_or(1, usize::from),
    };
    let mode = history.header.mode;
    let share = (budget.steps / work.len().max(1) as u64)
        .max(LEAST_STEPS_PER_KEY)
        .min(budget.steps_per_key);
    let all: Vec<&(&Key, Vec<&Op>)> = work.iter().collect();
    let mut judged = judge_all(&all, mode, share, threads);
    let hard: Vec<usize> = (0..judged.len())
        .filter(|place| judged[*place].answer == Answer::Undecided && judged[*place].steps > 0)
        .collect();
    let spent: u64 = judged.iter().map(|judged| judged.steps).sum();
    let left = budget.steps.saturating_sub(spent) / hard.len().max(1) as u64;
    let second_share = left.min(budget.steps_per_key);
    if second_share > share && !hard.is_empty() {
        let again: Vec<&(&Key, Vec<&Op>)> = hard.iter().map(|place| &work[*place]).collect();
        for (place, better) in hard.iter().zip(judge_all(&again, mode, second_share, threads)) {
            judged[*place] = better;
        }
    }
    judged
}

fn judge_all(
    work: &[&(&Key, Vec<&Op>)],
    mode: Mode,
    steps: u64,
    threads: usize,
) -> Vec<KeyJudgement> {
    let one = |(key, ops): &(&Key, Vec<&Op>)| {
        let (answer, steps) = judge_key(key, ops, mode, steps);
        KeyJudgement { key: (*key).clone(), answer, steps }
    };
    if threads <= 1 || work.len() <= 1 {
        return work.iter().map(|key| one(key)).collect();
    }
    // Neighbouring keys are often alike, so each thread takes every so-many-th.
    let by_thread: Vec<Vec<KeyJudgement>> = thread::scope(|scope| {
        let run = |first: usize| {
            scope.spawn(move || {
                let mine = work.iter().skip(first).step_by(threads);
                mine.map(|key| one(key)).collect::<Vec<_>>()
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        let joined = running.into_iter().map(|thread| match thread.join() {
            Ok(judged) => judged,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let mut by_thread: Vec<_> = by_thread.into_iter().map(Vec::into_iter).collect();
    (0..work.len()).filter_map(|place| by_thread[place % threads].next()).collect()
}
