//! Groups that elect, write, and lose their leader or their majority.

use std::time::Duration;

use super::support::*;
use super::world::*;
use crate::consensus::{Command, ProposeError, SubmissionResult, WriteResult};
use crate::storage::{encoding, rows};
use crate::types::{NodeId, RetryKey, Write};

#[test]
fn a_group_elects_writes_loses_its_leader_and_gets_it_back() {
    in_a_world(|| async {
        let mut world = World::new(1, 1_000).await;
        let first = world.leader().await;
        world.write_key(1, "a", "1").await;
        for id in 1..=3 {
            assert_eq!(world.read(NodeId(id), "a").await.as_deref(), Some("1"));
        }
        world.crash(first);
        let second = world.leader().await;
        assert_ne!(second, first);
        world.write_key(2, "a", "2").await;
        world.start(first.0).await.expect("starts");
        assert_eq!(world.read(first, "a").await.as_deref(), Some("2"));
        // The whole group, at once.
        for id in 1..=3 {
            world.crash(NodeId(id));
        }
        for id in 1..=3 {
            world.start(id).await.expect("starts");
        }
        for id in 1..=3 {
            assert_eq!(world.read(NodeId(id), "a").await.as_deref(), Some("2"));
        }
        let cluster = world.run(first).consensus.status().cluster;
        assert!(cluster.is_some());
        for (_, run) in world.running() {
            let status = run.consensus.status();
            assert_eq!((status.cluster, status.members.voters().len()), (cluster, 3));
        }
        let won: u64 = world.running().map(|(_, run)| run.metrics.elections_won.get()).sum();
        assert!(won >= 1);
    });
}

#[test]
fn a_write_proposed_again_after_the_leader_died_is_applied_once() {
    for seed in 0..8 {
        in_a_world(|| async {
            let mut world = World::new(seed, 1_000).await;
            world.write_key(1, "a", "0").await;
            let leader = world.leader().await;
            let write = put("a", "1", Some(crate::types::Condition::Exists));
            let once = submission(session(9, 1, 2, 1), 1, vec![write]);
            // The leader dies while the write is on its way; nobody knows how far it got.
            let run = world.run(leader);
            let (consensus, deadline) = (run.consensus.clone(), run.runtime.now() + PATIENCE);
            let command = Command::Data(vec![once.clone()]);
            run.runtime.spawn(async move { consensus.propose(command, deadline).await.is_ok() });
            tokio::time::sleep(Duration::from_micros(300 * seed)).await;
            world.crash(leader);
            let result = world.write(once.clone()).await;
            assert_eq!(world.write(once).await, result);
            world.start(leader.0).await.expect("starts");
            let SubmissionResult::Applied(results) = result else { panic!("not applied") };
            let [WriteResult::Written { version }] = results[..] else { panic!("{results:?}") };
            for id in 1..=3 {
                assert_eq!(world.read(NodeId(id), "a").await.as_deref(), Some("1"));
                let row = world.run(NodeId(id)).table.get(&rows::data_row(&key("a")));
                let row = row.expect("readable").expect("a record");
                assert_eq!(encoding::peek(&row).expect("a record"), (version, false));
            }
        });
    }
}

#[test]
fn a_node_that_does_not_lead_says_that_nothing_was_appended() {
    in_a_world(|| async {
        let world = World::new(3, 1_000).await;
        let leader = world.leader().await;
        let run = world.run(other_than(leader));
        let deadline = run.runtime.now() + PATIENCE;
        let refused = run.consensus.propose(Command::Data(Vec::new()), deadline).await;
        assert!(
            matches!(refused, Err(ProposeError::NotAppended { leader: Some(who), .. }) if who == leader),
            "{refused:?}"
        );
        assert!(run.consensus.read_index(deadline).await.is_err());
    });
}

#[test]
fn a_leader_without_a_majority_confirms_nothing_and_acknowledges_nothing() {
    in_a_world(|| async {
        let mut world = World::new(4, 1_000).await;
        let leader = world.leader().await;
        let others: Vec<_> = (1..=3).map(NodeId).filter(|id| *id != leader).collect();
        others.iter().for_each(|id| world.crash(*id));
        let run = world.run(leader);
        let deadline = run.runtime.now() + Duration::from_secs(3);
        let write = put("lost", "1", None);
        let command = Command::Data(vec![submission(session(9, 1, 1, 0), 1, vec![write])]);
        let (written, read) = futures_util::future::join(
            run.consensus.propose(command, deadline),
            run.consensus.read_index(deadline),
        )
        .await;
        assert!(written.is_err(), "{written:?}");
        assert!(read.is_err(), "{read:?}");
        for id in others {
            world.start(id.0).await.expect("starts");
        }
        world.write_key(2, "a", "1").await;
    });
}

#[test]
fn a_clients_retry_through_another_node_after_its_leader_died_is_applied_once() {
    in_a_world(|| async {
        let mut world = World::new(5, 1_000).await;
        let keyed = || {
            let write = put("a", "1", None);
            let expiry = Duration::from_secs(60);
            let retry = RetryKey::of("one".to_owned(), &write.key, &write.change, None, expiry);
            Write { retry: Some(retry), ..write }
        };
        // Origins 8 and 9: no forwarding session knows both submissions.
        let first = world.write(submission(session(8, 1, 1, 0), 1, vec![keyed()])).await;
        world.write_key(2, "a", "2").await;
        let leader = world.leader().await;
        world.crash(leader);
        let again = world.write(submission(session(9, 1, 1, 0), 1, vec![keyed()])).await;
        assert_eq!(again, first);
        world.start(leader.0).await.expect("starts");
        for id in 1..=3 {
            assert_eq!(world.read(NodeId(id), "a").await.as_deref(), Some("2"));
        }
    });
}
