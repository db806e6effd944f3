//! Opening a node's storage: the table, and the log that replays over it.

use std::sync::Arc;

use super::OpenTable;
use super::directory::within_directory;
use super::watched_table::watched;
use crate::config::Settings;
use crate::consensus::RaftReplay;
use crate::error::StartError;
use crate::replication::ReplicaRecovery;
use crate::runtime::{Runtime, watch};
use crate::storage::disk::Disk;
use crate::storage::identity::Identity;
use crate::storage::log::{CommitLog, LogOptions, LogUser};
use crate::storage::table::Table;
use crate::telemetry::Metrics;
use crate::types::Mode;

/// Storage that was opened, and what its log replayed.
pub(super) struct OpenedStorage {
    pub table: Arc<dyn Table>,
    pub log: Arc<CommitLog>,
    pub raft: RaftReplay,
    pub replica: ReplicaRecovery,
}

/// Opens the table, and the log over it. Blocking.
pub(super) fn open_storage(
    settings: &Settings,
    runtime: &Runtime,
    metrics: &Metrics,
    disk: &Arc<dyn Disk>,
    open_table: OpenTable,
    identity: &Identity,
    failed: &watch::Sender<Option<String>>,
) -> Result<OpenedStorage, StartError> {
    let refuse = |problem| within_directory(StartError::DataDirectory(problem), settings);
    let table = open_table().map_err(|error| refuse(error.to_string()))?;
    let table: Arc<dyn Table> = Arc::new(watched(table, failed.clone()));
    let mut raft = RaftReplay::default();
    let mut replica =
        ReplicaRecovery::new(settings.mode, table.clone(), metrics.clone()).map_err(refuse)?;
    let users = match settings.mode {
        Mode::Leader => vec![LogUser::Raft],
        Mode::Leaderless => vec![LogUser::Raft, LogUser::Replica],
    };
    let options = LogOptions {
        disk: disk.clone(),
        dir: "log".to_owned(),
        segment_bytes: settings.storage.log_segment_bytes,
        users,
        runtime: runtime.clone(),
        metrics: metrics.clone(),
    };
    let mut is_empty = true;
    let log = CommitLog::open(options, &mut |record| {
        is_empty = false;
        raft.take(record)?;
        replica.take(record)
    })
    .map_err(|error| refuse(error.to_string()))?;
    if is_empty && identity.cluster().is_some() {
        // A node that joined a cluster has voted, and its vote never leaves the log.
        return Err(refuse(
            "this node is of a cluster, but its commit log is empty: the log's files were removed; \
             restore the whole directory from a copy, or replace the node"
                .to_owned(),
        ));
    }
    Ok(OpenedStorage { table, log: Arc::new(log), raft, replica })
}
