//! Where a client waits for its write, and where it is settled what a client that stops waiting
//! may conclude.
//!
//! **Guarantees.** A client that leaves is told *not applied* only where its write was not handed to
//! any log, and then it never will be: leaving and handing over exclude each other under one lock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::{Refusal, WriteError};
use crate::types::Version;

/// What a waiting client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub result: Result<Version, WriteError>,
    /// Whether the write went over a peer link to the leader.
    pub forwarded: bool,
}

/// One write's place to be answered; shared by the client's [`Waiter`] and the pump.
pub struct Slot(Mutex<State>);

struct State {
    phase: Phase,
    answer: Option<Settled>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Only this node has the write, and it is in no log.
    Held,
    /// It is on its way to a log, or may be in one.
    Sent,
    /// The client no longer waits.
    Left,
}

/// The client's end: a future of its answer. Dropped, the client has left.
pub struct Waiter(Arc<Slot>);

/// What a client that stops waiting may conclude.
#[derive(Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The answer was there already.
    Settled(Settled),
    /// The write is in no log and never will be.
    NotApplied,
    /// It may be applied, or not.
    Unknown,
}

/// A fresh slot and its client's end.
pub fn slot() -> (Arc<Slot>, Waiter) {
    let slot = Arc::new(Slot(Mutex::new(State { phase: Phase::Held, answer: None, waker: None })));
    (slot.clone(), Waiter(slot))
}

impl Slot {
    /// Takes the write for handing over; false where the client has left, and the write must be
    /// dropped.
    pub fn claim(&self) -> bool {
        let mut state = self.0.lock();
        if state.phase == Phase::Held {
            state.phase = Phase::Sent;
        }
        state.phase == Phase::Sent
    }

    /// Says that the write is definitely in no log after all.
    pub fn release(&self) {
        let mut state = self.0.lock();
        if state.phase == Phase::Sent {
            state.phase = Phase::Held;
        }
    }

    /// Whether the client no longer waits.
    pub fn has_left(&self) -> bool {
        self.0.lock().phase == Phase::Left
    }

    /// Answers the client; the first answer counts.
    pub fn answer(&self, settled: Settled) {
        let mut state = self.0.lock();
        if state.phase == Phase::Left || state.answer.is_some() {
            return;
        }
        state.answer = Some(settled);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Answers a client whose write nobody works on any more.
    pub fn orphan(&self) {
        let phase = self.0.lock().phase;
        let detail = "this node is stopping".to_owned();
        let error = match phase {
            Phase::Held => Refusal::NotReady { detail }.into(),
            Phase::Sent => WriteError::Unknown { detail },
            Phase::Left => return,
        };
        self.answer(Settled { result: Err(error), forwarded: false });
    }
}

impl Waiter {
    /// Stops waiting.
    pub fn leave(&self) -> Leaving {
        let mut state = self.0.0.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::Left);
        match (state.answer.take(), phase) {
            (Some(settled), _) => Leaving::Settled(settled),
            (None, Phase::Held) => Leaving::NotApplied,
            (None, Phase::Sent | Phase::Left) => Leaving::Unknown,
        }
    }
}

impl Future for Waiter {
    type Output = Settled;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Settled> {
        let mut state = self.0.0.lock();
        match state.answer.take() {
            Some(settled) => Poll::Ready(settled),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn written() -> Settled {
        Settled { result: Ok(Version::new(1 << 16, NodeId(1))), forwarded: false }
    }

    #[test]
    fn a_write_that_a_client_left_is_never_handed_over() {
        let (slot, waiter) = slot();
        assert_eq!(waiter.leave(), Leaving::NotApplied);
        assert!(!slot.claim());
    }

    #[test]
    fn a_client_that_leaves_a_write_on_its_way_knows_nothing() {
        let (slot, waiter) = slot();
        assert!(slot.claim());
        assert_eq!(waiter.leave(), Leaving::Unknown);
        slot.release();
        assert!(!slot.claim(), "the client was told unknown and has gone");
    }

    #[test]
    fn a_released_write_can_be_left_as_not_applied_and_claimed_again() {
        let (slot, waiter) = slot();
        assert!(slot.claim());
        slot.release();
        assert!(slot.claim());
        slot.release();
        assert_eq!(waiter.leave(), Leaving::NotApplied);
    }

    #[test]
    fn an_answer_that_comes_before_the_client_leaves_counts() {
        let (slot, waiter) = slot();
        assert!(slot.claim());
        slot.answer(written());
        slot.orphan();
        assert_eq!(waiter.leave(), Leaving::Settled(written()));
    }

    #[test]
    fn a_dropped_client_has_left() {
        let (slot, waiter) = slot();
        drop(waiter);
        assert!(slot.has_left() && !slot.claim());
    }
}
