//! Deletions that are forgotten, and what must not come back for it.

use super::*;
use crate::planted::{self, Bug};
use crate::replication::leaderless::horizons::{Horizon, Late};
use crate::replication::leaderless::messages::StoredWrite;
use crate::replication::leaderless::replica::ReplicaError;
use crate::replication::leaderless::tally::Taken;

/// How long deletions stay at least in these tests.
const GRACE_MS: u64 = 8_000;

/// Long enough for a horizon to be raised past what was there when the grace began, and to be swept.
const COLLECTED_MS: u64 = GRACE_MS + 8_000;

fn collects(settings: &mut Settings) {
    settings.leaderless.tombstone_grace = Duration::from_millis(GRACE_MS);
}

fn collects_and_hints(settings: &mut Settings) {
    collects(settings);
    settings.leaderless.hint_bytes = 1 << 20;
}

impl Cluster {
    /// What lies in a node's table under a key.
    fn row(&self, id: u16, text: &str) -> Option<Bytes> {
        self.node(id).leaderless.core.table.get(&rows::data_row(&key(text))).expect("a table")
    }

    /// How many rows of a node's table say that a key is deleted, or will be.
    fn collectable(&self, id: u16) -> usize {
        let core = &self.node(id).leaderless.core;
        let rows = |partition| {
            let (from, to) = rows::collectable_range(partition);
            core.table.scan_keys(&from, &to, usize::MAX).expect("a table").len()
        };
        Partition::all().map(rows).sum()
    }

    /// Has a node's replica take a record, as a client's write or as a repair.
    async fn take(
        &self,
        id: u16,
        text: &str,
        record: &Bytes,
        survived_ms: Option<u64>,
    ) -> Result<Taken, Late> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |result: Result<Vec<Result<Taken, Late>>, ReplicaError>| {
            sender.send(result.expect("a replica that works")[0]).expect("somebody waits");
        };
        let write = StoredWrite { key: key(text), record: record.clone(), survived_ms };
        self.node(id).leaderless.core.replica.write(write, Box::new(done));
        receiver.await.expect("an answer")
    }

    fn horizon(&self, id: u16, text: &str) -> Horizon {
        self.node(id).leaderless.core.replica.horizon(key(text).partition())
    }
}

/// A cluster that has forgotten the delete of "a"; and what was written before it.
async fn forgotten(seed: u64, settings: fn(&mut Settings)) -> (Cluster, Bytes) {
    let cluster = Cluster::start_with(3, seed, settings).await;
    cluster.put(1, "a", "old").await;
    cluster.put(1, "kept", "for ever").await;
    cluster.settle().await;
    let old = cluster.row(2, "a").expect("a value");
    cluster.delete(2, "a").await;
    cluster.sleep_ms(COLLECTED_MS).await;
    for id in 1..=3 {
        assert_eq!(cluster.row(id, "a"), None, "node {id} keeps the tombstone");
        assert_eq!(cluster.collectable(id), 0);
        assert_eq!(cluster.node(id).metrics.deletions_collected.get(), 1);
    }
    (cluster, old)
}

#[test]
fn deletions_are_dropped_and_nothing_else() {
    in_a_paused_world(async {
        let (cluster, _) = forgotten(1, collects).await;
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None);
            assert_eq!(cluster.get(id, "kept").await.as_deref(), Some("for ever"));
        }
        cluster.put(3, "a", "again").await;
        cluster.sleep_ms(COLLECTED_MS).await;
        assert_eq!(cluster.get(1, "a").await.as_deref(), Some("again"));
    });
}

#[test]
fn nothing_is_dropped_while_a_replica_is_away() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 2, collects).await;
        cluster.put(1, "a", "old").await;
        cluster.settle().await;
        cluster.isolate(3);
        cluster.settle().await;
        cluster.delete(1, "a").await;
        cluster.sleep_ms(3 * COLLECTED_MS).await;
        for id in 1..=2 {
            assert!(cluster.row(id, "a").is_some(), "node {id} forgot what node 3 never heard of");
        }
        cluster.plan.heal();
        cluster.sleep_ms(COLLECTED_MS).await;
        for id in 1..=3 {
            assert_eq!(cluster.row(id, "a"), None);
            assert_eq!(cluster.get(id, "a").await, None, "it came back at node {id}");
        }
    });
}

/// Node 3 can be reached, and has not got the delete: nobody compares, reads, or keeps hints.
async fn missed_delete_is_brought_first() {
    let cluster = Cluster::start_with(3, 12, collects).await;
    cluster.put(1, "a", "old").await;
    cluster.settle().await;
    cluster.lose_requests(1, 3);
    cluster.delete(1, "a").await;
    cluster.plan.heal();
    cluster.sleep_ms(COLLECTED_MS).await;
    for id in 1..=3 {
        assert_eq!(cluster.row(id, "a"), None, "node {id}");
    }
}

#[test]
fn what_a_replica_missed_is_brought_to_it_before_anybody_forgets_it() {
    in_a_paused_world(missed_delete_is_brought_first());
    let world = || in_a_paused_world(missed_delete_is_brought_first());
    assert!(fails_with(Bug::CollectedWithoutProof, world));
}

#[test]
fn what_expired_is_dropped_on_every_replica_alike() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 3, collects).await;
        for (text, ttl_ms) in [("soon", 2_000), ("late", 600_000)] {
            let change = Change::put(Bytes::from_static(b"v"), None, Some(ttl_ms));
            let write = Write { change, ..put(text, "") };
            let answer = cluster.node(1).leaderless.write(write, cluster.options()).await;
            answer.expect("an acknowledged put");
        }
        cluster.sleep_ms(COLLECTED_MS + 2_000).await;
        for id in 1..=3 {
            assert_eq!((cluster.row(id, "soon"), cluster.collectable(id)), (None, 1));
            assert_eq!(cluster.get(id, "late").await.as_deref(), Some("v"));
        }
    });
}

#[test]
fn what_is_newer_than_a_tombstone_is_not_dropped_with_it() {
    in_a_paused_world(async {
        let cluster = Cluster::start_with(3, 4, collects).await;
        cluster.put(1, "a", "old").await;
        cluster.delete(1, "a").await;
        cluster.put(1, "a", "new").await;
        cluster.delete(1, "b").await;
        cluster.sleep_ms(COLLECTED_MS).await;
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await.as_deref(), Some("new"));
            assert_eq!((cluster.row(id, "b"), cluster.collectable(id)), (None, 0));
        }
    });
}

async fn late_write_is_refused() {
    let (cluster, old) = forgotten(5, collects_and_hints).await;
    for id in 1..=3 {
        assert_eq!(cluster.take(id, "a", &old, None).await, Err(Late::TooOld), "node {id}");
        assert_eq!(cluster.node(id).metrics.writes_too_late.get(), 1);
    }
    // A hint that waited for as long.
    let core = &cluster.node(1).leaderless.core;
    core.hints.note(NodeId(3), &key("a"), &old);
    cluster.settle().await;
    assert_eq!(core.hints.bytes_for(NodeId(3)), 0, "it is of no use to anybody");
    assert_eq!(cluster.node(1).metrics.hints_dropped.get(), 1);
    assert_eq!(cluster.get(2, "a").await, None);
}

#[test]
fn a_write_or_a_hint_from_before_is_refused() {
    in_a_paused_world(late_write_is_refused());
    assert!(fails_with(Bug::LateWriteTaken, || in_a_paused_world(late_write_is_refused())));
}

async fn stale_repair_is_refused() {
    let (cluster, old) = forgotten(6, collects).await;
    let reached_ms = cluster.horizon(1, "a").reached_ms;
    for id in 1..=3 {
        // It was read before the deletion came to where it was read, and was on its way since.
        assert_eq!(cluster.take(id, "a", &old, Some(reached_ms - 1)).await, Err(Late::TooOld));
    }
    // What was read from one that has reached the same has survived it.
    assert_eq!(cluster.take(1, "a", &old, Some(reached_ms)).await, Ok(Taken::Newest));
}

#[test]
fn a_repair_of_what_was_read_before_is_refused() {
    in_a_paused_world(stale_repair_is_refused());
    assert!(fails_with(Bug::StaleRepairTaken, || in_a_paused_world(stale_repair_is_refused())));
}

fn fails_with(bug: Bug, world: impl Fn() + std::panic::RefUnwindSafe) -> bool {
    planted::with(bug, || std::panic::catch_unwind(&world).is_err())
}

#[test]
fn promises_outlive_a_restart() {
    in_a_paused_world(async {
        let (mut cluster, old) = forgotten(7, collects).await;
        let before = cluster.horizon(2, "a");
        assert!(before.reached_ms > 0);
        // Once out of the log, and once out of a checkpoint.
        for checkpoint in [false, true] {
            if checkpoint {
                let node = cluster.node(2).leaderless.clone();
                Replicator::checkpoint(&*node).await.expect("a checkpoint");
            }
            cluster.crash(2);
            cluster.start_node(2);
            assert!(cluster.horizon(2, "a").reached_ms >= before.reached_ms);
            assert_eq!(cluster.take(2, "a", &old, None).await, Err(Late::TooOld));
            // What it dropped came back with the log, and goes again.
            cluster.settle().await;
            assert_eq!(cluster.row(2, "a"), None);
        }
    });
}

#[test]
fn who_comes_to_hold_a_partition_takes_on_what_others_promised() {
    in_a_paused_world(async {
        let (mut cluster, old) = forgotten(8, collects).await;
        let promised_ms = cluster.horizon(1, "a").promised_ms;
        cluster.join(4);
        cluster.settle().await;
        cluster.begin(2, &[2, 3, 4]).await;
        cluster.stands(&[2, 3, 4]).await;
        assert!(cluster.horizon(4, "a").promised_ms >= promised_ms);
        assert_eq!(cluster.take(4, "a", &old, None).await, Err(Late::TooOld));
        // And has a part in what is collected from then on.
        cluster.delete(3, "kept").await;
        cluster.sleep_ms(2 * COLLECTED_MS).await;
        for id in 2..=4 {
            assert_eq!(cluster.row(id, "kept"), None, "node {id}");
            assert_eq!(cluster.get(id, "a").await, None);
        }
    });
}

#[test]
fn a_clock_that_runs_ahead_has_nobodys_writes_refused() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 9, collects).await;
        cluster.put(2, "a", "old").await;
        cluster.delete(2, "a").await;
        // Node 1 raises the horizons; by its clock the grace is over at once.
        cluster.set_skew_ms(1, 3_600_000);
        cluster.sleep_ms(COLLECTED_MS).await;
        let now_ms = WALL_MS + COLLECTED_MS;
        for id in 1..=3 {
            let Horizon { promised_ms, reached_ms } = cluster.horizon(id, "a");
            assert!(promised_ms <= now_ms - GRACE_MS / 2, "node {id} refuses what comes now");
            assert!(reached_ms > 0, "and deletions are collected all the same");
        }
        cluster.put(2, "a", "new").await;
        cluster.settle().await;
        for id in 1..=3 {
            assert!(cluster.row(id, "a").is_some(), "node {id}");
        }
    });
}

#[test]
fn a_clock_that_is_behind_slows_collection_and_does_not_end_it() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start_with(3, 11, collects).await;
        cluster.put(2, "a", "old").await;
        cluster.delete(2, "a").await;
        cluster.set_skew_ms(3, -(GRACE_MS as i64) * 3 / 4);
        cluster.sleep_ms(GRACE_MS + COLLECTED_MS).await;
        for id in 1..=3 {
            assert_eq!((cluster.row(id, "a"), cluster.collectable(id)), (None, 0), "node {id}");
        }
    });
}

#[test]
fn a_write_through_a_clock_that_is_far_behind_is_refused_and_says_why() {
    in_a_paused_world(async {
        let (mut cluster, _) = forgotten(10, collects).await;
        cluster.crash(3);
        cluster.skews_ms.insert(NodeId(3), -3_600_000);
        cluster.disks.insert(NodeId(3), SimDisk::new(77));
        cluster.start_node(3);
        cluster.settle().await;
        let refused = cluster.try_put(3, "a", "late").await.expect_err("it is from before");
        assert!(refused.to_string().contains("a node whose clock is behind"), "{refused}");
        assert_eq!(cluster.get(1, "a").await, None);
    });
}

#[test]
fn a_deletion_that_some_have_collected_is_none_to_reads_and_comparisons() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 13).await;
        cluster.put(1, "a", "old").await;
        cluster.delete(1, "a").await;
        cluster.settle().await;
        // As where node 3 was cut off before it heard that it is reached.
        let horizon = Horizon { promised_ms: WALL_MS + 60_000, reached_ms: WALL_MS + 60_000 };
        for id in 1..=2 {
            let core = &cluster.node(id).leaderless.core;
            let raised = core.change_horizons(&[key("a").partition()], move |_| Some(horizon));
            raised.1.await.expect("an answer").expect("a replica that works");
        }
        cluster.settle().await;
        let rows = [1, 2, 3].map(|id| cluster.row(id, "a").is_some());
        assert_eq!(rows, [false, false, true]);
        for id in 1..=3 {
            assert_eq!(cluster.get(id, "a").await, None, "node {id}");
            let listed = cluster.node(id).leaderless.list(list(), cluster.options()).await;
            assert!(listed.expect("a list").items.is_empty(), "node {id}");
        }
        cluster.settle().await;
        assert_eq!([1, 2, 3].map(|id| cluster.row(id, "a").is_some()), rows, "none is sent it");
        let leaderless = &cluster.node(3).leaderless;
        leaderless.start_repair().expect("started");
        cluster.sleep_ms(5_000).await;
        let status = leaderless.repair_status().expect("a status");
        assert!(!status.running, "{status:?}");
        assert!(status.peers.iter().all(|peer| (peer.repaired, &peer.error) == (0, &None)));
    });
}

#[test]
fn nothing_is_dropped_for_a_horizon_that_is_not_durable_yet() {
    in_a_paused_world(async {
        let cluster = Cluster::start(1, 14).await;
        cluster.delete(1, "a").await;
        cluster.settle().await;
        let core = &cluster.node(1).leaderless.core;
        let partitions = [key("a").partition()];
        let until = |ms: u64| Horizon { promised_ms: WALL_MS + ms, reached_ms: WALL_MS + ms };
        // What is swept for the first has not begun when the second is under way.
        let first = core.change_horizons(&partitions, |_| Some(until(1))).1.await;
        first.expect("an answer").expect("a replica that works");
        cluster.disks[&NodeId(1)].set_sync_delay(Duration::from_secs(3));
        let (_, raised) = core.change_horizons(&partitions, |_| Some(until(60_000)));
        cluster.sleep_ms(1_000).await;
        assert!(cluster.row(1, "a").is_some(), "the log does not have it");
        raised.await.expect("an answer").expect("a replica that works");
        cluster.settle().await;
        assert_eq!(cluster.row(1, "a"), None);
    });
}
