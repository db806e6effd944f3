//! Large snapshots: while one is on its way and being installed, the group goes on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::storage::RaftStateMachine;

use super::support::*;
use super::world::*;
use crate::consensus::messages::{SnapshotAnswer, SnapshotMessage};
use crate::consensus::snapshot_receiver::Receiver;
use crate::consensus::state_machine::StateMachine;
use crate::types::NodeId;

/// A group whose leader has a megabyte and a half of rows, and a node that lacks them all and has just been
/// started; snapshots go at so many bytes a second.
async fn with_one_behind(seed: u64, bytes_per_s: u64) -> (World, NodeId, NodeId) {
    let mut world = World::new(seed, 5).await;
    world.write_key(1, "old", "1").await;
    world.snapshot_bytes_per_s = bytes_per_s;
    for id in 1..=3 {
        world.crash(NodeId(id));
        world.start(id).await.expect("starts");
    }
    let leader = world.leader().await;
    let behind = other_than(leader);
    world.crash(behind);
    for sequence in 2..200 {
        let value = "x".repeat(10_000);
        world.write_key(sequence, &format!("key-{sequence}"), &value).await;
    }
    for (_, run) in world.running() {
        run.consensus.compact(PATIENCE).await.expect("compacts");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.start(behind.0).await.expect("starts");
    (world, leader, behind)
}

fn is_installing(world: &World, node: NodeId) -> bool {
    world.run(node).consensus.status().installing
}

/// Waits until a node installs, or does so no more.
async fn until_installing(world: &World, node: NodeId, installing: bool, within: Duration) {
    let began = world.run(node).runtime.now();
    while is_installing(world, node) != installing {
        let waited = world.run(node).runtime.now() - began;
        assert!(waited < within, "installing is {} after {waited:?}", !installing);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn installed(world: &World, node: NodeId) -> u64 {
    world.run(node).metrics.snapshots_installed.get()
}

#[test]
fn a_snapshot_is_sent_and_installed_no_faster_than_the_settings_say() {
    in_a_world(|| async {
        // Two megabytes: some eight seconds on their way, and as many into the table.
        let (world, _, behind) = with_one_behind(72, 256 << 10).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!is_installing(&world, behind), "it came over too quickly");
        until_installing(&world, behind, true, Duration::from_secs(8)).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(is_installing(&world, behind), "it was installed too quickly");
        until_installing(&world, behind, false, Duration::from_secs(8)).await;
        assert_eq!(world.read(behind, "key-9").await.map(|it| it.len()), Some(10_000));
        assert_eq!(installed(&world, behind), 1);
    });
}

#[test]
fn a_snapshot_may_take_longer_to_install_than_silence_is_borne() {
    in_a_world(|| async {
        let (world, leader, behind) = with_one_behind(74, 16 << 10).await;
        until_installing(&world, behind, true, Duration::from_secs(200)).await;
        let began = world.run(behind).runtime.now();
        until_installing(&world, behind, false, Duration::from_secs(200)).await;
        assert!(world.run(behind).runtime.now() - began > Duration::from_secs(60));
        world.write_key(300, "new", "1").await;
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        assert_eq!(installed(&world, behind), 1, "it was sent again");
        assert_eq!(world.run(leader).metrics.snapshots_sent.get(), 1);
    });
}

#[test]
fn a_node_that_installs_keeps_its_leader_in_office_and_makes_haste_where_it_is_needed() {
    in_a_world(|| async {
        // Two minutes to install, if nobody waits for it.
        let (mut world, leader, behind) = with_one_behind(75, 16 << 10).await;
        until_installing(&world, behind, true, Duration::from_secs(200)).await;
        let term = world.run(leader).consensus.status().term;
        // The other one dies: the leader and the node that installs are all there is.
        let other = (1..=3).map(NodeId).find(|id| *id != leader && *id != behind).expect("three");
        world.crash(other);
        let confirmed = || async {
            let run = world.run(leader);
            let deadline = run.runtime.now() + Duration::from_secs(1);
            run.consensus.read_index(deadline).await
        };
        let mut rounds = 0;
        while is_installing(&world, behind) {
            confirmed().await.expect("reads go on");
            rounds += 1;
        }
        assert!(rounds > 0, "none was confirmed while it installed");
        let began = world.run(leader).runtime.now();
        world.write_key(300, "new", "1").await;
        let waited = world.run(leader).runtime.now() - began;
        assert!(waited < Duration::from_secs(5), "a write waits for {waited:?}");
        assert_eq!(world.run(leader).consensus.status().term, term, "the leader fell");
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
    });
}

#[test]
fn haste_is_made_within_seconds_of_the_loss_of_another() {
    in_a_world(|| async {
        let (mut world, leader, behind) = with_one_behind(76, 16 << 10).await;
        // While pages are on their way; there are two minutes' worth of them.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let other = (1..=3).map(NodeId).find(|id| *id != leader && *id != behind).expect("three");
        world.crash(other);
        let began = world.run(leader).runtime.now();
        world.write_key(300, "new", "1").await;
        let waited = world.run(leader).runtime.now() - began;
        assert!(waited < Duration::from_secs(25), "a write waits for {waited:?}");
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
    });
}

#[test]
fn a_new_leader_that_needs_the_node_that_installs_has_it_make_haste() {
    in_a_world(|| async {
        // Two minutes to install, at the word of a leader that dies for good.
        let (mut world, leader, behind) = with_one_behind(79, 16 << 10).await;
        until_installing(&world, behind, true, Duration::from_secs(200)).await;
        let began = world.run(behind).runtime.now();
        world.crash(leader);
        world.write_key(300, "new", "1").await;
        let waited = world.run(behind).runtime.now() - began;
        assert!(waited < Duration::from_secs(20), "a write waits for {waited:?}");
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        assert_eq!(world.read(behind, "key-9").await.map(|it| it.len()), Some(10_000));
    });
}

#[test]
fn what_a_failed_install_left_is_kept_and_a_deposed_leader_disturbs_no_transfer() {
    in_a_world(|| async {
        let world = World::new(80, 3).await;
        let node = other_than(world.leader().await);
        let consensus = &world.run(node).consensus;
        let (raft, machine) = (consensus.leadership.raft.clone(), consensus.machine.clone());
        let vote = raft.metrics().borrow_watched().vote;
        let mut receiver = Receiver::new(raft, machine.clone());
        let begin = |transfer| SnapshotMessage::Begin { transfer, vote, in_haste: false };
        assert!(matches!(receiver.take(begin(1)).await, SnapshotAnswer::Taken));
        let page = |transfer, number| {
            let page = Bytes::from_static(b"page");
            SnapshotMessage::Page { transfer, number, checksum: crc32c::crc32c(&page), page }
        };
        assert!(matches!(receiver.take(page(9, 0)).await, SnapshotAnswer::Rejected(_)));
        assert!(matches!(receiver.take(page(1, 0)).await, SnapshotAnswer::Taken), "it goes on");
        assert!(matches!(receiver.take(page(1, 7)).await, SnapshotAnswer::Has(1)));
        // As it is where installing it has failed: the rows are half replaced.
        machine.installs.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(receiver.take(begin(2)).await, SnapshotAnswer::Installing));
        machine.installs.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(receiver.take(page(1, 7)).await, SnapshotAnswer::Has(1)), "it is there");
    });
}

#[test]
fn openraft_hears_of_no_checkpoint_of_a_table_that_is_ahead_of_it() {
    in_a_world(|| async {
        let world = World::new(81, 3).await;
        let leader = world.leader().await;
        let machine = world.run(leader).consensus.machine.clone();
        let mut store = StateMachine(machine.clone());
        machine.untold.set(true);
        assert!(store.try_create_snapshot_builder(false).await.is_none());
        machine.untold.set(false);
        let mut builder = store.try_create_snapshot_builder(false).await.expect("a builder");
        let asked_at = machine.applied();
        world.write_key(2, "later", "1").await;
        let built = builder.build_snapshot().await.expect("built");
        assert_eq!(built.meta.last_log_id, asked_at, "no more than when it was asked");
    });
}

#[test]
fn a_leader_may_change_while_a_snapshot_is_being_installed() {
    in_a_world(|| async {
        let (mut world, leader, behind) = with_one_behind(77, 512 << 10).await;
        until_installing(&world, behind, true, Duration::from_secs(60)).await;
        world.crash(leader);
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.start(leader.0).await.expect("starts");
        until_installing(&world, behind, false, Duration::from_secs(60)).await;
        world.write_key(300, "new", "1").await;
        assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        assert_eq!(world.read(behind, "key-9").await.map(|it| it.len()), Some(10_000));
        assert!(installed(&world, behind) >= 1);
        for id in 1..=3 {
            world.run(NodeId(id)).consensus.compact(PATIENCE).await.expect("compacts");
        }
    });
}

#[test]
fn a_crash_while_rows_are_replaced_is_recovered_from_with_the_log_as_it_was() {
    for seconds in [0, 2, 5, 9] {
        in_a_world(|| async {
            let (mut world, _, behind) = with_one_behind(78 + seconds, 256 << 10).await;
            until_installing(&world, behind, true, Duration::from_secs(20)).await;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            world.crash(behind);
            world.start(behind.0).await.expect("starts");
            world.write_key(300, "new", "1").await;
            assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
            assert_eq!(world.read(behind, "key-9").await.map(|it| it.len()), Some(10_000));
            // And once more, now that openraft has closed the gap.
            world.crash(behind);
            world.start(behind.0).await.expect("starts");
            assert_eq!(world.read(behind, "new").await.as_deref(), Some("1"));
        });
    }
}
