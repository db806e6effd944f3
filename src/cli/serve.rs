//! `quorate serve`: one node, until it is told to stop or can go on no longer.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::settings::SettingsArgs;
use super::{Exit, complain, join, tokio_runtime};
use crate::api::{self, Api};
use crate::config::Settings;
use crate::error::StartError;
use crate::node::{Node, World};
use crate::storage::identity::Identity;
use crate::telemetry::start_logging;

pub(super) fn run(args: &SettingsArgs) -> Exit {
    let settings = match args.resolve() {
        Ok(resolved) => resolved.settings,
        Err(error) => {
            complain(error);
            return Exit::Usage;
        }
    };
    start_logging(&settings.log);
    let tokio = match tokio_runtime() {
        Ok(tokio) => tokio,
        Err(exit) => return exit,
    };
    match tokio.block_on(serve(settings)) {
        Ok(()) => Exit::Done,
        Err(problem) => {
            complain(problem);
            Exit::Failed
        }
    }
}

async fn serve(mut settings: Settings) -> Result<(), String> {
    // Ports and signals first: a node that cannot listen should not touch its data.
    let listener = listen(&settings.listen).await.map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let offset_ms = settings.testing.wall_clock_offset_ms;
    if offset_ms != 0 {
        tracing::warn!(offset_ms, "testing: this node's wall clock is made to be off");
    }
    let world = World::real(&settings).map_err(|error| error.to_string())?;
    let joins = settings.join.clone();
    if let Some(address) = &joins
        && Identity::cluster_of(&*world.disk).map_err(|error| error.to_string())?.is_none()
    {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            learnt = join::learn(&mut settings, address) => learnt?,
        }
    }
    let node = Node::start(settings.clone(), world).await.map_err(|error| error.to_string())?;
    let joining = joining(node.clone(), joins);
    tokio::pin!(joining);
    let (stop, stopping) = oneshot::channel::<()>();
    // Stopping is being told so, or the sender being gone.
    let stopping = async move { drop(stopping.await) };
    let server = api::serve(api::service(Api::of(&node)), listener, stopping);
    let server = node.runtime().spawn(server);
    tracing::info!(
        "node {} serves clients at {} and peers at {} in {} mode; data in {}",
        settings.node_id,
        settings.listen,
        settings.peer_listen,
        settings.mode,
        settings.data_dir.display()
    );
    let failed = tokio::select! {
        biased;
        reason = node.failed() => Some(reason),
        reason = &mut joining => Some(reason),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if let Some(reason) = failed {
        // Nothing is known about what is durable: leave at once, as a crash would.
        return Err(reason);
    }
    tracing::info!("stopping: finishing what is under way");
    // While clients are still served, so that what is under way goes on under the next leader.
    node.hand_over().await;
    drop(stop);
    let _ = server.await;
    shut_down(node).await;
    Ok(())
}

/// Joins where the node is to; ends only where it never can, with the reason.
async fn joining(node: Arc<Node>, through: Option<String>) -> String {
    if let Some(address) = through
        && let Err(reason) = join::become_member(&node, &address).await
    {
        return reason;
    }
    std::future::pending().await
}

async fn shut_down(node: Arc<Node>) {
    node.stop().await;
    tracing::info!("stopped");
}

async fn listen(address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen {
        role: "clients",
        address: address.to_owned(),
        source,
    })
}
