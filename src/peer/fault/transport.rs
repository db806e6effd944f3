//! A transport that does to requests and answers what a plan says.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Fate, FaultPlan, Passage};
use crate::peer::{Lane, PeerError, PeerView, Request, SharedTransport, Transport};
use crate::runtime::{Instant, Runtime};
use crate::types::NodeId;

/// How many requests may be held back on a lane before more are refused.
pub const MAX_HELD_REQUESTS: usize = 65_536;

/// A request on a slow link crosses within this time, queueing included: whoever sends that much more
/// than a link carries would have lost the connection by then, and what waits must not outlast the
/// fault.
const LONGEST_CROSSING: Duration = Duration::from_secs(5);

type Answered = Result<Bytes, PeerError>;

/// One node's transport, with the faults of a plan.
pub struct FaultyTransport {
    inner: SharedTransport,
    from: NodeId,
    plan: FaultPlan,
    runtime: Runtime,
    lanes: Mutex<BTreeMap<(NodeId, Lane), HeldLane>>,
}

/// What is held back on a lane.
#[derive(Default)]
struct Held {
    /// In order.
    requests: VecDeque<HeldRequest>,
    /// Whether a task is passing requests on; until it is done, all requests queue behind it.
    passing_on: bool,
    last_due: Option<Instant>,
    /// Until when a slow link is busy with what came before.
    busy_until: Option<Instant>,
    /// How many requests left the order and are under way by themselves.
    astray: usize,
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

    /// Passes a request on, and its copy where it has one.
    fn send(&self, request: Request, passage: Passage) -> BoxFuture<'static, Answered> {
        if !passage.duplicated {
            return self.pass_on(request, passage);
        }
        let copy = self.plan.judge_copy(self.from, request.to, passage);
        let first = self.pass_on(request.clone(), passage);
        let second = self.pass_on(request, copy);
        Box::pin(first_answer(first, second))
    }

    /// Passes the request on, at once or after what is held back before it.
    fn pass_on(&self, request: Request, passage: Passage) -> BoxFuture<'static, Answered> {
        let lane = self.lanes.lock().entry((request.to, request.lane)).or_default().clone();
        let mut held = lane.lock();
        if held.requests.len() + held.astray >= MAX_HELD_REQUESTS {
            held.forget_late(self.runtime.now());
        }
        if held.requests.len() + held.astray >= MAX_HELD_REQUESTS {
            let reason = "too many requests are held back".to_owned();
            return Box::pin(ready(Err(PeerError::NotSent { to: request.to, reason })));
        }
        let to = request.to;
        let (called, call) = oneshot::channel();
        if let Some(extra) = passage.astray {
            held.astray += 1;
            let due = self.runtime.now() + passage.delay + passage.crossing + extra;
            let request = HeldRequest { due, request, called };
            self.runtime.spawn(self.passer(&lane).pass_astray(request));
            return Box::pin(answer_of(call, to));
        }
        let at_once = passage.delay.is_zero() && passage.crossing.is_zero() && !passage.held;
        if at_once && !held.passing_on {
            return self.inner.call(request);
        }
        let due = held.due(self.runtime.now(), passage);
        held.requests.push_back(HeldRequest { due, request, called });
        if !held.passing_on {
            held.passing_on = true;
            self.runtime.spawn(self.passer(&lane).pass_in_order());
        }
        Box::pin(answer_of(call, to))
    }

    fn passer(&self, lane: &HeldLane) -> Passer {
        Passer {
            runtime: self.runtime.clone(),
            inner: self.inner.clone(),
            plan: self.plan.clone(),
            from: self.from,
            lane: lane.clone(),
        }
    }
}

impl Held {
    /// When a request that comes now is passed on: after those before it.
    fn due(&mut self, now: Instant, passage: Passage) -> Instant {
        let begins = self.busy_until.map_or(now, |busy| busy.max(now));
        let crossed = (begins + passage.crossing).min(now + LONGEST_CROSSING);
        self.busy_until = Some(crossed);
        let due = crossed + passage.delay;
        let due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        due
    }

    /// Drops requests that nobody waits for any more.
    fn forget_late(&mut self, now: Instant) {
        self.requests.retain(|held| held.request.deadline > now);
    }
}

/// Passes requests of a lane on when their time has come.
struct Passer {
    runtime: Runtime,
    inner: SharedTransport,
    plan: FaultPlan,
    from: NodeId,
    lane: HeldLane,
}

impl Passer {
    async fn pass_in_order(self) {
        loop {
            let next = {
                let mut held = self.lane.lock();
                let next = held.requests.pop_front();
                held.passing_on = next.is_some();
                next
            };
            let Some(next) = next else { return };
            self.pass(next).await;
        }
    }

    async fn pass_astray(self, request: HeldRequest) {
        self.pass(request).await;
        self.lane.lock().astray -= 1;
    }

    async fn pass(&self, held: HeldRequest) {
        let HeldRequest { due, request, called } = held;
        self.runtime.sleep_until(due).await;
        self.plan.released(self.from, request.to).await;
        if request.deadline > self.runtime.now() {
            // A caller that went away does not take its request with it.
            let _ = called.send(self.inner.call(request));
        }
    }
}

/// The answer of a call that is made later, or never.
async fn answer_of(call: oneshot::Receiver<BoxFuture<'static, Answered>>, to: NodeId) -> Answered {
    match call.await {
        Ok(call) => call.await,
        Err(_) => Err(lost(to)),
    }
}

/// The answer that comes first; where one call fails, that of the other. Where both fail, what is
/// true of both together.
async fn first_answer(
    first: BoxFuture<'static, Answered>,
    second: BoxFuture<'static, Answered>,
) -> Answered {
    let (answered, other) = match select(first, second).await {
        Either::Left(done) | Either::Right(done) => done,
    };
    let Err(error) = answered else { return answered };
    match other.await {
        Err(other) if error.may_have_been_handled() && !other.may_have_been_handled() => Err(error),
        other => other,
    }
}

impl Transport for FaultyTransport {
    fn call(&self, request: Request) -> BoxFuture<'static, Answered> {
        let (from, to, deadline) = (self.from, request.to, request.deadline);
        let runtime = self.runtime.clone();
        let passage = match self.plan.judge_request(from, &request) {
            Fate::Passes(passage) => passage,
            Fate::Cut => {
                let reason = "the link is cut".to_owned();
                return Box::pin(ready(Err(PeerError::NotSent { to, reason })));
            }
            Fate::Vanishes => {
                return Box::pin(async move {
                    runtime.sleep_until(deadline).await;
                    Err(lost(to))
                });
            }
        };
        let call = self.send(request, passage);
        let way_back =
            WayBack { runtime: runtime.clone(), plan: self.plan.clone(), from: to, to: from };
        Box::pin(async move {
            let answered = way_back.bring(call);
            // The transport below answers by the deadline; what is added here must not take longer.
            runtime.deadline(deadline, answered).await.unwrap_or_else(|| Err(lost(to)))
        })
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.inner.is_connected(node) && !self.plan.is_cut(self.from, node)
    }

    fn is_suspected(&self, node: NodeId) -> bool {
        self.inner.is_suspected(node)
    }

    fn peer(&self, node: NodeId) -> Option<PeerView> {
        let mut view = self.inner.peer(node)?;
        view.connected &= !self.plan.is_cut(self.from, node);
        Some(view)
    }

    fn link(&self, node: NodeId, address: &str) {
        self.inner.link(node, address);
    }

    fn unlink(&self, node: NodeId) {
        self.inner.unlink(node);
    }
}

/// Where an answer travels.
struct WayBack {
    runtime: Runtime,
    plan: FaultPlan,
    from: NodeId,
    to: NodeId,
}

impl WayBack {
    /// The answer, once it has come back; pending for ever where it is lost.
    async fn bring(self, call: impl Future<Output = Answered>) -> Answered {
        let answered = call.await;
        if matches!(answered, Err(PeerError::NotSent { .. })) {
            // Nothing travelled.
            return answered;
        }
        let bytes = answered.as_ref().map_or(0, Bytes::len);
        let Fate::Passes(passage) = self.plan.judge_answer(self.from, self.to, bytes) else {
            return std::future::pending().await;
        };
        let time: Duration = passage.delay + passage.crossing;
        if !time.is_zero() {
            self.runtime.sleep(time).await;
        }
        self.plan.released(self.from, self.to).await;
        answered
    }
}

fn lost(to: NodeId) -> PeerError {
    PeerError::NoAnswer { to, reason: "the deadline passed".to_owned() }
}
