//! What each node holds of a key, and what reads of each level would return.

use super::{Group, Leader, damaged, refuse_replica_counts, table_refusal};
use crate::error::ReadError;
use crate::peer::Inbound;
use crate::replication::RequestOptions;
use crate::replication::explain::{self, Asking, Explanation, Holding, NextRead, ReplicaView};
use crate::storage::rows;
use crate::storage::table::on_a_task;
use crate::types::{EffectiveLevel, Key, NodeId, Version};

impl<G: Group> Leader<G> {
    pub(super) async fn explain_key(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> Result<Explanation, ReadError> {
        refuse_replica_counts(&options)?;
        let context = &self.context;
        let status = context.group.status();
        let asking = Asking {
            runtime: &context.runtime,
            transport: &context.transport,
            own: context.node,
            epoch: None,
            deadline: options.deadline,
        };
        let own = self.holding(&key).map_err(|error| error.to_string());
        let members = &status.members.nodes;
        let replicas = asking.all(&key, members.keys().copied(), own).await;
        let voters = || members.iter().filter(|(_, facts)| facts.voter).map(|(node, _)| *node);
        let up = |node: &NodeId| *node == context.node || context.transport.is_connected(*node);
        let has_majority = voters().filter(up).count() > voters().count() / 2;
        let reads = next_reads(&replicas, context.node, status.leader, has_majority);
        // A record whose time is over is there until the log says so.
        let now_ms = 0;
        Ok(Explanation { partition: key.partition(), replicas, reads, now_ms })
    }

    /// What this node's table holds of a key.
    fn holding(&self, key: &Key) -> Result<Holding, ReadError> {
        let installs = self.context.whole_table()?;
        // Before the row, so that the row is at least as new as it says.
        let applied_index = Some(self.context.group.status().applied_index);
        let table = &*self.context.table;
        let row = on_a_task(table, || table.get(&rows::data_row(key))).map_err(table_refusal)?;
        self.context.still_whole(installs)?;
        let head = row.as_ref().map(explain::head).transpose();
        Ok(Holding { head: head.map_err(|error| damaged(key, &error))?, applied_index })
    }

    /// Answers a peer that asks what this node holds of a key.
    pub(super) fn take_inspect(&self, inbound: Inbound) {
        let Inbound { body, reply, .. } = inbound;
        let held = explain::key(&body)
            .and_then(|key| self.holding(&key).map_err(|error| error.to_string()));
        match held.and_then(|holding| explain::encode(&holding)) {
            Ok(body) => reply.send(body),
            Err(reason) => reply.refuse(reason),
        }
    }
}

/// What reads through the node `own` would return.
fn next_reads(
    replicas: &[ReplicaView],
    own: NodeId,
    leader: Option<NodeId>,
    has_majority: bool,
) -> Vec<NextRead> {
    let of_leader = match leader {
        None => Err("no leader is known".to_owned()),
        Some(leader) => held_by(replicas, leader),
    };
    let confirmed = match has_majority {
        true => of_leader,
        false => Err("no majority of the voters answers".to_owned()),
    };
    let read = |level: EffectiveLevel, held: Result<_, String>| {
        let level = level.to_string();
        match held {
            Ok(version) => NextRead { level, may_return: vec![version], error: None },
            Err(error) => NextRead { level, may_return: Vec::new(), error: Some(error) },
        }
    };
    vec![
        read(EffectiveLevel::Linearizable, confirmed.clone()),
        read(EffectiveLevel::Lease, confirmed),
        read(EffectiveLevel::Local, held_by(replicas, own)),
    ]
}

/// The version that a node's table holds; `None` where it holds nothing.
fn held_by(replicas: &[ReplicaView], node: NodeId) -> Result<Option<Version>, String> {
    let view = replicas.iter().find(|view| view.node == node);
    let holding = view.map(|view| view.holding.as_ref().map_err(Clone::clone));
    let holding = holding.unwrap_or_else(|| Err(format!("node {node} is no member")))?;
    Ok(holding.head.as_ref().map(|head| head.version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::explain::Head;

    fn view(node: u16, time: Option<u64>) -> ReplicaView {
        let head = time.map(|time| Head {
            version: Version::new(time, NodeId(1)),
            tombstone: false,
            expires_at_ms: None,
            size: 0,
            digest: 0,
        });
        ReplicaView { node: NodeId(node), holding: Ok(Holding { head, applied_index: Some(1) }) }
    }

    #[test]
    fn reads_follow_the_leader_and_local_ones_this_node() {
        let views = [view(1, Some(9)), view(2, Some(4)), view(3, None)];
        let reads = next_reads(&views, NodeId(3), Some(NodeId(1)), true);
        let version = |time| Some(Version::new(time, NodeId(1)));
        let said: Vec<_> = reads.iter().map(|read| read.may_return.clone()).collect();
        assert_eq!(said, [vec![version(9)], vec![version(9)], vec![None]]);
    }

    #[test]
    fn without_a_leader_or_a_majority_only_local_reads_answer() {
        let views = [view(1, Some(9)), view(2, Some(4))];
        for (leader, majority) in [(None, true), (Some(NodeId(1)), false), (Some(NodeId(7)), true)]
        {
            let reads = next_reads(&views, NodeId(2), leader, majority);
            assert!(reads[0].error.is_some() && reads[1].error.is_some(), "{reads:?}");
            assert_eq!(reads[2].error, None);
        }
    }
}
