//! One connection's queue and the calls that wait for its answers.
//!
//! **Why it exists.** What a failed call may say about itself (`NotSent` or `NoAnswer`) is decided
//! by who touched it last: the caller, the writer, the reader or the end of the link. They all meet
//! here, under one lock that is held for moments, so the decision is made once and is true.
//!
//! **Guarantees.** Messages are taken out in the order they were put in. A call that ends as
//! `NotSent` was never handed to the connection, and never will be. Every call is settled when the
//! link closes. Putting in never waits and works from any thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::frame::{Kind, RequestHead, WireAnswer, encode, whole_ms};
use super::silence::Silence;
use super::{Answer, MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES, PeerError, Request, Service};
use crate::runtime::{Instant, Runtime};
use crate::types::{Epoch, NodeId};

/// Roughly what a queued message costs beside its body, in bytes, so that many empty ones are
/// bounded too.
const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// How many calls may wait for answers on a link: far above what the limits on client requests
/// let through, and a bound where those fail.
const MAX_CALLS_WAITING: usize = 65_536;

/// How much is written to the connection at once, in bytes, unless one message is longer.
pub(super) const WRITE_BATCH_BYTES: usize = 256 << 10;

type Settled = Result<Bytes, PeerError>;

/// The queue of one connection, towards `peer`.
pub(super) struct Link {
    peer: NodeId,
    inner: Mutex<Inner>,
    /// Wakes the writer.
    pub wake: Notify,
    /// Wakes whoever runs the connection, once the link is closed.
    pub ended: Notify,
    /// Rises whenever the other side was heard.
    heard: AtomicU64,
}

struct Inner {
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    calls: BTreeMap<u64, oneshot::Sender<Settled>>,
    last_id: u64,
    /// Requests up to this id were handed to the connection, or settled instead.
    taken_up_to: u64,
    silence: Silence,
    closed: Option<String>,
}

/// A message that waits to be written.
pub(super) enum Outgoing {
    Request { id: u64, service: Service, epoch: Option<Epoch>, deadline: Instant, body: Bytes },
    Answer { id: u64, service: Option<Service>, answer: WireAnswer },
    Ping,
    Pong,
}

impl Outgoing {
    /// What the message is for, where it counts as one.
    pub fn service(&self) -> Option<Service> {
        match self {
            Outgoing::Request { service, .. } => Some(*service),
            Outgoing::Answer { service, .. } => *service,
            Outgoing::Ping | Outgoing::Pong => None,
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut, now: Instant) {
        match self {
            Outgoing::Request { id, service, epoch, deadline, body } => {
                let time_left_ms = whole_ms(deadline.saturating_duration_since(now));
                let head = RequestHead { service: *service as u8, epoch: *epoch, time_left_ms };
                head.encode(out, *id, body);
            }
            Outgoing::Answer { id, answer, .. } => answer.encode(out, *id),
            Outgoing::Ping => encode(out, Kind::Ping, 0, &[], &[]),
            Outgoing::Pong => encode(out, Kind::Pong, 0, &[], &[]),
        }
    }

    fn size(&self) -> usize {
        MESSAGE_OVERHEAD_BYTES
            + match self {
                Outgoing::Request { body, .. } => body.len(),
                Outgoing::Answer { answer, .. } => answer.len(),
                Outgoing::Ping | Outgoing::Pong => 0,
            }
    }
}

impl Link {
    pub fn new(peer: NodeId) -> Arc<Link> {
        let inner = Inner {
            queue: VecDeque::new(),
            queued_bytes: 0,
            calls: BTreeMap::new(),
            last_id: 0,
            taken_up_to: 0,
            silence: Silence::default(),
            closed: None,
        };
        Arc::new(Link {
            peer,
            inner: Mutex::new(inner),
            wake: Notify::new(),
            ended: Notify::new(),
            heard: AtomicU64::new(0),
        })
    }

    /// Queues a request.
    pub fn call(self: &Arc<Self>, runtime: &Runtime, request: Request) -> Result<Call, PeerError> {
        let Request { service, epoch, deadline, body, .. } = request;
        if body.len() > MAX_MESSAGE_BYTES {
            let bytes = body.len();
            return Err(self.not_sent(format!(
                "the message has {bytes} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
            )));
        }
        let (sender, answer) = oneshot::channel();
        let mut inner = self.inner.lock();
        if let Some(reason) = &inner.closed {
            return Err(self.not_sent(reason.clone()));
        }
        let waiting = inner.calls.len();
        if waiting >= MAX_CALLS_WAITING {
            return Err(self.not_sent(format!("{waiting} calls already wait on the lane")));
        }
        let id = inner.last_id + 1;
        if let Err(bytes) = inner.push(Outgoing::Request { id, service, epoch, deadline, body }) {
            return Err(self.not_sent(format!("{bytes} bytes already wait on the lane")));
        }
        inner.last_id = id;
        inner.calls.insert(id, sender);
        inner.silence.asked(|| runtime.now());
        drop(inner);
        self.wake.notify_one();
        Ok(Call { link: self.clone(), id, answer, deadline, runtime: runtime.clone() })
    }

    /// Queues an answer, or word that it was given up where there is no room for it. A peer that
    /// asks but does not take its answers loses the link.
    pub fn answer(&self, id: u64, service: Service, answer: Answer) {
        let answer = match answer {
            Answer::Body(body) if body.len() > MAX_MESSAGE_BYTES => WireAnswer::GivenUp(format!(
                "its answer has {} bytes, at most {MAX_MESSAGE_BYTES} are allowed",
                body.len()
            )),
            Answer::Body(body) => WireAnswer::Body(body),
            Answer::Refused(reason) => WireAnswer::Refused(reason),
            Answer::GivenUp => WireAnswer::GivenUp("the request was taken and given up".to_owned()),
        };
        self.push_answer(id, Some(service), answer);
    }

    /// Queues the refusal of a request for a service that is not known here.
    pub fn refuse(&self, id: u64, reason: String) {
        self.push_answer(id, None, WireAnswer::Refused(reason));
    }

    fn push_answer(&self, id: u64, service: Option<Service>, answer: WireAnswer) {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return;
        }
        let is_body = matches!(answer, WireAnswer::Body(_));
        let pushed = match inner.push(Outgoing::Answer { id, service, answer }) {
            // A few long answers may fill the queue of a peer in good health: only they are lost.
            Err(bytes) if is_body => {
                let reason = format!("its answer does not fit behind {bytes} bytes that wait");
                let answer = WireAnswer::GivenUp(reason);
                inner.push(Outgoing::Answer { id, service, answer })
            }
            pushed => pushed,
        };
        drop(inner);
        match pushed {
            Ok(()) => self.wake.notify_one(),
            Err(bytes) => self.close(&format!("{bytes} bytes of answers are not taken")),
        }
    }

    /// Queues a sign of life before everything else: it must not wait behind data.
    pub fn sign_of_life(&self, sign: Outgoing) {
        let mut inner = self.inner.lock();
        let first = inner.queue.front();
        if inner.closed.is_some() || matches!(first, Some(Outgoing::Ping | Outgoing::Pong)) {
            return;
        }
        inner.queued_bytes += sign.size();
        inner.queue.push_front(sign);
        drop(inner);
        self.wake.notify_one();
    }

    /// Moves messages to `batch` for writing, and settles requests that nobody waits for any more.
    /// Gives the time it was.
    pub fn take(&self, runtime: &Runtime, batch: &mut Vec<Outgoing>) -> Instant {
        let mut inner = self.inner.lock();
        // Read under the lock: a caller whose deadline passed relies on it that no later writer
        // finds the deadline still ahead.
        let now = runtime.now();
        let mut bytes = 0;
        while bytes < WRITE_BATCH_BYTES {
            let Some(message) = inner.queue.pop_front() else { break };
            inner.queued_bytes -= message.size();
            if let Outgoing::Request { id, deadline, .. } = &message {
                inner.taken_up_to = *id;
                if *deadline <= now {
                    if let Some(call) = inner.calls.remove(id) {
                        let _ = call.send(Err(self.too_late_to_send()));
                    }
                    inner.end_silence();
                    continue;
                }
            }
            bytes += message.size();
            batch.push(message);
        }
        now
    }

    /// Gives callers their answers, which came just now; answers that nobody waits for are dropped.
    pub fn settle(&self, now: Instant, answers: &mut Vec<(u64, WireAnswer)>) {
        let calls: Vec<_> = {
            let mut inner = self.inner.lock();
            let calls = answers.iter().map(|(id, _)| inner.calls.remove(id)).collect();
            let still_asked = !inner.calls.is_empty();
            inner.silence.answered(now, still_asked);
            calls
        };
        for (call, (_, answer)) in calls.into_iter().zip(answers.drain(..)) {
            let Some(call) = call else { continue };
            let to = self.peer;
            let _ = call.send(match answer {
                WireAnswer::Body(body) => Ok(body),
                WireAnswer::Refused(reason) => Err(PeerError::Refused { to, reason }),
                WireAnswer::GivenUp(reason) => Err(PeerError::NoAnswer { to, reason }),
            });
        }
    }

    /// Ends the link and settles every call; the first reason given counts.
    pub fn close(&self, reason: &str) {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return;
        }
        inner.closed = Some(reason.to_owned());
        inner.queue = VecDeque::new();
        inner.queued_bytes = 0;
        let calls = std::mem::take(&mut inner.calls);
        let taken_up_to = inner.taken_up_to;
        drop(inner);
        for (id, call) in calls {
            let _ = call.send(Err(self.failure(id <= taken_up_to, reason.to_owned())));
        }
        self.ended.notify_one();
    }

    /// Why the link is closed, once it is.
    pub fn closed(&self) -> Option<String> {
        self.inner.lock().closed.clone()
    }

    /// Something other than an answer came.
    pub fn lives(&self) {
        self.inner.lock().end_silence();
    }

    /// The connection is there.
    pub fn connected(&self, now: Instant) {
        self.inner.lock().silence.connected(now);
    }

    /// Whether the other side is silent for longer than it usually is.
    pub fn is_suspected(&self, now: Instant) -> bool {
        self.inner.lock().silence.is_suspicious(now)
    }

    /// Says that bytes came from the other side.
    pub fn mark_heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes whenever the other side was heard.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Stops waiting for an answer, because the deadline passed.
    fn give_up(&self, id: u64) -> PeerError {
        let mut inner = self.inner.lock();
        inner.calls.remove(&id);
        let taken = id <= inner.taken_up_to;
        drop(inner);
        if taken {
            self.failure(true, "the deadline passed".to_owned())
        } else {
            self.too_late_to_send()
        }
    }

    fn too_late_to_send(&self) -> PeerError {
        self.not_sent("the deadline passed before it could be sent".to_owned())
    }

    fn not_sent(&self, reason: String) -> PeerError {
        self.failure(false, reason)
    }

    fn failure(&self, may_have_been_handled: bool, reason: String) -> PeerError {
        let to = self.peer;
        if may_have_been_handled {
            PeerError::NoAnswer { to, reason }
        } else {
            PeerError::NotSent { to, reason }
        }
    }
}

impl Inner {
    /// Where no answer is awaited, silence says nothing.
    fn end_silence(&mut self) {
        if self.calls.is_empty() {
            self.silence.ended();
        }
    }

    /// Queues a message, or says how many bytes already wait.
    fn push(&mut self, message: Outgoing) -> Result<(), usize> {
        let bytes = self.queued_bytes + message.size();
        if bytes > MAX_QUEUED_BYTES {
            return Err(self.queued_bytes);
        }
        self.queued_bytes = bytes;
        self.queue.push_back(message);
        Ok(())
    }
}

/// A call whose request is queued.
pub(super) struct Call {
    link: Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<Settled>,
    deadline: Instant,
    runtime: Runtime,
}

impl Call {
    /// Waits for the answer until the deadline.
    pub async fn wait(mut self) -> Settled {
        match self.runtime.deadline(self.deadline, &mut self.answer).await {
            Some(Ok(settled)) => settled,
            Some(Err(_)) => Err(self.link.failure(true, "the link is gone".to_owned())),
            None => {
                let error = self.link.give_up(self.id);
                // What the writer or the reader settled at the last moment is better knowledge.
                self.answer.try_recv().unwrap_or(Err(error))
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answer.is_terminated() {
            self.link.inner.lock().calls.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests;
