//! Leadership that changes hands on purpose, that must not change hands, and that is fixed.

use std::time::Duration;

use super::support::*;
use super::world::*;
use crate::consensus::{Command, Consensus};
use crate::error::TransferError;
use crate::planted::{self, Bug};
use crate::types::NodeId;

/// Long enough for any election timeout, many times over.
const A_WHILE: Duration = Duration::from_secs(5);

async fn transfer(
    world: &World,
    through: NodeId,
    to: Option<NodeId>,
) -> Result<NodeId, TransferError> {
    let run = world.run(through);
    run.consensus.transfer(to, run.runtime.now() + PATIENCE).await
}

fn term(consensus: &Consensus) -> u64 {
    consensus.status().term
}

#[test]
fn leadership_goes_to_the_node_that_is_named_within_the_leaders_lease() {
    for seed in 0..4 {
        in_a_world(|| async {
            let world = World::new(seed, 1_000).await;
            world.write_key(1, "a", "1").await;
            let first = world.leader().await;
            let [target, third] = others(first);
            // Through the leader, and through one that is neither, which passes it on.
            assert_eq!(transfer(&world, first, Some(target)).await, Ok(target));
            assert_eq!(world.run(first).consensus.leader(), Some(target));
            world.write_key(2, "a", "2").await;
            let before = term(&world.run(first).consensus);
            assert_eq!(transfer(&world, third, Some(first)).await, Ok(first));
            assert_eq!(world.leader().await, first);
            // One election each, asked for: nobody stood because a leader was silent.
            assert_eq!(term(&world.run(first).consensus), before + 1);
            assert_eq!(world.read(third, "a").await.as_deref(), Some("2"));
            world.write_key(3, "a", "3").await;
        });
    }
}

#[test]
fn a_transfer_that_names_nobody_goes_to_a_voter_that_is_there() {
    in_a_world(|| async {
        let mut world = World::new(11, 1_000).await;
        let first = world.leader().await;
        let [away, there] = others(first);
        world.crash(away);
        for sequence in 1..200 {
            world.write_key(sequence, "a", "1").await;
        }
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(transfer(&world, first, None).await, Ok(there));
    });
}

#[test]
fn a_transfer_to_a_stranger_or_to_a_node_that_is_away_changes_nothing() {
    in_a_world(|| async {
        let mut world = World::new(12, 1_000).await;
        world.write_key(1, "a", "1").await;
        let leader = world.leader().await;
        let before = term(&world.run(leader).consensus);
        let [away, there] = others(leader);
        world.crash(away);
        tokio::time::sleep(A_WHILE).await;
        let stranger = NodeId(9);
        let refused = transfer(&world, there, Some(stranger)).await;
        assert!(
            matches!(&refused, Err(TransferError::UnknownNode { node, voters })
                if *node == stranger && voters.len() == 3),
            "{refused:?}"
        );
        let refused = transfer(&world, there, Some(away)).await;
        assert!(matches!(refused, Err(TransferError::Behind { node, .. }) if node == away));
        assert_eq!(transfer(&world, there, Some(leader)).await, Ok(leader));
        assert_eq!(world.leader().await, leader);
        assert_eq!(term(&world.run(leader).consensus), before);
        world.write_key(2, "a", "2").await;
    });
}

#[test]
fn a_transfer_is_answered_once_the_target_leads() {
    let answered_by_the_leader = || {
        in_a_world(|| async {
            let world = World::new(13, 1_000).await;
            let first = world.leader().await;
            let target = other_than(first);
            let answer = transfer(&world, first, Some(target)).await;
            let leads = world.run(first).consensus.leader() == Some(target);
            (answer, leads)
        })
    };
    let (answer, leads) = answered_by_the_leader();
    assert!(answer.is_ok() && leads, "{answer:?}");
    let (answer, leads) = planted::with(Bug::TransferAnsweredAtOnce, answered_by_the_leader);
    assert!(answer.is_ok() && !leads, "the bug was not planted, or this shows nothing");
}

#[test]
fn a_leader_that_is_to_stop_hands_over_and_does_not_stand_again() {
    in_a_world(|| async {
        let mut world = World::new(14, 1_000).await;
        world.write_key(1, "a", "1").await;
        let first = world.leader().await;
        let before = term(&world.run(first).consensus);
        assert!(world.run(first).consensus.hand_over(A_WHILE).await);
        let second = world.leader().await;
        assert_ne!(second, first);
        assert_eq!(term(&world.run(second).consensus), before + 1);
        assert_eq!(world.run(first).metrics.hand_overs_at_stop.get(), 1);
        // It still follows and counts towards a majority, but is not to be elected.
        world.crash(second);
        let third = world.leader().await;
        assert!(third != first && third != second);
        world.write_key(2, "a", "2").await;
        assert!(!world.run(first).consensus.hand_over(A_WHILE).await, "it does not lead");
    });
}

/// Cuts a follower off for a while and lets it come back; whether the leader and its term stayed.
fn a_follower_comes_back(after_a_transfer: bool) -> bool {
    in_a_world(|| async {
        let world = World::new(15, 1_000).await;
        world.write_key(1, "a", "1").await;
        let mut leader = world.leader().await;
        if after_a_transfer {
            let target = other_than(leader);
            leader = transfer(&world, leader, Some(target)).await.expect("it takes over");
            world.write_key(2, "a", "2").await;
        }
        let [away, there] = others(leader);
        let before = term(&world.run(there).consensus);
        world.faults.isolate(away, &[leader, there]);
        tokio::time::sleep(A_WHILE).await;
        world.faults.heal();
        tokio::time::sleep(A_WHILE).await;
        world.write_key(3, "a", "3").await;
        assert_eq!(world.read(away, "a").await.as_deref(), Some("3"));
        world.leader().await == leader && term(&world.run(there).consensus) == before
    })
}

#[test]
fn a_node_that_comes_back_does_not_depose_a_good_leader() {
    assert!(a_follower_comes_back(false), "the leader was deposed");
    let kept = planted::with(Bug::NoPreVote, || a_follower_comes_back(false));
    assert!(!kept, "without pre-vote the leader must fall, or this shows nothing");
}

#[test]
fn a_node_that_comes_back_does_not_depose_a_leader_that_was_handed_leadership() {
    assert!(a_follower_comes_back(true), "the leader was deposed");
    let kept = planted::with(Bug::NoPreVote, || a_follower_comes_back(true));
    assert!(!kept, "without pre-vote the leader must fall, or this shows nothing");
}

/// How often nodes other than the fixed leader were elected while it was away.
fn elected_beside_the_fixed_leader(fixed: NodeId) -> u64 {
    in_a_world(|| async {
        let mut world = World::led_by(16, fixed).await;
        assert_eq!(world.leader().await, fixed);
        world.write_key(1, "a", "1").await;
        world.crash(fixed);
        tokio::time::sleep(A_WHILE).await;
        world.running().map(|(_, run)| run.metrics.elections_won.get()).sum()
    })
}

#[test]
fn a_cluster_waits_for_its_fixed_leader_and_elects_nobody_else() {
    for fixed in 1..=3 {
        let fixed = NodeId(fixed);
        assert_eq!(elected_beside_the_fixed_leader(fixed), 0);
        let bug = Bug::OthersStandBesideFixedLeader;
        let elected = planted::with(bug, || elected_beside_the_fixed_leader(fixed));
        assert!(elected > 0, "others that may stand are elected, or this shows nothing");
    }
}

#[test]
fn a_fixed_leader_that_comes_back_leads_again_and_is_never_handed_over() {
    in_a_world(|| async {
        let fixed = NodeId(2);
        let mut world = World::led_by(17, fixed).await;
        assert_eq!(world.leader().await, fixed);
        world.write_key(1, "a", "1").await;
        world.crash(fixed);
        tokio::time::sleep(A_WHILE).await;
        world.start(fixed.0).await.expect("starts");
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(world.leader().await, fixed);
        world.write_key(2, "a", "2").await;
        for through in [fixed, other_than(fixed)] {
            for to in [None, Some(NodeId(1)), Some(fixed)] {
                let refused = transfer(&world, through, to).await;
                assert_eq!(refused, Err(TransferError::Fixed { fixed }));
            }
        }
        assert!(!world.run(fixed).consensus.hand_over(A_WHILE).await);
        assert_eq!(world.leader().await, fixed);
    });
}

#[test]
fn a_fixed_leader_that_died_before_its_own_sync_leads_again() {
    in_a_world(|| async {
        let fixed = NodeId(3);
        let mut world = World::led_by(18, fixed).await;
        assert_eq!(world.leader().await, fixed);
        world.write_key(1, "a", "1").await;
        // Its own disk is slow, those of the others are not: they hold what it could forget.
        let ms = Duration::from_millis;
        world.nodes[&fixed].disk.set_sync_delay_range(ms(400), ms(500));
        let run = world.run(fixed);
        let write = submission(session(9, 1, 2, 0), 1, vec![put("a", "2", None)]);
        let deadline = run.runtime.now() + PATIENCE;
        let consensus = run.consensus.clone();
        let lost = run.runtime.spawn(async move {
            consensus.propose(Command::Data(vec![write]), deadline).await.map(|_| ())
        });
        tokio::time::sleep(ms(200)).await;
        world.crash(fixed);
        drop(lost);
        world.nodes[&fixed].disk.set_sync_delay_range(ms(1), ms(2));
        world.start(fixed.0).await.expect("starts");
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(world.leader().await, fixed);
        world.write_key(3, "a", "3").await;
        assert_eq!(world.read(other_than(fixed), "a").await.as_deref(), Some("3"));
    });
}
