//! Faults on links, as a decorator of any transport: the same in a simulated world and live.
//!
//! **Why it exists.** What a cluster promises is promised for bad networks too. A [`FaultPlan`] is
//! shared by all nodes of a world and can be changed while they run; each node's transport is
//! wrapped in a [`FaultyTransport`] that does what the plan says.
//!
//! **Guarantees.** A plan without faults changes nothing. What still arrives arrives in order:
//! requests of a lane are delayed, never swapped. What a caller is told stays true: a request that
//! was dropped ends as `NoAnswer` at its deadline, like any silence, and `NotSent` means that
//! it was not sent. The same seed and the same calls in the same order meet the same faults.
//!
//! **Does not do** damaged or repeated bytes: the transports below keep those from callers.

use std::collections::{BTreeMap, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::{Lane, PeerError, PeerView, Request, SharedTransport, Transport};
use crate::runtime::{Instant, Runtime};
use crate::types::NodeId;

/// How many requests may be held back on a lane before more are refused.
const MAX_HELD_REQUESTS: usize = 65_536;

/// What is wrong with what travels from one node to another: its requests, and its answers to the
/// other's requests. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nothing gets through, and the sender knows: requests fail at once. An answer to an earlier
    /// request is lost.
    pub cut: bool,
    /// How many of a thousand requests vanish.
    pub drop_requests_per_mille: u16,
    /// How many of a thousand answers vanish.
    pub drop_answers_per_mille: u16,
    /// How long everything takes at least, on top of what the link takes.
    pub delay: Duration,
    /// How much longer, at most; drawn anew each time.
    pub jitter: Duration,
}

/// The faults of a world's links, by direction; cheap to clone, all clones are one plan.
#[derive(Clone)]
pub struct FaultPlan(Arc<Mutex<Plan>>);

struct Plan {
    random: StdRng,
    faults: BTreeMap<(NodeId, NodeId), Fault>,
}

/// What the plan says about one message.
struct Verdict {
    cut: bool,
    drop: bool,
    delay: Duration,
}

impl FaultPlan {
    /// A plan without faults; `seed` decides which messages later faults hit.
    pub fn new(seed: u64) -> FaultPlan {
        let random = StdRng::seed_from_u64(seed);
        FaultPlan(Arc::new(Mutex::new(Plan { random, faults: BTreeMap::new() })))
    }

    /// Sets what is wrong from one node to another, from now on.
    pub fn set(&self, from: NodeId, to: NodeId, fault: Fault) {
        self.0.lock().faults.insert((from, to), fault);
    }

    /// Sets what is wrong between two nodes, both ways.
    pub fn set_between(&self, one: NodeId, other: NodeId, fault: Fault) {
        self.set(one, other, fault);
        self.set(other, one, fault);
    }

    /// Cuts every link between two groups of nodes, both ways.
    pub fn partition(&self, some: &[NodeId], others: &[NodeId]) {
        let cut = Fault { cut: true, ..Fault::default() };
        for one in some {
            for other in others {
                self.set_between(*one, *other, cut);
            }
        }
    }

    /// Ends every fault.
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    fn is_cut(&self, one: NodeId, other: NodeId) -> bool {
        let plan = self.0.lock();
        [(one, other), (other, one)]
            .iter()
            .any(|way| plan.faults.get(way).is_some_and(|fault| fault.cut))
    }

    fn judge(&self, from: NodeId, to: NodeId, drop_per_mille: fn(&Fault) -> u16) -> Verdict {
        let mut plan = self.0.lock();
        let Some(fault) = plan.faults.get(&(from, to)).copied() else {
            return Verdict { cut: false, drop: false, delay: Duration::ZERO };
        };
        let drop = plan.random.next_u64() % 1_000 < u64::from(drop_per_mille(&fault));
        let jitter_us = plan.random.next_u64() % (fault.jitter.as_micros() as u64 + 1);
        let delay = fault.delay + Duration::from_micros(jitter_us);
        Verdict { cut: fault.cut, drop, delay }
    }
}

type Answered = Result<Bytes, PeerError>;

/// One node's transport, with the faults of a plan.
pub struct FaultyTransport {
    inner: SharedTransport,
    from: NodeId,
    plan: FaultPlan,
    runtime: Runtime,
    lanes: Mutex<BTreeMap<(NodeId, Lane), HeldLane>>,
}

/// What is held back on a lane, in order.
#[derive(Default)]
struct Held {
    requests: VecDeque<HeldRequest>,
    /// Whether a task is passing requests on; until it is done, all requests queue behind it.
    passing_on: bool,
    last_due: Option<Instant>,
}

type HeldLane = Arc<Mutex<Held>>;

struct HeldRequest {
    due: Instant,
    request: Request,
    /// Takes the call, once it is made.
    called: oneshot::Sender<BoxFuture<'static, Answered>>,
}

impl FaultyTransport {
    /// Wraps `inner`, the transport of node `from`.
    pub fn wrap(
        inner: SharedTransport,
        from: NodeId,
        plan: FaultPlan,
        runtime: Runtime,
    ) -> SharedTransport {
        Arc::new(FaultyTransport { inner, from, plan, runtime, lanes: Mutex::default() })
    }

    /// Passes the request on, at once or after what is held back before it.
    fn pass_on(&self, request: Request, delay: Duration) -> BoxFuture<'static, Answered> {
        let lane = self.lanes.lock().entry((request.to, request.lane)).or_default().clone();
        let mut held = lane.lock();
        if delay.is_zero() && !held.passing_on {
            return self.inner.call(request);
        }
        let to = request.to;
        if held.requests.len() >= MAX_HELD_REQUESTS {
            let reason = "too many requests are held back".to_owned();
            return Box::pin(ready(Err(PeerError::NotSent { to, reason })));
        }
        let due = self.runtime.now() + delay;
        let due = held.last_due.map_or(due, |last| last.max(due));
        held.last_due = Some(due);
        let (called, call) = oneshot::channel();
        held.requests.push_back(HeldRequest { due, request, called });
        if !held.passing_on {
            held.passing_on = true;
            let (runtime, inner, lane) = (self.runtime.clone(), self.inner.clone(), lane.clone());
            self.runtime.spawn(pass_on_held(runtime, inner, lane));
        }
        Box::pin(async move {
            match call.await {
                Ok(call) => call.await,
                Err(_) => Err(lost(to)),
            }
        })
    }
}

async fn pass_on_held(runtime: Runtime, inner: SharedTransport, lane: HeldLane) {
    loop {
        let next = {
            let mut held = lane.lock();
            let next = held.requests.pop_front();
            held.passing_on = next.is_some();
            next
        };
        let Some(HeldRequest { due, request, called }) = next else { return };
        runtime.sleep_until(due).await;
        // A caller that went away does not take its request with it.
        let _ = called.send(inner.call(request));
    }
}

impl Transport for FaultyTransport {
    fn call(&self, request: Request) -> BoxFuture<'static, Answered> {
        let (from, to, deadline) = (self.from, request.to, request.deadline);
        let verdict = self.plan.judge(from, to, |fault| fault.drop_requests_per_mille);
        if verdict.cut {
            let reason = "the link is cut".to_owned();
            return Box::pin(ready(Err(PeerError::NotSent { to, reason })));
        }
        let runtime = self.runtime.clone();
        if verdict.drop {
            return Box::pin(async move {
                runtime.sleep_until(deadline).await;
                Err(lost(to))
            });
        }
        let call = self.pass_on(request, verdict.delay);
        let plan = self.plan.clone();
        Box::pin(async move {
            let way_back = runtime.clone();
            let answered = async move {
                let answered = call.await;
                if matches!(answered, Err(PeerError::NotSent { .. })) {
                    return answered;
                }
                let verdict = plan.judge(to, from, |fault| fault.drop_answers_per_mille);
                if verdict.cut || verdict.drop {
                    way_back.sleep_until(deadline).await;
                    return Err(lost(to));
                }
                if !verdict.delay.is_zero() {
                    way_back.sleep(verdict.delay).await;
                }
                answered
            };
            // The transport below answers by the deadline; what is added here must not take longer.
            runtime.deadline(deadline, answered).await.unwrap_or_else(|| Err(lost(to)))
        })
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.inner.is_connected(node) && !self.plan.is_cut(self.from, node)
    }

    fn peer(&self, node: NodeId) -> Option<PeerView> {
        let mut view = self.inner.peer(node)?;
        view.connected &= !self.plan.is_cut(self.from, node);
        Some(view)
    }
}

fn lost(to: NodeId) -> PeerError {
    PeerError::NoAnswer { to, reason: "the deadline passed".to_owned() }
}
