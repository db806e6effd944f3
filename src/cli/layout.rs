//! `quorate cluster layout show` and `plan`: which nodes hold which partitions, and what a change would move.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Exit;
use super::client::{Common, Output, print_json, run};
use crate::client::{ClientError, LayoutNodeView, LayoutPlanView, LayoutView};
use crate::types::NodeId;

#[derive(Subcommand)]
pub(super) enum LayoutCommand {
    /// Show which nodes hold how many partitions
    Show(ShowArgs),
    /// Show what would move if nodes came, left, or changed their weights and zones; changes nothing
    Plan(PlanArgs),
}

#[derive(Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct PlanArgs {
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
    #[command(flatten)]
    common: Common,
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
            let nodes = wanted(client.layout().await?.nodes, args)
                .map_err(|problem| ClientError::BadRequest { problem })?;
            show_plan(&args.common, &client.plan_layout(&nodes).await?);
            Ok(Exit::Done)
        }),
    }
}

/// The nodes that there would be.
fn wanted(mut nodes: Vec<LayoutNodeView>, args: &PlanArgs) -> Result<Vec<LayoutNodeView>, String> {
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

    fn args(add: &[u16], remove: &[u16], weight: &[(u16, u32)]) -> PlanArgs {
        PlanArgs {
            add: add.iter().copied().map(NodeId).collect(),
            remove: remove.iter().copied().map(NodeId).collect(),
            weight: weight.iter().map(|(id, weight)| (NodeId(*id), *weight)).collect(),
            zone: Vec::new(),
            common: Common::default(),
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
