//! Small random histories, judged by the search and by the judge that tries everything.

use super::judge;
use super::made::{named, v};
use crate::check::linearizability::{self, Answer, Budget};
use crate::check::*;
use crate::history::{Header, Item, Seeded, Served};

/// How many histories the two must agree on.
const HISTORIES: u64 = 10_000;
/// The smallest share of each answer, in percent: a test of one answer alone tests little.
const LEAST_SHARE_PERCENT: u64 = 25;
/// How many kinds of change may make a history wrong after it was made.
const CHANGES: usize = 5;

fn key() -> Key {
    Key::new("k", 8).expect("a key")
}

/// Makes the answers that a register would have given, at one instant of each operation.
struct Register {
    random: Seeded,
    /// The put whose value is there, and its version.
    holds: Option<(u32, Version)>,
    clock: u64,
    next_value: u32,
    versions: Vec<Version>,
}

impl Register {
    fn new(seed: u64) -> Register {
        let random = Seeded::derived(seed, "small history", 0);
        Register { random, holds: None, clock: 10, next_value: 1, versions: vec![v(1)] }
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn history(&mut self) -> History {
        let count = 3 + self.random.below(5);
        let span = 4 + self.random.below(60);
        let mut times: Vec<(u64, u64, u64)> = (0..count)
            .map(|_| {
                let mut three = [0, 0, 0].map(|_: u64| self.random.below(span) as u64);
                three.sort_unstable();
                (three[1], three[0], three[2])
            })
            .collect();
        times.sort_unstable();
        let mut ops: Vec<Op> = times
            .into_iter()
            .enumerate()
            .map(|(client, (_, invoked_us, answered_us))| {
                let mut op = self.operation(client as u32, invoked_us);
                op.answered_us = answered_us;
                op
            })
            .collect();
        if self.chance(75) {
            for _ in 0..1 + self.random.below(4) {
                self.change(&mut ops);
            }
        }
        History::new(Header::new(Mode::Leader, "random", 1, 3), ops)
    }

    fn operation(&mut self, client: u32, invoked_us: u64) -> Op {
        let action = [Action::Put, Action::Get, Action::Get, Action::Delete, Action::List];
        let action = action[[0, 0, 0, 1, 1, 2, 2, 3, 4][self.random.below(9)]];
        let op = Op::begun(client, action, key(), 1, Level::Linearizable, invoked_us);
        match action {
            Action::Get | Action::List => self.read(op),
            Action::Put | Action::Delete => self.write(op),
        }
    }

    fn read(&mut self, mut op: Op) -> Op {
        op.ended = Ended::Ok;
        op.served = Some(Served(EffectiveLevel::Linearizable));
        if op.action == Action::Get {
            op.value = self.holds.map(|(value, _)| named(value));
            op.version = self.holds.map(|(_, version)| version);
            return op;
        }
        let values = self.chance(50);
        let item =
            |(value, version)| Item { key: key(), version, value: values.then(|| named(value)) };
        op.items = Some(self.holds.map(item).into_iter().collect());
        if self.chance(30) {
            let after = Key::new("k2", 8).expect("a key");
            let other = Item { key: after, version: v(999), value: None };
            op.items.as_mut().expect("items").push(other);
        }
        op.more = self.chance(20);
        op
    }

    fn write(&mut self, mut op: Op) -> Op {
        if op.action == Action::Put {
            op.value = Some(named(self.next_value));
            self.next_value += 1;
        }
        match self.random.below(6) {
            0 => op.if_absent = true,
            1 => {
                let known = self.versions[self.random.below(self.versions.len())];
                op.if_match = Some(self.holds.map_or(known, |(_, version)| version));
            }
            2 => op.if_match = Some(self.versions[self.random.below(self.versions.len())]),
            _ => {}
        }
        let current = self.holds.map(|(_, version)| version);
        let held = (!op.if_absent || current.is_none())
            && op.if_match.is_none_or(|wanted| current == Some(wanted));
        let unknown = self.chance(30);
        if !held {
            (op.ended, op.status, op.version) = (Ended::Failed, 412, current);
        } else if self.chance(90) || !unknown {
            self.clock += 1;
            let version = v(self.clock);
            self.versions.push(version);
            self.holds = match op.action {
                Action::Put => Some((self.next_value - 1, version)),
                _ => None,
            };
            (op.ended, op.status, op.version) = (Ended::Ok, 204, Some(version));
        }
        if unknown {
            (op.ended, op.status, op.version) = (Ended::Unknown, 504, None);
        } else if self.chance(5) {
            // An answer whose version got lost.
            op.version = None;
        }
        op
    }

    /// Changes something of a history, so that it may be wrong.
    fn change(&mut self, ops: &mut [Op]) {
        let place = self.random.below(ops.len());
        let version = self.versions[self.random.below(self.versions.len())];
        let value = self.random.below(self.next_value as usize) as u32;
        let kind = self.random.below(CHANGES);
        let op = &mut ops[place];
        match (kind, op.action) {
            (0, _) => {
                op.invoked_us += 9;
                op.answered_us += 9;
            }
            (1, _) => op.answered_us = op.invoked_us,
            (2, Action::Put | Action::Delete) => {
                let ended = [Ended::Failed, Ended::Unknown][value as usize % 2];
                (op.ended, op.version, op.status) = (ended, None, 503);
            }
            (_, Action::Put | Action::Delete) if op.status == 412 => op.version = Some(version),
            (_, Action::Put | Action::Delete) => {
                op.if_match = Some(version).filter(|_| op.version != Some(version));
            }
            (_, Action::Get) if value == 0 => (op.value, op.version) = (None, None),
            (_, Action::Get) => {
                op.value = Some(named(value));
                op.version = Some(version);
            }
            (_, Action::List) => op.items = Some(Vec::new()),
        }
    }
}

#[test]
fn the_search_and_the_judge_agree_on_ten_thousand_small_histories() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..HISTORIES {
        let history = Register::new(seed).history();
        let expected = judge::is_linearizable(&history, &key());
        let judged = linearizability::judge(&history, Budget::DEFAULT);
        let found = judged.iter().find(|judged| judged.key == key());
        let answer = found.map_or(Answer::Linearizable, |judged| judged.answer);
        let agreed = match answer {
            Answer::Linearizable => expected,
            Answer::NotLinearizable => !expected,
            Answer::Undecided => false,
        };
        if !agreed {
            let mut text = Vec::new();
            history.write(&mut text).expect("writes");
            let text = String::from_utf8_lossy(&text);
            panic!("seed {seed}: the search says {answer:?}, the judge {expected}:\n{text}");
        }
        if expected { yes += 1 } else { no += 1 }
    }
    println!("{yes} linearizable, {no} not");
    for share in [yes, no] {
        assert!(share * 100 >= HISTORIES * LEAST_SHARE_PERCENT, "{yes} linearizable, {no} not");
    }
}
