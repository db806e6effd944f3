//! Hand-made histories of clients that see a key go: what stood there must not show again.

use super::made::{Made, broken, only, v};
use crate::check::*;

/// A value, a delete whose outcome nobody knows, a read that finds nothing, and one more read.
fn after_nothing(mode: Mode, change: impl FnOnce(&mut [Op])) -> Vec<String> {
    let mut made = Made::new(mode);
    made.put(1);
    let delete = made.op(3, Action::Delete, 1);
    (delete.ended, delete.status) = (Ended::Unknown, 504);
    made.get(0);
    made.get(1);
    change(&mut made.ops);
    broken(made)
}

#[test]
fn a_client_that_saw_a_key_gone_must_not_see_its_value_again() {
    for mode in Mode::ALL {
        assert_eq!(after_nothing(mode, |_| ()), ["read-went-back"], "{mode}");
        // A write that was never acknowledged may have come after the delete.
        let newer = |ops: &mut [Op]| (ops[0].ended, ops[0].version) = (Ended::Unknown, None);
        assert_eq!(after_nothing(mode, newer), Vec::<String>::new(), "{mode}");
        // It was acknowledged only after the read that found nothing had begun.
        let later = |ops: &mut [Op]| ops[0].answered_us = ops[2].invoked_us;
        assert_eq!(after_nothing(mode, later), Vec::<String>::new(), "{mode}");
    }
}

#[test]
fn a_value_that_was_seen_and_then_gone_must_not_come_back_to_the_same_client() {
    let shows = |seqs: [u32; 3], client: u32, level: Level, node: u16| {
        let mut made = Made::new(Mode::Leaderless);
        let put = made.put(1);
        (put.ended, put.version, put.status) = (Ended::Unknown, None, 504);
        let delete = made.op(3, Action::Delete, 1);
        (delete.ended, delete.status) = (Ended::Unknown, 504);
        made.get(seqs[0]);
        made.get(seqs[1]).level = level;
        let last = made.get(seqs[2]);
        (last.client, last.node) = (client, node);
        broken(made)
    };
    let nothing = Vec::<String>::new();
    assert_eq!(shows([1, 0, 1], 2, Level::Quorum, 2), ["read-went-back"]);
    assert_eq!(shows([1, 0, 0], 2, Level::Quorum, 2), nothing);
    assert_eq!(shows([0, 1, 0], 2, Level::Quorum, 2), nothing);
    assert_eq!(shows([0, 0, 1], 2, Level::Quorum, 2), nothing);
    assert_eq!(shows([1, 0, 1], 7, Level::Quorum, 2), nothing, "another client");
    assert_eq!(shows([1, 0, 1], 2, Level::Quorum, 3), nothing, "through another coordinator");
    assert_eq!(shows([1, 0, 1], 2, Level::Local, 2), nothing, "a replica may lag behind");
}

#[test]
fn a_delete_of_one_version_explains_no_loss_of_a_newer_one() {
    for mode in Mode::ALL {
        let lost = |acknowledged: bool| {
            let mut made = Made::new(mode);
            made.put(1);
            // As a put with a time to live is followed by.
            let expiry = made.op(9, Action::Delete, 1);
            (expiry.ended, expiry.status, expiry.if_match) = (Ended::Unknown, 504, Some(v(1)));
            if acknowledged {
                made.put(2);
            }
            made.get(0);
            !broken(made).is_empty()
        };
        assert!(lost(true) && !lost(false), "{mode}");
    }
}

#[test]
fn a_read_that_wrongly_finds_nothing_binds_no_later_read() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        made.get(0);
        made.get(1);
        let findings = made.check();
        let level = match mode {
            Mode::Leader => "linearizable",
            Mode::Leaderless => "quorum, same coordinator",
        };
        let went_back = findings.iter().filter(|f| f.check == "read-went-back");
        assert_eq!(went_back.map(|f| f.found).sum::<u64>(), 0, "{level}");
        assert_eq!(only(&findings, "stale-read", Level::default_for(mode).as_str()).found, 1);
    }
}

#[test]
fn a_refused_condition_and_a_list_show_a_key_that_was_gone() {
    let refused = |ops: &mut [Op]| {
        let op = &mut ops[3];
        (op.action, op.ended, op.status, op.if_absent) = (Action::Put, Ended::Failed, 412, true);
        (op.value, op.version) = (Some(super::made::named(9)), Some(v(1)));
    };
    assert_eq!(after_nothing(Mode::Leader, refused), ["read-went-back"]);
    let list = |ops: &mut [Op]| {
        let item = crate::history::Item {
            key: ops[3].key.clone(),
            version: v(1),
            value: ops[3].value.take(),
        };
        (ops[3].action, ops[3].version, ops[3].items) = (Action::List, None, Some(vec![item]));
    };
    for mode in Mode::ALL {
        assert_eq!(after_nothing(mode, list), ["read-went-back"], "{mode}");
    }
}
