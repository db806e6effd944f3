//! The hybrid logical clock that versions come from.
//!
//! **Guarantees.** Every version from one clock is above every version it gave or observed before,
//! and, where a ceiling is kept, below that ceiling: a coordinator that stores the ceiling ahead of
//! use never uses a version twice, whatever its wall clock does across a restart.
//!
//! **Does not guarantee** that versions of different nodes follow real time: a write through a node
//! with a slow clock can lose to an older one. That is what *superseded* says.
//!
//! Source: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks" (2014), section 3.

use parking_lot::Mutex;

use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::types::{NodeId, Version};

/// How far ahead of use a ceiling is stored, in milliseconds. Below the drift limit, so that a node
/// that restarts at once starts at its ceiling without refusing its own fresh writes.
pub const CEILING_AHEAD_MS: u64 = 400;

/// A node's hybrid logical clock.
pub struct HybridClock {
    runtime: Runtime,
    node: NodeId,
    max_drift_ms: u64,
    state: Mutex<State>,
}

struct State {
    /// The last reading given or observed.
    last: u64,
    /// Readings at or above this are not given, in milliseconds; `u64::MAX` where none is kept.
    ceiling_ms: u64,
}

/// Why a fresh write gets no version now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The wall clock went back, or another clock ran ahead, by more than the limit.
    #[error(
        "this node's versions are {ahead_ms} ms ahead of its wall clock, more than the \
         {limit_ms} ms allowed: check the clock"
    )]
    Drift { ahead_ms: u64, limit_ms: u64 },
    /// A ceiling must be stored first; see [`HybridClock::next_ceiling_ms`].
    #[error("the stored version ceiling is reached")]
    Ceiling,
}

impl HybridClock {
    /// A clock without a ceiling, for versions that a log orders.
    pub fn new(runtime: Runtime, node: NodeId, max_drift_ms: u64) -> HybridClock {
        let state = Mutex::new(State { last: 0, ceiling_ms: u64::MAX });
        HybridClock { runtime, node, max_drift_ms, state }
    }

    /// A clock that starts at the ceiling that an earlier run stored (0: none did) and gives no
    /// version before [`HybridClock::raise_ceiling_ms`] was called.
    pub fn below_ceiling(
        runtime: Runtime,
        node: NodeId,
        max_drift_ms: u64,
        stored_ceiling_ms: u64,
    ) -> HybridClock {
        let forgets = planted::is(Bug::VersionReusedAfterRestart);
        let begin_ms = if forgets { 0 } else { stored_ceiling_ms };
        let state = State { last: begin_ms << 16, ceiling_ms: stored_ceiling_ms };
        HybridClock { runtime, node, max_drift_ms, state: Mutex::new(state) }
    }

    /// A version for a fresh write.
    pub fn stamp(&self) -> Result<Version, StampError> {
        let wall_ms = self.runtime.wall_ms();
        let mut state = self.state.lock();
        let next = (wall_ms << 16).max(state.last + 1);
        let ahead_ms = (next >> 16).saturating_sub(wall_ms);
        if ahead_ms > self.max_drift_ms {
            return Err(StampError::Drift { ahead_ms, limit_ms: self.max_drift_ms });
        }
        if next >> 16 >= state.ceiling_ms {
            return Err(StampError::Ceiling);
        }
        state.last = next;
        Ok(Version::new(next, self.node))
    }

    /// Takes in a version seen from elsewhere, so that later stamps are above it. A version further
    /// ahead than the drift limit is not taken in (false): one broken clock must not stop others.
    pub fn observe(&self, version: Version) -> bool {
        let limit_ms = self.runtime.wall_ms().saturating_add(self.max_drift_ms);
        if version.millis() > limit_ms {
            return false;
        }
        let mut state = self.state.lock();
        state.last = state.last.max(version.time());
        true
    }

    /// The latest version that this node could have seen by now: what is stamped or observed later is
    /// above it, as far as clocks agree.
    pub fn now(&self) -> Version {
        let wall_ms = self.runtime.wall_ms();
        Version::new((wall_ms << 16).max(self.state.lock().last), NodeId(u16::MAX))
    }

    /// The ceiling that should be stored now, in milliseconds, where less than half of the distance
    /// is left; [`HybridClock::raise_ceiling_ms`] once it is on stable storage.
    pub fn next_ceiling_ms(&self) -> Option<u64> {
        let wall_ms = self.runtime.wall_ms();
        let state = self.state.lock();
        let now_ms = wall_ms.max(state.last >> 16);
        (state.ceiling_ms < now_ms.saturating_add(CEILING_AHEAD_MS / 2))
            .then_some(now_ms + CEILING_AHEAD_MS)
    }

    /// Says that `ceiling_ms` is on stable storage.
    pub fn raise_ceiling_ms(&self, ceiling_ms: u64) {
        let mut state = self.state.lock();
        state.ceiling_ms = state.ceiling_ms.max(ceiling_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: u64 = 1_000_000;

    fn in_a_world(test: impl FnOnce(Runtime)) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(async { test(Runtime::simulated(1, WALL_MS)) });
    }

    #[test]
    fn stamps_rise_even_when_the_wall_clock_goes_back() {
        in_a_world(|runtime| {
            let clock = HybridClock::new(runtime.clone(), NodeId(1), 500);
            let first = clock.stamp().expect("a version");
            runtime.set_wall_skew_ms(-400);
            let second = clock.stamp().expect("a version");
            assert!(second > first);
            runtime.set_wall_skew_ms(-600);
            assert_eq!(clock.stamp(), Err(StampError::Drift { ahead_ms: 600, limit_ms: 500 }));
        });
    }

    #[test]
    fn a_version_is_never_given_twice_across_a_restart() {
        in_a_world(|runtime| {
            let clock = HybridClock::below_ceiling(runtime.clone(), NodeId(1), 500, 0);
            assert_eq!(clock.stamp(), Err(StampError::Ceiling));
            let ceiling = clock.next_ceiling_ms().expect("a ceiling to store");
            clock.raise_ceiling_ms(ceiling);
            let last = (0..1_000).map(|_| clock.stamp().expect("a version")).max().expect("some");
            // The wall clock is reset while the node is down.
            runtime.set_wall_skew_ms(-50);
            let restarted = HybridClock::below_ceiling(runtime.clone(), NodeId(1), 500, ceiling);
            restarted.raise_ceiling_ms(restarted.next_ceiling_ms().expect("a ceiling to store"));
            assert!(restarted.stamp().expect("a version") > last);
        });
    }

    #[test]
    fn a_version_from_a_broken_clock_is_not_taken_in() {
        in_a_world(|runtime| {
            let clock = HybridClock::new(runtime, NodeId(1), 500);
            let near = Version::new((WALL_MS + 400) << 16, NodeId(2));
            let far = Version::new((WALL_MS + 501) << 16, NodeId(2));
            assert!(clock.observe(near));
            assert!(!clock.observe(far));
            let stamp = clock.stamp().expect("a version");
            assert!(stamp > near && stamp < far);
        });
    }
}
