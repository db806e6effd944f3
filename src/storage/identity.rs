//! Who a data directory belongs to, and whom its node has met.

use std::sync::Arc;

use super::disk::Disk;
use crate::error::StartError;
use crate::runtime::Runtime;
use crate::types::{ClusterId, Incarnation, Mode, NodeId};

/// A data directory's identity; every change is durable before the call returns.
pub struct Identity {}

impl Identity {
    /// Reads the identity, or mints one in an empty directory; counts the boot. Refuses where
    /// node id, mode, engine or format differ from what the directory was made for.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _runtime: &Runtime,
        _node: NodeId,
        _mode: Mode,
        _engine: &str,
    ) -> Result<Identity, StartError> {
        todo!()
    }
    pub fn node(&self) -> NodeId {
        todo!()
    }
    pub fn incarnation(&self) -> Incarnation {
        todo!()
    }
    /// How often the directory was opened, this time included: 1 on the first start.
    pub fn boot(&self) -> u64 {
        todo!()
    }
    pub fn cluster(&self) -> Option<ClusterId> {
        todo!()
    }
    /// Remembers the cluster; an error where another one is remembered.
    pub fn join_cluster(&self, _cluster: ClusterId) -> Result<(), StartError> {
        todo!()
    }
    /// The incarnation under which `node` is known: `incarnation` itself where it was met for the
    /// first time (and is now remembered), or the one it was met with before.
    pub fn meet(&self, _node: NodeId, _incarnation: Incarnation) -> std::io::Result<Incarnation> {
        todo!()
    }
}
