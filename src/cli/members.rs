//! `quorate cluster members`, `add`, `promote`, `remove` and `replace`.

use clap::Args;
use serde_json::json;

use super::Exit;
use super::client::{Common, Output, print_json, run, run_write};
use crate::client::{MembersView, Options};
use crate::types::NodeId;

#[derive(Args)]
pub(super) struct MembersArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct AddArgs {
    /// The new node's id: never one that was a member's before
    id: NodeId,
    /// Where the other nodes reach the new node
    #[arg(value_name = "HOST:PORT")]
    peer: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct OneArgs {
    /// The node's id
    id: NodeId,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct ReplaceArgs {
    /// The node that leaves
    id: NodeId,
    /// The learner that gets its vote
    #[arg(long, value_name = "ID")]
    with: NodeId,
    #[command(flatten)]
    common: Common,
}

pub(super) fn members(args: &MembersArgs) -> Exit {
    run(&args.common, |client| async move {
        show(&args.common, &client.members().await?);
        Ok(Exit::Done)
    })
}

pub(super) fn add(args: &AddArgs) -> Exit {
    run_write(&args.common, |client| async move {
        let options = options(&args.common);
        show(&args.common, &client.add_member(args.id, &args.peer, &options).await?);
        Ok(Exit::Done)
    })
}

pub(super) fn promote(args: &OneArgs) -> Exit {
    run_write(&args.common, |client| async move {
        show(&args.common, &client.promote_member(args.id, &options(&args.common)).await?);
        Ok(Exit::Done)
    })
}

pub(super) fn remove(args: &OneArgs) -> Exit {
    run_write(&args.common, |client| async move {
        show(&args.common, &client.remove_member(args.id, &options(&args.common)).await?);
        Ok(Exit::Done)
    })
}

pub(super) fn replace(args: &ReplaceArgs) -> Exit {
    run_write(&args.common, |client| async move {
        let options = options(&args.common);
        show(&args.common, &client.replace_member(args.id, args.with, &options).await?);
        Ok(Exit::Done)
    })
}

fn options(common: &Common) -> Options {
    Options { timeout: common.timeout, ..Options::default() }
}

fn show(common: &Common, view: &MembersView) {
    if common.output == Output::Json {
        return print_json(&json!({ "members": view.members, "removed": view.removed }));
    }
    for member in &view.members {
        let client = member.client.as_deref().unwrap_or("unknown");
        // In leaderless mode the vote is one in the control plane.
        let vote = if member.role == "replica" && member.vote { " with a vote" } else { "" };
        println!(
            "node {}: {}{vote}, {}; peers {}, clients {client}",
            member.id, member.role, member.state, member.peer
        );
    }
    if !view.removed.is_empty() {
        let ids = view.removed.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        println!("removed, ids never used again: {ids}");
    }
}
