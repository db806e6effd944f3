//! What a follower's word is good for: whose is taken, and what index it gives.

use std::collections::BTreeSet;
use std::time::Duration;

use super::support::*;
use super::world::*;
use crate::consensus::Allegiance;
use crate::planted::{self, Bug};
use crate::types::{MemberChange, NodeId};

const STEP: Duration = Duration::from_millis(1);

fn word(world: &World, id: NodeId) -> (NodeId, Allegiance) {
    (id, world.run(id).consensus.stands_by().expect("it has voted"))
}

/// The index that a node gives on a word.
async fn vouched(world: &World, by: NodeId, word: (NodeId, Allegiance)) -> Option<u64> {
    let (given, taken) = tokio::sync::oneshot::channel();
    world.run(by).consensus.vouched(word, |index| given.send(index).expect("is waited for"));
    taken.await.expect("is answered")
}

#[test]
fn the_index_on_a_word_covers_what_any_node_has_shown() {
    in_a_world(|| async {
        let world = World::new(61, 1_000).await;
        world.write_key(1, "a", "1").await;
        let leader = world.leader().await;
        for sequence in 2..100 {
            let value = sequence.to_string();
            let write = world.write_key(sequence, "a", &value);
            let watch = async {
                for _ in 0..20 {
                    let shown = |id| world.run(id).consensus.status().applied_index;
                    let shown = (1..=3).map(|id| shown(NodeId(id))).max().expect("three");
                    for id in others(leader) {
                        let index = vouched(&world, leader, word(&world, id)).await;
                        assert!(index >= Some(shown), "{index:?} below {shown}");
                    }
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
            };
            tokio::join!(write, watch);
        }
    });
}

#[test]
fn a_node_that_does_not_lead_takes_nobody_s_word() {
    in_a_world(|| async {
        let world = World::new(62, 1_000).await;
        world.write_key(1, "a", "1").await;
        let [one, two] = others(world.leader().await);
        assert_eq!(vouched(&world, one, word(&world, two)).await, None);
    });
}

/// Whether a leader that was replaced, and does not know it, takes the word of one who stands by its
/// successor.
fn takes_the_word_of_a_follower_of_another() -> bool {
    in_a_world(|| async {
        let world = World::new(63, 1_000).await;
        world.write_key(1, "a", "1").await;
        let old = world.leader().await;
        let [one, two] = others(old);
        let before = word(&world, one);
        world.faults.isolate(old, &[one, two]);
        let successor = loop {
            tokio::time::sleep(STEP).await;
            if let Some(next) = world.run(one).consensus.leader().filter(|next| *next != old) {
                break next;
            }
        };
        assert_ne!(word(&world, one), before);
        assert_eq!(word(&world, one).1.leader, successor);
        // What was said before stays true of before, however late it comes.
        assert!(vouched(&world, old, before).await.is_some(), "it leads, as it knows");
        vouched(&world, old, word(&world, one)).await.is_some()
    })
}

#[test]
fn the_word_of_one_who_stands_by_another_is_not_taken() {
    assert!(!takes_the_word_of_a_follower_of_another());
    let bug = Bug::WordOfAnyTerm;
    assert!(planted::with(bug, takes_the_word_of_a_follower_of_another), "it was not planted");
}

#[test]
fn a_leader_takes_no_word_before_it_has_committed_in_its_own_term() {
    in_a_world(|| async {
        let world = World::new(64, 1_000).await;
        world.write_key(1, "a", "1").await;
        let old = world.leader().await;
        let [one, two] = others(old);
        let committed = world.run(old).consensus.status().applied_index;
        world.faults.isolate(old, &[one, two]);
        for _ in 0..10_000 {
            for id in [one, two] {
                let status = world.run(id).consensus.status();
                for other in others(id) {
                    if let Some(index) = vouched(&world, id, word(&world, other)).await {
                        assert_eq!(status.leader, Some(id));
                        assert!(index > committed, "its first entry lies after {committed}");
                        return;
                    }
                }
            }
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        panic!("nobody else was elected");
    });
}

#[test]
fn the_word_of_a_learner_or_of_one_voter_among_five_does_not_do() {
    in_a_world(|| async {
        let mut world = World::new(65, 1_000).await;
        world.write_key(1, "a", "1").await;
        let leader = world.leader().await;
        let by = async |world: &World, ids: &[NodeId]| {
            let mut taken = BTreeSet::new();
            for id in ids {
                if vouched(world, leader, word(world, *id)).await.is_some() {
                    taken.insert(*id);
                }
            }
            taken
        };
        let change = async |world: &World, change: MemberChange| {
            let deadline = world.run(leader).runtime.now() + PATIENCE;
            world.run(leader).consensus.change_members(change, deadline).await.expect("is done");
        };
        for id in [4, 5] {
            world.join(id).await;
            let (node, address) = (NodeId(id), format!("node-{id}"));
            change(&world, MemberChange::Add { node, address }).await;
            world.write_key(u64::from(id), "a", "2").await;
        }
        let all = others(leader).into_iter().chain([NodeId(4), NodeId(5)]).collect::<Vec<_>>();
        let caught_up = world.run(leader).consensus.status().applied_index;
        for id in [4, 5] {
            let deadline = world.run(leader).runtime.now() + PATIENCE;
            assert!(world.run(NodeId(id)).consensus.wait_applied(caught_up, deadline).await);
        }
        assert_eq!(by(&world, &all).await, BTreeSet::from(others(leader)), "learners say nothing");
        for id in [4, 5] {
            change(&world, MemberChange::Promote { node: NodeId(id) }).await;
        }
        assert_eq!(by(&world, &all).await, BTreeSet::new(), "two of five are no majority");
    });
}
