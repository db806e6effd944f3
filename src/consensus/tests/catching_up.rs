//! Snapshots, compaction, and nodes whose disk is not what it was.

use std::time::Duration;

use super::support::*;
use super::world::*;
use crate::consensus::Command;
use crate::peer::fault::Fault;
use crate::storage::disk::Disk;
use crate::storage::rows;
use crate::types::{MemberChange, NodeId};

/// Writes keys, compacting as a node does, until the log was cut beyond what a node has.
async fn write_and_compact(world: &World, from: u64, count: u64) {
    for sequence in from..from + count {
        world.write_key(sequence, &format!("key-{}", sequence % 50), &sequence.to_string()).await;
    }
    for (_, run) in world.running() {
        run.consensus.compact(PATIENCE).await.expect("compacts");
    }
    // A leader purges what a follower may still be sent only once the sending has failed.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Waits until something holds, and fails where it does not within some time.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 10 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

#[test]
fn a_follower_that_missed_what_was_purged_catches_up_by_snapshot() {
    in_a_world(|| async {
        let mut world = World::new(5, 5).await;
        let leader = world.leader().await;
        world.write_key(1, "old", "1").await;
        let behind = other_than(leader);
        assert_eq!(world.read(behind, "old").await.as_deref(), Some("1"));
        world.crash(behind);
        write_and_compact(&world, 2, 100).await;
        world.start(behind.0).await.expect("starts");
        assert_eq!(world.read(behind, "key-0").await.as_deref(), Some("100"));
        assert_eq!(world.read(behind, "old").await.as_deref(), Some("1"));
        assert_eq!(world.run(behind).metrics.snapshots_installed.get(), 1);
        let leader = world.leader().await;
        until("the leader hears of it", || world.run(leader).metrics.snapshots_sent.get() == 1)
            .await;
        assert!(!world.run(behind).consensus.status().installing);
        // It goes on from there, also after a crash of its own.
        world.write_key(200, "new", "1").await;
        world.crash(behind);
        world.start(behind.0).await.expect("starts");
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        assert_eq!(world.read(behind, "key-0").await.as_deref(), Some("100"));
    });
}

#[test]
fn a_snapshot_is_sent_while_writes_go_on_and_the_tables_are_equal_in_the_end() {
    for seed in 0..4 {
        in_a_world(|| async {
            let mut world = World::new(20 + seed, 5).await;
            let leader = world.leader().await;
            let behind = other_than(leader);
            world.crash(behind);
            write_and_compact(&world, 1, 60).await;
            world.start(behind.0).await.expect("starts");
            for sequence in 100..200 {
                world.write_key(sequence, &format!("key-{}", sequence % 50), "late").await;
                if sequence % 10 == 0 {
                    let leader = world.leader().await;
                    world.run(leader).consensus.compact(PATIENCE).await.expect("compacts");
                }
            }
            assert_eq!(world.read(behind, "key-7").await.as_deref(), Some("late"));
            // One was enough, though the log was purged again and again meanwhile.
            assert_eq!(world.run(behind).metrics.snapshots_installed.get(), 1);
            world.read(leader, "key-7").await;
            let (from, to) = rows::data_range();
            let rows = |id| world.run(id).table.scan(&from, &to, usize::MAX).expect("readable");
            assert_eq!(rows(behind), rows(leader));
        });
    }
}

#[test]
fn a_snapshot_goes_on_after_answers_were_lost() {
    in_a_world(|| async {
        let mut world = World::new(71, 5).await;
        let leader = world.leader().await;
        let behind = other_than(leader);
        world.crash(behind);
        // Several pages, so that some are on their way at any moment.
        for sequence in 1..200 {
            let value = "x".repeat(10_000);
            world.write_key(sequence, &format!("key-{sequence}"), &value).await;
        }
        write_and_compact(&world, 200, 60).await;
        let mute = Fault { drop_answers_per_mille: 1_000, ..Fault::default() };
        world.faults.set_between(leader, behind, mute);
        world.start(behind.0).await.expect("starts");
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(world.run(leader).metrics.snapshots_sent.get(), 0, "its answers are lost");
        world.faults.heal();
        assert_eq!(world.read(behind, "key-9").await.as_deref(), Some("259"));
        assert!(world.run(leader).metrics.snapshots_resumed.get() > 0);
        assert_eq!(world.run(behind).metrics.snapshots_installed.get(), 1);
    });
}

/// How long a follower may wait behind one that is gone: less than that one's transfer goes on.
const BEHIND_ANOTHER_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn a_follower_that_is_gone_does_not_keep_another_from_catching_up() {
    in_a_world(|| async {
        let mut world = World::new(73, 5).await;
        let leader = world.leader().await;
        let gone = other_than(leader);
        world.crash(gone);
        // The leader begins to send a snapshot to the node that is gone.
        write_and_compact(&world, 1, 60).await;
        let resumed = || world.run(leader).metrics.snapshots_resumed.get();
        let began = world.run(leader).runtime.now();
        while resumed() == 0 {
            assert!(world.run(leader).runtime.now() - began < PATIENCE, "it is never tried again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.join(4).await;
        let began = world.run(leader).runtime.now();
        let add = MemberChange::Add { node: NodeId(4), address: "node-4".to_owned() };
        let deadline = world.run(leader).runtime.now() + PATIENCE;
        world.run(leader).consensus.change_members(add, deadline).await.expect("a learner");
        while world.run(NodeId(4)).metrics.snapshots_installed.get() == 0 {
            let waited = world.run(leader).runtime.now() - began;
            assert!(waited < BEHIND_ANOTHER_WITHIN, "it waits for the one that is gone");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // And the other gets its turn again once it is back.
        world.start(gone.0).await.expect("starts");
        assert_eq!(world.read(gone, "key-9").await.as_deref(), Some("59"));
    });
}

#[test]
fn the_answer_to_an_installed_snapshot_is_asked_for_again() {
    in_a_world(|| async {
        let mut world = World::new(72, 5).await;
        let leader = world.leader().await;
        let behind = other_than(leader);
        world.crash(behind);
        write_and_compact(&world, 1, 60).await;
        // Installing takes so long that the answer to it can be taken away.
        let ms = Duration::from_millis;
        world.nodes[&behind].disk.set_sync_delay_range(ms(50), ms(60));
        world.start(behind.0).await.expect("starts");
        while world.nodes[&behind].disk.list("snapshot").expect("a listing").is_empty() {
            tokio::time::sleep(ms(1)).await;
        }
        tokio::time::sleep(ms(20)).await;
        let mute = Fault { drop_answers_per_mille: 1_000, ..Fault::default() };
        world.faults.set_between(leader, behind, mute);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.run(behind).metrics.snapshots_installed.get(), 1);
        assert_eq!(world.run(leader).metrics.snapshots_sent.get(), 0, "its answer is lost");
        world.faults.heal();
        world.write_key(100, "new", "1").await;
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        assert_eq!(world.run(behind).metrics.snapshots_installed.get(), 1, "it is not sent again");
    });
}

#[test]
fn a_crash_at_any_time_of_a_snapshot_transfer_is_recovered_from() {
    for step in 0..12_u64 {
        in_a_world(|| async {
            let mut world = World::new(40 + step, 5).await;
            let leader = world.leader().await;
            let behind = other_than(leader);
            world.write_key(1, "old", "1").await;
            world.crash(behind);
            write_and_compact(&world, 2, 60).await;
            world.start(behind.0).await.expect("starts");
            tokio::time::sleep(Duration::from_millis(step * step * 2)).await;
            let installed = world.run(behind).metrics.snapshots_installed.get();
            world.crash(behind);
            world.start(behind.0).await.expect("starts");
            assert_eq!(world.read(behind, "key-10").await.as_deref(), Some("60"));
            let again = world.run(behind).metrics.snapshots_installed.get();
            assert!(installed + again >= 1, "no snapshot was sent at step {step}");
            assert_eq!(world.read(behind, "old").await.as_deref(), Some("1"));
        });
    }
}

#[test]
fn compacting_cuts_the_log_and_a_restart_finds_everything() {
    in_a_world(|| async {
        let mut world = World::new(6, 5).await;
        write_and_compact(&world, 1, 200).await;
        let leader = world.leader().await;
        // Nothing new, and still no error.
        world.run(leader).consensus.compact(PATIENCE).await.expect("compacts");
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.run(leader).consensus.compact(PATIENCE).await.expect("compacts");
        let segments = world.nodes[&leader].disk.list("log").expect("listed");
        let first: u64 = segments[0].trim_end_matches(".log").parse().expect("a position");
        assert!(first > 2 * SEGMENT_BYTES, "the log still begins at {first}");
        for id in 1..=3 {
            world.crash(NodeId(id));
        }
        for id in 1..=3 {
            world.start(id).await.expect("starts");
        }
        for id in 1..=3 {
            assert_eq!(world.read(NodeId(id), "key-0").await.as_deref(), Some("200"));
        }
    });
}

#[test]
fn what_is_kept_for_followers_is_bounded_by_bytes_too() {
    in_a_world(|| async {
        let world = World::keeping(9, 1_000_000, 2 * SEGMENT_BYTES).await;
        for round in 0..4 {
            write_and_compact(&world, 1 + round * 200, 200).await;
        }
        for id in 1..=3 {
            world.run(NodeId(id)).consensus.compact(PATIENCE).await.expect("compacts");
            let segments = world.nodes[&NodeId(id)].disk.list("log").expect("listed");
            assert!(segments.len() < 8, "node {id} keeps {segments:?}");
        }
        // A node that lags by little is still served from the log.
        assert_eq!(world.read(NodeId(2), "key-0").await.as_deref(), Some("800"));
    });
}

#[test]
fn compactions_that_overlap_all_come_to_an_end() {
    in_a_world(|| async {
        let world = World::new(10, 5).await;
        let leader = world.leader().await;
        for round in 0..20 {
            world.write_key(2 * round + 1, "a", "1").await;
            let consensus = world.run(leader).consensus.clone();
            let first = world.run(leader).runtime.spawn(async move {
                consensus.compact(PATIENCE).await.expect("compacts");
            });
            tokio::time::sleep(Duration::from_micros(50 * round)).await;
            world.write_key(2 * round + 2, "a", "2").await;
            world.run(leader).consensus.compact(PATIENCE).await.expect("compacts");
            first.await.expect("it ends well");
        }
    });
}

#[test]
fn a_table_without_its_log_is_refused() {
    in_a_world(|| async {
        let mut world = World::new(11, 1_000).await;
        write_and_compact(&world, 1, 20).await;
        let victim = other_than(world.leader().await);
        world.crash(victim);
        // The log is lost, and with it the vote; the table is not.
        let disk = world.nodes[&victim].disk.clone();
        for name in disk.list("log").expect("listed") {
            disk.remove(&format!("log/{name}")).expect("removed");
        }
        disk.sync_dir("log").expect("synced");
        let refused = world.start(victim.0).await.expect_err("refuses").to_string();
        assert!(refused.contains("has no vote"), "{refused}");
    });
}

#[test]
fn a_table_older_than_the_log_is_refused() {
    in_a_world(|| async {
        let mut world = World::new(7, 5).await;
        write_and_compact(&world, 1, 60).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let victim = other_than(world.leader().await);
        world.crash(victim);
        // The table is lost, the log is not.
        let disk = world.nodes[&victim].disk.clone();
        for name in disk.list("").expect("listed") {
            if name.starts_with("table") {
                disk.remove(&name).expect("removed");
            }
        }
        disk.sync_dir("").expect("synced");
        let refused = world.start(victim.0).await.expect_err("refuses").to_string();
        assert!(refused.contains("older than the log"), "{refused}");
    });
}

#[test]
fn a_failed_sync_stops_the_group_on_that_node_and_says_so() {
    in_a_world(|| async {
        let world = World::new(8, 1_000).await;
        let leader = world.leader().await;
        world.write_key(1, "a", "1").await;
        world.nodes[&leader].disk.fail_next_sync();
        let run = world.run(leader);
        let deadline = run.runtime.now() + Duration::from_secs(5);
        let write = put("a", "2", None);
        let command = Command::Data(vec![submission(session(9, 1, 2, 0), 1, vec![write])]);
        // Its own disk failed; a majority may have it all the same.
        let _ = run.consensus.propose(command, deadline).await;
        let reason = tokio::time::timeout(PATIENCE, run.consensus.stopped()).await;
        assert!(!reason.expect("it stops").is_empty());
        assert!(run.consensus.status().stopped.is_some());
        run.consensus.shutdown().await;
    });
}

#[test]
fn the_same_seed_gives_the_same_elections() {
    let trace = |seed| {
        in_a_world(|| async move {
            let mut world = World::new(seed, 1_000).await;
            let started = world.run(NodeId(1)).runtime.now();
            let mut trace = Vec::new();
            for round in 0..3 {
                let leader = world.leader().await;
                world.write_key(round + 1, "a", "1").await;
                let status = world.run(leader).consensus.status();
                let elapsed = world.run(leader).runtime.now() - started;
                trace.push((leader, status.term, status.applied_index, elapsed));
                world.crash(leader);
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.start(leader.0).await.expect("starts");
            }
            trace
        })
    };
    assert_eq!(trace(1), trace(1));
    assert_eq!(trace(2), trace(2));
}
