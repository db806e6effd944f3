//! A log on a simulated disk, and what was replayed when it was opened.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{
    CommitLog, Completion, Kind, LogError, LogOptions, LogUser, NewRecord, Position,
};
use crate::telemetry::Metrics;

/// A record as it was appended or replayed.
pub type Seen = (Position, Kind, Vec<u8>);

pub struct Opened {
    pub log: CommitLog,
    pub replayed: Vec<Seen>,
    pub metrics: Metrics,
}

/// A log of short segments: a few records fill one.
pub const SEGMENT_BYTES: u64 = 128;

pub fn try_open(disk: &SimDisk, runtime: &Runtime) -> Result<Opened, LogError> {
    let metrics = Metrics::new();
    let options = LogOptions {
        disk: Arc::new(disk.clone()),
        dir: "log".to_owned(),
        segment_bytes: SEGMENT_BYTES,
        users: vec![LogUser::Raft, LogUser::Replica],
        runtime: runtime.clone(),
        metrics: metrics.clone(),
    };
    let mut replayed = Vec::new();
    let log = CommitLog::open(options, &mut |record| {
        replayed.push((record.position, record.kind, record.payload.to_vec()));
        Ok(())
    })?;
    Ok(Opened { log, replayed, metrics })
}

pub fn open(disk: &SimDisk, runtime: &Runtime) -> Opened {
    try_open(disk, runtime).expect("the log opens")
}

pub fn record(payload: &[u8]) -> NewRecord {
    NewRecord { kind: Kind::RaftEntry, payload: Bytes::copy_from_slice(payload) }
}

/// Runs `future` in a paused world with a simulated node.
pub fn simulated<F: Future>(work: impl FnOnce(Runtime) -> F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(async { work(Runtime::simulated(1, 0)).await })
}

/// Fills a new log with records of all kinds of lengths over several segments, and closes it.
pub async fn filled(disk: &SimDisk, runtime: &Runtime) -> Vec<Seen> {
    let log = open(disk, runtime).log;
    let mut seen = Vec::new();
    for (index, length) in [0, 1, 30, 64, 5, 200, 7, 0, 40].into_iter().enumerate() {
        let payload = vec![index as u8 + 1; length];
        let positions = log.append_durably(vec![record(&payload)]).await.expect("appends");
        seen.push((positions[0], Kind::RaftEntry, payload));
    }
    log.close().await;
    seen
}

/// The paths of the log's segments, oldest first.
pub fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.list("log").expect("lists");
    names.into_iter().map(|name| format!("log/{name}")).collect()
}

/// What completions said, in the order in which they were called.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<Vec<Answer>>>);

/// The name of an append, and what its completion was called with.
type Answer = (usize, Result<(), LogError>);

impl Answers {
    pub fn completion(&self, name: usize) -> Completion {
        let answers = self.0.clone();
        Box::new(move |result| answers.lock().push((name, result)))
    }

    /// The names of the appends that are durable, and then of those that failed.
    pub fn take(&self) -> (Vec<usize>, Vec<usize>) {
        let (done, failed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *self.0.lock()).into_iter().partition(|(_, result)| result.is_ok());
        let names = |answers: Vec<(usize, _)>| answers.into_iter().map(|(name, _)| name).collect();
        (names(done), names(failed))
    }
}
