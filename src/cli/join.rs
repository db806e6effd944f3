//! `quorate serve --join`: becoming a member of a cluster that runs.
//!
//! Before the node starts it asks a member for the cluster's name and addresses; once it runs it
//! asks to be added as a learner and, unless it is to stay one, for a vote when it has caught up.
//! Both are asked for until they are granted: each changes nothing where it was done already.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, ClientError, ClusterView, Options};
use crate::config::{JoinAs, Settings};
use crate::node::Node;
use crate::types::{ClusterId, NodeId};

/// The pause before a member is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Refusals that no waiting changes.
const FINAL: [&str; 7] = [
    "id-was-used",
    "other-address",
    "address-taken",
    "too-many-members",
    "not-implemented",
    "unknown-path",
    "bad-body",
];

/// Learns from the member at `address` what to join; asks until it answers.
pub(super) async fn learn(settings: &mut Settings, address: &str) -> Result<(), String> {
    let client = Client::new([address]).map_err(|error| format!("join = {address}: {error}"))?;
    let mut told = Told::default();
    let (cluster, view) = loop {
        match client.cluster_status().await {
            Ok(view) => match view.cluster_id.as_deref().map(|id| u64::from_str_radix(id, 16)) {
                Some(Ok(id)) => break (ClusterId(id), view),
                Some(Err(_)) => return Err(format!("join = {address}: it names no cluster")),
                None => told.tell("the cluster there has no name yet".to_owned()),
            },
            Err(error) => told.tell(error.to_string()),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    };
    check(settings, address, &view)?;
    for member in view.members {
        let id = NodeId(member.id);
        if id != settings.node_id {
            settings.peers.insert(id, member.peer);
        }
    }
    settings.joins = Some(cluster);
    tracing::info!(%cluster, "joins through the node at {address}");
    Ok(())
}

fn check(settings: &Settings, address: &str, view: &ClusterView) -> Result<(), String> {
    if view.mode != settings.mode.as_str() {
        let (theirs, ours) = (&view.mode, settings.mode);
        return Err(format!(
            "join = {address}: that cluster runs in {theirs} mode, but the settings say {ours}: \
             start with --mode {theirs}"
        ));
    }
    Ok(())
}

/// Sees to it that a node that was started to join is a member; an error where it never will be.
pub(super) async fn become_member(node: &Arc<Node>, address: &str) -> Result<(), String> {
    let settings = node.settings();
    let id = settings.node_id;
    let own = settings.peers.get(&id).cloned().unwrap_or_else(|| settings.peer_listen.clone());
    let client = Client::new([address]).map_err(|error| error.to_string())?;
    let role = |node: &Node| {
        let members = node.replicator().status().members;
        members.into_iter().find(|member| member.id == id).map(|member| member.role)
    };
    let options = Options::default();
    let mut told = Told::default();
    while role(node).is_none() {
        match client.add_member(id, &own, &options).await {
            Ok(_) => break,
            Err(error) => told.refuse_or_tell(error)?,
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    if settings.join_as == JoinAs::Voter {
        while role(node) != Some("voter") {
            if node.replicator().ready().is_ok() {
                match client.promote_member(id, &options).await {
                    Ok(_) => break,
                    Err(error) => told.refuse_or_tell(error)?,
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
    tracing::info!("node {id} is a {} of the cluster", settings.join_as.as_str());
    Ok(())
}

/// Says what stands in the way, each reason once in a row.
#[derive(Default)]
struct Told(String);

impl Told {
    fn tell(&mut self, reason: String) {
        if self.0 != reason {
            tracing::warn!(reason, "not joined yet; asks again");
            self.0 = reason;
        }
    }

    fn refuse_or_tell(&mut self, error: ClientError) -> Result<(), String> {
        if let ClientError::Refused(problem) = &error
            && FINAL.contains(&problem.code.as_str())
        {
            return Err(format!("this node cannot join: {error}"));
        }
        self.tell(error.to_string());
        Ok(())
    }
}
