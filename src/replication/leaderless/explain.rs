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

use super::layout::STATIC_EPOCH;
use super::quorums::{Quorums, ReadPlan};

impl Core {
    pub(super) async fn explain(
        &self,
        key: Key,
        options: RequestOptions,
    ) -> Result<Explanation, ReadError> {
        let plan = quorums::for_read(&self.settings, self.layout.replicas(), &options)?;
        self.check_running()?;
        let partition = key.partition();
        let replicas = self.layout.replicas_of(partition);
        let asking = Asking {
            runtime: &self.runtime,
            transport: &self.transport,
            own: self.node,
            epoch: Some(STATIC_EPOCH),
            deadline: options.deadline,
        };
        let own = self.holding(&key);
        let views = asking.all(&key, replicas.iter().copied(), own).await;
        let mut reads = Vec::new();
        if let ReadPlan::Quorum(quorums) = plan {
            reads.push(quorum_read(&views, quorums));
        }
        // The nearest is this node where it holds the key, else whoever answered quickest of late.
        let nearest = self.slowest_first(replicas).pop().unwrap_or(self.node);
        reads.push(local_read(&views, nearest));
        let now_ms = self.runtime.wall_ms();
        Ok(Explanation { partition, replicas: views, reads, now_ms })
    }

    /// What this node holds of a key.
    fn holding(&self, key: &Key) -> Result<Holding, String> {
        let row = self.read_own(key).map_err(|refusal: Refusal| refusal.to_string())?;
        let head = row.as_ref().map(explain::head).transpose();
        let damaged = |error| format!("the row of key '{key}' is damaged: {error}");
        Ok(Holding { head: head.map_err(damaged)?, applied_index: None })
    }

    /// Answers a peer that asks what this node holds of a key.
    pub(super) fn serve_inspect(&self, inbound: Inbound) {
        let Inbound { body, reply, .. } = inbound;
        let held = explain::key(&body).and_then(|key| match self.refusal(std::iter::once(&key)) {
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

/// Every version that some R replicas that answer would lead a read to: whoever holds it is among
/// them, and the others hold nothing newer.
fn quorum_read(views: &[ReplicaView], quorums: Quorums) -> NextRead {
    let held: Vec<Option<Version>> = views.iter().filter_map(answered).collect();
    let (level, r) = (quorums.level().to_string(), usize::from(quorums.r));
    let needed = match held.iter().any(Option::is_some) && quorums.is_strong() {
        // What it finds must be brought to a write quorum before it is answered.
        true => quorums.r.max(quorums.w),
        false => quorums.r,
    };
    if held.len() < usize::from(needed) {
        let error = format!("{} of the {needed} replicas needed answer", held.len());
        return NextRead { level, may_return: Vec::new(), error: Some(error) };
    }
    let no_newer = |than: &Option<Version>| held.iter().filter(|held| *held <= than).count();
    let candidates: BTreeSet<Option<Version>> =
        held.iter().filter(|version| no_newer(version) >= r).copied().collect();
    NextRead { level, may_return: candidates.into_iter().rev().collect(), error: None }
}

fn local_read(views: &[ReplicaView], nearest: NodeId) -> NextRead {
    let level = EffectiveLevel::Local.to_string();
    let view = views.iter().find(|view| view.node == nearest);
    match view.map(|view| (answered(view), view)) {
        Some((Some(held), _)) => NextRead { level, may_return: vec![held], error: None },
        Some((None, view)) => {
            NextRead { level, may_return: Vec::new(), error: view.holding.clone().err() }
        }
        None => {
            let error = Some(format!("node {nearest} holds no replica"));
            NextRead { level, may_return: Vec::new(), error }
        }
    }
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
        let read =
            quorum_read(&views(&[Some(Some(5)), Some(Some(3)), Some(Some(3))]), quorums(2, 2));
        assert_eq!(read.may_return, [Some(version(5)), Some(version(3))]);
        let read = quorum_read(&views(&[Some(Some(5)), Some(Some(5)), Some(None)]), quorums(2, 2));
        assert_eq!(read.may_return, [Some(version(5))], "every two hold it");
    }

    #[test]
    fn replicas_without_a_record_may_make_a_read_find_nothing() {
        let read = quorum_read(&views(&[Some(Some(5)), Some(None), Some(None)]), quorums(2, 2));
        assert_eq!(read.may_return, [Some(version(5)), None]);
        let read = quorum_read(&views(&[Some(None), Some(None), None]), quorums(2, 3));
        assert_eq!((read.may_return, read.error), (vec![None], None), "nothing to bring anywhere");
    }

    #[test]
    fn too_few_replicas_fail_a_read() {
        let one = views(&[Some(Some(5)), None, None]);
        assert!(quorum_read(&one, quorums(2, 2)).error.is_some());
        // With one reader and two writers, what it finds must yet be brought to two.
        assert!(quorum_read(&one, Quorums { usual_w: 3, ..quorums(1, 3) }).error.is_some());
        assert_eq!(quorum_read(&one, quorums(1, 1)).may_return, [Some(version(5))]);
    }

    #[test]
    fn a_local_read_is_the_nearest_replicas() {
        let all = views(&[Some(Some(5)), Some(Some(3)), None]);
        assert_eq!(local_read(&all, NodeId(2)).may_return, [Some(version(3))]);
        assert!(local_read(&all, NodeId(3)).error.is_some());
    }
}
