//! `quorate cluster`: its commands, and `quorate cluster status`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::client::{Common, Output, print_json, run};
use super::{Exit, layout, leadership, members, repair};
use crate::client::{Client, ClusterView};

/// How long the other members may take to tell what they see.
const OTHERS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the cluster as one node sees it, and what each node thinks of the others
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
    /// Show which nodes hold which partitions, and plan and make changes (leaderless mode)
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
        let others = views_of_others(&view).await;
        match args.common.output {
            Output::Json => print_json(&status_json(&view, &others)),
            Output::Text => print_status(&view, &others),
        }
        Ok(Exit::Done)
    })
}

/// What the other members that tell it see; `None` of one that was not heard in time.
type Views = BTreeMap<u16, Option<ClusterView>>;

async fn views_of_others(view: &ClusterView) -> Views {
    let ask = async |id: u16, address: Option<String>| {
        let client = Client::new(address.as_slice()).ok()?;
        let seen = client.cluster_status_within(OTHERS_WITHIN).await.ok();
        seen.filter(|seen| seen.node == id)
    };
    let others = view.members.iter().filter(|member| member.id != view.node);
    let asked = others.map(|member| {
        let (id, address) = (member.id, member.client.clone());
        async move { (id, ask(id, address).await) }
    });
    join_all(asked).await.into_iter().collect()
}

/// What each node that was heard thinks of a member, itself not counted.
fn seen_by(view: &ClusterView, others: &Views, member: u16) -> BTreeMap<u16, Option<String>> {
    let heard = others.iter().map(|(node, seen)| (*node, seen.as_ref()));
    let all = heard.chain([(view.node, Some(view))]).filter(|(node, _)| *node != member);
    let state = |seen: &ClusterView| {
        let found = seen.members.iter().find(|one| one.id == member);
        found.map_or("no member".to_owned(), |found| found.state.clone())
    };
    all.map(|(node, seen)| (node, seen.map(state))).collect()
}

fn status_json(view: &ClusterView, others: &Views) -> Value {
    let members: Vec<Value> = view
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.id, "peer": member.peer, "client": member.client,
                "role": member.role, "state": member.state,
                "seen_by": seen_by(view, others, member.id),
            })
        })
        .collect();
    json!({
        "cluster_id": view.cluster_id, "mode": view.mode, "epoch": view.epoch, "node": view.node,
        "leader": view.leader, "term": view.term, "applied_index": view.applied_index,
        "members": members,
    })
}

fn print_status(view: &ClusterView, others: &Views) {
    let unknown = || "unknown".to_owned();
    println!("cluster  {}", view.cluster_id.clone().unwrap_or_else(unknown));
    println!("mode     {}", view.mode);
    let leader = view.leader.map_or_else(unknown, |id| format!("node {id}"));
    println!("leader   {leader} (term {}, as node {} sees it)", view.term, view.node);
    println!(
        "{:<6} {:<9} {:<12} {:<24} {:<24} seen by",
        "node", "role", "state", "clients", "peers"
    );
    for member in &view.members {
        let client = member.client.clone().unwrap_or_else(unknown);
        let seen_by = seen_by(view, others, member.id).into_iter().map(|(node, state)| {
            format!("{node}: {}", state.unwrap_or_else(|| "no answer".to_owned()))
        });
        println!(
            "{:<6} {:<9} {:<12} {client:<24} {:<24} {}",
            member.id,
            member.role,
            member.state,
            member.peer,
            seen_by.collect::<Vec<_>>().join(", ")
        );
    }
}
