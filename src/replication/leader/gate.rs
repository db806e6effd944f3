//! Linearizable reads: one confirmation for all reads that wait.
//!
//! **Why it exists.** Before a node may read its own table it must know an index that covers every
//! write acknowledged before the read was asked for, confirmed by a majority, and have applied it.
//! One confirmation is as good for a thousand reads as for one, so reads gather at the gate and
//! leave in rounds. A follower's round asks the leader, which answers at once where the question
//! itself vouches for it (`asks`, `vouches`), and else takes it into its own next round. The leader's
//! rounds wait for such a question too where one is about to come, and else ask a majority. A second
//! gate of the same kind, for reads at `lease`, asks the leader for its lease's word alone; where it
//! holds none, it confirms.
//!
//! **Guarantees.** A read leaves with a round whose confirmation was begun after the read arrived:
//! one that has departed takes nobody in.
//!
//! **Bounds.** [`MAX_CONFIRMING`] rounds are being confirmed at once, and [`MAX_APPLYING`] wait for
//! this node to catch up; other nodes' requests in one round are [`MAX_REMOTE`] at most.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Context;
use super::forward::{ReadIndexAnswer, ReadIndexRequest, Vouching, Word, decode, encode};
use super::group::{Group, while_leading};
use crate::error::{ReadError, Refusal};
use crate::peer::{Inbound, Lane, Reply, Request, Service};
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use crate::types::NodeId;

/// Rounds being confirmed at once. With one, all reads that arrive during a confirmation share the
/// next, so that messages per read fall as load rises.
pub const MAX_CONFIRMING: usize = 1;

/// Confirmed rounds that wait until this node has applied their index.
const MAX_APPLYING: usize = 64;

/// Requests of other nodes in one round: a node has one under way, and perhaps some given up.
const MAX_REMOTE: usize = 1_024;

/// How long one confirmation may take before it is asked for again. Asking twice does no harm, and
/// a lost message must not cost the reads all of their time.
const ATTEMPT: Duration = Duration::from_millis(500);

/// The same where the leader's lease answers, which takes a round trip and no majority: local reads with
/// a bound wait for it, and not for long.
const LEASE_ATTEMPT: Duration = Duration::from_millis(100);

/// How long to wait after a failed attempt, unless the leader changes first.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Where reads wait to be linearizable.
pub struct ReadGate<G> {
    context: Arc<Context<G>>,
    /// What a round of this gate asks the leader for.
    vouching: Vouching,
    next: Mutex<Next>,
    /// A round that has left already, and is the next to be confirmed.
    sent_off: Mutex<Option<Departed>>,
    wake: Notify,
}

/// Who waits for the next round.
struct Next {
    round: Arc<Round>,
    /// The latest deadline of those who wait; `None` where nobody does.
    deadline: Option<Instant>,
    /// Whether reads of this node wait, and not only other nodes.
    has_local: bool,
    remote: Vec<Reply>,
    closed: bool,
}

/// What the reads of one round share.
#[derive(Default)]
struct Round {
    outcome: OnceLock<Result<Confirmed, ReadError>>,
    done: Notify,
    /// Why the last attempt failed.
    trouble: Mutex<Option<String>>,
}

/// How a round was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Whether another node was asked over a peer link.
    pub asked_leader: bool,
    pub by: By,
}

/// What vouches for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A majority that was asked for it.
    Majority,
    /// A follower's word, which with the leader is a majority; nobody was asked for it.
    Word,
    /// The leader's lease alone.
    Lease,
}

/// A round that left the gate. Dropped without an outcome, it tells its reads that the node stops.
struct Departed {
    /// When it left: what this node has applied for it is as fresh as this.
    at: Instant,
    /// Its number among this node's rounds.
    number: u64,
    round: Arc<Round>,
    deadline: Instant,
    has_local: bool,
    remote: Vec<Reply>,
}

impl Round {
    async fn wait(&self) -> Result<Confirmed, ReadError> {
        loop {
            // Made before the look: a notification between the two is not missed.
            let done = self.done.notified();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            done.await;
        }
    }

    fn finish(&self, outcome: Result<Confirmed, ReadError>) {
        // The first outcome counts.
        let _ = self.outcome.set(outcome);
        self.done.notify_waiters();
    }
}

impl Drop for Departed {
    fn drop(&mut self) {
        if self.round.outcome.get().is_none() {
            self.round.finish(Err(stopping()));
        }
    }
}

fn stopping() -> ReadError {
    Refusal::NotReady { detail: "it is stopping".to_owned() }.into()
}

impl<G: Group> ReadGate<G> {
    /// An open gate; rounds leave it while [`ReadGate::run`] runs.
    pub fn new(context: Arc<Context<G>>, vouching: Vouching) -> ReadGate<G> {
        let next = Mutex::new(Next::empty());
        ReadGate { context, vouching, next, sent_off: Mutex::default(), wake: Notify::new() }
    }

    /// Waits until this node's table holds every write acknowledged anywhere before the call.
    pub async fn pass(&self, deadline: Instant) -> Result<Confirmed, ReadError> {
        let asked_at = self.context.runtime.now();
        let round = {
            let mut next = self.next.lock();
            if next.closed {
                return Err(stopping());
            }
            next.has_local = true;
            next.join(deadline)
        };
        self.wake.notify_one();
        match self.context.runtime.deadline(deadline, round.wait()).await {
            Some(outcome) => outcome,
            None => Err(self.late(&round, deadline.saturating_duration_since(asked_at))),
        }
    }

    /// Takes another node's request for a read index into the next round. One hop at most: where
    /// this node does not lead, it says so.
    pub fn take(&self, inbound: Inbound) {
        let leader = self.context.group.leader();
        if leader != Some(self.context.node) {
            return not_confirmed([inbound.reply], leader, "this node does not lead");
        }
        let mut next = self.next.lock();
        if next.closed || next.remote.len() >= MAX_REMOTE {
            drop(next);
            return inbound.reply.refuse("too many read indexes are being asked for");
        }
        next.join(inbound.deadline);
        next.remote.push(inbound.reply);
        drop(next);
        self.wake.notify_one();
    }

    /// Lets nobody in any more, and turns away who waits.
    pub fn close(&self) {
        let mut next = self.next.lock();
        next.closed = true;
        let round = next.round.clone();
        drop(next);
        round.finish(Err(stopping()));
        // Dropped, it tells its reads the same.
        drop(self.sent_off.lock().take());
    }

    /// Has those who wait leave now, though the round before them may be confirmed still. One round at
    /// most: who arrives after that waits for the next as ever.
    pub fn send_off(&self) {
        let mut sent_off = self.sent_off.lock();
        if sent_off.is_some() {
            return;
        }
        *sent_off = self.depart();
        if sent_off.is_some() {
            drop(sent_off);
            self.wake.notify_one();
        }
    }

    /// Sends rounds off, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut confirming: FuturesUnordered<BoxFuture<'static, _>> = FuturesUnordered::new();
        let mut applying: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            while confirming.len() < MAX_CONFIRMING && applying.len() < MAX_APPLYING {
                let Some(departed) = self.next_round() else { break };
                confirming.push(Box::pin(confirm(self.context.clone(), self.vouching, departed)));
            }
            tokio::select! {
                biased;
                Some(round) = confirming.next(), if !confirming.is_empty() => {
                    if let Some((departed, index, confirmed)) = round {
                        let context = self.context.clone();
                        if planted::is(Bug::ReadJoinsDepartedRound)
                            && let Some(late) = self.depart()
                        {
                            applying.push(Box::pin(apply(context.clone(), late, index, confirmed)));
                        }
                        applying.push(Box::pin(apply(context, departed, index, confirmed)));
                    }
                }
                Some(()) = applying.next(), if !applying.is_empty() => {}
                () = self.wake.notified() => {}
            }
        }
    }

    fn next_round(&self) -> Option<Departed> {
        let sent_off = self.sent_off.lock().take();
        sent_off.or_else(|| self.depart())
    }

    /// Takes everybody who waits: from here on, who arrives waits for the round after.
    fn depart(&self) -> Option<Departed> {
        let mut next = self.next.lock();
        let deadline = next.deadline?;
        let closed = next.closed;
        let left = std::mem::replace(&mut *next, Next { closed, ..Next::empty() });
        let (round, has_local, remote) = (left.round, left.has_local, left.remote);
        let (at, number) = (self.context.runtime.now(), self.context.vouches.depart());
        Some(Departed { at, number, round, deadline, has_local, remote })
    }

    /// Why a read was not let through in time.
    fn late(&self, round: &Round, waited: Duration) -> ReadError {
        let leader = self.context.group.leader();
        if leader.is_none() {
            return Refusal::NoLeader { detail: self.context.no_leader(leader) }.into();
        }
        match round.trouble.lock().clone() {
            Some(detail) => Refusal::NoLeader { detail }.into(),
            None => ReadError::TimedOut { waited },
        }
    }
}

impl Next {
    fn empty() -> Next {
        let (round, remote) = (Arc::default(), Vec::new());
        Next { round, deadline: None, has_local: false, remote, closed: false }
    }

    fn join(&mut self, deadline: Instant) -> Arc<Round> {
        self.deadline = Some(self.deadline.map_or(deadline, |latest| latest.max(deadline)));
        self.round.clone()
    }
}

/// Gets a round's index, here or from the leader, and answers the other nodes in it. `None` where it
/// was not to be had by the round's deadline; its reads have given up by then.
async fn confirm<G: Group>(
    context: Arc<Context<G>>,
    vouching: Vouching,
    mut departed: Departed,
) -> Option<(Departed, u64, Confirmed)> {
    let (group, runtime) = (&*context.group, &context.runtime);
    while runtime.now() < departed.deadline {
        let leader = group.leader();
        let attempt = match vouching {
            Vouching::Confirmed => ATTEMPT,
            Vouching::ByLease => LEASE_ATTEMPT,
        };
        let attempt = (runtime.now() + attempt).min(departed.deadline);
        let answer = match leader {
            Some(leader) if leader == context.node => {
                confirm_here(&context, vouching, &mut departed, attempt).await
            }
            other => {
                let remote = std::mem::take(&mut departed.remote);
                not_confirmed(remote, leader, "this node does not lead");
                if !departed.has_local {
                    return None;
                }
                match other {
                    Some(leader) => ask_leader(&context, vouching, leader, attempt).await,
                    None => {
                        group.leader_change(None, departed.deadline).await;
                        continue;
                    }
                }
            }
        };
        match answer {
            Ok((index, by)) => {
                let asked_leader = leader != Some(context.node);
                if planted::is(Bug::StalenessTimedBeforeApplied) {
                    context.freshness.as_of(departed.at);
                }
                return Some((departed, index, Confirmed { asked_leader, by }));
            }
            Err(trouble) => *departed.round.trouble.lock() = Some(trouble),
        }
        group.leader_change(leader, runtime.now() + RETRY_PAUSE).await;
    }
    let trouble = departed.round.trouble.lock().clone();
    let detail = trouble.unwrap_or_else(|| context.no_leader(group.leader()));
    departed.round.finish(Err(Refusal::NoLeader { detail }.into()));
    None
}

/// The index up to which this node, which leads, must have applied, and what vouches for it: where its
/// lease will not do, or no follower's word is about to come, a majority confirms.
async fn confirm_here<G: Group>(
    context: &Context<G>,
    vouching: Vouching,
    departed: &mut Departed,
    deadline: Instant,
) -> Result<(u64, By), String> {
    if vouching == Vouching::ByLease
        && let Some(index) = context.group.lease_index().await
    {
        departed.remote.drain(..).for_each(|reply| answer(reply, &ReadIndexAnswer::ByLease(index)));
        return Ok((index, By::Lease));
    }
    // Other nodes' questions wait for a majority: their word did not do, or they asked for a lease.
    if departed.remote.is_empty()
        && let Some(index) = on_a_word(context, departed.number, deadline).await
    {
        context.metrics.read_rounds_by_word.inc();
        return Ok((index, By::Word));
    }
    let remote = &mut departed.remote;
    context.metrics.read_index_rounds.inc();
    let index = context.runtime.deadline(deadline, context.group.read_index(deadline)).await;
    match index {
        Some(Ok(index)) => {
            for reply in remote.drain(..) {
                answer(reply, &ReadIndexAnswer::Index(index));
            }
            Ok((index, By::Majority))
        }
        Some(Err(error)) => {
            not_confirmed(remote.drain(..), error.leader, &error.reason);
            Err(error.to_string())
        }
        None => Err("no majority confirmed in time that this node leads".to_owned()),
    }
}

/// The index for a round that a follower's word vouches for already, or does soon: half of the time until
/// the deadline is left for a majority.
async fn on_a_word<G: Group>(context: &Context<G>, round: u64, deadline: Instant) -> Option<u64> {
    let vouches = &context.vouches;
    if let Some(index) = vouches.index_of(round) {
        return Some(index);
    }
    let now = context.runtime.now();
    let patience = vouches.patience(now)?.min(deadline.saturating_duration_since(now) / 2);
    let index = context.runtime.deadline(now + patience, vouches.vouched(round)).await;
    vouches.waited(index.is_some(), context.runtime.now());
    index
}

/// The index that the leader gives, and what vouches for it.
async fn ask_leader<G: Group>(
    context: &Context<G>,
    vouching: Vouching,
    leader: NodeId,
    deadline: Instant,
) -> Result<(u64, By), String> {
    // In this order: the word is given after the stamp was heard.
    let heard = context.vouches.heard();
    let word = context.group.stands_by().map(|allegiance| Word { allegiance, heard });
    let word = word.filter(|_| vouching == Vouching::Confirmed);
    let call = context.transport.call(Request {
        to: leader,
        lane: Lane::Control,
        service: Service::ReadIndex,
        epoch: None,
        deadline,
        body: encode(&ReadIndexRequest { vouching, word })?,
    });
    match while_leading(&*context.group, &context.runtime, leader, deadline, call).await {
        Some(Ok(body)) => match decode(&body)? {
            ReadIndexAnswer::Index(index) => Ok((index, By::Majority)),
            ReadIndexAnswer::ByLease(index) => Ok((index, By::Lease)),
            ReadIndexAnswer::ByWord { index, stamp } => {
                context.vouches.hear(stamp);
                Ok((index, By::Word))
            }
            ReadIndexAnswer::NotConfirmed { reason, .. } => Err(format!("node {leader}: {reason}")),
        },
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("node {leader} did not confirm in time that it leads")),
    }
}

/// Waits until this node has applied the round's index, and lets its reads through.
async fn apply<G: Group>(
    context: Arc<Context<G>>,
    departed: Departed,
    index: u64,
    confirmed: Confirmed,
) {
    if !departed.has_local {
        return;
    }
    // Where it is not applied in time, the reads of the round have given up by then: its deadline
    // is the latest of theirs.
    let at_once = planted::is(Bug::ReadBeforeApplied);
    if at_once || context.group.wait_applied(index, departed.deadline).await {
        context.freshness.as_of(departed.at);
        departed.round.finish(Ok(confirmed));
    } else {
        let detail = format!("it has not applied the log up to entry {index} yet");
        departed.round.finish(Err(Refusal::NotReady { detail }.into()));
    }
}

fn not_confirmed(replies: impl IntoIterator<Item = Reply>, leader: Option<NodeId>, reason: &str) {
    for reply in replies {
        answer(reply, &ReadIndexAnswer::NotConfirmed { leader, reason: reason.to_owned() });
    }
}

/// Sends an answer to another node's question.
pub fn answer(reply: Reply, message: &ReadIndexAnswer) {
    match encode(message) {
        Ok(body) => reply.send(body),
        Err(reason) => reply.refuse(reason),
    }
}
