//! Requests of the group's other nodes.
//!
//! **Order.** Requests to append from one peer are handed to openraft in the order in which they
//! came, several at a time, and each is answered by itself. Heartbeats, votes and transfers do not
//! queue behind them. Snapshot messages are taken one after the other.
//!
//! **Bounds.** Every queue is bounded; what does not fit is refused, and the peer tries again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::codec;
use super::leadership::{Leadership, may_stand};
use super::lease::StartGuard;
use super::membership::Membership;
use super::messages::{MembersMessage, TransferMessage, VoteMessage};
use super::raft_types::Raft;
use super::snapshot_receiver::Receiver;
use super::state_machine::Machine;
use crate::peer::{Inbound, Service};
use crate::runtime::{Runtime, Task};
use crate::types::{LayoutCommand, NodeId};

/// Requests to append of one peer that wait, and that are being written, each. A peer has no more
/// than its window on the way, but a window of an earlier stream may not be through yet.
const APPEND_QUEUE: usize = 64;

/// Snapshot messages that wait.
const SNAPSHOT_QUEUE: usize = 16;

/// The requests of one peer that wait, and the task that takes them.
type Queue = (mpsc::Sender<Inbound>, Task<()>);

/// Takes requests and hands them to openraft.
pub(super) struct Inbox {
    raft: Raft,
    runtime: Runtime,
    appends: Mutex<BTreeMap<NodeId, Queue>>,
    snapshots: mpsc::Sender<Inbound>,
    receiver: Task<()>,
    leadership: Arc<Leadership>,
    membership: Arc<Membership>,
    guard: Arc<StartGuard>,
}

impl Inbox {
    pub(super) fn new(
        machine: Arc<Machine>,
        leadership: Arc<Leadership>,
        membership: Arc<Membership>,
        guard: Arc<StartGuard>,
    ) -> Inbox {
        let raft = leadership.raft.clone();
        let runtime = machine.runtime.clone();
        let (snapshots, queue) = mpsc::channel(SNAPSHOT_QUEUE);
        let receiver = runtime.spawn(Receiver::new(raft.clone(), machine).run(queue));
        let appends = Mutex::default();
        Inbox { raft, runtime, appends, snapshots, receiver, leadership, membership, guard }
    }

    /// Takes a request; never waits.
    pub(super) fn handle(&self, inbound: Inbound) {
        match inbound.service {
            Service::RaftAppend if codec::is_heartbeat(&inbound.body) => {
                let raft = self.raft.clone();
                self.runtime.spawn(async move { append(&raft, inbound).await });
            }
            Service::RaftAppend => self.queue_append(inbound),
            Service::RaftSnapshot => refuse_overflow(self.snapshots.try_send(inbound)),
            Service::RaftVote if !may_stand(self.leadership.fixed, inbound.from) => {
                inbound.reply.refuse("another node is the fixed leader: this one may not stand");
            }
            Service::RaftVote => {
                self.runtime.spawn(vote(self.raft.clone(), self.guard.clone(), inbound));
            }
            Service::RaftTransfer => {
                self.runtime.spawn(transfer(self.raft.clone(), self.leadership.clone(), inbound));
            }
            Service::ChangeMembers => {
                self.runtime.spawn(change_members(self.membership.clone(), inbound));
            }
            Service::ChangeLayout => {
                self.runtime.spawn(change_layout(self.membership.clone(), inbound));
            }
            other => inbound.reply.refuse(format!("{} is no Raft service", other.as_str())),
        }
    }

    fn queue_append(&self, inbound: Inbound) {
        let mut appends = self.appends.lock();
        let (queue, _) = appends.entry(inbound.from).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(APPEND_QUEUE);
            (queue, self.runtime.spawn(append_in_order(self.raft.clone(), waiting)))
        });
        refuse_overflow(queue.try_send(inbound));
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.receiver.abort();
        self.appends.lock().values().for_each(|(_, task)| task.abort());
    }
}

fn refuse_overflow(sent: Result<(), mpsc::error::TrySendError<Inbound>>) {
    match sent {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(inbound)) => inbound.reply.refuse("the queue is full"),
        Err(mpsc::error::TrySendError::Closed(inbound)) => {
            inbound.reply.refuse("this node is stopping");
        }
    }
}

/// Hands the requests of one peer to openraft, in order. A request is in openraft's own queue once
/// its future was polled first, so the next one may follow while it is still being written.
async fn append_in_order(raft: Raft, mut waiting: mpsc::Receiver<Inbound>) {
    let mut writing: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        let room = writing.len() < APPEND_QUEUE;
        tokio::select! {
            biased;
            Some(()) = writing.next() => {}
            next = waiting.recv(), if room => {
                let Some(inbound) = next else { return };
                let raft = raft.clone();
                let mut request = async move { append(&raft, inbound).await }.boxed();
                if (&mut request).now_or_never().is_none() {
                    writing.push(request);
                }
            }
        }
    }
}

async fn append(raft: &Raft, inbound: Inbound) {
    let request = match codec::decode_append(inbound.body) {
        Ok(request) => request,
        Err(error) => return inbound.reply.refuse(error.to_string()),
    };
    // Where openraft has stopped, the reply is dropped, which tells the caller.
    if let Ok(response) = raft.append_entries(request).await {
        answer(inbound.reply, &response);
    }
}

async fn vote(raft: Raft, guard: Arc<StartGuard>, inbound: Inbound) {
    let response = match codec::decode("a vote request", &inbound.body) {
        // The leader itself asked for an election, and has given its lease up.
        Ok(VoteMessage::Vote(request)) if request.leadership_transfer => raft.vote(request).await,
        Ok(VoteMessage::Vote(_) | VoteMessage::PreVote(_)) if guard.is_active() => {
            return inbound.reply.refuse("started less than one lease ago: no vote yet");
        }
        Ok(VoteMessage::Vote(request)) => raft.vote(request).await,
        Ok(VoteMessage::PreVote(request)) => raft.pre_vote(request).await,
        Err(error) => return inbound.reply.refuse(error.to_string()),
    };
    if let Ok(response) = response {
        answer(inbound.reply, &response);
    }
}

async fn transfer(raft: Raft, leadership: Arc<Leadership>, inbound: Inbound) {
    let request = match codec::decode("a transfer request", &inbound.body) {
        Ok(TransferMessage::Raft(request)) => request,
        Ok(TransferMessage::Ask { to }) => return leadership.answer(to, inbound).await,
        Err(error) => return inbound.reply.refuse(error.to_string()),
    };
    if let Ok(response) = raft.handle_transfer_leader(request).await {
        answer(inbound.reply, &response);
    }
}

async fn change_members(membership: Arc<Membership>, inbound: Inbound) {
    match codec::decode::<MembersMessage>("a change of the members", &inbound.body) {
        Ok(change) => membership.answer(change, inbound).await,
        Err(error) => inbound.reply.refuse(error.to_string()),
    }
}

async fn change_layout(membership: Arc<Membership>, inbound: Inbound) {
    match codec::decode::<LayoutCommand>("a change of the layout", &inbound.body) {
        Ok(command) => membership.answer_layout(command, inbound).await,
        Err(error) => inbound.reply.refuse(error.to_string()),
    }
}

/// Sends an answer; one that cannot be encoded is dropped, which tells the caller.
pub(super) fn answer<T: serde::Serialize>(reply: crate::peer::Reply, response: &T) {
    if let Ok(body) = codec::encode(response) {
        reply.send(body);
    }
}
