//! The production link: TCP.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Greeter, PeerError, PeerHandler, PeerView, Request, Transport};
use crate::error::StartError;
use crate::runtime::Runtime;
use crate::telemetry::Metrics;
use crate::types::NodeId;

/// What the links need.
pub struct TcpOptions {
    pub runtime: Runtime,
    pub node: NodeId,
    /// `host:port` to listen on.
    pub listen: String,
    /// Every node's `host:port`, this one included.
    pub peers: BTreeMap<NodeId, String>,
    pub greeter: Arc<dyn Greeter>,
    pub metrics: Metrics,
}

/// Long-lived links to every peer over TCP, two lanes each.
pub struct TcpTransport {}

impl TcpTransport {
    /// Takes the port; nothing is dialled or accepted before [`TcpTransport::serve`].
    pub async fn bind(_options: TcpOptions) -> Result<Arc<TcpTransport>, StartError> {
        todo!()
    }

    /// Dials every peer and accepts theirs, from now on.
    pub fn serve(&self, _handler: Arc<dyn PeerHandler>) {
        todo!()
    }

    /// Closes every link and the port.
    pub async fn close(&self) {
        todo!()
    }
}

impl Transport for TcpTransport {
    fn call(&self, _request: Request) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        todo!()
    }
    fn peer(&self, _node: NodeId) -> Option<PeerView> {
        todo!()
    }
}
