//! Hand-made histories for writes that lose to newer ones, and for writes at less than a quorum.

use super::made::{Made, broken, only, v};
use crate::check::*;
use crate::history::Served;

const NAME: &str = "superseded-not-told";

fn quorum(w: u16) -> Option<Served> {
    Some(Served(EffectiveLevel::Quorum { r: 2, w, n: 3 }))
}

fn weak(w: u16) -> Option<Served> {
    Some(Served(EffectiveLevel::Eventual { r: 1, w, n: 3 }))
}

/// A write at version 7, and one at version 4 after it; how many are examined and found.
fn second(change: impl FnOnce(&mut Op, &mut Op)) -> (u64, u64) {
    let mut made = Made::new(Mode::Leaderless);
    made.put(7);
    made.put(4);
    let [first, second] = made.ops.as_mut_slice() else { panic!("two writes") };
    (first.served, second.served, second.client) = (quorum(2), quorum(2), 2);
    change(first, second);
    let findings = made.check();
    let found = findings.iter().find(|finding| finding.check == NAME);
    assert!(found.is_none_or(|finding| finding.promised && finding.level == "quorum"));
    found.map_or((0, 0), |finding| (finding.examined, finding.found))
}

fn delete(op: &mut Op) {
    (op.action, op.value) = (Action::Delete, None);
}

#[test]
fn a_write_below_one_that_was_acknowledged_before_must_be_told_of_it() {
    assert_eq!(second(|_, _| ()), (1, 1));
    assert_eq!(second(|_, second| second.superseded = Some(v(7))), (1, 0));
    assert_eq!(second(|_, second| second.superseded = Some(v(9))), (1, 0), "by an even newer one");
    assert_eq!(second(|_, second| second.superseded = Some(v(5))), (1, 1), "not by that one alone");
    assert_eq!(second(|_, second| second.version = Some(v(8))), (1, 0), "it did not lose");
}

#[test]
fn deletes_lose_and_win_like_puts() {
    assert_eq!(second(|_, second| delete(second)), (1, 1));
    assert_eq!(second(|first, _| delete(first)), (1, 1));
    assert_eq!(second(|first, second| [first, second].into_iter().for_each(delete)), (1, 1));
}

#[test]
fn a_write_need_not_be_told_of_what_may_have_come_later() {
    assert_eq!(second(|first, second| first.answered_us = second.invoked_us), (0, 0));
    assert_eq!(second(|first, second| first.answered_us = second.invoked_us + 1), (0, 0));
    assert_eq!(second(|first, second| first.answered_us = second.invoked_us - 1), (1, 1));
}

#[test]
fn a_write_that_was_not_acknowledged_binds_nobody_and_is_bound_by_nothing() {
    let lost = |ended| {
        move |op: &mut Op| {
            (op.ended, op.version) = (ended, op.version.filter(|_| ended == Ended::Ok));
        }
    };
    for ended in [Ended::Unknown, Ended::Failed] {
        assert_eq!(second(|first, _| lost(ended)(first)), (0, 0));
        assert_eq!(second(|_, second| lost(ended)(second)), (0, 0));
    }
    assert_eq!(second(|first, _| first.key = Key::new("other", 8).expect("a key")), (0, 0));
}

#[test]
fn only_writes_that_share_a_replica_must_know_of_each_other() {
    assert_eq!(second(|first, _| first.served = weak(1)), (0, 0));
    assert_eq!(second(|_, second| second.served = weak(1)), (0, 0));
    assert_eq!(
        second(|first, second| (first.served, second.served) = (weak(1), quorum(3))),
        (1, 1)
    );
    assert_eq!(
        second(|first, second| (first.served, second.served) = (quorum(3), weak(1))),
        (1, 1)
    );
    assert_eq!(second(|first, _| first.served = None), (0, 0), "nobody knows how many took it");
    let one_replica = Some(Served(EffectiveLevel::Quorum { r: 1, w: 1, n: 1 }));
    assert_eq!(second(|one, two| (one.served, two.served) = (one_replica, one_replica)), (1, 1));
}

#[test]
fn the_newest_of_all_that_were_acknowledged_before_counts() {
    let mut made = Made::new(Mode::Leaderless);
    for (seq, told) in [(5, None), (9, None), (3, Some(9)), (4, Some(5)), (6, None), (10, None)] {
        let put = made.put(seq);
        (put.served, put.superseded) = (quorum(2), told.map(v));
    }
    let findings = made.check();
    let finding = only(&findings, NAME, "quorum");
    assert_eq!((finding.examined, finding.found), (5, 2));
    assert!(finding.is_broken());
    assert!(finding.examples[0].contains("1-4"), "{:?}", finding.examples);
    assert!(finding.examples[1].contains("told that it was the newest"), "{:?}", finding.examples);
}

#[test]
fn leader_mode_has_no_writes_that_lose() {
    let mut made = Made::new(Mode::Leader);
    made.put(1).served = Some(Served(EffectiveLevel::Linearizable));
    assert!(made.check().iter().all(|finding| finding.check != NAME));
}

#[test]
fn a_write_at_less_than_a_quorum_does_not_bind_quorum_reads() {
    let missed = |written: Option<Served>, read: Option<Served>, reader: u32| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1).served = quorum(2);
        made.put(2).served = written;
        let get = made.get(1);
        (get.served, get.client, get.node) = (read, reader, 1);
        made.readback(2);
        let findings = made.check();
        let stale = findings.iter().filter(|finding| finding.check == "stale-read");
        let found: u64 = stale.map(|finding| finding.found).sum();
        let broken = findings.into_iter().filter(Finding::is_broken).map(|finding| finding.check);
        (found, broken.collect::<Vec<_>>())
    };
    for reader in [1, 2] {
        assert_eq!(missed(weak(1), quorum(2), reader), (0, vec![]), "client {reader}");
        assert!(missed(quorum(2), quorum(2), reader).1.contains(&"stale-read".to_owned()));
        // Where every read is weak it is counted.
        let (found, broken) = missed(weak(1), weak(1), reader);
        assert_eq!((found, broken), (1, vec!["level-not-served".to_owned()]));
    }
}

#[test]
fn a_delete_at_less_than_a_quorum_may_be_missed_until_everything_settled() {
    let came_back = |level, at_the_end| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1).served = quorum(2);
        let op = made.op(3, Action::Delete, 1);
        (op.version, op.served) = (Some(v(2)), weak(1));
        let read = made.get(1);
        (read.level, read.readback) = (level, at_the_end);
        broken(made).contains(&"deleted-key-came-back".to_owned())
    };
    assert!(!came_back(Level::Quorum, false));
    assert!(came_back(Level::Quorum, true));
    assert!(came_back(Level::Local, true));
}
