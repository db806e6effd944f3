//! One queue a peer and kind of request: what queues while messages are under way goes out as one.
//!
//! **Guarantees.** A request goes out at once where fewer than [`MAX_MESSAGES_IN_FLIGHT`] messages
//! are under way; nothing waits for company. Every request is answered or failed once, and where it
//! was never sent the failure says so.
//!
//! **Bounds.** [`MAX_QUEUED_ITEMS`] and [`MAX_QUEUED_BYTES`] a queue: a replica that is slow or
//! stopped costs its own requests, not those of the others. What outlived its deadline in the queue
//! is not sent.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::latency::Latency;
use crate::peer::{Lane, PeerError, Request, Service, SharedTransport};
use crate::runtime::{Instant, Runtime};
use crate::types::{Epoch, NodeId};

/// Messages of one kind under way to one peer. More spread the load thinner without making it
/// faster; fewer leave the link idle while an answer travels.
const MAX_MESSAGES_IN_FLIGHT: usize = 4;

/// Requests in one message, at most: what a peer works off in a few milliseconds.
const MAX_BATCH_ITEMS: usize = 512;

/// About how many bytes of requests one message holds; one always fits.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Requests that may wait for one peer: as many as a node serves at once by default.
const MAX_QUEUED_ITEMS: usize = 4_096;

/// About how many bytes of requests may wait for one peer.
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// A request to one replica that can share a message with others.
pub trait Batched: Send + Sized + 'static {
    /// What the replica answers to one of them.
    type Reply;
    const SERVICE: Service;

    /// About how many bytes it takes in a message.
    fn bytes(&self) -> usize;
    /// The layout that it is sent under: a message has one.
    fn epoch(&self) -> Epoch;
    /// When nobody waits any more.
    fn deadline(&self) -> Instant;
    fn encode(batch: &[Self]) -> Bytes;
    /// The replies in the order of the batch; `None` asks for that one again.
    fn decode(body: &Bytes) -> Result<Vec<Option<Self::Reply>>, String>;
    fn finish(self, result: Result<Self::Reply, PeerError>);
}

/// The queue to one peer; cheap to clone.
pub struct Batcher<I: Batched>(Arc<Inner<I>>);

impl<I: Batched> Clone for Batcher<I> {
    fn clone(&self) -> Self {
        Batcher(self.0.clone())
    }
}

struct Inner<I> {
    to: NodeId,
    runtime: Runtime,
    transport: SharedTransport,
    queue: Mutex<Queue<I>>,
    latency: Latency,
}

struct Queue<I> {
    /// With the moment at which each was queued.
    items: VecDeque<(Instant, I)>,
    bytes: usize,
    in_flight: usize,
}

/// What leaves the queue at once.
struct Next<I> {
    batch: Vec<I>,
    /// Those whose deadline has passed.
    expired: Vec<I>,
    /// When the first of the batch was queued.
    since: Instant,
}

impl<I: Batched> Batcher<I> {
    /// An empty queue to `to`.
    pub fn new(to: NodeId, runtime: Runtime, transport: SharedTransport) -> Batcher<I> {
        let queue = Mutex::new(Queue { items: VecDeque::new(), bytes: 0, in_flight: 0 });
        let latency = Latency::default();
        Batcher(Arc::new(Inner { to, runtime, transport, queue, latency }))
    }

    /// How long answers took of late.
    pub fn latency(&self) -> &Latency {
        &self.0.latency
    }

    /// Sends the request now, or with the next message.
    pub fn push(&self, item: I) {
        let mut queue = self.0.queue.lock();
        let bytes = item.bytes();
        let full = queue.items.len() >= MAX_QUEUED_ITEMS
            || (queue.bytes + bytes > MAX_QUEUED_BYTES && !queue.items.is_empty());
        if full {
            drop(queue);
            item.finish(Err(self.not_sent("the queue to it is full")));
            return;
        }
        queue.bytes += bytes;
        queue.items.push_back((self.0.runtime.now(), item));
        drop(queue);
        self.send_what_may_go();
    }

    fn not_sent(&self, reason: &str) -> PeerError {
        PeerError::NotSent { to: self.0.to, reason: reason.to_owned() }
    }

    fn send_what_may_go(&self) {
        while let Some(Next { batch, expired, since }) = self.next_batch() {
            for item in expired {
                item.finish(Err(self.not_sent("its deadline passed in the queue")));
            }
            if batch.is_empty() {
                self.0.queue.lock().in_flight -= 1;
            } else {
                self.send(batch, since);
            }
        }
    }

    /// Takes the next message's requests, and those that are too late, off the queue.
    fn next_batch(&self) -> Option<Next<I>> {
        let mut queue = self.0.queue.lock();
        if queue.in_flight >= MAX_MESSAGES_IN_FLIGHT || queue.items.is_empty() {
            return None;
        }
        queue.in_flight += 1;
        let now = self.0.runtime.now();
        let (mut batch, mut expired, mut batch_bytes, mut since) = (Vec::new(), Vec::new(), 0, now);
        while let Some((queued_at, item)) = queue.items.front() {
            let queued_at = *queued_at;
            let bytes = item.bytes();
            let late = item.deadline() <= now;
            let full = batch.len() >= MAX_BATCH_ITEMS || batch_bytes + bytes > MAX_BATCH_BYTES;
            let other = batch.last().is_some_and(|last: &I| last.epoch() != item.epoch());
            if !late && (full || other) && !batch.is_empty() {
                break;
            }
            let Some((_, item)) = queue.items.pop_front() else { break };
            queue.bytes -= bytes;
            if late {
                expired.push(item);
            } else {
                since = since.min(queued_at);
                batch_bytes += bytes;
                batch.push(item);
            }
        }
        Some(Next { batch, expired, since })
    }

    fn send(&self, batch: Vec<I>, since: Instant) {
        let started = self.0.runtime.now();
        let call = self.0.transport.call(Request {
            to: self.0.to,
            lane: Lane::Bulk,
            service: I::SERVICE,
            epoch: batch.first().map(I::epoch),
            deadline: batch.iter().map(I::deadline).max().unwrap_or(started),
            body: I::encode(&batch),
        });
        let batcher = self.clone();
        // One task a message, not one a request.
        self.0.runtime.spawn(async move {
            let result = call.await;
            batcher.take_answer(batch, result, since);
            batcher.send_what_may_go();
        });
    }

    fn take_answer(&self, batch: Vec<I>, result: Result<Bytes, PeerError>, since: Instant) {
        self.0.queue.lock().in_flight -= 1;
        let body = match result {
            Ok(body) => body,
            Err(error) => {
                return batch.into_iter().for_each(|item| item.finish(Err(error.clone())));
            }
        };
        self.learn_latency(since);
        let replies = match I::decode(&body) {
            Ok(replies) if replies.len() == batch.len() => replies,
            Ok(replies) => {
                let reason = format!("{} replies to {} requests", replies.len(), batch.len());
                return self.fail_garbled(batch, reason);
            }
            Err(reason) => return self.fail_garbled(batch, reason),
        };
        for (item, reply) in batch.into_iter().zip(replies) {
            match reply {
                Some(reply) => item.finish(Ok(reply)),
                None => self.push(item),
            }
        }
    }

    fn fail_garbled(&self, batch: Vec<I>, reason: String) {
        tracing::warn!(peer = %self.0.to, %reason, "a replica's answer makes no sense");
        for item in batch {
            let error = PeerError::NoAnswer { to: self.0.to, reason: reason.clone() };
            item.finish(Err(error));
        }
    }

    /// The time in the queue counts: whoever waits for the answer waits for that too.
    fn learn_latency(&self, since: Instant) {
        let elapsed = self.0.runtime.now().saturating_duration_since(since);
        self.0.latency.learn(elapsed.as_micros() as u64);
    }
}
