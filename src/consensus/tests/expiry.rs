//! Records that expire by the log: the same rows whatever was batched together.

use super::bench::Bench;
use super::support::*;
use crate::consensus::Command;
use crate::consensus::expiry::{MAX_EXPIRED_AN_ENTRY, next_expiry_ms};
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
    assert_eq!(next_expiry_ms(&*bench.table).expect("readable"), Some(1_500));
    // Log time has long passed it; no entry said so.
    bench.commands(vec![at(2, 9_000, vec![put("c", "later", None)]), expire(1_499)]);
    assert!(!is_gone(&bench, "a"));
    bench.commands(vec![expire(1_500)]);
    assert_eq!(bench.content("a"), Some((version, Content::Tombstone)), "of the same version");
    assert!(!is_gone(&bench, "b") && !is_gone(&bench, "c"));
    assert_eq!(next_expiry_ms(&*bench.table).expect("readable"), None);
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
