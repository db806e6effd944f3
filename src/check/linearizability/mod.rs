//! Linearizability: is there one order of a key's operations, within their times, that explains
//! every answer?
//!
//! **Why it exists.** The other checks look for anomalies with a name. This one finds any that a
//! client could notice: a register whose operations took effect at one instant each, between
//! question and answer, is what the level `linearizable` promises (Herlihy and Wing,
//! "Linearizability", 1990).
//!
//! **What takes part.** Every write of the history, and the reads, lists and refused conditions
//! whose level promises that a read shows every write acknowledged before it began. Linearizability
//! is a property of each key alone (their theorem 1), so keys are judged one by one; a list is one
//! read of every key it covers. A write whose outcome is unknown may take effect at any time after
//! it was asked for, or never. A write acknowledged under a condition held it; one refused with 412
//! saw that it did not hold.
//!
//! **Guarantees.** `Linearizable` and `NotLinearizable` are proven, under what the format promises:
//! every value is written once, and the store was empty at the start. Where the budget does not
//! suffice the answer is `Undecided`, never a guess. The answers depend on the history and the
//! budget alone, and not on how many processors there are.
//!
//! **Does not** judge several keys together, nor the order of one client's operations where the
//! clock shows one microsecond for an answer and the question after it, nor expiry.

mod problem;
mod register;
mod schedule;
mod search;
mod set;

use problem::Problem;
pub use schedule::{Budget, KeyJudgement};
pub use search::Answer;

use super::cut;
use super::finding::{Finding, Tally};
use super::sights::Sight;
use super::{Ended, History, Key, Level, Mode, Op, promises_freshness};

/// The name of the check.
pub const NAME: &str = "linearizability";

/// Judges every key of `history`, in key order.
pub fn judge(history: &History, budget: Budget) -> Vec<KeyJudgement> {
    schedule::judge(history, budget)
}

/// The judgement as a finding: promised in leader mode, counted in leaderless mode.
pub fn check(history: &History, budget: Budget) -> Finding {
    let mode = history.header.mode;
    let looks_for = "a key whose answers no single order of its operations explains";
    let level = Level::default_for(mode);
    let mut tally = Tally::new(NAME, looks_for, level.as_str(), mode == Mode::Leader);
    for judged in judge(history, budget) {
        tally.examined();
        match judged.answer {
            Answer::Linearizable => {}
            Answer::Undecided => tally.unverified(),
            Answer::NotLinearizable => tally.found(|| explain(history, &judged.key, budget)),
        }
    }
    tally.done()
}

/// Judges one key, given the operations that concern it.
fn judge_key(key: &Key, ops: &[&Op], mode: Mode, steps: u64) -> (Answer, u64) {
    match Problem::of(key, ops, |op| promises_freshness(mode, op)) {
        Ok(problem) => search::search(&problem, steps),
        // Reads cannot be traced to one write: there is nothing to say.
        Err(problem::ValuesRepeat) => (Answer::Undecided, 0),
    }
}

/// The shortest beginning of a key's history that is not linearizable. Beginnings of linearizable
/// histories are linearizable, so halving finds it.
fn shortest_failing_beginning(history: &History, key: &Key, budget: Budget) -> Option<History> {
    let by_key = cut::by_key(history);
    let of_key = by_key.iter().find(|(other, _)| *other == key);
    let of_key = of_key.map(|(key, ops)| cut::of_key(history, key, ops))?;
    let fails = |beginning: &History| {
        let ops: Vec<&Op> = beginning.ops.iter().collect();
        let steps = budget.steps_per_key;
        judge_key(key, &ops, history.header.mode, steps).0 == Answer::NotLinearizable
    };
    if !fails(&of_key) {
        return None;
    }
    let mut instants: Vec<u64> = of_key.ops.iter().map(|op| op.answered_us).collect();
    instants.sort_unstable();
    instants.dedup();
    let ends = instants.partition_point(|instant| !fails(&cut::until(&of_key, *instant)));
    instants.get(ends).map(|instant| cut::until(&of_key, *instant))
}

fn explain(history: &History, key: &Key, budget: Budget) -> String {
    let beginning = shortest_failing_beginning(history, key, budget);
    let Some(beginning) = beginning else { return format!("key {key}") };
    let count = beginning.ops.len();
    let answered = beginning.ops.iter().filter(|op| op.ended != Ended::Unknown);
    let last = answered.max_by_key(|op| op.answered_us);
    let last = last.map_or(String::new(), |op| match Sight::of(op, key) {
        Some(sight) => format!(", the last of which is: {}", sight.describe(key)),
        None => format!(
            ", the last of which is: client {} was answered a {} of {key} by node {} ({} to {} µs)",
            op.client, op.action, op.node, op.invoked_us, op.answered_us
        ),
    });
    format!("no order explains the first {count} operations on {key}{last}")
}
