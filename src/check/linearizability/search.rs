//! The search: is there an order of a key's operations that explains every answer?
//!
//! Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) try every operation that could
//! be next, that is, whose invocation no undone operation's answer precedes, and go back where none
//! fits. Lowe ("Testing for Linearizability", 2017) remembers every pair of done operations and
//! state that was tried, so that none is tried twice.
//!
//! What makes it fast on a register whose values are unique, without giving up an answer:
//! - A read that may be next and fits is next: it changes nothing, so later is no better.
//! - A value is not written over while a read of it is to come.
//! - A write that may or may not have happened happens only right before something that could not
//!   be next without it: anywhere else it could as well be left out or come later.
//! - A write that no answer needs happens as soon as it can.
//! - Writes are tried in the order of their versions, where those are known: in leader mode that is
//!   the order in which they happened, and the first try succeeds.

use std::collections::HashSet;

use super::problem::{Event, Problem};
use super::register::{ANY_OTHER, Met, State};
use super::set::Filling;
use crate::types::Version;

/// What the search says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Linearizable,
    NotLinearizable,
    /// The budget was spent before there was an answer.
    Undecided,
}

/// A point of the search: what has happened, and what the key then holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Config {
    required: Filling,
    optional: Filling,
    state: State,
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Write {
        place: usize,
    },
    /// A read that tells the version of what stands there.
    Bind {
        place: usize,
        version: Version,
    },
    Optional {
        place: usize,
    },
}

struct Branch {
    config: Config,
    /// The best is last.
    moves: Vec<Move>,
}

/// What a walk over the operations that may be next found.
#[derive(Default)]
struct Walk {
    moves: Vec<Move>,
    /// Operations that may be next and do not fit the state.
    blocked: Vec<usize>,
    /// A write that may as well be next as later.
    free: Option<usize>,
    /// When the first undone operation was answered: what was invoked later is not next.
    horizon_us: u64,
    /// Whether everything required is done.
    complete: bool,
}

/// Searches within `budget` steps; also says how many it took.
pub fn search(problem: &Problem, budget: u64) -> (Answer, u64) {
    let mut steps = 0;
    let mut tried = HashSet::new();
    let mut branches: Vec<Branch> = Vec::new();
    let mut next = Some(Config::start());
    loop {
        if let Some(mut config) = next.take() {
            steps += 1;
            let walk = problem.walk(&mut config);
            if walk.complete {
                return (Answer::Linearizable, steps);
            }
            if steps >= budget {
                return (Answer::Undecided, steps);
            }
            let moves = problem.moves(&config, walk);
            // What comes back to nothing else is met once: what is done only grows.
            let first_time = branches.is_empty() || tried.insert(config.clone());
            if first_time && !moves.is_empty() {
                branches.push(Branch { config, moves });
            }
        }
        let Some(branch) = branches.last_mut() else { return (Answer::NotLinearizable, steps) };
        match branch.moves.pop() {
            Some(chosen) if branch.moves.is_empty() => {
                let config = std::mem::replace(&mut branch.config, Config::start());
                branches.pop();
                next = Some(problem.after(config, chosen));
            }
            Some(chosen) => next = Some(problem.after(branch.config.clone(), chosen)),
            None => {
                branches.pop();
            }
        }
    }
}

impl Config {
    fn start() -> Config {
        Config { required: Filling::default(), optional: Filling::default(), state: State::Absent }
    }
}

impl Problem {
    /// Does every read that may be next and fits, and finds what else may be next.
    fn walk(&self, config: &mut Config) -> Walk {
        let mut walk = Walk { horizon_us: u64::MAX, complete: true, ..Walk::default() };
        let first = config.required.first_missing();
        for (place, event) in self.required.iter().enumerate().skip(first) {
            if event.invoked_us > walk.horizon_us {
                walk.complete = false;
                break;
            }
            if config.required.contains(place) {
                continue;
            }
            let met = event.demand.met_by(config.state, &self.owners);
            match (met, event.leaves) {
                (Met::Yes, None) => {
                    config.required.insert(place);
                    continue;
                }
                (Met::No, _) => walk.blocked.push(place),
                (Met::Binding(version), None) => walk.moves.push(Move::Bind { place, version }),
                (Met::Binding(version), Some(_)) if self.wastes(config, version, Some(place)) => {
                    walk.blocked.push(place);
                }
                (Met::Yes | Met::Binding(_), Some(_)) => {
                    if self.is_free(event) {
                        walk.free = walk.free.or(Some(place));
                    }
                    walk.moves.push(Move::Write { place });
                }
            }
            walk.complete = false;
            walk.horizon_us = walk.horizon_us.min(event.answered_us);
        }
        walk
    }

    /// Whether a write may happen as soon as nothing needs what stood there before.
    fn is_free(&self, event: &Event) -> bool {
        self.unneeded_are_free
            && event.is_plain_write()
            && match event.leaves {
                Some(State::Holding { value, .. }) => value == ANY_OTHER,
                Some(State::Absent) => !self.absence_matters,
                None => false,
            }
    }

    /// The moves worth trying, the best last.
    fn moves(&self, config: &Config, mut walk: Walk) -> Vec<Move> {
        let (needed_by, more) = self.needed_by(config);
        if let (None, Some(place)) = (needed_by, walk.free)
            && (config.state != State::Absent || !self.absence_matters)
        {
            return vec![Move::Write { place }];
        }
        // A value is not written over while somebody else still needs it.
        walk.moves.retain(|chosen| match chosen {
            Move::Write { place } => !more && needed_by.is_none_or(|only| only == *place),
            Move::Bind { .. } | Move::Optional { .. } => true,
        });
        walk.moves.sort_by_key(|chosen| std::cmp::Reverse(self.rank(*chosen)));
        if needed_by.is_none() && !self.optional.is_empty() {
            let mut optional = self.optional_moves(config, &walk);
            optional.append(&mut walk.moves);
            return optional;
        }
        walk.moves
    }

    /// Who still needs the value that stands there: the first, and whether there are more.
    fn needed_by(&self, config: &Config) -> (Option<usize>, bool) {
        let State::Holding { value, version } = config.state else { return (None, false) };
        let of_value = self.needs.get(value as usize);
        let of_version = version.and_then(|version| self.needs_of_version.get(&version));
        let needs = of_value.into_iter().chain(of_version).flatten();
        let mut undone = needs.copied().filter(|place| !config.required.contains(*place));
        (undone.next(), undone.next().is_some())
    }

    /// Whether a write that takes what stands there for `version` leaves others without it.
    fn wastes(&self, config: &Config, version: Version, by: Option<usize>) -> bool {
        let needs = self.needs_of_version.get(&version).into_iter().flatten();
        needs.copied().any(|place| Some(place) != by && !config.required.contains(place))
    }

    /// Small for what to try first: reads, then writes by version, then writes by their answers.
    fn rank(&self, chosen: Move) -> (u8, Option<Version>, u64) {
        let event = match chosen {
            Move::Bind { place, .. } => return (0, None, self.required[place].answered_us),
            Move::Write { place } => &self.required[place],
            Move::Optional { place } => &self.optional[place],
        };
        match event.leaves {
            Some(State::Holding { version: version @ Some(_), .. }) => {
                (1, version, event.answered_us)
            }
            _ => (2, None, event.answered_us),
        }
    }

    /// The writes with unknown outcomes that let something blocked be next.
    fn optional_moves(&self, config: &Config, walk: &Walk) -> Vec<Move> {
        let unused = || {
            let invoked = |event: &Event| event.invoked_us <= walk.horizon_us;
            let all = self.optional.iter().enumerate().take_while(move |(_, e)| invoked(e));
            all.filter(|(place, _)| !config.optional.contains(*place))
        };
        let meets = |event: &Event, state| event.demand.met_by(state, &self.owners) != Met::No;
        let mut blocked: Vec<&Event> = walk.blocked.iter().map(|p| &self.required[*p]).collect();
        // Such a write can itself have needed another.
        blocked.extend(unused().map(|(_, e)| e).filter(|e| !meets(e, config.state)));
        if blocked.is_empty() {
            return Vec::new();
        }
        let mut plain_tried: Vec<State> = Vec::new();
        let mut moves = Vec::new();
        for (place, event) in unused().filter(|(_, event)| meets(event, config.state)) {
            let Some(state) = event.leaves.filter(|state| *state != config.state) else { continue };
            if let Met::Binding(version) = event.demand.met_by(config.state, &self.owners)
                && self.wastes(config, version, None)
            {
                continue;
            }
            // Of writes that differ in nothing but their time, the earliest will do.
            if event.is_plain_write() {
                if plain_tried.contains(&state) {
                    continue;
                }
                plain_tried.push(state);
            }
            if blocked.iter().any(|waiting| meets(waiting, state)) {
                moves.push(Move::Optional { place });
            }
        }
        moves
    }

    fn after(&self, mut config: Config, chosen: Move) -> Config {
        match chosen {
            Move::Write { place } => {
                config.required.insert(place);
                config.state = self.required[place].leaves.unwrap_or(config.state);
            }
            Move::Bind { place, version } => {
                config.required.insert(place);
                if let State::Holding { version: bound, .. } = &mut config.state {
                    *bound = Some(version);
                }
            }
            Move::Optional { place } => {
                config.optional.insert(place);
                config.state = self.optional[place].leaves.unwrap_or(config.state);
            }
        }
        config
    }
}
