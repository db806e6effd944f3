//! `quorate cluster repair`: every node compared with every other, one after the other.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::client::{Common, Output, print_json, run, spinner};
use super::{Exit, complain};
use crate::client::{Client, ClientError, RepairView};
use crate::runtime::Runtime;

/// How often a node is asked how far it is.
const POLL: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    common: Common,
}

pub(super) fn repair(args: &RepairArgs) -> Exit {
    run(&args.common, |client| async move {
        let members = client.members().await?.members;
        let mut whole = true;
        for member in members {
            let Some(address) = member.client else {
                complain(format!("node {}: its client address is not known", member.id));
                whole = false;
                continue;
            };
            match one(&Client::new([&address])?, member.id).await {
                Ok(view) => whole &= show(&args.common, &view),
                // What is not offered here is not offered by any of them.
                Err(error) if error.status() == Some(501) => return Err(error),
                Err(error) => {
                    complain(format!("node {}: {error}", member.id));
                    whole = false;
                }
            }
        }
        Ok(if whole { Exit::Done } else { Exit::Failed })
    })
}

/// Repairs one node, and says how far it is.
async fn one(client: &Client, node: u16) -> Result<RepairView, ClientError> {
    let bar = spinner();
    let runtime = Runtime::real();
    let mut view = client.start_repair().await?;
    while view.running {
        bar.set_message(format!("node {node}: {}", progress(&view)));
        bar.tick();
        runtime.sleep(POLL).await;
        view = client.repair_status().await?;
    }
    bar.finish_and_clear();
    Ok(view)
}

fn progress(view: &RepairView) -> String {
    let done = view.peers.iter().filter(|peer| peer.state == "done").count();
    let all = view.peers.len();
    let compared: u64 = view.peers.iter().map(|peer| peer.compared_partitions).sum();
    let differing: u64 = view.peers.iter().map(|peer| peer.differing_partitions).sum();
    let repaired: u64 = view.peers.iter().map(|peer| peer.repaired_records).sum();
    format!(
        "compared with {done} of {all} nodes, {compared} of {differing} partitions that differ, \
         {repaired} records repaired"
    )
}

/// Prints what came of it; whether all of it was done.
fn show(common: &Common, view: &RepairView) -> bool {
    let failed: Vec<_> = view.peers.iter().filter(|peer| peer.state != "done").collect();
    if common.output == Output::Json {
        print_json(&json!(view));
    } else {
        println!("node {}: {}", view.node, progress(view));
        for peer in &failed {
            let reason = peer.error.as_deref().unwrap_or("it was not compared with");
            println!("  node {}: {reason}", peer.node);
        }
    }
    failed.is_empty()
}
