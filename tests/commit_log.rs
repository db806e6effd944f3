//! The commit log on real files: what a crash may leave of the last record is cut, and what was
//! acknowledged is there.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use quorate::runtime::Runtime;
use quorate::storage::disk::RealDisk;
use quorate::storage::log::{CommitLog, Kind, LogError, LogOptions, LogUser, NewRecord, Position};
use quorate::telemetry::Metrics;

type Seen = (Position, Vec<u8>);

fn try_open(root: &Path, segment_bytes: u64) -> Result<(CommitLog, Vec<Seen>, Metrics), LogError> {
    let metrics = Metrics::new();
    let options = LogOptions {
        disk: Arc::new(RealDisk::open(root).expect("the directory is free")),
        dir: "log".to_owned(),
        segment_bytes,
        users: vec![LogUser::Raft],
        runtime: Runtime::real(),
        metrics: metrics.clone(),
    };
    let mut replayed = Vec::new();
    let log = CommitLog::open(options, &mut |record| {
        assert_eq!(record.kind, Kind::ReplicaWrites);
        replayed.push((record.position, record.payload.to_vec()));
        Ok(())
    })?;
    Ok((log, replayed, metrics))
}

fn open(root: &Path) -> (CommitLog, Vec<Seen>, Metrics) {
    try_open(root, 256).expect("the log opens")
}

/// Appends a record and waits until it is durable.
fn append(log: &CommitLog, payload: &[u8]) -> Seen {
    let (sender, receiver) = mpsc::channel();
    let payload = Bytes::copy_from_slice(payload);
    let record = NewRecord { kind: Kind::ReplicaWrites, payload: payload.clone() };
    let done = move |result| sender.send(result).expect("somebody waits");
    let positions = log.append(vec![record], Box::new(done));
    receiver.recv().expect("an answer").expect("durable");
    (positions[0], payload.to_vec())
}

fn fill(root: &Path, records: u8) -> Vec<Seen> {
    let (log, _, _) = open(root);
    (0..records).map(|number| append(&log, &vec![number + 1; usize::from(number) * 7])).collect()
}

fn segments(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("log")).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn the_last_record_cut_or_zeroed_from_any_byte_is_gone_and_all_before_it_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let appended = fill(root, 12);
    let last = segments(root).pop().expect("a segment");
    let whole = fs::read(&last).expect("reads");
    let (last_record, before) = appended.split_last().expect("records");
    let begin = whole.len() - (last_record.1.len() + 14);
    for cut in begin..whole.len() {
        for zeros in [0, whole.len() - cut] {
            let mut contents = whole[..cut].to_vec();
            contents.resize(cut + zeros, 0);
            fs::write(&last, contents).expect("writes");
            let (log, replayed, metrics) = open(root);
            assert_eq!(replayed, before, "cut at {cut}, {zeros} zeros");
            assert_eq!(metrics.log_torn_tails.get(), u64::from(cut + zeros > begin));
            assert_eq!(log.end(), last_record.0);
            drop(log);
            assert_eq!(fs::read(&last).expect("reads"), whole[..begin]);
        }
    }
    let (log, _, _) = open(root);
    assert_eq!(append(&log, &last_record.1), *last_record, "it goes where the cut one was");
    drop(log);
    assert_eq!(open(root).1, appended);
    assert_eq!(fs::read(&last).expect("reads"), whole, "the same bytes, in fact");
}

#[test]
fn a_flipped_bit_in_any_byte_is_refused_naming_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let appended = fill(root, 6);
    for path in segments(root) {
        let whole = fs::read(&path).expect("reads");
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << (byte % 8);
            fs::write(&path, damaged).expect("writes");
            let Err(error) = try_open(root, 256) else { panic!("byte {byte} went unnoticed") };
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let message = error.to_string();
            assert!(matches!(error, LogError::Damaged { .. }), "{message}");
            assert!(message.contains(name) && message.contains("restore"), "{message}");
        }
        fs::write(&path, whole).expect("writes");
    }
    assert_eq!(open(root).1, appended);
}

#[test]
fn large_records_cross_every_buffer_and_can_be_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let (log, _, metrics) = try_open(root, 4 << 20).expect("opens");
    let lengths = [0, 1, (512 << 10) - 14, 512 << 10, (1 << 20) + 3, 3 << 20, 5 << 20, 10];
    let pattern = |length: usize| (0..length).map(|index| (index % 251) as u8).collect::<Vec<_>>();
    let appended: Vec<_> =
        lengths.into_iter().map(|length| append(&log, &pattern(length))).collect();
    drop(log);
    assert_eq!(metrics.log_records.get(), lengths.len() as u64);
    let (log, replayed, _) = try_open(root, 4 << 20).expect("opens");
    assert!(replayed == appended, "a large record came back wrong");
    for (position, payload) in &appended {
        let (kind, read) = log.read(*position).expect("reads");
        assert!(kind == Kind::ReplicaWrites && read == *payload, "{position:?} reads wrong");
    }
    log.release(LogUser::Raft, log.end()).expect("releases");
    assert_eq!(segments(root).len(), 1);
}

#[test]
fn many_threads_append_and_every_record_is_there_once_in_the_order_of_positions() {
    const THREADS: u8 = 8;
    const EACH: u8 = 200;
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _, metrics) = try_open(directory.path(), 16 << 10).expect("opens");
    let mut appended: Vec<Seen> = std::thread::scope(|scope| {
        let append_some = |thread| {
            let log = &log;
            move || (0..EACH).map(|number| append(log, &[thread, number])).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(append_some(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("joins")).collect()
    });
    appended.sort();
    drop(log);
    assert_eq!(metrics.log_records.get(), u64::from(THREADS) * u64::from(EACH));
    assert_eq!(open(directory.path()).1, appended);
}

#[test]
fn a_log_that_is_open_cannot_be_opened_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, _, _) = open(directory.path());
    assert!(RealDisk::open(directory.path()).is_err());
    drop(log);
    assert!(RealDisk::open(directory.path()).is_ok());
}
