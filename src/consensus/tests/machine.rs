//! The state machine: what entries do to the table.

use std::sync::Arc;

use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;

use super::bench::Bench;
use super::support::*;
use crate::consensus::apply::{Applying, MachineState};
use crate::consensus::installation::{Installation, Limits, Step};
use crate::consensus::raft_types::Entry;
use crate::consensus::snapshot::{self, Incoming, Manifest};
use crate::consensus::state_machine::{Machine, StateMachine, copy};
use crate::consensus::{Command, Control, SubmissionResult, WriteResult};
use crate::runtime::Runtime;
use crate::runtime::flag::Flag;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::rows;
use crate::storage::table::{Hooked, Table, TableBatch, TableError};
use crate::types::{ClusterId, Condition, Content, NodeId, Version};

fn versions(results: &[SubmissionResult]) -> Vec<Version> {
    let writes = results.iter().flat_map(|result| match result {
        SubmissionResult::Applied(writes) => writes.clone(),
        SubmissionResult::Settled => Vec::new(),
    });
    writes
        .filter_map(|write| match write {
            WriteResult::Written { version } => Some(version),
            WriteResult::PreconditionFailed { .. }
            | WriteResult::KeyReused
            | WriteResult::KeysFull => None,
        })
        .collect()
}

#[test]
fn a_submission_proposed_twice_is_applied_once_with_the_same_results() {
    let mut bench = Bench::new();
    let first = submission(session(1, 1, 1, 0), 100, vec![put("a", "1", None)]);
    let result = bench.one(first.clone());
    let other = bench.one(submission(session(2, 1, 1, 0), 100, vec![put("a", "2", None)]));
    // In a later entry, in the same batch, and after a restart.
    assert_eq!(bench.one(first.clone()), result);
    bench.reload();
    assert_eq!(bench.batch(vec![first.clone(), first]), [result.clone(), result.clone()]);
    let (version, _) = bench.content("a").expect("a record");
    assert_eq!(versions(&[other]), [version], "the duplicate wrote again");
    assert_eq!(bench.metrics.writes_deduplicated.get(), 3);

    let twice = submission(session(3, 1, 1, 0), 100, vec![put("b", "1", None)]);
    let results = bench.batch(vec![twice.clone(), twice]);
    assert_eq!(results[0], results[1]);
    assert_eq!(versions(&results[..1]), [bench.content("b").expect("a record").0]);
}

#[test]
fn what_is_settled_or_of_an_earlier_boot_is_not_applied() {
    let mut bench = Bench::new();
    bench.one(submission(session(1, 1, 5, 4), 1, vec![put("a", "1", None)]));
    let settled = bench.one(submission(session(1, 1, 3, 0), 1, vec![put("b", "1", None)]));
    assert_eq!(settled, SubmissionResult::Settled);
    bench.one(submission(session(1, 2, 1, 0), 1, vec![put("a", "2", None)]));
    bench.reload();
    let ended = bench.one(submission(session(1, 1, 6, 5), 1, vec![put("b", "1", None)]));
    assert_eq!(ended, SubmissionResult::Settled);
    assert_eq!(bench.content("b"), None);
}

#[test]
fn versions_strictly_rise_and_follow_the_proposed_time() {
    let mut bench = Bench::new();
    let times = [1_000, 1_000, 10, 5_000, 4_000, u64::MAX - 1];
    let submissions = times.iter().zip(1..).map(|(time, sequence)| {
        let writes = vec![put("a", "1", None), put("b", "1", None)];
        submission(session(1 + sequence as u16 % 2, 1, sequence, 0), *time, writes)
    });
    let submissions: Vec<_> = submissions.collect();
    let mut given = Vec::new();
    for chunk in submissions.chunks(2) {
        given.extend(versions(&bench.batch(chunk.to_vec())));
        bench.reload();
    }
    let times: Vec<u64> = given.iter().map(|version| version.time()).collect();
    let max = u64::MAX;
    let expected =
        [1_000, 1_001, 1_002, 1_003, 1_004, 1_005, 5_000, 5_001, 5_002, 5_003, max - 1, max];
    assert_eq!(times, expected);
    assert_eq!(given[0].node(), NodeId(2), "the origin is in the version");
    assert_eq!(bench.content("b").expect("a record").0, given[11]);
}

#[test]
fn conditions_decide_on_what_earlier_entries_did_in_the_same_batch() {
    let mut bench = Bench::new();
    let write = |sequence, write| submission(session(1, 1, sequence, 0), 1, vec![write]);
    let results = bench.batch(vec![
        write(1, put("a", "1", Some(Condition::Absent))),
        write(2, put("a", "2", Some(Condition::Absent))),
        write(3, delete("a")),
        write(4, put("a", "3", Some(Condition::Exists))),
        write(5, put("a", "4", Some(Condition::Absent))),
    ]);
    let written = versions(&results);
    let failed =
        |current| SubmissionResult::Applied(vec![WriteResult::PreconditionFailed { current }]);
    assert_eq!(written.len(), 3);
    assert_eq!(results[1], failed(Some(written[0])));
    assert_eq!(results[3], failed(None), "a tombstone counts as nothing");

    // And on what is in the table.
    let last = written[2];
    let matched = Condition::VersionIn(vec![last]);
    let results = bench.batch(vec![
        write(6, put("a", "5", Some(Condition::VersionNotIn(vec![last])))),
        write(7, put("a", "6", Some(matched.clone()))),
        write(8, put("a", "7", Some(matched))),
    ]);
    let sixth = versions(&results)[0];
    assert_eq!(results[0], failed(Some(last)));
    assert_eq!(results[2], failed(Some(sixth)));
    let (version, content) = bench.content("a").expect("a record");
    assert_eq!(version, sixth);
    assert!(matches!(content, Content::Value { bytes, .. } if bytes == "6"));
    bench.one(write(9, delete("a")));
    assert_eq!(bench.content("a").expect("a record").1, Content::Tombstone);
}

#[test]
fn the_first_name_of_the_cluster_counts() {
    let mut bench = Bench::new();
    let mut applying = Applying::new(&mut bench.state, &*bench.table, &bench.metrics);
    for (index, cluster) in [(1, 7), (2, 8)] {
        let command = Command::Control(Control::MintCluster { cluster: ClusterId(cluster) });
        applying.entry(&entry(1, index, &command)).expect("applies");
    }
    applying.commit().expect("commits");
    bench.reload();
    assert_eq!(bench.state.group.cluster, Some(ClusterId(7)));
}

#[test]
fn bytes_that_are_no_command_stop_the_state_machine_and_nothing_panics() {
    let mut bench = Bench::new();
    let mut applying = Applying::new(&mut bench.state, &*bench.table, &bench.metrics);
    let nonsense = crate::consensus::raft_types::Proposal(vec![9, 9, 9].into());
    let entry = Entry { log_id: log_id(1, 1), payload: EntryPayload::Normal(nonsense) };
    assert!(applying.entry(&entry).is_err());
}

/// A machine with `keys` records of some size, applied up to as many entries.
async fn filled(disk: &SimDisk, runtime: &Runtime, keys: u64) -> Arc<Machine> {
    let machine = Arc::new(open_machine(disk, runtime).expect("opens"));
    let entries = (1..=keys).map(|index| {
        let write = put(&format!("key-{index}"), vec![index as u8; 9_000], None);
        let submission = submission(session(1, 1, index, index - 1), index, vec![write]);
        Ok((entry(1, index, &Command::Data(vec![submission])), None))
    });
    let entries: Vec<_> = entries.collect();
    let mut state_machine = StateMachine(machine.clone());
    state_machine.apply(futures_util::stream::iter(entries)).await.expect("applies");
    machine
}

fn data_rows(table: &dyn Table) -> Vec<(bytes::Bytes, bytes::Bytes)> {
    let (from, to) = rows::data_range();
    table.scan(&from, &to, usize::MAX).expect("readable")
}

#[test]
fn a_snapshot_to_send_is_named_by_what_is_applied_now_once_there_is_a_checkpoint() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(1));
        let machine = filled(&disk, &runtime, 3).await;
        let mut state_machine = StateMachine(machine.clone());
        let current = state_machine.get_current_snapshot().await.expect("answers");
        assert!(current.is_none(), "nothing is known to be durable");
        machine.take_checkpoint().await.expect("taken");
        let write = submission(session(1, 1, 4, 3), 4, vec![put("a", "1", None)]);
        let entries = vec![Ok((entry(1, 4, &Command::Data(vec![write])), None))];
        state_machine.apply(futures_util::stream::iter(entries)).await.expect("applies");
        let current = state_machine.get_current_snapshot().await.expect("answers");
        let named = current.expect("a snapshot").meta.last_log_id;
        assert_eq!(named, Some(log_id(1, 4)), "less is noted for the follower than it gets");
    });
}

#[test]
fn an_install_replaces_rows_sessions_and_position() {
    in_a_world(|| async {
        let (runtime, theirs, ours) = (Runtime::simulated(1, 0), SimDisk::new(1), SimDisk::new(2));
        let source = filled(&theirs, &runtime, 100).await;
        let target = filled(&ours, &runtime, 30).await;
        let mut one_more = TableBatch::default();
        one_more.put(rows::data_row(&key("gone")), &b"stale"[..]);
        target.table.apply(one_more).expect("applied");

        let snapshot = crate::consensus::state_machine::SnapshotData::Live(source.clone());
        let meta = snapshot::meta(&source.capture().expect("a capture").group);
        let mut installing = StateMachine(target.clone());
        installing.install_snapshot(&meta, snapshot).await.expect("installs");
        assert_eq!(data_rows(&*target.table), data_rows(&*source.table));
        assert_eq!(target.applied(), Some(log_id(1, 100)));
        assert_eq!(target.installs(), Some(1));
        assert_eq!(*target.watch_applied().borrow(), 100);
        assert_eq!(ours.list("snapshot").expect("listed"), Vec::<String>::new());

        // It is durable at once, sessions included.
        drop((target, installing));
        ours.crash();
        let again = open_machine(&ours, &runtime).expect("opens");
        assert_eq!(data_rows(&*again.table), data_rows(&*source.table));
        let state = MachineState::load(&*again.table).expect("loads");
        let expected = MachineState::load(&*source.table).expect("loads");
        assert_eq!((state.group, state.sessions), (expected.group, expected.sessions));
    });
}

/// A table that fails after so many batches, as if the process had died there.
fn dying(table: Arc<dyn Table>, batches: usize) -> Hooked<Meddling> {
    let left = parking_lot::Mutex::new(batches);
    let before_apply = Box::new(move || {
        let mut left = left.lock();
        if *left == 0 {
            return Err(TableError::Damaged("died".to_owned()));
        }
        *left -= 1;
        Ok(())
    });
    Hooked::new(table, Meddling { may_wait: false, before_apply })
}

/// Steps of a few rows, each made durable after a few of them.
const SMALL: Limits = Limits { read_rows: 7, load_bytes: 1, checkpoint_bytes: 3 * 7 * 256 };

/// Installs what `disk` has received, in small steps.
fn install(
    table: &Arc<dyn Table>,
    disk: &SimDisk,
    manifest: Manifest,
    orders_data: bool,
) -> std::io::Result<MachineState> {
    let disk = Arc::new(disk.clone());
    Installation::begin(table.clone(), disk, manifest, orders_data)?.within(SMALL).run()
}

#[test]
fn an_install_that_was_interrupted_anywhere_is_finished_at_the_next_start() {
    in_a_world(|| async {
        let runtime = Runtime::simulated(1, 0);
        let source = filled(&SimDisk::new(1), &runtime, 300).await;
        let mut interrupted = 0;
        for batches in 0.. {
            let disk = SimDisk::new(batches as u64);
            let target = filled(&disk, &runtime, 20).await;
            let manifest = copy(&source, Arc::new(disk.clone())).expect("copied");
            let dying: Arc<dyn Table> = Arc::new(dying(target.table.clone(), batches));
            let installed = install(&dying, &disk, manifest, true);
            // What was applied survives here, as it does where a process dies and the machine does
            // not: the hardest case, as the table is half replaced.
            target.table.checkpoint().expect("checkpoint");
            drop((target, dying));
            disk.crash();
            let again = open_machine(&disk, &runtime).expect("opens");
            assert_eq!(disk.list("snapshot").expect("listed"), Vec::<String>::new());
            if batches == 0 {
                assert_eq!(again.applied(), Some(log_id(1, 20)), "it had not begun");
                continue;
            }
            assert_eq!(again.applied(), Some(log_id(1, 300)), "after {batches} batches");
            assert_eq!(data_rows(&*again.table), data_rows(&*source.table));
            interrupted += 1;
            if installed.is_ok() {
                break;
            }
        }
        assert!(interrupted > 4, "only {interrupted} places to be interrupted in");
    });
}

#[test]
fn power_that_fails_between_two_steps_of_an_install_loses_none_of_it() {
    in_a_world(|| async {
        let runtime = Runtime::simulated(1, 0);
        let source = filled(&SimDisk::new(1), &runtime, 300).await;
        let expected = MachineState::load(&*source.table).expect("loads");
        let (mut synced, mut done) = (0, false);
        for steps in 0.. {
            let disk = SimDisk::new(steps);
            let target = filled(&disk, &runtime, 100).await;
            target.table.checkpoint().expect("checkpoint");
            let manifest = copy_in_small_pages(&source, Arc::new(disk.clone()));
            let own: Arc<dyn Disk> = Arc::new(disk.clone());
            let work = Installation::begin(target.table.clone(), own, manifest, true);
            let mut work = work.expect("begins").within(SMALL);
            for _ in 0..steps {
                let syncs = disk.counts().syncs;
                done = matches!(work.step().expect("steps"), Step::Done(_));
                synced += u64::from(!done && disk.counts().syncs > syncs);
            }
            drop((work, target));
            // Whatever was not synced is gone, and of that maybe only a part.
            disk.crash();
            let again = open_machine(&disk, &runtime).expect("opens");
            let began = again.applied() == Some(log_id(1, 300));
            assert!(began || (!done && again.applied() == Some(log_id(1, 100))));
            if began {
                assert_eq!(data_rows(&*again.table), data_rows(&*source.table), "{steps} steps");
                let state = MachineState::load(&*again.table).expect("loads");
                assert_eq!((&state.group, &state.sessions), (&expected.group, &expected.sessions));
            }
            if done {
                assert!(steps > 50, "{steps} steps are no small ones");
                break;
            }
        }
        assert!(synced > 100, "the table was made durable {synced} times on the way");
    });
}

/// As [`copy`], in pages of a few rows.
fn copy_in_small_pages(source: &Machine, disk: Arc<dyn Disk>) -> Manifest {
    let capture = source.capture().expect("a capture");
    let rows = source.table.scan(&[], &[0xff; 8], usize::MAX).expect("readable");
    let rows: Vec<_> = rows.into_iter().filter(|(row, _)| snapshot::is_replicated(row)).collect();
    let mut file = Incoming::create(disk).expect("created");
    for page in rows.chunks(5) {
        file.append(&snapshot::encode_page(page).expect("a page")).expect("appended");
    }
    let manifest = file.manifest(capture.group);
    file.finish(&manifest).expect("finished");
    manifest
}

#[test]
fn entries_that_came_with_a_snapshot_are_passed_over_and_an_older_snapshot_too() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(2));
        let source = filled(&SimDisk::new(1), &runtime, 100).await;
        let older = filled(&SimDisk::new(3), &runtime, 50).await;
        let target = filled(&disk, &runtime, 30).await;
        let manifest = copy(&source, Arc::new(disk.clone())).expect("copied");
        target.install(manifest, &Flag::default()).await.expect("installs");
        let rows = data_rows(&*target.table);
        // openraft knows nothing of it, and goes on where its log ends.
        let again = (31..=100).map(|index| Ok((blank(1, index), None)));
        let mut machine = StateMachine(target.clone());
        machine.apply(futures_util::stream::iter(again)).await.expect("applies");
        assert_eq!(target.applied(), Some(log_id(1, 100)));
        let manifest = copy(&older, Arc::new(disk.clone())).expect("copied");
        target.install(manifest, &Flag::default()).await.expect("nothing to do");
        assert_eq!(target.applied(), Some(log_id(1, 100)));
        assert_eq!((data_rows(&*target.table), target.installs()), (rows, Some(1)));
        assert_eq!(disk.list("snapshot").expect("listed"), Vec::<String>::new());
        let next = [Ok((blank(1, 101), None))];
        machine.apply(futures_util::stream::iter(next)).await.expect("applies");
        assert_eq!(target.applied(), Some(log_id(1, 101)));
    });
}

#[test]
fn nothing_is_applied_to_a_table_whose_rows_were_not_all_replaced() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(2));
        let source = filled(&SimDisk::new(1), &runtime, 100).await;
        let target = filled(&disk, &runtime, 30).await;
        let mut manifest = copy(&source, Arc::new(disk.clone())).expect("copied");
        manifest.checksum ^= 1;
        assert!(target.install(manifest.clone(), &Flag::default()).await.is_err());
        assert!(target.is_installing(), "it passes for whole");
        let mut machine = StateMachine(target.clone());
        let next = [Ok((blank(1, 31), None))];
        let refused = machine.apply(futures_util::stream::iter(next)).await.expect_err("refuses");
        assert!(refused.to_string().contains("incomplete"), "{refused}");
        assert!(target.install(manifest, &Flag::raised()).await.is_err());
    });
}

#[test]
fn a_half_replaced_table_without_its_file_refuses_to_start() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(2));
        let source = filled(&SimDisk::new(1), &runtime, 60).await;
        let target = filled(&disk, &runtime, 20).await;
        let manifest = copy(&source, Arc::new(disk.clone())).expect("copied");
        let dying: Arc<dyn Table> = Arc::new(dying(target.table.clone(), 2));
        assert!(install(&dying, &disk, manifest, true).is_err());
        target.table.checkpoint().expect("checkpoint");
        disk.remove("snapshot/incoming").expect("removed");
        disk.sync_dir("snapshot").expect("synced");
        disk.crash();
        let refused = open_machine(&disk, &runtime).err().expect("refuses").to_string();
        assert!(refused.contains("incomplete"), "{refused}");
    });
}

#[test]
fn a_file_that_is_not_what_was_sent_is_refused() {
    let disk = Arc::new(SimDisk::new(1));
    let mut file = Incoming::create(disk.clone()).expect("created");
    file.append(b"one").expect("appended");
    let mut manifest = file.manifest(Default::default());
    file.append(b"two").expect("appended");
    assert!(file.finish(&manifest).is_err(), "a page too many was taken");
    let mut file = Incoming::create(disk).expect("created");
    file.append(b"one").expect("appended");
    manifest.checksum ^= 1;
    assert!(file.finish(&manifest).is_err(), "a wrong checksum was taken");
}

#[test]
fn a_received_file_is_synced_as_it_grows() {
    let disk = SimDisk::new(1);
    let mut file = Incoming::create(Arc::new(disk.clone())).expect("created");
    let (page, before) = (vec![7; 1 << 20], disk.counts().syncs);
    let mut told = 0;
    for _ in 0..40 {
        told += u64::from(file.will_sync(page.len()));
        file.append(&page).expect("appended");
    }
    let synced = disk.counts().syncs - before;
    assert!(synced >= 4, "{synced} syncs of 40 MiB");
    assert_eq!(synced, told, "who waits for a sync is told of it before");
}

#[test]
fn without_data_a_snapshot_leaves_the_rows_alone() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(2));
        let target = filled(&disk, &runtime, 20).await;
        let before = data_rows(&*target.table);
        let mut file = Incoming::create(Arc::new(disk.clone())).expect("created");
        file.append(&snapshot::encode_page(&[]).expect("a page")).expect("appended");
        let manifest = file.manifest(Default::default());
        file.finish(&manifest).expect("finished");
        install(&target.table, &disk, manifest, false).expect("installed");
        assert_eq!(data_rows(&*target.table), before);
    });
}
