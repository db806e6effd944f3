//! What questions vouch for: followers' words, on the side that gives them and on the side that takes
//! them. See `consensus/vouching.rs` for the rule that it rests on.
//!
//! **A word for the follower's own reads.** They had arrived when the question was sent, so its word
//! covers them: the leader answers at once, and asks nobody.
//!
//! **A word for the leader's reads.** A question covers what had arrived *at the leader* before it was
//! sent, and the leader cannot see when that was: messages wait in networks and paused processes. So
//! each answer carries a [`Stamp`], the number of the last round of the leader's own reads that had left
//! its gate by then, and the follower's next question says which stamp it has seen. That question was
//! sent after the answer was, and vouches for all rounds up to the stamp's.
//!
//! **Guarantees.** A round is let through with the index of a question that was sent after the round
//! left.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::forward::Stamp;
use crate::planted::{self, Bug};
use crate::runtime::Instant;

/// How long a round of the leader's own reads waits for a word, where one is on its way, before it asks
/// a majority; and how soon a follower must have asked again last time for one to be expected.
const MOST_PATIENCE: Duration = Duration::from_millis(2);

/// The same where it is a mistake: else only a race of two milliseconds shows it.
const PLANTED_PATIENCE: Duration = Duration::from_millis(200);

/// See the module. One on each node.
pub struct Vouches {
    process: u64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The number of the last round of this node's reads that left.
    departed: u64,
    /// The last round that words vouched for, and the index for it and those before it.
    vouched: Option<(u64, u64)>,
    /// When the last answer with a stamp was sent.
    answered: Option<Instant>,
    /// Whether the last question that could come soon after an answer did.
    soon: bool,
    /// The last stamp that another node gave this one.
    heard: Option<Stamp>,
}

impl Vouches {
    /// `process`: a random number of this process.
    pub fn new(process: u64) -> Vouches {
        Vouches { process, state: Mutex::default(), changed: Notify::new() }
    }

    /// The number of a round whose reads have all arrived.
    pub fn depart(&self) -> u64 {
        let mut state = self.state.lock();
        state.departed += 1;
        state.departed
    }

    /// Up to which round of this node's reads a question vouches that says it has seen `heard`.
    pub fn covered(&self, heard: Option<Stamp>, now: Instant) -> u64 {
        let mut state = self.state.lock();
        state.soon = state.asked_soon(now);
        if planted::is(Bug::WordForLaterReads) {
            return state.departed;
        }
        heard.filter(|stamp| stamp.process == self.process).map_or(0, |stamp| stamp.round)
    }

    /// The stamp of an answer that is about to be sent.
    pub fn stamp(&self, now: Instant) -> Stamp {
        let mut state = self.state.lock();
        state.answered = Some(now);
        Stamp { process: self.process, round: state.departed }
    }

    /// A question vouched for all rounds up to `round`, with this index.
    pub fn vouch(&self, round: u64, index: u64) {
        let mut state = self.state.lock();
        if state.vouched.is_none_or(|(latest, _)| latest < round) {
            state.vouched = Some((round, index));
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// How long a round that leaves now is to wait for a word; `None` where none is expected.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        if planted::is(Bug::WordForLaterReads) {
            return Some(PLANTED_PATIENCE);
        }
        let state = self.state.lock();
        (state.soon && state.asked_soon(now)).then_some(MOST_PATIENCE)
    }

    /// Waits until a word vouches for the round; gives its index.
    pub async fn vouched(&self, round: u64) -> u64 {
        loop {
            // Made before the look: a notification between the two is not missed.
            let changed = self.changed.notified();
            if let Some((latest, index)) = self.state.lock().vouched
                && latest >= round
            {
                return index;
            }
            changed.await;
        }
    }

    /// Keeps the stamp that an answer gave this node.
    pub fn hear(&self, stamp: Stamp) {
        self.state.lock().heard = Some(stamp);
    }

    /// The last stamp that this node was given.
    pub fn heard(&self) -> Option<Stamp> {
        self.state.lock().heard
    }
}

impl State {
    /// Whether `now` is soon after the last answer with a stamp.
    fn asked_soon(&self, now: Instant) -> bool {
        let answered = self.answered;
        answered.is_some_and(|at| now.saturating_duration_since(at) < MOST_PATIENCE)
    }
}
