//! What each replica of a key holds, and what a quorum read would return.

use std::collections::BTreeSet;

use super::{Core, quorums};
use crate::error::{ReadError, Refusal};
use crate::peer::Inbound;
use crate::replication::RequestOptions;
use crate::replication::explain::{
    self, Asking, Explanation, Head, Holding, NextRead, ReplicaView,
};
use crate::types::{EffectiveLevel, Key, NodeId, Version};

use super::quorums::{Quorums, ReadPlan};

impl Core {
    pub(super) async fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> Result<Explanation, ReadError> {
        self.check_running()?;
        let view = self.view();
        let plan = quorums::for_read(view.usual(), self.settings.read_repair, &options)?;
        let partition = key.partition();
        let replicas = view.write_sets(partition).union();
        let asking = Asking {
            runtime: &self.runtime,
            transport: &self.transport,
            own: self.node,
            epoch: Some(view.epoch),
            deadline: options.deadline,
        };
        let own = self.holding(&key);
        let views = asking.all(&key, replicas.iter().copied(), own).await;
        let mut reads = Vec::new();
        if let ReadPlan::Quorum(quorums) = plan {
            // While replicas move, by those that they move from: the new ones are not read alone.
            let read: Vec<ReplicaView> =
                views.iter().filter(|it| view.reads_from(it.node, partition)).cloned().collect();
            reads.push(quorum_read(&read, self.node, quorums));
        }
        // This node where it holds the key, and no other; else whoever answers, the quickest first.
        let mut order = self.slowest_first(view.old_replicas(partition));
        order.reverse();
        if order.first() == Some(&self.node) {
            order.truncate(1);
        }
        reads.push(local_read(&views, &order));
        let now_ms = self.expiry_now_ms();
        Ok(Explanation { partition, replicas: views, reads, now_ms })
    }

    /// What this node holds of a key.
    fn holding(&self, key: &Key) -> Result<Holding, String> {
        let row = self.read_own(key).map_err(|refusal: Refusal| refusal.to_string())?;
        let head = row.record.as_ref().map(explain::head).transpose();
        let damaged = |error| format!("the row of key '{key}' is damaged: {error}");
        Ok(Holding { head: head.map_err(damaged)?, applied_index: None })
    }

    /// Answers a peer that asks what this node holds of a key.
    pub(super) fn serve_inspect(&self, inbound: Inbound) {
        let Inbound { body, reply, .. } = inbound;
        let view = self.view();
        let held =
            explain::key(&body).and_then(|key| match self.refusal(&view, std::iter::once(&key)) {
                Some(refusal) => Err(refusal),
                None => self.holding(&key),
            });
        match held.and_then(|holding| explain::encode(&holding)) {
            Ok(body) => reply.send(body),
            Err(reason) => reply.refuse(reason),
        }
    }
}

/// What a replica that answered holds; `None` of one that did not.
fn answered(view: &ReplicaView) -> Option<Option<Version>> {
    let holding = view.holding.as_ref().ok()?;
    Some(holding.head.as_ref().map(|head: &Head| head.version))
}

/// Every version that some R replicas that answer would lead a read through `own` to: whoever holds it
/// is among them, and the others hold nothing newer. The own replica is always asked, where there is one.
fn quorum_read(views: &[ReplicaView], own: NodeId, quorums: Quorums) -> NextRead {
    let held: Vec<Option<Version>> = views.iter().filter_map(answered).collect();
    let (level, r) = (quorums.level().to_string(), usize::from(quorums.r));
    let fails = |error: String| NextRead {
        level: level.clone(),
        may_return: Vec::new(),
        error: Some(error),
    };
    let own_view = views.iter().find(|view| view.node == own);
    let least = match own_view.map(|view| (answered(view), view)) {
        Some((None, view)) => return fails(view.holding.clone().err().unwrap_or_default()),
        Some((Some(held), _)) => held,
        None => None,
    };
    if held.len() < r {
        return fails(format!("{} of the {r} replicas needed answer", held.len()));
    }
    let no_newer = |than: &Option<Version>| held.iter().filter(|held| *held <= than).count();
    let is_possible = |version: &&Option<Version>| **version >= least && no_newer(version) >= r;
    let possible: BTreeSet<Option<Version>> = held.iter().filter(is_possible).copied().collect();
    // What a read finds must be brought to a write quorum before it is answered.
    let w = usize::from(quorums.w);
    let is_answered =
        |version: &Option<Version>| version.is_none() || !quorums.is_strong() || held.len() >= w;
    let may_return: Vec<_> = possible.into_iter().rev().filter(is_answered).collect();
    match may_return.is_empty() {
        true => fails(format!("{} of the {w} replicas needed answer", held.len())),
        false => NextRead { level, may_return, error: None },
    }
}

/// What a local read returns that asks these nodes, the first that answers.
fn local_read(views: &[ReplicaView], order: &[NodeId]) -> NextRead {
    let level = EffectiveLevel::Local.to_string();
    let view = |node: &NodeId| views.iter().find(|view| view.node == *node);
    let mut error = "no replica is known".to_owned();
    for view in order.iter().filter_map(view) {
        match (answered(view), &view.holding) {
            (Some(held), _) => return NextRead { level, may_return: vec![held], error: None },
            (None, Err(reason)) => error.clone_from(reason),
            (None, Ok(_)) => {}
        }
    }
    NextRead { level, may_return: Vec::new(), error: Some(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ReadRepair;

    fn views(held: &[Option<Option<u64>>]) -> Vec<ReplicaView> {
        let head = |time: u64| Head {
            version: version(time),
            tombstone: false,
            expires_at_ms: None,
            size: 0,
            digest: 0,
        };
        let view = |(index, held): (usize, &Option<Option<u64>>)| ReplicaView {
            node: NodeId(index as u16 + 1),
            holding: match held {
                Some(time) => Ok(Holding { head: time.map(head), applied_index: None }),
                None => Err("it is down".to_owned()),
            },
        };
        held.iter().enumerate().map(view).collect()
    }

    fn version(time: u64) -> Version {
        Version::new(time, NodeId(1))
    }

    fn quorums(r: u16, w: u16) -> Quorums {
        Quorums { r, w, n: 3, usual_w: w, repair: ReadRepair::Blocking }
    }

    #[test]
    fn what_only_one_replica_has_may_or_may_not_be_returned() {
        let one = views(&[Some(Some(5)), Some(Some(3)), Some(Some(3))]);
        for (own, expected) in [
            // The own replica is always asked.
            (1, vec![Some(version(5))]),
            (2, vec![Some(version(5)), Some(version(3))]),
            // A node without a replica asks any two.
            (9, vec![Some(version(5)), Some(version(3))]),
        ] {
            let read = quorum_read(&one, NodeId(own), quorums(2, 2));
            assert_eq!(read.may_return, expected, "through node {own}");
        }
        let two = views(&[Some(Some(5)), Some(Some(5)), Some(None)]);
        let read = quorum_read(&two, NodeId(3), quorums(2, 2));
        assert_eq!(read.may_return, [Some(version(5))], "every two hold it");
    }

    #[test]
    fn replicas_without_a_record_may_make_a_read_find_nothing() {
        let one = views(&[Some(Some(5)), Some(None), Some(None)]);
        let read = quorum_read(&one, NodeId(3), quorums(2, 2));
        assert_eq!(read.may_return, [Some(version(5)), None]);
        let none = views(&[Some(None), Some(None), None]);
        let read = quorum_read(&none, NodeId(1), quorums(2, 3));
        assert_eq!((read.may_return, read.error), (vec![None], None), "nothing to bring anywhere");
    }

    #[test]
    fn too_few_replicas_fail_a_read() {
        let one = views(&[Some(Some(5)), None, None]);
        assert!(quorum_read(&one, NodeId(1), quorums(2, 2)).error.is_some());
        // With one reader and three writers, what it finds must yet be brought to three.
        let strong = Quorums { usual_w: 3, ..quorums(1, 3) };
        assert!(quorum_read(&one, NodeId(1), strong).error.is_some());
        let read = quorum_read(&one, NodeId(1), quorums(1, 1));
        assert_eq!(read.may_return, [Some(version(5))]);
        assert!(quorum_read(&one, NodeId(2), quorums(1, 1)).error.is_some(), "its own fails");
    }

    #[test]
    fn a_local_read_is_the_nearest_replicas_that_answers() {
        let all = views(&[Some(Some(5)), Some(Some(3)), None]);
        assert_eq!(local_read(&all, &[NodeId(2)]).may_return, [Some(version(3))]);
        assert_eq!(local_read(&all, &[NodeId(3), NodeId(1)]).may_return, [Some(version(5))]);
        assert!(local_read(&all, &[NodeId(3)]).error.is_some());
    }
}
