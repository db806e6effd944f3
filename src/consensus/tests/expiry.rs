//! Records that expire by the log: the same rows whatever was batched together.

use std::collections::BTreeSet;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use proptest::prelude::*;

use super::bench::Bench;
use super::support::*;
use crate::consensus::Command;
use crate::consensus::expiry::MAX_EXPIRED_AN_ENTRY;
use crate::consensus::state_machine::{StateMachine, copy};
use crate::runtime::Runtime;
use crate::runtime::flag::Flag;
use crate::storage::disk::SimDisk;
use crate::storage::{encoding, rows};
use crate::types::{Change, Condition, Content, Version, Write};

fn put_for(name: &str, value: &str, ttl_ms: u64) -> Write {
    let change = Change::put(value.to_owned().into(), None, Some(ttl_ms));
    Write { key: key(name), change, condition: None, retry: None }
}

/// A submission at a time in milliseconds; each with the next sequence of one session.
fn at(sequence: u64, time_ms: u64, writes: Vec<Write>) -> Command {
    let session = session(1, 1, sequence, sequence - 1);
    Command::Data(vec![submission(session, time_ms << 16, writes)])
}

fn expire(now_ms: u64) -> Command {
    Command::Expire { now_ms }
}

fn is_gone(bench: &Bench, name: &str) -> bool {
    matches!(bench.content(name), None | Some((_, Content::Tombstone)))
}

#[test]
fn a_record_is_there_until_the_log_says_that_its_time_is_over() {
    let mut bench = Bench::new();
    bench.commands(vec![at(1, 1_000, vec![put_for("a", "1", 500), put("b", "for good", None)])]);
    let (version, _) = bench.content("a").expect("a record");
    assert_eq!(bench.state.expiries.next_ms(), Some(1_500));
    // Log time has long passed it; no entry said so.
    bench.commands(vec![at(2, 9_000, vec![put("c", "later", None)]), expire(1_499)]);
    assert!(!is_gone(&bench, "a"));
    bench.commands(vec![expire(1_500)]);
    assert_eq!(bench.content("a"), Some((version, Content::Tombstone)), "of the same version");
    assert!(!is_gone(&bench, "b") && !is_gone(&bench, "c"));
    assert_eq!(bench.state.expiries.next_ms(), None);
    // It holds nothing now.
    let absent = Write { condition: Some(Condition::Absent), ..put_for("a", "2", 500) };
    bench.commands(vec![at(3, 9_500, vec![absent])]);
    assert!(!is_gone(&bench, "a"));
}

#[test]
fn what_was_written_over_a_record_that_falls_due_stays() {
    let mut bench = Bench::new();
    bench.commands(vec![
        at(1, 1_000, vec![put_for("a", "1", 500), put_for("b", "1", 500), put_for("c", "1", 500)]),
        at(2, 1_100, vec![put("a", "2", None), put_for("b", "2", 5_000), delete("c")]),
        at(3, 1_200, vec![put("c", "3", None)]),
    ]);
    bench.commands(vec![expire(2_000)]);
    assert!(["a", "b", "c"].iter().all(|name| !is_gone(&bench, name)));
    bench.commands(vec![expire(6_100)]);
    assert!(is_gone(&bench, "b") && !is_gone(&bench, "a") && !is_gone(&bench, "c"));
}

#[test]
fn rows_do_not_depend_on_which_entries_were_applied_together() {
    let commands = || {
        vec![
            at(1, 1_000, vec![put_for("a", "1", 10), put_for("b", "1", 900)]),
            expire(1_050),
            at(2, 1_100, vec![put_for("a", "2", 10), put_for("c", "1", 1)]),
            expire(1_200),
            expire(1_300),
            at(3, 1_400, vec![put_for("c", "2", 10)]),
            expire(1_405),
            expire(1_410),
        ]
    };
    let mut singly = Bench::new();
    commands().into_iter().for_each(|command| singly.commands(vec![command]));
    for split in 0..=commands().len() {
        let mut batched = Bench::new();
        let mut first = commands();
        let second = first.split_off(split);
        batched.commands(first);
        batched.commands(second);
        assert_eq!(batched.rows(), singly.rows(), "cut at {split}");
    }
    assert!(is_gone(&singly, "a") && is_gone(&singly, "c") && !is_gone(&singly, "b"));
}

/// One of the commands that a random log is made of.
fn random_command(sequence: u64, (kind, number, ms): (u8, u8, u64)) -> Command {
    let (name, time_ms) = (format!("k{}", number % 4), 1_000 + 5 * sequence);
    match kind % 5 {
        0 | 1 => at(sequence, time_ms, vec![put_for(&name, "v", 1 + ms % 60)]),
        2 => at(sequence, time_ms, vec![put(&name, "v", None)]),
        3 => at(sequence, time_ms, vec![delete(&name)]),
        // Also by clocks that are behind.
        _ => expire((time_ms + ms % 40).saturating_sub(20)),
    }
}

proptest! {
    #[test]
    fn whatever_is_batched_or_loaded_anew_the_rows_are_the_same_and_of_the_right_keys(
        log in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u64>()), 1..60),
        cuts in proptest::collection::vec((1usize..8, any::<bool>()), 1..60),
    ) {
        let commands = || log.iter().zip(1..).map(|(drawn, sequence)| random_command(sequence, *drawn));
        let mut singly = Bench::new();
        commands().for_each(|command| singly.commands(vec![command]));
        let (mut batched, mut left) = (Bench::new(), commands().collect::<Vec<_>>());
        for (length, reloads) in cuts.into_iter().cycle().take(log.len()) {
            let rest = left.split_off(length.min(left.len()));
            batched.commands(std::mem::replace(&mut left, rest));
            if reloads {
                batched.reload();
            }
        }
        prop_assert_eq!(batched.rows(), singly.rows());
        // One row of the order for each value that expires, and no other.
        let (from, to) = rows::expiry_range();
        let order = singly.table.scan_keys(&from, &to, usize::MAX).expect("readable");
        let expiring = (0..4).filter_map(|number| {
            let name = format!("k{number}");
            let (_, content) = singly.content(&name)?;
            let Content::Value { expires_at_ms: Some(at_ms), .. } = content else { return None };
            Some(rows::expiry_row(at_ms, name.as_bytes()))
        });
        prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), expiring.collect());
    }
}

#[test]
fn an_entry_makes_a_bounded_number_expire_the_oldest_first() {
    let mut bench = Bench::new();
    let name = |number: usize| format!("k{number:05}");
    let count = MAX_EXPIRED_AN_ENTRY + 7;
    for (sequence, number) in (1..).zip(0..count) {
        let ttl_ms = 10_000 - number as u64;
        bench.commands(vec![at(sequence, 1_000, vec![put_for(&name(number), "1", ttl_ms)])]);
    }
    bench.commands(vec![expire(100_000)]);
    let left: Vec<bool> = (0..count).map(|number| !is_gone(&bench, &name(number))).collect();
    assert_eq!(left.iter().filter(|left| **left).count(), 7);
    assert!(left[..7].iter().all(|left| *left), "those that expire last");
    bench.commands(vec![expire(100_000)]);
    assert!(is_gone(&bench, &name(0)));
}

#[test]
fn a_key_that_is_put_again_and_again_keeps_one_row_in_the_order() {
    let mut bench = Bench::new();
    let rows_kept = |bench: &Bench| {
        let (from, to) = rows::expiry_range();
        bench.table.scan(&from, &to, usize::MAX).expect("readable").len()
    };
    for sequence in 1..=50 {
        bench.commands(vec![
            at(2 * sequence - 1, sequence * 1_000, vec![put_for("a", "1", 60_000)]),
            at(2 * sequence, sequence * 1_000, vec![put_for("a", "2", 90_000)]),
        ]);
        assert_eq!(rows_kept(&bench), 1);
    }
    bench.commands(vec![at(101, 60_000, vec![put("a", "good", None)])]);
    assert_eq!(rows_kept(&bench), 0);
    bench.commands(vec![at(102, 61_000, vec![put_for("a", "3", 10), delete("a")])]);
    assert_eq!(rows_kept(&bench), 0);
    bench.commands(vec![at(103, 62_000, vec![put("a", "4", None)]), expire(1_000_000)]);
    assert!(!is_gone(&bench, "a"));
}

#[test]
fn entries_of_one_batch_go_on_where_the_one_before_stopped() {
    let mut bench = Bench::new();
    let count = 2 * MAX_EXPIRED_AN_ENTRY + 100;
    let name = |number: usize| format!("k{number:05}");
    let puts = (0..count).map(|number| put_for(&name(number), "1", 1 + number as u64));
    bench.commands(vec![at(1, 1_000, puts.collect())]);
    bench.commands(vec![
        expire(1 << 40),
        at(2, 2_000, vec![put_for("late", "1", 1)]),
        expire(1 << 40),
    ]);
    let left = (0..count).filter(|number| !is_gone(&bench, &name(*number))).count();
    assert_eq!(left, 101, "a thousand each, of which one was late");
    bench.reload();
    bench.commands(vec![expire(1 << 40)]);
    assert!((0..count).all(|number| is_gone(&bench, &name(number))) && is_gone(&bench, "late"));
    assert_eq!(bench.state.expiries.next_ms(), None);
}

#[test]
fn a_snapshot_brings_the_order_of_expiry_and_takes_the_old_one_away() {
    in_a_world(|| async {
        let (runtime, disk) = (Runtime::simulated(1, 0), SimDisk::new(2));
        let entries = |commands: Vec<Command>| {
            let numbered = commands.into_iter().zip(1..);
            let entries = numbered.map(|(command, index)| Ok((entry(1, index, &command), None)));
            futures_util::stream::iter(entries.collect::<Vec<_>>())
        };
        let source = Arc::new(open_machine(&SimDisk::new(1), &runtime).expect("opens"));
        let target = Arc::new(open_machine(&disk, &runtime).expect("opens"));
        let old = vec![at(1, 1_000, vec![put_for("old", "1", 500)])];
        StateMachine(target.clone()).apply(entries(old)).await.expect("applies");
        let new = vec![
            at(1, 1_000, vec![put_for("goes", "1", 7_000)]),
            at(2, 1_000, vec![put("stays", "1", None)]),
        ];
        StateMachine(source.clone()).apply(entries(new)).await.expect("applies");
        let manifest = copy(&source, Arc::new(disk.clone())).expect("copied");
        target.install(manifest, &Flag::default()).await.expect("installs");
        assert_eq!(target.next_expiry_ms(), Some(8_000), "the old order is gone");
        let next = [Ok((entry(1, 3, &expire(8_000)), None))];
        StateMachine(target.clone())
            .apply(futures_util::stream::iter(next))
            .await
            .expect("applies");
        let held = |name: &str| {
            let row = target.table.get(&rows::data_row(&key(name))).expect("readable");
            row.map(|row| encoding::decode(&row).expect("a record").is_tombstone())
        };
        assert_eq!([held("goes"), held("stays"), held("old")], [Some(true), Some(false), None]);
        assert_eq!(target.next_expiry_ms(), None);
    });
}

#[test]
fn a_time_to_live_counts_from_the_version_and_never_overflows() {
    let version = Version::new(5_000 << 16, crate::types::NodeId(1));
    let record = Change::put("v".into(), None, Some(u64::MAX)).into_record(version);
    assert_eq!(record.expires_at_ms(), Some(u64::MAX));
    let record = Change::put("v".into(), None, Some(30)).into_record(version);
    assert_eq!(record.expires_at_ms(), Some(5_030));
    assert!(!record.clone().as_of(5_029).is_tombstone());
    let gone = record.as_of(5_030);
    assert!(gone.is_tombstone() && gone.version == version);
}
