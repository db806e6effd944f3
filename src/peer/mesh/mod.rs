//! A node's links to all its peers, over whatever carries bytes.
//!
//! **Why it exists.** TCP and the simulated wires differ in how bytes get across, and in nothing
//! else: dialling, the handshake, the lanes, the queues and the ends of links are this one piece of
//! code, so what a simulated world tries out is what runs in production.
//!
//! Each node dials each peer, once a lane, for its own requests; answers come back on the same
//! connection. Between two nodes there are thus four, and no question who dials.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::connection::LinkMetrics;
use super::handshake::Wire;
use super::link::{Call, Link};
use super::{Greeter, Hello, Lane, PeerError, PeerHandler, PeerView, Request};
use crate::runtime::watch;
use crate::runtime::{Instant, Runtime, Task};
use crate::telemetry::Metrics;
use crate::types::{Incarnation, NodeId};

mod accept;
mod dial;

const CLOSED: &str = "this node's links are closed";

/// Makes connections.
pub(super) trait Dial: Send + Sync + 'static {
    /// A new connection to `to`.
    fn dial(&self, to: NodeId) -> BoxFuture<'static, io::Result<Wire>>;
}

/// Takes connections.
pub(super) trait Listen: Send + 'static {
    /// The next connection that comes in; may be dropped and called again.
    fn accept(&mut self) -> impl Future<Output = io::Result<Wire>> + Send;
}

/// What a mesh needs.
pub(super) struct MeshOptions {
    pub runtime: Runtime,
    pub node: NodeId,
    pub greeter: Arc<dyn Greeter>,
    pub metrics: Metrics,
    pub dial: Arc<dyn Dial>,
}

/// The links of one node.
pub(super) struct Mesh {
    runtime: Runtime,
    node: NodeId,
    greeter: Arc<dyn Greeter>,
    metrics: Arc<LinkMetrics>,
    dial: Arc<dyn Dial>,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    seats: accept::Seats,
    /// The last trouble with a connection that came in, to not tell it again every second.
    last_told: Mutex<String>,
    closing: watch::Sender<bool>,
    tasks: Mutex<Vec<Task<()>>>,
}

/// One peer: a slot for the link of each lane.
struct Peer {
    node: NodeId,
    bulk: Slot,
    control: Slot,
    told: Mutex<Told>,
    /// Once true, nobody wants links to it any more.
    gone: watch::Sender<bool>,
}

/// What a peer said of itself, once it has.
#[derive(Clone, Default)]
struct Told {
    client_address: Option<String>,
    incarnation: Option<Incarnation>,
}

/// Where the link of a lane is, while there is one.
#[derive(Default)]
struct Slot {
    state: Mutex<SlotState>,
    /// Whether the lane is up; changes under the lock, and is read without.
    up: AtomicBool,
    /// Ends the pause before the next attempt to connect.
    invited: Notify,
}

#[derive(Default)]
struct SlotState {
    /// The link that calls are queued on. There is one while the lane is up, and while it is about
    /// to be dialled with good reason to expect that it works: at first, after a working link
    /// broke, and when the peer has just dialled this node. Else calls fail at once.
    link: Option<Arc<Link>>,
    /// Why the last link, or the last attempt at one, ended.
    reason: String,
}

impl Mesh {
    pub fn new(options: MeshOptions) -> Arc<Mesh> {
        let MeshOptions { runtime, node, greeter, metrics, dial } = options;
        Arc::new(Mesh {
            runtime,
            node,
            greeter,
            metrics: Arc::new(LinkMetrics::new(&metrics)),
            dial,
            peers: RwLock::default(),
            seats: accept::Seats::default(),
            last_told: Mutex::default(),
            closing: watch::Sender::new(false),
            tasks: Mutex::default(),
        })
    }

    /// Keeps links to `node` from now on; where that is so already, dials at once where they are
    /// down.
    pub fn link_to(self: &Arc<Self>, node: NodeId) {
        if node == self.node || *self.closing.borrow() {
            return;
        }
        if let Some(peer) = self.peers.read().get(&node) {
            return peer.invite();
        }
        let peer = Arc::new(Peer {
            node,
            bulk: Slot::default(),
            control: Slot::default(),
            told: Mutex::default(),
            gone: watch::Sender::new(false),
        });
        peer.invite();
        self.peers.write().insert(node, peer.clone());
        for lane in [Lane::Bulk, Lane::Control] {
            self.spawn(dial::keep_linked(self.clone(), peer.clone(), lane));
        }
    }

    /// Keeps no links to `node` any more, and ends those that there are in either direction.
    pub fn unlink(&self, node: NodeId) {
        let peer = self.peers.write().remove(&node);
        if let Some(peer) = peer {
            peer.gone.send_replace(true);
        }
        self.seats.end(node);
    }

    /// Accepts connections from now on.
    pub fn accept<L: Listen>(self: &Arc<Self>, listen: L, handler: Arc<dyn PeerHandler>) {
        self.spawn(accept::accept_all(self.clone(), listen, handler));
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.runtime.spawn(work);
        self.tasks.lock().push(task);
    }

    /// Ends every link; returns at once.
    pub fn begin_close(&self) {
        self.closing.send_replace(true);
    }

    /// Ends every link, and waits until they have ended.
    pub async fn close(&self) {
        self.begin_close();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            // A task that was ended from elsewhere has ended as well.
            let _ = task.await;
        }
    }

    /// See [`super::Transport::call`].
    pub fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        match self.queue(request) {
            Ok(call) => Box::pin(call.wait()),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn queue(&self, request: Request) -> Result<Call, PeerError> {
        let to = request.to;
        let peers = self.peers.read();
        let Some(peer) = peers.get(&to) else {
            let reason = format!("this node has no links to node {to}");
            return Err(PeerError::NotSent { to, reason });
        };
        let state = peer.slot(request.lane).state.lock();
        let Some(link) = &state.link else {
            let reason = format!("not connected: {}", state.reason);
            return Err(PeerError::NotSent { to, reason });
        };
        link.call(&self.runtime, request)
    }

    /// See [`super::Transport::is_connected`].
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.peers.read().get(&node).is_some_and(|peer| peer.is_connected())
    }

    /// See [`super::Transport::is_suspected`].
    pub fn is_suspected(&self, node: NodeId) -> bool {
        let now = self.runtime.now();
        self.peers.read().get(&node).is_some_and(|peer| peer.is_suspected(now))
    }

    /// See [`super::Transport::peer`].
    pub fn peer(&self, node: NodeId) -> Option<PeerView> {
        let peer = self.peers.read().get(&node)?.clone();
        let Told { client_address, incarnation } = peer.told.lock().clone();
        let (connected, suspected) = (peer.is_connected(), peer.is_suspected(self.runtime.now()));
        Some(PeerView { connected, suspected, client_address, incarnation })
    }
}

impl Peer {
    fn slot(&self, lane: Lane) -> &Slot {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Control => &self.control,
        }
    }

    /// Takes down what the peer said of itself.
    fn hear(&self, hello: Hello) {
        let incarnation = Some(hello.incarnation);
        *self.told.lock() = Told { client_address: Some(hello.client_address), incarnation };
    }

    fn is_connected(&self) -> bool {
        self.bulk.up.load(Ordering::Acquire) && self.control.up.load(Ordering::Acquire)
    }

    fn is_suspected(&self, now: Instant) -> bool {
        // Where data goes: this is asked for every read.
        self.bulk.state.lock().link.as_ref().is_some_and(|link| link.is_suspected(now))
    }

    /// Says that the peer is likely to be there: lanes that are down are dialled at once.
    fn invite(&self) {
        for lane in [Lane::Bulk, Lane::Control] {
            let slot = self.slot(lane);
            if slot.expect_link(self.node) {
                slot.invited.notify_one();
            }
        }
    }
}

impl Slot {
    /// Lets calls queue up for a link that is about to be; false where there is one already.
    fn expect_link(&self, peer: NodeId) -> bool {
        let mut state = self.state.lock();
        let missing = state.link.is_none();
        if missing {
            state.link = Some(Link::new(peer));
        }
        missing
    }

    /// The link for a connection that was made: the one that calls are queued on already, or a new
    /// one that gets them from now on.
    fn set_up(&self, peer: NodeId) -> Arc<Link> {
        let mut state = self.state.lock();
        self.up.store(true, Ordering::Release);
        state.link.get_or_insert_with(|| Link::new(peer)).clone()
    }

    /// Fails what is queued, and all calls from now on. Gives the reason that counted until now.
    fn set_down(&self, reason: &str) -> String {
        let mut state = self.state.lock();
        self.up.store(false, Ordering::Release);
        let link = state.link.take();
        let before = std::mem::replace(&mut state.reason, reason.to_owned());
        drop(state);
        if let Some(link) = link {
            link.close(reason);
        }
        before
    }
}
