//! What every transport keeps, tried on each: TCP on this machine, and memory in a paused world.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::fault::{FaultPlan, FaultyTransport};
use super::greeter::BasicGreeter;
use super::memory::MemoryNetwork;
use super::tcp::{TcpOptions, TcpTransport};
use super::{Hello, Inbound, Lane, PeerHandler, Request, Service, SharedTransport};
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::{ClusterId, Epoch, Incarnation, Mode, NodeId};

mod faults;
mod rough;
mod strangers;
mod suite;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Longer than anything takes that is meant to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What links a world's nodes.
enum Wires {
    Tcp { addresses: BTreeMap<NodeId, String> },
    Memory { network: MemoryNetwork },
}

struct World {
    wires: Wires,
    runtime: Runtime,
    /// The nodes' transports are decorated with this plan, where there is one.
    plan: Option<FaultPlan>,
}

/// A node that was started: what it sends with, and what it was sent.
struct Node {
    id: NodeId,
    transport: SharedTransport,
    tcp: Option<Arc<TcpTransport>>,
    handler: Arc<Recorder>,
    greeter: Arc<BasicGreeter>,
    metrics: Metrics,
}

type Behaviour = Box<dyn Fn(Inbound) + Send + Sync>;

type Seen = (NodeId, Service, Option<Epoch>, Bytes);

/// Records what comes in, and does with it as it is told.
struct Recorder {
    seen: Mutex<Vec<Seen>>,
    behaviour: Behaviour,
}

impl PeerHandler for Recorder {
    fn handle(&self, inbound: Inbound) {
        let Inbound { from, service, epoch, ref body, .. } = inbound;
        self.seen.lock().push((from, service, epoch, body.clone()));
        (self.behaviour)(inbound);
    }
}

fn echo() -> Behaviour {
    Box::new(|inbound| {
        let body = inbound.body.clone();
        inbound.reply.send(body);
    })
}

fn hello(node: NodeId) -> Hello {
    Hello {
        cluster: Some(ClusterId(7)),
        node,
        incarnation: Incarnation(100 + u64::from(node.0)),
        mode: Mode::Leader,
        layout: 0,
        fixed_leader: None,
        client_address: format!("client-{node}:7000"),
        lane: Lane::Bulk,
    }
}

impl World {
    async fn start(&self, own: Hello, behaviour: Behaviour) -> Node {
        let id = own.node;
        let greeter = Arc::new(BasicGreeter::new(own));
        let handler = Arc::new(Recorder { seen: Mutex::default(), behaviour });
        let metrics = Metrics::new();
        let runtime = self.runtime.clone();
        let (transport, tcp): (SharedTransport, _) = match &self.wires {
            Wires::Tcp { addresses } => {
                let tcp = self.bind(id, addresses, &greeter, &metrics).await;
                tcp.serve(handler.clone());
                (tcp.clone(), Some(tcp))
            }
            Wires::Memory { network } => {
                let transport = network.transport(id, runtime, greeter.clone(), metrics.clone());
                network.serve(id, handler.clone());
                (transport, None)
            }
        };
        let transport = match &self.plan {
            Some(plan) => FaultyTransport::wrap(transport, id, plan.clone(), self.runtime.clone()),
            None => transport,
        };
        Node { id, transport, tcp, handler, greeter, metrics }
    }

    /// Takes the node's port, in a while if another process has it just now.
    async fn bind(
        &self,
        node: NodeId,
        addresses: &BTreeMap<NodeId, String>,
        greeter: &Arc<BasicGreeter>,
        metrics: &Metrics,
    ) -> Arc<TcpTransport> {
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            let options = TcpOptions {
                runtime: self.runtime.clone(),
                node,
                listen: addresses[&node].clone(),
                peers: addresses.clone(),
                greeter: greeter.clone(),
                metrics: metrics.clone(),
            };
            match TcpTransport::bind(options).await {
                Ok(tcp) => return tcp,
                Err(error) => assert!(self.runtime.now() < deadline, "{error}"),
            }
            self.runtime.sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(&self, node: &Node) {
        match &self.wires {
            Wires::Tcp { .. } => node.tcp.as_ref().expect("it is TCP").close().await,
            Wires::Memory { network } => network.detach(node.id),
        }
    }

    /// Two nodes that are linked both ways; the second behaves as said.
    async fn pair(&self, behaviour: Behaviour) -> (Node, Node) {
        let one = self.start(hello(ONE), echo()).await;
        let two = self.start(hello(TWO), behaviour).await;
        self.until("the nodes are linked", || one.is_linked(TWO) && two.is_linked(ONE)).await;
        (one, two)
    }

    async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = self.runtime.now() + PATIENCE;
        while !condition() {
            assert!(self.runtime.now() < deadline, "did not happen: {what}");
            self.runtime.sleep(Duration::from_millis(5)).await;
        }
    }

    fn request(&self, to: NodeId, lane: Lane, body: impl Into<Bytes>) -> Request {
        self.request_within(PATIENCE, to, lane, body)
    }

    fn request_within(
        &self,
        time: Duration,
        to: NodeId,
        lane: Lane,
        body: impl Into<Bytes>,
    ) -> Request {
        Request {
            to,
            lane,
            service: Service::Forward,
            epoch: Some(Epoch(3)),
            deadline: self.runtime.now() + time,
            body: body.into(),
        }
    }
}

impl Node {
    fn is_linked(&self, to: NodeId) -> bool {
        self.transport.peer(to).is_some_and(|peer| peer.connected)
    }

    fn bodies_seen(&self) -> Vec<Bytes> {
        self.handler.seen.lock().iter().map(|(_, _, _, body)| body.clone()).collect()
    }
}

/// Ports that were free a moment ago.
fn free_addresses() -> BTreeMap<NodeId, String> {
    let taken = [ONE, TWO]
        .map(|node| (node, std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")));
    let address = |listener: &std::net::TcpListener| listener.local_addr().expect("bound");
    taken.iter().map(|(node, listener)| (*node, address(listener).to_string())).collect()
}

fn over_tcp<F: Future<Output = ()>>(test: impl FnOnce(Arc<World>) -> F) {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let wires = Wires::Tcp { addresses: free_addresses() };
    tokio.block_on(test(Arc::new(World { wires, runtime: Runtime::real(), plan: None })));
}

fn over_memory<F: Future<Output = ()>>(test: impl FnOnce(Arc<World>) -> F) {
    in_memory(None, test);
}

fn over_memory_with_a_plan<F: Future<Output = ()>>(test: impl FnOnce(Arc<World>) -> F) {
    in_memory(Some(FaultPlan::new(5)), test);
}

fn in_memory<F: Future<Output = ()>>(plan: Option<FaultPlan>, test: impl FnOnce(Arc<World>) -> F) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    tokio.block_on(async {
        let runtime = Runtime::simulated(5, 1_000_000);
        let wires = Wires::Memory { network: MemoryNetwork::new(5) };
        test(Arc::new(World { wires, runtime, plan })).await;
    });
}
