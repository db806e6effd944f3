//! Idempotency keys in the state machine: a client's retry is applied once.

use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftStateMachine;

use super::bench::Bench;
use super::support::*;
use crate::consensus::apply::MachineState;
use crate::consensus::idempotency::MAX_REMEMBERED;
use crate::consensus::snapshot;
use crate::consensus::state_machine::{Machine, SnapshotData, StateMachine};
use crate::consensus::{Command, SubmissionResult, WriteResult};
use crate::planted::{self, Bug};
use crate::runtime::Runtime;
use crate::storage::disk::SimDisk;
use crate::storage::rows;
use crate::types::{Condition, RetryKey, Version, Write};

const EXPIRY: Duration = Duration::from_millis(1_000);

fn keyed(name: &str, write: Write) -> Write {
    let retry =
        RetryKey::of(name.into(), &write.key, &write.change, write.condition.as_ref(), EXPIRY);
    Write { retry: Some(retry), ..write }
}

/// Writes as different nodes propose them: each is a submission of its own.
struct Proposals {
    bench: Bench,
    sequence: u64,
}

impl Proposals {
    fn new() -> Proposals {
        Proposals { bench: Bench::new(), sequence: 0 }
    }

    /// Applies writes as one batch, an entry each, proposed at these milliseconds.
    fn batch(&mut self, writes: Vec<(u64, Write)>) -> Vec<WriteResult> {
        let submissions = writes.into_iter().map(|(ms, write)| {
            self.sequence += 1;
            let session = session(1 + (self.sequence % 3) as u16, 1, self.sequence, 0);
            submission(session, ms << 16, vec![write])
        });
        let submissions: Vec<_> = submissions.collect();
        let results = self.bench.batch(submissions).into_iter().map(|result| match result {
            SubmissionResult::Applied(mut results) => results.remove(0),
            SubmissionResult::Settled => panic!("a fresh session is not settled"),
        });
        results.collect()
    }

    fn write(&mut self, ms: u64, write: Write) -> WriteResult {
        self.batch(vec![(ms, write)]).remove(0)
    }

    fn version(&self, name: &str) -> Option<Version> {
        self.bench.content(name).map(|(version, _)| version)
    }

    /// Rows of the family: the count, and two for each key.
    fn rows(&self) -> usize {
        let (from, to) = rows::retry_range();
        self.bench.table.scan_keys(&from, &to, usize::MAX).expect("readable").len()
    }
}

#[test]
fn a_retry_is_applied_once_and_gets_the_first_result_over_nodes_batches_and_restarts() {
    let mut log = Proposals::new();
    let put_a = || keyed("one", put("a", "1", None));
    let first = log.write(100, put_a());
    let WriteResult::Written { version } = first else { panic!("{first:?}") };
    let other = log.write(100, put("a", "2", None));
    assert_ne!(other, first);
    log.bench.reload();
    assert_eq!(log.write(105, put_a()), first);
    let newer = log.version("a").expect("a record");
    assert!(newer > version, "the retry was applied over a newer write");

    // Within one batch the second sees the first, which no table holds yet.
    let put_b = || keyed("two", put("b", "1", None));
    let both = log.batch(vec![(110, put_b()), (110, put_b())]);
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0], WriteResult::Written { version: log.version("b").expect("a record") });
}

#[test]
fn a_failed_condition_is_remembered_as_well_as_a_delete() {
    let mut log = Proposals::new();
    let absent = || keyed("one", put("a", "1", Some(Condition::Exists)));
    let failed = WriteResult::PreconditionFailed { current: None };
    assert_eq!(log.write(100, absent()), failed);
    log.write(100, put("a", "2", None));
    let kept = log.version("a");
    assert_eq!(log.write(101, absent()), failed, "it would hold now");
    assert_eq!(log.version("a"), kept);

    let removed = log.write(102, keyed("two", delete("a")));
    log.write(103, put("a", "3", None));
    assert_eq!(log.write(104, keyed("two", delete("a"))), removed);
    assert!(log.bench.content("a").is_some_and(|(version, content)| {
        version > kept.expect("a record") && content != crate::types::Content::Tombstone
    }));
}

#[test]
fn a_key_that_comes_with_another_request_is_refused_and_nothing_is_applied() {
    let mut log = Proposals::new();
    log.write(100, keyed("one", put("a", "1", None)));
    let before = log.version("a");
    let others = [
        put("a", "2", None),
        put("b", "1", None),
        put("a", "1", Some(Condition::Exists)),
        put("a", "1", Some(Condition::VersionIn(vec![before.expect("a record")]))),
        delete("a"),
    ];
    for other in others {
        assert_eq!(log.write(101, keyed("one", other)), WriteResult::KeyReused);
    }
    assert_eq!((log.version("a"), log.version("b")), (before, None));
}

#[test]
fn keys_are_forgotten_in_log_time_a_few_a_write_however_entries_are_batched() {
    let run = |chunk: usize| {
        let mut log = Proposals::new();
        let mut writes: Vec<(u64, Write)> = Vec::new();
        for n in 0..20 {
            writes.push((100 + n * 50, keyed(&format!("k{n}"), put("a", n.to_string(), None))));
        }
        // Used anew once it has expired, with another request.
        writes.push((1_101, keyed("k0", put("b", "1", None))));
        for n in 0..10 {
            writes.push((1_500 + n, put("c", n.to_string(), None)));
        }
        let mut results = Vec::new();
        for chunk in writes.chunks(chunk) {
            results.extend(log.batch(chunk.to_vec()));
            if chunk.len() % 2 == 1 {
                log.bench.reload();
            }
        }
        let (from, to) = rows::retry_range();
        let left = log.bench.table.scan(&from, &to, usize::MAX).expect("readable");
        let memory = log.bench.state.retries.count;
        assert_eq!(log.rows() as u64, 1 + 2 * memory);
        (results, left, memory)
    };
    let one_by_one = run(1);
    assert!(one_by_one.0.iter().all(|result| matches!(result, WriteResult::Written { .. })));
    // At 1509 those of 100 to 500 are over: k0 to k8. k0 came anew at 1101.
    assert_eq!(one_by_one.2, 12);
    for chunk in [2, 3, 7, 100] {
        assert_eq!(run(chunk), one_by_one, "batches of {chunk}");
    }
}

#[test]
fn a_key_lasts_until_its_expiry_and_not_longer() {
    let mut log = Proposals::new();
    let again = || keyed("one", put("a", "1", None));
    let first = log.write(100, again());
    assert_eq!(log.write(1_099, again()), first);
    let anew = log.write(1_100, again());
    assert_ne!(anew, first);
    assert_eq!(log.write(1_101, again()), anew);
}

#[test]
fn one_key_too_many_is_refused_and_taken_once_others_have_expired() {
    let mut log = Proposals::new();
    let first = log.write(100, keyed("one", put("a", "1", None)));
    log.bench.state.retries.count = MAX_REMEMBERED;
    assert_eq!(log.write(101, keyed("two", put("b", "1", None))), WriteResult::KeysFull);
    assert_eq!(log.write(102, keyed("one", put("a", "1", None))), first, "a known one is known");
    assert_eq!(log.version("b"), None);
    assert!(matches!(log.write(103, put("c", "1", None)), WriteResult::Written { .. }));
    // The refused ones themselves move log time on.
    assert_eq!(log.write(1_200, keyed("two", put("b", "1", None))), WriteResult::KeysFull);
    let taken = log.write(1_200, keyed("two", put("b", "1", None)));
    assert!(matches!(taken, WriteResult::Written { .. }), "{taken:?}");
}

async fn apply(machine: &Arc<Machine>, index: u64, write: Write) {
    let submission = submission(session(1, 1, index, index - 1), index << 16, vec![write]);
    let entries = vec![Ok((entry(1, index, &Command::Data(vec![submission])), None))];
    let mut machine = StateMachine(machine.clone());
    machine.apply(futures_util::stream::iter(entries)).await.expect("applies");
}

/// Whether a node that caught up by a snapshot applies a retry anew.
fn is_applied_anew_after_a_snapshot() -> bool {
    in_a_world(|| async {
        let (runtime, theirs, ours) = (Runtime::simulated(1, 0), SimDisk::new(1), SimDisk::new(2));
        let source = Arc::new(open_machine(&theirs, &runtime).expect("opens"));
        let target = Arc::new(open_machine(&ours, &runtime).expect("opens"));
        // Of the target's own past, and not part of the snapshot's.
        apply(&target, 1, keyed("stale", put("z", "1", None))).await;
        apply(&source, 1, keyed("one", put("a", "1", None))).await;
        apply(&source, 2, put("a", "2", None)).await;

        let meta = snapshot::meta(&source.capture().expect("a capture").group);
        let mut installing = StateMachine(target.clone());
        let snapshot = SnapshotData::Live(source.clone());
        installing.install_snapshot(&meta, snapshot).await.expect("installs");
        let kept = |name: &str| target.table.get(&rows::retry_row(name)).expect("readable");
        assert_eq!(kept("stale"), None, "what the snapshot does not hold goes");

        let row = rows::data_row(&key("a"));
        let before = target.table.get(&row).expect("readable");
        apply(&target, 3, keyed("one", put("a", "1", None))).await;
        let anew = target.table.get(&row).expect("readable") != before;
        let state = MachineState::load(&*target.table).expect("loads");
        assert_eq!(state.retries.count, 1);
        anew
    })
}

#[test]
fn a_retry_after_a_snapshot_was_installed_is_known_there_and_the_check_sees_a_planted_bug() {
    assert!(!is_applied_anew_after_a_snapshot());
    let planted = Bug::IdempotencyKeysMissingFromSnapshot;
    assert!(planted::with(planted, is_applied_anew_after_a_snapshot));
}
