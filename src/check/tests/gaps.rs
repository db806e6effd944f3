//! Histories for what a check could get wrong while every other test still passes: found by breaking
//! the checks on purpose, one line at a time.

use super::made::{Made, broken, named, only, v};
use crate::check::linearizability::{self, Answer, Budget};
use crate::check::*;
use crate::history::{Item, Served};

fn delete(made: &mut Made, version: Option<u64>) -> &mut Op {
    let op = made.op(3, Action::Delete, 1);
    let ended = if version.is_some() { Ended::Ok } else { Ended::Unknown };
    (op.version, op.status, op.ended) = (version.map(v), 204, ended);
    op
}

/// So many writes at one time, each read at that time too, and nothing that tells their order.
fn tangled(writes: u32) -> Made {
    let mut made = Made::new(Mode::Leader);
    for seq in 1..=writes {
        let put = made.put(seq);
        (put.client, put.version, put.invoked_us, put.answered_us) = (seq, None, 10, 500);
        let get = made.get(seq);
        (get.client, get.version, get.invoked_us, get.answered_us) = (seq + 100, None, 11, 501);
    }
    made.now_us = 1_000;
    made
}

fn judged(made: Made) -> (Answer, u64) {
    let judged = linearizability::judge(&made.history(), Budget::DEFAULT);
    (judged[0].answer, judged[0].steps)
}

#[test]
fn a_value_that_is_still_to_be_read_is_not_written_over() {
    let (answer, steps) = judged(tangled(12));
    assert_eq!(answer, Answer::Linearizable);
    assert!(steps <= 40, "{steps} steps: one for each operation is enough");
}

#[test]
fn what_was_tried_in_another_order_is_not_tried_again() {
    let mut made = tangled(8);
    for seq in [1, 2] {
        made.get(seq).version = None;
    }
    let (answer, steps) = judged(made);
    assert_eq!(answer, Answer::NotLinearizable);
    // There are 2^8 sets of writes that can be done, and 8! orders.
    assert!(steps < 4_000, "{steps} steps");
}

#[test]
fn a_delete_asked_for_after_a_read_does_not_explain_that_it_found_nothing() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.get(0);
    delete(&mut made, None);
    assert_eq!(broken(made)[0], "stale-read");
}

#[test]
fn a_delete_that_came_too_late_for_an_absence_is_left_out_of_the_shortest_history() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    delete(&mut made, None);
    made.get(0);
    delete(&mut made, None).client = 4;
    made.get(1);
    let history = made.history();
    let findings = super::super::check(&history);
    let short = shortest(&history, only(&findings, "read-went-back", "linearizable"));
    let actions: Vec<Action> = short.ops.iter().map(|op| op.action).collect();
    assert_eq!(actions, [Action::Put, Action::Delete, Action::Get, Action::Get]);
}

#[test]
fn a_read_begun_before_a_delete_was_acknowledged_may_show_what_it_deletes() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        delete(&mut made, Some(2)).answered_us = 900;
        made.get(1);
        made.now_us = 1_000;
        made.readback(0);
        assert_eq!(broken(made), Vec::<String>::new(), "{mode}");
    }
}

#[test]
fn what_a_local_read_showed_binds_fresh_reads_in_leader_mode_alone() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        made.put(2).answered_us = 900;
        made.get(2).level = Level::Local;
        made.get(1);
        made.now_us = 1_000;
        made.readback(2);
        let findings = made.check();
        let found = |promised| {
            let went_back = findings.iter().filter(|f| f.check == "read-went-back");
            went_back.filter(|f| f.promised == promised).map(|f| f.found).sum::<u64>()
        };
        assert_eq!((found(true), found(false)), (u64::from(mode == Mode::Leader), 0), "{mode}");
    }
}

#[test]
fn two_updates_of_one_version_lose_one_also_where_an_answer_lost_its_version() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    made.put(2).if_match = Some(v(1));
    let put = made.put(3);
    (put.if_match, put.version) = (Some(v(1)), None);
    assert_eq!(broken(made)[0], "lost-update");
}

#[test]
fn a_read_of_fewer_replicas_at_the_end_neither_proves_nor_denies_a_loss() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.put(2);
    made.readback(1).r = Some(1);
    let findings = made.check();
    let lost = only(&findings, "lost-write", "quorum");
    assert_eq!((lost.found, lost.unverified), (0, 1));
}

#[test]
fn quorums_that_need_not_meet_promise_nothing_and_may_not_be_called_quorums() {
    let read = |r, w, asked: Option<u16>| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1);
        made.put(2);
        let get = made.get(1);
        (get.r, get.served) = (asked, Some(Served(EffectiveLevel::Quorum { r, w, n: 3 })));
        made.readback(2);
        broken(made)
    };
    assert_eq!(read(1, 2, None), ["level-not-served"]);
    assert_eq!(read(1, 2, Some(1)), ["level-not-served"]);
    assert_eq!(read(1, 3, Some(1)), ["stale-read"]);
    assert_eq!(read(2, 2, None), ["stale-read"]);
}

#[test]
fn a_list_must_be_served_at_the_level_that_was_asked_for() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        let list = made.op(2, Action::List, 1);
        let item = Item { key: list.key.clone(), version: v(1), value: Some(named(1)) };
        (list.items, list.served) = (Some(vec![item]), Some(Served(EffectiveLevel::Local)));
        made.readback(1);
        assert_eq!(broken(made), ["level-not-served"], "{mode}");
    }
}

#[test]
fn replicas_that_nobody_compared_are_unverified() {
    let compared = |nodes: &[u16], second_key: bool| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1);
        if second_key {
            made.put(2).key = Key::new("other", 8).expect("a key");
        }
        for node in nodes {
            let read = made.readback(1);
            (read.node, read.level) = (*node, Level::Local);
        }
        only(&made.check(), "replicas-differ", "local, once settled").is_unverified()
    };
    assert!(!compared(&[1, 2, 3], false));
    assert!(compared(&[1], false), "one node differs from nobody");
    assert!(compared(&[1, 2, 3], true), "the other key was not read");
}

#[test]
fn a_version_is_used_twice_also_by_a_delete_and_by_a_write_that_only_a_read_shows() {
    let twice = ["version-used-twice".to_owned()];
    let mut by_delete = Made::new(Mode::Leader);
    by_delete.put(1).key = Key::new("other", 8).expect("a key");
    delete(&mut by_delete, Some(1));
    assert_eq!(broken(by_delete)[0], twice[0]);
    let mut deletes = Made::new(Mode::Leaderless);
    delete(&mut deletes, Some(1));
    delete(&mut deletes, Some(1));
    assert_eq!(broken(deletes)[0], twice[0]);
    let mut shown = Made::new(Mode::Leaderless);
    let put = shown.put(1);
    (put.ended, put.version, put.status) = (Ended::Unknown, None, 504);
    let other = shown.put(2);
    (other.key, other.version) = (Key::new("other", 8).expect("a key"), Some(v(1)));
    shown.get(1);
    let broken = broken(shown);
    assert!(broken.contains(&twice[0]), "{broken:?}");
}
