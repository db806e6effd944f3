//! Handing leadership over in a simulated world, and what its answer must mean.

use std::time::Duration;

use super::machine::Running;
use super::world::Shared;
use crate::replication::RequestOptions;
use crate::types::NodeId;

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks a node to have leadership handed over, and holds its answer against what it knows then.
pub(super) fn ask(shared: &Shared, id: NodeId, running: &Running, to: Option<NodeId>) {
    let wanted = to.map_or("whoever is ready".to_owned(), |to| format!("node {to}"));
    shared.say(format_args!("node {id} is asked to have leadership handed to {wanted}"));
    let replicator = running.node.replicator();
    let deadline = running.runtime.now() + ANSWER_WITHIN;
    let options = RequestOptions {
        level: None,
        max_staleness: None,
        r: None,
        w: None,
        may_forward: true,
        deadline,
    };
    let shared = shared.clone();
    running.runtime.spawn(async move {
        match replicator.transfer(to, options).await {
            Ok(leader) => {
                shared.happened("transfer: done");
                shared.say(format_args!("node {id} says that node {leader} leads now"));
                let known = replicator.status().leader;
                if known != Some(leader) || to.is_some_and(|to| to != leader) {
                    let what = format!(
                        "node {id} said that leadership went to node {leader}, where {wanted} was \
                         to have it and {known:?} led"
                    );
                    shared.broken("transfer-not-done", what);
                }
            }
            Err(error) => {
                shared.happened("transfer: refused");
                shared.say(format_args!("node {id} hands nothing over: {error}"));
            }
        }
    });
}
