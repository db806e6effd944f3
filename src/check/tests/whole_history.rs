//! Hand-made histories, good and bad, for every check that is a plain pass.

use super::made::{Made, broken, only, v};
use crate::check::*;
use crate::history::Served;

#[test]
fn a_history_in_which_everything_went_well_breaks_nothing() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.get(0);
        made.put(1);
        made.get(1);
        made.put(2);
        made.get(2);
        made.readback(2);
        let findings = made.check();
        assert!(findings.iter().all(|f| !f.is_broken() && !f.is_unverified()), "{findings:#?}");
        for name in ["lost-write", "value-from-nowhere", "stale-read", "shown-after-not-applied"] {
            let examined: u64 =
                findings.iter().filter(|f| f.check == name).map(|f| f.examined).sum();
            assert!(examined > 0, "{name} looked at nothing");
        }
    }
}

#[test]
fn an_acknowledged_write_that_is_gone_at_the_end_is_lost() {
    for mode in Mode::ALL {
        for shown in [0, 1] {
            let mut made = Made::new(mode);
            made.put(1);
            made.put(2);
            made.readback(shown);
            assert!(broken(made).contains(&"lost-write".to_owned()), "{mode}: shows {shown}");
        }
    }
}

#[test]
fn a_newer_write_hides_an_acknowledged_one_rightly_even_if_its_own_outcome_is_unknown() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    let newer = made.put(2);
    (newer.ended, newer.version, newer.status) = (Ended::Unknown, None, 504);
    made.readback(2);
    assert_eq!(broken(made), Vec::<String>::new());
}

#[test]
fn a_write_that_was_never_acknowledged_may_be_gone() {
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    let newer = made.put(2);
    (newer.ended, newer.version, newer.status) = (Ended::Unknown, None, 504);
    made.readback(1);
    assert_eq!(broken(made), Vec::<String>::new());
}

#[test]
fn a_delete_explains_a_key_that_is_gone_only_if_it_may_be_newer() {
    let with_delete = |change: fn(&mut Op)| {
        let mut made = Made::new(Mode::Leader);
        made.put(5);
        change(made.op(3, Action::Delete, 1));
        made.readback(0);
        broken(made)
    };
    assert_eq!(with_delete(|op| op.version = Some(v(6))), Vec::<String>::new());
    assert_eq!(with_delete(|op| op.ended = Ended::Unknown), Vec::<String>::new());
    assert_eq!(with_delete(|op| op.ended = Ended::Failed), ["lost-write", "stale-read"]);
    assert_eq!(with_delete(|op| op.version = Some(v(4))), ["lost-write", "stale-read"]);
}

#[test]
fn a_key_that_could_not_be_read_back_is_unverified_not_kept() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    made.readback(1).ended = Ended::Failed;
    let findings = made.check();
    let lost = only(&findings, "lost-write", "linearizable");
    assert!(lost.is_unverified() && !lost.is_broken());
    let mut local_only = Made::new(Mode::Leader);
    local_only.put(1);
    local_only.readback(1).level = Level::Local;
    assert!(only(&local_only.check(), "lost-write", "linearizable").is_unverified());
}

#[test]
fn a_value_that_nobody_wrote_comes_from_nowhere() {
    let nowhere = vec!["value-from-nowhere".to_owned()];
    let mut never = Made::new(Mode::Leader);
    never.put(1);
    never.get(7);
    assert_eq!(broken(never), nowhere);

    let mut foreign = Made::new(Mode::Leaderless);
    foreign.put(1);
    foreign.get(1).value = Some(Value::Foreign("garbage".to_owned()));
    assert_eq!(broken(foreign), nowhere);

    let mut other_key = Made::new(Mode::Leader);
    other_key.put(1).key = Key::new("other", 8).expect("a key");
    other_key.get(1);
    other_key.readback(1).key = Key::new("other", 8).expect("a key");
    assert_eq!(broken(other_key), nowhere);

    let mut future = Made::new(Mode::Leader);
    future.get(1);
    future.put(1);
    future.readback(1);
    assert_eq!(broken(future), nowhere);
}

#[test]
fn a_read_while_its_write_is_under_way_is_fine() {
    let mut made = Made::new(Mode::Leader);
    made.put(1).answered_us = 1_000;
    made.get(1);
    made.now_us = 2_000;
    made.readback(1);
    assert_eq!(broken(made), Vec::<String>::new());
}

#[test]
fn a_write_answered_not_applied_must_never_show_at_any_level() {
    for level in [Level::Local, Level::Linearizable] {
        let mut made = Made::new(Mode::Leader);
        let failed = made.put(1);
        (failed.ended, failed.version, failed.status) = (Ended::Failed, None, 503);
        made.get(1).level = level;
        assert_eq!(broken(made), ["shown-after-not-applied"]);
    }
}

#[test]
fn a_write_that_shows_under_two_versions_was_applied_twice() {
    let mut acknowledged = Made::new(Mode::Leader);
    acknowledged.put(1);
    acknowledged.get(1).version = Some(v(3));
    assert_eq!(broken(acknowledged), ["applied-twice"]);

    let mut unknown = Made::new(Mode::Leaderless);
    let put = unknown.put(1);
    (put.ended, put.version) = (Ended::Unknown, None);
    unknown.get(1);
    unknown.get(1).version = Some(v(3));
    assert_eq!(broken(unknown), ["applied-twice"]);
}

#[test]
fn a_stale_read_breaks_a_promise_only_where_freshness_is_promised() {
    let stale = |mode, change: fn(&mut Op)| {
        let mut made = Made::new(mode);
        made.put(1);
        made.put(2);
        change(made.get(1));
        made.readback(2);
        let findings = made.check();
        let total: u64 = findings.iter().filter(|f| f.check == "stale-read").map(|f| f.found).sum();
        (total, findings.iter().any(|f| f.check == "stale-read" && f.is_broken()))
    };
    assert_eq!(stale(Mode::Leader, |_| ()), (1, true));
    assert_eq!(stale(Mode::Leader, |op| op.level = Level::Local), (1, false));
    assert_eq!(stale(Mode::Leader, |op| op.level = Level::Lease), (1, true));
    assert_eq!(stale(Mode::Leaderless, |_| ()), (1, true));
    assert_eq!(stale(Mode::Leaderless, |op| op.r = Some(1)), (1, false));
    assert_eq!(stale(Mode::Leaderless, |op| op.level = Level::Local), (1, false));
    assert_eq!(
        stale(Mode::Leaderless, |op| {
            op.served = Some(Served(EffectiveLevel::Eventual { r: 1, w: 2, n: 3 }));
            op.r = Some(1);
        }),
        (1, false)
    );
    assert_eq!(
        stale(Mode::Leaderless, |op| {
            op.served = Some(Served(EffectiveLevel::Quorum { r: 2, w: 2, n: 3 }));
        }),
        (1, true)
    );
}

#[test]
fn a_read_that_began_before_the_write_was_acknowledged_may_miss_it() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    made.put(2).answered_us = 1_000;
    made.get(1);
    made.now_us = 2_000;
    made.readback(2);
    assert_eq!(broken(made), Vec::<String>::new());
}

#[test]
fn a_read_in_the_microsecond_of_an_acknowledgement_is_stale_only_for_the_writer_itself() {
    let stale = |reader| {
        let mut made = Made::new(Mode::Leaderless);
        made.put(1);
        made.put(2);
        made.now_us -= 5;
        made.get(1).client = reader;
        made.readback(2);
        broken(made).contains(&"stale-read".to_owned())
    };
    assert!(stale(1), "the writer asks after it was answered");
    assert!(!stale(2), "another client may have asked a moment before");
}

#[test]
fn a_client_that_saw_a_write_under_way_must_not_lose_sight_of_it() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        // Not acknowledged until the end, so that no read is stale; but the second goes back.
        made.put(2).answered_us = 1_000;
        made.get(2);
        made.get(1);
        made.now_us = 2_000;
        made.readback(2);
        assert_eq!(broken(made), ["read-went-back"], "{mode}");
    }
}

#[test]
fn going_back_across_nodes_is_promised_in_leader_mode_and_counted_in_leaderless() {
    let across = |mode| {
        let mut made = Made::new(mode);
        made.put(1);
        made.put(2).answered_us = 1_000;
        made.get(2).node = 2;
        made.get(1).node = 3;
        made.now_us = 2_000;
        made.readback(2);
        made.check()
    };
    let leader = across(Mode::Leader);
    assert!(only(&leader, "read-went-back", "linearizable").is_broken());
    let leaderless = across(Mode::Leaderless);
    let counted = only(&leaderless, "read-went-back", "quorum, any coordinator");
    assert_eq!((counted.found, counted.promised), (1, false));
    assert!(leaderless.iter().all(|f| !f.is_broken()), "{leaderless:#?}");
}

#[test]
fn going_back_at_a_weak_level_is_counted_and_does_not_bind_quorum_reads() {
    let mut local = Made::new(Mode::Leaderless);
    local.put(1);
    local.put(2).answered_us = 1_000;
    // A local read shows a write that no quorum holds yet; the quorum read after it need not.
    local.get(2).level = Level::Local;
    local.get(1);
    local.get(1).level = Level::Local;
    local.now_us = 2_000;
    local.readback(2);
    let findings = local.check();
    assert!(findings.iter().all(|f| !f.is_broken()), "{findings:#?}");
    assert_eq!(only(&findings, "read-went-back", "local").found, 1);
}

#[test]
fn a_bounded_read_must_show_what_was_acknowledged_longer_ago_than_its_bound() {
    let read = |bound_ms, later_us, staleness_ms| {
        let mut made = Made::new(Mode::Leader);
        made.put(1);
        let acknowledged_us = made.put(2).answered_us;
        let read = made.get(1);
        (read.level, read.max_staleness_ms) = (Level::Local, Some(bound_ms));
        read.served = Some(Served(EffectiveLevel::LocalWithin { staleness_ms }));
        read.invoked_us = acknowledged_us + later_us;
        read.answered_us = read.invoked_us + 1;
        broken(made)
    };
    let none = Vec::<String>::new();
    assert_eq!(read(2, 2_000, 1), none, "no longer ago than the bound");
    assert_eq!(read(2, 2_001, 1), ["staleness-bound"]);
    assert_eq!(read(2, 100, 3), ["level-not-served"], "further behind than was asked for");
}

#[test]
fn a_level_that_was_asked_for_and_not_served_is_a_broken_promise() {
    let mut made = Made::new(Mode::Leader);
    made.put(1);
    made.get(1).served = Some(Served(EffectiveLevel::Local));
    assert_eq!(broken(made), ["level-not-served"]);
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.get(1).served = Some(Served(EffectiveLevel::Eventual { r: 2, w: 2, n: 3 }));
    assert_eq!(broken(made), ["level-not-served"]);
    let mut made = Made::new(Mode::Leaderless);
    made.put(1);
    made.get(1).served = Some(Served(EffectiveLevel::Quorum { r: 1, w: 2, n: 3 }));
    assert_eq!(broken(made), ["level-not-served"], "quorums that need not meet");
    let mut on_purpose = Made::new(Mode::Leaderless);
    on_purpose.put(1);
    let read = on_purpose.get(1);
    (read.r, read.served) = (Some(1), Some(Served(EffectiveLevel::Eventual { r: 1, w: 2, n: 3 })));
    on_purpose.readback(1);
    assert_eq!(broken(on_purpose), Vec::<String>::new());
}
