//! The production link: TCP.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpStream};

use super::handshake::Wire;
use super::mesh::{Dial, Listen, Mesh, MeshOptions};
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

/// Long-lived links to every peer over TCP, two lanes each. Dropping it closes them.
pub struct TcpTransport {
    mesh: Arc<Mesh>,
    listener: Mutex<Option<TcpListener>>,
    local_address: Option<SocketAddr>,
    peers: Vec<NodeId>,
    /// Where nodes are that the settings do not know.
    told: AddressBook,
}

type AddressBook = Arc<RwLock<BTreeMap<NodeId, String>>>;

impl TcpTransport {
    /// Takes the port; nothing is dialled or accepted before [`TcpTransport::serve`].
    pub async fn bind(options: TcpOptions) -> Result<Arc<TcpTransport>, StartError> {
        let listener = TcpListener::bind(&options.listen).await.map_err(|source| {
            StartError::Listen { role: "peers", address: options.listen.clone(), source }
        })?;
        Ok(TcpTransport::on(listener, options))
    }

    /// The same on a port that was taken already.
    fn on(listener: TcpListener, options: TcpOptions) -> Arc<TcpTransport> {
        let TcpOptions { runtime, node, peers, greeter, metrics, .. } = options;
        let nodes = peers.keys().copied().collect();
        let told = Arc::new(RwLock::default());
        let dial = Arc::new(TcpDial { peers, told: told.clone() });
        let mesh = Mesh::new(MeshOptions { runtime, node, greeter, metrics, dial });
        Arc::new(TcpTransport {
            mesh,
            local_address: listener.local_addr().ok(),
            listener: Mutex::new(Some(listener)),
            peers: nodes,
            told,
        })
    }

    /// Dials every peer and accepts theirs, from now on.
    pub fn serve(&self, handler: Arc<dyn PeerHandler>) {
        if let Some(listener) = self.listener.lock().take() {
            self.mesh.accept(listener, handler);
        }
        for peer in &self.peers {
            self.mesh.link_to(*peer);
        }
    }

    /// Where peers are listened for, with the port that was taken where 0 was asked for.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local_address
    }

    /// Closes every link and the port.
    pub async fn close(&self) {
        drop(self.listener.lock().take());
        self.mesh.close().await;
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.mesh.begin_close();
    }
}

impl Transport for TcpTransport {
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

    fn link(&self, node: NodeId, address: &str) {
        self.told.write().insert(node, address.to_owned());
        self.mesh.link_to(node);
    }

    fn unlink(&self, node: NodeId) {
        self.mesh.unlink(node);
    }
}

struct TcpDial {
    /// By the settings: an operator who moves a node says so there.
    peers: BTreeMap<NodeId, String>,
    told: AddressBook,
}

impl Dial for TcpDial {
    fn dial(&self, to: NodeId) -> BoxFuture<'static, io::Result<Wire>> {
        let address = self.peers.get(&to).cloned().or_else(|| self.told.read().get(&to).cloned());
        Box::pin(async move {
            let address = address.ok_or_else(|| io::Error::other("it has no address"))?;
            let stream = TcpStream::connect(&address).await?;
            wire(stream, address)
        })
    }
}

impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<Wire> {
        let (stream, remote) = TcpListener::accept(self).await?;
        wire(stream, remote.to_string())
    }
}

fn wire(stream: TcpStream, remote: String) -> io::Result<Wire> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    Ok(Wire {
        reader: Box::new(reader),
        writer: Box::new(writer),
        remote,
        received: BytesMut::new(),
    })
}
