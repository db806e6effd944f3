//! Building the replicator of a mode: the one place in the server that matches on it.

use std::sync::Arc;

use super::Replicator;
use super::leader::{Leader, LeaderOptions};
use super::leaderless::{Leaderless, LeaderlessOptions, Recovered, ReplicaReplay};
use crate::config::Settings;
use crate::consensus::Consensus;
use crate::error::StartError;
use crate::peer::SharedTransport;
use crate::runtime::Runtime;
use crate::storage::log::{CommitLog, ReplayedRecord};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::Mode;

/// Takes from the log, while it is opened, what the architecture keeps there besides consensus.
pub enum ReplicaRecovery {
    /// Leader mode keeps nothing of its own: its data is the group's.
    Nothing,
    Replica(Box<ReplicaReplay>),
}

impl ReplicaRecovery {
    /// Ready to take records; `table` must be open.
    pub fn new(mode: Mode, table: Arc<dyn Table>, metrics: Metrics) -> Result<Self, String> {
        match mode {
            Mode::Leader => Ok(ReplicaRecovery::Nothing),
            Mode::Leaderless => ReplicaReplay::new(table, metrics)
                .map(|replay| ReplicaRecovery::Replica(Box::new(replay)))
                .map_err(|error| error.to_string()),
        }
    }

    /// Takes a record; those of other kinds are ignored.
    pub fn take(&mut self, record: ReplayedRecord<'_>) -> Result<(), String> {
        match self {
            ReplicaRecovery::Nothing => Ok(()),
            ReplicaRecovery::Replica(replay) => replay.take(record),
        }
    }

    fn finish(self) -> Result<Recovered, StartError> {
        match self {
            ReplicaRecovery::Nothing => Ok(Recovered::default()),
            ReplicaRecovery::Replica(replay) => {
                replay.finish().map_err(|error| StartError::DataDirectory(error.to_string()))
            }
        }
    }
}

/// What a replicator is made of.
pub struct ReplicatorParts {
    pub runtime: Runtime,
    pub settings: Settings,
    /// How often this data directory was opened, this time included.
    pub boot: u64,
    /// Whether the node is of those that the cluster was founded by.
    pub founds: bool,
    pub log: Arc<CommitLog>,
    pub table: Arc<dyn Table>,
    pub transport: SharedTransport,
    pub consensus: Arc<Consensus>,
    pub recovered: ReplicaRecovery,
    pub metrics: Metrics,
}

/// Builds the replicator of the mode in the settings.
pub fn build(parts: ReplicatorParts) -> Result<Arc<dyn Replicator>, StartError> {
    let recovered = parts.recovered.finish()?;
    let ReplicatorParts { runtime, settings, table, transport, metrics, .. } = parts;
    match settings.mode {
        Mode::Leader => Ok(Arc::new(Leader::start(LeaderOptions {
            runtime,
            node: settings.node_id,
            boot: parts.boot,
            peers: settings.peers,
            advertise: settings.advertise,
            group: parts.consensus,
            table,
            transport,
            metrics,
            max_queue_wait: settings.limits.max_queue_wait,
            read_patience: settings.leader.read_patience,
        }))),
        Mode::Leaderless => Ok(Arc::new(Leaderless::start(LeaderlessOptions {
            runtime,
            settings,
            founds: parts.founds,
            log: parts.log,
            table,
            recovered,
            transport,
            control: parts.consensus,
            metrics,
        })?)),
    }
}
