//! Links in memory, for simulated worlds and tests.
//!
//! **Why it exists.** A world in one thread needs wires whose delays come from a seed. Everything
//! above the wires is what runs over TCP: the same frames, handshake, queues, dialling and ends.
//!
//! **Guarantees.** The bytes of one connection arrive in order. Two worlds with the same seed, whose
//! nodes do the same, have the same delays. What is under way to or from a node that is detached is
//! lost, and both ends of its connections break at once. Of what a node that crashed had sent, some
//! may still arrive, as with bytes that a switch or the other side's kernel has already.
//!
//! **Does not do** faults of messages between nodes that are there, except broken connections: see
//! [`super::fault`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;

use super::handshake::Wire;
use super::mesh::{Dial, Listen, Mesh, MeshOptions};
use super::{Greeter, PeerError, PeerHandler, PeerView, Request, SharedTransport, Transport};
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::NodeId;
use pipe::{Pipe, pipe};

mod pipe;
#[cfg(test)]
mod tests;

/// How many connections may wait to be accepted, as with a listening socket.
const ACCEPT_QUEUE: usize = 64;

/// The wires of a world; cheap to clone.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<World>>);

struct World {
    seeds: StdRng,
    nodes: BTreeMap<NodeId, Attached>,
    wires: Vec<(NodeId, NodeId, Weak<Pipe>)>,
}

/// A node on the wires.
struct Attached {
    runtime: Runtime,
    mesh: Weak<Mesh>,
    /// Takes the connections to the node, once it serves.
    incoming: Option<mpsc::Sender<Wire>>,
}

impl MemoryNetwork {
    /// Wires without nodes; `seed` decides delays.
    pub fn new(seed: u64) -> MemoryNetwork {
        let seeds = StdRng::seed_from_u64(seed);
        let world = World { seeds, nodes: BTreeMap::new(), wires: Vec::new() };
        MemoryNetwork(Arc::new(Mutex::new(world)))
    }

    /// Makes `node`'s end, in place of an older one; nothing reaches it before
    /// [`MemoryNetwork::serve`]. From then on it has links to every node that is, or comes, on
    /// these wires. Dropping what this gives closes them.
    pub fn transport(
        &self,
        node: NodeId,
        runtime: Runtime,
        greeter: Arc<dyn Greeter>,
        metrics: Metrics,
    ) -> SharedTransport {
        self.detach(node);
        let dial = Arc::new(MemoryDial { network: self.clone(), from: node });
        let options = MeshOptions { runtime: runtime.clone(), node, greeter, metrics, dial };
        let mesh = Mesh::new(options);
        let mut world = self.0.lock();
        let others: Vec<_> = world.nodes.keys().copied().collect();
        let attached = Attached { runtime, mesh: Arc::downgrade(&mesh), incoming: None };
        world.nodes.insert(node, attached);
        drop(world);
        for other in others {
            mesh.link_to(other);
        }
        self.tell_others_of(node);
        Arc::new(MemoryTransport { mesh })
    }

    /// Lets requests reach `node`, which runs on the runtime that its transport was made with.
    pub fn serve(&self, node: NodeId, handler: Arc<dyn PeerHandler>) {
        let mut world = self.0.lock();
        let Some(attached) = world.nodes.get_mut(&node) else { return };
        let Some(mesh) = attached.mesh.upgrade() else { return };
        let (incoming, listen) = mpsc::channel(ACCEPT_QUEUE);
        attached.incoming = Some(incoming);
        drop(world);
        mesh.accept(MemoryListen(listen), handler);
        self.tell_others_of(node);
    }

    /// Takes `node` off the wires: what is under way to and from it is lost.
    pub fn detach(&self, node: NodeId) {
        self.take_off(node, |_| false);
    }

    /// Takes `node` off the wires, as a crash does: what is under way to it is lost. On each of its
    /// connections, by the seed, what it had sent is lost as well, or arrives before the end does.
    pub fn crash(&self, node: NodeId) {
        self.take_off(node, |seeds| seeds.next_u64().is_multiple_of(2));
    }

    fn take_off(&self, node: NodeId, arrives: impl Fn(&mut StdRng) -> bool) {
        let mut world = self.0.lock();
        let Some(attached) = world.nodes.remove(&node) else { return };
        let its = world.take_wires(|from, to| from == node || to == node);
        let ends: Vec<_> = its
            .into_iter()
            .map(|(from, _, pipe)| (pipe, from == node && arrives(&mut world.seeds)))
            .collect();
        drop(world);
        for (pipe, arrives) in ends {
            if arrives { pipe.finish() } else { pipe.cut() }
        }
        if let Some(mesh) = attached.mesh.upgrade() {
            mesh.begin_close();
        }
    }

    /// Breaks the connections between two nodes, as a reset does: what is under way is lost, both
    /// ends see an error, and the nodes dial anew.
    pub fn reset(&self, one: NodeId, other: NodeId) {
        let between = |from, to| (from, to) == (one, other) || (from, to) == (other, one);
        let broken = self.0.lock().take_wires(between);
        for (_, _, pipe) in broken {
            pipe.cut();
        }
    }

    /// Lets every other node dial `node` at once.
    fn tell_others_of(&self, node: NodeId) {
        let others: Vec<_> = {
            let world = self.0.lock();
            let others = world.nodes.iter().filter(|(id, _)| **id != node);
            others.filter_map(|(_, attached)| attached.mesh.upgrade()).collect()
        };
        for mesh in others {
            mesh.link_to(node);
        }
    }

    fn connect(&self, from: NodeId, to: NodeId) -> io::Result<Wire> {
        let mut world = self.0.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let dialler = world.nodes.get(&from).ok_or_else(refused)?.runtime.clone();
        let acceptor = world.nodes.get(&to).ok_or_else(refused)?;
        let incoming = acceptor.incoming.clone().ok_or_else(refused)?;
        let acceptor = acceptor.runtime.clone();
        let (there, there_end) = pipe(world.seeds.next_u64(), acceptor);
        let (back, back_end) = pipe(world.seeds.next_u64(), dialler);
        let pipes = [(from, to, &there.pipe), (to, from, &back.pipe)]
            .map(|(from, to, pipe)| (from, to, Arc::downgrade(pipe)));
        world.wires.retain(|(_, _, pipe)| pipe.strong_count() > 0);
        world.wires.extend(pipes);
        drop(world);
        let wire = |reader, writer, remote: NodeId| Wire {
            reader: Box::new(reader),
            writer: Box::new(writer),
            remote: format!("node {remote}"),
            received: BytesMut::new(),
        };
        incoming.try_send(wire(there_end, back, from)).map_err(|_| refused())?;
        Ok(wire(back_end, there, to))
    }
}

impl World {
    /// Removes the wires between such nodes, and gives those that are still there.
    fn take_wires(
        &mut self,
        chosen: impl Fn(NodeId, NodeId) -> bool,
    ) -> Vec<(NodeId, NodeId, Arc<Pipe>)> {
        let (taken, kept): (Vec<_>, Vec<_>) =
            self.wires.drain(..).partition(|(from, to, _)| chosen(*from, *to));
        self.wires = kept;
        let there =
            |(from, to, pipe): (NodeId, NodeId, Weak<Pipe>)| Some((from, to, pipe.upgrade()?));
        taken.into_iter().filter_map(there).collect()
    }
}

struct MemoryTransport {
    mesh: Arc<Mesh>,
}

impl Transport for MemoryTransport {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        self.mesh.call(request)
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.mesh.is_connected(node)
    }

    fn is_suspected(&self, node: NodeId) -> bool {
        self.mesh.is_suspected(node)
    }

    fn peer(&self, node: NodeId) -> Option<PeerView> {
        self.mesh.peer(node)
    }

    /// Every node on the wires is found by its id.
    fn link(&self, node: NodeId, _address: &str) {
        self.mesh.link_to(node);
    }

    fn unlink(&self, node: NodeId) {
        self.mesh.unlink(node);
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.mesh.begin_close();
    }
}

struct MemoryDial {
    network: MemoryNetwork,
    from: NodeId,
}

impl Dial for MemoryDial {
    fn dial(&self, to: NodeId) -> BoxFuture<'static, io::Result<Wire>> {
        Box::pin(ready(self.network.connect(self.from, to)))
    }
}

struct MemoryListen(mpsc::Receiver<Wire>);

impl Listen for MemoryListen {
    async fn accept(&mut self) -> io::Result<Wire> {
        match self.0.recv().await {
            Some(wire) => Ok(wire),
            // The node is off the wires: nobody comes any more.
            None => std::future::pending().await,
        }
    }
}
