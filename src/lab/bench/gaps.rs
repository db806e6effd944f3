//! How long nothing was written after each kill: computed from what clients were told.

use crate::lab::stats::longest_gap;

/// One acknowledged write, as far as its times go, in microseconds on the load's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub invoked_us: u64,
    pub answered_us: u64,
}

/// One kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Struck {
    /// Just before the signal was sent.
    pub killed_us: u64,
    /// Once the process was gone: a write that was asked for from here on cannot have been
    /// acknowledged by it.
    pub gone_us: u64,
}

/// What came after one kill, until the next one or the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// From the kill until a write that was asked for after it was acknowledged; `None` where none
    /// was.
    pub first_write_us: Option<u64>,
    /// The longest time without an acknowledged write.
    pub longest_us: u64,
}

/// The gap after each of `struck`, which are in order.
pub fn gaps(writes: &[Acknowledged], struck: &[Struck], ended_us: u64) -> Vec<Gap> {
    let until = |index: usize| struck.get(index + 1).map_or(ended_us, |next| next.killed_us);
    let gap = |(index, kill): (usize, &Struck)| {
        let window = (kill.killed_us, until(index).max(kill.killed_us));
        let fresh = writes.iter().filter(|write| write.invoked_us >= kill.gone_us);
        let inside = fresh.map(|write| write.answered_us).filter(|at_us| *at_us < window.1);
        Gap {
            first_write_us: inside.min().map(|at_us| at_us - kill.killed_us),
            longest_us: longest_gap(writes.iter().map(|write| write.answered_us), window),
        }
    };
    struck.iter().enumerate().map(gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(invoked_us: u64, answered_us: u64) -> Acknowledged {
        Acknowledged { invoked_us, answered_us }
    }

    #[test]
    fn a_gap_lasts_from_the_kill_to_the_first_write_that_was_asked_for_after_it() {
        let struck = [
            Struck { killed_us: 1_000, gone_us: 1_010 },
            Struck { killed_us: 5_000, gone_us: 5_010 },
        ];
        let writes = [
            write(900, 950),
            // Under way when the node died: no proof that writes are served again.
            write(990, 1_020),
            write(1_005, 1_030),
            // Asked for after it, and answered late and soon.
            write(1_100, 1_800),
            write(1_200, 1_700),
            write(4_990, 4_995),
            write(5_020, 5_300),
        ];
        let found = gaps(&writes, &struck, 6_000);
        assert_eq!(found[0], Gap { first_write_us: Some(700), longest_us: 4_995 - 1_800 });
        assert_eq!(found[1], Gap { first_write_us: Some(300), longest_us: 700 });
    }

    #[test]
    fn without_a_write_until_the_next_kill_there_is_no_first_write() {
        let struck =
            [Struck { killed_us: 100, gone_us: 100 }, Struck { killed_us: 200, gone_us: 200 }];
        let found = gaps(&[write(150, 260)], &struck, 1_000);
        assert_eq!(found[0], Gap { first_write_us: None, longest_us: 100 });
        // It was asked for before the second kill, so it says nothing about it.
        assert_eq!(found[1], Gap { first_write_us: None, longest_us: 740 });
        assert_eq!(gaps(&[], &[], 1_000), []);
    }
}
