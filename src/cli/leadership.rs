//! `quorate cluster leader` and `quorate cluster transfer`.

use clap::Args;
use serde_json::json;

use super::Exit;
use super::client::{Common, Output, print_json, run, run_write};
use crate::client::{LeaderView, Options};
use crate::types::NodeId;

#[derive(Args)]
pub(super) struct LeaderArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct TransferArgs {
    /// The node that is to lead; the voter that has caught up furthest where not given
    #[arg(long, value_name = "ID")]
    to: Option<NodeId>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn leader(args: &LeaderArgs) -> Exit {
    run(&args.common, |client| async move {
        let view = client.leader().await?;
        show(&args.common, &view);
        Ok(if view.leader.is_some() { Exit::Done } else { Exit::NotFound })
    })
}

pub(super) fn transfer(args: &TransferArgs) -> Exit {
    let options = Options { timeout: args.common.timeout, ..Options::default() };
    run_write(&args.common, |client| async move {
        let view = client.transfer(args.to, &options).await?;
        show(&args.common, &view);
        Ok(Exit::Done)
    })
}

fn show(common: &Common, view: &LeaderView) {
    if common.output == Output::Json {
        return print_json(&json!({
            "leader": view.leader, "fixed_leader": view.fixed_leader, "term": view.term,
            "client": view.client,
        }));
    }
    let Some(leader) = view.leader else { return println!("no leader is known") };
    let client = view.client.as_deref().unwrap_or("unknown");
    let fixed = if view.fixed_leader.is_some() { ", fixed" } else { "" };
    println!("node {leader} leads (term {}{fixed}); clients reach it at {client}", view.term);
}
