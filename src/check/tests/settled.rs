//! Hand-made histories for deletes, replicas, conditions, versions, lists and ages.

use super::made::{Made, broken, named, only, v};
use crate::check::*;
use crate::history::Item;

/// Client 3 deletes at version `version`.
fn delete(made: &mut Made, version: u64) -> &mut Op {
    let op = made.op(3, Action::Delete, 1);
    (op.version, op.status) = (Some(v(version)), 204);
    op
}

/// Client 2 lists everything and is shown these values at their versions.
fn list<'a>(made: &'a mut Made, shown: &[u32]) -> &'a mut Op {
    let item = |seq: &u32| Item {
        key: Key::new("k", 8).expect("a key"),
        version: v(u64::from(*seq)),
        value: Some(named(*seq)),
    };
    let op = made.op(2, Action::List, 1);
    op.items = Some(shown.iter().map(item).collect());
    op
}

#[test]
fn a_deleted_key_must_not_come_back() {
    for mode in Mode::ALL {
        let shows = |seq: u32, change: fn(&mut Op)| {
            let mut made = Made::new(mode);
            made.put(1);
            change(delete(&mut made, 2));
            made.get(seq);
            made.check()
        };
        let name = "deleted-key-came-back";
        let level = Level::default_for(mode).as_str();
        assert!(only(&shows(1, |_| ()), name, level).is_broken());
        assert_eq!(only(&shows(0, |_| ()), name, level).found, 0);
        // It lost to something newer, and its client was told.
        let superseded = shows(1, |op| op.superseded = Some(v(5)));
        assert!(superseded.iter().all(|finding| finding.check != name), "{superseded:#?}");
        let unknown = shows(1, |op| (op.ended, op.version) = (Ended::Unknown, None));
        assert!(unknown.iter().all(|finding| finding.check != name), "{unknown:#?}");
    }
}

#[test]
fn a_weak_read_may_show_a_deleted_key_until_everything_settled() {
    let local = |at_the_end: bool| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1);
        delete(&mut made, 2);
        let read = made.get(1);
        (read.level, read.readback) = (Level::Local, at_the_end);
        made.check()
    };
    let counted = local(false);
    let before = only(&counted, "deleted-key-came-back", "local");
    assert_eq!((before.found, before.promised), (1, false));
    let settled = local(true);
    assert!(only(&settled, "deleted-key-came-back", "local, once settled").is_broken());
}

#[test]
fn replicas_must_be_equal_once_everything_settled() {
    let shows = |by_node: &[(u16, u32, Ended)]| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1);
        made.put(2);
        made.readback(2);
        for (node, seq, ended) in by_node {
            let read = made.readback(*seq);
            (read.node, read.level, read.ended) = (*node, Level::Local, *ended);
        }
        let findings = made.check();
        only(&findings, "replicas-differ", "local, once settled").clone()
    };
    let (ok, failed) = (Ended::Ok, Ended::Failed);
    let equal = shows(&[(1, 2, ok), (2, 2, ok), (3, 2, ok)]);
    assert!(!equal.is_broken() && !equal.is_unverified());
    // The last word of each node counts.
    assert!(!shows(&[(1, 1, ok), (2, 2, ok), (1, 2, ok)]).is_broken());
    let behind = shows(&[(1, 2, ok), (2, 1, ok), (3, 2, ok)]);
    assert!(behind.is_broken());
    assert!(behind.examples[0].contains("node 2 shows 1-1"), "{:?}", behind.examples);
    assert!(shows(&[(1, 2, ok), (2, 0, ok)]).is_broken());
    let silent = shows(&[(1, 2, ok), (2, 2, ok), (3, 2, failed)]);
    assert!(silent.is_unverified() && !silent.is_broken());
}

#[test]
fn replicas_that_were_not_asked_are_no_finding() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.readback(1);
    assert!(made.check().iter().all(|finding| finding.check != "replicas-differ"));
}

#[test]
fn two_updates_of_one_version_lose_one() {
    let second = |wanted: u64| {
        let mut made = Made::new(Mode::Leader);
        made.put(1);
        made.put(2).if_match = Some(v(1));
        made.put(3).if_match = Some(v(wanted));
        made.readback(3);
        broken(made)
    };
    assert_eq!(second(2), Vec::<String>::new());
    assert_eq!(second(1), ["lost-update"]);
}

#[test]
fn a_condition_must_hold_when_its_write_is_acknowledged() {
    let conditional = |deleted: Option<Ended>, change: fn(&mut Op)| {
        let mut made = Made::new(Mode::Leader);
        made.put(1);
        made.put(2);
        if let Some(ended) = deleted {
            let delete = delete(&mut made, 3);
            (delete.ended, delete.version) = (ended, delete.version.filter(|_| ended == Ended::Ok));
        }
        change(made.put(4));
        made.readback(4);
        broken(made).contains(&"lost-update".to_owned())
    };
    let if_absent: fn(&mut Op) = |op| op.if_absent = true;
    assert!(conditional(None, if_absent));
    assert!(conditional(Some(Ended::Failed), if_absent));
    assert!(!conditional(Some(Ended::Ok), if_absent));
    assert!(!conditional(Some(Ended::Unknown), if_absent));
    assert!(!conditional(None, |op| op.if_match = Some(v(2))));
    assert!(conditional(None, |op| op.if_match = Some(v(1))), "it was written over");
    assert!(conditional(Some(Ended::Ok), |op| op.if_match = Some(v(3))), "a delete was there");
    assert!(conditional(Some(Ended::Ok), |op| op.if_match = Some(v(2))), "it was deleted");
}

#[test]
fn lists_are_reads_of_every_check() {
    let list_after = |change: fn(&mut Made)| {
        let mut made = Made::new(Mode::Leader);
        made.put(1);
        made.put(2);
        change(&mut made);
        made.readback(2);
        broken(made)
    };
    assert_eq!(list_after(|made| _ = list(made, &[2])), Vec::<String>::new());
    assert_eq!(list_after(|made| _ = list(made, &[1])), ["stale-read"]);
    assert_eq!(list_after(|made| _ = list(made, &[])), ["stale-read"]);
    assert_eq!(list_after(|made| list(made, &[]).more = true), Vec::<String>::new());
    assert_eq!(list_after(|made| _ = list(made, &[7])), ["value-from-nowhere"]);
    let twice: fn(&mut Made) =
        |made| list(made, &[2]).items.as_mut().expect("items")[0].version = v(9);
    assert_eq!(list_after(twice), ["applied-twice"]);
    let failed: fn(&mut Made) = |made| {
        made.ops[1].ended = Ended::Failed;
        list(made, &[2]);
    };
    assert!(list_after(failed).contains(&"shown-after-not-applied".to_owned()));
    let back: fn(&mut Made) = |made| {
        made.ops[1].answered_us = 1_000;
        list(made, &[2]);
        list(made, &[1]);
        made.now_us = 2_000;
    };
    assert_eq!(list_after(back), ["read-went-back"]);
    let strange: fn(&mut Made) = |made| {
        let list = list(made, &[2]);
        let key = Key::new("kk", 8).expect("a key");
        let item = Item { key, version: v(5), value: None };
        list.items.as_mut().expect("items").push(item);
    };
    assert_eq!(list_after(strange), ["value-from-nowhere"]);
}

#[test]
fn a_refused_condition_must_name_a_version_that_was_given() {
    let refused = |standing: u64, unknown: bool| {
        let mut made = Made::new(Mode::Leader);
        made.put(1);
        if unknown {
            let put = made.put(2);
            (put.ended, put.version, put.status) = (Ended::Unknown, None, 504);
        }
        let put = made.put(3);
        (put.ended, put.status, put.if_absent) = (Ended::Failed, 412, true);
        put.version = Some(v(standing));
        made.readback(1);
        broken(made)
    };
    assert_eq!(refused(1, false), Vec::<String>::new());
    assert_eq!(refused(6, true), Vec::<String>::new());
    assert_eq!(refused(6, false), ["version-from-nowhere"]);
}

#[test]
fn a_version_names_one_write() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1).key = Key::new("other", 8).expect("a key");
    made.put(2).version = Some(v(1));
    assert_eq!(broken(made), ["version-used-twice"]);
}

#[test]
fn a_stale_read_is_as_old_as_the_newest_write_it_missed() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.put(2).answered_us = 30;
    for invoked_us in [130, 40, 1_030] {
        let read = made.get(1);
        (read.level, read.invoked_us, read.answered_us) =
            (Level::Local, invoked_us, invoked_us + 5);
    }
    let read = made.get(2);
    (read.level, read.invoked_us, read.answered_us) = (Level::Local, 2_000, 2_001);
    made.now_us = 3_000;
    made.readback(2);
    let findings = made.check();
    let stale = only(&findings, "stale-read", "local");
    assert_eq!((stale.examined, stale.found), (4, 3));
    assert_eq!(stale.age, Some(Age { median_us: 100, max_us: 1_000 }));
    assert!(stale.examples[0].contains("10 µs after"), "{:?}", stale.examples);
    assert_eq!(only(&findings, "stale-read", "quorum").age, None);
}
