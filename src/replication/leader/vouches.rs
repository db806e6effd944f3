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
//! sent after the answer was, and vouches for all rounds up to the stamp's. Who waits at the gate when
//! an answer is made leaves with it, unless a round that left so is still there: one is being confirmed
//! at a time, and one stands behind it. So a read waits for a cycle, from an answer until its follower's
//! next question, and at worst for the two rounds before it.
//!
//! **Guarantees.** A round is let through with the index of a question that was sent after the round
//! left.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::forward::Stamp;
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use crate::types::NodeId;

/// For how long no word is waited for after one that did not come; twice as long after each that did not
/// come either, so many times. A client that asks one node after the other, and waits for each answer,
/// makes followers look as if they asked again soon, and they ask only once the leader has answered.
const BACK_OFF: Duration = Duration::from_millis(100);
const MOST_DOUBLINGS: u32 = 4;

/// See the module. One on each node.
pub struct Vouches {
    process: u64,
    /// How long a round waits for a word where one is expected, before it asks a majority.
    patience: Duration,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The number of the last round of this node's reads that left; they count from 1.
    departed: u64,
    /// The last round that words vouched for, and the index for it and those before it.
    vouched: (u64, u64),
    followers: BTreeMap<NodeId, Cycle>,
    /// How many words were waited for in vain, one after the other.
    in_vain: u32,
    /// When a word may be waited for again.
    patient_from: Option<Instant>,
    /// The last stamp that another node gave this one.
    heard: Option<Stamp>,
}

/// How a follower asks.
struct Cycle {
    /// When it was last sent an answer with a stamp.
    answered: Instant,
    /// Whether its last question came soon after the answer before it.
    short: bool,
}

impl Vouches {
    /// `process`: a random number of this process. `patience`: how long a round waits for a word where
    /// one is expected, before it asks a majority.
    pub fn new(process: u64, patience: Duration) -> Vouches {
        Vouches { process, patience, state: Mutex::default(), changed: Notify::new() }
    }

    /// The number of a round whose reads have all arrived.
    pub fn depart(&self) -> u64 {
        let mut state = self.state.lock();
        state.departed += 1;
        state.departed
    }

    /// Up to which round of this node's reads a question vouches that says it has seen `heard`.
    pub fn covered(&self, heard: Option<Stamp>) -> u64 {
        if planted::is(Bug::WordForLaterReads) {
            return self.state.lock().departed;
        }
        heard.filter(|stamp| stamp.process == self.process).map_or(0, |stamp| stamp.round)
    }

    /// The stamp of an answer that is about to be sent.
    pub fn stamp(&self, follower: NodeId, now: Instant) -> Stamp {
        let mut state = self.state.lock();
        let short = state.followers.get(&follower).is_some_and(|cycle| self.is_soon(cycle, now));
        state.followers.insert(follower, Cycle { answered: now, short });
        Stamp { process: self.process, round: state.departed }
    }

    /// A question vouched for all rounds up to `round`, with this index.
    pub fn vouch(&self, round: u64, index: u64) {
        let mut state = self.state.lock();
        if state.vouched.0 < round {
            state.vouched = (round, index);
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// How long a round that leaves now is to wait for a word; `None` where none is expected.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        if state.patient_from.is_some_and(|from| now < from) {
            return None;
        }
        let expected = |cycle: &Cycle| cycle.short && self.is_soon(cycle, now);
        state.followers.values().any(expected).then_some(self.patience)
    }

    /// Whether the word that was waited for came.
    pub fn waited(&self, it_came: bool, now: Instant) {
        let mut state = self.state.lock();
        if it_came {
            (state.in_vain, state.patient_from) = (0, None);
        } else {
            state.patient_from = Some(now + BACK_OFF * (1 << state.in_vain.min(MOST_DOUBLINGS)));
            state.in_vain = state.in_vain.saturating_add(1);
        }
    }

    /// Waits until a word vouches for the round; gives its index.
    pub async fn vouched(&self, round: u64) -> u64 {
        loop {
            // Made before the look: a notification between the two is not missed.
            let changed = self.changed.notified();
            if let Some(index) = self.index_of(round) {
                return index;
            }
            changed.await;
        }
    }

    /// The index for a round that a word vouches for already.
    pub fn index_of(&self, round: u64) -> Option<u64> {
        let (latest, index) = self.state.lock().vouched;
        (latest >= round).then_some(index)
    }

    /// Whether `now` is so soon after a cycle began that two of such cycles fit into the patience: a round
    /// that leaves between two answers needs two.
    fn is_soon(&self, cycle: &Cycle, now: Instant) -> bool {
        now.saturating_duration_since(cycle.answered) < self.patience / 2
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
