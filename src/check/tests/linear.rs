//! Linearizability by hand: what a register may do, and the classic ways in which a store does not.

use super::made::{Made, named, only, v};
use crate::check::linearizability::{self, Answer, Budget};
use crate::check::*;
use crate::history::Item;

/// Sets when an operation was asked and answered.
fn at(op: &mut Op, invoked_us: u64, answered_us: u64) -> &mut Op {
    (op.invoked_us, op.answered_us) = (invoked_us, answered_us);
    op
}

fn unknown(op: &mut Op) -> &mut Op {
    (op.ended, op.version, op.status) = (Ended::Unknown, None, 504);
    op
}

fn refused(op: &mut Op, standing: Option<u64>) -> &mut Op {
    (op.ended, op.version, op.status) = (Ended::Failed, standing.map(v), 412);
    op
}

#[track_caller]
fn assert_answer(make: impl Fn(&mut Made), expected: Answer) {
    let mut made = Made::new(Mode::Leader);
    make(&mut made);
    let judged = linearizability::judge(&made.history(), Budget::DEFAULT);
    let answers: Vec<Answer> = judged.into_iter().map(|key| key.answer).collect();
    assert_eq!(answers, [expected]);
}

#[track_caller]
fn good(make: impl Fn(&mut Made)) {
    assert_answer(make, Answer::Linearizable);
}

#[track_caller]
fn bad(make: impl Fn(&mut Made)) {
    assert_answer(make, Answer::NotLinearizable);
}

#[test]
fn a_read_after_a_newer_read_must_not_show_the_older_value() {
    let reads = |first: u32, second: u32| {
        move |made: &mut Made| {
            at(made.put(1), 10, 15);
            at(made.put(2), 20, 90);
            at(made.get(first), 30, 35);
            at(made.get(second), 40, 45).client = 3;
        }
    };
    good(reads(1, 2));
    good(reads(2, 2));
    bad(reads(2, 1));
}

#[test]
fn a_read_at_the_same_time_as_a_newer_read_may_show_the_older_value() {
    good(|made| {
        at(made.put(1), 10, 15);
        at(made.put(2), 20, 90);
        at(made.get(2), 30, 45);
        at(made.get(1), 35, 50).client = 3;
    });
}

#[test]
fn a_stale_read_and_one_from_the_future_are_not_linearizable() {
    bad(|made| {
        made.put(1);
        made.put(2);
        made.get(1);
    });
    bad(|made| {
        made.get(1);
        made.put(1);
    });
    bad(|made| {
        made.put(1);
        made.get(0);
    });
    bad(|made| {
        made.put(1);
        made.get(7);
    });
}

#[test]
fn a_write_that_failed_must_not_be_seen() {
    let failed = |shown: u32| {
        move |made: &mut Made| {
            made.put(1);
            let put = made.put(2);
            (put.ended, put.version, put.status) = (Ended::Failed, None, 503);
            made.get(shown);
        }
    };
    good(failed(1));
    bad(failed(2));
}

#[test]
fn an_unknown_write_happens_once_at_any_later_time_or_never() {
    let shows = |shown: &'static [u32]| {
        move |made: &mut Made| {
            made.put(1);
            unknown(made.put(2));
            for seq in shown {
                made.get(*seq);
            }
        }
    };
    good(shows(&[1, 1, 1]));
    good(shows(&[1, 1, 2]));
    good(shows(&[2, 2, 2]));
    bad(shows(&[1, 2, 1]));
    bad(shows(&[1, 2, 1, 2]));
}

#[test]
fn an_unknown_write_that_happens_late_hides_a_write_acknowledged_after_it() {
    good(|made| {
        unknown(made.put(1));
        made.put(2);
        made.get(2);
        made.get(1);
    });
    bad(|made| {
        unknown(made.put(1));
        made.put(2);
        made.get(1);
        made.get(2);
    });
}

#[test]
fn unknown_deletes_explain_as_many_disappearances_as_there_are() {
    let disappears = |deletes: usize| {
        move |made: &mut Made| {
            for _ in 0..deletes {
                unknown(made.op(4, Action::Delete, 1));
            }
            made.put(1);
            made.get(0);
            made.put(2);
            made.get(0);
        }
    };
    bad(disappears(1));
    good(disappears(2));
    // One that was asked for later cannot have happened before.
    bad(|made| {
        made.put(1);
        made.get(0);
        unknown(made.op(4, Action::Delete, 1));
    });
}

#[test]
fn a_write_shows_under_one_version() {
    bad(|made| {
        made.put(1);
        made.get(1).version = Some(v(9));
    });
    bad(|made| {
        unknown(made.put(1));
        made.get(1).version = Some(v(8));
        made.get(1).version = Some(v(9));
    });
}

#[test]
fn two_updates_of_one_version_are_not_linearizable() {
    let updates = |wanted: u64| {
        move |made: &mut Made| {
            made.put(1);
            made.put(2).if_match = Some(v(1));
            made.put(3).if_match = Some(v(wanted));
        }
    };
    good(updates(2));
    bad(updates(1));
}

#[test]
fn creating_what_is_there_is_not_linearizable() {
    let create = |deleted: bool| {
        move |made: &mut Made| {
            made.put(1);
            if deleted {
                unknown(made.op(3, Action::Delete, 1));
            }
            made.put(2).if_absent = true;
        }
    };
    good(create(true));
    bad(create(false));
}

#[test]
fn a_refused_condition_saw_what_stood_there() {
    let update = |standing: Option<u64>| {
        move |made: &mut Made| {
            made.put(1);
            made.put(2);
            refused(made.put(3), standing).if_match = Some(v(1));
        }
    };
    good(update(Some(2)));
    good(update(None));
    bad(update(Some(1)));
    bad(update(Some(7)));
    let create = |puts: u32| {
        move |made: &mut Made| {
            for seq in 1..=puts {
                made.put(seq);
            }
            refused(made.put(9), None).if_absent = true;
        }
    };
    good(create(1));
    bad(create(0));
    // Refused because of the very version it asked for.
    bad(|made| {
        made.put(1);
        refused(made.put(2), None).if_match = Some(v(1));
    });
    // Something was there: the write that nobody ever saw.
    good(|made| {
        unknown(made.put(1));
        refused(made.put(2), Some(77)).if_absent = true;
        made.put(3).if_match = Some(v(77));
    });
    bad(|made| {
        unknown(made.put(1));
        refused(made.put(2), Some(77)).if_absent = true;
        made.put(3).if_match = Some(v(78));
    });
}

#[test]
fn a_chain_of_unknown_conditional_writes_can_explain_what_is_there() {
    good(|made| {
        made.put(1);
        unknown(made.op(3, Action::Delete, 1)).if_match = Some(v(1));
        unknown(made.put(2)).if_absent = true;
        refused(made.put(3), Some(50)).if_absent = true;
    });
}

#[test]
fn a_list_reads_every_key_up_to_where_it_ended() {
    let list = |items: &'static [u32], more: bool, prefix: &'static str| {
        move |made: &mut Made| {
            made.put(1);
            let list = made.op(2, Action::List, 1);
            list.key = Key::new(prefix, 8).expect("a key");
            let item = |seq: &u32| Item {
                key: Key::new(if *seq == 9 { "j" } else { "k" }, 8).expect("a key"),
                version: v(u64::from(*seq)),
                value: None,
            };
            list.items = Some(items.iter().map(item).collect());
            list.more = more;
        }
    };
    good(list(&[1], false, "k"));
    bad(list(&[2], false, "k"));
    bad(list(&[], false, "k"));
    good(list(&[], true, "k"));
    good(list(&[], false, "kk"));
}

#[test]
fn weaker_reads_take_no_part() {
    good(|made| {
        made.put(1);
        made.put(2);
        made.get(1).level = Level::Local;
    });
    bad(|made| {
        made.put(1);
        made.put(2);
        made.get(1).level = Level::Lease;
    });
}

#[test]
fn it_is_promised_in_leader_mode_counted_in_leaderless_mode_and_explained() {
    for mode in Mode::ALL {
        let mut made = Made::new(mode);
        made.put(1);
        at(made.put(2), 30, 900);
        at(made.get(2), 40, 45);
        at(made.get(1), 50, 55).client = 7;
        made.now_us = 1_000;
        made.get(2);
        let findings = made.check();
        let finding = only(&findings, "linearizability", Level::default_for(mode).as_str());
        assert_eq!((finding.examined, finding.found), (1, 1));
        assert_eq!(finding.is_broken(), mode == Mode::Leader);
        let example = &finding.examples[0];
        assert!(example.contains("first 4 operations on k"), "{example}");
        assert!(example.contains("client 7 read value 1-1"), "{example}");
    }
}

#[test]
fn what_the_budget_does_not_suffice_for_is_undecided_and_unverified() {
    let hard = || {
        let mut made = Made::new(Mode::Leader);
        for seq in 1..=12 {
            at(made.put(seq), 10, 500).client = seq;
        }
        // Who created what, in an order that the versions do not tell.
        for seq in 20..32 {
            let put = at(made.put(seq), 10, 500);
            (put.client, put.version) = (seq, None);
            at(made.get(seq), 11, 501).version = None;
        }
        // One value is there twice.
        at(made.put(50), 600, 601);
        at(made.get(20), 700, 701).version = None;
        made.history()
    };
    let small = Budget { steps_per_key: 3, steps: 3 };
    let finding = linearizability::check(&hard(), small);
    assert!(finding.is_unverified() && !finding.is_broken(), "{finding:?}");
    assert_eq!((finding.examined, finding.found, finding.unverified), (1, 0, 1));
}

#[test]
fn values_written_twice_cannot_be_judged() {
    assert_answer(
        |made| {
            made.put(1);
            made.put(2).value = Some(named(1));
            made.get(1);
        },
        Answer::Undecided,
    );
}

#[test]
fn keys_are_judged_alike_on_one_processor_and_on_many() {
    let mut made = Made::new(Mode::Leader);
    for number in 0..4_000_u32 {
        let key = Key::new(&format!("key-{}", number % 1_000), 32).expect("a key");
        made.put(number + 1).key = key.clone();
        // Each seventh key shows the value before.
        let stale = number % 7_000 % 7 == 0 && number >= 1_000;
        let get = made.get(if stale { number + 1 - 1_000 } else { number + 1 });
        get.key = key.clone();
        for _ in 0..4 {
            made.op(5, Action::Get, 1).key = Key::new("never written", 32).expect("a key");
        }
    }
    let history = made.history();
    assert!(history.ops.len() > 20_000, "too small for several threads");
    let finding = linearizability::check(&history, Budget::DEFAULT);
    let alone: u64 = cut::by_key(&history)
        .iter()
        .map(|(key, ops)| linearizability::check(&cut::of_key(&history, key, ops), Budget::DEFAULT))
        .map(|finding| finding.found)
        .sum();
    assert_eq!((finding.examined, finding.unverified), (1_001, 0));
    assert!(alone > 100, "{alone}");
    assert_eq!(finding.found, alone);
}
