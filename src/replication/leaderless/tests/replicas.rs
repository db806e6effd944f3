//! Replicas: what they log, merge, replay and refuse.

use super::*;
use crate::replication::leaderless::messages::{self, StoredWrite};
use crate::replication::leaderless::tally::Taken;
use crate::storage::disk::{Disk, replace_file};
use crate::storage::log::Kind;

fn version(ms: u64) -> Version {
    Version::new((WALL_MS + ms) << 16, NodeId(9))
}

pub(super) fn record(ms: u64, value: &str) -> Bytes {
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    let content = Content::Value { bytes, content_type: None, expires_at_ms: None };
    encoding::encode(&Record { version: version(ms), content })
}

pub(super) fn stored(text: &str, record: &Bytes) -> StoredWrite {
    StoredWrite { key: key(text), record: record.clone(), survived_ms: None }
}

/// A replica alone, on a disk.
struct Alone {
    runtime: Runtime,
    table: Arc<dyn Table>,
    log: Arc<CommitLog>,
    replica: Replica,
    recovered: Recovered,
    metrics: Metrics,
}

fn alone(disk: &SimDisk) -> Alone {
    let runtime = Runtime::simulated(1, WALL_MS);
    let metrics = Metrics::new();
    let (table, log, recovered) = open(disk, &runtime, &metrics);
    let trees = Arc::new(Trees::new([]));
    let horizons = Arc::new(Horizons::load(&*table).expect("a table"));
    let replica =
        Replica::start(&runtime, table.clone(), trees, horizons, log.clone(), metrics.clone());
    Alone { runtime, table, log, replica, recovered, metrics }
}

impl Alone {
    async fn write(&self, batch: &[(&str, Bytes)]) -> Vec<Taken> {
        let writes: Vec<StoredWrite> =
            batch.iter().map(|(text, record)| stored(text, record)).collect();
        let payload = messages::encode_writes(writes.iter());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |result| sender.send(result).expect("somebody waits");
        self.replica.submit(payload, writes, Box::new(done));
        let taken: Vec<_> = receiver.await.expect("an answer").expect("a write that is taken");
        taken.into_iter().map(|taken| taken.expect("none is late")).collect()
    }

    fn held(&self, text: &str) -> Option<Bytes> {
        self.replica.read(&key(text)).expect("a table").record
    }

    fn applied(&self) -> Option<u64> {
        let applied = merge::applied_position(&*self.table).expect("a table");
        applied.map(|position| position.0)
    }

    fn crash(self, disk: &SimDisk) {
        self.runtime.kill();
        disk.crash();
    }
}

#[test]
fn the_newest_version_wins_in_whatever_order_and_however_often_it_comes() {
    in_a_paused_world(async {
        let alone = alone(&SimDisk::new(1));
        let (old, new) = (record(1, "old"), record(2, "new"));
        assert_eq!(alone.write(&[("a", new.clone())]).await, [Taken::Newest]);
        assert_eq!(alone.write(&[("a", old.clone())]).await, [Taken::SupersededBy(version(2))]);
        assert_eq!(alone.write(&[("a", new.clone())]).await, [Taken::Newest], "the same again");
        // Within one batch a later write sees the earlier ones.
        let batch = [("b", old.clone()), ("b", new.clone()), ("b", old)];
        let taken = [Taken::Newest, Taken::Newest, Taken::SupersededBy(version(2))];
        assert_eq!(alone.write(&batch).await, taken);
        assert_eq!((alone.held("a"), alone.held("b")), (Some(new.clone()), Some(new)));
        assert_eq!(alone.metrics.version_collisions.get(), 0);
    });
}

#[test]
fn two_records_under_one_version_end_the_same_everywhere_and_are_counted() {
    in_a_paused_world(async {
        let (one, other) = (record(1, "one"), record(1, "other"));
        let mut ends = Vec::new();
        for order in [[&one, &other], [&other, &one]] {
            let alone = alone(&SimDisk::new(1));
            for record in order {
                alone.write(&[("a", record.clone())]).await;
            }
            assert_eq!(alone.metrics.version_collisions.get(), 1);
            ends.push(alone.held("a"));
        }
        assert_eq!(ends[0], ends[1]);
    });
}

#[test]
fn whatever_was_answered_is_there_after_a_crash_at_any_moment() {
    in_a_paused_world(async {
        for seed in 0..40 {
            let disk = SimDisk::new(seed);
            let before = alone(&disk);
            let mut answered = Vec::new();
            for number in 0..20_u64 {
                let text = format!("key-{}", number % 7);
                before.write(&[(&text, record(number, "v"))]).await;
                answered.push((text, number));
                if number == seed % 20 {
                    before.table.checkpoint().expect("a checkpoint");
                }
            }
            // One more is under way when the power goes, at one of its stages.
            let done = Box::new(|_| ());
            before.replica.write(stored("late", &record(99, "late")), done);
            before.runtime.sleep(Duration::from_millis(seed % 4)).await;
            before.crash(&disk);
            let after = alone(&disk);
            for (text, number) in answered {
                let held = after.held(&text).expect("a row");
                let held = encoding::peek(&held).expect("a record").0;
                assert!(held >= version(number), "seed {seed}: {text} has {held}");
            }
            let late = after.held("late");
            assert!(late.is_none() || late == Some(record(99, "late")));
        }
    });
}

#[test]
fn replaying_changes_nothing_the_second_time_and_starts_after_what_is_applied() {
    in_a_paused_world(async {
        let disk = SimDisk::new(3);
        let first = alone(&disk);
        first.write(&[("a", record(1, "one"))]).await;
        first.table.checkpoint().expect("a checkpoint");
        let checkpointed = first.applied().expect("a position");
        first.write(&[("a", record(2, "two")), ("b", record(1, "one"))]).await;
        let applied = first.applied();
        assert!(applied > Some(checkpointed));
        first.crash(&disk);
        for _ in 0..3 {
            let again = alone(&disk);
            assert_eq!(again.recovered.applied.map(|position| position.0), applied);
            assert_eq!(again.applied(), applied, "in the table, with the rows");
            assert_eq!(again.held("a"), Some(record(2, "two")));
            assert_eq!(again.held("b"), Some(record(1, "one")));
            assert_eq!(again.metrics.version_collisions.get(), 0);
            again.crash(&disk);
        }
    });
}

#[test]
fn the_applied_position_changes_in_the_same_batch_as_the_rows() {
    in_a_paused_world(async {
        let alone = alone(&SimDisk::new(4));
        let mut merge = merge::Merge::new(&*alone.table, &alone.metrics);
        let write = stored("a", &record(1, "one"));
        merge.take(&write).expect("a table");
        let batch = merge.into_batch(crate::storage::log::Position(77));
        let (batch, _) = batch.expect("records");
        let rows: Vec<Bytes> = batch.changes.iter().map(|(row, _)| row.clone()).collect();
        assert_eq!(rows, [rows::data_row(&key("a")), rows::meta_row("replica-applied")]);
    });
}

#[test]
fn a_log_that_holds_nonsense_under_a_replicas_kind_is_not_replayed() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, WALL_MS);
        let disk = SimDisk::new(5);
        for kind in [Kind::ReplicaWrites, Kind::VersionCeiling] {
            let (table, _, _) = open(&disk, &runtime, &Metrics::new());
            let mut replay = ReplicaReplay::new(table, Metrics::new()).expect("a table");
            let position = crate::storage::log::Position(4_096);
            let record = crate::storage::log::ReplayedRecord { position, kind, payload: b"no" };
            assert!(replay.take(record).is_err());
        }
    });
}

#[test]
fn a_checkpoint_cuts_the_log_and_keeps_the_writes_and_the_ceiling() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(3, 6).await;
        // All at once, so that the one ceiling they need lies in a segment that is cut.
        let names: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
        let writes = names.iter().map(|text| cluster.put(1, text, "a value"));
        let answers = futures_util::future::join_all(writes).await;
        let last = answers.iter().map(|answer| answer.version).max().expect("some");
        let began = cluster.node(1).leaderless.core.log.start();
        Replicator::checkpoint(&*cluster.node(1).leaderless).await.expect("a checkpoint");
        assert!(cluster.node(1).leaderless.core.log.start() > began, "nothing was cut");
        cluster.put(1, "after", "too").await;
        cluster.crash(1);
        let reader = Runtime::simulated(1, WALL_MS);
        let (_, _, recovered) = open(&cluster.disks[&NodeId(1)], &reader, &Metrics::new());
        assert!(recovered.ceiling_ms > last.millis(), "the ceiling was cut off");
        reader.kill();
        cluster.start_node(1);
        for text in &names {
            assert!(cluster.held(1, text).is_some(), "{text}");
        }
        assert!(cluster.held(1, "after").is_some());
    });
}

#[test]
fn the_log_is_not_cut_beyond_what_is_merged() {
    in_a_paused_world(async {
        let alone = alone(&SimDisk::new(8));
        alone.write(&[("a", record(1, "one"))]).await;
        let merged = alone.replica.merged_up_to();
        assert_eq!(merged, alone.log.end());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |result| sender.send(result).expect("somebody waits");
        alone.replica.write(stored("b", &record(1, "one")), Box::new(done));
        assert_eq!(alone.replica.merged_up_to(), merged, "the second write is not merged yet");
        assert!(alone.log.end() > merged);
        receiver.await.expect("an answer").expect("a write that is taken");
        assert_eq!(alone.replica.merged_up_to(), alone.log.end());
    });
}

#[test]
fn checkpoints_under_load_and_crashes_lose_nothing() {
    in_a_paused_world(async {
        for seed in 0..10 {
            let mut cluster = Cluster::start(3, seed).await;
            let mut answered = Vec::new();
            for round in 0..4 {
                for number in 0..30 {
                    let text = format!("key-{round}-{number}");
                    cluster.put(1, &text, "a value of some length, to fill segments").await;
                    answered.push(text);
                    if number == 10 {
                        // Beside writes that are under way.
                        let node = cluster.node(1).leaderless.clone();
                        cluster.node(1).runtime.spawn(async move {
                            Replicator::checkpoint(&*node).await.expect("a checkpoint");
                        });
                    }
                }
                cluster.crash(1);
                cluster.start_node(1);
                cluster.settle().await;
            }
            for text in &answered {
                assert!(cluster.get(1, text).await.is_some(), "seed {seed}: {text}");
            }
            // A quorum has them all; this node has those that it was one of the quorum for.
            assert!(answered.iter().filter(|text| cluster.held(1, text).is_some()).count() > 60);
        }
    });
}

#[test]
fn a_table_that_is_ahead_of_its_log_refuses_to_start() {
    in_a_paused_world(async {
        let runtime = Runtime::simulated(1, WALL_MS);
        let disk = SimDisk::new(7);
        let metrics = Metrics::new();
        let (table, log, _) = open(&disk, &runtime, &metrics);
        let ahead = crate::storage::log::Position(log.end().0 + 1_000_000);
        table
            .apply(merge::Merge::new(&*table, &metrics).into_batch(ahead).expect("nothing").0)
            .expect("a table that takes rows");
        let replay = ReplicaReplay::new(table.clone(), metrics.clone()).expect("a table");
        let recovered = replay.finish().expect("nothing to merge");
        let refused = refusal(&runtime, (table, log, recovered));
        assert!(refused.contains("the commit log does not have"), "{refused}");
    });
}

/// Why a node does not start over this.
fn refusal(runtime: &Runtime, (table, log, recovered): Opened) -> String {
    let (network, metrics) = (MemoryNetwork::new(1), Metrics::new());
    let own = Hello {
        cluster: None,
        node: NodeId(1),
        incarnation: Incarnation(1),
        mode: Mode::Leaderless,
        client_address: "client".to_owned(),
        lane: Lane::Bulk,
        layout: 0,
        fixed_leader: None,
    };
    let greeter = Arc::new(BasicGreeter::new(own));
    let transport = network.transport(NodeId(1), runtime.clone(), greeter, metrics.clone());
    let peers = BTreeMap::from([(NodeId(1), "here".to_owned())]);
    let options = LeaderlessOptions {
        runtime: runtime.clone(),
        settings: Settings::defaults(NodeId(1), Mode::Leaderless, peers),
        founds: true,
        log,
        table,
        recovered,
        transport,
        control: Arc::new(ControlPlaneOfAll::default()).of(NodeId(1)),
        metrics,
    };
    Leaderless::start(options).map(|_| ()).expect_err("a refusal").to_string()
}

#[test]
fn a_table_that_is_gone_or_older_than_the_cut_log_refuses_to_start() {
    in_a_paused_world(async {
        let mut cluster = Cluster::start(1, 7).await;
        let disk = cluster.disks[&NodeId(1)].clone();
        let fill = "x".repeat(2 << 10);
        let mut tables = vec![None];
        for round in 0..2 {
            for number in 0..20 {
                cluster.put(1, &format!("key-{round}-{number}"), &fill).await;
            }
            let node = cluster.node(1).leaderless.clone();
            Replicator::checkpoint(&*node).await.expect("a checkpoint");
            tables.push(disk.contents("table"));
        }
        let newest = tables.pop().expect("two checkpoints");
        cluster.crash(1);
        let runtime = Runtime::simulated(1, WALL_MS);
        for older in tables {
            match older {
                Some(bytes) => replace_file(&disk, "table", &bytes).expect("a file"),
                None => disk.remove("table").expect("it was there"),
            }
            let refused = refusal(&runtime, open(&disk, &runtime, &Metrics::new()));
            assert!(refused.contains("begins after what the table holds"), "{refused}");
        }
        replace_file(&disk, "table", &newest.expect("a table")).expect("a file");
        cluster.start_node(1);
        assert!(cluster.held(1, "key-0-0").is_some());
    });
}

#[test]
fn a_ceiling_that_is_being_stored_is_not_cut_away() {
    in_a_paused_world(async {
        let disk = SimDisk::new(12);
        let runtime = Runtime::simulated(1, WALL_MS);
        let (_, log, _) = open(&disk, &runtime, &Metrics::new());
        let clock = HybridClock::below_ceiling(runtime.clone(), NodeId(1), 10_000, 0);
        let ceiling = Ceiling::new(runtime.clone(), log.clone(), clock, 0);
        let deadline = runtime.now() + Duration::from_secs(60);
        ceiling.stamp(deadline).await.expect("a version");
        // Late enough that the next version begins to store a higher ceiling.
        runtime.sleep(Duration::from_millis(crate::clock::CEILING_AHEAD_MS * 3 / 4)).await;
        ceiling.stamp(deadline).await.expect("a version");
        let cut_at = log.end();
        ceiling.store_again().await.expect("a healthy log");
        log.close().await;
        let mut stored = Vec::new();
        let options = LogOptions {
            disk: Arc::new(disk.clone()),
            dir: "log".to_owned(),
            segment_bytes: 4 << 10,
            users: vec![LogUser::Replica],
            runtime: runtime.clone(),
            metrics: Metrics::new(),
        };
        CommitLog::open(options, &mut |record| {
            stored.push((record.position, ceiling::decode(record.payload)?));
            Ok(())
        })
        .expect("a whole log");
        let highest = |from| {
            let kept = stored.iter().filter(|(position, _)| *position >= from);
            kept.map(|(_, ceiling_ms)| *ceiling_ms).max()
        };
        assert!(stored.first().map(|(_, first)| *first) < highest(Position(0)), "it rose");
        assert_eq!(highest(cut_at), highest(Position(0)));
    });
}

#[test]
fn a_replica_whose_log_fails_says_so_to_the_node() {
    in_a_paused_world(async {
        let cluster = Cluster::start(3, 13).await;
        cluster.put(1, "a", "1").await;
        let node = cluster.node(1);
        let soon = || node.runtime.now() + REQUEST_TIMEOUT;
        let failed = node.runtime.deadline(soon(), Replicator::failed(&*node.leaderless)).await;
        assert_eq!(failed, None);
        cluster.disks[&NodeId(1)].fail_next_sync();
        // Whether the write is refused or unknown depends on which record fails first.
        assert!(cluster.try_put(1, "b", "1").await.is_err());
        let failed = node.runtime.deadline(soon(), Replicator::failed(&*node.leaderless)).await;
        assert!(failed.is_some_and(|reason| reason.contains("the commit log failed")));
    });
}
