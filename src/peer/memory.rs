//! Links in memory, for simulated worlds and tests. Messages are still framed and parsed.

use std::sync::Arc;

use super::{Greeter, PeerHandler, SharedTransport};
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::NodeId;

/// The wires of a world; cheap to clone.
#[derive(Clone)]
pub struct MemoryNetwork {}

impl MemoryNetwork {
    /// Wires without nodes; `seed` decides delays.
    pub fn new(_seed: u64) -> MemoryNetwork {
        todo!()
    }

    /// Makes `node`'s end; nothing reaches it before [`MemoryNetwork::serve`].
    pub fn transport(
        &self,
        _node: NodeId,
        _runtime: Runtime,
        _greeter: Arc<dyn Greeter>,
        _metrics: Metrics,
    ) -> SharedTransport {
        todo!()
    }

    /// Lets requests reach `node`, which runs on the runtime that its transport was made with.
    pub fn serve(&self, _node: NodeId, _handler: Arc<dyn PeerHandler>) {
        todo!()
    }

    /// Takes `node` off the wires, as a crash does: what is under way to and from it is lost.
    pub fn detach(&self, _node: NodeId) {
        todo!()
    }
}
