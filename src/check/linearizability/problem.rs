//! One key's operations, put into the form that the search works on.
//!
//! **What is left out, soundly.** A write that definitely did not happen. A write with an unknown
//! outcome whose value no answer shows and that no answer could need: that it never happened is
//! always allowed.
//!
//! **What is tightened, soundly.** A write whose value an answer shows happened before that answer,
//! so it counts as answered by then, also where its own answer came later or never.

use std::collections::HashMap;

use super::register::{ANY_OTHER, Condition, Demand, Owners, State, ValueNumber};
use crate::check::sights::{Seen, Sight};
use crate::history::{Ended, Op, Value};
use crate::types::{Key, Version};

/// One operation on the key.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub invoked_us: u64,
    /// The end of time where there is no answer.
    pub answered_us: u64,
    /// What it needs the state to be.
    pub demand: Demand,
    /// The state that it leaves behind; `None` for a read.
    pub leaves: Option<State>,
}

impl Event {
    /// Whether it is a write that happens whatever stands there.
    pub fn is_plain_write(&self) -> bool {
        self.leaves.is_some() && self.demand == Demand::Anything
    }
}

/// Everything about one key.
#[derive(Debug, Default)]
pub struct Problem {
    /// What must have happened, by the time of invocation.
    pub required: Vec<Event>,
    /// Writes that may have happened, by the time of invocation.
    pub optional: Vec<Event>,
    pub owners: Owners,
    /// Who needs each value to be there: places in `required`.
    pub needs: Vec<Vec<usize>>,
    /// Who needs a version that is not known to be any write's: places in `required`.
    pub needs_of_version: HashMap<Version, Vec<usize>>,
    /// Whether a write that nobody needs may be put anywhere in its time, so that the search need
    /// not try every place: no answer tells only that something stood there.
    pub unneeded_are_free: bool,
    /// Whether anything needs the key to hold nothing.
    pub absence_matters: bool,
}

/// Why a key has no problem to solve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValuesRepeat;

impl Problem {
    /// The problem of `key`, whose operations are `ops`: writes to it, and reads of which
    /// `is_promised` says whether they take part.
    pub fn of(
        key: &Key,
        ops: &[&Op],
        is_promised: impl Fn(&Op) -> bool,
    ) -> Result<Problem, ValuesRepeat> {
        let writes: Vec<&Op> = ops
            .iter()
            .copied()
            .filter(|op| op.action.is_write() && op.ended != Ended::Failed && op.key == *key)
            .collect();
        let sights: Vec<Sight> = ops
            .iter()
            .filter(|op| op.action.is_write() || is_promised(op))
            .filter_map(|op| Sight::of(op, key))
            .collect();
        let mut written = Written::of(&writes)?;
        written.learn_versions(&sights);
        let mut problem = Problem { owners: written.owners.clone(), ..Problem::default() };
        for sight in &sights {
            problem.required.push(written.event_of_sight(sight));
        }
        let shown = written.shown(&problem.required);
        for (op, number) in writes.iter().zip(&written.numbers) {
            let event = written.event_of_write(op, *number);
            let is_shown = number.is_some_and(|number| shown[number as usize]);
            if op.ended == Ended::Ok || is_shown {
                problem.required.push(event);
            } else {
                problem.optional.push(event);
            }
        }
        problem.finish(written.versions.len());
        Ok(problem)
    }

    fn finish(&mut self, values: usize) {
        self.tighten(values);
        self.leave_out_the_useless();
        self.required.sort_by_key(|event| (event.invoked_us, event.answered_us));
        self.optional.sort_by_key(|event| event.invoked_us);
        self.needs = vec![Vec::new(); values];
        for (place, event) in self.required.iter().enumerate() {
            if let Some(number) = self.needed(event) {
                self.needs[number as usize].push(place);
            } else if let Demand::Held { version: Some(version), .. } = event.demand {
                self.needs_of_version.entry(version).or_default().push(place);
            }
        }
        self.unneeded_are_free = !self.required.iter().any(|event| self.is_blind(event))
            && self.optional.iter().all(|event| event.demand == Demand::Anything);
        let mut named = vec![false; values];
        for number in self.everything().filter_map(|event| self.needed(event)) {
            named[number as usize] = true;
        }
        for event in self.required.iter_mut().chain(&mut self.optional) {
            // Two writes that no answer can tell apart lead to equal states.
            if let Some(State::Holding { value, version }) = &mut event.leaves
                && !named[*value as usize]
            {
                *value = ANY_OTHER;
                *version = version.filter(|_| !self.unneeded_are_free);
            }
        }
    }

    fn everything(&self) -> impl Iterator<Item = &Event> {
        self.required.iter().chain(&self.optional)
    }

    /// Whether `event` tells that something stood there, and not which write left it.
    fn is_blind(&self, event: &Event) -> bool {
        match event.demand {
            Demand::Not(_) | Demand::Held { value: None, version: None } => true,
            Demand::Held { version: Some(version), .. } => !self.owners.contains_key(&version),
            Demand::Anything | Demand::Nothing | Demand::Impossible | Demand::Held { .. } => false,
        }
    }

    /// The value that `event` needs to be there.
    fn needed(&self, event: &Event) -> Option<ValueNumber> {
        let Demand::Held { value, version } = event.demand else { return None };
        value.or_else(|| self.owners.get(&version?).copied().flatten())
    }

    /// Counts writes as answered once an answer has shown them.
    fn tighten(&mut self, values: usize) {
        let mut first_shown_us = vec![u64::MAX; values];
        for event in &self.required {
            if let Some(number) = self.needed(event) {
                let first = &mut first_shown_us[number as usize];
                *first = (*first).min(event.answered_us);
            }
        }
        for event in &mut self.required {
            if let Some(State::Holding { value, .. }) = event.leaves {
                let by = first_shown_us[value as usize].max(event.invoked_us);
                event.answered_us = event.answered_us.min(by);
            }
        }
    }

    fn leave_out_the_useless(&mut self) {
        let deletes_help =
            self.everything().any(|e| matches!(e.demand, Demand::Nothing | Demand::Not(_)));
        let puts_help = self.everything().any(|event| self.is_blind(event));
        self.absence_matters = deletes_help;
        self.optional.retain(|event| match event.leaves {
            Some(State::Absent) => deletes_help,
            Some(State::Holding { .. }) => puts_help,
            None => false,
        });
    }
}

/// What is known of the values written to a key.
struct Written<'a> {
    /// The number of each write's value, in the order of the writes; `None` for deletes.
    numbers: Vec<Option<ValueNumber>>,
    by_value: HashMap<&'a Value, ValueNumber>,
    /// Each value's version, where an answer told it.
    versions: Vec<Option<Version>>,
    owners: Owners,
}

impl<'a> Written<'a> {
    fn of(writes: &[&'a Op]) -> Result<Written<'a>, ValuesRepeat> {
        let mut written = Written {
            numbers: Vec::with_capacity(writes.len()),
            by_value: HashMap::new(),
            versions: Vec::new(),
            owners: Owners::new(),
        };
        for op in writes {
            let version = op.version.filter(|_| op.ended == Ended::Ok);
            let number = (op.action == crate::history::Action::Put).then(|| {
                written.versions.push(version);
                (written.versions.len() - 1) as ValueNumber
            });
            if let (Some(number), Some(value)) = (number, &op.value)
                && written.by_value.insert(value, number).is_some()
            {
                return Err(ValuesRepeat);
            }
            if let Some(version) = version {
                written.owners.insert(version, number);
            }
            written.numbers.push(number);
        }
        Ok(written)
    }

    /// Takes the versions of writes with unknown outcomes from the answers that show them.
    fn learn_versions(&mut self, sights: &[Sight<'a>]) {
        for sight in sights {
            let Some((Some(value), Some(version))) = sight.held() else { continue };
            let Some(number) = self.by_value.get(value) else { continue };
            let known = &mut self.versions[*number as usize];
            if known.is_none() && !self.owners.contains_key(&version) {
                *known = Some(version);
                self.owners.insert(version, Some(*number));
            }
        }
    }

    fn event_of_sight(&self, sight: &Sight<'a>) -> Event {
        let demand = match sight.seen {
            Seen::Nothing => Demand::Nothing,
            Seen::Not(version) => Demand::Not(version),
            Seen::Held { version, .. } if sight.op.if_match.is_some_and(|v| version == Some(v)) => {
                // Refused, naming the very version that the condition asked for.
                Demand::Impossible
            }
            Seen::Held { value: None, version } => self.of_version(version),
            Seen::Held { value: Some(value), version } => match self.by_value.get(value) {
                Some(number) => Demand::Held { value: Some(*number), version },
                None => Demand::Impossible,
            },
        };
        let (invoked_us, answered_us) = (sight.op.invoked_us, sight.op.answered_us);
        Event { invoked_us, answered_us: answered_us.max(invoked_us), demand, leaves: None }
    }

    fn of_version(&self, version: Option<Version>) -> Demand {
        match version.and_then(|version| self.owners.get(&version)) {
            // A delete leaves nothing behind that could have a version.
            Some(None) => Demand::Impossible,
            Some(number) => Demand::Held { value: *number, version },
            None => Demand::Held { value: None, version },
        }
    }

    fn event_of_write(&self, op: &Op, number: Option<ValueNumber>) -> Event {
        let condition = Condition { version: op.if_match, absent: op.if_absent };
        let demand = match condition.demand() {
            Demand::Held { version, .. } => self.of_version(version),
            other => other,
        };
        let leaves = number.map_or(State::Absent, |value| State::Holding {
            value,
            version: self.versions[value as usize],
        });
        let answered = op.ended == Ended::Ok;
        Event {
            invoked_us: op.invoked_us,
            answered_us: if answered { op.answered_us.max(op.invoked_us) } else { u64::MAX },
            demand,
            leaves: Some(leaves),
        }
    }

    /// Which values some answer shows.
    fn shown(&self, sights: &[Event]) -> Vec<bool> {
        let mut shown = vec![false; self.versions.len()];
        for event in sights {
            if let Demand::Held { value: Some(number), .. } = event.demand {
                shown[number as usize] = true;
            }
        }
        shown
    }
}
