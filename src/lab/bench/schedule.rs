//! When the requests of an open loop are to start, and which of them find no room.
//!
//! Coordinated omission is what a closed loop does: while the server stalls, nothing is asked, and
//! so the stall is measured once instead of by everybody who would have come. Here arrivals come at
//! times that no answer can move; the latency of a request counts from its arrival, waiting for a
//! free connection included. Waiting room is bounded: who comes when it is full is *missed*, and
//! counted. Both are decided here, without a clock and without tasks.

use std::collections::VecDeque;

/// Arrivals at a steady rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    rate_per_second: u64,
    /// Arrivals come before this time; the last one at most one interval earlier.
    length_us: u64,
}

impl Schedule {
    /// `rate_per_second` arrivals a second for `length_us`.
    pub fn new(rate_per_second: u64, length_us: u64) -> Schedule {
        Schedule { rate_per_second: rate_per_second.max(1), length_us }
    }

    /// When arrival `number`, from 0 on, is to start, in microseconds from the begin.
    pub fn at_us(&self, number: u64) -> u64 {
        (u128::from(number) * 1_000_000 / u128::from(self.rate_per_second)) as u64
    }

    /// How many arrivals there are up to and at `now_us`.
    pub fn due_by(&self, now_us: u64) -> u64 {
        let until_us = now_us.saturating_add(1).min(self.length_us);
        (u128::from(until_us) * u128::from(self.rate_per_second)).div_ceil(1_000_000) as u64
    }

    /// How many arrivals there are in all.
    pub fn total(&self) -> u64 {
        self.due_by(u64::MAX)
    }
}

/// The waiting room of an open loop. Every arrival that was offered is under way, waiting, finished
/// or missed; none is dropped in silence.
#[derive(Clone, Debug)]
pub struct Room {
    limit: usize,
    under_way: usize,
    waiting: VecDeque<u64>,
    offered: u64,
    missed: u64,
}

impl Room {
    /// Room for `limit` arrivals that wait or are under way.
    pub fn new(limit: usize) -> Room {
        Room { limit, under_way: 0, waiting: VecDeque::new(), offered: 0, missed: 0 }
    }

    /// An arrival that is to start at `at_us`; whether it found room.
    pub fn arrive(&mut self, at_us: u64) -> bool {
        self.offered += 1;
        let has_room = self.under_way + self.waiting.len() < self.limit;
        if has_room {
            self.waiting.push_back(at_us);
        } else {
            self.missed += 1;
        }
        has_room
    }

    /// The arrival that has waited longest, which is now under way.
    pub fn take(&mut self) -> Option<u64> {
        let at_us = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(at_us)
    }

    /// One that was under way has its answer.
    pub fn finish(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Gives up on those that still wait: they are missed.
    pub fn abandon(&mut self) {
        self.missed += self.waiting.len() as u64;
        self.waiting.clear();
    }

    /// How many arrived.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// How many of them were never sent.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_spread_evenly_and_none_is_left_out_or_doubled() {
        let schedule = Schedule::new(4, 1_000_000);
        let all: Vec<u64> = (0..schedule.total()).map(|n| schedule.at_us(n)).collect();
        assert_eq!(all, [0, 250_000, 500_000, 750_000]);
        for rate in [1, 3, 7, 400, 999, 1_000_000] {
            let schedule = Schedule::new(rate, 3_000);
            let starts: Vec<u64> = (0..4_000).map(|n| schedule.at_us(n)).collect();
            for now_us in 0..3_500 {
                let counted = starts.iter().filter(|at_us| **at_us <= now_us && **at_us < 3_000);
                assert_eq!(schedule.due_by(now_us), counted.count() as u64, "{rate} by {now_us}");
            }
        }
        assert_eq!(Schedule::new(1_000, 60_000_000).total(), 60_000);
    }

    #[test]
    fn a_schedule_without_end_goes_on_for_years() {
        let schedule = Schedule::new(1_000_000, u64::MAX);
        let year_us = 365 * 24 * 3_600 * 1_000_000;
        assert_eq!(schedule.at_us(schedule.due_by(year_us) - 1), year_us);
    }

    #[test]
    fn arrivals_beyond_the_room_are_missed_and_every_one_is_accounted_for() {
        let mut room = Room::new(3);
        let found_room: Vec<bool> = (0..5).map(|n| room.arrive(n * 10)).collect();
        assert_eq!(found_room, [true, true, true, false, false]);
        assert_eq!((room.offered(), room.missed()), (5, 2));
        // One under way takes room like one that waits, until it is finished.
        assert_eq!(room.take(), Some(0));
        assert!(!room.arrive(50));
        room.finish();
        assert!(room.arrive(60));
        assert_eq!([room.take(), room.take(), room.take()], [Some(10), Some(20), Some(60)]);
        assert_eq!(room.take(), None);
        for _ in 0..3 {
            room.finish();
        }
        assert!(room.arrive(70));
        room.abandon();
        assert_eq!((room.take(), room.offered(), room.missed()), (None, 8, 4));
    }
}
