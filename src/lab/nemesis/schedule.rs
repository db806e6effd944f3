//! Which faults strike, drawn from a seed.
//!
//! Guarantees: the same seed, families and number of nodes give the same cycles; in any run of as
//! many cycles as there are families each family comes first once. Does not fix the moment at which
//! a fault strikes, or who leads then: real processes do not replay.

use super::faults::{Cycle, Family, Fault, Shape, Who};
use crate::history::Seeded;

/// How often, in a hundred, a link fault joins the first fault of a cycle.
const JOINED_PERCENT: usize = 40;
/// How often, in a hundred, a node is killed while another one is paused.
const KILLED_BESIDE_PAUSED_PERCENT: usize = 50;

/// Cycles without end.
pub struct Schedule {
    random: Seeded,
    families: Vec<Family>,
    nodes: usize,
    /// The families whose turn is still to come before all are dealt again.
    deck: Vec<Family>,
}

impl Schedule {
    /// Cycles of faults of `families`, which are not empty, for so many nodes.
    pub fn new(seed: u64, families: &[Family], nodes: usize) -> Schedule {
        let random = Seeded::derived(seed, "nemesis", nodes as u64);
        Schedule { random, families: families.to_vec(), nodes, deck: Vec::new() }
    }

    /// The next cycle.
    pub fn draw(&mut self) -> Cycle {
        if self.deck.is_empty() {
            self.deck = self.families.clone();
        }
        let family = self.deck.swap_remove(self.random.below(self.deck.len().max(1)));
        let first = self.fault(family);
        let hold_ms = self.hold_ms(&first);
        let mut faults = vec![first];
        faults.extend(self.companion(family));
        Cycle { faults, hold_ms }
    }

    /// A fault that makes the first one worse, now and then.
    fn companion(&mut self, first: Family) -> Option<Fault> {
        let dice = self.random.below(100);
        match first {
            // These wait for nodes to be ready while they strike, or look at how a node ends.
            Family::Roll | Family::Disk => None,
            Family::Pause if dice < KILLED_BESIDE_PAUSED_PERCENT => {
                let who = self.anyone();
                self.has(Family::Kill).then_some(Fault::Kill { first: who, nodes: 1 })
            }
            _ if dice < JOINED_PERCENT => {
                let others = self.families.iter().copied();
                let others: Vec<Family> =
                    others.filter(|family| family.is_of_links() && *family != first).collect();
                let family = *others.get(self.random.below(others.len()))?;
                Some(self.fault(family))
            }
            _ => None,
        }
    }

    fn has(&self, family: Family) -> bool {
        self.families.contains(&family)
    }

    fn fault(&mut self, family: Family) -> Fault {
        match family {
            Family::Kill => self.kill(),
            Family::Pause => Fault::Pause(self.someone()),
            Family::Roll => Fault::Roll,
            Family::Cut => self.cut(),
            Family::Delay => Fault::Delay {
                who: (self.random.below(2) == 0).then(|| self.someone()),
                delay_ms: self.between(5, 120),
                jitter_ms: self.between(0, 80),
            },
            Family::Drip => Fault::Drip {
                who: self.someone(),
                bytes_per_second: self.between(1_000, 20_000) as u32,
            },
            Family::Reset => Fault::Reset(self.someone()),
            Family::Clock => {
                // Half of them within what a coordinator tolerates, half far outside.
                let far = if self.random.below(2) == 0 { 400 } else { 2_500 };
                let offset_ms = self.between(50, far) as i64;
                let sign = if self.random.below(2) == 0 { -1 } else { 1 };
                Fault::Clock { who: self.someone(), offset_ms: sign * offset_ms }
            }
            Family::Disk => Fault::FullDisk,
        }
    }

    fn kill(&mut self) -> Fault {
        let first = self.anyone();
        match self.random.below(100) {
            0..60 => Fault::Kill { first, nodes: 1 },
            60..75 => Fault::Kill { first: Who::Leader, nodes: 1 },
            // Both kinds leave no majority; what was acknowledged is on the disks all the same.
            75..90 => Fault::Kill { first, nodes: (self.nodes / 2 + 1).min(self.nodes) },
            _ => Fault::Kill { first, nodes: self.nodes },
        }
    }

    fn cut(&mut self) -> Fault {
        // Rings and wider bridges need four nodes to differ from a cut between two.
        let shapes = if self.nodes >= 4 { 8 } else { 6 };
        let shape = match self.random.below(shapes) {
            0 => Shape::Isolate(self.anyone()),
            1 => Shape::Isolate(Who::Leader),
            2 => Shape::Deaf(self.someone()),
            3 => Shape::Mute(self.someone()),
            4 | 5 => Shape::Pair(self.someone()),
            6 => Shape::Bridge,
            _ => Shape::Ring,
        };
        // One direction alone cannot be reset.
        let one_way = matches!(shape, Shape::Deaf(_) | Shape::Mute(_));
        Fault::Cut { shape, loud: !one_way && self.random.below(2) == 0 }
    }

    /// How long a cycle lasts: a kill is over at once, an election takes half a second, and
    /// requests are given up after two.
    fn hold_ms(&mut self, fault: &Fault) -> u64 {
        match fault {
            Fault::Kill { .. } => self.between(0, 250),
            Fault::Roll => 0,
            Fault::Reset(_) => self.between(100, 800),
            Fault::FullDisk => self.between(500, 1_500),
            Fault::Pause(_) | Fault::Clock { .. } => self.between(600, 1_600),
            Fault::Cut { .. } | Fault::Delay { .. } | Fault::Drip { .. } => {
                self.between(700, 2_400)
            }
        }
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.below((high - low) as usize + 1) as u64
    }

    fn anyone(&mut self) -> Who {
        Who::Index(self.random.below(self.nodes))
    }

    fn someone(&mut self) -> Who {
        if self.random.below(3) == 0 { Who::Leader } else { self.anyone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn drawn(seed: u64, families: &[Family], nodes: usize, cycles: usize) -> Vec<Cycle> {
        let mut schedule = Schedule::new(seed, families, nodes);
        (0..cycles).map(|_| schedule.draw()).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_cycles() {
        let draw = |seed| drawn(seed, &Family::ALL, 3, 100);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_family_comes_first_once_in_each_round() {
        for round in drawn(1, &Family::ALL, 3, 90).chunks(Family::ALL.len()) {
            let first: BTreeSet<Family> = round.iter().map(|c| c.faults[0].family()).collect();
            assert_eq!(first.len(), Family::ALL.len(), "{round:?}");
        }
    }

    #[test]
    fn only_the_families_asked_for_are_drawn_and_alone_where_nothing_goes_with_them() {
        for cycle in drawn(3, &[Family::Kill], 3, 300) {
            assert_eq!(cycle.faults.len(), 1);
            assert_eq!(cycle.faults[0].family(), Family::Kill);
        }
        let two = [Family::Pause, Family::Delay];
        for cycle in drawn(3, &two, 3, 300) {
            assert!(cycle.faults.iter().all(|fault| two.contains(&fault.family())), "{cycle:?}");
        }
    }

    #[test]
    fn a_long_run_holds_every_kind_of_fault_there_is() {
        let kinds = |nodes| -> BTreeSet<String> {
            let cycles = drawn(1, &Family::ALL, nodes, 2_000);
            cycles.iter().flat_map(|cycle| cycle.faults.iter().map(Fault::kind)).collect()
        };
        let (three, five) = (kinds(3), kinds(5));
        for kind in [
            "kill a node",
            "kill the leader",
            "pause the leader",
            "restart each node in turn",
            "cut off the leader silently",
            "cut off a node with resets",
            "cut all words to a node",
            "cut all words of the leader",
            "cut a node from one other silently",
            "delay all links",
            "slow down the links of a node",
            "reset the links of the leader",
            "a clock behind",
            "a clock ahead",
            "a full disk",
        ] {
            assert!(three.contains(kind) && five.contains(kind), "never: {kind}");
        }
        assert!(three.contains("kill 2 nodes at once") && three.contains("kill 3 nodes at once"));
        assert!(!three.contains("cut into a ring silently"));
        assert!(five.contains("cut into a ring silently"));
        assert!(five.contains("cut into a bridge with resets"));
        let mixed = drawn(1, &Family::ALL, 3, 2_000);
        assert!(mixed.iter().any(|cycle| {
            cycle.faults.len() == 2 && matches!(cycle.faults[1], Fault::Kill { .. })
        }));
    }

    #[test]
    fn families_are_read_by_name_and_a_wrong_one_is_told_what_is_allowed() {
        for family in Family::ALL {
            assert_eq!(family.as_str().parse(), Ok(family));
        }
        let problem = "earthquake".parse::<Family>().expect_err("no such family");
        assert!(problem.contains("earthquake") && problem.contains("drip"), "{problem}");
    }
}
