//! Whether the other side of a link is silent for longer than it usually is.
//!
//! **Why it exists.** That a connection broke is known at once, that a process hangs only by its
//! silence, and how long a silence says something depends on the link, the disks and the load. So what is
//! usual is learnt from the traffic itself: how long something had been asked when the other side was heard
//! again. A silence is suspicious once it is longer than the mean of those times and four times their mean
//! deviation, as in Jacobson, "Congestion Avoidance and Control" (1988), section 2, and RFC 6298.
//!
//! **Guarantees.** Where nothing is asked, nothing is suspicious. Whoever is heard is not suspected.
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
    /// Since when something is asked and nothing was heard.
    since: Option<Instant>,
    mean_us: u64,
    deviation_us: u64,
    known: u32,
}

impl Silence {
    /// Something was asked.
    pub fn asked(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The other side was heard; `still_asked` says whether something is asked yet.
    pub fn heard(&mut self, now: Instant, still_asked: bool) {
        if let Some(since) = self.since.take() {
            self.learn(now.saturating_duration_since(since).as_micros() as u64);
        }
        self.since = still_asked.then_some(now);
    }

    fn learn(&mut self, waited_us: u64) {
        self.known = self.known.saturating_add(1);
        if self.known == 1 {
            (self.mean_us, self.deviation_us) = (waited_us, waited_us / 2);
            return;
        }
        let off_us = self.mean_us.abs_diff(waited_us);
        self.deviation_us += off_us.div_ceil(DEVIATION_PART);
        self.deviation_us -= self.deviation_us / DEVIATION_PART;
        self.mean_us += waited_us.div_ceil(MEAN_PART);
        self.mean_us -= self.mean_us / MEAN_PART;
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
            silence.asked(now);
            now += ms(answer_ms);
            silence.heard(now, false);
        }
        (silence, now)
    }

    #[test]
    fn a_silence_is_suspicious_where_it_is_longer_than_usual_and_something_is_asked() {
        let (mut silence, now) = used_to((0..100).map(|n| 5 + n % 3));
        assert!(!silence.is_suspicious(now + ms(10_000)), "nothing is asked");
        silence.asked(now);
        assert!(!silence.is_suspicious(now + ms(50)) && silence.is_suspicious(now + ms(51)));
        // Asking more does not make the silence shorter, hearing ends it.
        silence.asked(now + ms(51));
        assert!(silence.is_suspicious(now + ms(52)));
        silence.heard(now + ms(53), true);
        assert!(!silence.is_suspicious(now + ms(54)));
    }

    #[test]
    fn what_is_usual_follows_the_link() {
        let (mut slow, now) = used_to((0..100).map(|n| 200 + 10 * (n % 5)));
        slow.asked(now);
        assert!(!slow.is_suspicious(now + ms(240)), "it takes that long");
        assert!(slow.is_suspicious(now + ms(500)));
        let (mut uneven, now) = used_to((0..100).map(|n| if n % 10 == 0 { 900 } else { 10 }));
        uneven.asked(now);
        assert!(!uneven.is_suspicious(now + ms(100)), "now and then it takes much longer");
        // It became quick.
        let (mut quick, now) = used_to((0..100).map(|_| 400).chain((0..100).map(|_| 4)));
        quick.asked(now);
        assert!(quick.is_suspicious(now + ms(51)));
    }

    #[test]
    fn of_a_link_of_which_little_is_known_only_a_long_silence_is_suspicious() {
        let (mut silence, now) = used_to([1; 15]);
        silence.asked(now);
        assert!(!silence.is_suspicious(now + ms(3_000)) && silence.is_suspicious(now + ms(3_001)));
        let (mut slow, now) = used_to([60_000; 20]);
        slow.asked(now);
        assert!(slow.is_suspicious(now + ms(3_001)), "longer than this is never usual");
    }
}
