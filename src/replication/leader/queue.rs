//! What waits for the pump: writes of this node's clients, and submissions from other nodes.
//!
//! **Bounds.** Both queues are bounded by count and by bytes; what does not fit is refused, and
//! definitely not applied. So is a write that comes while the oldest has waited its turn for longer
//! than the settings allow: a queue that is never empty gives nobody more, and everybody latency
//! (Nichols and Jacobson, "Controlling Queue Delay", 2012, measure it by the same wait). Many that came
//! at once are all in before the oldest has waited: those that wait [`OVERDUE`] times as long are refused
//! where they wait.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::slot::{Settled, Slot};
use crate::consensus::Submission;
use crate::error::Refusal;
use crate::peer::Reply;
use crate::runtime::Instant;
use crate::types::Write;

/// How many writes of clients may wait: twice the default for requests in flight.
pub const MAX_QUEUED_WRITES: usize = 8_192;

/// How many bytes of clients' writes may wait.
pub const MAX_QUEUED_WRITE_BYTES: usize = 64 << 20;

/// How many submissions from other nodes may wait: each has a few under way at most.
pub const MAX_QUEUED_SUBMISSIONS: usize = 1_024;

/// How many bytes of submissions from other nodes may wait.
pub const MAX_QUEUED_SUBMISSION_BYTES: usize = 64 << 20;

/// A write that waits so many times as long as the oldest may while others are taken is refused.
const OVERDUE: u32 = 3;

/// How long a client should wait before it tries a full queue again: a few batches' time.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What a write weighs beside its key and value, in bytes.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// A client's write, with the place where the client waits. Dropped unanswered, it tells the client
/// what is known.
pub struct Pending {
    pub write: Write,
    pub slot: Arc<Slot>,
    pub queued_at: Instant,
    pub deadline: Instant,
    /// Whether it may go to another node.
    pub may_forward: bool,
    pub bytes: usize,
}

impl Pending {
    /// A write that waits.
    pub fn new(
        write: Write,
        slot: Arc<Slot>,
        queued_at: Instant,
        deadline: Instant,
        may_forward: bool,
    ) -> Pending {
        let bytes = write_bytes(&write);
        Pending { write, slot, queued_at, deadline, may_forward, bytes }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.slot.orphan();
    }
}

/// About how many bytes a write takes in a log or on the wire.
pub fn write_bytes(write: &Write) -> usize {
    let change = write.change.about_bytes();
    let retry = write.retry.as_ref().map_or(0, |retry| retry.key.len());
    write.key.as_str().len() + change + retry + WRITE_OVERHEAD_BYTES
}

/// Another node's submission, to be proposed here.
pub struct Remote {
    pub submission: Submission,
    pub bytes: usize,
    pub deadline: Instant,
    pub reply: Reply,
}

/// Why something does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotQueued {
    NoRoom,
    /// The oldest write has waited its turn for this long.
    Slow {
        waited: Duration,
    },
    Closed,
}

impl From<NotQueued> for Refusal {
    fn from(reason: NotQueued) -> Refusal {
        match reason {
            NotQueued::NoRoom => {
                Refusal::Overloaded { what: "the write queue", retry_after: RETRY_AFTER }
            }
            NotQueued::Slow { waited } => {
                Refusal::Overloaded { what: "the time that writes may wait", retry_after: waited }
            }
            NotQueued::Closed => Refusal::NotReady { detail: "it is stopping".to_owned() },
        }
    }
}

/// How much waits in both queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub writes: usize,
    pub bytes: usize,
}

/// The two queues, and how the pump learns of them.
pub struct Queue {
    state: Mutex<State>,
    wake: Notify,
    longest_wait: Duration,
}

#[derive(Default)]
struct State {
    writes: VecDeque<Pending>,
    write_bytes: usize,
    remote: VecDeque<Remote>,
    remote_writes: usize,
    remote_bytes: usize,
    closed: bool,
    flow: Option<Flow>,
}

/// Since when writes are being applied without a gap, and when the last were.
#[derive(Clone, Copy)]
struct Flow {
    since: Instant,
    last: Instant,
}

impl Queue {
    /// Queues that refuse more while the oldest write has waited for longer than `longest_wait`.
    pub fn new(longest_wait: Duration) -> Queue {
        Queue { state: Mutex::default(), wake: Notify::new(), longest_wait }
    }

    /// Queues a client's write.
    pub fn push_write(&self, pending: Pending) -> Result<(), NotQueued> {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if state.closed {
            return Err(NotQueued::Closed);
        }
        state.drop_left(&mut dropped);
        let waited = state.turn_waited(pending.queued_at, self.longest_wait);
        if waited > self.longest_wait {
            return Err(NotQueued::Slow { waited });
        }
        if !state.has_room(pending.bytes) {
            return Err(NotQueued::NoRoom);
        }
        state.write_bytes += pending.bytes;
        state.writes.push_back(pending);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Writes that had waited here were applied at `now`.
    pub fn flowed(&self, now: Instant) {
        let mut state = self.state.lock();
        let since = match state.flow {
            Some(flow) if now.saturating_duration_since(flow.last) <= self.longest_wait => {
                flow.since
            }
            _ => now,
        };
        state.flow = Some(Flow { since, last: now });
    }

    /// Queues another node's submission, or gives it back.
    pub fn push_remote(&self, remote: Remote) -> Result<(), Remote> {
        let mut state = self.state.lock();
        let full = state.remote.len() >= MAX_QUEUED_SUBMISSIONS
            || state.remote_bytes + remote.bytes > MAX_QUEUED_SUBMISSION_BYTES;
        if state.closed || full {
            return Err(remote);
        }
        state.remote_bytes += remote.bytes;
        state.remote_writes += remote.submission.writes.len();
        state.remote.push_back(remote);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes out the writes that have waited for far too long, and answers them: they are in no log.
    /// Gives how many there were.
    pub fn refuse_overdue(&self, now: Instant) -> u64 {
        let longest = self.longest_wait * OVERDUE;
        let mut overdue = Vec::new();
        let mut state = self.state.lock();
        loop {
            let waited = state.turn_waited(now, self.longest_wait);
            if waited <= longest {
                break;
            }
            let Some(pending) = state.writes.pop_front() else { break };
            state.write_bytes -= pending.bytes;
            overdue.push((pending, waited));
        }
        drop(state);
        for (pending, waited) in &overdue {
            let result = Err(Refusal::from(NotQueued::Slow { waited: *waited }).into());
            pending.slot.answer(Settled { result, forwarded: false });
        }
        overdue.len() as u64
    }

    /// The oldest writes, as many as `fits` says yes to, each claimed for handing over; those whose
    /// clients have left are dropped.
    pub fn take_writes(&self, mut fits: impl FnMut(&Pending) -> bool) -> Vec<Pending> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while let Some(pending) = state.writes.front() {
            let claimed = pending.slot.claim();
            if claimed && !fits(pending) {
                pending.slot.release();
                break;
            }
            let Some(pending) = state.writes.pop_front() else { break };
            state.write_bytes -= pending.bytes;
            if claimed {
                taken.push(pending);
            }
        }
        taken
    }

    /// The oldest submissions from other nodes, as many as `fits` says yes to.
    pub fn take_remote(&self, mut fits: impl FnMut(&Remote) -> bool) -> Vec<Remote> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while state.remote.front().is_some_and(&mut fits) {
            let Some(remote) = state.remote.pop_front() else { break };
            state.remote_bytes -= remote.bytes;
            state.remote_writes -= remote.submission.writes.len();
            taken.push(remote);
        }
        taken
    }

    /// What waits, of clients and of other nodes.
    pub fn waiting(&self) -> Waiting {
        let state = self.state.lock();
        Waiting {
            writes: state.writes.len() + state.remote_writes,
            bytes: state.write_bytes + state.remote_bytes,
        }
    }

    /// Whether clients' writes wait.
    pub fn has_writes(&self) -> bool {
        !self.state.lock().writes.is_empty()
    }

    /// Forgets everything that waits; clients and peers are told that it was not taken.
    pub fn drain(&self) {
        let mut state = self.state.lock();
        let (writes, remote) = (take(&mut state.writes), take(&mut state.remote));
        (state.write_bytes, state.remote_writes, state.remote_bytes) = (0, 0, 0);
        drop(state);
        drop(writes);
        remote.into_iter().for_each(|remote| remote.reply.refuse("this node is stopping"));
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Whether nothing waits and nothing more will.
    pub fn is_finished(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.writes.is_empty() && state.remote.is_empty()
    }

    /// Waits until something was queued, or the queue closed, since the last wait.
    pub fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }
}

impl State {
    /// How long the oldest write has waited while writes were being applied: where none are, since
    /// there is no leader or no majority, a wait says nothing about the load.
    fn turn_waited(&self, now: Instant, longest_gap: Duration) -> Duration {
        let (Some(flow), Some(oldest)) = (self.flow, self.writes.front()) else {
            return Duration::ZERO;
        };
        if now.saturating_duration_since(flow.last) > longest_gap {
            return Duration::ZERO;
        }
        now.saturating_duration_since(oldest.queued_at.max(flow.since))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.writes.len() < MAX_QUEUED_WRITES && self.write_bytes + bytes <= MAX_QUEUED_WRITE_BYTES
    }

    /// Forgets the oldest writes whose clients have left; deadlines being alike, those are in front.
    fn drop_left(&mut self, dropped: &mut Vec<Pending>) {
        while self.writes.front().is_some_and(|pending| pending.slot.has_left()) {
            if let Some(pending) = self.writes.pop_front() {
                self.write_bytes -= pending.bytes;
                dropped.push(pending);
            }
        }
    }
}
