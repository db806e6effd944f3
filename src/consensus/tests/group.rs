//! Whole groups in one thread, over simulated disks and wires.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::config::LeaderSettings;
use crate::consensus::{
    Applied, Command, Consensus, ConsensusOptions, ProposeError, Submission, SubmissionResult,
    WriteResult,
};
use crate::error::StartError;
use crate::peer::greeter::BasicGreeter;
use crate::peer::memory::MemoryNetwork;
use crate::peer::{Hello, Inbound, Lane, PeerHandler, SharedTransport};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::table::Table;
use crate::storage::{encoding, rows};
use crate::telemetry::Metrics;
use crate::types::{Content, Incarnation, Mode, NodeId};

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    network: MemoryNetwork,
    nodes: BTreeMap<NodeId, Node>,
    keep_entries: u64,
    keep_log_bytes: u64,
    seed: u64,
}

struct Node {
    disk: SimDisk,
    boots: u64,
    run: Option<Run>,
}

/// One run of a node, from its start to its crash.
struct Run {
    runtime: Runtime,
    consensus: Arc<Consensus>,
    table: Arc<dyn Table>,
    metrics: Metrics,
    _transport: SharedTransport,
}

struct Handler(Arc<Consensus>);

impl PeerHandler for Handler {
    fn handle(&self, inbound: Inbound) {
        self.0.handle(inbound);
    }
}

impl World {
    async fn new(seed: u64, keep_entries: u64) -> World {
        World::keeping(seed, keep_entries, u64::MAX).await
    }

    async fn keeping(seed: u64, keep_entries: u64, keep_log_bytes: u64) -> World {
        let mut world = World {
            network: MemoryNetwork::new(seed),
            nodes: BTreeMap::new(),
            keep_entries,
            keep_log_bytes,
            seed,
        };
        for id in 1..=3 {
            let node = Node { disk: SimDisk::new(seed + id), boots: 0, run: None };
            world.nodes.insert(NodeId(id as u16), node);
        }
        for id in 1..=3 {
            world.start(id).await.expect("starts");
        }
        world
    }

    async fn start(&mut self, id: u16) -> Result<(), StartError> {
        let peers = (1..=3).map(|id| (NodeId(id), format!("node-{id}"))).collect();
        let keep_entries = self.keep_entries;
        let node = self.nodes.get_mut(&NodeId(id)).expect("a node");
        node.boots += 1;
        let runtime = Runtime::simulated(self.seed * 1_000 + u64::from(id) + node.boots * 10, 1);
        let metrics = Metrics::new();
        let greeter = Arc::new(BasicGreeter::new(Hello {
            cluster: None,
            node: NodeId(id),
            incarnation: Incarnation(u64::from(id)),
            mode: Mode::Leader,
            client_address: String::new(),
            lane: Lane::Bulk,
            layout: 0,
        }));
        let transport =
            self.network.transport(NodeId(id), runtime.clone(), greeter, metrics.clone());
        let (log, recovered) = open_log(&node.disk, &runtime).expect("the log opens");
        let table: Arc<dyn Table> = open_table(&node.disk);
        let consensus = Consensus::start(ConsensusOptions {
            runtime: runtime.clone(),
            settings: LeaderSettings {
                heartbeat: Duration::from_millis(100),
                election_timeout_min: Duration::from_millis(250),
                election_timeout_max: Duration::from_millis(400),
                keep_entries,
            },
            node: NodeId(id),
            peers,
            initialise: id == 1 && node.boots == 1,
            log,
            log_cache_bytes: 16 << 10,
            keep_log_bytes: self.keep_log_bytes,
            recovered,
            table: table.clone(),
            orders_data: true,
            disk: Arc::new(node.disk.clone()) as Arc<dyn Disk>,
            transport: transport.clone(),
            metrics: metrics.clone(),
        });
        let consensus = Arc::new(consensus.await?);
        self.network.serve(NodeId(id), Arc::new(Handler(consensus.clone())));
        node.run = Some(Run { runtime, consensus, table, metrics, _transport: transport });
        Ok(())
    }

    fn crash(&mut self, id: NodeId) {
        self.network.detach(id);
        let node = self.nodes.get_mut(&id).expect("a node");
        let run = node.run.take().expect("it runs");
        run.runtime.kill();
        node.disk.crash();
    }

    fn run(&self, id: NodeId) -> &Run {
        self.nodes[&id].run.as_ref().expect("it runs")
    }

    fn running(&self) -> impl Iterator<Item = (NodeId, &Run)> {
        self.nodes.iter().filter_map(|(id, node)| Some((*id, node.run.as_ref()?)))
    }

    /// Waits until every running node knows the same running leader.
    async fn leader(&self) -> NodeId {
        for _ in 0..3_000 {
            let leaders: Vec<_> = self.running().map(|(_, run)| run.consensus.leader()).collect();
            if let Some(Some(leader)) = leaders.first()
                && leaders.iter().all(|it| *it == Some(*leader))
                && self.nodes[leader].run.is_some()
            {
                return *leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no leader");
    }

    /// Proposes at the leader until it is answered; the session makes that safe.
    async fn write(&self, submission: Submission) -> SubmissionResult {
        for _ in 0..300 {
            let leader = self.leader().await;
            let consensus = &self.run(leader).consensus;
            let deadline = self.run(leader).runtime.now() + Duration::from_secs(2);
            let command = Command::Data(vec![submission.clone()]);
            match consensus.propose(command, deadline).await {
                Ok(Applied::Data(mut results)) => return results.remove(0),
                Ok(Applied::Nothing) => panic!("data has results"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("nothing was written");
    }

    async fn write_key(&self, sequence: u64, name: &str, value: &str) {
        let write = put(name, value, None);
        let result = self.write(submission(session(9, 1, sequence, 0), 1, vec![write])).await;
        assert!(matches!(result, SubmissionResult::Applied(_)), "{result:?}");
    }

    /// What a node's own table holds once it applied what is committed now.
    async fn read(&self, id: NodeId, name: &str) -> Option<String> {
        let leader = self.leader().await;
        let deadline = self.run(leader).runtime.now() + PATIENCE;
        let index = self.run(leader).consensus.read_index(deadline).await.expect("confirmed");
        let run = self.run(id);
        assert!(run.consensus.wait_applied(index, deadline).await, "node {id} stays behind");
        let row = run.table.get(&rows::data_row(&key(name))).expect("readable")?;
        match encoding::decode(&row).expect("a record").content {
            Content::Value { bytes, .. } => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Content::Tombstone => None,
        }
    }
}

fn other_than(leader: NodeId) -> NodeId {
    NodeId(leader.0 % 3 + 1)
}

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
            assert_eq!((status.cluster, status.voters.len()), (cluster, 3));
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
        assert_eq!(world.run(world.leader().await).metrics.snapshots_sent.get(), 1);
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
