//! The layout of a simulated leaderless cluster changes, while everything else goes on: nodes come, are
//! given partitions, and leave; and what must be true of that in the end.
//!
//! Each change is an operator who adds a node, has the partitions spread anew, waits until that is done, and
//! removes who holds none any more. Who lost its disk can prove nothing: where a change waits for it, the
//! operator takes the change back and leaves that node out. Now and then one is taken back for no reason.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use serde::Deserialize;

use super::machine::Machine;
use super::members::{self, Ask};
use super::plan::Fault;
use super::world::{Shared, World};
use crate::replication::ClusterStatus;
use crate::replication::layout::LayoutStatus;
use crate::storage::rows;
use crate::types::NodeId;

/// How long an operator waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// One change in so many is taken back, for no reason.
const CANCEL_ONE_IN: u64 = 6;

/// How often a removal is asked for: it is put off while the node has something to bring to others.
const REMOVE_TRIES: usize = 40;

/// Control-plane voters below which nobody is removed.
const LEAST_VOTERS: usize = 3;

/// All nodes must go by one layout that stands, and hold nothing else, within this time of the end of the
/// last change.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// What an operator is told.
#[derive(Deserialize)]
struct View {
    nodes: Vec<Node>,
    change: Option<Change>,
}

#[derive(Deserialize)]
struct Change {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: NodeId,
}

fn ids(nodes: &[Node]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| node.id).collect()
}

/// Begins a change; false where there can be none now. The members are known, and no change is under way.
pub(super) fn begin(world: &mut World, fault: Fault, status: &ClusterStatus) -> bool {
    let shared = world.shared.clone();
    let holders: Vec<NodeId> = status
        .members
        .iter()
        .filter(|member| member.role == "replica")
        .map(|member| member.id)
        .collect();
    let leaves = (fault != Fault::Grow).then(|| members::who_leaves(&shared, &holders));
    let least = usize::from(shared.plan.replicas).max(LEAST_VOTERS.min(holders.len()));
    if fault == Fault::Shrink && holders.len() <= least || holders.is_empty() {
        return false;
    }
    let newcomer = match fault {
        Fault::Grow | Fault::Replace => match members::enlist(world, status) {
            Some(node) => Some(node),
            None => return false,
        },
        _ => None,
    };
    shared.changes().leaving.extend(leaves);
    shared.say(format_args!("{}, {:?} comes, {leaves:?} leaves", fault.name(), newcomer));
    shared.changes().under_way += 1;
    let runtime = shared.runtime.clone();
    drop(runtime.spawn(async move {
        carry_out(&shared, newcomer, leaves).await;
        shared.changes().under_way -= 1;
    }));
    true
}

/// What the operator does, one thing after the other.
async fn carry_out(shared: &Shared, newcomer: Option<NodeId>, leaves: Option<NodeId>) {
    if let Some(node) = newcomer {
        let asks = vec![Ask::add(node), Ask::promote(node)];
        if !members::carry_out(shared, asks, Some(node)).await {
            if shared.losses().is_lost(node) {
                members::give_up(shared, node).await;
            }
            return;
        }
    }
    let holders = spread(shared, newcomer, leaves).await;
    for one in leaves.into_iter().filter(|one| !holders.contains(one)) {
        // Fewer would be lost with the next one.
        if voters(shared).await > LEAST_VOTERS && remove(shared, one).await {
            shared.changes().removed.insert(one);
            shared.happened("members: removed");
        }
    }
}

/// Removes a node; not for ever: it may have something that it cannot bring to one that never comes back.
async fn remove(shared: &Shared, node: NodeId) -> bool {
    for _ in 0..REMOVE_TRIES {
        match members::one_answer(shared, &Ask::remove(node)).await {
            Some(removed) => return removed,
            None => shared.runtime.sleep(LOOK_AGAIN).await,
        }
    }
    shared.happened("layout: one that left is kept as a member");
    false
}

/// Has the partitions spread anew until they are; gives who holds them then.
async fn spread(
    shared: &Shared,
    newcomer: Option<NodeId>,
    leaves: Option<NodeId>,
) -> BTreeSet<NodeId> {
    let mut cancels = shared.runtime.random_below(CANCEL_ONE_IN) == 0;
    loop {
        let view = show(shared).await;
        let holders = ids(&view.nodes);
        let Some(change) = &view.change else {
            let wanted = wanted(shared, &holders, newcomer, leaves);
            if wanted == holders {
                shared.happened("layout: changed");
                return holders;
            }
            let named: Vec<String> = wanted.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
            let body = format!("{{\"nodes\":[{}]}}", named.join(","));
            ask(shared, "", body).await;
            continue;
        };
        let waits_in_vain = ids(&change.nodes).into_iter().any(|id| shared.losses().is_lost(id));
        if waits_in_vain || cancels {
            cancels = false;
            if ask(shared, "/cancel", String::new()).await {
                shared.happened("layout: change taken back");
            }
        }
        shared.runtime.sleep(LOOK_AGAIN).await;
    }
}

/// Who is to hold partitions: nobody without its disk, and as many as there are to be replicas at least.
fn wanted(
    shared: &Shared,
    holders: &BTreeSet<NodeId>,
    newcomer: Option<NodeId>,
    leaves: Option<NodeId>,
) -> BTreeSet<NodeId> {
    let is_lost = |node: &NodeId| shared.losses().is_lost(*node);
    let mut wanted: BTreeSet<NodeId> = holders.iter().copied().chain(newcomer).collect();
    for goes in leaves.into_iter().chain(wanted.clone().into_iter().filter(is_lost)) {
        if wanted.len() > usize::from(shared.plan.replicas) {
            wanted.remove(&goes);
        }
    }
    // One that lost its disk and must stay, for want of others, proves nothing: nothing is changed.
    match wanted.iter().any(is_lost) {
        true => holders.clone(),
        false => wanted,
    }
}

/// Asks some node for the layout, until one tells.
async fn show(shared: &Shared) -> View {
    loop {
        if let Some((StatusCode::OK, body)) = answer(shared, Method::GET, "", String::new()).await {
            match serde_json::from_slice::<View>(&body) {
                Ok(view) => return view,
                Err(error) => shared.broken("layout-answer", format!("no layout: {error}")),
            }
        }
        shared.runtime.sleep(LOOK_AGAIN).await;
    }
}

/// Asks some node for a change; whether it says that it was made.
async fn ask(shared: &Shared, target: &str, body: String) -> bool {
    let Some((status, said)) = answer(shared, Method::POST, target, body).await else {
        shared.runtime.sleep(LOOK_AGAIN).await;
        return false;
    };
    match status {
        StatusCode::OK => true,
        // Another try was made after all, or is under way; or who is named is not known there yet.
        StatusCode::CONFLICT
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS => {
            shared.runtime.sleep(LOOK_AGAIN).await;
            false
        }
        other => {
            let said = String::from_utf8_lossy(&said).into_owned();
            shared.broken("layout-answer", format!("'{target}' was answered {other}: {said}"));
            false
        }
    }
}

async fn answer(
    shared: &Shared,
    method: Method,
    target: &str,
    body: String,
) -> Option<(StatusCode, bytes::Bytes)> {
    let request = Request::builder().method(method).uri(format!("/v1/cluster/layout{target}"));
    let request = request.body(Body::from(body)).ok()?;
    let (node, status, body) = members::ask_some_node(shared, request).await?;
    if status != StatusCode::OK {
        let said = String::from_utf8_lossy(&body);
        shared.say(format_args!("node {node}, layout{target}: {status} {said}"));
    }
    Some((status, body))
}

/// How many nodes have a vote in the control plane, as some node that is up says.
async fn voters(shared: &Shared) -> usize {
    #[derive(Deserialize)]
    struct Members {
        members: Vec<Member>,
    }
    #[derive(Deserialize)]
    struct Member {
        vote: bool,
    }
    loop {
        if let Ok(request) = Request::builder().uri("/v1/cluster/members").body(Body::empty())
            && let Some((_, StatusCode::OK, body)) = members::ask_some_node(shared, request).await
            && let Ok(members) = serde_json::from_slice::<Members>(&body)
        {
            return members.members.iter().filter(|member| member.vote).count();
        }
        shared.runtime.sleep(LOOK_AGAIN).await;
    }
}

/// The layout that a machine's node goes by, where that stands.
pub(super) fn standing(machine: &Machine) -> Option<LayoutStatus> {
    let running = machine.running()?;
    let layout = running.node.replicator().layout().now_or_never()?.ok()?;
    layout.change.is_none().then_some(layout)
}

/// Waits until all nodes go by one layout, and hold nothing of other partitions.
pub(super) async fn settle(world: &mut World) {
    let deadline = world.shared.runtime.now() + SETTLED_WITHIN;
    while let Some(problem) = unsettled(world) {
        if world.shared.runtime.now() >= deadline {
            return world.shared.broken("layout-unsettled", problem);
        }
        world.tick().await;
    }
}

/// Whether every node that holds partitions runs, and every member that has something left of others.
pub(super) fn all_can_be_reached(world: &World) -> bool {
    let live: BTreeSet<NodeId> = world
        .machines
        .iter()
        .filter(|machine| machine.running().is_some())
        .map(Machine::id)
        .collect();
    let known = world.machines.iter().find_map(standing);
    known.is_some_and(|layout| {
        let holders = layout.current.nodes.iter().map(|(node, ..)| *node);
        holders.chain(layout.departing).all(|node| live.contains(&node))
    })
}

fn unsettled(world: &World) -> Option<String> {
    let live: Vec<&Machine> =
        world.machines.iter().filter(|machine| machine.running().is_some()).collect();
    let mut known: Option<(NodeId, LayoutStatus)> = None;
    for machine in &live {
        let id = machine.id();
        let Some(layout) = standing(machine) else {
            return Some(format!("node {id} goes by a layout that changes, or by none"));
        };
        match &known {
            None => known = Some((id, layout)),
            Some((_, first)) if *first == layout => {}
            Some((other, _)) => {
                return Some(format!("nodes {other} and {id} go by different layouts"));
            }
        }
    }
    let (_, layout) = known?;
    let is_live = |node: &NodeId| live.iter().any(|machine| machine.id() == *node);
    if !layout.current.nodes.iter().all(|(node, ..)| is_live(node)) {
        // What a node holds no longer it keeps until all who do can be reached.
        return None;
    }
    live.iter().find_map(|machine| strays(machine, &layout))
}

fn strays(machine: &Machine, layout: &LayoutStatus) -> Option<String> {
    let (id, table) = (machine.id(), &machine.running()?.table);
    let (from, to) = rows::data_range();
    let keys = table.scan_keys(&from, &to, usize::MAX).ok()?;
    let stray = keys
        .iter()
        .filter_map(|row| rows::parse_data_row(row))
        .find(|(partition, _)| !layout.current.partitions[usize::from(partition.0)].contains(&id));
    stray.map(|(partition, key)| {
        format!("node {id} keeps {key} of partition {}, which it does not hold", partition.0)
    })
}
