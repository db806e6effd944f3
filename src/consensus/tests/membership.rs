//! Members come, get votes, leave and are replaced, while the group runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::*;
use super::world::*;
use crate::error::MemberError;
use crate::planted::{self, Bug};
use crate::types::{Incarnation, MemberChange, NodeId};

fn add(id: u16) -> MemberChange {
    MemberChange::Add { node: NodeId(id), address: format!("node-{id}") }
}

fn promote(id: u16) -> MemberChange {
    MemberChange::Promote { node: NodeId(id) }
}

fn remove(id: u16) -> MemberChange {
    MemberChange::Remove { node: NodeId(id) }
}

impl World {
    /// Asks `by` for a change once.
    async fn ask(&self, by: u16, change: &MemberChange) -> Result<(), MemberError> {
        let run = self.run(NodeId(by));
        let deadline = run.runtime.now() + Duration::from_secs(5);
        run.consensus.change_members(change.clone(), deadline).await
    }

    /// Asks `by` for a change until it is done, or definitely refused.
    async fn change(&self, by: u16, change: MemberChange) -> Result<(), MemberError> {
        for _ in 0..500 {
            match self.ask(by, &change).await {
                Err(
                    MemberError::Behind { .. }
                    | MemberError::NoLeader { .. }
                    | MemberError::InProgress
                    | MemberError::HandedOver { .. }
                    | MemberError::Unknown { .. },
                ) => tokio::time::sleep(Duration::from_millis(20)).await,
                answer => return answer,
            }
        }
        panic!("{change:?} was never done");
    }

    /// The voters as `by` has applied them.
    fn voters(&self, by: u16) -> Vec<u16> {
        let members = self.run(NodeId(by)).consensus.status().members;
        members.voters().into_iter().map(|id| id.0).collect()
    }

    /// Waits until `by` has applied what was written.
    async fn see(&self, by: u16, name: &str, value: &str) {
        for _ in 0..500 {
            if self.read(NodeId(by), name).await.as_deref() == Some(value) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("node {by} does not have {name} = {value}");
    }

    /// Waits until `by` knows these voters.
    async fn voters_become(&self, by: u16, voters: &[u16]) {
        for _ in 0..500 {
            if self.voters(by) == voters {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("node {by} knows {:?}, not {voters:?}", self.voters(by));
    }
}

#[test]
fn a_group_grows_to_five_and_shrinks_to_three_other_nodes_while_it_is_written_to() {
    for seed in 1..6 {
        in_a_world(|| async move {
            let mut world = World::new(seed * 7, 1_000).await;
            for sequence in 1..200 {
                world.write_key(sequence, &format!("key-{sequence}"), "before").await;
            }
            for id in [4, 5] {
                world.join(id).await;
                world.change(1, add(id)).await.expect("added");
                world.change(2, promote(id)).await.expect("promoted");
                world.write_key(200 + u64::from(id), "key", &format!("with {id}")).await;
            }
            world.voters_become(1, &[1, 2, 3, 4, 5]).await;
            // Whoever of them leads goes too, and hands over first.
            for id in [1, 2] {
                world.change(3, remove(id)).await.expect("removed");
                world.crash(NodeId(id));
                world.write_key(300 + u64::from(id), "key", &format!("without {id}")).await;
            }
            world.voters_become(3, &[3, 4, 5]).await;
            world.write_key(400, "last", "value").await;
            for id in [4, 5] {
                world.see(id, "key-1", "before").await;
                world.see(id, "last", "value").await;
            }
        });
    }
}

#[test]
fn what_was_done_already_is_done_and_an_id_never_comes_back() {
    in_a_world(|| async {
        let mut world = World::new(3, 1_000).await;
        world.leader().await;
        world.join(4).await;
        for _ in 0..2 {
            world.change(1, add(4)).await.expect("added");
        }
        for _ in 0..2 {
            world.change(1, promote(4)).await.expect("promoted");
        }
        for _ in 0..2 {
            world.change(1, remove(4)).await.expect("removed");
        }
        let again = world.change(1, add(4)).await;
        assert_eq!(again, Err(MemberError::IdUsed { node: NodeId(4) }));
        let members = world.run(NodeId(1)).consensus.status().members;
        assert_eq!(members.removed, BTreeSet::from([NodeId(4)]));
    });
}

#[test]
fn a_removed_id_that_is_taken_again_is_caught() {
    let taken_again = || {
        in_a_world(|| async {
            let mut world = World::new(3, 1_000).await;
            world.leader().await;
            world.join(4).await;
            world.change(1, add(4)).await.expect("added");
            world.change(1, remove(4)).await.expect("removed");
            world.change(1, add(4)).await.is_ok()
        })
    };
    assert!(!taken_again());
    assert!(planted::with(Bug::RemovedIdTakenAgain, taken_again), "the check sees it");
}

#[test]
fn a_change_that_loses_the_quorum_is_refused_with_the_silent_ones_named() {
    in_a_world(|| async {
        let mut world = World::new(5, 1_000).await;
        world.leader().await;
        world.join(4).await;
        world.change(1, add(4)).await.expect("added");
        world.change(1, promote(4)).await.expect("promoted");
        let leader = world.leader().await;
        let mut others = (1..=4).filter(|id| NodeId(*id) != leader);
        let (dead, alive) = (others.next().expect("one"), others.next().expect("another"));
        world.crash(NodeId(dead));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let refused = world.change(leader.0, remove(alive)).await;
        // Of three voters that there would be, the leader and one more answer.
        assert_eq!(refused, Ok(()), "a majority is left");
        let other = (1..=4).find(|id| ![dead, alive, leader.0].contains(id)).expect("a third");
        let refused = world.change(leader.0, remove(other)).await.expect_err("refused").to_string();
        assert!(refused.contains(&format!("silent: {dead}")), "{refused}");
        world.change(leader.0, remove(dead)).await.expect("the dead one may go");
    });
}

#[test]
fn a_quorum_that_is_given_away_is_caught() {
    let given_away = || {
        in_a_world(|| async {
            let mut world = World::new(5, 1_000).await;
            let leader = world.leader().await;
            let mut others = (1..=3).filter(|id| NodeId(*id) != leader);
            let (dead, alive) = (others.next().expect("one"), others.next().expect("another"));
            world.crash(NodeId(dead));
            tokio::time::sleep(Duration::from_secs(2)).await;
            let run = world.run(leader);
            let deadline = run.runtime.now() + Duration::from_secs(2);
            let answer = run.consensus.change_members(remove(alive), deadline).await;
            !matches!(answer, Err(MemberError::LosesQuorum { .. }))
        })
    };
    assert!(!given_away());
    assert!(planted::with(Bug::QuorumGivenAway, given_away), "the check sees it");
}

#[test]
fn a_replacement_takes_one_step_and_works_for_the_leader_too() {
    in_a_world(|| async {
        let mut world = World::new(9, 1_000).await;
        let leader = world.leader().await;
        world.join(4).await;
        world.change(1, add(4)).await.expect("added");
        let asked = (1..=3).find(|id| NodeId(*id) != leader).expect("a follower");
        let replace = MemberChange::Replace { node: leader, with: NodeId(4) };
        world.change(asked, replace).await.expect("replaced");
        let voters: Vec<u16> = (1..=4).filter(|id| NodeId(*id) != leader).collect();
        world.voters_become(asked, &voters).await;
        world.crash(leader);
        world.write_key(1, "key", "value").await;
    });
}

#[test]
fn members_agree_on_each_others_incarnations_also_after_a_restart_and_by_snapshot() {
    in_a_world(|| async {
        let mut world = World::keeping(11, 0, 0).await;
        world.leader().await;
        for sequence in 1..100 {
            world.write_key(sequence, "key", "value").await;
        }
        for id in 1..=3 {
            let consensus = &world.run(NodeId(id)).consensus;
            consensus.compact(PATIENCE).await.expect("compacts");
        }
        world.join(4).await;
        world.change(1, add(4)).await.expect("added");
        world.change(1, promote(4)).await.expect("promoted");
        let known = |world: &World, by: u16| -> Vec<Option<Incarnation>> {
            let members = world.run(NodeId(by)).consensus.status().members;
            members.nodes.values().map(|facts| facts.incarnation).collect()
        };
        let all: Vec<_> = (1..=4).map(|id| Some(Incarnation(id))).collect();
        for by in 1..=4 {
            for _ in 0..500 {
                if known(&world, by) == all {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(known(&world, by), all, "at node {by}");
        }
        world.crash(NodeId(2));
        world.start(2).await.expect("starts");
        assert_eq!(known(&world, 2), all);
    });
}

#[test]
fn members_that_are_not_introduced_are_caught() {
    let introduced = || {
        in_a_world(|| async {
            let world = World::new(11, 1_000).await;
            world.leader().await;
            world.write_key(1, "key", "value").await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let members = world.run(NodeId(1)).consensus.status().members;
            members.nodes.values().all(|facts| facts.incarnation.is_some())
        })
    };
    assert!(introduced());
    assert!(!planted::with(Bug::MembersNotIntroduced, introduced), "the check sees it");
}

#[test]
fn a_joint_configuration_that_a_dead_leader_left_is_finished_by_the_next() {
    for seed in 1..30 {
        in_a_world(|| async move {
            let mut world = World::new(100 + seed, 1_000).await;
            world.leader().await;
            world.join(4).await;
            world.change(1, add(4)).await.expect("added");
            let leader = world.leader().await;
            let run = world.run(leader);
            let deadline = run.runtime.now() + Duration::from_secs(5);
            let consensus = run.consensus.clone();
            let change = async move {
                // Whatever it says: it dies in the middle.
                let _ = consensus.change_members(promote(4), deadline).await;
            };
            let runtime = run.runtime.clone();
            drop(runtime.spawn(change));
            tokio::time::sleep(Duration::from_millis(seed / 2)).await;
            world.crash(leader);
            let by = (1..=3).find(|id| NodeId(*id) != leader).expect("one is left");
            world.change(by, promote(4)).await.expect("promoted in the end");
            world.voters_become(by, &[1, 2, 3, 4]).await;
            world.write_key(1, "key", "value").await;
        });
    }
}
