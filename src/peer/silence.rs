//! Whether the other side of a link is silent for longer than it usually is.
//!
//! **Why it exists.** That a connection broke is known at once, that a process hangs only by its
//! silence, and how long a silence says something depends on the link, the disks and the load. So what is
//! usual is learnt from the traffic itself: how long something had been asked when an answer came. A silence is
//! suspicious once it is longer than the mean of those times and four times their mean deviation, as in
//! Jacobson, "Congestion Avoidance and Control" (1988), section 2, and RFC 6298.
//!
//! **Guarantees.** Where nothing was asked since the last answer, nothing is suspicious. Whoever answers is
//! not suspected. That a ping is answered says that a process lives, and not that it works: it ends a
//! suspicion only where no answer is awaited.
//!
//! **Does not** decide anything for good: it orders whom to ask first, and is shown. What ends a
//! connection is in [`super::connection`].

use std::time::Duration;

use crate::runtime::Instant;

/// Times without which nothing is known of what is usual.
const LEAST_KNOWN: u32 = 16;

/// A shorter silence is never suspicious: schedulers and disks pause for as long.
const SHORTEST: Duration = Duration::from_millis(50);

/// A longer one always is.
const LONGEST: Duration = Duration::from_secs(3);

/// What a new time weighs against the known mean, and against the known deviation: one part in so many.
const MEAN_PART: u64 = 8;
const DEVIATION_PART: u64 = 4;

/// How many mean deviations above the mean are suspicious.
const DEVIATIONS: u64 = 4;

/// How long one link's other side lets wait, of late.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Since when something is asked and no answer came.
    since: Option<Instant>,
    mean_us: u64,
    deviation_us: u64,
    known: u32,
}

impl Silence {
    /// Something was asked. The clock is read where that counts.
    pub fn asked(&mut self, now: impl FnOnce() -> Instant) {
        if self.since.is_none() {
            self.since = Some(now());
        }
    }

    /// An answer came; `still_asked` says whether others are awaited.
    pub fn answered(&mut self, now: Instant, still_asked: bool) {
        if let Some(since) = self.since.take() {
            self.learn(now.saturating_duration_since(since).as_micros() as u64);
        }
        self.since = still_asked.then_some(now);
    }

    /// No answer is awaited any more, and the other side lives, or was never asked.
    pub fn ended(&mut self) {
        self.since = None;
    }

    /// The way to the other side is there only now: what was asked before waited for that.
    pub fn connected(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    fn learn(&mut self, waited_us: u64) {
        self.known = self.known.saturating_add(1);
        if self.known == 1 {
            (self.mean_us, self.deviation_us) = (waited_us, waited_us / 2);
            return;
        }
        let towards = |known: u64, new: u64, part: u64| known - known / part + new / part;
        let off_us = self.mean_us.abs_diff(waited_us);
        self.deviation_us = towards(self.deviation_us, off_us, DEVIATION_PART);
        self.mean_us = towards(self.mean_us, waited_us, MEAN_PART);
    }

    /// How long a silence is usual at most.
    fn usual(&self) -> Duration {
        if self.known < LEAST_KNOWN {
            return LONGEST;
        }
        let most_us = self.mean_us.saturating_add(self.deviation_us.saturating_mul(DEVIATIONS));
        Duration::from_micros(most_us).clamp(SHORTEST, LONGEST)
    }

    /// Whether the silence is longer than usual.
    pub fn is_suspicious(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) > self.usual())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A link whose answers have taken this long each, and when the last came.
    fn used_to(answers_ms: impl IntoIterator<Item = u64>) -> (Silence, Instant) {
        let (mut silence, mut now) = (Silence::default(), Runtime::real().now());
        for answer_ms in answers_ms {
            silence.asked(|| now);
            now += ms(answer_ms);
            silence.answered(now, false);
        }
        (silence, now)
    }

    #[test]
    fn a_silence_is_suspicious_where_it_is_longer_than_usual_and_something_is_asked() {
        let (mut silence, now) = used_to((0..100).map(|n| 5 + n % 3));
        assert!(!silence.is_suspicious(now + ms(10_000)), "nothing is asked");
        silence.asked(|| now);
        assert!(!silence.is_suspicious(now + ms(50)) && silence.is_suspicious(now + ms(51)));
        // Asking more does not make the silence shorter, an answer ends it.
        silence.asked(|| now + ms(51));
        assert!(silence.is_suspicious(now + ms(52)));
        silence.answered(now + ms(53), true);
        assert!(!silence.is_suspicious(now + ms(54)) && silence.is_suspicious(now + ms(204)));
        silence.ended();
        assert!(!silence.is_suspicious(now + ms(204)));
    }

    #[test]
    fn what_is_usual_is_the_mean_and_four_deviations() {
        let near =
            |silence: &Silence, ms: u64| silence.usual().as_millis().abs_diff(ms.into()) <= 5;
        let (steady, _) = used_to([400; 200]);
        assert!(near(&steady, 400), "{:?}", steady.usual());
        // 200 and 100 off it, as far as means of the last few tell.
        let (uneven, _) = used_to((0..200).map(|n| if n % 2 == 0 { 100 } else { 300 }));
        let usual = uneven.usual().as_millis();
        assert!((580..660).contains(&usual), "{usual}");
    }

    #[test]
    fn what_was_asked_before_there_was_a_connection_waited_for_that() {
        let (mut silence, now) = used_to([10; 50]);
        silence.asked(|| now);
        silence.connected(now + ms(2_000));
        assert!(!silence.is_suspicious(now + ms(2_040)) && silence.is_suspicious(now + ms(2_060)));
        silence.answered(now + ms(2_010), false);
        assert!(silence.usual() < ms(60), "{:?}", silence.usual());
        silence.connected(now + ms(3_000));
        assert!(!silence.is_suspicious(now + ms(9_000)), "nothing is asked");
    }

    #[test]
    fn what_is_usual_follows_the_link() {
        let (mut slow, now) = used_to((0..100).map(|n| 200 + 10 * (n % 5)));
        slow.asked(|| now);
        assert!(!slow.is_suspicious(now + ms(240)), "it takes that long");
        assert!(slow.is_suspicious(now + ms(500)));
        let (mut uneven, now) = used_to((0..100).map(|n| if n % 10 == 0 { 900 } else { 10 }));
        uneven.asked(|| now);
        assert!(!uneven.is_suspicious(now + ms(100)), "now and then it takes much longer");
        // It became quick.
        let (mut quick, now) = used_to((0..100).map(|_| 400).chain((0..100).map(|_| 4)));
        quick.asked(|| now);
        assert!(quick.is_suspicious(now + ms(51)));
    }

    #[test]
    fn of_a_link_of_which_little_is_known_only_a_long_silence_is_suspicious() {
        let (mut silence, now) = used_to([1; 15]);
        silence.asked(|| now);
        assert!(!silence.is_suspicious(now + ms(3_000)) && silence.is_suspicious(now + ms(3_001)));
        let (mut slow, now) = used_to([60_000; 20]);
        slow.asked(|| now);
        assert!(slow.is_suspicious(now + ms(3_001)), "longer than this is never usual");
    }
}
