//! Collecting the answers of several replicas for one request.
//!
//! **Why it exists.** What was sent to replicas must run to its end whatever becomes of the request:
//! whether its quorum is reached, its deadline passes or its client goes away. So the answers go to
//! shared state through a [`Slot`] each, without a task each, and the request only looks at it.
//!
//! **Guarantees.** Every slot is answered once: one that is dropped counts as no answer. Answers
//! that come when nobody waits any more are counted as stragglers, where they are writes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::stragglers::Stragglers;
use crate::peer::PeerError;
use crate::types::NodeId;

/// What one replica answered; failures of the own replica take the same form.
#[derive(Debug)]
pub struct Arrival<T> {
    pub node: NodeId,
    pub result: Result<T, PeerError>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    stragglers: Option<Arc<Stragglers>>,
}

struct State<T> {
    arrived: Vec<Arrival<T>>,
    outstanding: usize,
    /// Wake the request at this many arrivals; failures wake it at once.
    wake_at: usize,
    abandoned: bool,
    /// Told of the replicas that fail once the request was answered.
    missed: Option<Missed>,
}

/// Called with a replica that has not got what it was sent.
type Missed = Arc<dyn Fn(NodeId) + Send + Sync>;

impl<T> State<T> {
    fn is_worth_waking(&self) -> bool {
        self.arrived.len() >= self.wake_at
            || self.outstanding == 0
            || self.arrived.last().is_some_and(|arrival| arrival.result.is_err())
    }
}

/// The request's end. Dropped, it leaves what is outstanding to finish by itself.
pub struct Gathering<T>(Arc<Shared<T>>);

/// A replica's end: where its one answer goes.
pub struct Slot<T> {
    shared: Option<Arc<Shared<T>>>,
    node: NodeId,
}

impl<T> Gathering<T> {
    /// Nothing asked yet. With `stragglers`, what is outstanding once nobody waits counts there.
    pub fn new(stragglers: Option<Arc<Stragglers>>) -> Gathering<T> {
        let state = State {
            arrived: Vec::new(),
            outstanding: 0,
            wake_at: 1,
            abandoned: false,
            missed: None,
        };
        Gathering(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), stragglers }))
    }

    /// A place for the answer of `node`.
    pub fn slot(&self, node: NodeId) -> Slot<T> {
        self.0.state.lock().outstanding += 1;
        Slot { shared: Some(self.0.clone()), node }
    }

    /// How many answers are still to come.
    pub fn outstanding(&self) -> usize {
        self.0.state.lock().outstanding
    }

    /// Takes what has arrived; waits until that is `count` answers, or a failure is among them, or
    /// no more are to come. Safe to cancel: what arrived stays.
    pub async fn next(&self, count: usize) -> Vec<Arrival<T>> {
        self.0.state.lock().wake_at = count;
        loop {
            {
                let mut state = self.0.state.lock();
                let failed = || state.arrived.iter().any(|arrival| arrival.result.is_err());
                if state.arrived.len() >= count || state.outstanding == 0 || failed() {
                    return std::mem::take(&mut state.arrived);
                }
            }
            self.0.wake.notified().await;
        }
    }

    /// Says that the request was answered with success: `missed` is called for each replica that is
    /// not known to have failed before, and fails, now or later.
    pub fn acknowledged(&self, missed: impl Fn(NodeId) + Send + Sync + 'static) {
        let missed: Missed = Arc::new(missed);
        let mut state = self.0.state.lock();
        let failed = state.arrived.iter().filter(|arrival| arrival.result.is_err());
        failed.for_each(|arrival| missed(arrival.node));
        state.missed = Some(missed);
    }

    /// Takes what has arrived, without waiting.
    pub fn take(&self) -> Vec<Arrival<T>> {
        std::mem::take(&mut self.0.state.lock().arrived)
    }
}

impl<T> Drop for Gathering<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.abandoned = true;
        if let Some(stragglers) = &self.0.stragglers {
            stragglers.add(state.outstanding);
        }
    }
}

impl<T> Slot<T> {
    /// Whose answer goes here.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.state.lock().abandoned)
    }

    /// Gives the answer.
    pub fn fill(mut self, result: Result<T, PeerError>) {
        self.put(result);
    }

    /// Says that the replica was not asked.
    pub fn not_sent(self, reason: &str) {
        let to = self.node;
        self.fill(Err(PeerError::NotSent { to, reason: reason.to_owned() }));
    }

    fn put(&mut self, result: Result<T, PeerError>) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = shared.state.lock();
        state.outstanding -= 1;
        let missed = state.missed.clone().filter(|_| result.is_err());
        missed.iter().for_each(|missed| missed(self.node));
        if state.abandoned {
            drop(state);
            if let Some(stragglers) = &shared.stragglers {
                stragglers.end(result.is_ok());
            }
            return;
        }
        state.arrived.push(Arrival { node: self.node, result });
        if state.is_worth_waking() {
            drop(state);
            shared.wake.notify_one();
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        if self.shared.is_some() {
            let reason = "it gave the request up".to_owned();
            self.put(Err(PeerError::NoAnswer { to: self.node, reason }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn gathering(limit: usize) -> (Gathering<u8>, Arc<Stragglers>, Metrics) {
        let metrics = Metrics::new();
        let stragglers = Arc::new(Stragglers::new(limit, metrics.clone()));
        (Gathering::new(Some(stragglers.clone())), stragglers, metrics)
    }

    #[tokio::test]
    async fn a_request_sees_the_answers_it_waited_for() {
        let (gathering, _, _) = gathering(10);
        let slots: Vec<_> = (1..=3).map(|id| gathering.slot(NodeId(id))).collect();
        for slot in slots {
            slot.fill(Ok(1));
        }
        assert_eq!(gathering.next(2).await.len(), 3);
        assert_eq!(gathering.outstanding(), 0);
        assert!(gathering.next(1).await.is_empty(), "no more are to come");
    }

    #[tokio::test]
    async fn a_failure_ends_the_wait_and_a_dropped_slot_is_one() {
        let (gathering, _, _) = gathering(10);
        let (kept, dropped) = (gathering.slot(NodeId(1)), gathering.slot(NodeId(2)));
        drop(dropped);
        let arrived = gathering.next(2).await;
        assert!(arrived[0].result.as_ref().is_err_and(PeerError::may_have_been_handled));
        drop(kept);
    }

    #[test]
    fn what_is_outstanding_when_the_request_ends_is_counted_until_it_ends_too() {
        let (gathering, stragglers, metrics) = gathering(2);
        let slots: Vec<_> = (1..=3).map(|id| gathering.slot(NodeId(id))).collect();
        let mut slots = slots.into_iter();
        slots.next().expect("a slot").fill(Ok(1));
        drop(gathering);
        assert_eq!((stragglers.count(), stragglers.is_full()), (2, true));
        slots.next().expect("a slot").fill(Ok(1));
        slots.next().expect("a slot").not_sent("the link is down");
        assert_eq!((stragglers.count(), stragglers.is_full()), (0, false));
        assert_eq!((metrics.stragglers_finished.get(), metrics.stragglers_failed.get()), (1, 1));
    }
}
