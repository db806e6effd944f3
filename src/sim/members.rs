//! Members of a simulated cluster come, get votes, are replaced and leave, while everything else goes
//! on; and what must be true of that in the end.
//!
//! Each change is an operator who asks through whichever node is up, and asks again until the change
//! is made or refused for good. Who lost its disk cannot come back under its id, so mostly it is the
//! one that is replaced; a newcomer that loses its own before it has a vote is removed again. In the end every change must be over, every removed node must have
//! stopped, and the others must agree on who is a member.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode};

use super::layouts;
use super::losses::Votes;
use super::machine::{Machine, Process};
use super::plan::Fault;
use super::request::{Answer, Patience, send};
use super::world::{Shared, World};
use crate::replication::ClusterStatus;
use crate::types::{Mode, NodeId};

/// The most machines that are not removed at a time.
const MOST_MACHINES: usize = 6;

/// Voters below which no more are removed.
const LEAST_VOTERS: usize = 3;

/// How many of a hundred times the one that leaves is one that lost its disk, where there is one.
const LOST_LEAVES: u64 = 60;

/// How long an operator waits for an answer, and before it asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Changes that are under way must be over within this time of healing.
const OVER_WITHIN: Duration = Duration::from_secs(90);

/// The nodes that are left must agree on who is a member within this time after that.
const AGREED_WITHIN: Duration = Duration::from_secs(20);

/// What is known of the changes of a world.
#[derive(Default)]
pub(super) struct Changes {
    pub under_way: usize,
    /// Nodes whose removal was asked for: they may stop themselves from then on.
    pub leaving: BTreeSet<NodeId>,
    /// Nodes of which an answer said that they are removed: they must stop.
    pub removed: BTreeSet<NodeId>,
}

/// One request of an operator.
pub(super) struct Ask {
    method: Method,
    target: String,
    body: String,
    /// What it is called among the things that happened.
    name: &'static str,
    /// What it does to the votes.
    votes: Option<Votes>,
}

impl Ask {
    pub(super) fn add(node: NodeId) -> Ask {
        let body = format!("{{\"id\":{node},\"peer\":\"{}\"}}", address_of(node));
        let (method, target) = (Method::POST, String::new());
        Ask { method, target, body, name: "members: added", votes: None }
    }

    pub(super) fn promote(node: NodeId) -> Ask {
        let (target, body) = (format!("/{node}/promote"), String::new());
        let votes = Some(Votes::Gain(node));
        Ask { method: Method::POST, target, body, name: "members: promoted", votes }
    }

    pub(super) fn remove(node: NodeId) -> Ask {
        let (target, body) = (format!("/{node}"), String::new());
        let votes = Some(Votes::Lose(node));
        Ask { method: Method::DELETE, target, body, name: "members: removed", votes }
    }

    fn replace(node: NodeId, with: NodeId) -> Ask {
        let (target, body) = (format!("/{node}/replace"), format!("{{\"with\":{with}}}"));
        let votes = Some(Votes::Pass(node, with));
        Ask { method: Method::POST, target, body, name: "members: replaced", votes }
    }

    fn request(&self) -> Option<Request<Body>> {
        let target = format!("/v1/cluster/members{}", self.target);
        let request = Request::builder().method(self.method.clone()).uri(target);
        request.body(Body::from(self.body.clone())).ok()
    }
}

/// Where a machine's peers are told to reach it; the wires go by ids.
pub(super) fn address_of(node: NodeId) -> String {
    format!("node{node}:8001")
}

/// Begins a change of the members; false where there can be none now.
pub(super) fn begin(world: &mut World, fault: Fault) -> bool {
    let shared = world.shared.clone();
    if shared.changes().under_way > 0 {
        return false;
    }
    let Some(status) = known_status(world) else { return false };
    if shared.plan.mode == Mode::Leaderless {
        let machines = world.machines.iter().filter(|machine| is_of_use(&shared, machine)).count();
        let is_full = machines >= MOST_MACHINES && fault != Fault::Shrink;
        return !is_full && layouts::begin(world, fault, &status);
    }
    let machines = world.machines.iter().filter(|machine| is_of_use(&shared, machine)).count();
    let voters = status.members.iter().filter(|member| member.role == "voter").count();
    let members: Vec<NodeId> = status.members.iter().map(|member| member.id).collect();
    let one = who_leaves(&shared, &members);
    let (asks, newcomer) = match fault {
        Fault::Grow if machines < MOST_MACHINES => {
            let Some(node) = enlist(world, &status) else { return false };
            (vec![Ask::add(node), Ask::promote(node)], Some(node))
        }
        Fault::Replace if machines < MOST_MACHINES => {
            let Some(node) = enlist(world, &status) else { return false };
            shared.changes().leaving.insert(one);
            (vec![Ask::add(node), Ask::replace(one, node)], Some(node))
        }
        Fault::Shrink if voters > LEAST_VOTERS => {
            shared.changes().leaving.insert(one);
            (vec![Ask::remove(one)], None)
        }
        _ => return false,
    };
    let leaves = (fault != Fault::Grow).then_some(one);
    shared.say(format_args!("{}, {}", fault.name(), leaves.map_or(0, |one| one.0)));
    shared.changes().under_way += 1;
    let runtime = shared.runtime.clone();
    drop(runtime.spawn(async move {
        let done = carry_out(&shared, asks, newcomer).await;
        if let Some(one) = leaves.filter(|_| done) {
            shared.changes().removed.insert(one);
            if shared.losses().is_lost(one) {
                shared.happened("members: one without its disk left");
            }
        }
        if let Some(newcomer) = newcomer.filter(|node| !done && shared.losses().is_lost(*node)) {
            give_up(&shared, newcomer).await;
        }
        shared.changes().under_way -= 1;
    }));
    true
}

/// Whether a machine counts among those that a world has at most.
fn is_of_use(shared: &Shared, machine: &Machine) -> bool {
    !machine.is_removed() && !shared.changes().removed.contains(&machine.id())
}

/// The member that is to leave: mostly one that lost its disk, where there is one.
pub(super) fn who_leaves(shared: &Shared, members: &[NodeId]) -> NodeId {
    let one_of = |nodes: &[NodeId]| nodes[shared.runtime.random_below(nodes.len() as u64) as usize];
    let lost: Vec<NodeId> =
        members.iter().copied().filter(|node| shared.losses().is_lost(*node)).collect();
    let picks_lost = !lost.is_empty() && shared.runtime.random_below(100) < LOST_LEAVES;
    one_of(if picks_lost { &lost } else { members })
}

/// Whether a node that is up knows `node` for a voter, or for one that holds partitions.
pub(super) fn has_a_vote(world: &World, node: NodeId) -> bool {
    let status = known_status(world);
    let mut members = status.iter().flat_map(|status| &status.members);
    members.any(|member| member.id == node && member.role != "learner")
}

/// The cluster as some node that is up sees it, where that has members.
fn known_status(world: &World) -> Option<ClusterStatus> {
    let up = world.machines.iter().filter_map(|machine| machine.running());
    let mut statuses = up.map(|running| running.node.replicator().status());
    statuses.rfind(|status| status.cluster.is_some() && !status.members.is_empty())
}

/// A new machine, whose node knows what one that joins is told.
pub(super) fn enlist(world: &mut World, status: &ClusterStatus) -> Option<NodeId> {
    let shared = world.shared.clone();
    let node = NodeId(shared.add_node());
    let known = status.members.iter().map(|member| member.id);
    let seed = shared.runtime.random_u64();
    let mut machine = Machine::joining(&shared.plan, node, seed, known, status.cluster?);
    machine.process = Process::Down(Some(shared.runtime.now()));
    world.machines.push(machine);
    Some(node)
}

/// Asks for one thing after the other; false where one was refused for good, would leave too few
/// voters with their disks, or waits in vain for a newcomer that lost its own.
pub(super) async fn carry_out(shared: &Shared, asks: Vec<Ask>, newcomer: Option<NodeId>) -> bool {
    for ask in asks {
        if ask.votes.is_some_and(|votes| !shared.losses().begin(votes)) {
            shared.happened("members: not asked for, with the disks that are lost");
            return false;
        }
        loop {
            match one_answer(shared, &ask).await {
                Some(true) => break,
                Some(false) => return false,
                None if newcomer.is_some_and(|node| shared.losses().is_lost(node)) => return false,
                None => shared.runtime.sleep(ASK_AGAIN).await,
            }
        }
        if let Some(votes) = ask.votes {
            shared.losses().end(votes);
        }
        shared.happened(ask.name);
    }
    true
}

/// Removes a node again that lost its disk before it was of use.
pub(super) async fn give_up(shared: &Shared, newcomer: NodeId) {
    shared.say(format_args!("node {newcomer} lost its disk, and is given up"));
    shared.changes().leaving.insert(newcomer);
    let removed = carry_out(shared, vec![Ask::remove(newcomer)], None).await;
    // Where nobody has heard of it, it runs on: it is let in, so that it is told to go.
    let told = vec![Ask::add(newcomer), Ask::remove(newcomer)];
    if removed || carry_out(shared, told, None).await {
        shared.changes().removed.insert(newcomer);
        shared.happened("members: a newcomer without its disk given up");
    }
}

/// Asks some node that is up, as an operator does; who it was, and what it answered.
pub(super) async fn ask_some_node(
    shared: &Shared,
    request: Request<Body>,
) -> Option<(NodeId, StatusCode, bytes::Bytes)> {
    let up: Vec<NodeId> = shared.routers.lock().keys().copied().collect();
    let place = shared.runtime.random_below(up.len().max(1) as u64) as usize;
    let node = *up.get(place)?;
    let patience = Patience { wait: ANSWER_WITHIN, hangs_up: false };
    match send(shared, node, request, patience).await {
        Answer::Got { status, body, .. } => Some((node, status, body)),
        _ => None,
    }
}

/// Asks some node: whether it was done, or refused for good; `None` where it is to be asked again.
pub(super) async fn one_answer(shared: &Shared, ask: &Ask) -> Option<bool> {
    let (node, status, body) = ask_some_node(shared, ask.request()?).await?;
    let said = String::from_utf8_lossy(&body);
    shared.say(format_args!("node {node} answers {} {}: {status} {said}", ask.method, ask.target));
    match status {
        StatusCode::OK => Some(true),
        StatusCode::CONFLICT | StatusCode::NOT_FOUND => {
            let quorum = said.contains("would-lose-quorum");
            shared.happened(match quorum {
                true => "members: refused for the quorum",
                false => "members: refused",
            });
            Some(false)
        }
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS => None,
        other => {
            let what = format!("{} {} was answered {other}: {said}", ask.method, ask.target);
            shared.broken("members-answer", what);
            Some(false)
        }
    }
}

/// Waits until every change is over, once all faults are.
pub(super) async fn finish(world: &mut World) {
    let deadline = world.shared.runtime.now() + OVER_WITHIN;
    while world.shared.changes().under_way > 0 {
        if world.shared.runtime.now() >= deadline {
            let what = "a change of the members is neither made nor refused after healing";
            return world.shared.broken("members-not-changed", what.to_owned());
        }
        world.tick().await;
    }
}

/// The first machine whose node was removed and has not stopped.
pub(super) fn lingering(world: &World) -> Option<NodeId> {
    let changes = world.shared.changes();
    let mut lingering = world
        .machines
        .iter()
        .filter(|machine| changes.removed.contains(&machine.id()) && !machine.is_removed())
        .filter(|machine| !matches!(machine.process, Process::Refused));
    lingering.next().map(Machine::id)
}

/// Waits until the nodes that are left agree on who is a member, none of them removed.
pub(super) async fn agree(world: &mut World) {
    let deadline = world.shared.runtime.now() + AGREED_WITHIN;
    while let Some(difference) = disagreement(world) {
        if world.shared.runtime.now() >= deadline {
            return world.shared.broken("members-differ", difference);
        }
        world.tick().await;
    }
}

fn disagreement(world: &World) -> Option<String> {
    let removed = world.shared.changes().removed.clone();
    let mut first: Option<(NodeId, Vec<(NodeId, &'static str)>)> = None;
    for machine in &world.machines {
        let Some(running) = machine.running() else { continue };
        let (id, status) = (machine.id(), running.node.replicator().status());
        let members: Vec<_> = status.members.iter().map(|it| (it.id, it.role)).collect();
        if let Some((gone, _)) = members.iter().find(|(member, _)| removed.contains(member)) {
            return Some(format!("node {id} takes node {gone}, which was removed, for a member"));
        }
        match &first {
            None => first = Some((id, members)),
            Some((_, known)) if *known == members => {}
            Some((other, known)) => {
                return Some(format!("node {other} knows {known:?}, node {id} {members:?}"));
            }
        }
    }
    None
}
