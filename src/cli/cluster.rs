//! `quorate cluster`: its commands, and `quorate cluster status`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Common, Output, print_json, run};
use super::{Exit, layout, leadership, members, repair};
use crate::client::ClusterView;

#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the cluster as one node sees it
    Status(StatusArgs),
    /// Show who leads
    Leader(leadership::LeaderArgs),
    /// Hand leadership over to another node
    Transfer(leadership::TransferArgs),
    /// Show who is of the cluster
    Members(members::MembersArgs),
    /// Add a node, as a learner
    Add(members::AddArgs),
    /// Give a learner that has caught up a vote
    Promote(members::OneArgs),
    /// Remove a node for good
    Remove(members::OneArgs),
    /// Give the vote of a node, which leaves, to a learner that has caught up
    Replace(members::ReplaceArgs),
    /// Compare all replicas now, and bring each what it lacks
    Repair(repair::RepairArgs),
    /// Show which nodes hold which partitions, and plan a change (leaderless mode)
    #[command(subcommand)]
    Layout(layout::LayoutCommand),
}

#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    common: Common,
}

pub(super) fn cluster(command: &ClusterCommand) -> Exit {
    match command {
        ClusterCommand::Status(args) => status(args),
        ClusterCommand::Leader(args) => leadership::leader(args),
        ClusterCommand::Transfer(args) => leadership::transfer(args),
        ClusterCommand::Members(args) => members::members(args),
        ClusterCommand::Add(args) => members::add(args),
        ClusterCommand::Promote(args) => members::promote(args),
        ClusterCommand::Remove(args) => members::remove(args),
        ClusterCommand::Replace(args) => members::replace(args),
        ClusterCommand::Repair(args) => repair::repair(args),
        ClusterCommand::Layout(command) => layout::layout(command),
    }
}

fn status(args: &StatusArgs) -> Exit {
    run(&args.common, |client| async move {
        let view = client.cluster_status().await?;
        match args.common.output {
            Output::Json => print_json(&status_json(&view)),
            Output::Text => print_status(&view),
        }
        Ok(Exit::Done)
    })
}

fn status_json(view: &ClusterView) -> Value {
    let members: Vec<Value> = view
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.id, "peer": member.peer, "client": member.client,
                "role": member.role, "state": member.state,
            })
        })
        .collect();
    json!({
        "cluster_id": view.cluster_id, "mode": view.mode, "epoch": view.epoch, "node": view.node,
        "leader": view.leader, "term": view.term, "applied_index": view.applied_index,
        "members": members,
    })
}

fn print_status(view: &ClusterView) {
    let unknown = || "unknown".to_owned();
    println!("cluster  {}", view.cluster_id.clone().unwrap_or_else(unknown));
    println!("mode     {}", view.mode);
    let leader = view.leader.map_or_else(unknown, |id| format!("node {id}"));
    println!("leader   {leader} (term {}, as node {} sees it)", view.term, view.node);
    println!("{:<6} {:<9} {:<12} {:<24} peers", "node", "role", "state", "clients");
    for member in &view.members {
        let client = member.client.clone().unwrap_or_else(unknown);
        println!(
            "{:<6} {:<9} {:<12} {client:<24} {}",
            member.id, member.role, member.state, member.peer
        );
    }
}
