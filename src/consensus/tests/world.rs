//! A group of three on simulated disks and wires, for tests to crash and restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::config::LeaderSettings;
use crate::consensus::{
    Applied, Command, Consensus, ConsensusOptions, Submission, SubmissionResult,
};
use crate::error::StartError;
use crate::peer::fault::{FaultPlan, FaultyTransport};
use crate::peer::greeter::BasicGreeter;
use crate::peer::memory::MemoryNetwork;
use crate::peer::{Hello, Inbound, Lane, PeerHandler, SharedTransport};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::table::Table;
use crate::storage::{encoding, rows};
use crate::telemetry::Metrics;
use crate::types::{Content, Incarnation, Mode, NodeId};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct World {
    pub(super) network: MemoryNetwork,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) keep_entries: u64,
    pub(super) keep_log_bytes: u64,
    pub(super) seed: u64,
    pub(super) fixed_leader: Option<NodeId>,
    /// Of nodes that start from now on.
    pub(super) snapshot_bytes_per_s: u64,
    pub(super) faults: FaultPlan,
}

pub(super) struct Node {
    pub(super) disk: SimDisk,
    pub(super) boots: u64,
    pub(super) run: Option<Run>,
}

/// One run of a node, from its start to its crash.
pub(super) struct Run {
    pub(super) runtime: Runtime,
    pub(super) consensus: Arc<Consensus>,
    pub(super) table: Arc<dyn Table>,
    pub(super) metrics: Metrics,
    pub(super) _transport: SharedTransport,
}

pub(super) struct Handler(Arc<Consensus>);

impl PeerHandler for Handler {
    fn handle(&self, inbound: Inbound) {
        self.0.handle(inbound);
    }
}

impl World {
    pub(super) async fn new(seed: u64, keep_entries: u64) -> World {
        World::keeping(seed, keep_entries, u64::MAX).await
    }

    pub(super) async fn led_by(seed: u64, fixed_leader: NodeId) -> World {
        World::made(seed, 1_000, u64::MAX, Some(fixed_leader)).await
    }

    pub(super) async fn keeping(seed: u64, keep_entries: u64, keep_log_bytes: u64) -> World {
        World::made(seed, keep_entries, keep_log_bytes, None).await
    }

    async fn made(
        seed: u64,
        keep_entries: u64,
        keep_log_bytes: u64,
        fixed_leader: Option<NodeId>,
    ) -> World {
        let mut world = World {
            network: MemoryNetwork::new(seed),
            nodes: BTreeMap::new(),
            keep_entries,
            keep_log_bytes,
            seed,
            fixed_leader,
            snapshot_bytes_per_s: 16 << 20,
            faults: FaultPlan::new(seed),
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

    pub(super) async fn start(&mut self, id: u16) -> Result<(), StartError> {
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
            fixed_leader: self.fixed_leader,
        }));
        let wires = self.network.transport(NodeId(id), runtime.clone(), greeter, metrics.clone());
        let faults = self.faults.clone();
        let transport: SharedTransport =
            FaultyTransport::wrap(wires, NodeId(id), faults, runtime.clone());
        let (log, recovered) = open_log(&node.disk, &runtime).expect("the log opens");
        let table: Arc<dyn Table> = open_table(&node.disk);
        let consensus = Consensus::start(ConsensusOptions {
            runtime: runtime.clone(),
            settings: LeaderSettings {
                heartbeat: Duration::from_millis(100),
                election_timeout_min: Duration::from_millis(250),
                election_timeout_max: Duration::from_millis(400),
                keep_entries,
                fixed_leader: self.fixed_leader,
                idempotency_expiry: Duration::from_secs(900),
                snapshot_bytes_per_s: self.snapshot_bytes_per_s,
                read_patience: Duration::ZERO,
            },
            node: NodeId(id),
            incarnation: Incarnation(u64::from(id)),
            peers,
            initialise: id == self.fixed_leader.map_or(1, |fixed| fixed.0) && node.boots == 1,
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

    /// Starts a node that was not of the group when it began; it knows the others, as one that joins
    /// does.
    pub(super) async fn join(&mut self, id: u16) {
        let node = Node { disk: SimDisk::new(self.seed + u64::from(id)), boots: 0, run: None };
        self.nodes.insert(NodeId(id), node);
        self.start(id).await.expect("starts");
    }

    pub(super) fn crash(&mut self, id: NodeId) {
        self.network.detach(id);
        let node = self.nodes.get_mut(&id).expect("a node");
        let run = node.run.take().expect("it runs");
        run.runtime.kill();
        node.disk.crash();
    }

    pub(super) fn run(&self, id: NodeId) -> &Run {
        self.nodes[&id].run.as_ref().expect("it runs")
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (NodeId, &Run)> {
        self.nodes.iter().filter_map(|(id, node)| Some((*id, node.run.as_ref()?)))
    }

    /// Waits until every running node knows the same running leader.
    pub(super) async fn leader(&self) -> NodeId {
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
        let statuses: Vec<_> =
            self.running().map(|(id, run)| (id, run.consensus.status())).collect();
        panic!("no leader: {statuses:?}");
    }

    /// Proposes at the leader until it is answered; the session makes that safe.
    pub(super) async fn write(&self, submission: Submission) -> SubmissionResult {
        for _ in 0..300 {
            let leader = self.leader().await;
            let consensus = &self.run(leader).consensus;
            let deadline = self.run(leader).runtime.now() + Duration::from_secs(2);
            let command = Command::Data(vec![submission.clone()]);
            match consensus.propose(command, deadline).await {
                Ok(Applied::Data(mut results)) => return results.remove(0),
                Ok(Applied::Nothing | Applied::Layout(_)) => panic!("data has results"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("nothing was written");
    }

    pub(super) async fn write_key(&self, sequence: u64, name: &str, value: &str) {
        let write = put(name, value, None);
        let result = self.write(submission(session(9, 1, sequence, 0), 1, vec![write])).await;
        assert!(matches!(result, SubmissionResult::Applied(_)), "{result:?}");
    }

    /// What a node's own table holds once it applied what is committed now.
    pub(super) async fn read(&self, id: NodeId, name: &str) -> Option<String> {
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

pub(super) fn other_than(leader: NodeId) -> NodeId {
    NodeId(leader.0 % 3 + 1)
}

pub(super) fn others(leader: NodeId) -> [NodeId; 2] {
    let next = other_than(leader);
    [next, other_than(next)]
}
