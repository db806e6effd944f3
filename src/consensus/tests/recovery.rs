//! Reopening: what was promised before a crash is there after it.

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::support::*;
use crate::consensus::raft_types::Vote;
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{LogUser, Position};
use crate::types::NodeId;

const CACHE_BYTES: u64 = 1 << 20;

fn vote(term: u64) -> Vote {
    Vote::new(term, NodeId(1))
}

/// Crashes the node and its disk, and gives a new run of it.
fn crash(disk: &SimDisk, runtime: &Runtime) -> Runtime {
    runtime.kill();
    disk.crash();
    Runtime::simulated(runtime.random_u64(), 1_000)
}

#[test]
fn votes_entries_truncations_and_purges_survive_a_crash() {
    for seed in 0..20 {
        in_a_world(|| async {
            let (disk, runtime) = (SimDisk::new(seed), Runtime::simulated(seed, 1_000));
            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            store.save_vote(&vote(1)).await.expect("saved");
            append(&mut store, (0..20).map(|index| blank(1, index)).collect()).await.expect("ok");
            store.truncate_after(Some(log_id(1, 11))).await.expect("truncated");
            store.save_vote(&vote(2)).await.expect("saved");
            store.save_committed(Some(log_id(1, 11))).await.expect("saved");
            append(&mut store, vec![blank(2, 12), blank(2, 13)]).await.expect("appended");
            store.purge(log_id(1, 4)).await.expect("purged");

            let runtime = crash(&disk, &runtime);
            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            let mut expected: Vec<_> = (5..12).map(|index| (1, index)).collect();
            expected.extend([(2, 12), (2, 13)]);
            assert_eq!(log_ids(&mut store).await, expected);
            let state = store.get_log_state().await.expect("a state");
            assert_eq!(state.last_purged_log_id, Some(log_id(1, 4)));
            assert_eq!(state.last_log_id, Some(log_id(2, 13)));
            let mut reader = store.get_log_reader().await;
            assert_eq!(reader.read_vote().await.expect("a vote"), Some(vote(2)));
            let committed = store.read_committed().await.expect("a position");
            assert_eq!(committed, Some(log_id(1, 11)));
        });
    }
}

#[test]
fn a_crash_keeps_a_prefix_that_holds_everything_acknowledged() {
    let mut lost_some = false;
    for seed in 0..40 {
        in_a_world(|| async {
            let (disk, runtime) = (SimDisk::new(seed), Runtime::simulated(seed, 1_000));
            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            append(&mut store, (0..5).map(|index| blank(1, index)).collect()).await.expect("ok");
            for index in 5..9 {
                let durable = append_later(&mut store, vec![blank(1, index)]).await.expect("ok");
                drop(durable);
            }
            // Some of it may be on its way to the disk by now.
            runtime.sleep(std::time::Duration::from_micros(seed * 100)).await;
            let runtime = crash(&disk, &runtime);
            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            let ids = log_ids(&mut store).await;
            assert!(ids.len() >= 5, "acknowledged entries are gone: {ids:?}");
            assert_eq!(ids, (0..ids.len() as u64).map(|index| (1, index)).collect::<Vec<_>>());
            lost_some |= ids.len() < 9;
            // It goes on from there.
            let next = ids.len() as u64;
            append(&mut store, vec![blank(2, next)]).await.expect("appended");
            assert_eq!(log_ids(&mut store).await.len() as u64, next + 1);
        });
    }
    assert!(lost_some, "no crash came in time to lose anything");
}

#[test]
fn a_vote_is_never_before_the_entries_appended_before_it() {
    // A node that promised a new term must not come back with the promise and without the entries
    // that it had acknowledged, nor with entries that it appended after the promise alone.
    for seed in 0..30 {
        in_a_world(|| async {
            let (disk, runtime) = (SimDisk::new(seed), Runtime::simulated(seed, 1_000));
            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            store.save_vote(&vote(1)).await.expect("saved");
            append_later(&mut store, vec![blank(1, 0)]).await.expect("appended");
            let mut voter = store.clone();
            let saving = runtime.spawn(async move { voter.save_vote(&vote(2)).await });
            runtime.sleep(std::time::Duration::from_micros(1 + seed * 50)).await;
            append_later(&mut store, vec![blank(2, 1)]).await.expect("appended");
            runtime.sleep(std::time::Duration::from_micros(seed * 70)).await;
            let acknowledged = saving.is_finished();
            let runtime = crash(&disk, &runtime);

            let mut store = open_store(&disk, &runtime, CACHE_BYTES);
            let found = store.get_log_reader().await.read_vote().await.expect("readable");
            let ids = log_ids(&mut store).await;
            assert!(!acknowledged || found == Some(vote(2)), "an acknowledged vote is gone");
            if found == Some(vote(2)) {
                assert!(!ids.is_empty(), "the vote came before the entry");
            }
            if ids.contains(&(2, 1)) {
                assert_eq!(found, Some(vote(2)), "the entry came before the vote");
            }
        });
    }
}

#[test]
fn a_torn_tail_costs_the_last_record_alone() {
    in_a_world(|| async {
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let mut store = open_store(&disk, &runtime, CACHE_BYTES);
        append(&mut store, vec![blank(1, 0), blank(1, 1)]).await.expect("appended");
        let before = store.0.log.end().0;
        append(&mut store, vec![blank(1, 2)]).await.expect("appended");
        let after = store.0.log.end().0;
        drop(store);
        let name = disk.list("log").expect("listed").remove(0);
        let path = format!("log/{name}");
        let whole = disk.contents(&path).expect("a segment");
        let header = whole.len() as u64;
        assert!(header >= after, "the segment holds what was appended");
        let runtime = crash(&disk, &runtime);
        // Every cut inside of the last record.
        for cut in (1..=(after - before)).map(|missing| header - missing) {
            let torn = SimDisk::new(1);
            let file = torn.create(&path).expect("created");
            file.write_all_at(&whole[..cut as usize], 0).expect("written");
            let mut store = open_store(&torn, &runtime, CACHE_BYTES);
            assert_eq!(log_ids(&mut store).await, [(1, 0), (1, 1)], "cut at {cut}");
        }
    });
}

#[test]
fn a_purge_beyond_the_end_starts_the_log_anew() {
    in_a_world(|| async {
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let mut store = open_store(&disk, &runtime, CACHE_BYTES);
        append(&mut store, (0..3).map(|index| blank(1, index)).collect()).await.expect("ok");
        store.purge(log_id(2, 100)).await.expect("purged");
        append(&mut store, vec![blank(2, 101)]).await.expect("appended");
        let runtime = crash(&disk, &runtime);
        let mut store = open_store(&disk, &runtime, CACHE_BYTES);
        assert_eq!(log_ids(&mut store).await, [(2, 101)]);
        let gap = append(&mut store, vec![blank(2, 103)]).await;
        assert!(gap.is_err(), "a gap was taken");
    });
}

#[test]
fn a_few_old_entries_do_not_hold_the_log_back() {
    in_a_world(|| async {
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let mut store = open_store(&disk, &runtime, CACHE_BYTES);
        store.save_vote(&vote(1)).await.expect("saved");
        append(&mut store, (0..3).map(|index| blank(1, index)).collect()).await.expect("ok");
        store.save_vote(&vote(7)).await.expect("saved");
        // What another user of the log writes.
        use crate::storage::log::{Kind, NewRecord};
        for _ in 0..8 {
            let payload = vec![7; 1 << 10].into();
            let record = NewRecord { kind: Kind::ReplicaWrites, payload };
            store.0.log.append_durably(vec![record]).await.expect("durable");
        }
        let start = store.0.log.start();
        store.release().await.expect("released");
        assert!(store.0.log.start() > start, "the log was not cut");
        append(&mut store, vec![blank(7, 3)]).await.expect("appended");

        let runtime = crash(&disk, &runtime);
        let mut store = open_store(&disk, &runtime, 0);
        assert_eq!(log_ids(&mut store).await, [(1, 0), (1, 1), (1, 2), (7, 3)]);
        let found = store.get_log_reader().await.read_vote().await.expect("readable");
        assert_eq!(found, Some(vote(7)));
    });
}

#[test]
fn entries_out_of_memory_are_read_back_whole() {
    in_a_world(|| async {
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let mut store = open_store(&disk, &runtime, 2_000);
        let mut written = Vec::new();
        for index in 0..60 {
            let write = put("key", vec![index as u8; 100], None);
            let submission = submission(session(1, 1, index + 1, 0), 1, vec![write]);
            let command = crate::consensus::Command::Data(vec![submission]);
            written.push(entry(1, index, &command));
            append(&mut store, vec![written[index as usize].clone()]).await.expect("appended");
        }
        assert_eq!(entries(&mut store).await, written);
        let mut reader = store.get_log_reader().await;
        let some = reader.limited_get_log_entries(10, 59).await.expect("readable");
        assert_eq!(some[..], written[10..10 + some.len()]);
        store.truncate_after(Some(log_id(1, 30))).await.expect("truncated");
        assert_eq!(entries(&mut store).await, written[..31]);
    });
}

#[test]
fn a_group_that_has_nothing_yet_does_not_hold_back_the_log_of_others() {
    in_a_world(|| async {
        use crate::storage::log::{Kind, NewRecord};
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let store = open_store(&disk, &runtime, 0);
        for _ in 0..8 {
            let payload = vec![7; 1 << 10].into();
            let record = NewRecord { kind: Kind::ReplicaWrites, payload };
            store.0.log.append_durably(vec![record]).await.expect("durable");
        }
        let start = store.0.log.start();
        store.release().await.expect("released");
        assert!(store.0.log.start() > start, "the log was not cut");
    });
}

#[test]
fn a_vote_that_comes_while_nothing_is_released_is_not_released() {
    in_a_world(|| async {
        use crate::storage::log::{Kind, NewRecord};
        let replica_writes = |bytes: usize| {
            vec![NewRecord { kind: Kind::ReplicaWrites, payload: vec![7; bytes].into() }]
        };
        let (disk, runtime) = (SimDisk::new(1), Runtime::simulated(1, 1_000));
        let mut store = open_store(&disk, &runtime, 0);
        store.0.log.append_durably(replica_writes(100)).await.expect("durable");
        let (release, new) = (store.clone(), vote(7));
        // Both are under way before anything is durable.
        let (released, saved) = tokio::join!(release.release(), store.save_vote(&new));
        released.expect("released");
        saved.expect("saved");
        // Begins another segment, whose beginning is where the vote ends.
        store.0.log.append_durably(replica_writes(5 << 10)).await.expect("durable");
        store.0.log.release(LogUser::Raft, Position::default()).expect("released");

        let runtime = crash(&disk, &runtime);
        let mut store = open_store(&disk, &runtime, 0);
        let found = store.get_log_reader().await.read_vote().await.expect("readable");
        assert_eq!(found, Some(vote(7)));
    });
}
