//! Keeps the link of one lane to one peer: dials, runs it, dials again.

use std::sync::Arc;
use std::time::Duration;

use super::{CLOSED, Mesh, Peer};
use crate::peer::connection::{Side, run};
use crate::peer::handshake::{HandshakeError, Wire, greet};
use crate::peer::{Hello, Lane};

/// How long connecting and the handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The first pause before dialling again, in milliseconds: short, because most breaks are a peer
/// that restarts or a connection that was replaced.
const FIRST_PAUSE_MS: u64 = 20;

/// The longest pause, in milliseconds: what a peer that comes back may have to wait at most, were it
/// not that its own dialling invites this node to dial at once.
const LONGEST_PAUSE_MS: u64 = 1_000;

/// A link that lived this long was a working one: pauses begin anew.
const WORKING_AFTER: Duration = Duration::from_millis(500);

/// Why there is no link any more, or none yet.
struct Down {
    reason: String,
    /// Whether there was one, and it worked.
    worked: bool,
}

pub(super) async fn keep_linked(mesh: Arc<Mesh>, peer: Arc<Peer>, lane: Lane) {
    let mut closing = mesh.closing.subscribe();
    let mut gone = peer.gone.subscribe();
    let slot = peer.slot(lane);
    let mut pause_ms = FIRST_PAUSE_MS;
    loop {
        let down = tokio::select! { biased;
            _ = closing.wait_for(|closing| *closing) => None,
            _ = gone.wait_for(|gone| *gone) => None,
            down = link_once(&mesh, &peer, lane) => Some(down),
        };
        let Some(down) = down else {
            slot.set_down(CLOSED);
            return;
        };
        let before = slot.set_down(&down.reason);
        tell(&peer, lane, &down, before != down.reason);
        if down.worked {
            pause_ms = FIRST_PAUSE_MS;
            slot.expect_link(peer.node);
        }
        let pause = pause_ms / 2 + mesh.runtime.random_below(pause_ms / 2 + 1);
        tokio::select! { biased;
            _ = closing.wait_for(|closing| *closing) => {}
            _ = gone.wait_for(|gone| *gone) => {}
            () = slot.invited.notified() => {}
            () = mesh.runtime.sleep(Duration::from_millis(pause)) => {}
        }
        pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
    }
}

/// Connects, and runs the link until it ends.
async fn link_once(mesh: &Arc<Mesh>, peer: &Peer, lane: Lane) -> Down {
    let connect = connect(mesh, peer, lane);
    let connected = mesh.runtime.deadline(mesh.runtime.now() + CONNECT_TIMEOUT, connect).await;
    let (wire, hello) = match connected {
        Some(Ok(connected)) => connected,
        Some(Err(error)) => return Down { reason: failed(mesh, peer, error), worked: false },
        None => {
            let reason = format!("no handshake within {} ms", CONNECT_TIMEOUT.as_millis());
            return Down { reason, worked: false };
        }
    };
    peer.hear(hello);
    tracing::info!(peer = %peer.node, ?lane, remote = wire.remote, "link up");
    let since = mesh.runtime.now();
    let link = peer.slot(lane).set_up(peer.node);
    let reason = run(&mesh.runtime, &mesh.metrics, &link, wire, Side::Calling).await;
    Down { reason, worked: mesh.runtime.now() >= since + WORKING_AFTER }
}

async fn connect(mesh: &Mesh, peer: &Peer, lane: Lane) -> Result<(Wire, Hello), HandshakeError> {
    let mut wire = mesh.dial.dial(peer.node).await?;
    let hello = greet(&mut wire, &mesh.runtime, &mesh.greeter, peer.node, lane).await?;
    Ok((wire, hello))
}

fn failed(mesh: &Mesh, peer: &Peer, error: HandshakeError) -> String {
    // A peer that dies in the middle of a handshake has not broken the protocol.
    if let HandshakeError::Protocol(_) = error {
        mesh.metrics.protocol_errors.inc();
    }
    let reason = error.to_string();
    if let HandshakeError::Rejected(rejection) = error {
        mesh.greeter.rejected(peer.node, rejection);
    }
    reason
}

/// Says what is new to the operator, and the rest to who looks closely.
fn tell(peer: &Peer, lane: Lane, down: &Down, is_new: bool) {
    let Down { reason, worked } = down;
    if *worked || is_new {
        tracing::warn!(peer = %peer.node, ?lane, reason, "link down");
    } else {
        tracing::debug!(peer = %peer.node, ?lane, reason, "link still down");
    }
}
