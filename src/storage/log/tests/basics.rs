//! Order, group commit, failure, reading back, removing.

use std::time::Duration;

use bytes::Bytes;

use super::support::{Answers, filled, open, record, segments, simulated, try_open};
use crate::runtime::Runtime;
use crate::storage::disk::{Disk, SimDisk};
use crate::storage::log::{Kind, LogError, LogUser, MAX_RECORD_BYTES, NewRecord, Position};

#[test]
fn a_new_log_is_empty_and_begins_after_the_default_position() {
    simulated(|runtime| async move {
        let opened = open(&SimDisk::new(1), &runtime);
        assert_eq!(opened.replayed, []);
        assert_eq!((opened.log.start(), opened.log.end()), (Position(1), Position(1)));
        assert!(opened.log.start() > Position::default());
    });
}

#[test]
fn records_come_back_in_order_over_segments_and_reopenings() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let mut appended = filled(&disk, &runtime).await;
        assert!(segments(&disk).len() >= 3, "{:?}", segments(&disk));
        for round in 0..5_u8 {
            let opened = open(&disk, &runtime);
            assert_eq!(opened.replayed, appended);
            assert_eq!(opened.metrics.log_torn_tails.get(), 0);
            for (position, kind, payload) in &appended {
                let read = opened.log.read(*position).expect("reads");
                assert_eq!(read, (*kind, Bytes::copy_from_slice(payload)));
            }
            let end = opened.log.end();
            let positions = opened.log.append_durably(vec![record(&[round])]).await;
            assert_eq!(positions.expect("appends"), [end]);
            appended.push((end, Kind::RaftEntry, vec![round]));
            opened.log.close().await;
        }
    });
}

#[test]
fn completions_are_called_in_append_order_and_share_syncs() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        disk.set_sync_delay(Duration::from_millis(10));
        let opened = open(&disk, &runtime);
        let answers = Answers::default();
        // The first goes alone; the others queue while it is being synced.
        opened.log.append(vec![record(b"0")], answers.completion(0));
        runtime.sleep(Duration::from_millis(5)).await;
        let before = disk.counts().syncs;
        for name in 1..6 {
            opened.log.append(vec![record(b"x")], answers.completion(name));
        }
        assert_eq!(answers.take().0, [] as [usize; 0], "nothing is durable before its sync");
        runtime.sleep(Duration::from_millis(50)).await;
        assert_eq!(answers.take(), (vec![0, 1, 2, 3, 4, 5], vec![]));
        assert_eq!(
            disk.counts().syncs - before,
            2,
            "one for the first append, one for the five others"
        );
        assert_eq!(opened.metrics.log_records.get(), 6);
        assert_eq!(opened.metrics.log_bytes.get(), 6 * 15);
    });
}

#[test]
fn an_append_without_records_waits_for_those_before_it() {
    simulated(|runtime| async move {
        let opened = open(&SimDisk::new(1), &runtime);
        let answers = Answers::default();
        opened.log.append(vec![record(b"0")], answers.completion(0));
        assert_eq!(opened.log.append(vec![], answers.completion(1)), []);
        assert_eq!(answers.take(), (vec![], vec![]));
        opened.log.append_durably(vec![]).await.expect("waits");
        assert_eq!(answers.take(), (vec![0, 1], vec![]));
    });
}

#[test]
fn a_failed_sync_fails_that_append_and_every_later_one_for_ever() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let opened = open(&disk, &runtime);
        opened.log.append_durably(vec![record(b"kept")]).await.expect("appends");
        disk.fail_next_sync();
        let error = opened.log.append_durably(vec![record(b"lost")]).await.expect_err("fails");
        assert!(error.to_string().contains("simulated sync failed"), "{error}");
        assert!(opened.log.failed().await.to_string().contains("simulated sync failed"));
        for _ in 0..3 {
            opened.log.append_durably(vec![record(b"later")]).await.expect_err("fails for ever");
        }
        let syncs = disk.counts().syncs;
        opened.log.close().await;
        assert_eq!(disk.counts().syncs, syncs, "a failed log is never synced again");
        // Both with and without a power cut, what was acknowledged is there and nothing else.
        for _ in 0..2 {
            let payloads: Vec<_> =
                open(&disk, &runtime).replayed.into_iter().map(|(_, _, payload)| payload).collect();
            assert_eq!(payloads, [b"kept"]);
            disk.crash();
        }
    });
}

#[test]
fn a_full_disk_fails_the_log_and_loses_nothing_acknowledged() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let appended = filled(&disk, &runtime).await;
        let log = open(&disk, &runtime).log;
        disk.set_full(true);
        log.append_durably(vec![record(b"no room")]).await.expect_err("the disk is full");
        disk.set_full(false);
        log.append_durably(vec![record(b"room again")]).await.expect_err("failed for ever");
        log.close().await;
        assert_eq!(open(&disk, &runtime).replayed, appended);
    });
}

#[test]
fn segments_go_once_every_user_released_them_and_the_last_one_stays() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let appended = filled(&disk, &runtime).await;
        let log = open(&disk, &runtime).log;
        let end = log.end();
        let before = segments(&disk);
        log.release(LogUser::Raft, end).expect("releases");
        assert_eq!(segments(&disk), before, "the other user has released nothing");
        let middle = appended[5].0;
        log.release(LogUser::Replica, middle).expect("releases");
        assert!(log.start() > Position(1) && log.start() <= middle, "{:?}", log.start());
        assert!(log.read(middle).is_ok(), "what is needed stays");
        assert!(log.read(appended[0].0).is_err(), "what is not needed is gone");
        log.release(LogUser::Replica, Position(1)).expect("a floor never falls");
        log.release(LogUser::Replica, end).expect("releases");
        assert_eq!(segments(&disk).len(), 1);
        log.close().await;

        disk.crash();
        let opened = open(&disk, &runtime);
        let kept: Vec<_> =
            appended.into_iter().filter(|seen| seen.0 >= opened.log.start()).collect();
        assert_eq!(opened.replayed, kept);
        assert_eq!(opened.log.end(), end, "positions go on where they were");
    });
}

#[test]
fn a_crash_while_segments_are_removed_never_leaves_a_hole() {
    for seed in 0..200 {
        simulated(|runtime| async move {
            let disk = SimDisk::new(seed);
            let appended = filled(&disk, &runtime).await;
            let log = open(&disk, &runtime).log;
            log.release(LogUser::Raft, log.end()).expect("releases");
            log.release(LogUser::Replica, log.end()).expect("releases");
            disk.crash();
            let opened = open(&disk, &runtime);
            let kept = appended.into_iter().filter(|seen| seen.0 >= opened.log.start());
            assert_eq!(opened.replayed, kept.collect::<Vec<_>>());
        });
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_the_log_goes_on() {
    simulated(|runtime| async move {
        let opened = open(&SimDisk::new(1), &runtime);
        let end = opened.log.end();
        let long = NewRecord {
            kind: Kind::RaftEntry,
            payload: Bytes::from(vec![0; MAX_RECORD_BYTES + 1]),
        };
        let error = opened.log.append_durably(vec![long.clone()]).await.expect_err("too long");
        assert!(error.to_string().contains("too long"), "{error}");
        // Seventeen times the same 64 MiB: more than may queue, though it takes no more memory.
        let longest = long.payload.slice(..MAX_RECORD_BYTES);
        let many = vec![NewRecord { payload: longest, ..long }; 17];
        let error = opened.log.append_durably(many).await.expect_err("too many");
        assert!(error.to_string().contains("wait to be written"), "{error}");
        let positions = opened.log.append_durably(vec![record(b"fine")]).await.expect("appends");
        assert_eq!(positions, [end], "refused records take no place");
    });
}

#[test]
fn a_closed_log_wrote_what_had_queued_and_takes_no_more() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let log = open(&disk, &runtime).log;
        let answers = Answers::default();
        for name in 0..10 {
            log.append(vec![record(b"queued")], answers.completion(name));
        }
        log.close().await;
        assert_eq!(answers.take().0, (0..10).collect::<Vec<_>>());
        let late = log.append_durably(vec![record(b"late")]).await;
        assert!(matches!(late, Err(LogError::Closed)), "{late:?}");
        log.close().await;
        assert_eq!(open(&disk, &runtime).replayed.len(), 10);
    });
}

#[test]
fn a_record_that_replay_refuses_is_named() {
    simulated(|runtime| async move {
        let disk = SimDisk::new(1);
        let appended = filled(&disk, &runtime).await;
        let options = crate::storage::log::LogOptions {
            disk: std::sync::Arc::new(disk.clone()),
            dir: "log".to_owned(),
            segment_bytes: 128,
            users: vec![],
            runtime,
            metrics: crate::telemetry::Metrics::new(),
        };
        let result = crate::storage::log::CommitLog::open(options, &mut |record| {
            if record.payload == appended[3].2 { Err("not this one".to_owned()) } else { Ok(()) }
        });
        match result.err() {
            Some(LogError::Replay { position, problem }) => {
                assert_eq!((position, problem.as_str()), (appended[3].0, "not this one"));
            }
            other => panic!("expected a refused replay, got {other:?}"),
        }
    });
}

#[test]
fn the_thread_of_the_real_world_does_the_same() {
    // No tokio runtime around it: the log of a real node needs none to write.
    let disk = SimDisk::new(1);
    let runtime = Runtime::real();
    let opened = open(&disk, &runtime);
    let answers = Answers::default();
    for name in 0..100 {
        opened.log.append(vec![record(&[name as u8; 20])], answers.completion(name));
    }
    drop(opened.log);
    assert_eq!(answers.take(), ((0..100).collect(), vec![]), "dropping writes what queued");
    let opened = try_open(&disk, &runtime).expect("opens");
    assert_eq!(opened.replayed.len(), 100);
    assert!(disk.list("log").expect("lists").len() > 10, "over many segments");
}

#[test]
fn a_completion_that_panics_fails_the_log_instead_of_leaving_others_waiting() {
    let opened = open(&SimDisk::new(1), &Runtime::real());
    opened.log.append(vec![record(b"x")], Box::new(|_| panic!("a completion's own mistake")));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        assert!(opened.log.failed().await.to_string().contains("panicked"));
        opened.log.append_durably(vec![record(b"y")]).await.expect_err("nobody writes it");
    });
}
