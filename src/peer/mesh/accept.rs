//! Takes the links that peers dial, and hands their requests to the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;

use super::{CLOSED, Listen, Mesh};
use crate::peer::connection::{Side, run};
use crate::peer::handshake::{HandshakeError, Wire, hear, welcome};
use crate::peer::link::Link;
use crate::peer::{Lane, PeerHandler};
use crate::types::NodeId;

/// How long a stranger may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many connections may be open towards this node: two a peer, and room for strangers, who
/// are gone after [`HANDSHAKE_TIMEOUT`].
const MAX_INBOUND_CONNECTIONS: usize = 256;

/// The pause after accepting failed (out of file descriptors, mostly), to not fail in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One seat for each peer and lane. Whoever takes it first waits until the one before has risen:
/// requests of two connections of one lane are never handled side by side or out of order.
#[derive(Default)]
pub(super) struct Seats(Mutex<BTreeMap<(NodeId, Lane), Seat>>);

struct Seat {
    link: Arc<Link>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Seats {
    /// Gives `link` the seat and ends the link that has it now; the turn comes when that is over.
    fn take(&self, of: NodeId, lane: Lane, link: &Arc<Link>) -> Arc<tokio::sync::Mutex<()>> {
        let mut seats = self.0.lock();
        let (before, turn) = match seats.get_mut(&(of, lane)) {
            Some(seat) => {
                (Some(std::mem::replace(&mut seat.link, link.clone())), seat.turn.clone())
            }
            None => {
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                seats.insert((of, lane), Seat { link: link.clone(), turn: turn.clone() });
                (None, turn)
            }
        };
        drop(seats);
        if let Some(before) = before {
            before.close("the peer has dialled anew");
        }
        turn
    }
}

impl Seats {
    /// Ends the links that `of` has dialled.
    pub(super) fn end(&self, of: NodeId) {
        let links: Vec<Arc<Link>> = {
            let seats = self.0.lock();
            let its = seats.iter().filter(|((node, _), _)| *node == of);
            its.map(|(_, seat)| seat.link.clone()).collect()
        };
        links.iter().for_each(|link| link.close("its node was removed"));
    }
}

pub(super) async fn accept_all<L: Listen>(
    mesh: Arc<Mesh>,
    mut listen: L,
    handler: Arc<dyn PeerHandler>,
) {
    let mut closing = mesh.closing.subscribe();
    let mut connections = FuturesUnordered::new();
    loop {
        let has_room = connections.len() < MAX_INBOUND_CONNECTIONS;
        let wire = tokio::select! { biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(_) = connections.next() => continue,
            wire = listen.accept(), if has_room => wire,
        };
        match wire {
            Ok(wire) => {
                let connection = serve(mesh.clone(), wire, handler.clone());
                connections.push(mesh.runtime.spawn(connection));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept peer connections");
                mesh.runtime.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listen);
    while connections.next().await.is_some() {}
}

async fn serve(mesh: Arc<Mesh>, wire: Wire, handler: Arc<dyn PeerHandler>) {
    let mut closing = mesh.closing.subscribe();
    let remote = wire.remote.clone();
    tokio::select! { biased;
        _ = closing.wait_for(|closing| *closing) => {}
        served = handshake_and_run(&mesh, wire, handler) => match served {
            Ok(reason) => tracing::debug!(remote, reason, "peer connection ended"),
            Err(trouble) => tell(&mesh, &remote, trouble),
        },
    }
}

async fn handshake_and_run(
    mesh: &Arc<Mesh>,
    mut wire: Wire,
    handler: Arc<dyn PeerHandler>,
) -> Result<String, String> {
    let deadline = mesh.runtime.now() + HANDSHAKE_TIMEOUT;
    let hear = hear(&mut wire, &mesh.runtime, &mesh.greeter);
    let hello = match mesh.runtime.deadline(deadline, hear).await {
        Some(Ok(hello)) => hello,
        Some(Err(error)) => return Err(count(mesh, error)),
        None => {
            mesh.metrics.protocol_errors.inc();
            return Err(format!("no handshake within {} ms", HANDSHAKE_TIMEOUT.as_millis()));
        }
    };
    let link = Link::new(hello.node);
    // However this ends, replies that are still out must not pile up on it.
    let _close = CloseOnDrop(link.clone());
    let turn = mesh.seats.take(hello.node, hello.lane, &link);
    let seated = mesh.runtime.deadline(deadline, turn.lock()).await;
    let Some(_seated) = seated.filter(|_| link.closed().is_none()) else {
        return Err("the peer has dialled anew".to_owned());
    };
    let welcome = welcome(&mut wire, &mesh.greeter, hello.lane);
    match mesh.runtime.deadline(deadline, welcome).await {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(count(mesh, error)),
        None => return Err("the welcome was not taken".to_owned()),
    }
    let peer = mesh.peers.read().get(&hello.node).cloned();
    if let Some(peer) = peer {
        peer.hear(hello.clone());
        peer.invite();
    }
    let side = Side::Answering { from: hello.node, handler };
    Ok(run(&mesh.runtime, &mesh.metrics, &link, wire, side).await)
}

/// Says what is new to the operator, and the rest to who looks closely.
fn tell(mesh: &Mesh, remote: &str, trouble: String) {
    let mut last = mesh.last_told.lock();
    if *last == trouble {
        tracing::debug!(remote, trouble, "peer connection dropped again");
    } else {
        tracing::warn!(remote, trouble, "peer connection dropped");
        *last = trouble;
    }
}

fn count(mesh: &Mesh, error: HandshakeError) -> String {
    if matches!(error, HandshakeError::Protocol(_) | HandshakeError::CutShort) {
        mesh.metrics.protocol_errors.inc();
    }
    error.to_string()
}

struct CloseOnDrop(Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(CLOSED);
    }
}
