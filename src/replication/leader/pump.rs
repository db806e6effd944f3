//! The one task that gets writes into the log: it batches, proposes or forwards, and tries again.
//!
//! **Why it exists.** Writes that arrive together should share one log entry, one sync and one
//! message, and a write that finds no entry under way should wait for nobody. So the pump takes whatever is
//! queued whenever it may start something, and what arrives meanwhile is the next batch. An entry costs
//! the group the same however many writes are in it, so that few writes wait for the one under way. Where this
//! node leads, its own writes and the submissions forwarded to it share an entry; elsewhere its
//! writes go to the leader as one submission a message.
//!
//! **Guarantees.** An attempt that definitely reached no log is made again, with whoever leads. An
//! attempt that may have reached one is made again as the same submission, which the state machine
//! applies once. A client is told *not applied* only if no attempt may ever have reached a log, and
//! none follows.
//!
//! **Does not guarantee** an order among writes that are under way at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::Context;
use super::flight::{Flight, Sessions};
use super::forward::{Verdict, decode, encode};
use super::group::{Group, while_leading};
use super::queue::Remote;
use crate::consensus::{Applied, Command, ProposeError, Submission};
use crate::peer::{Lane, Reply, Request, Service};
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use crate::types::NodeId;

/// Entries a leader has under way at once, at most: one alone would leave the disk and the links idle
/// between entries, also where the load fills each.
pub const MAX_ENTRIES_IN_FLIGHT: usize = 3;

/// How many writes, or bytes of them, must wait for an entry to leave while others are under way. Of fewer,
/// each would bear more of what an entry costs in the log, on the wire and in the state machine than it
/// gains by not waiting: with 64 connections a put took a seventh more CPU.
pub const ENOUGH_WRITES: usize = 64;
pub const ENOUGH_BYTES: usize = 256 << 10;

/// ... unless none left for so long, to which the timer adds up to a millisecond: a slow disk or a long way
/// is not waited for. Several times what an entry takes where both are fast.
pub const PATIENCE: Duration = Duration::from_millis(5);

/// Submissions this node has on their way to the leader at once, for the same reasons.
pub const MAX_FORWARDS_IN_FLIGHT: usize = 4;

/// How many writes share an entry, at most: bounds the time one entry takes to apply.
const MAX_ENTRY_WRITES: usize = 1_024;

/// How many bytes of writes share an entry; one larger submission is an entry alone.
const MAX_ENTRY_BYTES: usize = 4 << 20;

/// How many writes share a forwarded submission, at most: half an entry, so that two nodes share
/// one fairly.
const MAX_FORWARD_WRITES: usize = MAX_ENTRY_WRITES / 2;

/// How many bytes of writes share a forwarded submission; one larger write goes alone.
const MAX_FORWARD_BYTES: usize = MAX_ENTRY_BYTES / 2;

/// How long a forwarded submission waits for its answer before it is sent again: an answer that
/// was lost must not cost its clients all of their time. Sent twice, it is still applied once.
const FORWARD_ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait after a failed attempt, unless the leader changes first: about a round trip...
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(5);

/// ... doubled up to this: about a heartbeat.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long the pump waits without looking around, where nothing wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub struct Pump<G: Group> {
    context: Arc<Context<G>>,
    sessions: Sessions,
    /// Submissions to attempt again, oldest first.
    retries: BTreeMap<u64, Flight>,
    in_flight: FuturesUnordered<BoxFuture<'static, Done>>,
    entries: usize,
    /// When the last entry left.
    entry_left_at: Instant,
    forwards: usize,
    pause: Option<Pause>,
    /// Which of own and forwarded submissions goes first into the next entry: they take turns, so
    /// that neither starves where entries are full.
    remote_first: bool,
}

/// An attempt that came to an end.
enum Done {
    Entry { own: Vec<Flight>, remote: Vec<Reply>, result: Result<Applied, ProposeError> },
    Forward { flight: Flight, verdict: Verdict },
}

/// A rest after a failed attempt, over early when the leader changes.
struct Pause {
    length: Duration,
    until: Instant,
    leader: Option<NodeId>,
}

/// What still goes into a batch.
struct Room {
    writes: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    fn entry() -> Room {
        Room { writes: MAX_ENTRY_WRITES, bytes: MAX_ENTRY_BYTES, is_empty: true }
    }

    fn forward() -> Room {
        Room { writes: MAX_FORWARD_WRITES, bytes: MAX_FORWARD_BYTES, is_empty: true }
    }

    /// Takes the space if it is there; the first always fits.
    fn take(&mut self, writes: usize, bytes: usize) -> bool {
        let fits = self.is_empty || (writes <= self.writes && bytes <= self.bytes);
        if fits {
            self.is_empty = false;
            self.writes = self.writes.saturating_sub(writes);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

impl<G: Group> Pump<G> {
    pub fn new(context: Arc<Context<G>>, boot: u64) -> Pump<G> {
        Pump {
            sessions: Sessions::new(context.node, boot),
            entry_left_at: context.runtime.now(),
            context,
            retries: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            entries: 0,
            forwards: 0,
            pause: None,
            remote_first: false,
        }
    }

    /// Runs until the queue is closed and everything taken from it has come to an end.
    pub async fn run(mut self) {
        let context = self.context.clone();
        loop {
            let (leader, now) = (context.group.leader(), context.runtime.now());
            self.start(leader, now);
            if self.is_finished() {
                return;
            }
            let (blocked, until) = (self.is_blocked(leader), self.next_look(leader));
            let patient_until = self.entry_left_at + PATIENCE;
            tokio::select! {
                biased;
                Some(done) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.finish(done, leader);
                }
                () = context.queue.woken() => {}
                () = context.runtime.sleep_until(patient_until), if self.is_patient(leader, now) => {}
                _ = context.group.leader_change(leader, until), if blocked => {}
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.in_flight.is_empty() && self.retries.is_empty() && self.context.queue.is_finished()
    }

    /// Whether own work waits that only time or another leader sets going.
    fn is_blocked(&self, leader: Option<NodeId>) -> bool {
        let stuck = leader.is_none() || self.is_paused(leader);
        stuck && (!self.retries.is_empty() || self.context.queue.has_writes())
    }

    fn is_paused(&self, leader: Option<NodeId>) -> bool {
        let now = self.context.runtime.now();
        self.pause.as_ref().is_some_and(|pause| now < pause.until && pause.leader == leader)
    }

    /// When to look around, where nothing wakes the pump before.
    fn next_look(&self, leader: Option<NodeId>) -> Instant {
        let idle = self.context.runtime.now() + LOOK_AGAIN;
        let pause = self.pause.as_ref().filter(|_| self.is_paused(leader)).map(|p| p.until);
        let deadlines = self.retries.values().filter_map(Flight::deadline);
        deadlines.chain(pause).fold(idle, Instant::min)
    }

    /// Starts everything that may start now.
    fn start(&mut self, leader: Option<NodeId>, now: Instant) {
        self.give_up_late(leader);
        if leader == Some(self.context.node) {
            while self.may_start_entry(now) && self.start_entry(leader) {}
            return;
        }
        for remote in self.context.queue.take_remote(|_| true) {
            let reason = "this node does not lead".to_owned();
            answer(remote.reply, &Verdict::NotTaken { leader, reason });
        }
        let Some(leader) = leader else { return };
        while self.forwards < MAX_FORWARDS_IN_FLIGHT && self.start_forward(leader) {}
    }

    /// Whether what waits, if anything, may leave in an entry `now`: the time that the same turn asks
    /// [`Pump::is_patient`] by, so that what does not leave is looked at again.
    fn may_start_entry(&self, now: Instant) -> bool {
        if self.entries == 0 {
            return true;
        }
        let waiting = self.context.queue.waiting();
        let is_enough = waiting.writes >= ENOUGH_WRITES || waiting.bytes >= ENOUGH_BYTES;
        let waited = now >= self.entry_left_at + PATIENCE;
        self.entries < MAX_ENTRIES_IN_FLIGHT && (is_enough || waited)
    }

    /// Whether something waits for the entry under way, and not for long.
    fn is_patient(&self, leader: Option<NodeId>, now: Instant) -> bool {
        leader == Some(self.context.node)
            && (1..MAX_ENTRIES_IN_FLIGHT).contains(&self.entries)
            && now < self.entry_left_at + PATIENCE
            && (!self.retries.is_empty() || self.context.queue.waiting().writes > 0)
    }

    fn give_up_late(&mut self, leader: Option<NodeId>) {
        let now = self.context.runtime.now();
        let late = |flight: &Flight| flight.deadline().is_none_or(|deadline| deadline <= now);
        let late = self.retries.iter().filter(|(_, flight)| late(flight));
        for sequence in late.map(|(sequence, _)| *sequence).collect::<Vec<_>>() {
            self.sessions.finish(sequence);
            if let Some(flight) = self.retries.remove(&sequence) {
                flight.give_up(&self.context.no_leader(leader));
            }
        }
    }

    /// Proposes an entry; false where nothing waits to be in one.
    fn start_entry(&mut self, leader: Option<NodeId>) -> bool {
        let mut room = Room::entry();
        let (mut own, mut remote) = (Vec::new(), Vec::new());
        self.remote_first = !self.remote_first;
        if self.remote_first {
            remote = self.take_remote(&mut room);
        }
        if !self.is_paused(leader) {
            own = self.take_own(&mut room);
        }
        if !self.remote_first {
            remote = self.take_remote(&mut room);
        }
        if own.is_empty() && remote.is_empty() {
            return false;
        }
        self.entries += 1;
        self.entry_left_at = self.context.runtime.now();
        let proposed_time = self.context.runtime.wall_ms() << 16;
        let mut submissions: Vec<Submission> = own
            .iter()
            .map(|flight| flight.submission(self.sessions.session(flight.sequence), proposed_time))
            .collect();
        let deadlines = own.iter().filter_map(Flight::deadline);
        let deadline = deadlines.chain(remote.iter().map(|remote| remote.deadline)).max();
        let replies = remote.into_iter().map(|remote| {
            submissions.push(remote.submission);
            remote.reply
        });
        let replies = replies.collect();
        let deadline = deadline.unwrap_or_else(|| self.context.runtime.now());
        let entry = propose(self.context.clone(), submissions, deadline, own, replies);
        self.in_flight.push(Box::pin(entry));
        true
    }

    /// Other nodes' submissions for an entry. Those whose time is over are refused: proposed by
    /// nobody, they may be sent again, and with them an entry would help nobody.
    fn take_remote(&self, room: &mut Room) -> Vec<Remote> {
        let now = self.context.runtime.now();
        let taken = self.context.queue.take_remote(|remote| {
            remote.deadline <= now || room.take(remote.submission.writes.len(), remote.bytes)
        });
        let (late, taken): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|remote| remote.deadline <= now);
        late.into_iter().for_each(|remote| remote.reply.refuse("it waited until it was too late"));
        taken
    }

    /// Own submissions for an entry: those to try again, then what the clients queued.
    fn take_own(&mut self, room: &mut Room) -> Vec<Flight> {
        let mut own = Vec::new();
        while let Some(next) = self.retries.first_entry() {
            if !room.take(next.get().len(), next.get().bytes()) {
                return own;
            }
            let mut flight = next.remove();
            if flight.claim() {
                own.push(flight);
            } else {
                self.sessions.finish(flight.sequence);
            }
        }
        if !self.sessions.may_begin() {
            return own;
        }
        let writes = self.context.take_writes(|pending| room.take(1, pending.bytes));
        if !writes.is_empty() {
            own.push(Flight::new(self.sessions.begin(), writes));
        }
        own
    }

    /// Sends a submission to the leader; false where none waits.
    fn start_forward(&mut self, leader: NodeId) -> bool {
        if self.is_paused(Some(leader)) {
            return false;
        }
        let Some(mut flight) = self.next_to_forward(leader) else { return false };
        flight.mark_forwarded();
        let session = self.sessions.session(flight.sequence);
        let submission = flight.submission(session, self.context.runtime.wall_ms() << 16);
        let body = match encode(&submission) {
            Ok(body) => body,
            Err(reason) => {
                self.settle(flight, Verdict::NotTaken { leader: None, reason }, Some(leader));
                return true;
            }
        };
        self.forwards += 1;
        self.context.metrics.writes_forwarded.inc_by(submission.writes.len() as u64);
        self.in_flight.push(Box::pin(forward(self.context.clone(), leader, flight, body)));
        true
    }

    fn next_to_forward(&mut self, leader: NodeId) -> Option<Flight> {
        loop {
            let mut flight = match self.retries.pop_first() {
                Some((_, flight)) => flight,
                None if !self.sessions.may_begin() => return None,
                None => {
                    let mut room = Room::forward();
                    let context = &self.context;
                    let writes = context.take_writes(|pending| room.take(1, pending.bytes));
                    if writes.is_empty() {
                        return None;
                    }
                    Flight::new(self.sessions.begin(), writes)
                }
            };
            flight.refuse_forwarding(|| self.context.not_leader(leader));
            if flight.claim() {
                return Some(flight);
            }
            self.sessions.finish(flight.sequence);
        }
    }

    fn finish(&mut self, done: Done, leader: Option<NodeId>) {
        match done {
            Done::Forward { flight, verdict } => {
                self.forwards -= 1;
                self.settle(flight, verdict, leader);
            }
            Done::Entry { own, remote, result } => {
                self.entries -= 1;
                if result.is_ok() {
                    self.context.queue.flowed(self.context.runtime.now());
                }
                let mut verdicts = verdicts(result, own.len() + remote.len()).into_iter();
                for (flight, verdict) in own.into_iter().zip(&mut verdicts) {
                    self.settle(flight, verdict, leader);
                }
                remote.into_iter().zip(verdicts).for_each(|(reply, v)| answer(reply, &v));
            }
        }
    }

    fn settle(&mut self, mut flight: Flight, verdict: Verdict, leader: Option<NodeId>) {
        match verdict {
            Verdict::Result(result) => {
                self.pause = None;
                self.context.queue.flowed(self.context.runtime.now());
                self.sessions.finish(flight.sequence);
                return flight.answer(result);
            }
            Verdict::NotTaken { reason, .. } => {
                tracing::debug!(sequence = flight.sequence, reason, "submission not taken");
                flight.not_taken();
            }
            Verdict::Unknown { reason } => {
                tracing::debug!(sequence = flight.sequence, reason, "submission maybe taken");
                flight.maybe_taken();
                if planted::is(Bug::ForwardTriedTwice) {
                    self.sessions.finish(flight.sequence);
                    flight.sequence = self.sessions.begin();
                }
            }
        }
        self.rest(leader);
        self.retries.insert(flight.sequence, flight);
    }

    /// Rests after a failed attempt; attempts that fail during a rest do not prolong it.
    fn rest(&mut self, leader: Option<NodeId>) {
        if self.is_paused(leader) {
            return;
        }
        let again = self.pause.as_ref().filter(|pause| pause.leader == leader);
        let length = again.map_or(RETRY_PAUSE_MIN, |p| (p.length * 2).min(RETRY_PAUSE_MAX));
        let until = self.context.runtime.now() + length;
        self.pause = Some(Pause { length, until, leader });
    }
}

/// Proposes an entry and waits until it is applied here.
async fn propose<G: Group>(
    context: Arc<Context<G>>,
    submissions: Vec<Submission>,
    deadline: Instant,
    own: Vec<Flight>,
    remote: Vec<Reply>,
) -> Done {
    let (group, runtime) = (&*context.group, &context.runtime);
    let work = group.propose(Command::Data(submissions), deadline);
    let result = while_leading(group, runtime, context.node, deadline, work).await;
    let result = result.unwrap_or_else(|| {
        let reason = "this node no longer leads, or the deadline passed".to_owned();
        Err(ProposeError::Unknown { reason })
    });
    Done::Entry { own, remote, result }
}

/// Sends a submission to the leader and waits for what becomes of it.
async fn forward<G: Group>(
    context: Arc<Context<G>>,
    leader: NodeId,
    flight: Flight,
    body: Bytes,
) -> Done {
    let attempt = context.runtime.now() + FORWARD_ATTEMPT;
    let deadline = flight.deadline().map_or(attempt, |deadline| deadline.min(attempt));
    let (lane, service) = (Lane::Bulk, Service::Forward);
    let call =
        context.transport.call(Request { to: leader, lane, service, epoch: None, deadline, body });
    let answer = while_leading(&*context.group, &context.runtime, leader, deadline, call).await;
    let verdict = match answer {
        Some(Ok(body)) => decode(&body).unwrap_or_else(|reason| Verdict::Unknown { reason }),
        Some(Err(error)) if error.may_have_been_handled() => {
            Verdict::Unknown { reason: error.to_string() }
        }
        Some(Err(error)) => Verdict::NotTaken { leader: None, reason: error.to_string() },
        None => Verdict::Unknown { reason: format!("node {leader} did not answer") },
    };
    Done::Forward { flight, verdict }
}

/// What an entry's end means for each of its `count` submissions.
fn verdicts(result: Result<Applied, ProposeError>, count: usize) -> Vec<Verdict> {
    match result {
        Ok(Applied::Data(results)) if results.len() == count => {
            results.into_iter().map(Verdict::Result).collect()
        }
        Ok(applied) => {
            let reason = "the entry was applied without a result for each submission".to_owned();
            tracing::error!(count, ?applied, reason);
            vec![Verdict::Unknown { reason }; count]
        }
        Err(ProposeError::NotAppended { leader, reason }) => {
            vec![Verdict::NotTaken { leader, reason }; count]
        }
        Err(ProposeError::Unknown { reason }) => vec![Verdict::Unknown { reason }; count],
    }
}

/// Answers another node's submission. Where that fails the reply is dropped, and the other side
/// learns that the submission may have been taken.
fn answer(reply: Reply, verdict: &Verdict) {
    match encode(verdict) {
        Ok(body) => reply.send(body),
        Err(reason) => tracing::warn!(reason, "a forwarded submission gets no answer"),
    }
}
