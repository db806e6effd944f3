//! `quorate cluster layout show`, `plan`, `apply` and `cancel`: which nodes hold which partitions, what a
//! change would move, and making it.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Exit;
use super::client::{Common, Output, print_json, run, run_write, spinner};
use crate::client::{
    Client, ClientError, LayoutChangeView, LayoutNodeView, LayoutPlanView, LayoutView,
};
use crate::runtime::Runtime;
use crate::types::NodeId;

/// How often it is asked how far a change is.
const POLL: Duration = Duration::from_millis(300);

/// How long those that gave partitions away are waited for, once the layout stands: one that is gone never
/// says that it is done.
const DEPART_WITHIN: Duration = Duration::from_secs(60);

/// How often in a row a node may not answer while a change is waited for.
const MAX_SILENCES: usize = 20;

#[derive(Subcommand)]
pub(super) enum LayoutCommand {
    /// Show which nodes hold how many partitions
    Show(ShowArgs),
    /// Show what would move if nodes came, left, or changed their weights and zones; changes nothing
    Plan(PlanArgs),
    /// Move partitions as `plan` says, while everything goes on, and wait until that is done
    Apply(ApplyArgs),
    /// Take a change back that is under way
    Cancel(ShowArgs),
}

#[derive(Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    wanted: Wanted,
    /// Return once the change has begun; `show` says how far it is
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    common: Common,
}

/// How the layout is to differ from the one that stands.
#[derive(Args)]
struct Wanted {
    /// Nodes that are to hold partitions too
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    add: Vec<NodeId>,
    /// Nodes that are to hold none any more
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    remove: Vec<NodeId>,
    /// How much a node takes, beside the others, such as 4=2
    #[arg(long, value_name = "ID=WEIGHT,...", value_delimiter = ',', value_parser = pair::<u32>)]
    weight: Vec<(NodeId, u32)>,
    /// Where a node is: replicas of a partition are kept in different zones, such as 4=cellar
    #[arg(long, value_name = "ID=ZONE,...", value_delimiter = ',', value_parser = pair::<String>)]
    zone: Vec<(NodeId, String)>,
}

fn pair<T: std::str::FromStr>(text: &str) -> Result<(NodeId, T), String> {
    let expected = || format!("'{text}': expected a node's id, '=', and a value, such as 4=2");
    let (node, value) = text.split_once('=').ok_or_else(expected)?;
    let node = node.parse().map_err(|_| expected())?;
    Ok((node, value.parse().map_err(|_| expected())?))
}

pub(super) fn layout(command: &LayoutCommand) -> Exit {
    match command {
        LayoutCommand::Show(args) => run(&args.common, |client| async move {
            show(&args.common, &client.layout().await?);
            Ok(Exit::Done)
        }),
        LayoutCommand::Plan(args) => run(&args.common, |client| async move {
            let nodes = nodes_of(client.layout().await?.nodes, &args.wanted)?;
            show_plan(&args.common, &client.plan_layout(&nodes).await?);
            Ok(Exit::Done)
        }),
        LayoutCommand::Apply(args) => run_write(&args.common, |client| async move {
            let nodes = nodes_of(client.layout().await?.nodes, &args.wanted)?;
            let mut view = client.apply_layout(&nodes).await?;
            if !args.no_wait {
                view = wait(&client, view).await?;
            }
            show(&args.common, &view);
            Ok(Exit::Done)
        }),
        LayoutCommand::Cancel(args) => run_write(&args.common, |client| async move {
            show(&args.common, &client.cancel_layout().await?);
            Ok(Exit::Done)
        }),
    }
}

/// Waits until the layout stands, and says how far it is; an interrupt ends the waiting, not the change.
async fn wait(client: &Client, mut view: LayoutView) -> Result<LayoutView, ClientError> {
    let bar = spinner();
    let (runtime, mut silences) = (Runtime::real(), 0);
    let mut departing_for = Duration::ZERO;
    while view.change.is_some() || (!view.departing.is_empty() && departing_for < DEPART_WITHIN) {
        match &view.change {
            Some(change) => bar.set_message(progress(change)),
            None => {
                departing_for += POLL;
                bar.set_message(departing(&view.departing));
            }
        }
        bar.tick();
        runtime.sleep(POLL).await;
        match client.layout().await {
            Ok(now) => (view, silences) = (now, 0),
            Err(_) if silences < MAX_SILENCES => silences += 1,
            Err(error) => return Err(error),
        }
    }
    bar.finish_and_clear();
    Ok(view)
}

fn departing(nodes: &[u16]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u16::to_string).collect();
    format!("node {} still brings others what it held", nodes.join(", "))
}

fn progress(change: &LayoutChangeView) -> String {
    let sum = |of: fn(&crate::client::LayoutProgressView) -> u64| -> u64 {
        change.progress.iter().map(of).sum()
    };
    let (proven, partitions) = (sum(|it| it.proven), sum(|it| it.partitions));
    let done = change.progress.iter().filter(|node| node.done).count();
    let (records, mib) = (sum(|it| it.records), sum(|it| it.bytes) >> 20);
    format!(
        "{}: {proven} of {partitions} replicas, {done} of {} nodes done, {records} records \
         ({mib} MiB) moved",
        change.step,
        change.progress.len()
    )
}

fn nodes_of(
    nodes: Vec<LayoutNodeView>,
    wanted: &Wanted,
) -> Result<Vec<LayoutNodeView>, ClientError> {
    self::wanted(nodes, wanted).map_err(|problem| ClientError::BadRequest { problem })
}

/// The nodes that there would be.
fn wanted(mut nodes: Vec<LayoutNodeView>, args: &Wanted) -> Result<Vec<LayoutNodeView>, String> {
    for id in &args.remove {
        let before = nodes.len();
        nodes.retain(|node| node.id != id.0);
        if nodes.len() == before {
            return Err(format!("node {id} holds no partitions: it cannot be removed"));
        }
    }
    for id in &args.add {
        if nodes.iter().any(|node| node.id == id.0) {
            return Err(format!("node {id} holds partitions already"));
        }
        nodes.push(LayoutNodeView { id: id.0, weight: 1, zone: None, holds: 0 });
    }
    let unknown = |id: &NodeId| format!("node {id} would hold no partitions: add it first");
    for (id, weight) in &args.weight {
        let node = nodes.iter_mut().find(|node| node.id == id.0).ok_or_else(|| unknown(id))?;
        node.weight = *weight;
    }
    for (id, zone) in &args.zone {
        let node = nodes.iter_mut().find(|node| node.id == id.0).ok_or_else(|| unknown(id))?;
        node.zone = Some(zone.clone());
    }
    Ok(nodes)
}

fn show(common: &Common, view: &LayoutView) {
    if common.output == Output::Json {
        return print_json(&json!(view));
    }
    let (partitions, replicas) = (view.partitions.len(), view.replicas);
    println!("epoch {}: {partitions} partitions, {replicas} replicas each", view.epoch);
    println!("{:<6} {:>6} {:>10}  zone", "node", "weight", "partitions");
    for node in &view.nodes {
        let zone = node.zone.as_deref().unwrap_or("-");
        println!("{:<6} {:>6} {:>10}  {zone}", node.id, node.weight, node.holds);
    }
    if !view.departing.is_empty() {
        println!("{}", departing(&view.departing));
    }
    let Some(change) = &view.change else { return };
    println!("changing: {}", progress(change));
    println!("{:<6} {:>10} {:>10}", "node", "to hold", "has");
    for node in &change.nodes {
        let progress = change.progress.iter().find(|progress| progress.id == node.id);
        let has = progress
            .map_or_else(|| "-".to_owned(), |it| format!("{}/{}", it.proven, it.partitions));
        let why = progress.and_then(|it| it.waits_for.as_deref()).unwrap_or_default();
        println!("{:<6} {:>10} {has:>10}  {why}", node.id, node.holds);
    }
}

fn show_plan(common: &Common, plan: &LayoutPlanView) {
    if common.output == Output::Json {
        return print_json(&json!(plan));
    }
    let replicas = plan.replicas;
    println!("{} replicas of partitions would move; {replicas} replicas each", plan.moves);
    println!("{:<6} {:>6} {:>10} {:>9}", "node", "holds", "would hold", "receives");
    for node in &plan.nodes {
        println!("{:<6} {:>6} {:>10} {:>9}", node.id, node.holds, node.will_hold, node.receives);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(add: &[u16], remove: &[u16], weight: &[(u16, u32)]) -> Wanted {
        Wanted {
            add: add.iter().copied().map(NodeId).collect(),
            remove: remove.iter().copied().map(NodeId).collect(),
            weight: weight.iter().map(|(id, weight)| (NodeId(*id), *weight)).collect(),
            zone: Vec::new(),
        }
    }

    fn nodes() -> Vec<LayoutNodeView> {
        (1..=3).map(|id| LayoutNodeView { id, weight: 1, zone: None, holds: 256 }).collect()
    }

    #[test]
    fn a_plan_is_of_the_nodes_that_there_would_be() {
        let planned = wanted(nodes(), &args(&[4], &[1], &[(4, 2)])).expect("nodes");
        let shown: Vec<_> = planned.iter().map(|node| (node.id, node.weight)).collect();
        assert_eq!(shown, [(2, 1), (3, 1), (4, 2)]);
        for bad in [args(&[2], &[], &[]), args(&[], &[9], &[]), args(&[], &[], &[(9, 1)])] {
            assert!(wanted(nodes(), &bad).is_err());
        }
    }

    #[test]
    fn pairs_of_a_node_and_a_value_are_read_or_explained() {
        assert_eq!(pair::<u32>("4=2"), Ok((NodeId(4), 2)));
        for bad in ["4", "=2", "x=2", "4=x", "0=1"] {
            assert!(pair::<u32>(bad).is_err_and(|problem| problem.contains("4=2")), "{bad}");
        }
    }
}
